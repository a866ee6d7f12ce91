// How good a model is at what it was taught: cases of a task file, and the perplexity of a text.
#ifndef QN_TEST_EVALUATE_H
#define QN_TEST_EVALUATE_H

#include <stdio.h>

#include "runtime/quern_run.h"

enum { QN_EVALUATE_TASKS = 64 };

typedef struct qn_task_result {
  char name[64];
  long right, count;
} qn_task_result;

typedef struct qn_tasks_result {
  qn_task_result tasks[QN_EVALUATE_TASKS];
  size_t count;
} qn_tasks_result;

// A case is a line "task TAB prompt TAB answer" of the file ('#' begins a remark); it is right when the model, greedy,
// continues the prompt with the answer (after at most one space) and ends its text. `limit` cases of each task; 0 =
// all. One wrong case of each task is shown on `show` (may be NULL). Returns 0 or an error code with *error.
int qn_evaluate_tasks(quern_model *model, quern_session *session, const char *path, long limit, FILE *show,
                      qn_tasks_result *out, quern_error *error);

// The perplexity per token of the file's lines, each a text of its own with the tokens that the vocabulary puts around
// one: exp of the mean of -log p(token | those before it), over all tokens but the first of each text. The model must
// have been compiled with all_logits.
int qn_evaluate_perplexity(quern_model *model, quern_session *session, const char *path, double *out_perplexity,
                           uint64_t *out_tokens, quern_error *error);

#endif
