// Holding: puts what the products of a block are made of, as far as it is made of weights alone, into locals. A tile of
// tokens has unpacked codes in registers; tiles that take turns at a block would each unpack it anew. So a loop in
// front of the one that adds to an integer sum fills a local with the codes, which carrying (loop_sink.c) leaves outside
// of the loop over the tiles. Factors that are converted on the way are held as well.
#include "passes/loop_util.h"

enum { MAX_DEPTH = 4 };  // of loops over lines in each other

typedef struct holder {
  qn_lbuild *b;
  int dots;
  const qn_lstmt *loops[MAX_DEPTH];  // over lines, from the outermost to the one being looked at
  int depth;
  qn_lblock *block;  // that the outermost of them, or a statement with factors, stands in
  qn_lstmt *before;
} holder;

// Loads from streamed parameters are those of weights.
static bool is_other_load(const qn_lexpr *e, const void *context) {
  (void)context;
  return e->op == QN_LX_LOAD && !e->u.load.buf->streamed;
}

// Where the weights are found may be for whatever to say: which expert's they are.
static bool is_of_weights(const qn_lexpr *e) {
  if (e->type.kind == QN_LK_INDEX) return !qn_lexpr_any(e, is_other_load, NULL);
  if (e->op == QN_LX_LOAD) return e->u.load.buf->streamed;
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) {
    if (!is_of_weights(e->operands[i])) return false;
  }
  return true;
}

static bool is_input(const qn_lexpr *e, const void *context) {
  (void)context;
  return e->op == QN_LX_LOAD && !e->u.load.buf->streamed && e->u.load.buf->kind == QN_LB_PARAM;
}

static bool loads_streamed(const qn_lexpr *e, const void *context) {
  (void)context;
  return e->op == QN_LX_LOAD && e->u.load.buf->streamed;
}

// What takes more than a load.
static bool takes_work(const qn_lexpr *e) {
  bool plain = e->op == QN_LX_LOAD && (e->u.load.mem == QN_LM_I32 || e->u.load.mem == QN_LM_F32);
  return !plain && qn_lexpr_any(e, loads_streamed, NULL) && is_of_weights(e);
}

// ---- codes ------------------------------------------------------------------------------------------------------

// The loops around a value, once more, with a store of it in them: local[its place] = value. The index there.
static void fill(holder *h, const qn_lbuf *local, const qn_lexpr *value) {
  qn_lbuild *b = h->b;
  qn_lblock out = {0}, *into = &out;
  const qn_lexpr *at = qn_lint(b, 0);
  for (int i = 0; i < h->depth; i++) {
    const qn_lstmt *loop = h->loops[i];
    qn_lvar *var = qn_lvar_new(b, loop->u.loop.var->name);
    qn_lstmt *copy = qn_lfor(b, into, var, loop->u.loop.lo, loop->u.loop.hi, QN_LO_REDUCE);
    copy->u.loop.mark = loop->u.loop.mark;
    value = qn_lexpr_replace(b, value, loop->u.loop.var, qn_lref(b, var));
    at = qn_lop2(b, QN_LX_ADD, qn_lop2(b, QN_LX_MUL, at, loop->u.loop.hi), qn_lref(b, var));
    into = &copy->u.loop.body;
  }
  qn_lstore(b, into, local, local->mem, at, value);
  if (!b->failed) qn_lblock_splice(&out, h->block, h->before);
}

// A local of the value in every iteration of the loops; what loads it instead.
static const qn_lexpr *held(holder *h, const char *name, const qn_lexpr *value) {
  qn_lbuild *b = h->b;
  qn_lblock out = {0};
  int64_t elements = 1, lo = 0, trips = 0;
  const qn_lexpr *at = qn_lint(b, 0);
  for (int i = 0; i < h->depth; i++) {
    const qn_lstmt *loop = h->loops[i];
    if (!qn_loop_const_bounds(loop, &lo, &trips)) return value;
    elements *= trips;
    at = qn_lop2(b, QN_LX_ADD, qn_lop2(b, QN_LX_MUL, at, loop->u.loop.hi), qn_lref(b, loop->u.loop.var));
  }
  qn_lmem mem = value->type.kind == QN_LK_F32 ? QN_LM_F32 : QN_LM_I32;
  qn_lbuf *local = qn_llocal(b, &out, name, mem, elements);
  if (b->failed) return value;
  qn_lblock_splice(&out, h->block, h->before);
  fill(h, local, value);
  return b->failed ? value : qn_lload(b, local, mem, at, 1);
}

