// Lowering, the elements: what an element of a graph value is as a loop IR expression, composed through views and
// elementwise ops down to loads.
#include <stdio.h>
#include <string.h>

#include "passes/lower.h"

int64_t qn_lower_row_width(const qn_type *type) {
  int64_t width = 1;
  for (int i = 1; i < type->rank; i++) width *= type->dims[i].value;
  return width;
}

int64_t qn_lower_row_pitch(const qn_type *type) {
  int64_t width = qn_lower_row_width(type);
  if (type->dtype == QN_DTYPE_A8) return width / 2 * 3;  // codes, scales and sums
  return type->rank < 2 ? 1 : qn_lower_pitch(width);
}

int64_t qn_lower_pitch(int64_t width) { return (width + QN_TILE_ROWS - 1) / QN_TILE_ROWS * QN_TILE_ROWS; }

qn_lmem qn_lower_mem(qn_dtype dtype) {
  switch (dtype) {
    case QN_DTYPE_F32: return QN_LM_F32;
    case QN_DTYPE_F16: return QN_LM_F16;
    case QN_DTYPE_BF16: return QN_LM_BF16;
    case QN_DTYPE_I32: return QN_LM_I32;
    case QN_DTYPE_I8: return QN_LM_I8;
    default: return QN_LM_U8;  // block formats and a8: bytes, seen through typed loads
  }
}

const qn_lexpr *qn_lower_row_elements(qn_lower *lower, const qn_type *type) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *elements = LX_INT(1);
  for (int i = 1; i < type->rank; i++) elements = LX_MUL(elements, qn_ldim(b, type->dims[i]));
  return elements;
}

// Elements (bytes of a8) from row to row: values of the arena are padded, unless a row's size holds a symbol ("64P");
// inputs and plain weights are not.
static const qn_lexpr *pitch_expr(qn_lower *lower, const qn_pbuf *buffer) {
  const qn_type *type = &buffer->type;
  bool padded = buffer->kind == QN_PB_ARENA;
  for (int i = 1; i < type->rank; i++) padded = padded && qn_dim_is_const(type->dims[i]);
  return padded ? qn_lint(&lower->build, qn_lower_row_pitch(type)) : qn_lower_row_elements(lower, type);
}

// A parameter's element count: what bounds its accesses.
static const qn_lexpr *param_elements(qn_lower *lower, const qn_pbuf *buffer) {
  qn_lbuild *b = &lower->build;
  const qn_type *type = &buffer->type;
  if (buffer->kind == QN_PB_WEIGHT) {
    return LX_INT((int64_t)(buffer->bytes /
                            qn_lmem_size(buffer->layout == QN_LAYOUT_PLAIN ? QN_LM_F32 : qn_lower_mem(type->dtype))));
  }
  qn_kv_page page;
  if (buffer->kind == QN_PB_CACHE && qn_dtype_is_block(type->dtype)) {
    bool sized = qn_type_kv_page(type, strcmp(buffer->name, "k") == 0, &page);
    return LX_MUL(qn_ldim(b, type->dims[0]), LX_INT(sized ? page.page_bytes : 0));
  }
  if (buffer->kind == QN_PB_CACHE || type->rank == 0) {
    const qn_lexpr *elements = LX_INT(1);
    for (int i = 0; i < type->rank; i++) elements = LX_MUL(elements, qn_ldim(b, type->dims[i]));
    return elements;
  }
  return LX_MUL(qn_ldim(b, type->dims[0]), pitch_expr(lower, buffer));
}

qn_lbuf *qn_lower_param(qn_lower *lower, qn_id id) {
  id = qn_graph_base(lower->graph, id);
  uint32_t buffer = lower->values[id].buffer;
  if (buffer == 0) {
    qn_status status = qn_fail(lower->pass->diag, QN_ERR_INTERNAL, qn_graph_node(lower->graph, id)->loc,
                               "lowering: value %u of %s is in no buffer", id,
                               qn_op_get_info(qn_graph_node(lower->graph, id)->op)->name);
    (void)status;  // kept in diag; the caller sees NULL
    lower->build.failed = true;
    return NULL;
  }
  return qn_lower_bind(lower, buffer - 1);
}

