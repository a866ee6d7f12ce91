// What a quantiser must know of a block format: the levels its codes stand for and the range of its scale codes, taken
// from its description (ir/format.h), and which format rows get that are no whole blocks.
#ifndef QN_IMPORT_QUANTIZE_LAYOUT_H
#define QN_IMPORT_QUANTIZE_LAYOUT_H

#include "frontend/import/quantize_fit.h"
#include "ir/format.h"

enum { QN_BLOCK_VALUES_MAX = 256, QN_BLOCK_GROUPS_MAX = 16 };

typedef struct qn_block_layout {
  const qn_format *format;
  int values;     // of a block
  int group;      // values that share a scale
  bool searched;  // the scale is searched for; else the plain one, extreme / highest level
  bool has_min;
  bool has_scale_codes;       // groups have whole-number scales (and minima), times an f16 of the block's for each
  qn_levels levels;           // its book points to `book`: the layout must not be moved
  int8_t book[16];            // ascending
  uint8_t book_codes[16];     // the code of each
  int scale_low, scale_high;  // of scale codes; those of minima are 0 to scale_high
} qn_block_layout;

// Of a format with blocks.
void qn_block_layout_init(qn_block_layout *layout, const qn_format *format);

// The format for rows that are no whole blocks of this one; NULL = none.
const qn_format *qn_quantize_fallback(const qn_format *format);

// Stores the codes of a block's levels, one a value.
void qn_block_put_codes(const qn_block_layout *layout, const float *levels, uint8_t *block);
// Stores scale codes and, where there are minima, theirs, one a group.
void qn_block_put_scales(const qn_block_layout *layout, const int *scales, const int *mins, uint8_t *block);

#endif
