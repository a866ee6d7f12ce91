// fuse_attention: attn_mix(softmax(attn_scores(q, K)), V) becomes attention(q, K, V): the score matrix is never
// written. Requires: a valid graph. Keeps: the value up to rounding (the softmax is done in chunks). Leaves the three
// ops apart where somebody else uses the scores or the probabilities.
#include "passes/pass.h"

static qn_status fuse_node(qn_rewriter *r, qn_id id, qn_id *out) {
  const uint32_t *uses = r->context;
  const qn_node *mix = qn_graph_node(r->from, id);
  const qn_node *softmax = mix->op == QN_OP_ATTN_MIX ? qn_graph_node(r->from, mix->operands[0]) : NULL;
  if (softmax && softmax->op == QN_OP_SOFTMAX && uses[mix->operands[0]] == 1 && uses[softmax->operands[0]] == 1) {
    const qn_node *scores = qn_graph_node(r->from, softmax->operands[0]);
    bool same_places = scores->op == QN_OP_ATTN_SCORES;
    for (int i = 2; same_places && i < 5; i++) same_places = scores->operands[i] == mix->operands[i];
    const qn_type *q = &qn_graph_node(r->from, scores->operands[0])->type;
    const qn_type *k = &qn_graph_node(r->from, scores->operands[1])->type;
    const qn_type *v = &qn_graph_node(r->from, mix->operands[1])->type;
    bool same_heads = same_places && qn_dim_equal(k->dims[1], v->dims[1]);
    if (same_heads && qn_dim_equal(q->dims[2], mix->type.dims[2])) {
      // beside the operands of both, V; slopes or bias and what comes after them, where there are any, last
      qn_node_spec spec = {.op = QN_OP_ATTENTION,
                           .operand_count = scores->operand_count + 1,
                           .loc = mix->loc,
                           .attr_count = scores->attr_count};
      for (int i = 0; i < spec.operand_count; i++) {
        spec.operands[i] = r->map[i == 2 ? mix->operands[1] : scores->operands[i < 2 ? i : i - 1]];
      }
      for (int i = 0; i < scores->attr_count; i++) spec.attrs[i] = scores->attrs[i];
      return qn_graph_add(r->to, &spec, out, r->diag);
    }
  }
  return qn_rewrite_keep(r, id, out);
}

qn_status qn_pass_fuse_attention(qn_pass_context *context) {
  uint32_t *uses = qn_graph_count_uses(context->graph, context->arena);
  if (!uses) return qn_fail_nomem(context->diag, context->graph->name, "use counts");
  QN_TRY(qn_graph_rewrite(context->graph, context->arena, fuse_node, uses, &context->graph, context->diag));
  return qn_pass_remove_dead(context);  // the scores and probabilities that nobody uses now
}
