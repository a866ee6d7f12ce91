// quern machine: what this machine can do, measured once and kept.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frontend/cli/cli.h"
#include "frontend/cli/json.h"
#include "frontend/cli/progress.h"
#include "frontend/cli/roofline.h"
#include "runtime/base/file.h"

typedef struct machine_options {
  cli_common common;
  const char *db, *json_path, *svg_path;
  double budget;
  bool fresh;
} machine_options;

#define FIELD(name) offsetof(machine_options, name)
static const cli_option options_table[] = {
    {"fresh", 0, CLI_FLAG, FIELD(fresh), NULL, 0, 0, NULL, NULL, "measure again, whatever is stored"},
    {"budget", 0, CLI_REAL, FIELD(budget), "SECONDS", 0, 3600, NULL, "4",
     "how long to measure, beside compiling; everything is measured at least once"},
    {"svg", 0, CLI_TEXT, FIELD(svg_path), "FILE", 0, 0, NULL, NULL, "write the roofline as SVG"},
    {"json", 0, CLI_TEXT, FIELD(json_path), "FILE", 0, 0, NULL, NULL,
     "write everything as one JSON object; - is standard output, where it takes the table's place"},
    {"db", 0, CLI_TEXT, FIELD(db), "FILE", 0, 0, NULL, "the user's own",
     "the tuning database to keep it in; none keeps nothing"},
};

static const char details[] =
    "Tells what this machine is and how fast: reading its caches and memory, on huge pages and on small ones,\n"
    "multiply-adds of f32, of bf16 and of 8-bit integers, and what it costs that threads meet, by number of\n"
    "threads. It is measured by kernels compiled like a model's, in a few seconds, the first time or with\n"
    "--fresh, and kept in the tuning database under the fingerprint of the machine: compile chooses schedules\n"
    "by it, run and bench take its settings where their options say nothing else.\n"
    "bf16 is f32 multiply-adds with an operand widened from bf16, as kernels have it: instructions that\n"
    "multiply bf16 themselves (vdpbf16ps, bfdot) round differently, and are outside of the numeric contract.\n";

// --- the table

