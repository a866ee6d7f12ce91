// join_chains: reductions over the same range that stand next to each other in a lane loop become one.
//
// requires: lane loops (map_lanes).
// keeps: every chain: what a reduction adds up, it adds up in the same order.
// breaks: nothing. Products of one input read their weights side by side then, and its numbers once.
//
// Only reductions that do not touch what the other one stores are joined, and none that would become so long that what
// they load at a time has no room in registers. What stands between them may be new locals and values for those that do
// not depend on the first one; they move to the front.
#include "passes/gpu_pass.h"
#include "passes/loop_util.h"

enum { MOST_STATEMENTS = 64 };  // of a joined iteration, unrolled

// Statements of an iteration, once its loops are unrolled that will be.
static int64_t length_of(const qn_lblock *block) {
  int64_t length = 0, lo = 0, hi = 0;
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    bool unrolled = s->kind == QN_LS_FOR && s->u.loop.mark == QN_LM_UNROLL && qn_loop_const_bounds(s, &lo, &hi);
    if (s->kind == QN_LS_FOR) length += length_of(&s->u.loop.body) * (unrolled ? hi - lo : 1);
    if (s->kind == QN_LS_STORE) length++;
  }
  return length;
}

static bool stores(const qn_lblock *block, const qn_lbuf *buf) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_STORE && s->u.store.buf == buf) return true;
    if (s->kind == QN_LS_FOR && stores(&s->u.loop.body, buf)) return true;
  }
  return false;
}

static bool loads_what_is_stored(const qn_lexpr *e, const void *context) {
  return e->op == QN_LX_LOAD && stores(context, e->u.load.buf);
}

// Statements that compute something for the lane, and store nothing but locals.
static bool is_private(const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    bool own = s->kind == QN_LS_LOCAL || (s->kind == QN_LS_STORE && s->u.store.buf->kind == QN_LB_LOCAL) ||
               (s->kind == QN_LS_FOR && is_private(&s->u.loop.body));
    if (!own) return false;
  }
  return true;
}

// Does `a` store nothing that `b` stores?
static bool stores_apart(const qn_lblock *a, const qn_lblock *b) {
  for (const qn_lstmt *s = a->first; s; s = s->next) {
    if (s->kind == QN_LS_STORE && stores(b, s->u.store.buf)) return false;
    if (s->kind == QN_LS_FOR && !stores_apart(&s->u.loop.body, b)) return false;
  }
  return true;
}

static bool are_independent(const qn_lblock *a, const qn_lblock *b) {
  return is_private(a) && is_private(b) && stores_apart(a, b) && !qn_lblock_any(a, loads_what_is_stored, b) &&
         !qn_lblock_any(b, loads_what_is_stored, a);
}

static bool is_reduction(const qn_lstmt *s) {
  return s->kind == QN_LS_FOR && s->u.loop.order == QN_LO_REDUCE && s->u.loop.mark == QN_LM_SERIAL;
}

static bool is_load(const qn_lexpr *e, const void *context) {
  (void)context;
  return e->op == QN_LX_LOAD;
}

// A new local after the loop, or a value for one that does not depend on the loop, which is private.
static bool may_move_ahead(const qn_lstmt *s, const qn_lstmt *loop) {
  const qn_lblock *body = &loop->u.loop.body;
  if (s->kind == QN_LS_LOCAL) return true;
  if (s->kind != QN_LS_STORE || s->u.store.buf->kind != QN_LB_LOCAL) return false;
  if (qn_lexpr_any(s->u.store.value, loads_what_is_stored, body)) return false;
  if (qn_lexpr_any(s->u.store.index, loads_what_is_stored, body)) return false;
  for (const qn_lstmt *t = loop->next; t != s; t = t->next) {
    if (t->kind == QN_LS_LOCAL && t->u.local.buf == s->u.store.buf) return true;
  }
  return false;
}

// The reduction after `loop` that may become part of it; NULL when there is none.
static qn_lstmt *partner_of(const qn_lstmt *loop) {
  for (qn_lstmt *s = loop->next; s; s = s->next) {
    if (!is_reduction(s)) {
      if (!may_move_ahead(s, loop)) return NULL;
      continue;
    }
    bool same = qn_lexpr_equal(s->u.loop.lo, loop->u.loop.lo) && qn_lexpr_equal(s->u.loop.hi, loop->u.loop.hi);
    bool fixed = !qn_lexpr_any(s->u.loop.lo, is_load, NULL) && !qn_lexpr_any(s->u.loop.hi, is_load, NULL);
    const qn_lblock *a = &loop->u.loop.body, *b = &s->u.loop.body;
    bool brief = length_of(a) + length_of(b) <= MOST_STATEMENTS;
    return same && fixed && brief && are_independent(a, b) ? s : NULL;
  }
  return NULL;
}

static void join(qn_lbuild *b, qn_lblock *block, qn_lstmt *loop, qn_lstmt *other) {
  for (qn_lstmt *s = loop->next, *next; s != other; s = next) {
    next = s->next;
    qn_lblock_remove(block, s);
    qn_lblock_insert_before(block, loop, s);
  }
  qn_lblock_replace(b, &other->u.loop.body, other->u.loop.var, qn_lref(b, loop->u.loop.var));
  qn_lblock_splice(&other->u.loop.body, &loop->u.loop.body, NULL);
  qn_lblock_remove(block, other);
}

void qn_join_reductions(qn_lbuild *b, qn_lblock *block) {
  for (qn_lstmt *s = block->first; s && !b->failed; s = s->next) {
    qn_lstmt *other = is_reduction(s) ? partner_of(s) : NULL;
    for (; other && !b->failed; other = partner_of(s)) join(b, block, s, other);
  }
}

static void join_block(qn_lbuild *b, qn_lblock *block, bool in_lanes) {
  if (in_lanes) qn_join_reductions(b, block);
  for (qn_lstmt *s = block->first; s && !b->failed; s = s->next) {
    if (s->kind != QN_LS_FOR) continue;
    join_block(b, &s->u.loop.body, in_lanes || s->u.loop.mark == QN_LM_LANE);
  }
}

qn_status qn_pass_join_chains(qn_loop_pass_context *context) {
  if (!context->build->failed) join_block(context->build, &context->build->kernel->body, false);
  return qn_loop_pass_end(context, "join_chains");
}
