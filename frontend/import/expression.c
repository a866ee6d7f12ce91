// A recursive-descent evaluator. Branches that are not taken are parsed with evaluation off (`skip`).
#include "frontend/import/expression.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"

enum { MAX_DEPTH = 24, MAX_NAME_BYTES = 64, MAX_NUMBER_BYTES = 48, MAX_TEXT_BYTES = 4096 };

typedef struct parser {
  const char *where;
  const char *text;  // all of it, for messages
  size_t at, length;
  int depth;
  int skip;  // > 0: parse without evaluating
  const qn_scope *scope;
  qn_diag *diag;
} parser;

static qn_status parse_ternary(parser *p, qn_value *out);

#define fail(p, ...) fail_at((p), (p)->at, __VA_ARGS__)

// "where: in 'text', column 8: message"
static qn_status QN_PRINTF(3, 4) fail_at(const parser *p, size_t at, const char *format, ...) {
  qn_buf message;
  va_list args;
  qn_buf_init(&message, qn_allocator_default());
  va_start(args, format);
  qn_buf_vprintf(&message, format, args);
  va_end(args);
  qn_status status =
      qn_fail(p->diag, QN_ERR_FORMAT, p->where, "in '%.*s%s', column %zu: %s", (int)(p->length < 200 ? p->length : 200),
              p->text, p->length < 200 ? "" : "...", at + 1, qn_buf_text(&message));
  qn_buf_deinit(&message);
  return status;
}

static void skip_space(parser *p) {
  while (p->at < p->length && strchr(" \t\r\n", p->text[p->at])) p->at++;
}

static char peek(parser *p) {
  skip_space(p);
  return p->at < p->length ? p->text[p->at] : 0;
}

// Takes the operator when it is next. A one-character operator is not the front of a longer one.
static bool take(parser *p, const char *op) {
  skip_space(p);
  size_t length = strlen(op);
  if (p->length - p->at < length || memcmp(p->text + p->at, op, length) != 0) return false;
  if (length == 1 && strchr("<>!", op[0]) && p->at + 1 < p->length && p->text[p->at + 1] == '=') return false;
  p->at += length;
  return true;
}

static const char *kind_name(const qn_value *v) {
  return v->kind == QN_VALUE_TEXT ? "a text" : v->kind == QN_VALUE_INT ? "an integer" : "a fraction";
}

static double as_double(const qn_value *v) { return v->kind == QN_VALUE_INT ? (double)v->i : v->f; }

static qn_status want_number(const parser *p, size_t at, const qn_value *v) {
  if (v->kind != QN_VALUE_TEXT) return QN_OK;
  return fail_at(p, at, "got the text '%.*s', want a number", QN_STR_ARGS(v->text));
}

static qn_status give_float(const parser *p, size_t at, double value, qn_value *out) {
  if (!isfinite(value)) return fail_at(p, at, "got a result that is not a finite number");
  *out = qn_value_float(value);
  return QN_OK;
}

static bool is_true(const qn_value *v) { return v->kind == QN_VALUE_INT ? v->i != 0 : v->f != 0; }

// --- the operators on values

static qn_status divide(const parser *p, size_t at, const qn_value *a, const qn_value *b, qn_value *out) {
  if (as_double(b) == 0) return fail_at(p, at, "division by zero");
  bool integers = a->kind == QN_VALUE_INT && b->kind == QN_VALUE_INT;
  bool whole = integers && !(a->i == INT64_MIN && b->i == -1) && a->i % b->i == 0;
  if (whole) {
    *out = qn_value_int(a->i / b->i);
    return QN_OK;
  }
  return give_float(p, at, as_double(a) / as_double(b), out);
}

