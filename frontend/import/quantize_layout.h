// Where a block of a format keeps what a quantiser found: one line a format (quantize_layout.c).
#ifndef QN_IMPORT_QUANTIZE_LAYOUT_H
#define QN_IMPORT_QUANTIZE_LAYOUT_H

#include "frontend/import/quantize_fit.h"
#include "ir/format.h"

enum { QN_BLOCK_VALUES_MAX = 256, QN_BLOCK_GROUPS_MAX = 16 };

// Some bits of every code. Within each `span` values one after another, a byte holds the same bits of 8 / bits values
// that lie span * bits / 8 apart, the first in the lowest bits.
typedef struct qn_code_plane {
  int16_t at;    // the plane's first byte in the block
  uint8_t bits;  // of each code; 0 = no plane
  uint16_t span;
} qn_code_plane;

// How a block's scale is kept.
typedef enum qn_scale_kind {
  QN_SCALE_F16,       // one group, its scale (and minimum) in f16
  QN_SCALE_EXPONENT,  // one group, its scale a power of two: a byte e stands for 2^(e - 128)
  QN_SCALE_CODES,     // groups with whole-number scales (and minima), times an f16 of the block's for each
} qn_scale_kind;

typedef struct qn_block_layout {
  uint32_t gguf_type;
  uint32_t fallback;  // the GGUF type for rows that are no multiple of the block; UINT32_MAX = none
  uint16_t values;    // of a block
  uint8_t group;      // values that share a scale
  bool searched;      // the scale is searched for; else the plain one, extreme / lowest level
  bool has_min;
  qn_levels levels;
  int bias;                   // added to a level before it is stored, where there is no book
  const uint8_t *book_codes;  // the stored code of each level of the book; NULL = its place
  qn_code_plane planes[2];    // low bits, high bits
  qn_scale_kind scale_kind;
  int16_t scale_at, min_at;       // bytes of the f16s or the exponent
  int16_t scale_low, scale_high;  // of scale codes; those of minima are 0 to scale_high
  void (*put_scales)(const int *scales, const int *mins, uint8_t *block);
} qn_block_layout;

// NULL when no quantiser makes the format.
const qn_block_layout *qn_block_layout_of(uint32_t gguf_type);

// Stores the codes of a block's levels, one a value.
void qn_block_put_codes(const qn_block_layout *layout, const float *levels, uint8_t *block);

#endif
