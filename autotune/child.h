// A child process for work that may crash or never end: forked, without exec, it shares memory with its parent, does
// what it is asked and answers. What it dies of, and what it was at then, is a value like any other. The parent must
// have no other threads, or only ones whose locks the child can do without.
#ifndef QN_AUTOTUNE_CHILD_H
#define QN_AUTOTUNE_CHILD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "runtime/base/alloc.h"
#include "runtime/base/diag.h"

// The beginning of the shared memory: what the child is at, for when it does not come back.
typedef struct qn_flight {
  _Atomic uint32_t beat;  // another number with each piece of work: limits count from there
  _Atomic int stage;      // numbers of whoever uses this; 0 = nothing
  _Atomic int item;
  char text[160];  // what the fault's handler said of its place
} qn_flight;

// Called by the child before each piece of work.
void qn_flight_note(qn_flight *flight, int stage, int item);

typedef struct qn_child {
  pid_t pid;     // 0 = none
  int socket;    // to the child; -1 = none
  void *shared;  // owned: begins with a qn_flight; stays after the child has died
  size_t shared_size;
} qn_child;

// Does what the shared memory says; called in the child for every qn_child_ask.
typedef void (*qn_child_serve)(void *context, void *shared);
// Says into `out` what an address is that a fault named; called in the child, in a signal handler. False: not known.
typedef bool (*qn_child_locate)(void *context, const void *address, char *out, size_t size);

// Forks. `shared` is zeroed. The child ignores Ctrl-C, which is its parent's to handle, dies with its parent, and
// leaves no core file. Errors: NOMEM; LIMIT when the system has no process to give. *out is zeroed on failure.
QN_CHECKED qn_status qn_child_start(size_t shared_size, qn_child_serve serve, qn_child_locate locate, void *context,
                                    qn_child *out, qn_diag *diag);
// Kills it, waits for it, and frees the memory. Zeroed is harmless.
void qn_child_stop(qn_child *child);

typedef enum qn_child_end {
  QN_CHILD_ANSWERED,
  QN_CHILD_DIED,       // by a signal or by leaving
  QN_CHILD_KILLED,     // by SIGKILL or SIGTERM, not from here: the system was out of memory, or somebody's hand
  QN_CHILD_HUNG,       // a piece of work took longer than its limit: it was killed
  QN_CHILD_CUT,        // the time of all was over: it was killed
  QN_CHILD_CANCELLED,  // `cancelled` said so: it was killed
} qn_child_end;

typedef struct qn_child_limits {
  double cpu_s;   // CPU time of one piece of work
  double wall_s;  // and its time on the wall
  int run_stage;  // pieces of this stage have limits of their own; 0 = none
  double run_cpu_s, run_wall_s;
  double until_s;  // of CLOCK_MONOTONIC: nothing goes on beyond; 0 = no matter when
  bool (*cancelled)(void *context);  // asked some times a second; NULL = never
  void *context;
} qn_child_limits;

// Asks it to serve and waits. In every case but ANSWERED there is no process any more, waited for already, and
// `evidence` says why.
qn_child_end qn_child_ask(qn_child *child, const qn_child_limits *limits, char *evidence, size_t size);
static inline bool qn_child_is_alive(const qn_child *child) { return child->pid > 0; }

#endif
