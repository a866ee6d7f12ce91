// Lowering of groups of row ops, elementwise ops, lookups, RoPE and cache writes: one loop over rows, in it one nest
// for the numbers of each row op and one for each value that somebody needs in memory.
#include <math.h>
#include <string.h>

#include "passes/lower.h"

// --- loops that many kernels use

qn_lblock *qn_lower_loop(qn_lower *lower, qn_lblock *block, const char *name, const qn_lexpr *lo, const qn_lexpr *hi,
                         qn_lorder order, const qn_lexpr **out_var) {
  qn_lbuild *b = &lower->build;
  qn_lvar *var = qn_lvar_new(b, name);
  qn_lstmt *stmt = qn_lfor(b, block, var, lo, hi, order);
  *out_var = qn_lref(b, var);
  return &stmt->u.loop.body;
}

qn_lblock *qn_lower_when(qn_lower *lower, qn_lblock *block, const qn_lexpr *predicate) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *unused = NULL;
  const qn_lexpr *times = qn_lop3(b, QN_LX_SELECT, predicate, LX_INT(1), LX_INT(0));
  return qn_lower_loop(lower, block, "once", LX_INT(0), times, QN_LO_DATA, &unused);
}

void qn_lower_each(qn_lower *lower, qn_lblock *block, const char *name, int64_t extent, qn_lower_body body,
                   void *context) {
  qn_lbuild *b = &lower->build;
  qn_lvar *i = qn_lvar_new(b, name);
  qn_lstmt *loop = qn_lfor(b, block, i, LX_INT(0), LX_INT(extent), QN_LO_DATA);
  if (loop) body(lower, &loop->u.loop.body, qn_lref(b, i), context);
}

void qn_lower_lanes(qn_lower *lower, qn_lblock *block, int64_t extent, bool unroll, qn_lower_body body, void *context) {
  qn_lbuild *b = &lower->build;
  int64_t whole = extent / QN_TILE_ROWS, rest = extent % QN_TILE_ROWS;
  if (whole > 0) {
    qn_lvar *k = qn_lvar_new(b, unroll ? "g" : "k");
    qn_lstmt *outer = qn_lfor(b, block, k, LX_INT(0), LX_INT(whole), QN_LO_REDUCE);
    if (!outer) return;
    qn_lvar *l = qn_lvar_new(b, "l");
    qn_lstmt *inner = qn_lfor(b, &outer->u.loop.body, l, LX_INT(0), LX_INT(QN_TILE_ROWS), QN_LO_DATA);
    if (inner) {
      body(lower, &inner->u.loop.body, LX_ADD(LX_MUL(qn_lref(b, k), LX_INT(QN_TILE_ROWS)), qn_lref(b, l)), context);
    }
  }
  if (rest > 0) {
    qn_lvar *l = qn_lvar_new(b, "l");
    qn_lstmt *tail = qn_lfor(b, block, l, LX_INT(0), LX_INT(rest), QN_LO_DATA);
    if (tail) body(lower, &tail->u.loop.body, LX_ADD(LX_INT(whole * QN_TILE_ROWS), qn_lref(b, l)), context);
  }
}

qn_lblock *qn_lower_each_head(qn_lower *lower, qn_lblock *block, int64_t heads, const qn_lexpr **out_head) {
  qn_lbuild *b = &lower->build;
  qn_lvar *h = qn_lvar_new(b, "h");
  qn_lstmt *loop = qn_lfor(b, block, h, LX_INT(0), LX_INT(heads / lower->parts), QN_LO_DATA);
  *out_head = qn_lref(b, h);
  if (lower->part) *out_head = LX_ADD(LX_MUL(lower->part, LX_INT(heads / lower->parts)), *out_head);
  return &loop->u.loop.body;
}

void qn_lower_tree(qn_lower *lower, qn_lblock *block, const qn_lbuf *local, qn_lop op) {
  qn_lbuild *b = &lower->build;
  for (int64_t half = QN_TILE_ROWS / 2; half >= 1; half /= 2) {
    qn_lvar *l = qn_lvar_new(b, "l");
    qn_lstmt *loop = qn_lfor(b, block, l, LX_INT(0), LX_INT(half), QN_LO_DATA);
    if (b->failed) return;  // there may be no local
    const qn_lexpr *x = LX_LOAD(local, local->mem, qn_lref(b, l));
    const qn_lexpr *y = LX_LOAD(local, local->mem, LX_ADD(qn_lref(b, l), LX_INT(half)));
    qn_lstore(b, &loop->u.loop.body, local, local->mem, qn_lref(b, l), qn_lop2(b, op, x, y));
  }
}

typedef struct reduce_context {
  const qn_lbuf *part;
  qn_lop op;
  float start;
  qn_lower_element element;
  void *context;
} reduce_context;

static void reduce_start(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  const reduce_context *c = context;
  qn_lstore(&lower->build, block, c->part, QN_LM_F32, index, qn_lf32(&lower->build, c->start));
}

