// JSON objects taken apart into dotted keys.
#include "frontend/import/hf_config.h"

#include <math.h>
#include <string.h>

#include "frontend/import/json.h"
#include "runtime/base/file.h"

enum { MAX_DEPTH = 8, MAX_VALUES = 1 << 20 };

static qn_status fail_nomem(const qn_json *json) { return qn_fail_nomem(json->diag, json->file, "its keys"); }

static qn_status read_value(const qn_json *json, const cJSON *item, const char *path, int depth, qn_hf_value *out);

static qn_status read_items(const qn_json *json, const cJSON *item, const char *path, int depth, qn_hf_value *out) {
  size_t count = (size_t)cJSON_GetArraySize(item), i = 0;
  qn_hf_value *items = QN_ARENA_ARRAY(json->arena, count, qn_hf_value);
  if (!items) return fail_nomem(json);
  const cJSON *child;
  cJSON_ArrayForEach(child, item) {
    QN_TRY(read_value(json, child, qn_json_index_path(json, path, i), depth + 1, &items[i]));
    i++;
  }
  out->items = items;
  out->count = count;
  return QN_OK;
}

// A value that is no object with members of its own.
static qn_status read_value(const qn_json *json, const cJSON *item, const char *path, int depth, qn_hf_value *out) {
  if (depth > MAX_DEPTH) return qn_json_fail(json, QN_ERR_LIMIT, path, "is nested more than %d deep", MAX_DEPTH);
  if (cJSON_IsBool(item)) {
    out->kind = QN_HF_BOOL;
    out->flag = cJSON_IsTrue(item);
  } else if (cJSON_IsNumber(item)) {
    out->kind = QN_HF_NUMBER;
    QN_TRY(qn_json_number(json, item, path, &out->number));
  } else if (cJSON_IsString(item)) {
    out->kind = QN_HF_TEXT;
    out->text = qn_arena_strdup(json->arena, item->valuestring);
    if (!out->text) return fail_nomem(json);
  } else if (cJSON_IsArray(item)) {
    out->kind = QN_HF_LIST;
    return read_items(json, item, path, depth, out);
  } else {
    out->kind = QN_HF_OBJECT;  // of a list, or empty; null in a list is as good
  }
  return QN_OK;
}

static qn_status put_value(qn_hf_config *config, const qn_json *json, const qn_hf_value *value) {
  const char *key = value->key;
  if (config->values.count == MAX_VALUES) {
    return qn_json_fail(json, QN_ERR_LIMIT, key, "got more than %d values", MAX_VALUES);
  }
  if (qn_map_get(&config->index, qn_str_from(key), NULL)) {  // "a.b" beside {"a": {"b": ...}}
    return qn_json_fail(json, QN_ERR_FORMAT, key, "the key is there twice");
  }
  if (!qn_map_put(&config->index, qn_str_from(key), config->values.count) ||
      !qn_vec_push_arena(config->arena, &config->values, *value)) {
    return fail_nomem(json);
  }
  return QN_OK;
}

static qn_status add_value(qn_hf_config *config, const qn_json *json, const cJSON *item, const char *key, int depth) {
  qn_hf_value value = {.key = key};
  QN_TRY(read_value(json, item, key, depth, &value));
  return put_value(config, json, &value);
}

static qn_status read_object(qn_hf_config *config, const qn_json *json, const cJSON *object, const char *path,
                             int depth) {
  const cJSON *child;
  if (depth > MAX_DEPTH) return qn_json_fail(json, QN_ERR_LIMIT, path, "is nested more than %d deep", MAX_DEPTH);
  QN_TRY(qn_json_object(json, object, path, NULL));
  cJSON_ArrayForEach(child, object) {
    const char *key = qn_arena_printf(config->arena, "%s%s%s", path, *path ? "." : "", child->string);
    if (!key) return fail_nomem(json);
    if (cJSON_IsNull(child)) {
      QN_TRY(put_value(config, json, &(qn_hf_value){.key = key, .kind = QN_HF_NULL}));
    } else if (cJSON_IsObject(child) && child->child) {
      QN_TRY(read_object(config, json, child, key, depth + 1));
    } else {
      QN_TRY(add_value(config, json, child, key, depth));
    }
  }
  return QN_OK;
}

