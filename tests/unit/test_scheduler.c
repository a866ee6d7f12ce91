// The scheduler on the hand-made model: every request has the tokens and the text that it has alone, whoever joins and
// leaves, whatever is preempted; who goes first; and that an error stays with its request.
#include "runtime/scheduler.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/log.h"
#include "tests/support/fake_model.h"
#include "tests/support/test.h"

enum { REQUESTS = 60, PROMPT_MOST = 70, TOKENS_MOST = 40, CONTEXT = 128 };

// --- what is asked for, and what comes of it alone

typedef struct asked {
  int32_t prompt[PROMPT_MOST];
  int64_t count, max_tokens;
  qn_sampler_options sampler;
  qn_str stops[1];
  size_t stop_count;
  char text[512];  // what it must be
  int32_t tokens[TOKENS_MOST + CONTEXT];
  int64_t generated;
  qn_stop_reason reason;
} asked;

typedef struct fixture {
  qn_artifact artifact, draft;
  qn_threads *threads;
  qn_tokenizer *tokenizer;
  qn_decoder *decoder;
  qn_scheduler *scheduler;
  const qn_allocator *allocator;  // of the scheduler
  qn_diag diag;
} fixture;

static _Atomic uint64_t clock_ns;
static uint64_t fake_clock(void *context) {
  (void)context;
  return atomic_load(&clock_ns);
}

static bool prefixes;  // shall decoders keep what sequences held?
static bool trees;     // may guesses branch? Of the artifacts that are opened, with rows for 4 paths or more
static int branched;      // drafts with several paths so far
static bool begin_alike;  // shall many prompts begin with the same tokens?

static const char *evict;  // do decoders give keys up, and by what policy?
enum { KEEP = 24 };

static void open_decoder(fixture *f, int32_t sequences, int64_t pages, const qn_kernel_entry *kernels, qn_decoder **out) {
  if (trees && kernels == qn_fake_kernels) kernels = qn_fake_tree_kernels;
  qn_decoder_options options = {.context = CONTEXT,
                                .sequences = sequences,
                                .pages = pages,
                                .prefixes = prefixes,
                                .evict = evict,
                                .keep = evict ? KEEP : 0,
                                .executor = {.jit_entries = kernels}};
  qn_assert_ok(&f->diag, qn_decoder_create(&f->artifact, f->threads, &options, qn_test_allocator(), out, &f->diag));
}

static void open_fixture(fixture *f) {
  size_t size;
  const qn_fake_options options = {.tokenizer = true,
                                   .slots = evict,
                                   .queries = evict,
                                   .sums = evict,
                                   .trees = trees,
                                   .max_b = trees ? 20 : 0};
  *f = (fixture){.artifact = qn_fake_model_open(&options), .allocator = qn_test_allocator()};
  const void *blob = qn_artifact_section(&f->artifact, QN_SECTION_TOKENIZER, 0, &size);
  qn_assert_ok(&f->diag, qn_tokenizer_open(blob, size, qn_test_allocator(), &f->tokenizer, &f->diag));
  qn_assert_ok(&f->diag, qn_threads_create(1, false, qn_test_allocator(), &f->threads, &f->diag));
  atomic_store(&clock_ns, 0);
}

static void start(fixture *f, const qn_scheduler_options *o, int32_t sequences, int64_t pages,
                  const qn_kernel_entry *kernels) {
  qn_scheduler_options options = *o;
  options.clock = fake_clock;
  open_decoder(f, sequences, pages, kernels, &f->decoder);
  qn_assert_ok(&f->diag, qn_scheduler_create(f->decoder, f->tokenizer, QN_FAKE_TOKENS, &options, f->allocator,
                                             &f->scheduler, &f->diag));
}

// Whatever is there ends; no page is lost.
static void finish(fixture *f) {
  qn_assert_ok(&f->diag, qn_scheduler_check(f->scheduler, &f->diag));
  qn_scheduler_destroy(f->scheduler);
  const qn_kv_cache *cache = qn_decoder_cache(f->decoder);
  ck_assert_int_eq(qn_kv_cache_free_pages(cache), qn_kv_cache_pages(cache));
  qn_decoder_destroy(f->decoder);
}

static void close_fixture(fixture *f) {
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
  asked *a;
} alone;

static bool note_alone(void *context, qn_str text, int32_t id) {
  asked *a = ((alone *)context)->a;
  append(a->text, sizeof a->text, text, id);
  if (id >= 0) a->tokens[a->generated++] = id;
  return true;
}

