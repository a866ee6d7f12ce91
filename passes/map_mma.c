// map_mma: products of many tokens become tiles of mma, which blocks of several warps do together.
//
//   the parallel loop   a block of panels for a block of tokens an iteration: m_tiles' first tokens (a multiple of 8) and
//                       n_block warps of n_tile panels each, or fewer where shared memory does not hold what they read
//   lane loops          what was done for each element of a panel's row and a token is done by the lane that has the
//                       element in its part of C (qn_lmma in ir/loop.h), for all tiles of its warp
//   mma                 loops of dot4 over a word of codes and one of activations
//   shared rows         what a reduction reads of each token and each panel (mma_stage.c)
//
// requires: a kernel as lowering made it, no marks. Others than products of many tokens with integer sums stay as they
// are, for map_lanes.
// keeps: every sum of integers, exactly, and the order of all else, and so the bits of every result.
// breaks: one loop a name; the bounds of the parallel loop are no multiple of a symbol (qn_gpu_variant.rows_each).
#include "passes/map_mma.h"

// ---- what depends on what ---------------------------------------------------------------------------------------

qn_mma_local *qn_mma_local_of(const qn_mma_mapper *m, const qn_lbuf *buf) {
  for (size_t i = 0; i < m->locals.count; i++)
    if (m->locals.items[i].from == buf) return &m->locals.items[i];
  return NULL;
}

static bool is_by(const qn_lexpr *e, const qn_mma_mapper *m, bool row) {
  if (e->op == QN_LX_VAR && row) return e->u.var == m->n || e->u.var == m->l || e->u.var == m->panel;
  if (e->op == QN_LX_VAR) return e->u.var == m->t || e->u.var == m->token;
  if (e->op != QN_LX_LOAD) return false;
  const qn_mma_local *local = qn_mma_local_of(m, e->u.load.buf);
  return local && (row ? local->by_row : local->by_token);
}
static bool node_by_row(const qn_lexpr *e, const void *context) { return is_by(e, context, true); }
static bool node_by_token(const qn_lexpr *e, const void *context) { return is_by(e, context, false); }
bool qn_mma_by_row(const qn_mma_mapper *m, const qn_lexpr *e) { return qn_lexpr_any(e, node_by_row, m); }
bool qn_mma_by_token(const qn_mma_mapper *m, const qn_lexpr *e) { return qn_lexpr_any(e, node_by_token, m); }

static void list_locals(qn_mma_mapper *m, const qn_lblock *block) {
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR) list_locals(m, &s->u.loop.body);
    if (s->kind != QN_LS_LOCAL) continue;
    qn_mma_local local = {.from = s->u.local.buf};
    if (!qn_vec_push_arena(m->b->arena, &m->locals, local)) m->b->failed = true;
  }
}

// One round; true when something came to depend on more.
static bool spread_dependence(qn_mma_mapper *m, const qn_lblock *block) {
  bool changed = false;
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_FOR && spread_dependence(m, &s->u.loop.body)) changed = true;
    qn_mma_local *local = s->kind == QN_LS_STORE ? qn_mma_local_of(m, s->u.store.buf) : NULL;
    if (!local) continue;
    bool row = local->by_row || qn_mma_by_row(m, s->u.store.value);
    bool token = local->by_token || qn_mma_by_token(m, s->u.store.value);
    if (row != local->by_row || token != local->by_token) changed = true;
    local->by_row = row;
    local->by_token = token;
  }
  return changed;
}

// ---- which kernels ----------------------------------------------------------------------------------------------

static bool is_other_element(const qn_lexpr *e, const void *context) {
  int64_t at = -1;
  (void)context;
  return e->op == QN_LX_LANE || e->type.lanes > 1 ||
         (e->op == QN_LX_LOAD && e->u.load.buf->kind == QN_LB_LOCAL && (!qn_lexpr_is_int(e->operands[0], &at) || at));
}

