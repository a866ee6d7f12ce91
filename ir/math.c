// exp, sin, cos, tanh and erf as tables of primitive operators: no lookups and no branches, so that they vectorise.
// Each program is one list, a line a value. Coefficients are our own: weighted minimax fits by the Remez exchange at
// 120 bits, rounded to f32 from the lowest power up, the rest fitted anew after each rounding. Beside each polynomial
// stands its largest relative error as rounded, in exact arithmetic.
#include "ir/math.h"

#include <assert.h>
#include <math.h>

#include "runtime/base/status.h"

// A program is a macro over three others:
//   C(name, value)              an f32 constant
//   I(name, value)              an i32 constant
//   V(name, OPERATOR, a, b, c)  a value computed from those named a, b, c (absent ones are 0)
// expanded once into names that number the values and once into the table.
// clang-format off

// Adding 1.5 * 2^23 rounds |x| < 2^22 to the nearest integer, ties to even, and leaves that integer in the sum's low
// bits: no conversion, hence no value that a target could convert in its own way.
#define SHIFT 0x1.8p+23f

// e^z = 2^n * e^r with n = round(z / ln 2) and r = z - n ln 2, |r| <= ln 2 / 2, in two steps of which the first is
// exact for |n| < 256 because ln2_hi has 15 bits (Cody & Waite 1980, chapter 6). `power` is e^r.
#define EXP_CORE(C, I, V, z)                                                           \
  C(log2_e, 0x1.715476p+0f)                                                            \
  C(shift, SHIFT)                                                                      \
  V(shifted, FMA, z, log2_e, shift)                                                    \
  V(n, SUB, shifted, shift, 0)                                                         \
  C(minus_ln2_hi, -0x1.62e4p-1f)                                                       \
  C(minus_ln2_lo, -0x1.7f7d1cp-20f) /* ln 2 - ln2_hi */                                \
  V(r_hi, FMA, n, minus_ln2_hi, z)                                                     \
  V(r, FMA, n, minus_ln2_lo, r_hi)                                                     \
  C(one, 1.0f)                                                                         \
  C(e2, 0x1.fffffcp-2f) /* e^r = 1 + r + e2 r^2 + ... + e6 r^6, error 2^-28.1 */       \
  C(e3, 0x1.555494p-3f)                                                                \
  C(e4, 0x1.555886p-5f)                                                                \
  C(e5, 0x1.12386ep-7f)                                                                \
  C(e6, 0x1.6a7baep-10f)                                                               \
  V(e65, FMA, e6, r, e5)                                                               \
  V(e654, FMA, e65, r, e4)                                                             \
  V(e6543, FMA, e654, r, e3)                                                           \
  V(e65432, FMA, e6543, r, e2)                                                         \
  V(slope, FMA, e65432, r, one)                                                        \
  V(power, FMA, slope, r, one)                                                         \
  V(n_low, AS_I32, shifted, 0, 0)                                                      \
  I(mantissa_bits, 23)                                                                 \
  V(n_exponent, SHL, n_low, mantissa_bits, 0) /* n << 23: the bits above n drop out */

// Results below the smallest normal number are 0; above the largest number, infinity. Adding n to the exponent of e^r
// needs no 2^n of its own, which for n = 128 there is none of; it holds for all normal results, others are replaced.
#define EXP_PROGRAM(C, I, V)                                            \
  V(x, VAR, 0, 0, 0)                                                    \
  EXP_CORE(C, I, V, x)                                                  \
  V(power_bits, AS_I32, power, 0, 0)                                    \
  V(scaled_bits, ADD, power_bits, n_exponent, 0)                        \
  V(scaled, AS_F32, scaled_bits, 0, 0)                                  \
  C(lowest, -0x1.5d589ep+6f)  /* the last x with e^x >= 2^-126 */       \
  C(highest, 0x1.62e42ep+6f)  /* the last x with finite e^x */          \
  C(zero, 0.0f)                                                         \
  V(is_normal, LE, lowest, x, 0)                                        \
  V(flushed, SELECT, is_normal, scaled, zero)                           \
  I(infinity_bits, 0x7f800000)                                          \
  V(inf, AS_F32, infinity_bits, 0, 0)                                   \
  V(beyond, MAX, inf, x, 0)   /* infinity, or x where x is NaN */       \
  V(is_finite, LE, x, highest, 0)                                       \
  V(result, SELECT, is_finite, flushed, beyond)

