// Executors on a GPU, on a program laid out by hand: values, symbols, caches, what is launched and waited for,
// profiles. Runs in the simulator, or on the driver that QUERN_TEST_LIBCUDA names.
#include "runtime/executor.h"

#include <stdlib.h>

#include "tests/ptxsim/support_sim.h"
#include "tests/support/gpu_program.h"
#include "tests/support/test.h"

enum { T = QN_TEST_SYM_T, R = QN_TEST_SYM_R, P = QN_TEST_SYM_P, B = QN_TEST_SYM_B, BIAS = 5 };

typedef struct fixture {
  qn_artifact artifact;
  qn_cuda *cuda;
  qn_executor *executor;
  void *pool;
  int32_t x[QN_GPU_MAX_T], table[16];
  qn_diag diag;
} fixture;

static void set_up(fixture *f, const qn_executor_options *how) {
  qn_test_artifact a;
  qn_executor_options options = how ? *how : (qn_executor_options){0};
  *f = (fixture){.pool = NULL};
  for (int i = 0; i < QN_GPU_MAX_T; i++) f->x[i] = 3 * i;
  for (int i = 0; i < 16; i++) f->table[i] = 100 + i;
  qn_gpu_program_describe(&a, BIAS);
  f->artifact = qn_gpu_program_open(&a);
  qn_cuda_open_options device = {.device = "cuda", .library = qn_test_libcuda()};
  qn_assert_ok(&f->diag, qn_cuda_open(&f->artifact, &device, qn_test_allocator(), &f->cuda, &f->diag));
  options.cuda = f->cuda;
  qn_assert_ok(&f->diag, qn_executor_create(&f->artifact, NULL, &options, qn_test_allocator(), &f->executor, &f->diag));
  const qn_memory *memory = qn_executor_memory(f->executor);
  qn_assert_ok(&f->diag, memory->take(memory->context, 4 * QN_GPU_PAGE_BYTES, "t", "keys", "", &f->pool, &f->diag));
  qn_assert_ok(&f->diag, qn_executor_bind_cache(f->executor, "k", 0, f->pool, &f->diag));
  qn_assert_ok(&f->diag, qn_executor_bind_input(f->executor, "x", f->x, &f->diag));
  qn_assert_ok(&f->diag, qn_executor_bind_input(f->executor, "table", f->table, &f->diag));
}

static void tear_down(fixture *f) {
  const qn_memory *memory = qn_executor_memory(f->executor);
  memory->give_back(memory->context, f->pool, 4 * QN_GPU_PAGE_BYTES);
  qn_executor_destroy(f->executor);
  qn_cuda_close(f->cuda);
  qn_artifact_close(&f->artifact);
}

// Runs with these symbol values and checks every output.
static void run(fixture *f, int64_t t, int64_t r, qn_run_kind kind, int keys) {
  const int64_t symbols[QN_ARTIFACT_SYMBOLS] = {[T] = t, [R] = r, [P] = 3 + t % 2, [B] = 2, [QN_TEST_SYM_G] = 4};
  f->diag = (qn_diag){0};
  qn_assert_ok(&f->diag, qn_executor_run(f->executor, symbols, kind, &f->diag));
  const qn_art_buffer *buffer;
  const float *out = qn_executor_output(f->executor, "out", &buffer);
  const float *sums = qn_executor_output(f->executor, "sums", NULL);
  ck_assert_int_eq(buffer->row_pitch, QN_GPU_PITCH);
  for (int64_t row = 0; row < r; row++) {
    for (int64_t c = 0; c < QN_GPU_COLUMNS; c++) {
      float want = (float)(2 * f->x[row] + 1 + c + (r == 1 ? 1000 : 2000)), got = out[row * QN_GPU_PITCH + c];
      qn_check(got == want, "T %d, R %d: out[%d][%d]: got %g, want %g", (int)t, (int)r, (int)row, (int)c, (double)got,
               (double)want);
    }
  }
  if (r > 0) ck_assert(sums[0] == out[0] + BIAS);
  ck_assert_msg(sums[1] == (float)keys, "the cache: got %g, want %d", (double)sums[1], keys);
  ck_assert(sums[2] == (float)f->table[symbols[P] - 1] && sums[3] == 64 << 10);
}

