// Kernels in CUDA C++ through NVRTC for four targets (two front ends), against plain C, with warps and blocks in three
// orders, which must give the same bits.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/ptxsim/support_nvrtc.h"
#include "tests/ptxsim/support_sim.h"

static const char *const targets[] = {"sm_80", "sm_90", "sm_100", "sm_120"};
static const char *const orders[] = {"forward", "reverse", "shuffle"};

static double uniform(qn_test_random *r) { return qn_test_random_unit(r) * 2 - 1; }

static uint16_t half_of(float v) {  // normal numbers and 0
  uint32_t bits;
  memcpy(&bits, &v, 4);
  int exponent = (int)(bits >> 23 & 255) - 112;
  if (exponent <= 0) return 0;
  return (uint16_t)((bits >> 16 & 0x8000) | (uint32_t)exponent << 10 | (bits >> 13 & 0x3ff));
}
static float half_value(uint16_t h) {
  uint32_t bits =
      (h & 0x7fff) == 0 ? 0 : (uint32_t)(h & 0x8000) << 16 | ((h >> 10 & 31u) + 112u) << 23 | (h & 0x3ffu) << 13;
  float v;
  memcpy(&v, &bits, 4);
  return v;
}

// One kernel's launch, whose result is in `out`: run for each order, compared bit for bit.
typedef struct launch {
  const char *source, *name;
  unsigned blocks, threads, shared_bytes;
  void **params;
  CUdeviceptr out;
  size_t out_bytes;
} launch;

static void run_orders(const launch *l, const char *target, void *out) {
  const char *ptx = nvrtc_ptx(l->source, target, NULL, NULL);
  ck_assert_ptr_nonnull(ptx);
  CUfunction f = sim_kernel(ptx, l->name);
  if (l->shared_bytes > 48 << 10) {
    sim_ok(sim.set_function_attribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)l->shared_bytes));
  }
  void *again = malloc(l->out_bytes);
  ck_assert_ptr_nonnull(again);
  for (int o = 0; o < 3; o++) {
    sim_set("warp_order", orders[o]);
    sim_set("block_order", orders[o]);
    sim_ok(sim.fill8(l->out, 0, l->out_bytes));
    sim_ok(sim_run(f, l->blocks, l->threads, l->shared_bytes, l->params));
    sim_download(o == 0 ? out : again, l->out, l->out_bytes);
    if (o > 0)
      qn_check(memcmp(out, again, l->out_bytes) == 0, "%s on %s: another order gives other bits", l->name, target);
  }
  free(again);
}

// ---- rmsnorm ----

static const char rmsnorm_source[] =
    "extern \"C\" __global__ void rmsnorm(const float *x, const float *w, float *y, int n) {\n"
    "  __shared__ float part[8]; const float *row = x + (size_t)blockIdx.x * n; float s = 0;\n"
    "  for (int i = threadIdx.x; i < n; i += blockDim.x) s = fmaf(row[i], row[i], s);\n"
    "  for (int o = 16; o > 0; o >>= 1) s += __shfl_xor_sync(~0u, s, o);\n"
    "  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;\n  __syncthreads();\n"
    "  if (threadIdx.x < 32) { s = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.f;\n"
    "    for (int o = 4; o > 0; o >>= 1) s += __shfl_xor_sync(~0u, s, o); if (threadIdx.x == 0) part[0] = s; }\n"
    "  __syncthreads(); float r = rsqrtf(part[0] / n + 1e-5f);\n"
    "  for (int i = threadIdx.x; i < n; i += blockDim.x) y[(size_t)blockIdx.x * n + i] = row[i] * r * w[i];\n}\n";

