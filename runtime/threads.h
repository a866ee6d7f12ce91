// Persistent, pinned threads that run one function together, with a barrier inside it.
#ifndef QN_RUNTIME_THREADS_H
#define QN_RUNTIME_THREADS_H

#include <stdint.h>

#include "runtime/base/alloc.h"
#include "runtime/base/diag.h"

typedef struct qn_threads qn_threads;
typedef void (*qn_thread_fn)(void *context, int thread, int thread_count);

// count 0 = one a physical core this process may use. Thread 0 is the caller of qn_threads_run. With pin, each thread is
// bound to its own core (topology.h) as long as the machine has that many; otherwise the scheduler places them. The
// caller is bound only while it holds the threads.
QN_CHECKED qn_status qn_threads_create(int count, bool pin, const qn_allocator *allocator, qn_threads **out,
                                       qn_diag *diag);
void qn_threads_destroy(qn_threads *threads);
int qn_threads_count(const qn_threads *threads);
// Runs fn on every thread and returns when all have finished.
void qn_threads_run(qn_threads *threads, qn_thread_fn fn, void *context);
// Binds the calling thread to core 0 (with pin) until it releases; may be nested. Around many runs, not around each: it
// costs microseconds. Not left on for good: threads that the host starts later would inherit the binding.
void qn_threads_hold(qn_threads *threads);
void qn_threads_release(qn_threads *threads);
// Called by every thread inside fn: none goes on before all have come. Spins for a while, then sleeps.
void qn_threads_barrier(qn_threads *threads);
// The even share of [0, extent) that is this thread's; what cannot be shared is thread 0's.
static inline void qn_threads_share(int64_t extent, int thread, int thread_count, int64_t *begin, int64_t *end) {
  *begin = (extent * thread + thread_count - 1) / thread_count;
  *end = (extent * (thread + 1) + thread_count - 1) / thread_count;
}

#endif
