// Encoding and decoding with small vocabularies whose answers are known by hand or by the plain algorithm, streams of
// tokens, special tokens.
#include "runtime/tokenizer.h"

#include "tests/unit/tokenizer_vocabulary.h"

// The tokens of a text as "id id id", or the pieces joined by "|".
static const char *encode(const opened *o, const char *text, unsigned flags, bool pieces) {
  static char out[4096];
  qn_token_vec tokens = {0};
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_tokenizer_encode(o->tokenizer, qn_str_from(text), flags, qn_test_allocator(), &tokens, &diag));
  size_t used = 0;
  out[0] = '\0';
  for (size_t i = 0; i < tokens.count; i++) {
    qn_str piece = qn_tokenizer_piece(o->tokenizer, tokens.items[i]);
    const char *join = i == 0 ? "" : pieces ? "|" : " ";
    used += (size_t)(pieces ? snprintf(out + used, sizeof out - used, "%s%.*s", join, QN_STR_ARGS(piece))
                            : snprintf(out + used, sizeof out - used, "%s%d", join, tokens.items[i]));
  }
  qn_vec_free(qn_test_allocator(), &tokens);
  return out;
}

// ---- SentencePiece -----------------------------------------------------------------------------------------------

START_TEST(spm_merges_by_score) {
  vocabulary *v = spm_vocabulary(true);
  opened o = open_vocabulary(v);
  // "▁abc": bc (-2) before ab (-3); then "▁a" (-4) before "abc" (-9).
  ck_assert_str_eq(encode(&o, "abc", 0, true), " a|bc");
  ck_assert_str_eq(encode(&o, "aaa", 0, true), " a|aa");        // "▁a" (-4) before "aa" (-5)
  ck_assert_str_eq(encode(&o, "baaab", 0, true), " |b|aa|ab");  // ab first, then the left aa
  ck_assert_str_eq(encode(&o, "baaaaab", 0, true), " |b|aa|aa|ab");
  ck_assert_str_eq(encode(&o, "   a", 0, true), "  | | a");     // "▁a" first, then of equal scores the leftmost
  ck_assert_str_eq(encode(&o, "\xE2\x96\x81", 0, true), "  ");  // U+2581 is a space
  ck_assert_str_eq(encode(&o, "\xC3\xA9", 0, true), " |\xC3\xA9");
  ck_assert_str_eq(encode(&o, "", 0, true), "");
  // Bytes: of a character that is no token, and of what is no UTF-8.
  char want[64];
  snprintf(want, sizeof want, "259 %d %d", 3 + 0xC3, 3 + 0xA8);
  ck_assert_str_eq(encode(&o, "\xC3\xA8", 0, false), want);
  snprintf(want, sizeof want, "268 %d 261", 3 + 0xC3);
  ck_assert_str_eq(encode(&o, "a\303b", 0, false), want);
  close_vocabulary(o, v);
}
END_TEST

START_TEST(spm_special_tokens) {
  vocabulary *v = spm_vocabulary(true);
  add(v, "<ab>", QN_TOKEN_USER_DEFINED, 0);
  add_eos(v, v->desc.eos);
  opened o = open_vocabulary(v);
  ck_assert(qn_tokenizer_adds_bos(o.tokenizer) && qn_tokenizer_adds_eos(o.tokenizer));
  ck_assert_str_eq(encode(&o, "a", QN_ENCODE_SPECIAL, true), "<s>| a|</s>");
  ck_assert_str_eq(encode(&o, "", QN_ENCODE_SPECIAL, true), "<s>|</s>");
  // Plain text never becomes a control token, though "<s" and ">" would make one.
  ck_assert_str_eq(encode(&o, "<s>", 0, true), " |<s|>");
  ck_assert_str_eq(encode(&o, "<s>", QN_ENCODE_PARSE_SPECIAL, true), "<s>");
  // User-defined tokens always are found, and text after a special token gets its space again.
  ck_assert_str_eq(encode(&o, "b<ab>b", 0, true), " |b|<ab>| |b");
  ck_assert_str_eq(encode(&o, "<ab><s>c", QN_ENCODE_PARSE_SPECIAL, true), "<ab>|<s>| |c");
  close_vocabulary(o, v);
}
END_TEST

