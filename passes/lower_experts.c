// Lowering of what goes around products of experts: the choice of experts, the order of rows by expert, the runs of
// rows that share an expert's weights, and the sum of what a token's experts gave. The products are lower_matmul.c's.
#include <limits.h>

#include "passes/lower.h"

static const qn_lexpr *load(qn_lbuild *b, const qn_lbuf *buf, const qn_lexpr *at) {
  return LX_LOAD(buf, QN_LM_I32, at);
}

static const qn_lexpr *index_of(qn_lbuild *b, const qn_lexpr *x) { return qn_lop1(b, QN_LX_TO_INDEX, x); }

static const qn_lexpr *i32_of(qn_lbuild *b, const qn_lexpr *x) { return qn_lop1(b, QN_LX_TO_I32, x); }

static void set(qn_lbuild *b, qn_lblock *block, const qn_lbuf *local, const qn_lexpr *value) {
  qn_lstore(b, block, local, QN_LM_I32, LX_INT(0), value);
}

// An i32 of its own, with a value.
static const qn_lbuf *variable(qn_lbuild *b, qn_lblock *block, const char *name, const qn_lexpr *value) {
  const qn_lbuf *local = qn_llocal(b, block, name, QN_LM_I32, 1);
  set(b, block, local, value);
  return local;
}

static const qn_lexpr *only(qn_lbuild *b, const qn_lbuf *local) { return load(b, local, LX_INT(0)); }

static const qn_lexpr *choose(qn_lbuild *b, const qn_lexpr *predicate, const qn_lexpr *yes, const qn_lexpr *no) {
  return qn_lop3(b, QN_LX_SELECT, predicate, yes, no);
}

// Element `at` of the ids, as they lie one after another.
static const qn_lexpr *id_at(qn_lower *lower, qn_id ids, const qn_lexpr *at) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *chosen = LX_INT(qn_graph_node(lower->graph, ids)->type.dims[1].value);
  return qn_lower_value(lower, ids, (qn_lplace){LX_DIV(at, chosen), LX_MOD(at, chosen)});
}

// ---- the choice -------------------------------------------------------------------------------------------------

// The bits of a float, the sign taken for the magnitudes' order: integers that are ordered as the floats are, both
// zeros equal, NaN above all.
static const qn_lexpr *key_of(qn_lbuild *b, const qn_lexpr *x) {
  const qn_lexpr *bits = qn_lop1(b, QN_LX_AS_I32, LX_ADD(x, LX_F32(0)));
  const qn_lexpr *negative = qn_lop2(b, QN_LX_LT, bits, qn_li32(b, 0));
  const qn_lexpr *key = choose(b, negative, qn_lop2(b, QN_LX_XOR, bits, qn_li32(b, INT_MAX)), bits);
  return choose(b, qn_lop2(b, QN_LX_EQ, x, x), key, qn_li32(b, INT_MAX));
}

// Round after round the largest value that comes after the one found before: k walks over the row, whose values stay
// where they are.
void qn_lower_top_k_row(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row) {
  qn_lbuild *b = &lower->build;
  const qn_node *node = qn_graph_node(lower->graph, id);
  const qn_lexpr *round = NULL, *e = NULL;
  int64_t width = qn_graph_node(lower->graph, node->operands[0])->type.dims[1].value;
  const qn_lbuf *last_key = variable(b, block, "last", qn_li32(b, INT_MAX));
  const qn_lbuf *last_at = variable(b, block, "last_at", qn_li32(b, -1));
  block = qn_lower_loop(lower, block, "round", LX_INT(0), LX_INT(node->type.dims[1].value), QN_LO_REDUCE, &round);
  const qn_lbuf *best_key = variable(b, block, "best", qn_li32(b, INT_MIN));  // less than all keys
  const qn_lbuf *best_at = variable(b, block, "best_at", qn_li32(b, 0));
  qn_lblock *body = qn_lower_loop(lower, block, "e", LX_INT(0), LX_INT(width), QN_LO_REDUCE, &e);
  const qn_lbuf *key =
      variable(b, body, "key", key_of(b, qn_lower_value(lower, node->operands[0], (qn_lplace){row, e})));
  const qn_lexpr *equal = qn_lop2(b, QN_LX_EQ, only(b, key), only(b, last_key));
  const qn_lexpr *behind = qn_lop2(b, QN_LX_AND, equal, qn_lop2(b, QN_LX_LT, only(b, last_at), i32_of(b, e)));
  const qn_lexpr *left = qn_lop2(b, QN_LX_OR, qn_lop2(b, QN_LX_LT, only(b, key), only(b, last_key)), behind);
  const qn_lexpr *better = qn_lop2(b, QN_LX_AND, left, qn_lop2(b, QN_LX_LT, only(b, best_key), only(b, key)));
  set(b, body, best_at, choose(b, better, i32_of(b, e), only(b, best_at)));
  set(b, body, best_key, choose(b, better, only(b, key), only(b, best_key)));
  qn_lower_store(lower, block, id, (qn_lplace){row, round}, only(b, best_at));
  set(b, block, last_key, only(b, best_key));
  set(b, block, last_at, only(b, best_at));
}

