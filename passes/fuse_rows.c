// fuse_rows: groups for everything that is left: norms with what quantises them, RoPE with the cache writes beside it,
// chains of elementwise ops; attention alone. After it every computing node has a group.
// Requires: fuse_matmul has run. Keeps: every value. Groups are convex and all their nodes have the same rows.
#include <string.h>

#include "passes/fuse.h"

static bool stands_alone(const qn_node *node) {
  if (node->op == QN_OP_CONCAT && qn_node_int(node, QN_ATTR_AXIS, 0) == 0 && node->type.rank > 1) return true;
  bool symbolic_row = node->op == QN_OP_SOFTMAX && !qn_dim_is_const(node->type.dims[node->type.rank - 1]);
  // One with copies writes each of them from memory: what computes x is done once.
  bool copies = node->op == QN_OP_KV_WRITE && node->operand_count > 5;
  bool attention = node->op == QN_OP_ATTENTION || node->op == QN_OP_ATTN_SCORES || node->op == QN_OP_ATTN_MIX;
  bool sums = node->op == QN_OP_KV_WRITE && qn_kv_is_sum(qn_node_text(node, QN_ATTR_KIND, ""));
  return copies || attention || sums || node->op == QN_OP_SAMPLE || node->op == QN_OP_EXPERT_ORDER || symbolic_row;
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
  bool gpu;
} rows_context;

// Is element [i, ...] of the view read from row i of its operand? (Lone values a row are not padded as rows are.)
static bool keeps_rows(const qn_graph *graph, const qn_node *view) {
  const qn_type *from = &qn_graph_node(graph, view->operands[0])->type;
  if (view->op == QN_OP_SLICE && qn_node_int(view, QN_ATTR_AXIS, 0) == 0) return false;
  return from->rank > 1 && view->type.rank > 1 && qn_dim_equal(from->dims[0], view->type.dims[0]);
}

// May the node be in one loop over rows with what the group computes: does it read only its own row of that?
static bool reads_own_rows(const qn_graph *graph, const qn_node *node, uint32_t group) {
  for (int i = 0; i < node->operand_count; i++) {
    bool own = !((node->op == QN_OP_GATHER_ROWS || node->op == QN_OP_POOL) && i == 0);
    qn_id id = node->operands[i], base = qn_graph_base(graph, id);
    for (; id != base; id = qn_graph_node(graph, id)->operands[0])
      own = own && keeps_rows(graph, qn_graph_node(graph, id));
    if (!own && qn_graph_node(graph, base)->group == group) return false;
  }
  return true;
}

// On GPUs groups of threads share a row (spread_rows), so that nobody may wait there for what others store: an op that
// reads whole rows comes in a kernel after the one that makes them, where somebody else wants them in memory.
static bool reads_stored_rows(const rows_context *c, qn_id id, uint32_t group) {
  const qn_graph *graph = c->fuse.graph;
  const qn_node *node = qn_graph_node(graph, id);
  bool whole = node->op == QN_OP_QUANTIZE || (qn_op_get_info(node->op)->flags & QN_OF_R);
  for (int i = 0; whole && i < node->operand_count; i++) {
    qn_id base = qn_graph_base(graph, node->operands[i]);
    if (qn_graph_node(graph, base)->group != group) continue;
    for (const uint32_t *user = c->fuse.users[base]; *user; user++)
      if (*user != id && qn_graph_node(graph, *user)->group != group) return true;
  }
  return false;
}

// More nodes than any layer has in one place: a larger kernel only costs time to compile.
#define MAX_MEMBERS 64

// A second write to a cache must come after the first; in one kernel it would be done where its x is computed.
static bool writes_again(const qn_graph *graph, const qn_node *node, uint32_t group) {
  const qn_node *first = qn_graph_node(graph, qn_graph_base(graph, node->operands[0]));
  return node->op == QN_OP_KV_WRITE && first->op == QN_OP_KV_WRITE && first->group == group;
}

