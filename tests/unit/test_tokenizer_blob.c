// The tokenizer's blob: every error of writing and opening one, damage at every byte, allocations that fail.
#include <math.h>

#include "tests/unit/tokenizer_vocabulary.h"

// ---- writing -----------------------------------------------------------------------------------------------------

static void refuse(vocabulary *v, qn_status status, const char *text) {
  size_t live = qn_test_allocator_memory()->live_blocks;
  qn_buf blob;
  qn_buf_init(&blob, qn_test_allocator());
  qn_diag diag = {0};
  qn_assert_fails(&diag, status, text, qn_tokenizer_serialize(&v->desc, qn_test_allocator(), &blob, &diag));
  qn_buf_deinit(&blob);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, live);
  free(v);
}

START_TEST(serialize_errors) {
  vocabulary *v;
  v = spm_vocabulary(false), v->desc.kind = (qn_tokenizer_kind)7;
  refuse(v, QN_ERR_ARGUMENT, "vocabulary: kind is 7, want SPM or BPE");
  v = spm_vocabulary(false), v->desc.token_count = 0;
  refuse(v, QN_ERR_FORMAT, "vocabulary: has no tokens");
  v = spm_vocabulary(false), v->desc.token_count = (size_t)1 << 25;
  refuse(v, QN_ERR_LIMIT, "vocabulary: has 33554432 tokens and 0 merges, want at most 16777216");
  v = spm_vocabulary(false), v->desc.bos = 18;
  refuse(v, QN_ERR_FORMAT, "vocabulary: bos token id is 18, want -1 (none) or below 18");
  v = spm_vocabulary(false), v->desc.eom = -2;
  refuse(v, QN_ERR_FORMAT, "vocabulary: eom token id is -2, want -1 (none) or below 18");
  v = spm_vocabulary(false), v->desc.bos = -1, v->desc.add_bos = 1;
  refuse(v, QN_ERR_FORMAT, "vocabulary: add_bos is set, but there is no bos token");
  v = spm_vocabulary(false), v->desc.eos = -1, v->desc.add_eos = true;
  refuse(v, QN_ERR_FORMAT, "vocabulary: add_eos is set, but there is no eos token");
  v = spm_vocabulary(false), v->desc.scores = NULL;
  refuse(v, QN_ERR_FORMAT, "vocabulary: SPM needs scores, there are none");
  v = spm_vocabulary(false), v->scores[4] = NAN;
  refuse(v, QN_ERR_FORMAT, "vocabulary: the score of token 4 is nan, want a finite one");
  v = spm_vocabulary(false), v->types[5] = 7;
  refuse(v, QN_ERR_FORMAT, "vocabulary: token 5 has type 7, want 0 to 6");
  v = spm_vocabulary(false), v->types[5] = QN_TOKEN_BYTE;
  refuse(v, QN_ERR_FORMAT, "vocabulary: token 5 is of type byte, got 'b', want <0x00> to <0xFF>");
  v = bpe_vocabulary(), v->desc.pre = NULL;
  refuse(v, QN_ERR_ARGUMENT, "vocabulary: BPE needs a pre-tokenizer's name");
  v = bpe_vocabulary(), v->desc.pre = "gpt-9";
  refuse(v, QN_ERR_UNSUPPORTED, "tokenizer: pre-tokenizer 'gpt-9' is not known; known are: default gpt-2");
  v = bpe_vocabulary(), v->merges[3].right.length = 0;
  refuse(v, QN_ERR_FORMAT, "vocabulary: merge 3 has an empty side");
}
END_TEST

// ---- opening -----------------------------------------------------------------------------------------------------

static void store(qn_buf *blob, size_t at, uint32_t word) {
  for (int i = 0; i < 4; i++) blob->data[at + (size_t)i] = (char)(word >> (8 * i));
}
static uint32_t load(const qn_buf *blob, size_t word) { return qn_tok_load((const uint8_t *)blob->data, word); }

// Opens the blob with header word `word` replaced.
static void refuse_word(const vocabulary *v, qn_tok_word word, uint32_t value, qn_status status, const char *text) {
  size_t live = qn_test_allocator_memory()->live_blocks;
  qn_buf blob;
  qn_buf_init(&blob, qn_test_allocator());
  qn_diag diag = {0};
  qn_tokenizer *tokenizer;
  qn_assert_ok(&diag, qn_tokenizer_serialize(&v->desc, qn_test_allocator(), &blob, &diag));
  store(&blob, (size_t)word * 4, value);
  qn_assert_fails(&diag, status, text,
                  qn_tokenizer_open(blob.data, blob.length, qn_test_allocator(), &tokenizer, &diag));
  ck_assert_ptr_null(tokenizer);
  qn_buf_deinit(&blob);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, live);
}

