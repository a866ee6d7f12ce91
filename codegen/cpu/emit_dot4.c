// dot4, four byte products added to an i32 lane, by what the target has: vpdpbusd, vpmaddwd, sdot / usdot, or widening
// multiplications. All are exact, so all give the same bits.
#include "codegen/cpu/emit.h"

enum { MAX_WIDTH = 16 };

typedef MlirValue (*dot4_fn)(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width);

static MlirValue as(qn_emit *e, MlirValue v, MlirType element, int lanes) {
  return qn_mlir_bitcast(&e->m, v, qn_mlir_vector(&e->m, element, lanes));
}

static MlirValue vpdpbusd(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width) {
  const char *name = width == 16  ? "llvm.x86.avx512.vpdpbusd.512"
                     : width == 8 ? "llvm.x86.avx512.vpdpbusd.256"
                                  : "llvm.x86.avx512.vpdpbusd.128";
  MlirValue args[3] = {acc, as(e, b, e->m.i8, 4 * width), as(e, c, e->m.i8, 4 * width)};
  return qn_mlir_intrinsic(&e->m, name, mlirValueGetType(acc), args, 3);
}

static MlirValue pmaddwd(qn_emit *e, MlirValue a16, MlirValue b16, int width) {
  const char *name = width == 16  ? "llvm.x86.avx512.pmaddw.d.512"
                     : width == 8 ? "llvm.x86.avx2.pmadd.wd"
                                  : "llvm.x86.sse2.pmadd.wd";
  return qn_mlir_intrinsic(&e->m, name, qn_mlir_vector(&e->m, e->m.i32, width), (MlirValue[]){a16, b16}, 2);
}

// The even and the odd bytes of b (unsigned) and c (signed) as 16-bit lanes.
typedef struct wide_bytes {
  MlirValue b_even, b_odd, c_even, c_odd;
} wide_bytes;

static wide_bytes widen_bytes(qn_emit *e, MlirValue b, MlirValue c, int width) {
  qn_mlir *m = &e->m;
  MlirType type = qn_mlir_vector(m, m->i16, 2 * width);
  MlirValue b16 = as(e, b, m->i16, 2 * width), c16 = as(e, c, m->i16, 2 * width), eight = qn_mlir_int(m, type, 8);
  wide_bytes out;  // one after another: the order of operations is the same with every compiler
  out.b_even = qn_mlir_binary(m, "arith.andi", b16, qn_mlir_int(m, type, 0xFF));
  out.b_odd = qn_mlir_binary(m, "arith.shrui", b16, eight);
  out.c_even = qn_mlir_binary(m, "arith.shrsi", qn_mlir_binary(m, "arith.shli", c16, eight), eight);
  out.c_odd = qn_mlir_binary(m, "arith.shrsi", c16, eight);
  return out;
}

// Even and odd bytes as 16-bit lanes: vpmaddubsw would saturate with b above 127.
static MlirValue madd16(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width) {
  qn_mlir *m = &e->m;
  wide_bytes x = widen_bytes(e, b, c, width);
  MlirValue even = pmaddwd(e, x.b_even, x.c_even, width), odd = pmaddwd(e, x.b_odd, x.c_odd, width);
  return qn_mlir_binary(m, "arith.addi", acc, qn_mlir_binary(m, "arith.addi", even, odd));
}

static MlirValue pmaddubsw(qn_emit *e, MlirValue b, MlirValue c, int width) {
  qn_mlir *m = &e->m;
  const char *name = width == 16  ? "llvm.x86.avx512.pmaddubs.w.512"
                     : width == 8 ? "llvm.x86.avx2.pmadd.ub.sw"
                                  : "llvm.x86.ssse3.pmadd.ub.sw.128";
  MlirValue args[2] = {as(e, b, m->i8, 4 * width), as(e, c, m->i8, 4 * width)};
  return qn_mlir_intrinsic(m, name, qn_mlir_vector(m, m->i16, 2 * width), args, 2);
}

// With b <= 127 a pair of products is at most 2 * 127 * 128 < 2^15, so vpmaddubsw is exact.
static MlirValue maddubs(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width) {
  qn_mlir *m = &e->m;
  MlirValue ones = qn_mlir_int(m, qn_mlir_vector(m, m->i16, 2 * width), 1);
  return qn_mlir_binary(m, "arith.addi", acc, pmaddwd(e, pmaddubsw(e, b, c, width), ones, width));
}

