// exp, sin, cos, tanh and erf of ir/math.c against libm in long double, and as fixed bits.
#include <math.h>

#include "ir/math.h"
#include "tests/support/test.h"

static float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static uint32_t to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float eval(qn_lop op, float x) { return qn_math_eval(qn_math_fn_of(op), x); }

static long double exact(qn_lop op, long double x) {
  switch (op) {
    case QN_LX_EXP: return expl(x);
    case QN_LX_SIN: return sinl(x);
    case QN_LX_COS: return cosl(x);
    case QN_LX_TANH: return tanhl(x);
    default: return erfl(x);
  }
}

// |got - want| in units of the last place that an f32 of want's size has.
static double ulp_error(float got, long double want) {
  int exponent;
  frexpl(want, &exponent);
  int unit = exponent - 24 < -149 ? -149 : exponent - 24;
  return (double)fabsl(ldexpl((long double)got - want, -unit));
}

// The largest error seen, and where.
typedef struct worst {
  qn_lop op;
  double ulp, absolute;
  float at;
} worst;

static void look(worst *w, float x) {
  long double want = exact(w->op, x);
  float got = eval(w->op, x);
  double ulp = ulp_error(got, want), absolute = (double)fabsl((long double)got - want);
  if (absolute > w->absolute) w->absolute = absolute;
  if (ulp <= w->ulp || isnan(w->ulp)) return;  // a NaN is the worst of all
  w->ulp = ulp;
  w->at = x;
}

static void check_worst(const worst *w) {
  double limit = qn_math_fn_of(w->op)->max_ulp_error;
  ck_assert_msg(w->ulp <= limit, "%s(%a) is off by %.3f ulp, want at most %g", qn_lop_info_of(w->op)->text,
                (double)w->at, w->ulp, limit);
}

// Half a million points over the range whose bits are evenly spread (so all exponents have their share), half a million
// whose values are, and the range's ends.
static worst sweep(qn_lop op, float lo, float hi) {
  qn_test_random random = {42};
  worst w = {.op = op};
  look(&w, lo);
  look(&w, hi);
  uint32_t below = to_bits(lo < 0 ? lo : 0.0f), above = to_bits(hi);
  uint64_t negative = lo < 0 ? below - 0x80000000u + 1 : 0, positive = (uint64_t)above + 1;
  for (int i = 0; i < 500000; i++) {
    uint64_t pick = qn_test_random_u64(&random) % (negative + positive);
    look(&w, from_bits(pick < positive ? (uint32_t)pick : 0x80000000u + (uint32_t)(pick - positive)));
    look(&w, (float)(lo + ((double)hi - lo) * qn_test_random_unit(&random)));
  }
  return w;
}

START_TEST(exp_is_close) {
  const qn_math_fn *fn = qn_math_fn_of(QN_LX_EXP);
  worst w = sweep(QN_LX_EXP, fn->range_lo, fn->range_hi);
  check_worst(&w);
}
END_TEST

START_TEST(sin_is_close) {
  worst w = sweep(QN_LX_SIN, -0x1p20f, 0x1p20f);
  check_worst(&w);
  ck_assert_msg(w.absolute < 8e-8, "%g", w.absolute);
  w = sweep(QN_LX_SIN, -8.0f, 8.0f);
  check_worst(&w);
}
END_TEST

START_TEST(cos_is_close) {
  worst w = sweep(QN_LX_COS, -0x1p20f, 0x1p20f);
  check_worst(&w);
  ck_assert_msg(w.absolute < 8e-8, "%g", w.absolute);
  w = sweep(QN_LX_COS, -8.0f, 8.0f);
  check_worst(&w);
}
END_TEST

START_TEST(tanh_is_close) {
  worst w = sweep(QN_LX_TANH, -12.0f, 12.0f);
  check_worst(&w);
}
END_TEST

START_TEST(erf_is_close) {
  worst w = sweep(QN_LX_ERF, -4.5f, 4.5f);
  check_worst(&w);
}
END_TEST

