// quern-attention: how fast the attention kernels are that the passes make. Builds a graph of one attention, runs the
// passes on it, compiles what they leave, checks it against plain C, and times it over caches too large for the CPU's,
// beside a plain read of the same bytes and the peak of fma, all in the same run. Times are the threads' own.
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "codegen/codegen.h"
#include "ir/program.h"
#include "passes/pass.h"
#include "runtime/base/file.h"
#include "tests/support/graph_text.h"

enum {
  MAX_THREADS = 64,
  MAX_REPETITIONS = 101,
  MAX_LAYERS = 4096,
  MAX_PARAMS = 8,
  PIECES_A_SHARE = 4,    // as in runtime/threads.c
  READ_BLOCK = 1 << 18,  // bytes that a thread reads at a time
};

typedef struct options {
  const char *shapes, *kv, *tokens, *depths, *target, *dump, *schedule, *mode;
  int threads, repetitions, mib;
} options;

// One attention: `layers` caches that follow each other, and the tokens of a step after `depth` others.
typedef struct bench {
  const options *o;
  int64_t heads, kv_heads, head_dim, tokens, depth, pages, layers, window;
  qn_kv_page page[2];  // of K and V
  size_t pool_bytes;   // of K or V, the larger
  qn_dtype kv;
  uint8_t *caches;  // layers × (K, V)
  float *q, *out;
  int32_t *pos, *seq, *table;
  int64_t symbols[QN_SYM_COUNT];
  qn_target target;
  const qn_program *program;
  const qn_pvariant *variant;
  int64_t extent, out_pitch;
} bench;

static void must(qn_status status, const qn_diag *diag) {
  if (status == QN_OK) return;
  fprintf(stderr, "quern-attention: %s\n", diag->text);
  exit(status);
}

static _Noreturn void die(const char *what) {
  fprintf(stderr, "quern-attention: %s\n", what);
  exit(QN_ERR_INTERNAL);
}

// ---- kernels ----------------------------------------------------------------------------------------------------

static void dump(void *context, const char *stage, const char *text, size_t length) {
  const options *o = context;
  if (o->dump && strcmp(o->dump, stage) == 0) fwrite(text, 1, length, stdout);
}

static qn_kernel_fn compile(const bench *b, const qn_lkernel *kernel, bool dumped, qn_jit **out_jit) {
  qn_diag diag = {0};
  qn_codegen_options codegen = {.target = &b->target, .threads = 1};
  if (dumped) {
    codegen.dump = dump;
    codegen.dump_context = (void *)(uintptr_t)b->o;
  }
  must(qn_jit_create(&kernel, 1, &codegen, qn_allocator_default(), out_jit, &diag), &diag);
  return qn_jit_kernel(*out_jit, 0);
}

static void make_program(bench *b, qn_arena *arena) {
  static const char graph[] =
      "q = input f32[T,$H,$C]; kc = cache kind=k index=0 $F[G,$J,$C,64]; vc = cache kind=v index=0 $F[G,$J,64,$C]\n"
      "s = attn_scores q kc pos seq block_table scale=0.125 window=$W; p = softmax s\n"
      "o = attn_mix p vc pos seq block_table; output o; max T=$T R=$T B=1 P=$P G=$P";
  char sizes[256];
  qn_diag diag = {0};
  snprintf(sizes, sizeof sizes, "H=%d C=%d J=%d F=%s T=%d P=%d W=%d", (int)b->heads, (int)b->head_dim, (int)b->kv_heads,
           qn_dtype_name(b->kv), (int)b->tokens, (int)b->pages, (int)b->window);
  qn_pass_options pass_options = {
      .quantize_activations = strcmp(b->o->mode, "int8") == 0,
      .machine = qn_machine_model_plain(b->target.vector_bytes, b->target.vector_registers, b->target.dots,
                                        b->target.cache_bytes)};
  if (b->target.reads_alone) qn_machine_model_read_alone(&pass_options.machine);
  qn_schedule forced;
  if (b->o->schedule) {
    char *text;
    size_t size;
    must(qn_file_read(b->o->schedule, QN_SCHEDULE_MAX, qn_allocator_default(), &text, &size, &diag), &diag);
    must(qn_schedule_parse(b->o->schedule, (qn_str){text, size}, &forced, &diag), &diag);
    qn_free(qn_allocator_default(), text, size + 1);
    pass_options.forced_schedule = &forced;
  }
  qn_pass_context context = {
      .arena = arena, .allocator = qn_allocator_default(), .options = &pass_options, .diag = &diag};
  must(qn_graph_from_text(graph, sizes, arena, &context.graph, &diag), &diag);
  must(qn_run_passes(&context), &diag);
  b->program = context.program;
  if (b->program->kernels.count != 1) die("the attention did not become one kernel");
  const qn_pkernel *kernel = &b->program->kernels.items[0];
  b->variant = NULL;
  for (int i = 0; i < kernel->variant_count; i++) {
    const qn_pvariant *v = &kernel->variants[i];
    if (v->rows_min <= b->tokens && b->tokens <= v->rows_max) b->variant = v;
  }
  if (!b->variant) die("no variant for this number of tokens");
  qn_dim extent = b->variant->extent;
  b->extent = qn_dim_is_const(extent) ? extent.value : extent.value * b->symbols[extent.symbol];
  if (!b->o->dump || strcmp(b->o->dump, "text") != 0) return;
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  qn_schedule_print(&b->variant->schedule, &text);
  qn_lkernel_print(b->variant->kernel, &text);
  puts(qn_buf_text(&text));
  qn_buf_deinit(&text);
}

