// Sinking a loop: for v { a; for w { b } } becomes for v { a } for w { for v { b } }, down to single statements. So a
// tile of tokens and panels gets its accumulators side by side in the innermost loop, and a loop over lanes comes to
// stand around single stores, which is what a vector statement is.
//
// Legal because the iterations of a DATA loop are independent: each statement of one iteration sees only what the same
// iteration wrote before. A local declared in the loop's body holds a value for every iteration afterwards, so it grows
// by the number of iterations and gets the variable into its index:
//   unrolled loops  v * elements + index     (every copy has its own run of elements)
//   vector loops    index * iterations + v   (lanes lie next to each other)
// A local that every iteration fills with the same values (a decoded weight, for a tile of tokens) is filled once.
#include "passes/loop_util.h"
#include "runtime/base/vec.h"

enum { MAX_GROWN_BYTES = 1 << 18 };  // of one local; larger ones would not be worth it

// A buffer that the body declares or stores to.
typedef struct stored {
  const qn_lbuf *buf;
  bool varies;  // from iteration to iteration
} stored;

typedef struct sinker {
  qn_lbuild *b;
  const qn_lvar *var;
  int64_t extent;
  qn_lmark mark;
  QN_VEC(stored) stored;  // arena
} sinker;

// ---- what is the same in every iteration? -----------------------------------------------------------------------

static stored *find_stored(const sinker *k, const qn_lbuf *buf) {
  for (size_t i = 0; i < k->stored.count; i++) {
    if (k->stored.items[i].buf == buf) return &k->stored.items[i];
  }
  return NULL;
}

// Lists the buffers; those from outside of the loop count as varying. Declarations precede stores.
static void list_stored(sinker *k, const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s && !k->b->failed; s = s->next) {
    stored item = {NULL, false};
    if (s->kind == QN_LS_FOR) list_stored(k, &s->u.loop.body);
    if (s->kind == QN_LS_LOCAL) item.buf = s->u.local.buf;
    if (s->kind == QN_LS_STORE && !find_stored(k, s->u.store.buf)) item = (stored){s->u.store.buf, true};
    if (item.buf && !qn_vec_push_arena(k->b->arena, &k->stored, item)) k->b->failed = true;
  }
}

static bool node_varies(const qn_lexpr *e, const void *context) {
  const sinker *k = context;
  if (e->op == QN_LX_VAR) return e->u.var == k->var;
  const stored *item = e->op == QN_LX_LOAD ? find_stored(k, e->u.load.buf) : NULL;
  return item && item->varies;
}

static bool varies(const sinker *k, const qn_lexpr *e) { return qn_lexpr_any(e, node_varies, k); }

// Marks the buffers that varying values are stored to, or that are stored to a varying number of times; true when
// there were new ones.
static bool mark_varying(sinker *k, const qn_lblock *block, bool in_varying_loop) {
  bool changed = false;
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR) {
      bool inner = in_varying_loop || varies(k, s->u.loop.lo) || varies(k, s->u.loop.hi);
      if (mark_varying(k, &s->u.loop.body, inner)) changed = true;
    }
    if (s->kind != QN_LS_STORE) continue;
    stored *item = find_stored(k, s->u.store.buf);
    if (item->varies || !(in_varying_loop || varies(k, s->u.store.index) || varies(k, s->u.store.value))) continue;
    item->varies = changed = true;
  }
  return changed;
}

// Does the statement (no loop) do the same in every iteration, so that once is enough?
static bool is_shared(const sinker *k, const qn_lstmt *s) {
  if (s->kind == QN_LS_STORE) return !find_stored(k, s->u.store.buf)->varies;
  if (s->kind == QN_LS_LOCAL) return !find_stored(k, s->u.local.buf)->varies;
  return s->kind == QN_LS_PREFETCH && !varies(k, s->u.prefetch.index);
}

// ---- may it be sunk? --------------------------------------------------------------------------------------------

// What accesses to a local must be like for it to grow.
typedef struct local_access {
  const qn_lbuf *buf;
  int64_t bytes;
  bool vector;
} local_access;

static bool misfits(const local_access *a, const qn_lbuf *buf, qn_lmem mem) {
  if (buf != a->buf || mem == buf->mem) return false;
  return a->vector || a->bytes % (int64_t)qn_lmem_size(mem) != 0;
}

static bool misfit_load(const qn_lexpr *e, const void *context) {
  return e->op == QN_LX_LOAD && misfits(context, e->u.load.buf, e->u.load.mem);
}

