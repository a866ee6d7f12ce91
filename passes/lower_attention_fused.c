// Lowering of fused attention over the paged cache: chunks of 64 keys with a running maximum (Milakov and Gimelshein
// 2018, FlashAttention's order), for all rows at once that see the same keys.
//
// A row is a query head of a token. A run of tokens of one sequence, times the query heads of a KV head, are the rows
// that share a chunk: scores (rows × keys) and sums of values (rows × head_dim) are products of small matrices with
// the chunk, written as the loops of a matmul are (n panels, t rows, l lanes, k chain), so that the schedule tiles them
// alike. A row's arithmetic is the one it would have alone: chunks in order, in each the chain of a score along
// head_dim, the softmax of 64 scores, the keys that the token sees in order. A chunk of which a token sees nothing
// changes no bit of its row: its scores are -inf, the maximum stays, the factor is 1, and no key is visited.
#include <math.h>

#include "passes/lower_attention.h"

enum { RUN_ROWS = 24 };  // about so many rows a run has; it divides into tiles of 2, 3, 4, 6, 8 and 12

typedef struct fused_context {
  const qn_attention *a;
  const qn_lexpr *kv_head, *first;    // KV head and first token of the run
  const qn_lexpr *tokens, *rows;      // how many of them
  const qn_lexpr *table_row;          // index of the sequence's first block table entry
  const qn_lbuf *position;            // i32 a row
  const qn_lbuf *low, *high;          // i32: the least and the largest position of the run
  const qn_lbuf *query, *out;         // head_dim a row
  const qn_lbuf *score;               // 64 a row; then the weights
  const qn_lbuf *max, *sum, *factor;  // one a row
  const qn_lexpr *chunk, *page;
  const qn_lexpr *next_page;  // of the chunk after this one, or this one's again
  // the element being written: of `row`, `base` + `lane`
  const qn_lexpr *row, *base, *lane;
  const qn_lexpr *key_lo, *key_hi;  // of add_values
  bool rescale;                     // add_values starts from out * factor
  bool ahead;                       // add_values asks for the next chunk's keys
} fused_context;

typedef void (*fused_body)(qn_lower *lower, qn_lblock *block, fused_context *c);

static qn_lblock *loop(qn_lbuild *b, qn_lblock *block, const char *name, const qn_lexpr *lo, const qn_lexpr *hi,
                       qn_lorder order, const qn_lexpr **out_var) {
  qn_lvar *var = qn_lvar_new(b, name);
  qn_lstmt *stmt = qn_lfor(b, block, var, lo, hi, order);
  *out_var = qn_lref(b, var);
  return &stmt->u.loop.body;
}

// Runs the body where the predicate holds.
static qn_lblock *when(qn_lbuild *b, qn_lblock *block, const qn_lexpr *predicate) {
  const qn_lexpr *unused = NULL;
  const qn_lexpr *times = qn_lop3(b, QN_LX_SELECT, predicate, LX_INT(1), LX_INT(0));
  return loop(b, block, "once", LX_INT(0), times, QN_LO_DATA, &unused);
}

static const qn_lexpr *load_index(qn_lbuild *b, const qn_lbuf *local, const qn_lexpr *at) {
  return qn_lop1(b, QN_LX_TO_INDEX, LX_LOAD(local, QN_LM_I32, at));
}

static const qn_lexpr *i32_of(qn_lbuild *b, const qn_lexpr *index) { return qn_lop1(b, QN_LX_TO_I32, index); }

static const qn_lexpr *head_at(qn_lbuild *b, const fused_context *c, const qn_lexpr *at) {
  return LX_ADD(LX_MUL(c->row, LX_INT(c->a->head_dim)), at);
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
  qn_lblock *rows = loop(b, block, "t", LX_INT(0), count, QN_LO_DATA, &t);
  qn_lblock *inner = loop(b, rows, "l", LX_INT(0), LX_INT(lanes), QN_LO_DATA, &c->lane);
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
    qn_lblock *inner = loop(b, block, "n", LX_INT(0), LX_INT(panels), QN_LO_DATA, &n);
    c->base = LX_MUL(n, LX_INT(QN_TILE_ROWS));
    panel_rows(lower, inner, first, count, QN_TILE_ROWS, c, body);
  }
  if (rest > 0) {
    c->base = LX_INT(panels * QN_TILE_ROWS);
    panel_rows(lower, block, first, count, rest, c, body);
  }
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

