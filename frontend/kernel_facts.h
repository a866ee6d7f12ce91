// What an artifact tells of every kernel beside its loop IR: the facts that schedules are chosen by, and what a call
// costs. Written by the compiler into the text of the kernels (the KERNELS section) as comments before each kernel, and
// read back by what explains and checks artifacts.
#ifndef QUERN_FRONTEND_KERNEL_FACTS_H
#define QUERN_FRONTEND_KERNEL_FACTS_H

#include "ir/graph.h"
#include "ir/program.h"

// QUERN_COST(field, meaning): what one call of a kernel costs, by what it is counted for. Values are those that go from
// kernel to kernel; a multiply-add (MAC) is one that a product or attention does, a flop any other operation on floats;
// a pair is a token and a key that it sees. Of a kernel that works on a source a token is one of that.
#define QUERN_KERNEL_COSTS(X)                                        \
  X(of_rows, "1: it works on the tokens whose logits are wanted")    \
  X(of_source, "1: it works on the tokens of a source")              \
  X(weight_bytes, "packed weights that a call reads whole")          \
  X(token_bytes, "rows of tables looked up, a token")                \
  X(key_bytes, "of keys and values, a key that a sequence holds")    \
  X(window, "keys that a token sees up to its own; 0 is all")        \
  X(ahead, "keys after its own that a token sees at most")           \
  X(cross, "1: its keys are a source's, all of which a token sees")  \
  X(value_bytes_token, "values read and written, a token")           \
  X(value_bytes_row, "values read and written, a token with logits") \
  X(value_bytes_pair, "values read and written, a pair")             \
  X(int8_macs_token, "multiply-adds of codes, a token")              \
  X(int8_macs_row, "multiply-adds of codes, a token with logits")    \
  X(int8_macs_pair, "multiply-adds of codes, a pair")                \
  X(narrow_macs_token, "of those by codes of few bits, a token")     \
  X(narrow_macs_row, "the same, a token with logits")                \
  X(narrow_macs_pair, "the same, a pair")                            \
  X(f32_macs_token, "multiply-adds of floats, a token")              \
  X(f32_macs_row, "multiply-adds of floats, a token with logits")    \
  X(f32_macs_pair, "multiply-adds of floats, a pair")                \
  X(flops_token, "other operations, a token")                        \
  X(flops_row, "other operations, a token with logits")              \
  X(flops_pair, "other operations, a pair")

typedef struct quern_kernel_cost {
#define X(field, meaning) uint64_t field;
  QUERN_KERNEL_COSTS(X)
#undef X
} quern_kernel_cost;

// What a call of the step's kernel costs (cost.c). `step` is one of program->steps.
quern_kernel_cost quern_step_cost(const qn_graph *graph, const qn_program *program, const qn_pstep *step);

// Appends every kernel: its facts and costs, then its loop IR as lowered.
void quern_put_kernels(const qn_graph *graph, const qn_program *program, qn_buf *out);

// Finds a kernel in that text and fills *out, but for its variants; what it points to lies in the arena. out_cost may
// be NULL. Errors: FORMAT for a text that does not hold the kernel as quern_put_kernels writes it (`path` is for
// messages).
QN_CHECKED qn_status quern_read_kernel(const char *path, qn_str text, const char *name, qn_arena *arena,
                                       qn_pkernel *out, quern_kernel_cost *out_cost, qn_diag *diag);
// How the weights among its parameters are packed, one an element of `out` (PLAIN for other parameters), from the same
// text.
QN_CHECKED qn_status quern_read_layouts(const char *path, qn_str text, const char *name, size_t param_count,
                                        qn_layout *out, qn_diag *diag);
// The schedule of a variant in a plan, from the same text.
QN_CHECKED qn_status quern_read_schedule(const char *path, qn_str text, uint32_t plan, const char *variant,
                                         qn_schedule *out, qn_diag *diag);

#endif