static MlirValue usdot(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width) {
  MlirValue args[3] = {acc, as(e, b, e->m.i8, 4 * width), as(e, c, e->m.i8, 4 * width)};
  return qn_mlir_intrinsic(&e->m, "llvm.aarch64.neon.usdot", mlirValueGetType(acc), args, 3);
}

static MlirValue sdot_small(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width) {
  MlirValue args[3] = {acc, as(e, b, e->m.i8, 4 * width), as(e, c, e->m.i8, 4 * width)};
  return qn_mlir_intrinsic(&e->m, "llvm.aarch64.neon.sdot", mlirValueGetType(acc), args, 3);
}

// u8(b) = s8(b ^ 0x80) + 128, and 128 * c is minus a product with -128: two signed dot products.
static MlirValue sdot(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width) {
  qn_mlir *m = &e->m;
  MlirType type = mlirValueGetType(b);
  MlirValue top = qn_mlir_int(m, type, (int32_t)0x80808080);
  MlirValue minus_128_c = sdot_small(e, qn_mlir_int(m, type, 0), top, c, width);
  MlirValue start = qn_mlir_binary(m, "arith.subi", acc, minus_128_c);
  return sdot_small(e, start, qn_mlir_binary(m, "arith.xori", b, top), c, width);
}

// The low or the high half of a vector's lanes.
static MlirValue half(qn_emit *e, MlirValue v, bool high) {
  int lanes = qn_mlir_lanes(v) / 2;
  int64_t mask[MAX_WIDTH];
  for (int i = 0; i < lanes; i++) mask[i] = high ? lanes + i : i;
  return qn_mlir_shuffle(&e->m, v, v, mask, lanes);
}

// Products of signed lanes at twice their width: smull of the low halves, smull2 of the high ones.
static MlirValue smull(qn_emit *e, MlirValue a, MlirValue b, MlirType wide, bool high) {
  MlirType type = qn_mlir_vector(&e->m, wide, qn_mlir_lanes(a) / 2);
  MlirValue args[2] = {half(e, a, high), half(e, b, high)};
  return qn_mlir_intrinsic(&e->m, "llvm.aarch64.neon.smull", type, args, 2);
}

// Neighbours of a and then those of b, added.
static MlirValue addp(qn_emit *e, MlirValue a, MlirValue b) {
  return qn_mlir_intrinsic(&e->m, "llvm.aarch64.neon.addp", mlirValueGetType(a), (MlirValue[]){a, b}, 2);
}

// NEON without dotprod: even and odd bytes as 16-bit lanes, whose products add up in 32 bits (smull, smlal).
static MlirValue neon16(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width) {
  qn_mlir *m = &e->m;
  wide_bytes x = widen_bytes(e, b, c, width);
  MlirValue sums[2];
  for (int high = 0; high < 2; high++) {
    MlirValue even = smull(e, x.b_even, x.c_even, m->i32, high);
    sums[high] = qn_mlir_binary(m, "arith.addi", even, smull(e, x.b_odd, x.c_odd, m->i32, high));
  }
  return qn_mlir_binary(m, "arith.addi", acc, addp(e, sums[0], sums[1]));
}

// With b a signed byte, and either b >= -127 or c >= -127, two products fit 16 bits: smull, smull2, addp, sadalp.
static MlirValue neon8(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width) {
  qn_mlir *m = &e->m;
  MlirValue b8 = as(e, b, m->i8, 4 * width), c8 = as(e, c, m->i8, 4 * width);
  MlirValue pairs = addp(e, smull(e, b8, c8, m->i16, false), smull(e, b8, c8, m->i16, true));
  MlirValue sums = qn_mlir_intrinsic(m, "llvm.aarch64.neon.saddlp", mlirValueGetType(acc), &pairs, 1);
  return qn_mlir_binary(m, "arith.addi", acc, sums);
}