qn_lbuf *qn_lower_bind(qn_lower *lower, uint32_t buffer) {
  for (size_t i = 0; i < lower->bindings.count; i++) {
    if (lower->bindings.items[i].buffer == buffer) return lower->bindings.items[i].param;
  }
  static const char *const prefixes[] = {
      [QN_PB_ARENA] = "a", [QN_PB_WEIGHT] = "w", [QN_PB_CACHE] = "c", [QN_PB_INPUT] = "i"};
  const qn_pbuf *p = &lower->program->buffers.items[buffer];
  char name[32];
  snprintf(name, sizeof name, "%s%zu", prefixes[p->kind], lower->bindings.count);
  qn_lmem mem = p->kind == QN_PB_WEIGHT && p->layout == QN_LAYOUT_PLAIN ? QN_LM_F32 : qn_lower_mem(p->type.dtype);
  bool streamed = p->kind == QN_PB_WEIGHT && p->layout == QN_LAYOUT_ROWS16;
  qn_lbuf *param = qn_lparam(&lower->build, name, mem, param_elements(lower, p), false, streamed);
  qn_lparam_binding binding = {buffer, param};
  if (!param || !qn_vec_push_arena(lower->build.arena, &lower->bindings, binding)) {
    lower->build.failed = true;
    return NULL;
  }
  return param;
}

qn_lbuf *qn_lower_bind_writable(qn_lower *lower, uint32_t buffer) {
  qn_lbuf *buf = qn_lower_bind(lower, buffer);
  if (buf) buf->writable = true;
  return buf;
}

// The program buffer that holds a value which is in memory.
static const qn_pbuf *buffer_of(const qn_lower *lower, qn_id id) {
  return &lower->program->buffers.items[lower->values[qn_graph_base(lower->graph, id)].buffer - 1];
}

// The index of an element in its buffer.
static const qn_lexpr *element_index(qn_lower *lower, qn_id id, qn_lplace place) {
  qn_lbuild *b = &lower->build;
  if (!place.row) return place.flat;
  return LX_ADD(LX_MUL(place.row, pitch_expr(lower, buffer_of(lower, id))), place.flat);
}

const qn_lexpr *qn_lower_weight(qn_lower *lower, qn_id weight, const qn_lexpr *n, const qn_lexpr *k) {
  qn_lbuf *buf = qn_lower_param(lower, weight);
  if (!buf) return NULL;
  const qn_pbuf *p = buffer_of(lower, weight);
  int64_t rows = p->layout == QN_LAYOUT_ROWS16 ? QN_TILE_ROWS : 1;
  return qn_lower_tile_value(lower, qn_format_of(p->type.dtype), buf, rows, p->type.dims[1].value, n, k);
}

// Where operand `id` is read for the element of a result at `place`: broadcasting drops what it does not have.
static qn_lplace operand_place(qn_lower *lower, qn_id id, const qn_type *result, qn_lplace place) {
  qn_lbuild *b = &lower->build;
  const qn_type *type = &qn_graph_node(lower->graph, id)->type;
  if (type->rank == 0) return (qn_lplace){NULL, LX_INT(0)};
  if (type->rank != 1 || result->rank == 1) return place;
  // Beyond a panel's last column, parameters have padding to read.
  bool padded = result->rank == 2 && qn_graph_node(lower->graph, id)->op == QN_OP_PARAM;
  return (qn_lplace){NULL, padded ? place.flat : LX_MOD(place.flat, LX_INT(type->dims[0].value))};
}

static const qn_lexpr *sigmoid_of(qn_lbuild *b, const qn_lexpr *x) {
  return LX_DIV(LX_F32(1), LX_ADD(LX_F32(1), qn_lop1(b, QN_LX_EXP, qn_lop1(b, QN_LX_NEG, x))));
}

static const qn_lexpr *gelu_of(qn_lbuild *b, const qn_lexpr *x) {
  const qn_lexpr *erf = qn_lop1(b, QN_LX_ERF, LX_MUL(x, LX_F32(0.70710678118654752f)));
  return LX_MUL(LX_MUL(LX_F32(0.5f), x), LX_ADD(LX_F32(1), erf));
}

static const qn_lexpr *gelu_tanh_of(qn_lbuild *b, const qn_lexpr *x) {
  const qn_lexpr *cube = LX_MUL(LX_MUL(x, x), x);
  const qn_lexpr *inner = LX_MUL(LX_F32(0.79788456080286536f), LX_FMA(LX_F32(0.044715f), cube, x));
  return LX_MUL(LX_MUL(LX_F32(0.5f), x), LX_ADD(LX_F32(1), qn_lop1(b, QN_LX_TANH, inner)));
}

