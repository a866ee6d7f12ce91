// schedule: gives every kernel its variants by row count, each with a schedule, and runs the loop passes on them.
// Requires: lowered kernels. Keeps: the bits of every result; a schedule changes speed alone.
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "passes/loop_pass.h"
#include "passes/pass.h"

// A class of row counts and what its matmul schedules look like on a machine with 32 vector registers.
typedef struct row_class {
  int64_t min, max;
  int m_tiles[QN_SCHEDULE_MAX_TILES];  // ended by 0
  int n_tile;
  int prefetch_bytes;
} row_class;

// One token streams weights: one panel after another in memory's order, prefetched (build/tests/quern-gemv: at the read
// bandwidth; two or four panels at once re-fetch what the neighbour has read). Many tokens reuse a panel from cache: as
// many accumulators as registers allow.
static const row_class classes[] = {
    {1, 1, {1}, 1, 4096},
    {2, 8, {4, 2, 1}, 2, 2048},
    {9, INT64_MAX, {12, 4, 1}, 1, 1024},
};

// The largest n tile up to `limit` that leaves an even number of groups of panels, so that two or four threads get
// equal shares; where no number of groups is even, the largest that leaves at least two.
static int panels_a_tile(int64_t panels, int limit) {
  for (int even = 1; even >= 0; even--) {
    for (int tile = limit; tile >= 1; tile--) {
      if (panels % tile == 0 && panels / tile >= 2 && (!even || panels / tile % 2 == 0)) return tile;
    }
  }
  return 1;
}

// Bytes of weights that one panel reads.
static int64_t panel_bytes(const qn_pkernel *kernel) {
  int64_t bytes = 0, elements = 0;
  for (size_t i = 0; i < kernel->plain->param_count; i++) {
    const qn_lbuf *param = kernel->plain->params[i];
    if (param->streamed && qn_lexpr_is_int(param->elements, &elements)) {
      bytes += elements * (int64_t)qn_lmem_size(param->mem);
    }
  }
  return bytes / (kernel->panels > 0 ? kernel->panels : 1);
}

// Tiles of panels in a block: as many as half of the second cache holds beside a tile of tokens, but so few that there
// are blocks enough to share out.
static int panels_a_block(const qn_pkernel *kernel, int n_tile, const qn_machine_model *machine) {
  enum { SHARES = 16 };
  int64_t bytes = panel_bytes(kernel) * n_tile, tiles = kernel->panels / n_tile;
  int64_t fit = bytes > 0 ? machine->l2_bytes / 2 / bytes : 1;
  if (fit > tiles / SHARES) fit = tiles / SHARES;
  return fit < 1 ? 1 : fit > 64 ? 64 : (int)fit;
}

static qn_schedule matmul_schedule(const row_class *class, const qn_pkernel *kernel, const qn_machine_model *machine) {
  qn_schedule schedule = qn_schedule_plain();
  // Half of the registers may hold accumulators, of which a panel takes 1, 2 or 4.
  int most = machine->vector_registers * machine->vector_bytes / (2 * QN_TILE_ROWS * (int)sizeof(float));
  bool small = most < 12;
  schedule.m_tile_count = 0;
  for (int i = 0; i < QN_SCHEDULE_MAX_TILES && class->m_tiles[i]; i++) {
    int tile = class->m_tiles[i];
    if (tile > most) continue;
    schedule.m_tiles[schedule.m_tile_count++] = tile;
  }
  schedule.n_tile = panels_a_tile(kernel->panels, small ? 1 : class->n_tile);
  schedule.n_block = class->min > 8 ? panels_a_block(kernel, schedule.n_tile, machine) : 1;
  schedule.k_unroll = 1;
  schedule.dots = machine->dots;
  schedule.lanes = QN_TILE_ROWS;
  schedule.prefetch_bytes = class->prefetch_bytes;
  schedule.parallel = 1;
  return schedule;
}

static qn_schedule rows_schedule(void) {
  qn_schedule schedule = qn_schedule_plain();
  schedule.lanes = QN_TILE_ROWS;
  schedule.k_unroll = 1;
  schedule.parallel = 1;
  return schedule;
}

