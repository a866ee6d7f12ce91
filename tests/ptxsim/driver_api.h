// The calls of the driver API that the simulator exports, and the table that cuGetProcAddress looks them up in.
#ifndef PTXSIM_DRIVER_API_H
#define PTXSIM_DRIVER_API_H

#include "tests/ptxsim/cuda_abi.h"

#define PS_API __attribute__((visibility("default"))) CUresult

PS_API cuInit(unsigned flags);
PS_API cuDriverGetVersion(int *out);
PS_API cuDeviceGetCount(int *out);
PS_API cuDeviceGet(CUdevice *out, int ordinal);
PS_API cuDeviceGetName(char *out, int size, CUdevice device);
PS_API cuDeviceTotalMem_v2(size_t *out, CUdevice device);
PS_API cuDeviceGetUuid_v2(CUuuid *out, CUdevice device);
PS_API cuDeviceComputeCapability(int *major, int *minor, CUdevice device);
PS_API cuDeviceGetAttribute(int *out, int attribute, CUdevice device);
PS_API cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device);
PS_API cuDevicePrimaryCtxRelease_v2(CUdevice device);
PS_API cuDevicePrimaryCtxReset_v2(CUdevice device);
PS_API cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags);
PS_API cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active);
PS_API cuCtxSetCurrent(CUcontext context);
PS_API cuCtxGetCurrent(CUcontext *out);
PS_API cuCtxPushCurrent_v2(CUcontext context);
PS_API cuCtxPopCurrent_v2(CUcontext *out);
PS_API cuCtxGetDevice(CUdevice *out);
PS_API cuCtxGetApiVersion(CUcontext context, unsigned *out);
PS_API cuCtxSynchronize(void);
PS_API cuGetErrorName(CUresult error, const char **out);
PS_API cuGetErrorString(CUresult error, const char **out);
PS_API cuMemAlloc_v2(CUdeviceptr *out, size_t size);
PS_API cuMemFree_v2(CUdeviceptr address);
PS_API cuMemGetInfo_v2(size_t *out_free, size_t *out_total);
PS_API cuMemGetAddressRange_v2(CUdeviceptr *out_base, size_t *out_size, CUdeviceptr address);
PS_API cuMemAllocHost_v2(void **out, size_t size);
PS_API cuMemHostAlloc(void **out, size_t size, unsigned flags);
PS_API cuMemFreeHost(void *bytes);
PS_API cuMemHostRegister_v2(void *bytes, size_t size, unsigned flags);
PS_API cuMemHostUnregister(void *bytes);
PS_API cuMemHostGetDevicePointer_v2(CUdeviceptr *out, void *bytes, unsigned flags);
PS_API cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size);
PS_API cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size);
PS_API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size);
PS_API cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t size);
PS_API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, CUstream stream);
PS_API cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, CUstream stream);
PS_API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream);
PS_API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream);
PS_API cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t n);
PS_API cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t n);
PS_API cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t n);
PS_API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream stream);
PS_API cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t n, CUstream stream);
PS_API cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t n, CUstream stream);
PS_API cuModuleLoadDataEx(CUmodule *out, const void *image, unsigned count, int *options, void **values);
PS_API cuModuleLoadData(CUmodule *out, const void *image);
PS_API cuModuleUnload(CUmodule m);
PS_API cuModuleGetFunction(CUfunction *out, CUmodule m, const char *name);
PS_API cuModuleGetGlobal_v2(CUdeviceptr *out_address, size_t *out_size, CUmodule m, const char *name);
PS_API cuFuncGetAttribute(int *out, int attribute, CUfunction f);
PS_API cuFuncSetAttribute(CUfunction f, int attribute, int value);
PS_API cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, CUfunction f, int threads, size_t dynamic_bytes);
PS_API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *out, CUfunction f, int threads, size_t dynamic_bytes,
                                                            unsigned flags);
