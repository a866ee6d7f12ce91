// Lowering of attention over the paged cache, fused (chunks of 64 keys with a running maximum, Milakov and Gimelshein
// 2018, FlashAttention's order) and, where a graph asks for the probabilities, its three parts one by one.
#include <math.h>

#include "passes/lower.h"

typedef struct attention_context {
  const qn_node *node;
  qn_id q, k_cache, v_cache;  // 0 where the op has none
  const qn_lexpr *row, *head, *kv_head, *pos;
  const qn_lexpr *table_row;  // index of the sequence's first block table entry
  const qn_lbuf *table;
  int64_t heads, kv_heads, head_dim;
  const qn_lexpr *page;   // the chunk's page in the pool
  const qn_lexpr *chunk;  // number of the chunk in the sequence
  const qn_lbuf *scores, *weights, *out;
  const qn_lexpr *query, *factor, *max, *probability;
  const qn_lexpr *d, *key;  // loop variables of the chains
} attention_context;

static const qn_lexpr *key_of(qn_lbuild *b, const attention_context *c, const qn_lexpr *index) {
  return LX_ADD(LX_MUL(c->chunk, LX_INT(QN_PAGE_KEYS)), index);
}

// Index of (page, kv head) in a pool of pages of [heads, head_dim * 64].
static const qn_lexpr *pool_base(qn_lbuild *b, const attention_context *c) {
  return LX_MUL(LX_ADD(LX_MUL(c->page, LX_INT(c->kv_heads)), c->kv_head), LX_INT(c->head_dim * QN_PAGE_KEYS));
}

static void start_scores(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  const attention_context *c = context;
  qn_lstore(&lower->build, block, c->scores, QN_LM_F32, index, qn_lf32(&lower->build, 0));
}

static void add_scores(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const attention_context *c = context;
  qn_lbuf *pool = qn_lower_param(lower, c->k_cache);
  if (!pool) return;
  const qn_lexpr *at = LX_ADD(LX_ADD(pool_base(b, c), LX_MUL(c->d, LX_INT(QN_PAGE_KEYS))), index);
  qn_lstore(b, block, c->scores, QN_LM_F32, index,
            LX_FMA(c->query, LX_LOAD(pool, pool->mem, at), LX_LOAD(c->scores, QN_LM_F32, index)));
}

// scale, soft cap, and -inf for keys that this token does not see.
static void finish_scores(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const attention_context *c = context;
  double softcap = qn_node_float(c->node, QN_ATTR_SOFTCAP, 0);
  int64_t window = qn_node_int(c->node, QN_ATTR_WINDOW, 0);
  const qn_lexpr *score =
      LX_MUL(LX_LOAD(c->scores, QN_LM_F32, index), LX_F32((float)qn_node_float(c->node, QN_ATTR_SCALE, 1)));
  if (softcap > 0) {
    const qn_lexpr *ratio = LX_DIV(score, LX_F32((float)softcap));
    score = LX_MUL(LX_F32((float)softcap), qn_lop1(b, QN_LX_TANH, ratio));
  }
  const qn_lexpr *key = key_of(b, c, index);
  const qn_lexpr *seen = qn_lop2(b, QN_LX_LE, key, c->pos);
  if (window > 0) {
    seen = qn_lop2(b, QN_LX_AND, seen, qn_lop2(b, QN_LX_LT, LX_SUB(c->pos, LX_INT(window)), key));
  }
  qn_lstore(b, block, c->scores, QN_LM_F32, index, qn_lop3(b, QN_LX_SELECT, seen, score, LX_F32(-INFINITY)));
}

// scores[0..64) of a chunk: one chain along head_dim each.
static void chunk_scores(qn_lower *lower, qn_lblock *block, attention_context *c) {
  qn_lbuild *b = &lower->build;
  qn_lower_lanes(lower, block, QN_PAGE_KEYS, true, start_scores, c);
  qn_lvar *d = qn_lvar_new(b, "k");
  qn_lstmt *loop = qn_lfor(b, block, d, LX_INT(0), LX_INT(c->head_dim), QN_LO_REDUCE);
  if (!loop) return;
  c->d = qn_lref(b, d);
  const qn_lexpr *flat = LX_ADD(LX_MUL(c->head, LX_INT(c->head_dim)), c->d);
  c->query = qn_lower_value(lower, c->q, (qn_lplace){c->row, flat});
  qn_lower_lanes(lower, &loop->u.loop.body, QN_PAGE_KEYS, true, add_scores, c);
  qn_lower_lanes(lower, block, QN_PAGE_KEYS, true, finish_scores, c);
}

