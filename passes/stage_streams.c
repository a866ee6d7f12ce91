// stage_streams: what a group streams comes through shared memory, in 16-byte copies that are under way while it works
// on what came before.
//
// requires: lane loops (map_lanes), join_chains.
// keeps: every result: the bytes are the same, and so is the order of every reduction.
// breaks: a lane loop whose body reduces over a streamed parameter becomes several, between which the group copies and
// waits; what a lane keeps from one to the next is a spread local.
//
// It applies where an iteration of the reduction reads bytes [i * S, (i + 1) * S) from a place that is the same for all
// lanes, S being a multiple of 16: the blocks of a panel. `slot` iterations at a time make a stage; a ring in shared
// memory holds some of those. The copies go through it in steps of 16 bytes a lane, whole sectors one after the other,
// however wide and however placed the numbers in a block are; lanes then read them in single words.
//
//   for l lane { acc = 0; for kb in 0..trips reduce { acc = ... w[n*panel + kb*S + ...] ... } y = acc }
// becomes
//   first stages: for c lane { copy ring = w }; commit
//   for l lane { acc[l] = 0 }
//   for p in 0..stages reduce {
//     wait
//     for c lane { copy ring[slot of stage p + depth - 1] = w }; commit
//     for l lane { for j in 0..slot reduce { acc[l] = ... ring[slot of stage p + j*S + ...] ... } }
//   }
//   for l lane { y = acc[l] }
#include "passes/gpu_pass.h"
#include "passes/loop_util.h"

enum {
  COPY_BYTES = 16,
  SECTOR_BYTES = 32,  // of global memory, which are moved together
  BANKS_BYTES = 128,  // that shared memory gives at a time
  MAX_STREAMS = 4,    // parameters that a reduction reads in this way
};

// A parameter that a reduction streams: iteration i reads bytes [i * bytes, (i + 1) * bytes) from byte `base` on.
typedef struct stream {
  const qn_lbuf *buf;
  const qn_lexpr *base;
  int64_t bytes;
  int64_t at;     // where its part of a slot begins
  int64_t pitch;  // bytes from an iteration's to the next one's in the ring
} stream;

// A reduction and how it is cut into stages.
typedef struct staging {
  qn_lbuild *b;
  const qn_lstmt *lanes;  // the lane loop that it is in
  const qn_lvar *var;     // of the reduction
  stream streams[MAX_STREAMS];
  int count;
  int64_t trips, slot;  // iterations: of the reduction, of a stage
  int64_t slot_bytes, stages, depth;
  qn_lbuf *ring;
  const qn_lexpr *stage, *in_slot;  // the variables that take the place of `var`
} staging;

// ---- what is read -----------------------------------------------------------------------------------------------

static bool is_inside(const qn_lstmt *loop, const qn_lvar *var) {
  if (loop->u.loop.var == var) return true;
  for (const qn_lstmt *s = loop->u.loop.body.first; s; s = s->next) {
    if (s->kind == QN_LS_FOR && is_inside(s, var)) return true;
  }
  return false;
}

static bool varies_inside(const qn_lexpr *e, const void *context) {
  return e->op == QN_LX_VAR && is_inside(context, e->u.var);
}

static bool is_load(const qn_lexpr *e, const void *context) {
  (void)context;
  return e->op == QN_LX_LOAD;
}

// A sum's terms that are the same for all that the lanes do go to *outer, others and constants to *inner.
static void split_sum(const staging *s, const qn_lexpr *e, qn_lop sign, const qn_lexpr **outer,
                      const qn_lexpr **inner) {
  if (e->op == QN_LX_ADD || e->op == QN_LX_SUB) {
    qn_lop right = (e->op == QN_LX_SUB) == (sign == QN_LX_SUB) ? QN_LX_ADD : QN_LX_SUB;
    split_sum(s, e->operands[0], sign, outer, inner);
    split_sum(s, e->operands[1], right, outer, inner);
    return;
  }
  const qn_lexpr **sum = e->op == QN_LX_INT || qn_lexpr_any(e, varies_inside, s->lanes) ? inner : outer;
  *sum = qn_lop2(s->b, sign, *sum, e);
}

