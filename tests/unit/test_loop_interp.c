// The interpreter of the loop IR: hand-built kernels against plain C, every operator, every error.
#include <math.h>
#include <stdio.h>

#include "ir/loop.h"
#include "ir/loop_interp.h"
#include "ir/math.h"
#include "tests/support/test.h"

#define BIND(array) \
  { (array), sizeof(array) }

// ---- helpers ----------------------------------------------------------------------------------------------------

static qn_arena arena;
static qn_lbuild build;

static qn_lblock *begin_kernel(const char *name) {
  qn_arena_init(&arena, qn_allocator_default());
  qn_lbuild_init(&build, &arena, name);
  return &build.kernel->body;
}

static qn_lbuf *param(const char *name, qn_lmem mem, int64_t elements, bool writable) {
  return qn_lparam(&build, name, mem, qn_lint(&build, elements), writable, false);
}

static const qn_lexpr *add(const qn_lexpr *a, const qn_lexpr *b) { return qn_lop2(&build, QN_LX_ADD, a, b); }
static const qn_lexpr *mul(const qn_lexpr *a, const qn_lexpr *b) { return qn_lop2(&build, QN_LX_MUL, a, b); }
static const qn_lexpr *num(int64_t value) { return qn_lint(&build, value); }
static const qn_lexpr *load(const qn_lbuf *buf, const qn_lexpr *index) {
  return qn_lload(&build, buf, buf->mem, index, 1);
}
static const qn_lexpr *load_index(const qn_lbuf *buf, const qn_lexpr *index) {
  return qn_lop1(&build, QN_LX_TO_INDEX, load(buf, index));
}
static void store(qn_lblock *block, const qn_lbuf *buf, const qn_lexpr *index, const qn_lexpr *value) {
  qn_lstore(&build, block, buf, buf->mem, index, value);
}

// Opens `for name in lo..hi` and gives its body and variable.
static qn_lblock *loop(qn_lblock *block, const char *name, const qn_lexpr *lo, const qn_lexpr *hi, qn_lorder order,
                       const qn_lexpr **out_var) {
  qn_lvar *var = qn_lvar_new(&build, name);
  qn_lstmt *stmt = qn_lfor(&build, block, var, lo, hi, order);
  *out_var = qn_lref(&build, var);
  return &stmt->u.loop.body;
}

static qn_status interpret_range(const qn_linterp_buffer *buffers, int64_t begin, int64_t end, qn_diag *diag) {
  const int64_t symbols[QN_SYM_COUNT] = {[QN_SYM_T] = 10, [QN_SYM_B] = 2};
  ck_assert(!build.failed);
  return qn_lkernel_interpret(build.kernel, buffers, symbols, begin, end, qn_test_allocator(), diag);
}

static qn_status interpret(const qn_linterp_buffer *buffers, qn_diag *diag) {
  return interpret_range(buffers, 0, INT64_MAX, diag);
}

// Verifies and runs the kernel, which must work.
static void run(const qn_linterp_buffer *buffers) {
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_lkernel_verify(build.kernel, &diag));
  qn_assert_ok(&diag, interpret(buffers, &diag));
}

static void end_kernel(void) {
  qn_arena_deinit(&arena);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}

// Runs the kernel, which must fail with all of the given texts in its message.
static void run_fails(const qn_linterp_buffer *buffers, const char *first, const char *second) {
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_INTERNAL, first, interpret(buffers, &diag));
  ck_assert_msg(strstr(diag.text, second) != NULL, "'%s' lacks '%s'", diag.text, second);
  end_kernel();
}

static bool same_bits(float a, float b) { return memcmp(&a, &b, sizeof a) == 0; }

// ---- kernels ----------------------------------------------------------------------------------------------------

// for i in 0..T parallel { y[i] = fma(a[0], x[i], y[i]) }
static void build_saxpy(void) {
  qn_lblock *body = begin_kernel("saxpy");
  const qn_lexpr *t = qn_lsym(&build, QN_SYM_T), *i;
  qn_lbuf *a = param("a", QN_LM_F32, 1, false);
  qn_lbuf *x = qn_lparam(&build, "x", QN_LM_F32, t, false, true);
  qn_lbuf *y = qn_lparam(&build, "y", QN_LM_F32, t, true, false);
  body = loop(body, "i", num(0), t, QN_LO_DATA, &i);
  build.kernel->body.first->u.loop.mark = QN_LM_PARALLEL;
  store(body, y, i, qn_lop3(&build, QN_LX_FMA, load(a, num(0)), load(x, i), load(y, i)));
}

START_TEST(saxpy) {
  float a[1] = {3.1f}, x[10], y[10], want[10];
  for (int i = 0; i < 10; i++) {
    x[i] = (float)i + 0.1f;
    y[i] = 7.3f * (float)i;
    want[i] = fmaf(a[0], x[i], y[i]);
  }
  build_saxpy();
  run((qn_linterp_buffer[]){BIND(a), BIND(x), BIND(y)});
  for (int i = 0; i < 10; i++) ck_assert(same_bits(y[i], want[i]));
  end_kernel();
}
END_TEST

START_TEST(parallel_loop_runs_its_part) {
  float a[1] = {1.0f}, x[10], y[10] = {0};
  for (int i = 0; i < 10; i++) x[i] = 1.0f;
  const qn_linterp_buffer buffers[] = {BIND(a), BIND(x), BIND(y)};
  qn_diag diag = {0};
  build_saxpy();
  qn_assert_ok(&diag, interpret_range(buffers, 3, 6, &diag));
  for (int i = 0; i < 10; i++) ck_assert(y[i] == (i >= 3 && i < 6 ? 1.0f : 0.0f));
  qn_assert_ok(&diag, interpret_range(buffers, 0, 3, &diag));
  qn_assert_ok(&diag, interpret_range(buffers, 6, 1000, &diag));
  qn_assert_ok(&diag, interpret_range(buffers, 11, 20, &diag));
  for (int i = 0; i < 10; i++) ck_assert(y[i] == 1.0f);
  end_kernel();
}
END_TEST