// All locals hold one element, loops other than those of mma have the same bounds for all elements; counts mma's loops.
static bool is_fit(qn_mma_mapper *m, const qn_lblock *block, int *out_words) {
  qn_mma_words words;
  int64_t number = 0;
  for (const qn_lstmt *s = block->first; s; s = s->next) {
    if (s->kind == QN_LS_LOCAL && (!qn_lexpr_is_int(s->u.local.buf->elements, &number) || number != 1)) return false;
    if (s->kind == QN_LS_STORE && s->u.store.buf->kind == QN_LB_LOCAL) {
      if (s->u.store.lanes != 1 || !qn_lexpr_is_int(s->u.store.index, &number) || number != 0) return false;
    }
    if (s->kind != QN_LS_FOR) continue;
    if (s->u.loop.mark != QN_LM_SERIAL) return false;
    if (qn_mma_is_words(m, s, &words)) {
      (*out_words)++;
      if (words.weight) m->pairs = true;
    } else if (qn_mma_by_row(m, s->u.loop.lo) || qn_mma_by_row(m, s->u.loop.hi) || qn_mma_by_token(m, s->u.loop.lo) ||
               qn_mma_by_token(m, s->u.loop.hi) || !is_fit(m, &s->u.loop.body, out_words)) {
      return false;
    }
  }
  return true;
}

// The block's only statement, where that is a DATA loop of this name from 0.
static qn_lstmt *only_loop(const qn_lblock *block, const char *name) {
  qn_lstmt *s = block->first;
  int64_t lo = -1;
  bool is = s && !s->next && qn_loop_is(s, name) && s->u.loop.order == QN_LO_DATA && s->u.loop.mark == QN_LM_SERIAL;
  return is && qn_lexpr_is_int(s->u.loop.lo, &lo) && lo == 0 ? s : NULL;
}

// The body of the loops over panels, tokens and rows, where the kernel is a product that mma can do; else NULL.
static qn_lblock *find_product(qn_mma_mapper *m, const qn_lblock *top) {
  qn_lstmt *n = only_loop(top, "n"), *t = n ? only_loop(&n->u.loop.body, "t") : NULL;
  qn_lstmt *l = t ? only_loop(&t->u.loop.body, "l") : NULL;
  int64_t rows = 0, tokens = 0;
  int words = 0;
  if (!l || !qn_lexpr_is_int(n->u.loop.hi, &m->panels) || !qn_lexpr_is_int(l->u.loop.hi, &rows)) return NULL;
  if (rows != QN_MMA_ROWS || qn_lexpr_is_int(t->u.loop.hi, &tokens) || t->u.loop.hi->op != QN_LX_SYM) return NULL;
  m->n = n->u.loop.var;
  m->t = t->u.loop.var;
  m->l = l->u.loop.var;
  m->tokens = t->u.loop.hi;
  list_locals(m, &l->u.loop.body);
  while (!m->b->failed && spread_dependence(m, &l->u.loop.body)) continue;
  bool fit = !m->b->failed && !qn_lblock_any(&l->u.loop.body, is_other_element, NULL) &&
             is_fit(m, &l->u.loop.body, &words) && words > 0;
  return fit ? &l->u.loop.body : NULL;
}

// ---- elements ---------------------------------------------------------------------------------------------------

// Which element of the block is written: its row is `row` of panel `panel` of the warp, its token number `token` of tile
// `tile`; the numbers say which of the lane's own elements its values are.
typedef struct element {
  qn_mma_mapper *m;
  const qn_lvar *lane;
  const qn_lexpr *row, *token;
  int panel, half, tile, column;
  bool clamped;  // of what is beyond the matrix's end the last is taken
} element;

static const qn_lexpr *quad_of(qn_lbuild *b, const qn_lvar *lane) {
  const qn_lexpr *in_warp = qn_lop2(b, QN_LX_MOD, qn_lref(b, lane), qn_lint(b, QN_MMA_WARP));
  return qn_lop2(b, QN_LX_DIV, in_warp, qn_lint(b, 4));
}
static const qn_lexpr *quarter_of(qn_lbuild *b, const qn_lvar *lane) {
  return qn_lop2(b, QN_LX_MOD, qn_lref(b, lane), qn_lint(b, 4));
}

static const qn_lexpr *panel_in_block(const element *e) {
  qn_lbuild *b = e->m->b;
  const qn_lexpr *warp = qn_lop2(b, QN_LX_DIV, qn_lref(b, e->lane), qn_lint(b, QN_MMA_WARP));
  return qn_lop2(b, QN_LX_ADD, qn_lop2(b, QN_LX_MUL, warp, qn_lint(b, e->m->tile.panels)), qn_lint(b, e->panel));
}