// Asks for 16 elements of a page for each link of a chain of 64 or head_dim links: for all of the page, once every
// panel's chain is through.
static void ask_ahead(qn_lower *lower, qn_lblock *block, const fused_context *c, const chain_context *chain,
                      const qn_lexpr *links) {
  enum { LINE_BYTES = 64 };
  qn_lbuild *b = &lower->build;
  qn_lbuf *pool = chain->ahead ? qn_lower_param(lower, chain->ahead) : NULL;
  if (!pool) return;
  int64_t elements = LINE_BYTES / (int64_t)qn_lmem_size(pool->mem);
  int64_t length = chain->ahead == c->a->v_cache ? c->a->head_dim : QN_PAGE_KEYS;
  const qn_lexpr *at = LX_ADD(LX_MUL(c->base, LX_INT(length)), LX_MUL(links, LX_INT(QN_TILE_ROWS)));
  for (int64_t i = 0; i < LINKS * QN_TILE_ROWS; i += elements) {
    const qn_lexpr *index = LX_ADD(at, LX_INT(i));
    qn_lprefetch(b, block, pool, pool->mem, qn_attention_pool_index(b, c->a, chain->ahead_page, c->kv_head, index));
  }
}

static void write_chain(qn_lower *lower, qn_lblock *block, const fused_context *c, const chain_context *chain) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *kb = NULL, *g = NULL, *k = NULL;
  const qn_lexpr *count = qn_lop2(b, QN_LX_MAX, LX_SUB(chain->hi, chain->lo), zero);
  const qn_lexpr *whole = LX_DIV(count, LX_INT(LINKS));
  qn_lblock *body = loop(b, block, "kb", zero, whole, QN_LO_REDUCE, &kb);
  const qn_lexpr *done = LX_MUL(kb, LX_INT(LINKS));
  ask_ahead(lower, body, c, chain, done);
  qn_lblock *links = loop(b, body, "g", zero, LX_INT(LINKS), QN_LO_REDUCE, &g);
  add_link(lower, links, c, chain, LX_ADD(LX_ADD(chain->lo, done), g));
  int64_t known = 0;
  if (b->failed || (qn_lexpr_is_int(count, &known) && known % LINKS == 0)) return;
  const qn_lexpr *first = LX_ADD(chain->lo, LX_MUL(whole, LX_INT(LINKS)));
  qn_lblock *rest = loop(b, block, "k", first, LX_ADD(chain->lo, count), QN_LO_REDUCE, &k);
  add_link(lower, rest, c, chain, k);
}

// ---- scores -----------------------------------------------------------------------------------------------------

// Which keys of the chunk the row's token sees, as a predicate of the element. In i32, whose vectors are short.
static const qn_lexpr *is_seen(qn_lbuild *b, const fused_context *c) {
  const qn_lexpr *first_key = LX_ADD(LX_MUL(c->chunk, LX_INT(QN_PAGE_KEYS)), c->base);
  const qn_lexpr *last = LX_SUB(LX_LOAD(c->position, QN_LM_I32, c->row), i32_of(b, first_key));
  const qn_lexpr *lane = i32_of(b, c->lane), *seen = qn_lop2(b, QN_LX_LE, lane, last);
  if (c->a->window <= 0) return seen;
  const qn_lexpr *before = LX_SUB(last, qn_li32(b, (int32_t)c->a->window));
  return qn_lop2(b, QN_LX_AND, seen, qn_lop2(b, QN_LX_LT, before, lane));
}

static void score_link(qn_lower *lower, const fused_context *c, const qn_lexpr *k, const qn_lexpr **out_left,
                       const qn_lexpr **out_right) {
  qn_lbuild *b = &lower->build;
  qn_lbuf *pool = qn_lower_param(lower, c->a->k_cache);
  if (!pool) return;
  const qn_lexpr *at = LX_ADD(LX_MUL(k, LX_INT(QN_PAGE_KEYS)), LX_ADD(c->base, c->lane));
  *out_left = LX_LOAD(c->query, QN_LM_F32, head_at(b, c, k));
  *out_right = LX_LOAD(pool, pool->mem, qn_attention_pool_index(b, c->a, c->page, c->kv_head, at));
}

