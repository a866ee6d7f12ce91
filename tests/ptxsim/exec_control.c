// The instructions that the scheduler acts on (branches, calls, barriers), and cp.async with its waits.
#include "tests/ptxsim/cuda_abi.h"
#include "tests/ptxsim/exec.h"
#include "tests/ptxsim/exec_mem.h"
#include "tests/ptxsim/form.h"
#include "tests/ptxsim/shared.h"

static void no_effect(ps_warp *w, const ps_insn *i) {
  (void)w;
  (void)i;
}
static ps_fn control(ps_form *f, ps_control c) {
  f->insn->control = (uint8_t)c;
  return no_effect;
}
ps_fn ps_select_bra(ps_form *f) { return control(f, PS_CONTROL_BRANCH); }
ps_fn ps_select_brx(ps_form *f) { return control(f, PS_CONTROL_BRANCH_TABLE); }
ps_fn ps_select_call(ps_form *f) { return control(f, PS_CONTROL_CALL); }
ps_fn ps_select_ret(ps_form *f) { return control(f, PS_CONTROL_RETURN); }
ps_fn ps_select_exit(ps_form *f) { return control(f, PS_CONTROL_EXIT); }

static void trap(ps_warp *w, const ps_insn *i) {
  ps_fault_at(w, i, __builtin_ctz(w->mask), CUDA_ERROR_LAUNCH_FAILED, "trap");
}
ps_fn ps_select_trap(ps_form *f) {
  (void)f;
  return trap;
}

// ---- barriers ----

// op: what bar.red makes of the predicates.
ps_fn ps_select_bar(ps_form *f) {
  ps_insn *i = f->insn;
  i->op = ps_has(f, PS_MOD_popc)  ? PS_BAR_POPC
          : ps_has(f, PS_MOD_and) ? PS_BAR_AND
          : ps_has(f, PS_MOD_or)  ? PS_BAR_OR
                                  : PS_BAR_PLAIN;
  if (ps_has(f, PS_MOD_arrive)) i->flags |= PS_FLAG_ARRIVE;
  if (i->op == PS_BAR_PLAIN && i->src_count > 1) i->flags |= PS_FLAG_COUNT;
  // bar is barrier.aligned.
  if (ps_has(f, PS_MOD_aligned) || !f->barrier_spelled_out) i->flags |= PS_FLAG_ALIGNED;
  return control(f, PS_CONTROL_BARRIER);
}

static void bar_warp(ps_warp *w, const ps_insn *i) {
  (void)i;
  ps_shared_sync_warp(w);
}
ps_fn ps_select_bar_warp(ps_form *f) {
  f->insn->control = PS_CONTROL_SYNC;
  f->insn->sync_arg = 0;
  return bar_warp;
}

static void fence(ps_warp *w, const ps_insn *i) {
  (void)w;
  (void)i;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
ps_fn ps_select_fence(ps_form *f) {
  (void)f;
  return fence;
}

// ---- cp.async: the source is read now, the destination poisoned, and the bytes land at the wait ----

static void cp_async(ps_warp *w, const ps_insn *i) {
  uint64_t to[PS_LANES], from[PS_LANES];
  ps_insn shape = *i;  // the offset belongs to one address each
  shape.offset = i->offset_first;
  ps_addresses(w, &shape, 0, to);
  shape.offset = i->offset;
  ps_addresses(w, &shape, 1, from);
  unsigned size = i->size;
  const uint32_t *given = i->src_count > 2 ? ps_src(w, i, 2) : NULL;
  uint32_t reads = w->mask;
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l) || given == NULL) continue;
    if (given[l] > size) {
      ps_fault_at(w, i, l, CUDA_ERROR_LAUNCH_FAILED, "cp.async of %u bytes from %u given", size, given[l]);
      return;
    }
    if (given[l] == 0) reads &= ~(1u << l);
  }
  uint8_t *host[PS_LANES];
  if (reads != 0 && !ps_global_lanes(w, i, reads, from, size, false, host)) return;
  for (int l = 0; l < PS_LANES; l++) {
    if (!PS_ACTIVE(w->mask, l)) continue;
    if (!ps_shared_poison(w, i, l, to[l], size)) return;
    ps_pending_copy copy = {.to = (uint32_t)to[l], .size = size, .lane = (uint8_t)l, .group = w->copy_group[l]};
    if (PS_ACTIVE(reads, l)) memcpy(copy.data, host[l], given != NULL ? given[l] : size);
    if (!qn_vec_push(qn_allocator_default(), &w->copies, copy)) {
      ps_fault_at(w, i, l, CUDA_ERROR_OUT_OF_MEMORY, "no memory for a cp.async");
      return;
    }
  }
  ps_shared_count(w, w->mask, to, size);
  w->block->counters.copies += (uint64_t)__builtin_popcount(w->mask);
}
ps_fn ps_select_cp_async(ps_form *f) {
  ps_insn *i = f->insn;
  uint32_t size = i->target;
  if (!(size == 16 || (ps_has(f, PS_MOD_ca) && (size == 4 || size == 8)))) return NULL;
  i->size = (uint8_t)size;
  i->space = PS_SPACE_SHARED;
  return cp_async;
}

static void cp_commit(ps_warp *w, const ps_insn *i) {
  (void)i;
  for (int l = 0; l < PS_LANES; l++) w->copy_group[l] += PS_ACTIVE(w->mask, l);
}
ps_fn ps_select_cp_commit(ps_form *f) {
  (void)f;
  return cp_commit;
}

// Groups up to the open one minus `keep` are done; wait_all also takes what was not committed.
static void land(ps_warp *w, uint32_t keep) {
  size_t kept = 0;
  bool all = keep == UINT32_MAX;
  for (size_t k = 0; k < w->copies.count; k++) {
    ps_pending_copy *c = &w->copies.items[k];
    uint32_t open = w->copy_group[c->lane];
    bool lands = PS_ACTIVE(w->mask, c->lane) && (all || (c->group < open && open - c->group > keep));
    if (!lands) {
      w->copies.items[kept++] = *c;
      continue;
    }
    ps_shared_land(w, c->lane, c->to, c->size, c->data);
  }
  w->copies.count = kept;
}
static void cp_wait(ps_warp *w, const ps_insn *i) { land(w, i->target); }
ps_fn ps_select_cp_wait(ps_form *f) {
  if (ps_has(f, PS_MOD_wait_all)) f->insn->target = UINT32_MAX;
  return cp_wait;
}
