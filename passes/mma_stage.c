// A block's tokens on their way to its warps: what a reduction reads of each token is copied into shared memory, a piece
// of the reduction after the other, so that memory is asked once a block and in whole sectors.
//
// A window is a stretch of a token's row that moves by so many bytes with each iteration of the reduction; windows are
// read off the loads' indices, so nothing here knows what a row holds. In shared memory a token's windows stand side by
// side, twice: while the warps work on a piece, the next one is on its way (cp.async). Rows there are an odd number of 16 bytes apart, so that the words of 8 tokens that a warp's lanes read at once (4
// of each, in a row) lie in 32 different banks, and so do those of every other one of 8 tokens.
#include "passes/map_mma.h"

enum {
  SECTOR_BYTES = 32,
  WORD = 4,
  ROW_WORDS = 4,
  COPY_BYTES = 16,
  SLOTS = 2,
  MAX_WINDOWS = 16,
  MIN_ROW_BYTES = 256,  // of a token in a piece: what keeps the warps busy from one barrier to the next
  MAX_ROW_BYTES = 1024
};

typedef struct window {
  const qn_lbuf *buf;
  int64_t pitch, step, lo, hi;  // bytes: from token to token, from iteration to iteration; of the first iteration
  int64_t at;                   // words, in a row of the shared buffer
  int64_t width;                // bytes that are copied at a time: 16, 8 or 4
} window;

typedef struct stage {
  qn_mma_mapper *m;
  const qn_lvar *var;  // of the reduction
  qn_lvar *within;     // of its piece
  int64_t trips;
  window windows[MAX_WINDOWS];
  int count;
  int64_t piece;  // iterations of one
  qn_lbuf *ring;
  const qn_lexpr *slot;  // its first word of the piece that is worked on
  int64_t row_words;
} stage;

// ---- windows ----------------------------------------------------------------------------------------------------

// The bytes that a load reads in the reduction's first iteration, as a window.
static bool window_of(const stage *g, const qn_lexpr *e, window *out) {
  qn_lbuild *b = g->m->b;
  const qn_lexpr *rest = NULL, *inner = NULL;
  if (e->op != QN_LX_LOAD || e->u.load.buf->kind != QN_LB_PARAM || e->type.lanes != 1) return false;
  if (e->u.load.buf->writable) return false;  // copies go on while others store
  int64_t size = (int64_t)qn_lmem_size(e->u.load.mem), pitch = 0, step = 0;
  if (!qn_lexpr_linear(b, e->operands[0], g->m->t, &pitch, &rest) || pitch <= 0) return false;
  if (!qn_lexpr_linear(b, rest, g->var, &step, &inner) || step <= 0) return false;
  qn_lrange range = qn_lexpr_range(inner);
  if (range.min < 0 || range.max > INT32_MAX || pitch > INT32_MAX) return false;
  *out = (window){.buf = e->u.load.buf, .pitch = pitch * size, .step = step * size};
  out->lo = range.min * size / WORD * WORD;
  out->hi = ((range.max + 1) * size + WORD - 1) / WORD * WORD;
  return out->pitch % WORD == 0 && out->step % WORD == 0;
}

static bool is_same(const window *x, const window *y) {
  return x->buf == y->buf && x->pitch == y->pitch && x->step == y->step && x->lo <= y->hi && y->lo <= x->hi;
}

// Finds the windows; true is never returned, so that every node is looked at.
static bool add_window(const qn_lexpr *e, const void *context) {
  stage *g = *(stage *const *)context;
  window found;
  if (!window_of(g, e, &found)) return false;
  for (int i = 0; i < g->count; i++) {
    window *w = &g->windows[i];
    if (!is_same(w, &found)) continue;
    if (found.lo < w->lo) w->lo = found.lo;
    if (found.hi > w->hi) w->hi = found.hi;
    return false;
  }
  if (g->count < MAX_WINDOWS) g->windows[g->count++] = found;
  return false;
}

// Iterations of the reduction that a piece has: as few as fill sectors of each window and a row, and a divisor of all.
static int64_t piece_of(const stage *g) {
  int64_t want = 1, row = 0;
  for (int i = 0; i < g->count; i++) {
    int64_t each = (SECTOR_BYTES + g->windows[i].step - 1) / g->windows[i].step;
    if (each > want) want = each;
    row += g->windows[i].hi - g->windows[i].lo;
  }
  if (want * row < MIN_ROW_BYTES) want = (MIN_ROW_BYTES + row - 1) / row;
  while (want > 1 && (g->trips % want != 0 || want * row > MAX_ROW_BYTES)) want--;
  return want;
}

