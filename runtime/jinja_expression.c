// Expressions of Jinja: tokens → tree, by precedence from the loosest to the tightest.
#include "runtime/jinja_impl.h"

// ---- what both parsers use

qn_status qn_jinja_wrong(parser *p, const qn_jinja_token *at, qn_status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  qn_status result = qn_jinja_vfail(&p->jinja->source, at->at, p->diag, status, format, args);
  va_end(args);
  return result;
}

qn_status qn_jinja_unexpected(parser *p, const char *want) {
  const qn_jinja_token *t = p->token;
  switch (t->kind) {
    case TOKEN_END: return qn_jinja_wrong(p, t, QN_ERR_FORMAT, "the template ends, want %s", want);
    case TOKEN_BLOCK_END:
    case TOKEN_PRINT_END: return qn_jinja_wrong(p, t, QN_ERR_FORMAT, "the tag ends, want %s", want);
    case TOKEN_STRING: return qn_jinja_wrong(p, t, QN_ERR_FORMAT, "got a text in quotes, want %s", want);
    default:
      return qn_jinja_wrong(p, t, QN_ERR_FORMAT, "got '%.*s', want %s",
                            (int)(t->text.length < 40 ? t->text.length : 40), t->text.data, want);
  }
}

static qn_status no_memory(parser *p) { return qn_fail_nomem(p->diag, p->jinja->source.name, "a template"); }

qn_status qn_jinja_new_node(parser *p, qn_jinja_node_kind kind, const qn_jinja_token *at, node **out) {
  *out = QN_ARENA_NEW(&p->jinja->arena, node);
  if (!*out) return no_memory(p);
  (*out)->kind = kind;
  (*out)->at = at->at;
  return QN_OK;
}

qn_status qn_jinja_add_item(parser *p, node *to, item added) {
  return qn_vec_push_arena(&p->jinja->arena, to, added) ? QN_OK : no_memory(p);
}

bool qn_jinja_at_operator(const parser *p, const char *text) {
  return p->token->kind == TOKEN_OPERATOR && qn_str_is(p->token->text, text);
}
bool qn_jinja_at_name(const parser *p, const char *text) {
  return p->token->kind == TOKEN_NAME && qn_str_is(p->token->text, text);
}
bool qn_jinja_skip_operator(parser *p, const char *text) {
  if (!qn_jinja_at_operator(p, text)) return false;
  p->token++;
  return true;
}
bool qn_jinja_skip_name(parser *p, const char *text) {
  if (!qn_jinja_at_name(p, text)) return false;
  p->token++;
  return true;
}

qn_status qn_jinja_need_operator(parser *p, const char *text) {
  return qn_jinja_skip_operator(p, text) ? QN_OK : qn_jinja_unexpected(p, text);
}

qn_status qn_jinja_need_name(parser *p, const char *what, qn_str *out) {
  if (p->token->kind != TOKEN_NAME) return qn_jinja_unexpected(p, what);
  *out = p->token++->text;
  return QN_OK;
}

qn_status qn_jinja_enter(parser *p) {
  if (p->nesting++ < QN_JINJA_MAX_NESTING) return QN_OK;
  return qn_jinja_wrong(p, p->token, QN_ERR_LIMIT, "blocks and expressions are nested too deeply, want at most %d",
                        QN_JINJA_MAX_NESTING);
}
void qn_jinja_leave(parser *p) { p->nesting--; }

static qn_status binary(parser *p, qn_jinja_node_kind kind, const qn_jinja_token *at, node *a, node *b, node **out) {
  QN_TRY(qn_jinja_new_node(p, kind, at, out));
  (*out)->a = a;
  (*out)->b = b;
  return QN_OK;
}

// ---- literals

static qn_status literal(parser *p, const qn_jinja_token *at, value v, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_LITERAL, at, out));
  (*out)->literal = v;
  return QN_OK;
}

// A name, or one of the constants.
static qn_status parse_name(parser *p, node **out) {
  const qn_jinja_token *t = p->token++;
  if (qn_str_is(t->text, "true") || qn_str_is(t->text, "True")) return literal(p, t, qn_jinja_bool(true), out);
  if (qn_str_is(t->text, "false") || qn_str_is(t->text, "False")) return literal(p, t, qn_jinja_bool(false), out);
  if (qn_str_is(t->text, "none") || qn_str_is(t->text, "None")) return literal(p, t, NONE_VALUE, out);
  QN_TRY(qn_jinja_new_node(p, NODE_NAME, t, out));
  (*out)->text = t->text;
  return QN_OK;
}

