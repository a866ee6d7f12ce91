// Choosing a chat template, and messages through it.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/cli/chat.h"
#include "frontend/cli/cli.h"
#include "runtime/base/file.h"

static int read_template(const char *path, cli_chat_template *out) {
  qn_diag diag = {0};
  size_t length;
  qn_status status = qn_file_read(path, QN_TEXT_MAX, qn_allocator_default(), &out->owned, &length, &diag);
  if (status != QN_OK) return cli_fail((int)status, "--chat-template", "%s", diag.text);
  out->text = out->owned;
  if (strlen(out->text) == length) return 0;
  return cli_fail(QN_ERR_FORMAT, "--chat-template", "%s: got a zero byte in a template", path);
}

int cli_chat_template_choose(const quern_model *model, const char *word, cli_chat_template *out) {
  size_t length;
  bool own = strcmp(word, "auto") == 0;
  if (quern_model_chat_template(model, own ? NULL : word, &length)) {
    out->name = own ? NULL : word;
    return 0;
  }
  if (own)
    return cli_fail(QN_ERR_UNSUPPORTED, quern_model_path(model),
                    "this model has no chat template; give one with --chat-template FILE or TEXT");
  if (access(word, F_OK) == 0) return read_template(word, out);
  out->text = word;
  if (strstr(word, "{{") || strstr(word, "{%")) return 0;
  return cli_fail(QN_ERR_ARGUMENT, "--chat-template",
                  "got '%s', want auto, none, the name of one of the model's templates, a file, or a template", word);
}

void cli_chat_template_free(cli_chat_template *chosen) {
  free(chosen->owned);
  *chosen = (cli_chat_template){0};
}

static quern_chat_params params_of(const cli_chat_template *by, const quern_chat_message *messages, size_t count) {
  return (quern_chat_params){.size = sizeof(quern_chat_params),
                             .messages = messages,
                             .message_count = count,
                             .template_name = by->name,
                             .template_text = by->text};
}

int cli_chat_tokens(const quern_model *model, const cli_chat_template *by, const quern_chat_message *messages,
                    size_t count, cli_ids *out, quern_error *error) {
  quern_chat_params params = params_of(by, messages, count);
  size_t wanted = 0;
  out->count = 0;
  int code = (int)quern_chat_tokens(model, &params, NULL, 0, &wanted, error);
  if (code == QN_ERR_LIMIT && wanted > 0) {
    if (!cli_ids_reserve(out, wanted)) {
      *error = (quern_error){.code = QN_ERR_NOMEM, .text = "tokens: out of memory"};
      return QN_ERR_NOMEM;
    }
    code = (int)quern_chat_tokens(model, &params, out->items, out->capacity, &wanted, error);
  }
  if (code == 0) out->count = wanted;
  return code;
}

// The text of a conversation; NULL when the template does not make one. Freed with free().
static char *render(const quern_model *model, const quern_chat_params *params) {
  size_t length = 0;
  quern_chat_text(model, params, NULL, 0, &length, NULL);
  char *text = length > 0 ? malloc(length + 1) : NULL;
  if (text && quern_chat_text(model, params, text, length, &length, NULL) == QUERN_OK) {
    text[length] = '\0';
    return text;
  }
  free(text);
  return NULL;
}

static bool is_control(const quern_model *model, int32_t token) {
  char text[8];
  size_t length = 0;
  return quern_detokenize(model, &token, 1, QUERN_DETOKENIZE_CONTINUES, text, sizeof text, &length, NULL) == QUERN_OK &&
         length == 0;
}

int32_t cli_chat_turn_end(const quern_model *model, const cli_chat_template *by) {
  static const char mark[] = "quern";
  const quern_chat_message messages[] = {{"user", "a"}, {"assistant", mark}};
  quern_chat_params params = params_of(by, messages, QN_COUNT(messages));
  params.no_answer = true;
  cli_ids ids = {0};
  int32_t end = -1;
  quern_error error;
  char *text = render(model, &params), *after = NULL;
  for (char *at = text; at && (at = strstr(at, mark)) != NULL;) after = at += sizeof mark - 1;  // the last one
  if (after && *after &&
      cli_tokenize(model, after, strlen(after), QUERN_TOKENIZE_PARSE_SPECIAL, &ids, &error) == QN_OK && ids.count > 0 &&
      is_control(model, ids.items[0]))
    end = ids.items[0];
  qn_vec_free(qn_allocator_default(), &ids);
  free(text);
  return end;
}
