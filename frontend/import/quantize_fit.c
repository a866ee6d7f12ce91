// Candidates for the step between levels are tried in a fixed order; each rounds the values, and the line through the
// places that came out (weighted least squares) is the fit that this rounding deserves. The best one is then rounded
// and refitted as long as that helps. Lloyd's iteration in one dimension, with levels that stay evenly spaced.
#include "frontend/import/quantize_fit.h"

#include <assert.h>
#include <math.h>

// How far the outermost value may lie inside (below 1) or be cut off (above 1): steps are 1 / these of the plain one.
static const float stretches[] = {1.0f,  0.90f, 0.94f, 0.97f, 1.03f, 1.06f, 1.09f, 1.12f,
                                  1.15f, 1.19f, 1.23f, 1.28f, 1.33f, 1.40f, 1.48f};
enum { STRETCHES = sizeof stretches / sizeof *stretches, REFITS = 4 };

// Loops over 16 or 4 values have constant counts and no pointers that might overlap, so that compilers make vectors of
// them at -O2.
enum { LANES = 16 };

// The levels of a book nearest to y: the lowest, and for every middle between two that lies below y, the step up.
static void nearest_in_book(const int8_t *book, const float *restrict y, float *restrict out) {
  for (int j = 0; j < LANES; j++) out[j] = (float)book[0];
  for (int k = 0; k < 15; k++) {
    float middle = 0.5f * (float)(book[k] + book[k + 1]), step = (float)(book[k + 1] - book[k]);
    for (int j = 0; j < LANES; j++) out[j] += y[j] > middle ? step : 0.0f;
  }
}

static void nearest_in_range(float low, float top, const float *restrict y, float *restrict out) {
  for (int j = 0; j < LANES; j++) {
    float place = y[j] - low;
    place = place > 0.0f ? place : 0.0f;
    place = place < top ? place : top;
    out[j] = (float)(int)(place + 0.5f) + low;
  }
}

// The levels nearest to (x - min) * inverse.
static void nearest(const qn_levels *levels, int n, const float *restrict x, float inverse, float min,
                    float *restrict out) {
  float y[LANES];
  for (int i = 0; i < n; i += LANES) {
    for (int j = 0; j < LANES; j++) y[j] = (x[i + j] - min) * inverse;
    if (levels->book) {
      nearest_in_book(levels->book, y, out + i);
    } else {
      nearest_in_range((float)levels->low, (float)(levels->high - levels->low), y, out + i);
    }
  }
}

// Weighted sums over a group, in four strided parts.
typedef struct sums {
  float l, ll, lx, x, xx, w;
} sums;

static float total(const float part[4]) { return (part[0] + part[1]) + (part[2] + part[3]); }

static sums add_up(int n, const float *restrict x, const float *restrict weight, const float *restrict level) {
  float l[4] = {0}, ll[4] = {0}, lx[4] = {0};
  for (int i = 0; i < n; i += 4) {
    for (int j = 0; j < 4; j++) {
      float wl = weight[i + j] * level[i + j];
      l[j] += wl;
      ll[j] += wl * level[i + j];
      lx[j] += wl * x[i + j];
    }
  }
  return (sums){.l = total(l), .ll = total(ll), .lx = total(lx)};
}

static void add_up_values(int n, const float *x, const float *weight, sums *s) {
  float w[4] = {0}, wx[4] = {0}, xx[4] = {0};
  for (int i = 0; i < n; i += 4) {
    for (int j = 0; j < 4; j++) {
      w[j] += weight[i + j];
      wx[j] += weight[i + j] * x[i + j];
      xx[j] += weight[i + j] * x[i + j] * x[i + j];
    }
  }
  s->w = total(w);
  s->x = total(wx);
  s->xx = total(xx);
}

// The error of scale and min against the levels chosen.
static float error_of(int n, const float *x, const float *weight, const float *level, float scale, float min) {
  float part[4] = {0};
  for (int i = 0; i < n; i += 4) {
    for (int j = 0; j < 4; j++) {
      float d = x[i + j] - (scale * level[i + j] + min);
      part[j] += weight[i + j] * d * d;
    }
  }
  return total(part);
}

