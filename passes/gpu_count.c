// Counting for GPUs: the walk over a kernel's loops, and what each statement adds.
#include <string.h>

#include "passes/gpu_count_internal.h"

enum {
  ENOUGH_LOOKS = 8,       // at the sectors of one access, whose mean stands for all others
  LOOP_INSTRUCTIONS = 3,  // of a loop's iteration: add, compare, jump
  // LLVM makes copies of a small loop's body, so many at most and of so many instructions, whose loads then go
  // together.
  MOST_COPIES = 8,
  COPIES_INSTRUCTIONS = 75,
  WARP_INSTRUCTIONS = 16  // of a warp before it does anything: parameters, numbers of group and lane
};

typedef struct counter {
  qn_count_state s;
  qn_gpu_counts *out;
  int lanes, groups;  // of the schedule
  int64_t extent;
  double times;  // that the present statement is executed, over all groups
  // Who executes it, of a group: its lanes in a warp that take part, how many such requests it makes of memory, and its
  // warps, of which groups of few lanes have a part.
  uint32_t mask;
  double requests, warps;
  bool in_lanes;
} counter;

// ---- sectors ----------------------------------------------------------------------------------------------------

typedef struct sectors {
  int64_t items[QN_GPU_WARP * 9];  // a thread accesses 256 bytes at most, which need not be aligned
  int count;
} sectors;

static void add_sector(sectors *found, int64_t sector) {
  for (int i = 0; i < found->count; i++)
    if (found->items[i] == sector) return;
  if (found->count < (int)QN_COUNT(found->items)) found->items[found->count++] = sector;
}

static int64_t group_number(const qn_count_state *s) {
  for (int i = 0; i < s->depth; i++)
    if (s->frames[i].parallel) return s->frames[i].value;
  return 0;
}

// Sectors that a warp's request moves in the present iteration, for each of the groups in the warp; the lanes of `mask`
// take part. A place that is not known is a sector of its own.
static double look_at(counter *c, const qn_count_request *r, uint32_t mask) {
  sectors found = {.count = 0};
  int64_t first = group_number(&c->s);
  int groups = 0;
  for (int thread = 0; thread < QN_GPU_WARP; thread++) {
    int lane = thread % c->s.lanes, group = thread / c->s.lanes;
    if (group >= c->groups || (group > 0 && first + group >= c->extent)) break;
    groups = group + 1;
    if (!(mask >> lane & 1)) continue;
    int64_t at = 0, unknown = INT64_MIN / QN_GPU_SECTOR + thread;
    c->s.thread = thread;
    bool known = qn_count_eval(&c->s, r->index, &at);
    int64_t begin = at * r->bytes, end = begin + (int64_t)r->bytes * r->lanes - 1;
    if (!known) add_sector(&found, unknown);
    for (int64_t sector = begin / QN_GPU_SECTOR; known && sector <= end / QN_GPU_SECTOR; sector++)
      add_sector(&found, sector);
  }
  c->s.thread = 0;
  return (double)found.count / groups;
}

// Who does something, and where what it takes is noted.
typedef struct doing {
  double times, requests, warps;
  uint32_t mask;
  qn_gpu_path *path, *wait;  // wait: loads that are under way
} doing;

static void count_request(counter *c, qn_count_request *r, const doing *d) {
  if (r->looks < ENOUGH_LOOKS) {
    r->sectors += look_at(c, r, d->mask);
    r->looks++;
  }
  qn_gpu_traffic *t = &c->out->params[r->buf->param_index];
  double bytes = d->requests * __builtin_popcount(d->mask) * r->bytes * r->lanes;
  *(r->store ? &t->store_bytes : &t->load_bytes) += d->times * bytes;
  *(r->store ? &t->store_sectors : &t->load_sectors) += d->times * d->requests * r->sectors / r->looks;
  double *kind = c->s.params[r->buf->param_index].far ? &d->wait->memory : &d->wait->cache;
  if (!r->store && !r->copy && r->rounds > *kind) *kind = r->rounds;
}