static bool has_misfit_store(const qn_lblock *block, const local_access *a) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_STORE && misfits(a, s->u.store.buf, s->u.store.mem)) return true;
    if (s->kind == QN_LS_FOR && has_misfit_store(&s->u.loop.body, a)) return true;
  }
  return false;
}

static bool locals_can_grow(const sinker *k, const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR && !locals_can_grow(k, &s->u.loop.body)) return false;
    if (s->kind != QN_LS_LOCAL || is_shared(k, s)) continue;
    const qn_lbuf *buf = s->u.local.buf;
    int64_t elements = 0;
    if (!qn_lexpr_is_int(buf->elements, &elements)) return false;
    local_access access = {buf, elements * (int64_t)qn_lmem_size(buf->mem), k->mark == QN_LM_VECTOR};
    if (access.bytes > MAX_GROWN_BYTES / k->extent) return false;
    if (qn_lblock_any(block, misfit_load, &access) || has_misfit_store(block, &access)) return false;
  }
  return true;
}

static bool has_vector_store(const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_STORE && s->u.store.lanes > 1) return true;
    if (s->kind == QN_LS_FOR && has_vector_store(&s->u.loop.body)) return true;
  }
  return false;
}

static bool can_sink(const sinker *k, const qn_lblock *body) {
  bool vectors = has_vector_store(body) || qn_lblock_any(body, qn_lexpr_is_vector, NULL);
  return !(vectors && k->mark == QN_LM_VECTOR) && locals_can_grow(k, body);
}

// ---- locals -----------------------------------------------------------------------------------------------------

typedef struct growth {
  const sinker *sinker;
  const qn_lbuf *buf;
  int64_t elements;  // before
} growth;

static const qn_lexpr *grown_index(const growth *g, qn_lmem mem, const qn_lexpr *index) {
  qn_lbuild *b = g->sinker->b;
  const qn_lexpr *var = qn_lref(b, g->sinker->var);
  if (g->sinker->mark == QN_LM_VECTOR) {
    return qn_lop2(b, QN_LX_ADD, qn_lop2(b, QN_LX_MUL, index, qn_lint(b, g->sinker->extent)), var);
  }
  int64_t stride = g->elements * (int64_t)qn_lmem_size(g->buf->mem) / (int64_t)qn_lmem_size(mem);
  return qn_lop2(b, QN_LX_ADD, qn_lop2(b, QN_LX_MUL, var, qn_lint(b, stride)), index);
}

static const qn_lexpr *grow_load(qn_lbuild *b, const qn_lexpr *e, void *context) {
  const growth *g = context;
  if (e->op != QN_LX_LOAD || e->u.load.buf != g->buf) return e;
  int lanes = e->operands[0]->type.lanes > 1 ? 1 : e->type.lanes;
  return qn_lload(b, g->buf, e->u.load.mem, grown_index(g, e->u.load.mem, e->operands[0]), lanes);
}

static void grow_stores(const growth *g, qn_lblock *block) {
  for (qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR) grow_stores(g, &s->u.loop.body);
    if (s->kind == QN_LS_STORE && s->u.store.buf == g->buf) {
      s->u.store.index = grown_index(g, s->u.store.mem, s->u.store.index);
    }
    if (s->kind == QN_LS_PREFETCH && s->u.prefetch.buf == g->buf) {
      s->u.prefetch.index = grown_index(g, s->u.prefetch.mem, s->u.prefetch.index);
    }
  }
}

// Makes the local hold a value for every iteration, and the statements of `rest` use the one of theirs.
static void grow_local(const sinker *k, qn_lbuf *buf, qn_lblock *rest) {
  growth g = {k, buf, 0};
  if (!qn_lexpr_is_int(buf->elements, &g.elements)) return;
  qn_lblock_map(k->b, rest, grow_load, &g);
  if (k->b->failed) return;
  grow_stores(&g, rest);
  buf->elements = qn_lint(k->b, g.elements * k->extent);
}

// ---- statements -------------------------------------------------------------------------------------------------

// Appends `for v' { stmt }` to `to`.
static void wrap(const sinker *k, qn_lstmt *stmt, qn_lmark mark, qn_lblock *to) {
  qn_lvar *var = qn_lvar_new(k->b, k->var->name);
  qn_lstmt *loop = qn_lfor(k->b, to, var, qn_lint(k->b, 0), qn_lint(k->b, k->extent), QN_LO_DATA);
  if (k->b->failed) return;
  loop->u.loop.mark = mark;
  qn_lblock_append(&loop->u.loop.body, stmt);
  qn_lblock_replace(k->b, &loop->u.loop.body, k->var, qn_lref(k->b, var));
}

