// The scheduler on the hand-made model: every request has the tokens and the text that it has alone, whoever joins and
// leaves, whatever is preempted; and who goes first.
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/company.h"

enum { REQUESTS = 60 };

static int branched;  // drafts with several paths so far

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
  const qn_asked *a;
  qn_test_random random;
} knowing;

static qn_status branch_out(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                            qn_diag *diag) {
  knowing *k = (knowing *)self;
  int32_t paths = 0;
  (void)diag;
  for (int tries = 0; tries < 60 && out->count < room->tokens; tries++) {
    int32_t parent = (int32_t)qn_company_below(&k->random, (uint64_t)out->count + 1) - 1, depth = qn_draft_depth(out, parent);
    int64_t at = (int64_t)text->count + depth - k->a->count;
    bool knows = at < k->a->generated && qn_company_below(&k->random, 2);
    int32_t token = knows ? k->a->tokens[at] : (int32_t)qn_company_below(&k->random, QN_FAKE_TOKENS);
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

static void open_draft(qn_company *f, int32_t sequences, qn_decoder **out) {
  f->draft = qn_fake_model_open(&(qn_fake_options){.tokenizer = true, .slots = qn_company_how.evict});  // which it has as all models here
  qn_decoder_options options = {.context = QN_COMPANY_CONTEXT, .sequences = sequences, .executor = {.jit_entries = qn_fake_kernels}};
  qn_assert_ok(&f->diag, qn_decoder_create(&f->draft, f->threads, &options, qn_test_allocator(), out, &f->diag));
}

// Requests join at random steps, some are cancelled, some say stop.
static void mix(qn_company *f, const qn_asked *all, qn_test_random *random, const qn_scheduler_options *options,
                int32_t sequences, int64_t pages) {
  static qn_running r[REQUESTS];
  size_t left = 0;
  uint64_t idle;
  qn_decoder *draft = NULL;
  qn_ngrams *ngrams = NULL;
  static qn_guesser known[REQUESTS];
  open_draft(f, sequences * DRAFT_EACH, &draft);
  qn_assert_ok(&f->diag, qn_ngrams_create(qn_test_allocator(), &ngrams, &f->diag));
  const qn_guesser guessers[] = {
      {.create = create_lookup}, {create_draft, draft, 0.1, false}, {.create = create_lookahead, .context = ngrams}};
  qn_company_start(f, options, sequences, pages, qn_fake_kernels);
  for (size_t added = 0; added < REQUESTS || left > 0;) {
    for (uint64_t more = qn_company_below(random, 4) ? 0 : qn_company_below(random, 8); added < REQUESTS && more > 0; more--, added++) {
      qn_request_params params = qn_company_request(&all[added], &r[added]);
      r[added].may_end_early = qn_company_below(random, 6) == 0;
      r[added].stop_after = r[added].may_end_early && qn_company_below(random, 2);
      params.priority = qn_company_below(random, 2) ? QN_PRIORITY_BATCH : QN_PRIORITY_ONLINE;
      params.client = qn_company_below(random, 3);
      known[added] = (qn_guesser){.create = create_knowing, .context = (void *)(uintptr_t)&all[added]};
      uint64_t by = qn_company_below(random, 2) ? qn_company_below(random, QN_COUNT(guessers) + 1) : QN_COUNT(guessers) + 1;
      params.guesser = by < QN_COUNT(guessers) ? &guessers[by] : by == QN_COUNT(guessers) ? &known[added] : NULL;
      if (added > 0 && qn_company_below(random, 3) == 0) params.fork_of = r[qn_company_below(random, added)].id;
      params.guesses = (int32_t)qn_company_below(random, 5);
      qn_company_add(f, &params);
    }
    if (added > 0) {
      size_t which = qn_company_below(random, added);
      if (r[which].may_end_early && !r[which].ended) ck_assert(qn_scheduler_cancel(f->scheduler, r[which].id));
    }
    qn_assert_ok(&f->diag, qn_scheduler_step(f->scheduler, &left, &idle, &f->diag));
    qn_assert_ok(&f->diag, qn_scheduler_check(f->scheduler, &f->diag));
    atomic_fetch_add(&qn_company_clock_ns, 1000);
  }
  for (size_t i = 0; i < REQUESTS; i++) qn_check(r[i].ended && r[i].status == QN_OK, "request %d: %s", (int)i, r[i].error);
  qn_scheduler_stats stats = qn_company_stats(f);
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
  static qn_asked all[REQUESTS];
  qn_test_random random = {77};
  qn_company f;
  met_company met = {0};
  qn_fake_set_window(window);
  qn_company_open(&f);
  qn_company_how.begin_alike = true;
  for (size_t i = 0; i < REQUESTS; i++) qn_company_ask(&f, &random, &all[i]);
  for (int32_t sequences = 1; sequences <= 16; sequences += (int32_t)stride) {
    int64_t pages = enough + sequences % 3;
    for (int variant = 0; variant < 3; variant++) {
      qn_scheduler_options options = {.preemption = variant == 0 ? QN_PREEMPT_RECOMPUTE : QN_PREEMPT_SWAP,
                                      .swap_folder = variant == 2 ? qn_test_temp_dir() : NULL,
                                      .batching = (qn_batching)(sequences % QN_BATCHING_COUNT),
                                      .batch_wait_ns = 5000,
                                      .patience_ns = sequences % 2 ? 20000 : 0,
                                      .step_tokens = 1 + (int64_t)qn_company_below(&random, 16)};
      qn_company_how.prefixes = (sequences + variant) % 2;
      mix(&f, all, &random, &options, sequences, pages);
      qn_company_how.prefixes = false;
      qn_scheduler_stats stats = qn_company_stats(&f);
      met.cached += stats.cached_tokens;
      met.preempted += stats.preemptions;
      met.proposed += stats.proposed;
      met.accepted += stats.accepted;
      met.swapped += stats.swapped_in;
      ck_assert(stats.swaps_lost == 0 && (variant > 0 || stats.swapped_out == 0));
      qn_company_finish(&f);
    }
  }
  qn_company_close(&f);
  qn_fake_set_window(0);
  return met;
}

START_TEST(as_alone_in_any_company) {
  size_t stride = qn_test_stride(1, 3);
  met_company met = meet(0, QN_COMPANY_CONTEXT / QN_FAKE_PAGE_KEYS, stride);
  ck_assert_msg(met.proposed > met.accepted && met.accepted > 5, "got %d of %d", (int)met.accepted, (int)met.proposed);
  ck_assert_msg(met.preempted > 5 && met.swapped > 2, "got %d and %d", (int)met.preempted, (int)met.swapped);
  ck_assert_msg(met.cached > 200 / (int64_t)stride, "got %d tokens", (int)met.cached);
}
END_TEST

// Guesses that branch, of several requests in a step.
START_TEST(as_alone_with_trees) {
  branched = 0;
  qn_company_how.trees = true;
  size_t stride = qn_test_stride(2, 5);
  met_company met = meet(0, QN_COMPANY_CONTEXT / QN_FAKE_PAGE_KEYS, stride);
  ck_assert_msg(branched > 200 / (int)stride, "got %d drafts that branch", branched);
  ck_assert_msg(met.proposed > met.accepted && met.accepted > 500 / (int64_t)stride, "got %d of %d", (int)met.accepted,
                (int)met.proposed);
  ck_assert_msg(met.preempted > 2, "got %d", (int)met.preempted);
  meet(9, 4, qn_test_stride(4, 9));  // and with windows
  qn_fake_set_rings(true);           // with windows beside what sees all
  meet(9, QN_COMPANY_CONTEXT / QN_FAKE_PAGE_KEYS, qn_test_stride(4, 9));
  qn_fake_set_rings(false);
  qn_company_how.evict = "norm";  // and where keys are given up
  meet(0, 2, qn_test_stride(4, 9));
  qn_company_how.evict = NULL;
  qn_company_how.trees = false;
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
  met_company met = meet(WINDOW, QN_COMPANY_CONTEXT / QN_FAKE_PAGE_KEYS, qn_test_stride(4, 7));
  qn_fake_set_rings(false);
  ck_assert_msg(met.preempted > 5 && met.swapped > 0, "got %d and %d", (int)met.preempted, (int)met.swapped);
}
END_TEST

// Keys that are given up, with and without a row for who does: pages are enough for what is left.
START_TEST(as_alone_while_keys_are_evicted) {
  enum { ENOUGH = (QN_COMPANY_KEEP + QN_FAKE_PAGE_KEYS - 1) / QN_FAKE_PAGE_KEYS };
  static const char *const policies[] = {"norm", "heavy"};
  for (size_t i = 0; i < QN_COUNT(policies); i++) {
    qn_company_how.evict = policies[i];
    met_company met = meet(0, ENOUGH, qn_test_stride(4, 7));
    qn_company_how.evict = NULL;
    ck_assert_msg(met.proposed > met.accepted && met.accepted > 5, "got %d of %d", (int)met.accepted, (int)met.proposed);
    ck_assert_msg(met.preempted > 5 && met.swapped > 0, "got %d and %d", (int)met.preempted, (int)met.swapped);
    ck_assert_msg(met.cached > 0, "got %d tokens", (int)met.cached);
  }
}
END_TEST

// Several answers to one prompt: the first evaluates it, the others share its pages and evaluate their last token.
START_TEST(forks_share_a_prompt) {
  enum { FORKS = 5 };
  static qn_asked a[FORKS];
  static qn_running r[FORKS];
  qn_company f;
  int64_t pages = 4 * FORKS;
  qn_company_open(&f);
  for (int i = 0; i < FORKS; i++) {
    a[i] = qn_company_plain(2 * QN_FAKE_PAGE_KEYS + 3, 12);
    a[i].sampler.temperature = 1;
    a[i].sampler.seed = (uint64_t)i;
    qn_company_alone(&f, &a[i]);
  }
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 8}, FORKS, pages, qn_fake_kernels);
  for (int i = 0; i < FORKS; i++) {
    qn_request_params params = qn_company_request(&a[i], &r[i]);
    params.fork_of = i ? r[0].id : 0;
    qn_company_add(&f, &params);
  }
  qn_company_step_to_end(&f);
  qn_scheduler_stats stats = qn_company_stats(&f);
  ck_assert_int_eq(stats.prompt_tokens, a[0].count + FORKS - 1);
  ck_assert_int_eq(stats.cached_tokens, (FORKS - 1) * (a[0].count - 1));
  ck_assert_int_eq(stats.finished, FORKS);
  qn_company_finish(&f);
  // Where the first one has ended nothing is shared.
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 0, qn_fake_kernels);
  qn_request_params params = qn_company_request(&a[0], &r[0]);
  qn_company_add(&f, &params);
  qn_company_step_to_end(&f);
  params = qn_company_request(&a[1], &r[1]);
  params.fork_of = r[0].id;
  qn_company_add(&f, &params);
  qn_company_step_to_end(&f);
  ck_assert_int_eq(qn_company_stats(&f).cached_tokens, 0);
  params.fork_of = 3;
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "fork_of: got 3, want 0 or a request that was added before",
                  qn_scheduler_add(f.scheduler, &params, &r[1].id, &f.diag));
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

