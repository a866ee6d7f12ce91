// Loops of products as operands of mma. Of dot4: a lane has every fourth word of a row along K, so the codes of a word must be one
// expression with the word's number in it, whatever statement of the loop they came from.
#include "passes/map_mma.h"

enum { MAX_WORDS = 8, LANE_WORDS = 4 };

static bool is_dot(const qn_mma_mapper *m, const qn_lstmt *s, const qn_lbuf **sum) {
  if (s->kind != QN_LS_STORE || s->u.store.buf->kind != QN_LB_LOCAL || s->u.store.value->op != QN_LX_DOT4) return false;
  const qn_lexpr *const *x = s->u.store.value->operands;
  if (x[0]->op != QN_LX_LOAD || x[0]->u.load.buf != s->u.store.buf) return false;
  if (*sum && *sum != s->u.store.buf) return false;
  *sum = s->u.store.buf;
  return !qn_mma_by_token(m, x[1]) && !qn_mma_by_row(m, x[2]);
}

// ---- 16-bit floats ----------------------------------------------------------------------------------------------

enum { HALVES = 16 };  // along K

static bool is_load_of(const qn_lexpr *e, const qn_lbuf *buf) { return e->op == QN_LX_LOAD && e->u.load.buf == buf; }

// local h; h[0] = activation, as a 16-bit float; sum[0] = fma(h[0], weight, sum[0])
static bool is_halves(const qn_mma_mapper *m, const qn_lstmt *s, qn_mma_words *out) {
  const qn_lstmt *local = s->u.loop.body.first, *round = local ? local->next : NULL, *add = round ? round->next : NULL;
  if (!add || add->next || local->kind != QN_LS_LOCAL || round->kind != QN_LS_STORE || add->kind != QN_LS_STORE)
    return false;
  const qn_lbuf *half = local->u.local.buf;
  const qn_lexpr *fma = add->u.store.value;
  bool adds = add->u.store.buf->kind == QN_LB_LOCAL && add->u.store.buf->mem == QN_LM_F32 && fma->op == QN_LX_FMA &&
              is_load_of(fma->operands[0], half) && is_load_of(fma->operands[2], add->u.store.buf);
  if (round->u.store.buf != half || !adds || fma->operands[1]->op != QN_LX_LOAD) return false;
  out->weight = fma->operands[1];
  out->activation = round->u.store.value;
  out->sum = add->u.store.buf;
  qn_lmem mem = out->weight->u.load.mem;
  if (mem != half->mem || (mem != QN_LM_F16 && mem != QN_LM_BF16)) return false;
  out->kind = mem == QN_LM_F16 ? QN_MMA_F16_K16 : QN_MMA_BF16_K16;
  return out->trips == HALVES && !qn_mma_by_token(m, out->weight) && !qn_mma_by_row(m, out->activation);
}

static const qn_lexpr *half_trip(qn_lbuild *b, int half, int step, const qn_lexpr *quarter) {
  const qn_lexpr *twice = qn_lop2(b, QN_LX_MUL, quarter, qn_lint(b, 2));
  return qn_lop2(b, QN_LX_ADD, twice, qn_lint(b, step * 8 + half));
}

const qn_lexpr *qn_mma_half_value(qn_mma_mapper *m, const qn_mma_words *words, int half, int step,
                                  const qn_lexpr *quarter) {
  return qn_lexpr_replace(m->b, words->activation, words->loop->u.loop.var, half_trip(m->b, half, step, quarter));
}

