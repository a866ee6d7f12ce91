// The block formats that quantisers make, a line each, and how their scale codes are packed. The layouts are ggml's.
#include "frontend/import/quantize_layout.h"

#include <string.h>

// ---- scale codes -------------------------------------------------------------------------------------------------

// Q2_K: a byte a group, scale in the low nibble, minimum in the high one.
static void put_nibbles(const int *scales, const int *mins, uint8_t *block) {
  for (int g = 0; g < 16; g++) block[g] = (uint8_t)(scales[g] | mins[g] << 4);
}

// Q3_K: low four bits of scales 0 to 7 and 8 to 15 in the nibbles of eight bytes, high two bits of four in each of
// the next four. 32 is added.
static void put_signed_6(const int *scales, const int *mins, uint8_t *block) {
  (void)mins;
  uint8_t *out = block + 96;
  memset(out, 0, 12);
  for (int g = 0; g < 16; g++) {
    int code = scales[g] + 32;
    out[g % 8] |= (uint8_t)((code & 15) << (g / 8 * 4));
    out[8 + g % 4] |= (uint8_t)(code >> 4 << (g / 4 * 2));
  }
}

// Q4_K, Q5_K: six bits for each of eight scales and minima. The first four of both have bytes of their own, in whose
// upper two bits the upper two of the last four lie.
static void put_pairs_6(const int *scales, const int *mins, uint8_t *block) {
  uint8_t *out = block + 4;
  for (int g = 0; g < 4; g++) {
    out[g] = (uint8_t)(scales[g] | scales[g + 4] >> 4 << 6);
    out[g + 4] = (uint8_t)(mins[g] | mins[g + 4] >> 4 << 6);
    out[g + 8] = (uint8_t)((scales[g + 4] & 15) | (mins[g + 4] & 15) << 4);
  }
}

// Q6_K: bytes in two's complement.
static void put_bytes(const int *scales, const int *mins, uint8_t *block) {
  (void)mins;
  for (int g = 0; g < 16; g++) block[192 + g] = (uint8_t)scales[g];
}

// IQ4_XS: 32 is added; the high two bits of all eight in a 16-bit word, the low four in nibbles.
static void put_split_6(const int *scales, const int *mins, uint8_t *block) {
  (void)mins;
  unsigned high = 0;
  memset(block + 4, 0, 4);
  for (int g = 0; g < 8; g++) {
    unsigned code = (unsigned)(scales[g] + 32);
    high |= code >> 4 << (2 * g);
    block[4 + g / 2] |= (uint8_t)((code & 15) << (g % 2 * 4));
  }
  block[2] = (uint8_t)high;
  block[3] = (uint8_t)(high >> 8);
}

// ---- levels ------------------------------------------------------------------------------------------------------

