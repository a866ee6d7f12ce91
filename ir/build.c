// Appending nodes to a graph: operands, attributes and shapes are checked here, once, for every frontend and pass.
#include <inttypes.h>
#include <string.h>

#include "ir/graph.h"
#include "ir/program.h"

// What a shape rule sees: operand types resolved, attributes checked.
typedef struct shape_context {
  const qn_graph *graph;
  const qn_node_spec *spec;
  const qn_type *operands[QN_MAX_OPERANDS];
  const char *op;
  const char *loc;
  qn_diag *diag;
} shape_context;

typedef qn_status (*shape_fn)(const shape_context *c, qn_type *out);

static const qn_attr *spec_attr(const qn_node_spec *spec, qn_attr_id id) {
  for (int i = 0; i < spec->attr_count; i++) {
    if (spec->attrs[i].id == id) return &spec->attrs[i];
  }
  return NULL;
}

static int64_t spec_int(const shape_context *c, qn_attr_id id) { return spec_attr(c->spec, id)->value.i; }

static const char *spec_text(const shape_context *c, qn_attr_id id) { return spec_attr(c->spec, id)->value.text; }

// "op: operand i: got <type>, want <want>"
static qn_status operand_error(const shape_context *c, int i, const char *want) {
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  qn_type_print(c->operands[i], &text);
  qn_status status =
      qn_fail(c->diag, QN_ERR_FORMAT, c->loc, "%s: operand %d: got %s, want %s", c->op, i, qn_buf_text(&text), want);
  qn_buf_deinit(&text);
  return status;
}

static qn_status attr_error(const shape_context *c, qn_attr_id id, const char *want) {
  const qn_attr *attr = spec_attr(c->spec, id);
  switch (qn_attr_get_kind(id)) {
    case QN_AK_INT:
      return qn_fail(c->diag, QN_ERR_FORMAT, c->loc, "%s: attribute %s: got %" PRId64 ", want %s", c->op,
                     qn_attr_name(id), attr->value.i, want);
    case QN_AK_FLOAT:
      return qn_fail(c->diag, QN_ERR_FORMAT, c->loc, "%s: attribute %s: got %g, want %s", c->op, qn_attr_name(id),
                     attr->value.f, want);
    default:
      return qn_fail(c->diag, QN_ERR_FORMAT, c->loc, "%s: attribute %s: got '%s', want %s", c->op, qn_attr_name(id),
                     attr->value.text, want);
  }
}

static qn_dim last_dim(const qn_type *type) { return type->dims[type->rank - 1]; }

static bool is_f32(const qn_type *type) { return type->dtype == QN_DTYPE_F32; }

static bool is_vector(const qn_type *type, qn_dim width) {
  return is_f32(type) && type->rank == 1 && qn_dim_equal(type->dims[0], width);
}

static bool is_i32_rows(const qn_type *type) {
  return type->dtype == QN_DTYPE_I32 && type->rank == 1 && !qn_dim_is_const(type->dims[0]);
}

// Are all dimensions from `axis` on constant?
static bool is_const_from(const qn_type *type, int axis) {
  for (int i = axis; i < type->rank; i++) {
    if (!qn_dim_is_const(type->dims[i])) return false;
  }
  return true;
}

// Dimensions are constant but for the first, and the last where it is whole lines of 16 (scores over 64P keys).
static bool is_elementwise(const qn_type *type) {
  if (type->rank < 2 || is_const_from(type, 1)) return true;
  for (int i = 1; i + 1 < type->rank; i++) {
    if (!qn_dim_is_const(type->dims[i])) return false;
  }
  return type->dims[type->rank - 1].value % QN_TILE_ROWS == 0;
}
#define ELEMENTWISE "symbols in the first dimension, or 16 times a symbol in the last"

// A parameter, or several stacked: what packing can lay out for a matmul or a lookup.
static bool is_weight(const shape_context *c, int i) {
  const qn_node *node = qn_graph_node(c->graph, c->spec->operands[i]);
  return node->op == QN_OP_PARAM || qn_graph_is_stack(c->graph, node);
}

// --- shape rules, in the order of ops.def

// "op: got type <type>, want <want>"
static qn_status type_error(const shape_context *c, const char *want) {
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  qn_type_print(c->spec->type, &text);
  qn_status status =
      qn_fail(c->diag, QN_ERR_FORMAT, c->loc, "%s: got type %s, want %s", c->op, qn_buf_text(&text), want);
  qn_buf_deinit(&text);
  return status;
}

#define CACHE_KINDS "k, v, sum or softsum"

