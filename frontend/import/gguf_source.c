// Keys and tensors of a GGUF file for binding.
#include "frontend/import/gguf_source.h"

#include <math.h>
#include <string.h>

// Some files give a number for each layer. They are one number when all are equal; else a template cannot say them.
static qn_status find_uniform(qn_gguf *gguf, const char *key, qn_value *out, qn_diag *diag) {
  const int64_t *items;
  size_t count;
  QN_TRY(qn_gguf_get_ints(gguf, key, &items, &count, diag));
  for (size_t i = 0; i < count; i++) {
    if (items[i] == items[0]) continue;
    return qn_fail(diag, QN_ERR_UNSUPPORTED, gguf->name,
                   "key '%s' differs by layer (%lld in the first, %lld in layer %zu), want one value for all", key,
                   (long long)items[0], (long long)items[i], i);
  }
  if (count == 0) return qn_fail(diag, QN_ERR_FORMAT, gguf->name, "key '%s' is an empty list, want a number", key);
  *out = qn_value_int(items[0]);
  return QN_OK;
}

static qn_status find_key(void *context, const char *key, qn_param_kind kind, bool *out_found, qn_value *out,
                          qn_diag *diag) {
  qn_gguf *gguf = context;
  const qn_gguf_kv *kv = gguf ? qn_gguf_find(gguf, key) : NULL;
  *out_found = kv != NULL;
  *out = qn_value_int(0);
  if (!kv) return QN_OK;
  bool flag = false;
  switch (kind) {
    case QN_PARAM_INT:
      if (kv->value.type == QN_GGUF_ARRAY) return find_uniform(gguf, key, out, diag);
      return qn_gguf_get_int(gguf, key, INT64_MIN, INT64_MAX, &out->i, diag);
    case QN_PARAM_FLOAT: out->kind = QN_VALUE_FLOAT; return qn_gguf_get_float(gguf, key, &out->f, diag);
    case QN_PARAM_TEXT: out->kind = QN_VALUE_TEXT; return qn_gguf_get_string(gguf, key, &out->text, diag);
    case QN_PARAM_BOOL: break;
  }
  QN_TRY(qn_gguf_get_bool(gguf, key, &flag, diag));
  out->i = flag;
  return QN_OK;
}

static qn_status find_item(void *context, const char *key, qn_param_kind kind, int64_t index, bool *out_found,
                           int64_t *out_count, qn_value *out, qn_diag *diag) {
  qn_gguf *gguf = context;
  const qn_gguf_kv *kv = gguf ? qn_gguf_find(gguf, key) : NULL;
  *out_count = -1;
  if (!kv || kv->value.type != QN_GGUF_ARRAY) return find_key(context, key, kind, out_found, out, diag);
  *out_found = true;
  *out = qn_value_int(0);
  *out_count = kv->value.count > INT64_MAX ? INT64_MAX : (int64_t)kv->value.count;
  if (index >= *out_count) return QN_OK;
  qn_gguf_value item = {0};
  qn_gguf_cursor cursor = qn_gguf_items(&kv->value);
  for (int64_t i = 0; i <= index; i++) {
    if (!qn_gguf_next(&cursor, &item)) break;
  }
  bool good = false, flag = false;
  static const char *const wants[] = {"integers", "numbers", "bools", "strings"};
  switch (kind) {
    case QN_PARAM_INT: good = qn_gguf_value_int(&item, &out->i); break;
    case QN_PARAM_FLOAT:
      out->kind = QN_VALUE_FLOAT;
      good = qn_gguf_value_float(&item, &out->f) && isfinite(out->f);
      break;
    case QN_PARAM_BOOL:
      good = qn_gguf_value_bool(&item, &flag);
      out->i = flag;
      break;
    case QN_PARAM_TEXT:
      out->kind = QN_VALUE_TEXT;
      good = qn_gguf_value_string(&item, &out->text);
      break;
  }
  if (good) return QN_OK;
  return qn_fail(diag, QN_ERR_FORMAT, gguf->name, "key '%s': value %lld of the list is of another type, want %s", key,
                 (long long)index, wants[kind]);
}

static bool has_tensor(void *context, const char *name) {
  const qn_gguf *gguf = context;
  return gguf && qn_gguf_find_tensor(gguf, name);
}

static qn_status find_tensor(void *context, const char *name, bool *out_found, qn_tensor_data *out, qn_diag *diag) {
  const qn_gguf *gguf = context;
  const qn_gguf_tensor *tensor = gguf ? qn_gguf_find_tensor(gguf, name) : NULL;
  *out_found = tensor != NULL;
  if (!tensor) return QN_OK;
  qn_gguf_view view;
  QN_TRY(qn_gguf_tensor_view(gguf, tensor, &view, diag));
  *out = (qn_tensor_data){.format = view.format, .rank = tensor->n_dims, .data = view.data};
  for (int d = 0; d < tensor->n_dims; d++) out->dims[d] = tensor->dims[tensor->n_dims - 1 - d];
  return QN_OK;
}

// "<architecture>.key" in a file that says what its architecture is.
static bool key_at(void *context, size_t i, qn_str *out) {
  const qn_gguf *gguf = context;
  const qn_gguf_kv *kv = gguf ? qn_gguf_find(gguf, "general.architecture") : NULL;
  qn_str architecture, key;
  if (!gguf || i >= gguf->kv_count) return false;
  *out = (qn_str){0};
  if (!kv || !qn_gguf_value_string(&kv->value, &architecture)) return true;
  key = gguf->kvs[i].key;
  bool own = key.length > architecture.length && memcmp(key.data, architecture.data, architecture.length) == 0 &&
             key.data[architecture.length] == '.';
  if (own) *out = key;
  return true;
}

static bool tensor_at(void *context, size_t i, qn_str *out) {
  const qn_gguf *gguf = context;
  if (!gguf || i >= gguf->tensor_count) return false;
  *out = gguf->tensors[i].name;
  return true;
}

qn_model_source qn_gguf_source(qn_gguf *gguf, const char *name, const char *architecture) {
  return (qn_model_source){.context = gguf,
                           .name = name,
                           .architecture = architecture,
                           .world = QN_WORLD_GGUF,
                           .find_key = find_key,
                           .find_item = find_item,
                           .find_tensor = find_tensor,
                           .has_tensor = has_tensor,
                           .key_at = key_at,
                           .tensor_at = tensor_at};
}
