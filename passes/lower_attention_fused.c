// Lowering of fused attention over the paged cache: chunks of 64 keys with a running maximum (Milakov and Gimelshein
// 2018, FlashAttention's order), for all rows at once that see the same keys.
//
// A row is a query head of a token. A run of tokens of one sequence, times the query heads of a KV head, are the rows
// that share a chunk: scores (rows × keys) and sums of values (rows × head_dim) are products of small matrices with
// the chunk, written as the loops of a matmul are (n panels, t rows, l lanes, k chain), so that the schedule tiles them
// alike. A row's arithmetic is the one it would have alone: chunks in order, in each the chain of a score along
// head_dim, the softmax of 64 scores, the keys that the token sees in order; then what the chunk gave, relative to its
// own maximum, is added to what the chunks before it gave. So chunks could be done by anyone in any order, but for that
// addition (lower_attention_split.c). A chunk of which a token sees nothing changes no bit of its row: its scores are
// -inf, the maximum stays, the factor is 1, no key is visited, and what it gave is -0.
#include <math.h>

#include "passes/lower_attention.h"

enum { RUN_ROWS = 24 };  // about so many rows a run has; it divides into tiles of 2, 3, 4, 6, 8 and 12

typedef struct fused_context {
  qn_attention_run run;
  const qn_lbuf *query, *out, *part;  // head_dim a row; part: the chunk's sum of values
  const qn_lbuf *score;               // 64 a row; then the weights
  // One a row: the largest score of the chunks so far, of this one, of both; what is there, and the chunk's part, are
  // scaled by the last two, of which one is `less`.
  const qn_lbuf *max, *own, *next, *less, *factor, *share;
  const qn_lbuf *sum;         // of the weights so far
  const qn_lbuf *aside;       // i32: by how much the tiles of shared keys miss `out`, if they must not add to it
  int64_t beyond;             // elements of `out` that are the rows'; there are as many again
  const qn_lexpr *next_page;  // of the chunk after this one, or this one's again
  // the element being written: of `row`, `base` + `lane`
  const qn_lexpr *row, *base, *lane;
  const qn_lexpr *number;           // of what rows have one or several of (each_row_lane)
  const qn_lexpr *key_lo, *key_hi;  // of add_values
  bool fresh;                       // add_values begins the chunk's part
  bool shared;                      // add_values is of keys that all rows see
  // caches of codes
  const qn_lexpr *panel;                // base / 16
  const qn_lexpr *group, *half;         // of the weights that get codes: the values' group, and 32 keys of the chunk
  qn_attention_codes keys, values;      // of the chunk
  qn_attention_factors queries, shares;  // integer: of a row; of a row and a group of its values
  const qn_lbuf *weight;                // 64 a row and group: times the values' scales
  const qn_attention_factors *factors;  // that get codes: of queries or shares
  int64_t factor_groups;                // of them for a row
  const qn_lbuf *inverse;               // one a block of them: what values are multiplied with
  qn_lower_element element;             // a value of block `half` of row and group
  int64_t query_pitch;                  // of a row of `query`: whole blocks
} fused_context;

typedef void (*fused_body)(qn_lower *lower, qn_lblock *block, fused_context *c);

static const qn_lexpr *head_at(qn_lbuild *b, const fused_context *c, const qn_lexpr *at) {
  return LX_ADD(LX_MUL(c->row, LX_INT(c->run.a->head_dim)), at);
}

static const qn_lexpr *query_at(qn_lbuild *b, const fused_context *c, const qn_lexpr *at) {
  return LX_ADD(LX_MUL(c->row, LX_INT(c->query_pitch)), at);
}

static const qn_lexpr *score_at(qn_lbuild *b, const fused_context *c, const qn_lexpr *key) {
  return LX_ADD(LX_MUL(c->row, LX_INT(QN_PAGE_KEYS)), key);
}

// ---- loops ------------------------------------------------------------------------------------------------------

// for rows t in first .. first + count: one panel of `lanes` elements from c->base on.
static void panel_rows(qn_lower *lower, qn_lblock *block, const qn_lexpr *first, const qn_lexpr *count, int64_t lanes,
                       fused_context *c, fused_body body) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *t = NULL;
  qn_lblock *rows = qn_lower_loop(lower, block, "t", LX_INT(0), count, QN_LO_DATA, &t);
  qn_lblock *inner = qn_lower_loop(lower, rows, "l", LX_INT(0), LX_INT(lanes), QN_LO_DATA, &c->lane);
  c->row = LX_ADD(first, t);
  body(lower, inner, c);
}

// Each of `width` elements of each of the rows: panels of 16, and what is left.
static void tile(qn_lower *lower, qn_lblock *block, const qn_lexpr *first, const qn_lexpr *count, int64_t width,
                 fused_context *c, fused_body body) {
  qn_lbuild *b = &lower->build;
  int64_t panels = width / QN_TILE_ROWS, rest = width % QN_TILE_ROWS;
  if (panels > 0) {
    const qn_lexpr *n = NULL;
    qn_lblock *inner = qn_lower_loop(lower, block, "n", LX_INT(0), LX_INT(panels), QN_LO_DATA, &n);
    c->panel = n;
    c->base = LX_MUL(n, LX_INT(QN_TILE_ROWS));
    panel_rows(lower, inner, first, count, QN_TILE_ROWS, c, body);
  }
  if (rest > 0) {
    c->panel = LX_INT(panels);
    c->base = LX_INT(panels * QN_TILE_ROWS);
    panel_rows(lower, block, first, count, rest, c, body);
  }
}

