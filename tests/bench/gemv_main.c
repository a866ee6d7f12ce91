// quern-gemv: the proof that the loop IR suffices. Writes matrix-vector kernels for Q8_0 and Q4_0 weights in the tile
// layout as loop IR text, compiles them for this machine, checks them against the interpreter, and times them against
// a plain read of the same bytes in the same run.
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "codegen/codegen.h"
#include "ir/loop_interp.h"
#include "runtime/base/status.h"

enum {
  K = 2048,
  BLOCKS = K / 32,
  MAX_THREADS = 64,
  MAX_REPETITIONS = 101,
  MAX_VARIANTS = 64,
  CHECK_PANELS = 4,
  PIECES = 8,  // of the buffer: a measurement covers one, the next measurement the next
  PAGE = 4096,
};

typedef struct variant {
  const char *format;  // "q8_0" or "q4_0"
  int block_bytes;     // of a block of 16 rows: 16 scales, then `lines` of 64 bytes of codes
  int lines;
  int offset;           // subtracted from the unsigned codes
  int panels;           // of 16 rows that one iteration of the loop n computes
  int prefetch_bytes;   // ahead; 0 = none
  int64_t panel_count;  // of the whole buffer
  char name[64];
  qn_kernel_fn check, full;  // for CHECK_PANELS panels and for the whole buffer
} variant;

typedef struct options {
  const char *format, *target, *dump;               // NULL = all, "host", nothing
  int mib, repetitions, threads, panels, prefetch;  // panels and prefetch: -1 = several
  bool text;
} options;

static _Noreturn void die(const qn_diag *diag) {
  fprintf(stderr, "quern-gemv: %s\n", diag->text);
  exit(diag->status);
}

// ---- the kernels as text --------------------------------------------------------------------------------------

// Codes of line g of panel p: bytes of 8-bit codes, or the low or high nibbles.
static void write_dot(const variant *v, int p, int line, bool high, qn_buf *out) {
  int group = high ? line + v->lines : line;
  qn_buf_printf(out, "      i%d[0 : 16] = dot4(i%d[0 : 16], ", p, p);
  if (v->lines == 4) qn_buf_puts(out, high ? "and(shr(" : "and(");
  qn_buf_printf(out, "w.i32[(n*%d + %d)*%d + kb*%d + %d : 16]", v->panels, p, BLOCKS * v->block_bytes / 4,
                v->block_bytes / 4, 8 + line * 16);
  if (v->lines == 4) qn_buf_puts(out, high ? ", 4i32), 252645135i32)" : ", 252645135i32)");
  qn_buf_printf(out, ", x.i32[kb*8 + %d])\n", group);
}

static void write_block(const variant *v, qn_buf *out) {
  for (int p = 0; p < v->panels; p++) {
    for (int at = 0; v->prefetch_bytes > 0 && at < v->block_bytes; at += 64)
      qn_buf_printf(out, "      prefetch w[(n*%d + %d)*%d + kb*%d + %d]\n", v->panels, p, BLOCKS * v->block_bytes,
                    v->block_bytes, v->prefetch_bytes + at);
    qn_buf_printf(out, "      local i%d : i32[16]\n      i%d[0 : 16] = xsum[kb]*-%di32\n", p, p, v->offset);
  }
  for (int high = 0; high <= (v->lines == 4); high++)
    for (int line = 0; line < v->lines; line++)
      for (int p = 0; p < v->panels; p++) write_dot(v, p, line, high, out);
  for (int p = 0; p < v->panels; p++)
    qn_buf_printf(out,
                  "      acc%d[0 : 16] = fma(f32(i%d[0 : 16]), w.f16[(n*%d + %d)*%d + kb*%d : 16]*xs[kb], "
                  "acc%d[0 : 16])\n",
                  p, p, v->panels, p, BLOCKS * v->block_bytes / 2, v->block_bytes / 2, p);
}