static void bind(bench *b, int64_t layer, void **out) {
  const qn_pstep *step = &b->program->steps.items[0];
  const qn_lkernel *kernel = b->variant->kernel;
  for (size_t i = 0; i < kernel->param_count; i++) {
    const qn_pbuf *buffer = &b->program->buffers.items[step->buffers[i]];
    uint8_t *pools = b->caches + (size_t)layer * 2 * b->pool_bytes;
    if (buffer->kind == QN_PB_CACHE) out[i] = pools + (buffer->name[0] == 'v' ? b->pool_bytes : 0);
    if (buffer->kind == QN_PB_ARENA) out[i] = b->out, b->out_pitch = buffer->row_pitch;
    if (buffer->kind != QN_PB_INPUT) continue;
    out[i] = strcmp(buffer->name, "q") == 0     ? (void *)b->q
             : strcmp(buffer->name, "pos") == 0 ? (void *)b->pos
             : strcmp(buffer->name, "seq") == 0 ? (void *)b->seq
                                                : (void *)b->table;
  }
}

// ---- data -------------------------------------------------------------------------------------------------------

static uint64_t next_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

static void *map(size_t size) {
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) die("out of memory");
  madvise(p, size, MADV_HUGEPAGE);
  return p;
}

// Random numbers of magnitude 1/128 to 2 or so: random bits with an exponent that is none of infinities and NaN. Codes are
// any bytes, with scales of about 1/64.
static void fill_pool(const bench *b, const qn_kv_page *page, uint8_t *at, uint64_t *state) {
  uint16_t keep = b->kv == QN_DTYPE_F16 ? 0x9FFF : 0x83FF, set = b->kv == QN_DTYPE_F16 ? 0x2000 : 0x3C00;
  for (size_t i = 0; i + 2 <= b->pool_bytes; i += 2) {
    uint16_t bits = (uint16_t)next_random(state);
    bool scale = page->coded && (int64_t)i % page->head_bytes >= page->scales_at;
    if (scale) bits = (uint16_t)((bits & 0x7F) | 0x3C00);
    if (!page->coded) bits = (uint16_t)((bits & keep) | set);
    memcpy(at + i, &bits, sizeof bits);
  }
}

static void fill_caches(const bench *b) {
  uint64_t state = 88172645463325252u;
  for (int64_t i = 0; i < 2 * b->layers; i++) fill_pool(b, &b->page[i % 2], b->caches + (size_t)i * b->pool_bytes, &state);
}

// Of the first layer's K or V.
static double cached(const bench *b, int pool, int64_t page, int64_t head, int64_t key, int64_t c) {
  const qn_kv_page *p = &b->page[pool];
  const uint8_t *at = b->caches + (size_t)pool * b->pool_bytes + page * p->page_bytes + head * p->head_bytes;
  int shift;
  const uint8_t *from = at + qn_kv_page_place(p, key, c, &shift);
  uint16_t bits;
  float value;
  if (p->coded) {
    memcpy(&bits, at + qn_kv_page_scale(p, key, c), sizeof bits);
    return (double)qn_bf16_to_f32(bits) * qn_kv_page_get_code(p, at, key, c);
  }
  if (b->kv == QN_DTYPE_F32) {
    memcpy(&value, from, sizeof value);
    return (double)value;
  }
  memcpy(&bits, from, sizeof bits);
  return (double)qn_f16_to_f32(bits);
}

