// A draft model goes on with the text in a cache of its own. It keeps what of it is still the text's beginning, so that
// each time only what is new is evaluated.
#include <string.h>

#include "runtime/propose.h"

#define TRY_TOKENS 16

typedef struct drafting {
  qn_proposer base;
  const qn_allocator *allocator;  // borrowed
  qn_decoder *decoder;            // borrowed
  int32_t sequence;
  qn_sampler *sampler;  // owned; NULL before the first text
  int32_t *cached;      // owned (context): tokens in the decoder's sequence, its position many
  size_t from;          // where in the text they begin: 0 as long as the text fits
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
  if (most == 1 && text->count > d->from + TRY_TOKENS + common(d, text)) return text->count - TRY_TOKENS;
  bool fits = text->count >= d->from && text->count - d->from + most <= context;
  if (fits && (d->from == 0 || text->count - d->from >= context / 4)) return d->from;
  size_t keep = context / 2 > 0 ? context / 2 : 1;
  return text->count + most <= context || text->count <= keep ? 0 : text->count - keep;
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
  for (;;) {
    int32_t token = 0;
    qn_diag why = {0};
    if (qn_sampler_sample(d->sampler, logits, &token, &why) != QN_OK)
      return qn_fail(diag, QN_ERR_FORMAT, qn_decoder_path(d->decoder),
                     "the draft model's logits are not numbers (%s): its weights may be damaged, try --check-weights",
                     why.text);
    qn_draft_add(out, out->count - 1, token);
    if (out->count == most) return QN_OK;
    qn_sampler_accept(d->sampler, token);
    QN_TRY(eval(d, &token, 1, &logits, diag));
  }
}

static qn_status begin(qn_proposer *self, const qn_sampler *sampler, qn_diag *diag) {
  drafting *d = (drafting *)self;
  if (d->sampler && qn_sampler_alike(d->sampler, sampler)) return QN_OK;
  if (qn_sampler_vocab(sampler) > qn_decoder_vocab(d->decoder))
    return qn_fail(diag, QN_ERR_ARGUMENT, qn_decoder_path(d->decoder),
                   "the draft model has logits of %d tokens, want those of %d", (int)qn_decoder_vocab(d->decoder),
                   (int)qn_sampler_vocab(sampler));
  qn_sampler_destroy(d->sampler);
  d->sampler = NULL;
  return qn_sampler_clone(sampler, d->allocator, &d->sampler, diag);
}

static void destroy(qn_proposer *self) {
  drafting *d = (drafting *)self;
  qn_decoder_reset(d->decoder, d->sequence);
  qn_sampler_destroy(d->sampler);
  qn_free(d->allocator, d->cached, (size_t)qn_decoder_context(d->decoder) * sizeof *d->cached);
  qn_free(d->allocator, d, sizeof *d);
}

qn_status qn_propose_draft_create(qn_decoder *decoder, int32_t sequence, const qn_allocator *allocator,
                                  qn_proposer **out, qn_diag *diag) {
  static const qn_proposer_type type = {.name = "draft", .begin = begin, .propose = propose, .destroy = destroy};
  *out = NULL;
  if (sequence < 0 || sequence >= qn_decoder_sequences(decoder))
    return qn_fail(diag, QN_ERR_ARGUMENT, "draft", "got sequence %d, want 0 to %d", (int)sequence,
                   (int)qn_decoder_sequences(decoder) - 1);
  drafting *d = qn_alloc_zeroed(allocator, sizeof *d);
  if (!d) return qn_fail_nomem(diag, "draft", "the proposer");
  d->base.type = &type;
  d->allocator = allocator;
  d->decoder = decoder;
  d->sequence = sequence;
  d->cached = qn_alloc(allocator, (size_t)qn_decoder_context(decoder) * sizeof *d->cached);
  if (!d->cached) {
    destroy(&d->base);
    return qn_fail_nomem(diag, "draft", "the text");
  }
  *out = &d->base;
  return QN_OK;
}