// By qn_generate, in a sequence of its own.
static void generate_alone(fixture *f, asked *a) {
  qn_decoder *decoder = NULL;
  qn_sampler *sampler = NULL;
  qn_generate_stats stats;
  alone context = {a};
  open_decoder(f, 1, 0, qn_fake_kernels, &decoder);
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

static uint64_t below(qn_test_random *random, uint64_t limit) { return qn_test_random_u64(random) % limit; }

static void ask(fixture *f, qn_test_random *random, asked *a) {
  memset(a, 0, sizeof *a);
  a->count = 1 + (int64_t)below(random, below(random, 3) ? 12 : PROMPT_MOST);
  int64_t alike = begin_alike && below(random, 2) ? (int64_t)below(random, 40) : 0;
  for (int64_t i = 0; i < a->count; i++) a->prompt[i] = (int32_t)(i < alike ? (uint64_t)i % 5 : below(random, QN_FAKE_TOKENS));
  a->max_tokens = below(random, 8) ? 1 + (int64_t)below(random, TOKENS_MOST) : 0;
  a->sampler = qn_sampler_options_default();
  a->sampler.temperature = below(random, 2) ? 0 : 1;
  a->sampler.repeat_penalty = below(random, 3) ? 1 : 1.3;
  a->sampler.seed = qn_test_random_u64(random);
  if (below(random, 3) == 0) a->stops[a->stop_count++] = QN_STR("STOP");
  generate_alone(f, a);
}

// --- a request among others

typedef struct running {
  const asked *a;
  uint64_t id;
  char text[512];
  int64_t given;
  bool ended, may_end_early, stop_after;  // stop_after: the callback says so at its third call
  int calls;
  qn_status status;
  qn_request_result result;
  char error[256];
  int *order, place;  // how many ended before it
} running;

static bool note(void *context, qn_str text, int32_t id) {
  running *r = context;
  append(r->text, sizeof r->text, text, id);
  return !(r->stop_after && ++r->calls == 3);
}

static void note_end(void *context, uint64_t id, const qn_request_result *result) {
  running *r = context;
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
  qn_check(!whole || (result->reason == r->a->reason && strcmp(r->text, r->a->text) == 0), "got '%s', want '%s'", r->text,
           r->a->text);
  qn_check(strncmp(r->text, r->a->text, strlen(r->text)) == 0, "got '%s', want '%s'", r->text, r->a->text);
}

static qn_request_params params_of(const asked *a, running *r) {
  *r = (running){.a = a};
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

static void add(fixture *f, const qn_request_params *params) {
  running *r = params->context;
  qn_assert_ok(&f->diag, qn_scheduler_add(f->scheduler, params, &r->id, &f->diag));
}

// Steps until all have ended; the clock goes on, a microsecond a step.
static void step_to_end(fixture *f) {
  size_t left = 1;
  uint64_t idle = 0;
  for (int i = 0; left > 0; i++) {
    ck_assert_int_lt(i, 100000);
    qn_assert_ok(&f->diag, qn_scheduler_step(f->scheduler, &left, &idle, &f->diag));
    qn_assert_ok(&f->diag, qn_scheduler_check(f->scheduler, &f->diag));
    atomic_fetch_add(&clock_ns, 1000);
  }
  ck_assert(idle == 0 || idle == QN_SCHEDULER_IDLE);
}

static qn_scheduler_stats stats_of(const fixture *f) {
  qn_scheduler_stats stats;
  qn_scheduler_get_stats(f->scheduler, &stats);
  return stats;
}

// --- what guesses: earlier words, the model itself as a draft of as many sequences, n-grams, somebody who knows half of it

static qn_status create_lookup(void *context, int32_t row, bool judged, qn_proposer **out, qn_diag *diag) {
  (void)context, (void)row, (void)judged;
  return qn_propose_lookup_create(qn_test_allocator(), out, diag);
}

enum { ENDS = 2, DRAFT_EACH = 1 + 2 * ENDS };
static qn_status create_draft(void *context, int32_t row, bool judged, qn_proposer **out, qn_diag *diag) {
  (void)judged;
  return qn_propose_draft_create(context, row * DRAFT_EACH, ENDS, qn_test_allocator(), out, diag);
}

static qn_status create_lookahead(void *context, int32_t row, bool judged, qn_proposer **out, qn_diag *diag) {
  (void)row, (void)judged;
  return qn_propose_lookahead_create(context, qn_test_allocator(), out, diag);
}

// Guesses that branch as they happen to, of which some are what comes alone.
typedef struct knowing {
  qn_proposer base;
  const asked *a;
  qn_test_random random;
} knowing;

static qn_status branch_out(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                            qn_diag *diag) {
  knowing *k = (knowing *)self;
  int32_t paths = 0;
  (void)diag;
  for (int tries = 0; tries < 60 && out->count < room->tokens; tries++) {
    int32_t parent = (int32_t)below(&k->random, (uint64_t)out->count + 1) - 1, depth = qn_draft_depth(out, parent);
    int64_t at = (int64_t)text->count + depth - k->a->count;
    bool knows = at < k->a->generated && below(&k->random, 2);
    int32_t token = knows ? k->a->tokens[at] : (int32_t)below(&k->random, QN_FAKE_TOKENS);
    bool another = out->count == 0 || qn_draft_goes_on(out, parent);
    if (depth >= room->depth || qn_draft_child(out, parent, token) != QN_DRAFT_ROOT) continue;
    if (another && paths == room->paths) continue;
    paths += another;
    qn_draft_add(out, parent, token);
  }
  branched += qn_draft_branches(out);
  return QN_OK;
}
static void forget(qn_proposer *self) { qn_free(qn_test_allocator(), self, sizeof(knowing)); }

static qn_status create_knowing(void *context, int32_t row, bool judged, qn_proposer **out, qn_diag *diag) {
  static const qn_proposer_type type = {.name = "knowing", .branches = true, .propose = branch_out, .destroy = forget};
  knowing *k = qn_alloc_zeroed(qn_test_allocator(), sizeof *k);
  (void)judged, (void)diag;
  ck_assert_ptr_nonnull(k);
  *k = (knowing){{&type}, context, {(uint64_t)row + 9}};
  *out = &k->base;
  return QN_OK;
}

// As many as it may, whatever the text is.
static qn_status guess_much(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                            qn_diag *diag) {
  (void)self, (void)text, (void)diag;
  while (out->count < room->depth) qn_draft_add(out, out->count - 1, QN_FAKE_X);
  return QN_OK;
}
static void leave(qn_proposer *self) { (void)self; }

static qn_status create_eager(void *context, int32_t row, bool judged, qn_proposer **out, qn_diag *diag) {
  static const qn_proposer_type type = {.name = "eager", .propose = guess_much, .destroy = leave};
  static qn_proposer eager = {&type};
  (void)context, (void)row, (void)judged, (void)diag;
  *out = &eager;
  return QN_OK;
}

// --- the same tokens as alone

static void open_draft(fixture *f, int32_t sequences, qn_decoder **out) {
  f->draft = qn_fake_model_open(&(qn_fake_options){.tokenizer = true, .slots = evict});  // which it has as all models here
  qn_decoder_options options = {.context = CONTEXT, .sequences = sequences, .executor = {.jit_entries = qn_fake_kernels}};
  qn_assert_ok(&f->diag, qn_decoder_create(&f->draft, f->threads, &options, qn_test_allocator(), out, &f->diag));
}

// Requests join at random steps, some are cancelled, some say stop.
static void mix(fixture *f, const asked *all, qn_test_random *random, const qn_scheduler_options *options,
                int32_t sequences, int64_t pages) {
  static running r[REQUESTS];
  size_t left = 0;
  uint64_t idle;
  qn_decoder *draft = NULL;
  qn_ngrams *ngrams = NULL;
  static qn_guesser known[REQUESTS];
  open_draft(f, sequences * DRAFT_EACH, &draft);
  qn_assert_ok(&f->diag, qn_ngrams_create(qn_test_allocator(), &ngrams, &f->diag));
  const qn_guesser guessers[] = {
      {.create = create_lookup}, {create_draft, draft, 0.1, false}, {.create = create_lookahead, .context = ngrams}};
  start(f, options, sequences, pages, qn_fake_kernels);
  for (size_t added = 0; added < REQUESTS || left > 0;) {
    for (uint64_t more = below(random, 4) ? 0 : below(random, 8); added < REQUESTS && more > 0; more--, added++) {
      qn_request_params params = params_of(&all[added], &r[added]);
      r[added].may_end_early = below(random, 6) == 0;
      r[added].stop_after = r[added].may_end_early && below(random, 2);
      params.priority = below(random, 2) ? QN_PRIORITY_BATCH : QN_PRIORITY_ONLINE;
      params.client = below(random, 3);
      known[added] = (qn_guesser){.create = create_knowing, .context = (void *)(uintptr_t)&all[added]};
      uint64_t by = below(random, 2) ? below(random, QN_COUNT(guessers) + 1) : QN_COUNT(guessers) + 1;
      params.guesser = by < QN_COUNT(guessers) ? &guessers[by] : by == QN_COUNT(guessers) ? &known[added] : NULL;
      if (added > 0 && below(random, 3) == 0) params.fork_of = r[below(random, added)].id;
      params.guesses = (int32_t)below(random, 5);
      add(f, &params);
    }
    if (added > 0) {
      size_t which = below(random, added);
      if (r[which].may_end_early && !r[which].ended) ck_assert(qn_scheduler_cancel(f->scheduler, r[which].id));
    }
    qn_assert_ok(&f->diag, qn_scheduler_step(f->scheduler, &left, &idle, &f->diag));
    qn_assert_ok(&f->diag, qn_scheduler_check(f->scheduler, &f->diag));
    atomic_fetch_add(&clock_ns, 1000);
  }
  for (size_t i = 0; i < REQUESTS; i++) qn_check(r[i].ended && r[i].status == QN_OK, "request %d: %s", (int)i, r[i].error);
  qn_scheduler_stats stats = stats_of(f);
  ck_assert(stats.added == REQUESTS && stats.finished + stats.cancelled == REQUESTS && stats.failed == 0);
  ck_assert(stats.running == 0 && stats.waiting == 0 && stats.free_pages == stats.pages);
  ck_assert_int_le(stats.most_running, sequences);
  for (int32_t i = 0; i < sequences * DRAFT_EACH; i++) ck_assert_int_eq(qn_decoder_position(draft, i), 0);
  qn_decoder_destroy(draft);
  qn_artifact_close(&f->draft);
  qn_ngrams_destroy(ngrams);
}

typedef struct met_company {
  int64_t preempted, swapped, cached, proposed, accepted;
} met_company;

// All requests beside 1 to 16 others; `pages` are enough for one, and a few more are given.
static met_company meet(int64_t window, int64_t enough, size_t stride) {
  static asked all[REQUESTS];
  qn_test_random random = {77};
  fixture f;
  met_company met = {0};
  qn_fake_set_window(window);
  open_fixture(&f);
  begin_alike = true;
  for (size_t i = 0; i < REQUESTS; i++) ask(&f, &random, &all[i]);
  for (int32_t sequences = 1; sequences <= 16; sequences += (int32_t)stride) {
    int64_t pages = enough + sequences % 3;
    for (int variant = 0; variant < 3; variant++) {
      qn_scheduler_options options = {.preemption = variant == 0 ? QN_PREEMPT_RECOMPUTE : QN_PREEMPT_SWAP,
                                      .swap_folder = variant == 2 ? qn_test_temp_dir() : NULL,
                                      .batching = (qn_batching)(sequences % QN_BATCHING_COUNT),
                                      .batch_wait_ns = 5000,
                                      .patience_ns = sequences % 2 ? 20000 : 0,
                                      .step_tokens = 1 + (int64_t)below(&random, 16)};
      prefixes = (sequences + variant) % 2;
      mix(&f, all, &random, &options, sequences, pages);
      prefixes = false;
      qn_scheduler_stats stats = stats_of(&f);
      met.cached += stats.cached_tokens;
      met.preempted += stats.preemptions;
      met.proposed += stats.proposed;
      met.accepted += stats.accepted;
      met.swapped += stats.swapped_in;
      ck_assert(stats.swaps_lost == 0 && (variant > 0 || stats.swapped_out == 0));
      finish(&f);
    }
  }
  close_fixture(&f);
  qn_fake_set_window(0);
  return met;
}

START_TEST(as_alone_in_any_company) {
  size_t stride = qn_test_stride(1, 3);
  met_company met = meet(0, CONTEXT / QN_FAKE_PAGE_KEYS, stride);
  ck_assert_msg(met.proposed > met.accepted && met.accepted > 5, "got %d of %d", (int)met.accepted, (int)met.proposed);
  ck_assert_msg(met.preempted > 5 && met.swapped > 2, "got %d and %d", (int)met.preempted, (int)met.swapped);
  ck_assert_msg(met.cached > 200 / (int64_t)stride, "got %d tokens", (int)met.cached);
}
END_TEST

// Guesses that branch, of several requests in a step.
START_TEST(as_alone_with_trees) {
  branched = 0;
  trees = true;
  size_t stride = qn_test_stride(2, 5);
  met_company met = meet(0, CONTEXT / QN_FAKE_PAGE_KEYS, stride);
  ck_assert_msg(branched > 200 / (int)stride, "got %d drafts that branch", branched);
  ck_assert_msg(met.proposed > met.accepted && met.accepted > 500 / (int64_t)stride, "got %d of %d", (int)met.accepted,
                (int)met.proposed);
  ck_assert_msg(met.preempted > 2, "got %d", (int)met.preempted);
  meet(9, 4, qn_test_stride(4, 9));  // and with windows
  qn_fake_set_rings(true);           // with windows beside what sees all
  meet(9, CONTEXT / QN_FAKE_PAGE_KEYS, qn_test_stride(4, 9));
  qn_fake_set_rings(false);
  evict = "norm";  // and where keys are given up
  meet(0, 2, qn_test_stride(4, 9));
  evict = NULL;
  trees = false;
}
END_TEST

// Windows: pages are enough that would not be for all keys.
START_TEST(as_alone_with_windows) {
  enum { WINDOW = 9, ENOUGH = 4 };  // of 16 keys, in steps of 16 tokens
  met_company met = meet(WINDOW, ENOUGH, qn_test_stride(4, 7));
  ck_assert_msg(met.preempted > 5 && met.swapped > 0, "got %d and %d", (int)met.preempted, (int)met.swapped);
}
END_TEST

// Windows beside what sees all: rings are never what is short of pages.
START_TEST(as_alone_with_rings) {
  enum { WINDOW = 9 };
  qn_fake_set_rings(true);
  met_company met = meet(WINDOW, CONTEXT / QN_FAKE_PAGE_KEYS, qn_test_stride(4, 7));
  qn_fake_set_rings(false);
  ck_assert_msg(met.preempted > 5 && met.swapped > 0, "got %d and %d", (int)met.preempted, (int)met.swapped);
}
END_TEST

// Keys that are given up, with and without a row for who does: pages are enough for what is left.
START_TEST(as_alone_while_keys_are_evicted) {
  enum { ENOUGH = (KEEP + QN_FAKE_PAGE_KEYS - 1) / QN_FAKE_PAGE_KEYS };
  static const char *const policies[] = {"norm", "heavy"};
  for (size_t i = 0; i < QN_COUNT(policies); i++) {
    evict = policies[i];
    met_company met = meet(0, ENOUGH, qn_test_stride(4, 7));
    evict = NULL;
    ck_assert_msg(met.proposed > met.accepted && met.accepted > 5, "got %d of %d", (int)met.accepted, (int)met.proposed);
    ck_assert_msg(met.preempted > 5 && met.swapped > 0, "got %d and %d", (int)met.preempted, (int)met.swapped);
    ck_assert_msg(met.cached > 0, "got %d tokens", (int)met.cached);
  }
}
END_TEST

static asked plain_request(int64_t prompt, int64_t tokens) {
  asked a = {.count = prompt, .max_tokens = tokens, .sampler = qn_sampler_options_default()};
  for (int64_t i = 0; i < prompt; i++) a.prompt[i] = QN_FAKE_ONE + (int32_t)i % 3;
  return a;
}

// Several answers to one prompt: the first evaluates it, the others share its pages and evaluate their last token.
START_TEST(forks_share_a_prompt) {
  enum { FORKS = 5 };
  static asked a[FORKS];
  static running r[FORKS];
  fixture f;
  int64_t pages = 4 * FORKS;
  open_fixture(&f);
  for (int i = 0; i < FORKS; i++) {
    a[i] = plain_request(2 * QN_FAKE_PAGE_KEYS + 3, 12);
    a[i].sampler.temperature = 1;
    a[i].sampler.seed = (uint64_t)i;
    generate_alone(&f, &a[i]);
  }
  start(&f, &(qn_scheduler_options){.step_tokens = 8}, FORKS, pages, qn_fake_kernels);
  for (int i = 0; i < FORKS; i++) {
    qn_request_params params = params_of(&a[i], &r[i]);
    params.fork_of = i ? r[0].id : 0;
    add(&f, &params);
  }
  step_to_end(&f);
  qn_scheduler_stats stats = stats_of(&f);
  ck_assert_int_eq(stats.prompt_tokens, a[0].count + FORKS - 1);
  ck_assert_int_eq(stats.cached_tokens, (FORKS - 1) * (a[0].count - 1));
  ck_assert_int_eq(stats.finished, FORKS);
  finish(&f);
  // Where the first one has ended nothing is shared.
  start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 0, qn_fake_kernels);
  qn_request_params params = params_of(&a[0], &r[0]);
  add(&f, &params);
  step_to_end(&f);
  params = params_of(&a[1], &r[1]);
  params.fork_of = r[0].id;
  add(&f, &params);
  step_to_end(&f);
  ck_assert_int_eq(stats_of(&f).cached_tokens, 0);
  params.fork_of = 3;
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "fork_of: got 3, want 0 or a request that was added before",
                  qn_scheduler_add(f.scheduler, &params, &r[1].id, &f.diag));
  finish(&f);
  close_fixture(&f);
}
END_TEST

