// The cost model, predicting: how long a kernel takes under a schedule, in closed form from what cost_count.c counted.
//
// A tile of tokens × panels costs what the busiest of a core's ports needs, or the latency of its chains where they are
// too few, and what does not fit the registers is stored and loaded again. Beside that run the traffic of the caches
// and of memory; the slower one decides, a little of the others shows. Threads meet at the end, the last with the
// largest share.
#include "passes/cost.h"

#include <math.h>

enum { LANES = 16, TAKES_A_SHARE = 4 };  // pieces that a thread's share of the work is cut into (runtime/threads.c)

// What instructions a core issues for something.
typedef struct issue {
  double multiplies, vectors;  // the former are among the latter
  double loads, stores;
  double narrow;               // loads of one value, among the loads
} issue;

static void add_issue(issue *sum, issue x, double times) {
  sum->multiplies += times * x.multiplies;
  sum->vectors += times * x.vectors;
  sum->loads += times * x.loads;
  sum->stores += times * x.stores;
  sum->narrow += times * x.narrow;
}

// ---- instructions -----------------------------------------------------------------------------------------------

// Vector instructions for an operator: all, and those among them that multiply. Others take one that does not.
typedef struct op_price {
  float multiplies, vectors;
} op_price;
static const op_price prices[QN_LX_COUNT] = {
    [QN_LX_MUL] = {1, 1},       [QN_LX_FMA] = {1, 1},    [QN_LX_DIV] = {5, 5},    [QN_LX_SQRT] = {6, 6},
    [QN_LX_UNBIAS] = {0, 2},    [QN_LX_SELECT] = {0, 1}, [QN_LX_AS_F32] = {0, 0}, [QN_LX_AS_I32] = {0, 0},
    [QN_LX_INT] = {0, 0},       [QN_LX_FLOAT] = {0, 0},  [QN_LX_LUT16] = {0, 2},  [QN_LX_EXP] = {10, 20},
    [QN_LX_SIN] = {14, 30},     [QN_LX_COS] = {14, 30},  [QN_LX_TANH] = {14, 28}, [QN_LX_ERF] = {18, 32},
    [QN_LX_TO_INDEX] = {0, 1},
};
// Those of integer dot products, by the form that a target is best at (qn_machine_model.dots): 0 an instruction for
// unsigned times signed bytes, 1 for signed ones, 2 neither: sums of pairs in 16 bits (codegen/cpu/emit_dot4.c).
static const struct {
  qn_lop op;
  op_price by_form[QN_DOTS_FORMS];
} dot_prices[] = {{QN_LX_DOT4, {{1, 1}, {1, 1}, {2, 3}}},
                  {QN_LX_DOT4S, {{2, 4}, {1, 1}, {2, 4.6f}}},
                  {QN_LX_DOT2, {{1, 2}, {2, 8}, {1, 2}}},
                  {QN_LX_FOLD2, {{1, 1}, {0, 4}, {1, 1}}}};
static const op_price wide_dot[QN_DOTS_FORMS] = {{0, 0}, {1, 3}, {0, 3}};  // beyond a DOT4, with codes of a whole byte

static op_price price_of(const qn_machine_model *m, qn_lop op) {
  if (op == QN_LX_OR && m->vector_bytes >= 64) return (op_price){0, 0};  // one instruction with the mask: vpternlogd
  for (size_t i = 0; i < QN_COUNT(dot_prices); i++) {
    if (dot_prices[i].op == op) return dot_prices[i].by_form[m->dots];
  }
  bool listed = prices[op].vectors > 0 || op == QN_LX_INT || op == QN_LX_FLOAT || op == QN_LX_AS_F32 ||
                op == QN_LX_AS_I32;
  return listed ? prices[op] : (op_price){0, 1};
}

static double vectors_of(const qn_machine_model *m) {
  double vectors = (double)LANES * (double)sizeof(float) / m->vector_bytes;
  return vectors < 1 ? 1 : vectors;
}

