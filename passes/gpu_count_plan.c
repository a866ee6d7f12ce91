// Counting for GPUs: what each statement does, once a kernel. As the compiler that comes after us will have it: equal
// expressions of a block are computed once, and what does not change in a loop is computed before it. Loads are, unless
// something in between may have stored to what they read.
#include <string.h>

#include "ir/math.h"
#include "passes/gpu_count_internal.h"
#include "passes/loop_util.h"

// Instructions that an operator becomes; of exp and the like the sum over their programs. Read off machine code for
// sm_90: IEEE divisions and roots, minima that treat NaN as C does, table lookups of three byte permutations.
static const float COST[QN_LX_COUNT] = {
    [QN_LX_ADD] = 1,   [QN_LX_SUB] = 1,   [QN_LX_MUL] = 1,    [QN_LX_DIV] = 9,    [QN_LX_MOD] = 9,    [QN_LX_MIN] = 2,
    [QN_LX_MAX] = 2,   [QN_LX_NEG] = 1,   [QN_LX_ABS] = 1,    [QN_LX_SQRT] = 8,   [QN_LX_ROUND] = 1,  [QN_LX_FMA] = 1,
    [QN_LX_AND] = 1,   [QN_LX_OR] = 1,    [QN_LX_XOR] = 1,    [QN_LX_SHL] = 1,    [QN_LX_SHR] = 1,    [QN_LX_LT] = 1,
    [QN_LX_LE] = 1,    [QN_LX_EQ] = 1,    [QN_LX_SELECT] = 1, [QN_LX_TO_F32] = 1, [QN_LX_TO_I32] = 1, [QN_LX_DOT4] = 1,
    [QN_LX_LUT16] = 6, [QN_LX_DOT4S] = 1, [QN_LX_DOT2] = 2,   [QN_LX_FOLD2] = 2,  [QN_LX_UNBIAS] = 1,
};

// Something that has been computed, at a level: in so many of the loops around.
typedef struct known {
  const qn_lexpr *e;
  const qn_lbuf *address;  // the expression as a place in this buffer; NULL = its value
  uint64_t hash;
  int level;
} known;

typedef struct scope {
  const qn_lstmt *loop;
  bool certain;   // it goes round at least once
  bool clobbers;  // stores to parameters, or lets other lanes do
  QN_VEC(known) known;
} scope;

typedef struct planner {
  qn_count_state *s;
  scope scopes[QN_COUNT_DEPTH + 1];  // [0] is outside of all loops
  int depth, floor;                  // floor: 1 where the outermost loop is the parallel one, else 0
  qn_count_profile *profile;         // of the present statement
} planner;

// ---- what is known ----------------------------------------------------------------------------------------------

static uint64_t hash_of(const qn_lexpr *e) {
  uint64_t h = (uint64_t)e->op * 0x9e3779b97f4a7c15u + (uint64_t)e->type.lanes;
  if (e->op == QN_LX_INT) h ^= (uint64_t)e->u.int_value * 31;
  if (e->op == QN_LX_VAR) h ^= (uint64_t)(uintptr_t)e->u.var;
  if (e->op == QN_LX_LOAD) h ^= (uint64_t)(uintptr_t)e->u.load.buf;
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++)
    h = (h ^ hash_of(e->operands[i])) * 0x100000001b3u;
  return h;
}

static const known *find_known(const planner *p, const qn_lexpr *e, const qn_lbuf *address, uint64_t hash) {
  for (int i = p->depth; i >= 0; i--) {
    for (size_t j = 0; j < p->scopes[i].known.count; j++) {
      const known *k = &p->scopes[i].known.items[j];
      if (k->hash == hash && k->address == address && qn_lexpr_equal(k->e, e)) return k;
    }
  }
  return NULL;
}

static void add_known(planner *p, known k) {
  if (!qn_vec_push_arena(p->s->arena, &p->scopes[k.level].known, k)) p->s->failed = true;
}

static bool is_free(const qn_lbuf *buf) { return buf->kind == QN_LB_PARAM && buf->streamed && !buf->writable; }

