// cvt. The conversions that kernels live on are loops of their own; the others go lane by lane through one function
// that knows all types, roundings and saturations.
#include <fenv.h>

#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/form.h"
#include "tests/ptxsim/numbers.h"

enum { INTEGER_NONE, INTEGER_NEAREST, INTEGER_ZERO, INTEGER_DOWN, INTEGER_UP };

// ---- fast ones ----

PS_UNARY(f32_f16, float, uint16_t, ps_from_f16(a))
PS_UNARY(f32_bf16, float, uint16_t, ps_from_bf16(a))
PS_UNARY(f16_f32, uint16_t, float, ps_to_f16(a))
PS_UNARY(bf16_f32, uint16_t, float, ps_to_bf16(a))
PS_UNARY(f32_s32, float, int32_t, (float)a)
PS_UNARY(f32_u32, float, uint32_t, (float)a)
PS_UNARY(u64_u32, uint64_t, uint32_t, a)
PS_UNARY(s64_s32, int64_t, int32_t, a)
PS_UNARY(u32_u64, uint32_t, uint64_t, (uint32_t)a)
PS_UNARY(u32_u16, uint32_t, uint16_t, a)
PS_UNARY(s32_s16, int32_t, int16_t, a)
PS_UNARY(u16_u32, uint16_t, uint32_t, (uint16_t)a)
PS_UNARY(s32_s8, int32_t, int32_t, (int32_t)((uint32_t)a << 24) >> 24)
PS_UNARY(u32_u8, uint32_t, uint32_t, a & 255)

static const struct {
  uint8_t to, from, to_width, from_width;
  int round;  // -1 = whatever
  ps_fn fn;
} fast[] = {
    {PS_f32, PS_f16, 4, 2, -1, f32_f16},
    {PS_f32, PS_bf16, 4, 2, -1, f32_bf16},
    {PS_f16, PS_f32, 2, 4, PS_ROUND_NEAREST, f16_f32},
    {PS_bf16, PS_f32, 2, 4, PS_ROUND_NEAREST, bf16_f32},
    {PS_f32, PS_s32, 4, 4, PS_ROUND_NEAREST, f32_s32},
    {PS_f32, PS_u32, 4, 4, PS_ROUND_NEAREST, f32_u32},
    {PS_u64, PS_u32, 8, 4, -1, u64_u32},
    {PS_s64, PS_s32, 8, 4, -1, s64_s32},
    {PS_u32, PS_u64, 4, 8, -1, u32_u64},
    {PS_s32, PS_s64, 4, 8, -1, u32_u64},
    {PS_u32, PS_u16, 4, 2, -1, u32_u16},
    {PS_s32, PS_s16, 4, 2, -1, s32_s16},
    {PS_u16, PS_u32, 2, 4, -1, u16_u32},
    {PS_s16, PS_s32, 2, 4, -1, u16_u32},
    {PS_s32, PS_s8, 4, 4, -1, s32_s8},
    {PS_u32, PS_u8, 4, 4, -1, u32_u8},
};

// ---- the general one ----

// A value on its way: a whole number, or a double (which holds every narrower type).
typedef struct value {
  bool real, negative;  // negative: of whole numbers, whose magnitude is `whole`
  uint64_t whole;
  double d;
} value;

static uint64_t load_bits(const void *row, int lane, unsigned width) {
  switch (width) {
    case 2: return ((const uint16_t *)row)[lane];
    case 4: return ((const uint32_t *)row)[lane];
    default: return ((const uint64_t *)row)[lane];
  }
}
static void store_bits(void *row, int lane, unsigned width, uint64_t bits) {
  switch (width) {
    case 2: ((uint16_t *)row)[lane] = (uint16_t)bits; break;
    case 4: ((uint32_t *)row)[lane] = (uint32_t)bits; break;
    default: ((uint64_t *)row)[lane] = bits; break;
  }
}

// The low bits of a register as a number of the type.
static int64_t sign_extend(uint64_t bits, unsigned bytes) {
  unsigned shift = 64 - bytes * 8;
  return (int64_t)(bits << shift) >> shift;
}

static value load_value(ps_type type, uint64_t bits, bool ftz) {
  unsigned bytes = ps_type_bytes(type);
  value v = {0};
  if (bytes < 8) bits &= (1ull << (bytes * 8)) - 1;
  switch (type) {
    case PS_f16: return (value){.real = true, .d = ps_from_f16((uint16_t)bits)};
    case PS_bf16: return (value){.real = true, .d = ps_from_bf16((uint16_t)bits)};
    case PS_f32: {
      float f = ps_f32((uint32_t)bits);
      return (value){.real = true, .d = ftz ? ps_flush(f) : f};
    }
    case PS_f64: return (value){.real = true, .d = ps_f64(bits)};
    default: break;
  }
  if (ps_type_kind(type) == 'S' && sign_extend(bits, bytes) < 0) {
    v.negative = true;
    v.whole = 0 - (uint64_t)sign_extend(bits, bytes);
  } else {
    v.whole = bits;
  }
  return v;
}

