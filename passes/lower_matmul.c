// Lowering of groups around one or more products of one input: panels of 16 output rows, tokens, lanes, and for each
// element one chain along K in order (the numeric contract); then the elementwise ops that follow. Products of experts
// go through the places of their order; where a run of one expert's rows begins, an iteration does the run.
#include "passes/lower.h"

typedef struct matmul_context {
  const qn_node *node;
  const qn_format *format;
  const qn_lbuf *w, *acc;
  const qn_lexpr *panel, *lane, *row;
  int64_t k_size;
  bool by_parts;  // groups are added up before they are scaled
} matmul_context;

// acc = fma(a, b, acc)
static void accumulate(qn_lbuild *b, qn_lblock *block, const qn_lbuf *acc, const qn_lexpr *x, const qn_lexpr *y) {
  const qn_lexpr *zero = LX_INT(0);
  qn_lstore(b, block, acc, QN_LM_F32, zero, LX_FMA(x, y, LX_LOAD(acc, QN_LM_F32, zero)));
}

// for g in 0..count reduce: the lines of a block, or the values of a group of 4.
static qn_lblock *lines_loop(qn_lbuild *b, qn_lblock *block, int64_t count, const qn_lexpr **out_g) {
  qn_lvar *g = qn_lvar_new(b, "g");
  qn_lstmt *loop = qn_lfor(b, block, g, LX_INT(0), LX_INT(count), QN_LO_REDUCE);
  *out_g = qn_lref(b, g);
  return loop ? &loop->u.loop.body : NULL;
}

// Float weights: element (n, k) at (panel * K + k) * 16 + lane.
static void float_chain(qn_lower *lower, qn_lblock *block, const matmul_context *c) {
  qn_lbuild *b = &lower->build;
  int64_t step = c->k_size % 4 == 0 ? 4 : 1;
  qn_lvar *kb = qn_lvar_new(b, "kb");
  qn_lstmt *loop = qn_lfor(b, block, kb, LX_INT(0), LX_INT(c->k_size / step), QN_LO_REDUCE);
  if (!loop) return;
  const qn_lexpr *g = NULL;
  qn_lblock *body = lines_loop(b, &loop->u.loop.body, step, &g);
  if (!body) return;
  const qn_lexpr *k = LX_ADD(LX_MUL(qn_lref(b, kb), LX_INT(step)), g);
  const qn_lexpr *index = LX_ADD(LX_MUL(LX_ADD(LX_MUL(c->panel, LX_INT(c->k_size)), k), LX_INT(QN_TILE_ROWS)), c->lane);
  accumulate(b, body, c->acc, qn_lower_value(lower, c->node->operands[0], (qn_lplace){c->row, k}),
             LX_LOAD(c->w, c->w->mem, index));
}

enum { HALVES = 16 };  // values along K that tensor cores sum at a time

// acc += the sum of `count` products from k on, activations rounded to the weights' type. Sixteen go in pairs, k and k + 8,
// as a lane's words are made of them (mma_word.c).
static void add_halves(qn_lower *lower, qn_lblock *block, const matmul_context *c, const qn_lexpr *first, int64_t count) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *g = NULL;
  qn_lbuf *part = qn_llocal(b, block, "part", QN_LM_F32, 1);
  qn_lstore(b, block, part, QN_LM_F32, zero, LX_F32(0));
  qn_lblock *body = lines_loop(b, block, count, &g);
  if (!body) return;
  const qn_lexpr *in_pair = LX_MUL(LX_MOD(g, LX_INT(2)), LX_INT(HALVES / 2));
  const qn_lexpr *k = LX_ADD(first, count == HALVES ? LX_ADD(in_pair, LX_DIV(g, LX_INT(2))) : g);
  const qn_lexpr *index = LX_ADD(LX_MUL(LX_ADD(LX_MUL(c->panel, LX_INT(c->k_size)), k), LX_INT(QN_TILE_ROWS)), c->lane);
  qn_lbuf *half = qn_llocal(b, body, "half", c->w->mem, 1);
  qn_lstore(b, body, half, c->w->mem, zero, qn_lower_value(lower, c->node->operands[0], (qn_lplace){c->row, k}));
  accumulate(b, body, part, LX_LOAD(half, c->w->mem, zero), LX_LOAD(c->w, c->w->mem, index));
  const qn_lexpr *sum = LX_ADD(LX_LOAD(c->acc, QN_LM_F32, zero), LX_LOAD(part, QN_LM_F32, zero));
  qn_lstore(b, block, c->acc, QN_LM_F32, zero, sum);
}

