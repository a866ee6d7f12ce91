// The way of kernels to a GPU's code: source, NVRTC (or what it gave before), the image of an artifact.
#include "codegen/cuda/compile.h"

#include <inttypes.h>
#include <string.h>

#include "codegen/cuda/nvrtc_cache.h"

static void dump(const qn_cuda_options *options, const char *stage, const char *text, size_t length) {
  if (options->dump) options->dump(options->dump_context, stage, text, length);
}

static qn_status write_source(qn_cuda_kernel *kernels, size_t count, const qn_cuda_options *options, qn_buf *out,
                              qn_diag *diag) {
  QN_TRY(qn_cuda_emit(kernels, count, out, diag));
  dump(options, "cuda", qn_buf_text(out), out->length);
  return QN_OK;
}

qn_status qn_cuda_show(qn_cuda_kernel *kernels, size_t count, const qn_cuda_options *options,
                       const qn_allocator *allocator, qn_diag *diag) {
  qn_buf source;
  qn_buf_init(&source, allocator);
  qn_status status = write_source(kernels, count, options, &source, diag);
  qn_buf_deinit(&source);
  return status;
}

static qn_status compile_source(const char *source, const qn_cuda_options *options, const qn_allocator *allocator,
                                qn_nvrtc_code *out, qn_diag *diag) {
  qn_nvrtc *nvrtc = NULL;
  QN_TRY(qn_nvrtc_open(&options->nvrtc, allocator, &nvrtc, diag));
  qn_status status = qn_nvrtc_compile_cached(nvrtc, options->cache_folder, options->target->name, source,
                                             options->target->sm, out, diag);
  qn_nvrtc_close(nvrtc);
  QN_TRY(status);
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
  qn_status status = write_source(kernels, count, options, &source, diag);
  if (status == QN_OK) status = make_launches(kernels, count, options->target, out, diag);
  if (status == QN_OK) status = compile_source(qn_buf_text(&source), options, allocator, &code, diag);
  if (status == QN_OK) status = make_image(&code, out, diag);
  qn_nvrtc_code_deinit(&code);
  qn_buf_deinit(&source);
  if (status != QN_OK) qn_code_deinit(out);
  return status;
}
