// The way of kernels to a GPU's code: source, NVRTC (or what it gave before), the image of an artifact.
#include "codegen/cuda/compile.h"

#include <inttypes.h>
#include <string.h>

#include "codegen/cuda/nvrtc_cache.h"
#include "codegen/cuda/ptxas.h"

static void dump(const qn_cuda_options *options, const char *stage, const char *text, size_t length) {
  if (options->dump) options->dump(options->dump_context, stage, text, length);
}

static qn_status write_source(qn_cuda_kernel *kernels, size_t count, qn_buf *out, qn_diag *diag) {
  out->length = 0;
  return qn_cuda_emit(kernels, count, out, diag);
}

qn_status qn_cuda_show(qn_cuda_kernel *kernels, size_t count, const qn_cuda_options *options,
                       const qn_allocator *allocator, qn_diag *diag) {
  qn_buf source;
  qn_buf_init(&source, allocator);
  qn_status status = write_source(kernels, count, &source, diag);
  if (status == QN_OK) dump(options, "cuda", qn_buf_text(&source), source.length);
  qn_buf_deinit(&source);
  return status;
}

// Halves the promises of the kernels that spill registers and have one to give up; false where none has.
static bool lower_promises(qn_cuda_kernel *kernels, size_t count, const char *log) {
  bool lowered = false;
  for (size_t i = 0; i < count; i++) {
    qn_cuda_kernel *k = &kernels[i];
    qn_ptxas_report report;
    int promised = k->resident_threads > 0 ? k->resident_threads : QN_CUDA_RESIDENT_THREADS;
    bool spills = qn_ptxas_find(log, k->kernel->name, &report) && report.spill_bytes > 0;
    if (!spills || promised <= k->schedule.lanes * k->schedule.groups) continue;
    k->resident_threads = promised / 2;
    lowered = true;
  }
  return lowered;
}

qn_status qn_cuda_build(const qn_nvrtc *nvrtc, const char *cache_folder, const char *name, int sm,
                        qn_cuda_kernel *kernels, size_t count, qn_buf *source, qn_nvrtc_code *out, qn_diag *diag) {
  for (;;) {
    QN_TRY(write_source(kernels, count, source, diag));
    QN_TRY(qn_nvrtc_compile_cached(nvrtc, cache_folder, name, qn_buf_text(source), sm, out, diag));
    if (!lower_promises(kernels, count, out->log)) return QN_OK;
    qn_nvrtc_code_deinit(out);
  }
}

static qn_status build(qn_cuda_kernel *kernels, size_t count, const qn_cuda_options *options,
                       const qn_allocator *allocator, qn_buf *source, qn_nvrtc_code *out, qn_diag *diag) {
  qn_nvrtc *nvrtc = NULL;
  const qn_target *target = options->target;
  QN_TRY(qn_nvrtc_open(&options->nvrtc, allocator, &nvrtc, diag));
  qn_status status =
      qn_cuda_build(nvrtc, options->cache_folder, target->name, target->sm, kernels, count, source, out, diag);
  qn_nvrtc_close(nvrtc);
  QN_TRY(status);
  dump(options, "cuda", qn_buf_text(source), source->length);
  dump(options, "ptx", out->ptx, strlen(out->ptx));
  dump(options, "ptxas", out->log, strlen(out->log));
  return QN_OK;
}

static qn_status make_image(const qn_nvrtc_code *code, qn_code *out, qn_diag *diag) {
  out->cubin_size = code->cubin_size;
  out->ptx_size = strlen(code->ptx) + 1;
  out->image = qn_alloc(out->allocator, out->cubin_size + out->ptx_size);
  if (!out->image) return qn_fail_nomem(diag, "CUDA", "the code");
  out->image_size = out->cubin_size + out->ptx_size;
  memcpy(out->image, code->cubin, out->cubin_size);
  memcpy(out->image + out->cubin_size, code->ptx, out->ptx_size);
  return QN_OK;
}

static qn_status make_launches(const qn_cuda_kernel *kernels, size_t count, const qn_target *target, qn_code *out,
                               qn_diag *diag) {
  out->kernel_count = count;
  out->launches = qn_alloc_zeroed(out->allocator, (count ? count : 1) * sizeof *out->launches);
  if (!out->launches) return qn_fail_nomem(diag, "CUDA", "the kernels' launches");
  for (size_t i = 0; i < count; i++) {
    if (kernels[i].shared_bytes > target->shared_bytes) {
      return qn_fail(diag, QN_ERR_UNSUPPORTED, target->name,
                     "kernel '%s' wants %" PRId64 " bytes of shared memory a block; the chip has %" PRId64,
                     kernels[i].kernel->name, kernels[i].shared_bytes, target->shared_bytes);
    }
    out->launches[i] = (qn_art_launch){.lanes = (uint32_t)kernels[i].schedule.lanes,
                                       .groups = (uint32_t)kernels[i].schedule.groups,
                                       .shared_bytes = (uint32_t)kernels[i].shared_bytes};
  }
  return QN_OK;
}

qn_status qn_cuda_compile(qn_cuda_kernel *kernels, size_t count, const qn_cuda_options *options,
                          const qn_allocator *allocator, qn_code *out, qn_diag *diag) {
  qn_buf source;
  qn_nvrtc_code code = {.allocator = allocator};
  *out = (qn_code){.allocator = allocator};
  qn_buf_init(&source, allocator);
  qn_status status = build(kernels, count, options, allocator, &source, &code, diag);
  if (status == QN_OK) status = make_launches(kernels, count, options->target, out, diag);
  if (status == QN_OK) status = make_image(&code, out, diag);
  qn_nvrtc_code_deinit(&code);
  qn_buf_deinit(&source);
  if (status != QN_OK) qn_code_deinit(out);
  return status;
}
