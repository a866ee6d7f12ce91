// Operands of a block on their way to its warps: what a reduction reads of each token and of each panel of weights is
// copied into shared memory, a piece of the reduction after the other, so that memory is asked once a block, in whole
// sectors and 16 bytes a lane.
//
// A window is a stretch of a token's row, or of a panel, that moves by so many bytes with each iteration of the reduction;
// windows are read off the loads' indices, so nothing here knows what a row or a block holds. In shared memory the windows
// of a token stand side by side, and those of a panel, twice: while the warps work on a piece, the next one is on its way
// (cp.async). Rows of tokens are an odd number of 16 bytes apart there, so that the words of 8 tokens that a warp's lanes
// read at once (4 of each, in a row) lie in 32 different banks, and so do those of every other one of 8 tokens. A panel is
// a warp's own; its lines need no room between them, as lanes take their halves in different orders (map_mma.c).
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

// What a window is of: rows of shared memory are those of a block's tokens, or of its panels.
typedef enum row_kind { OF_TOKENS, OF_PANELS, ROW_KINDS } row_kind;

typedef struct window {
  row_kind kind;
  const qn_lbuf *buf;
  int64_t pitch, step, lo, hi;  // bytes: from row to row, from iteration to iteration; of the first iteration
  int64_t end;                  // where the window of all iterations of the first piece ends
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
  qn_lbuf *ring[ROW_KINDS];
  const qn_lexpr *slot[ROW_KINDS];  // its first word of the piece that is worked on
  int64_t row_words[ROW_KINDS];
} stage;

static int64_t rows_of(const stage *g, int kind) {
  return kind == OF_TOKENS ? qn_mma_block_tokens(&g->m->tile) : qn_mma_block_panels(&g->m->tile);
}

// ---- windows ----------------------------------------------------------------------------------------------------

// What an index is beside what it has of a row: of a token, or of a panel of weights.
static bool row_of(const stage *g, const qn_lexpr *e, window *out, const qn_lexpr **out_rest) {
  const qn_lbuf *buf = e->u.load.buf;
  out->buf = buf;
  out->kind = OF_TOKENS;
  if (qn_lexpr_linear(g->m->b, e->operands[0], g->m->t, &out->pitch, out_rest) && out->pitch > 0) return true;
  out->kind = OF_PANELS;
  return buf->streamed && qn_lexpr_linear(g->m->b, e->operands[0], g->m->n, &out->pitch, out_rest) && out->pitch > 0;
}

// The bytes that a load reads in the reduction's first iteration, as a window.
static bool window_of(const stage *g, const qn_lexpr *e, window *out) {
  const qn_lexpr *rest = NULL, *inner = NULL;
  *out = (window){0};
  if (e->op != QN_LX_LOAD || e->u.load.buf->kind != QN_LB_PARAM || e->type.lanes != 1) return false;
  if (e->u.load.buf->writable) return false;  // copies go on while others store
  int64_t size = (int64_t)qn_lmem_size(e->u.load.mem);
  if (!row_of(g, e, out, &rest) || !qn_lexpr_linear(g->m->b, rest, g->var, &out->step, &inner)) return false;
  qn_lrange range = qn_lexpr_range(inner);
  if (out->step <= 0 || range.min < 0 || range.max > INT32_MAX || out->pitch > INT32_MAX || out->step > INT32_MAX)
    return false;
  int64_t unit = out->kind == OF_TOKENS ? WORD : COPY_BYTES;
  out->pitch *= size;
  out->step *= size;
  out->lo = range.min * size / unit * unit;
  out->hi = ((range.max + 1) * size + unit - 1) / unit * unit;
  return out->pitch % unit == 0 && out->step % unit == 0;
}

static bool is_same(const window *x, const window *y) {
  return x->kind == y->kind && x->buf == y->buf && x->pitch == y->pitch && x->step == y->step && x->lo <= y->hi &&
         y->lo <= x->hi;
}

