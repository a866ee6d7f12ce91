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
  char texts[MAX_TOKENS][24];
} vocabulary;

static inline vocabulary *new_vocabulary(qn_tokenizer_kind kind) {
  vocabulary *v = calloc(1, sizeof *v);
  v->desc = (qn_tokenizer_desc){.kind = kind,
                                .pre = kind == QN_TOKENIZER_BPE ? "gpt-2" : NULL,
                                .tokens = v->tokens,
                                .types = v->types,
                                .merges = v->merges,
                                .bos = -1,
                                .eos = -1,
                                .eot = -1,
                                .eom = -1,
                                .unk = -1,
                                .pad = -1,
                                .add_bos = QN_TOKENIZER_IMPLIED,
                                .ignore_merges = QN_TOKENIZER_IMPLIED};
  v->desc.scores = kind == QN_TOKENIZER_SPM ? v->scores : NULL;
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

// "<unk>" 0, "<s>" 1, "</s>" 2, "<0x00>".. from 3 on if wanted, then pieces.
static inline vocabulary *spm_vocabulary(bool bytes) {
  vocabulary *v = new_vocabulary(QN_TOKENIZER_SPM);
  v->desc.unk = add(v, "<unk>", QN_TOKEN_UNKNOWN, 0);
  v->desc.bos = add(v, "<s>", QN_TOKEN_CONTROL, 0);
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
  v->desc.add_space_prefix = true;
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
