// fuse_rows: groups for everything that is left: norms with what quantises them, RoPE with the cache writes beside it,
// chains of elementwise ops; attention alone. After it every computing node has a group.
// Requires: fuse_matmul has run. Keeps: every value. Groups are convex and all their nodes have the same rows.
#include <string.h>

#include "passes/fuse.h"

static bool stands_alone(const qn_node *node) {
  bool symbolic_row = node->op == QN_OP_SOFTMAX && !qn_dim_is_const(node->type.dims[node->type.rank - 1]);
  return node->op == QN_OP_ATTENTION || node->op == QN_OP_ATTN_SCORES || node->op == QN_OP_ATTN_MIX || symbolic_row;
}

// The rows a node works on: its leading dimension (of what it writes, for a cache write).
static qn_dim rows_of(const qn_graph *graph, const qn_node *node) {
  const qn_type *type = node->op == QN_OP_KV_WRITE ? &qn_graph_node(graph, node->operands[1])->type : &node->type;
  bool has_rows = type->rank > 1 || (type->rank == 1 && !qn_dim_is_const(type->dims[0]));
  return has_rows ? type->dims[0] : qn_dim_const(0);
}

typedef struct rows_context {
  qn_fuse fuse;
  bool *member;
  bool *open;  // by group: may take more members
} rows_context;

static bool try_join(rows_context *c, qn_id id, uint32_t group) {
  qn_graph *graph = c->fuse.graph;
  if (!group || !c->open[group]) return false;
  for (qn_id other = 1; other < graph->nodes.count; other++) {
    c->member[other] = graph->nodes.items[other].group == group;
    if (c->member[other] && !qn_dim_equal(rows_of(graph, qn_graph_node(graph, other)), rows_of(graph, qn_graph_node(graph, id)))) {
      return false;
    }
  }
  c->member[id] = true;
  if (!qn_fuse_is_convex(&c->fuse, c->member)) return false;
  graph->nodes.items[id].group = group;
  return true;
}

static void place(rows_context *c, qn_id id, uint32_t *latest) {
  qn_graph *graph = c->fuse.graph;
  const qn_node *node = qn_graph_node(graph, id);
  if (!stands_alone(node)) {
    for (int i = 0; i < node->operand_count; i++) {
      uint32_t group = qn_graph_node(graph, qn_fuse_base(&c->fuse, node->operands[i]))->group;
      if (try_join(c, id, group)) return;
    }
    if (try_join(c, id, *latest)) return;
  }
  uint32_t group = ++graph->group_count;
  graph->nodes.items[id].group = group;
  c->open[group] = !stands_alone(node);
  if (c->open[group]) *latest = group;
}

// An output that is a slice or a reshape that moves rows is copied: it gets a group of its own.
static bool is_copied_output(const qn_graph *graph, qn_id id) {
  const qn_node *node = qn_graph_node(graph, id);
  if (!(qn_op_get_info(node->op)->flags & QN_OF_V)) return false;
  bool output = false;
  for (size_t i = 0; i < graph->outputs.count; i++) output = output || graph->outputs.items[i].value == id;
  if (!output) return false;
  const qn_node *from = qn_graph_node(graph, node->operands[0]);
  bool renames = node->op != QN_OP_SLICE && from->type.rank > 0 && node->type.rank > 0 &&
                 qn_dim_equal(from->type.dims[0], node->type.dims[0]) && !(qn_op_get_info(from->op)->flags & (QN_OF_S | QN_OF_V));
  return !renames;
}

qn_status qn_pass_fuse_rows(qn_pass_context *context) {
  qn_graph *graph = context->graph;
  rows_context c = {.member = QN_ARENA_ARRAY(context->arena, graph->nodes.count, bool),
                    .open = QN_ARENA_ARRAY(context->arena, graph->nodes.count + graph->group_count + 1, bool)};
  if (!c.member || !c.open) return qn_fail_nomem(context->diag, graph->name, "groups");
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    if (!is_copied_output(graph, id)) continue;
    graph->nodes.items[id].group = ++graph->group_count;
  }
  QN_TRY(qn_fuse_init(&c.fuse, context));
  uint32_t latest = 0;
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    if (!qn_graph_node(graph, id)->group && qn_fuse_computes(&c.fuse, id)) place(&c, id, &latest);
  }
  return QN_OK;
}
