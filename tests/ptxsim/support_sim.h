// What the simulator's tests share: the library by its path, its calls by name, and short ways to run a piece of PTX.
#ifndef PTXSIM_SUPPORT_SIM_H
#define PTXSIM_SUPPORT_SIM_H

#include "tests/ptxsim/cuda_abi.h"
#include "tests/ptxsim/ptxsim.h"
#include "tests/support/test.h"

// The calls of the driver that tests make: SIM_CALL(result, name in the table, symbol, parameters).
#define SIM_CALLS(X)                                                                                                \
  X(CUresult, init, cuInit, (unsigned))                                                                             \
  X(CUresult, device_count, cuDeviceGetCount, (int *))                                                              \
  X(CUresult, device_attribute, cuDeviceGetAttribute, (int *, int, CUdevice))                                       \
  X(CUresult, device_name, cuDeviceGetName, (char *, int, CUdevice))                                                \
  X(CUresult, total_memory, cuDeviceTotalMem_v2, (size_t *, CUdevice))                                              \
  X(CUresult, driver_version, cuDriverGetVersion, (int *))                                                          \
  X(CUresult, retain, cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice))                                            \
  X(CUresult, release, cuDevicePrimaryCtxRelease_v2, (CUdevice))                                                    \
  X(CUresult, set_current, cuCtxSetCurrent, (CUcontext))                                                            \
  X(CUresult, synchronize, cuCtxSynchronize, (void))                                                                \
  X(CUresult, alloc, cuMemAlloc_v2, (CUdeviceptr *, size_t))                                                        \
  X(CUresult, free, cuMemFree_v2, (CUdeviceptr))                                                                    \
  X(CUresult, memory_info, cuMemGetInfo_v2, (size_t *, size_t *))                                                   \
  X(CUresult, alloc_host, cuMemAllocHost_v2, (void **, size_t))                                                     \
  X(CUresult, free_host, cuMemFreeHost, (void *))                                                                   \
  X(CUresult, host_register, cuMemHostRegister_v2, (void *, size_t, unsigned))                                      \
  X(CUresult, host_unregister, cuMemHostUnregister, (void *))                                                       \
  X(CUresult, to_device, cuMemcpyHtoD_v2, (CUdeviceptr, const void *, size_t))                                      \
  X(CUresult, to_host, cuMemcpyDtoH_v2, (void *, CUdeviceptr, size_t))                                              \
  X(CUresult, device_to_device, cuMemcpyDtoD_v2, (CUdeviceptr, CUdeviceptr, size_t))                                \
  X(CUresult, to_device_async, cuMemcpyHtoDAsync_v2, (CUdeviceptr, const void *, size_t, CUstream))                 \
  X(CUresult, to_host_async, cuMemcpyDtoHAsync_v2, (void *, CUdeviceptr, size_t, CUstream))                         \
  X(CUresult, fill8, cuMemsetD8_v2, (CUdeviceptr, unsigned char, size_t))                                           \
  X(CUresult, fill32, cuMemsetD32_v2, (CUdeviceptr, unsigned, size_t))                                              \
  X(CUresult, load, cuModuleLoadData, (CUmodule *, const void *))                                                   \
  X(CUresult, load_ex, cuModuleLoadDataEx, (CUmodule *, const void *, unsigned, int *, void **))                    \
  X(CUresult, unload, cuModuleUnload, (CUmodule))                                                                   \
  X(CUresult, function, cuModuleGetFunction, (CUfunction *, CUmodule, const char *))                                \
  X(CUresult, global, cuModuleGetGlobal_v2, (CUdeviceptr *, size_t *, CUmodule, const char *))                      \
  X(CUresult, function_attribute, cuFuncGetAttribute, (int *, int, CUfunction))                                     \
  X(CUresult, set_function_attribute, cuFuncSetAttribute, (CUfunction, int, int))                                   \
  X(CUresult, occupancy, cuOccupancyMaxActiveBlocksPerMultiprocessor, (int *, CUfunction, int, size_t))             \
  X(CUresult, launch, cuLaunchKernel,                                                                               \
    (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **)) \
  X(CUresult, stream_create, cuStreamCreate, (CUstream *, unsigned))                                                \
  X(CUresult, stream_destroy, cuStreamDestroy_v2, (CUstream))                                                       \
  X(CUresult, stream_synchronize, cuStreamSynchronize, (CUstream))                                                  \
  X(CUresult, stream_query, cuStreamQuery, (CUstream))                                                              \
  X(CUresult, stream_wait, cuStreamWaitEvent, (CUstream, CUevent, unsigned))                                        \
  X(CUresult, begin_capture, cuStreamBeginCapture_v2, (CUstream, int))                                              \
  X(CUresult, end_capture, cuStreamEndCapture, (CUstream, CUgraph *))                                               \
  X(CUresult, instantiate, cuGraphInstantiateWithFlags, (CUgraphExec *, CUgraph, unsigned long long))               \
  X(CUresult, graph_launch, cuGraphLaunch, (CUgraphExec, CUstream))                                                 \
  X(CUresult, graph_upload, cuGraphUpload, (CUgraphExec, CUstream))                                                 \
  X(CUresult, graph_update, cuGraphExecUpdate_v2, (CUgraphExec, CUgraph, CUgraphExecUpdateResultInfo *))            \
  X(CUresult, graph_nodes, cuGraphGetNodes, (CUgraph, CUgraphNode *, size_t *))                                     \
  X(CUresult, graph_exec_destroy, cuGraphExecDestroy, (CUgraphExec))                                                \
  X(CUresult, graph_destroy, cuGraphDestroy, (CUgraph))                                                             \
  X(CUresult, event_create, cuEventCreate, (CUevent *, unsigned))                                                   \
  X(CUresult, event_destroy, cuEventDestroy_v2, (CUevent))                                                          \
  X(CUresult, event_record, cuEventRecord, (CUevent, CUstream))                                                     \
  X(CUresult, event_query, cuEventQuery, (CUevent))                                                                 \
  X(CUresult, event_synchronize, cuEventSynchronize, (CUevent))                                                     \
  X(CUresult, event_elapsed, cuEventElapsedTime, (float *, CUevent, CUevent))                                       \
  X(CUresult, error_name, cuGetErrorName, (CUresult, const char **))                                                \
  X(CUresult, error_string, cuGetErrorString, (CUresult, const char **))                                            \
  X(CUresult, proc_address, cuGetProcAddress_v2, (const char *, void **, int, uint64_t, int *))                     \
  X(int, set, ptxsim_set, (const char *, const char *))                                                             \
  X(const char *, error, ptxsim_error, (void))                                                                      \
  X(void, reset, ptxsim_reset, (void))                                                                              \
  X(int, label, ptxsim_label, (uint64_t, size_t, const char *))                                                     \
  X(int, provide_ptx, ptxsim_provide_ptx, (const void *, size_t, const char *))                                     \
  X(void, counters_reset, ptxsim_counters_reset, (void))                                                            \
  X(size_t, kernel_count, ptxsim_kernel_count, (void))                                                              \
  X(const char *, kernel_name, ptxsim_kernel_name, (size_t))                                                        \
  X(int, kernel_counters, ptxsim_kernel_counters, (size_t, ps_counters *))                                          \
  X(size_t, range_count, ptxsim_range_count, (void))                                                                \
  X(const char *, range_name, ptxsim_range_name, (size_t))                                                          \
  X(int, kernel_traffic, ptxsim_kernel_traffic, (size_t, size_t, ps_traffic *))                                     \
  X(void, driver_counters, ptxsim_driver_counters, (ps_driver_counts *))                                            \
  X(size_t, report, ptxsim_report, (char *, size_t))                                                                \
  X(size_t, opcodes, ptxsim_opcodes, (char *, size_t))

