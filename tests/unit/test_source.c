// Models with an encoder: what a sequence's source is to evaluating, generating, batches, forks and saved states. On
// the tiny T5 whose logits test_architectures holds to the reference.
#include <stdlib.h>
#include <string.h>

#include "frontend/quern.h"
#include "runtime/kv_state.h"
#include "runtime/model.h"
#include "tests/support/fake_model.h"
#include "tests/support/test.h"

enum { CONTEXT = 192, CHUNK = 32, VOCAB = 64, SOURCE = 130, TEXT = 70 };

static quern_model *model;
static int32_t sources[3][SOURCE], text[TEXT];

static void open_t5(void) {
  const quern_compile_options options = {.size = sizeof options,
                                         .numeric_mode = "f32",
                                         .chunk_tokens = CHUNK,
                                         .context_tokens = CONTEXT,
                                         .sequences = 3,
                                         .all_logits = true,
                                         .tuning_db = "none"};
  quern_error error;
  ck_assert_msg(quern_jit(qn_test_source("tests/golden/models/t5_gated"), &options, &model, &error) == 0, "%s",
                error.text);
  for (int i = 0; i < SOURCE; i++)
    for (int s = 0; s < 3; s++) sources[s][i] = (i * (7 + 4 * s) + s * i * i) % VOCAB;
  for (int i = 0; i < TEXT; i++) text[i] = i == 0 ? quern_model_start_token(model) : (i * i + 5) % VOCAB;
}

static void close_t5(void) { quern_model_close(model); }

static quern_session *new_session(void) {
  const quern_session_options options = {.size = sizeof options, .threads = 2, .no_pin = true, .sequences = 3};
  quern_session *session = NULL;
  quern_error error;
  ck_assert_msg(quern_session_create(model, &options, &session, &error) == 0, "%s", error.text);
  return session;
}

static void give_source(quern_session *session, int32_t sequence, int which, size_t count) {
  quern_error error;
  ck_assert_msg(quern_session_source(session, sequence, sources[which], count, &error) == 0, "%s", error.text);
}

// Evaluates tokens first .. end - 1 of the text; their logits to `out`.
static void evaluate(quern_session *session, int32_t sequence, int first, int end, float *out) {
  quern_error error;
  int code = (int)quern_session_eval_all(session, sequence, text + first, (size_t)(end - first), out, &error);
  ck_assert_msg(code == 0, "%s", error.text);
}

static float *logits_of(int tokens) {
  float *logits = malloc((size_t)tokens * VOCAB * sizeof *logits);
  ck_assert_ptr_nonnull(logits);
  return logits;
}

static bool same(const float *a, const float *b, int tokens) {
  return memcmp(a, b, (size_t)tokens * VOCAB * sizeof *a) == 0;
}

// All of the text after a source, on a session of its own.
static float *alone(int which, size_t count) {
  quern_session *session = new_session();
  float *logits = logits_of(TEXT);
  give_source(session, 0, which, count);
  evaluate(session, 0, 0, TEXT, logits);
  quern_session_destroy(session);
  return logits;
}

static void check_pages(const quern_session *session) {
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_kv_cache_check(qn_decoder_cache(session->decoder), &diag));
}

