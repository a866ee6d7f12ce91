// A Hugging Face config.json (or another of a folder's JSON files) as dotted keys: "hidden_size", "rope_scaling.factor".
// What is null is as if it were not there, but for qn_hf_config_is_null.
#ifndef QN_IMPORT_HF_CONFIG_H
#define QN_IMPORT_HF_CONFIG_H

#include "frontend/import/template.h"

// One value. Objects are taken apart into their members; an empty object is a value.
typedef struct qn_hf_value {
  const char *key;  // arena: the dotted path
  enum { QN_HF_BOOL, QN_HF_NUMBER, QN_HF_TEXT, QN_HF_LIST, QN_HF_OBJECT, QN_HF_NULL } kind;
  bool flag;                         // BOOL
  double number;                     // NUMBER
  const char *text;                  // TEXT, arena
  const struct qn_hf_value *items;   // LIST, arena; those of nested lists and objects have no key
  size_t count;                      // LIST
} qn_hf_value;

typedef struct qn_hf_config {
  const char *name;  // arena: the path of the file
  qn_arena *arena;   // borrowed
  QN_VEC(qn_hf_value) values;  // in file order
  qn_map index;                // key → place in values
} qn_hf_config;

// Reads the file; errors name it and the path in it. qn_hf_config_deinit releases what the arena does not hold, after
// failures too.
QN_CHECKED qn_status qn_hf_config_open(qn_hf_config *out, const char *path, qn_arena *arena, qn_diag *diag);
// The same from `length` bytes with a NUL after them.
QN_CHECKED qn_status qn_hf_config_parse(qn_hf_config *out, const char *name, const char *text, size_t length,
                                        qn_arena *arena, qn_diag *diag);
// Adds the keys of another file, each behind `prefix` and a dot; FORMAT for one that is there already.
QN_CHECKED qn_status qn_hf_config_add_file(qn_hf_config *config, const char *path, const char *prefix, qn_diag *diag);
// Adds a number under a key; `name` is that of the file for messages.
QN_CHECKED qn_status qn_hf_config_add_number(qn_hf_config *config, const char *name, const char *key, double number,
                                             qn_diag *diag);
void qn_hf_config_deinit(qn_hf_config *config);

const qn_hf_value *qn_hf_config_find(const qn_hf_config *config, const char *key);  // NULL = none, or null
bool qn_hf_config_is_null(const qn_hf_config *config, const char *key);             // it is there, and null
// The value under a key as a param of this kind wants it (BOOL: 0 or 1). A list with one value a layer is taken when all
// are equal; FORMAT for a value of another kind.
QN_CHECKED qn_status qn_hf_config_get(const qn_hf_config *config, const char *key, qn_param_kind kind, bool *out_found,
                                      qn_value *out, qn_diag *diag);
// The same of a key whose value may be a list: number `index` of *out_count values, untouched where there are fewer;
// *out_count is -1 for a key with one value.
QN_CHECKED qn_status qn_hf_config_get_item(const qn_hf_config *config, const char *key, qn_param_kind kind, int64_t index,
                                           bool *out_found, int64_t *out_count, qn_value *out, qn_diag *diag);
// For people: 4096, true, "llama", ["full", "full", ...] with at most max_items items.
void qn_hf_value_print(const qn_hf_value *value, size_t max_items, qn_buf *out);

#endif
