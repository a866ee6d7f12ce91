// Guesses: whatever is guessed, the text is that of plain decoding, and so is what the sequence holds afterwards; and
// how many guesses are made by what came true.
#include "runtime/speculate.h"

#include <math.h>
#include <string.h>

#include "runtime/generate.h"
#include "runtime/propose_tree.h"
#include "runtime/rng.h"
#include "tests/support/fake_model.h"
#include "tests/support/test.h"

enum { MOST_TEXT = 160 };

// --- a proposer that knows the text to come, and spoils some of it

typedef struct oracle {
  qn_proposer base;
  const int32_t *text;  // from the sequence's beginning
  size_t count;
  qn_rng rng;
  int wrong_in;  // one guess of so many is wrong; 0 = none
  int calls;
} oracle;

static qn_status foretell(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                          qn_diag *diag) {
  (void)diag;
  oracle *o = (oracle *)self;
  o->calls++;
  for (int32_t i = 0; i < room->depth; i++) {
    size_t at = text->count + (size_t)i;
    bool wrong = o->wrong_in > 0 && qn_rng_next(&o->rng) % (uint64_t)o->wrong_in == 0;
    int32_t token = at < o->count ? o->text[at] : 0;
    qn_draft_add(out, i - 1, wrong ? (token + 1) % QN_FAKE_TOKENS : token);
  }
  return QN_OK;
}

static void leave(qn_proposer *self) { (void)self; }
static const qn_proposer_type oracle_type = {.name = "oracle", .propose = foretell, .destroy = leave};

// --- generating on the fake model

typedef struct fixture {
  qn_artifact artifact;
  qn_threads *threads;
  qn_decoder *decoder;
  qn_tokenizer *tokenizer;
  qn_diag diag;
} fixture;

static void set_up_for(fixture *f, int64_t context, int64_t pages, bool trees, bool prefixes) {
  size_t size;
  *f = (fixture){.artifact = qn_fake_model_open(&(qn_fake_options){.tokenizer = true, .trees = trees})};
  qn_decoder_options options = {.context = context, .pages = pages, .prefixes = prefixes};
  options.executor.jit_entries = trees ? qn_fake_tree_kernels : qn_fake_kernels;
  const void *blob = qn_artifact_section(&f->artifact, QN_SECTION_TOKENIZER, 0, &size);
  qn_assert_ok(&f->diag, qn_tokenizer_open(blob, size, qn_test_allocator(), &f->tokenizer, &f->diag));
  qn_assert_ok(&f->diag, qn_threads_create(2, false, qn_test_allocator(), &f->threads, &f->diag));
  qn_assert_ok(&f->diag,
               qn_decoder_create(&f->artifact, f->threads, &options, qn_test_allocator(), &f->decoder, &f->diag));
}

static void set_up(fixture *f, int64_t context, int64_t pages) { set_up_for(f, context, pages, false, false); }

static void tear_down(fixture *f) {
  qn_decoder_destroy(f->decoder);
  qn_threads_destroy(f->threads);
  qn_tokenizer_close(f->tokenizer);
  qn_artifact_close(&f->artifact);
  qn_fake_set_script(NULL, 0);
  ck_assert_int_eq(qn_fake_errors(), 0);
}

typedef struct result {
  int32_t tokens[MOST_TEXT];
  size_t count;
  char text[1024];
  size_t length;
  qn_generate_stats stats;
  int64_t position;
} result;

static bool note(void *context, qn_str text, int32_t id) {
  result *r = context;
  if (id >= 0) r->tokens[r->count++] = id;
  ck_assert_uint_le(r->length + text.length, sizeof r->text);
  memcpy(r->text + r->length, text.data, text.length);
  r->length += text.length;
  return true;
}

static const int32_t prompt[] = {QN_FAKE_BOS, QN_FAKE_ONE, QN_FAKE_TWO};

static void generate(fixture *f, const qn_sampler_options *sampling, qn_generate_params params, qn_speculator *s,
                     result *out) {
  qn_sampler *sampler = NULL;
  *out = (result){0};
  params.prompt = prompt;
  params.prompt_count = QN_COUNT(prompt);
  params.callback = note;
  params.callback_context = out;
  params.speculator = s;
  qn_decoder_reset(f->decoder, 0);
  qn_assert_ok(&f->diag, qn_sampler_create(sampling, QN_FAKE_TOKENS, qn_test_allocator(), &sampler, &f->diag));
  qn_assert_ok(&f->diag, qn_generate(f->decoder, f->tokenizer, sampler, &params, qn_test_allocator(), &out->stats,
                                     &f->diag));
  out->position = qn_decoder_position(f->decoder, 0);
  qn_sampler_destroy(sampler);
}

// The same tokens, text, ending and sequence; and logits afterwards as if nothing had been guessed.
static void check_same(fixture *f, const result *plain, const result *got) {
  float want[QN_FAKE_VOCAB];
  int32_t all[MOST_TEXT + 4], next = QN_FAKE_X;
  const float *logits = NULL;
  ck_assert_uint_eq(got->count, plain->count);
  ck_assert_mem_eq(got->tokens, plain->tokens, plain->count * sizeof *plain->tokens);
  ck_assert_uint_eq(got->length, plain->length);
  ck_assert_mem_eq(got->text, plain->text, plain->length);
  ck_assert_int_eq(got->stats.reason, plain->stats.reason);
  ck_assert_int_eq(got->stats.pending, plain->stats.pending);
  ck_assert_int_eq(got->stats.generated_tokens, plain->stats.generated_tokens);
  ck_assert_int_eq(got->stats.decode_steps, plain->stats.decode_steps);
  ck_assert_int_eq(got->position, plain->position);
  if (got->position >= qn_decoder_context(f->decoder)) return;
  memcpy(all, prompt, sizeof prompt);
  memcpy(all + QN_COUNT(prompt), plain->tokens, plain->count * sizeof *plain->tokens);
  all[got->position] = next;
  qn_assert_ok(&f->diag, qn_decoder_eval(f->decoder, 0, &next, 1, NULL, &logits, &f->diag));
  qn_fake_logits(all, (size_t)got->position + 1, want);
  ck_assert_mem_eq(logits, want, sizeof want);
}

static qn_speculator *speculator(fixture *f, qn_proposer *proposer, int32_t tokens) {
  qn_speculator *s = NULL;
  qn_speculate_options options = {.tokens = tokens, .text_max = qn_decoder_context(f->decoder) + 1};
  qn_assert_ok(&f->diag, qn_speculator_create(proposer, &options, qn_test_allocator(), &s, &f->diag));
  return s;
}

