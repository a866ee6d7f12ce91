// cuInit, devices, contexts, names of errors, and the lock around every call.
#include <stdarg.h>
#include <stdio.h>

#include "tests/ptxsim/driver.h"
#include "tests/ptxsim/driver_api.h"

ps_driver ps_the_driver = {.lock = PTHREAD_MUTEX_INITIALIZER};
_Thread_local CUcontext ps_current;

CUresult ps_error(CUresult result, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(ps_the_driver.error, sizeof ps_the_driver.error, format, args);
  va_end(args);
  return result;
}

CUresult ps_enter(ps_need need) {
  ps_driver *d = &ps_the_driver;
  pthread_mutex_lock(&d->lock);
  ps_options_load(d);
  if (need >= PS_NEED_INIT && !d->initialised) {
    return ps_leave(ps_error(CUDA_ERROR_NOT_INITIALIZED, "cuInit has not been called"));
  }
  if (d->sticky != CUDA_SUCCESS) return ps_leave(d->sticky);  // the text is still that of the fault
  if (need == PS_NEED_CONTEXT && ps_current == NULL) {
    return ps_leave(ps_error(CUDA_ERROR_INVALID_CONTEXT, "this thread has no current context"));
  }
  return CUDA_SUCCESS;
}

CUresult ps_enter_giving_back(void) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r == CUDA_SUCCESS || ps_the_driver.sticky == CUDA_SUCCESS) return r;
  pthread_mutex_lock(&ps_the_driver.lock);
  return CUDA_SUCCESS;
}

CUresult ps_leave(CUresult result) {
  pthread_mutex_unlock(&ps_the_driver.lock);
  return result;
}

CUresult cuInit(unsigned flags) {
  CUresult r = ps_enter(PS_NEED_NOTHING);
  if (r != CUDA_SUCCESS) return r;
  ps_driver *d = &ps_the_driver;
  if (flags != 0) return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "cuInit: flags must be 0"));
  if (d->device_count == 0) return ps_leave(ps_error(CUDA_ERROR_NO_DEVICE, "cuInit: there is no device"));
  d->initialised = true;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuDriverGetVersion(int *out) {
  CUresult r = ps_enter(PS_NEED_NOTHING);
  if (r != CUDA_SUCCESS) return r;
  *out = ps_the_driver.version;
  return ps_leave(CUDA_SUCCESS);
}

// ---- devices ----

static ps_device *device_of(CUdevice device) {
  bool there = device >= 0 && device < ps_the_driver.device_count;
  if (!there) ps_error(CUDA_ERROR_INVALID_DEVICE, "device %d of %d", device, ps_the_driver.device_count);
  return there ? &ps_the_driver.devices[device] : NULL;
}

CUresult cuDeviceGetCount(int *out) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  *out = ps_the_driver.device_count;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGet(CUdevice *out, int ordinal) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  if (device_of(ordinal) == NULL) return ps_leave(CUDA_ERROR_INVALID_DEVICE);
  *out = ordinal;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGetName(char *out, int size, CUdevice device) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  const ps_device *d = device_of(device);
  if (d == NULL) return ps_leave(CUDA_ERROR_INVALID_DEVICE);
  snprintf(out, (size_t)size, "ptxsim sm_%d", d->sm);
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuDeviceTotalMem_v2(size_t *out, CUdevice device) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  const ps_device *d = device_of(device);
  if (d == NULL) return ps_leave(CUDA_ERROR_INVALID_DEVICE);
  *out = d->memory_bytes;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGetUuid_v2(CUuuid *out, CUdevice device) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  const ps_device *d = device_of(device);
  if (d == NULL) return ps_leave(CUDA_ERROR_INVALID_DEVICE);
  memset(out, 0, sizeof *out);
  memcpy(out->bytes, "ptxsim", 6);
  out->bytes[14] = (char)d->sm;
  out->bytes[15] = (char)device;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  const ps_device *d = device_of(device);
  if (d == NULL) return ps_leave(CUDA_ERROR_INVALID_DEVICE);
  *major = d->sm / 10;
  *minor = d->sm % 10;
  return ps_leave(CUDA_SUCCESS);
}

