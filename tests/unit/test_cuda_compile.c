// The static guard: kernels of every class and format, as CUDA C++, through NVRTC for each chip, and what ptxas says of
// them held against limits. Needs NVRTC, no GPU.
#include <stdio.h>
#include <stdlib.h>

#include "codegen/cuda/emit.h"
#include "codegen/cuda/nvrtc.h"
#include "codegen/cuda/ptxas.h"
#include "tests/support/graph_run.h"
#include "tests/support/test.h"

enum {
  MAX_KERNELS = 64,
  MAX_REGISTERS = 128,         // of a thread: 16 warps of such kernels fit a multiprocessor, four to a scheduler
  MAX_SHARED_BYTES = 99 << 10  // of a block: what sm_120 has, the least of the four
};

static const int chips[] = {80, 90, 100, 120};

// A product with something after it and one that it meets, at the width of a small model.
static const char product[] =
    "max T=32\n"
    "x = input f32[T,2048]; wg = param $F[64,2048]; wu = param $F[64,2048]\n"
    "g = matmul x wg; s = silu g; u = matmul x wu; y = mul s u; output y";

// Every class of kernels that products are not: lookups, norms, RoPE, cache writes and attention.
static const char layer[] =
    "max T=32 R=32\n"
    "embd = param $F[40,256]; norm = param f32[256]; x = embed embd tokens\n"
    "table = rope_table pos dims=64 theta=10000; a = rmsnorm x norm eps=1e-5; wq = param $F[512,256]\n"
    "wk = param $F[128,256]; wv = param $F[128,256]; q = matmul a wq; k = matmul a wk; v = matmul a wv\n"
    "q3 = split_heads q heads=8; k3 = split_heads k heads=2; v3 = split_heads v heads=2\n"
    "qr = rope q3 table kind=pairs; kr = rope k3 table kind=pairs\n"
    "kc = cache kind=k index=0 f16[G,2,64,64]; vc = cache kind=v index=0 f16[G,2,64,64]\n"
    "kw = kv_write kc kr pos seq block_table kind=k; vw = kv_write vc v3 pos seq block_table kind=v\n"
    "s = attn_scores qr kw pos seq block_table scale=0.35; p = softmax s; o = attn_mix p vw pos seq block_table\n"
    "om = merge_heads o; wo = param $F[256,512]; oo = matmul om wo; h = add x oo; n = layernorm h norm norm eps=1e-5\n"
    "e = gelu n; f = tanh e; output f";

static size_t gather_kernels(qn_run *run, qn_cuda_kernel *out) {
  size_t count = 0;
  const qn_program *program = qn_run_program(run);
  for (size_t k = 0; k < program->kernels.count; k++) {
    int variants = 0;
    const qn_gpu_variant *v = qn_run_gpu_variants(run, k, &variants);
    for (int i = 0; i < variants; i++) {
      ck_assert_uint_lt(count, MAX_KERNELS);
      out[count++] = (qn_cuda_kernel){.kernel = v[i].kernel, .schedule = v[i].schedule};
    }
  }
  return count;
}

static void check_report(const qn_cuda_kernel *kernel, const char *log, int sm, const char *label) {
  qn_ptxas_report r = {0};
  const char *name = kernel->kernel->name;
  qn_check(qn_ptxas_find(log, name, &r), "%s: nothing about %s in\n%s", label, name, log);
  qn_check(r.spill_bytes == 0 && r.stack_bytes == 0, "%s, %s for sm_%d: %d bytes spilled, a stack of %d", label, name,
           sm, (int)r.spill_bytes, (int)r.stack_bytes);
  qn_check(r.registers <= MAX_REGISTERS, "%s, %s for sm_%d: %d registers, want at most %d", label, name, sm,
           (int)r.registers, MAX_REGISTERS);
  qn_check(kernel->shared_bytes + r.shared_bytes <= MAX_SHARED_BYTES, "%s, %s for sm_%d: %d bytes shared", label, name,
           sm, (int)(kernel->shared_bytes + r.shared_bytes));
}

// Compiles a program's kernels for every stride-th chip, beginning with number `first`.
static void check_program(const char *text, const char *format, bool quantize, size_t first, size_t stride) {
  char sizes[32], label[64];
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  qn_cuda_kernel kernels[MAX_KERNELS];
  qn_buf source;
  snprintf(sizes, sizeof sizes, "F=%s", format);
  snprintf(label, sizeof label, "%s%s", format, quantize ? " int8" : "");
  qn_buf_init(&source, qn_test_allocator());
  qn_run *run = qn_run_create(text, sizes, &(qn_run_options){.quantize_activations = quantize});
  size_t count = gather_kernels(run, kernels);
  qn_assert_ok(&diag, qn_cuda_emit(kernels, count, &source, &diag));
  qn_assert_ok(&diag, qn_nvrtc_open(NULL, qn_test_allocator(), &nvrtc, &diag));
  for (size_t i = first % stride; i < QN_COUNT(chips); i += stride) {
    qn_nvrtc_code code;
    if (!qn_nvrtc_supports(nvrtc, chips[i])) continue;
    qn_assert_ok(&diag, qn_nvrtc_compile(nvrtc, "kernels.cu", qn_buf_text(&source), chips[i], &code, &diag));
    for (size_t k = 0; k < count; k++) check_report(&kernels[k], code.log, chips[i], label);
    qn_nvrtc_code_deinit(&code);
  }
  qn_nvrtc_close(nvrtc);
  qn_buf_deinit(&source);
  qn_run_destroy(run);
}

// Without QUERN_TEST_ALL a format takes one chip in one numeric mode, another one the next.
START_TEST(products_of_every_format) {
  size_t turn = 0, stride = qn_test_stride(QN_COUNT(chips), QN_COUNT(chips)), modes = qn_test_stride(2, 2);
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    if (!format) continue;
    for (int quantize = 0; quantize <= (format->block_values > 1); quantize++, turn++)
      if (format->block_values == 1 || (turn + (size_t)dtype) % modes == 0)
        check_program(product, format->name, quantize, turn, stride);
  }
}
END_TEST

START_TEST(kernels_of_every_class) {
  check_program(layer, "q8_0", true, 1, qn_test_stride(2, 4));
  check_program(layer, "f16", false, 0, qn_test_stride(4, 4));
}
END_TEST

static TCase *limits(void) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  if (qn_nvrtc_open(NULL, qn_allocator_default(), &nvrtc, &diag) != QN_OK) qn_test_skip("%s", diag.text);
  qn_nvrtc_close(nvrtc);
  const TTest *const tests[] = {products_of_every_format, kernels_of_every_class};
  return qn_test_case("limits", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(limits)
