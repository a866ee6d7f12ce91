// A draft model goes on with the text in a cache of its own. It keeps what of it is still the text's beginning, so that
// each time only what is new is evaluated. In a tree the likeliest guesses of each depth go on in one step, each in a
// sequence of its own that is a fork of the one before it. All texts that are guessed for go on together: a step of the draft
// model has what each of them wants next.
#include <string.h>

#include "runtime/propose_tree.h"

#define TRY_TOKENS  16
#define MOST_DEPTH  64  // of a tree
#define MOST_ENDS   16
#define ODDS        4
#define STEP_TOKENS 256  // of a step at most: a longer text takes several
#define NEW_TOKENS  16   // of a text that has had its guesses lately, at most

typedef struct drafting {
  qn_proposer base;
  const qn_allocator *allocator;  // borrowed
  qn_decoder *decoder;            // borrowed
  int32_t sequence, ends;
  qn_growth growth;  // nodes owned; none without ends
  qn_sampler *sampler;  // owned; NULL before the first text
  int32_t *cached;      // owned (context): tokens in the decoder's sequence, its position many
  size_t from;          // where in the text they begin: 0 as long as the text fits
  bool judged;
  qn_odds *odds;  // owned (ODDS times the vocabulary); NULL where guesses are not judged
  int32_t odds_used;
  // while it guesses
  const qn_proposal *asked;  // borrowed
  int32_t most;              // guesses of a path
  int32_t depth;             // of what is evaluated: 0 = the text
  int32_t ends_of[2][MOST_ENDS];  // of a tree: those of even and odd depths that are gone on from
  int32_t end_count, end_at;      // of this depth, and how many of them are evaluated
  bool done;
  int32_t added, wanted;  // items of this step, and those of them whose logits are wanted
  int32_t first_item;     // where they begin, and the rows of those
  size_t first_row;
} drafting;

// Tells cached[0 .. position) from the text: how many are still its tokens.
static size_t common(const drafting *d, const qn_propose_text *text) {
  size_t held = (size_t)qn_decoder_position(d->decoder, d->sequence), n = 0;
  size_t most = text->count > d->from ? text->count - d->from : 0;
  if (held < most) most = held;
  while (n < most && d->cached[n] == text->tokens[d->from + n]) n++;
  return n;
}

// A text longer than the context is taken from its last half on. One guess after a long time is a try, for which all that
// was missed is not worth evaluating: then only the text's last tokens are.
static size_t choose_beginning(const drafting *d, const qn_propose_text *text, size_t most) {
  size_t context = (size_t)qn_decoder_context(d->decoder);
  if (most == 1 && context > TRY_TOKENS && text->count > d->from + TRY_TOKENS + common(d, text))
    return text->count - TRY_TOKENS;
  bool fits = text->count >= d->from && text->count - d->from + most <= context;
  if (fits && (d->from == 0 || text->count - d->from >= context / 4)) return d->from;
  size_t keep = context / 2 > 0 ? context / 2 : 1;
  return text->count + most <= context || text->count <= keep ? 0 : text->count - keep;
}

static size_t odds_room(const drafting *d) { return ODDS * (size_t)qn_sampler_vocab(d->sampler); }

// What the last token was drawn from, for the node to come; false when there is no room for it.
static bool tell_odds(drafting *d, qn_draft *out) {
  qn_odds *odds = d->odds + d->odds_used;
  int32_t room = (int32_t)odds_room(d) - d->odds_used, count = qn_sampler_odds(d->sampler, odds, room);
  if (count > room) return false;
  out->odds[out->count] = odds;
  out->odds_counts[out->count] = count;
  d->odds_used += count;
  return true;
}

static qn_status no_numbers(const drafting *d, const qn_diag *why, qn_diag *diag) {
  return qn_fail(diag, QN_ERR_FORMAT, qn_decoder_path(d->decoder),
                 "the draft model's logits are not numbers (%s): its weights may be damaged, try --check-weights", why->text);
}

// --- trees

// Makes the sampler what it will be after the text and the guesses up to `node`.
static void follow_to(drafting *d, const qn_propose_text *text, int32_t node) {
  int32_t path[MOST_DEPTH], depth = 0;
  qn_sampling drawn;
  for (; node != QN_DRAFT_ROOT; node = d->growth.nodes[node].parent) path[depth++] = d->growth.nodes[node].token;
  qn_sampler_follow(d->sampler, text->sampler);
  while (depth > 0) {
    qn_sampler_settings(d->sampler, &drawn);
    qn_sampler_accept(d->sampler, path[--depth]);
  }
}