static double round_whole(double d, int mode) {
  switch (mode) {
    case INTEGER_NEAREST: return nearbyint(d);  // the mode is to nearest, ties to even
    case INTEGER_ZERO: return trunc(d);
    case INTEGER_DOWN: return floor(d);
    case INTEGER_UP: return ceil(d);
    default: return d;
  }
}

// To a whole number, saturated to the type.
static uint64_t real_to_whole(double d, ps_type from, ps_type to, int mode) {
  unsigned bits = ps_type_bytes(to) * 8;
  bool is_signed = ps_type_kind(to) == 'S';
  if (d != d) return from == PS_f64 || bits == 64 ? 1ull << (bits - 1) : 0;
  d = round_whole(d, mode);
  double above = ldexp(1.0, (int)(is_signed ? bits - 1 : bits));  // one more than the largest
  if (d >= above) return is_signed ? (1ull << (bits - 1)) - 1 : bits == 64 ? UINT64_MAX : (1ull << bits) - 1;
  if (!is_signed) return d <= 0 ? 0 : (uint64_t)d;
  return d < -above ? 0 - (1ull << (bits - 1)) : (uint64_t)(int64_t)d;
}

// Whole numbers into a narrower type: cut, or clamped with .sat.
static uint64_t whole_to_whole(value v, ps_type to, bool sat) {
  unsigned bits = ps_type_bytes(to) * 8;
  uint64_t two = v.negative ? 0 - v.whole : v.whole;
  if (!sat) return two;
  if (ps_type_kind(to) == 'U') {
    uint64_t most = bits == 64 ? UINT64_MAX : (1ull << bits) - 1;
    return v.negative ? 0 : v.whole > most ? most : v.whole;
  }
  uint64_t most = (1ull << (bits - 1)) - 1;
  if (v.negative) return v.whole > most + 1 ? 0 - (most + 1) : two;
  return v.whole > most ? most : v.whole;
}

// From round-to-nearest to a directed rounding: one step where the result is on the wrong side of the exact value.
static uint16_t direct(uint16_t h, double back, double exact, int round, double magnitude_back) {
  if (exact != exact || back == exact) return h;
  bool negative = (h & 0x8000) != 0;
  bool too_far = round == PS_ROUND_ZERO   ? magnitude_back > fabs(exact)
                 : round == PS_ROUND_DOWN ? back > exact
                 : round == PS_ROUND_UP   ? back < exact
                                          : false;
  if (!too_far) return h;
  if (round == PS_ROUND_ZERO) return (uint16_t)(h - 1);
  bool up = round == PS_ROUND_UP;
  if ((h & 0x7fff) == 0) return up ? 0x0001 : 0x8001;
  return (uint16_t)(up != negative ? h + 1 : h - 1);
}

static uint64_t to_half(ps_type to, double d, int round, bool finite) {
  bool b = to == PS_bf16;
  float odd = ps_odd_f32(d);
  uint16_t h = b ? ps_to_bf16(odd) : ps_to_f16(odd);
  double back = b ? ps_from_bf16(h) : ps_from_f16(h);
  if (round != PS_ROUND_NEAREST) h = direct(h, back, d, round, fabs(back));
  uint16_t infinite = b ? 0x7f80 : 0x7c00;
  if (finite && (h & 0x7fff) == infinite) h--;
  return h;
}

static uint64_t to_f32(double d, int round, bool ftz) {
  static const int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  volatile double in = d;
  if (round != PS_ROUND_NEAREST) fesetround(modes[round]);
  volatile float out = (float)in;
  if (round != PS_ROUND_NEAREST) fesetround(FE_TONEAREST);
  float f = ps_canonical(out);
  return ps_bits32(ftz ? ps_flush(f) : f);
}

// 19 bits of an f32: to nearest, ties to even (rn) or away (rna), or cut (rz).
static uint64_t to_tf32(double d, int round) {
  uint32_t bits = ps_bits32((float)d);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffffffu;
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
  if (round == PS_ROUND_AWAY) bits += 0x1000u;
  if (round == PS_ROUND_NEAREST) bits += 0xfffu + (bits >> 13 & 1u);
  return bits & ~0x1fffu;
}

// A whole number as a real one, rounded to odd where a double is too short; it is rounded once more afterwards.
static double whole_as_real(value v) {
  double d = ps_odd_sum((double)(v.whole & ~0xffffffffull), (double)(v.whole & 0xffffffffull));
  return v.negative ? -d : d;
}