// For 16 lanes of each operator counted (panels and cells), or one of each (rows, whose values are broadcast).
static issue issue_of(const qn_machine_model *m, const qn_op_counts *counts, bool lanes) {
  issue sum = {.loads = 0};
  double vectors = lanes ? vectors_of(m) : 1;
  for (int op = 0; op < QN_LX_COUNT; op++) {
    if (counts->ops[op] == 0) continue;
    op_price price = price_of(m, (qn_lop)op);
    add_issue(&sum, (issue){price.multiplies, lanes ? price.vectors : price.vectors + 1, 0, 0, 0}, counts->ops[op]);
  }
  op_price wide = wide_dot[m->dots];
  add_issue(&sum, (issue){wide.multiplies, wide.vectors, 0, 0, 0}, counts->wide_dots);
  for (int mem = 0; mem < QN_LM_COUNT; mem++) {
    static const float widening[QN_LM_COUNT] = {
        [QN_LM_F16] = 2, [QN_LM_BF16] = 2, [QN_LM_I8] = 1, [QN_LM_U8] = 1};
    add_issue(&sum, (issue){0, lanes ? widening[mem] : 0, 1, 0, lanes ? 0 : 1}, counts->loads[mem]);
  }
  sum.stores += counts->stores;
  issue all = {.loads = 0};
  add_issue(&all, sum, vectors);
  return all;
}

// Cycles of the busiest port.
static double port_cycles(const qn_machine_model *m, issue x) {
  double cycles = x.multiplies / m->fma_per_cycle, all = x.vectors + x.loads + x.stores;
  // However wide vectors are, there are two loads of one value a cycle.
  double share = m->loads_per_cycle < 2 ? m->loads_per_cycle / 2 : 1, loads = x.loads - (1 - share) * x.narrow;
  const double steady = 0.83;  // of what a loop of nothing else reaches: operations of a kernel wait for each other
  const double others[] = {x.vectors / (steady * m->vector_ops_per_cycle), loads / m->loads_per_cycle,
                           x.stores / m->stores_per_cycle, all / m->issue_per_cycle};
  for (size_t i = 0; i < QN_COUNT(others); i++) cycles = others[i] > cycles ? others[i] : cycles;
  return cycles;
}

// ---- tiles ------------------------------------------------------------------------------------------------------

// A nest as a machine sees it, for all tiles of it.
typedef struct nest_issue {
  const qn_work_nest *nest;
  issue shares[QN_SHARE_COUNT];
  double vectors;
} nest_issue;

static nest_issue see_nest(const qn_machine_model *m, const qn_work_nest *nest) {
  nest_issue seen = {.nest = nest, .vectors = vectors_of(m)};
  for (int i = 0; i < QN_SHARE_COUNT; i++) seen.shares[i] = issue_of(m, &nest->counts[i], i != QN_SHARE_ROW);
  return seen;
}

static double at_least_0(double x) { return x > 0 ? x : 0; }

typedef struct tile_cost {
  double issue, waiting;  // cycles: of the busiest port, and beyond that for chains; those of spilling are in the first
  int registers;          // that it would like to have
} tile_cost;

// The larger of two, which have to be apart for it to be all: chains that just fill the ports do not quite.
static double either(double a, double b) {
  double large = a > b ? a : b, small = a > b ? b : a, ratio = large > 0 ? small / large : 0;
  ratio *= ratio;
  ratio *= ratio;
  return large * sqrt(sqrt(sqrt(1 + ratio * ratio)));
}

