// quern_inspect: reads the list of parts, and describes model files; inspect_artifact.c describes artifacts.
#include "frontend/inspect.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/compile.h"
#include "frontend/import/gguf.h"
#include "frontend/import/import.h"
#include "frontend/quern.h"

// Printed instead of the rest of a long array.
#define ARRAY_ITEMS 8

static const char *const part_names[INSPECT_PART_COUNT] = {
    [INSPECT_SUMMARY] = "summary", [INSPECT_METADATA] = "metadata", [INSPECT_SECTIONS] = "sections",
    [INSPECT_TARGETS] = "targets", [INSPECT_MEMORY] = "memory",     [INSPECT_TENSORS] = "tensors",
    [INSPECT_KERNELS] = "kernels", [INSPECT_GRAPH] = "graph",       [INSPECT_LOOPS] = "loops",
    [INSPECT_CHECK] = "check"};

const char *inspect_size(uint64_t bytes, char out[32]) {
  static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 10240) {
    snprintf(out, 32, "%" PRIu64 " bytes", bytes);
    return out;
  }
  double value = (double)bytes / 1024;
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < QN_COUNT(units); unit++) value /= 1024;
  snprintf(out, 32, "%.1f %s", value, units[unit]);
  return out;
}

void inspect_put_text(qn_buf *out, qn_str text) {
  size_t begin = 0;
  for (size_t i = 0; i < text.length; i++) {
    unsigned char c = (unsigned char)text.data[i];
    if ((c >= 0x20 && c != 0x7F) || c == '\n' || c == '\t') continue;
    qn_buf_append(out, text.data + begin, i - begin);
    qn_buf_printf(out, "\\x%02x", c);
    begin = i + 1;
  }
  qn_buf_append(out, text.data + begin, text.length - begin);
}

// --- model files

typedef struct model_file {
  const inspection *to;
  qn_gguf *gguf;  // owned; NULL for a graph in JSON
} model_file;

static bool is_gguf(const char *path) {
  char magic[4];
  return quern_file_head(path, magic, sizeof magic) == sizeof magic && memcmp(magic, "GGUF", sizeof magic) == 0;
}

static void put_metadata(const model_file *model) {
  for (size_t i = 0; i < model->gguf->kv_count; i++) {
    const qn_gguf_kv *kv = &model->gguf->kvs[i];
    inspect_put_text(model->to->out, kv->key);
    qn_buf_puts(model->to->out, " = ");
    qn_gguf_value_print(&kv->value, ARRAY_ITEMS, model->to->out);
    qn_buf_putc(model->to->out, '\n');
  }
}

static const char *type_name(uint32_t type) {
  const char *name = qn_gguf_type_name(type);
  return name ? name : "?";
}

// One line a tensor: type, shape with the outermost dimension first, bytes, place in the file, name.
static void put_tensors(const model_file *model) {
  qn_buf *out = model->to->out;
  for (size_t i = 0; i < model->gguf->tensor_count; i++) {
    const qn_gguf_tensor *tensor = &model->gguf->tensors[i];
    char shape[96] = "[";
    for (int d = tensor->n_dims - 1; d >= 0; d--) {
      size_t used = strlen(shape);
      snprintf(shape + used, sizeof shape - used, "%" PRId64 "%s", tensor->dims[d], d ? "," : "]");
    }
    qn_buf_printf(out, "%-6s %-16s %12" PRIu64 " bytes at %-12" PRIu64 " ", type_name(tensor->type), shape,
                  tensor->size_bytes, tensor->offset);
    inspect_put_text(out, tensor->name);
    qn_buf_putc(out, '\n');
  }
}

// "tensors = 48 (F32 11, Q4_0 37)" and the number of values in all of them.
static void put_tensor_counts(const model_file *model) {
  enum { TYPES = 64 };
  qn_buf *out = model->to->out;
  size_t counts[TYPES] = {0};
  uint64_t values = 0;
  for (size_t i = 0; i < model->gguf->tensor_count; i++) {
    const qn_gguf_tensor *tensor = &model->gguf->tensors[i];
    uint64_t product = 1;
    for (int d = 0; d < tensor->n_dims; d++) product *= (uint64_t)tensor->dims[d];
    values += product;
    if (tensor->type < TYPES) counts[tensor->type]++;
  }
  qn_buf_printf(out, "tensors = %zu (", model->gguf->tensor_count);
  const char *between = "";
  for (uint32_t type = 0; type < TYPES; type++) {
    if (counts[type] == 0) continue;
    qn_buf_printf(out, "%s%s %zu", between, type_name(type), counts[type]);
    between = ", ";
  }
  qn_buf_printf(out, ")\nvalues = %" PRIu64 "\n", values);
}

