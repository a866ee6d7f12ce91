// Lowering of fused attention for GPUs, with the arithmetic of lower_attention_fused.c: chunks of 64 keys whose parts
// are relative to their own maximum, added up in order. Three kernels, of which a step runs those that have work:
//
//   parts  of up to FEW tokens: chunks are shared out among SPLITS groups a token and KV head, whose parts go to memory
//   merge  of these tokens: the parts of a query head, added up in order
//   runs   of more tokens: a group does a run of them (lower_attention_run.c) for a KV head, chunk by chunk
//
// A chunk's keys and values are brought into memory that a group shares, each byte once, for all rows that see them; a
// lane does a key's scores, or an element's sums of values, for a few rows, so that it loads each key once for them.
#include <math.h>

#include "passes/lower_attention.h"

enum {
  FEW = 8,
  SPLITS = 64,
  LINKS = 4,                 // of a chain that stand together, unrolled
  SCORE_PITCH = 80,          // of a row of scores: rows begin 16 banks apart
  PARTIALS = QN_TILE_ROWS,   // of a row's maximum and sum, strided
  ROWS_OF_LANE = 8,          // at most
  TILE_BYTES = 64 * 1024,    // of keys or values that are brought into shared memory, at most
  BOTH_BYTES = 40 * 1024,    // keys and values beside each other up to so many
  SHARED_BYTES = 96 * 1024,  // of a group: every chip has 99 KiB
  RUN_ROWS = 64,             // about, where they fit
  RUN_LANES = 256
};

typedef struct tile_context {
  qn_attention_run run;
  int64_t lanes;                 // of a group: flat loops are written for so many
  int64_t most_rows;             // there is room for
  int64_t lane_rows;             // done by a lane
  const qn_lexpr *blocks;        // of lane_rows rows that there are
  const qn_lbuf *query;          // f32 (most_rows, head_dim)
  const qn_lbuf *score;          // f32 (most_rows, SCORE_PITCH); then the weights
  const qn_lbuf *partial;        // f32 (most_rows, PARTIALS)
  const qn_lbuf *own;            // f32 a row: the chunk's maximum
  const qn_lbuf *keys, *values;  // a chunk of them, as in the pool; NULL = read where they are
  // runs: f32 a row, and out (most_rows, head_dim)
  const qn_lbuf *max, *sum, *factor, *share, *out;
  // parts: of chunks, in memory
  const qn_lbuf *tops, *sums, *parts;
  const qn_lexpr *token;
  // integer: of a row of queries; of a row's weights for a group of values
  qn_attention_factors queries, shares;
  int64_t query_pitch;  // of a row of `query`
} tile_context;

static int64_t head_dim_of(const tile_context *c) { return c->run.a->head_dim; }

static const qn_lexpr *f32_at(qn_lbuild *b, const qn_lbuf *buf, const qn_lexpr *at) {
  return LX_LOAD(buf, QN_LM_F32, at);
}

// ---- loops ------------------------------------------------------------------------------------------------------

// The body of a loop that the lanes share, over 0 .. count - 1: consecutive ones are done by consecutive lanes.
static qn_lblock *each(qn_lower *lower, qn_lblock *block, const tile_context *c, const qn_lexpr *count,
                       const qn_lexpr **out_index) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *lane = NULL, *turn = NULL, *lanes = LX_INT(c->lanes);
  qn_lblock *body = qn_lower_loop(lower, block, "lane", LX_INT(0), lanes, QN_LO_DATA, &lane);
  const qn_lexpr *turns = LX_ADD(LX_DIV(LX_SUB(LX_SUB(count, LX_INT(1)), lane), lanes), LX_INT(1));
  body = qn_lower_loop(lower, body, "turn", LX_INT(0), turns, QN_LO_REDUCE, &turn);
  *out_index = LX_ADD(LX_MUL(turn, lanes), lane);
  return body;
}

// for index in lo .. hi - 1, a few at a time.
typedef void (*link_fn)(qn_lower *lower, qn_lblock *block, tile_context *c, const qn_lexpr *index, void *context);
static void chain(qn_lower *lower, qn_lblock *block, tile_context *c, const qn_lexpr *lo, const qn_lexpr *hi,
                  link_fn link, void *context) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *links = LX_INT(LINKS), *line = NULL, *g = NULL, *rest = NULL;
  const qn_lexpr *count = qn_lop2(b, QN_LX_MAX, LX_SUB(hi, lo), zero), *whole = LX_DIV(count, links);
  qn_lblock *lines = qn_lower_loop(lower, block, "line", zero, whole, QN_LO_REDUCE, &line);
  qn_lblock *body = qn_lower_loop(lower, lines, "g", zero, links, QN_LO_REDUCE, &g);
  link(lower, body, c, LX_ADD(LX_ADD(lo, LX_MUL(line, links)), g), context);
  int64_t known = 0;
  if (b->failed || (qn_lexpr_is_int(count, &known) && known % LINKS == 0)) return;
  body = qn_lower_loop(lower, block, "rest", LX_ADD(lo, LX_MUL(whole, links)), LX_ADD(lo, count), QN_LO_REDUCE, &rest);
  link(lower, body, c, rest, context);
}

// ---- keys and values --------------------------------------------------------------------------------------------

// Brings the bytes of elements lo .. hi - 1 of the chunk's part of a pool into `tile`, 16 at a time: what begins or ends
// within 16 comes whole, and stays within the page, whose 64 keys are a multiple of those.
static void stage(qn_lower *lower, qn_lblock *block, const tile_context *c, qn_id cache, const qn_lbuf *tile,
                  const qn_lexpr *lo, const qn_lexpr *hi) {
  enum { WORDS = 4, BYTES = WORDS * sizeof(int32_t) };
  qn_lbuild *b = &lower->build;
  const qn_lexpr *piece = NULL, *words = LX_INT(WORDS);
  qn_lbuf *pool = qn_lower_param(lower, cache);
  if (!tile || !pool) return;
  const qn_attention *a = c->run.a;
  const qn_kv_page *p = cache == a->k_cache ? &a->k_page : &a->v_page;
  int64_t size = p->coded ? 1 : (int64_t)qn_lmem_size(pool->mem), in_piece = BYTES / size;
  const qn_lexpr *first = LX_DIV(lo, LX_INT(in_piece));
  const qn_lexpr *end = LX_DIV(LX_ADD(hi, LX_INT(in_piece - 1)), LX_INT(in_piece));
  qn_lblock *body = each(lower, block, c, LX_SUB(end, first), &piece);
  const qn_lexpr *page = LX_ADD(LX_MUL(c->run.page, LX_INT(a->kv_heads)), c->run.kv_head);
  const qn_lexpr *from = LX_MUL(page, LX_INT(p->head_bytes / (int64_t)sizeof(int32_t)));
  const qn_lexpr *at = LX_MUL(LX_ADD(first, piece), words);
  qn_lstore(b, body, tile, QN_LM_I32, at, qn_lload(b, pool, QN_LM_I32, LX_ADD(from, at), WORDS));
}

