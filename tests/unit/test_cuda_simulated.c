// Kernels of every class and format as they would be shipped: CUDA C++ through NVRTC, its PTX run by the simulator, and
// the bits of the kernels as lowered, which the interpreter runs, whatever the order of warps and blocks. Needs NVRTC, no GPU.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codegen/cuda/nvrtc.h"
#include "passes/gpu_count.h"
#include "runtime/sampler.h"
#include "tests/support/gpu_launch.h"
#include "tests/support/test.h"

static const int chips[] = {80, 90, 100, 120};

// ---- counting ---------------------------------------------------------------------------------------------------

static void check_near(const char *kernel, const char *what, double counted, uint64_t seen, double least, double most) {
  qn_check(counted >= least * (double)seen && counted <= most * (double)seen,
           "%s: counted %.0f %s, the simulator saw %llu: want %.2f to %.2f of that", kernel, counted, what,
           (unsigned long long)seen, least, most);
}

// What predictions stand on (passes/gpu_count.h), beside what the simulator saw of the launch. Compilers may do less
// than is counted, where they see that two products read the same values; sectors are those of the first groups.
static void check_counts(const qn_gpu_variant *v, const qn_linterp_buffer *buffers, const int64_t *symbols) {
  enum { ENOUGH = 4096 };  // instructions: of small launches what goes on around the work is most
  qn_arena arena;
  qn_diag diag = {0};
  qn_gpu_param params[QN_GPU_MAX_PARAMS] = {{0}};
  qn_gpu_counts counts;
  double loaded = 0, stored = 0, sectors = 0;
  const qn_lkernel *kernel = v->kernel;
  ps_counters c = sim_counters(kernel->name);
  qn_arena_init(&arena, qn_test_allocator());
  for (size_t i = 0; i < kernel->param_count; i++) {
    bool input = kernel->params[i]->mem == QN_LM_I32 && !kernel->params[i]->writable;
    if (input) params[i] = (qn_gpu_param){.data = buffers[i].data, .count = buffers[i].size / sizeof(int32_t)};
  }
  qn_assert_ok(&diag, qn_gpu_count(kernel, &v->schedule, params, symbols, &arena, &counts, &diag));
  for (size_t i = 0; i < kernel->param_count; i++) {
    loaded += counts.params[i].load_bytes;
    stored += counts.params[i].store_bytes;
    sectors += counts.params[i].load_sectors + counts.params[i].store_sectors;
  }
  check_near(kernel->name, "bytes stored", stored, c.store_bytes, 0.999, 1.001);
  check_near(kernel->name, "bytes loaded", loaded, c.load_bytes, 0.95, 1.75);
  check_near(kernel->name, "sectors", sectors, c.load_sectors + c.store_sectors, 0.7, 1.5);
  check_near(kernel->name, "operations of tensor cores", counts.tensor_int8_ops + counts.tensor_f16_ops,
             c.tensor_operations, 1, 1);
  if (c.instructions >= ENOUGH) check_near(kernel->name, "instructions", counts.instructions, c.instructions, 0.4, 2.5);
  ck_assert(counts.left_out == 0);
  qn_arena_deinit(&arena);
}

static void launch(void *context, qn_run *run, size_t number, const qn_gpu_variant *variant,
                   const qn_linterp_buffer *buffers, const int64_t *symbols, int64_t extent) {
  sim.counters_reset();
  qn_gpu_launch(context, run, number, variant, buffers, symbols, extent);
  if (!sim_is_real()) check_counts(variant, buffers, symbols);
}

// ---- programs ---------------------------------------------------------------------------------------------------

typedef struct scenario {
  int sequences, pages, past[QN_RUN_MAX_SPANS];
  qn_run_step steps[6];  // ended by one without tokens
} scenario;

static const scenario rows = {
    1, 1, {0}, {{.spans = {{0, 0, 1}}}, {.spans = {{0, 1, 5}}}, {.spans = {{0, 6, 3}}, .rows = 2}}};
