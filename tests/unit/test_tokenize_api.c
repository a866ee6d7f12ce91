// quern_tokenizer_*: the public functions as a host uses them.
#include <stdlib.h>
#include <string.h>

#include "frontend/quern.h"
#include "tests/support/test.h"

#define NANO QUERN_SOURCE_DIR "/models/nano/nano.gguf"

static quern_tokenizer *open_nano(void) {
  quern_tokenizer *tokenizer;
  quern_error error;
  ck_assert_msg(quern_tokenizer_open(NANO, &tokenizer, &error) == 0, "%s", error.text);
  ck_assert(error.code == 0 && error.text[0] == 0);
  return tokenizer;
}

START_TEST(there_and_back) {
  quern_tokenizer *t = open_nano();
  int32_t tokens[64];
  char text[64];
  size_t count, length;
  ck_assert_str_eq(quern_tokenizer_kind(t), "bpe");
  ck_assert_int_eq(quern_tokenizer_count(t), 512);
  ck_assert_int_eq(quern_tokenizer_encode(t, "Once upon", 9, 0, tokens, 64, &count, NULL), 0);
  ck_assert_int_eq(quern_tokenizer_decode(t, tokens, count, 0, text, sizeof text, &length, NULL), 0);
  ck_assert(length == 9 && memcmp(text, "Once upon", 9) == 0);
  const char *piece = quern_tokenizer_piece(t, tokens[0], &length);
  ck_assert(length > 0 && memcmp(piece, "Once upon", length) == 0);
  ck_assert_ptr_null(quern_tokenizer_piece(t, 512, &length));
  ck_assert_uint_eq(length, 0);
  quern_tokenizer_close(t);
  quern_tokenizer_close(NULL);
}
END_TEST

START_TEST(errors) {
  quern_tokenizer *t = open_nano(), *none;
  quern_error error;
  int32_t tokens[64] = {7};
  char text[4] = "abc";
  size_t count, length;
  ck_assert_int_eq(quern_tokenizer_encode(t, "Once upon", 9, 0, tokens, 0, &count, &error), QUERN_ERR_LIMIT);
  ck_assert(count > 1 && tokens[0] == 7 && strstr(error.text, "tokenizer: got room for 0 tokens, want ") != NULL);
  ck_assert_int_eq(quern_tokenizer_encode(t, "Once upon", 9, 0, tokens, 64, &count, &error), 0);
  ck_assert_int_eq(quern_tokenizer_decode(t, tokens, count, 0, text, 4, &length, &error), QUERN_ERR_LIMIT);
  ck_assert(length == 9 && strcmp(text, "abc") == 0 && strstr(error.text, "got room for 4 bytes, want 9") != NULL);
  tokens[0] = 512;
  ck_assert_int_eq(quern_tokenizer_decode(t, tokens, 1, 0, text, 4, &length, &error), QUERN_ERR_ARGUMENT);
  ck_assert_int_eq(quern_tokenizer_open("/no/such/file", &none, &error), QUERN_ERR_IO);
  ck_assert(none == NULL && strstr(error.text, "/no/such/file") != NULL);
  quern_tokenizer_close(t);
}
END_TEST

QN_CASE(api, there_and_back, errors)
QN_TEST_MAIN(api)