// Forks are taken in by the pages that they do not share: all at once where whole prompts would have room for two. Each holds a
// copy of the prompt's last page, and nobody needs another.
START_TEST(forks_are_admitted_by_what_they_take) {
  enum { FORKS = 5, PAGES = 4 + FORKS };
  static asked a[FORKS];
  static running r[FORKS];
  fixture f;
  open_fixture(&f);
  start(&f, &(qn_scheduler_options){.step_tokens = 0}, FORKS, PAGES, qn_fake_kernels);
  for (int i = 0; i < FORKS; i++) {
    a[i] = plain_request(3 * QN_FAKE_PAGE_KEYS + 4, 8);
    qn_request_params params = params_of(&a[i], &r[i]);
    r[i].a = NULL;
    params.ignore_eog = true;
    params.fork_of = i ? r[0].id : 0;
    add(&f, &params);
  }
  step_to_end(&f);
  qn_scheduler_stats stats = stats_of(&f);
  ck_assert_int_eq(stats.most_running, FORKS);
  ck_assert_int_eq(stats.preemptions, 0);
  ck_assert_int_eq(stats.cached_tokens, (FORKS - 1) * (a[0].count - 1));
  ck_assert_int_le(stats.most_pages, 3 + FORKS);
  finish(&f);
  // A fork that is more urgent than its kin does not count on what that would lose.
  start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 5, qn_fake_kernels);
  for (int i = 0; i < 2; i++) {
    size_t left;
    uint64_t idle;
    qn_request_params params = params_of(&a[i], &r[i]);
    r[i].a = NULL;
    params.ignore_eog = true;
    params.priority = i ? QN_PRIORITY_ONLINE : QN_PRIORITY_BATCH;
    params.fork_of = i ? r[0].id : 0;
    add(&f, &params);
    if (i) break;
    for (int s = 0; s < 2; s++) qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
  }
  step_to_end(&f);
  ck_assert(stats_of(&f).finished == 2 && r[0].ended && r[1].ended);
  finish(&f);
  close_fixture(&f);
}
END_TEST