// Of a text without special tokens: runs of spaces shrink to one, those at the ends vanish.
static void squeeze(vocabulary *v) {
  static const qn_token_step steps[] = {{.op = QN_STEP_REPLACE, .flags = QN_STEP_AT_START, .pattern = {"\\A +", 4}},
                                        {.op = QN_STEP_REPLACE, .flags = QN_STEP_AT_END, .pattern = {" +\\z", 4}},
                                        {.op = QN_STEP_REPLACE, .pattern = {" {2,}", 5}, .content = {" ", 1}}};
  memmove(v->steps + 3, v->steps, v->desc.step_count * sizeof *v->steps);
  memcpy(v->steps, steps, sizeof steps);
  v->desc.normalizer_count = v->desc.step_count += 3;
}

START_TEST(spm_settings) {
  vocabulary *v = spm_vocabulary(false);
  add_spm_steps(v, false);
  v->desc.before_count = 0;
  squeeze(v);
  opened o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "abc", QN_ENCODE_SPECIAL, true), "abc");
  ck_assert_str_eq(encode(&o, "  b   b ", 0, true), "b| |b");
  ck_assert_str_eq(encode(&o, "  ", 0, true), "");
  ck_assert_str_eq(encode(&o, "b\xC3\xA8", 0, true), "b|<unk>");          // no byte tokens
  ck_assert_str_eq(encode(&o, "b\xC3\xA8\xC3\xA8", 0, true), "b|<unk>");  // side by side they are one
  qn_tokenizer_close(o.tokenizer);
  qn_buf_deinit(&o.blob);
  add_spm_steps(v, true);
  squeeze(v);
  o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "  b  b", 0, true), " |b| |b");
  ck_assert_str_eq(encode(&o, "  ", 0, true), "");
  close_vocabulary(o, v);
  // Without types, byte tokens are known by their spelling.
  v = spm_vocabulary(true);
  v->desc.types = NULL;
  o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "\n", 0, false), "259 13");
  ck_assert_int_eq(qn_tokenizer_type(o.tokenizer, 13), QN_TOKEN_BYTE);
  close_vocabulary(o, v);
}
END_TEST

// ---- byte-level BPE ----------------------------------------------------------------------------------------------

START_TEST(bpe_merges_by_rank) {
  vocabulary *v = bpe_vocabulary();
  opened o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "hello world", 0, true), "hello| wor|ld");
  ck_assert_str_eq(encode(&o, "hell", 0, true), "he|ll");
  ck_assert_str_eq(encode(&o, "llll", 0, true), "ll|ll");
  ck_assert_str_eq(encode(&o, "lll", 0, true), "ll|l");
  ck_assert_str_eq(encode(&o, "wor", 0, true), "w|or");
  ck_assert_str_eq(encode(&o, "\n\xFF", 0, false), "10 255");
  ck_assert_str_eq(encode(&o, "hello<|end|>", 0, true), "hello|<|||e|n|d|||>");
  ck_assert_str_eq(encode(&o, "hello<|end|>", QN_ENCODE_PARSE_SPECIAL, true), "hello|<|end|>");
  ck_assert_str_eq(encode(&o, "<|x|>h", 0, true), "<|x|>|h");
  ck_assert(!qn_tokenizer_adds_bos(o.tokenizer));
  close_vocabulary(o, v);
}
END_TEST

