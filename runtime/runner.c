// Runners: a program called on the host's own tensors, by name. What is public here checks what hosts bind against what
// a run's sizes say, keeps the program's caches, and copies outputs out of the arena.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/options.h"
#include "runtime/model.h"

// What is known of a buffer of the program beyond the executor's own.
typedef struct binding {
  void *data;    // the host's: an input, or where an output is copied to; NULL = not bound. Borrowed
  size_t bytes;  // of that memory
} binding;

struct quern_runner {
  quern_model *model;     // borrowed
  qn_threads *threads;    // owned; NULL on a GPU
  qn_executor *executor;  // owned
  binding *bindings;      // owned: one a buffer
  void *pools;            // owned: all caches, in the executor's memory
  size_t pool_bytes;
  int64_t pool_pages;
  int64_t symbols[QN_ARTIFACT_SYMBOLS];  // of the last run
};

enum { SYM_T = 1, SYM_R, SYM_P, SYM_B, SYM_G, SYM_S };  // qn_symbol of ir/type.h
static const char letters[QN_ARTIFACT_SYMBOLS] = {0, 'T', 'R', 'P', 'B', 'G', 'S'};

// Element types by qn_dtype (ir/dtype.def): those that inputs, outputs and caches may have.
static const struct dtype {
  const char *name;
  size_t bytes;
} dtypes[] = {{"f32", 4}, {"f16", 2}, {"bf16", 2}, {"i32", 4}, {"i8", 1}};

static size_t element_bytes(const qn_art_buffer *b) { return b->dtype < QN_COUNT(dtypes) ? dtypes[b->dtype].bytes : 0; }

static const char *name_of(const qn_artifact *a, const qn_art_buffer *b) { return a->strings + b->name; }

static bool is_tensor(const qn_art_buffer *b) {
  return b->kind == QN_ART_INPUT || b->kind == QN_ART_CACHE || (b->kind == QN_ART_ARENA && b->output);
}

// --- what a program takes and gives

bool quern_model_tensor(const quern_model *model, size_t index, quern_tensor *out) {
  const qn_artifact *a = &model->artifact;
  const qn_art_buffer *b = NULL;
  for (uint32_t i = 0; i < a->program->buffer_count && !b; i++)
    if (is_tensor(&a->buffers[i]) && index-- == 0) b = &a->buffers[i];
  if (!b) return false;
  *out = (quern_tensor){.kind = b->kind == QN_ART_INPUT   ? QUERN_TENSOR_INPUT
                                : b->kind == QN_ART_CACHE ? QUERN_TENSOR_CACHE
                                                          : QUERN_TENSOR_OUTPUT,
                        .name = name_of(a, b),
                        .dtype = b->dtype < QN_COUNT(dtypes) ? dtypes[b->dtype].name : "?",
                        .layer = b->kind == QN_ART_CACHE ? (int32_t)b->layer : 0,
                        .rank = (int32_t)b->rank};
  for (uint32_t d = 0; d < b->rank; d++) {
    out->dims[d] = b->dims[d];
    out->symbols[d] = letters[b->symbols[d]];
  }
  return true;
}

static void from_symbols(const int64_t *symbols, quern_sizes *out) {
  *out = (quern_sizes){.tokens = symbols[SYM_T],
                       .rows = symbols[SYM_R],
                       .pages = symbols[SYM_P],
                       .sequences = symbols[SYM_B],
                       .pool_pages = symbols[SYM_G],
                       .source = symbols[SYM_S]};
}

static void to_symbols(const quern_sizes *sizes, int64_t *out) {
  memset(out, 0, QN_ARTIFACT_SYMBOLS * sizeof *out);
  out[SYM_T] = sizes->tokens;
  out[SYM_R] = sizes->rows;
  out[SYM_P] = sizes->pages;
  out[SYM_B] = sizes->sequences;
  out[SYM_G] = sizes->pool_pages;
  out[SYM_S] = sizes->source;
}

void quern_model_sizes_max(const quern_model *model, quern_sizes *out) {
  from_symbols(model->artifact.program->symbol_max, out);
}

// Elements of the dimensions from `axis` on; false when they are too many to count.
static bool count_elements(const qn_art_buffer *b, uint32_t axis, const int64_t *symbols, size_t *out) {
  size_t total = 1;
  for (uint32_t d = axis; d < b->rank; d++) {
    size_t size = (size_t)b->dims[d];
    if (b->symbols[d] && !qn_size_mul(size, (size_t)symbols[b->symbols[d]], &size)) return false;
    if (!qn_size_mul(total, size, &total)) return false;
  }
  *out = total;
  return true;
}