static const qn_lexpr *panel_of(const element *e) {
  const qn_mma_mapper *m = e->m;
  qn_lbuild *b = m->b;
  const qn_lexpr *panel = qn_lop2(b, QN_LX_ADD, m->first_panel, panel_in_block(e));
  bool whole = m->panels % qn_mma_block_panels(&m->tile) == 0;
  return e->clamped && !whole ? qn_lop2(b, QN_LX_MIN, panel, qn_lint(b, m->panels - 1)) : panel;
}

static const qn_lexpr *token_of(const element *e) {
  const qn_mma_mapper *m = e->m;
  qn_lbuild *b = m->b;
  const qn_lexpr *token = qn_lop2(b, QN_LX_ADD, m->first_token, e->token);
  return e->clamped ? qn_lop2(b, QN_LX_MIN, token, qn_lop2(b, QN_LX_SUB, m->tokens, qn_lint(b, 1))) : token;
}

// The index of the element's value in what stands for a local.
static const qn_lexpr *own_index(const element *e, const qn_mma_local *local) {
  qn_lbuild *b = e->m->b;
  int own = 0;
  if (local->by_row && local->by_token) {
    own = (e->panel * e->m->tile.tiles + e->tile) * QN_MMA_C + e->half * 2 + e->column;
  } else if (local->by_row) {
    own = e->panel * 2 + e->half;
  } else if (local->by_token) {
    own = e->tile * 2 + e->column;
  }
  const qn_lexpr *first = qn_lop2(b, QN_LX_MUL, qn_lref(b, e->lane), qn_lint(b, local->to->each));
  return qn_lop2(b, QN_LX_ADD, first, qn_lint(b, own));
}

static const qn_lexpr *place_node(qn_lbuild *b, const qn_lexpr *node, void *context) {
  const element *e = context;
  if (node->op == QN_LX_VAR) {
    if (node->u.var == e->m->n) return panel_of(e);
    if (node->u.var == e->m->l) return e->row;
    if (node->u.var == e->m->t) return token_of(e);
    if (node->u.var == e->m->token) return e->token;
    if (node->u.var == e->m->panel) return panel_in_block(e);
  }
  const qn_mma_local *local = node->op == QN_LX_LOAD ? qn_mma_local_of(e->m, node->u.load.buf) : NULL;
  return local ? qn_lload(b, local->to, node->u.load.mem, own_index(e, local), 1) : node;
}

static const qn_lexpr *at_element(element *e, const qn_lexpr *x) {
  const qn_lexpr *placed = x ? qn_lexpr_map(e->m->b, x, place_node, e) : NULL;
  if (!placed) e->m->b->failed = true;
  return placed;
}

// Element (half, column) of tile (panel, tile) of C, as lane `lane` has it.
static element element_of(qn_mma_mapper *m, const qn_lvar *lane, int panel, int half, int tile, int column) {
  qn_lbuild *b = m->b;
  element e = {m, lane, NULL, NULL, panel, half, tile, column, true};
  e.row = m->pairs ? qn_lop2(b, QN_LX_MUL, quad_of(b, lane), qn_lint(b, 2)) : quad_of(b, lane);
  e.row = qn_lop2(b, QN_LX_ADD, e.row, qn_lint(b, m->pairs ? half : 8 * half));
  const qn_lexpr *pair = qn_lop2(b, QN_LX_MUL, quarter_of(b, lane), qn_lint(b, 2));
  e.token = qn_lop2(b, QN_LX_ADD, pair, qn_lint(b, tile * QN_MMA_COLUMNS + column));
  return e;
}

// ---- statements -------------------------------------------------------------------------------------------------

// The lane loop at the end of the block, a new one where it ends with something else.
static qn_lstmt *lane_loop(qn_mma_mapper *m, qn_lblock *to) {
  qn_lstmt *last = to->last;
  if (last && last->kind == QN_LS_FOR && last->u.loop.mark == QN_LM_LANE && qn_loop_is(last, "lane")) return last;
  qn_lvar *var = qn_lvar_new(m->b, "lane");
  qn_lstmt *loop = qn_lfor(m->b, to, var, qn_lint(m->b, 0), qn_lint(m->b, qn_mma_lanes(&m->tile)), QN_LO_DATA);
  loop->u.loop.mark = QN_LM_LANE;
  return loop;
}

