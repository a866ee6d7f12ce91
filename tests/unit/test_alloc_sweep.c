// Allocations fail, over compiling, opening, running, serving, tuning and describing the nano model, and over a graph that
// is built in code: each time the end is success or a clean error, and nothing stays allocated (tests/support/sweep.h says
// which, and how).
// It is linked so that the default allocator of all rooms is the one that fails, and so that it sees what a process must
// not have in common with one that it forks.
#include <stdatomic.h>
#include <stdlib.h>

#include "autotune/child.h"
#include "frontend/quern.h"
#include "runtime/base/file.h"
#include "tests/support/sweep.h"
#include "tests/support/test.h"

// Freed blocks are kept from use for a while, which is memory that each fork copies.
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "quarantine_size_mb=4"; }

const qn_allocator *__wrap_qn_allocator_default(void);
const qn_allocator *__wrap_qn_allocator_default(void) { return qn_sweep_allocator(); }

qn_status __real_qn_file_writer_open(qn_file_writer *writer, const char *path, qn_diag *diag);
qn_status __wrap_qn_file_writer_open(qn_file_writer *writer, const char *path, qn_diag *diag);
qn_status __wrap_qn_file_writer_open(qn_file_writer *writer, const char *path, qn_diag *diag) {
  QN_TRY(__real_qn_file_writer_open(writer, path, diag));
  qn_sweep_shares(true);
  return QN_OK;
}

void __real_qn_file_writer_abandon(qn_file_writer *writer);
void __wrap_qn_file_writer_abandon(qn_file_writer *writer);
void __wrap_qn_file_writer_abandon(qn_file_writer *writer) {
  __real_qn_file_writer_abandon(writer);
  qn_sweep_shares(false);
}

qn_status __real_qn_child_start(size_t shared_size, qn_child_serve serve, qn_child_locate locate, void *context,
                                qn_child *out, qn_diag *diag);
qn_status __wrap_qn_child_start(size_t shared_size, qn_child_serve serve, qn_child_locate locate, void *context,
                                qn_child *out, qn_diag *diag);
qn_status __wrap_qn_child_start(size_t shared_size, qn_child_serve serve, qn_child_locate locate, void *context,
                                qn_child *out, qn_diag *diag) {
  QN_TRY(__real_qn_child_start(shared_size, serve, locate, context, out, diag));
  qn_sweep_shares(true);
  return QN_OK;
}

void __real_qn_child_stop(qn_child *child);
void __wrap_qn_child_stop(qn_child *child);
void __wrap_qn_child_stop(qn_child *child) {
  bool had_one = child->pid > 0;
  __real_qn_child_stop(child);
  if (had_one) qn_sweep_shares(false);
}

// --- what is done

static const char *nano_path(void) { return qn_test_source("models/nano/nano.gguf"); }

// Named once a test: a forked process has a folder of its own for what it names itself.
static char artifact_path[512], database_path[512], prefix_path[512];

static void name_files(void) {
  snprintf(artifact_path, sizeof artifact_path, "%s", qn_test_temp_path("nano.qn"));
  snprintf(database_path, sizeof database_path, "%s", qn_test_temp_path("tuning.db"));
  snprintf(prefix_path, sizeof prefix_path, "%s", qn_test_temp_path("kept"));
}

// One thread: a forked process has none but the one that forked it.
static quern_compile_options options_of(int threads) {
  return (quern_compile_options){.size = sizeof(quern_compile_options),
                                 .tuning_db = "none",
                                 .context_tokens = 64,
                                 .chunk_tokens = 4,
                                 .sequences = 2,
                                 .kv_evict = "keyformer",
                                 .threads = threads};
}

static int tell(int code, const quern_error *error, char *text, size_t size) {
  snprintf(text, size, "%s", error->text);
  return code;
}

static int compile_with(int threads, char *text, size_t size) {
  quern_error error = {0};
  quern_compile_options options = options_of(threads);
  return tell(quern_compile(nano_path(), artifact_path, &options, &error), &error, text, size);
}

static int compile(void *context, char *text, size_t size) {
  (void)context;
  return compile_with(1, text, size);
}

static int compile_by_threads(void *context, char *text, size_t size) {
  (void)context;
  return compile_with(2, text, size);
}

