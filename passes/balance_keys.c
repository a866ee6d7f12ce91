// balance_keys: keys that are kept as codes (kinds whose table says so, runtime/base/kv_page.def) share one scale a token
// and head, which the largest channels set: the others get few of its steps. Channels that are larger than their head's
// mean are divided by a factor before they are written, and queries are multiplied by it, so that scores stay what they
// are. Factors are powers of two: nothing else is rounded by them. They go by the root mean square that a channel has by
// the weights it is made with (rows of W_k, bias, norms), the same for both members of a pair that RoPE rotates, with which
// they then commute: they are applied before it, or behind it where queries are rotated otherwise than keys. What is written of a token is a function of the token, as before.
// Requires: a valid graph, and the model's weights; without weights nothing is done. Keeps: every value but for overflow.
// Adds to context->made the vectors `key_channels.N` and `query_channels.N`, [heads * head_dim], N counting them and
// what names the model has taken.
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "ir/format.h"
#include "passes/pass.h"

enum { MOST = 6 };  // factors are 1 to 2^MOST: a channel that is larger than its weights say would set the scale

// A vector of the new graph that an old node's operand is multiplied by.
typedef struct edit {
  const char *name;  // NULL = none
  int operand;
  int64_t heads, width;
} edit;

typedef struct balancing {
  qn_pass_context *pass;
  const qn_graph *graph;
  const uint32_t *uses;
  edit *edits;    // one an old node
  size_t number;  // of the next vector
} balancing;

// ---- how large channels are -------------------------------------------------------------------------------------

// Numbers of a row of the node's value: all dimensions but the first; of a rank-1 parameter all of it.
static int64_t row_width(const qn_node *node) {
  int64_t width = 1;
  for (int d = node->op == QN_OP_PARAM && node->type.rank == 1 ? 0 : 1; d < node->type.rank; d++)
    width *= node->type.dims[d].value;
  return width;
}

static double *new_row(balancing *b, const qn_node *node, double value) {
  int64_t width = row_width(node);
  double *row = QN_ARENA_ARRAY(b->pass->arena, (size_t)width, double);
  for (int64_t i = 0; row && i < width; i++) row[i] = value;
  return row;
}

static qn_status load(balancing *b, const qn_node *param, qn_tensor_data *out) {
  const qn_weight_source *source = b->pass->options->weights;
  return source->find(source->context, qn_node_text(param, QN_ATTR_NAME, ""), out, b->pass->diag);
}

// The values of a vector that weights alone make; *out NULL where it is none, or broadcast from fewer.
static qn_status known_values(balancing *b, qn_id id, int64_t width, double **out) {
  const qn_node *node = qn_graph_node(b->graph, qn_graph_base(b->graph, id));
  *out = NULL;
  if (node->op == QN_OP_CONST) {
    *out = QN_ARENA_ARRAY(b->pass->arena, (size_t)width, double);
    for (int64_t i = 0; *out && i < width; i++) (*out)[i] = qn_node_float(node, QN_ATTR_VALUE, 0);
    return *out ? QN_OK : qn_fail_nomem(b->pass->diag, node->loc, "values");
  }
  if (node->op != QN_OP_PARAM || node->type.rank != 1) return QN_OK;
  int64_t own = node->type.dims[0].value;
  qn_tensor_data data;
  double *values = QN_ARENA_ARRAY(b->pass->arena, (size_t)(own > width ? own : width), double);
  if (!values) return qn_fail_nomem(b->pass->diag, node->loc, "values");
  if (own > width || width % own != 0) return QN_OK;
  QN_TRY(load(b, node, &data));
  qn_format_row_to_f64(data.format, own, data.data, values);
  for (int64_t i = own; i < width; i++) values[i] = values[i - own];
  *out = values;
  return QN_OK;
}

