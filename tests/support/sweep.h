// The n-th allocation fails, for every n of an action, each time in a process of its own that ends in success or a clean
// error with nothing left allocated. The process is forked where the allocation is made, so that what came before is
// done once for all n: an action of 100,000 allocations that takes a second is swept in minutes.
#ifndef QN_TESTS_SUPPORT_SWEEP_H
#define QN_TESTS_SUPPORT_SWEEP_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/base/alloc.h"

// malloc, counted; in a sweep it fails.
const qn_allocator *qn_sweep_allocator(void);

// Allocations since the last sweep's last action began, or since the start.
size_t qn_sweep_count(void);

// Returns a status (runtime/base/status.h), with its text when that is not 0. Is done more than once and in forked
// processes: must not use Check's asserts.
typedef int (*qn_sweep_action)(void *context, char *text, size_t size);

typedef struct qn_sweep_options {
  int depth;  // calls, counted from the allocation, that tell places apart; 0 = 24
  int most;   // places that are taken in the suite, evenly; 0 = all
  int again;  // of the allocations that cannot be taken by a fork, as many are taken by doing all again; 0 = 3
} qn_sweep_options;

// In the suite of each place (a stack of calls that allocates) the first allocation fails; with QUERN_TEST_ALL every one.
// Each twice: alone, and with all that come later. A Check assert says which went wrong. Prints what was done with
// QUERN_TEST_SHOW.
void qn_sweep(const char *name, qn_sweep_action action, void *context, const qn_sweep_options *options);

// While `shares` is true the action holds what a forked process must not have in common with it (a file that is written,
// a process it talks to). So does more than one thread, by itself.
void qn_sweep_shares(bool shares);
// From here on allocations succeed: an action that failed looks at what it left behind.
void qn_sweep_heal(void);

#endif
