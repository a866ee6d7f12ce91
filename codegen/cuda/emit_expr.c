// Loop IR expressions → C++ expressions, lane by lane of what is a vector. What a statement uses several times gets a
// variable in front of it; the rest is written where it is used.
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "codegen/cuda/emit_internal.h"

enum { BARE = 0, BRACKETS = 4 };  // of qn_cuda_writer.need: below and above what any operator binds

static void put_inner(qn_cuda_writer *w, const qn_lexpr *e, int lane);

// ---- types ------------------------------------------------------------------------------------------------------

static bool fits_int(int64_t lo, int64_t hi) { return lo >= INT32_MIN && hi <= INT32_MAX; }

static bool is_narrow(const qn_lexpr *e) {
  if (e->type.kind != QN_LK_INDEX || e->op == QN_LX_SYM) return true;
  qn_lrange range = qn_lexpr_range(e);
  return fits_int(range.min, range.max);
}

const char *qn_cuda_index_type(const qn_lexpr *e) { return is_narrow(e) ? "int" : "long long"; }

const char *qn_cuda_var_type(const qn_lvar *var) {
  // With room for the steps that lanes and groups take beyond the end.
  return var->bounded && fits_int(var->lo, var->hi) && var->hi <= INT32_MAX - 2 * QN_GPU_BLOCK_THREADS_MAX
             ? "int"
             : "long long";
}

static const char *value_type(const qn_lexpr *e) {
  switch (e->type.kind) {
    case QN_LK_INDEX: return qn_cuda_index_type(e);
    case QN_LK_I32: return "int";
    case QN_LK_F32: return "float";
    case QN_LK_PRED: return "bool";
  }
  return NULL;
}

// ---- leaves -----------------------------------------------------------------------------------------------------

static void put_float(qn_buf *out, float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (isfinite(value)) {
    qn_buf_printf(out, signbit(value) ? "(%af)" : "%af", (double)value);
  } else {
    qn_buf_printf(out, "__int_as_float(0x%x)", bits);
  }
}

// Masks and bit patterns are read more easily in hexadecimal.
static void put_int(qn_buf *out, const qn_lexpr *e) {
  int64_t value = e->u.int_value;
  if (e->type.kind == QN_LK_I32 && (value > 0xffff || value < -0xffff)) {
    qn_buf_printf(out, "(int)0x%08x", (unsigned)(uint32_t)(int32_t)value);
  } else {
    qn_buf_printf(out, value < 0 ? "(%" PRId64 "%s)" : "%" PRId64 "%s", value, is_narrow(e) ? "" : "ll");
  }
}

int64_t qn_cuda_lane_elements(const qn_cuda_writer *w, const qn_lbuf *buf) {
  int64_t elements = 1;
  qn_lexpr_is_int(buf->elements, &elements);  // the verifier wants a number
  return (elements + w->schedule.lanes - 1) / w->schedule.lanes;
}

void qn_cuda_put_place(qn_cuda_writer *w, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index, int lane) {
  if (buf->each > 0) {  // in the lane's registers; the verifier has seen to it that the index is lane * each + element
    int64_t element = 0;
    if (index->op == QN_LX_ADD) qn_lexpr_is_int(index->operands[1], &element);
    qn_cuda_put_name(w, buf->name, buf);
    qn_buf_printf(w->out, "[%" PRId64 "]", element);
    return;
  }
  bool viewed = mem != buf->mem;
  if (buf->spread && w->schedule.lanes > 1) {  // element i, of the lane that does iteration i
    bool one = qn_cuda_lane_elements(w, buf) == 1;
    qn_cuda_put_name(w, buf->name, buf);
    qn_buf_puts(w->out, one ? "[0" : "[");
    if (!one) qn_cuda_put_expr(w, index, 0);
    if (!one) qn_buf_printf(w->out, " / %d", w->schedule.lanes);
    qn_buf_putc(w->out, ']');
    return;
  }
  if (viewed) qn_buf_printf(w->out, "((%s%s *)", buf->writable ? "" : "const ", qn_cuda_memory_type(mem));
  qn_cuda_put_name(w, buf->name, buf);
  qn_buf_puts(w->out, viewed ? ")[" : "[");
  qn_cuda_put_expr(w, index, lane);
  if (index->type.lanes == 1 && lane > 0) qn_buf_printf(w->out, " + %d", lane);
  qn_buf_putc(w->out, ']');
}

