// Memory of devices and pinned memory of the host; copies and fills.
#include <stdio.h>
#include <stdlib.h>

#include "tests/ptxsim/driver.h"
#include "tests/ptxsim/driver_api.h"

static ps_device *current_device(void) { return &ps_the_driver.devices[ps_current->device]; }

CUresult cuMemAlloc_v2(CUdeviceptr *out, size_t size) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  ps_driver *d = &ps_the_driver;
  ps_device *device = current_device();
  if (out == NULL || size == 0) return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "cuMemAlloc of no bytes"));
  if (ps_capturing()) return ps_leave(ps_refuse_capture());
  if (size > device->memory_bytes - device->used_bytes) {
    return ps_leave(ps_error(CUDA_ERROR_OUT_OF_MEMORY, "cuMemAlloc of %zu bytes: %llu of %llu are free", size,
                             (unsigned long long)(device->memory_bytes - device->used_bytes),
                             (unsigned long long)device->memory_bytes));
  }
  ps_allocation *a = ps_memory_allocate(&d->memory, ps_current->device, size, "memory");
  if (a == NULL) return ps_leave(ps_error(CUDA_ERROR_OUT_OF_MEMORY, "the host has no %zu bytes", size));
  device->used_bytes += size;
  *out = a->base;
  return ps_leave(CUDA_SUCCESS);
}

// The live allocation that begins at an address.
static ps_allocation *begins_at(uint64_t address) {
  ps_allocation *a = ps_memory_find(&ps_the_driver.memory, address, 1);
  return a != NULL && a->base == address ? a : NULL;
}

CUresult cuMemFree_v2(CUdeviceptr address) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (address == 0) return ps_leave(CUDA_SUCCESS);
  ps_allocation *a = begins_at(address);
  if (a == NULL || a->device < 0) {
    return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "cuMemFree of 0x%llx, where no allocation begins",
                             (unsigned long long)address));
  }
  if (ps_capturing()) return ps_leave(ps_refuse_capture());
  r = ps_flush();  // what is queued may use it
  ps_the_driver.devices[a->device].used_bytes -= a->size;
  ps_memory_free(&ps_the_driver.memory, a);
  return ps_leave(r);
}

CUresult cuMemGetInfo_v2(size_t *out_free, size_t *out_total) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  const ps_device *device = current_device();
  *out_total = device->memory_bytes;
  *out_free = device->memory_bytes - device->used_bytes;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *out_base, size_t *out_size, CUdeviceptr address) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  const ps_allocation *a = ps_memory_find(&ps_the_driver.memory, address, 1);
  if (a == NULL)
    return ps_leave(ps_error(CUDA_ERROR_NOT_FOUND, "0x%llx is not allocated", (unsigned long long)address));
  if (out_base != NULL) *out_base = a->base;
  if (out_size != NULL) *out_size = a->size;
  return ps_leave(CUDA_SUCCESS);
}

// ---- pinned memory ----

CUresult cuMemAllocHost_v2(void **out, size_t size) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (size == 0) return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "cuMemAllocHost of no bytes"));
  void *bytes = aligned_alloc(4096, qn_align_up(size, 4096));
  if (bytes == NULL) return ps_leave(ps_error(CUDA_ERROR_OUT_OF_MEMORY, "the host has no %zu bytes", size));
  memset(bytes, 0, size);
  ps_allocation *a = ps_memory_register(&ps_the_driver.memory, bytes, size, "pinned");
  if (a == NULL) {
    free(bytes);
    return ps_leave(CUDA_ERROR_OUT_OF_MEMORY);
  }
  *out = bytes;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuMemHostAlloc(void **out, size_t size, unsigned flags) {
  (void)flags;
  return cuMemAllocHost_v2(out, size);
}

CUresult cuMemFreeHost(void *bytes) {
  CUresult r = ps_enter_giving_back();
  if (r != CUDA_SUCCESS) return r;
  ps_allocation *a = begins_at((uintptr_t)bytes);
  if (a == NULL || a->device >= 0) return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "cuMemFreeHost of other memory"));
  r = ps_flush();
  ps_memory_free(&ps_the_driver.memory, a);
  free(bytes);
  return ps_leave(r);
}

