// A kernel's variants for GPUs, by row count, and their default schedules.
#include <inttypes.h>

#include "passes/gpu_pass.h"
#include "passes/loop_util.h"

// ---- schedules --------------------------------------------------------------------------------------------------

// What lanes copy needs no lanes of its own.
static bool is_copying(const qn_lstmt *loop) {
  const qn_lstmt *body = loop->u.loop.body.first;
  return body && body->kind == QN_LS_COPY && !body->next;
}

// The most iterations that a lane loop of the block is known to have; `unknown` where one is not.
static int64_t widest_lane_loop(qn_lbuild *b, const qn_lblock *block, int64_t unknown) {
  int64_t widest = 1, trips = 0;
  for (const qn_lstmt *s = block->first; s && !b->failed; s = s->next) {
    if (s->kind != QN_LS_FOR || is_copying(s)) continue;
    if (s->u.loop.mark != QN_LM_LANE) {
      trips = widest_lane_loop(b, &s->u.loop.body, unknown);
    } else if (!qn_loop_const_trips(b, s, &trips)) {
      int64_t lo = qn_lexpr_range(s->u.loop.lo).min, hi = qn_lexpr_range(s->u.loop.hi).max;
      trips = lo == INT64_MIN || hi == INT64_MAX ? unknown : hi - lo;
    }
    if (trips > widest) widest = trips;
  }
  return widest;
}

// The lanes that a local of the block has elements for, each its own; 0 = there is none.
static int64_t own_lanes(const qn_lblock *block) {
  int64_t elements = 0, lanes = 0;
  for (const qn_lstmt *s = block->first; s && lanes == 0; s = s->next) {
    if (s->kind == QN_LS_FOR) lanes = own_lanes(&s->u.loop.body);
    bool own = s->kind == QN_LS_LOCAL && s->u.local.buf->each > 0;
    if (own && qn_lexpr_is_int(s->u.local.buf->elements, &elements)) lanes = elements / s->u.local.buf->each;
  }
  return lanes;
}

enum {
  // The largest chips have about 150 multiprocessors. Each needs this much on its way from memory to keep it busy: its
  // share of the bandwidth times the latency (8 TB/s / 148 * 0.9 us on a B200; 23 KiB on an H100).
  MULTIPROCESSORS = 150,
  ON_THE_WAY = 48 << 10,
};

// How a group brings what it streams: the more groups share a multiprocessor, the less each has under way.
static void choose_ring(const qn_lkernel *kernel, qn_gpu_schedule *out) {
  enum { STAGES = 4, FEWEST_GROUPS = 2, MOST_GROUPS = 4 };
  const qn_lstmt *loop = kernel->body.first;
  int64_t panels = 0, groups = MOST_GROUPS;
  if (loop && loop->kind == QN_LS_FOR && qn_lexpr_is_int(loop->u.loop.hi, &panels)) groups = panels / MULTIPROCESSORS;
  if (groups < FEWEST_GROUPS) groups = FEWEST_GROUPS;
  if (groups > MOST_GROUPS) groups = MOST_GROUPS;
  out->stages = STAGES;
  out->stage_bytes = (int)(ON_THE_WAY / STAGES / groups);
}

// Bytes of shared memory that a group needs.
static int64_t shared_bytes(const qn_lblock *block) {
  int64_t bytes = 0, elements = 0;
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR) bytes += shared_bytes(&s->u.loop.body);
    if (s->kind != QN_LS_LOCAL || !s->u.local.buf->shared) continue;
    if (qn_lexpr_is_int(s->u.local.buf->elements, &elements))
      bytes += elements * (int64_t)qn_lmem_size(s->u.local.buf->mem);
  }
  return bytes;
}

static bool has_copies(const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_COPY || (s->kind == QN_LS_FOR && has_copies(&s->u.loop.body))) return true;
  }
  return false;
}

// As many lanes as the widest lane loop keeps busy, in steps that a group may have; groups enough for a block of a few
// warps, which hide each other's latency, but no more than leave blocks for all multiprocessors, down to a warp, and
// than the shared memory that all chips have holds what they need.
static void choose_lanes(qn_lbuild *b, const qn_lexpr *extent, qn_gpu_schedule *out) {
  enum { BLOCK_THREADS = 128, MOST_LANES = 256, ENOUGH_BLOCKS = 2 * MULTIPROCESSORS, SHARED_BYTES = 80 << 10 };
  int64_t own = own_lanes(&b->kernel->body), bytes = shared_bytes(&b->kernel->body);
  int64_t widest = widest_lane_loop(b, &b->kernel->body, MOST_LANES);
  qn_gpu_schedule schedule = *out;
  schedule.lanes = schedule.groups = 1;
  if (own > 0) {
    out->lanes = (int)own;
    out->groups = 1;
    return;
  }
  while (schedule.lanes < widest && schedule.lanes < MOST_LANES) schedule.lanes *= 2;
  if (schedule.lanes <= QN_GPU_WARP) schedule.groups = BLOCK_THREADS / schedule.lanes;
  int64_t known = 0;
  bool few = extent && qn_lexpr_is_int(extent, &known);
  while (few && schedule.groups > 1 && schedule.groups * schedule.lanes > QN_GPU_WARP &&
         known / schedule.groups < ENOUGH_BLOCKS)
    schedule.groups /= 2;
  while (schedule.groups > 1 && schedule.groups * bytes > SHARED_BYTES) schedule.groups /= 2;
  *out = schedule;
}

