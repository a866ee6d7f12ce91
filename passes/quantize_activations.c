// quantize_activations: numeric mode int8. Every matmul by a weight with blocks gets its input as int8 codes with
// a scale a block; one quantize op an input, however many matmuls use it. Requires: a valid graph. Changes values: this
// is the mode's approximation, the same for every schedule and target.
#include "ir/format.h"
#include "passes/pass.h"

static qn_status quantize_node(qn_rewriter *r, qn_id id, qn_id *out) {
  qn_id *quantized = r->context;  // by old id of the input
  const qn_node *node = qn_graph_node(r->from, id);
  if (node->op != QN_OP_MATMUL) return qn_rewrite_keep(r, id, out);
  qn_id x = node->operands[0];
  const qn_format *format = qn_format_of(qn_graph_node(r->from, node->operands[1])->type.dtype);
  if (qn_graph_node(r->from, x)->type.dtype != QN_DTYPE_F32 || format->block_values == 1)
    return qn_rewrite_keep(r, id, out);
  if (!quantized[x]) {
    qn_node_spec spec = {
        .op = QN_OP_QUANTIZE, .operand_count = 1, .operands = {r->map[x]}, .loc = qn_graph_node(r->from, x)->loc};
    QN_TRY(qn_graph_add(r->to, &spec, &quantized[x], r->diag));
  }
  qn_node_spec matmul;
  QN_TRY(qn_rewrite_spec(r, id, &matmul));
  matmul.operands[0] = quantized[x];
  return qn_graph_add(r->to, &matmul, out, r->diag);
}

qn_status qn_pass_quantize_activations(qn_pass_context *context) {
  if (!context->options->quantize_activations) return QN_OK;
  qn_id *quantized = QN_ARENA_ARRAY(context->arena, context->graph->nodes.count, qn_id);
  if (!quantized) return qn_fail_nomem(context->diag, context->graph->name, "quantised inputs");
  return qn_graph_rewrite(context->graph, context->arena, quantize_node, quantized, &context->graph, context->diag);
}