static qn_status add_text(qn_hf_config *config, const qn_json *json, const char *text, size_t length,
                          const char *prefix) {
  cJSON *root;
  QN_TRY(qn_json_parse(json, text, length, &root));
  qn_status status = read_object(config, json, root, prefix, 0);
  cJSON_Delete(root);
  return status;
}

qn_status qn_hf_config_parse(qn_hf_config *out, const char *name, const char *text, size_t length, qn_arena *arena,
                             qn_diag *diag) {
  *out = (qn_hf_config){.name = qn_arena_strdup(arena, name), .arena = arena};
  qn_map_init(&out->index, arena->allocator);
  if (!out->name) return qn_fail_nomem(diag, name, "its name");
  qn_json json = {arena, out->name, diag};
  return add_text(out, &json, text, length, "");
}

qn_status qn_hf_config_add_file(qn_hf_config *config, const char *path, const char *prefix, qn_diag *diag) {
  char *text;
  size_t size;
  qn_json json = {config->arena, path, diag};
  QN_TRY(qn_file_read(path, QN_TEXT_MAX, config->arena->allocator, &text, &size, diag));
  qn_status status = add_text(config, &json, text, size, prefix);
  qn_free(config->arena->allocator, text, size + 1);
  return status;
}

qn_status qn_hf_config_add_number(qn_hf_config *config, const char *name, const char *key, double number,
                                  qn_diag *diag) {
  qn_json json = {config->arena, name, diag};
  return put_value(config, &json, &(qn_hf_value){.key = key, .kind = QN_HF_NUMBER, .number = number});
}

qn_status qn_hf_config_open(qn_hf_config *out, const char *path, qn_arena *arena, qn_diag *diag) {
  char *text;
  size_t size;
  *out = (qn_hf_config){0};
  qn_map_init(&out->index, arena->allocator);
  QN_TRY(qn_file_read(path, QN_TEXT_MAX, arena->allocator, &text, &size, diag));
  qn_status status = qn_hf_config_parse(out, path, text, size, arena, diag);
  qn_free(arena->allocator, text, size + 1);
  return status;
}

void qn_hf_config_deinit(qn_hf_config *config) { qn_map_deinit(&config->index); }

const qn_hf_value *qn_hf_config_find(const qn_hf_config *config, const char *key) {
  uint64_t at;
  bool there = qn_map_get(&config->index, qn_str_from(key), &at) && config->values.items[at].kind != QN_HF_NULL;
  return there ? &config->values.items[at] : NULL;
}

bool qn_hf_config_is_null(const qn_hf_config *config, const char *key) {
  uint64_t at;
  return qn_map_get(&config->index, qn_str_from(key), &at) && config->values.items[at].kind == QN_HF_NULL;
}

// ---- values as params want them ----------------------------------------------------------------------------------

static bool same_item(const qn_hf_value *a, const qn_hf_value *b) {
  if (a->kind != b->kind) return false;
  switch (a->kind) {
    case QN_HF_BOOL: return a->flag == b->flag;
    case QN_HF_NUMBER: return a->number == b->number;
    case QN_HF_TEXT: return strcmp(a->text, b->text) == 0;
    default: return false;
  }
}

static qn_status fail_value(const qn_hf_config *config, const qn_hf_value *value, const char *key, const char *want,
                            qn_diag *diag) {
  qn_buf got;
  qn_buf_init(&got, config->arena->allocator);
  qn_hf_value_print(value, 2, &got);
  qn_status status = qn_fail(diag, QN_ERR_FORMAT, config->name, "key '%s': got %.80s, want %s", key, qn_buf_text(&got), want);
  qn_buf_deinit(&got);
  return status;
}