static const scenario runs = {3,
                              3,
                              {50, 3, 120},
                              {{.spans = {{0, 50, 17}, {1, 3, 2}, {2, 120, 1}}},
                               {.spans = {{1, 6, 3}, {1, 5, 1}, {0, 67, 5}, {1, 9, 1}}},
                               {.spans = {{2, 121, 1}}}}};

// Warps and blocks in another order each time: tests that go forward are test_gpu_models and test_gpu_stories.
static void turn_around(void) {
  static unsigned turn;
  bool shuffled = turn++ % 2 == 1;
  if (sim_is_real()) return;
  sim_set("warp_order", shuffled ? "shuffle" : "reverse");
  sim_set("block_order", shuffled ? "shuffle" : "reverse");
}

static void check_launched(const char *text, const char *sizes, bool quantize, const scenario *s, int sm,
                           qn_run_launch_fn launched) {
  char label[160], target[16];
  qn_gpu_device d = {.sm = sm};
  qn_run_options options = {.quantize_activations = quantize, .gpu = true, .launch = launched, .launch_context = &d};
  qn_run *run = qn_run_create(text, sizes, &options);
  const qn_run_output *outputs[2][QN_COUNT(s->steps)];
  snprintf(target, sizeof target, "sm_%d", sm);
  sim_start(target);
  turn_around();
  for (int way = 0; way < 2; way++) {
    qn_run_begin(run, s->sequences, s->pages, s->past);
    for (int i = 0; s->steps[i].spans[0].count; i++)
      outputs[way][i] = qn_run_execute(run, way == 0 ? QN_RUN_PLAIN : QN_RUN_LAUNCH, &s->steps[i]);
  }
  for (int i = 0; s->steps[i].spans[0].count; i++) {
    snprintf(label, sizeof label, "%.60s... %s%s, %s, step %d", text, sizes ? sizes : "", quantize ? " int8" : "",
             target, i);
    for (size_t o = 0; o < qn_run_output_count(run); o++)
      qn_run_compare_bits(&outputs[1][i][o], &outputs[0][i][o], label);
  }
  qn_run_destroy(run);
}

static void check_program(const char *text, const char *sizes, bool quantize, const scenario *s, int sm) {
  check_launched(text, sizes, quantize, s, sm, launch);
}

static const char products[] =
    "max T=16 R=16\n"  // more rows are test_cuda_mma's
    "q = input f32[T,$K]; z = input f32[T,$K]; w = param $F[$N,$K]; u = param $F[$N,$K]; tied = param $F[$V,$K]\n"
    "table = param $F[$N,$K]; a = matmul q w; g = silu a; c = matmul q u; m = mul g c; b = matmul z tied\n"
    "e = embed tied tokens; f = embed table tokens; output m b e f";

// Each format at odd sizes, on another chip in each numeric mode; without QUERN_TEST_ALL some of them.
START_TEST(products_of_every_format) {
  static const char *const shapes[3][2] = {
      {"N=17 K=37 V=3", "N=1 K=64 V=31"}, {"N=17 K=96 V=3", "N=1 K=160 V=31"}, {"N=17 K=256 V=3", "N=1 K=512 V=31"}};
  size_t turn = 0;
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    if (!format) continue;
    int kind = format->block_values == 1 ? 0 : format->block_values > 32 ? 2 : 1;
    for (int quantize = 0; quantize <= (kind > 0); quantize++, turn++) {
      char sizes[64];
      if ((turn + (size_t)dtype / 2) % qn_test_stride(5, 9) != 0) continue;
      snprintf(sizes, sizeof sizes, "F=%s %s", format->name, shapes[kind][turn % 2]);
      check_program(products, sizes, quantize, &rows, chips[turn % QN_COUNT(chips)]);
    }
  }
}
END_TEST

