// tile: cuts loops into tiles as the schedule says and carries the inner loops to the leaves.
//
//   t (tokens)    by m_tiles: the first takes what it can, the next what is left, the last (1) the rest one by one
//                 with m_block > 1 so many of the largest tiles come first, together: a loop m over them goes around what
//                 they do with a block of weights, behind what is made of the block alone (passes/loop_hold.c)
//   n (panels)    by n_tile, which must divide their number: neighbours, or with n_apart one of each n_tile-th part of
//                 all panels; then n_block of these tiles are walked for each tile of tokens, which stays in the
//                 nearest cache meanwhile, as the panels of the block do in the next one
//   i (elements)  by lanes, the remainder by smaller powers of two; a symbolic extent stays as it is
//   l (lanes)     becomes a vector loop when lanes > 1; an odd extent is cut into powers of two
//   g (lines)     is marked for unrolling when k_unroll
//
// requires: a kernel as lowering made it: these loops in DATA order (g in any), not marked.
// keeps: the order of every reduction, and so the bits of every result.
// breaks: one loop a name; loops in front of each other may do parts of one range. Leaves UNROLL and VECTOR marks for
// the next two passes; the VECTOR ones stand around single stores (passes/loop_sink.c).
#include "passes/loop_util.h"

// One part of a loop's range: `trips` tiles of `width` iterations from `base` on.
typedef struct part {
  const qn_lexpr *base, *trips;
  int64_t width;
  int64_t inner;  // > 1: in inner tiles of so many, which divides the width; the tiles are a loop of their own
  qn_lblock body;
} part;

// How the parts of a loop are written.
typedef struct cut {
  part parts[QN_SCHEDULE_MAX_TILES + 1];
  size_t count;
  qn_lmark mark;           // of the inner loops
  const char *inner_name;  // base name of the inner loops' variable
  bool apart;              // a tile's iterations are as far from each other as there are tiles
  const qn_schedule *schedule;  // where tiles take turns at blocks; else NULL
} cut;

// Cuts lo..hi by widths[0], what is left by widths[1], and so on; parts known to be empty are left out.
static void cut_range(qn_lbuild *b, const qn_lstmt *loop, const int *widths, size_t width_count, cut *c) {
  const qn_lexpr *base = loop->u.loop.lo;
  const qn_lexpr *left = qn_lop2(b, QN_LX_MAX, qn_lop2(b, QN_LX_SUB, loop->u.loop.hi, base), qn_lint(b, 0));
  for (size_t i = 0; i < width_count; i++) {
    const qn_lexpr *width = qn_lint(b, widths[i]), *trips = qn_lop2(b, QN_LX_DIV, left, width);
    int64_t known = 0;
    if (b->failed) return;
    if (qn_lexpr_is_int(trips, &known) && known <= 0) continue;
    c->parts[c->count++] = (part){.base = base, .trips = trips, .width = widths[i]};
    base = qn_lop2(b, QN_LX_ADD, base, qn_lop2(b, QN_LX_MUL, trips, width));
    left = qn_lop2(b, QN_LX_MOD, left, width);
  }
}

