// Lowering of what makes codes of values: blocks of 32 as the op quantize has them, and the keys and values that go
// into a cache of codes (runtime/base/kv_page.h), whose scale is a token's own, so that what is written stays.
#include <string.h>

#include "passes/lower.h"

const qn_lexpr *qn_lower_magnitude(qn_lbuild *b, const qn_lexpr *x) {
  return qn_lop1(b, QN_LX_AS_I32, qn_lop1(b, QN_LX_ABS, x));
}

// max as an f32; max - max makes the scale of what has an infinity NaN, as its values are.
static const qn_lexpr *or_nan(qn_lbuild *b, const qn_lexpr *max) { return LX_ADD(max, LX_SUB(max, max)); }

static const qn_lexpr *is_some(qn_lbuild *b, const qn_lexpr *max) {
  return qn_lop2(b, QN_LX_LE, LX_F32(QN_QUANTIZE_LEAST), max);  // not for NaN
}

const qn_lexpr *qn_lower_code_inverse(qn_lbuild *b, const qn_lexpr *max) {
  return qn_lop3(b, QN_LX_SELECT, is_some(b, max), LX_DIV(LX_F32(127), max), LX_F32(0));
}

const qn_lexpr *qn_lower_code_scale(qn_lbuild *b, const qn_lexpr *max) { return LX_DIV(or_nan(b, max), LX_F32(127)); }

const qn_lexpr *qn_lower_code(qn_lbuild *b, const qn_lexpr *x, const qn_lexpr *inverse, int least) {
  const qn_lexpr *number = qn_lop2(b, QN_LX_MAX, LX_MUL(x, inverse), LX_F32((float)least));
  return qn_lop1(b, QN_LX_TO_I32, qn_lop1(b, QN_LX_ROUND, number));
}

// ---- blocks of 32 -----------------------------------------------------------------------------------------------

typedef struct block_context {
  qn_lower_element element;
  void *context;
  const qn_lbuf *max, *codes, *sums[2];
  const qn_lexpr *inverse;
  int least;
} block_context;

static void block_max(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const block_context *c = context;
  const qn_lexpr *low = qn_lower_magnitude(b, c->element(lower, index, c->context));
  const qn_lexpr *other = c->element(lower, LX_ADD(index, LX_INT(QN_TILE_ROWS)), c->context);
  qn_lstore(b, block, c->max, QN_LM_I32, index, qn_lop2(b, QN_LX_MAX, low, qn_lower_magnitude(b, other)));
}

static void block_codes(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const block_context *c = context;
  const qn_lexpr *x = c->element(lower, index, c->context);
  qn_lstore(b, block, c->codes, QN_LM_I32, index, qn_lower_code(b, x, c->inverse, c->least));
}

static void block_sums(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const qn_lower_codes *c = context;
  for (int half = 0; half < 2; half++) {
    const qn_lexpr *code = LX_LOAD(c->codes, QN_LM_I32, LX_ADD(index, LX_INT(half * QN_TILE_ROWS)));
    qn_lstore(b, block, c->sums[half], QN_LM_I32, index, code);
  }
}

const qn_lexpr *qn_lower_block_max(qn_lower *lower, qn_lblock *block, qn_lower_element element, void *context) {
  qn_lbuild *b = &lower->build;
  block_context c = {.element = element, .context = context};
  c.max = qn_llocal(b, block, "max", QN_LM_I32, QN_TILE_ROWS);
  qn_lower_lanes(lower, block, QN_TILE_ROWS, true, block_max, &c);
  qn_lower_tree(lower, block, c.max, QN_LX_MAX);
  return qn_lop1(b, QN_LX_AS_F32, LX_LOAD(c.max, QN_LM_I32, LX_INT(0)));
}

qn_lower_codes qn_lower_block_codes(qn_lower *lower, qn_lblock *block, int least, const qn_lexpr *inverse,
                                    const qn_lexpr *scale, qn_lower_element element, void *context) {
  qn_lbuild *b = &lower->build;
  block_context c = {.element = element, .context = context, .least = least, .inverse = inverse};
  c.codes = qn_llocal(b, block, "code", QN_LM_I32, 32);
  for (int half = 0; half < 2; half++) c.sums[half] = qn_llocal(b, block, "sum", QN_LM_I32, QN_TILE_ROWS);
  qn_lower_lanes(lower, block, 32, true, block_codes, &c);
  return (qn_lower_codes){c.codes, scale, {c.sums[0], c.sums[1]}};
}