static void each_row(qn_lower *lower, qn_lblock *block, fused_context *c, fused_body body) {
  qn_lbuild *b = &lower->build;
  body(lower, qn_lower_loop(lower, block, "r", LX_INT(0), c->run.rows, QN_LO_DATA, &c->row), c);
}

// The same for what a row has `each` numbers of, some of them at a time, beyond the last one up to a multiple of these:
// c->number, which is the row where each has one.
static void each_row_lane(qn_lower *lower, qn_lblock *block, fused_context *c, int64_t each, fused_body body) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *lanes = LX_INT(QN_ATTENTION_LANES), *r = NULL, *l = NULL;
  const qn_lexpr *numbers = LX_ADD(LX_MUL(c->run.rows, LX_INT(each)), LX_INT(QN_ATTENTION_LANES - 1));
  qn_lblock *rows = qn_lower_loop(lower, block, "r", LX_INT(0), LX_DIV(numbers, lanes), QN_LO_DATA, &r);
  qn_lblock *inner = qn_lower_loop(lower, rows, "l", LX_INT(0), lanes, QN_LO_DATA, &l);
  c->number = LX_ADD(LX_MUL(r, lanes), l);
  body(lower, inner, c);
}

// ---- chains -----------------------------------------------------------------------------------------------------

enum { LINKS = 4 };  // of a chain that stand together, unrolled by the schedule

// acc = fma(left, right, acc) for k from lo to hi - 1; `link` makes the factors.
typedef void (*chain_link)(qn_lower *lower, const fused_context *c, const qn_lexpr *k, const qn_lexpr **out_left,
                           const qn_lexpr **out_right);
typedef struct chain_context {
  const qn_lbuf *acc;
  const qn_lexpr *lo, *hi;
  chain_link link;
  qn_id ahead;  // a cache whose page `ahead_page` is asked for on the way; 0 = none
  const qn_lexpr *ahead_page;
} chain_context;

static void add_link(qn_lower *lower, qn_lblock *block, const fused_context *c, const chain_context *chain,
                     const qn_lexpr *k) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *left = NULL, *right = NULL;
  chain->link(lower, c, k, &left, &right);
  qn_lstore(b, block, chain->acc, QN_LM_F32, zero, LX_FMA(left, right, LX_LOAD(chain->acc, QN_LM_F32, zero)));
}

// Asks for a page of codes: its lines are shared out among `trips` trips of a chain, of which this is number `trip`, for
// each panel.
static void ask_codes(qn_lower *lower, qn_lblock *block, const fused_context *c, qn_id cache, const qn_lexpr *page,
                      const qn_lexpr *trip, int64_t trips) {
  enum { LINE_BYTES = 64 };
  qn_lbuild *b = &lower->build;
  qn_attention_codes codes = qn_attention_pool_codes(lower, c->run.a, cache, page, c->run.kv_head);
  int64_t width = codes.page->is_k ? QN_PAGE_KEYS : c->run.a->head_dim;  // of what is walked meanwhile
  int64_t panels = (width + QN_TILE_ROWS - 1) / QN_TILE_ROWS, lines = (codes.page->head_bytes - 1) / LINE_BYTES + 1;
  int64_t each = (lines - 1) / (panels * trips) + 1;
  const qn_lexpr *turn = LX_ADD(LX_MUL(c->panel, LX_INT(trips)), trip);
  const qn_lexpr *at = LX_ADD(codes.first_byte, LX_MUL(turn, LX_INT(each * LINE_BYTES)));
  for (int64_t i = 0; codes.buf && i < each; i++)
    qn_lprefetch(b, block, codes.buf, QN_LM_U8, LX_ADD(at, LX_INT(i * LINE_BYTES)), true);
}

// How many trips a chain over all of its links has.
static int64_t chain_trips(const fused_context *c, const chain_context *chain) {
  int64_t links = chain->ahead == c->run.a->k_cache ? c->run.a->head_dim : QN_PAGE_KEYS;
  return links / LINKS > 0 ? links / LINKS : 1;
}

// Asks for 16 elements of a page for each link of a chain of 64 or head_dim links: for all of the page, once every
// panel's chain is through. Where tokens see different keys, the chains that they share ask for their part.
static void ask_ahead(qn_lower *lower, qn_lblock *block, const fused_context *c, const chain_context *chain,
                      const qn_lexpr *links) {
  enum { LINE_BYTES = 64 };
  qn_lbuild *b = &lower->build;
  qn_lbuf *pool = chain->ahead ? qn_lower_param(lower, chain->ahead) : NULL;
  if (!pool) return;
  if (qn_dtype_is_block(qn_graph_node(lower->graph, chain->ahead)->type.dtype)) {
    ask_codes(lower, block, c, chain->ahead, chain->ahead_page, LX_DIV(links, LX_INT(LINKS)), chain_trips(c, chain));
    return;
  }
  int64_t elements = LINE_BYTES / (int64_t)qn_lmem_size(pool->mem);
  int64_t length = chain->ahead == c->run.a->k_cache ? c->run.a->head_dim : QN_PAGE_KEYS;
  const qn_lexpr *at = LX_ADD(LX_MUL(c->base, LX_INT(length)), LX_MUL(links, LX_INT(QN_TILE_ROWS)));
  for (int64_t i = 0; i < LINKS * QN_TILE_ROWS; i += elements) {
    const qn_lexpr *index = LX_ADD(at, LX_INT(i));
    qn_lprefetch(b, block, pool, pool->mem,
                 qn_attention_pool_index(b, c->run.a, chain->ahead_page, c->run.kv_head, index), true);
  }
}

