// Several texts from one prompt: requests to a scheduler of which all but the first are forks of it.
#include "frontend/cli/samples.h"

#include <stdlib.h>

#include "frontend/cli/cli.h"
#include "frontend/cli/device.h"
#include "frontend/cli/json.h"
#include "frontend/cli/progress.h"
#include "frontend/cli/tokens.h"
#include "runtime/base/str.h"
#include "runtime/base/vec.h"

typedef struct sample {
  uint64_t seed, id;  // id: of its request, 0 = it was not added
  qn_buf text;
  cli_ids ids;                  // owned
  quern_request_result result;  // without its text and tokens
  quern_error error;            // of this one alone
  bool no_memory, ended;
} sample;

static bool note(void *context, const char *text, size_t length, int32_t token) {
  sample *s = context;
  qn_buf_append(&s->text, text, length);
  if (s->text.failed || (token >= 0 && !cli_ids_push(&s->ids, token))) s->no_memory = true;
  return !s->no_memory && !cli_interrupted();
}

static void note_end(void *context, uint64_t id, const quern_request_result *result) {
  sample *s = context;
  (void)id;
  s->result = *result;
  s->ended = true;
  s->error.code = (int)result->status;
  snprintf(s->error.text, sizeof s->error.text, "%s", result->error);
}

static int add_all(const cli_samples *how, sample *samples, quern_error *error) {
  for (uint64_t i = 0; i < how->count; i++) {
    quern_sampler_options sampler = *how->request.sampler;
    quern_request request = how->request;
    samples[i].seed = sampler.seed += i;
    request.sampler = &sampler;
    request.callback = note;
    request.done = note_end;
    request.callback_context = &samples[i];
    request.fork_of = samples[0].id;
    int code = (int)quern_scheduler_add(how->scheduler, &request, &samples[i].id, error);
    if (code != 0) return code;
  }
  return 0;
}

// They end at the next step.
static void cancel_all(const cli_samples *how, const sample *samples) {
  for (uint64_t i = 0; i < how->count; i++) {
    if (samples[i].id != 0 && !samples[i].ended) (void)quern_scheduler_cancel(how->scheduler, samples[i].id, NULL);
  }
}

static int generate(const cli_samples *how, sample *samples, quern_error *error) {
  size_t left = 1;
  int code = add_all(how, samples, error);
  while (code == 0 && left > 0) {
    if (cli_interrupted()) cancel_all(how, samples);
    code = (int)quern_scheduler_step(how->scheduler, &left, NULL, error);
  }
  for (uint64_t i = 0; code == 0 && i < how->count; i++) {
    if (samples[i].no_memory) return cli_fail(QN_ERR_NOMEM, "run", "out of memory for the texts");
    code = samples[i].error.code;
    if (code != 0) *error = samples[i].error;
  }
  return code == 0 ? 0 : cli_fail_with(code, error);
}

// After an error: nobody is told of later ends, when the texts are gone.
static void end_all(const cli_samples *how, const sample *samples) {
  cancel_all(how, samples);
  (void)quern_scheduler_step(how->scheduler, NULL, NULL, NULL);
}

// --- what is told

static void put_ids(qn_buf *out, const cli_ids *ids) {
  for (size_t i = 0; i < ids->count; i++) qn_buf_printf(out, i ? " %d" : "%d", (int)ids->items[i]);
}

static void put_texts(const cli_samples *how, const sample *samples, qn_buf *out) {
  for (uint64_t i = 0; i < how->count; i++) {
    qn_buf_printf(out, "--- seed %llu\n", (unsigned long long)samples[i].seed);
    if (quern_model_has_tokenizer(how->model)) {
      qn_buf_append(out, qn_buf_text(&samples[i].text), samples[i].text.length);
    } else {
      put_ids(out, &samples[i].ids);
    }
    qn_buf_putc(out, '\n');
  }
}

static void put_sample(cli_json *j, const cli_samples *how, const sample *s) {
  const quern_request_result *r = &s->result;
  cli_json_begin(j, NULL, '{');
  cli_json_count(j, "seed", s->seed);
  if (quern_model_has_tokenizer(how->model)) cli_json_text(j, "text", (qn_str){qn_buf_text(&s->text), s->text.length});
  cli_json_begin(j, "ids", '[');
  for (size_t i = 0; i < s->ids.count; i++) cli_json_int(j, NULL, s->ids.items[i]);
  cli_json_end(j, ']');
  cli_json_text(j, "stop", qn_str_from(quern_stop_reason_name(r->reason)));
  cli_json_int(j, "held_tokens", r->cached_tokens);
  cli_json_int(j, "passes", r->passes);
  cli_json_int(j, "proposed", r->proposed);
  cli_json_int(j, "accepted", r->accepted);
  cli_json_end(j, '}');
}

