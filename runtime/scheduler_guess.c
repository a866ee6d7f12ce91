// Guesses in the scheduler: who may be guessed at in a step, how far, and what came true. Those whose guesses come from
// one draft model, or from the same heads, have them made together.
#include "runtime/scheduler_impl.h"

#include <string.h>

// --- how far

// What a step has left for guesses.
typedef struct spare {
  int64_t tokens, pages, paths;  // paths: rows of the block table for those of trees
} spare;

// Pages that prompts are yet to take, which were promised to them when they were admitted.
static int64_t prompt_pages(const qn_scheduler *s, size_t count) {
  int64_t pages = 0;
  for (size_t i = 0; i < count; i++) {
    const qn_request *r = s->order[i];
    if (!r || !qn_scheduler_runs(r) || qn_scheduler_tokens_left(r) < 2) continue;
    pages += qn_scheduler_promised_pages(s, r);
  }
  return pages;
}

// Pages of so many guesses after its last token; and those of each path of a tree but the first, which has its own last
// page.
static int64_t pages_of_guesses(const qn_scheduler *s, const qn_request *r, int64_t depth) {
  int64_t keys = qn_scheduler_keys(s, r) + 1;
  return qn_scheduler_pages_of(s, keys + depth) - qn_scheduler_pages_of(s, keys);
}
static int64_t pages_of_path(const qn_scheduler *s, const qn_request *r, int64_t depth) {
  int64_t keys = qn_scheduler_keys(s, r);
  return qn_scheduler_pages_of(s, keys + 1 + depth) - keys / s->page_keys;
}

// How many tokens may be guessed after the last one: no more than it can have, by its last page and `pages` others.
static int64_t most_guesses(const qn_scheduler *s, const qn_request *r, int64_t tokens, int64_t pages) {
  int64_t most = s->most_tokens - r->evaluated - 1, keys = qn_scheduler_keys(s, r) + 1;
  int64_t fit = (qn_scheduler_pages_of(s, keys) + (pages > 0 ? pages : 0)) * s->page_keys - keys;
  int64_t kept = qn_decoder_keys_left(s->decoder, r->row) - 2;  // with the last key others are given up for good
  if (most > fit) most = fit;
  if (most > kept) most = kept;
  if (r->max_tokens > 0 && most > r->max_tokens - r->result.generated_tokens - 1)
    most = r->max_tokens - r->result.generated_tokens - 1;
  if (most > qn_speculator_most(r->speculator)) most = qn_speculator_most(r->speculator);
  return most < tokens ? most : tokens;
}

// Its share of what is left, where so many are yet to be asked.
static qn_draft_room room_of(const qn_scheduler *s, const qn_request *r, const spare *left, int64_t askers) {
  int64_t tokens = (left->tokens + askers - 1) / askers, paths = (left->paths + askers - 1) / askers;
  int64_t depth = most_guesses(s, r, tokens, left->pages);
  if (depth < 1) return (qn_draft_room){0};
  int64_t fit = 1 + (left->pages - pages_of_guesses(s, r, depth)) / pages_of_path(s, r, depth);
  if (paths > left->paths) paths = left->paths;
  if (paths > fit) paths = fit;
  int64_t each = pages_of_path(s, r, depth);  // rings have two for each row that paths may have
  if (each > 2) paths = paths * 2 / each;
  return (qn_draft_room){(int32_t)tokens, (int32_t)depth, paths < 2 ? 1 : (int32_t)paths, 0};
}

// What guesses in so many tokens, so deep and on so many paths take at most.
static int64_t take(spare *left, const qn_scheduler *s, const qn_request *r, int64_t tokens, int64_t depth,
                    int64_t paths) {
  int64_t pages = pages_of_guesses(s, r, depth) + (paths - 1) * pages_of_path(s, r, depth);
  left->tokens -= tokens;
  left->pages -= pages;
  if (paths > 1) left->paths -= paths;
  return pages;
}

// --- making them

static bool asks(const qn_request *r) { return r && qn_scheduler_runs(r) && r->wanted && r->speculator; }

// Puts what was guessed into the step.
static int64_t settle(qn_scheduler *s, qn_request *r, spare *left) {
  int32_t deepest = 0, ends = 0;
  r->draft = qn_speculator_draft(r->speculator);
  r->guesses = r->draft->count;
  if (r->guesses == 0) return 0;
  for (int32_t i = 0; i < r->draft->count; i++) {
    int32_t depth = qn_draft_depth(r->draft, i);
    if (depth > deepest) deepest = depth;
    ends += !qn_draft_goes_on(r->draft, i);
  }
  int64_t pages = take(left, s, r, r->guesses, deepest, ends);
  s->planned_pages += pages;
  r->step_pages += pages;
  r->step_tokens += r->guesses;
  return r->guesses;
}

