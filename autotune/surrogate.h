// What is learnt while a kernel is tuned: times of candidates not yet tried, guessed from those that were, with how far
// the guess may be off. A Gaussian process (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006,
// chapters 2 and 5) over points of the space, around the analytic model's prediction.
#ifndef QN_AUTOTUNE_SURROGATE_H
#define QN_AUTOTUNE_SURROGATE_H

#include "runtime/base/alloc.h"
#include "runtime/base/diag.h"

#define QN_SURROGATE_DIMS 24   // coordinates of a point at most
#define QN_SURROGATE_MOST 112  // observations that count; of more the best half and the newest

// One candidate: where it lies, what the analytic model says, and, where it was timed, what came of it. Times are
// logarithms of seconds: a difference of 0.01 is one per cent.
typedef struct qn_observation {
  double at[QN_SURROGATE_DIMS];
  double prediction;
  double value, variance;  // of the mean of its measurements
} qn_observation;

typedef struct qn_guess {
  double mean, deviation;
} qn_guess;

typedef struct qn_surrogate qn_surrogate;

QN_CHECKED qn_status qn_surrogate_create(int dims, const qn_allocator *allocator, qn_surrogate **out, qn_diag *diag);
void qn_surrogate_destroy(qn_surrogate *surrogate);  // NULL is harmless

// Learns from `count` observations (copied), at least one. How much the analytic model is to be believed, how far apart
// points tell of each other, and which coordinates matter, is chosen by the marginal likelihood: when there are a third
// more than when it was chosen last, or `anew`.
void qn_surrogate_fit(qn_surrogate *surrogate, const qn_observation *observations, size_t count, bool anew);
// Guesses a candidate's time; only `at` and `prediction` are looked at. After a fit.
qn_guess qn_surrogate_guess(qn_surrogate *surrogate, const qn_observation *candidate);
// Takes the guess for an observation, so that the next candidates of a batch are looked for elsewhere. At most
// QN_SURROGATE_LIES times after a fit; more are ignored.
#define QN_SURROGATE_LIES 16
void qn_surrogate_assume(qn_surrogate *surrogate, const qn_observation *candidate);

// The mean of max(0, best - x) over a guess: what is to be gained on a time of `best`.
double qn_expected_improvement(qn_guess guess, double best);

#endif
