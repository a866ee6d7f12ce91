// Kernels in PTX, one iteration of the parallel loop a group of 32 lanes, of which the first works.
#include "tests/support/gpu_program.h"

#include <stdlib.h>
#include <string.h>

#include "tests/ptxsim/support_sim.h"

enum { T = QN_TEST_SYM_T, R = QN_TEST_SYM_R, P = QN_TEST_SYM_P, B = QN_TEST_SYM_B };

const char *qn_test_libcuda(void) {
  const char *path = getenv("QUERN_TEST_LIBCUDA");
  return path && *path ? path : PTXSIM_LIBRARY;
}

bool qn_test_simulated(void) { return strcmp(qn_test_libcuda(), PTXSIM_LIBRARY) == 0; }

#define SYMBOLS ".param .u32 T, .param .u32 R, .param .u32 P, .param .u32 B, .param .u32 G, .param .u32 S"
#define REGISTERS                                                                              \
  ".reg .pred %q; .reg .b32 %i, %t, %n, %v, %r; .reg .b64 %a, %b, %c, %o; .reg .f32 %f, %g;\n" \
  "mov.u32 %t, %tid.x; and.b32 %v, %t, 31; setp.ne.u32 %q, %v, 0; @%q ret; mov.u32 %i, %ctaid.x;\n"
// For each row r < R: out[r * 32 + i] = hidden[r * 16] + i + `constant`, which is written in hexadecimal.
#define SECOND(name, constant)                                                                \
  ".visible .entry " name "(.param .u64 hidden, .param .u64 out, " SYMBOLS ") {\n" REGISTERS  \
  "ld.param.u64 %a, [hidden]; ld.param.u64 %b, [out]; ld.param.u32 %n, [R]; mov.u32 %r, 0;\n" \
  "cvt.rn.f32.u32 %g, %i; add.rn.f32 %g, %g, 0f" constant                                     \
  "; mul.wide.u32 %o, %i, 4; add.s64 %b, %b, %o;\n"                                           \
  "loop: setp.ge.u32 %q, %r, %n; @%q ret;\n"                                                  \
  "ld.global.f32 %f, [%a]; add.rn.f32 %f, %f, %g; st.global.f32 [%b], %f;\n"                  \
  "add.s64 %a, %a, 64; add.s64 %b, %b, 128; add.u32 %r, %r, 1; bra loop; }\n"

const char qn_gpu_program_ptx[] =
    ".version 7.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry first(.param .u64 x, .param .u64 hidden, " SYMBOLS ") {\n" REGISTERS
    "shl.b32 %i, %i, 2; shr.u32 %t, %t, 5; add.u32 %i, %i, %t; ld.param.u32 %n, [T]; setp.ge.u32 %q, %i, %n; @%q ret;\n"
    "ld.param.u64 %a, [x]; mul.wide.u32 %o, %i, 4; add.s64 %a, %a, %o; ld.global.u32 %v, [%a];\n"
    "shl.b32 %v, %v, 1; add.u32 %v, %v, 1; cvt.rn.f32.s32 %f, %v;\n"
    "ld.param.u64 %b, [hidden]; mul.wide.u32 %o, %i, 64; add.s64 %b, %b, %o; st.global.f32 [%b], %f; ret; }\n"
    SECOND("second_one", "447A0000") SECOND("second_many", "44FA0000")
    ".visible .entry third(.param .u64 out, .param .u64 w, .param .u64 k, .param .u64 table, .param .u64 sums, " SYMBOLS
    ") {\n" REGISTERS
    "ld.param.u64 %a, [out]; ld.param.u64 %b, [w]; ld.param.u64 %c, [sums]; ld.global.f32 %f, [%a];\n"
    "ld.global.f32 %g, [%b]; add.rn.f32 %f, %f, %g; st.global.f32 [%c], %f;\n"
    "ld.param.u64 %a, [k]; ld.global.f32 %f, [%a]; add.rn.f32 %f, %f, 0f3F800000; st.global.f32 [%a], %f;\n"
    "st.global.f32 [%c+4], %f; ld.param.u32 %n, [P]; sub.u32 %n, %n, 1; ld.param.u64 %a, [table];\n"
    "mul.wide.u32 %o, %n, 4; add.s64 %a, %a, %o; ld.global.u32 %v, [%a]; cvt.rn.f32.s32 %f, %v; st.global.f32 [%c+8], %f;\n"
    "mov.u32 %v, %dynamic_smem_size; cvt.rn.f32.u32 %f, %v; st.global.f32 [%c+12], %f; ret; }\n";