static void write_chain(qn_lower *lower, qn_lblock *block, const fused_context *c, const chain_context *chain) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *kb = NULL, *g = NULL, *k = NULL;
  const qn_lexpr *count = qn_lop2(b, QN_LX_MAX, LX_SUB(chain->hi, chain->lo), zero);
  const qn_lexpr *whole = LX_DIV(count, LX_INT(LINKS));
  qn_lblock *body = qn_lower_loop(lower, block, "kb", zero, whole, QN_LO_REDUCE, &kb);
  const qn_lexpr *done = LX_MUL(kb, LX_INT(LINKS));
  ask_ahead(lower, body, c, chain, done);
  qn_lblock *links = qn_lower_loop(lower, body, "g", zero, LX_INT(LINKS), QN_LO_REDUCE, &g);
  add_link(lower, links, c, chain, LX_ADD(LX_ADD(chain->lo, done), g));
  int64_t known = 0;
  if (b->failed || (qn_lexpr_is_int(count, &known) && known % LINKS == 0)) return;
  const qn_lexpr *first = LX_ADD(chain->lo, LX_MUL(whole, LX_INT(LINKS)));
  qn_lblock *rest = qn_lower_loop(lower, block, "k", first, LX_ADD(chain->lo, count), QN_LO_REDUCE, &k);
  add_link(lower, rest, c, chain, k);
}

// ---- scores -----------------------------------------------------------------------------------------------------

static void score_link(qn_lower *lower, const fused_context *c, const qn_lexpr *k, const qn_lexpr **out_left,
                       const qn_lexpr **out_right) {
  qn_lbuild *b = &lower->build;
  qn_lbuf *pool = qn_lower_param(lower, c->run.a->k_cache);
  if (!pool) return;
  const qn_lexpr *at = LX_ADD(LX_MUL(k, LX_INT(QN_PAGE_KEYS)), LX_ADD(c->base, c->lane));
  *out_left = LX_LOAD(c->query, QN_LM_F32, query_at(b, c, k));
  *out_right = LX_LOAD(pool, pool->mem, qn_attention_pool_index(b, c->run.a, c->run.page, c->run.kv_head, at));
}

static void code_score_link(qn_lower *lower, const fused_context *c, const qn_lexpr *k, const qn_lexpr **out_left,
                            const qn_lexpr **out_right) {
  qn_lbuild *b = &lower->build;
  *out_left = LX_LOAD(c->query, QN_LM_F32, query_at(b, c, k));
  *out_right = qn_attention_code_number(b, &c->keys, k, c->panel, c->lane);
}

// A row's factors in codes, times the codes of the chunk.
typedef struct block_context {
  const fused_context *c;
  const qn_attention_factors *factors;
  const qn_lexpr *row;  // of the factors
  const qn_lbuf *acc;
  qn_id ahead;
  const qn_lexpr *ahead_page;
} block_context;

// acc = fma(the exact sum of a block's products, the scale of its factors, acc).
static void add_block(qn_lower *lower, qn_lblock *block, const qn_attention_codes *codes, const qn_lexpr *kb,
                      int64_t words, void *context) {
  enum { WORDS = 8 };
  qn_lbuild *b = &lower->build;
  const block_context *x = context;
  const qn_attention_factors *f = x->factors;
  const qn_lexpr *zero = LX_INT(0), *g = NULL, *at = LX_ADD(LX_MUL(x->row, LX_INT(f->row_blocks)), kb);
  int64_t whole = qn_attention_code_words(codes->page) / WORDS;  // these blocks share the asking, a rest beside them none
  if (words == WORDS || whole == 0)
    ask_codes(lower, block, x->c, x->ahead, x->ahead_page, kb, whole > 0 ? whole : 1);
  qn_lbuf *sum = qn_llocal(b, block, "sum", QN_LM_I32, 1);
  qn_lstore(b, block, sum, QN_LM_I32, zero, qn_attention_dot_start(b, codes, f, at));
  qn_lblock *body = qn_lower_loop(lower, block, "g", zero, LX_INT(words), QN_LO_REDUCE, &g);
  const qn_lexpr *factor = LX_LOAD(f->codes, QN_LM_I32, LX_ADD(LX_MUL(at, LX_INT(WORDS)), g));
  const qn_lexpr *word = qn_attention_code_word(b, codes, LX_ADD(LX_MUL(kb, LX_INT(WORDS)), g), x->c->panel, x->c->lane);
  qn_lstore(b, body, sum, QN_LM_I32, zero, qn_attention_dot(b, codes, LX_LOAD(sum, QN_LM_I32, zero), word, factor));
  const qn_lexpr *number = qn_lop1(b, QN_LX_TO_F32, LX_LOAD(sum, QN_LM_I32, zero));
  qn_lstore(b, block, x->acc, QN_LM_F32, zero,
            LX_FMA(number, LX_LOAD(f->scales, QN_LM_F32, at), LX_LOAD(x->acc, QN_LM_F32, zero)));
}

static void make_score(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_attention *a = c->run.a;
  const qn_lexpr *zero = LX_INT(0);
  qn_lbuf *acc = qn_llocal(b, block, "acc", QN_LM_F32, 1);
  qn_lstore(b, block, acc, QN_LM_F32, zero, LX_F32(0));
  if (a->k_page.coded && a->integer) {
    block_context x = {c, &c->queries, c->row, acc, a->k_cache, c->next_page};
    qn_attention_each_block(lower, block, &c->keys, add_block, &x);
  } else {
    write_chain(lower, block, c,
                &(chain_context){.acc = acc,
                                 .lo = zero,
                                 .hi = LX_INT(a->head_dim),
                                 .link = a->k_page.coded ? code_score_link : score_link,
                                 .ahead = a->k_cache,
                                 .ahead_page = c->next_page});
  }
  const qn_lexpr *dot = LX_LOAD(acc, QN_LM_F32, zero), *key = LX_ADD(c->base, c->lane);
  if (a->k_page.coded) dot = LX_MUL(dot, qn_attention_code_scale(b, &c->keys, zero, key));
  qn_lstore(b, block, c->score, QN_LM_F32, score_at(b, c, key),
            qn_attention_row_score(lower, &c->run, dot, c->row, c->base, c->lane));
}