// 16 strided partial sums of n values, then a tree: the numeric contract's reduction.
START_TEST(strided_partial_sums) {
  enum { N = 64 };
  float x[N], out[1] = {0}, sums[16] = {0};
  for (int i = 0; i < N; i++) x[i] = sinf((float)i) * 100.0f;
  qn_lblock *body = begin_kernel("row_sum");
  qn_lbuf *in = param("x", QN_LM_F32, N, false), *result = param("out", QN_LM_F32, 1, true);
  const qn_lexpr *l, *k;
  qn_lbuf *acc = qn_llocal(&build, body, "acc", QN_LM_F32, 16);
  qn_lblock *inner = loop(body, "l", num(0), num(16), QN_LO_DATA, &l);
  store(inner, acc, l, qn_lf32(&build, 0.0f));
  qn_lblock *outer = loop(body, "k", num(0), num(N / 16), QN_LO_REDUCE, &k);
  inner = loop(outer, "l", num(0), num(16), QN_LO_DATA, &l);
  store(inner, acc, l, add(load(acc, l), load(in, add(mul(k, num(16)), l))));
  for (int width = 8; width >= 1; width /= 2) {
    inner = loop(body, "l", num(0), num(width), QN_LO_DATA, &l);
    store(inner, acc, l, add(load(acc, l), load(acc, add(l, num(width)))));
  }
  store(body, result, num(0), load(acc, num(0)));
  run((qn_linterp_buffer[]){BIND(x), BIND(out)});
  for (int i = 0; i < N; i++) sums[i % 16] += x[i];
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; i++) sums[i] += sums[i + width];
  ck_assert(same_bits(out[0], sums[0]));
  end_kernel();
}
END_TEST

// One row of a q8_0 product: blocks of an f16 scale and 32 weights stored with 128 added, 34 bytes each; activations in
// int8 with a scale and a sum a block. The accumulator starts at minus 128 times the sum.
START_TEST(q8_0_dot) {
  enum { BLOCKS = 5 };
  uint8_t weights[BLOCKS * 34];
  int8_t acts[BLOCKS * 32];
  float scales[BLOCKS], out[1], want = 0.0f;
  int32_t block_sums[BLOCKS];
  qn_test_random random = {7};
  for (int kb = 0; kb < BLOCKS; kb++) {
    uint16_t scale = qn_f32_to_f16(0.01f * (float)(kb + 1));
    int32_t dot = 0;
    memcpy(weights + kb * 34, &scale, 2);
    block_sums[kb] = 0;
    for (int i = 0; i < 32; i++) {
      int8_t w = (int8_t)((int)(qn_test_random_u64(&random) % 256) - 128);
      int8_t a = (int8_t)((int)(qn_test_random_u64(&random) % 255) - 127);
      weights[kb * 34 + 2 + i] = (uint8_t)(w + 128);
      acts[kb * 32 + i] = a;
      block_sums[kb] += a;
      dot += w * a;
    }
    scales[kb] = 0.3f + (float)kb;
    want = fmaf((float)dot, qn_f16_to_f32(scale) * scales[kb], want);
  }
  qn_lblock *body = begin_kernel("dot_q8_0"), *inner;
  qn_lbuf *w = param("w", QN_LM_U8, sizeof weights, false), *a = param("a", QN_LM_I8, sizeof acts, false);
  qn_lbuf *s = param("s", QN_LM_F32, BLOCKS, false), *sums = param("sums", QN_LM_I32, BLOCKS, false);
  qn_lbuf *y = param("y", QN_LM_F32, 1, true);
  const qn_lexpr *kb, *g;
  store(body, y, num(0), qn_lf32(&build, 0.0f));
  body = loop(body, "kb", num(0), num(BLOCKS), QN_LO_REDUCE, &kb);
  qn_lbuf *acc = qn_llocal(&build, body, "acc", QN_LM_I32, 1);
  store(body, acc, num(0), mul(load(sums, kb), qn_li32(&build, -128)));
  inner = loop(body, "g", num(0), num(8), QN_LO_REDUCE, &g);
  // A block is 8.5 words of 4 bytes, so its words are gathered from single bytes.
  const qn_lexpr *word = qn_li32(&build, 0);
  for (int i = 3; i >= 0; i--) {
    const qn_lexpr *at = add(add(mul(kb, num(34)), mul(g, num(4))), num(2 + i));
    word = qn_lop2(&build, QN_LX_OR, qn_lop2(&build, QN_LX_SHL, word, qn_li32(&build, 8)), load(w, at));
  }
  const qn_lexpr *act = qn_lload(&build, a, QN_LM_I32, add(mul(kb, num(8)), g), 1);
  store(inner, acc, num(0), qn_lop3(&build, QN_LX_DOT4, load(acc, num(0)), word, act));
  const qn_lexpr *d = mul(qn_lload(&build, w, QN_LM_F16, mul(kb, num(17)), 1), load(s, kb));
  const qn_lexpr *dot = qn_lop1(&build, QN_LX_TO_F32, load(acc, num(0)));
  store(body, y, num(0), qn_lop3(&build, QN_LX_FMA, dot, d, load(y, num(0))));
  run((qn_linterp_buffer[]){BIND(weights), BIND(acts), BIND(scales), BIND(block_sums), BIND(out)});
  ck_assert(same_bits(out[0], want));
  end_kernel();
}
END_TEST

START_TEST(matmul) {
  enum { M = 8, N = 32, K = 256 };
  static float a[M * K], b[K * N], c[M * N];
  for (int i = 0; i < M * K; i++) a[i] = sinf((float)i);
  for (int i = 0; i < K * N; i++) b[i] = cosf((float)i);
  qn_lblock *body = begin_kernel("matmul");
  qn_lbuf *pa = param("a", QN_LM_F32, M * K, false), *pb = param("b", QN_LM_F32, K * N, false);
  qn_lbuf *pc = param("c", QN_LM_F32, M * N, true);
  const qn_lexpr *m, *n, *k;
  body = loop(body, "m", num(0), num(M), QN_LO_DATA, &m);
  body = loop(body, "n", num(0), num(N), QN_LO_DATA, &n);
  qn_lbuf *acc = qn_llocal(&build, body, "acc", QN_LM_F32, 1);
  store(body, acc, num(0), qn_lf32(&build, 0.0f));
  qn_lblock *inner = loop(body, "k", num(0), num(K), QN_LO_REDUCE, &k);
  const qn_lexpr *x = load(pa, add(mul(m, num(K)), k)), *y = load(pb, add(mul(k, num(N)), n));
  store(inner, acc, num(0), qn_lop3(&build, QN_LX_FMA, x, y, load(acc, num(0))));
  store(body, pc, add(mul(m, num(N)), n), load(acc, num(0)));
  run((qn_linterp_buffer[]){BIND(a), BIND(b), BIND(c)});
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) {
      float sum = 0.0f;
      for (int p = 0; p < K; p++) sum = fmaf(a[i * K + p], b[p * N + j], sum);
      ck_assert(same_bits(sum, c[i * N + j]));
    }
  end_kernel();
}
END_TEST

// ---- vectors ----------------------------------------------------------------------------------------------------

START_TEST(consecutive_lanes_and_broadcast) {
  float x[12], y[12] = {0};
  for (int i = 0; i < 12; i++) x[i] = (float)(i + 1);
  qn_lblock *body = begin_kernel("vectors");
  qn_lbuf *in = param("x", QN_LM_F32, 12, false), *out = param("y", QN_LM_F32, 12, true);
  const qn_lexpr *v = qn_lload(&build, in, QN_LM_F32, num(2), 8);
  store(body, out, num(1), qn_lop3(&build, QN_LX_FMA, v, load(in, num(1)), qn_lf32(&build, 0.5f)));
  qn_lstore_lanes(&build, body, out, QN_LM_F32, num(9), load(in, num(3)), 3);
  run((qn_linterp_buffer[]){BIND(x), BIND(y)});
  ck_assert(y[0] == 0.0f);
  for (int i = 0; i < 8; i++) ck_assert(y[1 + i] == x[2 + i] * x[1] + 0.5f);
  for (int i = 9; i < 12; i++) ck_assert(y[i] == 4.0f);
  end_kernel();
}
END_TEST