// Appends the part's loops to `out`: an outer one over the tiles (unless there is just one) and an inner one.
static void write_part(qn_lbuild *b, const cut *c, part *p, const qn_lstmt *loop, qn_lblock *out) {
  const qn_lvar *old = loop->u.loop.var;
  const qn_lexpr *at = p->base, *step = qn_lint(b, 1);
  int64_t trips = 0;
  bool single = qn_lexpr_is_int(p->trips, &trips) && trips == 1;
  if (p->width == 1) {  // always the last part
    qn_lvar *var = qn_lvar_new(b, old->name);
    qn_lstmt *plain = qn_lfor(b, out, var, p->base, loop->u.loop.hi, QN_LO_DATA);
    qn_lblock_replace(b, &p->body, old, qn_lref(b, var));
    plain->u.loop.body = p->body;
    return;
  }
  if (!single) {
    qn_lvar *var = qn_lvar_new(b, old->name);
    qn_lstmt *outer = qn_lfor(b, out, var, qn_lint(b, 0), p->trips, QN_LO_DATA);
    at = qn_lop2(b, QN_LX_ADD, at, qn_lop2(b, QN_LX_MUL, qn_lref(b, var), qn_lint(b, c->apart ? 1 : p->width)));
    if (c->apart) step = p->trips;
    out = &outer->u.loop.body;
  }
  int64_t width = p->width;
  if (p->inner > 0) {
    qn_lvar *tiles = qn_lvar_new(b, "m");
    out = &qn_lfor(b, out, tiles, qn_lint(b, 0), qn_lint(b, width / p->inner), QN_LO_DATA)->u.loop.body;
    at = qn_lop2(b, QN_LX_ADD, at, qn_lop2(b, QN_LX_MUL, qn_lref(b, tiles), qn_lint(b, p->inner)));
    width = p->inner;
  }
  qn_lvar *var = qn_lvar_new(b, c->inner_name);
  qn_lstmt *inner = qn_lfor(b, out, var, qn_lint(b, 0), qn_lint(b, width), QN_LO_DATA);
  inner->u.loop.mark = c->mark;
  qn_lblock_replace(b, &p->body, old, qn_lop2(b, QN_LX_ADD, at, qn_lop2(b, QN_LX_MUL, qn_lref(b, var), step)));
  inner->u.loop.body = p->body;
}

// Replaces the loop by the loops of its parts. The first part gets the body itself, the others copies. A loop that is
// one tile as it stands is marked only.
static void write_cut(qn_lbuild *b, cut *c, qn_lblock *block, qn_lstmt *loop) {
  int64_t lo = 0, hi = 0;
  if (b->failed || c->count == 0 || (c->count == 1 && c->parts[0].width == 1)) return;
  if (qn_loop_const_bounds(loop, &lo, &hi) && lo == 0 && hi == c->parts[0].width && c->parts[0].inner == 0) {
    loop->u.loop.mark = c->mark;
    return;
  }
  for (size_t i = 1; i < c->count; i++) {
    if (!qn_lblock_copy(b, &loop->u.loop.body, &c->parts[i].body)) return;
  }
  qn_lblock out = {0};
  if (c->schedule) qn_loop_hold(b, c->schedule, &loop->u.loop.body);
  for (size_t i = 0; i < c->count && !b->failed; i++) {
    if (i == 0) c->parts[i].body = loop->u.loop.body;
    write_part(b, c, &c->parts[i], loop, &out);
  }
  if (b->failed) return;
  qn_lblock_splice(&out, block, loop);
  qn_lblock_remove(block, loop);
}

static bool is_token_loop(const qn_lstmt *s) { return qn_loop_is(s, "t") && s->u.loop.order == QN_LO_DATA; }

static bool is_var(const qn_lexpr *e, const void *var) { return e->op == QN_LX_VAR && e->u.var == var; }

// Are loops over tokens all that the block holds, after what does not depend on `panel` (which tokens there are)?
static bool holds_token_loops(const qn_lblock *block, const qn_lvar *panel) {
  const qn_lstmt *s = block->first;
  while (s && !is_token_loop(s) && !qn_lstmt_any(s, is_var, panel)) s = s->next;
  if (!s) return false;
  while (s && is_token_loop(s)) s = s->next;
  return !s;
}

// Puts a loop lo..hi between each loop over tokens and its body, in which base + the new variable replaces `old`.
static void loop_within(qn_lbuild *b, qn_lblock *tokens, const qn_lvar *old, const qn_lexpr *base, const qn_lexpr *hi,
                        qn_lmark mark) {
  for (qn_lstmt *s = tokens->first; s && !b->failed; s = s->next) {
    if (!is_token_loop(s)) continue;
    qn_lblock out = {0};
    qn_lvar *var = qn_lvar_new(b, "n");
    qn_lstmt *walk = qn_lfor(b, &out, var, qn_lint(b, 0), hi, QN_LO_DATA);
    qn_lblock_replace(b, &s->u.loop.body, old, qn_lop2(b, QN_LX_ADD, base, qn_lref(b, var)));
    if (b->failed) return;
    walk->u.loop.mark = mark;
    walk->u.loop.body = s->u.loop.body;
    s->u.loop.body = out;
  }
}