static qn_speculator *lookup(fixture *f, int32_t tokens) {
  qn_proposer *proposer = NULL;
  qn_assert_ok(&f->diag, qn_propose_lookup_create(qn_test_allocator(), &proposer, &f->diag));
  return speculator(f, proposer, tokens);
}

static qn_speculator *lookahead(fixture *f, qn_ngrams *ngrams, int32_t tokens) {
  qn_proposer *proposer = NULL;
  qn_assert_ok(&f->diag, qn_propose_lookahead_create(ngrams, qn_test_allocator(), &proposer, &f->diag));
  return speculator(f, proposer, tokens);
}

// Guesses right and wrong at random, greedy and not, in contexts and pools that end in the middle of guesses.
START_TEST(text_is_that_of_plain_decoding) {
  const qn_str stops[] = {QN_STR("abcd"), QN_STR("twoone")};
  fixture f;
  result plain, got;
  qn_rng rng;
  qn_rng_seed(&rng, 7);
  int64_t accepted = 0;
  qn_ngrams *ngrams = NULL;  // learned from all rounds
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_ngrams_create(qn_test_allocator(), &ngrams, &diag));
  for (int round = 0; round < 60; round++) {
    int64_t context = 4 + (int64_t)(qn_rng_next(&rng) % 100);
    set_up(&f, context, 0);
    qn_sampler_options sampling = qn_sampler_options_default();
    sampling.temperature = round % 3 == 0 ? 0 : 1.5;
    sampling.repeat_penalty = round % 5 == 0 ? 1.3 : 1;
    sampling.seed = (uint64_t)round;
    qn_generate_params params = {.max_tokens = (int64_t)(qn_rng_next(&rng) % 90), .ignore_eog = round % 2 == 0};
    if (round % 4 == 1) params.stops = stops, params.stop_count = QN_COUNT(stops);
    generate(&f, &sampling, params, NULL, &plain);
    int32_t text[MOST_TEXT + 4];
    memcpy(text, prompt, sizeof prompt);
    memcpy(text + QN_COUNT(prompt), plain.tokens, plain.count * sizeof *text);
    oracle o = {.base = {&oracle_type}, .text = text, .count = QN_COUNT(prompt) + plain.count, .wrong_in = round % 7};
    qn_rng_seed(&o.rng, (uint64_t)round);
    qn_speculator *s[] = {speculator(&f, &o.base, 1 + round % 15), speculator(&f, &o.base, 0), lookup(&f, 4),
                          lookahead(&f, ngrams, 1 + round % 9), lookahead(&f, ngrams, 0)};
    for (size_t i = 0; i < QN_COUNT(s); i++) {
      generate(&f, &sampling, params, s[i], &got);
      check_same(&f, &plain, &got);
      ck_assert_int_le(got.stats.accepted, got.stats.proposed);
      ck_assert_int_eq(got.stats.passes + got.stats.accepted, got.stats.decode_steps);
      accepted += got.stats.accepted;
      qn_speculator_destroy(s[i]);
    }
    tear_down(&f);
  }
  qn_ngrams_destroy(ngrams);
  ck_assert_int_gt(accepted, 500);
}
END_TEST

// With every guess right, a step gives one token more than are guessed.
START_TEST(right_guesses_save_steps) {
  fixture f;
  result plain, got;
  set_up(&f, 100, 0);
  qn_sampler_options greedy = qn_sampler_options_default();
  greedy.temperature = 0;
  qn_generate_params params = {.max_tokens = 41, .ignore_eog = true};
  generate(&f, &greedy, params, NULL, &plain);
  ck_assert_int_eq(plain.stats.passes, 40);
  int32_t text[MOST_TEXT];
  memcpy(text, prompt, sizeof prompt);
  memcpy(text + QN_COUNT(prompt), plain.tokens, plain.count * sizeof *text);
  oracle o = {.base = {&oracle_type}, .text = text, .count = QN_COUNT(prompt) + plain.count};
  qn_speculator *s = speculator(&f, &o.base, 4);
  generate(&f, &greedy, params, s, &got);
  check_same(&f, &plain, &got);
  ck_assert_int_eq(got.stats.passes, 8);
  ck_assert_int_eq(got.stats.proposed, 32);
  ck_assert_int_eq(got.stats.accepted, 32);
  qn_speculate_stats stats;
  qn_speculator_get_stats(s, &stats);
  ck_assert_int_eq(stats.steps, 8);
  ck_assert_str_eq(qn_speculator_name(s), "oracle");
  qn_speculator_destroy(s);
  tear_down(&f);
}
END_TEST

// --- trees

// As the oracle, but of guesses that branch as they happen to.
static qn_status branch_out(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                            qn_diag *diag) {
  oracle *o = (oracle *)self;
  int32_t children[MOST_TEXT] = {0}, paths = 0, own = 0;
  bool right[MOST_TEXT];
  (void)diag;
  for (int tries = 0; tries < 200 && out->count < room->tokens; tries++) {
    int32_t parent = (int32_t)(qn_rng_next(&o->rng) % (uint64_t)(out->count + 1)) - 1;
    bool is_root = parent == QN_DRAFT_ROOT;
    size_t at = text->count + (size_t)qn_draft_depth(out, parent);
    bool good = (is_root || right[parent]) && qn_rng_next(&o->rng) % 3 > 0;
    int32_t token = good && at < o->count ? o->text[at] : (int32_t)(qn_rng_next(&o->rng) % QN_FAKE_TOKENS);
    int32_t *siblings = is_root ? &own : &children[parent];
    bool ends_one_more = is_root ? out->count == 0 || own > 0 : *siblings > 0;
    if (qn_draft_depth(out, parent) >= room->depth || qn_draft_child(out, parent, token) != QN_DRAFT_ROOT) continue;
    if (ends_one_more && paths == room->paths) continue;
    paths += ends_one_more;
    ++*siblings;
    right[qn_draft_add(out, parent, token)] = (is_root || right[parent]) && at < o->count && token == o->text[at];
  }
  o->calls += qn_draft_branches(out);
  return QN_OK;
}
static const qn_proposer_type tree_type = {.name = "tree", .branches = true, .propose = branch_out, .destroy = leave};