START_TEST(values) {
  fixture f;
  set_up(&f, NULL);
  ck_assert_str_eq(qn_executor_target(f.executor), "cuda:sm_80");
  ck_assert(qn_cuda_from_ptx(f.cuda));
  ck_assert_ptr_null(qn_executor_output(f.executor, "other", NULL));
  int keys = 0;
  static const int64_t rows[][2] = {{1, 1}, {1, 1}, {5, 2}, {64, 6}, {2, 1}, {1, 1}, {7, 0}, {1, 1}};
  for (int kind = QN_RUN_PROMPT; kind <= QN_RUN_STEP; kind++) {
    for (size_t i = 0; i < QN_COUNT(rows); i++) {
      for (int j = 0; j < QN_GPU_MAX_T; j++) f.x[j] = (int32_t)(j * (int)i + kind);
      run(&f, rows[i][0], rows[i][1], (qn_run_kind)kind, ++keys);
    }
  }
  int32_t other[QN_GPU_MAX_T] = {77};  // an input's memory is another
  memcpy(f.x, other, sizeof other);
  qn_assert_ok(&f.diag, qn_executor_bind_input(f.executor, "x", other, &f.diag));
  run(&f, 1, 1, QN_RUN_STEP, ++keys);
  tear_down(&f);
}
END_TEST

START_TEST(caches) {
  fixture f;
  float seven = 7;
  void *second = NULL;
  set_up(&f, NULL);
  const qn_memory *memory = qn_executor_memory(f.executor);
  run(&f, 1, 1, QN_RUN_STEP, 1);
  run(&f, 1, 1, QN_RUN_STEP, 2);
  qn_assert_ok(&f.diag, memory->write(memory->context, f.pool, &seven, sizeof seven, &f.diag));
  run(&f, 1, 1, QN_RUN_STEP, 8);
  float copied = 0;
  uint8_t *pool = f.pool;
  qn_assert_ok(&f.diag, memory->copy(memory->context, pool + QN_GPU_PAGE_BYTES, pool, QN_GPU_PAGE_BYTES, &f.diag));
  qn_assert_ok(&f.diag, memory->read(memory->context, &copied, pool + QN_GPU_PAGE_BYTES, sizeof copied, &f.diag));
  ck_assert(copied == 8);
  qn_assert_ok(&f.diag, memory->take(memory->context, QN_GPU_PAGE_BYTES, "t", "keys", "", &second, &f.diag));
  qn_assert_ok(&f.diag, qn_executor_bind_cache(f.executor, "k", 0, second, &f.diag));
  run(&f, 1, 1, QN_RUN_STEP, 1);  // a graph that knew the other one is not used any more
  qn_assert_ok(&f.diag, qn_executor_bind_cache(f.executor, "k", 0, f.pool, &f.diag));
  run(&f, 1, 1, QN_RUN_PROMPT, 9);
  memory->give_back(memory->context, second, QN_GPU_PAGE_BYTES);
  tear_down(&f);
}
END_TEST

static ps_driver_counts counts_now(void) {
  ps_driver_counts counts;
  sim.driver_counters(&counts);
  return counts;
}

START_TEST(what_is_launched) {
  fixture f;
  const int64_t most[QN_ARTIFACT_SYMBOLS] = {[T] = 64, [R] = 8, [P] = 8, [B] = 2};
  if (!qn_test_simulated()) return;  // only the simulator counts
  sim_open();
  set_up(&f, NULL);
  qn_assert_ok(&f.diag, qn_executor_reserve(f.executor, most, &f.diag));
  ps_driver_counts before = counts_now();
  size_t allocations = qn_test_allocator_memory()->allocations;
  for (int i = 1; i <= 10; i++) run(&f, 1, 1, QN_RUN_STEP, i);
  ps_driver_counts after = counts_now();
  ck_assert_uint_eq(after.graph_launches - before.graph_launches, 10);
  ck_assert_uint_eq(after.graph_nodes - before.graph_nodes, 10 * (1 + 3 + 2));  // inputs, kernels, outputs
  ck_assert_uint_eq(after.synchronisations - before.synchronisations, 10);
  ck_assert_uint_eq(after.kernel_launches, before.kernel_launches);
  ck_assert_uint_eq(qn_test_allocator_memory()->allocations, allocations);
  // A prompt: launches; and while no output is wanted nobody waits, but for inputs on their way.
  before = after;
  run(&f, 5, 2, QN_RUN_PROMPT, 11);
  after = counts_now();
  ck_assert_uint_eq(after.kernel_launches - before.kernel_launches, 3);
  ck_assert_uint_eq(after.graph_launches, before.graph_launches);
  ck_assert_uint_eq(after.synchronisations - before.synchronisations, 1);
  ck_assert(qn_executor_want(f.executor, "sums", false) && !qn_executor_want(f.executor, "other", false));
  const int64_t quiet[QN_ARTIFACT_SYMBOLS] = {[T] = 9, [P] = 3, [B] = 2, [QN_TEST_SYM_G] = 4};
  for (int i = 0; i < 6; i++) {
    before = counts_now();
    f.x[0] = i;
    qn_assert_ok(&f.diag, qn_executor_run(f.executor, quiet, QN_RUN_PROMPT, &f.diag));
    ck_assert_uint_eq(counts_now().synchronisations - before.synchronisations, i < 2 ? 0 : 1);
    ck_assert_uint_eq(counts_now().kernel_launches - before.kernel_launches, 2);  // second has no rows
  }
  ck_assert(qn_executor_want(f.executor, "sums", true));
  run(&f, 1, 1, QN_RUN_STEP, 18);
  tear_down(&f);
}
END_TEST