static qn_status given_cache(const shape_context *c, const qn_type *type) {
  const char *kind = spec_text(c, QN_ATTR_KIND);
  bool is_k = qn_kv_lies_as_k(kind), is_sum = qn_kv_is_sum(kind);
  if (!qn_kv_is_kind(kind)) return attr_error(c, QN_ATTR_KIND, CACHE_KINDS);
  bool shaped = type->rank == 4 && qn_dim_equal(type->dims[0], qn_dim_sym(QN_SYM_G)) && is_const_from(type, 1) &&
                type->dims[is_k ? 3 : 2].value == QN_PAGE_KEYS && qn_dtype_is_cached(type->dtype);
  if (shaped && !is_sum) return QN_OK;
  if (is_sum) return shaped && is_f32(type) && type->dims[2].value == 1 ? QN_OK : type_error(c, "f32[G, heads, 1, 64]");
  return type_error(c,
                    is_k ? "floats, int8 or int4 [G, heads, head_dim, 64] for kind k"
                         : "floats, int8 or int4 [G, heads, 64, head_dim] for kind v");
}

static qn_status given_param(const shape_context *c, const qn_type *type) {
  const qn_format *format = qn_format_of(type->dtype);
  int64_t width = type->rank > 0 ? last_dim(type).value : 1;
  if (!format || !is_const_from(type, 0)) return type_error(c, "a weight format and constant dimensions");
  if (width % format->block_values != 0) return type_error(c, "rows of whole blocks");
  return QN_OK;
}

static qn_status shape_given(const shape_context *c, qn_type *out) {
  if (!c->spec->type) {
    return qn_fail(c->diag, QN_ERR_FORMAT, c->loc, "%s: got no type, want one: its shape cannot be inferred", c->op);
  }
  *out = *c->spec->type;
  int64_t ones[QN_SYM_COUNT] = {1, 1, 1, 1, 1, 1, 1}, from = 0, to = 0;
  switch (c->spec->op) {
    case QN_OP_CONST: return is_f32(out) && out->rank == 0 ? QN_OK : type_error(c, "f32[]");
    case QN_OP_CACHE: return given_cache(c, out);
    case QN_OP_PARAM: return given_param(c, out);
    case QN_OP_INPUT: return is_f32(out) || out->dtype == QN_DTYPE_I32 ? QN_OK : type_error(c, "f32 or i32");
    default: break;  // reshape
  }
  if (!is_const_from(c->operands[0], 1)) return operand_error(c, 0, "no symbol but in the first dimension");
  bool same = qn_type_elements(c->operands[0], ones, &from) && qn_type_elements(out, ones, &to) && from == to;
  qn_dim first = out->rank ? out->dims[0] : qn_dim_const(1);
  qn_dim from_first = c->operands[0]->rank ? c->operands[0]->dims[0] : qn_dim_const(1);
  same = same && is_const_from(out, 1) && first.symbol == from_first.symbol && out->dtype == c->operands[0]->dtype;
  if (!same || qn_dtype_is_block(out->dtype)) return operand_error(c, 0, "as many elements as the result, of its type");
  return QN_OK;
}

// The operands that say where a token's keys are: pos, seq and block_table from operand `first` on.
static qn_status check_places(const shape_context *c, int first, qn_dim tokens) {
  for (int i = first; i < first + 2; i++) {
    if (!is_i32_rows(c->operands[i]) || !qn_dim_equal(c->operands[i]->dims[0], tokens))
      return operand_error(c, i, "i32[T]");
  }
  const qn_type *table = c->operands[first + 2];
  bool paged = table->dtype == QN_DTYPE_I32 && table->rank == 2 && qn_dim_equal(table->dims[1], qn_dim_sym(QN_SYM_P));
  return paged ? QN_OK : operand_error(c, first + 2, "i32[B, P]");
}

// A layer's pool of that kind, before or after a write.
static bool is_cache(const shape_context *c, int i, const char *kind) {
  const qn_node *node = qn_graph_node(c->graph, c->spec->operands[i]);
  bool pool = node->op == QN_OP_CACHE || node->op == QN_OP_KV_WRITE;
  return pool && strcmp(qn_node_text(node, QN_ATTR_KIND, ""), kind) == 0;
}

static bool is_attention(const qn_type *p) {
  return is_f32(p) && p->rank == 3 && qn_dim_is_const(p->dims[1]) && p->dims[2].symbol == QN_SYM_P &&
         p->dims[2].value == QN_PAGE_KEYS;
}

// kv_write of a kind that sums attention.
static qn_status shape_sum(const shape_context *c, qn_type *out) {
  const qn_type *cache = c->operands[0], *p = c->operands[1];
  if (!is_attention(p) || p->dims[1].value % cache->dims[1].value != 0)
    return operand_error(c, 1, "f32[T, heads, 64P], heads a multiple of the cache's");
  QN_TRY(check_places(c, 2, p->dims[0]));
  if (c->spec->operand_count > 5) return operand_error(c, 5, "nothing: sums are of one sequence");
  *out = *cache;
  return QN_OK;
}