static void reduce_step(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const reduce_context *c = context;
  const qn_lexpr *lane = LX_MOD(index, LX_INT(QN_TILE_ROWS));
  const qn_lexpr *old = LX_LOAD(c->part, QN_LM_F32, lane);
  qn_lstore(b, block, c->part, QN_LM_F32, lane, qn_lop2(b, c->op, old, c->element(lower, index, c->context)));
}

// acc = op(acc, element), for `count` elements 16 apart from `first` on, `links` at a time unrolled.
static void fold_strided(qn_lower *lower, qn_lblock *block, const reduce_context *c, const qn_lbuf *acc,
                         const qn_lexpr *first, int64_t count, int64_t links) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *k = NULL, *g = NULL;
  if (count == 0) return;
  if (count < links) links = count;
  qn_lblock *lines = qn_lower_loop(lower, block, "k", zero, LX_INT(count / links), QN_LO_REDUCE, &k);
  qn_lblock *body = qn_lower_loop(lower, lines, "g", zero, LX_INT(links), QN_LO_REDUCE, &g);
  const qn_lexpr *link = LX_ADD(LX_MUL(k, LX_INT(links)), g);
  const qn_lexpr *index = LX_ADD(first, LX_MUL(link, LX_INT(QN_TILE_ROWS)));
  const qn_lexpr *value = c->element(lower, index, c->context);
  qn_lstore(b, body, acc, QN_LM_F32, zero, qn_lop2(b, c->op, LX_LOAD(acc, QN_LM_F32, zero), value));
  int64_t done = count / links * links;
  fold_strided(lower, block, c, acc, LX_ADD(first, LX_INT(done * QN_TILE_ROWS)), count - done, links);
}

// The partial values as GPUs have them: a lane keeps its own in a register, and asks for many elements at a time, since
// nothing else hides how far away they are.
static void reduce_by_lanes(qn_lower *lower, qn_lblock *block, const reduce_context *c, int64_t extent) {
  enum { LINKS = 32 };
  qn_lbuild *b = &lower->build;
  const qn_lexpr *l = NULL, *unused = NULL, *zero = LX_INT(0);
  int64_t whole = extent / QN_TILE_ROWS, rest = extent % QN_TILE_ROWS;
  qn_lblock *lane = qn_lower_loop(lower, block, "l", zero, LX_INT(QN_TILE_ROWS), QN_LO_DATA, &l);
  const qn_lbuf *acc = qn_llocal(b, lane, "acc", QN_LM_F32, 1);
  if (b->failed) return;
  qn_lstore(b, lane, acc, QN_LM_F32, zero, LX_F32(c->start));
  fold_strided(lower, lane, c, acc, l, whole, LINKS);
  if (rest > 0) {
    const qn_lexpr *some = qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_LT, l, LX_INT(rest)), LX_INT(1), zero);
    qn_lblock *tail = qn_lower_loop(lower, lane, "once", zero, some, QN_LO_DATA, &unused);
    fold_strided(lower, tail, c, acc, LX_ADD(LX_INT(whole * QN_TILE_ROWS), l), 1, 1);
  }
  qn_lstore(b, lane, c->part, QN_LM_F32, l, LX_LOAD(acc, QN_LM_F32, zero));
}

const qn_lbuf *qn_lower_reduce(qn_lower *lower, qn_lblock *block, int64_t extent, qn_lop op, float start,
                               qn_lower_element element, void *context) {
  reduce_context c = {qn_llocal(&lower->build, block, "part", QN_LM_F32, QN_TILE_ROWS), op, start, element, context};
  if (lower->pass->options->gpu) {
    reduce_by_lanes(lower, block, &c, extent);
  } else {
    qn_lower_lanes(lower, block, QN_TILE_ROWS, true, reduce_start, &c);
    qn_lower_lanes(lower, block, extent, extent <= 8 * QN_TILE_ROWS, reduce_step, &c);
  }
  qn_lower_tree(lower, block, c.part, op);
  return c.part;
}

// --- row ops

// A row of the last dimension of a row op's operand.
typedef struct row_context {
  qn_id x;
  const qn_lexpr *row;   // of the leading dimension; NULL for a lone vector
  const qn_lexpr *base;  // flat index of the row's first element
  const qn_lexpr *mean, *max;
} row_context;

static const qn_lexpr *element_of(qn_lower *lower, const row_context *c, const qn_lexpr *index) {
  qn_lbuild *b = &lower->build;
  return qn_lower_value(lower, c->x, (qn_lplace){c->row, LX_ADD(c->base, index)});
}

static const qn_lexpr *plain_element(qn_lower *lower, const qn_lexpr *index, void *context) {
  return element_of(lower, context, index);
}

static const qn_lexpr *square_element(qn_lower *lower, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const row_context *c = context;
  const qn_lexpr *x = element_of(lower, c, index);
  if (c->mean) x = LX_SUB(x, c->mean);
  return LX_MUL(x, x);
}