// Compares one query head of one token with plain C, in the first layer.
static void check(const bench *b, int64_t token, int64_t head) {
  int64_t kv_head = head / (b->heads / b->kv_heads), keys = b->pos[token] + 1;
  int64_t first = b->window > 0 && keys > b->window ? keys - b->window : 0;
  double *scores = malloc(sizeof *scores * (size_t)keys), top = -INFINITY, sum = 0, worst = 0;
  if (!scores) die("out of memory");
  for (int64_t key = first; key < keys; key++) {
    double dot = 0;
    for (int64_t d = 0; d < b->head_dim; d++) {
      dot += (double)b->q[(token * b->heads + head) * b->head_dim + d] *
             cached(b, 0, b->table[key / QN_PAGE_KEYS], kv_head, key % QN_PAGE_KEYS, d);
    }
    scores[key] = dot * 0.125;
    if (scores[key] > top) top = scores[key];
  }
  for (int64_t key = first; key < keys; key++) sum += scores[key] = exp(scores[key] - top);
  for (int64_t d = 0; d < b->head_dim; d++) {
    double want = 0;
    for (int64_t key = first; key < keys; key++) {
      want += scores[key] / sum * cached(b, 1, b->table[key / QN_PAGE_KEYS], kv_head, key % QN_PAGE_KEYS, d);
    }
    double error = fabs((double)b->out[token * b->out_pitch + head * b->head_dim + d] - want);
    if (!(error <= worst)) worst = error;
  }
  free(scores);
  double most = b->page[0].coded && strcmp(b->o->mode, "int8") == 0 ? 2e-2 : 1e-4;  // queries and weights are codes
  if (worst <= most) return;
  fprintf(stderr, "quern-attention: token %" PRId64 ", head %" PRId64 ": got an error of %g, want at most %g\n", token,
          head, worst, most);
  exit(QN_ERR_INTERNAL);
}

// ---- what is measured -------------------------------------------------------------------------------------------

typedef uint64_t lines __attribute__((vector_size(64), aligned(64)));

#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t
read_block(const uint8_t *from, size_t size) {
  lines sums[8] = {0};
  for (size_t at = 0; at + 512 <= size; at += 512) {
    const lines *p = (const lines *)(const void *)(from + at);
    for (int i = 0; i < 8; i++) {
      __builtin_prefetch(from + at + 64 * (size_t)i + 4096);
      sums[i] += p[i];
    }
  }
  lines sum = sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
  uint64_t total = 0;
  for (int i = 0; i < 8; i++) total += sum[i];
  return total;
}

// Pieces 0 .. count - 1, shared out among threads as they come.
typedef struct job {
  pthread_barrier_t *start;
  atomic_long *next;
  long count;
  bench *b;
  qn_kernel_fn run;    // NULL: the plain read
  void *const *bound;  // MAX_PARAMS a layer; NULL: the peak, whose parameters are `peak`
  void **peak;
  int64_t extent, piece;
  int cpu;
  double seconds;
  uint64_t sum;  // keeps the read alive
} job;

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void do_piece(job *j, long piece) {
  int64_t pieces = (j->extent + j->piece - 1) / j->piece, layer = piece / pieces, from = piece % pieces * j->piece;
  int64_t to = from + j->piece < j->extent ? from + j->piece : j->extent;
  if (!j->run) {
    j->sum += read_block(j->b->caches + from, (size_t)(to - from));
  } else {
    j->run(j->bound ? j->bound + layer * MAX_PARAMS : j->peak, j->b->symbols, from, to);
  }
}