START_TEST(test_rmsnorm) {
  enum { ROWS = 5, COLUMNS = 777 };
  static float x[ROWS][COLUMNS], w[COLUMNS], y[ROWS][COLUMNS];
  qn_test_random random = {1};
  for (int c = 0; c < COLUMNS; c++) w[c] = (float)uniform(&random);
  for (int r = 0; r < ROWS; r++) {
    for (int c = 0; c < COLUMNS; c++) x[r][c] = (float)uniform(&random);
  }
  for (size_t t = 0; t < QN_COUNT(targets); t++) {
    sim_start(targets[t]);
    CUdeviceptr px = sim_upload(x, sizeof x), pw = sim_upload(w, sizeof w), py = sim_upload(NULL, sizeof y);
    int n = COLUMNS;
    void *params[] = {&px, &pw, &py, &n};
    run_orders(&(launch){rmsnorm_source, "rmsnorm", ROWS, 256, 0, params, py, sizeof y}, targets[t], y);
    for (int r = 0; r < ROWS; r++) {
      double sum = 0;
      for (int c = 0; c < COLUMNS; c++) sum += (double)x[r][c] * x[r][c];
      double scale = 1 / sqrt(sum / COLUMNS + 1e-5);
      for (int c = 0; c < COLUMNS; c++) {
        double want = x[r][c] * scale * w[c];
        qn_check(fabs(y[r][c] - want) <= 1e-6 + 1e-5 * fabs(want), "%s row %d column %d: %g, want %g", targets[t], r, c,
                 y[r][c], want);
      }
    }
  }
}
END_TEST

// ---- int4 matrix-vector product with dp4a: a warp a row, 16 bytes a lane ----

static const char gemv_source[] =
    "extern \"C\" __global__ void gemv(const uint4 *w, const float *scale, const int *x, float *y, int k) {\n"
    "  int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32, groups = k / 32; float "
    "sum = 0;\n"
    "  for (int g = lane; g < groups; g += 32) {\n"
    "    uint4 q = w[(size_t)row * groups + g]; unsigned u[4] = {q.x, q.y, q.z, q.w}; int acc = 0, total = 0;\n"
    "    for (int i = 0; i < 4; i++) {\n"
    "      int lo = u[i] & 0x0f0f0f0f, hi = u[i] >> 4 & 0x0f0f0f0f, a = x[g * 8 + i * 2], b = x[g * 8 + i * 2 + 1];\n"
    "      acc = __dp4a(lo, a, acc); acc = __dp4a(hi, b, acc); total = __dp4a(0x08080808, a, total); total = "
    "__dp4a(0x08080808, b, total);\n"
    "    }\n    sum = fmaf((float)(acc - total), scale[(size_t)row * groups + g], sum);\n  }\n"
    "  for (int o = 16; o > 0; o >>= 1) sum += __shfl_down_sync(~0u, sum, o);\n  if (lane == 0) y[row] = sum;\n}\n";

START_TEST(test_gemv) {
  enum { ROWS = 64, K = 2048, GROUPS = K / 32 };
  static uint8_t w[ROWS][GROUPS][16];
  static float scale[ROWS][GROUPS], y[ROWS];
  static int8_t x[K];
  qn_test_random random = {2};
  for (int k = 0; k < K; k++) x[k] = (int8_t)(qn_test_random_u64(&random) % 255 - 127);
  for (int r = 0; r < ROWS; r++) {
    for (int g = 0; g < GROUPS; g++) {
      scale[r][g] = (float)(uniform(&random) * 0.01);
      for (int b = 0; b < 16; b++) w[r][g][b] = (uint8_t)qn_test_random_u64(&random);
    }
  }
  for (size_t t = 0; t < QN_COUNT(targets); t++) {
    sim_start(targets[t]);
    CUdeviceptr pw = sim_upload(w, sizeof w), ps = sim_upload(scale, sizeof scale), px = sim_upload(x, sizeof x);
    CUdeviceptr py = sim_upload(NULL, sizeof y);
    ck_assert_int_eq(sim.label(pw, sizeof w, "weights"), 0);
    ck_assert_int_eq(sim.label(px, sizeof x, "x"), 0);
    int k = K;
    void *params[] = {&pw, &ps, &px, &py, &k};
    run_orders(&(launch){gemv_source, "gemv", ROWS / 4, 128, 0, params, py, sizeof y}, targets[t], y);
    for (int r = 0; r < ROWS; r++) {
      double want = 0, size = 0;
      for (int g = 0; g < GROUPS; g++) {
        int sum = 0;
        for (int i = 0; i < 4; i++) {
          for (int b = 0; b < 4; b++) {
            int q = w[r][g][i * 4 + b];
            sum += ((q & 15) - 8) * x[g * 32 + i * 8 + b] + ((q >> 4) - 8) * x[g * 32 + i * 8 + 4 + b];
          }
        }
        want += (double)sum * scale[r][g];
        size += fabs((double)sum * scale[r][g]);
      }
      qn_check(fabs(y[r] - want) <= 1e-5 * size, "%s row %d: %g, want %g", targets[t], r, y[r], want);
    }
    ps_traffic moved = sim_traffic("gemv", "weights");  // three launches
    ck_assert_uint_eq(moved.load_bytes, 3 * sizeof w);
    ck_assert_uint_eq(moved.load_sectors * 32, 3 * sizeof w);
    ck_assert_uint_eq(moved.load_requests, 3 * sizeof w / 512);
    ck_assert_uint_gt(sim_counters("gemv").by_class[4], 0);
  }
}
END_TEST

