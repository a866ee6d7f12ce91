// quern compile: a model file in, an artifact out; on request every stage of the compilation as text files, or one stage
// alone.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/cli/cli.h"
#include "frontend/cli/json.h"
#include "frontend/cli/model_options.h"
#include "frontend/cli/progress.h"
#include "frontend/cli/quant_table.h"
#include "runtime/base/file.h"

typedef struct compile_options {
  cli_common common;
  const char *out_path, *target, *numeric, *quant, *kv_type, *kv_evict, *template_path, *schedule_path, *dump_passes,
      *dump_folder, *emit, *nvrtc, *tuning_db, *sign_key, *name, *weights;
  uint64_t context, chunk, sequences, threads, run_threads;
  bool all_logits, guesses;
} compile_options;

#define FIELD(name) offsetof(compile_options, name)
static const cli_option options_table[] = {
    {"output", 'o', CLI_TEXT, FIELD(out_path), "FILE", 0, 0, NULL, NULL,
     "the artifact to write; wanted. With --emit the text, where - (the default) is standard output, or the object file"},
    {"target", 't', CLI_TEXT, FIELD(target), "T[,T...]", 0, 0, NULL, "host",
     "what to compile for: names from the list "
     "below; the artifact holds code for all of them"},
    {"ctx", 'c', CLI_COUNT, FIELD(context), "N", 1, INT32_MAX, NULL, "the model's own, or 4096",
     "tokens of context the artifact can be run with at most"},
    {"chunk", 0, CLI_COUNT, FIELD(chunk), "N", 1, 65536, NULL, "256", "tokens of the prompt taken in one step at most"},
    {"batch", 0, CLI_COUNT, FIELD(sequences), "N", 1, 4096, NULL, "1",
     "sequences that a program may decode together, and tokens of a step whose logits it may want"},
    {"numeric", 0, CLI_CHOICE, FIELD(numeric), "MODE", 0, 0, "int8|f32|half", "int8",
     "how quantised weights are multiplied: with activations rounded to int8, or widened to float; half: as int8, and F16 "
     "and BF16 weights with activations rounded to their type, which GPUs' tensor cores do"},
    {"quant", 0, CLI_TEXT, FIELD(quant), "FORMAT", 0, 0, NULL, "the file's formats",
     "quantise the model's F32, F16 and BF16 matrices to one of the formats below, and tell each one's error"},
    {"kv-type", 0, CLI_CHOICE, FIELD(kv_type), "TYPE", 0, 0, "f32|f16|bf16|int8|int4", "f32",
     "how keys and values are kept in the cache"},
    {"kv-evict", 0, CLI_CHOICE, FIELD(kv_evict), "POLICY", 0, 0, QN_KV_POLICY_CHOICES, "none",
     "let keys be evicted, by this policy or one that goes by no more (see quern run)"},
    {"template", 0, CLI_TEXT, FIELD(template_path), "FILE", 0, 0, NULL, "the built-in one for the model's architecture",
     "the architecture as JSON"},
    {"schedule", 0, CLI_TEXT, FIELD(schedule_path), "FILE", 0, 0, NULL, "by target and kernel",
     "one schedule for every kernel, 'knob = value' a line"},
    {"tuning-db", 0, CLI_TEXT, FIELD(tuning_db), "FILE|none", 0, 0, NULL, "the user's own",
     "the database of quern tune whose records choose schedules"},
    {"sign", 0, CLI_TEXT, FIELD(sign_key), "FILE", 0, 0, NULL, NULL,
     "sign the artifact with this private key (PEM, as openssl genpkey -algorithm ed25519 writes it)"},
    {"all-logits", 0, CLI_FLAG, FIELD(all_logits), NULL, 0, 0, NULL, NULL,
     "make the artifact able to give the logits of every prompt token"},
    {"guesses", 0, CLI_FLAG, FIELD(guesses), NULL, 0, 0, NULL, NULL,
     "make the artifact able to verify guesses that branch, and to give the hidden states that Medusa heads guess from "
     "(run --speculate); with --batch"},
    {"threads", 'j', CLI_COUNT, FIELD(threads), "N", 1, 1024, NULL, "one a core", "to compile with"},
    {"emit", 0, CLI_TEXT, FIELD(emit), "STAGE", 0, 0, NULL, NULL,
     "write something else than an artifact: object, a relocatable file to link into a C program, with its header beside it; "
     "or one stage's text: mlir, llvm or asm of code for CPUs; cuda, ptx or ptxas (what that says of each kernel) for GPUs; "
     "or a pass's name (for GPUs gpu_NAME)"},
    {"name", 0, CLI_TEXT, FIELD(name), "NAME", 0, 0, NULL, "the model's name",
     "with --emit=object: a C identifier that names in the header begin with"},
    {"weights", 0, CLI_TEXT, FIELD(weights), "FILE", 0, 0, NULL, "weights are in the object file",
     "with --emit=object: write the weights to a file of their own, which the program gives to each call"},
    {"nvrtc", 0, CLI_TEXT, FIELD(nvrtc), "FILE", 0, 0, NULL, "$QUERN_NVRTC, or where the system or the toolkit has it",
     "libnvrtc of CUDA 12 or 13, which compiles for GPUs"},
    {"run-threads", 0, CLI_COUNT, FIELD(run_threads), "N", 1, 1024, NULL, "one a core",
     "that the model will be run with: choose schedules, and records of quern tune, for so many"},
    {"dump-ir", 0, CLI_MAYBE, FIELD(dump_passes), "all|NAME,...", 0, 0, NULL, "all when no names follow",
     "write what each pass makes (and the stages of --emit) as one text file a pass"},
    {"dump-dir", 0, CLI_TEXT, FIELD(dump_folder), "DIR", 0, 0, NULL, "the artifact's path with .ir after it",
     "where the files of --dump-ir go"},
};

