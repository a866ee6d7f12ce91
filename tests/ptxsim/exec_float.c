// f32 and f64. The usual forms (rounding to nearest, no flushing) are plain loops; other roundings, .ftz and .sat take
// slower functions.
#include <fenv.h>

#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/form.h"
#include "tests/ptxsim/numbers.h"

static void set_flags(ps_form *f) {
  ps_insn *i = f->insn;
  if (ps_has(f, PS_MOD_ftz)) i->flags |= PS_FLAG_FTZ;
  if (ps_has(f, PS_MOD_sat)) i->flags |= PS_FLAG_SAT;
  if (ps_has(f, PS_MOD_NaN)) i->flags |= PS_FLAG_NAN;
  if (ps_has(f, PS_MOD_xorsign)) i->flags |= PS_FLAG_XOR_SIGN;
  i->round = ps_has(f, PS_MOD_rz)   ? PS_ROUND_ZERO
             : ps_has(f, PS_MOD_rm) ? PS_ROUND_DOWN
             : ps_has(f, PS_MOD_rp) ? PS_ROUND_UP
                                    : PS_ROUND_NEAREST;
  if (f->type[0] == PS_f64) i->klass = PS_CLASS_float64;
}

PS_BINARY(add_f32, float, float, float, ps_canonical(a + b))
PS_BINARY(sub_f32, float, float, float, ps_canonical(a - b))
PS_BINARY(mul_f32, float, float, float, ps_canonical(a *b))
PS_BINARY(div_f32, float, float, float, ps_canonical(a / b))
PS_TERNARY(fma_f32, float, float, float, float, ps_canonical(fmaf(a, b, c)))
PS_BINARY(add_f64, double, double, double, a + b)
PS_BINARY(sub_f64, double, double, double, a - b)
PS_BINARY(mul_f64, double, double, double, a *b)
PS_BINARY(div_f64, double, double, double, a / b)
PS_TERNARY(fma_f64, double, double, double, double, fma(a, b, c))
PS_UNARY(rcp_f32, float, float, ps_canonical(1.0f / a))
PS_UNARY(rcp_f64, double, double, 1.0 / a)
PS_UNARY(sqrt_f32, float, float, ps_canonical(sqrtf(a)))
PS_UNARY(sqrt_f64, double, double, sqrt(a))

// ---- all modifiers ----

enum { OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FMA, OP_RCP, OP_SQRT };

#define COMPUTE(T, FMA, SQRT)                                                                        \
  static __attribute__((noinline)) T compute_##T(int op, volatile T a, volatile T b, volatile T c) { \
    switch (op) {                                                                                    \
      case OP_ADD: return a + b;                                                                     \
      case OP_SUB: return a - b;                                                                     \
      case OP_MUL: return a * b;                                                                     \
      case OP_DIV: return a / b;                                                                     \
      case OP_FMA: return FMA(a, b, c);                                                              \
      case OP_RCP: return (T)1 / a;                                                                  \
      default: return SQRT(a);                                                                       \
    }                                                                                                \
  }
COMPUTE(float, fmaf, sqrtf)
COMPUTE(double, fma, sqrt)

static const int fenv_modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};

static void slow_f32(ps_warp *w, const ps_insn *i) {
  float *d = ps_dst(w, i, 0);
  const float *src[3];
  for (int k = 0; k < 3; k++) src[k] = ps_src(w, i, k < i->src_count ? k : 0);
  bool ftz = (i->flags & PS_FLAG_FTZ) != 0;
  fesetround(fenv_modes[i->round]);
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l)) continue;
    float v[3];
    for (int k = 0; k < 3; k++) v[k] = ftz ? ps_flush(src[k][l]) : src[k][l];
    float r = compute_float(i->op, v[0], v[1], v[2]);
    if (ftz) r = ps_flush(r);
    d[l] = i->flags & PS_FLAG_SAT ? ps_saturate(r) : ps_canonical(r);
  }
  fesetround(FE_TONEAREST);
}