// ---- split-KV decode: blocks take chunks of keys, the last one to finish merges in order ----

static const char decode_source[] =
    "#include <cuda_fp16.h>\n"
    "extern \"C\" __global__ void decode(const float *q, const __half *key, const __half *val, float *part, unsigned "
    "*count, float *out, int n, int chunk) {\n"
    "  const int D = 64; __shared__ float s[128]; __shared__ float red[4]; __shared__ bool last;\n"
    "  int t = threadIdx.x, from = blockIdx.x * chunk, len = min(chunk, n - from), splits = gridDim.x; float m = "
    "__int_as_float(0xff800000), l = 0;\n"
    "  for (int i = t; i < len; i += 128) { float d = 0; const __half2 *k = (const __half2 *)(key + (size_t)(from + i) "
    "* D);\n"
    "    for (int j = 0; j < D / 2; j++) { float2 f = __half22float2(k[j]); d = fmaf(q[2 * j], f.x, d); d = fmaf(q[2 * "
    "j + 1], f.y, d); }\n"
    "    s[i] = d * 0.125f; m = fmaxf(m, s[i]); }\n"
    "  for (int o = 16; o; o >>= 1) m = fmaxf(m, __shfl_xor_sync(~0u, m, o)); if (t % 32 == 0) red[t / 32] = m; "
    "__syncthreads();\n"
    "  m = fmaxf(fmaxf(red[0], red[1]), fmaxf(red[2], red[3])); __syncthreads();\n"
    "  for (int i = t; i < len; i += 128) { s[i] = exp2f((s[i] - m) * 1.4426950408889634f); l += s[i]; }\n"
    "  for (int o = 16; o; o >>= 1) l += __shfl_xor_sync(~0u, l, o); if (t % 32 == 0) red[t / 32] = l; "
    "__syncthreads();\n"
    "  l = red[0] + red[1] + red[2] + red[3]; float *p = part + blockIdx.x * (D + 2);\n"
    "  if (t < D) { float a = 0; for (int i = 0; i < len; i++) a = fmaf(s[i], __half2float(val[(size_t)(from + i) * D "
    "+ t]), a); p[t] = a; }\n"
    "  if (t == 0) { p[D] = m; p[D + 1] = l; }\n"
    "  __threadfence(); __syncthreads(); if (t == 0) last = atomicAdd(count, 1) == splits - 1; __syncthreads();\n"
    "  if (!last) return; __threadfence();\n"
    "  if (t < D) { float mm = __int_as_float(0xff800000), ll = 0, a = 0; for (int b = 0; b < splits; b++) mm = "
    "fmaxf(mm, __ldcg(part + b * (D + 2) + D));\n"
    "    for (int b = 0; b < splits; b++) { float f = exp2f((__ldcg(part + b * (D + 2) + D) - mm) * "
    "1.4426950408889634f);\n"
    "      a = fmaf(f, __ldcg(part + b * (D + 2) + t), a); ll = fmaf(f, __ldcg(part + b * (D + 2) + D + 1), ll); }\n"
    "    out[t] = a / ll; }\n  if (t == 0) *count = 0;\n}\n";