static void put_load(qn_cuda_writer *w, const qn_lexpr *e, int lane) {
  qn_lmem mem = e->u.load.mem;
  const char *widen = mem == QN_LM_F16 ? "qn_f16(" : mem == QN_LM_BF16 ? "qn_bf16(" : NULL;
  if (widen) qn_buf_puts(w->out, widen);
  qn_cuda_put_place(w, e->u.load.buf, mem, e->operands[0], lane);
  if (widen) qn_buf_putc(w->out, ')');
}

// ---- operators --------------------------------------------------------------------------------------------------

// How an operator is written.
typedef struct form {
  const char *infix, *call;  // one of them
} form;

// Division and remainder of something that may be negative, by something that is no power of two.
static form divide_form(const qn_lexpr *e) {
  bool mod = e->op == QN_LX_MOD;
  if (qn_lexpr_range(e->operands[0]).min >= 0) return (form){.infix = mod ? "%" : "/"};
  return (form){.call = mod ? "qn_mod" : "qn_div"};
}

static form form_of(const qn_lexpr *e) {
  qn_lkind kind = e->operands[e->op == QN_LX_SELECT ? 1 : 0]->type.kind;
  bool wraps = kind == QN_LK_I32;
  switch (e->op) {
    case QN_LX_ADD: return wraps ? (form){.call = "qn_add"} : (form){.infix = "+"};
    case QN_LX_SUB: return wraps ? (form){.call = "qn_sub"} : (form){.infix = "-"};
    case QN_LX_MUL: return wraps ? (form){.call = "qn_mul"} : (form){.infix = "*"};
    case QN_LX_DIV:
    case QN_LX_MOD: return kind == QN_LK_F32 ? (form){.infix = "/"} : divide_form(e);
    case QN_LX_MIN: return (form){.call = "qn_min"};
    case QN_LX_MAX: return (form){.call = "qn_max"};
    case QN_LX_NEG: return (form){.call = kind == QN_LK_INDEX ? "-" : "qn_neg"};
    case QN_LX_ABS: return (form){.call = "qn_abs"};
    case QN_LX_SQRT: return (form){.call = "sqrtf"};
    case QN_LX_ROUND: return (form){.call = "rintf"};
    case QN_LX_FMA: return (form){.call = "fmaf"};
    case QN_LX_AND: return (form){.infix = "&"};
    case QN_LX_OR: return (form){.infix = "|"};
    case QN_LX_XOR: return (form){.infix = "^"};
    case QN_LX_SHL: return (form){.call = "qn_shl"};
    case QN_LX_SHR: return (form){.call = "qn_shr"};
    case QN_LX_LT: return (form){.infix = "<"};
    case QN_LX_LE: return (form){.infix = "<="};
    case QN_LX_EQ: return (form){.infix = "=="};
    case QN_LX_TO_F32: return (form){.call = "(float)"};
    case QN_LX_TO_I32: return (form){.call = "(int)"};
    case QN_LX_TO_INDEX: return (form){.call = ""};  // C++ widens where an operand is wide
    case QN_LX_AS_F32: return (form){.call = "__int_as_float"};
    case QN_LX_AS_I32: return (form){.call = "__float_as_int"};
    case QN_LX_DOT4: return (form){.call = "qn_dot4"};
    case QN_LX_DOT4S: return (form){.call = "qn_dot4s"};
    case QN_LX_DOT2: return (form){.call = "qn_dot2"};
    case QN_LX_FOLD2: return (form){.call = "qn_fold2"};
    case QN_LX_UNBIAS: return (form){.call = "qn_unbias"};
    case QN_LX_EXP: return (form){.call = "qn_exp"};
    case QN_LX_SIN: return (form){.call = "qn_sin"};
    case QN_LX_COS: return (form){.call = "qn_cos"};
    case QN_LX_TANH: return (form){.call = "qn_tanh"};
    case QN_LX_ERF: return (form){.call = "qn_erf"};
    default: return (form){NULL, NULL};
  }
}

// The operand, the first one widened where the result would not fit the type that all of them have.
static void put_operand(qn_cuda_writer *w, const qn_lexpr *e, int operand, int lane) {
  const qn_lexpr *x = e->operands[operand], *other = e->operands[1];
  bool widened = operand == 0 && e->type.kind == QN_LK_INDEX && x->type.kind == QN_LK_INDEX && !is_narrow(e) &&
                 is_narrow(x) && (!other || is_narrow(other));
  if (widened) {
    qn_buf_puts(w->out, "(long long)");
    w->need = BRACKETS;
  }
  put_inner(w, x, lane);
}

