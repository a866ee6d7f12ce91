// vectorise: turns stores in loops marked VECTOR into vector stores, one lane an iteration.
//
// requires: DATA order and constant bounds of marked loops; tile has put them around single statements. A body of
// several is taken apart first, which independent iterations allow.
// keeps: what each lane computes, operator by operator.
// breaks: nothing; no VECTOR mark is left. What cannot be a vector statement stays a serial loop: nested loops, locals,
// prefetches, stores of all iterations to one place, and what is a vector already.
//
// Of a value, what does not use the variable stays scalar (broadcast where it meets a vector); a load whose index grows
// by one an iteration becomes a load of consecutive lanes, any other a gather; the variable itself becomes lane(n).
#include "passes/loop_util.h"

typedef struct vectoriser {
  qn_lbuild *b;
  const qn_lvar *var;
  int lanes;
} vectoriser;

static const qn_lexpr *vector_of(const vectoriser *v, const qn_lexpr *e);

static const qn_lexpr *vector_load(const vectoriser *v, const qn_lexpr *e) {
  const qn_lexpr *index = e->operands[0], *rest = NULL;
  int64_t step = 0;
  if (qn_lexpr_linear(v->b, index, v->var, &step, &rest) && (step == 0 || step == 1)) {
    return qn_lload(v->b, e->u.load.buf, e->u.load.mem, rest, step == 1 ? v->lanes : 1);
  }
  return qn_lload(v->b, e->u.load.buf, e->u.load.mem, vector_of(v, index), 1);
}

// The expression for all iterations at once: of v->lanes lanes, or scalar where it is the same for all.
static const qn_lexpr *vector_of(const vectoriser *v, const qn_lexpr *e) {
  if (v->b->failed || !qn_lexpr_uses(e, v->var)) return e;
  if (e->op == QN_LX_VAR) return qn_llane(v->b, v->lanes);
  if (e->op == QN_LX_LOAD) return vector_load(v, e);
  qn_lexpr node = *e;
  for (size_t i = 0; i < QN_COUNT(node.operands) && node.operands[i]; i++) {
    node.operands[i] = vector_of(v, e->operands[i]);
    if (!node.operands[i]) return NULL;
  }
  return qn_lexpr_simplify(v->b, &node);
}

// Makes the store one of all lanes; false leaves it as it was.
static bool vectorise_store(const vectoriser *v, qn_lstmt *s) {
  qn_lbuild *b = v->b;
  const qn_lexpr *index = s->u.store.index, *rest = NULL;
  int64_t step = 0;
  if (s->u.store.lanes > 1 || qn_lexpr_any(index, qn_lexpr_is_vector, NULL) ||
      qn_lexpr_any(s->u.store.value, qn_lexpr_is_vector, NULL)) {
    return false;
  }
  bool linear = qn_lexpr_linear(b, index, v->var, &step, &rest);
  if (linear && step == 0) return false;
  const qn_lexpr *value = vector_of(v, s->u.store.value);
  index = linear && step == 1 ? rest : vector_of(v, index);
  if (b->failed) return false;
  s->u.store.index = index;
  s->u.store.value = value;
  s->u.store.lanes = v->lanes;
  return true;
}

// Puts `for var' { stmt }` in front of `before`.
static void keep_serial(const vectoriser *v, qn_lstmt *stmt, qn_lblock *block, qn_lstmt *before) {
  qn_lblock out = {0};
  qn_lvar *var = qn_lvar_new(v->b, v->var->name);
  qn_lstmt *loop = qn_lfor(v->b, &out, var, qn_lint(v->b, 0), qn_lint(v->b, v->lanes), QN_LO_DATA);
  if (v->b->failed) return;
  qn_lblock_append(&loop->u.loop.body, stmt);
  qn_lblock_replace(v->b, &loop->u.loop.body, v->var, qn_lref(v->b, var));
  qn_lblock_splice(&out, block, before);
}

static bool fits(const qn_lstmt *loop, int64_t lo, int64_t hi) {
  if (loop->u.loop.order != QN_LO_DATA || lo != 0 || hi < 2 || hi > QN_LANES_MAX) return false;
  for (const qn_lstmt *s = loop->u.loop.body.first; s; s = s->next) {
    if (s->kind == QN_LS_LOCAL || s->kind == QN_LS_FOR) return false;
  }
  return true;
}

static void vectorise_loop(qn_lbuild *b, qn_lblock *block, qn_lstmt *loop) {
  int64_t lo = 0, hi = 0;
  loop->u.loop.mark = QN_LM_SERIAL;
  if (!qn_loop_const_bounds(loop, &lo, &hi)) return;
  if (!fits(loop, lo, hi)) return;
  vectoriser v = {b, loop->u.loop.var, (int)hi};
  qn_lblock *body = &loop->u.loop.body;
  while (body->first && !b->failed) {
    qn_lstmt *s = body->first;
    qn_lblock_remove(body, s);
    if (s->kind == QN_LS_STORE && vectorise_store(&v, s)) {
      qn_lblock_insert_before(block, loop, s);
    } else {
      keep_serial(&v, s, block, loop);
    }
  }
  if (!b->failed) qn_lblock_remove(block, loop);
}

static void vectorise_block(qn_lbuild *b, qn_lblock *block) {
  for (qn_lstmt *s = block->first, *next; s && !b->failed; s = next) {
    next = s->next;
    if (s->kind != QN_LS_FOR) continue;
    vectorise_block(b, &s->u.loop.body);
    if (s->u.loop.mark == QN_LM_VECTOR) vectorise_loop(b, block, s);
  }
}

qn_status qn_pass_vectorise(qn_loop_pass_context *context) {
  vectorise_block(context->build, &context->build->kernel->body);
  return qn_loop_pass_end(context, "vectorise");
}
