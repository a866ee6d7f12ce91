// PTX modules: directives, variables with their initial values, functions' heads. Bodies are in parse_statement.c.
#include "tests/ptxsim/parse.h"

#include <ctype.h>
#include <stdlib.h>

#include "tests/ptxsim/parse_scope.h"

qn_status ps_next(ps_parser *p) { return ps_lex(&p->lexer, &p->token); }

bool ps_at(const ps_parser *p, char punct) { return p->token.kind == PS_TOKEN_PUNCT && p->token.text.data[0] == punct; }

qn_status ps_fail_token(ps_parser *p, const char *want) {
  if (p->token.kind == PS_TOKEN_END) {
    return ps_fail_line(p->diag, QN_ERR_FORMAT, p->token.line, "got the end of the text, want %s", want);
  }
  return ps_fail_line(p->diag, QN_ERR_FORMAT, p->token.line, "got '%.*s', want %s", QN_STR_ARGS(p->token.text), want);
}

qn_status ps_expect(ps_parser *p, char punct) {
  char want[] = {'\'', punct, '\'', '\0'};
  if (!ps_at(p, punct)) return ps_fail_token(p, want);
  return ps_next(p);
}

qn_status ps_accept(ps_parser *p, char punct, bool *out_yes) {
  *out_yes = ps_at(p, punct);
  return *out_yes ? ps_next(p) : QN_OK;
}

static bool is_directive(const ps_parser *p, const char *text) {
  return p->token.kind == PS_TOKEN_DIRECTIVE && qn_str_is(p->token.text, text);
}

static qn_status expect_int(ps_parser *p, uint64_t *out) {
  if (p->token.kind != PS_TOKEN_INT) return ps_fail_token(p, "a whole number");
  *out = p->token.value;
  return ps_next(p);
}

static qn_status skip_line(ps_parser *p, int line) {
  while (p->token.kind != PS_TOKEN_END && p->token.line == line) QN_TRY(ps_next(p));
  return QN_OK;
}

// From the { that is looked at to its }.
static qn_status skip_braces(ps_parser *p) {
  int depth = 0;
  do {
    if (p->token.kind == PS_TOKEN_END) return ps_fail_token(p, "'}'");
    if (ps_at(p, '{')) depth++;
    if (ps_at(p, '}')) depth--;
    QN_TRY(ps_next(p));
  } while (depth > 0);
  return QN_OK;
}

// ---- variables ----

// One number of an initial value, as the bytes of an element.
static qn_status parse_initial_number(ps_parser *p, ps_type type, uint8_t *out) {
  bool minus = false;
  QN_TRY(ps_accept(p, '-', &minus));
  uint64_t bits = p->token.value;
  if (p->token.kind == PS_TOKEN_INT) {
    if (minus) bits = 0 - bits;
  } else if (p->token.kind == PS_TOKEN_FLOAT || p->token.kind == PS_TOKEN_FLOAT32) {
    double value;
    float single;
    if (p->token.kind == PS_TOKEN_FLOAT) {
      memcpy(&value, &bits, sizeof value);
    } else {
      memcpy(&single, &bits, sizeof single);
      value = single;
    }
    if (minus) value = -value;
    single = (float)value;
    if (type == PS_f32) {
      memcpy(&bits, &single, sizeof single);
    } else {
      memcpy(&bits, &value, sizeof value);
    }
  } else {
    return ps_fail_line(p->diag, QN_ERR_UNSUPPORTED, p->token.line, "got '%.*s' in an initial value, want numbers only",
                        QN_STR_ARGS(p->token.text));
  }
  memcpy(out, &bits, ps_type_bytes(type));
  return ps_next(p);
}

static qn_status parse_initial(ps_parser *p, ps_symbol *v) {
  unsigned bytes = ps_type_bytes(v->type);
  bool braces = false;
  QN_TRY(ps_accept(p, '{', &braces));
  QN_VEC(uint8_t) data = {0};
  uint64_t elements = v->size_bytes / bytes, n = 0;
  bool open_size = v->size_bytes == 0;
  do {
    if (n >= elements && !open_size) {
      return ps_fail_line(p->diag, QN_ERR_FORMAT, v->line, "'%.*s' has more initial values than its %llu elements",
                          QN_STR_ARGS(v->name), (unsigned long long)elements);
    }
    uint8_t number[8];
    QN_TRY(parse_initial_number(p, v->type, number));
    for (unsigned b = 0; b < bytes; b++) {
      if (!qn_vec_push_arena(p->arena, &data, number[b])) return ps_nomem(p);
    }
    n++;
    if (!braces) break;
    bool comma;
    QN_TRY(ps_accept(p, ',', &comma));
    if (!comma) break;
  } while (true);
  if (braces) QN_TRY(ps_expect(p, '}'));
  if (open_size) v->size_bytes = n * bytes;
  uint8_t *initial = qn_arena_alloc(p->arena, v->size_bytes);
  if (initial == NULL) return ps_nomem(p);
  memcpy(initial, data.items, data.count);
  v->initial = initial;
  return QN_OK;
}

