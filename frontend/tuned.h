// What tuning found, as a compilation uses it: records chosen for every target, their evidence for the artifact's
// texts, and whether an artifact that was compiled earlier still says what the records say.
#ifndef QUERN_FRONTEND_TUNED_H
#define QUERN_FRONTEND_TUNED_H

#include <limits.h>

#include "autotune/plan.h"
#include "codegen/artifact_write.h"
#include "frontend/quern.h"
#include "runtime/executor.h"

typedef struct quern_tuned {
  qn_db *db;  // owned; NULL = no records are used
  qn_plan_chooser chooser;
  qn_machine_model machine;  // of the target at hand
  qn_buf fingerprint;
  char path[PATH_MAX];  // asked for; empty = the user's own
  char problem[256];  // why the database cannot be used; empty = it can
  int other_threads;  // that there are records for, and none for those at hand; 0 = none seen
} quern_tuned;

// Without a database; the arena is borrowed. To be given to quern_tuned_deinit.
void quern_tuned_init(quern_tuned *tuned, qn_arena *arena);
void quern_tuned_deinit(quern_tuned *tuned);
// Opens the database (NULL: the user's own, "none": not at all) to read what was found for `threads` threads (0 = as
// many as steps have by themselves). One that cannot be read is a problem to be told, and no reason not to compile.
void quern_tuned_open(quern_tuned *tuned, const char *tuning_db, int threads);

// Points the passes at the records for a target: options->choose, or none where there is no database. `max_values` are
// the graph's; evidence of what is chosen is appended to `evidence`, lines that begin with '#'. All is borrowed.
void quern_tuned_choose_for(quern_tuned *tuned, const qn_target *target, const int64_t *max_values,
                            qn_pass_options *options, qn_buf *evidence);
// What became of records, and the database's own failure, if there was one.
void quern_tuned_report(const quern_tuned *tuned, quern_tuning_use *out);

// Checks the code of schedules that another build found: `entries` has one a function of `plan`, which is that of
// `target`. Those that are right become records of this build where the database can be written; those that are not, or
// cannot be checked on this machine, are denied: *out_again says that schedules have to be chosen again.
QN_CHECKED qn_status quern_tuned_recheck(quern_tuned *tuned, const qn_target *target, const qn_program *program,
                                         const qn_program_plan *plan, const qn_kernel_entry *entries,
                                         bool *out_again, qn_diag *diag);
// The same with code that is to be written into an artifact.
QN_CHECKED qn_status quern_tuned_recheck_code(quern_tuned *tuned, const qn_target *target, const qn_program *program,
                                              const qn_program_plan *plan, const qn_code *code, bool *out_again,
                                              qn_diag *diag);

// What makes machine code of functions, so as to see whether it can; the code is dropped.
typedef struct quern_tuned_maker {
  void *context;
  qn_status (*make)(void *context, const qn_lkernel *const *functions, size_t count, qn_diag *diag);
} quern_tuned_maker;
// After code for `plan` of `target` could not be made (`failure`): makes that of schedules that another build found one
// by one, and denies those for which it fails. True when there were such: schedules have to be chosen again. False: it
// is no record's doing.
bool quern_tuned_deny_failing(quern_tuned *tuned, const qn_target *target, const qn_program *program,
                              const qn_program_plan *plan, qn_status failure, const quern_tuned_maker *maker);

// Numbers for what the database says: the same as long as it says the same, 0 where it says nothing.
typedef struct quern_tuned_state {
  bool known;        // there is a database, and it can be read
  uint64_t records;  // of kernels with these signatures, on machines like this one, for any target
  uint64_t machine;  // of this machine's speeds, where they enter what schedules are chosen
} quern_tuned_state;
quern_tuned_state quern_tuned_get_state(const quern_tuned *tuned, const char *const *signatures, size_t count);

#endif
