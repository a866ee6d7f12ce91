// quern eval: how good a model is, by the perplexity of a text and by tasks with one right answer; of one model, or as
// a table of formats that its matrices are quantised to.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/cli/cli.h"
#include "frontend/cli/evaluate.h"
#include "frontend/cli/json.h"
#include "frontend/cli/model_options.h"
#include "frontend/cli/progress.h"
#include "frontend/cli/run_open.h"
#include "frontend/cli/speculate.h"

typedef struct eval_options {
  cli_common common;
  const char *text, *tasks, *json, *quant, *numeric, *target, *kv_type, *kv_evict, *template_path, *tuning_db, *device,
      *libcuda, *signed_by, *speculate, *draft_tokens;
  uint64_t context, stride, limit, threads, kv_keep;
  bool lines, no_cache;
} eval_options;

enum { STANDARD_WINDOW = 2048 };

#define FIELD(name) offsetof(eval_options, name)
static const cli_option options_table[] = {
    {"perplexity", 'p', CLI_TEXT, FIELD(text), "FILE", 0, 0, NULL, NULL,
     "measure the perplexity per token of this text"},
    {"lines", 0, CLI_FLAG, FIELD(lines), NULL, 0, 0, NULL, NULL, "each line of the text is a text of its own"},
    {"ctx", 'c', CLI_COUNT, FIELD(context), "N", 2, INT32_MAX, NULL, "what the model allows, at most 2048",
     "tokens that a window of a long text has; a model file is compiled for as many"},
    {"stride", 0, CLI_COUNT, FIELD(stride), "N", 1, INT32_MAX, NULL, "half of --ctx",
     "tokens from the begin of a window to that of the next; fewer give each token more before it, and take longer"},
    {"tasks", 0, CLI_TEXT, FIELD(tasks), "FILE", 0, 0, NULL, NULL,
     "count the right answers to a file's cases: lines of task, prompt and answer, with tabs between"},
    {"limit", 0, CLI_COUNT, FIELD(limit), "N", 0, UINT32_MAX, NULL, "0",
     "take only the first N cases of each task; 0 = all"},
    CLI_OPTION_SPECULATE(
        "answer the cases of --tasks with guesses, and count the tokens that a step of the model gives (see quern run --help)"),
    CLI_OPTION_DRAFT_TOKENS,
    {"json", 0, CLI_TEXT, FIELD(json), "FILE", 0, 0, NULL, NULL, "write the results as JSON; - is standard output"},
    {"quant", 0, CLI_TEXT, FIELD(quant), "FORMAT,...", 0, 0, NULL, "the file's formats",
     "model file: quantise its float matrices first; several formats, or all, make a table"},
    {"numeric", 0, CLI_TEXT, FIELD(numeric), "MODE,...", 0, 0, NULL, "int8",
     "model file: int8, f32 or half; several make a table (see quern compile --help)"},
    CLI_OPTION_THREADS,
    CLI_OPTION_DEVICE,
    CLI_OPTION_LIBCUDA,
    CLI_OPTION_TARGET,
    CLI_OPTION_KV_TYPE(CLI_KV_TYPES),
    CLI_OPTION_KV_EVICT,
    CLI_OPTION_KV_KEEP,
    CLI_OPTION_TEMPLATE,
    CLI_OPTION_TUNING_DB(""),
    CLI_OPTION_NO_CACHE,
    CLI_OPTION_SIGNATURE,
};

static const char details[] =
    "Measures how good a model is. FILE is an artifact or a model file, which is compiled into the cache as quern run "
    "does.\n"
    "\n"
    "Perplexity is exp of the mean of -log p(token | those before it). A text longer than the window (--ctx) is taken "
    "in\n"
    "windows --stride tokens apart, each of which counts the tokens that the one before it did not reach. An artifact\n"
    "compiled without --all-logits is evaluated a token at a time.\n"
    "\n"
    "A case of a task is right when the model, greedy, continues the prompt with the answer and ends its text.\n"
    "\n"
    "A model with an encoder (T5) reads the prompt of a case, and writes the answer. Its perplexity is that of targets\n"
    "given their sources: each line of the text (--lines) is a source and its target with a tab between, and all tokens\n"
    "of a target count, that which ends it among them.\n"
    "\n"
    "With several formats (--quant q8_0,q4_0 or all) or numeric modes (--numeric int8,f32) the results are a table in\n"
    "Markdown, compiled in memory a row at a time: bits a weight, the relative error of the quantised matrices, and "
    "what\n"
    "was measured.\n";

// ---- one model