// ---- softmax ----------------------------------------------------------------------------------------------------

static const qn_lexpr *score_element(qn_lower *lower, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const fused_context *c = context;
  return LX_LOAD(c->score, QN_LM_F32, score_at(b, c, index));
}

static void make_weight(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const fused_context *c = context;
  const qn_lexpr *at = score_at(b, c, index);
  const qn_lexpr *weight = qn_lop1(b, QN_LX_EXP, LX_SUB(LX_LOAD(c->score, QN_LM_F32, at), c->base));
  qn_lstore(b, block, c->score, QN_LM_F32, at, weight);
}

// ---- weights of values in codes ---------------------------------------------------------------------------------

// The row of a row's weights for a group of its values.
static const qn_lexpr *share_row(qn_lbuild *b, const fused_context *c, const qn_lexpr *group) {
  return LX_ADD(LX_MUL(c->row, LX_INT(c->run.a->v_page.groups)), group);
}

static const qn_lexpr *weight_at(qn_lbuild *b, const fused_context *c, const qn_lexpr *group, const qn_lexpr *key) {
  return LX_ADD(LX_MUL(share_row(b, c, group), LX_INT(QN_PAGE_KEYS)), key);
}

static void scale_weight(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const fused_context *c = context;
  const qn_lexpr *weight = LX_LOAD(c->score, QN_LM_F32, score_at(b, c, index));
  qn_lstore(b, block, c->weight, QN_LM_F32, weight_at(b, c, c->group, index),
            qn_attention_value_weight(lower, &c->run, &c->values, weight, c->row, c->group, index));
}

static const qn_lexpr *weight_element(qn_lower *lower, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const fused_context *c = context;
  const qn_lexpr *key = LX_ADD(LX_MUL(c->half, LX_INT(32)), index);
  return LX_LOAD(c->weight, QN_LM_F32, weight_at(b, c, c->group, key));
}

static const qn_lexpr *query_element(qn_lower *lower, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const fused_context *c = context;
  return LX_LOAD(c->query, QN_LM_F32, query_at(b, c, LX_ADD(LX_MUL(c->half, LX_INT(32)), index)));
}

typedef struct code_context {
  const qn_lbuf *to, *codes;
  const qn_lexpr *first;  // byte
} code_context;

static void store_code(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const code_context *c = context;
  qn_lstore(b, block, c->to, QN_LM_I8, LX_ADD(c->first, index), LX_LOAD(c->codes, QN_LM_I32, index));
}

static const qn_lexpr *factor_block(qn_lbuild *b, const fused_context *c) {
  const qn_lexpr *row = LX_ADD(LX_MUL(c->row, LX_INT(c->factor_groups)), c->group);
  return LX_ADD(LX_MUL(row, LX_INT(c->factors->row_blocks)), c->half);
}

// What lies beyond the last block is made with the others, and read by nobody.
static void start_scale(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  qn_lstore(b, block, c->factors->scales, QN_LM_F32, c->number, LX_F32(0));
}

static void find_block_max(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  qn_lstore(b, block, c->factors->scales, QN_LM_F32, factor_block(b, c),
            qn_lower_block_max(lower, block, c->element, c));
}

// Of several blocks at once, whose largest magnitudes stand where their scales will.
static void find_inverse(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_attention_factors *f = c->factors;
  const qn_lexpr *max = LX_LOAD(f->scales, QN_LM_F32, c->number);
  qn_lstore(b, block, c->inverse, QN_LM_F32, c->number, qn_lower_code_inverse(b, max));
  qn_lstore(b, block, f->scales, QN_LM_F32, c->number, qn_lower_code_scale(b, max));
}

static void make_block_codes(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_attention_factors *f = c->factors;
  const qn_lexpr *zero = LX_INT(0), *at = factor_block(b, c);
  qn_lower_codes codes = qn_lower_block_codes(lower, block, f->least, LX_LOAD(c->inverse, QN_LM_F32, at),
                                              LX_LOAD(f->scales, QN_LM_F32, at), c->element, c);
  code_context stored = {f->codes, codes.codes, LX_MUL(at, LX_INT(32))};
  qn_lower_lanes(lower, block, 32, true, store_code, &stored);
  qn_lower_sum_codes(lower, block, &codes);
  qn_lstore(b, block, f->sums, QN_LM_I32, at,
            LX_ADD(LX_LOAD(codes.sums[0], QN_LM_I32, zero), LX_LOAD(codes.sums[1], QN_LM_I32, zero)));
}

// Each block of 32 of each row and group of factors.
static void each_factor_block(qn_lower *lower, qn_lblock *block, fused_context *c, fused_body body) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0);
  block = qn_lower_loop(lower, block, "r", zero, c->run.rows, QN_LO_DATA, &c->row);
  block = qn_lower_loop(lower, block, "s", zero, LX_INT(c->factor_groups), QN_LO_DATA, &c->group);
  block = qn_lower_loop(lower, block, "kb", zero, LX_INT(c->factors->row_blocks), QN_LO_DATA, &c->half);
  body(lower, block, c);
}

