// parallelise: gives the kernel's outermost loop to the threads, when the schedule says so.
//
// requires: nothing.
// keeps: everything but the mark, and loops `pair`, which become one with the loop over panels in them: a pair of a token
// and an expert may be all there is, and its panels are for all threads.
// breaks: nothing. A kernel stays serial when it is not one DATA loop that starts at 0 and has more than one iteration:
// threads get ranges of one loop, and locals at the top would not be theirs.
#include "passes/loop_util.h"

static void join_panels(qn_lbuild *b, qn_lstmt *pairs) {
  qn_lstmt *panels = pairs->u.loop.body.first;
  int64_t lo = 0, hi = 0;
  bool all = panels && !panels->next && qn_loop_is(panels, "n") && panels->u.loop.order == QN_LO_DATA;
  if (!all || panels->u.loop.mark != QN_LM_SERIAL || !qn_loop_const_bounds(panels, &lo, &hi)) return;
  qn_loop_collapse(b, pairs, panels);
}

qn_status qn_pass_parallelise(qn_loop_pass_context *context) {
  qn_lbuild *b = context->build;
  qn_lstmt *loop = b->kernel->body.first;
  int64_t lo = -1, trips = 0;
  if (!context->schedule->parallel || !loop || loop->next || loop->kind != QN_LS_FOR) return QN_OK;
  if (loop->u.loop.order != QN_LO_DATA || loop->u.loop.mark != QN_LM_SERIAL) return QN_OK;
  if (!qn_lexpr_is_int(loop->u.loop.lo, &lo) || lo != 0) return QN_OK;
  if (qn_loop_is(loop, "pair")) join_panels(b, loop);
  if (!qn_loop_const_trips(b, loop, &trips) || trips > 1) loop->u.loop.mark = QN_LM_PARALLEL;
  return qn_loop_pass_end(context, "parallelise");
}