// Texts that follow one another are one.
static qn_status parse_texts(parser *p, node **out) {
  const qn_jinja_token *first = p->token;
  size_t length = 0;
  for (; p->token->kind == TOKEN_STRING; p->token++) length += p->token->text.length;
  if (p->token == first + 1) return literal(p, first, qn_jinja_text(first->text), out);
  char *joined = qn_arena_alloc(&p->jinja->arena, length);
  if (!joined) return no_memory(p);
  length = 0;
  for (const qn_jinja_token *t = first; t < p->token; t++) {
    memcpy(joined + length, t->text.data, t->text.length);
    length += t->text.length;
  }
  return literal(p, first, qn_jinja_text((qn_str){joined, length}), out);
}

static qn_status parse_list(parser *p, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_LIST, p->token++, out));
  while (!qn_jinja_skip_operator(p, "]")) {
    item added = {0};
    QN_TRY(qn_jinja_parse_expression(p, true, &added.value));
    QN_TRY(qn_jinja_add_item(p, *out, added));
    if (!qn_jinja_skip_operator(p, ",") && !qn_jinja_at_operator(p, "]")) return qn_jinja_unexpected(p, "a comma or ]");
  }
  return QN_OK;
}

static qn_status parse_dict(parser *p, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_DICT, p->token++, out));
  while (!qn_jinja_skip_operator(p, "}")) {
    item added = {0};
    QN_TRY(qn_jinja_parse_expression(p, true, &added.key));
    QN_TRY(qn_jinja_need_operator(p, ":"));
    QN_TRY(qn_jinja_parse_expression(p, true, &added.value));
    QN_TRY(qn_jinja_add_item(p, *out, added));
    if (!qn_jinja_skip_operator(p, ",") && !qn_jinja_at_operator(p, "}")) return qn_jinja_unexpected(p, "a comma or }");
  }
  return QN_OK;
}

// After "(": an expression in brackets, or a tuple.
static qn_status parse_brackets(parser *p, const qn_jinja_token *at, node **out) {
  if (qn_jinja_skip_operator(p, ")")) return qn_jinja_new_node(p, NODE_TUPLE, at, out);
  QN_TRY(qn_jinja_parse_tuple(p, true, out));
  return qn_jinja_need_operator(p, ")");
}

qn_status qn_jinja_parse_primary(parser *p, node **out) {
  const qn_jinja_token *t = p->token;
  switch (t->kind) {
    case TOKEN_NAME: return parse_name(p, out);
    case TOKEN_STRING: return parse_texts(p, out);
    case TOKEN_INT: p->token++; return literal(p, t, qn_jinja_int(t->integer), out);
    case TOKEN_FLOAT: p->token++; return literal(p, t, (value){.kind = QN_JINJA_FLOAT, .real = t->real}, out);
    default: break;
  }
  if (qn_jinja_at_operator(p, "[")) return parse_list(p, out);
  if (qn_jinja_at_operator(p, "{")) return parse_dict(p, out);
  if (qn_jinja_skip_operator(p, "(")) return parse_brackets(p, t, out);
  return qn_jinja_unexpected(p, "an expression");
}

// ---- what follows an expression

static bool ends_part(const parser *p) { return qn_jinja_at_operator(p, ":") || qn_jinja_at_operator(p, "]"); }

static qn_status parse_subscript(parser *p, node *of, node **out) {
  const qn_jinja_token *at = p->token++;
  item parts[3] = {{{0}, NULL, NULL, 0}};
  QN_TRY(qn_jinja_new_node(p, NODE_INDEX, at, out));
  (*out)->a = of;
  for (int part = 0; part < 3; part++) {
    if (!ends_part(p)) QN_TRY(qn_jinja_parse_expression(p, true, &parts[part].value));
    if (part == 0 && qn_jinja_at_operator(p, ":")) (*out)->kind = NODE_SLICE;
    if (part == 2 || !qn_jinja_skip_operator(p, ":")) break;
  }
  if ((*out)->kind == NODE_INDEX && !parts[0].value) return qn_jinja_unexpected(p, "an index");
  (*out)->b = parts[0].value;
  for (int part = 0; (*out)->kind == NODE_SLICE && part < 3; part++) QN_TRY(qn_jinja_add_item(p, *out, parts[part]));
  return qn_jinja_need_operator(p, "]");
}

