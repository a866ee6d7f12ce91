// The public interface of the scheduler, on the hand-made model: texts as quern_generate gives them, results, statistics,
// and what is refused with which words.
#include <stdio.h>

#include "runtime/model.h"
#include "tests/support/fake_model.h"
#include "tests/support/public.h"

static quern_model *open_model(bool tokenizer) {
  quern_model *model = NULL;
  qn_buf file;
  qn_diag diag = {0};
  qn_fake_options options = {.tokenizer = tokenizer, .max_p = 8, .max_b = 3};
  qn_model_jit jit = {.entries = qn_fake_kernels, .entry_count = QN_FAKE_KERNELS, .target = "by hand"};
  qn_fake_model_build(&options, NULL, &file);
  qn_assert_ok(&diag, qn_model_open_mapping(qn_test_artifact_map(file.data, file.length), "fake.qn", &jit,
                                            qn_allocator_default(), &model, &diag));
  qn_buf_deinit(&file);
  return model;
}

typedef struct told {
  char text[400], error[200];
  quern_request_result result;
  int ends;
} told;

static bool note(void *context, const char *text, size_t length, int32_t token) {
  told *t = context;
  size_t used = strlen(t->text);
  (void)token;
  snprintf(t->text + used, sizeof t->text - used, "%.*s", (int)length, text);
  return true;
}

static void note_end(void *context, uint64_t id, const quern_request_result *result) {
  told *t = context;
  ck_assert_uint_gt(id, 0);
  t->result = *result;
  snprintf(t->error, sizeof t->error, "%s", result->error);
  t->ends++;
}

static const quern_session_options session = {.size = sizeof session, .threads = 2, .no_pin = true, .sequences = 3};
#define OPTIONS(...) &(quern_scheduler_options){.size = sizeof(quern_scheduler_options), __VA_ARGS__}

static quern_request text_request(const char *text, told *t) {
  *t = (told){.ends = 0};
  return (quern_request){.size = sizeof(quern_request),
                         .text = text,
                         .text_length = strlen(text),
                         .text_flags = QUERN_TOKENIZE_ADD_SPECIAL,
                         .max_tokens = 12,
                         .callback = note,
                         .done = note_end,
                         .callback_context = t};
}

static void step_to_end(quern_scheduler *scheduler) {
  size_t left = 1;
  int64_t idle;
  while (left > 0) OK(quern_scheduler_step(scheduler, &left, &idle, error));
  OK(quern_scheduler_step(scheduler, &left, &idle, error));
  ck_assert(left == 0 && idle == INT64_MAX);
  OK(quern_scheduler_check(scheduler, error));
}

// By quern_generate.
static void generate_alone(quern_model *model, const char *text, told *w, quern_stats *want, size_t *count) {
  quern_session *alone = NULL;
  int32_t prompt[16];
  *w = (told){.ends = 0};
  OK(quern_session_create(model, NULL, &alone, error));
  OK(quern_tokenize(model, text, strlen(text), QUERN_TOKENIZE_ADD_SPECIAL, prompt, 16, count, error));
  quern_generate_params params = {.size = sizeof params,
                                  .prompt = prompt,
                                  .prompt_count = *count,
                                  .max_tokens = 12,
                                  .callback = note,
                                  .callback_context = w};
  OK(quern_generate(alone, &params, want, error));
  quern_session_destroy(alone);
}

START_TEST(texts_of_many) {
  static const char *const texts[] = {"one", "two one", "x", "one two one two", "ab"};
  enum { COUNT = sizeof texts / sizeof *texts };
  quern_model *model = open_model(true);
  quern_scheduler *scheduler = NULL;
  quern_scheduler_stats stats = {.size = sizeof stats};
  told t[COUNT];
  uint64_t id;
  OK(quern_scheduler_create(model, OPTIONS(.session = &session, .preemption = QUERN_PREEMPT_SWAP, .longest_wait_us = 1000), &scheduler, error));
  quern_session_info info = {.size = sizeof info};
  quern_session_get_info(quern_scheduler_session(scheduler), &info, NULL);
  ck_assert(info.sequences == 3 && info.threads == 2 && info.context == 8 * QN_FAKE_PAGE_KEYS);
  for (int i = 0; i < COUNT; i++) {
    quern_request request = text_request(texts[i], &t[i]);
    OK(quern_scheduler_add(scheduler, &request, &id, error));
    ck_assert_uint_eq(id, (uint64_t)i + 1);
  }
  ck_assert(quern_scheduler_wait(scheduler, 0));
  step_to_end(scheduler);
  quern_scheduler_get_stats(scheduler, &stats, NULL);
  ck_assert(stats.added == COUNT && stats.finished == COUNT && stats.most_running == 3 && stats.free_pages == stats.pages);
  ck_assert(stats.slots > stats.slots_unused && stats.generated_tokens > 0 && stats.prompt_tokens > 0);
  FAILS(QUERN_ERR_ARGUMENT, "quern_scheduler_stats: got size 0",
        quern_scheduler_get_stats(scheduler, &(quern_scheduler_stats){0}, error));
  for (int i = 0; i < COUNT; i++) {
    quern_stats want = {.size = sizeof want};
    told w;
    size_t count;
    generate_alone(model, texts[i], &w, &want, &count);
    ck_assert_str_eq(t[i].text, w.text);
    const quern_request_result *got = &t[i].result;
    ck_assert(t[i].ends == 1 && got->status == QUERN_OK && got->reason == want.reason);
    ck_assert(got->generated_tokens == want.generated_tokens && got->prompt_tokens == (int64_t)count);
    ck_assert(got->passes == got->generated_tokens && got->total_ns >= got->first_ns && got->first_ns > 0);
  }
  quern_scheduler_destroy(scheduler);
  quern_scheduler_destroy(NULL);
  quern_model_close(model);
}
END_TEST

