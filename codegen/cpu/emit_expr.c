// Loop IR expressions → MLIR values. A node shared within a statement is emitted once.
#include <stdlib.h>

#include "codegen/cpu/emit.h"
#include "ir/math.h"

enum { MAX_MATH_LENGTH = 256 };  // instructions of one function in ir/math.c

MlirType qn_emit_type(const qn_emit *e, qn_lkind kind) {
  switch (kind) {
    case QN_LK_INDEX: return e->m.i64;
    case QN_LK_I32: return e->m.i32;
    case QN_LK_F32: return e->m.f32;
    case QN_LK_PRED: return e->m.i1;
  }
  abort();
}

// Integer / and %, rounding towards minus infinity; the divisor is positive.
static MlirValue floor_divide(qn_emit *e, qn_lop op, MlirValue a, MlirValue b) {
  qn_mlir *m = &e->m;
  MlirType type = mlirValueGetType(a);
  MlirValue zero = qn_mlir_int(m, type, 0);
  MlirValue rest = qn_mlir_binary(m, "arith.remsi", a, b);
  MlirValue below = qn_mlir_cmpi(m, QN_MLIR_SLT, rest, zero);
  if (op == QN_LX_MOD) return qn_mlir_select(m, below, qn_mlir_binary(m, "arith.addi", rest, b), rest);
  MlirValue quotient = qn_mlir_binary(m, "arith.divsi", a, b);
  return qn_mlir_select(m, below, qn_mlir_binary(m, "arith.addi", quotient, qn_mlir_int(m, type, -1)), quotient);
}

// Division by a constant power of two, or of something known not to be negative.
static MlirValue divide(qn_emit *e, const qn_lexpr *x, MlirValue a, MlirValue b) {
  qn_mlir *m = &e->m;
  int64_t divisor;
  if (qn_lexpr_is_int(x->operands[1], &divisor) && divisor > 0 && (divisor & (divisor - 1)) == 0) {
    MlirType type = mlirValueGetType(a);
    if (x->op == QN_LX_MOD) return qn_mlir_binary(m, "arith.andi", a, qn_mlir_int(m, type, divisor - 1));
    return qn_mlir_binary(m, "arith.shrsi", a, qn_mlir_int(m, type, __builtin_ctzll((uint64_t)divisor)));
  }
  if (qn_lexpr_range(x->operands[0]).min >= 0)
    return qn_mlir_binary(m, x->op == QN_LX_MOD ? "arith.remui" : "arith.divui", a, b);
  return floor_divide(e, x->op, a, b);
}

static MlirValue compare(qn_emit *e, qn_lkind kind, int int_predicate, int float_predicate, MlirValue a, MlirValue b) {
  if (kind == QN_LK_F32) return qn_mlir_cmpf(&e->m, float_predicate, a, b);
  return qn_mlir_cmpi(&e->m, int_predicate, a, b);
}

// exp, sin, ...: the program of ir/math.c, lane by lane.
static MlirValue expand_math(qn_emit *e, const qn_math_fn *fn, MlirValue argument) {
  MlirValue values[MAX_MATH_LENGTH];
  qn_lkind kinds[MAX_MATH_LENGTH];
  int lanes = qn_mlir_lanes(argument);
  for (size_t i = 0; i < fn->count; i++) {
    const qn_math_ins *ins = &fn->code[i];
    switch (ins->op) {
      case QN_LX_VAR:
        values[i] = argument;
        kinds[i] = QN_LK_F32;
        break;
      case QN_LX_FLOAT:
        values[i] = qn_mlir_float(&e->m, qn_mlir_vector(&e->m, e->m.f32, lanes), (double)ins->float_value);
        kinds[i] = QN_LK_F32;
        break;
      case QN_LX_INT:
        values[i] = qn_mlir_int(&e->m, qn_mlir_vector(&e->m, e->m.i32, lanes), ins->int_value);
        kinds[i] = QN_LK_I32;
        break;
      default: {
        qn_lkind kind = kinds[ins->op == QN_LX_SELECT ? ins->b : ins->a];
        values[i] = qn_emit_op(e, ins->op, kind, (MlirValue[]){values[ins->a], values[ins->b], values[ins->c]});
        switch (ins->op) {
          case QN_LX_TO_F32:
          case QN_LX_AS_F32: kinds[i] = QN_LK_F32; break;
          case QN_LX_TO_I32:
          case QN_LX_AS_I32: kinds[i] = QN_LK_I32; break;
          case QN_LX_LT:
          case QN_LX_LE:
          case QN_LX_EQ: kinds[i] = QN_LK_PRED; break;
          default: kinds[i] = kind;
        }
      }
    }
  }
  return values[fn->count - 1];
}

