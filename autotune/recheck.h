// Checks code that is there already, kernel by kernel in a child process: an artifact's on the machine it is on, or
// what a compilation made of schedules that another code generator found.
#ifndef QN_AUTOTUNE_RECHECK_H
#define QN_AUTOTUNE_RECHECK_H

#include "autotune/check_set.h"
#include "autotune/measure.h"

typedef struct qn_recheck_item {
  const qn_subject *subject;  // borrowed; equal pointers share inputs when they follow each other
  qn_check_code code;
} qn_recheck_item;

typedef struct qn_recheck_options {
  bool quick;      // milliseconds a kernel: as few row counts as run every tile, and one seed
  double limit_s;  // CPU time of one piece of work; 0 = 10
  // Called after every item with its result; false ends it all with CANCELLED. NULL = nobody asks.
  bool (*report)(void *context, size_t item, const qn_measured *result);
  bool (*cancelled)(void *context);  // asked some times a second; NULL = never
  void *context;
} qn_recheck_options;

// One result an item: OK, WRONG, CRASHED or HUNG; FAILED when the plain kernel itself cannot be run as it is. The code
// runs in a child alone. Errors: NOMEM, also when an item's child is killed from outside twice, which is no verdict; LIMIT
// (child.h); CANCELLED.
QN_CHECKED qn_status qn_recheck(const qn_recheck_item *items, size_t count, const qn_recheck_options *options,
                                const qn_allocator *allocator, qn_measured *out, qn_diag *diag);

#endif