// A load that a store to parameters, or another lane, may have changed.
static bool may_be_stale(const qn_lexpr *e, const void *context) {
  (void)context;
  if (e->op != QN_LX_LOAD || is_free(e->u.load.buf)) return false;
  return e->u.load.buf->kind == QN_LB_PARAM || e->u.load.buf->shared;
}

static bool loads_from(const qn_lexpr *e, const void *context) {
  return e->op == QN_LX_LOAD && e->u.load.buf == context;
}

// Forgets what holds for the test.
static void forget(planner *p, qn_lexpr_test test, const void *context) {
  for (int i = 0; i <= p->depth; i++) {
    scope *s = &p->scopes[i];
    size_t kept = 0;
    for (size_t j = 0; j < s->known.count; j++)
      if (!qn_lexpr_any(s->known.items[j].e, test, context)) s->known.items[kept++] = s->known.items[j];
    s->known.count = kept;
  }
}

// ---- loops ------------------------------------------------------------------------------------------------------

// Statements that the compiler moves no access to memory across.
static bool hides_stores(const qn_lstmt *s) {
  return s->kind == QN_LS_BARRIER || s->kind == QN_LS_COPY || s->kind == QN_LS_COMMIT || s->kind == QN_LS_WAIT;
}

static bool clobbers(const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (hides_stores(s) || (s->kind == QN_LS_STORE && s->u.store.buf->kind == QN_LB_PARAM)) return true;
    if (s->kind == QN_LS_FOR && clobbers(&s->u.loop.body)) return true;
  }
  return false;
}

static void forget_stored(planner *p, const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR) forget_stored(p, &s->u.loop.body);
    if (s->kind == QN_LS_STORE && s->u.store.buf->kind == QN_LB_LOCAL) forget(p, loads_from, s->u.store.buf);
    if (s->kind == QN_LS_MMA) forget(p, loads_from, s->u.mma.bufs[QN_MMA_OF_C]);
  }
}

static int level_of_variable(const planner *p, const qn_lvar *var) {
  for (int i = p->depth; i > 0; i--)
    if (p->scopes[i].loop->u.loop.var == var) return i;
  return 0;
}

// The outermost level at which a load from a parameter may stand whose place is known at `level`.
static int load_level(const planner *p, const qn_lbuf *buf, int level) {
  for (int i = p->depth; i > level && !is_free(buf); i--)
    if (p->scopes[i].clobbers) level = i;
  for (int i = p->depth; i > level + 1; i--)
    if (!p->scopes[i].certain) level = i - 1;  // in front of a loop that may not begin, but not further out
  return level;
}

// ---- expressions ------------------------------------------------------------------------------------------------

static qn_count_work *work_at(planner *p, int level) {
  int up = p->depth - level;
  return &p->profile->work[up < QN_COUNT_UPS ? up : QN_COUNT_UPS - 1];
}

static void add_work(planner *p, int level, float instructions, bool fp32) {
  qn_count_work *w = work_at(p, level);
  w->instructions += instructions;
  *(fp32 ? &w->fp32 : &w->i32) += instructions;
}

static int load_depth(const qn_lexpr *e) {
  int deepest = 0;
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) {
    int depth = load_depth(e->operands[i]);
    if (depth > deepest) deepest = depth;
  }
  return deepest + (e->op == QN_LX_LOAD && e->u.load.buf->kind == QN_LB_PARAM);
}

static int visit(planner *p, const qn_lexpr *e);

// A place in memory: what is added to it as a number is part of the instruction.
static int visit_place(planner *p, const qn_lbuf *buf, const qn_lexpr *index) {
  int64_t number = 0;
  const qn_lexpr *base = index;
  if (index->op == QN_LX_ADD && qn_lexpr_is_int(index->operands[1], &number)) base = index->operands[0];
  int level = visit(p, base);
  uint64_t hash = hash_of(base);
  if (find_known(p, base, buf, hash)) return level;
  add_work(p, level, 1, false);
  add_known(p, (known){base, buf, hash, level});
  return level;
}

