// The public interface of the runtime, on the hand-made model: what the header promises of arguments, errors, texts,
// sessions and generation.
#include "runtime/quern_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/cpu_features.h"
#include "runtime/model.h"
#include "tests/support/fake_model.h"
#include "tests/support/test.h"

#define MODEL(...)   &(quern_model_options){.size = sizeof(quern_model_options), __VA_ARGS__}
#define SESSION(...) &(quern_session_options){.size = sizeof(quern_session_options), __VA_ARGS__}
#define OK(call)                                                                                      \
  do {                                                                                                \
    quern_error error_ = {.code = -1};                                                                \
    quern_error *error = &error_;                                                                     \
    int status_ = (int)(call);                                                                        \
    ck_assert_msg(status_ == QUERN_OK, "%s: %s: %s", #call, quern_status_name(status_), error->text); \
    ck_assert(error->code == QUERN_OK && error->text[0] == '\0');                                     \
  } while (0)
#define FAILS(want, needle, call)                                                                                      \
  do {                                                                                                                 \
    quern_error error_ = {.code = -1};                                                                                 \
    quern_error *error = &error_;                                                                                      \
    int status_ = (int)(call);                                                                                         \
    ck_assert_msg(status_ == (want) && error->code == (want), "%s: got %d (%s), want %d", #call, status_, error->text, \
                  want);                                                                                               \
    ck_assert_msg(strstr(error->text, needle) != NULL, "'%s' lacks '%s'", error->text, needle);                        \
    error = NULL; /* an error that nobody wants to read */                                                             \
    ck_assert_int_eq((int)(call), want);                                                                               \
  } while (0)

static int owners_destroyed;
static void destroy_owner(void *owner) {
  (void)owner;
  owners_destroyed++;
}

static qn_status open_bytes(const void *data, size_t size, const qn_model_jit *jit, quern_model **out, qn_diag *diag) {
  return qn_model_open_mapping(qn_test_artifact_map(data, size), "fake.qn", jit, qn_allocator_default(), out, diag);
}

// The model as the compiler's side opens one: from memory, with functions of this process.
static quern_model *open_model(const qn_fake_options *options) {
  quern_model *model = NULL;
  qn_buf file;
  qn_diag diag = {0};
  qn_model_jit jit = {
      .entries = qn_fake_kernels, .entry_count = QN_FAKE_KERNELS, .target = "by hand", .destroy_owner = destroy_owner};
  qn_fake_model_build(options, NULL, &file);
  qn_assert_ok(&diag, open_bytes(file.data, file.length, &jit, &model, &diag));
  qn_buf_deinit(&file);
  return model;
}

static const qn_fake_options with_tokenizer = {.tokenizer = true, .max_p = 8, .max_b = 3};

START_TEST(a_model) {
  quern_model *model = open_model(&with_tokenizer);
  size_t length;
  ck_assert_str_eq(quern_model_name(model), "test");
  ck_assert_str_eq(quern_model_target(model), "by hand");
  ck_assert_str_eq(quern_model_path(model), "fake.qn");
  ck_assert_int_eq(quern_model_vocab_size(model), QN_FAKE_VOCAB);
  ck_assert_int_eq(quern_model_context_max(model), 8 * QN_FAKE_PAGE_KEYS);
  ck_assert_uint_eq(quern_model_weight_bytes(model), 0);
  const char *value = quern_model_summary_value(model, "source", &length);
  ck_assert(qn_str_is((qn_str){value, length}, "by hand"));
  value = quern_model_summary_value(model, "pad", &length);
  ck_assert(qn_str_is((qn_str){value, length}, "two words"));
  value = quern_model_summary_value(model, "empty", &length);
  ck_assert(value != NULL && length == 0);
  ck_assert_ptr_null(quern_model_summary_value(model, "none", &length));
  ck_assert_ptr_nonnull(quern_model_summary(model, &length));
  ck_assert_uint_gt(length, 40);
  owners_destroyed = 0;
  quern_model_close(model);
  ck_assert_int_eq(owners_destroyed, 1);
  quern_model_close(NULL);
}
END_TEST

START_TEST(opening_fails) {
  quern_model *model = (quern_model *)&owners_destroyed;
  qn_diag diag = {0};
  qn_buf file;
  FAILS(QUERN_ERR_ARGUMENT, "got NULL", quern_model_open(NULL, NULL, &model, error));
  ck_assert_ptr_null(model);
  FAILS(QUERN_ERR_IO, "none.qn", quern_model_open(qn_test_temp_path("none.qn"), NULL, &model, error));
  qn_test_write_file(qn_test_temp_path("bad.qn"), "quern is a stone that grinds grain", 34);
  FAILS(QUERN_ERR_FORMAT, "not a quern artifact", quern_model_open(qn_test_temp_path("bad.qn"), NULL, &model, error));
  qn_fake_model_build(NULL, NULL, &file);
  qn_test_write_file(qn_test_temp_path("codeless.qn"), file.data, file.length);
  FAILS(QUERN_ERR_TARGET, "no machine code", quern_model_open(qn_test_temp_path("codeless.qn"), NULL, &model, error));
  // The JIT's owner is taken over when opening fails, too.
  owners_destroyed = 0;
  qn_model_jit jit = {.entries = qn_fake_kernels, .entry_count = 3, .destroy_owner = destroy_owner};
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "got 3 functions",
                  open_bytes(file.data, file.length, &jit, &model, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_FORMAT, "truncated",
                  open_bytes(file.data, 99, &jit, &model, &diag));
  ck_assert_int_eq(owners_destroyed, 2);
  qn_buf_deinit(&file);
}
END_TEST

static const uint8_t code_image[16] = {0xc3};
static const uint64_t code_offsets[QN_FAKE_KERNELS];
static void add_code(qn_test_artifact *a) {
  qn_test_artifact_code(a, "plain", "", qn_cpu_arch(), code_image, sizeof code_image, code_offsets);
  qn_test_artifact_code(a, "special", "imaginary", qn_cpu_arch(), code_image, sizeof code_image, code_offsets);
}
static void spoil_tokenizer(qn_test_artifact *a) {
  add_code(a);
  a->tokenizer = QN_STR("no tokenizer");
}
static void add_weight(qn_test_artifact *a) {
  add_code(a);
  qn_test_artifact_weight(a, "w", code_image, sizeof code_image);
}

START_TEST(opening_a_file) {
  quern_model *model = NULL;
  qn_buf file;
  const char *path = qn_test_temp_path("model.qn");
  qn_fake_model_build(&with_tokenizer, add_weight, &file);
  qn_test_write_file(path, file.data, file.length);
  OK(quern_model_open(path, NULL, &model, error));
  ck_assert_str_eq(quern_model_target(model), "plain");
  ck_assert(quern_model_has_tokenizer(model));
  quern_model_close(model);
  OK(quern_model_open(path, MODEL(.check_weights = true), &model, error));
  quern_model_close(model);
  FAILS(QUERN_ERR_TARGET, "needs imaginary",
        quern_model_open(path, MODEL(.target = "special"), &model, error));
  FAILS(QUERN_ERR_ARGUMENT, "want one of: plain; special",
        quern_model_open(path, MODEL(.target = "x"), &model, error));
  file.data[QN_ARTIFACT_PAGE] ^= 1;
  qn_test_write_file(path, file.data, file.length);
  OK(quern_model_open(path, NULL, &model, error));
  quern_model_close(model);
  FAILS(QUERN_ERR_FORMAT, "(weights)",
        quern_model_open(path, MODEL(.check_weights = true), &model, error));
  qn_buf_deinit(&file);
  qn_fake_model_build(&with_tokenizer, spoil_tokenizer, &file);
  qn_test_write_file(path, file.data, file.length);
  FAILS(QUERN_ERR_FORMAT, "tokenizer", quern_model_open(path, NULL, &model, error));
  qn_buf_deinit(&file);
}
END_TEST

START_TEST(texts_and_tokens) {
  quern_model *model = open_model(&with_tokenizer);
  int32_t tokens[8];
  char text[32];
  size_t count = 99, length;
  ck_assert_int_eq(quern_token_bos(model), QN_FAKE_BOS);
  ck_assert_int_eq(quern_token_eos(model), QN_FAKE_EOS);
  ck_assert(quern_token_is_eog(model, QN_FAKE_EOS) && !quern_token_is_eog(model, QN_FAKE_AB) &&
            !quern_token_is_eog(model, -5));
  const char *piece = quern_token_piece(model, QN_FAKE_ONE, &length);
  ck_assert(qn_str_is((qn_str){piece, length}, " one"));
  ck_assert_ptr_null(quern_token_piece(model, QN_FAKE_TOKENS, &length));
  ck_assert_ptr_null(quern_token_piece(model, -1, &length));
  OK(quern_tokenize(model, "x", 1, QUERN_TOKENIZE_ADD_SPECIAL, tokens, 8, &count, error));
  ck_assert(count == 3 && tokens[0] == QN_FAKE_BOS && tokens[1] == QN_FAKE_SPACE && tokens[2] == QN_FAKE_X);
  FAILS(QUERN_ERR_LIMIT, "got room for 2 tokens, want 3",
        quern_tokenize(model, "x", 1, QUERN_TOKENIZE_ADD_SPECIAL, tokens, 2, &count, error));
  ck_assert_uint_eq(count, 3);
  FAILS(QUERN_ERR_LIMIT, "want 3", quern_tokenize(model, "x", 1, QUERN_TOKENIZE_ADD_SPECIAL, NULL, 0, &count, error));
  OK(quern_tokenize(model, "", 0, 0, NULL, 0, &count, error));
  ck_assert_uint_eq(count, 0);
  const int32_t ids[] = {QN_FAKE_BOS, QN_FAKE_ONE, QN_FAKE_TWO};
  OK(quern_detokenize(model, ids, 3, 0, text, sizeof text, &length, error));
  ck_assert(qn_str_is((qn_str){text, length}, "one two"));
  OK(quern_detokenize(model, ids, 3, QUERN_DETOKENIZE_SPECIAL | QUERN_DETOKENIZE_CONTINUES, text, sizeof text, &length,
                      error));
  ck_assert(qn_str_is((qn_str){text, length}, "<s> one two"));
  FAILS(QUERN_ERR_LIMIT, "got room for 3 bytes, want 7", quern_detokenize(model, ids, 3, 0, text, 3, &length, error));
  ck_assert_uint_eq(length, 7);
  FAILS(QUERN_ERR_ARGUMENT, "token id 77",
        quern_detokenize(model, (const int32_t[]){77}, 1, 0, text, 3, &length, error));
  quern_model_close(model);
  model = open_model(NULL);
  ck_assert(!quern_model_has_tokenizer(model) && quern_token_bos(model) == -1 && quern_token_eos(model) == -1);
  ck_assert(!quern_token_is_eog(model, 2) && !quern_token_piece(model, 2, &length));
  FAILS(QUERN_ERR_UNSUPPORTED, "no tokenizer", quern_tokenize(model, "x", 1, 0, tokens, 8, &count, error));
  FAILS(QUERN_ERR_UNSUPPORTED, "no tokenizer", quern_detokenize(model, ids, 1, 0, text, 3, &length, error));
  quern_model_close(model);
}
END_TEST

static void check_logits(const float *got, const int32_t *tokens, size_t count) {
  float want[QN_FAKE_VOCAB];
  qn_fake_logits(tokens, count, want);
  ck_assert_msg(memcmp(got, want, sizeof want) == 0, "after %zu tokens", count);
}

// A session that keeps what sequences held: the next prompt that begins alike is evaluated from where it parts.
START_TEST(prefixes) {
  quern_model *model = open_model(&with_tokenizer);
  quern_session *session = NULL, *plain = NULL;
  quern_stats stats = {.size = sizeof stats};
  quern_prefix_info info = {.size = sizeof info};
  int32_t tokens[60];
  const float *logits = NULL;
  size_t held;
  int64_t pages;
  const char *path = qn_test_temp_path("session.prefixes");
  for (int32_t i = 0; i < 60; i++) tokens[i] = i * 7 % QN_FAKE_TOKENS;
  OK(quern_session_create(model, SESSION(.threads = 1, .context = 64, .sequences = 2, .prefix_cache = true), &session, error));
  OK(quern_session_create(model, SESSION(.threads = 1, .context = 64), &plain, error));
  quern_generate_params params = {.size = sizeof params, .prompt = tokens, .prompt_count = 40, .max_tokens = 3, .ignore_eog = true};
  OK(quern_generate(session, &params, &stats, error));
  ck_assert(stats.prompt_tokens == 40 && stats.held_tokens == 0);
  params.sequence = 1;
  params.prompt_count = 60;
  OK(quern_generate(session, &params, &stats, error));  // the first is still there: its full pages
  ck_assert(stats.prompt_tokens == 60 && stats.held_tokens == 32);
  FAILS(QUERN_ERR_ARGUMENT, "got 1 of 62 tokens, want an empty one", quern_session_attach(session, 1, tokens, 60, &held, error));
  FAILS(QUERN_ERR_ARGUMENT, "sequence: got 2, want 0 to 1", quern_session_attach(session, 2, tokens, 60, &held, error));
  quern_session_reset(session, 0);
  OK(quern_session_attach(session, 0, tokens, 48, &held, error));
  ck_assert_uint_eq(held, 47);
  OK(quern_session_eval(session, 0, tokens + held, 1, &logits, error));
  check_logits(logits, tokens, 48);
  OK(quern_session_get_prefixes(session, &info, error));
  ck_assert(info.lookups == 3 && info.asked_tokens == 148 && info.found_tokens == 32 + 47 && info.given_up_pages == 0);
  ck_assert(info.pages == 4 && info.tokens == 48 + 10);  // what the first generated parts from the second
  OK(quern_session_save_prefixes(session, path, error));
  quern_session_destroy(session);
  OK(quern_session_create(model, SESSION(.threads = 1, .context = 64, .prefix_cache = true), &session, error));
  OK(quern_session_load_prefixes(session, path, &pages, error));
  ck_assert_int_eq(pages, info.pages);
  OK(quern_session_attach(session, 0, tokens, 40, &held, error));
  ck_assert_uint_eq(held, 39);
  OK(quern_session_attach(plain, 0, tokens, 40, &held, error));
  ck_assert_uint_eq(held, 0);
  OK(quern_session_get_prefixes(plain, &info, error));
  ck_assert(info.lookups == 0 && info.pages == 0);
  FAILS(QUERN_ERR_ARGUMENT, "keeps no prefixes", quern_session_save_prefixes(plain, path, error));
  FAILS(QUERN_ERR_ARGUMENT, "keeps no prefixes", quern_session_load_prefixes(plain, path, &pages, error));
  FAILS(QUERN_ERR_ARGUMENT, "path: got NULL", quern_session_save_prefixes(session, NULL, error));
  FAILS(QUERN_ERR_IO, "none", quern_session_load_prefixes(session, qn_test_temp_path("none"), &pages, error));
  info.size = 3;
  FAILS(QUERN_ERR_ARGUMENT, "quern_prefix_info: got size 3", quern_session_get_prefixes(session, &info, error));
  quern_session_destroy(session);
  quern_session_destroy(plain);
  quern_model_close(model);
  ck_assert_int_eq(qn_fake_errors(), 0);
}
END_TEST

START_TEST(a_session) {
  static float all[20 * QN_FAKE_VOCAB];
  quern_model *model = open_model(&with_tokenizer);
  quern_session *session = NULL;
  quern_session_info info = {.size = sizeof info};
  int32_t tokens[20];
  const float *logits = NULL;
  for (int32_t i = 0; i < 20; i++) tokens[i] = i * 7 % QN_FAKE_VOCAB;
  OK(quern_session_create(model, SESSION(.threads = 2, .context = 20, .sequences = 2), &session,
                          error));
  quern_session_get_info(session, &info, NULL);
  ck_assert(info.threads == 2 && info.context == 20 && info.chunk == 16 && info.sequences == 2);
  ck_assert(info.kv_bytes == 2 * 4096 && info.arena_bytes > 0);
  OK(quern_session_eval(session, 0, tokens, 17, &logits, error));
  check_logits(logits, tokens, 17);
  OK(quern_session_eval(session, 0, tokens + 17, 3, NULL, error));
  FAILS(QUERN_ERR_LIMIT, "context is full", quern_session_eval(session, 0, tokens, 1, &logits, error));
  OK(quern_session_eval_all(session, 1, tokens, 20, all, error));
  for (size_t i = 0; i < 20; i++) check_logits(all + i * QN_FAKE_VOCAB, tokens, i + 1);
  ck_assert(quern_session_position(session, 1) == 20 && quern_session_position(session, 2) == -1);
  FAILS(QUERN_ERR_ARGUMENT, "got NULL", quern_session_eval_all(session, 1, tokens, 1, NULL, error));
  FAILS(QUERN_ERR_UNSUPPORTED, "makes logits and no embeddings, want an encoder",
        quern_session_embed(session, tokens, &(size_t){1}, 1, all, error));
  OK(quern_session_truncate(session, 1, 5, error));
  FAILS(QUERN_ERR_ARGUMENT, "length: got 6", quern_session_truncate(session, 1, 6, error));
  FAILS(QUERN_ERR_ARGUMENT, "length: got -1", quern_session_truncate(session, 1, -1, error));
  FAILS(QUERN_ERR_ARGUMENT, "sequence: got 7", quern_session_truncate(session, 7, 0, error));
  quern_session_reset(session, 0);
  quern_session_reset(session, -3);
  ck_assert_ptr_null(quern_session_logits(session, 0));
  const quern_item items[] = {{tokens[5], 1, true}, {tokens[0], 0, false}, {tokens[1], 0, true}};
  OK(quern_session_step(session, items, 3, error));
  check_logits(quern_session_logits(session, 0), tokens, 6);
  check_logits(quern_session_logits(session, 1), tokens, 2);
  ck_assert_ptr_null(quern_session_logits(session, 2));
  OK(quern_session_fork(session, 1, 4, 0, error));
  OK(quern_session_eval(session, 0, tokens + 4, 3, &logits, error));
  check_logits(logits, tokens, 7);
  OK(quern_session_eval(session, 1, tokens + 6, 1, &logits, error));
  check_logits(logits, tokens, 7);
  FAILS(QUERN_ERR_ARGUMENT, "want 0 to the 7 that it has", quern_session_fork(session, 0, 8, 1, error));
  FAILS(QUERN_ERR_ARGUMENT, "got sequence 2", quern_session_fork(session, 0, 1, 2, error));
  OK(quern_session_truncate(session, 0, 2, error));
  OK(quern_session_fill(session, 0, 4, error));
  ck_assert_int_eq(quern_session_position(session, 0), 6);
  FAILS(QUERN_ERR_ARGUMENT, "sequence 2", quern_session_fill(session, 2, 1, error));
  quern_step_profile profile = {.size = sizeof profile};
  ck_assert(!quern_session_profile(session, 0, &profile));
  quern_session_destroy(session);
  quern_session_destroy(NULL);
  FAILS(QUERN_ERR_LIMIT, "context: got 129",
        quern_session_create(model, SESSION(.context = 129), &session, error));
  ck_assert_ptr_null(session);
  FAILS(QUERN_ERR_ARGUMENT, "threads",
        quern_session_create(model, SESSION(.threads = -1), &session, error));
  FAILS(QUERN_ERR_ARGUMENT, "decode_threads: got 3, want 1 to the 2 threads, or 0 for all",
        quern_session_create(model, SESSION(.threads = 2, .decode_threads = 3), &session, error));
  FAILS(QUERN_ERR_ARGUMENT, "spin_us: got -2, want -1 to 1000000",
        quern_session_create(model, SESSION(.threads = 2, .spin_us = -2), &session, error));
  FAILS(QUERN_ERR_ARGUMENT, "grain: got 65, want 1 to 64, or 0",
        quern_session_create(model, SESSION(.threads = 2, .grain = 65), &session, error));
  OK(quern_session_create(model, SESSION(.threads = 2, .decode_threads = 1, .spin_us = -1, .grain = 64), &session,
                          error));
  quern_session_get_info(session, &info, NULL);
  ck_assert(info.threads == 2 && info.decode_threads == 1);
  quern_session_destroy(session);
  quern_model_close(model);
  ck_assert_int_eq(qn_fake_errors(), 0);
}
END_TEST

START_TEST(a_profile) {
  quern_model *model = open_model(&with_tokenizer);
  quern_session *session = NULL;
  quern_step_profile profile = {.size = sizeof profile};
  const int32_t token = 3;
  OK(quern_session_create(model, SESSION(.threads = 1, .profile = true), &session, error));
  for (int i = 0; i < 5; i++) OK(quern_session_eval(session, 0, &token, 1, NULL, error));
  ck_assert(quern_session_profile(session, 2, &profile));
  ck_assert_str_eq(profile.kernel, "logits");
  ck_assert_str_eq(profile.place, "op 2");
  ck_assert_uint_eq(profile.calls, 5);
  ck_assert(!quern_session_profile(session, 3, &profile));
  profile.size = 0;
  ck_assert(!quern_session_profile(session, 2, &profile));
  quern_session_destroy(session);
  quern_model_close(model);
}
END_TEST

static bool append(void *context, const char *text, size_t length, int32_t token) {
  char *to = context;
  (void)token;
  strncat(to, text, length);
  return true;
}

static bool always(void *context) {
  ++*(int *)context;
  return true;
}

START_TEST(generation) {
  int asked = 0;
  static const int32_t script[] = {QN_FAKE_BOS, QN_FAKE_ONE, QN_FAKE_AB, QN_FAKE_ST, QN_FAKE_OP, QN_FAKE_X};
  static const char *const stops[] = {"\n", "STOP"};
  quern_model *model = open_model(&with_tokenizer);
  quern_session *session = NULL;
  quern_stats stats = {.size = sizeof stats};
  char text[128] = "";
  quern_sampler_options greedy = quern_sampler_options_default();
  ck_assert(fabs(greedy.temperature - 0.8) < 1e-12 && greedy.top_k == 40);
  greedy.temperature = 0;
  OK(quern_session_create(model, SESSION(.threads = 1), &session, error));
  qn_fake_set_script(script, QN_COUNT(script));
  quern_generate_params params = {.size = sizeof params,
                                  .prompt = script,
                                  .prompt_count = 2,
                                  .sampler = &greedy,
                                  .stops = stops,
                                  .stop_count = 2,
                                  .callback = append,
                                  .callback_context = text};
  OK(quern_generate(session, &params, &stats, error));
  ck_assert_str_eq(text, "ab");
  ck_assert(stats.reason == QUERN_STOP_STRING && stats.stop_index == 1 && stats.pending_token == QN_FAKE_OP);
  ck_assert_str_eq(quern_stop_reason_name(stats.reason), "string");
  qn_fake_set_script(NULL, 0);
  // Sampled: the same seed gives the same text, only tokens that the tokenizer knows.
  char again[128] = "";
  params = (quern_generate_params){.size = sizeof params,
                                   .prompt = script,
                                   .prompt_count = 2,
                                   .max_tokens = 20,
                                   .ignore_eog = true,
                                   .callback = append,
                                   .callback_context = text};
  for (int i = 0; i < 2; i++) {
    text[0] = '\0';
    quern_session_reset(session, 0);
    OK(quern_generate(session, &params, &stats, error));
    ck_assert(stats.reason == QUERN_STOP_MAX_TOKENS && stats.generated_tokens == 20);
    if (i == 0) strcpy(again, text);
  }
  ck_assert_str_eq(text, again);
  params.callback = NULL;
  OK(quern_generate(session, &params, NULL, error));
  params.cancelled = always;
  params.callback_context = &asked;
  OK(quern_generate(session, &params, &stats, error));
  ck_assert(asked == 1 && stats.reason == QUERN_STOP_CANCELLED && stats.prompt_tokens == 0);
  params.cancelled = NULL;
  params.sequence = 5;
  FAILS(QUERN_ERR_ARGUMENT, "sequence: got 5, want 0 to 0", quern_generate(session, &params, &stats, error));
  params.sequence = -1;
  FAILS(QUERN_ERR_ARGUMENT, "sequence: got -1, want 0 to 0", quern_generate(session, &params, &stats, error));
  params.sequence = 0;
  greedy.top_p = 7;
  params.sampler = &greedy;
  FAILS(QUERN_ERR_ARGUMENT, "top_p", quern_generate(session, &params, &stats, error));
  params.sampler = NULL;
  params.stops = (const char *const[]){""};
  params.stop_count = 1;
  FAILS(QUERN_ERR_ARGUMENT, "empty", quern_generate(session, &params, &stats, error));
  quern_session_destroy(session);
  quern_model_close(model);
  ck_assert_int_eq(qn_fake_errors(), 0);
}
END_TEST

static void say_greedy(qn_test_artifact *a) {
  add_code(a);
  a->summary = QN_STR("sampling.temperature = 0\nsampling.top_k = 3\nsampling.repeat_penalty = 1.5\nsampling.repeat_last = 8\n"
                      "sampling.max_tokens = 7\n");
}
static void say_nonsense(qn_test_artifact *a) {
  add_code(a);
  a->summary = QN_STR("sampling.top_p = 2\n");
}

// What a model's files say of sampling holds where the caller says nothing, and is checked when it is opened.
START_TEST(sampling_of_the_model) {
  quern_model *model = NULL;
  qn_buf file;
  const char *path = qn_test_temp_path("says.qn");
  quern_sampler_options o = quern_sampler_options_default();
  qn_sampler_options inside;
  qn_diag diag = {0};
  o.seed = 5;
  qn_fake_model_build(&with_tokenizer, say_greedy, &file);
  qn_test_write_file(path, file.data, file.length);
  qn_buf_deinit(&file);
  OK(quern_model_open(path, NULL, &model, error));
  ck_assert(quern_model_sampler_defaults(model, &o));
  ck_assert(o.temperature == 0 && o.top_k == 3 && fabs(o.top_p - 0.95) < 1e-12 && o.repeat_penalty == 1.5);
  ck_assert(o.repeat_last_n == 8 && o.seed == 5 && o.size == sizeof o);
  ck_assert_int_eq(quern_model_max_tokens(model), 7);
  qn_assert_ok(&diag, qn_model_sampler_options(model, NULL, &inside, &diag));
  ck_assert(inside.temperature == 0 && inside.repeat_penalty == 1.5);
  o = quern_sampler_options_default();
  qn_assert_ok(&diag, qn_model_sampler_options(model, &o, &inside, &diag));
  ck_assert(inside.temperature > 0 && inside.repeat_penalty == 1);
  o.size = offsetof(quern_sampler_options, top_p);  // of an earlier library: what lies behind is not touched
  o.repeat_penalty = 9;
  ck_assert(quern_model_sampler_defaults(model, &o) && o.top_k == 3 && o.repeat_penalty == 9);
  quern_model_close(model);
  qn_fake_model_build(&with_tokenizer, say_nonsense, &file);
  qn_test_write_file(path, file.data, file.length);
  qn_buf_deinit(&file);
  FAILS(QUERN_ERR_FORMAT, "sampling.top_p: got '2', want a number above 0", quern_model_open(path, NULL, &model, error));
  model = open_model(&with_tokenizer);
  o = quern_sampler_options_default();
  ck_assert(!quern_model_sampler_defaults(model, &o) && o.top_k == 40 && quern_model_max_tokens(model) == 0);
  quern_model_close(model);
}
END_TEST

static int word_count;  // of the vocabularies that follow
static qn_buf words;    // the last one

// Another vocabulary, of so many words of its own.
static void say_other_words(qn_test_artifact *a) {
  static char texts[QN_FAKE_TOKENS][16];
  qn_str tokens[QN_FAKE_TOKENS];
  float scores[QN_FAKE_TOKENS] = {0};
  uint8_t types[QN_FAKE_TOKENS] = {QN_TOKEN_UNKNOWN};
  qn_diag diag = {0};
  for (int i = 0; i < word_count; i++) {
    snprintf(texts[i], sizeof texts[i], "w%d", i);
    tokens[i] = qn_str_from(texts[i]);
    if (i > 0) types[i] = QN_TOKEN_NORMAL;
  }
  const qn_tokenizer_desc desc = {.kind = QN_TOKENIZER_SPM,
                                  .token_count = word_count,
                                  .tokens = tokens,
                                  .scores = scores,
                                  .types = types,
                                  .bos = -1,
                                  .eos = -1,
                                  .unk = 0,
                                  .pad = -1};
  qn_assert_ok(&diag, qn_tokenizer_serialize(&desc, qn_allocator_default(), &words, &diag));
  a->tokenizer = (qn_str){words.data, words.length};
}

static quern_model *open_other_words(int count) {
  quern_model *model = NULL;
  qn_buf file;
  qn_diag diag = {0};
  qn_model_jit jit = {.entries = qn_fake_kernels, .entry_count = QN_FAKE_KERNELS, .target = "by hand"};
  word_count = count;
  qn_buf_init(&words, qn_allocator_default());
  qn_fake_model_build(&with_tokenizer, say_other_words, &file);
  qn_assert_ok(&diag, open_bytes(file.data, file.length, &jit, &model, &diag));
  qn_buf_deinit(&file);
  qn_buf_deinit(&words);
  return model;
}

// A draft model says ids, which must be the same text's as the model's.
START_TEST(drafts_of_other_vocabularies) {
  quern_model *model = open_model(&with_tokenizer), *fewer = open_other_words(9), *other = open_other_words(QN_FAKE_TOKENS);
  quern_session *session = NULL;
  quern_speculator *none = NULL;
  quern_speculator_options options = {.size = sizeof options, .technique = QUERN_SPECULATE_DRAFT, .draft = fewer};
  OK(quern_session_create(model, SESSION(.threads = 1), &session, error));
  FAILS(QUERN_ERR_ARGUMENT, "the draft model has a vocabulary of 9 tokens, want the 17 of fake.qn",
        quern_speculator_create(session, &options, &none, error));
  options.draft = other;
  FAILS(QUERN_ERR_ARGUMENT, "token 0 of the draft model is 'w0', want '<unk>' as fake.qn has it",
        quern_speculator_create(session, &options, &none, error));
  ck_assert_ptr_null(none);
  quern_session_destroy(session);
  quern_model_close(model);
  quern_model_close(fewer);
  quern_model_close(other);
}
END_TEST

// What is guessed changes no text; who may guess, and for whom.
START_TEST(speculation) {
  static const int32_t script[] = {QN_FAKE_BOS, QN_FAKE_ONE, QN_FAKE_AB, QN_FAKE_ONE, QN_FAKE_AB,
                                   QN_FAKE_ONE, QN_FAKE_AB,  QN_FAKE_ONE, QN_FAKE_AB, QN_FAKE_EOS};
  quern_model *model = open_model(&with_tokenizer), *plain = open_model(&(qn_fake_options){0});
  quern_model *narrow = open_model(&(qn_fake_options){.tokenizer = true, .max_r = 1});
  quern_session *session = NULL, *other = NULL;
  quern_speculator *lookup = NULL, *lookahead = NULL, *draft = NULL, *judged = NULL, *none = NULL;
  quern_stats stats = {.size = sizeof stats};
  char text[128] = "";
  quern_sampler_options greedy = quern_sampler_options_default();
  greedy.temperature = 0;
  OK(quern_session_create(model, SESSION(.threads = 1), &session, error));
  OK(quern_session_create(narrow, SESSION(.threads = 1), &other, error));
  quern_speculator_options options = {.size = sizeof options, .technique = QUERN_SPECULATE_LOOKUP, .tokens = 3};
  OK(quern_speculator_create(session, &options, &lookup, error));
  FAILS(QUERN_ERR_LIMIT, "the logits of 1 token a step", quern_speculator_create(other, &options, &none, error));
  options.technique = QUERN_SPECULATE_LOOKAHEAD;
  OK(quern_speculator_create(session, &options, &lookahead, error));
  options.tokens = 16;
  FAILS(QUERN_ERR_LIMIT, "got 16 guesses", quern_speculator_create(session, &options, &none, error));
  options.technique = (quern_technique)99;
  FAILS(QUERN_ERR_ARGUMENT, "technique: got 99", quern_speculator_create(session, &options, &none, error));
  options = (quern_speculator_options){.size = sizeof options, .technique = QUERN_SPECULATE_DRAFT, .tokens = 2};
  FAILS(QUERN_ERR_ARGUMENT, "got no draft model", quern_speculator_create(session, &options, &none, error));
  options.draft = plain;
  FAILS(QUERN_ERR_ARGUMENT, "the draft model has no tokenizer", quern_speculator_create(session, &options, &none, error));
  ck_assert_ptr_null(none);
  options.draft = model;  // guesses for itself
  OK(quern_speculator_create(session, &options, &draft, error));
  options.rejection = true;
  OK(quern_speculator_create(session, &options, &judged, error));
  options = (quern_speculator_options){.size = sizeof options, .technique = QUERN_SPECULATE_MEDUSA};
  FAILS(QUERN_ERR_ARGUMENT, "got no heads", quern_speculator_create(session, &options, &none, error));
  options.draft = plain;
  FAILS(QUERN_ERR_UNSUPPORTED, "does not give the hidden states", quern_speculator_create(session, &options, &none, error));
  ck_assert_str_eq(quern_technique_name(QUERN_SPECULATE_MEDUSA), "medusa");
  ck_assert_str_eq(quern_technique_name(QUERN_SPECULATE_DRAFT), "draft");
  ck_assert_ptr_null(quern_technique_name((quern_technique)99));

  quern_generate_params params = {.size = sizeof params,
                                  .prompt = script,
                                  .prompt_count = 5,
                                  .sampler = &greedy,
                                  .callback = append,
                                  .callback_context = text};
  qn_fake_set_script(script, QN_COUNT(script));
  quern_speculator *by[] = {NULL, lookup, lookahead, draft, judged};
  const int64_t passes[] = {4, 1, 1, 2, 2};
  for (size_t i = 0; i < QN_COUNT(by); i++) {
    text[0] = '\0';
    quern_session_reset(session, 0);
    params.speculator = by[i];
    OK(quern_generate(session, &params, &stats, error));
    ck_assert_str_eq(text, " oneab oneab");
    ck_assert(stats.reason == QUERN_STOP_EOG && stats.decode_steps == 4);
    ck_assert_int_eq(stats.passes, passes[i]);
    ck_assert_int_eq(stats.accepted, 4 - passes[i]);
    ck_assert_int_ge(stats.proposed, stats.accepted);
  }
  qn_fake_set_script(NULL, 0);
  FAILS(QUERN_ERR_ARGUMENT, "one of another session", quern_generate(other, &params, &stats, error));
  quern_speculator_destroy(lookup);
  quern_speculator_destroy(lookahead);
  quern_speculator_destroy(draft);
  quern_speculator_destroy(judged);
  quern_speculator_destroy(NULL);
  quern_session_destroy(session);
  quern_session_destroy(other);
  quern_model_close(model);
  quern_model_close(plain);
  quern_model_close(narrow);
}
END_TEST

// What gave keys up is cut to none alone, or to what it had then.
START_TEST(evicted_keys_are_gone) {
  quern_model *model = open_model(&(qn_fake_options){.slots = true});
  quern_session *session = NULL;
  const int32_t tokens[20] = {0};
  OK(quern_session_create(model, SESSION(.context = 64, .sequences = 2, .kv_evict = "sinks", .kv_keep = 16), &session, error));
  OK(quern_session_eval(session, 0, tokens, 20, NULL, error));  // the 16th, 18th and 20th had two keys each given up
  FAILS(QUERN_ERR_LIMIT, "length: got 19, want 0, or 20 to 20: keys that fewer tokens would see lay before the window, or were evicted",
        quern_session_truncate(session, 0, 19, error));
  FAILS(QUERN_ERR_LIMIT, "got 19 tokens of sequence 0 to fork, want 0, or at least 20", quern_session_fork(session, 0, 19, 1, error));
  OK(quern_session_fork(session, 0, 20, 1, error));
  OK(quern_session_truncate(session, 0, 0, error));
  ck_assert(quern_session_position(session, 0) == 0 && quern_session_position(session, 1) == 20);
  FAILS(QUERN_ERR_LIMIT, "keys to fill in beside", quern_session_fill(session, 0, 16, error));
  quern_session_destroy(session);
  quern_model_close(model);
}
END_TEST

QN_CASE(models, a_model, opening_fails, opening_a_file, texts_and_tokens)
QN_CASE(sessions, a_session, evicted_keys_are_gone, prefixes, a_profile, generation, sampling_of_the_model, speculation,
        drafts_of_other_vocabularies)
QN_TEST_MAIN(models, sessions)
