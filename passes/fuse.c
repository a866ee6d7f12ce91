// The shared questions of the fuse passes.
#include "passes/fuse.h"

bool qn_fuse_computes(const qn_fuse *fuse, qn_id id) {
  const qn_node *node = qn_graph_node(fuse->graph, id);
  uint32_t flags = qn_op_get_info(node->op)->flags;
  if (flags & QN_OF_S) return false;
  if (flags & QN_OF_V) return node->group != 0;
  return !qn_graph_is_stack(fuse->graph, node);
}

qn_status qn_fuse_init(qn_fuse *fuse, qn_pass_context *context) {
  qn_graph *graph = context->graph;
  size_t count = graph->nodes.count;
  *fuse = (qn_fuse){.graph = graph,
                    .uses = qn_graph_count_uses(graph, context->arena),
                    .users = QN_ARENA_ARRAY(context->arena, count, uint32_t *)};
  uint32_t *sizes = QN_ARENA_ARRAY(context->arena, count, uint32_t);
  if (!fuse->uses || !fuse->users || !sizes) return qn_fail_nomem(context->diag, graph->name, "uses of values");
  for (int round = 0; round < 2; round++) {  // count, then fill
    for (qn_id id = 1; id < count; id++) {
      if (round == 1) {
        fuse->users[id] = QN_ARENA_ARRAY(context->arena, sizes[id] + 1, uint32_t);
        if (!fuse->users[id]) return qn_fail_nomem(context->diag, graph->name, "uses of values");
        sizes[id] = 0;
      }
    }
    for (qn_id id = 1; id < count; id++) {
      if (!qn_fuse_computes(fuse, id)) continue;
      const qn_node *node = qn_graph_node(graph, id);
      for (int i = 0; i < node->operand_count; i++) {
        qn_id base = qn_graph_base(graph, node->operands[i]);
        if (round == 1) fuse->users[base][sizes[base]] = id;
        sizes[base]++;
      }
    }
  }
  return QN_OK;
}

bool qn_fuse_is_convex(const qn_fuse *fuse, const bool *member) {
  const qn_graph *graph = fuse->graph;
  qn_id first = 0, last = 0;
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    if (!member[id]) continue;
    if (!first) first = id;
    last = id;
  }
  for (qn_id id = first; id && id <= last; id++) {
    if (!member[id]) continue;
    const qn_node *node = qn_graph_node(graph, id);
    for (int i = 0; i < node->operand_count; i++) {
      qn_id base = qn_graph_base(graph, node->operands[i]);
      if (!member[base] && qn_fuse_computes(fuse, base) && base > first) return false;
    }
    for (const uint32_t *user = fuse->users[id]; *user; user++) {
      if (!member[*user] && *user < last) return false;
    }
  }
  return true;
}