static qn_status grow(drafting *d, int32_t node, const float *logits, qn_diag *diag) {
  qn_choice choices[QN_CHOICES_MOST];
  int32_t count = 0;
  qn_diag why = {0};
  follow_to(d, &d->asked->text, node);
  if (qn_choices_take(d->sampler, logits, QN_CHOICES_MOST, true, choices, &count, &why) != QN_OK) return no_numbers(d, &why, diag);
  qn_growth_add(&d->growth, node, choices, count);
  return QN_OK;
}

// The sequence that holds the index-th of the guesses of a depth that are gone on from: those of the next depth are beside.
static int32_t row_of(const drafting *d, int32_t depth, int32_t index) {
  return d->sequence + 1 + depth % 2 * d->ends + index;
}

// The next depth's guesses that are gone on from; where there are none, the tree is done.
static void go_deeper(drafting *d) {
  d->end_at = d->end_count = 0;
  if (++d->depth < d->most && d->depth < MOST_DEPTH)
    d->end_count = qn_growth_frontier(&d->growth, d->depth, &d->asked->room, d->ends, d->ends_of[d->depth % 2]);
  for (int32_t i = d->end_count; i < d->ends; i++) d->ends_of[d->depth % 2][i] = QN_DRAFT_ROOT;  // no node's parent from here on
  if (d->end_count > 0) return;
  qn_growth_harvest(&d->growth, &d->asked->room, d->asked->out);
  d->done = true;
}

// --- what a step has of it

// A step that is being made.
typedef struct step_room {
  qn_decoder_item *items;
  int32_t count, most;
  int64_t rows, most_rows;
} step_room;

static bool add_item(drafting *d, step_room *s, int32_t token, int32_t sequence, bool want) {
  if (s->count == s->most || (want && s->rows == s->most_rows)) return false;
  if (want && d->wanted++ == 0) d->first_row = (size_t)s->rows;
  if (d->added++ == 0) d->first_item = s->count;
  s->rows += want;
  s->items[s->count++] = (qn_decoder_item){token, sequence, want};
  return true;
}

static int64_t text_left(const drafting *d) {
  return (int64_t)(d->asked->text.count - d->from) - qn_decoder_position(d->decoder, d->sequence);
}

// What of the text is new, of which the last token's logits are wanted.
static void add_text(drafting *d, step_room *s) {
  const int32_t *tokens = d->asked->text.tokens + d->asked->text.count - text_left(d);
  int64_t left = text_left(d);
  for (int64_t i = 0; i < left; i++)
    if (!add_item(d, s, tokens[i], d->sequence, i + 1 == left)) return;
}

// Guesses of a depth, each after its parent, in a fork of the sequence that ends with that.
static qn_status add_ends(drafting *d, step_room *s, qn_diag *diag) {
  int64_t length = qn_decoder_position(d->decoder, d->sequence) + d->depth - 1;
  for (int32_t i = d->end_at; i < d->end_count; i++) {
    const qn_growth_node *n = &d->growth.nodes[d->ends_of[d->depth % 2][i]];
    int32_t row = row_of(d, d->depth, i), from = d->sequence;
    for (int32_t k = 0; d->depth > 1 && k < d->ends; k++)
      if (d->ends_of[(d->depth - 1) % 2][k] == n->parent) from = row_of(d, d->depth - 1, k);
    if (s->count == s->most || s->rows == s->most_rows) return QN_OK;
    QN_TRY(qn_decoder_fork(d->decoder, from, length, row, diag));
    (void)add_item(d, s, n->token, row, true);
  }
  return QN_OK;
}

static bool in_tree(const drafting *d) { return d->ends > 0 && d->asked->room.paths > 1; }

static qn_status add_items(drafting *d, step_room *s, qn_diag *diag) {
  const qn_draft *out = d->asked->out;
  if (d->depth == 0) {
    add_text(d, s);
  } else if (in_tree(d)) {
    return add_ends(d, s, diag);
  } else {
    (void)add_item(d, s, out->tokens[out->count - 1], d->sequence, true);
  }
  return QN_OK;
}

// One guess after another, which stay in the cache: those that come true are not evaluated again.
static qn_status take_guess(drafting *d, const float *logits, qn_diag *diag) {
  qn_draft *out = d->asked->out;
  int32_t token = 0;
  qn_diag why = {0};
  if (qn_sampler_sample(d->sampler, logits, &token, &why) != QN_OK) return no_numbers(d, &why, diag);
  d->done = d->odds && !tell_odds(d, out);
  if (d->done) return QN_OK;
  qn_draft_add(out, out->count - 1, token);
  d->depth++;
  d->done = out->count == d->most;
  if (!d->done) qn_sampler_accept(d->sampler, token);
  return QN_OK;
}

