// One step: whose tokens are in it, how many of prompts beside those that decode, and what comes of it. All tokens of a
// request are alike: what is left of them is evaluated, and the last one's logits give the next. That it is one token
// which is left means decoding; several are a prompt, or what was in the cache before a preemption.
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "runtime/scheduler_impl.h"

int64_t qn_scheduler_tokens_left(const qn_request *r) { return r->count - r->evaluated; }
bool qn_scheduler_runs(const qn_request *r) { return r->row >= 0; }

// --- how long a step takes

#define PACE_KEPT 0.97  // of the weight of what is known, with each step

static void note_pace(qn_pace *p, double tokens, double time) {
  p->weight = p->weight * PACE_KEPT + 1;
  p->tokens = p->tokens * PACE_KEPT + tokens;
  p->time = p->time * PACE_KEPT + time;
  p->tokens_squared = p->tokens_squared * PACE_KEPT + tokens * tokens;
  p->tokens_time = p->tokens_time * PACE_KEPT + tokens * time;
}

double qn_pace_slope(const qn_pace *p) {
  if (p->weight == 0) return 0;
  double n = p->tokens / p->weight, t = p->time / p->weight, spread = p->tokens_squared / p->weight - n * n;
  double slope = spread > 0.01 * n * n ? (p->tokens_time / p->weight - n * t) / spread : 0;
  return slope > 0 ? slope : 0;
}

// Tokens that a step of at most `time` may have. Where the slope is not known every token is taken to cost its even
// share, which is more than it does.
static double tokens_within(const qn_pace *p, double time) {
  if (p->weight == 0) return 0;
  double n = p->tokens / p->weight, t = p->time / p->weight, slope = qn_pace_slope(p);
  if (slope <= 0) slope = t / n;
  return slope > 0 ? n + (time - t) / slope : 0;
}

// --- the plan

// Prompts get on whatever decodes: so much of a step is theirs.
static int64_t least_prompt(const qn_scheduler *s) {
  int64_t half = s->options.step_tokens / 2;
  return half < QN_SCHEDULER_LEAST_PROMPT ? half : QN_SCHEDULER_LEAST_PROMPT;
}

// Who runs, in the order of the list, since making room takes some out of it.
static size_t take_order(qn_scheduler *s) {
  size_t count = 0;
  for (qn_request *r = s->running.first; r; r = r->next) {
    r->step_tokens = r->step_pages = 0;
    r->wanted = r->asked = false;
    r->guesses = 0;
    s->order[count++] = r;
  }
  return count;
}

static void plan_tokens(qn_scheduler *s, qn_request *r, int64_t tokens) {
  r->step_pages = qn_scheduler_more_pages(s, r, tokens);
  s->planned_pages += r->step_pages;
  r->step_tokens = tokens;
  r->wanted = tokens == qn_scheduler_tokens_left(r);
}

// Is it one token that is done of it, for which it needs one of the rows whose logits are wanted?
static bool takes_one(const qn_scheduler *s, const qn_request *r) {
  bool fills = qn_decoder_fills_with_row(s->decoder) && qn_decoder_keys_left(s->decoder, r->row) == 1;
  return fills || qn_scheduler_tokens_left(r) == 1;
}

// One token each of those that decode, who had none for longest first: rows whose logits are wanted may be fewer.
static int64_t plan_decoding(qn_scheduler *s, size_t count, int64_t budget, int64_t rows) {
  int64_t used = 0;
  for (size_t i = 0; i < count && used < budget && used < rows; i++) {
    qn_request *r = s->order[i];
    if (!r || !qn_scheduler_runs(r) || !takes_one(s, r)) continue;
    if (!qn_scheduler_make_room(s, r, 1)) {
      s->order[i] = NULL;
      continue;
    }
    plan_tokens(s, r, 1);
    used++;
  }
  return used;
}

static int64_t plan_prompts(qn_scheduler *s, size_t count, int64_t budget, int64_t rows) {
  int64_t used = 0;
  for (size_t i = 0; i < count && used < budget; i++) {
    qn_request *r = s->order[i];
    if (!r || !qn_scheduler_runs(r) || qn_scheduler_tokens_left(r) < 2 || r->step_tokens > 0) continue;
    int64_t tokens = qn_scheduler_tokens_left(r) < budget - used ? qn_scheduler_tokens_left(r) : budget - used;
    int64_t keys = qn_decoder_keys_left(s->decoder, r->row);  // then others are given up
    if (tokens > keys) tokens = keys;
    bool row = tokens == qn_scheduler_tokens_left(r) || (tokens == keys && qn_decoder_fills_with_row(s->decoder));
    if (row && rows == 0) tokens--;
    if (tokens == 0) continue;
    if (!qn_scheduler_make_room(s, r, tokens)) {
      s->order[i] = NULL;
      continue;
    }
    plan_tokens(s, r, tokens);
    rows -= row && rows > 0;
    used += tokens;
  }
  return used;
}

// Tokens of prompts beside `decoding` others.
static int64_t prompt_budget(const qn_scheduler *s, int64_t decoding) {
  int64_t room = s->options.step_tokens - decoding;
  if (decoding == 0 || s->options.longest_wait_ns == 0) return room;
  double most = tokens_within(&s->pace, (double)s->options.longest_wait_ns) - (double)decoding;
  int64_t least = QN_SCHEDULER_LEAST_PROMPT < room ? QN_SCHEDULER_LEAST_PROMPT : room;
  return most < (double)least ? least : most < (double)room ? (int64_t)most : room;
}

