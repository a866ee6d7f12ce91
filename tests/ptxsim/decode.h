// Shared by the parts of the decoder: operands (decode_operand.c) and functions (decode.c).
#ifndef PTXSIM_DECODE_H
#define PTXSIM_DECODE_H

#include "tests/ptxsim/form.h"

typedef struct ps_decoder {
  const ps_module *module;
  qn_arena *arena;
  qn_diag *diag;
  ps_program *program;
  ps_unit *unit;  // being decoded
  bool failed;    // no memory for a row
} ps_decoder;

int32_t ps_new_row(ps_decoder *d, unsigned bytes);
// The row of a register, which gets one when it is first met.
int32_t ps_register_row(ps_decoder *d, ps_symbol *symbol);
// A row that holds the same value in all lanes.
QN_CHECKED qn_status ps_constant_row(ps_decoder *d, uint64_t bits, unsigned bytes, int32_t *out_row);
// Where a variable is in its space; gives it a place first when it has none.
QN_CHECKED qn_status ps_place_variable(ps_decoder *d, ps_symbol *symbol, int line);
// A function placed in the program: its instructions are decoded once for all calls.
QN_CHECKED qn_status ps_decode_callee(ps_decoder *d, const ps_function *function, int line, ps_unit **out);
// Fills in the operands of one instruction by the pattern of its opcode.
QN_CHECKED qn_status ps_decode_operands(ps_decoder *d, const char *pattern, const ps_statement *s, ps_form *form);

#endif
