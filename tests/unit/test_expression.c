// The expressions of templates: values, types, what is refused and where, and texts with placeholders.
#include <stdio.h>

#include "frontend/import/expression.h"
#include "tests/support/test.h"

// hidden = 64, heads = 8, eps = 0.5, kind = 'pairs', big = 2^62; a list kinds of 'full' and 'part'; a weight w of 5 rows
// and 7 columns, no weight absent.
static qn_status scope_name(void *context, const char *where, qn_str name, qn_value *out, qn_diag *diag) {
  static const struct {
    const char *name;
    qn_value value;
  } names[] = {
      {"hidden", {.kind = QN_VALUE_INT, .i = 64}},
      {"heads", {.kind = QN_VALUE_INT, .i = 8}},
      {"rows", {.kind = QN_VALUE_INT, .i = 3}},  // a function's name, too
      {"big", {.kind = QN_VALUE_INT, .i = INT64_C(1) << 62}},
      {"eps", {.kind = QN_VALUE_FLOAT, .f = 0.5}},
      {"kind", {.kind = QN_VALUE_TEXT, .text = {"pairs", 5}}},
  };
  if (context) ++*(int *)context;  // lookups
  for (size_t i = 0; i < QN_COUNT(names); i++) {
    if (!qn_str_is(name, names[i].name)) continue;
    if (out) *out = names[i].value;
    return QN_OK;
  }
  return qn_fail(diag, QN_ERR_FORMAT, where, "unknown name '%.*s'", QN_STR_ARGS(name));
}

static qn_status scope_item(void *context, const char *where, qn_str name, int64_t index, qn_value *out,
                            qn_diag *diag) {
  (void)context;
  if (!qn_str_is(name, "kinds")) return qn_fail(diag, QN_ERR_FORMAT, where, "'%.*s' is no list", QN_STR_ARGS(name));
  if (!out) return QN_OK;
  if (index < 0 || index > 1) return qn_fail(diag, QN_ERR_FORMAT, where, "no item %lld", (long long)index);
  *out = qn_value_text(index == 0 ? QN_STR("full") : QN_STR("part"));
  return QN_OK;
}

static qn_status scope_weight(void *context, const char *where, qn_str function, qn_str weight, qn_value *out,
                              qn_diag *diag) {
  (void)context;
  bool is_w = qn_str_is(weight, "w");
  if (!is_w && !qn_str_is(weight, "absent")) return qn_fail(diag, QN_ERR_FORMAT, where, "unknown weight");
  if (!out) return QN_OK;
  if (!is_w && !qn_str_is(function, "has")) return qn_fail(diag, QN_ERR_FORMAT, where, "weight is absent");
  *out = qn_value_int(qn_str_is(function, "has") ? is_w : qn_str_is(function, "rows") ? 5 : 7);
  return QN_OK;
}

static const qn_scope scope = {NULL, scope_name, scope_item, scope_weight, NULL};

// The value as text, or the error's.
static const char *value_of(const char *text) {
  static char result[1024];
  qn_diag diag = {0};
  qn_value value;
  qn_buf out;
  qn_buf_init(&out, qn_test_allocator());
  if (qn_expression_evaluate("here", text, &scope, &value, &diag) == QN_OK) {
    qn_value_print(&value, &out);
    if (value.kind == QN_VALUE_FLOAT) qn_buf_puts(&out, " float");
    snprintf(result, sizeof result, "%s", qn_buf_text(&out));
  } else {
    snprintf(result, sizeof result, "%s", diag.text);
  }
  qn_buf_deinit(&out);
  return result;
}

typedef struct expression_case {
  const char *text, *want;
} expression_case;

static void check_cases(const expression_case *cases, size_t count) {
  for (size_t i = 0; i < count; i++) ck_assert_str_eq(value_of(cases[i].text), cases[i].want);
}

