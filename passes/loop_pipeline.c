// Runs the loop passes on one kernel: run, verify, dump.
#include "passes/loop_pass.h"

typedef struct loop_pass {
  const char *name;
  qn_loop_pass_fn run;
} loop_pass;

static const loop_pass PASSES[] = {
#define QN_LOOP_PASS(name, text) {#name, qn_pass_##name},
#include "passes/loop_passes.def"
#undef QN_LOOP_PASS
};

qn_status qn_loop_pipeline(qn_loop_pass_context *context,
                           void (*dump)(void *dump_context, const char *pass, const qn_lkernel *kernel),
                           void *dump_context) {
  QN_TRY(qn_schedule_check(context->schedule, context->diag));
  for (size_t i = 0; i < QN_COUNT(PASSES); i++) {
    QN_TRY(PASSES[i].run(context));
    QN_TRY(qn_lkernel_verify(context->build->kernel, context->diag));
    if (dump) dump(dump_context, PASSES[i].name, context->build->kernel);
  }
  return QN_OK;
}