static qn_status arithmetic(const parser *p, size_t at, char op, const qn_value *a, const qn_value *b, qn_value *out) {
  QN_TRY(want_number(p, at, a));
  QN_TRY(want_number(p, at, b));
  if (op == '/') return divide(p, at, a, b, out);
  bool integers = a->kind == QN_VALUE_INT && b->kind == QN_VALUE_INT;
  if (op == '%') {
    if (!integers) return fail_at(p, at, "%% wants integers");
    if (b->i == 0) return fail_at(p, at, "division by zero");
    *out = qn_value_int(b->i == -1 ? 0 : a->i % b->i);
    return QN_OK;
  }
  if (integers) {
    int64_t result = 0;
    bool overflow = op == '+'   ? __builtin_add_overflow(a->i, b->i, &result)
                    : op == '-' ? __builtin_sub_overflow(a->i, b->i, &result)
                                : __builtin_mul_overflow(a->i, b->i, &result);
    if (overflow) return fail_at(p, at, "got a result beyond 64 bits");
    *out = qn_value_int(result);
    return QN_OK;
  }
  double x = as_double(a), y = as_double(b);
  return give_float(p, at, op == '+' ? x + y : op == '-' ? x - y : x * y, out);
}

// op is one of == != <= >= < >, given by its first character and whether '=' follows.
static qn_status compare(const parser *p, size_t at, const char *op, const qn_value *a, const qn_value *b,
                         qn_value *out) {
  int order;
  if (a->kind == QN_VALUE_TEXT || b->kind == QN_VALUE_TEXT) {
    if (a->kind != b->kind) return fail_at(p, at, "%s compared with %s", kind_name(a), kind_name(b));
    if (op[0] != '=' && op[0] != '!') return fail_at(p, at, "texts have no order: want == or !=");
    order = qn_str_equal(a->text, b->text) ? 0 : 1;
  } else if (a->kind == QN_VALUE_INT && b->kind == QN_VALUE_INT) {
    order = (a->i > b->i) - (a->i < b->i);
  } else {
    double x = as_double(a), y = as_double(b);
    order = (x > y) - (x < y);
  }
  bool result = op[0] == '=' ? order == 0 : op[0] == '!' ? order != 0 : op[0] == '<' ? order < 0 : order > 0;
  if ((op[0] == '<' || op[0] == '>') && op[1] == '=') result = result || order == 0;
  *out = qn_value_int(result);
  return QN_OK;
}

// --- functions

static qn_status call_root(const parser *p, size_t at, const qn_value *args, qn_value *out) {
  double x = as_double(&args[0]);
  if (x < 0) return fail_at(p, at, "square root of a negative number");
  double root = sqrt(x);
  bool whole =
      args[0].kind == QN_VALUE_INT && root < 9e15 && root == floor(root) && (int64_t)root * (int64_t)root == args[0].i;
  *out = whole ? qn_value_int((int64_t)root) : qn_value_float(root);
  return QN_OK;
}

static qn_status call_floor(const parser *p, size_t at, const qn_value *args, qn_value *out) {
  if (args[0].kind == QN_VALUE_INT) {
    *out = args[0];
    return QN_OK;
  }
  double x = floor(args[0].f);
  if (!(x >= -9.2e18 && x <= 9.2e18)) return fail_at(p, at, "got a result beyond 64 bits");
  *out = qn_value_int((int64_t)x);
  return QN_OK;
}

static qn_status call_ceil(const parser *p, size_t at, const qn_value *args, qn_value *out) {
  qn_value below = args[0];
  if (args[0].kind == QN_VALUE_FLOAT) below.f = -args[0].f;
  QN_TRY(call_floor(p, at, &below, out));
  if (args[0].kind == QN_VALUE_FLOAT) out->i = -out->i;
  return QN_OK;
}

static qn_status call_abs(const parser *p, size_t at, const qn_value *args, qn_value *out) {
  qn_value zero = qn_value_int(0);
  if (as_double(&args[0]) < 0) return arithmetic(p, at, '-', &zero, &args[0], out);
  *out = args[0];
  return QN_OK;
}

static qn_status call_pow(const parser *p, size_t at, const qn_value *args, qn_value *out) {
  return give_float(p, at, pow(as_double(&args[0]), as_double(&args[1])), out);
}

static qn_status call_exp(const parser *p, size_t at, const qn_value *args, qn_value *out) {
  return give_float(p, at, exp(as_double(&args[0])), out);
}

static qn_status call_log(const parser *p, size_t at, const qn_value *args, qn_value *out) {
  return give_float(p, at, log(as_double(&args[0])), out);
}

