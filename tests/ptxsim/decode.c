// Functions as programs: finds the opcode of each statement, places variables, registers and constants, resolves
// labels and calls.
#include "tests/ptxsim/decode.h"

enum { MAX_STATIC_SHARED = 1 << 20 };

int32_t ps_new_row(ps_decoder *d, unsigned bytes) {
  uint32_t at = d->program->register_bytes + PS_ROW_HEAD;
  uint32_t size = (bytes < 2 ? 2 : bytes) * PS_LANES;
  d->program->register_bytes = at + (size + 31) / 32 * 32;
  if (!qn_vec_push_arena(d->arena, &d->program->rows, (int32_t)at)) d->failed = true;
  return (int32_t)at;
}

int32_t ps_register_row(ps_decoder *d, ps_symbol *symbol) {
  if (symbol->placed_in != d->program) {
    symbol->placed_in = d->program;
    symbol->offset = (uint64_t)ps_new_row(d, symbol->type == PS_pred ? 2 : ps_type_bytes(symbol->type));
  }
  return (int32_t)symbol->offset;
}

qn_status ps_constant_row(ps_decoder *d, uint64_t bits, unsigned bytes, int32_t *out_row) {
  ps_program *p = d->program;
  if (bytes < 8) bits &= (1ull << (bytes * 8)) - 1;
  for (size_t i = 0; i < p->constants.count; i++) {
    if (p->constants.items[i].bits == bits && p->constants.items[i].bytes == bytes) {
      *out_row = p->constants.items[i].row;
      return QN_OK;
    }
  }
  ps_constant constant = {bits, bytes, ps_new_row(d, bytes)};
  *out_row = constant.row;
  if (!qn_vec_push_arena(d->arena, &p->constants, constant)) return qn_fail_nomem(d->diag, "ptxsim", "constants");
  return QN_OK;
}

static uint64_t align_up(uint64_t value, uint64_t alignment) {
  return alignment > 0 ? (value + alignment - 1) / alignment * alignment : value;
}

qn_status ps_place_variable(ps_decoder *d, ps_symbol *v, int line) {
  ps_program *p = d->program;
  if (v->kind == PS_SYMBOL_GLOBAL || v->kind == PS_SYMBOL_CONST) return QN_OK;  // the module has them
  if (v->kind == PS_SYMBOL_PARAM) return QN_OK;                                 // placed with the kernel's head
  if (v->kind != PS_SYMBOL_SHARED && v->kind != PS_SYMBOL_LOCAL) {
    return ps_fail_line(d->diag, QN_ERR_FORMAT, line, "'%.*s' is no variable", QN_STR_ARGS(v->name));
  }
  if (v->placed_in == p) return QN_OK;
  v->placed_in = p;
  if (v->kind == PS_SYMBOL_LOCAL) {
    v->offset = align_up(p->local_bytes, v->align_bytes);
    p->local_bytes = (uint32_t)(v->offset + v->size_bytes);
    return QN_OK;
  }
  if (v->external) {  // behind all static ones: known when all is decoded
    v->offset = 0;
    if (v->align_bytes > p->dynamic_align) p->dynamic_align = (uint32_t)v->align_bytes;
    return QN_OK;
  }
  v->offset = align_up(p->static_shared_bytes, v->align_bytes);
  if (v->offset + v->size_bytes > MAX_STATIC_SHARED) {
    return ps_fail_line(d->diag, QN_ERR_UNSUPPORTED, line, "'%.*s' needs %llu bytes of shared memory",
                        QN_STR_ARGS(v->name), (unsigned long long)v->size_bytes);
  }
  p->static_shared_bytes = (uint32_t)(v->offset + v->size_bytes);
  return QN_OK;
}

// ---- statements ----

static qn_str root_of(qn_str op) {
  size_t n = 0;
  while (n < op.length && op.data[n] != '.') n++;
  return (qn_str){op.data, n};
}