// Registers hold the sums that the innermost loop adds to, a panel's vector and the tokens' factors. The sums around
// them are stored and loaded once for each block of K; what the innermost loop has too many of, each time.
// Of `turns` tiles that share a block, the first one pays for unpacking it, into memory; each loads the codes from there,
// has its outer sums in memory, and pays for its turn: the loop, and that its end does not run beside the next one's
// beginning (fitted: Q4_0 gains nothing, Q5_0 and Q6_K more than a tenth).
static tile_cost tile_cycles(const qn_machine_model *m, const qn_schedule *s, const nest_issue *seen, int rows,
                             int panels, int turns) {
  enum { SPILL_LATENCY = 8, LOOP_CYCLES = 2, TURN_CYCLES = 8 };
  const double spill_cycles = 1.2;
  const qn_work_nest *nest = seen->nest;
  bool integer = nest->sums > 0;
  double chains = rows * panels * seen->vectors, steps = integer ? nest->sums : nest->links;
  double outer = chains * at_least_0(nest->accumulators - (integer ? 0 : 1));
  double hot = chains + seen->vectors + (panels > 1 ? rows : 1) + (integer ? 1 : 0);
  // Codes of few bits stand in words of which parts are used one after another, in two where planes are put together;
  // of further panels what is made of them stays beside them. Fitted: Q5_0 and Q6_K are slow with two panels, Q4_0 with
  // five tokens.
  const float *panel_ops = nest->counts[QN_SHARE_PANEL].ops;
  double planes = panel_ops[QN_LX_OR] > 0 ? 2 : 1, kept = 1 + planes;
  bool held = integer && turns > 1;
  if (integer && !held && panel_ops[QN_LX_SHR] > 0) {
    hot += (1 + kept * (panels - 1)) * seen->vectors * planes + (planes > 1 ? 0 : 1);
  }
  double spilled = at_least_0(hot - m->vector_registers), left = at_least_0(m->vector_registers - hot);
  // Where a store takes more than a cycle outer sums without registers show beside all ports, and where some find none,
  // none does (fitted on Zen 4, with vectors of 64 bytes).
  bool slow_stores = m->stores_per_cycle < 1;
  double without = at_least_0(outer - left);
  if (slow_stores && integer && without > 0) without = outer;
  double outer_spilled = (turns > 1 ? outer + (integer ? 0 : chains) : without) *
                         (integer || turns > 1 ? nest->links : 1);
  issue sum = {.loads = outer_spilled, .stores = outer_spilled};
  double codes = held ? panels * nest->sums * seen->vectors : 0;
  add_issue(&sum, (issue){.stores = codes}, 1.0 / turns);
  add_issue(&sum, (issue){.loads = codes}, 1);
  add_issue(&sum, seen->shares[QN_SHARE_PANEL], (double)panels / turns);
  add_issue(&sum, seen->shares[QN_SHARE_ROW], rows);
  add_issue(&sum, seen->shares[QN_SHARE_CELL], rows * panels);
  if (s->prefetch_bytes > 0) sum.loads += panels * seen->shares[QN_SHARE_PANEL].loads / 2;
  double rolled = s->k_unroll ? 0 : nest->rolled * LOOP_CYCLES, again = spilled * steps * spill_cycles;
  if (slow_stores) again += outer_spilled * spill_cycles;
  if (turns > 1) again += nest->links * TURN_CYCLES;
  tile_cost cost = {.registers = (int)(hot + outer)};
  cost.issue = port_cycles(m, sum);
  double latency = nest->links * (m->fma_latency + (spilled > 0 && !integer ? SPILL_LATENCY : 0));
  cost.waiting = either(cost.issue, latency) - cost.issue;
  cost.issue += again + rolled;
  return cost;
}

// All rows of all panels, on one core: the tiles that the pass `tile` makes of them.
static void nest_cycles(const qn_machine_model *m, const qn_schedule *s, const qn_work_nest *nest, double rows,
                        tile_cost *sum, double *out_tiles) {
  nest_issue seen = see_nest(m, nest);
  int64_t left = (int64_t)rows;
  *out_tiles = 0;
  for (int i = s->m_block > 1 ? -1 : 0; i < s->m_tile_count; i++) {
    int tile = s->m_tiles[i < 0 ? 0 : i], turns = i < 0 ? s->m_block : 1;
    int64_t count = left / ((int64_t)tile * turns);
    left %= (int64_t)tile * turns;
    if (count == 0) continue;
    tile_cost one = tile_cycles(m, s, &seen, tile, s->n_tile, turns);
    double times = (double)count * turns * (double)nest->panels / s->n_tile;
    sum->issue += times * one.issue;
    sum->waiting += times * one.waiting;
    if (one.registers > sum->registers) sum->registers = one.registers;
    *out_tiles += (double)count;
  }
}

// ---- memory -----------------------------------------------------------------------------------------------------

// A core's cycles for bytes that are read again and again out of `working_set` of them.
static double again_cycles(const qn_machine_model *m, double bytes, double working_set) {
  if (working_set <= 0.75 * (double)m->l1_bytes) return 0;
  return bytes / (working_set <= 0.75 * (double)m->l2_bytes ? m->l2_bytes_per_cycle : m->l3_bytes_per_cycle);
}

// Streams of a core: panels of a tile that lie in pages of their own. Neighbours shorter than a page or two are one
// stream, which the hardware prefetches no better than that of a single panel (measured with 4.6 KiB a panel).
static double streams_of(const qn_schedule *s, double panel_bytes) {
  enum { PAGE = 4096 };
  double apart = panel_bytes / (2 * PAGE) - 0.5;
  if (s->n_apart) apart = 1;
  return 1 + (s->n_tile - 1) * (apart < 0 ? 0 : apart > 1 ? 1 : apart);
}

