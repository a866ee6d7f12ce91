// A draft model goes on with the text in a cache of its own. It keeps what of it is still the text's beginning, so that
// each time only what is new is evaluated. In a tree the likeliest guesses of each depth go on in one step, each in a
// sequence of its own that is a fork of the one before it.
#include <string.h>

#include "runtime/propose_tree.h"

#define TRY_TOKENS 16
#define MOST_DEPTH 64  // of a tree
#define MOST_ENDS  16
#define ODDS       4

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
} drafting;

// Tells cached[0 .. position) from the text: how many are still its tokens.
static size_t common(const drafting *d, const qn_propose_text *text) {
  size_t held = (size_t)qn_decoder_position(d->decoder, d->sequence), n = 0;
  size_t most = text->count > d->from ? text->count - d->from : 0;
  if (held < most) most = held;
  while (n < most && d->cached[n] == text->tokens[d->from + n]) n++;
  return n;
}

static qn_status eval(drafting *d, const int32_t *tokens, size_t count, const float **out_logits, qn_diag *diag) {
  size_t at = (size_t)qn_decoder_position(d->decoder, d->sequence);
  QN_TRY(qn_decoder_eval(d->decoder, d->sequence, tokens, count, NULL, out_logits, diag));
  memcpy(d->cached + at, tokens, count * sizeof *tokens);
  return QN_OK;
}

// Evaluates what of the text is new: at least its last token.
static qn_status catch_up(drafting *d, const qn_propose_text *text, const float **out_logits, qn_diag *diag) {
  size_t held = common(d, text);
  if (held == text->count - d->from && held > 0) held--;
  qn_decoder_truncate(d->decoder, d->sequence, (int64_t)held);
  held = (size_t)qn_decoder_position(d->decoder, d->sequence);  // none, where a window moved on too far
  return eval(d, text->tokens + d->from + held, text->count - d->from - held, out_logits, diag);
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

// One guess after another, which stay in the cache: those that come true are not evaluated again.
static qn_status propose_chain(drafting *d, int32_t most, const float *logits, qn_draft *out, qn_diag *diag) {
  for (;;) {
    int32_t token = 0;
    qn_diag why = {0};
    if (qn_sampler_sample(d->sampler, logits, &token, &why) != QN_OK) return no_numbers(d, &why, diag);
    if (d->odds && !tell_odds(d, out)) return QN_OK;
    qn_draft_add(out, out->count - 1, token);
    if (out->count == most) return QN_OK;
    qn_sampler_accept(d->sampler, token);
    QN_TRY(eval(d, &token, 1, &logits, diag));
  }
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

static qn_status grow(drafting *d, const qn_propose_text *text, int32_t node, const float *logits, qn_diag *diag) {
  qn_choice choices[QN_CHOICES_MOST];
  int32_t count = 0;
  qn_diag why = {0};
  follow_to(d, text, node);
  if (qn_choices_take(d->sampler, logits, QN_CHOICES_MOST, true, choices, &count, &why) != QN_OK) return no_numbers(d, &why, diag);
  qn_growth_add(&d->growth, node, choices, count);
  return QN_OK;
}

// The sequence that holds the index-th of the guesses of a depth that are gone on from: those of the next depth are beside.
static int32_t row_of(const drafting *d, int32_t depth, int32_t index) {
  return d->sequence + 1 + depth % 2 * d->ends + index;
}

// One depth: evaluates the guesses `ends`, each after its parent, which is one of `before`.
static qn_status go_on(drafting *d, const qn_propose_text *text, int32_t depth, const int32_t *before, const int32_t *ends,
                       int32_t count, qn_diag *diag) {
  qn_decoder_item items[MOST_ENDS];
  int64_t length = qn_decoder_position(d->decoder, d->sequence) + depth - 1;
  for (int32_t i = 0; i < count; i++) {
    const qn_growth_node *n = &d->growth.nodes[ends[i]];
    int32_t row = row_of(d, depth, i), from = d->sequence;
    for (int32_t k = 0; depth > 1 && k < d->ends; k++)
      if (before[k] == n->parent) from = row_of(d, depth - 1, k);
    QN_TRY(qn_decoder_fork(d->decoder, from, length, row, diag));
    items[i] = (qn_decoder_item){n->token, row, true};
  }
  QN_TRY(qn_decoder_step(d->decoder, items, (size_t)count, diag));
  for (int32_t i = 0; i < count; i++) QN_TRY(grow(d, text, ends[i], qn_decoder_logits(d->decoder, (size_t)i), diag));
  return QN_OK;
}

static qn_status propose_tree(drafting *d, const qn_propose_text *text, const qn_draft_room *room, int32_t most,
                              const float *logits, qn_draft *out, qn_diag *diag) {
  int32_t ends[2][MOST_ENDS];
  d->growth.count = 0;
  qn_status status = grow(d, text, QN_DRAFT_ROOT, logits, diag);
  for (int32_t depth = 1; status == QN_OK && depth < most && depth < MOST_DEPTH; depth++) {
    int32_t *now = ends[depth % 2];
    int32_t count = qn_growth_frontier(&d->growth, depth, room, d->ends, now);
    if (count == 0) break;
    for (int32_t i = count; i < d->ends; i++) now[i] = QN_DRAFT_ROOT;  // no node's parent from here on
    status = go_on(d, text, depth, ends[1 - depth % 2], now, count, diag);
  }
  for (int32_t i = 1; i <= 2 * d->ends; i++) qn_decoder_reset(d->decoder, d->sequence + i);
  if (status == QN_OK) qn_growth_harvest(&d->growth, room, out);
  return status;
}

static qn_status propose(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                         qn_diag *diag) {
  drafting *d = (drafting *)self;
  int64_t fits = qn_decoder_context(d->decoder) / 2;
  int32_t most = room->depth < fits ? room->depth : (int32_t)fits;
  if (most < 1 || !d->sampler) return QN_OK;
  size_t from = choose_beginning(d, text, (size_t)most);
  if (from != d->from) qn_decoder_reset(d->decoder, d->sequence);
  d->from = from;
  const float *logits = NULL;
  QN_TRY(catch_up(d, text, &logits, diag));
  qn_sampler_follow(d->sampler, text->sampler);
  if (d->odds) qn_sampler_diverge(d->sampler);
  d->odds_used = 0;
  if (d->ends > 0 && room->paths > 1) return propose_tree(d, text, room, most, logits, out, diag);
  return propose_chain(d, most, logits, out, diag);
}

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
  static const qn_proposer_type type = {
      .name = "draft", .branches = true, .begin = begin, .propose = propose, .destroy = destroy};
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
