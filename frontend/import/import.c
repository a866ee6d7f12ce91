// Opens a model file: recognises it, finds its template, binds the two, and makes the graph once to see that all fits.
#include "frontend/import/import.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "frontend/import/gguf.h"
#include "frontend/import/gguf_source.h"
#include "frontend/import/instantiate.h"
#include "runtime/base/file.h"

enum { PEEK_BYTES = 64 };

struct qn_import {
  const qn_allocator *allocator;  // borrowed
  qn_arena arena;                 // template, binding, texts
  qn_gguf *gguf;                  // owned; NULL for a graph without a weights file
  qn_template t;
  qn_binding binding;
  const char *architecture, *model_name;  // arena
  int64_t vocab_size;
  qn_requantize_options quantize;  // format NULL: nothing is quantised
  void *quantized;                 // owned: the bytes of the tensor that was found last
  size_t quantized_bytes;
};

// --- built-in templates

const char *qn_builtin_template_text(const char *name) {
  size_t length = strlen(name);
  for (size_t i = 0; i < qn_builtin_template_count; i++) {
    const qn_builtin_template *builtin = &qn_builtin_templates[i];
    if (strncmp(builtin->name, name, length) == 0 && strcmp(builtin->name + length, ".json") == 0) return builtin->text;
  }
  return NULL;
}

static bool template_matches(const qn_template *t, const char *architecture) {
  const qn_text_list *list = &t->matches[QN_WORLD_GGUF];
  for (size_t i = 0; i < list->count; i++) {
    if (strcmp(list->items[i], architecture) == 0) return true;
  }
  return false;
}

// Parses the built-in template for the architecture into import->t.
static qn_status find_builtin(qn_import *import, const char *path, qn_diag *diag) {
  qn_buf known;
  qn_buf_init(&known, import->allocator);
  qn_status status = QN_OK;
  bool found = false;
  for (size_t i = 0; status == QN_OK && !found && i < qn_builtin_template_count; i++) {
    const qn_builtin_template *builtin = &qn_builtin_templates[i];
    qn_template_deinit(&import->t);
    status = qn_template_parse(&import->t, builtin->name, builtin->text, strlen(builtin->text),
                               qn_builtin_template_text, &import->arena, diag);
    found = status == QN_OK && template_matches(&import->t, import->architecture);
    for (size_t n = 0; status == QN_OK && n < import->t.matches[QN_WORLD_GGUF].count; n++) {
      qn_buf_printf(&known, "%s%s", known.length ? ", " : "", import->t.matches[QN_WORLD_GGUF].items[n]);
    }
  }
  if (status == QN_OK && !found) {
    status = qn_fail(diag, QN_ERR_UNSUPPORTED, path,
                     "got the architecture '%.60s', want one of %s; or describe it in a template of your own",
                     import->architecture, qn_buf_text(&known));
  }
  qn_buf_deinit(&known);
  return status;
}

// Reads a JSON file and parses it as a template or graph into import->t.
static qn_status read_template(qn_import *import, const char *path, qn_diag *diag) {
  char *text;
  size_t size;
  QN_TRY(qn_file_read(path, QN_TEXT_MAX, import->allocator, &text, &size, diag));
  qn_status status = qn_template_parse(&import->t, path, text, size, qn_builtin_template_text, &import->arena, diag);
  qn_free(import->allocator, text, size + 1);
  return status;
}

static qn_status find_template(qn_import *import, const char *path, const char *template_path, qn_diag *diag) {
  if (!template_path) return find_builtin(import, path, diag);
  QN_TRY(read_template(import, template_path, diag));
  if (import->t.is_graph) {
    return qn_fail(diag, QN_ERR_ARGUMENT, template_path, "is a graph, want a template (\"quern_template\": 1)");
  }
  if (template_matches(&import->t, import->architecture)) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, template_path,
                 "is not for the architecture '%.60s' of %s; add it to the template's \"gguf\" list if it is",
                 import->architecture, path);
}

// --- making the graph

static qn_status make_graph(qn_import *import, const qn_import_graph_options *o, int64_t context, qn_arena *arena,
                            qn_graph **out, qn_diag *diag) {
  qn_instantiate_options options = {.kv_dtype = o->kv_dtype, .context_tokens = context};
  int64_t pages = (context + QN_PAGE_KEYS - 1) / QN_PAGE_KEYS;
  options.max_values[QN_SYM_T] = o->chunk_tokens;
  options.max_values[QN_SYM_R] = o->max_rows;
  options.max_values[QN_SYM_P] = pages;
  options.max_values[QN_SYM_B] = o->max_sequences;
  options.max_values[QN_SYM_G] = pages * o->max_sequences;
  return qn_instantiate(&import->binding, &options, arena, out, diag);
}