static const qn_lexpr *score_element(qn_lower *lower, const qn_lexpr *index, void *context) {
  const attention_context *c = context;
  return qn_lload(&lower->build, c->scores, QN_LM_F32, index, 1);
}

static const qn_lexpr *weight_element(qn_lower *lower, const qn_lexpr *index, void *context) {
  const attention_context *c = context;
  return qn_lload(&lower->build, c->weights, QN_LM_F32, index, 1);
}

static void make_weights(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const attention_context *c = context;
  const qn_lexpr *score = LX_LOAD(c->scores, QN_LM_F32, index);
  qn_lstore(b, block, c->weights, QN_LM_F32, index, qn_lop1(b, QN_LX_EXP, LX_SUB(score, c->max)));
}

static void start_out(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  const attention_context *c = context;
  qn_lstore(&lower->build, block, c->out, QN_LM_F32, index, qn_lf32(&lower->build, 0));
}

static void scale_out(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const attention_context *c = context;
  qn_lstore(b, block, c->out, QN_LM_F32, index, LX_MUL(LX_LOAD(c->out, QN_LM_F32, index), c->factor));
}

static void add_values(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const attention_context *c = context;
  qn_lbuf *pool = qn_lower_param(lower, c->v_cache);
  if (!pool) return;
  const qn_lexpr *at = LX_ADD(LX_ADD(pool_base(b, c), LX_MUL(c->key, LX_INT(c->head_dim))), index);
  qn_lstore(b, block, c->out, QN_LM_F32, index,
            LX_FMA(c->probability, LX_LOAD(pool, pool->mem, at), LX_LOAD(c->out, QN_LM_F32, index)));
}

static void store_out(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const attention_context *c = context;
  const qn_lexpr *flat = LX_ADD(LX_MUL(c->head, LX_INT(c->head_dim)), index);
  const qn_lexpr *value = LX_LOAD(c->out, QN_LM_F32, index);
  qn_id id = (qn_id)(c->node - lower->graph->nodes.items);
  qn_lower_store(lower, block, id, (qn_lplace){c->row, flat}, c->factor ? LX_MUL(value, c->factor) : value);
}

// The keys of the chunk that the token sees: first_key .. keys_seen - 1.
static const qn_lexpr *first_key(qn_lbuild *b, const attention_context *c) {
  int64_t window = qn_node_int(c->node, QN_ATTR_WINDOW, 0);
  if (window <= 0) return LX_INT(0);
  return qn_lop2(b, QN_LX_MAX, LX_SUB(LX_SUB(c->pos, LX_INT(window - 1)), key_of(b, c, LX_INT(0))), LX_INT(0));
}

static const qn_lexpr *keys_seen(qn_lbuild *b, const attention_context *c) {
  return qn_lop2(b, QN_LX_MIN, LX_SUB(LX_ADD(c->pos, LX_INT(1)), key_of(b, c, LX_INT(0))), LX_INT(QN_PAGE_KEYS));
}

// One chunk of the running softmax: new maximum, rescaled sum and output, then the chunk's keys in order.
static void fused_chunk(qn_lower *lower, qn_lblock *block, attention_context *c, const qn_lbuf *max,
                        const qn_lbuf *sum) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0);
  qn_lbuf *next = qn_llocal(b, block, "next", QN_LM_F32, 1), *factor = qn_llocal(b, block, "factor", QN_LM_F32, 1);
  chunk_scores(lower, block, c);
  const qn_lbuf *top = qn_lower_reduce(lower, block, QN_PAGE_KEYS, QN_LX_MAX, -INFINITY, score_element, c);
  const qn_lexpr *old_max = LX_LOAD(max, QN_LM_F32, zero);
  qn_lstore(b, block, next, QN_LM_F32, zero, qn_lop2(b, QN_LX_MAX, LX_LOAD(top, QN_LM_F32, zero), old_max));
  c->max = LX_LOAD(next, QN_LM_F32, zero);
  qn_lstore(b, block, factor, QN_LM_F32, zero, qn_lop1(b, QN_LX_EXP, LX_SUB(old_max, c->max)));
  c->factor = LX_LOAD(factor, QN_LM_F32, zero);
  qn_lower_lanes(lower, block, QN_PAGE_KEYS, true, make_weights, c);
  const qn_lbuf *chunk_sum = qn_lower_reduce(lower, block, QN_PAGE_KEYS, QN_LX_ADD, 0, weight_element, c);
  qn_lstore(b, block, sum, QN_LM_F32, zero,
            LX_FMA(LX_LOAD(sum, QN_LM_F32, zero), c->factor, LX_LOAD(chunk_sum, QN_LM_F32, zero)));
  qn_lower_lanes(lower, block, c->head_dim, true, scale_out, c);
  // Only keys that the token sees: others have probability 0, but 0 times what a page held before may be NaN.
  qn_lvar *key = qn_lvar_new(b, "k");
  qn_lstmt *keys = qn_lfor(b, block, key, first_key(b, c), keys_seen(b, c), QN_LO_REDUCE);
  if (!keys) return;
  c->key = qn_lref(b, key);
  c->probability = LX_LOAD(c->weights, QN_LM_F32, c->key);
  qn_lower_lanes(lower, &keys->u.loop.body, c->head_dim, true, add_values, c);
  qn_lstore(b, block, max, QN_LM_F32, zero, c->max);
}

