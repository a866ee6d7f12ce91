// A slow interpreter of the loop IR that checks every access: a wrong kernel can be blamed on lowering (wrong here
// too) or on code generation (right here).
#ifndef QN_IR_LOOP_INTERP_H
#define QN_IR_LOOP_INTERP_H

#include "ir/loop.h"

typedef struct qn_linterp_buffer {
  void *data;   // borrowed
  size_t size;  // bytes; every access is checked against it
} qn_linterp_buffer;

// Runs the kernel on `buffers` (one a parameter), symbols by value. The parallel loop, if any, runs over
// [begin, end) of its range; pass 0 and INT64_MAX for all. Errors: an access out of bounds, a local read before it
// was written, a store to a read-only parameter, division by a number that is not positive; each names the
// kernel, the statement and the values of the loop variables.
QN_CHECKED qn_status qn_lkernel_interpret(const qn_lkernel *kernel, const qn_linterp_buffer *buffers,
                                          const int64_t symbols[QN_SYM_COUNT], int64_t begin, int64_t end,
                                          const qn_allocator *allocator, qn_diag *diag);

#endif
