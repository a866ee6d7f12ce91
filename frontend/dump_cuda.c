// The text "cuda" of --dump-ir: a program's kernels as CUDA C++, as the GPU passes spread them over threads.
#include "codegen/cuda/emit.h"
#include "frontend/compilation.h"
#include "passes/gpu_pass.h"

static qn_status gather(quern_compilation *c, qn_cuda_kernel *out, size_t *out_count) {
  const qn_program *program = c->pass.program;
  *out_count = 0;
  for (size_t k = 0; k < program->kernels.count; k++) {
    const qn_pkernel *kernel = &program->kernels.items[k];
    qn_gpu_variant variants[QN_MAX_VARIANTS];
    int count = 0;
    int64_t max_rows = kernel->rows == QN_SYM_NONE ? INT64_MAX : program->max_values[kernel->rows];
    QN_TRY(qn_gpu_variants(kernel, max_rows, &c->arena, variants, &count, c->diag));
    for (int i = 0; i < count; i++)
      out[(*out_count)++] = (qn_cuda_kernel){.kernel = variants[i].kernel, .schedule = variants[i].schedule};
  }
  return QN_OK;
}

qn_status quern_dump_cuda(quern_compilation *c) {
  size_t most = c->pass.program->kernels.count * QN_MAX_VARIANTS, count = 0;
  qn_cuda_kernel *kernels = QN_ARENA_ARRAY(&c->arena, most, qn_cuda_kernel);
  if (!kernels) return qn_fail_nomem(c->diag, "CUDA", "the list of kernels");
  QN_TRY(gather(c, kernels, &count));
  qn_buf source;
  qn_buf_init(&source, c->allocator);
  qn_status status = qn_cuda_emit(kernels, count, &source, c->diag);
  if (status == QN_OK) c->options->dump(c->options->dump_context, "cuda", qn_buf_text(&source), source.length);
  qn_buf_deinit(&source);
  return status;
}