static qn_status call_min(const parser *p, size_t at, const qn_value *args, qn_value *out) {
  (void)p, (void)at;
  *out = as_double(&args[0]) <= as_double(&args[1]) ? args[0] : args[1];
  return QN_OK;
}

static qn_status call_max(const parser *p, size_t at, const qn_value *args, qn_value *out) {
  (void)p, (void)at;
  *out = as_double(&args[0]) >= as_double(&args[1]) ? args[0] : args[1];
  return QN_OK;
}

typedef struct function {
  const char *name;
  int arguments;
  qn_status (*call)(const parser *p, size_t at, const qn_value *args, qn_value *out);  // NULL: asks the scope
} function;

static const function functions[] = {
    {"sqrt", 1, call_root},   {"pow", 2, call_pow},   {"exp", 1, call_exp}, {"log", 1, call_log},
    {"floor", 1, call_floor}, {"ceil", 1, call_ceil}, {"abs", 1, call_abs}, {"min", 2, call_min},
    {"max", 2, call_max},     {"has", 1, NULL},       {"rows", 1, NULL},    {"cols", 1, NULL},
};

static const function *find_function(qn_str name) {
  for (size_t i = 0; i < QN_COUNT(functions); i++) {
    if (qn_str_is(name, functions[i].name)) return &functions[i];
  }
  return NULL;
}

static qn_status want(parser *p, const char *op) {
  if (take(p, op)) return QN_OK;
  char next = peek(p);
  if (next) return fail(p, "got '%c', want '%s'", next, op);
  return fail(p, "got the end, want '%s'", op);
}

static qn_str take_name(parser *p) {
  skip_space(p);
  size_t begin = p->at;
  while (p->at < p->length && (isalnum((unsigned char)p->text[p->at]) || p->text[p->at] == '_')) p->at++;
  return (qn_str){p->text + begin, p->at - begin};
}

static qn_status parse_call(parser *p, size_t at, const function *f, qn_value *out) {
  qn_value args[2] = {qn_value_int(1), qn_value_int(1)};
  QN_TRY(want(p, "("));
  if (!f->call) {
    size_t weight_at = p->at;
    qn_str weight = take_name(p);
    if (!qn_expression_is_name(weight)) return fail_at(p, weight_at, "%s wants the name of a weight", f->name);
    QN_TRY(want(p, ")"));
    QN_TRY(p->scope->weight(p->scope->context, p->where, qn_str_from(f->name), weight, p->skip ? NULL : out, p->diag));
    return QN_OK;
  }
  for (int i = 0; i < f->arguments; i++) {
    if (i > 0) QN_TRY(want(p, ","));
    QN_TRY(parse_ternary(p, &args[i]));
    if (!p->skip) QN_TRY(want_number(p, at, &args[i]));
  }
  QN_TRY(want(p, ")"));
  return p->skip ? QN_OK : f->call(p, at, args, out);
}

static qn_status fail_function(const parser *p, size_t at, qn_str name) {
  qn_buf known;
  qn_buf_init(&known, qn_allocator_default());
  for (size_t i = 0; i < QN_COUNT(functions); i++) {
    qn_buf_printf(&known, "%s%s", i == 0 ? "" : i + 1 < QN_COUNT(functions) ? ", " : " or ", functions[i].name);
  }
  qn_status status = fail_at(p, at, "got the function '%.*s', want %s", QN_STR_ARGS(name), qn_buf_text(&known));
  qn_buf_deinit(&known);
  return status;
}

// name[index]
static qn_status parse_item(parser *p, qn_str name, qn_value *out) {
  qn_value index = qn_value_int(0);
  QN_TRY(want(p, "["));
  size_t at = p->at;
  if (++p->depth > MAX_DEPTH) return fail(p, "nested more than %d deep", MAX_DEPTH);
  QN_TRY(parse_ternary(p, &index));
  p->depth--;
  QN_TRY(want(p, "]"));
  if (!p->skip && index.kind != QN_VALUE_INT) {
    return fail_at(p, at, "got %s as an index, want an integer", kind_name(&index));
  }
  return p->scope->item(p->scope->context, p->where, name, index.i, p->skip ? NULL : out, p->diag);
}