static void write_kernel(const variant *v, int64_t panel_count, const char *suffix, qn_buf *out) {
  qn_buf_printf(out, "kernel \"%s%s\" {\n", v->name, suffix);
  qn_buf_printf(out, "  param w : u8[%lld] streamed\n", (long long)panel_count * BLOCKS * v->block_bytes);
  qn_buf_printf(out, "  param x : i8[%d]\n  param xs : f32[%d]\n  param xsum : i32[%d]\n", K, BLOCKS, BLOCKS);
  qn_buf_printf(out, "  param y : f32[%lld] out\n", (long long)panel_count * 16);
  qn_buf_printf(out, "  for n in 0..%lld data parallel {\n", (long long)panel_count / v->panels);
  for (int p = 0; p < v->panels; p++) qn_buf_printf(out, "    local acc%d : f32[16]\n    acc%d[0 : 16] = 0.0\n", p, p);
  qn_buf_printf(out, "    for kb in 0..%d reduce {\n", BLOCKS);
  write_block(v, out);
  qn_buf_puts(out, "    }\n");
  for (int p = 0; p < v->panels; p++)
    qn_buf_printf(out, "    y[n*%d + %d : 16] = acc%d[0 : 16]\n", v->panels * 16, p * 16, p);
  qn_buf_puts(out, "  }\n}\n");
}

// ---- compiling and checking -----------------------------------------------------------------------------------

static void dump(void *context, const char *stage, const char *text, size_t length) {
  const options *o = context;
  if (o->dump && strcmp(o->dump, stage) == 0) fwrite(text, 1, length, stdout);
}

