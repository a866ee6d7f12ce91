// Tasks and perplexity.
#include "frontend/cli/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/cli/cli.h"
#include "runtime/base/file.h"

static int fail(quern_error *error, int code, const char *where, const char *text) {
  error->code = code;
  snprintf(error->text, sizeof error->text, "%s: %s", where, text);
  return code;
}

static int no_memory(quern_error *error) { return fail(error, QN_ERR_NOMEM, "eval", "out of memory"); }

// Names the line of the file that an error is of.
static int of_line(int code, const char *path, size_t number, quern_error *error) {
  char where[sizeof error->text];
  if (code == 0 || code == QN_ERR_CANCELLED) return code;
  int length = snprintf(where, sizeof where, "%s:%zu: ", path, number);
  if (length < 0 || (size_t)length >= sizeof where) return code;
  memmove(error->text + length, error->text, sizeof error->text - (size_t)length);
  memcpy(error->text, where, (size_t)length);
  error->text[sizeof error->text - 1] = '\0';
  return code;
}

// A file's text with a NUL behind it; freed with qn_free, *out_size + 1 bytes.
static int read_file(const char *path, char **out, size_t *out_size, quern_error *error) {
  qn_diag diag = {0};
  int code = (int)qn_file_read(path, QN_TEXT_MAX, qn_allocator_default(), out, out_size, &diag);
  if (code != 0) {
    error->code = code;
    snprintf(error->text, sizeof error->text, "%s", diag.text);
  }
  return code;
}

static int go_on(cli_progress *progress, const char *stage, uint64_t done, uint64_t total, quern_error *error) {
  if (cli_progress_step(progress, stage, done, total) && !cli_interrupted()) return 0;
  return fail(error, QN_ERR_CANCELLED, "eval", "interrupted");
}

// ---- tasks

typedef struct task_run {
  quern_model *model;
  quern_session *session;
  quern_speculator *speculator;  // may be NULL
  uint64_t limit;
  cli_tasks *tasks;
  cli_ids prompt, wanted;
  qn_buf text;  // what the model answered
} task_run;

static cli_task *find_task(cli_tasks *tasks, const char *name) {
  for (size_t i = 0; i < tasks->items.count; i++) {
    if (strcmp(tasks->items.items[i].name, name) == 0) return &tasks->items.items[i];
  }
  char *copy = strdup(name);
  if (copy && qn_vec_push(qn_allocator_default(), &tasks->items, ((cli_task){.name = copy})))
    return &tasks->items.items[tasks->items.count - 1];
  free(copy);
  return NULL;
}

static bool take_text(void *context, const char *text, size_t length, int32_t token) {
  (void)token;
  qn_buf_append(context, text, length);
  return !((qn_buf *)context)->failed;
}

// Runs one case; *out_right says whether the answer is the wanted one.
static int run_case(task_run *run, const char *prompt, const char *answer, cli_task *task, bool *out_right,
                    quern_error *error) {
  int code = cli_tokenize(run->model, prompt, strlen(prompt), QUERN_TOKENIZE_ADD_SPECIAL, &run->prompt, error);
  if (code == 0) code = cli_tokenize(run->model, answer, strlen(answer), 0, &run->wanted, error);
  if (code != 0) return code;
  quern_sampler_options greedy = quern_sampler_options_default();
  greedy.temperature = 0;
  quern_generate_params params = {.size = sizeof params,
                                  .prompt = run->prompt.items,
                                  .prompt_count = run->prompt.count,
                                  .max_tokens = (int64_t)run->wanted.count * 2 + 16,  // what goes on longer is wrong
                                  .sampler = &greedy,
                                  .callback = take_text,
                                  .callback_context = &run->text,
                                  .speculator = run->speculator};
  quern_stats stats = {.size = sizeof stats};
  run->text.length = 0;
  quern_session_reset(run->session, 0);
  code = (int)quern_generate(run->session, &params, &stats, error);
  if (run->text.failed) return no_memory(error);
  const char *got = run->text.length > 0 ? qn_buf_text(&run->text) : "";
  *out_right = stats.reason == QUERN_STOP_EOG && strcmp(got + (got[0] == ' '), answer) == 0;
  task->tokens += stats.decode_steps;
  task->passes += stats.passes;
  run->tasks->tokens += stats.decode_steps;
  run->tasks->passes += stats.passes;
  return code;
}

static int keep_wrong(task_run *run, cli_task *task, const char *prompt, const char *want, quern_error *error) {
  if (task->prompt) return 0;
  task->prompt = strdup(prompt);
  task->want = strdup(want);
  task->got = strdup(run->text.length > 0 ? qn_buf_text(&run->text) : "");
  return task->prompt && task->want && task->got ? 0 : no_memory(error);
}

