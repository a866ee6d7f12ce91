// Finding chat templates.
#include "frontend/import/chat_source.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/import/json.h"
#include "runtime/base/file.h"

#define TEMPLATE_KEY "tokenizer.chat_template"

static qn_status add(qn_arena *arena, qn_chat_templates *to, qn_str name, qn_str text, qn_diag *diag) {
  return qn_vec_push_arena(arena, to, ((qn_chat_template){name, text}))
             ? QN_OK
             : qn_fail_nomem(diag, "chat template", "a list");
}

qn_status qn_chat_from_gguf(const qn_gguf *gguf, qn_arena *arena, qn_chat_templates *out, qn_diag *diag) {
  size_t prefix = strlen(TEMPLATE_KEY);
  *out = (qn_chat_templates){0};
  for (size_t i = 0; i < gguf->kv_count; i++) {
    qn_str key = gguf->kvs[i].key, text;
    if (key.length < prefix || memcmp(key.data, TEMPLATE_KEY, prefix) != 0) continue;
    bool named = key.length > prefix + 1 && key.data[prefix] == '.';
    if (key.length != prefix && !named) continue;
    if (!qn_gguf_value_string(&gguf->kvs[i].value, &text))
      return qn_fail(diag, QN_ERR_FORMAT, gguf->name, "key '%.*s' is %s, want a text",
                     (int)(key.length < 80 ? key.length : 80), key.data,
                     qn_gguf_value_type_name(gguf->kvs[i].value.type));
    qn_str name = named ? (qn_str){key.data + prefix + 1, key.length - prefix - 1} : QN_STR("default");
    QN_TRY(add(arena, out, name, text, diag));
  }
  return QN_OK;
}

// ---- a folder

typedef struct folder {
  const char *path;
  qn_arena *arena;
  qn_chat_templates *out;
  qn_diag *diag;
} folder;

static qn_status path_of(const folder *f, const char *name, const char **out) {
  *out = qn_arena_printf(f->arena, "%s/%s", f->path, name);
  return *out ? QN_OK : qn_fail_nomem(f->diag, f->path, "a path");
}

// A file's text, in the arena; *out_found says whether there is such a file.
static qn_status read_text(const folder *f, const char *path, bool *out_found, qn_str *out) {
  char *text;
  size_t size;
  *out_found = qn_file_is_there(path);
  if (!*out_found) return QN_OK;
  QN_TRY(qn_file_read(path, QN_TEXT_MAX, f->arena->allocator, &text, &size, f->diag));
  const char *copy = qn_arena_strndup(f->arena, text, size);
  qn_free(f->arena->allocator, text, size + 1);
  *out = (qn_str){copy, size};
  return copy ? QN_OK : qn_fail_nomem(f->diag, path, "a template");
}

static qn_status add_named(const folder *f, const qn_json *json, const cJSON *item, const char *path) {
  const char *name = NULL, *text = NULL;
  QN_TRY(qn_json_object(json, item, path, NULL));
  QN_TRY(qn_json_text(json, qn_json_get(item, "name"), qn_json_key_path(json, path, "name"), &name));
  QN_TRY(qn_json_text(json, qn_json_get(item, "template"), qn_json_key_path(json, path, "template"), &text));
  return add(f->arena, f->out, qn_str_from(name), qn_str_from(text), f->diag);
}

static qn_status take_config(const folder *f, const qn_json *json, const cJSON *top) {
  const cJSON *found = qn_json_get(top, "chat_template"), *item;
  const char *text;
  size_t index = 0;
  if (!found || cJSON_IsNull(found)) return QN_OK;
  if (!cJSON_IsArray(found)) {
    QN_TRY(qn_json_text(json, found, "chat_template", &text));
    return add(f->arena, f->out, QN_STR("default"), qn_str_from(text), f->diag);
  }
  cJSON_ArrayForEach(item, found) {
    QN_TRY(add_named(f, json, item, qn_json_index_path(json, "chat_template", index++)));
  }
  return QN_OK;
}

static qn_status read_config(const folder *f, const char *name) {
  const char *path;
  qn_str text;
  bool found;
  cJSON *top;
  QN_TRY(path_of(f, name, &path));
  QN_TRY(read_text(f, path, &found, &text));
  if (!found) return QN_OK;
  qn_json json = {f->arena, path, f->diag};
  QN_TRY(qn_json_parse(&json, text.data, text.length, &top));
  qn_status status = take_config(f, &json, top);
  cJSON_Delete(top);
  return status;
}

static int is_jinja(const struct dirent *entry) {
  size_t length = strlen(entry->d_name);
  return length > 6 && strcmp(entry->d_name + length - 6, ".jinja") == 0;
}

static qn_status read_additional(const folder *f) {
  const char *path, *file;
  struct dirent **entries = NULL;
  qn_status status = QN_OK;
  QN_TRY(path_of(f, "additional_chat_templates", &path));
  int count = scandir(path, &entries, is_jinja, alphasort);
  if (count < 0) return errno == ENOMEM ? qn_fail_nomem(f->diag, path, "a list of files") : QN_OK;
  for (int i = 0; i < count; i++) {
    qn_str text;
    bool found = false;
    const char *name = qn_arena_strndup(f->arena, entries[i]->d_name, strlen(entries[i]->d_name) - 6);
    file = qn_arena_printf(f->arena, "%s/%s", path, entries[i]->d_name);
    if (status == QN_OK && (!name || !file)) status = qn_fail_nomem(f->diag, path, "a path");
    if (status == QN_OK) status = read_text(f, file, &found, &text);
    if (status == QN_OK && found) status = add(f->arena, f->out, qn_str_from(name), text, f->diag);
    free(entries[i]);
  }
  free(entries);
  return status;
}

qn_status qn_chat_from_folder(const char *path, qn_arena *arena, qn_chat_templates *out, qn_diag *diag) {
  folder f = {path, arena, out, diag};
  const char *file;
  qn_str text;
  bool found;
  *out = (qn_chat_templates){0};
  QN_TRY(path_of(&f, "chat_template.jinja", &file));
  QN_TRY(read_text(&f, file, &found, &text));
  if (found) QN_TRY(add(arena, out, QN_STR("default"), text, diag));
  if (out->count == 0) QN_TRY(read_config(&f, "tokenizer_config.json"));
  if (out->count == 0) QN_TRY(read_config(&f, "chat_template.json"));
  return read_additional(&f);
}
