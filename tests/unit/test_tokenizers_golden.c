// Tokenizers with the pipelines of real models (tests/golden/tokenizers, made by tests/support/reference_tokenizers.py)
// against the ids that the tokenizers and sentencepiece libraries give for 1,000 random texts each. Every tokenizer in
// the folder is tested: a new one needs no C.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "frontend/import/vocab_folder.h"
#include "runtime/base/file.h"
#include "tests/support/test.h"
#include "tests/support/token_golden.h"

#define FOLDER QUERN_SOURCE_DIR "/tests/golden/tokenizers/"

static qn_tokenizer *open_tokenizer(const char *file, bool model, qn_buf *blob) {
  const qn_allocator *allocator = qn_test_allocator();
  char path[512], *data;
  qn_arena arena;
  qn_tokenizer_desc desc;
  qn_tokenizer *tokenizer;
  qn_diag diag = {0};
  size_t size;
  snprintf(path, sizeof path, FOLDER "%s", file);
  qn_assert_ok(&diag, qn_file_read(path, QN_TEXT_MAX, allocator, &data, &size, &diag));
  ck_assert(qn_vocab_is_sentencepiece(data, size) == model);
  qn_arena_init(&arena, allocator);
  qn_buf_init(blob, allocator);
  qn_status status = model ? qn_vocab_from_sentencepiece(data, size, file, &arena, &desc, &diag)
                           : qn_vocab_from_json(data, size, file, &arena, &desc, &diag);
  qn_check(status == QN_OK, "%s", diag.text);
  qn_free(allocator, data, size + 1);
  qn_assert_ok(&diag, qn_tokenizer_serialize(&desc, allocator, blob, &diag));
  qn_arena_deinit(&arena);  // the blob stands alone
  qn_assert_ok(&diag, qn_tokenizer_open(blob->data, blob->length, allocator, &tokenizer, &diag));
  return tokenizer;
}

static void check_file(const char *file) {
  char path[512];
  qn_buf blob;
  const char *ending = strrchr(file, '.');
  bool model = strcmp(ending, ".model") == 0;
  qn_tokenizer *tokenizer = open_tokenizer(file, model, &blob);
  snprintf(path, sizeof path, FOLDER "%.*s.ids", (int)(ending - file), file);
  // SentencePiece makes no control tokens of a text.
  qn_token_golden_check(tokenizer, file, path, QN_ENCODE_SPECIAL | (model ? 0 : QN_ENCODE_PARSE_SPECIAL));
  qn_tokenizer_close(tokenizer);
  qn_buf_deinit(&blob);
}

static int is_tokenizer(const struct dirent *entry) {
  const char *ending = strrchr(entry->d_name, '.');
  return ending && (strcmp(ending, ".json") == 0 || strcmp(ending, ".model") == 0);
}

START_TEST(ids_of_random_texts) {
  struct dirent **files;
  int count = scandir(FOLDER, &files, is_tokenizer, alphasort);
  ck_assert_msg(count >= 20, "%d tokenizers", count);
  const char *only = getenv("QUERN_TOKENIZER");  // one of them by name
  for (int i = 0; i < count; i++) {
    if (!only || strncmp(files[i]->d_name, only, strlen(only)) == 0) check_file(files[i]->d_name);
    free(files[i]);
  }
  free(files);
}
END_TEST

QN_CASE(goldens, ids_of_random_texts)
QN_TEST_MAIN(goldens)
