// Matrix instructions. Where each element of a fragment is comes from the formulas of the PTX document, section "Matrix
// Fragments for mma.m16n8k*": groupID = lane >> 2, threadID_in_group = lane % 4, rows and columns by element number.
#include <math.h>
#include <stdio.h>

#include "tests/ptxsim/support_sim.h"

enum { LANES = 32, M = 16, N = 8 };

typedef struct place {
  int row, col;
} place;

// Element i of a lane's fragment of A, by bits of an element and k.
static place place_a(int bits, int k, int lane, int i) {
  int g = lane >> 2, t = lane % 4;
  if (bits == 16 && k == 8) return (place){i < 2 ? g : g + 8, t * 2 + (i & 1)};
  if (bits == 16) return (place){i < 2 || (i >= 4 && i < 6) ? g : g + 8, t * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
  if (bits == 8 && k == 16) return (place){i < 4 ? g : g + 8, t * 4 + (i & 3)};
  if (bits == 8) return (place){i < 4 || (i >= 8 && i < 12) ? g : g + 8, t * 4 + (i & 3) + (i >= 8 ? 16 : 0)};
  if (k == 4) return (place){i == 0 ? g : g + 8, t};
  return (place){i == 0 || i == 2 ? g : g + 8, i < 2 ? t : t + 4};  // tf32, k = 8
}
static place place_b(int bits, int lane, int i) {
  int g = lane >> 2, t = lane % 4;
  if (bits == 16) return (place){t * 2 + (i & 1) + (i >= 2 ? 8 : 0), g};
  if (bits == 8) return (place){t * 4 + (i & 3) + (i >= 4 ? 16 : 0), g};
  return (place){i == 0 ? t : t + 4, g};
}
static place place_c(int lane, int i) { return (place){i < 2 ? lane >> 2 : (lane >> 2) + 8, lane % 4 * 2 + (i & 1)}; }

// Small whole numbers, exact in every type.
static double value(int salt, int row, int col) { return (double)((row * 7 + col * 3 + salt) % 13 - 6); }

static uint32_t encode(const char *type, double v) {
  float f = (float)v;
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  if (strcmp(type, "bf16") == 0) return bits >> 16;
  if (strcmp(type, "f16") == 0) {  // normal numbers only
    return v == 0 ? 0 : (bits >> 16 & 0x8000) | (((bits >> 23 & 255) - 112) << 10) | (bits >> 13 & 0x3ff);
  }
  if (strcmp(type, "s8") == 0 || strcmp(type, "u8") == 0) return (uint32_t)(int32_t)v & 255;
  if (strcmp(type, "e4m3") == 0)
    return v == 0 ? 0 : (bits >> 24 & 0x80) | (((bits >> 23 & 255) - 120) << 3) | (bits >> 20 & 7);
  if (strcmp(type, "e5m2") == 0)
    return v == 0 ? 0 : (bits >> 24 & 0x80) | (((bits >> 23 & 255) - 112) << 2) | (bits >> 21 & 3);
  return bits;
}

typedef struct mma_case {
  const char *code, *type_a, *type_b;
  int bits, k, a_regs, b_regs, c_regs;
  bool whole, half;  // c and d are s32, pairs of f16
} mma_case;

static void store_element(uint32_t *regs, int bits, int i, uint32_t v) {
  int per = 32 / bits;
  regs[i / per] |= bits == 32 ? v : v << (i % per * bits);
}

static void check_mma(const mma_case *c) {
  uint32_t in[LANES][12] = {0}, out[LANES][4];
  double a[M][32], b[32][N], sum[M][N];
  bool unsigned_a = c->type_a[0] == 'u', unsigned_b = c->type_b[0] == 'u', coarse = c->type_a[0] == 'e';
  for (int m = 0; m < M; m++) {
    for (int k = 0; k < c->k; k++)
      a[m][k] = coarse ? (double)((m + k) % 5 - 2) : value(1, m, k) + (unsigned_a ? 200 : 0);
  }
  for (int k = 0; k < c->k; k++) {
    for (int n = 0; n < N; n++)
      b[k][n] = coarse ? (double)((k * 3 + n) % 3 - 1) : value(5, k, n) + (unsigned_b ? 200 : 0);
  }
  for (int m = 0; m < M; m++) {
    for (int n = 0; n < N; n++) {
      sum[m][n] = value(9, m, n);
      for (int k = 0; k < c->k; k++) sum[m][n] += a[m][k] * b[k][n];
    }
  }
  int per = 32 / c->bits;
  for (int l = 0; l < LANES; l++) {
    for (int i = 0; i < c->a_regs * per; i++) {
      place p = place_a(c->bits, c->k, l, i);
      store_element(in[l], c->bits, i, encode(c->type_a, a[p.row][p.col]));
    }
    for (int i = 0; i < c->b_regs * per; i++) {
      place p = place_b(c->bits, l, i);
      store_element(in[l] + 4, c->bits, i, encode(c->type_b, b[p.row][p.col]));
    }
    for (int i = 0; i < 4; i++) {
      place p = place_c(l, i);
      double v = value(9, p.row, p.col);
      if (c->half) {
        store_element(in[l] + 8, 16, i, encode("f16", v));
      } else {
        in[l][8 + i] = c->whole ? (uint32_t)(int32_t)v : encode("f32", v);
      }
    }
  }
  char body[4096];
  snprintf(body, sizeof body,
           ".reg .b64 %%i, %%o, %%at; .reg .b32 %%l, %%a<4>, %%b<4>, %%c<4>, %%d<4>;\nld.param.u64 %%i, [i]; "
           "ld.param.u64 %%o, [o];\n"
           "mov.u32 %%l, %%tid.x; mul.wide.u32 %%at, %%l, 48; add.s64 %%i, %%i, %%at; mul.wide.u32 %%at, %%l, 16; "
           "add.s64 %%o, %%o, %%at;\n"
           "ld.global.v4.u32 {%%a0, %%a1, %%a2, %%a3}, [%%i]; ld.global.v4.u32 {%%b0, %%b1, %%b2, %%b3}, [%%i+16];\n"
           "ld.global.v4.u32 {%%c0, %%c1, %%c2, %%c3}, [%%i+32]; mov.u32 %%d2, 0; mov.u32 %%d3, 0;\n%s\n"
           "st.global.v4.u32 [%%o], {%%d0, %%d1, %%d2, %%d3}; ret;",
           c->code);
  CUdeviceptr pi = sim_upload(in, sizeof in), po = sim_upload(NULL, sizeof out);
  CUfunction f = sim_kernel(sim_module("sm_90", ".param .u64 i, .param .u64 o", body), "k");
  void *params[] = {&pi, &po};
  sim_ok(sim_run(f, 1, LANES, 0, params));
  sim_download(out, po, sizeof out);
  for (int l = 0; l < LANES; l++) {
    for (int i = 0; i < 4; i++) {
      place p = place_c(l, i);
      double want = sum[p.row][p.col];
      uint32_t got = c->half ? out[l][i / 2] >> (i % 2 * 16) & 0xffff : out[l][i];
      uint32_t bits = c->whole ? (uint32_t)(int32_t)want : encode(c->half ? "f16" : "f32", want);
      qn_check(got == bits, "%s: lane %d element %d (row %d, column %d): got %x, want %x", c->code, l, i, p.row, p.col,
               got, bits);
    }
  }
  ck_assert_uint_eq(sim_counters("k").tensor_operations, (uint64_t)2 * M * N * (uint64_t)c->k);
  sim.counters_reset();
}

#define C4 "{%c0, %c1, %c2, %c3}"
#define D4 "{%d0, %d1, %d2, %d3}"
#define A4 "{%a0, %a1, %a2, %a3}"
static const mma_case cases[] = {
    {"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 " D4 ", {%a0, %a1}, {%b0}, " C4 ";", "f16", "f16", 16, 8, 2, 1,
     4, false, false},
    {"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 " D4 ", " A4 ", {%b0, %b1}, " C4 ";", "f16", "f16", 16, 16, 4,
     2, 4, false, false},
    {"mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 " D4 ", {%a0, %a1}, {%b0}, " C4 ";", "bf16", "bf16", 16, 8, 2,
     1, 4, false, false},
    {"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 " D4 ", " A4 ", {%b0, %b1}, " C4 ";", "bf16", "bf16", 16, 16,
     4, 2, 4, false, false},
    {"mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%d0, %d1}, " A4 ", {%b0, %b1}, {%c0, %c1};", "f16", "f16", 16,
     16, 4, 2, 2, false, true},
    {"mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%d0, %d1}, {%a0, %a1}, {%b0}, {%c0, %c1};", "f16", "f16", 16, 8,
     2, 1, 2, false, true},
    {"mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 " D4 ", {%a0, %a1}, {%b0}, " C4 ";", "tf32", "tf32", 32, 4, 2,
     1, 4, false, false},
    {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 " D4 ", " A4 ", {%b0, %b1}, " C4 ";", "tf32", "tf32", 32, 8, 4,
     2, 4, false, false},
    {"mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 " D4 ", {%a0, %a1}, {%b0}, " C4 ";", "s8", "s8", 8, 16, 2, 1, 4,
     true, false},
    {"mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 " D4 ", " A4 ", {%b0, %b1}, " C4 ";", "s8", "s8", 8, 32, 4, 2, 4,
     true, false},
    {"mma.sync.aligned.m16n8k32.row.col.satfinite.s32.u8.s8.s32 " D4 ", " A4 ", {%b0, %b1}, " C4 ";", "u8", "s8", 8, 32,
     4, 2, 4, true, false},
    {"mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 " D4 ", " A4 ", {%b0, %b1}, " C4 ";", "s8", "u8", 8, 32, 4, 2, 4,
     true, false},
    {"mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32 " D4 ", " A4 ", {%b0, %b1}, " C4 ";", "e4m3", "e5m2", 8, 32,
     4, 2, 4, false, false},
};

START_TEST(test_mma) {
  sim_start("sm_90");
  for (size_t k = 0; k < QN_COUNT(cases); k++) check_mma(&cases[k]);
}
END_TEST

// Lane l gives the address of row l % 8 of matrix l / 8; lane l receives elements 2(l%4) and 2(l%4)+1 of row l / 4.
START_TEST(test_ldmatrix) {
  sim_start("sm_90");
  const char *body =
      ".reg .b64 %o, %at; .reg .b32 %l, %s, %a<4>, %b<4>, %x, %y, %t, %m; .shared .align 16 .b8 s[1024];\n"
      "ld.param.u64 %o, [o]; mov.u32 %l, %tid.x; mul.wide.u32 %at, %l, 48; add.s64 %o, %o, %at; mov.u32 %s, s;\n"
      // s holds 16-bit numbers n = 0 .. 511 in order: 64 to a matrix, 8 to a row.
      "mad.lo.u32 %x, %l, 32, %s; shl.b32 %y, %l, 4; shl.b32 %t, %y, 16; or.b32 %y, %y, %t; add.u32 %y, %y, 0x10000;\n"
      "st.shared.u32 [%x], %y; add.u32 %y, %y, 0x20002; st.shared.u32 [%x+4], %y; add.u32 %y, %y, 0x20002; "
      "st.shared.u32 [%x+8], %y;\n"
      "add.u32 %y, %y, 0x20002; st.shared.u32 [%x+12], %y; add.u32 %y, %y, 0x20002; st.shared.u32 [%x+16], %y; add.u32 "
      "%y, %y, 0x20002;\n"
      "st.shared.u32 [%x+20], %y; add.u32 %y, %y, 0x20002; st.shared.u32 [%x+24], %y; add.u32 %y, %y, 0x20002; "
      "st.shared.u32 [%x+28], %y;\n"
      "bar.sync 0; mad.lo.u32 %x, %l, 16, %s;\n"
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%a0, %a1, %a2, %a3}, [%x];\n"
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%b0, %b1, %b2, %b3}, [%x];\n"
      "st.global.v4.u32 [%o], {%a0, %a1, %a2, %a3}; st.global.v4.u32 [%o+16], {%b0, %b1, %b2, %b3};\n"
      "movmatrix.sync.aligned.m8n8.trans.b16 %m, %a1; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%a0}, [%x+128];\n"
      "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%b0, %b1}, [%x+256];\n"
      "bar.sync 0; stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%x], {%a0, %a1, %a2, %a3}; bar.sync 0;\n"
      "mad.lo.u32 %x, %l, 4, %s; ld.shared.u32 %y, [%x+256]; st.global.v4.u32 [%o+32], {%m, %a0, %b1, %y}; ret;";
  CUfunction f = sim_kernel(sim_module("sm_90", ".param .u64 o", body), "k");
  uint32_t out[LANES][12];
  CUdeviceptr o = sim_upload(NULL, sizeof out);
  void *params[] = {&o};
  sim_ok(sim_run(f, 1, LANES, 0, params));
  sim_download(out, o, sizeof out);
  for (uint32_t l = 0; l < LANES; l++) {
    uint32_t r = l / 4, c = l % 4 * 2;
    for (uint32_t q = 0; q < 4; q++) {
      uint32_t plain = q * 64 + r * 8 + c, across = q * 64 + c * 8 + r;
      qn_check(out[l][q] == (plain | (plain + 1) << 16), "x4: lane %u matrix %u: %x", l, q, out[l][q]);
      qn_check(out[l][4 + q] == (across | (across + 8) << 16), "trans: lane %u matrix %u: %x", l, q, out[l][4 + q]);
    }
    qn_check(out[l][8] == out[l][5], "movmatrix: lane %u: %x, want %x", l, out[l][8], out[l][5]);
    qn_check(out[l][9] == out[l][1], "x1: lane %u: %x", l, out[l][9]);
    qn_check(out[l][10] == out[l][7], "x2: lane %u: %x", l, out[l][10]);
    // Matrix 2 was stored transposed: memory word l of it is what a transposed load gives lane l.
    qn_check(out[l][11] == out[l][6], "stmatrix: lane %u: %x, want %x", l, out[l][11], out[l][6]);
  }
}
END_TEST