static qn_status shape_same(const shape_context *c, qn_type *out) {
  if (c->spec->op == QN_OP_KV_WRITE) {
    const qn_type *cache = c->operands[0], *x = c->operands[1];
    const char *kind = spec_text(c, QN_ATTR_KIND);
    bool is_k = qn_kv_lies_as_k(kind);
    if (!qn_kv_is_kind(kind)) return attr_error(c, QN_ATTR_KIND, CACHE_KINDS);
    if (!is_cache(c, 0, kind)) return operand_error(c, 0, "a cache of this kind");
    if (qn_kv_is_sum(kind)) return shape_sum(c, out);
    bool fits = is_f32(x) && x->rank == 3 && qn_dim_equal(x->dims[1], cache->dims[1]) &&
                qn_dim_equal(x->dims[2], cache->dims[is_k ? 2 : 3]);
    if (!fits) return operand_error(c, 1, "f32[T, heads, head_dim] as the cache has them");
    QN_TRY(check_places(c, 2, x->dims[0]));
    if (c->spec->operand_count > 5 && (!is_i32_rows(c->operands[5]) || !qn_dim_equal(c->operands[5]->dims[0], x->dims[0])))
      return operand_error(c, 5, "i32[T]");
    *out = *cache;
    return QN_OK;
  }
  const qn_type *x = c->operands[0];
  if (!is_f32(x)) return operand_error(c, 0, "f32");
  if (!is_elementwise(x)) return operand_error(c, 0, ELEMENTWISE);
  if (c->spec->op == QN_OP_SOFTMAX && !(x->rank > 0 && (is_const_from(x, x->rank - 1) || x->rank == 3))) {
    return operand_error(c, 0, "rows of constant width, or f32[T, heads, 64P]");
  }
  *out = *x;
  return QN_OK;
}

static qn_status shape_split_heads(const shape_context *c, qn_type *out) {
  const qn_type *x = c->operands[0];
  int64_t heads = spec_int(c, QN_ATTR_HEADS);
  if (x->rank != 2 || !is_f32(x) || !qn_dim_is_const(x->dims[1])) return operand_error(c, 0, "f32[T, width]");
  if (heads < 1 || x->dims[1].value % heads != 0) return attr_error(c, QN_ATTR_HEADS, "a divisor of the width");
  qn_dim dims[] = {x->dims[0], qn_dim_const(heads), qn_dim_const(x->dims[1].value / heads)};
  *out = qn_type_make(QN_DTYPE_F32, 3, dims);
  return QN_OK;
}

static qn_status shape_merge_heads(const shape_context *c, qn_type *out) {
  const qn_type *x = c->operands[0];
  if (x->rank != 3 || !is_f32(x) || !qn_dim_is_const(x->dims[1]) || !qn_dim_is_const(x->dims[2])) {
    return operand_error(c, 0, "f32[T, heads, head_dim]");
  }
  qn_dim dims[] = {x->dims[0], qn_dim_const(x->dims[1].value * x->dims[2].value)};
  *out = qn_type_make(QN_DTYPE_F32, 2, dims);
  return QN_OK;
}

static qn_status shape_slice(const shape_context *c, qn_type *out) {
  const qn_type *x = c->operands[0];
  int64_t axis = spec_int(c, QN_ATTR_AXIS), begin = spec_int(c, QN_ATTR_BEGIN), end = spec_int(c, QN_ATTR_END);
  if (axis < 0 || axis >= x->rank || !qn_dim_is_const(x->dims[axis])) {
    return attr_error(c, QN_ATTR_AXIS, "a dimension of constant size");
  }
  if (begin < 0 || begin >= x->dims[axis].value) return attr_error(c, QN_ATTR_BEGIN, "an element of the axis");
  if (end <= begin || end > x->dims[axis].value) return attr_error(c, QN_ATTR_END, "begin < end <= the axis's size");
  if (qn_dtype_is_block(x->dtype)) return operand_error(c, 0, "a type without blocks");
  if (!is_const_from(x, 1)) return operand_error(c, 0, "no symbol but in the first dimension");
  *out = *x;
  out->dims[axis] = qn_dim_const(end - begin);
  return QN_OK;
}

static qn_status shape_concat(const shape_context *c, qn_type *out) {
  int64_t axis = spec_int(c, QN_ATTR_AXIS);
  bool stack = axis == 0;
  *out = *c->operands[0];
  if (axis < 0 || axis >= out->rank) return attr_error(c, QN_ATTR_AXIS, "a dimension of the operands");
  for (int i = 0; i < c->spec->operand_count; i++) {
    const qn_type *x = c->operands[i];
    bool fits = x->rank == out->rank && x->dtype == out->dtype && qn_dim_is_const(x->dims[axis]);
    for (int d = 0; fits && d < x->rank; d++) fits = d == axis || qn_dim_equal(x->dims[d], out->dims[d]);
    if (!fits) return operand_error(c, i, "operand 0's type but for the axis, which must be constant");
    if (!is_const_from(x, 1)) return operand_error(c, i, "no symbol but in the first dimension");
    stack = stack && qn_graph_node(c->graph, c->spec->operands[i])->op == QN_OP_PARAM;
    if (i > 0 && __builtin_add_overflow(out->dims[axis].value, x->dims[axis].value, &out->dims[axis].value)) {
      return operand_error(c, i, "sizes whose sum can be counted");
    }
  }
  if (!stack && !is_f32(out)) return operand_error(c, 0, "f32, or parameters along axis 0");
  return QN_OK;
}