// A special register that moves on by itself is no constant row.
static bool reads_clock(const ps_program *p, const ps_insn *insn) {
  if (insn->src_count != 1) return false;
  int32_t row = insn->src[0];
  return row == p->specials[PS_SPECIAL_CLOCK] || row == p->specials[PS_SPECIAL_CLOCK64] ||
         row == p->specials[PS_SPECIAL_GLOBALTIMER];
}

// Tries the rows of the table whose root and modifiers fit. What the operands of the last one lacked is the error.
static qn_status find_form(ps_decoder *d, const ps_statement *s, ps_insn *insn) {
  qn_str root = root_of(s->op), modifiers = {s->op.data + root.length, s->op.length - root.length};
  bool known_root = false, known_form = false;
  qn_diag first = {0}, *diag = d->diag;
  for (size_t i = 0; i < ps_opcode_count; i++) {
    const ps_opcode *o = &ps_opcodes[i];
    if (!qn_str_is(root, o->root)) continue;
    known_root = true;
    ps_form form = {.insn = insn};
    if (!ps_match_modifiers(o->modifiers, modifiers, &form)) continue;
    *insn = (ps_insn){.line = s->line, .guard = PS_NO_ROW, .klass = (uint8_t)o->klass, .vector = 1};
    insn->type = (uint8_t)form.type[0];
    insn->type2 = (uint8_t)form.type[1];
    form.barrier_spelled_out = qn_str_is(root, "barrier");
    qn_diag attempt = {0};
    d->diag = &attempt;
    qn_status status = ps_decode_operands(d, o->operands, s, &form);
    d->diag = diag;
    if (status == QN_OK) {
      insn->fn = reads_clock(d->program, insn) ? ps_select_clock(&form) : o->select(&form);
      if (insn->fn != NULL || insn->control != PS_CONTROL_NONE) return QN_OK;
      continue;
    }
    if (!known_form) first = attempt;
    known_form = true;
  }
  if (known_form) {
    *d->diag = first;
    return first.status;
  }
  return ps_fail_line(
      d->diag, QN_ERR_UNSUPPORTED, s->line,
      known_root ? "'%.*s': no such form of '%.*s' is known" : "'%.*s': the instruction '%.*s' is not known",
      QN_STR_ARGS(s->op), QN_STR_ARGS(root));
}

static qn_status decode_statement(ps_decoder *d, const ps_statement *s) {
  ps_insn insn = {0};
  QN_TRY(find_form(d, s, &insn));
  insn.used_bytes = s->used_bytes;
  if (s->guard != NULL) {
    insn.guard = ps_register_row(d, s->guard);
    insn.guard_negated = s->guard_negated;
  }
  if (!qn_vec_push_arena(d->arena, &d->program->insns, insn)) return qn_fail_nomem(d->diag, "ptxsim", "a program");
  return QN_OK;
}

// The functions that a unit calls come before it in the array: their instructions must not lie between its own.
static qn_status decode_callees_first(ps_decoder *d, const ps_function *f) {
  for (size_t i = 0; i < f->statements.count; i++) {
    const ps_statement *s = &f->statements.items[i];
    if (!qn_str_is(root_of(s->op), "call")) continue;
    for (size_t a = 0; a < s->count; a++) {
      if (s->args[a].kind != PS_ARG_SYMBOL || s->args[a].symbol->kind != PS_SYMBOL_FUNCTION) continue;
      ps_unit *callee;
      QN_TRY(ps_decode_callee(d, s->args[a].symbol->function, s->line, &callee));
    }
  }
  return QN_OK;
}

static void resolve_labels(ps_program *p, const ps_unit *unit) {
  for (uint32_t i = unit->first; i < unit->end; i++) {
    ps_insn *insn = &p->insns.items[i];
    if (insn->control == PS_CONTROL_BRANCH) insn->target += unit->first;
    if (insn->control != PS_CONTROL_BRANCH_TABLE) continue;
    uint32_t *table = (uint32_t *)(uintptr_t)insn->table;  // ours until here
    for (uint32_t t = 0; t < insn->table_count; t++) table[t] += unit->first;
  }
}

