// What a host program brings and takes: its allocator, its log, requests to stop from other threads, a sequence's
// state, and option structs of other versions of the header. On the hand-made model.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/base/log.h"
#include "runtime/base/options.h"
#include "runtime/kv_state.h"
#include "runtime/model.h"
#include "tests/support/fake_model.h"
#include "tests/support/test.h"

#define FAILS(want, needle, call)                                                                                 \
  do {                                                                                                            \
    quern_error error_ = {.code = -1};                                                                            \
    quern_error *error = &error_;                                                                                 \
    int status_ = (int)(call);                                                                                    \
    qn_check(status_ == (want) && error->code == (want), "%s: got %d (%s), want %d", #call, status_, error->text, \
             want);                                                                                               \
    qn_check(strstr(error->text, needle) != NULL, "'%s' lacks '%s'", error->text, needle);                        \
  } while (0)
#define OK(call) FAILS(QUERN_OK, "", call)

enum { TOKENS = 20 };

static const qn_fake_options with_tokenizer = {.tokenizer = true, .max_p = 8, .max_b = 3};

static qn_status open_on(const qn_fake_options *options, void (*change)(qn_test_artifact *a),
                         const qn_allocator *allocator, quern_model **out, qn_diag *diag) {
  qn_buf file;
  qn_model_jit jit = {.entries = qn_fake_kernels, .entry_count = QN_FAKE_KERNELS, .target = "by hand"};
  qn_fake_model_build(options, change, &file);
  qn_status status =
      qn_model_open_mapping(qn_test_artifact_map(file.data, file.length), "fake.qn", &jit, allocator, out, diag);
  qn_buf_deinit(&file);
  return status;
}

static quern_model *open_changed(void (*change)(qn_test_artifact *a)) {
  quern_model *model = NULL;
  qn_diag diag = {0};
  qn_assert_ok(&diag, open_on(&with_tokenizer, change, qn_test_allocator(), &model, &diag));
  return model;
}

static quern_session *create(quern_model *model, int64_t context) {
  quern_session *session = NULL;
  quern_session_options options = {.size = sizeof options, .threads = 1, .context = context, .sequences = 2};
  OK(quern_session_create(model, &options, &session, error));
  return session;
}

static void make_tokens(int32_t *tokens, int32_t factor) {
  for (int32_t i = 0; i < TOKENS; i++) tokens[i] = i * factor % QN_FAKE_VOCAB;
}

static void check_next(quern_session *session, int32_t sequence, const int32_t *tokens, size_t count) {
  float want[QN_FAKE_VOCAB];
  const float *logits = NULL;
  OK(quern_session_eval(session, sequence, &tokens[count - 1], 1, &logits, error));
  qn_fake_logits(tokens, count, want);
  qn_check(memcmp(logits, want, sizeof want) == 0, "the logits after %zu tokens differ", count);
}

// --- the allocator

static qn_status live(const qn_allocator *allocator, void *context) {
  static const int32_t prompt[] = {QN_FAKE_BOS, QN_FAKE_ONE, QN_FAKE_AB};
  quern_model *model = NULL;
  quern_session *session = NULL;
  qn_diag diag = {0};
  quern_error error;
  int32_t tokens[8];
  size_t count;
  char text[16];
  (void)context;
  qn_status status = open_on(&with_tokenizer, NULL, allocator, &model, &diag);
  quern_session_options options = {.size = sizeof options, .threads = 2, .context = 64};
  quern_generate_params params = {.size = sizeof params, .prompt = prompt, .prompt_count = 3, .max_tokens = 5};
  params.stops = (const char *const[]){"STOP"};
  params.stop_count = 1;
  if (status == QN_OK) status = (qn_status)quern_session_create(model, &options, &session, &error);
  if (status == QN_OK) status = (qn_status)quern_generate(session, &params, NULL, &error);
  if (status == QN_OK) status = (qn_status)quern_tokenize(model, "ab one", 6, 0, tokens, 8, &count, &error);
  if (status == QN_OK) status = (qn_status)quern_detokenize(model, tokens, count, 0, text, 16, &count, &error);
  size_t size = session ? quern_session_state_size(session, 0) : 0;
  char *state = malloc(size + 1);
  if (status == QN_OK) status = (qn_status)quern_session_save(session, 0, state, size, &count, &error);
  free(state);
  quern_session_destroy(session);
  quern_model_close(model);
  return status;
}

START_TEST(all_memory_is_the_hosts) { qn_test_failing_allocations(live, NULL); }
END_TEST