// More combinations of symbol values than graphs are kept, twice.
START_TEST(many_graphs) {
  fixture f;
  set_up(&f, NULL);
  int keys = 0;
  for (int round = 0; round < 2; round++) {
    for (int64_t t = 1; t <= QN_GPU_MAX_T; t++) {
      run(&f, t, 1, QN_RUN_STEP, ++keys);
      if (t > 1) run(&f, t, 2, QN_RUN_STEP, ++keys);
    }
  }
  tear_down(&f);
}
END_TEST

START_TEST(executors_share_a_device) {
  fixture f;
  qn_executor *other = NULL;
  set_up(&f, NULL);
  qn_executor_options options = {.cuda = f.cuda};
  qn_assert_ok(&f.diag, qn_executor_create(&f.artifact, NULL, &options, qn_test_allocator(), &other, &f.diag));
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "input 'x' is not bound",
                  qn_executor_run(other, (const int64_t[QN_ARTIFACT_SYMBOLS]){[T] = 1}, QN_RUN_STEP, &f.diag));
  run(&f, 1, 1, QN_RUN_STEP, 1);
  qn_executor_destroy(other);
  run(&f, 1, 1, QN_RUN_STEP, 2);
  tear_down(&f);
}
END_TEST

START_TEST(refuses_to_run) {
  fixture f;
  set_up(&f, NULL);
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_LIMIT, "symbol T: got 65, want 0 to 64",
                  qn_executor_run(f.executor, (const int64_t[QN_ARTIFACT_SYMBOLS]){[T] = 65}, QN_RUN_STEP, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_FORMAT, "kernel 'second': got 7 rows",
                  qn_executor_run(f.executor, (const int64_t[QN_ARTIFACT_SYMBOLS]){[T] = 7, [R] = 7, [B] = 1, [P] = 1},
                                  QN_RUN_STEP, &diag));
  diag = (qn_diag){0};
  const int64_t huge[QN_ARTIFACT_SYMBOLS] = {[T] = 1, [B] = INT32_MAX, [P] = INT32_MAX};
  qn_assert_fails(&diag, QN_ERR_LIMIT, "input 'table': its size overflows",
                  qn_executor_reserve(f.executor, huge, &diag));
  run(&f, 1, 1, QN_RUN_STEP, 1);
  tear_down(&f);
}
END_TEST

START_TEST(profiles) {
  fixture f;
  uint64_t kernel_ns, run_ns, sum = 0;
  set_up(&f, &(qn_executor_options){.profile = true});
  for (int i = 1; i <= 20; i++) run(&f, 1, 1, QN_RUN_STEP, i);
  const qn_step_profile *profile = qn_executor_profile(f.executor);
  qn_executor_times(f.executor, &kernel_ns, &run_ns);
  for (size_t i = 0; i < 3; i++) {
    sum += profile[i].kernel_ns;
    ck_assert_uint_eq(profile[i].calls, 20);
    ck_assert_uint_eq(qn_executor_busy_ns(f.executor, i), profile[i].kernel_ns);
  }
  ck_assert(sum == kernel_ns && sum > 0 && kernel_ns <= run_ns);
  tear_down(&f);
  set_up(&f, &(qn_executor_options){.check_kernels = true});
  for (int i = 1; i <= 3; i++) run(&f, 4, 2, i == 2 ? QN_RUN_PROMPT : QN_RUN_STEP, i);
  ck_assert_ptr_null(qn_executor_profile(f.executor));
  tear_down(&f);
}
END_TEST

START_TEST(its_memory_is_measured) {
  fixture f;
  double rate = 0;
  if (qn_test_simulated()) {
    sim_open();
    sim_set("memory", "64m");
  }
  set_up(&f, NULL);
  qn_assert_ok(&f.diag, qn_cuda_measure_read(f.cuda, &rate, &f.diag));
  ck_assert(rate > 1e6);
  run(&f, 1, 1, QN_RUN_STEP, 1);
  tear_down(&f);
}
END_TEST