static int take_case(task_run *run, const char *path, size_t number, char *line, quern_error *error) {
  char *prompt = strchr(line, '\t'), *answer = prompt ? strchr(prompt + 1, '\t') : NULL;
  if (line[0] == '#' || line[0] == '\0') return 0;
  if (!answer) {
    snprintf(error->text, sizeof error->text,
             "%s:%zu: got '%.80s', want a task, a prompt and an answer with tabs between", path, number, line);
    return error->code = QN_ERR_FORMAT;
  }
  *prompt++ = *answer++ = '\0';
  cli_task *task = find_task(run->tasks, line);
  if (!task) return no_memory(error);
  if (run->limit > 0 && task->count >= run->limit) return 0;
  bool right = false;
  int code = of_line(run_case(run, prompt, answer, task, &right, error), path, number, error);
  task->count++;
  task->right += right;
  run->tasks->count++;
  run->tasks->right += right;
  return code == 0 && !right ? keep_wrong(run, task, prompt, answer, error) : code;
}

int cli_evaluate_tasks(quern_model *model, quern_session *session, quern_speculator *speculator, const char *path,
                       uint64_t limit, cli_progress *progress, cli_tasks *out, quern_error *error) {
  task_run run = {.model = model, .session = session, .speculator = speculator, .limit = limit, .tasks = out};
  char *text = NULL;
  size_t size = 0, number = 1;
  int code = read_file(path, &text, &size, error);
  if (code != 0) return code;
  qn_buf_init(&run.text, qn_allocator_default());
  for (char *line = text, *end; code == 0 && *line; line = end, number++) {
    end = line + strcspn(line, "\n");
    if (*end) *end++ = '\0';
    code = go_on(progress, "tasks", (uint64_t)(line - text), size, error);
    if (code == 0) code = take_case(&run, path, number, line, error);
  }
  if (code == 0 && out->count == 0) code = fail(error, QN_ERR_FORMAT, path, "has no cases");
  qn_free(qn_allocator_default(), text, size + 1);
  qn_vec_free(qn_allocator_default(), &run.prompt);
  qn_vec_free(qn_allocator_default(), &run.wanted);
  qn_buf_deinit(&run.text);
  return code;
}

void cli_tasks_free(cli_tasks *tasks) {
  for (size_t i = 0; i < tasks->items.count; i++) {
    cli_task *task = &tasks->items.items[i];
    free(task->name);
    free(task->prompt);
    free(task->got);
    free(task->want);
  }
  qn_vec_free(qn_allocator_default(), &tasks->items);
  *tasks = (cli_tasks){0};
}

// ---- perplexity

enum { LOGITS_BYTES = 64 << 20 };  // that are in memory at a time

typedef struct text_run {
  quern_model *model;
  quern_session *session;
  const cli_text_options *options;
  cli_progress *progress;
  cli_ids ids, window;
  float *logits;
  size_t rows;          // that `logits` holds
  double sum, squares;  // of -log p, in nats
  uint64_t tokens, texts;
  uint64_t done, total;  // bytes of the file, for progress
} text_run;

// -log of the softmax of `logits` at `token`.
static double surprise(const float *logits, int32_t count, int32_t token) {
  double max = (double)logits[0], sum = 0.0;
  for (int32_t i = 1; i < count; i++) max = fmax(max, (double)logits[i]);
  for (int32_t i = 0; i < count; i++) sum += exp((double)logits[i] - max);
  return log(sum) + max - (double)logits[token];
}

// Evaluates the window in the empty sequence, and counts the tokens from the `first` on (1 or more).
static int measure_window(text_run *run, size_t first, quern_error *error) {
  size_t count = run->window.count, vocab = (size_t)quern_model_vocab_size(run->model);
  for (size_t done = 0; done + 1 < count; done += run->rows) {  // nothing follows the last one
    size_t now = count - 1 - done < run->rows ? count - 1 - done : run->rows;
    int code = (int)quern_session_eval_all(run->session, 0, run->window.items + done, now, run->logits, error);
    if (code != 0) return code;
    for (size_t i = 0; i < now; i++) {
      if (done + i + 1 < first) continue;
      double s = surprise(run->logits + i * vocab, (int32_t)vocab, run->window.items[done + i + 1]);
      run->sum += s;
      run->squares += s * s;
      run->tokens++;
    }
  }
  return 0;
}

// The window that begins at a token, with the begin-of-text token before it where the text has that.
static bool fill_window(text_run *run, size_t begin, size_t *out_end) {
  int32_t bos = quern_token_bos(run->model);
  bool again = begin > 0 && bos >= 0 && run->ids.items[0] == bos;
  size_t room = (size_t)run->options->window - again;
  size_t end = run->ids.count - begin < room ? run->ids.count : begin + room;
  run->window.count = 0;
  if (again && !cli_ids_push(&run->window, bos)) return false;
  for (size_t i = begin; i < end; i++)
    if (!cli_ids_push(&run->window, run->ids.items[i])) return false;
  *out_end = end;
  return true;
}

