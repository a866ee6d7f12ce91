// Inline weights of graph descriptions.
#include "frontend/import/graph_json.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool qn_base64_decode(qn_str text, qn_arena *arena, uint8_t **out, size_t *out_size) {
  *out_size = 0;
  *out = qn_arena_alloc(arena, text.length / 4 * 3 + 3);
  if (!*out) return false;
  uint32_t bits = 0;
  int count = 0;  // characters of the group of four so far
  size_t size = 0, i = 0;
  for (; i < text.length && text.data[i] != '='; i++) {
    if (strchr(" \t\r\n", text.data[i])) continue;
    int value = base64_value(text.data[i]);
    if (value < 0) return false;
    bits = bits << 6 | (uint32_t)value;
    if (++count == 4) {
      for (int shift = 16; shift >= 0; shift -= 8) (*out)[size++] = (uint8_t)(bits >> shift);
      count = 0;
    }
  }
  int padding = 0;
  for (; i < text.length; i++) {
    if (strchr(" \t\r\n", text.data[i])) continue;
    if (text.data[i] != '=' || ++padding > 2) return false;
  }
  if (count == 1 || (padding && count + padding != 4)) return false;
  if (count >= 2) (*out)[size++] = (uint8_t)(bits >> (6 * count - 8));
  if (count == 3) (*out)[size++] = (uint8_t)(bits >> 2);
  *out_size = size;
  return true;
}

// Elements by the weight's shape, which must be numbers.
static qn_status count_elements(const qn_json *json, const char *path, const qn_template_weight *weight, size_t *out) {
  *out = 1;
  for (int d = 0; d < weight->rank; d++) {
    char *end;
    long long size = strtoll(weight->shape[d], &end, 10);
    if (*end || size < 1 || !qn_size_mul(*out, (size_t)size, out) || *out > INT32_MAX) {
      return qn_json_fail(json, QN_ERR_FORMAT, path,
                          "got '%s' in the shape of a weight with its own values, want a number", weight->shape[d]);
    }
  }
  return QN_OK;
}

static qn_status read_numbers(const qn_json *json, const cJSON *item, const char *path, float *out) {
  const cJSON *child;
  size_t i = 0;
  cJSON_ArrayForEach(child, item) {
    if (!cJSON_IsNumber(child) || !isfinite((float)child->valuedouble)) {
      return qn_json_fail(json, QN_ERR_FORMAT, qn_json_index_path(json, path, i), "want a number that f32 can hold");
    }
    out[i++] = (float)child->valuedouble;
  }
  return QN_OK;
}

static qn_status fail_count(const qn_json *json, const char *path, size_t got, size_t want) {
  return qn_json_fail(json, QN_ERR_FORMAT, path, "got %zu values, want %zu by the shape", got, want);
}

static qn_status read_list(const qn_json *json, const cJSON *item, const char *path, size_t count, float **out) {
  QN_TRY(qn_json_array(json, item, path, 0, INT32_MAX));
  size_t got = (size_t)cJSON_GetArraySize(item);
  if (got != count) return fail_count(json, path, got, count);
  *out = QN_ARENA_ARRAY(json->arena, count, float);
  if (!*out) return qn_fail_nomem(json->diag, json->file, "a weight's values");
  return read_numbers(json, item, path, *out);
}

static qn_status read_base64(const qn_json *json, const cJSON *item, const char *path, size_t count, float **out) {
  if (!cJSON_IsString(item)) return qn_json_fail(json, QN_ERR_FORMAT, path, "want a text of base64");
  uint8_t *bytes;
  size_t size;
  if (!qn_base64_decode(qn_str_from(item->valuestring), json->arena, &bytes, &size)) {
    if (!bytes) return qn_fail_nomem(json->diag, json->file, "a weight's values");
    return qn_json_fail(json, QN_ERR_FORMAT, path, "is not base64");
  }
  if (size % sizeof(float) != 0 || size / sizeof(float) != count) {
    return qn_json_fail(json, QN_ERR_FORMAT, path, "got %zu bytes, want %zu: 4 for each of the shape's %zu values",
                        size, count * sizeof(float), count);
  }
  *out = QN_ARENA_ARRAY(json->arena, count, float);
  if (!*out) return qn_fail_nomem(json->diag, json->file, "a weight's values");
  for (size_t i = 0; i < count; i++) {
    const uint8_t *b = bytes + 4 * i;
    uint32_t bits = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    memcpy(&(*out)[i], &bits, sizeof bits);
  }
  return QN_OK;
}

qn_status qn_graph_json_read_data(const qn_json *json, const cJSON *item, const char *path,
                                  qn_template_weight *weight) {
  const cJSON *list = qn_json_get(item, "data"), *base64 = qn_json_get(item, "base64");
  if (!list && !base64) return QN_OK;
  if (list && base64) return qn_json_fail(json, QN_ERR_FORMAT, path, "got both data and base64, want one");
  size_t count;
  float *values = NULL;
  QN_TRY(count_elements(json, path, weight, &count));
  QN_TRY(list ? read_list(json, list, qn_json_key_path(json, path, "data"), count, &values)
              : read_base64(json, base64, qn_json_key_path(json, path, "base64"), count, &values));
  weight->data = values;
  weight->data_count = count;
  return QN_OK;
}