// Opens the blob with a word of a section replaced.
static void refuse_item(const vocabulary *v, qn_tok_word section, size_t item, uint32_t value, const char *text) {
  qn_buf blob;
  qn_buf_init(&blob, qn_test_allocator());
  qn_diag diag = {0};
  qn_tokenizer *tokenizer;
  qn_assert_ok(&diag, qn_tokenizer_serialize(&v->desc, qn_test_allocator(), &blob, &diag));
  store(&blob, load(&blob, section) + item * 4, value);
  qn_assert_fails(&diag, QN_ERR_FORMAT, text,
                  qn_tokenizer_open(blob.data, blob.length, qn_test_allocator(), &tokenizer, &diag));
  qn_buf_deinit(&blob);
}

START_TEST(header_errors) {
  vocabulary *v = bpe_vocabulary();
  qn_tokenizer *tokenizer;
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_FORMAT, "tokenizer section: has 3 bytes, want at least",
                  qn_tokenizer_open("abc", 3, qn_test_allocator(), &tokenizer, &diag));
  const qn_status format = QN_ERR_FORMAT;
  refuse_word(v, QN_TOK_W_MAGIC, 1, format, "tokenizer section: starts with 0x00000001, want 0x4b544e51");
  refuse_word(v, QN_TOK_W_VERSION, 9, QN_ERR_UNSUPPORTED, "has version 9, this program reads 1; compile ");
  refuse_word(v, QN_TOK_W_SIZE, 9, format, "says it has 9 bytes, got ");
  refuse_word(v, QN_TOK_W_KIND, 3, format, "has kind 3, want 1 or 2");
  refuse_word(v, QN_TOK_W_FLAGS, 32, format, "has flags 0x20");
  refuse_word(v, QN_TOK_W_N_TOKENS, 0, format, "has 0 tokens, ");
  refuse_word(v, QN_TOK_W_N_SYMBOLS, 5, format, "266 tokens, 5 symbols");
  refuse_word(v, QN_TOK_W_N_SPECIALS, 267, format, "267 special tokens");
  refuse_word(v, QN_TOK_W_N_MERGES, 1u << 25, format, "33554432 merges");
  refuse_word(v, QN_TOK_W_PIECE_SLOTS, 0, format, "has hash tables of 0 and ");
  refuse_word(v, QN_TOK_W_PIECE_SLOTS, 24, format, "has hash tables of 24 and ");
  refuse_word(v, QN_TOK_W_MERGE_SLOTS, 3, format, " and 3 slots");
  refuse_word(v, QN_TOK_W_PROBES, 129, format, "and 129 probes");
  refuse_word(v, QN_TOK_W_EOS, 266, format, "the EOS token's id is 266, want below 266");
  refuse_word(v, QN_TOK_W_FLAGS, QN_TOK_ADD_BOS, format, "adds a BOS token and has none");
  refuse_word(v, QN_TOK_W_N_SYMBOLS, 0x40000000, format, "piece starts at byte ");
  refuse_word(v, QN_TOK_W_PIECES, 0xFFFFFFF0, format, "pieces at byte 4294967280 with ");
  refuse_word(v, QN_TOK_W_STARTS, 4, format, "piece starts at byte 4 with ");
  refuse_word(v, QN_TOK_W_PIECES_BYTES, 10, format, "piece 10 goes from byte 10 to 11 of 10");
  refuse_word(v, QN_TOK_WORDS, 0x41414141, QN_ERR_UNSUPPORTED, "pre-tokenizer 'AAAA");  // the name
  free(v);
}
END_TEST