static int measure_text(text_run *run, const char *text, size_t length, quern_error *error) {
  size_t counted = 1, end = 0;
  uint64_t before = run->done;
  int code = cli_tokenize(run->model, text, length, QUERN_TOKENIZE_ADD_SPECIAL, &run->ids, error);
  if (code != 0 || run->ids.count < 2) return code;
  run->texts++;
  for (size_t begin = 0; code == 0 && end < run->ids.count; begin += (size_t)run->options->stride) {
    run->done = before + (uint64_t)((double)length * (double)end / (double)run->ids.count);
    code = go_on(run->progress, "perplexity", run->done, run->total, error);
    if (code != 0) return code;
    if (!fill_window(run, begin, &end)) return no_memory(error);
    size_t offset = run->window.count - (end - begin);  // of the token at `begin` in the window
    quern_session_reset(run->session, 0);
    code = measure_window(run, counted - begin + offset, error);
    counted = end;
  }
  return code;
}

// A target, which begins with a token of its own, behind the source that it looks at. Every token of it counts.
static int measure_pair(text_run *run, const char *text, size_t length, size_t number, quern_error *error) {
  const char *path = run->options->path, *tab = memchr(text, '\t', length);
  if (length == 0) return 0;
  if (!tab) {
    snprintf(error->text, sizeof error->text, "%s:%zu: got '%.*s', want a source and a target with a tab between", path,
             number, (int)(length < 80 ? length : 80), text);
    return error->code = QN_ERR_FORMAT;
  }
  size_t source = (size_t)(tab - text), target = length - source - 1;
  int code = go_on(run->progress, "perplexity", run->done, run->total, error);
  if (code == 0) code = cli_tokenize(run->model, text, source, QUERN_TOKENIZE_ADD_SPECIAL, &run->window, error);
  if (code == 0) code = cli_tokenize(run->model, tab + 1, target, QUERN_TOKENIZE_ADD_SPECIAL, &run->ids, error);
  if (code != 0) return of_line(code, path, number, error);
  if (run->ids.count > run->options->window) {
    snprintf(error->text, sizeof error->text, "%s:%zu: the target has %zu tokens, want at most %llu (--ctx)", path, number,
             run->ids.count, (unsigned long long)run->options->window);
    return error->code = QN_ERR_LIMIT;
  }
  code = (int)quern_session_source(run->session, 0, run->window.items, run->window.count, error);
  if (code != 0) return of_line(code, path, number, error);
  run->window.count = 0;
  if (!cli_ids_push(&run->window, quern_model_start_token(run->model))) return no_memory(error);
  for (size_t i = 0; i < run->ids.count; i++)
    if (!cli_ids_push(&run->window, run->ids.items[i])) return no_memory(error);
  run->texts++;
  return measure_window(run, 1, error);
}

static int measure_file(text_run *run, char *text, size_t size, quern_error *error) {
  bool sourced = quern_model_has_source(run->model);
  int code = 0;
  run->total = size;
  if (!run->options->lines) return measure_text(run, text, size, error);
  size_t number = 1;
  for (char *line = text, *end; code == 0 && *line; line = end, number++) {
    end = line + strcspn(line, "\n");
    run->done = (uint64_t)(line - text);
    size_t length = (size_t)(end - line);
    code = sourced ? measure_pair(run, line, length, number, error) : measure_text(run, line, length, error);
    end += *end == '\n';
  }
  return code;
}

int cli_evaluate_text(quern_model *model, quern_session *session, const cli_text_options *options,
                      cli_progress *progress, cli_text_result *out, quern_error *error) {
  text_run run = {.model = model, .session = session, .options = options, .progress = progress};
  quern_session_info info = {.size = sizeof info};
  char *text = NULL;
  size_t size = 0, row = (size_t)quern_model_vocab_size(model) * sizeof *run.logits;
  *out = (cli_text_result){0};
  quern_session_get_info(session, &info, NULL);
  run.rows = row > 0 && LOGITS_BYTES / row > 1 ? LOGITS_BYTES / row : 1;
  if ((int64_t)run.rows > info.chunk) run.rows = (size_t)info.chunk;
  int code = read_file(options->path, &text, &size, error);
  if (code != 0) return code;
  run.logits = calloc(run.rows, row ? row : 1);
  code = run.logits ? measure_file(&run, text, size, error) : no_memory(error);
  if (code == 0 && run.tokens == 0)
    code = fail(error, QN_ERR_FORMAT, options->path, "is too short, want two tokens or more");
  if (code == 0) {
    double n = (double)run.tokens, mean = run.sum / n, variance = run.squares / n - mean * mean;
    *out = (cli_text_result){run.texts, run.tokens, exp(mean), 0};
    if (run.tokens > 1 && variance > 0) out->error = out->perplexity * sqrt(variance / (n - 1));
  }
  free(run.logits);
  qn_free(qn_allocator_default(), text, size + 1);
  qn_vec_free(qn_allocator_default(), &run.ids);
  qn_vec_free(qn_allocator_default(), &run.window);
  return code;
}