static void declare(qn_mma_mapper *m, const qn_lbuf *from, qn_lblock *to) {
  qn_mma_local *local = qn_mma_local_of(m, from);
  int each = 1;
  if (local->by_row) each *= m->tile.panels * 2;
  if (local->by_token) each *= m->tile.tiles * 2;
  local->to = qn_llocal(m->b, to, from->name, from->mem, (int64_t)qn_mma_lanes(&m->tile) * each);
  if (local->to) local->to->each = each;
}

// A store to a local, for the element.
static void store_local(element *e, const qn_lstmt *s, qn_lblock *to) {
  const qn_mma_local *local = qn_mma_local_of(e->m, s->u.store.buf);
  qn_lstore(e->m->b, to, local->to, s->u.store.mem, own_index(e, local), at_element(e, s->u.store.value));
}

// Of a local that does not depend on both row and token.
static void map_plain_store(qn_mma_mapper *m, const qn_lstmt *s, qn_lblock *to) {
  const qn_mma_local *local = qn_mma_local_of(m, s->u.store.buf);
  qn_lstmt *loop = lane_loop(m, to);
  int firsts = local->by_row ? m->tile.panels : local->by_token ? m->tile.tiles : 1;
  int seconds = local->by_row || local->by_token ? 2 : 1;
  for (int i = 0; i < firsts * seconds && !m->b->failed; i++) {
    int first = i / seconds, second = i % seconds;
    element e = local->by_row ? element_of(m, loop->u.loop.var, first, second, 0, 0)
                              : element_of(m, loop->u.loop.var, 0, 0, first, second);
    store_local(&e, s, &loop->u.loop.body);
  }
}

// A store to a parameter, of a tile: not of what is beyond the matrix's end.
static void map_param_store(qn_mma_mapper *m, const qn_lstmt *s, int panel, int tile, qn_lblock *to) {
  qn_lbuild *b = m->b;
  qn_lstmt *loop = lane_loop(m, to);
  bool whole = m->panels % qn_mma_block_panels(&m->tile) == 0;
  for (int column = 0; column < 2 && !b->failed; column++) {
    element e = element_of(m, loop->u.loop.var, panel, 0, tile, column);
    e.clamped = false;
    const qn_lexpr *there = qn_lop2(b, QN_LX_SUB, m->tokens, token_of(&e));
    if (!whole) there = qn_lop2(b, QN_LX_MIN, there, qn_lop2(b, QN_LX_SUB, qn_lint(b, m->panels), panel_of(&e)));
    qn_lvar *once = qn_lvar_new(b, "there");
    qn_lstmt *guard = qn_lfor(b, &loop->u.loop.body, once, qn_lint(b, 0), qn_lop2(b, QN_LX_MIN, there, qn_lint(b, 1)),
                              QN_LO_DATA);
    for (int half = 0; half < 2 && !b->failed; half++) {
      e = element_of(m, loop->u.loop.var, panel, half, tile, column);
      e.clamped = false;
      qn_lstore(b, &guard->u.loop.body, s->u.store.buf, s->u.store.mem, at_element(&e, s->u.store.index),
                at_element(&e, s->u.store.value));
    }
  }
}

// ---- mma --------------------------------------------------------------------------------------------------------

typedef struct fragments {
  qn_lmma kind;
  qn_lbuf *a, *b;
} fragments;

// Appends own[number] = value.
static void store_own(qn_lbuild *b, qn_lblock *to, const qn_lbuf *own, const qn_lvar *lane, int number,
                      const qn_lexpr *value) {
  const qn_lexpr *first = qn_lop2(b, QN_LX_MUL, qn_lref(b, lane), qn_lint(b, own->each));
  qn_lstore(b, to, own, QN_LM_I32, qn_lop2(b, QN_LX_ADD, first, qn_lint(b, number)), value);
}