static const qn_lexpr *exp_element(qn_lower *lower, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const row_context *c = context;
  return qn_lop1(b, QN_LX_EXP, LX_SUB(element_of(lower, c, index), c->max));
}

static const qn_lexpr *first_of(qn_lbuild *b, const qn_lbuf *local) { return LX_LOAD(local, QN_LM_F32, LX_INT(0)); }

// 1 / sqrt(sum / width + eps)
static const qn_lexpr *inverse_root(qn_lbuild *b, const qn_lexpr *sum, int64_t width, double eps) {
  const qn_lexpr *mean = LX_DIV(sum, LX_F32((float)width));
  return LX_DIV(LX_F32(1), qn_lop1(b, QN_LX_SQRT, LX_ADD(mean, LX_F32((float)eps))));
}

// Fills stats[at ...] for one row.
static void row_numbers(qn_lower *lower, qn_lblock *block, const qn_node *node, row_context *c, const qn_lbuf *stats,
                        const qn_lexpr *at) {
  qn_lbuild *b = &lower->build;
  int64_t width = node->type.dims[node->type.rank - 1].value;
  double eps = qn_node_float(node, QN_ATTR_EPS, 0);
  if (node->op == QN_OP_RMSNORM) {
    const qn_lbuf *sum = qn_lower_reduce(lower, block, width, QN_LX_ADD, 0, square_element, c);
    qn_lstore(b, block, stats, QN_LM_F32, at, inverse_root(b, first_of(b, sum), width, eps));
  } else if (node->op == QN_OP_LAYERNORM) {
    const qn_lbuf *sum = qn_lower_reduce(lower, block, width, QN_LX_ADD, 0, plain_element, c);
    qn_lstore(b, block, stats, QN_LM_F32, at, LX_DIV(first_of(b, sum), LX_F32((float)width)));
    c->mean = LX_LOAD(stats, QN_LM_F32, at);
    const qn_lbuf *squares = qn_lower_reduce(lower, block, width, QN_LX_ADD, 0, square_element, c);
    qn_lstore(b, block, stats, QN_LM_F32, LX_ADD(at, LX_INT(1)), inverse_root(b, first_of(b, squares), width, eps));
  } else {  // softmax
    const qn_lbuf *max = qn_lower_reduce(lower, block, width, QN_LX_MAX, -INFINITY, plain_element, c);
    qn_lstore(b, block, stats, QN_LM_F32, at, first_of(b, max));
    c->max = LX_LOAD(stats, QN_LM_F32, at);
    const qn_lbuf *sum = qn_lower_reduce(lower, block, width, QN_LX_ADD, 0, exp_element, c);
    qn_lstore(b, block, stats, QN_LM_F32, LX_ADD(at, LX_INT(1)), LX_DIV(LX_F32(1), first_of(b, sum)));
  }
}

static void row_op(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  qn_lvalue *value = &lower->values[id];
  int64_t width = node->type.dims[node->type.rank - 1].value;
  int64_t inner = node->type.rank > 1 ? qn_lower_row_width(&node->type) / width : 1;
  value->stat_count = node->op == QN_OP_RMSNORM ? 1 : 2;
  value->stats = qn_llocal(b, block, "stat", QN_LM_F32, inner * value->stat_count);
  const qn_lexpr *head = NULL;
  block = qn_lower_each_head(lower, block, inner, &head);
  row_context c = {.x = node->operands[0], .row = row, .base = LX_MUL(head, LX_INT(width))};
  row_numbers(lower, block, node, &c, value->stats, LX_MUL(head, LX_INT(value->stat_count)));
}

