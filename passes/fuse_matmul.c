// fuse_matmul: groups of a matmul and the elementwise ops that follow it (bias, residual, activation), and of two
// matmuls of one input that meet in an elementwise op (gate and up). The result never goes to memory in between.
// Requires: no groups yet. Keeps: every value. Groups are convex and have one result.
#include <string.h>

#include "ir/format.h"
#include "passes/fuse.h"

typedef struct grower {
  qn_fuse fuse;
  bool *member;  // of the group being grown
  bool *trial;   // with what one more op would bring
  const qn_node *anchor;
} grower;

static bool fits(const grower *g, const qn_node *node) { return qn_type_equal(&node->type, &g->anchor->type); }

// A panel has 16 columns, also where the matrix has fewer: what they read must be padded as values and vectors of
// parameters are, and inputs, parts of values and matrices of parameters are not.
static bool is_padded(const grower *g, qn_id id) {
  const qn_node *node = qn_graph_node(g->fuse.graph, id);
  bool whole_panels = g->anchor->type.dims[1].value % QN_TILE_ROWS == 0;
  if (whole_panels || node->type.rank == 0) return true;
  if (node->op == QN_OP_PARAM) return node->type.rank == 1;
  return node->type.rank == 2 && qn_fuse_computes(&g->fuse, id);
}

// May the product be made in one loop with the anchor: of the same rows, by weights of the same experts?
static bool walks_along(const grower *g, const qn_node *node) {
  if (node->op != g->anchor->op || node->operand_count != g->anchor->operand_count) return false;
  for (int i = 0; i < node->operand_count; i++) {
    if (i != 1 && node->operands[i] != g->anchor->operands[i]) return false;
  }
  return true;
}

#define MAX_DEPTH 32  // of what joins at once: a graph may be as deep as somebody likes

// Can operand `id` of a joining op be had: from memory, or by joining too?
static bool pull(grower *g, qn_id id, qn_id first, int depth) {
  const qn_node *node = qn_graph_node(g->fuse.graph, id);
  if (g->trial[id]) return true;
  if (depth == MAX_DEPTH) return false;
  qn_id base = qn_graph_base(g->fuse.graph, id);
  if (!qn_fuse_computes(&g->fuse, base) || base < first) return is_padded(g, id);
  if (base != id || g->fuse.uses[id] != 1 || node->group || !fits(g, node)) return false;
  bool same_input = qn_op_is_product(node->op) && walks_along(g, node);
  if (!same_input && !(qn_op_get_info(node->op)->flags & QN_OF_E)) return false;
  g->trial[id] = true;
  for (int i = 0; !same_input && i < node->operand_count; i++) {
    if (!pull(g, node->operands[i], first, depth + 1)) return false;
  }
  return true;
}

// The one computing user of a value, when it is an elementwise op of the same shape that reads it directly.
static qn_id joining_user(const grower *g, qn_id id) {
  const uint32_t *users = g->fuse.users[id];
  if (g->fuse.uses[id] != 1 || !users[0]) return 0;
  const qn_node *user = qn_graph_node(g->fuse.graph, users[0]);
  if (!(qn_op_get_info(user->op)->flags & QN_OF_E) || user->group || !fits(g, user)) return 0;
  for (int i = 0; i < user->operand_count; i++) {
    if (user->operands[i] == id) return users[0];
  }
  return 0;
}

static void grow(grower *g, qn_id first) {
  size_t count = g->fuse.graph->nodes.count;
  memset(g->member, 0, count * sizeof *g->member);
  g->anchor = qn_graph_node(g->fuse.graph, first);
  g->member[first] = true;
  for (qn_id id = first; (id = joining_user(g, id)) != 0;) {
    memcpy(g->trial, g->member, count * sizeof *g->trial);
    g->trial[id] = true;
    bool pulled = true;
    for (int i = 0; pulled && i < qn_graph_node(g->fuse.graph, id)->operand_count; i++) {
      pulled = pull(g, qn_graph_node(g->fuse.graph, id)->operands[i], first, 0);
    }
    if (!pulled || !qn_fuse_is_convex(&g->fuse, g->trial)) return;
    memcpy(g->member, g->trial, count * sizeof *g->member);
  }
}

qn_status qn_pass_fuse_matmul(qn_pass_context *context) {
  grower g = {0};
  QN_TRY(qn_fuse_init(&g.fuse, context));
  qn_graph *graph = context->graph;
  g.member = QN_ARENA_ARRAY(context->arena, graph->nodes.count, bool);
  g.trial = QN_ARENA_ARRAY(context->arena, graph->nodes.count, bool);
  if (!g.member || !g.trial) return qn_fail_nomem(context->diag, graph->name, "groups");
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    if (!qn_op_is_product(qn_graph_node(graph, id)->op) || qn_graph_node(graph, id)->group) continue;
    grow(&g, id);
    graph->group_count++;
    for (qn_id member = id; member < graph->nodes.count; member++) {
      if (g.member[member]) graph->nodes.items[member].group = graph->group_count;
    }
  }
  return QN_OK;
}
