// NVIDIA's driver API, libcuda, by dlopen: the functions that are used, from one table, and errors in words.
#ifndef QN_RUNTIME_DEVICE_CUDA_DRIVER_H
#define QN_RUNTIME_DEVICE_CUDA_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/diag.h"

#define QN_CUDA_LIBRARY          "libcuda.so.1"
#define QN_CUDA_LIBRARY_VARIABLE "QUERN_LIBCUDA"
#define QN_CUDA_DRIVER_LEAST     12000  // as the driver tells it: CUDA 12.0

// The interface as far as it is used (the CUDA Driver API's reference manual). Handles are opaque; addresses on a
// device are 64-bit numbers.
typedef int qn_cu_result;
typedef struct CUctx_st *qn_cu_context;
typedef struct CUmod_st *qn_cu_module;
typedef struct CUfunc_st *qn_cu_function;
typedef struct CUstream_st *qn_cu_stream;
typedef struct CUevent_st *qn_cu_event;
typedef struct CUgraph_st *qn_cu_graph;
typedef struct CUgraphExec_st *qn_cu_graph_exec;
typedef uint64_t qn_cu_address;

enum {  // CUresult, where one is told apart from others
  QN_CU_SUCCESS = 0,
  QN_CU_OUT_OF_MEMORY = 2,
  QN_CU_NO_DEVICE = 100,
  QN_CU_INVALID_IMAGE = 200,
  QN_CU_NO_BINARY_FOR_GPU = 209,
  QN_CU_INVALID_PTX = 218,
  QN_CU_UNSUPPORTED_PTX_VERSION = 222,
  QN_CU_JIT_COMPILER_NOT_FOUND = 221,
  QN_CU_NOT_FOUND = 500,
  QN_CU_LAUNCH_OUT_OF_RESOURCES = 701,
};
enum {  // CUdevice_attribute
  QN_CU_MULTIPROCESSORS = 16,
  QN_CU_CAPABILITY_MAJOR = 75,
  QN_CU_CAPABILITY_MINOR = 76,
  QN_CU_SHARED_BYTES_MAX = 97,  // that a block may ask for
};
enum { QN_CU_STREAM_NON_BLOCKING = 1, QN_CU_EVENT_DISABLE_TIMING = 2, QN_CU_CAPTURE_THREAD_LOCAL = 1 };
enum { QN_CU_FUNC_DYNAMIC_SHARED_MAX = 8 };  // CUfunction_attribute
enum { QN_CU_JIT_ERROR_LOG = 5, QN_CU_JIT_ERROR_LOG_BYTES = 6 };

