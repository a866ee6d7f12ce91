// Rewriting a graph into a new one, node by node in order.
#include "ir/graph.h"

static qn_id mapped(const qn_rewriter *rewriter, qn_id old) { return rewriter->map[old]; }

qn_status qn_rewrite_spec(qn_rewriter *rewriter, qn_id id, qn_node_spec *out) {
  const qn_node *node = qn_graph_node(rewriter->from, id);
  qn_node_spec spec = {.op = node->op, .operand_count = node->operand_count, .attr_count = node->attr_count,
                       .type = &node->type, .loc = node->loc, .group = node->group};
  for (int i = 0; i < node->attr_count; i++) spec.attrs[i] = node->attrs[i];
  for (int i = 0; i < node->operand_count; i++) {
    spec.operands[i] = mapped(rewriter, node->operands[i]);
    if (spec.operands[i] == 0) {
      return qn_fail(rewriter->diag, QN_ERR_INTERNAL, node->loc, "a pass dropped operand %d of %s, which is still used",
                     i, qn_op_get_info(node->op)->name);
    }
  }
  *out = spec;
  return QN_OK;
}

qn_status qn_rewrite_keep(qn_rewriter *rewriter, qn_id id, qn_id *out) {
  qn_node_spec spec;
  QN_TRY(qn_rewrite_spec(rewriter, id, &spec));
  return qn_graph_add(rewriter->to, &spec, out, rewriter->diag);
}

qn_status qn_graph_rewrite(const qn_graph *from, qn_arena *arena, qn_rewrite_fn fn, void *context, qn_graph **out,
                           qn_diag *diag) {
  qn_graph *to = qn_graph_create(arena, from->name);
  qn_id *map = QN_ARENA_ARRAY(arena, from->nodes.count, qn_id);
  if (!to || !map) return qn_fail_nomem(diag, from->name, "a rewritten graph");
  for (int i = 0; i < QN_SYM_COUNT; i++) to->max_values[i] = from->max_values[i];
  to->group_count = from->group_count;
  qn_rewriter rewriter = {from, to, map, context, diag};
  for (qn_id id = 1; id < from->nodes.count; id++) QN_TRY(fn(&rewriter, id, &map[id]));
  for (size_t i = 0; i < from->outputs.count; i++) {
    qn_output output = from->outputs.items[i];
    if (map[output.value] == 0) {
      return qn_fail(diag, QN_ERR_INTERNAL, from->name, "a pass dropped the value of output '%s'", output.name);
    }
    QN_TRY(qn_graph_add_output(to, output.name, map[output.value], diag));
  }
  *out = to;
  return QN_OK;
}
