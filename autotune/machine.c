// Writes the probe kernels as loop IR text, and times their machine code.
#include "autotune/machine.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum {
  READ_BYTES = 256 << 20,  // well beyond any cache that decoding could live in
  CHUNK_BYTES = 64 << 10,  // of an iteration of the read's parallel loop
  SUMS = 4,                // of a read, each of a line
  LINE = 64,
  ROUNDS = 2000,  // iterations of a peak's parallel loop
  TURNS = 4096,   // links of each chain in one
  MAX_CHAINS = 12,
  W_LINES = 8,     // of the peaks' first operand
  PAIR_LINKS = 8,  // of a chain of dot2: 8 pairs of 15 * 128 + 15 * 128 are the most that 16 bits hold
  OPERAND_BYTES = W_LINES * LINE + MAX_CHAINS * 4,
  HUGE_PAGE = 2 << 20,
};

struct qn_machine {
  const qn_allocator *allocator;   // borrowed
  const qn_kernel_entry *entries;  // borrowed
  int chains[QN_PROBE_COUNT];      // of the peaks
  uint8_t *memory[2];  // mapped: READ_BYTES and a huge page for alignment, on huge and on small pages
  float *operands;     // owned: of the peaks
  float *results;      // owned
  size_t result_bytes;
};

// Independent chains, as many as fill three quarters of the registers: enough to hide an instruction's latency. One of
// dot2 takes twice the registers, for the pairs and for what they are folded into.
static int chain_count(const qn_target *target, qn_probe probe) {
  int chains = target->vector_registers * target->vector_bytes / LINE * 3 / (probe == QN_PROBE_DOT2_NIBBLE ? 8 : 4);
  return chains < 1 ? 1 : chains > MAX_CHAINS ? MAX_CHAINS : chains;
}

// --- the kernels

static void write_read(int ahead, qn_buf *out) {
  qn_buf_printf(out, "kernel \"read_%d\" {\n  param w : i32[%d] streamed\n  param y : i32[%d] out\n", ahead,
                READ_BYTES / 4, READ_BYTES / CHUNK_BYTES * 16);
  qn_buf_printf(out, "  for n in 0..%d data parallel {\n", READ_BYTES / CHUNK_BYTES);
  for (int i = 0; i < SUMS; i++) qn_buf_printf(out, "    local s%d : i32[16]\n    s%d[0 : 16] = 0i32\n", i, i);
  qn_buf_printf(out, "    for k in 0..%d reduce {\n", CHUNK_BYTES / LINE / SUMS);
  for (int i = 0; i < SUMS; i++) {
    const char *at = "n*16384 + k*64";
    if (ahead) qn_buf_printf(out, "      prefetch w[%s + %d]\n", at, i * 16 + ahead / 4);
    qn_buf_printf(out, "      s%d[0 : 16] = s%d[0 : 16] + w[%s + %d : 16]\n", i, i, at, i * 16);
  }
  qn_buf_puts(out, "    }\n    y[n*16 : 16] = s0[0 : 16]");
  for (int i = 1; i < SUMS; i++) qn_buf_printf(out, " + s%d[0 : 16]", i);
  qn_buf_puts(out, "\n  }\n}\n");
}
_Static_assert(CHUNK_BYTES / 4 == 16384 && SUMS * LINE / 4 == 64, "as write_read has them");

static const char nibbles[] = "and(w.i32[%s*16 : 16], 252645135i32)";  // 0x0F0F0F0F

// One link of chain `i` in turn `k`.
static void write_link(qn_probe probe, int i, qn_buf *out) {
  const char *at = "k % 8";
  char codes[64];
  snprintf(codes, sizeof codes, probe == QN_PROBE_DOT4_NIBBLE ? nibbles : "w.i32[%s*16 : 16]", at);
  if (probe == QN_PROBE_FMA) {
    qn_buf_printf(out, "      a%d[0 : 16] = fma(w.f32[%s*16 : 16], x[%d], a%d[0 : 16])\n", i, at, i, i);
  } else {
    const char *op = probe == QN_PROBE_DOT4S ? "dot4s" : "dot4";
    qn_buf_printf(out, "      a%d[0 : 16] = %s(a%d[0 : 16], %s, x[%d])\n", i, op, i, codes, i);
  }
}

// PAIR_LINKS links of all chains: sums of 16 bits, and their folding.
static void write_pairs(int chains, qn_buf *out) {
  char codes[64], at[24];
  for (int i = 0; i < chains; i++) qn_buf_printf(out, "      local p%d : i32[16]\n      p%d[0 : 16] = 0i32\n", i, i);
  for (int link = 0; link < PAIR_LINKS; link++) {
    snprintf(at, sizeof at, "(k + %d) %% 8", link);
    snprintf(codes, sizeof codes, nibbles, at);
    for (int i = 0; i < chains; i++)
      qn_buf_printf(out, "      p%d[0 : 16] = dot2(p%d[0 : 16], %s, x[%d])\n", i, i, codes, i);
  }
  for (int i = 0; i < chains; i++)
    qn_buf_printf(out, "      a%d[0 : 16] = a%d[0 : 16] + fold2(p%d[0 : 16])\n", i, i, i);
}
_Static_assert(W_LINES == 8 && PAIR_LINKS <= W_LINES, "as write_link has them; no two links of a chain are equal");