START_TEST(test_values) {
  static const expression_case cases[] = {
      {"42", "42"},
      {"9223372036854775807", "9223372036854775807"},
      {"0.5", "0.5 float"},
      {"1e-5", "1e-05 float"},
      {"2E+2", "200 float"},
      {".25", "0.25 float"},
      {"'text'", "text"},
      {"''", ""},
      {"hidden", "64"},
      {"kind", "pairs"},
      {"hidden / heads", "8"},
      {"hidden / 3 * 3", "64 float"},
      {"7 / 2", "3.5 float"},
      {"7 % 3", "1"},
      {"-7 % 3", "-1"},
      {"-7 / -1", "7"},
      {"(0 - big - big) / -1", "9.223372036854776e+18 float"},
      {"1 + 2 * 3 - 4", "3"},
      {"(1 + 2) * 3", "9"},
      {"2 - 1 - 1", "0"},
      {"16 / 4 / 2", "2"},
      {"--2", "2"},
      {"-eps", "-0.5 float"},
      {"!heads", "0"},
      {"!!heads", "1"},
      {"1 / sqrt(hidden)", "0.125 float"},
      {"sqrt(2)", "1.4142135623730951 float"},
      {"sqrt(hidden)", "8"},
      {"floor(2.7)", "2"},
      {"floor(-2.5)", "-3"},
      {"floor(3)", "3"},
      {"ceil(2.1)", "3"},
      {"ceil(-2.5)", "-2"},
      {"ceil(3)", "3"},
      {"abs(-3)", "3"},
      {"abs(eps)", "0.5 float"},
      {"abs(-eps)", "0.5 float"},
      {"pow(2, 10)", "1024 float"},
      {"pow(4, -eps)", "0.5 float"},
      {"exp(0)", "1 float"},
      {"log(exp(2))", "2 float"},
      {"floor(log(heads) / log(2) + 1e-9)", "3"},
      {"kinds[0]", "full"},
      {"kinds[ heads - 7 ] == 'part'", "1"},
      {"heads > 7 ? kinds[1] : kinds[7]", "part"},
      {"min(3, eps)", "0.5 float"},
      {"max(heads, hidden)", "64"},
      {"has(w)", "1"},
      {"has(absent)", "0"},
      {"rows(w) * cols(w)", "35"},
      {"rows + rows(w)", "8"},
      {" \t\n1\r", "1"},
  };
  check_cases(cases, QN_COUNT(cases));
}
END_TEST

START_TEST(test_conditions) {
  static const expression_case cases[] = {
      {"heads == 8", "1"},
      {"heads != 8", "0"},
      {"heads < 8", "0"},
      {"heads <= 8", "1"},
      {"heads > 7.5", "1"},
      {"heads >= 9", "0"},
      {"9223372036854775807 > 9223372036854775806", "1"},
      {"kind == 'pairs'", "1"},
      {"kind != 'pairs'", "0"},
      {"1 && 2", "1"},
      {"1 && 0 || 1", "1"},
      {"0 || 0", "0"},
      {"eps && 1", "1"},
      {"0 && 1 / 0", "0"},
      {"1 || 1 / 0", "1"},
      {"has(absent) && rows(absent) > 2", "0"},
      {"!has(absent) || rows(absent) > 2", "1"},
      {"heads % 2 == 0 ? 'even' : 'odd'", "even"},
      {"0 ? 1 / 0 : 2", "2"},
      {"1 ? 2 : 1 / 0", "2"},
      {"0 ? 1 : 0 ? 2 : 3", "3"},
      {"1 ? 0 ? 4 : 5 : 6", "5"},
  };
  check_cases(cases, QN_COUNT(cases));
}
END_TEST