// An element of the chunk's part of a pool.
static const qn_lexpr *pool_element(qn_lower *lower, const tile_context *c, qn_id cache, const qn_lbuf *tile,
                                    const qn_lexpr *at) {
  qn_lbuild *b = &lower->build;
  if (tile) return LX_LOAD(tile, qn_lower_mem(qn_graph_node(lower->graph, cache)->type.dtype), at);
  qn_lbuf *pool = qn_lower_param(lower, cache);
  if (!pool) return NULL;
  return LX_LOAD(pool, pool->mem, qn_attention_pool_index(b, c->run.a, c->run.page, c->run.kv_head, at));
}

// The chunk's codes.
static qn_attention_codes chunk_codes(qn_lower *lower, const tile_context *c, qn_id cache, const qn_lbuf *tile) {
  const qn_attention *a = c->run.a;
  if (tile) return (qn_attention_codes){.page = cache == a->k_cache ? &a->k_page : &a->v_page, .buf = tile};
  return qn_attention_pool_codes(lower, a, cache, c->run.page, c->run.kv_head);
}

// What shared memory holds of a chunk at a time.
typedef struct tile_plan {
  qn_lmem keys, values;
  bool staged, both;  // at all; keys and values beside each other
  int64_t bytes;
} tile_plan;

static tile_plan plan_tiles(const qn_lower *lower, const qn_attention *a) {
  tile_plan plan = {.keys = qn_lower_mem(qn_graph_node(lower->graph, a->k_cache)->type.dtype),
                    .values = qn_lower_mem(qn_graph_node(lower->graph, a->v_cache)->type.dtype)};
  int64_t keys = a->k_page.head_bytes, values = a->v_page.head_bytes;
  if (a->k_page.coded) plan.keys = QN_LM_I32;
  if (a->v_page.coded) plan.values = QN_LM_I32;
  plan.staged = keys <= TILE_BYTES && values <= TILE_BYTES;
  plan.both = keys + values <= BOTH_BYTES;
  if (plan.staged) plan.bytes = plan.both ? keys + values : keys > values ? keys : values;
  return plan;
}

static void declare_tiles(qn_lower *lower, qn_lblock *block, tile_context *c) {
  qn_lbuild *b = &lower->build;
  tile_plan plan = plan_tiles(lower, c->run.a);
  int64_t words = plan.bytes / (int64_t)sizeof(int32_t);
  if (!plan.staged) return;
  if (!plan.both) {
    c->keys = c->values = qn_llocal(b, block, "tile", QN_LM_I32, words);
    return;
  }
  const qn_attention *a = c->run.a;
  c->keys = qn_llocal(b, block, "keys", plan.keys, a->k_page.head_bytes / (int64_t)qn_lmem_size(plan.keys));
  c->values = qn_llocal(b, block, "values", plan.values, a->v_page.head_bytes / (int64_t)qn_lmem_size(plan.values));
}

// ---- scores -----------------------------------------------------------------------------------------------------

// A lane's rows, from `row` on, and sums.
typedef struct lane_context {
  const qn_lexpr *row, *column;  // its key, or element of head_dim
  const qn_lbuf *acc;            // f32 (lane_rows)
  bool some;                     // some of the rows do not see the key
} lane_context;

static const qn_lexpr *row_of(qn_lbuild *b, const lane_context *l, int64_t i) { return LX_ADD(l->row, LX_INT(i)); }

static const qn_lexpr *score_at(qn_lbuild *b, const qn_lexpr *row, const qn_lexpr *key) {
  return LX_ADD(LX_MUL(row, LX_INT(SCORE_PITCH)), key);
}

static void start_lane(qn_lower *lower, qn_lblock *block, const tile_context *c, lane_context *l, float start) {
  qn_lbuild *b = &lower->build;
  l->acc = qn_llocal(b, block, "acc", QN_LM_F32, c->lane_rows);
  for (int64_t i = 0; i < c->lane_rows; i++) qn_lstore(b, block, l->acc, QN_LM_F32, LX_INT(i), LX_F32(start));
}

static void score_link(qn_lower *lower, qn_lblock *block, tile_context *c, const qn_lexpr *k, void *context) {
  qn_lbuild *b = &lower->build;
  const lane_context *l = context;
  const qn_lbuf *key = qn_llocal(b, block, "key", QN_LM_F32, 1);
  const qn_lexpr *at = LX_ADD(LX_MUL(k, LX_INT(QN_PAGE_KEYS)), l->column), *zero = LX_INT(0);
  if (c->run.a->k_page.coded) {
    qn_attention_codes codes = chunk_codes(lower, c, c->run.a->k_cache, c->keys);
    qn_lstore(b, block, key, QN_LM_F32, zero,
              qn_attention_code_number(b, &codes, k, LX_DIV(l->column, LX_INT(QN_TILE_ROWS)),
                                       LX_MOD(l->column, LX_INT(QN_TILE_ROWS))));
  } else {
    qn_lstore(b, block, key, QN_LM_F32, zero, pool_element(lower, c, c->run.a->k_cache, c->keys, at));
  }
  for (int64_t i = 0; i < c->lane_rows; i++) {
    const qn_lexpr *query = f32_at(b, c->query, LX_ADD(LX_MUL(row_of(b, l, i), LX_INT(c->query_pitch)), k));
    qn_lstore(b, block, l->acc, QN_LM_F32, LX_INT(i),
              LX_FMA(query, f32_at(b, key, zero), f32_at(b, l->acc, LX_INT(i))));
  }
}

// ---- codes ------------------------------------------------------------------------------------------------------

typedef const qn_lexpr *(*factor_fn)(qn_lower *lower, const tile_context *c, const qn_lexpr *block_index,
                                     const qn_lexpr *i);

static const qn_lexpr *i32_at(qn_lbuild *b, const qn_lbuf *buf, const qn_lexpr *at) {
  return LX_LOAD(buf, QN_LM_I32, at);
}