static qn_status take_ends(drafting *d, qn_diag *diag) {
  const int32_t *ends = d->ends_of[d->depth % 2];
  for (int32_t i = 0; i < d->added; i++)
    QN_TRY(grow(d, ends[d->end_at++], qn_decoder_logits(d->decoder, d->first_row + (size_t)i), diag));
  if (d->end_at == d->end_count) go_deeper(d);
  return QN_OK;
}

// What came of its items.
static qn_status take_rows(drafting *d, const qn_decoder_item *items, qn_diag *diag) {
  const float *logits = qn_decoder_logits(d->decoder, d->first_row);
  if (d->depth > 0 && in_tree(d)) return take_ends(d, diag);
  int32_t *cached = d->cached + qn_decoder_position(d->decoder, d->sequence) - d->added;
  for (int32_t i = 0; i < d->added; i++) cached[i] = items[i].token;
  if (d->depth == 0 && text_left(d) > 0) return QN_OK;
  if (!in_tree(d)) return take_guess(d, logits, diag);
  QN_TRY(grow(d, QN_DRAFT_ROOT, logits, diag));
  go_deeper(d);
  return QN_OK;
}

// --- all of them

// What of the text is in the cache stays there, but at least its last token is evaluated.
static void begin_guessing(drafting *d, const qn_proposal *asked) {
  const qn_propose_text *text = &asked->text;
  int64_t fits = qn_decoder_context(d->decoder) / 2;
  d->asked = asked;
  d->most = asked->room.depth < fits ? asked->room.depth : (int32_t)fits;
  d->done = d->most < 1 || !d->sampler;
  if (d->done) return;
  size_t from = choose_beginning(d, text, (size_t)d->most);
  if (from != d->from) qn_decoder_reset(d->decoder, d->sequence);
  d->from = from;
  size_t held = common(d, text);
  if (held == text->count - from && held > 0) held--;
  qn_decoder_truncate(d->decoder, d->sequence, (int64_t)held);  // to none, where a window moved on too far
  qn_sampler_follow(d->sampler, text->sampler);
  if (d->odds) qn_sampler_diverge(d->sampler);
  d->odds_used = d->depth = d->growth.count = 0;
}

static bool has_much_text(const drafting *d) { return d->depth == 0 && text_left(d) > NEW_TOKENS; }

// Those that have few tokens go first, so that a long text, which takes several steps, keeps none of the others waiting.
static qn_status step_all(const qn_proposal *first, bool *out_more, qn_diag *diag) {
  qn_decoder *decoder = ((drafting *)first->proposer)->decoder;
  qn_decoder_item items[STEP_TOKENS];
  int64_t chunk = qn_decoder_chunk(decoder);
  step_room s = {items, 0, chunk < STEP_TOKENS ? (int32_t)chunk : STEP_TOKENS, 0, qn_decoder_rows(decoder)};
  for (int much = 0; much < 2; much++) {
    for (const qn_proposal *a = first; a; a = a->next) {
      drafting *d = (drafting *)a->proposer;
      if (!much) d->added = d->wanted = 0;
      if (!d->done && has_much_text(d) == (bool)much) QN_TRY(add_items(d, &s, diag));
    }
  }
  *out_more = s.count > 0;
  if (s.count == 0) return QN_OK;
  QN_TRY(qn_decoder_step(decoder, items, (size_t)s.count, diag));
  for (const qn_proposal *a = first; a; a = a->next) {
    drafting *d = (drafting *)a->proposer;
    if (d->added > 0) QN_TRY(take_rows(d, items + d->first_item, diag));
  }
  return QN_OK;
}

static qn_status propose_all(const qn_proposal *first, qn_diag *diag) {
  qn_executor *executor = qn_decoder_executor(((drafting *)first->proposer)->decoder);
  qn_status status = QN_OK;
  bool more = true;
  for (const qn_proposal *a = first; a; a = a->next) begin_guessing((drafting *)a->proposer, a);
  qn_executor_hold(executor);
  while (status == QN_OK && more) status = step_all(first, &more, diag);
  qn_executor_release(executor);
  for (const qn_proposal *a = first; a; a = a->next) {
    drafting *d = (drafting *)a->proposer;
    if (status != QN_OK) a->out->count = 0;
    for (int32_t i = 1; in_tree(d) && i <= 2 * d->ends; i++) qn_decoder_reset(d->decoder, d->sequence + i);
    d->asked = NULL;
  }
  return status;
}

