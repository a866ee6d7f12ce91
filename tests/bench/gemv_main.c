// quern-gemv: how fast the matmul kernels are that the passes make. Builds a graph of one matmul, runs the passes on
// it, compiles what they leave, checks it against plain C, and times exactly that: with few tokens beside a plain read
// of the same bytes, with more beside the peak of the instruction that does the work, all in the same run.
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "autotune/inputs.h"
#include "codegen/codegen.h"
#include "ir/program.h"
#include "passes/pass.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "tests/support/graph_text.h"

enum {
  MAX_K = 32768,
  FEW_TOKENS = 8,  // up to so many, weights come from memory: compared with the read
  MAX_THREADS = 64,
  MAX_REPETITIONS = 101,
  MAX_CONTENDERS = 64,
  MAX_LIST = 16,
  LIST_ITEM = 256,  // characters of one
  MAX_PARAMS = 8,
  PASSES = 3,       // a measurement is the best of so many
  PANELS = 32,      // their number is a multiple: n tiles of 1, 2, 4 and 8 leave equal shares
  SPARE = 8 << 20,  // what rounding up to so many panels may add to the weights
  PAGE = 4096,
};

typedef struct options {
  const char *formats, *mode, *target, *dump, *schedule;  // NULL = all, all, "host", nothing, the defaults
  const char *tiles, *ahead, *unroll, *mib;               // lists; NULL = what the schedule says, 256 and 512
  const char *clock, *text;                               // "cpu" or "wall"; not NULL = print the kernels
  const char *predict;                                   // not NULL = beside the cost model's prediction
  int tokens, k, repetitions, threads;
} options;

// What is shared by all contenders: sizes, bytes and the target.
typedef struct bench {
  const options *o;
  qn_target target;
  const qn_format *format;
  int64_t panels;             // of 16 rows
  uint8_t *weights, *memory;  // huge pages
  size_t weight_bytes, memory_bytes;
  float *x;
  int64_t symbols[QN_SYM_COUNT];
  int pieces;  // of the weights: a measurement covers one, the next measurement the next
} bench;

// A compiled program of one matmul.
typedef struct contender {
  bool integer;  // numeric mode int8
  const qn_program *program;
  const qn_pvariant *variants[MAX_PARAMS];  // by kernel: those for this number of tokens
  const qn_pstep *matmul;
  void *image;
  size_t image_size;
  qn_kernel_fn functions[MAX_PARAMS];  // by kernel
  char label[64];
} contender;

static _Noreturn void die(const qn_diag *diag) {
  fprintf(stderr, "quern-gemv: %s\n", diag->text);
  exit(diag->status);
}

static _Noreturn void die_text(const char *what, const char *name) {
  fprintf(stderr, "quern-gemv: %s: %s\n", name, what);
  exit(QN_ERR_INTERNAL);
}

static void must(qn_status status, const qn_diag *diag) {
  if (status != QN_OK) die(diag);
}

// ---- making kernels -------------------------------------------------------------------------------------------

static qn_machine_model machine_of(const bench *b, int threads) {
  const qn_target *target = &b->target;
  qn_machine_model machine =
      qn_machine_model_plain(target->vector_bytes, target->vector_registers, target->dots, target->cache_bytes);
  if (target->reads_alone) qn_machine_model_read_alone(&machine);
  machine.cores = threads;
  return machine;
}

static qn_program *run_passes(const bench *b, bool integer, const qn_schedule *forced, qn_arena *arena) {
  static const char graph[] = "x = input f32[T,$K]; w = param $F[$N,$K]; y = matmul x w; output y; max T=$T R=$T";
  char sizes[128];
  qn_diag diag = {0};
  snprintf(sizes, sizeof sizes, "K=%d F=%s N=%lld T=%d", b->o->k, b->format->name, (long long)b->panels * QN_TILE_ROWS,
           b->o->tokens);
  qn_pass_options pass_options = {
      .machine = machine_of(b, b->o->threads),
      .quantize_activations = integer,
      .forced_schedule = forced};
  qn_pass_context context = {
      .arena = arena, .allocator = qn_allocator_default(), .options = &pass_options, .diag = &diag};
  must(qn_graph_from_text(graph, sizes, arena, &context.graph, &diag), &diag);
  must(qn_run_passes(&context), &diag);
  return context.program;
}

static const qn_pvariant *variant_for(const qn_pkernel *kernel, int64_t rows) {
  for (int i = 0; i < kernel->variant_count; i++) {
    const qn_pvariant *v = &kernel->variants[i];
    if (v->rows_min <= rows && rows <= v->rows_max) return v;
  }
  die_text("no variant for this number of tokens", kernel->name);
}