static void add_request(planner *p, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index, int lanes, bool store,
                        int level) {
  int up = p->depth - level;
  qn_count_request r = {.buf = buf,
                        .index = index,
                        .bytes = (int)qn_lmem_size(mem),
                        .lanes = lanes,
                        .rounds = 1 + load_depth(index),
                        .up = up < QN_COUNT_UPS ? up : QN_COUNT_UPS - 1,
                        .store = store};
  work_at(p, level)->instructions += 1;
  if (!qn_vec_push_arena(p->s->arena, &p->profile->requests, r)) p->s->failed = true;
}

static bool in_register(const qn_lbuf *buf) { return buf->kind == QN_LB_LOCAL && !buf->shared; }

static int visit_load(planner *p, const qn_lexpr *e) {
  const qn_lbuf *buf = e->u.load.buf;
  if (in_register(buf)) return p->depth;
  int level = visit_place(p, buf, e->operands[0]);
  level = buf->kind == QN_LB_PARAM ? load_level(p, buf, level) : p->depth;
  if (qn_lmem_size(e->u.load.mem) < sizeof(int32_t)) add_work(p, level, 1, false);  // widened
  if (buf->kind == QN_LB_PARAM) {
    add_request(p, buf, e->u.load.mem, e->operands[0], e->type.lanes, false, level);
  } else {
    work_at(p, level)->instructions += 1;
    work_at(p, level)->shared += 1;
  }
  return level;
}

static bool is_power_of_two(const qn_lexpr *e) {
  int64_t value = 0;
  return qn_lexpr_is_int(e, &value) && value > 0 && (value & (value - 1)) == 0;
}

// Of index arithmetic a product and a sum are one instruction together.
static float index_cost(const qn_lexpr *e) {
  switch (e->op) {
    case QN_LX_ADD:
    case QN_LX_SUB:
    case QN_LX_MUL: return 0.5f;
    case QN_LX_DIV:
    case QN_LX_MOD: return is_power_of_two(e->operands[1]) ? 1 : e->operands[1]->op == QN_LX_INT ? 4 : 20;
    case QN_LX_MIN:
    case QN_LX_MAX:
    case QN_LX_SELECT: return 1;
    default: return 0;
  }
}

static void add_operator(planner *p, const qn_lexpr *e, int level) {
  const qn_math_fn *fn = qn_math_fn_of(e->op);
  float lanes = (float)e->type.lanes;
  bool fp32 = e->type.kind == QN_LK_F32;
  for (size_t i = 0; fn && i < fn->count; i++) add_work(p, level, COST[fn->code[i].op] * lanes, true);
  if (!fn) add_work(p, level, (e->type.kind == QN_LK_INDEX ? index_cost(e) : COST[e->op]) * lanes, fp32);
}

// Adds what the expression takes that is not known yet; the level at which its value is.
static int visit(planner *p, const qn_lexpr *e) {
  if (e->op == QN_LX_VAR) return level_of_variable(p, e->u.var);
  if (qn_lop_info_of(e->op)->operands == 0) return p->floor;
  uint64_t hash = hash_of(e);
  const known *k = find_known(p, e, NULL, hash);
  if (k) return k->level;
  int level = p->floor;
  if (e->op == QN_LX_LOAD) {
    level = visit_load(p, e);
  } else {
    for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) {
      int operand = visit(p, e->operands[i]);
      if (operand > level) level = operand;
    }
    add_operator(p, e, level);
  }
  add_known(p, (known){e, NULL, hash, level});
  return level;
}

// ---- statements -------------------------------------------------------------------------------------------------

static qn_count_profile *new_profile(planner *p, const qn_lstmt *stmt) {
  qn_count_profile *profile = QN_ARENA_NEW(p->s->arena, qn_count_profile);
  const qn_lstmt **key = QN_ARENA_NEW(p->s->arena, const qn_lstmt *);
  if (key) *key = stmt;
  if (!profile || !key ||
      !qn_map_put(&p->s->profiles, (qn_str){(const char *)key, sizeof *key}, (uint64_t)(uintptr_t)profile))
    p->s->failed = true;
  return p->s->failed ? NULL : profile;
}