// |b| times c with the sign of b: a pair of products is at most 2 * 128 * 127 < 2^15, so vpmaddubsw is exact.
static MlirValue sign_maddubs(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width) {
  qn_mlir *m = &e->m;
  MlirType bytes = qn_mlir_vector(m, m->i8, 4 * width);
  MlirValue b8 = as(e, b, m->i8, 4 * width), c8 = as(e, c, m->i8, 4 * width), signed_c;
  MlirValue magnitude = qn_mlir_unary(m, "math.absi", b8, bytes);
  if (width == 16) {  // AVX-512 has no vpsignb
    MlirValue zero = qn_mlir_int(m, bytes, 0);
    signed_c = qn_mlir_select(m, qn_mlir_cmpi(m, QN_MLIR_SLT, b8, zero), qn_mlir_binary(m, "arith.subi", zero, c8), c8);
  } else {
    const char *name = width == 8 ? "llvm.x86.avx2.psign.b" : "llvm.x86.ssse3.psign.b.128";
    signed_c = qn_mlir_intrinsic(m, name, bytes, (MlirValue[]){c8, b8}, 2);
  }
  return maddubs(e, acc, magnitude, signed_c, width);
}

// Byte `i` of every lane, widened.
static MlirValue byte_of(qn_emit *e, MlirValue v, int i, bool is_signed) {
  qn_mlir *m = &e->m;
  MlirType type = mlirValueGetType(v);
  MlirValue top = i == 3 ? v : qn_mlir_binary(m, "arith.shli", v, qn_mlir_int(m, type, 24 - 8 * i));
  return qn_mlir_binary(m, is_signed ? "arith.shrsi" : "arith.shrui", top, qn_mlir_int(m, type, 24));
}

// Four multiplications a lane, the way any target does it.
static MlirValue dot4_plain(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, bool b_signed) {
  qn_mlir *m = &e->m;
  for (int i = 0; i < 4; i++) {
    MlirValue b_i = byte_of(e, b, i, b_signed), c_i = byte_of(e, c, i, true);
    acc = qn_mlir_binary(m, "arith.addi", acc, qn_mlir_binary(m, "arith.muli", b_i, c_i));
  }
  return acc;
}

// Two sums of 16 bits a lane, the way any target does it: even bytes times even bytes plus odd ones times odd ones.
static MlirValue pairs_plain(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width) {
  qn_mlir *m = &e->m;
  MlirValue acc16 = as(e, acc, m->i16, 2 * width);
  wide_bytes x = widen_bytes(e, b, c, width);
  MlirValue sum = qn_mlir_binary(m, "arith.addi", acc16, qn_mlir_binary(m, "arith.muli", x.b_even, x.c_even));
  return as(e, qn_mlir_binary(m, "arith.addi", sum, qn_mlir_binary(m, "arith.muli", x.b_odd, x.c_odd)), m->i32, width);
}

static MlirValue pairs_maddubs(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width) {
  qn_mlir *m = &e->m;
  MlirValue sum = qn_mlir_binary(m, "arith.addi", as(e, acc, m->i16, 2 * width), pmaddubsw(e, b, c, width));
  return as(e, sum, m->i32, width);
}

static MlirValue fold_plain(qn_emit *e, MlirValue sums) {
  qn_mlir *m = &e->m;
  MlirValue sixteen = qn_mlir_int(m, mlirValueGetType(sums), 16);
  MlirValue low = qn_mlir_binary(m, "arith.shrsi", qn_mlir_binary(m, "arith.shli", sums, sixteen), sixteen);
  return qn_mlir_binary(m, "arith.addi", low, qn_mlir_binary(m, "arith.shrsi", sums, sixteen));
}

static MlirValue fold_pmaddwd(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, int width) {
  (void)b, (void)c;
  return pmaddwd(e, as(e, acc, e->m.i16, 2 * width), qn_mlir_int(&e->m, qn_mlir_vector(&e->m, e->m.i16, 2 * width), 1),
                 width);
}

// Lanes [first, first + width) of v; beyond the end the last lane again.
static MlirValue take(qn_emit *e, MlirValue v, int first, int width) {
  int lanes = qn_mlir_lanes(v);
  if (lanes == width) return v;
  if (lanes == 1) return qn_mlir_broadcast(&e->m, v, width);
  int64_t mask[MAX_WIDTH];
  for (int i = 0; i < width; i++) mask[i] = first + i < lanes ? first + i : lanes - 1;
  return qn_mlir_shuffle(&e->m, v, v, mask, width);
}

