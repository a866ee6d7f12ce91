// How a warp runs: its lanes are groups, each at one place. The deepest call and then the lowest place goes first, so
// that lanes which parted meet again; instructions of several lanes together wait until those are there.
#include <stdarg.h>
#include <stdio.h>

#include "tests/ptxsim/cuda_abi.h"
#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/shared.h"

enum { SLICE = 4096 };  // instructions of a group after which another one that could run gets its turn

void ps_fault_at(ps_warp *w, const ps_insn *i, int lane, int code, const char *format, ...) {
  ps_block *b = w->block;
  if (b->fault.code != 0) return;
  char text[400];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  uint32_t t = w->index * PS_LANES + (uint32_t)lane;
  const uint32_t *n = b->launch->config->block;
  b->fault.code = code;
  b->fault.block_order = b->order;
  snprintf(b->fault.text, sizeof b->fault.text, "kernel '%s', PTX line %d, block (%u,%u,%u), thread (%u,%u,%u): %s",
           b->program->name, i->line, b->id[0], b->id[1], b->id[2], t % n[0], t / n[0] % n[1], t / n[0] / n[1], text);
}

// ---- groups ----

static bool same_place(const ps_group *a, const ps_group *b) {
  if (a->pc != b->pc || a->depth != b->depth) return false;
  for (uint32_t d = 0; d < a->depth; d++) {
    if (a->stack[d].pc != b->stack[d].pc) return false;
  }
  return true;
}

static void remove_group(ps_warp *w, uint32_t g) {
  w->groups[g] = w->groups[w->group_count - 1];
  w->group_count--;
}

// Joins running groups that are at one place.
static void merge(ps_warp *w) {
  for (uint32_t a = 0; a < w->group_count; a++) {
    if (w->groups[a].state != PS_GROUP_RUN) continue;
    for (uint32_t b = a + 1; b < w->group_count;) {
      if (w->groups[b].state == PS_GROUP_RUN && same_place(&w->groups[a], &w->groups[b])) {
        w->groups[a].mask |= w->groups[b].mask;
        remove_group(w, b);
      } else {
        b++;
      }
    }
  }
}

// Some lanes of a group leave it as a group of their own. There are at most 32 lanes, so there is room.
static ps_group *split(ps_warp *w, ps_group *from, uint32_t mask) {
  ps_group *made = &w->groups[w->group_count++];
  *made = *from;
  made->mask = mask;
  from->mask &= ~mask;
  return made;
}

// Lanes that wait at the same place for the same kind of thing.
static uint32_t waiting_at(const ps_warp *w, const ps_group *g, ps_group_state state) {
  uint32_t mask = 0;
  for (uint32_t k = 0; k < w->group_count; k++) {
    const ps_group *other = &w->groups[k];
    if (other->state == state && same_place(g, other)) mask |= other->mask;
  }
  return mask;
}

static void absorb(ps_warp *w, ps_group *g, ps_group_state state) {
  uint32_t self = (uint32_t)(g - w->groups);
  for (uint32_t k = 0; k < w->group_count;) {
    ps_group *other = &w->groups[k];
    if (k == self || other->state != state || !same_place(&w->groups[self], other)) {
      k++;
      continue;
    }
    w->groups[self].mask |= other->mask;
    if (self == w->group_count - 1) self = k;  // the last one moves into the gap
    remove_group(w, k);
  }
  w->current = self;
}

// ---- waiting ----

static uint32_t lanes_needed(const ps_warp *w, const ps_insn *i, uint32_t mask) {
  if (i->sync_arg == 255) return PS_FULL;
  const uint32_t *masks = ps_src(w, i, i->sync_arg);
  uint32_t need = 0;
  for (int l = 0; l < PS_LANES; l++) need |= PS_ACTIVE(mask, l) ? masks[l] : 0;
  return need & w->alive;
}

static void arrive(ps_warp *w, ps_group *g, const ps_insn *i, uint32_t mask) {
  int red = i->op != PS_BAR_PLAIN ? 1 : 0, lane = __builtin_ctz(mask);
  uint32_t id = ((const uint32_t *)ps_src(w, i, 0))[lane];
  if (id >= PS_BARRIERS) {
    ps_fault_at(w, i, lane, CUDA_ERROR_ILLEGAL_INSTRUCTION, "barrier %u, of which there are %d", id, PS_BARRIERS);
    return;
  }
  ps_barrier *b = &w->block->barriers[id];
  if (b->arrived == 0) *b = (ps_barrier){.result_all = 1};
  b->arrived += (uint32_t)__builtin_popcount(mask);
  if ((i->flags & PS_FLAG_COUNT) || red != 0) {
    b->expected = red != 0 && i->src_count < 3 ? 0 : ((const uint32_t *)ps_src(w, i, 1))[lane];
  }
  if (red != 0) {
    uint32_t p = ps_predicate(w, i, i->src_count - 1);
    b->result_count += (uint32_t)__builtin_popcount(p & mask);
    if ((p & mask) != mask) b->result_all = 0;
    if ((p & mask) != 0) b->result_any = 1;
  }
  w->block->counters.block_barriers++;
  if (i->flags & PS_FLAG_ARRIVE) return;
  g->state = PS_GROUP_BARRIER;
  g->waits_for = id;
}