// Forks are taken in by the pages that they do not share: all at once where whole prompts would have room for two. Each holds a
// copy of the prompt's last page, and nobody needs another.
START_TEST(forks_are_admitted_by_what_they_take) {
  enum { FORKS = 5, PAGES = 4 + FORKS };
  static qn_asked a[FORKS];
  static qn_running r[FORKS];
  qn_company f;
  qn_company_open(&f);
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, FORKS, PAGES, qn_fake_kernels);
  for (int i = 0; i < FORKS; i++) {
    a[i] = qn_company_plain(3 * QN_FAKE_PAGE_KEYS + 4, 8);
    qn_request_params params = qn_company_request(&a[i], &r[i]);
    r[i].a = NULL;
    params.ignore_eog = true;
    params.fork_of = i ? r[0].id : 0;
    qn_company_add(&f, &params);
  }
  qn_company_step_to_end(&f);
  qn_scheduler_stats stats = qn_company_stats(&f);
  ck_assert_int_eq(stats.most_running, FORKS);
  ck_assert_int_eq(stats.preemptions, 0);
  ck_assert_int_eq(stats.cached_tokens, (FORKS - 1) * (a[0].count - 1));
  ck_assert_int_le(stats.most_pages, 3 + FORKS);
  qn_company_finish(&f);
  // A fork that is more urgent than its kin does not count on what that would lose.
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 5, qn_fake_kernels);
  for (int i = 0; i < 2; i++) {
    size_t left;
    uint64_t idle;
    qn_request_params params = qn_company_request(&a[i], &r[i]);
    r[i].a = NULL;
    params.ignore_eog = true;
    params.priority = i ? QN_PRIORITY_ONLINE : QN_PRIORITY_BATCH;
    params.fork_of = i ? r[0].id : 0;
    qn_company_add(&f, &params);
    if (i) break;
    for (int s = 0; s < 2; s++) qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
  }
  qn_company_step_to_end(&f);
  ck_assert(qn_company_stats(&f).finished == 2 && r[0].ended && r[1].ended);
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

