// Letter case. Letters become what Unicode's simple mappings say, one for one: one that becomes several (U+00DF) stays.
#include "runtime/jinja_impl.h"

// Letters first, first + step, ... last, and how far away the other case is.
typedef struct case_range {
  uint32_t first, last;
  uint8_t step;
  int32_t distance;
} case_range;

#define UPPER(...) {__VA_ARGS__},
#define LOWER(...)
static const case_range to_upper[] = {
#include "runtime/letter_case.def"
};
#undef UPPER
#undef LOWER
#define UPPER(...)
#define LOWER(...) {__VA_ARGS__},
static const case_range to_lower[] = {
#include "runtime/letter_case.def"
};

static uint32_t map_letter(const case_range *table, size_t count, uint32_t c) {
  size_t low = 0, high = count;
  while (low < high) {  // the first range that does not end before c
    size_t middle = low + (high - low) / 2;
    if (table[middle].last < c) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  // Ranges in steps of two may lie within one another.
  for (; low < count && table[low].first <= c; low++) {
    const case_range *r = &table[low];
    if (c <= r->last && (c - r->first) % r->step == 0) return (uint32_t)((int64_t)c + r->distance);
  }
  return c;
}

void qn_jinja_put_case(qn_str text, letter_case to, qn_buf *out) {
  bool in_word = false;  // of CASE_TITLE and CASE_CAPITAL: the first letter is past
  for (size_t at = 0; at < text.length;) {
    size_t size = qn_utf8_sequence(text.data + at, text.length - at, NULL);
    if (size == 0) {
      qn_buf_putc(out, text.data[at++]);
      continue;
    }
    uint32_t c = qn_jinja_decode(text.data + at, size);
    uint32_t upper = map_letter(to_upper, QN_COUNT(to_upper), c), lower = map_letter(to_lower, QN_COUNT(to_lower), c);
    bool up = to == CASE_UPPER || (to != CASE_LOWER && !in_word);
    char bytes[4];
    qn_buf_append(out, bytes, qn_jinja_encode(up ? upper : lower, bytes));
    in_word = to == CASE_CAPITAL || upper != c || lower != c;
    at += size;
  }
}
