// Bodies of PTX functions: declarations, labels, instructions with their operands.
#include "tests/ptxsim/parse_scope.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_OPERANDS = 16 };

static bool directive_is(const ps_parser *p, const char *text) {
  return p->token.kind == PS_TOKEN_DIRECTIVE && qn_str_is(p->token.text, text);
}

static qn_status parse_arg(ps_parser *p, ps_arg *out);

// ---- operands ----

// Items up to `close`; the opening one is behind.
static qn_status parse_items(ps_parser *p, char close, ps_arg *out) {
  ps_arg *items = QN_ARENA_ARRAY(p->arena, MAX_OPERANDS, ps_arg);
  if (items == NULL) return ps_nomem(p);
  size_t n = 0;
  while (!ps_at(p, close)) {
    if (n == MAX_OPERANDS) return ps_fail_token(p, "no more operands than 16");
    QN_TRY(parse_arg(p, &items[n++]));
    bool comma;
    QN_TRY(ps_accept(p, ',', &comma));
    if (!comma) break;
  }
  out->items = items;
  out->count = n;
  return ps_expect(p, close);
}

// [+-n]... behind a base.
static qn_status parse_offset(ps_parser *p, uint64_t *out) {
  *out = 0;
  while (ps_at(p, '+') || ps_at(p, '-')) {
    bool minus = ps_at(p, '-');
    QN_TRY(ps_next(p));
    if (ps_at(p, '-')) {  // [%rd1+-8]
      minus = !minus;
      QN_TRY(ps_next(p));
    }
    if (p->token.kind != PS_TOKEN_INT) return ps_fail_token(p, "a whole number");
    *out += minus ? 0 - p->token.value : p->token.value;
    QN_TRY(ps_next(p));
  }
  return QN_OK;
}

static qn_status parse_name(ps_parser *p, ps_arg *out) {
  qn_str name = p->token.text;
  int line = p->token.line;
  QN_TRY(ps_next(p));
  out->name = name;
  if (qn_str_is(name, "_")) {
    out->kind = PS_ARG_SINK;
    return QN_OK;
  }
  if (qn_str_is(name, "WARP_SZ")) {
    *out = (ps_arg){.kind = PS_ARG_INT, .value = 32};
    return QN_OK;
  }
  QN_TRY(ps_lookup(p, p->scope, name, &out->symbol));
  if (out->symbol == NULL && name.data[0] == '%') {
    out->kind = PS_ARG_SPECIAL;  // the decoder knows which there are
    return QN_OK;
  }
  out->kind = out->symbol != NULL && out->symbol->kind == PS_SYMBOL_REGISTER ? PS_ARG_REGISTER : PS_ARG_SYMBOL;
  if (out->symbol == NULL) {
    ps_pending pending = {out, p->scope, line};
    if (!qn_vec_push(qn_allocator_default(), &p->pending, pending)) return ps_nomem(p);
  }
  if (out->kind == PS_ARG_SYMBOL) return parse_offset(p, &out->value);
  return QN_OK;
}

static qn_status parse_address(ps_parser *p, ps_arg *out) {
  out->kind = PS_ARG_ADDRESS;
  out->items = QN_ARENA_NEW(p->arena, ps_arg);
  if (out->items == NULL) return ps_nomem(p);
  out->count = 1;
  QN_TRY(parse_arg(p, &out->items[0]));
  QN_TRY(parse_offset(p, &out->value));
  return ps_expect(p, ']');
}

static qn_status parse_simple(ps_parser *p, ps_arg *out) {
  bool minus = false;
  QN_TRY(ps_accept(p, '-', &minus));
  switch (p->token.kind) {
    case PS_TOKEN_NAME:
      if (minus) return ps_fail_token(p, "a number");
      return parse_name(p, out);
    case PS_TOKEN_INT: out->kind = PS_ARG_INT; break;
    case PS_TOKEN_FLOAT: out->kind = PS_ARG_FLOAT; break;
    case PS_TOKEN_FLOAT32: out->kind = PS_ARG_FLOAT32; break;
    default: return ps_fail_token(p, "an operand");
  }
  out->value = p->token.value;
  if (minus && out->kind == PS_ARG_INT) out->value = 0 - out->value;
  if (minus && out->kind == PS_ARG_FLOAT) out->value ^= 1ull << 63;
  if (minus && out->kind == PS_ARG_FLOAT32) out->value ^= 1ull << 31;
  return ps_next(p);
}