START_TEST(gather_and_scatter) {
  float x[32], y[32] = {0};
  for (int i = 0; i < 32; i++) x[i] = (float)i;
  qn_lblock *body = begin_kernel("gather");
  qn_lbuf *in = param("x", QN_LM_F32, 32, false), *out = param("y", QN_LM_F32, 32, true);
  const qn_lexpr *third = mul(qn_llane(&build, 8), num(3));
  const qn_lexpr *gathered = qn_lload(&build, in, QN_LM_F32, add(third, num(1)), 8);
  store(body, out, add(third, num(2)), gathered);
  store(body, out, qn_lop2(&build, QN_LX_DIV, qn_llane(&build, 8), num(4)), gathered);  // the last lane stays
  run((qn_linterp_buffer[]){BIND(x), BIND(y)});
  for (int i = 1; i < 8; i++) ck_assert(y[3 * i + 2] == (float)(3 * i + 1));
  ck_assert(y[0] == 10.0f && y[1] == 22.0f);
  end_kernel();
}
END_TEST

START_TEST(select_by_lanes) {
  int32_t x[4] = {5, -5, 0, 9}, y[8];
  qn_lblock *body = begin_kernel("select");
  qn_lbuf *in = param("x", QN_LM_I32, 4, false), *out = param("y", QN_LM_I32, 8, true);
  const qn_lexpr *v = qn_lload(&build, in, QN_LM_I32, num(0), 4), *zero = qn_li32(&build, 0);
  const qn_lexpr *positive = qn_lop2(&build, QN_LX_LT, zero, v);
  const qn_lexpr *small = qn_lop2(&build, QN_LX_LE, v, qn_li32(&build, 5));
  store(body, out, num(0), qn_lop3(&build, QN_LX_SELECT, qn_lop2(&build, QN_LX_AND, positive, small), v, zero));
  const qn_lexpr *scalar = qn_lop2(&build, QN_LX_EQ, load(in, num(2)), zero);
  store(body, out, num(4), qn_lop3(&build, QN_LX_SELECT, scalar, v, zero));
  run((qn_linterp_buffer[]){BIND(x), BIND(y)});
  const int32_t want[8] = {5, 0, 0, 0, 5, -5, 0, 9};
  ck_assert_mem_eq(y, want, sizeof want);
  end_kernel();
}
END_TEST

START_TEST(memory_types) {
  const float x[4] = {1.00048828125f, -65519.0f, 0.1f, 1e30f};
  const int32_t n[4] = {200, -1, 300, -129};
  float in_f[4], wide[8];
  int32_t in_n[4], wide_n[8];
  uint16_t half[4], brain[4];
  uint8_t bytes[4];
  int8_t chars[4];
  memcpy(in_f, x, sizeof x);
  memcpy(in_n, n, sizeof n);
  qn_lblock *body = begin_kernel("types");
  qn_lbuf *pf = param("f", QN_LM_F32, 4, false), *pn = param("n", QN_LM_I32, 4, false);
  qn_lbuf *ph = param("h", QN_LM_F16, 4, true), *pb = param("b", QN_LM_BF16, 4, true);
  qn_lbuf *pu = param("u", QN_LM_U8, 4, true), *pc = param("c", QN_LM_I8, 4, true);
  qn_lbuf *pw = param("w", QN_LM_F32, 8, true), *pi = param("i", QN_LM_I32, 8, true);
  const qn_lexpr *zero = num(0);
  store(body, ph, zero, qn_lload(&build, pf, QN_LM_F32, zero, 4));
  store(body, pb, zero, qn_lload(&build, pf, QN_LM_F32, zero, 4));
  store(body, pu, zero, qn_lload(&build, pn, QN_LM_I32, zero, 4));
  store(body, pc, zero, qn_lload(&build, pn, QN_LM_I32, zero, 4));
  store(body, pw, zero, qn_lload(&build, ph, QN_LM_F16, zero, 4));
  store(body, pw, num(4), qn_lload(&build, pb, QN_LM_BF16, zero, 4));
  store(body, pi, zero, qn_lload(&build, pu, QN_LM_U8, zero, 4));
  store(body, pi, num(4), qn_lload(&build, pc, QN_LM_I8, zero, 4));
  run((qn_linterp_buffer[]){BIND(in_f), BIND(in_n), BIND(half), BIND(brain), BIND(bytes), BIND(chars), BIND(wide),
                            BIND(wide_n)});
  for (int i = 0; i < 4; i++) {
    ck_assert_uint_eq(half[i], qn_f32_to_f16(x[i]));
    ck_assert_uint_eq(brain[i], qn_f32_to_bf16(x[i]));
    ck_assert(same_bits(wide[i], qn_f16_to_f32(half[i])) && same_bits(wide[4 + i], qn_bf16_to_f32(brain[i])));
    ck_assert_int_eq(wide_n[i], (uint8_t)n[i]);
    ck_assert_int_eq(wide_n[4 + i], (int8_t)n[i]);
  }
  ck_assert_uint_eq(half[0], 0x3c00);  // 1 + 2^-11 is a tie: to even
  end_kernel();
}
END_TEST

// ---- operators --------------------------------------------------------------------------------------------------

// Runs out[0] = op(in[0], in[1], in[2]) on loaded values, so that nothing is folded. i32 operands become index where
// `kind` says so, and an index or a predicate comes back as i32.
static int32_t run_operator(qn_lop op, qn_lkind kind, int32_t a, int32_t b, int32_t c) {
  int32_t in[3] = {a, b, c}, out[1] = {0};
  qn_lblock *body = begin_kernel("operator");
  qn_lmem mem = kind == QN_LK_F32 ? QN_LM_F32 : QN_LM_I32;
  qn_lbuf *from = param("in", mem, 3, false), *to = param("out", QN_LM_I32, 1, true);
  const qn_lexpr *x[3], *result;
  for (int i = 0; i < 3; i++) x[i] = kind == QN_LK_INDEX ? load_index(from, num(i)) : load(from, num(i));
  int operands = qn_lop_info_of(op)->operands;
  if (operands == 1)
    result = qn_lop1(&build, op, x[0]);
  else if (operands == 2)
    result = qn_lop2(&build, op, x[0], x[1]);
  else
    result = qn_lop3(&build, op, x[0], x[1], x[2]);
  if (result->type.kind == QN_LK_PRED)
    result = qn_lop3(&build, QN_LX_SELECT, result, qn_li32(&build, 1), qn_li32(&build, 0));
  if (result->type.kind == QN_LK_INDEX) result = qn_lop1(&build, QN_LX_TO_I32, result);
  qn_lstore(&build, body, to, result->type.kind == QN_LK_F32 ? QN_LM_F32 : QN_LM_I32, num(0), result);
  run((qn_linterp_buffer[]){BIND(in), BIND(out)});
  end_kernel();
  return out[0];
}