static void finish_barrier(ps_warp *w, ps_group *g, const ps_barrier *b) {
  const ps_insn *i = &w->block->program->insns.items[g->pc];
  w->mask = g->mask;
  if (i->op == PS_BAR_POPC) {
    uint32_t *d = ps_dst(w, i, 0);
    PS_ASSIGN(uint32_t, d, b->result_count);
  } else if (i->op != PS_BAR_PLAIN) {
    ps_set_predicate(w, i->dst[0], (i->op == PS_BAR_AND ? b->result_all : b->result_any) ? PS_FULL : 0);
  }
  if (i->op != PS_BAR_PLAIN) *ps_written(w, i->dst[0]) |= g->mask;
  g->pc++;
  g->state = PS_GROUP_RUN;
}

bool ps_barriers_release(ps_block *block) {
  bool released = false;
  for (uint32_t id = 0; id < PS_BARRIERS; id++) {
    ps_barrier *b = &block->barriers[id];
    uint32_t wanted = b->expected > 0 ? b->expected : block->alive_threads;
    if (b->arrived == 0 || b->arrived < wanted) continue;
    for (uint32_t k = 0; k < block->warp_count; k++) {
      ps_warp *w = &block->warps[k];
      for (uint32_t g = 0; g < w->group_count; g++) {
        if (w->groups[g].state == PS_GROUP_BARRIER && w->groups[g].waits_for == id) {
          finish_barrier(w, &w->groups[g], b);
        }
      }
      merge(w);
    }
    *b = (ps_barrier){0};
    ps_shared_sync_block(block);
    released = true;
  }
  return released;
}

// ---- control ----

static void leave(ps_warp *w, ps_group *g, uint32_t mask) {
  w->alive &= ~mask;
  w->block->alive_threads -= (uint32_t)__builtin_popcount(mask);
  g->mask &= ~mask;
}

static void copy_params(ps_warp *w, uint32_t mask, const ps_call_copy *copies, uint32_t count) {
  size_t bytes = w->block->program->local_bytes;
  for (uint32_t k = 0; k < count; k++) {
    for (int l = 0; l < PS_LANES; l++) {
      if (!PS_ACTIVE(mask, l)) continue;
      uint8_t *local = w->local + (size_t)l * bytes, *marks = w->local_written + (size_t)l * bytes;
      memcpy(local + copies[k].to, local + copies[k].from, copies[k].size);
      memcpy(marks + copies[k].to, marks + copies[k].from, copies[k].size);
    }
  }
}

static void branch_table(ps_warp *w, ps_group *g, const ps_insn *i, uint32_t mask) {
  const uint32_t *index = ps_src(w, i, 0);
  uint32_t left = mask;
  while (left != 0) {
    int lane = __builtin_ctz(left);
    uint32_t same = 0, at = index[lane];
    if (at >= i->table_count) {
      ps_fault_at(w, i, lane, CUDA_ERROR_ILLEGAL_INSTRUCTION, "brx to label %u of %u", at, i->table_count);
      return;
    }
    for (int l = 0; l < PS_LANES; l++) {
      if (PS_ACTIVE(left, l) && index[l] == at) same |= 1u << l;
    }
    left &= ~same;
    if (same == g->mask) {
      g->pc = i->table[at];
    } else {
      split(w, g, same)->pc = i->table[at];
    }
  }
}