static void choose_factors(fused_context *c, const qn_attention_factors *f, int64_t groups, qn_lower_element element) {
  c->factors = f;
  c->factor_groups = groups;
  c->element = element;
}

static int64_t factor_blocks(const fused_context *c) { return c->factor_groups * c->factors->row_blocks; }

static void start_scales(qn_lower *lower, qn_lblock *block, fused_context *c) {
  each_row_lane(lower, block, c, factor_blocks(c), start_scale);
}

// Codes of all rows' factors, step by step as in the softmax.
static void make_factors(qn_lower *lower, qn_lblock *block, fused_context *c) {
  each_factor_block(lower, block, c, find_block_max);
  each_row_lane(lower, block, c, factor_blocks(c), find_inverse);
  each_factor_block(lower, block, c, make_block_codes);
}

static void choose_shares(fused_context *c) {
  choose_factors(c, &c->shares, c->run.a->v_page.groups, weight_element);
}

static void scale_weights(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  block = qn_lower_loop(lower, block, "s", LX_INT(0), LX_INT(c->run.a->v_page.groups), QN_LO_DATA, &c->group);
  qn_lower_lanes(lower, block, QN_PAGE_KEYS, true, scale_weight, c);
}

static void weights_of_codes(qn_lower *lower, qn_lblock *block, fused_context *c) {
  each_row(lower, block, c, scale_weights);
  if (!c->run.a->integer) return;
  choose_shares(c);
  make_factors(lower, block, c);
}

// Before a token's first key, which a window may put into a later chunk, maxima are -inf: nothing is subtracted then,
// and the factors are 1.
static void find_own_max(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lbuf *top = qn_lower_reduce(lower, block, QN_PAGE_KEYS, QN_LX_MAX, -INFINITY, score_element, c);
  qn_lstore(b, block, c->own, QN_LM_F32, c->row, LX_LOAD(top, QN_LM_F32, LX_INT(0)));
}

static void raise_max(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *old = LX_LOAD(c->max, QN_LM_F32, c->number), *chunk = LX_LOAD(c->own, QN_LM_F32, c->number);
  const qn_lexpr *now = LX_LOAD(c->next, QN_LM_F32, c->number), *power = LX_LOAD(c->less, QN_LM_F32, c->number);
  qn_lstore(b, block, c->next, QN_LM_F32, c->number, qn_lop2(b, QN_LX_MAX, chunk, old));
  qn_lstore(b, block, c->less, QN_LM_F32, c->number, qn_attention_power(b, old, chunk, now));
  qn_lstore(b, block, c->factor, QN_LM_F32, c->number, qn_attention_factor(b, old, now, power));
  qn_lstore(b, block, c->share, QN_LM_F32, c->number, qn_attention_factor(b, chunk, now, power));
  qn_lstore(b, block, c->max, QN_LM_F32, c->number, now);
}

static void make_weights(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  c->base = qn_attention_least(b, LX_LOAD(c->own, QN_LM_F32, c->row));
  qn_lower_lanes(lower, block, QN_PAGE_KEYS, true, make_weight, c);
  const qn_lbuf *sum = qn_lower_reduce(lower, block, QN_PAGE_KEYS, QN_LX_ADD, 0, score_element, c);
  const qn_lexpr *merged =
      qn_attention_merge(b, LX_LOAD(c->sum, QN_LM_F32, c->row), LX_LOAD(c->factor, QN_LM_F32, c->row),
                         LX_LOAD(sum, QN_LM_F32, LX_INT(0)), LX_LOAD(c->share, QN_LM_F32, c->row));
  qn_lstore(b, block, c->sum, QN_LM_F32, c->row, merged);
}

// The chunk's weights, relative to its maximum, and their sum; the new maximum of all chunks, and the factors by which
// it scales what is there and what this chunk gives. Each step is done for all rows before the next one: a row's are a
// long chain, of which a core sees no more than one at once.
static void softmax(qn_lower *lower, qn_lblock *block, fused_context *c) {
  each_row(lower, block, c, find_own_max);
  each_row_lane(lower, block, c, 1, raise_max);
  each_row(lower, block, c, make_weights);
  if (c->run.a->v_page.coded && c->values.buf) weights_of_codes(lower, block, c);
}

// ---- values -----------------------------------------------------------------------------------------------------

static void start_part(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  qn_lstore(b, block, c->part, QN_LM_F32, head_at(b, c, LX_ADD(c->base, c->lane)), LX_F32(-0.0f));
}

static void value_link(qn_lower *lower, const fused_context *c, const qn_lexpr *k, const qn_lexpr **out_left,
                       const qn_lexpr **out_right) {
  qn_lbuild *b = &lower->build;
  qn_lbuf *pool = qn_lower_param(lower, c->run.a->v_cache);
  if (!pool) return;
  const qn_lexpr *at = LX_ADD(LX_MUL(k, LX_INT(c->run.a->head_dim)), LX_ADD(c->base, c->lane));
  *out_left = LX_LOAD(c->score, QN_LM_F32, score_at(b, c, k));
  *out_right = LX_LOAD(pool, pool->mem, qn_attention_pool_index(b, c->run.a, c->run.page, c->run.kv_head, at));
}

// An element of what the chunks so far and this one's part give.
static const qn_lexpr *merged(qn_lbuild *b, const fused_context *c, const qn_lexpr *at, const qn_lexpr *part) {
  return qn_attention_merge(b, LX_LOAD(c->out, QN_LM_F32, at), LX_LOAD(c->factor, QN_LM_F32, c->row), part,
                            LX_LOAD(c->share, QN_LM_F32, c->row));
}

