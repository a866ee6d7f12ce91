// quern-tasks: how many cases of a task file a model gets right (evaluate.h says what a case is).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/quern.h"
#include "tests/support/evaluate.h"

static int usage(FILE *to, int code) {
  fprintf(to,
          "usage: quern-tasks MODEL TASKS.tsv [--min FRACTION] [--limit N] [--threads N]\n"
          "  --min FRACTION  end with 1 when a task has less right (default 0)\n"
          "  --limit N       take only the first N cases of each task (default: all)\n"
          "  --threads N     default: one a physical core\n");
  return code;
}

static int fail(const quern_error *error) {
  fprintf(stderr, "quern-tasks: %s\n", error->text);
  return error->code;
}

// Prints the fractions; 1 when one of them is too small or there is no task at all.
static int judge(const qn_tasks_result *result, double least) {
  int code = result->count > 0 ? 0 : 1;
  for (size_t i = 0; i < result->count; i++) {
    const qn_task_result *t = &result->tasks[i];
    double fraction = (double)t->right / (double)t->count;
    bool good = fraction >= least;
    printf("%-10s %5ld of %5ld right, %.2f %%%s\n", t->name, t->right, t->count, fraction * 100,
           good ? "" : ": too few");
    if (!good) code = 1;
  }
  return code;
}

int main(int argc, char **argv) {
  const char *paths[2] = {NULL, NULL};
  double least = 0;
  long limit = 0, threads = 0;
  int path_count = 0;
  for (int i = 1; i < argc; i++) {
    bool value = i + 1 < argc;
    if (strcmp(argv[i], "--help") == 0) return usage(stdout, 0);
    if (value && strcmp(argv[i], "--min") == 0) {
      least = atof(argv[++i]);
    } else if (value && strcmp(argv[i], "--limit") == 0) {
      limit = atol(argv[++i]);
    } else if (value && strcmp(argv[i], "--threads") == 0) {
      threads = atol(argv[++i]);
    } else if (path_count < 2 && argv[i][0] != '-') {
      paths[path_count++] = argv[i];
    } else {
      return usage(stderr, QUERN_ERR_ARGUMENT);
    }
  }
  if (path_count < 2) return usage(stderr, QUERN_ERR_ARGUMENT);
  quern_model *model = NULL;
  quern_session *session = NULL;
  static qn_tasks_result result;
  quern_error error = {0};
  quern_compile_options how = {.size = sizeof how, .numeric_mode = "f32"};
  quern_session_options session_options = {.size = sizeof session_options, .threads = (int)threads};
  int code = quern_is_artifact(paths[0]) ? (int)quern_model_open(paths[0], NULL, &model, &error)
                                         : quern_jit(paths[0], &how, &model, &error);
  if (code == 0) code = (int)quern_session_create(model, &session_options, &session, &error);
  if (code == 0) code = qn_evaluate_tasks(model, session, paths[1], limit, stdout, &result, &error);
  if (code != 0) fail(&error);
  if (code == 0) code = judge(&result, least);
  quern_session_destroy(session);
  quern_model_close(model);
  return code;
}
