// All checks of one kernel: inputs of several row counts and seeds, made when they are wanted first, and what code that
// was right computed from them.
#ifndef QN_AUTOTUNE_CHECK_SET_H
#define QN_AUTOTUNE_CHECK_SET_H

#include "autotune/check.h"
#include "autotune/verdict.h"

typedef struct qn_check_set qn_check_set;

// Machine code of a kernel under a schedule, for a class of row counts.
typedef struct qn_check_code {
  qn_schedule schedule;
  int64_t rows_min, rows_max;
  qn_kernel_entry entry;
  qn_dim extent;  // of its parallel loop
  const qn_check_remote *remote;  // borrowed: runs it in place of `entry`; NULL = nobody
} qn_check_code;

// `subject` is borrowed. `quick`: as few row counts as run every tile, and one seed.
QN_CHECKED qn_status qn_check_set_create(const qn_subject *subject, bool quick, const qn_allocator *allocator,
                                         qn_check_set **out, qn_diag *diag);
void qn_check_set_destroy(qn_check_set *set);  // NULL is harmless

// Called before inputs are made (running false) and before code runs (true).
typedef void (*qn_check_note)(void *context, bool running);

// The verdict is OK or WRONG, with evidence. *out_doubt (may be NULL) is set to true, and left alone otherwise, when
// code that was found right before turns out to be wrong: all such code wants to be checked again. Errors: those of
// qn_check_create.
QN_CHECKED qn_status qn_check_set_run(qn_check_set *set, const qn_check_code *code, qn_check_note note, void *context,
                                      qn_verdict *out_verdict, char *evidence, size_t size, bool *out_doubt,
                                      qn_diag *diag);
// qn_check_locate for the code that runs now.
bool qn_check_set_locate(const qn_check_set *set, const void *address, char *out, size_t size);

#endif
