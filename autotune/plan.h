// From the database to a kernel's variants: which records serve this compilation, and why others do not.
#ifndef QN_AUTOTUNE_PLAN_H
#define QN_AUTOTUNE_PLAN_H

#include "autotune/db.h"
#include "passes/pass.h"
#include "runtime/base/vec.h"

// A schedule on one line, "; " between knobs: as records have it.
void qn_schedule_put_line(const qn_schedule *schedule, qn_buf *out);
QN_CHECKED qn_status qn_schedule_parse_line(const char *line, qn_schedule *out, qn_diag *diag);

// Which records are meant: those of this code, on machines of this make, with so many threads. Borrowed texts.
typedef struct qn_tuning_key {
  const char *target, *fingerprint, *generator;
  int threads;
} qn_tuning_key;

// A search's end, or how far it has come: as qn_finished has it. Of two with the same `when` (seconds since 1970; 0 =
// now) nobody knows which is the later one.
typedef struct qn_plan_end {
  const char *reason;
  double within, gain;
  int pairs;
  int64_t when;
} qn_plan_end;
// A mark for one class of row counts, with the winner's schedule as its plan.
QN_CHECKED qn_status qn_plan_put_winner(qn_db *db, const qn_tuning_key *key, const qn_pkernel *kernel,
                                        int64_t rows_min, int64_t rows_max, const qn_schedule *winner,
                                        const qn_plan_end *end, qn_diag *diag);
// Up to which row counts each class but the last is the faster one: a mark for the kernel as a whole (rows 0 to 0).
QN_CHECKED qn_status qn_plan_put_crossovers(qn_db *db, const qn_tuning_key *key, const qn_pkernel *kernel,
                                            const qn_kernel_plan *plan, qn_diag *diag);

// Did a session ask for them? Edited marks do not tell.
QN_CHECKED qn_status qn_plan_has_crossovers(qn_db *db, const qn_tuning_key *key, const qn_pkernel *kernel, bool *out,
                                            qn_diag *diag);

typedef struct qn_winner {
  qn_schedule schedule;
  qn_finished mark;  // texts in the arena
} qn_winner;
// The winner of a class by the latest mark with the key's fields (generator NULL: of any build). When there is none, or
// it must not be used (edited, not legal, found to be bad by any record of the build that found it), *out_found is
// false; *out_reason (arena) then says why where there was one, else it is NULL.
QN_CHECKED qn_status qn_plan_winner(qn_db *db, const qn_tuning_key *key, const qn_pkernel *kernel, int64_t rows_min,
                                    int64_t rows_max, qn_arena *arena, qn_winner *out, bool *out_found,
                                    const char **out_reason, qn_diag *diag);

// ---- settings of the machine (settings.c)

// Under what signature something of a whole program with these kernels ("settings") is kept.
void qn_program_signature(const char *what, const char *const *signatures, size_t count, qn_buf *out);
// Those of the latest session with the key's fields (generator NULL: of any build). Of *out threads_prefill,
// threads_decode, spin_us and grain are meant.
QN_CHECKED qn_status qn_settings_find(qn_db *db, const qn_tuning_key *key, const char *signature,
                                      qn_machine_knobs *out, bool *out_found, qn_diag *diag);

// ---- choosing

// A winner that another build of quern found: taken, and to be checked once there is code (qn_recheck).
typedef struct qn_plan_foreign {
  const qn_pkernel *kernel;
  const char *target;
  int64_t rows_min, rows_max;  // the class
  qn_schedule schedule;
  bool denied;         // by the caller: its code is wrong now, or cannot be checked; it is rejected from now on
  const char *reason;  // why, in the arena
} qn_plan_foreign;

typedef struct qn_plan_counts {
  int accepted, foreign, rejected, missing;  // classes of row counts; foreign ones are accepted too
  char first_reason[256];                    // why the first one was rejected, with its kernel
} qn_plan_counts;

// How schedules are chosen while a model is compiled.
typedef struct qn_plan_chooser {
  qn_db *db;  // borrowed; NULL = choose nothing
  qn_tuning_key key;
  const qn_machine_model *machine;  // borrowed
  const int64_t *max_values;        // borrowed: of the program's symbols
  bool take_foreign;                // winners of other builds are taken into `foreign`; otherwise rejected
  QN_VEC(qn_plan_foreign) foreign;  // in the arena
  qn_arena *arena;                  // borrowed
  qn_buf *evidence;                 // borrowed; a line for each variant that a record gave: NULL = not wanted
  qn_plan_counts counts;
  qn_diag *diag;  // borrowed: of a database that fails
  qn_status status;
} qn_plan_chooser;

// qn_pass_options.choose, with a qn_plan_chooser as its context: the default plan with the winners in the place of its
// schedules. False, and the model's choice, where no record serves.
bool qn_plan_choose(void *chooser, const qn_pkernel *kernel, qn_kernel_plan *out);

#endif