static const struct {
  const char *text, *sizes;
  const scenario *scenario;
} classes[] = {
    // Row ops with whatever follows them, over special values too.
    {"x = input f32[T,$D]; z = input f32[T,$D]; s = input f32[T,$D]; w = param f32[$D]; b = param f32[$D]\n"
     "a = rmsnorm x w eps=1e-5; c = layernorm z w b eps=1e-5; d = softmax x; e = gelu s; f = silu s; g = tanh s\n"
     "h = exp s; i = erf s; j = sqrt s; output a c d e f g h i j",
     "D=131", &rows},
    {"x = input f32[T,48]; x3 = split_heads x heads=3; w = param f32[16]; b = param f32[16]\n"
     "a = rmsnorm x3 w eps=1e-6; c = layernorm x3 w b eps=1e-6; d = softmax x3; e = mul a d; f = merge_heads e\n"
     "g = add f x; output c g",
     NULL, &rows},
    // RoPE by pairs and by halves, lookups of rows, concatenation.
    {"x = input f32[T,66]; x3 = split_heads x heads=2; t = rope_table pos dims=32 theta=100\n"
     "a = rope x3 t kind=pairs; b = rope x3 t kind=halves; c = concat a b axis=1; d = merge_heads c\n"
     "g = gather_rows d rows; h = neg g; output d h",
     NULL, &rows},
    // Quantised activations: extreme blocks.
    {"b = input f32[T,96]; w = param q8_0[5,96]; a = matmul b w; output a", NULL, &rows},
};

START_TEST(rows_of_every_class) {
  for (size_t i = 0; i < QN_COUNT(classes); i++)
    check_program(classes[i].text, classes[i].sizes, i == 3, classes[i].scenario, chips[i % QN_COUNT(chips)]);
}
END_TEST

#define ATTENTION_INPUTS                                                                 \
  "q = input f32[T,$H,$C]; k = input f32[T,$J,$C]; v = input f32[T,$J,$C]\n"             \
  "kc = cache kind=k index=0 $F[G,$J,$C,64]; vc = cache kind=v index=0 $F[G,$J,64,$C]\n" \
  "kw = kv_write kc k pos seq block_table kind=k; vw = kv_write vc v pos seq block_table kind=v\n"

START_TEST(attention) {
  static const char fused[] = ATTENTION_INPUTS
      "s = attn_scores q kw pos seq block_table scale=0.3 window=$W softcap=$S\n"
      "p = softmax s; o = attn_mix p vw pos seq block_table; output o";
  static const char sloped[] = ATTENTION_INPUTS
      "w = param f32[$H]; s = attn_scores q kw pos seq block_table w scale=0.3 window=$W softcap=$S\n"
      "p = softmax s; o = attn_mix p vw pos seq block_table; output o";
  static const char parts[] = ATTENTION_INPUTS
      "s = attn_scores q kw pos seq block_table scale=0.3 window=$W softcap=$S; p = softmax s\n"
      "o = attn_mix p vw pos seq block_table; output o p s";
  check_program(fused, "H=4 J=2 C=16 F=f16 W=0 S=0", false, &runs, 80);
  check_program(fused, "H=3 J=1 C=7 F=bf16 W=66 S=2", false, &runs, 100);
  check_program(sloped, "H=9 J=3 C=24 F=f32 W=5 S=0", false, &runs, 120);
  check_program(parts, "H=4 J=2 C=16 F=f16 W=9 S=3", false, &runs, 90);
  check_program(fused, "H=4 J=2 C=20 F=int8 W=0 S=0", true, &runs, 80);
}
END_TEST

static const scenario long_sequences = {
    2, 5, {300, 4}, {{.spans = {{0, 300, 1}}}, {.spans = {{1, 4, 1}, {0, 301, 1}}}, {.spans = {{0, 302, 9}}}}};

// Split among groups, and more tokens than are.
START_TEST(attention_of_long_sequences) {
  static const char text[] = "max P=5; " ATTENTION_INPUTS
                             "s = attn_scores q kw pos seq block_table scale=0.3 window=$W\n"
                             "p = softmax s; o = attn_mix p vw pos seq block_table; output o";
  check_launched(text, "H=8 J=2 C=64 F=f16 W=0", false, &long_sequences, 90, qn_gpu_launch);
  check_launched(text, "H=2 J=2 C=128 F=f32 W=100", false, &long_sequences, 120, qn_gpu_launch);
  check_launched(text, "H=4 J=1 C=64 F=int4 W=100", true, &long_sequences, 100, qn_gpu_launch);
}
END_TEST

