// canonicalise: one spelling of each thing, so that later passes have fewer patterns to know.
// Requires: a valid graph. Keeps: every value. Does: views of views become one view or none, scalar and vector operands
// of commutative ops come second, slices of everything and products with 1 go away, and so do optional attributes that
// say what their absence says.
#include <string.h>

#include "passes/pass.h"

static bool is_view(const qn_node *node) { return (qn_op_get_info(node->op)->flags & QN_OF_V) != 0; }

static bool is_reshape(const qn_node *node) { return is_view(node) && node->op != QN_OP_SLICE; }

static bool is_one(const qn_node *node) {
  return node->op == QN_OP_CONST && qn_node_float(node, QN_ATTR_VALUE, 0) == 1.0;
}

// Is it an optional attribute that says no more than its absence?
static bool says_nothing(const qn_attr *attr, const qn_op_info *info) {
  if (!(info->optional_attrs & (1u << attr->id))) return false;
  switch (attr->id) {
    case QN_ATTR_WINDOW: return attr->value.i == 0;
    case QN_ATTR_SOFTCAP: return attr->value.f == 0;
    case QN_ATTR_SCALE: return attr->value.f == 1;
    default: return false;
  }
}

static void drop_attrs(qn_node_spec *spec) {
  int kept = 0;
  for (int i = 0; i < spec->attr_count; i++) {
    if (!says_nothing(&spec->attrs[i], qn_op_get_info(spec->op))) spec->attrs[kept++] = spec->attrs[i];
  }
  spec->attr_count = kept;
}

static qn_status canonicalise_node(qn_rewriter *r, qn_id id, qn_id *out) {
  qn_node_spec spec;
  QN_TRY(qn_rewrite_spec(r, id, &spec));
  drop_attrs(&spec);
  const qn_node *first = spec.operand_count > 0 ? qn_graph_node(r->to, spec.operands[0]) : NULL;
  const qn_node *second = spec.operand_count > 1 ? qn_graph_node(r->to, spec.operands[1]) : NULL;
  if (spec.op == QN_OP_ADD || spec.op == QN_OP_MUL) {
    if (first->type.rank < second->type.rank) {
      qn_id swap = spec.operands[0];
      spec.operands[0] = spec.operands[1];
      spec.operands[1] = swap;
      second = first;
    }
    if (spec.op == QN_OP_MUL && is_one(second)) {
      *out = spec.operands[0];
      return QN_OK;
    }
  }
  const qn_type *type = &qn_graph_node(r->from, id)->type;
  if (spec.op == QN_OP_NEG && first->op == QN_OP_NEG) {
    *out = first->operands[0];
    return QN_OK;
  }
  if (first && is_reshape(qn_graph_node(r->from, id)) && is_reshape(first)) {  // only the last shape matters
    qn_id origin = first->operands[0];
    if (qn_type_equal(&qn_graph_node(r->to, origin)->type, type)) {
      *out = origin;
      return QN_OK;
    }
    spec = (qn_node_spec){.op = QN_OP_RESHAPE, .operand_count = 1, .operands = {origin}, .type = type, .loc = spec.loc};
  } else if (first && is_view(qn_graph_node(r->from, id)) && qn_type_equal(&first->type, type)) {
    *out = spec.operands[0];
    return QN_OK;
  }
  return qn_graph_add(r->to, &spec, out, r->diag);
}

qn_status qn_pass_canonicalise(qn_pass_context *context) {
  return qn_graph_rewrite(context->graph, context->arena, canonicalise_node, NULL, &context->graph, context->diag);
}
