// Operands of an instruction as rows of the register file, by the patterns of opcode.def.
#include <stdlib.h>

#include "tests/ptxsim/decode.h"

typedef struct operand_pattern {
  char letter;
  unsigned count;  // of V and W
  ps_type type;    // PS_VOID = none is said
  bool optional;
} operand_pattern;

static const char *const special_names[PS_SPECIAL_COUNT] = {
#define PS_SPECIAL(name, spelling, bytes) [PS_SPECIAL_##name] = spelling,
    PS_SPECIALS(PS_SPECIAL)
#undef PS_SPECIAL
};
static const unsigned special_bytes[PS_SPECIAL_COUNT] = {
#define PS_SPECIAL(name, spelling, bytes) [PS_SPECIAL_##name] = bytes,
    PS_SPECIALS(PS_SPECIAL)
#undef PS_SPECIAL
};

static const char *parse_pattern(const char *text, const ps_form *form, operand_pattern *out) {
  while (*text == ' ') text++;
  size_t n = strcspn(text, " ");
  *out = (operand_pattern){.letter = *text};
  if (n == 0) return text;
  out->optional = text[n - 1] == '?';
  const char *end = text + n - out->optional, *at = text + 1;
  if (out->letter == 'V' || out->letter == 'W') out->count = (unsigned)(*at++ - '0');
  if (at < end && *at >= '0' && *at <= '9') {
    out->type = form->type[*at - '0'];
  } else if (at < end) {
    out->type = ps_type_from((qn_str){at, (size_t)(end - at)});
  }
  return text + n;
}

static qn_status fail(ps_decoder *d, const ps_statement *s, const char *got, const char *want) {
  return ps_fail_line(d->diag, QN_ERR_UNSUPPORTED, s->line, "%.*s: got %s, want %s", QN_STR_ARGS(s->op), got, want);
}

static const char *kind_name(const ps_arg *arg) {
  switch (arg->kind) {
    case PS_ARG_REGISTER: return "a register";
    case PS_ARG_SPECIAL: return "a special register";
    case PS_ARG_INT: return "a whole number";
    case PS_ARG_FLOAT:
    case PS_ARG_FLOAT32: return "a number";
    case PS_ARG_SYMBOL: return "a name";
    case PS_ARG_ADDRESS: return "an address";
    case PS_ARG_VECTOR: return "registers in braces";
    case PS_ARG_LIST: return "a list";
    case PS_ARG_PAIR: return "a pair";
    case PS_ARG_SINK: return "'_'";
  }
  return "something else";
}

// A constant as the bits of a type.
static bool constant_bits(const ps_arg *arg, ps_type type, uint64_t *out) {
  bool real_type = ps_type_kind(type) == 'F';
  double value;
  float single;
  if (arg->kind == PS_ARG_INT) {
    *out = arg->value;
    return !real_type || type == PS_f16 || type == PS_bf16 || type == PS_f16x2 || type == PS_bf16x2;
  }
  if (arg->kind == PS_ARG_FLOAT32) {
    uint32_t bits = (uint32_t)arg->value;
    memcpy(&single, &bits, sizeof single);
    value = single;
  } else {
    memcpy(&value, &arg->value, sizeof value);
    single = (float)value;
  }
  if (type == PS_f64 || (ps_type_bytes(type) == 8 && arg->kind == PS_ARG_FLOAT)) {
    memcpy(out, &value, sizeof value);
    return true;
  }
  uint32_t bits;
  memcpy(&bits, &single, sizeof bits);
  *out = bits;
  return type == PS_f32 || ps_type_bytes(type) == 4;
}

static qn_status special_row(ps_decoder *d, const ps_statement *s, const ps_arg *arg, unsigned bytes, int32_t *out) {
  for (int i = 0; i < PS_SPECIAL_COUNT; i++) {
    if (!qn_str_is(arg->name, special_names[i])) continue;
    if (special_bytes[i] != bytes) return fail(d, s, special_names[i], "a register of the instruction's width");
    if (d->program->specials[i] == PS_NO_ROW) d->program->specials[i] = ps_new_row(d, bytes);
    *out = d->program->specials[i];
    return QN_OK;
  }
  return ps_fail_line(d->diag, QN_ERR_UNSUPPORTED, s->line, "the special register '%.*s' is not known",
                      QN_STR_ARGS(arg->name));
}