static void plan(qn_scheduler *s) {
  size_t count = take_order(s);
  int64_t rows = qn_decoder_rows(s->decoder), prompts = 0;
  s->planned_pages = 0;
  for (size_t i = 0; i < count; i++) prompts += qn_scheduler_tokens_left(s->order[i]) > 1;
  int64_t room = s->options.step_tokens - (prompts > 0 ? least_prompt(s) : 0);
  int64_t decoding = plan_decoding(s, count, room, rows);
  s->decodes = decoding > 0;
  s->decoding = decoding;
  room = (room < rows - (prompts > 0) ? room : rows - (prompts > 0)) - decoding;
  decoding += qn_scheduler_plan_guesses(s, count, room);
  plan_prompts(s, count, prompt_budget(s, decoding), rows - decoding);
}

// The step's tokens, of who still has a place in it.
static void lay_out(qn_scheduler *s) {
  s->item_count = s->wanted_count = s->tree_count = 0;
  for (qn_request *r = s->running.first; r; r = r->next) {
    int64_t own = r->step_tokens - r->guesses;
    for (int64_t i = 0; i < own; i++) {
      bool wanted = r->wanted && i + 1 == own;
      if (wanted) r->first_wanted = s->wanted_count++;
      s->items[s->item_count++] = (qn_decoder_item){r->tokens[r->evaluated + i], r->row, wanted};
    }
    if (r->guesses > 0)
      s->trees[s->tree_count++] = (qn_decoder_tree){s->item_count - 1, (size_t)r->guesses, r->draft->parents};
    for (int64_t i = 0; i < r->guesses; i++, s->wanted_count++)
      s->items[s->item_count++] = (qn_decoder_item){r->draft->tokens[i], r->row, true};
  }
}

// --- what came of it

static void count_evaluated(qn_scheduler *s, qn_request *r) {
  int64_t again = r->furthest - r->evaluated, own = r->step_tokens - r->guesses;
  if (again > own) again = own;
  if (again > 0) s->stats.recomputed_tokens += again;
  r->client->served += r->step_tokens;
  int64_t prompt = r->prompt_count - r->evaluated;
  if (prompt > own) prompt = own;
  if (prompt > 0) s->stats.prompt_tokens += prompt;
  r->evaluated += own;
  // Not with guesses behind it, which may be taken back.
  if (prompt > 0 && r->evaluated >= r->prompt_count && r->guesses == 0) qn_decoder_keep(s->decoder, r->row);
  if (r->evaluated > r->furthest) r->furthest = r->evaluated;
}

static void take_results(qn_scheduler *s, size_t count) {
  for (size_t i = 0; i < count; i++) {
    qn_request *r = s->order[i];
    bool end = false;
    qn_diag diag = {0};
    if (!r->wanted) continue;
    qn_status status = qn_scheduler_take_tokens(s, r, &end, &diag);
    if (status == QN_OK && !end) {  // to the end of the list: who had no token for longest is first
      qn_request_list_remove(&s->running, r);
      qn_request_list_append(&s->running, r);
      continue;
    }
    if (status == QN_OK) qn_request_finish_text(r);
    qn_request_end(s, r, status == QN_OK ? NULL : &diag);
  }
}

static void count_slots(qn_scheduler *s) {
  int64_t used = s->stats.pages - qn_scheduler_free_pages(s), unused = 0;
  for (const qn_request *r = s->running.first; r; r = r->next)
    unused += qn_scheduler_pages_of(s, qn_scheduler_keys(s, r)) * s->page_keys - qn_scheduler_keys(s, r);
  s->stats.slots += (uint64_t)(used * s->page_keys);
  s->stats.slots_unused += (uint64_t)unused;
  if (used > s->stats.most_pages) s->stats.most_pages = used;
}

// After a step that failed all are as before; but an error while keys were given up leaves one empty: it is evaluated again.
static void take_back(qn_scheduler *s) {
  for (qn_request *r = s->running.first; r; r = r->next) {
    qn_decoder_truncate(s->decoder, r->row, r->evaluated);
    r->evaluated = qn_decoder_position(s->decoder, r->row);
  }
}

static qn_status run(qn_scheduler *s, qn_diag *diag) {
  size_t count = 0;
  uint64_t begin = qn_scheduler_now(s);
  qn_status status = qn_decoder_step_trees(s->decoder, s->items, s->item_count, s->trees, s->tree_count, diag);
  if (status != QN_OK) {
    take_back(s);
    return status;
  }
  for (qn_request *r = s->running.first; r; r = r->next) {
    if (r->step_tokens == 0) continue;
    count_evaluated(s, r);
    s->order[count++] = r;
  }
  uint64_t took = qn_scheduler_now(s) - begin;
  note_pace(&s->pace, (double)s->item_count, (double)took);
  if (s->decodes && took > s->stats.longest_step_ns) s->stats.longest_step_ns = took;
  s->stats.steps++;
  count_slots(s);
  take_results(s, count);
  return QN_OK;
}

qn_status qn_scheduler_step(qn_scheduler *s, size_t *out_left, uint64_t *out_idle_ns, qn_diag *diag) {
  qn_status status = QN_OK;
  *out_idle_ns = 0;
  qn_scheduler_take_in(s);
  qn_scheduler_admit(s);
  plan(s);
  lay_out(s);
  if (s->item_count > 0) {
    status = run(s, diag);
  } else {
    *out_idle_ns = qn_scheduler_idle_ns(s);
  }
  *out_left = qn_scheduler_left(s);
  return status;
}
