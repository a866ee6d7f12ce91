// Graphs built in code on a GPU: runners give the bits of the CPU, with caches in the device's memory. Needs NVRTC to
// compile; runs in the simulator, or on the driver that QUERN_TEST_LIBCUDA names.
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/built_graph.h"
#include "tests/support/gpu_program.h"
#include "tests/support/gpu_speech.h"

enum { WIDTH = 33, HIDDEN = 45 };

static void open_on(const char *path, bool gpu, quern_model **out) {
  quern_model_options options = {
      .size = sizeof options, .device = gpu ? "cuda" : NULL, .libcuda = gpu ? qn_test_libcuda() : NULL};
  OK(quern_model_open(path, &options, out, error));
}

// Runs twice with the same sizes, so that a GPU takes the step's graph, too.
static void run(const qn_built *b, const char *path, bool gpu, const quern_sizes *sizes, float *y, size_t bytes) {
  quern_model *model = NULL;
  quern_runner *runner = NULL;
  quern_tensor t;
  open_on(path, gpu, &model);
  OK(quern_runner_create(model, QN_RUNNER(.threads = 1, .pool_pages = sizes->pool_pages), &runner, error));
  for (size_t i = 0; quern_model_tensor(model, i, &t); i++)
    if (t.kind == QUERN_TENSOR_INPUT) qn_built_bind(runner, b, t.name);
  OK(quern_runner_bind_output(runner, "y", y, bytes, error));
  for (int i = 0; i < 3; i++) {
    memset(y, 0, bytes);
    OK(quern_runner_run(runner, sizes, error));
  }
  quern_runner_destroy(runner);
  quern_model_close(model);
}

static void compare(const qn_built *b, const quern_sizes *sizes, size_t count) {
  const char *path = qn_test_temp_path("both.qn");
  float *want = calloc(count, sizeof *want), *got = calloc(count, sizeof *got);
  OK(quern_graph_compile(b->graph, path, QN_COMPILE(.target = "host,cuda:sm_80"), error));
  run(b, path, false, sizes, want, count * sizeof *want);
  run(b, path, true, sizes, got, count * sizeof *got);
  ck_assert_mem_eq(got, want, count * sizeof *want);
  free(want), free(got);
}

START_TEST(an_mlp) {
  qn_built b;
  qn_built_mlp(&b, "q4_0", 64, HIDDEN);
  for (int64_t rows = 1; rows <= QN_MLP_ROWS; rows += QN_MLP_ROWS - 1)
    compare(&b, QN_SIZES(.tokens = rows), (size_t)rows * 64);
  qn_built_deinit(&b);
  qn_built_mlp(&b, NULL, WIDTH, HIDDEN);
  compare(&b, QN_SIZES(.tokens = 3), (size_t)3 * WIDTH);
  qn_built_deinit(&b);
}
END_TEST

START_TEST(attention) {
  qn_built b;
  qn_built_attention(&b);
  compare(&b, QN_SIZES(.tokens = QN_ATTENTION_TOKENS, .pages = 2, .sequences = 1, .pool_pages = 2),
          (size_t)QN_ATTENTION_TOKENS * QN_ATTENTION_QUERY);
  qn_built_deinit(&b);
}
END_TEST

static TCase *on_a_gpu(void) {
  qn_test_gpu_open();
  const TTest *const tests[] = {an_mlp, attention};
  return qn_test_case("gpu", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(on_a_gpu)