// The lane's two words `step` of a panel, of its rows of the first half and of the second. Of integers, the lanes of lines 2
// and 3 take the second half's first: lines 0 and 2 lie in the same banks of shared memory, and their halves do not.
static void store_words_of_a(qn_mma_mapper *m, const qn_mma_words *words, const qn_lbuf *a, const qn_lvar *lane, int panel,
                             int step, qn_lblock *to) {
  qn_lbuild *b = m->b;
  const qn_lexpr *quarter = quarter_of(b, lane), *late = qn_lop2(b, QN_LX_DIV, quarter, qn_lint(b, 2)), *word[2];
  for (int i = 0; i < 2; i++) {
    element e = element_of(m, lane, panel, i, 0, 0);
    if (words->weight) {
      word[i] = at_element(&e, qn_mma_half_word(m, words, i, step, quarter, quad_of(b, lane)));
      continue;
    }
    const qn_lexpr *half = qn_lop2(b, QN_LX_MOD, qn_lop2(b, QN_LX_ADD, late, qn_lint(b, i)), qn_lint(b, 2));
    e.row = qn_lop2(b, QN_LX_ADD, quad_of(b, lane), qn_lop2(b, QN_LX_MUL, half, qn_lint(b, QN_MMA_ROWS / 2)));
    word[i] = at_element(&e, qn_mma_word(m, words, 1, step, quarter));
  }
  if (!words->weight && !b->failed) {
    const qn_lexpr *early = qn_lop2(b, QN_LX_LT, quarter, qn_lint(b, 2));
    qn_lbuf *taken = qn_llocal(b, to, "taken", QN_LM_I32, 2);
    for (int i = 0; i < 2; i++) qn_lstore(b, to, taken, QN_LM_I32, qn_lint(b, i), word[i]);
    const qn_lexpr *first = qn_lload(b, taken, QN_LM_I32, qn_lint(b, 0), 1);
    const qn_lexpr *second = qn_lload(b, taken, QN_LM_I32, qn_lint(b, 1), 1);
    word[0] = qn_lop3(b, QN_LX_SELECT, early, first, second);
    word[1] = qn_lop3(b, QN_LX_SELECT, early, second, first);
  }
  int at = panel * qn_lmma_each(words->kind, QN_MMA_OF_A) + step * 2;
  for (int i = 0; i < 2 && !b->failed; i++) store_own(b, to, a, lane, at + i, word[i]);
}

static const qn_lexpr *word_of_b(element *e, const qn_mma_words *words, int step, qn_lblock *to) {
  qn_lbuild *b = e->m->b;
  const qn_lexpr *quarter = quarter_of(b, e->lane);
  if (!words->weight) return at_element(e, qn_mma_word(e->m, words, 2, step, quarter));
  qn_lmem mem = words->weight->u.load.mem;
  qn_lbuf *pair = qn_llocal(b, to, "pair", mem, 2);
  for (int half = 0; half < 2; half++)
    qn_lstore(b, to, pair, mem, qn_lint(b, half), at_element(e, qn_mma_half_value(e->m, words, half, step, quarter)));
  return qn_lload(b, pair, QN_LM_I32, qn_lint(b, 0), 1);
}

// A's words of all panels and B's of all tiles of tokens.
static fragments load_fragments(qn_mma_mapper *m, const qn_mma_words *words, qn_lblock *to) {
  qn_lbuild *b = m->b;
  qn_lmma kind = words->kind;
  int a_each = qn_lmma_each(kind, QN_MMA_OF_A), b_each = qn_lmma_each(kind, QN_MMA_OF_B);
  int64_t lanes = qn_mma_lanes(&m->tile);
  fragments f = {.kind = kind};
  f.a = qn_llocal(b, to, "a", QN_LM_I32, lanes * m->tile.panels * a_each);
  f.b = qn_llocal(b, to, "b", QN_LM_I32, lanes * m->tile.tiles * b_each);
  if (b->failed) return f;
  f.a->each = m->tile.panels * a_each;
  f.b->each = m->tile.tiles * b_each;
  qn_lstmt *loop = lane_loop(m, to);
  const qn_lvar *lane = loop->u.loop.var;
  for (int i = 0; i < f.a->each / 2 && !b->failed; i++)
    store_words_of_a(m, words, f.a, lane, i / (a_each / 2), i % (a_each / 2), &loop->u.loop.body);
  for (int i = 0; i < f.b->each && !b->failed; i++) {
    element e = element_of(m, lane, 0, 0, i / b_each, 0);
    e.token = qn_lop2(b, QN_LX_ADD, quad_of(b, lane), qn_lint(b, i / b_each * QN_MMA_COLUMNS));
    store_own(b, &loop->u.loop.body, f.b, lane, i, word_of_b(&e, words, i % b_each, &loop->u.loop.body));
  }
  return f;
}