static const uint8_t code_image[16] = {0xc3};
static const uint64_t code_offsets[QN_FAKE_KERNELS];
static void add_code(qn_test_artifact *a) {
  qn_test_artifact_code(a, "plain", "", 0, code_image, sizeof code_image, code_offsets);
  qn_test_artifact_code(a, "plain", "", 1, code_image, sizeof code_image, code_offsets);
}

START_TEST(an_allocator_by_options) {
  const char *path = qn_test_temp_path("model.qn");
  qn_test_memory memory;
  qn_buf file;
  quern_model *model = NULL;
  qn_test_memory_init(&memory);
  quern_allocator mine = {memory.allocator.context, memory.allocator.reallocate};
  quern_model_options options = {.size = sizeof options, .allocator = &mine};
  qn_fake_model_build(&with_tokenizer, add_code, &file);
  qn_test_write_file(path, file.data, file.length);
  qn_buf_deinit(&file);
  OK(quern_model_open(path, &options, &model, error));
  mine = (quern_allocator){0};  // it was copied
  ck_assert_uint_gt(memory.live_blocks, 2);
  quern_model_close(model);
  ck_assert_uint_eq(memory.live_blocks, 0);
}
END_TEST

// --- the log

typedef struct heard {
  int count;
  quern_log_level level;
  char text[64];
} heard;

static void hear(void *context, quern_log_level level, const char *text) {
  heard *h = context;
  h->count++;
  h->level = level;
  snprintf(h->text, sizeof h->text, "%s", text);
}

START_TEST(the_log_is_the_hosts) {
  heard h = {0};
  quern_log_set(hear, &h);
  qn_log(QN_LOG_WARNING, "page %d", 7);
  ck_assert(h.count == 1 && h.level == QUERN_LOG_WARNING && strcmp(h.text, "page 7") == 0);
  qn_log(QN_LOG_DEBUG, "all of it");
  ck_assert(h.count == 2 && h.level == QUERN_LOG_DEBUG);
  quern_log_set(NULL, NULL);
  qn_log(QN_LOG_INFO, "nobody hears this");
  ck_assert_int_eq(h.count, 2);
}
END_TEST

// --- requests to stop

static void *cancel(void *session) {
  quern_session_cancel(session);
  return NULL;
}

typedef struct stopping {
  quern_session *session;
  int tokens;
} stopping;

// After the third token another thread asks for an end.
static bool stop_at_three(void *context, const char *text, size_t length, int32_t token) {
  stopping *s = context;
  pthread_t thread;
  (void)text, (void)length, (void)token;
  if (++s->tokens == 3) {
    ck_assert_int_eq(pthread_create(&thread, NULL, cancel, s->session), 0);
    pthread_join(thread, NULL);
  }
  return true;
}

START_TEST(another_thread_cancels) {
  static const int32_t prompt[] = {QN_FAKE_BOS, QN_FAKE_ONE, QN_FAKE_AB};
  static float all[TOKENS * QN_FAKE_VOCAB];
  quern_model *model = open_changed(NULL);
  quern_session *session = create(model, 64);
  int32_t tokens[TOKENS];
  quern_stats stats = {.size = sizeof stats};
  stopping s = {.session = session};
  make_tokens(tokens, 7);
  quern_generate_params params = {.size = sizeof params,
                                  .prompt = prompt,
                                  .prompt_count = 3,
                                  .ignore_eog = true,
                                  .callback = stop_at_three,
                                  .callback_context = &s};
  OK(quern_generate(session, &params, &stats, error));
  ck_assert(stats.reason == QUERN_STOP_CANCELLED && s.tokens == 3 && stats.generated_tokens == 3);
  ck_assert_int_eq(quern_session_position(session, 0), 5);
  // A request before a call is for that call, and used up by it; the sequence is as it was.
  quern_session_cancel(session);
  FAILS(QUERN_ERR_CANCELLED, "quern_session_cancel", quern_session_eval(session, 1, tokens, TOKENS, NULL, error));
  ck_assert_int_eq(quern_session_position(session, 1), 0);
  OK(quern_session_eval(session, 1, tokens, TOKENS - 1, NULL, error));
  check_next(session, 1, tokens, TOKENS);
  quern_session_cancel(session);
  FAILS(QUERN_ERR_CANCELLED, "cancelled", quern_session_eval_all(session, 1, tokens, 2, all, error));
  quern_session_cancel(session);
  FAILS(QUERN_ERR_CANCELLED, "cancelled", quern_session_step(session, &(quern_item){tokens[0], 1, true}, 1, error));
  ck_assert_int_eq(quern_session_position(session, 1), TOKENS);
  quern_session_cancel(session);
  quern_session_uncancel(session);
  OK(quern_session_eval(session, 1, tokens, 1, NULL, error));
  quern_session_destroy(session);
  quern_model_close(model);
}
END_TEST

