// Is a candidate faster than the incumbent? A sequential test on pairs of times taken in turns, which ends as soon as
// the answer is clear: Wald's ratio test ("Sequential Analysis", 1947) on the logarithms of the pairs' ratios, made
// robust against the outliers that other programs cause.
#ifndef QN_AUTOTUNE_RACE_H
#define QN_AUTOTUNE_RACE_H

#include <stdbool.h>
#include <stddef.h>

#define QN_RACE_MOST 1024  // pairs of one race

typedef enum qn_race_state {
  QN_RACE_OPEN,
  QN_RACE_WON,   // the candidate is faster
  QN_RACE_LOST,  // it is not faster by `gain`
} qn_race_state;

// What the test promises, for ratios that are distributed around their mean as normal ones are: a candidate that is not
// faster wins with at most `false_win`, one that is faster by `gain` (a share, 0.02) loses with at most `false_loss`.
typedef struct qn_race_rules {
  double gain, false_win, false_loss;
  int least;  // pairs before a candidate can win
} qn_race_rules;

// How much ratios scatter: of all races on one kernel together, since it is the machine's doing.
#define QN_NOISE_MOST 256
typedef struct qn_noise {
  double deviations[QN_NOISE_MOST];  // the latest, in a ring: of ratios from the median of their race
  size_t count;                      // ever
} qn_noise;
// The standard deviation of a ratio, from the median of the deviations; a guess of 0.05 before there are some, and
// never less than 0.003.
double qn_noise_deviation(const qn_noise *noise);

typedef struct qn_race {
  double ratios[QN_RACE_MOST];  // ln(incumbent's time / candidate's): more than 0 = the candidate was faster
  int count;
  double mean_before;  // of so many pairs of the same two in an earlier race, which count as well
  int count_before;
} qn_race;

// Adds a pair; times are more than 0. Pairs beyond QN_RACE_MOST are ignored.
void qn_race_add(qn_race *race, double incumbent_s, double candidate_s);
// The mean of the ratios, each drawn to at most three deviations from their median, and of those before; of how many.
double qn_race_mean(const qn_race *race, double deviation);
int qn_race_count(const qn_race *race);
qn_race_state qn_race_decide(const qn_race *race, double deviation, const qn_race_rules *rules);
// Tells the noise of this race; once for each.
void qn_noise_learn(qn_noise *noise, const qn_race *race);

// The quantile q (0..1) of values, between neighbours in proportion. Sorts them. 0 of none.
double qn_quantile(double *values, size_t count, double q);

#endif