// Takes up the window and what it touches of those that are known, as one.
static void add_to_windows(stage *g, window found) {
  for (int i = 0; i < g->count;) {
    const window w = g->windows[i];
    if (!is_same(&w, &found)) {
      i++;
      continue;
    }
    if (w.lo < found.lo) found.lo = w.lo;
    if (w.hi > found.hi) found.hi = w.hi;
    g->count--;
    for (int j = i; j < g->count; j++) g->windows[j] = g->windows[j + 1];
    i = 0;  // it may touch others now
  }
  if (g->count < MAX_WINDOWS) g->windows[g->count++] = found;
}

// Finds the windows; true is never returned, so that every node is looked at.
static bool add_window(const qn_lexpr *e, const void *context) {
  stage *g = *(stage *const *)context;
  window found;
  if (window_of(g, e, &found)) add_to_windows(g, found);
  return false;
}

// As many bytes as all places of the window are multiples of.
static int64_t width_of(const window *w, int64_t piece) {
  int64_t all = w->pitch | w->lo | w->end | (piece * w->step), width = COPY_BYTES;
  while (all % width != 0) width /= 2;
  return width;
}

// Words of a row that the window takes.
static int64_t words_of(const window *w) { return ((w->end - w->lo) / WORD + ROW_WORDS - 1) / ROW_WORDS * ROW_WORDS; }

// Where the windows stand when a piece has so many iterations. Gives the bytes of the rings.
static int64_t place_windows(stage *g, int64_t piece) {
  int64_t bytes = 0;
  g->piece = piece;
  for (int kind = 0; kind < ROW_KINDS; kind++) g->row_words[kind] = 0;
  for (int i = 0; i < g->count; i++) {
    window *w = &g->windows[i];
    w->end = w->hi + (piece - 1) * w->step;
    w->width = width_of(w, piece);
    w->at = g->row_words[w->kind];
    g->row_words[w->kind] += words_of(w);
  }
  int64_t *tokens = &g->row_words[OF_TOKENS];
  if (*tokens > 0 && *tokens / ROW_WORDS % 2 == 0) *tokens += ROW_WORDS;
  for (int kind = 0; kind < ROW_KINDS; kind++) bytes += SLOTS * rows_of(g, kind) * g->row_words[kind] * WORD;
  return bytes;
}

// Of how many iterations of the reduction pieces are: as few as fill sectors of each window and a row of tokens, and a
// divisor of all; fewer where that takes more shared memory than there is. Windows are placed then; false when there is no
// room for any.
static bool choose_piece(stage *g) {
  int64_t want = 1, row = 0;
  for (int i = 0; i < g->count; i++) {
    int64_t each = (SECTOR_BYTES + g->windows[i].step - 1) / g->windows[i].step;
    if (each > want) want = each;
    if (g->windows[i].kind == OF_TOKENS) row += g->windows[i].hi - g->windows[i].lo;
  }
  if (row > 0 && want * row < MIN_ROW_BYTES) want = (MIN_ROW_BYTES + row - 1) / row;
  for (; want > 1; want--)
    if (g->trips % want == 0 && want * row <= MAX_ROW_BYTES && place_windows(g, want) <= g->m->stage_bytes) return true;
  return place_windows(g, 1) <= g->m->stage_bytes;
}

// The windows of a reduction of constant extent; false when there is nothing to stage.
static bool find_windows(stage *g, const qn_lstmt *loop) {
  int64_t lo = -1;
  stage *context = g;
  if (!qn_loop_const_bounds(loop, &lo, &g->trips) || lo != 0 || g->trips < 1) return false;
  g->var = loop->u.loop.var;
  qn_lblock_any(&loop->u.loop.body, add_window, &context);
  return !g->m->b->failed && g->count > 0;
}

int64_t qn_mma_stage_least(qn_mma_mapper *m, const qn_lstmt *loop) {
  stage g = {.m = m};
  return find_windows(&g, loop) ? place_windows(&g, 1) : 0;
}

// ---- copying ----------------------------------------------------------------------------------------------------