// The floats nearest to multiples of pi/2, where the reduction loses most.
START_TEST(sin_and_cos_near_their_zeros) {
  worst s = {.op = QN_LX_SIN}, c = {.op = QN_LX_COS};
  for (int n = 1; n < 667544; n++) {
    float x = (float)(n * 1.570796326794896619231L);
    look(n % 2 ? &c : &s, x);
    look(n % 2 ? &c : &s, -x);
  }
  check_worst(&s);
  check_worst(&c);
}
END_TEST

START_TEST(exp_special_values) {
  ck_assert_uint_eq(to_bits(eval(QN_LX_EXP, 0.0f)), 0x3f800000);
  ck_assert_uint_eq(to_bits(eval(QN_LX_EXP, -0.0f)), 0x3f800000);
  ck_assert_uint_eq(to_bits(eval(QN_LX_EXP, from_bits(1))), 0x3f800000);
  ck_assert_uint_eq(to_bits(eval(QN_LX_EXP, -INFINITY)), 0);
  ck_assert_uint_eq(to_bits(eval(QN_LX_EXP, INFINITY)), 0x7f800000);
  ck_assert_uint_eq(to_bits(eval(QN_LX_EXP, -3.4e38f)), 0);
  ck_assert_uint_eq(to_bits(eval(QN_LX_EXP, 3.4e38f)), 0x7f800000);
  const qn_math_fn *fn = qn_math_fn_of(QN_LX_EXP);
  float least = eval(QN_LX_EXP, fn->range_lo), most = eval(QN_LX_EXP, fn->range_hi);
  ck_assert_msg(least >= 0x1p-126f && least < 0x1.0001p-126f, "%a", (double)least);
  ck_assert_msg(most > 0x1.fffep127f && isfinite(most), "%a", (double)most);
  for (int i = 1; i < 2000; i++) {  // no result between the ends of the range and what stands beyond them
    ck_assert_uint_eq(to_bits(eval(QN_LX_EXP, from_bits(to_bits(fn->range_lo) + (uint32_t)(i * i)))), 0);
    ck_assert_uint_eq(to_bits(eval(QN_LX_EXP, from_bits(to_bits(fn->range_hi) + (uint32_t)(i * i)))), 0x7f800000);
  }
}
END_TEST

START_TEST(odd_functions_keep_the_sign) {
  const qn_lop ops[] = {QN_LX_SIN, QN_LX_TANH, QN_LX_ERF};
  const float inputs[] = {0.0f, 0x1p-149f, 0x1p-126f, 0x1p-64f, 0x1p-13f, 0.3f, 0.7f, 2.5f, 100.0f};
  for (size_t i = 0; i < QN_COUNT(ops); i++)
    for (size_t j = 0; j < QN_COUNT(inputs); j++) {
      uint32_t plus = to_bits(eval(ops[i], inputs[j])), minus = to_bits(eval(ops[i], -inputs[j]));
      ck_assert_uint_eq(plus ^ 0x80000000u, minus);
    }
  for (size_t j = 0; j < QN_COUNT(inputs); j++)
    ck_assert_uint_eq(to_bits(eval(QN_LX_COS, inputs[j])), to_bits(eval(QN_LX_COS, -inputs[j])));
  ck_assert_uint_eq(to_bits(eval(QN_LX_COS, 0.0f)), 0x3f800000);
  for (size_t i = 0; i < 2; i++)  // tiny arguments are their own sine and tangent
    ck_assert_uint_eq(to_bits(eval(ops[i], 0x1.8p-140f)), to_bits(0x1.8p-140f));
}
END_TEST

START_TEST(saturation) {
  const float inputs[] = {9.02f, 10.0f, 11.0f, 1e3f, 3.4e38f, INFINITY};
  for (size_t i = 0; i < QN_COUNT(inputs); i++) {
    ck_assert(eval(QN_LX_TANH, inputs[i]) == 1.0f && eval(QN_LX_TANH, -inputs[i]) == -1.0f);
    ck_assert(eval(QN_LX_ERF, inputs[i]) == 1.0f && eval(QN_LX_ERF, -inputs[i]) == -1.0f);
  }
  for (int i = 0; i <= 200000; i++) {
    float x = (float)i * 6e-5f;
    ck_assert(eval(QN_LX_TANH, x) <= 1.0f && eval(QN_LX_ERF, x) <= 1.0f);
  }
}
END_TEST

