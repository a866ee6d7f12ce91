// The search for one task's schedule, batch by batch: candidates that the analytic model and what was measured so far
// promise most of, each checked, then raced against the incumbent. The incumbent starts as the default schedule, so the
// end is never slower by more than the test's error.
#ifndef QN_AUTOTUNE_SEARCH_H
#define QN_AUTOTUNE_SEARCH_H

#include "autotune/measure.h"
#include "autotune/race.h"
#include "autotune/space.h"

typedef struct qn_search qn_search;

// A schedule that was tried, or is known from a record.
#define QN_CANDIDATE_TIMES 32
typedef struct qn_candidate {
  qn_schedule schedule;
  qn_verdict verdict;
  char evidence[192];
  double median_s, spread_s;  // of its measured times: median and interquartile range; 0 when there are none
  int samples;
  double times[QN_CANDIDATE_TIMES];  // the latest
  double ratio;                      // incumbent's time over its own when it was raced (1.1 = faster), by `pairs`
  int pairs;
  int against;                       // in which of a search's incumbents' turns that was, from 1; 0 = in none of them
  qn_observation seen;  // what is learnt from it; only of those that were timed
} qn_candidate;

// Why a search ended, or that it goes on.
typedef enum qn_search_state {
  QN_SEARCH_OPEN,
  QN_SEARCH_WITHIN,     // the incumbent is within options.within of the bound
  QN_SEARCH_SETTLED,    // two batches in turn won nothing, and less than options.least_gain is expected of the next
  QN_SEARCH_EXHAUSTED,  // every legal schedule was tried
  QN_SEARCH_BROKEN,     // the default schedule itself fails its check: nothing can be timed against it
} qn_search_state;

typedef struct qn_search_options {
  const qn_machine_model *machine;  // borrowed
  double within;                    // share above the bound that is near enough; 0 = 0.05
  double least_gain;                // share of the kernel's time; 0 = 0.003
  int batch;                        // candidates a step; 0 = 8
  double race_s;                    // seconds that one race may take; 0 = 0.25
  bool distinct_code;               // leave out schedules that make the same loop IR as one that was tried
  uint64_t seed;                    // of the draws
  // Called once a candidate's fate is known: its record can be written. NULL = nobody asks.
  void (*found)(void *context, const qn_search *search, const qn_candidate *candidate);
  // Asked often; true ends the step early. NULL = never.
  bool (*cancelled)(void *context);
  void *context;
} qn_search_options;

// A search from `start`, the default schedule. The task is copied; what it points to is borrowed. Errors: ARGUMENT
// (start is not legal), NOMEM.
QN_CHECKED qn_status qn_search_create(const qn_tuning_task *task, const qn_schedule *start,
                                      const qn_search_options *options, const qn_allocator *allocator, qn_search **out,
                                      qn_diag *diag);
void qn_search_destroy(qn_search *search);  // NULL is harmless

// What an earlier session found of this very task: it is not tried again. Of several for one schedule the first counts,
// but one that says that it is bad counts whatever others say. Before the first step.
QN_CHECKED qn_status qn_search_add_known(qn_search *search, const qn_candidate *known, qn_diag *diag);
// The winner of an earlier session, among those known: the incumbent to begin with. `gain` is what that session
// measured in `pairs` (0 = it did not).
void qn_search_set_incumbent(qn_search *search, const qn_schedule *schedule, double gain, int pairs);
// Something to try early, from a kernel or a machine like this one; ignored where it is not legal. Before the first
// step.
void qn_search_add_seed(qn_search *search, const qn_schedule *seed);

// One batch: proposes, prepares, races. Where a bound is known the first step times the start alone, which may be near
// enough to it. Ends early at `deadline` (of the measurer's clock), and where the measurer cuts
// it off: candidates of which nothing is known then were not tried.
QN_CHECKED qn_status qn_search_step(qn_search *search, const qn_measurer *measurer, double deadline, qn_diag *diag);

qn_search_state qn_search_get_state(const qn_search *search);
// Is what was timed of the incumbent within options.within of the task's bound?
bool qn_search_is_near_bound(const qn_search *search);
// Chooses the next batch, so that qn_search_expected tells of it: after a step it is chosen already, unless time was
// over.
QN_CHECKED qn_status qn_search_look_ahead(qn_search *search, qn_diag *diag);
// The share of the kernel's time that the next batch is expected to save; a quarter before a first batch, and once the
// incumbent was timed never more than lies between it and the bound (if that is not beaten already).
double qn_search_expected(const qn_search *search);
// Seconds a call of the incumbent takes: the fastest tenth of what was measured, or the model's prediction before that.
double qn_search_seconds(const qn_search *search);
const qn_tuning_task *qn_search_task(const qn_search *search);
const qn_schedule *qn_search_start(const qn_search *search);
const qn_schedule *qn_search_incumbent(const qn_search *search);
// The candidate whose schedule that is, be it bad; NULL when it was not tried.
const qn_candidate *qn_search_find(const qn_search *search, const qn_schedule *schedule);
// The start's time over the incumbent's, in *out_pairs (may be NULL) of them: 1 and 0 while they are the same, or were
// never timed in pairs. Times of different moments are not held against each other.
double qn_search_gain(const qn_search *search, int *out_pairs);

typedef struct qn_search_counts {
  int tried;  // candidates with a verdict, those known from before among them
  int verdicts[QN_VERDICT_COUNT];
  int steps, won;  // batches, races won by a candidate, in this session
  int idle;        // batches since one won
  double seconds;  // of the measurer's clock, in steps
  double step_s;   // of the last step
  double step_gain;  // what it saved: ln of the incumbent's time before it over that after
  int step_tried;    // candidates in it
} qn_search_counts;
qn_search_counts qn_search_get_counts(const qn_search *search);

// ---- proposals (propose.c)

// Up to `most` schedules to try next, the most promising first, none of which is among the candidates; and how much the
// first is expected to save. Fewer when the space has no more.
QN_CHECKED qn_status qn_search_propose(qn_search *search, int most, qn_schedule *out, int *out_count, qn_diag *diag);

#endif
