// fold_constants: elementwise ops on scalar constants become constants.
// Requires: a valid graph. Keeps: every value, better rounded: the oracle computes it in double.
#include "ir/ref/ref.h"
#include "passes/pass.h"

// The value of an elementwise op whose operands are all constants; false when it is something else.
static bool fold(qn_rewriter *r, const qn_node_spec *spec, double *out) {
  double values[2] = {0, 0};
  qn_ref_tensor tensors[2], result = {.values = out, .count = 1};
  const qn_ref_tensor *operands[2] = {&tensors[0], &tensors[1]};
  if (!(qn_op_get_info(spec->op)->flags & QN_OF_E)) return false;
  for (int i = 0; i < spec->operand_count; i++) {
    const qn_node *operand = qn_graph_node(r->to, spec->operands[i]);
    if (operand->op != QN_OP_CONST) return false;
    values[i] = qn_node_float(operand, QN_ATTR_VALUE, 0);
    tensors[i] = (qn_ref_tensor){.type = operand->type, .values = &values[i], .count = 1};
  }
  qn_node node = {.op = spec->op, .operand_count = spec->operand_count, .loc = spec->loc};
  return qn_ref_op(&node, operands, &result, r->to->arena, NULL) == QN_OK;
}

static qn_status fold_node(qn_rewriter *r, qn_id id, qn_id *out) {
  qn_node_spec spec;
  QN_TRY(qn_rewrite_spec(r, id, &spec));
  double value = 0;
  if (fold(r, &spec, &value)) {
    spec = (qn_node_spec){.op = QN_OP_CONST,
                          .type = spec.type,
                          .loc = spec.loc,
                          .attr_count = 1,
                          .attrs = {{.id = QN_ATTR_VALUE, .value.f = value}}};
  }
  return qn_graph_add(r->to, &spec, out, r->diag);
}

qn_status qn_pass_fold_constants(qn_pass_context *context) {
  return qn_graph_rewrite(context->graph, context->arena, fold_node, NULL, &context->graph, context->diag);
}