static qn_status decode_unit(ps_decoder *d, const ps_function *f, ps_unit **out) {
  ps_unit *unit = QN_ARENA_NEW(d->arena, ps_unit);
  if (unit == NULL || !qn_vec_push_arena(d->arena, &d->program->units, unit)) {
    return qn_fail_nomem(d->diag, "ptxsim", "a program");
  }
  unit->function = f;
  unit->active = true;
  QN_TRY(decode_callees_first(d, f));
  ps_unit *outer = d->unit;
  d->unit = unit;
  unit->first = (uint32_t)d->program->insns.count;
  for (size_t i = 0; i < f->statements.count; i++) QN_TRY(decode_statement(d, &f->statements.items[i]));
  // What runs off the end returns, as a label there shows that compilers may let it.
  const ps_statement ret = {
      .line = f->statements.count > 0 ? f->statements.items[f->statements.count - 1].line : f->line,
      .op = QN_STR("ret")};
  QN_TRY(decode_statement(d, &ret));
  unit->end = (uint32_t)d->program->insns.count;
  resolve_labels(d->program, unit);
  d->unit = outer;
  unit->active = false;
  unit->decoded = true;
  *out = unit;
  return QN_OK;
}

qn_status ps_decode_callee(ps_decoder *d, const ps_function *f, int line, ps_unit **out) {
  for (size_t i = 0; i < d->module->functions.count; i++) {  // a prototype stands for the function itself
    const ps_function *other = d->module->functions.items[i];
    if (other->defined && qn_str_equal(other->name, f->name)) f = other;
  }
  if (!f->defined) {
    return ps_fail_line(d->diag, QN_ERR_UNSUPPORTED, line, "the function '%.*s' has no body", QN_STR_ARGS(f->name));
  }
  for (size_t i = 0; i < d->program->units.count; i++) {
    ps_unit *unit = d->program->units.items[i];
    if (unit->function != f) continue;
    if (unit->active) {
      return ps_fail_line(d->diag, QN_ERR_UNSUPPORTED, line, "the call of '%.*s' is recursive", QN_STR_ARGS(f->name));
    }
    *out = unit;
    return QN_OK;
  }
  return decode_unit(d, f, out);
}

// ---- the whole ----

static void place_params(ps_program *p, const ps_function *entry) {
  uint64_t at = 0;
  for (size_t i = 0; i < entry->params.count; i++) {
    ps_symbol *v = entry->params.items[i];
    at = align_up(at, v->align_bytes);
    v->offset = at;
    at += v->size_bytes;
  }
  p->param_bytes = (uint32_t)at;
}

// Dynamic shared memory begins behind the static variables, so where it is becomes known last: its users are decoded
// again. (They are few, and the second time finds every row in place.)
static qn_status decode_all(ps_decoder *d, const ps_function *entry, uint32_t dynamic_offset) {
  ps_program *p = d->program;
  for (size_t i = 0; i < d->module->variables.count; i++) {
    ps_symbol *v = d->module->variables.items[i];
    if (v->kind == PS_SYMBOL_SHARED && v->external) {
      v->placed_in = p;
      v->offset = dynamic_offset;
      if (v->align_bytes > p->dynamic_align) p->dynamic_align = (uint32_t)v->align_bytes;
    }
  }
  ps_unit *unit;
  QN_TRY(decode_unit(d, entry, &unit));
  p->first = unit->first;
  return QN_OK;
}

// The smallest access that may reach shared memory: what its race detector tells apart.
static uint32_t smallest_access(const ps_program *p) {
  uint32_t least = 4;
  for (size_t i = 0; i < p->insns.count; i++) {
    const ps_insn *insn = &p->insns.items[i];
    bool reaches = (insn->space == PS_SPACE_SHARED || insn->space == PS_SPACE_GENERIC) && insn->size > 0;
    if (reaches && insn->size < least) least = insn->size;
  }
  return least;
}

