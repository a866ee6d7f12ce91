// Loop IR kernels → CUDA C++ that is meant to be read: a function a kernel, a line a statement. What a group and its
// lanes are is said at qn_lmark (ir/loop.h).
#ifndef QN_CODEGEN_CUDA_EMIT_H
#define QN_CODEGEN_CUDA_EMIT_H

#include "ir/gpu_schedule.h"
#include "ir/loop.h"

// Without a number ptxas goes for more threads than hide latency, and spills.
#define QN_CUDA_RESIDENT_THREADS 512

typedef struct qn_cuda_kernel {
  const qn_lkernel *kernel;  // borrowed; verified
  qn_gpu_schedule schedule;
  // Threads that a multiprocessor is promised to hold at once, among which it shares out its registers; 0 =
  // QN_CUDA_RESIDENT_THREADS.
  int resident_threads;
  // Set by qn_cuda_emit: dynamic shared memory that a block needs.
  int64_t shared_bytes;
} qn_cuda_kernel;

// Writes
//   extern "C" __global__ void NAME(<a pointer a parameter>, int T, int R, int P, int B, int G)
// for each kernel, to be started with lanes * groups threads a block and as many blocks as the parallel loop's extent
// needs at `groups` iterations a block (one without such a loop). Symbols reach 2^31 - 1. No header is included.
// QN_ERR_ARGUMENT: a schedule that none can have.
QN_CHECKED qn_status qn_cuda_emit(qn_cuda_kernel *kernels, size_t count, qn_buf *out, qn_diag *diag);

#endif