START_TEST(test_decode) {
  enum { KEYS = 1000, D = 64, CHUNK = 128, SPLITS = (KEYS + CHUNK - 1) / CHUNK };
  static float q[D], out[D];
  static uint16_t key[KEYS][D], val[KEYS][D];
  qn_test_random random = {3};
  for (int d = 0; d < D; d++) q[d] = (float)uniform(&random);
  for (int k = 0; k < KEYS; k++) {
    for (int d = 0; d < D; d++) {
      key[k][d] = half_of((float)uniform(&random));
      val[k][d] = half_of((float)uniform(&random));
    }
  }
  double score[KEYS], top = -1e30, sum = 0, want[D] = {0};
  for (int k = 0; k < KEYS; k++) {
    score[k] = 0;
    for (int d = 0; d < D; d++) score[k] += (double)q[d] * half_value(key[k][d]) * 0.125;
    top = fmax(top, score[k]);
  }
  for (int k = 0; k < KEYS; k++) sum += exp(score[k] - top);
  for (int k = 0; k < KEYS; k++) {
    for (int d = 0; d < D; d++) want[d] += exp(score[k] - top) / sum * half_value(val[k][d]);
  }
  for (size_t t = 0; t < QN_COUNT(targets); t++) {
    sim_start(targets[t]);
    unsigned zero = 0;
    CUdeviceptr pq = sim_upload(q, sizeof q), pk = sim_upload(key, sizeof key), pv = sim_upload(val, sizeof val);
    CUdeviceptr pp = sim_upload(NULL, SPLITS * (D + 2) * 4), pc = sim_upload(&zero, 4),
                po = sim_upload(NULL, sizeof out);
    int n = KEYS, chunk = CHUNK;
    void *params[] = {&pq, &pk, &pv, &pp, &pc, &po, &n, &chunk};
    run_orders(&(launch){decode_source, "decode", SPLITS, 128, 0, params, po, sizeof out}, targets[t], out);
    for (int d = 0; d < D; d++)
      qn_check(fabs(out[d] - want[d]) < 1e-5, "%s %d: %g, want %g", targets[t], d, out[d], want[d]);
  }
}
END_TEST

// ---- tensor-core product: two stages of cp.async, ldmatrix from swizzled shared memory ----

static const char gemm_source[] =
    "#include <cuda_fp16.h>\n#define BM 64\n#define BN 64\n#define BK 32\n"
    "static __device__ __forceinline__ int at(int row, int chunk) { return row * 64 + ((chunk ^ (row >> 1 & 3)) << 4); "
    "}\n"
    "extern \"C\" __global__ void gemm(const __half *a, const __half *b, float *c, int m, int n, int k) {\n"
    "  extern __shared__ __align__(128) unsigned char sm[]; int t = threadIdx.x, lane = t & 31, warp = t >> 5, bm = "
    "blockIdx.x % (m / BM) * BM, bn = blockIdx.x / (m / BM) * BN;\n"
    "  unsigned base = (unsigned)__cvta_generic_to_shared(sm); int wm = (warp & 1) * 32, wn = (warp >> 1) * 32; float "
    "acc[2][4][4] = {};\n"
    "  auto load = [&](int stage, int k0) { unsigned s = base + stage * 8192; for (int i = t; i < 256; i += 128) { int "
    "row = i >> 2, ch = i & 3;\n"
    "      asm volatile(\"cp.async.cg.shared.global [%0], [%1], 16;\\n\" ::\"r\"(s + at(row, ch)), \"l\"(a + "
    "(size_t)(bm + row) * k + k0 + ch * 8));\n"
    "      asm volatile(\"cp.async.cg.shared.global [%0], [%1], 16;\\n\" ::\"r\"(s + 4096 + at(row, ch)), \"l\"(b + "
    "(size_t)(bn + row) * k + k0 + ch * 8)); }\n"
    "    asm volatile(\"cp.async.commit_group;\\n\"); };\n"
    "  load(0, 0);\n"
    "  for (int k0 = 0, stage = 0; k0 < k; k0 += BK, stage ^= 1) {\n"
    "    if (k0 + BK < k) { load(stage ^ 1, k0 + BK); asm volatile(\"cp.async.wait_group 1;\\n\"); } else asm "
    "volatile(\"cp.async.wait_group 0;\\n\");\n"
    "    __syncthreads(); unsigned s = base + stage * 8192;\n"
    "    for (int kk = 0; kk < 2; kk++) { unsigned fa[2][4], fb[4][2];\n"
    "      for (int i = 0; i < 2; i++) asm volatile(\"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, "
    "[%4];\\n\" : \"=r\"(fa[i][0]), \"=r\"(fa[i][1]), \"=r\"(fa[i][2]), \"=r\"(fa[i][3]) : \"r\"(s + at(wm + i * 16 + "
    "(lane & 15), kk * 2 + (lane >> 4))));\n"
    "      for (int j = 0; j < 4; j++) asm volatile(\"ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\\n\" : "
    "\"=r\"(fb[j][0]), \"=r\"(fb[j][1]) : \"r\"(s + 4096 + at(wn + j * 8 + (lane & 7), kk * 2 + (lane >> 3 & 1))));\n"
    "      for (int i = 0; i < 2; i++) for (int j = 0; j < 4; j++) asm "
    "volatile(\"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
    "{%0,%1,%2,%3};\\n\"\n"
    "          : \"+f\"(acc[i][j][0]), \"+f\"(acc[i][j][1]), \"+f\"(acc[i][j][2]), \"+f\"(acc[i][j][3]) : "
    "\"r\"(fa[i][0]), \"r\"(fa[i][1]), \"r\"(fa[i][2]), \"r\"(fa[i][3]), \"r\"(fb[j][0]), \"r\"(fb[j][1])); }\n"
    "    __syncthreads(); }\n"
    "  for (int i = 0; i < 2; i++) for (int j = 0; j < 4; j++) { int row = bm + wm + i * 16 + (lane >> 2), col = bn + "
    "wn + j * 8 + (lane & 3) * 2;\n"
    "      *(float2 *)(c + (size_t)row * n + col) = make_float2(acc[i][j][0], acc[i][j][1]); *(float2 *)(c + "
    "(size_t)(row + 8) * n + col) = make_float2(acc[i][j][2], acc[i][j][3]); }\n}\n";