// Those of the order, from the index-th on, whose guesses are made by the same; gives how many there are.
static int64_t make_together(qn_scheduler *s, size_t index, size_t end, spare *left) {
  size_t asked = 0;
  int64_t used = 0;
  qn_diag diag = {0};
  for (size_t i = index; i < end; i++) {
    qn_request *r = s->order[i];
    if (!asks(r) || !r->asked) continue;
    if (asked == 0 || qn_speculator_together(s->asked[0], r->speculator)) s->asked[asked++] = r->speculator;
  }
  (void)!qn_speculator_make(s->asked, asked, &diag);  // an error leaves them without guesses, which costs time alone
  for (size_t i = index, made = 0; made < asked; i++) {
    qn_request *r = s->order[i];
    if (!asks(r) || r->speculator != s->asked[made]) continue;
    r->asked = false;
    used += settle(s, r, left);
    made++;
  }
  return used;
}

int64_t qn_scheduler_plan_guesses(qn_scheduler *s, size_t count, int64_t room) {
  int64_t used = 0, askers = 0;
  spare left = {room, qn_scheduler_free_pages(s) - s->planned_pages - prompt_pages(s, count),
                qn_decoder_path_rows(s->decoder)};
  for (size_t i = 0; i < count; i++) askers += asks(s->order[i]);
  for (size_t i = 0; i < count && left.tokens > 0; i++) {
    qn_request *r = s->order[i];
    if (!asks(r)) continue;
    qn_draft_room most = room_of(s, r, &left, askers--);
    qn_draft_room chosen = qn_speculator_choose(r->speculator, r->sampler, r->has_hidden ? r->hidden : NULL, &most);
    r->asked = chosen.tokens > 0;
    if (!r->asked) continue;
    if (qn_speculator_together(r->speculator, r->speculator)) {
      take(&left, s, r, chosen.tokens, chosen.depth, chosen.paths);  // it may guess less
    } else {
      used += make_together(s, i, i + 1, &left);
    }
  }
  for (size_t i = 0; i < count; i++) {
    spare unused = left;
    if (asks(s->order[i]) && s->order[i]->asked) used += make_together(s, i, count, &unused);
  }
  return used;
}

// --- what came of them

// Tells who guesses what a step costs a request: its share of what all have in common, and its own tokens. So guesses
// are cheap for one that is alone, and seldom pay in a large batch.
static void tell_pace(const qn_scheduler *s, const qn_request *r, int64_t decoding) {
  const qn_pace *p = &s->pace;
  double n = p->tokens / p->weight, t = p->time / p->weight, slope = qn_pace_slope(p), base = t - slope * n;
  double plain = (base > 0 ? base : 0) / (double)decoding + slope;
  if (slope <= 0) plain = t / (double)decoding;
  qn_speculator_time(r->speculator, 0, (uint64_t)plain + 1);
  if (slope > 0 && r->guesses > 0)
    qn_speculator_time(r->speculator, (int32_t)r->guesses, (uint64_t)(plain + slope * (double)r->guesses) + 1);
}

// The guesses up to `node` came true, `accepted` of them: the sequence is cut to those.
static void note_guesses(qn_scheduler *s, qn_request *r, int32_t node, int64_t accepted) {
  qn_speculator_note(r->speculator, node);
  r->result.proposed += r->guesses;
  r->result.accepted += accepted;
  s->stats.proposed += r->guesses;
  s->stats.accepted += accepted;
  qn_decoder_take_path(s->decoder, r->row, node);
  if (r->evaluated > r->furthest) r->furthest = r->evaluated;
}

qn_status qn_scheduler_take_tokens(qn_scheduler *s, qn_request *r, bool *out_end, qn_diag *diag) {
  int32_t node = QN_DRAFT_ROOT;
  int64_t accepted = 0;
  qn_status status = QN_OK;
  if (r->guesses > 0) qn_speculator_watch(r->speculator, s->decoder, r->first_wanted, false);
  for (;;) {
    const float *logits = qn_decoder_logits(s->decoder, r->first_wanted + (size_t)(node + 1));
    status = qn_request_take(s, r, logits, node, out_end, diag);
    s->stats.decode_tokens++;
    if (status != QN_OK || *out_end || r->guesses == 0) break;
    int32_t child = qn_draft_child(r->draft, node, r->tokens[r->count - 1]);
    if (child == QN_DRAFT_ROOT) break;
    node = child;
    accepted++;
    r->evaluated++;
  }
  const float *hidden = r->hidden ? qn_decoder_hidden(s->decoder, r->first_wanted + (size_t)(node + 1)) : NULL;
  if (hidden) memcpy(r->hidden, hidden, (size_t)r->hidden_width * sizeof *hidden);
  r->has_hidden = hidden != NULL;
  if (r->guesses > 0) note_guesses(s, r, node, accepted);
  if (r->speculator) tell_pace(s, r, s->decoding > 0 ? s->decoding : 1);
  r->result.passes++;
  return status;
}
