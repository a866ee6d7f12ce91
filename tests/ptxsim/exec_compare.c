// Comparisons, choices, logic of predicates. A comparison gives the mask of lanes for which it holds, in one function
// for setp and set, by operator and type.
#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/form.h"
#include "tests/ptxsim/numbers.h"

static const uint32_t lane_bit[PS_LANES] = {
    1u << 0,  1u << 1,  1u << 2,  1u << 3,  1u << 4,  1u << 5,  1u << 6,  1u << 7,  1u << 8,  1u << 9,  1u << 10,
    1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15, 1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20, 1u << 21,
    1u << 22, 1u << 23, 1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31};

#define COMPARE(name, T, LOAD, EXPR)                                  \
  static uint32_t name(const void *pa, const void *pb) {              \
    const T *va = pa, *vb = pb;                                       \
    uint32_t mask = 0;                                                \
    PS_VECTOR for (int l = 0; l < PS_LANES; l++) {                    \
      const __typeof__(LOAD(va[0])) a = LOAD(va[l]), b = LOAD(vb[l]); \
      mask |= (EXPR) ? lane_bit[l] : 0;                               \
    }                                                                 \
    return mask;                                                      \
  }
#define PLAIN(v) (v)
#define ORDERED(t, T, LOAD)             \
  COMPARE(eq_##t, T, LOAD, a == b)      \
  COMPARE(ne_##t, T, LOAD, a<b || a> b) \
  COMPARE(lt_##t, T, LOAD, a < b)       \
  COMPARE(le_##t, T, LOAD, a <= b)      \
  COMPARE(gt_##t, T, LOAD, a > b)       \
  COMPARE(ge_##t, T, LOAD, a >= b)
#define UNORDERED(t, T, LOAD)                  \
  COMPARE(equ_##t, T, LOAD, !(a < b || a > b)) \
  COMPARE(neu_##t, T, LOAD, !(a == b))         \
  COMPARE(ltu_##t, T, LOAD, !(a >= b))         \
  COMPARE(leu_##t, T, LOAD, !(a > b))          \
  COMPARE(gtu_##t, T, LOAD, !(a <= b))         \
  COMPARE(geu_##t, T, LOAD, !(a < b))          \
  COMPARE(num_##t, T, LOAD, a == a && b == b)  \
  COMPARE(nan_##t, T, LOAD, a != a || b != b)
ORDERED(u16, uint16_t, PLAIN)
ORDERED(s16, int16_t, PLAIN)
ORDERED(u32, uint32_t, PLAIN)
ORDERED(s32, int32_t, PLAIN)
ORDERED(u64, uint64_t, PLAIN)
ORDERED(s64, int64_t, PLAIN)
#define FLOATS(t, T, LOAD) ORDERED(t, T, LOAD) UNORDERED(t, T, LOAD)
FLOATS(f32, float, PLAIN)
FLOATS(ftz, float, ps_flush)
FLOATS(f64, double, PLAIN)
FLOATS(f16, uint16_t, ps_from_f16)
FLOATS(bf16, uint16_t, ps_from_bf16)
static inline float low16(uint32_t v) { return ps_from_f16((uint16_t)v); }
static inline float high16(uint32_t v) { return ps_from_f16((uint16_t)(v >> 16)); }
static inline float lowb16(uint32_t v) { return ps_from_bf16((uint16_t)v); }
static inline float highb16(uint32_t v) { return ps_from_bf16((uint16_t)(v >> 16)); }
FLOATS(f16_low, uint32_t, low16)
FLOATS(f16_high, uint32_t, high16)
FLOATS(bf16_low, uint32_t, lowb16)
FLOATS(bf16_high, uint32_t, highb16)

enum { OPERATORS = 14 };
static const ps_mod operators[OPERATORS] = {PS_MOD_eq,  PS_MOD_ne,  PS_MOD_lt,  PS_MOD_le,  PS_MOD_gt,
                                            PS_MOD_ge,  PS_MOD_equ, PS_MOD_neu, PS_MOD_ltu, PS_MOD_leu,
                                            PS_MOD_gtu, PS_MOD_geu, PS_MOD_num, PS_MOD_nan};
#define INT_ROW(t) \
  { eq_##t, ne_##t, lt_##t, le_##t, gt_##t, ge_##t }
#define FLOAT_ROW(t)                                                                                               \
  {                                                                                                                \
    eq_##t, ne_##t, lt_##t, le_##t, gt_##t, ge_##t, equ_##t, neu_##t, ltu_##t, leu_##t, gtu_##t, geu_##t, num_##t, \
        nan_##t                                                                                                    \
  }
static const ps_compare_fn by_type[PS_TYPE_COUNT][OPERATORS] = {
    [PS_b16] = INT_ROW(u16),  [PS_b32] = INT_ROW(u32),   [PS_b64] = INT_ROW(u64),     [PS_u16] = INT_ROW(u16),
    [PS_s16] = INT_ROW(s16),  [PS_u32] = INT_ROW(u32),   [PS_s32] = INT_ROW(s32),     [PS_u64] = INT_ROW(u64),
    [PS_s64] = INT_ROW(s64),  [PS_f16] = FLOAT_ROW(f16), [PS_bf16] = FLOAT_ROW(bf16), [PS_f32] = FLOAT_ROW(f32),
    [PS_f64] = FLOAT_ROW(f64)};
static const ps_compare_fn flushed[OPERATORS] = FLOAT_ROW(ftz);
static const ps_compare_fn halves[2][2][OPERATORS] = {{FLOAT_ROW(f16_low), FLOAT_ROW(f16_high)},
                                                      {FLOAT_ROW(bf16_low), FLOAT_ROW(bf16_high)}};

// The operator's index; lo, ls, hi and hs are lt, le, gt and ge of unsigned numbers.
static int operator_of(const ps_form *f) {
  if (ps_has(f, PS_MOD_lo)) return 2;
  if (ps_has(f, PS_MOD_ls)) return 3;
  if (ps_has(f, PS_MOD_hi)) return 4;
  if (ps_has(f, PS_MOD_hs)) return 5;
  for (int k = 0; k < OPERATORS; k++) {
    if (ps_has(f, operators[k])) return k;
  }
  return -1;
}

enum { COMBINE_NONE, COMBINE_AND, COMBINE_OR, COMBINE_XOR };
static uint32_t combine(uint8_t op, uint32_t a, uint32_t b) {
  return op == COMBINE_AND ? a & b : op == COMBINE_OR ? a | b : op == COMBINE_XOR ? a ^ b : a;
}

static void setp(ps_warp *w, const ps_insn *i) {
  uint32_t holds = i->compare(ps_src(w, i, 0), ps_src(w, i, 1)), p = holds, q = ~holds;
  if (i->op != COMBINE_NONE) {
    uint32_t c = ps_predicate(w, i, 2);
    p = combine(i->op, holds, c);
    q = combine(i->op, ~holds, c);
  }
  ps_set_predicate(w, i->dst[0], p);
  ps_set_predicate(w, i->dst[1], q);
}
ps_fn ps_select_setp(ps_form *f) {
  ps_insn *i = f->insn;
  int op = operator_of(f);
  i->compare = ps_has(f, PS_MOD_ftz) && f->type[0] == PS_f32 ? flushed[op] : by_type[f->type[0]][op];
  i->op = ps_has(f, PS_MOD_and)   ? COMBINE_AND
          : ps_has(f, PS_MOD_or)  ? COMBINE_OR
          : ps_has(f, PS_MOD_xor) ? COMBINE_XOR
                                  : COMBINE_NONE;
  return i->compare != NULL ? setp : NULL;
}

static void setp2(ps_warp *w, const ps_insn *i) {
  const void *a = ps_src(w, i, 0), *b = ps_src(w, i, 1);
  uint32_t low = halves[i->type == PS_bf16x2][0][i->op](a, b), high = halves[i->type == PS_bf16x2][1][i->op](a, b);
  ps_set_predicate(w, i->dst[0], low);
  ps_set_predicate(w, i->dst[1], high);
}
ps_fn ps_select_setp2(ps_form *f) {
  f->insn->op = (uint8_t)operator_of(f);
  return setp2;
}

static void set(ps_warp *w, const ps_insn *i) {
  uint32_t holds = i->compare(ps_src(w, i, 0), ps_src(w, i, 1));
  switch (i->type) {
    case PS_f32: {
      float *d = ps_dst(w, i, 0);
      PS_ASSIGN(float, d, holds >> l & 1 ? 1.0f : 0.0f);
      break;
    }
    case PS_u32:
    case PS_s32: {
      uint32_t *d = ps_dst(w, i, 0);
      PS_ASSIGN(uint32_t, d, holds >> l & 1 ? UINT32_MAX : 0);
      break;
    }
    default: {
      uint16_t *d = ps_dst(w, i, 0);
      const uint16_t one = i->type == PS_f16 ? 0x3c00 : i->type == PS_bf16 ? 0x3f80 : 0xffff;
      PS_ASSIGN(uint16_t, d, holds >> l & 1 ? one : 0);
      break;
    }
  }
}
ps_fn ps_select_set(ps_form *f) {
  int op = operator_of(f);
  f->insn->compare = ps_has(f, PS_MOD_ftz) && f->type[1] == PS_f32 ? flushed[op] : by_type[f->type[1]][op];
  return f->insn->compare != NULL ? set : NULL;
}

static void set2(ps_warp *w, const ps_insn *i) {
  const void *a = ps_src(w, i, 0), *b = ps_src(w, i, 1);
  bool bf = i->type2 == PS_bf16x2;
  uint32_t low = halves[bf][0][i->op](a, b), high = halves[bf][1][i->op](a, b);
  const uint32_t one = i->type == PS_f16x2 ? 0x3c00 : i->type == PS_bf16x2 ? 0x3f80 : 0xffff;
  uint32_t *d = ps_dst(w, i, 0);
  PS_ASSIGN(uint32_t, d, (low >> l & 1 ? one : 0) | (high >> l & 1 ? one << 16 : 0));
}
ps_fn ps_select_set2(ps_form *f) {
  f->insn->op = (uint8_t)operator_of(f);
  return set2;
}

// ---- choices ----

// What was never written may be chosen among: the choice is then as unwritten as what it took.
#define SELP(bits, T)                                                                            \
  static void selp_##bits(ps_warp *w, const ps_insn *i) {                                        \
    T *d = ps_dst(w, i, 0);                                                                      \
    const T *a = ps_src(w, i, 0), *b = ps_src(w, i, 1);                                          \
    const uint32_t c = ps_predicate(w, i, 2);                                                    \
    const uint32_t written = (c & *ps_written(w, i->src[0])) | (~c & *ps_written(w, i->src[1])); \
    PS_ASSIGN(T, d, c >> l & 1 ? a[l] : b[l]);                                                   \
    uint32_t *mine = ps_written(w, i->dst[0]);                                                   \
    *mine = (*mine & ~w->mask) | (written & w->mask);                                            \
  }
SELP(16, uint16_t)
SELP(32, uint32_t)
SELP(64, uint64_t)
ps_fn ps_select_selp(ps_form *f) {
  f->insn->flags |= PS_FLAG_OWN_INIT | PS_FLAG_RAW_SOURCE;
  unsigned bytes = ps_type_bytes(f->type[0]);
  return bytes == 2 ? selp_16 : bytes == 4 ? selp_32 : selp_64;
}

#define SLCT(bits, T)                                             \
  PS_TERNARY(slct_##bits##_s32, T, T, T, int32_t, c >= 0 ? a : b) \
  PS_TERNARY(slct_##bits##_f32, T, T, T, float, c >= 0 ? a : b)
SLCT(16, uint16_t)
SLCT(32, uint32_t)
SLCT(64, uint64_t)
ps_fn ps_select_slct(ps_form *f) {
  unsigned bytes = ps_type_bytes(f->type[0]);
  bool real = f->type[1] == PS_f32;
  if (bytes == 2) return real ? slct_16_f32 : slct_16_s32;
  if (bytes == 4) return real ? slct_32_f32 : slct_32_s32;
  return real ? slct_64_f32 : slct_64_s32;
}

// and, or, xor, not and mov of predicates
static void pred_logic(ps_warp *w, const ps_insn *i) {
  uint32_t a = ps_predicate(w, i, 0);
  ps_set_predicate(w, i->dst[0], i->src_count > 1 ? combine(i->op, a, ps_predicate(w, i, 1)) : a);
}
static void pred_not(ps_warp *w, const ps_insn *i) { ps_set_predicate(w, i->dst[0], ~ps_predicate(w, i, 0)); }
static ps_fn logic(ps_form *f, uint8_t op) {
  f->insn->op = op;
  return pred_logic;
}
ps_fn ps_select_pred_and(ps_form *f) { return logic(f, COMBINE_AND); }
ps_fn ps_select_pred_or(ps_form *f) { return logic(f, COMBINE_OR); }
ps_fn ps_select_pred_xor(ps_form *f) { return logic(f, COMBINE_XOR); }
ps_fn ps_select_pred_mov(ps_form *f) { return logic(f, COMBINE_NONE); }
ps_fn ps_select_pred_not(ps_form *f) {
  f->insn->op = COMBINE_NONE;
  return pred_not;
}
