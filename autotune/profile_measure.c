// Measures a machine's profile: every probe in turn, round after round until the time is up, of which the best counts.
#include <string.h>
#include <time.h>

#include "autotune/profile.h"
#include "codegen/target.h"
#include "runtime/topology.h"

enum {
  MEETINGS = 200,    // barriers of one measurement
  PIECES = 1 << 14,  // shares of work of one measurement
  // Cycles until a plain integer operation on vectors gives its result. On every x86-64 it is one (Fog, "Instruction
  // tables"; uops.info), on aarch64 cores two (Arm's software optimization guides for Cortex-A and Neoverse).
  LATENCY_X86_64 = 1,
  LATENCY_AARCH64 = 2,
};

typedef struct measurement {
  qn_machine *machine;
  qn_threads *threads, *free_threads;  // owned: bound to cores, and not
  qn_machine_profile *profile;
  qn_probe read_probe[QN_PROFILE_PAGES];  // the prefetch distance that did best
  double read_best[QN_PROFILE_PAGES];
  int round;
} measurement;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void keep_most(double *best, double rate) {
  if (rate > *best) *best = rate;
}

static void keep_least(double *best, double time) {
  if (*best == 0 || time < *best) *best = time;
}

// --- speeds

static void measure_reads(measurement *m, int index) {
  for (int pages = 0; pages < QN_PROFILE_PAGES; pages++) {
    double *best = &m->profile->read[QN_PROFILE_MEMORY][pages][index];
    for (qn_probe probe = QN_PROBE_READ_0; probe <= QN_PROBE_READ_8K; probe++) {
      if (m->round > 0 && probe != m->read_probe[pages]) continue;
      double rate = qn_machine_probe(m->machine, m->threads, probe, pages == QN_PROFILE_SMALL);
      keep_most(best, rate);
      if (rate > m->read_best[pages]) m->read_best[pages] = rate, m->read_probe[pages] = probe;
    }
  }
}

static void measure_caches(measurement *m, int index) {
  for (int level = QN_PROFILE_L1; level <= QN_PROFILE_L3; level++) {
    for (int pages = 0; pages < QN_PROFILE_PAGES; pages++) {
      qn_probe probe = (qn_probe)(QN_PROBE_READ_L1 + level);
      keep_most(&m->profile->read[level][pages][index],
                qn_machine_probe(m->machine, m->threads, probe, pages == QN_PROFILE_SMALL));
    }
  }
}

static double probe_of(measurement *m, qn_probe probe) {
  return qn_machine_probe(m->machine, m->threads, probe, false);
}

static void measure_latencies(measurement *m) {
  qn_machine_profile *p = m->profile;
  // Links a second: the shortest chain of plain operations gives the clock, multiply-adds are told in its cycles.
  double links = probe_of(m, QN_PROBE_VECTOR_LATENCY), fma_links = probe_of(m, QN_PROBE_FMA_LATENCY);
#if defined(__aarch64__)
  double cycles = links * 2 * LATENCY_AARCH64;
#else
  double cycles = links * 2 * LATENCY_X86_64;
#endif
  keep_most(&p->cycles_per_s, cycles);
  if (fma_links > 0) keep_least(&p->fma_latency, cycles / fma_links);
  keep_most(&p->vector_ops, probe_of(m, QN_PROBE_VECTOR));
}

static void measure_peaks(measurement *m, int index) {
  static const struct {
    qn_probe probe;
    int form;  // of the knob `dots`
  } dots[] = {{QN_PROBE_DOT4, 0}, {QN_PROBE_DOT4_NIBBLE, 0}, {QN_PROBE_DOT4S, 1}, {QN_PROBE_DOT2_NIBBLE, 2}};
  qn_machine_profile *p = m->profile;
  keep_most(&p->fma[index], probe_of(m, QN_PROBE_FMA));
  keep_most(&p->bf16[index], probe_of(m, QN_PROBE_BF16));
  for (size_t i = 0; i < QN_COUNT(dots); i++) {
    double rate = probe_of(m, dots[i].probe);
    keep_most(&p->int8[index], rate);
    if (index == 0) keep_most(&p->dots[dots[i].form], rate);
  }
  if (index == 0) measure_latencies(m);
}

