// tokenizer.model and folders: what their fields become, and every error with its place.
#include <stdio.h>
#include <stdlib.h>

#include "frontend/import/json.h"
#include "frontend/import/vocab_folder.h"
#include "runtime/base/file.h"
#include "tests/support/test.h"

// ---- a protobuf by hand --------------------------------------------------------------------------------------------

static void put_varint(qn_buf *out, uint64_t value) {
  for (; value >= 128; value >>= 7) qn_buf_putc(out, (char)(0x80 | (value & 0x7F)));
  qn_buf_putc(out, (char)value);
}

static void put_number(qn_buf *out, unsigned field, uint64_t value) {
  put_varint(out, field << 3);
  put_varint(out, value);
}

static void put_bytes(qn_buf *out, unsigned field, const void *data, size_t size) {
  put_varint(out, field << 3 | 2);
  put_varint(out, size);
  qn_buf_append(out, data, size);
}

static void put_piece(qn_buf *out, const char *text, float score, int type) {
  qn_buf piece;
  qn_buf_init(&piece, qn_allocator_default());
  put_bytes(&piece, 1, text, strlen(text));
  put_varint(&piece, 2 << 3 | 5);
  qn_buf_append(&piece, &score, sizeof score);
  if (type != 1) put_number(&piece, 3, (uint64_t)type);
  put_bytes(out, 1, piece.data, piece.length);
  qn_buf_deinit(&piece);
}

// Pieces of a model of this type; `odd_field` of the trainer's or the normaliser's is set to `odd_value`.
static void put_model(qn_buf *out, int type, unsigned message, unsigned odd_field, uint64_t odd_value) {
  put_piece(out, "<unk>", 0, 2);
  put_piece(out, "<s>", 0, 3);
  put_piece(out, "</s>", 0, 3);
  put_piece(out, "a", -1, 1);
  put_piece(out, "<x>", -2, 4);
  put_piece(out, "<0x41>", 0, 6);
  for (unsigned m = 2; m <= 3; m++) {
    qn_buf spec;
    qn_buf_init(&spec, qn_allocator_default());
    if (m == 2) put_number(&spec, 3, (uint64_t)type);
    if (m == 3) put_bytes(&spec, 1, "identity", 8);
    if (m == message) put_number(&spec, odd_field, odd_value);
    put_bytes(out, m, spec.data, spec.length);
    qn_buf_deinit(&spec);
  }
}

typedef struct file {
  qn_arena arena;
  qn_tokenizer_desc desc;
  qn_diag diag;
} file;

static qn_status read_model(file *f, const qn_buf *model) {
  *f = (file){0};
  qn_arena_init(&f->arena, qn_test_allocator());
  return qn_vocab_from_sentencepiece(model->data, model->length, "t.model", &f->arena, &f->desc, &f->diag);
}

static void refuse(const qn_buf *model, qn_status status, const char *message) {
  file f;
  qn_assert_fails(&f.diag, status, message, read_model(&f, model));
  qn_arena_deinit(&f.arena);
}

START_TEST(sentencepiece_fields) {
  for (int type = 1; type <= 2; type++) {
    qn_buf model;
    file f;
    qn_buf_init(&model, qn_test_allocator());
    put_model(&model, type, 2, 43, (uint64_t)-1);  // pad_id is -1, in 64 bits
    ck_assert(qn_vocab_is_sentencepiece(model.data, model.length));
    qn_assert_ok(&f.diag, read_model(&f, &model));
    const qn_tokenizer_desc *d = &f.desc;
    ck_assert(d->kind == (type == 1 ? QN_TOKENIZER_UNIGRAM : QN_TOKENIZER_SPM) && d->single_precision == (type == 1));
    ck_assert(d->token_count == 6 && qn_str_is(d->tokens[3], "a") && d->scores[3] == -1);
    ck_assert(d->types[0] == QN_TOKEN_UNKNOWN && d->types[3] == QN_TOKEN_NORMAL && d->types[5] == QN_TOKEN_BYTE);
    ck_assert_int_eq(d->types[4], QN_TOKEN_USER_DEFINED | QN_TOKEN_NORMALIZED);
    ck_assert(d->unk == 0 && d->bos == 1 && d->eos == 2 && d->pad == -1);
    ck_assert(d->before_count == (type == 2) && d->after_count == (type == 1) && d->step_count == 5);
    qn_arena_deinit(&f.arena);
    qn_buf_deinit(&model);
  }
}
END_TEST

