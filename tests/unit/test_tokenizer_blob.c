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
  refuse(v, QN_ERR_ARGUMENT, "vocabulary: kind is 7, want 1 to 4");
  v = spm_vocabulary(false), v->desc.token_count = 0;
  refuse(v, QN_ERR_FORMAT, "vocabulary: has no tokens");
  v = spm_vocabulary(false), v->desc.token_count = (size_t)1 << 25;
  refuse(v, QN_ERR_LIMIT, "vocabulary: has 33554432 tokens and 0 merges, want at most 16777216");
  v = spm_vocabulary(false), v->desc.bos = 18;
  refuse(v, QN_ERR_FORMAT, "vocabulary: bos token id is 18, want -1 (none) or below 18");
  v = spm_vocabulary(false), v->desc.pad = -2;
  refuse(v, QN_ERR_FORMAT, "vocabulary: pad token id is -2, want -1 (none) or below 18");
  const int32_t wrong[] = {1, -1};
  v = spm_vocabulary(false), v->desc.ends = wrong, v->desc.end_count = 2;
  refuse(v, QN_ERR_FORMAT, "vocabulary: an end token id is -1, want below 18");
  v = spm_vocabulary(false), v->before[0] = 18;
  refuse(v, QN_ERR_FORMAT, "vocabulary: a leading token id is 18, want below 18");
  v = spm_vocabulary(false), v->desc.after = wrong, v->desc.after_count = 2;
  refuse(v, QN_ERR_FORMAT, "vocabulary: a trailing token id is -1, want below 18");
  static const int32_t many[QN_TOK_MAX_ENDS + 1];
  v = spm_vocabulary(false), v->desc.after = many, v->desc.after_count = QN_COUNT(many);
  refuse(v, QN_ERR_LIMIT, "vocabulary: puts 1 and 65 tokens around a text, want at most 64");
  v = spm_vocabulary(false), v->desc.scores = NULL;
  refuse(v, QN_ERR_FORMAT, "vocabulary: SPM needs scores, there are none");
  v = spm_vocabulary(false), v->scores[4] = NAN;
  refuse(v, QN_ERR_FORMAT, "vocabulary: the score of token 4 is nan, want a finite one");
  v = spm_vocabulary(false), v->types[5] = 7;
  refuse(v, QN_ERR_FORMAT, "vocabulary: token 5 has type 7, want 0 to 6");
  v = spm_vocabulary(false), v->types[5] = QN_TOKEN_BYTE;
  refuse(v, QN_ERR_FORMAT, "vocabulary: token 5 is of type byte, got 'b', want <0x00> to <0xFF>");
  v = spm_vocabulary(false), v->desc.kind = QN_TOKENIZER_UNIGRAM, v->desc.scores = NULL;
  refuse(v, QN_ERR_FORMAT, "vocabulary: unigram needs scores, there are none");
  v = bpe_vocabulary(), v->merges[3].right.length = 0;
  refuse(v, QN_ERR_FORMAT, "vocabulary: merge 3 has an empty side");
}
END_TEST