START_TEST(integer_operators) {
  static const struct {
    qn_lop op;
    int32_t a, b, want;
    bool i32_only;
  } rows[] = {
      {QN_LX_ADD, 3, 4, 7, false},
      {QN_LX_ADD, INT32_MAX, 1, INT32_MIN, true},
      {QN_LX_SUB, 3, 4, -1, false},
      {QN_LX_SUB, INT32_MIN, 1, INT32_MAX, true},
      {QN_LX_MUL, -3, 4, -12, false},
      {QN_LX_MUL, 65536, 65536, 0, true},
      {QN_LX_DIV, 7, 2, 3, false},
      {QN_LX_DIV, -7, 2, -4, false},
      {QN_LX_DIV, -8, 2, -4, false},
      {QN_LX_MOD, 7, 3, 1, false},
      {QN_LX_MOD, -7, 3, 2, false},
      {QN_LX_MOD, -6, 3, 0, false},
      {QN_LX_MIN, -1, 4, -1, false},
      {QN_LX_MAX, -1, 4, 4, false},
      {QN_LX_NEG, 5, 0, -5, false},
      {QN_LX_NEG, INT32_MIN, 0, INT32_MIN, true},
      {QN_LX_LT, -1, 0, 1, false},
      {QN_LX_LT, 0, 0, 0, false},
      {QN_LX_LE, 0, 0, 1, false},
      {QN_LX_LE, 1, 0, 0, false},
      {QN_LX_EQ, 4, 4, 1, false},
      {QN_LX_EQ, 4, 5, 0, false},
      {QN_LX_AND, 12, 10, 8, true},
      {QN_LX_OR, 12, 10, 14, true},
      {QN_LX_XOR, 12, 10, 6, true},
      {QN_LX_SHL, -1, 31, INT32_MIN, true},
      {QN_LX_SHR, -1, 28, 15, true},
      {QN_LX_SHR, 5, 0, 5, true},
      {QN_LX_FOLD2, 0x7fff8000, 0, -1, true},
      {QN_LX_FOLD2, 0x00010002, 0, 3, true},
      {QN_LX_UNBIAS, 5, 8, -40, true},
      {QN_LX_UNBIAS, -3, 128, 384, true},
      {QN_LX_TO_F32, 16777217, 0, 0x4b800000, true},
      {QN_LX_AS_F32, 0x3f800000, 0, 0x3f800000, true},
  };
  for (size_t i = 0; i < QN_COUNT(rows); i++) {
    ck_assert_int_eq(run_operator(rows[i].op, QN_LK_I32, rows[i].a, rows[i].b, 0), rows[i].want);
    if (!rows[i].i32_only)
      ck_assert_int_eq(run_operator(rows[i].op, QN_LK_INDEX, rows[i].a, rows[i].b, 0), rows[i].want);
  }
  // (-1 as 255) * -1 + 2 * 3 + 255 * -128 + 0 * 127, from a sum that wraps.
  ck_assert_int_eq(run_operator(QN_LX_DOT4, QN_LK_I32, INT32_MIN, 0x00ff02ff, 0x7f8003ff),
                   (int32_t)((uint32_t)INT32_MIN + (uint32_t)(-255 + 6 - 255 * 128)));
  // 2 * 3 + -128 * 127 + -1 * -127 + 0 * 17
  ck_assert_int_eq(run_operator(QN_LX_DOT4S, QN_LK_I32, 10, 0x00ff8002, 0x11817f03), 10 + 6 - 128 * 127 + 127);
  // The halves -1 and 32767, to which come 2 * 3 + 255 * -1 and 1 * 1 + 0 * 5: the second wraps.
  ck_assert_int_eq(run_operator(QN_LX_DOT2, QN_LK_I32, 0x7fffffff, 0x0001ff02, 0x0501ff03), (int32_t)0x8000ff06);
}
END_TEST

