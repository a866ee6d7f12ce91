// A Gaussian process by Cholesky factors: small dense matrices, refitted from nothing each time.
#include "autotune/surrogate.h"

#include <math.h>
#include <string.h>

enum { ROWS = QN_SURROGATE_MOST + QN_SURROGATE_LIES };

// What the marginal likelihood chooses.
typedef struct hyper {
  double belief;                        // factor of the analytic model's prediction: 1 = as it is, 0 = not at all
  double length;                        // distance at which points tell little of each other
  double deviation;                     // of the times around belief * prediction + mean
  double relevance[QN_SURROGATE_DIMS];  // factor of a coordinate's distance
} hyper;

struct qn_surrogate {
  const qn_allocator *allocator;
  int dims;
  qn_observation rows[ROWS];
  size_t count;
  hyper h;
  size_t chosen_at;  // how many observations there were when h was chosen
  double mean;                 // of value - belief * prediction, weighted by the covariance
  double factor[ROWS * ROWS];  // lower triangle: covariance = factor * factor'
  double weights[ROWS];        // covariance^-1 * residuals
  double residual[ROWS], scratch[ROWS];
};

static double *row_of(qn_surrogate *s, size_t i) { return &s->factor[i * ROWS]; }

qn_status qn_surrogate_create(int dims, const qn_allocator *allocator, qn_surrogate **out, qn_diag *diag) {
  *out = NULL;
  if (dims < 1 || dims > QN_SURROGATE_DIMS) {
    return qn_fail(diag, QN_ERR_LIMIT, "surrogate", "got %d coordinates, want 1 to %d", dims, QN_SURROGATE_DIMS);
  }
  qn_surrogate *s = qn_alloc_zeroed(allocator, sizeof *s);
  if (!s) return qn_fail_nomem(diag, "tuning", "what is learnt of a kernel");
  s->allocator = allocator;
  s->dims = dims;
  *out = s;
  return QN_OK;
}

void qn_surrogate_destroy(qn_surrogate *s) {
  if (s) qn_free(s->allocator, s, sizeof *s);
}

// --- the process

static double covariance(const qn_surrogate *s, const qn_observation *a, const qn_observation *b) {
  double distance = 0;
  for (int d = 0; d < s->dims; d++) {
    double apart = (a->at[d] - b->at[d]) * s->h.relevance[d];
    distance += apart * apart;
  }
  distance = sqrt(distance) / s->h.length;
  // Matern 3/2: rougher than a Gaussian bell, as times are where a register or a cache runs out.
  double u = sqrt(3.0) * distance;
  return s->h.deviation * s->h.deviation * (1 + u) * exp(-u);
}

// The measurement's variance, and a little that the coordinates do not tell: alignment, what a compiler makes of it.
static double noise(const qn_surrogate *s, const qn_observation *o) {
  double unexplained = 0.02 * s->h.deviation;
  return o->variance + unexplained * unexplained + 1e-8;
}

// Appends row i to the factor; false when it is not positive (points on top of each other, rounding).
static bool factor_row(qn_surrogate *s, size_t i) {
  double *row = row_of(s, i);
  for (size_t j = 0; j <= i; j++) {
    const double *other = row_of(s, j);
    double sum = covariance(s, &s->rows[i], &s->rows[j]);
    if (i == j) sum += noise(s, &s->rows[i]);
    for (size_t k = 0; k < j; k++) sum -= row[k] * other[k];
    if (i == j) {
      if (!(sum > 1e-12)) return false;
      row[j] = sqrt(sum);
    } else {
      row[j] = sum / other[j];
    }
  }
  return true;
}

// x = factor^-1 x
static void solve_lower(qn_surrogate *s, double *x) {
  for (size_t i = 0; i < s->count; i++) {
    const double *row = row_of(s, i);
    for (size_t k = 0; k < i; k++) x[i] -= row[k] * x[k];
    x[i] /= row[i];
  }
}

// x = factor'^-1 x
static void solve_upper(qn_surrogate *s, double *x) {
  for (size_t i = s->count; i-- > 0;) {
    x[i] /= row_of(s, i)[i];
    for (size_t k = 0; k < i; k++) x[k] -= row_of(s, i)[k] * x[i];
  }
}

// Factors the covariance and fits mean and weights; the log of the marginal likelihood, -HUGE_VAL where it fails.
static double condition(qn_surrogate *s) {
  double ones = 0, sum = 0, fit = 0, determinant = 0;
  for (size_t i = 0; i < s->count; i++)
    if (!factor_row(s, i)) return -HUGE_VAL;
  for (size_t i = 0; i < s->count; i++) s->residual[i] = s->rows[i].value - s->h.belief * s->rows[i].prediction;
  for (size_t i = 0; i < s->count; i++) s->scratch[i] = 1;
  memcpy(s->weights, s->residual, s->count * sizeof *s->weights);
  solve_lower(s, s->scratch);
  solve_lower(s, s->weights);
  for (size_t i = 0; i < s->count; i++) {
    ones += s->scratch[i] * s->scratch[i];
    sum += s->scratch[i] * s->weights[i];
  }
  s->mean = sum / ones;
  for (size_t i = 0; i < s->count; i++) {
    s->weights[i] -= s->mean * s->scratch[i];
    fit += s->weights[i] * s->weights[i];
    determinant += log(row_of(s, i)[i]);
  }
  solve_upper(s, s->weights);
  return -0.5 * fit - determinant;
}

