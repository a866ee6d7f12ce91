// Which part of a buffer an iteration of a kernel's outermost loop touches: what tells whether one kernel's iterations
// need no more of another's result than the iterations at their side made.
#include "ir/loop.h"

typedef struct search {
  qn_lbuild *b;        // makes the expressions that are looked at
  const qn_lvar *var;  // of the outermost loop
  int64_t trips;       // its iterations
  const qn_lbuf *buf;  // the parameter
  int64_t bytes;       // the span found so far; 0 = none yet
  bool apart;          // no access seen so far leaves its iteration's part
} search;

// The range of an expression, terms left out that are multiples of `span`.
static qn_lrange range_within(const qn_lexpr *e, int64_t span) {
  const qn_lrange nothing = {0, 0};
  int64_t factor = 0;
  if (e->op == QN_LX_ADD || e->op == QN_LX_SUB) {
    qn_lrange x = range_within(e->operands[0], span), y = range_within(e->operands[1], span), sum;
    int64_t low = e->op == QN_LX_ADD ? y.min : y.max, high = e->op == QN_LX_ADD ? y.max : y.min;
    bool add = e->op == QN_LX_ADD;
    bool fits = add ? !__builtin_add_overflow(x.min, low, &sum.min) && !__builtin_add_overflow(x.max, high, &sum.max)
                    : !__builtin_sub_overflow(x.min, low, &sum.min) && !__builtin_sub_overflow(x.max, high, &sum.max);
    return fits ? sum : (qn_lrange){INT64_MIN, INT64_MAX};
  }
  for (int i = 0; e->op == QN_LX_MUL && i < 2; i++) {
    if (qn_lexpr_is_int(e->operands[i], &factor) && factor % span == 0) return nothing;
  }
  return qn_lexpr_range(e);
}

// An access to `lanes` elements from `index` on; with a vector of indices, to one at each.
static void look_at(search *s, qn_lmem mem, const qn_lexpr *index, int lanes) {
  const qn_lexpr *rest = NULL;
  int64_t step = 0, span = 0, bytes = 0;
  s->apart = s->apart && qn_lexpr_linear(s->b, index, s->var, &step, &rest) && step > 0 &&
             !__builtin_mul_overflow(step, s->trips, &span) &&
             !__builtin_mul_overflow(span, (int64_t)qn_lmem_size(mem), &bytes);
  if (!s->apart) return;
  qn_lrange range = range_within(rest, span);
  bool same = s->bytes == 0 || s->bytes == bytes;
  s->apart = same && range.min >= 0 && range.max < step && range.max + (index->type.lanes > 1 ? 1 : lanes) <= step;
  s->bytes = bytes;
}

static void look_through(search *s, const qn_lexpr *e) {
  if (e->op == QN_LX_LOAD && e->u.load.buf == s->buf) look_at(s, e->u.load.mem, e->operands[0], e->type.lanes);
  for (size_t i = 0; s->apart && i < QN_COUNT(e->operands) && e->operands[i]; i++) look_through(s, e->operands[i]);
}

static void look_in(search *s, const qn_lblock *block) {
  for (const qn_lstmt *stmt = block->first; stmt && s->apart; stmt = stmt->next) {
    if (stmt->kind == QN_LS_FOR) {
      look_through(s, stmt->u.loop.lo);
      look_through(s, stmt->u.loop.hi);
      look_in(s, &stmt->u.loop.body);
    } else if (stmt->kind == QN_LS_STORE) {
      look_through(s, stmt->u.store.index);
      look_through(s, stmt->u.store.value);
      if (stmt->u.store.buf == s->buf) look_at(s, stmt->u.store.mem, stmt->u.store.index, stmt->u.store.lanes);
    } else if (stmt->kind == QN_LS_COPY && stmt->u.copy.from == s->buf) {
      look_at(s, stmt->u.copy.mem, stmt->u.copy.from_index, stmt->u.copy.lanes);
    }
  }
}

qn_status qn_lkernel_span(const qn_lkernel *kernel, size_t param, qn_arena *arena, int64_t *out_bytes, qn_diag *diag) {
  const qn_lstmt *loop = kernel->body.first;
  int64_t lo = 0, hi = 0;
  *out_bytes = 0;
  bool counted = loop && !loop->next && loop->kind == QN_LS_FOR && loop->u.loop.order == QN_LO_DATA &&
                 qn_lexpr_is_int(loop->u.loop.lo, &lo) && qn_lexpr_is_int(loop->u.loop.hi, &hi) && lo == 0 && hi > 1;
  if (!counted) return QN_OK;
  qn_lbuild build;
  qn_lbuild_init(&build, arena, "span");
  search s = {.b = &build, .var = loop->u.loop.var, .trips = hi, .buf = kernel->params[param], .apart = true};
  look_in(&s, &loop->u.loop.body);
  if (build.failed) return qn_fail_nomem(diag, kernel->name, "the parts of a buffer");
  if (s.apart) *out_bytes = s.bytes;
  return QN_OK;
}