static void count_work(counter *c, const qn_count_work *w, const doing *d) {
  double executed = d->times * d->warps;
  c->out->instructions += executed * w->instructions;
  c->out->fp32 += executed * w->fp32;
  c->out->i32 += executed * w->i32;
  c->out->shared_requests += executed * w->shared;
  d->path->instructions += w->instructions;
  if (w->shared > 0) d->wait->shared = 1;
}

// ---- the walk ---------------------------------------------------------------------------------------------------

static qn_gpu_path walk_block(counter *c, const qn_lblock *block);
static void walk_statements(counter *c, const qn_lblock *block, qn_gpu_path *path, qn_gpu_path *wait);

static void add_path(qn_gpu_path *into, const qn_gpu_path *from, double times) {
  into->memory += from->memory * times;
  into->cache += from->cache * times;
  into->shared += from->shared * times;
  into->barriers += from->barriers * times;
  into->instructions += from->instructions * times;
  into->copies += from->copies * times;
}

static void take_longest(qn_gpu_path *into, const qn_gpu_path *from) {
  if (from->memory > into->memory) into->memory = from->memory;
  if (from->cache > into->cache) into->cache = from->cache;
  if (from->shared > into->shared) into->shared = from->shared;
  if (from->barriers > into->barriers) into->barriers = from->barriers;
  if (from->instructions > into->instructions) into->instructions = from->instructions;
  if (from->copies > into->copies) into->copies = from->copies;
}

// What the statement does that does not change in the `up` innermost loops is done in front of them: false after their
// first iterations.
static bool find_doer(counter *c, const qn_lstmt *stmt, int up, qn_gpu_path *path, qn_gpu_path *wait, doing *out) {
  if (up > 0) {
    for (int i = c->s.depth - up; i < c->s.depth; i++)
      if (!c->s.frames[i].first) return false;
    qn_count_frame *f = &c->s.frames[c->s.depth - up];
    *out = (doing){f->times, f->requests, f->warps, f->mask, &f->before, &f->wait};
    return true;
  }
  *out = (doing){c->times, c->requests, c->warps, c->mask, path, wait};
  bool one = stmt->kind == QN_LS_STORE && !c->in_lanes &&
             (stmt->u.store.buf->kind == QN_LB_PARAM || stmt->u.store.buf->shared);
  if (!one) return true;
  out->mask = 1;
  out->requests = 1;
  if (out->warps > 1) out->warps = 1;
  return true;
}

// Adds what a statement does by itself; `wait` gets the loads that are under way after it.
static void count_statement(counter *c, const qn_lstmt *stmt, qn_gpu_path *path, qn_gpu_path *wait) {
  qn_count_profile *p = qn_count_profile_of(&c->s, stmt);
  doing d;
  if (!p) return;
  for (int up = 0; up < QN_COUNT_UPS && up <= c->s.depth; up++) {
    if (p->work[up].instructions > 0 && find_doer(c, stmt, up, path, wait, &d)) count_work(c, &p->work[up], &d);
  }
  for (size_t i = 0; i < p->requests.count; i++) {
    qn_count_request *r = &p->requests.items[i];
    if (r->up <= c->s.depth && find_doer(c, stmt, r->up, path, wait, &d)) count_request(c, r, &d);
  }
}

static void store_one(qn_count_state *s, const qn_lstmt *stmt, qn_count_local *local) {
  int64_t at = 0, value = 0;
  bool placed = qn_count_eval(s, stmt->u.store.index, &at) && at >= 0 && (size_t)at < local->count;
  if (!placed || stmt->u.store.mem != local->buf->mem) {  // anywhere
    memset(local->known, 0, local->count * sizeof *local->known);
    return;
  }
  bool known = qn_count_eval(s, stmt->u.store.value, &value);
  local->known[at] = known;
  local->values[at] = value;
}

// Of a number that each lane has of its own, the first one's is kept.
static void store_local(counter *c, const qn_lstmt *stmt) {
  qn_count_local *local = qn_count_local_of(&c->s, stmt->u.store.buf);
  for (int thread = c->in_lanes ? c->s.lanes - 1 : 0; local && thread >= 0; thread--) {
    c->s.thread = thread;
    if (c->mask >> thread & 1) store_one(&c->s, stmt, local);
  }
  c->s.thread = 0;
}