// [n][m]...; an empty pair leaves the size open (0).
static qn_status parse_dimensions(ps_parser *p, ps_symbol *v) {
  uint64_t elements = 1;
  bool array = false;
  while (ps_at(p, '[')) {
    uint64_t n = 0;
    array = true;
    QN_TRY(ps_next(p));
    if (!ps_at(p, ']')) QN_TRY(expect_int(p, &n));
    QN_TRY(ps_expect(p, ']'));
    if (__builtin_mul_overflow(elements, n, &elements) || elements > UINT32_MAX) {
      return ps_fail_line(p->diag, QN_ERR_FORMAT, v->line, "'%.*s' is too large", QN_STR_ARGS(v->name));
    }
  }
  v->size_bytes = (array ? elements : 1) * v->size_bytes;
  return QN_OK;
}

qn_status ps_parse_variable(ps_parser *p, ps_symbol_kind kind, bool external, ps_symbol **out) {
  uint64_t align = 0, vector = 1;
  ps_type type = PS_VOID;
  int line = p->token.line;
  while (p->token.kind == PS_TOKEN_DIRECTIVE) {
    qn_str name = {p->token.text.data + 1, p->token.text.length - 1};
    if (is_directive(p, ".align")) {
      QN_TRY(ps_next(p));
      QN_TRY(expect_int(p, &align));
      if (align == 0 || (align & (align - 1)) != 0 || align > 4096) {
        return ps_fail_line(p->diag, QN_ERR_FORMAT, line, "an alignment of %llu bytes, want a power of two up to 4096",
                            (unsigned long long)align);
      }
      continue;
    }
    if (is_directive(p, ".attribute")) {
      QN_TRY(ps_next(p));
      while (!ps_at(p, ')') && p->token.kind != PS_TOKEN_END) QN_TRY(ps_next(p));
      QN_TRY(ps_expect(p, ')'));
      continue;
    }
    bool pointer = is_directive(p, ".ptr") ||
                   (kind == PS_SYMBOL_PARAM && (is_directive(p, ".global") || is_directive(p, ".shared") ||
                                                is_directive(p, ".const") || is_directive(p, ".local")));
    if (is_directive(p, ".v2") || is_directive(p, ".v4")) {
      vector = (uint64_t)(p->token.text.data[2] - '0');
    } else if (!pointer) {
      type = ps_type_from(name);
      if (type == PS_VOID || type == PS_pred) return ps_fail_token(p, "the type of a variable");
    }
    QN_TRY(ps_next(p));
  }
  if (type == PS_VOID || p->token.kind != PS_TOKEN_NAME) return ps_fail_token(p, "the name of a variable");
  QN_TRY(ps_new_symbol(p, p->token.text, kind, line, out));
  ps_symbol *v = *out;
  v->type = type;
  v->external = external;
  v->size_bytes = vector * ps_type_bytes(type);
  v->align_bytes = align > 0 && kind != PS_SYMBOL_PARAM ? align : v->size_bytes;
  if (kind == PS_SYMBOL_PARAM && align > v->align_bytes) v->align_bytes = align;
  QN_TRY(ps_next(p));
  QN_TRY(parse_dimensions(p, v));
  bool initial = false;
  QN_TRY(ps_accept(p, '=', &initial));
  return initial ? parse_initial(p, v) : QN_OK;
}

// ---- functions ----

static qn_status parse_params(ps_parser *p, ps_function *f, bool returns) {
  QN_TRY(ps_expect(p, '('));
  while (!ps_at(p, ')')) {
    if (!is_directive(p, ".param")) {
      if (is_directive(p, ".reg")) {
        return ps_fail_line(p->diag, QN_ERR_UNSUPPORTED, p->token.line, "parameters of functions in registers");
      }
      return ps_fail_token(p, "'.param'");
    }
    QN_TRY(ps_next(p));
    ps_symbol *v;
    QN_TRY(ps_parse_variable(p, f->entry ? PS_SYMBOL_PARAM : PS_SYMBOL_LOCAL, false, &v));
    QN_TRY(ps_declare(p, v));
    bool pushed = returns ? qn_vec_push_arena(p->arena, &f->returns, v) : qn_vec_push_arena(p->arena, &f->params, v);
    if (!pushed) return ps_nomem(p);
    bool comma;
    QN_TRY(ps_accept(p, ',', &comma));
    if (!comma) break;
  }
  return ps_expect(p, ')');
}

