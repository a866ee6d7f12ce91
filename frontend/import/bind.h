// A template bound to a model: params evaluated from the model's metadata, weights found and checked against their
// shapes. The model is seen through qn_model_source, so that every world (GGUF, Hugging Face, a graph's own values)
// binds in the same way.
#ifndef QN_IMPORT_BIND_H
#define QN_IMPORT_BIND_H

#include "frontend/import/template.h"

// A model's metadata and tensors. Errors are for what is there and wrong; what is not there is *out_found = false.
// Tensors whose data is NULL are not in the files as they are wanted: load_tensor makes their bytes.
typedef struct qn_model_source {
  void *context;
  const char *name;          // for messages: the file
  const char *architecture;  // "llama"
  qn_world world;
  // The value under a metadata key, as `kind` wants it (BOOL: 0 or 1). A text is borrowed until the source ends.
  qn_status (*find_key)(void *context, const char *key, qn_param_kind kind, bool *out_found, qn_value *out,
                        qn_diag *diag);
  // The same of a key whose value may be a list: number `index` of *out_count values, untouched where there are fewer;
  // *out_count is -1 for a key with one value, which stands for all.
  qn_status (*find_item)(void *context, const char *key, qn_param_kind kind, int64_t index, bool *out_found,
                         int64_t *out_count, qn_value *out, qn_diag *diag);
  bool (*is_null)(void *context, const char *key);  // is the key there with nothing? NULL: no key can be
  // dims are row-major, rank as in the file.
  qn_status (*find_tensor)(void *context, const char *name, bool *out_found, qn_tensor_data *out, qn_diag *diag);
  bool (*has_tensor)(void *context, const char *name);  // the same without looking at the tensor
  // Writes the bytes of a tensor that find_tensor gave without data: as many as its format and dims take. NULL when all
  // have data.
  qn_status (*load_tensor)(void *context, const char *name, void *out, qn_diag *diag);
  // The i-th of the keys that say how the model computes, and the i-th tensor's name; false after the last. An empty
  // name is none.
  bool (*key_at)(void *context, size_t i, qn_str *out);
  bool (*tensor_at)(void *context, size_t i, qn_str *out);
} qn_model_source;

// A weight that the graph uses.
typedef struct qn_bound_tensor {
  const char *name;         // arena: the tensor's name in the file, or the weight's own
  const qn_template_weight *weight;
  qn_tensor_data data;      // rank and dims as the template has them; in the file's format. data NULL: it is to be made
  bool transposed;          // the file has the two dims the other way round; data is NULL then
  int64_t first_row, file_rows;  // the weight is rows of the file's matrix from first_row on; file_rows 0: all of it
  const char **parts;       // arena: the tensors that are stacked, of which `name` is the first; data is NULL then
  int64_t part_count;       // 0 = it is one tensor
  const qn_format *target;  // what the graph computes with: the file's format, or another after qn_requantize_plan
  bool keep;                // the template's word
  const char *kept;         // after a plan: why target is the file's format; static
} qn_bound_tensor;

// The values of a param that is a list.
typedef struct qn_value_list {
  qn_value *items;
  int64_t count;
} qn_value_list;

typedef struct qn_binding {
  const qn_template *t;             // borrowed
  qn_model_source source;           // what it points at is borrowed
  qn_arena *arena;                  // borrowed
  qn_value *values;                 // one a param
  qn_value_list *lists;             // the same, of those that are lists
  qn_map keys;                      // the metadata keys that params read
  uint8_t *states;                  // of their evaluation
  int depth;                        // params being evaluated, one for another
  int64_t made;                     // values of lists and of computed weights so far
  int64_t work;                     // characters of expressions so far: qn_scope
  QN_VEC(qn_bound_tensor) tensors;  // in the order of first use
  qn_map tensor_index;              // name → place in tensors
  int64_t context;                  // the model's own context in tokens; 0 = not stated
  int64_t max_context;              // what the architecture allows; 0 = no limit
  int64_t start;                    // the token that a decoder's text begins with; -1 = none of its own
} qn_binding;

// Evaluates every param and refusal. qn_binding_deinit releases what the arena does not hold, after failures too.
QN_CHECKED qn_status qn_binding_init(qn_binding *binding, const qn_template *t, const qn_model_source *source,
                                     qn_arena *arena, qn_diag *diag);
void qn_binding_deinit(qn_binding *binding);

#define QN_MAX_FRAMES 10

// Where in the graph an expression is evaluated: the repeats around it, and other names that are known there.
typedef struct qn_place {
  qn_binding *binding;
  int count;
  struct {
    const char *name, *label;  // label NULL: no repeat's
    qn_value value;
  } frames[QN_MAX_FRAMES];
  const double *values;  // value[0] ...: of the tensor that a weight is computed from; NULL = not known
  int64_t value_count;
} qn_place;
// Makes a name known.
void qn_place_push(qn_place *place, const char *name, const char *label, qn_value value);
qn_scope qn_place_scope(qn_place *place);

// Whether a weight is in the model, here. Does not bind it.
QN_CHECKED qn_status qn_binding_has(qn_place *place, const char *where, const qn_template_weight *weight, bool *out,
                                    qn_diag *diag);
// Finds a weight that must be there, checks its shape and binds it; *out is valid until the next call.
QN_CHECKED qn_status qn_binding_weight(qn_place *place, const char *where, const qn_template_weight *weight,
                                       const qn_bound_tensor **out, qn_diag *diag);

// The bytes of a tensor whose data is NULL, from `allocator`: *out_size of them, in data's format and shape. They are the
// caller's.
QN_CHECKED qn_status qn_binding_load(const qn_binding *binding, const qn_bound_tensor *tensor,
                                     const qn_allocator *allocator, void **out, size_t *out_size, qn_diag *diag);

// "key = value" lines of all params.
void qn_binding_describe(const qn_binding *binding, qn_buf *out);
// True when a metadata key is one that a param reads.
bool qn_binding_reads_key(const qn_binding *binding, qn_str key);
// Whether a name fits a pattern, in which '*' stands for any characters.
bool qn_pattern_matches(const char *pattern, qn_str name);
// Whether a name fits one of the patterns; {placeholders} of params are filled in.
QN_CHECKED qn_status qn_binding_ignores(qn_binding *binding, const qn_text_list *patterns, qn_str name, bool *out,
                                        qn_diag *diag);

#endif
