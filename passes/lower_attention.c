// Lowering of attention over the paged cache: what the op says, and, where a graph asks for the scores or the
// probabilities, its parts one by one. The fused kernel is in lower_attention_fused.c.
#include "passes/lower_attention.h"

#include <math.h>

// A part of attention for one token and one query head.
typedef struct part_context {
  const qn_attention *a;
  const qn_lexpr *row, *head, *kv_head;
  const qn_lexpr *last, *at;  // the last key that it sees, and where it is
  const qn_lexpr *table_row;  // index of the sequence's first block table entry
  const qn_lexpr *page;       // the chunk's page in the pool
  const qn_lexpr *chunk;      // number of the chunk in the sequence
  const qn_lbuf *scores, *out;
  const qn_lexpr *query, *probability;
  const qn_lexpr *d, *key;  // loop variables of the chains
} part_context;

const qn_lexpr *qn_attention_token_index(qn_lower *lower, qn_id id, const qn_lexpr *row) {
  return qn_lop1(&lower->build, QN_LX_TO_INDEX, qn_lower_value(lower, id, (qn_lplace){NULL, row}));
}

const qn_lexpr *qn_attention_pool_index(qn_lbuild *b, const qn_attention *a, const qn_lexpr *page,
                                        const qn_lexpr *kv_head, const qn_lexpr *at) {
  return LX_ADD(LX_MUL(LX_ADD(LX_MUL(page, LX_INT(a->kv_heads)), kv_head), LX_INT(a->head_dim * QN_PAGE_KEYS)), at);
}

// What a query head adds to the score of a key so far away; keys farther off than the bias knows have that of its ends.
static const qn_lexpr *bias_at(qn_lower *lower, const qn_attention *a, const qn_lexpr *head, const qn_lexpr *distance) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *column = LX_ADD(distance, qn_li32(b, (int32_t)a->origin));
  column = qn_lop2(b, QN_LX_MIN, qn_lop2(b, QN_LX_MAX, column, qn_li32(b, 0)), qn_li32(b, (int32_t)a->distances - 1));
  const qn_lexpr *flat = LX_ADD(LX_MUL(head, LX_INT(a->distances)), qn_lop1(b, QN_LX_TO_INDEX, column));
  return qn_lower_value(lower, a->bias, (qn_lplace){NULL, flat});
}

const qn_lexpr *qn_attention_score(qn_lower *lower, const qn_attention *a, const qn_lexpr *dot, const qn_lexpr *head,
                                   const qn_lexpr *distance, const qn_lexpr *seen) {
  qn_lbuild *b = &lower->build;
  double softcap = qn_node_float(a->node, QN_ATTR_SOFTCAP, 0);
  const qn_lexpr *score = LX_MUL(dot, LX_F32((float)qn_node_float(a->node, QN_ATTR_SCALE, 1)));
  if (softcap > 0) {
    const qn_lexpr *ratio = LX_DIV(score, LX_F32((float)softcap));
    score = LX_MUL(LX_F32((float)softcap), qn_lop1(b, QN_LX_TANH, ratio));
  }
  if (a->slopes) {
    const qn_lexpr *slope = qn_lower_value(lower, a->slopes, (qn_lplace){NULL, head});
    score = LX_FMA(slope, qn_lop1(b, QN_LX_TO_F32, distance), score);
  }
  if (a->bias) score = LX_ADD(score, bias_at(lower, a, head, distance));
  return qn_lop3(b, QN_LX_SELECT, seen, score, LX_F32(-INFINITY));
}

const qn_lexpr *qn_attention_place(qn_lower *lower, const qn_attention *a, const qn_lexpr *row) {
  return qn_attention_token_index(lower, a->at, row);
}

const qn_lexpr *qn_attention_last_key(qn_lower *lower, const qn_attention *a, const qn_lexpr *row) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *last = qn_attention_token_index(lower, a->pos, row);
  if (a->ahead < 0) return last;
  return qn_lop2(b, QN_LX_MIN, last, LX_ADD(qn_attention_place(lower, a, row), LX_INT(a->ahead)));
}

const qn_lexpr *qn_attention_first_page(qn_lbuild *b, const qn_attention *a, const qn_lexpr *place) {
  if (a->window <= 0) return LX_INT(0);
  return LX_DIV(qn_lop2(b, QN_LX_MAX, LX_SUB(place, LX_INT(a->window - 1)), LX_INT(0)), LX_INT(QN_PAGE_KEYS));
}

const qn_lexpr *qn_attention_last_page(qn_lbuild *b, const qn_lexpr *last) {
  return LX_ADD(LX_DIV(last, LX_INT(QN_PAGE_KEYS)), LX_INT(1));
}

