// The threads: workers wait for a run's number to change, and meet at a barrier whose phase each meeting raises. Both
// waits spin for some microseconds and then sleep on a futex, so that a core taken by another program costs a wake-up
// and not a time slice.
#include "runtime/threads.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "runtime/topology.h"

#define CACHE_LINE       64
#define PAUSES_PER_CHECK 32
#define STACK_BYTES      (8u << 20)
#define MAX_THREADS      4096

// A number that threads wait to see changed.
typedef struct signal_word {
  alignas(CACHE_LINE) atomic_uint value;
  alignas(CACHE_LINE) atomic_uint sleepers;
} signal_word;

typedef struct worker {
  qn_threads *threads;  // borrowed
  int index;
  pthread_t handle;
} worker;

struct qn_threads {
  signal_word run;    // raised by each qn_threads_run, and to stop
  signal_word phase;  // raised by each barrier
  alignas(CACHE_LINE) atomic_uint arrived;
  alignas(CACHE_LINE) atomic_uint work_sleepers;  // on any qn_work
  alignas(CACHE_LINE) qn_thread_fn fn;            // of this run; NULL = stop
  void *context;
  int count;  // that take part in runs, at most `created`
  int created;
  bool pin;
  uint32_t grain;
  _Atomic uint64_t spin_ns;  // 0 where threads outnumber cores: who spins keeps the one it waits for from running
  // Workers from `keep` on leave at the end of a run, to wait for `rejoin`. Of those who wait, the ones before `wanted`
  // go on with the next run. They are two: who was called must come even if the next run sends it away again.
  signal_word rejoin;
  atomic_int keep, wanted;
  atomic_uint runs_at_rejoin;
  int holds;         // of the caller, nested
  bool bound;        // the caller, who had the mask `before`
  cpu_set_t before;
  worker *workers;           // owned: created - 1
  _Atomic uint64_t *shares;  // owned: one a thread, for a work that brings none
  const qn_allocator *allocator;
  void *block;  // owned: what was allocated, this struct inside
};

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory");  // longer than yield, which most cores make nothing of
#elif defined(__riscv)
  __asm__ volatile(".4byte 0x0100000f" ::: "memory");  // pause, a hint that cores without it take for a fence