static const qn_lexpr *elementwise(qn_lower *lower, const qn_node *node, qn_lplace place) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *x =
      qn_lower_value(lower, node->operands[0], operand_place(lower, node->operands[0], &node->type, place));
  const qn_lexpr *y =
      node->operand_count > 1
          ? qn_lower_value(lower, node->operands[1], operand_place(lower, node->operands[1], &node->type, place))
          : NULL;
  switch (node->op) {
    case QN_OP_ADD: return LX_ADD(x, y);
    case QN_OP_SUB: return LX_SUB(x, y);
    case QN_OP_MUL: return LX_MUL(x, y);
    case QN_OP_DIV: return LX_DIV(x, y);
    case QN_OP_NEG: return qn_lop1(b, QN_LX_NEG, x);
    case QN_OP_SQRT: return qn_lop1(b, QN_LX_SQRT, x);
    case QN_OP_EXP: return qn_lop1(b, QN_LX_EXP, x);
    case QN_OP_TANH: return qn_lop1(b, QN_LX_TANH, x);
    case QN_OP_ERF: return qn_lop1(b, QN_LX_ERF, x);
    case QN_OP_RELU: return qn_lop2(b, QN_LX_MAX, x, LX_F32(0));
    case QN_OP_SIGMOID: return sigmoid_of(b, x);
    case QN_OP_SILU: return LX_MUL(x, sigmoid_of(b, x));
    case QN_OP_GELU: return gelu_of(b, x);
    case QN_OP_GELU_TANH: return gelu_tanh_of(b, x);
    default: return NULL;
  }
}

// A normalised element from the numbers its row op left: rmsnorm {1/rms}, layernorm {mean, 1/deviation},
// softmax {max, 1/sum}.
static const qn_lexpr *row_op_element(qn_lower *lower, qn_id id, const qn_node *node, qn_lplace place) {
  qn_lbuild *b = &lower->build;
  const qn_lvalue *value = &lower->values[id];
  int64_t width = node->type.dims[node->type.rank - 1].value;
  const qn_lexpr *stat = LX_MUL(LX_DIV(place.flat, LX_INT(width)), LX_INT(value->stat_count));
  const qn_lexpr *x = qn_lower_value(lower, node->operands[0], place);
  const qn_lexpr *first = LX_LOAD(value->stats, QN_LM_F32, stat);
  if (node->op == QN_OP_RMSNORM) {
    qn_lplace at = operand_place(lower, node->operands[1], &node->type, place);
    return LX_MUL(LX_MUL(x, first), qn_lower_value(lower, node->operands[1], at));
  }
  const qn_lexpr *second = LX_LOAD(value->stats, QN_LM_F32, LX_ADD(stat, LX_INT(1)));
  if (node->op == QN_OP_SOFTMAX) return LX_MUL(qn_lop1(b, QN_LX_EXP, LX_SUB(x, first)), second);
  qn_lplace at = operand_place(lower, node->operands[1], &node->type, place);
  return LX_FMA(LX_MUL(LX_SUB(x, first), second), qn_lower_value(lower, node->operands[1], at),
                qn_lower_value(lower, node->operands[2], at));
}

static const qn_lexpr *load_value(qn_lower *lower, qn_id id, qn_lplace place) {
  const qn_pbuf *p = buffer_of(lower, id);
  if (p->kind == QN_PB_WEIGHT && p->layout != QN_LAYOUT_PLAIN) return qn_lower_weight(lower, id, place.row, place.flat);
  qn_lbuf *buf = qn_lower_param(lower, id);
  if (!buf) return NULL;
  return qn_lload(&lower->build, buf, buf->mem, element_index(lower, id, place), 1);
}

// The place in a slice's operand of an element at `place` of the slice.
static qn_lplace slice_place(qn_lower *lower, const qn_node *node, qn_lplace place) {
  qn_lbuild *b = &lower->build;
  const qn_type *from = &qn_graph_node(lower->graph, node->operands[0])->type;
  int64_t axis = qn_node_int(node, QN_ATTR_AXIS, 0), begin = qn_node_int(node, QN_ATTR_BEGIN, 0);
  int64_t inner = 1;
  for (int i = (int)axis + 1; i < from->rank; i++) inner *= from->dims[i].value;
  if (axis == 0) return (qn_lplace){LX_ADD(place.row, LX_INT(begin)), place.flat};
  int64_t from_span = from->dims[axis].value * inner, to_span = node->type.dims[axis].value * inner;
  const qn_lexpr *flat = axis == 1 ? place.flat
                                   : LX_ADD(LX_MUL(LX_DIV(place.flat, LX_INT(to_span)), LX_INT(from_span)),
                                            LX_MOD(place.flat, LX_INT(to_span)));
  return (qn_lplace){place.row, LX_ADD(flat, LX_INT(begin * inner))};
}