float qn_fit_levels(const qn_levels *levels, int n, const float *x, const float *weight, float scale, float min,
                    float *out_levels) {
  float inverse = 1.0f / scale;
  assert(n <= QN_FIT_MAX && n % LANES == 0);
  // A scale of nothing, or one so small that its inverse is none, makes every value the minimum.
  nearest(levels, n, x, isfinite(inverse) ? inverse : 0.0f, min, out_levels);
  return error_of(n, x, weight, out_levels, scale, min);
}

// Keeps the fit where it is better.
static bool keep(qn_fit *best, qn_fit fit) {
  bool better = isfinite(fit.scale) && isfinite(fit.min) && fit.error < best->error;
  if (better) *best = fit;
  return better;
}

// ---- without a minimum

static qn_fit line_through_zero(const qn_levels *levels, int n, const float *x, const float *weight, float inverse) {
  float level[QN_FIT_MAX];
  nearest(levels, n, x, inverse, 0.0f, level);
  sums s = add_up(n, x, weight, level);
  qn_fit fit = {.scale = s.ll > 0.0f ? s.lx / s.ll : 0.0f};
  fit.error = error_of(n, x, weight, level, fit.scale, 0.0f);
  return fit;
}

qn_fit qn_fit_scale(const qn_levels *levels, int n, const float *x, const float *weight) {
  float extreme = 0.0f, zero[QN_FIT_MAX] = {0};
  assert(n <= QN_FIT_MAX && n % LANES == 0);
  for (int i = 0; i < n; i++) extreme = fabsf(x[i]) > fabsf(extreme) ? x[i] : extreme;
  qn_fit best = {.error = error_of(n, x, weight, zero, 0.0f, 0.0f)};
  // The value of largest magnitude takes the level furthest from zero, which is the lowest.
  float inverse = (float)levels->low / extreme;
  if (!isfinite(inverse)) return best;
  for (int i = 0; i < STRETCHES; i++) keep(&best, line_through_zero(levels, n, x, weight, inverse * stretches[i]));
  for (int i = 0; i < REFITS && best.scale != 0.0f; i++) {
    if (!keep(&best, line_through_zero(levels, n, x, weight, 1.0f / best.scale))) break;
  }
  return best;
}

// ---- with one

static qn_fit line_through(const qn_levels *levels, int n, const float *x, const float *weight, const sums *values,
                           float inverse, float min, bool min_negative) {
  float level[QN_FIT_MAX];
  nearest(levels, n, x, inverse, min, level);
  sums s = add_up(n, x, weight, level);
  float determinant = s.ll * values->w - s.l * s.l;
  qn_fit fit = {.scale = 0.0f, .min = values->w > 0.0f ? values->x / values->w : 0.0f};
  if (determinant > 0.0f) {
    fit.scale = (s.lx * values->w - values->x * s.l) / determinant;
    fit.min = (s.ll * values->x - s.l * s.lx) / determinant;
  }
  if (fit.scale < 0.0f || (min_negative && fit.min > 0.0f)) {
    fit.min = 0.0f;
    fit.scale = s.ll > 0.0f && s.lx > 0.0f ? s.lx / s.ll : 0.0f;
  }
  fit.error = error_of(n, x, weight, level, fit.scale, fit.min);
  return fit;
}

qn_fit qn_fit_scale_min(const qn_levels *levels, int n, const float *x, const float *weight, bool min_negative) {
  float low = x[0], high = x[0], zero[QN_FIT_MAX] = {0};
  assert(n <= QN_FIT_MAX && n % LANES == 0 && !levels->book);
  for (int i = 1; i < n; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  if (min_negative && low > 0.0f) low = 0.0f;
  sums values = {0};
  add_up_values(n, x, weight, &values);
  qn_fit best = {.min = low};  // exact where all values are equal
  best.error = error_of(n, x, weight, zero, 0.0f, low);
  float inverse = (float)(levels->high - levels->low) / (high - low);
  if (!isfinite(inverse)) return best;
  for (int i = 0; i < STRETCHES; i++) {
    float cut = 0.5f * (high - low) * (1.0f - 1.0f / stretches[i]);  // as much at both ends
    float min = min_negative && low + cut > 0.0f ? 0.0f : low + cut;
    keep(&best, line_through(levels, n, x, weight, &values, inverse * stretches[i], min, min_negative));
  }
  for (int i = 0; i < REFITS && best.scale > 0.0f; i++) {
    qn_fit fit = line_through(levels, n, x, weight, &values, 1.0f / best.scale, best.min, min_negative);
    if (!keep(&best, fit)) break;
  }
  return best;
}
