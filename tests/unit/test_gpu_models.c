// Real models on a GPU: the same ids and the same logits, bit for bit, as on the CPU; a step of decoding is one graph,
// one launch and one wait. Needs NVRTC to compile; runs in the simulator, or on the driver that QUERN_TEST_LIBCUDA
// names.
#include <stdio.h>
#include <stdlib.h>

#include "codegen/cuda/nvrtc.h"
#include "frontend/quern.h"
#include "runtime/base/file.h"
#include "tests/ptxsim/support_sim.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/gpu_program.h"
#include "tests/support/test.h"

enum { MOST_IDS = 64 };

static quern_error error;
#define OK(call) ck_assert_msg((call) == 0, "%s: %s", #call, error.text)

// What a model has to say, on one device.
typedef struct speech {
  int32_t ids[MOST_IDS];  // the greedy ones, then drawn ones
  size_t count;
  quern_stats stats;
  float *logits;  // owned: of the prompt's tokens, (count, vocab)
  size_t values;  // of them
} speech;

static bool note(void *context, const char *text, size_t length, int32_t token) {
  speech *s = context;
  (void)text, (void)length;
  if (token >= 0 && s->count < MOST_IDS) s->ids[s->count++] = token;
  return true;
}

static ps_driver_counts counts_now(void) {
  ps_driver_counts counts = {0};
  if (qn_test_simulated()) sim.driver_counters(&counts);
  return counts;
}

// The prompt goes in chunks of `chunk` tokens (0 = all of it). A last chunk of one token is a step like those of
// decoding.
static void generate(quern_session *session, const int32_t *prompt, size_t count, size_t chunk, int64_t most, bool gpu,
                     const quern_sampler_options *sampler, speech *out) {
  quern_generate_params params = {.size = sizeof params,
                                  .prompt = prompt,
                                  .prompt_count = count,
                                  .max_tokens = most,
                                  .sampler = sampler,
                                  .ignore_eog = true,
                                  .callback = note,
                                  .callback_context = out};
  ps_driver_counts before = counts_now();
  out->stats.size = sizeof out->stats;
  OK(quern_generate(session, &params, &out->stats, &error));
  ps_driver_counts after = counts_now();
  if (!qn_test_simulated()) return;
  size_t chunks = chunk ? (count + chunk - 1) / chunk : 1;
  uint64_t steps = (uint64_t)out->stats.decode_steps, waits = after.synchronisations - before.synchronisations;
  ck_assert_uint_eq(after.graph_launches - before.graph_launches, gpu ? steps + (chunk > 0 && count % chunk == 1) : 0);
  // One wait a token. Chunks before the last wait for no more than the inputs of those before them.
  ck_assert(gpu ? waits >= steps + 1 && waits <= steps + chunks : waits == 0);
  // What comes back is the token, or logits where a repetition penalty wants them.
  uint64_t back = after.device_to_host_bytes - before.device_to_host_bytes;
  if (sampler->repeat_penalty == 1) ck_assert_uint_eq(back, gpu ? (steps + 1) * sizeof(int32_t) : 0);
  if (sampler->repeat_penalty != 1) ck_assert(gpu ? back >= (steps + 1) * 4 * 256 : back == 0);
}

// What a sequence holds comes back from the device, goes there again, and is the same then.
static void keep(quern_session *session) {
  size_t size = quern_session_state_size(session, 0), got = 0;
  char *first = malloc(size), *second = malloc(size);
  ck_assert(first && second);
  OK(quern_session_save(session, 0, first, size, &got, &error));
  quern_session_reset(session, 0);
  OK(quern_session_restore(session, 0, first, size, &error));
  OK(quern_session_save(session, 0, second, size, &got, &error));
  ck_assert(got == size && memcmp(first, second, size) == 0);
  free(first);
  free(second);
}

// One after another, from the same prompt.
static const quern_sampler_options samplers[] = {
    {.size = sizeof(quern_sampler_options), .top_p = 1, .repeat_penalty = 1},
    {.size = sizeof(quern_sampler_options), .temperature = 0.9, .top_k = 20, .top_p = 0.95, .min_p = 0.02, .repeat_penalty = 1, .seed = 7},
    {.size = sizeof(quern_sampler_options), .temperature = 0.9, .top_p = 1, .repeat_penalty = 1.2, .repeat_last_n = 16, .seed = 8}};