// As above, of trees; with few pages and with many, with windows and without, with prefixes kept and without. No page is lost.
START_TEST(trees_keep_the_text) {
  fixture f;
  result plain, got;
  qn_rng rng;
  qn_rng_seed(&rng, 11);
  int64_t accepted = 0, branched = 0;
  for (int round = 0; round < 60; round++) {
    int64_t context = 8 + (int64_t)(qn_rng_next(&rng) % 100);
    int64_t pages = round % 3 == 0 ? (context + QN_FAKE_PAGE_KEYS - 1) / QN_FAKE_PAGE_KEYS : 0;
    qn_fake_set_window(round % 5 < 2 ? 20 : 0);
    qn_fake_set_rings(round % 5 == 1);
    set_up_for(&f, context, pages, true, round % 4 == 3);
    qn_sampler_options sampling = qn_sampler_options_default();
    sampling.temperature = round % 2 == 0 ? 0 : 1.5;
    sampling.repeat_penalty = round % 5 == 0 ? 1.3 : 1;
    sampling.seed = (uint64_t)round;
    qn_generate_params params = {.max_tokens = (int64_t)(qn_rng_next(&rng) % 90), .ignore_eog = round % 2 == 0};
    generate(&f, &sampling, params, NULL, &plain);
    int32_t text[MOST_TEXT + 4];
    memcpy(text, prompt, sizeof prompt);
    memcpy(text + QN_COUNT(prompt), plain.tokens, plain.count * sizeof *text);
    oracle o = {.base = {&tree_type}, .text = text, .count = QN_COUNT(prompt) + plain.count};
    qn_rng_seed(&o.rng, (uint64_t)round);
    qn_speculator *s = speculator(&f, &o.base, 1 + round % 15);
    for (int again = 0; again < 2; again++) {
      generate(&f, &sampling, params, s, &got);
      check_same(&f, &plain, &got);
      ck_assert_int_eq(got.stats.passes + got.stats.accepted, got.stats.decode_steps);
      accepted += got.stats.accepted;
    }
    branched += o.calls;
    qn_decoder_reset(f.decoder, 0);
    const qn_kv_cache *cache = qn_decoder_cache(f.decoder);
    qn_assert_ok(&f.diag, qn_kv_cache_check(cache, &f.diag));
    ck_assert_int_eq(qn_kv_cache_free_pages(cache), qn_kv_cache_pages(cache));
    qn_speculator_destroy(s);
    tear_down(&f);
  }
  qn_fake_set_window(0);
  qn_fake_set_rings(false);
  ck_assert_int_gt(accepted, 800);
  ck_assert_int_gt(branched, 400);
}
END_TEST

// The model as its own draft again: of trees, too, the path that it would choose comes true.
START_TEST(a_draft_branches) {
  fixture f, draft;
  result plain, got;
  set_up_for(&f, 100, 0, true, false);
  set_up(&draft, 100, 0);
  qn_decoder_options options = {.context = 100, .sequences = 7, .executor = {.jit_entries = qn_fake_kernels}};
  qn_decoder_destroy(draft.decoder);
  qn_assert_ok(&draft.diag, qn_decoder_create(&draft.artifact, draft.threads, &options, qn_test_allocator(), &draft.decoder,
                                              &draft.diag));
  qn_proposer *proposer = NULL;
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "got 4 guesses to go on from",
                  qn_propose_draft_create(draft.decoder, 0, 4, qn_test_allocator(), &proposer, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_ok(&f.diag, qn_propose_draft_create(draft.decoder, 0, 3, qn_test_allocator(), &proposer, &f.diag));
  qn_speculator *s = speculator(&f, proposer, 12);
  for (int round = 0; round < 6; round++) {
    qn_sampler_options sampling = qn_sampler_options_default();
    sampling.temperature = round % 2 == 0 ? 0 : 1.5;
    sampling.repeat_penalty = round >= 4 ? 1.5 : 1;
    sampling.seed = (uint64_t)round;
    qn_generate_params params = {.max_tokens = 60, .ignore_eog = true};
    generate(&f, &sampling, params, NULL, &plain);
    generate(&f, &sampling, params, s, &got);
    check_same(&f, &plain, &got);
    ck_assert_int_gt(got.stats.accepted, 25);
  }
  qn_speculator_destroy(s);
  qn_assert_ok(&f.diag, qn_kv_cache_check(qn_decoder_cache(draft.decoder), &f.diag));
  ck_assert_int_eq(qn_kv_cache_free_pages(qn_decoder_cache(draft.decoder)),
                   qn_kv_cache_pages(qn_decoder_cache(draft.decoder)));
  tear_down(&draft);
  tear_down(&f);
}
END_TEST

// Drawn, the first choice is the sampler's own, then the likeliest; not drawn, it does not depend on the random number.
START_TEST(choices) {
  const float logits[QN_FAKE_TOKENS] = {[3] = 2, [5] = 3, [7] = 1};
  qn_sampler_options sampling = qn_sampler_options_default();
  qn_choice got[3];
  qn_diag diag = {0};
  int32_t count = 0, own = 0;
  bool others = false;
  sampling.temperature = 3;
  for (sampling.seed = 0; sampling.seed < 40; sampling.seed++) {
    qn_sampler *sampler = NULL, *twin = NULL;
    qn_assert_ok(&diag, qn_sampler_create(&sampling, QN_FAKE_TOKENS, qn_test_allocator(), &sampler, &diag));
    qn_assert_ok(&diag, qn_sampler_clone(sampler, qn_test_allocator(), &twin, &diag));
    qn_assert_ok(&diag, qn_sampler_sample(twin, logits, &own, &diag));
    qn_assert_ok(&diag, qn_choices_take(sampler, logits, 3, true, got, &count, &diag));
    ck_assert(count == 3 && got[0].token == own && got[1].token == (own == 5 ? 3 : 5));
    ck_assert(got[0].chance > got[1].chance && got[1].chance > got[2].chance);
    others = others || own != 5;
    qn_assert_ok(&diag, qn_choices_take(sampler, logits, 3, false, got, &count, &diag));
    ck_assert(got[0].token == 5 && got[1].token == 3 && got[2].token == 7);
    qn_sampler_destroy(sampler);
    qn_sampler_destroy(twin);
  }
  ck_assert(others);
}
END_TEST

// What a step over a tree cannot do is refused, and the sequence is as it was.
START_TEST(trees_refused) {
  fixture f, chains;
  const int32_t tokens[20] = {0}, forked[] = {-1, -1}, row[20] = {-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
  set_up_for(&f, 16, 0, true, false);
  set_up(&chains, 16, 0);
  ck_assert_int_eq(qn_decoder_paths(chains.decoder, 2), 1);
  ck_assert_int_eq(qn_artifact_paths(&chains.artifact, 16, 1), 0);
  ck_assert_int_eq(qn_artifact_paths(&f.artifact, 16, 1), 15);
  ck_assert_int_eq(qn_kv_cache_pages(qn_decoder_cache(f.decoder)), 16);  // one for the sequence and each path
  ck_assert_int_gt(qn_decoder_paths(f.decoder, 2), 1);
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "got guesses on 2 paths, want at most 1; compile it with --guesses",
                  qn_decoder_step_tree(chains.decoder, 0, 1, tokens, forked, 2, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "got 16 guesses in a step, want at most 15",
                  qn_decoder_step_tree(f.decoder, 0, 1, tokens, row, 16, &f.diag));
  f.diag = (qn_diag){0};
  qn_assert_ok(&f.diag, qn_decoder_step_tree(f.decoder, 0, 1, tokens, row, 14, &f.diag));
  qn_decoder_take_path(f.decoder, 0, 13);
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 15);
  qn_assert_fails(&f.diag, QN_ERR_LIMIT, "the context is full",
                  qn_decoder_step_tree(f.decoder, 0, 1, tokens, forked, 2, &f.diag));
  ck_assert_int_eq(qn_decoder_position(f.decoder, 0), 15);
  f.diag = (qn_diag){0};
  qn_assert_ok(&f.diag, qn_kv_cache_check(qn_decoder_cache(f.decoder), &f.diag));
  tear_down(&chains);
  tear_down(&f);
}
END_TEST

// A pool without a page for guesses: then there are none, and no error.
START_TEST(few_pages) {
  fixture f;
  result plain, got;
  set_up(&f, 64, 2);
  qn_sampler_options greedy = qn_sampler_options_default();
  greedy.temperature = 0;
  qn_generate_params params = {.max_tokens = 2 * QN_FAKE_PAGE_KEYS - 4, .ignore_eog = true};
  generate(&f, &greedy, params, NULL, &plain);
  qn_speculator *s = lookup(&f, 8);
  generate(&f, &greedy, params, s, &got);
  check_same(&f, &plain, &got);
  qn_speculator_destroy(s);
  tear_down(&f);
}
END_TEST

// The model as its own draft, with the sampler's random numbers: all comes true, at any temperature. And again in the
// same cache, after a text of another prompt.
START_TEST(a_draft_that_is_the_model) {
  fixture f, draft;
  result plain, got;
  set_up(&f, 100, 0);
  set_up(&draft, 40, 0);  // shorter than the text
  qn_proposer *proposer = NULL;
  qn_assert_ok(&f.diag, qn_propose_draft_create(draft.decoder, 0, 0, qn_test_allocator(), &proposer, &f.diag));
  qn_speculator *s = speculator(&f, proposer, 5);
  for (int round = 0; round < 4; round++) {
    qn_sampler_options sampling = qn_sampler_options_default();
    sampling.temperature = round % 2 == 0 ? 0 : 1.5;
    sampling.repeat_penalty = round == 3 ? 1.5 : 1;
    sampling.seed = (uint64_t)round;
    qn_generate_params params = {.max_tokens = 31, .ignore_eog = true};
    generate(&f, &sampling, params, NULL, &plain);
    generate(&f, &sampling, params, s, &got);
    check_same(&f, &plain, &got);
    ck_assert_int_eq(got.stats.accepted, got.stats.proposed);
    ck_assert_int_eq(got.stats.passes, 5);
    params.max_tokens = 90;  // beyond the draft's context: it goes on from the text's last half
    generate(&f, &sampling, params, NULL, &plain);
    generate(&f, &sampling, params, s, &got);
    check_same(&f, &plain, &got);
    ck_assert_int_gt(got.stats.proposed, 60);
  }
  qn_speculator_destroy(s);
  ck_assert_int_eq(qn_decoder_position(draft.decoder, 0), 0);
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "got sequence 1",
                  qn_propose_draft_create(draft.decoder, 1, 0, qn_test_allocator(), &proposer, &f.diag));
  tear_down(&draft);
  tear_down(&f);
}
END_TEST

