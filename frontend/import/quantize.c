// Rounding float rows to weight formats. Everything that distinguishes the block formats is read from their fields:
// whether there is a min, whether codes are stored signed, their width and offset.
#include "frontend/import/quantize.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { MAX_BLOCK_VALUES = 256 };

static void store_u16(uint8_t *out, uint16_t value) {
  out[0] = (uint8_t)value;
  out[1] = (uint8_t)(value >> 8);
}

static qn_status fail_value(const qn_format *format, int64_t index, float value, const char *want, const char *where,
                            qn_diag *diag) {
  return qn_fail(diag, QN_ERR_FORMAT, where, "value %" PRId64 " of a row cannot become %s; got %g, want %s", index,
                 format->name, (double)value, want);
}

// Stores a scale or min as f16 at out; `first` is the block's first value, for the message.
static qn_status store_half(const qn_format *format, float value, int64_t first, uint8_t *out, const char *where,
                            qn_diag *diag) {
  uint16_t half = qn_f32_to_f16(value);
  if (!isfinite(qn_f16_to_f32(half))) {
    return qn_fail(diag, QN_ERR_FORMAT, where,
                   "values %" PRId64 " to %" PRId64
                   " of a row need a scale or minimum of %g as %s, want one within f16's 65504",
                   first, first + format->block_values - 1, (double)value, format->name);
  }
  store_u16(out, half);
  return QN_OK;
}

// Unsigned codes (offset added) of one block into the file's place for them. 4-bit codes: the first half of the block
// in the low nibbles, the second in the high ones. Where the file stores code - offset in two's complement, the offset
// is half the range, so that flipping the sign bit subtracts it.
static void store_codes(const qn_format *format, const uint8_t *codes, uint8_t *out) {
  uint32_t n = format->block_values;
  uint8_t flip = format->codes_signed ? (uint8_t)format->offset : 0;
  if (format->code_bits == 4) {
    for (uint32_t i = 0; i < n / 2; i++) out[i] = (uint8_t)((codes[i] ^ flip) | (codes[n / 2 + i] ^ flip) << 4);
  } else {
    for (uint32_t i = 0; i < n; i++) out[i] = codes[i] ^ flip;
  }
}

// One block. With a min the codes span [min, max]. Without, the value of largest magnitude takes the code furthest
// from the offset: the one below zero that has no mirror image where codes are unsigned (-8 of 4 bits), but +-127
// where the file stores them in two's complement.
static qn_status quantize_block(const qn_format *format, const float *row, int64_t first, uint8_t *out,
                                const char *where, qn_diag *diag) {
  float min = row[0], max = row[0], extreme = row[0];
  for (uint32_t i = 0; i < format->block_values; i++) {
    if (!isfinite(row[i])) return fail_value(format, first + i, row[i], "a finite number", where, diag);
    if (row[i] < min) min = row[i];
    if (row[i] > max) max = row[i];
    if (fabsf(row[i]) > fabsf(extreme)) extreme = row[i];
  }
  int32_t top = (1 << format->code_bits) - 1;
  float scale, base = 0.0f;
  if (format->min_at >= 0) {
    scale = (max - min) / (float)top;
    base = min;
    QN_TRY(store_half(format, base, first, out + format->min_at, where, diag));
  } else if (format->codes_signed) {
    scale = fabsf(extreme) / (float)(top - format->offset);
  } else {
    scale = extreme / (float)-format->offset;
  }
  QN_TRY(store_half(format, scale, first, out + format->scale_at, where, diag));
  // A scale that f16 flushes to zero makes every value the base: any code will do, and 1/scale may not be finite.
  float inverse = (qn_f32_to_f16(scale) & 0x7fff) == 0 ? 0.0f : 1.0f / scale;
  uint8_t codes[MAX_BLOCK_VALUES];
  for (uint32_t i = 0; i < format->block_values; i++) {
    int32_t code = format->codes_signed ? (int32_t)roundf(row[i] * inverse) + format->offset
                                        : (int32_t)((row[i] - base) * inverse + ((float)format->offset + 0.5f));
    codes[i] = (uint8_t)(code < 0 ? 0 : code > top ? top : code);
  }
  store_codes(format, codes, out + format->codes_at);
  return QN_OK;
}

// The float formats: one value a block.
static qn_status convert_row(const qn_format *format, int64_t k, const float *row, uint8_t *out, const char *where,
                             qn_diag *diag) {
  if (format->dtype == QN_DTYPE_F32) {
    memcpy(out, row, (size_t)k * sizeof *row);
    return QN_OK;
  }
  bool is_f16 = format->dtype == QN_DTYPE_F16;
  for (int64_t i = 0; i < k; i++) {
    uint16_t half = is_f16 ? qn_f32_to_f16(row[i]) : qn_f32_to_bf16(row[i]);
    float back = is_f16 ? qn_f16_to_f32(half) : qn_bf16_to_f32(half);
    if (isinf(back) && isfinite(row[i])) {
      return fail_value(format, i, row[i], is_f16 ? "at most 65504 in magnitude" : "at most 3.39e38 in magnitude",
                        where, diag);
    }
    store_u16(out + 2 * i, half);
  }
  return QN_OK;
}

qn_status qn_quantize_row(const qn_format *format, int64_t k, const float *row, void *out, const char *where,
                          qn_diag *diag) {
  if (!qn_dtype_is_block(format->dtype)) return convert_row(format, k, row, out, where, diag);
  if (k % format->block_values != 0 || format->block_values > MAX_BLOCK_VALUES) {
    return qn_fail(diag, QN_ERR_ARGUMENT, where,
                   "a row of %" PRId64 " values cannot become %s; want a multiple of %" PRIu32, k, format->name,
                   format->block_values);
  }
  uint8_t *block = out;
  for (int64_t first = 0; first < k; first += format->block_values, block += format->block_bytes) {
    QN_TRY(quantize_block(format, row + first, first, block, where, diag));
  }
  return QN_OK;
}