// Adds one of which only the end is looked at.
static void add_timed(qn_company *f, const qn_asked *a, qn_running *r, qn_priority priority, uint64_t fork_of) {
  qn_request_params params = qn_company_timed(a, r, NULL);
  params.priority = priority;
  params.fork_of = fork_of;
  qn_company_add(f, &params);
}

static void step(qn_company *f, int steps) {
  size_t left;
  uint64_t idle;
  for (int i = 0; i < steps; i++) qn_assert_ok(&f->diag, qn_scheduler_step(f->scheduler, &left, &idle, &f->diag));
}

// Pages that two batch requests share are free once when both lose their rows: nobody is thrown out for less than an online
// one needs.
START_TEST(shared_pages_are_freed_once) {
  qn_company f;
  qn_running r[4];
  qn_asked online = qn_company_plain(3 * QN_FAKE_PAGE_KEYS + 2, 14), batch = qn_company_plain(2 * QN_FAKE_PAGE_KEYS + 8, 8);
  qn_asked large = qn_company_plain(4 * QN_FAKE_PAGE_KEYS + 6, 2);
  qn_company_open(&f);
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, 4, 8, qn_fake_kernels);
  add_timed(&f, &online, &r[0], QN_PRIORITY_ONLINE, 0);
  add_timed(&f, &batch, &r[1], QN_PRIORITY_BATCH, 0);
  add_timed(&f, &batch, &r[2], QN_PRIORITY_BATCH, r[1].id);
  step(&f, 10);
  ck_assert_int_eq(qn_company_stats(&f).running, 3);
  ck_assert_int_eq(qn_company_stats(&f).free_pages, 0);
  add_timed(&f, &large, &r[3], QN_PRIORITY_ONLINE, 0);  // 5 pages, and without the batch there are 4
  qn_company_step_to_end(&f);
  ck_assert_int_eq(qn_company_stats(&f).preemptions, 0);
  ck_assert_int_eq(qn_company_stats(&f).finished, 4);
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

