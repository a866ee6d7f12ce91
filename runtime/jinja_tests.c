// Tests (x is ...): one entry of the table at the end each. All give booleans.
#include "runtime/jinja_impl.h"

#define TEST(name) static qn_status name(evaluation *e, value self, const value *args, const arguments *all, value *out)
#define GIVE(truth)                             \
  do {                                          \
    (void)e, (void)self, (void)args, (void)all; \
    *out = qn_jinja_bool(truth);                \
    return QN_OK;                               \
  } while (0)

static bool is_integer(value v) { return v.kind == QN_JINJA_INT; }
static bool is_sequence(value v) {
  return v.kind == QN_JINJA_STRING || v.kind == QN_JINJA_LIST || v.kind == QN_JINJA_TUPLE || v.kind == QN_JINJA_MAP ||
         v.kind == QN_JINJA_UNDEFINED;
}

// ---- kinds

TEST(test_boolean) { GIVE(self.kind == QN_JINJA_BOOL); }
TEST(test_callable) {
  GIVE(self.kind == QN_JINJA_FUNCTION || self.kind == QN_JINJA_MACRO || self.kind == QN_JINJA_UNDEFINED);
}
TEST(test_defined) { GIVE(self.kind != QN_JINJA_UNDEFINED); }
TEST(test_undefined) { GIVE(self.kind == QN_JINJA_UNDEFINED); }
TEST(test_false) { GIVE(self.kind == QN_JINJA_BOOL && !self.boolean); }
TEST(test_true) { GIVE(self.kind == QN_JINJA_BOOL && self.boolean); }
TEST(test_float) { GIVE(self.kind == QN_JINJA_FLOAT); }
TEST(test_integer) { GIVE(is_integer(self)); }
TEST(test_number) { GIVE(qn_jinja_is_number(self)); }
TEST(test_mapping) { GIVE(self.kind == QN_JINJA_MAP); }
TEST(test_none) { GIVE(self.kind == QN_JINJA_NONE); }
TEST(test_string) { GIVE(self.kind == QN_JINJA_STRING); }
TEST(test_sequence) { GIVE(is_sequence(self)); }
TEST(test_iterable) { GIVE(is_sequence(self)); }  // what has no end and no length is not there
TEST(test_filter) { GIVE(self.kind == QN_JINJA_STRING && qn_jinja_find_builtin(qn_jinja_filters, self.text)); }
TEST(test_test) { GIVE(self.kind == QN_JINJA_STRING && qn_jinja_find_builtin(qn_jinja_tests, self.text)); }

// ---- texts

// Is there a letter with a case, and none of the other one?
static qn_status has_case(evaluation *e, value v, letter_case to, value *out) {
  qn_str text;
  qn_buf same, other;
  QN_TRY(qn_jinja_text_of(e, v, &text));
  QN_TRY(qn_jinja_charge(e, text.length));
  qn_buf_init(&same, e->arena->allocator);
  qn_buf_init(&other, e->arena->allocator);
  qn_jinja_put_case(text, to, &same);
  qn_jinja_put_case(text, to == CASE_LOWER ? CASE_UPPER : CASE_LOWER, &other);
  *out = qn_jinja_bool(qn_str_equal(text, (qn_str){same.data, same.length}) &&
                       !qn_str_equal(text, (qn_str){other.data, other.length}));
  bool failed = same.failed || other.failed;
  qn_buf_deinit(&same);
  qn_buf_deinit(&other);
  return failed ? qn_jinja_nomem(e) : QN_OK;
}

TEST(test_lower) {
  (void)args, (void)all;
  return has_case(e, self, CASE_LOWER, out);
}
TEST(test_upper) {
  (void)args, (void)all;
  return has_case(e, self, CASE_UPPER, out);
}

// ---- numbers