typedef struct sim_table {
#define SIM_MEMBER(result, name, symbol, parameters) result(*name) parameters;
  SIM_CALLS(SIM_MEMBER)
#undef SIM_MEMBER
} sim_table;
extern sim_table sim;

// Loads the library, once a process; nothing is initialised. QUERN_TEST_PTXSIM names another build of it.
void sim_open(void);
// Is it a real driver, the one that QUERN_TEST_LIBCUDA names? Then nothing is counted, and options and labels say nothing.
bool sim_is_real(void);
// A fresh simulator with one device of this kind, initialised, its context current.
void sim_start(const char *device);
void sim_set(const char *option, const char *value);

// The call succeeds; prints the simulator's text when it does not.
#define sim_ok(call)                                                                                \
  do {                                                                                              \
    CUresult sim_result_ = (call);                                                                  \
    ck_assert_msg(sim_result_ == CUDA_SUCCESS, "%s: %d: %s", #call, (int)sim_result_, sim.error()); \
  } while (0)
// The call gives this result, and the text contains `needle`.
#define sim_fails(want, needle, call)                                                                          \
  do {                                                                                                         \
    CUresult sim_result_ = (call);                                                                             \
    ck_assert_msg(sim_result_ == (want), "%s: got %d (%s), want %d", #call, (int)sim_result_, sim.error(),     \
                  (int)(want));                                                                                \
    ck_assert_msg(strstr(sim.error(), (needle)) != NULL, "%s: '%s' lacks '%s'", #call, sim.error(), (needle)); \
  } while (0)

// Device memory with these bytes; NULL leaves it uninitialised.
CUdeviceptr sim_upload(const void *bytes, size_t size);
void sim_download(void *out, CUdeviceptr from, size_t size);
CUfunction sim_kernel(const char *ptx, const char *name);
// A kernel "k" with the given target, parameters and body, as a module's text. Static storage, one at a time.
const char *sim_module(const char *target, const char *parameters, const char *body);
enum { SIM_BODY_LINE = 5 };  // the body's first line in the module's text
// Launches and waits; the result of the wait.
CUresult sim_run(CUfunction f, unsigned blocks, unsigned threads, unsigned shared_bytes, void **params);
// The counters of a kernel by name.
ps_counters sim_counters(const char *kernel);
ps_traffic sim_traffic(const char *kernel, const char *range);

#endif
