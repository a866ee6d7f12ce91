// Counting what kernels ask of a GPU (passes/gpu_count.c), by hand on small kernels; test_cuda_simulated.c holds it to
// what the simulator sees of real ones.
#include <math.h>
#include <stdio.h>

#include "passes/gpu_count.h"
#include "tests/support/test.h"

typedef struct counting {
  qn_arena arena;
  qn_gpu_counts counts;
  qn_gpu_param params[8];
  int64_t symbols[QN_SYM_COUNT];
} counting;

static qn_status count_with(counting *c, const char *text, int lanes, int groups, qn_diag *diag) {
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  QN_TRY(qn_lkernels_parse("test", qn_str_from(text), &c->arena, &kernels, &count, diag));
  QN_TRY(qn_lkernel_verify(kernels[0], diag));
  qn_gpu_schedule schedule = {.lanes = lanes, .groups = groups};
  return qn_gpu_count(kernels[0], &schedule, c->params, c->symbols, &c->arena, &c->counts, diag);
}

static void count(counting *c, const char *text, int lanes, int groups) {
  qn_diag diag = {0};
  qn_arena_init(&c->arena, qn_test_allocator());
  qn_assert_ok(&diag, count_with(c, text, lanes, groups, &diag));
}

static void check(const char *what, double got, double want) {
  qn_check(fabs(got - want) <= 1e-9 * fabs(want), "%s: got %g, want %g", what, got, want);
}

static void check_loads(const counting *c, size_t param, double bytes, double sectors) {
  check("bytes loaded", c->counts.params[param].load_bytes, bytes);
  check("sectors loaded", c->counts.params[param].load_sectors, sectors);
}

static void check_stores(const counting *c, size_t param, double bytes, double sectors) {
  check("bytes stored", c->counts.params[param].store_bytes, bytes);
  check("sectors stored", c->counts.params[param].store_sectors, sectors);
}

// Two groups of 16 lanes a warp: a row of 16 floats is two sectors, what all lanes load is one.
START_TEST(a_product) {
  counting c = {.params = {{.far = true}}, .symbols = {[QN_SYM_T] = 3}};
  count(&c,
        "kernel \"k\" {\n"
        "  param w : f32[8192] streamed\n"
        "  param x : f32[T*64]\n"
        "  param y : f32[T*128] out\n"
        "  for n in 0..T*8 data parallel {\n"
        "    for l in 0..16 data lane {\n"
        "      local acc : f32[1]\n"
        "      acc[0] = 0.0\n"
        "      for k in 0..64 reduce {\n"
        "        acc[0] = fma(x[n % T*64 + k], w[n / T*1024 + k*16 + l], acc[0])\n"
        "      }\n"
        "      y[n % T*128 + n / T*16 + l] = acc[0]\n"
        "    }\n"
        "  }\n"
        "}\n",
        16, 2);
  check("groups", c.counts.groups, 24);
  check_loads(&c, 0, 24 * 64 * 64, 24 * 64 * 2 / 2.0);  // two groups of a warp read the same row here
  check_loads(&c, 1, 24 * 64 * 64, 24 * 64 * 1);
  check_stores(&c, 2, 24 * 64, 24 * 2);
  check("waits for memory", c.counts.longest.memory, 64 / 8.0);  // eight iterations together
  check("all waits", c.counts.all.memory, 24 * 64 / 8.0);
  ck_assert(c.counts.fp32 >= 24 * 0.5 * 64 && c.counts.instructions > c.counts.fp32);
  qn_arena_deinit(&c.arena);
}
END_TEST

