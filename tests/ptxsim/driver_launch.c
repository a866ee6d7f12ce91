// Kernels: their attributes, how many blocks fit, checks of a launch, and the launch itself.
#include <stdio.h>

#include "tests/ptxsim/driver.h"
#include "tests/ptxsim/driver_api.h"

static const ps_device *device_of(CUfunction f) { return &ps_the_driver.devices[f->module->context->device]; }

static bool is_function(CUfunction f) {
  for (size_t m = 0; m < ps_the_driver.modules.count; m++) {
    CUmodule module = ps_the_driver.modules.items[m];
    for (size_t k = 0; k < module->functions.count; k++) {
      if (module->functions.items[k] == f) return true;
    }
  }
  ps_error(CUDA_ERROR_INVALID_HANDLE, "the kernel is none, or its module was unloaded");
  return false;
}

static int max_threads(CUfunction f) {
  const uint32_t *n = f->program->entry->max_threads, *exactly = f->program->entry->required_threads;
  if (exactly[0] > 0) return (int)(exactly[0] * exactly[1] * exactly[2]);
  return n[0] > 0 ? (int)(n[0] * n[1] * n[2]) : 1024;
}

CUresult cuFuncGetAttribute(int *out, int attribute, CUfunction f) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (!is_function(f)) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  const ps_program *p = f->program;
  int sm = device_of(f)->sm;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *out = max_threads(f); break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *out = (int)p->static_shared_bytes; break;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES: *out = 0; break;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *out = (int)p->local_bytes; break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *out = (int)p->live_registers; break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION: *out = f->module->ptx.sm; break;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *out = sm; break;
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA: *out = 0; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *out = (int)f->max_dynamic_shared; break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT: *out = -1; break;
    default: return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "kernel attribute %d is not known", attribute));
  }
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuFuncSetAttribute(CUfunction f, int attribute, int value) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (!is_function(f)) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) return ps_leave(CUDA_SUCCESS);
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "kernel attribute %d cannot be set", attribute));
  }
  int most = ((device_of(f)->shared_kib - 1) << 10) - (int)f->program->static_shared_bytes;
  if (value < 0 || value > most) {
    return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "kernel '%s': %d bytes of dynamic shared memory, of at most %d",
                             f->program->name, value, most));
  }
  f->max_dynamic_shared = (uint32_t)value;
  return ps_leave(CUDA_SUCCESS);
}

// By threads, shared memory and registers, as the tables of the programming guide give them.
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, CUfunction f, int threads, size_t dynamic_bytes) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  if (!is_function(f)) return ps_leave(CUDA_ERROR_INVALID_HANDLE);
  if (threads <= 0) return ps_leave(ps_error(CUDA_ERROR_INVALID_VALUE, "occupancy of blocks without threads"));
  const ps_device *d = device_of(f);
  int warps = (threads + PS_LANES - 1) / PS_LANES, blocks = d->blocks;
  int by_threads = d->threads / (warps * PS_LANES);
  size_t shared = f->program->static_shared_bytes + dynamic_bytes + 1024;
  int by_shared = (int)(((size_t)d->shared_kib << 10) / shared);
  int registers = (int)(f->program->live_registers + 7) / 8 * 8;
  int by_registers = 65536 / (registers * PS_LANES) / warps;
  if (by_threads < blocks) blocks = by_threads;
  if (by_shared < blocks) blocks = by_shared;
  if (by_registers < blocks) blocks = by_registers;
  *out = threads > max_threads(f) ? 0 : blocks;
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *out, CUfunction f, int threads, size_t dynamic_bytes,
                                                              unsigned flags) {
  (void)flags;
  return cuOccupancyMaxActiveBlocksPerMultiprocessor(out, f, threads, dynamic_bytes);
}

// ---- launches ----

static CUresult check_shape(CUfunction f, const unsigned grid[3], const unsigned block[3], unsigned dynamic) {
  const ps_program *p = f->program;
  const ps_device *d = device_of(f);
  uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
  bool sizes =
      grid[0] > 0 && grid[1] > 0 && grid[2] > 0 && grid[0] <= INT32_MAX && grid[1] <= 65535 && grid[2] <= 65535;
  sizes = sizes && threads > 0 && block[0] <= 1024 && block[1] <= 1024 && block[2] <= 64 && threads <= 1024;
  if (!sizes || (uint64_t)grid[0] * grid[1] * grid[2] > UINT32_MAX) {
    return ps_error(CUDA_ERROR_INVALID_VALUE, "kernel '%s': a grid of %u x %u x %u blocks of %u x %u x %u threads",
                    p->name, grid[0], grid[1], grid[2], block[0], block[1], block[2]);
  }
  const uint32_t *exactly = p->entry->required_threads;
  if (threads > (uint64_t)max_threads(f) ||
      (exactly[0] > 0 && memcmp(exactly, block, sizeof p->entry->required_threads) != 0)) {
    return ps_error(CUDA_ERROR_INVALID_VALUE, "kernel '%s': blocks of %llu threads; it was compiled for %d", p->name,
                    (unsigned long long)threads, max_threads(f));
  }
  if (dynamic > f->max_dynamic_shared || p->static_shared_bytes + dynamic > (uint32_t)(d->shared_kib - 1) << 10) {
    return ps_error(CUDA_ERROR_INVALID_VALUE,
                    "kernel '%s': %u bytes of dynamic shared memory; %u are allowed "
                    "(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)",
                    p->name, dynamic, f->max_dynamic_shared);
  }
  return CUDA_SUCCESS;
}

