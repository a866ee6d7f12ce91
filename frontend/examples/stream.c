// Streams tokens: every line of standard input is a prompt that goes on where the text before it ended, its
// continuation appears token by token, and Ctrl-C ends the continuation, not the program.
//   cc stream.c $(pkg-config --cflags --libs quern_run) -o stream && ./stream nano.qn
#include <quern_run.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_BYTES = 4096 };

static quern_session *session;

static void interrupt(int signal_number) {
  (void)signal_number;
  quern_session_cancel(session);
}

static bool show(void *context, const char *text, size_t length, int32_t token) {
  int *tokens = context;
  *tokens += token >= 0;
  fwrite(text, 1, length, stdout);
  fflush(stdout);
  return true;
}

static int fail(const quern_error *error) {
  fprintf(stderr, "stream: %s\n", error->text);
  return error->code;
}

// Continues the sequence with a text. `pending` is the token that the last continuation left unevaluated, -1 for none.
static int turn(const quern_model *model, const char *text, int32_t *pending, quern_error *error) {
  int32_t prompt[LINE_BYTES + 2];
  size_t count = 0, had = *pending >= 0;
  int tokens = 0;
  quern_stats stats = {.size = sizeof stats};
  unsigned flags = quern_session_position(session, 0) == 0 ? QUERN_TOKENIZE_ADD_SPECIAL : 0;
  if (had) prompt[0] = *pending;
  quern_status status = quern_tokenize(model, text, strlen(text), flags, prompt + had, LINE_BYTES, &count, error);
  if (status != QUERN_OK) return status;
  quern_generate_params params = {.size = sizeof params,
                                  .prompt = prompt,
                                  .prompt_count = count + had,
                                  .max_tokens = 64,
                                  .callback = show,
                                  .callback_context = &tokens};
  status = quern_generate(session, &params, &stats, error);
  if (status != QUERN_OK) return status;
  *pending = stats.pending_token;
  printf("\n");
  fprintf(stderr, "[%d tokens, %.1f tokens/s, ended: %s]\n", tokens,
          stats.decode_ns ? (double)stats.decode_steps * 1e9 / (double)stats.decode_ns : 0.0,
          quern_stop_reason_name(stats.reason));
  return QUERN_OK;
}

int main(int argc, char **argv) {
  quern_error error;
  quern_model *model = NULL;
  char line[LINE_BYTES];
  int32_t pending = -1;
  int status = 0;
  if (argc != 2) return fprintf(stderr, "usage: stream OUT.qn <PROMPTS\n"), QUERN_ERR_ARGUMENT;
  if (quern_model_open(argv[1], NULL, &model, &error) != QUERN_OK) return fail(&error);
  if (quern_session_create(model, NULL, &session, &error) != QUERN_OK) return fail(&error);
  signal(SIGINT, interrupt);
  while (status == 0 && fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = '\0';
    quern_session_uncancel(session);  // of a Ctrl-C that came when nothing was running
    if (*line) status = turn(model, line, &pending, &error);
  }
  if (status != 0) fail(&error);
  quern_session_destroy(session);
  quern_model_close(model);
  return status;
}
