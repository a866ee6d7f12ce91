// Measures a machine's profile: every probe in turn, round after round until the time is up, of which the best counts.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "autotune/profile.h"
#include "codegen/target.h"
#include "runtime/topology.h"

enum {
  MEETINGS = 200,    // barriers of one measurement
  PIECES = 1 << 14,  // shares of work of one measurement
  LATENCY_TRIES = 4,  // in a round: they are short, and much is told in cycles
  MOST_ROUNDS = 512,
  LEAST_ROUNDS = 5,  // undisturbed ones that a ratio is believed of
// Cycles until a plain integer operation on vectors gives its result. On every x86-64 it is one (Fog, "Instruction
// tables"; uops.info), on aarch64 cores two (Arm's software optimization guides for Cortex-A and Neoverse).
#if defined(__aarch64__)
  VECTOR_LATENCY = 2,
#else
  VECTOR_LATENCY = 1,
#endif
};

#define QUIET 0.97  // of their cores the threads had

// What one round found, for ratios within it.
typedef struct one_round {
  double read[QN_PROFILE_COUNTS], small, moving, int8[QN_PROFILE_COUNTS];
  double alone, ahead, far;  // by the fewest threads: one token's stream without and with prefetches, three's into L2
  double share[QN_PROFILE_COUNTS];  // the least that the threads had of their cores
} one_round;