const qn_lexpr *qn_attention_result(qn_lbuild *b, const qn_attention *a, const qn_lexpr *value) {
  return a->v_page.coded ? LX_ADD(value, LX_F32(0)) : value;
}

// An element of the chunk: `along` what is summed (c of a key, the key of a value), `column` the other.
static const qn_lexpr *chunk_element(qn_lower *lower, const part_context *c, const qn_lexpr *along,
                                     const qn_lexpr *column) {
  qn_lbuild *b = &lower->build;
  const qn_attention *a = c->a;
  qn_id cache = a->k_cache ? a->k_cache : a->v_cache;
  const qn_kv_page *page = a->k_cache ? &a->k_page : &a->v_page;
  qn_lbuf *pool = qn_lower_param(lower, cache);
  if (!pool) return NULL;
  if (!page->coded) {
    const qn_lexpr *at = LX_ADD(LX_MUL(along, LX_INT(page->is_k ? page->keys : page->width)), column);
    return LX_LOAD(pool, pool->mem, qn_attention_pool_index(b, a, c->page, c->kv_head, at));
  }
  qn_attention_codes codes = qn_attention_pool_codes(lower, a, cache, c->page, c->kv_head);
  const qn_lexpr *panel = LX_DIV(column, LX_INT(QN_TILE_ROWS)), *lane = LX_MOD(column, LX_INT(QN_TILE_ROWS));
  const qn_lexpr *group = page->is_k ? LX_INT(0) : qn_attention_panel_group(b, page, panel);
  return LX_MUL(qn_attention_code_number(b, &codes, along, panel, lane),
                qn_attention_code_scale(b, &codes, group, page->is_k ? column : along));
}

static const qn_lexpr *key_of(qn_lbuild *b, const part_context *c, const qn_lexpr *index) {
  return LX_ADD(LX_MUL(c->chunk, LX_INT(QN_PAGE_KEYS)), index);
}

static void start_scores(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  const part_context *c = context;
  qn_lstore(&lower->build, block, c->scores, QN_LM_F32, index, qn_lf32(&lower->build, 0));
}

static void add_scores(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const part_context *c = context;
  qn_lstore(b, block, c->scores, QN_LM_F32, index,
            LX_FMA(c->query, chunk_element(lower, c, c->d, index), LX_LOAD(c->scores, QN_LM_F32, index)));
}

// scale, soft cap, and -inf for keys that this token does not see.
static void finish_scores(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const part_context *c = context;
  const qn_lexpr *key = key_of(b, c, index);
  const qn_lexpr *seen = qn_lop2(b, QN_LX_LE, key, c->last);
  if (c->a->window > 0) {
    seen = qn_lop2(b, QN_LX_AND, seen, qn_lop2(b, QN_LX_LT, LX_SUB(c->at, LX_INT(c->a->window)), key));
  }
  qn_lstore(b, block, c->scores, QN_LM_F32, index,
            qn_attention_score(lower, c->a, LX_LOAD(c->scores, QN_LM_F32, index), c->head,
                               qn_lop1(b, QN_LX_TO_I32, LX_SUB(key, c->at)), seen));
}

// scores[0..64) of a chunk: one chain along head_dim each.
static void chunk_scores(qn_lower *lower, qn_lblock *block, part_context *c) {
  qn_lbuild *b = &lower->build;
  qn_lower_lanes(lower, block, QN_PAGE_KEYS, true, start_scores, c);
  qn_lvar *d = qn_lvar_new(b, "k");
  qn_lstmt *loop = qn_lfor(b, block, d, LX_INT(0), LX_INT(c->a->head_dim), QN_LO_REDUCE);
  if (!loop) return;
  c->d = qn_lref(b, d);
  const qn_lexpr *flat = LX_ADD(LX_MUL(c->head, LX_INT(c->a->head_dim)), c->d);
  c->query = qn_lower_value(lower, c->a->q, (qn_lplace){c->row, flat});
  qn_lower_lanes(lower, &loop->u.loop.body, QN_PAGE_KEYS, true, add_scores, c);
  qn_lower_lanes(lower, block, QN_PAGE_KEYS, true, finish_scores, c);
}

static void start_out(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  const part_context *c = context;
  qn_lstore(&lower->build, block, c->out, QN_LM_F32, index, qn_lf32(&lower->build, 0));
}

static void add_values(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const part_context *c = context;
  qn_lstore(b, block, c->out, QN_LM_F32, index,
            LX_FMA(c->probability, chunk_element(lower, c, c->key, index), LX_LOAD(c->out, QN_LM_F32, index)));
}

