// group_experts: products of experts do their rows in the order of experts, so that an expert's weights are read once
// for all rows of a step that are its own: one expert_order a choice of experts, however many products go by it.
// Requires: a valid graph. Keeps: every value; an element of a product does not depend on the order of rows.
#include "passes/pass.h"

static qn_status group_node(qn_rewriter *r, qn_id id, qn_id *out) {
  qn_id *orders = r->context;  // by old id of the choice
  qn_node_spec spec;
  QN_TRY(qn_rewrite_spec(r, id, &spec));
  if (spec.op != QN_OP_EXPERT_MATMUL || spec.operand_count == 4) return qn_graph_add(r->to, &spec, out, r->diag);
  qn_id ids = qn_graph_node(r->from, id)->operands[2];
  if (!orders[ids]) {
    qn_node_spec order = {.op = QN_OP_EXPERT_ORDER,
                          .operand_count = 1,
                          .operands = {r->map[ids]},
                          .loc = qn_graph_node(r->from, ids)->loc};
    QN_TRY(qn_graph_add(r->to, &order, &orders[ids], r->diag));
  }
  spec.operands[spec.operand_count++] = orders[ids];
  return qn_graph_add(r->to, &spec, out, r->diag);
}

qn_status qn_pass_group_experts(qn_pass_context *context) {
  qn_id *orders = QN_ARENA_ARRAY(context->arena, context->graph->nodes.count, qn_id);
  if (!orders) return qn_fail_nomem(context->diag, context->graph->name, "orders of experts");
  return qn_graph_rewrite(context->graph, context->arena, group_node, orders, &context->graph, context->diag);
}
