// Statements of Jinja: tokens → tree.
#include "runtime/jinja_impl.h"

// Statements up to a block whose name is one of `ends` (NULL after the last), which p->token is at then: its name.
static qn_status parse_body(parser *p, const char *const *ends, const qn_jinja_token *opened, node **out);

static qn_status need_block_end(parser *p) {
  if (p->token->kind != TOKEN_BLOCK_END) return qn_jinja_unexpected(p, "the end of the tag");
  p->token++;
  return QN_OK;
}

// After a block's head: statements up to {% end %}, which is taken.
static qn_status parse_block(parser *p, const char *end, const qn_jinja_token *opened, node **out) {
  const char *const ends[] = {end, NULL};
  QN_TRY(need_block_end(p));
  QN_TRY(parse_body(p, ends, opened, out));
  p->token++;
  return need_block_end(p);
}

// One name, several with commas between, also in brackets; with `attributes` name.attribute, too.
static qn_status parse_targets(parser *p, bool attributes, node *to) {
  bool brackets = qn_jinja_skip_operator(p, "(");
  do {
    item target = {0};
    const qn_jinja_token *at = p->token;
    if (at->kind == TOKEN_NAME && qn_jinja_at_name(p, "in") && to->count > 0) break;  // "a, in"
    QN_TRY(qn_jinja_need_name(p, "the name of a variable", &target.name));
    if (attributes && qn_jinja_skip_operator(p, ".")) {
      QN_TRY(qn_jinja_new_node(p, NODE_NAME, at, &target.key));
      target.key->text = target.name;
      QN_TRY(qn_jinja_need_name(p, "the name of an attribute", &target.name));
    }
    QN_TRY(qn_jinja_add_item(p, to, target));
  } while (qn_jinja_skip_operator(p, ",") && !(brackets && qn_jinja_at_operator(p, ")")));
  return brackets ? qn_jinja_need_operator(p, ")") : QN_OK;
}

// ---- if and for

static qn_status parse_if(parser *p, const qn_jinja_token *at, node **out) {
  static const char *const ends[] = {"elif", "else", "endif", NULL};
  QN_TRY(qn_jinja_new_node(p, NODE_IF, at, out));
  node *last = *out;
  p->conditions++;
  for (;;) {
    QN_TRY(qn_jinja_parse_tuple(p, false, &last->a));
    QN_TRY(need_block_end(p));
    QN_TRY(parse_body(p, ends, at, &last->body));
    const qn_jinja_token *word = p->token;
    if (!qn_jinja_skip_name(p, "elif")) break;
    QN_TRY(qn_jinja_new_node(p, NODE_IF, word, &last->other));
    last = last->other;
  }
  if (qn_jinja_skip_name(p, "else")) {
    QN_TRY(parse_block(p, "endif", at, &last->other));
  } else {
    p->token++;
    QN_TRY(need_block_end(p));
  }
  p->conditions--;
  return QN_OK;
}

static qn_status parse_for(parser *p, const qn_jinja_token *at, node **out) {
  static const char *const ends[] = {"else", "endfor", NULL};
  QN_TRY(qn_jinja_new_node(p, NODE_FOR, at, out));
  QN_TRY(parse_targets(p, false, *out));
  if (!qn_jinja_skip_name(p, "in")) return qn_jinja_unexpected(p, "in");
  QN_TRY(qn_jinja_parse_tuple(p, false, &(*out)->a));
  if (qn_jinja_skip_name(p, "if")) QN_TRY(qn_jinja_parse_expression(p, true, &(*out)->b));
  (*out)->op = qn_jinja_skip_name(p, "recursive");
  QN_TRY(need_block_end(p));
  p->loops++;
  QN_TRY(parse_body(p, ends, at, &(*out)->body));
  p->loops--;
  if (qn_jinja_skip_name(p, "else")) return parse_block(p, "endfor", at, &(*out)->other);
  p->token++;
  return need_block_end(p);
}

static qn_status parse_jump(parser *p, const qn_jinja_token *at, node **out) {
  bool breaks = qn_str_is(at->text, "break");
  if (p->loops == 0)
    return qn_jinja_wrong(p, at, QN_ERR_FORMAT, "%.*s is outside of a for loop", QN_STR_ARGS(at->text));
  QN_TRY(qn_jinja_new_node(p, breaks ? NODE_BREAK : NODE_CONTINUE, at, out));
  return need_block_end(p);
}