static void store_out(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const part_context *c = context;
  const qn_lexpr *flat = LX_ADD(LX_MUL(c->head, LX_INT(c->a->head_dim)), index);
  qn_id id = (qn_id)(c->a->node - lower->graph->nodes.items);
  qn_lower_store(lower, block, id, (qn_lplace){c->row, flat}, LX_LOAD(c->out, QN_LM_F32, index));
}

// for chunk in lo..hi: sets c->chunk and c->page.
static qn_lblock *chunks_loop(qn_lower *lower, qn_lblock *block, part_context *c, const qn_lexpr *lo, const qn_lexpr *hi) {
  qn_lbuild *b = &lower->build;
  qn_lvar *chunk = qn_lvar_new(b, "chunk");
  qn_lstmt *loop = qn_lfor(b, block, chunk, lo, hi, QN_LO_REDUCE);
  if (!loop) return NULL;
  c->chunk = qn_lref(b, chunk);
  c->page = qn_lop1(b, QN_LX_TO_INDEX, LX_LOAD(c->a->table, QN_LM_I32, LX_ADD(c->table_row, c->chunk)));
  return &loop->u.loop.body;
}

static void store_scores(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const part_context *c = context;
  const qn_lexpr *keys = qn_ldim(b, c->a->node->type.dims[2]);
  const qn_lexpr *flat = LX_ADD(LX_MUL(c->head, keys), key_of(b, c, index));
  qn_id id = (qn_id)(c->a->node - lower->graph->nodes.items);
  qn_lower_store(lower, block, id, (qn_lplace){c->row, flat}, LX_LOAD(c->scores, QN_LM_F32, index));
}

// Every chunk of the block table's row, also those after the token: their scores are -inf.
static void lone_scores(qn_lower *lower, qn_lblock *block, part_context *c) {
  qn_lbuild *b = &lower->build;
  qn_lblock *body = chunks_loop(lower, block, c, LX_INT(0), qn_lsym(b, QN_SYM_P));
  if (!body) return;
  c->scores = qn_llocal(b, body, "score", QN_LM_F32, QN_PAGE_KEYS);
  chunk_scores(lower, body, c);
  qn_lower_lanes(lower, body, QN_PAGE_KEYS, true, store_scores, c);
}

// Only keys that the token sees: others have probability 0, but 0 times what a page held before may be NaN.
static void lone_mix(qn_lower *lower, qn_lblock *block, part_context *c) {
  qn_lbuild *b = &lower->build;
  c->out = qn_llocal(b, block, "out", QN_LM_F32, c->a->head_dim);
  qn_lower_lanes(lower, block, c->a->head_dim, true, start_out, c);
  const qn_lexpr *lo = qn_attention_first_page(b, c->a, c->at);
  qn_lblock *body = chunks_loop(lower, block, c, lo, qn_attention_last_page(b, c->last));
  if (!body) return;
  const qn_lexpr *seen = LX_SUB(LX_ADD(c->last, LX_INT(1)), key_of(b, c, LX_INT(0)));
  const qn_lexpr *first = LX_INT(0);
  if (c->a->window > 0)
    first = qn_lop2(b, QN_LX_MAX, LX_SUB(LX_SUB(c->at, LX_INT(c->a->window - 1)), key_of(b, c, LX_INT(0))), first);
  qn_lvar *key = qn_lvar_new(b, "k");
  qn_lstmt *keys = qn_lfor(b, body, key, first, qn_lop2(b, QN_LX_MIN, seen, LX_INT(QN_PAGE_KEYS)), QN_LO_REDUCE);
  if (!keys) return;
  c->key = qn_lref(b, key);
  const qn_node *node = c->a->node;
  const qn_lexpr *all = qn_ldim(b, qn_graph_node(lower->graph, node->operands[0])->type.dims[2]);
  const qn_lexpr *flat = LX_ADD(LX_MUL(c->head, all), key_of(b, c, c->key));
  c->probability = qn_lower_value(lower, node->operands[0], (qn_lplace){c->row, flat});
  qn_lower_lanes(lower, &keys->u.loop.body, c->a->head_dim, true, add_values, c);
  qn_lower_lanes(lower, block, c->a->head_dim, true, store_out, c);
}

