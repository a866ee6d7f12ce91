// Graphs built in code: what they compute against the oracle, at odd sizes, by the JIT, from files and from the cache,
// and by several threads. QUERN_TEST_SHOW tells how long it takes to make one.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/built_graph.h"

enum { WIDTH = 33, HIDDEN = 45 };

// --- running

static quern_runner *start(quern_model *model, const quern_runner_options *options) {
  quern_runner *runner = NULL;
  OK(quern_runner_create(model, options, &runner, error));
  return runner;
}

// --- a gated MLP

static void run_mlp(quern_model *model, const qn_built *b, int64_t rows, int threads, float *y, size_t bytes) {
  quern_runner *runner = start(model, QN_RUNNER(.threads = threads));
  qn_built_bind(runner, b, "x");
  OK(quern_runner_bind_output(runner, "y", y, bytes, error));
  OK(quern_runner_run(runner, QN_SIZES(.tokens = rows), error));
  quern_runner_destroy(runner);
}

static void try_mlp(const char *format, int width, int hidden, const char *mode, double tolerance) {
  qn_built b;
  quern_model *model = NULL;
  float y[QN_MLP_ROWS * 96];
  qn_built_mlp(&b, format, width, hidden);
  OK(quern_graph_jit(b.graph, QN_COMPILE(.numeric_mode = mode), &model, error));
  for (int64_t rows = 1; rows <= QN_MLP_ROWS; rows += 3) {
    run_mlp(model, &b, rows, 1, y, sizeof y);
    qn_built_check(&b, "y", y, QN_SIZES(.tokens = rows), tolerance);
  }
  quern_model_close(model);
  qn_built_deinit(&b);
}

START_TEST(mlp_of_floats) { try_mlp(NULL, WIDTH, HIDDEN, "int8", 2e-6); }
END_TEST
START_TEST(mlp_of_blocks) {
  try_mlp("q4_0", 64, HIDDEN, "f32", 2e-6);
  try_mlp("q8_0", 96, HIDDEN, "int8", 6e-2);  // activations of 8 bits
}
END_TEST

// The same bits from the JIT, a file and the cache, by one thread and two, all at once and row by row.
START_TEST(one_result) {
  qn_built b;
  quern_model *jit = NULL, *file = NULL;
  float want[QN_MLP_ROWS][WIDTH], got[QN_MLP_ROWS][WIDTH];
  const char *path = qn_test_temp_path("mlp.qn");
  qn_built_mlp(&b, NULL, WIDTH, HIDDEN);
  OK(quern_graph_jit(b.graph, QN_COMPILE(.threads = 1), &jit, error));
  ck_assert_str_eq(quern_model_path(jit), "gated mlp");
  ck_assert_str_eq(quern_model_name(jit), "gated mlp");
  run_mlp(jit, &b, QN_MLP_ROWS, 1, want[0], sizeof want);
  OK(quern_graph_compile(b.graph, path, QN_COMPILE(.threads = 1), error));
  OK(quern_model_open(path, NULL, &file, error));
  run_mlp(file, &b, QN_MLP_ROWS, 2, got[0], sizeof got);
  ck_assert_mem_eq(got, want, sizeof want);
  quern_runner *runner = start(file, QN_RUNNER(.threads = 2, .spin_us = -1));
  memset(got, 0, sizeof got);
  for (int row = 0; row < QN_MLP_ROWS; row++) {
    OK(quern_runner_bind_input(runner, "x", qn_built_find(&b, "x")->values + row * WIDTH, WIDTH * sizeof(float),
                               error));
    OK(quern_runner_bind_output(runner, "y", got[row], sizeof got[row], error));
    OK(quern_runner_run(runner, QN_SIZES(.tokens = 1), error));
  }
  ck_assert_mem_eq(got, want, sizeof want);
  // Without a copy: rows are padded.
  size_t row_bytes = 0;
  qn_built_bind(runner, &b, "x");
  OK(quern_runner_bind_output(runner, "y", NULL, 0, error));
  OK(quern_runner_run(runner, QN_SIZES(.tokens = QN_MLP_ROWS), error));
  const char *y = quern_runner_output(runner, "y", &row_bytes);
  ck_assert_uint_eq(row_bytes, 48 * sizeof(float));
  for (int row = 0; row < QN_MLP_ROWS; row++)
    ck_assert_mem_eq(y + (size_t)row * row_bytes, want[row], sizeof want[row]);
  ck_assert_ptr_null(quern_runner_output(runner, "z", &row_bytes));
  OK(quern_runner_run(runner, QN_SIZES(.tokens = 0), error));
  quern_runner_destroy(runner);
  quern_model_close(file);
  quern_model_close(jit);
  qn_built_deinit(&b);
}
END_TEST

