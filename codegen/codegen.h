// What a code generator does: kernels in, machine code out, as bytes for an artifact or linked into this process.
#ifndef QN_CODEGEN_CODEGEN_H
#define QN_CODEGEN_CODEGEN_H

#include "codegen/target.h"
#include "ir/loop.h"
#include "runtime/artifact.h"

// For a CPU: position-independent code with no external symbols and nothing left to relocate; map it readable and
// executable at any page and call base + offset. For a GPU: a cubin and the same as PTX, for the driver.
typedef struct qn_code {
  const qn_allocator *allocator;  // borrowed; owns the rest
  uint8_t *image;
  size_t image_size;
  uint64_t *offsets;        // CPU: one a kernel, in the order given
  qn_art_launch *launches;  // GPU: one a kernel, in the order given
  size_t kernel_count;
  size_t cubin_size, ptx_size;  // GPU: together the image
} qn_code;
void qn_code_deinit(qn_code *code);

// The signature of every kernel: `buffers` has one pointer a parameter, `symbols` the values by qn_symbol, and
// [begin, end) is the range of the parallel loop to do (ignored by a kernel without one).
typedef void (*qn_kernel_fn)(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end);

typedef struct qn_codegen_options {
  const qn_target *target;  // borrowed
  int threads;              // compile with this many; 0 = as many as the machine has
  // Called with each stage's text when not NULL ("mlir", "llvm", "asm"): one module of kernels a call.
  void (*dump)(void *context, const char *stage, const char *text, size_t length);
  void *dump_context;
} qn_codegen_options;

// Kernels → one image. Kernels must have passed qn_lkernel_verify.
QN_CHECKED qn_status qn_cpu_compile(const qn_lkernel *const *kernels, size_t count, const qn_codegen_options *options,
                                    const qn_allocator *allocator, qn_code *out, qn_diag *diag);

// Kernels → functions in this process, through LLJIT. The target must be one that this machine runs.
typedef struct qn_jit qn_jit;
QN_CHECKED qn_status qn_jit_create(const qn_lkernel *const *kernels, size_t count, const qn_codegen_options *options,
                                   const qn_allocator *allocator, qn_jit **out, qn_diag *diag);
qn_kernel_fn qn_jit_kernel(const qn_jit *jit, size_t index);
void qn_jit_destroy(qn_jit *jit);

#endif