static int use(quern_model *model, int threads, quern_error *error) {
  quern_session *session = NULL;
  const float *logits;
  quern_session_options options = {.size = sizeof options, .threads = threads, .kv_evict = "keyformer", .kv_keep = 8};
  int code = (int)quern_session_create(model, &options, &session, error);
  const int32_t tokens[] = {1, 2, 3};
  quern_generate_params params = {.size = sizeof params, .prompt = tokens, .prompt_count = 3, .max_tokens = 8};
  if (code == 0) code = (int)quern_session_eval(session, 0, tokens, 3, &logits, error);
  if (code == 0) code = (int)quern_session_truncate(session, 0, 0, error);
  if (code == 0) code = (int)quern_generate(session, &params, NULL, error);
  int32_t many[64];
  size_t count = 0;
  if (code == 0) code = (int)quern_tokenize(model, "copy: k q d =", 13, 0, many, 64, &count, error);
  char text[256];
  if (code == 0) code = (int)quern_detokenize(model, many, count, 0, text, sizeof text, &count, error);
  quern_session_destroy(session);
  return code;
}

static int run(void *context, char *text, size_t size) {
  const int *threads = context;
  quern_model *model = NULL;
  quern_error error = {0};
  int code = (int)quern_model_open(artifact_path, NULL, &model, &error);
  if (code == 0) code = use(model, *threads, &error);
  quern_model_close(model);
  return tell(code, &error, text, size);
}

// --- requests

typedef struct ended {
  int count, code;
  char text[256];
} ended;

static void end_request(void *context, uint64_t id, const quern_request_result *result) {
  ended *e = context;
  (void)id;
  e->count++;
  if (e->code != 0 || result->status == QUERN_OK) return;
  e->code = (int)result->status;
  snprintf(e->text, sizeof e->text, "%s", result->error);
}

// Two that begin alike, with guesses, and what they leave in the cache of prefixes to a file and back.
static int serve_with(quern_model *model, ended *e, quern_error *error) {
  quern_scheduler *scheduler = NULL;
  quern_session_options session = {.size = sizeof session, .threads = 1, .sequences = 2, .prefix_cache = true};
  quern_scheduler_options options = {.size = sizeof options, .session = &session};
  quern_speculator_options lookup = {.size = sizeof lookup, .technique = QUERN_SPECULATE_LOOKUP};
  quern_request request = {.size = sizeof request,
                           .text = "copy: k q d =",
                           .text_length = 13,
                           .max_tokens = 4,
                           .speculator = &lookup,
                           .done = end_request,
                           .callback_context = e};
  size_t left = 0;
  int64_t idle_us, pages;
  int code = (int)quern_scheduler_create(model, &options, &scheduler, error);
  for (int i = 0; i < 2 && code == 0; i++) code = (int)quern_scheduler_add(scheduler, &request, NULL, error);
  do {
    if (code == 0) code = (int)quern_scheduler_step(scheduler, &left, &idle_us, error);
  } while (code == 0 && left > 0);
  if (code == 0) code = (int)quern_scheduler_check(scheduler, error);
  quern_session *held = scheduler ? quern_scheduler_session(scheduler) : NULL;
  if (code == 0) code = (int)quern_session_save_prefixes(held, prefix_path, error);
  if (code == 0) code = (int)quern_session_load_prefixes(held, prefix_path, &pages, error);
  quern_scheduler_destroy(scheduler);
  return code;
}

static int serve(void *context, char *text, size_t size) {
  quern_model *model = NULL;
  quern_error error = {0};
  ended e = {0};
  (void)context;
  int code = (int)quern_model_open(artifact_path, NULL, &model, &error);
  if (code == 0) code = serve_with(model, &e, &error);
  quern_model_close(model);
  if (code != 0 || e.code == 0) return tell(code, &error, text, size);
  snprintf(text, size, "%s", e.text);
  return e.code;
}

// --- a graph built in code

enum { ROWS = 3, WIDTH = 8 };

static int run_built(quern_model *model, quern_error *error) {
  float x[ROWS * WIDTH] = {1}, y[ROWS * WIDTH];
  quern_runner *runner = NULL;
  quern_runner_options options = {.size = sizeof options, .threads = 1};
  quern_sizes sizes = {.tokens = ROWS};
  int code = (int)quern_runner_create(model, &options, &runner, error);
  if (code == 0) code = (int)quern_runner_bind_input(runner, "x", x, sizeof x, error);
  if (code == 0) code = (int)quern_runner_bind_output(runner, "y", y, sizeof y, error);
  if (code == 0) code = (int)quern_runner_run(runner, &sizes, error);
  quern_runner_destroy(runner);
  return code;
}