// How far ahead of a stream a core has to ask to have what it needs in time; what comes a little late costs little.
static double bytes_needed(const qn_machine_model *m, const qn_schedule *s) {
  const double late = 0.8;
  return late * m->memory_latency_s * m->core_bytes_per_s / s->n_tile;
}

// Memory's bytes a second for the most streams that a core can use; core_bytes_per_s is of one.
static double best_of(const qn_machine_model *m) {
  return m->core_bytes_per_s / (m->stream_alone > m->stream_ahead ? m->stream_alone : m->stream_ahead);
}

// Where nobody knows what prefetching into the second cache brings it counts as into the first.
static bool goes_far(const qn_machine_model *m, const qn_schedule *s) { return s->prefetch_far && m->stream_far > 0; }

// How much of memory's latency the kernel's own prefetches hide: 0 to 1. Into the second cache they have to be sent
// sooner: what is under way there the hardware's own prefetching does not help with (fitted).
static double covered_by(const qn_machine_model *m, const qn_schedule *s) {
  double needed = (goes_far(m, s) ? 4 : 1) * bytes_needed(m, s);
  return s->prefetch_bytes >= needed ? 1 : s->prefetch_bytes / needed;
}

// What cores ask for at once, as far as memory has it.
static double as_memory_has(const qn_machine_model *m, double all) {
  const double memory_best = 1.15;  // several streams of all cores to one stream of each
  double asked = all / (memory_best * m->memory_bytes_per_s);
  return all / sqrt(sqrt(1 + asked * asked * asked * asked));
}

// How fast the cores together read weights that the kernel prefetches into the second cache, where panels do not show.
static double far_speed(const qn_machine_model *m, int cores) {
  return as_memory_has(m, best_of(m) * m->stream_far * cores);
}

// How fast the cores together read weights for the first time. One stream need not keep a core's memory busy: what is in
// flight grows with the streams and, on some machines, with prefetching far enough ahead; too far ahead it pushes out what
// is needed.
static double stream_speed(const qn_machine_model *m, const qn_schedule *s, bool pages, double streams, int cores) {
  double covered = covered_by(m, s), ahead = s->prefetch_bytes;
  double needed = bytes_needed(m, s);
  if (pages) covered = ahead > 0, ahead = covered * needed;  // the kernel asks for a chunk of the cache as a whole
  double gained = at_least_0(m->stream_ahead - m->stream_alone) * covered;
  double lost = at_least_0(m->stream_alone - m->stream_ahead) * covered;  // more streams do not bring it back
  double missing = (1 - m->stream_alone - gained) / streams + lost;
  double excess = at_least_0(ahead - needed) * s->n_tile / (double)m->l1_bytes;
  double all = best_of(m) * (1 - missing) / (1 + 0.1 * excess) * cores;
  if (!pages && s->n_tile > 1 && !s->n_apart) all *= m->neighbours;
  return as_memory_has(m, all);
}

// What a product is done in: once for all rows, or once for each expert that some rows have.
typedef struct product_part {
  double experts;           // how often; 1 where there are none
  double rows;              // each time
  double weight_bytes;      // each time
  double row_bytes;         // of the input, for a row
} product_part;

static product_part part_of(const qn_pkernel *kernel, double rows) {
  const qn_kernel_work *work = kernel->work;
  product_part p = {1, rows, (double)work->streamed_bytes, (double)work->row_read_bytes};
  if (kernel->experts == 0) return p;
  double pairs = rows * (double)kernel->chosen;
  p.experts = (double)kernel->experts * qn_expert_share(kernel->experts, kernel->chosen, rows);
  p.rows = pairs / p.experts;
  p.weight_bytes /= (double)kernel->experts;
  p.row_bytes = (double)kernel->k * (kernel->input == QN_DTYPE_A8 ? 1.5 : 4);  // ir/dtype.def
  return p;
}