// --- other ops, types and symbols

START_TEST(ops_of_all_kinds) {
  enum { TABLE = 11, R = 2, W = 12 };
  qn_built b;
  quern_model *model = NULL;
  quern_sizes sizes = {.tokens = 5, .rows = R};
  char type[64];
  float heads[R * W], mixed[R * 10];
  qn_built_init(&b, "ops",
                &(quern_graph_options){.size = sizeof(quern_graph_options), .most = {.tokens = 9, .rows = 4}});
  qn_built_tensor *ids = qn_built_integers(&b, "ids", 5), *rows = qn_built_integers(&b, "rows", R);
  for (int i = 0; i < 5; i++) ids->ids[i] = 2 * i;
  rows->ids[0] = 4, rows->ids[1] = 1;
  quern_value id = qn_built_input(&b, "ids", "i32[T]");
  quern_value row = qn_built_input(&b, "rows", "i32[R]");
  quern_value x = qn_built_apply(&b, "embed", qn_built_blocks(&b, "table", "f16", TABLE, W), id);
  x = qn_built_op(&b, "layernorm", OPERANDS(x, qn_built_vector(&b, "w", W), qn_built_vector(&b, "b", W)),
                  ATTRS({"eps", 1e-6, NULL}), NULL);
  x = qn_built_apply(&b, "gather_rows", x, row);
  OK(quern_graph_type(b.graph, x, type, sizeof type, error));
  ck_assert_str_eq(type, "f32[R,12]");
  quern_value h = qn_built_op(&b, "split_heads", OPERANDS(x), ATTRS({"heads", 3, NULL}), NULL);
  h = qn_built_apply(&b, "mul", qn_built_apply(&b, "gelu_tanh", h, 0), quern_graph_constant(b.graph, -1.5, NULL));
  OK(quern_graph_output(b.graph, "heads", h, error));
  quern_value left =
      qn_built_op(&b, "slice", OPERANDS(x), ATTRS({"axis", 1, NULL}, {"begin", 1, NULL}, {"end", 6, NULL}), NULL);
  quern_value right = qn_built_op(&b, "reshape", OPERANDS(x), NULL, 0, "f32[R,3,4]");
  right = qn_built_apply(&b, "softmax", right, 0);
  right = qn_built_op(&b, "reshape", OPERANDS(right), NULL, 0, "f32[R,12]");
  right =
      qn_built_op(&b, "slice", OPERANDS(right), ATTRS({"end", 12, NULL}, {"begin", 7, NULL}, {"axis", 1, NULL}), NULL);
  OK(quern_graph_output(b.graph, "mixed",
                        qn_built_op(&b, "concat", OPERANDS(left, right), ATTRS({"axis", 1, NULL}), NULL), error));
  OK(quern_graph_jit(b.graph, QN_COMPILE(.threads = 1), &model, error));
  quern_runner *runner = start(model, QN_RUNNER(.threads = 1));
  qn_built_bind(runner, &b, "ids");
  qn_built_bind(runner, &b, "rows");
  OK(quern_runner_bind_output(runner, "heads", heads, sizeof heads, error));
  OK(quern_runner_bind_output(runner, "mixed", mixed, sizeof mixed, error));
  OK(quern_runner_run(runner, &sizes, error));
  qn_built_check(&b, "heads", heads, &sizes, 1e-5);
  qn_built_check(&b, "mixed", mixed, &sizes, 1e-5);
  // What the program tells of itself.
  quern_tensor t;
  quern_sizes most;
  bool seen = false;
  quern_model_sizes_max(model, &most);
  ck_assert(most.tokens == 9 && most.rows == 4);
  for (size_t i = 0; quern_model_tensor(model, i, &t); i++) {
    if (strcmp(t.name, "heads") != 0) continue;
    seen = t.kind == QUERN_TENSOR_OUTPUT && t.rank == 3 && t.symbols[0] == 'R' && t.dims[0] == 1 && t.dims[1] == 3 &&
           t.dims[2] == 4 && t.symbols[2] == 0 && strcmp(t.dtype, "f32") == 0 && t.layer == 0;
  }
  ck_assert(seen);
  quern_runner_destroy(runner);
  quern_model_close(model);
  qn_built_deinit(&b);
}
END_TEST