static void speak(const char *path, const char *device, int64_t chunk, int64_t most, speech *out) {
  quern_model *model = NULL;
  quern_session *session = NULL;
  int32_t prompt[MOST_IDS];
  size_t count = 0;
  const char text[] = "Once upon a time there was";
  quern_model_options options = {.size = sizeof options, .device = device, .libcuda = device ? qn_test_libcuda() : NULL};
  *out = (speech){.count = 0};
  OK(quern_model_open(path, &options, &model, &error));
  OK(quern_tokenize(model, text, strlen(text), QUERN_TOKENIZE_ADD_SPECIAL, prompt, MOST_IDS, &count, &error));
  quern_session_options how = {.size = sizeof how, .chunk = chunk, .context = 96, .threads = 2};
  OK(quern_session_create(model, &how, &session, &error));
  quern_session_info info = {.size = sizeof info};
  quern_session_get_info(session, &info, NULL);
  ck_assert_int_eq(info.threads, device ? 0 : 2);
  out->values = count * (size_t)quern_model_vocab_size(model);
  out->logits = calloc(out->values, sizeof *out->logits);
  ck_assert_ptr_nonnull(out->logits);
  OK(quern_session_eval_all(session, 0, prompt, count, out->logits, &error));
  for (size_t i = 0; i < QN_COUNT(samplers); i++) {
    quern_session_reset(session, 0);
    generate(session, prompt, count, (size_t)chunk, i == 0 ? most : (most + 1) / 2, device != NULL, &samplers[i], out);
  }
  keep(session);
  quern_device_info on;
  ck_assert(quern_model_device(model, &on) == (device != NULL));
  if (device) ck_assert(strncmp(on.id, "cuda:", 5) == 0 && strncmp(quern_model_target(model), "cuda:sm_", 8) == 0);
  quern_session_destroy(session);
  quern_model_close(model);
}

static void compare(const char *name, const speech *got, const speech *want) {
  ck_assert_msg(got->count == want->count, "%s: got %zu tokens, want %zu", name, got->count, want->count);
  for (size_t i = 0; i < want->count; i++)
    qn_check(got->ids[i] == want->ids[i], "%s: token %zu: got %d, want %d", name, i, (int)got->ids[i],
             (int)want->ids[i]);
  ck_assert_uint_eq(got->values, want->values);
  for (size_t i = 0; i < want->values; i++)
    qn_check(memcmp(&got->logits[i], &want->logits[i], sizeof(float)) == 0, "%s: logit %zu: got %a, want %a", name, i,
             (double)got->logits[i], (double)want->logits[i]);
}

static void check_model(const char *model, const char *numeric, int64_t most) {
  const char *path = qn_test_temp_path("model.qn");
  quern_compile_options options = {.size = sizeof options,
                                   .target = "host,cuda:sm_80",
                                   .context_tokens = 96,
                                   .numeric_mode = numeric,
                                   .all_logits = true,
                                   .tuning_db = "none"};
  speech want, got;
  OK(quern_compile(model, path, &options, &error));
  speak(path, NULL, 0, most, &want);
  ck_assert_int_eq((int)want.count, (int)(most + (most + 1) / 2 * 2));
  static const int64_t chunks[] = {0, 2};
  for (size_t i = 0; i < QN_COUNT(chunks); i++) {
    speak(path, "cuda", chunks[i], most, &got);
    compare(model, &got, &want);
    free(got.logits);
  }
  free(want.logits);
}

static const char *stories;

// So many tokens, or fewer under sanitizers.
static int64_t tokens(int64_t plain) { return plain / (int64_t)qn_test_stride(1, 4) + 1; }

START_TEST(stories260k) {
  if (stories) check_model(stories, "int8", tokens(8));
}
END_TEST

START_TEST(nano) { check_model(qn_test_source("models/nano/nano.gguf"), "int8", tokens(3)); }
END_TEST

// The device's peaks, by kernels of their own; a CPU's model has no device.
START_TEST(peaks) {
  const char *path = qn_test_temp_path("peaks.qn");
  quern_compile_options options = {
      .size = sizeof options, .target = "host,cuda:sm_80", .context_tokens = 96, .tuning_db = "none"};
  OK(quern_compile(qn_test_source("models/nano/nano.gguf"), path, &options, &error));
  for (int gpu = 0; gpu < 2; gpu++) {
    quern_model *model = NULL;
    struct {
      quern_device_peaks known;
      double unknown;
    } newer = {{.size = sizeof newer}, 5};  // a caller's who knows of more: that is zero then
    quern_device_peaks measured = {.size = sizeof measured};
    quern_model_options how = {.size = sizeof how, .device = gpu ? "cuda" : NULL, .libcuda = gpu ? qn_test_libcuda() : NULL};
    OK(quern_model_open(path, &how, &model, &error));
    int code = quern_model_measure_peaks(model, NULL, &newer.known, &error);
    ck_assert_msg(code == (gpu ? 0 : QUERN_ERR_ARGUMENT), "got %d: %s", code, error.text);
    if (!gpu) ck_assert(strstr(error.text, "got a model on the CPU") != NULL);
    const quern_device_peaks *known = &newer.known;
    if (gpu) ck_assert(known->fp32_ops_per_s > 0 && known->int8_ops_per_s > 0 && known->f16_ops_per_s > 0);
    if (gpu) ck_assert(known->size == sizeof newer && newer.unknown == 0);
    measured.size = 0;
    code = quern_model_measure_peaks(model, NULL, &measured, &error);
    ck_assert_msg(code == QUERN_ERR_ARGUMENT && strstr(error.text, "quern_device_peaks: got size 0"), "got %d: %s", code, error.text);
    measured.size = sizeof measured;
    if (gpu) {
      code = quern_model_measure_peaks(model, "/nowhere/libnvrtc.so", &measured, &error);
      ck_assert_msg(code == QUERN_ERR_TARGET && strstr(error.text, "/nowhere/libnvrtc.so"), "got %d: %s", code, error.text);
    }
    quern_model_close(model);
  }
}
END_TEST