static qn_status lower_part(qn_lower *lower, const qn_attention *a) {
  qn_lbuild *b = &lower->build;
  qn_lvar *h = qn_lvar_new(b, "h"), *t = qn_lvar_new(b, "t");
  qn_lstmt *heads = qn_lfor(b, &b->kernel->body, h, LX_INT(0), LX_INT(a->kv_heads * a->group), QN_LO_DATA);
  qn_lstmt *tokens = qn_lfor(b, &heads->u.loop.body, t, LX_INT(0), qn_ldim(b, a->node->type.dims[0]), QN_LO_DATA);
  part_context c = {.a = a, .row = qn_lref(b, t), .head = qn_lref(b, h)};
  c.kv_head = LX_DIV(c.head, LX_INT(a->group));
  c.last = qn_attention_last_key(lower, a, c.row);
  c.at = a->at == a->pos && a->ahead < 0 ? c.last : qn_attention_place(lower, a, c.row);
  c.table_row = LX_MUL(qn_attention_token_index(lower, a->seq, c.row), qn_lsym(b, QN_SYM_P));
  if (a->k_cache) {
    lone_scores(lower, &tokens->u.loop.body, &c);
  } else {
    lone_mix(lower, &tokens->u.loop.body, &c);
  }
  return QN_OK;
}

qn_status qn_lower_attention_group(qn_lower *lower, qn_id id) {
  const qn_node *node = qn_graph_node(lower->graph, id);
  bool fused = node->op == QN_OP_ATTENTION;
  int places = fused ? 3 : 2, by, at;  // pos, seq, block_table
  bool more = node->operand_count > places + 3;
  qn_attention_operands(node, places, more ? &qn_graph_node(lower->graph, node->operands[places + 3])->type : NULL, &by, &at);
  bool biased = by && qn_node_attr(node, QN_ATTR_ORIGIN);
  const qn_attr *ahead = qn_node_attr(node, QN_ATTR_AHEAD);
  qn_attention a = {
      .node = node,
      .q = node->op == QN_OP_ATTN_MIX ? 0 : node->operands[0],
      .k_cache = node->op == QN_OP_ATTN_MIX ? 0 : node->operands[1],
      .v_cache = fused                        ? node->operands[2]
                 : node->op == QN_OP_ATTN_MIX ? node->operands[1]
                                              : 0,
      .pos = node->operands[places],
      .seq = node->operands[places + 1],
      .slopes = by && !biased ? node->operands[by] : 0,
      .bias = biased ? node->operands[by] : 0,
      .origin = qn_node_int(node, QN_ATTR_ORIGIN, 0),
      .at = node->operands[at],
      .window = node->op == QN_OP_ATTN_MIX ? qn_graph_mix_window(lower->graph, node)
                                           : qn_node_int(node, QN_ATTR_WINDOW, 0),
      .ahead = ahead ? ahead->value.i : -1,
  };
  const qn_type *pool = &qn_graph_node(lower->graph, a.k_cache ? a.k_cache : a.v_cache)->type;
  a.kv_heads = pool->dims[1].value;
  a.head_dim = a.k_cache ? pool->dims[2].value : pool->dims[3].value;
  a.group = node->type.dims[1].value / a.kv_heads;
  if (biased) a.distances = qn_graph_node(lower->graph, a.bias)->type.dims[0].value / node->type.dims[1].value;
  a.integer = qn_node_int(node, QN_ATTR_CODES, 0) != 0;
  bool sized = (!a.k_cache || qn_type_kv_page(&qn_graph_node(lower->graph, a.k_cache)->type, true, &a.k_page)) &&
               (!a.v_cache || qn_type_kv_page(&qn_graph_node(lower->graph, a.v_cache)->type, false, &a.v_page));
  if (!sized) return qn_fail(lower->pass->diag, QN_ERR_LIMIT, node->loc, "the size of a cache page overflows");
  if (fused && qn_graph_node(lower->graph, a.v_cache)->type.dims[3].value != a.head_dim) {
    return qn_fail(lower->pass->diag, QN_ERR_UNSUPPORTED, node->loc,
                   "attention: got values of %lld beside keys of %lld, want head_dims that are equal",
                   (long long)qn_graph_node(lower->graph, a.v_cache)->type.dims[3].value, (long long)a.head_dim);
  }
  a.table = qn_lower_param(lower, node->operands[places + 2]);
  if (!fused) return lower_part(lower, &a);
  return lower->pass->options->gpu ? qn_lower_attention_split(lower, &a) : qn_lower_attention_fused(lower, &a);
}

// --- sums of attention: a KV head's keys of a page, token after token

typedef struct sum_context {
  qn_lbuf *pool, *sum;
  qn_id p;
  int64_t kv_heads, heads;
  const qn_lexpr *kv_head, *chunk, *page, *row, *head, *last;
} sum_context;

