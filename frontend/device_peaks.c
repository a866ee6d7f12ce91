// The peaks of a GPU's arithmetic, measured by kernels in loop IR that go through the code generator as a model's do.
#include <stdlib.h>
#include <string.h>

#include "codegen/cuda/compile.h"
#include "frontend/cache.h"
#include "frontend/compile.h"
#include "frontend/quern.h"
#include "runtime/base/options.h"
#include "runtime/model.h"

// Blocks of 8 warps, each with chains enough to hide an operation's latency; T is how often they go round.
enum { LANES = 256, WARPS = LANES / QN_MMA_WARP, CHAINS = 8, LINKS = 8, BLOCKS_EACH = 4 };

// A rate and what measures it.
typedef struct probe {
  const char *name;
  qn_lmma mma;    // of tensor cores; QN_MMA_COUNT = f32 multiply-adds
  size_t offset;  // of the result in quern_device_peaks
} probe;
#define RESULT(field) offsetof(quern_device_peaks, field)
static const probe probes[] = {{"peak_fma", QN_MMA_COUNT, RESULT(fp32_ops_per_s)},
                               {"peak_int8", QN_MMA_U8S8_K32, RESULT(int8_ops_per_s)},
                               {"peak_f16", QN_MMA_F16_K16, RESULT(f16_ops_per_s)}};

// ---- kernels

static void write_fma(const probe *p, qn_buf *out) {
  qn_buf_printf(out, "kernel \"%s\" {\n  param x : f32[%d]\n  param y : f32[B*%d] out\n", p->name, LANES, LANES);
  qn_buf_printf(out, "  for n in 0..B data parallel {\n    for l in 0..%d data lane {\n", LANES);
  for (int i = 0; i < CHAINS; i++)
    qn_buf_printf(out, "      local a%d : f32[1]\n      a%d[0] = x[l] + %d.0\n", i, i, i);
  qn_buf_puts(out, "      local c : f32[1]\n      c[0] = x[l]\n      for k in 0..T reduce {\n");
  for (int link = 0; link < LINKS; link++)
    for (int i = 0; i < CHAINS; i++) qn_buf_printf(out, "        a%d[0] = fma(a%d[0], c[0], c[0])\n", i, i);
  qn_buf_printf(out, "      }\n      y[n*%d + l] = a0[0]", LANES);
  for (int i = 1; i < CHAINS; i++) qn_buf_printf(out, " + a%d[0]", i);
  qn_buf_puts(out, "\n    }\n  }\n}\n");
}

// Fills the elements that a lane has of a local.
static void put_fill(const char *local, int each, const char *value, qn_buf *out) {
  qn_buf_printf(out, "      %s[l*%d] = %s\n", local, each, value);
  for (int i = 1; i < each; i++) qn_buf_printf(out, "      %s[l*%d + %d] = %s\n", local, each, i, value);
}

static void write_mma(const probe *p, qn_buf *out) {
  const qn_lmma_info *info = qn_lmma_info_of(p->mma);
  int a = qn_lmma_each(p->mma, QN_MMA_OF_A), b = qn_lmma_each(p->mma, QN_MMA_OF_B);
  const char *sum = qn_lmem_name(info->sum);
  qn_buf_printf(out, "kernel \"%s\" {\n  param x : i32[%d]\n  param y : %s[B*%d] out\n", p->name, LANES, sum, LANES);
  qn_buf_printf(out, "  for n in 0..B data parallel {\n    local c : %s[%d] each %d\n", sum, LANES * QN_MMA_C * CHAINS,
                QN_MMA_C * CHAINS);
  qn_buf_printf(out, "    local a : i32[%d] each %d\n    local b : i32[%d] each %d\n    for l in 0..%d data lane {\n",
                LANES * a, a, LANES * b, b, LANES);
  put_fill("a", a, "x[l]", out);
  put_fill("b", b, "x[l]", out);
  put_fill("c", QN_MMA_C * CHAINS, info->sum == QN_LM_F32 ? "0.0" : "0i32", out);
  qn_buf_puts(out, "    }\n    for k in 0..T reduce {\n");
  for (int i = 0; i < CHAINS; i++)
    qn_buf_printf(out, "      mma %s c[%d] a[0] b[0]\n", info->text, i * QN_MMA_C);
  qn_buf_printf(out, "    }\n    for l$1 in 0..%d data lane {\n      y[n*%d + l$1] = c[l$1*%d]", LANES, LANES,
                QN_MMA_C * CHAINS);
  for (int i = 1; i < CHAINS; i++) qn_buf_printf(out, " + c[l$1*%d + %d]", QN_MMA_C * CHAINS, i * QN_MMA_C);
  qn_buf_puts(out, "\n    }\n  }\n}\n");
}

// Operations of a block that goes round once; a multiply-add is two.
static double block_ops(const probe *p) {
  if (p->mma == QN_MMA_COUNT) return 2.0 * LANES * CHAINS * LINKS;
  int products = qn_lmma_info_of(p->mma)->words * (qn_lmma_info_of(p->mma)->sum == QN_LM_I32 ? 4 : 2);
  return 2.0 * WARPS * CHAINS * QN_MMA_ROWS * QN_MMA_COLUMNS * products;
}

// ---- code

typedef struct peaks {
  qn_cuda *cuda;          // borrowed
  const char *nvrtc;      // the library's path, or NULL
  qn_arena arena;
  qn_cuda_kernel kernels[QN_COUNT(probes)];
  qn_nvrtc_code code;
  quern_device_peaks *out;
  qn_diag *diag;
} peaks;

