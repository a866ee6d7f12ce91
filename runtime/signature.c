// Keys, and signing and checking by libsodium.
#include "runtime/signature.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

// --- libsodium, found at run time: who needs no signatures does not need it

#define LIBRARY "libsodium.so.23"

static struct {
  int (*init)(void);
  size_t (*state_bytes)(void);
  int (*begin)(void *state);
  int (*update)(void *state, const unsigned char *data, unsigned long long size);
  int (*create)(void *state, unsigned char *out, unsigned long long *out_size, const unsigned char *secret);
  int (*verify)(void *state, const unsigned char *signature, const unsigned char *public_key);
  int (*key_pair)(unsigned char *out_public, unsigned char *out_secret, const unsigned char *seed);
  void (*wipe)(void *data, size_t size);
} sodium;
static char failure[256];  // why it is not there; "" = it is

// What it keeps between calls, of which it says the size (some 200 bytes).
typedef struct sodium_state {
  _Alignas(64) uint8_t bytes[1024];
} sodium_state;

static void load(void) {
  const struct {
    const char *name;
    void *function;
  } names[] = {
      {"sodium_init", &sodium.init},
      {"crypto_sign_ed25519ph_statebytes", &sodium.state_bytes},
      {"crypto_sign_ed25519ph_init", &sodium.begin},
      {"crypto_sign_ed25519ph_update", &sodium.update},
      {"crypto_sign_ed25519ph_final_create", &sodium.create},
      {"crypto_sign_ed25519ph_final_verify", &sodium.verify},
      {"crypto_sign_ed25519_seed_keypair", &sodium.key_pair},
      {"sodium_memzero", &sodium.wipe},
  };
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *why = dlerror();
    snprintf(failure, sizeof failure, "%s", why ? why : LIBRARY);
    return;
  }
  for (size_t i = 0; i < QN_COUNT(names) && !*failure; i++) {
    void *address = dlsym(library, names[i].name);
    if (!address) snprintf(failure, sizeof failure, "%s has no function %s", LIBRARY, names[i].name);
    memcpy(names[i].function, &address, sizeof address);  // ISO C has no cast from an object's address to a function's
  }
  if (!*failure && (sodium.init() < 0 || sodium.state_bytes() > sizeof(sodium_state)))
    snprintf(failure, sizeof failure, "%s cannot be initialised", LIBRARY);
}

static qn_status need_sodium(qn_diag *diag) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, load);
  if (!*failure) return QN_OK;
  return qn_fail(diag, QN_ERR_UNSUPPORTED, "signature", "cannot be made or checked without libsodium: %s", failure);
}

// --- key files

enum { LARGEST_KEY_FILE = 64 << 10, MOST_DER = 128 };

// Everything before the key in DER, of which an Ed25519 key has one form (RFC 8410).
static const uint8_t private_head[] = {0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06,
                                       0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20};
static const uint8_t public_head[] = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};

static int base64_value(char c) {
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const char *at = c ? strchr(alphabet, c) : NULL;
  return at ? (int)(at - alphabet) : -1;
}

// The bytes between the lines of PEM; more than MOST_DER count as MOST_DER + 1.
static size_t decode_base64(const char *text, const char *end, uint8_t *out) {
  size_t count = 0;
  uint32_t bits = 0;
  int have = 0;
  for (; text < end && *text != '='; text++) {
    int value = base64_value(*text);
    if (value < 0) continue;  // line ends
    bits = bits << 6 | (uint32_t)value;
    have += 6;
    if (have < 8) continue;
    have -= 8;
    if (count == MOST_DER) return MOST_DER + 1;
    out[count++] = (uint8_t)(bits >> have);
  }
  return count;
}

static qn_status decode_key(const char *path, const char *text, const char *kind, const uint8_t *head, size_t head_size,
                            uint8_t out[QN_ART_KEY_BYTES], qn_diag *diag) {
  char begin[48], end[48];
  uint8_t der[MOST_DER];
  snprintf(begin, sizeof begin, "-----BEGIN %s-----", kind);
  snprintf(end, sizeof end, "-----END %s-----", kind);
  const char *from = strstr(text, begin), *to = from ? strstr(from, end) : NULL;
  if (!to) {
    return qn_fail(diag, QN_ERR_FORMAT, path, "got no lines '%s' and '%s', want a key as openssl writes it (PEM)",
                   begin, end);
  }
  size_t count = decode_base64(from + strlen(begin), to, der);
  bool fits = count == head_size + QN_ART_KEY_BYTES && memcmp(der, head, head_size) == 0;
  if (fits) memcpy(out, der + head_size, QN_ART_KEY_BYTES);
  explicit_bzero(der, sizeof der);
  if (fits) return QN_OK;
  return qn_fail(diag, QN_ERR_UNSUPPORTED, path,
                 "got another kind of key, want Ed25519 (openssl genpkey -algorithm ed25519)");
}

void qn_signing_key_wipe(qn_signing_key *key) { explicit_bzero(key, sizeof *key); }