// sin and cos say NaN beyond 2^20, one and the same; the others give the NaN they were given.
START_TEST(not_a_number) {
  const float beyond[] = {0x1.000002p20f, 1e9f, 3.4e38f, INFINITY, NAN, from_bits(0x7fc12345)};
  for (size_t i = 0; i < QN_COUNT(beyond); i++) {
    ck_assert_uint_eq(to_bits(eval(QN_LX_SIN, beyond[i])), 0x7fc00000);
    ck_assert_uint_eq(to_bits(eval(QN_LX_SIN, -beyond[i])), 0x7fc00000);
    ck_assert_uint_eq(to_bits(eval(QN_LX_COS, beyond[i])), 0x7fc00000);
    ck_assert_uint_eq(to_bits(eval(QN_LX_COS, -beyond[i])), 0x7fc00000);
  }
  const qn_lop others[] = {QN_LX_EXP, QN_LX_TANH, QN_LX_ERF};
  const uint32_t nans[] = {0x7fc00000, 0xffc00000, 0x7fc12345, 0xffffffff};
  for (size_t i = 0; i < QN_COUNT(others); i++)
    for (size_t j = 0; j < QN_COUNT(nans); j++)
      ck_assert_uint_eq(to_bits(eval(others[i], from_bits(nans[j]))), nans[j]);
}
END_TEST

// The operands of an instruction come before it, and only primitive operators occur.
START_TEST(programs_are_well_formed) {
  size_t found = 0;
  for (int op = 0; op < QN_LX_COUNT; op++) {
    const qn_math_fn *fn = qn_math_fn_of((qn_lop)op);
    if (!fn) continue;
    found++;
    ck_assert_int_eq(fn->op, op);
    for (size_t i = 0; i < fn->count; i++) {
      const qn_math_ins *ins = &fn->code[i];
      const short operands[3] = {ins->a, ins->b, ins->c};
      ck_assert_ptr_null(qn_math_fn_of(ins->op));
      ck_assert(ins->op != QN_LX_LOAD && ins->op != QN_LX_SYM && ins->op != QN_LX_LANE && ins->op != QN_LX_DOT4);
      int count = ins->op == QN_LX_VAR ? 0 : qn_lop_info_of(ins->op)->operands;
      for (int j = 0; j < count; j++) ck_assert(operands[j] >= 0 && (size_t)operands[j] < i);
    }
  }
  ck_assert_uint_eq(found, 5);
}
END_TEST