START_TEST(section_errors) {
  vocabulary *v = bpe_vocabulary();
  refuse_item(v, QN_TOK_W_STARTS, 0, 1, "the first piece begins at 1, want 0");
  refuse_item(v, QN_TOK_W_STARTS, 2, 0, "piece 1 goes from byte 1 to 0 of ");
  refuse_item(v, QN_TOK_W_TYPES, 0, 0x07010101, "token 3 has type 7");
  refuse_item(v, QN_TOK_W_PIECE_TABLE, 1, 266, "piece table: item 1 is 266, want below 266");
  refuse_item(v, QN_TOK_W_MERGES, 2, 266, "merges: item 2 is 266, want below 266");
  refuse_item(v, QN_TOK_W_MERGE_TABLE, 0, 8, "merge table: item 0 is 8, want below 8");
  refuse_item(v, QN_TOK_W_BYTES, 7, QN_TOK_FREE, "byte symbols: item 7 is 4294967295, want below 266");
  refuse_item(v, QN_TOK_W_SPECIALS, 1, 266, "special tokens: item 1 is 266, want below 266");
  refuse_item(v, QN_TOK_W_SPECIALS, 0, 5, "special token 0 (id 5) is empty, plain or out of order");
  free(v);
}
END_TEST

// ---- damage ------------------------------------------------------------------------------------------------------

// Whatever a damaged blob opens as must bear use.
static void use(const qn_tokenizer *tokenizer) {
  qn_token_vec tokens = {0};
  qn_diag diag = {0};
  const qn_str text = QN_STR("hello <|x|> wor\xFF<s>aab\n<|end|>");
  if (qn_tokenizer_encode(tokenizer, text, QN_ENCODE_SPECIAL | QN_ENCODE_PARSE_SPECIAL, qn_test_allocator(), &tokens,
                          &diag) == QN_OK) {
    qn_buf out;
    qn_buf_init(&out, qn_test_allocator());
    qn_check(qn_tokenizer_decode(tokenizer, tokens.items, tokens.count, QN_DECODE_SPECIAL, &out, &diag) == QN_OK, "%s",
             diag.text);
    qn_buf_deinit(&out);
  } else {
    qn_check(diag.text[0] != '\0', "an error without a text");
  }
  for (int32_t id = -1; id <= qn_tokenizer_count(tokenizer) && id < 1000; id++) {
    qn_str piece = qn_tokenizer_piece(tokenizer, id);
    qn_tokenizer_find(tokenizer, piece);
    qn_tokenizer_is_eog(tokenizer, id);
  }
  qn_vec_free(qn_test_allocator(), &tokens);
}

static bool try_blob(const char *data, size_t size) {
  // In a block of its own, so that the sanitizer sees reads beyond it.
  char *copy = malloc(size > 0 ? size : 1);
  memcpy(copy, data, size);
  qn_tokenizer *tokenizer;
  qn_diag diag = {0};
  qn_status status = qn_tokenizer_open(copy, size, qn_test_allocator(), &tokenizer, &diag);
  qn_check((status == QN_OK) == (tokenizer != NULL) && (status == QN_OK || diag.text[0] != '\0'), "%d", (int)status);
  if (status == QN_OK) use(tokenizer);
  qn_tokenizer_close(tokenizer);
  free(copy);
  return status == QN_OK;
}

// A vocabulary small enough to damage everywhere.
static vocabulary *tiny_vocabulary(qn_tokenizer_kind kind) {
  vocabulary *v = new_vocabulary(kind);
  static const char *const texts[] = {"h", "e", "l", "o", "he", "ll", "a"};
  for (size_t i = 0; i < QN_COUNT(texts); i++) add(v, texts[i], QN_TOKEN_NORMAL, -(float)i);
  add_merge(v, "h", "e");
  add_merge(v, "l", "l");
  v->desc.merge_count *= kind == QN_TOKENIZER_BPE;
  v->desc.unk = add(v, "<unk>", QN_TOKEN_UNKNOWN, 0);
  v->desc.bos = add(v, "<s>", QN_TOKEN_CONTROL, 0);
  v->desc.eos = add(v, "<|end|>", QN_TOKEN_CONTROL, 0);
  add(v, "<|x|>", QN_TOKEN_USER_DEFINED, 0);
  add(v, "<0xFF>", QN_TOKEN_BYTE, 0);
  v->desc.add_bos = 1;
  v->desc.add_eos = v->desc.add_space_prefix = true;
  return v;
}