// Who begins with kept pages that somebody has anyway is taken in by what it takes beside them, of any kin or none.
START_TEST(kept_pages_that_others_have_cost_nothing) {
  qn_company f;
  qn_running r[3];
  qn_asked a = qn_company_plain(2 * QN_FAKE_PAGE_KEYS + 4, 12);
  qn_company_open(&f);
  for (int fork = 0; fork < 2; fork++) {
    qn_company_how.prefixes = true;
    qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 5, qn_fake_kernels);
    qn_company_how.prefixes = false;
    add_timed(&f, &a, &r[0], QN_PRIORITY_ONLINE, 0);
    qn_company_step_to_end(&f);
    add_timed(&f, &a, &r[1], QN_PRIORITY_ONLINE, 0);
    step(&f, 1);
    add_timed(&f, &a, &r[2], QN_PRIORITY_ONLINE, fork ? r[0].id : 0);  // whose kin has ended
    qn_company_step_to_end(&f);
    ck_assert_int_eq(qn_company_stats(&f).most_running, 2);
    ck_assert_int_eq(qn_company_stats(&f).preemptions, 0);
    ck_assert_int_eq(r[2].result.cached_tokens, a.count - 1);
    qn_company_finish(&f);
  }
  qn_company_close(&f);
}
END_TEST

