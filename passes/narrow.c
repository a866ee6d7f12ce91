// narrow: dot products over unsigned codes become what a target without such an instruction does in fewer steps.
//
// requires: a kernel as lowering made it: an integer sum is a local of one element to which loops of constant extent
// add by dot4, or statements beside it (a group whose words share a line), and which starts with `unbias` where the codes
// have an offset.
// keeps: every sum, exactly.
// breaks: nothing. With dots = 1 codes of a whole byte lose their offset and are signed (dot4s). With dots = 2, codes
// so small that some products add up in 16 bits do so (dot2) before they are folded into the sum; others are as with 1.
#include "ir/format.h"
#include "passes/loop_util.h"

enum {
  TOP_BITS = (int32_t)0x80808080,
  TOP_BIT = 128,
};

// ---- chains of dot4 ---------------------------------------------------------------------------------------------

static bool adds_to(const qn_lstmt *s, const qn_lbuf *sum) {
  if (s->kind != QN_LS_STORE || s->u.store.buf != sum || s->u.store.value->op != QN_LX_DOT4) return false;
  const qn_lexpr *before = s->u.store.value->operands[0];
  return before->op == QN_LX_LOAD && before->u.load.buf == sum;
}

// A loop that adds to the sum: how often, how many dot4 an iteration, and the largest byte of their codes.
typedef struct adding {
  int64_t trips, byte_max;
  int count;
} adding;

static bool is_adding(qn_lbuild *b, const qn_lstmt *loop, const qn_lbuf *sum, adding *out) {
  *out = (adding){0};
  int64_t lo = 0, hi = 0;
  if (loop->kind != QN_LS_FOR || !qn_loop_const_bounds(loop, &lo, &hi) || lo != 0 || hi < 1) return false;
  for (const qn_lstmt *s = loop->u.loop.body.first; s; s = s->next) {
    if (!adds_to(s, sum)) continue;
    int64_t most = qn_lexpr_byte_max(s->u.store.value->operands[1]);
    if (most > out->byte_max) out->byte_max = most;
    out->count++;
  }
  out->trips = hi;
  return !b->failed && out->count > 0;
}

// Puts operator `op` for dot4 in the loop's stores to `sum`, which go to `to`; the codes are xor-ed with `flip`.
static void replace_dots(qn_lbuild *b, qn_lblock *body, const qn_lbuf *sum, const qn_lbuf *to, qn_lop op,
                         int32_t flip) {
  for (qn_lstmt *s = body->first; s && !b->failed; s = s->next) {
    if (!adds_to(s, sum)) continue;
    const qn_lexpr *dot = s->u.store.value, *codes = dot->operands[1];
    if (flip) codes = qn_lop2(b, QN_LX_XOR, codes, qn_li32(b, flip));
    const qn_lexpr *before = qn_lload(b, to, QN_LM_I32, s->u.store.index, 1);
    s->u.store.value = qn_lop3(b, op, before, codes, dot->operands[2]);
    s->u.store.buf = to;
  }
}

// ---- sums of pairs ----------------------------------------------------------------------------------------------

// The iterations after which 16 bits must be folded: the largest divisor of their number that fits; 0 = none does.
static int64_t pair_trips(const adding *a) {
  int64_t fit = qn_pairs_that_fit(a->byte_max) / a->count;
  if (fit > a->trips) fit = a->trips;
  while (fit > 0 && a->trips % fit != 0) fit--;
  return fit;
}

static bool may_change(const qn_lexpr *e, const void *unused) {
  (void)unused;
  return e->op == QN_LX_LOAD && (e->u.load.buf->kind != QN_LB_PARAM || e->u.load.buf->writable);
}

// The store that starts the sum, in front of the loop, where it may as well come after it: until then nobody wants the
// value, which would take a register of each token and panel.
static qn_lstmt *late_start(qn_lstmt *local, const qn_lstmt *loop) {
  qn_lstmt *start = NULL;
  for (qn_lstmt *s = local->next; s != loop; s = s->next) {
    if (s->kind != QN_LS_STORE || start) return NULL;
    if (s->u.store.buf == local->u.local.buf) start = s;
  }
  bool fixed = start && !qn_lexpr_any(start->u.store.value, may_change, NULL);
  return fixed ? start : NULL;
}

