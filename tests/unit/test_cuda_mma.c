// Tensor cores: which lane holds what of a tile, products of many tokens in every format against the interpreter, and
// what the simulator counts of them. Needs NVRTC for all but the first test, no GPU.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codegen/cuda/nvrtc.h"
#include "tests/support/gpu_launch.h"
#include "tests/support/need_nvrtc.h"
#include "tests/support/test.h"

static const int chips[] = {80, 90, 100, 120};

// ---- one tile ---------------------------------------------------------------------------------------------------

enum { WARPS = 2, ROWS = WARPS * QN_MMA_ROWS, COLUMNS = QN_MMA_COLUMNS, MAX_WORDS = 8 };

// A kernel of two warps: each multiplies its 16 rows of A with its 8 columns of B and adds the result to its C.
static void write_tile(qn_lmma kind, qn_buf *out) {
  const qn_lmma_info *info = qn_lmma_info_of(kind);
  int words = info->words, lanes = WARPS * QN_MMA_WARP;
  int a = qn_lmma_each(kind, QN_MMA_OF_A), b = qn_lmma_each(kind, QN_MMA_OF_B);
  const char *sum = qn_lmem_name(info->sum);
  qn_buf_printf(out, "kernel \"%s\" {\n  param a : i32[%d]\n  param b : i32[%d]\n  param c : %s[%d] out\n", info->text,
                ROWS * words, WARPS * COLUMNS * words, sum, ROWS * COLUMNS);
  // Elements in front of and behind those that are used.
  qn_buf_printf(out, "  local fa : i32[%d] each %d\n  local fb : i32[%d] each %d\n  local fc : %s[%d] each 8\n",
                lanes * (a + 1), a + 1, lanes * (b + 2), b + 2, sum, lanes * 8);
  qn_buf_printf(out, "  for i in 0..%d data lane {\n", lanes);
  for (int r = 0; r < a; r++)
    qn_buf_printf(out, "    fa[i*%d + %d] = a[(i / 32*16 + i %% 32 / 4 + %d)*%d + i %% 4 + %d]\n", a + 1, r + 1, r % 2 * 8,
                  words, r / 2 * 4);
  for (int r = 0; r < b; r++)
    qn_buf_printf(out, "    fb[i*%d + %d] = b[(i / 32*8 + i %% 32 / 4)*%d + i %% 4 + %d]\n", b + 2, r + 2, words, r * 4);
  for (int r = 0; r < QN_MMA_C; r++)
    qn_buf_printf(out, "    fc[i*8 + %d] = c[(i / 32*16 + i %% 32 / 4 + %d)*8 + i %% 4*2 + %d]\n", r + 4, r / 2 * 8, r % 2);
  qn_buf_printf(out, "  }\n  mma %s fc[4] fa[1] fb[2]\n  for j in 0..%d data lane {\n", info->text, lanes);
  for (int r = 0; r < QN_MMA_C; r++)
    qn_buf_printf(out, "    c[(j / 32*16 + j %% 32 / 4 + %d)*8 + j %% 4*2 + %d] = fc[j*8 + %d]\n", r / 2 * 8, r % 2, r + 4);
  qn_buf_puts(out, "  }\n}\n");
}

typedef struct tile {
  uint32_t a[ROWS * MAX_WORDS], b[WARPS * COLUMNS * MAX_WORDS], c[ROWS * COLUMNS];
} tile;

static uint32_t random_word(uint64_t *state) {
  *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)(*state >> 32);
}

// Bytes of all values; 16-bit floats of about 1, so that sums round.
static void fill(qn_lmma kind, tile *t) {
  const qn_lmma_info *info = qn_lmma_info_of(kind);
  uint64_t state = 7 + (uint64_t)kind;
  bool bytes = info->sum == QN_LM_I32;
  uint32_t keep = bytes ? UINT32_MAX : kind == QN_MMA_F16_K16 ? 0x83ff83ffu : 0x80ff80ffu;
  uint32_t add = bytes ? 0 : kind == QN_MMA_F16_K16 ? 0x3c003800u : 0x3f003e80u;
  for (size_t i = 0; i < QN_COUNT(t->a); i++) t->a[i] = (random_word(&state) & keep) | add;
  for (size_t i = 0; i < QN_COUNT(t->b); i++) t->b[i] = (random_word(&state) & keep) | add;
  for (size_t i = 0; i < QN_COUNT(t->c); i++) t->c[i] = bytes ? random_word(&state) : 0x3f800000u + (uint32_t)i * 77;
}

