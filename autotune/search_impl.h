// What search.c and propose.c share.
#ifndef QN_AUTOTUNE_SEARCH_IMPL_H
#define QN_AUTOTUNE_SEARCH_IMPL_H

#include "autotune/search.h"
#include "runtime/base/vec.h"

#define QN_SEARCH_SEEDS   8
#define QN_SEARCH_AGAIN   2     // challengers a step at most
#define QN_SEARCH_UNKNOWN 0.25  // what a first batch is expected to save
#define QN_SEARCH_BATCH 14  // candidates a step at most: with incumbent and start, and the surrogate's lies

struct qn_search {
  const qn_allocator *allocator;  // borrowed
  qn_tuning_task task;
  qn_search_options options;
  qn_schedule start, incumbent;
  qn_space space;
  qn_rng rng;
  QN_VEC(qn_candidate) candidates;  // owned
  QN_VEC(uint64_t) codes;           // owned: hashes of the loop IR of what was proposed (distinct_code)
  qn_schedule seeds[QN_SEARCH_SEEDS];
  int seed_count;
  qn_surrogate *surrogate;  // owned
  bool learnt;              // the surrogate has observations
  qn_schedule next[QN_SEARCH_BATCH];  // the next batch, once `ahead`
  int next_count;
  size_t codes_before;  // how many codes there were before the next batch was chosen
  bool ahead;
  qn_noise noise;
  double expected;  // of the next batch, once `ahead`
  int turn;         // how many incumbents there were, from 1
  double gain_log;  // ln(start / incumbent), by gain_pairs
  int gain_pairs;
  int idle_steps;  // in turn, in which nothing won
  qn_search_state state;
  qn_search_counts counts;
};

// Where the schedule lies and what the model says of it.
void qn_search_look(const qn_search *search, const qn_schedule *schedule, qn_observation *out);
// Was the schedule tried?
bool qn_search_has(const qn_search *search, const qn_schedule *schedule);
// The best time known: ln of seconds. Only when something was timed.
double qn_search_best_value(const qn_search *search);
// Those that were tried and undecided, but that all that is known by now takes for faster than the incumbent: worth a
// longer race. The most promising first, at most `most` of them; how many.
int qn_search_challengers(qn_search *search, int most, const qn_candidate **out);
// Teaches the surrogate all that was timed.
QN_CHECKED qn_status qn_search_learn(qn_search *search, qn_diag *diag);

#endif
