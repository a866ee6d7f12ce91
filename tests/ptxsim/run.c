// Runs a grid: blocks on the host's cores, one thread each, their warps in turn until all have ended. The first fault,
// by the order of the blocks, is the launch's, however many threads there were.
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "tests/ptxsim/cuda_abi.h"
#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/shared.h"

enum { TURN = 1 << 16, SHUFFLED_TURN = 64 };  // instructions of a warp before the next one's turn

static uint64_t next_random(uint64_t *state) {  // xorshift64*
  uint64_t x = *state;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  *state = x;
  return x * 0x2545f4914f6cdd1dull;
}

static void shuffle(uint32_t *items, size_t count, uint64_t *random) {
  for (size_t i = count; i > 1; i--) {
    size_t j = next_random(random) % i;
    uint32_t item = items[i - 1];
    items[i - 1] = items[j];
    items[j] = item;
  }
}

// ---- what a thread of the host needs for its blocks ----

static void fill_row(ps_warp *w, int32_t row, unsigned bytes, uint64_t bits) {
  if (row == PS_NO_ROW) return;
  for (int l = 0; l < PS_LANES; l++) {
    if (bytes <= 2) ((uint16_t *)ps_row(w, row))[l] = (uint16_t)bits;
    if (bytes == 4) ((uint32_t *)ps_row(w, row))[l] = (uint32_t)bits;
    if (bytes == 8) ((uint64_t *)ps_row(w, row))[l] = bits;
  }
}

static void fill_lanes(ps_warp *w, int32_t row, uint32_t (*value)(const ps_warp *w, uint32_t lane)) {
  if (row == PS_NO_ROW) return;
  for (uint32_t l = 0; l < PS_LANES; l++) ((uint32_t *)ps_row(w, row))[l] = value(w, l);
}
static uint32_t thread_number(const ps_warp *w, uint32_t lane) { return w->index * PS_LANES + lane; }
static uint32_t tid_x(const ps_warp *w, uint32_t l) { return thread_number(w, l) % w->block->launch->config->block[0]; }
static uint32_t tid_y(const ps_warp *w, uint32_t l) {
  const uint32_t *n = w->block->launch->config->block;
  return thread_number(w, l) / n[0] % n[1];
}
static uint32_t tid_z(const ps_warp *w, uint32_t l) {
  const uint32_t *n = w->block->launch->config->block;
  return thread_number(w, l) / n[0] / n[1];
}
static uint32_t lane_id(const ps_warp *w, uint32_t l) { return (void)w, l; }
static uint32_t mask_eq(const ps_warp *w, uint32_t l) { return (void)w, 1u << l; }
static uint32_t mask_le(const ps_warp *w, uint32_t l) { return (void)w, (2u << l) - 1; }
static uint32_t mask_lt(const ps_warp *w, uint32_t l) { return (void)w, (1u << l) - 1; }
static uint32_t mask_ge(const ps_warp *w, uint32_t l) { return (void)w, ~((1u << l) - 1); }
static uint32_t mask_gt(const ps_warp *w, uint32_t l) { return (void)w, ~((2u << l) - 1); }