const qn_lexpr *qn_mma_half_word(qn_mma_mapper *m, const qn_mma_words *words, int half, int step,
                                 const qn_lexpr *quarter, const qn_lexpr *pair) {
  qn_lbuild *b = m->b;
  const qn_lexpr *both[2], *two = qn_lint(b, 2);
  for (int i = 0; i < 2; i++) {
    const qn_lexpr *at = qn_lexpr_replace(b, words->weight->operands[0], m->l, qn_lop2(b, QN_LX_MUL, pair, two));
    if (at) at = qn_lexpr_replace(b, at, words->loop->u.loop.var, half_trip(b, i, step, quarter));
    if (!at) return NULL;
    both[i] = qn_lload(b, words->weight->u.load.buf, QN_LM_I32, qn_lop2(b, QN_LX_DIV, at, two), 1);
  }
  const qn_lexpr *low = qn_li32(b, 0xffff), *high = qn_li32(b, (int32_t)0xffff0000), *by = qn_li32(b, 16);
  const qn_lexpr *first = half ? qn_lop2(b, QN_LX_SHR, both[0], by) : qn_lop2(b, QN_LX_AND, both[0], low);
  const qn_lexpr *second = half ? qn_lop2(b, QN_LX_AND, both[1], high) : qn_lop2(b, QN_LX_SHL, both[1], by);
  return qn_lop2(b, QN_LX_OR, first, second);
}

// ---- loops ------------------------------------------------------------------------------------------------------

bool qn_mma_is_words(const qn_mma_mapper *m, const qn_lstmt *s, qn_mma_words *out) {
  int64_t lo = -1, hi = 0;
  const qn_lbuf *sum = NULL;
  if (s->kind != QN_LS_FOR || !qn_loop_const_bounds(s, &lo, &hi) || lo != 0 || hi < 1) return false;
  *out = (qn_mma_words){.loop = s, .trips = hi};
  if (is_halves(m, s, out)) return true;
  if (hi > MAX_WORDS) return false;
  for (const qn_lstmt *inner = s->u.loop.body.first; inner; inner = inner->next, out->count++)
    if (!is_dot(m, inner, &sum)) return false;
  int64_t words = out->trips * out->count;
  out->sum = sum;
  out->kind = words == MAX_WORDS ? QN_MMA_U8S8_K32 : QN_MMA_U8S8_K16;
  return (hi & (hi - 1)) == 0 && (words <= LANE_WORDS || words == MAX_WORDS);
}

// ---- one expression of several ----------------------------------------------------------------------------------

static const qn_lexpr *merge(qn_lbuild *b, const qn_lexpr *const *cases, int count, const qn_lexpr *which);

// cases[0] + which * step, where they follow each other in equal steps.
static const qn_lexpr *merge_indices(qn_lbuild *b, const qn_lexpr *const *cases, int count, const qn_lexpr *which) {
  int64_t step = 0, each = 0;
  for (int i = 1; i < count; i++) {
    const qn_lexpr *apart = qn_lop2(b, QN_LX_SUB, cases[i], cases[i - 1]);
    if (!apart || !qn_lexpr_is_int(apart, &each) || (i > 1 && each != step)) return NULL;
    step = each;
  }
  return qn_lop2(b, QN_LX_ADD, cases[0], qn_lop2(b, QN_LX_MUL, which, qn_lint(b, step)));
}

static const qn_lexpr *merge_numbers(qn_lbuild *b, const qn_lexpr *const *cases, int count, const qn_lexpr *which) {
  int64_t step = cases[1]->u.int_value - cases[0]->u.int_value;
  for (int i = 2; i < count; i++)
    if (cases[i]->u.int_value - cases[i - 1]->u.int_value != step) return NULL;
  const qn_lexpr *more = qn_lop2(b, QN_LX_MUL, qn_lop1(b, QN_LX_TO_I32, which), qn_li32(b, (int32_t)step));
  return qn_lop2(b, QN_LX_ADD, cases[0], more);
}

// Operand `operand` of a case that does `op`; a shift by nothing is not written out.
static const qn_lexpr *operand_of(qn_lbuild *b, const qn_lexpr *e, qn_lop op, int operand) {
  if (e->op == op) return e->operands[operand];
  return operand == 0 ? e : qn_li32(b, 0);
}

