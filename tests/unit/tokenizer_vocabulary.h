// Small vocabularies that the tokenizer's tests share.
#ifndef QN_TESTS_TOKENIZER_VOCABULARY_H
#define QN_TESTS_TOKENIZER_VOCABULARY_H

#include <stdio.h>
#include <stdlib.h>

#include "runtime/tokenizer_impl.h"
#include "tests/support/test.h"

enum { MAX_TOKENS = 700 };

typedef struct vocabulary {
  qn_tokenizer_desc desc;
  qn_str tokens[MAX_TOKENS];
  float scores[MAX_TOKENS];
  uint8_t types[MAX_TOKENS];
  qn_token_merge merges[256];
  qn_token_step steps[8];
  int32_t before[1], after[1];
  char texts[MAX_TOKENS][24];
} vocabulary;

#define MARK "\xE2\x96\x81"  // U+2581

// The words of GPT-2, which byte-level vocabularies begin with.
#define GPT2_WORDS "'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static inline qn_token_step *add_step(vocabulary *v, qn_token_step step) {
  v->steps[v->desc.step_count] = step;
  return &v->steps[v->desc.step_count++];
}

static inline void add_bos(vocabulary *v, int32_t id) {
  v->desc.bos = v->before[0] = id;
  v->desc.before = v->before;
  v->desc.before_count = 1;
}
static inline void add_eos(vocabulary *v, int32_t id) {
  v->desc.eos = v->after[0] = id;
  v->desc.after = v->after;
  v->desc.after_count = 1;
}

static inline vocabulary *new_vocabulary(qn_tokenizer_kind kind) {
  vocabulary *v = calloc(1, sizeof *v);
  v->desc = (qn_tokenizer_desc){.kind = kind,
                                .tokens = v->tokens,
                                .types = v->types,
                                .merges = v->merges,
                                .steps = v->steps,
                                .bos = -1,
                                .eos = -1,
                                .unk = -1,
                                .pad = -1};
  v->desc.scores = kind == QN_TOKENIZER_SPM || kind == QN_TOKENIZER_UNIGRAM ? v->scores : NULL;
  return v;
}

static inline int32_t add(vocabulary *v, const char *text, qn_token_type type, float score) {
  size_t id = v->desc.token_count++;
  ck_assert_uint_lt(strlen(text), sizeof v->texts[id]);
  strcpy(v->texts[id], text);
  v->tokens[id] = qn_str_from(v->texts[id]);
  v->types[id] = (uint8_t)type;
  v->scores[id] = score;
  return (int32_t)id;
}

static inline void add_merge(vocabulary *v, const char *left, const char *right) {
  v->merges[v->desc.merge_count++] = (qn_token_merge){qn_str_from(left), qn_str_from(right)};
}

// SentencePiece's: spaces are U+2581, one of which goes in front.
static inline void add_spm_steps(vocabulary *v, bool prefix) {
  const qn_str mark = {MARK, 3};
  v->desc.step_count = 0;
  if (prefix) add_step(v, (qn_token_step){.op = QN_STEP_PREPEND, .content = mark});
  add_step(v,
           (qn_token_step){.op = QN_STEP_REPLACE, .flags = QN_STEP_LITERAL, .pattern = QN_STR(" "), .content = mark});
  v->desc.normalizer_count = v->desc.step_count;
  v->desc.fuse_unknown = true;
  v->desc.decoder = (qn_token_decoder){.byte_tokens = true, .space = mark, .drop_space = prefix};
}

static inline void add_bpe_steps(vocabulary *v) {
  v->desc.step_count = v->desc.normalizer_count = 0;
  add_step(v, (qn_token_step){.op = QN_STEP_SPLIT, .pattern = QN_STR(GPT2_WORDS)});
  add_step(v, (qn_token_step){.op = QN_STEP_BYTE_LEVEL});
  v->desc.decoder = (qn_token_decoder){.byte_level = true};
}

// Tables of vocabulary.h: U+0301's class, e with it, U+FB01 as f and i, the lower case of A.
static const uint32_t tiny_unicode[] = {1,     1,     1,      1,          1,   5,          0x301 << 8 | 230,
                                        0xE9,  0 | 2, 0xFB01, 2 << 8 | 2, 'A', 4 << 8 | 1, 'e',
                                        0x301, 0xE9,  'e',    0x301,      'f', 'i',        'a'};

// A double array with the one key "A", which becomes "b".
static inline qn_str tiny_charsmap(void) {
  static char bytes[4 + 256 * 4 + 2];
  const struct {
    size_t unit;
    uint32_t value;
  } units[] = {{0, 1 << 10}, {0x40, 'A' | 1 << 8 | 1 << 10}, {0x41, 0x80000000}};
  bytes[1] = 4;  // 1024 bytes of units
  for (size_t i = 0; i < QN_COUNT(units); i++) {
    for (int b = 0; b < 4; b++) bytes[4 + units[i].unit * 4 + (size_t)b] = (char)(units[i].value >> (8 * b));
  }
  bytes[4 + 1024] = 'b';
  return (qn_str){bytes, sizeof bytes};
}