// Each request by a technique of its own, and forks of the first.
START_TEST(guessed_and_forked) {
  enum { COUNT = 5 };
  quern_model *model = open_model(true), *draft = open_model(true);
  quern_scheduler *scheduler = NULL;
  told t[COUNT], w;
  uint64_t ids[COUNT];
  quern_stats want = {.size = sizeof want};
  size_t count;
  generate_alone(model, "one two one two", &w, &want, &count);
  OK(quern_scheduler_create(model, OPTIONS(.session = &session, .draft = draft), &scheduler, error));
  quern_speculator_options by = {.size = sizeof by, .tokens = 3};
  for (int i = 0; i < COUNT; i++) {
    quern_request request = text_request("one two one two", &t[i]);
    by.technique = i % 2 ? QUERN_SPECULATE_DRAFT : QUERN_SPECULATE_LOOKUP;
    if (i < 4) request.speculator = &by;
    if (i > 0) request.fork_of = ids[0];
    OK(quern_scheduler_add(scheduler, &request, &ids[i], error));
  }
  step_to_end(scheduler);
  for (int i = 0; i < COUNT; i++) {
    ck_assert_int_eq(t[i].result.status, QUERN_OK);
    ck_assert_str_eq(t[i].text, w.text);
    if (i == 1 || i == 2) ck_assert_int_eq(t[i].result.cached_tokens, (int64_t)count - 1);  // rows are three
  }
  ck_assert_int_eq(t[4].result.proposed, 0);
  ck_assert_int_gt(t[1].result.accepted, 0);  // the model itself is its draft
  ck_assert_int_ge(t[1].result.accepted, t[1].result.proposed - 2);  // but for those after the end
  quern_scheduler_destroy(scheduler);
  quern_model_close(draft);
  quern_model_close(model);
}
END_TEST

START_TEST(guesses_and_forks_that_are_none) {
  quern_model *model = open_model(true), *draft = open_model(true);
  quern_scheduler *scheduler = NULL, *none = NULL;
  told t;
  OK(quern_scheduler_create(model, OPTIONS(.session = &session, .draft = draft), &scheduler, error));
  quern_request request = text_request("one", &t);
  quern_speculator_options by = {.size = sizeof by, .tokens = 3, .technique = (quern_technique)99};
  request.speculator = &by;
  FAILS(QUERN_ERR_ARGUMENT, "technique: got 99", quern_scheduler_add(scheduler, &request, NULL, error));
  by.technique = QUERN_SPECULATE_MEDUSA;
  FAILS(QUERN_ERR_ARGUMENT, "speculator: got no heads, want some in the scheduler's options",
        quern_scheduler_add(scheduler, &request, NULL, error));
  by.draft = draft;
  FAILS(QUERN_ERR_ARGUMENT, "got heads of a request's own, want the scheduler's",
        quern_scheduler_add(scheduler, &request, NULL, error));
  by.technique = QUERN_SPECULATE_DRAFT;
  by.draft = model;
  FAILS(QUERN_ERR_ARGUMENT, "got a draft model of a request's own", quern_scheduler_add(scheduler, &request, NULL, error));
  by.size = 3;
  FAILS(QUERN_ERR_ARGUMENT, "quern_speculator_options", quern_scheduler_add(scheduler, &request, NULL, error));
  request = text_request("one", &t);
  request.fork_of = 9;
  FAILS(QUERN_ERR_ARGUMENT, "fork_of: got 9", quern_scheduler_add(scheduler, &request, NULL, error));
  quern_scheduler_destroy(scheduler);
  OK(quern_scheduler_create(model, NULL, &scheduler, error));
  by = (quern_speculator_options){.size = sizeof by, .technique = QUERN_SPECULATE_DRAFT};
  request = text_request("one", &t);
  request.speculator = &by;
  FAILS(QUERN_ERR_ARGUMENT, "got no draft model, want one in the scheduler's options",
        quern_scheduler_add(scheduler, &request, NULL, error));
  quern_scheduler_destroy(scheduler);
  FAILS(QUERN_ERR_UNSUPPORTED, "does not give the hidden states that heads guess from",
        quern_scheduler_create(model, OPTIONS(.heads = draft), &none, error));
  quern_model_close(draft);
  draft = open_model(false);
  FAILS(QUERN_ERR_ARGUMENT, "the draft model has no tokenizer",
        quern_scheduler_create(model, OPTIONS(.draft = draft), &none, error));
  quern_model_close(draft);
  quern_model_close(model);
}
END_TEST

