// One model, several threads: each has a session of its own with four sequences, which go on together, a token of each
// in a step. Their tokens are those that each sequence gives alone. The artifact must allow four sequences:
//   quern compile MODEL -o OUT.qn --batch 4
//   cc threads.c $(pkg-config --cflags --libs quern_run) -pthread -o threads && ./threads OUT.qn
#include <pthread.h>
#include <quern_run.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 2, SEQUENCES = 4, STEPS = 24, PROMPT = 64 };

static const char *const prompts[THREADS * SEQUENCES] = {"Once upon a time",   "copy: k q d =",         "Lily was",
                                                         "reverse: c a t s =", "Long ago, a small fox", "sort: d b a =",
                                                         "The old mouse",      "next: 3 4 5 ="};

static quern_model *model;  // shared: it never changes

static void check(quern_status status, const quern_error *error) {
  if (status == QUERN_OK) return;
  fprintf(stderr, "threads: %s\n", error->text);
  exit(status);
}

static int32_t likeliest(const float *logits) {
  int32_t best = 0;
  for (int32_t i = 1; i < quern_model_vocab_size(model); i++) best = logits[i] > logits[best] ? i : best;
  return best;
}

// Evaluates `count` prompts in a session of its own and takes the likeliest tokens from there, in steps for all.
static void generate(const char *const *texts, int count, int threads, int32_t (*out_tokens)[STEPS]) {
  quern_error error;
  quern_session *session = NULL;
  quern_session_options options = {
      .size = sizeof options, .threads = threads, .no_pin = true, .context = PROMPT + STEPS, .sequences = count};
  quern_item items[SEQUENCES];
  check(quern_session_create(model, &options, &session, &error), &error);
  for (int s = 0; s < count; s++) {
    int32_t prompt[PROMPT];
    size_t length = 0;
    const float *logits = NULL;
    check(
        quern_tokenize(model, texts[s], strlen(texts[s]), QUERN_TOKENIZE_ADD_SPECIAL, prompt, PROMPT, &length, &error),
        &error);
    check(quern_session_eval(session, s, prompt, length, &logits, &error), &error);
    out_tokens[s][0] = likeliest(logits);
  }
  for (int step = 1; step < STEPS; step++) {
    for (int s = 0; s < count; s++)
      items[s] = (quern_item){.token = out_tokens[s][step - 1], .sequence = s, .want_logits = true};
    check(quern_session_step(session, items, (size_t)count, &error), &error);
    for (int s = 0; s < count; s++) out_tokens[s][step] = likeliest(quern_session_logits(session, (size_t)s));
  }
  quern_session_destroy(session);
}

static int32_t tokens[THREADS * SEQUENCES][STEPS];

static void *work(void *context) {
  int first = *(const int *)context;
  generate(&prompts[first], SEQUENCES, 2, &tokens[first]);
  return NULL;
}

int main(int argc, char **argv) {
  quern_error error;
  pthread_t threads[THREADS];
  int firsts[THREADS], wrong = 0;
  if (argc != 2) return fprintf(stderr, "usage: threads OUT.qn\n"), QUERN_ERR_ARGUMENT;
  check(quern_model_open(argv[1], NULL, &model, &error), &error);
  for (int i = 0; i < THREADS; i++) {
    firsts[i] = i * SEQUENCES;
    if (pthread_create(&threads[i], NULL, work, &firsts[i]) != 0) return fprintf(stderr, "threads: no thread\n"), 1;
  }
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (int s = 0; s < THREADS * SEQUENCES; s++) {
    int32_t alone[1][STEPS];
    char text[512];
    size_t length = 0;
    generate(&prompts[s], 1, 1, alone);
    bool same = memcmp(alone[0], tokens[s], sizeof alone[0]) == 0;
    wrong += !same;
    check(quern_detokenize(model, tokens[s], STEPS, QUERN_DETOKENIZE_CONTINUES, text, sizeof text, &length, &error),
          &error);
    printf("%s|%.*s%s\n", prompts[s], (int)length, text, same ? "" : "  OTHER TOKENS THAN ALONE");
  }
  quern_model_close(model);
  return wrong ? QUERN_ERR_INTERNAL : 0;
}