// What was measured of it.
typedef struct measured {
  cli_text_result text;
  cli_tasks tasks;
  uint64_t window, stride;
} measured;

// What is made of a source is evaluated whole, and begins with a token of its own.
static int check_sourced(const eval_options *o, const quern_model *model, quern_error *error) {
  const struct {
    bool wrong;
    int code;
    const char *where, *text;
  } checks[] = {
      {o->speculate, QN_ERR_UNSUPPORTED, quern_model_path(model),
       "has an encoder, and tokens are guessed of texts that go on; leave --speculate out"},
      {quern_model_start_token(model) < 0, QN_ERR_UNSUPPORTED, quern_model_path(model),
       "has an encoder, and does not say which token a text begins with"},
      {o->text && !o->lines, QN_ERR_ARGUMENT, "--perplexity",
       "the model has an encoder; give --lines, and in each line a source and its target with a tab between"},
      {o->stride > 0, QN_ERR_ARGUMENT, "--stride", "is of texts that go on, got a model with an encoder"}};
  for (size_t i = 0; i < QN_COUNT(checks); i++) {
    if (!checks[i].wrong) continue;
    snprintf(error->text, sizeof error->text, "%s: %s", checks[i].where, checks[i].text);
    return error->code = checks[i].code;
  }
  return 0;
}

static int measure(const eval_options *o, quern_model *model, const cli_speculation *speculation, cli_progress *progress,
                   measured *out, quern_error *error) {
  int64_t most = quern_model_context_max(model);
  quern_session *session = NULL;
  quern_session_options how = {.size = sizeof how,
                               .threads = (int)o->threads,
                               .context = (int64_t)o->context,
                               .kv_evict = o->kv_evict,
                               .kv_keep = (int64_t)o->kv_keep};
  if (how.context == 0) how.context = most > 0 && most < STANDARD_WINDOW ? most : STANDARD_WINDOW;
  out->window = (uint64_t)how.context;
  out->stride = o->stride ? o->stride : (out->window + 1) / 2;
  if (!quern_model_has_tokenizer(model)) {
    snprintf(error->text, sizeof error->text, "%s: this model has no tokenizer, and what is measured are texts",
             quern_model_path(model));
    return QN_ERR_UNSUPPORTED;
  }
  int sourced = quern_model_has_source(model) ? check_sourced(o, model, error) : 0;
  if (sourced != 0) return sourced;
  if (o->text && out->stride >= out->window) {
    snprintf(error->text, sizeof error->text, "--stride: got %llu, want less than the window of %llu tokens",
             (unsigned long long)out->stride, (unsigned long long)out->window);
    return QN_ERR_ARGUMENT;
  }
  int code = (int)quern_session_create(model, &how, &session, error);
  cli_text_options text = {o->text, o->lines, out->window, out->stride};
  if (code == 0 && o->text) code = cli_evaluate_text(model, session, &text, progress, &out->text, error);
  quern_speculator *speculator = NULL;
  if (code == 0 && speculation) code = cli_speculation_create(speculation, session, &speculator, error);
  if (code == 0 && o->tasks)
    code = cli_evaluate_tasks(model, session, speculator, o->tasks, o->limit, progress, &out->tasks, error);
  quern_speculator_destroy(speculator);
  quern_session_destroy(session);
  return code;
}

static double tokens_a_pass(int64_t tokens, int64_t passes) {
  return passes > 0 ? (double)tokens / (double)passes : 0.0;
}

static double percent(uint64_t right, uint64_t count) {
  return count > 0 ? 100.0 * (double)right / (double)count : 0.0;
}

static void put_measured(cli_json *json, const eval_options *o, const measured *m) {
  if (o->text) {
    cli_json_begin(json, "perplexity", '{');
    cli_json_precise(json, "value", m->text.perplexity);
    cli_json_precise(json, "error", m->text.error);
    cli_json_int(json, "tokens", (int64_t)m->text.tokens);
    cli_json_int(json, "texts", (int64_t)m->text.texts);
    cli_json_int(json, "window", (int64_t)m->window);
    cli_json_int(json, "stride", (int64_t)m->stride);
    cli_json_end(json, '}');
  }
  if (!o->tasks) return;
  cli_json_begin(json, "tasks", '[');
  for (size_t i = 0; i < m->tasks.items.count; i++) {
    const cli_task *task = &m->tasks.items.items[i];
    cli_json_begin(json, NULL, '{');
    cli_json_text(json, "name", qn_str_from(task->name));
    cli_json_int(json, "right", (int64_t)task->right);
    cli_json_int(json, "count", (int64_t)task->count);
    if (o->speculate) cli_json_precise(json, "tokens_per_pass", tokens_a_pass(task->tokens, task->passes));
    cli_json_end(json, '}');
  }
  cli_json_end(json, ']');
  cli_json_int(json, "right", (int64_t)m->tasks.right);
  cli_json_int(json, "count", (int64_t)m->tasks.count);
  if (o->speculate) cli_json_precise(json, "tokens_per_pass", tokens_a_pass(m->tasks.tokens, m->tasks.passes));
}

