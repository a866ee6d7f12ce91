// What a launch of a kernel asks of a GPU, counted from its loop IR as the GPU passes leave it: bytes and sectors by
// parameter, instructions, and what a group of lanes waits for one after another. No kernel is run: a loop whose
// iterations do alike is walked once, others as often as they go round, which positions and block tables of the step
// say.
#ifndef QN_PASSES_GPU_COUNT_H
#define QN_PASSES_GPU_COUNT_H

#include "ir/gpu_schedule.h"
#include "ir/loop.h"

#define QN_GPU_SECTOR 32  // bytes: what moves between the second cache and a multiprocessor

// What is known of a parameter beforehand.
typedef struct qn_gpu_param {
  // Of an input that bounds or places depend on (positions, block tables); borrowed, NULL = not known.
  const int32_t *data;
  size_t count;
  bool far;  // weights, keys and values: from memory, where other values are in the second cache
} qn_gpu_param;

// Sectors are counted by request, that is by instruction of a warp, as if nothing were cached nearer.
typedef struct qn_gpu_traffic {
  double load_bytes, load_sectors;
  double store_bytes, store_sectors;
} qn_gpu_traffic;

// What one group of lanes does in a row: rounds of loads from memory, from the second cache and from shared memory that
// wait for those before them (parts of one where iterations of a loop wait together), barriers, and instructions of one of
// its warps. `copies`, which go on beside all that, counts waits for asynchronous ones, of which several are under way at a
// time: each as that part of a load from memory.
typedef struct qn_gpu_path {
  double memory, cache, shared, barriers, instructions, copies;
} qn_gpu_path;

typedef struct qn_gpu_counts {
  double groups;                           // iterations of the parallel loop
  double instructions;                     // of warps
  double fp32, i32;                        // of these, arithmetic on floats and on integers
  double shared_requests;                  // of these, accesses to shared memory
  double tensor_int8_ops, tensor_f16_ops;  // multiplications and additions by tensor cores
  qn_gpu_path all, longest;                // the sum over groups, and the most of each
  // Times that a loop was met whose length only values tell (what is sampled from, say), or that nests too deep: it is
  // left out.
  double left_out;
  qn_gpu_traffic *params;  // arena: one a parameter
} qn_gpu_counts;

// Counts a launch of a mapped kernel with these values of symbols. `params`: one a parameter of the kernel. What is
// made on the way is in the arena. Errors: NOMEM.
QN_CHECKED qn_status qn_gpu_count(const qn_lkernel *kernel, const qn_gpu_schedule *schedule, const qn_gpu_param *params,
                                  const int64_t symbols[QN_SYM_COUNT], qn_arena *arena, qn_gpu_counts *out,
                                  qn_diag *diag);

#endif
