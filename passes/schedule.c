// schedule: gives every kernel its variants by row count, each with a schedule, and runs the loop passes on them.
// Requires: lowered kernels. Keeps: the bits of every result; a schedule changes speed alone.
#include <inttypes.h>
#include <string.h>

#include "passes/cost.h"
#include "passes/gpu_pass.h"
#include "passes/loop_pass.h"
#include "passes/pass.h"

// Vectors of 64 bytes are Zen 4's, which does half as many of them a cycle as of 32, and so are memory's speeds then; how
// a stream is read is Zen 3's but of CPUs that are known. `quern machine` tells what another machine's are
// (autotune/profile.c), but for stores and `neighbours`.
qn_machine_model qn_machine_model_plain(int vector_bytes, int vector_registers, int dots, int64_t l2_bytes) {
  bool wide = vector_bytes >= 64;
  return (qn_machine_model){.vector_bytes = vector_bytes,
                            .vector_registers = vector_registers,
                            .dots = dots,
                            .cores = 4,
                            .l1_bytes = 32 << 10,
                            .l2_bytes = l2_bytes > 0 ? l2_bytes : 256 << 10,
                            .l3_bytes = 16 << 20,
                            .cycles_per_s = 3e9,
                            .fma_per_cycle = wide ? 1 : 2,
                            .loads_per_cycle = wide ? 1 : 2,
                            .stores_per_cycle = wide ? 0.5 : 1,
                            .vector_ops_per_cycle = wide ? 2 : 4,
                            .issue_per_cycle = 5,
                            .fma_latency = 4,
                            .l2_bytes_per_cycle = 32,
                            .l3_bytes_per_cycle = 16,
                            .memory_bytes_per_s = wide ? 60e9 : 32e9,
                            .core_bytes_per_s = wide ? 30e9 : 20e9,
                            .stream_alone = 0.70,
                            .stream_ahead = 0.80,
                            .neighbours = 1,
                            .memory_latency_s = 80e-9,
                            .barrier_s = 1e-6,
                            .piece_s = 1e-7};
}

void qn_machine_model_read_alone(qn_machine_model *model) {
  model->stream_alone = 1;
  model->stream_ahead = 0.85;
  model->stream_far = 0.87;
  model->neighbours = 0.8;
}

// ---- variants ---------------------------------------------------------------------------------------------------

// ceil(symbol / rows), as the pass map_mma writes it.
static bool is_tiles(const qn_lexpr *e, int rows, qn_symbol *out) {
  int64_t by = 0, up = 0;
  if (e->op != QN_LX_DIV || !qn_lexpr_is_int(e->operands[1], &by) || by != rows) return false;
  const qn_lexpr *sum = e->operands[0];
  if (sum->op != QN_LX_ADD || sum->operands[0]->op != QN_LX_SYM) return false;
  *out = sum->operands[0]->u.symbol;
  return qn_lexpr_is_int(sum->operands[1], &up) && up == rows - 1;
}

// The extent of the parallel loop as a dimension; constant 1 when there is none. With rows above 1 the symbol counts in so
// many.
static qn_status parallel_extent(const qn_lkernel *kernel, int rows, qn_dim *out, qn_diag *diag) {
  const qn_lstmt *loop = kernel->body.first;
  *out = qn_dim_const(loop ? 1 : 0);
  if (!loop || loop->kind != QN_LS_FOR || loop->u.loop.mark != QN_LM_PARALLEL) return QN_OK;
  const qn_lexpr *hi = loop->u.loop.hi;
  int64_t value = 0;
  if (qn_lexpr_is_int(hi, &value)) {
    *out = qn_dim_const(value);
    return QN_OK;
  }
  if (hi->op == QN_LX_SYM) {
    *out = qn_dim_sym(hi->u.symbol);
    return QN_OK;
  }
  qn_symbol symbol = QN_SYM_NONE;
  bool scaled = hi->op == QN_LX_MUL && qn_lexpr_is_int(hi->operands[1], &value);
  if (rows > 1 && is_tiles(scaled ? hi->operands[0] : hi, rows, &symbol)) {
    *out = (qn_dim){symbol, scaled ? value : 1};
    return QN_OK;
  }
  for (int i = 0; hi->op == QN_LX_MUL && i < 2; i++) {
    if (hi->operands[i]->op == QN_LX_SYM && qn_lexpr_is_int(hi->operands[1 - i], &value)) {
      *out = (qn_dim){hi->operands[i]->u.symbol, value};
      return QN_OK;
    }
  }
  qn_lrange range = qn_lexpr_range(hi);
  if (range.min >= 0 && range.max < INT64_MAX) {  // iterations beyond the loop's own end do nothing
    *out = qn_dim_const(range.max);
    return QN_OK;
  }
  return qn_fail(diag, QN_ERR_INTERNAL, kernel->name, "the parallel loop's extent is no constant times a symbol");
}