// ---- copying ----------------------------------------------------------------------------------------------------

// The first word of a slot of the ring.
static const qn_lexpr *slot_of(const stage *g, const qn_lexpr *piece) {
  qn_lbuild *b = g->m->b;
  const qn_lexpr *slot = qn_lop2(b, QN_LX_MOD, piece, qn_lint(b, SLOTS));
  return qn_lop2(b, QN_LX_MUL, slot, qn_lint(b, g->row_words * qn_mma_block_tokens(&g->m->tile)));
}

// for i in 0..tokens * chunks lane { copy ring[slot + token * row + at + chunk] = buf[...] }; not once the pieces end.
// Eight lanes side by side have the same chunk of 8 tokens, which lie in different banks; the next eight have the next one,
// so that whole sectors are asked for at once.
static void copy_window(const stage *g, const window *w, const qn_lexpr *piece, const qn_lexpr *once, qn_lblock *to) {
  qn_mma_mapper *m = g->m;
  qn_lbuild *b = m->b;
  int64_t width = w->width / WORD, chunks = (w->hi - w->lo) / w->width;
  const qn_lexpr *count = qn_lop2(b, QN_LX_MUL, once, qn_lint(b, chunks * qn_mma_block_tokens(&m->tile)));
  qn_lvar *var = qn_lvar_new(b, "i");
  qn_lstmt *loop = qn_lfor(b, to, var, qn_lint(b, 0), count, QN_LO_DATA);
  if (b->failed) return;
  loop->u.loop.mark = QN_LM_LANE;
  const qn_lexpr *i = qn_lref(b, var), *eight = qn_lint(b, QN_MMA_COLUMNS), *tile = qn_lint(b, chunks * QN_MMA_COLUMNS);
  const qn_lexpr *token = qn_lop2(b, QN_LX_MUL, qn_lop2(b, QN_LX_DIV, i, tile), eight);
  token = qn_lop2(b, QN_LX_ADD, token, qn_lop2(b, QN_LX_MOD, i, eight));
  const qn_lexpr *chunk = qn_lop2(b, QN_LX_DIV, qn_lop2(b, QN_LX_MOD, i, tile), eight);
  const qn_lexpr *word = qn_lop2(b, QN_LX_MUL, chunk, qn_lint(b, width));
  const qn_lexpr *last = qn_lop2(b, QN_LX_SUB, m->tokens, qn_lint(b, 1));
  const qn_lexpr *row = qn_lop2(b, QN_LX_MIN, qn_lop2(b, QN_LX_ADD, m->first_token, token), last);
  const qn_lexpr *from = qn_lop2(b, QN_LX_MUL, row, qn_lint(b, w->pitch / WORD));
  from = qn_lop2(b, QN_LX_ADD, from, qn_lop2(b, QN_LX_MUL, piece, qn_lint(b, g->piece * w->step / WORD)));
  from = qn_lop2(b, QN_LX_ADD, from, qn_lop2(b, QN_LX_ADD, word, qn_lint(b, w->lo / WORD)));
  const qn_lexpr *into = qn_lop2(b, QN_LX_MUL, token, qn_lint(b, g->row_words));
  into = qn_lop2(b, QN_LX_ADD, into, qn_lop2(b, QN_LX_ADD, word, qn_lint(b, w->at)));
  into = qn_lop2(b, QN_LX_ADD, into, slot_of(g, piece));
  if (!b->failed) qn_lcopy(b, &loop->u.loop.body, g->ring, into, w->buf, from, QN_LM_I32, (int)width);
}

static void copy_piece(const stage *g, const qn_lexpr *piece, const qn_lexpr *once, qn_lblock *to) {
  for (int i = 0; i < g->count && !g->m->b->failed; i++) copy_window(g, &g->windows[i], piece, once, to);
  qn_lcommit(g->m->b, to);
}