// The width of the output "logits".
static int64_t logits_width(const qn_graph *graph) {
  for (size_t i = 0; i < graph->outputs.count; i++) {
    const qn_output *output = &graph->outputs.items[i];
    const qn_type *type = &qn_graph_node(graph, output->value)->type;
    if (strcmp(output->name, "logits") == 0 && type->rank == 2) return type->dims[1].value;
  }
  return 0;
}

// A graph made and dropped: every error of template and weights shows here, before anything else is done. On the way
// plans the quantising of its weights where a format is given.
static qn_status try_graph(qn_import *import, const qn_format *quantize, qn_diag *diag) {
  const qn_import_graph_options options = {
      .chunk_tokens = 1, .max_rows = 1, .max_sequences = 1, .kv_dtype = QN_DTYPE_F32};
  qn_arena arena;
  qn_graph *graph = NULL;
  qn_arena_init(&arena, import->allocator);
  qn_status status = make_graph(import, &options, 1, &arena, &graph, diag);
  if (status == QN_OK) import->vocab_size = logits_width(graph);
  if (status == QN_OK && quantize) qn_requantize_plan(&import->binding, graph, quantize);
  qn_arena_deinit(&arena);
  return status;
}

// --- the kinds of files

static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

static qn_status set_text(qn_import *import, const char **out, qn_str text, qn_diag *diag) {
  *out = qn_arena_strndup(&import->arena, text.data, text.length);
  return *out ? QN_OK : qn_fail_nomem(diag, "import", "a name");
}

static qn_status open_gguf(qn_import *import, const char *path, const qn_import_options *options, qn_diag *diag) {
  qn_str text;
  QN_TRY(qn_gguf_open(&import->gguf, path, import->allocator, diag));
  QN_TRY(qn_gguf_get_string(import->gguf, "general.architecture", &text, diag));
  QN_TRY(set_text(import, &import->architecture, text, diag));
  bool named = qn_gguf_find(import->gguf, "general.name") &&
               qn_gguf_get_string(import->gguf, "general.name", &text, NULL) == QN_OK && text.length > 0;
  QN_TRY(set_text(import, &import->model_name, named ? text : qn_str_from(base_name(path)), diag));
  QN_TRY(find_template(import, path, options ? options->template_path : NULL, diag));
  if (import->gguf->tensor_count == 0) {
    return qn_fail(diag, QN_ERR_FORMAT, path, "has no tensors (a vocabulary only?), want a model's weights");
  }
  qn_model_source source = qn_gguf_source(import->gguf, path, import->architecture);
  QN_TRY(qn_binding_init(&import->binding, &import->t, &source, &import->arena, diag));
  QN_TRY(try_graph(import, NULL, diag));
  return qn_gguf_source_check_unread(import->gguf, &import->binding, diag);
}

// The GGUF file that a graph names, beside it.
static qn_status open_weights_file(qn_import *import, const char *path, qn_diag *diag) {
  const char *file = import->t.weights_file;
  int folder = file[0] == '/' ? 0 : (int)(base_name(path) - path);
  const char *full = qn_arena_printf(&import->arena, "%.*s%s", folder, path, file);
  if (!full) return qn_fail_nomem(diag, path, "a path");
  return qn_gguf_open(&import->gguf, full, import->allocator, diag);
}

static qn_status open_graph(qn_import *import, const char *path, const qn_import_options *options, qn_diag *diag) {
  if (options && options->template_path) {
    return qn_fail(diag, QN_ERR_ARGUMENT, path, "is a graph in JSON and needs no template; got the template %s",
                   options->template_path);
  }
  QN_TRY(read_template(import, path, diag));
  if (!import->t.is_graph) {
    return qn_fail(diag, QN_ERR_ARGUMENT, path,
                   "is an architecture template, want a model: give a model file, and this "
                   "as its template");
  }
  if (import->t.weights_file) QN_TRY(open_weights_file(import, path, diag));
  import->architecture = import->model_name = import->t.name;
  const char *source_name = import->gguf ? import->gguf->name : path;
  qn_model_source source = qn_gguf_source(import->gguf, source_name, import->architecture);
  QN_TRY(qn_binding_init(&import->binding, &import->t, &source, &import->arena, diag));
  return try_graph(import, NULL, diag);
}

// --- recognising

