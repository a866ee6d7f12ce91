// What several loop passes need: asking about loops, replacing variables in blocks, moving statements, sinking loops.
#ifndef QN_PASSES_LOOP_UTIL_H
#define QN_PASSES_LOOP_UTIL_H

#include "passes/loop_pass.h"

// A `for` whose variable has this base name?
bool qn_loop_is(const qn_lstmt *stmt, const char *base);
// The loop's bounds when both are constants.
bool qn_loop_const_bounds(const qn_lstmt *loop, int64_t *out_lo, int64_t *out_hi);
// hi - lo when that is a constant (negative counts as 0). `b` makes the difference: T + 1 - T is 1.
bool qn_loop_const_trips(qn_lbuild *b, const qn_lstmt *loop, int64_t *out_trips);

// Makes one loop of `outer` and of `inner`, which is all its body and whose bounds do not depend on it.
void qn_loop_collapse(qn_lbuild *b, qn_lstmt *outer, qn_lstmt *inner);

// Some node of e for which fn holds?
typedef bool (*qn_lexpr_test)(const qn_lexpr *e, const void *context);
bool qn_lexpr_any(const qn_lexpr *e, qn_lexpr_test fn, const void *context);
// Some expression of the statement, or block (indices, values, bounds, those of nested statements), with such a node?
bool qn_lstmt_any(const qn_lstmt *stmt, qn_lexpr_test fn, const void *context);
bool qn_lblock_any(const qn_lblock *block, qn_lexpr_test fn, const void *context);
bool qn_lexpr_is_vector(const qn_lexpr *e, const void *context);  // more than one lane; context is not used

// Is the index a multiple of n whatever its variables are?
bool qn_lexpr_is_multiple(const qn_lexpr *e, int64_t n);

// Statements in the block, nested ones counted too.
size_t qn_lblock_count(const qn_lblock *block);
// Puts `with` for var everywhere in the block.
void qn_lblock_replace(qn_lbuild *b, qn_lblock *block, const qn_lvar *var, const qn_lexpr *with);
// Moves all statements of `from` into `to` in front of `before` (NULL = at the end).
void qn_lblock_splice(qn_lblock *from, qn_lblock *to, qn_lstmt *before);

// Distributes a DATA loop with bounds 0..n over the statements of its body and carries it inwards through the loops
// there, so that it stands around single stores and prefetches only (loop_sink.c). Replaces the loop within `block`
// and returns the statement after what came of it. Where its variable bounds an inner loop it stays outside of that
// one and becomes SERIAL; a vector loop over what is a vector already or over a local read through another element
// type, and any loop whose locals would become very large, become SERIAL as a whole.
qn_lstmt *qn_loop_sink(qn_lbuild *b, qn_lblock *block, qn_lstmt *loop);

// Carries such a loop into the reductions over blocks in its body and no further, around all of what varies there together;
// what does not vary is left in front of it. Returns the statement after. Where the order of statements, or a local,
// forbids it the loop stays where it is.
qn_lstmt *qn_loop_carry(qn_lbuild *b, qn_lblock *block, qn_lstmt *loop);

// In the block: codes and factors of weights that are more than loaded become locals in front of the sums that are made of
// them (loop_hold.c), for what comes to share them.
void qn_loop_hold(qn_lbuild *b, const qn_schedule *schedule, qn_lblock *block);

// QN_OK, or the out-of-memory error of a pass whose makers failed.
QN_CHECKED qn_status qn_loop_pass_end(qn_loop_pass_context *context, const char *pass);

// Is the local declared in the block, or in a loop of it?
bool qn_loop_declares(const qn_lblock *block, const qn_lbuf *buf);

#endif