static void dump(void *context, const char *stage, const char *text, size_t length) {
  const options *o = context;
  if (o->dump && strcmp(o->dump, stage) == 0) fwrite(text, 1, length, stdout);
}

// Compiles kernels into an image, mapped readable and executable.
static void *compile(const bench *b, const qn_lkernel *const *kernels, size_t count, qn_kernel_fn *out,
                     size_t *out_size) {
  qn_diag diag = {0};
  qn_codegen_options codegen = {
      .target = &b->target, .threads = 1, .dump = b->o->dump ? dump : NULL, .dump_context = (void *)(uintptr_t)b->o};
  qn_code code;
  must(qn_cpu_compile(kernels, count, &codegen, qn_allocator_default(), &code, &diag), &diag);
  uint8_t *image = mmap(NULL, code.image_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (image == MAP_FAILED) exit(QN_ERR_NOMEM);
  memcpy(image, code.image, code.image_size);
  if (mprotect(image, code.image_size, PROT_READ | PROT_EXEC) != 0) exit(QN_ERR_NOMEM);
  for (size_t i = 0; i < count; i++) {
    void *address = image + code.offsets[i];
    memcpy(&out[i], &address, sizeof address);
  }
  *out_size = code.image_size;
  qn_code_deinit(&code);
  return image;
}

static void make_contender(const bench *b, bool integer, const qn_schedule *forced, qn_arena *arena, contender *out) {
  const qn_program *program = run_passes(b, integer, forced, arena);
  const qn_lkernel *kernels[MAX_PARAMS];
  size_t count = program->kernels.count;
  if (count > MAX_PARAMS) die_text("more kernels than a matmul and what quantises its input", program->name);
  *out = (contender){.integer = integer, .program = program};
  for (size_t i = 0; i < count; i++) {
    out->variants[i] = variant_for(&program->kernels.items[i], b->o->tokens);
    kernels[i] = out->variants[i]->kernel;
  }
  for (size_t i = 0; i < program->steps.count; i++) {
    if (program->kernels.items[program->steps.items[i].kernel].is_matmul) out->matmul = &program->steps.items[i];
  }
  const qn_pvariant *variant = out->variants[out->matmul->kernel];
  if (b->o->text) {
    qn_buf text;
    qn_buf_init(&text, qn_allocator_default());
    qn_lkernel_print(variant->kernel, &text);
    puts(qn_buf_text(&text));
    qn_buf_deinit(&text);
  }
  out->image = compile(b, kernels, count, out->functions, &out->image_size);
  const qn_schedule *s = &variant->schedule;
  int at = snprintf(out->label, sizeof out->label, "%s ", integer ? "int8" : "f32");
  for (int i = 0; i < s->m_tile_count; i++) {
    at += snprintf(out->label + at, sizeof out->label - (size_t)at, i ? "/%d" : "%d", s->m_tiles[i]);
  }
  snprintf(out->label + at, sizeof out->label - (size_t)at, "x%d%s block %dx%d ahead %d%s%s", s->n_tile,
           s->n_apart ? " apart" : "", s->m_block, s->n_block, s->prefetch_bytes, s->prefetch_far ? "f" : "",
           s->k_unroll ? "" : " rolled");
}

static int64_t extent_of(const bench *b, const qn_pvariant *variant) {
  qn_dim extent = variant->extent;
  return qn_dim_is_const(extent) ? extent.value : extent.value * b->symbols[extent.symbol];
}

// The pointers that a step's kernel gets.
static void bind(const bench *b, const qn_program *program, const qn_pstep *step, void **out) {
  const qn_pkernel *kernel = &program->kernels.items[step->kernel];
  if (kernel->plain->param_count > MAX_PARAMS) die_text("too many parameters", kernel->name);
  for (size_t i = 0; i < kernel->plain->param_count; i++) {
    const qn_pbuf *buffer = &program->buffers.items[step->buffers[i]];
    switch (buffer->kind) {
      case QN_PB_WEIGHT: out[i] = b->weights; break;
      case QN_PB_INPUT: out[i] = b->x; break;
      default: out[i] = b->memory + buffer->offset; break;
    }
  }
}

// ---- data -----------------------------------------------------------------------------------------------------

static uint64_t next_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

static void *map_huge(size_t size) {
  void *p = mmap(NULL, size + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) exit(QN_ERR_NOMEM);
  madvise(p, size, MADV_HUGEPAGE);
  return p;
}

// How much memory the kernel put on huge pages; without them address translation slows every kernel down.
static long huge_mib(void) {
  char line[256];
  long kib, sum = 0;
  FILE *file = fopen("/proc/self/smaps_rollup", "r");
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "AnonHugePages: %ld kB", &kib) == 1) sum += kib;
  if (file) fclose(file);
  return sum / 1024;
}