// What was swapped out and put back is kept for others when it ends, as if it had never been away.
START_TEST(swapped_texts_are_known) {
  fixture f;
  running r[3];
  size_t left = 1;
  uint64_t idle;
  asked batch = plain_request(2 * QN_FAKE_PAGE_KEYS + 2, 12), online = plain_request(PROMPT_MOST, 2);
  for (int64_t i = 0; i < online.count; i++) online.prompt[i] = QN_FAKE_AB + (int32_t)i % 2;
  open_fixture(&f);
  prefixes = true;
  start(&f, &(qn_scheduler_options){.preemption = QN_PREEMPT_SWAP}, 2, 5, qn_fake_kernels);
  prefixes = false;
  const asked *all[] = {&batch, &online, &batch};
  for (int i = 0; i < 3; i++) {
    qn_request_params params = params_of(all[i], &r[i]);
    r[i].a = NULL;
    params.ignore_eog = true;
    params.priority = i == 0 ? QN_PRIORITY_BATCH : QN_PRIORITY_ONLINE;
    if (i == 2) {  // the first has ended: all of its prompt is found but the last token
      step_to_end(&f);
      ck_assert(stats_of(&f).swapped_in == 1 && r[0].result.preemptions == 1 && r[0].result.generated_tokens == 12);
    }
    add(&f, &params);
    for (int s = 0; i == 0 && s < 6; s++) qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
  }
  step_to_end(&f);
  ck_assert_int_eq(r[2].result.cached_tokens, batch.count - 1);
  finish(&f);
  close_fixture(&f);
}
END_TEST

