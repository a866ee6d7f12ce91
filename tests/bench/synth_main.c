// quern-synth: writes a synthetic GGUF model at the true shape of a real one, for benchmarks and end-to-end tests.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/synth.h"

static int usage(FILE *to, int code) {
  fprintf(to,
          "usage: quern-synth --model NAME --type TYPE [--layers N] [--seed S] -o OUT.gguf\n"
          "  types: ");
  for (size_t i = 0; qn_synth_type_at(i) != NULL; i++) fprintf(to, " %s", qn_synth_type_at(i)->name);
  fprintf(to, "\n  models:");
  for (size_t i = 0; qn_synth_at(i) != NULL; i++) fprintf(to, " %s", qn_synth_at(i)->name);
  fprintf(to, "\n");
  return code;
}

static int fail(const char *option, const char *got, const char *want) {
  fprintf(stderr, "quern-synth: %s: got '%s', want %s\n", option, got, want);
  return QN_ERR_ARGUMENT;
}

// A whole decimal number of at most `max`.
static bool parse_number(const char *text, uint64_t max, uint64_t *out) {
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || value > max) return false;
  *out = value;
  return true;
}

// Reads one option and its value into options or *out_path; 0 or an exit code.
static int read_option(const char *option, const char *value, qn_synth_options *options, const char **out_path) {
  uint64_t number;
  if (strcmp(option, "--model") == 0) {
    options->model = qn_synth_find(value);
    if (options->model == NULL) return fail(option, value, "a model that quern-synth --help lists");
  } else if (strcmp(option, "--type") == 0) {
    options->type = qn_synth_type_find(value);
    if (options->type == NULL) return fail(option, value, "a type that quern-synth --help lists");
  } else if (strcmp(option, "--layers") == 0) {
    if (!parse_number(value, 1000, &number) || number == 0) return fail(option, value, "a number from 1 to 1000");
    options->layers = (int)number;
  } else if (strcmp(option, "--seed") == 0) {
    if (!parse_number(value, UINT64_MAX, &options->seed)) return fail(option, value, "a whole number");
  } else if (strcmp(option, "-o") == 0) {
    *out_path = value;
  } else {
    fprintf(stderr, "quern-synth: unknown option '%s'\n", option);
    return usage(stderr, QN_ERR_ARGUMENT);
  }
  return 0;
}

int main(int argc, char **argv) {
  qn_synth_options options = {.seed = 1};
  const char *path = NULL;
  for (int i = 1; i < argc; i += 2) {
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return usage(stdout, 0);
    if (i + 1 == argc) return fail(argv[i], "nothing", "a value after it");
    int code = read_option(argv[i], argv[i + 1], &options, &path);
    if (code != 0) return code;
  }
  if (options.model == NULL || options.type == NULL || path == NULL) return usage(stderr, QN_ERR_ARGUMENT);
  qn_diag diag = {0};
  qn_status status = qn_synth_save(&options, path, qn_allocator_default(), &diag);
  if (status != QN_OK) fprintf(stderr, "quern-synth: %s\n", diag.text);
  return status;
}