static qn_status shape_broadcast(const shape_context *c, qn_type *out) {
  const qn_type *a = c->operands[0], *b = c->operands[1];
  for (int i = 0; i < 2; i++) {
    if (!is_f32(c->operands[i])) return operand_error(c, i, "f32");
  }
  if (a->rank < b->rank) {
    const qn_type *swap = a;
    a = b;
    b = swap;
  }
  if (!is_elementwise(a)) return operand_error(c, a == c->operands[0] ? 0 : 1, ELEMENTWISE);
  bool row = b->rank == 1 && qn_dim_equal(b->dims[0], last_dim(a)) && qn_dim_is_const(b->dims[0]);
  bool fits = qn_type_equal(a, b) || b->rank == 0 || row;
  if (!fits) return operand_error(c, 1, "the other operand's shape, its last dimension, or a scalar");
  *out = *a;
  return QN_OK;
}

static qn_status shape_rownorm(const shape_context *c, qn_type *out) {
  const qn_type *x = c->operands[0];
  if (!is_f32(x) || x->rank < 1 || !is_const_from(x, 1) || !qn_dim_is_const(last_dim(x))) {
    return operand_error(c, 0, "f32[..., width]");
  }
  for (int i = 1; i < c->spec->operand_count; i++) {
    if (!is_vector(c->operands[i], last_dim(x))) return operand_error(c, i, "f32[width]");
  }
  if (!(spec_attr(c->spec, QN_ATTR_EPS)->value.f >= 0)) return attr_error(c, QN_ATTR_EPS, "0 or more");
  *out = *x;
  return QN_OK;
}

static qn_status shape_quantize(const shape_context *c, qn_type *out) {
  const qn_type *x = c->operands[0];
  if (!is_f32(x) || x->rank != 2 || !qn_dim_is_const(x->dims[1]) || x->dims[1].value % 32 != 0) {
    return operand_error(c, 0, "f32[T, width], width a multiple of 32");
  }
  *out = *x;
  out->dtype = QN_DTYPE_A8;
  return QN_OK;
}

static qn_status shape_embed(const shape_context *c, qn_type *out) {
  const qn_type *table = c->operands[0], *ids = c->operands[1];
  if (table->rank != 2 || !is_weight(c, 0)) return operand_error(c, 0, "a parameter [vocabulary, width]");
  if (!is_i32_rows(ids)) return operand_error(c, 1, "i32[T]");
  qn_dim dims[] = {ids->dims[0], table->dims[1]};
  *out = qn_type_make(QN_DTYPE_F32, 2, dims);
  return QN_OK;
}

static qn_status shape_gather_rows(const shape_context *c, qn_type *out) {
  const qn_type *x = c->operands[0], *rows = c->operands[1];
  if (!is_f32(x) || x->rank != 2 || !is_const_from(x, 1)) return operand_error(c, 0, "f32[T, width]");
  if (!is_i32_rows(rows)) return operand_error(c, 1, "i32[R]");
  qn_dim dims[] = {rows->dims[0], x->dims[1]};
  *out = qn_type_make(QN_DTYPE_F32, 2, dims);
  return QN_OK;
}

static qn_status shape_pool(const shape_context *c, qn_type *out) {
  const qn_type *x = c->operands[0], *pos = c->operands[1], *rows = c->operands[2];
  const char *kind = spec_text(c, QN_ATTR_KIND);
  if (strcmp(kind, "mean") != 0 && strcmp(kind, "first") != 0) return attr_error(c, QN_ATTR_KIND, "mean or first");
  if (!is_f32(x) || x->rank != 2 || !is_const_from(x, 1)) return operand_error(c, 0, "f32[T, width]");
  if (!is_i32_rows(pos) || !qn_dim_equal(pos->dims[0], x->dims[0])) return operand_error(c, 1, "i32[T]");
  if (!is_i32_rows(rows)) return operand_error(c, 2, "i32[R]");
  qn_dim dims[] = {rows->dims[0], x->dims[1]};
  *out = qn_type_make(QN_DTYPE_F32, 2, dims);
  return QN_OK;
}