static qn_status make_kernels(peaks *p) {
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  qn_buf text;
  qn_buf_init(&text, p->arena.allocator);
  for (size_t i = 0; i < QN_COUNT(probes); i++)
    probes[i].mma == QN_MMA_COUNT ? write_fma(&probes[i], &text) : write_mma(&probes[i], &text);
  qn_status status = text.failed ? qn_fail_nomem(p->diag, "peaks", "the kernels") : QN_OK;
  if (status == QN_OK)
    status = qn_lkernels_parse("peaks", (qn_str){text.data, text.length}, &p->arena, &kernels, &count, p->diag);
  for (size_t i = 0; status == QN_OK && i < count; i++) {
    p->kernels[i] = (qn_cuda_kernel){.kernel = kernels[i], .schedule = {.lanes = LANES, .groups = 1}};
    status = qn_lkernel_verify(kernels[i], p->diag);
  }
  qn_buf_deinit(&text);
  return status;
}

// For the chip itself where NVRTC knows it, else for the newest before it that it knows.
static qn_status compile(peaks *p) {
  static const int chips[] = {120, 100, 90, 80};
  qn_nvrtc_options options = {.library = p->nvrtc};
  qn_nvrtc *nvrtc = NULL;
  qn_buf source, folder;
  int sm = qn_cuda_get_info(p->cuda)->sm;
  QN_TRY(qn_nvrtc_open(&options, p->arena.allocator, &nvrtc, p->diag));
  for (size_t i = 0; !qn_nvrtc_supports(nvrtc, sm) && i < QN_COUNT(chips); i++)
    if (chips[i] < sm) sm = chips[i];
  qn_buf_init(&source, p->arena.allocator);
  qn_buf_init(&folder, p->arena.allocator);
  const char *kept = quern_nvrtc_folder(&folder);
  qn_status status =
      qn_cuda_build(nvrtc, kept, "peaks", sm, p->kernels, QN_COUNT(probes), &source, &p->code, p->diag);
  qn_buf_deinit(&folder);
  qn_buf_deinit(&source);
  qn_nvrtc_close(nvrtc);
  return status;
}

// ---- measuring

// Turns are doubled until a run takes long enough for what goes on around it not to count.
static qn_status measure(peaks *p, size_t index, int blocks) {
  const double enough_s = 2e-3;
  const probe *what = &probes[index];
  const qn_art_launch shape = {.lanes = LANES, .groups = 1};
  const qn_cuda_image image = {p->code.cubin, p->code.ptx};
  float *x = QN_ARENA_ARRAY(&p->arena, LANES, float), *y = QN_ARENA_ARRAY(&p->arena, (size_t)blocks * LANES, float);
  if (!x || !y) return qn_fail_nomem(p->diag, "peaks", "the kernels' values");
  for (int i = 0; i < LANES; i++) x[i] = 0.5f;
  void *const buffers[] = {x, y};
  const size_t sizes[] = {LANES * sizeof *x, (size_t)blocks * LANES * sizeof *y};
  const bool written[] = {false, true};
  int64_t symbols[QN_SYM_COUNT] = {[QN_SYM_T] = 16, [QN_SYM_B] = blocks};
  const qn_cuda_call call = {.buffers = buffers, .sizes = sizes, .written = written, .count = 2, .symbols = symbols};
  double seconds = 0;
  for (;; symbols[QN_SYM_T] *= 2) {
    QN_TRY(qn_cuda_time_code(p->cuda, &image, what->name, &shape, (unsigned)blocks, &call, &seconds, p->diag));
    if (seconds >= enough_s || symbols[QN_SYM_T] > 1 << 24) break;
  }
  double rate = seconds > 0 ? block_ops(what) * blocks * (double)symbols[QN_SYM_T] / seconds : 0;
  memcpy((char *)p->out + what->offset, &rate, sizeof rate);
  return QN_OK;
}

static qn_status measure_all(peaks *p) {
  int multiprocessors = 0;
  QN_TRY(make_kernels(p));
  QN_TRY(compile(p));
  QN_TRY(qn_cuda_multiprocessors(p->cuda, &multiprocessors, p->diag));
  for (size_t i = 0; i < QN_COUNT(probes); i++) QN_TRY(measure(p, i, multiprocessors * BLOCKS_EACH));
  return QN_OK;
}

int quern_model_measure_peaks(quern_model *model, const char *nvrtc, quern_device_peaks *out_peaks, quern_error *error) {
  qn_diag diag = {0};
  quern_device_peaks measured = {.size = sizeof measured};
  peaks p = {.cuda = model->cuda, .nvrtc = nvrtc, .out = &measured, .diag = &diag};
  qn_arena_init(&p.arena, qn_allocator_default());
  p.code.allocator = p.arena.allocator;
  qn_status status = qn_result_check(out_peaks, "quern_device_peaks", &diag);
  if (status == QN_OK && !model->cuda)
    status = qn_fail(&diag, QN_ERR_ARGUMENT, model->path, "got a model on the CPU, want one on a GPU");
  if (status == QN_OK) status = measure_all(&p);
  qn_nvrtc_code_deinit(&p.code);
  qn_arena_deinit(&p.arena);
  if (status == QN_OK) qn_result_give(out_peaks, &measured, sizeof measured);
  return quern_give_error(error, &diag, status);
}