// ---- variables and macros

static qn_status parse_set(parser *p, const qn_jinja_token *at, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_SET, at, out));
  QN_TRY(parse_targets(p, true, *out));
  if (qn_jinja_skip_operator(p, "=")) {
    QN_TRY(qn_jinja_parse_tuple(p, true, &(*out)->a));
    return need_block_end(p);
  }
  (*out)->kind = NODE_SET_BLOCK;
  if ((*out)->count != 1) return qn_jinja_unexpected(p, "=");
  if (qn_jinja_skip_operator(p, "|")) QN_TRY(qn_jinja_parse_filters(p, &(*out)->a));
  return parse_block(p, "endset", at, &(*out)->body);
}

static qn_status parse_with(parser *p, const qn_jinja_token *at, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_WITH, at, out));
  while (p->token->kind != TOKEN_BLOCK_END) {
    item added = {0};
    QN_TRY(qn_jinja_need_name(p, "the name of a variable", &added.name));
    QN_TRY(qn_jinja_need_operator(p, "="));
    QN_TRY(qn_jinja_parse_expression(p, true, &added.value));
    QN_TRY(qn_jinja_add_item(p, *out, added));
    if (!qn_jinja_skip_operator(p, ",") && p->token->kind != TOKEN_BLOCK_END) return qn_jinja_unexpected(p, "a comma");
  }
  return parse_block(p, "endwith", at, &(*out)->body);
}

// Names with defaults, up to ")".
static qn_status parse_parameters(parser *p, node *to) {
  while (!qn_jinja_skip_operator(p, ")")) {
    item added = {0};
    const qn_jinja_token *name = p->token;
    QN_TRY(qn_jinja_need_name(p, "the name of a parameter", &added.name));
    for (size_t i = 0; i < to->count; i++)
      if (qn_str_equal(to->items[i].name, added.name))
        return qn_jinja_wrong(p, name, QN_ERR_FORMAT, "the parameter %.*s is there twice", QN_STR_ARGS(added.name));
    if (qn_jinja_skip_operator(p, "=")) QN_TRY(qn_jinja_parse_expression(p, true, &added.value));
    if (!added.value && to->count > 0 && to->items[to->count - 1].value)
      return qn_jinja_wrong(p, name, QN_ERR_FORMAT, "the parameter %.*s has no default, one before it has",
                            QN_STR_ARGS(added.name));
    QN_TRY(qn_jinja_add_item(p, to, added));
    if (!qn_jinja_skip_operator(p, ",") && !qn_jinja_at_operator(p, ")")) return qn_jinja_unexpected(p, "a comma or )");
  }
  return QN_OK;
}

// The body of a macro is in no loop.
static qn_status parse_macro_body(parser *p, const char *end, const qn_jinja_token *at, node **out) {
  int loops = p->loops;
  p->loops = 0;
  QN_TRY(parse_block(p, end, at, out));
  p->loops = loops;
  return QN_OK;
}

static qn_status parse_macro(parser *p, const qn_jinja_token *at, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_MACRO, at, out));
  QN_TRY(qn_jinja_need_name(p, "the name of a macro", &(*out)->text));
  QN_TRY(qn_jinja_need_operator(p, "("));
  QN_TRY(parse_parameters(p, *out));
  return parse_macro_body(p, "endmacro", at, &(*out)->body);
}

static qn_status parse_call_block(parser *p, const qn_jinja_token *at, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_CALL_BLOCK, at, out));
  (*out)->text = QN_STR("caller");
  if (qn_jinja_skip_operator(p, "(")) QN_TRY(parse_parameters(p, *out));
  const qn_jinja_token *call = p->token;
  QN_TRY(qn_jinja_parse_expression(p, true, &(*out)->a));
  if ((*out)->a->kind != NODE_CALL)
    return qn_jinja_wrong(p, call, QN_ERR_FORMAT, "got another expression, want the call of a macro");
  return parse_macro_body(p, "endcall", at, &(*out)->body);
}