// Makes `count` blocks of codes: of a query, or of weights. A lane does a block; it begins with the number of its own, so
// that lanes whose blocks begin in one bank do not meet there. The maximum and the sum are the same in any order.
static void make_factors(qn_lower *lower, qn_lblock *block, const tile_context *c, const qn_attention_factors *f,
                         const qn_lexpr *count, factor_fn factor) {
  enum { VALUES = 32 };
  qn_lbuild *b = &lower->build;
  const qn_lexpr *e = NULL, *i = NULL, *zero = LX_INT(0), *values = LX_INT(VALUES);
  qn_lblock *body = each(lower, block, c, count, &e), *loop;
  const qn_lbuf *most = qn_llocal(b, body, "most", QN_LM_I32, 1), *sum = qn_llocal(b, body, "sum", QN_LM_I32, 1);
  qn_lstore(b, body, most, QN_LM_I32, zero, qn_li32(b, 0));
  loop = qn_lower_loop(lower, body, "i", zero, values, QN_LO_REDUCE, &i);
  const qn_lexpr *turned = LX_MOD(LX_ADD(e, i), values);
  qn_lstore(b, loop, most, QN_LM_I32, zero,
            qn_lop2(b, QN_LX_MAX, i32_at(b, most, zero), qn_lower_magnitude(b, factor(lower, c, e, turned))));
  const qn_lbuf *inverse = qn_llocal(b, body, "inverse", QN_LM_F32, 1);
  const qn_lexpr *max = qn_lop1(b, QN_LX_AS_F32, i32_at(b, most, zero));
  qn_lstore(b, body, inverse, QN_LM_F32, zero, qn_lower_code_inverse(b, max));
  qn_lstore(b, body, sum, QN_LM_I32, zero, qn_li32(b, 0));
  loop = qn_lower_loop(lower, body, "i", zero, values, QN_LO_REDUCE, &i);
  turned = LX_MOD(LX_ADD(e, i), values);
  const qn_lbuf *code = qn_llocal(b, loop, "code", QN_LM_I32, 1);
  qn_lstore(b, loop, code, QN_LM_I32, zero,
            qn_lower_code(b, factor(lower, c, e, turned), f32_at(b, inverse, zero), f->least));
  qn_lstore(b, loop, f->codes, QN_LM_I8, LX_ADD(LX_MUL(e, values), turned), i32_at(b, code, zero));
  qn_lstore(b, loop, sum, QN_LM_I32, zero, LX_ADD(i32_at(b, sum, zero), i32_at(b, code, zero)));
  qn_lstore(b, body, f->scales, QN_LM_F32, e, qn_lower_code_scale(b, max));
  qn_lstore(b, body, f->sums, QN_LM_I32, e, i32_at(b, sum, zero));
}

// A lane's rows times a chunk's codes: of row i of the lane, the factors of row `row` + i * `step`.
typedef struct block_context {
  const tile_context *c;
  const lane_context *l;
  const qn_attention_factors *factors;
  const qn_lexpr *first;  // of the lane's first row
  int64_t step;
  const qn_lexpr *panel, *lane;
} block_context;

static void add_block(qn_lower *lower, qn_lblock *block, const qn_attention_codes *codes, const qn_lexpr *kb,
                      int64_t words, void *context) {
  enum { WORDS = 8 };
  qn_lbuild *b = &lower->build;
  const block_context *x = context;
  const qn_attention_factors *f = x->factors;
  const qn_lexpr *zero = LX_INT(0), *g = NULL;
  const qn_lbuf *sums = qn_llocal(b, block, "sums", QN_LM_I32, x->c->lane_rows);
  for (int64_t i = 0; i < x->c->lane_rows; i++) {
    const qn_lexpr *at = LX_ADD(LX_MUL(LX_ADD(x->first, LX_INT(i * x->step)), LX_INT(f->row_blocks)), kb);
    qn_lstore(b, block, sums, QN_LM_I32, LX_INT(i), qn_attention_dot_start(b, codes, f, at));
  }
  qn_lblock *body = qn_lower_loop(lower, block, "g", zero, LX_INT(words), QN_LO_REDUCE, &g);
  const qn_lbuf *word = qn_llocal(b, body, "word", QN_LM_I32, 1);
  const qn_lexpr *along = LX_ADD(LX_MUL(kb, LX_INT(WORDS)), g);
  qn_lstore(b, body, word, QN_LM_I32, zero, qn_attention_code_word(b, codes, along, x->panel, x->lane));
  for (int64_t i = 0; i < x->c->lane_rows; i++) {
    const qn_lexpr *row = LX_MUL(LX_ADD(x->first, LX_INT(i * x->step)), LX_INT(f->row_blocks * WORDS));
    const qn_lexpr *dot = qn_attention_dot(b, codes, i32_at(b, sums, LX_INT(i)), i32_at(b, word, zero),
                                           i32_at(b, f->codes, LX_ADD(row, along)));
    qn_lstore(b, body, sums, QN_LM_I32, LX_INT(i), dot);
  }
  for (int64_t i = 0; i < x->c->lane_rows; i++) {
    const qn_lexpr *at = LX_ADD(LX_MUL(LX_ADD(x->first, LX_INT(i * x->step)), LX_INT(f->row_blocks)), kb);
    const qn_lexpr *number = qn_lop1(b, QN_LX_TO_F32, i32_at(b, sums, LX_INT(i)));
    qn_lstore(b, block, x->l->acc, QN_LM_F32, LX_INT(i),
              LX_FMA(number, f32_at(b, f->scales, at), f32_at(b, x->l->acc, LX_INT(i))));
  }
}

static const qn_lexpr *query_factor(qn_lower *lower, const tile_context *c, const qn_lexpr *block_index,
                                    const qn_lexpr *i) {
  qn_lbuild *b = &lower->build;
  return f32_at(b, c->query, LX_ADD(LX_MUL(block_index, LX_INT(32)), i));
}

// Blocks of weights: 2 halves of a chunk, groups, rows.
static const qn_lexpr *weight_factor(qn_lower *lower, const tile_context *c, const qn_lexpr *block_index,
                                     const qn_lexpr *i) {
  qn_lbuild *b = &lower->build;
  const qn_attention *a = c->run.a;
  const qn_lexpr *two = LX_INT(2), *groups = LX_INT(a->v_page.groups), *share = LX_DIV(block_index, two);
  const qn_lexpr *row = LX_DIV(share, groups), *key = LX_ADD(LX_MUL(LX_MOD(block_index, two), LX_INT(32)), i);
  qn_attention_codes values = chunk_codes(lower, c, a->v_cache, c->values);
  return qn_attention_value_weight(lower, &c->run, &values, f32_at(b, c->score, score_at(b, row, key)), row,
                                   LX_MOD(share, groups), key);
}

// ---- scores, all of them ----------------------------------------------------------------------------------------