// Do tensor cores make the sums? Those of integers for several rows, which is exact; those of 16-bit floats for any
// number, since they are the chip's. Not of experts, whose rows lie apart (map_mma.c).
static bool has_mma(const qn_pkernel *kernel) {
  return kernel->is_matmul && kernel->experts == 0 && (kernel->input == QN_DTYPE_A8 || kernel->halves);
}

enum { FEW_TOKENS = 16 };

// Tiles of tensor cores: blocks of 128 rows by 64 tokens, of which a warp has 16 by 64, whose sums fit its registers; half
// the tokens where two products are summed at a time; few tokens have smaller blocks, of which there are more. No block has
// more warps than there are panels.
static void choose_tile(const qn_pkernel *kernel, int64_t most, qn_schedule *out) {
  bool few = most <= FEW_TOKENS;
  if (!has_mma(kernel) || (most == 1 && !kernel->halves)) return;
  out->m_tiles[0] = few ? FEW_TOKENS : kernel->products > 1 ? 32 : 64;
  out->m_tiles[1] = 1;
  out->m_tile_count = 2;
  int warps = few ? 4 : 8;
  out->n_block = kernel->panels < warps ? (int)kernel->panels : warps;
}

// Iterations of the parallel loop: where they are no product with a symbol, at most so many.
static const qn_lexpr *extent_of(qn_lbuild *b, const qn_lkernel *kernel) {
  const qn_lstmt *loop = kernel->body.first;
  if (!loop) return qn_lint(b, 0);
  if (loop->kind != QN_LS_FOR || loop->u.loop.mark != QN_LM_PARALLEL) return NULL;
  int64_t most = qn_lexpr_range(loop->u.loop.hi).max;
  return most == INT64_MAX ? loop->u.loop.hi : qn_lint(b, most);
}

// most: the most rows that it will see; parts: groups that share one.
static qn_status make_variant(const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max, int64_t most,
                              int64_t parts, qn_arena *arena, qn_gpu_variant *out, qn_diag *diag) {
  bool whole = kernel->rows == QN_SYM_NONE;
  const char *name = whole || rows_min == 0 ? qn_arena_strdup(arena, kernel->name)
                                            : qn_arena_printf(arena, "%s__m%" PRId64, kernel->name, rows_min);
  qn_lbuild build;
  qn_lkernel *copy = name ? qn_lkernel_copy(&build, arena, kernel->plain, name) : NULL;
  if (!copy) return qn_fail_nomem(diag, kernel->name, "a kernel variant");
  qn_schedule schedule = qn_schedule_plain();
  schedule.k_unroll = 1;
  schedule.parallel = 1;
  choose_tile(kernel, most, &schedule);
  qn_gpu_schedule lanes = {.parts = parts > 1 ? (int)parts : 0};
  qn_loop_pass_context loops = {.build = &build, .schedule = &schedule, .diag = diag, .gpu = &lanes};
  if (!whole && rows_min == rows_max) QN_TRY(qn_pass_specialise(&loops, kernel->rows, rows_min));
  choose_ring(copy, &lanes);
  QN_TRY(qn_gpu_pipeline(&loops, NULL, NULL));
  *out = (qn_gpu_variant){.rows_min = rows_min, .rows_max = rows_max, .kernel = copy};
  out->extent = extent_of(&build, copy);
  if (!kernel->is_matmul || !has_copies(&copy->body)) lanes.stages = lanes.stage_bytes = 0;
  choose_lanes(&build, out->extent, &lanes);
  out->schedule = lanes;
  out->rows_each = own_lanes(&copy->body) > 0 ? schedule.m_tiles[0] : 1;
  return build.failed ? qn_fail_nomem(diag, kernel->name, "a kernel variant") : QN_OK;
}

// Of many rows each is read by fewer groups: what all of them read together grows with both.
static int64_t parts_of_many(int64_t parts) {
  int64_t most = 8;
  while (parts % most != 0) most--;
  return most;
}

qn_status qn_gpu_variants(const qn_pkernel *kernel, int64_t max_rows, qn_arena *arena, qn_gpu_variant *out,
                          int *out_count, qn_diag *diag) {
  int64_t parts = kernel->is_matmul ? 1 : qn_row_parts(kernel->plain);
  bool by_rows = kernel->rows != QN_SYM_NONE && (kernel->is_matmul || kernel->tile_rows > 0 || parts > 1);
  *out_count = 0;
  if (!by_rows) return make_variant(kernel, 0, INT64_MAX, INT64_MAX, 1, arena, &out[(*out_count)++], diag);
  int64_t first = kernel->halves || parts > 1 ? 1 : 2;  // where one row is as a few
  int64_t few = (has_mma(kernel) || parts > 1) && max_rows > FEW_TOKENS ? FEW_TOKENS : INT64_MAX;
  if (first > 1) QN_TRY(make_variant(kernel, 1, 1, 1, 1, arena, &out[(*out_count)++], diag));
  if (max_rows < first) return QN_OK;
  int64_t most = few < max_rows ? few : max_rows;
  QN_TRY(make_variant(kernel, first, few, most, parts, arena, &out[(*out_count)++], diag));
  if (few >= max_rows) return QN_OK;
  return make_variant(kernel, few + 1, INT64_MAX, max_rows, parts_of_many(parts), arena, &out[(*out_count)++],
                      diag);
}
