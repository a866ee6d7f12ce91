// Float operations that not every target has: 16-bit conversions and fma. Where the hardware lacks them they are
// spelled out in exact integer and double arithmetic, so that every target gives the same bits and none calls libm.
#include "codegen/cpu/emit.h"

static MlirValue int_like(qn_emit *e, MlirValue like, MlirType type, int64_t value) {
  return qn_mlir_int(&e->m, qn_mlir_like(&e->m, type, like), value);
}

static MlirValue f32_of_bits(qn_emit *e, MlirValue bits) {
  return qn_mlir_unary(&e->m, "arith.bitcast", bits, qn_mlir_like(&e->m, e->m.f32, bits));
}

static MlirValue bits_of_f32(qn_emit *e, MlirValue value) {
  return qn_mlir_unary(&e->m, "arith.bitcast", value, qn_mlir_like(&e->m, e->m.i32, value));
}

// Moves the half's exponent and mantissa into place and scales by 2^112, which is exact and makes subnormals normal;
// infinities and NaN get the largest exponent afterwards.
static MlirValue f16_to_f32_by_bits(qn_emit *e, MlirValue bits16) {
  qn_mlir *m = &e->m;
  MlirValue wide = qn_mlir_unary(m, "arith.extui", bits16, qn_mlir_like(m, m->i32, bits16));
  MlirValue sign_bit = qn_mlir_binary(m, "arith.andi", wide, int_like(e, wide, m->i32, 0x8000));
  MlirValue sign = qn_mlir_binary(m, "arith.shli", sign_bit, int_like(e, wide, m->i32, 16));
  MlirValue rest = qn_mlir_binary(m, "arith.andi", wide, int_like(e, wide, m->i32, 0x7FFF));
  MlirValue magnitude = qn_mlir_binary(m, "arith.shli", rest, int_like(e, wide, m->i32, 13));
  MlirValue scale = qn_mlir_float(m, qn_mlir_like(m, m->f32, wide), 0x1p112);
  MlirValue scaled = bits_of_f32(e, qn_mlir_binary(m, "arith.mulf", f32_of_bits(e, magnitude), scale));
  MlirValue special = qn_mlir_cmpi(m, QN_MLIR_UGE, magnitude, int_like(e, wide, m->i32, 31 << 23));
  MlirValue infinite = qn_mlir_binary(m, "arith.ori", scaled, int_like(e, wide, m->i32, 0x7F800000));
  MlirValue value = qn_mlir_select(m, special, infinite, scaled);
  return f32_of_bits(e, qn_mlir_binary(m, "arith.ori", value, sign));
}

MlirValue qn_emit_f16_to_f32(qn_emit *e, MlirValue bits16) {
  if (!e->has.f16_convert) return f16_to_f32_by_bits(e, bits16);
  qn_mlir *m = &e->m;
  MlirValue half = qn_mlir_unary(m, "arith.bitcast", bits16, qn_mlir_like(m, m->f16, bits16));
  return qn_mlir_unary(m, "arith.extf", half, qn_mlir_like(m, m->f32, bits16));
}

// Three ranges by magnitude: too large (infinity or NaN), subnormal halves (an addition rounds at the right bit), and
// the rest (round to nearest even on the bits, whose carry into the exponent is the wanted one).
static MlirValue f32_to_f16_by_bits(qn_emit *e, MlirValue value) {
  qn_mlir *m = &e->m;
  MlirValue bits = bits_of_f32(e, value);
#define K(constant) int_like(e, bits, m->i32, (constant))
  MlirValue sign = qn_mlir_binary(m, "arith.andi", bits, K((int32_t)0x80000000));
  MlirValue magnitude = qn_mlir_binary(m, "arith.xori", bits, sign);
  MlirValue is_nan = qn_mlir_cmpi(m, QN_MLIR_SGT, magnitude, K(0x7F800000));
  MlirValue large = qn_mlir_select(m, is_nan, K(0x7E00), K(0x7C00));
  MlirValue half = qn_mlir_float(m, qn_mlir_like(m, m->f32, bits), 0.5);
  MlirValue sum = bits_of_f32(e, qn_mlir_binary(m, "arith.addf", f32_of_bits(e, magnitude), half));
  MlirValue subnormal = qn_mlir_binary(m, "arith.subi", sum, K(0x3F000000));
  MlirValue odd = qn_mlir_binary(m, "arith.andi", qn_mlir_binary(m, "arith.shrui", magnitude, K(13)), K(1));
  MlirValue rounded = qn_mlir_binary(m, "arith.addi", magnitude, K(((15 - 127) * (1 << 23)) + 0xFFF));
  MlirValue normal = qn_mlir_binary(m, "arith.shrui", qn_mlir_binary(m, "arith.addi", rounded, odd), K(13));
  MlirValue is_small = qn_mlir_cmpi(m, QN_MLIR_SLT, magnitude, K(0x38800000));
  MlirValue is_large = qn_mlir_cmpi(m, QN_MLIR_UGE, magnitude, K(0x47800000));
  MlirValue result = qn_mlir_select(m, is_large, large, qn_mlir_select(m, is_small, subnormal, normal));
  result = qn_mlir_binary(m, "arith.ori", result, qn_mlir_binary(m, "arith.shrui", sign, K(16)));
#undef K
  return qn_mlir_unary(m, "arith.trunci", result, qn_mlir_like(m, m->i16, bits));
}