size_t qn_gpu_program_ptx_size(void) { return sizeof qn_gpu_program_ptx; }

// third asks for more shared memory than a block gets without asking.
const qn_art_launch qn_gpu_program_launches[] = {{32, 4, 0, 0}, {32, 1, 0, 0}, {32, 1, 64, 0}, {32, 1, 64 << 10, 0}};

static void name_variants(qn_test_artifact *a) {
  static const char *const names[] = {"first", "second_one", "second_many", "third"};
  for (size_t i = 0; i < QN_COUNT(names); i++) a->variants.items[i].name = qn_test_artifact_string(a, names[i]);
}

void qn_gpu_program_describe(qn_test_artifact *a, float bias) {
  float w[64];
  for (size_t i = 0; i < QN_COUNT(w); i++) w[i] = bias;
  qn_test_artifact_init(a);
  a->head.machine = QN_ART_GPU;
  a->head.symbol_max[T] = QN_GPU_MAX_T;
  a->head.symbol_max[R] = QN_GPU_MAX_R;
  uint32_t x = qn_test_artifact_input(a, "x", T, 0), table = qn_test_artifact_input(a, "table", B, P);
  uint32_t weight = qn_test_artifact_weight(a, "w", w, sizeof w);
  uint32_t k = qn_test_artifact_cache(a, "k", 0, QN_GPU_PAGE_BYTES);
  uint32_t hidden = qn_test_artifact_arena(a, NULL, T, QN_GPU_MAX_T, 1);
  uint32_t out = qn_test_artifact_arena(a, "out", R, QN_GPU_MAX_R, QN_GPU_COLUMNS);
  uint32_t sums = qn_test_artifact_arena(a, "sums", 0, 1, 4);
  qn_test_artifact_kernel(a, "first", 2, 0);
  qn_test_artifact_variant(a, 0, 0, T, 1);
  qn_test_artifact_kernel(a, "second", 2, R);
  qn_test_artifact_variant(a, 1, 1, 0, QN_GPU_COLUMNS);
  qn_test_artifact_variant(a, 2, 6, 0, QN_GPU_COLUMNS);
  qn_test_artifact_kernel(a, "third", 5, 0);
  qn_test_artifact_variant(a, 0, 0, 0, 1);
  name_variants(a);
  qn_test_artifact_step(a, 0, false, (const uint32_t[]){x, hidden});
  qn_test_artifact_step(a, 1, true, (const uint32_t[]){hidden, out});
  qn_test_artifact_step(a, 2, true, (const uint32_t[]){out, weight, k, table, sums});
  qn_test_artifact_cuda(a, "cuda:sm_80", "sm_80", 0, qn_gpu_program_ptx, 0, sizeof qn_gpu_program_ptx,
                        qn_gpu_program_launches);
}

qn_artifact qn_gpu_program_open(qn_test_artifact *a) {
  qn_artifact artifact;
  qn_diag diag = {0};
  qn_buf file;
  qn_test_artifact_build(a, &file);
  qn_test_need(
      qn_artifact_open_mapping(&artifact, qn_test_artifact_map(file.data, file.length), "gpu.qn", &diag) == QN_OK,
      diag.text);
  qn_buf_deinit(&file);
  qn_test_artifact_deinit(a);
  return artifact;
}