// A lane has numbers 2l and 2l + 1 of a matrix of 0 .. 63 in the order of rows, and the same of 64 .. 127.
START_TEST(test_stmatrix) {
  sim_start("sm_90");
  const char *body =
      ".reg .b64 %o, %at; .reg .b32 %l, %s, %x, %a, %b, %v, %r<4>; .shared .align 16 .b8 s[512];\n"
      "ld.param.u64 %o, [o]; mov.u32 %l, %tid.x; mul.wide.u32 %at, %l, 32; add.s64 %o, %o, %at; mov.u32 %s, s;\n"
      "mad.lo.u32 %a, %l, 0x20002, 0x10000; add.u32 %b, %a, 0x400040; and.b32 %x, %l, 15; mad.lo.u32 %x, %x, 16, %s;\n"
      "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%x], {%a, %b}; and.b32 %x, %l, 7; mad.lo.u32 %x, %x, 16, %s;\n"
      "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%x+256], {%a};\n"
      "stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%x+384], {%b}; bar.sync 0; mad.lo.u32 %v, %l, 4, %s;\n"
      "ld.shared.u32 %r0, [%v]; ld.shared.u32 %r1, [%v+128]; ld.shared.u32 %r2, [%v+256]; ld.shared.u32 %r3, [%v+384];\n"
      "st.global.v4.u32 [%o], {%r0, %r1, %r2, %r3}; ldmatrix.sync.aligned.x1.m8n8.shared.b16 {%v}, [%x+256];\n"
      "mad.lo.u32 %x, %l, 16, %s; ldmatrix.sync.aligned.x4.m8n8.shared.b16 {%r0, %r1, %r2, %r3}, [%x];\n"
      "st.global.v4.u32 [%o+16], {%v, %r1, %r2, %r3}; ret;";
  CUfunction f = sim_kernel(sim_module("sm_90", ".param .u64 o", body), "k");
  uint32_t out[LANES][8];
  CUdeviceptr o = sim_upload(NULL, sizeof out);
  void *params[] = {&o};
  sim_ok(sim_run(f, 1, LANES, 0, params));
  sim_download(out, o, sizeof out);
  for (uint32_t l = 0; l < LANES; l++) {
    uint32_t first = 2 * l | (2 * l + 1) << 16, second = (64 + 2 * l) | (65 + 2 * l) << 16;
    uint32_t across = 64 + l % 4 * 2 * 8 + l / 4, turned = across | (across + 8) << 16;
    const uint32_t want[8] = {first, second, first, turned, first, second, first, turned};
    for (int i = 0; i < 8; i++) qn_check(out[l][i] == want[i], "lane %u, word %d: got %x, want %x", l, i, out[l][i], want[i]);
  }
}
END_TEST

