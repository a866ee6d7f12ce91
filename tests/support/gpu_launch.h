// Runs a graph's GPU kernels as they would be shipped: CUDA C++ through NVRTC, its PTX by the simulator. What
// qn_run_options.launch wants. Needs NVRTC, no GPU.
#ifndef QN_TESTS_SUPPORT_GPU_LAUNCH_H
#define QN_TESTS_SUPPORT_GPU_LAUNCH_H

#include "codegen/cuda/emit.h"
#include "tests/ptxsim/support_sim.h"
#include "tests/support/graph_run.h"

enum { QN_GPU_MAX_KERNELS = 64, QN_GPU_MAX_PARAMS = 48 };

// A program's kernels on the device; all zero but for sm.
typedef struct qn_gpu_device {
  int sm;
  CUmodule module;
  qn_cuda_kernel kernels[QN_GPU_MAX_KERNELS];
  size_t count;
  void (*edit)(char *ptx);  // what becomes of the PTX before it is loaded; NULL = nothing
} qn_gpu_device;

// The kernels through NVRTC into a module; sets what they need of shared memory.
void qn_gpu_load(qn_gpu_device *device);
// One launch, after sim_start: buffers are brought there and back, so that an access beyond one is a fault, and labelled
// "streamed", "out", "cache" or "in". context: a qn_gpu_device; its kernels are loaded the first time.
void qn_gpu_launch(void *context, qn_run *run, size_t number, const qn_gpu_variant *variant,
                   const qn_linterp_buffer *buffers, const int64_t *symbols, int64_t extent);
// A loaded kernel, with these buffers.
void qn_gpu_launch_kernel(qn_gpu_device *device, const qn_lkernel *kernel, const qn_linterp_buffer *buffers,
                          const int64_t *symbols, int64_t extent);
// The same up to the fault that is expected: what was brought there stays until sim_start.
CUresult qn_gpu_try_kernel(qn_gpu_device *device, const qn_lkernel *kernel, const qn_linterp_buffer *buffers,
                           const int64_t *symbols, int64_t extent);
// All kernels of a program, to be loaded when one is launched.
void qn_gpu_gather(qn_gpu_device *device, qn_run *run);

#endif
