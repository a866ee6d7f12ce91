// A tuning session over a whole model: a search for every kernel and class of row counts, time given to the one where
// most is to be gained, everything found in the database at once, taken up again where an earlier session stopped.
#ifndef QN_AUTOTUNE_SESSION_H
#define QN_AUTOTUNE_SESSION_H

#include "autotune/plan.h"
#include "autotune/search.h"

// What the session is at.
typedef struct qn_session_progress {
  const char *kernel;  // its name; NULL before the first
  int64_t rows_min, rows_max;
  int task, tasks;         // which of how many, from 1
  int tried;               // candidates of this kernel and class so far
  double best_s, bound_s;  // seconds of a call; bound 0 = not known
  double gain;             // default's time over best's
  double share;            // of the run time
  double spent_s, left_s;  // of the budget
} qn_session_progress;

// What tuning came to for one kernel and class. Pointers are of the program and static texts.
typedef struct qn_session_result {
  const qn_pkernel *kernel;
  int64_t rows_min, rows_max, rows;    // the class, and what it was timed at
  double share;                        // of the run time (see session.c for the mix), after tuning
  double default_s, tuned_s, bound_s;  // seconds of a call; bound 0 = not known
  double gain;  // default's time over tuned's, by `pairs`; 1 where those are 0: the same, or never timed in pairs
  int pairs, tried, verdicts[QN_VERDICT_COUNT];
  bool measured;  // it was timed, now or by an earlier session; otherwise times are the model's
  bool broken;    // the default schedule itself is wrong, crashes or hangs, which is a bug of quern's
  char end[256];  // why its search ended, or that it goes on
  qn_schedule start, tuned;
} qn_session_result;

typedef enum qn_session_end {
  QN_SESSION_DONE,       // every search came to its end
  QN_SESSION_SETTLED,    // what is left to gain is not worth the time
  QN_SESSION_BUDGET,     // the time is over
  QN_SESSION_CANCELLED,  // the caller wanted so
} qn_session_end;
const char *qn_session_end_text(qn_session_end end);

typedef struct qn_session_report {
  qn_session_result *results;  // owned: in the order of the program's kernels and their classes
  size_t count;
  const qn_allocator *allocator;
  qn_session_end end;
  double expected;   // share of the selected kernels' time that the best next batch is expected to save
  double seconds;    // of the measurer's clock
  int tried, known;  // candidates in this session; known from earlier ones
  int verdicts[QN_VERDICT_COUNT];
  int crossovers;  // boundaries between classes that were moved
  bool has_settings;  // of the machine for this program's steps, found now or by an earlier session
  qn_machine_knobs settings;  // threads_prefill, threads_decode, spin_us and grain of them
  int rejected;    // records and marks of the database that must not be used
  char first_reason[256];  // why the first one was, with its kernel
} qn_session_report;
void qn_session_report_deinit(qn_session_report *report);

typedef struct qn_session_options {
  const qn_machine_model *machine;  // borrowed, as are the others
  qn_tuning_key key;
  qn_db *db;                // NULL = nothing is kept
  double budget_s, within;  // within 0 = 0.05
  double least_value;       // share of the selected kernels' time below which a batch is not worth its time; 0 = 0.0005
  const char *pattern;      // kernels whose names it matches (as a shell's; NULL = all)
  int64_t keys;             // in the cache while attention is timed; 0 = 512, or what the context holds
  bool distinct_code;       // see search.h
  uint64_t seed;
  // The roofline's seconds for a task; 0 = not known.
  double (*bound)(void *context, const qn_tuning_task *task);
  void *bound_context;
  // Called before each batch and after each candidate; false ends the session. NULL = nobody asks.
  bool (*progress)(void *context, const qn_session_progress *progress);
  void *progress_context;
} qn_session_options;

// Tunes a program that was lowered and has its memory planned. The measurer is cut off where the budget ends. A kernel
// for which there is not enough memory is left alone, which its `end` tells. Errors: ARGUMENT (no kernel matches the
// pattern), those of the database and of the measurer; what was found before stays in the database. *out is to be given
// to qn_session_report_deinit in every case.
QN_CHECKED qn_status qn_session_run(const qn_program *program, const qn_measurer *measurer,
                                    const qn_session_options *options, const qn_allocator *allocator,
                                    qn_session_report *out, qn_diag *diag);

#endif
