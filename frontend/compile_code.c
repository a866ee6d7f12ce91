// From opened compilation to code: passes, a plan for every target, machine code by LLVM and NVRTC.
#include <stdlib.h>
#include <string.h>

#include "codegen/cuda/compile.h"
#include "frontend/cache.h"
#include "frontend/compilation.h"

// --- plans

// Keeps the variants that the part's program has now as the plan of a target; targets whose schedules are the same
// share one.
static qn_status take_plan(quern_compilation *c, size_t target) {
  quern_part *part = &c->parts[c->part_of[target]];
  qn_program_plan *plan = &part->plans[part->plan_count];
  QN_TRY(qn_program_plan_take(part->pass.program, plan, c->diag));
  size_t at = 0;
  while (!qn_program_plan_equal(part->pass.program, &part->plans[at], plan)) at++;  // at the latest with itself
  c->plan_of[target] = at;
  part->plan_count += at == part->plan_count;
  return QN_OK;
}

// One program serves all targets of its kind; its kernels' variants are each target's own. All passes run for the first
// target; for the others `schedule` runs again on what was lowered. GPUs' schedules do not differ by chip.
static qn_status make_plans_of(quern_compilation *c, size_t part_index) {
  quern_part *part = &c->parts[part_index];
  part->plan_count = 0;
  for (size_t i = 0; i < c->target_count; i++) {
    if (c->part_of[i] != part_index) continue;
    if (!part->gpu) quern_compilation_take_target(c, i);
    if (!part->pass.program) {
      QN_TRY(qn_run_passes(&part->pass));
    } else if (!part->gpu) {
      QN_TRY(qn_run_pass(&part->pass, "schedule"));
    }
    QN_TRY(take_plan(c, i));
  }
  return QN_OK;
}

qn_status quern_make_plans(quern_compilation *c) {
  for (size_t i = 0; i < c->part_count; i++) QN_TRY(make_plans_of(c, i));
  return QN_OK;
}

qn_status quern_choose_again(quern_compilation *c) {
  for (size_t i = 0; i < c->target_count; i++) {
    qn_code_deinit(&c->codes[i]);
    c->evidence[i].length = 0;
  }
  c->tuned.chooser.counts = (qn_plan_counts){0};
  return make_plans_of(c, 0);
}

// --- CPUs

void quern_report_tuning(const quern_compilation *c) {
  if (c->options->tuning_use) quern_tuned_report(&c->tuned, c->options->tuning_use);
}

qn_codegen_options quern_codegen_options(const quern_compilation *c, const qn_target *target) {
  return (qn_codegen_options){.target = target,
                              .threads = c->options->threads,
                              .dump = c->options->dump,
                              .dump_context = c->options->dump_context};
}

static qn_program_plan *plan_of(quern_compilation *c, size_t target) {
  return &c->parts[c->part_of[target]].plans[c->plan_of[target]];
}

// A target's code of single functions: for quern_tuned_deny_failing.
typedef struct lone_code {
  const quern_compilation *c;
  const qn_target *target;
} lone_code;

static qn_status make_lone_code(void *context, const qn_lkernel *const *functions, size_t count, qn_diag *diag) {
  const lone_code *l = context;
  qn_codegen_options options = {.target = l->target, .threads = 1};
  qn_code code = {0};
  QN_TRY(qn_cpu_compile(functions, count, &options, l->c->allocator, &code, diag));
  qn_code_deinit(&code);
  return QN_OK;
}

qn_status quern_blame_records(quern_compilation *c, size_t target, qn_status status, bool *out_again) {
  lone_code lone = {c, &c->targets[target]};
  const quern_tuned_maker maker = {&lone, make_lone_code};
  const qn_program *program = c->parts[c->part_of[target]].pass.program;
  if (!quern_tuned_deny_failing(&c->tuned, lone.target, program, plan_of(c, target), status, &maker)) return status;
  *c->diag = (qn_diag){0};
  *out_again = true;
  return QN_OK;
}