// for n { for t { a } } becomes for n { for t { for n' { a } } }, where n counts blocks of `width` tiles of panels and
// n' the tiles of one; the unrolled loop over a tile's panels, where there is one, goes inside first.
static void block_panels(qn_lbuild *b, qn_lstmt *loop, int width) {
  qn_lblock *body = &loop->u.loop.body;
  qn_lstmt *tile = body->first;
  int64_t lo = 0, tiles = 0;
  if (!qn_loop_const_bounds(loop, &lo, &tiles) || lo != 0 || tiles < 2) return;
  if (qn_loop_is(tile, "n") && !tile->next && holds_token_loops(&tile->u.loop.body, tile->u.loop.var)) {
    loop_within(b, &tile->u.loop.body, tile->u.loop.var, qn_lint(b, 0), tile->u.loop.hi, tile->u.loop.mark);
    qn_lblock_splice(&tile->u.loop.body, body, tile);
    qn_lblock_remove(body, tile);
  }
  const qn_lvar *old = loop->u.loop.var;
  if (b->failed || !holds_token_loops(body, old)) return;
  qn_lvar *blocks = qn_lvar_new(b, "n");
  if (b->failed) return;
  loop->u.loop.var = blocks;
  qn_lfor_set_bounds(loop, qn_lint(b, 0), qn_lint(b, (tiles + width - 1) / width));
  const qn_lexpr *first = qn_lop2(b, QN_LX_MUL, qn_lref(b, blocks), qn_lint(b, width));
  const qn_lexpr *left = qn_lop2(b, QN_LX_SUB, qn_lint(b, tiles), first);
  loop_within(b, body, old, first, qn_lop2(b, QN_LX_MIN, left, qn_lint(b, width)), QN_LM_SERIAL);
}

static qn_status tile_panels(qn_loop_pass_context *context, qn_lblock *block, qn_lstmt *loop) {
  qn_lbuild *b = context->build;
  int64_t panels = 0;
  int n_tile = context->schedule->n_tile;
  if (n_tile == 1) return QN_OK;
  if (!qn_loop_const_trips(b, loop, &panels) && !b->failed) {
    return qn_fail(context->diag, QN_ERR_ARGUMENT, b->kernel->name,
                   "n_tile = %d: the number of panels of loop '%s' is not constant; only 1 fits", n_tile,
                   loop->u.loop.var->name);
  }
  if (panels % n_tile != 0) {
    return qn_fail(context->diag, QN_ERR_ARGUMENT, b->kernel->name,
                   "n_tile = %d does not divide the %lld panels of loop '%s'", n_tile, (long long)panels,
                   loop->u.loop.var->name);
  }
  cut c = {.mark = QN_LM_UNROLL, .inner_name = "n", .apart = context->schedule->n_apart != 0};
  cut_range(b, loop, &n_tile, 1, &c);
  write_cut(b, &c, block, loop);
  return QN_OK;
}

// Cuts a loop over tokens: by m_block of the largest tiles, the largest, and the others.
static void tile_tokens(qn_loop_pass_context *context, qn_lblock *block, qn_lstmt *loop) {
  const qn_schedule *s = context->schedule;
  int widths[QN_SCHEDULE_MAX_TILES + 1], count = 0;
  cut c = {.mark = QN_LM_UNROLL, .inner_name = "t"};
  if (s->m_block > 1) widths[count++] = s->m_block * s->m_tiles[0];
  for (int i = 0; i < s->m_tile_count; i++) widths[count++] = s->m_tiles[i];
  cut_range(context->build, loop, widths, (size_t)count, &c);
  if (s->m_block > 1 && c.count > 0 && c.parts[0].width == widths[0]) {
    c.parts[0].inner = s->m_tiles[0];
    c.schedule = s;
  }
  write_cut(context->build, &c, block, loop);
}

// Cuts a loop of constant extent into vector loops of `lanes` lanes and, for what is left, smaller powers of two.
static void tile_vector(qn_lbuild *b, qn_lblock *block, qn_lstmt *loop, int lanes) {
  int widths[8] = {0};
  size_t count = 0;
  int64_t trips = 0;
  if (!qn_loop_const_trips(b, loop, &trips)) return;
  for (int width = lanes; width >= 1; width /= 2) widths[count++] = width;
  cut c = {.mark = QN_LM_VECTOR, .inner_name = "l"};
  cut_range(b, loop, widths, count, &c);
  write_cut(b, &c, block, loop);
}

