// Quantisers' view of a format, derived from its description, and the codes of a block put in their places.
#include "frontend/import/quantize_layout.h"

// ---- formats for other rows --------------------------------------------------------------------------------------

// For rows that are no multiple of 256: the format of blocks of 32 that is next in bits.
static const struct {
  qn_dtype from, to;
} fallbacks[] = {
    {QN_DTYPE_Q2_K, QN_DTYPE_IQ4_NL}, {QN_DTYPE_Q3_K, QN_DTYPE_IQ4_NL}, {QN_DTYPE_Q4_K, QN_DTYPE_Q5_0},
    {QN_DTYPE_Q5_K, QN_DTYPE_Q5_1},   {QN_DTYPE_Q6_K, QN_DTYPE_Q8_0},   {QN_DTYPE_IQ4_XS, QN_DTYPE_IQ4_NL},
};

const qn_format *qn_quantize_fallback(const qn_format *format) {
  for (size_t i = 0; i < QN_COUNT(fallbacks); i++) {
    if (fallbacks[i].from == format->dtype) return qn_format_of(fallbacks[i].to);
  }
  return NULL;
}

// ---- levels ------------------------------------------------------------------------------------------------------

// The numbers of the format's table in rising order, each with its code; of equal ones the lower code comes first.
static void sort_table(qn_block_layout *layout) {
  const qn_format *format = layout->format;
  for (int code = 0; code < 16; code++) {
    int level = format->table[code] - format->offset, at = code;
    for (; at > 0 && layout->book[at - 1] > level; at--) {
      layout->book[at] = layout->book[at - 1];
      layout->book_codes[at] = layout->book_codes[at - 1];
    }
    layout->book[at] = (int8_t)level;
    layout->book_codes[at] = (uint8_t)code;
  }
  layout->levels = (qn_levels){layout->book[0], layout->book[15], layout->book};
}

void qn_block_layout_init(qn_block_layout *layout, const qn_format *format) {
  int codes = 1 << format->code_bits, scales = 1 << format->sub_scale.bits, offset = format->sub_scale.offset;
  *layout = (qn_block_layout){.format = format,
                              .values = (int)format->block_values,
                              .group = (int)format->group_values,
                              .searched = !format->codes_signed,
                              .has_min = format->min_at >= 0,
                              .has_scale_codes = format->sub_scale.bits > 0};
  // Codes in two's complement use a symmetric range.
  layout->levels = (qn_levels){-format->offset + format->codes_signed, codes - 1 - format->offset, NULL};
  if (format->has_table) sort_table(layout);
  if (format->sub_scale.is_signed) offset = scales / 2;
  layout->scale_low = -offset;
  layout->scale_high = scales - 1 - offset;
}

// ---- blocks ------------------------------------------------------------------------------------------------------

// The code that is stored for a level. Of a level that a table has twice, it is the lower one.
static int stored_code(const qn_block_layout *layout, int level) {
  const qn_format *format = layout->format;
  int at = 0;
  if (!format->has_table) return format->codes_signed ? level : level + format->offset;
  while (at < 15 && layout->book[at] < level) at++;
  return layout->book_codes[at];
}

void qn_block_put_codes(const qn_block_layout *layout, const float *levels, uint8_t *block) {
  for (int i = 0; i < layout->values; i++) {
    qn_field_put(&layout->format->codes, block, (uint32_t)i, (uint32_t)stored_code(layout, (int)levels[i]));
  }
}

void qn_block_put_scales(const qn_block_layout *layout, const int *scales, const int *mins, uint8_t *block) {
  const qn_sub_scale *scale = &layout->format->sub_scale, *min = &layout->format->sub_min;
  for (int g = 0; g < layout->values / layout->group; g++) {
    qn_field_put(&scale->field, block, (uint32_t)g, (uint32_t)(scales[g] + scale->offset));
    if (min->bits > 0) qn_field_put(&min->field, block, (uint32_t)g, (uint32_t)mins[g]);
  }
}