// Softmax over a width that holds a symbol (scores over 64P keys): the loops have symbolic bounds. The 16 partial
// values are the same as in row_op: element k belongs to partial k mod 16.
static void symbolic_softmax(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  qn_lvalue *value = &lower->values[id];
  const qn_lexpr *width = qn_ldim(b, node->type.dims[2]);
  qn_lbuf *out = qn_lower_param(lower, id);
  if (!out) return;
  out->writable = true;
  qn_lvar *h = qn_lvar_new(b, "h");
  qn_lstmt *heads = qn_lfor(b, block, h, LX_INT(0), qn_ldim(b, node->type.dims[1]), QN_LO_DATA);
  if (!heads) return;
  qn_lblock *body = &heads->u.loop.body;
  const qn_lexpr *base = LX_MUL(qn_lref(b, h), width), *chunks = LX_DIV(width, LX_INT(QN_TILE_ROWS));
  qn_lbuf *part[2] = {qn_llocal(b, body, "part", QN_LM_F32, QN_TILE_ROWS),
                      qn_llocal(b, body, "part", QN_LM_F32, QN_TILE_ROWS)};
  for (int pass = 0; pass < 3; pass++) {  // the maximum, the sum, the result
    if (pass < 2) {
      reduce_context start = {.part = part[pass], .start = pass == 0 ? -INFINITY : 0};
      qn_lower_lanes(lower, body, QN_TILE_ROWS, true, reduce_start, &start);
    }
    qn_lvar *k = qn_lvar_new(b, "k"), *l = qn_lvar_new(b, "l");
    qn_lstmt *outer = qn_lfor(b, body, k, LX_INT(0), chunks, QN_LO_REDUCE);
    qn_lstmt *inner = outer ? qn_lfor(b, &outer->u.loop.body, l, LX_INT(0), LX_INT(QN_TILE_ROWS), QN_LO_DATA) : NULL;
    if (!inner) return;
    qn_lblock *lanes = &inner->u.loop.body;
    const qn_lexpr *flat = LX_ADD(base, LX_ADD(LX_MUL(qn_lref(b, k), LX_INT(QN_TILE_ROWS)), qn_lref(b, l)));
    const qn_lexpr *x = qn_lower_value(lower, node->operands[0], (qn_lplace){row, flat});
    const qn_lexpr *lane = qn_lref(b, l);
    if (pass == 0) {
      qn_lstore(b, lanes, part[0], QN_LM_F32, lane, qn_lop2(b, QN_LX_MAX, LX_LOAD(part[0], QN_LM_F32, lane), x));
      qn_lower_tree(lower, body, part[0], QN_LX_MAX);
      continue;
    }
    const qn_lexpr *e = qn_lop1(b, QN_LX_EXP, LX_SUB(x, first_of(b, part[0])));
    if (pass == 1) {
      qn_lstore(b, lanes, part[1], QN_LM_F32, lane, LX_ADD(LX_LOAD(part[1], QN_LM_F32, lane), e));
      qn_lower_tree(lower, body, part[1], QN_LX_ADD);
    } else {
      const qn_lexpr *index = LX_ADD(LX_MUL(row, LX_MUL(qn_ldim(b, node->type.dims[1]), width)), flat);
      qn_lstore(b, lanes, out, QN_LM_F32, index, LX_MUL(e, LX_DIV(LX_F32(1), first_of(b, part[1]))));
    }
  }
  value->stored = true;
}

// --- quantising a row

typedef struct quantize_context {
  qn_id x;
  const qn_lexpr *row, *block_start;  // flat index of the block's first value
  const qn_lbuf *codes, *sums[2];     // sums: of the two halves
  const qn_lbuf *out;
  const qn_lexpr *code_at;  // byte index of the block's first code
} quantize_context;

static const qn_lexpr *quantized_element(qn_lower *lower, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const quantize_context *c = context;
  return qn_lower_value(lower, c->x, (qn_lplace){c->row, LX_ADD(c->block_start, index)});
}

static void quantize_store(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const quantize_context *c = context;
  qn_lstore(b, block, c->out, QN_LM_I8, LX_ADD(c->code_at, index), LX_LOAD(c->codes, QN_LM_I32, index));
}

// The sums of the block's codes: of all of them behind the scales, of the halves behind those.
static void store_sums(qn_lower *lower, qn_lblock *block, const quantize_context *c, const qn_lexpr *sum_at,
                       const qn_lexpr *half_at) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *sums[2];
  for (int half = 0; half < 2; half++) {
    sums[half] = LX_LOAD(c->sums[half], QN_LM_I32, LX_INT(0));
    qn_lstore(b, block, c->out, QN_LM_I32, LX_ADD(half_at, LX_INT(half)), sums[half]);
  }
  qn_lstore(b, block, c->out, QN_LM_I32, sum_at, LX_ADD(sums[0], sums[1]));
}

// a8 rows (ir/dtype.def): D codes, then D/32 scales f32, then D/32 sums i32 of blocks and D/16 of half blocks.
static void quantize_row(qn_lower *lower, qn_lblock *rows, qn_id id, const qn_lexpr *row) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  int64_t width = qn_lower_row_width(&node->type), pitch = qn_lower_row_pitch(&node->type), blocks = width / 32;
  qn_lbuf *out = qn_lower_param(lower, id);
  if (!out) return;
  out->writable = true;
  qn_lvar *kb = qn_lvar_new(b, "kb");
  qn_lstmt *loop = qn_lfor(b, rows, kb, LX_INT(0), LX_INT(blocks), QN_LO_DATA);
  if (!loop) return;
  qn_lblock *block = &loop->u.loop.body;
  quantize_context c = {
      .x = node->operands[0], .row = row, .block_start = LX_MUL(qn_lref(b, kb), LX_INT(32)), .out = out};
  qn_lower_codes codes = qn_lower_quantize_block(lower, block, -QN_QUANTIZE_MOST, quantized_element, &c);
  c.codes = codes.codes;
  c.sums[0] = codes.sums[0];
  c.sums[1] = codes.sums[1];
  const qn_lexpr *words = LX_MUL(row, LX_INT(pitch / 4));
  c.code_at = LX_ADD(LX_MUL(row, LX_INT(pitch)), c.block_start);
  qn_lower_lanes(lower, block, 32, true, quantize_store, &c);
  qn_lower_sum_codes(lower, block, &codes);
  const qn_lexpr *scale_at = LX_ADD(words, LX_ADD(LX_INT(width / 4), qn_lref(b, kb)));
  qn_lstore(b, block, out, QN_LM_F32, scale_at, codes.scale);
  const qn_lexpr *halves = LX_ADD(words, LX_ADD(LX_INT(width / 4 + 2 * blocks), LX_MUL(qn_lref(b, kb), LX_INT(2))));
  store_sums(lower, block, &c, LX_ADD(scale_at, LX_INT(blocks)), halves);
  lower->values[id].stored = true;
}

