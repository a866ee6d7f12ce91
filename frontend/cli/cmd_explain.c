// quern explain: how far a model is from what this machine could do, kernel by kernel, and why.
#include <stdlib.h>
#include <string.h>

#include "frontend/cli/explain.h"
#include "frontend/cli/model_options.h"
#include "frontend/cli/progress.h"
#include "frontend/cli/run_open.h"
#include "frontend/cli/settings.h"
#include "runtime/base/file.h"

typedef struct explain_options {
  cli_common common;
  const char *json_path, *html_path, *against_path, *db_path, *device;
  const char *target, *numeric, *quant, *kv_type, *template_path, *huge_pages, *signed_by;
  uint64_t threads, decode_threads, prompt, depth, reps, context;
  bool no_pin, terms;
} explain_options;

#define FIELD(name) offsetof(explain_options, name)
static const cli_option options_table[] = {
    {"json", 0, CLI_TEXT, FIELD(json_path), "FILE", 0, 0, NULL, NULL,
     "write everything as one JSON object; - is standard output, where it takes the tables' place"},
    {"html", 0, CLI_TEXT, FIELD(html_path), "FILE", 0, 0, NULL, NULL,
     "write a page with plots, which needs nothing else; - is standard output, where it takes the tables' place"},
    {"against", 0, CLI_TEXT, FIELD(against_path), "FILE", 0, 0, NULL, NULL,
     "tell the difference to an earlier run, whose --json FILE this is"},
    {"device", 0, CLI_TEXT, FIELD(device), "cuda:CHIP", 0, 0, NULL, NULL,
     "predict it for a GPU, which need not be here: sm_80, sm_90, sm_100, sm_120 or a chip's name (H200)"},
    {"terms", 0, CLI_FLAG, FIELD(terms), NULL, 0, 0, NULL, NULL,
     "tell what each kernel's time is made of, and its schedule (the page always does)"},
    {"threads", 'j', CLI_COUNT, FIELD(threads), "N", 1, 1024, NULL, CLI_THREADS_STANDARD, "threads that compute"},
    CLI_OPTION_DECODE_THREADS,
    {"prompt", 'p', CLI_COUNT, FIELD(prompt), "N", 1, INT32_MAX, NULL, "256, or half of a shorter context",
     "tokens of the prompt"},
    {"depth", 0, CLI_COUNT, FIELD(depth), "N", 1, INT32_MAX, NULL, "the prompt's tokens",
     "keys in the cache before a token that is decoded"},
    {"reps", 0, CLI_COUNT, FIELD(reps), "N", 1, 1000, NULL, "5 of each", "repetitions of everything, taken in turn"},
    CLI_OPTION_NO_PIN,
    {"db", 0, CLI_TEXT, FIELD(db_path), "FILE|none", 0, 0, NULL, "the user's own",
     "the database of quern tune, which tells what was tried"},
    {"ctx", 'c', CLI_COUNT, FIELD(context), "N", 1, INT32_MAX, NULL, "the model's own",
     "model file: compile for a context of so many tokens"},
    CLI_OPTION_TARGET,
    CLI_OPTION_NUMERIC,
    CLI_OPTION_QUANT,
    CLI_OPTION_KV_TYPE(CLI_KV_TYPES),
    CLI_OPTION_HUGE_PAGES,
    CLI_OPTION_TEMPLATE,
    CLI_OPTION_SIGNATURE,
};

static const char details[] =
    "Runs a prompt and decodes tokens after it, times every kernel, and holds each against the roofline: no\n"
    "kernel is faster than its bytes at the read bandwidth, nor than its operations at the peaks, all measured\n"
    "in the same run. FILE is an artifact or a model, which is compiled into the cache as quern run does.\n"
    "  of bound     the roofline's time as part of the measured one\n"
    "  limited by   the largest part of the time, of what was measured (waiting for other threads, page faults)\n"
    "               and what the compiler's model of this machine says of the kernel's code\n"
    "  MBU, MFU     of the whole: bytes and multiply-adds as parts of what the machine gives in that time\n"
    "Of a model with an encoder (T5) the prompt is what that reads, and decoding looks at it; of an encoder alone\n"
    "(BERT) one text of --prompt tokens is embedded, and nothing decoded.\n"
    "Other programs on the machine disturb it; Ctrl-C ends it.\n"
    "With --device nothing is run: times are predicted from what the kernels' loops ask of a GPU and from what is\n"
    "published of the chip. FILE is then a model file, or an artifact that has code for GPUs.\n";