// Numeric mode half: 16 values along K at a time, and what is left.
static void half_chain(qn_lower *lower, qn_lblock *block, const matmul_context *c) {
  qn_lbuild *b = &lower->build;
  int64_t blocks = c->k_size / HALVES;
  qn_lvar *kb = qn_lvar_new(b, "kb");
  qn_lstmt *loop = blocks > 0 ? qn_lfor(b, block, kb, LX_INT(0), LX_INT(blocks), QN_LO_REDUCE) : NULL;
  if (loop) add_halves(lower, &loop->u.loop.body, c, LX_MUL(qn_lref(b, kb), LX_INT(HALVES)), HALVES);
  if (c->k_size % HALVES != 0) add_halves(lower, block, c, LX_INT(blocks * HALVES), c->k_size % HALVES);
}

// Puts a value into a local, so that it is computed once for all tokens of a tile.
static const qn_lexpr *held(qn_lbuild *b, qn_lblock *block, const char *name, const qn_lexpr *value) {
  qn_lbuf *local = qn_llocal(b, block, name, QN_LM_F32, 1);
  qn_lstore(b, block, local, QN_LM_F32, LX_INT(0), value);
  return LX_LOAD(local, QN_LM_F32, LX_INT(0));
}

// A group of the weight's values that share a scale.
typedef struct group {
  const qn_lower_tile *tile;
  const qn_lexpr *scale, *min;  // min may be NULL
  const qn_lexpr *part;         // of K, in 32 values
  int64_t index;                // in the part
} group;

typedef void (*group_body)(qn_lower *lower, qn_lblock *block, const matmul_context *c, const group *g);

// A group's code, after its scale and min where those take computing.
static void part_groups(qn_lower *lower, qn_lblock *block, const matmul_context *c, group g, group_body body) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *block_scale = g.scale, *block_min = g.min;
  bool e8m0 = c->format->scale_kind == QN_SCALE_E8M0;
  for (g.index = 0; g.index < (int64_t)g.tile->tile.groups; g.index++) {
    g.scale = qn_lower_group_scale(lower, g.tile, block_scale, LX_INT(g.index));
    if (e8m0 || c->format->sub_scale.bits > 0) g.scale = held(b, block, "scale", g.scale);
    if (block_min) g.min = qn_lower_group_min(lower, g.tile, block_min, LX_INT(g.index));
    if (c->format->sub_min.bits > 0) g.min = held(b, block, "min", g.min);
    body(lower, block, c, &g);
  }
}

// A row of quantised activations in a part of K: codes, behind all of them scales, sums of 32 codes, sums of 16.
typedef struct activations {
  const qn_lbuf *buf;
  const qn_lexpr *codes, *scale;  // the first word; the scale itself
  const qn_lexpr *sums;           // that of the first group
} activations;

static activations activations_of(qn_lower *lower, const matmul_context *c, const group *g) {
  qn_lbuild *b = &lower->build;
  int64_t parts = c->k_size / QN_PART_VALUES, groups = g->tile->tile.groups;
  activations x = {.buf = qn_lower_param(lower, c->node->operands[0])};
  const qn_lexpr *row = LX_MUL(c->row, LX_INT(c->k_size / 8 * 3));
  const qn_lexpr *scale = LX_ADD(LX_ADD(row, LX_INT(c->k_size / 4)), g->part);
  x.codes = LX_ADD(row, LX_MUL(g->part, LX_INT(QN_PART_VALUES / 4)));
  x.scale = LX_LOAD(x.buf, QN_LM_F32, scale);
  x.sums = groups == 1 ? LX_ADD(scale, LX_INT(parts))
                       : LX_ADD(LX_ADD(row, LX_INT(c->k_size / 4 + 2 * parts)), LX_MUL(g->part, LX_INT(groups)));
  return x;
}