START_TEST(sentencepiece_errors) {
  const qn_status format = QN_ERR_FORMAT, unsupported = QN_ERR_UNSUPPORTED;
  const struct {
    int type;
    unsigned message, field;
    uint64_t value;
    const char *text;
  } odd[] = {{3, 0, 0, 0, "t.model: is a SentencePiece model of type WORD (3), want UNIGRAM or BPE"},
             {4, 0, 0, 0, "t.model: is a SentencePiece model of type CHAR (4)"},
             {9, 0, 0, 0, "t.model: is a SentencePiece model of type ? (9)"},
             {1, 2, 24, 1, "t.model: puts white space behind words, which is not supported"},
             {1, 3, 5, 0, "t.model: does not escape white space, which is not supported"}};
  for (size_t i = 0; i < QN_COUNT(odd); i++) {
    qn_buf model;
    qn_buf_init(&model, qn_test_allocator());
    put_model(&model, odd[i].type, odd[i].message, odd[i].field, odd[i].value);
    refuse(&model, unsupported, odd[i].text);
    qn_buf_deinit(&model);
  }
  static const struct {
    const char *bytes;
    size_t size;
    const char *text;
  } broken[] = {{"", 0, "t.model: not a SentencePiece model: it has no pieces"},
                {"\x80", 1, "t.model: byte 1: not a SentencePiece model: it ends within a number"},
                {"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 11, "a number has more than 64 bits"},
                {"\x02\x00", 2, "a field has number 0"},
                {"\x0b", 1, "a field has a wire type that is none"},
                {"\x0a\x05\x0a", 3, "a text or message ends beyond what holds it"},
                {"\x0d\x01\x02", 3, "it ends within a number"},
                {"\x08\x01", 2, "a field has another wire type than it should"},
                {"\x0a\x02\x18\x07", 4, "a piece has a type that is none"},
                {"\x0a\x02\x10\x00", 4, "a field has another wire type than it should"}};
  for (size_t i = 0; i < QN_COUNT(broken); i++) {
    const qn_buf model = {.data = (char *)(uintptr_t)broken[i].bytes, .length = broken[i].size};
    refuse(&model, format, broken[i].text);
  }
  ck_assert(!qn_vocab_is_sentencepiece("{\"a\": 1}", 8) && !qn_vocab_is_sentencepiece("", 0));
}
END_TEST

// ---- folders -----------------------------------------------------------------------------------------------------

static const char *folder;

static void put_file(const char *name, const void *data, size_t size) {
  char path[512];
  qn_file_writer writer;
  qn_diag diag = {0};
  snprintf(path, sizeof path, "%s/%s", folder, name);
  qn_assert_ok(&diag, qn_file_writer_open(&writer, path, &diag));
  qn_assert_ok(&diag, qn_file_writer_write(&writer, data, size));
  qn_assert_ok(&diag, qn_file_writer_commit(&writer));
}

static void put_text(const char *name, const char *text) { put_file(name, text, strlen(text)); }

static qn_status read_folder(file *f, int64_t vocab_size, bool *out_found) {
  *f = (file){0};
  qn_arena_init(&f->arena, qn_test_allocator());
  return qn_vocab_from_folder(folder, vocab_size, &f->arena, &f->desc, out_found, &f->diag);
}

static void refuse_folder(qn_status status, const char *message) {
  file f;
  size_t live = qn_test_allocator_memory()->live_blocks;
  qn_assert_fails(&f.diag, status, message, read_folder(&f, 0, NULL));
  qn_arena_deinit(&f.arena);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, live);
}