static void make_score(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0);
  qn_lbuf *acc = qn_llocal(b, block, "acc", QN_LM_F32, 1);
  qn_lstore(b, block, acc, QN_LM_F32, zero, LX_F32(0));
  write_chain(lower, block, c,
              &(chain_context){.acc = acc,
                               .lo = zero,
                               .hi = LX_INT(c->a->head_dim),
                               .link = score_link,
                               .ahead = c->a->v_cache,
                               .ahead_page = c->page});
  qn_lstore(b, block, c->score, QN_LM_F32, score_at(b, c, LX_ADD(c->base, c->lane)),
            qn_attention_score(b, c->a, LX_LOAD(acc, QN_LM_F32, zero), is_seen(b, c)));
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

// The new maximum, the factor that it scales what is there with, the weights and their sum. Before a token's first
// key, which a window may put into a later chunk, the maximum is -inf: nothing is subtracted then, and the factor is 1.
static void softmax_row(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *none = LX_F32(-INFINITY);
  const qn_lbuf *top = qn_lower_reduce(lower, block, QN_PAGE_KEYS, QN_LX_MAX, -INFINITY, score_element, c);
  qn_lbuf *next = qn_llocal(b, block, "next", QN_LM_F32, 1);
  const qn_lexpr *old = LX_LOAD(c->max, QN_LM_F32, c->row), *now = LX_LOAD(next, QN_LM_F32, zero);
  qn_lstore(b, block, next, QN_LM_F32, zero, qn_lop2(b, QN_LX_MAX, LX_LOAD(top, QN_LM_F32, zero), old));
  const qn_lexpr *scale =
      qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_EQ, now, old), LX_F32(1), qn_lop1(b, QN_LX_EXP, LX_SUB(old, now)));
  qn_lstore(b, block, c->factor, QN_LM_F32, c->row, scale);
  qn_lstore(b, block, c->max, QN_LM_F32, c->row, now);
  c->base = qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_EQ, now, none), LX_F32(0), now);
  qn_lower_lanes(lower, block, QN_PAGE_KEYS, true, make_weight, c);
  const qn_lbuf *sum = qn_lower_reduce(lower, block, QN_PAGE_KEYS, QN_LX_ADD, 0, score_element, c);
  const qn_lexpr *before = LX_LOAD(c->sum, QN_LM_F32, c->row), *factor = LX_LOAD(c->factor, QN_LM_F32, c->row);
  qn_lstore(b, block, c->sum, QN_LM_F32, c->row, LX_FMA(before, factor, LX_LOAD(sum, QN_LM_F32, zero)));
}

// ---- values -----------------------------------------------------------------------------------------------------

static void scale_out(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *at = head_at(b, c, LX_ADD(c->base, c->lane));
  const qn_lexpr *scaled = LX_MUL(LX_LOAD(c->out, QN_LM_F32, at), LX_LOAD(c->factor, QN_LM_F32, c->row));
  qn_lstore(b, block, c->out, QN_LM_F32, at, scaled);
}

static void value_link(qn_lower *lower, const fused_context *c, const qn_lexpr *k, const qn_lexpr **out_left,
                       const qn_lexpr **out_right) {
  qn_lbuild *b = &lower->build;
  qn_lbuf *pool = qn_lower_param(lower, c->a->v_cache);
  if (!pool) return;
  const qn_lexpr *at = LX_ADD(LX_MUL(k, LX_INT(c->a->head_dim)), LX_ADD(c->base, c->lane));
  *out_left = LX_LOAD(c->score, QN_LM_F32, score_at(b, c, k));
  *out_right = LX_LOAD(pool, pool->mem, qn_attention_pool_index(b, c->a, c->page, c->kv_head, at));
}

// out += weight * value for keys key_lo .. key_hi - 1, in order.
static void add_values(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *at = head_at(b, c, LX_ADD(c->base, c->lane));
  const qn_lexpr *start = LX_LOAD(c->out, QN_LM_F32, at);
  qn_lbuf *acc = qn_llocal(b, block, "acc", QN_LM_F32, 1);
  if (c->rescale) start = LX_MUL(start, LX_LOAD(c->factor, QN_LM_F32, c->row));
  qn_lstore(b, block, acc, QN_LM_F32, zero, start);
  write_chain(lower, block, c,
              &(chain_context){.acc = acc,
                               .lo = c->key_lo,
                               .hi = c->key_hi,
                               .link = value_link,
                               .ahead = c->ahead ? c->a->k_cache : 0,
                               .ahead_page = c->next_page});
  qn_lstore(b, block, c->out, QN_LM_F32, at, LX_LOAD(acc, QN_LM_F32, zero));
}