static qn_status parse_name(parser *p, qn_value *out) {
  size_t at = p->at;
  qn_str name = take_name(p);
  if (peek(p) == '(') {
    const function *f = find_function(name);
    if (f) return parse_call(p, at, f, out);
    return fail_function(p, at, name);
  }
  if (!qn_expression_is_name(name)) return fail_at(p, at, "got a name of %zu characters, want at most 64", name.length);
  if (peek(p) == '[') return parse_item(p, name, out);
  return p->scope->name(p->scope->context, p->where, name, p->skip ? NULL : out, p->diag);
}

static qn_status parse_number(parser *p, qn_value *out) {
  size_t begin = p->at;
  bool integer = true;
  while (p->at < p->length) {
    char c = p->text[p->at];
    bool exponent_sign = (c == '+' || c == '-') && p->at > begin && strchr("eE", p->text[p->at - 1]);
    if (!isdigit((unsigned char)c)) {
      if (!strchr(".eE", c) && !exponent_sign) break;
      integer = false;
    }
    p->at++;
  }
  char digits[MAX_NUMBER_BYTES + 1];
  size_t length = p->at - begin;
  if (length > MAX_NUMBER_BYTES) return fail_at(p, begin, "got a number of %zu characters, want at most 48", length);
  memcpy(digits, p->text + begin, length);
  digits[length] = 0;
  if (integer) {
    int64_t value = 0;
    for (size_t i = 0; i < length; i++) {
      if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, digits[i] - '0', &value)) {
        return fail_at(p, begin, "got %s, which is beyond 64 bits", digits);
      }
    }
    *out = qn_value_int(value);
    return QN_OK;
  }
  char *end;
  double value = qn_strtod(digits, &end);
  if (*end) return fail_at(p, begin, "got '%s', want a number", digits);
  return give_float(p, begin, value, out);
}

static qn_status parse_text(parser *p, qn_value *out) {
  const char *begin = p->text + p->at + 1;
  const char *end = memchr(begin, '\'', p->length - p->at - 1);
  if (!end) return fail(p, "a text without its closing '");
  p->at = (size_t)(end - p->text) + 1;
  *out = qn_value_text((qn_str){begin, (size_t)(end - begin)});
  return QN_OK;
}

static qn_status parse_primary(parser *p, qn_value *out) {
  char c = peek(p);
  if (c == '(') {
    p->at++;
    QN_TRY(parse_ternary(p, out));
    return want(p, ")");
  }
  if (c == '\'') return parse_text(p, out);
  if (isdigit((unsigned char)c) || c == '.') return parse_number(p, out);
  if (isalpha((unsigned char)c) || c == '_') return parse_name(p, out);
  if (c == 0) return fail(p, "got the end, want a value");
  return fail(p, "got '%c', want a value", isprint((unsigned char)c) ? c : '?');
}

static qn_status parse_unary(parser *p, qn_value *out) {
  size_t at = p->at;
  bool negate = take(p, "-");
  if (!negate && !take(p, "!")) return parse_primary(p, out);
  if (++p->depth > MAX_DEPTH) return fail(p, "nested more than %d deep", MAX_DEPTH);
  qn_value operand = qn_value_int(1);
  QN_TRY(parse_unary(p, &operand));
  p->depth--;
  if (p->skip) return QN_OK;
  QN_TRY(want_number(p, at, &operand));
  if (!negate) {
    *out = qn_value_int(!is_true(&operand));
    return QN_OK;
  }
  qn_value zero = qn_value_int(0);
  return arithmetic(p, at, '-', &zero, &operand, out);
}

static qn_status parse_product(parser *p, qn_value *out) {
  QN_TRY(parse_unary(p, out));
  for (;;) {
    char op = peek(p);
    if (op != '*' && op != '/' && op != '%') return QN_OK;
    size_t at = p->at++;
    qn_value left = *out, right = qn_value_int(1);
    QN_TRY(parse_unary(p, &right));
    if (!p->skip) QN_TRY(arithmetic(p, at, op, &left, &right, out));
  }
}