static void code_value_link(qn_lower *lower, const fused_context *c, const qn_lexpr *k, const qn_lexpr **out_left,
                            const qn_lexpr **out_right) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *group = qn_attention_panel_group(b, c->values.page, c->panel);
  *out_left = LX_LOAD(c->weight, QN_LM_F32, weight_at(b, c, group, k));
  *out_right = qn_attention_code_number(b, &c->values, k, c->panel, c->lane);
}

// All keys of the chunk, and what that gives to what is there.
static void add_code_values(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_attention *a = c->run.a;
  const qn_lexpr *zero = LX_INT(0), *at = head_at(b, c, LX_ADD(c->base, c->lane));
  qn_lbuf *acc = qn_llocal(b, block, "acc", QN_LM_F32, 1);
  qn_lstore(b, block, acc, QN_LM_F32, zero, LX_F32(0));
  if (a->integer) {
    const qn_lexpr *row = share_row(b, c, qn_attention_panel_group(b, c->values.page, c->panel));
    block_context x = {c, &c->shares, row, acc, a->v_cache, c->next_page};
    qn_attention_each_block(lower, block, &c->values, add_block, &x);
  } else {
    write_chain(lower, block, c,
                &(chain_context){.acc = acc,
                                 .lo = zero,
                                 .hi = LX_INT(QN_PAGE_KEYS),
                                 .link = code_value_link,
                                 .ahead = a->v_cache,
                                 .ahead_page = c->next_page});
  }
  qn_lstore(b, block, c->out, QN_LM_F32, at, merged(b, c, at, LX_LOAD(acc, QN_LM_F32, zero)));
}

// part += weight * value for keys key_lo .. key_hi - 1, in order.
static void add_values(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *at = head_at(b, c, LX_ADD(c->base, c->lane));
  qn_lbuf *acc = qn_llocal(b, block, "acc", QN_LM_F32, 1);
  qn_lstore(b, block, acc, QN_LM_F32, zero, c->fresh ? LX_F32(-0.0f) : LX_LOAD(c->part, QN_LM_F32, at));
  write_chain(lower, block, c,
              &(chain_context){.acc = acc,
                               .lo = c->key_lo,
                               .hi = c->key_hi,
                               .link = value_link,
                               .ahead = c->shared ? c->run.a->v_cache : 0,
                               .ahead_page = c->next_page});
  const qn_lexpr *part = LX_LOAD(acc, QN_LM_F32, zero);
  qn_lstore(b, block, c->part, QN_LM_F32, at, part);
  if (!c->shared) return;
  const qn_lexpr *aside = qn_attention_load_index(b, c->aside, zero);
  qn_lstore(b, block, c->out, QN_LM_F32, LX_ADD(at, aside), merged(b, c, at, part));
}

static void merge_part(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const fused_context *c = context;
  const qn_lexpr *at = head_at(b, c, index);
  qn_lstore(b, block, c->out, QN_LM_F32, at, merged(b, c, at, LX_LOAD(c->part, QN_LM_F32, at)));
}

// Keys lo .. hi - 1 for the rows of token j alone.
static void values_of_token(qn_lower *lower, qn_lblock *block, fused_context *c, const qn_lexpr *j, const qn_lexpr *lo,
                            const qn_lexpr *hi) {
  qn_lbuild *b = &lower->build;
  c->key_lo = lo;
  c->key_hi = hi;
  c->fresh = c->shared = false;
  tile(lower, qn_lower_when(lower, block, qn_lop2(b, QN_LX_LT, lo, hi)), LX_MUL(j, LX_INT(c->run.a->group)),
       LX_INT(c->run.a->group), c->run.a->head_dim, c, add_values);
}

// The tokens of the run where it has several: one alone sees what all see.
static const qn_lexpr *tokens_apart(qn_lbuild *b, const fused_context *c) {
  return qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_LT, LX_INT(1), c->run.tokens), c->run.tokens, LX_INT(0));
}

// Where all tokens of the run see the same keys of the chunk, the tiles of shared keys have the whole of a part in
// registers, and add it to what is there at once. Else what they add lands beyond the rows of `out`, where nobody
// reads: stores that depend on a predicate are slow on some CPUs.
static void choose_place(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0);
  const qn_lexpr *low = qn_attention_load_index(b, c->run.low, zero);
  const qn_lexpr *high = qn_attention_load_index(b, c->run.high, zero);
  const qn_lexpr *end = qn_attention_end_seen(b, &c->run, low), *last = qn_attention_end_seen(b, &c->run, high);
  const qn_lexpr *whole = qn_lop2(b, QN_LX_EQ, end, last);
  if (c->run.a->window > 0) {
    const qn_lexpr *low_place = qn_attention_load_index(b, c->run.low_place, zero);
    const qn_lexpr *high_place = qn_attention_load_index(b, c->run.high_place, zero);
    const qn_lexpr *begin = qn_attention_first_seen(b, &c->run, low_place),
                   *first = qn_attention_first_seen(b, &c->run, high_place);
    whole = qn_lop2(b, QN_LX_AND, whole, qn_lop2(b, QN_LX_EQ, begin, first));
  }
  qn_lstore(b, block, c->aside, QN_LM_I32, zero,
            qn_lop3(b, QN_LX_SELECT, whole, qn_li32(b, 0), qn_li32(b, (int32_t)c->beyond)));
}

