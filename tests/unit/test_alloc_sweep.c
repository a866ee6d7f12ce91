// The n-th allocation fails, over compiling, opening, running, tuning and describing the nano model: each time the end is
// success or a clean error, and nothing stays allocated. The suite takes some n, QUERN_TEST_ALL=1 all of them.
// It is linked so that the default allocator of all rooms is the one below.
#include <stdatomic.h>
#include <stdlib.h>

#include "frontend/quern.h"
#include "runtime/base/alloc.h"
#include "tests/support/test.h"

// The allocation `fail_at` fails, and with `all_later` those after it.
static struct {
  atomic_size_t count, live;
  size_t fail_at;
  bool all_later;
} heap;

static void *reallocate(void *context, void *pointer, size_t old_size, size_t new_size) {
  (void)context;
  if (new_size == 0) {
    atomic_fetch_sub(&heap.live, 1);
    free(pointer);
    return NULL;
  }
  if (!pointer || new_size > old_size) {
    size_t number = atomic_fetch_add(&heap.count, 1) + 1;
    if (heap.fail_at > 0 && (number == heap.fail_at || (heap.all_later && number > heap.fail_at))) return NULL;
  }
  void *fresh = realloc(pointer, new_size);
  if (fresh && !pointer) atomic_fetch_add(&heap.live, 1);
  return fresh;
}

const qn_allocator *__wrap_qn_allocator_default(void);
const qn_allocator *__wrap_qn_allocator_default(void) {
  static const qn_allocator allocator = {NULL, reallocate};
  return &allocator;
}

// --- what is done

static const char *nano_path(void) { return qn_test_source("models/nano/nano.gguf"); }

static int compile(quern_error *error) {
  quern_compile_options options = {.size = sizeof options, .tuning_db = "none", .context_tokens = 64, .chunk_tokens = 4};
  return quern_compile(nano_path(), qn_test_temp_path("nano.qn"), &options, error);
}

static int use(quern_model *model, quern_error *error) {
  quern_session *session = NULL;
  const float *logits;
  int code = (int)quern_session_create(model, NULL, &session, error);
  const int32_t tokens[] = {1, 2, 3};
  quern_generate_params params = {.size = sizeof params, .prompt = tokens, .prompt_count = 3, .max_tokens = 4};
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

static int run(quern_error *error) {
  quern_model *model = NULL;
  int code = (int)quern_model_open(qn_test_temp_path("nano.qn"), NULL, &model, error);
  if (code == 0) code = use(model, error);
  quern_model_close(model);
  return code;
}

static int jit(quern_error *error) {
  quern_compile_options options = {.size = sizeof options, .tuning_db = "none", .context_tokens = 64, .chunk_tokens = 4};
  quern_model *model = NULL;
  int code = quern_jit(nano_path(), &options, &model, error);
  if (code == 0) code = use(model, error);
  quern_model_close(model);
  return code;
}

static int tune(quern_error *error) {
  quern_compile_options how = {.size = sizeof how, .context_tokens = 64, .chunk_tokens = 4};
  quern_tune_options options = {.size = sizeof options, .compile = &how, .tuning_db = qn_test_temp_path("tuning.db")};
  quern_tune_report report = {0};
  int code = quern_tune(nano_path(), &options, &report, error);
  quern_tune_report_free(&report);
  return code;
}

static int describe(quern_error *error) {
  char *text = NULL;
  int code = quern_inspect(nano_path(), "all", &text, error);
  free(text);
  text = NULL;
  if (code == 0) code = quern_inspect(qn_test_temp_path("nano.qn"), "all", &text, error);
  free(text);
  return code;
}

// --- the sweep

static void once(int (*action)(quern_error *error), size_t fail_at, bool all_later) {
  quern_error error = {0};
  size_t before = atomic_load(&heap.live);
  atomic_store(&heap.count, 0);
  heap.fail_at = fail_at;
  heap.all_later = all_later;
  int code = action(&error);
  heap.fail_at = 0;
  ck_assert_msg(code == 0 || (code == QUERN_ERR_NOMEM && error.text[0]), "allocation %zu%s: got %d: %s", fail_at,
                all_later ? " and all later" : "", code, error.text);
  ck_assert_msg(atomic_load(&heap.live) == before, "allocation %zu%s: %zu blocks are left", fail_at,
                all_later ? " and all later" : "", atomic_load(&heap.live) - before);
}

// `plain` and `sanitized`: how many n the suite takes.
static void sweep(int (*action)(quern_error *error), size_t plain, size_t sanitized) {
  quern_error error = {0};
  ck_assert_msg(action(&error) == 0, "%s", error.text);  // what is made once a process is made
  once(action, 0, false);
  size_t count = atomic_load(&heap.count), runs = qn_test_stride(plain, sanitized);
  ck_assert_uint_gt(count, 0);
  if (runs == 1) runs = count;  // all are wanted
  for (size_t i = 0; i < runs; i++) {
    size_t n = 1 + i * count / runs + (runs < count ? i * 7 % (count / runs) : 0);
    once(action, n, i % 2 == 0);
    if (runs == count) once(action, n, i % 2 != 0);
  }
}

START_TEST(compiling) { sweep(compile, 8, 4); }
END_TEST
START_TEST(running) {
  quern_error error = {0};
  ck_assert_msg(compile(&error) == 0, "%s", error.text);
  sweep(run, 400, 200);
}
END_TEST
START_TEST(jitting) { sweep(jit, 5, 3); }
END_TEST
START_TEST(tuning) { sweep(tune, 20, 8); }
END_TEST
START_TEST(describing) {
  quern_error error = {0};
  ck_assert_msg(compile(&error) == 0, "%s", error.text);
  sweep(describe, 40, 20);
}
END_TEST

static TCase *sweeps(void) {
  const TTest *const tests[] = {compiling, running, jitting, tuning, describing};
  TCase *tcase = qn_test_case("sweeps", tests, sizeof tests / sizeof tests[0]);
  if (qn_test_stride(2, 2) == 1) tcase_set_timeout(tcase, 24 * 3600);
  return tcase;
}

QN_TEST_MAIN(sweeps)