static const char *terms_text(void) {
  static char text[2048];
  size_t count, used = 0;
  const quern_explain_term *terms = quern_explain_terms(&count);
  used += (size_t)snprintf(text, sizeof text, "What a kernel may be limited by:\n");
  for (size_t i = 0; i < count && used < sizeof text; i++) {
    int length = snprintf(text + used, sizeof text - used, "  %-16s %s\n", terms[i].name, terms[i].meaning);
    used += length > 0 ? (size_t)length : 0;
  }
  return text;
}

// ---- output

static int write_text(const char *option, const char *path, const qn_buf *text) {
  qn_diag diag = {0};
  if (text->failed) return cli_fail(QN_ERR_NOMEM, "explain", "out of memory for its text");
  if (strcmp(path, "-") == 0) {
    cli_out(text->data, text->length);
    return cli_out_end();
  }
  qn_file_writer writer;
  qn_status status = qn_file_writer_open(&writer, path, &diag);
  if (status == QN_OK) status = qn_file_writer_write(&writer, text->data, text->length);
  if (status == QN_OK) status = qn_file_writer_commit(&writer);
  qn_file_writer_abandon(&writer);
  return status == QN_OK ? 0 : cli_fail((int)status, option, "%s", diag.text);
}

static void put_json(const explain_view *view, qn_buf *out) { explain_put_json(view->now, out); }

static int write_all(const explain_options *o, const explain_view *view) {
  const struct {
    const char *option, *path;
    void (*put)(const explain_view *view, qn_buf *out);
  } outputs[] = {{"--json", o->json_path, put_json},
                 {"--html", o->html_path, explain_put_html},
                 {"explain", "-", explain_put_text}};
  bool taken = false;
  int code = 0;
  for (size_t i = 0; code == 0 && i < QN_COUNT(outputs); i++) {
    if (!outputs[i].path || (taken && i + 1 == QN_COUNT(outputs))) continue;
    qn_buf text;
    qn_buf_init(&text, qn_allocator_default());
    outputs[i].put(view, &text);
    code = write_text(outputs[i].option, outputs[i].path, &text);
    qn_buf_deinit(&text);
    taken = taken || strcmp(outputs[i].path, "-") == 0;
  }
  return code;
}

// ---- the command

static int check_paths(const explain_options *o, const char *path) {
  int code = cli_check_outputs(path, o->json_path, o->html_path);
  if (code != 0) return code;
  if (o->db_path && !*o->db_path) return cli_fail(QN_ERR_ARGUMENT, "--db", "got '', want a file or none");
  return 0;
}

static int open_model(const explain_options *o, const char *path, const cli_settings *settings, quern_model **out) {
  run_source source = {.path = path,
                       .target = o->target,
                       .tuning_db = o->db_path,
                       .numeric = o->numeric,
                       .quant = o->quant,
                       .kv_type = o->kv_type,
                       .template_path = o->template_path,
                       .huge_pages = settings->huge_pages,
                       .context = (uint32_t)o->context,
                       .run_threads = (int)o->threads,
                       .signed_by = o->signed_by,
                       .any_kind = true,  // quern_explain says what it does not take
                       .quiet = o->common.quiet};
  return run_open(&source, out);
}

static int explain_model(const explain_options *o, quern_model *model, const cli_settings *settings,
                         const quern_explanation **out) {
  cli_progress progress;
  quern_error error = {0};
  cli_progress_init(&progress, o->common.quiet);
  quern_explain_options options = {.size = sizeof options,
                                   .threads = settings->threads,
                                   .decode_threads = settings->decode_threads,
                                   .no_pin = settings->no_pin,
                                   .spin_us = settings->spin_us,
                                   .grain = settings->grain,
                                   .prompt_tokens = (int64_t)o->prompt,
                                   .depth = (int64_t)o->depth,
                                   .repetitions = (int)o->reps,
                                   .tuning_db = o->db_path,
                                   .progress = cli_progress_step,
                                   .progress_context = &progress};
  int code = quern_explain(model, &options, out, &error);
  cli_progress_end(&progress);
  if (code == QN_ERR_CANCELLED && cli_interrupted()) return cli_interrupt_code();
  if (code != 0) return cli_fail_with(code, &error);
  if (*(*out)->problem && !o->common.quiet)
    fprintf(stderr, "quern: warning: what tuning tried is not told: %s\n", (*out)->problem);
  return 0;
}