// In the loop's place: for each run of `trips` iterations a local that starts at 0, the run, and the folding. Of a
// single run `start` may be what starts the sum, which then does so with what was folded.
static void sum_pairs(qn_lbuild *b, qn_lblock *block, qn_lstmt *loop, const qn_lbuf *sum, int64_t all, int64_t trips,
                      qn_lstmt *start) {
  const qn_lexpr *zero = qn_lint(b, 0);
  qn_lblock out = {0}, *into = &out;
  if (trips < all) {
    qn_lvar *run = qn_lvar_new(b, loop->u.loop.var->name), *within = qn_lvar_new(b, loop->u.loop.var->name);
    qn_lstmt *outer = qn_lfor(b, &out, run, zero, qn_lint(b, all / trips), loop->u.loop.order);
    const qn_lvar *old = loop->u.loop.var;
    into = &outer->u.loop.body;
    loop->u.loop.var = within;
    qn_lfor_set_bounds(loop, zero, qn_lint(b, trips));
    const qn_lexpr *first = qn_lop2(b, QN_LX_MUL, qn_lref(b, run), qn_lint(b, trips));
    qn_lblock_replace(b, &loop->u.loop.body, old, qn_lop2(b, QN_LX_ADD, first, qn_lref(b, within)));
  }
  qn_lbuf *pairs = qn_llocal(b, into, "pairs", QN_LM_I32, 1);
  qn_lstore(b, into, pairs, QN_LM_I32, zero, qn_li32(b, 0));
  if (b->failed) return;
  replace_dots(b, &loop->u.loop.body, sum, pairs, QN_LX_DOT2, 0);
  qn_lstmt *next = loop->next;
  qn_lblock_remove(block, loop);
  qn_lblock_append(into, loop);
  const qn_lexpr *folded = qn_lop1(b, QN_LX_FOLD2, qn_lload(b, pairs, QN_LM_I32, zero, 1));
  const qn_lexpr *before = start ? start->u.store.value : qn_lload(b, sum, QN_LM_I32, zero, 1);
  qn_lstore(b, into, sum, QN_LM_I32, zero, qn_lop2(b, QN_LX_ADD, before, folded));
  if (start) qn_lblock_remove(block, start);
  while (out.first && !b->failed) {
    qn_lstmt *s = out.first;
    qn_lblock_remove(&out, s);
    qn_lblock_insert_before(block, next, s);
  }
}

// ---- signed codes -----------------------------------------------------------------------------------------------

// The store that starts the sum with an offset of 128 a code; NULL when it starts otherwise.
static qn_lstmt *biased_start(qn_lstmt *local) {
  const qn_lbuf *sum = local->u.local.buf;
  int64_t offset = 0;
  for (qn_lstmt *s = local->next; s; s = s->next) {
    if (s->kind != QN_LS_STORE || s->u.store.buf != sum) continue;
    const qn_lexpr *value = s->u.store.value;
    bool biased = value->op == QN_LX_UNBIAS && qn_lexpr_is_int(value->operands[1], &offset) && offset == TOP_BIT;
    return biased ? s : NULL;
  }
  return NULL;
}

// All dot4 of the sum become dot4s: its start covers them together.
static void make_signed(qn_lbuild *b, qn_lstmt *local, qn_lstmt *start) {
  const qn_lbuf *sum = local->u.local.buf;
  adding a;
  start->u.store.value = qn_li32(b, 0);
  for (qn_lstmt *s = start->next; s && !b->failed; s = s->next) {
    if (is_adding(b, s, sum, &a)) replace_dots(b, &s->u.loop.body, sum, sum, QN_LX_DOT4S, TOP_BITS);
  }
}

// ---- the pass ---------------------------------------------------------------------------------------------------

// Puts products that stand in no loop into loops of one iteration: those that follow each other into one.
static void gather_dots(qn_lbuild *b, qn_lblock *block, qn_lstmt *local) {
  const qn_lbuf *sum = local->u.local.buf;
  for (qn_lstmt *s = local->next; s && !b->failed; s = s ? s->next : NULL) {
    if (!adds_to(s, sum)) continue;
    qn_lblock out = {0};
    qn_lstmt *loop = qn_lfor(b, &out, qn_lvar_new(b, "g"), qn_lint(b, 0), qn_lint(b, 1), QN_LO_REDUCE), *next = NULL;
    if (b->failed) return;
    qn_lblock_splice(&out, block, s);
    for (; s && adds_to(s, sum); s = next) {
      next = s->next;
      qn_lblock_remove(block, s);
      qn_lblock_append(&loop->u.loop.body, s);
    }
  }
}

static void narrow_sum(qn_loop_pass_context *context, qn_lblock *block, qn_lstmt *local) {
  qn_lbuild *b = context->build;
  const qn_lbuf *sum = local->u.local.buf;
  gather_dots(b, block, local);
  bool whole_bytes = false;
  adding a;
  for (qn_lstmt *s = local->next, *next; s && !b->failed; s = next) {
    next = s->next;
    if (!is_adding(b, s, sum, &a)) continue;
    int64_t trips = context->schedule->dots == 2 ? pair_trips(&a) : 0;
    if (trips * a.count > 1) sum_pairs(b, block, s, sum, a.trips, trips, trips == a.trips ? late_start(local, s) : NULL);
    whole_bytes = whole_bytes || a.byte_max >= TOP_BIT;
  }
  qn_lstmt *start = whole_bytes ? biased_start(local) : NULL;
  if (start && !b->failed) make_signed(b, local, start);
}

static void narrow_block(qn_loop_pass_context *context, qn_lblock *block) {
  for (qn_lstmt *s = block->first; s && !context->build->failed; s = s->next) {
    int64_t elements = 0;
    if (s->kind == QN_LS_FOR) narrow_block(context, &s->u.loop.body);
    if (s->kind != QN_LS_LOCAL || s->u.local.buf->mem != QN_LM_I32) continue;
    if (qn_lexpr_is_int(s->u.local.buf->elements, &elements) && elements == 1) narrow_sum(context, block, s);
  }
}

qn_status qn_pass_narrow(qn_loop_pass_context *context) {
  if (context->schedule->dots > 0) narrow_block(context, &context->build->kernel->body);
  return qn_loop_pass_end(context, "narrow");
}
