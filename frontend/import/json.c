// Typed reading of cJSON items with paths in the messages.
#include "frontend/import/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/map.h"

static void find_line(const char *text, const char *at, size_t *out_line, size_t *out_column) {
  *out_line = *out_column = 1;
  for (; text < at; text++) {
    *out_line += *text == '\n';
    *out_column = *text == '\n' ? 1 : *out_column + 1;
  }
}

// Is the text's number of values, as its commas and brackets tell, within bounds?
static bool is_bounded(const char *text, size_t length) {
  size_t values = 1;
  bool in_string = false;
  for (size_t i = 0; i < length && values <= QN_JSON_MOST_VALUES; i++) {
    if (in_string && text[i] == '\\') {
      i++;
    } else if (text[i] == '"') {
      in_string = !in_string;
    } else if (!in_string) {
      values += text[i] == ',' || text[i] == '[' || text[i] == '{';
    }
  }
  return values <= QN_JSON_MOST_VALUES;
}

qn_status qn_json_parse(const qn_json *json, const char *text, size_t length, cJSON **out) {
  const char *end = text;
  if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {  // a byte order mark
    text += 3;
    length -= 3;
  }
  *out = NULL;
  if (!is_bounded(text, length)) {
    return qn_fail(json->diag, QN_ERR_LIMIT, json->file, "got more than %d values; give large data in base64 or in a file",
                   QN_JSON_MOST_VALUES);
  }
  *out = cJSON_ParseWithLengthOpts(text, length + 1, &end, true);
  if (*out) return QN_OK;
  size_t line, column;
  if (end > text + length) end = text + length;
  find_line(text, end, &line, &column);
  const char *stray = memchr(text, 0, length);
  if (stray && stray <= end) {
    return qn_fail(json->diag, QN_ERR_FORMAT, json->file, "%zu:%zu: not JSON: got a zero byte", line, column);
  }
  if (end == text + length) {
    return qn_fail(json->diag, QN_ERR_FORMAT, json->file, "%zu:%zu: not JSON: the text ends too early", line, column);
  }
  char near[24];
  snprintf(near, sizeof near, "%.20s", end);
  for (char *c = near; *c; c++) {
    if (*c < ' ' || *c > '~') *c = 0;  // to the end of the line
  }
  return qn_fail(json->diag, QN_ERR_FORMAT, json->file,
                 "%zu:%zu: not JSON: at '%s' (look for a missing comma, quote or bracket)", line, column, near);
}

const char *qn_json_where(const qn_json *json, const char *path) {
  const char *where = qn_arena_printf(json->arena, "%s: %s", json->file, path);
  return where ? where : json->file;
}

qn_status qn_json_fail(const qn_json *json, qn_status status, const char *path, const char *format, ...) {
  char where[512], message[768];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  snprintf(where, sizeof where, "%s%s%s", json->file, *path ? ": " : "", path);
  return qn_fail(json->diag, status, where, "%s", message);
}

const char *qn_json_key_path(const qn_json *json, const char *path, const char *key) {
  char clean[80];
  snprintf(clean, sizeof clean, "%.79s", key);
  for (char *c = clean; *c; c++) {
    if (*c < ' ' || *c > '~') *c = '?';
  }
  const char *result = qn_arena_printf(json->arena, "%s%s%s", path, *path ? "." : "", clean);
  return result ? result : path;
}

const char *qn_json_index_path(const qn_json *json, const char *path, size_t index) {
  const char *result = qn_arena_printf(json->arena, "%s[%zu]", path, index);
  return result ? result : path;
}

static const char *kind_of(const cJSON *item) {
  if (!item) return "nothing";
  if (cJSON_IsObject(item)) return "an object";
  if (cJSON_IsArray(item)) return "a list";
  if (cJSON_IsString(item)) return "a text";
  if (cJSON_IsNumber(item)) return "a number";
  return cJSON_IsBool(item) ? "true or false" : "null";
}

static qn_status fail_kind(const qn_json *json, const cJSON *item, const char *path, const char *want) {
  return qn_json_fail(json, QN_ERR_FORMAT, path, "got %s, want %s", kind_of(item), want);
}

static bool is_listed(const char *key, const char *const *keys) {
  for (; *keys; keys++) {
    if (strcmp(*keys, key) == 0) return true;
  }
  return false;
}