// Executes a control instruction for the lanes `mask` of the group; the others go on behind it. Where no lane is left
// in the group it is removed by the caller.
static void run_control(ps_warp *w, ps_group *g, const ps_insn *i, uint32_t mask) {
  uint32_t rest = g->mask & ~mask;
  if (mask == 0) {
    g->pc++;
    return;
  }
  if (i->control == PS_CONTROL_EXIT || (i->control == PS_CONTROL_RETURN && g->depth == 0)) {
    leave(w, g, mask);
    g->pc++;
    return;
  }
  if (rest != 0) split(w, g, rest)->pc++;
  switch ((ps_control)i->control) {
    case PS_CONTROL_BRANCH: g->pc = i->target; break;
    case PS_CONTROL_BRANCH_TABLE: branch_table(w, g, i, mask); break;
    case PS_CONTROL_CALL:
      if (g->depth == PS_MAX_DEPTH) {
        ps_fault_at(w, i, __builtin_ctz(mask), CUDA_ERROR_LAUNCH_FAILED, "calls nested deeper than %d", PS_MAX_DEPTH);
        return;
      }
      copy_params(w, mask, i->copies, i->copy_count);
      g->stack[g->depth].pc = g->pc + 1;
      g->stack[g->depth++].call = i;
      g->pc = i->callee->first;
      break;
    case PS_CONTROL_RETURN: {
      const ps_insn *call = g->stack[--g->depth].call;
      g->pc = g->stack[g->depth].pc;
      copy_params(w, mask, call->copies + call->copy_count, call->table_count);
      break;
    }
    case PS_CONTROL_BARRIER:
      g->state = PS_GROUP_ARRIVING;
      if (i->flags & PS_FLAG_ALIGNED) {
        if (waiting_at(w, g, PS_GROUP_ARRIVING) != w->alive) break;
        absorb(w, g, PS_GROUP_ARRIVING);
        g = &w->groups[w->current];
      }
      arrive(w, g, i, g->mask);
      if (i->flags & PS_FLAG_ARRIVE) {
        g->state = PS_GROUP_RUN;
        g->pc++;
      }
      break;
    default: break;
  }
}

// Lanes at an instruction of several together: true when all that it needs are there, now in the current group.
static bool gather_sync(ps_warp *w, ps_group *g, const ps_insn *i, uint32_t mask) {
  uint32_t rest = g->mask & ~mask;
  if (rest != 0) split(w, g, rest)->pc++;
  g->state = PS_GROUP_SYNC;
  uint32_t there = waiting_at(w, g, PS_GROUP_SYNC), need = lanes_needed(w, i, there);
  if (i->sync_arg == 255 && w->alive != PS_FULL) {
    ps_fault_at(w, i, __builtin_ctz(mask), CUDA_ERROR_ILLEGAL_INSTRUCTION,
                "an instruction of all 32 lanes, of which those in 0x%08x have ended or never were", ~w->alive);
    return false;
  }
  if ((need & ~there) != 0) return false;
  absorb(w, g, PS_GROUP_SYNC);
  w->groups[w->current].state = PS_GROUP_RUN;
  return true;
}

// ---- the loop ----

static bool sources_written(ps_warp *w, const ps_insn *i, uint32_t mask) {
  uint32_t missing = 0;
  for (int k = 0; k < i->src_count; k++) missing |= mask & ~*ps_written(w, i->src[k]);
  if (missing == 0) return true;
  int lane = __builtin_ctz(missing), k = 0;
  while (PS_ACTIVE(*ps_written(w, i->src[k]), lane)) k++;
  ps_fault_at(w, i, lane, CUDA_ERROR_LAUNCH_FAILED, "operand %d is a register that was never written", k + 1);
  return false;
}

static uint32_t guarded(ps_warp *w, const ps_insn *i, uint32_t mask) {
  uint32_t p = *(const uint32_t *)ps_row(w, i->guard), missing = mask & ~*ps_written(w, i->guard);
  if (missing != 0) {
    ps_fault_at(w, i, __builtin_ctz(missing), CUDA_ERROR_LAUNCH_FAILED,
                "the guard is a predicate that was never written");
    return 0;
  }
  return mask & (i->guard_negated ? ~p : p);
}

static void execute(ps_warp *w, const ps_insn *i, uint32_t mask) {
  if (!(i->flags & PS_FLAG_RAW_SOURCE) && !sources_written(w, i, mask)) return;
  w->mask = mask;
  i->fn(w, i);
  if (i->flags & PS_FLAG_OWN_INIT) return;
  for (int k = 0; k < i->dst_count; k++) *ps_written(w, i->dst[k]) |= mask;
}

// The nearest place ahead where another group waits to be joined.
static uint32_t next_meeting(const ps_warp *w, const ps_group *g) {
  uint32_t limit = UINT32_MAX;
  for (uint32_t k = 0; k < w->group_count; k++) {
    const ps_group *other = &w->groups[k];
    if (other != g && other->state == PS_GROUP_RUN && other->pc > g->pc && other->pc < limit) limit = other->pc;
  }
  return limit;
}