static qn_status propose(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                         qn_diag *diag) {
  return propose_all(&(qn_proposal){self, *text, *room, out, NULL}, diag);
}

static const void *shared(const qn_proposer *self) { return ((const drafting *)self)->decoder; }

static void forget_sampler(drafting *d) {
  if (d->odds) qn_free(d->allocator, d->odds, odds_room(d) * sizeof *d->odds);
  qn_sampler_destroy(d->sampler);
  d->odds = NULL;
  d->sampler = NULL;
}

static qn_status begin(qn_proposer *self, const qn_sampler *sampler, qn_diag *diag) {
  drafting *d = (drafting *)self;
  if (d->sampler && qn_sampler_alike(d->sampler, sampler)) return QN_OK;
  if (qn_sampler_vocab(sampler) > qn_decoder_vocab(d->decoder))
    return qn_fail(diag, QN_ERR_ARGUMENT, qn_decoder_path(d->decoder),
                   "the draft model has logits of %d tokens, want those of %d", (int)qn_decoder_vocab(d->decoder),
                   (int)qn_sampler_vocab(sampler));
  forget_sampler(d);
  QN_TRY(qn_sampler_clone(sampler, d->allocator, &d->sampler, diag));
  if (!d->judged) return QN_OK;
  d->odds = qn_alloc(d->allocator, odds_room(d) * sizeof *d->odds);
  if (d->odds) return QN_OK;
  forget_sampler(d);
  return qn_fail_nomem(diag, "draft", "what guesses are drawn from");
}

static void destroy(qn_proposer *self) {
  drafting *d = (drafting *)self;
  qn_decoder_reset(d->decoder, d->sequence);
  forget_sampler(d);
  qn_free(d->allocator, d->growth.nodes, (size_t)d->growth.capacity * sizeof *d->growth.nodes);
  qn_free(d->allocator, d->cached, (size_t)qn_decoder_context(d->decoder) * sizeof *d->cached);
  qn_free(d->allocator, d, sizeof *d);
}

static bool take_memory(drafting *d) {
  d->cached = qn_alloc(d->allocator, (size_t)qn_decoder_context(d->decoder) * sizeof *d->cached);
  if (d->ends == 0) return d->cached != NULL;
  d->growth.capacity = (MOST_DEPTH * d->ends + 1) * QN_CHOICES_MOST;
  d->growth.nodes = qn_alloc(d->allocator, (size_t)d->growth.capacity * sizeof *d->growth.nodes);
  return d->cached && d->growth.nodes;
}

void qn_propose_draft_judged(qn_proposer *draft) { ((drafting *)draft)->judged = true; }

qn_status qn_propose_draft_create(qn_decoder *decoder, int32_t sequence, int32_t ends, const qn_allocator *allocator,
                                  qn_proposer **out, qn_diag *diag) {
  static const qn_proposer_type type = {.name = "draft",
                                        .branches = true,
                                        .begin = begin,
                                        .propose = propose,
                                        .propose_all = propose_all,
                                        .shared = shared,
                                        .destroy = destroy};
  *out = NULL;
  if (sequence < 0 || sequence >= qn_decoder_sequences(decoder))
    return qn_fail(diag, QN_ERR_ARGUMENT, "draft", "got sequence %d, want 0 to %d", (int)sequence,
                   (int)qn_decoder_sequences(decoder) - 1);
  if (ends < 0 || ends > MOST_ENDS || ends > qn_decoder_rows(decoder) ||
      2 * ends >= qn_decoder_sequences(decoder) - sequence)
    return qn_fail(diag, QN_ERR_ARGUMENT, "draft",
                   "got %d guesses to go on from, want 0 to %d, as many as there are rows, and two sequences for each",
                   (int)ends, MOST_ENDS);
  drafting *d = qn_alloc_zeroed(allocator, sizeof *d);
  if (!d) return qn_fail_nomem(diag, "draft", "the proposer");
  d->base.type = &type;
  d->allocator = allocator;
  d->decoder = decoder;
  d->sequence = sequence;
  d->ends = ends;
  if (!take_memory(d)) {
    destroy(&d->base);
    return qn_fail_nomem(diag, "draft", "the text");
  }
  *out = &d->base;
  return QN_OK;
}
