// quern inspect: what is in a model file or an artifact, as text.
#include <stdlib.h>
#include <string.h>

#include "frontend/cli/cli.h"

typedef struct inspect_options {
  cli_common common;
  const char *what;
  uint64_t batch, context;
  const char *kv_type;
  bool check_weights;
} inspect_options;

#define FIELD(name) offsetof(inspect_options, name)
static const cli_option options_table[] = {
    {"what", 'w', CLI_TEXT, FIELD(what), "PART,...", 0, 0, NULL, "summary", "the parts to show; see below"},
    {"check-weights", 0, CLI_FLAG, FIELD(check_weights), NULL, 0, 0, NULL, NULL,
     "read all weights of an artifact and compare them with their hash (the other sections always are)"},
    {"batch", 0, CLI_COUNT, FIELD(batch), "N", 1, INT32_MAX, NULL, NULL,
     "only tell what the KV cache of so many sequences takes, before anything is compiled or allocated"},
    {"ctx", 'c', CLI_COUNT, FIELD(context), "N", 1, INT32_MAX, NULL, NULL,
     "the same for sequences of so many tokens; without it of as many as the file allows"},
    {"kv-type", 0, CLI_TEXT, FIELD(kv_type), "TYPE", 0, 0, NULL, NULL,
     "the same for keys and values of this type, as quern compile takes it"},
};

static const char details[] =
    "Tells what is in an artifact (OUT.qn) or in a model (a folder with config.json and safetensors files,\n"
    "a GGUF file, a graph in JSON).\n";

static const char *parts_text(void) {
  return "Parts:\n"
         "  summary   where it comes from, sizes, targets, kernels, memory, tokenizer in a few lines\n"
         "  metadata  model file: every key with its value; artifact: what it noted of its model\n"
         "  tensors   name, type, shape, place and size of every tensor\n"
         "  graph     the graph in the IR's text form; artifact: after fusion\n"
         "  kernels   artifact: every kernel with its variants, schedules and steps\n"
         "  loops     artifact: the program and every kernel in loop IR\n"
         "  memory    artifact: the memory plan, buffer by buffer, and the bytes of the KV cache\n"
         "  targets   artifact: what it holds code for, and whether this machine runs it\n"
         "  sections  artifact: place, size and hash of every section\n"
         "  all       all of these that the file has\n";
}

static int inspect_kv(const inspect_options *options, const char *path) {
  quern_inspect_kv_options kv = {.size = sizeof kv,
                                 .sequences = (int32_t)options->batch,
                                 .context = (int64_t)options->context,
                                 .kv_type = options->kv_type};
  char *text = NULL;
  quern_error error = {0};
  if (options->what || options->check_weights)
    return cli_fail(QN_ERR_ARGUMENT, options->what ? "--what" : "--check-weights",
                    "makes no sense with --batch, --ctx and --kv-type");
  int code = quern_inspect_kv(path, &kv, &text, &error);
  if (code != 0) return cli_fail_with(code, &error);
  cli_out(text, strlen(text));
  free(text);
  return cli_out_end();
}

static int run(void *context, const char *path) {
  const inspect_options *options = context;
  if (options->batch || options->context || options->kv_type) return inspect_kv(options, path);
  qn_buf what;
  qn_buf_init(&what, qn_allocator_default());
  qn_buf_puts(&what, options->what ? options->what : "summary");
  if (options->check_weights) qn_buf_puts(&what, ",check");
  char *text = NULL;
  quern_error error = {0};
  int code = what.failed ? QN_ERR_NOMEM : quern_inspect(path, qn_buf_text(&what), &text, &error);
  qn_buf_deinit(&what);
  if (code != 0) return cli_fail_with(code, &error);
  cli_out(text, strlen(text));
  free(text);
  return cli_out_end();
}

const cli_command cli_inspect_command = {
    .name = "inspect",
    .operands = "FILE",
    .summary = "tells what is in an artifact or a model file",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(inspect_options),
    .operand_name = "an artifact or a model file",
    .more = parts_text,
    .run = run,
};
