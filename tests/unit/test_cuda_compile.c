// The static guard: kernels of every class and format, as CUDA C++, through NVRTC for each chip; what ptxas says of
// them and what their machine code is made of held against limits. Needs NVRTC, no GPU.
#include <stdio.h>
#include <stdlib.h>

#include "codegen/cuda/chip.h"
#include "codegen/cuda/compile.h"
#include "codegen/cuda/nvrtc.h"
#include "codegen/cuda/ptxas.h"
#include "codegen/cuda/sass.h"
#include "tests/support/gpu_layer.h"
#include "tests/support/graph_run.h"
#include "tests/support/need_nvrtc.h"
#include "tests/support/test.h"

enum {
  MAX_KERNELS = 64,
  REGISTERS = 64 << 10,         // of a multiprocessor
  MAX_SHARED_BYTES = 99 << 10,  // of a block: what sm_120 has, the least of the four
  // What hides the latency of memory in a multiprocessor: warps that it holds at once, or bytes that copies bring
  // meanwhile.
  MIN_WARPS = 8,
  MIN_RING_BYTES = 32 << 10
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

// All, or those that are no products; out_one: for one row of a product.
typedef enum selection { ALL, OTHERS } selection;
static size_t gather_kernels(qn_run *run, selection which, qn_cuda_kernel *out, bool *out_one) {
  size_t count = 0;
  const qn_program *program = qn_run_program(run);
  for (size_t k = 0; k < program->kernels.count; k++) {
    int variants = 0;
    const qn_gpu_variant *v = qn_run_gpu_variants(run, k, &variants);
    if (which == OTHERS && program->kernels.items[k].is_matmul) continue;
    for (int i = 0; i < variants; i++) {
      ck_assert_uint_lt(count, MAX_KERNELS);
      out_one[count] = program->kernels.items[k].is_matmul && v[i].rows_max == 1;
      out[count++] = (qn_cuda_kernel){.kernel = v[i].kernel, .schedule = v[i].schedule};
    }
  }
  return count;
}

// What a kernel's loops say that its machine code must have.
typedef struct demands {
  bool copies, tensor_cores, weights_loaded;  // weights_loaded: by lanes for themselves
} demands;

static bool loads_weights(const qn_lexpr *e) {
  if (e->op == QN_LX_LOAD && e->u.load.buf->kind == QN_LB_PARAM && e->u.load.buf->streamed) return true;
  for (size_t i = 0; i < QN_COUNT(e->operands) && e->operands[i]; i++)
    if (loads_weights(e->operands[i])) return true;
  return false;
}

static void add_demands(const qn_lblock *block, demands *out) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR) add_demands(&s->u.loop.body, out);
    if (s->kind == QN_LS_STORE && loads_weights(s->u.store.value)) out->weights_loaded = true;
    out->copies = out->copies || s->kind == QN_LS_COPY;
    out->tensor_cores = out->tensor_cores || s->kind == QN_LS_MMA;
  }
}

// One row's weights come in copies and in nothing else, and all copies have 128 bits; what is to be done on tensor
// cores is; nothing is spilled.
static void check_code(const qn_cuda_kernel *kernel, bool one_row, const qn_nvrtc_code *code, int sm,
                       const char *label) {
  enum { OF_128_BITS = QN_SASS_WIDTHS - 1 };
  qn_sass_report r;
  qn_diag diag = {0};
  demands want = {false};
  const char *name = kernel->kernel->name;
  qn_assert_ok(&diag, qn_sass_scan(code->cubin, code->cubin_size, name, label, &r, &diag));
  add_demands(&kernel->kernel->body, &want);
  int64_t copies = r.count[QN_SASS_LDGSTS], tensor = r.count[QN_SASS_IMMA] + r.count[QN_SASS_HMMA];
  qn_check(r.count[QN_SASS_LDL] + r.count[QN_SASS_STL] == 0, "%s, %s for sm_%d: local memory is used", label, name, sm);
  qn_check(!one_row || (want.copies && !want.weights_loaded), "%s, %s for sm_%d: weights that do not come in copies",
           label, name, sm);
  qn_check((copies > 0) == want.copies && copies == r.width[QN_SASS_LDGSTS][OF_128_BITS],
           "%s, %s for sm_%d: %d copies, %d of 128 bits", label, name, sm, (int)copies,
           (int)r.width[QN_SASS_LDGSTS][OF_128_BITS]);
  qn_check((tensor > 0) == want.tensor_cores, "%s, %s for sm_%d: %d instructions of tensor cores", label, name, sm,
           (int)tensor);
}