static int measure_model(const explain_options *o, const char *path, const quern_explanation **out) {
  quern_model *model = NULL;
  cli_settings_options wanted = {.threads = o->threads,
                                 .decode_threads = o->decode_threads,
                                 .no_pin = o->no_pin,
                                 .quiet = o->common.quiet,
                                 .huge_pages = o->huge_pages,
                                 .tuning_db = o->db_path};
  cli_settings settings = {0};
  int code = cli_settings_get(&wanted, &settings);
  cli_catch_signals();
  if (code == 0) code = open_model(o, path, &settings, &model);
  if (code == 0) cli_settings_of_model(&wanted, model, &settings);
  if (code == 0) code = explain_model(o, model, &settings, out);
  quern_model_close(model);
  return code;
}

// ---- predictions

// What says how to run makes no sense where nothing is run; how to compile, of what is compiled already.
static int check_prediction(const explain_options *o, const char *path) {
  bool artifact = quern_is_artifact(path);
  const struct {
    const char *name;
    bool given, compiles;
  } options[] = {{"--threads", o->threads, false},       {"--decode-threads", o->decode_threads, false},
                 {"--reps", o->reps, false},             {"--no-pin", o->no_pin, false},
                 {"--huge-pages", o->huge_pages, false}, {"--db", o->db_path, false},
                 {"--target", o->target, false},         {"--ctx", o->context, true},
                 {"--numeric", o->numeric, true},        {"--quant", o->quant, true},
                 {"--kv-type", o->kv_type, true},        {"--template", o->template_path, true}};
  for (size_t i = 0; i < QN_COUNT(options); i++) {
    if (options[i].given && !options[i].compiles)
      return cli_fail(QN_ERR_ARGUMENT, options[i].name, "is for measuring on this machine, got --device, which predicts");
    if (options[i].given && artifact)
      return cli_fail(QN_ERR_ARGUMENT, options[i].name, "is for model files, got an artifact; compile it so instead");
  }
  if (!o->signed_by || artifact) return 0;
  return cli_fail(QN_ERR_ARGUMENT, "--require-signature", "is for artifacts, got the model file %s", path);
}

static int predict_model(const explain_options *o, const char *path, const quern_explanation **out) {
  cli_progress progress;
  quern_error error = {0};
  int code = check_prediction(o, path);
  if (code != 0) return code;
  cli_catch_signals();
  cli_progress_init(&progress, o->common.quiet);
  quern_compile_options compile = {.size = sizeof compile,
                                   .context_tokens = (uint32_t)o->context,
                                   .numeric_mode = o->numeric,
                                   .quant = o->quant,
                                   .kv_type = o->kv_type,
                                   .template_path = o->template_path};
  quern_predict_options options = {.size = sizeof options,
                                   .device = o->device,
                                   .prompt_tokens = (int64_t)o->prompt,
                                   .depth = (int64_t)o->depth,
                                   .compile = &compile,
                                   .signed_by = o->signed_by,
                                   .progress = cli_progress_step,
                                   .progress_context = &progress};
  code = quern_predict(path, &options, out, &error);
  cli_progress_end(&progress);
  if (code == QN_ERR_CANCELLED && cli_interrupted()) return cli_interrupt_code();
  return code == 0 ? 0 : cli_fail_with(code, &error);
}

// Two runs side by side have the same phases.
static int check_phases(const explain_options *o, const explain_view *view) {
  const quern_explanation *now = view->now, *before = view->before;
  bool same = !before || before->phase_count == now->phase_count;
  for (size_t i = 0; same && before && i < now->phase_count; i++)
    same = strcmp(now->phases[i].name, before->phases[i].name) == 0;
  if (same) return 0;
  return cli_fail(QN_ERR_ARGUMENT, "--against",
                  "%s tells of a model of another kind: its first phase is '%s', want '%s' as of this one", o->against_path,
                  before->phases[0].name, now->phases[0].name);
}

static int run(void *context, const char *path) {
  const explain_options *o = context;
  explain_view view = {.before_path = o->against_path, .terms = o->terms};
  quern_error error = {0};
  int code = check_paths(o, path);
  if (code == 0 && o->against_path) {
    code = quern_explanation_read(o->against_path, &view.before, &error);
    if (code != 0) code = cli_fail(code, "--against", "%s", error.text);
  }
  if (code == 0) code = o->device ? predict_model(o, path, &view.now) : measure_model(o, path, &view.now);
  if (code == 0) code = check_phases(o, &view);
  if (code == 0) code = write_all(o, &view);
  quern_explanation_free(view.now);
  quern_explanation_free(view.before);
  return code;
}

const cli_command cli_explain_command = {
    .name = "explain",
    .operands = "FILE",
    .summary = "tells how far each kernel is from what this machine, or a GPU, could do, and what limits it",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(explain_options),
    .operand_name = "an artifact or a model file",
    .more = terms_text,
    .run = run,
};
