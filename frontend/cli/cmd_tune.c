// quern tune: finds schedules for a model's kernels by trying them on this machine, and keeps them.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/cli/json.h"
#include "frontend/cli/progress.h"
#include "frontend/cli/tune.h"

typedef struct tune_options {
  cli_common common;
  const char *budget, *within, *pattern, *target, *db, *export_path, *import_path, *json_path, *against;
  const char *numeric, *quant, *kv_type, *template_path, *signed_by;
  uint64_t threads, context, chunk, sequences, pairs;
  bool guesses;
} tune_options;

#define FIELD(name) offsetof(tune_options, name)
static const cli_option options_table[] = {
    {"budget", 0, CLI_TEXT, FIELD(budget), "TIME", 0, 0, NULL, "60s",
     "seconds (90s), minutes (5m) or hours that trials may take"},
    {"within", 0, CLI_TEXT, FIELD(within), "PART", 0, 0, NULL, "5%",
     "leave kernels alone that are so near to the roofline"},
    {"kernel", 0, CLI_TEXT, FIELD(pattern), "PATTERN", 0, 0, NULL, "all",
     "tune kernels whose names match, * and ? as in a shell; quern inspect -w kernels OUT.qn lists the names"},
    {"target", 't', CLI_TEXT, FIELD(target), "T", 0, 0, NULL, "host",
     "what the code is for, which this machine must run"},
    {"db", 0, CLI_TEXT, FIELD(db), "FILE|none", 0, 0, NULL, "the user's own", "the database of records"},
    {"threads", 'j', CLI_COUNT, FIELD(threads), "N", 1, 1024, NULL, "one a core",
     "that steps are timed with: run --threads N and compile --run-threads N use what was found for so many"},
    {"against", 0, CLI_CHOICE, FIELD(against), NULL, 0, 0, "default|middle", NULL,
     "when done, time every tuned kernel in turns with its default schedule, and with one middle value for every knob"},
    {"pairs", 0, CLI_COUNT, FIELD(pairs), "N", 1, 256, NULL, "24", "of times for --against"},
    {"json", 0, CLI_TEXT, FIELD(json_path), "FILE", 0, 0, NULL, NULL,
     "write the report as JSON; - is standard output, where it takes the table's place"},
    {"export", 0, CLI_TEXT, FIELD(export_path), "FILE", 0, 0, NULL, NULL,
     "write all records as text, one a line; after tuning when a model is given"},
    {"import", 0, CLI_TEXT, FIELD(import_path), "FILE", 0, 0, NULL, NULL,
     "add the records of such a file; before tuning when a model is given"},
    {"ctx", 'c', CLI_COUNT, FIELD(context), "N", 1, INT32_MAX, NULL, "the model's own, or 4096",
     "of a model file, as quern compile takes it, as are the following; an artifact has its own"},
    {"chunk", 0, CLI_COUNT, FIELD(chunk), "N", 1, 65536, NULL, "256 tokens", "of the prompt taken in one step"},
    {"batch", 0, CLI_COUNT, FIELD(sequences), "N", 1, 4096, NULL, "one", "sequences that decode together"},
    {"guesses", 0, CLI_FLAG, FIELD(guesses), NULL, 0, 0, NULL, NULL,
     "for guesses that branch, as quern compile --guesses and --speculate compile it"},
    {"numeric", 0, CLI_CHOICE, FIELD(numeric), "MODE", 0, 0, "int8|f32|half", "int8",
     "how quantised weights are multiplied"},
    {"quant", 0, CLI_TEXT, FIELD(quant), "FORMAT", 0, 0, NULL, "the file's formats", "quantise the float matrices"},
    {"kv-type", 0, CLI_CHOICE, FIELD(kv_type), "TYPE", 0, 0, "f32|f16|bf16|int8|int4", "f32", "how keys and values are kept"},
    {"template", 0, CLI_TEXT, FIELD(template_path), "FILE", 0, 0, NULL, "the built-in one", "the architecture as JSON"},
    {"require-signature", 0, CLI_TEXT, FIELD(signed_by), "FILE", 0, 0, NULL, NULL, CLI_SIGNATURE_HELP},
};

static const char details[] =
    "Tries schedules for the kernels of a model (folder, GGUF, graph in JSON) or of an artifact, on this machine:\n"
    "each candidate is compiled, checked against the oracle and timed in turns with the best so far, in a\n"
    "process of its own. Time goes to the kernel with the most to gain. What is found is kept at once, and\n"
    "quern compile and quern run use it by themselves; results never change, only speed. Ctrl-C ends the\n"
    "session and loses nothing; the next one goes on where this one stopped. Code for GPUs is not tuned.\n";