static const qn_lexpr *view_element(qn_lower *lower, const qn_node *node, qn_lplace place) {
  qn_lbuild *b = &lower->build;
  const qn_type *from = &qn_graph_node(lower->graph, node->operands[0])->type;
  if (node->op == QN_OP_SLICE) {
    if (place.row) return qn_lower_value(lower, node->operands[0], slice_place(lower, node, place));
    return qn_lower_value(lower, node->operands[0],
                          (qn_lplace){NULL, LX_ADD(place.flat, LX_INT(qn_node_int(node, QN_ATTR_BEGIN, 0)))});
  }
  // Reshapes keep the order of elements; rows may change when the leading dimension does.
  int64_t width = qn_lower_row_width(&node->type), from_width = qn_lower_row_width(from);
  if (width == from_width && (place.row != NULL) == (from->rank > 1 || !qn_dim_is_const(from->dims[0]))) {
    return qn_lower_value(lower, node->operands[0], place);
  }
  const qn_lexpr *linear = place.row ? LX_ADD(LX_MUL(place.row, LX_INT(width)), place.flat) : place.flat;
  qn_lplace at = {LX_DIV(linear, LX_INT(from_width)), LX_MOD(linear, LX_INT(from_width))};
  if (from->rank <= 1 && qn_dim_is_const(from->dims[0])) at = (qn_lplace){NULL, linear};
  return qn_lower_value(lower, node->operands[0], at);
}

// cos or sin of a RoPE angle: element i < dims/2 is cos of frequency i, element dims/2 + i its sin.
static const qn_lexpr *rope_table_element(qn_lower *lower, qn_id id, const qn_node *node, qn_lplace place) {
  qn_lbuild *b = &lower->build;
  int64_t half = qn_node_int(node, QN_ATTR_DIMS, 0) / 2;
  qn_lvalue *value = &lower->values[id];
  const qn_lexpr *i = LX_MOD(place.flat, LX_INT(half));
  const qn_lexpr *frequency = value->stats ? LX_LOAD(value->stats, QN_LM_F32, i) : NULL;
  if (node->operand_count == 2) {
    frequency = LX_DIV(frequency, qn_lower_value(lower, node->operands[1], (qn_lplace){NULL, i}));
  }
  const qn_lexpr *pos =
      qn_lop1(b, QN_LX_TO_F32, qn_lower_value(lower, node->operands[0], (qn_lplace){NULL, place.row}));
  const qn_lexpr *angle = LX_MUL(pos, frequency);
  const qn_lexpr *is_cos = qn_lop2(b, QN_LX_LT, place.flat, LX_INT(half));
  const qn_lexpr *wave =
      qn_lop3(b, QN_LX_SELECT, is_cos, qn_lop1(b, QN_LX_COS, angle), qn_lop1(b, QN_LX_SIN, angle));
  double scale = qn_node_float(node, QN_ATTR_SCALE, 1);
  return scale == 1 ? wave : LX_MUL(wave, LX_F32((float)scale));
}

const qn_lexpr *qn_lower_value(qn_lower *lower, qn_id id, qn_lplace place) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  const qn_lvalue *value = &lower->values[id];
  uint32_t flags = qn_op_get_info(node->op)->flags;
  if (value->expr) return value->expr;
  if (node->op == QN_OP_CONST) return LX_F32((float)qn_node_float(node, QN_ATTR_VALUE, 0));
  if (value->buffer && value->stored) return load_value(lower, id, place);
  if (flags & QN_OF_V) return view_element(lower, node, place);
  if (flags & QN_OF_E) return elementwise(lower, node, place);
  switch (node->op) {
    case QN_OP_RMSNORM:
    case QN_OP_LAYERNORM:
    case QN_OP_SOFTMAX: return row_op_element(lower, id, node, place);
    case QN_OP_GATHER_ROWS: {
      const qn_lexpr *row = qn_lower_value(lower, node->operands[1], (qn_lplace){NULL, place.row});
      return qn_lower_value(lower, node->operands[0], (qn_lplace){qn_lop1(b, QN_LX_TO_INDEX, row), place.flat});
    }
    case QN_OP_PICK: {
      const qn_lexpr *at = qn_lower_value(lower, node->operands[1], place);
      return qn_lower_value(lower, node->operands[0], (qn_lplace){place.row, qn_lop1(b, QN_LX_TO_INDEX, at)});
    }
    case QN_OP_EMBED: {
      const qn_lexpr *token = qn_lower_value(lower, node->operands[1], (qn_lplace){NULL, place.row});
      return qn_lower_weight(lower, node->operands[0], qn_lop1(b, QN_LX_TO_INDEX, token), place.flat);
    }
    case QN_OP_ROPE_TABLE: return rope_table_element(lower, id, node, place);
    default: break;
  }
  if (b->failed) return NULL;  // out of memory before
  qn_status status =
      qn_fail(lower->pass->diag, QN_ERR_INTERNAL, node->loc,
              "lowering: %s is not in memory and is no element's expression", qn_op_get_info(node->op)->name);
  (void)status;  // kept in diag
  b->failed = true;
  return NULL;
}