static void fill_weights(const bench *b) {
  qn_dim shape[] = {qn_dim_const(b->panels * QN_TILE_ROWS), qn_dim_const(b->o->k)};
  qn_pbuf weight = {
      .kind = QN_PB_WEIGHT, .type = qn_type_make(b->format->dtype, 2, shape), .layout = QN_LAYOUT_ROWS16};
  qn_diag diag = {0};
  must(qn_inputs_fill_weight(&weight, 1, QN_INPUTS_TIME, b->weights, b->weight_bytes, qn_allocator_default(), &diag),
       &diag);
}

static void fill_input(const bench *b) {
  uint64_t state = 1;
  for (int64_t i = 0; i < (int64_t)b->o->tokens * b->o->k; i++) {
    b->x[i] = (float)(int32_t)(uint32_t)next_random(&state) * 0x1p-31f;
  }
}

// ---- checking -------------------------------------------------------------------------------------------------

// The row of activations that the matmul multiplies with, as plain numbers; quantised ones must be near the input.
static void read_row(const bench *b, const contender *c, int64_t row, double *out) {
  const qn_pbuf *buffer = NULL;
  for (size_t i = 0; i < c->program->buffers.count; i++) {
    if (c->program->buffers.items[i].type.dtype == QN_DTYPE_A8) buffer = &c->program->buffers.items[i];
  }
  if (c->integer != (buffer != NULL)) die_text("the numeric mode is another than asked for", c->label);
  const uint8_t *codes = buffer ? b->memory + buffer->offset + row * buffer->row_pitch : NULL;
  for (int64_t k = 0; k < b->o->k; k++) {
    double plain = (double)b->x[row * b->o->k + k];
    float scale = 0;
    out[k] = plain;
    if (!codes) continue;
    memcpy(&scale, codes + b->o->k + k / 32 * 4, sizeof scale);
    out[k] = (double)scale * (double)(int8_t)codes[k];
    if (fabs(out[k] - plain) > 0.51 * (double)scale) die_text("a quantised input is not near the input", c->label);
  }
}

// Runs the program once and compares some elements of the output with plain C.
static void check(const bench *b, const contender *c) {
  enum { ROWS = 128 };
  memset(b->memory, 0xFF, b->memory_bytes);
  for (size_t i = 0; i < c->program->steps.count; i++) {
    const qn_pstep *step = &c->program->steps.items[i];
    void *buffers[MAX_PARAMS];
    bind(b, c->program, step, buffers);
    c->functions[step->kernel](buffers, b->symbols, 0, extent_of(b, c->variants[step->kernel]));
  }
  const qn_pbuf *output = NULL;
  for (size_t i = 0; i < c->program->buffers.count; i++) {
    const qn_pbuf *buffer = &c->program->buffers.items[i];
    if (buffer->kind == QN_PB_ARENA && buffer->name) output = buffer;
  }
  const float *y = (const float *)(const void *)(b->memory + output->offset);
  for (int64_t t = 0; t<b->o->tokens; t += b->o->tokens> 1 ? b->o->tokens - 1 : 1) {
    static double x[MAX_K];
    read_row(b, c, t, x);
    for (int64_t i = 0; i < ROWS; i++) {
      int64_t n = i * (b->panels * QN_TILE_ROWS - 1) / (ROWS - 1);
      double want = 0, size = 0, got = (double)y[t * output->row_pitch + n];
      for (int64_t k = 0; k < b->o->k; k++) {
        double product = x[k] * qn_format_tile_get(b->format, QN_TILE_ROWS, b->o->k, b->weights, n, k);
        want += product;
        size += fabs(product);
      }
      if (fabs(got - want) <= 1e-5 * size) continue;
      fprintf(stderr, "quern-gemv: %s %s: token %lld, row %lld: got %g, want %g\n", b->format->name, c->label,
              (long long)t, (long long)n, got, want);
      exit(QN_ERR_INTERNAL);
    }
  }
}

// ---- what is measured -----------------------------------------------------------------------------------------

// A kernel over [0, extent), or (run NULL) a plain read of the bytes.
typedef struct subject {
  qn_kernel_fn run;
  void *buffers[MAX_PARAMS];
  const int64_t *symbols;
  int64_t extent;
  const uint8_t *bytes;
  size_t byte_count;
  int ahead;    // of the read: prefetch distance
  double work;  // of the whole, in what its speed counts: bytes or multiply-adds
  int pieces;   // a pass does one of them
} subject;

typedef struct job {
  pthread_t thread;
  pthread_barrier_t *start;
  const subject *subject;
  int index, part, parts;
  clockid_t clock;
  double seconds;
  uint64_t sum;  // keeps the read alive
} job;