// What guesses beside a model on a GPU must be there, too.
START_TEST(guesses_from_the_cpu) {
  static const struct {
    quern_technique technique;
    const char *model, *error;
  } cases[] = {{QUERN_SPECULATE_DRAFT, "models/nano/draft.gguf", "the draft model is on the CPU, want it on the GPU that "},
               {QUERN_SPECULATE_MEDUSA, "models/nano/medusa", "the heads are on the CPU, want them on the GPU that "}};
  const char *path = qn_test_temp_path("guessed.qn");
  quern_compile_options options = {.size = sizeof options,
                                   .target = "cuda:sm_80",
                                   .context_tokens = 96,
                                   .chunk_tokens = 4,
                                   .sequences = 2,
                                   .guesses = true,
                                   .tuning_db = "none"};
  quern_model_options how = {.size = sizeof how, .device = "cuda", .libcuda = qn_test_libcuda()};
  quern_model *model = NULL;
  quern_session *session = NULL;
  OK(quern_compile(qn_test_source("models/nano/draft.gguf"), path, &options, &error));
  OK(quern_model_open(path, &how, &model, &error));
  OK(quern_session_create(model, NULL, &session, &error));
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    quern_model *beside = NULL;
    quern_speculator *speculator = NULL;
    options = (quern_compile_options){.size = sizeof options, .context_tokens = 96, .tuning_db = "none"};
    OK(quern_jit(qn_test_source(cases[i].model), &options, &beside, &error));
    quern_speculator_options guesses = {.size = sizeof guesses, .technique = cases[i].technique, .draft = beside};
    int code = (int)quern_speculator_create(session, &guesses, &speculator, &error);
    ck_assert_msg(code == QUERN_ERR_ARGUMENT && strstr(error.text, cases[i].error), "got %d: %s", code, error.text);
    quern_model_close(beside);
  }
  quern_session_destroy(session);
  quern_model_close(model);
}
END_TEST

static void note_wrong(void *context, const quern_verified *r) {
  int *wrong = context;
  if (strcmp(r->verdict, "wrong") == 0 && strstr(r->evidence, "want")) (*wrong)++;
}

// Code whose every addition was made a subtraction, and whose checksums fit, is found out.
START_TEST(changed_code) {
  const char *path = qn_test_temp_path("changed.qn"), add[] = "add.rn.f32", sub[] = "sub.rn.f32";
  if (!qn_test_simulated()) return;  // a device may take the machine code
  quern_compile_options options = {.size = sizeof options, .target = "cuda:sm_80", .context_tokens = 96, .chunk_tokens = 16};
  OK(quern_compile(qn_test_source("models/nano/nano.gguf"), path, &options, &error));
  char *bytes = NULL;
  size_t size = 0;
  int wrong = 0;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_file_read(path, SIZE_MAX / 2, qn_allocator_default(), &bytes, &size, &diag));
  for (char *at = bytes; (at = memmem(at, (size_t)(bytes + size - at), add, sizeof add - 1)) != NULL;)
    memcpy(at, sub, sizeof sub - 1);
  qn_test_artifact_rehash((uint8_t *)bytes, size);
  qn_test_write_file(path, bytes, size);
  quern_verify_report report = {.size = sizeof report};
  quern_verify_options how = {.size = sizeof how, .quick = true, .device = "cuda", .libcuda = qn_test_libcuda(),
                              .verified = note_wrong, .verified_context = &wrong};
  int code = quern_verify(path, &how, &report, &error);
  ck_assert_msg(code == QUERN_ERR_FORMAT && strstr(error.text, "for cuda:sm_80 do other than their loop IR says"),
                "got %d: %s", code, error.text);
  ck_assert(wrong > 0 && report.wrong >= (uint32_t)wrong && report.checked > report.wrong);
  qn_free(qn_allocator_default(), bytes, size + 1);
}
END_TEST

START_TEST(stories_without_int8) {
  if (stories) check_model(stories, "f32", tokens(2));
}
END_TEST

static TCase *models(void) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  qn_cuda_info info;
  size_t count = 0;
  if (qn_nvrtc_open(NULL, qn_allocator_default(), &nvrtc, &diag) != QN_OK) qn_test_skip("%s", diag.text);
  qn_nvrtc_close(nvrtc);
  if (qn_test_simulated()) sim_open();
  if (qn_cuda_list(qn_test_libcuda(), &info, 1, &count, &diag) != QN_OK) qn_test_skip("%s", diag.text);
  stories = qn_test_shared("models/stories260K/stories260K.gguf");
  if (!stories) printf("stories260K is not here (QUERN_SHARED): nano alone\n");
  const TTest *const tests[] = {stories260k, nano, peaks, guesses_from_the_cpu, changed_code, stories_without_int8};
  return qn_test_case("models", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(models)
