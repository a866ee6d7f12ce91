// The scheduler on the hand-made model: an error stays with its request, and what the host does meanwhile.
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/log.h"
#include "tests/support/company.h"

START_TEST(refused_when_added) {
  qn_company f;
  qn_decoder *decoder = NULL;
  qn_scheduler *scheduler = NULL;
  qn_running r;
  uint64_t id = 9;
  qn_asked a = qn_company_plain(4, 4);
  qn_company_open(&f);
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 4, qn_fake_kernels);  // 64 keys in all
  qn_request_params good = qn_company_request(&a, &r), p = good;
  int32_t many[65] = {0};
#define REFUSED(status, needle)                                                              \
  qn_assert_fails(&f.diag, status, needle, qn_scheduler_add(f.scheduler, &p, &id, &f.diag)); \
  ck_assert_uint_eq(id, 0);                                                                  \
  f.diag = (qn_diag){0};                                                                     \
  p = good
  p.prompt_count = 0;
  REFUSED(QN_ERR_ARGUMENT, "got no token");
  p.prompt = many, p.prompt_count = 65;
  REFUSED(QN_ERR_LIMIT, "got a prompt of 65 tokens, want at most the 64");
  p.prompt = (const int32_t[]){3, 40}, p.prompt_count = 2;
  REFUSED(QN_ERR_ARGUMENT, "token 1: got id 40, want 0 to 39");
  p.max_tokens = -1;
  REFUSED(QN_ERR_ARGUMENT, "max_tokens: got -1");
  p.priority = (qn_priority)7;
  REFUSED(QN_ERR_ARGUMENT, "priority: got 7");
  p.guesses = 16;
  REFUSED(QN_ERR_ARGUMENT, "guesses: got 16, want 0 (as many as pay) to 15");
  p.sampler.top_p = 2;
  REFUSED(QN_ERR_ARGUMENT, "top_p");
  p.stops = &(qn_str){"", 0}, p.stop_count = 1;
  REFUSED(QN_ERR_ARGUMENT, "got an empty one");
  ck_assert(!qn_scheduler_cancel(f.scheduler, 1) && !qn_scheduler_wait(f.scheduler, 0));
  qn_company_decoder(&f, 1, 0, qn_fake_kernels, &decoder);
  const struct {
    qn_scheduler_options options;
    const char *needle;
  } wrong[] = {{{.batching = (qn_batching)3}, "batching: got 3"},
               {{.preemption = (qn_preemption)2}, "preemption: got 2"},
               {{.step_tokens = 17}, "step_tokens: got 17, want 1 to 16"}};
  for (size_t i = 0; i < QN_COUNT(wrong); i++) {
    qn_assert_fails(
        &f.diag, QN_ERR_ARGUMENT, wrong[i].needle,
        qn_scheduler_create(decoder, NULL, QN_FAKE_VOCAB, &wrong[i].options, qn_test_allocator(), &scheduler, &f.diag));
    f.diag = (qn_diag){0};
  }
  qn_decoder_destroy(decoder);
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

// Logits of whoever has token 39 are no numbers.
static _Atomic int64_t spoiled = -1;
static void find_spoiled(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  const int32_t *tokens = buffers[0];
  for (int64_t t = begin; t < end; t++) {
    if (tokens[t] == 39) atomic_store(&spoiled, t);
  }
  qn_fake_kernels[0](buffers, symbols, begin, end);
}
static void spoil(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  float *logits = buffers[2];
  const int32_t *rows = buffers[1];
  qn_fake_kernels[3](buffers, symbols, begin, end);
  for (int64_t r = begin; r < end; r++) {
    if (rows[r] == atomic_load(&spoiled)) logits[r * 48] = NAN;
  }
}

START_TEST(an_error_of_one) {
  static qn_kernel_entry kernels[QN_FAKE_KERNELS];
  static qn_asked all[4];
  qn_company f;
  qn_running r[5];
  qn_test_random random = {5};
  memcpy(kernels, qn_fake_kernels, sizeof kernels);
  kernels[0] = find_spoiled;
  kernels[3] = spoil;
  qn_company_open(&f);
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, 6, 0, kernels);
  for (int i = 0; i < 4; i++) {
    qn_company_ask(&f, &random, &all[i]);
    qn_request_params params = qn_company_request(&all[i], &r[i]);
    qn_company_add(&f, &params);
  }
  qn_asked bad = qn_company_plain(3, 5);
  bad.prompt[2] = 39;
  qn_request_params params = qn_company_timed(&bad, &r[4], NULL);
  qn_company_add(&f, &params);
  atomic_store(&spoiled, -1);
  qn_company_step_to_end(&f);
  ck_assert(r[4].status == QN_ERR_FORMAT && strstr(r[4].error, "the logits are not numbers"));
  for (int i = 0; i < 4; i++) ck_assert(r[i].ended && r[i].status == QN_OK);
  ck_assert_int_eq(qn_company_stats(&f).failed, 1);
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

