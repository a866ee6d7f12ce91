// sample_tokens: a language model's program for GPUs chooses the tokens itself, so that a step need not bring its
// logits to the host: output `token` by `sample` of the output `logits` and a new input `sampling`. Requires: a valid
// graph. Keeps: every value and output. Does nothing for CPUs, for graphs without such logits, and where one of the two
// names is taken.
#include <string.h>

#include "passes/pass.h"

static const char output_name[] = "token", input_name[] = "sampling";

// The value of the output `logits` if tokens can be chosen by it, else 0.
static qn_id find_logits(const qn_graph *graph) {
  qn_id logits = 0;
  for (size_t i = 0; i < graph->outputs.count; i++) {
    const qn_output *output = &graph->outputs.items[i];
    if (strcmp(output->name, output_name) == 0) return 0;
    if (strcmp(output->name, "logits") == 0) logits = output->value;
  }
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    bool taken = node->op == QN_OP_INPUT && strcmp(qn_node_text(node, QN_ATTR_NAME, ""), input_name) == 0;
    if (taken) return 0;
  }
  if (!logits) return 0;
  const qn_type *type = &qn_graph_node(graph, logits)->type;
  bool fits = type->dtype == QN_DTYPE_F32 && type->rank == 2 && !qn_dim_is_const(type->dims[0]) &&
              qn_dim_is_const(type->dims[1]) && type->dims[1].value < QN_SAMPLE_VOCAB_END;
  return fits ? logits : 0;
}

qn_status qn_pass_sample_tokens(qn_pass_context *context) {
  qn_graph *graph = context->graph;
  qn_id logits = context->options->gpu ? find_logits(graph) : 0, settings = 0, token = 0;
  if (!logits) return QN_OK;
  const qn_node *node = qn_graph_node(graph, logits);
  qn_dim dims[] = {node->type.dims[0], qn_dim_const(QN_SAMPLE_SETTINGS)};
  qn_type type = qn_type_make(QN_DTYPE_I32, 2, dims);
  qn_node_spec input = {.op = QN_OP_INPUT,
                        .attr_count = 1,
                        .attrs = {{.id = QN_ATTR_NAME, .value.text = input_name}},
                        .type = &type,
                        .loc = input_name};
  QN_TRY(qn_graph_add(graph, &input, &settings, context->diag));
  qn_node_spec sample = {.op = QN_OP_SAMPLE, .operand_count = 2, .operands = {logits, settings}, .loc = output_name};
  QN_TRY(qn_graph_add(graph, &sample, &token, context->diag));
  return qn_graph_add_output(graph, output_name, token, context->diag);
}