// A key's place in the chunk, kept within 0 .. 64.
static const qn_lexpr *in_chunk(qn_lbuild *b, const fused_context *c, const qn_lexpr *key) {
  const qn_lexpr *at = LX_SUB(key, LX_MUL(c->chunk, LX_INT(QN_PAGE_KEYS)));
  return qn_lop2(b, QN_LX_MIN, qn_lop2(b, QN_LX_MAX, at, LX_INT(0)), LX_INT(QN_PAGE_KEYS));
}

static const qn_lexpr *first_seen(qn_lbuild *b, const fused_context *c, const qn_lexpr *pos) {
  return c->a->window > 0 ? in_chunk(b, c, LX_SUB(pos, LX_INT(c->a->window - 1))) : LX_INT(0);
}

// Keys lo .. hi - 1 for the rows of token j alone.
static void values_of_token(qn_lower *lower, qn_lblock *block, fused_context *c, const qn_lexpr *j, const qn_lexpr *lo,
                            const qn_lexpr *hi) {
  qn_lbuild *b = &lower->build;
  c->key_lo = lo;
  c->key_hi = hi;
  c->rescale = c->ahead = false;
  tile(lower, when(b, block, qn_lop2(b, QN_LX_LT, lo, hi)), LX_MUL(j, LX_INT(c->a->group)), LX_INT(c->a->group),
       c->a->head_dim, c, add_values);
}

// The tokens of the run where it has several: one alone sees what all see.
static const qn_lexpr *tokens_apart(qn_lbuild *b, const fused_context *c) {
  return qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_LT, LX_INT(1), c->tokens), c->tokens, LX_INT(0));
}

// Keys that all tokens of the run see are shared by all rows; those before (where there is a window) and after them
// are visited by the rows that see them. Others have weight 0, but 0 times what a page held before may be NaN.
static void chunk_values(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *j = NULL, *group = LX_INT(c->a->group);
  const qn_lexpr *lo = first_seen(b, c, load_index(b, c->high, zero));
  const qn_lexpr *hi = in_chunk(b, c, LX_ADD(load_index(b, c->low, zero), LX_INT(1)));
  if (c->a->window > 0) {
    tile(lower, block, zero, c->rows, c->a->head_dim, c, scale_out);
    qn_lblock *before = loop(b, block, "j", zero, tokens_apart(b, c), QN_LO_DATA, &j);
    const qn_lexpr *pos = load_index(b, c->position, LX_MUL(j, group));
    const qn_lexpr *seen = in_chunk(b, c, LX_ADD(pos, LX_INT(1)));
    values_of_token(lower, before, c, j, first_seen(b, c, pos), qn_lop2(b, QN_LX_MIN, lo, seen));
  }
  c->key_lo = lo;
  c->key_hi = hi;
  c->rescale = c->a->window <= 0;
  c->ahead = true;
  tile(lower, block, zero, c->rows, c->a->head_dim, c, add_values);
  qn_lblock *after = loop(b, block, "j", zero, tokens_apart(b, c), QN_LO_DATA, &j);
  const qn_lexpr *pos = load_index(b, c->position, LX_MUL(j, group));
  values_of_token(lower, after, c, j, qn_lop2(b, QN_LX_MAX, lo, hi), in_chunk(b, c, LX_ADD(pos, LX_INT(1))));
}

// ---- a run of tokens --------------------------------------------------------------------------------------------

static void chunks(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0);
  const qn_lexpr *lo = qn_attention_first_page(b, c->a, load_index(b, c->low, zero));
  const qn_lexpr *hi = qn_attention_last_page(b, load_index(b, c->high, zero));
  qn_lblock *body = loop(b, block, "chunk", lo, hi, QN_LO_REDUCE, &c->chunk);
  const qn_lexpr *next = qn_lop2(b, QN_LX_MIN, LX_ADD(c->chunk, LX_INT(1)), LX_SUB(hi, LX_INT(1)));
  c->page = load_index(b, c->a->table, LX_ADD(c->table_row, c->chunk));
  c->next_page = load_index(b, c->a->table, LX_ADD(c->table_row, next));
  tile(lower, body, zero, c->rows, QN_PAGE_KEYS, c, make_score);
  qn_lblock *row = loop(b, body, "r", zero, c->rows, QN_LO_DATA, &c->row);
  softmax_row(lower, row, c);
  chunk_values(lower, body, c);
}