static float half_of(qn_lmma kind, uint32_t word, int half) {
  uint16_t bits = (uint16_t)(word >> 16 * half);
  return kind == QN_MMA_BF16_K16 ? qn_bf16_to_f32(bits) : qn_f16_to_f32(bits);
}

// C of the warp's row and column, K in order.
static uint32_t plain_sum(qn_lmma kind, const tile *t, int row, int column) {
  const qn_lmma_info *info = qn_lmma_info_of(kind);
  const uint32_t *x = t->a + row * info->words, *y = t->b + (row / QN_MMA_ROWS * COLUMNS + column) * info->words;
  uint32_t sum = t->c[row * COLUMNS + column];
  float value;
  memcpy(&value, &sum, sizeof value);
  for (int w = 0; w < info->words; w++) {
    for (int byte = 0; byte < 4; byte++)
      sum += (uint32_t)((int)(uint8_t)(x[w] >> 8 * byte) * (int8_t)(uint8_t)(y[w] >> 8 * byte));
    for (int half = 0; half < 2; half++) value = fmaf(half_of(kind, x[w], half), half_of(kind, y[w], half), value);
  }
  if (info->sum == QN_LM_F32) memcpy(&sum, &value, sizeof sum);
  return sum;
}

// Runs the tile's kernel by the interpreter, or for a chip by the simulator.
static void run_tile(qn_lmma kind, int sm, const tile *given, uint32_t *out) {
  tile t = *given;
  const qn_linterp_buffer buffers[] = {{t.a, (size_t)(ROWS * qn_lmma_info_of(kind)->words) * 4},
                                       {t.b, (size_t)(WARPS * COLUMNS * qn_lmma_info_of(kind)->words) * 4},
                                       {t.c, sizeof t.c}};
  const int64_t symbols[QN_SYM_COUNT] = {0};
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  qn_diag diag = {0};
  qn_arena arena;
  qn_buf text;
  qn_arena_init(&arena, qn_test_allocator());
  qn_buf_init(&text, qn_test_allocator());
  write_tile(kind, &text);
  qn_assert_ok(&diag, qn_lkernels_parse("tile", qn_str_from(qn_buf_text(&text)), &arena, &kernels, &count, &diag));
  qn_assert_ok(&diag, qn_lkernel_verify(kernels[0], &diag));
  if (sm == 0) {
    qn_assert_ok(&diag, qn_lkernel_interpret(kernels[0], buffers, symbols, 0, INT64_MAX, qn_test_allocator(), &diag));
  } else {
    char device[16];
    qn_gpu_device d = {.sm = sm, .count = 1, .kernels = {{.kernel = kernels[0], .schedule = {.lanes = 64, .groups = 1}}}};
    snprintf(device, sizeof device, "sm_%d", sm);
    sim_start(device);
    qn_gpu_load(&d);
    qn_gpu_launch_kernel(&d, kernels[0], buffers, symbols, 1);
  }
  memcpy(out, t.c, sizeof t.c);
  qn_buf_deinit(&text);
  qn_arena_deinit(&arena);
}

static void check_tiles(int sm) {
  for (int kind = 0; kind < QN_MMA_COUNT; kind++) {
    // A chip adds floats up in an order of its own.
    if (sm != 0 && sim_is_real() && qn_lmma_info_of((qn_lmma)kind)->sum != QN_LM_I32) continue;
    tile t;
    uint32_t got[ROWS * COLUMNS];
    fill((qn_lmma)kind, &t);
    run_tile((qn_lmma)kind, sm, &t, got);
    for (int i = 0; i < ROWS * COLUMNS; i++) {
      uint32_t want = plain_sum((qn_lmma)kind, &t, i / COLUMNS, i % COLUMNS);
      qn_check(got[i] == want, "%s, sm %d: row %d, column %d: got %08x, want %08x", qn_lmma_info_of((qn_lmma)kind)->text,
               sm, i / COLUMNS, i % COLUMNS, got[i], want);
    }
  }
}