// ---- the order --------------------------------------------------------------------------------------------------

typedef struct order_context {
  qn_id id, ids;
  int64_t experts;
  const qn_lexpr *rows;   // kT
  const qn_lbuf *counts;  // i32 (experts): rows of each, then where the next of its rows goes
} order_context;

// counts[i] = the rows of the experts before i.
static void sum_counts(qn_lower *lower, qn_lblock *block, const order_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *i = NULL, *row = NULL;
  qn_lblock *body = qn_lower_loop(lower, block, "i", LX_INT(0), LX_INT(c->experts), QN_LO_DATA, &i);
  qn_lstore(b, body, c->counts, QN_LM_I32, i, qn_li32(b, 0));
  body = qn_lower_loop(lower, block, "row", LX_INT(0), c->rows, QN_LO_REDUCE, &row);
  const qn_lexpr *expert = index_of(b, id_at(lower, c->ids, row));
  qn_lstore(b, body, c->counts, QN_LM_I32, expert, LX_ADD(load(b, c->counts, expert), qn_li32(b, 1)));
  const qn_lbuf *sum = variable(b, block, "sum", qn_li32(b, 0));
  body = qn_lower_loop(lower, block, "e", LX_INT(0), LX_INT(c->experts), QN_LO_REDUCE, &i);
  const qn_lbuf *own = variable(b, body, "own", load(b, c->counts, i));
  qn_lstore(b, body, c->counts, QN_LM_I32, i, only(b, sum));
  set(b, body, sum, LX_ADD(only(b, sum), only(b, own)));
}

// The numbers of a place: its row, and how many are done together from there on.
static void store_numbers(qn_lower *lower, qn_lblock *block, const order_context *c, const qn_lexpr *place, int number,
                          const qn_lexpr *value) {
  qn_lbuild *b = &lower->build;
  qn_lower_store(lower, block, c->id, (qn_lplace){NULL, LX_ADD(LX_MUL(place, LX_INT(2)), LX_INT(number))}, value);
}

// An expert's rows begin where those of the one before end, which is what counts[] holds when all rows have a place.
static void store_runs(qn_lower *lower, qn_lblock *block, const order_context *c) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *expert = NULL, *place = NULL;
  qn_lblock *body = qn_lower_loop(lower, block, "e", LX_INT(0), LX_INT(c->experts), QN_LO_REDUCE, &expert);
  const qn_lexpr *before = load(b, c->counts, qn_lop2(b, QN_LX_MAX, LX_SUB(expert, LX_INT(1)), LX_INT(0)));
  const qn_lexpr *first = choose(b, qn_lop2(b, QN_LX_LE, expert, LX_INT(0)), qn_li32(b, 0), before);
  const qn_lbuf *begin = variable(b, body, "begin", first), *end = variable(b, body, "end", load(b, c->counts, expert));
  body =
      qn_lower_loop(lower, body, "place", index_of(b, only(b, begin)), index_of(b, only(b, end)), QN_LO_DATA, &place);
  const qn_lexpr *at = i32_of(b, place), *in_run = LX_MOD(LX_SUB(at, only(b, begin)), qn_li32(b, QN_EXPERT_RUN));
  const qn_lexpr *left = qn_lop2(b, QN_LX_MIN, LX_SUB(only(b, end), at), qn_li32(b, QN_EXPERT_RUN));
  store_numbers(lower, body, c, place, 1, choose(b, qn_lop2(b, QN_LX_EQ, in_run, qn_li32(b, 0)), left, qn_li32(b, 0)));
}