// What each number of a row is squared, by the weights that it is made with; *out NULL = nothing is known. `inner`: of
// what a product takes, where nothing but a norm's weights is asked for.
static qn_status squares_of(balancing *b, qn_id id, bool inner, double **out);

static qn_status squares_of_product(balancing *b, const qn_node *node, double **out) {
  const qn_node *weight = qn_graph_node(b->graph, node->operands[1]);
  double *inputs = NULL;
  qn_tensor_data data;
  size_t row_bytes = 0;
  if (weight->op != QN_OP_PARAM || weight->type.rank != 2) return QN_OK;
  int64_t n = weight->type.dims[0].value, k = weight->type.dims[1].value;
  QN_TRY(squares_of(b, node->operands[0], true, &inputs));
  double *row = QN_ARENA_ARRAY(b->pass->arena, (size_t)k, double), *result = new_row(b, node, 0);
  if (!row || !result) return qn_fail_nomem(b->pass->diag, node->loc, "a row of weights");
  QN_TRY(load(b, weight, &data));
  if (!qn_format_file_bytes(data.format, 1, k, &row_bytes)) return qn_fail_nomem(b->pass->diag, node->loc, "a row");
  for (int64_t i = 0; i < n; i++) {
    qn_format_row_to_f64(data.format, k, (const uint8_t *)data.data + (size_t)i * row_bytes, row);
    for (int64_t j = 0; j < k; j++) result[i] += row[j] * row[j] * (inputs ? inputs[j] : 1);
  }
  *out = result;
  return QN_OK;
}

// A norm makes the mean of what it takes 1.
static qn_status squares_of_norm(balancing *b, const qn_node *node, bool inner, double **out) {
  int64_t all = row_width(node), width = node->type.dims[node->type.rank - 1].value;
  double *weights = NULL, *bias = NULL, *x = NULL;
  QN_TRY(known_values(b, node->operands[1], all, &weights));
  if (node->op == QN_OP_LAYERNORM) QN_TRY(known_values(b, node->operands[2], all, &bias));
  if (!inner) QN_TRY(squares_of(b, node->operands[0], false, &x));
  double *result = new_row(b, node, 1);
  if (!result) return qn_fail_nomem(b->pass->diag, node->loc, "a row");
  for (int64_t first = 0; x && first < all; first += width) {
    double mean = 0;
    for (int64_t i = 0; i < width; i++) mean += x[first + i] / (double)width;
    for (int64_t i = 0; i < width; i++) result[first + i] = mean > 0 ? x[first + i] / mean : 1;
  }
  for (int64_t i = 0; i < all; i++)
    result[i] = result[i] * (weights ? weights[i] * weights[i] : 1) + (bias ? bias[i] * bias[i] : 0);
  *out = result;
  return QN_OK;
}

// x and a vector, whichever comes first.
static qn_status squares_of_pair(balancing *b, const qn_node *node, bool inner, double **out) {
  int64_t width = row_width(node);
  for (int side = 0; side < 2 && !*out; side++) {
    double *vector = NULL, *x = NULL;
    const qn_node *other = qn_graph_node(b->graph, node->operands[side]);
    QN_TRY(known_values(b, node->operands[1 - side], width, &vector));
    if (!vector || other->type.rank != node->type.rank) continue;
    QN_TRY(squares_of(b, node->operands[side], inner, &x));
    if (!x) return QN_OK;
    for (int64_t i = 0; i < width; i++)
      x[i] = node->op == QN_OP_MUL ? x[i] * vector[i] * vector[i] : x[i] + vector[i] * vector[i];
    *out = x;
  }
  return QN_OK;
}

static void take_slice(const qn_node *node, const qn_type *from, const double *x, double *out) {
  int64_t axis = qn_node_int(node, QN_ATTR_AXIS, 0), begin = qn_node_int(node, QN_ATTR_BEGIN, 0), inner = 1;
  for (int d = (int)axis + 1; d < from->rank; d++) inner *= from->dims[d].value;
  int64_t run = node->type.dims[axis].value * inner, pitch = from->dims[axis].value * inner, width = row_width(node);
  for (int64_t i = 0; i < width; i++) out[i] = x[i / run * pitch + begin * inner + i % run];
}

