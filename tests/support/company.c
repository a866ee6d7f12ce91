// Requests in company, and each alone.
#include "tests/support/company.h"

#include <stdio.h>
#include <string.h>

qn_company_options qn_company_how;
_Atomic uint64_t qn_company_clock_ns;

static uint64_t fake_clock(void *context) {
  (void)context;
  return atomic_load(&qn_company_clock_ns);
}

void qn_company_decoder(qn_company *f, int32_t sequences, int64_t pages, const qn_kernel_entry *kernels,
                        qn_decoder **out) {
  if (qn_company_how.trees && kernels == qn_fake_kernels) kernels = qn_fake_tree_kernels;
  qn_decoder_options options = {.context = QN_COMPANY_CONTEXT,
                                .sequences = sequences,
                                .pages = pages,
                                .prefixes = qn_company_how.prefixes,
                                .evict = qn_company_how.evict,
                                .keep = qn_company_how.evict ? QN_COMPANY_KEEP : 0,
                                .executor = {.jit_entries = kernels}};
  qn_assert_ok(&f->diag, qn_decoder_create(&f->artifact, f->threads, &options, qn_test_allocator(), out, &f->diag));
}

void qn_company_open(qn_company *f) {
  size_t size;
  const qn_fake_options options = {.tokenizer = true,
                                   .slots = qn_company_how.evict,
                                   .queries = qn_company_how.evict,
                                   .sums = qn_company_how.evict,
                                   .trees = qn_company_how.trees,
                                   .max_b = qn_company_how.trees ? 20 : 0};
  *f = (qn_company){.artifact = qn_fake_model_open(&options), .allocator = qn_test_allocator()};
  const void *blob = qn_artifact_section(&f->artifact, QN_SECTION_TOKENIZER, 0, &size);
  qn_assert_ok(&f->diag, qn_tokenizer_open(blob, size, qn_test_allocator(), &f->tokenizer, &f->diag));
  qn_assert_ok(&f->diag, qn_threads_create(1, false, qn_test_allocator(), &f->threads, &f->diag));
  atomic_store(&qn_company_clock_ns, 0);
}

void qn_company_start(qn_company *f, const qn_scheduler_options *o, int32_t sequences, int64_t pages,
                      const qn_kernel_entry *kernels) {
  qn_scheduler_options options = *o;
  options.clock = fake_clock;
  qn_company_decoder(f, sequences, pages, kernels, &f->decoder);
  qn_assert_ok(&f->diag, qn_scheduler_create(f->decoder, f->tokenizer, QN_FAKE_TOKENS, &options, f->allocator,
                                             &f->scheduler, &f->diag));
}

void qn_company_finish(qn_company *f) {
  qn_assert_ok(&f->diag, qn_scheduler_check(f->scheduler, &f->diag));
  qn_scheduler_destroy(f->scheduler);
  const qn_kv_cache *cache = qn_decoder_cache(f->decoder);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), qn_kv_cache_pages(cache));
  qn_decoder_destroy(f->decoder);
}

void qn_company_close(qn_company *f) {
  qn_threads_destroy(f->threads);
  qn_tokenizer_close(f->tokenizer);
  qn_artifact_close(&f->artifact);
  ck_assert_int_eq(qn_fake_errors(), 0);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_bytes, 0);
}

static void append(char *text, size_t size, qn_str more, int32_t id) {
  size_t used = strlen(text);
  snprintf(text + used, size - used, "%s%.*s", id < 0 ? "|" : "", QN_STR_ARGS(more));
}

typedef struct alone {
  qn_asked *a;
} alone;

static bool note_alone(void *context, qn_str text, int32_t id) {
  qn_asked *a = ((alone *)context)->a;
  append(a->text, sizeof a->text, text, id);
  if (id >= 0) a->tokens[a->generated++] = id;
  return true;
}

void qn_company_alone(qn_company *f, qn_asked *a) {
  qn_decoder *decoder = NULL;
  qn_sampler *sampler = NULL;
  qn_generate_stats stats;
  alone context = {a};
  qn_company_decoder(f, 1, 0, qn_fake_kernels, &decoder);
  qn_assert_ok(&f->diag, qn_sampler_create(&a->sampler, QN_FAKE_TOKENS, qn_test_allocator(), &sampler, &f->diag));
  qn_generate_params params = {.prompt = a->prompt,
                               .prompt_count = (size_t)a->count,
                               .max_tokens = a->max_tokens,
                               .stops = a->stops,
                               .stop_count = a->stop_count,
                               .callback = note_alone,
                               .callback_context = &context};
  a->text[0] = '\0';
  a->generated = 0;
  qn_assert_ok(&f->diag, qn_generate(decoder, f->tokenizer, sampler, &params, qn_test_allocator(), &stats, &f->diag));
  if (stats.reason == QN_STOP_EOG) a->tokens[a->generated++] = stats.pending;
  ck_assert_int_eq(a->generated, stats.generated_tokens);
  a->reason = stats.reason;
  qn_sampler_destroy(sampler);
  qn_decoder_destroy(decoder);
}

