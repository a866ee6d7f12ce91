// Places in a page of a KV cache, from the table of kinds alone.
#include "runtime/base/kv_page.h"

#include <math.h>
#include <string.h>

enum { F16 = 1, WORD_BYTES = 4, SCALE_BYTES = 2, NIBBLE_LANES = 16, MOST_BYTES_LOG2 = 40 };

static const struct {
  uint32_t dtype;
  int bits, group;
  bool balanced;
} kinds[] = {
#define QN_KV_KIND(name, dtype, bits, group, balanced) {dtype, bits, group, balanced},
#include "runtime/base/kv_page.def"
#undef QN_KV_KIND
};

static const struct {
  const char *name;
  bool as_k, sum;
} caches[] = {{"k", true, false}, {"v", false, false}, {"sum", true, true}, {"softsum", true, true}};

static size_t find_kind(const char *kind) {
  size_t i = 0;
  while (i < sizeof caches / sizeof *caches && strcmp(caches[i].name, kind) != 0) i++;
  return i;
}

bool qn_kv_is_kind(const char *kind) { return find_kind(kind) < sizeof caches / sizeof *caches; }
bool qn_kv_lies_as_k(const char *kind) { return qn_kv_is_kind(kind) && caches[find_kind(kind)].as_k; }
bool qn_kv_is_sum(const char *kind) { return qn_kv_is_kind(kind) && caches[find_kind(kind)].sum; }

static int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

static void lay_out_codes(qn_kv_page *page, int group) {
  int64_t packed = page->bits == 4 ? 2 : 1;
  page->most = (1 << (page->bits - 1)) - 1;
  page->offset = page->is_k || page->bits == 4 ? page->most + 1 : 0;
  page->group_width = page->is_k || group == 0 ? page->width : group;
  page->groups = (page->width + page->group_width - 1) / page->group_width;
  if (page->is_k) {
    page->lines = round_up(page->width, WORD_BYTES * packed) / WORD_BYTES / packed;
    page->line_words = page->keys;
  } else {
    page->lines = page->keys / WORD_BYTES;
    page->line_words = packed == 1 ? page->width : round_up(page->width, 2 * NIBBLE_LANES) / 2;
  }
  page->scales_at = page->lines * page->line_words * WORD_BYTES;
  page->head_bytes = page->scales_at + page->groups * page->keys * SCALE_BYTES;
}

bool qn_kv_page_make(uint32_t dtype, bool is_k, int64_t heads, int64_t width, int64_t keys, qn_kv_page *out) {
  enum { MOST = 1 << 20 };  // of each size: their product with the bytes of an element fits by far
  *out = (qn_kv_page){.is_k = is_k, .heads = heads, .width = width, .keys = keys};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (kinds[i].dtype != dtype) continue;
    bool fits = heads > 0 && width > 0 && keys > 0 && heads <= MOST && width <= MOST && keys <= MOST;
    out->bits = kinds[i].bits;
    out->coded = kinds[i].group >= 0;
    out->balanced = kinds[i].balanced;
    out->is_f16 = dtype == F16;
    if (!fits || (out->coded && keys % 32 != 0) || heads > (INT64_C(1) << MOST_BYTES_LOG2) / (8 * width) / keys)
      return false;
    if (out->coded) {
      lay_out_codes(out, kinds[i].group);
    } else {
      out->head_bytes = width * keys * out->bits / 8;
    }
    out->page_bytes = heads * out->head_bytes;
    return true;
  }
  return false;
}

int64_t qn_kv_page_place(const qn_kv_page *page, int64_t key, int64_t c, int *out_shift) {
  *out_shift = 0;
  if (!page->coded) return (page->is_k ? c * page->keys + key : key * page->width + c) * page->bits / 8;
  int64_t along = page->is_k ? c : key, line = along / WORD_BYTES, word = page->is_k ? key : c;
  if (page->bits == 4 && page->is_k) {
    *out_shift = line >= page->lines ? 4 : 0;
    line %= page->lines;
  } else if (page->bits == 4) {
    *out_shift = c / NIBBLE_LANES % 2 ? 4 : 0;
    word = c / (2 * NIBBLE_LANES) * NIBBLE_LANES + c % NIBBLE_LANES;
  }
  return (line * page->line_words + word) * WORD_BYTES + along % WORD_BYTES;
}

