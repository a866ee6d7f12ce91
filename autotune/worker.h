// The measurer behind the search (measure.h): a child process compiles candidates, checks each, and times those that
// are right. One that crashes, hangs or computes other bits costs its child, which is made anew; the rest goes on.
#ifndef QN_AUTOTUNE_WORKER_H
#define QN_AUTOTUNE_WORKER_H

#include "autotune/child.h"
#include "autotune/measure.h"
#include "runtime/executor.h"

// A candidate's machine code, in the child.
typedef struct qn_compiled {
  qn_kernel_entry entry;
  qn_dim extent;  // of its parallel loop
} qn_compiled;

// What makes code: the code generator, or what a test plants. Called in the child.
typedef struct qn_compiler {
  void *context;  // borrowed
  // `count` schedules of a task in one module. Their code lives until `release`. An error but NOMEM and IO is taken as
  // one of the candidates': they are tried one by one then.
  qn_status (*compile)(void *context, const qn_tuning_task *task, const qn_schedule *schedules, int count,
                       qn_compiled *out, qn_diag *diag);
  void (*release)(void *context);  // all code made so far; may be NULL
} qn_compiler;

typedef struct qn_worker_options {
  qn_compiler compiler;
  double compile_limit_s, run_limit_s;  // CPU time of compiling a batch, of one check or sample; 0 = 120 and 10
  uint64_t last_cache_bytes;            // of the machine; 0 = as it says
  // Asked some times a second while a child works; true ends what is going on with QN_ERR_CANCELLED. NULL = never.
  bool (*cancelled)(void *context);
  void *cancel_context;
} qn_worker_options;

typedef struct qn_worker qn_worker;
QN_CHECKED qn_status qn_worker_create(const qn_worker_options *options, const qn_allocator *allocator, qn_worker **out,
                                      qn_diag *diag);
void qn_worker_destroy(qn_worker *worker);  // NULL is harmless; ends the child
// Borrowed from the worker. Programs of tasks must not move or change while the worker lives: its child is a fork that
// knows them as they were. Statuses: NOMEM; LIMIT when the system has no process to give; CANCELLED; INTERNAL when the
// child dies before any candidate runs. CANCELLED and LIMIT leave the task as it was: go on, or end it.
qn_measurer qn_worker_measurer(qn_worker *worker);

#endif
