// Fuzzes key files of signatures: any text is refused with words that name the file, or is a key.
#include <stdlib.h>
#include <string.h>

#include "runtime/signature.h"
#include "tests/support/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint8_t key[QN_ART_KEY_BYTES];
  qn_signing_key secret;
  char *text = malloc(size + 1);
  fuzz_require(text != NULL, "out of memory");
  if (size > 0) memcpy(text, data, size);
  text[size] = '\0';
  for (int kind = 0; kind < 2; kind++) {
    qn_diag diag = {0};
    qn_status status = kind ? qn_signing_key_parse("fuzz.pem", text, &secret, &diag)
                            : qn_public_key_parse("fuzz.pem", text, key, &diag);
    if (status == QN_OK) continue;
    fuzz_require(status == QN_ERR_FORMAT || status == QN_ERR_UNSUPPORTED, "an odd status");
    fuzz_require(diag.status == status && diag.text[0] != '\0', "an error without words");
  }
  free(text);
  return 0;
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  static const char *const seeds[] = {
      "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA7Bcr9lE+0sZ5n3s2cFZcXtuz0B0pZPQ3YJf3CwvNfzI=\n-----END PUBLIC KEY-----\n",
      "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIIM/5iQJI3udYuxnWHUgkR6adZzsHRl1W32pAbltyj1C\n"
      "-----END PRIVATE KEY-----\n"};
  for (size_t i = 0; i < QN_COUNT(seeds); i++) take(context, seeds[i], strlen(seeds[i]));
}

static const char *const words[] = {"-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----", "=", "\r\n", "MCowBQYDK2Vw",
                                    "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", NULL};

QN_FUZZ_MAIN(words, 50000)
