// Some iterations of a kernel, and the places that it writes (sample.h).
#include "autotune/sample.h"

enum { UNKNOWN_TRIPS = 4, MAX_LOCALS = 128 };

// --- the nest

// An index expression of numbers and symbols; false when it holds anything else.
static bool evaluate(const qn_lexpr *e, const int64_t *symbols, int64_t *out) {
  int64_t a = 0, b = 0;
  if (e->op == QN_LX_INT) return *out = e->u.int_value, true;
  if (e->op == QN_LX_SYM) return *out = symbols[e->u.symbol], true;
  if (qn_lop_info_of(e->op)->operands != 2) return false;
  if (!evaluate(e->operands[0], symbols, &a) || !evaluate(e->operands[1], symbols, &b)) return false;
  switch (e->op) {
    case QN_LX_ADD: return !__builtin_add_overflow(a, b, out);
    case QN_LX_SUB: return !__builtin_sub_overflow(a, b, out);
    case QN_LX_MUL: return !__builtin_mul_overflow(a, b, out);
    case QN_LX_DIV: return *out = b > 0 ? a / b - (a % b < 0) : 0, b > 0;
    case QN_LX_MIN: return *out = a < b ? a : b, true;
    case QN_LX_MAX: return *out = a > b ? a : b, true;
    default: return false;
  }
}

void qn_nest_find(const qn_lkernel *kernel, const int64_t symbols[QN_SYM_COUNT], qn_nest *out) {
  const qn_lblock *block = &kernel->body;
  *out = (qn_nest){0};
  while (out->depth < QN_NEST_DEPTH) {
    qn_lstmt *s = block->first;
    int64_t lo = 0, hi = 0;
    if (!s || s->next || s->kind != QN_LS_FOR || s->u.loop.order != QN_LO_DATA) return;
    if (!evaluate(s->u.loop.lo, symbols, &lo) || !evaluate(s->u.loop.hi, symbols, &hi) || lo < 0 || hi <= lo) return;
    out->loops[out->depth] = s;
    out->first[out->depth] = lo;
    out->trips[out->depth++] = hi - lo;
    block = &s->u.loop.body;
  }
}

static int64_t expression_cost(const qn_lexpr *e) {
  int64_t cost = e->type.lanes;
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++) cost += expression_cost(e->operands[i]);
  return cost;
}

static int64_t block_cost(const qn_lblock *block, const int64_t *symbols) {
  int64_t cost = 0;
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_STORE) {
      cost += expression_cost(s->u.store.index) + expression_cost(s->u.store.value) + s->u.store.lanes;
    } else if (s->kind == QN_LS_FOR) {
      int64_t lo = 0, hi = 0, trips = UNKNOWN_TRIPS, all = 0;
      if (evaluate(s->u.loop.lo, symbols, &lo) && evaluate(s->u.loop.hi, symbols, &hi) && lo >= 0)
        trips = hi > lo ? hi - lo : 0;
      if (__builtin_mul_overflow(trips, block_cost(&s->u.loop.body, symbols) + 1, &all)) all = INT64_MAX / 2;
      if (__builtin_add_overflow(cost, all, &cost)) cost = INT64_MAX / 2;
    }
  }
  return cost;
}

int64_t qn_nest_cost(const qn_nest *nest, int depth, const qn_lkernel *kernel, const int64_t symbols[QN_SYM_COUNT]) {
  return block_cost(depth ? &nest->loops[depth - 1]->u.loop.body : &kernel->body, symbols) + 1;
}

void qn_nest_limit(qn_lbuild *b, const qn_nest *nest, int i, int64_t begin, int64_t end) {
  const qn_lexpr *lo = qn_lint(b, nest->first[i] + begin), *hi = qn_lint(b, nest->first[i] + end);
  if (lo && hi) qn_lfor_set_bounds(nest->loops[i], lo, hi);
}

void qn_nest_select(qn_lbuild *b, const qn_nest *nest, int depth, const int64_t at[QN_NEST_DEPTH]) {
  for (int i = 0; i < depth; i++) qn_nest_limit(b, nest, i, at[i], at[i] + 1);
}

// --- the footprint

typedef struct needed {
  const qn_lbuf *locals[MAX_LOCALS];
  int count;
  bool grown, all;  // all: there are more than fit, every one is taken as needed
} needed;

static bool is_needed(const needed *n, const qn_lbuf *buf) {
  if (n->all || buf->kind == QN_LB_PARAM) return true;
  for (int i = 0; i < n->count; i++)
    if (n->locals[i] == buf) return true;
  return false;
}

static void need_all_of(needed *n, const qn_lexpr *e) {
  if (e->op == QN_LX_LOAD && !is_needed(n, e->u.load.buf)) {
    n->grown = true;
    if (n->count == MAX_LOCALS)
      n->all = true;
    else
      n->locals[n->count++] = e->u.load.buf;
  }
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++) need_all_of(n, e->operands[i]);
}

// Does the block hold a store that stays?
static bool writes(const needed *n, const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_STORE && is_needed(n, s->u.store.buf)) return true;
    if (s->kind == QN_LS_FOR && writes(n, &s->u.loop.body)) return true;
  }
  return false;
}

static void find_needed(needed *n, const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR && writes(n, &s->u.loop.body)) {
      need_all_of(n, s->u.loop.lo);
      need_all_of(n, s->u.loop.hi);
      find_needed(n, &s->u.loop.body);
    } else if (s->kind == QN_LS_STORE && is_needed(n, s->u.store.buf)) {
      need_all_of(n, s->u.store.index);
      if (s->u.store.buf->kind == QN_LB_LOCAL) need_all_of(n, s->u.store.value);
    }
  }
}

static bool stays(const needed *n, const qn_lstmt *s) {
  switch (s->kind) {
    case QN_LS_FOR: return writes(n, &s->u.loop.body);
    case QN_LS_STORE: return is_needed(n, s->u.store.buf);
    case QN_LS_LOCAL: return is_needed(n, s->u.local.buf);
    case QN_LS_PREFETCH: return false;
    case QN_LS_COPY: return is_needed(n, s->u.copy.to);
    case QN_LS_BARRIER:
    case QN_LS_COMMIT:
    case QN_LS_WAIT:
    case QN_LS_MMA: return true;
  }
  return true;
}

static void reduce(qn_lbuild *b, const needed *n, qn_lblock *block) {
  for (qn_lstmt *s = block->first, *next; s; s = next) {
    next = s->next;
    if (!stays(n, s)) {
      qn_lblock_remove(block, s);
    } else if (s->kind == QN_LS_FOR) {
      reduce(b, n, &s->u.loop.body);
    } else if (s->kind == QN_LS_STORE && s->u.store.buf->kind == QN_LB_PARAM) {
      // 0x3FABCDEF: no byte of it is 0, nor of the f16 and the bf16 nearest to it.
      bool floats = qn_lmem_kind(s->u.store.mem) == QN_LK_F32;
      const qn_lexpr *value = floats ? qn_lf32(b, 0x1.579BDEp0f) : qn_li32(b, 0x01010101);
      if (value) s->u.store.value = value;
    }
  }
}

void qn_footprint(qn_lbuild *b) {
  needed n = {.grown = true};
  while (n.grown && !n.all) {
    n.grown = false;
    find_needed(&n, &b->kernel->body);
  }
  reduce(b, &n, &b->kernel->body);
}