// Loads between two barriers, or loops, are under way together: the slowest is waited for.
static void finish_loads(qn_gpu_path *path, qn_gpu_path *wait) {
  if (wait->memory > 0) {
    path->memory += wait->memory;
  } else if (wait->cache > 0) {
    path->cache += wait->cache;
  } else {
    path->shared += wait->shared;
  }
  *wait = (qn_gpu_path){0};
}

// False for a loop that is left out.
static bool bounds_of(counter *c, const qn_lstmt *loop, int64_t *out_lo, int64_t *out_hi) {
  if (qn_count_eval(&c->s, loop->u.loop.lo, out_lo) && qn_count_eval(&c->s, loop->u.loop.hi, out_hi)) return true;
  c->out->left_out += c->times;
  return false;
}

static bool enter(counter *c, const qn_lstmt *loop, bool lane) {
  if (c->s.depth == QN_COUNT_DEPTH) {
    c->out->left_out += c->times;
    return false;
  }
  c->s.frames[c->s.depth++] = (qn_count_frame){.var = loop->u.loop.var,
                                               .lane = lane,
                                               .first = true,
                                               .times = c->times,
                                               .requests = c->requests,
                                               .warps = c->warps,
                                               .mask = c->mask,
                                               .in_lanes = c->in_lanes};
  return true;
}

// Puts things back as they were in front of the loop, whose path gets what was done there.
static void leave(counter *c, qn_gpu_path *path) {
  qn_count_frame *f = &c->s.frames[--c->s.depth];
  c->times = f->times;
  c->requests = f->requests;
  c->warps = f->warps;
  c->mask = f->mask;
  c->in_lanes = f->in_lanes;
  finish_loads(&f->before, &f->wait);
  add_path(path, &f->before, 1);
}

static uint32_t first_lanes(int64_t count) { return count >= QN_GPU_WARP ? UINT32_MAX : (1u << count) - 1; }

// A loop whose iterations the lanes share out: `lanes` at a time, of which a warp does a chunk. Where iterations differ
// chunks are walked one by one, else the first stands for all. What each lane does once is as if there were no loop:
// its loads are under way with those around it, in `wait`.
static qn_gpu_path walk_lanes(counter *c, const qn_lstmt *loop, int64_t lo, int64_t hi, qn_gpu_path *wait) {
  bool exact = qn_count_is_exact(&c->s, loop);
  int64_t trips = hi - lo, chunk = c->s.lanes, passes = (trips + c->lanes - 1) / c->lanes;
  int64_t chunks = c->lanes < QN_GPU_WARP ? passes : (trips + QN_GPU_WARP - 1) / QN_GPU_WARP;
  double part = (double)chunk / QN_GPU_WARP;
  qn_gpu_path longest = {0}, path = {0};
  if (!enter(c, loop, true)) return path;
  c->in_lanes = true;
  for (int64_t i = 0; i < (exact ? chunks : 1) && !c->s.failed; i++) {
    int64_t left = trips - i * chunk, active = left < chunk ? left : chunk;
    c->s.frames[c->s.depth - 1].value = lo + i * chunk;
    c->s.frames[c->s.depth - 1].first = i == 0;
    c->mask = first_lanes(active);
    c->requests = exact ? 1 : (double)trips / (double)active;
    c->warps = exact ? part : part * (double)chunks;
    qn_gpu_path once = {0};
    if (passes == 1)
      walk_statements(c, &loop->u.loop.body, &once, wait);
    else
      once = walk_block(c, &loop->u.loop.body);
    take_longest(&longest, &once);
  }
  add_path(&path, &longest, (double)passes);
  leave(c, &path);
  return path;
}

// How often each lane of the mask goes round a loop within a lane loop: the most, the mean, and those that do at all.
static bool lane_trips(counter *c, const qn_lstmt *loop, int64_t *out_lo, int64_t *out_most, double *out_mean,
                       uint32_t *out_mask) {
  int64_t sum = 0;
  *out_most = 0;
  *out_mask = 0;
  bool known = true;
  for (int thread = 0; thread < c->s.lanes && known; thread++) {
    int64_t lo = 0, hi = 0;
    if (!(c->mask >> thread & 1)) continue;
    c->s.thread = thread;
    known = bounds_of(c, loop, &lo, &hi);
    if (hi <= lo) continue;
    if (*out_mask == 0) *out_lo = lo;
    *out_mask |= 1u << thread;
    sum += hi - lo;
    if (hi - lo > *out_most) *out_most = hi - lo;
  }
  c->s.thread = 0;
  *out_mean = *out_mask ? (double)sum / __builtin_popcount(*out_mask) : 0;
  return known;
}