// Any change of these bits changes what every model says: it needs a new numeric mode, not a new table.
static const float golden_inputs[] = {
    -87.0f, -20.5f, -5.848640f, -1.0f, -0.1f, -1e-5f, 1e-30f, 0x1p-12f, 0.25f, 0.5f,
    0.63f,  0.8f,   0.93f,      1.0f,  1.7f,  3.0f,   3.5f,   8.75f,    42.0f, 88.5f,
};
static const struct {
  qn_lop op;
  uint32_t bits[QN_COUNT(golden_inputs)];
} golden[] = {
    {QN_LX_EXP,
     {0x00b33687, 0x30abd1d8, 0x3b3cfe72, 0x3ebc5ab2, 0x3f67a36d,
      0x3f7fff58, 0x3f800000, 0x3f800800, 0x3fa45af2, 0x3fd3094c,
      0x3ff0558b, 0x400e6f43, 0x40223566, 0x402df854, 0x40af2a94,
      0x41a0af2e, 0x42047639, 0x45c53581, 0x5dc1192b, 0x7f4cdcc3}},
    {QN_LX_SIN,
     {0x3f5262a7, 0xbf7f303d, 0x3ed78d0e, 0xbf576aa5, 0xbdcc7577,
      0xb727c5ac, 0x0da24260, 0x39800000, 0x3e7d5777, 0x3ef57744,
      0x3f16d231, 0x3f37a4a6, 0x3f4d36f7, 0x3f576aa5, 0x3f7dddbf,
      0x3e1081c3, 0xbeb399dc, 0x3f1fede9, 0xbf6aa128, 0x3f029bd0}},
    {QN_LX_COS,
     {0x3f11db28, 0xbda2f239, 0x3f683530, 0x3f0a5140, 0x3f7eb898,
      0x3f800000, 0x3f800000, 0x3f800000, 0x3f780aa5, 0x3f60a940,
      0x3f4edae4, 0x3f325b5f, 0x3f190ba6, 0x3f0a5140, 0xbe03efd3,
      0xbf7d7026, 0xbf6fbba0, 0xbf47e580, 0xbecccae0, 0x3f5c2d01}},
    {QN_LX_TANH,
     {0xbf800000, 0xbf800000, 0xbf7ffee9, 0xbf42f7d6, 0xbdcc1ebc,
      0xb727c5ac, 0x0da24260, 0x39800000, 0x3e7acbf5, 0x3eec9a9f,
      0x3f0edc82, 0x3f29fe50, 0x3f3b0834, 0x3f42f7d6, 0x3f6f76f8,
      0x3f7ebbe9, 0x3f7f8896, 0x3f7fffff, 0x3f800000, 0x3f800000}},
    {QN_LX_ERF,
     {0xbf800000, 0xbf800000, 0xbf800000, 0xbf57bb3d, 0xbde652f5,
      0xb73d4f84, 0x0db71709, 0x39906eba, 0x3e8d7aa7, 0x3f053f7b,
      0x3f20861e, 0x3f3dfa54, 0x3f4fc2a1, 0x3f57bb3d, 0x3f7bd9b1,
      0x3f7ffe8d, 0x3f7ffff4, 0x3f800000, 0x3f800000, 0x3f800000}},
};

START_TEST(bits_stay) {
  for (size_t i = 0; i < QN_COUNT(golden); i++)
    for (size_t j = 0; j < QN_COUNT(golden_inputs); j++) {
      uint32_t got = to_bits(eval(golden[i].op, golden_inputs[j]));
      ck_assert_msg(got == golden[i].bits[j], "%s(%a): got 0x%08x, want 0x%08x", qn_lop_info_of(golden[i].op)->text,
                    (double)golden_inputs[j], got, golden[i].bits[j]);
    }
}
END_TEST

// Angles of positions deep in a long context.
START_TEST(bits_of_large_angles_stay) {
  static const struct {
    float angle;
    uint32_t sin_bits, cos_bits;
  } rows[] = {
      {1000.0f, 0x3f53ae61, 0x3f0ff813},
      {4095.0f, 0xbf7f7136, 0xbd871e6c},
      {8191.0f, 0xbf435469, 0xbf2579d9},
      {20003.5f, 0xbf548bf1, 0xbf0eb02e},
      {32767.0f, 0x3e4001b8, 0x3f7b759c},
      {65535.0f, 0x3f7b3848, 0x3e44f5d5},
      {100000.0f, 0x3d126d55, 0xbf7fd61c},
      {131071.0f, 0xbf13430a, 0xbf51675e},
      {262143.0f, 0x3f4b0513, 0xbf1bf202},
      {1048576.0f, 0x3ea93666, 0x3f719d6d},
  };
  for (size_t i = 0; i < QN_COUNT(rows); i++) {
    ck_assert_uint_eq(to_bits(eval(QN_LX_SIN, rows[i].angle)), rows[i].sin_bits);
    ck_assert_uint_eq(to_bits(eval(QN_LX_COS, rows[i].angle)), rows[i].cos_bits);
  }
}
END_TEST

QN_CASE(accuracy, exp_is_close, sin_is_close, cos_is_close, tanh_is_close, erf_is_close, sin_and_cos_near_their_zeros)
QN_CASE(special, exp_special_values, odd_functions_keep_the_sign, saturation, not_a_number, programs_are_well_formed)
QN_CASE(bits, bits_stay, bits_of_large_angles_stay)

QN_TEST_MAIN(accuracy, special, bits)