// Keys that all tokens of the run see are shared by all rows; those before (where there is a window) and after them
// are visited by the rows that see them. Others have weight 0, but 0 times what a page held before may be NaN.
static void chunk_values(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *j = NULL, *group = LX_INT(c->run.a->group);
  if (c->run.a->v_page.coded) {
    if (c->values.buf) tile(lower, block, zero, c->run.rows, c->run.a->head_dim, c, add_code_values);
    return;
  }
  const qn_lexpr *lo = qn_attention_first_seen(b, &c->run, qn_attention_load_index(b, c->run.high_place, zero));
  const qn_lexpr *hi = qn_attention_end_seen(b, &c->run, qn_attention_load_index(b, c->run.low, zero));
  choose_place(lower, block, c);
  if (c->run.a->window > 0) {
    tile(lower, block, zero, c->run.rows, c->run.a->head_dim, c, start_part);
    qn_lblock *before = qn_lower_loop(lower, block, "j", zero, tokens_apart(b, c), QN_LO_DATA, &j);
    const qn_lexpr *last = qn_attention_load_index(b, c->run.position, LX_MUL(j, group));
    const qn_lexpr *place = qn_attention_load_index(b, c->run.place, LX_MUL(j, group));
    const qn_lexpr *seen = qn_attention_end_seen(b, &c->run, last);
    values_of_token(lower, before, c, j, qn_attention_first_seen(b, &c->run, place), qn_lop2(b, QN_LX_MIN, lo, seen));
  }
  c->key_lo = lo;
  c->key_hi = hi;
  c->fresh = c->run.a->window <= 0;
  c->shared = true;
  tile(lower, block, zero, c->run.rows, c->run.a->head_dim, c, add_values);
  qn_lblock *after = qn_lower_loop(lower, block, "j", zero, tokens_apart(b, c), QN_LO_DATA, &j);
  const qn_lexpr *last = qn_attention_load_index(b, c->run.position, LX_MUL(j, group));
  values_of_token(lower, after, c, j, qn_lop2(b, QN_LX_MAX, lo, hi), qn_attention_end_seen(b, &c->run, last));
  qn_lblock *apart =
      qn_lower_when(lower, block, qn_lop2(b, QN_LX_LT, zero, qn_attention_load_index(b, c->aside, zero)));
  qn_lblock *rows = qn_lower_loop(lower, apart, "r", zero, c->run.rows, QN_LO_DATA, &c->row);
  qn_lower_lanes(lower, rows, c->run.a->head_dim, true, merge_part, c);
}

// ---- a run of tokens --------------------------------------------------------------------------------------------

static void chunks(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0);
  const qn_lexpr *lo = qn_attention_first_page(b, c->run.a, qn_attention_load_index(b, c->run.low_place, zero));
  const qn_lexpr *hi = qn_attention_last_page(b, qn_attention_load_index(b, c->run.high, zero));
  qn_lblock *body = qn_lower_loop(lower, block, "chunk", lo, hi, QN_LO_REDUCE, &c->run.chunk);
  const qn_lexpr *next = qn_lop2(b, QN_LX_MIN, LX_ADD(c->run.chunk, LX_INT(1)), LX_SUB(hi, LX_INT(1)));
  c->run.page = qn_attention_load_index(b, c->run.a->table, LX_ADD(c->run.table_row, c->run.chunk));
  c->next_page = qn_attention_load_index(b, c->run.a->table, LX_ADD(c->run.table_row, next));
  const qn_attention *a = c->run.a;
  if (a->k_page.coded) c->keys = qn_attention_pool_codes(lower, a, a->k_cache, c->run.page, c->run.kv_head);
  if (a->v_page.coded) c->values = qn_attention_pool_codes(lower, a, a->v_cache, c->run.page, c->run.kv_head);
  if (b->failed) return;
  tile(lower, body, zero, c->run.rows, QN_PAGE_KEYS, c, make_score);
  softmax(lower, body, c);
  chunk_values(lower, body, c);
}

static void start_element(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const fused_context *c = context;
  const qn_lexpr *token = LX_ADD(c->run.first, LX_DIV(c->row, LX_INT(c->run.a->group)));
  const qn_lexpr *query =
      qn_lower_value(lower, c->run.a->q, (qn_lplace){token, qn_attention_head_element(b, &c->run, c->row, index)});
  qn_lstore(b, block, c->query, QN_LM_F32, query_at(b, c, index), query);
  qn_lstore(b, block, c->out, QN_LM_F32, head_at(b, c, index), LX_F32(0));
}

static void pad_query(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const fused_context *c = context;
  const qn_lexpr *at = query_at(b, c, LX_ADD(LX_INT(c->run.a->head_dim), index));
  qn_lstore(b, block, c->query, QN_LM_F32, at, LX_F32(0));
}

static void start_row_lane(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  qn_lstore(b, block, c->max, QN_LM_F32, c->number, LX_F32(-INFINITY));
  qn_lstore(b, block, c->own, QN_LM_F32, c->number, LX_F32(-INFINITY));
  qn_lstore(b, block, c->sum, QN_LM_F32, c->number, LX_F32(0));
}

static void start_rows(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  each_row_lane(lower, block, c, 1, start_row_lane);
  qn_lblock *rows = qn_lower_loop(lower, block, "r", LX_INT(0), c->run.rows, QN_LO_DATA, &c->row);
  const qn_lexpr *token = LX_ADD(c->run.first, LX_DIV(c->row, LX_INT(c->run.a->group)));
  qn_lstore(b, rows, c->run.position, QN_LM_I32, c->row,
            qn_lop1(b, QN_LX_TO_I32, qn_attention_last_key(lower, c->run.a, token)));
  if (c->run.place != c->run.position) {
    qn_lstore(b, rows, c->run.place, QN_LM_I32, c->row,
              qn_lop1(b, QN_LX_TO_I32, qn_attention_place(lower, c->run.a, token)));
  }
  qn_lower_lanes(lower, rows, c->run.a->head_dim, true, start_element, c);
  int64_t rest = c->query_pitch - c->run.a->head_dim;
  if (rest > 0) qn_lower_each(lower, rows, "e", rest, pad_query, c);
  if (c->shares.codes) {
    choose_shares(c);
    start_scales(lower, block, c);
  }
  if (!c->queries.codes) return;
  choose_factors(c, &c->queries, 1, query_element);
  start_scales(lower, block, c);
  make_factors(lower, block, c);
}