// Rows that stay the same for all blocks.
static void fill_constants(ps_warp *w) {
  const ps_launch *launch = w->block->launch;
  const ps_program *p = launch->program;
  const int32_t *s = p->specials;
  memset(w->registers, 0, p->register_bytes);
  for (size_t k = 0; k < p->constants.count; k++) {
    fill_row(w, p->constants.items[k].row, p->constants.items[k].bytes, p->constants.items[k].bits);
  }
  for (int k = 0; k < 3; k++) {
    fill_row(w, s[PS_SPECIAL_NTID_X + k], 4, launch->config->block[k]);
    fill_row(w, s[PS_SPECIAL_NCTAID_X + k], 4, launch->config->grid[k]);
  }
  fill_lanes(w, s[PS_SPECIAL_TID_X], tid_x);
  fill_lanes(w, s[PS_SPECIAL_TID_Y], tid_y);
  fill_lanes(w, s[PS_SPECIAL_TID_Z], tid_z);
  fill_lanes(w, s[PS_SPECIAL_LANEID], lane_id);
  fill_lanes(w, s[PS_SPECIAL_LANEMASK_EQ], mask_eq);
  fill_lanes(w, s[PS_SPECIAL_LANEMASK_LE], mask_le);
  fill_lanes(w, s[PS_SPECIAL_LANEMASK_LT], mask_lt);
  fill_lanes(w, s[PS_SPECIAL_LANEMASK_GE], mask_ge);
  fill_lanes(w, s[PS_SPECIAL_LANEMASK_GT], mask_gt);
  fill_row(w, s[PS_SPECIAL_WARPID], 4, w->index);
  fill_row(w, s[PS_SPECIAL_NWARPID], 4, launch->warp_count);
  fill_row(w, s[PS_SPECIAL_SMID], 4, 0);
  fill_row(w, s[PS_SPECIAL_NSMID], 4, 1);
  fill_row(w, s[PS_SPECIAL_GRIDID], 8, launch->grid_id);
  fill_row(w, s[PS_SPECIAL_DYNAMIC], 4, launch->config->dynamic_shared_bytes);
  fill_row(w, s[PS_SPECIAL_TOTAL], 4, launch->shared_bytes);
}

static void block_deinit(ps_block *b) {
  const qn_allocator *a = qn_allocator_default();
  const ps_launch *launch = b->launch;
  const ps_program *p = launch->program;
  size_t local = (size_t)p->local_bytes * PS_LANES, granules = launch->shared_bytes / p->granule + 1;
  for (uint32_t k = 0; b->warps != NULL && k < b->warp_count; k++) {
    qn_free(a, b->warps[k].registers_block, p->register_bytes + 32u);
    qn_free(a, b->warps[k].local, local);
    qn_free(a, b->warps[k].local_written, local);
    qn_vec_free(a, &b->warps[k].copies);
  }
  qn_free(a, b->warps, b->warp_count * sizeof *b->warps);
  qn_free(a, b->shared, launch->shared_bytes + 1u);
  qn_free(a, b->shadow_writer, granules * sizeof *b->shadow_writer);
  qn_free(a, b->shadow_reader, granules * sizeof *b->shadow_reader);
  qn_free(a, b->executed, p->insns.count * sizeof *b->executed);
  qn_free(a, b->lanes, p->insns.count * sizeof *b->lanes);
  qn_free(a, b->traffic, (launch->traffic_count + 1) * sizeof *b->traffic);
  qn_free(a, b->places, p->insns.count * sizeof *b->places);
}

static bool warp_init(ps_warp *w, ps_block *b, uint32_t index) {
  const qn_allocator *a = qn_allocator_default();
  const ps_launch *launch = b->launch;
  size_t local = (size_t)launch->program->local_bytes * PS_LANES;
  w->block = b;
  w->index = index;
  uint32_t threads = launch->thread_count - index * PS_LANES;
  w->populated = threads >= PS_LANES ? PS_FULL : (1u << threads) - 1;
  w->registers_block = qn_alloc_zeroed(a, launch->program->register_bytes + 32u);
  if (local > 0) {
    w->local = qn_alloc_zeroed(a, local);
    w->local_written = qn_alloc_zeroed(a, local);
    if (w->local == NULL || w->local_written == NULL) return false;
  }
  if (w->registers_block == NULL) return false;
  w->registers = (uint8_t *)qn_align_up((size_t)(uintptr_t)w->registers_block, 32);
  fill_constants(w);
  return true;
}