typedef enum file_kind { FILE_GGUF, FILE_JSON, FILE_OTHER } file_kind;

static bool begins(const uint8_t *data, size_t size, const char *magic, size_t length) {
  return size >= length && memcmp(data, magic, length) == 0;
}

#define GGUF_ADVICE "; convert the model to GGUF (llama.cpp's convert_hf_to_gguf.py)"

// What a file that is no model of ours seems to be, and what to do.
static const char *name_other(const uint8_t *d, size_t size) {
  if (begins(d, size, "quern\r\n\032", 8)) return "is compiled already, want a model file: run it as it is";
  if (begins(d, size, "PK\003\004", 4)) return "is a zip archive or a PyTorch checkpoint, want GGUF" GGUF_ADVICE;
  if (size >= 2 && d[0] == 0x80 && d[1] >= 2 && d[1] <= 5)
    return "is a Python pickle (an old PyTorch checkpoint), want GGUF" GGUF_ADVICE;
  if (begins(d, size, "\x89HDF", 4)) return "is an HDF5 file, want GGUF" GGUF_ADVICE;
  if (begins(d, size, "tjgg", 4) || begins(d, size, "lmgg", 4) || begins(d, size, "fmgg", 4) ||
      begins(d, size, "algg", 4)) {
    return "is a GGML file from before GGUF, want GGUF; get a newer file or convert the original model";
  }
  if (size >= 9 && d[8] == '{' && d[6] == 0 && d[7] == 0) return "is a safetensors file, want GGUF" GGUF_ADVICE;
  if (size >= 3 && d[0] == 0x08 && d[1] >= 1 && d[1] < 32 &&
      (d[2] == 0x12 || d[2] == 0x1a || d[2] == 0x22 || d[2] == 0x3a)) {
    return "is an ONNX model, want GGUF; convert the model it was made from, or describe the graph in JSON "
           "(models/README.md)";
  }
  return "is neither GGUF nor a graph in JSON (by its first bytes)";
}

static qn_status recognise(const char *path, file_kind *out, qn_diag *diag) {
  qn_mapping mapping;
  QN_TRY(qn_mapping_open(&mapping, path, diag));
  const uint8_t *data = mapping.data;
  size_t size = mapping.size < PEEK_BYTES ? mapping.size : PEEK_BYTES, at = 0;
  if (begins(data, size, "\xef\xbb\xbf", 3)) at = 3;
  while (at < size && memchr(" \t\r\n", data[at], 4)) at++;
  *out = begins(data, size, "GGUF", 4) ? FILE_GGUF : at < size && data[at] == '{' ? FILE_JSON : FILE_OTHER;
  const char *other = *out == FILE_OTHER ? name_other(data, size) : NULL;
  qn_mapping_close(&mapping);
  return other ? qn_fail(diag, QN_ERR_UNSUPPORTED, path, "%s", other) : QN_OK;
}

// --- public

qn_status qn_import_open(const char *path, const qn_import_options *options, const qn_allocator *allocator,
                         qn_import **out, qn_diag *diag) {
  file_kind kind;
  *out = NULL;
  QN_TRY(recognise(path, &kind, diag));
  qn_import *import = qn_alloc_zeroed(allocator, sizeof *import);
  if (!import) return qn_fail_nomem(diag, path, "an import");
  import->allocator = allocator;
  qn_arena_init(&import->arena, allocator);
  qn_map_init(&import->t.names, allocator);
  qn_map_init(&import->binding.tensor_index, allocator);
  qn_status status =
      kind == FILE_GGUF ? open_gguf(import, path, options, diag) : open_graph(import, path, options, diag);
  if (status == QN_OK) {
    *out = import;
  } else {
    qn_import_close(import);
  }
  return status;
}

void qn_import_close(qn_import *import) {
  if (!import) return;
  qn_binding_deinit(&import->binding);
  qn_template_deinit(&import->t);
  qn_gguf_close(import->gguf);
  qn_free(import->allocator, import->quantized, import->quantized_bytes);
  qn_arena_deinit(&import->arena);
  qn_free(import->allocator, import, sizeof *import);
}

static qn_status check_range(const char *what, int64_t got, int64_t max, qn_diag *diag) {
  if (got >= 1 && got <= max) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, what, "got %" PRId64 ", want 1 to %" PRId64, got, max);
}