START_TEST(interpreted_tiles) { check_tiles(0); }
END_TEST

START_TEST(simulated_tiles) {
  for (size_t i = 0; i < QN_COUNT(chips); i += qn_test_stride(2, 2)) check_tiles(chips[i]);  // both front ends
}
END_TEST

// ---- products ---------------------------------------------------------------------------------------------------

// Two products that meet, and one with a residual; q quantises exactly.
static const char products[] =
    "max T=70 R=70\n"
    "q = input f32[T,$K]; w = param $F[$N,$K]; u = param $F[$N,$K]; v = param $F[$V,$K]; z = input f32[T,$V]\n"
    "a = matmul q w; g = silu a; c = matmul q u; m = mul g c; b = matmul q v; d = add b z; output m d";

static void check_products(const qn_format *format, const char *shape, int sm) {
  char sizes[64], target[16], label[96];
  qn_gpu_device d = {.sm = sm};
  qn_run_options options = {
      .quantize_activations = true, .gpu = true, .launch = qn_gpu_launch, .launch_context = &d};
  snprintf(sizes, sizeof sizes, "F=%s %s", format->name, shape);
  snprintf(target, sizeof target, "sm_%d", sm);
  qn_run *run = qn_run_create(products, sizes, &options);
  sim_start(target);
  // A tile and a token more, and few tokens.
  static const int tokens[] = {17, 65, 5};
  for (size_t i = 0; i < QN_COUNT(tokens); i++) {
    qn_run_step step = {.spans = {{0, 0, tokens[i]}}};
    const qn_run_output *outputs[3];
    for (int way = 0; way < 3; way++) {
      static const qn_run_engine engines[] = {QN_RUN_PLAIN, QN_RUN_LAUNCH, QN_RUN_LANES};
      qn_run_begin(run, 1, 2, NULL);
      if (way < 2 || i == 0) outputs[way] = qn_run_execute(run, engines[way], &step);
    }
    snprintf(label, sizeof label, "%s, %s, %d tokens", sizes, target, tokens[i]);
    for (size_t o = 0; o < qn_run_output_count(run); o++) {
      qn_run_compare_bits(&outputs[1][o], &outputs[0][o], label);
      if (i == 0) qn_run_compare_bits(&outputs[2][o], &outputs[0][o], label);
    }
  }
  qn_run_destroy(run);
}

// Where groups are added up before they are scaled, programs for CPUs and for GPUs make the sums in ways of their own.
START_TEST(sums_of_parts) {
  int formats = 0;
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    const qn_run_output *outputs[2];
    qn_run *runs[2];
    char sizes[64];
    if (!format || !qn_format_sums_parts(format)) continue;
    formats++;
    snprintf(sizes, sizeof sizes, "F=%s N=33 V=5 K=768", format->name);
    for (int gpu = 0; gpu < 2; gpu++) {
      runs[gpu] = qn_run_create(products, sizes, &(qn_run_options){.quantize_activations = true, .gpu = gpu == 1});
      qn_run_begin(runs[gpu], 1, 2, NULL);
      outputs[gpu] = qn_run_execute(runs[gpu], QN_RUN_PLAIN, &(qn_run_step){.spans = {{0, 0, 9}}});
    }
    for (size_t o = 0; o < qn_run_output_count(runs[0]); o++)
      qn_run_compare_bits(&outputs[1][o], &outputs[0][o], format->name);
    for (int gpu = 0; gpu < 2; gpu++) qn_run_destroy(runs[gpu]);
  }
  ck_assert_int_gt(formats, 0);
}
END_TEST

START_TEST(products_of_every_format) {
  static const char *const shapes[] = {"N=17 V=31 K=%d", "N=33 V=130 K=%d", "N=144 V=5 K=%d"};
  size_t turn = 0;
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    if (!format || format->block_values == 1) continue;
    turn++;
    if (turn % qn_test_stride(6, 13) != 0) continue;
    char shape[64];
    int k = format->block_values > 32 ? 512 : turn % 2 ? 96 : 320;
    snprintf(shape, sizeof shape, shapes[turn % QN_COUNT(shapes)], k);
    check_products(format, shape, chips[turn / 3 % QN_COUNT(chips)]);
  }
}
END_TEST