static uint64_t whole_to_f32(value v, int round) {
  static const int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  volatile int64_t negative = (int64_t)(0 - v.whole);
  volatile uint64_t positive = v.whole;
  if (round != PS_ROUND_NEAREST) fesetround(modes[round]);
  volatile float f = v.negative ? (float)negative : (float)positive;
  if (round != PS_ROUND_NEAREST) fesetround(FE_TONEAREST);
  return ps_bits32(f);
}

static uint64_t whole_to_f64(value v, int round) {
  static const int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  volatile int64_t negative = (int64_t)(0 - v.whole);
  volatile uint64_t positive = v.whole;
  if (round != PS_ROUND_NEAREST) fesetround(modes[round]);
  volatile double f = v.negative ? (double)negative : (double)positive;
  if (round != PS_ROUND_NEAREST) fesetround(FE_TONEAREST);
  return ps_bits64(f);
}

static uint64_t convert(const ps_insn *i, uint64_t bits) {
  ps_type to = (ps_type)i->type, from = (ps_type)i->type2;
  bool ftz = (i->flags & PS_FLAG_FTZ) != 0, sat = (i->flags & PS_FLAG_SAT) != 0;
  value v = load_value(from, bits, ftz);
  if (ps_type_kind(to) != 'F') {
    return v.real ? real_to_whole(v.d, from, to, i->op) : whole_to_whole(v, to, sat);
  }
  if (!v.real && to == PS_f32) return whole_to_f32(v, i->round);
  if (!v.real && to == PS_f64) return whole_to_f64(v, i->round);
  double d = v.real ? round_whole(v.d, i->op) : whole_as_real(v);
  if (sat) d = d > 0 ? (d < 1 ? d : 1) : 0;
  if ((i->flags & PS_FLAG_RELU) && d == d) d = d > 0 ? d : 0;
  switch (to) {
    case PS_f16:
    case PS_bf16: return to_half(to, d, i->round, (i->flags & PS_FLAG_NAN) != 0);
    case PS_tf32: return to_tf32(d, i->round);
    case PS_f32: return to_f32(d, i->round, ftz);
    default: return ps_bits64(d);
  }
}

static void cvt(ps_warp *w, const ps_insn *i) {
  void *d = ps_dst(w, i, 0);
  const void *a = ps_src(w, i, 0);
  bool extend = ps_type_kind((ps_type)i->type) == 'S';
  unsigned bytes = ps_type_bytes((ps_type)i->type);
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l)) continue;
    uint64_t bits = convert(i, load_bits(a, l, i->source_width));
    if (bytes < 8) bits &= (1ull << (bytes * 8)) - 1;
    store_bits(d, l, i->width, extend ? (uint64_t)sign_extend(bits, bytes) : bits);
  }
}

static bool set_rounding(ps_form *f) {
  ps_insn *i = f->insn;
  i->op = ps_has(f, PS_MOD_rni)   ? INTEGER_NEAREST
          : ps_has(f, PS_MOD_rzi) ? INTEGER_ZERO
          : ps_has(f, PS_MOD_rmi) ? INTEGER_DOWN
          : ps_has(f, PS_MOD_rpi) ? INTEGER_UP
                                  : INTEGER_NONE;
  i->round = ps_has(f, PS_MOD_rz)    ? PS_ROUND_ZERO
             : ps_has(f, PS_MOD_rm)  ? PS_ROUND_DOWN
             : ps_has(f, PS_MOD_rp)  ? PS_ROUND_UP
             : ps_has(f, PS_MOD_rna) ? PS_ROUND_AWAY
                                     : PS_ROUND_NEAREST;
  if (ps_has(f, PS_MOD_ftz)) i->flags |= PS_FLAG_FTZ;
  if (ps_has(f, PS_MOD_sat)) i->flags |= PS_FLAG_SAT;
  if (ps_has(f, PS_MOD_relu)) i->flags |= PS_FLAG_RELU;
  if (ps_has(f, PS_MOD_satfinite)) i->flags |= PS_FLAG_NAN;
  // A real number becomes whole only by a rounding that says how.
  char to = ps_type_kind(f->type[0]);
  bool from_real = ps_type_kind(f->type[1]) == 'F', to_whole = to == 'U' || to == 'S';
  return !(from_real && to_whole && i->op == INTEGER_NONE) && !(i->round == PS_ROUND_AWAY && f->type[0] != PS_tf32);
}

