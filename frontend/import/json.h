// Walking JSON that may come from anybody: every item is read by a function that checks its type and names its path
// ("llama.json: graph[4].body[2].attrs.eps") when it is wrong. Templates and graphs are read with it; cJSON parses.
#ifndef QN_IMPORT_JSON_H
#define QN_IMPORT_JSON_H

#include <cjson/cJSON.h>

#include "runtime/base/arena.h"
#include "runtime/base/diag.h"

// What a walk carries. Paths and texts that it hands out live in the arena.
typedef struct qn_json {
  qn_arena *arena;   // borrowed
  const char *file;  // borrowed: begins every message
  qn_diag *diag;     // borrowed; may be NULL
} qn_json;

// A value takes some 70 bytes of memory and may take 2 in the text: a file of a gigabyte must not take all of the machine.
// Numbers of weights may be in base64.
enum { QN_JSON_MOST_VALUES = 1 << 23 };

// Parses `text` (NUL after its length), of at most so many values. Errors give line and column. *out is freed with cJSON_Delete.
QN_CHECKED qn_status qn_json_parse(const qn_json *json, const char *text, size_t length, cJSON **out);

qn_status qn_json_fail(const qn_json *json, qn_status status, const char *path, const char *format, ...)
    QN_PRINTF(4, 5);
// "path.key" and "path[3]"; path "" is the top. When memory runs out they give `path` itself.
const char *qn_json_key_path(const qn_json *json, const char *path, const char *key);
const char *qn_json_index_path(const qn_json *json, const char *path, size_t index);
// "file: path": where messages of others begin.
const char *qn_json_where(const qn_json *json, const char *path);

// An object without duplicate keys. `keys`, a list ended by NULL, are those it may have; NULL: any.
QN_CHECKED qn_status qn_json_object(const qn_json *json, const cJSON *item, const char *path, const char *const *keys);
QN_CHECKED qn_status qn_json_array(const qn_json *json, const cJSON *item, const char *path, int min, int max);
// A text that is not empty, copied.
QN_CHECKED qn_status qn_json_text(const qn_json *json, const cJSON *item, const char *path, const char **out);
// A text, number or boolean as the text of an expression.
QN_CHECKED qn_status qn_json_expression(const qn_json *json, const cJSON *item, const char *path, const char **out);
QN_CHECKED qn_status qn_json_bool(const qn_json *json, const cJSON *item, const char *path, bool *out);
QN_CHECKED qn_status qn_json_number(const qn_json *json, const cJSON *item, const char *path, double *out);

// The item under a key of an object, or NULL.
const cJSON *qn_json_get(const cJSON *object, const char *key);
// As above for a key that may be missing: *out stays as it was then.
QN_CHECKED qn_status qn_json_get_text(const qn_json *json, const cJSON *object, const char *path, const char *key,
                                      const char **out);
QN_CHECKED qn_status qn_json_get_expression(const qn_json *json, const cJSON *object, const char *path, const char *key,
                                            const char **out);

#endif
