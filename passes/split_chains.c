// split_chains: what a chain adds up is computed by several lanes a row at once, and added up by one, in order.
//
// requires: spread locals (stage_streams), no unrolled loops yet.
// keeps: every chain: its operations, their order and so their bits. Only what they take in is computed elsewhere.
// breaks: a lane loop over rows with a reduction in it becomes two: one over units (iterations of the reduction) and
// rows, and one over rows.
//
//   for l in 0..W lane { P; for u in 0..N reduce { a = ...; acc[l] = fma(f32(a), w, acc[l]) } }
// becomes
//   for m in 0..N*W lane { P; a = ...; x[m] = f32(a); y[m] = w }        u = m / W, l = m % W
//   for l in 0..W lane { for u in 0..N reduce { acc[l] = fma(x[u*W + l], y[u*W + l], acc[l]) } }
//
// That pays where a step of the chain takes computing, such as the integer sum of a block, which is told by a loop in
// it. Where a row of lanes is half a warp, both halves read shared memory at once, so they take units whose bytes lie
// in different banks: unit u and unit u + apart.
#include "passes/gpu_pass.h"
#include "passes/loop_util.h"

enum { BANKS_BYTES = 128, WORD_BYTES = 4 };

typedef struct splitting {
  qn_lbuild *b;
  qn_lstmt *lanes, *units;      // the lane loop, the reduction in it
  int64_t width, count;         // their iterations
  int64_t apart;                // units that the halves of a warp are apart
  qn_lblock *out;               // where temporaries are declared
  const qn_lexpr *lane, *unit;  // of the chain's loops
} splitting;

// ---- what can be split ------------------------------------------------------------------------------------------

static bool is_spread_load(const qn_lexpr *e, const void *context) {
  (void)context;
  return e->op == QN_LX_LOAD && e->u.load.buf->spread;
}

static bool is_link(const qn_lstmt *s) { return s->kind == QN_LS_STORE && s->u.store.buf->spread; }

// Statements that a lane does for itself, without what it keeps from one lane loop to the next.
static bool is_own_work(const qn_lblock *block, bool links_allowed) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    bool store = s->kind == QN_LS_STORE && s->u.store.buf->kind == QN_LB_LOCAL && !s->u.store.buf->shared;
    if (s->kind == QN_LS_FOR) {
      if (qn_lexpr_any(s->u.loop.lo, is_spread_load, NULL) || qn_lexpr_any(s->u.loop.hi, is_spread_load, NULL))
        return false;
      if (!is_own_work(&s->u.loop.body, false)) return false;
    } else if (store && is_link(s)) {
      if (!links_allowed) return false;
    } else if (store) {
      if (qn_lexpr_any(s->u.store.value, is_spread_load, NULL) || qn_lexpr_any(s->u.store.index, is_spread_load, NULL))
        return false;
    } else if (s->kind != QN_LS_LOCAL) {
      return false;
    }
  }
  return true;
}

static bool has_loop(const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR) return true;
  }
  return false;
}

static bool has_link(const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (is_link(s)) return true;
  }
  return false;
}

// Can each part of a link's value that does without the chain be kept as a number?
static bool has_plain_parts(const qn_lexpr *e) {
  if (!qn_lexpr_any(e, is_spread_load, NULL)) return e->type.kind == QN_LK_F32 || e->type.kind == QN_LK_I32;
  if (e->op == QN_LX_LOAD) return true;
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) {
    if (!has_plain_parts(e->operands[i])) return false;
  }
  return true;
}

static bool has_plain_links(const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (is_link(s) && !has_plain_parts(s->u.store.value)) return false;
  }
  return true;
}

// A reduction whose iterations each do work of their own and then continue chains.
static bool is_chain(const qn_lstmt *s, int64_t *out_count) {
  int64_t lo = -1;
  const qn_lblock *body = &s->u.loop.body;
  return s->kind == QN_LS_FOR && s->u.loop.order == QN_LO_REDUCE && s->u.loop.mark == QN_LM_SERIAL &&
         qn_loop_const_bounds(s, &lo, out_count) && lo == 0 && *out_count > 1 && is_own_work(body, true) &&
         has_link(body) && has_loop(body) && has_plain_links(body);
}

// The chain at the end of the block, with nothing but a lane's own work before it.
static qn_lstmt *chain_of(const qn_lblock *block, int64_t *out_count) {
  qn_lstmt *last = block->last;
  if (!last || !is_chain(last, out_count)) return NULL;
  for (const qn_lstmt *s = block->first; s != last; s = s->next) {
    qn_lblock alone = {(qn_lstmt *)s, (qn_lstmt *)s};
    qn_lstmt copy = *s;
    copy.next = copy.prev = NULL;
    alone.first = alone.last = &copy;
    if (!is_own_work(&alone, false)) return NULL;
  }
  return last;
}

// ---- banks ------------------------------------------------------------------------------------------------------

