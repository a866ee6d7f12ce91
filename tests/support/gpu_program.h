// A small program for GPUs, laid out by hand with kernels in PTX, and the driver that tests of GPUs run on: the
// simulator, or a real one where QUERN_TEST_LIBCUDA names its library (tests/README.md).
#ifndef QN_TESTS_SUPPORT_GPU_PROGRAM_H
#define QN_TESTS_SUPPORT_GPU_PROGRAM_H

#include "runtime/device_cuda.h"
#include "tests/support/artifact_builder.h"

enum {  // symbols' bounds, and how the values lie
  QN_GPU_MAX_T = 64,
  QN_GPU_MAX_R = 8,
  QN_GPU_COLUMNS = 20,
  QN_GPU_PITCH = 32,  // of the output "out", f32
  QN_GPU_PAGE_BYTES = 256,
};

// The path of the driver's library.
const char *qn_test_libcuda(void);
// Is it the simulator? Then its own functions (tests/ptxsim/support_sim.h) tell what was done.
bool qn_test_simulated(void);

// Inputs x: i32 [T] and table: i32 [B, P]; a weight w: f32 [64], all of `bias`; a cache "k".
//   first    hidden[t] = 2 * x[t] + 1                            blocks of 4 groups, of which lane 0 works
//   second   out[r][c] = hidden[r] + c + 1000 (one row) or 2000  output "out" [R, 20]
//   third    k[0] += 1; sums = (out[0][0] + w[0], k[0], table's last element of row 0, shared memory's size)  output
//   "sums" [4]
// The artifact's only program; its code is PTX for cuda:sm_80.
void qn_gpu_program_describe(qn_test_artifact *a, float bias);
// The PTX; names of functions: first, second_one, second_many, third.
extern const char qn_gpu_program_ptx[];
size_t qn_gpu_program_ptx_size(void);  // with the NUL
extern const qn_art_launch qn_gpu_program_launches[];

// Opened from the description, which is deinitialised.
qn_artifact qn_gpu_program_open(qn_test_artifact *a);

#endif