static void multiply(qn_mma_mapper *m, const qn_mma_words *words, const fragments *f, int panel, int tile, qn_lblock *to) {
  const qn_mma_local *sum = qn_mma_local_of(m, words->sum);
  const qn_lbuf *bufs[QN_MMA_OPERANDS] = {sum->to, f->a, f->b};
  int at[QN_MMA_OPERANDS] = {(panel * m->tile.tiles + tile) * QN_MMA_C, panel * qn_lmma_each(f->kind, QN_MMA_OF_A),
                             tile * qn_lmma_each(f->kind, QN_MMA_OF_B)};
  if (!m->b->failed) qn_lmma_append(m->b, to, f->kind, bufs, at);
}

// ---- blocks -----------------------------------------------------------------------------------------------------

static void map_block(qn_mma_mapper *m, qn_lblock *from, qn_lblock *to);

// Is the statement done for every element by itself, or by mma?
static bool is_of_elements(const qn_mma_mapper *m, const qn_lstmt *s, qn_mma_words *words) {
  if (s->kind == QN_LS_FOR) return qn_mma_is_words(m, s, words);
  if (s->kind != QN_LS_STORE) return false;
  const qn_mma_local *local = qn_mma_local_of(m, s->u.store.buf);
  return !local || (local->by_row && local->by_token);
}

static void map_element_statement(qn_mma_mapper *m, const qn_lstmt *s, int panel, int tile, qn_lblock *to) {
  if (!qn_mma_local_of(m, s->u.store.buf)) {
    map_param_store(m, s, panel, tile, to);
    return;
  }
  qn_lstmt *loop = lane_loop(m, to);
  for (int i = 0; i < QN_MMA_C && !m->b->failed; i++) {
    element e = element_of(m, loop->u.loop.var, panel, i / 2, tile, i % 2);
    store_local(&e, s, &loop->u.loop.body);
  }
}

// Statements from `first` on, up to the first that is not done for every element: all of them for a tile of C before the
// next one, so that few sums are alive at a time. Returns what follows.
static qn_lstmt *map_run(qn_mma_mapper *m, qn_lstmt *first, qn_lblock *to) {
  enum { MAX_LOOPS = 16 };
  fragments loaded[MAX_LOOPS];
  qn_mma_words words;
  qn_lstmt *end = first;
  int loops = 0;
  for (; end && is_of_elements(m, end, &words) && loops < MAX_LOOPS; end = end->next)
    if (end->kind == QN_LS_FOR) loaded[loops++] = load_fragments(m, &words, to);
  for (int i = 0; i < m->tile.panels * m->tile.tiles && !m->b->failed; i++) {
    int panel = i / m->tile.tiles, tile = i % m->tile.tiles, loop = 0;
    for (qn_lstmt *s = first; s != end && !m->b->failed; s = s->next) {
      if (s->kind == QN_LS_STORE) {
        map_element_statement(m, s, panel, tile, to);
      } else if (qn_mma_is_words(m, s, &words)) {
        multiply(m, &words, &loaded[loop++], panel, tile, to);
      }
    }
  }
  return end;
}

// A loop that all lanes walk; what is staged in front of its pieces, it reads from shared memory.
static void map_loop(qn_mma_mapper *m, qn_lstmt *loop, qn_lblock *to) {
  qn_lblock *pieces = loop->u.loop.order == QN_LO_REDUCE ? qn_mma_stage(m, loop, to) : NULL;
  if (m->b->failed) return;
  qn_lstmt *mapped = qn_lfor(m->b, pieces ? pieces : to, loop->u.loop.var, loop->u.loop.lo, loop->u.loop.hi,
                             loop->u.loop.order);
  map_block(m, &loop->u.loop.body, &mapped->u.loop.body);
}

