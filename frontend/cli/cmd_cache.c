// quern cache: what is in the cache of compiled models, and emptying it.
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frontend/cli/cli.h"
#include "frontend/cli/json.h"

typedef struct cache_options {
  cli_common common;
  const char *keep;
  bool json;
} cache_options;

#define FIELD(name) offsetof(cache_options, name)
static const cli_option options_table[] = {
    {"keep", 0, CLI_TEXT, FIELD(keep), "SIZE", 0, 0, NULL, "0",
     "clear: leave what was used last, up to this size together: 20G, 500M, or bytes"},
    {"json", 0, CLI_FLAG, FIELD(json), NULL, 0, 0, NULL, NULL, "list: one JSON object instead of the table"},
};

static const char details[] =
    "quern run keeps what it compiled in $XDG_CACHE_HOME/quern, or ~/.cache/quern, a folder that the user alone\n"
    "may enter, and there, in nvrtc, what NVRTC made of kernels for GPUs. Together they take at most\n"
    "$QUERN_CACHE_LIMIT (\"20G\"; \"0\" = no limit; 32 GiB without it): those not used for the longest time go. The\n"
    "folder may be deleted at any time.\n"
    "  list    tells what is in it, what was used last first\n"
    "  clear   removes all of it, and what compilations that were killed have left\n";

// "20G", "500M", "1048576".
static int read_size(const char *text, uint64_t *out) {
  static const char units[] = "KMGT";
  char *end = NULL;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  const char *unit = *end ? strchr(units, *end) : NULL;
  unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
  if (!isdigit((unsigned char)*text) || errno != 0 || (*end && (!unit || end[1])) || value > UINT64_MAX >> shift)
    return cli_fail(QN_ERR_ARGUMENT, "--keep", "got '%s', want a size: 20G, 500M, or bytes", text);
  *out = (uint64_t)value << shift;
  return 0;
}

static void put_mib(qn_buf *out, uint64_t bytes) { qn_buf_printf(out, "%10.1f MiB", (double)bytes / 1048576); }

static bool is_artifact(const quern_cache_entry *e) { return strcmp(e->kind, "artifact") == 0; }

// A line an artifact; results of NVRTC, of which a model has many, in one.
static void put_table(qn_buf *out, const quern_cache_listing *l) {
  size_t artifacts = 0;
  uint64_t other_bytes = 0;
  for (size_t i = 0; i < l->count; i++) {
    const quern_cache_entry *e = &l->entries[i];
    if (!is_artifact(e)) other_bytes += e->bytes;
    if (!is_artifact(e)) continue;
    artifacts++;
    char when[32] = "";
    time_t used = (time_t)e->used_at;
    struct tm parts;
    if (localtime_r(&used, &parts)) strftime(when, sizeof when, "%Y-%m-%d %H:%M", &parts);
    put_mib(out, e->bytes);
    qn_buf_printf(out, "  %-16s  %s\n", when, e->path);
  }
  if (artifacts < l->count) {
    put_mib(out, other_bytes);
    qn_buf_printf(out, "  %zu results of NVRTC\n", l->count - artifacts);
  }
  put_mib(out, l->bytes);
  qn_buf_printf(out, "  in %zu artifacts", artifacts);
  if (l->limit != UINT64_MAX) qn_buf_printf(out, ", of at most %.1f MiB", (double)l->limit / 1048576);
  qn_buf_printf(out, "; %s\n", l->folder);
}

static void put_json_entries(cli_json *json, const quern_cache_listing *l, const char *name, const char *of,
                             bool artifacts) {
  cli_json_begin(json, name, '[');
  for (size_t i = 0; i < l->count; i++) {
    const quern_cache_entry *e = &l->entries[i];
    if (is_artifact(e) != artifacts) continue;
    cli_json_begin(json, NULL, '{');
    cli_json_text(json, "path", qn_str_from(e->path));
    cli_json_text(json, of, qn_str_from(e->model));
    cli_json_int(json, "bytes", (int64_t)e->bytes);
    cli_json_int(json, "used_at", e->used_at);
    cli_json_end(json, '}');
  }
  cli_json_end(json, ']');
}

static void put_json(qn_buf *out, const quern_cache_listing *l) {
  cli_json json = {.out = out};
  cli_json_begin(&json, NULL, '{');
  cli_json_text(&json, "folder", qn_str_from(l->folder));
  cli_json_int(&json, "bytes", (int64_t)l->bytes);
  if (l->limit != UINT64_MAX) cli_json_int(&json, "limit", (int64_t)l->limit);
  put_json_entries(&json, l, "artifacts", "model", true);
  put_json_entries(&json, l, "nvrtc", "chip", false);
  cli_json_end(&json, '}');
  qn_buf_putc(out, '\n');
}

static int list(const cache_options *options) {
  quern_error error = {0};
  quern_cache_listing listing = {.size = sizeof listing};
  int code = quern_cache_list(&listing, &error);
  if (code != 0) return cli_fail_with(code, &error);
  qn_buf out;
  qn_buf_init(&out, qn_allocator_default());
  (options->json ? put_json : put_table)(&out, &listing);
  bool failed = out.failed;
  cli_out(qn_buf_text(&out), out.length);
  qn_buf_deinit(&out);
  quern_cache_listing_free(&listing);
  return failed ? cli_fail(QN_ERR_NOMEM, "cache", "out of memory for the list") : cli_out_end();
}

static int clear(const cache_options *options) {
  quern_error error = {0};
  uint64_t keep = 0, removed = 0;
  int code = options->keep ? read_size(options->keep, &keep) : 0;
  if (code != 0) return code;
  code = quern_cache_clear(keep, &removed, &error);
  if (code != 0) return cli_fail_with(code, &error);
  if (!options->common.quiet) fprintf(stderr, "quern: removed %.1f MiB\n", (double)removed / 1048576);
  return 0;
}

static int run(void *context, const char *what) {
  const cache_options *options = context;
  bool lists = what && strcmp(what, "list") == 0, clears = what && strcmp(what, "clear") == 0;
  if (lists && options->keep) return cli_fail(QN_ERR_ARGUMENT, "--keep", "is for clear, got list");
  if (clears && options->json) return cli_fail(QN_ERR_ARGUMENT, "--json", "is for list, got clear");
  if (lists) return list(options);
  if (clears) return clear(options);
  return cli_fail(QN_ERR_ARGUMENT, "cache", "got %s, want list or clear", what ? what : "nothing");
}

const cli_command cli_cache_command = {
    .name = "cache",
    .operands = "list|clear",
    .summary = "tells what compiled models are kept, or removes them",
    .details = details,
    .options = options_table,
    .option_count = QN_COUNT(options_table),
    .options_size = sizeof(cache_options),
    .operand_name = "list or clear",
    .operand_choices = "list|clear",
    .operand_optional = true,
    .run = run,
};