static qn_status shape_matmul(const shape_context *c, qn_type *out) {
  const qn_type *x = c->operands[0], *w = c->operands[1];
  if (x->rank != 2 || (!is_f32(x) && x->dtype != QN_DTYPE_A8)) return operand_error(c, 0, "f32[T, K] or a8[T, K]");
  bool fits = w->rank == 2 && is_weight(c, 1) && qn_dim_equal(w->dims[1], x->dims[1]);
  if (!fits) return operand_error(c, 1, "a parameter [N, K] with operand 0's K");
  if (x->dtype == QN_DTYPE_A8 && qn_format_of(w->dtype)->block_values == 1) {
    return operand_error(c, 1, "a format with blocks");
  }
  const qn_attr *halves = spec_attr(c->spec, QN_ATTR_HALVES);
  bool narrow = w->dtype == QN_DTYPE_F16 || w->dtype == QN_DTYPE_BF16;
  if (halves && halves->value.i != 1) return attr_error(c, QN_ATTR_HALVES, "1, or no such attribute");
  if (halves && !narrow) return operand_error(c, 1, "f16 or bf16 beside the attribute halves");
  qn_dim dims[] = {x->dims[0], w->dims[0]};
  *out = qn_type_make(QN_DTYPE_F32, 2, dims);
  return QN_OK;
}

static qn_status shape_rope_table(const shape_context *c, qn_type *out) {
  int64_t dims = spec_int(c, QN_ATTR_DIMS);
  if (!is_i32_rows(c->operands[0])) return operand_error(c, 0, "i32[T]");
  if (dims < 2 || dims % 2 != 0) return attr_error(c, QN_ATTR_DIMS, "an even number of 2 or more");
  if (!(spec_attr(c->spec, QN_ATTR_THETA)->value.f > 0)) return attr_error(c, QN_ATTR_THETA, "more than 0");
  const qn_attr *scale = spec_attr(c->spec, QN_ATTR_SCALE);
  if (scale && !(scale->value.f > 0)) return attr_error(c, QN_ATTR_SCALE, "more than 0");
  if (c->spec->operand_count == 2 && !is_vector(c->operands[1], qn_dim_const(dims / 2))) {
    return operand_error(c, 1, "f32[dims/2]");
  }
  qn_dim shape[] = {c->operands[0]->dims[0], qn_dim_const(dims)};
  *out = qn_type_make(QN_DTYPE_F32, 2, shape);
  return QN_OK;
}

static qn_status shape_rope(const shape_context *c, qn_type *out) {
  const qn_type *x = c->operands[0], *table = c->operands[1];
  const char *kind = spec_text(c, QN_ATTR_KIND);
  if (strcmp(kind, "pairs") != 0 && strcmp(kind, "halves") != 0) return attr_error(c, QN_ATTR_KIND, "pairs or halves");
  if (!is_f32(x) || x->rank != 3 || !is_const_from(x, 1)) return operand_error(c, 0, "f32[T, heads, head_dim]");
  bool fits = is_f32(table) && table->rank == 2 && qn_dim_equal(table->dims[0], x->dims[0]) &&
              is_const_from(table, 1) && table->dims[1].value % 2 == 0 && table->dims[1].value <= x->dims[2].value;
  if (!fits) return operand_error(c, 1, "f32[T, dims], dims at most head_dim");
  *out = *x;
  return QN_OK;
}

static qn_status check_query(const shape_context *c, const qn_type *q, int cache_at) {
  const qn_type *cache = c->operands[cache_at];
  if (!is_f32(q) || q->rank != 3 || !is_const_from(q, 1)) return operand_error(c, 0, "f32[T, heads, head_dim]");
  bool keys = is_cache(c, cache_at, "k") || is_cache(c, cache_at, "sum") || is_cache(c, cache_at, "softsum");
  bool fits = keys && qn_dim_equal(cache->dims[2], q->dims[2]) &&
              q->dims[1].value % cache->dims[1].value == 0;
  if (!fits) return operand_error(c, cache_at, "a K cache with q's head_dim and a divisor of its heads");
  const qn_attr *window = spec_attr(c->spec, QN_ATTR_WINDOW), *softcap = spec_attr(c->spec, QN_ATTR_SOFTCAP);
  const qn_attr *ahead = spec_attr(c->spec, QN_ATTR_AHEAD);
  if (window && window->value.i < 0) return attr_error(c, QN_ATTR_WINDOW, "0 or more");
  if (ahead && (ahead->value.i < 0 || ahead->value.i > INT32_MAX)) return attr_error(c, QN_ATTR_AHEAD, "0 to 2^31 - 1");
  if (softcap && !(softcap->value.f >= 0)) return attr_error(c, QN_ATTR_SOFTCAP, "0 or more");
  return QN_OK;
}

