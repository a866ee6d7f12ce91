// Runs the loop passes on one kernel: run, verify, dump. Two lists: for CPUs and for GPUs.
#include "passes/gpu_pass.h"
#include "passes/loop_pass.h"

typedef struct loop_pass {
  const char *name;
  qn_loop_pass_fn run;
} loop_pass;

#define PASS(name, text) {#name, qn_pass_##name},
#define QN_LOOP_PASS PASS
static const loop_pass CPU_PASSES[] = {
#include "passes/loop_passes.def"
};
#undef QN_LOOP_PASS
#define QN_GPU_PASS PASS
static const loop_pass GPU_PASSES[] = {
#include "passes/gpu_passes.def"
};
#undef QN_GPU_PASS

static qn_status run(const loop_pass *passes, size_t count, qn_loop_pass_context *context, qn_loop_dump_fn dump,
                     void *dump_context) {
  QN_TRY(qn_schedule_check(context->schedule, context->diag));
  for (size_t i = 0; i < count; i++) {
    QN_TRY(passes[i].run(context));
    QN_TRY(qn_lkernel_verify(context->build->kernel, context->diag));
    if (dump) dump(dump_context, passes[i].name, context->build->kernel);
  }
  return QN_OK;
}

qn_status qn_loop_pipeline(qn_loop_pass_context *context, qn_loop_dump_fn dump, void *dump_context) {
  return run(CPU_PASSES, QN_COUNT(CPU_PASSES), context, dump, dump_context);
}

qn_status qn_gpu_pipeline(qn_loop_pass_context *context, qn_loop_dump_fn dump, void *dump_context) {
  return run(GPU_PASSES, QN_COUNT(GPU_PASSES), context, dump, dump_context);
}