ps_fn ps_select_cvt(ps_form *f) {
  ps_insn *i = f->insn;
  if (!set_rounding(f)) return NULL;
  if (i->source_width == 0) i->source_width = (uint8_t)(ps_type_bytes(f->type[1]) < 2 ? 2 : ps_type_bytes(f->type[1]));
  for (size_t k = 0; k < QN_COUNT(fast); k++) {
    if (fast[k].to != f->type[0] || fast[k].from != f->type[1] || fast[k].to_width != i->width) continue;
    if (fast[k].from_width != i->source_width || i->flags != 0 || i->op != INTEGER_NONE) continue;
    if (fast[k].round < 0 || fast[k].round == i->round) return fast[k].fn;
  }
  return cvt;
}

// ---- packed results ----

static void cvt_pack(ps_warp *w, const ps_insn *i) {
  uint32_t *d = ps_dst(w, i, 0);
  const float *high = ps_src(w, i, 0), *low = ps_src(w, i, 1);
  ps_type half = i->type == PS_f16x2 ? PS_f16 : PS_bf16;
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l)) continue;
    double h = high[l], o = low[l];
    if (i->flags & PS_FLAG_RELU) {
      h = h != h ? h : h > 0 ? h : 0;
      o = o != o ? o : o > 0 ? o : 0;
    }
    bool finite = (i->flags & PS_FLAG_NAN) != 0;
    d[l] = (uint32_t)to_half(half, o, i->round, finite) | (uint32_t)to_half(half, h, i->round, finite) << 16;
  }
}
ps_fn ps_select_cvt_pack(ps_form *f) { return set_rounding(f) ? cvt_pack : NULL; }

// fp8 with m bits behind the point; e4m3 has no infinity and its only NaN is all ones, e5m2 is like f16.
static uint8_t to_fp8(double v, bool e4m3, bool relu) {
  int m = e4m3 ? 3 : 2, least = e4m3 ? -6 : -14;
  double most = e4m3 ? 448 : 57344;
  if (v != v) return 0x7f;
  if (relu && v < 0) v = 0;
  uint8_t sign = signbit(v) ? 0x80 : 0;
  double a = fabs(v);
  if (a >= most) return (uint8_t)(sign | (e4m3 ? 0x7e : 0x7b));
  int exponent = a > 0 ? ilogb(a) : least;
  if (exponent < least) exponent = least;
  unsigned code = ((unsigned)(exponent - least) << m) + (unsigned)nearbyint(ldexp(a, m - exponent));
  unsigned largest = e4m3 ? 0x7e : 0x7b;
  return (uint8_t)(sign | (code > largest ? largest : code));
}
static void cvt_fp8(ps_warp *w, const ps_insn *i) {
  uint16_t *d = ps_dst(w, i, 0);
  bool e4m3 = i->type == PS_e4m3x2, relu = (i->flags & PS_FLAG_RELU) != 0;
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l)) continue;
    double high, low;
    if (i->type2 == PS_f32) {
      high = ((const float *)ps_src(w, i, 0))[l];
      low = ((const float *)ps_src(w, i, 1))[l];
    } else {
      uint32_t pair = ((const uint32_t *)ps_src(w, i, 0))[l];
      high = ps_from_f16((uint16_t)(pair >> 16));
      low = ps_from_f16((uint16_t)pair);
    }
    d[l] = (uint16_t)(to_fp8(low, e4m3, relu) | to_fp8(high, e4m3, relu) << 8);
  }
}
ps_fn ps_select_cvt_fp8(ps_form *f) { return set_rounding(f) ? cvt_fp8 : NULL; }

float ps_from_fp8(uint8_t v, bool e4m3) {
  if (!e4m3) return ps_from_f16((uint16_t)(v << 8));
  int exponent = v >> 3 & 15, fraction = v & 7;
  if ((v & 0x7f) == 0x7f) return NAN;
  float magnitude = exponent == 0 ? ldexpf((float)fraction, -9) : ldexpf((float)(fraction + 8), exponent - 10);
  return v & 0x80 ? -magnitude : magnitude;
}
static void cvt_from_fp8(ps_warp *w, const ps_insn *i) {
  uint32_t *d = ps_dst(w, i, 0);
  const uint16_t *a = ps_src(w, i, 0);
  bool e4m3 = i->type2 == PS_e4m3x2;
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l)) continue;
    float low = ps_from_fp8((uint8_t)a[l], e4m3), high = ps_from_fp8((uint8_t)(a[l] >> 8), e4m3);
    if (i->flags & PS_FLAG_RELU) {
      low = low < 0 ? 0 : low;
      high = high < 0 ? 0 : high;
    }
    d[l] = ps_to_f16(low) | (uint32_t)ps_to_f16(high) << 16;
  }
}
ps_fn ps_select_cvt_from_fp8(ps_form *f) { return set_rounding(f) ? cvt_from_fp8 : NULL; }