static void slow_f64(ps_warp *w, const ps_insn *i) {
  double *d = ps_dst(w, i, 0);
  const double *src[3];
  for (int k = 0; k < 3; k++) src[k] = ps_src(w, i, k < i->src_count ? k : 0);
  fesetround(fenv_modes[i->round]);
  for (int l = 0; l < PS_LANES; l++) {
    if (PS_ACTIVE(w->mask, l)) d[l] = compute_double(i->op, src[0][l], src[1][l], src[2][l]);
  }
  fesetround(FE_TONEAREST);
}

// .ftz with rounding to nearest is what -use_fast_math makes of everything, so it is fast too.
#define FTZ2(op) ps_canonical(ps_flush(ps_flush(a) op ps_flush(b)))
PS_BINARY(add_ftz, float, float, float, FTZ2(+))
PS_BINARY(sub_ftz, float, float, float, FTZ2(-))
PS_BINARY(mul_ftz, float, float, float, FTZ2(*))
PS_TERNARY(fma_ftz, float, float, float, float, ps_canonical(ps_flush(fmaf(ps_flush(a), ps_flush(b), ps_flush(c)))))

static ps_fn choose(ps_form *f, uint8_t op, ps_fn fast32, ps_fn ftz32, ps_fn fast64) {
  set_flags(f);
  ps_insn *i = f->insn;
  i->op = op;
  if (f->type[0] == PS_f64) {
    if (i->flags & (PS_FLAG_FTZ | PS_FLAG_SAT)) return NULL;
    return i->round == PS_ROUND_NEAREST ? fast64 : slow_f64;
  }
  if (i->round != PS_ROUND_NEAREST || (i->flags & PS_FLAG_SAT)) return slow_f32;
  if (i->flags & PS_FLAG_FTZ) return ftz32 != NULL ? ftz32 : slow_f32;
  return fast32;
}
ps_fn ps_select_fadd(ps_form *f) { return choose(f, OP_ADD, add_f32, add_ftz, add_f64); }
ps_fn ps_select_fsub(ps_form *f) { return choose(f, OP_SUB, sub_f32, sub_ftz, sub_f64); }
ps_fn ps_select_fmul(ps_form *f) { return choose(f, OP_MUL, mul_f32, mul_ftz, mul_f64); }
ps_fn ps_select_ffma(ps_form *f) { return choose(f, OP_FMA, fma_f32, fma_ftz, fma_f64); }
ps_fn ps_select_fdiv(ps_form *f) { return choose(f, OP_DIV, div_f32, NULL, div_f64); }
ps_fn ps_select_frcp(ps_form *f) { return choose(f, OP_RCP, rcp_f32, NULL, rcp_f64); }
ps_fn ps_select_fsqrt(ps_form *f) { return choose(f, OP_SQRT, sqrt_f32, NULL, sqrt_f64); }

// ---- approximations: computed well, then perturbed where that is asked for ----

// Results for which the PTX document gives a value of its own come out of the libm functions by themselves.
#define APPROXIMATE(name, EXPR)                                                         \
  static void name(ps_warp *w, const ps_insn *i) {                                      \
    const ps_options *o = w->block->launch->options;                                    \
    float *d = ps_dst(w, i, 0);                                                         \
    const float *pa = ps_src(w, i, 0), *pb = ps_src(w, i, i->src_count > 1 ? 1 : 0);    \
    const bool ftz = (i->flags & PS_FLAG_FTZ) != 0;                                     \
    for (int l = 0; l < PS_LANES; l++) {                                                \
      if (!PS_ACTIVE(w->mask, l)) continue;                                             \
      const float a = ftz ? ps_flush(pa[l]) : pa[l], b = ftz ? ps_flush(pb[l]) : pb[l]; \
      (void)b;                                                                          \
      float r = ps_canonical(EXPR);                                                     \
      if (o->perturb) r = ps_perturb(r, ps_bits32(a) ^ ps_bits32(b) * 31, o->seed);     \
      d[l] = ftz ? ps_flush(r) : r;                                                     \
    }                                                                                   \
  }
