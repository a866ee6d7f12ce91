// The cost model, counting: how often a kernel evaluates each operator, by who shares the result (cost.h). Once a
// kernel and form of integer dot products, which is what the pass `narrow` makes of it.
#include <string.h>

#include "passes/cost.h"
#include "passes/loop_util.h"
#include "runtime/base/vec.h"

enum { DEP_ROW = 1, DEP_PANEL = 2, DEP_LANE = 4, MAX_DEPTH = 24 };
enum { LANES = 16, MOST_TRIPS = 1 << 20, WIDE_BYTE = 128 };

// What a value depends on, and the number of loops around it that change it.
typedef struct info {
  unsigned deps;
  int level;
} info;

typedef struct seen {
  const qn_lexpr *e;
  info info;
} seen;

typedef struct local_info {
  const qn_lbuf *buf;
  info info;
  double links;
} local_info;

typedef struct frame {
  const qn_lvar *var;
  unsigned dep;
  double weight;  // how often the body runs, of this loop and those around it
} frame;

typedef struct counter {
  qn_lbuild *b;
  qn_kernel_work *work;
  qn_work_nest *nest;    // being counted; NULL outside of one
  qn_op_counts *counts;  // of the nest, or `flat`
  int dots, depth, floor;  // loops around; those around the nest
  frame frames[MAX_DEPTH];
  QN_VEC(seen) seen;
  QN_VEC(local_info) locals;
} counter;

static double weight_at(const counter *c, int level) { return level > 0 ? c->frames[level - 1].weight : 1; }

static info join(info a, info b) { return (info){a.deps | b.deps, a.level > b.level ? a.level : b.level}; }

static qn_share share_of(const counter *c, unsigned deps) {
  bool lanes = deps & (DEP_PANEL | DEP_LANE);
  if (!lanes) return QN_SHARE_ROW;
  return !c->nest || (deps & DEP_ROW) ? QN_SHARE_CELL : QN_SHARE_PANEL;
}

// ---- locals -----------------------------------------------------------------------------------------------------

static local_info *find_local(const counter *c, const qn_lbuf *buf) {
  for (size_t i = 0; i < c->locals.count; i++) {
    if (c->locals.items[i].buf == buf) return &c->locals.items[i];
  }
  return NULL;
}

static local_info *local_of(counter *c, const qn_lbuf *buf) {
  local_info *found = find_local(c, buf);
  if (found) return found;
  if (!qn_vec_push_arena(c->b->arena, &c->locals, ((local_info){.buf = buf}))) c->b->failed = true;
  return c->b->failed ? NULL : &c->locals.items[c->locals.count - 1];
}

// One value, which code generation keeps in a register.
static bool in_register(const qn_lbuf *buf) {
  int64_t elements = 0;
  return buf->kind == QN_LB_LOCAL && qn_lexpr_is_int(buf->elements, &elements) && elements == 1;
}

// ---- expressions ------------------------------------------------------------------------------------------------

static info visit(counter *c, const qn_lexpr *e);

static info index_info(const counter *c, const qn_lexpr *e) {
  info result = {0, 0};
  if (e->op == QN_LX_VAR) {
    for (int i = 0; i < c->depth; i++) {
      if (c->frames[i].var == e->u.var) return (info){c->frames[i].dep, i + 1};
    }
  }
  local_info *local = e->op == QN_LX_LOAD ? find_local(c, e->u.load.buf) : NULL;
  if (local) result = join(result, local->info);
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) {
    result = join(result, index_info(c, e->operands[i]));
  }
  return result;
}

static info visit_load(counter *c, const qn_lexpr *e) {
  info at = index_info(c, e->operands[0]);
  local_info *local = find_local(c, e->u.load.buf);
  if (local) at = join(at, local->info);
  if (at.level > c->depth) at.level = c->depth;
  if (!in_register(e->u.load.buf)) {
    c->counts[share_of(c, at.deps)].loads[e->u.load.mem] += (float)weight_at(c, at.level);
  }
  return at;
}

static bool is_seen(const counter *c, const qn_lexpr *e, info *out) {
  for (size_t i = c->seen.count; i-- > 0;) {
    const qn_lexpr *other = c->seen.items[i].e;
    if (other != e && (other->op != e->op || !qn_lexpr_equal(other, e))) continue;
    *out = c->seen.items[i].info;
    return true;
  }
  return false;
}

// A shift left of bits that were shifted right before: one shift, and the mask.
static bool is_one_shift(const qn_lexpr *e) {
  const qn_lexpr *bits = e->operands[0];
  if (e->op != QN_LX_SHL) return false;
  if (bits->op == QN_LX_AND) bits = bits->operands[0];
  return bits->op == QN_LX_SHR;
}

static void count_op(counter *c, const qn_lexpr *e, info at) {
  // What no row and no panel changes hangs on loops along K: a constant once they are unrolled, and cheap otherwise.
  if ((c->nest && at.deps == 0) || is_one_shift(e)) return;
  qn_op_counts *counts = &c->counts[share_of(c, at.deps)];
  float weight = (float)weight_at(c, at.level);
  counts->ops[e->op] += weight;
  if (e->op == QN_LX_DOT4 && qn_lexpr_byte_max(e->operands[1]) >= WIDE_BYTE) counts->wide_dots += weight;
}