// --- options

// "60s", "1.5m", "90" into seconds.
static int read_budget(const char *text, double *out) {
  char *end;
  *out = strtod(text, &end);
  double unit = strcmp(end, "") == 0 || strcmp(end, "s") == 0 ? 1
                : strcmp(end, "m") == 0                       ? 60
                : strcmp(end, "h") == 0                       ? 3600
                                                              : 0;
  if (end == text || unit == 0 || !isfinite(*out) || *out < 0 || *out * unit > 1e7) {
    return cli_fail(QN_ERR_ARGUMENT, "--budget", "got '%s', want a time: 60s, 5m, 1h", text);
  }
  *out *= unit;
  return 0;
}

// "5%" or "0.05" into a share.
static int read_within(const char *text, double *out) {
  char *end;
  *out = strtod(text, &end);
  if (strcmp(end, "%") == 0) {
    *out /= 100;
    end++;
  }
  if (end == text || *end || !(*out > 0 && *out <= 10)) {
    return cli_fail(QN_ERR_ARGUMENT, "--within", "got '%s', want a part of more than 0: 5%%, 0.05", text);
  }
  return 0;
}

// --- exchange

static int import_records(const tune_options *options) {
  quern_error error = {0};
  quern_tuning_counts counts = {.size = sizeof counts};
  cli_progress progress;
  cli_progress_init(&progress, options->common.quiet);
  cli_catch_signals();
  int code = quern_tuning_import(options->db, options->import_path, cli_progress_step, &progress, &counts, &error);
  cli_progress_end(&progress);
  if (code == QN_ERR_CANCELLED && cli_interrupted()) return cli_interrupt_code();
  if (code != 0) return cli_fail_with(code, &error);
  if (!options->common.quiet) {
    fprintf(stderr, "quern: %lld candidates, %lld marks and %lld machines read from %s, %lld of them known before\n",
            (long long)counts.records, (long long)counts.marks, (long long)counts.machines, options->import_path,
            (long long)counts.known);
  }
  return 0;
}

static int export_records(const tune_options *options) {
  quern_error error = {0};
  quern_tuning_counts counts = {.size = sizeof counts};
  int code = quern_tuning_export(options->db, options->export_path, &counts, &error);
  if (code != 0) return cli_fail_with(code, &error);
  if (!options->common.quiet) {
    fprintf(stderr, "quern: %lld candidates, %lld marks and %lld machines written to %s", (long long)counts.records,
            (long long)counts.marks, (long long)counts.machines, options->export_path);
    if (counts.rejected > 0) fprintf(stderr, "; %lld left out, which were edited", (long long)counts.rejected);
    fputc('\n', stderr);
  }
  return 0;
}

// --- the session

static int write_json(const quern_tune_report *report, const char *path) {
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  tune_put_json(report, &text);
  int code = cli_json_save(&text, path, "--json");
  qn_buf_deinit(&text);
  return code;
}

static int tell(const tune_options *options, const quern_tune_report *report, double within) {
  bool to_stdout = options->json_path && strcmp(options->json_path, "-") == 0;
  if (!to_stdout) tune_print(report, within);
  fflush(stdout);
  return options->json_path ? write_json(report, options->json_path) : 0;
}

// What says how to compile makes no sense for what is compiled.
static int check_artifact(const tune_options *o, const char *path) {
  const struct {
    const char *name;
    bool given;
  } compiling[] = {{"--ctx", o->context > 0},  {"--chunk", o->chunk > 0}, {"--batch", o->sequences > 0},
                   {"--numeric", o->numeric},  {"--quant", o->quant},     {"--kv-type", o->kv_type},
                   {"--template", o->template_path}, {"--guesses", o->guesses}};
  if (!quern_is_artifact(path)) {
    if (!o->signed_by) return 0;
    return cli_fail(QN_ERR_ARGUMENT, "--require-signature", "is for artifacts, got the model file %s", path);
  }
  for (size_t i = 0; i < QN_COUNT(compiling); i++) {
    if (!compiling[i].given) continue;
    return cli_fail(QN_ERR_ARGUMENT, compiling[i].name,
                    "is for model files, got the artifact %s; tune the model, or an artifact that was compiled so", path);
  }
  return 0;
}

