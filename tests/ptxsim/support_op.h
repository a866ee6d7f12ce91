// One instruction on values worked out by hand: a table of cases, and a kernel made for each row.
#ifndef PTXSIM_SUPPORT_OP_H
#define PTXSIM_SUPPORT_OP_H

#include "tests/ptxsim/support_sim.h"

enum { OP_MAX_CASES = 8 };

// `code` reads %a, %b, %c (a_bits .. wide, 0 = not there) and writes %d, or the predicate %p (and %q) when d_bits is 1.
typedef struct op_row {
  const char *code;
  int d_bits, a_bits, b_bits, c_bits;
  int count;
  uint64_t v[OP_MAX_CASES][4];  // a, b, c, and what is wanted
} op_row;

// Runs a row on all lanes at once and with every other lane off; each lane takes one case.
void op_check(const op_row *row, const char *target);

#endif
