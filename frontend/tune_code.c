// Candidates' machine code for autotune's worker: the schedule applied, then the JIT.
#include "frontend/tune_code.h"

#include <stdlib.h>

#include "codegen/codegen.h"
#include "passes/pass.h"
#include "runtime/base/vec.h"

struct quern_tune_code {
  const qn_target *target;  // borrowed
  QN_VEC(qn_jit *) jits;    // owned
};

quern_tune_code *quern_tune_code_create(const qn_target *target) {
  quern_tune_code *code = calloc(1, sizeof *code);
  if (code) code->target = target;
  return code;
}

static void release(void *context) {
  quern_tune_code *code = context;
  for (size_t i = 0; i < code->jits.count; i++) qn_jit_destroy(code->jits.items[i]);
  code->jits.count = 0;
}

void quern_tune_code_destroy(quern_tune_code *code) {
  if (!code) return;
  release(code);
  qn_vec_free(qn_allocator_default(), &code->jits);
  free(code);
}

static qn_status apply_all(const qn_tuning_task *task, const qn_schedule *schedules, int count, qn_arena *arena,
                           const qn_lkernel **kernels, qn_compiled *out, qn_diag *diag) {
  for (int i = 0; i < count; i++) {
    const char *name = qn_arena_printf(arena, "candidate_%d", i);
    if (!name) return qn_fail_nomem(diag, task->kernel->name, "candidates");
    QN_TRY(qn_schedule_apply(task->kernel, task->rows_min, task->rows_max, &schedules[i], name, arena, &kernels[i],
                             &out[i].extent, diag));
    QN_TRY(qn_lkernel_verify(kernels[i], diag));
  }
  return QN_OK;
}

static qn_status compile(void *context, const qn_tuning_task *task, const qn_schedule *schedules, int count,
                         qn_compiled *out, qn_diag *diag) {
  quern_tune_code *code = context;
  qn_arena arena;
  qn_jit *jit = NULL;
  qn_arena_init(&arena, qn_allocator_default());
  const qn_lkernel **kernels = QN_ARENA_ARRAY(&arena, (size_t)count, const qn_lkernel *);
  qn_codegen_options options = {.target = code->target, .threads = task->threads};
  qn_status status = kernels ? apply_all(task, schedules, count, &arena, kernels, out, diag)
                             : qn_fail_nomem(diag, task->kernel->name, "candidates");
  if (status == QN_OK) status = qn_jit_create(kernels, (size_t)count, &options, qn_allocator_default(), &jit, diag);
  for (int i = 0; status == QN_OK && i < count; i++) out[i].entry = qn_jit_kernel(jit, (size_t)i);
  if (status == QN_OK && !qn_vec_push(qn_allocator_default(), &code->jits, jit)) {
    qn_jit_destroy(jit);
    status = qn_fail_nomem(diag, task->kernel->name, "candidates");
  }
  qn_arena_deinit(&arena);
  return status;
}

qn_compiler quern_tune_code_compiler(quern_tune_code *code) {
  return (qn_compiler){.context = code, .compile = compile, .release = release};
}
