// The table of instructions.
#include "tests/ptxsim/form.h"

const ps_opcode ps_opcodes[] = {
#define PS_OP(root, modifiers, operands, select, klass, meaning) \
  {#root, modifiers, operands, ps_select_##select, PS_CLASS_##klass, meaning},
#include "tests/ptxsim/opcode.def"
#undef PS_OP
};
const size_t ps_opcode_count = QN_COUNT(ps_opcodes);
