// place_keys: for caches that keys are evicted from (pass option `evict`). Where a token's key lies, and with it which
// keys the token sees, is then an input of its own, `slot`, beside the position `pos` that it is rotated by: keys that
// are left move together, and keep the rotation of the place in the text where they were written. For policies that go
// by what tokens look at, a layer's queries of wanted rows, scaled, become outputs `query.<layer>`, [R, heads *
// head_dim]. Requires: a valid graph. Keeps: every value, where slots are positions. UNSUPPORTED where attention asks
// how far keys are away (a window, slopes, a bias), or sees others than those before a token.
#include <inttypes.h>
#include <string.h>

#include "passes/pass.h"

static const char slot_name[] = "slot";

typedef struct placing {
  qn_id slot, rows;  // of the new graph; 0 = not yet
  bool queries;
} placing;

static bool is_input(const qn_graph *graph, qn_id id, const char *name) {
  const qn_node *node = qn_graph_node(graph, id);
  return node->op == QN_OP_INPUT && strcmp(qn_node_text(node, QN_ATTR_NAME, ""), name) == 0;
}

// Which operand says where a token's key is; -1 = none does.
static int place_operand(const qn_node *node) {
  switch (node->op) {
    case QN_OP_KV_WRITE:
    case QN_OP_ATTN_SCORES:
    case QN_OP_ATTN_MIX: return 2;
    case QN_OP_ATTENTION: return 3;
    default: return -1;
  }
}

static qn_status check_node(const qn_graph *graph, const qn_node *node, int place, qn_diag *diag) {
  bool by_distance = node->op != QN_OP_KV_WRITE && node->operand_count > place + 3;
  bool plain =
      !by_distance && qn_node_int(node, QN_ATTR_WINDOW, 0) == 0 && is_input(graph, node->operands[place], "pos");
  if (plain) return QN_OK;
  return qn_fail(diag, QN_ERR_UNSUPPORTED, node->loc,
                 "keys cannot be evicted from the cache of %s that goes by distances or a window, or sees keys after a "
                 "token's own; compile without kv-evict",
                 qn_op_get_info(node->op)->name);
}

static qn_status add_slot(qn_rewriter *r, qn_id *out) {
  qn_dim dims[] = {{QN_SYM_T, 1}};
  qn_type type = qn_type_make(QN_DTYPE_I32, 1, dims);
  qn_node_spec input = {.op = QN_OP_INPUT,
                        .attr_count = 1,
                        .attrs = {{.id = QN_ATTR_NAME, .value.text = slot_name}},
                        .type = &type,
                        .loc = slot_name};
  return qn_graph_add(r->to, &input, out, r->diag);
}

static qn_status place_node(qn_rewriter *r, qn_id id, qn_id *out) {
  placing *p = r->context;
  const qn_node *node = qn_graph_node(r->from, id);
  int place = place_operand(node);
  if (place < 0) {
    QN_TRY(qn_rewrite_keep(r, id, out));
    if (is_input(r->from, id, "rows")) p->rows = *out;
    if (is_input(r->from, id, slot_name))
      return qn_fail(r->diag, QN_ERR_UNSUPPORTED, node->loc, "got an input '%s' of its own, want none beside kv-evict",
                     slot_name);
    return QN_OK;
  }
  qn_node_spec spec;
  QN_TRY(check_node(r->from, node, place, r->diag));
  if (!p->slot) QN_TRY(add_slot(r, &p->slot));
  QN_TRY(qn_rewrite_spec(r, id, &spec));
  spec.operands[place] = p->slot;
  return qn_graph_add(r->to, &spec, out, r->diag);
}

static bool has_output(const qn_graph *graph, const char *name) {
  for (size_t i = 0; i < graph->outputs.count; i++)
    if (strcmp(graph->outputs.items[i].name, name) == 0) return true;
  return false;
}

// What the wanted rows' queries of a layer are, times the scale of its scores.
static qn_status add_query(qn_graph *graph, const placing *p, qn_id scores, qn_diag *diag) {
  const qn_node *node = qn_graph_node(graph, scores);
  qn_id cache = node->operands[1], query = 0;
  while (qn_graph_node(graph, cache)->op == QN_OP_KV_WRITE) cache = qn_graph_node(graph, cache)->operands[0];
  char *name =
      qn_arena_printf(graph->arena, "query.%" PRId64, qn_node_int(qn_graph_node(graph, cache), QN_ATTR_INDEX, 0));
  if (!name) return qn_fail_nomem(diag, node->loc, "a name");
  if (has_output(graph, name)) return QN_OK;  // another layer reads the same keys
  qn_type scalar = qn_type_make(QN_DTYPE_F32, 0, NULL);
  qn_node_spec specs[] = {
      {.op = QN_OP_MERGE_HEADS, .operand_count = 1, .operands = {node->operands[0]}, .loc = name},
      {.op = QN_OP_GATHER_ROWS, .operand_count = 2, .operands = {0, p->rows}, .loc = name},
      {.op = QN_OP_CONST,
       .attr_count = 1,
       .attrs = {{.id = QN_ATTR_VALUE, .value.f = qn_node_float(node, QN_ATTR_SCALE, 1)}},
       .type = &scalar,
       .loc = name},
      {.op = QN_OP_MUL, .operand_count = 2, .loc = name},
  };
  qn_id scale = 0;
  QN_TRY(qn_graph_add(graph, &specs[0], &query, diag));
  specs[1].operands[0] = query;
  QN_TRY(qn_graph_add(graph, &specs[1], &query, diag));
  QN_TRY(qn_graph_add(graph, &specs[2], &scale, diag));
  specs[3].operands[0] = query;
  specs[3].operands[1] = scale;
  QN_TRY(qn_graph_add(graph, &specs[3], &query, diag));
  return qn_graph_add_output(graph, name, query, diag);
}

qn_status qn_pass_place_keys(qn_pass_context *context) {
  placing p = {.queries = (context->options->evict & QN_EVICT_QUERIES) != 0};
  if (context->options->evict == QN_EVICT_NONE) return QN_OK;
  QN_TRY(qn_graph_rewrite(context->graph, context->arena, place_node, &p, &context->graph, context->diag));
  qn_graph *graph = context->graph;
  if (!p.slot || (p.queries && !p.rows))
    return qn_fail(context->diag, QN_ERR_UNSUPPORTED, graph->name,
                   "got a graph without %s, want a language model's to evict keys of",
                   p.slot ? "input 'rows'" : "caches");
  size_t count = graph->nodes.count;
  for (qn_id id = 1; p.queries && id < count; id++) {
    qn_op op = qn_graph_node(graph, id)->op;
    if (op == QN_OP_ATTN_SCORES || op == QN_OP_ATTENTION) QN_TRY(add_query(graph, &p, id, context->diag));
  }
  return QN_OK;
}
