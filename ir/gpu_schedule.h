// How a kernel is spread over a GPU: the short list of values that the passes which map loops to threads, the writer of
// CUDA C++ and whoever starts the kernel agree on. Two schedules of one kernel compute the same bits.
#ifndef QN_IR_GPU_SCHEDULE_H
#define QN_IR_GPU_SCHEDULE_H

#include "ir/loop.h"

#define QN_GPU_BLOCK_THREADS_MAX 1024
#define QN_GPU_WARP              32
#define QN_GPU_STAGES_MAX        8

typedef struct qn_gpu_schedule {
  int lanes;  // threads of a group, which does one iteration of the parallel loop: 1, 2, 4, ... 32, or a multiple of 32
  int groups;  // of a block; 1 where a group is more than a warp
  // What a group streams comes through a ring in shared memory: so many stages, one worked on while the others are
  // copied. 0 = lanes load for themselves.
  int stages;
  int stage_bytes;  // of a parameter in a stage, at most, but one iteration of the reduction at least
  // Groups that share what one would do of a row, of a step of few rows; 0 = one does it.
  int parts;
} qn_gpu_schedule;

bool qn_gpu_schedule_equal(const qn_gpu_schedule *a, const qn_gpu_schedule *b);
// "lanes = 16", a line a value.
void qn_gpu_schedule_print(const qn_gpu_schedule *schedule, qn_buf *out);
// Errors say which value, got and want.
QN_CHECKED qn_status qn_gpu_schedule_check(const qn_gpu_schedule *schedule, const char *where, qn_diag *diag);

#endif
