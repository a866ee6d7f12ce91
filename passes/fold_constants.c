// fold_constants: elementwise ops on scalar constants become constants.
// Requires: a valid graph. Keeps: every value (the fold rounds to f32 as the kernel would have, from a double).
#include <math.h>

#include "passes/pass.h"

static bool fold(qn_op op, double x, double y, double *out) {
  switch (op) {
    case QN_OP_ADD: *out = x + y; return true;
    case QN_OP_SUB: *out = x - y; return true;
    case QN_OP_MUL: *out = x * y; return true;
    case QN_OP_DIV: *out = x / y; return true;
    case QN_OP_NEG: *out = -x; return true;
    case QN_OP_SQRT: *out = sqrt(x); return true;
    case QN_OP_EXP: *out = exp(x); return true;
    case QN_OP_TANH: *out = tanh(x); return true;
    case QN_OP_ERF: *out = erf(x); return true;
    case QN_OP_RELU: *out = x > 0 ? x : 0; return true;
    case QN_OP_SIGMOID: *out = 1 / (1 + exp(-x)); return true;
    default: return false;
  }
}

static qn_status fold_node(qn_rewriter *r, qn_id id, qn_id *out) {
  qn_node_spec spec;
  QN_TRY(qn_rewrite_spec(r, id, &spec));
  double values[2] = {0, 0}, result = 0;
  bool constant = spec.operand_count >= 1 && spec.operand_count <= 2;
  for (int i = 0; constant && i < spec.operand_count; i++) {
    const qn_node *operand = qn_graph_node(r->to, spec.operands[i]);
    constant = operand->op == QN_OP_CONST;
    if (constant) values[i] = qn_node_float(operand, QN_ATTR_VALUE, 0);
  }
  if (constant && fold(spec.op, values[0], values[1], &result)) {
    spec = (qn_node_spec){.op = QN_OP_CONST, .type = spec.type, .loc = spec.loc, .attr_count = 1,
                          .attrs = {{.id = QN_ATTR_VALUE, .value.f = result}}};
  }
  return qn_graph_add(r->to, &spec, out, r->diag);
}

qn_status qn_pass_fold_constants(qn_pass_context *context) {
  return qn_graph_rewrite(context->graph, context->arena, fold_node, NULL, &context->graph, context->diag);
}