static const qn_lexpr *summed_key(qn_lbuild *b, const sum_context *c, const qn_lexpr *index) {
  return LX_ADD(LX_MUL(c->chunk, LX_INT(QN_PAGE_KEYS)), index);
}

static const qn_lexpr *place_of_sum(qn_lbuild *b, const sum_context *c, const qn_lexpr *index) {
  return LX_ADD(LX_MUL(LX_ADD(LX_MUL(c->page, LX_INT(c->kv_heads)), c->kv_head), LX_INT(QN_PAGE_KEYS)), index);
}

// The token's own key begins anew; others go on from what they have, those after it, too.
static void start_sum(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const sum_context *c = context;
  const qn_lexpr *own = qn_lop2(b, QN_LX_EQ, summed_key(b, c, index), c->last);
  const qn_lexpr *had = LX_LOAD(c->pool, QN_LM_F32, place_of_sum(b, c, index));
  qn_lstore(b, block, c->sum, QN_LM_F32, index, qn_lop3(b, QN_LX_SELECT, own, LX_F32(0), had));
}

static void add_sum(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const sum_context *c = context;
  const qn_lexpr *keys = qn_ldim(b, qn_graph_node(lower->graph, c->p)->type.dims[2]);
  const qn_lexpr *flat = LX_ADD(LX_MUL(c->head, keys), summed_key(b, c, index));
  const qn_lexpr *more = qn_lower_value(lower, c->p, (qn_lplace){c->row, flat});
  qn_lstore(b, block, c->sum, QN_LM_F32, index, LX_ADD(LX_LOAD(c->sum, QN_LM_F32, index), more));
}

static void store_sum(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const sum_context *c = context;
  qn_lstore(b, block, c->pool, QN_LM_F32, place_of_sum(b, c, index), LX_LOAD(c->sum, QN_LM_F32, index));
}

bool qn_lower_is_sum(const qn_node *node) {
  return node->op == QN_OP_KV_WRITE && qn_kv_is_sum(qn_node_text(node, QN_ATTR_KIND, ""));
}

// Iteration h is KV head h / P and page h % P of every sequence that has a token in the step: nobody else's. Keys after a
// token have attention 0 of it.
qn_status qn_lower_attention_sum(qn_lower *lower, qn_id id) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  const qn_type *cache = &node->type, *p = &qn_graph_node(lower->graph, node->operands[1])->type;
  const qn_lexpr *zero = LX_INT(0), *pages = qn_lsym(b, QN_SYM_P), *h = NULL;
  sum_context c = {.p = node->operands[1], .kv_heads = cache->dims[1].value, .heads = p->dims[1].value};
  c.pool = qn_lower_param(lower, id);
  const qn_lbuf *table = qn_lower_param(lower, node->operands[4]);
  if (!c.pool || !table) return QN_OK;  // told by who ends the kernel
  c.pool->writable = true;
  const qn_lexpr *all = LX_MUL(LX_INT(c.kv_heads), pages);
  qn_lblock *body = qn_lower_loop(lower, &b->kernel->body, "h", zero, all, QN_LO_DATA, &h);
  c.kv_head = LX_DIV(h, pages);
  c.chunk = LX_MOD(h, pages);
  body = qn_lower_loop(lower, body, "t", zero, qn_ldim(b, p->dims[0]), QN_LO_REDUCE, &c.row);
  c.last = qn_attention_token_index(lower, node->operands[2], c.row);
  const qn_lexpr *table_row = LX_MUL(qn_attention_token_index(lower, node->operands[3], c.row), pages);
  c.page = qn_lop1(b, QN_LX_TO_INDEX, LX_LOAD(table, QN_LM_I32, LX_ADD(table_row, c.chunk)));
  body = qn_lower_when(lower, body, qn_lop2(b, QN_LX_LE, summed_key(b, &c, zero), c.last));
  c.sum = qn_llocal(b, body, "sum", QN_LM_F32, QN_PAGE_KEYS);
  qn_lower_lanes(lower, body, QN_PAGE_KEYS, true, start_sum, &c);
  const qn_lexpr *g = NULL, *group = LX_INT(c.heads / c.kv_heads);
  qn_lblock *heads = qn_lower_loop(lower, body, "k", zero, group, QN_LO_REDUCE, &g);
  c.head = LX_ADD(LX_MUL(c.kv_head, group), g);
  qn_lower_lanes(lower, heads, QN_PAGE_KEYS, true, add_sum, &c);
  qn_lower_lanes(lower, body, QN_PAGE_KEYS, true, store_sum, &c);
  return QN_OK;
}