// A quotient by a large divisor is 0, as the document says of div.approx (2^126 < |b| < 2^128).
static float approximate_quotient(float a, float b) {
  float magnitude = fabsf(b);
  if (magnitude > 0x1p126f && magnitude < INFINITY) return isinf(a) ? NAN : copysignf(0, a) * copysignf(1, b);
  return a / b;
}
APPROXIMATE(div_approx, approximate_quotient(a, b))
APPROXIMATE(div_full, a / b)
APPROXIMATE(rcp_approx, 1.0f / a)
APPROXIMATE(sqrt_approx, sqrtf(a))
APPROXIMATE(rsqrt_approx, (float)(1.0 / sqrt((double)a)))
APPROXIMATE(ex2_approx, exp2f(a))
APPROXIMATE(lg2_approx, log2f(a))
APPROXIMATE(sin_approx, sinf(a))
APPROXIMATE(cos_approx, cosf(a))
APPROXIMATE(tanh_approx, tanhf(a))
PS_UNARY(rsqrt_f64, double, double, 1.0 / sqrt(a))

static ps_fn approximation(ps_form *f, ps_fn fn) {
  set_flags(f);
  return fn;
}
ps_fn ps_select_fdiv_approx(ps_form *f) { return approximation(f, ps_has(f, PS_MOD_full) ? div_full : div_approx); }
ps_fn ps_select_frcp_approx(ps_form *f) { return approximation(f, f->type[0] == PS_f64 ? rcp_f64 : rcp_approx); }
ps_fn ps_select_fsqrt_approx(ps_form *f) { return approximation(f, sqrt_approx); }
ps_fn ps_select_frsqrt(ps_form *f) { return approximation(f, f->type[0] == PS_f64 ? rsqrt_f64 : rsqrt_approx); }
ps_fn ps_select_fex2(ps_form *f) { return approximation(f, ex2_approx); }
ps_fn ps_select_flg2(ps_form *f) { return approximation(f, lg2_approx); }
ps_fn ps_select_fsin(ps_form *f) { return approximation(f, sin_approx); }
ps_fn ps_select_fcos(ps_form *f) { return approximation(f, cos_approx); }
ps_fn ps_select_ftanh(ps_form *f) { return approximation(f, tanh_approx); }

// ---- signs, extremes ----

PS_UNARY(abs_f32, float, float, fabsf(a))
PS_UNARY(abs_ftz, float, float, fabsf(ps_flush(a)))
PS_UNARY(abs_f64, double, double, fabs(a))
PS_UNARY(neg_f32, uint32_t, uint32_t, a ^ 0x80000000u)
PS_UNARY(neg_ftz, float, float, -ps_flush(a))
PS_UNARY(neg_f64, uint64_t, uint64_t, a ^ 1ull << 63)
ps_fn ps_select_fabs(ps_form *f) {
  set_flags(f);
  return f->type[0] == PS_f64 ? abs_f64 : f->insn->flags & PS_FLAG_FTZ ? abs_ftz : abs_f32;
}
ps_fn ps_select_fneg(ps_form *f) {
  set_flags(f);
  return f->type[0] == PS_f64 ? neg_f64 : f->insn->flags & PS_FLAG_FTZ ? neg_ftz : neg_f32;
}
PS_BINARY(copysign_f32, uint32_t, uint32_t, uint32_t, (b & 0x7fffffffu) | (a & 0x80000000u))
PS_BINARY(copysign_f64, uint64_t, uint64_t, uint64_t, (b & ~(1ull << 63)) | (a & 1ull << 63))
PS_SELECT_BY_TYPE(copysign, [PS_f32] = copysign_f32, [PS_f64] = copysign_f64)