MlirValue qn_emit_f32_to_f16(qn_emit *e, MlirValue value) {
  if (!e->has.f16_convert) return f32_to_f16_by_bits(e, value);
  qn_mlir *m = &e->m;
  MlirValue half = qn_mlir_unary(m, "arith.truncf", value, qn_mlir_like(m, m->f16, value));
  return qn_mlir_unary(m, "arith.bitcast", half, qn_mlir_like(m, m->i16, value));
}

MlirValue qn_emit_bf16_to_f32(qn_emit *e, MlirValue bits16) {
  qn_mlir *m = &e->m;
  MlirValue wide = qn_mlir_unary(m, "arith.extui", bits16, qn_mlir_like(m, m->i32, bits16));
  return f32_of_bits(e, qn_mlir_binary(m, "arith.shli", wide, int_like(e, wide, m->i32, 16)));
}

// On the bits always: arith.truncf becomes a library call without AVX512_BF16, and with it flushes subnormals.
MlirValue qn_emit_f32_to_bf16(qn_emit *e, MlirValue value) {
  qn_mlir *m = &e->m;
  MlirValue bits = bits_of_f32(e, value);
#define K(constant) int_like(e, bits, m->i32, (constant))
  MlirValue high = qn_mlir_binary(m, "arith.shrui", bits, K(16));
  MlirValue odd = qn_mlir_binary(m, "arith.andi", high, K(1));
  MlirValue bias = qn_mlir_binary(m, "arith.addi", odd, K(0x7FFF));
  MlirValue rounded = qn_mlir_binary(m, "arith.shrui", qn_mlir_binary(m, "arith.addi", bits, bias), K(16));
  MlirValue quiet = qn_mlir_binary(m, "arith.ori", high, K(0x40));
  MlirValue magnitude = qn_mlir_binary(m, "arith.andi", bits, K(0x7FFFFFFF));
  MlirValue is_nan = qn_mlir_cmpi(m, QN_MLIR_SGT, magnitude, K(0x7F800000));
#undef K
  return qn_mlir_unary(m, "arith.trunci", qn_mlir_select(m, is_nan, quiet, rounded), qn_mlir_like(m, m->i16, bits));
}

// fma by doubles: the product is exact, the sum's error is known exactly (Knuth's TwoSum), and the sum is rounded to
// odd with it, after which rounding to f32 gives the correctly rounded result (Boldo and Melquiond 2008, "Emulation
// of FMA and correctly rounded sums: proved algorithms using rounding to odd").
static MlirValue fma_by_doubles(qn_emit *e, MlirValue a, MlirValue b, MlirValue c) {
  qn_mlir *m = &e->m;
  MlirType wide = qn_mlir_like(m, m->f64, a), wide_bits = qn_mlir_like(m, m->i64, a);
  MlirValue p =
      qn_mlir_binary(m, "arith.mulf", qn_mlir_unary(m, "arith.extf", a, wide), qn_mlir_unary(m, "arith.extf", b, wide));
  MlirValue q = qn_mlir_unary(m, "arith.extf", c, wide);
  MlirValue s = qn_mlir_binary(m, "arith.addf", p, q);
  MlirValue q_part = qn_mlir_binary(m, "arith.subf", s, p);
  MlirValue p_part = qn_mlir_binary(m, "arith.subf", s, q_part);
  MlirValue error = qn_mlir_binary(m, "arith.addf", qn_mlir_binary(m, "arith.subf", p, p_part),
                                   qn_mlir_binary(m, "arith.subf", q, q_part));
  MlirValue s_bits = qn_mlir_unary(m, "arith.bitcast", s, wide_bits);
  MlirValue e_bits = qn_mlir_unary(m, "arith.bitcast", error, wide_bits);
  MlirValue one = qn_mlir_int(m, wide_bits, 1), zero = qn_mlir_int(m, wide_bits, 0);
  MlirValue is_even = qn_mlir_cmpi(m, QN_MLIR_EQ, qn_mlir_binary(m, "arith.andi", s_bits, one), zero);
  MlirValue is_inexact = qn_mlir_cmpf(m, QN_MLIR_ONE, error, qn_mlir_float(m, wide, 0.0));
  MlirValue opposite = qn_mlir_cmpi(m, QN_MLIR_SLT, qn_mlir_binary(m, "arith.xori", s_bits, e_bits), zero);
  MlirValue step = qn_mlir_select(m, opposite, qn_mlir_int(m, wide_bits, -1), one);
  MlirValue fixed = qn_mlir_binary(m, "arith.addi", s_bits, step);
  MlirValue odd = qn_mlir_select(m, qn_mlir_binary(m, "arith.andi", is_even, is_inexact), fixed, s_bits);
  return qn_mlir_unary(m, "arith.truncf", qn_mlir_unary(m, "arith.bitcast", odd, wide), qn_mlir_like(m, m->f32, a));
}

MlirValue qn_emit_fma(qn_emit *e, MlirValue a, MlirValue b, MlirValue c) {
  return e->has.fma ? qn_mlir_ternary(&e->m, "math.fma", a, b, c) : fma_by_doubles(e, a, b, c);
}
