// Evaluates a graph with the oracle, node by node in order.
#include "ir/ref/ref.h"

#include <string.h>

static qn_type constant_type(const qn_type *type, const int64_t *symbol_values) {
  qn_type out = *type;
  for (int i = 0; i < type->rank; i++) {
    if (qn_dim_is_const(type->dims[i])) continue;
    out.dims[i] = qn_dim_const(type->dims[i].value * symbol_values[type->dims[i].symbol]);
  }
  return out;
}

qn_status qn_ref_evaluate(const qn_graph *graph, const int64_t symbol_values[QN_SYM_COUNT], qn_ref_source_fn source,
                          void *context, qn_arena *arena, qn_ref_tensor **out_values, qn_diag *diag) {
  qn_ref_tensor *values = QN_ARENA_ARRAY(arena, graph->nodes.count, qn_ref_tensor);
  if (!values) return qn_fail_nomem(diag, graph->name, "the oracle's values");
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    qn_ref_tensor *out = &values[id];
    out->type = constant_type(&node->type, symbol_values);
    if (!qn_type_elements(&out->type, symbol_values, &out->count)) {
      return qn_fail(diag, QN_ERR_LIMIT, node->loc, "the oracle's tensor is too large");
    }
    if ((qn_op_get_info(node->op)->flags & QN_OF_S) && node->op != QN_OP_CONST) {
      int64_t want = out->count;
      QN_TRY(source(context, node, out, diag));
      if (out->count != want || !out->values) {
        return qn_fail(diag, QN_ERR_ARGUMENT, node->loc, "%s: got %lld values, want %lld",
                       qn_op_get_info(node->op)->name, (long long)out->count, (long long)want);
      }
      continue;
    }
    out->values = QN_ARENA_ARRAY(arena, (size_t)out->count, double);
    if (!out->values) return qn_fail_nomem(diag, node->loc, "an oracle tensor");
    const qn_ref_tensor *operands[QN_MAX_OPERANDS];
    for (int i = 0; i < node->operand_count; i++) operands[i] = &values[node->operands[i]];
    QN_TRY(qn_ref_op(node, operands, out, arena, diag));
  }
  *out_values = values;
  return QN_OK;
}
