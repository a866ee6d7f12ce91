// What several loop passes need: asking about loops, replacing variables in blocks, moving statements.
#include "passes/loop_util.h"

bool qn_loop_is(const qn_lstmt *stmt, const char *base) {
  return stmt->kind == QN_LS_FOR && qn_str_is(qn_lvar_base(stmt->u.loop.var), base);
}

bool qn_loop_const_bounds(const qn_lstmt *loop, int64_t *out_lo, int64_t *out_hi) {
  return qn_lexpr_is_int(loop->u.loop.lo, out_lo) && qn_lexpr_is_int(loop->u.loop.hi, out_hi);
}

bool qn_loop_const_trips(qn_lbuild *b, const qn_lstmt *loop, int64_t *out_trips) {
  const qn_lexpr *trips = qn_lop2(b, QN_LX_SUB, loop->u.loop.hi, loop->u.loop.lo);
  if (!trips || !qn_lexpr_is_int(trips, out_trips)) return false;
  if (*out_trips < 0) *out_trips = 0;
  return true;
}

// The number of iterations.
static const qn_lexpr *trips_of(qn_lbuild *b, const qn_lstmt *loop) {
  return qn_lop2(b, QN_LX_MAX, qn_lop2(b, QN_LX_SUB, loop->u.loop.hi, loop->u.loop.lo), qn_lint(b, 0));
}

void qn_loop_collapse(qn_lbuild *b, qn_lstmt *outer, qn_lstmt *inner) {
  const qn_lexpr *width = trips_of(b, inner), *count = trips_of(b, outer);
  const qn_lexpr *outer_lo = outer->u.loop.lo, *inner_lo = inner->u.loop.lo;
  const qn_lvar *old_outer = outer->u.loop.var, *old_inner = inner->u.loop.var;
  qn_lvar *var = qn_lvar_new(b, old_outer->name);
  if (b->failed) return;
  outer->u.loop.var = var;
  qn_lfor_set_bounds(outer, qn_lint(b, 0), qn_lop2(b, QN_LX_MUL, count, width));
  const qn_lexpr *at = qn_lref(b, var);
  const qn_lexpr *row = qn_lop2(b, QN_LX_ADD, qn_lop2(b, QN_LX_DIV, at, width), outer_lo);
  const qn_lexpr *column = qn_lop2(b, QN_LX_ADD, qn_lop2(b, QN_LX_MOD, at, width), inner_lo);
  qn_lblock body = inner->u.loop.body;
  qn_lblock_replace(b, &body, old_outer, row);
  qn_lblock_replace(b, &body, old_inner, column);
  outer->u.loop.body = body;
}

bool qn_lexpr_any(const qn_lexpr *e, qn_lexpr_test fn, const void *context) {
  if (fn(e, context)) return true;
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) {
    if (qn_lexpr_any(e->operands[i], fn, context)) return true;
  }
  return false;
}

bool qn_lstmt_any(const qn_lstmt *s, qn_lexpr_test fn, const void *context) {
  switch (s->kind) {
    case QN_LS_FOR:
      return qn_lexpr_any(s->u.loop.lo, fn, context) || qn_lexpr_any(s->u.loop.hi, fn, context) ||
             qn_lblock_any(&s->u.loop.body, fn, context);
    case QN_LS_STORE:
      return qn_lexpr_any(s->u.store.index, fn, context) || qn_lexpr_any(s->u.store.value, fn, context);
    case QN_LS_PREFETCH: return qn_lexpr_any(s->u.prefetch.index, fn, context);
    case QN_LS_COPY:
      return qn_lexpr_any(s->u.copy.to_index, fn, context) || qn_lexpr_any(s->u.copy.from_index, fn, context);
    case QN_LS_LOCAL:
    case QN_LS_BARRIER:
    case QN_LS_COMMIT:
    case QN_LS_WAIT:
    case QN_LS_MMA: break;
  }
  return false;
}

bool qn_lblock_any(const qn_lblock *block, qn_lexpr_test fn, const void *context) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (qn_lstmt_any(s, fn, context)) return true;
  }
  return false;
}

bool qn_lexpr_is_vector(const qn_lexpr *e, const void *context) {
  (void)context;
  return e->type.lanes > 1;
}

bool qn_lexpr_is_multiple(const qn_lexpr *e, int64_t n) {
  int64_t value = 0;
  if (qn_lexpr_is_int(e, &value)) return value % n == 0;
  const qn_lexpr *x = e->operands[0], *y = e->operands[1];
  if (e->op == QN_LX_MUL) return qn_lexpr_is_multiple(x, n) || qn_lexpr_is_multiple(y, n);
  return (e->op == QN_LX_ADD || e->op == QN_LX_SUB) && qn_lexpr_is_multiple(x, n) && qn_lexpr_is_multiple(y, n);
}

size_t qn_lblock_count(const qn_lblock *block) {
  size_t count = 0;
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    count += 1 + (s->kind == QN_LS_FOR ? qn_lblock_count(&s->u.loop.body) : 0);
  }
  return count;
}

typedef struct replacement {
  const qn_lvar *var;
  const qn_lexpr *with;
} replacement;

static const qn_lexpr *replace_var(qn_lbuild *b, const qn_lexpr *e, void *context) {
  const replacement *r = context;
  (void)b;
  return e->op == QN_LX_VAR && e->u.var == r->var ? r->with : e;
}

void qn_lblock_replace(qn_lbuild *b, qn_lblock *block, const qn_lvar *var, const qn_lexpr *with) {
  if (b->failed) return;
  qn_lblock_map(b, block, replace_var, &(replacement){var, with});
}

void qn_lblock_splice(qn_lblock *from, qn_lblock *to, qn_lstmt *before) {
  while (from->first) {
    qn_lstmt *stmt = from->first;
    qn_lblock_remove(from, stmt);
    qn_lblock_insert_before(to, before, stmt);
  }
}

qn_status qn_loop_pass_end(qn_loop_pass_context *context, const char *pass) {
  if (!context->build->failed) return QN_OK;
  return qn_fail_nomem(context->diag, context->build->kernel->name, pass);
}

bool qn_loop_declares(const qn_lblock *block, const qn_lbuf *buf) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_LOCAL && s->u.local.buf == buf) return true;
    if (s->kind == QN_LS_FOR && qn_loop_declares(&s->u.loop.body, buf)) return true;
  }
  return false;
}