static MlirValue convert_to_i32(qn_emit *e, qn_lkind kind, MlirValue a) {
  MlirType type = qn_mlir_like(&e->m, e->m.i32, a);
  if (kind == QN_LK_I32) return a;
  return qn_mlir_unary(&e->m, kind == QN_LK_F32 ? "arith.fptosi" : "arith.trunci", a, type);
}

static MlirValue min_max(qn_emit *e, qn_lop op, qn_lkind kind, MlirValue a, MlirValue b) {
  bool less = op == QN_LX_MIN;
  MlirValue first = compare(e, kind, less ? QN_MLIR_SLT : QN_MLIR_SGT, less ? QN_MLIR_OLT : QN_MLIR_OGT, a, b);
  return qn_mlir_select(&e->m, first, a, b);
}

MlirValue qn_emit_op(qn_emit *e, qn_lop op, qn_lkind kind, const MlirValue *v) {
  qn_mlir *m = &e->m;
  bool is_float = kind == QN_LK_F32;
  switch (op) {
    case QN_LX_ADD: return qn_mlir_binary(m, is_float ? "arith.addf" : "arith.addi", v[0], v[1]);
    case QN_LX_SUB: return qn_mlir_binary(m, is_float ? "arith.subf" : "arith.subi", v[0], v[1]);
    case QN_LX_MUL: return qn_mlir_binary(m, is_float ? "arith.mulf" : "arith.muli", v[0], v[1]);
    case QN_LX_DIV: return is_float ? qn_mlir_binary(m, "arith.divf", v[0], v[1]) : floor_divide(e, op, v[0], v[1]);
    case QN_LX_MOD: return floor_divide(e, op, v[0], v[1]);
    case QN_LX_MIN:
    case QN_LX_MAX: return min_max(e, op, kind, v[0], v[1]);
    case QN_LX_NEG:
      if (is_float) return qn_mlir_unary(m, "arith.negf", v[0], mlirValueGetType(v[0]));
      return qn_mlir_binary(m, "arith.subi", qn_mlir_int(m, mlirValueGetType(v[0]), 0), v[0]);
    case QN_LX_ABS: return qn_mlir_unary(m, "math.absf", v[0], mlirValueGetType(v[0]));
    case QN_LX_SQRT: return qn_mlir_unary(m, "math.sqrt", v[0], mlirValueGetType(v[0]));
    case QN_LX_ROUND: return qn_mlir_unary(m, "math.roundeven", v[0], mlirValueGetType(v[0]));
    case QN_LX_FMA: return qn_emit_fma(e, v[0], v[1], v[2]);
    case QN_LX_AND: return qn_mlir_binary(m, "arith.andi", v[0], v[1]);
    case QN_LX_OR: return qn_mlir_binary(m, "arith.ori", v[0], v[1]);
    case QN_LX_XOR: return qn_mlir_binary(m, "arith.xori", v[0], v[1]);
    case QN_LX_SHL: return qn_mlir_binary(m, "arith.shli", v[0], v[1]);
    case QN_LX_SHR: return qn_mlir_binary(m, "arith.shrui", v[0], v[1]);
    case QN_LX_LT: return compare(e, kind, QN_MLIR_SLT, QN_MLIR_OLT, v[0], v[1]);
    case QN_LX_LE: return compare(e, kind, QN_MLIR_SLE, QN_MLIR_OLE, v[0], v[1]);
    case QN_LX_EQ: return compare(e, kind, QN_MLIR_EQ, QN_MLIR_OEQ, v[0], v[1]);
    case QN_LX_SELECT: return qn_mlir_select(m, v[0], v[1], v[2]);
    case QN_LX_TO_F32: return qn_mlir_unary(m, "arith.sitofp", v[0], qn_mlir_like(m, m->f32, v[0]));
    case QN_LX_TO_I32: return convert_to_i32(e, kind, v[0]);
    case QN_LX_TO_INDEX: return qn_mlir_unary(m, "arith.extsi", v[0], qn_mlir_like(m, m->i64, v[0]));
    case QN_LX_AS_F32: return qn_mlir_unary(m, "arith.bitcast", v[0], qn_mlir_like(m, m->f32, v[0]));
    case QN_LX_AS_I32: return qn_mlir_unary(m, "arith.bitcast", v[0], qn_mlir_like(m, m->i32, v[0]));
    case QN_LX_DOT4: return qn_emit_dot4(e, v[0], v[1], v[2], false);
    case QN_LX_DOT4S: return qn_emit_dot4s(e, v[0], v[1], v[2]);
    case QN_LX_DOT2: return qn_emit_dot2(e, v[0], v[1], v[2]);
    case QN_LX_FOLD2: return qn_emit_fold2(e, v[0]);
    case QN_LX_UNBIAS: {
      MlirValue zero = qn_mlir_int(m, mlirValueGetType(v[0]), 0);
      return qn_mlir_binary(m, "arith.subi", zero, qn_mlir_binary(m, "arith.muli", v[0], v[1]));
    }
    default: break;
  }
  const qn_math_fn *fn = qn_math_fn_of(op);
  if (!fn || fn->count > MAX_MATH_LENGTH) abort();  // the verifier lets no other operator through
  return expand_math(e, fn, v[0]);
}