// The load's index as iteration * *out_step + *out_base + *out_inner, in elements; false where it is not of that form.
static bool take_apart(const staging *s, const qn_lexpr *load, int64_t *out_step, const qn_lexpr **out_base,
                       const qn_lexpr **out_inner) {
  const qn_lexpr *index = load->operands[0], *rest = NULL;
  if (load->type.lanes != 1 || qn_lexpr_any(index, is_load, NULL)) return false;
  if (!qn_lexpr_linear(s->b, index, s->var, out_step, &rest) || *out_step <= 0) return false;
  *out_base = *out_inner = qn_lint(s->b, 0);
  if (!*out_base) return false;
  split_sum(s, rest, QN_LX_ADD, out_base, out_inner);
  return *out_base && *out_inner;
}

// What the load says of its parameter's stream; false where it is none.
static bool describe(const staging *s, const qn_lexpr *load, stream *out) {
  int64_t step = 0, size = (int64_t)qn_lmem_size(load->u.load.mem);
  const qn_lexpr *base = NULL, *inner = NULL;
  *out = (stream){.buf = load->u.load.buf};
  if (!take_apart(s, load, &step, &base, &inner) || __builtin_mul_overflow(step, size, &out->bytes)) return false;
  qn_lrange range = qn_lexpr_range(inner);
  out->base = qn_lop2(s->b, QN_LX_MUL, base, qn_lint(s->b, size));
  return out->base && range.min >= 0 && range.max < step && out->bytes % COPY_BYTES == 0 &&
         qn_lexpr_is_multiple(out->base, COPY_BYTES);
}

static bool is_streamed(const qn_lbuf *buf) { return buf->kind == QN_LB_PARAM && buf->streamed && !buf->writable; }

static stream *find_stream(const staging *s, const qn_lbuf *buf) {
  for (int i = 0; i < s->count; i++) {
    if (s->streams[i].buf == buf) return (stream *)&s->streams[i];
  }
  return NULL;
}

// Notes what loads read; a parameter of which one load does not fit has no bytes, and is left alone.
static void find_in_expr(staging *s, const qn_lexpr *e) {
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) find_in_expr(s, e->operands[i]);
  if (e->op != QN_LX_LOAD || !is_streamed(e->u.load.buf)) return;
  stream seen, *known = find_stream(s, e->u.load.buf);
  bool fits = describe(s, e, &seen);
  if (!known && s->count < MAX_STREAMS) {
    s->streams[s->count++] = fits ? seen : (stream){.buf = e->u.load.buf};
  } else if (known && (!fits || known->bytes != seen.bytes || !qn_lexpr_equal(known->base, seen.base))) {
    known->bytes = 0;
  }
}

static void find_in_block(staging *s, const qn_lblock *block) {
  for (const qn_lstmt *stmt = block->first; stmt && !s->b->failed; stmt = stmt->next) {
    if (stmt->kind == QN_LS_FOR) {
      find_in_expr(s, stmt->u.loop.lo);
      find_in_expr(s, stmt->u.loop.hi);
      find_in_block(s, &stmt->u.loop.body);
    } else if (stmt->kind == QN_LS_STORE) {
      find_in_expr(s, stmt->u.store.index);
      find_in_expr(s, stmt->u.store.value);
    }
  }
}

// ---- stages -----------------------------------------------------------------------------------------------------

// Whether each stream's part of a stage is whole sectors, when that has so many iterations.
static bool has_whole_sectors(const staging *s, int64_t slot) {
  for (int i = 0; i < s->count; i++) {
    if (slot * s->streams[i].bytes % SECTOR_BYTES != 0) return false;
  }
  return true;
}

// Iterations that are whole rows of banks would all lie in the same ones: they are moved apart where that costs little.
static int64_t choose_pitch(int64_t bytes) {
  return bytes % BANKS_BYTES == 0 && bytes > 2 * BANKS_BYTES ? bytes + BANKS_BYTES / 2 : bytes;
}

// Of how many iterations half may be read together with the other half, each by 16 lanes a word: those so far apart lie
// in different banks (split_chains).
static int64_t turns_of(int64_t pitch) {
  for (int64_t turns = 2; turns <= 8; turns *= 2) {
    if (turns / 2 * pitch % BANKS_BYTES == BANKS_BYTES / 2) return turns;
  }
  return 1;
}

