// map_lanes: a kernel's loops become the work of groups of threads and of their lanes.
//
//   the parallel loop   the outermost DATA loops, one in the other, as one: an iteration a group
//   lane loops          in it, each DATA loop (with those that are all its body, as one) that holds no further DATA
//   loop g (lines)           is marked for unrolling when k_unroll
//
// requires: a kernel as lowering made it, specialised or not; no marks.
// keeps: the order of every reduction, and so the bits of every result.
// breaks: one loop a name. A DATA loop that is all the body of a REDUCE loop goes outside of it, which iterations that
// do not depend on each other allow: a lane then keeps its sum to itself for the whole reduction.
#include "passes/gpu_pass.h"
#include "passes/loop_util.h"

// A DATA loop of which several iterations may be done at once.
static bool is_wide(const qn_lstmt *s) {
  if (s->kind != QN_LS_FOR || s->u.loop.order != QN_LO_DATA || s->u.loop.mark != QN_LM_SERIAL) return false;
  int64_t lo = qn_lexpr_range(s->u.loop.lo).min, hi = qn_lexpr_range(s->u.loop.hi).max;
  return lo == INT64_MIN || hi == INT64_MAX || hi - lo > 1;  // otherwise a condition, or nothing
}

static bool holds_wide(const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (is_wide(s) || (s->kind == QN_LS_FOR && holds_wide(&s->u.loop.body))) return true;
  }
  return false;
}

static bool bounds_use(const qn_lstmt *loop, const qn_lvar *var) {
  return qn_lexpr_uses(loop->u.loop.lo, var) || qn_lexpr_uses(loop->u.loop.hi, var);
}

static bool is_stored(const qn_lblock *block, const qn_lbuf *buf) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_STORE && s->u.store.buf == buf) return true;
    if (s->kind == QN_LS_FOR && is_stored(&s->u.loop.body, buf)) return true;
  }
  return false;
}

// A load that may give something else in the course of the block. Parameters may share memory.
static bool may_change(const qn_lexpr *e, const void *context) {
  const qn_lblock *block = context;
  if (e->op != QN_LX_LOAD) return false;
  return e->u.load.buf->kind == QN_LB_PARAM || is_stored(block, e->u.load.buf);
}

// Are the bounds of the loop the same everywhere in the body of `outer`, which it stands in or is?
static bool has_fixed_bounds(const qn_lstmt *loop, const qn_lstmt *outer) {
  const qn_lblock *body = &outer->u.loop.body;
  return !qn_lexpr_any(loop->u.loop.lo, may_change, body) && !qn_lexpr_any(loop->u.loop.hi, may_change, body);
}

static qn_lstmt *only_statement(const qn_lblock *block) {
  return block->first && !block->first->next ? block->first : NULL;
}

// ---- reductions -------------------------------------------------------------------------------------------------

// for k reduce { for l data { a } } becomes for l data { for k reduce { a } }: what a loop is, its variable's range
// included, changes places, the bodies stay.
static void swap_loops(qn_lstmt *outer, qn_lstmt *inner) {
  qn_lblock body = inner->u.loop.body, outer_body = outer->u.loop.body;
  __typeof__(outer->u.loop) moved = outer->u.loop;
  outer->u.loop = inner->u.loop;
  inner->u.loop = moved;
  outer->u.loop.body = outer_body;
  inner->u.loop.body = body;
}

static void lift_data_loops(qn_lblock *block) {
  for (qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind != QN_LS_FOR) continue;
    lift_data_loops(&s->u.loop.body);
    qn_lstmt *inner = only_statement(&s->u.loop.body);
    if (s->u.loop.order != QN_LO_REDUCE || !inner || !is_wide(inner)) continue;
    if (bounds_use(inner, s->u.loop.var) || !has_fixed_bounds(inner, s) || !has_fixed_bounds(s, s)) continue;
    swap_loops(s, inner);
  }
}

// ---- one loop of several ----------------------------------------------------------------------------------------


static bool can_collapse(const qn_lstmt *outer, const qn_lstmt *inner) {
  return inner && is_wide(inner) && !bounds_use(inner, outer->u.loop.var) && has_fixed_bounds(inner, outer);
}