static const char details[] =
    "Compiles a model (a folder with config.json and safetensors files, a GGUF file, or a graph in JSON) into\n"
    "one file that holds machine code, weights and tokenizer, for quern run or for programs that use\n"
    "libquern_run. The file appears whole or not at all.\n"
    "A file that is there already is replaced only when it is an artifact.\n";

static const char *more_text(void) {
  static char text[4096];
  snprintf(text, sizeof text, "Targets:\n%s\nFormats: %s\n", quern_targets(), quern_quant_formats());
  return text;
}

// --- --dump-ir

enum { MAX_SEEN = 128 };

// Receives the texts of a compilation and writes those asked for.
typedef struct dump {
  const char *passes;  // "all", or names with commas between them
  const char *folder;
  unsigned written;
  char seen[MAX_SEEN][48];  // names of texts, each once
  size_t seen_count;
  int code;  // of the first failure
} dump;

// True when the comma-separated list holds the name.
static bool lists(const char *list, const char *name) {
  size_t length = strlen(name);
  for (const char *at = list; *at;) {
    size_t size = strcspn(at, ",");
    if (size == length && memcmp(at, name, size) == 0) return true;
    at += size + (at[size] == ',');
  }
  return false;
}

static void note_name(dump *d, const char *name) {
  for (size_t i = 0; i < d->seen_count; i++) {
    if (strcmp(d->seen[i], name) == 0) return;
  }
  if (d->seen_count < MAX_SEEN) snprintf(d->seen[d->seen_count++], sizeof d->seen[0], "%s", name);
}

// A quern_dump_fn.
static void write_dump(void *context, const char *name, const char *text, size_t length) {
  dump *d = context;
  note_name(d, name);
  if (d->code != 0 || (strcmp(d->passes, "all") != 0 && !lists(d->passes, name))) return;
  static const struct {
    const char *name, *ending;
  } endings[] = {{"mlir", "mlir"}, {"llvm", "ll"}, {"asm", "s"}, {"cuda", "cu"}, {"ptx", "ptx"}};
  const char *ending = "txt";
  for (size_t i = 0; i < QN_COUNT(endings); i++)
    if (strcmp(name, endings[i].name) == 0) ending = endings[i].ending;
  char path[4096];
  snprintf(path, sizeof path, "%s/%03u_%s.%s", d->folder, d->written++, name, ending);
  FILE *file = fopen(path, "wb");
  bool wrote = file && fwrite(text, 1, length, file) == length;
  if (file && fclose(file) != 0) wrote = false;
  if (!wrote) d->code = cli_fail(QN_ERR_IO, path, "cannot write: %s", strerror(errno));
}