// The tokens from c->first on that make a run: of one sequence, up to the next multiple of `most` in the step.
static void count_tokens(qn_lower *lower, qn_lblock *block, fused_context *c, int64_t most) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *j = NULL, *all = qn_ldim(b, c->a->node->type.dims[0]);
  if (most == 1) {
    c->tokens = LX_INT(1);
    return;
  }
  const qn_lexpr *left = LX_SUB(all, c->first);
  const qn_lexpr *room = LX_SUB(LX_INT(most), LX_MOD(c->first, LX_INT(most)));
  const qn_lexpr *bound = qn_lop2(b, QN_LX_MIN, qn_lop2(b, QN_LX_MIN, room, LX_INT(most)), left);
  qn_lbuf *run = qn_llocal(b, block, "run", QN_LM_I32, 1);
  qn_lstore(b, block, run, QN_LM_I32, zero, qn_li32(b, 0));
  qn_lblock *body = loop(b, block, "j", zero, bound, QN_LO_REDUCE, &j);
  const qn_lexpr *count = LX_LOAD(run, QN_LM_I32, zero);
  const qn_lexpr *same = qn_lop2(b, QN_LX_EQ, qn_attention_token_index(lower, c->a->seq, LX_ADD(c->first, j)),
                                 qn_attention_token_index(lower, c->a->seq, c->first));
  const qn_lexpr *longer = qn_lop2(b, QN_LX_AND, same, qn_lop2(b, QN_LX_EQ, count, i32_of(b, j)));
  qn_lstore(b, body, run, QN_LM_I32, zero, qn_lop3(b, QN_LX_SELECT, longer, i32_of(b, LX_ADD(j, LX_INT(1))), count));
  c->tokens = qn_lop2(b, QN_LX_MAX, qn_lop2(b, QN_LX_MIN, load_index(b, run, zero), bound), LX_INT(1));
}

static void find_positions(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *j = NULL;
  const qn_lexpr *first = i32_of(b, qn_attention_token_index(lower, c->a->pos, c->first));
  qn_lstore(b, block, c->low, QN_LM_I32, zero, first);
  qn_lstore(b, block, c->high, QN_LM_I32, zero, first);
  qn_lblock *body = loop(b, block, "j", LX_INT(1), c->tokens, QN_LO_REDUCE, &j);
  const qn_lexpr *pos = i32_of(b, qn_attention_token_index(lower, c->a->pos, LX_ADD(c->first, j)));
  const qn_lop ops[] = {QN_LX_MIN, QN_LX_MAX};
  const qn_lbuf *ends[] = {c->low, c->high};
  for (int i = 0; i < 2; i++) {
    qn_lstore(b, body, ends[i], QN_LM_I32, zero, qn_lop2(b, ops[i], pos, LX_LOAD(ends[i], QN_LM_I32, zero)));
  }
}

static const qn_lexpr *head_element(qn_lbuild *b, const fused_context *c, const qn_lexpr *row, const qn_lexpr *index) {
  const qn_lexpr *head = LX_ADD(LX_MUL(c->kv_head, LX_INT(c->a->group)), LX_MOD(row, LX_INT(c->a->group)));
  return LX_ADD(LX_MUL(head, LX_INT(c->a->head_dim)), index);
}

static void start_element(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const fused_context *c = context;
  const qn_lexpr *token = LX_ADD(c->first, LX_DIV(c->row, LX_INT(c->a->group)));
  const qn_lexpr *query = qn_lower_value(lower, c->a->q, (qn_lplace){token, head_element(b, c, c->row, index)});
  qn_lstore(b, block, c->query, QN_LM_F32, head_at(b, c, index), query);
  qn_lstore(b, block, c->out, QN_LM_F32, head_at(b, c, index), LX_F32(0));
}