static qn_status fail_unknown(const qn_json *json, const char *path, const char *const *keys) {
  qn_buf list;
  qn_buf_init(&list, json->arena->allocator);
  for (; *keys; keys++) qn_buf_printf(&list, "%s%s", list.length ? ", " : "", *keys);
  qn_status status =
      qn_json_fail(json, QN_ERR_FORMAT, path, "there is no such key here, want one of %s", qn_buf_text(&list));
  qn_buf_deinit(&list);
  return status;
}

qn_status qn_json_object(const qn_json *json, const cJSON *item, const char *path, const char *const *keys) {
  if (!cJSON_IsObject(item)) return fail_kind(json, item, path, "an object {...}");
  qn_map seen;
  qn_map_init(&seen, json->arena->allocator);
  qn_status status = QN_OK;
  const cJSON *child;
  cJSON_ArrayForEach(child, item) {
    const char *child_path = qn_json_key_path(json, path, child->string);
    qn_str key = qn_str_from(child->string);
    if (keys && !is_listed(child->string, keys)) {
      status = fail_unknown(json, child_path, keys);
    } else if (qn_map_get(&seen, key, NULL)) {
      status = qn_json_fail(json, QN_ERR_FORMAT, child_path, "the key is there twice");
    } else if (!qn_map_put(&seen, key, 1)) {
      status = qn_fail_nomem(json->diag, json->file, "an object's keys");
    }
    if (status != QN_OK) break;
  }
  qn_map_deinit(&seen);
  return status;
}

qn_status qn_json_array(const qn_json *json, const cJSON *item, const char *path, int min, int max) {
  if (!cJSON_IsArray(item)) return fail_kind(json, item, path, "a list [...]");
  int count = cJSON_GetArraySize(item);
  if (count >= min && count <= max) return QN_OK;
  return qn_json_fail(json, QN_ERR_FORMAT, path, "got %d items, want %d to %d", count, min, max);
}

qn_status qn_json_text(const qn_json *json, const cJSON *item, const char *path, const char **out) {
  if (!cJSON_IsString(item)) return fail_kind(json, item, path, "a text");
  if (!*item->valuestring) return qn_json_fail(json, QN_ERR_FORMAT, path, "got an empty text");
  *out = qn_arena_strdup(json->arena, item->valuestring);
  return *out ? QN_OK : qn_fail_nomem(json->diag, json->file, "a text");
}

qn_status qn_json_expression(const qn_json *json, const cJSON *item, const char *path, const char **out) {
  if (cJSON_IsString(item)) return qn_json_text(json, item, path, out);
  double number = cJSON_IsTrue(item) ? 1 : 0;
  if (cJSON_IsNumber(item)) {
    QN_TRY(qn_json_number(json, item, path, &number));
  } else if (!cJSON_IsBool(item)) {
    return fail_kind(json, item, path, "a number or an expression");
  }
  bool whole = number == floor(number) && fabs(number) < 9e15;  // exact in 64 bits
  *out = whole ? qn_arena_printf(json->arena, "%.0f", number) : qn_arena_printf(json->arena, "%.17g", number);
  return *out ? QN_OK : qn_fail_nomem(json->diag, json->file, "an expression");
}

qn_status qn_json_bool(const qn_json *json, const cJSON *item, const char *path, bool *out) {
  if (!cJSON_IsBool(item)) return fail_kind(json, item, path, "true or false");
  *out = cJSON_IsTrue(item);
  return QN_OK;
}

qn_status qn_json_number(const qn_json *json, const cJSON *item, const char *path, double *out) {
  if (!cJSON_IsNumber(item)) return fail_kind(json, item, path, "a number");
  if (!isfinite(item->valuedouble)) return qn_json_fail(json, QN_ERR_FORMAT, path, "got a number too large to hold");
  *out = item->valuedouble;
  return QN_OK;
}

const cJSON *qn_json_get(const cJSON *object, const char *key) { return cJSON_GetObjectItemCaseSensitive(object, key); }

qn_status qn_json_get_text(const qn_json *json, const cJSON *object, const char *path, const char *key,
                           const char **out) {
  const cJSON *item = qn_json_get(object, key);
  return item ? qn_json_text(json, item, qn_json_key_path(json, path, key), out) : QN_OK;
}

qn_status qn_json_get_expression(const qn_json *json, const cJSON *object, const char *path, const char *key,
                                 const char **out) {
  const cJSON *item = qn_json_get(object, key);
  return item ? qn_json_expression(json, item, qn_json_key_path(json, path, key), out) : QN_OK;
}