START_TEST(test_gemm) {
  enum { ROWS = 128, COLS = 64, DEPTH = 96 };
  static uint16_t a[ROWS][DEPTH], b[COLS][DEPTH];
  static float c[ROWS][COLS];
  qn_test_random random = {4};
  for (int r = 0; r < ROWS; r++) {
    for (int k = 0; k < DEPTH; k++) a[r][k] = half_of((float)uniform(&random));
  }
  for (int r = 0; r < COLS; r++) {
    for (int k = 0; k < DEPTH; k++) b[r][k] = half_of((float)uniform(&random));
  }
  for (size_t t = 0; t < QN_COUNT(targets); t++) {
    sim_start(targets[t]);
    CUdeviceptr pa = sim_upload(a, sizeof a), pb = sim_upload(b, sizeof b), pc = sim_upload(NULL, sizeof c);
    int m = ROWS, n = COLS, k = DEPTH;
    void *params[] = {&pa, &pb, &pc, &m, &n, &k};
    run_orders(&(launch){gemm_source, "gemm", 2, 128, 16384, params, pc, sizeof c}, targets[t], c);
    for (int r = 0; r < ROWS; r++) {
      for (int j = 0; j < COLS; j++) {
        double want = 0;
        for (int i = 0; i < DEPTH; i++) want += (double)half_value(a[r][i]) * half_value(b[j][i]);
        qn_check(fabs(c[r][j] - want) < 1e-4, "%s row %d column %d: %g, want %g", targets[t], r, j, c[r][j], want);
      }
    }
    ps_counters counted = sim_counters("gemm");
    ck_assert_uint_eq(counted.tensor_operations, 3 * 2ull * ROWS * COLS * DEPTH);
    ck_assert_uint_eq(counted.shared_wavefronts, counted.shared_wavefronts_least);
  }
}
END_TEST

// ---- many functions of the device library, against the C library ----

static const char maths_source[] =
    "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n"
    "__device__ __noinline__ float sum_of(const float *a, int n) { float s = 0; for (int i = 0; i < n; i++) s += a[i]; "
    "return s; }\n"
    "extern \"C\" __global__ void maths(const float *x, float *y, int n) {\n"
    "  int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= n) return; float v = x[i], r[24];\n"
    "  r[0] = v / (1.f + expf(-v)); r[1] = tanhf(v); r[2] = sinf(v * 50.f); r[3] = cosf(v); r[4] = logf(fabsf(v) + "
    "0.1f); r[5] = powf(fabsf(v), 1.7f);\n"
    "  r[6] = erff(v); r[7] = sqrtf(fabsf(v)); r[8] = floorf(v * 10.f); r[9] = rintf(v * 10.f); r[10] = roundf(v * "
    "10.f); r[11] = truncf(v * 10.f);\n"
    "  r[12] = fmodf(v * 10.f, 0.7f); r[13] = (float)(int)(v * 100.f); r[14] = __half2float(__float2half(v)); r[15] = "
    "__bfloat162float(__float2bfloat16(v));\n"
    "  r[16] = (float)((double)v * 1.5 + exp((double)v)); r[17] = v / 3.f; r[18] = __popc(__float_as_int(v)); r[19] = "
    "(float)((long long)(v * 1e6f) / 7);\n"
    "  r[20] = (float)((unsigned)(i * 2654435761u) % 1000u); switch (i % 7) { case 0: r[21] = v; break; case 1: r[21] "
    "= -v; break; case 2: r[21] = v * v; break;\n"
    "  case 3: r[21] = 3.f; break; case 4: r[21] = v + 1.f; break; case 5: r[21] = v - 1.f; break; default: r[21] = "
    "0.f; } r[22] = atan2f(v, 0.3f); r[23] = 0;\n"
    "  r[23] = sum_of(r, i % 24); for (int j = 0; j < 24; j++) y[i * 24 + j] = r[j];\n}\n";

