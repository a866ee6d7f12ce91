// plan_memory: offsets of all arena buffers, and the steps that must wait for the other threads.
// Requires: lifetimes (lower), links (link_steps). Keeps: two buffers alive at the same step never share a byte. Linked
// steps are done at the same time, so buffers alive in one of them live through all.
//
// Offsets: largest first, each at the lowest place where it meets no buffer alive with it (greedy by size, Pisarchyk
// and Lee 2020). Barriers: a step waits when it touches bytes that a step since the last barrier wrote, or writes bytes
// that one read; bytes, not buffers, since buffers share them.
#include <stdlib.h>

#include "passes/pass.h"

#define ALIGNMENT 64u
#define ARENA_BYTES_MAX ((uint64_t)1 << 48)  // what the artifact's reader takes

static bool alive_together(const qn_pbuf *a, const qn_pbuf *b) {
  return a->first_step <= b->last_step && b->first_step <= a->last_step;
}

// Buffers that linked steps use live from the first of these to the last.
static void stretch_lifetimes(qn_program *program) {
  for (size_t first = 0, end; first < program->steps.count; first = end + 1) {
    end = qn_program_phase_end(program, first);
    for (size_t i = 0; first < end && i < program->buffers.count; i++) {
      qn_pbuf *p = &program->buffers.items[i];
      if (p->kind != QN_PB_ARENA || p->first_step > end || p->last_step < first) continue;
      if (p->first_step > first) p->first_step = (uint32_t)first;
      if (p->last_step < end) p->last_step = (uint32_t)end;
    }
  }
}

// Rows of a prologue's results, one prologue's beside each other.
static void place_own(qn_program *program) {
  program->own_bytes = 0;
  for (size_t i = 0; i < program->steps.count; i++) {
    const qn_pstep *step = &program->steps.items[i];
    const qn_lkernel *kernel = program->kernels.items[step->kernel].plain;
    uint64_t at = 0;
    for (size_t j = 0; step->link == QN_LINK_PROLOGUE && j < kernel->param_count; j++) {
      if (!kernel->params[j]->writable) continue;
      qn_pbuf *p = &program->buffers.items[step->buffers[j]];
      p->own_bytes = (uint64_t)p->row_pitch * (p->type.dtype == QN_DTYPE_A8 ? 1 : sizeof(float)) +
                     QN_TILE_ROWS * sizeof(float);  // lanes past the end, as in the arena
      p->own_offset = at;
      at += qn_align_up(p->own_bytes, ALIGNMENT);
    }
    if (program->own_bytes < at) program->own_bytes = at;
  }
}

static int by_size(const void *x, const void *y) {
  const qn_pbuf *a = *(qn_pbuf *const *)x, *b = *(qn_pbuf *const *)y;
  if (a->bytes != b->bytes) return a->bytes < b->bytes ? 1 : -1;
  return a < b ? -1 : a > b;  // pointers into one array: the earlier buffer first
}

// The lowest offset for `p` beside the first `count` buffers, which have theirs.
static uint64_t lowest_fit(qn_pbuf *const *placed, size_t count, const qn_pbuf *p) {
  uint64_t offset = 0;
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t i = 0; i < count; i++) {
      const qn_pbuf *other = placed[i];
      if (!alive_together(p, other)) continue;
      if (offset < other->offset + other->bytes && other->offset < offset + p->bytes) {
        offset = qn_align_up(other->offset + other->bytes, ALIGNMENT);
        moved = true;
      }
    }
  }
  return offset;
}

static qn_status place_buffers(qn_pass_context *context) {
  qn_program *program = context->program;
  qn_pbuf **order = QN_ARENA_ARRAY(context->arena, program->buffers.count, qn_pbuf *);
  if (!order) return qn_fail_nomem(context->diag, program->name, "the memory plan");
  size_t count = 0;
  for (size_t i = 0; i < program->buffers.count; i++) {
    if (program->buffers.items[i].kind == QN_PB_ARENA) order[count++] = &program->buffers.items[i];
  }
  qsort(order, count, sizeof(qn_pbuf *), by_size);
  program->arena_bytes = 0;
  for (size_t i = 0; i < count; i++) {
    order[i]->offset = lowest_fit(order, i, order[i]);
    uint64_t end = qn_align_up(order[i]->offset + order[i]->bytes, ALIGNMENT);
    if (end > program->arena_bytes) program->arena_bytes = end;
  }
  if (program->arena_bytes > ARENA_BYTES_MAX) {
    return qn_fail(context->diag, QN_ERR_LIMIT, program->name,
                   "got an arena of %llu bytes, want at most 2^48; compile for a smaller chunk or context",
                   (unsigned long long)program->arena_bytes);
  }
  return QN_OK;
}

// Do two buffers of steps share bytes? Weights and inputs are never written.
static bool share_bytes(const qn_program *program, uint32_t x, uint32_t y) {
  const qn_pbuf *a = &program->buffers.items[x], *b = &program->buffers.items[y];
  if (a->kind != b->kind) return false;
  if (a->kind == QN_PB_CACHE) return x == y;
  return a->kind == QN_PB_ARENA && a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

static bool conflict(const qn_program *program, const qn_pstep *before, const qn_pstep *after) {
  const qn_lkernel *first = program->kernels.items[before->kernel].plain;
  const qn_lkernel *second = program->kernels.items[after->kernel].plain;
  for (size_t i = 0; i < first->param_count; i++) {
    for (size_t j = 0; j < second->param_count; j++) {
      bool writes = first->params[i]->writable || second->params[j]->writable;
      if (writes && share_bytes(program, before->buffers[i], after->buffers[j])) return true;
    }
  }
  return false;
}

// Does step `after` conflict with one of the steps from `first` to before `end`?
static bool conflicts(const qn_program *program, size_t first, size_t end, size_t after) {
  for (size_t i = first; i < end; i++) {
    if (conflict(program, &program->steps.items[i], &program->steps.items[after])) return true;
  }
  return false;
}

qn_status qn_pass_plan_memory(qn_pass_context *context) {
  qn_program *program = context->program;
  stretch_lifetimes(program);
  place_own(program);
  QN_TRY(place_buffers(context));
  size_t last_barrier = 0;  // before the first of linked steps, where all of them wait
  for (size_t first = 0, end; first < program->steps.count; first = end + 1) {
    qn_pstep *steps = program->steps.items;
    end = qn_program_phase_end(program, first);
    steps[first].barrier = false;
    for (size_t i = first; i <= end && !steps[first].barrier; i++) {
      steps[first].barrier = conflicts(program, last_barrier, first, i);
    }
    if (steps[first].barrier) last_barrier = first;
    for (size_t i = first + 1; i <= end; i++) steps[i].barrier = conflicts(program, last_barrier, i, i);
  }
  return QN_OK;
}