static bool is_whole(const qn_pkernel *kernel) { return kernel->rows == QN_SYM_NONE; }

static const char *misfit(const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max, const qn_schedule *schedule) {
  qn_diag unused = {0};
  if (qn_schedule_check(schedule, &unused) != QN_OK) return "a knob has a value that none of it may have (ir/knobs.def)";
  if (rows_min < 0 || rows_max < rows_min) return "the range of row counts is empty";
  bool tiled = kernel->is_matmul || kernel->tile_rows > 0;
  if (!tiled && schedule->m_tiles[0] != 1) return "m_tiles: rows are not tiled in this kernel; only 1 fits";
  if (!tiled && schedule->n_tile != 1) return "n_tile: this kernel has no panels; only 1 fits";
  if (tiled && kernel->panels % schedule->n_tile != 0) return "n_tile: it does not divide the number of panels";
  if (!kernel->is_matmul && schedule->n_apart != 0) return "n_apart: this kernel multiplies no weights; only 0 fits";
  if (schedule->n_tile == 1 && schedule->n_apart != 0) return "n_apart: a tile has one panel; only 0 fits";
  if (kernel->chained && schedule->n_apart != 0) return "n_apart: the steps chained to this kernel want neighbours; only 0 fits";
  if (rows_max == 1 && schedule->n_block != 1) return "n_block: one token has no tile of tokens to walk for; only 1 fits";
  if (rows_max == 1 && schedule->m_block != 1) return "m_block: one token has no tiles of tokens; only 1 fits";
  if (!kernel->is_matmul && schedule->m_block != 1) return "m_block: this kernel multiplies no weights; only 1 fits";
  if (schedule->m_block > 1 && schedule->m_tiles[0] == 1) return "m_block: tiles of one token share nothing; only 1 fits";
  if (!kernel->is_matmul && schedule->n_block != 1) return "n_block: this kernel multiplies no weights; only 1 fits";
  if (schedule->prefetch_far != 0) {
    if (!kernel->is_matmul) return "prefetch_far: this kernel multiplies no weights; only 0 fits";
    if (schedule->prefetch_bytes == 0) return "prefetch_far: nothing is prefetched; only 0 fits";
  }
  if (!qn_kernel_has_dots(kernel) && schedule->dots != 0) return "dots: this kernel multiplies no codes; only 0 fits";
  return NULL;
}

bool qn_schedule_legal(const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max, const qn_schedule *schedule,
                       const char **why) {
  const char *reason = misfit(kernel, rows_min, rows_max, schedule);
  if (why) *why = reason;
  return reason == NULL;
}

qn_schedule qn_schedule_fit(const qn_pkernel *kernel, int64_t rows_max, const qn_schedule *schedule) {
  qn_schedule fit = *schedule;
  bool tiled = kernel->is_matmul || kernel->tile_rows > 0;
  if (!kernel->is_matmul || rows_max == 1) fit.m_block = fit.n_block = 1;
  if (!qn_kernel_has_dots(kernel)) fit.dots = 0;
  if (!tiled) fit.m_tiles[0] = fit.m_tile_count = fit.n_tile = 1;
  if (fit.m_tiles[0] == 1) fit.m_block = 1;
  while (tiled && kernel->panels % fit.n_tile != 0) fit.n_tile--;
  if (!kernel->is_matmul || kernel->chained || fit.n_tile == 1) fit.n_apart = 0;
  if (!kernel->is_matmul || fit.prefetch_bytes == 0) fit.prefetch_far = 0;
  return fit;
}

qn_status qn_schedule_apply(const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max, const qn_schedule *schedule,
                            const char *name, qn_arena *arena, const qn_lkernel **out, qn_dim *out_extent,
                            qn_diag *diag) {
  const char *why = misfit(kernel, rows_min, rows_max, schedule);
  if (why) return qn_fail(diag, QN_ERR_ARGUMENT, kernel->name, "the schedule does not fit: %s", why);
  qn_lbuild build;
  qn_lkernel *copy = qn_lkernel_copy(&build, arena, kernel->plain, name);
  if (!copy) return qn_fail_nomem(diag, kernel->name, "a kernel variant");
  qn_loop_pass_context loops = {.build = &build, .schedule = schedule, .diag = diag};
  if (!is_whole(kernel) && rows_min == rows_max) QN_TRY(qn_pass_specialise(&loops, kernel->rows, rows_min));
  QN_TRY(qn_loop_pipeline(&loops, NULL, NULL));
  *out = copy;
  return parallel_extent(copy, 1, out_extent, diag);
}