START_TEST(bpe_odd_vocabularies) {
  // A rule's middle step that is no token, a repeated rule, a rule without a token: the symbol's bytes come out.
  vocabulary *v = bpe_vocabulary();
  add_merge(v, "x", "y");
  add_merge(v, "xy", "z");
  add_merge(v, "l", "l");
  int32_t xyz = add(v, "xyz", QN_TOKEN_NORMAL, 0);
  opened o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "xyz", 0, true), "xyz");
  ck_assert_str_eq(encode(&o, "xyw", 0, true), "x|y|w");
  ck_assert_int_eq(qn_tokenizer_find(o.tokenizer, QN_STR("xyz")), xyz);
  ck_assert_int_eq(qn_tokenizer_find(o.tokenizer, QN_STR("xy")), -1);
  close_vocabulary(o, v);

  // ignore_merges: whole words first. "hew" is a token, but no rule makes it.
  v = bpe_vocabulary();
  add(v, "hew", QN_TOKEN_NORMAL, 0);
  o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "hew", 0, true), "he|w");
  qn_tokenizer_close(o.tokenizer);
  qn_buf_deinit(&o.blob);
  v->desc.ignore_merges = true;
  o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "hew hew", 0, true), "hew| |he|w");
  close_vocabulary(o, v);
}
END_TEST

START_TEST(bpe_missing_bytes) {
  vocabulary *v = new_vocabulary(QN_TOKENIZER_BPE);
  add_bpe_steps(v);
  add(v, "a", QN_TOKEN_NORMAL, 0);
  add(v, "<0x62>", QN_TOKEN_BYTE, 0);
  int32_t unk = add(v, "<unk>", QN_TOKEN_UNKNOWN, 0);
  opened o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "ab", 0, false), "0 1");
  qn_token_vec tokens = {0};
  qn_diag diag = {0};
  ck_assert(qn_vec_push(qn_test_allocator(), &tokens, 99));
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "tokenizer: the text has byte 0x63, for which the vocabulary has no token",
                  qn_tokenizer_encode(o.tokenizer, QN_STR("abc"), 0, qn_test_allocator(), &tokens, &diag));
  ck_assert(tokens.count == 1 && tokens.items[0] == 99);
  qn_tokenizer_close(o.tokenizer);
  qn_buf_deinit(&o.blob);
  v->desc.unk = unk;
  o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "abc", 0, false), "0 1 2");
  qn_vec_free(qn_test_allocator(), &tokens);
  close_vocabulary(o, v);
}
END_TEST

// ---- unigram, WordPiece ------------------------------------------------------------------------------------------

START_TEST(unigram_takes_the_best_sum) {
  vocabulary *v = new_vocabulary(QN_TOKENIZER_UNIGRAM);
  v->desc.unk = add(v, "<unk>", QN_TOKEN_UNKNOWN, 0);
  static const struct {
    const char *text;
    float score;
  } pieces[] = {{"a", -2}, {"b", -3}, {"ab", -4}, {"bc", -1}, {"aab", -6.5f}, {"c", -9}};
  for (size_t i = 0; i < QN_COUNT(pieces); i++) add(v, pieces[i].text, QN_TOKEN_NORMAL, pieces[i].score);
  opened o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "ab", 0, true), "ab");          // -4, not -5
  ck_assert_str_eq(encode(&o, "abc", 0, true), "a|bc");       // -3, not -13
  ck_assert_str_eq(encode(&o, "aab", 0, true), "a|ab");       // -6, not -6.5
  ck_assert_str_eq(encode(&o, "axyb", 0, false), "1 0 0 2");  // unknown characters, one by one
  qn_tokenizer_close(o.tokenizer);
  qn_buf_deinit(&o.blob);
  v->desc.fuse_unknown = true;
  const int32_t byte = add(v, "<0x78>", QN_TOKEN_BYTE, 0);
  o = open_vocabulary(v);
  char want[32];
  snprintf(want, sizeof want, "1 0 %d 0 2", byte);
  ck_assert_str_eq(encode(&o,
                          "ayzx\xC3\xA9\xC3\xA9"
                          "b",
                          0, false),
                   want);
  // Of equal sums the first that is found stays: the token that begins earlier.
  v->scores[3] = -5;
  qn_tokenizer_close(o.tokenizer);
  qn_buf_deinit(&o.blob);
  o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "ab", 0, true), "ab");
  close_vocabulary(o, v);
}
END_TEST

