// Signatures: what a group computes, on one line, for records of tuning. Written from the graph alone: operands from
// outside become x0, x1, ... with their types, values of the group v0, v1, ... in order; names of tensors, layers,
// layouts and places in the program do not matter. What the group leaves in memory stands at the end.
//
//   x0 a8[T,2048]; x1 q4_0[5632,2048]; v0 = matmul x0 x1 : f32[T,5632]; v1 = silu v0 : f32[T,5632]; leaves v1
#include <inttypes.h>

#include "passes/lower.h"

typedef struct signature {
  const qn_lower *lower;
  qn_buf inputs, body;
  uint32_t *names;  // by node: 2 * number + 1 of an input, 2 * number + 2 of a value; 0 = none yet
  uint32_t input_count, value_count;
} signature;

static void put_name(qn_buf *out, uint32_t name) {
  qn_buf_printf(out, "%c%" PRIu32, name % 2 ? 'x' : 'v', (name - 1) / 2);
}

static void put_type(qn_buf *out, const qn_type *type) {
  size_t from = out->length;
  qn_type_print(type, out);
  for (size_t i = from; !out->failed && i < out->length; i++) {  // "[2, 3]" without spaces
    if (out->data[i] != ' ') continue;
    memmove(out->data + i, out->data + i + 1, out->length - i - 1);
    out->length--;
    i--;
  }
}

// Attributes that say what is computed.
static void put_attrs(qn_buf *out, const qn_node *node) {
  for (int i = 0; i < node->attr_count; i++) {
    const qn_attr *attr = &node->attrs[i];
    if (attr->id == QN_ATTR_NAME || attr->id == QN_ATTR_LAYOUT || attr->id == QN_ATTR_INDEX) continue;
    qn_buf_printf(out, " %s=", qn_attr_name(attr->id));
    switch (qn_attr_get_kind(attr->id)) {
      case QN_AK_INT: qn_buf_printf(out, "%" PRId64, attr->value.i); break;
      case QN_AK_FLOAT: qn_buf_put_f64(out, attr->value.f); break;
      case QN_AK_TEXT: qn_buf_puts(out, attr->value.text); break;
    }
  }
}

// Is the value computed by this kernel? Views without a group belong to who reads them.
static bool is_own(const signature *s, const qn_node *node) {
  bool view = !node->group && (qn_op_get_info(node->op)->flags & QN_OF_V);
  return node->group == s->lower->group || view || node->op == QN_OP_CONST;
}

static void put_node(signature *s, qn_id id);

static void name_operand(signature *s, qn_id id) {
  const qn_node *node = qn_graph_node(s->lower->graph, id);
  if (s->names[id]) return;
  if (is_own(s, node)) {
    put_node(s, id);
    return;
  }
  s->names[id] = 2 * s->input_count++ + 1;
  put_name(&s->inputs, s->names[id]);
  qn_buf_putc(&s->inputs, ' ');
  put_type(&s->inputs, &node->type);
  if (node->op == QN_OP_CACHE || node->op == QN_OP_KV_WRITE) qn_buf_puts(&s->inputs, " cache");
  qn_buf_puts(&s->inputs, "; ");
}

// The node after what it reads.
static void put_node(signature *s, qn_id id) {
  const qn_node *node = qn_graph_node(s->lower->graph, id);
  if (s->names[id]) return;
  for (int i = 0; i < node->operand_count; i++) name_operand(s, node->operands[i]);
  s->names[id] = 2 * s->value_count++ + 2;
  put_name(&s->body, s->names[id]);
  qn_buf_printf(&s->body, " = %s", qn_op_get_info(node->op)->name);
  for (int i = 0; i < node->operand_count; i++) {
    qn_buf_putc(&s->body, ' ');
    put_name(&s->body, s->names[node->operands[i]]);
  }
  put_attrs(&s->body, node);
  qn_buf_puts(&s->body, " : ");
  put_type(&s->body, &node->type);
  qn_buf_puts(&s->body, "; ");
}

static void put_results(signature *s) {
  const qn_graph *graph = s->lower->graph;
  qn_buf_puts(&s->body, "leaves");
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->group != s->lower->group) continue;
    if (!s->lower->values[id].materialised && node->op != QN_OP_KV_WRITE) continue;
    qn_buf_putc(&s->body, ' ');
    put_name(&s->body, s->names[id]);
  }
}

const char *qn_lower_signature(const qn_lower *lower) {
  const qn_graph *graph = lower->graph;
  qn_arena *arena = lower->program->arena;
  signature s = {.lower = lower, .names = QN_ARENA_ARRAY(arena, graph->nodes.count, uint32_t)};
  if (!s.names) return NULL;
  qn_buf_init(&s.inputs, arena->allocator);
  qn_buf_init(&s.body, arena->allocator);
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    if (qn_graph_node(graph, id)->group == lower->group) put_node(&s, id);
  }
  put_results(&s);
  qn_buf_append(&s.inputs, qn_buf_text(&s.body), s.body.length);
  bool failed = s.inputs.failed || s.body.failed;
  const char *text = failed ? NULL : qn_arena_strndup(arena, qn_buf_text(&s.inputs), s.inputs.length);
  qn_buf_deinit(&s.inputs);
  qn_buf_deinit(&s.body);
  return text;
}
