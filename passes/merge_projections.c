// merge_projections: matmuls of one input by several weights of one format become one matmul by the stacked weights and
// slices of its result (Q, K and V). One pass over the input, one kernel, one barrier.
// Requires: a valid graph. Keeps: every value (rows of a matmul are independent). Two matmuls that meet in one
// elementwise op (gate and up) are left to fuse_matmul, which does better.
#include "passes/pass.h"

#include "ir/format.h"

typedef struct merge_context {
  uint32_t *uses;
} merge_context;

static bool is_candidate(const qn_graph *g, const merge_context *c, qn_id id, qn_id x) {
  const qn_node *node = qn_graph_node(g, id);
  return node->op == QN_OP_MATMUL && (x == 0 || node->operands[0] == x) &&
         qn_graph_node(g, node->operands[1])->op == QN_OP_PARAM && c->uses[node->operands[1]] == 1;
}

static qn_id only_user(const qn_graph *g, const merge_context *c, qn_id id) {
  if (c->uses[id] != 1) return 0;
  for (qn_id u = id + 1; u < g->nodes.count; u++) {
    for (int i = 0; i < qn_graph_node(g, u)->operand_count; i++) {
      if (qn_graph_node(g, u)->operands[i] == id) return u;
    }
  }
  return 0;
}

static qn_id next_elementwise(const qn_graph *g, const merge_context *c, qn_id id) {
  qn_id user = only_user(g, c, id);
  return user && (qn_op_get_info(qn_graph_node(g, user)->op)->flags & QN_OF_E) ? user : 0;
}

// Do the elementwise ops after a and after b come together?
static bool meet(const qn_graph *g, const merge_context *c, qn_id a, qn_id b) {
  for (qn_id x = next_elementwise(g, c, a); x; x = next_elementwise(g, c, x)) {
    for (qn_id y = next_elementwise(g, c, b); y && y <= x; y = next_elementwise(g, c, y)) {
      if (x == y) return true;
    }
  }
  return false;
}

// The matmuls that merge with `first`, itself in front; 1 = none.
static int find_siblings(const qn_graph *g, const merge_context *c, qn_id first, qn_id out[QN_MAX_OPERANDS]) {
  int count = 1;
  out[0] = first;
  const qn_type *w = &qn_graph_node(g, qn_graph_node(g, first)->operands[1])->type;
  int64_t rows = w->dims[0].value;
  for (qn_id id = first + 1; id < g->nodes.count && count < QN_MAX_OPERANDS; id++) {
    if (!is_candidate(g, c, id, qn_graph_node(g, first)->operands[0])) continue;
    const qn_type *other = &qn_graph_node(g, qn_graph_node(g, id)->operands[1])->type;
    bool fits = other->dtype == w->dtype && rows % QN_TILE_ROWS == 0;  // panels of different weights do not mix
    for (int i = 0; fits && i < count; i++) fits = !meet(g, c, out[i], id);
    if (!fits) continue;
    out[count++] = id;
    rows = other->dims[0].value;
  }
  return count;
}

static qn_status emit_merged(qn_rewriter *r, const qn_id *siblings, int count) {
  const qn_graph *g = r->from;
  const qn_node *first = qn_graph_node(g, siblings[0]);
  qn_node_spec stack = {.op = QN_OP_CONCAT,
                        .operand_count = count,
                        .attr_count = 1,
                        .loc = first->loc,
                        .attrs = {{.id = QN_ATTR_AXIS, .value.i = 0}}};
  for (int i = 0; i < count; i++) {
    qn_id w = qn_graph_node(g, siblings[i])->operands[1];
    if (!r->map[w]) QN_TRY(qn_rewrite_keep(r, w, &r->map[w]));
    stack.operands[i] = r->map[w];
  }
  qn_id stacked = 0, product = 0;
  QN_TRY(qn_graph_add(r->to, &stack, &stacked, r->diag));
  qn_node_spec matmul = {
      .op = QN_OP_MATMUL, .operand_count = 2, .operands = {r->map[first->operands[0]], stacked}, .loc = first->loc};
  QN_TRY(qn_graph_add(r->to, &matmul, &product, r->diag));
  int64_t begin = 0;
  for (int i = 0; i < count; i++) {
    const qn_node *node = qn_graph_node(g, siblings[i]);
    int64_t end = begin + node->type.dims[1].value;
    qn_node_spec slice = {.op = QN_OP_SLICE,
                          .operand_count = 1,
                          .operands = {product},
                          .attr_count = 3,
                          .loc = node->loc,
                          .attrs = {{.id = QN_ATTR_AXIS, .value.i = 1},
                                    {.id = QN_ATTR_BEGIN, .value.i = begin},
                                    {.id = QN_ATTR_END, .value.i = end}}};
    QN_TRY(qn_graph_add(r->to, &slice, &r->map[siblings[i]], r->diag));
    begin = end;
  }
  return QN_OK;
}

static qn_status merge_node(qn_rewriter *r, qn_id id, qn_id *out) {
  if (r->map[id]) {  // emitted early
    *out = r->map[id];
    return QN_OK;
  }
  merge_context *c = r->context;
  qn_id siblings[QN_MAX_OPERANDS];
  if (is_candidate(r->from, c, id, 0)) {
    int count = find_siblings(r->from, c, id, siblings);
    if (count > 1) {
      QN_TRY(emit_merged(r, siblings, count));
      *out = r->map[id];
      return QN_OK;
    }
  }
  return qn_rewrite_keep(r, id, out);
}

qn_status qn_pass_merge_projections(qn_pass_context *context) {
  merge_context c = {qn_graph_count_uses(context->graph, context->arena)};
  if (!c.uses) return qn_fail_nomem(context->diag, context->graph->name, "use counts");
  return qn_graph_rewrite(context->graph, context->arena, merge_node, &c, &context->graph, context->diag);
}