static void *work(void *argument) {
  job *j = argument;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(j->cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
  pthread_barrier_wait(j->start);
  double began = seconds();
  for (long piece; (piece = atomic_fetch_add(j->next, 1)) < j->count;) do_piece(j, piece);
  j->seconds = seconds() - began;
  return NULL;
}

// Seconds of one pass: the mean of the threads' CPU times, so that what other processes take of the cores counts
// little.
static double measure(const job *what, int threads) {
  pthread_t ids[MAX_THREADS];
  job jobs[MAX_THREADS];
  pthread_barrier_t start;
  atomic_long next = 0;
  double sum = 0;
  pthread_barrier_init(&start, NULL, (unsigned)threads);
  for (int i = 0; i < threads; i++) {
    jobs[i] = *what;
    jobs[i].start = &start;
    jobs[i].next = &next;
    jobs[i].cpu = i;
    if (pthread_create(&ids[i], NULL, work, &jobs[i]) != 0) die("no thread");
  }
  for (int i = 0; i < threads; i++) {
    pthread_join(ids[i], NULL);
    sum += jobs[i].seconds;
  }
  pthread_barrier_destroy(&start);
  return sum / threads;
}

// Independent chains of fma, as many as fill three quarters of the registers.
static job make_peak(bench *b, qn_arena *arena, double *out_work, qn_jit **out_jit) {
  enum { ROUNDS = 500, TURNS = 4096 };
  static float memory[64 + 12 * ROUNDS * QN_TILE_ROWS];
  static void *bound[2] = {memory, memory + 64};
  int chains = b->target.vector_registers * b->target.vector_bytes / 64 * 3 / 4;
  if (chains > 12) chains = 12;
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  qn_buf_printf(&text, "kernel \"peak\" { param x : f32[64] param y : f32[%d] out for n in 0..%d data parallel {\n",
                ROUNDS * chains * QN_TILE_ROWS, ROUNDS);
  for (int i = 0; i < chains; i++) qn_buf_printf(&text, "local a%d : f32[16] a%d[0 : 16] = 0.0\n", i, i);
  qn_buf_printf(&text, "for k in 0..%d reduce {\n", TURNS);
  for (int i = 0; i < chains; i++) {
    qn_buf_printf(&text, "a%d[0 : 16] = fma(x[k %% 4*16 : 16], x[%d], a%d[0 : 16])\n", i, i, i);
  }
  qn_buf_puts(&text, "}\n");
  for (int i = 0; i < chains; i++)
    qn_buf_printf(&text, "y[n*%d + %d : 16] = a%d[0 : 16]\n", chains * QN_TILE_ROWS, i * QN_TILE_ROWS, i);
  qn_buf_puts(&text, "} }\n");
  qn_lkernel **kernels;
  size_t count;
  qn_diag diag = {0};
  must(qn_lkernels_parse("peak", (qn_str){text.data, text.length}, arena, &kernels, &count, &diag), &diag);
  must(qn_lkernel_verify(kernels[0], &diag), &diag);
  qn_buf_deinit(&text);
  *out_work = (double)ROUNDS * TURNS * chains * QN_TILE_ROWS;
  job peak = {.b = b, .extent = ROUNDS, .piece = 1, .count = ROUNDS, .peak = bound};
  peak.run = compile(b, kernels[0], false, out_jit);
  return peak;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, by_value);
  return values[count / 2];
}

// ---- one case ---------------------------------------------------------------------------------------------------

// Multiply-adds of one layer, and bytes of keys and values that its tokens see.
static void count_work(const bench *b, double *out_macs, double *out_bytes) {
  double keys = 0;
  for (int64_t t = 0; t < b->tokens; t++) {
    int64_t seen = b->depth + t + 1;
    keys += (double)(b->window > 0 && seen > b->window ? b->window : seen);
  }
  int64_t cache = b->depth + b->tokens;
  if (b->window > 0 && cache > b->window + b->tokens) cache = b->window + b->tokens;
  *out_macs = keys * (double)b->heads * (double)b->head_dim * 2;
  *out_bytes = (double)cache * (double)(b->page[0].page_bytes + b->page[1].page_bytes) / QN_PAGE_KEYS;
}