static int tune(const tune_options *options, const char *path) {
  tune_progress progress;
  quern_tune_report report = {.size = sizeof report};
  quern_error error = {0};
  quern_compile_options compile = {.size = sizeof compile,
                                   .target = options->target,
                                   .context_tokens = (uint32_t)options->context,
                                   .chunk_tokens = (uint32_t)options->chunk,
                                   .numeric_mode = options->numeric,
                                   .kv_type = options->kv_type,
                                   .template_path = options->template_path,
                                   .quant = options->quant,
                                   .sequences = (uint32_t)options->sequences,
                                   .guesses = options->guesses};
  quern_tune_options how = {.size = sizeof how,
                            .compile = &compile,
                            .pattern = options->pattern,
                            .tuning_db = options->db,
                            .threads = (int)options->threads,
                            .compare_pairs = options->against ? (int)options->pairs : 0,
                            .signed_by = options->signed_by,
                            .progress = tune_progress_step,
                            .progress_context = &progress};
  int code = check_artifact(options, path);
  if (code == 0) code = read_budget(options->budget ? options->budget : "60s", &how.budget_s);
  if (code == 0) code = read_within(options->within ? options->within : "5%", &how.within);
  if (code != 0) return code;
  tune_progress_init(&progress, options->common.quiet);
  cli_catch_signals();
  code = quern_tune(path, &how, &report, &error);
  tune_progress_end(&progress);
  if (code == QN_ERR_CANCELLED && cli_interrupted()) return cli_interrupt_code();
  if (code != 0) return cli_fail_with(code, &error);
  if (how.budget_s == 0) fprintf(stderr, "quern: a budget of 0 s allows no trial; this is what is known\n");
  if (report.untuned[0] && !options->common.quiet)
    fprintf(stderr, "quern: %s: not tuned: code for GPUs (%s)\n", path, report.untuned);
  code = tell(options, &report, how.within);
  if (code == 0) code = tune_warn(&report);
  if (code == 0 && report.cancelled && cli_interrupted()) code = cli_interrupt_code();
  quern_tune_report_free(&report);
  return code;
}

static int run(void *context, const char *path) {
  const tune_options *options = context;
  bool exchange = options->export_path || options->import_path;
  if (!path && !exchange) {
    return cli_fail(QN_ERR_ARGUMENT, "tune", "got no file, want a model file or an artifact; see quern tune --help");
  }
  if (exchange && options->db && strcmp(options->db, "none") == 0) {
    return cli_fail(QN_ERR_ARGUMENT, "--db", "got 'none', want a database to export from or import into");
  }
  int code = options->import_path ? import_records(options) : 0;
  if (code == 0 && path) code = tune(options, path);
  if (code == 0 && options->export_path) code = export_records(options);
  return code;
}

// --- progress

void tune_progress_init(tune_progress *progress, bool quiet) {
  const char *term = getenv("TERM");
  *progress = (tune_progress){.quiet = quiet};
  progress->terminal = isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0;
}

static void put_state(const quern_tune_progress *now) {
  if (now->stage) {
    fputs(now->stage, stderr);
    return;
  }
  fprintf(stderr, "%s rows %s: %d tried, %s", now->kernel, tune_rows(now->rows_min, now->rows_max), now->tried,
          tune_time(now->best_s));
  if (now->gain > 1.0005) fprintf(stderr, ", %.2f x", now->gain);
  if (now->bound_s > 0) fprintf(stderr, ", %.0f %% of the bound", 100 * now->bound_s / now->best_s);
}

bool tune_progress_step(void *context, const quern_tune_progress *now) {
  tune_progress *progress = context;
  if (cli_interrupted()) return false;
  if (progress->quiet) return true;
  double time = cli_seconds();
  const char *name = now->stage ? now->stage : now->kernel;
  bool entered = strcmp(name, progress->kernel) != 0 || now->rows_min != progress->rows_min;
  if (progress->terminal && (entered || time - progress->last_draw >= 0.1)) {
    fputs("\r\033[K", stderr);
    put_state(now);
    if (!now->stage) fprintf(stderr, ", %.0f s left", now->left_s);
    fflush(stderr);
    progress->drawn = true;
    progress->last_draw = time;
  } else if (!progress->terminal && entered) {
    if (now->stage) {
      fputs("quern: ", stderr);
    } else {
      fprintf(stderr, "quern: %5.1f s: ", now->spent_s);
    }
    put_state(now);
    fputc('\n', stderr);
  }
  if (entered) {
    snprintf(progress->kernel, sizeof progress->kernel, "%s", name);
    progress->rows_min = now->rows_min;
  }
  return true;
}

void tune_progress_end(tune_progress *progress) {
  if (progress->drawn) fputs("\r\033[K", stderr);
  progress->drawn = false;
}

const cli_command cli_tune_command = {
    .name = "tune",
    .operands = "MODEL|OUT.qn",
    .summary = "finds schedules for a model's kernels on this machine",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(tune_options),
    .operand_name = "one model file or artifact",
    .operand_optional = true,
    .run = run,
};
