// Counting for GPUs: values of expressions on the way, and which loops must be walked one iteration after another.
#include <string.h>

#include "passes/gpu_count_internal.h"
#include "passes/loop_util.h"

// ---- values -----------------------------------------------------------------------------------------------------

static bool eval_variable(const qn_count_state *s, const qn_lvar *var, int64_t *out) {
  for (int i = s->depth - 1; i >= 0; i--) {
    const qn_count_frame *f = &s->frames[i];
    if (f->var != var) continue;
    *out = f->value + (f->lane ? s->thread % s->lanes : f->parallel ? s->thread / s->lanes : 0);
    return true;
  }
  return false;
}

static bool eval_load(const qn_count_state *s, const qn_lexpr *e, int64_t *out) {
  const qn_lbuf *buf = e->u.load.buf;
  int64_t at = 0;
  if (e->type.lanes != 1 || !qn_count_eval(s, e->operands[0], &at) || at < 0) return false;
  if (buf->kind == QN_LB_LOCAL) {
    const qn_count_local *local = qn_count_local_of(s, buf);
    if (!local || e->u.load.mem != buf->mem || (size_t)at >= local->count || !local->known[at]) return false;
    *out = local->values[at];
    return true;
  }
  const qn_gpu_param *p = &s->params[buf->param_index];
  if (!p->data || e->u.load.mem != QN_LM_I32 || (size_t)at >= p->count) return false;
  *out = p->data[at];
  return true;
}

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

static bool eval_operator(qn_lop op, int64_t a, int64_t b, int64_t *out) {
  switch (op) {
    case QN_LX_ADD: return !__builtin_add_overflow(a, b, out);
    case QN_LX_SUB: return !__builtin_sub_overflow(a, b, out);
    case QN_LX_MUL: return !__builtin_mul_overflow(a, b, out);
    case QN_LX_DIV: return b > 0 && (*out = floor_div(a, b), true);
    case QN_LX_MOD: return b > 0 && (*out = a - b * floor_div(a, b), true);
    case QN_LX_MIN: return *out = a < b ? a : b, true;
    case QN_LX_MAX: return *out = a > b ? a : b, true;
    case QN_LX_AND: return *out = a & b, true;
    case QN_LX_OR: return *out = a | b, true;
    case QN_LX_XOR: return *out = a ^ b, true;
    case QN_LX_LT: return *out = a < b, true;
    case QN_LX_LE: return *out = a <= b, true;
    case QN_LX_EQ: return *out = a == b, true;
    default: return false;
  }
}

// An operator that one known operand decides: what lies behind may be anything.
static bool eval_logic(const qn_count_state *s, const qn_lexpr *e, int64_t *out) {
  for (int i = 0; i < 2; i++) {
    int64_t value = 0;
    if (e->type.kind == QN_LK_PRED && qn_count_eval(s, e->operands[i], &value) && (value != 0) == (e->op == QN_LX_OR))
      return *out = value, true;
  }
  return false;
}

bool qn_count_eval(const qn_count_state *s, const qn_lexpr *e, int64_t *out) {
  int64_t a = 0, b = 0;
  if (e->type.lanes != 1 || e->type.kind == QN_LK_F32) return false;
  switch (e->op) {
    case QN_LX_INT: return *out = e->u.int_value, true;
    case QN_LX_SYM: return *out = s->symbols[e->u.symbol], true;
    case QN_LX_VAR: return eval_variable(s, e->u.var, out);
    case QN_LX_LOAD: return eval_load(s, e, out);
    case QN_LX_TO_INDEX: return qn_count_eval(s, e->operands[0], out);
    case QN_LX_TO_I32: return e->operands[0]->type.kind == QN_LK_INDEX && qn_count_eval(s, e->operands[0], out);
    case QN_LX_NEG: return qn_count_eval(s, e->operands[0], &a) && (*out = -a, true);
    case QN_LX_SELECT: return qn_count_eval(s, e->operands[0], &a) && qn_count_eval(s, e->operands[a ? 1 : 2], out);
    default: break;
  }
  if (qn_lop_info_of(e->op)->operands != 2) return false;
  if (qn_count_eval(s, e->operands[0], &a) && qn_count_eval(s, e->operands[1], &b) && eval_operator(e->op, a, b, out))
    return true;
  return (e->op == QN_LX_AND || e->op == QN_LX_OR) && eval_logic(s, e, out);
}

// ---- locals -----------------------------------------------------------------------------------------------------

qn_count_local *qn_count_local_of(const qn_count_state *s, const qn_lbuf *buf) {
  for (size_t i = 0; i < s->locals.count; i++)
    if (s->locals.items[i].buf == buf) return &s->locals.items[i];
  return NULL;
}

// Keeps the values of integer locals that the expression loads. True when there is a new one.
static bool keep_loaded(qn_count_state *s, const qn_lexpr *e) {
  bool grown = false;
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) grown |= keep_loaded(s, e->operands[i]);
  if (e->op != QN_LX_LOAD || e->u.load.buf->kind != QN_LB_LOCAL) return grown;
  const qn_lbuf *buf = e->u.load.buf;
  int64_t elements = 0;
  if (qn_lmem_kind(buf->mem) != QN_LK_I32 || qn_count_local_of(s, buf)) return grown;
  qn_lexpr_is_int(buf->elements, &elements);  // the verifier wants a number
  qn_count_local local = {.buf = buf,
                          .values = QN_ARENA_ARRAY(s->arena, (size_t)elements, int64_t),
                          .known = QN_ARENA_ARRAY(s->arena, (size_t)elements, bool),
                          .count = (size_t)elements};
  if (!local.values || !local.known || !qn_vec_push_arena(s->arena, &s->locals, local)) s->failed = true;
  return !s->failed;
}