// |x| = n pi/2 + r with n = round(|x| 2/pi) and pi/2 in three parts. With an fma the first step is exact although its
// constant has all 24 bits (Boldo, Daumas & Li 2009, "Formally verified argument reduction with a fused
// multiply-add"). The rounding of 2/pi moves n by up to 0.03 at 2^20, so that |r| <= 0.83. Then sin r and cos r;
// `quadrant` has n in its low bits.
#define SIN_COS_CORE(C, I, V)                                                          \
  V(x, VAR, 0, 0, 0)                                                                   \
  V(a, ABS, x, 0, 0)                                                                   \
  C(two_over_pi, 0x1.45f306p-1f)                                                       \
  C(shift, SHIFT)                                                                      \
  V(shifted, FMA, a, two_over_pi, shift)                                               \
  V(n, SUB, shifted, shift, 0)                                                         \
  C(minus_half_pi_1, -0x1.921fb6p+0f)                                                  \
  C(minus_half_pi_2, 0x1.777a5cp-25f)                                                  \
  C(minus_half_pi_3, 0x1.ee59dap-50f)                                                  \
  V(r_1, FMA, n, minus_half_pi_1, a)                                                   \
  V(r_2, FMA, n, minus_half_pi_2, r_1)                                                 \
  V(r, FMA, n, minus_half_pi_3, r_2)                                                   \
  V(s, MUL, r, r, 0)                                                                   \
  C(s3, -0x1.55554p-3f)  /* sin r = r + r s (s3 + s5 s + s7 s^2), error 2^-27.3 */     \
  C(s5, 0x1.110522p-7f)                                                                \
  C(s7, -0x1.988d94p-13f)                                                              \
  V(s75, FMA, s7, s, s5)                                                               \
  V(s753, FMA, s75, s, s3)                                                             \
  V(r_cubed, MUL, r, s, 0)                                                             \
  V(sin_r, FMA, r_cubed, s753, r)                                                      \
  C(c0, 1.0f)            /* cos r = 1 - s/2 + s^2 (c4 + c6 s + c8 s^2), error 2^-32 */ \
  C(c2, -0.5f)                                                                         \
  C(c4, 0x1.555546p-5f)                                                                \
  C(c6, -0x1.6c09cp-10f)                                                               \
  C(c8, 0x1.993bcep-16f)                                                               \
  V(c86, FMA, c8, s, c6)                                                               \
  V(c864, FMA, c86, s, c4)                                                             \
  V(c8642, FMA, c864, s, c2)                                                           \
  V(cos_r, FMA, c8642, s, c0)                                                          \
  V(quadrant, AS_I32, shifted, 0, 0)                                                   \
  I(bit_0, 1)                                                                          \
  I(bit_1, 2)                                                                          \
  I(to_sign, 30)                                                                       \
  I(zero, 0)                                                                           \
  V(odd_bit, AND, quadrant, bit_0, 0)                                                  \
  V(is_even, EQ, odd_bit, zero, 0)

// Beyond 2^20 = 1,048,576 radians (and for infinities and NaN) the result is the NaN 0x7fc00000 on every machine: a
// loud answer where the reduction would no longer give a right one.
#define SIN_COS_END(C, I, V)                                   \
  C(largest, 0x1p+20f)                                         \
  I(nan_bits, 0x7fc00000)                                      \
  V(no_number, AS_F32, nan_bits, 0, 0)                         \
  V(in_range, LE, a, largest, 0)                               \
  V(result, SELECT, in_range, value, no_number)

// sin is odd: the sign is x's own, flipped in quadrants 2 and 3; sin(-0) is -0.
#define SIN_PROGRAM(C, I, V)                                   \
  SIN_COS_CORE(C, I, V)                                        \
  V(magnitude, SELECT, is_even, sin_r, cos_r)                  \
  V(half_bit, AND, quadrant, bit_1, 0)                         \
  V(flip, SHL, half_bit, to_sign, 0)                           \
  V(x_bits, AS_I32, x, 0, 0)                                   \
  V(a_bits, AS_I32, a, 0, 0)                                   \
  V(x_sign, XOR, x_bits, a_bits, 0)                            \
  V(sign, XOR, flip, x_sign, 0)                                \
  V(magnitude_bits, AS_I32, magnitude, 0, 0)                   \
  V(value_bits, XOR, magnitude_bits, sign, 0)                  \
  V(value, AS_F32, value_bits, 0, 0)                           \
  SIN_COS_END(C, I, V)

