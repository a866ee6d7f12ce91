// Rounding float rows to weight formats: f16 and bf16 value by value; blocks by the search of quantize_fit.h with the
// layout of quantize_layout.h. Nothing here knows a format by name.
#include "frontend/import/quantize.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "frontend/import/quantize_layout.h"

enum { PASSES = 2 };  // over a block's scale codes; more win nothing that shows

// One block on its way.
typedef struct block_work {
  const qn_block_layout *layout;
  int groups;
  const float *x;
  float weight[QN_BLOCK_VALUES_MAX];
  qn_fit fits[QN_BLOCK_GROUPS_MAX];  // what each group would like
  int scales[QN_BLOCK_GROUPS_MAX], mins[QN_BLOCK_GROUPS_MAX];
  float levels[QN_BLOCK_VALUES_MAX];
} block_work;

// What a block's two f16s make of scale codes: values are scale * scale code * level - min * min code.
typedef struct super_scales {
  float scale, min;
} super_scales;

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

static float round_half(float value) { return qn_f16_to_f32(qn_f32_to_f16(value)); }

// ---- blocks of one group

// The scale without a search: the extreme value takes the level furthest from zero.
static qn_fit plain_fit(const block_work *b) {
  float extreme = 0.0f;
  for (int i = 0; i < b->layout->values; i++) extreme = fmaxf(extreme, fabsf(b->x[i]));
  return (qn_fit){.scale = extreme / (float)b->layout->levels.high};
}

static qn_fit fit_group(const block_work *b, int g) {
  const qn_block_layout *l = b->layout;
  const float *x = b->x + g * l->group, *weight = b->weight + g * l->group;
  if (!l->searched) return plain_fit(b);
  return l->has_min ? qn_fit_scale_min(&l->levels, l->group, x, weight, l->has_scale_codes)
                    : qn_fit_scale(&l->levels, l->group, x, weight);
}

static qn_status quantize_single(block_work *b, const qn_format *format, int64_t first, uint8_t *out, const char *where,
                                 qn_diag *diag) {
  const qn_block_layout *l = b->layout;
  qn_fit fit = fit_group(b, 0);
  QN_TRY(store_half(format, fit.scale, first, out + l->format->scale_at, where, diag));
  if (l->has_min) QN_TRY(store_half(format, fit.min, first, out + l->format->min_at, where, diag));
  qn_fit_levels(&l->levels, l->group, b->x, b->weight, round_half(fit.scale), round_half(fit.min), b->levels);
  return QN_OK;
}

// The powers of two around the scale that fits best, and the one below: that with the least error.
static void quantize_exponent(block_work *b, uint8_t *out) {
  const qn_block_layout *l = b->layout;
  qn_fit fit = fit_group(b, 0);
  int exponent = 0;
  if (fit.scale != 0.0f) (void)frexpf(fabsf(fit.scale), &exponent);  // scale in [2^(e - 1), 2^e)
  float best = INFINITY;
  float levels[QN_FIT_MAX];
  for (int e = exponent - 2; e <= exponent; e++) {
    int stored = e + 128 < 2 ? 2 : e + 128 > 254 ? 254 : e + 128;  // a normal number whatever the reader does
    float error = qn_fit_levels(&l->levels, l->group, b->x, b->weight, ldexpf(1.0f, stored - 128), 0.0f, levels);
    if (error >= best) continue;
    best = error;
    out[l->format->scale_at] = (uint8_t)stored;
    memcpy(b->levels, levels, (size_t)l->group * sizeof *levels);
  }
}

// ---- blocks of several

static int clamp_code(float value, int low, int high) {
  if (isnan(value)) return 0;  // 0 / 0
  if (!(value > (float)low)) return low;
  return value < (float)high ? (int)floorf(value + 0.5f) : high;
}

// The scales that spread the fits of all groups over the codes.
static super_scales spread(const block_work *b) {
  const qn_block_layout *l = b->layout;
  float scale = 0.0f, min = 0.0f;
  for (int g = 0; g < b->groups; g++) {
    if (fabsf(b->fits[g].scale) > fabsf(scale)) scale = b->fits[g].scale;
    min = fmaxf(min, -b->fits[g].min);
  }
  int end = l->scale_low < 0 ? l->scale_low : l->scale_high;
  return (super_scales){round_half(scale / (float)end), round_half(min / (float)l->scale_high)};
}

// Gives a group the codes with the least error among those at most `reach` from `scale` and `min`.
static float choose_codes(block_work *b, int g, super_scales s, int scale, int min, int reach) {
  const qn_block_layout *l = b->layout;
  float levels[QN_FIT_MAX];
  float best = INFINITY;
  int min_reach = l->has_min ? reach : 0;
  for (int i = scale - reach; i <= scale + reach; i++) {
    for (int j = min - min_reach; j <= min + min_reach; j++) {
      if (i < l->scale_low || i > l->scale_high || j < 0 || j > l->scale_high) continue;
      float error = qn_fit_levels(&l->levels, l->group, b->x + g * l->group, b->weight + g * l->group,
                                  s.scale * (float)i, -s.min * (float)j, levels);
      if (error >= best) continue;
      best = error;
      b->scales[g] = i;
      b->mins[g] = j;
      memcpy(b->levels + g * l->group, levels, (size_t)l->group * sizeof *levels);
    }
  }
  return best;
}

