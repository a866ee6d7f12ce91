// spread_rows: several groups do what one would do alone, where a step has few rows.
//
//   for t data { own; for kb in 0..n data { a } }   becomes
//   for t data { for part in 0..parts data { own; for kb in part*n/parts .. (part+1)*n/parts data { a } } }
//
// own: what leaves numbers in locals and nothing else (the sums of a norm). Each group makes these for itself: a row
// comes from the second cache many times, but at once, where one group would take it up piece by piece.
//
// requires: loops as lowering made them, and that parameters are different memory, which plan_memory gives to different
// buffers of a step.
// keeps: every result, and the order of every reduction.
// breaks: nothing. A kernel is left alone where a loop's iterations need others' (a parameter that is stored to is
// loaded), and where a statement outside of loops stores to a parameter. A loop whose length `parts` does not divide
// is done by the first part alone.
#include "passes/gpu_pass.h"
#include "passes/loop_util.h"

static bool is_param(const qn_lbuf *buf) { return buf->kind == QN_LB_PARAM; }

static bool stores_param(const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_STORE && is_param(s->u.store.buf)) return true;
    if (s->kind == QN_LS_FOR && stores_param(&s->u.loop.body)) return true;
  }
  return false;
}

// Does the block store to a local that is not its own?
static bool stores_outside(const qn_lblock *block, const qn_lblock *all) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    bool local = s->kind == QN_LS_STORE && !is_param(s->u.store.buf);
    if (local && !qn_loop_declares(all, s->u.store.buf)) return true;
    if (s->kind == QN_LS_FOR && stores_outside(&s->u.loop.body, all)) return true;
  }
  return false;
}

static bool loads_what_is_stored(const qn_lexpr *e, const void *context) {
  (void)context;
  return e->op == QN_LX_LOAD && is_param(e->u.load.buf) && e->u.load.buf->writable;
}

// A loop whose iterations groups may share out; its length.
static bool is_shared_out(const qn_lstmt *s, int64_t *out_trips) {
  int64_t lo = 0;
  return s->kind == QN_LS_FOR && s->u.loop.order == QN_LO_DATA && qn_loop_const_bounds(s, &lo, out_trips) && lo == 0 &&
         *out_trips > 1 && !stores_outside(&s->u.loop.body, &s->u.loop.body);
}

// The loop over rows, when what it does may be shared out.
static qn_lstmt *rows_of(const qn_lkernel *kernel) {
  qn_lstmt *rows = kernel->body.first;
  bool alone = rows && !rows->next && rows->kind == QN_LS_FOR && rows->u.loop.order == QN_LO_DATA;
  if (!alone || qn_lblock_any(&rows->u.loop.body, loads_what_is_stored, NULL)) return NULL;
  const qn_lblock *body = &rows->u.loop.body;
  return body->first && body->first->next ? rows : NULL;
}

static bool holds_loop(const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR) return true;
  }
  return false;
}

// Iterations of a loop of elements that make a part: what a block's lanes do in a few turns.
enum { PART_ELEMENTS = 256 };

static bool stores_rows(const qn_lstmt *s) {
  return (s->kind == QN_LS_STORE && is_param(s->u.store.buf)) ||
         (s->kind == QN_LS_FOR && stores_param(&s->u.loop.body));
}

int64_t qn_row_parts(const qn_lkernel *kernel) {
  const qn_lstmt *rows = rows_of(kernel);
  int64_t parts = 1;
  for (const qn_lstmt *s = rows ? rows->u.loop.body.first : NULL; s; s = s->next) {
    int64_t trips = 0;
    if (!stores_rows(s)) continue;
    if (!is_shared_out(s, &trips)) return 1;
    int64_t most = holds_loop(&s->u.loop.body) ? trips : (trips + PART_ELEMENTS - 1) / PART_ELEMENTS;
    while (trips % most != 0) most--;
    if (most > parts) parts = most;
  }
  return parts;
}

// A loop that is shared out gets its part's iterations; one whose length the parts do not divide is the first part's.
static void take_part(qn_lbuild *b, qn_lstmt *loop, const qn_lexpr *number, int64_t parts) {
  int64_t trips = 0;
  const qn_lvar *old = loop->u.loop.var;
  qn_lvar *var = qn_lvar_new(b, old->name);
  if (b->failed || !is_shared_out(loop, &trips)) return;
  const qn_lexpr *first = qn_lint(b, 0), *count = qn_lint(b, trips / parts);
  if (trips % parts == 0) {
    first = qn_lop2(b, QN_LX_MUL, number, count);
  } else {
    count = qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_EQ, number, first), qn_lint(b, trips), first);
  }
  loop->u.loop.var = var;
  qn_lfor_set_bounds(loop, qn_lint(b, 0), count);
  qn_lblock_replace(b, &loop->u.loop.body, old, qn_lop2(b, QN_LX_ADD, first, qn_lref(b, var)));
}

qn_status qn_pass_spread_rows(qn_loop_pass_context *context) {
  qn_lbuild *b = context->build;
  int64_t parts = context->gpu ? context->gpu->parts : 0;
  if (parts <= 1 || qn_row_parts(b->kernel) == 1) return qn_loop_pass_end(context, "spread_rows");
  qn_lblock *body = &rows_of(b->kernel)->u.loop.body, inner = {0};
  qn_lblock_splice(body, &inner, NULL);
  qn_lvar *part = qn_lvar_new(b, "part");
  qn_lstmt *loop = qn_lfor(b, body, part, qn_lint(b, 0), qn_lint(b, parts), QN_LO_DATA);
  const qn_lexpr *number = qn_lref(b, part);
  if (b->failed) return qn_loop_pass_end(context, "spread_rows");
  loop->u.loop.body = inner;
  for (qn_lstmt *s = inner.first; s && !b->failed; s = s->next)
    if (stores_rows(s)) take_part(b, s, number, parts);
  return qn_loop_pass_end(context, "spread_rows");
}