// cos is even, and negative in quadrants 1 and 2: those whose successor has bit 1 set.
#define COS_PROGRAM(C, I, V)                                   \
  SIN_COS_CORE(C, I, V)                                        \
  V(magnitude, SELECT, is_even, cos_r, sin_r)                  \
  V(next_quadrant, ADD, quadrant, bit_0, 0)                    \
  V(half_bit, AND, next_quadrant, bit_1, 0)                    \
  V(sign, SHL, half_bit, to_sign, 0)                           \
  V(magnitude_bits, AS_I32, magnitude, 0, 0)                   \
  V(value_bits, XOR, magnitude_bits, sign, 0)                  \
  V(value, AS_F32, value_bits, 0, 0)                           \
  SIN_COS_END(C, I, V)

// e^z for z in [-88, 88] where the core's value is scaled by a 2^n of its own.
#define EXP_SCALED(C, I, V)                                    \
  I(one_bits, 0x3f800000)                                      \
  V(scale_bits, ADD, n_exponent, one_bits, 0)                  \
  V(scale, AS_F32, scale_bits, 0, 0)                           \
  V(exp_z, MUL, power, scale, 0)

// The result has x's sign; NaN gives the same NaN.
#define ODD_END(V)                                             \
  V(x_bits, AS_I32, x, 0, 0)                                   \
  V(a_bits, AS_I32, a, 0, 0)                                   \
  V(x_sign, XOR, x_bits, a_bits, 0)                            \
  V(magnitude_bits, AS_I32, magnitude, 0, 0)                   \
  V(value_bits, OR, magnitude_bits, x_sign, 0)                 \
  V(value, AS_F32, value_bits, 0, 0)                           \
  V(is_number, EQ, x, x, 0)                                    \
  V(result, SELECT, is_number, value, x)

// For |x| < 0.625 an odd polynomial, since 1 - 2 / (e^2|x| + 1) cancels there; from 9.02 on the latter rounds to 1, so
// |x| may be cut at 10 (a NaN, too: MIN gives its second operand). Cephes' tanhf has the same two branches.
#define TANH_PROGRAM(C, I, V)                                                                    \
  V(x, VAR, 0, 0, 0)                                                                             \
  V(a, ABS, x, 0, 0)                                                                             \
  C(saturated, 10.0f)                                                                            \
  V(a_cut, MIN, a, saturated, 0)                                                                 \
  V(z, ADD, a_cut, a_cut, 0)                                                                     \
  EXP_CORE(C, I, V, z)                                                                           \
  EXP_SCALED(C, I, V)                                                                            \
  V(divisor, ADD, exp_z, one, 0)                                                                 \
  C(two, 2.0f)                                                                                   \
  V(rest, DIV, two, divisor, 0)                                                                  \
  V(large, SUB, one, rest, 0)                                                                    \
  V(s, MUL, a_cut, a_cut, 0)                                                                     \
  C(t3, -0x1.555532p-2f)  /* tanh a = a + a s (t3 + t5 s + ... + t11 s^4), error 2^-27.7 */      \
  C(t5, 0x1.1106f6p-3f)                                                                          \
  C(t7, -0x1.b835a4p-5f)                                                                         \
  C(t9, 0x1.51f8cep-6f)                                                                          \
  C(t11, -0x1.750ce2p-8f)                                                                        \
  V(t119, FMA, t11, s, t9)                                                                       \
  V(t1197, FMA, t119, s, t7)                                                                     \
  V(t11975, FMA, t1197, s, t5)                                                                   \
  V(t119753, FMA, t11975, s, t3)                                                                 \
  V(a_cubed, MUL, a_cut, s, 0)                                                                   \
  V(small, FMA, a_cubed, t119753, a_cut)                                                         \
  C(split, 0.625f)                                                                               \
  V(is_small, LT, a, split, 0)                                                                   \
  V(magnitude, SELECT, is_small, small, large)                                                   \
  ODD_END(V)