qn_status qn_public_key_parse(const char *name, const char *text, uint8_t out[QN_ART_KEY_BYTES], qn_diag *diag) {
  return decode_key(name, text, "PUBLIC KEY", public_head, sizeof public_head, out, diag);
}

qn_status qn_signing_key_parse(const char *name, const char *text, qn_signing_key *out, qn_diag *diag) {
  uint8_t seed[QN_ART_KEY_BYTES];
  QN_TRY(need_sodium(diag));
  QN_TRY(decode_key(name, text, "PRIVATE KEY", private_head, sizeof private_head, seed, diag));
  int failed = sodium.key_pair(out->public_key, out->secret, seed);
  sodium.wipe(seed, sizeof seed);
  return failed ? qn_fail(diag, QN_ERR_FORMAT, name, "libsodium takes no such key") : QN_OK;
}

// Nothing of a key stays in memory that was freed.
static void free_key_text(char *text, size_t size, const qn_allocator *allocator) {
  explicit_bzero(text, size);
  qn_free(allocator, text, size + 1);
}

qn_status qn_signing_key_read(const char *path, const qn_allocator *allocator, qn_signing_key *out, qn_diag *diag) {
  char *text = NULL;
  size_t size = 0;
  QN_TRY(need_sodium(diag));
  QN_TRY(qn_file_read(path, LARGEST_KEY_FILE, allocator, &text, &size, diag));
  qn_status status = qn_signing_key_parse(path, text, out, diag);
  free_key_text(text, size, allocator);
  return status;
}

qn_status qn_public_key_read(const char *path, const qn_allocator *allocator, uint8_t out[QN_ART_KEY_BYTES],
                             qn_diag *diag) {
  char *text = NULL;
  size_t size = 0;
  QN_TRY(qn_file_read(path, LARGEST_KEY_FILE, allocator, &text, &size, diag));
  qn_status status = qn_public_key_parse(path, text, out, diag);
  free_key_text(text, size, allocator);
  return status;
}

// --- signing and checking

static qn_status begin(sodium_state *state, qn_diag *diag) {
  QN_TRY(need_sodium(diag));
  return sodium.begin(state) == 0 ? QN_OK : qn_fail(diag, QN_ERR_INTERNAL, "signature", "libsodium fails");
}

qn_status qn_signature_make(const qn_signing_key *key, const uint8_t *data, size_t size,
                            uint8_t out[QN_ART_SIGNATURE_BYTES], qn_diag *diag) {
  sodium_state state;
  QN_TRY(begin(&state, diag));
  if (sodium.update(&state, data, size) == 0 && sodium.create(&state, out, NULL, key->secret) == 0) return QN_OK;
  return qn_fail(diag, QN_ERR_INTERNAL, "signature", "libsodium fails");
}

const qn_art_signature *qn_signature_find(const qn_artifact *artifact) {
  size_t size = 0;
  const void *found = qn_artifact_section(artifact, QN_SECTION_SIGNATURE, 0, &size);
  return size == sizeof(qn_art_signature) ? found : NULL;
}

// The file with zeros in place of the signature.
static bool fits(void *state, const qn_artifact *a, const qn_art_signature *s) {
  static const uint8_t zeros[QN_ART_SIGNATURE_BYTES];
  size_t before = (size_t)(s->signature - a->mapping.data), after = before + sizeof zeros;
  return sodium.update(state, a->mapping.data, before) == 0 && sodium.update(state, zeros, sizeof zeros) == 0 &&
         sodium.update(state, a->mapping.data + after, a->mapping.size - after) == 0 &&
         sodium.verify(state, s->signature, s->public_key) == 0;
}

qn_status qn_signature_check(const qn_artifact *a, const uint8_t public_key[QN_ART_KEY_BYTES], qn_diag *diag) {
  const qn_art_signature *s = qn_signature_find(a);
  sodium_state state;
  if (!s) return qn_fail(diag, QN_ERR_FORMAT, a->path, "is not signed, want a signature (quern compile --sign KEY)");
  if (memcmp(s->public_key, public_key, QN_ART_KEY_BYTES) != 0) {
    return qn_fail(diag, QN_ERR_FORMAT, a->path,
                   "is signed by another key: got one that begins with %02x%02x%02x%02x, want %02x%02x%02x%02x",
                   s->public_key[0], s->public_key[1], s->public_key[2], s->public_key[3], public_key[0], public_key[1],
                   public_key[2], public_key[3]);
  }
  QN_TRY(begin(&state, diag));
  if (fits(&state, a, s)) return QN_OK;
  return qn_fail(diag, QN_ERR_FORMAT, a->path,
                 "the signature does not fit: the file was changed after it was signed");
}

qn_status qn_signature_demand(const qn_artifact *artifact, const char *key_path, const qn_allocator *allocator,
                              qn_diag *diag) {
  uint8_t key[QN_ART_KEY_BYTES];
  if (!key_path) return QN_OK;
  QN_TRY(qn_public_key_read(key_path, allocator, key, diag));
  return qn_signature_check(artifact, key, diag);
}
