// Lookahead decoding (Fu et al. 2024): the model itself says what may come later. A window of guesses for the positions
// ahead is evaluated with every step, and what the model chooses after each of them is the next window (Jacobi
// iteration) and an n-gram that is remembered; guesses are what n-grams say comes after the text's last tokens. All
// rows of a step teach some, those of wrong guesses too (as in Luo et al. 2024, "Turning Trash into Treasure"), and so
// does the text.
#include <string.h>

#include "runtime/propose.h"

#define ORDERS    4  // tokens that an n-gram is found by, at most
#define WIDE      4  // continuations that are known of these
#define WINDOW    16
#define FRONTIER  256  // continuations that a tree may be widened by
#define SLOT_BITS 16

// What came after some tokens, the latest first.
typedef struct slot {
  uint32_t key;  // 0 = empty
  int32_t next[WIDE];
  uint32_t texts[WIDE];  // in which it came last
} slot;

// How often the continuation in that place was the right one: of those that the same text has had, and of others.
typedef struct chance {
  double right, tried;
} chance;

struct qn_ngrams {
  const qn_allocator *allocator;    // borrowed
  slot *slots;                      // owned (1 << SLOT_BITS)
  chance chances[2][ORDERS][WIDE];  // first those of the same text
  uint32_t texts;                   // so far
};

#define SLOTS      ((size_t)1 << SLOT_BITS)
#define TRIED_MOST 1024  // from then on older ones count less

// --- n-grams

// Tokens that something may come after, the last one first.
typedef struct context {
  int32_t tokens[ORDERS];
  int count;
} context;

static slot *slot_of(const qn_ngrams *g, const context *c, int order, uint32_t *out_key) {
  uint64_t hash = (uint64_t)order;
  for (int i = 0; i < order; i++) {
    hash = (hash ^ (uint32_t)c->tokens[i]) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  }
  *out_key = (uint32_t)(hash >> 32) | 1;
  return &g->slots[hash & (SLOTS - 1)];
}

// NULL when nothing is known by so many tokens.
static slot *find(const qn_ngrams *g, const context *c, int order) {
  uint32_t key;
  if (order > c->count) return NULL;
  slot *s = slot_of(g, c, order, &key);
  return s->key == key ? s : NULL;
}

static void learn(qn_ngrams *g, const context *c, uint32_t text, int32_t token) {
  for (int order = 1; order <= c->count; order++) {
    uint32_t key;
    slot *s = slot_of(g, c, order, &key);
    if (s->key != key) {
      s->key = key;
      for (int i = 0; i < WIDE; i++) s->next[i] = -1;
    }
    int place = 0;
    while (place < WIDE - 1 && s->next[place] != token) place++;
    memmove(s->next + 1, s->next, (size_t)place * sizeof *s->next);
    memmove(s->texts + 1, s->texts, (size_t)place * sizeof *s->texts);
    s->next[0] = token;
    s->texts[0] = text;
  }
}

static chance *chance_of(qn_ngrams *g, const slot *s, uint32_t text, int order, int place) {
  return &g->chances[s->texts[place] != text][order - 1][place];
}

static void note_chances(qn_ngrams *g, const context *c, uint32_t text, int32_t token) {
  for (int order = 1; order <= c->count; order++) {
    const slot *s = find(g, c, order);
    for (int i = 0; s && i < WIDE && s->next[i] >= 0; i++) {
      chance *k = chance_of(g, s, text, order, i);
      k->right += s->next[i] == token;
      if (++k->tried < TRIED_MOST) continue;
      k->right /= 2;
      k->tried /= 2;
    }
  }
}

qn_status qn_ngrams_create(const qn_allocator *allocator, qn_ngrams **out, qn_diag *diag) {
  qn_ngrams *g = qn_alloc_zeroed(allocator, sizeof *g);
  *out = NULL;
  if (!g) return qn_fail_nomem(diag, "lookahead", "n-grams");
  g->allocator = allocator;
  g->slots = qn_alloc_zeroed(allocator, SLOTS * sizeof *g->slots);
  for (int order = 0; order < ORDERS; order++) {  // before anything is seen: longer and later is likelier
    for (int i = 0; i < WIDE; i++)
      g->chances[0][order][i] = g->chances[1][order][i] = (chance){(1 + order) / (1.0 + i), ORDERS + 1};
  }
  if (!g->slots) {
    qn_ngrams_destroy(g);
    return qn_fail_nomem(diag, "lookahead", "n-grams");
  }
  *out = g;
  return QN_OK;
}

void qn_ngrams_destroy(qn_ngrams *g) {
  if (!g) return;
  qn_free(g->allocator, g->slots, SLOTS * sizeof *g->slots);
  qn_free(g->allocator, g, sizeof *g);
}

// --- the proposer

// A guess that may be made after a node of the tree.
typedef struct candidate {
  int32_t parent, token;
  double likely;  // that the whole path comes true
} candidate;