// Steps of no sense: said when they are written, and when they are opened again.
START_TEST(step_errors) {
  vocabulary *v;
  v = bpe_vocabulary(), v->steps[0].pattern = QN_STR("a(b");
  refuse(v, QN_ERR_UNSUPPORTED, "tokenizer: pattern 'a(b', offset 3: missing closing parenthesis");
  v = bpe_vocabulary(), v->steps[0].pattern = QN_STR("\\C");
  refuse(v, QN_ERR_UNSUPPORTED, "tokenizer: pattern '\\C', offset 2: ");
  v = bpe_vocabulary(), v->steps[1].op = QN_STEP_OP_COUNT;
  refuse(v, QN_ERR_FORMAT, "vocabulary: step 1 has op 12, want 1 to 11");
  v = bpe_vocabulary(), v->steps[0].behavior = 5;
  refuse(v, QN_ERR_FORMAT, "vocabulary: step 0 (split) has flags 0x0 and behaviour 5");
  v = bpe_vocabulary(), v->steps[1].flags = QN_STEP_INVERT;
  refuse(v, QN_ERR_FORMAT, "vocabulary: step 1 (byte level) has flags 0x2 and behaviour 0");
  v = bpe_vocabulary(), v->steps[0].pattern = QN_STR("a\xFF");
  refuse(v, QN_ERR_FORMAT, "vocabulary: step 0 (split) has a text that is not UTF-8");
  v = bpe_vocabulary(), v->steps[1].content = QN_STR("a");
  refuse(v, QN_ERR_FORMAT, "vocabulary: step 1 (byte level) has a text that it does not take");
  v = bpe_vocabulary(), v->steps[0].pattern = QN_STR("");
  refuse(v, QN_ERR_FORMAT, "vocabulary: step 0 (split) lacks what it works with");
  v = bpe_vocabulary(), v->steps[1].op = QN_STEP_NFC;
  refuse(v, QN_ERR_FORMAT, "vocabulary: step 1 (NFC) lacks what it works with");
  v = bpe_vocabulary(), v->steps[1].op = QN_STEP_CHARSMAP;
  refuse(v, QN_ERR_FORMAT, "vocabulary: step 1 (charsmap) lacks what it works with");
  v = bpe_vocabulary(), v->desc.normalizer_count = 3;
  refuse(v, QN_ERR_FORMAT, "vocabulary: has 2 steps, 3 of which normalise; want at most 64");
  v = bpe_vocabulary(), v->desc.charsmap = QN_STR("\x08\0\0\0abcdefg");
  refuse(v, QN_ERR_FORMAT, "vocabulary: the precompiled charsmap has 11 bytes and says that 8 of them are its double");
  uint32_t tables[sizeof tiny_unicode / 4];
  const struct {
    size_t word;
    uint32_t value;
    const char *text;
  } lies[] = {{5, 6, "vocabulary: Unicode's tables have 84 bytes, part 5 ends beyond them"},
              {0, 0xFFFFFFFF, "vocabulary: Unicode's tables have 84 bytes, part 0 ends beyond them"},
              {8, 4 << 8 | 2, "vocabulary: Unicode's map 0: entry 0 has code points 4 to 6 of 5"},
              {15, 0xD800, "vocabulary: Unicode's tables have 0xd800 as a code point"},
              {19, 0x110000, "vocabulary: Unicode's tables have 0x110000 as a code point"}};
  for (size_t i = 0; i < QN_COUNT(lies); i++) {
    memcpy(tables, tiny_unicode, sizeof tables);
    tables[lies[i].word] = lies[i].value;
    v = bpe_vocabulary(), v->desc.unicode = (qn_str){(const char *)tables, sizeof tables};
    refuse(v, QN_ERR_FORMAT, lies[i].text);
  }
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
  refuse_word(v, QN_TOK_W_VERSION, 1, QN_ERR_UNSUPPORTED, "has version 1, this program reads 2; compile ");
  refuse_word(v, QN_TOK_W_SIZE, 9, format, "says it has 9 bytes, got ");
  refuse_word(v, QN_TOK_W_KIND, 5, format, "has kind 5, want 1 to 4");
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
  refuse_word(v, QN_TOK_W_N_BEFORE, 65, format, "puts 65 and 0 tokens around a text, want at most 64");
  refuse_word(v, QN_TOK_W_N_STEPS, 65, format, "has 65 steps, want at most 64");
  refuse_word(v, QN_TOK_W_N_NORMALIZERS, 3, format, "has 2 steps, 3 of which normalise");
  refuse_word(v, QN_TOK_W_STRINGS_BYTES, 0xFFFFFFF0, format, "strings at byte ");
  refuse_word(v, QN_TOK_W_STRINGS_BYTES, 7, format, "step 0 has a text at byte 0 with ");
  refuse_word(v, QN_TOK_W_FIRST_PREFIX, 1000, format, "step 2 has a text at byte 0 with 1000 bytes of ");
  refuse_word(v, QN_TOK_W_TEXTS_BYTES, 10, format, "text 10 goes from byte 10 to 11 of 10");
  refuse_word(v, QN_TOK_W_N_SYMBOLS, 0x40000000, format, "piece starts at byte ");
  refuse_word(v, QN_TOK_W_PIECES, 0xFFFFFFF0, format, "pieces at byte 4294967280 with ");
  refuse_word(v, QN_TOK_W_STARTS, 4, format, "piece starts at byte 4 with ");
  refuse_word(v, QN_TOK_W_PIECES_BYTES, 10, format, "piece 5 goes from byte 10 to 12 of 10");
  free(v);
}
END_TEST