// An estimate of the 32-bit registers that are live at once: each from its first to its last place in the text, loops
// taken whole. A compiler that orders instructions well needs fewer.
static uint32_t estimate_registers(const ps_program *p, qn_arena *arena) {
  size_t n = p->insns.count, rows = p->register_bytes / 32 + 1;
  uint32_t *first = QN_ARENA_ARRAY(arena, rows, uint32_t), *last = QN_ARENA_ARRAY(arena, rows, uint32_t);
  int32_t *change = QN_ARENA_ARRAY(arena, n + 2, int32_t);
  uint8_t *width = QN_ARENA_ARRAY(arena, rows, uint8_t);
  if (first == NULL || last == NULL || change == NULL || width == NULL) return 0;
  for (size_t i = 0; i < n; i++) {
    const ps_insn *insn = &p->insns.items[i];
    for (int k = 0; k < insn->dst_count + insn->src_count; k++) {
      int32_t row = (k < insn->dst_count ? insn->dst[k] : insn->src[k - insn->dst_count]) / 32;
      if (first[row] == 0 && k < insn->dst_count) {
        first[row] = (uint32_t)i + 1;
        width[row] = insn->width > 4 ? 2 : 1;
      }
      last[row] = (uint32_t)i + 1;
    }
  }
  for (size_t i = 0; i < n; i++) {
    const ps_insn *insn = &p->insns.items[i];
    if (insn->control != PS_CONTROL_BRANCH || insn->target > i) continue;
    for (size_t r = 0; r < rows; r++) {
      if (first[r] > 0 && first[r] <= insn->target && last[r] > insn->target && last[r] <= i) last[r] = (uint32_t)i + 1;
    }
  }
  for (size_t r = 0; r < rows; r++) {
    if (first[r] == 0) continue;
    change[first[r]] += width[r];
    change[last[r]] -= width[r];
  }
  int32_t live = 0, most = 0;
  for (size_t i = 0; i <= n; i++) {
    live += change[i];
    if (live > most) most = live;
  }
  return (uint32_t)most;
}

static qn_status new_program(ps_decoder *d, const ps_function *entry) {
  ps_program *p = QN_ARENA_NEW(d->arena, ps_program);
  if (p == NULL) return qn_fail_nomem(d->diag, "ptxsim", "a program");
  d->program = p;
  p->entry = entry;
  p->name = qn_arena_strndup(d->arena, entry->name.data, entry->name.length);
  if (p->name == NULL) return qn_fail_nomem(d->diag, "ptxsim", "a program");
  for (int i = 0; i < PS_SPECIAL_COUNT; i++) p->specials[i] = PS_NO_ROW;
  p->sink = ps_new_row(d, 8);
  p->dynamic_align = 1;
  place_params(p, entry);
  return QN_OK;
}

qn_status ps_decode(const ps_module *module, const ps_function *entry, qn_arena *arena, ps_program **out_program,
                    qn_diag *diag) {
  ps_decoder d = {.module = module, .arena = arena, .diag = diag};
  QN_TRY(new_program(&d, entry));
  QN_TRY(decode_all(&d, entry, 0));
  uint32_t dynamic_offset = (uint32_t)align_up(d.program->static_shared_bytes, d.program->dynamic_align);
  if (dynamic_offset > 0 && d.program->dynamic_align > 1) {
    QN_TRY(new_program(&d, entry));
    QN_TRY(decode_all(&d, entry, dynamic_offset));
  }
  ps_program *p = d.program;
  p->static_shared_bytes = (uint32_t)align_up(p->static_shared_bytes, p->dynamic_align);
  p->granule = smallest_access(p);
  p->live_registers = estimate_registers(p, arena);
  if (p->live_registers < 16) p->live_registers = 16;
  if (p->live_registers > 255) p->live_registers = 255;
  if (d.failed) return qn_fail_nomem(diag, "ptxsim", "a program");
  *out_program = p;
  return QN_OK;
}
