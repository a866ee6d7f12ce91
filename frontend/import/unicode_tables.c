// Unicode's tables for a tokenizer, made of utf8proc's when a model is compiled: they go into the artifact, so that the
// runtime needs no Unicode library and an artifact means the same everywhere.
#include <stdlib.h>
#include <utf8proc.h>

#include "frontend/import/vocab_steps.h"

enum { POINTS = 0x110000, HANGUL_FIRST = 0xAC00, HANGUL_LAST = 0xD7A3, MAX_MAPPED = 32 };

#define BIT(op) (1u << (op))

typedef struct tables {
  qn_arena *arena;
  QN_VEC(uint32_t) parts[QN_UNICODE_COUNTS];
  bool no_memory;
} tables;

static void put(tables *t, int part, uint32_t word) {
  if (!qn_vec_push_arena(t->arena, &t->parts[part], word)) t->no_memory = true;
}

static void put_mapping(tables *t, int part, uint32_t c, const utf8proc_int32_t *to, size_t length) {
  put(t, part, c);
  put(t, part, (uint32_t)t->parts[QN_UNICODE_POINTS].count << 8 | (uint32_t)length);
  for (size_t i = 0; i < length; i++) put(t, QN_UNICODE_POINTS, (uint32_t)to[i]);
}

// The full decomposition; of length 1 and equal where there is none.
static size_t decompose(uint32_t c, bool compatible, utf8proc_int32_t out[MAX_MAPPED]) {
  int boundary = 0;
  utf8proc_option_t options = UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
  utf8proc_ssize_t length = utf8proc_decompose_char((utf8proc_int32_t)c, out, MAX_MAPPED, options, &boundary);
  if (length > 0 && length <= MAX_MAPPED) return (size_t)length;
  out[0] = (utf8proc_int32_t)c;
  return 1;
}

// What a decomposition becomes again; a single code point's, or 0.
static uint32_t recompose(const utf8proc_int32_t *points, size_t length) {
  utf8proc_int32_t copy[MAX_MAPPED];
  for (size_t i = 0; i < length; i++) copy[i] = points[i];
  utf8proc_ssize_t left = utf8proc_normalize_utf32(copy, (utf8proc_ssize_t)length, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  return left == 1 ? (uint32_t)copy[0] : 0;
}

static void add_point(tables *t, unsigned ops, uint32_t c) {
  bool forms = (ops & (BIT(QN_STEP_NFC) | BIT(QN_STEP_NFD) | BIT(QN_STEP_NFKC) | BIT(QN_STEP_NFKD))) != 0;
  bool canonical = (ops & (BIT(QN_STEP_NFC) | BIT(QN_STEP_NFD))) != 0;
  bool compatible = (ops & (BIT(QN_STEP_NFKC) | BIT(QN_STEP_NFKD))) != 0;
  utf8proc_int32_t to[MAX_MAPPED];
  unsigned class = (unsigned)utf8proc_get_property((utf8proc_int32_t)c)->combining_class;
  if (forms && class != 0) put(t, QN_UNICODE_CLASSES, c << 8 | class);
  if (forms && (c < HANGUL_FIRST || c > HANGUL_LAST)) {
    size_t length = decompose(c, true, to);
    bool changes = length != 1 || (uint32_t)to[0] != c;
    if (compatible && changes) put_mapping(t, QN_UNICODE_COMPATIBLE, c, to, length);
    length = decompose(c, false, to);
    changes = length != 1 || (uint32_t)to[0] != c;
    if (canonical && changes) put_mapping(t, QN_UNICODE_CANONICAL, c, to, length);
  }
  if (!(ops & BIT(QN_STEP_LOWERCASE))) return;
  if (c == 0x130) {  // the one character whose lower case is two (Unicode's SpecialCasing)
    const utf8proc_int32_t dotted[] = {'i', 0x307};
    put_mapping(t, QN_UNICODE_LOWER, c, dotted, 2);
    return;
  }
  to[0] = utf8proc_tolower((utf8proc_int32_t)c);
  if ((uint32_t)to[0] != c) put_mapping(t, QN_UNICODE_LOWER, c, to, 1);
}

// A pair composes to c when c's decomposition does, and all of it but the last composes to the first.
static bool find_pair(uint32_t c, uint32_t *out_first, uint32_t *out_second) {
  utf8proc_int32_t to[MAX_MAPPED];
  if (c >= HANGUL_FIRST && c <= HANGUL_LAST) return false;
  size_t length = decompose(c, false, to);
  if (length < 2 || recompose(to, length) != c) return false;
  *out_second = (uint32_t)to[length - 1];
  *out_first = length == 2 ? (uint32_t)to[0] : recompose(to, length - 1);
  return *out_first != 0;
}

static int compare_pairs(const void *a, const void *b) {
  const uint32_t *x = a, *y = b;
  if (x[0] != y[0]) return x[0] < y[0] ? -1 : 1;
  return x[1] < y[1] ? -1 : x[1] > y[1];
}

// Is there anything to tell of it? Of most there is not.
static bool is_told_of(uint32_t c) {
  const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)c);
  return p->combining_class != 0 || p->decomp_seqindex != UINT16_MAX || p->lowercase_seqindex != UINT16_MAX;
}

qn_status qn_unicode_tables(unsigned ops, qn_arena *arena, qn_str *out, qn_diag *diag) {
  static const size_t item_words[QN_UNICODE_COUNTS] = {1, 2, 2, 2, 3, 1};
  const unsigned forms = BIT(QN_STEP_NFC) | BIT(QN_STEP_NFD) | BIT(QN_STEP_NFKC) | BIT(QN_STEP_NFKD);
  const unsigned composes = BIT(QN_STEP_NFC) | BIT(QN_STEP_NFKC);
  *out = (qn_str){0};
  if (!(ops & (forms | BIT(QN_STEP_LOWERCASE)))) return QN_OK;
  tables t = {.arena = arena};
  for (uint32_t c = 0; c < POINTS; c++) {
    uint32_t first, second;
    if (!is_told_of(c)) continue;
    add_point(&t, ops, c);
    if (!(ops & composes) || !find_pair(c, &first, &second)) continue;
    put(&t, QN_UNICODE_PAIRS, first);
    put(&t, QN_UNICODE_PAIRS, second);
    put(&t, QN_UNICODE_PAIRS, c);
  }
  size_t words = QN_UNICODE_COUNTS;
  for (int i = 0; i < QN_UNICODE_COUNTS; i++) words += t.parts[i].count;
  uint8_t *bytes = t.no_memory ? NULL : QN_ARENA_ARRAY(arena, words * 4, uint8_t);
  if (bytes == NULL) return qn_fail_nomem(diag, "vocabulary", "Unicode's tables");
  if (t.parts[QN_UNICODE_PAIRS].count > 0) {
    qsort(t.parts[QN_UNICODE_PAIRS].items, t.parts[QN_UNICODE_PAIRS].count / 3, 12, compare_pairs);
  }
  size_t at = 0;
  for (int part = -1; part < QN_UNICODE_COUNTS; part++) {
    size_t count = part < 0 ? QN_UNICODE_COUNTS : t.parts[part].count;
    for (size_t i = 0; i < count; i++, at += 4) {
      uint32_t word = part < 0 ? (uint32_t)(t.parts[i].count / item_words[i]) : t.parts[part].items[i];
      for (int b = 0; b < 4; b++) bytes[at + (size_t)b] = (uint8_t)(word >> (8 * b));
    }
  }
  *out = (qn_str){(const char *)bytes, words * 4};
  return QN_OK;
}