static void print_measured(const eval_options *o, const measured *m, qn_buf *out) {
  if (o->text)
    qn_buf_printf(
        out, "perplexity %.4f, standard error %.4f: %llu tokens of %llu texts, windows of %llu tokens %llu apart\n",
        m->text.perplexity, m->text.error, (unsigned long long)m->text.tokens, (unsigned long long)m->text.texts,
        (unsigned long long)m->window, (unsigned long long)m->stride);
  for (size_t i = 0; i < m->tasks.items.count; i++) {
    const cli_task *task = &m->tasks.items.items[i];
    qn_buf_printf(out, "%-12s %6llu of %6llu right, %.2f %%", task->name, (unsigned long long)task->right,
                  (unsigned long long)task->count, percent(task->right, task->count));
    if (o->speculate) qn_buf_printf(out, ", %.2f tokens a step", tokens_a_pass(task->tokens, task->passes));
    qn_buf_putc(out, '\n');
  }
  if (o->tasks)
    qn_buf_printf(out, "%-12s %6llu of %6llu right, %.2f %%", "all", (unsigned long long)m->tasks.right,
                  (unsigned long long)m->tasks.count, percent(m->tasks.right, m->tasks.count));
  if (o->tasks && o->speculate)
    qn_buf_printf(out, ", %.2f tokens a step", tokens_a_pass(m->tasks.tokens, m->tasks.passes));
  if (o->tasks) qn_buf_putc(out, '\n');
}

// One wrong case of each task.
static void tell_wrong(const eval_options *o, const cli_tasks *tasks) {
  for (size_t i = 0; i < tasks->items.count && !o->common.quiet; i++) {
    const cli_task *task = &tasks->items.items[i];
    if (task->prompt)
      fprintf(stderr, "quern: %s, wrong for example: '%s' gave '%s', want '%s'\n", task->name, task->prompt, task->got,
              task->want);
  }
}

// Texts to where they belong: JSON to its file, and the other to standard output unless JSON is there.
static int give(const eval_options *o, const qn_buf *text, const qn_buf *json) {
  if (text->failed || json->failed) return cli_fail(QN_ERR_NOMEM, "eval", "out of memory for the results");
  bool taken = o->json && strcmp(o->json, "-") == 0;
  int code = o->json ? cli_json_save(json, o->json, "--json") : 0;
  if (code == 0 && !taken) cli_out(qn_buf_text(text), text->length);
  int out_code = cli_out_end();
  return code != 0 ? code : out_code;
}

static int eval_one(const eval_options *o, const char *path) {
  run_source source = {.path = path,
                       .target = o->target,
                       .numeric = o->numeric,
                       .quant = o->quant,
                       .kv_type = o->kv_type,
                       .kv_evict = o->kv_evict,
                       .template_path = o->template_path,
                       .tuning_db = o->tuning_db,
                       .context = (uint32_t)o->context,
                       .run_threads = (int)o->threads,
                       .all_logits = o->text != NULL,
                       .no_cache = o->no_cache,
                       .signed_by = o->signed_by,
                       .quiet = o->common.quiet};
  const cli_cpu_option cpu_options[] = {{"--threads", o->threads > 0}};
  quern_model *model = NULL;
  quern_error error = {0};
  measured m = {0};
  cli_progress progress;
  qn_buf text, out;
  cli_json json = {.out = &out};
  cli_speculation speculation;
  int code = cli_speculation_read(o->speculate, o->draft_tokens, &speculation);
  if (code != 0) return code;
  source.sequences = cli_speculation_sequences(&speculation);
  source.guesses = speculation.guesses;
  code = cli_device_find(o->device, o->libcuda, cpu_options, QN_COUNT(cpu_options), &source.device);
  if (code == 0) code = run_open(&source, &model);
  if (code == 0) code = cli_speculation_open(&speculation, &source, 1);
  if (code != 0) {
    quern_model_close(model);
    return code;
  }
  qn_buf_init(&text, qn_allocator_default());
  qn_buf_init(&out, qn_allocator_default());
  cli_progress_init(&progress, o->common.quiet);
  code = measure(o, model, &speculation, &progress, &m, &error);
  cli_progress_end(&progress);
  if (code == 0) {
    cli_json_begin(&json, NULL, '{');
    cli_json_text(&json, "model", qn_str_from(quern_model_name(model)));
    cli_json_text(&json, "target", qn_str_from(quern_model_target(model)));
    put_measured(&json, o, &m);
    cli_json_end(&json, '}');
    qn_buf_putc(&out, '\n');
    print_measured(o, &m, &text);
    tell_wrong(o, &m.tasks);
    code = give(o, &text, &out);
  } else {
    code = code == QN_ERR_CANCELLED && cli_interrupted() ? cli_interrupt_code() : cli_fail_with(code, &error);
  }
  cli_tasks_free(&m.tasks);
  quern_model_close(model);
  cli_speculation_free(&speculation);
  qn_buf_deinit(&text);
  qn_buf_deinit(&out);
  return code;
}