const qn_lexpr *qn_lower_written_page(qn_lower *lower, const qn_node *write, const qn_lexpr *row,
                                      const qn_lexpr **out_pos) {
  qn_lbuild *b = &lower->build;
  qn_lplace place = {NULL, row};
  const qn_lexpr *pos = qn_lop1(b, QN_LX_TO_INDEX, qn_lower_value(lower, write->operands[2], place));
  const qn_lexpr *seq = qn_lop1(b, QN_LX_TO_INDEX, qn_lower_value(lower, write->operands[3], place));
  if (lower->copy) seq = LX_ADD(seq, lower->copy);
  const qn_lexpr *slot = LX_ADD(LX_MUL(seq, qn_lsym(b, QN_SYM_P)), LX_DIV(pos, LX_INT(QN_PAGE_KEYS)));
  qn_lbuf *table = qn_lower_param(lower, write->operands[4]);
  if (!table) return NULL;
  *out_pos = pos;
  return qn_lop1(b, QN_LX_TO_INDEX, LX_LOAD(table, QN_LM_I32, slot));
}

// The index in a cache of (key of this token, head, value c): pages by the block table.
static const qn_lexpr *cache_index(qn_lower *lower, const qn_node *write, qn_lplace place) {
  qn_lbuild *b = &lower->build;
  const qn_type *cache = &write->type;
  bool is_k = strcmp(qn_node_text(write, QN_ATTR_KIND, "k"), "k") == 0;
  int64_t heads = cache->dims[1].value, head_dim = cache->dims[is_k ? 2 : 3].value;
  const qn_lexpr *pos = NULL, *page = qn_lower_written_page(lower, write, place.row, &pos);
  if (!page) return NULL;
  const qn_lexpr *head = LX_ADD(LX_MUL(page, LX_INT(heads)), LX_DIV(place.flat, LX_INT(head_dim)));
  const qn_lexpr *c = LX_MOD(place.flat, LX_INT(head_dim)), *key = LX_MOD(pos, LX_INT(QN_PAGE_KEYS));
  if (is_k) return LX_ADD(LX_MUL(LX_ADD(LX_MUL(head, LX_INT(head_dim)), c), LX_INT(QN_PAGE_KEYS)), key);
  return LX_ADD(LX_MUL(LX_ADD(LX_MUL(head, LX_INT(QN_PAGE_KEYS)), key), LX_INT(head_dim)), c);
}

void qn_lower_store(qn_lower *lower, qn_lblock *block, qn_id id, qn_lplace place, const qn_lexpr *value) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  if (node->op != QN_OP_KV_WRITE && lower->values[id].materialised) {
    qn_lbuf *buf = qn_lower_param(lower, id);
    if (buf) {
      buf->writable = true;
      qn_lstore(b, block, buf, buf->mem, element_index(lower, id, place), value);
    }
  }
  lower->values[id].stored = lower->values[id].stored || lower->values[id].materialised;
  for (qn_id w = 1; w < lower->graph->nodes.count; w++) {
    const qn_node *write = qn_graph_node(lower->graph, w);
    if (write->op != QN_OP_KV_WRITE || write->group != lower->group) continue;
    if ((w != id && write->operands[1] != id) || qn_dtype_is_block(write->type.dtype)) continue;
    qn_lbuf *cache = qn_lower_param(lower, w);
    if (!cache) return;
    cache->writable = true;
    qn_lstore(b, block, cache, cache->mem, cache_index(lower, write, place), value);
  }
}