static int build(void *context, char *text, size_t size) {
  static const float ones[WIDTH] = {1, 1, 1, 1, 1, 1, 1, 1}, matrix[WIDTH * WIDTH] = {1};
  quern_graph *graph = NULL;
  quern_model *model = NULL;
  quern_error error = {0};
  quern_compile_options options = {.size = sizeof options, .tuning_db = "none", .threads = 1};
  (void)context;
  int code = quern_graph_create("built", NULL, &graph, &error);
  if (code != 0) return tell(code, &error, text, size);
  quern_value x = quern_graph_input(graph, "x", "f32[T,8]", &error);
  quern_value w = quern_graph_weight(graph, "w", "f32[8]", ones, sizeof ones, QUERN_COPY, &error);
  quern_value m = quern_graph_weight(graph, "m", "f32[8,8]", matrix, sizeof matrix, QUERN_BORROW, &error);
  const quern_value operands[] = {x, w};
  const quern_attr eps = {.name = "eps", .number = 1e-5};
  quern_value n = quern_graph_op(graph,
                                 &(quern_op){.size = sizeof(quern_op),
                                             .name = "rmsnorm",
                                             .operands = operands,
                                             .operand_count = 2,
                                             .attrs = &eps,
                                             .attr_count = 1,
                                             .label = "norm"},
                                 &error);
  code = quern_graph_output(graph, "y", quern_graph_apply(graph, "matmul", n, m, &error), &error);
  if (code == 0) code = quern_graph_jit(graph, &options, &model, &error);
  if (code == 0) code = run_built(model, &error);
  quern_model_close(model);
  quern_graph_destroy(graph);
  return tell(code, &error, text, size);
}

static int jit(void *context, char *text, size_t size) {
  quern_compile_options options = options_of(1);
  quern_model *model = NULL;
  quern_error error = {0};
  (void)context;
  int code = quern_jit(nano_path(), &options, &model, &error);
  if (code == 0) code = use(model, 1, &error);
  quern_model_close(model);
  return tell(code, &error, text, size);
}

// What a session does around its trials, which are test_session_faults.c's.
static int tune(void *context, char *text, size_t size) {
  quern_compile_options how = options_of(1);
  quern_tune_options options = {
      .size = sizeof options, .compile = &how, .tuning_db = database_path, .threads = 1};
  quern_tune_report report = {.size = sizeof report};
  quern_error error = {0};
  (void)context;
  int code = quern_tune(nano_path(), &options, &report, &error);
  quern_tune_report_free(&report);
  return tell(code, &error, text, size);
}

// One with trials, in a process of its own that is not forked from: of a graph that is tuned in no time.
static int tune_for_a_while(void *context, char *text, size_t size) {
  quern_tune_options options = {.size = sizeof options, .budget_s = 0.3, .tuning_db = "none", .threads = 1};
  quern_tune_report report = {.size = sizeof report};
  quern_error error = {0};
  int code = quern_tune(context, &options, &report, &error);
  quern_tune_report_free(&report);
  return tell(code, &error, text, size);
}

static int describe(void *context, char *text, size_t size) {
  char *description = NULL;
  quern_error error = {0};
  (void)context;
  int code = quern_inspect(nano_path(), "all", &description, &error);
  free(description);
  description = NULL;
  if (code == 0) code = quern_inspect(artifact_path, "all", &description, &error);
  free(description);
  return tell(code, &error, text, size);
}

// --- the host's own allocator

static atomic_size_t host_blocks, host_calls;

static void *host_reallocate(void *context, void *pointer, size_t old_size, size_t new_size) {
  (void)context, (void)old_size;
  atomic_fetch_add(&host_calls, 1);
  if (new_size == 0) {
    atomic_fetch_sub(&host_blocks, 1);
    free(pointer);
    return NULL;
  }
  void *fresh = realloc(pointer, new_size);
  if (fresh && !pointer) atomic_fetch_add(&host_blocks, 1);
  return fresh;
}