// The most iterations that divide all of them evenly, are multiples of `turns` and fit the schedule's bytes: of whole
// sectors when asked. Where none fit the fewest there are, when that will do; 0 = there are none.
static int64_t most_that_fit(const staging *s, int64_t turns, bool whole, int64_t most, bool must_fit) {
  int64_t found = 0;
  for (int64_t slot = turns; slot <= s->trips; slot += turns) {
    if (s->trips % slot != 0 || (whole && !has_whole_sectors(s, slot))) continue;
    if (slot > most && (must_fit || found > 0)) break;
    found = slot;
  }
  return found;
}

// As many iterations a stage as fit, of whole sectors where that can be, and with halves in different banks; as many
// stages under way as fit as well, but one at least.
static void choose_stages(staging *s, const qn_gpu_schedule *schedule) {
  int64_t most = 0, all = 0, turns = 1;
  for (int i = 0; i < s->count; i++) {
    s->streams[i].pitch = choose_pitch(s->streams[i].bytes);
    if (s->streams[i].pitch > most) most = s->streams[i].pitch;
    all += s->streams[i].pitch;
    if (turns_of(s->streams[i].pitch) > turns) turns = turns_of(s->streams[i].pitch);
  }
  int64_t fit = schedule->stage_bytes / most;
  s->slot = most_that_fit(s, turns, true, fit, true);
  if (s->slot == 0) s->slot = most_that_fit(s, 1, true, fit, false);
  if (s->slot == 0) s->slot = most_that_fit(s, 1, false, fit, false);
  s->slot_bytes = s->slot * all;
  s->stages = s->trips / s->slot;
  s->depth = (int64_t)schedule->stages * schedule->stage_bytes / (s->slot * most);
  if (s->depth > schedule->stages) s->depth = schedule->stages;
  if (s->depth > s->stages + 1) s->depth = s->stages + 1;
  if (s->depth < 2) s->depth = 2;
  int64_t at = 0;
  for (int i = 0; i < s->count; i++) {
    s->streams[i].at = at;
    at += s->slot * s->streams[i].pitch;
  }
}

// Finds what the reduction streams and cuts it into stages; false when there is nothing to stage.
static bool plan(staging *s, const qn_lstmt *loop, const qn_gpu_schedule *schedule) {
  int64_t lo = 0, hi = 0;
  int kept = 0;
  bool counted = loop->kind == QN_LS_FOR && loop->u.loop.order == QN_LO_REDUCE && loop->u.loop.mark == QN_LM_SERIAL &&
                 qn_loop_const_bounds(loop, &lo, &hi) && lo == 0 && hi > 0;
  if (!counted) return false;
  s->var = loop->u.loop.var;
  s->trips = hi;
  find_in_block(s, &loop->u.loop.body);
  for (int i = 0; i < s->count; i++) {
    if (s->streams[i].bytes > 0) s->streams[kept++] = s->streams[i];
  }
  s->count = kept;
  if (kept > 0) choose_stages(s, schedule);
  return kept > 0 && !s->b->failed;
}

// ---- the new loops ----------------------------------------------------------------------------------------------

// for l in 0..count lane, perhaps none of it.
static qn_lblock *lane_loop(qn_lbuild *b, qn_lblock *block, const char *name, const qn_lexpr *count,
                            const qn_lexpr **out_var) {
  qn_lvar *var = qn_lvar_new(b, name);
  qn_lstmt *loop = qn_lfor(b, block, var, qn_lint(b, 0), count, QN_LO_DATA);
  loop->u.loop.mark = QN_LM_LANE;
  *out_var = qn_lref(b, var);
  return &loop->u.loop.body;
}

static const qn_lexpr *scaled(qn_lbuild *b, const qn_lexpr *e, int64_t by) {
  return qn_lop2(b, QN_LX_MUL, e, qn_lint(b, by));
}

// The byte of the ring at which stage `stage` has its slot.
static const qn_lexpr *slot_at(const staging *s, const qn_lexpr *stage) {
  return scaled(s->b, qn_lop2(s->b, QN_LX_MOD, stage, qn_lint(s->b, s->depth)), s->slot_bytes);
}

