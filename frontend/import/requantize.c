// The plan is made on the graph, since what a matrix is used for says whether it may be quantised. Rows are independent
// of each other, so that threads take them in any order; errors are summed by row.
#include "frontend/import/requantize.h"

#include <ctype.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "frontend/import/quantize.h"

enum { MAX_THREADS = 64, BAND_VALUES = 1 << 21 };  // between two calls of progress: some tenths of a second

// ---- names -------------------------------------------------------------------------------------------------------

// The i-th format that quantisers make, or NULL after the last.
static const qn_format *format_at(int i) {
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    if (format && format->gguf_type != QN_NO_GGUF_TYPE && i-- == 0) return format;
  }
  return NULL;
}

void qn_requantize_list(qn_buf *out) {
  for (int i = 0; format_at(i); i++) qn_buf_printf(out, "%s%s", i ? ", " : "", format_at(i)->name);
}

qn_status qn_requantize_parse(const char *text, const qn_format **out, qn_diag *diag) {
  char name[24] = "";
  for (size_t i = 0; text[i] && i + 1 < sizeof name; i++) name[i] = (char)tolower((unsigned char)text[i]);
  for (int i = 0; (*out = format_at(i)) != NULL; i++) {
    if (strlen(text) < sizeof name && strcmp((*out)->name, name) == 0) return QN_OK;
  }
  qn_buf known;
  qn_buf_init(&known, qn_allocator_default());
  qn_requantize_list(&known);
  qn_status status = qn_fail(diag, QN_ERR_ARGUMENT, "quant", "got '%.60s', want one of %s", text, qn_buf_text(&known));
  qn_buf_deinit(&known);
  return status;
}

// ---- the plan ----------------------------------------------------------------------------------------------------

// Why a bound tensor stays as it is; NULL when it may be quantised as far as it alone says.
static const char *own_reason(const qn_bound_tensor *tensor) {
  if (tensor->data.rank < 2) return "no matrix";
  if (!qn_dtype_is_float(tensor->data.format->dtype)) return "quantised already";
  return tensor->keep ? "kept by its template" : NULL;
}

// Does the node take its operand i as rows of weights, in any format?
static bool takes_weights(const qn_node *node, int i) {
  return (qn_op_is_product(node->op) && i == 1) || (node->op == QN_OP_EMBED && i == 0);
}

void qn_requantize_plan(qn_binding *binding, const qn_graph *graph, const qn_format *format) {
  for (size_t i = 0; i < binding->tensors.count; i++) {
    qn_bound_tensor *tensor = &binding->tensors.items[i];
    tensor->kept = own_reason(tensor);
  }
  for (size_t id = 1; id < graph->nodes.count; id++) {
    const qn_node *user = qn_graph_node(graph, (qn_id)id);
    for (int i = 0; i < user->operand_count; i++) {
      const qn_node *node = qn_graph_node(graph, user->operands[i]);
      uint64_t index;
      if (node->op != QN_OP_PARAM || takes_weights(user, i)) continue;
      if (!qn_map_get(&binding->tensor_index, qn_str_from(qn_node_text(node, QN_ATTR_NAME, "")), &index)) continue;
      qn_bound_tensor *tensor = &binding->tensors.items[index];
      if (!tensor->kept) tensor->kept = "neither multiplied by nor looked up in";
    }
  }
  for (size_t i = 0; i < binding->tensors.count; i++) {
    qn_bound_tensor *tensor = &binding->tensors.items[i];
    if (tensor->kept) continue;
    tensor->target = qn_quantize_format_for(format, tensor->data.dims[tensor->data.rank - 1]);
    if (tensor->target == tensor->data.format) tensor->kept = "has the format";
  }
}

// ---- the work ----------------------------------------------------------------------------------------------------

typedef struct row_error {
  double squares, error_squares, max;
} row_error;

// What all threads of a band share.
typedef struct band {
  const qn_tensor_data *from;
  const qn_format *to;
  const char *name;
  int64_t k, first, end;  // rows of the matrix
  size_t from_row_bytes, to_row_bytes;
  uint8_t *out;       // the whole matrix
  row_error *errors;  // of the band's rows
} band;

typedef struct worker {
  const band *band;
  int64_t begin, end;  // rows of the matrix
  float *row;          // k, owned by the caller
  double *values;      // k
  pthread_t handle;
  bool started;
  qn_status status;
  qn_diag diag;
} worker;

static row_error measure(const band *b, const float *row, const uint8_t *quantized, double *values) {
  row_error e = {0};
  qn_format_row_to_f64(b->to, b->k, quantized, values);
  for (int64_t i = 0; i < b->k; i++) {
    double x = (double)row[i], error = values[i] - x;
    e.squares += x * x;
    e.error_squares += error * error;
    e.max = fmax(e.max, fabs(error));
  }
  return e;
}