// The letters of the sizes in a tensor's shape with their values: "T = 3, R = 1".
static void put_sizes(const qn_art_buffer *b, const int64_t *symbols, char *out, size_t size) {
  size_t used = 0;
  uint32_t told = 0;
  snprintf(out, size, "this shape");
  for (uint32_t d = 0; d < b->rank && used < size; d++) {
    uint32_t s = b->symbols[d];
    if (!s || (told & (1u << s))) continue;
    told |= 1u << s;
    int length = snprintf(out + used, size - used, "%s%c = %" PRId64, used ? ", " : "", letters[s], symbols[s]);
    used += length > 0 ? (size_t)length : 0;
  }
}

// --- life

static bool has_caches(const qn_artifact *a) {
  for (uint32_t i = 0; i < a->program->buffer_count; i++)
    if (a->buffers[i].kind == QN_ART_CACHE) return true;
  return false;
}

// Bytes of all pools, each at a page boundary; with `bind` set, binds them from there.
static qn_status place_pools(quern_runner *r, uint8_t *base, size_t *out_bytes, qn_diag *diag) {
  const qn_artifact *a = &r->model->artifact;
  size_t offset = 0;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    size_t bytes = 0;
    if (b->kind != QN_ART_CACHE) continue;
    if (!qn_size_mul((size_t)b->bytes, (size_t)r->pool_pages, &bytes) || bytes > ((size_t)1 << 47) - offset)
      return qn_fail(diag, QN_ERR_LIMIT, r->model->path, "caches: the size of %" PRId64 " pages overflows",
                     r->pool_pages);
    if (base) QN_TRY(qn_executor_bind_cache(r->executor, name_of(a, b), b->layer, base + offset, diag));
    offset = qn_align_up(offset + bytes, QN_ARTIFACT_PAGE);
  }
  *out_bytes = offset;
  return QN_OK;
}

static qn_status take_pools(quern_runner *r, qn_diag *diag) {
  const qn_artifact *a = &r->model->artifact;
  int64_t most = a->program->symbol_max[SYM_G] ? a->program->symbol_max[SYM_G] : INT32_MAX;
  if (!has_caches(a)) {
    r->pool_pages = 0;
    return QN_OK;
  }
  if (r->pool_pages < 1 || r->pool_pages > most) {
    return qn_fail(diag, r->pool_pages < 1 ? QN_ERR_ARGUMENT : QN_ERR_LIMIT, "pool_pages",
                   "got %" PRId64 ", want 1 to %" PRId64 " pages for the caches of %s", r->pool_pages, most,
                   r->model->path);
  }
  const qn_memory *memory = qn_executor_memory(r->executor);
  QN_TRY(place_pools(r, NULL, &r->pool_bytes, diag));
  QN_TRY(memory->take(memory->context, r->pool_bytes, r->model->path, "caches", "ask for fewer pool_pages", &r->pools,
                      diag));
  return place_pools(r, r->pools, &r->pool_bytes, diag);
}

static size_t bindings_bytes(const quern_runner *r) {
  return ((size_t)r->model->artifact.program->buffer_count + 1) * sizeof *r->bindings;
}

static qn_status create(quern_runner *r, const quern_runner_options *options, qn_diag *diag) {
  quern_model *model = r->model;
  r->pool_pages = options->pool_pages;
  if (!model->cuda)
    QN_TRY(qn_model_threads(model, options->threads, options->no_pin, options->spin_us, options->grain,
                            &r->threads, diag));
  qn_executor_options how = {.cuda = model->cuda, .target = model->target, .jit_entries = model->jit.entries};
  QN_TRY(qn_executor_create(&model->artifact, r->threads, &how, &model->allocator, &r->executor, diag));
  r->bindings = qn_alloc_zeroed(&model->allocator, bindings_bytes(r));
  if (!r->bindings) return qn_fail_nomem(diag, model->path, "a runner");
  return take_pools(r, diag);
}