// The one value of a list whose items are all equal.
static qn_status find_uniform(const qn_hf_config *config, const char *key, const qn_hf_value **value, qn_diag *diag) {
  const qn_hf_value *list = *value;
  if (list->count == 0) return fail_value(config, list, key, "a value", diag);
  for (size_t i = 1; i < list->count; i++) {
    if (same_item(&list->items[0], &list->items[i])) continue;
    return qn_fail(diag, QN_ERR_UNSUPPORTED, config->name,
                   "key '%s' differs by layer (in the first and in layer %zu), want one value for all", key, i);
  }
  *value = &list->items[0];
  return QN_OK;
}

// One value as a param of this kind wants it.
static qn_status convert(const qn_hf_config *config, const char *key, const qn_hf_value *value, qn_param_kind kind,
                         qn_value *out, qn_diag *diag) {
  static const char *const wants[] = {"an integer", "a number", "true or false", "a text"};
  *out = qn_value_int(0);
  if (kind == QN_PARAM_BOOL && value->kind == QN_HF_BOOL) {
    out->i = value->flag;
  } else if (kind == QN_PARAM_TEXT && value->kind == QN_HF_TEXT) {
    *out = qn_value_text(qn_str_from(value->text));
  } else if (kind == QN_PARAM_FLOAT && value->kind == QN_HF_NUMBER) {
    *out = qn_value_float(value->number);
  } else if (kind == QN_PARAM_INT && value->kind == QN_HF_NUMBER && value->number == floor(value->number) &&
             fabs(value->number) <= 0x1p53) {
    out->i = (int64_t)value->number;
  } else {
    return fail_value(config, value, key, wants[kind], diag);
  }
  return QN_OK;
}

qn_status qn_hf_config_get(const qn_hf_config *config, const char *key, qn_param_kind kind, bool *out_found,
                           qn_value *out, qn_diag *diag) {
  const qn_hf_value *value = qn_hf_config_find(config, key);
  *out = qn_value_int(0);
  *out_found = value != NULL;
  if (!value) return QN_OK;
  if (value->kind == QN_HF_LIST) QN_TRY(find_uniform(config, key, &value, diag));
  return convert(config, key, value, kind, out, diag);
}

qn_status qn_hf_config_get_item(const qn_hf_config *config, const char *key, qn_param_kind kind, int64_t index,
                                bool *out_found, int64_t *out_count, qn_value *out, qn_diag *diag) {
  const qn_hf_value *value = qn_hf_config_find(config, key);
  *out_count = -1;
  if (!value || value->kind != QN_HF_LIST) return qn_hf_config_get(config, key, kind, out_found, out, diag);
  *out_found = true;
  *out_count = (int64_t)value->count;
  *out = qn_value_int(0);
  return index < *out_count ? convert(config, key, &value->items[index], kind, out, diag) : QN_OK;
}

void qn_hf_value_print(const qn_hf_value *value, size_t max_items, qn_buf *out) {
  switch (value->kind) {
    case QN_HF_BOOL: qn_buf_puts(out, value->flag ? "true" : "false"); return;
    case QN_HF_NUMBER: qn_buf_put_f64(out, value->number); return;
    case QN_HF_TEXT: {
      qn_str text = qn_str_from(value->text);
      bool cut = text.length > 256;
      if (cut) text.length = 256;
      qn_buf_quote(out, text);
      if (cut) qn_buf_puts(out, "...");
      return;
    }
    case QN_HF_OBJECT: qn_buf_puts(out, "{}"); return;
    case QN_HF_NULL: qn_buf_puts(out, "null"); return;
    case QN_HF_LIST: break;
  }
  qn_buf_putc(out, '[');
  for (size_t i = 0; i < value->count && i < max_items; i++) {
    if (i) qn_buf_puts(out, ", ");
    qn_hf_value_print(&value->items[i], max_items, out);
  }
  qn_buf_puts(out, value->count > max_items ? ", ...]" : "]");
}
