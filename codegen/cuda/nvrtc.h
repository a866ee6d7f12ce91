// NVRTC, NVIDIA's CUDA C++ compiler as a library: found and loaded when it is wanted, so that nothing of ours is linked
// to it and a machine without it only lacks CUDA targets. Needs no driver and no GPU.
#ifndef QN_CODEGEN_CUDA_NVRTC_H
#define QN_CODEGEN_CUDA_NVRTC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/alloc.h"
#include "runtime/base/diag.h"

#define QN_NVRTC_LIBRARY_VARIABLE "QUERN_NVRTC"  // environment: the library's path
#define QN_NVRTC_CACHE_VARIABLE   "QUERN_NVRTC_CACHE"  // environment: the folder where its results are kept

typedef struct qn_nvrtc_options {
  // Path of libnvrtc. NULL or "": $QUERN_NVRTC where that is set, else libnvrtc.so.13 or .12 as the system finds it, in
  // $CUDA_PATH or $CUDA_HOME, or in /usr/local/cuda.
  const char *library;
  // Folder of the toolkit's headers; NULL: include/ of the toolkit that the library belongs to, if it is there. The
  // source that codegen/cuda writes includes none.
  const char *include;
  // No machine code, and no word of ptxas, which take most of the time: for what runs PTX.
  bool ptx_alone;
} qn_nvrtc_options;

typedef struct qn_nvrtc qn_nvrtc;

// Loads the library; it stays loaded until the process ends. No NVRTC, or not one: QN_ERR_TARGET, which says where it
// was looked for. Give the handle back with qn_nvrtc_close.
QN_CHECKED qn_status qn_nvrtc_open(const qn_nvrtc_options *options, const qn_allocator *allocator, qn_nvrtc **out,
                                   qn_diag *diag);
void qn_nvrtc_close(qn_nvrtc *nvrtc);
void qn_nvrtc_version(const qn_nvrtc *nvrtc, int *out_major, int *out_minor);
// Whether it makes code for compute capability major * 10 + minor.
bool qn_nvrtc_supports(const qn_nvrtc *nvrtc, int sm);

const qn_allocator *qn_nvrtc_allocator(const qn_nvrtc *nvrtc);  // that it was opened with

// Two hashes of all that qn_nvrtc_compile's result depends on: source, chip, options, and which library this is.
void qn_nvrtc_key(const qn_nvrtc *nvrtc, const char *source, int sm, uint64_t out_key[2]);

// What became of one source: owned by `allocator`.
typedef struct qn_nvrtc_code {
  const qn_allocator *allocator;  // borrowed
  char *ptx;                      // text, NUL-terminated; ptx_size counts the NUL
  size_t ptx_size;
  uint8_t *cubin;  // an ELF file; NULL with ptx_alone
  size_t cubin_size;
  char *log;  // NUL-terminated; what `ptxas -v` says of each kernel
  size_t log_size;
} qn_nvrtc_code;

// CUDA C++ → PTX and cubin for sm (80, 90, 100, 120). No product and sum are contracted, nothing is flushed to zero,
// divisions and roots are IEEE's. A chip that this NVRTC does not know is QN_ERR_UNSUPPORTED; an error in the source
// QN_ERR_INTERNAL, with the front of the compiler's log. `name` is for messages and in the log.
QN_CHECKED qn_status qn_nvrtc_compile(const qn_nvrtc *nvrtc, const char *name, const char *source, int sm,
                                      qn_nvrtc_code *out, qn_diag *diag);
void qn_nvrtc_code_deinit(qn_nvrtc_code *code);

#endif
