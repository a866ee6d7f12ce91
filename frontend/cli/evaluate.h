// How good a model is: cases of a task file that it gets right, and the perplexity of a text. Both go through the
// public interface, as a user's program would.
#ifndef QUERN_CLI_EVALUATE_H
#define QUERN_CLI_EVALUATE_H

#include "frontend/cli/progress.h"
#include "frontend/cli/tokens.h"

typedef struct cli_task {
  char *name;  // owned
  uint64_t right, count;
  int64_t tokens, passes;  // of the answers: tokens evaluated after the first, and the steps of the model that took
  char *prompt, *got, *want;  // owned: the first case that it got wrong; NULL = none
} cli_task;

// Zero-initialised; to be freed with cli_tasks_free.
typedef struct cli_tasks {
  QN_VEC(cli_task) items;  // in the order of the file
  uint64_t right, count;   // of all
  int64_t tokens, passes;
} cli_tasks;

// A case is a line "task TAB prompt TAB answer" of the file ('#' begins a remark); it is right when the model, greedy,
// continues the prompt with the answer (after at most one space) and ends its text; one with an encoder reads the prompt, and
// the answer is the text that it writes. `limit` cases of each task; 0 =
// all. With a speculator, which may be NULL, a step may give several tokens. A status, with *error.
int cli_evaluate_tasks(quern_model *model, quern_session *session, quern_speculator *speculator, const char *path, uint64_t limit,
                       cli_progress *progress, cli_tasks *out, quern_error *error);
void cli_tasks_free(cli_tasks *tasks);

typedef struct cli_text_options {
  const char *path;
  bool lines;               // each line is a text of its own
  uint64_t window, stride;  // tokens; window at most the session's context, stride at most window - 1
} cli_text_options;

typedef struct cli_text_result {
  uint64_t texts, tokens;    // tokens: those whose probability counts
  double perplexity, error;  // error: one standard error of it
} cli_text_result;

// The perplexity per token: exp of the mean of -log p(token | those before it), over all tokens but the first of each
// text. Texts have the tokens that the vocabulary puts around them. One longer than the window is taken in windows that
// begin `stride` tokens apart (with the begin-of-text token again, where the vocabulary has one), each of which counts
// the tokens that the one before did not reach. Models compiled without all_logits take a token at a time. Of a model with an
// encoder every line is "source TAB target" (`lines` is wanted), and all tokens of the targets count. A status, with *error.
int cli_evaluate_text(quern_model *model, quern_session *session, const cli_text_options *options,
                      cli_progress *progress, cli_text_result *out, quern_error *error);

#endif