static double seconds(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

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
  const subject *s = j->subject;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(j->index, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
  pthread_barrier_wait(j->start);
  double began = seconds(j->clock);
  if (s->run) {
    s->run(s->buffers, s->symbols, s->extent * j->part / j->parts, s->extent * (j->part + 1) / j->parts);
  } else {
    size_t all = s->byte_count / 512, from = all * (size_t)j->part / (size_t)j->parts;
    size_t to = all * ((size_t)j->part + 1) / (size_t)j->parts;
    j->sum = read_all(s->bytes + from * 512, (to - from) * 512, s->ahead);
  }
  j->seconds = seconds(j->clock) - began;
  return NULL;
}

// Giga-units of work a second of one pass over the next piece by `count` pinned threads. By default the threads' own
// CPU time counts: what other processes take of the cores does not, what they take of the memory's bandwidth does.
static double measure(const bench *b, const subject *s, int count) {
  static int turn;
  job jobs[MAX_THREADS];
  pthread_barrier_t start;
  pthread_barrier_init(&start, NULL, (unsigned)count);
  turn++;
  for (int i = 0; i < count; i++) {
    jobs[i] = (job){.start = &start, .subject = s, .index = i, .parts = s->pieces * count};
    jobs[i].part = turn % s->pieces * count + i;
    jobs[i].clock = strcmp(b->o->clock, "wall") == 0 ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID;
    if (pthread_create(&jobs[i].thread, NULL, work, &jobs[i]) != 0) exit(QN_ERR_NOMEM);
  }
  double longest = 0;
  for (int i = 0; i < count; i++) {
    pthread_join(jobs[i].thread, NULL);
    if (jobs[i].seconds > longest) longest = jobs[i].seconds;
  }
  pthread_barrier_destroy(&start);
  return 1e-9 * s->work / s->pieces / longest;
}

static double maximum(double a, double b) { return a > b ? a : b; }

static double best_of(const bench *b, const subject *s, int threads) {
  double best = 0;
  for (int i = 0; i < PASSES; i++) best = maximum(best, measure(b, s, threads));
  return best;
}

// The best of three ways to read: without prefetch, and with it at two distances.
static double measure_read(const bench *b, int threads) {
  subject s = {
      .bytes = b->weights, .byte_count = b->weight_bytes, .work = (double)b->weight_bytes, .pieces = b->pieces};
  double best = 0;
  for (int i = 0; i < PASSES; i++) {
    s.ahead = i * PAGE;
    best = maximum(best, measure(b, &s, threads));
  }
  return best;
}

static subject subject_of(const bench *b, const contender *c) {
  subject s = {.run = c->functions[c->matmul->kernel], .symbols = b->symbols, .pieces = b->pieces};
  s.extent = extent_of(b, c->variants[c->matmul->kernel]);
  s.work = (double)b->weight_bytes;
  bind(b, c->program, c->matmul, s.buffers);
  return s;
}

// The kernel of independent chains of the instruction at the heart of the kernels, as many as fill three quarters of
// the registers. One operand changes from turn to turn, the other from chain to chain, so that no work is saved where
// the target has no such instruction; small codes are masked, since it may then do with less.
static void write_peak(const bench *b, bool integer, int rounds, int turns, int chains, qn_buf *out) {
  const char *type = integer ? "i32" : "f32", *line = "w.i32[k % 4*16 : 16]";
  bool masked = b->format->code_bits < 8 && !(b->format->has_table && b->format->offset > 64);
  qn_buf_printf(out, "kernel \"peak\" {\n  param w : u8[256]\n  param x : %s[%d]\n  param y : %s[%d] out\n", type,
                chains, type, rounds * chains * QN_TILE_ROWS);
  qn_buf_printf(out, "  for n in 0..%d data parallel {\n", rounds);
  for (int i = 0; i < chains; i++) {
    qn_buf_printf(out, "    local a%d : %s[16]\n    a%d[0 : 16] = %s\n", i, type, i, integer ? "0i32" : "0.0");
  }
  qn_buf_printf(out, "    for k in 0..%d reduce {\n", turns);
  for (int i = 0; i < chains; i++) {
    if (!integer) {
      qn_buf_printf(out, "      a%d[0 : 16] = fma(w.f32[k %% 4*16 : 16], x[%d], a%d[0 : 16])\n", i, i, i);
    } else {
      qn_buf_printf(out, "      a%d[0 : 16] = dot4(a%d[0 : 16], %s%s%s, x[%d])\n", i, i, masked ? "and(" : "", line,
                    masked ? ", 252645135i32)" : "", i);
    }
  }
  qn_buf_puts(out, "    }\n");
  for (int i = 0; i < chains; i++) {
    qn_buf_printf(out, "    y[n*%d + %d : 16] = a%d[0 : 16]\n", chains * QN_TILE_ROWS, i * QN_TILE_ROWS, i);
  }
  qn_buf_puts(out, "  }\n}\n");
}

static subject make_peak(const bench *b, bool integer, qn_arena *arena, void **out_image, size_t *out_size) {
  enum { ROUNDS = 500, TURNS = 4096, OPERANDS = 128 };  // floats of w and x
  int chains = b->target.vector_registers * b->target.vector_bytes / 64 * 3 / 4;
  if (chains > 12) chains = 12;
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  write_peak(b, integer, ROUNDS, TURNS, chains, &text);
  qn_lkernel **kernels;
  size_t count;
  qn_diag diag = {0};
  must(qn_lkernels_parse("peak", (qn_str){text.data, text.length}, arena, &kernels, &count, &diag), &diag);
  must(qn_lkernel_verify(kernels[0], &diag), &diag);
  float *memory = qn_arena_array(arena, OPERANDS + ROUNDS * (size_t)chains * QN_TILE_ROWS, sizeof(float));
  if (!memory) exit(QN_ERR_NOMEM);
  subject s = {.symbols = b->symbols,
               .extent = ROUNDS,
               .pieces = 1,
               .buffers = {memory, memory + OPERANDS / 2, memory + OPERANDS}};
  s.work = (double)ROUNDS * TURNS * chains * QN_TILE_ROWS * (integer ? 4 : 1);
  *out_image = compile(b, (const qn_lkernel *const *)kernels, 1, &s.run, out_size);
  qn_buf_deinit(&text);
  return s;
}

// ---- timing and reporting -------------------------------------------------------------------------------------

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

// What contenders are compared with: the read (bytes), the peaks of fma and dot4 (multiply-adds).
enum { READ, PEAK_F32, PEAK_INT8, REFERENCES };
typedef struct references {
  bool used[REFERENCES];
  subject peaks[REFERENCES];
  double speed[REFERENCES][MAX_REPETITIONS];
} references;

static void measure_references(const bench *b, const references *r, int threads, double *out) {
  for (int i = 0; i < REFERENCES; i++) {
    if (r->used[i]) out[i] = i == READ ? measure_read(b, threads) : best_of(b, &r->peaks[i], threads);
  }
}

typedef struct samples {
  double speed[MAX_REPETITIONS], ratio[REFERENCES][MAX_REPETITIONS];
} samples;

// ---- the cost model ---------------------------------------------------------------------------------------------

// All that was measured beside its prediction, in this run.
enum { MAX_PAIRS = 4096 };
typedef struct pairs {
  double measured[MAX_PAIRS], predicted[MAX_PAIRS];
  int count;
} pairs;
static pairs all_pairs;

// The place of each value in rising order, equal ones sharing theirs.
static void ranks(const double *values, int count, double *out) {
  for (int i = 0; i < count; i++) {
    double below = 0, equal = 0;
    for (int j = 0; j < count; j++) {
      below += values[j] < values[i];
      equal += values[j] == values[i];
    }
    out[i] = below + 0.5 * (equal - 1);
  }
}

// Spearman's rank correlation: that of Pearson between ranks. NAN of fewer than 3 pairs.
static double rank_correlation(const double *x, const double *y, int count) {
  static double rx[MAX_PAIRS], ry[MAX_PAIRS];
  double mean = 0.5 * (count - 1), xy = 0, xx = 0, yy = 0;
  if (count < 3) return (double)NAN;
  ranks(x, count, rx);
  ranks(y, count, ry);
  for (int i = 0; i < count; i++) {
    xy += (rx[i] - mean) * (ry[i] - mean);
    xx += (rx[i] - mean) * (rx[i] - mean);
    yy += (ry[i] - mean) * (ry[i] - mean);
  }
  return xy / sqrt(xx * yy);
}

static double predict(const bench *b, const contender *c, int threads) {
  qn_machine_model machine = machine_of(b, threads);
  qn_prediction p;
  const qn_pvariant *v = c->variants[c->matmul->kernel];
  qn_schedule_predict(&c->program->kernels.items[c->matmul->kernel], b->o->tokens, &v->schedule, &machine, &p);
  if (getenv("QUERN_TEST_SHOW"))
    printf("  issue %.1f latency %.1f cache %.1f memory %.1f sync %.1f us, %d registers\n", 1e6 * p.issue_s,
           1e6 * p.latency_s, 1e6 * p.cache_s, 1e6 * p.memory_s, 1e6 * p.sync_s, p.registers);
  return p.seconds;
}

// Microseconds measured and predicted, and how well the order of the contenders was.
static void report_predictions(const bench *b, const contender *contenders, size_t count, const samples *all,
                               int threads) {
  static pairs these;
  these.count = 0;
  printf("%-40s %12s %12s\n", "microseconds", "measured", "predicted");
  for (size_t i = 0; i < count; i++) {
    double measured = (double)b->weight_bytes / (1e9 * median(all[i].speed, b->o->repetitions));
    double predicted = predict(b, &contenders[i], threads);
    printf("%-40s %12.1f %12.1f\n", contenders[i].label, 1e6 * measured, 1e6 * predicted);
    pairs *const sets[] = {&these, &all_pairs};
    for (size_t j = 0; j < QN_COUNT(sets) && sets[j]->count < MAX_PAIRS; j++) {
      sets[j]->measured[sets[j]->count] = measured / (double)b->weight_bytes;
      sets[j]->predicted[sets[j]->count++] = predicted / (double)b->weight_bytes;
    }
  }
  printf("rank correlation %.2f of these %d, %.2f of all %d\n",
         rank_correlation(these.measured, these.predicted, these.count), these.count,
         rank_correlation(all_pairs.measured, all_pairs.predicted, all_pairs.count), all_pairs.count);
}

static void report(const bench *b, const contender *contenders, size_t count, const references *r, const samples *all,
                   int threads) {
  static const char *const names[REFERENCES] = {"read", "peak of fma", "peak of dot4"};
  int reps = b->o->repetitions;
  double macs_a_byte = (double)b->o->tokens * b->o->k * (double)b->panels * QN_TILE_ROWS / (double)b->weight_bytes;
  printf("\n%s, %zu MiB, %d token%s, %d thread%s\n%-40s %9s %9s %9s %9s\n", b->format->name, b->weight_bytes >> 20,
         b->o->tokens, b->o->tokens > 1 ? "s" : "", threads, threads > 1 ? "s" : "", "medians", "GB/s", "of read",
         "GMAC/s", "of peak");
  for (int i = 0; i < REFERENCES; i++) {
    if (!r->used[i]) continue;
    printf(i == READ ? "%-40s %9.2f\n" : "%-40s %29.1f\n", names[i], median(r->speed[i], reps));
  }
  for (size_t i = 0; i < count; i++) {
    const samples *s = &all[i];
    int peak = contenders[i].integer ? PEAK_INT8 : PEAK_F32;
    printf("%-40s %9.2f", contenders[i].label, median(s->speed, reps));
    if (r->used[READ])
      printf(" %8.1f%%", 100 * median(s->ratio[READ], reps));
    else
      printf(" %9s", "");
    printf(" %9.1f", median(s->speed, reps) * macs_a_byte);
    if (r->used[peak]) printf(" %8.1f%%", 100 * macs_a_byte * median(s->ratio[peak], reps));
    printf("\n");
  }
  fflush(stdout);
}

// One repetition takes the references' speed and then each contender's, so that what else the machine does falls on all
// of them; a contender's ratio is to the references before and after it.
static void time_all(const bench *b, const contender *contenders, size_t count, references *r, int threads) {
  static samples all[MAX_CONTENDERS];
  for (int rep = 0; rep < b->o->repetitions; rep++) {
    double before[REFERENCES] = {0}, after[REFERENCES] = {0};
    measure_references(b, r, threads, before);
    for (int i = 0; i < REFERENCES; i++) r->speed[i][rep] = before[i];
    for (size_t c = 0; c < count; c++) {
      subject s = subject_of(b, &contenders[c]);
      double speed = all[c].speed[rep] = best_of(b, &s, threads);
      measure_references(b, r, threads, after);
      for (int i = 0; i < REFERENCES; i++) {
        if (r->used[i]) all[c].ratio[i][rep] = speed / (0.5 * (before[i] + after[i]));
        before[i] = after[i];
      }
    }
  }
  report(b, contenders, count, r, all, threads);
  if (b->o->predict) report_predictions(b, contenders, count, all, threads);
}

// ---- main -----------------------------------------------------------------------------------------------------

// The items of a list with commas between them.
static size_t split(const char *list, char items[MAX_LIST][LIST_ITEM]) {
  size_t count = 0;
  while (list && *list && count < MAX_LIST) {
    size_t length = strcspn(list, ",");
    snprintf(items[count++], LIST_ITEM, "%.*s", (int)length, list);
    list += length + (list[length] == ',');
  }
  return count;
}

// "12/4x2" → m_tiles 12, 4, 1 and n_tile 2; an "a" behind it: n_apart.
static void read_tiles(const char *text, qn_schedule *schedule) {
  int *tiles = schedule->m_tiles, count = 0, length = 0;
  while (count < QN_SCHEDULE_MAX_TILES - 1 && sscanf(text, "%d%n", &tiles[count], &length) == 1) {
    count++;
    text += length;
    if (*text != '/') break;
    text++;
  }
  if (count == 0 || tiles[count - 1] > 1) tiles[count++] = 1;
  schedule->m_tile_count = count;
  if (*text == 'x') schedule->n_tile = atoi(text + 1);
  schedule->n_apart = strchr(text, 'a') != NULL;
}

static void read_schedule(const char *path, qn_schedule *out) {
  qn_diag diag = {0};
  char *text;
  size_t size;
  must(qn_file_read(path, QN_SCHEDULE_MAX, qn_allocator_default(), &text, &size, &diag), &diag);
  must(qn_schedule_parse(path, (qn_str){text, size}, out, &diag), &diag);
  qn_free(qn_allocator_default(), text, size + 1);
}

// The default schedule or those of the files; where knobs are given, every combination of them instead, the other knobs
// as in the first of them.
static size_t make_contenders(const bench *b, bool integer, qn_arena *arena, contender *out) {
  const options *o = b->o;
  char tiles[MAX_LIST][LIST_ITEM], ahead[MAX_LIST][LIST_ITEM], unroll[MAX_LIST][LIST_ITEM], files[MAX_LIST][LIST_ITEM];
  size_t tile_count = split(o->tiles, tiles), ahead_count = split(o->ahead, ahead);
  size_t unroll_count = split(o->unroll, unroll), file_count = split(o->schedule, files), count = 0;
  qn_schedule base, *forced = NULL;
  for (size_t i = 0; i < (file_count ? file_count : 1); i++) {
    bool plain = file_count == 0 || strcmp(files[i], "default") == 0;
    if (!plain) read_schedule(files[i], &base);
    forced = plain ? NULL : &base;
    if (tile_count + ahead_count + unroll_count > 0) break;
    make_contender(b, integer, forced, arena, &out[count++]);
  }
  if (count > 0) return count;
  const qn_program *program = run_passes(b, integer, forced, arena);
  base = variant_for(&program->kernels.items[program->kernels.count - 1], o->tokens)->schedule;
  for (size_t t = 0; t < (tile_count ? tile_count : 1); t++) {
    for (size_t a = 0; a < (ahead_count ? ahead_count : 1); a++) {
      for (size_t u = 0; u < (unroll_count ? unroll_count : 1) && count < MAX_CONTENDERS / 2; u++) {
        qn_schedule schedule = base;
        if (tile_count) read_tiles(tiles[t], &schedule);
        if (ahead_count) {
          schedule.prefetch_bytes = atoi(ahead[a]);
          schedule.prefetch_far = strchr(ahead[a], 'f') != NULL;
        }
        if (unroll_count) schedule.k_unroll = atoi(unroll[u]);
        make_contender(b, integer, &schedule, arena, &out[count++]);
      }
    }
  }
  return count;
}

// All that is asked for of one format and one size of weights.
static void run_format(bench *b, size_t bytes) {
  static contender contenders[MAX_CONTENDERS];
  const options *o = b->o;
  size_t panel_bytes = (size_t)(o->k / b->format->block_values) * qn_format_tile_block_bytes(b->format, QN_TILE_ROWS);
  qn_arena arena;
  qn_arena_init(&arena, qn_allocator_default());
  b->panels = (int64_t)qn_align_up((bytes + panel_bytes - 1) / panel_bytes, PANELS);
  b->weight_bytes = panel_bytes * (size_t)b->panels;
  b->pieces = b->weight_bytes >> 20 >= 200 ? 8 : 1;
  fill_weights(b);
  printf("\ntarget %s, %ld MiB on huge pages\n", b->target.name, huge_mib());
  bool quantised = b->format->block_values > 1;
  size_t count = 0;
  if (quantised && strcmp(o->mode, "f32") != 0) count += make_contenders(b, true, &arena, contenders);
  if (!quantised || strcmp(o->mode, "int8") != 0) count += make_contenders(b, false, &arena, contenders + count);
  b->memory_bytes = 0;
  for (size_t i = 0; i < count; i++) {
    if (contenders[i].program->arena_bytes > b->memory_bytes) b->memory_bytes = contenders[i].program->arena_bytes;
  }
  b->memory = map_huge(b->memory_bytes);
  references r = {.used = {[READ] = o->tokens <= FEW_TOKENS}};
  void *images[REFERENCES] = {NULL};
  size_t image_sizes[REFERENCES];
  for (size_t i = 0; i < count; i++) {
    int peak = contenders[i].integer ? PEAK_INT8 : PEAK_F32;
    check(b, &contenders[i]);
    if (o->tokens == 1 || r.used[peak]) continue;
    r.used[peak] = true;
    r.peaks[peak] = make_peak(b, peak == PEAK_INT8, &arena, &images[peak], &image_sizes[peak]);
  }
  for (int threads = 1; threads <= o->threads; threads++) time_all(b, contenders, count, &r, threads);
  for (size_t i = 0; i < count; i++) munmap(contenders[i].image, contenders[i].image_size);
  for (int i = 0; i < REFERENCES; i++)
    if (images[i]) munmap(images[i], image_sizes[i]);
  munmap(b->memory, b->memory_bytes + PAGE);
  qn_arena_deinit(&arena);
}

static int usage(void) {
  fprintf(
      stderr,
      "usage: quern-gemv [option value]...\n"
      "  --formats q8_0,q4_0,...   weights; default all       --mode int8|f32         of quantised ones; default both\n"
      "  --mib 256,512             bytes of weights           --tokens M              default 1\n"
      "  --threads N               1 to N; default 2          --reps N                default 21\n"
      "  --target T                default host               --clock cpu|wall        default cpu\n"
      "  --schedule FILE,...       instead of the default schedule, which is called default here; or combinations of:\n"
      "  --tiles 12x1,8/4x2,1x4a   tokens (falling) x panels (a: n_apart)\n"
      "  --ahead 0,4096,4096f      prefetch in bytes (f: prefetch_far)\n"
      "  --unroll 0,1              lines of a block\n"
      "  --k N                     values a row, of 256; default 2048\n"
      "  --predict yes             beside what the cost model says, and the rank correlation of the two\n"
      "  --text yes                prints the kernels         --dump mlir|llvm|asm    and what becomes of them\n");
  return QN_ERR_ARGUMENT;
}

static bool read_option(options *o, const char *name, const char *value) {
  const struct {
    const char *name, **text;
    int *number;
  } known[] = {{"--formats", &o->formats, NULL},   {"--mode", &o->mode, NULL},       {"--mib", &o->mib, NULL},
               {"--target", &o->target, NULL},     {"--dump", &o->dump, NULL},       {"--clock", &o->clock, NULL},
               {"--schedule", &o->schedule, NULL}, {"--tiles", &o->tiles, NULL},     {"--ahead", &o->ahead, NULL},
               {"--unroll", &o->unroll, NULL},     {"--text", &o->text, NULL},       {"--tokens", NULL, &o->tokens},
               {"--predict", &o->predict, NULL},   {"--k", NULL, &o->k},
               {"--threads", NULL, &o->threads},   {"--reps", NULL, &o->repetitions}};
  for (size_t i = 0; i < QN_COUNT(known); i++) {
    if (strcmp(name, known[i].name) != 0) continue;
    if (known[i].text)
      *known[i].text = value;
    else
      *known[i].number = atoi(value);
    return true;
  }
  return false;
}

static bool in_list(const char *list, const char *name) {
  char items[MAX_LIST][LIST_ITEM];
  size_t count = split(list, items);
  for (size_t i = 0; i < count; i++)
    if (strcmp(items[i], name) == 0) return true;
  return list == NULL;
}

int main(int argc, char **argv) {
  options o = {.mode = "both", .target = "host", .clock = "cpu", .tokens = 1, .k = 2048, .repetitions = 21, .threads = 2};
  for (int i = 1; i < argc; i += 2) {
    if (i + 1 >= argc || !read_option(&o, argv[i], argv[i + 1])) return usage();
  }
  char sizes[MAX_LIST][LIST_ITEM];
  size_t size_count = split(o.mib ? o.mib : o.tokens <= FEW_TOKENS ? "256,512" : "32", sizes), largest = 0;
  for (size_t i = 0; i < size_count; i++) {
    if (strtoul(sizes[i], NULL, 10) > largest) largest = strtoul(sizes[i], NULL, 10);
  }
  if (largest < 16 || o.repetitions < 1 || o.repetitions > MAX_REPETITIONS || o.threads < 1 ||
      o.threads > MAX_THREADS || o.tokens < 1 || o.k < 256 || o.k > MAX_K || o.k % 256 != 0)
    return usage();
  bench b = {.o = &o, .symbols = {[QN_SYM_T] = o.tokens, [QN_SYM_R] = o.tokens}};
  qn_diag diag = {0};
  must(qn_target_parse(o.target, &b.target, &diag), &diag);
  size_t room = (largest << 20) + SPARE;
  b.weights = map_huge(room);
  b.x = map_huge((size_t)o.tokens * (size_t)o.k * sizeof(float));
  fill_input(&b);
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    b.format = qn_format_of((qn_dtype)dtype);
    if (!b.format || !in_list(o.formats, b.format->name)) continue;
    for (size_t i = 0; i < size_count; i++) run_format(&b, strtoul(sizes[i], NULL, 10) << 20);
  }
  munmap(b.weights, room + PAGE);
  munmap(b.x, (size_t)o.tokens * (size_t)o.k * sizeof(float) + PAGE);
  return 0;
}