// The first word of a slot of the ring.
static const qn_lexpr *slot_of(const stage *g, int kind, const qn_lexpr *piece) {
  qn_lbuild *b = g->m->b;
  const qn_lexpr *slot = qn_lop2(b, QN_LX_MOD, piece, qn_lint(b, SLOTS));
  return qn_lop2(b, QN_LX_MUL, slot, qn_lint(b, g->row_words[kind] * rows_of(g, kind)));
}

// Which chunk of which row copy `i` of the window is. A panel's follow each other. Of tokens, eight lanes side by side have
// the same chunk of 8, which lie in different banks; the next eight have the next one, so that whole sectors are asked
// for at once.
static void place_copy(const stage *g, const window *w, const qn_lexpr *i, const qn_lexpr **out_row,
                       const qn_lexpr **out_chunk) {
  qn_lbuild *b = g->m->b;
  int64_t together = w->kind == OF_TOKENS ? QN_MMA_COLUMNS : 1, chunks = (w->end - w->lo) / w->width;
  const qn_lexpr *each = qn_lint(b, together), *tile = qn_lint(b, chunks * together);
  const qn_lexpr *first = qn_lop2(b, QN_LX_MUL, qn_lop2(b, QN_LX_DIV, i, tile), each);
  *out_row = qn_lop2(b, QN_LX_ADD, first, qn_lop2(b, QN_LX_MOD, i, each));
  *out_chunk = qn_lop2(b, QN_LX_DIV, qn_lop2(b, QN_LX_MOD, i, tile), each);
}

// The word of a slot where the row has the window: a token's stand side by side; of panels the same windows do, so that
// copies of one panel and the next are one row of banks.
static const qn_lexpr *place_of(const stage *g, const window *w, const qn_lexpr *row) {
  qn_lbuild *b = g->m->b;
  bool tokens = w->kind == OF_TOKENS;
  int64_t pitch = tokens ? g->row_words[w->kind] : words_of(w), at = tokens ? w->at : w->at * rows_of(g, w->kind);
  return qn_lop2(b, QN_LX_ADD, qn_lop2(b, QN_LX_MUL, row, qn_lint(b, pitch)), qn_lint(b, at));
}

// The row of the matrix, of those that are there.
static const qn_lexpr *row_in_matrix(const stage *g, const window *w, const qn_lexpr *row) {
  const qn_mma_mapper *m = g->m;
  qn_lbuild *b = m->b;
  if (w->kind == OF_TOKENS)
    return qn_lop2(b, QN_LX_MIN, qn_lop2(b, QN_LX_ADD, m->first_token, row),
                   qn_lop2(b, QN_LX_SUB, m->tokens, qn_lint(b, 1)));
  const qn_lexpr *panel = qn_lop2(b, QN_LX_ADD, m->first_panel, row);
  bool whole = m->panels % qn_mma_block_panels(&m->tile) == 0;
  return whole ? panel : qn_lop2(b, QN_LX_MIN, panel, qn_lint(b, m->panels - 1));
}