static bool try_join(rows_context *c, qn_id id, uint32_t group) {
  qn_graph *graph = c->fuse.graph;
  int members = 0;
  if (!group || !c->open[group] || !reads_own_rows(graph, qn_graph_node(graph, id), group)) return false;
  if (c->gpu && reads_stored_rows(c, id, group)) return false;
  for (qn_id other = 1; other < graph->nodes.count; other++) {
    c->member[other] = graph->nodes.items[other].group == group;
    members += c->member[other];
    if (c->member[other] &&
        !qn_dim_equal(rows_of(graph, qn_graph_node(graph, other)), rows_of(graph, qn_graph_node(graph, id)))) {
      return false;
    }
  }
  c->member[id] = true;
  if (members >= MAX_MEMBERS || writes_again(graph, qn_graph_node(graph, id), group)) return false;
  if (!qn_fuse_is_convex(&c->fuse, c->member)) return false;
  graph->nodes.items[id].group = group;
  return true;
}

static void place(rows_context *c, qn_id id, uint32_t *latest) {
  qn_graph *graph = c->fuse.graph;
  const qn_node *node = qn_graph_node(graph, id);
  if (!stands_alone(node)) {
    for (int i = 0; i < node->operand_count; i++) {
      uint32_t group = qn_graph_node(graph, qn_graph_base(graph, node->operands[i]))->group;
      if (try_join(c, id, group)) return;
    }
    if (try_join(c, id, *latest)) return;
  }
  uint32_t group = ++graph->group_count;
  graph->nodes.items[id].group = group;
  c->open[group] = !stands_alone(node);
  if (c->open[group]) *latest = group;
}

// Does the output have memory of its own: a computed value, or a view of one that only changes how a row is seen, and
// no other output's?
static bool has_own_memory(const qn_graph *graph, size_t output) {
  qn_id id = graph->outputs.items[output].value, base = qn_graph_base(graph, id);
  const qn_node *node = qn_graph_node(graph, base);
  if ((qn_op_get_info(node->op)->flags & (QN_OF_S | QN_OF_W)) || qn_graph_is_stack(graph, node)) return false;
  for (; id != base; id = qn_graph_node(graph, id)->operands[0]) {
    const qn_node *view = qn_graph_node(graph, id);
    if (view->op == QN_OP_SLICE || !keeps_rows(graph, view)) return false;
  }
  for (size_t i = 0; i < output; i++) {
    if (qn_graph_base(graph, graph->outputs.items[i].value) == base) return false;
  }
  return true;
}

// Outputs that share their values with others, or have none in the arena, are copied: each by a reshape to the same
// type in a group of its own.
static qn_status copy_outputs(qn_graph *graph, qn_diag *diag) {
  for (size_t i = 0; i < graph->outputs.count; i++) {
    qn_output *output = &graph->outputs.items[i];
    const qn_node *node = qn_graph_node(graph, output->value);
    const qn_op_info *info = qn_op_get_info(node->op);
    bool plain = node->type.dtype == QN_DTYPE_F32 || (node->op == QN_OP_SAMPLE && has_own_memory(graph, i));
    if (!plain || node->op == QN_OP_CACHE || (info->flags & QN_OF_W)) {
      return qn_fail(diag, QN_ERR_UNSUPPORTED, node->loc,
                     "output '%s': got %s of %s, want f32 values that are no cache, or tokens", output->name,
                     info->name, qn_dtype_name(node->type.dtype));
    }
    if (has_own_memory(graph, i)) continue;
    qn_type type = node->type;
    qn_node_spec spec = {.op = QN_OP_RESHAPE,
                         .operand_count = 1,
                         .operands = {output->value},
                         .type = &type,
                         .loc = node->loc,
                         .group = ++graph->group_count};
    QN_TRY(qn_graph_add(graph, &spec, &output->value, diag));
  }
  return QN_OK;
}

qn_status qn_pass_fuse_rows(qn_pass_context *context) {
  qn_graph *graph = context->graph;
  QN_TRY(copy_outputs(graph, context->diag));
  rows_context c = {.gpu = context->options->gpu,
                    .member = QN_ARENA_ARRAY(context->arena, graph->nodes.count, bool),
                    .open = QN_ARENA_ARRAY(context->arena, graph->nodes.count + graph->group_count + 1, bool)};
  if (!c.member || !c.open) return qn_fail_nomem(context->diag, graph->name, "groups");
  QN_TRY(qn_fuse_init(&c.fuse, context));
  uint32_t latest = 0;
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    if (!qn_graph_node(graph, id)->group && qn_fuse_computes(&c.fuse, id)) place(&c, id, &latest);
  }
  return QN_OK;
}
