// Mapped kernels → what an artifact holds of them for a GPU: CUDA C++, through NVRTC, as a cubin and PTX.
#ifndef QN_CODEGEN_CUDA_COMPILE_H
#define QN_CODEGEN_CUDA_COMPILE_H

#include "codegen/codegen.h"
#include "codegen/cuda/emit.h"
#include "codegen/cuda/nvrtc.h"

typedef struct qn_cuda_options {
  const qn_target *target;   // borrowed; of arch QN_ARCH_CUDA
  qn_nvrtc_options nvrtc;    // where the library is
  const char *cache_folder;  // where NVRTC's results are kept (nvrtc_cache.h); NULL = nowhere
  // Called with each stage's text when not NULL: "cuda" (the source), "ptx", "ptxas" (what that says of each kernel).
  void (*dump)(void *context, const char *stage, const char *text, size_t length);
  void *dump_context;
} qn_cuda_options;

// The source alone, handed to options->dump as "cuda"; sets what the kernels need of shared memory. Needs no NVRTC.
QN_CHECKED qn_status qn_cuda_show(qn_cuda_kernel *kernels, size_t count, const qn_cuda_options *options,
                                  const qn_allocator *allocator, qn_diag *diag);

// What qn_cuda_compile does with NVRTC: writes the source, into `source`, and compiles it for chip `sm`. Kernels that spill
// registers are promised fewer resident threads, down to those of one block, and everything is compiled again; what was
// promised is set in the kernels. `name` is for messages. *out is to be deinitialised by the caller after success.
QN_CHECKED qn_status qn_cuda_build(const qn_nvrtc *nvrtc, const char *cache_folder, const char *name, int sm,
                                   qn_cuda_kernel *kernels, size_t count, qn_buf *source, qn_nvrtc_code *out,
                                   qn_diag *diag);

// Kernels → code with a launch each, in their order. Errors: TARGET (no NVRTC), UNSUPPORTED (it does not know the chip,
// or a kernel needs more than the chip has), and those of qn_cuda_emit and qn_nvrtc_compile.
QN_CHECKED qn_status qn_cuda_compile(qn_cuda_kernel *kernels, size_t count, const qn_cuda_options *options,
                                     const qn_allocator *allocator, qn_code *out, qn_diag *diag);

#endif
