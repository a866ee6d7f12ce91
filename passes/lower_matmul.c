// Lowering of groups around one or more matmuls of one input: panels of 16 output rows, tokens, lanes, and for each
// element one chain along K in order (the numeric contract); then the elementwise ops that follow.
#include "passes/lower.h"

typedef struct matmul_context {
  const qn_node *node;
  const qn_format *format;
  const qn_lbuf *w, *acc;
  const qn_lexpr *panel, *lane, *row;
  int64_t k_size;
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

// Where things are in the packed block kb of this panel (ir/format.h).
typedef struct block_places {
  const qn_lexpr *half_words;  // index of the first scale, in f16
  const qn_lexpr *words;       // index of this lane's first code word, in i32
  int64_t lines;
} block_places;

static block_places places_of(qn_lbuild *b, const matmul_context *c, const qn_lexpr *kb) {
  int64_t bytes = (int64_t)qn_format_tile_block_bytes(c->format, QN_TILE_ROWS);
  int64_t codes_at = 2 * QN_TILE_ROWS * ((c->format->scale_at >= 0) + (c->format->min_at >= 0));
  const qn_lexpr *block = LX_ADD(LX_MUL(c->panel, LX_INT(c->k_size / c->format->block_values)), kb);
  return (block_places){
      .half_words = LX_ADD(LX_MUL(block, LX_INT(bytes / 2)), c->lane),
      .words = LX_ADD(LX_ADD(LX_MUL(block, LX_INT(bytes / 4)), LX_INT(codes_at / 4)), c->lane),
      .lines = (int64_t)c->format->block_values * c->format->code_bits / 32,
  };
}

// Codes times activation codes: exact integers inside the block, then one fma (two with a min).
static void integer_chain(qn_lower *lower, qn_lblock *block, const matmul_context *c) {
  qn_lbuild *b = &lower->build;
  int64_t blocks = c->k_size / c->format->block_values;
  qn_lbuf *x = qn_lower_param(lower, c->node->operands[0]);
  qn_lvar *kb = qn_lvar_new(b, "kb");
  qn_lstmt *loop = qn_lfor(b, block, kb, LX_INT(0), LX_INT(blocks), QN_LO_REDUCE);
  if (!loop || !x) return;
  qn_lblock *body = &loop->u.loop.body;
  block_places at = places_of(b, c, qn_lref(b, kb));
  const qn_lexpr *zero = LX_INT(0), *x_words = LX_MUL(c->row, LX_INT(c->k_size / 8 * 3));
  const qn_lexpr *x_scale_at = LX_ADD(LX_ADD(x_words, LX_INT(c->k_size / 4)), qn_lref(b, kb));
  const qn_lexpr *x_scale = LX_LOAD(x, QN_LM_F32, x_scale_at);
  const qn_lexpr *x_sum = LX_LOAD(x, QN_LM_I32, LX_ADD(x_scale_at, LX_INT(blocks)));
  const qn_lexpr *x_codes = LX_ADD(x_words, LX_MUL(qn_lref(b, kb), LX_INT(8)));
  qn_lbuf *sum = qn_llocal(b, body, "sum", QN_LM_I32, 1);
  qn_lstore(b, body, sum, QN_LM_I32, zero, LX_MUL(x_sum, qn_li32(b, -c->format->offset)));
  const qn_lexpr *g = NULL;
  qn_lblock *line = lines_loop(b, body, at.lines, &g);
  if (!line) return;
  const qn_lexpr *word = LX_LOAD(c->w, QN_LM_I32, LX_ADD(at.words, LX_MUL(g, LX_INT(QN_TILE_ROWS))));
  int parts = 8 / (int)c->format->code_bits;  // words of codes in a word: nibbles give two
  for (int part = 0; part < parts; part++) {
    const qn_lexpr *codes = part ? qn_lop2(b, QN_LX_SHR, word, qn_li32(b, 4 * part)) : word;
    if (parts > 1) codes = qn_lop2(b, QN_LX_AND, codes, qn_li32(b, 0x0f0f0f0f));
    const qn_lexpr *x_word = LX_LOAD(x, QN_LM_I32, LX_ADD(LX_ADD(x_codes, g), LX_INT(part * at.lines)));
    qn_lstore(b, line, sum, QN_LM_I32, zero, qn_lop3(b, QN_LX_DOT4, LX_LOAD(sum, QN_LM_I32, zero), codes, x_word));
  }
  const qn_lexpr *scale = LX_MUL(LX_LOAD(c->w, QN_LM_F16, at.half_words), x_scale);
  accumulate(b, body, c->acc, qn_lop1(b, QN_LX_TO_F32, LX_LOAD(sum, QN_LM_I32, zero)), scale);
  if (c->format->min_at >= 0) {
    const qn_lexpr *min = LX_LOAD(c->w, QN_LM_F16, LX_ADD(at.half_words, LX_INT(QN_TILE_ROWS)));
    accumulate(b, body, c->acc, qn_lop1(b, QN_LX_TO_F32, x_sum), LX_MUL(min, x_scale));
  }
}

// Weights widened in registers (numeric mode f32): one fma a value, k ascending.
static void widened_chain(qn_lower *lower, qn_lblock *block, const matmul_context *c) {
  qn_lbuild *b = &lower->build;
  qn_lvar *kb = qn_lvar_new(b, "kb");
  qn_lstmt *loop = qn_lfor(b, block, kb, LX_INT(0), LX_INT(c->k_size / c->format->block_values), QN_LO_REDUCE);
  if (!loop) return;
  qn_lblock *body = &loop->u.loop.body;
  block_places at = places_of(b, c, qn_lref(b, kb));
  const qn_lexpr *scale = LX_LOAD(c->w, QN_LM_F16, at.half_words);
  const qn_lexpr *k_base = LX_MUL(qn_lref(b, kb), LX_INT(c->format->block_values));
  int parts = 8 / (int)c->format->code_bits;
  for (int part = 0; part < parts; part++) {
    const qn_lexpr *g = NULL;
    qn_lblock *line = lines_loop(b, body, at.lines, &g);
    if (!line) return;
    const qn_lexpr *word = LX_LOAD(c->w, QN_LM_I32, LX_ADD(at.words, LX_MUL(g, LX_INT(QN_TILE_ROWS))));
    for (int byte = 0; byte < 4; byte++) {
      const qn_lexpr *shifted = qn_lop2(b, QN_LX_SHR, word, qn_li32(b, 8 * byte + 4 * part));
      const qn_lexpr *code = qn_lop2(b, QN_LX_AND, shifted, qn_li32(b, (1 << c->format->code_bits) - 1));
      const qn_lexpr *number = qn_lop1(b, QN_LX_TO_F32, LX_SUB(code, qn_li32(b, c->format->offset)));
      const qn_lexpr *weight = LX_MUL(number, scale);
      if (c->format->min_at >= 0) {
        weight = LX_FMA(number, scale, LX_LOAD(c->w, QN_LM_F16, LX_ADD(at.half_words, LX_INT(QN_TILE_ROWS))));
      }
      const qn_lexpr *k = LX_ADD(LX_ADD(k_base, LX_MUL(g, LX_INT(4))), LX_INT(part * at.lines * 4 + byte));
      accumulate(b, line, c->acc, qn_lower_value(lower, c->node->operands[0], (qn_lplace){c->row, k}), weight);
    }
  }
}

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
                      .k_size = w->dims[1].value};
  if (!c.w) return;
  c.acc = qn_llocal(b, block, "acc", QN_LM_F32, 1);
  qn_lstore(b, block, c.acc, QN_LM_F32, LX_INT(0), LX_F32(0));
  if (c.format->block_values == 1) {
    float_chain(lower, block, &c);
  } else if (x->dtype == QN_DTYPE_A8) {
    integer_chain(lower, block, &c);
  } else {
    widened_chain(lower, block, &c);
  }
  lower->values[id].expr = LX_LOAD(c.acc, QN_LM_F32, LX_INT(0));
}