// -0 is less than +0; a NaN gives way to a number.
static inline float less32(float a, float b) {
  float m = a < b || (a == b && (ps_bits32(a) >> 31) != 0) ? a : b;
  m = a != a ? b : b != b ? a : m;
  return ps_canonical(m);
}
static inline float more32(float a, float b) {
  float m = a > b || (a == b && (ps_bits32(a) >> 31) == 0) ? a : b;
  m = a != a ? b : b != b ? a : m;
  return ps_canonical(m);
}
static inline double less64(double a, double b) {
  double m = a < b || (a == b && signbit(a)) ? a : b;
  return a != a ? b : b != b ? a : m;
}
static inline double more64(double a, double b) {
  double m = a > b || (a == b && !signbit(a)) ? a : b;
  return a != a ? b : b != b ? a : m;
}
PS_BINARY(min_f32, float, float, float, less32(a, b))
PS_BINARY(max_f32, float, float, float, more32(a, b))
PS_BINARY(min_f64, double, double, double, less64(a, b))
PS_BINARY(max_f64, double, double, double, more64(a, b))
static void extreme_f32(ps_warp *w, const ps_insn *i) {  // with .ftz, .NaN or .xorsign
  float *d = ps_dst(w, i, 0);
  const float *pa = ps_src(w, i, 0), *pb = ps_src(w, i, 1);
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l)) continue;
    float a = pa[l], b = pb[l];
    if (i->flags & PS_FLAG_FTZ) a = ps_flush(a), b = ps_flush(b);
    uint32_t sign = (ps_bits32(a) ^ ps_bits32(b)) & 0x80000000u;
    if (i->flags & PS_FLAG_XOR_SIGN) a = fabsf(a), b = fabsf(b);
    float r = i->op == 0 ? less32(a, b) : more32(a, b);
    if ((i->flags & PS_FLAG_NAN) && (a != a || b != b)) r = ps_f32(0x7fffffffu);
    d[l] = (i->flags & PS_FLAG_XOR_SIGN) && r == r ? ps_f32(ps_bits32(r) | sign) : r;
  }
}
static ps_fn extreme(ps_form *f, uint8_t op, ps_fn fast32, ps_fn fast64) {
  set_flags(f);
  f->insn->op = op;
  bool plain = (f->insn->flags & (PS_FLAG_FTZ | PS_FLAG_NAN | PS_FLAG_XOR_SIGN)) == 0;
  if (f->type[0] == PS_f64) return plain ? fast64 : NULL;
  return plain ? fast32 : extreme_f32;
}
ps_fn ps_select_fmin(ps_form *f) { return extreme(f, 0, min_f32, min_f64); }
ps_fn ps_select_fmax(ps_form *f) { return extreme(f, 1, max_f32, max_f64); }

static void testp(ps_warp *w, const ps_insn *i) {
  uint32_t mask = 0;
  for (int l = 0; l < PS_LANES; l++) {
    double v = i->type == PS_f64 ? ((const double *)ps_src(w, i, 0))[l] : ((const float *)ps_src(w, i, 0))[l];
    int kind = i->type == PS_f64 ? fpclassify(v) : fpclassify((float)v);
    bool holds = false;
    switch ((ps_mod)i->op) {
      case PS_MOD_finite: holds = kind != FP_NAN && kind != FP_INFINITE; break;
      case PS_MOD_infinite: holds = kind == FP_INFINITE; break;
      case PS_MOD_number: holds = kind != FP_NAN; break;
      case PS_MOD_notanumber: holds = kind == FP_NAN; break;
      case PS_MOD_normal: holds = kind == FP_NORMAL; break;
      default: holds = kind == FP_SUBNORMAL; break;
    }
    if (holds) mask |= 1u << l;
  }
  ps_set_predicate(w, i->dst[0], mask);
}
ps_fn ps_select_testp(ps_form *f) {
  static const ps_mod kinds[] = {PS_MOD_finite, PS_MOD_infinite,   PS_MOD_number,
                                 PS_MOD_normal, PS_MOD_notanumber, PS_MOD_subnormal};
  for (size_t k = 0; k < QN_COUNT(kinds); k++) {
    if (ps_has(f, kinds[k])) f->insn->op = (uint8_t)kinds[k];
  }
  return testp;
}
