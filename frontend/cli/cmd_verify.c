// quern verify: checks an artifact's machine code against the loop IR that it carries, on this machine.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/cli/cli.h"
#include "frontend/cli/device.h"
#include "frontend/cli/json.h"
#include "frontend/cli/model_options.h"
#include "frontend/cli/progress.h"

typedef struct verify_options {
  cli_common common;
  const char *target, *json_path, *signed_by, *device, *libcuda;
  bool check_weights, fast, no_run;
} verify_options;

#define FIELD(name) offsetof(verify_options, name)
static const cli_option options_table[] = {
    {"target", 't', CLI_TEXT, FIELD(target), "TARGET", 0, 0, NULL, "what runs here",
     "whose code: a target's full name, as quern inspect -w targets tells it"},
    {"device", 0, CLI_TEXT, FIELD(device), "cpu|cuda[:N]", 0, 0, NULL, CLI_DEVICE_STANDARD,
     "whose code to check, and where: that for CPUs, or that for GPUs on cuda (the first GPU of NVIDIA) or cuda:N"},
    CLI_OPTION_LIBCUDA,
    {"fast", 0, CLI_FLAG, FIELD(fast), NULL, 0, 0, NULL, NULL, "as few row counts as run all code of a kernel, and one set of inputs"},
    {"check-weights", 0, CLI_FLAG, FIELD(check_weights), NULL, 0, 0, NULL, NULL,
     "read all weights too and compare them with their hash"},
    {"no-run", 0, CLI_FLAG, FIELD(no_run), NULL, 0, 0, NULL, NULL,
     "run nothing: check the file's records, the hashes and, with --require-signature, the signature"},
    CLI_OPTION_SIGNATURE,
    {"json", 0, CLI_TEXT, FIELD(json_path), "FILE", 0, 0, NULL, NULL,
     "write the results as JSON; - is standard output"},
};

static const char details[] =
    "Runs every kernel of an artifact on this machine, on inputs that are made to find mistakes, and compares\n"
    "parts of what it computes (the first, the last and random ones) with what its loop IR says, bit for bit;\n"
    "the rest must be written, and nothing else. Code for GPUs is checked with --device, and else named as not\n"
    "checked. Ends with 0 when nothing wrong was found.\n";

typedef struct printing {
  const verify_options *options;
  cli_progress progress;
  bool text;  // lines on standard output
  qn_buf json_text;
  cli_json json;
} printing;

static void put_line(const quern_verified *r) {
  qn_buf line;
  qn_buf_init(&line, qn_allocator_default());
  char rows[64];
  if (r->rows_max == INT64_MAX)
    snprintf(rows, sizeof rows, "%" PRId64 "..", r->rows_min);
  else
    snprintf(rows, sizeof rows, "%" PRId64 "..%" PRId64, r->rows_min, r->rows_max);
  qn_buf_printf(&line, "%-7s %-48s rows %-8s ", strcmp(r->verdict, "ok") == 0 ? "OK" : r->verdict, r->kernel, rows);
  for (const char *at = r->evidence; *at; at++) qn_buf_putc(&line, (unsigned char)*at < 0x20 ? '?' : *at);
  qn_buf_putc(&line, '\n');
  cli_out(qn_buf_text(&line), line.length);
  qn_buf_deinit(&line);
}

static void put_verified(void *context, const quern_verified *r) {
  printing *p = context;
  cli_progress_end(&p->progress);
  if (p->text) put_line(r);
  if (!p->options->json_path) return;
  cli_json_begin(&p->json, NULL, '{');
  cli_json_text(&p->json, "kernel", qn_str_from(r->kernel));
  cli_json_int(&p->json, "rows_min", r->rows_min);
  cli_json_int(&p->json, "rows_max", r->rows_max);
  cli_json_text(&p->json, "verdict", qn_str_from(r->verdict));
  cli_json_text(&p->json, "evidence", qn_str_from(r->evidence));
  cli_json_end(&p->json, '}');
}

static int end_json(printing *p, const char *path, const quern_verify_report *report, const quern_error *error) {
  cli_json_end(&p->json, ']');
  cli_json_text(&p->json, "file", qn_str_from(path));
  cli_json_text(&p->json, "target", qn_str_from(report->target));
  cli_json_int(&p->json, "checked", report->checked);
  cli_json_int(&p->json, "wrong", report->wrong);
  cli_json_text(&p->json, "not_checked", qn_str_from(report->unchecked));
  cli_json_text(&p->json, "error", qn_str_from(error->text));
  cli_json_real(&p->json, "seconds", cli_progress_seconds(&p->progress));
  cli_json_end(&p->json, '}');
  qn_buf_putc(&p->json_text, '\n');
  return cli_json_save(&p->json_text, p->options->json_path, "--json");
}

static int verify(printing *p, const char *path) {
  const verify_options *o = p->options;
  quern_verify_report report = {.size = sizeof report};
  quern_error error = {0};
  cli_device device;
  int found = cli_device_find(o->device, o->libcuda, NULL, 0, &device);
  if (found != 0) return found;
  quern_verify_options how = {.size = sizeof how,
                              .target = o->target,
                              .check_weights = o->check_weights,
                              .quick = o->fast,
                              .signed_by = o->signed_by,
                              .device = device.name,
                              .libcuda = device.libcuda,
                              .no_run = o->no_run,
                              .progress = cli_progress_step,
                              .progress_context = &p->progress,
                              .verified = put_verified,
                              .verified_context = p};
  p->text = !o->json_path || strcmp(o->json_path, "-") != 0;
  if (o->json_path) {
    cli_json_begin(&p->json, NULL, '{');
    cli_json_begin(&p->json, "kernels", '[');
  }
  cli_catch_signals();
  int code = quern_verify(path, &how, &report, &error);
  cli_progress_end(&p->progress);
  if (code == QN_ERR_CANCELLED && cli_interrupted()) return cli_interrupt_code();
  int saved = o->json_path ? end_json(p, path, &report, &error) : 0;
  if (code != 0) return cli_fail_with(code, &error);
  if (saved != 0) return saved;
  if (!o->common.quiet && o->no_run)
    fprintf(stderr, "quern: %s: records and hashes%s%s are right; nothing was run\n", path,
            o->check_weights ? ", also of the weights," : "", o->signed_by ? " and signature" : "");
  if (!o->common.quiet && !o->no_run)
    fprintf(stderr, "quern: %s: all %" PRIu32 " kernels for %s are right (%.1f s)\n", path, report.checked,
            report.target, cli_progress_seconds(&p->progress));
  if (!o->common.quiet && report.unchecked[0])
    fprintf(stderr, device.name ? "quern: %s: not checked: %s\n" : "quern: %s: not checked: code for GPUs (%s)\n", path,
            report.unchecked);
  return cli_out_end();
}

static int run(void *context, const char *path) {
  printing p = {.options = context};
  if (p.options->json_path && cli_same_file(p.options->json_path, path))
    return cli_fail(QN_ERR_ARGUMENT, "--json", "got the artifact itself, want another file");
  qn_buf_init(&p.json_text, qn_allocator_default());
  p.json.out = &p.json_text;
  cli_progress_init(&p.progress, p.options->common.quiet);
  int code = verify(&p, path);
  qn_buf_deinit(&p.json_text);
  return code;
}

const cli_command cli_verify_command = {
    .name = "verify",
    .operands = "OUT.qn",
    .summary = "checks an artifact's machine code on this machine",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(verify_options),
    .operand_name = "an artifact",
    .run = run,
};
