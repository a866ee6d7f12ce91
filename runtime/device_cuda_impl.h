// What the files of device_cuda share.
#ifndef QN_RUNTIME_DEVICE_CUDA_IMPL_H
#define QN_RUNTIME_DEVICE_CUDA_IMPL_H

#include "runtime/device_cuda.h"
#include "runtime/device_cuda_driver.h"

struct qn_cuda {
  const qn_artifact *artifact;    // borrowed
  const qn_allocator *allocator;  // borrowed
  qn_cuda_driver driver;
  qn_cuda_info info;
  char where[160];          // "cuda:0 (NVIDIA H100)": for messages
  qn_cu_context context;    // the device's primary one, retained
  const qn_art_code *code;  // borrowed
  qn_cu_module module;
  bool from_ptx;
  qn_cu_function *functions;  // owned: one a variant of the code's plan
  uint32_t function_count;
  qn_cu_address weights;  // 0 = none
};

// Makes the context current on this thread until qn_cuda_leave, so that a host which uses CUDA too keeps its own.
QN_CHECKED qn_status qn_cuda_enter(const qn_cuda *cuda, qn_diag *diag);
void qn_cuda_leave(const qn_cuda *cuda);
// A failed call of this device in words, like qn_cuda_check.
QN_CHECKED qn_status qn_cuda_try(const qn_cuda *cuda, qn_cu_result result, const char *doing, qn_diag *diag);
// Memory of the device (at least 1 byte). NOMEM with `what`, how much it is, how much is free, and `advice`.
QN_CHECKED qn_status qn_cuda_take(const qn_cuda *cuda, size_t bytes, const char *what, const char *advice,
                                  qn_cu_address *out, qn_diag *diag);
// Pinned memory of the host (at least 1 byte).
QN_CHECKED qn_status qn_cuda_take_pinned(const qn_cuda *cuda, size_t bytes, const char *what, void **out,
                                         qn_diag *diag);

// Loads the code and finds its functions; the context is current.
QN_CHECKED qn_status qn_cuda_load_code(qn_cuda *cuda, const char *target, qn_diag *diag);
// Copies the weights to the device; the context is current.
QN_CHECKED qn_status qn_cuda_load_weights(qn_cuda *cuda, qn_diag *diag);

#endif