qn_machine_model qn_machine_model_plain(int vector_bytes, int vector_registers, int dots, int64_t l2_bytes) {
  return (qn_machine_model){.vector_bytes = vector_bytes,
                            .vector_registers = vector_registers,
                            .dots = dots,
                            .cores = 4,
                            .l1_bytes = 32 << 10,
                            .l2_bytes = l2_bytes > 0 ? l2_bytes : 256 << 10,
                            .l3_bytes = 16 << 20,
                            .cycles_per_s = 3e9,
                            .fma_per_cycle = 2,
                            .loads_per_cycle = 2,
                            .vector_ops_per_cycle = 3,
                            .fma_latency = 4,
                            .l2_bytes_per_cycle = 32,
                            .l3_bytes_per_cycle = 12,
                            .memory_bytes_per_s = 30e9,
                            .core_bytes_per_s = 15e9,
                            .barrier_s = 1e-6,
                            .piece_s = 1e-7};
}

// ---- attention --------------------------------------------------------------------------------------------------

// Cycles that a tile of `rows` rows and `panels` panels of 16 lanes takes for each of its vector multiply-adds: two of
// these a cycle, two loads a cycle (a broadcast a row, two for a vector of the cache that has to be widened), or as
// many as there are chains to fill the latency with.
static double tile_cost(int rows, int panels, int vectors) {
  double latency = 5, chains = (double)rows * panels * vectors, loads = rows + 2.0 * panels * vectors;
  double cost = 0.5;
  if (cost < latency / chains) cost = latency / chains;
  return cost < 0.5 * loads / chains ? 0.5 * loads / chains : cost;
}

static double rows_cost(int64_t rows, int tile, int panels, int vectors) {
  int rest = (int)(rows % tile);
  double cost = (double)(rows - rest) * tile_cost(tile, panels, vectors);
  return rest ? cost + rest * tile_cost(rest, panels, vectors) : cost;
}

// The tile that costs least over `rows` rows, of those whose accumulators, one vector of the cache's and the rows'
// factors fit the registers. Numbers of panels divide kernel->panels.
static qn_schedule attention_schedule(const qn_pkernel *kernel, int64_t rows, const qn_machine_model *machine) {
  qn_schedule schedule = qn_schedule_plain();
  int vectors = QN_TILE_ROWS * (int)sizeof(float) / machine->vector_bytes, best_rows = 1;
  double best = HUGE_VAL;
  if (vectors < 1) vectors = 1;
  for (int panels = 1; panels <= kernel->panels; panels *= 2) {
    for (int tile = 1; tile <= rows && tile <= 12; tile++) {
      int registers = tile * panels * vectors + vectors + (panels > 1 ? tile : 1);
      double cost = rows_cost(rows, tile, panels, vectors);
      if (registers > machine->vector_registers || cost >= best) continue;
      best = cost;
      best_rows = tile;
      schedule.n_tile = panels;
    }
  }
  schedule.m_tile_count = 0;
  int rest = (int)(rows % best_rows);  // of the rows planned for, then what other numbers of rows leave
  schedule.m_tiles[schedule.m_tile_count++] = best_rows;
  if (rest > 1) schedule.m_tiles[schedule.m_tile_count++] = rest;
  for (int tile = 4; tile >= 1; tile /= 2) {
    if (tile < schedule.m_tiles[schedule.m_tile_count - 1]) schedule.m_tiles[schedule.m_tile_count++] = tile;
  }
  schedule.lanes = QN_TILE_ROWS;
  schedule.k_unroll = 1;
  schedule.prefetch_bytes = 64;
  schedule.parallel = 1;
  return schedule;
}

// ---- variants ---------------------------------------------------------------------------------------------------