// One of every kind of step.
static inline void add_many_steps(vocabulary *v) {
  static const qn_token_step steps[] = {{.op = QN_STEP_CHARSMAP, .flags = QN_STEP_GRAPHEMES},
                                        {.op = QN_STEP_NFKC},
                                        {.op = QN_STEP_NFD, .flags = QN_STEP_AT_START},
                                        {.op = QN_STEP_LOWERCASE},
                                        {.op = QN_STEP_SURROUND, .pattern = {"o", 1}, .content = {" ", 1}},
                                        {.op = QN_STEP_PREPEND, .flags = QN_STEP_UNLESS_THERE, .content = {"h", 1}},
                                        {.op = QN_STEP_SPLIT, .behavior = QN_SPLIT_WITH_NEXT, .pattern = {" ", 1}}};
  memcpy(v->steps, steps, sizeof steps);
  v->desc.step_count = QN_COUNT(steps);
  v->desc.normalizer_count = 4;
  v->desc.charsmap = tiny_charsmap();
  v->desc.unicode = (qn_str){(const char *)tiny_unicode, sizeof tiny_unicode};
}

// "<unk>" 0, "<s>" 1, "</s>" 2, "<0x00>".. from 3 on if wanted, then pieces.
static inline vocabulary *spm_vocabulary(bool bytes) {
  vocabulary *v = new_vocabulary(QN_TOKENIZER_SPM);
  add_spm_steps(v, true);
  v->desc.unk = add(v, "<unk>", QN_TOKEN_UNKNOWN, 0);
  add_bos(v, add(v, "<s>", QN_TOKEN_CONTROL, 0));
  v->desc.eos = add(v, "</s>", QN_TOKEN_CONTROL, 0);
  for (int i = 0; i < 256 && bytes; i++) {
    char text[8];
    snprintf(text, sizeof text, "<0x%02X>", i);
    add(v, text, QN_TOKEN_BYTE, 0);
  }
  static const struct {
    const char *text;
    float score;
  } pieces[] = {{"\xE2\x96\x81", -10},
                {"a", -11},
                {"b", -12},
                {"c", -13},
                {"s", -14},
                {"<", -15},
                {">", -16},
                {"ab", -3},
                {"bc", -2},
                {"\xE2\x96\x81"
                 "a",
                 -4},
                {"aa", -5},
                {"\xE2\x96\x81\xE2\x96\x81", -6},
                {"<s", -7},
                {"\xC3\xA9", -8},
                {"abc", -9}};
  for (size_t i = 0; i < QN_COUNT(pieces); i++) add(v, pieces[i].text, QN_TOKEN_NORMAL, pieces[i].score);
  return v;
}

// The code point of a byte in GPT-2's alphabet, as UTF-8.
static inline const char *spell_byte(int byte) {
  static char texts[4][4];
  static unsigned next;
  char *text = texts[next++ % 4];
  for (uint32_t c = 0;; c++) {
    if (qn_byte_of_code_point(c) != byte) continue;
    snprintf(text, 4, c < 0x80 ? "%c" : "%c%c", c < 0x80 ? (int)c : (int)(0xC0 | c >> 6), (int)(0x80 | (c & 63)));
    return text;
  }
}

// All bytes (ids 0..255), a few merges, "<|end|>" and "<|x|>".
static inline vocabulary *bpe_vocabulary(void) {
  vocabulary *v = new_vocabulary(QN_TOKENIZER_BPE);
  add_bpe_steps(v);
  for (int i = 0; i < 256; i++) add(v, spell_byte(i), QN_TOKEN_NORMAL, 0);
  static const char *const merges[][2] = {{"l", "l"},        {"h", "e"}, {"ll", "o"},         {"he", "llo"},
                                          {"\xC4\xA0", "w"}, {"o", "r"}, {"\xC4\xA0w", "or"}, {"l", "d"}};
  for (size_t i = 0; i < QN_COUNT(merges); i++) {
    char text[24];
    snprintf(text, sizeof text, "%s%s", merges[i][0], merges[i][1]);
    add(v, text, QN_TOKEN_NORMAL, 0);
    add_merge(v, merges[i][0], merges[i][1]);
  }
  v->desc.eos = add(v, "<|end|>", QN_TOKEN_CONTROL, 0);
  add(v, "<|x|>", QN_TOKEN_USER_DEFINED, 0);
  return v;
}

// A tokenizer with the blob it lives in.
typedef struct opened {
  qn_buf blob;
  qn_tokenizer *tokenizer;
} opened;

static inline opened open_vocabulary(const vocabulary *v) {
  opened o;
  qn_diag diag = {0};
  qn_buf_init(&o.blob, qn_test_allocator());
  qn_assert_ok(&diag, qn_tokenizer_serialize(&v->desc, qn_test_allocator(), &o.blob, &diag));
  qn_assert_ok(&diag, qn_tokenizer_open(o.blob.data, o.blob.length, qn_test_allocator(), &o.tokenizer, &diag));
  return o;
}

static inline void close_vocabulary(opened o, vocabulary *v) {
  qn_tokenizer_close(o.tokenizer);
  qn_buf_deinit(&o.blob);
  free(v);
}

#endif
