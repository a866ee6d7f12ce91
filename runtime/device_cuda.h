// An NVIDIA GPU in use: its context, and an artifact's weights and code on it, which any number of executors share. The
// driver is loaded when one is opened; nothing here is linked with CUDA.
#ifndef QN_RUNTIME_DEVICE_CUDA_H
#define QN_RUNTIME_DEVICE_CUDA_H

#include <stdbool.h>

#include "runtime/artifact.h"

typedef struct qn_cuda_info {
  int index;       // N of "cuda:N", as the driver counts
  char name[128];  // as the driver calls it
  int sm;          // compute capability: 90 for 9.0
  uint64_t memory_bytes;
  int driver_version;  // CUDA version of the driver: 12040 for 12.4
} qn_cuda_info;

// Every GPU that the driver sees: the first `capacity` of *out_count. `library` is the driver's, NULL = $QUERN_LIBCUDA
// or libcuda.so.1. Errors, TARGET: no driver, too old a driver, no device.
QN_CHECKED qn_status qn_cuda_list(const char *library, qn_cuda_info *out, size_t capacity, size_t *out_count,
                                  qn_diag *diag);

// Is it the name of a GPU: "cuda", which is the first, or "cuda:N"? *out_index is N. ARGUMENT for anything else.
QN_CHECKED qn_status qn_cuda_parse(const char *device, int *out_index, qn_diag *diag);

typedef struct qn_cuda qn_cuda;

typedef struct qn_cuda_open_options {
  const char *device;   // "cuda" or "cuda:N"
  const char *library;  // the driver's; NULL = $QUERN_LIBCUDA or libcuda.so.1
  const char *target;   // the code of this target ("cuda:sm_90"); NULL = the newest that the GPU runs
  bool code_alone;       // the weights stay where they are: kernels are called by themselves
} qn_cuda_open_options;

// Brings weights and code there. `artifact`, a view of the program for GPUs, must outlive it. Errors: those of
// qn_cuda_list; ARGUMENT (no such device or target: lists those there are), TARGET (no code that this GPU runs; a
// driver that is older than the compiler of the code), FORMAT (damaged code), NOMEM.
QN_CHECKED qn_status qn_cuda_open(const qn_artifact *artifact, const qn_cuda_open_options *options,
                                  const qn_allocator *allocator, qn_cuda **out, qn_diag *diag);
void qn_cuda_close(qn_cuda *cuda);  // NULL is harmless. After its executors
const qn_cuda_info *qn_cuda_get_info(const qn_cuda *cuda);
const qn_art_code *qn_cuda_code(const qn_cuda *cuda);  // the code section that runs
// Was it the PTX that the driver took, and compiled for this GPU, and not the machine code?
bool qn_cuda_from_ptx(const qn_cuda *cuda);

// Bytes a second that copies from the GPU's memory to itself read and write, the best of a few: what a kernel that
// reads can hope for. Takes up to a gibibyte of what is free. NOMEM.
QN_CHECKED qn_status qn_cuda_measure_read(qn_cuda *cuda, double *out_bytes_per_s, qn_diag *diag);

// ---- kernels by themselves (device_cuda_call.c) ----

// What a kernel is called with: `count` parameters in memory of the host, of so many bytes, and the symbols' values
// (QN_ARTIFACT_SYMBOLS of them). All borrowed.
typedef struct qn_cuda_call {
  void *const *buffers;
  const size_t *sizes;
  const bool *written;  // it comes back
  size_t count;
  const int64_t *symbols;
} qn_cuda_call;

// Runs variant number `index` of the code's plan: parameters go there, and what it writes comes back. *out_outside is
// the number of a parameter behind whose end it wrote, -1 = of none. A fault is INTERNAL; nothing of the device can be
// used in this process after it. NOMEM.
QN_CHECKED qn_status qn_cuda_call_variant(qn_cuda *cuda, uint32_t index, const qn_cuda_call *call,
                                          int64_t *out_outside, qn_diag *diag);

// Code that is none of an artifact's: a cubin for this chip, PTX for where that does not run, or one of both.
typedef struct qn_cuda_image {
  const void *cubin;
  const char *ptx;
} qn_cuda_image;
// Seconds that a kernel of it takes by the device's clock, the best of a few runs; nothing comes back.
QN_CHECKED qn_status qn_cuda_time_code(qn_cuda *cuda, const qn_cuda_image *image, const char *name,
                                       const qn_art_launch *shape, unsigned blocks, const qn_cuda_call *call,
                                       double *out_seconds, qn_diag *diag);
// How many multiprocessors there are.
QN_CHECKED qn_status qn_cuda_multiprocessors(qn_cuda *cuda, int *out, qn_diag *diag);

#endif