// Bytes from what a unit reads of shared memory to what the next one does; 0 = not known.
static int64_t distance_in(qn_lbuild *b, const qn_lexpr *e, const qn_lvar *unit) {
  int64_t step = 0;
  const qn_lexpr *rest = NULL;
  if (e->op == QN_LX_LOAD && e->u.load.buf->shared && qn_lexpr_linear(b, e->operands[0], unit, &step, &rest) &&
      step > 0)
    return step * (int64_t)qn_lmem_size(e->u.load.mem);
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) {
    step = distance_in(b, e->operands[i], unit);
    if (step > 0) return step;
  }
  return 0;
}

static int64_t distance_of(qn_lbuild *b, const qn_lblock *block, const qn_lvar *unit) {
  int64_t distance = 0;
  for (const qn_lstmt *s = block->first; s && distance == 0; s = s->next) {
    if (s->kind == QN_LS_FOR) distance = distance_of(b, &s->u.loop.body, unit);
    if (s->kind == QN_LS_STORE) distance = distance_in(b, s->u.store.value, unit);
  }
  return distance;
}

static void choose_apart(splitting *s) {
  int64_t distance = distance_of(s->b, &s->units->u.loop.body, s->units->u.loop.var), row = s->width * WORD_BYTES;
  s->apart = 1;
  for (int64_t apart = 1; 2 * row == BANKS_BYTES && s->count % (2 * apart) == 0; apart *= 2) {
    if (distance % BANKS_BYTES * apart % BANKS_BYTES != row) continue;
    s->apart = apart;
    return;
  }
}

// ---- indices ----------------------------------------------------------------------------------------------------

static const qn_lexpr *by_int(const splitting *s, qn_lop op, const qn_lexpr *e, int64_t value) {
  return qn_lop2(s->b, op, e, qn_lint(s->b, value));
}

// The unit of turn `turn`: of 2 * apart turns, the even ones are units 0, 1, ..., the odd ones those from `apart` on.
static const qn_lexpr *unit_of(const splitting *s, const qn_lexpr *turn) {
  int64_t both = 2 * s->apart;
  if (s->apart == 1) return turn;
  const qn_lexpr *first = by_int(s, QN_LX_MUL, by_int(s, QN_LX_DIV, turn, both), both);
  const qn_lexpr *half = by_int(s, QN_LX_MUL, by_int(s, QN_LX_MOD, turn, 2), s->apart);
  const qn_lexpr *within = by_int(s, QN_LX_DIV, by_int(s, QN_LX_MOD, turn, both), 2);
  return qn_lop2(s->b, QN_LX_ADD, first, qn_lop2(s->b, QN_LX_ADD, half, within));
}

static const qn_lexpr *turn_of(const splitting *s, const qn_lexpr *unit) {
  int64_t both = 2 * s->apart;
  if (s->apart == 1) return unit;
  const qn_lexpr *first = by_int(s, QN_LX_MUL, by_int(s, QN_LX_DIV, unit, both), both);
  const qn_lexpr *half = by_int(s, QN_LX_DIV, by_int(s, QN_LX_MOD, unit, both), s->apart);
  const qn_lexpr *within = by_int(s, QN_LX_MUL, by_int(s, QN_LX_MOD, unit, s->apart), 2);
  return qn_lop2(s->b, QN_LX_ADD, first, qn_lop2(s->b, QN_LX_ADD, within, half));
}

// ---- splitting --------------------------------------------------------------------------------------------------

// A link's value for the chain's loop: what does without the chain is stored to a temporary, in front of `link`, and
// loaded again.
static const qn_lexpr *link_value(const splitting *s, const qn_lexpr *e, const qn_lexpr *work_lane, qn_lblock *work,
                                  qn_lstmt *link) {
  qn_lbuild *b = s->b;
  if (e->op == QN_LX_INT || e->op == QN_LX_FLOAT) return e;
  if (is_spread_load(e, NULL)) return qn_lload(b, e->u.load.buf, e->u.load.mem, s->lane, 1);
  if (qn_lexpr_any(e, is_spread_load, NULL)) {
    qn_lexpr node = *e;
    for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) {
      node.operands[i] = link_value(s, e->operands[i], work_lane, work, link);
      if (!node.operands[i]) return NULL;
    }
    return qn_lexpr_make(b, &node);
  }
  qn_lmem mem = e->type.kind == QN_LK_F32 ? QN_LM_F32 : QN_LM_I32;
  qn_lbuf *held = qn_llocal(b, s->out, "step", mem, s->count * s->width);
  if (!held) return NULL;
  held->shared = true;
  qn_lblock store = {0};
  qn_lstore(b, &store, held, mem, work_lane, e);
  qn_lblock_splice(&store, work, link);
  const qn_lexpr *at = by_int(s, QN_LX_MUL, turn_of(s, s->unit), s->width);
  return qn_lload(b, held, mem, qn_lop2(b, QN_LX_ADD, at, s->lane), 1);
}

