// quern_inspect's half for models: GGUF files, folders of the Hugging Face world, graphs in JSON.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "frontend/import/gguf.h"
#include "frontend/import/hf_folder.h"
#include "frontend/import/import.h"
#include "frontend/import/recognise.h"
#include "frontend/inspect.h"

// Printed instead of the rest of a long array.
#define ARRAY_ITEMS 8

struct inspect_model {
  const inspection *to;
  qn_arena arena;
  qn_gguf *gguf;   // owned; NULL for others
  qn_hf_model hf;  // owned; name NULL for others
};

// --- metadata

static void put_gguf_metadata(const inspect_model *model) {
  for (size_t i = 0; i < model->gguf->kv_count; i++) {
    const qn_gguf_kv *kv = &model->gguf->kvs[i];
    inspect_put_text(model->to->out, kv->key);
    qn_buf_puts(model->to->out, " = ");
    qn_gguf_value_print(&kv->value, ARRAY_ITEMS, model->to->out);
    qn_buf_putc(model->to->out, '\n');
  }
}

static void put_hf_metadata(const inspect_model *model) {
  for (size_t i = 0; i < model->hf.config.values.count; i++) {
    const qn_hf_value *value = &model->hf.config.values.items[i];
    inspect_put_text(model->to->out, qn_str_from(value->key));
    qn_buf_puts(model->to->out, " = ");
    qn_hf_value_print(value, ARRAY_ITEMS, model->to->out);
    qn_buf_putc(model->to->out, '\n');
  }
}

// --- tensors

static const char *type_name(uint32_t type) {
  const char *name = qn_gguf_type_name(type);
  return name ? name : "?";
}

// One line a tensor: type, shape with the outermost dimension first, bytes, place in the file, name.
static void put_tensor(qn_buf *out, const char *type, int rank, const int64_t *dims, bool reversed, uint64_t bytes,
                       uint64_t offset, qn_str name) {
  char shape[192] = "[";
  for (int d = 0; d < rank; d++) {
    size_t used = strlen(shape);
    snprintf(shape + used, sizeof shape - used, "%s%" PRId64, d ? "," : "", dims[reversed ? rank - 1 - d : d]);
  }
  size_t used = strlen(shape);
  snprintf(shape + used, sizeof shape - used, "]");
  qn_buf_printf(out, "%-6s %-16s %12" PRIu64 " bytes at %-12" PRIu64 " ", type, shape, bytes, offset);
  inspect_put_text(out, name);
  qn_buf_putc(out, '\n');
}

static void put_gguf_tensors(const inspect_model *model) {
  for (size_t i = 0; i < model->gguf->tensor_count; i++) {
    const qn_gguf_tensor *t = &model->gguf->tensors[i];
    put_tensor(model->to->out, type_name(t->type), t->n_dims, t->dims, true, t->size_bytes, t->offset, t->name);
  }
}

static void put_hf_tensors(const inspect_model *model) {
  for (size_t i = 0; i < model->hf.files->tensor_count; i++) {
    const qn_safetensors_tensor *t = &model->hf.files->tensors[i];
    put_tensor(model->to->out, qn_stored_name(t->dtype), t->rank, t->dims, false, t->size_bytes, t->offset,
               qn_str_from(t->name));
  }
}

enum { TYPES = 64 };
_Static_assert((int)QN_STORED_COUNT <= (int)TYPES, "every type is counted");

// "tensors = 48 (F32 11, Q4_0 37)" and the number of values in all of them.
static void put_counts(const inspect_model *model, const size_t counts[TYPES], size_t tensors, uint64_t values) {
  qn_buf *out = model->to->out;
  qn_buf_printf(out, "tensors = %zu (", tensors);
  const char *between = "";
  for (uint32_t type = 0; type < TYPES; type++) {
    if (counts[type] == 0) continue;
    const char *name = model->gguf ? type_name(type) : qn_stored_name((qn_stored_dtype)type);
    qn_buf_printf(out, "%s%s %zu", between, name, counts[type]);
    between = ", ";
  }
  qn_buf_printf(out, ")\nvalues = %" PRIu64 "\n", values);
}

static void put_gguf_counts(const inspect_model *model) {
  size_t counts[TYPES] = {0};
  uint64_t values = 0;
  for (size_t i = 0; i < model->gguf->tensor_count; i++) {
    const qn_gguf_tensor *tensor = &model->gguf->tensors[i];
    uint64_t product = 1;
    for (int d = 0; d < tensor->n_dims; d++) product *= (uint64_t)tensor->dims[d];
    values += product;
    if (tensor->type < TYPES) counts[tensor->type]++;
  }
  char size[32];
  qn_buf_printf(model->to->out, "file = GGUF version %" PRIu32 ", %s\n", model->gguf->version,
                inspect_size(model->gguf->file_bytes, size));
  put_counts(model, counts, model->gguf->tensor_count, values);
}

static void put_hf_counts(const inspect_model *model) {
  const qn_safetensors *files = model->hf.files;
  size_t counts[TYPES] = {0};
  uint64_t values = 0;
  for (size_t i = 0; i < files->tensor_count; i++) {
    values += files->tensors[i].count;
    counts[files->tensors[i].dtype]++;
  }
  char size[32];
  qn_buf_printf(model->to->out, "file = safetensors, %zu file%s, %s\n", files->file_count,
                files->file_count == 1 ? "" : "s", inspect_size(files->file_bytes, size));
  put_counts(model, counts, files->tensor_count, values);
}

// --- what it compiles to

static bool has_tensors(const inspect_model *model) { return model->gguf || model->hf.files; }