// How often loops run depends on the values here, which counting does not know.
START_TEST(sampling) {
  static const char text[] = "x = input f32[T,$V]; sampling = input i32[T,8]; a = sample x sampling; output a";
  check_launched(text, "V=1000", false, &rows, 80, qn_gpu_launch);
  check_launched(text, "V=20000", false, &rows, 100, qn_gpu_launch);
}
END_TEST

// Logits like a model's, and one way to sample; what the kernel does that chooses, in one group a row.
typedef struct nucleus {
  qn_gpu_device on;
  qn_sampling settings;
  uint64_t instructions;
} nucleus;

static void launch_sampling(void *context, qn_run *run, size_t number, const qn_gpu_variant *variant,
                            const qn_linterp_buffer *buffers, const int64_t *symbols, int64_t extent) {
  nucleus *n = context;
  const qn_lkernel *kernel = variant->kernel;
  for (size_t i = 0; i < kernel->param_count; i++) {
    size_t count = buffers[i].size / sizeof(float);
    bool logits = kernel->params[i]->mem == QN_LM_F32, settings = buffers[i].size == sizeof n->settings;
    if (settings && !kernel->params[i]->writable) memcpy(buffers[i].data, &n->settings, sizeof n->settings);
    qn_test_random random = {1};
    for (size_t j = 0; logits && j < count; j++) {
      double sum = -6;
      for (int k = 0; k < 12; k++) sum += qn_test_random_unit(&random);
      ((float *)buffers[i].data)[j] = (float)(2.5 * sum);
    }
  }
  sim.counters_reset();
  qn_gpu_launch(&n->on, run, number, variant, buffers, symbols, extent);
  if (extent == 1) n->instructions += sim_counters(kernel->name).instructions;
}

static uint64_t count_sampling(int32_t top_k, double top_p) {
  static const char text[] = "x = input f32[T,20000]; sampling = input i32[T,8]; a = sample x sampling; output a";
  nucleus n = {.on = {.sm = 90},
               .settings = {.inverse_temperature = 1,
                            .top_k = top_k,
                            .top_p = (int32_t)(top_p * (1 << 20)),
                            .log_min_p = -INFINITY}};
  qn_run_options options = {.gpu = true, .launch = launch_sampling, .launch_context = &n};
  qn_run *run = qn_run_create(text, NULL, &options);
  sim_start("sm_90");
  qn_run_begin(run, 1, 1, NULL);
  qn_run_execute(run, QN_RUN_LAUNCH, &(qn_run_step){.spans = {{0, 0, 1}}});
  qn_run_destroy(run);
  return n.instructions;
}

// Top-p without top-k looks at the likely tokens again for each bit of its threshold, not at all.
START_TEST(a_nucleus_costs_little) {
  if (sim_is_real()) return;
  unsigned long long some = count_sampling(40, 0.95), all = count_sampling(0, 0.95), none = count_sampling(0, 1);
  if (getenv("QUERN_TEST_SHOW"))
    printf("instructions to choose: top-k and top-p %llu, top-p %llu, neither %llu\n", some, all, none);
  qn_check(all <= 2 * none, "top-p alone takes %llu instructions, without it %llu", all, none);
}
END_TEST