// The optional last operands of attention: a slope a query head, or its bias by distance; where tokens are, if pos says
// what they see.
static qn_status check_distances(const shape_context *c, int first, qn_dim tokens) {
  const qn_attr *origin = spec_attr(c->spec, QN_ATTR_ORIGIN);
  const qn_type *by = c->spec->operand_count > first ? c->operands[first] : NULL;
  int at = first + 1;
  if (by && by->dtype == QN_DTYPE_I32) by = NULL, at = first;  // neither slopes nor bias
  int64_t heads = c->operands[0]->dims[1].value;
  if (origin) {
    bool vector = by && is_f32(by) && by->rank == 1 && is_const_from(by, 0) && by->dims[0].value % heads == 0;
    if (!vector) return attr_error(c, QN_ATTR_ORIGIN, "the operand that it is of, f32[heads * distances], too");
    int64_t distances = by->dims[0].value / heads;
    if (origin->value.i < 0 || origin->value.i >= distances)
      return attr_error(c, QN_ATTR_ORIGIN, "one of the bias's distances, from 0 on");
  } else if (by && !is_vector(by, c->operands[0]->dims[1])) {
    return operand_error(c, first, "f32[heads], or an origin for a bias by distance");
  }
  if (c->spec->operand_count <= at) return QN_OK;
  bool placed = is_i32_rows(c->operands[at]) && qn_dim_equal(c->operands[at]->dims[0], tokens);
  if (!placed) return operand_error(c, at, "i32[T]");
  return c->spec->operand_count == at + 1 ? QN_OK : operand_error(c, at + 1, "nothing after i32[T]");
}

static qn_status shape_attn_scores(const shape_context *c, qn_type *out) {
  const qn_type *q = c->operands[0];
  QN_TRY(check_query(c, q, 1));
  QN_TRY(check_places(c, 2, q->dims[0]));
  QN_TRY(check_distances(c, 5, q->dims[0]));
  qn_dim dims[] = {q->dims[0], q->dims[1], {QN_SYM_P, QN_PAGE_KEYS}};
  *out = qn_type_make(QN_DTYPE_F32, 3, dims);
  return QN_OK;
}

static qn_status shape_attn_mix(const shape_context *c, qn_type *out) {
  const qn_type *p = c->operands[0], *cache = c->operands[1];
  if (!is_attention(p)) return operand_error(c, 0, "f32[T, heads, 64P]");
  if (!is_cache(c, 1, "v") || p->dims[1].value % cache->dims[1].value != 0) {
    return operand_error(c, 1, "a V cache with a divisor of the heads");
  }
  QN_TRY(check_places(c, 2, p->dims[0]));
  qn_dim dims[] = {p->dims[0], p->dims[1], cache->dims[3]};
  *out = qn_type_make(QN_DTYPE_F32, 3, dims);
  return QN_OK;
}

static qn_status shape_attention(const shape_context *c, qn_type *out) {
  const qn_type *q = c->operands[0];
  QN_TRY(check_query(c, q, 1));
  const qn_type *v = c->operands[2];
  if (!is_cache(c, 2, "v") || !qn_dim_equal(v->dims[1], c->operands[1]->dims[1])) {
    return operand_error(c, 2, "a V cache with the K cache's heads");
  }
  QN_TRY(check_places(c, 3, q->dims[0]));
  QN_TRY(check_distances(c, 6, q->dims[0]));
  qn_dim dims[] = {q->dims[0], q->dims[1], v->dims[3]};
  *out = qn_type_make(QN_DTYPE_F32, 3, dims);
  return QN_OK;
}

static qn_status shape_sample(const shape_context *c, qn_type *out) {
  const qn_type *logits = c->operands[0], *settings = c->operands[1];
  bool fits =
      is_f32(logits) && logits->rank == 2 && is_const_from(logits, 1) && logits->dims[1].value < QN_SAMPLE_VOCAB_END;
  if (!fits) return operand_error(c, 0, "f32[R, vocabulary], vocabulary less than 2^19");
  bool rows = settings->dtype == QN_DTYPE_I32 && settings->rank == 2 &&
              qn_dim_equal(settings->dims[0], logits->dims[0]) &&
              qn_dim_equal(settings->dims[1], qn_dim_const(QN_SAMPLE_SETTINGS));
  if (!rows) return operand_error(c, 1, "i32[R, 8]");
  *out = qn_type_make(QN_DTYPE_I32, 1, logits->dims);
  return QN_OK;
}

// Places that a top_k finds among `width` values; 0 = of any width.
static bool is_places(const shape_context *c, int i, int64_t width) {
  const qn_node *node = qn_graph_node(c->graph, c->spec->operands[i]);
  if (node->op != QN_OP_TOP_K) return false;
  return width == 0 || qn_graph_node(c->graph, node->operands[0])->type.dims[1].value == width;
}

// A row for each element of a value [T, k], which can be counted.
static qn_dim rows_of_elements(const qn_type *type) {
  return (qn_dim){type->dims[0].symbol, type->dims[0].value * type->dims[1].value};
}

static bool is_rows_of_f32(const qn_type *x) { return is_f32(x) && x->rank == 2 && is_const_from(x, 1); }