static const qn_lexpr *sum_of_codes(qn_lbuild *b, const activations *x, const qn_lexpr *at) {
  return LX_LOAD(x->buf, QN_LM_I32, LX_ADD(x->sums, at));
}

// Adds a group's codes, times `factor` where there is one, times activation codes to `sum`: a line's words together.
static void add_codes(qn_lower *lower, qn_lblock *body, const matmul_context *c, const group *g, const activations *x,
                      const qn_lbuf *sum, const qn_lexpr *line, const qn_lexpr *factor) {
  qn_lbuild *b = &lower->build;
  int64_t words = c->format->group_values / 4, lines = g->tile->tile.lines;
  const qn_lexpr *zero = LX_INT(0);
  for (int64_t first = 0; first < words; first += lines) {
    const qn_lexpr *word = LX_ADD(LX_INT(g->index * words + first), line);
    const qn_lexpr *x_word = LX_LOAD(x->buf, QN_LM_I32, LX_ADD(x->codes, word)), *old = LX_LOAD(sum, QN_LM_I32, zero);
    const qn_lexpr *codes = qn_lower_tile_word(lower, g->tile, g->index * words + first, line);
    if (factor) codes = LX_MUL(codes, factor);
    qn_lstore(b, body, sum, QN_LM_I32, zero, qn_lop3(b, QN_LX_DOT4, old, codes, x_word));
  }
}

// A group's sum, which starts at `start`.
static const qn_lexpr *sum_group(qn_lower *lower, qn_lblock *block, const matmul_context *c, const group *g,
                                 const activations *x, const qn_lexpr *start) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *line = NULL;
  qn_lbuf *sum = qn_llocal(b, block, "sum", QN_LM_I32, 1);
  qn_lstore(b, block, sum, QN_LM_I32, zero, start);
  qn_lblock *body = lines_loop(b, block, g->tile->tile.lines, &line);
  if (body) add_codes(lower, body, c, g, x, sum, line, NULL);
  return qn_lop1(b, QN_LX_TO_F32, LX_LOAD(sum, QN_LM_I32, zero));
}

// Codes times activation codes: exact integers inside the group, then one fma (two with a min).
static void integer_group(qn_lower *lower, qn_lblock *block, const matmul_context *c, const group *g) {
  qn_lbuild *b = &lower->build;
  const activations x = activations_of(lower, c, g);
  const qn_lexpr *x_sum = sum_of_codes(b, &x, LX_INT(g->index)), *start = qn_li32(b, 0);
  if (c->format->offset != 0) start = qn_lop2(b, QN_LX_UNBIAS, x_sum, qn_li32(b, c->format->offset));
  const qn_lexpr *sum = sum_group(lower, block, c, g, &x, start);
  accumulate(b, block, c->acc, sum, LX_MUL(g->scale, x.scale));
  if (g->min) accumulate(b, block, c->acc, qn_lop1(b, QN_LX_TO_F32, x_sum), LX_MUL(g->min, x.scale));
}

// ---- groups that are added up before they are scaled (qn_format_sums_parts) -----------------------------------------
//
// Both sums of a part, of codes and of minima, are whole numbers below 2^24. CPUs make each group's sum and take it
// times its factor, in f32; GPUs multiply bytes that hold the factors, which is what tensor cores can do: the same bits.