// --- choosing

// Tries a value of one number of the hypothesis and keeps the better.
static void try_value(qn_surrogate *s, double *number, double value, double penalty, double *best) {
  double before = *number;
  if (before == value) return;
  *number = value;
  double likelihood = condition(s) - penalty;
  if (likelihood > *best) {
    *best = likelihood;
  } else {
    *number = before;
  }
}

static void choose(qn_surrogate *s) {
  static const double beliefs[] = {0, 0.5, 1}, lengths[] = {1, 2, 4, 8}, deviations[] = {0.05, 0.1, 0.2, 0.4, 0.8};
  static const double relevances[] = {0.25, 0.5, 1, 2};
  s->h = (hyper){.belief = 1, .length = 2, .deviation = 0.2};
  for (int d = 0; d < s->dims; d++) s->h.relevance[d] = 1;
  double best = condition(s);
  for (int round = 0; round < 2 && s->count >= 4; round++) {
    for (size_t i = 0; i < QN_COUNT(deviations); i++) try_value(s, &s->h.deviation, deviations[i], 0, &best);
    for (size_t i = 0; i < QN_COUNT(lengths); i++) try_value(s, &s->h.length, lengths[i], 0, &best);
    for (size_t i = 0; i < QN_COUNT(beliefs); i++) try_value(s, &s->h.belief, beliefs[i], 0, &best);
    if (s->count < 10) continue;
    for (int d = 0; d < s->dims; d++) {  // a coordinate must earn what sets it apart
      for (size_t i = 0; i < QN_COUNT(relevances); i++) try_value(s, &s->h.relevance[d], relevances[i], 0.3, &best);
    }
  }
  (void)condition(s);
}

// The best half and the newest of more observations than count.
static void take(qn_surrogate *s, const qn_observation *observations, size_t count) {
  size_t most = QN_SURROGATE_MOST, kept = 0, newest = count > most ? most / 2 : count;
  for (size_t i = count - newest; i < count; i++) s->rows[kept++] = observations[i];
  size_t left = count - newest;
  if (left > 0) {
    double bar = HUGE_VAL;  // falls until no more than the room there is lie below it
    for (size_t below = left; below > most - kept;) {
      double highest = -HUGE_VAL;
      below = 0;
      for (size_t i = 0; i < left; i++)
        if (observations[i].value < bar && observations[i].value > highest) highest = observations[i].value;
      bar = highest;
      for (size_t i = 0; i < left; i++) below += observations[i].value < bar;
    }
    for (size_t i = 0; i < left && kept < most; i++)
      if (observations[i].value < bar) s->rows[kept++] = observations[i];
  }
  s->count = kept;
}

void qn_surrogate_fit(qn_surrogate *s, const qn_observation *observations, size_t count, bool anew) {
  take(s, observations, count);
  if (!anew && s->chosen_at > 0 && count < s->chosen_at + s->chosen_at / 3) {  // little is new: what was chosen still holds
    (void)condition(s);
    return;
  }
  choose(s);
  s->chosen_at = count;
}

qn_guess qn_surrogate_guess(qn_surrogate *s, const qn_observation *candidate) {
  double mean = s->mean + s->h.belief * candidate->prediction, variance = s->h.deviation * s->h.deviation;
  for (size_t i = 0; i < s->count; i++) {
    s->scratch[i] = covariance(s, candidate, &s->rows[i]);
    mean += s->scratch[i] * s->weights[i];
  }
  solve_lower(s, s->scratch);
  for (size_t i = 0; i < s->count; i++) variance -= s->scratch[i] * s->scratch[i];
  return (qn_guess){mean, sqrt(variance > 1e-10 ? variance : 1e-10)};
}

void qn_surrogate_assume(qn_surrogate *s, const qn_observation *candidate) {
  if (s->count >= ROWS) return;
  qn_observation *row = &s->rows[s->count];
  *row = *candidate;
  row->value = qn_surrogate_guess(s, candidate).mean;
  row->variance = 0;
  if (!factor_row(s, s->count)) return;
  s->weights[s->count++] = 0;  // a value that is the guess changes no other guess's mean
}

double qn_expected_improvement(qn_guess guess, double best) {
  double z = (best - guess.mean) / guess.deviation;
  double density = exp(-0.5 * z * z) / sqrt(2 * M_PI), below = 0.5 * erfc(-z / sqrt(2.0));
  double gain = guess.deviation * (z * below + density);
  return gain > 0 ? gain : 0;
}