// A loop that each lane walks by itself, or all of them together: one iteration after another where they differ.
static bool holds_loops(const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR && (s->u.loop.mark != QN_LM_LANE || holds_loops(&s->u.loop.body))) return true;
  }
  return false;
}

// Loads that are under way at the same time: of the copies of an innermost loop's body, where nothing in it waits.
static void overlap(const qn_lstmt *loop, qn_gpu_path *body, int64_t trips) {
  double copies = COPIES_INSTRUCTIONS / (body->instructions + 1);
  if (body->barriers > 0 || body->copies > 0 || copies <= 1 || holds_loops(&loop->u.loop.body)) return;
  if (copies > MOST_COPIES) copies = MOST_COPIES;
  if (copies > (double)trips) copies = (double)trips;
  body->memory /= copies;
  body->cache /= copies;
  body->shared /= copies;
}

static qn_gpu_path walk_serial(counter *c, const qn_lstmt *loop, int64_t lo, int64_t trips, double mean) {
  bool exact = qn_count_is_exact(&c->s, loop);
  qn_gpu_path path = {0};
  if (!enter(c, loop, false)) return path;
  c->out->instructions += c->times * c->warps * (double)trips * LOOP_INSTRUCTIONS;
  path.instructions = LOOP_INSTRUCTIONS * (double)trips;
  if (!exact) {
    c->times *= (double)trips;
    c->requests *= mean / (double)trips;
  }
  for (int64_t i = 0; i < (exact ? trips : 1) && !c->s.failed; i++) {
    c->s.frames[c->s.depth - 1].value = lo + i;
    c->s.frames[c->s.depth - 1].first = i == 0;
    qn_gpu_path once = walk_block(c, &loop->u.loop.body);
    overlap(loop, &once, trips);
    add_path(&path, &once, exact ? 1 : (double)trips);
  }
  leave(c, &path);
  return path;
}

static void walk_loop(counter *c, const qn_lstmt *loop, qn_gpu_path *path, qn_gpu_path *wait) {
  qn_gpu_path inner = {0};
  int64_t lo = 0, hi = 0;
  bool lane = loop->u.loop.mark == QN_LM_LANE && c->lanes > 1;
  count_statement(c, loop, path, wait);
  if (c->in_lanes) {
    double mean = 0;
    uint32_t all = c->mask, mask = 0;
    if (!lane_trips(c, loop, &lo, &hi, &mean, &mask)) return;
    finish_loads(path, wait);
    c->mask = mask;
    if (mask) inner = walk_serial(c, loop, lo, hi, mean);
    c->mask = all;
  } else {
    if (!bounds_of(c, loop, &lo, &hi) || hi <= lo) return;
    if (!lane || hi - lo > c->lanes) finish_loads(path, wait);
    inner = lane ? walk_lanes(c, loop, lo, hi, wait) : walk_serial(c, loop, lo, hi - lo, (double)(hi - lo));
  }
  add_path(path, &inner, 1);
}

static void forget_local(qn_count_state *s, const qn_lbuf *buf) {
  qn_count_local *local = qn_count_local_of(s, buf);
  if (local) memset(local->known, 0, local->count * sizeof *local->known);
}

static void count_mma(counter *c, const qn_lstmt *stmt) {
  const qn_lmma_info *info = qn_lmma_info_of(stmt->u.mma.kind);
  bool integers = info->sum == QN_LM_I32;
  double each = 2.0 * QN_MMA_ROWS * QN_MMA_COLUMNS * info->words * (integers ? 4 : 2);
  *(integers ? &c->out->tensor_int8_ops : &c->out->tensor_f16_ops) += c->times * c->warps * each;
}

