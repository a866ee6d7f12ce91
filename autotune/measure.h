// How the search has candidates made, checked and timed: the seam between the search, which knows schedules and
// statistics, and the worker, which knows code, buffers and child processes. Tests put a fake machine behind it.
#ifndef QN_AUTOTUNE_MEASURE_H
#define QN_AUTOTUNE_MEASURE_H

#include "autotune/verdict.h"
#include "ir/program.h"
#include "runtime/base/diag.h"

// One kernel in one class of row counts: what a schedule is sought for.
typedef struct qn_tuning_task {
  const qn_program *program;   // borrowed, as are the others; lowered, with the sizes of its buffers
  const qn_pkernel *kernel;    // of the program
  const qn_pstep *step;        // one that calls it: its buffers say what the parameters are
  int64_t rows_min, rows_max;  // the class
  // What it is timed at: the value of the kernel's `rows` symbol (T, the tokens of the step, or R), and of T where it
  // has none. Of a kernel whose symbol is R, T is the same number.
  int64_t rows;
  int64_t keys;  // in the cache before the step, while it is timed
  int threads;
  double bound_s;  // no schedule is faster than this (roofline); 0 = not known
  double weight;   // calls of it in the work that is tuned for: seconds * weight is its share
} qn_tuning_task;

// What became of one candidate. `evidence` says more where the verdict is not OK ("output 0, row 3, column 17: ..."),
// or what was checked where it is.
typedef struct qn_measured {
  qn_verdict verdict;
  bool cut;  // its time was over before anything was known of it: the verdict means nothing
  char evidence[192];
} qn_measured;
static inline bool qn_is_right(const qn_measured *m) { return !m->cut && m->verdict == QN_VERDICT_OK; }
static inline bool qn_is_bad(const qn_measured *m) { return !m->cut && m->verdict != QN_VERDICT_OK; }

// How a step's threads work.
typedef struct qn_setting {
  int threads;  // that take part, at most the task's; 0 = the task's
  int spin_us;  // how long one that waits spins before it sleeps; -1 = as threads do by themselves
  int grain;    // as in qn_threads_set_grain; 0 = the same
} qn_setting;

// Candidates of a task have numbers: 0, 1, 2 ... in the order they were given to `prepare` since `begin`. The measurer
// keeps all of them until `end`, so that any two can be timed against each other; a child process that died is made
// anew behind it. A status other than OK is never a candidate's doing: NOMEM means that there is no memory for this
// task, where others may do with less; after the others nothing can be measured any more.
typedef struct qn_measurer {
  void *self;
  // Takes a task, borrowed until `end`; one at a time.
  qn_status (*begin)(void *self, const qn_tuning_task *task, qn_diag *diag);
  // Compiles `count` legal schedules in one module and checks each before it may be timed. One result a schedule.
  qn_status (*prepare)(void *self, const qn_schedule *schedules, int count, qn_measured *out, qn_diag *diag);
  // Times two candidates whose verdict is OK in turns (a b, b a, a b ...), `rounds` times each, as the model meets them
  // (cold weights where they come from memory): out_seconds[2 * i] is a's time in round i, out_seconds[2 * i + 1] b's,
  // each of one call. a == b times one of them twice a round. Where one dies or hangs, or was found to be wrong since it
  // was prepared, its result says so (out[0] a's, out[1] b's), the times are 0 and it must not be timed again; otherwise
  // both are OK.
  qn_status (*pair)(void *self, int a, int b, int rounds, double *out_seconds, qn_measured out[2], qn_diag *diag);
  // Until the task's end, pairs time a under settings[0] and b under settings[1]: a == b compares settings alone.
  void (*set)(void *self, const qn_setting settings[2]);
  void (*end)(void *self);
  double (*now)(void *self);  // seconds of a clock that never goes back: what budgets are held against
  // From now on no call goes on beyond `deadline` (of that clock; HUGE_VAL = there is none, as at first): what is not
  // known by then is cut. A candidate is not to blame for that.
  void (*limit)(void *self, double deadline);
} qn_measurer;

#endif
