// A bound template → a graph: statements are carried out in order, repeats unrolled, weights and inputs made into
// nodes when they are first used.
#ifndef QN_IMPORT_INSTANTIATE_H
#define QN_IMPORT_INSTANTIATE_H

#include "frontend/import/bind.h"

typedef struct qn_instantiate_options {
  qn_dtype kv_dtype;                 // what "kv" stands for: F32, F16, BF16, KV8 or KV4
  int64_t max_values[QN_SYM_COUNT];  // copied into the graph
  int64_t context_tokens;            // the most tokens of a sequence: "compiled_context" in statements
  // For guesses that branch, and for heads that guess: kv_write takes `copies`, and there is an output `hidden`.
  bool guesses;
} qn_instantiate_options;

// The graph is verified and lives in `arena`, which is not the binding's. Errors name the template's statement, the
// layer and the op, got and want. The weights used are in binding->tensors afterwards.
QN_CHECKED qn_status qn_instantiate(qn_binding *binding, const qn_instantiate_options *options, qn_arena *arena,
                                    qn_graph **out, qn_diag *diag);

#endif
