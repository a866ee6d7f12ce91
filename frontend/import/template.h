// An architecture template (models/*.json), or a graph of a user's own in the same format, parsed and checked: names
// are known and distinct, ops and attributes exist, expressions are well formed. models/README.md is the format's page.
// Expressions stay texts: they are evaluated when a model is bound (bind.h) and the graph is made (instantiate.h).
#ifndef QN_IMPORT_TEMPLATE_H
#define QN_IMPORT_TEMPLATE_H

#include "frontend/import/expression.h"
#include "ir/graph.h"
#include "ir/program.h"
#include "runtime/base/map.h"

// The worlds models come from: each names keys and tensors in its own way.
typedef enum qn_world { QN_WORLD_GGUF, QN_WORLD_HF, QN_WORLD_COUNT } qn_world;
const char *qn_world_name(qn_world world);  // "gguf"

typedef enum qn_param_kind { QN_PARAM_INT, QN_PARAM_FLOAT, QN_PARAM_BOOL, QN_PARAM_TEXT } qn_param_kind;

// In all structs: pointers are the arena's, `path` is where in the JSON, "file: params.heads" (for messages).

typedef QN_VEC(const char *) qn_text_list;

typedef struct qn_template_param {
  const char *name, *path;
  qn_param_kind kind;
  qn_text_list keys[QN_WORLD_COUNT];   // metadata keys with {placeholders}, the first that is there counts
  const char *values[QN_WORLD_COUNT];  // fixed value (expression; for TEXT a text with placeholders); NULL = none
  const char *otherwise;               // when the key is not there; NULL = it must be
  const char *none;                    // when the key is there and null; NULL = as if it were not there
  const char *list;                    // how many values it has (expression), each by its number j; NULL = one
  bool has_min, has_max;
  double min, max;
} qn_template_param;

typedef struct qn_template_weight {
  const char *name, *path;
  qn_text_list names[QN_WORLD_COUNT];  // tensor names with {placeholders}, the first that is there counts
  int rank;
  const char *shape[QN_MAX_RANK];  // row-major: the last varies fastest
  bool optional;
  bool keep;          // stays in the file's format when the model is quantised
  // Its values, an expression of the number j and, where that world has a tensor, of its `value`; NULL = as they are.
  const char *each[QN_WORLD_COUNT];
  // With each: the shape of the tensor that its values are of, which are value[0], value[1], ...; rank 0 = the weight's own.
  int stored_rank;
  const char *stored[QN_MAX_RANK];
  bool transposed[QN_WORLD_COUNT];  // a matrix that this world's files hold as [columns in, rows out]
  // The index in names of tensors that are stacked along the first dimension, one for each of its elements; NULL = one
  // tensor. A name without the index is that of the whole.
  const char *stack;
  // Of a tensor of rows[world][1] rows those from number rows[world][0] on, as many as the shape has, of a vector one
  // (expressions); NULL = all of it.
  const char *rows[QN_WORLD_COUNT][2];
  const float *data;  // the values themselves (graphs); NULL = in the model file
  size_t data_count;
} qn_template_weight;

// A step's input, of the runtime (tokens, pos, ...) or of the host.
typedef struct qn_template_input {
  const char *name;
  qn_type type;
  const char *path, *sizes[QN_MAX_RANK];  // sizes: expressions of params, for dimensions that are not told by the type
} qn_template_input;

typedef struct qn_template_refusal {
  const char *path, *condition, *message;  // the message with placeholders
} qn_template_refusal;

// "x", "rope_factors?", "output|token_embd", or a constant.
typedef struct qn_template_arg {
  const char *path;
  const char *constant;  // an expression; NULL = names
  const char *names[4];  // the first that is there
  int name_count;
  bool optional;  // left out when none is
} qn_template_arg;

typedef struct qn_template_attr {
  const char *path;
  qn_attr_id id;
  const char *value;  // an expression; for attributes that are texts a text with placeholders
} qn_template_attr;