// Kernels called alone: what they write comes back, and what they write beyond an end is noticed; code that is none of
// the artifact's is timed.
START_TEST(kernels_by_themselves) {
  enum { ROWS = 3, WIDTH = 16 };  // of `hidden`
  fixture f;
  float hidden[ROWS * WIDTH] = {0};
  double seconds = 0;
  int64_t outside = 0;
  int multiprocessors = 0;
  set_up(&f, NULL);
  void *const buffers[] = {f.x, hidden};
  size_t sizes[] = {ROWS * sizeof *f.x, sizeof hidden};
  const bool written[] = {false, true};
  const int64_t symbols[QN_ARTIFACT_SYMBOLS] = {[T] = ROWS, [R] = 1, [P] = 1, [B] = 1, [QN_TEST_SYM_G] = 1};
  qn_cuda_call call = {.buffers = buffers, .sizes = sizes, .written = written, .count = 2, .symbols = symbols};
  qn_assert_ok(&f.diag, qn_cuda_call_variant(f.cuda, 0, &call, &outside, &f.diag));
  ck_assert_int_eq(outside, -1);
  for (int row = 0; row < ROWS; row++) ck_assert_float_eq(hidden[row * WIDTH], (float)(2 * f.x[row] + 1));
  sizes[1] = (ROWS - 1) * WIDTH * sizeof *hidden;
  qn_assert_ok(&f.diag, qn_cuda_call_variant(f.cuda, 0, &call, &outside, &f.diag));
  ck_assert_int_eq(outside, 1);
  sizes[1] = sizeof hidden;
  const qn_cuda_image image = {.ptx = qn_gpu_program_ptx};
  const qn_art_launch *shape = &qn_gpu_program_launches[0];
  qn_assert_ok(&f.diag, qn_cuda_time_code(f.cuda, &image, "first", shape, 1, &call, &seconds, &f.diag));
  ck_assert(seconds > 0);
  qn_assert_fails(&f.diag, QN_ERR_INTERNAL, "finding a function",
                  qn_cuda_time_code(f.cuda, &image, "none", shape, 1, &call, &seconds, &f.diag));
  qn_assert_ok(&f.diag, qn_cuda_multiprocessors(f.cuda, &multiprocessors, &f.diag));
  ck_assert_int_gt(multiprocessors, 0);
  tear_down(&f);
}
END_TEST

// Weights of several pieces arrive whole: the one that is read is the last.
START_TEST(large_weights) {
  enum { BYTES = (20 << 20) + 64 * 4 };
  qn_test_artifact a;
  qn_diag diag = {0};
  qn_cuda *cuda = NULL;
  qn_gpu_program_describe(&a, 0);
  float *numbers = calloc(1, BYTES);
  for (size_t i = 0; i < BYTES / 4; i++) numbers[i] = (float)(i % 100003);
  uint32_t w = qn_test_artifact_weight(&a, "big", numbers, BYTES);
  a.buffers.items[w].bytes = 256;
  a.buffers.items[w].offset += BYTES - 256;
  a.operands.items[a.steps.items[2].first_operand + 1] = w;
  qn_artifact artifact = qn_gpu_program_open(&a);
  qn_cuda_open_options device = {.device = "cuda", .library = qn_test_libcuda()};
  qn_assert_ok(&diag, qn_cuda_open(&artifact, &device, qn_test_allocator(), &cuda, &diag));
  qn_executor *e = NULL;
  qn_executor_options options = {.cuda = cuda};
  qn_assert_ok(&diag, qn_executor_create(&artifact, NULL, &options, qn_test_allocator(), &e, &diag));
  const qn_memory *memory = qn_executor_memory(e);
  void *pool = NULL;
  int32_t input[4] = {0};
  qn_assert_ok(&diag, memory->take(memory->context, QN_GPU_PAGE_BYTES, "t", "keys", "", &pool, &diag));
  qn_assert_ok(&diag, qn_executor_bind_cache(e, "k", 0, pool, &diag));
  qn_assert_ok(&diag, qn_executor_bind_input(e, "x", input, &diag));
  qn_assert_ok(&diag, qn_executor_bind_input(e, "table", input, &diag));
  const int64_t symbols[QN_ARTIFACT_SYMBOLS] = {[T] = 1, [R] = 1, [P] = 1, [B] = 1, [QN_TEST_SYM_G] = 1};
  qn_assert_ok(&diag, qn_executor_run(e, symbols, QN_RUN_PROMPT, &diag));
  const float *sums = qn_executor_output(e, "sums", NULL);
  ck_assert(sums[0] == 1001 + numbers[BYTES / 4 - 64]);
  memory->give_back(memory->context, pool, QN_GPU_PAGE_BYTES);
  qn_executor_destroy(e);
  qn_cuda_close(cuda);
  qn_artifact_close(&artifact);
  free(numbers);
}
END_TEST

static TCase *executors(void) {
  qn_cuda_info info;
  qn_diag diag = {0};
  size_t count = 0;
  if (qn_cuda_list(qn_test_libcuda(), &info, 1, &count, &diag) != QN_OK) qn_test_skip("%s", diag.text);
  const TTest *const tests[] = {
      values,         caches,   what_is_launched,       many_graphs,  executors_share_a_device,
      refuses_to_run, profiles, its_memory_is_measured, kernels_by_themselves, large_weights};
  return qn_test_case("executors", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(executors)
