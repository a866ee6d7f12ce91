// Getters over an open GGUF file: typed metadata, arrays and tensor views, each error naming file, key, got and want.
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "frontend/import/gguf_internal.h"

static const struct {
  const char *name;
  uint8_t size_bytes;  // 0: varies
  bool is_integer, is_signed;
} value_types[QN_GGUF_VALUE_TYPE_COUNT] = {
    [QN_GGUF_U8] = {"u8", 1, true, false},        [QN_GGUF_I8] = {"i8", 1, true, true},
    [QN_GGUF_U16] = {"u16", 2, true, false},      [QN_GGUF_I16] = {"i16", 2, true, true},
    [QN_GGUF_U32] = {"u32", 4, true, false},      [QN_GGUF_I32] = {"i32", 4, true, true},
    [QN_GGUF_U64] = {"u64", 8, true, false},      [QN_GGUF_I64] = {"i64", 8, true, true},
    [QN_GGUF_F32] = {"f32", 4, false, false},     [QN_GGUF_F64] = {"f64", 8, false, false},
    [QN_GGUF_BOOL] = {"bool", 1, false, false},   [QN_GGUF_STRING] = {"string", 0, false, false},
    [QN_GGUF_ARRAY] = {"array", 0, false, false},
};

const char *qn_gguf_value_type_name(uint32_t type) {
  return type < QN_GGUF_VALUE_TYPE_COUNT ? value_types[type].name : "?";
}

size_t qn_gguf_value_type_size(uint32_t type) {
  return type < QN_GGUF_VALUE_TYPE_COUNT ? value_types[type].size_bytes : 0;
}

// ---- messages ----------------------------------------------------------------------------------------------------

// Escapes `text` into `out`, cut with "..." where it does not fit.
static void printable(qn_str text, char *out, size_t out_size) {
  size_t at = 0;
  for (size_t i = 0; i < text.length; i++) {
    unsigned char c = (unsigned char)text.data[i];
    bool plain = c >= 0x20 && c < 0x7f && c != '\\';
    if (at + 4 + 4 > out_size) {  // no room for an escape, "..." and NUL
      memcpy(out + at, "...", 3);
      at += 3;
      break;
    }
    at += (size_t)snprintf(out + at, out_size - at, plain ? "%c" : "\\x%02x", c);
  }
  out[at] = '\0';
}

void qn_gguf_place(const char *file_name, const char *kind, qn_str name, bool with_byte, uint64_t byte,
                   char out[QN_GGUF_PLACE_BYTES]) {
  char entry[128] = "", offset[32] = "";
  if (kind != NULL) printable(name, entry, sizeof entry);
  if (with_byte) snprintf(offset, sizeof offset, "byte %" PRIu64, byte);
  if (kind == NULL) {
    snprintf(out, QN_GGUF_PLACE_BYTES, "%.320s: %s", file_name, offset);
  } else {
    snprintf(out, QN_GGUF_PLACE_BYTES, with_byte ? "%.320s: %s '%s' (%s)" : "%.320s: %s '%s'%s", file_name, kind, entry,
             offset);
  }
}

// Reports on a key or tensor by name.
__attribute__((format(printf, 5, 6))) static qn_status fail_entry(const qn_gguf *gguf, const char *kind, qn_str name,
                                                                  qn_diag *diag, const char *format, ...) {
  char where[QN_GGUF_PLACE_BYTES], message[512];
  qn_gguf_place(gguf->name, kind, name, false, 0, where);
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  return qn_fail(diag, QN_ERR_FORMAT, where, "%s", message);
}

// "a string", "an array of u32": what a key holds, for messages.
static const char *describe(const qn_gguf_value *value, char out[32]) {
  const char *name = qn_gguf_value_type_name(value->type);
  if (value->type == QN_GGUF_ARRAY) {
    snprintf(out, 32, "an array of %s", qn_gguf_value_type_name(value->item_type));
  } else {
    snprintf(out, 32, "%s %s", strchr("aif", name[0]) != NULL ? "an" : "a", name);
  }
  return out;
}

static qn_status fail_type(const qn_gguf *gguf, const qn_gguf_kv *kv, const char *want, qn_diag *diag) {
  char got[32];
  return fail_entry(gguf, "key", kv->key, diag, "got %s, want %s", describe(&kv->value, got), want);
}