static void make_scores(qn_lower *lower, qn_lblock *block, tile_context *c) {
  qn_lbuild *b = &lower->build;
  lane_context l = {.some = false};
  const qn_lexpr *e = NULL, *keys = LX_INT(QN_PAGE_KEYS), *zero = LX_INT(0);
  qn_lblock *body = each(lower, block, c, LX_MUL(c->blocks, keys), &e);
  l.row = LX_MUL(LX_DIV(e, keys), LX_INT(c->lane_rows));
  l.column = LX_MOD(e, keys);
  start_lane(lower, body, c, &l, 0);
  const qn_attention *a = c->run.a;
  qn_attention_codes codes = {.page = &a->k_page};
  if (a->k_page.coded) codes = chunk_codes(lower, c, a->k_cache, c->keys);
  if (a->k_page.coded && a->integer) {
    const qn_lexpr *width = LX_INT(QN_TILE_ROWS);
    block_context x = {c, &l, &c->queries, l.row, 1, LX_DIV(l.column, width), LX_MOD(l.column, width)};
    qn_attention_each_block(lower, body, &codes, add_block, &x);
  } else {
    chain(lower, body, c, zero, LX_INT(head_dim_of(c)), score_link, &l);
  }
  for (int64_t i = 0; i < c->lane_rows; i++) {
    const qn_lexpr *row = row_of(b, &l, i), *dot = f32_at(b, l.acc, LX_INT(i));
    if (a->k_page.coded) dot = LX_MUL(dot, qn_attention_code_scale(b, &codes, zero, l.column));
    qn_lstore(b, body, c->score, QN_LM_F32, score_at(b, row, l.column),
              qn_attention_row_score(lower, &c->run, dot, row, zero, l.column));
  }
}

// ---- softmax ----------------------------------------------------------------------------------------------------

// The place of number `i` of a row's partial results. Rows are turned by their number's bits backwards: whatever part of
// a row is folded, what 32 lanes touch lies in 32 banks.
static const qn_lexpr *partial_at(qn_lbuild *b, const qn_lexpr *row, const qn_lexpr *i) {
  const qn_lexpr *turn = LX_INT(0), *two = LX_INT(2);
  for (int64_t bit = 2, weight = PARTIALS / 2; weight >= 1; bit *= 2, weight /= 2)
    turn = LX_ADD(turn, LX_MUL(LX_MOD(LX_DIV(row, LX_INT(bit)), two), LX_INT(weight)));
  return LX_ADD(LX_MUL(row, LX_INT(PARTIALS)), LX_MOD(LX_ADD(i, turn), LX_INT(PARTIALS)));
}

// Folds each row's 64 scores into partial[row][0]: strided partial results and a tree, as qn_lower_reduce does.
static void reduce_rows(qn_lower *lower, qn_lblock *block, tile_context *c, qn_lop op, float start) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *e = NULL, *rows = c->run.rows, *width = LX_INT(PARTIALS), *zero = LX_INT(0);
  qn_lblock *body = each(lower, block, c, LX_MUL(rows, width), &e);
  const qn_lbuf *acc = qn_llocal(b, body, "acc", QN_LM_F32, 1);
  qn_lstore(b, body, acc, QN_LM_F32, zero, LX_F32(start));
  for (int64_t i = 0; i < QN_PAGE_KEYS; i += PARTIALS) {
    const qn_lexpr *at = score_at(b, LX_DIV(e, width), LX_ADD(LX_MOD(e, width), LX_INT(i)));
    qn_lstore(b, body, acc, QN_LM_F32, zero, qn_lop2(b, op, f32_at(b, acc, zero), f32_at(b, c->score, at)));
  }
  qn_lstore(b, body, c->partial, QN_LM_F32, partial_at(b, LX_DIV(e, width), LX_MOD(e, width)), f32_at(b, acc, zero));
  for (int64_t half = PARTIALS / 2; half >= 1; half /= 2) {
    body = each(lower, block, c, LX_MUL(rows, LX_INT(half)), &e);
    const qn_lexpr *row = LX_DIV(e, LX_INT(half)), *i = LX_MOD(e, LX_INT(half)), *at = partial_at(b, row, i);
    const qn_lexpr *x = f32_at(b, c->partial, at);
    const qn_lexpr *y = f32_at(b, c->partial, partial_at(b, row, LX_ADD(i, LX_INT(half))));
    qn_lstore(b, body, c->partial, QN_LM_F32, at, qn_lop2(b, op, x, y));
  }
}

static const qn_lexpr *reduced(qn_lbuild *b, const tile_context *c, const qn_lexpr *row) {
  return f32_at(b, c->partial, partial_at(b, row, LX_INT(0)));
}

// The chunk's maxima, the weights relative to them, and the weights' sums (reduced).
static void make_weights(qn_lower *lower, qn_lblock *block, tile_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *e = NULL, *keys = LX_INT(QN_PAGE_KEYS);
  reduce_rows(lower, block, c, QN_LX_MAX, -INFINITY);
  qn_lblock *body = each(lower, block, c, c->run.rows, &e);
  qn_lstore(b, body, c->own, QN_LM_F32, e, reduced(b, c, e));
  body = each(lower, block, c, LX_MUL(c->run.rows, keys), &e);
  const qn_lexpr *row = LX_DIV(e, keys), *at = score_at(b, row, LX_MOD(e, keys));
  const qn_lexpr *least = qn_attention_least(b, f32_at(b, c->own, row));
  qn_lstore(b, body, c->score, QN_LM_F32, at, qn_lop1(b, QN_LX_EXP, LX_SUB(f32_at(b, c->score, at), least)));
  reduce_rows(lower, block, c, QN_LX_ADD, 0);
}

// ---- values -----------------------------------------------------------------------------------------------------

static void value_link(qn_lower *lower, qn_lblock *block, tile_context *c, const qn_lexpr *key, void *context) {
  qn_lbuild *b = &lower->build;
  const lane_context *l = context;
  const qn_lbuf *value = qn_llocal(b, block, "value", QN_LM_F32, 1);
  const qn_lexpr *at = LX_ADD(LX_MUL(key, LX_INT(head_dim_of(c))), l->column), *zero = LX_INT(0);
  qn_lstore(b, block, value, QN_LM_F32, zero, pool_element(lower, c, c->run.a->v_cache, c->values, at));
  for (int64_t i = 0; i < c->lane_rows; i++) {
    const qn_lexpr *row = row_of(b, l, i), *old = f32_at(b, l->acc, LX_INT(i));
    const qn_lexpr *sum = LX_FMA(f32_at(b, c->score, score_at(b, row, key)), f32_at(b, value, zero), old);
    if (l->some) sum = qn_lop3(b, QN_LX_SELECT, qn_attention_is_seen(b, &c->run, row, zero, key), sum, old);
    qn_lstore(b, block, l->acc, QN_LM_F32, LX_INT(i), sum);
  }
}