PS_API cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared_bytes, CUstream stream, void **params, void **extra);
PS_API cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **params, void **extra);
PS_API cuStreamCreate(CUstream *out, unsigned flags);
PS_API cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority);
PS_API cuStreamDestroy_v2(CUstream handle);
PS_API cuStreamSynchronize(CUstream handle);
PS_API cuStreamQuery(CUstream handle);
PS_API cuStreamWaitEvent(CUstream handle, CUevent event, unsigned flags);
PS_API cuStreamBeginCapture_v2(CUstream handle, int mode);
PS_API cuStreamEndCapture(CUstream handle, CUgraph *out);
PS_API cuStreamIsCapturing(CUstream handle, int *out);
PS_API cuEventCreate(CUevent *out, unsigned flags);
PS_API cuEventDestroy_v2(CUevent e);
PS_API cuEventRecord(CUevent e, CUstream handle);
PS_API cuEventSynchronize(CUevent e);
PS_API cuEventQuery(CUevent e);
PS_API cuEventElapsedTime(float *out_ms, CUevent from, CUevent to);
PS_API cuEventElapsedTime_v2(float *out_ms, CUevent from, CUevent to);
PS_API cuGraphCreate(CUgraph *out, unsigned flags);
PS_API cuGraphDestroy(CUgraph g);
PS_API cuGraphGetNodes(CUgraph g, CUgraphNode *out, size_t *count);
PS_API cuGraphNodeGetType(CUgraphNode node, int *out);
PS_API cuGraphAddKernelNode_v2(CUgraphNode *out, CUgraph g, const CUgraphNode *dependencies, size_t count,
                               const CUDA_KERNEL_NODE_PARAMS_v2 *params);
PS_API cuGraphKernelNodeSetParams_v2(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v2 *params);
PS_API cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v2 *params);
PS_API cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph g, unsigned long long flags);
PS_API cuGraphInstantiate_v2(CUgraphExec *out, CUgraph g, CUgraphNode *error_node, char *log, size_t log_bytes);
PS_API cuGraphExecDestroy(CUgraphExec exec);
PS_API cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph g, CUgraphExecUpdateResultInfo *out);
PS_API cuGraphLaunch(CUgraphExec exec, CUstream stream);
PS_API cuGraphUpload(CUgraphExec exec, CUstream stream);
PS_API cuGetProcAddress(const char *symbol, void **out, int version, uint64_t flags);
PS_API cuGetProcAddress_v2(const char *symbol, void **out, int version, uint64_t flags, int *status);
PS_API cuGetExportTable(const void **out, const CUuuid *id);

