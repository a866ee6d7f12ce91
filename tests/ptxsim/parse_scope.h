// Names of a PTX function and what they stand for, while it is parsed.
#ifndef PTXSIM_PARSE_SCOPE_H
#define PTXSIM_PARSE_SCOPE_H

#include "tests/ptxsim/parse.h"

typedef struct ps_scope {
  struct ps_scope *parent;  // borrowed; NULL for the module
  qn_map names;             // to ps_symbol *
  qn_map ranges;            // "%r" of %r<10>, to ps_range *
} ps_scope;

// A name that was used before it was declared: a label ahead, a function below.
typedef struct ps_pending {
  ps_arg *arg;
  ps_scope *scope;
  int line;
} ps_pending;

typedef struct ps_parser {
  ps_lexer lexer;
  ps_token token;  // the one looked at
  qn_arena *arena;
  qn_diag *diag;
  ps_module *module;
  ps_scope *scope;
  ps_function *function;  // being parsed; NULL outside
  uint32_t used_bytes;    // of the next load, as a pragma says; 0 = all
  QN_VEC(ps_pending) pending;
  QN_VEC(ps_scope *) scopes;  // all made, for their maps to be freed
} ps_parser;

QN_CHECKED qn_status ps_scope_push(ps_parser *p);
void ps_scope_pop(ps_parser *p);
// Fails where the name is already declared in this very scope.
QN_CHECKED qn_status ps_declare(ps_parser *p, ps_symbol *symbol);
// Declares prefix0 .. prefix<count-1>.
QN_CHECKED qn_status ps_declare_range(ps_parser *p, qn_str prefix, ps_type type, uint64_t count, int line);
// *out is NULL when no scope from this one outwards knows the name.
QN_CHECKED qn_status ps_lookup(ps_parser *p, ps_scope *scope, qn_str name, ps_symbol **out);
QN_CHECKED qn_status ps_resolve_pending(ps_parser *p);
QN_CHECKED qn_status ps_new_symbol(ps_parser *p, qn_str name, ps_symbol_kind kind, int line, ps_symbol **out);

// ---- shared between parse.c and parse_statement.c ----
QN_CHECKED qn_status ps_next(ps_parser *p);
bool ps_at(const ps_parser *p, char punct);
QN_CHECKED qn_status ps_expect(ps_parser *p, char punct);
QN_CHECKED qn_status ps_accept(ps_parser *p, char punct, bool *out_yes);
// "got 'x', want y" at the token looked at.
QN_CHECKED qn_status ps_fail_token(ps_parser *p, const char *want);
QN_CHECKED qn_status ps_nomem(ps_parser *p);
// A variable after its state space was read: [.align n] .type name [\[n\]] [= initial].
QN_CHECKED qn_status ps_parse_variable(ps_parser *p, ps_symbol_kind kind, bool external, ps_symbol **out);
// The body of a function from its { on.
QN_CHECKED qn_status ps_parse_body(ps_parser *p);

#endif