// Who gives keys up will copy the pages that it shares: those are promised to it, and nobody is taken in by them.
START_TEST(copies_are_promised) {
  qn_company f;
  qn_running r[3];
  qn_asked first = qn_company_plain(QN_FAKE_PAGE_KEYS + 4, 2), fork = qn_company_plain(QN_COMPANY_KEEP + 6, 4);
  qn_asked small = qn_company_plain(5, 4);
  qn_company_how.evict = "sinks";
  qn_company_open(&f);
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, 3, 4, qn_fake_kernels);
  add_timed(&f, &first, &r[0], QN_PRIORITY_ONLINE, 0);
  step(&f, 2);  // its prompt
  add_timed(&f, &fork, &r[1], QN_PRIORITY_ONLINE, r[0].id);
  add_timed(&f, &small, &r[2], QN_PRIORITY_ONLINE, 0);
  step(&f, 1);
  ck_assert_int_eq(qn_company_stats(&f).cached_tokens, first.count);
  qn_company_step_to_end(&f);
  ck_assert_int_eq(qn_company_stats(&f).preemptions, 0);
  ck_assert_int_eq(qn_company_stats(&f).finished, 3);
  qn_company_finish(&f);
  qn_company_close(&f);
  qn_company_how.evict = NULL;
}
END_TEST

// What was swapped out and put back is kept for others when it ends, as if it had never been away.
START_TEST(swapped_texts_are_known) {
  qn_company f;
  qn_running r[3];
  size_t left = 1;
  uint64_t idle;
  qn_asked batch = qn_company_plain(2 * QN_FAKE_PAGE_KEYS + 2, 12), online = qn_company_plain(QN_COMPANY_PROMPT, 2);
  for (int64_t i = 0; i < online.count; i++) online.prompt[i] = QN_FAKE_AB + (int32_t)i % 2;
  qn_company_open(&f);
  qn_company_how.prefixes = true;
  qn_company_start(&f, &(qn_scheduler_options){.preemption = QN_PREEMPT_SWAP}, 2, 5, qn_fake_kernels);
  qn_company_how.prefixes = false;
  const qn_asked *all[] = {&batch, &online, &batch};
  for (int i = 0; i < 3; i++) {
    qn_request_params params = qn_company_request(all[i], &r[i]);
    r[i].a = NULL;
    params.ignore_eog = true;
    params.priority = i == 0 ? QN_PRIORITY_BATCH : QN_PRIORITY_ONLINE;
    if (i == 2) {  // the first has ended: all of its prompt is found but the last token
      qn_company_step_to_end(&f);
      ck_assert(qn_company_stats(&f).swapped_in == 1 && r[0].result.preemptions == 1 && r[0].result.generated_tokens == 12);
    }
    qn_company_add(&f, &params);
    for (int s = 0; i == 0 && s < 6; s++) qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
  }
  qn_company_step_to_end(&f);
  ck_assert_int_eq(r[2].result.cached_tokens, batch.count - 1);
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

// Pages that were promised to a prompt are not taken for guesses: nobody is preempted for them.
START_TEST(guesses_leave_prompts_their_pages) {
  qn_company f;
  qn_running r[2];
  const qn_guesser guesser = {.create = create_eager};
  qn_asked decoding = qn_company_plain(12, 60), prompt = qn_company_plain(20, 1);
  qn_company_open(&f);
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 16}, 2, 3, qn_fake_kernels);  // a page, and two of the prompt
  qn_asked *all[] = {&decoding, &prompt};
  for (int i = 0; i < 2; i++) {
    qn_request_params params = qn_company_request(all[i], &r[i]);
    r[i].a = NULL;
    r[i].stop_after = i == 0;  // before it needs a second page for itself
    params.ignore_eog = true;
    params.guesser = i == 0 ? &guesser : NULL;
    params.guesses = i == 0 ? 15 : 0;
    qn_company_add(&f, &params);
  }
  qn_company_step_to_end(&f);
  qn_scheduler_stats stats = qn_company_stats(&f);
  ck_assert_int_gt(stats.proposed, 0);
  ck_assert_int_eq(stats.preemptions, 0);
  ck_assert_int_eq(stats.recomputed_tokens, 0);
  ck_assert(r[0].ended && r[1].ended && r[1].status == QN_OK && r[1].result.generated_tokens == 1);
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