static void sum_groups(qn_lower *lower, qn_lblock *block, const matmul_context *c, group g, const activations *x,
                       const qn_lexpr **out_sum, const qn_lexpr **out_minima) {
  qn_lbuild *b = &lower->build;
  for (g.index = 0; g.index < (int64_t)g.tile->tile.groups; g.index++) {
    const qn_lexpr *at = LX_INT(g.index), *codes = qn_lop1(b, QN_LX_TO_F32, sum_of_codes(b, x, at));
    const qn_lexpr *factor = qn_lop1(b, QN_LX_TO_F32, qn_lower_group_factor(lower, g.tile, false, at));
    const qn_lexpr *sum = sum_group(lower, block, c, &g, x, qn_li32(b, 0));
    factor = held(b, block, "factor", factor);
    *out_sum = *out_sum ? LX_FMA(sum, factor, *out_sum) : LX_MUL(sum, factor);
    if (!g.min) continue;
    factor = held(b, block, "least", qn_lop1(b, QN_LX_TO_F32, qn_lower_group_factor(lower, g.tile, true, at)));
    *out_minima = *out_minima ? LX_FMA(codes, factor, *out_minima) : LX_MUL(codes, factor);
  }
}

static const qn_lexpr *sum_bytes(qn_lower *lower, qn_lblock *block, const matmul_context *c, group g,
                                 const activations *x) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *line = NULL, *zero = LX_INT(0);
  qn_lbuf *sum = qn_llocal(b, block, "sum", QN_LM_I32, 1);
  qn_lstore(b, block, sum, QN_LM_I32, zero, qn_li32(b, 0));
  qn_lblock *body = lines_loop(b, block, g.tile->tile.lines, &line);
  for (g.index = 0; body && g.index < (int64_t)g.tile->tile.groups; g.index++)
    add_codes(lower, body, c, &g, x, sum, line, qn_lower_group_factor(lower, g.tile, false, LX_INT(g.index)));
  return qn_lop1(b, QN_LX_TO_F32, LX_LOAD(sum, QN_LM_I32, zero));
}

// A sum of codes is 16 times a signed byte, and 0 to 15; a minimum's factor stands beside itself 16 times as large.
static const qn_lexpr *sum_minima_bytes(qn_lower *lower, qn_lblock *block, const group *g, const activations *x) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *at = NULL, *zero = LX_INT(0), *low = qn_li32(b, QN_SUM_SPLIT - 1);
  qn_lbuf *sum = qn_llocal(b, block, "least", QN_LM_I32, 1);
  qn_lstore(b, block, sum, QN_LM_I32, zero, qn_li32(b, 0));
  qn_lblock *body = lines_loop(b, block, g->tile->tile.groups, &at);
  if (!body) return NULL;
  const qn_lexpr *codes = sum_of_codes(b, x, at), *factor = qn_lower_group_factor(lower, g->tile, true, at);
  const qn_lexpr *high = qn_lop2(b, QN_LX_AND, qn_lop2(b, QN_LX_SHR, codes, qn_li32(b, 4)), qn_li32(b, 0xff));
  low = qn_lop2(b, QN_LX_SHL, qn_lop2(b, QN_LX_AND, codes, low), qn_li32(b, 8));
  const qn_lexpr *factors = LX_MUL(factor, qn_li32(b, QN_SUM_SPLIT + (1 << 8)));
  const qn_lexpr *dot = qn_lop3(b, QN_LX_DOT4, LX_LOAD(sum, QN_LM_I32, zero), factors, qn_lop2(b, QN_LX_OR, high, low));
  qn_lstore(b, body, sum, QN_LM_I32, zero, dot);
  return qn_lop1(b, QN_LX_TO_F32, LX_LOAD(sum, QN_LM_I32, zero));
}

static void integer_part(qn_lower *lower, qn_lblock *block, const matmul_context *c, const group *g) {
  qn_lbuild *b = &lower->build;
  const activations x = activations_of(lower, c, g);
  const qn_lexpr *sum = NULL, *minima = NULL;
  if (lower->pass->options->gpu) {
    sum = sum_bytes(lower, block, c, *g, &x);
    if (g->min) minima = sum_minima_bytes(lower, block, g, &x);
  } else {
    sum_groups(lower, block, c, *g, &x, &sum, &minima);
  }
  accumulate(b, block, c->acc, sum, LX_MUL(g->scale, x.scale));
  if (g->min) accumulate(b, block, c->acc, minima, LX_MUL(g->min, x.scale));
}