START_TEST(cancelled_and_dropped) {
  quern_model *model = open_model(true);
  quern_scheduler *scheduler = NULL;
  told t[2];
  uint64_t ids[2];
  OK(quern_scheduler_create(model, NULL, &scheduler, error));
  for (int i = 0; i < 2; i++) {
    quern_request request = text_request("one two", &t[i]);
    OK(quern_scheduler_add(scheduler, &request, &ids[i], error));
  }
  OK(quern_scheduler_step(scheduler, NULL, NULL, error));
  OK(quern_scheduler_cancel(scheduler, ids[0], error));
  OK(quern_scheduler_step(scheduler, NULL, NULL, error));
  ck_assert(t[0].ends == 1 && t[0].result.reason == QUERN_STOP_CANCELLED && t[1].ends == 0);
  FAILS(QUERN_ERR_ARGUMENT, "request: got 1, want one that was added and has not ended",
        quern_scheduler_cancel(scheduler, ids[0], error));
  quern_scheduler_destroy(scheduler);
  ck_assert(t[1].ends == 1 && t[1].result.reason == QUERN_STOP_CANCELLED);
  quern_model_close(model);
}
END_TEST

START_TEST(refused) {
  quern_model *model = open_model(true);
  quern_scheduler *scheduler = NULL;
  told t;
  const quern_session_options many = {.size = sizeof many, .sequences = 4};
  FAILS(QUERN_ERR_LIMIT, "sequences",
        quern_scheduler_create(model, OPTIONS(.session = &many), &scheduler, error));
  FAILS(QUERN_ERR_ARGUMENT, "longest_wait_us: got -1",
        quern_scheduler_create(model, OPTIONS(.longest_wait_us = -1), &scheduler, error));
  FAILS(QUERN_ERR_ARGUMENT, "batch_wait_us: got -2",
        quern_scheduler_create(model, OPTIONS(.batch_wait_us = -2), &scheduler, error));
  FAILS(QUERN_ERR_ARGUMENT, "patience_us: got -3",
        quern_scheduler_create(model, OPTIONS(.patience_us = -3), &scheduler, error));
  FAILS(QUERN_ERR_ARGUMENT, "batching: got 9",
        quern_scheduler_create(model, OPTIONS(.batching = (quern_batching)9), &scheduler, error));
  FAILS(QUERN_ERR_ARGUMENT, "quern_scheduler_options",
        quern_scheduler_create(model, &(quern_scheduler_options){.size = 1}, &scheduler, error));
  ck_assert_ptr_null(scheduler);
  OK(quern_scheduler_create(model, OPTIONS(.patience_us = 1), &scheduler, error));
  quern_request request = text_request("one", &t);
  request.prompt_count = 2;
  FAILS(QUERN_ERR_ARGUMENT, "prompt: got NULL, want 2 tokens", quern_scheduler_add(scheduler, &request, NULL, error));
  request = text_request("", &t);
  request.text_flags = 0;
  FAILS(QUERN_ERR_ARGUMENT, "got no token", quern_scheduler_add(scheduler, &request, NULL, error));
  request = text_request("one", &t);
  request.sampler = &(quern_sampler_options){.size = 3};
  FAILS(QUERN_ERR_ARGUMENT, "quern_sampler_options", quern_scheduler_add(scheduler, &request, NULL, error));
  ck_assert_int_eq(t.ends, 0);  // it was never added
  quern_scheduler_destroy(scheduler);
  quern_model_close(model);
  model = open_model(false);
  OK(quern_scheduler_create(model, NULL, &scheduler, error));
  request = text_request("one", &t);
  FAILS(QUERN_ERR_UNSUPPORTED, "no tokenizer", quern_scheduler_add(scheduler, &request, NULL, error));
  quern_scheduler_destroy(scheduler);
  quern_model_close(model);
}
END_TEST

QN_CASE(requests, texts_of_many, guessed_and_forked, guesses_and_forks_that_are_none, cancelled_and_dropped, refused)
QN_TEST_MAIN(requests)