// ---- plans ------------------------------------------------------------------------------------------------------

// Row counts of variants meet without a gap and go up to any number.
static qn_status check_plan(const qn_pkernel *kernel, const qn_kernel_plan *plan, qn_diag *diag) {
  bool fits = plan->count >= 1 && plan->count <= QN_MAX_VARIANTS && plan->variants[0].rows_min <= 1;
  for (int i = 0; fits && i < plan->count; i++) {
    bool last = i + 1 == plan->count;
    int64_t max = plan->variants[i].rows_max;
    fits = plan->variants[i].rows_min <= max && (last || (max < INT64_MAX && plan->variants[i + 1].rows_min == max + 1));
  }
  if (fits) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, kernel->name,
                 "got a plan of %d variants whose row counts do not follow each other from 1 on", plan->count);
}

// Neighbours with the same schedule are one variant, whose code is made once; one of a single row count has code of its
// own, for that number (qn_schedule_apply).
static void join_equals(qn_kernel_plan *plan) {
  int kept = 0;
  for (int i = 1; i < plan->count; i++) {
    int64_t first = plan->variants[kept].rows_min;
    bool single = first == plan->variants[kept].rows_max || plan->variants[i].rows_min == plan->variants[i].rows_max;
    if (!single && qn_schedule_equal(&plan->variants[kept].schedule, &plan->variants[i].schedule)) {
      plan->variants[kept].rows_max = plan->variants[i].rows_max;
    } else {
      plan->variants[++kept] = plan->variants[i];
    }
  }
  plan->count = kept + 1;
}

static qn_status schedule_kernel(qn_pass_context *context, qn_pkernel *kernel) {
  const qn_pass_options *options = context->options;
  int64_t max_rows = is_whole(kernel) ? INT64_MAX : context->program->max_values[kernel->rows];
  qn_kernel_plan plan;
  bool chosen = !options->forced_schedule && options->choose && options->choose(options->choose_context, kernel, &plan);
  if (!chosen) plan = qn_schedule_default(kernel, max_rows, &options->machine);
  QN_TRY(check_plan(kernel, &plan, context->diag));
  for (int i = 0; options->forced_schedule && i < plan.count; i++) {
    plan.variants[i].schedule = qn_schedule_fit(kernel, plan.variants[i].rows_max, options->forced_schedule);
  }
  join_equals(&plan);
  kernel->variant_count = 0;
  for (int i = 0; i < plan.count; i++) {
    int64_t min = plan.variants[i].rows_min, max = plan.variants[i].rows_max;
    qn_schedule schedule = plan.variants[i].schedule;
    bool named = !is_whole(kernel) && min > 0;
    const char *name = named ? qn_arena_printf(context->arena, "%s__m%" PRId64, kernel->name, min)
                             : qn_arena_strdup(context->arena, kernel->name);
    if (!name) return qn_fail_nomem(context->diag, kernel->name, "a variant's name");
    qn_pvariant *v = &kernel->variants[kernel->variant_count++];
    *v = (qn_pvariant){.rows_min = min, .rows_max = max, .schedule = schedule};
    QN_TRY(qn_schedule_apply(kernel, min, max, &schedule, name, context->arena, &v->kernel, &v->extent, context->diag));
  }
  return QN_OK;
}

static qn_status schedule_gpu_kernel(qn_pass_context *context, qn_pkernel *kernel) {
  int64_t max_rows = is_whole(kernel) ? INT64_MAX : context->program->max_values[kernel->rows];
  qn_gpu_variant variants[QN_MAX_VARIANTS];
  QN_TRY(qn_gpu_variants(kernel, max_rows, context->arena, variants, &kernel->variant_count, context->diag));
  for (int i = 0; i < kernel->variant_count; i++) {
    const qn_gpu_variant *from = &variants[i];
    qn_pvariant *v = &kernel->variants[i];
    *v = (qn_pvariant){.rows_min = from->rows_min,
                       .rows_max = from->rows_max,
                       .gpu = from->schedule,
                       .kernel = from->kernel,
                       .extent_rows = from->rows_each > 1 ? from->rows_each : 0};
    QN_TRY(parallel_extent(v->kernel, v->extent_rows, &v->extent, context->diag));
  }
  return QN_OK;
}

qn_status qn_pass_schedule(qn_pass_context *context) {
  bool gpu = context->options->gpu;
  for (size_t i = 0; i < context->program->kernels.count; i++) {
    qn_pkernel *kernel = &context->program->kernels.items[i];
    QN_TRY(gpu ? schedule_gpu_kernel(context, kernel) : schedule_kernel(context, kernel));
  }
  return qn_link_variants(context);
}