static qn_status parse_attribute(parser *p, node *of, node **out) {
  const qn_jinja_token *at = p->token++, *name = p->token;
  if (name->kind == TOKEN_INT) {
    node *index;
    p->token++;
    QN_TRY(literal(p, name, qn_jinja_int(name->integer), &index));
    return binary(p, NODE_INDEX, at, of, index, out);
  }
  QN_TRY(qn_jinja_new_node(p, NODE_ATTRIBUTE, at, out));
  (*out)->a = of;
  return qn_jinja_need_name(p, "the name of an attribute", &(*out)->text);
}

// Arguments after "(", up to ")".
static qn_status parse_arguments(parser *p, node *to) {
  bool named = false;
  while (!qn_jinja_skip_operator(p, ")")) {
    item added = {0};
    const qn_jinja_token *t = p->token;
    if (qn_jinja_at_operator(p, "*") || qn_jinja_at_operator(p, "**"))
      return qn_jinja_wrong(p, t, QN_ERR_UNSUPPORTED, "got %.*s before an argument, want every argument written out",
                            QN_STR_ARGS(t->text));
    if (t->kind == TOKEN_NAME && t[1].kind == TOKEN_OPERATOR && qn_str_is(t[1].text, "=")) {
      added.name = t->text;
      p->token += 2;
      named = true;
    } else if (named) {
      return qn_jinja_wrong(p, t, QN_ERR_FORMAT, "got an argument without a name after one with a name");
    }
    QN_TRY(qn_jinja_parse_expression(p, true, &added.value));
    QN_TRY(qn_jinja_add_item(p, to, added));
    if (!qn_jinja_skip_operator(p, ",") && !qn_jinja_at_operator(p, ")")) return qn_jinja_unexpected(p, "a comma or )");
  }
  return QN_OK;
}

qn_status qn_jinja_parse_call(parser *p, node *callee, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_CALL, p->token++, out));
  (*out)->a = callee;
  return parse_arguments(p, *out);
}

qn_status qn_jinja_parse_postfix(parser *p, node **in_out) {
  for (;;) {
    if (qn_jinja_at_operator(p, ".")) {
      QN_TRY(parse_attribute(p, *in_out, in_out));
    } else if (qn_jinja_at_operator(p, "[")) {
      QN_TRY(parse_subscript(p, *in_out, in_out));
    } else if (qn_jinja_at_operator(p, "(")) {
      QN_TRY(qn_jinja_parse_call(p, *in_out, in_out));
    } else {
      return QN_OK;
    }
  }
}

qn_status qn_jinja_fail_unknown(const qn_jinja_source *source, size_t at, qn_diag *diag, const char *what,
                                const qn_jinja_builtin *table, qn_str name) {
  char known[640];
  size_t used = 0;
  for (const qn_jinja_builtin *b = table; b->name && used < sizeof known; b++)
    used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", b->name);
  return qn_jinja_fail(source, at, diag, QN_ERR_FORMAT, "there is no %s '%.*s', want one of %s", what,
                       (int)(name.length < 40 ? name.length : 40), name.data, known);
}

// Jinja forgives a name that nothing has within an if, until it is reached.
static qn_status look_up(parser *p, const qn_jinja_token *at, const char *what, const qn_jinja_builtin *table,
                         qn_str name, const qn_jinja_builtin **out) {
  *out = qn_jinja_find_builtin(table, name);
  if (*out || p->conditions > 0) return QN_OK;
  return qn_jinja_fail_unknown(&p->jinja->source, at->at, p->diag, what, table, name);
}

// A filter's name and arguments.
static qn_status parse_filter(parser *p, node *of, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_FILTER, p->token, out));
  const qn_jinja_token *at = p->token;
  (*out)->a = of;
  QN_TRY(qn_jinja_need_name(p, "the name of a filter", &(*out)->text));
  QN_TRY(look_up(p, at, "filter", qn_jinja_filters, (*out)->text, &(*out)->builtin));
  return qn_jinja_skip_operator(p, "(") ? parse_arguments(p, *out) : QN_OK;
}

qn_status qn_jinja_parse_filters(parser *p, node **out) {
  *out = NULL;
  do {
    QN_TRY(parse_filter(p, *out, out));
  } while (qn_jinja_skip_operator(p, "|"));
  return QN_OK;
}

// May an argument without brackets follow the name of a test here?
static bool begins_argument(const parser *p) {
  static const char *const others[] = {"else", "or", "and", "if", "is", "in", "not", "recursive"};
  for (size_t i = 0; i < QN_COUNT(others); i++)
    if (qn_jinja_at_name(p, others[i])) return false;
  qn_jinja_token_kind kind = p->token->kind;
  return kind == TOKEN_NAME || kind == TOKEN_STRING || kind == TOKEN_INT || kind == TOKEN_FLOAT ||
         qn_jinja_at_operator(p, "[") || qn_jinja_at_operator(p, "{");
}