// Names that no text had are told, since a spelling mistake would go unnoticed.
static void tell_unknown_names(const dump *d) {
  char name[48], known[1024] = "";
  for (size_t i = 0, used = 0; i < d->seen_count && used < sizeof known; i++) {
    used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", d->seen[i]);
  }
  for (const char *at = d->passes; *at;) {
    size_t size = strcspn(at, ",");
    snprintf(name, sizeof name, "%.*s", (int)size, at);
    bool found = strcmp(name, "all") == 0;
    for (size_t i = 0; i < d->seen_count; i++) found |= strcmp(d->seen[i], name) == 0;
    if (!found) fprintf(stderr, "quern: warning: --dump-ir: no text is called '%s'; there are %s\n", name, known);
    at += size + (at[size] == ',');
  }
}

static int begin_dump(dump *d, const compile_options *options) {
  static char folder[4096];
  snprintf(folder, sizeof folder, "%s.ir", options->out_path);
  *d = (dump){.passes = options->dump_passes, .folder = options->dump_folder ? options->dump_folder : folder};
  if (!d->passes) d->passes = "all";
  qn_diag diag = {0};
  quern_error error = {0};
  qn_status status = qn_make_directories(d->folder, &diag);
  snprintf(error.text, sizeof error.text, "%s", diag.text);
  return status == QN_OK ? 0 : cli_fail_with((int)status, &error);
}

// --- the command

// The text of --schedule FILE in *out_text (free with free()), or an exit code after a message.
static int read_schedule(const char *path, char **out_text) {
  qn_diag diag = {0};
  quern_error error = {0};
  size_t size;
  if (qn_file_read(path, QN_SCHEDULE_MAX, qn_allocator_default(), out_text, &size, &diag) == QN_OK) return 0;
  snprintf(error.text, sizeof error.text, "%s", diag.text);
  return cli_fail_with((int)diag.status, &error);
}

static quern_compile_options how_to_compile(const compile_options *options, const char *schedule,
                                            cli_progress *progress) {
  return (quern_compile_options){
      .size = sizeof(quern_compile_options),
      .target = options->target,
      .context_tokens = (uint32_t)options->context,
      .chunk_tokens = (uint32_t)options->chunk,
      .numeric_mode = options->numeric,
      .kv_type = options->kv_type,
      .kv_evict = options->kv_evict,
      .template_path = options->template_path,
      .schedule = schedule,
      .threads = (int)options->threads,
      .all_logits = options->all_logits,
      .guesses = options->guesses,
      .sequences = (uint32_t)options->sequences,
      .progress = cli_progress_step,
      .progress_context = progress,
      .quant = options->quant,
      .tuning_db = options->tuning_db,
      .nvrtc = options->nvrtc,
      .sign_key = options->sign_key,
      .run_threads = (int)options->run_threads,
  };
}

static void add_text(void *context, const char *name, const char *text, size_t length) {
  (void)name;
  qn_buf_append(context, text, length);
}

// --emit: the texts of one stage, when all of them are there.
static int emit(const compile_options *options, const char *model_path, const char *schedule) {
  cli_progress progress;
  qn_buf text;
  quern_error error = {0};
  cli_progress_init(&progress, options->common.quiet);
  qn_buf_init(&text, qn_allocator_default());
  quern_compile_options how = how_to_compile(options, schedule, &progress);
  how.dump = add_text;
  how.dump_context = &text;
  cli_catch_signals();
  int code = quern_emit(model_path, options->emit, &how, &error);
  cli_progress_end(&progress);
  if (code == QN_ERR_CANCELLED && cli_interrupted()) {
    code = cli_interrupt_code();
  } else if (code != 0) {
    code = cli_fail_with(code, &error);
  } else {
    code = cli_json_save(&text, options->out_path ? options->out_path : "-", "--emit");
  }
  qn_buf_deinit(&text);
  return code;
}

