// Parts of a plain kernel: some iterations of its outer loops, to interpret them alone, and what it would write,
// without the arithmetic.
#ifndef QN_AUTOTUNE_SAMPLE_H
#define QN_AUTOTUNE_SAMPLE_H

#include "ir/loop.h"

enum { QN_NEST_DEPTH = 3 };

// The data loops around everything a kernel does, outermost first: their iterations do not depend on each other.
typedef struct qn_nest {
  int depth;  // 0: none
  qn_lstmt *loops[QN_NEST_DEPTH];
  int64_t first[QN_NEST_DEPTH], trips[QN_NEST_DEPTH];
} qn_nest;
void qn_nest_find(const qn_lkernel *kernel, const int64_t symbols[QN_SYM_COUNT], qn_nest *out);
// About how many operations one iteration of the first `depth` loops is to the interpreter.
int64_t qn_nest_cost(const qn_nest *nest, int depth, const qn_lkernel *kernel, const int64_t symbols[QN_SYM_COUNT]);
// Leaves iterations begin .. end-1 of loop `i`, counted from its first. In place.
void qn_nest_limit(qn_lbuild *b, const qn_nest *nest, int i, int64_t begin, int64_t end);
// Leaves one iteration of the first `depth` loops: number at[i] of each. In place.
void qn_nest_select(qn_lbuild *b, const qn_nest *nest, int depth, const int64_t at[QN_NEST_DEPTH]);

// Reduces a kernel in place to what it writes where: its stores to parameters with another value that has no byte 0 in
// any type of memory, and what their places and the loops around them are computed from.
void qn_footprint(qn_lbuild *b);

#endif