// --- values that go to memory element by element

typedef struct store_context {
  qn_id id;  // whose places are written
  qn_id x;   // whose elements are read
  const qn_lexpr *row, *base;
} store_context;

static void store_element(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const store_context *c = context;
  qn_lplace place = {c->row, LX_ADD(c->base, index)};
  bool stored = lower->values[c->id].stored;
  lower->values[c->id].stored = false;  // compute it, do not load it
  const qn_lexpr *value = qn_lower_value(lower, c->x, place);
  lower->values[c->id].stored = stored;
  qn_lower_store(lower, block, c->id, place, value);
}

// Does the value's expression hold a lookup in a packed table, or places that are values?
static bool looks_up(const qn_lower *lower, qn_id id) {
  const qn_node *node = qn_graph_node(lower->graph, id);
  bool view = (qn_op_get_info(node->op)->flags & QN_OF_V) != 0;
  if ((node->group != lower->group && !view) || lower->values[id].stored) return false;
  if (node->op == QN_OP_EMBED || node->op == QN_OP_PICK) return true;
  for (int i = 0; i < node->operand_count; i++) {
    if (looks_up(lower, node->operands[i])) return true;
  }
  return false;
}

// Rows whose size holds a symbol ("64P"): in chunks of 16 elements.
static void store_symbolic_rows(qn_lower *lower, qn_lblock *block, const qn_type *type, store_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *chunks = LX_DIV(qn_lower_row_elements(lower, type), LX_INT(QN_TILE_ROWS));
  qn_lvar *h = qn_lvar_new(b, "h");
  qn_lstmt *loop = qn_lfor(b, block, h, LX_INT(0), chunks, QN_LO_DATA);
  if (!loop) return;
  c->base = LX_MUL(qn_lref(b, h), LX_INT(QN_TILE_ROWS));
  qn_lower_each(lower, &loop->u.loop.body, "i", QN_TILE_ROWS, store_element, c);
}

static void store_rows(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  const qn_type *type =
      node->op == QN_OP_KV_WRITE ? &qn_graph_node(lower->graph, node->operands[1])->type : &node->type;
  store_context c = {.id = id, .x = node->op == QN_OP_KV_WRITE ? node->operands[1] : id, .row = row, .base = LX_INT(0)};
  const char *name = looks_up(lower, id) ? "e" : "i";  // these do not vectorise
  if (type->rank > 1 && !qn_dim_is_const(type->dims[type->rank - 1])) {
    store_symbolic_rows(lower, block, type, &c);
    return;
  }
  int64_t inner =
      type->rank > 1 ? type->dims[type->rank - 1].value : (row || type->rank == 0 ? 1 : type->dims[0].value);
  int64_t outer = type->rank > 1 ? qn_lower_row_width(type) / inner : 1;
  if (outer > 1) {
    block = qn_lower_each_head(lower, block, outer, &c.base);
    c.base = LX_MUL(c.base, LX_INT(inner));
  }
  qn_lower_each(lower, block, name, inner, store_element, &c);
}

// --- RoPE

typedef struct rope_context {
  qn_id id;
  const qn_node *node;
  const qn_lexpr *row, *base;  // flat index of the head's first value
  int64_t half;
  bool pairs;
} rope_context;

static void rope_pair(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const rope_context *c = context;
  const qn_lexpr *first = LX_ADD(c->base, c->pairs ? LX_MUL(index, LX_INT(2)) : index);
  const qn_lexpr *second = LX_ADD(first, LX_INT(c->pairs ? 1 : c->half));
  qn_id x = c->node->operands[0], table = c->node->operands[1];
  const qn_lexpr *u = qn_lower_value(lower, x, (qn_lplace){c->row, first});
  const qn_lexpr *v = qn_lower_value(lower, x, (qn_lplace){c->row, second});
  const qn_lexpr *cosine = qn_lower_value(lower, table, (qn_lplace){c->row, index});
  const qn_lexpr *sine = qn_lower_value(lower, table, (qn_lplace){c->row, LX_ADD(index, LX_INT(c->half))});
  qn_lower_store(lower, block, c->id, (qn_lplace){c->row, first}, LX_SUB(LX_MUL(u, cosine), LX_MUL(v, sine)));
  qn_lower_store(lower, block, c->id, (qn_lplace){c->row, second}, LX_ADD(LX_MUL(u, sine), LX_MUL(v, cosine)));
}