// After "is".
static qn_status parse_test(parser *p, node *of, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_TEST, p->token, out));
  (*out)->op = qn_jinja_skip_name(p, "not");
  (*out)->a = of;
  const qn_jinja_token *at = p->token;
  QN_TRY(qn_jinja_need_name(p, "the name of a test", &(*out)->text));
  QN_TRY(look_up(p, at, "test", qn_jinja_tests, (*out)->text, &(*out)->builtin));
  if (qn_jinja_skip_operator(p, "(")) return parse_arguments(p, *out);
  if (!begins_argument(p)) return QN_OK;
  item argument = {0};
  QN_TRY(qn_jinja_parse_primary(p, &argument.value));
  QN_TRY(qn_jinja_parse_postfix(p, &argument.value));
  return qn_jinja_add_item(p, *out, argument);
}

// ---- operators

// A sign binds looser than what follows its operand, and tighter than a filter.
static qn_status parse_unary(parser *p, bool filters, node **out) {
  const qn_jinja_token *at = p->token;
  bool minus = qn_jinja_at_operator(p, "-");
  QN_TRY(qn_jinja_enter(p));
  if (minus || qn_jinja_at_operator(p, "+")) {
    node *a;
    p->token++;
    QN_TRY(parse_unary(p, false, &a));
    QN_TRY(binary(p, minus ? NODE_NEGATE : NODE_PLUS, at, a, NULL, out));
  } else {
    QN_TRY(qn_jinja_parse_primary(p, out));
  }
  QN_TRY(qn_jinja_parse_postfix(p, out));
  while (filters) {
    if (qn_jinja_skip_operator(p, "|")) {
      QN_TRY(parse_filter(p, *out, out));
    } else if (qn_jinja_skip_name(p, "is")) {
      QN_TRY(parse_test(p, *out, out));
    } else if (qn_jinja_at_operator(p, "(")) {
      QN_TRY(qn_jinja_parse_call(p, *out, out));
    } else {
      break;
    }
  }
  qn_jinja_leave(p);
  return QN_OK;
}

typedef struct operators {
  const char *text;
  qn_jinja_op op;
} operators;

static const operators powers[] = {{"**", OP_POWER}, {NULL, 0}};
static const operators products[] = {
    {"*", OP_MULTIPLY}, {"/", OP_DIVIDE}, {"//", OP_FLOOR}, {"%", OP_MODULO}, {NULL, 0}};
static const operators sums[] = {{"+", OP_ADD}, {"-", OP_SUBTRACT}, {NULL, 0}};
static const operators comparisons[] = {{"==", OP_EQUAL},  {"!=", OP_UNEQUAL},    {"<", OP_LESS},
                                        {">", OP_GREATER}, {"<=", OP_LESS_EQUAL}, {">=", OP_GREATER_EQUAL},
                                        {NULL, 0}};

static const operators *take_operator(parser *p, const operators *table) {
  for (; table->text; table++)
    if (qn_jinja_skip_operator(p, table->text)) return table;
  return NULL;
}

// operand (operator operand)*, from left to right.
static qn_status parse_chain(parser *p, const operators *table, qn_status (*operand)(parser *p, node **out),
                             node **out) {
  const operators *found;
  QN_TRY(operand(p, out));
  for (const qn_jinja_token *at = p->token; (found = take_operator(p, table)) != NULL; at = p->token) {
    node *b;
    QN_TRY(operand(p, &b));
    QN_TRY(binary(p, NODE_ARITHMETIC, at, *out, b, out));
    (*out)->op = (int)found->op;
  }
  return QN_OK;
}

static qn_status parse_operand(parser *p, node **out) { return parse_unary(p, true, out); }
static qn_status parse_power(parser *p, node **out) { return parse_chain(p, powers, parse_operand, out); }
static qn_status parse_product(parser *p, node **out) { return parse_chain(p, products, parse_power, out); }

static qn_status parse_concat(parser *p, node **out) {
  const qn_jinja_token *at = p->token;
  item part = {0};
  QN_TRY(parse_product(p, out));
  if (!qn_jinja_at_operator(p, "~")) return QN_OK;
  part.value = *out;
  QN_TRY(qn_jinja_new_node(p, NODE_CONCAT, at, out));
  QN_TRY(qn_jinja_add_item(p, *out, part));
  while (qn_jinja_skip_operator(p, "~")) {
    QN_TRY(parse_product(p, &part.value));
    QN_TRY(qn_jinja_add_item(p, *out, part));
  }
  return QN_OK;
}