static const int8_t nl_book[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// FP4 (E2M1), doubled: sign, two bits of exponent, one of mantissa. Both zeros are there.
static const int8_t fp4_book[16] = {-12, -8, -6, -4, -3, -2, -1, 0, 0, 1, 2, 3, 4, 6, 8, 12};
static const uint8_t fp4_codes[16] = {15, 14, 13, 12, 11, 10, 9, 0, 0, 1, 2, 3, 4, 5, 6, 7};

// ---- the table ---------------------------------------------------------------------------------------------------

#define TYPE_NONE UINT32_MAX
enum {
  TYPE_Q4_0 = 2,
  TYPE_Q4_1 = 3,
  TYPE_Q5_0 = 6,
  TYPE_Q5_1 = 7,
  TYPE_Q8_0 = 8,
  TYPE_Q2_K = 10,
  TYPE_Q3_K = 11,
  TYPE_Q4_K = 12,
  TYPE_Q5_K = 13,
  TYPE_Q6_K = 14,
  TYPE_IQ4_NL = 20,
  TYPE_IQ4_XS = 23,
  TYPE_MXFP4 = 39,
};

// clang-format off
static const qn_block_layout layouts[] = {
  // type, fallback, values, group, searched, min | lowest level, highest, book | bias, codes | low plane, high plane
  //    | scale kind, at, min at, scale codes
  {TYPE_Q8_0, TYPE_NONE, 32, 32, false, false, {-127, 127, NULL}, 0, NULL, {{2, 8, 32}},
   QN_SCALE_F16, 0, -1, 0, 0, NULL},
  {TYPE_Q4_0, TYPE_NONE, 32, 32, true, false, {-8, 7, NULL}, 8, NULL, {{2, 4, 32}},
   QN_SCALE_F16, 0, -1, 0, 0, NULL},
  {TYPE_Q4_1, TYPE_NONE, 32, 32, true, true, {0, 15, NULL}, 0, NULL, {{4, 4, 32}},
   QN_SCALE_F16, 0, 2, 0, 0, NULL},
  {TYPE_Q5_0, TYPE_NONE, 32, 32, true, false, {-16, 15, NULL}, 16, NULL, {{6, 4, 32}, {2, 1, 8}},
   QN_SCALE_F16, 0, -1, 0, 0, NULL},
  {TYPE_Q5_1, TYPE_NONE, 32, 32, true, true, {0, 31, NULL}, 0, NULL, {{8, 4, 32}, {4, 1, 8}},
   QN_SCALE_F16, 0, 2, 0, 0, NULL},
  {TYPE_Q2_K, TYPE_IQ4_NL, 256, 16, true, true, {0, 3, NULL}, 0, NULL, {{16, 2, 128}},
   QN_SCALE_CODES, 80, 82, 0, 15, put_nibbles},
  {TYPE_Q3_K, TYPE_IQ4_NL, 256, 16, true, false, {-4, 3, NULL}, 4, NULL, {{32, 2, 128}, {0, 1, 256}},
   QN_SCALE_CODES, 108, -1, -32, 31, put_signed_6},
  {TYPE_Q4_K, TYPE_Q5_0, 256, 32, true, true, {0, 15, NULL}, 0, NULL, {{16, 4, 64}},
   QN_SCALE_CODES, 0, 2, 0, 63, put_pairs_6},
  {TYPE_Q5_K, TYPE_Q5_1, 256, 32, true, true, {0, 31, NULL}, 0, NULL, {{48, 4, 64}, {16, 1, 256}},
   QN_SCALE_CODES, 0, 2, 0, 63, put_pairs_6},
  {TYPE_Q6_K, TYPE_Q8_0, 256, 16, true, false, {-32, 31, NULL}, 32, NULL, {{0, 4, 128}, {128, 2, 128}},
   QN_SCALE_CODES, 208, -1, -128, 127, put_bytes},
  {TYPE_IQ4_NL, TYPE_NONE, 32, 32, true, false, {-127, 113, nl_book}, 0, NULL, {{2, 4, 32}},
   QN_SCALE_F16, 0, -1, 0, 0, NULL},
  {TYPE_IQ4_XS, TYPE_IQ4_NL, 256, 32, true, false, {-127, 113, nl_book}, 0, NULL, {{8, 4, 32}},
   QN_SCALE_CODES, 0, -1, -32, 31, put_split_6},
  {TYPE_MXFP4, TYPE_NONE, 32, 32, true, false, {-12, 12, fp4_book}, 0, fp4_codes, {{1, 4, 32}},
   QN_SCALE_EXPONENT, 0, -1, 0, 0, NULL},
};
// clang-format on

const qn_block_layout *qn_block_layout_of(uint32_t gguf_type) {
  for (size_t i = 0; i < QN_COUNT(layouts); i++) {
    if (layouts[i].gguf_type == gguf_type) return &layouts[i];
  }
  return NULL;
}

// ---- codes -------------------------------------------------------------------------------------------------------

// The code that is stored for a level. Of a level that a book has twice, it is that of the lower place.
static unsigned stored_code(const qn_block_layout *layout, int level) {
  const int8_t *book = layout->levels.book;
  unsigned at = 0;
  if (!book) return (unsigned)(level + layout->bias);
  while (at < 15 && book[at] < level) at++;
  return layout->book_codes ? layout->book_codes[at] : at;
}

void qn_block_put_codes(const qn_block_layout *layout, const float *levels, uint8_t *block) {
  int taken = 0;
  for (size_t p = 0; p < QN_COUNT(layout->planes) && layout->planes[p].bits > 0; p++) {
    const qn_code_plane *plane = &layout->planes[p];
    int stride = plane->span * plane->bits / 8;  // bytes of a span
    unsigned mask = (1u << plane->bits) - 1;
    memset(block + plane->at, 0, (size_t)(layout->values / plane->span * stride));
    for (int i = 0; i < layout->values; i++) {
      int in_span = i % plane->span;
      unsigned bits = stored_code(layout, (int)levels[i]) >> taken & mask;
      block[plane->at + i / plane->span * stride + in_span % stride] |=
          (uint8_t)(bits << (in_span / stride * plane->bits));
    }
    taken += plane->bits;
  }
}