// The two factors that fit all values best, codes being what they are: weighted least squares over the block.
static super_scales refit(const block_work *b, super_scales before) {
  const qn_block_layout *l = b->layout;
  double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
  for (int i = 0; i < l->values; i++) {
    int g = i / l->group;
    double w = (double)b->weight[i], x = (double)b->x[i];
    double a = b->scales[g] * (double)b->levels[i], m = -b->mins[g];
    aa += w * a * a;
    ab += w * a * m;
    bb += w * m * m;
    ax += w * a * x;
    bx += w * m * x;
  }
  double determinant = aa * bb - ab * ab;
  super_scales s = before;
  if (l->has_min && determinant > 1e-9 * aa * bb) {
    s = (super_scales){(float)((ax * bb - bx * ab) / determinant), (float)((bx * aa - ax * ab) / determinant)};
  } else if (aa > 0) {
    s.scale = (float)((ax - (double)before.min * ab) / aa);
  }
  bool sane = isfinite(s.scale) && isfinite(s.min) && s.min >= 0.0f && (l->scale_low < 0 || s.scale >= 0.0f);
  return sane ? (super_scales){round_half(s.scale), round_half(s.min)} : before;
}

// All groups' codes for these factors; the block's error.
static float choose_all(block_work *b, super_scales s, bool from_fits, int reach) {
  const qn_block_layout *l = b->layout;
  float error = 0.0f;
  for (int g = 0; g < b->groups; g++) {
    int scale = from_fits ? clamp_code(b->fits[g].scale / s.scale, l->scale_low, l->scale_high) : b->scales[g];
    int min = from_fits && l->has_min ? clamp_code(-b->fits[g].min / s.min, 0, l->scale_high) : b->mins[g];
    error += choose_codes(b, g, s, scale, min, reach);
  }
  return error;
}

static qn_status quantize_super(block_work *b, const qn_format *format, int64_t first, uint8_t *out, const char *where,
                                qn_diag *diag) {
  const qn_block_layout *l = b->layout;
  for (int g = 0; g < b->groups; g++) {
    b->fits[g] = fit_group(b, g);
    b->mins[g] = 0;
  }
  super_scales s = spread(b);
  QN_TRY(store_half(format, s.scale, first, out + l->format->scale_at, where, diag));
  if (l->has_min) QN_TRY(store_half(format, s.min, first, out + l->format->min_at, where, diag));
  float error = choose_all(b, s, true, 1);
  block_work best = *b;
  for (int pass = 0; pass < PASSES; pass++) {
    super_scales next = refit(b, s);
    if (!isfinite(next.scale) || !isfinite(next.min)) break;  // beyond f16
    float now = choose_all(b, next, false, pass + 1 < PASSES ? 0 : 1);
    if (!(now < error)) break;
    error = now;
    s = next;
    best = *b;
  }
  *b = best;
  store_u16(out + l->format->scale_at, qn_f32_to_f16(s.scale));
  if (l->has_min) store_u16(out + l->format->min_at, qn_f32_to_f16(s.min));
  qn_block_put_scales(l, b->scales, b->mins, out);
  return QN_OK;
}

// ---- rows

// How much each value's error counts: all alike, as long as nothing is known of the activations they meet.
static void set_weights(block_work *b) {
  for (int i = 0; i < b->layout->values; i++) b->weight[i] = 1.0f;
}

static qn_status quantize_block(const qn_block_layout *layout, const qn_format *format, const float *row, int64_t first,
                                uint8_t *out, const char *where, qn_diag *diag) {
  for (int i = 0; i < layout->values; i++) {
    if (!isfinite(row[i])) return fail_value(format, first + i, row[i], "a finite number", where, diag);
  }
  block_work b = {.layout = layout, .groups = layout->values / layout->group, .x = row};
  set_weights(&b);
  if (layout->has_scale_codes) {
    QN_TRY(quantize_super(&b, format, first, out, where, diag));
  } else if (format->scale_kind == QN_SCALE_E8M0) {
    quantize_exponent(&b, out);
  } else {
    QN_TRY(quantize_single(&b, format, first, out, where, diag));
  }
  qn_block_put_codes(layout, b.levels, out);
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

const qn_format *qn_quantize_format_for(const qn_format *format, int64_t k) {
  while (format && k % format->block_values != 0) {
    format = qn_quantize_fallback(format);
  }
  return format ? format : qn_format_of(QN_DTYPE_F16);
}

qn_status qn_quantize_row(const qn_format *format, int64_t k, const float *row, void *out, const char *where,
                          qn_diag *diag) {
  if (qn_dtype_is_float(format->dtype)) return convert_row(format, k, row, out, where, diag);
  if (k % format->block_values != 0) {
    return qn_fail(diag, QN_ERR_ARGUMENT, where,
                   "a row of %" PRId64 " values cannot become %s; want a multiple of %" PRIu32, k, format->name,
                   format->block_values);
  }
  qn_block_layout layout;
  qn_block_layout_init(&layout, format);
  uint8_t *block = out;
  for (int64_t first = 0; first < k; first += format->block_values, block += format->block_bytes) {
    QN_TRY(quantize_block(&layout, format, row + first, first, block, where, diag));
  }
  return QN_OK;
}