#endif
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void signal_raise(signal_word *word) {
  // Sequentially consistent with the sleeper's order (announce, then look): one of the two sees the other.
  atomic_fetch_add(&word->value, 1);
  if (atomic_load(&word->sleepers) > 0) syscall(SYS_futex, &word->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

// Returns when the word's value is no longer `seen`.
static void signal_wait(signal_word *word, unsigned seen, uint64_t spin_ns) {
  if (atomic_load_explicit(&word->value, memory_order_acquire) != seen) return;
  uint64_t start = spin_ns > 0 ? now_ns() : 0;
  while (spin_ns > 0) {
    for (int i = 0; i < PAUSES_PER_CHECK; i++) {
      relax();
      if (atomic_load_explicit(&word->value, memory_order_acquire) != seen) return;
    }
    if (now_ns() - start > spin_ns) break;
  }
  atomic_fetch_add(&word->sleepers, 1);
  while (atomic_load(&word->value) == seen) {
    syscall(SYS_futex, &word->value, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);  // EINTR and EAGAIN: look again
  }
  atomic_fetch_sub(&word->sleepers, 1);
}

static uint64_t spin_of(qn_threads *threads) { return atomic_load_explicit(&threads->spin_ns, memory_order_relaxed); }

// Sleeps until this worker is wanted again; `seen` is of `rejoin` before it left. The runs that are over by then.
static unsigned sit_out(worker *self, unsigned seen) {
  qn_threads *threads = self->threads;
  do {
    signal_wait(&threads->rejoin, seen, 0);
    seen = atomic_load(&threads->rejoin.value);
  } while (self->index >= atomic_load(&threads->wanted));
  return atomic_load(&threads->runs_at_rejoin);
}

static void *worker_main(void *argument) {
  worker *self = argument;
  qn_threads *threads = self->threads;
  if (threads->pin) qn_topology_bind(self->index);  // where it is refused the scheduler places it
  for (unsigned run = 0;;) {
    signal_wait(&threads->run, run++, spin_of(threads));
    if (!threads->fn) return NULL;
    threads->fn(threads->context, self->index, threads->count);
    unsigned seen = atomic_load(&threads->rejoin.value);  // before the barrier: past it the caller may change both
    bool leaves = self->index >= atomic_load(&threads->keep);
    qn_threads_barrier(threads);
    if (leaves) run = sit_out(self, seen);
  }
}

// Ends the first `started` workers.
static void stop_workers(qn_threads *threads, int started) {
  threads->fn = NULL;
  signal_raise(&threads->run);
  for (int i = 0; i < started; i++) pthread_join(threads->workers[i].handle, NULL);
}

static qn_status start_workers(qn_threads *threads, qn_diag *diag) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return qn_fail_nomem(diag, "threads", "a thread's attributes");
  int error = pthread_attr_setstacksize(&attributes, STACK_BYTES), started = 0;
  sigset_t all, before;
  sigfillset(&all);
  // A blocked signal that an access raises would end the process without asking any handler: ours for files that lose
  // bytes (base/guard.h), or the host's.
  static const int raised_here[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP};
  for (size_t i = 0; i < QN_COUNT(raised_here); i++) sigdelset(&all, raised_here[i]);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are the host's threads' business
  for (; error == 0 && started < threads->count - 1; started++) {
    worker *w = &threads->workers[started];
    *w = (worker){.threads = threads, .index = started + 1};
    error = pthread_create(&w->handle, &attributes, worker_main, w);
    if (error != 0) break;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (error == 0) return QN_OK;
  stop_workers(threads, started);
  return qn_fail(diag, error == ENOMEM ? QN_ERR_NOMEM : QN_ERR_LIMIT, "threads",
                 "got %d of %d threads (%s); ask for fewer or raise the limit of processes (ulimit -u)", started + 1,
                 threads->count, strerror(error));
}

static size_t worker_bytes(int count) { return (size_t)(count - 1) * sizeof(worker); }
static size_t share_bytes(int count) { return (size_t)count * sizeof(_Atomic uint64_t); }

static void free_all(qn_threads *threads) {
  const qn_allocator *allocator = threads->allocator;
  qn_free(allocator, threads->workers, worker_bytes(threads->created));
  qn_free(allocator, threads->shares, share_bytes(threads->created));
  qn_free(allocator, threads->block, sizeof(qn_threads) + CACHE_LINE);
}

qn_status qn_threads_create(int count, bool pin, const qn_allocator *allocator, qn_threads **out, qn_diag *diag) {
  *out = NULL;
  if (count < 0 || count > MAX_THREADS) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "threads", "got %d, want 1 to %d, or 0 for one a core", count, MAX_THREADS);
  }
  const qn_topology *machine = qn_topology_get();
  if (count == 0) count = machine->default_threads;
  void *block = qn_alloc_zeroed(allocator, sizeof(qn_threads) + CACHE_LINE);
  if (!block) return qn_fail_nomem(diag, "threads", "the threads");
  qn_threads *threads = (qn_threads *)qn_align_up((size_t)(uintptr_t)block, CACHE_LINE);
  threads->block = block;
  threads->allocator = allocator;
  threads->count = threads->created = count;
  atomic_init(&threads->keep, count);
  threads->pin = pin && count > 1 && count <= machine->cores;
  threads->grain = QN_THREADS_GRAIN;
  atomic_init(&threads->spin_ns, count <= machine->cpus ? QN_THREADS_SPIN_NS : 0);
  threads->workers = qn_alloc_zeroed(allocator, worker_bytes(count));
  threads->shares = qn_alloc_zeroed(allocator, share_bytes(count));
  qn_status status = threads->shares ? QN_OK : qn_fail_nomem(diag, "threads", "the threads");
  if (count > 1 && status == QN_OK) {
    status = threads->workers ? start_workers(threads, diag) : qn_fail_nomem(diag, "threads", "the threads");
  }
  if (status == QN_OK) {
    *out = threads;
    return QN_OK;
  }
  free_all(threads);
  return status;
}

void qn_threads_destroy(qn_threads *threads) {
  if (!threads) return;
  qn_threads_use(threads, threads->created);
  if (threads->created > 1) stop_workers(threads, threads->created - 1);
  free_all(threads);
}

int qn_threads_count(const qn_threads *threads) { return threads->count; }
int qn_threads_created(const qn_threads *threads) { return threads->created; }

void qn_threads_set_spin(qn_threads *threads, uint64_t spin_ns) {
  if (threads->created <= qn_topology_get()->cpus) atomic_store(&threads->spin_ns, spin_ns);
}

void qn_threads_set_grain(qn_threads *threads, int grain) { threads->grain = (uint32_t)grain; }

static void do_nothing(void *context, int thread, int thread_count) { (void)context, (void)thread, (void)thread_count; }

void qn_threads_use(qn_threads *threads, int count) {
  count = count < 1 ? 1 : count > threads->created ? threads->created : count;
  if (count < threads->count) {
    atomic_store(&threads->keep, count);
    qn_threads_run(threads, do_nothing, NULL);  // at its end those leave that are too many
    threads->count = count;
  } else if (count > threads->count) {
    atomic_store(&threads->runs_at_rejoin, atomic_load(&threads->run.value));
    threads->count = count;
    atomic_store(&threads->keep, count);
    atomic_store(&threads->wanted, count);
    signal_raise(&threads->rejoin);
  }
}