static qn_status parse_sum(parser *p, qn_value *out) {
  QN_TRY(parse_product(p, out));
  for (;;) {
    char op = peek(p);
    if (op != '+' && op != '-') return QN_OK;
    size_t at = p->at++;
    qn_value left = *out, right = qn_value_int(1);
    QN_TRY(parse_product(p, &right));
    if (!p->skip) QN_TRY(arithmetic(p, at, op, &left, &right, out));
  }
}

static qn_status parse_comparison(parser *p, qn_value *out) {
  static const char *const operators[] = {"==", "!=", "<=", ">=", "<", ">"};
  QN_TRY(parse_sum(p, out));
  for (size_t i = 0; i < QN_COUNT(operators); i++) {
    skip_space(p);
    size_t at = p->at;
    if (!take(p, operators[i])) continue;
    qn_value left = *out, right = qn_value_int(1);
    QN_TRY(parse_sum(p, &right));
    return p->skip ? QN_OK : compare(p, at, operators[i], &left, &right, out);
  }
  return QN_OK;
}

// a && b && c, or a || b || c: what follows a deciding operand is not evaluated.
static qn_status parse_logic(parser *p, const char *op, qn_value *out) {
  bool is_and = op[0] == '&';
  QN_TRY(is_and ? parse_comparison(p, out) : parse_logic(p, "&&", out));
  for (;;) {
    skip_space(p);
    size_t at = p->at;
    if (!take(p, op)) return QN_OK;
    if (!p->skip) QN_TRY(want_number(p, at, out));
    bool left = !p->skip && is_true(out), decided = !p->skip && left != is_and;
    qn_value right = qn_value_int(1);
    p->skip += decided;
    QN_TRY(is_and ? parse_comparison(p, &right) : parse_logic(p, "&&", &right));
    p->skip -= decided;
    if (p->skip) continue;
    if (!decided) QN_TRY(want_number(p, at, &right));
    *out = qn_value_int(decided ? left : is_true(&right));
  }
}

static qn_status parse_ternary(parser *p, qn_value *out) {
  if (++p->depth > MAX_DEPTH) return fail(p, "nested more than %d deep", MAX_DEPTH);
  QN_TRY(parse_logic(p, "||", out));
  skip_space(p);
  size_t at = p->at;
  if (take(p, "?")) {
    if (!p->skip) QN_TRY(want_number(p, at, out));
    bool first = !p->skip && is_true(out), second = !p->skip && !first;
    qn_value a = qn_value_int(1), b = qn_value_int(1);
    p->skip += !first;
    QN_TRY(parse_ternary(p, &a));
    p->skip -= !first;
    QN_TRY(want(p, ":"));
    p->skip += !second;
    QN_TRY(parse_ternary(p, &b));
    p->skip -= !second;
    *out = first ? a : b;
  }
  p->depth--;
  return QN_OK;
}

static qn_status count_work(const char *where, const qn_scope *scope, size_t work, qn_diag *diag) {
  if (!scope->work) return QN_OK;
  *scope->work += work < QN_EXPRESSION_WORK ? (int64_t)work : QN_EXPRESSION_WORK;
  if (*scope->work <= QN_EXPRESSION_WORK) return QN_OK;
  return qn_fail(diag, QN_ERR_LIMIT, where,
                 "the expressions that the template evaluates, with a sixteenth of the texts that it makes, have more than %d "
                 "characters",
                 QN_EXPRESSION_WORK);
}

static qn_status run(const char *where, qn_str text, bool check_only, const qn_scope *scope, qn_value *out,
                     qn_diag *diag) {
  parser p = {
      .where = where, .text = text.data, .length = text.length, .skip = check_only, .scope = scope, .diag = diag};
  *out = qn_value_int(1);
  QN_TRY(count_work(where, scope, text.length + 1, diag));
  QN_TRY(parse_ternary(&p, out));
  char next = peek(&p);
  if (next) return fail(&p, "got '%c', want an operator or the end", isprint((unsigned char)next) ? next : '?');
  return QN_OK;
}

// --- public