qn_status qn_lower_matmul_group(qn_lower *lower) {
  qn_lbuild *b = &lower->build;
  const qn_graph *graph = lower->graph;
  const qn_node *first = NULL;
  for (qn_id id = 1; id < graph->nodes.count && !first; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->group == lower->group && node->op == QN_OP_MATMUL) first = node;
  }
  int64_t panels = (first->type.dims[1].value + QN_TILE_ROWS - 1) / QN_TILE_ROWS;
  qn_lvar *n = qn_lvar_new(b, "n"), *t = qn_lvar_new(b, "t"), *l = qn_lvar_new(b, "l");
  qn_lstmt *outer = qn_lfor(b, &b->kernel->body, n, LX_INT(0), LX_INT(panels), QN_LO_DATA);
  qn_lstmt *tokens =
      outer ? qn_lfor(b, &outer->u.loop.body, t, LX_INT(0), qn_ldim(b, first->type.dims[0]), QN_LO_DATA) : NULL;
  qn_lstmt *lanes = tokens ? qn_lfor(b, &tokens->u.loop.body, l, LX_INT(0), LX_INT(QN_TILE_ROWS), QN_LO_DATA) : NULL;
  if (!lanes) return qn_fail_nomem(lower->pass->diag, first->loc, "a kernel");
  qn_lblock *block = &lanes->u.loop.body;
  const qn_lexpr *row = qn_lref(b, t), *lane = qn_lref(b, l);
  const qn_lexpr *column = LX_ADD(LX_MUL(qn_lref(b, n), LX_INT(QN_TILE_ROWS)), lane);
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    const qn_node *node = qn_graph_node(graph, id);
    if (node->group == lower->group && node->op == QN_OP_MATMUL) chain(lower, block, id, qn_lref(b, n), row, lane);
  }
  for (qn_id id = 1; id < graph->nodes.count; id++) {
    if (qn_graph_node(graph, id)->group != lower->group || !lower->values[id].materialised) continue;
    qn_lplace place = {row, column};
    qn_lower_store(lower, block, id, place, qn_lower_value(lower, id, place));
  }
  return QN_OK;
}