// Bounds and places that the step's positions and block table decide are what they are.
START_TEST(what_inputs_say) {
  static const int32_t pos[] = {3, 70, 200}, table[] = {4, 0, 2, 1};
  counting c = {.params = {{.data = pos, .count = 3}, {.data = table, .count = 4}, {.far = true}},
                .symbols = {[QN_SYM_T] = 3, [QN_SYM_P] = 4}};
  count(&c,
        "kernel \"k\" {\n"
        "  param pos : i32[T]\n"
        "  param table : i32[P]\n"
        "  param kc : f16[65536]\n"
        "  param y : f32[T*64] out\n"
        "  for t in 0..T data parallel {\n"
        "    local high : i32[1]\n"
        "    local sum : f32[64] shared\n"
        "    high[0] = pos[t]\n"
        "    for l in 0..64 data lane {\n"
        "      sum[l] = 0.0\n"
        "    }\n"
        "    barrier\n"
        "    for once in 0..select(lt(pos[t], 100i32), 1, 0) data {\n"
        "      for chunk in 0..index(high[0]) / 64 + 1 reduce {\n"
        "        for l$1 in 0..64 data lane {\n"
        "          sum[l$1] = sum[l$1] + kc[index(table[chunk])*64 + l$1]\n"
        "        }\n"
        "      }\n"
        "    }\n"
        "    for l$2 in 0..64 data lane {\n"
        "      y[t*64 + l$2] = sum[l$2]\n"
        "    }\n"
        "  }\n"
        "}\n",
        64, 1);
  check_loads(&c, 2, 3 * 128, 3 * 4);  // one chunk of the first token, two of the second, none of the third
  check_stores(&c, 3, 3 * 256, 3 * 8);
  check("barriers", c.counts.all.barriers, 3);
  check("waits that depend on each other", c.counts.longest.memory, 2);  // the table, then what it points to: of both chunks
  check("shared", c.counts.shared_requests, 3 * 2 + 3 * 2 * 2 + 3 * 2);
  qn_arena_deinit(&c.arena);
}
END_TEST

// A lane loop that some lanes take no part in, and one with a condition of its own for each lane.
START_TEST(lanes_that_differ) {
  counting c = {.symbols = {[QN_SYM_T] = 5}};
  count(&c,
        "kernel \"k\" {\n"
        "  param y : f32[256] out\n"
        "  param z : f32[256] out\n"
        "  for n in 0..2 data parallel {\n"
        "    for l in 0..40 data lane {\n"
        "      y[n*64 + l] = 1.0\n"
        "    }\n"
        "    for l$1 in 0..32 data lane {\n"
        "      for there in 0..min(T - l$1, 1) data {\n"
        "        z[n*64 + l$1*8] = 1.0\n"
        "      }\n"
        "    }\n"
        "  }\n"
        "}\n",
        32, 1);
  check_stores(&c, 0, 2 * 160, 2 * 5);
  check_stores(&c, 1, 2 * 5 * 4, 2 * 5);
  qn_arena_deinit(&c.arena);
}
END_TEST

// A loop whose length only values tell is left out, and told of.
START_TEST(what_is_not_known) {
  counting c = {.symbols = {0}};
  count(&c,
        "kernel \"k\" {\n"
        "  param n : i32[1]\n"
        "  param y : f32[64] out\n"
        "  for i in 0..index(n[0]) data lane {\n"
        "    y[i] = 1.0\n"
        "  }\n"
        "  y[0] = 2.0\n"
        "}\n",
        32, 1);
  check_stores(&c, 1, 4, 1);
  check("loops left out", c.counts.left_out, 1);
  qn_arena_deinit(&c.arena);
}
END_TEST

static qn_status count_in(const qn_allocator *allocator, void *context) {
  counting c = {.symbols = {[QN_SYM_T] = 4}};
  qn_diag diag = {0};
  qn_arena_init(&c.arena, allocator);
  qn_status status = count_with(&c, context, 32, 1, &diag);
  qn_arena_deinit(&c.arena);
  return status;
}

START_TEST(memory_that_runs_out_is_an_error) {
  static const char text[] =
      "kernel \"k\" {\n"
      "  param x : i32[T]\n"
      "  param y : f32[256] out\n"
      "  for t in 0..T data parallel {\n"
      "    local n : i32[1]\n"
      "    n[0] = 7i32\n"
      "    for i in 0..index(n[0]) + t data lane {\n"
      "      y[t*64 + i] = exp(f32(x[t]))\n"
      "    }\n"
      "  }\n"
      "}\n";
  qn_test_failing_allocations(count_in, (void *)text);
}
END_TEST

QN_CASE(gpu_count, a_product, what_inputs_say, lanes_that_differ, what_is_not_known, memory_that_runs_out_is_an_error)
QN_TEST_MAIN(gpu_count)