static void put_bytes(qn_buf *out, uint64_t bytes) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  double value = (double)bytes;
  for (; value >= 1024 && unit + 1 < QN_COUNT(units); unit++) value /= 1024;
  qn_buf_printf(out, value == (double)(int64_t)value ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

static void put_count(qn_buf *out, int count, const char *what) {
  qn_buf_printf(out, "%d %s%s", count, what, count > 1 ? "s" : "");
}

static void put_topology(const quern_machine_profile *p, qn_buf *out) {
  qn_buf_printf(out, "processor    %s\ncores        ", p->cpu[0] ? p->cpu : "not told by the system");
  qn_buf_printf(out, "%d of %d, ", p->cores, p->machine_cores);
  put_count(out, p->cpus, "CPU");
  qn_buf_puts(out, ", ");
  put_count(out, p->packages, "package");
  qn_buf_puts(out, ", ");
  put_count(out, p->numa_nodes, "NUMA node");
  if (p->memory_bytes > 0) {
    qn_buf_puts(out, ", ");
    put_bytes(out, p->memory_bytes);
  }
  qn_buf_puts(out, "\ncaches       ");
  for (int i = 0; i < p->cache_count; i++) {
    const quern_cache *c = &p->caches[i];
    qn_buf_printf(out, "%sL%d ", i ? ", " : "", c->level);
    put_bytes(out, c->bytes);
    if (c->cores > 1) qn_buf_printf(out, " for %d cores", c->cores);
    if (c->count > 1) qn_buf_printf(out, " (%d of them)", c->count);
  }
  if (p->cache_count == 0) qn_buf_puts(out, "not told by the system");
  qn_buf_printf(out, "\nfeatures     %s\nfingerprint  %s\n", p->features, p->fingerprint);
}

static void put_date(const quern_machine_profile *p, qn_buf *out) {
  char date[32] = "?";
  time_t when = (time_t)p->measured_at;
  struct tm local;
  if (localtime_r(&when, &local)) strftime(date, sizeof date, "%Y-%m-%d %H:%M", &local);
  qn_buf_printf(out, "measured     %s with code for %s%s\n", date, p->target,
                p->stored ? "; quern machine --fresh measures again" : "");
}

static void put_row(const quern_machine_profile *p, const char *name, const double *values, double unit, qn_buf *out) {
  qn_buf_printf(out, "%-26s", name);
  for (int i = 0; i < p->count; i++) {
    double value = values[i] * unit;
    if (value <= 0) {
      qn_buf_printf(out, " %9s", "-");
      continue;
    }
    qn_buf_printf(out, value >= 100 ? " %9.0f" : value >= 10 ? " %9.1f" : " %9.2f", value);
  }
  qn_buf_putc(out, '\n');
}

static void put_speeds(const quern_machine_profile *p, qn_buf *out) {
  static const char *const levels[QUERN_LEVELS] = {"L1", "L2", "L3", "memory"};
  char name[40];
  qn_buf_printf(out, "\n%-26s", "threads");
  for (int i = 0; i < p->count; i++) qn_buf_printf(out, " %9d", p->thread_counts[i]);
  qn_buf_putc(out, '\n');
  for (int level = 0; level < QUERN_LEVELS; level++) {
    for (int pages = 0; pages < 2; pages++) {
      if (p->read[level][pages][0] <= 0) continue;
      snprintf(name, sizeof name, "read %s%s, GB/s", levels[level], pages ? ", small pages" : "");
      put_row(p, name, p->read[level][pages], 1e-9, out);
    }
  }
  put_row(p, "fma, Gop/s", p->fma, 1e-9, out);
  put_row(p, "bf16 widened, Gop/s", p->bf16, 1e-9, out);
  put_row(p, "int8, Gop/s", p->int8, 1e-9, out);
  put_row(p, "int8 of few bits, Gop/s", p->narrow, 1e-9, out);
  put_row(p, "barrier, us", p->barrier_s, 1e6, out);
  put_row(p, "share of work, us", p->piece_s, 1e6, out);
  put_row(p, "memory, % of all threads", p->read_part, 100, out);
  put_row(p, "int8, % of all threads", p->int8_part, 100, out);
  qn_buf_printf(out,
                "\none thread   %.2f GHz by its vector adds, fma latency %.1f cycles, int8 by form: unsigned %.0f, "
                "signed %.0f, in pairs %.0f Gop/s",
                1e-9 * p->cycles_per_s, p->fma_latency, 1e-9 * p->dots[0], 1e-9 * p->dots[1], 1e-9 * p->dots[2]);
  if (p->ahead_gain > 0 && p->far_gain > 0) {
    qn_buf_printf(out, "; prefetches make reading weights %.2f times as fast, three tokens' into the second cache %.2f",
                  p->ahead_gain, p->far_gain);
  }
  qn_buf_putc(out, '\n');
  qn_buf_printf(out, "all threads  a barrier of sleepers %.1f us; reading memory, ", 1e6 * p->wake_s);
  if (p->huge_gain > 0 && p->moving_gain > 0) {
    qn_buf_printf(out, "huge pages give %.2f of small ones, threads that may move %.2f of pinned ones\n", p->huge_gain,
                  p->moving_gain);
  } else {
    qn_buf_puts(out, "the machine was too busy to compare pages and pinning: use --fresh when it is quiet\n");
  }
}

static void put_settings(const quern_machine_profile *p, qn_buf *out) {
  static const char *const pages[] = {"madvise", "off", "thp", "hugetlb"};
  const quern_machine_settings *s = &p->settings;
  qn_buf_printf(out, "settings     %d thread%s for prompts, %d for tokens; %s; huge pages %s; ", s->threads_prefill,
                s->threads_prefill > 1 ? "s" : "", s->threads_decode, s->pin ? "pinned" : "not pinned",
                pages[s->huge_pages]);
  if (s->spin_us < 0) {
    qn_buf_puts(out, "who waits sleeps at once\n\n");
  } else {
    qn_buf_printf(out, "who waits spins for %lld us\n\n", (long long)s->spin_us);
  }
}

// --- JSON

static void json_rates(cli_json *json, const char *name, const double *values, int count) {
  cli_json_begin(json, name, '[');
  for (int i = 0; i < count; i++) cli_json_precise(json, NULL, values[i]);
  cli_json_end(json, ']');
}

static void json_topology(cli_json *json, const quern_machine_profile *p) {
  cli_json_text(json, "processor", qn_str_from(p->cpu));
  cli_json_text(json, "features", qn_str_from(p->features));
  cli_json_text(json, "fingerprint", qn_str_from(p->fingerprint));
  cli_json_int(json, "packages", p->packages);
  cli_json_int(json, "numa_nodes", p->numa_nodes);
  cli_json_int(json, "machine_cores", p->machine_cores);
  cli_json_int(json, "cores", p->cores);
  cli_json_int(json, "cpus", p->cpus);
  cli_json_int(json, "memory_bytes", (int64_t)p->memory_bytes);
  cli_json_begin(json, "caches", '[');
  for (int i = 0; i < p->cache_count; i++) {
    cli_json_begin(json, NULL, '{');
    cli_json_int(json, "level", p->caches[i].level);
    cli_json_int(json, "bytes", (int64_t)p->caches[i].bytes);
    cli_json_int(json, "line_bytes", p->caches[i].line_bytes);
    cli_json_int(json, "count", p->caches[i].count);
    cli_json_int(json, "cores", p->caches[i].cores);
    cli_json_end(json, '}');
  }
  cli_json_end(json, ']');
}

static void json_speeds(cli_json *json, const quern_machine_profile *p) {
  static const char *const levels[QUERN_LEVELS] = {"read_l1", "read_l2", "read_l3", "read_memory"};
  static const char *const small[QUERN_LEVELS] = {"read_l1_small", "read_l2_small", "read_l3_small",
                                                  "read_memory_small"};
  cli_json_text(json, "target", qn_str_from(p->target));
  cli_json_int(json, "measured_at", p->measured_at);
  cli_json_text(json, "from", qn_str_from(p->stored ? "database" : "measurement"));
  cli_json_begin(json, "threads", '[');
  for (int i = 0; i < p->count; i++) cli_json_int(json, NULL, p->thread_counts[i]);
  cli_json_end(json, ']');
  for (int level = 0; level < QUERN_LEVELS; level++) {
    json_rates(json, levels[level], p->read[level][0], p->count);
    json_rates(json, small[level], p->read[level][1], p->count);
  }
  json_rates(json, "fma", p->fma, p->count);
  json_rates(json, "bf16_widened", p->bf16, p->count);
  json_rates(json, "int8", p->int8, p->count);
  json_rates(json, "int8_narrow", p->narrow, p->count);
  json_rates(json, "int8_by_form", p->dots, 3);
  json_rates(json, "barrier_s", p->barrier_s, p->count);
  json_rates(json, "piece_s", p->piece_s, p->count);
  json_rates(json, "read_part", p->read_part, p->count);
  json_rates(json, "int8_part", p->int8_part, p->count);
  cli_json_precise(json, "huge_gain", p->huge_gain);
  cli_json_precise(json, "moving_gain", p->moving_gain);
  cli_json_precise(json, "ahead_gain", p->ahead_gain);
  cli_json_precise(json, "far_gain", p->far_gain);
  cli_json_precise(json, "wake_s", p->wake_s);
  cli_json_precise(json, "cycles_per_s", p->cycles_per_s);
  cli_json_precise(json, "fma_latency", p->fma_latency);
  cli_json_precise(json, "vector_ops", p->vector_ops);
  cli_json_precise(json, "huge_bytes", p->huge_bytes);
}

static void put_json(const quern_machine_profile *p, qn_buf *out) {
  cli_json json = {.out = out};
  cli_json_begin(&json, NULL, '{');
  json_topology(&json, p);
  json_speeds(&json, p);
  cli_json_begin(&json, "settings", '{');
  cli_json_int(&json, "threads_prefill", p->settings.threads_prefill);
  cli_json_int(&json, "threads_decode", p->settings.threads_decode);
  cli_json_int(&json, "pin", p->settings.pin);
  cli_json_int(&json, "huge_pages", (int64_t)p->settings.huge_pages);
  cli_json_int(&json, "spin_us", p->settings.spin_us);
  cli_json_int(&json, "grain", p->settings.grain);
  cli_json_end(&json, '}');
  cli_json_end(&json, '}');
  qn_buf_putc(out, '\n');
}

// --- the command

static int write_file(const char *path, const qn_buf *text) {
  qn_file_writer file;
  qn_diag diag = {0};
  qn_status status = qn_file_writer_open(&file, path, &diag);
  if (status == QN_OK) {
    status = qn_file_writer_write(&file, qn_buf_text(text), text->length);
    if (status == QN_OK) status = qn_file_writer_commit(&file);
    qn_file_writer_abandon(&file);
  }
  if (status == QN_OK) return 0;
  quern_error error = {.code = (int)status};
  snprintf(error.text, sizeof error.text, "%s", diag.text);
  return cli_fail_with((int)status, &error);
}

// Everything that was asked for. `text` is empty before and after.
static int put_all(const machine_options *o, const quern_machine_profile *p, qn_buf *text) {
  bool json_out = o->json_path && strcmp(o->json_path, "-") == 0;
  int code = 0;
  if (!json_out) {
    put_topology(p, text);
    put_date(p, text);
    put_speeds(p, text);
    put_settings(p, text);
    cli_roofline_text(p, p->count - 1, text);
    cli_out(qn_buf_text(text), text->length);
  }
  bool failed = text->failed;
  text->length = 0;
  if (o->json_path) {
    put_json(p, text);
    if (json_out) cli_out(qn_buf_text(text), text->length);
    if (!json_out && !text->failed) code = write_file(o->json_path, text);
    text->length = 0;
  }
  if (o->svg_path && code == 0) {
    cli_roofline_svg(p, p->count - 1, text);
    if (!text->failed) code = write_file(o->svg_path, text);
  }
  if (code == 0 && (failed || text->failed)) code = cli_fail(QN_ERR_NOMEM, "machine", "out of memory for its table");
  int out_code = cli_out_end();
  return code ? code : out_code;
}

static int run(void *context, const char *operand) {
  const machine_options *o = context;
  if (operand) return cli_fail(QN_ERR_ARGUMENT, "machine", "got '%s', want no file; see quern machine --help", operand);
  cli_progress progress;
  quern_error error = {0};
  cli_progress_init(&progress, o->common.quiet);
  quern_machine_options options = {.size = sizeof options,
                                   .tuning_db = o->db,
                                   .fresh = o->fresh,
                                   .budget_s = o->budget > 0 ? o->budget : 1e-3,
                                   .progress = cli_progress_step,
                                   .progress_context = &progress};
  quern_machine_profile *profile = calloc(1, sizeof *profile);
  if (!profile) return cli_fail(QN_ERR_NOMEM, "machine", "out of memory for its profile");
  profile->size = sizeof *profile;
  cli_catch_signals();
  int code = quern_machine_get_profile(&options, profile, &error);
  cli_progress_end(&progress);
  if (profile->note[0] && !o->common.quiet) fprintf(stderr, "quern: note: %s\n", profile->note);
  int put_code = 0;
  if (profile->count > 0) {
    qn_buf text;
    qn_buf_init(&text, qn_allocator_default());
    put_code = put_all(o, profile, &text);
    qn_buf_deinit(&text);
  }
  free(profile);
  if (cli_interrupted()) return cli_interrupt_code();
  return code != 0 ? cli_fail_with(code, &error) : put_code;
}

const cli_command cli_machine_command = {
    .name = "machine",
    .operands = "",
    .summary = "tells how fast this machine is, and keeps it",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(machine_options),
    .operand_name = "no file",
    .operand_optional = true,
    .run = run,
};