// for chunk in lo..hi: sets c->chunk and c->page.
static qn_lblock *chunks_loop(qn_lower *lower, qn_lblock *block, attention_context *c, const qn_lexpr *lo,
                              const qn_lexpr *hi) {
  qn_lbuild *b = &lower->build;
  qn_lvar *chunk = qn_lvar_new(b, "chunk");
  qn_lstmt *loop = qn_lfor(b, block, chunk, lo, hi, QN_LO_REDUCE);
  if (!loop) return NULL;
  c->chunk = qn_lref(b, chunk);
  c->page = qn_lop1(b, QN_LX_TO_INDEX, LX_LOAD(c->table, QN_LM_I32, LX_ADD(c->table_row, c->chunk)));
  return &loop->u.loop.body;
}

static const qn_lexpr *first_chunk(qn_lbuild *b, const attention_context *c) {
  int64_t window = qn_node_int(c->node, QN_ATTR_WINDOW, 0);
  if (window <= 0) return LX_INT(0);
  return LX_DIV(qn_lop2(b, QN_LX_MAX, LX_SUB(c->pos, LX_INT(window - 1)), LX_INT(0)), LX_INT(QN_PAGE_KEYS));
}

static const qn_lexpr *chunks_seen(qn_lbuild *b, const attention_context *c) {
  return LX_ADD(LX_DIV(c->pos, LX_INT(QN_PAGE_KEYS)), LX_INT(1));
}

static void fused_attention(qn_lower *lower, qn_lblock *block, attention_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0);
  qn_lbuf *max = qn_llocal(b, block, "max", QN_LM_F32, 1), *sum = qn_llocal(b, block, "sum", QN_LM_F32, 1);
  c->scores = qn_llocal(b, block, "score", QN_LM_F32, QN_PAGE_KEYS);
  c->weights = qn_llocal(b, block, "weight", QN_LM_F32, QN_PAGE_KEYS);
  c->out = qn_llocal(b, block, "out", QN_LM_F32, c->head_dim);
  qn_lstore(b, block, max, QN_LM_F32, zero, LX_F32(-INFINITY));
  qn_lstore(b, block, sum, QN_LM_F32, zero, LX_F32(0));
  qn_lower_lanes(lower, block, c->head_dim, true, start_out, c);
  qn_lblock *body = chunks_loop(lower, block, c, first_chunk(b, c), chunks_seen(b, c));
  if (!body) return;
  fused_chunk(lower, body, c, max, sum);
  c->factor = LX_DIV(LX_F32(1), LX_LOAD(sum, QN_LM_F32, zero));
  qn_lower_lanes(lower, block, c->head_dim, true, store_out, c);
}

static void store_scores(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const attention_context *c = context;
  const qn_lexpr *keys = qn_ldim(b, c->node->type.dims[2]);
  const qn_lexpr *flat = LX_ADD(LX_MUL(c->head, keys), key_of(b, c, index));
  qn_id id = (qn_id)(c->node - lower->graph->nodes.items);
  qn_lower_store(lower, block, id, (qn_lplace){c->row, flat}, LX_LOAD(c->scores, QN_LM_F32, index));
}