static void check_report(const qn_cuda_kernel *kernel, const char *log, int sm, const char *label) {
  qn_ptxas_report r = {0};
  const char *name = kernel->kernel->name;
  int64_t shared = kernel->shared_bytes;
  int threads = kernel->schedule.lanes * kernel->schedule.groups;
  qn_check(qn_ptxas_find(log, name, &r), "%s: nothing about %s in\n%s", label, name, log);
  qn_check(r.spill_bytes == 0 && r.stack_bytes == 0, "%s, %s for sm_%d: %d bytes spilled, a stack of %d", label, name,
           sm, (int)r.spill_bytes, (int)r.stack_bytes);
  int promised = kernel->resident_threads > 0 ? kernel->resident_threads : QN_CUDA_RESIDENT_THREADS;
  qn_check(r.registers * promised <= REGISTERS,
           "%s, %s for sm_%d: %d registers, with %d threads promised", label, name, sm, (int)r.registers, promised);
  qn_check(shared + r.shared_bytes <= MAX_SHARED_BYTES, "%s, %s for sm_%d: %d bytes shared", label, name, sm,
           (int)(shared + r.shared_bytes));
  int blocks = qn_chip_occupancy(sm, threads, shared, r.registers, NULL);
  int warps = blocks * ((threads + QN_GPU_WARP - 1) / QN_GPU_WARP);
  bool ring = kernel->schedule.stages > 0 && blocks * shared >= MIN_RING_BYTES;
  if (getenv("QUERN_TEST_SHOW"))
    printf("%s, %s for sm_%d: %d registers, %d bytes shared, room for %d warps\n", label, name, sm, (int)r.registers,
           (int)shared, warps);
  qn_check(warps >= MIN_WARPS || ring,
           "%s, %s for sm_%d: room for %d warps with %d bytes of shared memory, want %d warps", label, name, sm, warps,
           (int)(blocks * shared), MIN_WARPS);
}

// Compiles a program's kernels for every stride-th chip, beginning with number `first`.
static void check_kernels(qn_run *run, selection which, size_t first, size_t stride, const char *label) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  bool one_row[MAX_KERNELS];
  qn_assert_ok(&diag, qn_nvrtc_open(NULL, qn_test_allocator(), &nvrtc, &diag));
  for (size_t i = first % stride; i < QN_COUNT(chips); i += stride) {
    qn_cuda_kernel kernels[MAX_KERNELS];
    qn_nvrtc_code code;
    qn_buf source;
    if (!qn_nvrtc_supports(nvrtc, chips[i])) continue;
    size_t count = gather_kernels(run, which, kernels, one_row);
    qn_buf_init(&source, qn_test_allocator());
    qn_assert_ok(&diag,
                 qn_cuda_build(nvrtc, getenv(QN_NVRTC_CACHE_VARIABLE), "kernels.cu", chips[i], kernels, count, &source, &code, &diag));
    for (size_t k = 0; k < count; k++) {
      check_report(&kernels[k], code.log, chips[i], label);
      check_code(&kernels[k], one_row[k], &code, chips[i], label);
    }
    qn_nvrtc_code_deinit(&code);
    qn_buf_deinit(&source);
  }
  qn_nvrtc_close(nvrtc);
}

static void check_program(const char *text, const char *format, bool quantize, size_t first, size_t stride) {
  char sizes[32], label[64];
  snprintf(sizes, sizeof sizes, "F=%s", format);
  snprintf(label, sizeof label, "%s%s", format, quantize ? " int8" : "");
  qn_run *run = qn_run_create(text, sizes, &(qn_run_options){.quantize_activations = quantize, .gpu = true});
  check_kernels(run, ALL, first, stride, label);
  qn_run_destroy(run);
}

// Without QUERN_TEST_ALL every format takes one numeric mode, the next one the other, and every two of them another chip.
START_TEST(products_of_every_format) {
  size_t turn = 0, stride = qn_test_stride(QN_COUNT(chips), QN_COUNT(chips)), every = qn_test_stride(2, 4);
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    if (!format) continue;
    for (size_t quantize = 0; quantize <= (format->block_values > 1); quantize++)
      if (format->block_values == 1 || (turn + quantize) % every == 0)
        check_program(product, format->name, quantize == 1, turn / 2, stride);
    turn++;
  }
}
END_TEST