qn_status qn_expression_count_text(const char *where, const qn_scope *scope, size_t length, qn_diag *diag) {
  return count_work(where, scope, length / QN_EXPRESSION_TEXT + 1, diag);
}

void qn_value_print(const qn_value *value, qn_buf *out) {
  switch (value->kind) {
    case QN_VALUE_INT: qn_buf_printf(out, "%" PRId64, value->i); break;
    case QN_VALUE_FLOAT: qn_buf_put_f64(out, value->f); break;
    case QN_VALUE_TEXT: qn_buf_append(out, value->text.data, value->text.length); break;
  }
}

qn_status qn_expression_evaluate(const char *where, const char *text, const qn_scope *scope, qn_value *out,
                                 qn_diag *diag) {
  return run(where, qn_str_from(text), false, scope, out, diag);
}

qn_status qn_expression_check(const char *where, const char *text, const qn_scope *scope, qn_diag *diag) {
  qn_value ignored;
  return run(where, qn_str_from(text), true, scope, &ignored, diag);
}

qn_status qn_expression_int(const char *where, const char *text, const qn_scope *scope, int64_t min, int64_t max,
                            int64_t *out, qn_diag *diag) {
  qn_value value;
  QN_TRY(qn_expression_evaluate(where, text, scope, &value, diag));
  if (value.kind == QN_VALUE_INT && value.i >= min && value.i <= max) {
    *out = value.i;
    return QN_OK;
  }
  qn_buf got;
  qn_buf_init(&got, qn_allocator_default());
  qn_value_print(&value, &got);
  qn_status status = qn_fail(diag, QN_ERR_FORMAT, where, "'%s' gives %s, want an integer of %" PRId64 " to %" PRId64,
                             text, qn_buf_text(&got), min, max);
  qn_buf_deinit(&got);
  return status;
}

qn_status qn_expression_number(const char *where, const char *text, const qn_scope *scope, double *out, qn_diag *diag) {
  qn_value value;
  QN_TRY(qn_expression_evaluate(where, text, scope, &value, diag));
  if (value.kind == QN_VALUE_TEXT) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "'%s' gives the text '%.*s', want a number", text,
                   QN_STR_ARGS(value.text));
  }
  *out = as_double(&value);
  return QN_OK;
}

qn_status qn_expression_condition(const char *where, const char *text, const qn_scope *scope, bool *out,
                                  qn_diag *diag) {
  double value;
  QN_TRY(qn_expression_number(where, text, scope, &value, diag));
  *out = value != 0;
  return QN_OK;
}

qn_status qn_text_expand(const char *where, const char *text, const qn_scope *scope, qn_buf *out, qn_diag *diag) {
  for (const char *at = text; *at;) {
    size_t plain = strcspn(at, "{}");
    if (out) qn_buf_append(out, at, plain);
    at += plain;
    if (!*at) break;
    const char *end = *at == '{' ? strpbrk(at + 1, "{}") : NULL;
    if (!end || *end != '}') {
      return qn_fail(diag, QN_ERR_FORMAT, where, "in '%.200s': got '%c' without its partner, want {expression}", text,
                     *at);
    }
    qn_value value;
    QN_TRY(run(where, (qn_str){at + 1, (size_t)(end - at - 1)}, !out, scope, &value, diag));
    if (out) qn_value_print(&value, out);
    if (out && out->length > MAX_TEXT_BYTES) {  // params that repeat params grow without bound otherwise
      return qn_fail(diag, QN_ERR_FORMAT, where, "'%.200s' gives more than %d bytes", text, MAX_TEXT_BYTES);
    }
    at = end + 1;
  }
  if (!out) return QN_OK;
  return out->failed ? qn_fail_nomem(diag, where, "a text") : qn_expression_count_text(where, scope, out->length, diag);
}

bool qn_expression_is_name(qn_str text) {
  if (text.length == 0 || text.length > MAX_NAME_BYTES || isdigit((unsigned char)text.data[0])) return false;
  for (size_t i = 0; i < text.length; i++) {
    if (!isalnum((unsigned char)text.data[i]) && text.data[i] != '_') return false;
  }
  return true;
}
