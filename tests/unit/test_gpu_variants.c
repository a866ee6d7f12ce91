// The GPU passes as a whole: which variants and schedules kernels get, and what happens when memory runs out. What each
// pass does is in tests/golden/passes, the bits in test_kernels.c.
#include "tests/support/graph_run.h"
#include "tests/support/test.h"

static const char layer[] =
    "max T=32 R=32\n"
    "embd = param q8_0[40,64]; norm = param f32[64]; x = embed embd tokens; a = rmsnorm x norm eps=1e-5\n"
    "wq = param q8_0[64,64]; q = matmul a wq; y = add x q; output y";

static const struct {
  const char *kernel;  // how its name begins
  int variants, lanes, groups;
  bool parallel;
} wanted[] = {{"qk_embed", 1, 64, 1, true}, {"qk_matmul", 2, 16, 2, true}};

START_TEST(kernels_get_their_schedules) {
  qn_run *run = qn_run_create(layer, NULL, NULL);
  const qn_program *program = qn_run_program(run);
  size_t seen = 0;
  for (size_t k = 0; k < program->kernels.count; k++) {
    int count = 0;
    const qn_gpu_variant *v = qn_run_gpu_variants(run, k, &count);
    for (size_t i = 0; i < QN_COUNT(wanted); i++) {
      if (strncmp(program->kernels.items[k].name, wanted[i].kernel, strlen(wanted[i].kernel)) != 0) continue;
      seen++;
      ck_assert_int_eq(count, wanted[i].variants);
      ck_assert_int_eq(v[0].schedule.lanes, wanted[i].lanes);
      ck_assert_int_eq(v[0].schedule.groups, wanted[i].groups);
      ck_assert_int_eq(v[0].extent != NULL, wanted[i].parallel);
      ck_assert_int_eq(v[0].rows_min, count == 1 ? 0 : 1);
      ck_assert_int_eq(v[count - 1].rows_max, INT64_MAX);
      if (count == 2) ck_assert(v[0].rows_max == 1 && v[1].rows_min == 2);
    }
  }
  ck_assert_uint_ge(seen, QN_COUNT(wanted));
  qn_run_destroy(run);
}
END_TEST

static qn_status make_variants(const qn_allocator *allocator, void *context) {
  qn_arena arena;
  qn_diag diag = {0};
  qn_gpu_variant variants[QN_MAX_VARIANTS];
  int count = 0;
  qn_arena_init(&arena, allocator);
  qn_status status = qn_gpu_variants(context, 32, &arena, variants, &count, &diag);
  qn_arena_deinit(&arena);
  return status;
}

START_TEST(memory_that_runs_out_is_an_error) {
  qn_run *run = qn_run_create(layer, NULL, NULL);
  const qn_program *program = qn_run_program(run);
  for (size_t k = 0; k < program->kernels.count; k++)
    qn_test_failing_allocations(make_variants, (void *)&program->kernels.items[k]);
  qn_run_destroy(run);
}
END_TEST

QN_CASE(variants, kernels_get_their_schedules, memory_that_runs_out_is_an_error)
QN_TEST_MAIN(variants)