static void damage(qn_tokenizer_kind kind) {
  vocabulary *v = tiny_vocabulary(kind);
  opened o = open_vocabulary(v);
  size_t opened_count = 0;
  for (size_t size = 0; size < o.blob.length; size++) qn_check(!try_blob(o.blob.data, size), "%zu bytes", size);
  static const uint8_t flips[] = {0x01, 0x80, 0xFF, 0x10};
  for (size_t at = 0; at < o.blob.length; at++) {
    for (size_t f = 0; f < sizeof flips; f++) {
      o.blob.data[at] = (char)(o.blob.data[at] ^ flips[f]);
      opened_count += try_blob(o.blob.data, o.blob.length);
      o.blob.data[at] = (char)(o.blob.data[at] ^ flips[f]);
    }
  }
  ck_assert_uint_gt(opened_count, 0);  // scores and texts may be anything
  qn_test_random random = {31};
  for (int round = 0; round < 3000; round++) {
    char *copy = malloc(o.blob.length);
    memcpy(copy, o.blob.data, o.blob.length);
    for (int i = 0; i < 1 + round % 5; i++) {
      uint64_t draw = qn_test_random_u64(&random);
      copy[(draw >> 8) % o.blob.length] = (char)draw;
    }
    try_blob(copy, o.blob.length);
    free(copy);
  }
  close_vocabulary(o, v);
}

START_TEST(damaged_spm) { damage(QN_TOKENIZER_SPM); }
END_TEST
START_TEST(damaged_bpe) { damage(QN_TOKENIZER_BPE); }
END_TEST

// ---- allocations, alignment --------------------------------------------------------------------------------------

static qn_status whole_life(const qn_allocator *allocator, void *context) {
  const vocabulary *v = context;
  qn_buf blob, out;
  qn_diag diag = {0};
  qn_tokenizer *tokenizer = NULL;
  qn_token_vec tokens = {0};
  qn_detokenizer stream = {0};
  qn_str part;
  qn_buf_init(&blob, allocator);
  qn_buf_init(&out, allocator);
  qn_status status = qn_tokenizer_serialize(&v->desc, allocator, &blob, &diag);
  if (status == QN_OK) status = qn_tokenizer_open(blob.data, blob.length, allocator, &tokenizer, &diag);
  if (status == QN_OK) {
    status = qn_tokenizer_encode(tokenizer, QN_STR("hello <|x|> aab <|x|> h e l l o l l h e"), QN_ENCODE_SPECIAL,
                                 allocator, &tokens, &diag);
    ck_assert(status == QN_OK || tokens.count == 0);
  }
  if (status == QN_OK) status = qn_tokenizer_decode(tokenizer, tokens.items, tokens.count, 0, &out, &diag);
  if (status == QN_OK) status = qn_detokenizer_init(&stream, tokenizer, 0, allocator, &diag);
  if (status == QN_OK) status = qn_detokenizer_push(&stream, tokens.items[0], &part, &diag);
  if (stream.allocator != NULL) qn_detokenizer_deinit(&stream);
  qn_vec_free(allocator, &tokens);
  qn_tokenizer_close(tokenizer);
  qn_buf_deinit(&blob);
  qn_buf_deinit(&out);
  return status;
}

START_TEST(allocations_may_fail) {
  for (int kind = QN_TOKENIZER_SPM; kind <= QN_TOKENIZER_BPE; kind++) {
    vocabulary *v = tiny_vocabulary((qn_tokenizer_kind)kind);
    qn_test_failing_allocations(whole_life, v);
    free(v);
  }
}
END_TEST

START_TEST(any_alignment_and_place) {
  vocabulary *v = bpe_vocabulary();
  qn_buf blob;
  qn_diag diag = {0};
  qn_buf_init(&blob, qn_test_allocator());
  qn_buf_puts(&blob, "abc");  // appended to what is there
  qn_assert_ok(&diag, qn_tokenizer_serialize(&v->desc, qn_test_allocator(), &blob, &diag));
  ck_assert_int_eq(memcmp(blob.data, "abc", 3), 0);
  ck_assert(try_blob(blob.data + 3, blob.length - 3));
  qn_tokenizer *tokenizer;
  qn_assert_ok(&diag, qn_tokenizer_open(blob.data + 3, blob.length - 3, qn_test_allocator(), &tokenizer, &diag));
  use(tokenizer);
  qn_tokenizer_close(tokenizer);
  qn_tokenizer_close(NULL);
  qn_buf_deinit(&blob);
  free(v);
}
END_TEST

QN_CASE(writing, serialize_errors)
QN_CASE(opening, header_errors, section_errors, any_alignment_and_place)
QN_CASE(hostile, damaged_spm, damaged_bpe, allocations_may_fail)
QN_TEST_MAIN(writing, opening, hostile)