// The address of a variable, as mov gives it.
static qn_status symbol_row(ps_decoder *d, const ps_statement *s, const ps_arg *arg, unsigned bytes, int32_t *out) {
  if (arg->symbol->kind == PS_SYMBOL_LABEL || arg->symbol->kind == PS_SYMBOL_FUNCTION ||
      arg->symbol->kind == PS_SYMBOL_TARGETS || bytes < 4) {
    return fail(d, s, "a label or a function", "a register, a constant or a variable");
  }
  QN_TRY(ps_place_variable(d, arg->symbol, s->line));
  return ps_constant_row(d, arg->symbol->offset + arg->value, bytes, out);
}

// A source: its row.
static qn_status source_row(ps_decoder *d, const ps_statement *s, const ps_arg *arg, ps_type type, bool wider,
                            int32_t *out) {
  unsigned bytes = ps_type_bytes(type);
  switch (arg->kind) {
    case PS_ARG_REGISTER: {
      unsigned have = ps_type_bytes(arg->symbol->type);
      if (arg->symbol->type == PS_pred) return fail(d, s, "a predicate", "a value");
      if (wider ? have < bytes : have != bytes) {
        return ps_fail_line(d->diag, QN_ERR_UNSUPPORTED, s->line, "%.*s: '%.*s' has %u bits, want %u",
                            QN_STR_ARGS(s->op), QN_STR_ARGS(arg->name), have * 8, bytes * 8);
      }
      *out = ps_register_row(d, arg->symbol);
      return QN_OK;
    }
    case PS_ARG_SPECIAL: return special_row(d, s, arg, bytes, out);
    case PS_ARG_SYMBOL: return symbol_row(d, s, arg, bytes, out);
    case PS_ARG_INT:
    case PS_ARG_FLOAT:
    case PS_ARG_FLOAT32: {
      uint64_t bits;
      if (!constant_bits(arg, type, &bits)) return fail(d, s, kind_name(arg), "a constant of the instruction's type");
      return ps_constant_row(d, bits, bytes < 2 ? 2 : bytes, out);
    }
    default: return fail(d, s, kind_name(arg), "a register or a constant");
  }
}

static qn_status push_source(ps_decoder *d, const ps_statement *s, ps_insn *insn, int32_t row) {
  if (insn->src_count == PS_MAX_SRC) return fail(d, s, "more sources", "at most 12");
  insn->src[insn->src_count++] = row;
  return QN_OK;
}

static qn_status add_source(ps_decoder *d, const ps_statement *s, const ps_arg *arg, ps_type type, bool wider,
                            ps_insn *insn) {
  int32_t row;
  QN_TRY(source_row(d, s, arg, type, wider, &row));
  return push_source(d, s, insn, row);
}

static qn_status add_destination(ps_decoder *d, const ps_statement *s, const ps_arg *arg, ps_type type, bool wider,
                                 ps_insn *insn) {
  if (insn->dst_count == PS_MAX_DST) return fail(d, s, "more destinations", "at most 8");
  if (arg->kind == PS_ARG_SINK) {
    insn->dst[insn->dst_count++] = d->program->sink;
    return QN_OK;
  }
  if (arg->kind != PS_ARG_REGISTER || arg->symbol->type == PS_pred) {
    return fail(d, s, kind_name(arg), "a destination register");
  }
  unsigned have = ps_type_bytes(arg->symbol->type), want = ps_type_bytes(type);
  if (wider ? have < want : have != want) {
    return ps_fail_line(d->diag, QN_ERR_UNSUPPORTED, s->line, "%.*s: '%.*s' has %u bits, want %u", QN_STR_ARGS(s->op),
                        QN_STR_ARGS(arg->name), have * 8, want * 8);
  }
  insn->width = (uint8_t)have;
  insn->dst[insn->dst_count++] = ps_register_row(d, arg->symbol);
  return QN_OK;
}

static qn_status add_predicate(ps_decoder *d, const ps_statement *s, const ps_arg *arg, ps_insn *insn) {
  if (arg->kind == PS_ARG_SINK) {
    insn->dst[insn->dst_count++] = d->program->sink;
    return QN_OK;
  }
  if (arg->kind != PS_ARG_REGISTER || arg->symbol->type != PS_pred) return fail(d, s, kind_name(arg), "a predicate");
  insn->dst[insn->dst_count++] = ps_register_row(d, arg->symbol);
  return QN_OK;
}