qn_count_profile *qn_count_profile_of(const qn_count_state *s, const qn_lstmt *stmt) {
  uint64_t found = 0;
  bool there = qn_map_get(&s->profiles, (qn_str){(const char *)&stmt, sizeof stmt}, &found);
  return there ? (qn_count_profile *)(uintptr_t)found : NULL;
}

static void plan_store(planner *p, const qn_lstmt *stmt) {
  const qn_lbuf *buf = stmt->u.store.buf;
  visit(p, stmt->u.store.value);
  if (!in_register(buf)) visit_place(p, buf, stmt->u.store.index);
  if (buf->kind == QN_LB_PARAM) {
    add_request(p, buf, stmt->u.store.mem, stmt->u.store.index, stmt->u.store.lanes, true, p->depth);
    forget(p, may_be_stale, NULL);
    return;
  }
  if (buf->shared) {
    work_at(p, p->depth)->instructions += 1;
    work_at(p, p->depth)->shared += 1;
  }
  forget(p, loads_from, buf);
}

static void plan_block(planner *p, const qn_lblock *block);

static void plan_loop(planner *p, const qn_lstmt *stmt) {
  int64_t lo = 0, hi = 0;
  const qn_lblock *body = &stmt->u.loop.body;
  visit(p, stmt->u.loop.lo);
  visit(p, stmt->u.loop.hi);
  if (p->depth == QN_COUNT_DEPTH || p->s->failed) return;
  bool parallel = stmt->u.loop.mark == QN_LM_PARALLEL;
  scope inner = {.loop = stmt,
                 .certain = qn_loop_const_bounds(stmt, &lo, &hi) && hi > lo,
                 .clobbers = !parallel && clobbers(body)};
  if (inner.clobbers) forget(p, may_be_stale, NULL);
  forget_stored(p, body);
  p->scopes[++p->depth] = inner;
  if (parallel) p->floor = 1;
  plan_block(p, body);
  p->depth--;
}

static void plan_copy(planner *p, const qn_lstmt *stmt) {
  visit_place(p, stmt->u.copy.to, stmt->u.copy.to_index);
  visit_place(p, stmt->u.copy.from, stmt->u.copy.from_index);
  add_request(p, stmt->u.copy.from, stmt->u.copy.mem, stmt->u.copy.from_index, stmt->u.copy.lanes, false, p->depth);
  if (!p->s->failed) p->profile->requests.items[p->profile->requests.count - 1].copy = true;
  work_at(p, p->depth)->shared += 1;
}

static void plan_statement(planner *p, const qn_lstmt *stmt) {
  switch (stmt->kind) {
    case QN_LS_FOR: plan_loop(p, stmt); break;
    case QN_LS_STORE: plan_store(p, stmt); break;
    case QN_LS_COPY: plan_copy(p, stmt); break;
    case QN_LS_MMA:
      work_at(p, p->depth)->instructions += 1;
      forget(p, loads_from, stmt->u.mma.bufs[QN_MMA_OF_C]);
      break;
    case QN_LS_PREFETCH:
    case QN_LS_BARRIER:
    case QN_LS_COMMIT:
    case QN_LS_WAIT: work_at(p, p->depth)->instructions += 1; break;
    case QN_LS_LOCAL: break;
  }
}

static void plan_block(planner *p, const qn_lblock *block) {
  for (const qn_lstmt *stmt = block->first; stmt && !p->s->failed; stmt = stmt->next) {
    if (hides_stores(stmt)) forget(p, may_be_stale, NULL);
    p->profile = new_profile(p, stmt);
    if (p->profile) plan_statement(p, stmt);
  }
}

void qn_count_plan(qn_count_state *s) {
  planner p = {.s = s};
  plan_block(&p, &s->kernel->body);
}