static void rope_rest(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const rope_context *c = context;
  qn_lplace place = {c->row, LX_ADD(LX_ADD(c->base, LX_INT(2 * c->half)), index)};
  qn_lower_store(lower, block, c->id, place, qn_lower_value(lower, c->node->operands[0], place));
}

static void rope_row(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  int64_t head_dim = node->type.dims[2].value;
  int64_t dims = qn_graph_node(lower->graph, node->operands[1])->type.dims[1].value;
  const qn_lexpr *head = NULL;
  block = qn_lower_each_head(lower, block, node->type.dims[1].value, &head);
  rope_context c = {id,       node,
                    row,      LX_MUL(head, LX_INT(head_dim)),
                    dims / 2, strcmp(qn_node_text(node, QN_ATTR_KIND, ""), "pairs") == 0};
  qn_lower_each(lower, block, "i", dims / 2, rope_pair, &c);
  if (dims < head_dim) qn_lower_each(lower, block, "i", head_dim - dims, rope_rest, &c);
}

// The frequencies theta^(-2i/dims) as a buffer of the program, rounded once from double.
static qn_status rope_frequencies(qn_lower *lower, qn_id id) {
  const qn_node *node = qn_graph_node(lower->graph, id);
  qn_arena *arena = lower->program->arena;
  int64_t dims = qn_node_int(node, QN_ATTR_DIMS, 0);
  double theta = qn_node_float(node, QN_ATTR_THETA, 0);
  float *values = QN_ARENA_ARRAY(arena, (size_t)dims / 2, float);
  if (!values) return qn_fail_nomem(lower->pass->diag, node->loc, "RoPE frequencies");
  for (int64_t i = 0; i < dims / 2; i++) values[i] = (float)pow(theta, -2.0 * (double)i / (double)dims);
  qn_dim shape[] = {qn_dim_const(dims / 2)};
  qn_pbuf buffer = {.kind = QN_PB_WEIGHT,
                    .type = qn_type_make(QN_DTYPE_F32, 1, shape),
                    .name = "rope_frequencies",
                    .layout = QN_LAYOUT_PLAIN,
                    .literal = values,
                    .bytes = qn_align_up((size_t)dims / 2 * sizeof(float), QN_TILE_ROWS * sizeof(float))};
  uint32_t index = 0;
  if (!qn_lower_add_buffer(lower, &buffer, &index)) return qn_fail_nomem(lower->pass->diag, node->loc, "a buffer");
  lower->values[id].stats = qn_lower_bind(lower, index);
  return QN_OK;
}

// --- concatenation

// Along axis 0 each part has rows of its own.
static void concat_blocks(qn_lower *lower, qn_lblock *block, qn_id id) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  int64_t at = 0;
  for (int part = 0; part < node->operand_count; part++) {
    const qn_type *type = &qn_graph_node(lower->graph, node->operands[part])->type;
    qn_lvar *h = qn_lvar_new(b, "h"), *i = qn_lvar_new(b, "i");
    qn_lstmt *rows = qn_lfor(b, block, h, LX_INT(0), LX_INT(type->dims[0].value), QN_LO_DATA);
    qn_lstmt *loop = qn_lfor(b, &rows->u.loop.body, i, LX_INT(0), LX_INT(qn_lower_row_width(type)), QN_LO_DATA);
    const qn_lexpr *row = qn_lref(b, h), *flat = qn_lref(b, i);
    const qn_lexpr *value = qn_lower_value(lower, node->operands[part], (qn_lplace){row, flat});
    qn_lower_store(lower, &loop->u.loop.body, id, (qn_lplace){LX_ADD(row, LX_INT(at)), flat}, value);
    at += type->dims[0].value;
  }
}

static void concat_rows(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  int64_t axis = qn_node_int(node, QN_ATTR_AXIS, 1), inner = 1, outer = 1, at = 0;
  for (int i = (int)axis + 1; i < node->type.rank; i++) inner *= node->type.dims[i].value;
  for (int i = 1; i < (int)axis; i++) outer *= node->type.dims[i].value;
  int64_t span = node->type.dims[axis].value * inner;
  for (int part = 0; part < node->operand_count; part++) {
    int64_t width = qn_graph_node(lower->graph, node->operands[part])->type.dims[axis].value * inner;
    qn_lvar *h = qn_lvar_new(b, "h"), *i = qn_lvar_new(b, "i");
    qn_lstmt *heads = qn_lfor(b, block, h, LX_INT(0), LX_INT(outer), QN_LO_DATA);
    qn_lstmt *loop = heads ? qn_lfor(b, &heads->u.loop.body, i, LX_INT(0), LX_INT(width), QN_LO_DATA) : NULL;
    if (!loop) return;
    qn_lplace from = {row, LX_ADD(LX_MUL(qn_lref(b, h), LX_INT(width)), qn_lref(b, i))};
    qn_lplace to = {row, LX_ADD(LX_ADD(LX_MUL(qn_lref(b, h), LX_INT(span)), LX_INT(at)), qn_lref(b, i))};
    qn_lower_store(lower, &loop->u.loop.body, id, to, qn_lower_value(lower, node->operands[part], from));
    at += width;
  }
}