// Attributes by their numbers in CUdevice_attribute; -1 for one that is not known.
static int attribute_of(const ps_device *d, int attribute, int device) {
  switch (attribute) {
    case 1: return 1024;                        // MAX_THREADS_PER_BLOCK
    case 2: return 1024;                        // MAX_BLOCK_DIM_X
    case 3: return 1024;                        // MAX_BLOCK_DIM_Y
    case 4: return 64;                          // MAX_BLOCK_DIM_Z
    case 5: return INT32_MAX;                   // MAX_GRID_DIM_X
    case 6: return 65535;                       // MAX_GRID_DIM_Y
    case 7: return 65535;                       // MAX_GRID_DIM_Z
    case 8: return 48 << 10;                    // MAX_SHARED_MEMORY_PER_BLOCK
    case 9: return 64 << 10;                    // TOTAL_CONSTANT_MEMORY
    case 10: return PS_LANES;                   // WARP_SIZE
    case 12: return 65536;                      // MAX_REGISTERS_PER_BLOCK
    case 13: return 1500000;                    // CLOCK_RATE, kHz
    case 16: return d->multiprocessors;         // MULTIPROCESSOR_COUNT
    case 19: return 1;                          // CAN_MAP_HOST_MEMORY
    case 31: return 1;                          // CONCURRENT_KERNELS
    case 33: return device;                     // PCI_BUS_ID
    case 36: return d->clock_mhz * 1000;        // MEMORY_CLOCK_RATE, kHz
    case 37: return d->bus_bits;                // GLOBAL_MEMORY_BUS_WIDTH
    case 38: return d->l2_mib << 20;            // L2_CACHE_SIZE
    case 39: return d->threads;                 // MAX_THREADS_PER_MULTIPROCESSOR
    case 40: return 2;                          // ASYNC_ENGINE_COUNT
    case 41: return 1;                          // UNIFIED_ADDRESSING
    case 75: return d->sm / 10;                 // COMPUTE_CAPABILITY_MAJOR
    case 76: return d->sm % 10;                 // COMPUTE_CAPABILITY_MINOR
    case 81: return d->shared_kib << 10;        // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    case 82: return 65536;                      // MAX_REGISTERS_PER_MULTIPROCESSOR
    case 97: return (d->shared_kib - 1) << 10;  // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    case 99: return 1;                          // HOST_REGISTER_SUPPORTED
    case 106: return d->blocks;                 // MAX_BLOCKS_PER_MULTIPROCESSOR
    case 111:
      return 1024;  // RESERVED_SHARED_MEMORY_PER_BLOCK
    // What there is none of: timeouts, integrated, compute mode, ECC, PCI device and domain, TCC, managed and pageable
    // memory, cooperative launches, memory pools, clusters.
    case 17:
    case 18:
    case 20:
    case 32:
    case 34:
    case 35:
    case 50:
    case 83:
    case 88:
    case 89:
    case 95:
    case 100:
    case 115:
    case 120: return 0;
    default: return -1;
  }
}

CUresult cuDeviceGetAttribute(int *out, int attribute, CUdevice device) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  const ps_device *d = device_of(device);
  if (d == NULL) return ps_leave(CUDA_ERROR_INVALID_DEVICE);
  int value = attribute_of(d, attribute, device);
  if (value < 0) return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "device attribute %d is not known", attribute));
  *out = value;
  return ps_leave(CUDA_SUCCESS);
}

// ---- contexts ----

CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  if (device_of(device) == NULL) return ps_leave(CUDA_ERROR_INVALID_DEVICE);
  CUcontext c = &ps_the_driver.primary[device];
  c->device = device;
  c->primary = true;
  c->references++;
  *out = c;
  return ps_leave(CUDA_SUCCESS);
}