static qn_status parse_dims3(ps_parser *p, uint32_t out[3]) {
  for (int i = 0; i < 3; i++) out[i] = 1;
  for (int i = 0; i < 3; i++) {
    uint64_t n = 1;
    QN_TRY(expect_int(p, &n));
    out[i] = (uint32_t)n;
    bool comma;
    QN_TRY(ps_accept(p, ',', &comma));
    if (!comma) break;
  }
  return QN_OK;
}

static qn_status skip_pragma(ps_parser *p) {
  QN_TRY(ps_next(p));
  while (!ps_at(p, ';')) {
    if (p->token.kind != PS_TOKEN_STRING && !ps_at(p, ',')) return ps_fail_token(p, "the text of a pragma");
    QN_TRY(ps_next(p));
  }
  return ps_next(p);
}

// .maxntid and the like, between a function's head and its body.
static qn_status parse_tuning(ps_parser *p, ps_function *f) {
  while (p->token.kind == PS_TOKEN_DIRECTIVE) {
    uint32_t ignored[3], *dims = NULL;
    if (is_directive(p, ".pragma")) {
      QN_TRY(skip_pragma(p));
      continue;
    }
    if (is_directive(p, ".noreturn")) {
      QN_TRY(ps_next(p));
      continue;
    }
    if (is_directive(p, ".maxntid")) dims = f->max_threads;
    if (is_directive(p, ".reqntid")) dims = f->required_threads;
    if (is_directive(p, ".minnctapersm") || is_directive(p, ".maxnreg")) dims = ignored;
    if (dims == NULL) {
      return ps_fail_line(p->diag, QN_ERR_UNSUPPORTED, p->token.line, "the directive '%.*s' of a function",
                          QN_STR_ARGS(p->token.text));
    }
    bool registers = is_directive(p, ".maxnreg");
    QN_TRY(ps_next(p));
    QN_TRY(parse_dims3(p, dims));
    if (registers) f->max_registers = dims[0];
  }
  return QN_OK;
}

// A function's name, or that of an earlier prototype of it.
static qn_status declare_function(ps_parser *p, ps_function *f) {
  ps_symbol *symbol;
  ps_scope *module = p->scope->parent;
  QN_TRY(ps_lookup(p, module, f->name, &symbol));
  if (symbol != NULL && (symbol->kind != PS_SYMBOL_FUNCTION || symbol->function->defined)) {
    return ps_fail_line(p->diag, QN_ERR_FORMAT, f->line, "'%.*s' is declared already, in line %d", QN_STR_ARGS(f->name),
                        symbol->line);
  }
  if (symbol == NULL) {
    QN_TRY(ps_new_symbol(p, f->name, PS_SYMBOL_FUNCTION, f->line, &symbol));
    if (!qn_map_put(&module->names, f->name, (uintptr_t)symbol)) return ps_nomem(p);
  }
  symbol->function = f;
  return qn_vec_push_arena(p->arena, &p->module->functions, f) ? QN_OK : ps_nomem(p);
}

static qn_status parse_function(ps_parser *p) {
  ps_function *f = QN_ARENA_NEW(p->arena, ps_function);
  if (f == NULL) return ps_nomem(p);
  f->entry = is_directive(p, ".entry");
  f->line = p->token.line;
  QN_TRY(ps_next(p));
  QN_TRY(ps_scope_push(p));
  if (ps_at(p, '(')) QN_TRY(parse_params(p, f, true));
  if (p->token.kind != PS_TOKEN_NAME) return ps_fail_token(p, "the name of a function");
  f->name = p->token.text;
  QN_TRY(ps_next(p));
  if (ps_at(p, '(')) QN_TRY(parse_params(p, f, false));
  QN_TRY(parse_tuning(p, f));
  QN_TRY(declare_function(p, f));
  if (ps_at(p, ';')) {
    ps_scope_pop(p);
    return ps_next(p);
  }
  f->defined = true;
  p->function = f;
  QN_TRY(ps_parse_body(p));
  p->function = NULL;
  ps_scope_pop(p);
  return QN_OK;
}

// ---- the module ----

