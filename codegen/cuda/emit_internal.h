// What the files of the CUDA C++ writer share.
#ifndef QN_CODEGEN_CUDA_EMIT_INTERNAL_H
#define QN_CODEGEN_CUDA_EMIT_INTERNAL_H

#include "codegen/cuda/emit.h"
#include "runtime/base/map.h"

// An expression node of the present statement.
typedef struct qn_cuda_node {
  const qn_lexpr *expr;  // its address is the key in `nodes`
  int uses;
  int number;  // of the variable that holds it; -1 = it is written where it is used
} qn_cuda_node;

typedef struct qn_cuda_writer {
  qn_buf *out;  // borrowed
  const qn_allocator *allocator;
  qn_arena arena;  // of the present kernel
  const qn_lkernel *kernel;
  qn_gpu_schedule schedule;
  int resident_threads;  // that the kernel promises
  qn_map names;  // address of a variable or buffer → number
  int name_count;
  qn_map nodes;          // of the present statement: address of a node → qn_cuda_node
  int value_count;       // numbers of variables that hold nodes, of the kernel
  int depth;             // indentation
  int need;              // of the next expression: see emit_expr.c
  bool in_lanes;         // the present statement is in a LANE loop
  int64_t shared_bytes;  // of a group, so far
  bool failed;           // out of memory
} qn_cuda_writer;

// Name of a variable or buffer: its base name and a number that is the kernel's own for it ("acc_7"), so that no name
// meets a keyword, another name or one of the prelude's.
void qn_cuda_put_name(qn_cuda_writer *w, const char *name, const void *address);
void qn_cuda_indent(qn_cuda_writer *w);
// Elements of a spread local that a lane has.
int64_t qn_cuda_lane_elements(const qn_cuda_writer *w, const qn_lbuf *buf);
const char *qn_cuda_memory_type(qn_lmem mem);  // "unsigned short" for f16: conversions are functions of the prelude

// Declares variables for the nodes that the statement uses several times; then qn_cuda_put_expr writes expressions.
void qn_cuda_begin_statement(qn_cuda_writer *w, const qn_lexpr *const *exprs, size_t count);
void qn_cuda_put_expr(qn_cuda_writer *w, const qn_lexpr *e, int lane);
// "buffer[index]" as `mem`; of a vector index, or of consecutive elements, lane `lane`.
void qn_cuda_put_place(qn_cuda_writer *w, const qn_lbuf *buf, qn_lmem mem, const qn_lexpr *index, int lane);
void qn_cuda_put_mma(qn_cuda_writer *w, const qn_lstmt *stmt);  // emit_mma.c
// "int", or "long long" where the index may not fit.
const char *qn_cuda_index_type(const qn_lexpr *e);
const char *qn_cuda_var_type(const qn_lvar *var);

// Statements about copies to shared memory (emit_copy.c).
void qn_cuda_put_copy(qn_cuda_writer *w, const qn_lstmt *stmt);
void qn_cuda_put_commit(qn_cuda_writer *w);
void qn_cuda_put_wait(qn_cuda_writer *w, const qn_lstmt *stmt);

// Functions that kernels call, and exp, sin, ... as ir/math.c has them.
void qn_cuda_put_prelude(qn_buf *out);
void qn_cuda_put_math(qn_lop op, qn_buf *out);  // nothing for operators that are none of those

#endif