#define FAILS(call, want, says)                                                                             \
  do {                                                                                                      \
    int code_ = (int)(call);                                                                                \
    ck_assert_msg(code_ == (want) && strstr(error.text, says), "%s: got %d, %s", #call, code_, error.text); \
  } while (0)

START_TEST(what_is_wrong_is_told) {
  quern_session *session = new_session();
  quern_error error;
  const float *logits;
  const quern_item item = {5, 1, true};
  int32_t wild = VOCAB;
  FAILS(quern_session_eval(session, 0, text, 1, &logits, &error), QUERN_ERR_ARGUMENT,
        "sequence 0 has no source, want one");
  FAILS(quern_session_step(session, &item, 1, &error), QUERN_ERR_ARGUMENT, "sequence 1 has no source");
  FAILS(quern_session_source(session, 0, sources[0], 0, &error), QUERN_ERR_ARGUMENT,
        "got a source of 0 tokens, want 1 to 192");
  FAILS(quern_session_source(session, 0, sources[0], 193, &error), QUERN_ERR_LIMIT,
        "got a source of 193 tokens, want 1 to 192");
  FAILS(quern_session_source(session, 0, &wild, 1, &error), QUERN_ERR_ARGUMENT, "token 0: got id 64, want 0 to 63");
  FAILS(quern_session_source(session, 3, sources[0], 1, &error), QUERN_ERR_ARGUMENT, "got sequence 3, want 0 to 2");
  quern_session_cancel(session);
  FAILS(quern_session_source(session, 0, sources[0], 4, &error), QUERN_ERR_CANCELLED, "cancelled");
  const quern_generate_params params = {
      .size = sizeof params, .prompt = sources[0], .prompt_count = 4, .prompt_held = 1};
  FAILS(quern_generate(session, &params, NULL, &error), QUERN_ERR_ARGUMENT, "prompt_held: got 1, want 0");
  const quern_speculator_options lookup = {.size = sizeof lookup};
  quern_speculator *speculator = NULL;
  ck_assert_msg(quern_speculator_create(session, &lookup, &speculator, &error) == 0, "%s", error.text);
  const quern_generate_params guessing = {
      .size = sizeof guessing, .prompt = sources[0], .prompt_count = 4, .speculator = speculator};
  FAILS(quern_generate(session, &guessing, NULL, &error), QUERN_ERR_UNSUPPORTED, "generate without guesses");
  quern_speculator_destroy(speculator);
  ck_assert_int_eq(quern_session_position(session, 0), 0);
  quern_session_destroy(session);
  const quern_session_options keeping = {.size = sizeof keeping, .threads = 1, .no_pin = true, .prefix_cache = true};
  FAILS(quern_session_create(model, &keeping, &session, &error), QUERN_ERR_UNSUPPORTED,
        "prefixes to keep of a model with an encoder");
  const quern_scheduler_options requests = {.size = sizeof requests};
  quern_scheduler *scheduler = NULL;
  FAILS(quern_scheduler_create(model, &requests, &scheduler, &error), QUERN_ERR_UNSUPPORTED,
        "the model has an encoder, and requests");
}
END_TEST

// A model without one.
START_TEST(others_read_no_source) {
  qn_fake_options options = {.max_p = 8};
  qn_artifact artifact = qn_fake_model_open(&options);
  qn_threads *threads = NULL;
  qn_decoder *decoder = NULL;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_threads_create(1, false, qn_allocator_default(), &threads, &diag));
  const qn_decoder_options how = {.executor = {.jit_entries = qn_fake_kernels}};
  qn_assert_ok(&diag, qn_decoder_create(&artifact, threads, &how, qn_allocator_default(), &decoder, &diag));
  ck_assert(!qn_decoder_has_source(decoder) && qn_decoder_start(decoder) == -1);
  ck_assert_int_eq(qn_decoder_source(decoder, 0, text, 1, &diag), QN_ERR_UNSUPPORTED);
  ck_assert_msg(strstr(diag.text, "the model has no encoder") != NULL, "%s", diag.text);
  qn_decoder_destroy(decoder);
  qn_threads_destroy(threads);
  qn_artifact_close(&artifact);
}
END_TEST

START_TEST(a_source_belongs_to_its_sequence) {
  quern_session *session = new_session();
  float *want = alone(0, SOURCE), *other = alone(1, 9), *got = logits_of(TEXT);
  ck_assert(quern_model_has_source(model));
  ck_assert_int_eq(quern_model_start_token(model), 3);
  give_source(session, 2, 0, SOURCE);
  give_source(session, 0, 1, 9);
  evaluate(session, 2, 0, TEXT, got);
  ck_assert(same(got, want, TEXT) && !same(got, other, TEXT));
  evaluate(session, 0, 0, TEXT, got);
  ck_assert(same(got, other, TEXT));
  // Truncating keeps it; a new one replaces it, and what was written; resetting forgets it.
  quern_error error;
  ck_assert_int_eq((int)quern_session_truncate(session, 2, 1, &error), 0);
  evaluate(session, 2, 1, TEXT, got);
  ck_assert(same(got, want + VOCAB, TEXT - 1));
  give_source(session, 2, 1, 9);
  ck_assert_int_eq(quern_session_position(session, 2), 0);
  evaluate(session, 2, 0, TEXT, got);
  ck_assert(same(got, other, TEXT));
  check_pages(session);
  quern_session_reset(session, 2);
  ck_assert_int_eq((int)quern_session_eval(session, 2, text, 1, NULL, &error), QUERN_ERR_ARGUMENT);
  check_pages(session);
  quern_session_destroy(session);
  free(want);
  free(other);
  free(got);
}
END_TEST

START_TEST(batches_look_at_their_own) {
  quern_session *session = new_session();
  quern_error error;
  static const size_t counts[] = {SOURCE, 64, 1};
  float *want[3];
  for (int s = 0; s < 3; s++) {
    want[s] = alone(s, counts[s]);
    give_source(session, s, s, counts[s]);
  }
  for (int t = 0; t < 5; t++) {
    quern_item items[3];
    for (int s = 0; s < 3; s++) items[s] = (quern_item){text[t], s, true};
    ck_assert_msg(quern_session_step(session, items, 3, &error) == 0, "%s", error.text);
    for (size_t s = 0; s < 3; s++) ck_assert(same(quern_session_logits(session, s), want[s] + t * VOCAB, 1));
  }
  for (int s = 0; s < 3; s++) free(want[s]);
  quern_session_destroy(session);
}
END_TEST

