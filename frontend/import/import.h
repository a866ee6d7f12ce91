// A model file as the compiler sees it: recognised, bound to an architecture template, checked.
#ifndef QN_IMPORT_IMPORT_H
#define QN_IMPORT_IMPORT_H

#include "frontend/import/requantize.h"
#include "ir/graph.h"
#include "ir/program.h"

typedef struct qn_import qn_import;
typedef struct qn_gguf qn_gguf;

typedef struct qn_import_options {
  const char *template_path;  // use this template; NULL = the built-in one that matches the file's architecture
} qn_import_options;

// Recognises the model by its content (GGUF, our graph JSON, a folder of the Hugging Face world or a safetensors file
// of one), binds the template, checks that every weight the template names is there with its shape. Errors name file, key
// or tensor, got and want; an unknown architecture lists the known ones.
QN_CHECKED qn_status qn_import_open(const char *path, const qn_import_options *options, const qn_allocator *allocator,
                                    qn_import **out, qn_diag *diag);
void qn_import_close(qn_import *import);

typedef struct qn_import_graph_options {
  int64_t context_tokens;  // 0 = the model's own
  int64_t chunk_tokens;    // largest T
  int64_t max_rows;        // largest R
  int64_t max_sequences;   // largest B
  qn_dtype kv_dtype;       // F32, F16, BF16, KV8 or KV4
  bool guesses;            // qn_instantiate_options.guesses
} qn_import_graph_options;

// Instantiates the template: the graph with max_values set for every symbol. Errors name the template's line.
QN_CHECKED qn_status qn_import_graph(qn_import *import, const qn_import_graph_options *options, qn_arena *arena,
                                     qn_graph **out, qn_diag *diag);

// Has the model's matrices quantised as they are asked for (requantize.h says which): graphs made after this have the
// new formats, and the weight source gives the new bytes, one tensor at a time. What `options` points at is borrowed
// until close. Errors: ones of the graph with the formats that matrices get.
QN_CHECKED qn_status qn_import_quantize(qn_import *import, const qn_requantize_options *options, qn_diag *diag);

// The tensors by the names that PARAM nodes carry. What they point at is valid until close; that of one that is made
// (quantised, converted, transposed), until the next is found.
qn_weight_source qn_import_weights(qn_import *import);
// The same without quantising anything.
qn_weight_source qn_import_stored_weights(qn_import *import);

const char *qn_import_architecture(const qn_import *import);  // "llama"
const char *qn_import_model_name(const qn_import *import);    // general.name, or the file's or folder's
int64_t qn_import_context(const qn_import *import);           // the model's own context; 0 = not stated
int64_t qn_import_vocab_size(const qn_import *import);        // qn_graph_vocab_size
int64_t qn_import_embedding_size(const qn_import *import);    // qn_graph_embedding_size
int64_t qn_import_start(const qn_import *import);             // the token that a decoder's text begins with; -1 = none of its own
qn_gguf *qn_import_gguf(qn_import *import);                   // the GGUF behind it (vocabulary); NULL = none
const char *qn_import_folder(const qn_import *import);        // of a model of the Hugging Face world; NULL = another
// IO when the model's files lost bytes since they were opened: what was read of them meanwhile is worth nothing.
QN_CHECKED qn_status qn_import_check(const qn_import *import, qn_diag *diag);
// "key = value" lines of the bound parameters and of sampling defaults, for the artifact's summary.
void qn_import_describe(const qn_import *import, qn_buf *out);
// A text from a model file as part of such a line: control bytes, newlines among them, become \xNN.
void qn_put_one_line(qn_buf *out, qn_str text);

// The built-in templates: JSON texts compiled in from models/*.json (CMake generates the table).
typedef struct qn_builtin_template {
  const char *name;  // "llama.json"
  const char *text;
} qn_builtin_template;
extern const qn_builtin_template qn_builtin_templates[];
extern const size_t qn_builtin_template_count;
// The text of "llama" is that of llama.json; NULL when there is none.
const char *qn_builtin_template_text(const char *name);

#endif