// Choices, orders and products of experts: what the values say decides which rows a group does.
START_TEST(experts) {
  static const char text[] =
      "max T=16 R=16; q = input f32[T,$K]; r = input f32[T,$E]; i = top_k r k=$C; p = pick r i; g = softmax p\n"
      "w1 = param $F[$E,$N,$K]; w3 = param $F[$E,$N,$K]; a = expert_matmul q w1 i; s = silu a; u = expert_matmul q w3 i\n"
      "m = mul s u; w2 = param $F[$E,$K,$N]; d = expert_matmul m w2 i; o = expert_mix d g; y = add o q; output y p";
  check_launched(text, "F=q8_0 E=5 C=2 N=64 K=96", true, &rows, 90, qn_gpu_launch);
  check_launched(text, "F=q4_k E=3 C=1 N=256 K=256", false, &rows, 80, qn_gpu_launch);
  check_launched(text, "F=f16 E=9 C=4 N=33 K=20", false, &rows, 100, qn_gpu_launch);
}
END_TEST

// ---- a planted bug ----------------------------------------------------------------------------------------------

enum { MOST_PTX = 1 << 20 };
static char plain_ptx[MOST_PTX];  // before barriers were taken out

static bool is_barrier(const char *at) {
  static const char *const names[] = {"bar.warp.sync", "bar.sync", "barrier.sync"};
  for (size_t i = 0; i < QN_COUNT(names); i++)
    if (strncmp(at, names[i], strlen(names[i])) == 0) return true;
  return false;
}

static void take_barriers_out(char *ptx) {
  ck_assert_uint_lt(strlen(ptx), MOST_PTX);
  memcpy(plain_ptx, ptx, strlen(ptx) + 1);
  for (char *at = ptx; *at; at++)
    if (is_barrier(at)) memset(at, ' ', strcspn(at, ";") + 1);
}

static int barriers_of(const char *kernel) {
  char head[256];
  int count = 0;
  snprintf(head, sizeof head, ".entry %s(", kernel);
  const char *at = strstr(plain_ptx, head);
  ck_assert_ptr_nonnull(at);
  for (at += strlen(head); *at && strncmp(at, ".entry ", 7) != 0; at++) count += is_barrier(at);
  return count;
}

static bool uses_shared_memory(const qn_gpu_device *d, const char *kernel) {
  for (size_t i = 0; i < d->count; i++)
    if (strcmp(d->kernels[i].kernel->name, kernel) == 0) return d->kernels[i].shared_bytes > 0;
  return false;
}

// The kernel faults without its barriers, if it has some for what lanes exchange; then it is run with them.
static void launch_planted(void *context, qn_run *run, size_t number, const qn_gpu_variant *variant,
                           const qn_linterp_buffer *buffers, const int64_t *symbols, int64_t extent) {
  int *faults = context;
  const char *name = variant->kernel->name;
  qn_gpu_device without = {.sm = 90, .edit = take_barriers_out}, on = {.sm = 90};
  sim_start("sm_90");
  qn_gpu_gather(&without, run);
  qn_gpu_load(&without);
  CUresult result = qn_gpu_try_kernel(&without, variant->kernel, buffers, symbols, extent);
  bool exchanges = barriers_of(name) > 0 && uses_shared_memory(&without, name);
  bool told = strstr(sim.error(), name) && strstr(sim.error(), "shared memory");
  qn_check(result == (exchanges ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS) && told == exchanges, "%s: got %d: %s", name,
           (int)result, sim.error());
  *faults += exchanges;
  sim_start("sm_90");
  qn_gpu_launch(&on, run, number, variant, buffers, symbols, extent);
}

// A norm, a product and attention without their barriers.
START_TEST(missing_barriers) {
  static const char *const texts[] = {
      "x = input f32[T,512]; w = param f32[512]; a = rmsnorm x w eps=1e-5; v = param q8_0[40,512]; b = matmul a v; output b",
      ATTENTION_INPUTS "s = attn_scores q kw pos seq block_table scale=0.3; p = softmax s\n"
                       "o = attn_mix p vw pos seq block_table; output o"};
  if (sim_is_real()) return;
  for (size_t i = 0; i < QN_COUNT(texts); i++) {
    int faults = 0;
    qn_run_options options = {
        .quantize_activations = true, .gpu = true, .launch = launch_planted, .launch_context = &faults};
    qn_run *run = qn_run_create(texts[i], "H=4 J=2 C=16 F=f16", &options);
    qn_run_begin(run, 1, 3, (int[]){100});
    qn_run_execute(run, QN_RUN_LAUNCH, &(qn_run_step){.spans = {{0, 100, 1}}});
    qn_run_destroy(run);
    ck_assert_int_gt(faults, 0);
  }
}
END_TEST