START_TEST(folder_with_json) {
  file f;
  bool found;
  folder = qn_test_temp_dir();
  qn_assert_ok(&f.diag, read_folder(&f, 0, &found));
  ck_assert(!found);
  qn_arena_deinit(&f.arena);
  refuse_folder(QN_ERR_UNSUPPORTED, "has neither tokenizer.json nor tokenizer.model");
  put_text("tokenizer.json",
           "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"<s>\": 0, \"</s>\": 1, \"a\": 2, \"<e>\": 3}, "
           "\"merges\": []}}");
  put_text("tokenizer_config.json",
           "{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"</s>\"}, \"pad_token\": null}");
  put_text("generation_config.json", "{\"eos_token_id\": [1, 3, 100]}");
  put_text("config.json", "{\"eos_token_id\": 0}");
  qn_assert_ok(&f.diag, read_folder(&f, 4, &found));
  const qn_tokenizer_desc *d = &f.desc;
  ck_assert(found && d->bos == 0 && d->eos == 1 && d->pad == -1 && d->end_count == 2 && d->ends[1] == 3);
  qn_arena_deinit(&f.arena);
  qn_assert_fails(&f.diag, QN_ERR_FORMAT,
                  "the tokenizer has 4 tokens, want at most 3, the rows of the model's embedding",
                  read_folder(&f, 3, NULL));
  qn_arena_deinit(&f.arena);
  put_text("generation_config.json", "{\"eos_token_id\": \"x\"}");
  refuse_folder(QN_ERR_FORMAT, "generation_config.json: eos_token_id: want a token id or a list of them");
  put_text("tokenizer_config.json", "{\"bos_token\": \"<b>\"}");
  refuse_folder(QN_ERR_FORMAT, "tokenizer_config.json: bos_token is '<b>', which is not in the vocabulary of 4 tokens");
  put_text("tokenizer_config.json", "{\"bos_token\": 5}");
  refuse_folder(QN_ERR_FORMAT, "tokenizer_config.json: bos_token: want a token's text");
  put_text("tokenizer_config.json", "[]");
  refuse_folder(QN_ERR_FORMAT, "tokenizer_config.json: want an object {...}");
  put_text("tokenizer_config.json", "{");
  refuse_folder(QN_ERR_FORMAT, "tokenizer_config.json: 1:2: not JSON");
}
END_TEST

START_TEST(folder_with_model) {
  file f;
  qn_buf model;
  folder = qn_test_temp_dir();
  qn_buf_init(&model, qn_test_allocator());
  put_model(&model, 2, 0, 0, 0);
  put_file("tokenizer.model", model.data, model.length);
  qn_buf_deinit(&model);
  put_text("special_tokens_map.json", "{\"eos_token\": \"<e>\", \"pad_token\": \"<unk>\"}");
  put_text("added_tokens.json", "{\"<e>\": 6}");
  qn_assert_ok(&f.diag, read_folder(&f, 0, NULL));
  const qn_tokenizer_desc *d = &f.desc;
  ck_assert(d->token_count == 7 && d->types[6] == QN_TOKEN_USER_DEFINED && d->eos == 6 && d->pad == 0);
  ck_assert(d->before_count == 1 && d->before[0] == 1 && d->after_count == 0);
  qn_arena_deinit(&f.arena);
  put_text(
      "tokenizer_config.json",
      "{\"add_bos_token\": false, \"add_eos_token\": true, \"added_tokens_decoder\": {\"1\": {\"content\": \"<s>\"}, "
      "\"8\": {\"content\": \"<e>\", \"special\": true, \"rstrip\": true}}}");
  qn_assert_ok(&f.diag, read_folder(&f, 0, NULL));
  ck_assert(d->token_count == 9 && d->types[8] == (QN_TOKEN_CONTROL | QN_TOKEN_TAKES_SPACE));
  ck_assert(d->tokens[7].length == 0 && d->types[1] == QN_TOKEN_CONTROL);
  ck_assert(d->before_count == 0 && d->after_count == 1 && d->after[0] == 8);
  qn_arena_deinit(&f.arena);
  put_text("tokenizer_config.json", "{\"added_tokens_decoder\": {\"3\": {\"content\": \"<e>\"}}}");
  refuse_folder(QN_ERR_FORMAT, "the added token '<e>' has the id 3 of 'a'");
  put_text("tokenizer_config.json", "{\"added_tokens_decoder\": {\"x\": {\"content\": \"<e>\"}}}");
  refuse_folder(QN_ERR_FORMAT, "tokenizer_config.json: added_tokens_decoder: 'x': want an id with {\"content\": ...}");
  put_text("tokenizer_config.json", "{\"added_tokens_decoder\": [{\"content\": \"<e>\"}]}");
  refuse_folder(QN_ERR_FORMAT, "tokenizer_config.json: added_tokens_decoder: want an object of ids");
  put_text("tokenizer_config.json", "{\"added_tokens_decoder\": {\"99999\": {\"content\": \"<e>\"}}}");
  refuse_folder(QN_ERR_FORMAT, "1 added tokens have ids up to 99999, the vocabulary has 6");
  put_text("tokenizer_config.json", "{}");
  put_text("added_tokens.json", "{\"<e>\": -1}");
  refuse_folder(QN_ERR_FORMAT, "added_tokens.json: '<e>': want a token id");
  put_text("added_tokens.json", "{\"<e>\": 6}");
  put_text("special_tokens_map.json", "{\"eos_token\": \"\"}");
  put_text("tokenizer_config.json", "{\"add_eos_token\": true}");
  refuse_folder(QN_ERR_FORMAT, "tokenizer_config.json: add_eos_token is true, but there is no such token");
}
END_TEST

