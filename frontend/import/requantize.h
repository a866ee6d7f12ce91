// Quantising a model while it is compiled: which of its matrices become another format, and their bytes in it, one
// tensor at a time.
#ifndef QN_IMPORT_REQUANTIZE_H
#define QN_IMPORT_REQUANTIZE_H

#include "frontend/import/bind.h"
#include "ir/graph.h"

// What became of one matrix.
typedef struct qn_requantized {
  const char *name;                    // of the tensor
  const qn_format *from, *asked, *to;  // to == from: left as it is
  const char *kept;                    // why it was left so, "quantised already"; NULL = it was not
  int64_t rows, k;
  double squares, error_squares;  // sums over the values, of themselves and of their errors
  double max_error;               // the largest magnitude of an error
} qn_requantized;

typedef struct qn_requantize_options {
  const qn_format *format;  // wanted; NULL = leave everything as it is
  int threads;              // 0 = one a core
  // Called for every matrix that the graph uses, as it is packed. May be NULL.
  void (*report)(void *context, const qn_requantized *tensor);
  void *report_context;
  // Called on the caller's thread as rows of a matrix are done; false cancels. May be NULL.
  bool (*progress)(void *context, const qn_requantized *tensor, int64_t done_rows);
  void *progress_context;
} qn_requantize_options;

// "q4_k", in any case: a format that quantisers make. ARGUMENT lists those there are.
QN_CHECKED qn_status qn_requantize_parse(const char *text, const qn_format **out, qn_diag *diag);
// Those formats as words with ", " between them.
void qn_requantize_list(qn_buf *out);

// Sets the target of every bound tensor of `graph` (as instantiated from the binding): F32, F16 and BF16 matrices that
// are multiplied by or looked up in, and that the template does not keep, become `format`, or what rows of their
// length can be instead (qn_quantize_format_for). All others stay.
void qn_requantize_plan(qn_binding *binding, const qn_graph *graph, const qn_format *format);

// Rows of a tensor of at least two dimensions: of a matrix, or of several one after another.
int64_t qn_requantize_rows(const qn_tensor_data *tensor);
// The bytes of a matrix, or of several, in `to`'s file layout, from its own: `out` holds qn_format_file_bytes of all
// rows. Fills the sums and the maximum of *result, which do not depend on the threads. CANCELLED; FORMAT: see qn_quantize_row.
QN_CHECKED qn_status qn_requantize_matrix(const qn_tensor_data *from, const qn_format *to, const char *name,
                                          const qn_requantize_options *options, const qn_allocator *allocator,
                                          void *out, qn_requantized *result, qn_diag *diag);

#endif