uint64_t qn_company_below(qn_test_random *random, uint64_t limit) { return qn_test_random_u64(random) % limit; }

void qn_company_ask(qn_company *f, qn_test_random *random, qn_asked *a) {
  memset(a, 0, sizeof *a);
  a->count = 1 + (int64_t)qn_company_below(random, qn_company_below(random, 3) ? 12 : QN_COMPANY_PROMPT);
  int64_t alike = qn_company_how.begin_alike && qn_company_below(random, 2) ? (int64_t)qn_company_below(random, 40) : 0;
  for (int64_t i = 0; i < a->count; i++)
    a->prompt[i] = (int32_t)(i < alike ? (uint64_t)i % 5 : qn_company_below(random, QN_FAKE_TOKENS));
  a->max_tokens = qn_company_below(random, 8) ? 1 + (int64_t)qn_company_below(random, QN_COMPANY_TOKENS) : 0;
  a->sampler = qn_sampler_options_default();
  a->sampler.temperature = qn_company_below(random, 2) ? 0 : 1;
  a->sampler.repeat_penalty = qn_company_below(random, 3) ? 1 : 1.3;
  a->sampler.seed = qn_test_random_u64(random);
  if (qn_company_below(random, 3) == 0) a->stops[a->stop_count++] = QN_STR("STOP");
  qn_company_alone(f, a);
}

// --- a request among others

static bool note(void *context, qn_str text, int32_t id) {
  qn_running *r = context;
  append(r->text, sizeof r->text, text, id);
  return !(r->stop_after && ++r->calls == 3);
}

static void note_end(void *context, uint64_t id, const qn_request_result *result) {
  qn_running *r = context;
  ck_assert(!r->ended && id == r->id);
  r->ended = true;
  r->status = result->status;
  r->result = *result;
  snprintf(r->error, sizeof r->error, "%s", result->error);
  if (r->order) r->place = (*r->order)++;
  if (result->status != QN_OK) return;
  if (result->generated_tokens > 0)
    qn_check(result->total_ns >= result->first_ns && result->first_ns >= result->queued_ns, "times");
  if (!r->a) return;
  // All of it, or a beginning of it where it was ended.
  bool whole = result->reason != QN_STOP_CANCELLED;
  qn_check(whole || r->may_end_early, "cancelled by nobody");
  qn_check(whole ? result->generated_tokens == r->a->generated : result->generated_tokens <= r->a->generated,
           "got %d tokens, want %d", (int)result->generated_tokens, (int)r->a->generated);
  qn_check(memcmp(result->tokens, r->a->tokens, (size_t)result->generated_tokens * sizeof(int32_t)) == 0,
           "other tokens than alone");
  qn_check(!whole || (result->reason == r->a->reason && strcmp(r->text, r->a->text) == 0), "got '%s', want '%s'",
           r->text, r->a->text);
  qn_check(strncmp(r->text, r->a->text, strlen(r->text)) == 0, "got '%s', want '%s'", r->text, r->a->text);
}

qn_request_params qn_company_request(const qn_asked *a, qn_running *r) {
  *r = (qn_running){.a = a};
  return (qn_request_params){.prompt = a->prompt,
                             .prompt_count = (size_t)a->count,
                             .max_tokens = a->max_tokens,
                             .sampler = a->sampler,
                             .stops = a->stops,
                             .stop_count = a->stop_count,
                             .callback = note,
                             .done = note_end,
                             .context = r};
}

void qn_company_add(qn_company *f, const qn_request_params *params) {
  qn_running *r = params->context;
  qn_assert_ok(&f->diag, qn_scheduler_add(f->scheduler, params, &r->id, &f->diag));
}

void qn_company_step_to_end(qn_company *f) {
  size_t left = 1;
  uint64_t idle = 0;
  for (int i = 0; left > 0; i++) {
    ck_assert_int_lt(i, 100000);
    qn_assert_ok(&f->diag, qn_scheduler_step(f->scheduler, &left, &idle, &f->diag));
    qn_assert_ok(&f->diag, qn_scheduler_check(f->scheduler, &f->diag));
    atomic_fetch_add(&qn_company_clock_ns, 1000);
  }
  ck_assert(idle == 0 || idle == QN_SCHEDULER_IDLE);
}

qn_scheduler_stats qn_company_stats(const qn_company *f) {
  qn_scheduler_stats stats;
  qn_scheduler_get_stats(f->scheduler, &stats);
  return stats;
}

qn_asked qn_company_plain(int64_t prompt, int64_t tokens) {
  qn_asked a = {.count = prompt, .max_tokens = tokens, .sampler = qn_sampler_options_default()};
  for (int64_t i = 0; i < prompt; i++) a.prompt[i] = QN_FAKE_ONE + (int32_t)i % 3;
  return a;
}

qn_request_params qn_company_timed(const qn_asked *a, qn_running *r, int *order) {
  qn_request_params params = qn_company_request(a, r);
  r->a = NULL;
  r->order = order;
  r->may_end_early = true;
  params.ignore_eog = true;
  return params;
}
