// The graph IR's text form; parse.c reads it back.
#include <inttypes.h>

#include "ir/graph.h"

static void print_attrs(const qn_node *node, qn_buf *out) {
  if (node->attr_count == 0) return;
  qn_buf_puts(out, " {");
  for (int i = 0; i < node->attr_count; i++) {
    const qn_attr *attr = &node->attrs[i];
    qn_buf_printf(out, "%s%s=", i ? ", " : "", qn_attr_name(attr->id));
    switch (qn_attr_get_kind(attr->id)) {
      case QN_AK_INT: qn_buf_printf(out, "%" PRId64, attr->value.i); break;
      case QN_AK_FLOAT: qn_buf_put_f64(out, attr->value.f); break;
      case QN_AK_TEXT: qn_buf_quote(out, qn_str_from(attr->value.text)); break;
    }
  }
  qn_buf_putc(out, '}');
}

static void print_node(const qn_graph *graph, qn_id id, qn_buf *out) {
  const qn_node *node = qn_graph_node(graph, id);
  qn_buf_printf(out, "  %%%u = %s", id, qn_op_get_info(node->op)->name);
  for (int i = 0; i < node->operand_count; i++) qn_buf_printf(out, "%s%%%u", i ? ", " : " ", node->operands[i]);
  print_attrs(node, out);
  qn_buf_puts(out, " : ");
  qn_type_print(&node->type, out);
  if (node->group) qn_buf_printf(out, " group %u", node->group);
  qn_buf_puts(out, " @");
  qn_buf_quote(out, qn_str_from(node->loc));
  qn_buf_putc(out, '\n');
}

void qn_graph_print(const qn_graph *graph, qn_buf *out) {
  qn_buf_puts(out, "graph ");
  qn_buf_quote(out, qn_str_from(graph->name));
  for (int s = QN_SYM_NONE + 1; s < QN_SYM_COUNT; s++) {
    if (graph->max_values[s]) qn_buf_printf(out, " %c<=%" PRId64, qn_symbol_letter((qn_symbol)s), graph->max_values[s]);
  }
  qn_buf_puts(out, " {\n");
  for (qn_id id = 1; id < graph->nodes.count; id++) print_node(graph, id, out);
  for (size_t i = 0; i < graph->outputs.count; i++) {
    qn_buf_puts(out, "  output ");
    qn_buf_quote(out, qn_str_from(graph->outputs.items[i].name));
    qn_buf_printf(out, " %%%u\n", graph->outputs.items[i].value);
  }
  qn_buf_puts(out, "}\n");
}