// A scalar in all lanes, as a vector of which LLVM knows no more than its type.
static MlirValue opaque_lanes(qn_emit *e, MlirValue scalar, int lanes) {
  qn_mlir *m = &e->m;
  int64_t mask[QN_LANES_MAX];
  int width = e->target->vector_bytes / 4;
  MlirValue v = qn_mlir_broadcast(m, scalar, width);
  v = qn_mlir_append(m, "llvm.inline_asm",
                     &(qn_mlir_op){.operands = {v},
                                   .operand_count = 1,
                                   .result = mlirValueGetType(v),
                                   .attrs = {{"asm_string", qn_mlir_string_attr(m, "")},
                                             {"constraints", qn_mlir_string_attr(m, "=x,0")}},
                                   .attr_count = 2});
  for (int i = 0; i < lanes; i++) mask[i] = i % width;
  return lanes == width ? v : qn_mlir_shuffle(m, v, v, mask, lanes);
}

// What a sum starts with is loaded straight into all lanes and multiplied there, which LLVM would do before: on its way
// from one lane to all it would take twice the instructions, and a tile has some for each token and block.
MlirValue qn_emit_wide(qn_emit *e, const qn_lexpr *x, int lanes) {
  if (x->type.lanes > 1) return qn_emit_expr(e, x);
  if (x->op != QN_LX_UNBIAS || lanes == 1) return qn_mlir_broadcast(&e->m, qn_emit_expr(e, x), lanes);
  bool x86 = e->target->arch == QN_ARCH_X86_64;
  MlirValue sum = x86 ? opaque_lanes(e, qn_emit_expr(e, x->operands[0]), lanes) : qn_emit_wide(e, x->operands[0], lanes);
  MlirValue v[2] = {sum, qn_emit_wide(e, x->operands[1], lanes)};
  return qn_emit_op(e, x->op, x->type.kind, v);
}

static MlirValue emit_operator(qn_emit *e, const qn_lexpr *x) {
  MlirValue v[3] = {{NULL}, {NULL}, {NULL}};
  for (int i = 0; i < 3 && x->operands[i]; i++) v[i] = qn_emit_wide(e, x->operands[i], x->type.lanes);
  qn_lkind kind = x->operands[x->op == QN_LX_SELECT ? 1 : 0]->type.kind;
  if ((x->op == QN_LX_DIV || x->op == QN_LX_MOD) && kind != QN_LK_F32) return divide(e, x, v[0], v[1]);
  if (x->op == QN_LX_DOT4) return qn_emit_dot4(e, v[0], v[1], v[2], qn_lexpr_byte_max(x->operands[1]) <= 127);
  if (x->op == QN_LX_LUT16) {
    return qn_emit_lut16(e, x->u.table, v[0], (qn_lexpr_bits(x->operands[0]) & 0xF0F0F0F0u) == 0);
  }
  return qn_emit_op(e, x->op, kind, v);
}

static MlirValue emit_node(qn_emit *e, const qn_lexpr *x) {
  MlirType type = qn_mlir_vector(&e->m, qn_emit_type(e, x->type.kind), x->type.lanes);
  MlirValue bound = {NULL};
  switch (x->op) {
    case QN_LX_INT: return qn_mlir_int(&e->m, type, x->u.int_value);
    case QN_LX_FLOAT: return qn_mlir_float(&e->m, type, (double)x->u.float_value);
    case QN_LX_VAR:
      if (!qn_value_map_get(&e->bindings, x->u.var, &bound)) abort();  // the verifier checks scopes
      return bound;
    case QN_LX_SYM: return e->symbols[x->u.symbol];
    case QN_LX_LANE: return qn_mlir_iota(&e->m, x->type.lanes);
    case QN_LX_LOAD: return qn_emit_load(e, x);
    default: return emit_operator(e, x);
  }
}

MlirValue qn_emit_expr(qn_emit *e, const qn_lexpr *expr) {
  MlirValue value;
  if (qn_value_map_get(&e->memo, expr, &value)) return value;
  value = emit_node(e, expr);
  if (!qn_value_map_put(&e->memo, expr, value)) e->out_of_memory = true;
  return value;
}