// ---- traffic ----------------------------------------------------------------------------------------------------

typedef struct weights {
  qn_gpu_device on;
  uint64_t bytes, sectors, requests;  // that there are, that one row's products moved and by how many requests
  uint64_t requests_128;              // of all requests to memory, those of 16 bytes a lane
  uint64_t asked;                     // bytes that lanes asked for
  uint64_t wavefronts, wavefronts_least;
} weights;

// What a kernel did to its streamed parameters, each a range of that name.
static ps_traffic streamed_traffic(const char *kernel) {
  ps_traffic sum = {0}, t;
  for (size_t k = 0; k < sim.kernel_count(); k++) {
    for (size_t r = 0; r < sim.range_count() && strcmp(sim.kernel_name(k), kernel) == 0; r++) {
      if (strcmp(sim.range_name(r), "streamed") != 0 || sim.kernel_traffic(k, r, &t) != 0) continue;
      sum.load_requests += t.load_requests;
      sum.load_bytes += t.load_bytes;
      sum.load_sectors += t.load_sectors;
    }
  }
  return sum;
}

// Runs the launch with the streamed parameters counted apart.
static void count_weights(void *context, qn_run *run, size_t number, const qn_gpu_variant *variant,
                          const qn_linterp_buffer *buffers, const int64_t *symbols, int64_t extent) {
  weights *w = context;
  sim.counters_reset();
  qn_gpu_launch(&w->on, run, number, variant, buffers, symbols, extent);
  uint64_t bytes = 0;
  for (size_t i = 0; i < variant->kernel->param_count; i++)
    if (variant->kernel->params[i]->streamed) bytes += buffers[i].size;
  if (bytes == 0) return;
  ps_traffic t = streamed_traffic(variant->kernel->name);
  ps_counters c = sim_counters(variant->kernel->name);
  w->bytes += bytes;
  w->sectors += t.load_sectors;
  w->requests += t.load_requests;
  w->asked += t.load_bytes;
  w->requests_128 += c.load_requests_128;
  w->wavefronts += c.shared_wavefronts;
  w->wavefronts_least += c.shared_wavefronts_least;
}

// A row's products ask for each byte of their weights once, 16 of them a lane and whole sectors, and read them from
// shared memory without conflicts, whatever the format.
START_TEST(a_row_reads_each_weight_once) {
  static const char text[] =
      "max T=1 R=1; x = input f32[T,512]; w = param $F[64,512]; u = param $F[64,512]; a = matmul x w; g = silu a\n"
      "c = matmul x u; m = mul g c; t = input f32[T,2816]; v = param $F[32,2816]; z = matmul t v; output m z";
  if (sim_is_real()) return;
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    if (!format || (size_t)dtype % qn_test_stride(5, 5) != 0) continue;
    char sizes[32];
    weights w = {.on = {.sm = 90}};
    snprintf(sizes, sizeof sizes, "F=%s", format->name);
    qn_run_options options = {
        .quantize_activations = format->block_values > 1, .launch = count_weights, .launch_context = &w};
    qn_run *run = qn_run_create(text, sizes, &options);
    sim_start("sm_90");
    qn_run_begin(run, 1, 1, NULL);
    qn_run_execute(run, QN_RUN_LAUNCH, &(qn_run_step){.spans = {{0, 0, 1}}});
    ck_assert_uint_gt(w.bytes, 0);
    double ratio = (double)w.sectors * 32 / (double)w.bytes;
    qn_check(ratio >= 1 && ratio <= 1.03, "%s: %llu sectors moved for %llu bytes of weights", format->name,
             (unsigned long long)w.sectors, (unsigned long long)w.bytes);
    qn_check(w.asked == w.bytes, "%s: %llu bytes asked for of %llu", format->name, (unsigned long long)w.asked,
             (unsigned long long)w.bytes);
    qn_check(w.requests_128 == w.requests, "%s: %llu of %llu requests are of 16 bytes a lane", format->name,
             (unsigned long long)w.requests_128, (unsigned long long)w.requests);
    qn_check(w.wavefronts > 0 && w.wavefronts == w.wavefronts_least, "%s: %llu wavefronts of shared memory, want %llu",
             format->name, (unsigned long long)w.wavefronts, (unsigned long long)w.wavefronts_least);
    qn_run_destroy(run);
  }
}
END_TEST