// --- guesses that are judged: the same odds of every token, by the rejection scheme

// Guesses by odds of its own, whatever the text is.
typedef struct gambler {
  qn_proposer base;
  qn_rng rng;
  qn_odds odds[QN_FAKE_TOKENS];
} gambler;

static qn_status gamble(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                        qn_diag *diag) {
  (void)text, (void)diag;
  gambler *g = (gambler *)self;
  for (int32_t i = 0; i < room->depth; i++) {
    double drawn = qn_rng_unit(&g->rng);
    int32_t id = 0;
    while (id < QN_FAKE_TOKENS - 1 && (drawn -= g->odds[id].share) >= 0) id++;
    out->odds[out->count] = g->odds;
    out->odds_counts[out->count] = QN_FAKE_TOKENS;
    qn_draft_add(out, i - 1, id);
  }
  return QN_OK;
}

static qn_speculator *judged(fixture *f, qn_proposer *proposer, int32_t tokens) {
  qn_speculator *s = NULL;
  qn_speculate_options options = {.tokens = tokens, .text_max = 100, .judged = true};
  qn_assert_ok(&f->diag, qn_speculator_create(proposer, &options, qn_test_allocator(), &s, &f->diag));
  return s;
}

START_TEST(judged_texts_are_as_likely) {
  enum { PLACES = 4 };
  static const qn_proposer_type type = {.name = "gambler", .propose = gamble, .destroy = leave};
  static double counts[2][PLACES][QN_FAKE_TOKENS];
  fixture f;
  result got;
  int rounds = (int)(2000 / qn_test_stride(1, 4));
  gambler g = {.base = {&type}};
  for (int32_t i = 0; i < QN_FAKE_TOKENS; i++) g.odds[i] = (qn_odds){i, (1.0 + i) * 2 / (QN_FAKE_TOKENS * (QN_FAKE_TOKENS + 1))};
  qn_rng_seed(&g.rng, 5);
  set_up(&f, 64, 0);
  qn_speculator *s = judged(&f, &g.base, 3);
  int64_t accepted = 0, proposed = 0;
  for (int round = 0; round < 2 * rounds; round++) {
    qn_sampler_options sampling = {.temperature = 2, .top_p = 0.95, .repeat_penalty = 1.1, .repeat_last_n = 8};
    sampling.seed = (uint64_t)round;
    qn_generate_params params = {.max_tokens = PLACES, .ignore_eog = true};
    generate(&f, &sampling, params, round % 2 ? s : NULL, &got);
    ck_assert_uint_eq(got.count, PLACES);
    for (int i = 0; i < PLACES; i++) counts[round % 2][i][got.tokens[i]]++;
    accepted += got.stats.accepted;
    proposed += got.stats.proposed;
  }
  ck_assert_msg(accepted > rounds / 4 && proposed - accepted > rounds / 4, "%d of %d", (int)accepted, (int)proposed);
  for (int i = 0; i < PLACES; i++) {
    double chi = 0;
    int degrees = -1;
    for (int32_t id = 0; id < QN_FAKE_TOKENS; id++) {
      double a = counts[0][i][id], b = counts[1][i][id];
      if (a + b < 10) continue;
      chi += (a - b) * (a - b) / (a + b);
      degrees++;
    }
    ck_assert_msg(degrees > 3 && chi < degrees + 4 * sqrt(2.0 * degrees), "token %d: chi-square %g of %d degrees", i, chi, degrees);
  }
  qn_speculator_destroy(s);
  tear_down(&f);
}
END_TEST

