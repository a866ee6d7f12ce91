// Simplifying loop IR while it is made. Index expressions are brought into one form, a sum of coefficient * product
// terms, so that what tiling and unrolling substitute stays short, equal addresses compare equal and strides can be
// read off. i32 and f32 arithmetic is only folded where the result is exact.
#include <math.h>
#include <string.h>

#include "ir/loop.h"

// What does not fit is left as it stands: these bounds are for memory and time, not for meaning.
enum { MAX_FACTORS = 4, MAX_TERMS = 16 };

typedef struct term {
  int64_t coefficient;
  int count;                             // factors, at least 1
  const qn_lexpr *factors[MAX_FACTORS];  // sorted by compare_factor
} term;

typedef struct sum {
  term terms[MAX_TERMS];
  int count;
  int64_t constant;
} sum;

// --- integer helpers

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }  // b > 0
static int64_t floor_mod(int64_t a, int64_t b) { return a % b + (a % b < 0 ? b : 0); }

static int64_t gcd(int64_t a, int64_t b) {  // of a > 0 and any b that is not INT64_MIN
  if (b < 0) b = -b;
  while (b != 0) {
    int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

static uint64_t magnitude(int64_t x) { return x < 0 ? 0 - (uint64_t)x : (uint64_t)x; }

// --- ranges

static const qn_lrange UNKNOWN = {INT64_MIN, INT64_MAX};

static qn_lrange range_add(qn_lrange a, qn_lrange b) {
  qn_lrange out;
  if (a.min == INT64_MIN || b.min == INT64_MIN || __builtin_add_overflow(a.min, b.min, &out.min)) out.min = INT64_MIN;
  if (a.max == INT64_MAX || b.max == INT64_MAX || __builtin_add_overflow(a.max, b.max, &out.max)) out.max = INT64_MAX;
  return out;
}

static qn_lrange range_scale(qn_lrange a, int64_t c) {
  if (c == 0) return (qn_lrange){0, 0};
  qn_lrange out;
  bool no_min = a.min == INT64_MIN, no_max = a.max == INT64_MAX;
  if (c > 0) {
    if (no_min || __builtin_mul_overflow(a.min, c, &out.min)) out.min = INT64_MIN;
    if (no_max || __builtin_mul_overflow(a.max, c, &out.max)) out.max = INT64_MAX;
  } else {
    if (no_max || __builtin_mul_overflow(a.max, c, &out.min)) out.min = INT64_MIN;
    if (no_min || __builtin_mul_overflow(a.min, c, &out.max)) out.max = INT64_MAX;
  }
  return out;
}

static qn_lrange range_mul(qn_lrange a, qn_lrange b) {
  if (a.min == a.max) return range_scale(b, a.min);
  if (b.min == b.max) return range_scale(a, b.min);
  if (a.min < 0 || b.min < 0) return UNKNOWN;
  qn_lrange out;
  if (__builtin_mul_overflow(a.min, b.min, &out.min)) out.min = 0;
  if (a.max == INT64_MAX || b.max == INT64_MAX || __builtin_mul_overflow(a.max, b.max, &out.max)) out.max = INT64_MAX;
  return out;
}

// Of x / y and x % y; y is positive wherever these have a meaning.
static qn_lrange range_div(qn_lrange x, qn_lrange y) {
  if (y.min == y.max && y.min > 0) {
    return (qn_lrange){x.min == INT64_MIN ? x.min : floor_div(x.min, y.min),
                       x.max == INT64_MAX ? x.max : floor_div(x.max, y.min)};
  }
  return x.min >= 0 ? (qn_lrange){0, x.max} : UNKNOWN;
}

static qn_lrange range_mod(qn_lrange x, qn_lrange y) {
  if (y.min == y.max && x.min >= 0 && x.max < y.min) return x;
  return (qn_lrange){0, y.max == INT64_MAX || y.max < 1 ? INT64_MAX : y.max - 1};
}

static int64_t last_below(int64_t end) { return end == INT64_MIN ? end : end - 1; }

qn_lrange qn_lexpr_range(const qn_lexpr *e) {
  qn_lrange x = UNKNOWN, y = UNKNOWN;
  int operands = qn_lop_info_of(e->op)->operands;
  if (e->type.kind != QN_LK_INDEX && e->op != QN_LX_INT) return UNKNOWN;
  if (operands >= 2) {
    x = qn_lexpr_range(e->operands[operands - 2]);  // of select, the two values
    y = qn_lexpr_range(e->operands[operands - 1]);
  }
  switch (e->op) {
    case QN_LX_INT: return (qn_lrange){e->u.int_value, e->u.int_value};
    case QN_LX_VAR: return (qn_lrange){e->u.var->lo, e->u.var->bounded ? last_below(e->u.var->hi) : INT64_MAX};
    case QN_LX_SYM: return (qn_lrange){0, INT64_MAX};
    case QN_LX_LANE: return (qn_lrange){0, e->type.lanes - 1};
    case QN_LX_ADD: return range_add(x, y);
    case QN_LX_SUB: return range_add(x, range_scale(y, -1));
    case QN_LX_MUL: return range_mul(x, y);
    case QN_LX_DIV: return range_div(x, y);
    case QN_LX_MOD: return range_mod(x, y);
    case QN_LX_MIN: return (qn_lrange){x.min < y.min ? x.min : y.min, x.max < y.max ? x.max : y.max};
    case QN_LX_MAX: return (qn_lrange){x.min > y.min ? x.min : y.min, x.max > y.max ? x.max : y.max};
    case QN_LX_SELECT: return (qn_lrange){x.min < y.min ? x.min : y.min, x.max > y.max ? x.max : y.max};
    case QN_LX_NEG: return range_scale(qn_lexpr_range(e->operands[0]), -1);
    case QN_LX_TO_INDEX: return (qn_lrange){INT32_MIN, INT32_MAX};
    default: return UNKNOWN;
  }
}

static qn_lrange sum_range(const sum *s) {
  qn_lrange out = {s->constant, s->constant};
  for (int i = 0; i < s->count; i++) {
    qn_lrange product = {1, 1};
    for (int j = 0; j < s->terms[i].count; j++) product = range_mul(product, qn_lexpr_range(s->terms[i].factors[j]));
    out = range_add(out, range_scale(product, s->terms[i].coefficient));
  }
  return out;
}

// --- sums of terms. Functions that return bool give false when something overflows or does not fit.

// Sums stand before other factors: (a + b)*(c + d)*e is read again as it was built, where e*(a + b)*(c + d) would be
// multiplied out.
static int compare_factor(const qn_lexpr *a, const qn_lexpr *b) {
  bool sum_a = a->op == QN_LX_ADD || a->op == QN_LX_SUB, sum_b = b->op == QN_LX_ADD || b->op == QN_LX_SUB;
  if (sum_a != sum_b) return sum_a ? -1 : 1;
  return qn_lexpr_compare(a, b);
}

static int compare_factors(const term *a, const term *b) {
  for (int i = 0; i < a->count && i < b->count; i++) {
    int order = compare_factor(a->factors[i], b->factors[i]);
    if (order != 0) return order;
  }
  return a->count - b->count;
}

static bool sum_add_term(sum *s, const term *t) {
  if (t->coefficient == 0) return true;
  for (int i = 0; i < s->count; i++) {
    int64_t *coefficient = &s->terms[i].coefficient;
    if (compare_factors(&s->terms[i], t) != 0) continue;
    if (__builtin_add_overflow(*coefficient, t->coefficient, coefficient)) return false;
    if (*coefficient == 0) s->terms[i] = s->terms[--s->count];
    return true;
  }
  if (s->count == MAX_TERMS) return false;
  s->terms[s->count++] = *t;
  return true;
}

static bool sum_add_constant(sum *s, int64_t value, int64_t scale) {
  int64_t product;
  return !__builtin_mul_overflow(value, scale, &product) && !__builtin_add_overflow(s->constant, product, &s->constant);
}

static bool sum_add_atom(sum *s, const qn_lexpr *e, int64_t scale) {
  return sum_add_term(s, &(term){.coefficient = scale, .count = 1, .factors = {e}});
}

static bool sum_add_scaled(sum *s, const sum *from, int64_t scale) {
  for (int i = 0; i < from->count; i++) {
    term t = from->terms[i];
    if (__builtin_mul_overflow(t.coefficient, scale, &t.coefficient) || !sum_add_term(s, &t)) return false;
  }
  return sum_add_constant(s, from->constant, scale);
}

static bool term_multiply(term *t, const term *by) {
  if (t->count + by->count > MAX_FACTORS) return false;
  if (__builtin_mul_overflow(t->coefficient, by->coefficient, &t->coefficient)) return false;
  for (int i = 0; i < by->count; i++) {
    int at = t->count++;
    for (; at > 0 && compare_factor(t->factors[at - 1], by->factors[i]) > 0; at--) t->factors[at] = t->factors[at - 1];
    t->factors[at] = by->factors[i];
  }
  return true;
}

static bool sum_is_monomial(const sum *s) { return s->count + (s->constant != 0) <= 1; }

// out = x * y, where y is a monomial.
static bool sum_multiply(const sum *x, const sum *y, sum *out) {
  *out = (sum){.count = 0};
  if (y->count == 0) return sum_add_scaled(out, x, y->constant);
  for (int i = 0; i < x->count; i++) {
    term t = x->terms[i];
    if (!term_multiply(&t, &y->terms[0]) || !sum_add_term(out, &t)) return false;
  }
  term t = y->terms[0];
  return !__builtin_mul_overflow(t.coefficient, x->constant, &t.coefficient) && sum_add_term(out, &t);
}

static bool sum_add(sum *s, const qn_lexpr *e, int64_t scale);

// s += scale * e for a product. Products of two sums are not multiplied out: they could grow without bound.
static bool sum_add_product(sum *s, const qn_lexpr *e, int64_t scale) {
  sum x = {.count = 0}, y = {.count = 0}, product;
  if (!sum_add(&x, e->operands[0], 1) || !sum_add(&y, e->operands[1], 1)) return sum_add_atom(s, e, scale);
  bool done = false;
  if (sum_is_monomial(&y)) {
    done = sum_multiply(&x, &y, &product);
  } else if (sum_is_monomial(&x)) {
    done = sum_multiply(&y, &x, &product);
  } else {
    term t = {.coefficient = 1, .count = 1, .factors = {e->operands[0]}};
    done = term_multiply(&t, &(term){.coefficient = 1, .count = 1, .factors = {e->operands[1]}});
    product = (sum){.count = 1, .terms = {t}};
  }
  return done ? sum_add_scaled(s, &product, scale) : sum_add_atom(s, e, scale);
}

// s += scale * e.
static bool sum_add(sum *s, const qn_lexpr *e, int64_t scale) {
  if (e->type.kind != QN_LK_INDEX) return sum_add_atom(s, e, scale);
  switch (e->op) {
    case QN_LX_INT: return sum_add_constant(s, e->u.int_value, scale);
    case QN_LX_ADD: return sum_add(s, e->operands[0], scale) && sum_add(s, e->operands[1], scale);
    case QN_LX_SUB:
      return scale != INT64_MIN && sum_add(s, e->operands[0], scale) && sum_add(s, e->operands[1], -scale);
    case QN_LX_NEG: return scale != INT64_MIN && sum_add(s, e->operands[0], -scale);
    case QN_LX_MUL: return sum_add_product(s, e, scale);
    default: return sum_add_atom(s, e, scale);
  }
}

// Is t the single factor x / c or x % c, c a positive constant?
static bool term_is(const term *t, qn_lop op, int64_t *out_divisor) {
  return t->count == 1 && t->factors[0]->op == op && t->factors[0]->type.kind == QN_LK_INDEX &&
         qn_lexpr_is_int(t->factors[0]->operands[1], out_divisor) && *out_divisor > 0;
}

// k * (x % c) + k * c * (x / c) is k * x.
static bool sum_recombine(sum *s) {
  for (int i = 0; i < s->count; i++) {
    int64_t c, d, want;
    if (!term_is(&s->terms[i], QN_LX_MOD, &c) || __builtin_mul_overflow(s->terms[i].coefficient, c, &want)) continue;
    const qn_lexpr *x = s->terms[i].factors[0]->operands[0];
    for (int j = 0; j < s->count; j++) {
      if (!term_is(&s->terms[j], QN_LX_DIV, &d) || d != c || s->terms[j].coefficient != want) continue;
      if (!qn_lexpr_equal(s->terms[j].factors[0]->operands[0], x)) continue;
      int64_t scale = s->terms[i].coefficient;
      int last = i > j ? i : j, first = i > j ? j : i;
      s->terms[last] = s->terms[--s->count];
      s->terms[first] = s->terms[--s->count];
      return sum_add(s, x, scale) && sum_recombine(s);
    }
  }
  return true;
}

static bool term_is_scalar(const term *t) {
  for (int i = 0; i < t->count; i++) {
    if (t->factors[i]->type.lanes > 1) return false;
  }
  return true;
}

// The order in which terms are added: what a vector shares by all lanes first, what is subtracted last, then from
// the outer loops' strides to the inner ones'.
static int compare_terms(const term *a, const term *b) {
  bool scalar_a = term_is_scalar(a), scalar_b = term_is_scalar(b);
  if (scalar_a != scalar_b) return scalar_a ? -1 : 1;
  if ((a->coefficient < 0) != (b->coefficient < 0)) return a->coefficient > 0 ? -1 : 1;
  uint64_t size_a = magnitude(a->coefficient), size_b = magnitude(b->coefficient);
  if (size_a != size_b) return size_a > size_b ? -1 : 1;
  return compare_factors(a, b);
}

static void sum_sort(sum *s) {
  for (int i = 1; i < s->count; i++) {
    term t = s->terms[i];
    int at = i;
    for (; at > 0 && compare_terms(&s->terms[at - 1], &t) > 0; at--) s->terms[at] = s->terms[at - 1];
    s->terms[at] = t;
  }
}

static const qn_lexpr *make2(qn_lbuild *b, qn_lop op, const qn_lexpr *x, const qn_lexpr *y) {
  return x && y ? qn_lexpr_make(b, &(qn_lexpr){.op = op, .operands = {x, y}}) : NULL;
}

// The expression of a sum; NULL when out of memory. Sorts it on the way.
static const qn_lexpr *sum_build(qn_lbuild *b, sum *s) {
  const qn_lexpr *out = NULL;
  sum_sort(s);
  for (int i = 0; i < s->count; i++) {
    const term *t = &s->terms[i];
    bool minus = out && t->coefficient < 0 && t->coefficient != INT64_MIN;
    int64_t coefficient = minus ? -t->coefficient : t->coefficient;
    const qn_lexpr *product = t->factors[0];
    for (int j = 1; j < t->count; j++) product = make2(b, QN_LX_MUL, product, t->factors[j]);
    if (coefficient != 1) product = make2(b, QN_LX_MUL, product, qn_lint(b, coefficient));
    out = out ? make2(b, minus ? QN_LX_SUB : QN_LX_ADD, out, product) : product;
    if (!out) return NULL;
  }
  if (!out) return qn_lint(b, s->constant);
  if (s->constant == 0) return out;
  bool minus = s->constant < 0 && s->constant != INT64_MIN;
  return make2(b, minus ? QN_LX_SUB : QN_LX_ADD, out, qn_lint(b, minus ? -s->constant : s->constant));
}

bool qn_lexpr_linear(qn_lbuild *b, const qn_lexpr *e, const qn_lvar *var, int64_t *out_coefficient,
                     const qn_lexpr **out_rest) {
  *out_coefficient = 0;
  *out_rest = e;
  if (!qn_lexpr_uses(e, var)) return true;
  sum s = {.count = 0}, rest;
  if (e->type.kind != QN_LK_INDEX || !sum_add(&s, e, 1)) return false;
  rest = (sum){.constant = s.constant};
  for (int i = 0; i < s.count; i++) {
    const term *t = &s.terms[i];
    bool uses = false;
    for (int j = 0; j < t->count; j++) uses = uses || qn_lexpr_uses(t->factors[j], var);
    if (!uses) {
      rest.terms[rest.count++] = *t;
    } else if (t->count == 1 && t->factors[0]->op == QN_LX_VAR) {
      *out_coefficient = t->coefficient;
    } else {
      return false;
    }
  }
  *out_rest = sum_build(b, &rest);
  return *out_rest != NULL;
}

// --- floor division and modulo

// Splits x into c * whole + rest, rest holding the terms whose coefficients c does not divide and 0 <= rest.constant <
// c.
static void sum_split(const sum *x, int64_t c, sum *whole, sum *rest) {
  *whole = (sum){.constant = floor_div(x->constant, c)};
  *rest = (sum){.constant = floor_mod(x->constant, c)};
  for (int i = 0; i < x->count; i++) {
    bool divides = x->terms[i].coefficient % c == 0;
    sum *to = divides ? whole : rest;
    to->terms[to->count] = x->terms[i];
    if (divides) to->terms[to->count].coefficient /= c;
    to->count++;
  }
}

// What is left of rest / c or rest % c after dividing both by their common divisor: a node, simplified once more when
// it is a quotient of a quotient or a remainder of a remainder.
static const qn_lexpr *divide_atom(qn_lbuild *b, qn_lop op, sum *rest, int64_t c) {
  int64_t d, product;
  if (rest->count == 1 && rest->terms[0].coefficient == 1 && rest->constant == 0 && term_is(&rest->terms[0], op, &d)) {
    const qn_lexpr *inner = rest->terms[0].factors[0]->operands[0];
    if (op == QN_LX_DIV && !__builtin_mul_overflow(d, c, &product)) return qn_lop2(b, op, inner, qn_lint(b, product));
    if (op == QN_LX_MOD && d % c == 0) return qn_lop2(b, op, inner, qn_lint(b, c));
  }
  return make2(b, op, sum_build(b, rest), qn_lint(b, c));
}

// x / c or x % c, c > 0; NULL when it stays as it is.
static const qn_lexpr *simplify_divide(qn_lbuild *b, qn_lop op, const qn_lexpr *x, int64_t c) {
  sum s = {.count = 0}, whole, rest, out = {.count = 0};
  if (!sum_add(&s, x, 1) || !sum_recombine(&s)) return NULL;
  sum_split(&s, c, &whole, &rest);
  if (op == QN_LX_DIV) out = whole;
  qn_lrange range = sum_range(&rest);
  bool known = range.min != INT64_MIN && range.max != INT64_MAX && floor_div(range.min, c) == floor_div(range.max, c);
  if (known) {
    int64_t quotient = floor_div(range.min, c);
    bool fits = op == QN_LX_DIV ? sum_add_constant(&out, quotient, 1)
                                : sum_add_scaled(&out, &rest, 1) && sum_add_constant(&out, quotient, -c);
    return fits ? sum_build(b, &out) : NULL;
  }
  int64_t common = c;
  for (int i = 0; i < rest.count; i++) {
    if (rest.terms[i].coefficient == INT64_MIN) return NULL;
    common = gcd(common, rest.terms[i].coefficient);
  }
  for (int i = 0; i < rest.count; i++) rest.terms[i].coefficient /= common;
  int64_t low = rest.constant % common;  // what the common divisor leaves of the constant
  rest.constant /= common;
  const qn_lexpr *atom = divide_atom(b, op, &rest, c / common);
  if (!atom) return NULL;
  bool fits = op == QN_LX_DIV ? sum_add(&out, atom, 1) : sum_add(&out, atom, common) && sum_add_constant(&out, low, 1);
  return fits ? sum_build(b, &out) : NULL;
}

// --- decisions by range

// The range of x - y.
static qn_lrange difference(const qn_lexpr *x, const qn_lexpr *y) {
  sum s = {.count = 0};
  if (sum_add(&s, x, 1) && sum_add(&s, y, -1)) return sum_range(&s);
  return range_add(qn_lexpr_range(x), range_scale(qn_lexpr_range(y), -1));
}

// 1 or 0 when the predicate is the same in every lane and every iteration, -1 when not known.
static int decide(const qn_lexpr *e) {
  const qn_lexpr *x = e->operands[0], *y = e->operands[1];
  qn_lrange d;
  int p, q;
  switch (e->op) {
    case QN_LX_AND:
    case QN_LX_OR:
      p = decide(x);
      q = decide(y);
      if (e->op == QN_LX_AND) return p == 0 || q == 0 ? 0 : p == 1 && q == 1 ? 1 : -1;
      return p == 1 || q == 1 ? 1 : p == 0 && q == 0 ? 0 : -1;
    case QN_LX_LT:
    case QN_LX_LE:
    case QN_LX_EQ: break;
    default: return -1;
  }
  if (x->type.kind != y->type.kind) return -1;
  if (x->type.kind == QN_LK_INDEX) {
    d = difference(x, y);
  } else if (x->op == QN_LX_INT && y->op == QN_LX_INT) {
    d = (qn_lrange){x->u.int_value - y->u.int_value, x->u.int_value - y->u.int_value};
  } else if (x->op == QN_LX_FLOAT && y->op == QN_LX_FLOAT) {
    float a = x->u.float_value, c = y->u.float_value;
    return e->op == QN_LX_LT ? a < c : e->op == QN_LX_LE ? a <= c : a == c;
  } else {
    return -1;
  }
  if (e->op == QN_LX_LT) return d.max < 0 ? 1 : d.min >= 0 ? 0 : -1;
  if (e->op == QN_LX_LE) return d.max <= 0 ? 1 : d.min > 0 ? 0 : -1;
  return d.min == 0 && d.max == 0 ? 1 : d.min > 0 || d.max < 0 ? 0 : -1;
}

// --- folding: NULL where nothing folds. The node folded is the caller's temporary: it must not come back in a result.

static const qn_lexpr *fold_sum(qn_lbuild *b, const qn_lexpr *e) {
  sum s = {.count = 0};
  if (!sum_add(&s, e, 1) || !sum_recombine(&s)) return NULL;
  const qn_lexpr *out = sum_build(b, &s);
  return out == e ? NULL : out;  // a product that stays one is its own only term
}

static const qn_lexpr *fold_index(qn_lbuild *b, const qn_lexpr *e) {
  const qn_lexpr *x = e->operands[0], *y = e->operands[1];
  int64_t divisor;
  qn_lrange d;
  switch (e->op) {
    case QN_LX_ADD:
    case QN_LX_SUB:
    case QN_LX_MUL:
    case QN_LX_NEG: return fold_sum(b, e);
    case QN_LX_DIV:
    case QN_LX_MOD:
      if (!qn_lexpr_is_int(y, &divisor) || divisor <= 0) return NULL;
      return simplify_divide(b, e->op, x, divisor);
    case QN_LX_MIN:
    case QN_LX_MAX:
      d = difference(x, y);
      if (d.max <= 0) return e->op == QN_LX_MIN ? x : y;
      if (d.min >= 0) return e->op == QN_LX_MIN ? y : x;
      return qn_lexpr_compare(x, y) > 0 ? make2(b, e->op, y, x) : NULL;
    case QN_LX_TO_INDEX:
      if (x->op == QN_LX_INT) return qn_lint(b, x->u.int_value);
      if (x->op != QN_LX_TO_I32 || x->operands[0]->type.kind != QN_LK_INDEX) return NULL;
      d = qn_lexpr_range(x->operands[0]);
      return d.min >= INT32_MIN && d.max <= INT32_MAX ? x->operands[0] : NULL;
    default: return NULL;
  }
}

// i32 x op y of constants, wrapping; false when it has no value (a division by what is not positive).
static bool fold_i32_values(qn_lop op, int32_t x, int32_t y, int32_t *out) {
  uint32_t a = (uint32_t)x, c = (uint32_t)y;
  switch (op) {
    case QN_LX_ADD: *out = (int32_t)(a + c); return true;
    case QN_LX_SUB: *out = (int32_t)(a - c); return true;
    case QN_LX_MUL: *out = (int32_t)(a * c); return true;
    case QN_LX_DIV: *out = y > 0 ? (int32_t)floor_div(x, y) : 0; return y > 0;
    case QN_LX_MOD: *out = y > 0 ? (int32_t)floor_mod(x, y) : 0; return y > 0;
    case QN_LX_MIN: *out = x < y ? x : y; return true;
    case QN_LX_MAX: *out = x > y ? x : y; return true;
    case QN_LX_AND: *out = (int32_t)(a & c); return true;
    case QN_LX_OR: *out = (int32_t)(a | c); return true;
    case QN_LX_XOR: *out = (int32_t)(a ^ c); return true;
    case QN_LX_SHL: *out = c < 32 ? (int32_t)(a << c) : 0; return c < 32;
    case QN_LX_SHR: *out = c < 32 ? (int32_t)(a >> c) : 0; return c < 32;
    default: return false;
  }
}

// x op y with one constant that makes it x, or that constant.
static const qn_lexpr *fold_i32_identity(qn_lop op, const qn_lexpr *x, const qn_lexpr *y) {
  bool x_constant = x->op == QN_LX_INT, y_constant = y->op == QN_LX_INT;
  int64_t a = x_constant ? x->u.int_value : -1, c = y_constant ? y->u.int_value : -1;
  switch (op) {
    case QN_LX_ADD:
    case QN_LX_OR:
    case QN_LX_XOR:
      if (x_constant && a == 0) return y;
      return y_constant && c == 0 ? x : NULL;
    case QN_LX_SUB:
    case QN_LX_SHL:
    case QN_LX_SHR: return y_constant && c == 0 ? x : NULL;
    case QN_LX_MUL:
      if (x_constant && (a == 0 || a == 1)) return a ? y : x;
      return y_constant && (c == 0 || c == 1) ? (c ? x : y) : NULL;
    case QN_LX_DIV: return y_constant && c == 1 ? x : NULL;
    default: return NULL;
  }
}

// shl(and(shr(x, c), mask), d) with constants moves the masked bits by the difference.
static const qn_lexpr *fold_masked_shifts(qn_lbuild *b, const qn_lexpr *x, const qn_lexpr *y) {
  int64_t mask, right, left;
  if (!qn_lexpr_is_int(y, &left) || left < 0 || left > 31 || x->op != QN_LX_AND) return NULL;
  const qn_lexpr *inner = x->operands[0];
  if (!qn_lexpr_is_int(x->operands[1], &mask) || inner->op != QN_LX_SHR) return NULL;
  if (!qn_lexpr_is_int(inner->operands[1], &right) || right < 0 || right > 31) return NULL;
  const qn_lexpr *bits = right > left ? qn_lop2(b, QN_LX_SHR, inner->operands[0], qn_li32(b, (int32_t)(right - left)))
                                      : qn_lop2(b, QN_LX_SHL, inner->operands[0], qn_li32(b, (int32_t)(left - right)));
  return qn_lop2(b, QN_LX_AND, bits, qn_li32(b, (int32_t)((uint32_t)mask << left)));
}

// What is looked up, with the same bits of every byte flipped: a table that holds it so.
static const qn_lexpr *fold_flipped_table(qn_lbuild *b, const qn_lexpr *x, const qn_lexpr *y) {
  uint8_t table[sizeof x->u.table];
  if (x->op != QN_LX_LUT16 || y->op != QN_LX_INT) return NULL;
  uint32_t flip = (uint32_t)y->u.int_value;
  if (flip != (flip & 0xff) * UINT32_C(0x01010101)) return NULL;
  for (size_t i = 0; i < sizeof table; i++) table[i] = x->u.table[i] ^ (uint8_t)flip;
  return qn_llut16(b, x->operands[0], table);
}

static const qn_lexpr *fold_i32(qn_lbuild *b, const qn_lexpr *e) {
  const qn_lexpr *x = e->operands[0], *y = e->operands[1];
  int32_t value;
  if (e->op == QN_LX_NEG && x->op == QN_LX_INT) return qn_li32(b, (int32_t)(0u - (uint32_t)x->u.int_value));
  if (e->op == QN_LX_TO_I32) {
    if (x->op == QN_LX_TO_INDEX) return x->operands[0];
    if (x->op == QN_LX_INT && x->u.int_value >= INT32_MIN && x->u.int_value <= INT32_MAX)
      return qn_li32(b, (int32_t)x->u.int_value);
    float f = x->op == QN_LX_FLOAT ? x->u.float_value : 0.5f;
    return f >= -0x1p31f && f < 0x1p31f && f == truncf(f) ? qn_li32(b, (int32_t)f) : NULL;
  }
  if (e->op == QN_LX_LUT16 && x->op == QN_LX_INT) {
    return qn_li32(b, (int32_t)qn_lut16(e->u.table, (uint32_t)x->u.int_value));
  }
  if (e->op == QN_LX_AS_I32 && x->op == QN_LX_FLOAT && !isnan(x->u.float_value)) {
    memcpy(&value, &x->u.float_value, sizeof value);
    return qn_li32(b, value);
  }
  if (!y || x->type.kind != QN_LK_I32 || y->type.kind != QN_LK_I32) return NULL;
  if (x->op == QN_LX_INT && y->op == QN_LX_INT) {
    return fold_i32_values(e->op, (int32_t)x->u.int_value, (int32_t)y->u.int_value, &value) ? qn_li32(b, value) : NULL;
  }
  const qn_lexpr *moved = e->op == QN_LX_SHL   ? fold_masked_shifts(b, x, y)
                          : e->op == QN_LX_XOR ? fold_flipped_table(b, x, y)
                                               : NULL;
  return moved ? moved : fold_i32_identity(e->op, x, y);
}

// One IEEE single operation on constants; results that are NaN are left to the machine that runs it.
static const qn_lexpr *fold_f32(qn_lbuild *b, const qn_lexpr *e) {
  float v[3] = {0, 0, 0}, out;
  if (e->op == QN_LX_TO_F32 || e->op == QN_LX_AS_F32) {
    if (e->operands[0]->op != QN_LX_INT || e->operands[0]->type.kind != QN_LK_I32) return NULL;
    int32_t bits = (int32_t)e->operands[0]->u.int_value;
    if (e->op == QN_LX_TO_F32) return qn_lf32(b, (float)bits);
    memcpy(&out, &bits, sizeof out);
    return isnan(out) ? NULL : qn_lf32(b, out);
  }
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++) {
    if (e->operands[i]->op != QN_LX_FLOAT) return NULL;
    v[i] = e->operands[i]->u.float_value;
  }
  switch (e->op) {
    case QN_LX_ADD: out = v[0] + v[1]; break;
    case QN_LX_SUB: out = v[0] - v[1]; break;
    case QN_LX_MUL: out = v[0] * v[1]; break;
    case QN_LX_DIV: out = v[0] / v[1]; break;
    case QN_LX_MIN: out = v[0] < v[1] ? v[0] : v[1]; break;
    case QN_LX_MAX: out = v[0] > v[1] ? v[0] : v[1]; break;
    case QN_LX_NEG: out = -v[0]; break;
    case QN_LX_ABS: out = fabsf(v[0]); break;
    case QN_LX_SQRT: out = sqrtf(v[0]); break;
    case QN_LX_ROUND: out = nearbyintf(v[0]); break;
    case QN_LX_FMA: out = fmaf(v[0], v[1], v[2]); break;
    default: return NULL;
  }
  return isnan(out) ? NULL : qn_lf32(b, out);
}

const qn_lexpr *qn_lexpr_simplify(qn_lbuild *b, const qn_lexpr *node) {
  const qn_lop_info *info = qn_lop_info_of(node->op);
  for (int i = 0; i < info->operands; i++) {
    if (!node->operands[i]) return NULL;
  }
  if (b->failed) return NULL;
  if (info->operands == 0 || node->op == QN_LX_LOAD) return qn_lexpr_make(b, node);
  qn_lexpr typed = *node;
  typed.type = qn_lop_type(node->op, node->operands);
  const qn_lexpr *simple = NULL;
  if (node->op == QN_LX_SELECT) {
    int taken = decide(node->operands[0]);
    if (taken >= 0) simple = node->operands[taken ? 1 : 2];
  } else if (typed.type.kind == QN_LK_INDEX) {
    simple = fold_index(b, &typed);
  } else if (typed.type.kind == QN_LK_I32) {
    simple = fold_i32(b, &typed);
  } else if (typed.type.kind == QN_LK_F32) {
    simple = fold_f32(b, &typed);
  }
  if (b->failed) return NULL;
  // A vector that became one number would turn a gather into a load of neighbours: keep its lanes.
  if (simple && simple->type.kind == typed.type.kind && simple->type.lanes == typed.type.lanes) return simple;
  return qn_lexpr_make(b, &typed);
}