// --- threads

typedef struct meeting {
  qn_threads *threads;
  qn_work work;
} meeting;

static void meet(void *context, int thread, int thread_count) {
  (void)thread, (void)thread_count;
  meeting *m = context;
  for (int i = 0; i < MEETINGS; i++) qn_threads_barrier(m->threads);
}

static void take_pieces(void *context, int thread, int thread_count) {
  (void)thread, (void)thread_count;
  meeting *m = context;
  int64_t first, last;
  while (qn_work_take(&m->work, &first, &last)) qn_work_finish(m->threads, &m->work, last - first);
}

static double time_run(meeting *m, qn_thread_fn fn) {
  qn_threads_hold(m->threads);
  double start = now();
  qn_threads_run(m->threads, fn, m);
  double passed = now() - start;
  qn_threads_release(m->threads);
  return passed;
}

static void measure_meetings(measurement *m, int index) {
  meeting all = {.threads = m->threads};
  qn_machine_profile *p = m->profile;
  int threads = qn_threads_count(m->threads);
  if (threads > 1) keep_least(&p->barrier_s[index], time_run(&all, meet) / MEETINGS);
  qn_work_reset(&all.work, PIECES, threads);
  all.work.shares = PIECES;  // a piece is one iteration
  keep_least(&p->piece_s[index], time_run(&all, take_pieces) * threads / PIECES);
  if (index != p->count - 1) return;
  if (threads > 1) {
    qn_threads_set_spin(m->threads, 0);
    qn_threads_run(m->threads, meet, &all);  // what waits now may have begun to spin before
    keep_least(&p->wake_s, time_run(&all, meet) / MEETINGS);
    qn_threads_set_spin(m->threads, QN_THREADS_SPIN_NS);
  }
  keep_most(&p->unpinned, qn_machine_probe(m->machine, m->free_threads, m->read_probe[QN_PROFILE_HUGE], false));
}

// --- all

static void choose_counts(qn_machine_profile *p, int most) {
  for (int threads = 1; threads < most && p->count < QN_PROFILE_COUNTS - 1; threads *= 2)
    p->threads[p->count++] = threads;
  p->threads[p->count++] = most;
}

static void measure_count(measurement *m, int index) {
  qn_threads_use(m->threads, m->profile->threads[index]);
  measure_reads(m, index);
  measure_caches(m, index);
  measure_peaks(m, index);
  measure_meetings(m, index);
}

static qn_status measure_rounds(measurement *m, double budget_s, qn_profile_step_fn step, void *context,
                                qn_diag *diag) {
  enum { MOST_ROUNDS = 8 };
  double start = now(), longest = 0;
  int count = m->profile->count;
  for (; m->round < MOST_ROUNDS && now() - start + longest <= budget_s; m->round++) {
    double began = now();
    for (int i = 0; i < count; i++) {
      double part = (now() - start) / budget_s;
      int done = (int)(100 * (part < 1 ? part : 1));
      if (step && !step(context, done, 100))
        return qn_fail(diag, QN_ERR_CANCELLED, "machine", "stopped while measuring");
      measure_count(m, i);
    }
    double took = now() - began;
    if (took > longest) longest = took;
  }
  return QN_OK;
}

qn_status qn_profile_measure(qn_machine *machine, const qn_target *target, int threads, double budget_s,
                             const qn_allocator *allocator, qn_profile_step_fn step, void *step_context,
                             qn_machine_profile *out, qn_diag *diag) {
  measurement m = {.machine = machine, .profile = out};
  memset(out, 0, sizeof *out);
  snprintf(out->target, sizeof out->target, "%s", target->name);
  qn_status status = qn_threads_create(threads, true, allocator, &m.threads, diag);
  if (status == QN_OK) status = qn_threads_create(threads, false, allocator, &m.free_threads, diag);
  if (status == QN_OK) {
    choose_counts(out, qn_threads_created(m.threads));
    status = measure_rounds(&m, budget_s, step, step_context, diag);
  }
  qn_threads_destroy(m.free_threads);
  qn_threads_destroy(m.threads);
  out->huge_bytes = (double)qn_machine_huge_bytes(machine);
  out->knobs = qn_profile_knobs(out);
  return status;
}
