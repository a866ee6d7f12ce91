// Kernels as CUDA C++: tests/golden/cuda/*.txt. A text is "lanes groups" and kernels, or "lanes groups stages
// stage_bytes" and perhaps "parts"; the answer is what is written for them without the prelude, or the error.
#include <stdio.h>
#include <stdlib.h>

#include "codegen/cuda/emit.h"
#include "ir/loop.h"
#include "tests/support/golden.h"
#include "tests/support/test.h"

enum { MAX_KERNELS = 8 };

static void put_source(qn_lkernel *const *kernels, size_t count, qn_gpu_schedule schedule, qn_buf *out) {
  qn_diag diag = {0};
  qn_cuda_kernel list[MAX_KERNELS];
  qn_buf source;
  qn_buf_init(&source, qn_test_allocator());
  ck_assert_uint_le(count, MAX_KERNELS);
  for (size_t i = 0; i < count; i++) {
    qn_assert_ok(&diag, qn_lkernel_verify(kernels[i], &diag));
    list[i] = (qn_cuda_kernel){.kernel = kernels[i], .schedule = schedule};
  }
  qn_status status = qn_cuda_emit(list, count, &source, &diag);
  if (status != QN_OK) {
    qn_buf_printf(out, "%s: %s\n", qn_status_name(status), diag.text);
  } else {
    const char *first = strstr(qn_buf_text(&source), "\nextern \"C\"");
    ck_assert_ptr_nonnull(first);
    qn_buf_puts(out, first + 1);
    for (size_t i = 0; i < count; i++)
      if (list[i].shared_bytes)
        qn_buf_printf(out, "%s: %lld bytes shared\n", kernels[i]->name, (long long)list[i].shared_bytes);
  }
  qn_buf_deinit(&source);
}

static void answer(void *context, const char *file_name, qn_str text, qn_buf *out) {
  (void)context;
  qn_arena arena;
  qn_diag diag = {0};
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  char *rest = NULL;
  qn_gpu_schedule schedule = {0};
  schedule.lanes = (int)strtol(text.data, &rest, 10);
  schedule.groups = (int)strtol(rest, &rest, 10);
  schedule.stages = (int)strtol(rest, &rest, 10);
  schedule.stage_bytes = (int)strtol(rest, &rest, 10);
  schedule.parts = (int)strtol(rest, &rest, 10);
  qn_str body = {rest, text.length - (size_t)(rest - text.data)};
  qn_arena_init(&arena, qn_test_allocator());
  qn_assert_ok(&diag, qn_lkernels_parse(file_name, body, &arena, &kernels, &count, &diag));
  put_source(kernels, count, schedule, out);
  qn_arena_deinit(&arena);
}

START_TEST(sources) { qn_golden_check("tests/golden/cuda", "//", answer, NULL); }
END_TEST

static qn_status emit_once(const qn_allocator *allocator, void *context) {
  qn_cuda_kernel kernel = {.kernel = context, .schedule = {.lanes = 16, .groups = 2}};
  qn_diag diag = {0};
  qn_buf out;
  qn_buf_init(&out, allocator);
  qn_status status = qn_cuda_emit(&kernel, 1, &out, &diag);
  qn_buf_deinit(&out);
  return status;
}

START_TEST(memory_that_runs_out_is_an_error) {
  static const char text[] =
      "kernel \"k\" {\n  param x : f32[64]\n  param y : f32[64] out\n  for t in 0..4 data parallel {\n"
      "    for l in 0..16 data lane {\n      y[t*16 + l] = exp(x[t*16 + l])*x[t*16 + l]\n    }\n  }\n}\n";
  qn_arena arena;
  qn_diag diag = {0};
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  qn_arena_init(&arena, qn_allocator_default());
  qn_assert_ok(&diag, qn_lkernels_parse("k", QN_STR(text), &arena, &kernels, &count, &diag));
  qn_test_failing_allocations(emit_once, kernels[0]);
  qn_arena_deinit(&arena);
}
END_TEST

QN_CASE(golden, sources, memory_that_runs_out_is_an_error)
QN_TEST_MAIN(golden)