static qn_status rest_is(evaluation *e, value v, value divisor, int64_t want, value *out) {
  value rest;
  QN_TRY(qn_jinja_arithmetic(e, OP_MODULO, v, divisor, &rest));
  *out = qn_jinja_bool(qn_jinja_is_number(rest) && qn_jinja_number_of(rest) == (double)want);
  return QN_OK;
}
TEST(test_even) {
  (void)args, (void)all;
  return rest_is(e, self, qn_jinja_int(2), 0, out);
}
TEST(test_odd) {
  (void)args, (void)all;
  return rest_is(e, self, qn_jinja_int(2), 1, out);
}
TEST(test_divisibleby) {
  (void)all;
  return rest_is(e, self, args[0], 0, out);
}

// ---- comparisons

static qn_status equals(evaluation *e, value a, value b, bool want, value *out) {
  bool equal;
  QN_TRY(qn_jinja_equal_values(e, a, b, &equal));
  *out = qn_jinja_bool(equal == want);
  return QN_OK;
}
TEST(test_equal) {
  (void)all;
  return equals(e, self, args[0], true, out);
}
TEST(test_unequal) {
  (void)all;
  return equals(e, self, args[0], false, out);
}

static qn_status has_order(evaluation *e, value a, value b, bool less, bool equal, value *out) {
  int order;
  QN_TRY(qn_jinja_compare_values(e, a, b, &order));
  *out = qn_jinja_bool(order == 0 ? equal : (order < 0) == less);
  return QN_OK;
}
TEST(test_less) {
  (void)all;
  return has_order(e, self, args[0], true, false, out);
}
TEST(test_less_equal) {
  (void)all;
  return has_order(e, self, args[0], true, true, out);
}
TEST(test_greater) {
  (void)all;
  return has_order(e, self, args[0], false, false, out);
}
TEST(test_greater_equal) {
  (void)all;
  return has_order(e, self, args[0], false, true, out);
}

TEST(test_in) {
  (void)all;
  bool is_there;
  QN_TRY(qn_jinja_contains_value(e, args[0], self, &is_there));
  GIVE(is_there);
}

// The same object: of values that cannot change, an equal one of the same kind.
TEST(test_sameas) {
  bool same = self.kind == args[0].kind;
  if (same && (self.kind == QN_JINJA_LIST || self.kind == QN_JINJA_TUPLE))
    same = self.list == args[0].list;
  else if (same && self.kind == QN_JINJA_MAP)
    same = self.map == args[0].map;
  else if (same)
    QN_TRY(qn_jinja_equal_values(e, self, args[0], &same));
  GIVE(same);
}

const qn_jinja_builtin qn_jinja_tests[] = {
    {"boolean", test_boolean, "", 0},
    {"callable", test_callable, "", 0},
    {"defined", test_defined, "", 0},
    {"divisibleby", test_divisibleby, "num", 1},
    {"eq", test_equal, "other", 1},
    {"equalto", test_equal, "other", 1},
    {"even", test_even, "", 0},
    {"false", test_false, "", 0},
    {"filter", test_filter, "", 0},
    {"float", test_float, "", 0},
    {"ge", test_greater_equal, "other", 1},
    {"greaterthan", test_greater, "other", 1},
    {"gt", test_greater, "other", 1},
    {"in", test_in, "seq", 1},
    {"integer", test_integer, "", 0},
    {"iterable", test_iterable, "", 0},
    {"le", test_less_equal, "other", 1},
    {"lessthan", test_less, "other", 1},
    {"lower", test_lower, "", 0},
    {"lt", test_less, "other", 1},
    {"mapping", test_mapping, "", 0},
    {"ne", test_unequal, "other", 1},
    {"none", test_none, "", 0},
    {"number", test_number, "", 0},
    {"odd", test_odd, "", 0},
    {"sameas", test_sameas, "other", 1},
    {"sequence", test_sequence, "", 0},
    {"string", test_string, "", 0},
    {"test", test_test, "", 0},
    {"true", test_true, "", 0},
    {"undefined", test_undefined, "", 0},
    {"upper", test_upper, "", 0},
    {"==", test_equal, "other", 1},
    {"!=", test_unequal, "other", 1},
    {"<", test_less, "other", 1},
    {"<=", test_less_equal, "other", 1},
    {">", test_greater, "other", 1},
    {">=", test_greater_equal, "other", 1},
    {NULL, NULL, NULL, 0},
};