// `whole` with lanes [first, first + width) replaced by those of `part`, as far as whole has them.
static MlirValue put(qn_emit *e, MlirValue whole, MlirValue part, int first) {
  int lanes = qn_mlir_lanes(whole), width = qn_mlir_lanes(part);
  int64_t widen[64], blend[64];
  for (int i = 0; i < lanes; i++) {
    bool inside = i >= first && i < first + width;
    widen[i] = inside ? i - first : 0;
    blend[i] = inside ? lanes + i : i;
  }
  MlirValue wide = qn_mlir_shuffle(&e->m, part, part, widen, lanes);
  return qn_mlir_shuffle(&e->m, whole, wide, blend, lanes);
}

// Applies an instruction of up to max_width lanes to values of any number of lanes.
static MlirValue in_pieces(qn_emit *e, dot4_fn fn, MlirValue acc, MlirValue b, MlirValue c, int max_width) {
  int lanes = qn_mlir_lanes(acc), width = max_width;
  while (width > 4 && width > lanes) width /= 2;
  if (lanes == width) return fn(e, acc, b, c, width);
  MlirValue result = acc;
  for (int first = 0; first < lanes; first += width) {
    MlirValue piece = fn(e, take(e, acc, first, width), take(e, b, first, width), take(e, c, first, width), width);
    if (lanes == 1) return qn_mlir_extract(&e->m, piece, 0);
    result = put(e, result, piece, first);
  }
  return result;
}

MlirValue qn_emit_dot4(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, bool small_b) {
  int width = e->target->vector_bytes / 4;
  if (width > MAX_WIDTH) width = MAX_WIDTH;
  switch (e->target->dot4) {
    case QN_DOT4_VPDPBUSD512: return in_pieces(e, vpdpbusd, acc, b, c, width);
    case QN_DOT4_VPDPBUSD256: return in_pieces(e, vpdpbusd, acc, b, c, width > 8 ? 8 : width);
    case QN_DOT4_MADD16: return in_pieces(e, small_b ? maddubs : madd16, acc, b, c, width);
    case QN_DOT4_PLAIN: return dot4_plain(e, acc, b, c, false);
    case QN_DOT4_AARCH64: break;
  }
  if (e->has.i8mm) return in_pieces(e, usdot, acc, b, c, 4);
  if (e->has.dotprod) return in_pieces(e, small_b ? sdot_small : sdot, acc, b, c, 4);
  return in_pieces(e, small_b ? neon8 : neon16, acc, b, c, 4);
}

// s8(b) = u8(b ^ 0x80) - 128, and 128 * c is a product with the byte 128.
static MlirValue signed_by_unsigned(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c) {
  qn_mlir *m = &e->m;
  MlirType type = mlirValueGetType(b);
  MlirValue top = qn_mlir_int(m, type, (int32_t)0x80808080);
  MlirValue bias = qn_emit_dot4(e, qn_mlir_int(m, type, 0), top, c, false);
  return qn_emit_dot4(e, qn_mlir_binary(m, "arith.subi", acc, bias), qn_mlir_binary(m, "arith.xori", b, top), c, false);
}

MlirValue qn_emit_dot4s(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c) {
  if (e->target->dot4 == QN_DOT4_PLAIN) return dot4_plain(e, acc, b, c, true);
  if (e->has.dotprod) return in_pieces(e, sdot_small, acc, b, c, 4);
  if (e->target->arch == QN_ARCH_AARCH64) return in_pieces(e, neon8, acc, b, c, 4);
  if (e->target->dot4 != QN_DOT4_MADD16) return signed_by_unsigned(e, acc, b, c);
  return in_pieces(e, sign_maddubs, acc, b, c, e->target->vector_bytes / 4);
}

MlirValue qn_emit_dot2(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c) {
  bool x86 = e->target->arch == QN_ARCH_X86_64;
  int width = e->target->vector_bytes / 4;
  return in_pieces(e, x86 ? pairs_maddubs : pairs_plain, acc, b, c, width < 4 ? 4 : width);
}

MlirValue qn_emit_fold2(qn_emit *e, MlirValue sums) {
  if (e->target->arch != QN_ARCH_X86_64) return fold_plain(e, sums);
  return in_pieces(e, fold_pmaddwd, sums, sums, sums, e->target->vector_bytes / 4);
}
