// Chats in the public interface of quern_run.h: messages through a template, as text and as tokens.
#include <string.h>

#include "runtime/base/options.h"
#include "runtime/chat.h"
#include "runtime/model.h"

static quern_status finish(qn_status status, const qn_diag *diag, quern_error *error) {
  if (error) {
    error->code = (int)status;
    if (status == QN_OK) error->text[0] = '\0';
    if (status != QN_OK) memcpy(error->text, diag->text, sizeof error->text);
  }
  return (quern_status)status;
}

// The section was checked when the model was opened.
static bool find_template(const quern_model *model, const char *name, qn_str *out) {
  qn_chat_template found;
  qn_diag unused = {0};
  bool is_there = true;
  for (size_t i = 0; is_there; i++) {
    if (qn_chat_read(model->chat.data, model->chat.length, i, &found, &is_there, &unused) != QN_OK) return false;
    if (!is_there || !qn_str_is(found.name, name ? name : "default")) continue;
    *out = found.text;
    return true;
  }
  return false;
}

const char *quern_model_chat_template(const quern_model *model, const char *name, size_t *out_length) {
  qn_str text = {NULL, 0};
  bool found = find_template(model, name, &text);
  *out_length = text.length;
  return found ? text.data : NULL;
}

static qn_status choose_template(const quern_model *model, const quern_chat_params *params, qn_str *out,
                                 qn_diag *diag) {
  *out = qn_str_from(params->template_text);
  if (params->template_text || find_template(model, params->template_name, out)) return QN_OK;
  if (params->template_name)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, model->path, "this model has no chat template '%s'",
                   params->template_name);
  return qn_fail(diag, QN_ERR_UNSUPPORTED, model->path, "this model has no chat template; give one");
}

static qn_status render(const quern_model *model, const quern_chat_params *params, qn_buf *out, qn_diag *diag) {
  const qn_allocator *allocator = &model->allocator;
  quern_chat_params own;
  qn_str text;
  size_t bytes = 0;
  QN_TRY(qn_options_take(params, "quern_chat_params", &own, sizeof own, diag));
  QN_TRY(choose_template(model, &own, &text, diag));
  qn_chat_message *messages = NULL;
  if (!qn_size_mul(own.message_count, sizeof *messages, &bytes) ||
      (bytes > 0 && !(messages = qn_alloc(allocator, bytes))))
    return qn_fail_nomem(diag, model->path, "messages");
  for (size_t i = 0; i < own.message_count; i++)
    messages[i] = (qn_chat_message){qn_str_from(own.messages[i].role), qn_str_from(own.messages[i].content)};
  qn_chat_request request = {.messages = messages,
                             .message_count = own.message_count,
                             .no_answer = own.no_answer,
                             .variables_json = qn_str_from(own.variables)};
  qn_status status = qn_chat_render("chat template", text, &request, model->tokenizer, allocator, out, diag);
  qn_free(allocator, messages, bytes);
  return status;
}

static qn_status no_room(const quern_model *model, const char *what, size_t want, size_t capacity, qn_diag *diag) {
  return qn_fail(diag, QN_ERR_LIMIT, model->path, "got room for %zu %s, want %zu", capacity, what, want);
}

quern_status quern_chat_text(const quern_model *model, const quern_chat_params *params, char *text, size_t capacity,
                             size_t *out_length, quern_error *error) {
  qn_diag diag = {0};
  qn_buf buf;
  *out_length = 0;
  qn_buf_init(&buf, &model->allocator);
  qn_status status = render(model, params, &buf, &diag);
  if (status == QN_OK) {
    *out_length = buf.length;
    if (buf.length > capacity) status = no_room(model, "bytes", buf.length, capacity, &diag);
  }
  if (status == QN_OK && buf.length > 0) memcpy(text, buf.data, buf.length);
  qn_buf_deinit(&buf);
  return finish(status, &diag, error);
}

static qn_status tokenize(const quern_model *model, qn_str text, int32_t *tokens, size_t capacity, size_t *out_count,
                          qn_diag *diag) {
  qn_token_vec list = {0};
  if (!model->tokenizer)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, model->path, "this model has no tokenizer; give token ids");
  qn_status status =
      qn_tokenizer_encode(model->tokenizer, text, QN_ENCODE_PARSE_SPECIAL, &model->allocator, &list, diag);
  if (status == QN_OK) {
    *out_count = list.count;
    if (list.count > capacity) status = no_room(model, "tokens", list.count, capacity, diag);
  }
  if (status == QN_OK && list.count > 0) memcpy(tokens, list.items, list.count * sizeof *tokens);
  qn_vec_free(&model->allocator, &list);
  return status;
}

quern_status quern_chat_tokens(const quern_model *model, const quern_chat_params *params, int32_t *tokens,
                               size_t capacity, size_t *out_count, quern_error *error) {
  qn_diag diag = {0};
  qn_buf buf;
  *out_count = 0;
  qn_buf_init(&buf, &model->allocator);
  qn_status status = render(model, params, &buf, &diag);
  if (status == QN_OK) status = tokenize(model, (qn_str){buf.data, buf.length}, tokens, capacity, out_count, &diag);
  qn_buf_deinit(&buf);
  return finish(status, &diag, error);
}