static qn_status shape_top_k(const shape_context *c, qn_type *out) {
  const qn_type *x = c->operands[0];
  int64_t count = spec_int(c, QN_ATTR_K);
  if (!is_rows_of_f32(x)) return operand_error(c, 0, "f32[T, width]");
  if (count < 1 || count > x->dims[1].value) return attr_error(c, QN_ATTR_K, "1 to the width");
  qn_dim dims[] = {x->dims[0], qn_dim_const(count)};
  *out = qn_type_make(QN_DTYPE_I32, 2, dims);
  return QN_OK;
}

static qn_status shape_pick(const shape_context *c, qn_type *out) {
  const qn_type *x = c->operands[0], *places = c->operands[1];
  if (!is_rows_of_f32(x)) return operand_error(c, 0, "f32[T, width]");
  if (!is_places(c, 1, x->dims[1].value) || !qn_dim_equal(places->dims[0], x->dims[0])) {
    return operand_error(c, 1, "a top_k of operand 0's rows and width");
  }
  *out = *places;
  out->dtype = QN_DTYPE_F32;
  return QN_OK;
}

static qn_status shape_expert_order(const shape_context *c, qn_type *out) {
  if (!is_places(c, 0, 0)) return operand_error(c, 0, "a top_k");
  const qn_node *top = qn_graph_node(c->graph, c->spec->operands[0]);
  if (qn_graph_node(c->graph, top->operands[0])->type.dims[1].value > QN_EXPERTS_MAX) {
    return operand_error(c, 0, "a top_k among at most 4096 values");
  }
  qn_dim numbers = rows_of_elements(c->operands[0]);
  if (__builtin_mul_overflow(numbers.value, 2, &numbers.value)) return operand_error(c, 0, "fewer rows");
  *out = qn_type_make(QN_DTYPE_I32, 1, &numbers);
  return QN_OK;
}

static qn_status shape_expert_matmul(const shape_context *c, qn_type *out) {
  const qn_type *x = c->operands[0], *w = c->operands[1], *ids = c->operands[2];
  bool rows_of_x = x->rank == 2 && (is_f32(x) || x->dtype == QN_DTYPE_A8);
  if (!rows_of_x) return operand_error(c, 0, "f32 or a8 [T, K] or [kT, K]");
  bool param = qn_graph_node(c->graph, c->spec->operands[1])->op == QN_OP_PARAM;
  if (!param || w->rank != 3 || !qn_dim_equal(w->dims[2], x->dims[1])) {
    return operand_error(c, 1, "a parameter [E, N, K] with operand 0's K");
  }
  if (w->dims[0].value > QN_EXPERTS_MAX) return operand_error(c, 1, "at most 4096 experts");
  if (x->dtype == QN_DTYPE_A8 && qn_format_of(w->dtype)->block_values == 1) {
    return operand_error(c, 1, "a format with blocks");
  }
  bool chosen = is_places(c, 2, w->dims[0].value);
  if (!chosen) return operand_error(c, 2, "a top_k among as many values as there are experts");
  qn_dim rows = rows_of_elements(ids);
  if (!qn_dim_equal(x->dims[0], ids->dims[0]) && !qn_dim_equal(x->dims[0], rows)) {
    return operand_error(c, 0, "a row for each token, or for each expert of a token");
  }
  if (c->spec->operand_count == 4) {
    const qn_node *order = qn_graph_node(c->graph, c->spec->operands[3]);
    bool fits = order->op == QN_OP_EXPERT_ORDER && order->operands[0] == c->spec->operands[2];
    if (!fits) return operand_error(c, 3, "the expert_order of operand 2");
  }
  qn_dim dims[] = {rows, w->dims[1]};
  *out = qn_type_make(QN_DTYPE_F32, 2, dims);
  return QN_OK;
}

static qn_status shape_expert_mix(const shape_context *c, qn_type *out) {
  const qn_type *y = c->operands[0], *weights = c->operands[1];
  if (!is_rows_of_f32(y)) return operand_error(c, 0, "f32[kT, width]");
  bool fits = is_rows_of_f32(weights) && qn_dim_equal(rows_of_elements(weights), y->dims[0]);
  if (!fits) return operand_error(c, 1, "f32[T, k] where operand 0 has kT rows");
  qn_dim dims[] = {weights->dims[0], y->dims[1]};
  *out = qn_type_make(QN_DTYPE_F32, 2, dims);
  return QN_OK;
}

static const shape_fn shape_rules[QN_OP_COUNT] = {
#define QN_OP(name, text, min, max, attrs, flags, shape, flops, meaning) [QN_OP_##name] = shape_##shape,
#include "ir/ops.def"
#undef QN_OP
};