// Copies of what stage `stage` reads, if there is such a stage, and the end of their group.
static void copy_stage(const staging *s, qn_lblock *block, const qn_lexpr *stage) {
  qn_lbuild *b = s->b;
  const qn_lexpr *exists = qn_lop2(b, QN_LX_LT, stage, qn_lint(b, s->stages)), *c = NULL;
  for (int i = 0; i < s->count && !b->failed; i++) {
    const stream *from = &s->streams[i];
    int64_t pieces = from->pitch == from->bytes ? 1 : s->slot, bytes = s->slot / pieces * from->bytes, none = -1;
    const qn_lexpr *to = qn_lop2(b, QN_LX_ADD, slot_at(s, stage), qn_lint(b, from->at));
    const qn_lexpr *at = qn_lop2(b, QN_LX_ADD, from->base, scaled(b, stage, s->slot * from->bytes));
    const qn_lexpr *steps = qn_lop3(b, QN_LX_SELECT, exists, qn_lint(b, bytes / COPY_BYTES), qn_lint(b, 0));
    if (qn_lexpr_is_int(steps, &none) && none == 0) continue;  // the ring holds all there is
    qn_lblock *body = block;
    if (pieces > 1) {  // one iteration's after the other
      qn_lvar *piece = qn_lvar_new(b, "i");
      body = &qn_lfor(b, block, piece, qn_lint(b, 0), qn_lint(b, pieces), QN_LO_DATA)->u.loop.body;
      to = qn_lop2(b, QN_LX_ADD, to, scaled(b, qn_lref(b, piece), from->pitch));
      at = qn_lop2(b, QN_LX_ADD, at, scaled(b, qn_lref(b, piece), from->bytes));
    }
    body = lane_loop(b, body, "c", steps, &c);
    c = scaled(b, c, COPY_BYTES);
    qn_lcopy(b, body, s->ring, qn_lop2(b, QN_LX_ADD, to, c), from->buf, qn_lop2(b, QN_LX_ADD, at, c), QN_LM_U8,
             COPY_BYTES);
  }
  qn_lcommit(b, block);
}

// The first stages, as many as may be under way beside the one that is worked on.
static void start_ring(staging *s, qn_lblock *block) {
  int64_t slots = s->depth < s->stages ? s->depth : s->stages;
  s->ring = qn_llocal(s->b, block, "ring", QN_LM_U8, slots * s->slot_bytes);
  if (s->ring) s->ring->shared = true;
  for (int64_t i = 0; i + 1 < s->depth && !s->b->failed; i++) copy_stage(s, block, qn_lint(s->b, i));
}

// Loads of streams come from the ring. `context` is the staging.
static const qn_lexpr *load_from_ring(qn_lbuild *b, const qn_lexpr *e, void *context) {
  const staging *s = context;
  const stream *from = e->op == QN_LX_LOAD ? find_stream(s, e->u.load.buf) : NULL;
  const qn_lexpr *base = NULL, *inner = NULL;
  int64_t step = 0, size = from ? (int64_t)qn_lmem_size(e->u.load.mem) : 1;
  if (!from || !take_apart(s, e, &step, &base, &inner)) return e;
  const qn_lexpr *slot = scaled(b, qn_lop2(b, QN_LX_MOD, s->stage, qn_lint(b, s->depth)), s->slot_bytes / size);
  const qn_lexpr *at = qn_lop2(b, QN_LX_ADD, slot, scaled(b, s->in_slot, from->pitch / size));
  at = qn_lop2(b, QN_LX_ADD, at, qn_lint(b, from->at / size));
  return qn_lload(b, s->ring, e->u.load.mem, qn_lop2(b, QN_LX_ADD, at, inner), 1);
}

