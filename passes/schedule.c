// schedule: gives every kernel its variants by row count, each with a schedule, and runs the loop passes on them.
// Requires: lowered kernels. Keeps: the bits of every result; a schedule changes speed alone.
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "passes/loop_pass.h"
#include "passes/pass.h"

// A class of row counts and what its matmul schedules look like on a machine with 32 vector registers.
typedef struct row_class {
  const char *suffix;
  int64_t min, max;
  int m_tiles[QN_SCHEDULE_MAX_TILES];  // ended by 0
  int n_tile;
  int prefetch_bytes;
} row_class;

// One token streams weights: one panel after another in memory's order, prefetched (build/tests/quern-gemv: at the read
// bandwidth; two or four panels at once re-fetch what the neighbour has read). Many tokens reuse a panel from cache: as
// many accumulators as registers allow.
static const row_class classes[] = {
    {"m1", 1, 1, {1}, 1, 4096},
    {"m2", 2, 8, {4, 2, 1}, 2, 2048},
    {"m9", 9, INT64_MAX, {12, 4, 1}, 1, 1024},
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
static int panels_a_block(const qn_pkernel *kernel, int n_tile, const qn_schedule_hints *hints) {
  enum { SHARES = 16 };
  int64_t bytes = panel_bytes(kernel) * n_tile, tiles = kernel->panels / n_tile;
  int64_t fit = bytes > 0 ? hints->cache_bytes / 2 / bytes : 1;
  if (fit > tiles / SHARES) fit = tiles / SHARES;
  return fit < 1 ? 1 : fit > 64 ? 64 : (int)fit;
}

static qn_schedule matmul_schedule(const row_class *class, const qn_pkernel *kernel, const qn_schedule_hints *hints) {
  qn_schedule schedule = qn_schedule_plain();
  // Half of the registers may hold accumulators, of which a panel takes 1, 2 or 4.
  int most = hints->vector_registers * hints->vector_bytes / (2 * QN_TILE_ROWS * (int)sizeof(float));
  bool small = most < 12;
  schedule.m_tile_count = 0;
  for (int i = 0; i < QN_SCHEDULE_MAX_TILES && class->m_tiles[i]; i++) {
    int tile = class->m_tiles[i];
    if (tile > most) continue;
    schedule.m_tiles[schedule.m_tile_count++] = tile;
  }
  schedule.n_tile = panels_a_tile(kernel->panels, small ? 1 : class->n_tile);
  schedule.n_block = class->min > 8 ? panels_a_block(kernel, schedule.n_tile, hints) : 1;
  schedule.k_unroll = 1;
  schedule.dots = hints->dots;
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
static qn_schedule attention_schedule(const qn_pkernel *kernel, int64_t rows, const qn_schedule_hints *hints) {
  qn_schedule schedule = qn_schedule_plain();
  int vectors = QN_TILE_ROWS * (int)sizeof(float) / hints->vector_bytes, best_rows = 1;
  double best = HUGE_VAL;
  if (vectors < 1) vectors = 1;
  for (int panels = 1; panels <= kernel->panels; panels *= 2) {
    for (int tile = 1; tile <= rows && tile <= 12; tile++) {
      int registers = tile * panels * vectors + vectors + (panels > 1 ? tile : 1);
      double cost = rows_cost(rows, tile, panels, vectors);
      if (registers > hints->vector_registers || cost >= best) continue;
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

static qn_status make_variant(qn_pass_context *context, const qn_pkernel *kernel, const char *suffix, int64_t rows_min,
                              int64_t rows_max, const qn_schedule *schedule, qn_pvariant *out) {
  char *name = suffix ? qn_arena_printf(context->arena, "%s__%s", kernel->name, suffix)
                      : qn_arena_strdup(context->arena, kernel->name);
  qn_lbuild build;
  qn_lkernel *copy = name ? qn_lkernel_copy(&build, context->arena, kernel->plain, name) : NULL;
  if (!copy) return qn_fail_nomem(context->diag, kernel->name, "a kernel variant");
  qn_loop_pass_context loops = {&build, schedule, context->diag};
  if (kernel->rows != QN_SYM_NONE && rows_min == rows_max) {
    QN_TRY(qn_pass_specialise(&loops, kernel->rows, rows_min));
  }
  QN_TRY(qn_loop_pipeline(&loops, NULL, NULL));
  *out = (qn_pvariant){.rows_min = rows_min, .rows_max = rows_max, .schedule = *schedule, .kernel = copy};
  return parallel_extent(copy, &out->extent, context->diag);
}

// One token has the query heads of a KV head as its rows; more of one sequence share its keys.
static qn_status schedule_attention(qn_pass_context *context, qn_pkernel *kernel) {
  static const struct {
    const char *suffix;
    int64_t min, max;
  } counts[] = {{"m1", 1, 1}, {"m2", 2, INT64_MAX}};
  const qn_schedule *forced = context->options->forced_schedule;
  bool fixed = kernel->rows == QN_SYM_NONE;
  int64_t most = fixed ? INT64_MAX : context->program->max_values[kernel->rows];
  kernel->variant_count = 0;
  for (size_t i = fixed ? 1 : 0; i < QN_COUNT(counts) && counts[i].min <= most; i++) {
    int64_t rows = kernel->tile_rows * (counts[i].max == 1 ? 1 : kernel->run_tokens);
    qn_schedule schedule = forced ? *forced : attention_schedule(kernel, rows, &context->options->hints);
    while (kernel->panels % schedule.n_tile != 0) schedule.n_tile--;
    QN_TRY(make_variant(context, kernel, fixed ? NULL : counts[i].suffix, fixed ? 0 : counts[i].min, counts[i].max,
                        &schedule, &kernel->variants[kernel->variant_count++]));
  }
  return QN_OK;
}

static qn_status schedule_kernel(qn_pass_context *context, qn_pkernel *kernel) {
  if (kernel->tile_rows) return schedule_attention(context, kernel);
  const qn_schedule *forced = context->options->forced_schedule;
  kernel->variant_count = 0;
  if (!kernel->is_matmul || kernel->rows == QN_SYM_NONE) {
    qn_schedule schedule =
        kernel->is_matmul ? matmul_schedule(&classes[2], kernel, &context->options->hints) : rows_schedule();
    if (forced) schedule = *forced;
    if (!kernel->is_matmul) {  // tiles of tokens would split the one loop that threads share
      schedule.m_tiles[0] = 1;
      schedule.m_tile_count = 1;
      schedule.n_tile = 1;
    } else {
      schedule.n_tile = panels_a_tile(kernel->panels, schedule.n_tile);
    }
    kernel->variant_count = 1;
    return make_variant(context, kernel, NULL, 0, INT64_MAX, &schedule, &kernel->variants[0]);
  }
  int64_t max_rows = context->program->max_values[kernel->rows];
  for (size_t i = 0; i < QN_COUNT(classes) && classes[i].min <= max_rows; i++) {
    qn_schedule schedule = forced ? *forced : matmul_schedule(&classes[i], kernel, &context->options->hints);
    schedule.n_tile = panels_a_tile(kernel->panels, schedule.n_tile);
    QN_TRY(make_variant(context, kernel, classes[i].suffix, classes[i].min, classes[i].max, &schedule,
                        &kernel->variants[kernel->variant_count++]));
  }
  return QN_OK;
}

qn_status qn_pass_schedule(qn_pass_context *context) {
  for (size_t i = 0; i < context->program->kernels.count; i++) {
    QN_TRY(schedule_kernel(context, &context->program->kernels.items[i]));
  }
  return QN_OK;
}