START_TEST(section_errors) {
  vocabulary *v = bpe_vocabulary();
  refuse_item(v, QN_TOK_W_STARTS, 0, 1, "the first piece begins at 1, want 0");
  refuse_item(v, QN_TOK_W_STARTS, 2, 0, "piece 1 goes from byte 2 to 0 of ");
  refuse_item(v, QN_TOK_W_TEXT_STARTS, 2, 0, "text 1 goes from byte 1 to 0 of ");
  refuse_item(v, QN_TOK_W_STEPS, 0, 0, "step 0 has op 0, want 1 to 11");
  refuse_item(v, QN_TOK_W_TYPES, 0, 0x07010101, "token 3 has type 7");
  refuse_item(v, QN_TOK_W_PIECE_TABLE, 1, 266, "piece table: item 1 is 266, want below 266");
  refuse_item(v, QN_TOK_W_MERGES, 2, 266, "merges: item 2 is 266, want below 266");
  refuse_item(v, QN_TOK_W_MERGE_TABLE, 0, 8, "merge table: item 0 is 8, want below 8");
  refuse_item(v, QN_TOK_W_BYTES, 7, 266, "byte tokens: item 7 is 266, want below 266");
  refuse_item(v, QN_TOK_W_SPECIALS, 1, 266, "special tokens: item 1 is 266, want below 266");
  refuse_item(v, QN_TOK_W_SPECIALS, 0, 5, "special token 0 (id 5) is empty, plain or out of order");
  free(v);
  v = spm_vocabulary(false);
  refuse_item(v, QN_TOK_W_SCORES, 7, 0x7FF00000, "the score of token 3 is inf");
  refuse_item(v, QN_TOK_W_ENDS, 0, 18, "tokens around a text: item 0 is 18, want below 18");
  free(v);
}
END_TEST

// ---- damage ------------------------------------------------------------------------------------------------------

// Whatever a damaged blob opens as must bear use.
static void use(const qn_tokenizer *tokenizer) {
  qn_token_vec tokens = {0};
  qn_diag diag = {0};
  const qn_str text = QN_STR("hello <|x|> wor\xFF<s>aab A\xC3\xA9\n<|end|> <|n|>");
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

// A vocabulary small enough to damage everywhere; all kinds together have all steps.
static vocabulary *tiny_vocabulary(qn_tokenizer_kind kind) {
  vocabulary *v = new_vocabulary(kind);
  if (kind == QN_TOKENIZER_SPM) add_spm_steps(v, true);
  if (kind == QN_TOKENIZER_BPE) add_bpe_steps(v);
  if (kind == QN_TOKENIZER_UNIGRAM) add_many_steps(v);
  if (kind == QN_TOKENIZER_WORDPIECE) {
    add_step(v, (qn_token_step){.op = QN_STEP_SPLIT, .behavior = QN_SPLIT_REMOVED, .pattern = QN_STR("\\s")});
    v->desc.next_prefix = v->desc.decoder.word_goes_on = QN_STR("##");
    v->desc.decoder.clean_up = true;
    v->desc.max_word = 20;
    add(v, "##l", QN_TOKEN_NORMAL, 0);
  }
  static const char *const texts[] = {"h", "e", "l", "o", "he", "ll", "a"};
  for (size_t i = 0; i < QN_COUNT(texts); i++) add(v, texts[i], QN_TOKEN_NORMAL, -(float)i);
  add_merge(v, "h", "e");
  add_merge(v, "l", "l");
  v->desc.merge_count *= kind == QN_TOKENIZER_BPE;
  v->desc.unk = add(v, "<unk>", QN_TOKEN_UNKNOWN, 0);
  add_bos(v, add(v, "<s>", QN_TOKEN_CONTROL, 0));
  add_eos(v, add(v, "<|end|>", QN_TOKEN_CONTROL, 0));
  v->types[add(v, "<|x|>", QN_TOKEN_USER_DEFINED, 0)] |= QN_TOKEN_SINGLE_WORD | QN_TOKEN_TAKES_BEFORE;
  v->types[add(v, "<|N|>", QN_TOKEN_USER_DEFINED, 0)] |= QN_TOKEN_NORMALIZED;
  add(v, "<0xFF>", QN_TOKEN_BYTE, 0);
  return v;
}

static void damage(qn_tokenizer_kind kind) {
  vocabulary *v = tiny_vocabulary(kind);
  opened o = open_vocabulary(v);
  size_t opened_count = 0;
  const size_t step = qn_test_stride(1, 3);
  for (size_t size = 0; size < o.blob.length; size += step) qn_check(!try_blob(o.blob.data, size), "%zu bytes", size);
  static const uint8_t flips[] = {0x01, 0x80, 0xFF, 0x10};
  for (size_t at = 0; at < o.blob.length; at += step) {
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
START_TEST(damaged_unigram) { damage(QN_TOKENIZER_UNIGRAM); }
END_TEST
START_TEST(damaged_wordpiece) { damage(QN_TOKENIZER_WORDPIECE); }
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
  for (int kind = QN_TOKENIZER_SPM; kind <= QN_TOKENIZER_WORDPIECE; kind++) {
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

QN_CASE(writing, serialize_errors, step_errors)
QN_CASE(opening, header_errors, section_errors, any_alignment_and_place)
QN_CASE(hostile, damaged_spm, damaged_bpe, damaged_unigram, damaged_wordpiece, allocations_may_fail)
QN_TEST_MAIN(writing, opening, hostile)
