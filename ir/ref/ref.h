// The oracle: the plain meaning of every graph op in scalar double arithmetic, straight from the formulas.
#ifndef QN_IR_REF_H
#define QN_IR_REF_H

#include "ir/graph.h"

// A tensor's values. Floats and quantised formats as doubles; integers too (exact). Row-major, symbols replaced.
typedef struct qn_ref_tensor {
  qn_type type;          // constant dimensions only
  double *values;        // owned by whoever made it (evaluation: the arena)
  int64_t count;
} qn_ref_tensor;

// Gives the value of a source node (INPUT, PARAM, CACHE) as dims with symbols replaced. Called once a source.
typedef qn_status (*qn_ref_source_fn)(void *context, const qn_node *node, qn_ref_tensor *out, qn_diag *diag);

// Evaluates the whole graph for given symbol values. out_values has graph->nodes.count entries from the arena, one a
// value (KV_WRITE results are whole caches). A quantised matmul operand (a8) is the value its codes stand for, so
// that the error of quantising is the ops' own. Rounding to f16 in caches is not modelled: doubles throughout.
QN_CHECKED qn_status qn_ref_evaluate(const qn_graph *graph, const int64_t symbol_values[QN_SYM_COUNT],
                                     qn_ref_source_fn source, void *context, qn_arena *arena,
                                     qn_ref_tensor **out_values, qn_diag *diag);

// One op on tensors: what evaluate does for each node.
QN_CHECKED qn_status qn_ref_op(const qn_node *node, const qn_ref_tensor *const *operands, qn_ref_tensor *out,
                               qn_arena *arena, qn_diag *diag);

#endif