typedef struct measurement {
  qn_machine *machine;
  qn_threads *threads, *free_threads;  // owned: bound to cores, and not
  qn_machine_profile *profile;
  qn_probe read_probe[QN_PROFILE_PAGES];  // the prefetch distance that did best
  double read_best[QN_PROFILE_PAGES];
  double fma_links;  // of one chain, a second
  int round;
  one_round *rounds;  // owned: MOST_ROUNDS
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

static double probe_of(measurement *m, qn_probe probe) {
  return qn_machine_probe(m->machine, m->threads, probe, false, NULL);
}

// The one measurement of this round is kept too.
static double measure_read(measurement *m, qn_threads *threads, int pages, int index) {
  double best = 0;
  one_round *now_round = &m->rounds[m->round];
  for (qn_probe probe = QN_PROBE_READ_0; probe <= QN_PROBE_READ_8K; probe++) {
    if (m->round > 0 && probe != m->read_probe[pages]) continue;
    double share, rate = qn_machine_probe(m->machine, threads, probe, pages == QN_PROFILE_SMALL, &share);
    if (share < now_round->share[index]) now_round->share[index] = share;
    if (rate > m->read_best[pages]) m->read_best[pages] = rate, m->read_probe[pages] = probe;
    keep_most(&best, rate);
  }
  return best;
}

static void measure_reads(measurement *m, int index) {
  one_round *r = &m->rounds[m->round];
  qn_machine_profile *p = m->profile;
  r->share[index] = 1;
  r->read[index] = measure_read(m, m->threads, QN_PROFILE_HUGE, index);
  double small = measure_read(m, m->threads, QN_PROFILE_SMALL, index);
  keep_most(&p->read[QN_PROFILE_MEMORY][QN_PROFILE_HUGE][index], r->read[index]);
  keep_most(&p->read[QN_PROFILE_MEMORY][QN_PROFILE_SMALL][index], small);
  if (index == 0) {
    r->alone = probe_of(m, QN_PROBE_STREAM_0);
    r->ahead = probe_of(m, QN_PROBE_STREAM_2K);
    r->far = probe_of(m, QN_PROBE_STREAM_FAR);
  }
  if (index != p->count - 1) return;
  r->small = small;
  r->moving = measure_read(m, m->free_threads, QN_PROFILE_HUGE, index);
}

static void measure_caches(measurement *m, int index) {
  for (int level = QN_PROFILE_L1; level <= QN_PROFILE_L3; level++) {
    for (int pages = 0; pages < QN_PROFILE_PAGES; pages++) {
      qn_probe probe = (qn_probe)(QN_PROBE_READ_L1 + level);
      keep_most(&m->profile->read[level][pages][index],
                qn_machine_probe(m->machine, m->threads, probe, pages == QN_PROFILE_SMALL, NULL));
    }
  }
}

static void measure_latencies(measurement *m) {
  qn_machine_profile *p = m->profile;
  // Links a second: the shortest chain of plain operations gives the clock, multiply-adds are told in its cycles.
  for (int i = 0; i < LATENCY_TRIES; i++) {
    keep_most(&p->cycles_per_s, probe_of(m, QN_PROBE_VECTOR_LATENCY) * 2 * VECTOR_LATENCY);
    keep_most(&m->fma_links, probe_of(m, QN_PROBE_FMA_LATENCY));
  }
  if (m->fma_links > 0) p->fma_latency = p->cycles_per_s / m->fma_links;
  keep_most(&p->vector_ops, probe_of(m, QN_PROBE_VECTOR));
}

static void measure_peaks(measurement *m, int index) {
  static const struct {
    qn_probe probe;
    int form;  // of the knob `dots`
    bool narrow;
  } dots[] = {{QN_PROBE_DOT4, 0, false},
              {QN_PROBE_DOT4S, 1, false},
              {QN_PROBE_DOT4_NIBBLE, 0, true},
              {QN_PROBE_DOT2_NIBBLE, 2, true}};
  qn_machine_profile *p = m->profile;
  keep_most(&p->fma[index], probe_of(m, QN_PROBE_FMA));
  keep_most(&p->bf16[index], probe_of(m, QN_PROBE_BF16));
  for (size_t i = 0; i < QN_COUNT(dots); i++) {
    double rate = probe_of(m, dots[i].probe);
    keep_most(dots[i].narrow ? &p->narrow[index] : &p->int8[index], rate);
    keep_most(&m->rounds[m->round].int8[index], rate);
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
  (void)thread_count;
  meeting *m = context;
  int64_t first, last;
  while (qn_work_take(&m->work, thread, &first, &last)) qn_work_finish(m->threads, &m->work, last - first);
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
  qn_work_reset(&all.work, PIECES, NULL, m->threads);
  all.work.grain = PIECES;  // a piece is one iteration
  keep_least(&p->piece_s[index], time_run(&all, take_pieces) * threads / PIECES);
  if (index != p->count - 1) return;
  if (threads > 1) {
    qn_threads_set_spin(m->threads, 0);
    qn_threads_run(m->threads, meet, &all);  // what waits now may have begun to spin before
    keep_least(&p->wake_s, time_run(&all, meet) / MEETINGS);
    qn_threads_set_spin(m->threads, QN_THREADS_SPIN_NS);
  }
}

// --- ratios

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

// Of values of rounds in which neither one number of threads nor all of them were disturbed.
typedef double (*ratio_fn)(const one_round *round, int index, int last);
static double median_ratio(const measurement *m, ratio_fn ratio, int index) {
  double ratios[MOST_ROUNDS];
  int count = 0, last = m->profile->count - 1;
  for (int i = 0; i < m->round; i++) {
    const one_round *r = &m->rounds[i];
    if (r->share[index] < QUIET || r->share[last] < QUIET) continue;
    double value = ratio(r, index, last);
    if (value > 0) ratios[count++] = value;
  }
  if (count < LEAST_ROUNDS) return 0;
  qsort(ratios, (size_t)count, sizeof *ratios, by_value);
  return ratios[count / 2];
}

static double over(double a, double b) { return b > 0 ? a / b : 0; }
static double read_part(const one_round *r, int index, int last) { return over(r->read[index], r->read[last]); }
static double int8_part(const one_round *r, int index, int last) { return over(r->int8[index], r->int8[last]); }
static double huge_gain(const one_round *r, int index, int last) { return (void)index, over(r->read[last], r->small); }
static double moving_gain(const one_round *r, int index, int last) {
  return (void)index, over(r->moving, r->read[last]);
}

static double ahead_gain(const one_round *r, int index, int last) {
  return (void)index, (void)last, over(r->ahead, r->alone);
}
static double far_gain(const one_round *r, int index, int last) {
  return (void)index, (void)last, over(r->far, r->alone);
}

static void put_ratios(measurement *m) {
  qn_machine_profile *p = m->profile;
  for (int i = 0; i < p->count; i++) {
    p->read_part[i] = median_ratio(m, read_part, i);
    p->int8_part[i] = median_ratio(m, int8_part, i);
  }
  p->huge_gain = median_ratio(m, huge_gain, p->count - 1);
  p->moving_gain = median_ratio(m, moving_gain, p->count - 1);
  p->ahead_gain = median_ratio(m, ahead_gain, 0);
  p->far_gain = median_ratio(m, far_gain, 0);
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
  double start = now(), longest = 0;
  int count = m->profile->count;
  for (; m->round == 0 || (m->round < MOST_ROUNDS && now() - start + longest <= budget_s); m->round++) {
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
  m.rounds = qn_alloc_zeroed(allocator, MOST_ROUNDS * sizeof *m.rounds);
  if (!m.rounds) return qn_fail_nomem(diag, "machine", "what is measured");
  snprintf(out->target, sizeof out->target, "%s", target->name);
  qn_status status = qn_threads_create(threads, true, allocator, &m.threads, diag);
  if (status == QN_OK) status = qn_threads_create(threads, false, allocator, &m.free_threads, diag);
  if (status == QN_OK) {
    choose_counts(out, qn_threads_created(m.threads));
    status = measure_rounds(&m, budget_s, step, step_context, diag);
    put_ratios(&m);
  }
  qn_free(allocator, m.rounds, MOST_ROUNDS * sizeof *m.rounds);
  qn_threads_destroy(m.free_threads);
  qn_threads_destroy(m.threads);
  out->huge_bytes = (double)qn_machine_huge_bytes(machine);
  out->knobs = qn_profile_knobs(out);
  return status;
}