// Everything that belongs to a context goes with it: modules, then memory.
static void context_clear(CUcontext c) {
  ps_driver *d = &ps_the_driver;
  for (size_t k = d->modules.count; k > 0; k--) {
    if (d->modules.items[k - 1]->context == c) ps_module_destroy(d->modules.items[k - 1]);
  }
  for (size_t k = 0; k < d->memory.allocations.count; k++) {
    ps_allocation *a = d->memory.allocations.items[k];
    if (a->device == c->device && !a->freed) ps_memory_free(&d->memory, a);
  }
  d->devices[c->device].used_bytes = 0;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  CUresult r = ps_enter(PS_NEED_INIT);
  bool faulted = r != CUDA_SUCCESS && ps_the_driver.sticky != CUDA_SUCCESS;
  if (r != CUDA_SUCCESS && !faulted) return r;
  if (faulted) pthread_mutex_lock(&ps_the_driver.lock);  // what is broken may still be given back
  if (device_of(device) == NULL) return ps_leave(CUDA_ERROR_INVALID_DEVICE);
  CUcontext c = &ps_the_driver.primary[device];
  if (c->references == 0) return ps_leave(ps_error(CUDA_ERROR_INVALID_CONTEXT, "the primary context is not retained"));
  if (--c->references == 0) {
    if (!faulted) ps_flush();
    context_clear(c);
  }
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
  ps_enter(PS_NEED_NOTHING);
  ps_leave(CUDA_SUCCESS);
  pthread_mutex_lock(&ps_the_driver.lock);
  if (device_of(device) == NULL) return ps_leave(CUDA_ERROR_INVALID_DEVICE);
  ps_the_driver.queue.count = 0;
  ps_the_driver.sticky = CUDA_SUCCESS;
  ps_the_driver.primary[device].device = device;
  context_clear(&ps_the_driver.primary[device]);
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
  (void)flags;
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  return ps_leave(device_of(device) != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  if (device_of(device) == NULL) return ps_leave(CUDA_ERROR_INVALID_DEVICE);
  *flags = 0;
  *active = ps_the_driver.primary[device].references > 0;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuCtxSetCurrent(CUcontext context) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  ps_current = context;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuCtxGetCurrent(CUcontext *out) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  *out = ps_current;
  return ps_leave(CUDA_SUCCESS);
}

enum { MAX_CONTEXTS = 16 };
static _Thread_local CUcontext context_stack[MAX_CONTEXTS];
static _Thread_local int context_depth;

CUresult cuCtxPushCurrent_v2(CUcontext context) {
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  if (context == NULL || context_depth == MAX_CONTEXTS) {
    return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "no context, or more than %d pushed", MAX_CONTEXTS));
  }
  context_stack[context_depth++] = ps_current;
  ps_current = context;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuCtxPopCurrent_v2(CUcontext *out) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (out != NULL) *out = ps_current;
  ps_current = context_depth > 0 ? context_stack[--context_depth] : NULL;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuCtxGetDevice(CUdevice *out) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  *out = ps_current->device;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuCtxGetApiVersion(CUcontext context, unsigned *out) {
  (void)context;
  CUresult r = ps_enter(PS_NEED_INIT);
  if (r != CUDA_SUCCESS) return r;
  *out = 3020;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuCtxSynchronize(void) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (ps_capturing()) return ps_leave(ps_refuse_capture());
  ps_the_driver.counts.synchronisations++;
  return ps_leave(ps_flush());
}

// ---- errors ----

static const struct {
  CUresult result;
  const char *name, *text;
} results[] = {
#define PS_RESULT(name, number, text) {name, #name, text},
#include "tests/ptxsim/result.def"
#undef PS_RESULT
};

CUresult cuGetErrorName(CUresult error, const char **out) {
  for (size_t k = 0; k < QN_COUNT(results); k++) {
    if (results[k].result != error) continue;
    *out = results[k].name;
    return CUDA_SUCCESS;
  }
  *out = NULL;
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char **out) {
  for (size_t k = 0; k < QN_COUNT(results); k++) {
    if (results[k].result != error) continue;
    *out = results[k].text;
    return CUDA_SUCCESS;
  }
  *out = NULL;
  return CUDA_ERROR_INVALID_VALUE;
}