// ---- 16-bit floats ----------------------------------------------------------------------------------------------

// Numeric mode half: every way has the same bits, for any number of rows, as long as mma sums in the order of the
// interpreter, which the simulator does. How far they are from the exact product: half a unit in the last place of each
// activation, and roundings of f32 sums of 16 and of all of those.
static void check_halves(const qn_format *format, const char *shape, int sm) {
  char sizes[64], target[16], label[96];
  qn_gpu_device d = {.sm = sm};
  qn_run_options options = {.half_activations = true, .launch = qn_gpu_launch, .launch_context = &d};
  snprintf(sizes, sizeof sizes, "F=%s %s", format->name, shape);
  snprintf(target, sizeof target, "sm_%d", sm);
  qn_run *run = qn_run_create(products, sizes, &options);
  double rounding = format->dtype == QN_DTYPE_F16 ? 0x1p-11 : 0x1p-8;
  static const int tokens[] = {1, 2, 17};
  sim_start(target);
  for (size_t i = 0; i < QN_COUNT(tokens); i++) {
    qn_run_step step = {.spans = {{0, 0, tokens[i]}}};
    static const qn_run_engine engines[] = {QN_RUN_PLAIN, QN_RUN_SCHEDULED, QN_RUN_LANES, QN_RUN_LAUNCH};
    const qn_run_output *outputs[QN_COUNT(engines)];
    for (size_t way = 0; way < QN_COUNT(engines); way++) {
      qn_run_begin(run, 1, 2, NULL);
      outputs[way] = qn_run_execute(run, engines[way], &step);
    }
    snprintf(label, sizeof label, "%s, %s, %d tokens", sizes, target, tokens[i]);
    size_t alike = QN_COUNT(engines) - sim_is_real();
    for (size_t way = 1; way < alike; way++)
      for (size_t o = 0; o < qn_run_output_count(run); o++)
        qn_run_compare_bits(&outputs[way][o], &outputs[0][o], label);
    const qn_run_output *want = qn_run_oracle(run, &step, false), *scale = qn_run_oracle(run, &step, true);
    qn_run_compare(&outputs[0][1], &want[1], 1.1 * rounding, &scale[1], 0, label);
    qn_run_compare(&outputs[QN_COUNT(engines) - 1][1], &want[1], 1.1 * rounding, &scale[1], 0, label);
  }
  qn_run_destroy(run);
}

START_TEST(halves) {
  static const struct {
    qn_dtype dtype;
    const char *shape;
  } cases[] = {{QN_DTYPE_F16, "N=33 V=5 K=80"}, {QN_DTYPE_BF16, "N=17 V=31 K=37"}, {QN_DTYPE_F16, "N=17 V=144 K=37"},
               {QN_DTYPE_BF16, "N=17 V=5 K=7"}, {QN_DTYPE_BF16, "N=130 V=5 K=96"}};
  for (size_t i = 0; i < QN_COUNT(cases); i += qn_test_stride(3, 4))
    check_halves(qn_format_of(cases[i].dtype), cases[i].shape, chips[i % QN_COUNT(chips)]);
}
END_TEST

// ---- counts -----------------------------------------------------------------------------------------------------

typedef struct counted {
  qn_gpu_device on;
  double used;            // of an activation row's bytes: the format needs one kind of sums or the other
  uint64_t moved, least;  // bytes: what the kernel moved, and what a block's operands and results are, once a block
  double tensor_share, wavefronts;
} counted;

// Of the ranges with a label: weights, results, other operands.
static uint64_t bytes_moved(const char *kernel) {
  static const char *const labels[] = {"streamed", "out", "in"};
  uint64_t sectors = 0;
  size_t number = 0;
  while (number < sim.kernel_count() && strcmp(sim.kernel_name(number), kernel) != 0) number++;
  for (size_t range = 0; range < sim.range_count(); range++) {
    for (size_t i = 0; i < QN_COUNT(labels); i++) {
      ps_traffic t = {0};
      if (strcmp(sim.range_name(range), labels[i]) != 0) continue;
      ck_assert_int_eq(sim.kernel_traffic(number, range, &t), 0);
      sectors += t.load_sectors + t.store_sectors;
    }
  }
  return sectors * 32;
}

