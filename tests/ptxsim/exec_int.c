// Integer arithmetic and bits. Everything wraps, so signed sums are made on unsigned numbers.
#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/form.h"

#define EACH_INT(X)                                                                                          \
  X(u16, uint16_t, uint16_t, uint32_t)                                                                       \
  X(s16, int16_t, uint16_t, int32_t) X(u32, uint32_t, uint32_t, uint64_t) X(s32, int32_t, uint32_t, int64_t) \
      X(u64, uint64_t, uint64_t, unsigned __int128) X(s64, int64_t, uint64_t, __int128)
#define INT_TABLE(name)                                                                                              \
  [PS_u16] = name##_u16, [PS_s16] = name##_s16, [PS_u32] = name##_u32, [PS_s32] = name##_s32, [PS_u64] = name##_u64, \
  [PS_s64] = name##_s64

// T the type, U the unsigned one of its width, W one of twice the width.
#define BITS(T) (unsigned)(sizeof(T) * 8)
#define DEFINE(t, T, U, W)                                                                \
  PS_BINARY(add_##t, U, U, U, (U)(a + b))                                                 \
  PS_BINARY(sub_##t, U, U, U, (U)(a - b))                                                 \
  PS_BINARY(mul_lo_##t, U, U, U, (U)((uint64_t)a * b))                                    \
  PS_BINARY(mul_hi_##t, T, T, T, (T)(((W)a * (W)b) >> BITS(T)))                           \
  PS_TERNARY(mad_lo_##t, U, U, U, U, (U)((uint64_t)a * b + c))                            \
  PS_TERNARY(mad_hi_##t, U, T, T, U, (U)((U)(((W)a * (W)b) >> BITS(T)) + c))              \
  PS_TERNARY(sad_##t, U, T, T, U, (U)((a > b ? (U)((U)a - (U)b) : (U)((U)b - (U)a)) + c)) \
  PS_BINARY(min_##t, T, T, T, a < b ? a : b)                                              \
  PS_BINARY(max_##t, T, T, T, a > b ? a : b)
EACH_INT(DEFINE)
#undef DEFINE

#define DIVISION(t, T, U)                                      \
  PS_BINARY(div_##t, T, T, T, b == 0 ? (T) ~(U)0 : (T)(a / b)) \
  PS_BINARY(rem_##t, T, T, T, b == 0 ? a : (T)(a % b))
DIVISION(u16, uint16_t, uint16_t)
DIVISION(u32, uint32_t, uint32_t)
DIVISION(u64, uint64_t, uint64_t)
// By -1 is a negation: the smallest number has no counterpart.
#define SIGNED_DIVISION(t, T, U)                                                            \
  PS_BINARY(div_##t, T, T, T, b == 0 ? (T) ~(U)0 : b == -1 ? (T)((U)0 - (U)a) : (T)(a / b)) \
  PS_BINARY(rem_##t, T, T, T, b == 0 ? a : b == -1 ? (T)0 : (T)(a % b))
SIGNED_DIVISION(s16, int16_t, uint16_t)
SIGNED_DIVISION(s32, int32_t, uint32_t)
SIGNED_DIVISION(s64, int64_t, uint64_t)

#define WIDE(t, T, TD)                                   \
  PS_BINARY(mul_wide_##t, TD, T, T, (TD)((TD)a * (TD)b)) \
  PS_TERNARY(mad_wide_##t, TD, T, T, TD, (TD)((TD)((TD)a * (TD)b) + c))
WIDE(u16, uint16_t, uint32_t)
WIDE(u32, uint32_t, uint64_t)
PS_BINARY(mul_wide_s16, uint32_t, int16_t, int16_t, (uint32_t)((int32_t)a *(int32_t)b))
PS_BINARY(mul_wide_s32, uint64_t, int32_t, int32_t, (uint64_t)((int64_t)a *(int64_t)b))
PS_TERNARY(mad_wide_s16, uint32_t, int16_t, int16_t, uint32_t, (uint32_t)((int32_t)a *(int32_t)b) + c)
PS_TERNARY(mad_wide_s32, uint64_t, int32_t, int32_t, uint64_t, (uint64_t)((int64_t)a *(int64_t)b) + c)

PS_SELECT_BY_TYPE(sub, INT_TABLE(sub))
PS_SELECT_BY_TYPE(mul_lo, INT_TABLE(mul_lo))
PS_SELECT_BY_TYPE(mul_hi, INT_TABLE(mul_hi))
PS_SELECT_BY_TYPE(mad_lo, INT_TABLE(mad_lo))
PS_SELECT_BY_TYPE(mad_hi, INT_TABLE(mad_hi))
PS_SELECT_BY_TYPE(sad, INT_TABLE(sad))
PS_SELECT_BY_TYPE(div, INT_TABLE(div))
PS_SELECT_BY_TYPE(rem, INT_TABLE(rem))
PS_SELECT_BY_TYPE(
    mul_wide, [PS_u16] = mul_wide_u16, [PS_s16] = mul_wide_s16, [PS_u32] = mul_wide_u32, [PS_s32] = mul_wide_s32)
PS_SELECT_BY_TYPE(
    mad_wide, [PS_u16] = mad_wide_u16, [PS_s16] = mad_wide_s16, [PS_u32] = mad_wide_u32, [PS_s32] = mad_wide_s32)

static int32_t sat_s32(int64_t v) { return v > INT32_MAX ? INT32_MAX : v < INT32_MIN ? INT32_MIN : (int32_t)v; }
PS_BINARY(add_sat_s32, int32_t, int32_t, int32_t, sat_s32((int64_t)a + b))
PS_BINARY(sub_sat_s32, int32_t, int32_t, int32_t, sat_s32((int64_t)a - b))
PS_SELECT_BY_TYPE(add_sat, [PS_s32] = add_sat_s32)
PS_SELECT_BY_TYPE(sub_sat, [PS_s32] = sub_sat_s32)

#define SIGN24(v) ((int32_t)((uint32_t)(v) << 8) >> 8)
PS_BINARY(mul24_u32, uint32_t, uint32_t, uint32_t, (a & 0xffffffu) * (b & 0xffffffu))
PS_BINARY(mul24_s32, uint32_t, uint32_t, uint32_t, (uint32_t)((int64_t)SIGN24(a) * SIGN24(b)))
PS_SELECT_BY_TYPE(mul24, [PS_u32] = mul24_u32, [PS_s32] = mul24_s32)

#define SIGNED_OPS(t, T, U)                                \
  PS_UNARY(abs_##t, U, T, a < 0 ? (U)((U)0 - (U)a) : (U)a) \
  PS_UNARY(neg_##t, U, U, (U)((U)0 - a))
SIGNED_OPS(s16, int16_t, uint16_t)
SIGNED_OPS(s32, int32_t, uint32_t)
SIGNED_OPS(s64, int64_t, uint64_t)
PS_SELECT_BY_TYPE(abs, [PS_s16] = abs_s16, [PS_s32] = abs_s32, [PS_s64] = abs_s64)
PS_SELECT_BY_TYPE(neg, [PS_s16] = neg_s16, [PS_s32] = neg_s32, [PS_s64] = neg_s64)

// Two numbers of 16 bits in a register.
#define PAIR(lo, hi) ((uint32_t)(uint16_t)(lo) | (uint32_t)(uint16_t)(hi) << 16)
#define S_LO(v)      ((int16_t)(v))
#define S_HI(v)      ((int16_t)((v) >> 16))
#define U_LO(v)      ((uint16_t)(v))
#define U_HI(v)      ((uint16_t)((v) >> 16))
#define LESS(a, b)   ((a) < (b) ? (a) : (b))
#define MORE(a, b)   ((a) > (b) ? (a) : (b))
PS_BINARY(add_x2, uint32_t, uint32_t, uint32_t, PAIR(a + b, (a >> 16) + (b >> 16)))
PS_BINARY(min_u16x2, uint32_t, uint32_t, uint32_t, PAIR(LESS(U_LO(a), U_LO(b)), LESS(U_HI(a), U_HI(b))))
PS_BINARY(max_u16x2, uint32_t, uint32_t, uint32_t, PAIR(MORE(U_LO(a), U_LO(b)), MORE(U_HI(a), U_HI(b))))
PS_BINARY(min_s16x2, uint32_t, uint32_t, uint32_t, PAIR(LESS(S_LO(a), S_LO(b)), LESS(S_HI(a), S_HI(b))))
PS_BINARY(max_s16x2, uint32_t, uint32_t, uint32_t, PAIR(MORE(S_LO(a), S_LO(b)), MORE(S_HI(a), S_HI(b))))
PS_BINARY(min_relu_s16x2, uint32_t, uint32_t, uint32_t,
          PAIR(MORE(LESS(S_LO(a), S_LO(b)), 0), MORE(LESS(S_HI(a), S_HI(b)), 0)))
PS_BINARY(max_relu_s16x2, uint32_t, uint32_t, uint32_t,
          PAIR(MORE(MORE(S_LO(a), S_LO(b)), 0), MORE(MORE(S_HI(a), S_HI(b)), 0)))
PS_BINARY(min_relu_s32, int32_t, int32_t, int32_t, MORE(LESS(a, b), 0))
PS_BINARY(max_relu_s32, int32_t, int32_t, int32_t, MORE(MORE(a, b), 0))
PS_SELECT_BY_TYPE(add, INT_TABLE(add), [PS_u16x2] = add_x2, [PS_s16x2] = add_x2)
PS_SELECT_BY_TYPE(min, INT_TABLE(min), [PS_u16x2] = min_u16x2, [PS_s16x2] = min_s16x2)
PS_SELECT_BY_TYPE(max, INT_TABLE(max), [PS_u16x2] = max_u16x2, [PS_s16x2] = max_s16x2)
PS_SELECT_BY_TYPE(min_relu, [PS_s32] = min_relu_s32, [PS_s16x2] = min_relu_s16x2)
PS_SELECT_BY_TYPE(max_relu, [PS_s32] = max_relu_s32, [PS_s16x2] = max_relu_s16x2)

// ---- counting bits ----

PS_UNARY(popc_b32, uint32_t, uint32_t, (uint32_t)__builtin_popcount(a))
PS_UNARY(popc_b64, uint32_t, uint64_t, (uint32_t)__builtin_popcountll(a))
PS_SELECT_BY_TYPE(popc, [PS_b32] = popc_b32, [PS_b64] = popc_b64)
PS_UNARY(clz_b32, uint32_t, uint32_t, a == 0 ? 32u : (uint32_t)__builtin_clz(a))
PS_UNARY(clz_b64, uint32_t, uint64_t, a == 0 ? 64u : (uint32_t)__builtin_clzll(a))
PS_SELECT_BY_TYPE(clz, [PS_b32] = clz_b32, [PS_b64] = clz_b64)

static uint32_t top_bit(uint64_t v) { return v == 0 ? UINT32_MAX : 63u - (uint32_t)__builtin_clzll(v); }
static uint32_t top_shift(uint64_t v, uint32_t last) { return v == 0 ? UINT32_MAX : last - top_bit(v); }
#define NO_SIGN(a) (uint64_t)((a) < 0 ? ~(a) : (a))
PS_UNARY(bfind_u32, uint32_t, uint32_t, top_bit(a))
PS_UNARY(bfind_s32, uint32_t, int32_t, top_bit(NO_SIGN(a)))
PS_UNARY(bfind_u64, uint32_t, uint64_t, top_bit(a))
PS_UNARY(bfind_s64, uint32_t, int64_t, top_bit(NO_SIGN(a)))
PS_SELECT_BY_TYPE(bfind, [PS_u32] = bfind_u32, [PS_s32] = bfind_s32, [PS_u64] = bfind_u64, [PS_s64] = bfind_s64)
PS_UNARY(bfind_shift_u32, uint32_t, uint32_t, top_shift(a, 31))
PS_UNARY(bfind_shift_s32, uint32_t, int32_t, top_shift(NO_SIGN(a), 31))
PS_UNARY(bfind_shift_u64, uint32_t, uint64_t, top_shift(a, 63))
PS_UNARY(bfind_shift_s64, uint32_t, int64_t, top_shift(NO_SIGN(a), 63))
PS_SELECT_BY_TYPE(bfind_shift, [PS_u32] = bfind_shift_u32, [PS_s32] = bfind_shift_s32, [PS_u64] = bfind_shift_u64,
                  [PS_s64] = bfind_shift_s64)

// The PTX document's own loop: the n-th bit that is set from `base` on, upwards for n > 0 and downwards for n < 0.
static uint32_t find_nth_set(uint32_t mask, uint32_t base, int32_t offset) {
  if (offset == 0) return base < 32 && (mask >> base & 1) != 0 ? base : UINT32_MAX;
  int32_t step = offset > 0 ? 1 : -1, left = offset > 0 ? offset : -offset;
  for (int64_t at = base; at >= 0 && at < 32; at += step) {
    if ((mask >> at & 1) != 0 && --left == 0) return (uint32_t)at;
  }
  return UINT32_MAX;
}
PS_TERNARY(fns_b32, uint32_t, uint32_t, uint32_t, int32_t, find_nth_set(a, b, c))
PS_SELECT_BY_TYPE(fns, [PS_b32] = fns_b32)

static uint32_t reverse32(uint32_t v) {
  v = (v >> 1 & 0x55555555u) | (v & 0x55555555u) << 1;
  v = (v >> 2 & 0x33333333u) | (v & 0x33333333u) << 2;
  v = (v >> 4 & 0x0f0f0f0fu) | (v & 0x0f0f0f0fu) << 4;
  return __builtin_bswap32(v);
}
PS_UNARY(brev_b32, uint32_t, uint32_t, reverse32(a))
PS_UNARY(brev_b64, uint64_t, uint64_t, (uint64_t)reverse32((uint32_t)a) << 32 | reverse32((uint32_t)(a >> 32)))
PS_SELECT_BY_TYPE(brev, [PS_b32] = brev_b32, [PS_b64] = brev_b64)

// ---- fields ----

// Bits [at, at + length) of v, extended; what lies above the width is the sign, or 0.
static uint64_t extract(uint64_t v, uint32_t at, uint32_t length, uint32_t width, bool is_signed) {
  at &= 255;
  length &= 255;
  if (length == 0) return 0;
  uint64_t last = (uint64_t)at + length - 1;
  bool sign = is_signed && (v >> (last < width - 1 ? last : width - 1) & 1) != 0;
  uint64_t field = at < width ? v >> at : 0;
  uint64_t keep = at >= width ? 0 : length < width - at ? length : width - at;
  uint64_t mask = keep >= 64 ? UINT64_MAX : (1ull << keep) - 1;
  return (field & mask) | (sign ? ~mask : 0);
}
PS_TERNARY(bfe_u32, uint32_t, uint32_t, uint32_t, uint32_t, (uint32_t)extract(a, b, c, 32, false))
PS_TERNARY(bfe_s32, uint32_t, uint32_t, uint32_t, uint32_t, (uint32_t)extract(a, b, c, 32, true))
PS_TERNARY(bfe_u64, uint64_t, uint64_t, uint32_t, uint32_t, extract(a, b, c, 64, false))
PS_TERNARY(bfe_s64, uint64_t, uint64_t, uint32_t, uint32_t, extract(a, b, c, 64, true))
PS_SELECT_BY_TYPE(bfe, [PS_u32] = bfe_u32, [PS_s32] = bfe_s32, [PS_u64] = bfe_u64, [PS_s64] = bfe_s64)

static uint64_t insert(uint64_t a, uint64_t b, uint32_t at, uint32_t length, uint32_t width) {
  at &= 255;
  length &= 255;
  if (at >= width || length == 0) return b;
  uint32_t n = length < width - at ? length : width - at;
  uint64_t mask = (n >= 64 ? UINT64_MAX : (1ull << n) - 1) << at;
  return (b & ~mask) | (a << at & mask);
}
#define BFI(t, T, width)                                        \
  static void bfi_##t(ps_warp *w, const ps_insn *i) {           \
    T *d = ps_dst(w, i, 0);                                     \
    const T *a = ps_src(w, i, 0), *b = ps_src(w, i, 1);         \
    const uint32_t *at = ps_src(w, i, 2), *n = ps_src(w, i, 3); \
    PS_ASSIGN(T, d, insert(a[l], b[l], at[l], n[l], width));    \
  }
BFI(b32, uint32_t, 32)
BFI(b64, uint64_t, 64)
PS_SELECT_BY_TYPE(bfi, [PS_b32] = bfi_b32, [PS_b64] = bfi_b64)

static uint32_t bit_mask(uint32_t at, uint32_t n, bool wrap) {
  if (wrap) {
    at &= 31;
    n &= 31;
  }
  if (at >= 32 || n == 0) return 0;
  return (n >= 32 ? UINT32_MAX : (1u << n) - 1) << at;
}
PS_BINARY(bmsk_clamp, uint32_t, uint32_t, uint32_t, bit_mask(a, b, false))
PS_BINARY(bmsk_wrap, uint32_t, uint32_t, uint32_t, bit_mask(a, b, true))
ps_fn ps_select_bmsk(ps_form *f) { return ps_has(f, PS_MOD_wrap) ? bmsk_wrap : bmsk_clamp; }

static uint32_t extend(uint32_t a, uint32_t n, bool wrap, bool is_signed) {
  if (wrap) n &= 31;
  return n >= 32 ? a : (uint32_t)extract(a, 0, n, 32, is_signed);
}
PS_BINARY(szext_clamp_u32, uint32_t, uint32_t, uint32_t, extend(a, b, false, false))
PS_BINARY(szext_clamp_s32, uint32_t, uint32_t, uint32_t, extend(a, b, false, true))
PS_BINARY(szext_wrap_u32, uint32_t, uint32_t, uint32_t, extend(a, b, true, false))
PS_BINARY(szext_wrap_s32, uint32_t, uint32_t, uint32_t, extend(a, b, true, true))
ps_fn ps_select_szext(ps_form *f) {
  bool is_signed = f->type[0] == PS_s32;
  if (ps_has(f, PS_MOD_wrap)) return is_signed ? szext_wrap_s32 : szext_wrap_u32;
  return is_signed ? szext_clamp_s32 : szext_clamp_u32;
}

// ---- logic and shifts ----

#define LOGIC(t, T)                                                                    \
  PS_BINARY(and_##t, T, T, T, a &b)                                                    \
  PS_BINARY(or_##t, T, T, T, a | b)                                                    \
  PS_BINARY(xor_##t, T, T, T, a ^ b)                                                   \
  PS_UNARY(not_##t, T, T, (T)~a)                                                       \
  PS_UNARY(cnot_##t, T, T, a == 0)                                                     \
  PS_BINARY(shl_##t, T, T, uint32_t, b >= BITS(T) ? 0 : (T)(a << (b & (BITS(T) - 1)))) \
  PS_BINARY(shr_##t, T, T, uint32_t, b >= BITS(T) ? 0 : (T)(a >> (b & (BITS(T) - 1))))
LOGIC(b16, uint16_t)
LOGIC(b32, uint32_t)
LOGIC(b64, uint64_t)
#define ARITHMETIC_SHIFT(t, T) PS_BINARY(shr_##t, T, T, uint32_t, (T)(a >> (b >= BITS(T) ? BITS(T) - 1 : b)))
ARITHMETIC_SHIFT(s16, int16_t)
ARITHMETIC_SHIFT(s32, int32_t)
ARITHMETIC_SHIFT(s64, int64_t)
#define BITS_TABLE(name) [PS_b16] = name##_b16, [PS_b32] = name##_b32, [PS_b64] = name##_b64
PS_SELECT_BY_TYPE(and, BITS_TABLE(and))
PS_SELECT_BY_TYPE(or, BITS_TABLE(or))
PS_SELECT_BY_TYPE(xor, BITS_TABLE(xor))
PS_SELECT_BY_TYPE(not, BITS_TABLE(not ))
PS_SELECT_BY_TYPE(cnot, BITS_TABLE(cnot))
PS_SELECT_BY_TYPE(shl, BITS_TABLE(shl))
PS_SELECT_BY_TYPE(shr, BITS_TABLE(shr), [PS_u16] = shr_b16, [PS_u32] = shr_b32, [PS_u64] = shr_b64, [PS_s16] = shr_s16,
                  [PS_s32] = shr_s32, [PS_s64] = shr_s64)

// The sum of the products of bits that the table lists, one for each of its ones.
static void lop3(ps_warp *w, const ps_insn *i) {
  uint32_t *d = ps_dst(w, i, 0);
  const uint32_t *a = ps_src(w, i, 0), *b = ps_src(w, i, 1), *c = ps_src(w, i, 2);
  uint32_t r[PS_LANES] = {0};
  for (unsigned k = 0; k < 8; k++) {
    if ((i->target >> k & 1) == 0) continue;
    const uint32_t na = k & 4 ? 0 : UINT32_MAX, nb = k & 2 ? 0 : UINT32_MAX, nc = k & 1 ? 0 : UINT32_MAX;
    PS_EACH_LANE { r[l] |= (a[l] ^ na) & (b[l] ^ nb) & (c[l] ^ nc); }
  }
  PS_ASSIGN(uint32_t, d, r[l]);
}
PS_SELECT_BY_TYPE(lop3, [PS_b32] = lop3)

#define PAIR64(lo, hi) ((uint64_t)(hi) << 32 | (lo))
#define CLAMP32(n)     ((n) > 32 ? 32 : (n))
PS_TERNARY(shf_l_wrap, uint32_t, uint32_t, uint32_t, uint32_t, (uint32_t)(PAIR64(a, b) << (c & 31) >> 32))
PS_TERNARY(shf_l_clamp, uint32_t, uint32_t, uint32_t, uint32_t, (uint32_t)(PAIR64(a, b) << CLAMP32(c) >> 32))
PS_TERNARY(shf_r_wrap, uint32_t, uint32_t, uint32_t, uint32_t, (uint32_t)(PAIR64(a, b) >> (c & 31)))
PS_TERNARY(shf_r_clamp, uint32_t, uint32_t, uint32_t, uint32_t, (uint32_t)(PAIR64(a, b) >> CLAMP32(c)))
ps_fn ps_select_shf(ps_form *f) {
  bool wrap = ps_has(f, PS_MOD_wrap);
  if (ps_has(f, PS_MOD_l)) return wrap ? shf_l_wrap : shf_l_clamp;
  return wrap ? shf_r_wrap : shf_r_clamp;
}

// One byte of b:a by a selector of four bits, whose top bit asks for the byte's sign in all bits.
static uint32_t select_byte(uint64_t bytes, uint32_t selector) {
  uint32_t byte = (uint32_t)(bytes >> (selector & 7) * 8) & 255;
  return (selector & 8) == 0 ? byte : byte & 128 ? 255 : 0;
}
static uint32_t permute(uint32_t a, uint32_t b, uint32_t c) {
  uint64_t bytes = PAIR64(a, b);
  return select_byte(bytes, c) | select_byte(bytes, c >> 4) << 8 | select_byte(bytes, c >> 8) << 16 |
         select_byte(bytes, c >> 12) << 24;
}
PS_TERNARY(prmt, uint32_t, uint32_t, uint32_t, uint32_t, permute(a, b, c))

// The other modes take two bits of c and spell selectors by them: [mode][c & 3], as the PTX document tabulates.
static const uint16_t prmt_modes[6][4] = {
    {0x3210, 0x4321, 0x5432, 0x6543},  // f4e
    {0x5670, 0x6701, 0x7012, 0x0123},  // b4e
    {0x0000, 0x1111, 0x2222, 0x3333},  // rc8
    {0x3210, 0x3211, 0x3222, 0x3333},  // ecl
    {0x0000, 0x1110, 0x2210, 0x3210},  // ecr
    {0x1010, 0x3232, 0x1010, 0x3232},  // rc16
};
static void prmt_mode(ps_warp *w, const ps_insn *i) {
  uint32_t *d = ps_dst(w, i, 0);
  const uint32_t *a = ps_src(w, i, 0), *b = ps_src(w, i, 1), *c = ps_src(w, i, 2);
  PS_ASSIGN(uint32_t, d, permute(a[l], b[l], prmt_modes[i->op][c[l] & 3]));
}
ps_fn ps_select_prmt(ps_form *f) {
  static const ps_mod modes[6] = {PS_MOD_f4e, PS_MOD_b4e, PS_MOD_rc8, PS_MOD_ecl, PS_MOD_ecr, PS_MOD_rc16};
  for (uint8_t k = 0; k < 6; k++) {
    if (!ps_has(f, modes[k])) continue;
    f->insn->op = k;
    return prmt_mode;
  }
  return prmt;
}

// ---- products of bytes ----

#define BYTE_S(v, k)     ((int32_t)(int8_t)((v) >> (k)*8))
#define BYTE_U(v, k)     ((int32_t)(uint8_t)((v) >> (k)*8))
#define HALF_S(v, k)     ((int32_t)(int16_t)((v) >> (k)*16))
#define HALF_U(v, k)     ((int32_t)(uint16_t)((v) >> (k)*16))
#define DOT4(A, B)       (uint32_t)(A(a, 0) * B(b, 0) + A(a, 1) * B(b, 1) + A(a, 2) * B(b, 2) + A(a, 3) * B(b, 3))
#define DP4A(name, A, B) PS_TERNARY(name, uint32_t, uint32_t, uint32_t, uint32_t, c + DOT4(A, B))
DP4A(dp4a_uu, BYTE_U, BYTE_U)
DP4A(dp4a_us, BYTE_U, BYTE_S)
DP4A(dp4a_su, BYTE_S, BYTE_U)
DP4A(dp4a_ss, BYTE_S, BYTE_S)
// The types are those of a and b; the sum is unsigned only where both are.
ps_fn ps_select_dp4a(ps_form *f) {
  bool a = f->type[0] == PS_s32, b = f->type[1] == PS_s32;
  return a ? (b ? dp4a_ss : dp4a_su) : (b ? dp4a_us : dp4a_uu);
}
#define DOT2(A, B, k) ((uint32_t)(A(a, 0) * B(b, k)) + (uint32_t)(A(a, 1) * B(b, (k) + 1)))
#define DP2A(name, A, B)                                                           \
  PS_TERNARY(name##_lo, uint32_t, uint32_t, uint32_t, uint32_t, c + DOT2(A, B, 0)) \
  PS_TERNARY(name##_hi, uint32_t, uint32_t, uint32_t, uint32_t, c + DOT2(A, B, 2))
DP2A(dp2a_uu, HALF_U, BYTE_U)
DP2A(dp2a_us, HALF_U, BYTE_S)
DP2A(dp2a_su, HALF_S, BYTE_U)
DP2A(dp2a_ss, HALF_S, BYTE_S)
ps_fn ps_select_dp2a(ps_form *f) {
  static const ps_fn table[2][2][2] = {{{dp2a_uu_lo, dp2a_uu_hi}, {dp2a_us_lo, dp2a_us_hi}},
                                       {{dp2a_su_lo, dp2a_su_hi}, {dp2a_ss_lo, dp2a_ss_hi}}};
  return table[f->type[0] == PS_s32][f->type[1] == PS_s32][ps_has(f, PS_MOD_hi)];
}