static bool is_dot(qn_lop op) { return op == QN_LX_DOT4 || op == QN_LX_DOT4S || op == QN_LX_DOT2; }

// Codes that are loaded are any bytes for all that can be seen of them. So where it matters that they are small, they
// become signed ones, which is the same, or stay where they are.
static void hold_codes(holder *h, qn_lstmt *s) {
  enum { SIGNED_MAX = 127 };
  qn_lexpr dot = *s->u.store.value;
  bool small = dot.op == QN_LX_DOT4 && qn_lexpr_byte_max(dot.operands[1]) <= SIGNED_MAX;
  if (!takes_work(dot.operands[1]) || (small && h->dots == 2)) return;
  if (small && h->dots == 1) dot.op = QN_LX_DOT4S;
  dot.operands[1] = held(h, "codes", dot.operands[1]);
  s->u.store.value = qn_lexpr_simplify(h->b, &dot);
}

// ---- factors ----------------------------------------------------------------------------------------------------

static const qn_lexpr *hold_factors(holder *h, const qn_lexpr *e) {
  if (h->b->failed) return e;
  if (takes_work(e)) return held(h, "factor", e);
  if (e->op == QN_LX_LOAD) return e;
  qn_lexpr node = *e;
  bool changed = false;
  for (size_t i = 0; i < QN_COUNT(node.operands) && node.operands[i]; i++) {
    node.operands[i] = hold_factors(h, e->operands[i]);
    changed = changed || node.operands[i] != e->operands[i];
  }
  return changed ? qn_lexpr_simplify(h->b, &node) : e;
}

// ---- blocks -----------------------------------------------------------------------------------------------------

static bool is_lines(const qn_lstmt *s) {
  int64_t lo = 0, hi = 0;
  return qn_loop_is(s, "g") && s->u.loop.order == QN_LO_REDUCE && qn_loop_const_bounds(s, &lo, &hi) && lo == 0 && hi > 0;
}

static void hold_lines(holder *h, qn_lstmt *loop) {
  if (h->depth == MAX_DEPTH) return;
  h->loops[h->depth++] = loop;
  for (qn_lstmt *s = loop->u.loop.body.first; s && !h->b->failed; s = s->next) {
    if (is_lines(s)) hold_lines(h, s);
    if (s->kind == QN_LS_STORE && is_dot(s->u.store.value->op)) hold_codes(h, s);
  }
  h->depth--;
}

// What uses no activations is in a local already, or on its way to one.
static void hold_block(holder *h, qn_lblock *block, bool in_reduction) {
  for (qn_lstmt *s = block->first; s && !h->b->failed; s = s->next) {
    h->block = block;
    h->before = s;
    if (s->kind == QN_LS_FOR && is_lines(s) && in_reduction) {
      hold_lines(h, s);
    } else if (s->kind == QN_LS_FOR) {
      hold_block(h, &s->u.loop.body, in_reduction || s->u.loop.order == QN_LO_REDUCE);
    } else if (s->kind == QN_LS_STORE && in_reduction && !is_dot(s->u.store.value->op) &&
               qn_lexpr_any(s->u.store.value, is_input, NULL)) {
      s->u.store.value = hold_factors(h, s->u.store.value);
    }
  }
}

void qn_loop_hold(qn_lbuild *b, const qn_schedule *schedule, qn_lblock *block) {
  holder h = {.b = b, .dots = schedule->dots};
  hold_block(&h, block, false);
}
