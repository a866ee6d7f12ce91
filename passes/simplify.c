// simplify: the kernel without what the other passes left over.
//
// requires: nothing.
// keeps: every result; a parallel loop as the top-level statement.
// breaks: nothing. All expressions are simplified again under the final ranges of the variables; loops that never run,
// or with nothing in them, go; the body of a loop that runs once takes its place; locals that nobody reads go, with
// the stores to them. After this pass no loop has a constant extent below 2, a parallel one excepted.
#include "passes/loop_util.h"

static const qn_lexpr *simplify_node(qn_lbuild *b, const qn_lexpr *e, void *context) {
  (void)context;
  return qn_lexpr_simplify(b, e);
}

// Removes or inlines loops of zero or one iteration, inner ones first; true when there were some.
static bool simplify_loops(qn_lbuild *b, qn_lblock *block) {
  bool changed = false;
  for (qn_lstmt *s = block->first, *next; s && !b->failed; s = next) {
    next = s->next;
    if (s->kind != QN_LS_FOR) continue;
    qn_lblock *body = &s->u.loop.body;
    int64_t trips = 0;
    if (simplify_loops(b, body)) changed = true;
    bool known = qn_loop_const_trips(b, s, &trips);
    if (b->failed) return false;
    if (s->u.loop.mark == QN_LM_PARALLEL) continue;
    if (body->first && (!known || trips > 1)) continue;
    if (known && trips == 1) {
      qn_lblock_replace(b, body, s->u.loop.var, s->u.loop.lo);
      qn_lblock_splice(body, block, s);
    }
    qn_lblock_remove(block, s);
    changed = true;
  }
  return changed;
}

static bool reads_buffer(const qn_lexpr *e, const void *context) {
  return e->op == QN_LX_LOAD && e->u.load.buf == context;
}

// Does some mma of the block read it? Its sums count as read.
static bool multiplies(const qn_lblock *block, const qn_lbuf *buf) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR && multiplies(&s->u.loop.body, buf)) return true;
    for (int i = 0; s->kind == QN_LS_MMA && i < QN_MMA_OPERANDS; i++)
      if (s->u.mma.bufs[i] == buf) return true;
  }
  return false;
}

// Does the statement store to the local, copy to it or prefetch it?
static bool is_to(const qn_lstmt *s, const qn_lbuf *buf) {
  return (s->kind == QN_LS_STORE && s->u.store.buf == buf) || (s->kind == QN_LS_COPY && s->u.copy.to == buf) ||
         (s->kind == QN_LS_PREFETCH && s->u.prefetch.buf == buf);
}

// Removes those.
static void remove_stores(qn_lblock *block, const qn_lbuf *buf) {
  for (qn_lstmt *s = block->first, *next; s; s = next) {
    next = s->next;
    if (s->kind == QN_LS_FOR) remove_stores(&s->u.loop.body, buf);
    if (is_to(s, buf)) qn_lblock_remove(block, s);
  }
}

// Removes locals that are never read; true when there were some.
static bool remove_unread(qn_lblock *block) {
  bool changed = false;
  for (qn_lstmt *s = block->first, *next; s; s = next) {
    next = s->next;
    if (s->kind == QN_LS_FOR && remove_unread(&s->u.loop.body)) changed = true;
    if (s->kind != QN_LS_LOCAL || qn_lblock_any(block, reads_buffer, s->u.local.buf)) continue;
    if (multiplies(block, s->u.local.buf)) continue;
    remove_stores(block, s->u.local.buf);
    next = s->next;  // a store may have stood there
    qn_lblock_remove(block, s);
    changed = true;
  }
  return changed;
}

qn_status qn_pass_simplify(qn_loop_pass_context *context) {
  qn_lbuild *b = context->build;
  qn_lblock *body = &b->kernel->body;
  bool changed = !b->failed;
  while (changed && !b->failed) {
    qn_lblock_map(b, body, simplify_node, NULL);
    changed = simplify_loops(b, body);
    if (!b->failed && remove_unread(body)) changed = true;
  }
  return qn_loop_pass_end(context, "simplify");
}
