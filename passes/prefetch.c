// prefetch: asks for streamed weights prefetch_bytes ahead of where they are read, for the first or the second cache.
//
// requires: loops unrolled and vectorised, so that the loads of an iteration are its block's own statements.
// keeps: every result (a prefetch has none).
// breaks: nothing. In the body of each REDUCE loop there is one prefetch for each step of 64 bytes that an iteration
// reads of a streamed parameter, in front of the first statement that reads it. Loads at known distances share steps:
// the scales and lines of a weight block, the panels of a tile. What lies beyond the end of what the reduction walks is
// asked for where the next iteration of the loop around will walk: behind the tile's other panels. Prefetches that
// lowering wrote, of what lies at no fixed distance (pages of the cache), stay where the schedule prefetches at all, and
// go where it does not.
#include <stdlib.h>

#include "passes/loop_util.h"
#include "runtime/base/vec.h"

enum { LINE_BYTES = 64 };

// What one load of the body reads: `size` bytes from `offset`, counted from its group's first load.
typedef struct reading {
  const qn_lexpr *load;
  const qn_lexpr *index;  // scalar, in elements of the load's type
  qn_lstmt *stmt;         // the body's statement that it is in
  size_t group, order;
  int64_t offset, size;
} reading;

// Loads of one buffer at constant distances.
typedef struct group {
  const qn_lbuf *buf;
  const qn_lexpr *bytes;  // the first one's address
} group;

// An inner data loop that is part of an iteration as a whole.
typedef struct inner_range {
  const struct inner_range *outer;
  const qn_lvar *var;
  int64_t lo, trips;
} inner_range;

// The loops around a statement, inner ones first.
typedef struct around {
  const struct around *outer;
  const qn_lstmt *loop;
} around;

typedef struct prefetcher {
  qn_lbuild *b;
  int64_t distance;
  bool far;              // into the second cache
  const qn_lvar *var;    // of the REDUCE loop
  const around *around;  // that loop, and those around it
  QN_VEC(reading) readings;
  QN_VEC(group) groups;
} prefetcher;

// ---- collecting -------------------------------------------------------------------------------------------------

// Takes the variables of inner loops out of the reading's index and makes it as long as what they run over; false
// when they step over more than a line at a time.
static bool widen(qn_lbuild *b, reading *r, const inner_range *range) {
  int64_t element = (int64_t)qn_lmem_size(r->load->u.load.mem);
  for (; range; range = range->outer) {
    int64_t step = 0;
    const qn_lexpr *rest = NULL;
    if (!qn_lexpr_uses(r->index, range->var)) continue;
    if (!qn_lexpr_linear(b, r->index, range->var, &step, &rest)) return false;
    if (step < 0 || step > LINE_BYTES / element) return false;
    r->index = qn_lop2(b, QN_LX_ADD, rest, qn_lint(b, step * range->lo));
    r->size += step * element * (range->trips - 1);
    if (b->failed) return false;
  }
  return true;
}

static void add_reading(prefetcher *p, const qn_lexpr *load, qn_lstmt *stmt, const inner_range *range) {
  qn_lbuild *b = p->b;
  int64_t element = (int64_t)qn_lmem_size(load->u.load.mem);
  reading r = {.load = load, .index = load->operands[0], .stmt = stmt, .order = p->readings.count};
  r.size = load->type.lanes * element;
  if (!widen(b, &r, range) || !qn_lexpr_uses(r.index, p->var)) return;
  const qn_lexpr *bytes = qn_lop2(b, QN_LX_MUL, r.index, qn_lint(b, element));
  for (r.group = 0; r.group < p->groups.count; r.group++) {
    if (p->groups.items[r.group].buf != load->u.load.buf) continue;
    const qn_lexpr *distance = qn_lop2(b, QN_LX_SUB, bytes, p->groups.items[r.group].bytes);
    if (distance && qn_lexpr_is_int(distance, &r.offset)) break;
  }
  if (b->failed) return;
  if (r.group == p->groups.count) {
    group g = {load->u.load.buf, bytes};
    if (!qn_vec_push_arena(b->arena, &p->groups, g)) b->failed = true;
  }
  if (!qn_vec_push_arena(b->arena, &p->readings, r)) b->failed = true;
}