static void *work(void *context) {
  worker *w = context;
  const band *b = w->band;
  for (int64_t r = w->begin; r < w->end && w->status == QN_OK; r++) {
    uint8_t *to = b->out + (size_t)r * b->to_row_bytes;
    qn_format_row_to_f64(b->from->format, b->k, (const uint8_t *)b->from->data + (size_t)r * b->from_row_bytes,
                         w->values);
    for (int64_t i = 0; i < b->k; i++) w->row[i] = (float)w->values[i];
    w->status = qn_quantize_row(b->to, b->k, w->row, to, b->name, &w->diag);
    if (w->status == QN_OK) b->errors[r - b->first] = measure(b, w->row, to, w->values);
  }
  return NULL;
}

// Shares the band's rows out; the first worker is this thread. A thread that cannot be started leaves its rows to it.
static qn_status run_band(const band *b, worker *workers, int count, qn_diag *diag) {
  int64_t rows = b->end - b->first;
  for (int i = 0; i < count; i++) {
    worker *w = &workers[i];
    w->band = b;
    w->begin = b->first + rows * i / count;
    w->end = b->first + rows * (i + 1) / count;
    w->status = QN_OK;
    w->started = i > 0 && pthread_create(&w->handle, NULL, work, w) == 0;
  }
  for (int i = 0; i < count; i++) {
    if (!workers[i].started) work(&workers[i]);
  }
  for (int i = 0; i < count; i++) {
    if (workers[i].started) pthread_join(workers[i].handle, NULL);
  }
  for (int i = 0; i < count; i++) {  // the first row that failed is told
    if (workers[i].status != QN_OK) {
      *diag = workers[i].diag;
      return workers[i].status;
    }
  }
  return QN_OK;
}

static void add_errors(const band *b, qn_requantized *result) {
  for (int64_t i = 0; i < b->end - b->first; i++) {
    result->squares += b->errors[i].squares;
    result->error_squares += b->errors[i].error_squares;
    result->max_error = fmax(result->max_error, b->errors[i].max);
  }
}

static int thread_count(const qn_requantize_options *options) {
  long wanted = options->threads > 0 ? options->threads : sysconf(_SC_NPROCESSORS_ONLN);
  return wanted < 1 ? 1 : wanted > MAX_THREADS ? MAX_THREADS : (int)wanted;
}

// All bands of a matrix, by workers that have their buffers.
static qn_status run_bands(band *b, worker *workers, int count, int64_t rows, int64_t band_rows,
                           const qn_requantize_options *options, qn_requantized *result, qn_diag *diag) {
  for (b->first = 0; b->first < rows; b->first = b->end) {
    b->end = b->first + band_rows < rows ? b->first + band_rows : rows;
    QN_TRY(run_band(b, workers, count, diag));
    add_errors(b, result);
    if (options->progress && !options->progress(options->progress_context, result, b->end)) {
      return qn_fail(diag, QN_ERR_CANCELLED, b->name, "cancelled by the caller");
    }
  }
  return QN_OK;
}

int64_t qn_requantize_rows(const qn_tensor_data *tensor) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < tensor->rank; d++) rows *= tensor->dims[d];
  return rows;
}

qn_status qn_requantize_matrix(const qn_tensor_data *from, const qn_format *to, const char *name,
                               const qn_requantize_options *options, const qn_allocator *allocator, void *out,
                               qn_requantized *result, qn_diag *diag) {
  int64_t rows = qn_requantize_rows(from), k = from->dims[from->rank - 1], band_rows = BAND_VALUES / k + 1;
  int count = thread_count(options);
  worker workers[MAX_THREADS];
  qn_arena arena;
  qn_arena_init(&arena, allocator);
  band b = {.from = from, .to = to, .name = name, .k = k, .out = out};
  b.from_row_bytes = (size_t)(k / from->format->block_values) * from->format->block_bytes;
  b.to_row_bytes = (size_t)(k / to->block_values) * to->block_bytes;
  b.errors = QN_ARENA_ARRAY(&arena, (size_t)band_rows, row_error);
  bool allocated = b.errors != NULL;
  for (int i = 0; i < count; i++) {
    workers[i] =
        (worker){.row = QN_ARENA_ARRAY(&arena, (size_t)k, float), .values = QN_ARENA_ARRAY(&arena, (size_t)k, double)};
    allocated = allocated && workers[i].row && workers[i].values;
  }
  result->squares = result->error_squares = result->max_error = 0.0;
  qn_status status = allocated ? run_bands(&b, workers, count, rows, band_rows, options, result, diag)
                               : qn_fail_nomem(diag, name, "quantising");
  qn_arena_deinit(&arena);
  return status;
}
