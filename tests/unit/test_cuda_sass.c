// The table of machine instructions (codegen/cuda/sass.def) against cubins of CUDA C++ whose instructions are known,
// for each chip. Needs NVRTC, no GPU.
#include <stdio.h>
#include <stdlib.h>

#include "codegen/cuda/nvrtc.h"
#include "codegen/cuda/ptxas.h"
#include "codegen/cuda/sass.h"
#include "tests/support/test.h"

static const int chips[] = {80, 90, 100, 120};

// Each kernel has the operations that its name says, and no other of the table.
static const char source[] =
    "extern \"C\" __global__ void global(const float4 *a, const float2 *b, const float *c, const short *d,\n"
    "                                  const unsigned char *e, float4 *x, float2 *y, unsigned char *z) {\n"
    "  int i = threadIdx.x; float4 v = a[i]; float2 w = b[i];\n"
    "  v.x += c[i] + d[i]; w.x += e[i]; x[i] = v; y[i] = w; z[i] = (unsigned char)i;\n"
    "}\n"
    "extern \"C\" __global__ void shared(const float4 *a, float *x) {\n"
    "  __shared__ float4 s[64]; __shared__ float t[64]; int i = threadIdx.x;\n"
    "  s[i] = a[i]; t[i] = 1.0f; __syncthreads();\n"
    "  float4 v = s[63 - i]; x[i] = v.x + v.y + v.z + v.w + t[63 - i];\n"
    "}\n"
    "extern \"C\" __global__ void local(const int *a, float *x) {\n"
    "  float s[64]; int i = threadIdx.x;\n"
    "  for (int k = 0; k < 64; k++) s[a[k] & 63] = k;\n"
    "  x[i] = s[a[i] & 63];\n"
    "}\n"
    "extern \"C\" __global__ void copies(const float4 *a, float *x) {\n"
    "  __shared__ float4 s[64]; int i = threadIdx.x;\n"
    "  unsigned at = (unsigned)__cvta_generic_to_shared(&s[i]);\n"
    "  asm volatile(\"cp.async.cg.shared.global [%0], [%1], 16;\" ::\"r\"(at), \"l\"(&a[i]) : \"memory\");\n"
    "  at += 16 * 32;\n"
    "  asm volatile(\"cp.async.ca.shared.global [%0], [%1], 4;\" ::\"r\"(at), \"l\"(&a[i]) : \"memory\");\n"
    "  asm volatile(\"cp.async.commit_group; cp.async.wait_group 0;\" ::: \"memory\"); __syncthreads();\n"
    "  x[i] = s[63 - i].x;\n"
    "}\n"
    "extern \"C\" __global__ void tensor(const unsigned *a, float *x, int *y) {\n"
    "  int i = threadIdx.x; unsigned p[4], b[2]; float c[4] = {0, 0, 0, 0}; int d[4] = {0, 0, 0, 0};\n"
    "  for (int k = 0; k < 4; k++) p[k] = a[i + 32 * k];\n"
    "  for (int k = 0; k < 2; k++) b[k] = a[i + 128 + 32 * k];\n"
    "  asm volatile(\"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, \"\n"
    "               \"{%0,%1,%2,%3};\" : \"+f\"(c[0]), \"+f\"(c[1]), \"+f\"(c[2]), \"+f\"(c[3])\n"
    "               : \"r\"(p[0]), \"r\"(p[1]), \"r\"(p[2]), \"r\"(p[3]), \"r\"(b[0]), \"r\"(b[1]));\n"
    "  asm volatile(\"mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, \"\n"
    "               \"{%0,%1,%2,%3};\" : \"+r\"(d[0]), \"+r\"(d[1]), \"+r\"(d[2]), \"+r\"(d[3])\n"
    "               : \"r\"(p[0]), \"r\"(p[1]), \"r\"(p[2]), \"r\"(p[3]), \"r\"(b[0]), \"r\"(b[1]));\n"
    "  for (int k = 0; k < 4; k++) { x[i * 4 + k] = c[k]; y[i * 4 + k] = d[k]; }\n"
    "}\n"
    "extern \"C\" __global__ void matrix(const unsigned *a, unsigned *x) {\n"
    "  __shared__ unsigned s[32]; int i = threadIdx.x; s[i] = a[i]; __syncthreads();\n"
    "  unsigned at = (unsigned)__cvta_generic_to_shared(&s[i % 8 * 4]), v;\n"
    "  asm volatile(\"ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];\" : \"=r\"(v) : \"r\"(at));\n"
    "  x[i] = v;\n"
    "}\n"
    "extern \"C\" __global__ void dots(const int *a, const int *b, int *x) {\n"
    "  int i = threadIdx.x, c;\n"
    "  asm(\"dp4a.u32.s32 %0, %1, %2, %3;\" : \"=r\"(c) : \"r\"(a[i]), \"r\"(b[i]), \"r\"(7));\n"
    "  x[i] = c;\n"
    "}\n";