static double seconds(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// Parses, verifies and compiles all variants into one image, mapped readable and executable.
static qn_lkernel **compile(variant *variants, size_t count, const options *o, qn_arena *arena) {
  qn_diag diag = {0};
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  for (size_t i = 0; i < count; i++) {
    write_kernel(&variants[i], CHECK_PANELS, "_check", &text);
    write_kernel(&variants[i], variants[i].panel_count, "", &text);
  }
  if (o->text) puts(qn_buf_text(&text));
  qn_lkernel **kernels;
  size_t kernel_count;
  if (qn_lkernels_parse("gemv", (qn_str){text.data, text.length}, arena, &kernels, &kernel_count, &diag) != QN_OK)
    die(&diag);
  for (size_t i = 0; i < kernel_count; i++)
    if (qn_lkernel_verify(kernels[i], &diag) != QN_OK) die(&diag);
  qn_target target;
  if (qn_target_parse(o->target, &target, &diag) != QN_OK) die(&diag);
  qn_codegen_options codegen = {
      .target = &target, .threads = 1, .dump = o->dump ? dump : NULL, .dump_context = (void *)(uintptr_t)o};
  qn_code code;
  double start = seconds(CLOCK_MONOTONIC);
  if (qn_cpu_compile((const qn_lkernel *const *)kernels, kernel_count, &codegen, qn_allocator_default(), &code,
                     &diag) != QN_OK)
    die(&diag);
  printf("target %s: %zu kernels, %.1f ms a kernel on one thread, %zu bytes\n", target.name, kernel_count,
         1e3 * (seconds(CLOCK_MONOTONIC) - start) / (double)kernel_count, code.image_size);
  uint8_t *image = mmap(NULL, code.image_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (image == MAP_FAILED) exit(QN_ERR_NOMEM);
  memcpy(image, code.image, code.image_size);
  if (mprotect(image, code.image_size, PROT_READ | PROT_EXEC) != 0) exit(QN_ERR_NOMEM);
  for (size_t i = 0; i < count; i++) {
    void *check = image + code.offsets[2 * i], *full = image + code.offsets[2 * i + 1];
    memcpy(&variants[i].check, &check, sizeof check);
    memcpy(&variants[i].full, &full, sizeof full);
  }
  qn_code_deinit(&code);
  qn_buf_deinit(&text);
  return kernels;
}

typedef struct inputs {
  uint8_t *weights;  // huge pages
  size_t size;
  int8_t *x;
  float *scales;
  int32_t *sums;
  float *y;
} inputs;

static uint64_t next_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

static void *must_alloc(size_t size) {
  void *p = aligned_alloc(PAGE, qn_align_up(size, PAGE));
  if (!p) exit(QN_ERR_NOMEM);
  return p;
}

static inputs make_inputs(size_t size) {
  inputs in = {.size = size, .x = must_alloc(K), .scales = must_alloc(4 * BLOCKS), .sums = must_alloc(4 * BLOCKS)};
  in.y = must_alloc(size / (BLOCKS * 288) * 16 * sizeof(float));
  in.weights = mmap(NULL, size + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (in.weights == MAP_FAILED) exit(QN_ERR_NOMEM);
  madvise(in.weights, size, MADV_HUGEPAGE);
  uint64_t state = 88172645463325252u;
  for (size_t i = 0; i + 8 <= size; i += 8) {
    uint64_t bits = next_random(&state);
    memcpy(in.weights + i, &bits, sizeof bits);
  }
  for (int b = 0; b < BLOCKS; b++) {
    in.scales[b] = (float)(next_random(&state) % 1000) * 0x1p-10f;
    in.sums[b] = 0;
    for (int k = 32 * b; k < 32 * b + 32; k++) in.sums[b] += in.x[k] = (int8_t)next_random(&state);
  }
  return in;
}

// How much of the weights the kernel put on huge pages; without them address translation slows every kernel down.
static long huge_mib(void) {
  char line[256];
  long kib, sum = 0;
  FILE *file = fopen("/proc/self/smaps_rollup", "r");
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "AnonHugePages: %ld kB", &kib) == 1) sum += kib;
  if (file) fclose(file);
  return sum / 1024;
}

static void free_inputs(inputs *in) {
  munmap(in->weights, in->size + PAGE);
  free(in->x);
  free(in->scales);
  free(in->sums);
  free(in->y);
}

// Random bytes as scales would hold infinities and NaN: small numbers of either sign take their place.
static void fix_scales(const inputs *in, const variant *v) {
  for (size_t at = 0; at + (size_t)v->block_bytes <= in->size; at += (size_t)v->block_bytes)
    for (int i = 1; i < 32; i += 2) in->weights[at + (size_t)i] &= 0xAF;
}

static void check(const variant *v, const qn_lkernel *kernel, const inputs *in) {
  float got[CHECK_PANELS * 16], want[CHECK_PANELS * 16];
  qn_diag diag = {0};
  int64_t symbols[QN_SYM_COUNT] = {0};
  void *buffers[] = {in->weights, in->x, in->scales, in->sums, got};
  qn_linterp_buffer plain[] = {{in->weights, (size_t)(CHECK_PANELS * BLOCKS * v->block_bytes)},
                               {in->x, K},
                               {in->scales, 4 * BLOCKS},
                               {in->sums, 4 * BLOCKS},
                               {want, sizeof want}};
  v->check(buffers, symbols, 0, CHECK_PANELS / v->panels);
  if (qn_lkernel_interpret(kernel, plain, symbols, 0, INT64_MAX, qn_allocator_default(), &diag) != QN_OK) die(&diag);
  if (memcmp(got, want, sizeof got) != 0) {
    fprintf(stderr, "quern-gemv: %s differs from the interpreter: %g, want %g\n", v->name, (double)got[0],
            (double)want[0]);
    exit(QN_ERR_INTERNAL);
  }
}

// ---- timing ---------------------------------------------------------------------------------------------------

typedef struct job {
  pthread_t thread;
  pthread_barrier_t *start;
  const variant *variant;  // NULL = read
  const inputs *in;
  int prefetch;  // of the read, in bytes ahead
  int index, count;
  int piece;           // which of PIECES parts of the buffer
  double used, bytes;  // seconds of CPU time
  uint64_t sum;        // keeps the read alive
} job;

typedef uint64_t lines __attribute__((vector_size(64), aligned(64)));

// The plain read: 64-byte loads, eight a turn, added up.
#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t
read_all(const uint8_t *from, size_t size, int prefetch) {
  lines sums[8] = {0};
  for (size_t at = 0; at + 512 <= size; at += 512) {
    const lines *p = (const lines *)(const void *)(from + at);
    for (int i = 0; i < 8; i++) {
      if (prefetch) __builtin_prefetch(from + at + 64 * (size_t)i + prefetch);
      sums[i] += p[i];
    }
  }
  lines sum = sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
  uint64_t total = 0;
  for (int i = 0; i < 8; i++) total += sum[i];
  return total;
}

static void *work(void *argument) {
  job *j = argument;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(j->index, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
  size_t parts = (size_t)(PIECES * j->count), part = (size_t)(j->piece * j->count + j->index);
  pthread_barrier_wait(j->start);
  double began = seconds(CLOCK_THREAD_CPUTIME_ID);
  if (j->variant) {
    const inputs *in = j->in;
    void *buffers[] = {in->weights, in->x, in->scales, in->sums, in->y};
    size_t turns = (size_t)(j->variant->panel_count / j->variant->panels), from = turns * part / parts;
    size_t to = turns * (part + 1) / parts;
    int64_t symbols[QN_SYM_COUNT] = {0};
    j->variant->full(buffers, symbols, (int64_t)from, (int64_t)to);
    j->bytes = (double)(to - from) * (double)(j->variant->panels * BLOCKS * j->variant->block_bytes);
  } else {
    size_t lines_in_all = j->in->size / 64, from = lines_in_all * part / parts * 64;
    size_t to = lines_in_all * (part + 1) / parts * 64;
    j->sum = read_all(j->in->weights + from, to - from, j->prefetch);
    j->bytes = (double)(to - from);
  }
  j->used = seconds(CLOCK_THREAD_CPUTIME_ID) - began;
  return NULL;
}

// Gigabytes a second of one pass over the next piece of the buffer by `count` pinned threads. Threads' own CPU time
// counts: what other processes take of the cores does not, what they take of the memory's bandwidth does.
static double measure(const variant *v, const inputs *in, int prefetch, int count) {
  static int piece;
  job jobs[MAX_THREADS];
  pthread_barrier_t start;
  pthread_barrier_init(&start, NULL, (unsigned)count);
  piece = (piece + 1) % PIECES;
  for (int i = 0; i < count; i++) {
    jobs[i] = (job){
        .start = &start, .variant = v, .in = in, .prefetch = prefetch, .index = i, .count = count, .piece = piece};
    if (pthread_create(&jobs[i].thread, NULL, work, &jobs[i]) != 0) exit(QN_ERR_NOMEM);
  }
  double longest = 0, bytes = 0;
  for (int i = 0; i < count; i++) {
    pthread_join(jobs[i].thread, NULL);
    bytes += jobs[i].bytes;
    if (jobs[i].used > longest) longest = jobs[i].used;
  }
  pthread_barrier_destroy(&start);
  return 1e-9 * bytes / longest;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(const double *values, int count) {
  double sorted[MAX_REPETITIONS];
  memcpy(sorted, values, sizeof(double) * (size_t)count);
  qsort(sorted, (size_t)count, sizeof(double), by_value);
  return sorted[count / 2];
}

static double maximum(double a, double b) { return a > b ? a : b; }

// The best of three ways to read: without prefetch, and with it at two distances.
static double measure_read(const inputs *in, int threads) {
  double best = 0;
  for (int ahead = 0; ahead <= 2 * PAGE; ahead += PAGE) best = maximum(best, measure(NULL, in, ahead, threads));
  return best;
}

// The best of as many passes, so that neither side has more chances than the other.
static double measure_kernel(const variant *v, const inputs *in, int threads) {
  double best = 0;
  for (int i = 0; i < 3; i++) best = maximum(best, measure(v, in, 0, threads));
  return best;
}

// One repetition takes the read's speed and then each kernel's, so that what else the machine does falls on both; a
// kernel's ratio is to the reads before and after it.
static void time_all(const variant *variants, size_t count, const inputs *in, const options *o, int threads) {
  static double speed[MAX_VARIANTS][MAX_REPETITIONS], ratio[MAX_VARIANTS][MAX_REPETITIONS], read[MAX_REPETITIONS];
  for (int r = 0; r < o->repetitions; r++) {
    read[r] = 0;
    double before = measure_read(in, threads);
    for (size_t i = 0; i < count; i++) {
      speed[i][r] = measure_kernel(&variants[i], in, threads);
      double after = measure_read(in, threads);
      ratio[i][r] = speed[i][r] / (0.5 * (before + after));
      read[r] = maximum(read[r], before = after);
    }
  }
  printf("\n%d thread%s, %d repetitions\n%-26s %8s %8s %8s\n", threads, threads > 1 ? "s" : "", o->repetitions, "",
         "GB/s", "best", "of read");
  double best_read = 0;
  for (int r = 0; r < o->repetitions; r++) best_read = maximum(best_read, read[r]);
  printf("%-26s %8.2f %8.2f\n", "read", median(read, o->repetitions), best_read);
  for (size_t i = 0; i < count; i++) {
    double best = 0;
    for (int r = 0; r < o->repetitions; r++) best = maximum(best, speed[i][r]);
    printf("%-26s %8.2f %8.2f %7.1f%%\n", variants[i].name, median(speed[i], o->repetitions), best,
           100 * median(ratio[i], o->repetitions));
  }
}

// ---- main -----------------------------------------------------------------------------------------------------

static size_t make_variants(const options *o, const char *format, size_t size, variant *out) {
  static const int panels[] = {1, 2, 4}, ahead[] = {0, 4096};
  bool four_bits = strcmp(format, "q4_0") == 0;
  size_t count = 0;
  for (size_t p = 0; p < QN_COUNT(panels); p++)
    for (size_t a = 0; a < QN_COUNT(ahead); a++) {
      if (o->panels > 0 && p > 0) continue;
      if (o->prefetch >= 0 && a > 0) continue;
      variant *v = &out[count++];
      *v = (variant){.format = format,
                     .block_bytes = four_bits ? 288 : 544,
                     .lines = four_bits ? 4 : 8,
                     .offset = four_bits ? 8 : 128,
                     .panels = o->panels > 0 ? o->panels : panels[p],
                     .prefetch_bytes = o->prefetch >= 0 ? o->prefetch : ahead[a]};
      v->panel_count = (int64_t)(size / (size_t)(BLOCKS * v->block_bytes)) / 4 * 4;
      snprintf(v->name, sizeof v->name, "gemv_%s_n%d_ahead%d", format, 16 * v->panels, v->prefetch_bytes);
    }
  return count;
}

static int usage(void) {
  fprintf(stderr,
          "usage: quern-gemv [--format q8_0|q4_0] [--target T] [--mib N] [--reps N] [--threads N] [--panels N]\n"
          "                  [--ahead BYTES] [--text] [--dump mlir|llvm|asm]\n");
  return QN_ERR_ARGUMENT;
}

static bool read_option(options *o, const char *name, const char *value) {
  if (strcmp(name, "--format") == 0)
    o->format = value;
  else if (strcmp(name, "--target") == 0)
    o->target = value;
  else if (strcmp(name, "--dump") == 0)
    o->dump = value;
  else if (strcmp(name, "--mib") == 0)
    o->mib = atoi(value);
  else if (strcmp(name, "--reps") == 0)
    o->repetitions = atoi(value);
  else if (strcmp(name, "--threads") == 0)
    o->threads = atoi(value);
  else if (strcmp(name, "--panels") == 0)
    o->panels = atoi(value);
  else if (strcmp(name, "--ahead") == 0)
    o->prefetch = atoi(value);
  else
    return false;
  return true;
}

int main(int argc, char **argv) {
  options o = {.target = "host", .mib = 512, .repetitions = 21, .threads = 2, .panels = -1, .prefetch = -1};
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--text") == 0) {
      o.text = true;
    } else if (i + 1 >= argc || !read_option(&o, argv[i], argv[i + 1])) {
      return usage();
    } else {
      i++;
    }
  }
  if (o.mib < 1 || o.repetitions < 1 || o.repetitions > MAX_REPETITIONS || o.threads < 1 || o.threads > MAX_THREADS)
    return usage();
  inputs in = make_inputs((size_t)o.mib << 20);
  printf("weights: %d MiB, %ld MiB on huge pages\n", o.mib, huge_mib());
  static const char *const formats[] = {"q8_0", "q4_0"};
  for (size_t f = 0; f < QN_COUNT(formats); f++) {
    if (o.format && strcmp(o.format, formats[f]) != 0) continue;
    variant variants[MAX_VARIANTS];
    qn_arena arena;
    qn_arena_init(&arena, qn_allocator_default());
    size_t count = make_variants(&o, formats[f], in.size, variants);
    fix_scales(&in, &variants[0]);
    qn_lkernel **kernels = compile(variants, count, &o, &arena);
    for (size_t i = 0; i < count; i++) check(&variants[i], kernels[2 * i], &in);
    for (int threads = 1; threads <= o.threads; threads++) time_all(variants, count, &in, &o, threads);
    qn_arena_deinit(&arena);
  }
  free_inputs(&in);
  return 0;
}