static bool block_init(ps_block *b, ps_launch *launch) {
  const qn_allocator *a = qn_allocator_default();
  const ps_program *p = launch->program;
  size_t granules = launch->shared_bytes / p->granule + 1;
  *b = (ps_block){.launch = launch, .program = p, .warp_count = launch->warp_count};
  b->traffic_count = launch->traffic_count;
  b->warps = qn_alloc_zeroed(a, launch->warp_count * sizeof *b->warps);
  b->shared = qn_alloc_zeroed(a, launch->shared_bytes + 1u);
  b->shadow_writer = qn_alloc_zeroed(a, granules * sizeof *b->shadow_writer);
  b->shadow_reader = qn_alloc_zeroed(a, granules * sizeof *b->shadow_reader);
  b->executed = qn_alloc_zeroed(a, p->insns.count * sizeof *b->executed);
  b->lanes = qn_alloc_zeroed(a, p->insns.count * sizeof *b->lanes);
  b->traffic = qn_alloc_zeroed(a, (launch->traffic_count + 1) * sizeof *b->traffic);
  b->places = qn_alloc_zeroed(a, p->insns.count * sizeof *b->places);
  if (b->warps == NULL || b->shared == NULL || b->shadow_writer == NULL || b->shadow_reader == NULL ||
      b->executed == NULL || b->lanes == NULL || b->traffic == NULL || b->places == NULL) {
    return false;
  }
  for (uint32_t k = 0; k < launch->warp_count; k++) {
    if (!warp_init(&b->warps[k], b, k)) return false;
  }
  return true;
}

// ---- one block ----

static void block_begin(ps_block *b, uint64_t order) {
  ps_launch *launch = b->launch;
  const uint32_t *grid = launch->config->grid;
  uint64_t number = launch->block_order != NULL ? launch->block_order[order] : order;
  b->order = order;
  b->id[0] = (uint32_t)(number % grid[0]);
  b->id[1] = (uint32_t)(number / grid[0] % grid[1]);
  b->id[2] = (uint32_t)(number / grid[0] / grid[1]);
  b->alive_threads = launch->thread_count;
  b->steps = 0;
  b->random = launch->options->seed * 0x9e3779b97f4a7c15ull + number * 2 + 1;
  memset(b->barriers, 0, sizeof b->barriers);
  memset(b->shared, 0xcd, launch->shared_bytes);
  ps_shared_begin(b);
  for (uint32_t k = 0; k < b->warp_count; k++) {
    ps_warp_begin(&b->warps[k]);
    for (int x = 0; x < 3; x++) fill_row(&b->warps[k], b->program->specials[PS_SPECIAL_CTAID_X + x], 4, b->id[x]);
  }
}

// Nothing can move: says why. Lanes that wait apart from others of their warp are the likeliest cause.
static void report_stuck(ps_block *b) {
  const ps_insn *program = b->program->insns.items;
  const ps_warp *culprit = NULL;
  const ps_group *at = NULL;
  for (uint32_t k = 0; k < b->warp_count; k++) {
    ps_warp *w = &b->warps[k];
    for (uint32_t g = 0; g < w->group_count; g++) {
      bool apart = w->groups[g].state == PS_GROUP_ARRIVING || w->groups[g].state == PS_GROUP_SYNC;
      if (at == NULL || (apart && at->state == PS_GROUP_BARRIER)) {
        culprit = w;
        at = &w->groups[g];
      }
    }
  }
  if (at == NULL) return;
  const ps_insn *i = &program[at->pc];
  int lane = __builtin_ctz(at->mask);
  if (at->state == PS_GROUP_BARRIER) {
    const ps_barrier *bar = &b->barriers[at->waits_for];
    ps_fault_at((ps_warp *)culprit, i, lane, CUDA_ERROR_LAUNCH_FAILED,
                "deadlock: %u of %u threads are at barrier %u, and no other can come", bar->arrived,
                bar->expected > 0 ? bar->expected : b->alive_threads, at->waits_for);
    return;
  }
  uint32_t elsewhere = culprit->alive & ~at->mask, other_line = 0;
  for (uint32_t g = 0; g < culprit->group_count; g++) {
    if (&culprit->groups[g] != at) other_line = (uint32_t)program[culprit->groups[g].pc].line;
  }
  ps_fault_at((ps_warp *)culprit, i, lane, CUDA_ERROR_LAUNCH_FAILED,
              at->state == PS_GROUP_ARRIVING
                  ? "divergent barrier: lanes 0x%08x of the warp are here, lanes 0x%08x wait elsewhere (line %u)"
                  : "deadlock: lanes 0x%08x wait here for others of their warp, lanes 0x%08x are elsewhere (line %u)",
              at->mask, elsewhere, other_line);
}