enum { ANY = -1 };

// Counts by kernel; of widths that of 16 bytes. ANY: whatever the compiler likes, but some.
static const struct {
  const char *kernel;
  qn_sass_op op;
  int64_t count, wide;
} wanted[] = {
    {"global", QN_SASS_LDG, 5, 1},    {"global", QN_SASS_STG, 3, 1},    {"global", QN_SASS_LDS, 0, 0},
    {"global", QN_SASS_LDL, 0, 0},    {"shared", QN_SASS_STS, 2, 1},    {"shared", QN_SASS_LDS, 2, 1},
    {"shared", QN_SASS_BAR, 1, 0},    {"shared", QN_SASS_LDG, 1, 1},    {"local", QN_SASS_STL, ANY, 0},
    {"local", QN_SASS_LDL, ANY, 0},   {"local", QN_SASS_BAR, 0, 0},     {"copies", QN_SASS_LDGSTS, 2, 1},
    {"copies", QN_SASS_LDG, 0, 0},    {"copies", QN_SASS_BAR, 1, 0},    {"tensor", QN_SASS_HMMA, 1, 0},
    {"tensor", QN_SASS_IMMA, ANY, 0}, {"tensor", QN_SASS_IDP, 0, 0},    {"matrix", QN_SASS_LDSM, 1, 0},
    {"matrix", QN_SASS_STS, 1, 0},    {"matrix", QN_SASS_LDGSTS, 0, 0}, {"dots", QN_SASS_IDP, 1, 0},
    {"dots", QN_SASS_IMMA, 0, 0},     {"dots", QN_SASS_HMMA, 0, 0},
};

static void check_chip(const qn_nvrtc *nvrtc, int sm) {
  qn_diag diag = {0};
  qn_nvrtc_code code;
  qn_assert_ok(&diag, qn_nvrtc_compile(nvrtc, "known.cu", source, sm, &code, &diag));
  for (size_t i = 0; i < QN_COUNT(wanted); i++) {
    qn_sass_report r;
    qn_ptxas_report log;
    const char *kernel = wanted[i].kernel, *op = qn_sass_name(wanted[i].op);
    qn_assert_ok(&diag, qn_sass_scan(code.cubin, code.cubin_size, kernel, "cubin", &r, &diag));
    int64_t count = r.count[wanted[i].op], wide = r.width[wanted[i].op][QN_SASS_WIDTHS - 1];
    bool right = wanted[i].count == ANY ? count > 0 : count == wanted[i].count && wide == wanted[i].wide;
    qn_check(right, "%s for sm_%d: %d %s, %d of 16 bytes; want %d, %d", kernel, sm, (int)count, op, (int)wide,
             (int)wanted[i].count, (int)wanted[i].wide);
    qn_check(qn_ptxas_find(code.log, kernel, &log), "%s is not in %s", kernel, code.log);
    qn_check(r.sm == sm, "got sm_%d, want sm_%d", r.sm, sm);
    qn_check(r.registers == log.registers && r.stack_bytes == log.stack_bytes,
             "%s for sm_%d: %d registers, a stack of %d; ptxas says %d, %d", kernel, sm, (int)r.registers,
             (int)r.stack_bytes, (int)log.registers, (int)log.stack_bytes);
  }
  qn_nvrtc_code_deinit(&code);
}

START_TEST(instructions_are_known) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  qn_assert_ok(&diag, qn_nvrtc_open(NULL, qn_test_allocator(), &nvrtc, &diag));
  for (size_t i = 0; i < QN_COUNT(chips); i++)
    if (qn_nvrtc_supports(nvrtc, chips[i])) check_chip(nvrtc, chips[i]);
  qn_nvrtc_close(nvrtc);
}
END_TEST

static TCase *known(void) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  if (qn_nvrtc_open(NULL, qn_allocator_default(), &nvrtc, &diag) != QN_OK) qn_test_skip("%s", diag.text);
  qn_nvrtc_close(nvrtc);
  const TTest *const tests[] = {instructions_are_known};
  return qn_test_case("known", tests, QN_COUNT(tests));
}

QN_TEST_MAIN(known)
