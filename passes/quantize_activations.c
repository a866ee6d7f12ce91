// quantize_activations: what numeric modes make of the inputs of products. Mode int8: every matmul by a weight with blocks gets its input as int8 codes with
// a scale a block; one quantize op an input, however many matmuls use it. Requires: a valid graph. Changes values: this
// is the mode's approximation, the same for every schedule and target.
// Attention over caches of codes gets the attribute `codes`: queries, and weights times the values' scales, become codes by
// blocks of 32 inside of its kernel, since they are nobody else's.
//
// Mode half: besides, every matmul by f16 or bf16 weights gets the attribute `halves`. Its input is rounded to their type,
// and the sum of each 16 products is added to the sum of those before in f32. Tensor cores make the sums of 16, in an order
// and with roundings that are the chip's; elsewhere they are made in order. So results do not depend on batch, chunks or
// schedule, but they do, in the last bits, on the chip. Products of experts are made as in the other modes.
#include "ir/format.h"
#include "passes/pass.h"

static bool is_16_bit(qn_dtype dtype) { return dtype == QN_DTYPE_F16 || dtype == QN_DTYPE_BF16; }

// The same node with that attribute.
static qn_status mark_node(qn_rewriter *r, qn_id id, qn_attr_id attr, qn_id *out) {
  qn_node_spec spec;
  QN_TRY(qn_rewrite_spec(r, id, &spec));
  spec.attrs[spec.attr_count++] = (qn_attr){.id = attr, .value.i = 1};
  return qn_graph_add(r->to, &spec, out, r->diag);
}

// Attention over caches of codes that is not marked yet?
static bool reads_codes(const qn_graph *graph, const qn_node *node) {
  if (node->op != QN_OP_ATTENTION || qn_node_attr(node, QN_ATTR_CODES)) return false;
  return qn_dtype_is_block(qn_graph_node(graph, node->operands[1])->type.dtype) ||
         qn_dtype_is_block(qn_graph_node(graph, node->operands[2])->type.dtype);
}

// What the modes ask for.
typedef struct modes {
  qn_id *quantized;  // by old id of the input; NULL: not in this mode
  bool halves;
} modes;

static qn_status quantize_node(qn_rewriter *r, qn_id id, qn_id *out) {
  const modes *mode = r->context;
  qn_id *quantized = mode->quantized;
  const qn_node *node = qn_graph_node(r->from, id);
  if (quantized && reads_codes(r->from, node)) return mark_node(r, id, QN_ATTR_CODES, out);
  if (!qn_op_is_product(node->op)) return qn_rewrite_keep(r, id, out);
  qn_id x = node->operands[0];
  const qn_format *format = qn_format_of(qn_graph_node(r->from, node->operands[1])->type.dtype);
  if (qn_graph_node(r->from, x)->type.dtype != QN_DTYPE_F32) return qn_rewrite_keep(r, id, out);
  bool halved = mode->halves && node->op == QN_OP_MATMUL && is_16_bit(format->dtype);
  if (halved && !qn_node_attr(node, QN_ATTR_HALVES)) return mark_node(r, id, QN_ATTR_HALVES, out);
  if (!quantized || format->block_values == 1) return qn_rewrite_keep(r, id, out);
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
  modes mode = {.halves = context->options->half_activations};
  if (!context->options->quantize_activations && !mode.halves) return QN_OK;
  if (context->options->quantize_activations) {
    mode.quantized = QN_ARENA_ARRAY(context->arena, context->graph->nodes.count, qn_id);
    if (!mode.quantized) return qn_fail_nomem(context->diag, context->graph->name, "quantised inputs");
  }
  return qn_graph_rewrite(context->graph, context->arena, quantize_node, &mode, &context->graph, context->diag);
}