// The model as its own draft: every guess is taken, also where both draw by numbers of their own; greedy, the same text.
START_TEST(a_judged_draft) {
  fixture f, draft;
  result plain, got;
  set_up(&f, 100, 0);
  set_up(&draft, 100, 0);
  qn_proposer *proposer = NULL;
  qn_assert_ok(&f.diag, qn_propose_draft_create(draft.decoder, 0, 0, qn_test_allocator(), &proposer, &f.diag));
  qn_propose_draft_judged(proposer);
  qn_speculator *s = judged(&f, proposer, 4);
  qn_sampler_options sampling = qn_sampler_options_default();
  qn_generate_params params = {.max_tokens = 41, .ignore_eog = true};
  generate(&f, &sampling, params, s, &got);
  ck_assert_int_eq(got.stats.accepted, got.stats.proposed);
  ck_assert_int_eq(got.stats.passes, 8);
  generate(&f, &sampling, params, NULL, &plain);
  ck_assert(memcmp(plain.tokens, got.tokens, sizeof plain.tokens) != 0);
  sampling.temperature = 0;
  generate(&f, &sampling, params, NULL, &plain);
  generate(&f, &sampling, params, s, &got);
  check_same(&f, &plain, &got);
  qn_speculator_destroy(s);
  tear_down(&draft);
  tear_down(&f);
}
END_TEST

// --- heads

enum { WIDTH = 3, HEADS = 2 };

enum { HEADS_ROWS = 2, HEADS_PITCH = 48 };
static _Atomic int heads_runs;

// hidden [R, WIDTH], guess.0, guess.1: the first head's logits are the odds of tokens 0 to 3, times a hidden value; the second says
// no numbers where that value is negative.
static void say(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  const float *hidden = buffers[0];
  float *guesses[] = {buffers[1], buffers[2]};
  if (begin == 0) heads_runs++;
  for (int64_t r = 0; r < symbols[QN_TEST_SYM_R]; r++, hidden += WIDTH) {
    for (int64_t v = begin; v < end; v++) {
      guesses[0][r * HEADS_PITCH + v] = v < 4 ? hidden[0] * (float)(v + 1) / 4 : -INFINITY;
      guesses[1][r * HEADS_PITCH + v] = hidden[0] < 0 ? NAN : v == 5 ? 2 : 0;
    }
  }
}

static qn_artifact heads_of(int64_t vocab, bool named, const char *input, bool cache) {
  qn_test_artifact a;
  qn_buf file;
  qn_diag diag = {0};
  qn_artifact artifact;
  qn_test_artifact_init(&a);
  memcpy(a.head.symbol_max, (int64_t[QN_ARTIFACT_SYMBOLS]){0, 1, HEADS_ROWS}, sizeof a.head.symbol_max);
  uint32_t hidden = qn_test_artifact_input(&a, "hidden", QN_TEST_SYM_R, 0), guesses[HEADS];
  a.buffers.items[hidden].dtype = QN_TEST_F32;
  a.buffers.items[hidden].rank = 2;
  a.buffers.items[hidden].dims[1] = WIDTH;
  if (input) qn_test_artifact_input(&a, input, QN_TEST_SYM_R, 0);
  if (cache) qn_test_artifact_cache(&a, "k", 0, 64);
  for (int i = 0; i < HEADS; i++)
    guesses[i] = qn_test_artifact_arena(&a, !named ? NULL : i ? "guess.1" : "guess.0", QN_TEST_SYM_R, HEADS_ROWS, vocab);
  qn_test_artifact_kernel(&a, "say", 3, 0);
  qn_test_artifact_variant(&a, 0, 0, 0, vocab);
  qn_test_artifact_step(&a, 0, false, (const uint32_t[]){hidden, guesses[0], guesses[1]});
  qn_test_artifact_build(&a, &file);
  qn_test_artifact_deinit(&a);
  qn_assert_ok(&diag, qn_artifact_open_mapping(&artifact, qn_test_artifact_map(file.data, file.length), "heads.qn", &diag));
  qn_buf_deinit(&file);
  return artifact;
}

static qn_status create_heads(const qn_artifact *artifact, qn_threads *threads, int64_t width, int32_t vocab,
                              qn_heads **out, qn_diag *diag) {
  static const qn_kernel_entry kernels[QN_FAKE_KERNELS] = {say};  // as many as a model has that is taken for heads
  qn_executor *executor = NULL;
  QN_TRY(qn_executor_create(artifact, threads, &(qn_executor_options){.jit_entries = kernels}, qn_test_allocator(), &executor,
                            diag));
  return qn_heads_create(artifact, executor, width, vocab, qn_test_allocator(), out, diag);
}

static void refuses_heads(fixture *f, const qn_artifact *artifact, int64_t width, int32_t vocab, const char *needle) {
  qn_heads *heads = NULL;
  qn_assert_fails(&f->diag, QN_ERR_ARGUMENT, needle, create_heads(artifact, f->threads, width, vocab, &heads, &f->diag));
  ck_assert_ptr_null(heads);
  f->diag = (qn_diag){0};
}

// What is no program of heads, or of others, is refused before anything is guessed.
START_TEST(heads_refused) {
  fixture f;
  set_up(&f, 16, 0);
  qn_artifact artifact = heads_of(QN_FAKE_VOCAB, true, NULL, false), mute = heads_of(QN_FAKE_VOCAB, false, NULL, false);
  qn_artifact curious = heads_of(QN_FAKE_VOCAB, true, "mood", false), cached = heads_of(QN_FAKE_VOCAB, true, NULL, true);
  refuses_heads(&f, &artifact, 4, QN_FAKE_VOCAB, "the heads are for hidden states of 3 numbers, want the model's 4");
  refuses_heads(&f, &artifact, WIDTH, 41, "head 0 has a vocabulary of 40 tokens, want the model's 41");
  refuses_heads(&f, &f.artifact, WIDTH, QN_FAKE_VOCAB, "has no input 'hidden'");
  refuses_heads(&f, &mute, WIDTH, QN_FAKE_VOCAB, "has no output 'guess.0'");
  refuses_heads(&f, &curious, WIDTH, QN_FAKE_VOCAB, "got the input 'mood', want Medusa heads, whose only input is 'hidden'");
  refuses_heads(&f, &cached, WIDTH, QN_FAKE_VOCAB, "got a cache 'k', want Medusa heads, whose only input is 'hidden'");
  qn_artifact *const all[] = {&artifact, &mute, &curious, &cached};
  for (size_t i = 0; i < QN_COUNT(all); i++) qn_artifact_close(all[i]);
  tear_down(&f);
}
END_TEST

