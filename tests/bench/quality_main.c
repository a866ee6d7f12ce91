// quern-quality: what quantising costs. A float model in each format that quantisers make, in both numeric modes: its
// size, the error of its matrices, the cases of a task file that it gets right, and the perplexity of a text.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/quern.h"
#include "tests/support/evaluate.h"

typedef struct quality_options {
  const char *model, *tasks, *text, *formats;
  long limit, threads;
} quality_options;

static int usage(FILE *to, int code) {
  fprintf(to,
          "usage: quern-quality MODEL [--tasks TASKS.tsv] [--text TEXT] [--formats A,B,...] [--limit N] [--threads N]\n"
          "  --tasks FILE  count the right answers of a task file (quern-tasks)\n"
          "  --text FILE   measure the perplexity of its lines, each a text of its own\n"
          "  --formats     default: all of %s\n"
          "  --limit N     take only the first N cases of each task (default: all)\n"
          "  --threads N   default: one a physical core\n",
          quern_quant_formats());
  return code;
}

// Sums over the matrices of a model.
typedef struct matrix_sums {
  double values, bytes, square_ratio;
  const char *fallback;  // a format that some got instead; NULL = none
} matrix_sums;

static void take_matrix(void *context, const quern_quantized *m) {
  matrix_sums *sums = context;
  double values = (double)m->rows * (double)m->columns;
  sums->values += values;
  sums->bytes += (double)m->bytes_after;
  sums->square_ratio += values * m->relative_rms * m->relative_rms;
  if (strcmp(m->to, m->asked) != 0) sums->fallback = m->to;
}

typedef struct measure {
  matrix_sums sums;
  long right, count;
  double perplexity;
  uint64_t tokens;
} measure;

static int measure_model(const quality_options *o, const char *format, const char *mode, measure *out,
                         quern_error *error) {
  quern_model *model = NULL;
  quern_session *session = NULL;
  *out = (measure){0};
  quern_compile_options how = {.size = sizeof how,
                               .numeric_mode = mode,
                               .all_logits = true,
                               .quant = format,
                               .quantized = take_matrix,
                               .quantized_context = &out->sums};
  quern_session_options session_options = {.size = sizeof session_options, .threads = (int)o->threads};
  int code = quern_jit(o->model, &how, &model, error);
  if (code == 0) code = (int)quern_session_create(model, &session_options, &session, error);
  if (code == 0 && o->tasks) {
    static qn_tasks_result tasks;
    code = qn_evaluate_tasks(model, session, o->tasks, o->limit, NULL, &tasks, error);
    for (size_t i = 0; i < tasks.count; i++) {
      out->right += tasks.tasks[i].right;
      out->count += tasks.tasks[i].count;
    }
  }
  if (code == 0 && o->text) {
    code = qn_evaluate_perplexity(model, session, o->text, &out->perplexity, &out->tokens, error);
  }
  quern_session_destroy(session);
  quern_model_close(model);
  return code;
}

static void print_head(const quality_options *o) {
  printf("| format | bits a weight | RMS error |");
  for (int mode = 0; mode < 2; mode++) {
    if (o->tasks) printf(" %s: tasks right |", mode ? "f32" : "int8");
    if (o->text) printf(" %s: perplexity |", mode ? "f32" : "int8");
  }
  printf("\n|---|---|---|");
  for (int i = 0; i < 2 * ((o->tasks != NULL) + (o->text != NULL)); i++) printf("---|");
  printf("\n");
}

static void print_measure(const quality_options *o, const measure *m) {
  if (o->tasks) printf(" %.2f %% |", m->count > 0 ? 100.0 * (double)m->right / (double)m->count : 0.0);
  if (o->text) printf(" %.4f |", m->perplexity);
}

static int print_format(const quality_options *o, const char *format, quern_error *error) {
  static const char *const modes[] = {"int8", "f32"};
  for (int mode = 0; mode < 2; mode++) {
    measure m;
    int code = measure_model(o, format, modes[mode], &m, error);
    if (code != 0) return code;
    if (mode == 0) {
      printf("| %s%s%s | %.2f | %.3f %% |", format, m.sums.fallback ? " and " : "",
             m.sums.fallback ? m.sums.fallback : "", 8.0 * m.sums.bytes / m.sums.values,
             100.0 * sqrt(m.sums.square_ratio / m.sums.values));
    }
    print_measure(o, &m);
    fflush(stdout);
  }
  printf("\n");
  return 0;
}

static int print_table(const quality_options *o, quern_error *error) {
  const char *at = o->formats;
  print_head(o);
  while (*at) {
    char format[32];
    size_t length = strcspn(at, ", ");
    snprintf(format, sizeof format, "%.*s", (int)length, at);
    if (length > 0) {
      int code = print_format(o, format, error);
      if (code != 0) return code;
    }
    at += length + (at[length] != '\0');
  }
  return 0;
}

int main(int argc, char **argv) {
  quality_options o = {.formats = quern_quant_formats()};
  for (int i = 1; i < argc; i++) {
    bool value = i + 1 < argc;
    if (strcmp(argv[i], "--help") == 0) return usage(stdout, 0);
    if (value && strcmp(argv[i], "--tasks") == 0) {
      o.tasks = argv[++i];
    } else if (value && strcmp(argv[i], "--text") == 0) {
      o.text = argv[++i];
    } else if (value && strcmp(argv[i], "--formats") == 0) {
      o.formats = argv[++i];
    } else if (value && strcmp(argv[i], "--limit") == 0) {
      o.limit = atol(argv[++i]);
    } else if (value && strcmp(argv[i], "--threads") == 0) {
      o.threads = atol(argv[++i]);
    } else if (!o.model && argv[i][0] != '-') {
      o.model = argv[i];
    } else {
      return usage(stderr, QUERN_ERR_ARGUMENT);
    }
  }
  if (!o.model) return usage(stderr, QUERN_ERR_ARGUMENT);
  quern_error error = {0};
  int code = print_table(&o, &error);
  if (code != 0) fprintf(stderr, "quern-quality: %s\n", error.text);
  return code;
}