// What the importer makes of the file; that it refuses it is part of the description, no failure.
static qn_status put_summary(const model_file *model) {
  qn_buf *out = model->to->out;
  qn_import *import = NULL;
  qn_diag diag = {0};
  if (model->gguf) {
    char size[32];
    qn_buf_printf(out, "file = GGUF version %" PRIu32 ", %s\n", model->gguf->version,
                  inspect_size(model->gguf->file_bytes, size));
    put_tensor_counts(model);
  }
  qn_status status = qn_import_open(model->to->path, &(qn_import_options){0}, model->to->allocator, &import, &diag);
  if (status == QN_ERR_NOMEM || (status != QN_OK && !model->gguf)) {
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
static qn_status put_graph(const model_file *model) {
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

// Which parts a model file has; those of `all` are these.
static bool model_has(const model_file *model, inspect_part part) {
  bool tensors = part == INSPECT_METADATA || part == INSPECT_TENSORS;
  return part == INSPECT_SUMMARY || part == INSPECT_GRAPH || (tensors && model->gguf);
}

static qn_status put_model_part(const model_file *model, inspect_part part) {
  if (!model_has(model, part)) {
    return qn_fail(
        model->to->diag, QN_ERR_ARGUMENT, model->to->path, "is a model file, which has no %s; %s",
        part == INSPECT_CHECK ? "hash to check its weights with" : part_names[part],
        model->gguf ? "compile it and ask for that of the artifact" : "a graph in JSON has summary and graph");
  }
  switch (part) {
    case INSPECT_METADATA: put_metadata(model); return QN_OK;
    case INSPECT_TENSORS: put_tensors(model); return QN_OK;
    case INSPECT_GRAPH: return put_graph(model);
    default: return put_summary(model);
  }
}

// --- the list of parts

typedef struct part_list {
  bool wanted[INSPECT_PART_COUNT];
  bool all;  // those that the file has
  int count;
} part_list;

static qn_status parse_parts(const char *what, part_list *out, qn_diag *diag) {
  *out = (part_list){0};
  for (const char *at = what ? what : "summary"; *at;) {
    size_t length = strcspn(at, ",");
    int part = 0;
    while (part < INSPECT_PART_COUNT &&
           (strlen(part_names[part]) != length || memcmp(part_names[part], at, length) != 0)) {
      part++;
    }
    if (part < INSPECT_PART_COUNT) {
      out->count += !out->wanted[part];
      out->wanted[part] = true;
    } else if (length == 3 && memcmp(at, "all", 3) == 0) {
      out->all = true;
    } else {
      return qn_fail(diag, QN_ERR_ARGUMENT, "what",
                     "got '%.*s', want summary, metadata, sections, targets, memory, tensors, kernels, graph, loops, "
                     "check or all, with commas between them",
                     (int)(length < 40 ? length : 40), at);
    }
    at += length + (at[length] == ',');
  }
  return out->count || out->all ? QN_OK : qn_fail(diag, QN_ERR_ARGUMENT, "what", "got nothing, want a part's name");
}

// A heading tells parts apart where there are several.
static void begin_part(const part_list *parts, inspect_part part, qn_buf *out) {
  if (parts->count > 1 || parts->all) qn_buf_printf(out, "%s# %s\n", out->length ? "\n" : "", part_names[part]);
}

static qn_status describe_artifact(const inspection *to, const part_list *parts) {
  inspect_artifact *artifact = NULL;
  QN_TRY(inspect_artifact_open(to, &artifact));
  qn_status status = QN_OK;
  for (int part = 0; part < INSPECT_PART_COUNT && status == QN_OK; part++) {
    if (!parts->wanted[part] && !(parts->all && part != INSPECT_CHECK)) continue;
    begin_part(parts, (inspect_part)part, to->out);
    status = inspect_artifact_part(artifact, (inspect_part)part);
  }
  inspect_artifact_close(artifact);
  return status;
}

static qn_status describe_model(const inspection *to, const part_list *parts) {
  model_file model = {.to = to};
  qn_status status = QN_OK;
  if (is_gguf(to->path)) QN_TRY(qn_gguf_open(&model.gguf, to->path, to->allocator, to->diag));
  for (int part = 0; part < INSPECT_PART_COUNT && status == QN_OK; part++) {
    if (!parts->wanted[part] && !(parts->all && model_has(&model, (inspect_part)part))) continue;
    begin_part(parts, (inspect_part)part, to->out);
    status = put_model_part(&model, (inspect_part)part);
  }
  if (status == QN_OK && model.gguf) status = qn_gguf_check(model.gguf, to->diag);
  qn_gguf_close(model.gguf);
  return status;
}

int quern_inspect(const char *path, const char *what, char **out_text, quern_error *error) {
  qn_diag diag = {0};
  qn_buf text;
  part_list parts;
  *out_text = NULL;
  qn_buf_init(&text, qn_allocator_default());
  inspection to = {.path = path, .allocator = qn_allocator_default(), .out = &text, .diag = &diag};
  qn_status status = parse_parts(what, &parts, &diag);
  if (status == QN_OK) status = quern_is_artifact(path) ? describe_artifact(&to, &parts) : describe_model(&to, &parts);
  if (status == QN_OK && !text.failed) *out_text = strdup(qn_buf_text(&text));
  if (status == QN_OK && !*out_text) status = qn_fail_nomem(&diag, path, "its description");
  qn_buf_deinit(&text);
  if (error) {
    error->code = (int)status;
    snprintf(error->text, sizeof error->text, "%s", diag.text);
  }
  return (int)status;
}