// QN_CUDA_CALLS(X): X(name here, symbol in the library, parameters).
#define QN_CUDA_CALLS(X)                                                                                          \
  X(init, cuInit, (unsigned))                                                                                     \
  X(version, cuDriverGetVersion, (int *))                                                                         \
  X(error_name, cuGetErrorName, (qn_cu_result, const char **))                                                    \
  X(error_text, cuGetErrorString, (qn_cu_result, const char **))                                                  \
  X(device_count, cuDeviceGetCount, (int *))                                                                      \
  X(device_name, cuDeviceGetName, (char *, int, int))                                                             \
  X(device_memory, cuDeviceTotalMem_v2, (size_t *, int))                                                          \
  X(device_attribute, cuDeviceGetAttribute, (int *, int, int))                                                    \
  X(context_retain, cuDevicePrimaryCtxRetain, (qn_cu_context *, int))                                             \
  X(context_release, cuDevicePrimaryCtxRelease_v2, (int))                                                         \
  X(context_push, cuCtxPushCurrent_v2, (qn_cu_context))                                                           \
  X(context_pop, cuCtxPopCurrent_v2, (qn_cu_context *))                                                           \
  X(memory_info, cuMemGetInfo_v2, (size_t *, size_t *))                                                           \
  X(take, cuMemAlloc_v2, (qn_cu_address *, size_t))                                                               \
  X(give_back, cuMemFree_v2, (qn_cu_address))                                                                     \
  X(take_pinned, cuMemAllocHost_v2, (void **, size_t))                                                            \
  X(give_back_pinned, cuMemFreeHost, (void *))                                                                    \
  X(fill, cuMemsetD8Async, (qn_cu_address, unsigned char, size_t, qn_cu_stream))                                  \
  X(to_device, cuMemcpyHtoDAsync_v2, (qn_cu_address, const void *, size_t, qn_cu_stream))                         \
  X(to_host, cuMemcpyDtoHAsync_v2, (void *, qn_cu_address, size_t, qn_cu_stream))                                 \
  X(copy, cuMemcpyDtoDAsync_v2, (qn_cu_address, qn_cu_address, size_t, qn_cu_stream))                             \
  X(module_load, cuModuleLoadDataEx, (qn_cu_module *, const void *, unsigned, int *, void **))                    \
  X(module_unload, cuModuleUnload, (qn_cu_module))                                                                \
  X(module_function, cuModuleGetFunction, (qn_cu_function *, qn_cu_module, const char *))                         \
  X(function_set, cuFuncSetAttribute, (qn_cu_function, int, int))                                                 \
  X(launch, cuLaunchKernel,                                                                                       \
    (qn_cu_function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, qn_cu_stream, void **, \
     void **))                                                                                                    \
  X(stream_create, cuStreamCreate, (qn_cu_stream *, unsigned))                                                    \
  X(stream_destroy, cuStreamDestroy_v2, (qn_cu_stream))                                                           \
  X(stream_wait, cuStreamSynchronize, (qn_cu_stream))                                                             \
  X(capture_begin, cuStreamBeginCapture_v2, (qn_cu_stream, int))                                                  \
  X(capture_end, cuStreamEndCapture, (qn_cu_stream, qn_cu_graph *))                                               \
  X(graph_instantiate, cuGraphInstantiateWithFlags, (qn_cu_graph_exec *, qn_cu_graph, unsigned long long))        \
  X(graph_launch, cuGraphLaunch, (qn_cu_graph_exec, qn_cu_stream))                                                \
  X(graph_exec_destroy, cuGraphExecDestroy, (qn_cu_graph_exec))                                                   \
  X(graph_destroy, cuGraphDestroy, (qn_cu_graph))                                                                 \
  X(event_create, cuEventCreate, (qn_cu_event *, unsigned))                                                       \
  X(event_destroy, cuEventDestroy_v2, (qn_cu_event))                                                              \
  X(event_record, cuEventRecord, (qn_cu_event, qn_cu_stream))                                                     \
  X(event_wait, cuEventSynchronize, (qn_cu_event))                                                                \
  X(event_elapsed, cuEventElapsedTime, (float *, qn_cu_event, qn_cu_event))

typedef struct qn_cuda_driver {
  void *library;
  int version_number;  // 12040 for CUDA 12.4
#define QN_CUDA_MEMBER(name, symbol, parameters) qn_cu_result(*name) parameters;
  QN_CUDA_CALLS(QN_CUDA_MEMBER)
#undef QN_CUDA_MEMBER
} qn_cuda_driver;

// Loads the library at `path` (NULL or "" = $QUERN_LIBCUDA, or else the system's libcuda.so.1) and initialises it. The
// library stays loaded. Errors, all TARGET: no driver, too old a driver, no device.
QN_CHECKED qn_status qn_cuda_driver_open(qn_cuda_driver *out, const char *path, qn_diag *diag);

// A call that failed: QN_OK for QN_CU_SUCCESS, else the error in words: "WHERE: DOING: CUDA_ERROR_X (text)". NOMEM when
// the device or the host has no memory, INTERNAL for everything else.
QN_CHECKED qn_status qn_cuda_check(const qn_cuda_driver *driver, qn_cu_result result, const char *where,
                                   const char *doing, qn_diag *diag);
// Name and text of a result, "CUDA_ERROR_X (text)", into `out`.
void qn_cuda_describe(const qn_cuda_driver *driver, qn_cu_result result, char *out, size_t size);
// Did a kernel fault, so that nothing of the context can be used any more?
bool qn_cuda_is_fault(qn_cu_result result);

#endif
