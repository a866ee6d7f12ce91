// Scopes of names. Ranges of registers (%r<10>) become symbols when a name of theirs is first used.
#include "tests/ptxsim/parse_scope.h"

#include <ctype.h>
#include <stdlib.h>

typedef struct ps_range {
  ps_type type;
  uint64_t count;
  int line;
} ps_range;

qn_status ps_nomem(ps_parser *p) { return qn_fail_nomem(p->diag, "ptxsim", "a PTX module"); }

qn_status ps_scope_push(ps_parser *p) {
  ps_scope *scope = QN_ARENA_NEW(p->arena, ps_scope);
  if (scope == NULL) return ps_nomem(p);
  scope->parent = p->scope;
  qn_map_init(&scope->names, qn_allocator_default());
  qn_map_init(&scope->ranges, qn_allocator_default());
  if (!qn_vec_push(qn_allocator_default(), &p->scopes, scope)) return ps_nomem(p);
  p->scope = scope;
  return QN_OK;
}

void ps_scope_pop(ps_parser *p) { p->scope = p->scope->parent; }

qn_status ps_new_symbol(ps_parser *p, qn_str name, ps_symbol_kind kind, int line, ps_symbol **out) {
  ps_symbol *symbol = QN_ARENA_NEW(p->arena, ps_symbol);
  if (symbol == NULL) return ps_nomem(p);
  symbol->name = name;
  symbol->kind = kind;
  symbol->line = line;
  *out = symbol;
  return QN_OK;
}

qn_status ps_declare(ps_parser *p, ps_symbol *symbol) {
  uint64_t before;
  if (qn_map_get(&p->scope->names, symbol->name, &before)) {
    return ps_fail_line(p->diag, QN_ERR_FORMAT, symbol->line, "'%.*s' is declared already, in line %d",
                        QN_STR_ARGS(symbol->name), ((ps_symbol *)(uintptr_t)before)->line);
  }
  return qn_map_put(&p->scope->names, symbol->name, (uintptr_t)symbol) ? QN_OK : ps_nomem(p);
}

qn_status ps_declare_range(ps_parser *p, qn_str prefix, ps_type type, uint64_t count, int line) {
  ps_range *range = QN_ARENA_NEW(p->arena, ps_range);
  if (range == NULL) return ps_nomem(p);
  *range = (ps_range){type, count, line};
  return qn_map_put(&p->scope->ranges, prefix, (uintptr_t)range) ? QN_OK : ps_nomem(p);
}

// A register of a range, which becomes a symbol of the range's scope.
static qn_status lookup_in_ranges(ps_parser *p, ps_scope *scope, qn_str name, ps_symbol **out) {
  size_t prefix = name.length;
  while (prefix > 0 && isdigit((unsigned char)name.data[prefix - 1])) prefix--;
  if (prefix == name.length || name.length - prefix > 9) return QN_OK;
  char digits[10] = "";
  memcpy(digits, name.data + prefix, name.length - prefix);
  if (digits[0] == '0' && digits[1] != '\0') return QN_OK;
  uint64_t found;
  if (!qn_map_get(&scope->ranges, (qn_str){name.data, prefix}, &found)) return QN_OK;
  const ps_range *range = (const ps_range *)(uintptr_t)found;
  if (strtoull(digits, NULL, 10) >= range->count) return QN_OK;
  QN_TRY(ps_new_symbol(p, name, PS_SYMBOL_REGISTER, range->line, out));
  (*out)->type = range->type;
  return qn_map_put(&scope->names, name, (uintptr_t)*out) ? QN_OK : ps_nomem(p);
}

qn_status ps_lookup(ps_parser *p, ps_scope *scope, qn_str name, ps_symbol **out) {
  *out = NULL;
  for (; scope != NULL; scope = scope->parent) {
    uint64_t found;
    if (qn_map_get(&scope->names, name, &found)) {
      *out = (ps_symbol *)(uintptr_t)found;
      return QN_OK;
    }
    QN_TRY(lookup_in_ranges(p, scope, name, out));
    if (*out != NULL) return QN_OK;
  }
  return QN_OK;
}

qn_status ps_resolve_pending(ps_parser *p) {
  for (size_t i = 0; i < p->pending.count; i++) {
    const ps_pending *pending = &p->pending.items[i];
    QN_TRY(ps_lookup(p, pending->scope, pending->arg->name, &pending->arg->symbol));
    if (pending->arg->symbol == NULL) {
      return ps_fail_line(p->diag, QN_ERR_FORMAT, pending->line, "'%.*s' is declared nowhere",
                          QN_STR_ARGS(pending->arg->name));
    }
  }
  p->pending.count = 0;
  return QN_OK;
}
