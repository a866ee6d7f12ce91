// quern_inspect_kv: what a KV cache takes, told of an artifact or of a model before anything is compiled or allocated.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/compilation.h"
#include "frontend/compile.h"
#include "frontend/import/import.h"
#include "frontend/inspect.h"
#include "frontend/quern.h"
#include "runtime/artifact.h"
#include "runtime/base/options.h"
#include "runtime/base/window.h"

typedef struct kv_sizes {
  char type[16];
  uint64_t page_bytes, page_keys;       // of all layers
  uint64_t ring_bytes;                   // of them those of layers with windows beside others without
  int64_t context_most, sequences_most;  // 0 = any
  int64_t forks;                         // paths of guesses, which take pages beside the sequences
  int64_t window, chunk;                 // keys that a token sees at most, 0 = all; tokens of a step, 0 = any
  int64_t ring;                          // the same of layers with windows beside others without; 0 = none
} kv_sizes;

static qn_status too_large(const char *path, qn_diag *diag) {
  return qn_fail(diag, QN_ERR_LIMIT, path, "the size of the KV cache overflows");
}

// --- of an artifact

static void read_type(const qn_artifact *a, kv_sizes *out) {
  size_t size = 0;
  const char *summary = qn_artifact_section(a, QN_SECTION_SUMMARY, 0, &size), key[] = "kv_type = ";
  const char *end = summary + size;
  for (const char *line = summary; line && line < end;) {
    const char *stop = memchr(line, '\n', (size_t)(end - line));
    if (!stop) stop = end;
    size_t length = (size_t)(stop - line), name = sizeof key - 1;
    if (length > name && memcmp(line, key, name) == 0 && length - name < sizeof out->type) {
      memcpy(out->type, line + name, length - name);
      out->type[length - name] = '\0';
    }
    line = stop + 1;
  }
}

static qn_status of_artifact(const char *path, int64_t sequences, kv_sizes *out, qn_diag *diag) {
  qn_artifact a;
  QN_TRY(qn_artifact_open(&a, path, diag));
  bool fits = true;
  out->ring = qn_artifact_ring(&a);
  for (uint32_t i = 0; i < a.program->buffer_count; i++) {
    const qn_art_buffer *b = &a.buffers[i];
    if (b->kind != QN_ART_CACHE) continue;
    fits = fits && !__builtin_add_overflow(out->page_bytes, b->bytes, &out->page_bytes);
    if (out->ring > 0 && b->window > 0) out->ring_bytes += b->bytes;  // a part of the sum
  }
  out->page_keys = a.program->page_keys;
  out->context_most = qn_artifact_context_max(&a);
  out->sequences_most = a.program->symbol_max[QN_SYM_B];
  out->window = qn_artifact_window(&a);
  out->chunk = a.program->symbol_max[QN_SYM_T];
  out->forks = qn_artifact_paths(&a, a.program->symbol_max[QN_SYM_R], sequences > 0 ? sequences : 1);
  read_type(&a, out);
  qn_artifact_close(&a);
  return fits ? QN_OK : too_large(path, diag);
}

// --- of a model

// As the pass ring_tables and the artifact will have it.
static qn_status sum_caches(const qn_graph *graph, const char *path, kv_sizes *out, qn_diag *diag) {
  bool all = false, source = false;
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->op == QN_OP_KV_WRITE)
      source = source || qn_graph_node(graph, node->operands[1])->type.dims[0].symbol == QN_SYM_S;
    if (node->op != QN_OP_CACHE) continue;
    qn_kv_page page;
    bool is_k = qn_kv_lies_as_k(qn_node_text(node, QN_ATTR_KIND, ""));
    if (!qn_type_kv_page(&node->type, is_k, &page)) return too_large(path, diag);
    if (__builtin_add_overflow(out->page_bytes, (uint64_t)page.page_bytes, &out->page_bytes)) return too_large(path, diag);
    int64_t window = qn_graph_cache_window(graph, id);
    all = all || window == 0;
    if (window > out->window) out->window = window;
    if (window > 0) out->ring_bytes += (uint64_t)page.page_bytes;  // a part of the sum
  }
  out->ring = all && !source ? out->window : 0;
  if (out->ring == 0) out->ring_bytes = 0;
  if (all) out->window = 0;
  return QN_OK;
}

static qn_status of_model(const char *path, const quern_inspect_kv_options *o, kv_sizes *out, qn_diag *diag) {
  const qn_allocator *allocator = qn_allocator_default();
  const char *type = o->kv_type ? o->kv_type : QUERN_DEFAULT_KV_TYPE;
  qn_import *import = NULL;
  qn_graph *graph = NULL;
  qn_arena arena;
  qn_import_graph_options options = {.chunk_tokens = 1, .max_rows = 1, .max_sequences = 1};
  if (!qn_dtype_parse(qn_str_from(type), &options.kv_dtype) || !qn_dtype_is_cached(options.kv_dtype))
    return qn_fail(diag, QN_ERR_ARGUMENT, "kv-type", "got '%s', want f32, f16, bf16, int8 or int4", type);
  QN_TRY(qn_import_open(path, &(qn_import_options){0}, allocator, &import, diag));
  qn_arena_init(&arena, allocator);
  options.context_tokens = qn_import_context(import) > 0 ? qn_import_context(import) : o->context > 0 ? o->context : 4096;
  qn_status status = qn_import_graph(import, &options, &arena, &graph, diag);
  if (status == QN_OK) status = sum_caches(graph, path, out, diag);
  snprintf(out->type, sizeof out->type, "%s", type);
  out->page_keys = QN_PAGE_KEYS;
  out->chunk = QUERN_DEFAULT_CHUNK;
  out->context_most = qn_import_context(import);
  qn_arena_deinit(&arena);
  qn_import_close(import);
  return status;
}