static bool run_turn(ps_block *b, const uint32_t *order) {
  bool progress = false;
  const ps_options *o = b->launch->options;
  for (uint32_t k = 0; k < b->warp_count && b->fault.code == 0; k++) {
    ps_warp *w = &b->warps[order[k]];
    if (w->done) continue;
    uint64_t turn = o->warp_order == PS_ORDER_SHUFFLE ? 1 + next_random(&b->random) % SHUFFLED_TURN : TURN;
    if (ps_warp_run(w, turn)) progress = true;
  }
  return progress;
}

static void run_block(ps_block *b, uint64_t number) {
  const ps_options *o = b->launch->options;
  uint32_t order[PS_MAX_WARPS];
  block_begin(b, number);
  for (uint32_t k = 0; k < b->warp_count; k++) order[k] = o->warp_order == PS_ORDER_REVERSE ? b->warp_count - 1 - k : k;
  while (b->alive_threads > 0 && b->fault.code == 0) {
    if (o->warp_order == PS_ORDER_SHUFFLE) shuffle(order, b->warp_count, &b->random);
    bool progress = run_turn(b, order);
    if (b->fault.code != 0) break;
    if (ps_barriers_release(b)) progress = true;
    if (!progress && b->alive_threads > 0) report_stuck(b);
    if (o->watchdog > 0 && b->steps > o->watchdog) {
      const ps_warp *w = &b->warps[0];
      for (uint32_t k = 0; k < b->warp_count; k++) {
        if (!b->warps[k].done) w = &b->warps[k];
      }
      ps_fault_at((ps_warp *)w, &b->program->insns.items[w->groups[0].pc], __builtin_ctz(w->groups[0].mask),
                  CUDA_ERROR_LAUNCH_TIMEOUT, "no end after %llu instructions of warps in one block",
                  (unsigned long long)o->watchdog);
    }
  }
}

// ---- the grid ----

static uint64_t arithmetic_of(const ps_insn *i, uint64_t lanes) {
  unsigned pair = ps_type_bytes((ps_type)i->type) == 4 && i->klass == PS_CLASS_half ? 2 : 1;
  switch (i->klass) {
    case PS_CLASS_dot: return lanes * 8;
    case PS_CLASS_float32:
    case PS_CLASS_float64:
    case PS_CLASS_half: return lanes * (i->src_count > 2 ? 2 : 1) * pair;
    default: return 0;
  }
}

// Adds what a thread counted to the launch's.
static void add_counters(ps_block *b, uint64_t blocks) {
  ps_launch *launch = b->launch;
  ps_counters *c = &b->counters;
  for (size_t k = 0; k < b->program->insns.count; k++) {
    const ps_insn *i = &b->program->insns.items[k];
    c->instructions += b->executed[k];
    c->lane_instructions += b->lanes[k];
    c->by_class[i->klass] += b->executed[k];
    c->arithmetic_operations += arithmetic_of(i, b->lanes[k]);
  }
  c->blocks = blocks;
  c->threads = blocks * launch->thread_count;
  uint64_t *to = (uint64_t *)launch->counters;
  const uint64_t *from = (const uint64_t *)c;
  pthread_mutex_lock(&launch->lock);
  for (size_t k = 0; k < sizeof *c / sizeof *to; k++) to[k] += from[k];
  uint64_t *traffic = (uint64_t *)launch->traffic;
  for (size_t k = 0; k < launch->traffic_count * (sizeof(ps_traffic) / sizeof(uint64_t)); k++) {
    traffic[k] += ((const uint64_t *)b->traffic)[k];
  }
  pthread_mutex_unlock(&launch->lock);
}