static qn_status compile_for_cpu(quern_compilation *c, size_t target) {
  qn_codegen_options options = quern_codegen_options(c, &c->targets[target]);
  const qn_program_plan *plan = plan_of(c, target);
  QN_TRY(quern_compilation_report(c, "compiling kernels", target, c->target_count));
  return qn_cpu_compile(plan->functions, plan->function_count, &options, c->allocator, &c->codes[target], c->diag);
}

static qn_status compile_or_blame(quern_compilation *c, bool *out_again) {
  for (size_t i = 0; i < c->target_count && !*out_again; i++) {
    if (qn_target_is_gpu(&c->targets[i])) continue;
    qn_status status = compile_for_cpu(c, i);
    if (status != QN_OK) QN_TRY(quern_blame_records(c, i, status, out_again));
  }
  return QN_OK;
}

// Schedules that another build found are checked by their code now, and given up where it is wrong or cannot be made,
// each for good: the second round has none of those of the first.
static qn_status compile_for_cpus(quern_compilation *c) {
  const qn_program *program = c->parts[0].pass.program;
  for (bool again = true; again;) {
    again = false;
    QN_TRY(compile_or_blame(c, &again));
    for (size_t i = 0; i < c->target_count && !again; i++) {
      bool denied = false;
      if (qn_target_is_gpu(&c->targets[i])) continue;
      QN_TRY(
          quern_tuned_recheck_code(&c->tuned, &c->targets[i], program, plan_of(c, i), &c->codes[i], &denied, c->diag));
      if (denied) again = true;
    }
    if (again) QN_TRY(quern_choose_again(c));
  }
  quern_report_tuning(c);
  return QN_OK;
}

// --- GPUs

// The plan's functions with their schedules.
static qn_status list_gpu_kernels(quern_compilation *c, size_t target, qn_cuda_kernel **out, size_t *out_count) {
  const qn_program_plan *plan = plan_of(c, target);
  const qn_program *program = c->parts[c->part_of[target]].pass.program;
  qn_cuda_kernel *kernels = QN_ARENA_ARRAY(&c->arena, plan->function_count + 1, qn_cuda_kernel);
  if (!kernels) return qn_fail_nomem(c->diag, "CUDA", "the list of kernels");
  *out = kernels;
  *out_count = 0;
  for (size_t k = 0; k < program->kernels.count; k++) {
    for (int v = 0; v < plan->kernels[k].variant_count; v++) {
      const qn_pvariant *variant = &plan->kernels[k].variants[v];
      kernels[(*out_count)++] = (qn_cuda_kernel){.kernel = variant->kernel, .schedule = variant->gpu};
    }
  }
  return QN_OK;
}

static qn_status compile_for_gpu(quern_compilation *c, size_t target, bool source_alone) {
  qn_cuda_options options = {.target = &c->targets[target],
                             .nvrtc = {.library = c->options->nvrtc},
                             .dump = c->options->dump,
                             .dump_context = c->options->dump_context};
  qn_cuda_kernel *kernels = NULL;
  size_t count = 0;
  QN_TRY(list_gpu_kernels(c, target, &kernels, &count));
  if (source_alone) return qn_cuda_show(kernels, count, &options, c->allocator, c->diag);
  qn_buf folder;
  qn_buf_init(&folder, c->allocator);
  options.cache_folder = quern_nvrtc_folder(&folder);
  qn_status status = quern_compilation_report(c, "compiling kernels with NVRTC", target, c->target_count);
  if (status == QN_OK) status = qn_cuda_compile(kernels, count, &options, c->allocator, &c->codes[target], c->diag);
  if (status == QN_OK && options.cache_folder) quern_cache_hold_limit(NULL);
  qn_buf_deinit(&folder);
  return status;
}

// --- all

qn_status quern_compile_target(quern_compilation *c, size_t target, bool source_alone) {
  return qn_target_is_gpu(&c->targets[target]) ? compile_for_gpu(c, target, source_alone) : compile_for_cpu(c, target);
}

qn_status quern_compile_code(quern_compilation *c) {
  if (!c->parts[0].gpu) QN_TRY(compile_for_cpus(c));
  for (size_t i = 0; i < c->target_count; i++)
    if (qn_target_is_gpu(&c->targets[i])) QN_TRY(compile_for_gpu(c, i, false));
  return QN_OK;
}