static void put_json(const cli_samples *how, const sample *samples, double seconds, const quern_scheduler_stats *stats,
                     qn_buf *out) {
  cli_json j = {.out = out};
  cli_json_begin(&j, NULL, '{');
  cli_json_begin(&j, "samples", '[');
  for (uint64_t i = 0; i < how->count; i++) put_sample(&j, how, &samples[i]);
  cli_json_end(&j, ']');
  cli_json_begin(&j, "prompt_ids", '[');
  for (size_t i = 0; i < how->request.prompt_count; i++) cli_json_int(&j, NULL, how->request.prompt[i]);
  cli_json_end(&j, ']');
  cli_json_text(&j, "model", qn_str_from(quern_model_name(how->model)));
  cli_json_text(&j, "target", qn_str_from(quern_model_target(how->model)));
  cli_device_put(&j, how->model);
  cli_json_int(&j, "steps", stats->steps);
  cli_json_int(&j, "prompt_tokens", stats->prompt_tokens);
  cli_json_int(&j, "generated_tokens", stats->generated_tokens);
  cli_json_int(&j, "most_pages", stats->most_pages);
  cli_json_real(&j, "total_ms", seconds * 1e3);
  cli_json_real(&j, "tokens_per_s", seconds > 0 ? (double)stats->generated_tokens / seconds : 0);
  cli_json_end(&j, '}');
  qn_buf_putc(out, '\n');
}

static void print_stats(const cli_samples *how, double seconds, const quern_scheduler_stats *stats) {
  fprintf(stderr,
          "quern: %llu texts of a prompt of %zu tokens: %lld tokens of prompts evaluated, %lld generated, in %lld "
          "steps and "
          "%.1f ms (%.1f tokens/s)\n",
          (unsigned long long)how->count, how->request.prompt_count, (long long)stats->prompt_tokens,
          (long long)stats->generated_tokens, (long long)stats->steps, seconds * 1e3,
          seconds > 0 ? (double)stats->generated_tokens / seconds : 0);
  if (stats->proposed > 0)
    fprintf(stderr, "quern: %lld of %lld guesses came true\n", (long long)stats->accepted, (long long)stats->proposed);
}

static int tell(const cli_samples *how, const sample *samples, double seconds) {
  quern_scheduler_stats stats = {.size = sizeof stats};
  qn_buf out;
  qn_buf_init(&out, qn_allocator_default());
  quern_scheduler_get_stats(how->scheduler, &stats, NULL);
  if (how->json) {
    put_json(how, samples, seconds, &stats, &out);
  } else {
    put_texts(how, samples, &out);
  }
  int code = out.failed ? cli_fail(QN_ERR_NOMEM, "run", "out of memory for the texts") : 0;
  if (code == 0) cli_out(qn_buf_text(&out), out.length);
  qn_buf_deinit(&out);
  if (code == 0 && !how->quiet && !cli_out_failed()) print_stats(how, seconds, &stats);
  int out_code = cli_out_end();
  return code != 0 ? code : out_code != 0 ? out_code : cli_interrupted() ? cli_interrupt_code() : 0;
}

int cli_samples_run(const cli_samples *how) {
  quern_error error = {0};
  sample *samples = calloc((size_t)how->count, sizeof *samples);
  if (!samples) return cli_fail(QN_ERR_NOMEM, "run", "out of memory for the texts");
  for (uint64_t i = 0; i < how->count; i++) qn_buf_init(&samples[i].text, qn_allocator_default());
  double begin = cli_seconds();
  int code = generate(how, samples, &error);
  if (code == 0) code = tell(how, samples, cli_seconds() - begin);
  if (code != 0) end_all(how, samples);
  for (uint64_t i = 0; i < how->count; i++) {
    qn_buf_deinit(&samples[i].text);
    qn_vec_free(qn_allocator_default(), &samples[i].ids);
  }
  free(samples);
  return code;
}