// Nothing that takes an allocator goes past it.
START_TEST(the_hosts_allocator_is_asked) {
  const quern_allocator host = {NULL, host_reallocate};
  quern_compile_options compile_options = options_of(2);
  quern_model_options model_options = {.size = sizeof model_options, .allocator = &host};
  quern_model *model;
  quern_error error = {0};
  const char *path = qn_test_temp_path("hosts.qn");
  compile_options.allocator = &host;
  size_t before = qn_sweep_count();
  ck_assert_msg(quern_compile(nano_path(), path, &compile_options, &error) == 0, "%s", error.text);
  ck_assert_uint_eq(qn_sweep_count() - before, 0);
  ck_assert_msg(quern_model_open(path, &model_options, &model, &error) == QUERN_OK, "%s", error.text);
  ck_assert_msg(use(model, 2, &error) == 0, "%s", error.text);
  quern_model_close(model);
  ck_assert_uint_eq(qn_sweep_count() - before, 0);
  ck_assert_msg(quern_jit(nano_path(), &compile_options, &model, &error) == 0, "%s", error.text);
  ck_assert_msg(use(model, 2, &error) == 0, "%s", error.text);
  quern_model_close(model);
  ck_assert_uint_eq(qn_sweep_count() - before, 0);
  ck_assert_uint_gt(atomic_load(&host_calls), 0);
  ck_assert_uint_eq(atomic_load(&host_blocks), 0);
}
END_TEST

// --- the sweeps

static void make_artifact(void) {
  char text[512] = "";
  name_files();
  ck_assert_msg(compile(NULL, text, sizeof text) == 0, "%s", text);
}

START_TEST(compiling) {
  name_files();
  qn_sweep("compiling", compile, NULL, &(qn_sweep_options){.most = (int)qn_test_stride(400, 100)});
  qn_sweep("compiling by two threads", compile_by_threads, NULL, &(qn_sweep_options){.most = 10, .again = 1});
}
END_TEST
START_TEST(running) {
  int one = 1, two = 2;
  make_artifact();
  qn_sweep("running", run, &one, NULL);
  qn_sweep("running by two threads", run, &two, &(qn_sweep_options){.most = 20, .again = 20});
}
END_TEST
START_TEST(serving) {
  make_artifact();
  qn_sweep("serving", serve, NULL, &(qn_sweep_options){.most = (int)qn_test_stride(400, 100)});
}
END_TEST
START_TEST(jitting) { qn_sweep("jitting", jit, NULL, &(qn_sweep_options){.most = (int)qn_test_stride(200, 50)}); }
END_TEST
START_TEST(building) { qn_sweep("building", build, NULL, &(qn_sweep_options){.most = (int)qn_test_stride(200, 50)}); }
END_TEST
START_TEST(tuning) {
  static const char graph[] =
      "{\"quern_graph\": 1, \"name\": \"small\", \"inputs\": {\"x\": {\"shape\": [\"T\", 8]}},"
      " \"weights\": {\"w\": {\"shape\": [8], \"data\": [1, 2, 3, 4, 5, 6, 7, 8]}},"
      " \"graph\": [{\"set\": \"y\", \"op\": \"rmsnorm\", \"args\": [\"x\", \"w\"], \"attrs\": {\"eps\": 1e-5}},"
      " {\"output\": \"y\", \"value\": \"y\"}]}";
  char *path = strdup(qn_test_temp_path("small.json"));
  name_files();
  qn_test_write_file(path, graph, sizeof graph - 1);
  qn_sweep("tuning", tune, NULL, &(qn_sweep_options){.most = (int)qn_test_stride(200, 50)});
  qn_sweep("tuning for a while", tune_for_a_while, path, &(qn_sweep_options){.most = 20, .again = 4});
  free(path);
}
END_TEST
START_TEST(describing) {
  make_artifact();
  qn_sweep("describing", describe, NULL, &(qn_sweep_options){.most = (int)qn_test_stride(400, 100)});
}
END_TEST

static TCase *sweeps(void) {
  const TTest *const tests[] = {compiling, running,    serving,
                                jitting,   building,   tuning,
                                describing, the_hosts_allocator_is_asked};
  TCase *tcase = qn_test_case("sweeps", tests, sizeof tests / sizeof tests[0]);
  if (qn_test_stride(2, 2) == 1) tcase_set_timeout(tcase, 24 * 3600);
  return tcase;
}

QN_TEST_MAIN(sweeps)