// A load of what lies in a window becomes one of the shared buffer.
static const qn_lexpr *read_shared(qn_lbuild *b, const qn_lexpr *e, void *context) {
  const stage *g = context;
  window found;
  if (!window_of(g, e, &found)) return e;
  for (int i = 0; i < g->count; i++) {
    const window *w = &g->windows[i];
    if (!is_same(w, &found) || found.lo < w->lo || found.hi > w->hi) continue;
    int64_t size = (int64_t)qn_lmem_size(e->u.load.mem), pitch = 0;
    const qn_lexpr *rest = NULL;
    if (!qn_lexpr_linear(b, e->operands[0], g->m->t, &pitch, &rest)) return e;
    rest = qn_lexpr_replace(b, rest, g->var, qn_lref(b, g->within));
    const qn_lexpr *row = qn_lop2(b, QN_LX_MUL, qn_lref(b, g->m->token), qn_lint(b, g->row_words));
    row = qn_lop2(b, QN_LX_MUL, qn_lop2(b, QN_LX_ADD, row, g->slot), qn_lint(b, WORD / size));
    const qn_lexpr *at = qn_lop2(b, QN_LX_ADD, rest, qn_lint(b, (w->at * WORD - w->lo) / size));
    return qn_lload(b, g->ring, e->u.load.mem, qn_lop2(b, QN_LX_ADD, row, at), 1);
  }
  return e;
}

// As many bytes as all places of the window are multiples of.
static int64_t width_of(const window *w, int64_t piece) {
  int64_t all = w->pitch | w->lo | w->hi | (piece * w->step), width = COPY_BYTES;
  while (all % width != 0) width /= 2;
  return width;
}

static void place_windows(stage *g) {
  for (int i = 0; i < g->count; i++) {
    window *w = &g->windows[i];
    w->hi += (g->piece - 1) * w->step;
    w->width = width_of(w, g->piece);
    w->at = g->row_words;
    g->row_words += ((w->hi - w->lo) / WORD + ROW_WORDS - 1) / ROW_WORDS * ROW_WORDS;
  }
  if (g->row_words / ROW_WORDS % 2 == 0) g->row_words += ROW_WORDS;
}

qn_lblock *qn_mma_stage(qn_mma_mapper *m, qn_lstmt *loop, qn_lblock *to) {
  qn_lbuild *b = m->b;
  int64_t lo = -1, hi = 0;
  if (!qn_loop_const_bounds(loop, &lo, &hi) || lo != 0 || hi < 1) return NULL;
  stage g = {.m = m, .var = loop->u.loop.var, .trips = hi};
  stage *context = &g;
  qn_lblock_any(&loop->u.loop.body, add_window, &context);
  if (b->failed || g.count == 0) return NULL;
  g.piece = piece_of(&g);
  place_windows(&g);
  const qn_lexpr *one = qn_lint(b, 1);
  g.ring = qn_llocal(b, to, "rows", QN_LM_I32, SLOTS * g.row_words * qn_mma_block_tokens(&m->tile));
  if (b->failed) return NULL;
  g.ring->shared = true;
  copy_piece(&g, qn_lint(b, 0), one, to);
  qn_lvar *pieces = qn_lvar_new(b, loop->u.loop.var->name);
  qn_lstmt *outer = qn_lfor(b, to, pieces, qn_lint(b, 0), qn_lint(b, hi / g.piece), QN_LO_REDUCE);
  qn_lblock *body = &outer->u.loop.body;
  qn_lwait(b, body, 0);
  g.within = qn_lvar_new(b, loop->u.loop.var->name);
  if (b->failed) return NULL;
  const qn_lexpr *piece = qn_lref(b, pieces), *next = qn_lop2(b, QN_LX_ADD, piece, one);
  copy_piece(&g, next, qn_lop2(b, QN_LX_MIN, qn_lop2(b, QN_LX_SUB, qn_lint(b, hi / g.piece), next), one), body);
  g.slot = slot_of(&g, piece);
  const qn_lvar *old = loop->u.loop.var;
  loop->u.loop.var = g.within;
  qn_lfor_set_bounds(loop, qn_lint(b, 0), qn_lint(b, g.piece));
  qn_lblock_map(b, &loop->u.loop.body, read_shared, &g);
  const qn_lexpr *start = qn_lop2(b, QN_LX_MUL, piece, qn_lint(b, g.piece));
  qn_lblock_replace(b, &loop->u.loop.body, old, qn_lop2(b, QN_LX_ADD, start, qn_lref(b, g.within)));
  return body;
}