// ---- lanes ------------------------------------------------------------------------------------------------------

static void map_block(qn_lbuild *b, qn_lblock *block);

// The innermost of the loops that may become one with `loop`.
static qn_lstmt *last_of_nest(qn_lstmt *loop) {
  for (qn_lstmt *last = loop;; last = only_statement(&last->u.loop.body)) {
    qn_lstmt *inner = only_statement(&last->u.loop.body);
    if (!can_collapse(last, inner)) return last;
    for (qn_lstmt *outer = loop; outer != last; outer = only_statement(&outer->u.loop.body)) {
      if (!can_collapse(outer, inner)) return last;
    }
  }
}

static void map_loop(qn_lbuild *b, qn_lstmt *loop) {
  if (!is_wide(loop)) {
    map_block(b, &loop->u.loop.body);
    return;
  }
  if (holds_wide(&last_of_nest(loop)->u.loop.body)) {
    map_block(b, &loop->u.loop.body);
    return;
  }
  for (qn_lstmt *inner = only_statement(&loop->u.loop.body); can_collapse(loop, inner) && !b->failed;) {
    qn_loop_collapse(b, loop, inner);
    inner = only_statement(&loop->u.loop.body);
  }
  if (holds_wide(&loop->u.loop.body)) {
    map_block(b, &loop->u.loop.body);
  } else {
    loop->u.loop.mark = QN_LM_LANE;
  }
}

static void map_block(qn_lbuild *b, qn_lblock *block) {
  for (qn_lstmt *s = block->first; s && !b->failed; s = s->next) {
    if (s->kind == QN_LS_FOR) map_loop(b, s);
  }
}

// ---- the parallel loop ------------------------------------------------------------------------------------------

// At most one of the extents that are multiplied is a symbol's, so that the product is a number times a symbol.
static bool has_plain_product(const qn_lstmt *outer, const qn_lstmt *inner) {
  int64_t known = 0;
  return qn_lexpr_is_int(outer->u.loop.hi, &known) || qn_lexpr_is_int(inner->u.loop.hi, &known);
}

static bool starts_at_zero(const qn_lstmt *loop) {
  int64_t lo = -1;
  return qn_lexpr_is_int(loop->u.loop.lo, &lo) && lo == 0;
}

static void map_groups(qn_lbuild *b, qn_lstmt *loop) {
  for (qn_lstmt *inner = only_statement(&loop->u.loop.body); can_collapse(loop, inner) && !b->failed;) {
    if (!starts_at_zero(inner) || !has_plain_product(loop, inner) || !holds_wide(&inner->u.loop.body)) break;
    qn_loop_collapse(b, loop, inner);
    inner = only_statement(&loop->u.loop.body);
  }
  if (!b->failed) map_block(b, &loop->u.loop.body);
  loop->u.loop.mark = QN_LM_PARALLEL;
}

static void mark_lines(qn_lblock *block) {
  int64_t lo = 0, hi = 0;
  for (qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind != QN_LS_FOR) continue;
    mark_lines(&s->u.loop.body);
    bool plain = s->u.loop.mark == QN_LM_SERIAL && qn_loop_is(s, "g");
    if (plain && qn_loop_const_bounds(s, &lo, &hi)) s->u.loop.mark = QN_LM_UNROLL;
  }
}

qn_status qn_pass_map_lanes(qn_loop_pass_context *context) {
  qn_lbuild *b = context->build;
  qn_lblock *body = &b->kernel->body;
  lift_data_loops(body);
  qn_lstmt *loop = only_statement(body);
  bool outermost = loop && is_wide(loop) && starts_at_zero(loop) && has_fixed_bounds(loop, loop);
  if (!context->schedule->parallel || !outermost || !holds_wide(&loop->u.loop.body)) {
    map_block(b, body);
  } else {
    map_groups(b, loop);
  }
  if (context->schedule->k_unroll) mark_lines(body);
  qn_share_locals(body);
  return qn_loop_pass_end(context, "map_lanes");
}