// --- a sequence's state

typedef struct saved {
  char *bytes;
  size_t size;
} saved;

static saved save(const quern_session *session, int32_t sequence) {
  saved s = {.size = quern_session_state_size(session, sequence)};
  size_t written = 0;
  s.bytes = malloc(s.size);
  OK(quern_session_save(session, sequence, s.bytes, s.size, &written, error));
  ck_assert_uint_eq(written, s.size);
  return s;
}

START_TEST(a_state_goes_on_elsewhere) {
  const char *path = qn_test_temp_path("sequence.state");
  quern_model *model = open_changed(NULL), *same = open_changed(NULL);
  quern_session *session = create(model, 64), *other = create(same, 32);
  int32_t tokens[TOKENS], others[TOKENS];
  make_tokens(tokens, 7);
  make_tokens(others, 11);
  OK(quern_session_eval(session, 0, tokens, TOKENS - 1, NULL, error));
  saved state = save(session, 0);
  ck_assert_uint_eq(state.size, sizeof(qn_kv_state_header) + 2 * (QN_FAKE_PAGE_KEYS * 12));
  // In place of a longer sequence, of a shorter one, and of none, in other sessions and models of the same bytes.
  OK(quern_session_eval(session, 1, others, TOKENS, NULL, error));
  OK(quern_session_eval(session, 1, others, TOKENS, NULL, error));
  OK(quern_session_restore(session, 1, state.bytes, state.size, error));
  ck_assert_int_eq(quern_session_position(session, 1), TOKENS - 1);
  check_next(session, 1, tokens, TOKENS);
  OK(quern_session_eval(other, 1, others, 2, NULL, error));
  OK(quern_session_restore(other, 1, state.bytes, state.size, error));
  check_next(other, 1, tokens, TOKENS);
  OK(quern_session_save_file(session, 0, path, error));
  OK(quern_session_restore_file(other, 0, path, error));
  check_next(other, 0, tokens, TOKENS);
  // The same tokens give the same bytes, whatever the pages held before.
  OK(quern_session_truncate(other, 0, TOKENS - 1, error));
  saved again = save(other, 0);
  ck_assert(again.size == state.size && memcmp(again.bytes, state.bytes, state.size) == 0);
  free(again.bytes);
  // No tokens are a state, too.
  quern_session_reset(session, 1);
  again = save(session, 1);
  OK(quern_session_restore(other, 0, again.bytes, again.size, error));
  ck_assert_int_eq(quern_session_position(other, 0), 0);
  free(again.bytes);
  free(state.bytes);
  quern_session_destroy(session);
  quern_session_destroy(other);
  quern_model_close(model);
  quern_model_close(same);
  ck_assert_int_eq(qn_fake_errors(), 0);
}
END_TEST

static void add_weight(qn_test_artifact *a) { qn_test_artifact_weight(a, "w", code_image, sizeof code_image); }
static void forget_shape(qn_test_artifact *a) {
  for (size_t i = 0; i < a->buffers.count; i++) {
    if (a->buffers.items[i].kind == QN_ART_CACHE) a->buffers.items[i].rank = 0;
  }
}

// What fits nowhere is refused, and the sequence stays as it was.
static void stays(quern_session *session, const int32_t *tokens) {
  qn_check(quern_session_position(session, 0) == 5, "the sequence has changed");
  check_next(session, 0, tokens, 6);
  OK(quern_session_truncate(session, 0, 5, error));
}

