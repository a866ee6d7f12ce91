// Loop IR → an MLIR module (scf, arith, math, vector, and llvm for memory): the emitter's state and its parts.
// emit.c has functions, statements and memory, emit_expr.c the operators, emit_dot4.c the dot products, emit_lut16.c
// table lookups,
// emit_float.c what a target lacks in hardware (16-bit floats, fma).
#ifndef QN_CODEGEN_CPU_EMIT_H
#define QN_CODEGEN_CPU_EMIT_H

#include "codegen/codegen.h"
#include "codegen/cpu/mlir_build.h"
#include "codegen/cpu/value_map.h"

// What of the target emission asks for, from qn_target.required.
typedef struct qn_cpu_features {
  bool f16_convert;  // 16-bit float conversions in hardware
  bool fma;
  bool dotprod, i8mm;  // aarch64
} qn_cpu_features;

typedef struct qn_emit {
  qn_mlir m;
  const qn_target *target;  // borrowed
  qn_cpu_features has;
  qn_diag *diag;
  const qn_lkernel *kernel;  // being emitted
  qn_value_map bindings;     // variables and buffers → values
  qn_value_map homes;        // locals → their addresses
  qn_value_map memo;         // expression nodes of the current statement → values
  MlirValue symbols[QN_SYM_COUNT];
  MlirValue begin, end;      // the range asked for of the parallel loop
  MlirOperation entry_last;  // locals go before it
  size_t local_bytes;        // of the kernel so far
  bool out_of_memory;
} qn_emit;

// Adds one function a kernel to `module`; names[i] is the symbol of kernels[i].
QN_CHECKED qn_status qn_emit_kernels(MlirContext context, MlirModule module, const qn_target *target,
                                     const qn_lkernel *const *kernels, const char *const *names, size_t count,
                                     const qn_allocator *allocator, qn_diag *diag);

// Is `name` one of the comma-separated words of `list` (qn_target.required)?
bool qn_features_have(const char *list, qn_str name);

// --- between the emitter's files

// A value with e->type.lanes lanes, or 1.
MlirValue qn_emit_expr(qn_emit *e, const qn_lexpr *expr);
// The same in so many lanes; of a scalar all are alike.
MlirValue qn_emit_wide(qn_emit *e, const qn_lexpr *expr, int lanes);
// `lanes` elements of `mem` from element `index` of the buffer, widened.
MlirValue qn_emit_load(qn_emit *e, const qn_lexpr *load);
// One operator on values of the same number of lanes; kind is that of the operands (of operand 1 for SELECT).
MlirValue qn_emit_op(qn_emit *e, qn_lop op, qn_lkind kind, const MlirValue *operands);
// acc + sum of u8(b) * s8(c) over the 4 bytes of each lane. small_b: every byte of b is known to be <= 127.
MlirValue qn_emit_dot4(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c, bool small_b);
// acc + sum of s8(b) * s8(c) over the 4 bytes of each lane; no byte of c is -128.
MlirValue qn_emit_dot4s(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c);
// Each lane as two sums of 16 bits: + u8(b) * s8(c) of bytes 0 and 1, and of bytes 2 and 3.
MlirValue qn_emit_dot2(qn_emit *e, MlirValue acc, MlirValue b, MlirValue c);
// The sum of a lane's two signed halves.
MlirValue qn_emit_fold2(qn_emit *e, MlirValue sums);

// table[low nibble] of each byte of i32 lanes. masked: the high nibbles are known to be 0.
MlirValue qn_emit_lut16(qn_emit *e, const uint8_t table[16], MlirValue x, bool masked);

MlirValue qn_emit_f16_to_f32(qn_emit *e, MlirValue bits16);  // i16 lanes → f32 lanes
MlirValue qn_emit_f32_to_f16(qn_emit *e, MlirValue value);   // f32 lanes → i16 lanes
MlirValue qn_emit_bf16_to_f32(qn_emit *e, MlirValue bits16);
MlirValue qn_emit_f32_to_bf16(qn_emit *e, MlirValue value);
MlirValue qn_emit_fma(qn_emit *e, MlirValue a, MlirValue b, MlirValue c);

// --- locals (emit_local.c)

QN_CHECKED qn_status qn_emit_local(qn_emit *e, const qn_lstmt *stmt);
// Of the locals to which a loop adds around integer sums, those for which the sums leave no registers. Their values are
// wanted once an iteration. LLVM would hold them in registers where iterations meet, and so store, load and move each
// of them more than once; kept in memory it is an operand of one fma, and stored. Before the loop's body is emitted
// (inside) and after it.
void qn_emit_crowded(qn_emit *e, const qn_lstmt *loop, bool inside);

MlirType qn_emit_type(const qn_emit *e, qn_lkind kind);             // of one lane
MlirType qn_emit_memory_type(const qn_emit *e, qn_lmem mem);  // of an element in memory

#endif