static void code_value_link(qn_lower *lower, qn_lblock *block, tile_context *c, const qn_lexpr *key, void *context) {
  qn_lbuild *b = &lower->build;
  const lane_context *l = context;
  const qn_lexpr *zero = LX_INT(0), *panel = LX_DIV(l->column, LX_INT(QN_TILE_ROWS));
  const qn_lbuf *value = qn_llocal(b, block, "value", QN_LM_F32, 1);
  qn_attention_codes values = chunk_codes(lower, c, c->run.a->v_cache, c->values);
  const qn_lexpr *group = qn_attention_panel_group(b, values.page, panel);
  qn_lstore(b, block, value, QN_LM_F32, zero,
            qn_attention_code_number(b, &values, key, panel, LX_MOD(l->column, LX_INT(QN_TILE_ROWS))));
  for (int64_t i = 0; i < c->lane_rows; i++) {
    const qn_lexpr *row = row_of(b, l, i), *weight = f32_at(b, c->score, score_at(b, row, key));
    weight = qn_attention_value_weight(lower, &c->run, &values, weight, row, group, key);
    qn_lstore(b, block, l->acc, QN_LM_F32, LX_INT(i),
              LX_FMA(weight, f32_at(b, value, zero), f32_at(b, l->acc, LX_INT(i))));
  }
}

// All keys of the chunk: those that a row does not see have weight 0, and codes are numbers.
static void sum_codes(qn_lower *lower, qn_lblock *block, tile_context *c, const lane_context *l) {
  qn_lbuild *b = &lower->build;
  const qn_attention *a = c->run.a;
  if (!a->integer) {
    chain(lower, block, c, LX_INT(0), LX_INT(QN_PAGE_KEYS), code_value_link, (void *)(uintptr_t)l);
    return;
  }
  const qn_lexpr *width = LX_INT(QN_TILE_ROWS), *panel = LX_DIV(l->column, width);
  const qn_lexpr *group = qn_attention_panel_group(b, &a->v_page, panel), *groups = LX_INT(a->v_page.groups);
  block_context x = {c, l, &c->shares, LX_ADD(LX_MUL(l->row, groups), group), a->v_page.groups, panel,
                     LX_MOD(l->column, width)};
  qn_attention_codes values = chunk_codes(lower, c, a->v_cache, c->values);
  qn_attention_each_block(lower, block, &values, add_block, &x);
}

// What becomes of an element of a row's part.
typedef void (*part_fn)(qn_lower *lower, qn_lblock *block, tile_context *c, const qn_lexpr *row,
                        const qn_lexpr *element, const qn_lexpr *part);

// Keys that all tokens of the run see, and before (where there is a window) and after them those that some see: what a
// page held before may be NaN.
static void sum_values(qn_lower *lower, qn_lblock *block, tile_context *c, part_fn finish) {
  qn_lbuild *b = &lower->build;
  lane_context l = {.some = true};
  int64_t tokens = 0;
  const qn_lexpr *e = NULL, *width = LX_INT(head_dim_of(c)), *zero = LX_INT(0);
  const qn_lexpr *low = qn_attention_load_index(b, c->run.low, zero);
  const qn_lexpr *high = qn_attention_load_index(b, c->run.high, zero);
  const qn_lexpr *low_place = qn_attention_load_index(b, c->run.low_place, zero);
  const qn_lexpr *high_place = qn_attention_load_index(b, c->run.high_place, zero);
  const qn_lexpr *first = qn_attention_first_seen(b, &c->run, low_place), *end = qn_attention_end_seen(b, &c->run, high);
  const qn_lexpr *all_end = qn_attention_end_seen(b, &c->run, low);
  const qn_lexpr *all_first = qn_lop2(b, QN_LX_MIN, qn_attention_first_seen(b, &c->run, high_place), all_end);
  qn_lblock *body = each(lower, block, c, LX_MUL(c->blocks, width), &e);
  l.row = LX_MUL(LX_DIV(e, width), LX_INT(c->lane_rows));
  l.column = LX_MOD(e, width);
  start_lane(lower, body, c, &l, c->run.a->v_page.coded ? 0 : -0.0f);
  bool alone = qn_lexpr_is_int(c->run.tokens, &tokens), coded = c->run.a->v_page.coded;
  if (coded) sum_codes(lower, body, c, &l);
  if (!coded && c->run.a->window > 0 && !alone) chain(lower, body, c, first, all_first, value_link, &l);
  l.some = false;
  if (!coded) chain(lower, body, c, all_first, all_end, value_link, &l);
  l.some = true;
  if (!coded && !alone) chain(lower, body, c, all_end, end, value_link, &l);
  for (int64_t i = 0; i < c->lane_rows; i++)
    finish(lower, body, c, row_of(b, &l, i), l.column, f32_at(b, l.acc, LX_INT(i)));
}

// Brings the keys, and the values too where there is room beside them; scores and weights.
static void begin_chunk(qn_lower *lower, qn_lblock *block, tile_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_attention *a = c->run.a;
  const qn_lexpr *zero = LX_INT(0), *width = LX_INT(a->head_dim);
  const qn_lexpr *first = qn_attention_first_seen(b, &c->run, qn_attention_load_index(b, c->run.low_place, zero));
  const qn_lexpr *end = qn_attention_end_seen(b, &c->run, qn_attention_load_index(b, c->run.high, zero));
  c->run.page = qn_attention_load_index(b, a->table, LX_ADD(c->run.table_row, c->run.chunk));
  const qn_lexpr *from = LX_MUL(first, width), *to = LX_MUL(end, width), *all = LX_MUL(width, LX_INT(QN_PAGE_KEYS));
  if (a->k_page.coded) all = LX_INT(a->k_page.head_bytes);
  if (a->v_page.coded) from = zero, to = LX_INT(a->v_page.head_bytes);
  stage(lower, block, c, a->k_cache, c->keys, zero, all);
  if (c->values != c->keys) stage(lower, block, c, a->v_cache, c->values, from, to);
  make_scores(lower, block, c);
  if (c->values && c->values == c->keys) stage(lower, block, c, a->v_cache, c->values, from, to);
  make_weights(lower, block, c);
  if (!a->v_page.coded || !a->integer) return;
  make_factors(lower, block, c, &c->shares, LX_MUL(LX_MUL(c->blocks, LX_INT(c->lane_rows)), LX_INT(2 * a->v_page.groups)),
               weight_factor);
}

// ---- what all kernels begin with --------------------------------------------------------------------------------

static int64_t query_pitch(const qn_attention *a) {
  return a->k_page.coded && a->integer ? qn_attention_code_blocks(&a->k_page) * 32 : a->head_dim;
}

// Bytes of the codes that a row needs.
static int64_t factor_bytes(const qn_attention *a) {
  enum { BLOCK_BYTES = 32 + 2 * sizeof(float) };
  int64_t keys = a->k_page.coded ? qn_attention_code_blocks(&a->k_page) : 0;
  int64_t values = a->v_page.coded ? qn_attention_code_blocks(&a->v_page) * a->v_page.groups : 0;
  return a->integer ? (keys + values) * BLOCK_BYTES : 0;
}