// ---- a table

typedef struct table {
  const eval_options *o;
  const char *path, *formats, *modes;  // formats NULL = the file's own
  cli_progress progress;
  qn_buf text, out;
  cli_json json;
} table;

// Sums over the matrices of a model.
typedef struct matrix_sums {
  double values, bytes, square_ratio;
  char fallback[32];  // a format that some got instead; empty = none
} matrix_sums;

static void take_matrix(void *context, const quern_quantized *m) {
  matrix_sums *sums = context;
  double values = (double)m->rows * (double)m->columns;
  sums->values += values;
  sums->bytes += (double)m->bytes_after;
  sums->square_ratio += values * m->relative_rms * m->relative_rms;
  if (strcmp(m->to, m->asked) != 0) snprintf(sums->fallback, sizeof sums->fallback, "%s", m->to);
}

// The next word of a list with commas or spaces between; false after the last.
static bool next_word(const char **at, char *out, size_t size) {
  *at += strspn(*at, ", ");
  size_t length = strcspn(*at, ", ");
  snprintf(out, size, "%.*s", (int)(length < size ? length : size - 1), *at);
  *at += length;
  return length > 0;
}

static int measure_cell(table *t, const char *format, const char *mode, matrix_sums *sums, measured *m) {
  const eval_options *o = t->o;
  quern_compile_options how = {.size = sizeof how,
                               .target = o->target,
                               .context_tokens = (uint32_t)o->context,
                               .numeric_mode = mode,
                               .kv_type = o->kv_type,
                               .kv_evict = o->kv_evict,
                               .template_path = o->template_path,
                               .tuning_db = o->tuning_db,
                               .all_logits = o->text != NULL,
                               .quant = format,
                               .quantized = take_matrix,
                               .quantized_context = sums};
  quern_model *model = NULL;
  quern_error error = {0};
  int code = quern_jit(t->path, &how, &model, &error);
  if (code == 0) code = measure(o, model, NULL, &t->progress, m, &error);
  quern_model_close(model);
  cli_progress_end(&t->progress);
  if (code == QN_ERR_CANCELLED && cli_interrupted()) return cli_interrupt_code();
  return code == 0 ? 0 : cli_fail_with(code, &error);
}

static void put_sums(table *t, const char *format, const matrix_sums *sums) {
  bool any = sums->values > 0;
  qn_buf_printf(&t->text, "| %s%s%s |", format ? format : "as it is", sums->fallback[0] ? " and " : "", sums->fallback);
  if (t->formats && any)
    qn_buf_printf(&t->text, " %.2f | %.3f %% |", 8.0 * sums->bytes / sums->values,
                  100.0 * sqrt(sums->square_ratio / sums->values));
  if (t->formats && !any) qn_buf_puts(&t->text, " | |");
  cli_json_begin(&t->json, NULL, '{');
  if (format) cli_json_text(&t->json, "format", qn_str_from(format));
  if (any) {
    cli_json_precise(&t->json, "bits", 8.0 * sums->bytes / sums->values);
    cli_json_precise(&t->json, "relative_rms", sqrt(sums->square_ratio / sums->values));
  }
  cli_json_begin(&t->json, "modes", '[');
}