typedef struct lookahead {
  qn_proposer base;
  const qn_allocator *allocator;  // borrowed
  qn_ngrams *ngrams;              // borrowed
  size_t learned;                 // tokens of the text; 0 = it begins
  uint32_t text;                  // its number
  context tail;                   // the text's last tokens, when the last guesses were made
  int32_t window[WINDOW];         // what comes after the text's next token, as far as it is guessed
  int32_t window_count;
  int32_t window_nodes[WINDOW], window_used;  // in the last draft
  chance window_chance;                       // of its first token
  candidate frontier[FRONTIER];
  int32_t frontier_count;
} lookahead;

static void push(context *c, int32_t token) {
  memmove(c->tokens + 1, c->tokens, (ORDERS - 1) * sizeof *c->tokens);
  c->tokens[0] = token;
  if (c->count < ORDERS) c->count++;
}

static context context_at(const int32_t *tokens, size_t count) {
  context c = {.count = 0};
  for (; c.count < ORDERS && (size_t)c.count < count; c.count++)
    c.tokens[c.count] = tokens[count - 1 - (size_t)c.count];
  return c;
}

// The tokens that come before what follows a node.
static context context_of(const lookahead *l, const qn_draft *draft, int32_t node) {
  context c = {.count = 0};
  for (; node != QN_DRAFT_ROOT && c.count < ORDERS; node = draft->parents[node])
    c.tokens[c.count++] = draft->tokens[node];
  for (int i = 0; i < l->tail.count && c.count < ORDERS; i++) c.tokens[c.count++] = l->tail.tokens[i];
  return c;
}

// What is new of the text. Of a prompt, which the model has not said, it is not counted how often n-grams were right.
static void take_text(lookahead *l, const qn_propose_text *text) {
  bool said = l->learned > 0;
  if (l->learned > text->count) l->learned = 0;  // what is before was dropped
  context c = context_at(text->tokens, l->learned);
  for (; l->learned < text->count; l->learned++) {
    int32_t token = text->tokens[l->learned];
    if (said) note_chances(l->ngrams, &c, l->text, token);
    learn(l->ngrams, &c, l->text, token);
    push(&c, token);
  }
  l->tail = c;
}

// The candidate of that token among those that were added last; NULL when there is none.
static candidate *candidate_of(lookahead *l, int32_t parent, int32_t token) {
  for (int32_t i = l->frontier_count - 1; i >= 0 && l->frontier[i].parent == parent; i--)
    if (l->frontier[i].token == token) return &l->frontier[i];
  return NULL;
}

// Room for candidates: those that were taken are dropped.
static bool has_room(lookahead *l) {
  int32_t kept = 0;
  if (l->frontier_count < FRONTIER) return true;
  for (int32_t i = 0; i < FRONTIER; i++) {
    if (l->frontier[i].likely >= 0) l->frontier[kept++] = l->frontier[i];
  }
  l->frontier_count = kept;
  return kept < FRONTIER;
}

// What n-grams say comes after the node: each token once, by the n-gram that has been right most often.
static void widen(lookahead *l, const qn_draft *draft, int32_t node, double likely) {
  context c = context_of(l, draft, node);
  for (int order = ORDERS; order > 0; order--) {
    const slot *s = find(l->ngrams, &c, order);
    for (int i = 0; s && i < WIDE && s->next[i] >= 0; i++) {
      const chance *k = chance_of(l->ngrams, s, l->text, order, i);
      candidate *known = candidate_of(l, node, s->next[i]), found = {node, s->next[i], likely * k->right / k->tried};
      if (known) {
        if (known->likely < found.likely) *known = found;
      } else if (has_room(l)) {
        l->frontier[l->frontier_count++] = found;
      }
    }
  }
}

static int32_t look(qn_proposer *self, const qn_propose_text *text) {
  lookahead *l = (lookahead *)self;
  const qn_draft none = {.count = 0};
  double most = 0;
  take_text(l, text);
  l->frontier_count = 0;
  widen(l, &none, QN_DRAFT_ROOT, 1);
  for (int32_t i = 0; i < l->frontier_count; i++) most = l->frontier[i].likely > most ? l->frontier[i].likely : most;
  int32_t kind = (int32_t)(most * QN_DRAFT_KINDS);
  return kind < QN_DRAFT_KINDS ? kind : QN_DRAFT_KINDS - 1;
}

static bool has_child(const qn_draft *draft, int32_t node) {
  for (int32_t i = node + 1; i < draft->count; i++)
    if (draft->parents[i] == node) return true;
  return false;
}

// The likeliest candidate that there is room for, taken out; false when there is none worth a guess.
static bool best(lookahead *l, const qn_draft *draft, const qn_draft_room *room, int32_t paths, candidate *out) {
  int32_t which = -1;
  for (int32_t i = 0; i < l->frontier_count; i++) {
    const candidate *k = &l->frontier[i];
    if (k->likely <= room->least || (which >= 0 && k->likely <= l->frontier[which].likely)) continue;
    if (qn_draft_depth(draft, k->parent) >= room->depth || (paths >= room->paths && has_child(draft, k->parent)))
      continue;
    which = i;
  }
  if (which < 0) return false;
  *out = l->frontier[which];
  l->frontier[which].likely = -1;
  return true;
}