static void store_element(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const fused_context *c = context;
  qn_id id = (qn_id)(c->run.a->node - lower->graph->nodes.items);
  const qn_lexpr *token = LX_ADD(c->run.first, LX_DIV(c->row, LX_INT(c->run.a->group)));
  const qn_lexpr *out = LX_LOAD(c->out, QN_LM_F32, head_at(b, c, index));
  qn_lower_store(lower, block, id, (qn_lplace){token, qn_attention_head_element(b, &c->run, c->row, index)},
                 qn_attention_result(b, c->run.a, LX_MUL(out, LX_LOAD(c->sum, QN_LM_F32, c->row))));
}

static void finish_rows(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  qn_lblock *rows = qn_lower_loop(lower, block, "r", LX_INT(0), c->run.rows, QN_LO_DATA, &c->row);
  qn_lstore(b, rows, c->sum, QN_LM_F32, c->row, LX_DIV(LX_F32(1), LX_LOAD(c->sum, QN_LM_F32, c->row)));
  qn_lower_lanes(lower, rows, c->run.a->head_dim, true, store_element, c);
}

static void run_of_tokens(qn_lower *lower, qn_lblock *block, fused_context *c, int64_t most) {
  qn_lbuild *b = &lower->build;
  int64_t rows = most * c->run.a->group;
  qn_attention_count_tokens(lower, block, &c->run, most);
  c->run.rows = LX_MUL(c->run.tokens, LX_INT(c->run.a->group));
  c->run.table_row = LX_MUL(qn_attention_token_index(lower, c->run.a->seq, c->run.first), qn_lsym(b, QN_SYM_P));
  qn_attention_declare_positions(lower, block, &c->run, rows);
  const qn_attention *a = c->run.a;
  c->query_pitch = a->head_dim;
  if (a->k_page.coded && a->integer) {
    c->query_pitch = qn_attention_code_blocks(&a->k_page) * 32;
    c->queries = qn_attention_declare_factors(b, block, rows, &a->k_page);
  }
  c->query = qn_llocal(b, block, "query", QN_LM_F32, rows * c->query_pitch);
  c->beyond = rows * a->head_dim;
  c->out = qn_llocal(b, block, "out", QN_LM_F32, a->v_page.coded ? c->beyond : 2 * c->beyond);
  if (a->v_page.coded) {
    int64_t shares = rows * a->v_page.groups;
    c->weight = qn_llocal(b, block, "weight", QN_LM_F32, shares * QN_PAGE_KEYS);
    if (a->integer) c->shares = qn_attention_declare_factors(b, block, shares, &a->v_page);
  } else {
    c->part = qn_llocal(b, block, "part", QN_LM_F32, rows * a->head_dim);
  }
  c->score = qn_llocal(b, block, "score", QN_LM_F32, rows * QN_PAGE_KEYS);
  if (c->queries.codes || c->shares.codes) {
    int64_t query_blocks = rows * c->queries.row_blocks, share_blocks = rows * a->v_page.groups * c->shares.row_blocks;
    int64_t blocks = query_blocks > share_blocks ? query_blocks : share_blocks;
    c->inverse = qn_llocal(b, block, "inverse", QN_LM_F32, qn_attention_lanes(blocks));
  }
  const struct {
    const char *name;
    const qn_lbuf **local;
  } of_rows[] = {{"max", &c->max},   {"own", &c->own},       {"next", &c->next}, {"less", &c->less},
                 {"sum", &c->sum},   {"factor", &c->factor}, {"share", &c->share}};
  int64_t lanes = qn_attention_lanes(rows);
  for (size_t i = 0; i < QN_COUNT(of_rows); i++)
    *of_rows[i].local = qn_llocal(b, block, of_rows[i].name, QN_LM_F32, lanes);
  if (!a->v_page.coded) c->aside = qn_llocal(b, block, "aside", QN_LM_I32, 1);
  qn_attention_find_positions(lower, block, &c->run);
  start_rows(lower, block, c);
  chunks(lower, block, c);
  finish_rows(lower, block, c);
}

// Iteration h is KV head h / T and token h % T, and does the run that begins with that token, if one does: there are
// iterations enough to share among threads, and a run is nobody else's.
qn_status qn_lower_attention_fused(qn_lower *lower, const qn_attention *a) {
  qn_lbuild *b = &lower->build;
  int64_t most = a->group < RUN_ROWS ? RUN_ROWS / a->group : 1;
  const qn_lexpr *zero = LX_INT(0), *all = qn_ldim(b, a->node->type.dims[0]), *h = NULL;
  fused_context c = {.run.a = a};
  lower->tile_rows = a->group;
  lower->run_tokens = most;
  qn_lblock *body = qn_lower_loop(lower, &b->kernel->body, "h", zero, LX_MUL(LX_INT(a->kv_heads), all), QN_LO_DATA, &h);
  c.run.kv_head = LX_DIV(h, all);
  c.run.first = LX_MOD(h, all);
  const qn_lexpr *times = qn_attention_begins(lower, &c.run, most), *unused = NULL;
  run_of_tokens(lower, qn_lower_loop(lower, body, "run", zero, times, QN_LO_DATA, &unused), &c, most);
  return QN_OK;
}