// The bytes of the parameters, from a list of pointers or from one buffer.
static CUresult pack_params(CUfunction f, void **params, void **extra, ps_op *op) {
  const ps_program *p = f->program;
  op->param_bytes = p->param_bytes > 0 ? p->param_bytes : 1;
  op->params = qn_alloc_zeroed(qn_allocator_default(), op->param_bytes);
  if (op->params == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  op->config.params = op->params;
  if (params == NULL && extra != NULL) {
    const void *buffer = NULL;
    size_t size = 0;
    for (size_t k = 0; extra[k] != CU_LAUNCH_PARAM_END; k += 2) {
      if (extra[k] == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = extra[k + 1];
      if (extra[k] == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *(const size_t *)extra[k + 1];
    }
    if (buffer == NULL || size != p->param_bytes) {
      return ps_error(CUDA_ERROR_INVALID_VALUE, "kernel '%s': %zu bytes of parameters, want %u", p->name, size,
                      p->param_bytes);
    }
    memcpy(op->params, buffer, size);
    return CUDA_SUCCESS;
  }
  if (params == NULL && p->entry->params.count > 0) {
    return ps_error(CUDA_ERROR_INVALID_VALUE, "kernel '%s': no parameters, want %zu", p->name, p->entry->params.count);
  }
  for (size_t k = 0; k < p->entry->params.count; k++) {
    const ps_symbol *v = p->entry->params.items[k];
    if (params[k] == NULL) return ps_error(CUDA_ERROR_INVALID_VALUE, "kernel '%s': parameter %zu is NULL", p->name, k);
    memcpy(op->params + v->offset, params[k], v->size_bytes);
  }
  return CUDA_SUCCESS;
}

CUresult ps_make_launch(CUfunction f, const unsigned grid[3], const unsigned block[3], unsigned dynamic, void **params,
                        void **extra, ps_op *out) {
  *out = (ps_op){.kind = PS_OP_KERNEL, .context = ps_current, .function = f};
  if (!is_function(f)) return CUDA_ERROR_INVALID_HANDLE;
  CUresult r = check_shape(f, grid, block, dynamic);
  if (r == CUDA_SUCCESS) r = pack_params(f, params, extra, out);
  if (r != CUDA_SUCCESS) {
    ps_op_deinit(out);
    return r;
  }
  memcpy(out->config.grid, grid, sizeof out->config.grid);
  memcpy(out->config.block, block, sizeof out->config.block);
  out->config.dynamic_shared_bytes = dynamic;
  return CUDA_SUCCESS;
}

CUresult ps_run_kernel(const ps_op *op) {
  ps_driver *d = &ps_the_driver;
  if (!is_function(op->function)) return CUDA_ERROR_INVALID_HANDLE;
  const ps_program *p = op->function->program;
  ps_kernel_stats *stats = ps_stats_of(p->name);
  if (stats == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  ps_launch launch = {.program = p,
                      .config = &op->config,
                      .options = &d->options,
                      .memory = &d->memory,
                      .shared_bytes = p->static_shared_bytes + op->config.dynamic_shared_bytes,
                      .counters = &stats->counters,
                      .traffic = stats->traffic.items,
                      .traffic_count = stats->traffic.count,
                      .grid_id = ++d->grid_id,
                      .device = op->function->module->context->device};
  ps_fault fault = {0};
  ps_run(&launch, &fault);
  if (fault.code == 0) return CUDA_SUCCESS;
  d->sticky = (CUresult)fault.code;
  return ps_error(d->sticky, "%s", fault.text);
}

static CUresult launch_kernel(CUfunction f, const unsigned grid[3], const unsigned block[3], unsigned dynamic,
                              CUstream stream, void **params, void **extra) {
  CUresult r = ps_enter(PS_NEED_CONTEXT);
  if (r != CUDA_SUCCESS) return r;
  ps_op op;
  r = ps_make_launch(f, grid, block, dynamic, params, extra, &op);
  if (r != CUDA_SUCCESS) return ps_leave(r);
  const CUstream s = ps_stream(stream);
  if (s != NULL && s->capture == NULL) ps_the_driver.counts.kernel_launches++;
  return ps_leave(ps_submit(stream, &op));
}

CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared_bytes, CUstream stream, void **params, void **extra) {
  return launch_kernel(f, (const unsigned[3]){gx, gy, gz}, (const unsigned[3]){bx, by, bz}, shared_bytes, stream,
                       params, extra);
}

// Attributes of a launch (clusters, programmatic dependencies, ...) would change what it means: none is known.
CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **params, void **extra) {
  if (config->attribute_count > 0) {
    CUresult r = ps_enter(PS_NEED_CONTEXT);
    if (r != CUDA_SUCCESS) return r;
    return ps_leave(ps_error(CUDA_ERROR_NOT_SUPPORTED, "cuLaunchKernelEx: launch attributes are not supported"));
  }
  return launch_kernel(f, config->grid, config->block, config->shared_bytes, config->stream, params, extra);
}
