// Helpers over the MLIR C API (mlir_build.h).
#include "codegen/cpu/mlir_build.h"

#include <string.h>

#include "mlir-c/BuiltinAttributes.h"
#include "mlir-c/BuiltinTypes.h"
#include "mlir-c/Dialect/LLVM.h"
#include "runtime/base/status.h"

enum { MAX_LANES = 256 };  // of a constant or shuffle built here

static MlirStringRef ref(const char *text) { return mlirStringRefCreateFromCString(text); }

void qn_mlir_init(qn_mlir *m, MlirContext context) {
  memset(m, 0, sizeof *m);
  m->context = context;
  m->location = mlirLocationUnknownGet(context);
  m->i1 = mlirIntegerTypeGet(context, 1);
  m->i8 = mlirIntegerTypeGet(context, 8);
  m->i16 = mlirIntegerTypeGet(context, 16);
  m->i32 = mlirIntegerTypeGet(context, 32);
  m->i64 = mlirIntegerTypeGet(context, 64);
  m->f16 = mlirF16TypeGet(context);
  m->f32 = mlirF32TypeGet(context);
  m->f64 = mlirF64TypeGet(context);
  m->ptr = mlirLLVMPointerTypeGet(context, 0);
}

MlirValue qn_mlir_append(qn_mlir *m, const char *name, const qn_mlir_op *op) {
  MlirOperationState state = mlirOperationStateGet(ref(name), m->location);
  MlirNamedAttribute attrs[QN_COUNT(op->attrs)];
  for (int i = 0; i < op->attr_count; i++)
    attrs[i] = mlirNamedAttributeGet(mlirIdentifierGet(m->context, ref(op->attrs[i].name)), op->attrs[i].value);
  mlirOperationStateAddOperands(&state, op->operand_count, op->operands);
  mlirOperationStateAddAttributes(&state, op->attr_count, attrs);
  if (!mlirTypeIsNull(op->result)) mlirOperationStateAddResults(&state, 1, &op->result);
  if (!mlirRegionIsNull(op->region)) mlirOperationStateAddOwnedRegions(&state, 1, &op->region);
  MlirOperation made = mlirOperationCreate(&state);
  if (mlirOperationIsNull(made)) {
    m->failed = true;
    return (MlirValue){NULL};
  }
  mlirBlockAppendOwnedOperation(m->block, made);
  return mlirTypeIsNull(op->result) ? (MlirValue){NULL} : mlirOperationGetResult(made, 0);
}

MlirValue qn_mlir_unary(qn_mlir *m, const char *name, MlirValue a, MlirType result) {
  return qn_mlir_append(m, name, &(qn_mlir_op){.operands = {a}, .operand_count = 1, .result = result});
}

MlirValue qn_mlir_binary(qn_mlir *m, const char *name, MlirValue a, MlirValue b) {
  return qn_mlir_append(m, name, &(qn_mlir_op){.operands = {a, b}, .operand_count = 2, .result = mlirValueGetType(a)});
}

MlirValue qn_mlir_ternary(qn_mlir *m, const char *name, MlirValue a, MlirValue b, MlirValue c) {
  return qn_mlir_append(m, name,
                        &(qn_mlir_op){.operands = {a, b, c}, .operand_count = 3, .result = mlirValueGetType(a)});
}

MlirValue qn_mlir_select(qn_mlir *m, MlirValue cond, MlirValue yes, MlirValue no) {
  return qn_mlir_append(
      m, "arith.select",
      &(qn_mlir_op){.operands = {cond, yes, no}, .operand_count = 3, .result = mlirValueGetType(yes)});
}

static MlirValue compare(qn_mlir *m, const char *name, int predicate, MlirValue a, MlirValue b) {
  return qn_mlir_append(m, name,
                        &(qn_mlir_op){.operands = {a, b},
                                      .operand_count = 2,
                                      .result = qn_mlir_like(m, m->i1, a),
                                      .attrs = {{"predicate", qn_mlir_i64_attr(m, predicate)}},
                                      .attr_count = 1});
}

MlirValue qn_mlir_cmpi(qn_mlir *m, int predicate, MlirValue a, MlirValue b) {
  return compare(m, "arith.cmpi", predicate, a, b);
}

MlirValue qn_mlir_cmpf(qn_mlir *m, int predicate, MlirValue a, MlirValue b) {
  return compare(m, "arith.cmpf", predicate, a, b);
}

MlirValue qn_mlir_intrinsic(qn_mlir *m, const char *intrinsic, MlirType result, const MlirValue *operands, int count) {
  int32_t segments[2] = {count, 0};
  qn_mlir_op op = {.operand_count = count,
                   .result = result,
                   .attrs = {{"intrin", qn_mlir_string_attr(m, intrinsic)},
                             {"op_bundle_sizes", mlirDenseI32ArrayGet(m->context, 0, NULL)},
                             {"operandSegmentSizes", mlirDenseI32ArrayGet(m->context, 2, segments)}},
                   .attr_count = 3};
  for (int i = 0; i < count; i++) op.operands[i] = operands[i];
  return qn_mlir_append(m, "llvm.call_intrinsic", &op);
}

MlirType qn_mlir_vector(const qn_mlir *m, MlirType element, int lanes) {
  (void)m;
  if (lanes == 1) return element;
  int64_t shape = lanes;
  return mlirVectorTypeGet(1, &shape, element);
}

int qn_mlir_lanes(MlirValue v) {
  MlirType type = mlirValueGetType(v);
  return mlirTypeIsAVector(type) ? (int)mlirShapedTypeGetDimSize(type, 0) : 1;
}

MlirType qn_mlir_like(const qn_mlir *m, MlirType element, MlirValue v) {
  return qn_mlir_vector(m, element, qn_mlir_lanes(v));
}