void qn_threads_run(qn_threads *threads, qn_thread_fn fn, void *context) {
  if (threads->count == 1) {
    fn(context, 0, 1);
    return;
  }
  threads->fn = fn;
  threads->context = context;
  signal_raise(&threads->run);
  fn(context, 0, threads->count);
  qn_threads_barrier(threads);
}

void qn_threads_hold(qn_threads *threads) {
  if (threads->holds++ == 0) threads->bound = threads->pin && qn_topology_bind_saving(0, &threads->before);
}

void qn_threads_release(qn_threads *threads) {
  if (--threads->holds == 0 && threads->bound) qn_topology_unbind(&threads->before);
}

void qn_threads_barrier(qn_threads *threads) {
  unsigned count = (unsigned)threads->count;  // before we arrive: once all have, the caller may change it
  if (count == 1) return;
  unsigned phase = atomic_load_explicit(&threads->phase.value, memory_order_relaxed);  // cannot move before we arrive
  if (atomic_fetch_add(&threads->arrived, 1) + 1 == count) {
    atomic_store_explicit(&threads->arrived, 0, memory_order_relaxed);  // published by the phase
    signal_raise(&threads->phase);
  } else {
    signal_wait(&threads->phase, phase, spin_of(threads));
  }
}

// A thread's pieces follow each other, so that what a kernel prefetches beyond the end of one is the beginning of the
// next, and memory is read in one long run a thread. They fall in size as those of guided self-scheduling (Polychronopoulos
// and Kuck 1987) do, so that one that lost its core leaves little behind; those who are done take half of what another
// has left, from its end.
void qn_work_reset(qn_work *work, uint32_t extent, _Atomic uint64_t *shares, const qn_threads *threads) {
  uint64_t count = (uint64_t)threads->count, first = 0;
  if (!shares) shares = threads->shares;
  *work = (qn_work){.shares = shares, .extent = extent, .threads = (uint32_t)count, .grain = threads->grain};
  for (uint64_t t = 0; t < count; t++) {
    uint64_t end = extent * (t + 1) / count;
    atomic_store_explicit(&shares[t], first | end << 32, memory_order_relaxed);
    first = end;
  }
}

// One part of `parts`, at least one iteration, of what is left of a share.
static bool take_of(_Atomic uint64_t *share, uint32_t parts, bool from_end, int64_t *begin, int64_t *end) {
  uint64_t seen = atomic_load_explicit(share, memory_order_relaxed), rest;
  do {
    uint32_t first = (uint32_t)seen, last = (uint32_t)(seen >> 32);
    if (first >= last) return false;
    uint32_t piece = (last - first) / parts > 1 ? (last - first) / parts : 1;
    *begin = from_end ? last - piece : first;
    *end = *begin + piece;
    rest = from_end ? seen - ((uint64_t)piece << 32) : seen + piece;
  } while (!atomic_compare_exchange_weak_explicit(share, &seen, rest, memory_order_relaxed, memory_order_relaxed));
  return true;
}

bool qn_work_take(qn_work *work, int thread, int64_t *begin, int64_t *end) {
  uint32_t own = (uint32_t)thread, parts = work->threads > 1 ? work->grain + 1 : 1;
  if (take_of(&work->shares[own], parts, false, begin, end)) return true;
  for (uint32_t i = 1; i < work->threads; i++) {
    if (take_of(&work->shares[(own + i) % work->threads], 2, true, begin, end)) return true;
  }
  return false;
}

void qn_work_finish(qn_threads *threads, qn_work *work, int64_t count) {
  // Sequentially consistent with the sleeper's order (announce, then look): one of the two sees the other.
  uint32_t done = atomic_fetch_add(&work->done, (uint32_t)count) + (uint32_t)count;
  if (done == work->extent && atomic_load(&threads->work_sleepers) > 0) {
    syscall(SYS_futex, &work->done, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
  }
}

static bool work_is_done(qn_work *work) {
  return atomic_load_explicit(&work->done, memory_order_acquire) == work->extent;
}

void qn_work_wait(qn_threads *threads, qn_work *work) {
  if (work_is_done(work)) return;
  uint64_t spin_ns = spin_of(threads), start = spin_ns > 0 ? now_ns() : 0;
  while (spin_ns > 0) {
    for (int i = 0; i < PAUSES_PER_CHECK; i++) {
      relax();
      if (work_is_done(work)) return;
    }
    if (now_ns() - start > spin_ns) break;
  }
  atomic_fetch_add(&threads->work_sleepers, 1);
  for (uint32_t done; (done = atomic_load(&work->done)) != work->extent;) {
    syscall(SYS_futex, &work->done, FUTEX_WAIT_PRIVATE, done, NULL, NULL, 0);  // EINTR and EAGAIN: look again
  }
  atomic_fetch_sub(&threads->work_sleepers, 1);
}