START_TEST(kernels_of_every_class) {
  check_program(layer, "q8_0", true, 1, qn_test_stride(4, 4));
  check_program(layer, "f16", false, 0, qn_test_stride(4, 4));
}
END_TEST

// A layer at the true shapes of models: what is no product for two of the chips each; with QUERN_TEST_ALL everything, in
// every format, for every chip.
START_TEST(kernels_of_real_models) {
  static const char *const models[] = {"tinyllama-1.1b", "llama-3.2-1b"}, *const formats[] = {"q4_0", "q8_0", "q4_k", "f16"};
  enum { PROMPT = 512, DEPTH = 1000 };
  for (size_t i = 0; i < QN_COUNT(models) * QN_COUNT(formats); i++) {
    char sizes[256], label[64];
    size_t model = i / QN_COUNT(formats), format = i % QN_COUNT(formats);
    bool half = strcmp(formats[format], "f16") == 0, all = qn_test_stride(2, 2) == 1;
    if (!all && format > 0) continue;
    qn_gpu_layer_sizes(qn_synth_find(models[model]), formats[format], PROMPT, DEPTH, sizes, sizeof sizes);
    snprintf(label, sizeof label, "%s %s", models[model], formats[format]);
    qn_run *run = qn_run_create(
        qn_gpu_layer, sizes, &(qn_run_options){.quantize_activations = !half, .half_activations = half, .gpu = true});
    check_kernels(run, all ? ALL : OTHERS, model + 1, all ? 1 : 2, label);
    qn_run_destroy(run);
  }
}
END_TEST

// A lane with more numbers than the registers of 512 resident threads hold: 256 are promised then, and nothing spills.
START_TEST(promises_are_lowered) {
  enum { SUMS = 160, LANES = 256 };
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  qn_nvrtc_code code;
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  qn_arena arena;
  qn_buf text, source;
  qn_arena_init(&arena, qn_test_allocator());
  qn_buf_init(&text, qn_test_allocator());
  qn_buf_init(&source, qn_test_allocator());
  qn_buf_printf(&text, "kernel \"many\" { param x : f32[T*512] param y : f32[T*256] out\nfor n in 0..T data parallel {\n");
  qn_buf_printf(&text, "for l in 0..%d data lane { local a : f32[%d]\n", LANES, SUMS);
  for (int i = 0; i < SUMS; i++) qn_buf_printf(&text, "a[%d] = x[l + %d]\n", i, i);
  qn_buf_puts(&text, "for k in 0..T reduce { local c : f32[1] c[0] = x[k]\n");
  for (int i = 0; i < SUMS; i++) qn_buf_printf(&text, "a[%d] = fma(a[%d], c[0], a[%d])\n", i, i, (i + 1) % SUMS);
  qn_buf_puts(&text, "}\ny[n*256 + l] = a[0]");
  for (int i = 1; i < SUMS; i++) qn_buf_printf(&text, " + a[%d]", i);
  qn_buf_puts(&text, "\n} } }\n");
  qn_assert_ok(&diag, qn_lkernels_parse("many", qn_str_from(qn_buf_text(&text)), &arena, &kernels, &count, &diag));
  qn_cuda_kernel kernel = {.kernel = kernels[0], .schedule = {.lanes = LANES, .groups = 1}};
  qn_assert_ok(&diag, qn_nvrtc_open(NULL, qn_test_allocator(), &nvrtc, &diag));
  qn_assert_ok(&diag, qn_cuda_build(nvrtc, getenv(QN_NVRTC_CACHE_VARIABLE), "many.cu", 90, &kernel, 1, &source, &code, &diag));
  qn_ptxas_report report = {0};
  ck_assert(qn_ptxas_find(code.log, "many", &report));
  ck_assert_int_eq(kernel.resident_threads, LANES);
  ck_assert_int_eq(report.spill_bytes, 0);
  ck_assert_int_gt(report.registers, SUMS);
  ck_assert_ptr_nonnull(strstr(qn_buf_text(&source), "__launch_bounds__(256, 1) many("));
  qn_nvrtc_code_deinit(&code);
  qn_nvrtc_close(nvrtc);
  qn_buf_deinit(&source);
  qn_buf_deinit(&text);
  qn_arena_deinit(&arena);
}
END_TEST

static TCase *limits(void) {
  qn_test_need_nvrtc();
  const TTest *const tests[] = {products_of_every_format, kernels_of_every_class, kernels_of_real_models, promises_are_lowered};
  return qn_test_case("limits", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(limits)