CUresult cuMemHostRegister_v2(void *bytes, size_t size, unsigned flags) {
  (void)flags;
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (bytes == NULL || size == 0) return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "cuMemHostRegister of nothing"));
  const ps_allocation *before = ps_memory_at(&ps_the_driver.memory, (uintptr_t)bytes + size - 1);
  if (before != NULL && !before->freed && before->base + before->size > (uintptr_t)bytes) {
    return ps_leave(ps_error(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "cuMemHostRegister: registered already"));
  }
  ps_allocation *a = ps_memory_register(&ps_the_driver.memory, bytes, size, "registered");
  return ps_leave(a != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

CUresult cuMemHostUnregister(void *bytes) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  ps_allocation *a = begins_at((uintptr_t)bytes);
  if (a == NULL || a->device >= 0) {
    return ps_leave(ps_error(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "cuMemHostUnregister of other memory"));
  }
  r = ps_flush();
  ps_memory_free(&ps_the_driver.memory, a);
  return ps_leave(r);
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *out, void *bytes, unsigned flags) {
  (void)flags;
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (ps_memory_find(&ps_the_driver.memory, (uintptr_t)bytes, 1) == NULL) {
    return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "the memory is not pinned"));
  }
  *out = (uintptr_t)bytes;
  return ps_leave(CUDA_SUCCESS);
}

// ---- copies ----

// How an address may be used in a copy.
typedef enum side { SIDE_HOST, SIDE_DEVICE, SIDE_EITHER } side;

// The bytes at an address; *out_allocation is NULL for plain memory of the host.
static uint8_t *resolve(uint64_t address, uint64_t size, side s, ps_allocation **out_allocation) {
  *out_allocation = ps_memory_find(&ps_the_driver.memory, address, size);
  if (*out_allocation != NULL) return (*out_allocation)->host + (address - (*out_allocation)->base);
  const ps_allocation *near = ps_memory_at(&ps_the_driver.memory, address);
  bool ours = near != NULL && near->device >= 0 && address < near->base + near->size + (1u << 20);
  if (s == SIDE_DEVICE || ours) {
    char text[256];
    ps_memory_describe(&ps_the_driver.memory, address, size, text, sizeof text);
    ps_error(CUDA_ERROR_INVALID_VALUE, "copy or fill of %llu bytes: %s", (unsigned long long)size, text);
    return NULL;
  }
  return (uint8_t *)(uintptr_t)address;
}

// What was not written stays so in its copy.
static void copy_marks(ps_allocation *to, uint64_t to_offset, const ps_allocation *from, uint64_t from_offset,
                       uint64_t size) {
  if (from == NULL || ps_first_unwritten(from, from_offset, size) == size) {
    ps_mark_written(to, to_offset, size);
    return;
  }
  for (uint64_t k = 0; k < size; k++) {
    if (ps_first_unwritten(from, from_offset + k, 1) == 1) {
      ps_mark_written(to, to_offset + k, 1);
    } else {
      ps_mark_unwritten(to, to_offset + k, 1);
    }
  }
}

CUresult ps_run_copy(const ps_op *op) {
  ps_allocation *to, *from;
  uint8_t *target = resolve(op->to, op->size, SIDE_EITHER, &to);
  const uint8_t *source = target != NULL ? resolve(op->from, op->size, SIDE_EITHER, &from) : NULL;
  if (source == NULL) return CUDA_ERROR_INVALID_VALUE;
  memmove(target, source, op->size);
  if (to != NULL) copy_marks(to, op->to - to->base, from, from != NULL ? op->from - from->base : 0, op->size);
  bool to_device = to != NULL && to->device >= 0, from_device = from != NULL && from->device >= 0;
  if (to_device && !from_device) ps_the_driver.counts.host_to_device_bytes += op->size;
  if (!to_device && from_device) ps_the_driver.counts.device_to_host_bytes += op->size;
  return CUDA_SUCCESS;
}

