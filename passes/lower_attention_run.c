// Attention over the paged cache, the runs: tokens of one sequence that follow each other in a step, whose query heads
// of one KV head are the rows that share a chunk of keys. What the kernels for CPUs and those for GPUs have in common.
#include <math.h>

#include "passes/lower_attention.h"

const qn_lexpr *qn_attention_least(qn_lbuild *b, const qn_lexpr *max) {
  return qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_EQ, max, LX_F32(-INFINITY)), LX_F32(0), max);
}

const qn_lexpr *qn_attention_power(qn_lbuild *b, const qn_lexpr *old, const qn_lexpr *own, const qn_lexpr *now) {
  return qn_lop1(b, QN_LX_EXP, LX_SUB(qn_lop2(b, QN_LX_MIN, old, own), now));
}

const qn_lexpr *qn_attention_factor(qn_lbuild *b, const qn_lexpr *from, const qn_lexpr *to, const qn_lexpr *power) {
  return qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_EQ, from, to), LX_F32(1), power);
}

const qn_lexpr *qn_attention_merge(qn_lbuild *b, const qn_lexpr *what, const qn_lexpr *factor, const qn_lexpr *part,
                                   const qn_lexpr *share) {
  return LX_FMA(part, share, LX_MUL(what, factor));
}

const qn_lexpr *qn_attention_load_index(qn_lbuild *b, const qn_lbuf *local, const qn_lexpr *at) {
  return qn_lop1(b, QN_LX_TO_INDEX, LX_LOAD(local, QN_LM_I32, at));
}

static const qn_lexpr *i32_of(qn_lbuild *b, const qn_lexpr *index) { return qn_lop1(b, QN_LX_TO_I32, index); }

const qn_lexpr *qn_attention_is_seen(qn_lbuild *b, const qn_attention_run *run, const qn_lexpr *row,
                                     const qn_lexpr *base, const qn_lexpr *lane) {
  const qn_lexpr *first_key = LX_ADD(LX_MUL(run->chunk, LX_INT(QN_PAGE_KEYS)), base);
  const qn_lexpr *last = LX_SUB(LX_LOAD(run->position, QN_LM_I32, row), i32_of(b, first_key));
  const qn_lexpr *key = i32_of(b, lane), *seen = qn_lop2(b, QN_LX_LE, key, last);
  if (run->a->window <= 0) return seen;
  const qn_lexpr *place = last;
  if (run->place != run->position) place = LX_SUB(LX_LOAD(run->place, QN_LM_I32, row), i32_of(b, first_key));
  const qn_lexpr *before = LX_SUB(place, qn_li32(b, (int32_t)run->a->window));
  return qn_lop2(b, QN_LX_AND, seen, qn_lop2(b, QN_LX_LT, before, key));
}

const qn_lexpr *qn_attention_row_score(qn_lower *lower, const qn_attention_run *run, const qn_lexpr *dot,
                                       const qn_lexpr *row, const qn_lexpr *base, const qn_lexpr *lane) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *head = LX_ADD(LX_MUL(run->kv_head, LX_INT(run->a->group)), LX_MOD(row, LX_INT(run->a->group)));
  const qn_lexpr *key = LX_ADD(LX_MUL(run->chunk, LX_INT(QN_PAGE_KEYS)), base);
  const qn_lexpr *before = LX_SUB(i32_of(b, key), LX_LOAD(run->place, QN_LM_I32, row));
  return qn_attention_score(lower, run->a, dot, head, LX_ADD(before, i32_of(b, lane)),
                            qn_attention_is_seen(b, run, row, base, lane));
}

const qn_lexpr *qn_attention_in_chunk(qn_lbuild *b, const qn_attention_run *run, const qn_lexpr *key) {
  const qn_lexpr *at = LX_SUB(key, LX_MUL(run->chunk, LX_INT(QN_PAGE_KEYS)));
  return qn_lop2(b, QN_LX_MIN, qn_lop2(b, QN_LX_MAX, at, LX_INT(0)), LX_INT(QN_PAGE_KEYS));
}

const qn_lexpr *qn_attention_first_seen(qn_lbuild *b, const qn_attention_run *run, const qn_lexpr *place) {
  if (run->a->window <= 0) return LX_INT(0);
  return qn_attention_in_chunk(b, run, LX_SUB(place, LX_INT(run->a->window - 1)));
}

const qn_lexpr *qn_attention_end_seen(qn_lbuild *b, const qn_attention_run *run, const qn_lexpr *last) {
  return qn_attention_in_chunk(b, run, LX_ADD(last, LX_INT(1)));
}