static void maths_want(float v, int i, double want[24]) {
  double d = v;
  float tenfold = v * 10.f;
  uint32_t bits;
  memcpy(&bits, &v, 4);
  const double rows[22] = {d / (1 + exp(-d)),
                           tanh(d),
                           sin((double)(v * 50.f)),
                           cos(d),
                           log(fabs(d) + 0.1),
                           pow(fabs(d), 1.7),
                           erf(d),
                           sqrt(fabs(d)),
                           floorf(tenfold),
                           rintf(tenfold),
                           roundf(tenfold),
                           truncf(tenfold),
                           fmodf(tenfold, 0.7f),
                           (double)(int)(v * 100.f),
                           d,
                           d,
                           d * 1.5 + exp(d),
                           d / 3,
                           (double)__builtin_popcount(bits),
                           (double)((long long)(v * 1e6f) / 7),
                           (double)((uint32_t)i * 2654435761u % 1000u),
                           i % 7 == 0   ? d
                           : i % 7 == 1 ? -d
                           : i % 7 == 2 ? d * d
                           : i % 7 == 3 ? 3
                           : i % 7 == 4 ? d + 1
                           : i % 7 == 5 ? d - 1
                                        : 0};
  memcpy(want, rows, sizeof rows);
  want[22] = atan2(d, (double)0.3f);
  want[23] = 0;
  for (int j = 0; j < i % 24; j++) want[23] += want[j];
}

START_TEST(test_maths) {
  enum { COUNT = 200 };
  static float x[COUNT], y[COUNT][24];
  qn_test_random random = {5};
  for (int i = 0; i < COUNT; i++) x[i] = (float)uniform(&random) * 3;
  for (size_t t = 0; t < QN_COUNT(targets); t++) {
    sim_start(targets[t]);
    CUdeviceptr px = sim_upload(x, sizeof x), py = sim_upload(NULL, sizeof y);
    int n = COUNT;
    void *params[] = {&px, &py, &n};
    run_orders(&(launch){maths_source, "maths", 4, 64, 0, params, py, sizeof y}, targets[t], y);
    for (int i = 0; i < COUNT; i++) {
      double want[24];
      maths_want(x[i], i, want);
      for (int j = 0; j < 24; j++) {
        double tolerance = j == 14 ? 1e-3 : j == 15 ? 8e-3 : j == 23 ? 2e-2 : 2e-6;  // halves, and a sum with halves
        qn_check(fabs(y[i][j] - want[j]) <= tolerance * (1 + fabs(want[j])), "%s function %d of %g: %g, want %g",
                 targets[t], j, x[i], y[i][j], want[j]);
      }
    }
  }
}
END_TEST

// Machine code of NVRTC's: told apart from PTX, and run by its PTX when that was handed in.
START_TEST(test_cubin) {
  const void *cubin;
  size_t bytes;
  CUmodule m;
  sim_start("sm_90");
  const char *ptx = nvrtc_ptx(rmsnorm_source, "sm_90", &cubin, &bytes);
  ck_assert_ptr_nonnull(ptx);
  sim_fails(CUDA_ERROR_NO_BINARY_FOR_GPU, "machine code", sim.load(&m, cubin));
  ck_assert_int_eq(sim.provide_ptx(cubin, bytes, ptx), 0);
  sim_ok(sim.load(&m, cubin));
}
END_TEST

static TCase *nvrtc_kernels(void) {
  const char *reason;
  if (!nvrtc_open(&reason)) qn_test_skip("%s", reason);
  static const TTest *const *const tests[] = {&test_rmsnorm, &test_gemv,  &test_decode,
                                              &test_gemm,    &test_maths, &test_cubin};
  TCase *c = tcase_create("nvrtc_kernels");
  for (size_t k = 0; k < QN_COUNT(tests); k++) tcase_add_test(c, *tests[k]);
  tcase_set_timeout(c, 300);
  return c;
}
QN_TEST_MAIN(nvrtc_kernels)