static qn_status parse_filter_block(parser *p, const qn_jinja_token *at, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_FILTER_BLOCK, at, out));
  QN_TRY(qn_jinja_parse_filters(p, &(*out)->a));
  return parse_block(p, "endfilter", at, &(*out)->body);
}

static qn_status parse_generation(parser *p, const qn_jinja_token *at, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_GENERATION, at, out));
  return parse_block(p, "endgeneration", at, &(*out)->body);
}

static const struct {
  const char *name;
  qn_status (*parse)(parser *p, const qn_jinja_token *at, node **out);
} statements[] = {{"if", parse_if},
                  {"for", parse_for},
                  {"set", parse_set},
                  {"macro", parse_macro},
                  {"break", parse_jump},
                  {"continue", parse_jump},
                  {"generation", parse_generation},
                  {"with", parse_with},
                  {"filter", parse_filter_block},
                  {"call", parse_call_block}};

// Those that need more than this one text.
static const char *const others[] = {"include", "import", "from", "extends", "block"};

static qn_status fail_unknown(parser *p, const qn_jinja_token *at) {
  char known[160];
  size_t used = 0;
  for (size_t i = 0; i < QN_COUNT(others); i++) {
    if (qn_str_is(at->text, others[i]))
      return qn_jinja_wrong(p, at, QN_ERR_UNSUPPORTED,
                            "got {%% %s %%}, but a chat template is one text and reads no other", others[i]);
  }
  for (size_t i = 0; i < QN_COUNT(statements); i++)
    used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", statements[i].name);
  return qn_jinja_wrong(p, at, QN_ERR_FORMAT, "there is no tag '%.*s' here, want one of %s",
                        (int)(at->text.length < 40 ? at->text.length : 40), at->text.data, known);
}

// After "{%".
static qn_status parse_statement(parser *p, node **out) {
  const qn_jinja_token *at = p->token;
  if (at->kind != TOKEN_NAME) return qn_jinja_unexpected(p, "the name of a tag");
  p->token++;
  for (size_t i = 0; i < QN_COUNT(statements); i++) {
    if (!qn_str_is(at->text, statements[i].name)) continue;
    QN_TRY(qn_jinja_enter(p));
    QN_TRY(statements[i].parse(p, at, out));
    qn_jinja_leave(p);
    return QN_OK;
  }
  return fail_unknown(p, at);
}

static qn_status parse_print(parser *p, node **out) {
  QN_TRY(qn_jinja_new_node(p, NODE_PRINT, p->token++, out));
  QN_TRY(qn_jinja_parse_tuple(p, true, &(*out)->a));
  if (p->token->kind != TOKEN_PRINT_END) return qn_jinja_unexpected(p, "}}");
  p->token++;
  return QN_OK;
}

static bool is_listed(const qn_jinja_token *word, const char *const *words) {
  for (; words && *words; words++)
    if (word->kind == TOKEN_NAME && qn_str_is(word->text, *words)) return true;
  return false;
}

static qn_status parse_body(parser *p, const char *const *ends, const qn_jinja_token *opened, node **out) {
  for (;; out = &(*out)->next) {
    *out = NULL;
    const qn_jinja_token *t = p->token;
    if (t->kind == TOKEN_END) {
      if (!ends) return QN_OK;
      const char *end = ends[0];
      for (size_t i = 0; ends[i]; i++) end = ends[i];
      return qn_jinja_wrong(p, opened, QN_ERR_FORMAT, "%.*s has no end, want {%% %s %%}", QN_STR_ARGS(opened->text),
                            end);
    }
    if (t->kind == TOKEN_DATA) {
      QN_TRY(qn_jinja_new_node(p, NODE_DATA, t, out));
      (*out)->text = t->text;
      p->token++;
    } else if (t->kind == TOKEN_PRINT_BEGIN) {
      QN_TRY(parse_print(p, out));
    } else {
      p->token++;
      if (is_listed(p->token, ends)) return QN_OK;
      QN_TRY(parse_statement(p, out));
    }
  }
}

qn_status qn_jinja_parse_tokens(qn_jinja *jinja, const qn_jinja_token *tokens, qn_diag *diag) {
  parser p = {.jinja = jinja, .token = tokens, .diag = diag};
  return parse_body(&p, NULL, NULL, &jinja->body);
}