static MlirValue constant(qn_mlir *m, MlirType type, MlirAttribute value) {
  return qn_mlir_append(m, "arith.constant",
                        &(qn_mlir_op){.result = type, .attrs = {{"value", value}}, .attr_count = 1});
}

static MlirAttribute splat_if_vector(MlirType type, MlirAttribute element) {
  return mlirTypeIsAVector(type) ? mlirDenseElementsAttrSplatGet(type, element) : element;
}

static MlirType element_type(MlirType type) {
  return mlirTypeIsAVector(type) ? mlirShapedTypeGetElementType(type) : type;
}

MlirValue qn_mlir_int(qn_mlir *m, MlirType type, int64_t value) {
  return constant(m, type, splat_if_vector(type, mlirIntegerAttrGet(element_type(type), value)));
}

MlirValue qn_mlir_float(qn_mlir *m, MlirType type, double value) {
  MlirAttribute element = mlirFloatAttrDoubleGet(m->context, element_type(type), value);
  return constant(m, type, splat_if_vector(type, element));
}

MlirValue qn_mlir_iota(qn_mlir *m, int lanes) {
  if (lanes == 1) return qn_mlir_int(m, m->i64, 0);
  int64_t values[MAX_LANES];
  for (int i = 0; i < lanes; i++) values[i] = i;
  MlirType type = qn_mlir_vector(m, m->i64, lanes);
  return constant(m, type, mlirDenseElementsAttrInt64Get(type, lanes, values));
}

MlirValue qn_mlir_i32s(qn_mlir *m, const int32_t *values, int lanes) {
  MlirType type = qn_mlir_vector(m, m->i32, lanes);
  return constant(m, type, mlirDenseElementsAttrInt32Get(type, lanes, values));
}

MlirValue qn_mlir_broadcast(qn_mlir *m, MlirValue scalar, int lanes) {
  if (lanes == 1) return scalar;
  return qn_mlir_unary(m, "vector.broadcast", scalar, qn_mlir_vector(m, mlirValueGetType(scalar), lanes));
}

MlirValue qn_mlir_extract(qn_mlir *m, MlirValue vector, int lane) {
  int64_t position = lane;
  return qn_mlir_append(m, "vector.extract",
                        &(qn_mlir_op){.operands = {vector},
                                      .operand_count = 1,
                                      .result = element_type(mlirValueGetType(vector)),
                                      .attrs = {{"static_position", mlirDenseI64ArrayGet(m->context, 1, &position)}},
                                      .attr_count = 1});
}

MlirValue qn_mlir_insert(qn_mlir *m, MlirValue vector, int lane, MlirValue scalar) {
  int64_t position = lane;
  return qn_mlir_append(m, "vector.insert",
                        &(qn_mlir_op){.operands = {scalar, vector},
                                      .operand_count = 2,
                                      .result = mlirValueGetType(vector),
                                      .attrs = {{"static_position", mlirDenseI64ArrayGet(m->context, 1, &position)}},
                                      .attr_count = 1});
}

MlirValue qn_mlir_shuffle(qn_mlir *m, MlirValue a, MlirValue b, const int64_t *mask, int count) {
  return qn_mlir_append(m, "vector.shuffle",
                        &(qn_mlir_op){.operands = {a, b},
                                      .operand_count = 2,
                                      .result = qn_mlir_vector(m, element_type(mlirValueGetType(a)), count),
                                      .attrs = {{"mask", mlirDenseI64ArrayGet(m->context, count, mask)}},
                                      .attr_count = 1});
}

MlirValue qn_mlir_bitcast(qn_mlir *m, MlirValue v, MlirType type) { return qn_mlir_unary(m, "llvm.bitcast", v, type); }

MlirValue qn_mlir_address(qn_mlir *m, MlirValue base, MlirType element, MlirValue index) {
  int32_t dynamic = INT32_MIN;  // the marker for "take the operand"
  return qn_mlir_append(m, "llvm.getelementptr",
                        &(qn_mlir_op){.operands = {base, index},
                                      .operand_count = 2,
                                      .result = m->ptr,
                                      .attrs = {{"rawConstantIndices", mlirDenseI32ArrayGet(m->context, 1, &dynamic)},
                                                {"elem_type", mlirTypeAttrGet(element)}},
                                      .attr_count = 2});
}

MlirValue qn_mlir_load(qn_mlir *m, MlirValue address, MlirType type, int alignment, bool invariant) {
  return qn_mlir_append(m, "llvm.load",
                        &(qn_mlir_op){.operands = {address},
                                      .operand_count = 1,
                                      .result = type,
                                      .attrs = {{"alignment", qn_mlir_i64_attr(m, alignment)},
                                                {"invariant", mlirUnitAttrGet(m->context)}},
                                      .attr_count = invariant ? 2 : 1});
}

void qn_mlir_store(qn_mlir *m, MlirValue value, MlirValue address, int alignment) {
  qn_mlir_append(m, "llvm.store",
                 &(qn_mlir_op){.operands = {value, address},
                               .operand_count = 2,
                               .attrs = {{"alignment", qn_mlir_i64_attr(m, alignment)}},
                               .attr_count = 1});
}

MlirAttribute qn_mlir_i64_attr(const qn_mlir *m, int64_t value) { return mlirIntegerAttrGet(m->i64, value); }
MlirAttribute qn_mlir_i32_attr(const qn_mlir *m, int32_t value) { return mlirIntegerAttrGet(m->i32, value); }
MlirAttribute qn_mlir_string_attr(const qn_mlir *m, const char *text) {
  return mlirStringAttrGet(m->context, ref(text));
}