// A tree of the likeliest continuations, `most` in all. Gives how many paths it has.
static int32_t add_ngrams(lookahead *l, const qn_draft_room *room, int32_t most, qn_draft *out) {
  candidate next;
  int32_t paths = 0;
  l->frontier_count = 0;
  widen(l, out, QN_DRAFT_ROOT, 1);
  while (out->count < most && best(l, out, room, paths, &next)) {
    paths += next.parent == QN_DRAFT_ROOT || has_child(out, next.parent);
    widen(l, out, qn_draft_add(out, next.parent, next.token), next.likely);
  }
  return paths;
}

// What the window lacks: what n-grams say, or any of the text's tokens.
static void fill_window(lookahead *l, const qn_propose_text *text, int32_t count) {
  if (count > WINDOW) count = WINDOW;
  context c = l->tail;
  for (int32_t i = 0; i < count; i++) {
    if (i >= l->window_count) {
      const slot *s = NULL;
      for (int order = ORDERS; order > 0 && !s; order--) s = find(l->ngrams, &c, order);
      l->window[i] = s ? s->next[0] : text->tokens[(text->count * 7 + (size_t)i * 5) % text->count];
    }
    push(&c, l->window[i]);
  }
  l->window_count = count;
}

// The window as a path of its own, as far as n-grams do not say the same and it is worth a guess.
static void add_window(lookahead *l, const qn_draft_room *room, qn_draft *out) {
  int32_t node = QN_DRAFT_ROOT;
  double share = l->window_chance.right / l->window_chance.tried, likely = share;
  l->window_used = 0;
  for (int32_t i = 0; i < l->window_count && i < room->depth && likely > room->least; i++, likely *= share) {
    int32_t child = qn_draft_child(out, node, l->window[i]);
    if (child == QN_DRAFT_ROOT && out->count == room->tokens) return;
    node = child == QN_DRAFT_ROOT ? qn_draft_add(out, node, l->window[i]) : child;
    l->window_nodes[l->window_used++] = node;
  }
}

static qn_status propose(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                         qn_diag *diag) {
  (void)diag;
  lookahead *l = (lookahead *)self;
  int32_t window = room->paths < 2 ? 0 : (room->tokens + 3) / 4;
  int32_t paths = add_ngrams(l, room, room->tokens - window, out);
  l->window_used = 0;
  if (paths > 0 && paths >= room->paths) return QN_OK;
  fill_window(l, text, paths == 0 ? room->tokens : window);
  add_window(l, room, out);
  return QN_OK;
}

// Every row of the step tells what comes after some tokens; what was chosen in the window is the next one.
static void see(qn_proposer *self, const qn_draft *draft, int32_t node, const int32_t *chosen) {
  lookahead *l = (lookahead *)self;
  int32_t came_true = qn_draft_depth(draft, node), count = 0;
  for (int32_t i = 0; i < draft->count; i++) {
    bool right = false;  // the text will tell it
    for (int32_t j = node; j != QN_DRAFT_ROOT && !right; j = draft->parents[j]) right = j == i;
    context c = context_of(l, draft, i);
    if (!right && chosen[i + 1] >= 0) learn(l->ngrams, &c, l->text, chosen[i + 1]);
  }
  if (l->window_used > 0) {
    for (int32_t j = node; j != QN_DRAFT_ROOT; j = draft->parents[j]) l->window_chance.right += j == l->window_nodes[0];
    l->window_chance.tried++;
  }
  for (int32_t i = came_true; i < l->window_used && chosen[l->window_nodes[i] + 1] >= 0; i++)
    l->window[count++] = chosen[l->window_nodes[i] + 1];
  l->window_count = count;
}

static qn_status begin(qn_proposer *self, const qn_sampler *sampler, qn_diag *diag) {
  (void)sampler, (void)diag;
  lookahead *l = (lookahead *)self;
  l->learned = 0;
  l->text = ++l->ngrams->texts;
  l->window_chance = (chance){1, 4};
  l->window_count = l->window_used = 0;
  return QN_OK;
}

static void destroy(qn_proposer *self) {
  lookahead *l = (lookahead *)self;
  qn_free(l->allocator, l, sizeof *l);
}

qn_status qn_propose_lookahead_create(qn_ngrams *ngrams, const qn_allocator *allocator, qn_proposer **out,
                                      qn_diag *diag) {
  static const qn_proposer_type type = {.name = "lookahead",
                                        .branches = true,
                                        .look = look,
                                        .begin = begin,
                                        .propose = propose,
                                        .see = see,
                                        .destroy = destroy};
  *out = NULL;
  lookahead *l = qn_alloc_zeroed(allocator, sizeof *l);
  if (!l) return qn_fail_nomem(diag, "lookahead", "the proposer");
  l->base.type = &type;
  l->allocator = allocator;
  l->ngrams = ngrams;
  *out = &l->base;
  return QN_OK;
}