START_TEST(heads_guess) {
  enum { TEXTS = 3 };  // one more than a run has rows
  const float states[2][WIDTH] = {{1}, {-1}};
  const int32_t text[] = {1, 2};
  fixture f;
  int32_t tokens[TEXTS][8], parents[TEXTS][8];
  qn_draft drafts[TEXTS];
  qn_heads *heads = NULL;
  qn_proposer *by[TEXTS];
  qn_proposal asked[TEXTS];
  qn_sampler *sampler = NULL;
  set_up(&f, 16, 0);
  qn_artifact artifact = heads_of(QN_FAKE_VOCAB, true, NULL, false);
  qn_assert_ok(&f.diag, create_heads(&artifact, f.threads, WIDTH, QN_FAKE_VOCAB, &heads, &f.diag));
  qn_sampler_options options = {.temperature = 1, .top_p = 1, .repeat_penalty = 1};
  qn_assert_ok(&f.diag, qn_sampler_create(&options, QN_FAKE_TOKENS, qn_test_allocator(), &sampler, &f.diag));
  qn_propose_text t = {.tokens = text, .count = QN_COUNT(text), .sampler = sampler, .hidden = states[0]};
  for (int i = 0; i < TEXTS; i++) {
    qn_assert_ok(&f.diag, qn_propose_medusa_create(heads, qn_test_allocator(), &by[i], &f.diag));
    qn_assert_ok(&f.diag, by[i]->type->begin(by[i], sampler, &f.diag));
    drafts[i] = (qn_draft){.tokens = tokens[i], .parents = parents[i], .capacity = 8};
    asked[i] = (qn_proposal){by[i], t, {6, 2, 6, 0}, &drafts[i], i + 1 < TEXTS ? &asked[i + 1] : NULL};
  }
  const qn_proposer_type *type = by[0]->type;
  qn_assert_ok(&f.diag, type->propose(by[0], &t, &(qn_draft_room){6, 2, 6, 0}, &drafts[0], &f.diag));
  ck_assert(drafts[0].count == 6 && qn_draft_branches(&drafts[0]));
  drafts[0].count = 0;
  t.hidden = NULL;
  qn_assert_ok(&f.diag, type->propose(by[0], &t, &(qn_draft_room){6, 2, 6, 0}, &drafts[0], &f.diag));
  ck_assert_int_eq(drafts[0].count, 0);
  // All of them in two runs; one of which nothing is known has no guesses.
  heads_runs = 0;
  qn_assert_ok(&f.diag, type->propose_all(asked, &f.diag));
  ck_assert_int_eq(heads_runs, 2);
  for (int i = 0; i < TEXTS; i++) {
    ck_assert_int_eq(drafts[i].count, 6);
    ck_assert_mem_eq(tokens[i], tokens[0], 6 * sizeof(int32_t));
    ck_assert_mem_eq(parents[i], parents[0], 6 * sizeof(int32_t));
    drafts[i].count = 0;
  }
  asked[0].text.hidden = NULL;
  qn_assert_ok(&f.diag, type->propose_all(asked, &f.diag));
  ck_assert(heads_runs == 3 && drafts[0].count == 0 && drafts[1].count == 6 && drafts[2].count == 6);
  drafts[1].count = drafts[2].count = 0;
  asked[2].text.hidden = states[1];
  qn_assert_fails(&f.diag, QN_ERR_FORMAT, "what head 1 says are no numbers", type->propose_all(asked, &f.diag));
  for (int i = 0; i < TEXTS; i++) ck_assert_int_eq(drafts[i].count, 0);
  for (int i = 0; i < TEXTS; i++) qn_proposer_destroy(by[i]);
  qn_heads_destroy(heads);
  qn_heads_destroy(NULL);
  qn_sampler_destroy(sampler);
  qn_artifact_close(&artifact);
  tear_down(&f);
}
END_TEST

// What is judged was not chosen by the random numbers that judge it: heads that say what the model does get each token as often as
// it would be drawn.
START_TEST(judged_heads_change_no_odds) {
  enum { ROUNDS = 20000 };
  const float hidden[WIDTH] = {1};
  const int32_t text[] = {1, 2};
  float logits[QN_FAKE_TOKENS];
  int counts[4] = {0};
  fixture f;
  int32_t tokens[8], parents[8];
  qn_draft draft = {.tokens = tokens, .parents = parents, .capacity = 8};
  qn_proposer *heads = NULL;
  qn_sampler *sampler = NULL;
  double sum = 0, chi = 0;
  set_up(&f, 16, 0);
  qn_heads *shared = NULL;
  qn_artifact artifact = heads_of(QN_FAKE_VOCAB, true, NULL, false);
  qn_assert_ok(&f.diag, create_heads(&artifact, f.threads, WIDTH, QN_FAKE_VOCAB, &shared, &f.diag));
  qn_assert_ok(&f.diag, qn_propose_medusa_create(shared, qn_test_allocator(), &heads, &f.diag));
  qn_propose_medusa_judged(heads);
  qn_sampler_options options = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 3};
  qn_assert_ok(&f.diag, qn_sampler_create(&options, QN_FAKE_TOKENS, qn_test_allocator(), &sampler, &f.diag));
  qn_assert_ok(&f.diag, heads->type->begin(heads, sampler, &f.diag));
  for (int i = 0; i < QN_FAKE_TOKENS; i++) logits[i] = i < 4 ? (float)(i + 1) / 4 : -INFINITY;
  for (int round = 0; round < ROUNDS; round++) {
    qn_propose_text t = {.tokens = text, .count = QN_COUNT(text), .sampler = sampler, .hidden = hidden};
    int32_t id;
    draft.count = 0;
    qn_assert_ok(&f.diag, heads->type->propose(heads, &t, &(qn_draft_room){2, 2, 1, 0}, &draft, &f.diag));
    ck_assert(draft.count == 2 && tokens[0] == 3 && tokens[1] == 5);  // the likeliest of each head
    qn_assert_ok(&f.diag, qn_sampler_judge(sampler, logits, tokens[0], NULL, 0, &id, &f.diag));
    ck_assert(id >= 0 && id < 4);
    counts[id]++;
  }
  for (int i = 0; i < 4; i++) sum += exp(logits[i]);
  for (int i = 0; i < 4; i++) {
    double want = exp(logits[i]) / sum * ROUNDS;
    chi += (counts[i] - want) * (counts[i] - want) / want;
  }
  ck_assert_msg(chi < 3 + 4 * sqrt(6.0), "chi-square %g: %d %d %d %d", chi, counts[0], counts[1], counts[2], counts[3]);
  qn_proposer_destroy(heads);
  qn_heads_destroy(shared);
  qn_sampler_destroy(sampler);
  qn_artifact_close(&artifact);
  tear_down(&f);
}
END_TEST