static void collect_loads(prefetcher *p, const qn_lexpr *e, qn_lstmt *stmt, const inner_range *range) {
  if (p->b->failed) return;
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) collect_loads(p, e->operands[i], stmt, range);
  if (e->op != QN_LX_LOAD || !e->u.load.buf->streamed || e->operands[0]->type.lanes > 1) return;
  add_reading(p, e, stmt, range);
}

// `top` is the statement of the REDUCE loop's body that the block is in; NULL when it is that body.
static void collect_block(prefetcher *p, const qn_lblock *block, qn_lstmt *top, const inner_range *range) {
  for (qn_lstmt *s = block->first; s && !p->b->failed; s = s->next) {
    int64_t lo = 0, hi = 0;
    qn_lstmt *place = top ? top : s;
    if (s->kind == QN_LS_STORE) {
      collect_loads(p, s->u.store.index, place, range);
      collect_loads(p, s->u.store.value, place, range);
    } else if (s->kind == QN_LS_FOR && s->u.loop.order == QN_LO_DATA && qn_loop_const_bounds(s, &lo, &hi) && lo < hi) {
      collect_block(p, &s->u.loop.body, place, &(inner_range){range, s->u.loop.var, lo, hi - lo});
    }
  }
}

// ---- writing ----------------------------------------------------------------------------------------------------

static int compare_readings(const void *left, const void *right) {
  const reading *a = left, *b = right;
  if (a->group != b->group) return a->group < b->group ? -1 : 1;
  if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
  return a->order < b->order ? -1 : a->order > b->order;
}

// What the reductions around a reading walk without a break, in bytes, and where they are in it.
typedef struct walk {
  int64_t bytes, jump;       // jump: from the end to where the next iteration of the data loop around them begins
  int64_t start;             // of the reading, from the walk's beginning
  const qn_lexpr *position;  // of an iteration: a multiple of `step`
  int64_t step;
} walk;

static int64_t common_divisor(int64_t a, int64_t b) { return b == 0 ? a : common_divisor(b, a % b); }

// False where nobody knows, or where the next walk begins at the end of this one.
static bool find_walk(prefetcher *p, const reading *r, walk *out) {
  qn_lbuild *b = p->b;
  int64_t element = (int64_t)qn_lmem_size(r->load->u.load.mem), step = 0, lo = 0, hi = 0;
  const qn_lexpr *rest = r->index;
  *out = (walk){.position = qn_lint(b, 0)};
  for (const around *a = p->around; a && out->jump == 0; a = a->outer) {
    const qn_lvar *var = a->loop->u.loop.var;
    bool reduces = a->loop->u.loop.order == QN_LO_REDUCE;
    if (b->failed || !qn_lexpr_linear(b, rest, var, &step, &rest) || step < 0) return false;
    if (step == 0) continue;  // tokens walk one panel again and again
    step *= element;
    if (!reduces && (out->jump = step - out->bytes) <= 0) return false;
    if (!reduces) continue;
    if (!qn_loop_const_bounds(a->loop, &lo, &hi) || lo != 0 || step * hi < out->bytes) return false;
    out->bytes = step * hi;
    out->step = common_divisor(step, out->step);
    out->position = qn_lop2(b, QN_LX_ADD, out->position, qn_lop2(b, QN_LX_MUL, qn_lref(b, var), qn_lint(b, step)));
  }
  if (out->jump == 0 || out->bytes == 0) return false;
  if (qn_lexpr_is_int(rest, &out->start)) out->start = out->start * element % out->bytes;
  return true;
}