// The places in a head of the two values that a rotation mixes as its pair i.
static void find_pair(const qn_graph *graph, const qn_node *rope, int64_t i, int64_t *one, int64_t *two) {
  bool neighbours = strcmp(qn_node_text(rope, QN_ATTR_KIND, "pairs"), "pairs") == 0;
  *one = neighbours ? 2 * i : i;
  *two = neighbours ? *one + 1 : *one + qn_graph_node(graph, rope->operands[1])->type.dims[1].value / 2;
}

static int64_t pair_count(const qn_graph *graph, const qn_node *rope) {
  return qn_graph_node(graph, rope->operands[1])->type.dims[1].value / 2;
}

// Values that a rotation mixes: their mean.
static void mix_pairs(const qn_graph *graph, const qn_node *rope, double *x) {
  int64_t width = rope->type.dims[rope->type.rank - 1].value, all = row_width(rope), one, two;
  for (int64_t head = 0; head < all; head += width) {
    for (int64_t i = 0; i < pair_count(graph, rope); i++) {
      find_pair(graph, rope, i, &one, &two);
      x[head + one] = x[head + two] = (x[head + one] + x[head + two]) / 2;
    }
  }
}

static qn_status squares_of(balancing *b, qn_id id, bool inner, double **out) {
  const qn_node *node = qn_graph_node(b->graph, id);
  const qn_node *first = node->operand_count > 0 ? qn_graph_node(b->graph, node->operands[0]) : NULL;
  *out = NULL;
  switch (node->op) {
    case QN_OP_MATMUL: return inner ? QN_OK : squares_of_product(b, node, out);
    case QN_OP_RMSNORM:
    case QN_OP_LAYERNORM: return squares_of_norm(b, node, inner, out);
    case QN_OP_ADD:
    case QN_OP_MUL: return squares_of_pair(b, node, inner, out);
    case QN_OP_RESHAPE:
    case QN_OP_SPLIT_HEADS:
    case QN_OP_MERGE_HEADS:
      if (!qn_dim_equal(first->type.dims[0], node->type.dims[0])) return QN_OK;  // of other rows
      return squares_of(b, node->operands[0], inner, out);
    case QN_OP_ROPE:
      QN_TRY(squares_of(b, node->operands[0], inner, out));
      if (*out) mix_pairs(b->graph, node, *out);
      return QN_OK;
    case QN_OP_SLICE: break;
    default: return QN_OK;
  }
  double *x = NULL;
  if (qn_node_int(node, QN_ATTR_AXIS, 0) == 0) return QN_OK;
  QN_TRY(squares_of(b, node->operands[0], inner, &x));
  if (!x) return QN_OK;
  if (!(*out = new_row(b, node, 0))) return qn_fail_nomem(b->pass->diag, node->loc, "a row");
  take_slice(node, &first->type, x, *out);
  return QN_OK;
}

// ---- factors ----------------------------------------------------------------------------------------------------

// Powers of two near to the roots of the squares over their mean in the head, where those are larger.
static void make_factors(const double *squares, int64_t heads, int64_t width, float *out) {
  for (int64_t head = 0; head < heads; head++) {
    double mean = 0;
    for (int64_t c = 0; c < width; c++) mean += squares[head * width + c] / (double)width;
    for (int64_t c = 0; c < width; c++) {
      double share = squares[head * width + c] / mean, power = share > 0 ? rint(0.5 * log2(share)) : 0;
      if (!(mean > 0) || !isfinite(share)) power = 0;
      out[head * width + c] = (float)ldexp(1, (int)fmin(fmax(power, 0), MOST));
    }
  }
}