static void record_fault(ps_launch *launch, const ps_fault *fault) {
  pthread_mutex_lock(&launch->lock);
  if (launch->fault.code == 0 || fault->block_order < launch->fault.block_order) launch->fault = *fault;
  pthread_mutex_unlock(&launch->lock);
  uint64_t stop = atomic_load(&launch->stop_at);
  while (fault->block_order < stop && !atomic_compare_exchange_weak(&launch->stop_at, &stop, fault->block_order)) {
  }
}

static void *worker(void *argument) {
  ps_launch *launch = argument;
  ps_block block;
  if (!block_init(&block, launch)) {
    ps_fault fault = {.code = CUDA_ERROR_OUT_OF_MEMORY, .text = "no memory of the host for a block"};
    record_fault(launch, &fault);
    block_deinit(&block);
    return NULL;
  }
  uint64_t done = 0;
  for (;;) {
    uint64_t number = atomic_fetch_add(&launch->next_block, 1);
    if (number >= atomic_load(&launch->stop_at)) break;
    run_block(&block, number);
    done++;
    if (block.fault.code == 0) continue;
    record_fault(launch, &block.fault);
    break;
  }
  add_counters(&block, done);
  block_deinit(&block);
  return NULL;
}

static uint32_t *make_block_order(const ps_launch *launch) {
  if (launch->options->block_order == PS_ORDER_FORWARD) return NULL;
  uint32_t *order = qn_alloc(qn_allocator_default(), launch->block_count * sizeof *order);
  if (order == NULL) return NULL;  // forward then
  uint64_t n = launch->block_count, random = launch->options->seed * 2 + 1;
  for (uint64_t k = 0; k < n; k++) order[k] = (uint32_t)(n - 1 - k);
  if (launch->options->block_order == PS_ORDER_SHUFFLE) shuffle(order, n, &random);
  return order;
}

int ps_run(ps_launch *launch, ps_fault *out_fault) {
  enum { MAX_THREADS = 64 };
  struct timespec begin, end;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  const uint32_t *n = launch->config->block, *grid = launch->config->grid;
  launch->thread_count = n[0] * n[1] * n[2];
  launch->warp_count = (launch->thread_count + PS_LANES - 1) / PS_LANES;
  launch->block_count = (uint64_t)grid[0] * grid[1] * grid[2];
  atomic_init(&launch->next_block, 0);
  atomic_init(&launch->stop_at, launch->block_count);
  pthread_mutex_init(&launch->lock, NULL);
  uint32_t *order = make_block_order(launch);
  launch->block_order = order;
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  uint64_t threads = launch->options->threads > 0 ? launch->options->threads : cores > 0 ? (uint64_t)cores : 1;
  if (threads > launch->block_count) threads = launch->block_count;
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  pthread_t handles[MAX_THREADS];
  uint64_t started = 0;
  for (; started + 1 < threads; started++) {
    if (pthread_create(&handles[started], NULL, worker, launch) != 0) break;
  }
  worker(launch);
  for (uint64_t k = 0; k < started; k++) pthread_join(handles[k], NULL);
  pthread_mutex_destroy(&launch->lock);
  qn_free(qn_allocator_default(), order, launch->block_count * sizeof *order);
  clock_gettime(CLOCK_MONOTONIC, &end);
  launch->counters->launches++;
  launch->counters->launch_ns += (uint64_t)((end.tv_sec - begin.tv_sec) * 1000000000ll + (end.tv_nsec - begin.tv_nsec));
  *out_fault = launch->fault;
  return launch->fault.code;
}