// A mixture of experts: weights of three dimensions, and integers that the program makes itself.
START_TEST(experts) {
  enum { EXPERTS = 5, W = 16, N = 11, T = 6 };
  qn_built b;
  quern_model *model = NULL;
  float y[T * N];
  qn_built_init(&b, "experts", NULL);
  qn_built_values(&b, "x", T * W);
  qn_built_tensor *t = qn_built_values(&b, "w", EXPERTS * N * W);
  quern_value w =
      quern_graph_weight(b.graph, "w", "f32[5,11,16]", t->values, t->count * sizeof(float), QUERN_BORROW, NULL);
  quern_value x = qn_built_input(&b, "x", "f32[T,16]");
  quern_value p =
      qn_built_apply(&b, "softmax", qn_built_apply(&b, "matmul", x, qn_built_matrix(&b, "router", EXPERTS, W)), 0);
  quern_value ids = qn_built_op(&b, "top_k", OPERANDS(p), ATTRS({"k", 2, NULL}), NULL);
  quern_value each = qn_built_op(&b, "expert_matmul", OPERANDS(x, w, ids), NULL, 0, NULL);
  OK(quern_graph_output(b.graph, "y", qn_built_apply(&b, "expert_mix", each, qn_built_apply(&b, "pick", p, ids)),
                        error));
  OK(quern_graph_jit(b.graph, QN_COMPILE(.threads = 1), &model, error));
  for (int64_t rows = 1; rows <= T; rows += T - 1) {
    run_mlp(model, &b, rows, 1, y, sizeof y);
    qn_built_check(&b, "y", y, QN_SIZES(.tokens = rows), 1e-5);
  }
  quern_model_close(model);
  qn_built_deinit(&b);
}
END_TEST

// --- attention, whose caches the runner keeps

START_TEST(attention_with_caches) {
  qn_built b;
  quern_model *model = NULL;
  quern_runner *runner = NULL;
  quern_sizes sizes = {.tokens = QN_ATTENTION_TOKENS, .pages = 2, .sequences = 1, .pool_pages = 2};
  float all[QN_ATTENTION_TOKENS][QN_ATTENTION_QUERY], one[QN_ATTENTION_TOKENS][QN_ATTENTION_QUERY];
  quern_tensor t;
  size_t caches = 0;
  qn_built_attention(&b);
  OK(quern_graph_jit(b.graph, QN_COMPILE(.threads = 1), &model, error));
  for (size_t i = 0; quern_model_tensor(model, i, &t); i++)
    caches += t.kind == QUERN_TENSOR_CACHE && t.symbols[0] == 'G';
  ck_assert_uint_eq(caches, 2);
  FAILS(QUERN_ERR_ARGUMENT, "pool_pages: got 0, want 1 to 2", quern_runner_create(model, NULL, &runner, error));
  FAILS(QUERN_ERR_LIMIT, "pool_pages: got 3", quern_runner_create(model, QN_RUNNER(.pool_pages = 3), &runner, error));
  runner = start(model, QN_RUNNER(.threads = 1, .pool_pages = 2));
  for (size_t i = 0; i < b.count; i++) qn_built_bind(runner, &b, b.tensors[i].name);
  OK(quern_runner_bind_output(runner, "y", all, sizeof all, error));
  OK(quern_runner_run(runner, &sizes, error));
  qn_built_check(&b, "y", all[0], &sizes, 1e-5);
  quern_runner_destroy(runner);
  // Token by token, in a pool of one page, the same bits.
  runner = start(model, QN_RUNNER(.threads = 1, .pool_pages = 1));
  for (size_t i = 0; i < b.count; i++) qn_built_bind(runner, &b, b.tensors[i].name);
  for (int i = 0; i < QN_ATTENTION_TOKENS; i++) {
    OK(quern_runner_bind_input(runner, "q", b.tensors[0].values + i * QN_ATTENTION_QUERY,
                               QN_ATTENTION_QUERY * sizeof(float), error));
    OK(quern_runner_bind_input(runner, "k", b.tensors[1].values + i * QN_ATTENTION_KEY,
                               QN_ATTENTION_KEY * sizeof(float), error));
    OK(quern_runner_bind_input(runner, "v", b.tensors[2].values + i * QN_ATTENTION_KEY,
                               QN_ATTENTION_KEY * sizeof(float), error));
    OK(quern_runner_bind_input(runner, "pos", b.tensors[3].ids + i, sizeof(int32_t), error));
    OK(quern_runner_bind_output(runner, "y", one[i], sizeof one[i], error));
    OK(quern_runner_run(runner, QN_SIZES(.tokens = 1, .pages = 1, .sequences = 1, .pool_pages = 1), error));
  }
  ck_assert_mem_eq(one, all, sizeof all);
  FAILS(QUERN_ERR_LIMIT, "size G: got 2, want at most the runner's 1",
        quern_runner_run(runner, QN_SIZES(.tokens = 1, .pages = 1, .sequences = 1, .pool_pages = 2), error));
  quern_runner_destroy(runner);
  quern_model_close(model);
  qn_built_deinit(&b);
}
END_TEST

