// Prompt lookup: texts repeat themselves, and what came after the same words before is a guess that costs nothing.
#include "runtime/propose.h"

#define LONGEST 16  // tokens of agreement: more tell no more

typedef struct lookup {
  qn_proposer base;
  const qn_allocator *allocator;  // borrowed
  size_t found, agreement;        // by the last look: where the text goes on, and how many tokens before it agree
} lookup;

// How many tokens before `end` are those at the text's end, up to LONGEST.
static size_t agreement_at(const qn_propose_text *text, size_t end) {
  size_t n = 0;
  while (n < end && n < LONGEST && text->tokens[end - 1 - n] == text->tokens[text->count - 1 - n]) n++;
  return n;
}

// The longest agreement, of equals the latest.
static int32_t look(qn_proposer *self, const qn_propose_text *text) {
  lookup *l = (lookup *)self;
  l->agreement = 0;
  for (size_t end = text->count - 1; end > l->agreement && l->agreement < LONGEST; end--) {
    size_t n = agreement_at(text, end);
    if (n <= l->agreement) continue;
    l->agreement = n;
    l->found = end;
  }
  return l->agreement < QN_DRAFT_KINDS ? (int32_t)l->agreement - (l->agreement > 0) : QN_DRAFT_KINDS - 1;
}

static qn_status propose(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                         qn_diag *diag) {
  (void)diag;
  const lookup *l = (const lookup *)self;
  for (int32_t i = 0; l->agreement > 0 && i < room->depth; i++) {
    size_t at = l->found + (size_t)i;  // beyond the text's end it repeats what was guessed
    qn_draft_add(out, i - 1, at < text->count ? text->tokens[at] : out->tokens[at - text->count]);
  }
  return QN_OK;
}

static void destroy(qn_proposer *self) {
  lookup *l = (lookup *)self;
  qn_free(l->allocator, l, sizeof *l);
}

qn_status qn_propose_lookup_create(const qn_allocator *allocator, qn_proposer **out, qn_diag *diag) {
  static const qn_proposer_type type = {.name = "lookup", .look = look, .propose = propose, .destroy = destroy};
  *out = NULL;
  lookup *l = qn_alloc_zeroed(allocator, sizeof *l);
  if (!l) return qn_fail_nomem(diag, "lookup", "the proposer");
  l->base.type = &type;
  l->allocator = allocator;
  *out = &l->base;
  return QN_OK;
}
