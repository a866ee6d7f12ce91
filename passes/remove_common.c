// remove_common: one value for equal computations. Requires: a valid graph. Keeps: every value; cache writes stay.
#include <string.h>

#include "passes/pass.h"
#include "runtime/base/map.h"

typedef struct common_context {
  qn_map known;  // the node's meaning as bytes → its new id
  const qn_allocator *allocator;
} common_context;

// Everything that decides a node's value, as text.
static void describe(const qn_node_spec *spec, qn_buf *out) {
  qn_buf_printf(out, "%d", (int)spec->op);
  for (int i = 0; i < spec->operand_count; i++) qn_buf_printf(out, " %u", spec->operands[i]);
  for (int i = 0; i < spec->attr_count; i++) {
    const qn_attr *attr = &spec->attrs[i];
    qn_buf_printf(out, " %s=", qn_attr_name(attr->id));
    switch (qn_attr_get_kind(attr->id)) {
      case QN_AK_INT: qn_buf_printf(out, "%lld", (long long)attr->value.i); break;
      case QN_AK_FLOAT: qn_buf_put_f64(out, attr->value.f); break;
      case QN_AK_TEXT: qn_buf_quote(out, qn_str_from(attr->value.text)); break;
    }
  }
  qn_buf_putc(out, ' ');
  qn_type_print(spec->type, out);
}

static qn_status common_node(qn_rewriter *r, qn_id id, qn_id *out) {
  common_context *c = r->context;
  qn_node_spec spec;
  QN_TRY(qn_rewrite_spec(r, id, &spec));
  if (qn_op_get_info(spec.op)->flags & QN_OF_W) return qn_graph_add(r->to, &spec, out, r->diag);
  qn_buf text;
  qn_buf_init(&text, c->allocator);
  describe(&spec, &text);
  char *key = text.failed ? NULL : qn_arena_strndup(r->to->arena, qn_buf_text(&text), text.length);
  qn_str slice = {key, text.length};
  qn_buf_deinit(&text);
  if (!key) return qn_fail_nomem(r->diag, spec.loc, "a common value");
  uint64_t found = 0;
  if (qn_map_get(&c->known, slice, &found)) {
    *out = (qn_id)found;
    return QN_OK;
  }
  QN_TRY(qn_graph_add(r->to, &spec, out, r->diag));
  return qn_map_put(&c->known, slice, *out) ? QN_OK : qn_fail_nomem(r->diag, spec.loc, "a common value");
}

qn_status qn_pass_remove_common(qn_pass_context *context) {
  common_context c = {.allocator = context->allocator};
  qn_map_init(&c.known, context->allocator);
  qn_status status = qn_graph_rewrite(context->graph, context->arena, common_node, &c, &context->graph, context->diag);
  qn_map_deinit(&c.known);
  return status;
}