static qn_status find_required(const qn_gguf *gguf, const char *key, const char *want, const qn_gguf_kv **out,
                               qn_diag *diag) {
  *out = qn_gguf_find(gguf, key);
  if (*out != NULL) return QN_OK;
  return fail_entry(gguf, "key", qn_str_from(key), diag, "the key is missing; want %s", want);
}

// ---- scalars -----------------------------------------------------------------------------------------------------

const qn_gguf_kv *qn_gguf_find(const qn_gguf *gguf, const char *key) {
  uint64_t index;
  return qn_map_get(&qn_gguf_file_of(gguf)->kv_index, qn_str_from(key), &index) ? &gguf->kvs[index] : NULL;
}

// The low bytes of an integer scalar, extended to 64 bits by its type's sign.
static uint64_t load_integer(const uint8_t *data, qn_gguf_value_type type) {
  unsigned bits = 8u * value_types[type].size_bytes;
  uint64_t raw = qn_gguf_load_le(data, value_types[type].size_bytes);
  if (bits < 64 && value_types[type].is_signed && (raw >> (bits - 1)) != 0) raw |= UINT64_MAX << bits;
  return raw;
}

static double load_float(const uint8_t *data, qn_gguf_value_type type) {
  uint64_t raw = qn_gguf_load_le(data, value_types[type].size_bytes);
  if (type == QN_GGUF_F64) {
    double value;
    memcpy(&value, &raw, sizeof value);
    return value;
  }
  uint32_t bits = (uint32_t)raw;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

bool qn_gguf_value_int(const qn_gguf_value *value, int64_t *out) {
  if (!value_types[value->type].is_integer) return false;
  uint64_t raw = load_integer(value->data, value->type);
  if (value->type == QN_GGUF_U64 && raw > INT64_MAX) return false;
  *out = (int64_t)raw;
  return true;
}

bool qn_gguf_value_float(const qn_gguf_value *value, double *out) {
  if (value->type == QN_GGUF_F32 || value->type == QN_GGUF_F64) {
    *out = load_float(value->data, value->type);
    return true;
  }
  if (!value_types[value->type].is_integer) return false;
  uint64_t raw = load_integer(value->data, value->type);
  *out = value_types[value->type].is_signed ? (double)(int64_t)raw : (double)raw;
  return true;
}

bool qn_gguf_value_bool(const qn_gguf_value *value, bool *out) {
  if (value->type != QN_GGUF_BOOL) return false;
  *out = value->data[0] != 0;
  return true;
}

bool qn_gguf_value_string(const qn_gguf_value *value, qn_str *out) {
  if (value->type != QN_GGUF_STRING) return false;
  *out = (qn_str){(const char *)value->data, (size_t)value->size_bytes};
  return true;
}

qn_status qn_gguf_get_int(const qn_gguf *gguf, const char *key, int64_t min, int64_t max, int64_t *out, qn_diag *diag) {
  const qn_gguf_kv *kv;
  int64_t value;
  QN_TRY(find_required(gguf, key, "an integer", &kv, diag));
  if (!value_types[kv->value.type].is_integer) return fail_type(gguf, kv, "an integer", diag);
  if (!qn_gguf_value_int(&kv->value, &value)) {
    return fail_entry(gguf, "key", kv->key, diag, "got %" PRIu64 ", want %" PRId64 " to %" PRId64,
                      load_integer(kv->value.data, kv->value.type), min, max);
  }
  if (value < min || value > max) {
    return fail_entry(gguf, "key", kv->key, diag, "got %" PRId64 ", want %" PRId64 " to %" PRId64, value, min, max);
  }
  *out = value;
  return QN_OK;
}

qn_status qn_gguf_get_float(const qn_gguf *gguf, const char *key, double *out, qn_diag *diag) {
  const qn_gguf_kv *kv;
  double value;
  QN_TRY(find_required(gguf, key, "a number", &kv, diag));
  if (!qn_gguf_value_float(&kv->value, &value)) return fail_type(gguf, kv, "a number", diag);
  if (!isfinite(value)) return fail_entry(gguf, "key", kv->key, diag, "got %g, want a finite number", value);
  *out = value;
  return QN_OK;
}

qn_status qn_gguf_get_bool(const qn_gguf *gguf, const char *key, bool *out, qn_diag *diag) {
  const qn_gguf_kv *kv;
  QN_TRY(find_required(gguf, key, "a bool", &kv, diag));
  return qn_gguf_value_bool(&kv->value, out) ? QN_OK : fail_type(gguf, kv, "a bool", diag);
}

qn_status qn_gguf_get_string(const qn_gguf *gguf, const char *key, qn_str *out, qn_diag *diag) {
  const qn_gguf_kv *kv;
  QN_TRY(find_required(gguf, key, "a string", &kv, diag));
  return qn_gguf_value_string(&kv->value, out) ? QN_OK : fail_type(gguf, kv, "a string", diag);
}

// ---- arrays ------------------------------------------------------------------------------------------------------

qn_status qn_gguf_get_strings(qn_gguf *gguf, const char *key, const qn_str **out, size_t *out_count, qn_diag *diag) {
  const qn_gguf_kv *found;
  QN_TRY(find_required(gguf, key, "an array of strings", &found, diag));
  const qn_gguf_value *value = &found->value;
  if (value->type != QN_GGUF_ARRAY || value->item_type != QN_GGUF_STRING) {
    return fail_type(gguf, found, "an array of strings", diag);
  }
  qn_gguf_kv *kv = &gguf->kvs[found - gguf->kvs];
  if (kv->strings == NULL) {
    qn_str *strings = QN_ARENA_ARRAY(&qn_gguf_file_of(gguf)->arena, value->count, qn_str);
    if (strings == NULL) return qn_fail_nomem(diag, gguf->name, "the index of an array of strings");
    qn_gguf_cursor cursor = qn_gguf_items(value);
    qn_gguf_value item;
    for (uint64_t i = 0; i < value->count && qn_gguf_next(&cursor, &item); i++) {
      strings[i] = (qn_str){(const char *)item.data, (size_t)item.size_bytes};
    }
    kv->strings = strings;
  }
  *out = kv->strings;
  *out_count = (size_t)value->count;
  return QN_OK;
}

qn_status qn_gguf_get_ints(qn_gguf *gguf, const char *key, const int64_t **out, size_t *out_count, qn_diag *diag) {
  const qn_gguf_kv *kv;
  QN_TRY(find_required(gguf, key, "an array of integers", &kv, diag));
  const qn_gguf_value *value = &kv->value;
  qn_gguf_value_type type = value->item_type;
  if (value->type != QN_GGUF_ARRAY || !(value_types[type].is_integer || type == QN_GGUF_BOOL)) {
    return fail_type(gguf, kv, "an array of integers", diag);
  }
  int64_t *items = QN_ARENA_ARRAY(&qn_gguf_file_of(gguf)->arena, value->count, int64_t);
  if (items == NULL) return qn_fail_nomem(diag, gguf->name, "an array of integers");
  for (uint64_t i = 0; i < value->count; i++) {
    uint64_t raw = load_integer(value->data + i * value_types[type].size_bytes, type);
    if (type == QN_GGUF_U64 && raw > INT64_MAX) {
      return fail_entry(gguf, "key", kv->key, diag, "item %" PRIu64 " is %" PRIu64 ", want at most %" PRId64, i, raw,
                        INT64_MAX);
    }
    items[i] = (int64_t)raw;
  }
  *out = items;
  *out_count = (size_t)value->count;
  return QN_OK;
}

qn_status qn_gguf_get_floats(qn_gguf *gguf, const char *key, const float **out, size_t *out_count, qn_diag *diag) {
  const qn_gguf_kv *kv;
  QN_TRY(find_required(gguf, key, "an array of floats", &kv, diag));
  const qn_gguf_value *value = &kv->value;
  qn_gguf_value_type type = value->item_type;
  if (value->type != QN_GGUF_ARRAY || (type != QN_GGUF_F32 && type != QN_GGUF_F64)) {
    return fail_type(gguf, kv, "an array of floats", diag);
  }
  float *items = QN_ARENA_ARRAY(&qn_gguf_file_of(gguf)->arena, value->count, float);
  if (items == NULL) return qn_fail_nomem(diag, gguf->name, "an array of floats");
  for (uint64_t i = 0; i < value->count; i++) {
    items[i] = (float)load_float(value->data + i * value_types[type].size_bytes, type);
  }
  *out = items;
  *out_count = (size_t)value->count;
  return QN_OK;
}

// ---- printing ----------------------------------------------------------------------------------------------------

enum { PRINT_STRING_BYTES = 256 };

void qn_gguf_value_print(const qn_gguf_value *value, size_t max_items, qn_buf *out) {
  switch (value->type) {
    case QN_GGUF_F32: qn_buf_put_f32(out, (float)load_float(value->data, value->type)); return;
    case QN_GGUF_F64: qn_buf_put_f64(out, load_float(value->data, value->type)); return;
    case QN_GGUF_BOOL: qn_buf_puts(out, value->data[0] != 0 ? "true" : "false"); return;
    case QN_GGUF_STRING: {
      bool cut = value->size_bytes > PRINT_STRING_BYTES;
      qn_buf_quote(out, (qn_str){(const char *)value->data, cut ? PRINT_STRING_BYTES : (size_t)value->size_bytes});
      if (cut) qn_buf_puts(out, "...");
      return;
    }
    case QN_GGUF_ARRAY: {
      qn_gguf_cursor cursor = qn_gguf_items(value);
      qn_gguf_value item;
      qn_buf_printf(out, "%s[%" PRIu64 "] [", qn_gguf_value_type_name(value->item_type), value->count);
      for (size_t i = 0; i < max_items && qn_gguf_next(&cursor, &item); i++) {
        if (i > 0) qn_buf_puts(out, ", ");
        qn_gguf_value_print(&item, max_items, out);
      }
      if (cursor.index < value->count) qn_buf_puts(out, cursor.index > 0 ? ", ..." : "...");
      qn_buf_puts(out, "]");
      return;
    }
    default: break;
  }
  uint64_t raw = load_integer(value->data, value->type);
  if (value_types[value->type].is_signed) {
    qn_buf_printf(out, "%" PRId64, (int64_t)raw);
  } else {
    qn_buf_printf(out, "%" PRIu64, raw);
  }
}

// ---- tensors -----------------------------------------------------------------------------------------------------

const qn_gguf_tensor *qn_gguf_find_tensor(const qn_gguf *gguf, const char *name) {
  uint64_t index;
  return qn_map_get(&qn_gguf_file_of(gguf)->tensor_index, qn_str_from(name), &index) ? &gguf->tensors[index] : NULL;
}

qn_status qn_gguf_get_tensor(const qn_gguf *gguf, const char *name, const qn_gguf_tensor **out, qn_diag *diag) {
  const qn_gguf_tensor *tensor = qn_gguf_find_tensor(gguf, name);
  if (tensor == NULL) {
    return fail_entry(gguf, "tensor", qn_str_from(name), diag, "the tensor is missing; the file has %zu others",
                      gguf->tensor_count);
  }
  *out = tensor;
  return QN_OK;
}

// "F32, F16, ...": the GGUF types that format.def has.
static void list_supported(char *out, size_t out_size) {
  size_t at = 0;
  out[0] = '\0';
  for (int dtype = 0; dtype < QN_DTYPE_COUNT && at < out_size; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    if (format == NULL || format->gguf_type == QN_NO_GGUF_TYPE) continue;
    at += (size_t)snprintf(out + at, out_size - at, "%s%s", at > 0 ? ", " : "", qn_gguf_type_name(format->gguf_type));
  }
}

qn_status qn_gguf_tensor_view(const qn_gguf *gguf, const qn_gguf_tensor *tensor, qn_gguf_view *out, qn_diag *diag) {
  const qn_format *format = qn_format_of_gguf(tensor->type);
  if (format == NULL) {
    char where[QN_GGUF_PLACE_BYTES], type_text[32], supported[256];
    const char *type_name = qn_gguf_type_name(tensor->type);
    snprintf(type_text, sizeof type_text, "number %" PRIu32, tensor->type);
    list_supported(supported, sizeof supported);
    qn_gguf_place(gguf->name, "tensor", tensor->name, false, 0, where);
    return qn_fail(diag, QN_ERR_UNSUPPORTED, where, "the tensor's type is not supported; got %s, want one of %s",
                   type_name != NULL ? type_name : type_text, supported);
  }
  int64_t rows = tensor->dims[1] * tensor->dims[2] * tensor->dims[3];
  *out = (qn_gguf_view){.format = format,
                        .data = tensor->data,
                        .size_bytes = (size_t)tensor->size_bytes,
                        .row_bytes = (size_t)tensor->size_bytes / (size_t)rows,
                        .rows = rows,
                        .k = tensor->dims[0]};
  return QN_OK;
}