START_TEST(wordpiece_takes_the_longest) {
  vocabulary *v = new_vocabulary(QN_TOKENIZER_WORDPIECE);
  add_step(v, (qn_token_step){.op = QN_STEP_SPLIT, .behavior = QN_SPLIT_REMOVED, .pattern = QN_STR(" ")});
  v->desc.next_prefix = v->desc.decoder.word_goes_on = QN_STR("##");
  v->desc.decoder.clean_up = v->desc.decoder.drop_space = true;
  v->desc.max_word = 6;
  static const char *const pieces[] = {"a", "ab", "##b", "##bc", "##c", ".", "'s", "\xC3\xA9"};
  for (size_t i = 0; i < QN_COUNT(pieces); i++) add(v, pieces[i], QN_TOKEN_NORMAL, 0);
  opened o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "abc abbc", 0, false), "1 4 1 3");
  ck_assert_str_eq(encode(&o, "abcbcc a", 0, true), " ab|c|bc|c| a");
  ck_assert_str_eq(encode(&o,
                          "\xC3\xA9"
                          "c . 's",
                          0, true),
                   " \xC3\xA9|c|.|'s");
  qn_token_vec tokens = {0};
  qn_diag diag = {0};
  qn_buf text;
  qn_buf_init(&text, qn_test_allocator());
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED,
                  "the text has a word for which the vocabulary has no tokens, and no unknown token",
                  qn_tokenizer_encode(o.tokenizer, QN_STR("a ac d"), 0, qn_test_allocator(), &tokens, &diag));
  ck_assert_uint_eq(tokens.count, 0);
  qn_assert_ok(&diag, qn_tokenizer_decode(o.tokenizer, (int32_t[]){1, 4, 5, 0, 6}, 5, 0, &text, &diag));
  ck_assert_str_eq(qn_buf_text(&text), "abc. a's");
  qn_tokenizer_close(o.tokenizer);
  qn_buf_deinit(&o.blob);
  v->desc.unk = add(v, "?", QN_TOKEN_NORMAL, 0);
  o = open_vocabulary(v);
  ck_assert_str_eq(encode(&o, "a acd abcbccc", 0, false), "0 8 8");  // as a whole; and a word that is too long
  qn_buf_deinit(&text);
  qn_vec_free(qn_test_allocator(), &tokens);
  close_vocabulary(o, v);
}
END_TEST

// ---- against the plain algorithm ---------------------------------------------------------------------------------

// Merges the best pair of a word again and again, looking at all pairs each time.
static size_t plain_bpe(const vocabulary *v, int32_t *symbols, size_t count, const int32_t (*rules)[3]) {
  for (;;) {
    size_t best = SIZE_MAX, at = 0;
    for (size_t i = 0; i + 1 < count; i++) {
      for (size_t r = 0; r < v->desc.merge_count && r < best; r++) {
        if (rules[r][0] == symbols[i] && rules[r][1] == symbols[i + 1]) best = r, at = i;
      }
    }
    if (best == SIZE_MAX) return count;
    symbols[at] = rules[best][2];
    count--;
    memmove(symbols + at + 1, symbols + at + 2, (count - at - 1) * sizeof *symbols);
  }
}