// --- pooling

typedef struct pool_context {
  qn_id id;
  const qn_lexpr *row, *first, *count;  // the result's row; the tokens that are pooled
} pool_context;

static void pool_element(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const pool_context *c = context;
  const qn_node *node = qn_graph_node(lower->graph, c->id);
  const qn_lexpr *zero = LX_INT(0), *s = NULL;
  const qn_lexpr *first = qn_lower_value(lower, node->operands[0], (qn_lplace){c->first, index});
  if (strcmp(qn_node_text(node, QN_ATTR_KIND, ""), "first") == 0) {
    qn_lower_store(lower, block, c->id, (qn_lplace){c->row, index}, first);
    return;
  }
  const qn_lbuf *acc = qn_llocal(b, block, "acc", QN_LM_F32, 1);
  qn_lstore(b, block, acc, QN_LM_F32, zero, first);
  qn_lblock *body = qn_lower_loop(lower, block, "s", LX_INT(1), c->count, QN_LO_REDUCE, &s);
  const qn_lexpr *next = qn_lower_value(lower, node->operands[0], (qn_lplace){LX_ADD(c->first, s), index});
  qn_lstore(b, body, acc, QN_LM_F32, zero, LX_ADD(LX_LOAD(acc, QN_LM_F32, zero), next));
  const qn_lexpr *count = qn_lop1(b, QN_LX_TO_F32, qn_lop1(b, QN_LX_TO_I32, c->count));
  qn_lower_store(lower, block, c->id, (qn_lplace){c->row, index}, LX_DIV(LX_LOAD(acc, QN_LM_F32, zero), count));
}

// The tokens before the row's own are as many as its position, but no more than the step has.
static void pool_row(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  const qn_lexpr *last = qn_lop1(b, QN_LX_TO_INDEX, qn_lower_value(lower, node->operands[2], (qn_lplace){NULL, row}));
  const qn_lexpr *pos = qn_lop1(b, QN_LX_TO_INDEX, qn_lower_value(lower, node->operands[1], (qn_lplace){NULL, last}));
  const qn_lexpr *before = qn_lop2(b, QN_LX_MIN, pos, last);
  pool_context c = {.id = id, .row = row, .first = LX_SUB(last, before), .count = LX_ADD(before, LX_INT(1))};
  qn_lower_each(lower, block, "i", node->type.dims[1].value, pool_element, &c);
}

// --- the group

// Is some kv_write of this group fed by `id` directly? Those into caches of codes read what they write.
static bool feeds_cache(const qn_lower *lower, qn_id id) {
  for (qn_id w = id + 1; w < lower->graph->nodes.count; w++) {
    const qn_node *write = qn_graph_node(lower->graph, w);
    if (write->op != QN_OP_KV_WRITE || write->group != lower->group || write->operands[1] != id) continue;
    if (!qn_dtype_is_block(write->type.dtype)) return true;
  }
  return false;
}

// A write of a row into a cache that the group does not write where the row is computed.
static void write_row(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row) {
  const qn_node *node = qn_graph_node(lower->graph, id), *x = qn_graph_node(lower->graph, node->operands[1]);
  bool coded = qn_dtype_is_block(node->type.dtype);
  if (!coded && x->group == lower->group) return;  // it is written there
  if (node->operand_count > 5) {
    qn_lbuild *b = &lower->build;
    const qn_lexpr *copies = qn_lower_value(lower, node->operands[5], (qn_lplace){NULL, row});
    block = qn_lower_loop(lower, block, "fork", LX_INT(0), qn_lop1(b, QN_LX_TO_INDEX, copies), QN_LO_DATA, &lower->copy);
  }
  if (coded) qn_lower_write_codes(lower, block, id, row);
  else store_rows(lower, block, id, row);
  lower->copy = NULL;
}

static void lower_node(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row) {
  const qn_node *node = qn_graph_node(lower->graph, id);
  uint32_t flags = qn_op_get_info(node->op)->flags;
  bool needed = lower->values[id].materialised || feeds_cache(lower, id);
  if (node->op == QN_OP_QUANTIZE) {
    quantize_row(lower, block, id, row);
  } else if (node->op == QN_OP_ROPE) {
    rope_row(lower, block, id, row);
  } else if (node->op == QN_OP_CONCAT) {
    concat_rows(lower, block, id, row);
  } else if (node->op == QN_OP_TOP_K) {
    qn_lower_top_k_row(lower, block, id, row);
  } else if (node->op == QN_OP_EXPERT_MIX) {
    qn_lower_expert_mix_row(lower, block, id, row);
  } else if (node->op == QN_OP_POOL) {
    pool_row(lower, block, id, row);
  } else if (node->op == QN_OP_KV_WRITE) {
    write_row(lower, block, id, row);
  } else if (node->op == QN_OP_SOFTMAX && !qn_dim_is_const(node->type.dims[node->type.rank - 1])) {
    symbolic_softmax(lower, block, id, row);
  } else {
    if (flags & QN_OF_R) row_op(lower, block, id, row);
    if (needed) store_rows(lower, block, id, row);
  }
}