// for i in 0..rows * chunks lane { copy ring[slot + row * words + at + chunk] = buf[...] }; not once the pieces end.
static void copy_window(const stage *g, const window *w, const qn_lexpr *piece, const qn_lexpr *once, qn_lblock *to) {
  qn_lbuild *b = g->m->b;
  int64_t width = w->width / WORD, chunks = (w->end - w->lo) / w->width;
  const qn_lexpr *count = qn_lop2(b, QN_LX_MUL, once, qn_lint(b, chunks * rows_of(g, w->kind)));
  const qn_lexpr *row = NULL, *chunk = NULL;
  qn_lvar *var = qn_lvar_new(b, "i");
  qn_lstmt *loop = qn_lfor(b, to, var, qn_lint(b, 0), count, QN_LO_DATA);
  if (b->failed) return;
  loop->u.loop.mark = QN_LM_LANE;
  place_copy(g, w, qn_lref(b, var), &row, &chunk);
  const qn_lexpr *word = qn_lop2(b, QN_LX_MUL, chunk, qn_lint(b, width));
  const qn_lexpr *from = qn_lop2(b, QN_LX_MUL, row_in_matrix(g, w, row), qn_lint(b, w->pitch / WORD));
  from = qn_lop2(b, QN_LX_ADD, from, qn_lop2(b, QN_LX_MUL, piece, qn_lint(b, g->piece * w->step / WORD)));
  from = qn_lop2(b, QN_LX_ADD, from, qn_lop2(b, QN_LX_ADD, word, qn_lint(b, w->lo / WORD)));
  const qn_lexpr *into = qn_lop2(b, QN_LX_ADD, place_of(g, w, row), word);
  into = qn_lop2(b, QN_LX_ADD, into, slot_of(g, w->kind, piece));
  if (!b->failed) qn_lcopy(b, &loop->u.loop.body, g->ring[w->kind], into, w->buf, from, QN_LM_I32, (int)width);
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
    int64_t size = (int64_t)qn_lmem_size(e->u.load.mem);
    const qn_lexpr *rest = NULL;
    if (!row_of(g, e, &found, &rest)) return e;
    rest = qn_lexpr_replace(b, rest, g->var, qn_lref(b, g->within));
    const qn_lvar *var = w->kind == OF_TOKENS ? g->m->token : g->m->panel;
    const qn_lexpr *row = qn_lop2(b, QN_LX_ADD, place_of(g, w, qn_lref(b, var)), g->slot[w->kind]);
    row = qn_lop2(b, QN_LX_MUL, row, qn_lint(b, WORD / size));
    const qn_lexpr *at = qn_lop2(b, QN_LX_SUB, rest, qn_lint(b, w->lo / size));
    return qn_lload(b, g->ring[w->kind], e->u.load.mem, qn_lop2(b, QN_LX_ADD, row, at), 1);
  }
  return e;
}

static void declare_rings(stage *g, qn_lblock *to) {
  static const char *const names[ROW_KINDS] = {"rows", "panels"};
  for (int kind = 0; kind < ROW_KINDS && !g->m->b->failed; kind++) {
    if (g->row_words[kind] == 0) continue;
    g->ring[kind] = qn_llocal(g->m->b, to, names[kind], QN_LM_I32, SLOTS * g->row_words[kind] * rows_of(g, kind));
    if (g->ring[kind]) g->ring[kind]->shared = true;
  }
}

qn_lblock *qn_mma_stage(qn_mma_mapper *m, qn_lstmt *loop, qn_lblock *to) {
  qn_lbuild *b = m->b;
  stage g = {.m = m};
  if (!find_windows(&g, loop) || !choose_piece(&g)) return NULL;
  const qn_lexpr *one = qn_lint(b, 1), *pieces = qn_lint(b, g.trips / g.piece);
  declare_rings(&g, to);
  if (b->failed) return NULL;
  copy_piece(&g, qn_lint(b, 0), one, to);
  qn_lvar *var = qn_lvar_new(b, loop->u.loop.var->name);
  qn_lstmt *outer = qn_lfor(b, to, var, qn_lint(b, 0), pieces, QN_LO_REDUCE);
  qn_lblock *body = &outer->u.loop.body;
  qn_lwait(b, body, 0);
  g.within = qn_lvar_new(b, loop->u.loop.var->name);
  if (b->failed) return NULL;
  const qn_lexpr *piece = qn_lref(b, var), *next = qn_lop2(b, QN_LX_ADD, piece, one);
  copy_piece(&g, next, qn_lop2(b, QN_LX_MIN, qn_lop2(b, QN_LX_SUB, pieces, next), one), body);
  for (int kind = 0; kind < ROW_KINDS; kind++) g.slot[kind] = slot_of(&g, kind, piece);
  loop->u.loop.var = g.within;
  qn_lfor_set_bounds(loop, qn_lint(b, 0), qn_lint(b, g.piece));
  qn_lblock_map(b, &loop->u.loop.body, read_shared, &g);
  const qn_lexpr *start = qn_lop2(b, QN_LX_MUL, piece, qn_lint(b, g.piece));
  qn_lblock_replace(b, &loop->u.loop.body, g.var, qn_lop2(b, QN_LX_ADD, start, qn_lref(b, g.within)));
  return body;
}