// Takes the links out of the work and puts them, in order, into the chain's loop.
static void move_links(const splitting *s, const qn_lexpr *work_lane, qn_lblock *work, qn_lblock *chain) {
  for (qn_lstmt *link = work->first, *next; link && !s->b->failed; link = next) {
    next = link->next;
    if (!is_link(link)) continue;
    const qn_lexpr *value = link_value(s, link->u.store.value, work_lane, work, link);
    qn_lstore(s->b, chain, link->u.store.buf, link->u.store.mem, s->lane, value);
    qn_lblock_remove(work, link);
  }
}

static qn_lstmt *lane_loop(const splitting *s, qn_lblock *block, int64_t count) {
  qn_lvar *var = qn_lvar_new(s->b, s->lanes->u.loop.var->name);
  qn_lstmt *loop = qn_lfor(s->b, block, var, qn_lint(s->b, 0), qn_lint(s->b, count), QN_LO_DATA);
  loop->u.loop.mark = QN_LM_LANE;
  return loop;
}

// Puts the two loops into *out, in place of the lane loop, whose statements they take.
static void split(splitting *s, qn_lblock *out) {
  qn_lbuild *b = s->b;
  qn_lblock loops = {0};
  const qn_lvar *old_lane = s->lanes->u.loop.var, *old_unit = s->units->u.loop.var;
  s->out = out;
  choose_apart(s);
  qn_lstmt *work = lane_loop(s, &loops, s->count * s->width), *rows = lane_loop(s, &loops, s->width);
  qn_lvar *unit = qn_lvar_new(b, old_unit->name);
  qn_lstmt *chain = qn_lfor(b, &rows->u.loop.body, unit, qn_lint(b, 0), qn_lint(b, s->count), QN_LO_REDUCE);
  const qn_lexpr *at = qn_lref(b, work->u.loop.var);
  s->lane = qn_lref(b, rows->u.loop.var);
  s->unit = qn_lref(b, unit);
  if (b->failed) return;
  qn_lblock *body = &work->u.loop.body;
  qn_lblock_remove(&s->lanes->u.loop.body, s->units);
  qn_lblock_splice(&s->lanes->u.loop.body, body, NULL);
  qn_lblock_splice(&s->units->u.loop.body, body, NULL);
  move_links(s, at, body, &chain->u.loop.body);
  qn_lblock_replace(b, body, old_lane, by_int(s, QN_LX_MOD, at, s->width));
  qn_lblock_replace(b, body, old_unit, unit_of(s, by_int(s, QN_LX_DIV, at, s->width)));
  qn_lblock_splice(&loops, out, NULL);
}

// for l lane { for j reduce { a } } becomes for j reduce { for l lane { a } }.
static void swap_loops(qn_lstmt *outer, qn_lstmt *inner) {
  qn_lblock body = inner->u.loop.body, outer_body = outer->u.loop.body;
  __typeof__(outer->u.loop) moved = outer->u.loop;
  outer->u.loop = inner->u.loop;
  inner->u.loop = moved;
  outer->u.loop.body = outer_body;
  inner->u.loop.body = body;
}

// A reduction that is all of the lane loop's body, and whose iterations end in a chain each.
static bool holds_chains(const qn_lstmt *lanes, int64_t *out_count) {
  const qn_lstmt *s = lanes->u.loop.body.first;
  return s && !s->next && s->kind == QN_LS_FOR && s->u.loop.order == QN_LO_REDUCE && s->u.loop.mark == QN_LM_SERIAL &&
         !qn_lexpr_uses(s->u.loop.lo, lanes->u.loop.var) && !qn_lexpr_uses(s->u.loop.hi, lanes->u.loop.var) &&
         !qn_lexpr_any(s->u.loop.lo, is_spread_load, NULL) && !qn_lexpr_any(s->u.loop.hi, is_spread_load, NULL) &&
         chain_of(&s->u.loop.body, out_count);
}

static void split_block(qn_lbuild *b, qn_lblock *block) {
  for (qn_lstmt *s = block->first, *next; s && !b->failed; s = next) {
    int64_t lo = -1, width = 0, count = 0;
    next = s->next;
    if (s->kind != QN_LS_FOR) continue;
    if (s->u.loop.mark != QN_LM_LANE) {
      split_block(b, &s->u.loop.body);
      continue;
    }
    if (!qn_loop_const_bounds(s, &lo, &width) || lo != 0) continue;
    qn_lstmt *chain = chain_of(&s->u.loop.body, &count);
    if (!chain && holds_chains(s, &count)) {
      swap_loops(s, s->u.loop.body.first);
      split_block(b, &s->u.loop.body);
    }
    if (!chain) continue;
    splitting parts = {.b = b, .lanes = s, .units = chain, .width = width, .count = count};
    qn_lblock out = {0};
    split(&parts, &out);
    if (b->failed) return;
    qn_lblock_splice(&out, block, s);
    qn_lblock_remove(block, s);
  }
}

qn_status qn_pass_split_chains(qn_loop_pass_context *context) {
  if (!context->build->failed) split_block(context->build, &context->build->kernel->body);
  return qn_loop_pass_end(context, "split_chains");
}
