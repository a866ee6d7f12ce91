// Persistent, pinned threads that run one function together, with a barrier inside it.
#ifndef QN_RUNTIME_THREADS_H
#define QN_RUNTIME_THREADS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/alloc.h"
#include "runtime/base/diag.h"

typedef struct qn_threads qn_threads;
typedef void (*qn_thread_fn)(void *context, int thread, int thread_count);

// count 0 = one a physical core this process may use. Thread 0 is the caller of qn_threads_run. With pin, each thread
// is bound to its own core (topology.h) as long as the machine has that many; otherwise the scheduler places them. The
// caller is bound only while it holds the threads.
QN_CHECKED qn_status qn_threads_create(int count, bool pin, const qn_allocator *allocator, qn_threads **out,
                                       qn_diag *diag);
void qn_threads_destroy(qn_threads *threads);
// How many take part in runs: all at first.
int qn_threads_count(const qn_threads *threads);
int qn_threads_created(const qn_threads *threads);
// From the next run on the first `count` take part, 1 to as many as were created (what is outside is taken as the
// nearest); the others sleep, and cost nothing but their waking when they are wanted again. By the caller, between
// runs.
void qn_threads_use(qn_threads *threads, int count);
// How long who waits watches before it sleeps, from the waits after this on. Nothing happens where threads outnumber
// the CPUs, since there who waits keeps the one it waits for from running.
void qn_threads_set_spin(qn_threads *threads, uint64_t spin_ns);
#define QN_THREADS_SPIN_NS 40000  // without that
// Of what is left of its share of a loop a thread takes one part of `grain` + 1 at a time, from the works reset after this
// on: 1 makes few large pieces, more leave more to others who are done and cost more visits. By the caller, between
// runs; 1 or more.
void qn_threads_set_grain(qn_threads *threads, int grain);
#define QN_THREADS_GRAIN 2  // without that
// Runs fn on every thread and returns when all have finished.
void qn_threads_run(qn_threads *threads, qn_thread_fn fn, void *context);
// Binds the calling thread to core 0 (with pin) until it releases; may be nested. Around many runs, not around each: it
// costs microseconds. Not left on for good: threads that the host starts later would inherit the binding.
void qn_threads_hold(qn_threads *threads);
void qn_threads_release(qn_threads *threads);
// Called by every thread inside fn: none goes on before all have come. Spins for a while, then sleeps.
void qn_threads_barrier(qn_threads *threads);

// A loop's iterations: each thread has a share of them, takes it in pieces from its beginning on, and then from the ends of
// others' shares. What needs the result waits for the work to be done and not for threads to come: one that another
// program keeps from running holds up at most the piece it has.
typedef struct qn_work {
  _Atomic uint64_t *shares;  // borrowed: what nobody has taken of each thread's, its first iteration and above it its end
  _Atomic uint32_t done;     // iterations finished
  uint32_t extent, threads;
  uint32_t grain;
} qn_work;
#define QN_WORK_EXTENT_MAX INT32_MAX

// Before the run, by one thread: extent (0 .. QN_WORK_EXTENT_MAX) iterations for the threads that take part. `shares` has
// room for all that were created; NULL = the threads' own, of one work at a time.
void qn_work_reset(qn_work *work, uint32_t extent, _Atomic uint64_t *shares, const qn_threads *threads);
// The next piece of a thread, [*begin, *end); false when all is taken.
bool qn_work_take(qn_work *work, int thread, int64_t *begin, int64_t *end);
// `count` iterations that were taken are finished.
void qn_work_finish(qn_threads *threads, qn_work *work, int64_t count);
// Returns when all of it is done, with all that was written seen. Spins for a while, then sleeps.
void qn_work_wait(qn_threads *threads, qn_work *work);

#endif
