// What NVRTC made of a source, kept in a folder: a model's kernels take it seconds, and are the same the next time.
#ifndef QN_CODEGEN_CUDA_NVRTC_CACHE_H
#define QN_CODEGEN_CUDA_NVRTC_CACHE_H

#include "codegen/cuda/nvrtc.h"
#include "runtime/base/str.h"

// qn_nvrtc_compile, or what it gave earlier for the same source, options and library. `folder` is made where it is not
// there; NULL = nothing is kept. An entry that is damaged is made anew, and one that cannot be written is no error.
QN_CHECKED qn_status qn_nvrtc_compile_cached(const qn_nvrtc *nvrtc, const char *folder, const char *name,
                                             const char *source, int sm, qn_nvrtc_code *out, qn_diag *diag);

// An entry is a file that somebody else may have written. Appends one.
void qn_nvrtc_entry_print(const uint64_t key[2], const qn_nvrtc_code *code, qn_buf *out);
// Its parts, to be freed with qn_nvrtc_code_deinit; false where the bytes are no whole entry of this key, or memory runs
// out.
bool qn_nvrtc_entry_parse(const char *data, size_t size, const uint64_t key[2], const qn_allocator *allocator,
                          qn_nvrtc_code *out);

#endif
