// Times the machine code of the probe kernels.
#include "autotune/machine.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "autotune/machine_internal.h"

enum {
  HUGE_PAGE = 2 << 20,
  CACHE_BYTES = 64 << 20,  // that a thread reads of a cache at a time, at least
  MAX_READERS = 256,       // threads with results of their own
  // Where the best of many is taken, short measurements find the moments that are undisturbed: 32 MiB of the memory, at
  // another place each time so that no cache holds it, and a 32nd of a peak's iterations.
  READ_PART = 8,
  PEAK_PART = 32,
};

struct qn_machine {
  const qn_allocator *allocator;   // borrowed
  const qn_kernel_entry *entries;  // borrowed
  int chains[QN_PROBE_COUNT];      // of the peaks
  uint8_t *memory[2];              // mapped: READ_BYTES and a huge page for alignment, on huge and on small pages
  float *operands;                 // owned: of the peaks
  float *results;                  // owned
  size_t result_bytes;
  int read_at;  // which READ_PART of the memory a short measurement reads next
};

// --- memory

// The first huge page's boundary within.
static uint8_t *read_start(const qn_machine *m, int which) {
  return (uint8_t *)qn_align_up((size_t)(uintptr_t)m->memory[which], HUGE_PAGE);
}

static qn_status map_memory(qn_machine *m, qn_diag *diag) {
  for (int i = 0; i < 2; i++) {
    void *memory = mmap(NULL, READ_BYTES + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return qn_fail_nomem(diag, "machine", "the memory whose speed is measured");
    m->memory[i] = memory;
    madvise(memory, READ_BYTES + HUGE_PAGE, i == 0 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(read_start(m, i), 1, READ_BYTES);  // or all of it would be the one page of zeros
  }
  return QN_OK;
}

qn_status qn_machine_create(const qn_target *target, const qn_kernel_entry *entries, const qn_allocator *allocator,
                            qn_machine **out, qn_diag *diag) {
  *out = NULL;
  qn_machine *m = qn_alloc_zeroed(allocator, sizeof *m);
  if (!m) return qn_fail_nomem(diag, "machine", "its measurement");
  m->allocator = allocator;
  m->entries = entries;
  for (qn_probe probe = QN_PROBE_FMA; probe < QN_PROBE_COUNT; probe++)
    m->chains[probe] = qn_probe_chains(target, probe);
  m->result_bytes = (size_t)ROUNDS * MAX_CHAINS * LINE;
  if (m->result_bytes < (size_t)MAX_READERS * RESULT_LINES * LINE)
    m->result_bytes = (size_t)MAX_READERS * RESULT_LINES * LINE;
  m->operands = qn_alloc(allocator, OPERAND_BYTES);
  m->results = qn_alloc_zeroed(allocator, m->result_bytes);
  qn_status status = m->operands && m->results ? QN_OK : qn_fail_nomem(diag, "machine", "operands and results");
  if (status == QN_OK) memset(m->operands, 0x3C, OPERAND_BYTES);  // as floats about 0.01: no infinities, no subnormals
  if (status == QN_OK) status = map_memory(m, diag);
  if (status == QN_OK) {
    *out = m;
  } else {
    qn_machine_destroy(m);
  }
  return status;
}

void qn_machine_destroy(qn_machine *m) {
  if (!m) return;
  for (int i = 0; i < 2; i++)
    if (m->memory[i]) munmap(m->memory[i], READ_BYTES + HUGE_PAGE);
  qn_free(m->allocator, m->operands, OPERAND_BYTES);
  qn_free(m->allocator, m->results, m->result_bytes);
  qn_free(m->allocator, m, sizeof *m);
}

// --- measuring

typedef struct job {
  qn_kernel_entry entry;
  void *buffers[3];
  qn_threads *threads;
  qn_work work;
  bool whole;  // an item of the work is a call over `extent`, with results that are the thread's own
  int64_t extent;
  _Atomic uint64_t own_ns;  // CPU time that the threads took, by their own clocks: the process's lags behind
} job;

static const int64_t no_symbols[QN_SYM_COUNT];

static double seconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void walk(void *context, int thread, int thread_count) {
  (void)thread_count;
  job *j = context;
  double start = seconds(CLOCK_THREAD_CPUTIME_ID);
  void *buffers[3] = {j->buffers[0], j->buffers[1], j->buffers[2]};
  if (j->whole) buffers[1] = (uint8_t *)j->buffers[1] + (size_t)(thread % MAX_READERS) * RESULT_LINES * LINE;
  int64_t first, last;
  while (qn_work_take(&j->work, thread, &first, &last)) {
    if (!j->whole) j->entry(buffers, no_symbols, first, last);
    for (int64_t i = first; j->whole && i < last; i++) j->entry(buffers, no_symbols, 0, j->extent);
    qn_work_finish(j->threads, &j->work, last - first);
  }
  atomic_fetch_add(&j->own_ns, (uint64_t)(1e9 * (seconds(CLOCK_THREAD_CPUTIME_ID) - start)));
}

// A link's: of latencies it is the link that counts.
static double operations(qn_probe probe) {
  bool dot = probe >= QN_PROBE_DOT4 && probe <= QN_PROBE_DOT2_NIBBLE;
  return probe >= QN_PROBE_FMA_LATENCY ? 1 : 2.0 * qn_probe_lanes(probe) * (dot ? 4 : 1);
}

// What a job of `extent` items took.
typedef struct passed {
  double wall, cpu;  // seconds; of CPU time a thread's
  double share;      // of their cores that the threads had
} passed;

static passed time_job(job *j, uint32_t extent) {
  int threads = qn_threads_count(j->threads);
  qn_work_reset(&j->work, extent, NULL, j->threads);
  atomic_store(&j->own_ns, 0);
  double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), wall = seconds(CLOCK_MONOTONIC);
  qn_threads_run(j->threads, walk, j);
  wall = seconds(CLOCK_MONOTONIC) - wall;
  double own = 1e-9 * (double)atomic_load(&j->own_ns);
  return (passed){wall, (seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu) / threads, wall > 0 ? own / (wall * threads) : 0};
}

// These give the amount of whatever the probe does, and how long that took: bytes, operations, or links of a chain.
static double time_cache(qn_machine *m, job *j, qn_probe probe, passed *out) {
  int64_t set = qn_probe_set_bytes(probe), chunk = set < CHUNK_BYTES ? set : CHUNK_BYTES;
  if (set == 0) return 0;
  j->whole = true;
  j->extent = qn_probe_extent(probe);
  j->buffers[1] = m->results;
  uint32_t threads = (uint32_t)qn_threads_count(j->threads);
  int64_t bytes = j->extent * chunk, times = CACHE_BYTES / bytes;
  uint32_t items = threads * (uint32_t)(times > 1 ? times : 1);
  time_job(j, threads);  // until the cache holds it
  *out = time_job(j, items);
  return (double)bytes * items;
}

static double time_read(qn_machine *m, job *j, bool small_pages, bool part, passed *out) {
  size_t bytes = part ? READ_BYTES / READ_PART : READ_BYTES;
  uint8_t *start = read_start(m, small_pages);
  if (part) start += bytes * (size_t)(m->read_at++ % READ_PART);
  j->buffers[0] = start;
  j->buffers[1] = m->results;
  *out = time_job(j, (uint32_t)(bytes / CHUNK_BYTES));
  return (double)bytes;
}

static double time_probe(qn_machine *m, qn_threads *threads, qn_probe probe, bool small_pages, bool part, passed *out) {
  job j = {.entry = m->entries[probe],
           .threads = threads,
           .buffers = {m->operands, m->operands + W_LINES * LINE / 4, m->results}};
  *out = (passed){0};
  if (probe < QN_PROBE_READ_L1) return time_read(m, &j, small_pages, part, out);
  if (probe < QN_PROBE_FMA) {
    j.buffers[0] = read_start(m, small_pages);
    return time_cache(m, &j, probe, out);
  }
  uint32_t extent = ROUNDS / (part ? PEAK_PART : 1);
  *out = time_job(&j, extent);
  return operations(probe) * extent * TURNS * m->chains[probe];
}

double qn_machine_probe(qn_machine *m, qn_threads *threads, qn_probe probe, bool small_pages, double *out_share) {
  passed took;
  qn_threads_hold(threads);
  double amount = time_probe(m, threads, probe, small_pages, true, &took);
  qn_threads_release(threads);
  if (out_share) *out_share = took.share;
  return took.wall > 0 ? amount / took.wall : 0;
}

double qn_machine_measure(qn_machine *m, qn_threads *threads, qn_rate rate, bool cpu_time) {
  static const struct {
    qn_probe first, last;
  } kinds[QN_RATE_COUNT] = {[QN_RATE_READ] = {QN_PROBE_READ_0, QN_PROBE_READ_8K},
                            [QN_RATE_READ_SMALL] = {QN_PROBE_READ_0, QN_PROBE_READ_8K},
                            [QN_RATE_FP32] = {QN_PROBE_FMA, QN_PROBE_FMA},
                            [QN_RATE_INT8] = {QN_PROBE_DOT4, QN_PROBE_DOT4S},
                            [QN_RATE_NARROW] = {QN_PROBE_DOT4_NIBBLE, QN_PROBE_DOT2_NIBBLE}};
  double best = 0;
  qn_threads_hold(threads);
  for (qn_probe probe = kinds[rate].first; probe <= kinds[rate].last; probe++) {
    passed times;
    double amount = time_probe(m, threads, probe, rate == QN_RATE_READ_SMALL, false, &times);
    double took = cpu_time ? times.cpu : times.wall, got = took > 0 ? amount / took : 0;
    if (got > best) best = got;
  }
  qn_threads_release(threads);
  return best;
}

uint64_t qn_machine_huge_bytes(const qn_machine *m) {
  char line[256];
  FILE *file = fopen("/proc/self/smaps", "re");
  uintptr_t start = (uintptr_t)read_start(m, 0), from = 0, to = 0;
  uint64_t bytes = 0;
  while (file && fgets(line, sizeof line, file)) {
    unsigned long low, high, kib;
    if (sscanf(line, "%lx-%lx ", &low, &high) == 2) {
      from = low;
      to = high;
    } else if (from <= start && start < to && sscanf(line, "AnonHugePages: %lu kB", &kib) == 1) {
      bytes = (uint64_t)kib * 1024;
    }
  }
  if (file) fclose(file);
  return bytes < READ_BYTES ? bytes : READ_BYTES;
}