// One operand changes from turn to turn, the other from chain to chain: what a target must do to either before it can
// multiply is done as often as in a tile of a matmul.
static void write_peak(qn_probe probe, int chains, qn_buf *out) {
  bool integer = probe != QN_PROBE_FMA, pairs = probe == QN_PROBE_DOT2_NIBBLE;
  const char *type = integer ? "i32" : "f32", *zero = integer ? "0i32" : "0.0";
  qn_buf_printf(out, "kernel \"peak_%d\" {\n  param w : u8[%d]\n  param x : %s[%d]\n  param y : %s[%d] out\n",
                (int)probe, W_LINES * LINE, type, chains, type, ROUNDS * chains * 16);
  qn_buf_printf(out, "  for n in 0..%d data parallel {\n", ROUNDS);
  for (int i = 0; i < chains; i++)
    qn_buf_printf(out, "    local a%d : %s[16]\n    a%d[0 : 16] = %s\n", i, type, i, zero);
  qn_buf_printf(out, "    for k in 0..%d reduce {\n", pairs ? TURNS / PAIR_LINKS : TURNS);
  for (int i = 0; !pairs && i < chains; i++) write_link(probe, i, out);
  if (pairs) write_pairs(chains, out);
  qn_buf_puts(out, "    }\n");
  for (int i = 0; i < chains; i++) qn_buf_printf(out, "    y[n*%d + %d : 16] = a%d[0 : 16]\n", chains * 16, i * 16, i);
  qn_buf_puts(out, "  }\n}\n");
}

qn_status qn_machine_kernels(const qn_target *target, qn_arena *arena, const qn_lkernel **out, qn_diag *diag) {
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  write_read(0, &text);
  write_read(4096, &text);
  write_read(8192, &text);
  for (qn_probe probe = QN_PROBE_FMA; probe < QN_PROBE_COUNT; probe++)
    write_peak(probe, chain_count(target, probe), &text);
  qn_status status = text.failed ? qn_fail_nomem(diag, "machine", "the probe kernels") : QN_OK;
  if (status == QN_OK) {
    status = qn_lkernels_parse("machine", (qn_str){text.data, text.length}, arena, &kernels, &count, diag);
  }
  if (status == QN_OK && count != QN_PROBE_COUNT) {
    status = qn_fail(diag, QN_ERR_INTERNAL, "machine", "got %zu probe kernels, want %d", count, QN_PROBE_COUNT);
  }
  for (size_t i = 0; status == QN_OK && i < count; i++) {
    status = qn_lkernel_verify(kernels[i], diag);
    out[i] = kernels[i];
  }
  qn_buf_deinit(&text);
  return status;
}

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
  for (qn_probe probe = QN_PROBE_FMA; probe < QN_PROBE_COUNT; probe++) m->chains[probe] = chain_count(target, probe);
  m->result_bytes = (size_t)ROUNDS * MAX_CHAINS * LINE;
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
} job;

static void walk(void *context, int thread, int thread_count) {
  (void)thread, (void)thread_count;
  static const int64_t symbols[QN_SYM_COUNT];
  job *j = context;
  int64_t first, last;
  while (qn_work_take(&j->work, &first, &last)) {
    j->entry(j->buffers, symbols, first, last);
    qn_work_finish(j->threads, &j->work, last - first);
  }
}

static double seconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// `amount` of whatever the probe does in all, a second.
static double time_probe(qn_machine *m, qn_threads *threads, qn_probe probe, const uint8_t *memory, bool cpu_time) {
  bool read = probe <= QN_PROBE_READ_8K;
  uint32_t extent = read ? READ_BYTES / CHUNK_BYTES : ROUNDS;
  job j = {.entry = m->entries[probe],
           .threads = threads,
           .buffers = {m->operands, m->operands + W_LINES * LINE / 4, m->results}};
  if (read) {
    j.buffers[0] = (void *)(uintptr_t)memory;
    j.buffers[1] = m->results;
  }
  double amount = READ_BYTES;
  if (!read) amount = 2.0 * ROUNDS * TURNS * m->chains[probe] * 16 * (probe == QN_PROBE_FMA ? 1 : 4);
  clockid_t clock = cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
  qn_work_reset(&j.work, extent, qn_threads_count(threads));
  double start = seconds(clock);
  qn_threads_run(threads, walk, &j);
  double passed = (seconds(clock) - start) / (cpu_time ? qn_threads_count(threads) : 1);
  return passed > 0 ? amount / passed : 0;
}

double qn_machine_measure(qn_machine *m, qn_threads *threads, qn_rate rate, bool cpu_time) {
  static const struct {
    qn_probe first, last;
  } kinds[QN_RATE_COUNT] = {[QN_RATE_READ] = {QN_PROBE_READ_0, QN_PROBE_READ_8K},
                            [QN_RATE_READ_SMALL] = {QN_PROBE_READ_0, QN_PROBE_READ_8K},
                            [QN_RATE_FP32] = {QN_PROBE_FMA, QN_PROBE_FMA},
                            [QN_RATE_INT8] = {QN_PROBE_DOT4, QN_PROBE_DOT2_NIBBLE}};
  double best = 0;
  qn_threads_hold(threads);
  for (qn_probe probe = kinds[rate].first; probe <= kinds[rate].last; probe++) {
    double got = time_probe(m, threads, probe, read_start(m, rate == QN_RATE_READ_SMALL), cpu_time);
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