static void count_product(void *context, qn_run *run, size_t number, const qn_gpu_variant *variant,
                          const qn_linterp_buffer *buffers, const int64_t *symbols, int64_t extent) {
  counted *c = context;
  const qn_lkernel *kernel = variant->kernel;
  sim.counters_reset();
  qn_gpu_launch(&c->on, run, number, variant, buffers, symbols, extent);
  ps_counters n = sim_counters(kernel->name);
  if (n.tensor_operations == 0) return;
  int64_t tokens = symbols[QN_SYM_T], token_blocks = (tokens + variant->rows_each - 1) / variant->rows_each;
  c->moved = bytes_moved(kernel->name);
  c->least = 0;
  for (size_t i = 0; i < kernel->param_count; i++) {
    const qn_lbuf *param = kernel->params[i];
    double times = param->streamed ? (double)token_blocks : param->writable ? 1 : (double)(extent / token_blocks) * c->used;
    c->least += (uint64_t)((double)buffers[i].size * times);
  }
  c->tensor_share = (double)n.tensor_operations / (double)(n.tensor_operations + n.arithmetic_operations);
  c->wavefronts = (double)n.shared_wavefronts / (double)n.shared_wavefronts_least;
}

// Prefill products: nine tenths of the arithmetic is mma's, the rest applies scales, twice as often where a group of 16
// values is scaled by itself, and minima where there are some. All that a block reads comes once and in whole sectors,
// but where shared memory holds so few blocks that a token's scales of a piece are half a sector.
static void count_format(const qn_format *format, const char *text) {
  char sizes[32];
  bool sixteen = format->group_values == 16;
  double most = 1.06, share = 0.9;
  counted c = {.on = {.sm = 90}, .used = (sixteen ? 44.0 : 40.0) / 48};
  snprintf(sizes, sizeof sizes, "F=%s", format->name);
  qn_run_options options = {
      .quantize_activations = true, .gpu = true, .launch = count_product, .launch_context = &c};
  qn_run *run = qn_run_create(text, sizes, &options);
  sim_start("sm_90");
  qn_run_begin(run, 1, 2, NULL);
  qn_run_execute(run, QN_RUN_LAUNCH, &(qn_run_step){.spans = {{0, 0, 128}}});
  double traffic = (double)c.moved / (double)c.least;
  if (getenv("QUERN_TEST_SHOW"))
    printf("%s: %.1f %% of the arithmetic on tensor cores, %.3f of the least traffic, %.3f wavefronts\n", format->name,
           c.tensor_share * 100, traffic, c.wavefronts);
  qn_check(c.tensor_share >= share, "%s: %.1f %% on tensor cores", format->name, c.tensor_share * 100);
  qn_check(traffic >= 1 && traffic <= most, "%s: %.3f of the least traffic", format->name, traffic);
  qn_check(c.wavefronts <= 1, "%s: %.3f of the least wavefronts", format->name, c.wavefronts);
  qn_run_destroy(run);
}

START_TEST(products_are_on_tensor_cores) {
  static const char *const texts[] = {
      "max T=128 R=128; x = input f32[T,512]; w = param $F[256,512]; y = matmul x w; output y",
      "max T=128 R=128; x = input f32[T,512]; w = param $F[256,512]; u = param $F[256,512]\n"
      "g = matmul x w; s = silu g; v = matmul x u; y = mul s v; output y"};
  if (sim_is_real()) return;
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    if (!format || format->block_values == 1 || (size_t)dtype % qn_test_stride(6, 7) != 0) continue;
    for (size_t i = 0; i < QN_COUNT(texts); i++) count_format(format, texts[i]);
  }
}
END_TEST

static TCase *interpreted(void) {
  const TTest *const tests[] = {interpreted_tiles, sums_of_parts};
  return qn_test_case("interpreted", tests, QN_COUNT(tests));
}

static TCase *simulated(void) {
  qn_test_need_nvrtc();
  const TTest *const tests[] = {simulated_tiles, products_of_every_format, halves};
  return qn_test_case("simulated", tests, QN_COUNT(tests));
}

static TCase *counted_products(void) {
  qn_test_need_nvrtc();
  const TTest *const tests[] = {products_are_on_tensor_cores};
  return qn_test_case("counted", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(interpreted, simulated, counted_products)
