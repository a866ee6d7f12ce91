// Both measures go through the public API, as a user's program would.
#include "tests/support/evaluate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"

enum { MAX_PROMPT = 1024, MAX_ANSWER = 256 };

static int fail(quern_error *error, int code, const char *text) {
  error->code = code;
  snprintf(error->text, sizeof error->text, "%s", text);
  return code;
}

// Calls `take` with every line of the file, which it may cut up.
static int for_lines(const char *path, int (*take)(void *context, char *line, quern_error *error), void *context,
                     quern_error *error) {
  qn_diag diag = {0};
  char *text = NULL;
  size_t size = 0;
  int code = (int)qn_file_read(path, QN_TEXT_MAX, qn_allocator_default(), &text, &size, &diag);
  if (code != 0) return fail(error, code, diag.text);
  for (char *line = text, *end; code == 0 && *line; line = end) {
    end = line + strcspn(line, "\n");
    if (*end) *end++ = '\0';
    code = take(context, line, error);
  }
  qn_free(qn_allocator_default(), text, size + 1);
  return code;
}

// ---- tasks -------------------------------------------------------------------------------------------------------

typedef struct task_run {
  quern_model *model;
  quern_session *session;
  long limit;
  FILE *show;
  bool shown[QN_EVALUATE_TASKS];  // a wrong case of it
  qn_tasks_result *result;
  char text[MAX_ANSWER];  // what the model answered, cut
  size_t length;
} task_run;

static qn_task_result *find_task(qn_tasks_result *result, const char *name) {
  for (size_t i = 0; i < result->count; i++) {
    if (strcmp(result->tasks[i].name, name) == 0) return &result->tasks[i];
  }
  if (result->count == QN_EVALUATE_TASKS) return NULL;
  qn_task_result *added = &result->tasks[result->count++];
  *added = (qn_task_result){0};
  snprintf(added->name, sizeof added->name, "%s", name);
  return added;
}

static bool take_text(void *context, const char *text, size_t length, int32_t token) {
  (void)token;
  task_run *run = context;
  size_t room = sizeof run->text - 1 - run->length;
  if (length > room) length = room;
  memcpy(run->text + run->length, text, length);
  run->length += length;
  run->text[run->length] = '\0';
  return true;
}

// Runs one case; *out_right says whether the answer is the wanted one.
static int run_case(task_run *run, const char *prompt, const char *answer, bool *out_right, quern_error *error) {
  int32_t tokens[MAX_PROMPT];
  size_t count;
  int code = (int)quern_tokenize(run->model, prompt, strlen(prompt), QUERN_TOKENIZE_ADD_SPECIAL, tokens, MAX_PROMPT,
                                 &count, error);
  if (code != 0) return code;
  quern_sampler_options greedy = quern_sampler_options_default();
  greedy.temperature = 0;
  quern_generate_params params = {.size = sizeof params,
                                  .prompt = tokens,
                                  .prompt_count = count,
                                  .max_tokens = 64,
                                  .sampler = &greedy,
                                  .callback = take_text,
                                  .callback_context = run};
  quern_stats stats;
  run->length = 0;
  run->text[0] = '\0';
  quern_session_reset(run->session, 0);
  code = (int)quern_generate(run->session, &params, &stats, error);
  *out_right = stats.reason == QUERN_STOP_EOG && strcmp(run->text + (run->text[0] == ' '), answer) == 0;
  return code;
}

static int take_case(void *context, char *line, quern_error *error) {
  task_run *run = context;
  char *prompt = strchr(line, '\t'), *answer = prompt ? strchr(prompt + 1, '\t') : NULL;
  if (line[0] == '#' || line[0] == '\0') return 0;
  if (!answer) {
    snprintf(error->text, sizeof error->text, "got the line '%s', want task, prompt and answer with tabs between",
             line);
    return error->code = QUERN_ERR_FORMAT;
  }
  *prompt++ = *answer++ = '\0';
  qn_task_result *t = find_task(run->result, line);
  if (!t || (run->limit > 0 && t->count >= run->limit)) return 0;
  bool right = false, *shown = &run->shown[t - run->result->tasks];
  int code = run_case(run, prompt, answer, &right, error);
  t->count++;
  t->right += right;
  if (code == 0 && !right && !*shown && run->show) {
    fprintf(run->show, "  wrong, for example: '%s' gave '%s', want '%s'\n", prompt, run->text, answer);
    *shown = true;
  }
  return code;
}

int qn_evaluate_tasks(quern_model *model, quern_session *session, const char *path, long limit, FILE *show,
                      qn_tasks_result *out, quern_error *error) {
  task_run run = {.model = model, .session = session, .limit = limit, .show = show, .result = out};
  *out = (qn_tasks_result){0};
  return for_lines(path, take_case, &run, error);
}

// ---- perplexity --------------------------------------------------------------------------------------------------

typedef struct text_run {
  quern_model *model;
  quern_session *session;
  double surprise;  // sum over all tokens, in nats
  uint64_t tokens;
} text_run;

// -log of the softmax of `logits` at `token`.
static double surprise(const float *logits, int32_t count, int32_t token) {
  double max = (double)logits[0], sum = 0.0;
  for (int32_t i = 1; i < count; i++) max = fmax(max, (double)logits[i]);
  for (int32_t i = 0; i < count; i++) sum += exp((double)logits[i] - max);
  return log(sum) + max - (double)logits[token];
}

static int measure_tokens(text_run *run, const int32_t *tokens, size_t count, quern_error *error) {
  int32_t vocab = quern_model_vocab_size(run->model);
  float *logits = calloc(count, (size_t)vocab * sizeof *logits);
  if (!logits) return fail(error, QUERN_ERR_NOMEM, "out of memory for logits");
  quern_session_reset(run->session, 0);
  int code = (int)quern_session_eval_all(run->session, 0, tokens, count, logits, error);
  for (size_t i = 0; code == 0 && i + 1 < count; i++) {
    run->surprise += surprise(logits + i * (size_t)vocab, vocab, tokens[i + 1]);
    run->tokens++;
  }
  free(logits);
  return code;
}

static int take_line(void *context, char *line, quern_error *error) {
  text_run *run = context;
  size_t length = strlen(line), capacity = length + 8, count = 0;  // a token is a byte at least, or put around
  int32_t *tokens = malloc(capacity * sizeof *tokens);
  if (!tokens) return fail(error, QUERN_ERR_NOMEM, "out of memory for tokens");
  int code = (int)quern_tokenize(run->model, line, length, QUERN_TOKENIZE_ADD_SPECIAL, tokens, capacity, &count, error);
  if (code == 0 && count > 1) code = measure_tokens(run, tokens, count, error);
  free(tokens);
  return code;
}

int qn_evaluate_perplexity(quern_model *model, quern_session *session, const char *path, double *out_perplexity,
                           uint64_t *out_tokens, quern_error *error) {
  text_run run = {.model = model, .session = session};
  int code = for_lines(path, take_line, &run, error);
  *out_perplexity = run.tokens > 0 ? exp(run.surprise / (double)run.tokens) : NAN;
  *out_tokens = run.tokens;
  return code;
}