// `wait` gets the loads that are under way at the end.
static void walk_statements(counter *c, const qn_lblock *block, qn_gpu_path *path, qn_gpu_path *wait) {
  for (const qn_lstmt *stmt = block->first; stmt && !c->s.failed; stmt = stmt->next) {
    switch (stmt->kind) {
      case QN_LS_FOR: walk_loop(c, stmt, path, wait); break;
      case QN_LS_STORE:
        count_statement(c, stmt, path, wait);
        store_local(c, stmt);
        break;
      case QN_LS_LOCAL: forget_local(&c->s, stmt->u.local.buf); break;
      case QN_LS_BARRIER:
        finish_loads(path, wait);
        path->barriers += 1;
        count_statement(c, stmt, path, wait);
        break;
      case QN_LS_WAIT:
        finish_loads(path, wait);
        path->copies += 1.0 / (stmt->u.wait.groups + 1);
        count_statement(c, stmt, path, wait);
        break;
      case QN_LS_MMA:
        count_mma(c, stmt);
        count_statement(c, stmt, path, wait);
        break;
      case QN_LS_COPY:
      case QN_LS_COMMIT:
      case QN_LS_PREFETCH: count_statement(c, stmt, path, wait); break;
    }
  }
}

static qn_gpu_path walk_block(counter *c, const qn_lblock *block) {
  qn_gpu_path path = {0}, wait = {0};
  walk_statements(c, block, &path, &wait);
  finish_loads(&path, &wait);
  return path;
}

// The parallel loop: iterations are groups.
static void walk_groups(counter *c) {
  const qn_lstmt *loop = c->s.kernel->body.first;
  const qn_lblock *body = &c->s.kernel->body;
  bool exact = false;
  c->extent = 1;
  if (loop && loop->kind == QN_LS_FOR && loop->u.loop.mark == QN_LM_PARALLEL) {
    int64_t lo = 0;
    if (!bounds_of(c, loop, &lo, &c->extent)) return;
    exact = qn_count_is_exact(&c->s, loop);
    body = &loop->u.loop.body;
    c->s.frames[c->s.depth++] = (qn_count_frame){.var = loop->u.loop.var, .parallel = true, .first = true};
  }
  int64_t walked = exact ? c->extent : c->extent > 0;
  c->out->groups = (double)c->extent;
  c->times = exact ? 1 : (double)c->extent;
  c->out->instructions += (double)c->extent * c->warps * WARP_INSTRUCTIONS;
  for (int64_t i = 0; i < walked && !c->s.failed; i++) {
    c->s.frames[0].value = i;
    qn_gpu_path path = walk_block(c, body);
    add_path(&c->out->all, &path, c->times);
    take_longest(&c->out->longest, &path);
  }
}

qn_status qn_gpu_count(const qn_lkernel *kernel, const qn_gpu_schedule *schedule, const qn_gpu_param *params,
                       const int64_t symbols[QN_SYM_COUNT], qn_arena *arena, qn_gpu_counts *out, qn_diag *diag) {
  int lanes = schedule->lanes;
  counter c = {.s = {.arena = arena,
                     .kernel = kernel,
                     .params = params,
                     .symbols = symbols,
                     .lanes = lanes < QN_GPU_WARP ? lanes : QN_GPU_WARP},
               .out = out,
               .lanes = lanes,
               .groups = schedule->groups,
               .times = 1,
               .mask = first_lanes(lanes),
               .requests = lanes < QN_GPU_WARP ? 1 : (double)lanes / QN_GPU_WARP,
               .warps = (double)lanes / QN_GPU_WARP};
  *out = (qn_gpu_counts){.params = QN_ARENA_ARRAY(arena, kernel->param_count, qn_gpu_traffic)};
  if (!out->params) return qn_fail_nomem(diag, kernel->name, "counting what it does");
  qn_map_init(&c.s.exact, arena->allocator);
  qn_map_init(&c.s.profiles, arena->allocator);
  qn_count_find_locals(&c.s);
  if (!c.s.failed) qn_count_plan(&c.s);
  if (!c.s.failed) walk_groups(&c);
  qn_map_deinit(&c.s.exact);
  qn_map_deinit(&c.s.profiles);
  return c.s.failed ? qn_fail_nomem(diag, kernel->name, "counting what it does") : QN_OK;
}