// --emit=object
static int emit_object(const compile_options *options, const char *model_path, const char *schedule) {
  cli_progress progress;
  cli_quant_table table = {0};
  quern_tuning_use use = {.size = sizeof use};
  quern_error error = {0};
  cli_progress_init(&progress, options->common.quiet);
  quern_compile_options how = how_to_compile(options, schedule, &progress);
  how.quantized = cli_quant_table_add;
  how.quantized_context = &table;
  quern_object_options object = {.size = sizeof object, .name = options->name, .weights_path = options->weights};
  how.tuning_use = &use;
  cli_catch_signals();
  int code = quern_compile_object(model_path, options->out_path, &object, &how, &error);
  cli_progress_end(&progress);
  if (code == 0 && !options->common.quiet) cli_quant_table_print(&table, true);
  cli_quant_table_free(&table);
  if (code == QN_ERR_CANCELLED && cli_interrupted()) return cli_interrupt_code();
  if (code != 0) return cli_fail_with(code, &error);
  if (options->common.quiet) return 0;
  cli_tell_tuning(&use);
  fprintf(stderr, "quern: %s compiled into the object file %s in %.1f s; its header tells how to call it\n", model_path,
          options->out_path, cli_progress_seconds(&progress));
  return 0;
}

static int compile(const compile_options *options, const char *model_path, const char *schedule) {
  cli_progress progress;
  dump d = {0};
  cli_quant_table table = {0};
  quern_tuning_use use = {.size = sizeof use};
  cli_progress_init(&progress, options->common.quiet);
  quern_compile_options how = how_to_compile(options, schedule, &progress);
  how.quantized = cli_quant_table_add;
  how.quantized_context = &table;
  how.tuning_use = &use;
  if (options->dump_passes || options->dump_folder) {
    int code = begin_dump(&d, options);
    if (code != 0) return code;
    how.dump = write_dump;
    how.dump_context = &d;
  }
  quern_error error = {0};
  cli_catch_signals();
  int code = quern_compile(model_path, options->out_path, &how, &error);
  cli_progress_end(&progress);
  if (code == 0 && !options->common.quiet) cli_quant_table_print(&table, true);
  cli_quant_table_free(&table);
  if (code == QN_ERR_CANCELLED && cli_interrupted()) return cli_interrupt_code();
  if (code != 0) return cli_fail_with(code, &error);
  if (how.dump) tell_unknown_names(&d);
  if (!options->common.quiet) {
    cli_tell_tuning(&use);
    fprintf(stderr, "quern: %s compiled into %s in %.1f s\n", model_path, options->out_path,
            cli_progress_seconds(&progress));
  }
  return d.code;
}

static int run(void *context, const char *model_path) {
  const compile_options *options = context;
  if (options->emit && (options->dump_passes || options->dump_folder))
    return cli_fail(QN_ERR_ARGUMENT, "--emit", "got --dump-ir too, which goes with an artifact; want one of them");
  bool object = options->emit && strcmp(options->emit, "object") == 0;
  if (!object && (options->name || options->weights))
    return cli_fail(QN_ERR_ARGUMENT, options->name ? "--name" : "--weights", "goes with --emit=object alone");
  if (!options->out_path && (object || !options->emit))
    return cli_fail(QN_ERR_ARGUMENT, "compile", "got no -o FILE, want the %s to write",
                    object ? "object file" : "artifact");
  if (options->out_path && !*options->out_path)
    return cli_fail(QN_ERR_ARGUMENT, "--output", "got an empty name, want the file to write");
  if (quern_is_artifact(model_path)) {
    return cli_fail(QN_ERR_ARGUMENT, model_path, "is an artifact already; want a model file to compile");
  }
  if (options->out_path && cli_same_file(model_path, options->out_path)) {
    return cli_fail(QN_ERR_ARGUMENT, "--output", "got the model file itself, want another file");
  }
  char *schedule = NULL;
  int code = options->schedule_path ? read_schedule(options->schedule_path, &schedule) : 0;
  if (code == 0 && object) {
    code = emit_object(options, model_path, schedule);
  } else if (code == 0 && options->emit) {
    code = emit(options, model_path, schedule);
  } else if (code == 0) {
    code = compile(options, model_path, schedule);
  }
  free(schedule);
  return code;
}

const cli_command cli_compile_command = {
    .name = "compile",
    .operands = "MODEL -o OUT.qn",
    .summary = "compiles a model file into an artifact",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(compile_options),
    .operand_name = "a model file",
    .more = more_text,
    .run = run,
};