START_TEST(no_page_and_nobody_to_take_one_from) {
  qn_company f;
  qn_running r;
  qn_asked a = qn_company_plain(20, 10);
  qn_company_open(&f);
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 8, qn_fake_kernels);
  qn_assert_ok(&f.diag, qn_decoder_fill(f.decoder, 1, 112, &f.diag));  // of which the scheduler knows nothing
  qn_request_params params = qn_company_timed(&a, &r, NULL);
  qn_company_add(&f, &params);
  size_t left = 1;
  uint64_t idle;
  qn_assert_fails(&f.diag, QN_ERR_INTERNAL, "row 1: got 112 tokens, want 0", qn_scheduler_check(f.scheduler, &f.diag));
  while (left > 0) qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
  ck_assert(r.status == QN_ERR_LIMIT && strstr(r.error, "nobody to take one from"));
  qn_decoder_reset(f.decoder, 1);
  f.diag = (qn_diag){0};
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

// What was kept of a request is damaged or gone: it is evaluated again, and its tokens are the same.
static int warnings;
static void count_warnings(void *context, qn_log_level level, const char *text) {
  (void)context;
  warnings += level == QN_LOG_WARNING && strstr(text, "tokens again") != NULL;
}

START_TEST(swapped_out_and_lost) {
  static qn_asked all[6];
  qn_company f;
  qn_running r[6];
  qn_test_random random = {21};
  char command[600];
  qn_company_open(&f);
  const char *folder = qn_test_temp_path("swap");
  snprintf(command, sizeof command, "mkdir -p %s", folder);
  ck_assert_int_eq(system(command), 0);
  qn_company_start(&f, &(qn_scheduler_options){.preemption = QN_PREEMPT_SWAP, .swap_folder = folder}, 6, 8,
                   qn_fake_kernels);
  for (int i = 0; i < 6; i++) {
    qn_company_ask(&f, &random, &all[i]);
    qn_request_params params = qn_company_request(&all[i], &r[i]);
    qn_company_add(&f, &params);
  }
  size_t left = 1;
  uint64_t idle;
  qn_log_set(count_warnings, NULL);
  snprintf(command, sizeof command, "for f in %s/*.kv; do [ ! -e $f ] || truncate -s 99 $f; done", folder);
  while (left > 0) {
    qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
    if (qn_company_stats(&f).swapped_out > 0) ck_assert_int_eq(system(command), 0);
  }
  for (int i = 0; i < 6; i++) ck_assert(r[i].ended && r[i].status == QN_OK);
  qn_log_set(NULL, NULL);
  ck_assert_int_eq(qn_company_stats(&f).swaps_lost, warnings);
  ck_assert(warnings > 0 && qn_company_stats(&f).recomputed_tokens > 0);
  snprintf(command, sizeof command, "rmdir %s", folder);  // no file is left
  ck_assert_int_eq(system(command), 0);
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

// --- the host's side

typedef struct chained {
  qn_company *f;
  const qn_asked *a;
  int left, ended;
} chained;

static void add_another(void *context, uint64_t id, const qn_request_result *result) {
  chained *c = context;
  (void)id;
  c->ended += result->status == QN_OK;
  if (c->left-- <= 0) return;
  qn_request_params params = {.prompt = c->a->prompt,
                              .prompt_count = 4,
                              .max_tokens = 3,
                              .sampler = c->a->sampler,
                              .done = add_another,
                              .context = c};
  uint64_t other;
  qn_assert_ok(&c->f->diag, qn_scheduler_add(c->f->scheduler, &params, &other, &c->f->diag));
}

START_TEST(a_callback_adds) {
  qn_company f;
  qn_asked a = qn_company_plain(4, 3);
  qn_company_open(&f);
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 0, qn_fake_kernels);
  chained c = {&f, &a, 5, 0};
  add_another(&c, 0, &(qn_request_result){.status = QN_OK});
  ck_assert(qn_scheduler_wait(f.scheduler, QN_SCHEDULER_IDLE));
  qn_company_step_to_end(&f);
  ck_assert_int_eq(c.ended, 6);
  c.left = 2;  // one is there when the scheduler goes, and its end adds another, whose end adds none
  add_another(&c, 0, &(qn_request_result){.status = QN_OK});
  qn_company_finish(&f);
  ck_assert_int_eq(c.ended, 9);
  qn_company_close(&f);
}
END_TEST