// Pages that were promised to a prompt are not taken for guesses: nobody is preempted for them.
START_TEST(guesses_leave_prompts_their_pages) {
  fixture f;
  running r[2];
  const qn_guesser guesser = {.create = create_eager};
  asked decoding = plain_request(12, 60), prompt = plain_request(20, 1);
  open_fixture(&f);
  start(&f, &(qn_scheduler_options){.step_tokens = 16}, 2, 3, qn_fake_kernels);  // a page, and two of the prompt
  asked *all[] = {&decoding, &prompt};
  for (int i = 0; i < 2; i++) {
    qn_request_params params = params_of(all[i], &r[i]);
    r[i].a = NULL;
    r[i].stop_after = i == 0;  // before it needs a second page for itself
    params.ignore_eog = true;
    params.guesser = i == 0 ? &guesser : NULL;
    params.guesses = i == 0 ? 15 : 0;
    add(&f, &params);
  }
  step_to_end(&f);
  qn_scheduler_stats stats = stats_of(&f);
  ck_assert_int_gt(stats.proposed, 0);
  ck_assert_int_eq(stats.preemptions, 0);
  ck_assert_int_eq(stats.recomputed_tokens, 0);
  ck_assert(r[0].ended && r[1].ended && r[1].status == QN_OK && r[1].result.generated_tokens == 1);
  finish(&f);
  close_fixture(&f);
}
END_TEST

// --- who goes first

// A request of which only when it ends is looked at.
static qn_request_params timed(const asked *a, running *r, int *order) {
  qn_request_params params = params_of(a, r);
  r->a = NULL;
  r->order = order;
  r->may_end_early = true;
  params.ignore_eog = true;
  return params;
}