// How tightly an infix operator binds. Between BARE and BRACKETS.
static int binding(const char *infix) {
  if (strchr("*/%", infix[0])) return 3;
  if (strchr("+-", infix[0])) return 2;
  return (infix[0] == '<' || infix[0] == '=') && strcmp(infix, "<<") != 0 ? 1 : BARE;
}

// Operands of bit operators stand in brackets always, for the reader's sake.
static void put_infix(qn_cuda_writer *w, const qn_lexpr *e, const char *infix, int need, int lane) {
  int strength = binding(infix);
  if (strength < need) qn_buf_putc(w->out, '(');
  w->need = strength == BARE ? BRACKETS : strength;
  put_operand(w, e, 0, lane);
  qn_buf_printf(w->out, " %s ", infix);
  w->need = strength == BARE ? BRACKETS : strength + 1;
  put_operand(w, e, 1, lane);
  if (strength < need) qn_buf_putc(w->out, ')');
}

static void put_call(qn_cuda_writer *w, const qn_lexpr *e, const char *function, int lane) {
  bool by_type = e->op == QN_LX_MIN || e->op == QN_LX_MAX || e->op == QN_LX_DIV || e->op == QN_LX_MOD;
  bool wide = !is_narrow(e) || !is_narrow(e->operands[0]) || (e->operands[1] && !is_narrow(e->operands[1]));
  qn_buf_puts(w->out, function);
  if (by_type) qn_buf_printf(w->out, "<%s>", wide ? "long long" : value_type(e));
  qn_buf_putc(w->out, '(');
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++) {
    if (i) qn_buf_puts(w->out, ", ");
    w->need = BARE;
    put_operand(w, e, i, lane);
  }
  qn_buf_putc(w->out, ')');
}

// Of an index by a power of two: a shift and a mask round towards minus infinity.
static bool put_power_of_two(qn_cuda_writer *w, const qn_lexpr *e, int need, int lane) {
  int64_t divisor = 0;
  if ((e->op != QN_LX_DIV && e->op != QN_LX_MOD) || e->type.kind == QN_LK_F32) return false;
  if (!qn_lexpr_is_int(e->operands[1], &divisor) || divisor <= 0 || (divisor & (divisor - 1)) != 0) return false;
  if (need > BARE) qn_buf_putc(w->out, '(');
  w->need = BRACKETS;
  put_inner(w, e->operands[0], lane);
  if (e->op == QN_LX_MOD) {
    qn_buf_printf(w->out, " & %" PRId64, divisor - 1);
  } else {
    qn_buf_printf(w->out, " >> %d", __builtin_ctzll((uint64_t)divisor));
  }
  if (need > BARE) qn_buf_putc(w->out, ')');
  return true;
}

static void put_table(qn_cuda_writer *w, const qn_lexpr *e, int lane) {
  qn_buf_puts(w->out, "qn_lut16(");
  qn_cuda_put_expr(w, e->operands[0], lane);
  for (int i = 0; i < 16; i += 4) {
    const uint8_t *t = e->u.table + i;
    unsigned word = t[0] | (unsigned)t[1] << 8 | (unsigned)t[2] << 16 | (unsigned)t[3] << 24;
    qn_buf_printf(w->out, ", 0x%08x", word);
  }
  qn_buf_putc(w->out, ')');
}

static void put_select(qn_cuda_writer *w, const qn_lexpr *e, int need, int lane) {
  static const char *const between[] = {"", " ? ", " : "};
  if (need > BARE) qn_buf_putc(w->out, '(');
  for (int i = 0; i < 3; i++) {
    qn_buf_puts(w->out, between[i]);
    w->need = i == 0 ? BARE + 1 : BRACKETS;
    put_operand(w, e, i, lane);
  }
  if (need > BARE) qn_buf_putc(w->out, ')');
}

static void put_operator(qn_cuda_writer *w, const qn_lexpr *e, int need, int lane) {
  if (put_power_of_two(w, e, need, lane)) return;
  form f = form_of(e);
  if (e->op == QN_LX_LUT16) {
    put_table(w, e, lane);
  } else if (e->op == QN_LX_SELECT) {
    put_select(w, e, need, lane);
  } else if (f.call) {
    put_call(w, e, f.call, lane);
  } else {
    assert(f.infix);  // every operator of loop.def is one of these
    put_infix(w, e, f.infix, need, lane);
  }
}