CUresult ps_run_fill(const ps_op *op) {
  ps_allocation *to;
  uint8_t *target = resolve(op->to, op->size, SIDE_DEVICE, &to);
  if (target == NULL) return CUDA_ERROR_INVALID_VALUE;
  if (op->value_bytes == 1) {
    memset(target, (int)op->value, op->size);
  } else {
    for (uint64_t k = 0; k < op->size; k += op->value_bytes) memcpy(target + k, &op->value, op->value_bytes);
  }
  ps_mark_written(to, op->to - to->base, op->size);
  return CUDA_SUCCESS;
}

static bool pinned_or_device(uint64_t address, uint64_t size) {
  return ps_memory_find(&ps_the_driver.memory, address, size) != NULL;
}

// A copy: checked now, done now when it is synchronous or the host's side is pageable (the driver would stage it).
static CUresult copy(uint64_t to, uint64_t from, size_t size, side to_side, side from_side, CUstream stream,
                     bool async) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (size == 0) return ps_leave(CUDA_SUCCESS);
  ps_allocation *ignored;
  if (resolve(to, size, to_side, &ignored) == NULL || resolve(from, size, from_side, &ignored) == NULL) {
    return ps_leave(CUDA_ERROR_INVALID_VALUE);
  }
  ps_op op = {.kind = PS_OP_COPY, .context = ps_current, .to = to, .from = from, .size = size};
  bool staged = !pinned_or_device(to, size) || !pinned_or_device(from, size);
  if (async) {
    r = ps_submit(stream, &op);
    CUstream s = ps_stream(stream);
    bool captured = s != NULL && s->capture != NULL;
    return ps_leave(r == CUDA_SUCCESS && staged && !captured ? ps_flush() : r);
  }
  if (ps_capturing()) return ps_leave(ps_refuse_capture());
  ps_the_driver.counts.synchronisations++;
  r = ps_submit(NULL, &op);
  return ps_leave(r == CUDA_SUCCESS ? ps_flush() : r);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size) {
  return copy(to, (uintptr_t)from, size, SIDE_DEVICE, SIDE_HOST, NULL, false);
}
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size) {
  return copy((uintptr_t)to, from, size, SIDE_HOST, SIDE_DEVICE, NULL, false);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size) {
  return copy(to, from, size, SIDE_DEVICE, SIDE_DEVICE, NULL, false);
}
CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t size) {
  return copy(to, from, size, SIDE_EITHER, SIDE_EITHER, NULL, false);
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, CUstream stream) {
  return copy(to, (uintptr_t)from, size, SIDE_DEVICE, SIDE_HOST, stream, true);
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, CUstream stream) {
  return copy((uintptr_t)to, from, size, SIDE_HOST, SIDE_DEVICE, stream, true);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
  return copy(to, from, size, SIDE_DEVICE, SIDE_DEVICE, stream, true);
}
CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
  return copy(to, from, size, SIDE_EITHER, SIDE_EITHER, stream, true);
}

// ---- fills ----

static CUresult fill(uint64_t to, uint32_t value, uint8_t bytes, size_t count, CUstream stream, bool async) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (count == 0) return ps_leave(CUDA_SUCCESS);
  ps_allocation *ignored;
  size_t size;
  if (!qn_size_mul(count, bytes, &size) || to % bytes != 0 || resolve(to, size, SIDE_DEVICE, &ignored) == NULL) {
    if (to % bytes != 0) ps_error(CUDA_ERROR_INVALID_VALUE, "fill of a misaligned address");
    return ps_leave(CUDA_ERROR_INVALID_VALUE);
  }
  ps_op op = {.kind = PS_OP_FILL, .context = ps_current, .to = to, .size = size, .value = value, .value_bytes = bytes};
  if (!async && ps_capturing()) return ps_leave(ps_refuse_capture());
  return ps_leave(ps_submit(stream, &op));
}

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t n) { return fill(to, value, 1, n, NULL, false); }
CUresult cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t n) { return fill(to, value, 2, n, NULL, false); }
CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t n) { return fill(to, value, 4, n, NULL, false); }
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream stream) {
  return fill(to, value, 1, n, stream, true);
}
CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t n, CUstream stream) {
  return fill(to, value, 2, n, stream, true);
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t n, CUstream stream) {
  return fill(to, value, 4, n, stream, true);
}