qn_status qn_import_graph(qn_import *import, const qn_import_graph_options *options, qn_arena *arena, qn_graph **out,
                          qn_diag *diag) {
  int64_t context = options->context_tokens ? options->context_tokens : import->binding.context;
  int64_t most = import->binding.max_context;
  *out = NULL;
  if (context == 0) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "context", "got none, want a number of tokens: the model %s states none",
                   import->model_name);
  }
  QN_TRY(check_range("context", context, INT32_MAX, diag));
  QN_TRY(check_range("chunk", options->chunk_tokens, INT32_MAX, diag));
  QN_TRY(check_range("rows", options->max_rows, INT32_MAX, diag));
  QN_TRY(check_range("sequences", options->max_sequences, 1 << 20, diag));
  if (!qn_dtype_is_float(options->kv_dtype)) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "kv type", "got %s, want f32, f16 or bf16", qn_dtype_name(options->kv_dtype));
  }
  if (most && context > most) {
    return qn_fail(diag, QN_ERR_LIMIT, "context",
                   "got %" PRId64 " tokens, want at most the %" PRId64 " that %s has positions for", context, most,
                   import->model_name);
  }
  return make_graph(import, options, context, arena, out, diag);
}

qn_status qn_import_quantize(qn_import *import, const qn_requantize_options *options, qn_diag *diag) {
  import->quantize = *options;
  if (!options->format) return QN_OK;
  QN_TRY(try_graph(import, options->format, diag));
  return try_graph(import, NULL, diag);  // as it will be: ops may refuse the new formats
}

// A tensor in its target's format, and what became of it to the caller's report.
static qn_status requantize(qn_import *import, const qn_bound_tensor *tensor, qn_tensor_data *out, qn_diag *diag) {
  const qn_requantize_options *options = &import->quantize;
  qn_requantized result = {.name = tensor->name,
                           .from = tensor->data.format,
                           .asked = options->format,
                           .to = tensor->target,
                           .kept = tensor->kept,
                           .rows = qn_requantize_rows(&tensor->data),
                           .k = tensor->data.dims[tensor->data.rank - 1]};
  *out = tensor->data;
  if (!tensor->kept) {
    size_t size;
    qn_free(import->allocator, import->quantized, import->quantized_bytes);
    import->quantized = NULL;
    if (!qn_format_file_bytes(tensor->target, result.rows, result.k, &size) ||
        (import->quantized = qn_alloc(import->allocator, size)) == NULL) {
      return qn_fail_nomem(diag, tensor->name, "its quantised bytes");
    }
    import->quantized_bytes = size;
    QN_TRY(qn_requantize_matrix(&tensor->data, tensor->target, tensor->name, options, import->allocator,
                                import->quantized, &result, diag));
    out->format = tensor->target;
    out->data = import->quantized;
  }
  if (options->report) options->report(options->report_context, &result);
  return QN_OK;
}

// A qn_weight_source's function. Tensors that the graph uses have its shapes; others are given as the file has them.
static qn_status find_weight(void *context, const char *name, qn_tensor_data *out, qn_diag *diag) {
  qn_import *import = context;
  const qn_model_source *source = &import->binding.source;
  uint64_t index;
  bool found = false;
  if (qn_map_get(&import->binding.tensor_index, qn_str_from(name), &index)) {
    const qn_bound_tensor *tensor = &import->binding.tensors.items[index];
    if (import->quantize.format && tensor->data.rank >= 2) return requantize(import, tensor, out, diag);
    *out = tensor->data;
    return QN_OK;
  }
  QN_TRY(source->find_tensor(source->context, name, &found, out, diag));
  return found ? QN_OK : qn_fail(diag, QN_ERR_FORMAT, source->name, "tensor '%s' is missing", name);
}

qn_weight_source qn_import_weights(qn_import *import) { return (qn_weight_source){import, find_weight}; }

const char *qn_import_architecture(const qn_import *import) { return import->architecture; }
const char *qn_import_model_name(const qn_import *import) { return import->model_name; }
int64_t qn_import_context(const qn_import *import) { return import->binding.context; }
int64_t qn_import_vocab_size(const qn_import *import) { return import->vocab_size; }
qn_gguf *qn_import_gguf(qn_import *import) { return import->gguf; }
void qn_import_describe(const qn_import *import, qn_buf *out) { qn_binding_describe(&import->binding, out); }

void qn_put_one_line(qn_buf *out, qn_str text) {
  for (size_t i = 0; i < text.length; i++) {
    unsigned char c = (unsigned char)text.data[i];
    if (c >= 0x20 && c != 0x7F) {
      qn_buf_putc(out, text.data[i]);
    } else {
      qn_buf_printf(out, "\\x%02x", c);
    }
  }
}
