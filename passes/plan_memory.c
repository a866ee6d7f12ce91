// plan_memory: offsets of all arena buffers, and the steps that must wait for the other threads.
// Requires: lifetimes (lower). Keeps: two buffers alive at the same step never share a byte.
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

qn_status qn_pass_plan_memory(qn_pass_context *context) {
  QN_TRY(place_buffers(context));
  qn_program *program = context->program;
  size_t last_barrier = 0;
  for (size_t i = 0; i < program->steps.count; i++) {
    qn_pstep *step = &program->steps.items[i];
    step->barrier = false;
    for (size_t j = last_barrier; j < i && !step->barrier; j++) {
      step->barrier = conflict(program, &program->steps.items[j], step);
    }
    if (step->barrier) last_barrier = i;
  }
  return QN_OK;
}
