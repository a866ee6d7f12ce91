// quern-tasks: how many cases of a task file a model gets right. A case is a line "task TAB prompt TAB answer"; it is
// right when the model, greedy, continues the prompt with the answer (after at most one space) and ends its text.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/quern.h"
#include "runtime/base/file.h"

enum { MAX_TASKS = 64, MAX_PROMPT = 1024, MAX_ANSWER = 256 };

typedef struct task {
  char name[64];
  long right, count;
  bool shown;  // a wrong case of it
} task;

typedef struct evaluation {
  quern_model *model;
  quern_session *session;
  task tasks[MAX_TASKS];
  size_t task_count;
  char text[MAX_ANSWER];  // what the model answered, cut
  size_t length;
} evaluation;

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

static task *find_task(evaluation *e, const char *name) {
  for (size_t i = 0; i < e->task_count; i++) {
    if (strcmp(e->tasks[i].name, name) == 0) return &e->tasks[i];
  }
  if (e->task_count == MAX_TASKS) return NULL;
  task *added = &e->tasks[e->task_count++];
  *added = (task){0};
  snprintf(added->name, sizeof added->name, "%s", name);
  return added;
}

static bool take_text(void *context, const char *text, size_t length, int32_t token) {
  (void)token;
  evaluation *e = context;
  size_t room = sizeof e->text - 1 - e->length;
  if (length > room) length = room;
  memcpy(e->text + e->length, text, length);
  e->length += length;
  e->text[e->length] = '\0';
  return true;
}

// Runs one case; *out_right says whether the answer is the wanted one.
static int run_case(evaluation *e, const char *prompt, const char *answer, bool *out_right, quern_error *error) {
  int32_t tokens[MAX_PROMPT];
  size_t count;
  int code = (int)quern_tokenize(e->model, prompt, strlen(prompt), QUERN_TOKENIZE_ADD_SPECIAL, tokens, MAX_PROMPT,
                                 &count, error);
  if (code != 0) return code;
  quern_sampler_options greedy = quern_sampler_options_default();
  greedy.temperature = 0;
  quern_generate_params params = {.prompt = tokens,
                                  .prompt_count = count,
                                  .max_tokens = 64,
                                  .sampler = &greedy,
                                  .callback = take_text,
                                  .callback_context = e};
  quern_stats stats;
  e->length = 0;
  e->text[0] = '\0';
  quern_session_reset(e->session, 0);
  code = (int)quern_generate(e->session, &params, &stats, error);
  *out_right = stats.reason == QUERN_STOP_EOG && strcmp(e->text + (e->text[0] == ' '), answer) == 0;
  return code;
}

// One line of the file, which is cut up.
static int run_line(evaluation *e, char *line, long limit, quern_error *error) {
  char *prompt = strchr(line, '\t'), *answer = prompt ? strchr(prompt + 1, '\t') : NULL;
  if (line[0] == '#' || line[0] == '\0') return 0;
  if (!answer) {
    *error = (quern_error){.code = QUERN_ERR_FORMAT};
    snprintf(error->text, sizeof error->text, "got the line '%s', want task, prompt and answer with tabs between",
             line);
    return error->code;
  }
  *prompt++ = *answer++ = '\0';
  task *t = find_task(e, line);
  if (!t || (limit > 0 && t->count >= limit)) return 0;
  bool right = false;
  int code = run_case(e, prompt, answer, &right, error);
  t->count++;
  t->right += right;
  if (code == 0 && !right && !t->shown) {
    printf("  wrong, for example: '%s' gave '%s', want '%s'\n", prompt, e->text, answer);
    t->shown = true;
  }
  return code;
}

static int run_file(evaluation *e, const char *path, long limit, quern_error *error) {
  qn_diag diag = {0};
  char *text = NULL;
  size_t size = 0;
  int code = (int)qn_file_read(path, QN_TEXT_MAX, qn_allocator_default(), &text, &size, &diag);
  if (code != 0) {
    *error = (quern_error){.code = code};
    snprintf(error->text, sizeof error->text, "%s", diag.text);
    return code;
  }
  for (char *line = text, *end; code == 0 && *line; line = end) {
    end = line + strcspn(line, "\n");
    if (*end) *end++ = '\0';
    code = run_line(e, line, limit, error);
  }
  free(text);
  return code;
}

// Prints the fractions; 1 when one of them is too small or there is no task at all.
static int judge(const evaluation *e, double least) {
  int code = e->task_count > 0 ? 0 : 1;
  for (size_t i = 0; i < e->task_count; i++) {
    const task *t = &e->tasks[i];
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
  static evaluation e;
  quern_error error = {0};
  quern_compile_options options = {.size = sizeof options, .numeric_mode = "f32"};
  quern_session_options session = {.threads = (int)threads};
  int code = quern_is_artifact(paths[0]) ? (int)quern_model_open(paths[0], NULL, &e.model, &error)
                                         : quern_jit(paths[0], &options, &e.model, &error);
  if (code == 0) code = (int)quern_session_create(e.model, &session, &e.session, &error);
  if (code == 0) code = run_file(&e, paths[1], limit, &error);
  if (code != 0) fail(&error);
  if (code == 0) code = judge(&e, least);
  quern_session_destroy(e.session);
  quern_model_close(e.model);
  return code;
}