static void time_case(bench *b, qn_kernel_fn run, void *const *bound, qn_arena *arena) {
  double kernel[MAX_REPETITIONS], of_read[MAX_REPETITIONS], of_peak[MAX_REPETITIONS], macs, bytes, peak_work;
  int threads = b->o->threads;
  qn_jit *peak_jit;
  count_work(b, &macs, &bytes);
  job peak = make_peak(b, arena, &peak_work, &peak_jit);
  size_t all_bytes = (size_t)b->layers * 2 * b->pool_bytes;
  job read = {.b = b, .extent = (int64_t)all_bytes, .piece = READ_BLOCK};
  read.count = (long)((all_bytes + READ_BLOCK - 1) / READ_BLOCK);
  job attention = {.b = b, .run = run, .bound = bound, .extent = b->extent};
  int64_t pieces = threads > 1 ? threads * PIECES_A_SHARE : 1;
  attention.piece = (b->extent + pieces - 1) / pieces;
  // Many tokens do much work a layer: fewer layers suffice.
  int64_t layers = b->layers;
  if (macs * (double)layers > 4e9) layers = (int64_t)(4e9 / macs) + 1;
  attention.count = layers * ((b->extent + attention.piece - 1) / attention.piece);
  int reps = b->o->repetitions;
  for (int i = 0; i < reps; i++) {
    double reading = measure(&read, threads) / (double)all_bytes, top = measure(&peak, threads) / peak_work;
    double taken = measure(&attention, threads) / (double)layers;
    reading = 0.5 * (reading + measure(&read, threads) / (double)all_bytes);
    top = 0.5 * (top + measure(&peak, threads) / peak_work);
    kernel[i] = taken;
    of_read[i] = reading * bytes / taken;
    of_peak[i] = top * macs / taken;
  }
  double time = median(kernel, reps);
  printf("%2d/%-2d x%-3d %-4s %6d %6d %3d  %10.1f %8.2f %8.1f%% %8.1f %8.1f%%\n", (int)b->heads, (int)b->kv_heads,
         (int)b->head_dim, qn_dtype_name(b->kv), (int)b->depth, (int)b->tokens, threads, time * 1e6, bytes / time / 1e9,
         100 * median(of_read, reps), macs / time / 1e9, 100 * median(of_peak, reps));
  fflush(stdout);
  qn_jit_destroy(peak_jit);
}

static void run_case(bench *b) {
  qn_arena arena;
  qn_arena_init(&arena, qn_allocator_default());
  size_t q_bytes = (size_t)(b->tokens * b->heads * b->head_dim) * sizeof(float), memory = (size_t)b->o->mib << 20;
  b->pages = (b->depth + b->tokens + QN_PAGE_KEYS - 1) / QN_PAGE_KEYS;
  for (int i = 0; i < 2; i++) {
    if (!qn_kv_page_make(b->kv, i == 0, b->kv_heads, b->head_dim, QN_PAGE_KEYS, &b->page[i])) die("no such cache");
  }
  int64_t page_bytes = b->page[0].page_bytes;
  if (b->page[1].page_bytes > page_bytes) page_bytes = b->page[1].page_bytes;
  b->pool_bytes = (size_t)(page_bytes * b->pages);
  b->layers = (int64_t)(memory / (2 * b->pool_bytes));
  if (b->layers < 1) b->layers = 1;
  if (b->layers > MAX_LAYERS) b->layers = MAX_LAYERS;
  size_t cache_bytes = (size_t)b->layers * 2 * b->pool_bytes;
  b->caches = map(cache_bytes);
  fill_caches(b);
  b->q = map(q_bytes);
  b->out = map(q_bytes + 64);
  b->pos = map((size_t)b->tokens * 4);
  b->seq = map((size_t)b->tokens * 4);
  b->table = map((size_t)b->pages * 4);
  uint64_t state = 1;
  for (size_t i = 0; i < q_bytes / sizeof(float); i++)
    b->q[i] = (float)(int32_t)(uint32_t)next_random(&state) * 0x1p-31f;
  for (int64_t t = 0; t < b->tokens; t++) b->pos[t] = (int32_t)(b->depth + t);
  for (int64_t i = 0; i < b->pages; i++) b->table[i] = (int32_t)(b->pages - 1 - i);
  const qn_symbol symbols[] = {QN_SYM_T, QN_SYM_R, QN_SYM_P, QN_SYM_B, QN_SYM_G};
  const int64_t values[] = {b->tokens, b->tokens, b->pages, 1, b->pages};
  for (size_t i = 0; i < QN_COUNT(symbols); i++) b->symbols[symbols[i]] = values[i];
  make_program(b, &arena);
  qn_jit *jit;
  qn_kernel_fn run = compile(b, b->variant->kernel, true, &jit);
  void **bound = calloc((size_t)b->layers * MAX_PARAMS, sizeof *bound);
  if (!bound || b->variant->kernel->param_count > MAX_PARAMS) die("too many parameters, or out of memory");
  for (int64_t layer = 0; layer < b->layers; layer++) bind(b, layer, bound + layer * MAX_PARAMS);
  run(bound, b->symbols, 0, b->extent);
  for (int64_t head = 0; head < b->heads; head++) check(b, (head * 7) % b->tokens, head);
  check(b, b->tokens - 1, 0);
  if (!b->o->dump) time_case(b, run, bound, &arena);
  free(bound);
  qn_jit_destroy(jit);
  munmap(b->caches, cache_bytes);
  munmap(b->q, q_bytes);
  munmap(b->out, q_bytes + 64);
  munmap(b->pos, (size_t)b->tokens * 4);
  munmap(b->seq, (size_t)b->tokens * 4);
  munmap(b->table, (size_t)b->pages * 4);
  qn_arena_deinit(&arena);
}