static int64_t common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// Does the node read a value of its own group through a slice? Then a part of it may need another part's heads.
static bool reads_a_slice(const qn_lower *lower, const qn_node *node) {
  const qn_graph *graph = lower->graph;
  for (int i = 0; i < node->operand_count; i++) {
    qn_id base = qn_graph_base(graph, node->operands[i]);
    if (qn_graph_node(graph, base)->group != lower->group) continue;
    for (qn_id at = node->operands[i]; at != base; at = qn_graph_node(graph, at)->operands[0])
      if (qn_graph_node(graph, at)->op == QN_OP_SLICE) return true;
  }
  return node->op == QN_OP_SLICE;
}

// Into how many equal parts the heads of all that the group does with a row divide; 1 where something is not by head.
static int64_t parts_of_group(const qn_lower *lower) {
  int64_t parts = 0;
  for (qn_id id = 1; id < lower->graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(lower->graph, id);
    if (node->group != lower->group) continue;
    if (reads_a_slice(lower, node)) return 1;
    uint32_t flags = qn_op_get_info(node->op)->flags;
    bool written = node->op == QN_OP_KV_WRITE || lower->values[id].materialised || feeds_cache(lower, id);
    if (!written && (flags & (QN_OF_E | QN_OF_V))) continue;  // computed where it is read
    bool by_head = node->op == QN_OP_ROPE || node->op == QN_OP_KV_WRITE || (flags & (QN_OF_E | QN_OF_R | QN_OF_V));
    const qn_type *type =
        node->op == QN_OP_KV_WRITE ? &qn_graph_node(lower->graph, node->operands[1])->type : &node->type;
    if (!by_head || type->rank != 3 || !qn_dim_is_const(type->dims[1]) || !qn_dim_is_const(type->dims[2])) return 1;
    parts = common_divisor(type->dims[1].value, parts);
  }
  return parts > 0 ? parts : 1;
}

// Is the group one node that quantises, block by block?
static bool only_quantizes(const qn_lower *lower) {
  int nodes = 0;
  for (qn_id id = 1; id < lower->graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(lower->graph, id);
    if (node->group != lower->group) continue;
    if (node->op != QN_OP_QUANTIZE) return false;
    nodes++;
  }
  return nodes == 1;
}

// Finds out whether threads can share a row; the block to write its heads to.
static qn_lblock *split_row(qn_lower *lower, qn_lblock *block, qn_symbol rows) {
  qn_lbuild *b = &lower->build;
  lower->parts = parts_of_group(lower);
  bool shared = lower->parts > 1 || only_quantizes(lower) || lower->pass->options->gpu;  // spread_rows.c
  lower->splits = rows != QN_SYM_NONE && shared;
  lower->rows = rows;
  if (lower->parts == 1) return block;
  qn_lvar *part = qn_lvar_new(b, "part");
  qn_lstmt *loop = qn_lfor(b, block, part, LX_INT(0), LX_INT(lower->parts), QN_LO_DATA);
  lower->part = qn_lref(b, part);
  return &loop->u.loop.body;
}

qn_status qn_lower_rows_group(qn_lower *lower) {
  qn_lbuild *b = &lower->build;
  const qn_graph *graph = lower->graph;
  const qn_type *shape = NULL;
  qn_id blocks = 0;
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->group != lower->group) continue;
    shape = node->op == QN_OP_KV_WRITE ? &qn_graph_node(graph, node->operands[1])->type : &node->type;
    if (node->op == QN_OP_ROPE_TABLE) QN_TRY(rope_frequencies(lower, id));
    if (node->op == QN_OP_CONCAT && qn_node_int(node, QN_ATTR_AXIS, 0) == 0) blocks = id;
  }
  qn_lblock *block = &b->kernel->body;
  const qn_lexpr *row = NULL;
  if (shape->rank > 1 && blocks) {
    concat_blocks(lower, block, blocks);
    return QN_OK;
  }
  if (shape->rank > 1 || (shape->rank == 1 && !qn_dim_is_const(shape->dims[0]))) {
    qn_lvar *t = qn_lvar_new(b, "t");
    qn_lstmt *loop = qn_lfor(b, block, t, LX_INT(0), qn_ldim(b, shape->dims[0]), QN_LO_DATA);
    if (!loop) return qn_fail_nomem(lower->pass->diag, graph->name, "a kernel");
    block = &loop->u.loop.body;
    row = qn_lref(b, t);
    block = split_row(lower, block, shape->dims[0].symbol);
  }
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    if (qn_graph_node(graph, id)->group == lower->group) lower_node(lower, block, id, row);
  }
  return QN_OK;
}