// Several texts' guesses come from the same steps of the draft model, and are what each would get alone: chains and trees, of a
// text that takes several steps, too, and once more when the texts have gone on.
static _Atomic int draft_steps;
static void count_steps(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  if (begin == 0) draft_steps++;
  qn_fake_kernels[0](buffers, symbols, begin, end);
}

START_TEST(drafts_together) {
  enum { TEXTS = 4, ENDS = 2, EACH = 1 + 2 * ENDS, ALL = TEXTS + 1, LONG = 50 };
  static qn_kernel_entry kernels[QN_FAKE_KERNELS];
  static int32_t text[LONG];
  const qn_draft_room rooms[TEXTS] = {{5, 5, 1, 0}, {6, 3, 6, 0}, {3, 3, 1, 0}, {7, 4, 7, 0}};
  size_t counts[TEXTS] = {3, 12, LONG - 3, 7};
  fixture f;
  qn_sampler *sampler = NULL;
  qn_decoder *decoder = NULL;
  qn_proposer *by[2 * TEXTS];  // together, and each with a decoder's sequences that the others do not ask
  qn_draft drafts[2 * TEXTS];
  int32_t tokens[2 * TEXTS][8], parents[2 * TEXTS][8], alone = 0, together = 0;
  set_up(&f, 64, 0);
  memcpy(kernels, qn_fake_kernels, sizeof kernels);
  kernels[0] = count_steps;
  qn_decoder_options options = {.context = 64, .sequences = 2 * TEXTS * EACH, .executor = {.jit_entries = kernels}};
  qn_assert_ok(&f.diag, qn_decoder_create(&f.artifact, f.threads, &options, qn_test_allocator(), &decoder, &f.diag));
  qn_sampler_options sampling = {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 5};
  qn_assert_ok(&f.diag, qn_sampler_create(&sampling, QN_FAKE_TOKENS, qn_test_allocator(), &sampler, &f.diag));
  for (int i = 0; i < LONG; i++) text[i] = QN_FAKE_ONE + i * i % 7;
  for (int i = 0; i < 2 * TEXTS; i++) {
    qn_assert_ok(&f.diag, qn_propose_draft_create(decoder, i * EACH, ENDS, qn_test_allocator(), &by[i], &f.diag));
    qn_assert_ok(&f.diag, by[i]->type->begin(by[i], sampler, &f.diag));
    drafts[i] = (qn_draft){.tokens = tokens[i], .parents = parents[i], .capacity = 8};
  }
  for (int round = 0; round < 3; round++) {
    qn_proposal asked[TEXTS];
    for (int i = 0; i < TEXTS; i++) {
      qn_propose_text t = {.tokens = text, .count = counts[i], .sampler = sampler};
      asked[i] = (qn_proposal){by[i], t, rooms[i], &drafts[i], i + 1 < TEXTS ? &asked[i + 1] : NULL};
      drafts[i].count = drafts[TEXTS + i].count = 0;
      draft_steps = 0;
      qn_assert_ok(&f.diag, by[TEXTS + i]->type->propose(by[TEXTS + i], &t, &rooms[i], &drafts[TEXTS + i], &f.diag));
      alone += draft_steps;
    }
    draft_steps = 0;
    qn_assert_ok(&f.diag, by[0]->type->propose_all(asked, &f.diag));
    together += draft_steps;
    for (int i = 0; i < TEXTS; i++) {
      size_t bytes = (size_t)drafts[i].count * sizeof(int32_t);
      ck_assert(drafts[i].count > 0 && drafts[i].count == drafts[TEXTS + i].count);
      ck_assert_mem_eq(tokens[i], tokens[TEXTS + i], bytes);
      ck_assert_mem_eq(parents[i], parents[TEXTS + i], bytes);
      counts[i]++;
    }
    ck_assert(qn_draft_branches(&drafts[1]) && !qn_draft_branches(&drafts[0]));
  }
  qn_check(together <= 4 + 3 * 5, "%d steps together, %d alone", (int)together, (int)alone);  // four of the long text, and of the deepest
  ck_assert_int_gt(alone, together * 3 / 2);
  for (int i = 0; i < 2 * TEXTS; i++) qn_proposer_destroy(by[i]);
  for (int i = 0; i < 2 * TEXTS * EACH; i++) ck_assert_int_eq(qn_decoder_position(decoder, i), 0);
  qn_assert_ok(&f.diag, qn_kv_cache_check(qn_decoder_cache(decoder), &f.diag));
  qn_sampler_destroy(sampler);
  qn_decoder_destroy(decoder);
  tear_down(&f);
}
END_TEST

// One guess after a long time, by a draft whose context is shorter than what is looked at then.
START_TEST(a_try_of_a_short_draft) {
  enum { TEXT = 60 };
  fixture f;
  int32_t tokens[8], parents[8], text[TEXT];
  qn_draft out = {.tokens = tokens, .parents = parents, .capacity = 8};
  qn_sampler_options sampling = qn_sampler_options_default();
  qn_sampler *sampler = NULL;
  qn_proposer *draft = NULL;
  set_up(&f, 10, 0);
  for (int i = 0; i < TEXT; i++) text[i] = i % QN_FAKE_TOKENS;
  qn_assert_ok(&f.diag, qn_sampler_create(&sampling, QN_FAKE_TOKENS, qn_test_allocator(), &sampler, &f.diag));
  qn_assert_ok(&f.diag, qn_propose_draft_create(f.decoder, 0, 0, qn_test_allocator(), &draft, &f.diag));
  qn_assert_ok(&f.diag, draft->type->begin(draft, sampler, &f.diag));
  qn_propose_text t = {.tokens = text, .count = TEXT, .sampler = sampler};
  qn_assert_ok(&f.diag, draft->type->propose(draft, &t, &(qn_draft_room){1, 1, 1, 0}, &out, &f.diag));
  ck_assert_int_eq(out.count, 1);
  qn_sampler_destroy(sampler);
  qn_assert_ok(&f.diag, qn_sampler_create(&sampling, QN_FAKE_VOCAB + 1, qn_test_allocator(), &sampler, &f.diag));
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "the draft model has logits of 40 tokens, want those of 41",
                  draft->type->begin(draft, sampler, &f.diag));
  qn_proposer_destroy(draft);
  qn_sampler_destroy(sampler);
  tear_down(&f);
}
END_TEST

static void logits_of_nan(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  float *logits = buffers[2];
  (void)symbols;
  for (int64_t v = begin; v < end; v++) logits[v] = NAN;
}

