// The loop passes for GPUs: they map a kernel's loops to groups of threads and their lanes (see qn_lmark, ir/loop.h).
// gpu_passes.def lists them in the order in which loop_pipeline.c runs them.
#ifndef QN_PASSES_GPU_PASS_H
#define QN_PASSES_GPU_PASS_H

#include "ir/gpu_schedule.h"
#include "ir/program.h"
#include "passes/loop_pass.h"

// Not in loop_passes.def: a CPU's lanes are vectors.
QN_CHECKED qn_status qn_pass_spread_rows(qn_loop_pass_context *context);
// The most groups that can share a row of the kernel as lowered; 1 = it is one group's (spread_rows.c).
int64_t qn_row_parts(const qn_lkernel *kernel);
QN_CHECKED qn_status qn_pass_map_mma(qn_loop_pass_context *context);
QN_CHECKED qn_status qn_pass_map_lanes(qn_loop_pass_context *context);
QN_CHECKED qn_status qn_pass_join_chains(qn_loop_pass_context *context);
QN_CHECKED qn_status qn_pass_stage_streams(qn_loop_pass_context *context);
QN_CHECKED qn_status qn_pass_copy_tiles(qn_loop_pass_context *context);
QN_CHECKED qn_status qn_pass_split_chains(qn_loop_pass_context *context);
// What join_chains does in lane loops, to the reductions that stand in the block itself.
void qn_join_reductions(qn_lbuild *b, qn_lblock *block);
QN_CHECKED qn_status qn_pass_share_lanes(qn_loop_pass_context *context);
// Says of each local around lane loops whether it is shared (share_lanes.c); map_lanes does it first, and share_lanes
// again when indices are as constant as they get.
void qn_share_locals(qn_lblock *block);

// qn_loop_pipeline with the passes of gpu_passes.def.
QN_CHECKED qn_status qn_gpu_pipeline(qn_loop_pass_context *context, qn_loop_dump_fn dump, void *dump_context);

// A kernel as the GPU passes leave it for row counts rows_min to rows_max.
typedef struct qn_gpu_variant {
  int64_t rows_min, rows_max;
  qn_gpu_schedule schedule;
  const qn_lkernel *kernel;
  // Of its parallel loop, groups' iterations, or a number that is no less; 0: the kernel does nothing. NULL when it has
  // no such loop: one group does it all.
  const qn_lexpr *extent;
  // Of the extent's symbol an iteration does so many: the extent is a number times ceil(symbol / rows_each).
  int rows_each;
} qn_gpu_variant;

// The kernel's variants with the default schedules, in the arena; at most QN_MAX_VARIANTS. max_rows: the most rows a
// step has.
QN_CHECKED qn_status qn_gpu_variants(const qn_pkernel *kernel, int64_t max_rows, qn_arena *arena, qn_gpu_variant *out,
                                     int *out_count, qn_diag *diag);

#endif