qn_lower_codes qn_lower_quantize_block(qn_lower *lower, qn_lblock *block, int least, qn_lower_element element,
                                       void *context) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *max = qn_lower_block_max(lower, block, element, context);
  return qn_lower_block_codes(lower, block, least, qn_lower_code_inverse(b, max), qn_lower_code_scale(b, max), element,
                              context);
}

void qn_lower_sum_codes(qn_lower *lower, qn_lblock *block, const qn_lower_codes *codes) {
  qn_lower_codes c = *codes;
  qn_lower_lanes(lower, block, QN_TILE_ROWS, true, block_sums, &c);
  for (int half = 0; half < 2; half++) qn_lower_tree(lower, block, c.sums[half], QN_LX_ADD);
}

// ---- caches of codes --------------------------------------------------------------------------------------------

// A head of a token.
typedef struct head_context {
  const qn_node *write;
  qn_kv_page page;
  const qn_lbuf *pool, *max, *codes;
  const qn_lexpr *row, *base;       // flat index of the head's first value
  const qn_lexpr *at, *key;         // byte of the pool where the head begins; the token's place in the page
  const qn_lexpr *first, *inverse;  // of the values that share a scale
  int64_t padded;                   // codes of a head, those that stand for no value included
} head_context;

static const qn_lexpr *head_element(qn_lower *lower, const head_context *c, const qn_lexpr *index) {
  qn_lbuild *b = &lower->build;
  return qn_lower_value(lower, c->write->operands[1], (qn_lplace){c->row, LX_ADD(c->base, index)});
}

static void start_max(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  const head_context *c = context;
  qn_lstore(&lower->build, block, c->max, QN_LM_I32, index, qn_li32(&lower->build, 0));
}

static void group_max(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const head_context *c = context;
  const qn_lexpr *lane = LX_MOD(index, LX_INT(QN_TILE_ROWS));
  const qn_lexpr *x = qn_lower_magnitude(b, head_element(lower, c, LX_ADD(c->first, index)));
  qn_lstore(b, block, c->max, QN_LM_I32, lane, qn_lop2(b, QN_LX_MAX, LX_LOAD(c->max, QN_LM_I32, lane), x));
}

static void group_codes(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const head_context *c = context;
  float most = (float)c->page.most;
  const qn_lexpr *at = LX_ADD(c->first, index);
  const qn_lexpr *number = qn_lop2(b, QN_LX_MAX, LX_MUL(head_element(lower, c, at), c->inverse), LX_F32(-most));
  number = qn_lop1(b, QN_LX_ROUND, qn_lop2(b, QN_LX_MIN, number, LX_F32(most)));
  const qn_lexpr *code = LX_ADD(qn_lop1(b, QN_LX_TO_I32, number), qn_li32(b, c->page.offset));
  qn_lstore(b, block, c->codes, QN_LM_I32, at, code);
}

static void pad_codes(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const head_context *c = context;
  qn_lstore(b, block, c->codes, QN_LM_I32, LX_ADD(LX_INT(c->page.width), index), qn_li32(b, c->page.offset));
}

// A byte that the token has among the head's codes: of byte c % 4 of its words along the width, or of one byte of each
// word of a line along keys.
static void store_byte(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const head_context *c = context;
  const qn_kv_page *p = &c->page;
  const qn_lexpr *four = LX_INT(4), *along = p->is_k ? index : c->key, *word = p->is_k ? c->key : index;
  const qn_lexpr *line = LX_MUL(LX_DIV(along, four), LX_INT(p->line_words));
  const qn_lexpr *at = LX_ADD(LX_MUL(LX_ADD(line, word), four), LX_MOD(along, four));
  const qn_lexpr *low = index, *high = LX_ADD(index, LX_INT(p->lines * 4)), *half = LX_INT(16);
  if (p->bits == 4 && !p->is_k) {
    low = LX_ADD(LX_MUL(LX_DIV(index, half), LX_INT(32)), LX_MOD(index, half));
    high = LX_ADD(low, half);
  }
  const qn_lexpr *value = LX_LOAD(c->codes, QN_LM_I32, low);
  if (p->bits == 4)
    value = qn_lop2(b, QN_LX_OR, value, qn_lop2(b, QN_LX_SHL, LX_LOAD(c->codes, QN_LM_I32, high), qn_li32(b, 4)));
  qn_lstore(b, block, c->pool, QN_LM_U8, LX_ADD(c->at, at), value);
}