// The weight's groups along K in order: for kb over blocks, in it for s over the parts where there are several.
static void each_group(qn_lower *lower, qn_lblock *block, const matmul_context *c, group_body body) {
  qn_lbuild *b = &lower->build;
  int64_t blocks = c->k_size / c->format->block_values, parts = c->format->block_values / QN_PART_VALUES;
  qn_lvar *kb = qn_lvar_new(b, "kb");
  qn_lstmt *loop = qn_lfor(b, block, kb, LX_INT(0), LX_INT(blocks), QN_LO_REDUCE);
  qn_lblock *inner = &loop->u.loop.body;
  const qn_lexpr *k_block = qn_lref(b, kb), *part = LX_INT(0);
  const qn_lexpr *at = LX_ADD(LX_MUL(c->panel, LX_INT(blocks)), k_block);
  qn_lower_tile tile = qn_lower_tile_at(c->format, c->w, QN_TILE_ROWS, at, part, c->lane);
  group g = {.tile = &tile, .scale = qn_lower_tile_scale(lower, &tile), .min = qn_lower_tile_min(lower, &tile)};
  if (c->by_parts && g.min) g.min = qn_lop1(b, QN_LX_NEG, g.min);
  if (parts > 1) {
    g.scale = held(b, inner, "d", g.scale);
    if (g.min) g.min = held(b, inner, "dmin", g.min);
    qn_lvar *s = qn_lvar_new(b, "s");
    inner = &qn_lfor(b, inner, s, LX_INT(0), LX_INT(parts), QN_LO_REDUCE)->u.loop.body;
    tile.part = part = qn_lref(b, s);
  }
  g.part = LX_ADD(LX_MUL(k_block, LX_INT(parts)), part);
  if (c->by_parts) {
    integer_part(lower, inner, c, &g);
  } else {
    part_groups(lower, inner, c, g, body);
  }
}

// Weights widened in registers (numeric mode f32): one fma a value, k ascending.
static void widened_group(qn_lower *lower, qn_lblock *block, const matmul_context *c, const group *g) {
  qn_lbuild *b = &lower->build;
  int64_t words = c->format->group_values / 4, lines = g->tile->tile.lines;
  for (int64_t first = 0; first < words; first += lines) {
    const qn_lexpr *line = NULL;
    qn_lblock *body = lines_loop(b, block, lines, &line);
    const qn_lexpr *word = LX_ADD(LX_INT(g->index * words + first), line);
    for (int byte = 0; byte < 4; byte++) {
      const qn_lexpr *number = qn_lower_tile_number(lower, g->tile, g->index * words + first, line, byte);
      const qn_lexpr *weight = qn_lower_scaled(lower, number, g->scale, g->min);
      const qn_lexpr *k =
          LX_ADD(LX_ADD(LX_MUL(g->part, LX_INT(QN_PART_VALUES)), LX_MUL(word, LX_INT(4))), LX_INT(byte));
      accumulate(b, body, c->acc, qn_lower_value(lower, c->node->operands[0], (qn_lplace){c->row, k}), weight);
    }
  }
}

// panel: of the weight; row: of the input.
static void chain(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *panel, const qn_lexpr *row,
                  const qn_lexpr *lane) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  const qn_type *x = &qn_graph_node(lower->graph, node->operands[0])->type;
  const qn_type *w = &qn_graph_node(lower->graph, node->operands[1])->type;
  matmul_context c = {.node = node,
                      .format = qn_format_of(w->dtype),
                      .w = qn_lower_param(lower, node->operands[1]),
                      .panel = panel,
                      .lane = lane,
                      .row = row,
                      .k_size = w->dims[w->rank - 1].value};
  c.by_parts = x->dtype == QN_DTYPE_A8 && qn_format_sums_parts(c.format);
  if (!c.w) return;
  c.acc = qn_llocal(b, block, "acc", QN_LM_F32, 1);
  qn_lstore(b, block, c.acc, QN_LM_F32, LX_INT(0), LX_F32(0));
  if (qn_node_attr(node, QN_ATTR_HALVES)) {
    half_chain(lower, block, &c);
  } else if (c.format->block_values == 1) {
    float_chain(lower, block, &c);
  } else {
    each_group(lower, block, &c, x->dtype == QN_DTYPE_A8 ? integer_group : widened_group);
  }
  lower->values[id].expr = LX_LOAD(c.acc, QN_LM_F32, LX_INT(0));
}