START_TEST(test_errors) {
  static const expression_case cases[] = {
      {"", "here: in '', column 1: got the end, want a value"},
      {"1 +", "here: in '1 +', column 4: got the end, want a value"},
      {"1 2", "here: in '1 2', column 3: got '2', want an operator or the end"},
      {"(1", "here: in '(1', column 3: got the end, want ')'"},
      {"(1]", "here: in '(1]', column 3: got ']', want ')'"},
      {"#", "here: in '#', column 1: got '#', want a value"},
      {"\xc3\xa9", "here: in '\xc3\xa9', column 1: got '?', want a value"},
      {"1 = 1", "here: in '1 = 1', column 3: got '=', want an operator or the end"},
      {"1 ? 2", "here: in '1 ? 2', column 6: got the end, want ':'"},
      {"headz", "here: unknown name 'headz'"},
      {"0 && headz", "here: unknown name 'headz'"},
      {"cos(1)", "here: in 'cos(1)', column 1: got the function 'cos', want sqrt, pow, exp, log, floor, ceil, abs, min, max, "
                 "has, rows or cols"},
      {"min(1)", "here: in 'min(1)', column 6: got ')', want ','"},
      {"has(1)", "here: in 'has(1)', column 5: has wants the name of a weight"},
      {"has(nothing)", "here: unknown weight"},
      {"rows(absent)", "here: weight is absent"},
      {"1 / 0", "here: in '1 / 0', column 3: division by zero"},
      {"1 / 0.0", "here: in '1 / 0.0', column 3: division by zero"},
      {"1 % 0", "here: in '1 % 0', column 3: division by zero"},
      {"eps % 2", "here: in 'eps % 2', column 5: % wants integers"},
      {"big * 2", "here: in 'big * 2', column 5: got a result beyond 64 bits"},
      {"big + big", "here: in 'big + big', column 5: got a result beyond 64 bits"},
      {"-big - big - 1", "here: in '-big - big - 1', column 12: got a result beyond 64 bits"},
      {"9223372036854775808",
       "here: in '9223372036854775808', column 1: got 9223372036854775808, which is beyond 64 bits"},
      {"1e999", "here: in '1e999', column 1: got a result that is not a finite number"},
      {"1e300 * 1e300", "here: in '1e300 * 1e300', column 7: got a result that is not a finite number"},
      {"1.2.3", "here: in '1.2.3', column 1: got '1.2.3', want a number"},
      {"1e", "here: in '1e', column 1: got '1e', want a number"},
      {"pow(0 - 1, eps)", "here: in 'pow(0 - 1, eps)', column 1: got a result that is not a finite number"},
      {"log(0)", "here: in 'log(0)', column 1: got a result that is not a finite number"},
      {"kinds[0", "here: in 'kinds[0', column 8: got the end, want ']'"},
      {"kinds[eps]", "here: in 'kinds[eps]', column 7: got a fraction as an index, want an integer"},
      {"kinds[kind]", "here: in 'kinds[kind]', column 7: got a text as an index, want an integer"},
      {"kinds[2]", "here: no item 2"},
      {"heads[0]", "here: 'heads' is no list"},
      {"sqrt(0 - 1)", "here: in 'sqrt(0 - 1)', column 1: square root of a negative number"},
      {"floor(1e30)", "here: in 'floor(1e30)', column 1: got a result beyond 64 bits"},
      {"kind + 1", "here: in 'kind + 1', column 6: got the text 'pairs', want a number"},
      {"sqrt(kind)", "here: in 'sqrt(kind)', column 1: got the text 'pairs', want a number"},
      {"!kind", "here: in '!kind', column 1: got the text 'pairs', want a number"},
      {"kind && 1", "here: in 'kind && 1', column 6: got the text 'pairs', want a number"},
      {"kind ? 1 : 2", "here: in 'kind ? 1 : 2', column 6: got the text 'pairs', want a number"},
      {"kind == 1", "here: in 'kind == 1', column 6: a text compared with an integer"},
      {"kind < 'x'", "here: in 'kind < 'x'', column 6: texts have no order: want == or !="},
      {"'open", "here: in ''open', column 1: a text without its closing '"},
      {"1 < 2 < 3", "here: in '1 < 2 < 3', column 7: got '<', want an operator or the end"},
  };
  check_cases(cases, QN_COUNT(cases));
}
END_TEST

// Nesting is bounded whatever it is made of; long flat expressions are not nested.
START_TEST(test_depth) {
  static const char *const openers[] = {"(", "-", "!", "sqrt(", "1 ? 1 : ", "1 ? ", "max(1, ", "kinds["};
  for (size_t i = 0; i < QN_COUNT(openers); i++) {
    qn_buf text;
    qn_diag diag = {0};
    qn_value value;
    qn_buf_init(&text, qn_test_allocator());
    for (int n = 0; n < 100000; n++) qn_buf_puts(&text, openers[i]);
    qn_assert_fails(&diag, QN_ERR_FORMAT, "nested more than 24 deep",
                    qn_expression_evaluate("here", qn_buf_text(&text), &scope, &value, &diag));
    qn_buf_deinit(&text);
  }
  qn_buf flat;
  qn_buf_init(&flat, qn_test_allocator());
  for (int n = 0; n < 10000; n++) qn_buf_puts(&flat, "(1)+-1+");
  qn_buf_puts(&flat, "5");
  ck_assert_str_eq(value_of(qn_buf_text(&flat)), "5");
  qn_buf_deinit(&flat);
}
END_TEST