static qn_status check_attrs(const qn_node_spec *spec, const qn_op_info *info, const char *loc, qn_diag *diag) {
  uint32_t seen = 0;
  for (int i = 0; i < spec->attr_count; i++) {
    uint32_t bit = 1u << spec->attrs[i].id;
    const char *name = qn_attr_name(spec->attrs[i].id);
    if (!((info->required_attrs | info->optional_attrs) & bit)) {
      return qn_fail(diag, QN_ERR_FORMAT, loc, "%s: got attribute %s, which this op does not have", info->name, name);
    }
    if (seen & bit) return qn_fail(diag, QN_ERR_FORMAT, loc, "%s: attribute %s is there twice", info->name, name);
    seen |= bit;
  }
  for (int id = 0; id < QN_ATTR_COUNT; id++) {
    if ((info->required_attrs & (1u << id)) && !(seen & (1u << id))) {
      return qn_fail(diag, QN_ERR_FORMAT, loc, "%s: got no attribute %s, want one", info->name,
                     qn_attr_name((qn_attr_id)id));
    }
  }
  return QN_OK;
}

qn_status qn_infer_type(const qn_graph *graph, const qn_node_spec *spec, qn_type *out, qn_diag *diag) {
  const qn_op_info *info = qn_op_get_info(spec->op);
  const char *loc = spec->loc ? spec->loc : "?";
  if (spec->operand_count < info->min_operands || spec->operand_count > info->max_operands) {
    return qn_fail(diag, QN_ERR_FORMAT, loc, "%s: got %d operands, want %d to %d", info->name, spec->operand_count,
                   info->min_operands, info->max_operands);
  }
  shape_context c = {.graph = graph, .spec = spec, .op = info->name, .loc = loc, .diag = diag};
  for (int i = 0; i < spec->operand_count; i++) {
    if (spec->operands[i] == 0 || spec->operands[i] >= graph->nodes.count) {
      return qn_fail(diag, QN_ERR_FORMAT, loc, "%s: operand %d: got value %u, want one defined before it", info->name,
                     i, spec->operands[i]);
    }
    c.operands[i] = &qn_graph_node(graph, spec->operands[i])->type;
  }
  QN_TRY(check_attrs(spec, info, loc, diag));
  QN_TRY(shape_rules[spec->op](&c, out));
  int64_t ones[QN_SYM_COUNT] = {1, 1, 1, 1, 1, 1, 1}, elements = 0;
  if (!qn_type_elements(out, ones, &elements) || elements < 1) {
    return qn_fail(diag, QN_ERR_FORMAT, loc, "%s: got a result of no elements, or too many to count", info->name);
  }
  return QN_OK;
}

static void sort_attrs(qn_node *node) {
  for (int i = 1; i < node->attr_count; i++) {
    for (int j = i; j > 0 && node->attrs[j].id < node->attrs[j - 1].id; j--) {
      qn_attr swap = node->attrs[j];
      node->attrs[j] = node->attrs[j - 1];
      node->attrs[j - 1] = swap;
    }
  }
}

qn_status qn_graph_add(qn_graph *graph, const qn_node_spec *spec, qn_id *out, qn_diag *diag) {
  const char *loc = spec->loc ? spec->loc : "?";
  if (spec->attr_count > QN_MAX_ATTRS || spec->operand_count > QN_MAX_OPERANDS) {
    return qn_fail(diag, QN_ERR_FORMAT, loc, "%s: got %d operands and %d attributes, want at most %d and %d",
                   qn_op_get_info(spec->op)->name, spec->operand_count, spec->attr_count, QN_MAX_OPERANDS,
                   QN_MAX_ATTRS);
  }
  qn_node node = {
      .op = spec->op, .operand_count = spec->operand_count, .attr_count = spec->attr_count, .group = spec->group};
  QN_TRY(qn_infer_type(graph, spec, &node.type, diag));
  if (spec->type && !qn_type_equal(spec->type, &node.type)) {
    qn_buf got, want;
    qn_buf_init(&got, graph->arena->allocator);
    qn_buf_init(&want, graph->arena->allocator);
    qn_type_print(spec->type, &got);
    qn_type_print(&node.type, &want);
    qn_status status = qn_fail(diag, QN_ERR_FORMAT, loc, "%s: got type %s, want %s", qn_op_get_info(spec->op)->name,
                               qn_buf_text(&got), qn_buf_text(&want));
    qn_buf_deinit(&got);
    qn_buf_deinit(&want);
    return status;
  }
  memcpy(node.operands, spec->operands, sizeof node.operands);
  memcpy(node.attrs, spec->attrs, sizeof node.attrs);
  bool copied = (node.loc = qn_arena_strdup(graph->arena, loc)) != NULL;
  for (int i = 0; i < node.attr_count; i++) {
    if (qn_attr_get_kind(node.attrs[i].id) != QN_AK_TEXT) continue;
    node.attrs[i].value.text = qn_arena_strdup(graph->arena, node.attrs[i].value.text);
    copied = copied && node.attrs[i].value.text;
  }
  sort_attrs(&node);
  if (!copied || !qn_vec_push_arena(graph->arena, &graph->nodes, node)) {
    return qn_fail_nomem(diag, graph->name, "a graph node");
  }
  *out = (qn_id)(graph->nodes.count - 1);
  return QN_OK;
}