// A source predicate; a constant is one too.
static qn_status add_source_predicate(ps_decoder *d, const ps_statement *s, const ps_arg *arg, ps_insn *insn) {
  if (arg->kind == PS_ARG_INT) {
    int32_t row;
    QN_TRY(ps_constant_row(d, arg->value != 0 ? UINT32_MAX : 0, 4, &row));
    return push_source(d, s, insn, row);
  }
  if (arg->kind != PS_ARG_REGISTER || arg->symbol->type != PS_pred) return fail(d, s, kind_name(arg), "a predicate");
  if (arg->negated) insn->negate |= (uint8_t)(1u << insn->src_count);
  return push_source(d, s, insn, ps_register_row(d, arg->symbol));
}

// d or d|p: the first destination, and a predicate, which may be missing.
static qn_status add_pair(ps_decoder *d, const ps_statement *s, const ps_arg *arg, ps_type type, bool predicates,
                          ps_insn *insn) {
  const ps_arg sink = {.kind = PS_ARG_SINK};
  const ps_arg *first = arg->kind == PS_ARG_PAIR ? &arg->items[0] : arg;
  const ps_arg *second = arg->kind == PS_ARG_PAIR ? &arg->items[1] : &sink;
  if (predicates) {
    QN_TRY(add_predicate(d, s, first, insn));
  } else {
    QN_TRY(add_destination(d, s, first, type, false, insn));
  }
  return add_predicate(d, s, second, insn);
}

// ---- addresses ----

static qn_status add_address(ps_decoder *d, const ps_statement *s, const ps_arg *arg, ps_insn *insn) {
  if (arg->kind != PS_ARG_ADDRESS) return fail(d, s, kind_name(arg), "an address in brackets");
  const ps_arg *base = &arg->items[0];
  int32_t row;
  insn->offset_first = insn->offset;
  insn->offset = (int64_t)arg->value;
  if (base->kind == PS_ARG_SYMBOL) {
    QN_TRY(ps_place_variable(d, base->symbol, s->line));
    insn->offset += (int64_t)(base->symbol->offset + base->value);
    if (base->symbol->kind == PS_SYMBOL_LOCAL) insn->space = PS_SPACE_LOCAL;
    unsigned bytes = ps_type_bytes((ps_type)insn->type) * insn->vector;
    insn->param_direct = base->symbol->kind == PS_SYMBOL_PARAM && insn->offset >= 0 &&
                         (uint64_t)insn->offset + bytes <= d->program->param_bytes &&
                         (uint64_t)insn->offset % ps_type_bytes((ps_type)insn->type) == 0;
    QN_TRY(ps_constant_row(d, 0, 8, &row));
  } else if (base->kind == PS_ARG_INT) {
    insn->offset += (int64_t)base->value;
    QN_TRY(ps_constant_row(d, 0, 8, &row));
  } else if (base->kind == PS_ARG_REGISTER && ps_type_bytes(base->symbol->type) == 8) {
    row = ps_register_row(d, base->symbol);
  } else if (base->kind == PS_ARG_REGISTER && ps_type_bytes(base->symbol->type) == 4 && base->symbol->type != PS_pred) {
    // 32-bit addresses are those of shared and local memory and of parameters.
    row = ps_register_row(d, base->symbol);
    insn->address32 |= (uint8_t)(1u << insn->src_count);
  } else {
    return fail(d, s, kind_name(base), "a register or a variable");
  }
  return push_source(d, s, insn, row);
}

static qn_status add_vector(ps_decoder *d, const ps_statement *s, const ps_arg *arg, const operand_pattern *p,
                            unsigned count, ps_insn *insn) {
  bool source = p->letter == 'w' || p->letter == 'W', wider = p->letter == 'w' || p->letter == 'v';
  if (arg->kind != PS_ARG_VECTOR && count > 1) return fail(d, s, kind_name(arg), "registers in braces");
  const ps_arg *items = arg->kind == PS_ARG_VECTOR ? arg->items : arg;
  size_t have = arg->kind == PS_ARG_VECTOR ? arg->count : 1;
  if (have != count) {
    return ps_fail_line(d->diag, QN_ERR_UNSUPPORTED, s->line, "%.*s: got %zu registers in braces, want %u",
                        QN_STR_ARGS(s->op), have, count);
  }
  for (unsigned i = 0; i < count; i++) {
    if (source) {
      QN_TRY(add_source(d, s, &items[i], p->type, wider, insn));
      if (items[i].kind == PS_ARG_REGISTER) insn->width = (uint8_t)ps_type_bytes(items[i].symbol->type);
      if (items[i].kind != PS_ARG_REGISTER && i == 0) {
        insn->width = (uint8_t)(ps_type_bytes(p->type) < 2 ? 2 : ps_type_bytes(p->type));
      }
    } else {
      QN_TRY(add_destination(d, s, &items[i], p->type, wider, insn));
    }
  }
  return QN_OK;
}

