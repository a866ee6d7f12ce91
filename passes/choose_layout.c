// choose_layout: how each parameter is packed. rows16 (16 rows interleaved) for what a matmul streams, rows1 for tables
// that are only looked up, plain f32 for vectors.
// Requires: groups. Keeps: every value. A table used by both a lookup and a matmul (tied embeddings) is packed once.
#include "passes/pass.h"

static const char *const names[] = {NULL, "plain", "rows1", "rows16"};
enum { UNUSED, PLAIN, ROWS1, ROWS16 };

static void want(uint8_t *wanted, qn_id id, uint8_t layout) {
  if (wanted[id] < layout) wanted[id] = layout;
}

static qn_status lay_out(qn_rewriter *r, qn_id id, qn_id *out) {
  const uint8_t *wanted = r->context;
  qn_node_spec spec;
  QN_TRY(qn_rewrite_spec(r, id, &spec));
  if (wanted[id] != UNUSED) {
    spec.attrs[spec.attr_count++] = (qn_attr){.id = QN_ATTR_LAYOUT, .value.text = names[wanted[id]]};
  }
  return qn_graph_add(r->to, &spec, out, r->diag);
}

qn_status qn_pass_choose_layout(qn_pass_context *context) {
  const qn_graph *g = context->graph;
  uint8_t *wanted = QN_ARENA_ARRAY(context->arena, g->nodes.count, uint8_t);
  if (!wanted) return qn_fail_nomem(context->diag, g->name, "layouts");
  for (qn_id id = 1; id < g->nodes.count; id++) {
    const qn_node *node = qn_graph_node(g, id);
    for (int i = 0; i < node->operand_count; i++) {
      qn_id base = qn_graph_base(g, node->operands[i]);
      const qn_node *operand = qn_graph_node(g, base);
      bool packed = operand->op == QN_OP_PARAM || qn_graph_is_stack(g, operand);
      if (!packed || qn_graph_is_stack(g, node)) continue;  // a stack is laid out, not its parts
      bool streamed = qn_op_is_product(node->op) && i == 1, looked_up = node->op == QN_OP_EMBED && i == 0;
      want(wanted, base, streamed ? ROWS16 : looked_up ? ROWS1 : PLAIN);
    }
  }
  return qn_graph_rewrite(g, context->arena, lay_out, wanted, &context->graph, context->diag);
}