// An element of the product that is being written, and what it is made of.
typedef struct element {
  const qn_lexpr *row, *column;             // of the result
  const qn_lexpr *panel, *input_row, *lane;  // of the weight, of the input
} element;

// The loops over panels, rows and lanes; the innermost one's body.
static qn_lblock *dense_loops(qn_lower *lower, const qn_node *node, int64_t panels, element *out) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *all = qn_ldim(b, node->type.dims[0]);
  qn_lblock *block = qn_lower_loop(lower, &b->kernel->body, "n", zero, LX_INT(panels), QN_LO_DATA, &out->panel);
  block = qn_lower_loop(lower, block, "t", zero, all, QN_LO_DATA, &out->row);
  block = qn_lower_loop(lower, block, "l", zero, LX_INT(QN_TILE_ROWS), QN_LO_DATA, &out->lane);
  out->input_row = out->row;
  out->column = LX_ADD(LX_MUL(out->panel, LX_INT(QN_TILE_ROWS)), out->lane);
  return block;
}

// The same, in a loop over places of the order, of rows by expert.
static qn_lblock *expert_loops(qn_lower *lower, const qn_node *node, int64_t panels, element *out) {
  qn_lbuild *b = &lower->build;
  const qn_type *x = &qn_graph_node(lower->graph, node->operands[0])->type;
  const qn_lexpr *zero = LX_INT(0), *all = qn_ldim(b, node->type.dims[0]), *place = NULL, *n = NULL, *t = NULL;
  qn_lblock *block = qn_lower_loop(lower, &b->kernel->body, "pair", zero, all, QN_LO_DATA, &place);
  block = qn_lower_loop(lower, block, "n", zero, LX_INT(panels), QN_LO_DATA, &n);
  qn_lower_run run = qn_lower_expert_run(lower, block, node, place);
  block = qn_lower_loop(lower, block, "t", run.begin, run.end, QN_LO_DATA, &t);
  out->row = qn_lower_expert_row(lower, block, node, t);
  out->input_row = LX_DIV(out->row, LX_INT(node->type.dims[0].value / x->dims[0].value));
  block = qn_lower_loop(lower, block, "l", zero, LX_INT(QN_TILE_ROWS), QN_LO_DATA, &out->lane);
  out->panel = LX_ADD(LX_MUL(run.expert, LX_INT(panels)), n);
  out->column = LX_ADD(LX_MUL(n, LX_INT(QN_TILE_ROWS)), out->lane);
  return block;
}

qn_status qn_lower_matmul_group(qn_lower *lower) {
  const qn_graph *graph = lower->graph;
  const qn_node *first = qn_graph_node(graph, lower->anchor);
  int64_t panels = (first->type.dims[1].value + QN_TILE_ROWS - 1) / QN_TILE_ROWS;
  element e = {0};
  qn_lblock *block = first->op == QN_OP_EXPERT_MATMUL ? expert_loops(lower, first, panels, &e)
                                                      : dense_loops(lower, first, panels, &e);
  if (lower->build.failed) return qn_fail_nomem(lower->pass->diag, first->loc, "a kernel");
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    bool product = node->group == lower->group && qn_op_is_product(node->op);
    if (product) chain(lower, block, id, e.panel, e.input_row, e.lane);
  }
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    if (qn_graph_node(graph, id)->group != lower->group || !lower->values[id].materialised) continue;
    qn_lplace place = {e.row, e.column};
    qn_lower_store(lower, block, id, place, qn_lower_value(lower, id, place));
  }
  return QN_OK;
}