static void start_rows(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  qn_lblock *rows = loop(b, block, "r", LX_INT(0), c->rows, QN_LO_DATA, &c->row);
  const qn_lexpr *token = LX_ADD(c->first, LX_DIV(c->row, LX_INT(c->a->group)));
  qn_lstore(b, rows, c->position, QN_LM_I32, c->row, i32_of(b, qn_attention_token_index(lower, c->a->pos, token)));
  qn_lstore(b, rows, c->max, QN_LM_F32, c->row, LX_F32(-INFINITY));
  qn_lstore(b, rows, c->sum, QN_LM_F32, c->row, LX_F32(0));
  qn_lower_lanes(lower, rows, c->a->head_dim, true, start_element, c);
}

static void store_element(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const fused_context *c = context;
  qn_id id = (qn_id)(c->a->node - lower->graph->nodes.items);
  const qn_lexpr *token = LX_ADD(c->first, LX_DIV(c->row, LX_INT(c->a->group)));
  const qn_lexpr *out = LX_LOAD(c->out, QN_LM_F32, head_at(b, c, index));
  qn_lower_store(lower, block, id, (qn_lplace){token, head_element(b, c, c->row, index)},
                 LX_MUL(out, LX_LOAD(c->sum, QN_LM_F32, c->row)));
}

static void finish_rows(qn_lower *lower, qn_lblock *block, fused_context *c) {
  qn_lbuild *b = &lower->build;
  qn_lblock *rows = loop(b, block, "r", LX_INT(0), c->rows, QN_LO_DATA, &c->row);
  qn_lstore(b, rows, c->sum, QN_LM_F32, c->row, LX_DIV(LX_F32(1), LX_LOAD(c->sum, QN_LM_F32, c->row)));
  qn_lower_lanes(lower, rows, c->a->head_dim, true, store_element, c);
}

static void run_of_tokens(qn_lower *lower, qn_lblock *block, fused_context *c, int64_t most) {
  qn_lbuild *b = &lower->build;
  int64_t rows = most * c->a->group;
  count_tokens(lower, block, c, most);
  c->rows = LX_MUL(c->tokens, LX_INT(c->a->group));
  c->table_row = LX_MUL(qn_attention_token_index(lower, c->a->seq, c->first), qn_lsym(b, QN_SYM_P));
  c->low = qn_llocal(b, block, "low", QN_LM_I32, 1);
  c->high = qn_llocal(b, block, "high", QN_LM_I32, 1);
  c->position = qn_llocal(b, block, "position", QN_LM_I32, rows);
  c->query = qn_llocal(b, block, "query", QN_LM_F32, rows * c->a->head_dim);
  c->out = qn_llocal(b, block, "out", QN_LM_F32, rows * c->a->head_dim);
  c->score = qn_llocal(b, block, "score", QN_LM_F32, rows * QN_PAGE_KEYS);
  c->max = qn_llocal(b, block, "max", QN_LM_F32, rows);
  c->sum = qn_llocal(b, block, "sum", QN_LM_F32, rows);
  c->factor = qn_llocal(b, block, "factor", QN_LM_F32, rows);
  find_positions(lower, block, c);
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
  fused_context c = {.a = a};
  lower->tile_rows = a->group;
  lower->run_tokens = most;
  qn_lblock *body = loop(b, &b->kernel->body, "h", zero, LX_MUL(LX_INT(a->kv_heads), all), QN_LO_DATA, &h);
  c.kv_head = LX_DIV(h, all);
  c.first = LX_MOD(h, all);
  const qn_lexpr *before = qn_lop2(b, QN_LX_MAX, LX_SUB(c.first, LX_INT(1)), zero);
  const qn_lexpr *same = qn_lop2(b, QN_LX_EQ, qn_attention_token_index(lower, a->seq, before),
                                 qn_attention_token_index(lower, a->seq, c.first));
  const qn_lexpr *aligned = qn_lop2(b, QN_LX_EQ, LX_MOD(c.first, LX_INT(most)), zero);
  const qn_lexpr *times =
      qn_lop3(b, QN_LX_SELECT, aligned, LX_INT(1), qn_lop3(b, QN_LX_SELECT, same, LX_INT(0), LX_INT(1)));
  const qn_lexpr *unused = NULL;
  run_of_tokens(lower, loop(b, body, "run", zero, times, QN_LO_DATA, &unused), &c, most);
  return QN_OK;
}
