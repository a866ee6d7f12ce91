// Reads logits, and keeps what a sequence holds: evaluates a prompt, prints the likeliest next tokens, saves the
// sequence to a file, and shows that a new session goes on from there with the same logits, without evaluating the
// prompt.
//   cc state.c $(pkg-config --cflags --libs quern_run) -lm -o state && ./state nano.qn "Once upon a" prompt.state
#include <math.h>
#include <quern_run.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(quern_status status, const quern_error *error) {
  if (status == QUERN_OK) return;
  fprintf(stderr, "state: %s\n", error->text);
  exit(status);
}

// The likeliest tokens with their probabilities.
static void print_likeliest(const quern_model *model, const float *logits, int count) {
  int32_t vocab = quern_model_vocab_size(model);
  double sum = 0, most = -INFINITY;
  for (int32_t i = 0; i < vocab; i++) most = logits[i] > most ? logits[i] : most;
  for (int32_t i = 0; i < vocab; i++) sum += exp(logits[i] - most);
  double below = INFINITY;
  for (int n = 0; n < count; n++) {
    int32_t best = -1;
    for (int32_t i = 0; i < vocab; i++) {
      if (logits[i] < below && (best < 0 || logits[i] > logits[best])) best = i;
    }
    if (best < 0) return;
    size_t length = 0;
    const char *piece = quern_token_piece(model, best, &length);
    printf("%6.2f %%  '%.*s'\n", 100 * exp(logits[best] - most) / sum, (int)length, piece ? piece : "");
    below = logits[best];
  }
}

int main(int argc, char **argv) {
  quern_error error;
  quern_model *model = NULL;
  quern_session *first = NULL, *second = NULL;
  quern_session_options options = {.size = sizeof options, .threads = 1, .context = 256};
  int32_t tokens[256];
  size_t count = 0;
  const float *logits = NULL;
  if (argc != 4) return fprintf(stderr, "usage: state OUT.qn PROMPT FILE\n"), QUERN_ERR_ARGUMENT;
  check(quern_model_open(argv[1], NULL, &model, &error), &error);
  check(quern_tokenize(model, argv[2], strlen(argv[2]), QUERN_TOKENIZE_ADD_SPECIAL, tokens, 256, &count, &error),
        &error);
  if (count < 2) return fprintf(stderr, "state: want a longer prompt\n"), QUERN_ERR_ARGUMENT;
  // All but the last token, whose logits are what both sessions are asked for.
  check(quern_session_create(model, &options, &first, &error), &error);
  check(quern_session_eval(first, 0, tokens, count - 1, NULL, &error), &error);
  check(quern_session_save_file(first, 0, argv[3], &error), &error);
  check(quern_session_eval(first, 0, &tokens[count - 1], 1, &logits, &error), &error);
  print_likeliest(model, logits, 3);
  const float *again = NULL;
  check(quern_session_create(model, &options, &second, &error), &error);
  check(quern_session_restore_file(second, 0, argv[3], &error), &error);
  check(quern_session_eval(second, 0, &tokens[count - 1], 1, &again, &error), &error);
  bool same = memcmp(logits, again, (size_t)quern_model_vocab_size(model) * sizeof *logits) == 0;
  printf("restored from %zu bytes: %s\n", quern_session_state_size(first, 0),
         same ? "the same logits" : "OTHER LOGITS");
  quern_session_destroy(first);
  quern_session_destroy(second);
  quern_model_close(model);
  return same ? 0 : QUERN_ERR_INTERNAL;
}