// A file of so many of one character that it has more values than are read.
static void put_many(const char *name, const char *before, char each) {
  size_t length = strlen(before), size = length + QN_JSON_MOST_VALUES + 1;
  char *text = malloc(size);
  ck_assert_ptr_nonnull(text);
  memcpy(text, before, length);
  memset(text + length, each, size - length);
  put_file(name, text, size);
  free(text);
}

// vocab.txt: lines are tokens; what goes around a text, and whether case counts, is the class's to say.
START_TEST(folder_with_vocab_txt) {
  file f;
  folder = qn_test_temp_dir();
  put_text("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\r\nab\n##c\nab\n");
  refuse_folder(QN_ERR_UNSUPPORTED, "has no tokenizer.json but vocab.txt, of the tokenizer_class '' (model_type '')");
  put_text("config.json", "{\"model_type\": \"bert\"}");
  qn_assert_ok(&f.diag, read_folder(&f, 0, NULL));
  const qn_tokenizer_desc *d = &f.desc;
  ck_assert(d->token_count == 7 && d->unk == 1 && qn_str_is(d->tokens[5], "##c") && qn_str_is(d->tokens[6], "ab"));
  ck_assert(d->before_count == 1 && d->before[0] == 2 && d->after_count == 1 && d->after[0] == 3);
  ck_assert_int_eq(d->types[3], QN_TOKEN_CONTROL);
  qn_arena_deinit(&f.arena);
  put_text("tokenizer_config.json", "{\"tokenizer_class\": \"BertTokenizerFast\", \"cls_token\": \"<c>\"}");
  refuse_folder(QN_ERR_FORMAT, "cls_token is '<c>', which is not in the vocabulary of 6 tokens");
  put_text("tokenizer_config.json", "{\"added_tokens_decoder\": [{\"content\": \"x\"}]}");
  refuse_folder(QN_ERR_FORMAT, "added_tokens_decoder: want an object of ids");
  put_text("tokenizer_config.json", "{\"added_tokens_decoder\": {\"abc\": {\"content\": \"x\"}}}");
  refuse_folder(QN_ERR_FORMAT, "added_tokens_decoder: 'abc': want an id with");
  put_text("tokenizer_config.json", "{}");
  put_text("added_tokens.json", "{\"<x>\": 1e300}");
  refuse_folder(QN_ERR_FORMAT, "added_tokens.json: '<x>': want a text with its id");
  put_text("added_tokens.json", "{}");
  put_text("tokenizer_config.json", "{\"tokenizer_class\": \"OtherTokenizer\"}");
  refuse_folder(QN_ERR_UNSUPPORTED, "of the tokenizer_class 'OtherTokenizer' (model_type 'bert'), which is not known");
  put_text("tokenizer_config.json", "{}");
  put_many("vocab.txt", "", '\n');
  refuse_folder(QN_ERR_LIMIT, "vocab.txt: got 8388609 lines, want at most 8388608");
}
END_TEST