// Has the model a weight of that name?
static bool is_taken(const qn_graph *graph, const char *name) {
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->op == QN_OP_PARAM && strcmp(qn_node_text(node, QN_ATTR_NAME, ""), name) == 0) return true;
  }
  return false;
}

static qn_status add_made(balancing *b, const char *kind, const float *values, int64_t count, const char **out_name) {
  qn_arena *arena = b->pass->arena;
  do {
    *out_name = qn_arena_printf(arena, "%s.%zu", kind, b->number++);
  } while (*out_name && is_taken(b->graph, *out_name));
  qn_made_weight made = {*out_name, count, values};
  return *out_name && qn_vec_push_arena(arena, &b->pass->made, made) ? QN_OK
                                                                     : qn_fail_nomem(b->pass->diag, kind, "a vector");
}

// Does it come to the same whether values are multiplied by factors before a rotation or behind it?
static bool commutes(const qn_graph *graph, const qn_node *rope, const float *factors) {
  int64_t width = rope->type.dims[rope->type.rank - 1].value, all = row_width(rope), one, two;
  for (int64_t head = 0; head < all; head += width) {
    for (int64_t i = 0; i < pair_count(graph, rope); i++) {
      find_pair(graph, rope, i, &one, &two);
      if (factors[head + one] != factors[head + two]) return false;
    }
  }
  return true;
}

// The operand that is multiplied: what RoPE takes, where that is the same and nobody else wants what it makes; else what
// `user` takes.
static void place_edit(balancing *b, qn_id user, int operand, const char *name, const float *factors) {
  qn_id at = qn_graph_node(b->graph, user)->operands[operand];
  const qn_type *type = &qn_graph_node(b->graph, at)->type;
  edit e = {name, operand, type->dims[1].value, type->dims[2].value};
  const qn_node *made = qn_graph_node(b->graph, at);
  if (made->op == QN_OP_ROPE && b->uses[at] == 1 && commutes(b->graph, made, factors)) {
    user = at;
    e.operand = 0;
  }
  b->edits[user] = e;
}

static bool is_read_of(const qn_node *node, qn_id write) {
  return (node->op == QN_OP_ATTN_SCORES || node->op == QN_OP_ATTENTION) && node->operands[1] == write;
}

// Is the cache after this write, of which the step writes nothing else, all that anybody reads of it, as keys?
static bool is_only_view(const balancing *b, qn_id write) {
  qn_id cache = qn_graph_node(b->graph, write)->operands[0];
  bool read = false;
  if (qn_graph_node(b->graph, cache)->op != QN_OP_CACHE) return false;
  for (qn_id id = 1; id < b->graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(b->graph, id);
    read = read || is_read_of(node, write);
    if (is_read_of(node, cache) || (node->op == QN_OP_KV_WRITE && node->operands[0] == write)) return false;
  }
  return read;
}

// Keys [T, J, C] that `write` keeps and queries [T, H, C] of those who read them.
static qn_status balance(balancing *b, qn_id write) {
  const qn_node *node = qn_graph_node(b->graph, write);
  const qn_type *type = &qn_graph_node(b->graph, node->operands[1])->type;
  int64_t heads = type->dims[1].value, width = type->dims[2].value, count = heads * width;
  double *squares = NULL;
  const char *name = NULL;
  if (!is_only_view(b, write)) return QN_OK;
  QN_TRY(squares_of(b, node->operands[1], false, &squares));
  if (!squares) return QN_OK;
  float *factors = QN_ARENA_ARRAY(b->pass->arena, (size_t)count, float);
  float *inverse = QN_ARENA_ARRAY(b->pass->arena, (size_t)count, float);
  if (!factors || !inverse) return qn_fail_nomem(b->pass->diag, node->loc, "factors");
  make_factors(squares, heads, width, factors);
  for (int64_t i = 0; i < count; i++) inverse[i] = 1 / factors[i];
  QN_TRY(add_made(b, "key_channels", inverse, count, &name));
  place_edit(b, write, 1, name, inverse);
  for (qn_id id = write + 1; id < b->graph->nodes.count; id++) {
    if (!is_read_of(qn_graph_node(b->graph, id), write)) continue;
    const qn_type *q = &qn_graph_node(b->graph, qn_graph_node(b->graph, id)->operands[0])->type;
    int64_t all = q->dims[1].value, group = all / heads;
    float *values = QN_ARENA_ARRAY(b->pass->arena, (size_t)(all * width), float);
    if (!values) return qn_fail_nomem(b->pass->diag, node->loc, "factors");
    for (int64_t i = 0; i < all * width; i++) values[i] = factors[i / width / group * width + i % width];
    QN_TRY(add_made(b, "query_channels", values, all * width, &name));
    place_edit(b, id, 0, name, values);
  }
  return QN_OK;
}