// Every chunk of the block table's row, also those after the token: their scores are -inf.
static void lone_scores(qn_lower *lower, qn_lblock *block, attention_context *c) {
  qn_lbuild *b = &lower->build;
  qn_lblock *body = chunks_loop(lower, block, c, LX_INT(0), qn_lsym(b, QN_SYM_P));
  if (!body) return;
  c->scores = qn_llocal(b, body, "score", QN_LM_F32, QN_PAGE_KEYS);
  chunk_scores(lower, body, c);
  qn_lower_lanes(lower, body, QN_PAGE_KEYS, true, store_scores, c);
}

static void lone_mix(qn_lower *lower, qn_lblock *block, attention_context *c) {
  qn_lbuild *b = &lower->build;
  c->out = qn_llocal(b, block, "out", QN_LM_F32, c->head_dim);
  qn_lower_lanes(lower, block, c->head_dim, true, start_out, c);
  qn_lblock *body = chunks_loop(lower, block, c, LX_INT(0), chunks_seen(b, c));
  if (!body) return;
  qn_lvar *key = qn_lvar_new(b, "k");
  qn_lstmt *keys = qn_lfor(b, body, key, LX_INT(0), keys_seen(b, c), QN_LO_REDUCE);
  if (!keys) return;
  c->key = qn_lref(b, key);
  const qn_lexpr *all = qn_ldim(b, qn_graph_node(lower->graph, c->node->operands[0])->type.dims[2]);
  const qn_lexpr *flat = LX_ADD(LX_MUL(c->head, all), key_of(b, c, c->key));
  c->probability = qn_lower_value(lower, c->node->operands[0], (qn_lplace){c->row, flat});
  qn_lower_lanes(lower, &keys->u.loop.body, c->head_dim, true, add_values, c);
  c->factor = NULL;
  qn_lower_lanes(lower, block, c->head_dim, true, store_out, c);
}

qn_status qn_lower_attention_group(qn_lower *lower, qn_id id) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  bool fused = node->op == QN_OP_ATTENTION;
  attention_context c = {.node = node, .heads = node->type.dims[1].value};
  c.q = node->operands[0];
  c.k_cache = node->op == QN_OP_ATTN_MIX ? 0 : node->operands[1];
  c.v_cache = fused ? node->operands[2] : node->op == QN_OP_ATTN_MIX ? node->operands[1] : 0;
  int places = fused ? 3 : 2;  // pos, seq, block_table
  const qn_type *pool = &qn_graph_node(lower->graph, c.k_cache ? c.k_cache : c.v_cache)->type;
  c.kv_heads = pool->dims[1].value;
  c.head_dim = c.k_cache ? pool->dims[2].value : pool->dims[3].value;
  if (fused && qn_graph_node(lower->graph, c.v_cache)->type.dims[3].value != c.head_dim) {
    return qn_fail(lower->pass->diag, QN_ERR_UNSUPPORTED, node->loc,
                   "attention: got values of %lld beside keys of %lld, want head_dims that are equal",
                   (long long)qn_graph_node(lower->graph, c.v_cache)->type.dims[3].value, (long long)c.head_dim);
  }
  qn_lvar *h = qn_lvar_new(b, "h"), *t = qn_lvar_new(b, "t");
  qn_lstmt *heads = qn_lfor(b, &b->kernel->body, h, LX_INT(0), LX_INT(c.heads), QN_LO_DATA);
  qn_lstmt *tokens =
      heads ? qn_lfor(b, &heads->u.loop.body, t, LX_INT(0), qn_ldim(b, node->type.dims[0]), QN_LO_DATA) : NULL;
  if (!tokens) return qn_fail_nomem(lower->pass->diag, node->loc, "a kernel");
  c.row = qn_lref(b, t);
  c.head = qn_lref(b, h);
  c.kv_head = LX_DIV(c.head, LX_INT(c.heads / c.kv_heads));
  qn_lplace row = {NULL, c.row};
  c.pos = qn_lop1(b, QN_LX_TO_INDEX, qn_lower_value(lower, node->operands[places], row));
  const qn_lexpr *seq = qn_lop1(b, QN_LX_TO_INDEX, qn_lower_value(lower, node->operands[places + 1], row));
  c.table_row = LX_MUL(seq, qn_lsym(b, QN_SYM_P));
  c.table = qn_lower_param(lower, node->operands[places + 2]);
  qn_lblock *block = &tokens->u.loop.body;
  if (fused) {
    fused_attention(lower, block, &c);
  } else if (c.k_cache) {
    lone_scores(lower, block, &c);
  } else {
    lone_mix(lower, block, &c);
  }
  return QN_OK;
}