START_TEST(folder_with_merges) {
  file f;
  bool found = true;
  folder = qn_test_temp_dir();
  put_text("vocab.json", "{\"<s>\": 0, \"<pad>\": 1, \"</s>\": 2, \"<unk>\": 3, \"a\": 4, \"b\": 5, \"ab\": 6, \"<mask>\": 7}");
  qn_assert_ok(&f.diag, read_folder(&f, 0, &found));
  ck_assert(!found);  // half of it
  qn_arena_deinit(&f.arena);
  put_text("merges.txt", "#version: 0.2\na b\n");
  put_text("tokenizer_config.json", "{\"tokenizer_class\": \"RobertaTokenizer\"}");
  put_text("added_tokens.json", "{\"<x>\": 8}");
  qn_assert_ok(&f.diag, read_folder(&f, 0, NULL));
  const qn_tokenizer_desc *d = &f.desc;
  ck_assert(d->token_count == 9 && d->before[0] == 0 && d->after[0] == 2 && d->merge_count == 1);
  ck_assert(d->types[7] == (QN_TOKEN_CONTROL | QN_TOKEN_TAKES_BEFORE) && qn_str_is(d->tokens[8], "<x>"));
  qn_arena_deinit(&f.arena);
  put_text("tokenizer_config.json", "{\"tokenizer_class\": \"GPT2Tokenizer\"}");
  qn_assert_ok(&f.diag, read_folder(&f, 0, NULL));
  ck_assert(d->before_count == 0 && d->after_count == 0);
  qn_arena_deinit(&f.arena);
  put_text("vocab.json", "[1]");
  refuse_folder(QN_ERR_FORMAT, "vocab.json: is no JSON object of tokens and ids");
  put_text("vocab.json", "{\"a\": 0,\n \"b\" 1}");
  refuse_folder(QN_ERR_FORMAT, "vocab.json: 2:6: not JSON");
  put_many("vocab.json", "{", ',');
  refuse_folder(QN_ERR_LIMIT, "vocab.json: got more than 8388608 values");
  put_text("vocab.json", "{\"a\": 0}");
  put_many("merges.txt", "#version: 0.2\n", '\n');
  refuse_folder(QN_ERR_LIMIT, "merges.txt: got 8388610 lines, want at most 8388608");
}
END_TEST

static qn_status read_again(const qn_allocator *allocator, void *context) {
  (void)context;
  qn_arena arena;
  qn_tokenizer_desc desc;
  qn_diag diag = {0};
  qn_arena_init(&arena, allocator);
  qn_status status = qn_vocab_from_folder(folder, 0, &arena, &desc, NULL, &diag);
  qn_arena_deinit(&arena);
  return status;
}

START_TEST(allocations_may_fail) {
  qn_buf model;
  folder = qn_test_temp_dir();
  qn_buf_init(&model, qn_test_allocator());
  put_model(&model, 1, 0, 0, 0);
  put_file("tokenizer.model", model.data, model.length);
  qn_buf_deinit(&model);
  put_text("added_tokens.json", "{\"<e>\": 6}");
  put_text("config.json", "{\"eos_token_id\": [2, 6]}");
  qn_test_failing_allocations(read_again, NULL);
}
END_TEST

QN_CASE(sentencepiece, sentencepiece_fields, sentencepiece_errors)
QN_CASE(folders, folder_with_json, folder_with_model, folder_with_vocab_txt, folder_with_merges, allocations_may_fail)
QN_TEST_MAIN(sentencepiece, folders)