// For |x| < 0.92 an odd polynomial; above, 1 - e^z with z a polynomial for ln erfc(|x|), whose error counts little
// where erfc is small (the form of N. Juffa's erff). From 3.92 on erf rounds to 1, so |x| may be cut just above.
#define ERF_PROGRAM(C, I, V)                                                                     \
  V(x, VAR, 0, 0, 0)                                                                             \
  V(a, ABS, x, 0, 0)                                                                             \
  C(saturated, 3.93f)                                                                            \
  V(a_cut, MIN, a, saturated, 0)                                                                 \
  C(g0, -0x1.bb65ecp-15f)  /* ln erfc a = g0 + g1 a + ... + g7 a^7, error in erf 2^-29.7 */      \
  C(g1, -0x1.20dce2p+0f)                                                                         \
  C(g2, -0x1.4582acp-1f)                                                                         \
  C(g3, -0x1.b02ae8p-4f)                                                                         \
  C(g4, 0x1.7d0974p-6f)                                                                          \
  C(g5, -0x1.c28ab6p-9f)                                                                         \
  C(g6, 0x1.23526ep-12f)                                                                         \
  C(g7, -0x1.ddd8bcp-18f)                                                                        \
  V(g76, FMA, g7, a_cut, g6)                                                                     \
  V(g765, FMA, g76, a_cut, g5)                                                                   \
  V(g7654, FMA, g765, a_cut, g4)                                                                 \
  V(g76543, FMA, g7654, a_cut, g3)                                                               \
  V(g765432, FMA, g76543, a_cut, g2)                                                             \
  V(g7654321, FMA, g765432, a_cut, g1)                                                           \
  V(z, FMA, g7654321, a_cut, g0)                                                                 \
  EXP_CORE(C, I, V, z)                                                                           \
  EXP_SCALED(C, I, V)                                                                            \
  V(large, SUB, one, exp_z, 0)                                                                   \
  V(s, MUL, a_cut, a_cut, 0)                                                                     \
  C(f1, 0x1.06eba6p-3f)    /* erf a = a + a (f1 + f3 s + ... + f11 s^5), error 2^-25.9 */        \
  C(f3, -0x1.8126eap-2f)                                                                         \
  C(f5, 0x1.ce1b0ep-4f)                                                                          \
  C(f7, -0x1.b6939p-6f)                                                                          \
  C(f9, 0x1.476886p-8f)                                                                          \
  C(f11, -0x1.3ac5bcp-11f)                                                                       \
  V(f119, FMA, f11, s, f9)                                                                       \
  V(f1197, FMA, f119, s, f7)                                                                     \
  V(f11975, FMA, f1197, s, f5)                                                                   \
  V(f119753, FMA, f11975, s, f3)                                                                 \
  V(f1197531, FMA, f119753, s, f1)                                                               \
  V(small, FMA, a_cut, f1197531, a_cut)                                                          \
  C(split, 0.92f)                                                                                \
  V(is_small, LT, a, split, 0)                                                                   \
  V(magnitude, SELECT, is_small, small, large)                                                   \
  ODD_END(V)

// clang-format on

#define NAME_CONSTANT(name, value) name,
#define NAME_VALUE(name, operator, first, second, third) name,
#define ROW_FLOAT(name, value) {QN_LX_FLOAT, 0, 0, 0, value, 0},
#define ROW_INT(name, value) {QN_LX_INT, 0, 0, 0, 0.0f, value},
#define ROW_VALUE(name, operator, first, second, third) {QN_LX_##operator, first, second, third, 0.0f, 0},

#define MAX_VALUES 96