// How far beyond the byte `ahead` of the reading's first that byte lies which is read so much later; in bytes.
static const qn_lexpr *jumps(prefetcher *p, const reading *r, int64_t ahead) {
  qn_lbuild *b = p->b;
  walk w;
  if (!find_walk(p, r, &w)) return NULL;
  int64_t whole = (w.start + ahead) / w.bytes, left = w.bytes - (w.start + ahead) % w.bytes;
  left = (left + w.step - 1) / w.step * w.step;  // the same for as many lines as possible
  const qn_lexpr *few = qn_lint(b, whole * w.jump), *more = qn_lint(b, (whole + 1) * w.jump);
  return qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_LT, w.position, qn_lint(b, left)), few, more);
}

// In front of the reading's statement: a prefetch of the byte `ahead` of the reading's first.
static void write_prefetch(prefetcher *p, qn_lblock *block, const reading *r, int64_t ahead) {
  qn_lbuild *b = p->b;
  qn_lmem mem = r->load->u.load.mem;
  int64_t element = (int64_t)qn_lmem_size(mem);
  const qn_lexpr *index = r->index, *beyond = jumps(p, r, ahead);
  if (beyond || ahead % element != 0) {
    index = qn_lop2(b, QN_LX_MUL, index, qn_lint(b, element));
    mem = QN_LM_U8;
    element = 1;
  }
  if (beyond) index = qn_lop2(b, QN_LX_ADD, index, beyond);
  qn_lblock out = {0};
  qn_lprefetch(b, &out, r->load->u.load.buf, mem, qn_lop2(b, QN_LX_ADD, index, qn_lint(b, ahead / element)), p->far);
  qn_lblock_splice(&out, block, r->stmt);
}

static void write_prefetches(prefetcher *p, qn_lblock *block) {
  int64_t covered = 0;  // the group's bytes below this are asked for
  if (p->readings.count > 0) {
    qsort(p->readings.items, p->readings.count, sizeof *p->readings.items, compare_readings);
  }
  for (size_t i = 0; i < p->readings.count && !p->b->failed; i++) {
    const reading *r = &p->readings.items[i];
    bool first = i == 0 || r->group != r[-1].group;
    int64_t at = first || r->offset > covered ? r->offset : covered;
    for (; at < r->offset + r->size; at += LINE_BYTES) {
      write_prefetch(p, block, r, at - r->offset + p->distance);
    }
    if (first || at > covered) covered = at;
  }
}

static void prefetch_block(prefetcher *p, qn_lblock *block, const around *outer) {
  for (qn_lstmt *s = block->first; s && !p->b->failed; s = s->next) {
    if (s->kind != QN_LS_FOR) continue;
    qn_lblock *body = &s->u.loop.body;
    const around here = {outer, s};
    prefetch_block(p, body, &here);
    if (s->u.loop.order != QN_LO_REDUCE) continue;
    p->var = s->u.loop.var;
    p->around = &here;
    p->readings.count = p->groups.count = 0;
    collect_block(p, body, NULL, NULL);
    write_prefetches(p, body);
  }
}

static void remove_prefetches(qn_lblock *block) {
  for (qn_lstmt *s = block->first, *next; s; s = next) {
    next = s->next;
    if (s->kind == QN_LS_FOR) remove_prefetches(&s->u.loop.body);
    if (s->kind == QN_LS_PREFETCH) qn_lblock_remove(block, s);
  }
}

qn_status qn_pass_prefetch(qn_loop_pass_context *context) {
  const qn_schedule *schedule = context->schedule;
  prefetcher p = {.b = context->build, .distance = schedule->prefetch_bytes, .far = schedule->prefetch_far != 0};
  if (p.distance > 0) {
    prefetch_block(&p, &context->build->kernel->body, NULL);
  } else {
    remove_prefetches(&context->build->kernel->body);
  }
  return qn_loop_pass_end(context, "prefetch");
}