// --- the text

// Pages of `sequences`, and of the paths of guesses; false when they overflow.
static bool count_pages(const kv_sizes *k, int64_t window, int64_t step, int64_t context, int64_t sequences,
                        uint64_t *out) {
  uint64_t each = (uint64_t)qn_window_pages(window, step, context, (int64_t)k->page_keys);
  uint64_t own = (uint64_t)context <= k->page_keys ? 1 : 2;  // of a path
  return !__builtin_mul_overflow(each, (uint64_t)sequences, out) &&
         !__builtin_add_overflow(*out, own * (uint64_t)k->forks, out);
}

static void put_rings(const kv_sizes *k, int64_t step, uint64_t pages, qn_buf *out) {
  char size[32];
  if (k->ring == 0) return;
  qn_buf_printf(out, "kv_window_pages = %" PRIu64 " of %s: layers with a window keep those of %" PRId64
                     " tokens and of a step of %" PRId64 "\n",
                pages, inspect_size(k->ring_bytes, size), k->ring, step);
}

static qn_status describe(const char *path, const quern_inspect_kv_options *o, const kv_sizes *k, qn_buf *out,
                          qn_diag *diag) {
  int64_t context = o->context ? o->context : k->context_most ? k->context_most : 4096;
  int64_t sequences = o->sequences ? o->sequences : 1;
  uint64_t pages, rings, bytes, ring_bytes;
  char size[32];
  if (context < 1 || sequences < 1)
    return qn_fail(diag, QN_ERR_ARGUMENT, path, "got %" PRId64 " sequences of %" PRId64 " tokens, want 1 or more",
                   sequences, context);
  if ((k->context_most && context > k->context_most) || (k->sequences_most && sequences > k->sequences_most))
    return qn_fail(diag, QN_ERR_LIMIT, path,
                   "got %" PRId64 " sequences of %" PRId64 " tokens, want at most %" PRId64 " of %" PRId64 " (0: any)",
                   sequences, context, k->sequences_most, k->context_most);
  if (k->page_bytes == 0) {
    qn_buf_puts(out, "kv_cache = none: the program keeps no keys\n");
    return QN_OK;
  }
  int64_t step = k->chunk > 0 && k->chunk < context ? k->chunk : context;  // as a session has it
  uint64_t each = (uint64_t)qn_window_pages(k->window, step, context, (int64_t)k->page_keys);
  uint64_t own = (uint64_t)context <= k->page_keys ? 1 : 2;  // of a path
  if (!count_pages(k, k->window, step, context, sequences, &pages) ||
      !count_pages(k, k->ring, step, context, sequences, &rings) ||
      __builtin_mul_overflow(pages, k->page_bytes - k->ring_bytes, &bytes) ||
      __builtin_mul_overflow(rings, k->ring_bytes, &ring_bytes) || __builtin_add_overflow(bytes, ring_bytes, &bytes))
    return too_large(path, diag);
  qn_buf_printf(out, "kv_type = ");
  inspect_put_text(out, qn_str_from(k->type));
  qn_buf_printf(out, "\nkv_page_bytes = %" PRIu64 ", %s: %" PRIu64 " tokens in all layers\n", k->page_bytes,
                inspect_size(k->page_bytes, size), k->page_keys);
  qn_buf_printf(out, "kv_pages = %" PRIu64 ": %" PRId64 " sequences of %" PRId64 " tokens", pages, sequences, context);
  if (each < ((uint64_t)context + k->page_keys - 1) / k->page_keys)
    qn_buf_printf(out, ", of which each keeps those of a window of %" PRId64 " and of a step of %" PRId64, k->window, step);
  if (k->forks > 0) qn_buf_printf(out, ", and %" PRIu64 " for each of %" PRId64 " paths of guesses", own, k->forks);
  qn_buf_puts(out, "\n");
  put_rings(k, step, rings, out);
  qn_buf_printf(out, "kv_cache_bytes = %" PRIu64 ", %s\n", bytes, inspect_size(bytes, size));
  return QN_OK;
}

static qn_status inspect(const char *path, const quern_inspect_kv_options *options, qn_buf *out, qn_diag *diag) {
  quern_inspect_kv_options own;
  kv_sizes sizes = {.type = "?"};
  QN_TRY(qn_options_take(options, "quern_inspect_kv_options", &own, sizeof own, diag));
  if (!quern_is_artifact(path)) {
    QN_TRY(of_model(path, &own, &sizes, diag));
  } else {
    QN_TRY(of_artifact(path, own.sequences, &sizes, diag));
    if (own.kv_type && strcmp(own.kv_type, sizes.type) != 0)
      return qn_fail(diag, QN_ERR_ARGUMENT, path, "got kv-type '%s', want '%s', as the artifact was compiled", own.kv_type,
                     sizes.type);
  }
  return describe(path, &own, &sizes, out, diag);
}

int quern_inspect_kv(const char *path, const quern_inspect_kv_options *options, char **out_text, quern_error *error) {
  qn_diag diag = {0};
  qn_buf text;
  *out_text = NULL;
  qn_buf_init(&text, qn_allocator_default());
  qn_status status = inspect(path, options, &text, &diag);
  if (status == QN_OK && !text.failed) *out_text = strdup(qn_buf_text(&text));
  if (status == QN_OK && !*out_text) status = qn_fail_nomem(&diag, path, "its description");
  qn_buf_deinit(&text);
  if (error) {
    error->code = (int)status;
    memcpy(error->text, status == QN_OK ? "" : diag.text, status == QN_OK ? 1 : sizeof error->text);
  }
  return (int)status;
}