// The codes of `count` values from c->first on, and their scale.
static void write_group(qn_lower *lower, qn_lblock *block, head_context *c, const qn_lexpr *group, int64_t count) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0);
  c->max = qn_llocal(b, block, "max", QN_LM_I32, QN_TILE_ROWS);
  const qn_lbuf *scale = qn_llocal(b, block, "scale", QN_LM_BF16, 1);
  qn_lower_lanes(lower, block, QN_TILE_ROWS, true, start_max, c);
  qn_lower_lanes(lower, block, count, true, group_max, c);
  qn_lower_tree(lower, block, c->max, QN_LX_MAX);
  const qn_lexpr *max = qn_lop1(b, QN_LX_AS_F32, LX_LOAD(c->max, QN_LM_I32, zero));
  qn_lstore(b, block, scale, QN_LM_BF16, zero, LX_DIV(or_nan(b, max), LX_F32((float)c->page.most + 0.5f)));
  const qn_lexpr *rounded = LX_LOAD(scale, QN_LM_BF16, zero);
  c->inverse = qn_lop3(b, QN_LX_SELECT, is_some(b, max), LX_DIV(LX_F32(1), rounded), LX_F32(0));
  qn_lower_lanes(lower, block, count, true, group_codes, c);
  const qn_lexpr *line = LX_ADD(LX_MUL(group, LX_INT(c->page.keys)), c->key);
  const qn_lexpr *at = LX_ADD(LX_DIV(c->at, LX_INT(2)), LX_ADD(LX_INT(c->page.scales_at / 2), line));
  qn_lstore(b, block, c->pool, QN_LM_BF16, at, rounded);
}

static void write_groups(qn_lower *lower, qn_lblock *block, head_context *c) {
  qn_lbuild *b = &lower->build;
  int64_t width = c->page.group_width, whole = c->page.width / width, rest = c->page.width % width;
  const qn_lexpr *group = NULL;
  qn_lblock *body = qn_lower_loop(lower, block, "s", LX_INT(0), LX_INT(whole), QN_LO_DATA, &group);
  c->first = LX_MUL(group, LX_INT(width));
  write_group(lower, body, c, group, width);
  if (rest == 0) return;
  c->first = LX_INT(whole * width);
  write_group(lower, block, c, LX_INT(whole), rest);
}

void qn_lower_write_codes(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row) {
  qn_lbuild *b = &lower->build;
  head_context c = {.write = qn_graph_node(lower->graph, id), .row = row};
  qn_lbuf *pool = qn_lower_param(lower, id);
  const qn_lexpr *head = NULL, *pos = NULL, *page = qn_lower_written_page(lower, c.write, row, &pos);
  bool is_k = strcmp(qn_node_text(c.write, QN_ATTR_KIND, "k"), "k") == 0;
  if (!pool || !page || !qn_type_kv_page(&c.write->type, is_k, &c.page)) return;  // the cache has a buffer: it is one
  pool->writable = true;
  c.pool = pool;
  block = qn_lower_each_head(lower, block, c.page.heads, &head);
  int64_t bytes = is_k ? c.page.lines * 4 : c.page.line_words;
  c.padded = bytes * (c.page.bits == 4 ? 2 : 1);
  c.base = LX_MUL(head, LX_INT(c.page.width));
  c.at = LX_MUL(LX_ADD(LX_MUL(page, LX_INT(c.page.heads)), head), LX_INT(c.page.head_bytes));
  c.key = LX_MOD(pos, LX_INT(QN_PAGE_KEYS));
  c.codes = qn_llocal(b, block, "codes", QN_LM_I32, c.padded);
  write_groups(lower, block, &c);
  if (c.padded > c.page.width) qn_lower_each(lower, block, "e", c.padded - c.page.width, pad_codes, &c);
  qn_lower_each(lower, block, "e", bytes, store_byte, &c);
}
