// Launches of kernels in the simulator, or on a GPU.
#include "tests/support/gpu_launch.h"

#include <stdlib.h>

#include "codegen/cuda/compile.h"
#include "tests/support/test.h"

enum { FUNC_SHARED_BYTES = 8 };  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

// Of a real device the newest chip that we compile for and it runs.
static int chip_of_device(int simulated) {
  enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 };  // CUdevice_attribute
  static const int chips[] = {80, 90, 100, 120};
  int major = 0, minor = 0, found = chips[0];
  if (!sim_is_real()) return simulated;
  sim_ok(sim.device_attribute(&major, CAPABILITY_MAJOR, 0));
  sim_ok(sim.device_attribute(&minor, CAPABILITY_MINOR, 0));
  for (size_t i = 0; i < QN_COUNT(chips); i++)
    if (chips[i] <= 10 * major + minor) found = chips[i];
  return found;
}

void qn_gpu_load(qn_gpu_device *d) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  qn_nvrtc_code code;
  qn_buf source;
  qn_buf_init(&source, qn_test_allocator());
  d->sm = chip_of_device(d->sm);
  const qn_nvrtc_options options = {.ptx_alone = true};
  qn_assert_ok(&diag, qn_nvrtc_open(&options, qn_test_allocator(), &nvrtc, &diag));
  qn_assert_ok(&diag, qn_cuda_build(nvrtc, getenv(QN_NVRTC_CACHE_VARIABLE), "kernels.cu", d->sm, d->kernels, d->count, &source, &code, &diag));
  if (d->edit) d->edit(code.ptx);
  sim_ok(sim.load(&d->module, code.ptx));
  qn_nvrtc_code_deinit(&code);
  qn_nvrtc_close(nvrtc);
  qn_buf_deinit(&source);
}

void qn_gpu_gather(qn_gpu_device *d, qn_run *run) {
  const qn_program *program = qn_run_program(run);
  for (size_t k = 0; k < program->kernels.count; k++) {
    int variants = 0;
    const qn_gpu_variant *v = qn_run_gpu_variants(run, k, &variants);
    for (int i = 0; i < variants; i++) {
      ck_assert_uint_lt(d->count, QN_GPU_MAX_KERNELS);
      d->kernels[d->count++] = (qn_cuda_kernel){.kernel = v[i].kernel, .schedule = v[i].schedule};
    }
  }
}

static const qn_cuda_kernel *find_kernel(const qn_gpu_device *d, const qn_lkernel *kernel) {
  for (size_t i = 0; i < d->count; i++)
    if (d->kernels[i].kernel == kernel) return &d->kernels[i];
  ck_abort_msg("kernel '%s' is not loaded", kernel->name);
  return NULL;
}

// Brings the buffers to `pointers` and runs the kernel.
static CUresult run_kernel(qn_gpu_device *d, const qn_lkernel *kernel, const qn_linterp_buffer *buffers,
                           const int64_t *symbols, int64_t extent, CUdeviceptr pointers[QN_GPU_MAX_PARAMS]) {
  int values[QN_SYM_COUNT];
  void *params[QN_GPU_MAX_PARAMS + QN_SYM_COUNT];
  CUfunction function;
  ck_assert_uint_le(kernel->param_count, QN_GPU_MAX_PARAMS);
  for (size_t i = 0; i < kernel->param_count; i++) {
    const qn_lbuf *param = kernel->params[i];
    pointers[i] = sim_upload(buffers[i].data, buffers[i].size);
    const char *label = param->streamed ? "streamed" : param->writable ? "out" : param->name[0] == 'c' ? "cache" : "in";
    ck_assert_int_eq(sim.label(pointers[i], buffers[i].size, label), 0);
    params[i] = &pointers[i];
  }
  for (int s = QN_SYM_NONE + 1; s < QN_SYM_COUNT; s++) {
    values[s] = (int)symbols[s];
    params[kernel->param_count + (size_t)s - 1] = &values[s];
  }
  const qn_cuda_kernel *code = find_kernel(d, kernel);
  int groups = code->schedule.groups;
  unsigned blocks = (unsigned)((extent + groups - 1) / groups), threads = (unsigned)(code->schedule.lanes * groups);
  sim_ok(sim.function(&function, d->module, kernel->name));
  sim_ok(sim.set_function_attribute(function, FUNC_SHARED_BYTES, (int)code->shared_bytes));
  return sim_run(function, blocks, threads, (unsigned)code->shared_bytes, params);
}

CUresult qn_gpu_try_kernel(qn_gpu_device *d, const qn_lkernel *kernel, const qn_linterp_buffer *buffers,
                           const int64_t *symbols, int64_t extent) {
  CUdeviceptr pointers[QN_GPU_MAX_PARAMS];
  return run_kernel(d, kernel, buffers, symbols, extent, pointers);
}

void qn_gpu_launch_kernel(qn_gpu_device *d, const qn_lkernel *kernel, const qn_linterp_buffer *buffers,
                          const int64_t *symbols, int64_t extent) {
  CUdeviceptr pointers[QN_GPU_MAX_PARAMS];
  sim_ok(run_kernel(d, kernel, buffers, symbols, extent, pointers));
  for (size_t i = 0; i < kernel->param_count; i++) {
    if (kernel->params[i]->writable) sim_download(buffers[i].data, pointers[i], buffers[i].size);
    sim_ok(sim.free(pointers[i]));
  }
}

void qn_gpu_launch(void *context, qn_run *run, size_t number, const qn_gpu_variant *variant,
                   const qn_linterp_buffer *buffers, const int64_t *symbols, int64_t extent) {
  qn_gpu_device *d = context;
  (void)number;
  if (!d->module) {
    qn_gpu_gather(d, run);
    qn_gpu_load(d);
  }
  qn_gpu_launch_kernel(d, variant->kernel, buffers, symbols, extent);
}