// Weights, activations and results of a product that come from a core's own caches once more.
static double product_cycles(const qn_pkernel *kernel, const qn_schedule *s, const qn_machine_model *m,
                             const product_part *part, double token_tiles) {
  double rows = part->rows, panel = part->weight_bytes / (double)kernel->panels * s->n_tile, row = part->row_bytes;
  double tiles = (double)kernel->panels / s->n_tile, block = s->n_block < tiles ? s->n_block : tiles;
  double tile_rows = rows / token_tiles, all_rows = rows * row;
  double cycles = again_cycles(m, (token_tiles - 1) * panel * tiles, panel * block + tile_rows * row);
  if (s->n_block == 1) return cycles + again_cycles(m, tiles * all_rows, all_rows + panel);
  return cycles + again_cycles(m, tiles * all_rows, tile_rows * row + panel) +
         again_cycles(m, tiles / block * all_rows, all_rows);
}

// ---- prediction -------------------------------------------------------------------------------------------------

static double pow6(double x) { return x * x * x * x * x * x; }

// The larger part of those that go on beside each other, and a little of the others.
static double beside(double a, double b, double c) {
  return cbrt(sqrt(pow6(a) + pow6(b) + pow6(c)));
}

// The same where weights come from memory. What the kernel does not prefetch a core asks for as far ahead as its window
// of instructions reaches, which is the fewer bytes the more it does with each (fitted to tiles of 1, 4 and 8 tokens).
static double streamed(const qn_machine_model *m, const qn_schedule *s, const product_part *part, int cores,
                       double work, double memory, double cache) {
  if (part->weight_bytes <= 0) return beside(work, memory, cache);
  double late = sqrt(work * work + memory * memory), covered = covered_by(m, s);
  if (goes_far(m, s)) {  // neither waits for the other, where it is asked for early enough
    return covered * beside(work > memory ? work : memory, 0, cache) + (1 - covered) * beside(late, 0, cache);
  }
  const double window_s = 100 / m->cycles_per_s;
  double seen = window_s * part->experts * part->weight_bytes / (work * cores) / (bytes_needed(m, s) * s->n_tile);
  if (seen > covered) covered = seen < 1 ? seen : 1;
  return covered * beside(work, memory, cache) + (1 - covered) * beside(late, 0, cache);
}

// Units of work are taken in pieces. The last thread may have more of them than its share; and since threads do not
// run alike, the first waits for a part of the last one's piece.
static double sync_seconds(const qn_machine_model *m, double busy_s, double units, int cores) {
  const double uneven = 0.3;
  if (cores < 2) return m->cores > 1 ? m->barrier_s : 0;
  double most = (double)cores * TAKES_A_SHARE, piece = ceil(units / (units < most ? units : most));
  double count = ceil(units / piece), longest = ceil(count / cores) * piece;
  double ratio = (longest < units ? longest : units) * cores / units;
  double wait = (ratio > 1 ? ratio - 1 : 0) + uneven * piece * cores / units;
  return busy_s * wait + m->piece_s * count / cores + m->barrier_s;
}

static void predict_product(const qn_pkernel *kernel, double rows, const qn_schedule *s, const qn_machine_model *m,
                            qn_prediction *out) {
  const qn_kernel_work *work = kernel->work;
  const qn_work_nest *nest = &work->nests[s->dots][0];
  product_part part = part_of(kernel, rows);
  tile_cost sum = {0, 0, 0};
  double token_tiles = 1, tiles = (double)kernel->panels / s->n_tile, weights = part.experts * part.weight_bytes;
  nest_cycles(m, s, nest, ceil(part.rows), &sum, &token_tiles);
  sum.issue *= part.experts;
  sum.waiting *= part.experts;
  double units = ceil(tiles / s->n_block) * ceil(part.experts);
  int cores = s->parallel && units > 1 ? m->cores : 1;
  double core_cycles = m->cycles_per_s * cores;
  out->registers = sum.registers;
  out->issue_s = sum.issue / core_cycles;
  out->latency_s = sum.waiting / core_cycles;
  out->cache_s = part.experts * product_cycles(kernel, s, m, &part, token_tiles) / core_cycles;
  double streams = streams_of(s, part.weight_bytes / (double)kernel->panels / kernel->products);
  double speed = goes_far(m, s) ? far_speed(m, cores) : stream_speed(m, s, false, streams, cores);
  out->memory_s = weights / speed +
                  rows * (double)(work->row_read_bytes + work->row_write_bytes) /
                      (m->l3_bytes_per_cycle * core_cycles);
  out->bytes = weights + rows * (double)(work->row_read_bytes + work->row_write_bytes);
  out->macs = part.experts * part.rows * (double)kernel->panels * QN_TILE_ROWS * (double)kernel->k * kernel->products;
  // Weights come from memory for the first tile of tokens; the others find them in a cache.
  double first = 1 / token_tiles, work_s = out->issue_s + out->latency_s;
  const double cache_shows = 0.15;  // however much else there is to do
  double busy = streamed(m, s, &part, cores, work_s * first, out->memory_s, out->cache_s * first) +
                beside(work_s * (1 - first), 0, out->cache_s * (1 - first)) + cache_shows * out->cache_s;
  out->sync_s = sync_seconds(m, busy, units, cores);
  out->seconds = busy + out->sync_s;
}