// --- a graph in JSON

START_TEST(a_graph_in_json) {
  const char *path = qn_test_temp_path("json.qn");
  quern_model *model = NULL;
  const float x[2][4] = {{3, 0, 0, 4}, {0, 0, 0, 2}};
  float y[2][2];
  OK(quern_compile(qn_test_source("frontend/examples/embed.json"), path, QN_COMPILE(.threads = 1), error));
  OK(quern_model_open(path, NULL, &model, error));
  quern_runner *runner = start(model, QN_RUNNER(.threads = 1));
  OK(quern_runner_bind_input(runner, "x", x, sizeof x, error));
  OK(quern_runner_bind_output(runner, "y", y, sizeof y, error));
  OK(quern_runner_run(runner, QN_SIZES(.tokens = 2), error));
  // Half of x over its root mean square, times 1 and -1.
  ck_assert_float_eq_tol(y[0][0], 0.6f, 1e-5f);
  ck_assert_float_eq_tol(y[0][1], -0.8f, 1e-5f);
  ck_assert_float_eq_tol(y[1][0], 0.0f, 1e-5f);
  ck_assert_float_eq_tol(y[1][1], -1.0f, 1e-5f);
  quern_runner_destroy(runner);
  quern_model_close(model);
}
END_TEST

// --- threads

typedef struct caller {
  const qn_built *built;
  quern_model *model;
  float y[QN_MLP_ROWS * WIDTH];
  pthread_t thread;
} caller;

static void *call_often(void *context) {
  caller *c = context;
  for (int i = 0; i < 20; i++) run_mlp(c->model, c->built, QN_MLP_ROWS, 1 + i % 2, c->y, sizeof c->y);
  return NULL;
}

START_TEST(threads_share_a_model) {
  qn_built b;
  quern_model *model = NULL;
  float want[QN_MLP_ROWS * WIDTH];
  caller callers[3];
  qn_built_mlp(&b, NULL, WIDTH, HIDDEN);
  OK(quern_graph_jit(b.graph, QN_COMPILE(.threads = 1), &model, error));
  run_mlp(model, &b, QN_MLP_ROWS, 1, want, sizeof want);
  for (size_t i = 0; i < 3; i++) {
    callers[i] = (caller){.built = &b, .model = model};
    ck_assert_int_eq(pthread_create(&callers[i].thread, NULL, call_often, &callers[i]), 0);
  }
  for (size_t i = 0; i < 3; i++) {
    pthread_join(callers[i].thread, NULL);
    ck_assert_mem_eq(callers[i].y, want, sizeof want);
  }
  quern_model_close(model);
  qn_built_deinit(&b);
}
END_TEST

// --- the cache

