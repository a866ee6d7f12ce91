// Continues a text: cc run.c $(pkg-config --cflags --libs quern_run) -o run && ./run nano.qn "Once upon a time"
#include <quern_run.h>
#include <stdio.h>
#include <string.h>

static bool print(void *context, const char *text, size_t length, int32_t token) {
  (void)context, (void)token;
  return fwrite(text, 1, length, stdout) == length;
}

int main(int argc, char **argv) {
  quern_error error;
  quern_model *model = NULL;
  quern_session *session = NULL;
  int32_t prompt[256];
  quern_generate_params params = {.size = sizeof params, .prompt = prompt, .max_tokens = 256, .callback = print};
  if (argc != 3) return fprintf(stderr, "usage: run OUT.qn PROMPT\n"), QUERN_ERR_ARGUMENT;
  quern_status status = quern_model_open(argv[1], NULL, &model, &error);
  if (status == QUERN_OK) status = quern_session_create(model, NULL, &session, &error);
  if (status == QUERN_OK)
    status = quern_tokenize(model, argv[2], strlen(argv[2]), QUERN_TOKENIZE_ADD_SPECIAL, prompt, 256,
                            &params.prompt_count, &error);
  if (status == QUERN_OK) status = quern_generate(session, &params, NULL, &error);
  if (status != QUERN_OK) fprintf(stderr, "run: %s\n", error.text);
  quern_session_destroy(session);
  quern_model_close(model);
  return status;
}