// mov's source: one value, or registers in braces that are packed.
static qn_status add_mov_source(ps_decoder *d, const ps_statement *s, const ps_arg *arg, ps_type type, ps_insn *insn) {
  if (arg->kind != PS_ARG_VECTOR) return add_source(d, s, arg, type, false, insn);
  if (arg->count != 2 && arg->count != 4) return fail(d, s, kind_name(arg), "two or four of them");
  unsigned part = ps_type_bytes(type) / (unsigned)arg->count;
  if (part < 2) return fail(d, s, kind_name(arg), "registers of 16 bits or more");
  for (size_t i = 0; i < arg->count; i++) {
    QN_TRY(add_source(d, s, &arg->items[i], part == 2 ? PS_b16 : PS_b32, false, insn));
  }
  return QN_OK;
}

static qn_status add_unpack(ps_decoder *d, const ps_statement *s, const ps_arg *arg, ps_type type, ps_insn *insn) {
  if (arg->kind != PS_ARG_VECTOR || (arg->count != 2 && arg->count != 4) || ps_type_bytes(type) / arg->count < 2) {
    return fail(d, s, kind_name(arg), "two or four registers in braces");
  }
  for (size_t i = 0; i < arg->count; i++) {
    ps_type part = ps_type_bytes(type) / arg->count == 2 ? PS_b16 : PS_b32;
    QN_TRY(add_destination(d, s, &arg->items[i], part, false, insn));
  }
  return QN_OK;
}

// ---- control ----

static qn_status add_label(ps_decoder *d, const ps_statement *s, const ps_arg *arg, ps_insn *insn) {
  if (arg->kind != PS_ARG_SYMBOL || arg->symbol->kind != PS_SYMBOL_LABEL) return fail(d, s, kind_name(arg), "a label");
  insn->target = (uint32_t)arg->symbol->offset;  // of the function; the unit's first instruction is added later
  return QN_OK;
}

static qn_status add_table(ps_decoder *d, const ps_statement *s, const ps_arg *arg, ps_insn *insn) {
  if (arg->kind != PS_ARG_SYMBOL || arg->symbol->kind != PS_SYMBOL_TARGETS) {
    return fail(d, s, kind_name(arg), "the name of a .branchtargets");
  }
  uint32_t *table = QN_ARENA_ARRAY(d->arena, arg->symbol->target_count, uint32_t);
  if (table == NULL) return qn_fail_nomem(d->diag, "ptxsim", "a table of labels");
  for (size_t i = 0; i < arg->symbol->target_count; i++) {
    const ps_arg *target = &arg->symbol->targets[i];
    if (target->symbol == NULL || target->symbol->kind != PS_SYMBOL_LABEL) {
      return fail(d, s, kind_name(target), "a label");
    }
    table[i] = (uint32_t)target->symbol->offset;
  }
  insn->table = table;
  insn->table_count = (uint32_t)arg->symbol->target_count;
  return QN_OK;
}