static qn_status parse_arg(ps_parser *p, ps_arg *out) {
  *out = (ps_arg){0};
  bool yes = false;
  QN_TRY(ps_accept(p, '{', &yes));
  if (yes) {
    out->kind = PS_ARG_VECTOR;
    return parse_items(p, '}', out);
  }
  QN_TRY(ps_accept(p, '(', &yes));
  if (yes) {
    out->kind = PS_ARG_LIST;
    return parse_items(p, ')', out);
  }
  QN_TRY(ps_accept(p, '[', &yes));
  if (yes) return parse_address(p, out);
  bool negated = false;
  QN_TRY(ps_accept(p, '!', &negated));
  QN_TRY(parse_simple(p, out));
  out->negated = negated;
  QN_TRY(ps_accept(p, '|', &yes));
  if (!yes) return QN_OK;
  ps_arg *items = QN_ARENA_ARRAY(p->arena, 2, ps_arg);
  if (items == NULL) return ps_nomem(p);
  items[0] = *out;
  QN_TRY(parse_simple(p, &items[1]));
  *out = (ps_arg){.kind = PS_ARG_PAIR, .items = items, .count = 2};
  return QN_OK;
}

// ---- statements ----

static qn_status parse_guard(ps_parser *p, ps_statement *s) {
  QN_TRY(ps_next(p));
  QN_TRY(ps_accept(p, '!', &s->guard_negated));
  ps_arg guard = {0};
  if (p->token.kind != PS_TOKEN_NAME) return ps_fail_token(p, "a predicate");
  QN_TRY(parse_name(p, &guard));
  if (guard.kind != PS_ARG_REGISTER || guard.symbol->type != PS_pred) {
    return ps_fail_line(p->diag, QN_ERR_FORMAT, s->line, "the guard '%.*s' is no predicate", QN_STR_ARGS(guard.name));
  }
  s->guard = guard.symbol;
  return QN_OK;
}

// An instruction whose name is `op` and behind.
static qn_status parse_instruction(ps_parser *p, ps_statement *s) {
  ps_arg *items = QN_ARENA_ARRAY(p->arena, MAX_OPERANDS, ps_arg);
  if (items == NULL) return ps_nomem(p);
  size_t n = 0;
  while (!ps_at(p, ';')) {
    if (n == MAX_OPERANDS) return ps_fail_token(p, "no more operands than 16");
    QN_TRY(parse_arg(p, &items[n++]));
    bool comma;
    QN_TRY(ps_accept(p, ',', &comma));
    if (!comma) break;
  }
  s->args = items;
  s->count = n;
  if (!qn_vec_push_arena(p->arena, &p->function->statements, *s)) return ps_nomem(p);
  return ps_expect(p, ';');
}

static qn_status parse_registers(ps_parser *p) {
  QN_TRY(ps_next(p));
  if (p->token.kind != PS_TOKEN_DIRECTIVE) return ps_fail_token(p, "the type of a register");
  ps_type type = ps_type_from((qn_str){p->token.text.data + 1, p->token.text.length - 1});
  if (type == PS_VOID || (ps_type_bytes(type) < 2 && type != PS_pred)) {
    return ps_fail_line(p->diag, QN_ERR_UNSUPPORTED, p->token.line, "registers of type '%.*s'",
                        QN_STR_ARGS(p->token.text));
  }
  bool comma = true;
  QN_TRY(ps_next(p));
  while (comma) {
    if (p->token.kind != PS_TOKEN_NAME) return ps_fail_token(p, "the name of a register");
    qn_str name = p->token.text;
    int line = p->token.line;
    QN_TRY(ps_next(p));
    if (ps_at(p, '<')) {
      QN_TRY(ps_next(p));
      if (p->token.kind != PS_TOKEN_INT) return ps_fail_token(p, "how many registers");
      QN_TRY(ps_declare_range(p, name, type, p->token.value, line));
      QN_TRY(ps_next(p));
      QN_TRY(ps_expect(p, '>'));
    } else {
      ps_symbol *symbol;
      QN_TRY(ps_new_symbol(p, name, PS_SYMBOL_REGISTER, line, &symbol));
      symbol->type = type;
      QN_TRY(ps_declare(p, symbol));
    }
    QN_TRY(ps_accept(p, ',', &comma));
  }
  return ps_expect(p, ';');
}

