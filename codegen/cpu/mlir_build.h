// Small helpers over the MLIR C API: a builder that knows where operations go, the types that kernels use, and one
// function an operation shape, so that emitting code reads like the code emitted.
#ifndef QN_CODEGEN_CPU_MLIR_BUILD_H
#define QN_CODEGEN_CPU_MLIR_BUILD_H

#include <stdbool.h>
#include <stdint.h>

#include "mlir-c/IR.h"

typedef struct qn_mlir {
  MlirContext context;  // borrowed
  MlirLocation location;
  MlirBlock block;  // operations are appended here
  MlirType i1, i8, i16, i32, i64, f16, f32, f64, ptr;
  bool failed;  // an operation could not be made: the context's diagnostic handler has the reason
} qn_mlir;

// An attribute by name, for operations that need some.
typedef struct qn_mlir_attr {
  const char *name;
  MlirAttribute value;
} qn_mlir_attr;

// Everything of an operation but its name; zero what is not there.
typedef struct qn_mlir_op {
  MlirValue operands[6];
  int operand_count;
  MlirType result;  // null type = no result
  qn_mlir_attr attrs[6];
  int attr_count;
  MlirRegion region;  // null region = none; owned by the operation from then on
} qn_mlir_op;

void qn_mlir_init(qn_mlir *m, MlirContext context);

// Appends the operation and returns its first result (a null value when it has none).
MlirValue qn_mlir_append(qn_mlir *m, const char *name, const qn_mlir_op *op);
MlirValue qn_mlir_unary(qn_mlir *m, const char *name, MlirValue a, MlirType result);
// Result type = type of a.
MlirValue qn_mlir_binary(qn_mlir *m, const char *name, MlirValue a, MlirValue b);
MlirValue qn_mlir_ternary(qn_mlir *m, const char *name, MlirValue a, MlirValue b, MlirValue c);
// cond ? yes : no, lane by lane.
MlirValue qn_mlir_select(qn_mlir *m, MlirValue cond, MlirValue yes, MlirValue no);
// arith.cmpi and arith.cmpf with the dialect's predicate numbers.
enum { QN_MLIR_EQ = 0, QN_MLIR_SLT = 2, QN_MLIR_SLE = 3, QN_MLIR_SGT = 4, QN_MLIR_UGE = 9 };
enum { QN_MLIR_OEQ = 1, QN_MLIR_OGT = 2, QN_MLIR_OLT = 4, QN_MLIR_OLE = 5, QN_MLIR_ONE = 6 };
MlirValue qn_mlir_cmpi(qn_mlir *m, int predicate, MlirValue a, MlirValue b);
MlirValue qn_mlir_cmpf(qn_mlir *m, int predicate, MlirValue a, MlirValue b);
// A call of an LLVM intrinsic by name.
MlirValue qn_mlir_intrinsic(qn_mlir *m, const char *intrinsic, MlirType result, const MlirValue *operands, int count);

// lanes 1 gives the element type itself.
MlirType qn_mlir_vector(const qn_mlir *m, MlirType element, int lanes);
int qn_mlir_lanes(MlirValue v);
// `element` with as many lanes as v has.
MlirType qn_mlir_like(const qn_mlir *m, MlirType element, MlirValue v);

// Constants; a vector type gives a splat.
MlirValue qn_mlir_int(qn_mlir *m, MlirType type, int64_t value);
MlirValue qn_mlir_float(qn_mlir *m, MlirType type, double value);
MlirValue qn_mlir_iota(qn_mlir *m, int lanes);  // vector of i64: 0, 1, ...
MlirValue qn_mlir_i32s(qn_mlir *m, const int32_t *values, int lanes);  // vector of i32, at least 2 lanes

MlirValue qn_mlir_broadcast(qn_mlir *m, MlirValue scalar, int lanes);
MlirValue qn_mlir_extract(qn_mlir *m, MlirValue vector, int lane);
MlirValue qn_mlir_insert(qn_mlir *m, MlirValue vector, int lane, MlirValue scalar);
// Lanes mask[0..count) of the concatenation of a and b; scalars count as one lane is not allowed.
MlirValue qn_mlir_shuffle(qn_mlir *m, MlirValue a, MlirValue b, const int64_t *mask, int count);
// The same bits as lanes of another width; either side may be a scalar.
MlirValue qn_mlir_bitcast(qn_mlir *m, MlirValue v, MlirType type);

// base + index * size of element
MlirValue qn_mlir_address(qn_mlir *m, MlirValue base, MlirType element, MlirValue index);
MlirValue qn_mlir_load(qn_mlir *m, MlirValue address, MlirType type, int alignment, bool invariant);
void qn_mlir_store(qn_mlir *m, MlirValue value, MlirValue address, int alignment);

MlirAttribute qn_mlir_i64_attr(const qn_mlir *m, int64_t value);
MlirAttribute qn_mlir_i32_attr(const qn_mlir *m, int32_t value);
MlirAttribute qn_mlir_string_attr(const qn_mlir *m, const char *text);

#endif