static qn_status parse_sum(parser *p, node **out) { return parse_chain(p, sums, parse_concat, out); }

// Is there a comparison next? Then takes it.
static bool take_comparison(parser *p, qn_jinja_op *out) {
  const operators *found = take_operator(p, comparisons);
  if (found) {
    *out = found->op;
    return true;
  }
  bool negated = qn_jinja_at_name(p, "not") && p->token[1].kind == TOKEN_NAME && qn_str_is(p->token[1].text, "in");
  if (!negated && !qn_jinja_at_name(p, "in")) return false;
  p->token += negated ? 2 : 1;
  *out = negated ? OP_NOT_IN : OP_IN;
  return true;
}

static qn_status parse_comparison(parser *p, node **out) {
  item compared = {0};
  node *first;
  const qn_jinja_token *at = p->token;
  QN_TRY(parse_sum(p, &first));
  *out = first;
  for (at = p->token; take_comparison(p, &compared.op); at = p->token) {
    if (*out == first) QN_TRY(binary(p, NODE_COMPARE, at, first, NULL, out));
    QN_TRY(parse_sum(p, &compared.value));
    QN_TRY(qn_jinja_add_item(p, *out, compared));
  }
  return QN_OK;
}

static qn_status parse_not(parser *p, node **out) {
  const qn_jinja_token *at = p->token;
  if (!qn_jinja_skip_name(p, "not")) return parse_comparison(p, out);
  node *a;
  QN_TRY(qn_jinja_enter(p));
  QN_TRY(parse_not(p, &a));
  qn_jinja_leave(p);
  return binary(p, NODE_NOT, at, a, NULL, out);
}

static qn_status parse_and(parser *p, node **out) {
  QN_TRY(parse_not(p, out));
  for (const qn_jinja_token *at = p->token; qn_jinja_skip_name(p, "and"); at = p->token) {
    node *b;
    QN_TRY(parse_not(p, &b));
    QN_TRY(binary(p, NODE_AND, at, *out, b, out));
  }
  return QN_OK;
}

static qn_status parse_or(parser *p, node **out) {
  QN_TRY(parse_and(p, out));
  for (const qn_jinja_token *at = p->token; qn_jinja_skip_name(p, "or"); at = p->token) {
    node *b;
    QN_TRY(parse_and(p, &b));
    QN_TRY(binary(p, NODE_OR, at, *out, b, out));
  }
  return QN_OK;
}

qn_status qn_jinja_parse_expression(parser *p, bool choice, node **out) {
  QN_TRY(qn_jinja_enter(p));
  QN_TRY(parse_or(p, out));
  for (const qn_jinja_token *at = p->token; choice && qn_jinja_skip_name(p, "if"); at = p->token) {
    node *condition, *otherwise = NULL;
    QN_TRY(parse_or(p, &condition));
    if (qn_jinja_skip_name(p, "else")) QN_TRY(qn_jinja_parse_expression(p, true, &otherwise));
    QN_TRY(binary(p, NODE_CHOICE, at, *out, condition, out));
    (*out)->c = otherwise;
  }
  qn_jinja_leave(p);
  return QN_OK;
}

// Does a list of expressions end here?
static bool ends_tuple(const parser *p) {
  return p->token->kind == TOKEN_BLOCK_END || p->token->kind == TOKEN_PRINT_END || p->token->kind == TOKEN_END ||
         qn_jinja_at_operator(p, ")") || qn_jinja_at_name(p, "recursive") || qn_jinja_at_operator(p, "=");
}

qn_status qn_jinja_parse_tuple(parser *p, bool choice, node **out) {
  const qn_jinja_token *at = p->token;
  item part = {0};
  QN_TRY(qn_jinja_parse_expression(p, choice, out));
  if (!qn_jinja_at_operator(p, ",")) return QN_OK;
  part.value = *out;
  QN_TRY(qn_jinja_new_node(p, NODE_TUPLE, at, out));
  QN_TRY(qn_jinja_add_item(p, *out, part));
  while (qn_jinja_skip_operator(p, ",") && !ends_tuple(p)) {
    QN_TRY(qn_jinja_parse_expression(p, choice, &part.value));
    QN_TRY(qn_jinja_add_item(p, *out, part));
  }
  return QN_OK;
}