static qn_status parse_local_variable(ps_parser *p) {
  ps_symbol_kind kind = directive_is(p, ".shared")   ? PS_SYMBOL_SHARED
                        : directive_is(p, ".global") ? PS_SYMBOL_GLOBAL
                        : directive_is(p, ".const")  ? PS_SYMBOL_CONST
                                                     : PS_SYMBOL_LOCAL;
  QN_TRY(ps_next(p));
  ps_symbol *v;
  QN_TRY(ps_parse_variable(p, kind, false, &v));
  QN_TRY(ps_declare(p, v));
  bool pushed = kind == PS_SYMBOL_GLOBAL || kind == PS_SYMBOL_CONST
                    ? qn_vec_push_arena(p->arena, &p->module->variables, v)
                    : qn_vec_push_arena(p->arena, &p->function->variables, v);
  if (!pushed) return ps_nomem(p);
  return ps_expect(p, ';');
}

static qn_status parse_label(ps_parser *p, qn_str name, int line) {
  QN_TRY(ps_next(p));
  ps_symbol *label;
  QN_TRY(ps_new_symbol(p, name, PS_SYMBOL_LABEL, line, &label));
  label->offset = p->function->statements.count;
  QN_TRY(ps_declare(p, label));
  if (!directive_is(p, ".branchtargets")) return QN_OK;
  QN_TRY(ps_next(p));
  label->kind = PS_SYMBOL_TARGETS;
  ps_arg list = {0};
  QN_TRY(parse_items(p, ';', &list));
  label->targets = list.items;
  label->target_count = list.count;
  return QN_OK;
}

// Compilers widen loads and say which bytes of the next one they use; what else pragmas say changes nothing here.
static qn_status parse_pragma(ps_parser *p) {
  static const char used[] = "used_bytes_mask ";
  QN_TRY(ps_next(p));
  qn_str text = p->token.text;
  if (text.length > 0 && *text.data == '"') text.data++, text.length--;
  if (text.length > sizeof used - 1 && memcmp(text.data, used, sizeof used - 1) == 0)
    p->used_bytes = (uint32_t)strtoul(text.data + sizeof used - 1, NULL, 0);
  while (!ps_at(p, ';') && p->token.kind != PS_TOKEN_END) QN_TRY(ps_next(p));
  return ps_expect(p, ';');
}

static qn_status parse_body_directive(ps_parser *p) {
  int line = p->token.line;
  if (directive_is(p, ".reg")) return parse_registers(p);
  if (directive_is(p, ".shared") || directive_is(p, ".local") || directive_is(p, ".param") ||
      directive_is(p, ".global") || directive_is(p, ".const")) {
    return parse_local_variable(p);
  }
  if (directive_is(p, ".loc")) {
    while (p->token.line == line && p->token.kind != PS_TOKEN_END) QN_TRY(ps_next(p));
    return QN_OK;
  }
  if (directive_is(p, ".pragma")) return parse_pragma(p);
  return ps_fail_line(p->diag, QN_ERR_UNSUPPORTED, line, "the directive '%.*s'", QN_STR_ARGS(p->token.text));
}

static qn_status parse_statement(ps_parser *p) {
  ps_statement s = {.line = p->token.line};
  bool semicolon;
  QN_TRY(ps_accept(p, ';', &semicolon));
  if (semicolon) return QN_OK;
  if (p->token.kind == PS_TOKEN_DIRECTIVE) return parse_body_directive(p);
  if (ps_at(p, '@')) QN_TRY(parse_guard(p, &s));
  if (p->token.kind != PS_TOKEN_NAME) return ps_fail_token(p, "a statement");
  s.op = p->token.text;
  s.line = p->token.line;
  QN_TRY(ps_next(p));
  if (ps_at(p, ':') && s.guard == NULL) return parse_label(p, s.op, s.line);
  s.used_bytes = p->used_bytes;
  p->used_bytes = 0;
  return parse_instruction(p, &s);
}

qn_status ps_parse_body(ps_parser *p) {
  int depth = 0;
  do {
    bool yes;
    QN_TRY(ps_accept(p, '{', &yes));
    if (yes) {
      depth++;
      QN_TRY(ps_scope_push(p));
      continue;
    }
    QN_TRY(ps_accept(p, '}', &yes));
    if (yes) {
      depth--;
      ps_scope_pop(p);
      continue;
    }
    if (p->token.kind == PS_TOKEN_END) return ps_fail_token(p, "'}'");
    if (depth == 0) return ps_fail_token(p, "'{'");
    QN_TRY(parse_statement(p));
  } while (depth > 0);
  return QN_OK;
}