static bool same_but_operands(const qn_lexpr *x, const qn_lexpr *y) {
  if (x->op == QN_LX_LOAD) return x->u.load.buf == y->u.load.buf && x->u.load.mem == y->u.load.mem;
  return x->op != QN_LX_LUT16 || memcmp(x->u.table, y->u.table, sizeof x->u.table) == 0;
}

static const qn_lexpr *merge_operators(qn_lbuild *b, const qn_lexpr *const *cases, int count, const qn_lexpr *which) {
  const qn_lexpr *like = cases[count - 1], *parts[MAX_WORDS];
  qn_lexpr node = *like;
  int operands = qn_lop_info_of(like->op)->operands;
  if (operands == 0) return NULL;
  for (int i = 0; i < count; i++) {
    bool same = cases[i]->op == like->op && same_but_operands(cases[i], like);
    if (!same && (like->op != QN_LX_SHR || cases[i]->op == like->op)) return NULL;
  }
  for (int operand = 0; operand < operands; operand++) {
    for (int i = 0; i < count; i++) parts[i] = operand_of(b, cases[i], like->op, operand);
    node.operands[operand] = merge(b, parts, count, which);
    if (!node.operands[operand]) return NULL;
  }
  return qn_lexpr_simplify(b, &node);
}

// cases[which]; NULL where only a choice would do.
static const qn_lexpr *merge(qn_lbuild *b, const qn_lexpr *const *cases, int count, const qn_lexpr *which) {
  bool equal = true, numbers = true;
  for (int i = 0; i < count; i++) {
    if (!cases[i]) return NULL;
    equal = equal && qn_lexpr_equal(cases[0], cases[i]);
    numbers = numbers && cases[i]->op == QN_LX_INT;
  }
  if (equal) return cases[0];
  if (cases[0]->type.kind == QN_LK_INDEX) return merge_indices(b, cases, count, which);
  return numbers ? merge_numbers(b, cases, count, which) : merge_operators(b, cases, count, which);
}

static const qn_lexpr *choose(qn_lbuild *b, const qn_lexpr *const *cases, int count, const qn_lexpr *which) {
  const qn_lexpr *chosen = cases[count - 1];
  for (int i = count - 2; i >= 0; i--)
    chosen = qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_LT, which, qn_lint(b, i + 1)), cases[i], chosen);
  return chosen;
}

// Fewer words than mma has are followed by zeros in A.
const qn_lexpr *qn_mma_word(qn_mma_mapper *m, const qn_mma_words *words, int operand, int step,
                            const qn_lexpr *quarter) {
  qn_lbuild *b = m->b;
  const qn_lexpr *cases[MAX_WORDS], *trips = qn_lint(b, words->trips);
  int64_t total = words->trips * words->count, begin = step * LANE_WORDS, end = begin + LANE_WORDS;
  bool short_of = total < end;
  int64_t first = begin / words->trips, last = ((short_of ? total : end) - 1) / words->trips;
  const qn_lexpr *word = qn_lop2(b, QN_LX_ADD, quarter, qn_lint(b, begin));
  if (short_of) word = qn_lop2(b, QN_LX_MIN, word, qn_lint(b, total - 1));
  const qn_lexpr *trip = qn_lop2(b, QN_LX_MOD, word, trips);
  const qn_lexpr *which = qn_lop2(b, QN_LX_SUB, qn_lop2(b, QN_LX_DIV, word, trips), qn_lint(b, first));
  const qn_lstmt *s = words->loop->u.loop.body.first;
  for (int64_t i = 0; i <= last; i++, s = s->next)
    if (i >= first) cases[i - first] = s->u.store.value->operands[operand];
  int count = (int)(last - first + 1);
  const qn_lexpr *value = merge(b, cases, count, which);
  if (!value && !b->failed) value = choose(b, cases, count, which);
  if (value) value = qn_lexpr_replace(b, value, words->loop->u.loop.var, trip);
  if (!value || !short_of || operand != 1) return value;
  return qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_LT, quarter, qn_lint(b, total - begin)), value, qn_li32(b, 0));
}
