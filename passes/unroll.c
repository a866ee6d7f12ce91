// unroll: replicates the bodies of loops marked UNROLL, once for each value of the variable.
//
// requires: constant bounds of marked loops (the verifier holds them to it).
// keeps: the order of all statements; vector marks inside.
// breaks: nothing; no UNROLL mark is left. Locals declared in a body get a name for each copy, and indices that become
// constant are folded, so that code generation can keep small locals in registers.
#include "passes/loop_util.h"

enum { MAX_STATEMENTS = 20000 };

typedef struct unroller {
  qn_loop_pass_context *context;
  size_t statements;  // made so far, in the whole kernel
} unroller;

static qn_status too_large(const unroller *u, const qn_lstmt *loop, int64_t trips) {
  return qn_fail(u->context->diag, QN_ERR_ARGUMENT, u->context->build->kernel->name,
                 "unrolling loop '%s' %lld times makes more than %d statements: choose smaller m_tiles or n_tile, or "
                 "k_unroll = 0",
                 loop->u.loop.var->name, (long long)trips, (int)MAX_STATEMENTS);
}

// Puts the copies of the loop's body in its place.
static qn_status unroll_loop(unroller *u, qn_lblock *block, qn_lstmt *loop) {
  qn_lbuild *b = u->context->build;
  const qn_lvar *var = loop->u.loop.var;
  qn_lblock *body = &loop->u.loop.body, later = {0};
  int64_t lo = 0, hi = 0;
  if (!qn_loop_const_bounds(loop, &lo, &hi)) {
    return qn_fail(u->context->diag, QN_ERR_INTERNAL, b->kernel->name,
                   "loop '%s' is marked for unrolling but its bounds are not constant", var->name);
  }
  int64_t trips = hi > lo ? hi - lo : 0;
  size_t size = qn_lblock_count(body), room = MAX_STATEMENTS - u->statements;
  if (size > 0 && (uint64_t)trips > room / size) return too_large(u, loop, trips);
  u->statements += size * (size_t)trips;
  for (int64_t value = lo + 1; value < hi && size > 0; value++) {
    qn_lblock copy = {0};
    if (!qn_lblock_copy(b, body, &copy)) return QN_OK;  // the pass's end tells of it
    qn_lblock_replace(b, &copy, var, qn_lint(b, value));
    qn_lblock_splice(&copy, &later, NULL);
  }
  if (trips > 0) {
    qn_lblock_replace(b, body, var, qn_lint(b, lo));
    qn_lblock_splice(body, block, loop);
  }
  qn_lblock_splice(&later, block, loop);
  qn_lblock_remove(block, loop);
  return QN_OK;
}

// Inner loops first: what they become is counted and copied by the outer ones.
static qn_status unroll_block(unroller *u, qn_lblock *block) {
  for (qn_lstmt *s = block->first, *next; s && !u->context->build->failed; s = next) {
    next = s->next;
    if (s->kind != QN_LS_FOR) continue;
    QN_TRY(unroll_block(u, &s->u.loop.body));
    if (s->u.loop.mark == QN_LM_UNROLL) QN_TRY(unroll_loop(u, block, s));
  }
  return QN_OK;
}

qn_status qn_pass_unroll(qn_loop_pass_context *context) {
  unroller u = {.context = context};
  QN_TRY(unroll_block(&u, &context->build->kernel->body));
  return qn_loop_pass_end(context, "unroll");
}
