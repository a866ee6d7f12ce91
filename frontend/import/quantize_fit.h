// The search for the scale (and minimum) of a group of values: the step that all quantisers share. Errors are squared
// and weighted; a group is at most QN_FIT_MAX values, a multiple of 16.
#ifndef QN_IMPORT_QUANTIZE_FIT_H
#define QN_IMPORT_QUANTIZE_FIT_H

#include <stdbool.h>
#include <stdint.h>

enum { QN_FIT_MAX = 32 };

// The levels a code can stand for: all whole numbers of a range, or the 16 of a book.
typedef struct qn_levels {
  int low, high;
  const int8_t *book;  // 16 levels, ascending; NULL = every number from low to high
} qn_levels;

// A group's values are scale * level + min.
typedef struct qn_fit {
  float scale, min;
  float error;  // weighted sum of squares
} qn_fit;

// Each value's nearest level for this scale and minimum; the weighted squared error.
float qn_fit_levels(const qn_levels *levels, int n, const float *x, const float *weight, float scale, float min,
                    float *out_levels);

// The scale (of either sign) with the least error found when there is no minimum.
qn_fit qn_fit_scale(const qn_levels *levels, int n, const float *x, const float *weight);
// The scale (not negative) and the minimum; a minimum above zero is not taken where `min_negative`.
qn_fit qn_fit_scale_min(const qn_levels *levels, int n, const float *x, const float *weight, bool min_negative);

#endif