START_TEST(online_before_batch) {
  fixture f;
  running r[6];
  int order = 0;
  asked a = plain_request(20, 10);
  open_fixture(&f);
  start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 0, qn_fake_kernels);
  for (int i = 0; i < 6; i++) {
    qn_request_params params = timed(&a, &r[i], &order);
    params.priority = i < 4 ? QN_PRIORITY_BATCH : QN_PRIORITY_ONLINE;
    if (i == 4) {  // two of batch have the rows
      size_t left;
      uint64_t idle;
      for (int s = 0; s < 5; s++) qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
    }
    add(&f, &params);
  }
  step_to_end(&f);
  ck_assert(r[4].place < 2 && r[5].place < 2 && r[0].place < r[2].place && r[1].place < r[3].place);
  ck_assert(r[0].result.preemptions == 1 && r[1].result.preemptions == 1 && r[4].result.preemptions == 0);
  finish(&f);
  // Whoever has waited long counts as online: then the order is that of arrival.
  order = 0;
  start(&f, &(qn_scheduler_options){.patience_ns = 1}, 1, 0, qn_fake_kernels);
  for (int i = 0; i < 3; i++) {
    qn_request_params params = timed(&a, &r[i], &order);
    params.priority = i < 2 ? QN_PRIORITY_BATCH : QN_PRIORITY_ONLINE;
    add(&f, &params);
    atomic_fetch_add(&clock_ns, 10);
  }
  step_to_end(&f);
  ck_assert(r[0].place == 0 && r[1].place == 1 && r[2].place == 2);
  finish(&f);
  close_fixture(&f);
}
END_TEST

// One client has many requests, another comes later with two: it does not wait for all of the first one's.
START_TEST(clients_in_turn) {
  fixture f;
  running r[12];
  int order = 0;
  asked a = plain_request(8, 8);
  open_fixture(&f);
  start(&f, &(qn_scheduler_options){.step_tokens = 0}, 1, 0, qn_fake_kernels);
  for (int i = 0; i < 12; i++) {
    qn_request_params params = timed(&a, &r[i], &order);
    params.client = i < 10 ? 1 : 2;
    add(&f, &params);
  }
  step_to_end(&f);
  ck_assert(r[10].place == 1 && r[11].place == 3 && r[0].place == 0 && r[1].place == 2 && r[9].place == 11);
  finish(&f);
  close_fixture(&f);
}
END_TEST

START_TEST(batches) {
  fixture f;
  running r[4];
  int order = 0;
  asked small = plain_request(4, 3), large = plain_request(4, 20);
  size_t left;
  uint64_t idle;
  open_fixture(&f);
  for (int batching = QN_BATCHING_CONTINUOUS; batching < QN_BATCHING_COUNT; batching++) {
    start(&f, &(qn_scheduler_options){.batching = (qn_batching)batching, .batch_wait_ns = 50000}, 3, 0, qn_fake_kernels);
    order = 0;
    for (int i = 0; i < 2; i++) {
      qn_request_params params = timed(i ? &large : &small, &r[i], &order);
      add(&f, &params);
    }
    qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
    bool waits = batching == QN_BATCHING_DYNAMIC;
    ck_assert_uint_eq(left, 2);
    ck_assert_int_eq(stats_of(&f).running, waits ? 0 : 2);
    ck_assert_uint_eq(idle, waits ? 50000 : 0);
    atomic_fetch_add(&clock_ns, 50000);  // so long does a batch wait that is not full
    qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
    ck_assert_int_eq(stats_of(&f).running, 2);
    for (int i = 2; i < 4; i++) {
      qn_request_params params = timed(&small, &r[i], &order);
      add(&f, &params);
    }
    step_to_end(&f);
    // Continuous: they take the free row and that of the first; else they wait for the large one.
    ck_assert_int_eq(r[1].place, batching == QN_BATCHING_CONTINUOUS ? 3 : 1);
    finish(&f);
  }
  close_fixture(&f);
}
END_TEST

// --- how long a step takes

static void slow_fill(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  qn_fake_kernels[0](buffers, symbols, begin, end);
  atomic_fetch_add(&clock_ns, (uint64_t)(end - begin) * 100 + (begin == 0 ? 1000 : 0));  // by the tokens of the step
}

// Steps of 16 tokens take 2,600 ns, but while somebody decodes prompts are taken in by 16 tokens in all as the floor, and
// by more only as far as the bound lets them.
START_TEST(nobody_waits_longer) {
  static qn_kernel_entry kernels[QN_FAKE_KERNELS];
  fixture f;
  running r[8];
  int order = 0;
  memcpy(kernels, qn_fake_kernels, sizeof kernels);
  kernels[0] = slow_fill;
  open_fixture(&f);
  qn_artifact_close(&f.artifact);
  f.artifact = qn_fake_model_open(&(qn_fake_options){.tokenizer = true, .max_t = 128});
  asked small = plain_request(2, 60), large = plain_request(PROMPT_MOST, 2);
  uint64_t longest[2];
  int64_t steps[2];
  for (int bounded = 0; bounded < 2; bounded++) {
    start(&f, &(qn_scheduler_options){.longest_wait_ns = bounded ? 5000 : 0}, 8, 0, kernels);
    for (int i = 0; i < 8; i++) {
      qn_request_params params = timed(i < 2 ? &small : &large, &r[i], &order);
      add(&f, &params);
      size_t left;
      uint64_t idle;
      for (int s = 0; s < 3; s++) qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
    }
    step_to_end(&f);
    longest[bounded] = stats_of(&f).longest_step_ns;
    steps[bounded] = stats_of(&f).steps;
    finish(&f);
  }
  ck_assert_uint_gt(longest[0], 7000);
  ck_assert_uint_le(longest[1], 5000);
  ck_assert_int_gt(steps[1], 0);
  close_fixture(&f);
}
END_TEST

// --- errors stay with their request

// Guesses are tokens that may be taken back, which sums of attention are not.
START_TEST(guesses_beside_sums) {
  fixture f;
  running r;
  const qn_guesser guesser = {.create = create_eager};
  asked a = plain_request(40, 30);
  evict = "hitters";
  open_fixture(&f);
  generate_alone(&f, &a);
  start(&f, &(qn_scheduler_options){.step_tokens = 16}, 2, 0, qn_fake_kernels);
  qn_request_params params = params_of(&a, &r);
  params.guesser = &guesser;
  qn_assert_fails(&f.diag, QN_ERR_UNSUPPORTED, "got guesses beside keys that are evicted by sums of attention",
                  qn_scheduler_add(f.scheduler, &params, &r.id, &f.diag));
  f.diag = (qn_diag){0};
  params.guesser = NULL;
  add(&f, &params);
  step_to_end(&f);
  evict = NULL;
  finish(&f);
  close_fixture(&f);
}
END_TEST