START_TEST(bpe_equals_plain_algorithm) {
  qn_test_random random = {17};
  vocabulary *v = bpe_vocabulary();
  // Random rules over a, b, c and what they made before.
  int32_t rules[256][3], pool[64] = {'a', 'b', 'c'};
  size_t pool_count = 3;
  v->desc.merge_count = 0;
  while (pool_count < 40) {
    int32_t left = pool[qn_test_random_u64(&random) % pool_count];
    int32_t right = pool[qn_test_random_u64(&random) % pool_count];
    char text[64];
    snprintf(text, sizeof text, "%s%s", v->texts[left], v->texts[right]);
    bool taken = strlen(text) > 20;
    for (size_t i = 0; i < v->desc.token_count; i++) taken = taken || qn_str_is(v->tokens[i], text);
    if (taken) continue;
    size_t rank = v->desc.merge_count;
    add_merge(v, v->texts[left], v->texts[right]);
    rules[rank][0] = left;
    rules[rank][1] = right;
    rules[rank][2] = pool[pool_count++] = add(v, text, QN_TOKEN_NORMAL, 0);
  }
  opened o = open_vocabulary(v);
  for (int round = 0; round < 300; round++) {
    char text[200];
    int32_t symbols[200];
    size_t length = 1 + qn_test_random_u64(&random) % 120;
    for (size_t i = 0; i < length; i++) symbols[i] = text[i] = (char)('a' + qn_test_random_u64(&random) % 3);
    size_t count = plain_bpe(v, symbols, length, (const int32_t(*)[3])rules);
    qn_token_vec tokens = {0};
    qn_diag diag = {0};
    qn_str word = {text, length};
    qn_assert_ok(&diag, qn_tokenizer_encode(o.tokenizer, word, 0, qn_test_allocator(), &tokens, &diag));
    ck_assert_uint_eq(tokens.count, count);
    ck_assert_int_eq(memcmp(tokens.items, symbols, count * sizeof *symbols), 0);
    qn_vec_free(qn_test_allocator(), &tokens);
  }
  close_vocabulary(o, v);
}
END_TEST

// ---- round trips, streams ----------------------------------------------------------------------------------------

static void check_round_trip(const opened *o, qn_str text) {
  const qn_allocator *allocator = qn_test_allocator();
  qn_token_vec tokens = {0};
  qn_diag diag = {0};
  qn_buf whole, streamed;
  bool valid = true;
  for (size_t at = 0, length; valid && at < text.length; at += length) {
    valid = (length = qn_utf8_sequence(text.data + at, text.length - at, NULL)) > 0;
  }
  qn_buf_init(&whole, allocator);
  qn_buf_init(&streamed, allocator);
  qn_assert_ok(&diag, qn_tokenizer_encode(o->tokenizer, text, 0, allocator, &tokens, &diag));
  qn_assert_ok(&diag, qn_tokenizer_decode(o->tokenizer, tokens.items, tokens.count, 0, &whole, &diag));
  qn_check(whole.length == text.length && memcmp(qn_buf_text(&whole), text.data, text.length) == 0, "'%.*s'",
           QN_STR_ARGS(text));
  qn_detokenizer stream;
  qn_assert_ok(&diag, qn_detokenizer_init(&stream, o->tokenizer, 0, allocator, &diag));
  for (size_t i = 0; i < tokens.count; i++) {
    qn_str part;
    bool unfinished;
    qn_check(qn_detokenizer_push(&stream, tokens.items[i], &part, &diag) == QN_OK, "%s", diag.text);
    for (size_t tail = 1; valid && tail <= 3 && tail <= part.length; tail++) {  // only whole characters
      qn_utf8_sequence(part.data + part.length - tail, tail, &unfinished);
      qn_check(!unfinished, "an unfinished character at %zu", i);
    }
    qn_buf_append(&streamed, part.data, part.length);
  }
  qn_str rest = qn_detokenizer_flush(&stream);
  qn_buf_append(&streamed, rest.data, rest.length);
  qn_check(streamed.length == text.length && memcmp(qn_buf_text(&streamed), text.data, text.length) == 0, "stream");
  qn_detokenizer_deinit(&stream);
  qn_buf_deinit(&whole);
  qn_buf_deinit(&streamed);
  qn_vec_free(allocator, &tokens);
}