static void sink_block(const sinker *k, qn_lblock *from, qn_lblock *to) {
  while (from->first && !k->b->failed) {
    qn_lstmt *stmt = from->first;
    qn_lblock_remove(from, stmt);
    if (stmt->kind != QN_LS_FOR && is_shared(k, stmt)) {
      qn_lblock_append(to, stmt);
    } else if (stmt->kind == QN_LS_LOCAL) {
      grow_local(k, stmt->u.local.buf, from);
      qn_lblock_append(to, stmt);
    } else if (stmt->kind != QN_LS_FOR) {
      wrap(k, stmt, k->mark, to);
    } else if (qn_lexpr_uses(stmt->u.loop.lo, k->var) || qn_lexpr_uses(stmt->u.loop.hi, k->var)) {
      wrap(k, stmt, QN_LM_SERIAL, to);
    } else {
      qn_lblock inner = {0};
      sink_block(k, &stmt->u.loop.body, &inner);
      stmt->u.loop.body = inner;
      qn_lblock_append(to, stmt);
    }
  }
}

// Fills in what the body stores, and what of it varies; is the loop one that may be moved at all?
static bool begin(sinker *k, const qn_lstmt *loop) {
  const qn_lblock *body = &loop->u.loop.body;
  int64_t lo = 0;
  bool fits = loop->u.loop.order == QN_LO_DATA && qn_loop_const_bounds(loop, &lo, &k->extent) && lo == 0;
  list_stored(k, body);
  while (!k->b->failed && mark_varying(k, body, false)) continue;
  return fits && k->extent > 0 && !k->b->failed;
}

qn_lstmt *qn_loop_sink(qn_lbuild *b, qn_lblock *block, qn_lstmt *loop) {
  sinker k = {.b = b, .var = loop->u.loop.var, .mark = loop->u.loop.mark};
  qn_lblock *body = &loop->u.loop.body, out = {0};
  bool fits = begin(&k, loop);
  if (b->failed) return NULL;
  if (!fits || !can_sink(&k, body)) {
    loop->u.loop.mark = QN_LM_SERIAL;
    return loop;
  }
  sink_block(&k, body, &out);
  if (b->failed) return NULL;
  qn_lstmt *next = out.first ? out.first : loop->next;
  qn_lblock_splice(&out, block, loop);
  qn_lblock_remove(block, loop);
  return next;
}

// ---- carrying ---------------------------------------------------------------------------------------------------
//
// The same loop carried no further than into the reductions over blocks, where it goes around all that varies together:
// for v { a; for kb { w; b } } becomes for v { a } for kb { w; for v { b } }, with w what all iterations share.

static bool shares_all(const sinker *k, const qn_lstmt *s) {
  if (s->kind != QN_LS_FOR) return is_shared(k, s);
  if (varies(k, s->u.loop.lo) || varies(k, s->u.loop.hi)) return false;
  for (const qn_lstmt *inner = s->u.loop.body.first; inner; inner = inner->next) {
    if (!shares_all(k, inner)) return false;
  }
  return true;
}

// A reduction over blocks, of whose body a part is shared.
static bool is_entered(const sinker *k, const qn_lstmt *s) {
  if (s->kind != QN_LS_FOR || s->u.loop.order != QN_LO_REDUCE || qn_loop_is(s, "g")) return false;
  return !shares_all(k, s) && !varies(k, s->u.loop.lo) && !varies(k, s->u.loop.hi);
}

static bool touches(const qn_lexpr *e, const void *buf) { return e->op == QN_LX_LOAD && e->u.load.buf == buf; }

static bool stores_to(const qn_lstmt *s, const qn_lbuf *buf) {
  if (s->kind == QN_LS_STORE) return s->u.store.buf == buf;
  if (s->kind != QN_LS_FOR) return false;
  for (const qn_lstmt *inner = s->u.loop.body.first; inner; inner = inner->next) {
    if (stores_to(inner, buf)) return true;
  }
  return false;
}