static qn_status tile_loop(qn_loop_pass_context *context, qn_lblock *block, qn_lstmt *loop) {
  enum { PANEL_LANES = 16 };
  qn_lbuild *b = context->build;
  const qn_schedule *schedule = context->schedule;
  bool data = loop->u.loop.order == QN_LO_DATA;
  int64_t lo = 0, hi = 0;
  if (loop->u.loop.mark != QN_LM_SERIAL) return QN_OK;
  if (data && qn_loop_is(loop, "t") && schedule->m_tiles[0] > 1) {
    tile_tokens(context, block, loop);
  } else if (data && qn_loop_is(loop, "n")) {
    qn_lstmt *before = loop->prev;
    QN_TRY(tile_panels(context, block, loop));
    qn_lstmt *panels = before ? before->next : block->first;
    if (schedule->n_block > 1 && !b->failed && panels->u.loop.mark == QN_LM_SERIAL) {
      block_panels(b, panels, schedule->n_block);
    }
    return QN_OK;
  } else if (data && qn_loop_is(loop, "i") && schedule->lanes > 1) {
    tile_vector(b, block, loop, schedule->lanes);
  } else if (data && qn_loop_is(loop, "l") && schedule->lanes > 1) {
    tile_vector(b, block, loop, PANEL_LANES);
  } else if (qn_loop_is(loop, "g") && schedule->k_unroll && qn_loop_const_bounds(loop, &lo, &hi)) {
    loop->u.loop.mark = QN_LM_UNROLL;
  }
  return QN_OK;
}

// Inner loops first, so that the copies of a body have theirs tiled already.
static qn_status tile_block(qn_loop_pass_context *context, qn_lblock *block) {
  for (qn_lstmt *s = block->first, *next; s && !context->build->failed; s = next) {
    next = s->next;
    if (s->kind != QN_LS_FOR) continue;
    QN_TRY(tile_block(context, &s->u.loop.body));
    QN_TRY(tile_loop(context, block, s));
  }
  return QN_OK;
}

// A loop whose place is at the leaves.
static bool is_leaf_loop(const qn_lstmt *s) {
  if (s->kind != QN_LS_FOR || s->u.loop.order != QN_LO_DATA) return false;
  if (s->u.loop.mark == QN_LM_UNROLL) return qn_loop_is(s, "t") || qn_loop_is(s, "n");
  return s->u.loop.mark == QN_LM_VECTOR;
}

// Is the loop around a single store or prefetch, other leaf loops between them, none to be unrolled in a vector loop?
static bool is_sunk(const qn_lstmt *s) {
  for (const qn_lstmt *inner = s->u.loop.body.first;; s = inner, inner = s->u.loop.body.first) {
    if (!inner || inner->next) return false;
    if (inner->kind == QN_LS_STORE || inner->kind == QN_LS_PREFETCH) return true;
    if (!is_leaf_loop(inner)) return false;
    if (s->u.loop.mark == QN_LM_VECTOR && inner->u.loop.mark == QN_LM_UNROLL) return false;
  }
}

// Outer loops first: they end up outside of the inner ones at the leaves, vector loops innermost.
static void sink_block(qn_lbuild *b, qn_lblock *block) {
  qn_lstmt *s = block->first;
  while (s && !b->failed) {
    if (is_leaf_loop(s) && !is_sunk(s)) {
      s = qn_loop_sink(b, block, s);
      continue;
    }
    if (s->kind == QN_LS_FOR) sink_block(b, &s->u.loop.body);
    s = s->next;
  }
}

static void carry_block(qn_lbuild *b, qn_lblock *block) {
  qn_lstmt *s = block->first;
  while (s && !b->failed) {
    if (qn_loop_is(s, "m")) {
      s = qn_loop_carry(b, block, s);
      continue;
    }
    if (s->kind == QN_LS_FOR) carry_block(b, &s->u.loop.body);
    s = s->next;
  }
}

qn_status qn_pass_tile(qn_loop_pass_context *context) {
  QN_TRY(tile_block(context, &context->build->kernel->body));
  sink_block(context->build, &context->build->kernel->body);
  if (context->schedule->m_block > 1) carry_block(context->build, &context->build->kernel->body);
  return qn_loop_pass_end(context, "tile");
}