// The launch, with what the kernels that read caches moved of them counted.
static void count_cache(void *context, qn_run *run, size_t number, const qn_gpu_variant *variant,
                        const qn_linterp_buffer *buffers, const int64_t *symbols, int64_t extent) {
  weights *w = context;
  sim.counters_reset();
  qn_gpu_launch(&w->on, run, number, variant, buffers, symbols, extent);
  ps_traffic t = {0};
  for (size_t k = 0; k < sim.kernel_count(); k++) {
    for (size_t r = 0; strcmp(sim.kernel_name(k), variant->kernel->name) == 0 && r < sim.range_count(); r++) {
      bool of_cache = strcmp(sim.range_name(r), "cache") == 0 && sim.kernel_traffic(k, r, &t) == 0;
      if (of_cache) w->sectors += t.load_sectors;
    }
  }
}

// A token's attention moves each key and value once for all query heads that share them.
START_TEST(a_token_reads_each_key_once) {
  static const char text[] = "max T=16 P=10; " ATTENTION_INPUTS
                             "s = attn_scores q kw pos seq block_table scale=0.3; p = softmax s; o = attn_mix p vw pos "
                             "seq block_table; output o";
  static const struct {
    const char *sizes;
    int bytes;  // of a key and a value, all heads
  } cases[] = {{"H=8 J=2 C=64 F=f16", 2 * 2 * 64 * 2},
               {"H=3 J=1 C=80 F=bf16", 2 * 80 * 2},
               {"H=2 J=2 C=64 F=f32", 2 * 2 * 64 * 4}};
  if (sim_is_real()) return;
  for (size_t i = 0; i < QN_COUNT(cases); i += qn_test_stride(2, 3)) {
    enum { KEYS = 640 };
    weights w = {.on = {.sm = 90}, .bytes = KEYS * (uint64_t)cases[i].bytes};
    qn_run_options options = {.gpu = true, .launch = count_cache, .launch_context = &w};
    qn_run *run = qn_run_create(text, cases[i].sizes, &options);
    sim_start("sm_90");
    qn_run_begin(run, 1, 10, (int[]){KEYS - 1});
    qn_run_execute(run, QN_RUN_LAUNCH, &(qn_run_step){.spans = {{0, KEYS - 1, 1}}});
    double ratio = (double)w.sectors * 32 / (double)w.bytes;
    qn_check(ratio >= 1 && ratio <= 1.03, "%s: %llu sectors moved for %llu bytes of keys and values", cases[i].sizes,
             (unsigned long long)w.sectors, (unsigned long long)w.bytes);
    qn_run_destroy(run);
  }
}
END_TEST

static TCase *kernels(void) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  if (qn_nvrtc_open(NULL, qn_allocator_default(), &nvrtc, &diag) != QN_OK) qn_test_skip("%s", diag.text);
  qn_nvrtc_close(nvrtc);
  const TTest *const tests[] = {
      products_of_every_format,     rows_of_every_class,        attention, attention_of_long_sequences, sampling,
      a_nucleus_costs_little,       experts,
      a_row_reads_each_weight_once, a_token_reads_each_key_once};
  return qn_test_case("kernels", tests, QN_COUNT(tests));
}

QN_CASE(planted, missing_barriers)

QN_TEST_MAIN(kernels, planted)
