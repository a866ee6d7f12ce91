// What the readers of a tokenizer.json share.
#ifndef QN_IMPORT_VOCAB_JSON_H
#define QN_IMPORT_VOCAB_JSON_H

#include "frontend/import/json.h"
#include "frontend/import/vocab_steps.h"
#include "runtime/base/map.h"

typedef struct vocab_json {
  qn_json json;
  qn_arena *arena;  // borrowed: owns all that the description points at
  qn_tokenizer_desc *out;
  qn_step_list steps;
  qn_map ids;  // token → id
  bool byte_fallback;
  QN_VEC(int32_t) before, after;  // arena
} vocab_json;

// A part of a pipeline by its "type": the reader of one.
typedef qn_status vocab_part_fn(vocab_json *v, const cJSON *item, const char *path);
typedef struct vocab_part {
  const char *type;
  vocab_part_fn *read;
} vocab_part;

// Reads a part that is in a table of `count`; `what` says what it is of. Null and missing parts are nothing.
QN_CHECKED qn_status vocab_json_part(vocab_json *v, const cJSON *item, const char *path, const vocab_part *table,
                                     size_t count, const char *what);
// Reads each part of the list under `key`.
QN_CHECKED qn_status vocab_json_sequence(vocab_json *v, const cJSON *item, const char *path, const char *key,
                                         const vocab_part *table, size_t count, const char *what);

// An item under a key, or NULL when it is missing or null.
const cJSON *vocab_json_get(const cJSON *object, const char *key);
// Values that may be missing: *out stays as it was then. Texts may be empty and are copied.
QN_CHECKED qn_status vocab_json_bool(vocab_json *v, const cJSON *object, const char *path, const char *key, bool *out);
QN_CHECKED qn_status vocab_json_text(vocab_json *v, const cJSON *object, const char *path, const char *key,
                                     qn_str *out);
// A whole number in [min, max].
QN_CHECKED qn_status vocab_json_int(vocab_json *v, const cJSON *item, const char *path, int64_t min, int64_t max,
                                    int64_t *out);
// The id of a token that must be there.
QN_CHECKED qn_status vocab_json_token(vocab_json *v, qn_str text, const char *path, int32_t *out);

// {"String": ...} or {"Regex": ...}: a PCRE2 pattern, and whether it is a plain text.
QN_CHECKED qn_status vocab_json_pattern(vocab_json *v, const cJSON *object, const char *path, qn_str *out,
                                        bool *out_literal);
// A pattern of the tokenizers library (Oniguruma's syntax) as PCRE2 has it. Errors: UNSUPPORTED, with the place.
QN_CHECKED qn_status vocab_json_regex(vocab_json *v, qn_str pattern, const char *path, qn_str *out);

QN_CHECKED qn_status vocab_json_normalizer(vocab_json *v, const cJSON *item);
QN_CHECKED qn_status vocab_json_pre_tokenizer(vocab_json *v, const cJSON *item);
QN_CHECKED qn_status vocab_json_post_processor(vocab_json *v, const cJSON *item);
QN_CHECKED qn_status vocab_json_decoder(vocab_json *v, const cJSON *item);

#endif