START_TEST(refused_when_added) {
  fixture f;
  qn_decoder *decoder = NULL;
  qn_scheduler *scheduler = NULL;
  running r;
  uint64_t id = 9;
  asked a = plain_request(4, 4);
  open_fixture(&f);
  start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 4, qn_fake_kernels);  // 64 keys in all
  qn_request_params good = params_of(&a, &r), p = good;
  int32_t many[65] = {0};
#define REFUSED(status, needle) \
  qn_assert_fails(&f.diag, status, needle, qn_scheduler_add(f.scheduler, &p, &id, &f.diag)); \
  ck_assert_uint_eq(id, 0); \
  f.diag = (qn_diag){0}; \
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
  open_decoder(&f, 1, 0, qn_fake_kernels, &decoder);
  const struct {
    qn_scheduler_options options;
    const char *needle;
  } wrong[] = {{{.batching = (qn_batching)3}, "batching: got 3"},
               {{.preemption = (qn_preemption)2}, "preemption: got 2"},
               {{.step_tokens = 17}, "step_tokens: got 17, want 1 to 16"}};
  for (size_t i = 0; i < QN_COUNT(wrong); i++) {
    qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, wrong[i].needle,
                    qn_scheduler_create(decoder, NULL, QN_FAKE_VOCAB, &wrong[i].options, qn_test_allocator(), &scheduler,
                                        &f.diag));
    f.diag = (qn_diag){0};
  }
  qn_decoder_destroy(decoder);
  finish(&f);
  close_fixture(&f);
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
  static asked all[4];
  fixture f;
  running r[5];
  qn_test_random random = {5};
  memcpy(kernels, qn_fake_kernels, sizeof kernels);
  kernels[0] = find_spoiled;
  kernels[3] = spoil;
  open_fixture(&f);
  start(&f, &(qn_scheduler_options){.step_tokens = 0}, 6, 0, kernels);
  for (int i = 0; i < 4; i++) {
    ask(&f, &random, &all[i]);
    qn_request_params params = params_of(&all[i], &r[i]);
    add(&f, &params);
  }
  asked bad = plain_request(3, 5);
  bad.prompt[2] = 39;
  qn_request_params params = timed(&bad, &r[4], NULL);
  add(&f, &params);
  atomic_store(&spoiled, -1);
  step_to_end(&f);
  ck_assert(r[4].status == QN_ERR_FORMAT && strstr(r[4].error, "the logits are not numbers"));
  for (int i = 0; i < 4; i++) ck_assert(r[i].ended && r[i].status == QN_OK);
  ck_assert_int_eq(stats_of(&f).failed, 1);
  finish(&f);
  close_fixture(&f);
}
END_TEST

START_TEST(no_page_and_nobody_to_take_one_from) {
  fixture f;
  running r;
  asked a = plain_request(20, 10);
  open_fixture(&f);
  start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 8, qn_fake_kernels);
  qn_assert_ok(&f.diag, qn_decoder_fill(f.decoder, 1, 112, &f.diag));  // of which the scheduler knows nothing
  qn_request_params params = timed(&a, &r, NULL);
  add(&f, &params);
  size_t left = 1;
  uint64_t idle;
  qn_assert_fails(&f.diag, QN_ERR_INTERNAL, "row 1: got 112 tokens, want 0", qn_scheduler_check(f.scheduler, &f.diag));
  while (left > 0) qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
  ck_assert(r.status == QN_ERR_LIMIT && strstr(r.error, "nobody to take one from"));
  qn_decoder_reset(f.decoder, 1);
  f.diag = (qn_diag){0};
  finish(&f);
  close_fixture(&f);
}
END_TEST

// What was kept of a request is damaged or gone: it is evaluated again, and its tokens are the same.
static int warnings;
static void count_warnings(void *context, qn_log_level level, const char *text) {
  (void)context;
  warnings += level == QN_LOG_WARNING && strstr(text, "tokens again") != NULL;
}

START_TEST(swapped_out_and_lost) {
  static asked all[6];
  fixture f;
  running r[6];
  qn_test_random random = {21};
  char command[600];
  open_fixture(&f);
  const char *folder = qn_test_temp_path("swap");
  snprintf(command, sizeof command, "mkdir -p %s", folder);
  ck_assert_int_eq(system(command), 0);
  start(&f, &(qn_scheduler_options){.preemption = QN_PREEMPT_SWAP, .swap_folder = folder}, 6, 8, qn_fake_kernels);
  for (int i = 0; i < 6; i++) {
    ask(&f, &random, &all[i]);
    qn_request_params params = params_of(&all[i], &r[i]);
    add(&f, &params);
  }
  size_t left = 1;
  uint64_t idle;
  qn_log_set(count_warnings, NULL);
  snprintf(command, sizeof command, "for f in %s/*.kv; do [ ! -e $f ] || truncate -s 99 $f; done", folder);
  while (left > 0) {
    qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
    if (stats_of(&f).swapped_out > 0) ck_assert_int_eq(system(command), 0);
  }
  for (int i = 0; i < 6; i++) ck_assert(r[i].ended && r[i].status == QN_OK);
  qn_log_set(NULL, NULL);
  ck_assert_int_eq(stats_of(&f).swaps_lost, warnings);
  ck_assert(warnings > 0 && stats_of(&f).recomputed_tokens > 0);
  snprintf(command, sizeof command, "rmdir %s", folder);  // no file is left
  ck_assert_int_eq(system(command), 0);
  finish(&f);
  close_fixture(&f);
}
END_TEST