// Every one of them: PS_CALL(name).
#define PS_CALLS(PS_CALL)                                       \
  PS_CALL(cuInit)                                               \
  PS_CALL(cuDriverGetVersion)                                   \
  PS_CALL(cuDeviceGetCount)                                     \
  PS_CALL(cuDeviceGet)                                          \
  PS_CALL(cuDeviceGetName)                                      \
  PS_CALL(cuDeviceTotalMem_v2)                                  \
  PS_CALL(cuDeviceGetUuid_v2)                                   \
  PS_CALL(cuDeviceComputeCapability)                            \
  PS_CALL(cuDeviceGetAttribute)                                 \
  PS_CALL(cuDevicePrimaryCtxRetain)                             \
  PS_CALL(cuDevicePrimaryCtxRelease_v2)                         \
  PS_CALL(cuDevicePrimaryCtxReset_v2)                           \
  PS_CALL(cuDevicePrimaryCtxSetFlags_v2)                        \
  PS_CALL(cuDevicePrimaryCtxGetState)                           \
  PS_CALL(cuCtxSetCurrent)                                      \
  PS_CALL(cuCtxGetCurrent)                                      \
  PS_CALL(cuCtxPushCurrent_v2)                                  \
  PS_CALL(cuCtxPopCurrent_v2)                                   \
  PS_CALL(cuCtxGetDevice)                                       \
  PS_CALL(cuCtxGetApiVersion)                                   \
  PS_CALL(cuCtxSynchronize)                                     \
  PS_CALL(cuGetErrorName)                                       \
  PS_CALL(cuGetErrorString)                                     \
  PS_CALL(cuMemAlloc_v2)                                        \
  PS_CALL(cuMemFree_v2)                                         \
  PS_CALL(cuMemGetInfo_v2)                                      \
  PS_CALL(cuMemGetAddressRange_v2)                              \
  PS_CALL(cuMemAllocHost_v2)                                    \
  PS_CALL(cuMemHostAlloc)                                       \
  PS_CALL(cuMemFreeHost)                                        \
  PS_CALL(cuMemHostRegister_v2)                                 \
  PS_CALL(cuMemHostUnregister)                                  \
  PS_CALL(cuMemHostGetDevicePointer_v2)                         \
  PS_CALL(cuMemcpyHtoD_v2)                                      \
  PS_CALL(cuMemcpyDtoH_v2)                                      \
  PS_CALL(cuMemcpyDtoD_v2)                                      \
  PS_CALL(cuMemcpy)                                             \
  PS_CALL(cuMemcpyHtoDAsync_v2)                                 \
  PS_CALL(cuMemcpyDtoHAsync_v2)                                 \
  PS_CALL(cuMemcpyDtoDAsync_v2)                                 \
  PS_CALL(cuMemcpyAsync)                                        \
  PS_CALL(cuMemsetD8_v2)                                        \
  PS_CALL(cuMemsetD16_v2)                                       \
  PS_CALL(cuMemsetD32_v2)                                       \
  PS_CALL(cuMemsetD8Async)                                      \
  PS_CALL(cuMemsetD16Async)                                     \
  PS_CALL(cuMemsetD32Async)                                     \
  PS_CALL(cuModuleLoadDataEx)                                   \
  PS_CALL(cuModuleLoadData)                                     \
  PS_CALL(cuModuleUnload)                                       \
  PS_CALL(cuModuleGetFunction)                                  \
  PS_CALL(cuModuleGetGlobal_v2)                                 \
  PS_CALL(cuFuncGetAttribute)                                   \
  PS_CALL(cuFuncSetAttribute)                                   \
  PS_CALL(cuOccupancyMaxActiveBlocksPerMultiprocessor)          \
  PS_CALL(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags) \
  PS_CALL(cuLaunchKernel)                                       \
  PS_CALL(cuLaunchKernelEx)                                     \
  PS_CALL(cuStreamCreate)                                       \
  PS_CALL(cuStreamCreateWithPriority)                           \
  PS_CALL(cuStreamDestroy_v2)                                   \
  PS_CALL(cuStreamSynchronize)                                  \
  PS_CALL(cuStreamQuery)                                        \
  PS_CALL(cuStreamWaitEvent)                                    \
  PS_CALL(cuStreamBeginCapture_v2)                              \
  PS_CALL(cuStreamEndCapture)                                   \
  PS_CALL(cuStreamIsCapturing)                                  \
  PS_CALL(cuEventCreate)                                        \
  PS_CALL(cuEventDestroy_v2)                                    \
  PS_CALL(cuEventRecord)                                        \
  PS_CALL(cuEventSynchronize)                                   \
  PS_CALL(cuEventQuery)                                         \
  PS_CALL(cuEventElapsedTime)                                   \
  PS_CALL(cuEventElapsedTime_v2)                                \
  PS_CALL(cuGraphCreate)                                        \
  PS_CALL(cuGraphDestroy)                                       \
  PS_CALL(cuGraphGetNodes)                                      \
  PS_CALL(cuGraphNodeGetType)                                   \
  PS_CALL(cuGraphAddKernelNode_v2)                              \
  PS_CALL(cuGraphKernelNodeSetParams_v2)                        \
  PS_CALL(cuGraphExecKernelNodeSetParams_v2)                    \
  PS_CALL(cuGraphInstantiateWithFlags)                          \
  PS_CALL(cuGraphInstantiate_v2)                                \
  PS_CALL(cuGraphExecDestroy)                                   \
  PS_CALL(cuGraphExecUpdate_v2)                                 \
  PS_CALL(cuGraphLaunch)                                        \
  PS_CALL(cuGraphUpload)                                        \
  PS_CALL(cuGetProcAddress)                                     \
  PS_CALL(cuGetProcAddress_v2)                                  \
  PS_CALL(cuGetExportTable)

#endif
