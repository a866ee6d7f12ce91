// f16 and bf16, single and in pairs. Sums and products of two halves are exact enough in f32 that rounding twice gives
// what rounding once does (24 >= 2 * 11 + 2 bits); fma goes through double and round-to-odd.
#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/form.h"
#include "tests/ptxsim/numbers.h"

static inline float f16_to(uint16_t h) { return ps_from_f16(h); }
static inline uint16_t f16_from(float v) { return ps_to_f16(v); }
static inline float bf16_to(uint16_t h) { return ps_from_bf16(h); }
static inline uint16_t bf16_from(float v) { return ps_to_bf16(v); }

// One function for single halves and one for pairs, of each kind.
#define HALVES1(name, kind, EXPR)                                                                                    \
  static inline uint16_t name##_##kind##_one(uint16_t ha, uint16_t hb, uint16_t hc) {                                \
    const float a = kind##_to(ha), b = kind##_to(hb), c = kind##_to(hc);                                             \
    (void)a, (void)b, (void)c, (void)ha, (void)hb, (void)hc;                                                         \
    return (EXPR);                                                                                                   \
  }                                                                                                                  \
  static void name##_##kind(ps_warp *w, const ps_insn *i) {                                                          \
    uint16_t *d = ps_dst(w, i, 0);                                                                                   \
    const uint16_t *pa = ps_src(w, i, 0), *pb = ps_src(w, i, i->src_count > 1 ? 1 : 0),                              \
                   *pc = ps_src(w, i, i->src_count > 2 ? 2 : 0);                                                     \
    PS_ASSIGN(uint16_t, d, name##_##kind##_one(pa[l], pb[l], pc[l]));                                                \
  }                                                                                                                  \
  static void name##_##kind##x2(ps_warp *w, const ps_insn *i) {                                                      \
    uint32_t *d = ps_dst(w, i, 0);                                                                                   \
    const uint32_t *pa = ps_src(w, i, 0), *pb = ps_src(w, i, i->src_count > 1 ? 1 : 0),                              \
                   *pc = ps_src(w, i, i->src_count > 2 ? 2 : 0);                                                     \
    PS_ASSIGN(                                                                                                       \
        uint32_t, d,                                                                                                 \
        name##_##kind##_one((uint16_t)pa[l], (uint16_t)pb[l], (uint16_t)pc[l]) |                                     \
            (uint32_t)name##_##kind##_one((uint16_t)(pa[l] >> 16), (uint16_t)(pb[l] >> 16), (uint16_t)(pc[l] >> 16)) \
                << 16);                                                                                              \
  }
#define HALVES(name, EXPR16, EXPRB) HALVES1(name, f16, EXPR16) HALVES1(name, bf16, EXPRB)
#define HALF_TABLE(name) \
  [PS_f16] = name##_f16, [PS_bf16] = name##_bf16, [PS_f16x2] = name##_f16x2, [PS_bf16x2] = name##_bf16x2
static ps_fn by_type(const ps_form *f, const ps_fn *table) { return table[f->type[0]]; }

static inline float fused_odd(float a, float b, float c) { return ps_odd_f32(ps_odd_sum((double)a * b, c)); }

HALVES(add, f16_from(a + b), bf16_from(ps_odd_f32(ps_odd_sum(a, b))))
HALVES(sub, f16_from(a - b), bf16_from(ps_odd_f32(ps_odd_sum(a, -b))))
HALVES(mul, f16_from(a *b), bf16_from(ps_odd_f32((double)a *b)))
HALVES(fma, f16_from(fused_odd(a, b, c)), bf16_from(fused_odd(a, b, c)))
HALVES(add_sat, f16_from(ps_saturate(a + b)), bf16_from(ps_saturate(a + b)))
HALVES(sub_sat, f16_from(ps_saturate(a - b)), bf16_from(ps_saturate(a - b)))
HALVES(mul_sat, f16_from(ps_saturate(a *b)), bf16_from(ps_saturate(a *b)))
HALVES(fma_sat, f16_from(ps_saturate(fused_odd(a, b, c))), bf16_from(ps_saturate(fused_odd(a, b, c))))
#define RELU(v)                         \
  ({                                    \
    float v_ = (v);                     \
    v_ != v_ ? v_ : v_ > 0 ? v_ : 0.0f; \
  })
HALVES(fma_relu, f16_from(RELU(fused_odd(a, b, c))), bf16_from(RELU(fused_odd(a, b, c))))
HALVES(abs, ha & 0x7fff, ha & 0x7fff)
HALVES(neg, ha ^ 0x8000, ha ^ 0x8000)

static const ps_fn adds[2][PS_TYPE_COUNT] = {{HALF_TABLE(add)}, {HALF_TABLE(add_sat)}};
static const ps_fn subs[2][PS_TYPE_COUNT] = {{HALF_TABLE(sub)}, {HALF_TABLE(sub_sat)}};
static const ps_fn muls[2][PS_TYPE_COUNT] = {{HALF_TABLE(mul)}, {HALF_TABLE(mul_sat)}};
static const ps_fn fmas[3][PS_TYPE_COUNT] = {{HALF_TABLE(fma)}, {HALF_TABLE(fma_sat)}, {HALF_TABLE(fma_relu)}};
static const ps_fn abss[PS_TYPE_COUNT] = {HALF_TABLE(abs)};
static const ps_fn negs[PS_TYPE_COUNT] = {HALF_TABLE(neg)};