// In place of the reduction: the loop over stages. Gives the body of the lane loop in it, with the reduction over a
// slot, and that loop's variable.
static qn_lblock *stage_loop(staging *s, qn_lblock *block, qn_lstmt *loop, const qn_lexpr *width,
                             const qn_lexpr **out_lane) {
  qn_lbuild *b = s->b;
  qn_lvar *stage = qn_lvar_new(b, loop->u.loop.var->name), *in_slot = qn_lvar_new(b, loop->u.loop.var->name);
  qn_lstmt *stages = qn_lfor(b, block, stage, qn_lint(b, 0), qn_lint(b, s->stages), QN_LO_REDUCE);
  qn_lblock *body = &stages->u.loop.body;
  s->stage = qn_lref(b, stage);
  if (b->failed) return body;
  qn_lwait(b, body, (int)s->depth - 2);
  copy_stage(s, body, qn_lop2(b, QN_LX_ADD, s->stage, qn_lint(b, s->depth - 1)));
  qn_lblock *lanes = lane_loop(b, body, s->lanes->u.loop.var->name, width, out_lane);
  qn_lstmt *inner = qn_lfor(b, lanes, in_slot, qn_lint(b, 0), qn_lint(b, s->slot), QN_LO_REDUCE);
  s->in_slot = qn_lref(b, in_slot);
  if (b->failed) return lanes;
  qn_lblock_map(b, &loop->u.loop.body, load_from_ring, s);  // while it stands where it was: see is_inside
  qn_lblock_splice(&loop->u.loop.body, &inner->u.loop.body, NULL);
  qn_lblock_replace(b, &inner->u.loop.body, s->var, qn_lop2(b, QN_LX_ADD, scaled(b, s->stage, s->slot), s->in_slot));
  return lanes;
}

// ---- lane loops -------------------------------------------------------------------------------------------------

static bool touches_expr(const qn_lexpr *e, const void *context) {
  return e->op == QN_LX_LOAD && e->u.load.buf == context;
}

static bool is_other_element(const qn_lexpr *e, const void *context) {
  const qn_lbuf *buf = context;
  int64_t at = -1;
  return touches_expr(e, buf) &&
         !(qn_lexpr_is_int(e->operands[0], &at) && at == 0 && e->u.load.mem == buf->mem && e->type.lanes == 1);
}

// Is every store to the local one of its only element?
static bool stores_whole(const qn_lblock *block, const qn_lbuf *buf) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    int64_t at = -1;
    if (s->kind == QN_LS_FOR && !stores_whole(&s->u.loop.body, buf)) return false;
    if (s->kind != QN_LS_STORE || s->u.store.buf != buf) continue;
    if (!qn_lexpr_is_int(s->u.store.index, &at) || at != 0 || s->u.store.mem != buf->mem || s->u.store.lanes != 1)
      return false;
  }
  return true;
}

// A lane's number: what can become an element of a spread local.
static bool is_number(const qn_lblock *block, const qn_lbuf *buf) {
  int64_t elements = 0;
  return qn_lexpr_is_int(buf->elements, &elements) && elements == 1 && stores_whole(block, buf) &&
         !qn_lblock_any(block, is_other_element, buf);
}

typedef struct spreading {
  const qn_lbuf *from, *to;
  const qn_lexpr *lane;
} spreading;

static const qn_lexpr *load_spread(qn_lbuild *b, const qn_lexpr *e, void *context) {
  const spreading *s = context;
  return touches_expr(e, s->from) ? qn_lload(b, s->to, s->to->mem, s->lane, 1) : e;
}

static void store_spread(const spreading *s, qn_lblock *block) {
  for (qn_lstmt *stmt = block->first; stmt; stmt = stmt->next) {
    if (stmt->kind == QN_LS_FOR) store_spread(s, &stmt->u.loop.body);
    if (stmt->kind != QN_LS_STORE || stmt->u.store.buf != s->from) continue;
    stmt->u.store.buf = s->to;
    stmt->u.store.index = s->lane;
  }
}

// Statements of the old lane loop, in a new one: its locals are spread ones, its variable is `lane`.
static void adopt(qn_lbuild *b, qn_lblock *body, const qn_lvar *old_lane, const qn_lexpr *lane, const spreading *locals,
                  size_t count) {
  if (b->failed) return;
  qn_lblock_replace(b, body, old_lane, lane);
  for (size_t i = 0; i < count && !b->failed; i++) {
    spreading s = {locals[i].from, locals[i].to, lane};
    qn_lblock_map(b, body, load_spread, &s);
    if (!b->failed) store_spread(&s, body);
  }
}

typedef QN_VEC(spreading) spreadings;