static int put_row(table *t, const char *format) {
  const char *at = t->modes;
  char mode[32];
  bool first = true;
  for (; next_word(&at, mode, sizeof mode); first = false) {
    measured m = {0};
    matrix_sums sums = {0};
    if (!t->o->common.quiet) fprintf(stderr, "quern: %s %s\n", format ? format : "as it is", mode);
    int code = measure_cell(t, format, mode, &sums, &m);
    if (code == 0) {
      if (first) put_sums(t, format, &sums);
      if (t->o->tasks) qn_buf_printf(&t->text, " %.2f %% |", percent(m.tasks.right, m.tasks.count));
      if (t->o->text) qn_buf_printf(&t->text, " %.4f |", m.text.perplexity);
      cli_json_begin(&t->json, NULL, '{');
      cli_json_text(&t->json, "numeric", qn_str_from(mode));
      put_measured(&t->json, t->o, &m);
      cli_json_end(&t->json, '}');
    }
    cli_tasks_free(&m.tasks);
    if (code != 0) return code;
  }
  qn_buf_putc(&t->text, '\n');
  cli_json_end(&t->json, ']');
  cli_json_end(&t->json, '}');
  return 0;
}

static void put_head(table *t) {
  const char *at = t->modes;
  char mode[32];
  int columns = t->formats ? 3 : 1;
  qn_buf_puts(&t->text, t->formats ? "| format | bits a weight | RMS error |" : "| format |");
  while (next_word(&at, mode, sizeof mode)) {
    if (t->o->tasks) qn_buf_printf(&t->text, " %s: tasks right |", mode);
    if (t->o->text) qn_buf_printf(&t->text, " %s: perplexity |", mode);
    columns += (t->o->tasks != NULL) + (t->o->text != NULL);
  }
  qn_buf_puts(&t->text, "\n|");
  while (columns-- > 0) qn_buf_puts(&t->text, "---|");
  qn_buf_putc(&t->text, '\n');
}

static int eval_table(const eval_options *o, const char *path) {
  bool all = o->quant && strcmp(o->quant, "all") == 0;
  table t = {.o = o,
             .path = path,
             .formats = all ? quern_quant_formats() : o->quant,
             .modes = o->numeric ? o->numeric : "int8"};
  char format[32];
  int code = 0;
  if (quern_is_artifact(path))
    return cli_fail(QN_ERR_ARGUMENT, o->quant ? "--quant" : "--numeric", "is for model files, got the artifact %s",
                    path);
  if (o->device && strcmp(o->device, "cpu") != 0)
    return cli_fail(QN_ERR_ARGUMENT, "--device", "got %s, but a table is measured on the CPU", o->device);
  qn_buf_init(&t.text, qn_allocator_default());
  qn_buf_init(&t.out, qn_allocator_default());
  t.json.out = &t.out;
  cli_progress_init(&t.progress, o->common.quiet);
  put_head(&t);
  cli_json_begin(&t.json, NULL, '{');
  cli_json_text(&t.json, "model", qn_str_from(path));
  cli_json_begin(&t.json, "formats", '[');
  const char *at = t.formats;
  if (!at) code = put_row(&t, NULL);
  while (at && code == 0 && next_word(&at, format, sizeof format)) code = put_row(&t, format);
  cli_json_end(&t.json, ']');
  cli_json_end(&t.json, '}');
  qn_buf_putc(&t.out, '\n');
  if (code == 0) code = give(o, &t.text, &t.out);
  qn_buf_deinit(&t.text);
  qn_buf_deinit(&t.out);
  return code;
}

static bool is_several(const char *list) { return list && (strchr(list, ',') || strcmp(list, "all") == 0); }

static int run(void *context, const char *path) {
  const eval_options *o = context;
  if (!o->text && !o->tasks)
    return cli_fail(QN_ERR_ARGUMENT, "eval", "got nothing to measure, want --perplexity FILE or --tasks FILE");
  const struct {
    const char *name;
    bool given;
  } of_text[] = {{"--lines", o->lines}, {"--stride", o->stride > 0}};
  for (size_t i = 0; i < QN_COUNT(of_text); i++)
    if (of_text[i].given && !o->text)
      return cli_fail(QN_ERR_ARGUMENT, of_text[i].name, "is of --perplexity, which is not given");
  if (o->speculate && (!o->tasks || is_several(o->quant) || is_several(o->numeric)))
    return cli_fail(QN_ERR_ARGUMENT, "--speculate", "is of --tasks with one format and one mode");
  if (o->limit && !o->tasks) return cli_fail(QN_ERR_ARGUMENT, "--limit", "is of --tasks, which are not given");
  cli_catch_signals();
  return is_several(o->quant) || is_several(o->numeric) ? eval_table(o, path) : eval_one(o, path);
}

const cli_command cli_eval_command = {
    .name = "eval",
    .operands = "FILE",
    .summary = "measures how good a model is: perplexity, and tasks with one right answer",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(eval_options),
    .operand_name = "an artifact or a model file",
    .run = run,
};