quern_status quern_runner_create(quern_model *model, const quern_runner_options *options, quern_runner **out_runner,
                                 quern_error *error) {
  quern_runner_options own;
  qn_diag diag = {0};
  *out_runner = NULL;
  qn_status status = qn_options_take(options, "quern_runner_options", &own, sizeof own, &diag);
  if (status != QN_OK) return qn_model_finish(status, &diag, error);
  quern_runner *r = qn_alloc_zeroed(&model->allocator, sizeof *r);
  if (!r) return qn_model_finish(qn_fail_nomem(&diag, model->path, "a runner"), &diag, error);
  r->model = model;
  status = create(r, &own, &diag);
  if (status == QN_OK) {
    *out_runner = r;
  } else {
    quern_runner_destroy(r);
  }
  return qn_model_finish(status, &diag, error);
}

void quern_runner_destroy(quern_runner *r) {
  if (!r) return;
  const qn_allocator *allocator = &r->model->allocator;
  if (r->pools) {
    const qn_memory *memory = qn_executor_memory(r->executor);
    memory->give_back(memory->context, r->pools, r->pool_bytes);
  }
  qn_executor_destroy(r->executor);
  qn_threads_destroy(r->threads);
  qn_free(allocator, r->bindings, bindings_bytes(r));
  qn_free(allocator, r, sizeof *r);
}

// --- binding

// The buffer of this kind and name, or buffer_count after an error that lists those there are.
static uint32_t find(const quern_runner *r, bool output, const char *name, qn_diag *diag) {
  const qn_artifact *a = &r->model->artifact;
  char known[512] = "none";
  size_t used = 0;
  uint32_t i = 0;
  for (; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    if (!is_tensor(b) || b->kind == QN_ART_CACHE || (b->kind == QN_ART_ARENA) != output) continue;
    if (name && strcmp(name_of(a, b), name) == 0) return i;
    int length =
        used < sizeof known ? snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", name_of(a, b)) : 0;
    used += length > 0 ? (size_t)length : 0;
  }
  const char *what = output ? "output" : "input";
  qn_status status = qn_fail(diag, QN_ERR_ARGUMENT, r->model->path, "got %s '%s'; the program's %ss are: %s", what,
                             name ? name : "", what, known);
  (void)status;  // the caller's, who sees that nothing was found
  return i;
}

static qn_status bind_input(quern_runner *r, const char *name, const void *data, size_t bytes, qn_diag *diag) {
  uint32_t i = find(r, false, name, diag);
  if (i == r->model->artifact.program->buffer_count) return QN_ERR_ARGUMENT;
  QN_TRY(qn_executor_bind_input(r->executor, name, data, diag));
  r->bindings[i] = (binding){(void *)(uintptr_t)data, bytes};  // only read
  return QN_OK;
}

quern_status quern_runner_bind_input(quern_runner *runner, const char *name, const void *data, size_t bytes,
                                     quern_error *error) {
  qn_diag diag = {0};
  return qn_model_finish(bind_input(runner, name, data, bytes, &diag), &diag, error);
}

quern_status quern_runner_bind_output(quern_runner *runner, const char *name, void *data, size_t bytes,
                                      quern_error *error) {
  qn_diag diag = {0};
  uint32_t i = find(runner, true, name, &diag);
  if (i < runner->model->artifact.program->buffer_count) runner->bindings[i] = (binding){data, bytes};
  return qn_model_finish(diag.status, &diag, error);
}

// --- running

// What the host has bound is as large as the sizes say; sizes that cannot be are the executor's to refuse.
static qn_status check_bytes(const quern_runner *r, uint32_t i, const int64_t *symbols, qn_diag *diag) {
  const qn_artifact *a = &r->model->artifact;
  const qn_art_buffer *b = &a->buffers[i];
  char sizes[128];
  size_t elements = 0, bytes = 0;
  bool input = b->kind == QN_ART_INPUT;
  if (!count_elements(b, 0, symbols, &elements) || !qn_size_mul(elements, element_bytes(b), &bytes)) {
    return qn_fail(diag, QN_ERR_LIMIT, r->model->path, "%s '%s': the size overflows", input ? "input" : "output",
                   name_of(a, b));
  }
  if (bytes <= r->bindings[i].bytes) return QN_OK;
  put_sizes(b, symbols, sizes, sizeof sizes);
  return qn_fail(diag, QN_ERR_LIMIT, r->model->path, "%s '%s': got %zu bytes, want %zu for %s",
                 input ? "input" : "output", name_of(a, b), r->bindings[i].bytes, bytes, sizes);
}