// .ftz would flush subnormal f16, which no compiler asks for by itself; .rz is refused too.
static bool refused(const ps_form *f) { return ps_has(f, PS_MOD_ftz) || ps_has(f, PS_MOD_rz); }
static ps_fn arithmetic(ps_form *f, const ps_fn (*table)[PS_TYPE_COUNT]) {
  return refused(f) ? NULL : by_type(f, table[ps_has(f, PS_MOD_sat)]);
}
ps_fn ps_select_hadd(ps_form *f) { return arithmetic(f, adds); }
ps_fn ps_select_hsub(ps_form *f) { return arithmetic(f, subs); }
ps_fn ps_select_hmul(ps_form *f) { return arithmetic(f, muls); }
ps_fn ps_select_hfma(ps_form *f) {
  return refused(f) ? NULL : by_type(f, fmas[ps_has(f, PS_MOD_relu) ? 2 : ps_has(f, PS_MOD_sat)]);
}
ps_fn ps_select_habs(ps_form *f) { return refused(f) ? NULL : by_type(f, abss); }
ps_fn ps_select_hneg(ps_form *f) { return refused(f) ? NULL : by_type(f, negs); }

// ---- extremes: -0 is less than +0, a NaN gives way to a number unless .NaN says otherwise ----

#define IS_NAN16(v)       ((v) != (v))
#define LESS16(va, vb)    (va < vb || (va == vb && (ha & 0x8000) != 0) ? ha : hb)
#define MORE16(va, vb)    (va > vb || (va == vb && (ha & 0x8000) == 0) ? ha : hb)
#define EXTREME(PICK)     (uint16_t)(a != a ? (b != b ? 0x7fff : hb) : b != b ? ha : PICK(a, b))
#define EXTREME_NAN(PICK) (uint16_t)(a != a || b != b ? 0x7fff : PICK(a, b))
HALVES(min, EXTREME(LESS16), EXTREME(LESS16))
HALVES(max, EXTREME(MORE16), EXTREME(MORE16))
HALVES(min_nan, EXTREME_NAN(LESS16), EXTREME_NAN(LESS16))
HALVES(max_nan, EXTREME_NAN(MORE16), EXTREME_NAN(MORE16))
static const ps_fn mins[2][PS_TYPE_COUNT] = {{HALF_TABLE(min)}, {HALF_TABLE(min_nan)}};
static const ps_fn maxs[2][PS_TYPE_COUNT] = {{HALF_TABLE(max)}, {HALF_TABLE(max_nan)}};
ps_fn ps_select_hmin(ps_form *f) {
  return refused(f) || ps_has(f, PS_MOD_xorsign) ? NULL : by_type(f, mins[ps_has(f, PS_MOD_NaN)]);
}
ps_fn ps_select_hmax(ps_form *f) {
  return refused(f) || ps_has(f, PS_MOD_xorsign) ? NULL : by_type(f, maxs[ps_has(f, PS_MOD_NaN)]);
}

// ---- approximations ----

static uint16_t approximate(const ps_options *o, ps_type type, bool tanh, uint16_t h) {
  bool b = type == PS_bf16 || type == PS_bf16x2;
  float v = b ? ps_from_bf16(h) : ps_from_f16(h), r = tanh ? tanhf(v) : exp2f(v);
  uint16_t out = b ? ps_to_bf16(r) : ps_to_f16(r);
  uint16_t exponent_mask = b ? 0x7f80 : 0x7c00, exponent = out & exponent_mask;
  if (!o->perturb || exponent == 0 || exponent == exponent_mask) return out;
  uint32_t moved = ps_bits32(ps_perturb(1.0f, h, o->seed)) - 0x3f800000u;  // -2 .. 2, of one unit here
  uint16_t candidate = (uint16_t)(out + ((int32_t)moved > 0) - ((int32_t)moved < 0));
  uint16_t moved_exponent = candidate & exponent_mask;
  return moved_exponent == 0 || moved_exponent == exponent_mask ? out : candidate;
}
static void approximate_half(ps_warp *w, const ps_insn *i) {
  const ps_options *o = w->block->launch->options;
  bool tanh = i->op != 0;
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l)) continue;
    if (i->type == PS_f16 || i->type == PS_bf16) {
      ((uint16_t *)ps_dst(w, i, 0))[l] = approximate(o, (ps_type)i->type, tanh, ((const uint16_t *)ps_src(w, i, 0))[l]);
    } else {
      uint32_t v = ((const uint32_t *)ps_src(w, i, 0))[l];
      ((uint32_t *)ps_dst(w, i, 0))[l] = approximate(o, (ps_type)i->type, tanh, (uint16_t)v) |
                                         (uint32_t)approximate(o, (ps_type)i->type, tanh, (uint16_t)(v >> 16)) << 16;
    }
  }
}
ps_fn ps_select_hex2(ps_form *f) {
  f->insn->op = 0;
  return approximate_half;
}
ps_fn ps_select_htanh(ps_form *f) {
  f->insn->op = 1;
  return approximate_half;
}
