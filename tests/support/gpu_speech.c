// Real models on a GPU (gpu_speech.h).
#include "tests/support/gpu_speech.h"

#include <stdlib.h>
#include <string.h>

#include "frontend/quern.h"
#include "tests/ptxsim/support_sim.h"
#include "tests/support/gpu_program.h"
#include "tests/support/need_nvrtc.h"
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

void qn_test_gpu_speaks(const char *model, const char *numeric, int64_t most) {
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

int64_t qn_test_gpu_tokens(int64_t plain) { return plain / (int64_t)qn_test_stride(1, 4) + 1; }

void qn_test_gpu_open(void) {
  qn_diag diag = {0};
  qn_cuda_info info;
  size_t count = 0;
  qn_test_need_nvrtc();
  if (qn_test_simulated()) sim_open();
  if (qn_cuda_list(qn_test_libcuda(), &info, 1, &count, &diag) != QN_OK) qn_test_skip("%s", diag.text);
}