// Declares what rows need, and fills in queries and positions: rows beyond those that there are see nothing.
static void start_run(qn_lower *lower, qn_lblock *block, tile_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_attention *a = c->run.a;
  const qn_lexpr *e = NULL, *group = LX_INT(a->group);
  const qn_lexpr *lane_rows = LX_INT(c->lane_rows);
  c->run.rows = LX_MUL(c->run.tokens, group);
  c->blocks = LX_DIV(LX_ADD(c->run.rows, LX_INT(c->lane_rows - 1)), lane_rows);
  c->run.table_row = LX_MUL(qn_attention_token_index(lower, a->seq, c->run.first), qn_lsym(b, QN_SYM_P));
  qn_attention_declare_positions(lower, block, &c->run, c->most_rows);
  c->query_pitch = query_pitch(a);
  if (a->k_page.coded && a->integer)
    c->queries = qn_attention_declare_factors(b, block, c->most_rows, &a->k_page);
  if (a->v_page.coded && a->integer) {
    int64_t shares = c->most_rows * a->v_page.groups;
    c->shares = qn_attention_declare_factors(b, block, shares, &a->v_page);
  }
  c->query = qn_llocal(b, block, "query", QN_LM_F32, c->most_rows * c->query_pitch);
  c->score = qn_llocal(b, block, "score", QN_LM_F32, c->most_rows * SCORE_PITCH);
  c->partial = qn_llocal(b, block, "partial", QN_LM_F32, c->most_rows * PARTIALS);
  c->own = qn_llocal(b, block, "own", QN_LM_F32, c->most_rows);
  declare_tiles(lower, block, c);
  qn_attention_find_positions(lower, block, &c->run);
  const qn_lexpr *last = LX_SUB(c->run.rows, LX_INT(1));
  qn_lblock *body = each(lower, block, c, LX_MUL(c->blocks, lane_rows), &e);
  const qn_lexpr *token = LX_ADD(c->run.first, LX_DIV(qn_lop2(b, QN_LX_MIN, e, last), group));
  const qn_lexpr *pos = qn_lop1(b, QN_LX_TO_I32, qn_attention_last_key(lower, a, token));
  qn_lstore(b, body, c->run.position, QN_LM_I32, e,
            qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_LE, e, last), pos, qn_li32(b, -1)));
  if (c->run.place != c->run.position) {
    const qn_lexpr *at = qn_lop1(b, QN_LX_TO_I32, qn_attention_place(lower, a, token));
    qn_lstore(b, body, c->run.place, QN_LM_I32, e, at);
  }
  const qn_lexpr *width = LX_INT(c->query_pitch), *all = LX_MUL(c->blocks, lane_rows);
  body = each(lower, block, c, LX_MUL(all, width), &e);
  const qn_lexpr *row = qn_lop2(b, QN_LX_MIN, LX_DIV(e, width), last), *element = LX_MOD(e, width);
  token = LX_ADD(c->run.first, LX_DIV(row, group));
  bool padded = c->query_pitch > a->head_dim;
  const qn_lexpr *within = padded ? qn_lop2(b, QN_LX_MIN, element, LX_INT(a->head_dim - 1)) : element;
  const qn_lexpr *at = qn_attention_head_element(b, &c->run, row, within);
  const qn_lexpr *query = qn_lower_value(lower, a->q, (qn_lplace){token, at});
  if (padded)
    query = qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_LT, element, LX_INT(a->head_dim)), query, LX_F32(0));
  qn_lstore(b, body, c->query, QN_LM_F32, e, query);
  if (c->queries.codes)
    make_factors(lower, block, c, &c->queries, LX_MUL(all, LX_INT(c->queries.row_blocks)), query_factor);
}

static int64_t rows_up(const tile_context *c, int64_t rows) {
  return (rows + c->lane_rows - 1) / c->lane_rows * c->lane_rows;
}

// Stores an element of the attention's result for a query head.
static void store_result(qn_lower *lower, qn_lblock *block, const tile_context *c, const qn_lexpr *token,
                         const qn_lexpr *at, const qn_lexpr *value) {
  qn_id id = (qn_id)(c->run.a->node - lower->graph->nodes.items);
  qn_lower_store(lower, block, id, (qn_lplace){token, at}, qn_attention_result(&lower->build, c->run.a, value));
}

// ---- parts ------------------------------------------------------------------------------------------------------

// The place of a token's query head, with `width` elements, in a chunk's row.
static const qn_lexpr *part_at(qn_lbuild *b, const tile_context *c, const qn_lexpr *head, int64_t width) {
  const qn_attention *a = c->run.a;
  int64_t heads = a->kv_heads * a->group;
  const qn_lexpr *row = LX_MUL(c->run.chunk, LX_INT(qn_lower_pitch(FEW * heads * width)));
  return LX_ADD(row, LX_MUL(LX_ADD(LX_MUL(c->token, LX_INT(heads)), head), LX_INT(width)));
}

static const qn_lexpr *head_of(qn_lbuild *b, const tile_context *c, const qn_lexpr *row) {
  return LX_ADD(LX_MUL(c->run.kv_head, LX_INT(c->run.a->group)), row);
}

static void store_part(qn_lower *lower, qn_lblock *block, tile_context *c, const qn_lexpr *row, const qn_lexpr *element,
                       const qn_lexpr *part) {
  qn_lbuild *b = &lower->build;
  int64_t width = head_dim_of(c);
  if (c->run.a->group % c->lane_rows != 0)
    block = qn_lower_when(lower, block, qn_lop2(b, QN_LX_LT, row, LX_INT(c->run.a->group)));
  const qn_lexpr *at = LX_ADD(part_at(b, c, head_of(b, c, row), width), element);
  qn_lstore(b, block, c->parts, QN_LM_F32, at, part);
}

static void part_of_chunk(qn_lower *lower, qn_lblock *block, tile_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *row = NULL;
  begin_chunk(lower, block, c);
  qn_lblock *rows = each(lower, block, c, c->run.rows, &row);
  const qn_lexpr *at = part_at(b, c, head_of(b, c, row), 1);
  qn_lstore(b, rows, c->tops, QN_LM_F32, at, f32_at(b, c->own, row));
  qn_lstore(b, rows, c->sums, QN_LM_F32, at, reduced(b, c, row));
  sum_values(lower, block, c, store_part);
}

// for h in 0 .. tokens * width, where the step has few tokens.
static qn_lblock *each_of_few(qn_lower *lower, const qn_attention *a, int64_t width, const qn_lexpr **out_h) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *tokens = qn_ldim(b, a->node->type.dims[0]), *few = LX_INT(FEW);
  const qn_lexpr *extent = LX_MUL(qn_lop2(b, QN_LX_MIN, tokens, few), LX_INT(width));
  qn_lblock *block = qn_lower_loop(lower, &b->kernel->body, "h", LX_INT(0), extent, QN_LO_DATA, out_h);
  return qn_lower_when(lower, block, qn_lop2(b, QN_LX_LE, tokens, few));
}