static qn_status check_bindings(const quern_runner *r, const int64_t *symbols, qn_diag *diag) {
  const qn_artifact *a = &r->model->artifact;
  for (int s = 1; s < QN_ARTIFACT_SYMBOLS; s++) {
    int64_t most = a->program->symbol_max[s] ? a->program->symbol_max[s] : INT32_MAX;
    if (symbols[s] < 0 || symbols[s] > most) {
      return qn_fail(diag, QN_ERR_LIMIT, r->model->path,
                     "size %c: got %" PRId64 ", want 0 to %" PRId64 ", as it was compiled", letters[s], symbols[s],
                     most);
    }
  }
  if (r->pools && symbols[SYM_G] > r->pool_pages) {
    return qn_fail(diag, QN_ERR_LIMIT, r->model->path,
                   "size G: got %" PRId64 ", want at most the runner's %" PRId64 " pool_pages", symbols[SYM_G],
                   r->pool_pages);
  }
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    if (r->bindings[i].data) QN_TRY(check_bytes(r, i, symbols, diag));
  }
  return QN_OK;
}

// Bytes of a row, of all dimensions but the first, and from row to row; *out_rows of them.
static void measure_rows(const qn_art_buffer *b, const int64_t *symbols, size_t *out_rows, size_t *out_width,
                         size_t *out_pitch) {
  size_t width = 1, elements = 1, bytes = element_bytes(b);
  (void)count_elements(b, 1, symbols, &width);  // it was counted before
  (void)count_elements(b, 0, symbols, &elements);
  *out_rows = width ? elements / width : 0;
  *out_width = width * bytes;
  *out_pitch = b->rank >= 2 && b->row_pitch > 0 ? (size_t)b->row_pitch * bytes : *out_width;
}

static qn_status copy_output(const quern_runner *r, uint32_t i, qn_diag *diag) {
  const qn_artifact *a = &r->model->artifact;
  const qn_art_buffer *b = &a->buffers[i];
  const uint8_t *from = qn_executor_output(r->executor, name_of(a, b), NULL);
  uint8_t *to = r->bindings[i].data;
  size_t rows, width, pitch, end;
  measure_rows(b, r->symbols, &rows, &width, &pitch);
  if (rows == 0) return QN_OK;
  if (!qn_size_mul(rows - 1, pitch, &end) || end > b->bytes || width > b->bytes - end) {
    return qn_fail(diag, QN_ERR_FORMAT, r->model->path, "output '%s': its rows lie outside its %" PRIu64 " bytes",
                   name_of(a, b), b->bytes);
  }
  if (pitch == width) {
    memcpy(to, from, rows * width);
  } else {
    for (size_t row = 0; row < rows; row++) memcpy(to + row * width, from + row * pitch, width);
  }
  return QN_OK;
}

static qn_status run(quern_runner *r, const quern_sizes *sizes, qn_diag *diag) {
  int64_t symbols[QN_ARTIFACT_SYMBOLS];
  if (!sizes) return qn_fail(diag, QN_ERR_ARGUMENT, "sizes", "got NULL, want those of the run");
  to_symbols(sizes, symbols);
  QN_TRY(check_bindings(r, symbols, diag));
  // Sizes that come again are likely to do so once more, which is worth a graph on a GPU.
  bool again = memcmp(symbols, r->symbols, sizeof symbols) == 0;
  memcpy(r->symbols, symbols, sizeof symbols);
  QN_TRY(qn_executor_run(r->executor, symbols, again ? QN_RUN_STEP : QN_RUN_PROMPT, diag));
  for (uint32_t i = 0; i < r->model->artifact.program->buffer_count; i++) {
    if (r->model->artifact.buffers[i].kind == QN_ART_ARENA && r->bindings[i].data) QN_TRY(copy_output(r, i, diag));
  }
  return QN_OK;
}

quern_status quern_runner_run(quern_runner *runner, const quern_sizes *sizes, quern_error *error) {
  qn_diag diag = {0};
  return qn_model_finish(run(runner, sizes, &diag), &diag, error);
}

const void *quern_runner_output(const quern_runner *runner, const char *name, size_t *out_row_bytes) {
  const qn_art_buffer *b = NULL;
  size_t rows, width;
  const void *data = name ? qn_executor_output(runner->executor, name, &b) : NULL;
  *out_row_bytes = 0;
  if (data) measure_rows(b, runner->symbols, &rows, &width, out_row_bytes);
  return data;
}