// --- the host's side

typedef struct chained {
  fixture *f;
  const asked *a;
  int left, ended;
} chained;

static void add_another(void *context, uint64_t id, const qn_request_result *result) {
  chained *c = context;
  (void)id;
  c->ended += result->status == QN_OK;
  if (c->left-- <= 0) return;
  qn_request_params params = {
      .prompt = c->a->prompt, .prompt_count = 4, .max_tokens = 3, .sampler = c->a->sampler, .done = add_another, .context = c};
  uint64_t other;
  qn_assert_ok(&c->f->diag, qn_scheduler_add(c->f->scheduler, &params, &other, &c->f->diag));
}

START_TEST(a_callback_adds) {
  fixture f;
  asked a = plain_request(4, 3);
  open_fixture(&f);
  start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 0, qn_fake_kernels);
  chained c = {&f, &a, 5, 0};
  add_another(&c, 0, &(qn_request_result){.status = QN_OK});
  ck_assert(qn_scheduler_wait(f.scheduler, QN_SCHEDULER_IDLE));
  step_to_end(&f);
  ck_assert_int_eq(c.ended, 6);
  c.left = 2;  // one is there when the scheduler goes, and its end adds another, whose end adds none
  add_another(&c, 0, &(qn_request_result){.status = QN_OK});
  finish(&f);
  ck_assert_int_eq(c.ended, 9);
  close_fixture(&f);
}
END_TEST

enum { WORKERS = 3, EACH = 20 };
typedef struct worker {
  fixture *f;
  const asked *all;
  running r[EACH];
  uint64_t seed;
} worker;

static void *add_from_elsewhere(void *context) {
  worker *w = context;
  qn_test_random random = {w->seed};
  for (int i = 0; i < EACH; i++) {
    qn_request_params params = params_of(&w->all[i], &w->r[i]);
    qn_diag diag = {0};
    uint64_t id = 0;
    w->r[i].may_end_early = true;
    params.done = NULL;  // ids are not known yet when it ends
    qn_check(qn_scheduler_add(w->f->scheduler, &params, &id, &diag) == QN_OK, "%s", diag.text);
    if (below(&random, 3) == 0) qn_scheduler_cancel(w->f->scheduler, id);
  }
  return NULL;
}

START_TEST(added_by_threads) {
  static asked all[EACH];
  static worker workers[WORKERS];
  pthread_t threads[WORKERS];
  fixture f;
  qn_test_random random = {3};
  open_fixture(&f);
  for (int i = 0; i < EACH; i++) ask(&f, &random, &all[i]);
  f.allocator = qn_allocator_default();  // the tests' own is for one thread
  start(&f, &(qn_scheduler_options){.step_tokens = 0}, 5, 12, qn_fake_kernels);
  for (int i = 0; i < WORKERS; i++) {
    workers[i] = (worker){.f = &f, .all = all, .seed = (uint64_t)i + 1};
    ck_assert_int_eq(pthread_create(&threads[i], NULL, add_from_elsewhere, &workers[i]), 0);
  }
  while (stats_of(&f).added < WORKERS * EACH) {
    size_t left;
    uint64_t idle;
    qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
    if (idle == QN_SCHEDULER_IDLE) qn_scheduler_wait(f.scheduler, 1000000);
  }
  for (int i = 0; i < WORKERS; i++) pthread_join(threads[i], NULL);
  step_to_end(&f);
  for (int i = 0; i < WORKERS; i++) {
    for (int j = 0; j < EACH; j++)
      qn_check(strncmp(workers[i].r[j].text, all[j].text, strlen(workers[i].r[j].text)) == 0, "another text than alone");
  }
  finish(&f);
  close_fixture(&f);
}
END_TEST

static qn_status with_little_memory(const qn_allocator *allocator, void *context) {
  fixture *f = context;
  qn_scheduler *s = NULL;
  asked a = plain_request(20, 4);
  running r;
  qn_diag diag = {0};
  size_t left = 1;
  uint64_t idle;
  QN_TRY(qn_scheduler_create(f->decoder, f->tokenizer, QN_FAKE_TOKENS,
                             &(qn_scheduler_options){.swap_folder = "nowhere"}, allocator, &s, &diag));
  qn_request_params params = timed(&a, &r, NULL);
  params.stops = &QN_STR("never");
  params.stop_count = 1;
  qn_status status = qn_scheduler_add(s, &params, &r.id, &diag);
  while (status == QN_OK && left > 0) status = qn_scheduler_step(s, &left, &idle, &diag);
  if (status == QN_OK) status = r.status;
  qn_scheduler_destroy(s);
  return status;
}

START_TEST(out_of_memory) {
  fixture f;
  open_fixture(&f);
  open_decoder(&f, 2, 0, qn_fake_kernels, &f.decoder);
  qn_test_failing_allocations(with_little_memory, &f);
  qn_decoder_destroy(f.decoder);
  close_fixture(&f);
}
END_TEST

QN_CASE(company, as_alone_in_any_company, as_alone_with_windows, as_alone_with_rings, as_alone_with_trees,
        as_alone_while_keys_are_evicted, forks_share_a_prompt, forks_are_admitted_by_what_they_take, swapped_texts_are_known,
        guesses_leave_prompts_their_pages)
QN_CASE(order, online_before_batch, clients_in_turn, batches, nobody_waits_longer)
QN_CASE(errors, guesses_beside_sums, refused_when_added, an_error_of_one, no_page_and_nobody_to_take_one_from,
        swapped_out_and_lost)
QN_CASE(host, a_callback_adds, added_by_threads, out_of_memory)
QN_TEST_MAIN(company, order, errors, host)