// Greedy, against the largest logit of each step.
START_TEST(generating_begins_anew) {
  quern_session *session = new_session();
  quern_error error;
  const quern_sampler_options greedy = {.size = sizeof greedy, .top_p = 1, .repeat_penalty = 1};
  quern_generate_params params = {
      .size = sizeof params, .prompt = sources[0], .prompt_count = SOURCE, .max_tokens = 6, .sampler = &greedy};
  quern_stats stats = {.size = sizeof stats};
  const float *logits;
  int32_t next = quern_model_start_token(model);
  for (int round = 0; round < 2; round++) {
    ck_assert_msg(quern_generate(session, &params, &stats, &error) == 0, "%s", error.text);
    ck_assert_int_eq(stats.generated_tokens, 6);
    ck_assert_int_eq(stats.prompt_tokens, SOURCE);
    ck_assert_int_eq(quern_session_position(session, 0), 6);  // the one to begin with, and all but the last
  }
  give_source(session, 1, 0, SOURCE);
  for (int i = 0; i < 6; i++) {
    ck_assert_int_eq((int)quern_session_eval(session, 1, &next, 1, &logits, &error), 0);
    next = 0;
    for (int v = 1; v < VOCAB; v++)
      if (logits[v] > logits[next]) next = v;
  }
  ck_assert_int_eq(next, stats.pending_token);
  quern_session_destroy(session);
}
END_TEST

START_TEST(states_hold_the_source) {
  quern_session *session = new_session(), *second = new_session();
  float *want = alone(0, SOURCE), *got = logits_of(TEXT);
  quern_error error;
  size_t size = 0, empty = quern_session_state_size(session, 0);
  give_source(session, 1, 0, SOURCE);
  ck_assert_uint_gt(quern_session_state_size(session, 1), empty);
  evaluate(session, 1, 0, 5, got);
  size_t room = quern_session_state_size(session, 1);
  uint8_t *state = malloc(room);
  ck_assert_int_eq((int)quern_session_save(session, 1, state, room, &size, &error), 0);
  give_source(second, 0, 1, 70);
  ck_assert_msg(quern_session_restore(second, 0, state, size, &error) == 0, "%s", error.text);
  ck_assert_int_eq(quern_session_position(second, 0), 5);
  evaluate(second, 0, 5, TEXT, got);
  ck_assert(same(got, want + 5 * VOCAB, TEXT - 5));
  check_pages(second);
  // A source of another length than the pages are of.
  qn_kv_state_header header;
  memcpy(&header, state, sizeof header);
  ck_assert_uint_eq(header.source, SOURCE);
  header.source = 1;
  memcpy(state, &header, sizeof header);
  FAILS(quern_session_restore(second, 0, state, size, &error), QUERN_ERR_FORMAT, "truncated or damaged");
  ck_assert_int_eq(quern_session_position(second, 0), TEXT);
  free(state);
  free(want);
  free(got);
  quern_session_destroy(session);
  quern_session_destroy(second);
}
END_TEST

// Forks share the source's pages, in which the text's keys are, too: who writes gets copies.
START_TEST(forks_share_the_source) {
  quern_session *session = new_session();
  float *want = alone(0, SOURCE), *got = logits_of(TEXT);
  quern_error error;
  give_source(session, 0, 0, SOURCE);
  evaluate(session, 0, 0, 3, got);
  ck_assert_msg(quern_session_fork(session, 0, 3, 1, &error) == 0, "%s", error.text);
  check_pages(session);
  int32_t saved = text[3];
  text[3] = (saved + 1) % VOCAB;  // the fork goes another way
  evaluate(session, 1, 3, TEXT, got);
  ck_assert(!same(got, want + 3 * VOCAB, TEXT - 3));
  text[3] = saved;
  evaluate(session, 0, 3, TEXT, got);
  ck_assert(same(got, want + 3 * VOCAB, TEXT - 3));
  check_pages(session);
  quern_session_reset(session, 0);
  ck_assert_int_eq((int)quern_session_truncate(session, 1, 3, &error), 0);
  evaluate(session, 1, 3, TEXT, got);
  ck_assert(same(got, want + 3 * VOCAB, TEXT - 3));
  check_pages(session);
  free(want);
  free(got);
  quern_session_destroy(session);
}
END_TEST

static TCase *source(void) {
  TCase *tcase = qn_test_case("source", NULL, 0);
  tcase_add_unchecked_fixture(tcase, open_t5, close_t5);
  tcase_add_test(tcase, what_is_wrong_is_told);
  tcase_add_test(tcase, others_read_no_source);
  tcase_add_test(tcase, a_source_belongs_to_its_sequence);
  tcase_add_test(tcase, batches_look_at_their_own);
  tcase_add_test(tcase, generating_begins_anew);
  tcase_add_test(tcase, states_hold_the_source);
  tcase_add_test(tcase, forks_share_the_source);
  tcase_set_timeout(tcase, 120);
  return tcase;
}

QN_TEST_MAIN(source)