// ---- main -------------------------------------------------------------------------------------------------------

static int usage(void) {
  fprintf(stderr,
          "usage: quern-attention [option value]...\n"
          "  --shapes 32/4x64,9/3x64  query heads / KV heads x head_dim     --kv f16,f32       default both; int8, int4\n"
          "  --tokens 1,512           of a step                            --depths 0,4096    tokens before them\n"
          "  --threads N              default 2                            --reps N           default 9\n"
          "  --mib N                  of caches; default 256               --window N         keys a token sees\n"
          "  --schedule FILE          instead of the default schedule      --mode int8|f32    of codes\n"
          "  --target T               default host                         --dump text|mlir|llvm|asm\n");
  return QN_ERR_ARGUMENT;
}

// The next item of a list with commas between them; false at its end.
static bool next_item(const char **list, char *out, size_t size) {
  size_t length = strcspn(*list, ",");
  if (length == 0) return false;
  snprintf(out, size, "%.*s", (int)length, *list);
  *list += length + ((*list)[length] == ',');
  return true;
}

static void run_shape(bench *b, const char *shape) {
  const options *o = b->o;
  char kv[32], depth[32], tokens[32];
  int heads, kv_heads, head_dim;
  if (sscanf(shape, "%d/%dx%d", &heads, &kv_heads, &head_dim) != 3 || kv_heads < 1 || heads % kv_heads != 0 ||
      head_dim < 1)
    exit(usage());
  b->heads = heads, b->kv_heads = kv_heads, b->head_dim = head_dim;
  for (const char *kvs = o->kv; next_item(&kvs, kv, sizeof kv);) {
    if (!qn_dtype_parse(qn_str_from(kv), &b->kv) || b->kv == QN_DTYPE_BF16) exit(usage());
    for (const char *counts = o->tokens; next_item(&counts, tokens, sizeof tokens);) {
      for (const char *depths = o->depths; next_item(&depths, depth, sizeof depth);) {
        b->tokens = atoi(tokens);
        b->depth = atoi(depth);
        if (b->tokens < 1 || b->depth < 0) exit(usage());
        run_case(b);
      }
    }
  }
}

int main(int argc, char **argv) {
  options o = {.shapes = "32/4x64,32/8x64,9/3x64",
               .kv = "f16,f32",
               .tokens = "1,512",
               .depths = "0,512,4096,16384",
               .target = "host",
               .mode = "int8",
               .threads = 2,
               .repetitions = 9,
               .mib = 256};
  int window = 0;
  const struct {
    const char *name, **text;
    int *number;
  } known[] = {{"--shapes", &o.shapes, NULL},     {"--kv", &o.kv, NULL},           {"--tokens", &o.tokens, NULL},
               {"--depths", &o.depths, NULL},     {"--target", &o.target, NULL},   {"--dump", &o.dump, NULL},
               {"--schedule", &o.schedule, NULL}, {"--threads", NULL, &o.threads}, {"--reps", NULL, &o.repetitions},
               {"--mib", NULL, &o.mib},           {"--window", NULL, &window},     {"--mode", &o.mode, NULL}};
  for (int i = 1; i < argc; i += 2) {
    size_t k = 0;
    while (k < QN_COUNT(known) && strcmp(argv[i], known[k].name) != 0) k++;
    if (k == QN_COUNT(known) || i + 1 >= argc) return usage();
    if (known[k].text) *known[k].text = argv[i + 1];
    if (known[k].number) *known[k].number = atoi(argv[i + 1]);
  }
  if (o.threads < 1 || o.threads > MAX_THREADS || o.repetitions < 1 || o.repetitions > MAX_REPETITIONS || o.mib < 1)
    return usage();
  bench b = {.o = &o, .window = window};
  qn_diag diag = {0};
  must(qn_target_parse(o.target, &b.target, &diag), &diag);
  printf("target %s\n%-9s %-4s %6s %6s %3s  %10s %8s %9s %8s %9s\n", b.target.name, "heads", "kv", "depth", "tokens",
         "thr", "us a layer", "GB/s", "of read", "GMAC/s", "of peak");
  char shape[32];
  for (const char *shapes = o.shapes; next_item(&shapes, shape, sizeof shape);) run_shape(&b, shape);
  return 0;
}