static int32_t bits_of(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

START_TEST(float_operators) {
  const float nan = NAN;
  const struct {
    qn_lop op;
    float a, b, c;
    int32_t want;
  } rows[] = {
      {QN_LX_ADD, 1.0f, 0x1p-24f, 0, bits_of(1.0f)},
      {QN_LX_SUB, 1.0f, 0.25f, 0, bits_of(0.75f)},
      {QN_LX_MUL, 3.0f, 0.1f, 0, bits_of(3.0f * 0.1f)},
      {QN_LX_DIV, 1.0f, 3.0f, 0, bits_of(1.0f / 3.0f)},
      {QN_LX_DIV, 1.0f, 0.0f, 0, bits_of(INFINITY)},
      {QN_LX_MIN, nan, 2.0f, 0, bits_of(2.0f)},
      {QN_LX_MIN, 2.0f, nan, 0, bits_of(nan)},
      {QN_LX_MIN, 0.0f, -0.0f, 0, bits_of(-0.0f)},
      {QN_LX_MAX, nan, 2.0f, 0, bits_of(2.0f)},
      {QN_LX_MAX, 3.0f, 2.0f, 0, bits_of(3.0f)},
      {QN_LX_NEG, 0.0f, 0, 0, bits_of(-0.0f)},
      {QN_LX_ABS, -2.5f, 0, 0, bits_of(2.5f)},
      {QN_LX_SQRT, 2.0f, 0, 0, bits_of(sqrtf(2.0f))},
      {QN_LX_ROUND, 2.5f, 0, 0, bits_of(2.0f)},
      {QN_LX_ROUND, -3.5f, 0, 0, bits_of(-4.0f)},
      {QN_LX_FMA, 0x1.000002p0f, 0x1.000002p0f, -1.0f, bits_of(fmaf(0x1.000002p0f, 0x1.000002p0f, -1.0f))},
      {QN_LX_LT, 1.0f, 2.0f, 0, 1},
      {QN_LX_LT, nan, 2.0f, 0, 0},
      {QN_LX_LE, 2.0f, 2.0f, 0, 1},
      {QN_LX_EQ, 0.0f, -0.0f, 0, 1},
      {QN_LX_EQ, nan, nan, 0, 0},
      {QN_LX_TO_I32, -7.0f, 0, 0, -7},
      {QN_LX_TO_I32, -0x1p31f, 0, 0, INT32_MIN},
      {QN_LX_AS_I32, 1.0f, 0, 0, 0x3f800000},
  };
  for (size_t i = 0; i < QN_COUNT(rows); i++) {
    int32_t got = run_operator(rows[i].op, QN_LK_F32, bits_of(rows[i].a), bits_of(rows[i].b), bits_of(rows[i].c));
    ck_assert_msg(got == rows[i].want, "row %zu: got 0x%08x, want 0x%08x", i, (unsigned)got, (unsigned)rows[i].want);
  }
  const qn_lop functions[] = {QN_LX_EXP, QN_LX_SIN, QN_LX_COS, QN_LX_TANH, QN_LX_ERF};
  for (size_t i = 0; i < QN_COUNT(functions); i++)
    ck_assert_int_eq(run_operator(functions[i], QN_LK_F32, bits_of(0.7f), 0, 0),
                     bits_of(qn_math_eval(qn_math_fn_of(functions[i]), 0.7f)));
}
END_TEST

// ---- loops and locals -------------------------------------------------------------------------------------------

START_TEST(empty_ranges) {
  int32_t bounds[2] = {5, -3}, y[4] = {0};
  qn_lblock *body = begin_kernel("empty"), *inner;
  qn_lbuf *in = param("bounds", QN_LM_I32, 2, false), *out = param("y", QN_LM_I32, 4, true);
  const qn_lexpr *i, *j;
  inner = loop(body, "i", load_index(in, num(0)), load_index(in, num(1)), QN_LO_DATA, &i);
  store(inner, out, i, qn_li32(&build, 1));
  inner = loop(body, "j", load_index(in, num(1)), num(3), QN_LO_DATA, &j);  // -3 .. 2
  store(inner, out, qn_lop2(&build, QN_LX_MAX, j, num(0)), qn_lop1(&build, QN_LX_TO_I32, j));
  run((qn_linterp_buffer[]){BIND(bounds), BIND(y)});
  const int32_t want[4] = {0, 1, 2, 0};
  ck_assert_mem_eq(y, want, sizeof want);
  end_kernel();
}
END_TEST

START_TEST(shared_nodes_run_once) {
  float x[1] = {1.5f}, y[1];
  qn_lblock *body = begin_kernel("shared");
  qn_lbuf *in = param("x", QN_LM_F32, 1, false), *out = param("y", QN_LM_F32, 1, true);
  const qn_lexpr *e = load(in, num(0));
  for (int i = 0; i < 60; i++) e = qn_lop2(&build, QN_LX_MIN, e, e);  // 2^60 nodes as a tree
  store(body, out, num(0), e);
  ck_assert(!build.failed);
  qn_diag diag = {0};
  qn_assert_ok(&diag, interpret((qn_linterp_buffer[]){BIND(x), BIND(y)}, &diag));
  ck_assert(y[0] == 1.5f);
  end_kernel();
}
END_TEST

START_TEST(prefetch_may_point_anywhere) {
  float x[1] = {2.0f}, y[1];
  qn_lblock *body = begin_kernel("ahead");
  qn_lbuf *in = param("x", QN_LM_F32, 1, false), *out = param("y", QN_LM_F32, 1, true);
  qn_lprefetch(&build, body, in, QN_LM_F32, num(4096), true);
  store(body, out, num(0), load(in, num(0)));
  run((qn_linterp_buffer[]){BIND(x), BIND(y)});
  ck_assert(y[0] == 2.0f);
  end_kernel();
}
END_TEST

// ---- copies -----------------------------------------------------------------------------------------------------

// A kernel that copies bytes [0, 32) of `w` into a local in two groups and then runs `rest`.
static qn_lkernel *copying(const char *rest, qn_arena *texts) {
  static const char head[] =
      "kernel \"copies\" {\n  param w : u8[64]\n  param y : u8[64] out\n  for n in 0..2 data parallel {\n"
      "    local ring : u8[48] shared\n"
      "    for c in 0..1 data lane {\n      copy ring[0 : 16] = w[n*16]\n    }\n    commit\n"
      "    for d in 0..1 data lane {\n      copy ring[16 : 16] = w[n*16 + 16]\n    }\n    commit\n";
  qn_diag diag = {0};
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  char *text = qn_arena_printf(texts, "%s%s\n  }\n}\n", head, rest);
  qn_assert_ok(&diag, qn_lkernels_parse("text", qn_str_from(text), texts, &kernels, &count, &diag));
  qn_assert_ok(&diag, qn_lkernel_verify(kernels[0], &diag));
  return kernels[0];
}

// What the kernel makes of y, or how it fails.
static qn_status run_copies(const char *rest, uint8_t y[64], qn_diag *diag) {
  const int64_t symbols[QN_SYM_COUNT] = {0};
  uint8_t w[64];
  qn_arena texts;
  for (int i = 0; i < 64; i++) w[i] = (uint8_t)(100 + i);
  memset(y, 0, 64);
  qn_arena_init(&texts, qn_test_allocator());
  qn_linterp_buffer buffers[] = {{w, sizeof w}, {y, 64}};
  qn_status status =
      qn_lkernel_interpret(copying(rest, &texts), buffers, symbols, 0, INT64_MAX, qn_test_allocator(), diag);
  qn_arena_deinit(&texts);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
  return status;
}

START_TEST(copies_arrive_when_waited_for) {
  uint8_t y[64];
  qn_diag diag = {0};
  qn_assert_ok(&diag, run_copies("    wait 1\n    y[n*4] = ring[0]\n    wait 0\n    y[n*4 + 1] = ring[31]\n"
                                 "    y.i32[n + 8] = ring.i32[1]",
                                 y, &diag));
  const uint8_t want[8] = {100, 131, 0, 0, 116, 147, 0, 0}, words[8] = {104, 105, 106, 107, 120, 121, 122, 123};
  ck_assert_mem_eq(y, want, sizeof want);
  ck_assert_mem_eq(y + 32, words, sizeof words);
}
END_TEST

START_TEST(copies_that_nobody_waits_for) {
  static const struct {
    const char *rest, *error;
  } cases[] = {
      {"    wait 1\n    y[0] = ring[16]", "reads u8 element 16 of 'ring' while a copy to it is under way"},
      {"    wait 2\n    y[0] = ring[0]", "reads u8 element 0 of 'ring' while a copy to it is under way"},
      {"    wait 0\n    y[0] = ring[32]", "reads u8 element 32 of 'ring' before it was written"},
      {"    wait 1\n    ring[20] = 1i32", "writes to 'ring' while a copy to it is under way"},
      {"    wait 1\n    for e in 0..1 data lane {\n      copy ring[16 : 4] = w[0]\n    }",
       "copies to 'ring' while a copy to it is under way"},
      {"    wait 1", "a copy to 'ring' was not waited for"},
      {"    wait 0\n    for e in 0..1 data lane {\n      copy ring[32 : 4] = w[0]\n    }\n    wait 0",
       "a copy to 'ring' was not waited for"},
      {"    wait 0\n    for e in 0..1 data lane {\n      copy ring[40 : 16] = w[0]\n    }",
       "copies u8 element 55 of 'ring', which holds 48"},
      {"    wait 0\n    for e in 0..1 data lane {\n      copy ring[32 : 16] = w[60]\n    }",
       "copies u8 element 75 of 'w', which holds 64"},
      {"    wait 0\n    for e in 0..1 data lane {\n      copy ring[32 : 8] = w[4]\n    }",
       "copies byte 4 of 'w' to byte 32 of 'ring', want multiples of 8"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    uint8_t y[64];
    qn_diag diag = {0};
    qn_assert_fails(&diag, QN_ERR_INTERNAL, cases[i].error, run_copies(cases[i].rest, y, &diag));
  }
}
END_TEST

// ---- mma --------------------------------------------------------------------------------------------------------

// What all lanes have of A, B and C is what `own` says: (row, word) of A and (column, word) of B as bytes; C's first element
// of each lane comes out. Whole tiles are test_cuda_mma's.
static qn_status run_mma(const char *own, int32_t y[32], qn_diag *diag) {
  const int64_t symbols[QN_SYM_COUNT] = {0};
  qn_lkernel **kernels = NULL;
  size_t count = 0;
  qn_arena texts;
  memset(y, 0, 32 * sizeof *y);
  qn_arena_init(&texts, qn_test_allocator());
  char *text = qn_arena_printf(&texts,
                               "kernel \"tile\" {\n  param y : i32[32] out\n  local c : i32[128] each 4\n"
                               "  local a : i32[64] each 2\n  local b : i32[32] each 1\n  for i in 0..32 data lane {\n%s  }\n"
                               "  mma u8s8k16 c[0] a[0] b[0]\n  for j in 0..32 data lane {\n    y[j] = c[j*4]\n  }\n}\n",
                               own);
  qn_assert_ok(diag, qn_lkernels_parse("text", qn_str_from(text), &texts, &kernels, &count, diag));
  qn_assert_ok(diag, qn_lkernel_verify(kernels[0], diag));
  qn_linterp_buffer buffers[] = {{y, 32 * sizeof *y}};
  qn_status status = qn_lkernel_interpret(kernels[0], buffers, symbols, 0, INT64_MAX, qn_test_allocator(), diag);
  qn_arena_deinit(&texts);
  return status;
}

#define MMA_ROWS "    a[i*2] = i32(i / 4 + 1)\n    a[i*2 + 1] = 255i32\n"
#define MMA_SUMS "    c[i*4] = i32(i)\n    c[i*4 + 1] = 0i32\n    c[i*4 + 2] = 0i32\n    c[i*4 + 3] = 0i32\n"

// Row r of A has r + 1 in the first byte of each of its four words, column n of B has -n: the sum is -4 * (r + 1) * n.
START_TEST(mma_of_bytes) {
  int32_t y[32];
  qn_diag diag = {0};
  qn_assert_ok(&diag, run_mma(MMA_ROWS MMA_SUMS "    b[i] = i32(0 - i / 4)\n", y, &diag));
  for (int lane = 0; lane < 32; lane++) {
    int row = lane / 4, column = lane % 4 * 2;
    // -column as four bytes: all but the first are multiplied by 0.
    ck_assert_int_eq(y[lane], lane - 4 * (row + 1) * column);
  }
}
END_TEST

START_TEST(mma_of_what_was_not_written) {
  int32_t y[32];
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "reads element 0 of 'b' before it was written", run_mma(MMA_ROWS MMA_SUMS, y, &diag));
}
END_TEST

// ---- errors -----------------------------------------------------------------------------------------------------

START_TEST(load_out_of_bounds) {
  float x[10] = {0}, y[10];
  qn_lblock *body = begin_kernel("oob");
  qn_lbuf *in = param("x", QN_LM_F32, 10, false), *out = param("y", QN_LM_F32, 10, true);
  const qn_lexpr *t, *i;
  body = loop(loop(body, "t", num(4), num(6), QN_LO_DATA, &t), "i", num(0), num(10), QN_LO_DATA, &i);
  store(body, out, i, load(in, add(i, num(1))));
  run_fails((qn_linterp_buffer[]){BIND(x), BIND(y)}, "kernel 'oob': in 'y[i] = x[i + 1]' with t = 4, i = 9: ",
            "reads f32 element 10 of 'x', which holds 10 of them (40 bytes), in 'x[i + 1]'");
}
END_TEST

START_TEST(vector_load_out_of_bounds) {
  float x[10] = {0}, y[8];
  qn_lblock *body = begin_kernel("oob");
  qn_lbuf *in = param("x", QN_LM_F32, 10, false), *out = param("y", QN_LM_F32, 8, true);
  store(body, out, num(0), qn_lload(&build, in, QN_LM_F32, num(3), 8));
  run_fails((qn_linterp_buffer[]){BIND(x), BIND(y)}, "in 'y[0 : 8] = x[3 : 8]': ", "reads f32 element 10 of 'x'");
}
END_TEST

START_TEST(gather_below_zero) {
  float x[10] = {0}, y[4];
  qn_lblock *body = begin_kernel("oob");
  qn_lbuf *in = param("x", QN_LM_F32, 10, false), *out = param("y", QN_LM_F32, 4, true);
  const qn_lexpr *at = qn_lop2(&build, QN_LX_SUB, num(2), qn_llane(&build, 4));
  store(body, out, num(0), qn_lload(&build, in, QN_LM_F32, at, 4));
  run_fails((qn_linterp_buffer[]){BIND(x), BIND(y)}, "reads f32 element -1 of 'x'", "kernel 'oob'");
}
END_TEST

START_TEST(store_out_of_bounds) {
  float y[4];
  qn_lblock *body = begin_kernel("oob");
  qn_lbuf *out = param("y", QN_LM_F32, 4, true);
  qn_lstore_lanes(&build, body, out, QN_LM_F16, num(5), qn_lf32(&build, 1.0f), 4);
  run_fails((qn_linterp_buffer[]){BIND(y)}, "writes f16 element 8 of 'y', which holds 8 of them (16 bytes)", "y.f16[5");
}
END_TEST

// Views of other types end where the bytes do, not where the elements would.
START_TEST(last_bytes_are_no_element) {
  uint8_t x[7] = {0};
  int32_t y[1];
  qn_lblock *body = begin_kernel("oob");
  qn_lbuf *in = param("x", QN_LM_U8, 7, false), *out = param("y", QN_LM_I32, 1, true);
  store(body, out, num(0), qn_lload(&build, in, QN_LM_I32, num(1), 1));
  run_fails((qn_linterp_buffer[]){BIND(x), BIND(y)}, "reads i32 element 1 of 'x', which holds 1", "(7 bytes)");
}
END_TEST

START_TEST(index_far_out) {
  uint8_t x[4] = {0};
  int32_t y[2] = {0x7fffffff, 0};
  qn_lblock *body = begin_kernel("oob");
  qn_lbuf *in = param("x", QN_LM_U8, 4, false), *out = param("y", QN_LM_I32, 2, true);
  const qn_lexpr *big = mul(load_index(out, num(0)), num(4294967298));
  store(body, out, num(1), qn_lload(&build, in, QN_LM_U8, big, 4));
  run_fails((qn_linterp_buffer[]){BIND(x), BIND(y)}, "reads u8 element 9223372036854775806 of 'x', which holds 4",
            "kernel 'oob'");
}
END_TEST

START_TEST(local_read_before_written) {
  float y[4];
  qn_lblock *body = begin_kernel("fresh");
  qn_lbuf *out = param("y", QN_LM_F32, 4, true);
  const qn_lexpr *i;
  body = loop(body, "i", num(0), num(4), QN_LO_DATA, &i);
  qn_lbuf *tmp = qn_llocal(&build, body, "tmp", QN_LM_F32, 4);
  store(body, tmp, i, qn_lf32(&build, 1.0f));
  store(body, out, i, load(tmp, num(0)));  // right for i = 0; afterwards the local is fresh again
  run_fails((qn_linterp_buffer[]){BIND(y)}, "with i = 1: reads f32 element 0 of 'tmp' before it was written",
            "in 'tmp[0]'");
}
END_TEST

START_TEST(local_written_in_part) {
  float y[1];
  qn_lblock *body = begin_kernel("part");
  qn_lbuf *out = param("y", QN_LM_F32, 1, true), *tmp = qn_llocal(&build, body, "tmp", QN_LM_F32, 2);
  qn_lstore(&build, body, tmp, QN_LM_F16, num(2), qn_lf32(&build, 1.0f));
  store(body, out, num(0), load(tmp, num(1)));
  run_fails((qn_linterp_buffer[]){BIND(y)}, "reads f32 element 1 of 'tmp' before it was written", "kernel 'part'");
}
END_TEST

START_TEST(byte_above_what_is_declared) {
  float y[1];
  qn_lblock *body = begin_kernel("bounded");
  qn_lbuf *out = param("y", QN_LM_F32, 1, true), *small = qn_llocal(&build, body, "small", QN_LM_I32, 2);
  small->byte_max = 127;
  store(body, small, num(0), qn_li32(&build, 0x7f007f01));
  qn_lstore(&build, body, small, QN_LM_I8, num(7), qn_li32(&build, 127));
  store(body, small, num(1), qn_li32(&build, 0x00800000));
  store(body, out, num(0), qn_lf32(&build, 1.0f));
  run_fails((qn_linterp_buffer[]){BIND(y)}, "stores to 'small' a byte above the 127 that it is declared with",
            "kernel 'bounded'");
}
END_TEST

START_TEST(store_to_a_read_only_parameter) {
  float x[4] = {0};
  qn_lblock *body = begin_kernel("const_store");
  const qn_lexpr *i;
  qn_lbuf *in = param("x", QN_LM_F32, 4, false);
  body = loop(body, "i", num(2), num(4), QN_LO_DATA, &i);
  store(body, in, i, qn_lf32(&build, 1.0f));
  run_fails((qn_linterp_buffer[]){BIND(x)}, "with i = 2: writes to 'x', a read-only parameter", "in 'x[i] = 1.0'");
}
END_TEST

// Runs `op` on two loaded values, which must fail with `text`.
static void operator_fails(qn_lop op, qn_lkind kind, int32_t a, int32_t b, const char *text) {
  int32_t in[2] = {a, b}, out[2] = {0};
  qn_lblock *body = begin_kernel("bad");
  qn_lbuf *from = param("in", kind == QN_LK_F32 ? QN_LM_F32 : QN_LM_I32, 2, false);
  qn_lbuf *to = param("out", QN_LM_I32, 2, true);
  const qn_lexpr *x = kind == QN_LK_INDEX ? load_index(from, num(0)) : load(from, num(0));
  const qn_lexpr *y = kind == QN_LK_INDEX ? load_index(from, num(1)) : load(from, num(1));
  if (kind == QN_LK_INDEX && op == QN_LX_MUL) x = mul(mul(x, x), x);
  int operands = qn_lop_info_of(op)->operands;
  const qn_lexpr *result = operands == 1   ? qn_lop1(&build, op, x)
                           : operands == 2 ? qn_lop2(&build, op, x, y)
                                           : qn_lop3(&build, op, x, x, y);
  if (result->type.kind == QN_LK_INDEX) result = qn_lop1(&build, QN_LX_TO_I32, result);
  store(body, to, num(0), result);
  run_fails((qn_linterp_buffer[]){BIND(in), BIND(out)}, text, "kernel 'bad': in 'out[0] = ");
}

START_TEST(arithmetic_errors) {
  operator_fails(QN_LX_DIV, QN_LK_INDEX, 7, 0, "got the divisor 0, want a positive one");
  operator_fails(QN_LX_MOD, QN_LK_INDEX, 7, -2, "got the divisor -2, want a positive one");
  operator_fails(QN_LX_DIV, QN_LK_I32, 7, -1, "got the divisor -1, want a positive one");
  operator_fails(QN_LX_MOD, QN_LK_I32, 7, 0, "got the divisor 0, want a positive one");
  operator_fails(QN_LX_SHL, QN_LK_I32, 1, 32, "got a shift by 32, want 0 to 31");
  operator_fails(QN_LX_SHR, QN_LK_I32, 1, -1, "got a shift by -1, want 0 to 31");
  operator_fails(QN_LX_DOT4S, QN_LK_I32, 1, 0x00800000, "got a byte -128 as the third operand of dot4s");
  operator_fails(QN_LX_MUL, QN_LK_INDEX, 0x7fffffff, 2, "index overflow of ");
  operator_fails(QN_LX_TO_I32, QN_LK_F32, bits_of(0.5f), 0, "got 0.5, want an integer that i32 holds");
  operator_fails(QN_LX_TO_I32, QN_LK_F32, bits_of(0x1p31f), 0, "got 2.14748365e+09, want");
  operator_fails(QN_LX_TO_I32, QN_LK_F32, bits_of(NAN), 0, "want an integer that i32 holds");
  operator_fails(QN_LX_ADD, QN_LK_INDEX, 0x7fffffff, 1, "got 2147483648, want an integer that i32 holds");
}
END_TEST

// What outer loops decide is computed where they go on, and where an inner one has no iterations not at all.
START_TEST(what_outer_loops_decide) {
  int32_t y[36], want[36];
  const qn_lexpr *i, *j, *k;
  qn_lblock *outer = begin_kernel("outer"), *middle, *inner;
  qn_lbuf *out = param("y", QN_LM_I32, 36, true);
  outer = loop(outer, "i", num(0), num(3), QN_LO_DATA, &i);
  middle = loop(outer, "j", i, num(3), QN_LO_DATA, &j);
  const qn_lexpr *row = qn_lop2(&build, QN_LX_DIV, add(mul(i, num(7)), num(5)), num(2));
  const qn_lexpr *place = add(mul(i, num(12)), mul(j, num(4)));
  store(middle, out, add(place, num(3)), qn_lop1(&build, QN_LX_TO_I32, add(row, j)));
  inner = loop(middle, "k", num(0), num(3), QN_LO_DATA, &k);
  const qn_lexpr *first = qn_lop2(&build, QN_LX_LT, j, num(1));
  const qn_lexpr *value = qn_lop3(&build, QN_LX_SELECT, first, mul(row, num(100)), add(mul(row, num(10)), k));
  store(inner, out, add(place, k), qn_lop1(&build, QN_LX_TO_I32, value));
  for (int n = 0; n < 36; n++) want[n] = y[n] = -1;
  for (int a = 0; a < 3; a++) {
    for (int b = a; b < 3; b++) {
      int r = (a * 7 + 5) / 2;
      for (int c = 0; c < 3; c++) want[a * 12 + b * 4 + c] = b < 1 ? r * 100 : r * 10 + c;
      want[a * 12 + b * 4 + 3] = r + b;
    }
  }
  run((qn_linterp_buffer[]){BIND(y)});
  for (int n = 0; n < 36; n++) ck_assert_int_eq(y[n], want[n]);
  end_kernel();

  const int64_t big = INT64_C(1) << 62;
  qn_diag diag = {0};
  outer = begin_kernel("nothing");
  out = param("y", QN_LM_I32, 36, true);
  const qn_lexpr *none = qn_lsym(&build, QN_SYM_S);  // 0 here, and no divisor
  outer = loop(outer, "i", num(0), num(3), QN_LO_DATA, &i);
  inner = loop(outer, "k", num(0), none, QN_LO_DATA, &k);
  store(inner, out, qn_lop2(&build, QN_LX_DIV, i, none), qn_lop1(&build, QN_LX_TO_I32, mul(add(i, num(1)), num(big))));
  qn_assert_ok(&diag, interpret((qn_linterp_buffer[]){BIND(y)}, &diag));
  end_kernel();

  outer = begin_kernel("early");
  out = param("y", QN_LM_I32, 36, true);
  outer = loop(outer, "i", num(0), num(3), QN_LO_DATA, &i);
  inner = loop(outer, "k", num(0), num(2), QN_LO_DATA, &k);
  const qn_lexpr *at = qn_lop2(&build, QN_LX_MIN, mul(add(i, num(1)), num(big)), qn_lsym(&build, QN_SYM_T));
  store(inner, out, add(at, k), qn_lop1(&build, QN_LX_TO_I32, k));
  run_fails((qn_linterp_buffer[]){BIND(y)}, "' with i = 1: index overflow of 4611686018427387904 and 4611686018427387904, in '", "in 'y[");
}
END_TEST

// What the verifier rejects must not crash the interpreter either.
START_TEST(unverified_kernels) {
  float x[8] = {0};
  const qn_lexpr *i;
  qn_lblock *body = begin_kernel("scope"), *inner;
  qn_lbuf *io = param("x", QN_LM_F32, 8, true);
  loop(body, "i", num(0), num(4), QN_LO_DATA, &i);
  store(body, io, i, qn_lf32(&build, 1.0f));
  run_fails((qn_linterp_buffer[]){BIND(x)}, "the variable 'i' is used outside of its loop", "kernel 'scope'");

  body = begin_kernel("scope");
  io = param("x", QN_LM_F32, 8, true);
  inner = loop(body, "i", num(0), num(4), QN_LO_DATA, &i);
  qn_lbuf *tmp = qn_llocal(&build, inner, "tmp", QN_LM_F32, 1);
  store(body, io, num(0), load(tmp, num(0)));
  run_fails((qn_linterp_buffer[]){BIND(x)}, "the buffer 'tmp' is used outside of its scope", "kernel 'scope'");

  body = begin_kernel("lanes");
  io = param("x", QN_LM_F32, 8, true);
  qn_lstore_lanes(&build, body, io, QN_LM_F32, num(0), qn_lload(&build, io, QN_LM_F32, num(0), 4), 2);
  run_fails((qn_linterp_buffer[]){BIND(x)}, "index and value: got 1 and 4 lanes, want 1 or 2", "kernel 'lanes'");
}
END_TEST

// ---- memory -----------------------------------------------------------------------------------------------------

static qn_status interpret_with(const qn_allocator *allocator, void *context) {
  const int64_t symbols[QN_SYM_COUNT] = {0};
  float x[64] = {0};
  qn_linterp_buffer buffers[] = {BIND(x)};
  (void)context;
  return qn_lkernel_interpret(build.kernel, buffers, symbols, 0, INT64_MAX, allocator, NULL);
}

START_TEST(allocations_may_fail) {
  qn_lblock *body = begin_kernel("memory");
  qn_lbuf *io = param("x", QN_LM_F32, 64, true);
  const qn_lexpr *i;
  for (int repeat = 0; repeat < 40; repeat++) {  // more than one chunk of the arena
    qn_lblock *inner = loop(body, "i", num(0), num(8), QN_LO_DATA, &i);
    qn_lbuf *tmp = qn_llocal(&build, inner, "tmp", QN_LM_F32, 64);
    qn_lstore_lanes(&build, inner, tmp, QN_LM_F32, num(0), qn_lf32(&build, 0.5f), 64);
    const qn_lexpr *v = qn_lload(&build, tmp, QN_LM_F32, num(0), 64);
    store(inner, io, num(0), add(mul(v, v), qn_lload(&build, io, QN_LM_F32, num(0), 64)));
  }
  ck_assert(!build.failed);
  qn_test_failing_allocations(interpret_with, NULL);
  end_kernel();
}
END_TEST

QN_CASE(kernels, saxpy, parallel_loop_runs_its_part, strided_partial_sums, q8_0_dot, matmul)
QN_CASE(vectors, consecutive_lanes_and_broadcast, gather_and_scatter, select_by_lanes, memory_types)
QN_CASE(operators, integer_operators, float_operators)
QN_CASE(loops, empty_ranges, what_outer_loops_decide, shared_nodes_run_once, prefetch_may_point_anywhere)
QN_CASE(copies, copies_arrive_when_waited_for, copies_that_nobody_waits_for)
QN_CASE(mma, mma_of_bytes, mma_of_what_was_not_written)
QN_CASE(errors, load_out_of_bounds, vector_load_out_of_bounds, gather_below_zero, store_out_of_bounds,
        last_bytes_are_no_element, index_far_out, local_read_before_written, local_written_in_part,
        byte_above_what_is_declared, store_to_a_read_only_parameter, arithmetic_errors, unverified_kernels)
QN_CASE(memory, allocations_may_fail)

QN_TEST_MAIN(kernels, vectors, operators, loops, copies, mma, errors, memory)