// What the importer makes of the file; that it refuses it is part of the description, no failure.
static qn_status put_summary(const inspect_model *model) {
  qn_buf *out = model->to->out;
  qn_import *import = NULL;
  qn_diag diag = {0};
  if (model->gguf) put_gguf_counts(model);
  if (model->hf.files) put_hf_counts(model);
  qn_status status = qn_import_open(model->to->path, &(qn_import_options){0}, model->to->allocator, &import, &diag);
  if (status == QN_ERR_NOMEM || (status != QN_OK && !has_tensors(model))) {
    return qn_fail(model->to->diag, status, NULL, "%s", diag.text);
  }
  if (status != QN_OK) {
    qn_buf_puts(out, "compiles = no: ");
    inspect_put_text(out, qn_str_from(diag.text));
    qn_buf_putc(out, '\n');
    return QN_OK;
  }
  qn_buf text;
  qn_buf_init(&text, model->to->allocator);
  qn_buf_puts(&text, "compiles = yes\narchitecture = ");
  qn_put_one_line(&text, qn_str_from(qn_import_architecture(import)));
  qn_buf_puts(&text, "\nmodel = ");
  qn_put_one_line(&text, qn_str_from(qn_import_model_name(import)));
  qn_buf_putc(&text, '\n');
  qn_import_describe(import, &text);
  inspect_put_text(out, qn_str_from(qn_buf_text(&text)));
  if (text.failed) out->failed = true;
  qn_buf_deinit(&text);
  qn_import_close(import);
  return QN_OK;
}

// The graph as imported, with the sizes that quern compile takes without options.
static qn_status put_graph(const inspect_model *model) {
  qn_import *import = NULL;
  qn_graph *graph = NULL;
  qn_arena arena;
  QN_TRY(qn_import_open(model->to->path, &(qn_import_options){0}, model->to->allocator, &import, model->to->diag));
  qn_arena_init(&arena, model->to->allocator);
  qn_import_graph_options options = {.chunk_tokens = 256, .max_rows = 1, .max_sequences = 1, .kv_dtype = QN_DTYPE_F32};
  options.context_tokens = qn_import_context(import) > 0 ? qn_import_context(import) : 4096;
  if (options.chunk_tokens > options.context_tokens) options.chunk_tokens = options.context_tokens;
  qn_status status = qn_import_graph(import, &options, &arena, &graph, model->to->diag);
  if (status == QN_OK) {
    qn_buf text;
    qn_buf_init(&text, model->to->allocator);
    qn_graph_print(graph, &text);
    inspect_put_text(model->to->out, qn_str_from(qn_buf_text(&text)));
    if (text.failed) model->to->out->failed = true;
    qn_buf_deinit(&text);
  }
  qn_arena_deinit(&arena);
  qn_import_close(import);
  return status;
}

// --- the parts

bool inspect_model_has(const inspect_model *model, inspect_part part) {
  bool tensors = part == INSPECT_METADATA || part == INSPECT_TENSORS;
  return part == INSPECT_SUMMARY || part == INSPECT_GRAPH || (tensors && has_tensors(model));
}

qn_status inspect_model_part(inspect_model *model, inspect_part part) {
  if (!inspect_model_has(model, part)) {
    return qn_fail(
        model->to->diag, QN_ERR_ARGUMENT, model->to->path, "is a model file, which has no %s; %s",
        part == INSPECT_CHECK ? "hash to check its weights with" : inspect_part_names[part],
        has_tensors(model) ? "compile it and ask for that of the artifact" : "a graph in JSON has summary and graph");
  }
  switch (part) {
    case INSPECT_METADATA: model->gguf ? put_gguf_metadata(model) : put_hf_metadata(model); return QN_OK;
    case INSPECT_TENSORS: model->gguf ? put_gguf_tensors(model) : put_hf_tensors(model); return QN_OK;
    case INSPECT_GRAPH: return put_graph(model);
    default: return put_summary(model);
  }
}

static qn_status open_files(inspect_model *model) {
  const inspection *to = model->to;
  qn_model_kind kind = QN_MODEL_JSON;
  if (qn_recognise(to->path, &kind, NULL) != QN_OK) return QN_OK;  // the importer tells what is wrong
  if (kind == QN_MODEL_GGUF) return qn_gguf_open(&model->gguf, to->path, to->allocator, to->diag);
  return kind == QN_MODEL_JSON ? QN_OK : qn_hf_model_open(&model->hf, to->path, &model->arena, to->diag);
}

qn_status inspect_model_open(const inspection *to, inspect_model **out) {
  inspect_model *model = qn_alloc_zeroed(to->allocator, sizeof *model);
  *out = NULL;
  if (!model) return qn_fail_nomem(to->diag, to->path, "its description");
  model->to = to;
  qn_arena_init(&model->arena, to->allocator);
  qn_map_init(&model->hf.config.index, to->allocator);
  qn_status status = open_files(model);
  if (status == QN_OK) *out = model;
  if (status != QN_OK) inspect_model_close(model);
  return status;
}

qn_status inspect_model_check(const inspect_model *model) {
  if (model->gguf) return qn_gguf_check(model->gguf, model->to->diag);
  return model->hf.files ? qn_safetensors_check(model->hf.files, model->to->diag) : QN_OK;
}

void inspect_model_close(inspect_model *model) {
  if (!model) return;
  qn_gguf_close(model->gguf);
  qn_hf_model_close(&model->hf);
  qn_arena_deinit(&model->arena);
  qn_free(model->to->allocator, model, sizeof *model);
}