static qn_status parse_version(ps_parser *p) {
  QN_TRY(ps_next(p));
  double version;
  memcpy(&version, &p->token.value, sizeof version);
  if (p->token.kind != PS_TOKEN_FLOAT || version < 1 || version > 99) return ps_fail_token(p, "a version like 8.0");
  p->module->version = (int)(version * 10 + 0.5);
  return ps_next(p);
}

static qn_status parse_target(ps_parser *p) {
  QN_TRY(ps_next(p));
  qn_str name = p->token.text;
  if (p->token.kind != PS_TOKEN_NAME || name.length < 5 || memcmp(name.data, "sm_", 3) != 0) {
    return ps_fail_token(p, "a target like sm_80");
  }
  size_t i = 3;
  for (; i < name.length && isdigit((unsigned char)name.data[i]); i++) {
    p->module->sm = p->module->sm * 10 + (name.data[i] - '0');
  }
  if (i < name.length) p->module->suffix = name.data[i];
  QN_TRY(ps_next(p));
  while (ps_at(p, ',')) {  // texmode_independent, debug
    QN_TRY(ps_next(p));
    QN_TRY(ps_next(p));
  }
  return QN_OK;
}

static qn_status parse_module_variable(ps_parser *p, bool external) {
  ps_symbol_kind kind = is_directive(p, ".global")  ? PS_SYMBOL_GLOBAL
                        : is_directive(p, ".const") ? PS_SYMBOL_CONST
                                                    : PS_SYMBOL_SHARED;
  QN_TRY(ps_next(p));
  ps_symbol *v;
  QN_TRY(ps_parse_variable(p, kind, external, &v));
  QN_TRY(ps_declare(p, v));
  if (!qn_vec_push_arena(p->arena, &p->module->variables, v)) return ps_nomem(p);
  return ps_expect(p, ';');
}

static qn_status parse_directive(ps_parser *p) {
  bool external = false;
  int line = p->token.line;
  while (is_directive(p, ".visible") || is_directive(p, ".extern") || is_directive(p, ".weak") ||
         is_directive(p, ".common")) {
    external = external || is_directive(p, ".extern");
    QN_TRY(ps_next(p));
  }
  if (is_directive(p, ".entry") || is_directive(p, ".func")) return parse_function(p);
  if (is_directive(p, ".global") || is_directive(p, ".const") || is_directive(p, ".shared")) {
    return parse_module_variable(p, external);
  }
  if (is_directive(p, ".version")) return parse_version(p);
  if (is_directive(p, ".target")) return parse_target(p);
  if (is_directive(p, ".file") || is_directive(p, ".loc")) return skip_line(p, line);
  if (is_directive(p, ".pragma")) return skip_pragma(p);
  if (is_directive(p, ".section")) {
    while (!ps_at(p, '{') && p->token.kind != PS_TOKEN_END) QN_TRY(ps_next(p));
    return skip_braces(p);
  }
  if (is_directive(p, ".address_size")) {
    QN_TRY(ps_next(p));
    if (p->token.kind != PS_TOKEN_INT || p->token.value != 64) return ps_fail_token(p, "addresses of 64 bits");
    return ps_next(p);
  }
  if (p->token.kind != PS_TOKEN_DIRECTIVE) return ps_fail_token(p, "a directive");
  return ps_fail_line(p->diag, QN_ERR_UNSUPPORTED, line, "the directive '%.*s'", QN_STR_ARGS(p->token.text));
}

static qn_status parse_module(ps_parser *p) {
  QN_TRY(ps_scope_push(p));
  QN_TRY(ps_next(p));
  if (!is_directive(p, ".version")) return ps_fail_token(p, "'.version', with which every PTX text begins");
  while (p->token.kind != PS_TOKEN_END) QN_TRY(parse_directive(p));
  QN_TRY(ps_resolve_pending(p));
  if (p->module->sm == 0) return ps_fail_line(p->diag, QN_ERR_FORMAT, 1, "the text has no .target");
  return QN_OK;
}

qn_status ps_parse(qn_str source, qn_arena *arena, ps_module *out_module, qn_diag *diag) {
  ps_parser p = {.lexer = {.source = source, .line = 1, .diag = diag}, .arena = arena, .diag = diag};
  *out_module = (ps_module){0};
  p.module = out_module;
  qn_status status = parse_module(&p);
  for (size_t i = 0; i < p.scopes.count; i++) {
    qn_map_deinit(&p.scopes.items[i]->names);
    qn_map_deinit(&p.scopes.items[i]->ranges);
  }
  qn_vec_free(qn_allocator_default(), &p.scopes);
  qn_vec_free(qn_allocator_default(), &p.pending);
  return status;
}