static void map_block(qn_mma_mapper *m, qn_lblock *from, qn_lblock *to) {
  qn_mma_words words;
  for (qn_lstmt *s = from->first; s && !m->b->failed;) {
    if (is_of_elements(m, s, &words)) {
      s = map_run(m, s, to);
      continue;
    }
    if (s->kind == QN_LS_LOCAL) declare(m, s->u.local.buf, to);
    if (s->kind == QN_LS_STORE) map_plain_store(m, s, to);
    if (s->kind == QN_LS_FOR) map_loop(m, s, to);
    s = s->next;
  }
}

static qn_mma_tile tile_of(const qn_schedule *schedule) {
  return (qn_mma_tile){schedule->n_block, schedule->n_tile, schedule->m_tiles[0] / QN_MMA_COLUMNS};
}

// Shares the shared memory of a block out to the product's reductions. Blocks have fewer warps where the shortest pieces
// would not fit otherwise; where they never do, lanes load for themselves (qn_mma_stage).
static void choose_warps(qn_mma_mapper *m, const qn_lblock *product) {
  enum { SHARED_BYTES = 99 << 10 };  // that all chips give a block
  int warps = m->tile.warps;
  for (; m->tile.warps > 0; m->tile.warps /= 2) {
    int64_t least = 0;
    int reductions = 0;
    for (const qn_lstmt *s = product->first; s; s = s->next) {
      if (s->kind != QN_LS_FOR || s->u.loop.order != QN_LO_REDUCE) continue;
      int64_t each = qn_mma_stage_least(m, s);
      if (each > least) least = each;
      reductions += each > 0;
    }
    m->stage_bytes = reductions > 0 ? SHARED_BYTES / reductions : 0;
    if (least <= m->stage_bytes) return;
  }
  m->tile.warps = warps;
}

// A variable that stands for rows of the block in shared memory.
static qn_lvar *row_var(qn_lbuild *b, const char *name, int64_t count) {
  qn_lvar *var = qn_lvar_new(b, name);
  if (!var) return NULL;
  var->lo = 0;
  var->hi = count;
  var->bounded = true;
  return var;
}

qn_status qn_pass_map_mma(qn_loop_pass_context *context) {
  qn_lbuild *b = context->build;
  qn_mma_mapper m = {.b = b, .tile = tile_of(context->schedule)};
  qn_lblock *top = &b->kernel->body, *product = NULL;
  if (m.tile.tiles > 0 && context->schedule->parallel) product = find_product(&m, top);
  if (!product) return qn_loop_pass_end(context, "map_mma");
  qn_join_reductions(b, product);  // what products of one input read of a token is staged once then
  choose_warps(&m, product);
  int tokens = qn_mma_block_tokens(&m.tile), panels = qn_mma_block_panels(&m.tile);
  const qn_lexpr *panel_blocks = qn_lint(b, (m.panels + panels - 1) / panels);
  const qn_lexpr *up = qn_lop2(b, QN_LX_ADD, m.tokens, qn_lint(b, tokens - 1));
  const qn_lexpr *token_blocks = qn_lop2(b, QN_LX_DIV, up, qn_lint(b, tokens));
  qn_lblock mapped = {0};
  qn_lvar *var = qn_lvar_new(b, "n");
  qn_lstmt *blocks =
      qn_lfor(b, &mapped, var, qn_lint(b, 0), qn_lop2(b, QN_LX_MUL, token_blocks, panel_blocks), QN_LO_DATA);
  m.token = row_var(b, "t", tokens);
  m.panel = row_var(b, "panel", panels);
  if (b->failed) return qn_loop_pass_end(context, "map_mma");
  blocks->u.loop.mark = QN_LM_PARALLEL;
  const qn_lexpr *at = qn_lref(b, var);
  m.first_panel = qn_lop2(b, QN_LX_MUL, qn_lop2(b, QN_LX_MOD, at, panel_blocks), qn_lint(b, panels));
  m.first_token = qn_lop2(b, QN_LX_MUL, qn_lop2(b, QN_LX_DIV, at, panel_blocks), qn_lint(b, tokens));
  map_block(&m, product, &blocks->u.loop.body);
  *top = mapped;
  return qn_loop_pass_end(context, "map_mma");
}