// The extent of the parallel loop as a dimension; constant 1 when there is none.
static qn_status parallel_extent(const qn_lkernel *kernel, qn_dim *out, qn_diag *diag) {
  *out = qn_dim_const(1);
  const qn_lstmt *loop = kernel->body.first;
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
  for (int i = 0; hi->op == QN_LX_MUL && i < 2; i++) {
    if (hi->operands[i]->op == QN_LX_SYM && qn_lexpr_is_int(hi->operands[1 - i], &value)) {
      *out = (qn_dim){hi->operands[i]->u.symbol, value};
      return QN_OK;
    }
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
  if (!kernel->is_matmul && schedule->n_block != 1) return "n_block: this kernel multiplies no weights; only 1 fits";
  if (!kernel->is_matmul && schedule->dots != 0) return "dots: this kernel multiplies no weights; only 0 fits";
  return NULL;
}

bool qn_schedule_legal(const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max, const qn_schedule *schedule,
                       const char **why) {
  const char *reason = misfit(kernel, rows_min, rows_max, schedule);
  if (why) *why = reason;
  return reason == NULL;
}

qn_schedule qn_schedule_fit(const qn_pkernel *kernel, const qn_schedule *schedule) {
  qn_schedule fit = *schedule;
  if (kernel->is_matmul) {
    fit.n_tile = panels_a_tile(kernel->panels, fit.n_tile);
    return fit;
  }
  fit.n_block = 1;
  fit.dots = 0;
  if (kernel->tile_rows > 0) {
    while (kernel->panels % fit.n_tile != 0) fit.n_tile--;
    return fit;
  }
  fit.m_tiles[0] = fit.m_tile_count = fit.n_tile = 1;
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
  qn_loop_pass_context loops = {&build, schedule, diag};
  if (!is_whole(kernel) && rows_min == rows_max) QN_TRY(qn_pass_specialise(&loops, kernel->rows, rows_min));
  QN_TRY(qn_loop_pipeline(&loops, NULL, NULL));
  *out = copy;
  return parallel_extent(copy, out_extent, diag);
}

// ---- plans ------------------------------------------------------------------------------------------------------

static void add_variant(qn_kernel_plan *plan, int64_t rows_min, int64_t rows_max, qn_schedule schedule) {
  plan->variants[plan->count].rows_min = rows_min;
  plan->variants[plan->count].rows_max = rows_max;
  plan->variants[plan->count++].schedule = schedule;
}

// One token has the query heads of a KV head as its rows; more of one sequence share its keys.
static void plan_attention(const qn_pkernel *kernel, int64_t max_rows, const qn_machine_model *machine,
                           qn_kernel_plan *out) {
  qn_schedule many = attention_schedule(kernel, kernel->tile_rows * kernel->run_tokens, machine);
  if (is_whole(kernel)) {
    add_variant(out, 0, INT64_MAX, many);
    return;
  }
  add_variant(out, 1, 1, attention_schedule(kernel, kernel->tile_rows, machine));
  if (max_rows > 1) add_variant(out, 2, INT64_MAX, many);
}

static void plan_matmul(const qn_pkernel *kernel, int64_t max_rows, const qn_machine_model *machine,
                        qn_kernel_plan *out) {
  if (is_whole(kernel)) {
    add_variant(out, 0, INT64_MAX, matmul_schedule(&classes[2], kernel, machine));
    return;
  }
  for (size_t i = 0; i < QN_COUNT(classes) && (i == 0 || classes[i].min <= max_rows); i++) {
    add_variant(out, classes[i].min, classes[i].max, matmul_schedule(&classes[i], kernel, machine));
  }
}

qn_kernel_plan qn_schedule_default(const qn_pkernel *kernel, int64_t max_rows, const qn_machine_model *machine) {
  qn_kernel_plan plan = {0};
  if (kernel->tile_rows > 0) {
    plan_attention(kernel, max_rows, machine, &plan);
  } else if (kernel->is_matmul) {
    plan_matmul(kernel, max_rows, machine, &plan);
  } else {  // where one row can be shared out (lower_rows.c), it is
    if (!is_whole(kernel)) add_variant(&plan, 1, 1, rows_schedule());
    if (is_whole(kernel) || max_rows > 1) add_variant(&plan, is_whole(kernel) ? 0 : 2, INT64_MAX, rows_schedule());
  }
  return plan;
}

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

static qn_status schedule_kernel(qn_pass_context *context, qn_pkernel *kernel) {
  const qn_pass_options *options = context->options;
  int64_t max_rows = is_whole(kernel) ? INT64_MAX : context->program->max_values[kernel->rows];
  qn_kernel_plan plan;
  bool chosen = !options->forced_schedule && options->choose && options->choose(options->choose_context, kernel, &plan);
  if (!chosen) plan = qn_schedule_default(kernel, max_rows, &options->machine);
  QN_TRY(check_plan(kernel, &plan, context->diag));
  kernel->variant_count = 0;
  for (int i = 0; i < plan.count; i++) {
    int64_t min = plan.variants[i].rows_min, max = plan.variants[i].rows_max;
    qn_schedule schedule = plan.variants[i].schedule;
    if (options->forced_schedule) schedule = qn_schedule_fit(kernel, options->forced_schedule);
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

qn_status qn_pass_schedule(qn_pass_context *context) {
  for (size_t i = 0; i < context->program->kernels.count; i++) {
    QN_TRY(schedule_kernel(context, &context->program->kernels.items[i]));
  }
  return qn_link_variants(context);
}