START_TEST(round_trips) {
  vocabulary *bpe = bpe_vocabulary(), *spm = spm_vocabulary(true);
  opened tokenizers[] = {open_vocabulary(bpe), open_vocabulary(spm)};
  static const char *const texts[] = {"",
                                      " ",
                                      "  ",
                                      "hello world",
                                      " hello",
                                      "\n\n\t x",
                                      "caf\xC3\xA9",
                                      "<|x|><|x|> a",
                                      "\xF0\x9F\xA6\x99\xF0\x9F\x98\x81!",
                                      "\xFF\xFE\x80",
                                      "ab\xF0\x9F",
                                      "\xE2\x82",
                                      "\xED\xA0\x80"};
  qn_test_random random = {23};
  for (size_t t = 0; t < 2; t++) {
    for (size_t i = 0; i < QN_COUNT(texts); i++) check_round_trip(&tokenizers[t], qn_str_from(texts[i]));
    for (int round = 0; round < 500; round++) {
      char text[64];
      size_t length = qn_test_random_u64(&random) % sizeof text;
      static const char alphabet[] = "abcs <>\n\xF0\x9F\xA6\x99\xC3\xA9\xFF\x00l";
      for (size_t i = 0; i < length; i++) {
        uint64_t draw = qn_test_random_u64(&random);
        text[i] = round % 2 ? (char)draw : alphabet[draw % (sizeof alphabet - 1)];
      }
      // SentencePiece cannot tell U+2581 from a space.
      if (memmem(text, length, "\xE2\x96\x81", 3) == NULL) check_round_trip(&tokenizers[t], (qn_str){text, length});
    }
  }
  close_vocabulary(tokenizers[0], bpe);
  close_vocabulary(tokenizers[1], spm);
}
END_TEST

static const char *push(qn_detokenizer *stream, int32_t id) {
  static char out[64];
  qn_str part;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_detokenizer_push(stream, id, &part, &diag));
  snprintf(out, sizeof out, "%.*s", QN_STR_ARGS(part));
  return out;
}

START_TEST(streaming) {
  vocabulary *v = spm_vocabulary(true);
  opened o = open_vocabulary(v);
  qn_detokenizer stream;
  qn_diag diag = {0};
  int32_t a = qn_tokenizer_find(o.tokenizer, QN_STR(" a")), b = qn_tokenizer_find(o.tokenizer, QN_STR("b"));
  qn_assert_ok(&diag, qn_detokenizer_init(&stream, o.tokenizer, 0, qn_test_allocator(), &diag));
  size_t allocations = qn_test_allocator_memory()->allocations;
  ck_assert_str_eq(push(&stream, 1), "");  // <s> renders as nothing and does not count as the beginning
  ck_assert_str_eq(push(&stream, a), "a");
  ck_assert_str_eq(push(&stream, a), " a");
  // A llama, byte by byte.
  ck_assert_str_eq(push(&stream, 3 + 0xF0), "");
  ck_assert_str_eq(push(&stream, 3 + 0x9F), "");
  ck_assert_str_eq(push(&stream, 2), "");
  ck_assert_str_eq(push(&stream, 3 + 0xA6), "");
  ck_assert_str_eq(push(&stream, 3 + 0x99), "\xF0\x9F\xA6\x99");
  // What cannot become a character any more comes out with what follows.
  ck_assert_str_eq(push(&stream, 3 + 0xF0), "");
  ck_assert_str_eq(push(&stream, 3 + 0x9F), "");
  ck_assert_str_eq(push(&stream, b), "\360\237b");
  ck_assert_str_eq(push(&stream, 3 + 0xE2), "");
  ck_assert_str_eq(push(&stream, 3 + 0xC3), "\xE2");
  qn_str rest = qn_detokenizer_flush(&stream);
  ck_assert(rest.length == 1 && rest.data[0] == '\xC3');
  ck_assert_uint_eq(qn_detokenizer_flush(&stream).length, 0);
  ck_assert_str_eq(push(&stream, a), "a");  // a new text
  ck_assert_uint_eq(qn_test_allocator_memory()->allocations, allocations);
  qn_str part;
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "token id 274 is not in the vocabulary of 274 tokens",
                  qn_detokenizer_push(&stream, 274, &part, &diag));
  ck_assert_uint_eq(part.length, 0);
  qn_detokenizer_deinit(&stream);

  diag = (qn_diag){0};
  qn_assert_ok(&diag, qn_detokenizer_init(&stream, o.tokenizer, QN_DECODE_CONTINUES | QN_DECODE_SPECIAL,
                                          qn_test_allocator(), &diag));
  ck_assert_str_eq(push(&stream, a), " a");
  ck_assert_str_eq(push(&stream, 2), "</s>");
  ck_assert_str_eq(push(&stream, 0), "<unk>");
  qn_detokenizer_deinit(&stream);
  close_vocabulary(o, v);
}
END_TEST