// The tokens from run->first on that make a run: of one sequence, up to the next multiple of `most` in the step.
void qn_attention_count_tokens(qn_lower *lower, qn_lblock *block, qn_attention_run *run, int64_t most) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *j = NULL, *all = qn_ldim(b, run->a->node->type.dims[0]);
  if (most == 1) {
    run->tokens = LX_INT(1);
    return;
  }
  const qn_lexpr *left = LX_SUB(all, run->first);
  const qn_lexpr *room = LX_SUB(LX_INT(most), LX_MOD(run->first, LX_INT(most)));
  const qn_lexpr *bound = qn_lop2(b, QN_LX_MIN, qn_lop2(b, QN_LX_MIN, room, LX_INT(most)), left);
  qn_lbuf *length = qn_llocal(b, block, "run", QN_LM_I32, 1);
  qn_lstore(b, block, length, QN_LM_I32, zero, qn_li32(b, 0));
  qn_lblock *body = qn_lower_loop(lower, block, "j", zero, bound, QN_LO_REDUCE, &j);
  const qn_lexpr *count = LX_LOAD(length, QN_LM_I32, zero);
  const qn_lexpr *same = qn_lop2(b, QN_LX_EQ, qn_attention_token_index(lower, run->a->seq, LX_ADD(run->first, j)),
                                 qn_attention_token_index(lower, run->a->seq, run->first));
  const qn_lexpr *longer = qn_lop2(b, QN_LX_AND, same, qn_lop2(b, QN_LX_EQ, count, i32_of(b, j)));
  qn_lstore(b, body, length, QN_LM_I32, zero, qn_lop3(b, QN_LX_SELECT, longer, i32_of(b, LX_ADD(j, LX_INT(1))), count));
  run->tokens =
      qn_lop2(b, QN_LX_MAX, qn_lop2(b, QN_LX_MIN, qn_attention_load_index(b, length, zero), bound), LX_INT(1));
}

void qn_attention_declare_positions(qn_lower *lower, qn_lblock *block, qn_attention_run *run, int64_t rows) {
  qn_lbuild *b = &lower->build;
  const qn_attention *a = run->a;
  bool apart = a->at != a->pos || a->ahead >= 0;  // where a token is, is not its last key
  run->low = qn_llocal(b, block, "low", QN_LM_I32, 1);
  run->high = qn_llocal(b, block, "high", QN_LM_I32, 1);
  run->position = qn_llocal(b, block, "position", QN_LM_I32, rows);
  run->place = apart ? qn_llocal(b, block, "place", QN_LM_I32, rows) : run->position;
  bool bounds = apart && a->window > 0;
  run->low_place = bounds ? qn_llocal(b, block, "low_place", QN_LM_I32, 1) : run->low;
  run->high_place = bounds ? qn_llocal(b, block, "high_place", QN_LM_I32, 1) : run->high;
}

// A number that a token has.
typedef const qn_lexpr *(*token_number)(qn_lower *lower, const qn_attention *a, const qn_lexpr *row);

// The least and the largest of the run's tokens.
static void find_bounds(qn_lower *lower, qn_lblock *block, const qn_attention_run *run, token_number number,
                        const qn_lbuf *low, const qn_lbuf *high) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *zero = LX_INT(0), *j = NULL, *first = i32_of(b, number(lower, run->a, run->first));
  qn_lstore(b, block, low, QN_LM_I32, zero, first);
  qn_lstore(b, block, high, QN_LM_I32, zero, first);
  qn_lblock *body = qn_lower_loop(lower, block, "j", LX_INT(1), run->tokens, QN_LO_REDUCE, &j);
  const qn_lexpr *value = i32_of(b, number(lower, run->a, LX_ADD(run->first, j)));
  const qn_lop ops[] = {QN_LX_MIN, QN_LX_MAX};
  const qn_lbuf *ends[] = {low, high};
  for (int i = 0; i < 2; i++) {
    qn_lstore(b, body, ends[i], QN_LM_I32, zero, qn_lop2(b, ops[i], value, LX_LOAD(ends[i], QN_LM_I32, zero)));
  }
}

void qn_attention_find_positions(qn_lower *lower, qn_lblock *block, qn_attention_run *run) {
  find_bounds(lower, block, run, qn_attention_last_key, run->low, run->high);
  if (run->low_place != run->low) find_bounds(lower, block, run, qn_attention_place, run->low_place, run->high_place);
}

const qn_lexpr *qn_attention_head_element(qn_lbuild *b, const qn_attention_run *run, const qn_lexpr *row,
                                          const qn_lexpr *index) {
  const qn_lexpr *head = LX_ADD(LX_MUL(run->kv_head, LX_INT(run->a->group)), LX_MOD(row, LX_INT(run->a->group)));
  return LX_ADD(LX_MUL(head, LX_INT(run->a->head_dim)), index);
}

// Does a run begin with token run->first?
const qn_lexpr *qn_attention_begins(qn_lower *lower, const qn_attention_run *run, int64_t most) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *before = qn_lop2(b, QN_LX_MAX, LX_SUB(run->first, LX_INT(1)), LX_INT(0));
  const qn_lexpr *same = qn_lop2(b, QN_LX_EQ, qn_attention_token_index(lower, run->a->seq, before),
                                 qn_attention_token_index(lower, run->a->seq, run->first));
  const qn_lexpr *aligned = qn_lop2(b, QN_LX_EQ, LX_MOD(run->first, LX_INT(most)), LX_INT(0));
  return qn_lop3(b, QN_LX_SELECT, aligned, LX_INT(1), qn_lop3(b, QN_LX_SELECT, same, LX_INT(0), LX_INT(1)));
}