START_TEST(test_typed) {
  qn_diag diag = {0};
  int64_t i = 0;
  double f = 0;
  bool b = false;
  qn_assert_ok(&diag, qn_expression_int("here", "heads * 2", &scope, 1, 16, &i, &diag));
  ck_assert_int_eq(i, 16);
  qn_assert_fails(&diag, QN_ERR_FORMAT, "here: 'heads * 3' gives 24, want an integer of 1 to 16",
                  qn_expression_int("here", "heads * 3", &scope, 1, 16, &i, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_FORMAT, "'7 / 2' gives 3.5, want an integer",
                  qn_expression_int("here", "7 / 2", &scope, 1, 16, &i, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_FORMAT, "'kind' gives pairs, want an integer",
                  qn_expression_int("here", "kind", &scope, 1, 16, &i, &diag));
  diag = (qn_diag){0};
  qn_assert_ok(&diag, qn_expression_number("here", "heads", &scope, &f, &diag));
  ck_assert(f == 8.0);
  qn_assert_fails(&diag, QN_ERR_FORMAT, "'kind' gives the text 'pairs', want a number",
                  qn_expression_number("here", "kind", &scope, &f, &diag));
  diag = (qn_diag){0};
  qn_assert_ok(&diag, qn_expression_condition("here", "eps", &scope, &b, &diag));
  ck_assert(b);
}
END_TEST

// The check looks at every name, in branches that would not be taken too, and evaluates nothing.
START_TEST(test_check) {
  int lookups = 0;
  const qn_scope counting = {&lookups, scope_name, scope_item, scope_weight, NULL};
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_expression_check("here", "0 ? hidden / 0 : heads + rows(absent)", &counting, &diag));
  ck_assert_int_eq(lookups, 2);
  qn_assert_fails(&diag, QN_ERR_FORMAT, "unknown name 'nope'", qn_expression_check("here", "1 || nope", &scope, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_FORMAT, "unknown weight", qn_expression_check("here", "1 || has(nope)", &scope, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_FORMAT, "want ')'", qn_expression_check("here", "(1", &scope, &diag));
}
END_TEST

START_TEST(test_text) {
  static const expression_case good[] = {
      {"plain", "plain"},
      {"blk.{heads}.w", "blk.8.w"},
      {"{kind}{1 + 1}", "pairs2"},
      {"{1 / 4}", "0.25"},
  };
  static const expression_case bad[] = {
      {"a{heads", "here: in 'a{heads': got '{' without its partner, want {expression}"},
      {"a}", "here: in 'a}': got '}' without its partner, want {expression}"},
      {"{a{heads}}", "here: in '{a{heads}}': got '{' without its partner, want {expression}"},
      {"{}", "here: in '', column 1: got the end, want a value"},
      {"{nope}", "here: unknown name 'nope'"},
  };
  for (size_t i = 0; i < QN_COUNT(good) + QN_COUNT(bad); i++) {
    bool is_good = i < QN_COUNT(good);
    const expression_case *c = is_good ? &good[i] : &bad[i - QN_COUNT(good)];
    qn_diag diag = {0};
    qn_buf out;
    qn_buf_init(&out, qn_test_allocator());
    qn_status status = qn_text_expand("here", c->text, &scope, &out, &diag);
    ck_assert_int_eq(status, is_good ? QN_OK : QN_ERR_FORMAT);
    ck_assert_str_eq(is_good ? qn_buf_text(&out) : diag.text, c->want);
    ck_assert_int_eq(qn_text_expand("here", c->text, &scope, NULL, NULL), status);
    qn_buf_deinit(&out);
  }
  qn_buf text, out;
  qn_diag diag = {0};
  qn_buf_init(&text, qn_test_allocator());
  qn_buf_init(&out, qn_test_allocator());
  for (int i = 0; i < 2000; i++) qn_buf_puts(&text, "{kind}");
  qn_assert_fails(&diag, QN_ERR_FORMAT, "gives more than 4096 bytes",
                  qn_text_expand("here", qn_buf_text(&text), &scope, &out, &diag));
  qn_buf_deinit(&text);
  qn_buf_deinit(&out);
}
END_TEST

START_TEST(test_names) {
  ck_assert(qn_expression_is_name(QN_STR("attn_q2")));
  ck_assert(qn_expression_is_name(QN_STR("_")));
  ck_assert(!qn_expression_is_name(QN_STR("")));
  ck_assert(!qn_expression_is_name(QN_STR("2q")));
  ck_assert(!qn_expression_is_name(QN_STR("a.b")));
  char name[65];
  memset(name, 'x', sizeof name);
  ck_assert(qn_expression_is_name((qn_str){name, 64}));
  ck_assert(!qn_expression_is_name((qn_str){name, 65}));
  char text[80] = "1 + ";
  memcpy(text + 4, name, sizeof name);
  ck_assert_ptr_nonnull(strstr(value_of(text), "got a name of 65 characters, want at most 64"));
}
END_TEST

QN_CASE(expressions, test_values, test_conditions, test_errors, test_depth, test_typed, test_check, test_text,
        test_names)
QN_TEST_MAIN(expressions)