START_TEST(decoding_errors) {
  vocabulary *v = spm_vocabulary(false);
  opened o = open_vocabulary(v);
  qn_buf out;
  qn_buf_init(&out, qn_test_allocator());
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "tokenizer: token id -1 is not in the vocabulary of 18 tokens",
                  qn_tokenizer_decode(o.tokenizer, (int32_t[]){3, -1}, 2, 0, &out, &diag));
  qn_buf_deinit(&out);
  close_vocabulary(o, v);
}
END_TEST

// ---- special tokens ----------------------------------------------------------------------------------------------

START_TEST(special_tokens_longest_first) {
  vocabulary *v = bpe_vocabulary();
  add(v, "[ab]", QN_TOKEN_USER_DEFINED, 0);
  add(v, "b][c", QN_TOKEN_CONTROL, 0);
  add(v, "][", QN_TOKEN_USER_DEFINED, 0);
  int32_t swallow = add(v, "<t>", QN_TOKEN_CONTROL, 0);
  v->types[swallow] |= QN_TOKEN_TAKES_SPACE;
  opened o = open_vocabulary(v);
  const unsigned parse = QN_ENCODE_PARSE_SPECIAL;
  ck_assert_str_eq(encode(&o, "[ab][ab]", parse, true), "[ab]|[ab]");
  ck_assert_str_eq(encode(&o, "[ab][c", parse, true), "[ab]|[|c");  // equally long: the leftmost
  ck_assert_str_eq(encode(&o, "xb][cab]", parse, true), "x|b][c|a|b|]");
  ck_assert_str_eq(encode(&o, "xb][c", 0, true), "x|b|][|c");  // a control token only when asked for
  ck_assert_str_eq(encode(&o, "[[ab]][", parse, true), "[|[ab]|][");
  ck_assert_str_eq(encode(&o, "<t> \t\n x<t>  ", parse, true), "<t>|x|<t>");
  ck_assert_str_eq(encode(&o, "<t> <|x|> y", parse, true), "<t>|<|x|>| |y");
  close_vocabulary(o, v);
}
END_TEST

