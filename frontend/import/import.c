// Opens a model file: recognises it, finds its template, binds the two, and makes the graph once to see that all fits.
#include "frontend/import/import.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/import/find_template.h"
#include "frontend/import/gguf.h"
#include "frontend/import/gguf_source.h"
#include "frontend/import/hf_source.h"
#include "frontend/import/instantiate.h"
#include "frontend/import/recognise.h"
#include "frontend/import/sampling_source.h"
#include "frontend/import/unread.h"
#include "runtime/base/log.h"

struct qn_import {
  const qn_allocator *allocator;  // borrowed
  qn_arena arena;                 // template, binding, texts
  qn_gguf *gguf;                  // owned; NULL for a graph without a weights file, and for hf
  qn_hf_model hf;                 // owned; name NULL: none
  qn_hf_source hf_source;
  qn_template t;
  qn_binding binding;
  const char *architecture, *model_name;  // arena
  qn_sampler_defaults sampling;
  int64_t vocab_size, embedding_size;
  qn_requantize_options quantize;  // format NULL: nothing is quantised
  void *made, *quantized;          // owned: the bytes of the tensor that was found last
  size_t made_bytes, quantized_bytes;
};

// --- making the graph

static qn_status make_graph(qn_import *import, const qn_import_graph_options *o, int64_t context, qn_arena *arena,
                            qn_graph **out, qn_diag *diag) {
  qn_instantiate_options options = {.kv_dtype = o->kv_dtype, .context_tokens = context, .guesses = o->guesses};
  int64_t pages = (context + QN_PAGE_KEYS - 1) / QN_PAGE_KEYS;
  options.max_values[QN_SYM_T] = o->chunk_tokens;
  options.max_values[QN_SYM_R] = o->max_rows;
  options.max_values[QN_SYM_P] = pages;
  options.max_values[QN_SYM_B] = o->max_sequences;
  options.max_values[QN_SYM_G] = pages * o->max_sequences;
  options.max_values[QN_SYM_S] = context;  // an encoder reads a source at once
  return qn_instantiate(&import->binding, &options, arena, out, diag);
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
  if (status == QN_OK) import->vocab_size = qn_graph_vocab_size(graph);
  if (status == QN_OK) import->embedding_size = qn_graph_embedding_size(graph);
  if (status == QN_OK && import->binding.start >= import->vocab_size) {
    status = qn_fail(diag, QN_ERR_FORMAT, import->t.start_path,
                     "the token that a text begins with: got %" PRId64 ", want 0 to %" PRId64 ", as the vocabulary has",
                     import->binding.start, (int64_t)import->vocab_size - 1);
  }
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

static qn_status find_template(qn_import *import, const char *path, qn_world world, const qn_import_options *options,
                               qn_diag *diag) {
  const qn_model_identity model = {path, world, import->architecture};
  return qn_find_template(&import->t, &model, options ? options->template_path : NULL, &import->arena, diag);
}

// Binds the template to the model and makes its graph, of which nothing may be left over.
static qn_status bind_model(qn_import *import, const qn_model_source *source, qn_diag *diag) {
  QN_TRY(qn_binding_init(&import->binding, &import->t, source, &import->arena, diag));
  QN_TRY(try_graph(import, NULL, diag));
  return qn_check_unread(&import->binding, diag);
}

static qn_status open_gguf(qn_import *import, const char *path, const qn_import_options *options, qn_diag *diag) {
  qn_str text;
  QN_TRY(qn_gguf_open(&import->gguf, path, import->allocator, diag));
  QN_TRY(qn_gguf_get_string(import->gguf, "general.architecture", &text, diag));
  QN_TRY(set_text(import, &import->architecture, text, diag));
  bool named = qn_gguf_find(import->gguf, "general.name") &&
               qn_gguf_get_string(import->gguf, "general.name", &text, NULL) == QN_OK && text.length > 0;
  QN_TRY(set_text(import, &import->model_name, named ? text : qn_str_from(base_name(path)), diag));
  QN_TRY(find_template(import, path, QN_WORLD_GGUF, options, diag));
  if (import->gguf->tensor_count == 0) {
    return qn_fail(diag, QN_ERR_FORMAT, path, "has no tensors (a vocabulary only?), want a model's weights");
  }
  qn_model_source source = qn_gguf_source(import->gguf, path, import->architecture);
  QN_TRY(qn_sampling_from_gguf(import->gguf, &import->sampling, diag));
  return bind_model(import, &source, diag);
}

// The last part of the folder's real path: what people call the model.
static qn_status name_after_folder(qn_import *import, qn_diag *diag) {
  char *real = realpath(import->hf.folder, NULL);
  const char *name = base_name(real ? real : import->hf.folder);
  qn_status status = set_text(import, &import->model_name, qn_str_from(*name ? name : "/"), diag);
  free(real);
  return status;
}

static qn_status open_hf(qn_import *import, const char *path, const qn_import_options *options, qn_diag *diag) {
  qn_model_source source;
  QN_TRY(qn_hf_model_open(&import->hf, path, &import->arena, diag));
  import->hf_source.model = &import->hf;
  QN_TRY(qn_hf_source_get(&import->hf_source, &source, diag));
  import->architecture = source.architecture;
  QN_TRY(name_after_folder(import, diag));
  QN_TRY(find_template(import, path, QN_WORLD_HF, options, diag));
  QN_TRY(qn_hf_source_open(&import->hf_source, &import->hf, &import->arena, diag));
  QN_TRY(qn_sampling_from_folder(import->hf.folder, &import->arena, &import->sampling, diag));
  return bind_model(import, &source, diag);
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
  const char *name = base_name(path);
  if (strcmp(name, "config.json") == 0 || strcmp(name, "model.safetensors.index.json") == 0) {
    return qn_fail(diag, QN_ERR_ARGUMENT, path, "is one of the files of a model; give the folder that it is in");
  }
  QN_TRY(qn_read_template(&import->t, path, &import->arena, diag));
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

// --- public

qn_status qn_import_open(const char *path, const qn_import_options *options, const qn_allocator *allocator,
                         qn_import **out, qn_diag *diag) {
  qn_model_kind kind;
  *out = NULL;
  QN_TRY(qn_recognise(path, &kind, diag));
  qn_import *import = qn_alloc_zeroed(allocator, sizeof *import);
  if (!import) return qn_fail_nomem(diag, path, "an import");
  import->allocator = allocator;
  qn_arena_init(&import->arena, allocator);
  qn_map_init(&import->t.names, allocator);
  qn_map_init(&import->binding.tensor_index, allocator);
  qn_map_init(&import->binding.keys, allocator);
  qn_map_init(&import->hf.config.index, allocator);
  qn_map_init(&import->hf_source.packed.weights, allocator);
  qn_status status = kind == QN_MODEL_GGUF   ? open_gguf(import, path, options, diag)
                     : kind == QN_MODEL_JSON ? open_graph(import, path, options, diag)
                                             : open_hf(import, path, options, diag);
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
  qn_hf_source_close(&import->hf_source);
  qn_hf_model_close(&import->hf);
  qn_free(import->allocator, import->made, import->made_bytes);
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
  if (!qn_dtype_is_cached(options->kv_dtype)) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "kv type", "got %s, want f32, f16, bf16, int8 or int4",
                   qn_dtype_name(options->kv_dtype));
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

// A tensor in its target's format, from *out as the file has it, and what became of it to the caller's report.
static qn_status requantize(qn_import *import, const qn_bound_tensor *tensor, qn_tensor_data *out, qn_diag *diag) {
  const qn_requantize_options *options = &import->quantize;
  qn_requantized result = {.name = tensor->name,
                           .from = tensor->data.format,
                           .asked = options->format,
                           .to = tensor->target,
                           .kept = tensor->kept,
                           .rows = qn_requantize_rows(&tensor->data),
                           .k = tensor->data.dims[tensor->data.rank - 1]};
  if (!tensor->kept) {
    size_t size;
    qn_free(import->allocator, import->quantized, import->quantized_bytes);
    import->quantized = NULL;
    if (!qn_format_file_bytes(tensor->target, result.rows, result.k, &size) ||
        (import->quantized = qn_alloc(import->allocator, size)) == NULL) {
      return qn_fail_nomem(diag, tensor->name, "its quantised bytes");
    }
    import->quantized_bytes = size;
    QN_TRY(qn_requantize_matrix(out, tensor->target, tensor->name, options, import->allocator,
                                import->quantized, &result, diag));
    out->format = tensor->target;
    out->data = import->quantized;
  }
  if (options->report) options->report(options->report_context, &result);
  return QN_OK;
}

// The tensor with its bytes, made where the file has others.
static qn_status load(qn_import *import, const qn_bound_tensor *tensor, qn_tensor_data *out, qn_diag *diag) {
  *out = tensor->data;
  if (out->data) return QN_OK;
  qn_free(import->allocator, import->made, import->made_bytes);
  import->made = NULL;
  QN_TRY(qn_binding_load(&import->binding, tensor, import->allocator, &import->made, &import->made_bytes, diag));
  out->data = import->made;
  return QN_OK;
}

// Weights that are no numbers make a model whose outputs are none: the person should hear of it. Of block formats the
// scales tell.
static void warn_of_nans(const qn_import *import, const char *name, const qn_tensor_data *data) {
  const qn_format *f = data->format;
  size_t count = 1, first;
  for (int d = 0; d < data->rank; d++) count *= (size_t)data->dims[d];  // it has been sized before
  size_t bad = qn_format_count_not_finite(f, data->data, count / f->block_values, &first);
  if (!bad) return;
  size_t k = (size_t)data->dims[data->rank - 1];
  qn_log(QN_LOG_WARNING, "%s: tensor '%s': %zu %s no numbers (NaN or infinite), the first in row %zu at %zu: so may be what "
         "the model computes", import->binding.source.name, name, bad,
         f->block_values == 1 ? bad == 1 ? "value is" : "values are" : bad == 1 ? "block's scales are" : "blocks' scales are",
         first * f->block_values / k, first * f->block_values % k);
}

// A tensor, which *out_bound is NULL of where the graph does not use it. One that it uses has its shape; others are given
// as the file has them.
static qn_status find_stored(qn_import *import, const char *name, qn_tensor_data *out, const qn_bound_tensor **out_bound,
                             qn_diag *diag) {
  const qn_model_source *source = &import->binding.source;
  qn_bound_tensor unused = {.name = name};
  const qn_bound_tensor *tensor = &unused;
  uint64_t index;
  bool found = true;
  if (qn_map_get(&import->binding.tensor_index, qn_str_from(name), &index)) {
    tensor = &import->binding.tensors.items[index];
  } else {
    QN_TRY(source->find_tensor(source->context, name, &found, &unused.data, diag));
  }
  if (!found) return qn_fail(diag, QN_ERR_FORMAT, source->name, "tensor '%s' is missing", name);
  *out_bound = tensor == &unused ? NULL : tensor;
  return load(import, tensor, out, diag);
}

// A qn_weight_source's function.
static qn_status find_weight(void *context, const char *name, qn_tensor_data *out, qn_diag *diag) {
  qn_import *import = context;
  const qn_bound_tensor *bound = NULL;
  QN_TRY(find_stored(import, name, out, &bound, diag));
  warn_of_nans(import, name, out);
  if (import->quantize.format && bound && out->rank >= 2) return requantize(import, bound, out, diag);
  return QN_OK;
}

// Another one.
static qn_status find_stored_weight(void *context, const char *name, qn_tensor_data *out, qn_diag *diag) {
  const qn_bound_tensor *bound = NULL;
  return find_stored(context, name, out, &bound, diag);
}

qn_weight_source qn_import_stored_weights(qn_import *import) {
  return (qn_weight_source){import, find_stored_weight};
}

qn_weight_source qn_import_weights(qn_import *import) { return (qn_weight_source){import, find_weight}; }

const char *qn_import_architecture(const qn_import *import) { return import->architecture; }
const char *qn_import_model_name(const qn_import *import) { return import->model_name; }
int64_t qn_import_context(const qn_import *import) { return import->binding.context; }
int64_t qn_import_vocab_size(const qn_import *import) { return import->vocab_size; }
int64_t qn_import_embedding_size(const qn_import *import) { return import->embedding_size; }
int64_t qn_import_start(const qn_import *import) { return import->binding.start; }
qn_gguf *qn_import_gguf(qn_import *import) { return import->gguf; }
const char *qn_import_folder(const qn_import *import) { return import->hf.folder; }

qn_status qn_import_check(const qn_import *import, qn_diag *diag) {
  if (import->gguf) QN_TRY(qn_gguf_check(import->gguf, diag));
  return import->hf.files ? qn_safetensors_check(import->hf.files, diag) : QN_OK;
}

void qn_import_describe(const qn_import *import, qn_buf *out) {
  qn_binding_describe(&import->binding, out);
  qn_sampler_defaults_put(&import->sampling, out);
}

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
