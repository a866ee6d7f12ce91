// copy_tiles: what lanes bring from memory to memory that they share, word by word and without a change, goes there in
// asynchronous copies, which are under way together and while the lanes do other things.
//
//   for l lane { tile[l:4] = x[at + l:4] }    becomes    for l lane { copy tile[l:4] = x[at + l:4] }; commit
//   ... tile[i] ...                                      wait; ... tile[i] ...
//
// requires: lane loops and shared locals (map_lanes); before share_lanes, which puts the barriers.
// keeps: every result.
// breaks: nothing. It applies to vectors of 4, 8 or 16 bytes at multiples of as many, from parameters that the kernel
// does not store to, in kernels that copy nothing otherwise.
#include "passes/gpu_pass.h"
#include "passes/loop_util.h"
#include "runtime/base/vec.h"

// Copies into a tile that have begun and are not waited for.
typedef struct tiles {
  qn_lbuild *b;
  QN_VEC(const qn_lbuf *) pending;  // arena; a group each, the oldest first
} tiles;

static bool has_copies(const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_COPY || (s->kind == QN_LS_FOR && has_copies(&s->u.loop.body))) return true;
  }
  return false;
}

static bool is_copy(const qn_lstmt *s) {
  const qn_lexpr *value = s->u.store.value;
  if (s->kind != QN_LS_STORE || value->op != QN_LX_LOAD || s->u.store.lanes != value->type.lanes) return false;
  const qn_lbuf *from = value->u.load.buf;
  int64_t bytes = s->u.store.lanes * (int64_t)qn_lmem_size(s->u.store.mem);
  bool placed = s->u.store.index->type.lanes == 1 && value->operands[0]->type.lanes == 1 &&
                qn_lexpr_is_multiple(s->u.store.index, s->u.store.lanes) &&
                qn_lexpr_is_multiple(value->operands[0], s->u.store.lanes);
  return s->u.store.lanes > 1 && (bytes == 4 || bytes == 8 || bytes == 16) && placed && s->u.store.buf->shared &&
         s->u.store.mem == value->u.load.mem && from->kind == QN_LB_PARAM && !from->writable;
}

// The store that is all the loop does, when it may be a copy; NULL when it may not.
static qn_lstmt *copy_in(const qn_lstmt *loop) {
  qn_lstmt *s = loop->u.loop.body.first;
  if (!s || s->next) return NULL;
  return s->kind == QN_LS_FOR ? copy_in(s) : is_copy(s) ? s : NULL;
}

static void make_copy(qn_lstmt *s) {
  const qn_lexpr *value = s->u.store.value;
  __typeof__(s->u.copy) copy = {.to = s->u.store.buf,
                                .from = value->u.load.buf,
                                .mem = s->u.store.mem,
                                .to_index = s->u.store.index,
                                .from_index = value->operands[0],
                                .lanes = s->u.store.lanes};
  s->kind = QN_LS_COPY;
  s->u.copy = copy;
}

static bool loads_from(const qn_lexpr *e, const void *context) {
  return e->op == QN_LX_LOAD && e->u.load.buf == context;
}

static bool stores_to(const qn_lstmt *s, const qn_lbuf *tile) {
  if (s->kind == QN_LS_STORE) return s->u.store.buf == tile;
  for (const qn_lstmt *inner = s->kind == QN_LS_FOR ? s->u.loop.body.first : NULL; inner; inner = inner->next) {
    if (stores_to(inner, tile)) return true;
  }
  return false;
}

static bool touches(const qn_lstmt *s, const qn_lbuf *tile) {
  if (stores_to(s, tile)) return true;
  qn_lstmt copy = *s;
  copy.next = copy.prev = NULL;
  qn_lblock alone = {&copy, &copy};
  return qn_lblock_any(&alone, loads_from, tile);
}

// Waits before the statement (NULL: at the block's end) for all groups up to number `last`.
static void wait_for(tiles *t, qn_lblock *block, qn_lstmt *before, size_t last) {
  qn_lblock alone = {0};
  size_t left = t->pending.count - last - 1;
  qn_lwait(t->b, &alone, (int)left);
  qn_lblock_splice(&alone, block, before);
  for (size_t i = 0; i < left; i++) t->pending.items[i] = t->pending.items[last + 1 + i];
  t->pending.count = left;
}

// Waits for what the statement reads or stores to.
static void wait_before(tiles *t, qn_lblock *block, qn_lstmt *s) {
  for (size_t i = t->pending.count; i > 0; i--) {
    if (!touches(s, t->pending.items[i - 1])) continue;
    wait_for(t, block, s, i - 1);
    return;
  }
}

static void walk_block(qn_lbuild *b, qn_lblock *block) {
  tiles t = {.b = b};
  for (qn_lstmt *s = block->first, *next; s && !b->failed; s = next) {
    next = s->next;
    wait_before(&t, block, s);
    if (s->kind != QN_LS_FOR) continue;
    qn_lstmt *store = s->u.loop.mark == QN_LM_LANE ? copy_in(s) : NULL;
    if (!store || t.pending.count == QN_LWAIT_MAX) {
      if (s->u.loop.mark != QN_LM_LANE) walk_block(b, &s->u.loop.body);
      continue;
    }
    const qn_lbuf *tile = store->u.store.buf;
    qn_lblock alone = {0};
    make_copy(store);
    qn_lcommit(b, &alone);
    qn_lblock_splice(&alone, block, next);
    if (!qn_vec_push_arena(b->arena, &t.pending, tile)) b->failed = true;
  }
  if (t.pending.count > 0 && !b->failed) wait_for(&t, block, NULL, t.pending.count - 1);
}

qn_status qn_pass_copy_tiles(qn_loop_pass_context *context) {
  qn_lblock *body = &context->build->kernel->body;
  if (!has_copies(body)) walk_block(context->build, body);
  return qn_loop_pass_end(context, "copy_tiles");
}
