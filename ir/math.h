// exp, sin, cos, tanh and erf as straight-line programs of the loop IR's own f32 and i32 operators: the one definition
// that the interpreter runs and every code generator expands, so that all targets give the same bits.
#ifndef QN_IR_MATH_H
#define QN_IR_MATH_H

#include "ir/loop.h"

// One instruction: value number i of a program is the result of its i-th instruction.
// Constants have op FLOAT or INT (i32); ARG is the function's argument.
typedef struct qn_math_ins {
  qn_lop op;            // QN_LX_VAR stands for the argument
  short a, b, c;        // value numbers of the operands
  float float_value;    // FLOAT
  int32_t int_value;    // INT
} qn_math_ins;

typedef struct qn_math_fn {
  qn_lop op;  // QN_LX_EXP, ...
  const qn_math_ins *code;
  size_t count;  // the last value is the result
  double max_ulp_error;    // documented and tested over the stated range
  float range_lo, range_hi;
} qn_math_fn;

// The program for an operator, or NULL when it has none (it is primitive).
const qn_math_fn *qn_math_fn_of(qn_lop op);
// Evaluates on one value, exactly as any target does.
float qn_math_eval(const qn_math_fn *fn, float x);

#endif