START_TEST(a_draft_whose_logits_are_no_numbers) {
  static qn_kernel_entry kernels[QN_FAKE_KERNELS];
  fixture f;
  set_up(&f, 100, 0);
  memcpy(kernels, qn_fake_kernels, sizeof kernels);
  kernels[2] = logits_of_nan;
  qn_decoder_options options = {.context = 100, .executor = {.jit_entries = kernels}};
  qn_decoder_destroy(f.decoder);
  qn_assert_ok(&f.diag, qn_decoder_create(&f.artifact, f.threads, &options, qn_test_allocator(), &f.decoder, &f.diag));
  qn_sampler_options sampling = qn_sampler_options_default();
  qn_sampler *sampler = NULL;
  qn_proposer *draft = NULL;
  int32_t tokens[8], parents[8];
  qn_draft out = {.tokens = tokens, .parents = parents, .capacity = 8};
  qn_assert_ok(&f.diag, qn_sampler_create(&sampling, QN_FAKE_TOKENS, qn_test_allocator(), &sampler, &f.diag));
  qn_assert_ok(&f.diag, qn_propose_draft_create(f.decoder, 0, 0, qn_test_allocator(), &draft, &f.diag));
  qn_propose_text text = {.tokens = prompt, .count = QN_COUNT(prompt), .sampler = sampler};
  qn_assert_ok(&f.diag, draft->type->begin(draft, sampler, &f.diag));
  qn_assert_fails(&f.diag, QN_ERR_FORMAT, "the draft model's logits are not numbers (sampler: ",
                  draft->type->propose(draft, &text, &(qn_draft_room){3, 3, 1, 0}, &out, &f.diag));
  qn_proposer_destroy(draft);
  qn_sampler_destroy(sampler);
  tear_down(&f);
}
END_TEST

// --- lookahead

// A text that was there before, in another sequence, takes few steps; where nothing is known the window is guessed.
START_TEST(lookahead_remembers) {
  fixture f;
  result plain, got;
  qn_ngrams *ngrams = NULL;
  set_up(&f, 100, 0);
  qn_assert_ok(&f.diag, qn_ngrams_create(qn_test_allocator(), &ngrams, &f.diag));
  qn_sampler_options greedy = qn_sampler_options_default();
  greedy.temperature = 0;
  qn_generate_params params = {.max_tokens = 41, .ignore_eog = true};
  generate(&f, &greedy, params, NULL, &plain);
  for (int round = 0; round < 3; round++) {
    qn_speculator *s = lookahead(&f, ngrams, 6);
    generate(&f, &greedy, params, s, &got);
    check_same(&f, &plain, &got);
    if (round == 0) ck_assert_int_gt(got.stats.proposed, 100);
    if (round == 2) ck_assert_int_lt(got.stats.passes, 25);
    ck_assert_str_eq(qn_speculator_name(s), "lookahead");
    qn_speculator_destroy(s);
  }
  qn_ngrams_destroy(ngrams);
  tear_down(&f);
}
END_TEST

// --- how many

// Makes `count` steps of a text in which every guess comes true, or none does, each guess costing a tenth of a step.
// Gives how many guesses were verified.
static int64_t guesses_made(qn_speculator *s, int count, bool right) {
  qn_diag diag = {0};
  const qn_draft *draft = NULL;
  int64_t made = 0;
  for (int i = 0; i < count; i++) {
    const int32_t token = 1;
    qn_speculator_take(s, &token, 1);
    qn_assert_ok(&diag, qn_speculator_propose(s, NULL, NULL, &(qn_draft_room){100, 100, 1, 0}, &draft, &diag));
    int32_t n = draft->count;
    made += n;
    qn_speculator_note(s, right ? n - 1 : QN_DRAFT_ROOT);
    qn_speculator_time(s, n, 1000000000u + 100000000u * (uint64_t)n);
  }
  return made;
}

START_TEST(gives_up_and_comes_back) {
  fixture f;
  set_up(&f, 100, 0);
  oracle o = {.base = {&oracle_type}};
  qn_speculator *s = speculator(&f, &o.base, 0);
  ck_assert_int_eq(qn_speculator_most(s), QN_SPECULATE_MOST);
  ck_assert_int_eq(guesses_made(s, 1, true), 0);  // what a step takes is not known yet
  ck_assert_int_le(guesses_made(s, 1000, false), 30);  // a tenth of a step each: within 3 in 1,000
  ck_assert_int_le(guesses_made(s, 1000, false), 5);
  guesses_made(s, 2000, true);
  ck_assert_int_eq(guesses_made(s, 100, true), 100 * QN_SPECULATE_MOST);
  qn_speculator_destroy(s);
  tear_down(&f);
}
END_TEST

// A guess that costs as much to make as a step is not made where its text does not show that it pays; nor is it tried so
// often that it takes more than a fiftieth of the time, whatever the making takes.
START_TEST(dear_guesses_are_tried_seldom) {
  fixture f;
  set_up(&f, 100, 0);
  oracle o = {.base = {&oracle_type}};
  qn_speculator *s = NULL;
  qn_speculate_options options = {.text_max = 10, .make_cost = 1};
  qn_assert_ok(&f.diag, qn_speculator_create(&o.base, &options, qn_test_allocator(), &s, &f.diag));
  ck_assert_int_eq(guesses_made(s, 150, false), 0);
  ck_assert_int_le(guesses_made(s, 1850, false), 2000 * 0.02 / 0.15);
  ck_assert_int_gt(o.calls, 0);
  qn_speculator_destroy(s);
  tear_down(&f);
}
END_TEST

START_TEST(refuses) {
  qn_diag diag = {0};
  qn_speculator *s = NULL;
  oracle o = {.base = {&oracle_type}};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "got -1 guesses a step, want 1 or more",
                  qn_speculator_create(&o.base, &(qn_speculate_options){.tokens = -1, .text_max = 9},
                                       qn_test_allocator(), &s, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "got a text of 0 tokens",
                  qn_speculator_create(&o.base, &(qn_speculate_options){0}, qn_test_allocator(), &s, &diag));
  ck_assert_ptr_null(s);
}
END_TEST

QN_CASE(text, text_is_that_of_plain_decoding, right_guesses_save_steps, few_pages, a_draft_that_is_the_model,
        judged_texts_are_as_likely, a_judged_draft, a_draft_whose_logits_are_no_numbers, a_try_of_a_short_draft, drafts_together, heads_refused,
        heads_guess, judged_heads_change_no_odds)
QN_CASE(trees, choices, trees_keep_the_text, a_draft_branches, trees_refused)
QN_CASE(guesses, lookahead_remembers, dear_guesses_are_tried_seldom, gives_up_and_comes_back, refuses)
QN_TEST_MAIN(text, trees, guesses)