START_TEST(a_wrong_state_is_refused) {
  quern_model *model = open_changed(NULL), *other_model = open_changed(add_weight), *odd = open_changed(forget_shape);
  quern_session *session = create(model, 64), *small = create(model, TOKENS - 4), *other = create(other_model, 64);
  quern_session *shapeless = create(odd, 64);
  int32_t tokens[TOKENS];
  size_t size;
  make_tokens(tokens, 7);
  OK(quern_session_eval(session, 1, tokens, TOKENS - 1, NULL, error));
  saved state = save(session, 1);
  OK(quern_session_eval(session, 0, tokens, 5, NULL, error));
  OK(quern_session_eval(small, 0, tokens, 5, NULL, error));
  FAILS(QUERN_ERR_LIMIT, "got room for 9 bytes, want", quern_session_save(session, 1, state.bytes, 9, &size, error));
  ck_assert_uint_eq(size, state.size);
  FAILS(QUERN_ERR_ARGUMENT, "sequence: got 2", quern_session_save(session, 2, state.bytes, 9, &size, error));
  FAILS(QUERN_ERR_ARGUMENT, "sequence: got -1", quern_session_restore(session, -1, state.bytes, 9, error));
  FAILS(QUERN_ERR_ARGUMENT, "sequence: got 2", quern_session_save_file(session, 2, "x", error));
  FAILS(QUERN_ERR_ARGUMENT, "sequence: got 2", quern_session_restore_file(session, 2, "x", error));
  ck_assert_uint_eq(quern_session_state_size(session, 2), 0);
  FAILS(QUERN_ERR_IO, "none", quern_session_restore_file(session, 0, qn_test_temp_path("none"), error));
  FAILS(QUERN_ERR_UNSUPPORTED, "was saved with another model",
        quern_session_restore(other, 0, state.bytes, state.size, error));
  FAILS(QUERN_ERR_LIMIT, "the context is full", quern_session_restore(small, 0, state.bytes, state.size, error));
  stays(small, tokens);
  OK(quern_session_eval(shapeless, 0, tokens, 3, NULL, error));
  FAILS(QUERN_ERR_UNSUPPORTED, "got a layout whose state cannot be saved, want k as",
        quern_session_save(shapeless, 0, state.bytes, state.size, &size, error));
  FAILS(QUERN_ERR_UNSUPPORTED, "layout", quern_session_save_file(shapeless, 0, qn_test_temp_path("no"), error));
  for (size_t length = 0; length < state.size; length++) {
    char *part = malloc(length + 1);  // of its own, so that a sanitizer sees what is read behind it
    memcpy(part, state.bytes, length);
    FAILS(QUERN_ERR_FORMAT, "", quern_session_restore(session, 0, part, length, error));
    free(part);
  }
  for (size_t at = 0; at < state.size; at++) {
    quern_error error;
    state.bytes[at] ^= 0x10;
    quern_status status = quern_session_restore(session, 0, state.bytes, state.size, &error);
    qn_check(status == QUERN_ERR_FORMAT || status == QUERN_ERR_UNSUPPORTED, "byte %zu: got %d", at, (int)status);
    state.bytes[at] ^= 0x10;
  }
  stays(session, tokens);
  state.bytes[8] ^= 1;
  FAILS(QUERN_ERR_UNSUPPORTED, "version 4, want 5", quern_session_restore(session, 0, state.bytes, state.size, error));
  free(state.bytes);
  quern_session *sessions[] = {session, small, other, shapeless};
  for (size_t i = 0; i < QN_COUNT(sessions); i++) quern_session_destroy(sessions[i]);
  quern_model *models[] = {model, other_model, odd};
  for (size_t i = 0; i < QN_COUNT(models); i++) quern_model_close(models[i]);
}
END_TEST

// --- option structs of other versions

typedef struct newer_options {
  quern_session_options known;
  int64_t unknown;
} newer_options;

typedef struct newer_info {
  quern_session_info known;
  int64_t unknown;
} newer_info;