// Runs the current group until it waits, ends, parts, or meets another; how many instructions that were.
static uint64_t run_group(ps_warp *w, uint64_t budget) {
  ps_block *b = w->block;
  const ps_insn *program = b->program->insns.items;
  ps_group *g = &w->groups[w->current];
  const bool alone = w->group_count == 1;
  const uint32_t limit = alone ? UINT32_MAX : next_meeting(w, g);
  uint64_t n = 0;
  while (n < budget && g->pc < limit) {
    const ps_insn *i = &program[g->pc];
    uint32_t mask = i->guard == PS_NO_ROW ? g->mask : guarded(w, i, g->mask);
    n++;
    b->executed[g->pc]++;
    b->lanes[g->pc] += (uint64_t)__builtin_popcount(mask);
    if (i->control == PS_CONTROL_NONE) {
      if (mask != 0) execute(w, i, mask);
      g->pc++;
    } else if (i->control == PS_CONTROL_SYNC) {
      if (mask == 0) {
        g->pc++;
      } else {
        if (!gather_sync(w, g, i, mask)) break;
        g = &w->groups[w->current];
        execute(w, i, g->mask);
        g->pc++;
        if (w->group_count > 1) break;
      }
    } else {
      if (mask != 0 && !sources_written(w, i, mask)) break;
      run_control(w, g, i, mask);
      g = &w->groups[w->current];
      if (w->group_count > 1 || g->state != PS_GROUP_RUN || g->mask == 0) break;
    }
    if (b->fault.code != 0) break;
  }
  b->steps += n;
  if (g->mask == 0) remove_group(w, (uint32_t)(g - w->groups));
  return n;
}

// The group to run next. After a slice that ended without a meeting the one that is behind gets its turn, so that lanes
// which wait in a loop for others of their warp do not wait for ever.
static bool pick(ps_warp *w, bool fair) {
  bool found = false;
  for (uint32_t k = 0; k < w->group_count; k++) {
    const ps_group *g = &w->groups[k], *best = &w->groups[w->current];
    if (g->state != PS_GROUP_RUN) continue;
    bool first = g->depth > best->depth || (g->depth == best->depth && g->pc < best->pc);
    if (!found || (fair ? !first : first)) w->current = k;
    found = true;
  }
  return found;
}

// Groups whose lanes may have become complete because others ended.
static bool recheck(ps_warp *w) {
  const ps_insn *program = w->block->program->insns.items;
  for (uint32_t k = 0; k < w->group_count; k++) {
    ps_group *g = &w->groups[k];
    const ps_insn *i = &program[g->pc];
    bool ready = false;
    if (g->state == PS_GROUP_SYNC) {
      uint32_t there = waiting_at(w, g, PS_GROUP_SYNC);
      ready = (lanes_needed(w, i, there) & ~there) == 0 || (i->sync_arg == 255 && w->alive != PS_FULL);
    } else if (g->state == PS_GROUP_ARRIVING) {
      ready = waiting_at(w, g, PS_GROUP_ARRIVING) == w->alive;
    }
    if (!ready) continue;
    g->state = PS_GROUP_RUN;
    return true;
  }
  return false;
}

bool ps_warp_run(ps_warp *w, uint64_t budget) {
  bool progress = false, fair = false;
  while (budget > 0 && w->alive != 0 && !ps_faulted(w)) {
    if (!pick(w, fair)) {
      if (!recheck(w)) break;
      continue;
    }
    uint64_t slice = w->group_count > 1 && budget > SLICE ? SLICE : budget;
    uint64_t n = run_group(w, slice);
    fair = n == slice;
    budget -= n < budget ? n : budget;
    progress = progress || n > 0;
    if (w->group_count > 1) merge(w);
  }
  if (w->alive == 0) w->done = true;
  return progress;
}

void ps_warp_begin(ps_warp *w) {
  const ps_program *p = w->block->program;
  for (size_t k = 0; k < p->rows.count; k++) *ps_written(w, p->rows.items[k]) = 0;
  for (size_t k = 0; k < p->constants.count; k++) *ps_written(w, p->constants.items[k].row) = PS_FULL;
  for (int k = 0; k < PS_SPECIAL_COUNT; k++) {
    if (p->specials[k] != PS_NO_ROW) *ps_written(w, p->specials[k]) = PS_FULL;
  }
  if (p->local_bytes > 0) memset(w->local_written, 0, (size_t)p->local_bytes * PS_LANES);
  w->alive = w->populated;
  w->group_count = 1;
  w->current = 0;
  w->groups[0].pc = (uint32_t)p->first;
  w->groups[0].mask = w->populated;
  w->groups[0].state = PS_GROUP_RUN;
  w->groups[0].depth = 0;
  w->last_sync = 0;
  w->copies.count = 0;
  memset(w->copy_group, 0, sizeof w->copy_group);
  w->done = false;
}