// Iteration h is a token, a KV head and a split of the chunks, the last varying fastest.
static void write_parts(qn_lower *lower, tile_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_attention *a = c->run.a;
  const qn_lexpr *h = NULL, *turn = NULL, *zero = LX_INT(0), *splits = LX_INT(SPLITS);
  int64_t half = (a->group + 1) / 2;
  c->lanes = a->group > 1 ? 2 * QN_PAGE_KEYS : QN_PAGE_KEYS;
  c->lane_rows = half < ROWS_OF_LANE ? half : ROWS_OF_LANE;
  c->most_rows = rows_up(c, a->group);
  qn_lblock *block = each_of_few(lower, a, a->kv_heads * SPLITS, &h);
  c->token = c->run.first = LX_DIV(h, LX_INT(a->kv_heads * SPLITS));
  c->run.kv_head = LX_MOD(LX_DIV(h, splits), LX_INT(a->kv_heads));
  c->run.tokens = LX_INT(1);
  const qn_lexpr *end = qn_attention_last_page(b, qn_attention_last_key(lower, a, c->token));
  const qn_lexpr *lo = LX_ADD(qn_attention_first_page(b, a, qn_attention_place(lower, a, c->token)), LX_MOD(h, splits));
  const qn_lexpr *count = LX_DIV(LX_ADD(LX_SUB(end, lo), LX_INT(SPLITS - 1)), splits);
  block = qn_lower_when(lower, block, qn_lop2(b, QN_LX_LT, zero, count));
  start_run(lower, block, c);
  block = qn_lower_loop(lower, block, "turn", zero, count, QN_LO_REDUCE, &turn);
  c->run.chunk = LX_ADD(lo, LX_MUL(turn, splits));
  part_of_chunk(lower, block, c);
}

// ---- merge ------------------------------------------------------------------------------------------------------

typedef struct merge_context {
  const qn_lbuf *max, *sum, *out;  // f32 (1) each
  const qn_lbuf *next, *power, *factor, *share;
  const qn_lexpr *head, *element;
} merge_context;

static void merge_link(qn_lower *lower, qn_lblock *block, tile_context *c, const qn_lexpr *chunk, void *context) {
  qn_lbuild *b = &lower->build;
  const merge_context *m = context;
  const qn_lexpr *zero = LX_INT(0);
  c->run.chunk = chunk;
  const qn_lexpr *at = part_at(b, c, m->head, 1);
  const qn_lexpr *part_place = LX_ADD(part_at(b, c, m->head, head_dim_of(c)), m->element);
  const qn_lexpr *top = f32_at(b, c->tops, at), *sum = f32_at(b, c->sums, at), *part = f32_at(b, c->parts, part_place);
  const qn_lexpr *old = f32_at(b, m->max, zero), *now = f32_at(b, m->next, zero);
  const qn_lexpr *factor = f32_at(b, m->factor, zero), *share = f32_at(b, m->share, zero);
  const qn_lexpr *power = f32_at(b, m->power, zero);
  qn_lstore(b, block, m->next, QN_LM_F32, zero, qn_lop2(b, QN_LX_MAX, top, old));
  qn_lstore(b, block, m->power, QN_LM_F32, zero, qn_attention_power(b, old, top, now));
  qn_lstore(b, block, m->factor, QN_LM_F32, zero, qn_attention_factor(b, old, now, power));
  qn_lstore(b, block, m->share, QN_LM_F32, zero, qn_attention_factor(b, top, now, power));
  qn_lstore(b, block, m->max, QN_LM_F32, zero, now);
  qn_lstore(b, block, m->sum, QN_LM_F32, zero, qn_attention_merge(b, f32_at(b, m->sum, zero), factor, sum, share));
  qn_lstore(b, block, m->out, QN_LM_F32, zero, qn_attention_merge(b, f32_at(b, m->out, zero), factor, part, share));
}

// Iteration h is a query head of a token; a lane does an element.
static void write_merge(qn_lower *lower, tile_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_attention *a = c->run.a;
  const qn_lexpr *h = NULL, *zero = LX_INT(0), *heads = LX_INT(a->kv_heads * a->group);
  merge_context m = {.head = NULL};
  qn_lblock *block = each_of_few(lower, a, a->kv_heads * a->group, &h);
  c->token = LX_DIV(h, heads);
  m.head = LX_MOD(h, heads);
  const qn_lexpr *first_page = qn_attention_first_page(b, a, qn_attention_place(lower, a, c->token));
  const qn_lexpr *end_page = qn_attention_last_page(b, qn_attention_last_key(lower, a, c->token));
  block = qn_lower_loop(lower, block, "element", zero, LX_INT(a->head_dim), QN_LO_DATA, &m.element);
  const qn_lbuf **locals[] = {&m.max, &m.sum, &m.out, &m.next, &m.power, &m.factor, &m.share};
  for (size_t i = 0; i < QN_COUNT(locals); i++) *locals[i] = qn_llocal(b, block, "merged", QN_LM_F32, 1);
  qn_lstore(b, block, m.max, QN_LM_F32, zero, LX_F32(-INFINITY));
  qn_lstore(b, block, m.sum, QN_LM_F32, zero, LX_F32(0));
  qn_lstore(b, block, m.out, QN_LM_F32, zero, LX_F32(0));
  chain(lower, block, c, first_page, end_page, merge_link, &m);
  const qn_lexpr *inverse = LX_DIV(LX_F32(1), f32_at(b, m.sum, zero));
  const qn_lexpr *at = LX_ADD(LX_MUL(m.head, LX_INT(a->head_dim)), m.element);
  store_result(lower, block, c, c->token, at, LX_MUL(f32_at(b, m.out, zero), inverse));
}

// ---- runs -------------------------------------------------------------------------------------------------------

static void merge_run(qn_lower *lower, qn_lblock *block, tile_context *c, const qn_lexpr *row, const qn_lexpr *element,
                      const qn_lexpr *part) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *at = LX_ADD(LX_MUL(row, LX_INT(head_dim_of(c))), element);
  qn_lstore(b, block, c->out, QN_LM_F32, at,
            qn_attention_merge(b, f32_at(b, c->out, at), f32_at(b, c->factor, row), part, f32_at(b, c->share, row)));
}