// A counting sort, by one thread: the rows of a step are few beside what is done with each.
qn_status qn_lower_expert_order(qn_lower *lower, qn_id id) {
  qn_lbuild *b = &lower->build;
  const qn_graph *graph = lower->graph;
  qn_lblock *block = &b->kernel->body;
  order_context c = {.id = id, .ids = qn_graph_node(graph, id)->operands[0]};
  const qn_node *top = qn_graph_node(graph, c.ids);
  const qn_lexpr *row = NULL;
  c.experts = qn_graph_node(graph, top->operands[0])->type.dims[1].value;
  c.rows = LX_MUL(qn_ldim(b, top->type.dims[0]), LX_INT(top->type.dims[1].value));
  c.counts = qn_llocal(b, block, "counts", QN_LM_I32, c.experts);
  sum_counts(lower, block, &c);
  qn_lblock *body = qn_lower_loop(lower, block, "row", LX_INT(0), c.rows, QN_LO_REDUCE, &row);
  const qn_lexpr *expert = index_of(b, id_at(lower, c.ids, row));
  const qn_lbuf *place = variable(b, body, "place", load(b, c.counts, expert));
  store_numbers(lower, body, &c, index_of(b, only(b, place)), 0, i32_of(b, row));
  qn_lstore(b, body, c.counts, QN_LM_I32, expert, LX_ADD(only(b, place), qn_li32(b, 1)));
  store_runs(lower, block, &c);
  return QN_OK;
}

// ---- runs -------------------------------------------------------------------------------------------------------

// A number of a place of the order, or of a row where there is none.
static const qn_lexpr *order_number(qn_lower *lower, const qn_node *node, const qn_lexpr *place, int number) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *at = LX_ADD(LX_MUL(place, LX_INT(2)), LX_INT(number));
  if (node->operand_count == 4) return qn_lower_value(lower, node->operands[3], (qn_lplace){NULL, at});
  return number == 0 ? i32_of(b, place) : qn_li32(b, 1);
}

qn_lower_run qn_lower_expert_run(qn_lower *lower, qn_lblock *block, const qn_node *node, const qn_lexpr *at) {
  qn_lbuild *b = &lower->build;
  const qn_lbuf *rows = variable(b, block, "rows", order_number(lower, node, at, 1));
  const qn_lbuf *expert =
      variable(b, block, "expert", id_at(lower, node->operands[2], index_of(b, order_number(lower, node, at, 0))));
  const qn_lexpr *left = LX_SUB(qn_ldim(b, node->type.dims[0]), at);
  const qn_lexpr *count = qn_lop2(b, QN_LX_MAX, qn_lop2(b, QN_LX_MIN, index_of(b, only(b, rows)), left), LX_INT(0));
  return (qn_lower_run){.expert = index_of(b, only(b, expert)), .begin = at, .end = LX_ADD(at, count)};
}

const qn_lexpr *qn_lower_expert_row(qn_lower *lower, qn_lblock *block, const qn_node *node, const qn_lexpr *place) {
  qn_lbuild *b = &lower->build;
  return index_of(b, only(b, variable(b, block, "row", order_number(lower, node, place, 0))));
}

// ---- the sum ----------------------------------------------------------------------------------------------------

typedef struct mix_context {
  qn_id id;
  const qn_lexpr *row;
} mix_context;

static void mix_element(qn_lower *lower, qn_lblock *block, const qn_lexpr *index, void *context) {
  qn_lbuild *b = &lower->build;
  const mix_context *c = context;
  const qn_node *node = qn_graph_node(lower->graph, c->id);
  const qn_lexpr *zero = LX_INT(0), *s = NULL;
  int64_t chosen = qn_graph_node(lower->graph, node->operands[1])->type.dims[1].value;
  const qn_lbuf *acc = qn_llocal(b, block, "acc", QN_LM_F32, 1);
  qn_lstore(b, block, acc, QN_LM_F32, zero, LX_F32(0));
  qn_lblock *body = qn_lower_loop(lower, block, "s", zero, LX_INT(chosen), QN_LO_REDUCE, &s);
  const qn_lexpr *weight = qn_lower_value(lower, node->operands[1], (qn_lplace){c->row, s});
  const qn_lexpr *from = LX_ADD(LX_MUL(c->row, LX_INT(chosen)), s);
  const qn_lexpr *y = qn_lower_value(lower, node->operands[0], (qn_lplace){from, index});
  qn_lstore(b, body, acc, QN_LM_F32, zero, LX_FMA(y, weight, LX_LOAD(acc, QN_LM_F32, zero)));
  qn_lower_store(lower, block, c->id, (qn_lplace){c->row, index}, LX_LOAD(acc, QN_LM_F32, zero));
}

void qn_lower_expert_mix_row(qn_lower *lower, qn_lblock *block, qn_id id, const qn_lexpr *row) {
  mix_context c = {id, row};
  qn_lower_each(lower, block, "i", qn_graph_node(lower->graph, id)->type.dims[1].value, mix_element, &c);
}