// The locals of the lane loop's own become spread, in front of the loops; false when one of them cannot.
static bool spread_locals(qn_lbuild *b, qn_lstmt *loop, const qn_lexpr *width, qn_lblock *out, spreadings *locals) {
  qn_lblock *body = &loop->u.loop.body;
  int64_t lanes = 0;
  qn_lexpr_is_int(width, &lanes);
  for (const qn_lstmt *s = body->first; s; s = s->next) {
    if (s->kind == QN_LS_LOCAL && !is_number(body, s->u.local.buf)) return false;
  }
  for (qn_lstmt *s = body->first, *next; s && !b->failed; s = next) {
    next = s->next;
    if (s->kind != QN_LS_LOCAL) continue;
    qn_lbuf *to = qn_llocal(b, out, s->u.local.buf->name, s->u.local.buf->mem, lanes);
    if (!to || !qn_vec_push_arena(b->arena, locals, ((spreading){s->u.local.buf, to, NULL}))) b->failed = true;
    if (to) to->spread = true;
    qn_lblock_remove(body, s);
  }
  return true;
}

// The statements up to `end` (NULL = all) in a lane loop of their own.
static void take_segment(qn_lbuild *b, qn_lstmt *loop, const qn_lstmt *end, const qn_lexpr *width, qn_lblock *out,
                         const spreadings *locals) {
  qn_lblock *from = &loop->u.loop.body;
  const qn_lexpr *lane = NULL;
  if (from->first == end || b->failed) return;
  qn_lblock *body = lane_loop(b, out, loop->u.loop.var->name, width, &lane);
  while (from->first != end) {
    qn_lstmt *s = from->first;
    qn_lblock_remove(from, s);
    qn_lblock_append(body, s);
  }
  adopt(b, body, loop->u.loop.var, lane, locals->items, locals->count);
}

static qn_lstmt *next_staged(qn_lbuild *b, qn_lstmt *loop, const qn_gpu_schedule *schedule, staging *out) {
  for (qn_lstmt *s = loop->u.loop.body.first; s && !b->failed; s = s->next) {
    *out = (staging){.b = b, .lanes = loop};
    if (plan(out, s, schedule)) return s;
  }
  return NULL;
}

// Replaces the lane loop by the loops that its reductions over streams want.
static void stage_lanes(qn_lbuild *b, qn_lblock *block, qn_lstmt *loop, const qn_gpu_schedule *schedule) {
  staging s;
  int64_t lo = -1, hi = 0;
  spreadings locals = {NULL, 0, 0};
  qn_lblock out = {0};
  if (!qn_loop_const_bounds(loop, &lo, &hi) || lo != 0 || !next_staged(b, loop, schedule, &s)) return;
  const qn_lexpr *width = loop->u.loop.hi, *lane = NULL;
  if (!spread_locals(b, loop, width, &out, &locals)) return;
  for (qn_lstmt *reduction; (reduction = next_staged(b, loop, schedule, &s)) && !b->failed;) {
    start_ring(&s, &out);
    take_segment(b, loop, reduction, width, &out, &locals);
    qn_lblock *body = stage_loop(&s, &out, reduction, width, &lane);
    qn_lblock_remove(&loop->u.loop.body, reduction);
    adopt(b, body, loop->u.loop.var, lane, locals.items, locals.count);
  }
  take_segment(b, loop, NULL, width, &out, &locals);
  if (b->failed) return;
  qn_lblock_splice(&out, block, loop);
  qn_lblock_remove(block, loop);
}

static void stage_block(qn_lbuild *b, qn_lblock *block, const qn_gpu_schedule *schedule) {
  for (qn_lstmt *s = block->first, *next; s && !b->failed; s = next) {
    next = s->next;
    if (s->kind != QN_LS_FOR) continue;
    if (s->u.loop.mark == QN_LM_LANE) {
      stage_lanes(b, block, s, schedule);
    } else {
      stage_block(b, &s->u.loop.body, schedule);
    }
  }
}

qn_status qn_pass_stage_streams(qn_loop_pass_context *context) {
  qn_lbuild *b = context->build;
  bool asked = context->gpu && context->gpu->stages > 0;
  if (asked && !b->failed) stage_block(b, &b->kernel->body, context->gpu);
  return qn_loop_pass_end(context, "stage_streams");
}