int qn_kv_page_get_code(const qn_kv_page *page, const uint8_t *head, int64_t key, int64_t c) {
  int shift;
  int64_t at = qn_kv_page_place(page, key, c, &shift);
  int code = head[at] >> shift & ((1 << page->bits) - 1);
  return page->offset ? code - page->offset : (int8_t)code;
}

void qn_kv_page_set_code(const qn_kv_page *page, uint8_t *head, int64_t key, int64_t c, int number) {
  int shift, mask = (1 << page->bits) - 1;
  int64_t at = qn_kv_page_place(page, key, c, &shift);
  head[at] = (uint8_t)((head[at] & ~(mask << shift)) | ((number + page->offset) & mask) << shift);
}

int64_t qn_kv_page_scale(const qn_kv_page *page, int64_t key, int64_t c) {
  return page->scales_at + (c / page->group_width * page->keys + key) * SCALE_BYTES;
}

// A token's bytes hold nothing of others: they may be cleared whole.
void qn_kv_page_clear(const qn_kv_page *page, int64_t first, void *data) {
  for (int64_t head = 0; head < page->heads; head++) {
    uint8_t *at = (uint8_t *)data + head * page->head_bytes;
    for (int64_t key = first; key < page->keys; key++) {
      int shift;
      for (int64_t c = 0; c < page->width; c++)
        memset(at + qn_kv_page_place(page, key, c, &shift), 0, page->coded ? 1 : (size_t)page->bits / 8);
      for (int64_t c = 0; page->coded && c < page->width; c += page->group_width)
        memset(at + qn_kv_page_scale(page, key, c), 0, SCALE_BYTES);
    }
  }
}

// A half as a number.
static float half_number(uint16_t bits) {
  int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  float number = exponent == 31  ? (mantissa ? NAN : INFINITY)
                 : exponent == 0 ? ldexpf((float)mantissa, -24)
                                 : ldexpf((float)(mantissa + 1024), exponent - 25);
  return bits >> 15 ? -number : number;
}

static float brain_number(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  float number;
  memcpy(&number, &wide, sizeof number);
  return number;
}

float qn_kv_page_value(const qn_kv_page *page, const uint8_t *head, int64_t key, int64_t c) {
  int shift;
  uint16_t bits;
  if (page->coded) {
    memcpy(&bits, head + qn_kv_page_scale(page, key, c), sizeof bits);
    return (float)qn_kv_page_get_code(page, head, key, c) * brain_number(bits);
  }
  const uint8_t *at = head + qn_kv_page_place(page, key, c, &shift);
  if (page->bits == 32) {
    float number;
    memcpy(&number, at, sizeof number);
    return number;
  }
  memcpy(&bits, at, sizeof bits);
  return page->is_f16 ? half_number(bits) : brain_number(bits);
}

void qn_kv_page_copy(const qn_kv_page *page, const uint8_t *from, int64_t key, uint8_t *to, int64_t to_key) {
  int shift;
  for (int64_t c = 0; c < page->width; c++) {
    if (page->coded) {
      qn_kv_page_set_code(page, to, to_key, c, qn_kv_page_get_code(page, from, key, c));
    } else {
      memcpy(to + qn_kv_page_place(page, to_key, c, &shift), from + qn_kv_page_place(page, key, c, &shift),
             (size_t)page->bits / 8);
    }
  }
  for (int64_t c = 0; page->coded && c < page->width; c += page->group_width)
    memcpy(to + qn_kv_page_scale(page, to_key, c), from + qn_kv_page_scale(page, key, c), SCALE_BYTES);
}