static bool stores_to_param(const qn_lstmt *s) {
  if (s->kind == QN_LS_STORE) return s->u.store.buf->kind == QN_LB_PARAM;
  if (s->kind != QN_LS_FOR) return false;
  for (const qn_lstmt *inner = s->u.loop.body.first; inner; inner = inner->next) {
    if (stores_to_param(inner)) return true;
  }
  return false;
}

// Does some store of the shared statement meet what the other one, which comes before it, loads or stores? Then it
// cannot go in front. A store to a parameter meets every load.
static bool meets(const qn_lstmt *shared, const qn_lstmt *before) {
  if (stores_to_param(before)) return true;
  if (shared->kind == QN_LS_STORE) {
    return stores_to(before, shared->u.store.buf) || qn_lstmt_any(before, touches, shared->u.store.buf);
  }
  if (shared->kind != QN_LS_FOR) return false;
  for (const qn_lstmt *inner = shared->u.loop.body.first; inner; inner = inner->next) {
    if (meets(inner, before)) return true;
  }
  return false;
}

// Does the loop, which each iteration goes through as a whole, store what all share to a local from outside of it? Then
// a sum would be added to again, from where the iteration before left it, and what reads it may have gone in front.
static bool shares_some(const sinker *k, const qn_lstmt *loop, const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR && shares_some(k, loop, &s->u.loop.body)) return true;
    if (s->kind != QN_LS_STORE || !is_shared(k, s)) continue;
    if (!qn_loop_declares(&loop->u.loop.body, s->u.store.buf)) return true;
  }
  return false;
}

static bool can_carry(const sinker *k, const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    bool entered = is_entered(k, s), whole = s->kind == QN_LS_FOR && !entered && !shares_all(k, s);
    if (entered && !can_carry(k, &s->u.loop.body)) return false;
    if (whole && shares_some(k, s, &s->u.loop.body)) return false;
    for (const qn_lstmt *before = block->first; shares_all(k, s) && before != s; before = before->next) {
      if (!shares_all(k, before) && meets(s, before)) return false;
    }
  }
  return true;
}

// Whether the local is of use beyond the statements that it stands with.
static bool is_cut_off(const sinker *k, const qn_lstmt *local) {
  for (const qn_lstmt *s = local->next; s; s = s->next) {
    if (is_entered(k, s)) return true;
  }
  return false;
}

static void close_group(const sinker *k, qn_lblock *group, qn_lblock *to) {
  if (!group->first || k->b->failed) return;
  qn_lvar *var = qn_lvar_new(k->b, k->var->name);
  qn_lstmt *loop = qn_lfor(k->b, to, var, qn_lint(k->b, 0), qn_lint(k->b, k->extent), QN_LO_DATA);
  if (k->b->failed) return;
  loop->u.loop.body = *group;
  qn_lblock_replace(k->b, &loop->u.loop.body, k->var, qn_lref(k->b, var));
  *group = (qn_lblock){0};
}

static void carry_block(const sinker *k, qn_lblock *from, qn_lblock *to) {
  qn_lblock group = {0};
  while (from->first && !k->b->failed) {
    qn_lstmt *stmt = from->first;
    bool cut_off = stmt->kind == QN_LS_LOCAL && is_cut_off(k, stmt);
    qn_lblock_remove(from, stmt);
    if (shares_all(k, stmt)) {
      qn_lblock_append(to, stmt);
    } else if (cut_off) {
      grow_local(k, stmt->u.local.buf, from);
      qn_lblock_append(to, stmt);
    } else if (is_entered(k, stmt)) {
      close_group(k, &group, to);
      qn_lblock inner = {0};
      carry_block(k, &stmt->u.loop.body, &inner);
      stmt->u.loop.body = inner;
      qn_lblock_append(to, stmt);
    } else {
      qn_lblock_append(&group, stmt);
    }
  }
  close_group(k, &group, to);
}

qn_lstmt *qn_loop_carry(qn_lbuild *b, qn_lblock *block, qn_lstmt *loop) {
  sinker k = {.b = b, .var = loop->u.loop.var, .mark = QN_LM_SERIAL};
  qn_lblock *body = &loop->u.loop.body, out = {0};
  if (!begin(&k, loop) || !locals_can_grow(&k, body) || !can_carry(&k, body)) return b->failed ? NULL : loop->next;
  carry_block(&k, body, &out);
  if (b->failed) return NULL;
  qn_lstmt *next = loop->next;
  qn_lblock_splice(&out, block, loop);
  qn_lblock_remove(block, loop);
  return next;
}