// The whole of a call: [results] name [parameters].
static qn_status decode_call(ps_decoder *d, const ps_statement *s, ps_insn *insn) {
  const ps_arg *results = s->count == 3 ? &s->args[0] : NULL;
  const ps_arg *name = &s->args[s->count == 3 ? 1 : 0], *params = s->count >= 2 ? &s->args[s->count - 1] : NULL;
  if (name->kind != PS_ARG_SYMBOL || name->symbol->kind != PS_SYMBOL_FUNCTION) {
    return fail(d, s, kind_name(name), "the name of a function: calls through registers are not supported");
  }
  ps_unit *callee;
  QN_TRY(ps_decode_callee(d, name->symbol->function, s->line, &callee));
  const ps_function *f = callee->function;
  size_t nr = results != NULL ? results->count : 0, np = params != NULL ? params->count : 0;
  if (nr != f->returns.count || np != f->params.count) {
    return ps_fail_line(d->diag, QN_ERR_FORMAT, s->line,
                        "call of '%.*s' with %zu parameters and %zu results, want %zu and %zu", QN_STR_ARGS(f->name),
                        np, nr, f->params.count, f->returns.count);
  }
  ps_call_copy *copies = QN_ARENA_ARRAY(d->arena, nr + np + 1, ps_call_copy);
  if (copies == NULL) return qn_fail_nomem(d->diag, "ptxsim", "a call");
  for (size_t i = 0; i < nr + np; i++) {
    const ps_arg *arg = i < np ? &params->items[i] : &results->items[i - np];
    ps_symbol *theirs = i < np ? f->params.items[i] : f->returns.items[i - np];
    if (arg->kind != PS_ARG_SYMBOL || arg->symbol->kind != PS_SYMBOL_LOCAL) {
      return fail(d, s, kind_name(arg), "a variable in .param");
    }
    QN_TRY(ps_place_variable(d, arg->symbol, s->line));
    QN_TRY(ps_place_variable(d, theirs, s->line));
    if (arg->symbol->size_bytes != theirs->size_bytes) {
      return ps_fail_line(d->diag, QN_ERR_FORMAT, s->line, "call of '%.*s': '%.*s' has %llu bytes, want %llu",
                          QN_STR_ARGS(f->name), QN_STR_ARGS(arg->name), (unsigned long long)arg->symbol->size_bytes,
                          (unsigned long long)theirs->size_bytes);
    }
    uint32_t mine = (uint32_t)arg->symbol->offset, other = (uint32_t)theirs->offset;
    copies[i] = (ps_call_copy){i < np ? mine : other, i < np ? other : mine, (uint32_t)theirs->size_bytes};
  }
  insn->copies = copies;
  insn->copy_count = (uint32_t)np;  // the results' follow
  insn->table_count = (uint32_t)nr;
  insn->callee = callee;
  return QN_OK;
}

static qn_status decode_operand(ps_decoder *d, const ps_statement *s, const operand_pattern *p, const ps_arg *arg,
                                ps_form *form) {
  ps_insn *insn = form->insn;
  switch (p->letter) {
    case 'd': return add_destination(d, s, arg, p->type, false, insn);
    case 'D': return add_destination(d, s, arg, p->type, true, insn);
    case 's':
    case 'S':
      if (arg->kind == PS_ARG_REGISTER && p->letter == 'S')
        insn->source_width = (uint8_t)ps_type_bytes(arg->symbol->type);
      return add_source(d, s, arg, p->type, p->letter == 'S', insn);
    case 'm': return add_mov_source(d, s, arg, p->type, insn);
    case 'x': return add_unpack(d, s, arg, p->type, insn);
    case 'p': return add_predicate(d, s, arg, insn);
    case 'P': return add_pair(d, s, arg, PS_VOID, true, insn);
    case 'O': return add_pair(d, s, arg, p->type, false, insn);
    case 'q': return add_source_predicate(d, s, arg, insn);
    case 'v':
    case 'w': {
      unsigned n = ps_has(form, PS_MOD_v2) ? 2 : ps_has(form, PS_MOD_v4) ? 4 : ps_has(form, PS_MOD_v8) ? 8 : 1;
      insn->vector = (uint8_t)n;
      return add_vector(d, s, arg, p, n, insn);
    }
    case 'V':
    case 'W': return add_vector(d, s, arg, p, p->count, insn);
    case 'a': return add_address(d, s, arg, insn);
    case 'l': return add_label(d, s, arg, insn);
    case 't': return add_table(d, s, arg, insn);
    case 'i':
      if (arg->kind != PS_ARG_INT) return fail(d, s, kind_name(arg), "a whole number");
      insn->target = (uint32_t)arg->value;
      return QN_OK;
    default: return fail(d, s, "an operand of a kind that the table misspells", "one that opcode.def explains");
  }
}

qn_status ps_decode_operands(ps_decoder *d, const char *pattern, const ps_statement *s, ps_form *form) {
  if (strchr(pattern, 'f') != NULL && strncmp(s->op.data, "call", 4) == 0) return decode_call(d, s, form->insn);
  size_t n = 0;
  for (;;) {
    operand_pattern p;
    pattern = parse_pattern(pattern, form, &p);
    if (p.letter == '\0') break;
    if (n == s->count) {
      if (p.optional) continue;
      return fail(d, s, "too few operands", "one more");
    }
    const ps_arg *arg = &s->args[n++];
    if (arg->negated && p.letter != 'q') return fail(d, s, "a negation", "none");
    QN_TRY(decode_operand(d, s, &p, arg, form));
  }
  if (n != s->count) return fail(d, s, "too many operands", "fewer");
  return QN_OK;
}