static bool count_calls(void *context, const char *stage, uint64_t done, uint64_t total) {
  (void)stage, (void)done, (void)total;
  ++*(int *)context;
  return true;
}

// Loads through the cache; whether it was compiled for that.
static bool load(const qn_built *b, const char *numeric_mode, float *y, size_t bytes) {
  int calls = 0;
  quern_model *model = NULL;
  OK(quern_graph_load(
      b->graph,
      QN_COMPILE(.threads = 1, .numeric_mode = numeric_mode, .progress = count_calls, .progress_context = &calls), NULL,
      &model, error));
  run_mlp(model, b, QN_MLP_ROWS, 1, y, bytes);
  quern_model_close(model);
  return calls > 0;
}

START_TEST(from_the_cache) {
  qn_built b;
  float first[QN_MLP_ROWS * WIDTH], again[QN_MLP_ROWS * WIDTH];
  quern_cache_listing listing = {.size = sizeof listing};
  ck_assert_int_eq(setenv("XDG_CACHE_HOME", qn_test_temp_path("graphs"), 1), 0);
  qn_built_mlp(&b, NULL, WIDTH, HIDDEN);
  ck_assert(load(&b, NULL, first, sizeof first));
  ck_assert(!load(&b, NULL, again, sizeof again));
  ck_assert_mem_eq(again, first, sizeof first);
  ck_assert(load(&b, "f32", again, sizeof again));  // other options
  // The same graph with another value of a borrowed weight.
  float *down = qn_built_find(&b, "down")->values;
  down[7] += 1;
  ck_assert(load(&b, NULL, again, sizeof again));
  ck_assert(memcmp(again, first, sizeof first) != 0);
  qn_built_check(&b, "y", again, QN_SIZES(.tokens = QN_MLP_ROWS), 2e-6);
  down[7] -= 1;
  // Another graph of the same weights.
  OK(quern_cache_list(&listing, error));
  ck_assert_uint_eq(listing.count, 3);
  ck_assert_str_eq(listing.entries[0].model, "gated mlp");
  quern_cache_listing_free(&listing);
  OK(quern_graph_output(b.graph, "n", 3, error));
  ck_assert(load(&b, NULL, again, sizeof again));
  qn_built_deinit(&b);
}
END_TEST

// --- a language model

START_TEST(a_language_model_has_sessions) {
  enum { VOCABULARY = 19, W = 24 };
  qn_built b;
  quern_model *model = NULL;
  quern_session *session = NULL;
  const int32_t tokens[] = {3, 18, 7};
  const float *logits = NULL;
  float want[VOCABULARY];
  quern_graph_options options = {.size = sizeof options, .most = {.tokens = 4, .rows = 2}};
  qn_built_init(&b, "tiny model", &options);
  memcpy(qn_built_integers(&b, "tokens", 3)->ids, tokens, sizeof tokens);
  qn_built_integers(&b, "rows", 1)->ids[0] = 2;
  quern_value ids = qn_built_input(&b, "tokens", "i32[T]"), rows = qn_built_input(&b, "rows", "i32[R]");
  quern_value table = qn_built_matrix(&b, "table", VOCABULARY, W);
  quern_value x = qn_built_apply(&b, "embed", table, ids);
  x = qn_built_apply(&b, "tanh", qn_built_apply(&b, "gather_rows", x, rows), 0);
  OK(quern_graph_output(b.graph, "logits", qn_built_apply(&b, "matmul", x, table), error));
  OK(quern_graph_jit(b.graph, QN_COMPILE(.threads = 1), &model, error));
  ck_assert_int_eq(quern_model_vocab_size(model), VOCABULARY);
  quern_session_options how = {.size = sizeof how, .threads = 1, .no_pin = true};
  OK(quern_session_create(model, &how, &session, error));
  OK(quern_session_eval(session, 0, tokens, 3, &logits, error));
  qn_built_check(&b, "logits", logits, QN_SIZES(.tokens = 3, .rows = 1), 1e-5);
  memcpy(want, logits, sizeof want);
  quern_session_destroy(session);
  quern_model_close(model);
  qn_built_deinit(&b);
}
END_TEST

// --- how long it takes