// Indices of loads within an expression.
static bool keep_places(qn_count_state *s, const qn_lexpr *e) {
  bool grown = false;
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) grown |= keep_places(s, e->operands[i]);
  if (e->op == QN_LX_LOAD) grown |= keep_loaded(s, e->operands[0]);
  return grown;
}

static bool keep_block(qn_count_state *s, const qn_lblock *block) {
  bool grown = false;
  for (const qn_lstmt *stmt = block->first; stmt && !s->failed; stmt = stmt->next) {
    if (stmt->kind == QN_LS_FOR) {
      grown |= keep_loaded(s, stmt->u.loop.lo);
      grown |= keep_loaded(s, stmt->u.loop.hi);
      grown |= keep_block(s, &stmt->u.loop.body);
    }
    if (stmt->kind == QN_LS_COPY) grown |= keep_loaded(s, stmt->u.copy.from_index);
    if (stmt->kind != QN_LS_STORE) continue;
    grown |= keep_loaded(s, stmt->u.store.index);
    grown |= keep_places(s, stmt->u.store.value);
    if (qn_count_local_of(s, stmt->u.store.buf)) grown |= keep_loaded(s, stmt->u.store.value);
  }
  return grown;
}

void qn_count_find_locals(qn_count_state *s) {
  while (!s->failed && keep_block(s, &s->kernel->body)) {
  }
}

// ---- loops whose iterations differ ------------------------------------------------------------------------------

typedef struct dependence {
  const qn_lvar *var;
  QN_VEC(const qn_lbuf *) changed;  // locals that hold what depends on it
  QN_VEC(const qn_lbuf *) own;      // declared within the loop
} dependence;

static bool contains(const qn_lbuf *const *items, size_t count, const qn_lbuf *buf) {
  for (size_t i = 0; i < count; i++)
    if (items[i] == buf) return true;
  return false;
}

static bool depends(const qn_lexpr *e, const void *context) {
  const dependence *d = context;
  if (e->op == QN_LX_VAR) return e->u.var == d->var;
  return e->op == QN_LX_LOAD && contains(d->changed.items, d->changed.count, e->u.load.buf);
}

static void add_own(qn_count_state *s, dependence *d, const qn_lblock *block) {
  for (const qn_lstmt *stmt = block->first; stmt; stmt = stmt->next) {
    if (stmt->kind == QN_LS_FOR) add_own(s, d, &stmt->u.loop.body);
    if (stmt->kind == QN_LS_LOCAL && !qn_vec_push_arena(s->arena, &d->own, (const qn_lbuf *)stmt->u.local.buf))
      s->failed = true;
  }
}

// Adds locals that get something which depends on the variable, by a value, a place, or how often it is stored.
static bool add_changed(qn_count_state *s, dependence *d, const qn_lblock *block, bool under) {
  bool grown = false;
  for (const qn_lstmt *stmt = block->first; stmt && !s->failed; stmt = stmt->next) {
    if (stmt->kind == QN_LS_FOR) {
      bool moved = qn_lexpr_any(stmt->u.loop.lo, depends, d) || qn_lexpr_any(stmt->u.loop.hi, depends, d);
      grown |= add_changed(s, d, &stmt->u.loop.body, under || moved);
    }
    if (stmt->kind != QN_LS_STORE || !qn_count_local_of(s, stmt->u.store.buf)) continue;
    if (contains(d->changed.items, d->changed.count, stmt->u.store.buf)) continue;
    if (!under && !qn_lexpr_any(stmt->u.store.value, depends, d) && !qn_lexpr_any(stmt->u.store.index, depends, d))
      continue;
    if (!qn_vec_push_arena(s->arena, &d->changed, stmt->u.store.buf)) s->failed = true;
    grown = true;
  }
  return grown;
}

static bool has_moving_bounds(const dependence *d, const qn_lblock *block) {
  for (const qn_lstmt *stmt = block->first; stmt; stmt = stmt->next) {
    if (stmt->kind != QN_LS_FOR) continue;
    if (qn_lexpr_any(stmt->u.loop.lo, depends, d) || qn_lexpr_any(stmt->u.loop.hi, depends, d)) return true;
    if (has_moving_bounds(d, &stmt->u.loop.body)) return true;
  }
  return false;
}

// Does the block store to a kept local from outside of it?
static bool changes_others(const qn_count_state *s, const dependence *d, const qn_lblock *block) {
  for (const qn_lstmt *stmt = block->first; stmt; stmt = stmt->next) {
    if (stmt->kind == QN_LS_FOR && changes_others(s, d, &stmt->u.loop.body)) return true;
    if (stmt->kind == QN_LS_STORE && qn_count_local_of(s, stmt->u.store.buf) &&
        !contains(d->own.items, d->own.count, stmt->u.store.buf))
      return true;
  }
  return false;
}

bool qn_count_is_exact(qn_count_state *s, const qn_lstmt *loop) {
  uint64_t known = 0;
  qn_str key = {(const char *)&loop->u.loop.var, sizeof loop->u.loop.var};  // a place that stays
  if (qn_map_get(&s->exact, key, &known)) return known;
  dependence d = {.var = loop->u.loop.var};
  const qn_lblock *body = &loop->u.loop.body;
  add_own(s, &d, body);
  while (!s->failed && add_changed(s, &d, body, false)) {
  }
  bool exact = has_moving_bounds(&d, body) || changes_others(s, &d, body);
  if (!qn_map_put(&s->exact, key, exact)) s->failed = true;
  return exact;
}