// ---- the new graph ----------------------------------------------------------------------------------------------

static qn_status scale_operand(qn_rewriter *r, const edit *e, const char *loc, qn_id *operand) {
  qn_dim count = qn_dim_const(e->heads * e->width);
  qn_type vector = qn_type_make(QN_DTYPE_F32, 1, &count);
  qn_id values = 0, x = 0;
  qn_node_spec param = {.op = QN_OP_PARAM,
                        .attr_count = 1,
                        .attrs = {{.id = QN_ATTR_NAME, .value.text = e->name}},
                        .type = &vector,
                        .loc = e->name};
  qn_node_spec flat = {.op = QN_OP_MERGE_HEADS, .operand_count = 1, .operands = {*operand}, .loc = loc};
  QN_TRY(qn_graph_add(r->to, &param, &values, r->diag));
  QN_TRY(qn_graph_add(r->to, &flat, &x, r->diag));
  qn_node_spec mul = {.op = QN_OP_MUL, .operand_count = 2, .operands = {x, values}, .loc = e->name};
  QN_TRY(qn_graph_add(r->to, &mul, &x, r->diag));
  qn_node_spec split = {.op = QN_OP_SPLIT_HEADS,
                        .operand_count = 1,
                        .operands = {x},
                        .attr_count = 1,
                        .attrs = {{.id = QN_ATTR_HEADS, .value.i = e->heads}},
                        .loc = loc};
  return qn_graph_add(r->to, &split, operand, r->diag);
}

static qn_status balance_node(qn_rewriter *r, qn_id id, qn_id *out) {
  const balancing *b = r->context;
  const edit *e = &b->edits[id];
  qn_node_spec spec;
  QN_TRY(qn_rewrite_spec(r, id, &spec));
  if (e->name) QN_TRY(scale_operand(r, e, spec.loc, &spec.operands[e->operand]));
  return qn_graph_add(r->to, &spec, out, r->diag);
}

qn_status qn_pass_balance_keys(qn_pass_context *context) {
  balancing b = {.pass = context, .graph = context->graph};
  size_t made = context->made.count;
  if (!context->options->weights) return QN_OK;
  b.uses = qn_graph_count_uses(b.graph, context->arena);
  b.edits = QN_ARENA_ARRAY(context->arena, b.graph->nodes.count, edit);
  if (!b.uses || !b.edits) return qn_fail_nomem(context->diag, b.graph->name, "factors of keys");
  for (qn_id id = 1; id < b.graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(b.graph, id);
    bool keys = node->op == QN_OP_KV_WRITE && strcmp(qn_node_text(node, QN_ATTR_KIND, ""), "k") == 0;
    qn_kv_page page;
    if (!keys || !qn_type_kv_page(&node->type, true, &page) || !page.balanced) continue;
    QN_TRY(balance(&b, id));
  }
  if (context->made.count == made) return QN_OK;
  return qn_graph_rewrite(b.graph, context->arena, balance_node, &b, &context->graph, context->diag);
}