// --- who goes first

// A request of which only when it ends is looked at.
START_TEST(online_before_batch) {
  qn_company f;
  qn_running r[6];
  int order = 0;
  qn_asked a = qn_company_plain(20, 10);
  qn_company_open(&f);
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, 2, 0, qn_fake_kernels);
  for (int i = 0; i < 6; i++) {
    qn_request_params params = qn_company_timed(&a, &r[i], &order);
    params.priority = i < 4 ? QN_PRIORITY_BATCH : QN_PRIORITY_ONLINE;
    if (i == 4) {  // two of batch have the rows
      size_t left;
      uint64_t idle;
      for (int s = 0; s < 5; s++) qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
    }
    qn_company_add(&f, &params);
  }
  qn_company_step_to_end(&f);
  ck_assert(r[4].place < 2 && r[5].place < 2 && r[0].place < r[2].place && r[1].place < r[3].place);
  ck_assert(r[0].result.preemptions == 1 && r[1].result.preemptions == 1 && r[4].result.preemptions == 0);
  qn_company_finish(&f);
  // Whoever has waited long counts as online: then the order is that of arrival.
  order = 0;
  qn_company_start(&f, &(qn_scheduler_options){.patience_ns = 1}, 1, 0, qn_fake_kernels);
  for (int i = 0; i < 3; i++) {
    qn_request_params params = qn_company_timed(&a, &r[i], &order);
    params.priority = i < 2 ? QN_PRIORITY_BATCH : QN_PRIORITY_ONLINE;
    qn_company_add(&f, &params);
    atomic_fetch_add(&qn_company_clock_ns, 10);
  }
  qn_company_step_to_end(&f);
  ck_assert(r[0].place == 0 && r[1].place == 1 && r[2].place == 2);
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

// One client has many requests, another comes later with two: it does not wait for all of the first one's.
START_TEST(clients_in_turn) {
  qn_company f;
  qn_running r[12];
  int order = 0;
  qn_asked a = qn_company_plain(8, 8);
  qn_company_open(&f);
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 0}, 1, 0, qn_fake_kernels);
  for (int i = 0; i < 12; i++) {
    qn_request_params params = qn_company_timed(&a, &r[i], &order);
    params.client = i < 10 ? 1 : 2;
    qn_company_add(&f, &params);
  }
  qn_company_step_to_end(&f);
  ck_assert(r[10].place == 1 && r[11].place == 3 && r[0].place == 0 && r[1].place == 2 && r[9].place == 11);
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

START_TEST(batches) {
  qn_company f;
  qn_running r[4];
  int order = 0;
  qn_asked small = qn_company_plain(4, 3), large = qn_company_plain(4, 20);
  size_t left;
  uint64_t idle;
  qn_company_open(&f);
  for (int batching = QN_BATCHING_CONTINUOUS; batching < QN_BATCHING_COUNT; batching++) {
    qn_company_start(&f, &(qn_scheduler_options){.batching = (qn_batching)batching, .batch_wait_ns = 50000}, 3, 0, qn_fake_kernels);
    order = 0;
    for (int i = 0; i < 2; i++) {
      qn_request_params params = qn_company_timed(i ? &large : &small, &r[i], &order);
      qn_company_add(&f, &params);
    }
    qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
    bool waits = batching == QN_BATCHING_DYNAMIC;
    ck_assert_uint_eq(left, 2);
    ck_assert_int_eq(qn_company_stats(&f).running, waits ? 0 : 2);
    ck_assert_uint_eq(idle, waits ? 50000 : 0);
    atomic_fetch_add(&qn_company_clock_ns, 50000);  // so long does a batch wait that is not full
    qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
    ck_assert_int_eq(qn_company_stats(&f).running, 2);
    for (int i = 2; i < 4; i++) {
      qn_request_params params = qn_company_timed(&small, &r[i], &order);
      qn_company_add(&f, &params);
    }
    qn_company_step_to_end(&f);
    // Continuous: they take the free row and that of the first; else they wait for the large one.
    ck_assert_int_eq(r[1].place, batching == QN_BATCHING_CONTINUOUS ? 3 : 1);
    qn_company_finish(&f);
  }
  qn_company_close(&f);
}
END_TEST