typedef enum qn_statement_kind {
  QN_STATEMENT_OP,
  QN_STATEMENT_REPEAT,
  QN_STATEMENT_CHOICE,
  QN_STATEMENT_OUTPUT
} qn_statement_kind;

typedef struct qn_statement qn_statement;
typedef struct qn_statement_list {
  qn_statement *items;
  size_t count, capacity;
} qn_statement_list;

struct qn_statement {
  qn_statement_kind kind;
  const char *path;
  const char *condition;  // NULL = always
  // OP
  const char *set;
  qn_op op;
  int arg_count, attr_count;
  qn_template_arg args[QN_MAX_OPERANDS];
  qn_template_attr attrs[QN_MAX_ATTRS];
  bool has_shape;
  int rank;
  const char *shape[QN_MAX_RANK];
  const char *dtype;  // "kv" = what the cache is kept in
  // REPEAT: count times `body`, `index` from 0
  const char *count, *index, *label;
  qn_statement_list body;       // REPEAT, and CHOICE where the condition holds
  qn_statement_list otherwise;  // CHOICE
  // OUTPUT
  const char *output, *value;
};

typedef struct qn_template {
  qn_arena *arena;   // borrowed
  const char *file;  // "llama.json"
  const char *name;
  bool is_graph;                         // "quern_graph": brings its own values and weights
  qn_text_list matches[QN_WORLD_COUNT];  // architectures it is for
  QN_VEC(qn_template_param) params;
  QN_VEC(qn_template_weight) weights;
  QN_VEC(qn_template_input) inputs;
  QN_VEC(qn_template_refusal) refusals;
  qn_text_list ignored_keys, ignored_weights;  // patterns with '*' for what the graph may leave out
  const char *max_context,
      *max_context_path;     // expression: the most tokens a sequence may have; NULL = no limit of the architecture
  const char *start, *start_path;  // expression: the token that a decoder's text begins with; NULL = none of its own
  const char *weights_file;  // a graph's: path of a GGUF file beside it; NULL = none
  qn_statement_list body;
  qn_map names;  // name → kind and index; see qn_template_find
} qn_template;

typedef enum qn_name_kind {
  QN_NAME_NONE,
  QN_NAME_PARAM,
  QN_NAME_WEIGHT,
  QN_NAME_INPUT,
  QN_NAME_VALUE,  // set by a statement
  QN_NAME_INDEX,  // of a repeat
} qn_name_kind;

// Gives the text of another template that one extends ("llama"); NULL when there is none.
typedef const char *(*qn_template_lookup_fn)(const char *name);

// Parses and checks `text` (NUL after its length). What it makes lives in `arena`; `file` is for messages and copied.
// On success and on failure qn_template_deinit releases the rest. Errors name the path within the JSON.
QN_CHECKED qn_status qn_template_parse(qn_template *out, const char *file, const char *text, size_t length,
                                       qn_template_lookup_fn lookup, qn_arena *arena, qn_diag *diag);
void qn_template_deinit(qn_template *t);
// The architectures alone that a template is for, by world, without a look at the rest of it. Everything is the arena's;
// `file` is borrowed.
QN_CHECKED qn_status qn_template_read_matches(qn_text_list out[QN_WORLD_COUNT], const char *file, const char *text,
                                              size_t length, qn_arena *arena, qn_diag *diag);

// What a name stands for; *out_index is its place in params, weights or inputs.
qn_name_kind qn_template_find(const qn_template *t, qn_str name, size_t *out_index);

// Names that may not be given to anything: the symbols and the words the language defines.
bool qn_template_is_reserved(const char *name);
// "T", "64P": a dimension with a symbol; false for anything else.
bool qn_template_parse_symbol(const char *text, qn_dim *out);

// Gives a name to something; fails when it is taken.
QN_CHECKED qn_status qn_template_declare(qn_template *t, const char *path, const char *name, qn_name_kind kind,
                                         size_t index, qn_diag *diag);
// The static check, after parsing (template_check.c).
QN_CHECKED qn_status qn_template_check(qn_template *t, qn_diag *diag);

#endif