static void chunk_of_run(qn_lower *lower, qn_lblock *block, tile_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *row = NULL, *zero = LX_INT(0);
  begin_chunk(lower, block, c);
  qn_lblock *rows = each(lower, block, c, c->run.rows, &row);
  const qn_lbuf *next = qn_llocal(b, rows, "next", QN_LM_F32, 1), *less = qn_llocal(b, rows, "less", QN_LM_F32, 1);
  const qn_lexpr *power = f32_at(b, less, zero);
  const qn_lexpr *own = f32_at(b, c->own, row), *old = f32_at(b, c->max, row), *now = f32_at(b, next, zero);
  qn_lstore(b, rows, next, QN_LM_F32, zero, qn_lop2(b, QN_LX_MAX, own, old));
  qn_lstore(b, rows, less, QN_LM_F32, zero, qn_attention_power(b, old, own, now));
  qn_lstore(b, rows, c->factor, QN_LM_F32, row, qn_attention_factor(b, old, now, power));
  qn_lstore(b, rows, c->share, QN_LM_F32, row, qn_attention_factor(b, own, now, power));
  qn_lstore(b, rows, c->max, QN_LM_F32, row, now);
  qn_lstore(b, rows, c->sum, QN_LM_F32, row,
            qn_attention_merge(b, f32_at(b, c->sum, row), f32_at(b, c->factor, row), reduced(b, c, row),
                               f32_at(b, c->share, row)));
  sum_values(lower, block, c, merge_run);
}

static void do_run(qn_lower *lower, qn_lblock *block, tile_context *c, int64_t most) {
  qn_lbuild *b = &lower->build;
  const qn_attention *a = c->run.a;
  const qn_lexpr *e = NULL, *zero = LX_INT(0), *width = LX_INT(a->head_dim), *group = LX_INT(a->group);
  qn_attention_count_tokens(lower, block, &c->run, most);
  const qn_lbuf **rows[] = {&c->max, &c->sum, &c->factor, &c->share};
  for (size_t i = 0; i < QN_COUNT(rows); i++) *rows[i] = qn_llocal(b, block, "of_row", QN_LM_F32, c->most_rows);
  c->out = qn_llocal(b, block, "out", QN_LM_F32, c->most_rows * a->head_dim);
  start_run(lower, block, c);
  const qn_lexpr *all = LX_MUL(c->blocks, LX_INT(c->lane_rows));  // rows that there are not come out as well
  qn_lblock *body = each(lower, block, c, all, &e);
  const float starts[] = {-INFINITY, 0, 1, 1};
  for (size_t i = 0; i < QN_COUNT(rows); i++) qn_lstore(b, body, *rows[i], QN_LM_F32, e, LX_F32(starts[i]));
  body = each(lower, block, c, LX_MUL(all, width), &e);
  qn_lstore(b, body, c->out, QN_LM_F32, e, LX_F32(0));
  const qn_lexpr *lo = qn_attention_first_page(b, a, qn_attention_load_index(b, c->run.low_place, zero));
  const qn_lexpr *hi = qn_attention_last_page(b, qn_attention_load_index(b, c->run.high, zero));
  chunk_of_run(lower, qn_lower_loop(lower, block, "chunk", lo, hi, QN_LO_REDUCE, &c->run.chunk), c);
  body = each(lower, block, c, LX_MUL(c->run.rows, width), &e);
  const qn_lexpr *row = LX_DIV(e, width), *token = LX_ADD(c->run.first, LX_DIV(row, group));
  const qn_lexpr *inverse = LX_DIV(LX_F32(1), f32_at(b, c->sum, row));
  store_result(lower, body, c, token, qn_attention_head_element(b, &c->run, row, LX_MOD(e, width)),
               LX_MUL(f32_at(b, c->out, e), inverse));
}

// Tokens of a run: as many as there is room for.
static int64_t tokens_of_run(qn_lower *lower, const qn_attention *a) {
  int64_t staged = plan_tiles(lower, a).bytes, rows = RUN_ROWS;
  int64_t numbers = query_pitch(a) + a->head_dim + SCORE_PITCH + PARTIALS + 6;
  int64_t row_bytes = numbers * (int64_t)sizeof(float) + factor_bytes(a);
  while (rows > a->group && staged + rows * row_bytes > SHARED_BYTES) rows /= 2;
  return rows > a->group ? rows / a->group : 1;
}

static void write_runs(qn_lower *lower, tile_context *c, bool split) {
  qn_lbuild *b = &lower->build;
  const qn_attention *a = c->run.a;
  const qn_lexpr *h = NULL, *unused = NULL, *zero = LX_INT(0), *all = qn_ldim(b, a->node->type.dims[0]);
  int64_t most = tokens_of_run(lower, a);
  c->lanes = RUN_LANES;
  c->lane_rows = ROWS_OF_LANE;
  c->most_rows = rows_up(c, most * a->group);
  qn_lblock *block =
      qn_lower_loop(lower, &b->kernel->body, "h", zero, LX_MUL(LX_INT(a->kv_heads), all), QN_LO_DATA, &h);
  if (split) block = qn_lower_when(lower, block, qn_lop2(b, QN_LX_LT, LX_INT(FEW), all));
  c->run.kv_head = LX_DIV(h, all);
  c->run.first = LX_MOD(h, all);
  const qn_lexpr *times = qn_attention_begins(lower, &c->run, most);
  do_run(lower, qn_lower_loop(lower, block, "run", zero, times, QN_LO_DATA, &unused), c, most);
}

// ---- all --------------------------------------------------------------------------------------------------------

// The table is a parameter of the kernel being written.
static void begin_kernel(qn_lower *lower, qn_attention *a, tile_context *c) {
  a->table = qn_lower_param(lower, a->node->operands[5]);
  *c = (tile_context){.run.a = a};
  lower->tile_rows = a->group;
  lower->run_tokens = 1;
}

qn_status qn_lower_attention_split(qn_lower *lower, const qn_attention *attention) {
  qn_attention a = *attention;
  tile_context c;
  // Without a bound on the pages there is no room for their parts.
  bool split = lower->graph->max_values[QN_SYM_P] > 0;
  int64_t heads = a.kv_heads * a.group, widths[] = {FEW * heads, FEW * heads, FEW * heads * a.head_dim};
  uint32_t buffers[3] = {0};
  if (split) {
    for (int i = 0; i < 3; i++) {
      QN_TRY(qn_lower_scratch(lower, QN_DTYPE_F32, qn_dim_sym(QN_SYM_P), qn_lower_pitch(widths[i]), &buffers[i]));
    }
    begin_kernel(lower, &a, &c);
    c.tops = qn_lower_bind_writable(lower, buffers[0]);
    c.sums = qn_lower_bind_writable(lower, buffers[1]);
    c.parts = qn_lower_bind_writable(lower, buffers[2]);
    write_parts(lower, &c);
    QN_TRY(qn_lower_end_piece(lower, "parts"));
    begin_kernel(lower, &a, &c);
    c.tops = qn_lower_bind(lower, buffers[0]);
    c.sums = qn_lower_bind(lower, buffers[1]);
    c.parts = qn_lower_bind(lower, buffers[2]);
    write_merge(lower, &c);
    QN_TRY(qn_lower_end_piece(lower, "merge"));
  }
  begin_kernel(lower, &a, &c);
  write_runs(lower, &c, split);
  return QN_OK;
}