static double flat_cycles(const qn_machine_model *m, const qn_schedule *s, const qn_kernel_work *work) {
  enum { LOOP_CYCLES = 2 };
  issue sum = issue_of(m, &work->flat[QN_SHARE_ROW], false);
  double lanes = s->lanes * (double)sizeof(float) / m->vector_bytes;  // vectors shorter than the machine's
  issue wide = issue_of(m, &work->flat[QN_SHARE_CELL], true);
  add_issue(&sum, wide, lanes < 1 ? 1 / lanes : 1);
  return port_cycles(m, sum) + (s->k_unroll ? 0 : work->flat_rolled * LOOP_CYCLES) +
         (lanes < 2 ? wide.vectors * 0.1 : 0);
}

// Attention, and kernels of rows: an iteration of the outermost loop does a run of tokens, or a row.
static void predict_rows(const qn_pkernel *kernel, double rows, const qn_schedule *s, const qn_machine_model *m,
                         qn_prediction *out) {
  const qn_kernel_work *work = kernel->work;
  double run = kernel->tile_rows > 0 ? (double)kernel->run_tokens : 1;
  double tokens = rows < run ? rows : run, units = (double)work->extent;
  double rows_a_unit = kernel->tile_rows > 0 ? tokens * (double)kernel->tile_rows : 1;
  if (work->extent_rows) units *= ceil(rows / run);
  tile_cost sum = {0, 0, 0};
  double bytes = rows * (double)(work->row_read_bytes + work->row_write_bytes);
  for (int i = 0; i < work->nest_count; i++) {
    const qn_work_nest *nest = &work->nests[0][i];
    double token_tiles = 0;
    nest_cycles(m, s, nest, rows_a_unit, &sum, &token_tiles);
    const qn_op_counts *panel = &nest->counts[QN_SHARE_PANEL], *cell = &nest->counts[QN_SHARE_CELL];
    for (int mem = 0; mem < QN_LM_COUNT; mem++) {
      bytes += units * (double)nest->panels * LANES * panel->loads[mem] * (double)qn_lmem_size((qn_lmem)mem);
    }
    out->macs += units * rows_a_unit * (double)nest->panels * LANES * cell->ops[QN_LX_FMA];
  }
  int cores = s->parallel && units > 1 ? m->cores : 1;
  double core_cycles = m->cycles_per_s * cores;
  out->registers = sum.registers;
  out->issue_s = units * (sum.issue + rows_a_unit * flat_cycles(m, s, work)) / core_cycles;
  out->latency_s = units * sum.waiting / core_cycles;
  // Pages of the cache lie anywhere: unless they are asked for, a core waits for a line of each KiB (measured).
  bool unforeseen = kernel->tile_rows > 0 && s->prefetch_bytes == 0;
  if (unforeseen) out->latency_s += bytes / 1024 * m->memory_latency_s / cores;
  out->memory_s = kernel->tile_rows > 0 ? bytes / stream_speed(m, s, true, s->n_tile, cores) : bytes / (m->l3_bytes_per_cycle * core_cycles);
  out->bytes = bytes;
  double busy = beside(out->issue_s + out->latency_s, out->memory_s, 0);
  out->sync_s = sync_seconds(m, busy, units, cores);
  out->seconds = busy + out->sync_s;
}

void qn_schedule_predict(const qn_pkernel *kernel, int64_t rows, const qn_schedule *schedule,
                         const qn_machine_model *machine, qn_prediction *out) {
  *out = (qn_prediction){.registers = 0};
  if (kernel->is_matmul) {
    predict_product(kernel, (double)rows, schedule, machine, out);
  } else {
    predict_rows(kernel, (double)rows, schedule, machine, out);
  }
}
