// Chat templates: the section that holds them, and messages through one.
#include "runtime/chat.h"

#include <string.h>

static void put_word(qn_buf *out, size_t word) {
  for (int i = 0; i < 4; i++) qn_buf_putc(out, (char)(word >> (8 * i) & 0xFF));
}

qn_status qn_chat_serialize(const qn_chat_template *templates, size_t count, qn_buf *out, qn_diag *diag) {
  if (count > QN_CHAT_MAX_TEMPLATES)
    return qn_fail(diag, QN_ERR_LIMIT, "chat template", "the model has %zu templates, want at most %d", count,
                   QN_CHAT_MAX_TEMPLATES);
  for (size_t i = 0; i < count; i++) {
    const qn_chat_template *t = &templates[i];
    if (t->name.length > QN_JINJA_MAX_TEXT || t->text.length > QN_JINJA_MAX_TEXT)
      return qn_fail(diag, QN_ERR_LIMIT, "chat template", "the template %zu has %zu bytes, want at most %u", i,
                     t->text.length, QN_JINJA_MAX_TEXT);
    put_word(out, t->name.length);
    put_word(out, t->text.length);
    qn_buf_append(out, t->name.data, t->name.length);
    qn_buf_append(out, t->text.data, t->text.length);
  }
  return out->failed ? qn_fail_nomem(diag, "chat template", "the section") : QN_OK;
}

static size_t take_word(const unsigned char *bytes) {
  return (size_t)bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16 | (size_t)bytes[3] << 24;
}

qn_status qn_chat_read(const void *section, size_t size, size_t index, qn_chat_template *out, bool *out_found,
                       qn_diag *diag) {
  const unsigned char *at = section;
  *out_found = false;
  for (size_t i = 0; size > 0; i++) {
    size_t name = size < 8 ? size : take_word(at), text = size < 8 ? size : take_word(at + 4);
    if (size < 8 || name > size - 8 || text > size - 8 - name)
      return qn_fail(diag, QN_ERR_FORMAT, "chat templates", "template %zu ends beyond its section", i);
    if (i >= QN_CHAT_MAX_TEMPLATES)
      return qn_fail(diag, QN_ERR_FORMAT, "chat templates", "there are more than %d", QN_CHAT_MAX_TEMPLATES);
    *out = (qn_chat_template){{(const char *)at + 8, name}, {(const char *)at + 8 + name, text}};
    if (i == index) {
      *out_found = true;
      return QN_OK;
    }
    at += 8 + name + text;
    size -= 8 + name + text;
  }
  return QN_OK;
}

// ---- rendering

static bool set_token(qn_arena *arena, qn_jinja_map *map, const char *name, const qn_tokenizer *tokenizer, int32_t id) {
  if (id < 0) return true;
  return qn_jinja_map_set(arena, map, qn_str_from(name), qn_jinja_text(qn_tokenizer_piece(tokenizer, id)));
}

static bool set_tokens(qn_arena *arena, qn_jinja_map *map, const qn_tokenizer *tokenizer) {
  return !tokenizer || (set_token(arena, map, "bos_token", tokenizer, qn_tokenizer_bos(tokenizer)) &&
                        set_token(arena, map, "eos_token", tokenizer, qn_tokenizer_eos(tokenizer)) &&
                        set_token(arena, map, "unk_token", tokenizer, qn_tokenizer_unk(tokenizer)) &&
                        set_token(arena, map, "pad_token", tokenizer, qn_tokenizer_pad(tokenizer)));
}

static bool set_messages(qn_arena *arena, qn_jinja_map *map, const qn_chat_request *request) {
  qn_jinja_list *list = QN_ARENA_NEW(arena, qn_jinja_list);
  qn_jinja_value *items = QN_ARENA_ARRAY(arena, request->message_count, qn_jinja_value);
  if (!list || !items) return false;
  for (size_t i = 0; i < request->message_count; i++) {
    qn_jinja_map *message = QN_ARENA_NEW(arena, qn_jinja_map);
    if (!message || !qn_jinja_map_set(arena, message, QN_STR("role"), qn_jinja_text(request->messages[i].role)) ||
        !qn_jinja_map_set(arena, message, QN_STR("content"), qn_jinja_text(request->messages[i].content)))
      return false;
    items[i] = (qn_jinja_value){.kind = QN_JINJA_MAP, .map = message};
  }
  *list = (qn_jinja_list){items, request->message_count};
  return qn_jinja_map_set(arena, map, QN_STR("messages"), (qn_jinja_value){.kind = QN_JINJA_LIST, .list = list});
}

static qn_status set_variables(qn_arena *arena, qn_jinja_map *map, const qn_chat_request *request,
                               const qn_tokenizer *tokenizer, qn_diag *diag) {
  qn_jinja_value given;
  if (!set_tokens(arena, map, tokenizer) || !set_messages(arena, map, request) ||
      !qn_jinja_map_set(arena, map, QN_STR("add_generation_prompt"), qn_jinja_bool(!request->no_answer)))
    return qn_fail_nomem(diag, "chat template", "its variables");
  if (request->variables_json.length == 0) return QN_OK;
  QN_TRY(qn_jinja_from_json("variables", request->variables_json, arena, &given, diag));
  if (given.kind != QN_JINJA_MAP)
    return qn_fail(diag, QN_ERR_FORMAT, "variables", "got JSON that is no object, want {\"name\": value, ...}");
  for (size_t i = 0; i < given.map->count; i++) {
    if (!qn_jinja_map_set(arena, map, given.map->pairs[i].key.text, given.map->pairs[i].value))
      return qn_fail_nomem(diag, "chat template", "its variables");
  }
  return QN_OK;
}

qn_status qn_chat_render(const char *name, qn_str text, const qn_chat_request *request, const qn_tokenizer *tokenizer,
                         const qn_allocator *allocator, qn_buf *out, qn_diag *diag) {
  qn_jinja *jinja;
  qn_jinja_map variables = {0};
  qn_arena arena;
  QN_TRY(qn_jinja_parse(name, text, allocator, &jinja, diag));
  qn_arena_init(&arena, allocator);
  qn_status status = set_variables(&arena, &variables, request, tokenizer, diag);
  if (status == QN_OK) status = qn_jinja_render(jinja, &variables, &request->options, allocator, out, diag);
  qn_arena_deinit(&arena);
  qn_jinja_free(jinja);
  return status;
}