static info visit(counter *c, const qn_lexpr *e) {
  info result = {0, 0};
  if (e->type.kind == QN_LK_INDEX) return index_info(c, e);
  if (e->op == QN_LX_INT || e->op == QN_LX_FLOAT || is_seen(c, e, &result)) return result;
  if (e->op == QN_LX_LOAD) {
    result = visit_load(c, e);
  } else {
    for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++) {
      result = join(result, visit(c, e->operands[i]));
    }
    if (result.level > c->depth) result.level = c->depth;
    count_op(c, e, result);
  }
  bool changes = e->op == QN_LX_LOAD && e->u.load.buf->kind == QN_LB_LOCAL;  // with what is stored later
  if (!changes && !qn_vec_push_arena(c->b->arena, &c->seen, ((seen){e, result}))) c->b->failed = true;
  return result;
}

// ---- statements -------------------------------------------------------------------------------------------------

static bool loads_from(const qn_lexpr *e, const void *buf) { return e->op == QN_LX_LOAD && e->u.load.buf == buf; }

static bool is_dot(qn_lop op) { return op == QN_LX_DOT4 || op == QN_LX_DOT4S || op == QN_LX_DOT2; }

static void count_store(counter *c, const qn_lstmt *s) {
  const qn_lexpr *value = s->u.store.value;
  info at = join(visit(c, value), (info){0, 0});
  if (!in_register(s->u.store.buf)) {
    unsigned deps = at.deps | index_info(c, s->u.store.index).deps;
    c->counts[share_of(c, deps)].stores += (float)weight_at(c, c->depth);
  }
  local_info *local = s->u.store.buf->kind == QN_LB_LOCAL ? local_of(c, s->u.store.buf) : NULL;
  if (!local) return;
  local->info = join(local->info, at);
  if (!c->nest || !qn_lexpr_any(value, loads_from, s->u.store.buf)) return;
  if (is_dot(value->op)) c->nest->sums += weight_at(c, c->depth);
  if (value->type.kind != QN_LK_F32 || c->depth <= c->floor) return;
  if (local->links == 0) c->nest->accumulators++;
  local->links += weight_at(c, c->depth);
  if (local->links > c->nest->links) c->nest->links = local->links;
}

// Times that a loop runs, as far as the kernel tells; what an i32 of an input bounds is not told.
static double trips_of(const qn_lstmt *loop) {
  int64_t lo = 0, hi = 0;
  if (qn_loop_const_bounds(loop, &lo, &hi)) return hi > lo ? (double)(hi - lo) : 0;
  if (qn_loop_is(loop, "fork")) return 1;  // more only of what guesses that branch have in common
  if (qn_loop_is(loop, "once")) return 0;  // what only the last chunk of a run needs
  qn_lrange range = qn_lexpr_range(loop->u.loop.hi);
  if (range.max > MOST_TRIPS) return QN_ASSUMED_TRIPS;
  return (double)(range.max > 0 ? range.max : 0);
}

static void count_block(counter *c, const qn_lblock *block);

static void count_loop(counter *c, const qn_lstmt *loop) {
  bool data = loop->u.loop.order == QN_LO_DATA, lanes = qn_loop_is(loop, "l") || qn_loop_is(loop, "i");
  bool tiled = qn_loop_is(loop, "n") || qn_loop_is(loop, "t");
  double trips = trips_of(loop);
  unsigned dep = 0;
  if (c->depth == MAX_DEPTH) return;
  if (data && lanes) {
    dep = DEP_LANE;
    trips = trips > LANES ? trips / LANES : 1;
  }
  if (data && c->nest && tiled) {
    dep = qn_loop_is(loop, "n") ? DEP_PANEL : DEP_ROW;
    if (dep == DEP_PANEL) c->nest->panels = (int64_t)trips;
    trips = 1;
  }
  if (qn_loop_is(loop, "r") || qn_loop_is(loop, "run")) trips = 1;  // rows are the prediction's business
  frame *f = &c->frames[c->depth];
  *f = (frame){loop->u.loop.var, dep, weight_at(c, c->depth) * trips};
  c->depth++;
  if (qn_loop_is(loop, "g")) *(c->nest ? &c->nest->rolled : &c->work->flat_rolled) += f->weight;
  count_block(c, &loop->u.loop.body);
  c->depth--;
}

// A nest of its own, unless there is no room: it counts to the last one then.
static void count_nest(counter *c, const qn_lstmt *loop) {
  qn_kernel_work *work = c->work;
  if (work->nest_count < QN_WORK_NESTS) work->nest_count++;
  c->nest = &work->nests[c->dots][work->nest_count - 1];
  c->nest->panels = 1;
  c->counts = c->nest->counts;
  c->floor = c->depth;
  count_loop(c, loop);
  c->nest = NULL;
  c->counts = work->flat;
}