START_TEST(questions) {
  vocabulary *v = bpe_vocabulary();
  int32_t by_name = add(v, "<|im_end|>", QN_TOKEN_USER_DEFINED, 0), plain = add(v, "</s>", QN_TOKEN_NORMAL, 0);
  int32_t odd = add(v, "\xE4\xBD\xA0", QN_TOKEN_NORMAL, 0), twin = add(v, "hello", QN_TOKEN_CONTROL, 0);
  const int32_t ends[] = {plain - 1, 5};
  v->desc.pad = plain - 1;
  v->desc.ends = ends;
  v->desc.end_count = 2;
  opened o = open_vocabulary(v);
  const qn_tokenizer *t = o.tokenizer;
  ck_assert_int_eq(qn_tokenizer_get_kind(t), QN_TOKENIZER_BPE);
  ck_assert_int_eq(qn_tokenizer_count(t), twin + 1);
  ck_assert_int_eq(qn_tokenizer_eos(t), v->desc.eos);
  ck_assert_int_eq(qn_tokenizer_pad(t), by_name);
  ck_assert(qn_tokenizer_bos(t) == -1 && qn_tokenizer_unk(t) == -1);
  ck_assert(qn_tokenizer_is_eog(t, v->desc.eos) && qn_tokenizer_is_eog(t, by_name) && qn_tokenizer_is_eog(t, 5));
  ck_assert(!qn_tokenizer_is_eog(t, plain) && !qn_tokenizer_is_eog(t, -1) && !qn_tokenizer_is_eog(t, 100000));
  ck_assert_int_eq(qn_tokenizer_type(t, by_name), QN_TOKEN_CONTROL);  // what ends a generation is control
  ck_assert_int_eq(qn_tokenizer_type(t, 7), QN_TOKEN_NORMAL);
  ck_assert_int_eq(qn_tokenizer_type(t, -1), QN_TOKEN_UNDEFINED);
  ck_assert_int_eq(qn_tokenizer_find(t, QN_STR(" wor")), 262);
  ck_assert_int_eq(qn_tokenizer_find(t, QN_STR("<|x|>")), v->desc.eos + 1);
  ck_assert_int_eq(qn_tokenizer_find(t, QN_STR("<|im_end|>")), by_name);
  ck_assert_int_eq(qn_tokenizer_find(t, QN_STR("hello")), 259);  // not the control token of the same text
  ck_assert_int_eq(qn_tokenizer_find(t, QN_STR("nothing")), -1);
  ck_assert_int_eq(qn_tokenizer_find(t, QN_STR("")), -1);
  ck_assert(qn_str_is(qn_tokenizer_piece(t, 262), " wor"));
  ck_assert(qn_str_is(qn_tokenizer_piece(t, odd), "\xE4\xBD\xA0"));  // not of the alphabet: stands for itself
  ck_assert_uint_eq(qn_tokenizer_piece(t, -1).length, 0);
  ck_assert_str_eq(encode(&o, "hello", QN_ENCODE_PARSE_SPECIAL, false), "269");
  close_vocabulary(o, v);

  // In the harmony format "<|end|>" does not end a generation.
  v = bpe_vocabulary();
  v->desc.eos = add(v, "<|return|>", QN_TOKEN_CONTROL, 0);
  add(v, "<|call|>", QN_TOKEN_CONTROL, 0);
  o = open_vocabulary(v);
  ck_assert(!qn_tokenizer_is_eog(o.tokenizer, 264) && qn_tokenizer_is_eog(o.tokenizer, v->desc.eos));
  close_vocabulary(o, v);
}
END_TEST

START_TEST(long_texts_take_little_time) {
  enum { SIZE = 1 << 20 };
  vocabulary *bpe = bpe_vocabulary(), *spm = spm_vocabulary(true);
  opened tokenizers[] = {open_vocabulary(bpe), open_vocabulary(spm)};
  char *text = malloc(SIZE);
  for (size_t t = 0; t < 2; t++) {
    for (const char *unit = "al <\n\xFF"; *unit != '\0'; unit++) {
      memset(text, *unit, SIZE);
      qn_token_vec tokens = {0};
      qn_diag diag = {0};
      // Quadratic time would be minutes, beyond the test's time limit.
      qn_assert_ok(&diag, qn_tokenizer_encode(tokenizers[t].tokenizer, (qn_str){text, SIZE}, QN_ENCODE_PARSE_SPECIAL,
                                              qn_allocator_default(), &tokens, &diag));
      ck_assert_uint_ge(tokens.count, SIZE / 2);
      qn_vec_free(qn_allocator_default(), &tokens);
    }
  }
  free(text);
  close_vocabulary(tokenizers[0], bpe);
  close_vocabulary(tokenizers[1], spm);
}
END_TEST

QN_CASE(sentencepiece, spm_merges_by_score, spm_special_tokens, spm_settings)
QN_CASE(byte_level, bpe_merges_by_rank, bpe_odd_vocabularies, bpe_missing_bytes, bpe_equals_plain_algorithm)
QN_CASE(other_models, unigram_takes_the_best_sum, wordpiece_takes_the_longest)
QN_CASE(decoding, round_trips, streaming, decoding_errors)
QN_CASE(special, special_tokens_longest_first, questions, long_texts_take_little_time)
QN_TEST_MAIN(sentencepiece, byte_level, other_models, decoding, special)