START_TEST(options_of_other_versions) {
  quern_model *model = open_changed(NULL);
  quern_session *session = NULL;
  quern_session_info info = {.size = sizeof info};
  newer_options newer = {.known = {.size = sizeof newer, .threads = 1, .context = 48}};
  OK(quern_session_create(model, &newer.known, &session, error));
  quern_session_destroy(session);
  newer.unknown = 1;
  FAILS(QUERN_ERR_ARGUMENT, "of a quern_session_options of ",
        quern_session_create(model, &newer.known, &session, error));
  ck_assert_ptr_null(session);
  // Of an older caller only the first fields are there: what lies behind is not looked at.
  quern_session_options older = {.size = offsetof(quern_session_options, context), .threads = 1, .context = -77};
  OK(quern_session_create(model, &older, &session, error));
  quern_session_get_info(session, &info, NULL);
  ck_assert(info.threads == 1 && info.context == 8 * QN_FAKE_PAGE_KEYS);
  quern_session_destroy(session);
  older.size = 0;
  FAILS(QUERN_ERR_ARGUMENT, "got size 0, want sizeof(quern_session_options) in it",
        quern_session_create(model, &older, &session, error));
  quern_sampler_options sampler = quern_sampler_options_default(), part;
  ck_assert_uint_eq(sampler.size, sizeof sampler);
  memset(&part, 0x55, sizeof part);
  quern_sampler_options_init(&part, offsetof(quern_sampler_options, top_p));
  ck_assert(part.top_k == sampler.top_k && ((unsigned char *)&part.top_p)[0] == 0x55);
  session = NULL;
  quern_session_options plain = {.size = sizeof plain, .threads = 1};
  OK(quern_session_create(model, &plain, &session, error));
  quern_generate_params params = {0};
  FAILS(QUERN_ERR_ARGUMENT, "sizeof(quern_generate_params)", quern_generate(session, &params, NULL, error));
  sampler.size = 3;
  int32_t token = QN_FAKE_BOS;
  params = (quern_generate_params){.size = sizeof params, .prompt = &token, .prompt_count = 1, .sampler = &sampler};
  FAILS(QUERN_ERR_ARGUMENT, "got size 3, want sizeof(quern_sampler_options)",
        quern_generate(session, &params, NULL, error));
  quern_session_destroy(session);
  quern_model_options of_model = {0};
  quern_model *none = NULL;
  FAILS(QUERN_ERR_ARGUMENT, "sizeof(quern_model_options)", quern_model_open("x", &of_model, &none, error));
  ck_assert_int_eq(quern_model_sequences_max(model), 3);
  ck_assert_int_eq(quern_model_rows_max(model), 16);
  quern_model_close(model);
}
END_TEST

// Result structs: a newer caller finds zeros, an older one is given no more than it has room for.
START_TEST(results_of_other_versions) {
  quern_model *model = open_changed(NULL);
  quern_session *session = NULL;
  quern_session_info info;
  quern_session_options plain = {.size = sizeof plain, .threads = 1};
  OK(quern_session_create(model, &plain, &session, error));
  newer_info wide = {.known = {.size = sizeof wide}, .unknown = 5};
  OK(quern_session_get_info(session, &wide.known, error));
  ck_assert(wide.known.size == sizeof wide && wide.known.threads == 1 && wide.known.kv_bytes > 0 && wide.unknown == 0);
  info = (quern_session_info){.size = offsetof(quern_session_info, kv_bytes), .kv_bytes = 77};
  OK(quern_session_get_info(session, &info, error));
  ck_assert(info.context == 8 * QN_FAKE_PAGE_KEYS && info.kv_bytes == 77);
  info.size = 7;
  FAILS(QUERN_ERR_ARGUMENT, "quern_session_info: got size 7, want sizeof(quern_session_info) in it",
        quern_session_get_info(session, &info, error));
  int32_t first = QN_FAKE_BOS;
  quern_stats stats = {0};
  quern_generate_params right = {.size = sizeof right, .prompt = &first, .prompt_count = 1, .max_tokens = 1};
  FAILS(QUERN_ERR_ARGUMENT, "quern_stats: got size 0", quern_generate(session, &right, &stats, error));
  ck_assert_int_eq(quern_session_position(session, 0), 0);
  quern_model_cost cost = {0};
  quern_step_profile profile = {0};
  ck_assert(!quern_model_get_cost(model, &cost) && !quern_session_profile(session, 0, &profile));
  quern_session_destroy(session);
  quern_model_close(model);
}
END_TEST

// --- what is asked of GPUs where a model is on the CPU, and where there is no driver

START_TEST(no_gpu) {
  quern_model *model = open_changed(NULL);
  quern_device_info device;
  double rate = 0;
  size_t count = 9;
  ck_assert(!quern_model_device(model, &device));
  ck_assert_str_eq(quern_model_code_form(model), "machine code");
  FAILS(QUERN_ERR_ARGUMENT, "CPU", quern_model_measure_read(model, &rate, error));
  const char *none = qn_test_temp_path("libcuda.so");
  FAILS(QUERN_ERR_TARGET, "libcuda.so", quern_device_list(none, &device, 1, &count, error));
  ck_assert_uint_eq(count, 0);
  quern_model_close(model);
}
END_TEST

QN_CASE(memory, all_memory_is_the_hosts, an_allocator_by_options, the_log_is_the_hosts)
QN_CASE(stopping_and_state, another_thread_cancels, a_state_goes_on_elsewhere, a_wrong_state_is_refused)
QN_CASE(versions, options_of_other_versions, results_of_other_versions, no_gpu)
QN_TEST_MAIN(memory, stopping_and_state, versions)