static void count_block(counter *c, const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s && !c->b->failed; s = s->next) {
    bool starts = (qn_loop_is(s, "n") || qn_loop_is(s, "t")) && s->u.loop.order == QN_LO_DATA;
    if (s->kind == QN_LS_STORE) count_store(c, s);
    if (s->kind != QN_LS_FOR) continue;
    if (starts && !c->nest && trips_of(s) > 0 && weight_at(c, c->depth) > 0) {
      count_nest(c, s);
    } else {
      count_loop(c, s);
    }
  }
}

// ---- parameters and the outermost loop --------------------------------------------------------------------------

// factor * symbol or a constant; false when it is neither.
static bool factor_of(const qn_lexpr *e, int64_t *out, bool *out_symbolic) {
  *out_symbolic = e->op != QN_LX_INT;
  *out = 1;
  if (e->op == QN_LX_INT || e->op == QN_LX_SYM) return e->op == QN_LX_SYM || qn_lexpr_is_int(e, out);
  for (int i = 0; e->op == QN_LX_MUL && i < 2; i++) {
    if (e->operands[i]->op == QN_LX_SYM) return qn_lexpr_is_int(e->operands[1 - i], out);
  }
  return false;
}

static void count_params(const qn_pkernel *kernel, qn_kernel_work *work) {
  for (size_t i = 0; i < kernel->plain->param_count; i++) {
    const qn_lbuf *param = kernel->plain->params[i];
    int64_t factor = 0;
    bool symbolic = false;
    if (!factor_of(param->elements, &factor, &symbolic)) continue;
    int64_t bytes = factor * (int64_t)qn_lmem_size(param->mem);
    if (param->streamed && !symbolic) work->streamed_bytes += bytes;
    if (symbolic) *(param->writable ? &work->row_write_bytes : &work->row_read_bytes) += bytes;
  }
}

// The kernel's outermost loop is what its rows or its panels are counted by.
static void count_form(qn_lkernel *kernel, bool tiled, int dots, qn_lbuild *b, qn_kernel_work *work) {
  counter c = {.b = b, .work = work, .counts = work->flat, .dots = dots};
  work->nest_count = 0;
  work->flat_rolled = 0;
  memset(work->flat, 0, sizeof work->flat);
  const qn_lstmt *outer = kernel->body.first;
  bool single = outer && !outer->next && outer->kind == QN_LS_FOR;
  if (single && tiled && qn_loop_is(outer, "n")) {
    count_block(&c, &kernel->body);
  } else if (single) {
    c.frames[c.depth++] = (frame){outer->u.loop.var, 0, 1};
    if (tiled) count_block(&c, &outer->u.loop.body);
    if (!tiled) {  // no tiles: loops over t and n are like others
      c.nest = NULL;
      for (const qn_lstmt *s = outer->u.loop.body.first; s && !b->failed; s = s->next) {
        if (s->kind == QN_LS_STORE) count_store(&c, s);
        if (s->kind == QN_LS_FOR) count_loop(&c, s);
      }
    }
  } else {
    count_block(&c, &kernel->body);
  }
  work->extent = 1;
  if (single && !factor_of(outer->u.loop.hi, &work->extent, &work->extent_rows)) work->extent_rows = true;
}

bool qn_kernel_has_dots(const qn_pkernel *kernel) {
  return kernel->is_matmul || (kernel->work && kernel->work->forms);
}

static bool has_dots(const qn_lexpr *e, const void *context) {
  (void)context;
  return e->op == QN_LX_DOT4;
}

qn_status qn_cost_count(const qn_pkernel *kernel, qn_arena *arena, const qn_kernel_work **out_work, qn_diag *diag) {
  qn_kernel_work *work = QN_ARENA_NEW(arena, qn_kernel_work);
  if (!work) return qn_fail_nomem(diag, kernel->name, "a kernel's cost");
  bool tiled = kernel->is_matmul || kernel->tile_rows > 0;
  bool forms = qn_lblock_any(&kernel->plain->body, has_dots, NULL);
  qn_arena scratch;
  qn_arena_init(&scratch, arena->allocator);
  qn_status status = QN_OK;
  for (int dots = 0; dots < (forms ? QN_DOTS_FORMS : 1) && status == QN_OK; dots++) {
    qn_lbuild build;
    qn_schedule schedule = qn_schedule_plain();
    schedule.dots = dots;
    qn_lkernel *copy = qn_lkernel_copy(&build, &scratch, kernel->plain, "cost");
    if (!copy) status = qn_fail_nomem(diag, kernel->name, "a kernel's cost");
    if (copy) status = qn_pass_narrow(&(qn_loop_pass_context){.build = &build, .schedule = &schedule, .diag = diag});
    if (status == QN_OK) count_form(copy, tiled, dots, &build, work);
    if (status == QN_OK && build.failed) status = qn_fail_nomem(diag, kernel->name, "a kernel's cost");
  }
  qn_arena_deinit(&scratch);
  for (int dots = 1; dots < QN_DOTS_FORMS && !forms; dots++) {
    memcpy(work->nests[dots], work->nests[0], sizeof work->nests[0]);
  }
  work->forms = forms;
  count_params(kernel, work);
  *out_work = work;
  return status;
}
