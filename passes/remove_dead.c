// remove_dead: drops values that reach no output and no cache. Requires: a valid graph. Keeps: outputs, cache writes.
#include "passes/pass.h"

static qn_status keep_live(qn_rewriter *r, qn_id id, qn_id *out) {
  const bool *live = r->context;
  *out = 0;
  return live[id] ? qn_rewrite_keep(r, id, out) : QN_OK;
}

qn_status qn_pass_remove_dead(qn_pass_context *context) {
  const qn_graph *g = context->graph;
  bool *live = QN_ARENA_ARRAY(context->arena, g->nodes.count, bool);
  if (!live) return qn_fail_nomem(context->diag, g->name, "live values");
  for (size_t i = 0; i < g->outputs.count; i++) live[g->outputs.items[i].value] = true;
  for (qn_id id = (qn_id)g->nodes.count - 1; id >= 1; id--) {
    const qn_node *node = qn_graph_node(g, id);
    if (qn_op_get_info(node->op)->flags & QN_OF_W) live[id] = true;
    for (int i = 0; live[id] && i < node->operand_count; i++) live[node->operands[i]] = true;
  }
  return qn_graph_rewrite(g, context->arena, keep_live, live, &context->graph, context->diag);
}