static double now_ms(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

// Milliseconds from a graph to the first result: one product, one kernel.
typedef struct taken {
  double wall, cpu;
} taken;

static taken time_one(bool cached) {
  enum { SIZE = 64 };
  qn_built b;
  quern_model *model = NULL;
  float y[SIZE];
  qn_built_init(&b, "one product", NULL);
  qn_built_values(&b, "x", SIZE);
  quern_value weight = qn_built_matrix(&b, "w", SIZE, SIZE), x = qn_built_input(&b, "x", "f32[T,64]");
  OK(quern_graph_output(b.graph, "y", qn_built_apply(&b, "matmul", x, weight), error));
  taken ms = {now_ms(CLOCK_MONOTONIC), now_ms(CLOCK_PROCESS_CPUTIME_ID)};
  const quern_compile_options *how = QN_COMPILE(.threads = 1);
  if (cached) {
    OK(quern_graph_load(b.graph, how, NULL, &model, error));
  } else {
    OK(quern_graph_jit(b.graph, how, &model, error));
  }
  run_mlp(model, &b, 1, 1, y, sizeof y);
  ms.wall = now_ms(CLOCK_MONOTONIC) - ms.wall;
  ms.cpu = now_ms(CLOCK_PROCESS_CPUTIME_ID) - ms.cpu;
  qn_built_check(&b, "y", y, QN_SIZES(.tokens = 1), 2e-6);
  quern_model_close(model);
  qn_built_deinit(&b);
  return ms;
}

static int ascending(const void *a, const void *b) {
  double x = ((const taken *)a)->cpu, y = ((const taken *)b)->cpu;
  return (x > y) - (x < y);
}

static void show(const char *what, taken *times, int count) {
  double wall[16];
  qsort(times, (size_t)count, sizeof *times, ascending);
  for (int i = 0; i < count; i++) wall[i] = times[i].wall;
  for (int i = 1; i < count; i++)
    for (int j = i; j > 0 && wall[j] < wall[j - 1]; j--) {
      double swap = wall[j];
      wall[j] = wall[j - 1];
      wall[j - 1] = swap;
    }
  printf("%s: median %.2f ms on the wall (%.2f to %.2f), %.2f ms of CPU time (%.2f to %.2f)\n", what, wall[count / 2],
         wall[0], wall[count - 1], times[count / 2].cpu, times[0].cpu, times[count - 1].cpu);
}

// The same as the first thing that a process does: it loads LLVM, or looks at the machine.
static taken time_first(bool cached) {
  taken *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int status = -1;
  ck_assert(shared != MAP_FAILED);
  pid_t child = fork();
  if (child == 0) {
    *shared = time_one(cached);
    _exit(0);
  }
  ck_assert(child > 0 && waitpid(child, &status, 0) == child && status == 0);
  taken result = *shared;
  munmap(shared, sizeof *shared);
  return result;
}

START_TEST(time_to_a_result) {
  enum { TIMES = 11 };
  taken jit[TIMES], cache[TIMES], first_jit[TIMES], first_cache[TIMES];
  bool wanted = getenv("QUERN_TEST_SHOW") != NULL;
  int times = wanted ? TIMES : 1;
  ck_assert_int_eq(setenv("XDG_CACHE_HOME", qn_test_temp_path("timed"), 1), 0);
  (void)time_first(true);  // compiles it into the cache
  for (int i = 0; i < times; i++) {
    first_cache[i] = time_first(true);
    if (wanted) first_jit[i] = time_first(false);
  }
  for (int i = 0; i < times; i++) {
    jit[i] = time_one(false);
    cache[i] = time_one(true);
  }
  if (!wanted) return;
  printf("one kernel, from its graph to its first result\n");
  show("  JIT, the first in a process", first_jit, times);
  show("  JIT, later", jit, times);
  show("  from the cache, the first in a process", first_cache, times);
  show("  from the cache, later", cache, times);
}
END_TEST

QN_CASE(results, mlp_of_floats, mlp_of_blocks, one_result, ops_of_all_kinds, experts, attention_with_caches)
QN_CASE(uses, a_graph_in_json, threads_share_a_model, from_the_cache, a_language_model_has_sessions, time_to_a_result)
QN_TEST_MAIN(results, uses)