// --- how long a step takes

static void slow_fill(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  qn_fake_kernels[0](buffers, symbols, begin, end);
  atomic_fetch_add(&qn_company_clock_ns, (uint64_t)(end - begin) * 100 + (begin == 0 ? 1000 : 0));  // by the tokens of the step
}

// Steps of 16 tokens take 2,600 ns, but while somebody decodes prompts are taken in by 16 tokens in all as the floor, and
// by more only as far as the bound lets them.
START_TEST(nobody_waits_longer) {
  static qn_kernel_entry kernels[QN_FAKE_KERNELS];
  qn_company f;
  qn_running r[8];
  int order = 0;
  memcpy(kernels, qn_fake_kernels, sizeof kernels);
  kernels[0] = slow_fill;
  qn_company_open(&f);
  qn_artifact_close(&f.artifact);
  f.artifact = qn_fake_model_open(&(qn_fake_options){.tokenizer = true, .max_t = 128});
  qn_asked small = qn_company_plain(2, 60), large = qn_company_plain(QN_COMPANY_PROMPT, 2);
  uint64_t longest[2];
  int64_t steps[2];
  for (int bounded = 0; bounded < 2; bounded++) {
    qn_company_start(&f, &(qn_scheduler_options){.longest_wait_ns = bounded ? 5000 : 0}, 8, 0, kernels);
    for (int i = 0; i < 8; i++) {
      qn_request_params params = qn_company_timed(i < 2 ? &small : &large, &r[i], &order);
      qn_company_add(&f, &params);
      size_t left;
      uint64_t idle;
      for (int s = 0; s < 3; s++) qn_assert_ok(&f.diag, qn_scheduler_step(f.scheduler, &left, &idle, &f.diag));
    }
    qn_company_step_to_end(&f);
    longest[bounded] = qn_company_stats(&f).longest_step_ns;
    steps[bounded] = qn_company_stats(&f).steps;
    qn_company_finish(&f);
  }
  ck_assert_uint_gt(longest[0], 7000);
  ck_assert_uint_le(longest[1], 5000);
  ck_assert_int_gt(steps[1], 0);
  qn_company_close(&f);
}
END_TEST

// Guesses are tokens that may be taken back, which sums of attention are not.
START_TEST(guesses_beside_sums) {
  qn_company f;
  qn_running r;
  const qn_guesser guesser = {.create = create_eager};
  qn_asked a = qn_company_plain(40, 30);
  qn_company_how.evict = "hitters";
  qn_company_open(&f);
  qn_company_alone(&f, &a);
  qn_company_start(&f, &(qn_scheduler_options){.step_tokens = 16}, 2, 0, qn_fake_kernels);
  qn_request_params params = qn_company_request(&a, &r);
  params.guesser = &guesser;
  qn_assert_fails(&f.diag, QN_ERR_UNSUPPORTED, "got guesses beside keys that are evicted by sums of attention",
                  qn_scheduler_add(f.scheduler, &params, &r.id, &f.diag));
  f.diag = (qn_diag){0};
  params.guesser = NULL;
  qn_company_add(&f, &params);
  qn_company_step_to_end(&f);
  qn_company_how.evict = NULL;
  qn_company_finish(&f);
  qn_company_close(&f);
}
END_TEST

QN_CASE(company, as_alone_in_any_company, as_alone_with_windows, as_alone_with_rings, as_alone_with_trees,
        as_alone_while_keys_are_evicted, forks_share_a_prompt, forks_are_admitted_by_what_they_take, shared_pages_are_freed_once,
        kept_pages_that_others_have_cost_nothing, copies_are_promised, swapped_texts_are_known,
        guesses_leave_prompts_their_pages, guesses_beside_sums)
QN_CASE(order, online_before_batch, clients_in_turn, batches, nobody_waits_longer)
QN_TEST_MAIN(company, order)