// A function that gives the table; the value names are local to it.
#define TABLE(function, PROGRAM, OPERATOR, max_ulp, lo, hi)                                          \
  static const qn_math_fn *function(void) {                                                          \
    enum { PROGRAM(NAME_CONSTANT, NAME_CONSTANT, NAME_VALUE) value_count };                          \
    static const qn_math_ins code[] = {PROGRAM(ROW_FLOAT, ROW_INT, ROW_VALUE)};                      \
    _Static_assert(value_count <= MAX_VALUES && QN_COUNT(code) == value_count, "program too long");  \
    static const qn_math_fn fn = {QN_LX_##OPERATOR, code, QN_COUNT(code), max_ulp, lo, hi};          \
    return &fn;                                                                                      \
  }

// Errors in units of the last place of the exact result, over every f32 in the range (for exp: of normal result),
// measured against libm in double: exp 0.90, sin 1.67, cos 1.81, tanh 1.37, erf 1.09. The largest absolute error of
// sin and cos is 7.2e-8.
TABLE(exp_fn, EXP_PROGRAM, EXP, 1.0, -0x1.5d589ep+6f, 0x1.62e42ep+6f)
TABLE(sin_fn, SIN_PROGRAM, SIN, 2.0, -0x1p+20f, 0x1p+20f)
TABLE(cos_fn, COS_PROGRAM, COS, 2.0, -0x1p+20f, 0x1p+20f)
TABLE(tanh_fn, TANH_PROGRAM, TANH, 1.5, -INFINITY, INFINITY)
TABLE(erf_fn, ERF_PROGRAM, ERF, 1.25, -INFINITY, INFINITY)

const qn_math_fn *qn_math_fn_of(qn_lop op) {
  switch (op) {
    case QN_LX_EXP: return exp_fn();
    case QN_LX_SIN: return sin_fn();
    case QN_LX_COS: return cos_fn();
    case QN_LX_TANH: return tanh_fn();
    case QN_LX_ERF: return erf_fn();
    default: return NULL;
  }
}

// A value while a program runs; predicates are 0 or 1 in i.
typedef union math_value {
  float f;
  uint32_t u;
  int32_t i;
} math_value;

// One instruction on operands a, b, c; `is_int` says that a is an i32.
static math_value math_step(const qn_math_ins *ins, bool is_int, math_value a, math_value b, math_value c) {
  switch (ins->op) {
    case QN_LX_FLOAT: return (math_value){.f = ins->float_value};
    case QN_LX_INT: return (math_value){.i = ins->int_value};
    case QN_LX_ADD: return is_int ? (math_value){.u = a.u + b.u} : (math_value){.f = a.f + b.f};
    case QN_LX_SUB: return is_int ? (math_value){.u = a.u - b.u} : (math_value){.f = a.f - b.f};
    case QN_LX_MUL: return is_int ? (math_value){.u = a.u * b.u} : (math_value){.f = a.f * b.f};
    case QN_LX_DIV: return (math_value){.f = a.f / b.f};
    case QN_LX_MIN: return (math_value){.f = a.f < b.f ? a.f : b.f};
    case QN_LX_MAX: return (math_value){.f = a.f > b.f ? a.f : b.f};
    case QN_LX_NEG: return (math_value){.u = a.u ^ 0x80000000u};
    case QN_LX_ABS: return (math_value){.u = a.u & 0x7fffffffu};
    case QN_LX_FMA: return (math_value){.f = fmaf(a.f, b.f, c.f)};
    case QN_LX_AND: return (math_value){.u = a.u & b.u};
    case QN_LX_OR: return (math_value){.u = a.u | b.u};
    case QN_LX_XOR: return (math_value){.u = a.u ^ b.u};
    case QN_LX_SHL: return (math_value){.u = a.u << (b.u & 31)};
    case QN_LX_SHR: return (math_value){.u = a.u >> (b.u & 31)};
    case QN_LX_LT: return (math_value){.i = is_int ? a.i < b.i : a.f < b.f};
    case QN_LX_LE: return (math_value){.i = is_int ? a.i <= b.i : a.f <= b.f};
    case QN_LX_EQ: return (math_value){.i = is_int ? a.i == b.i : a.f == b.f};
    case QN_LX_SELECT: return a.i ? b : c;
    case QN_LX_AS_F32:
    case QN_LX_AS_I32: return a;
    default: assert(!"no operator of the math programs"); return a;
  }
}

// Whether an instruction's result is an i32, given whether its operands are.
static bool gives_int(const qn_math_ins *ins, const bool *is_int) {
  switch (ins->op) {
    case QN_LX_INT:
    case QN_LX_AS_I32: return true;
    case QN_LX_VAR:
    case QN_LX_FLOAT:
    case QN_LX_AS_F32: return false;
    case QN_LX_SELECT: return is_int[ins->b];
    default: return is_int[ins->a];
  }
}

float qn_math_eval(const qn_math_fn *fn, float x) {
  math_value values[MAX_VALUES];
  bool is_int[MAX_VALUES];
  values[0] = (math_value){.f = 0};  // what absent operands of the first instruction name
  is_int[0] = false;
  for (size_t i = 0; i < fn->count; i++) {
    const qn_math_ins *ins = &fn->code[i];
    bool a_is_int = is_int[ins->a];
    values[i] = ins->op == QN_LX_VAR ? (math_value){.f = x}
                                     : math_step(ins, a_is_int, values[ins->a], values[ins->b], values[ins->c]);
    is_int[i] = gives_int(ins, is_int);
  }
  return values[fn->count - 1].f;
}
