// What must hold of a graph after every pass, by stage. A failure here is a bug of a pass or a hostile graph text.
#include <string.h>

#include "ir/graph.h"

static qn_status verify_node(const qn_graph *graph, qn_id id, qn_diag *diag) {
  const qn_node *node = qn_graph_node(graph, id);
  for (int i = 0; i < node->operand_count; i++) {
    if (node->operands[i] == 0 || node->operands[i] >= id) {
      return qn_fail(diag, QN_ERR_FORMAT, node->loc, "%s: operand %d: got value %u, want one before %u",
                     qn_op_get_info(node->op)->name, i, node->operands[i], id);
    }
  }
  qn_node_spec spec = {.op = node->op,
                       .operand_count = node->operand_count,
                       .attr_count = node->attr_count,
                       .type = &node->type,
                       .loc = node->loc};
  memcpy(spec.operands, node->operands, sizeof spec.operands);
  memcpy(spec.attrs, node->attrs, sizeof spec.attrs);
  qn_type type;
  QN_TRY(qn_infer_type(graph, &spec, &type, diag));
  if (!qn_type_equal(&type, &node->type)) {
    return qn_fail(diag, QN_ERR_FORMAT, node->loc, "%s: value %u has another type than its shape rule gives",
                   qn_op_get_info(node->op)->name, id);
  }
  return QN_OK;
}

static qn_status verify_stage(const qn_graph *graph, qn_id id, qn_graph_stage stage, qn_diag *diag) {
  const qn_node *node = qn_graph_node(graph, id);
  const qn_op_info *info = qn_op_get_info(node->op);
  bool computes = !(info->flags & (QN_OF_S | QN_OF_V)) && !qn_graph_is_stack(graph, node);
  if (node->group > graph->group_count) {
    return qn_fail(diag, QN_ERR_FORMAT, node->loc, "%s: got group %u, want at most %u", info->name, node->group,
                   graph->group_count);
  }
  bool made_by_passes = node->op == QN_OP_QUANTIZE || node->op == QN_OP_EXPERT_ORDER;
  if (stage == QN_STAGE_IMPORTED && (made_by_passes || node->group)) {
    return qn_fail(diag, QN_ERR_FORMAT, node->loc, "%s: got %s, which only passes may make", info->name,
                   node->group ? "a group" : "this op");
  }
  if (stage == QN_STAGE_PLANNED && computes && !node->group) {
    return qn_fail(diag, QN_ERR_INTERNAL, node->loc, "%s: value %u has no group after fusion", info->name, id);
  }
  return QN_OK;
}

static bool is_same_cache(const qn_node *a, const qn_node *b) {
  return a->op == QN_OP_CACHE && b->op == QN_OP_CACHE &&
         qn_node_int(a, QN_ATTR_INDEX, 0) == qn_node_int(b, QN_ATTR_INDEX, 0) &&
         strcmp(qn_node_text(a, QN_ATTR_KIND, ""), qn_node_text(b, QN_ATTR_KIND, "")) == 0;
}

// Is every other user of the cache state something that the write comes from? Then all are done before it.
static qn_status come_before(const qn_graph *graph, qn_id state, qn_id write, bool *out, qn_diag *diag) {
  bool *behind = QN_ARENA_ARRAY(graph->arena, write + 1, bool);  // the write, and what it comes from
  if (!behind) return qn_fail_nomem(diag, graph->name, "what a write comes from");
  behind[write] = true;
  for (qn_id id = write; id > state; id--) {
    const qn_node *node = qn_graph_node(graph, id);
    for (int i = 0; behind[id] && i < node->operand_count; i++) behind[node->operands[i]] = true;
  }
  *out = true;
  for (qn_id id = state + 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    for (int i = 0; i < node->operand_count; i++)
      *out = *out && (node->operands[i] != state || (id <= write && behind[id]));
  }
  return QN_OK;
}

// Caches are written in place: of a state of a cache that is overwritten, all other readers come before that, since what is
// written is made of what they give; and a layer's cache of a kind has one node.
static qn_status verify_cache(const qn_graph *graph, qn_id id, qn_diag *diag) {
  const qn_node *node = qn_graph_node(graph, id);
  int users = 0, writes = 0;
  qn_id write = 0;
  bool in_order = true;
  for (qn_id other = id + 1; other < graph->nodes.count; other++) {
    const qn_node *user = qn_graph_node(graph, other);
    if (is_same_cache(node, user)) {
      return qn_fail(diag, QN_ERR_FORMAT, user->loc, "cache %s of layer %lld: got two of them, want one",
                     qn_node_text(user, QN_ATTR_KIND, ""), (long long)qn_node_int(user, QN_ATTR_INDEX, 0));
    }
    for (int i = 0; i < user->operand_count; i++) users += user->operands[i] == id;
    if (user->op != QN_OP_KV_WRITE || user->operands[0] != id) continue;
    write = other;
    writes++;
  }
  if (writes == 0 || users == 1) return QN_OK;
  if (writes == 1) QN_TRY(come_before(graph, id, write, &in_order, diag));
  if (writes == 1 && in_order) return QN_OK;
  return qn_fail(diag, QN_ERR_FORMAT, node->loc,
                 "%s: got %d uses of a cache that kv_write overwrites, want the kv_write alone, or others that what it writes is made of",
                 qn_op_get_info(node->op)->name, users);
}

qn_status qn_graph_verify(const qn_graph *graph, qn_graph_stage stage, qn_diag *diag) {
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    QN_TRY(verify_node(graph, id, diag));
    QN_TRY(verify_stage(graph, id, stage, diag));
    qn_op op = qn_graph_node(graph, id)->op;
    if (op == QN_OP_CACHE || op == QN_OP_KV_WRITE) QN_TRY(verify_cache(graph, id, diag));
  }
  if (graph->outputs.count == 0) {
    return qn_fail(diag, QN_ERR_FORMAT, graph->name, "got no output, want at least one");
  }
  for (size_t i = 0; i < graph->outputs.count; i++) {
    const qn_output *output = &graph->outputs.items[i];
    if (output->value == 0 || output->value >= graph->nodes.count) {
      return qn_fail(diag, QN_ERR_FORMAT, graph->name, "output '%s': got value %u, want one of 1..%zu", output->name,
                     output->value, graph->nodes.count - 1);
    }
  }
  return QN_OK;
}