enum { WORKERS = 3, EACH = 20 };
typedef struct worker {
  qn_company *f;
  const qn_asked *all;
  qn_running r[EACH];
  uint64_t seed;
} worker;

static void *add_from_elsewhere(void *context) {
  worker *w = context;
  qn_test_random random = {w->seed};
  for (int i = 0; i < EACH; i++) {
    qn_request_params params = qn_company_request(&w->all[i], &w->r[i]);
    qn_diag diag = {0};
    uint64_t id = 0;
    w->r[i].may_end_early = true;
    params.done = NULL;  // ids are not known yet when it ends
    qn_check(qn_scheduler_add(w->f->scheduler, &params, &id, &diag) == QN_OK, "%s", diag.text);
    if (qn_company_below(&random, 3) == 0) qn_scheduler_cancel(w->f->scheduler, id);
  }
  return NULL;
}

START_TEST(added_by_threads) {
  static qn_asked all[EACH];
  static worker workers[WORKERS];
  pthread_t threads[WORKERS];
  qn_company f;
  qn_test_random random = {3};
  qn_company_open(&f);
  for (int i = 0; i < EACH; i++) qn_company_ask(&f, &random, &all[i]);
  f.allocator = qn_allocator_default();  // the tests' own is for one thread
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, 5, 12, qn_fake_kernels);
  for (int i = 0; i < WORKERS; i++) {
    workers[i] = (worker){.f = &f, .all = all, .seed = (uint64_t)i + 1};
    ck_assert_int_eq(pthread_create(&threads[i], NULL, add_from_elsewhere, &workers[i]), 0);
  }
  while (qn_company_stats(&f).added < WORKERS * EACH) {
    size_t left;
    uint64_t idle;
    qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
    if (idle == QN_SCHEDULER_IDLE) qn_scheduler_wait(f.scheduler, 1000000);
  }
  for (int i = 0; i < WORKERS; i++) pthread_join(threads[i], NULL);
  qn_company_step_to_end(&f);
  for (int i = 0; i < WORKERS; i++) {
    for (int j = 0; j < EACH; j++)
      qn_check(strncmp(workers[i].r[j].text, all[j].text, strlen(workers[i].r[j].text)) == 0,
               "another text than alone");
  }
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

static qn_status with_little_memory(const qn_allocator *allocator, void *context) {
  qn_company *f = context;
  qn_scheduler *s = NULL;
  qn_asked a = qn_company_plain(20, 4);
  qn_running r;
  qn_diag diag = {0};
  size_t left = 1;
  uint64_t idle;
  QN_TRY(qn_scheduler_create(f->decoder, f->tokenizer, QN_FAKE_TOKENS,
                             &(qn_scheduler_options){.swap_folder = "nowhere"}, allocator, &s, &diag));
  qn_request_params params = qn_company_timed(&a, &r, NULL);
  params.stops = &QN_STR("never");
  params.stop_count = 1;
  qn_status status = qn_scheduler_add(s, &params, &r.id, &diag);
  while (status == QN_OK && left > 0) status = qn_scheduler_step(s, &left, &idle, &diag);
  if (status == QN_OK) status = r.status;
  qn_scheduler_destroy(s);
  return status;
}

START_TEST(out_of_memory) {
  qn_company f;
  qn_company_open(&f);
  qn_company_decoder(&f, 2, 0, qn_fake_kernels, &f.decoder);
  qn_test_failing_allocations(with_little_memory, &f);
  qn_decoder_destroy(f.decoder);
  qn_company_close(&f);
}
END_TEST

QN_CASE(errors, refused_when_added, an_error_of_one, no_page_and_nobody_to_take_one_from, swapped_out_and_lost)
QN_CASE(host, a_callback_adds, added_by_threads, out_of_memory)
QN_TEST_MAIN(errors, host)