// A row of 128 bytes a row of the matrix: all eight in the same banks. With a skew of 16 bytes: no conflict.
START_TEST(test_bank_conflicts) {
  sim_start("sm_90");
  static const struct {
    const char *pitch;
    uint64_t wavefronts;
  } layouts[] = {{"128", 32}, {"144", 4}};
  for (int k = 0; k < 2; k++) {
    char body[1024];
    snprintf(body, sizeof body,
             ".reg .b32 %%l, %%s, %%a<4>; .shared .align 16 .b8 s[4608]; mov.u32 %%l, %%tid.x; mov.u32 %%s, s;\n"
             "mad.lo.u32 %%s, %%l, %s, %%s; st.shared.v4.u32 [%%s], {0, 0, 0, 0}; bar.sync 0;\n"
             "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%%a0, %%a1, %%a2, %%a3}, [%%s]; ret;",
             layouts[k].pitch);
    CUfunction f = sim_kernel(sim_module("sm_80", "", body), "k");
    sim.counters_reset();
    sim_ok(sim_run(f, 1, LANES, 0, NULL));
    ps_counters c = sim_counters("k");
    ck_assert_uint_eq(c.shared_wavefronts, 2 * layouts[k].wavefronts);  // the store's are the same
    ck_assert_uint_eq(c.shared_wavefronts_least, 8);
  }
}
END_TEST

QN_CASE(matrices, test_mma, test_ldmatrix, test_stmatrix, test_bank_conflicts)
QN_TEST_MAIN(matrices)