static void put_node(qn_cuda_writer *w, const qn_lexpr *e, int need, int lane) {
  switch (e->op) {
    case QN_LX_INT: put_int(w->out, e); return;
    case QN_LX_FLOAT: put_float(w->out, e->u.float_value); return;
    case QN_LX_VAR: qn_cuda_put_name(w, e->u.var->name, e->u.var); return;
    case QN_LX_SYM: qn_buf_putc(w->out, qn_symbol_letter(e->u.symbol)); return;
    case QN_LX_LANE: qn_buf_printf(w->out, "%d", lane); return;
    case QN_LX_LOAD: put_load(w, e, lane); return;
    default: put_operator(w, e, need, lane);
  }
}

// ---- shared nodes -----------------------------------------------------------------------------------------------

static qn_str key_of(const qn_lexpr *const *place) { return (qn_str){(const char *)place, sizeof *place}; }

static qn_cuda_node *find_node(const qn_cuda_writer *w, const qn_lexpr *e) {
  uint64_t value = 0;
  return qn_map_get(&w->nodes, key_of(&e), &value) ? (qn_cuda_node *)(uintptr_t)value : NULL;
}

static bool is_leaf(const qn_lexpr *e) { return qn_lop_info_of(e->op)->operands == 0; }

static void count_uses(qn_cuda_writer *w, const qn_lexpr *e) {
  if (is_leaf(e) || w->failed) return;
  qn_cuda_node *node = find_node(w, e);
  if (node) {
    node->uses++;
    return;
  }
  node = QN_ARENA_NEW(&w->arena, qn_cuda_node);
  if (!node) {
    w->failed = true;
    return;
  }
  *node = (qn_cuda_node){.expr = e, .uses = 1, .number = -1};
  if (!qn_map_put(&w->nodes, key_of(&node->expr), (uint64_t)(uintptr_t)node)) w->failed = true;
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++) count_uses(w, e->operands[i]);
}

static void put_value_name(qn_cuda_writer *w, const qn_cuda_node *node, int lane) {
  qn_buf_printf(w->out, "v%d", node->number);
  if (node->expr->type.lanes > 1) qn_buf_printf(w->out, "_%d", lane);
}

// Variables for what is used several times, operands before what they are used in.
static void declare_shared(qn_cuda_writer *w, const qn_lexpr *e) {
  qn_cuda_node *node = is_leaf(e) || w->failed ? NULL : find_node(w, e);
  if (!node || node->uses < 0) return;
  bool shared = node->uses > 1;
  node->uses = -1;  // been here
  for (int i = 0; i < qn_lop_info_of(e->op)->operands; i++) declare_shared(w, e->operands[i]);
  if (!shared) return;
  int number = w->value_count++;
  for (int lane = 0; lane < e->type.lanes; lane++) {
    qn_cuda_indent(w);
    qn_buf_printf(w->out, "const %s v%d", value_type(e), number);
    if (e->type.lanes > 1) qn_buf_printf(w->out, "_%d", lane);
    qn_buf_puts(w->out, " = ");
    put_node(w, e, BARE, lane);
    qn_buf_puts(w->out, ";\n");
  }
  node->number = number;
}

void qn_cuda_begin_statement(qn_cuda_writer *w, const qn_lexpr *const *exprs, size_t count) {
  qn_map_deinit(&w->nodes);
  qn_map_init(&w->nodes, w->allocator);
  for (size_t i = 0; i < count; i++) count_uses(w, exprs[i]);
  for (size_t i = 0; i < count; i++) declare_shared(w, exprs[i]);
}

// w->need says how tightly an operator must bind to go without brackets.
static void put_inner(qn_cuda_writer *w, const qn_lexpr *e, int lane) {
  const qn_cuda_node *node = is_leaf(e) ? NULL : find_node(w, e);
  int need = w->need;
  w->need = BRACKETS;
  if (e->type.lanes == 1) lane = 0;
  if (node && node->number >= 0) {
    put_value_name(w, node, lane);
  } else {
    put_node(w, e, need, lane);
  }
}

void qn_cuda_put_expr(qn_cuda_writer *w, const qn_lexpr *e, int lane) {
  w->need = BARE;
  put_inner(w, e, lane);
}
