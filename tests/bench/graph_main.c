// quern-graph: times steps of an artifact that is no language model: binds made-up inputs, runs the program over and
// over, and prints the seconds of each step as one JSON object. With --output it writes an output's values too, so that
// what was timed can be checked.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/base/file.h"
#include "runtime/executor.h"

static int usage(FILE *to, int code) {
  fprintf(
      to,
      "usage: quern-graph ARTIFACT [--threads N] [--rows N] [--seconds S] [--steps N] [--input FILE] [--output FILE]\n"
      "  --threads  one a core by default\n"
      "  --rows     T, the rows of a step; 1 by default\n"
      "  --seconds  how long to measure, at least; 0.5 by default\n"
      "  --steps    how many steps to measure, at least; 10 by default\n"
      "  --input    raw f32 values for the program's one input; else numbers between -1 and 1\n"
      "  --output   where to write the program's one output, raw f32, row after row\n");
  return code;
}

typedef struct settings {
  const char *path, *input, *output;
  int threads;
  int64_t rows, steps;
  double seconds;
} settings;

static int read_settings(int argc, char **argv, settings *out) {
  *out = (settings){.rows = 1, .steps = 10, .seconds = 0.5};
  for (int i = 1; i < argc; i++) {
    const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(name, "--help") == 0) return usage(stdout, -1);
    if (name[0] != '-') {
      out->path = name;
      continue;
    }
    if (!value) return usage(stderr, QN_ERR_ARGUMENT);
    if (strcmp(name, "--threads") == 0) {
      out->threads = atoi(value);
    } else if (strcmp(name, "--rows") == 0) {
      out->rows = atoll(value);
    } else if (strcmp(name, "--steps") == 0) {
      out->steps = atoll(value);
    } else if (strcmp(name, "--seconds") == 0) {
      out->seconds = atof(value);
    } else if (strcmp(name, "--input") == 0) {
      out->input = value;
    } else if (strcmp(name, "--output") == 0) {
      out->output = value;
    } else {
      return usage(stderr, QN_ERR_ARGUMENT);
    }
    i++;
  }
  return out->path && out->rows > 0 && out->steps > 0 ? 0 : usage(stderr, QN_ERR_ARGUMENT);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// Elements of a row (all dimensions but the first).
static int64_t row_elements(const qn_art_buffer *b) {
  int64_t elements = 1;
  for (uint32_t d = 1; d < b->rank; d++) elements *= b->dims[d];
  return elements;
}

typedef struct bench {
  settings s;
  qn_artifact artifact;
  qn_threads *threads;
  qn_executor *executor;
  float *input;
  int64_t symbols[QN_ARTIFACT_SYMBOLS];
  qn_diag diag;
} bench;

static qn_status fill_input(bench *b, float *values, size_t bytes) {
  if (!b->s.input) {
    for (size_t i = 0; i < bytes / sizeof *values; i++)
      values[i] = (float)((i * 2654435761u) >> 8 & 0xffff) / 32768 - 1;
    return QN_OK;
  }
  char *data = NULL;
  size_t size = 0;
  QN_TRY(qn_file_read(b->s.input, (size_t)1 << 32, qn_allocator_default(), &data, &size, &b->diag));
  bool fits = size == bytes;
  if (fits) memcpy(values, data, size);
  qn_free(qn_allocator_default(), data, size + 1);
  return fits ? QN_OK
              : qn_fail(&b->diag, QN_ERR_ARGUMENT, b->s.input, "got %zu bytes, want %zu for the input", size, bytes);
}

static const qn_art_buffer *only(const qn_artifact *a, qn_art_buffer_kind kind, bool output) {
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    if (b->kind == (uint32_t)kind && (!output || b->output)) return b;
  }
  return NULL;
}

static qn_status open_all(bench *b) {
  QN_TRY(qn_artifact_open(&b->artifact, b->s.path, &b->diag));
  QN_TRY(qn_threads_create(b->s.threads, true, qn_allocator_default(), &b->threads, &b->diag));
  QN_TRY(qn_executor_create(&b->artifact, b->threads, NULL, qn_allocator_default(), &b->executor, &b->diag));
  const qn_art_buffer *in = only(&b->artifact, QN_ART_INPUT, false);
  if (!in) return qn_fail(&b->diag, QN_ERR_UNSUPPORTED, b->s.path, "has no input");
  size_t bytes = (size_t)(b->s.rows * row_elements(in)) * sizeof(float);
  b->input = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!b->input) return qn_fail_nomem(&b->diag, b->s.path, "an input");
  QN_TRY(fill_input(b, b->input, bytes));
  for (int i = 1; i < QN_ARTIFACT_SYMBOLS; i++) b->symbols[i] = i == 1 ? b->s.rows : 1;  // T, and one of all else
  return qn_executor_bind_input(b->executor, b->artifact.strings + in->name, b->input, &b->diag);
}

static qn_status write_output(bench *b) {
  const qn_art_buffer *out = only(&b->artifact, QN_ART_ARENA, true);
  if (!out) return qn_fail(&b->diag, QN_ERR_UNSUPPORTED, b->s.path, "has no output");
  const float *values = qn_executor_output(b->executor, b->artifact.strings + out->name, NULL);
  qn_file_writer writer;
  QN_TRY(qn_file_writer_open(&writer, b->s.output, &b->diag));
  qn_status status = QN_OK;
  for (int64_t row = 0; status == QN_OK && row < b->s.rows; row++) {
    status = qn_file_writer_write(&writer, values + row * out->row_pitch, (size_t)row_elements(out) * sizeof *values);
  }
  if (status == QN_OK) status = qn_file_writer_commit(&writer);
  qn_file_writer_abandon(&writer);
  return status;
}

static qn_status measure(bench *b) {
  QN_TRY(open_all(b));
  for (int warm = 0; warm < 3; warm++) QN_TRY(qn_executor_run(b->executor, b->symbols, QN_RUN_PROMPT, &b->diag));
  printf("{\"target\": \"%s\", \"threads\": %d, \"rows\": %" PRId64 ", \"seconds\": [", qn_executor_target(b->executor),
         qn_threads_count(b->threads), b->s.rows);
  double begin = now();
  for (int64_t i = 0; i < b->s.steps || now() - begin < b->s.seconds; i++) {
    double start = now();
    QN_TRY(qn_executor_run(b->executor, b->symbols, QN_RUN_PROMPT, &b->diag));
    printf("%s%.9g", i ? ", " : "", now() - start);
  }
  printf("]}\n");
  return b->s.output ? write_output(b) : QN_OK;
}

int main(int argc, char **argv) {
  bench b = {.executor = NULL};
  int code = read_settings(argc, argv, &b.s);
  if (code != 0) return code < 0 ? 0 : code;
  qn_status status = measure(&b);
  if (status != QN_OK) fprintf(stderr, "quern-graph: %s\n", b.diag.text);
  qn_executor_destroy(b.executor);
  qn_threads_destroy(b.threads);
  if (b.artifact.program) qn_artifact_close(&b.artifact);
  free(b.input);
  return (int)status;
}
