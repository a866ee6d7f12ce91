// The text that guesses are made from, and how many of them: by what came true and by what a guess costs.
#include "runtime/speculate.h"

#include <string.h>
#include <time.h>

// What came true of one kind of guess, and when it is tried again if none do.
typedef struct record {
  double right, wrong;   // of guesses, the older the less they count
  int32_t wait, waited;  // steps without guesses between tries; 0 = it is not given up
} record;

struct qn_speculator {
  const qn_allocator *allocator;  // borrowed
  qn_proposer *proposer;          // owned
  int32_t fixed, most;            // fixed 0: as many as pay
  int32_t *text;                  // owned (text_max)
  size_t text_max, count;
  int64_t base;    // the position of text[0] in the sequence
  qn_draft draft;  // arrays owned (most)
  int32_t *chosen;  // owned (most + 1): what the model would have chosen after the guesses
  bool watched;     // they are there
  bool judged;      // qn_speculate_options.judged
  qn_proposal asked;  // what was chosen, until it is made
  record records[QN_DRAFT_KINDS];
  double plain_ns;                // what a step without guesses takes; 0 = not known
  double verify_cost, make_cost;  // what one guess adds to a step, verified and made, in plain steps
  int32_t timed;                  // how often making guesses was timed, the first time included, which takes in the prompt
  double steps, lost;             // so far: how many; of their time, what guesses took more than they saved, in plain steps
  double try_cost;                // of making a guess after a while without, in plain steps
  qn_speculate_stats stats;
};

#define FIRST_WAIT   8
#define LONGEST_WAIT 512
#define TRY_SHARE    0.02  // of the time at most goes to tries that fail
#define TRY_TOKENS   4     // guesses that making one costs as much as after a while without
#define MEMORY       0.85  // how much a record counts after one more
#define SHARE_LESS   0.4   // of a new measurement in what a step takes, where it is less than was known
#define SHARE_MORE   0.1   // where it is more: other programs may have been at work
#define COST_MIN     0.005
#define COST_MAX     2.0

// --- drafts

int32_t qn_draft_add(qn_draft *draft, int32_t parent, int32_t token) {
  draft->parents[draft->count] = parent;
  draft->tokens[draft->count] = token;
  return draft->count++;
}

int32_t qn_draft_child(const qn_draft *draft, int32_t node, int32_t token) {
  for (int32_t i = node + 1; i < draft->count; i++) {
    if (draft->parents[i] == node && draft->tokens[i] == token) return i;
  }
  return QN_DRAFT_ROOT;
}

int32_t qn_draft_depth(const qn_draft *draft, int32_t node) {
  int32_t depth = 0;
  for (; node != QN_DRAFT_ROOT; node = draft->parents[node]) depth++;
  return depth;
}

bool qn_draft_branches(const qn_draft *draft) {
  for (int32_t i = 0; i < draft->count; i++)
    if (draft->parents[i] != i - 1) return true;
  return false;
}

static int32_t deepest(const qn_draft *draft) {
  int32_t most = 0;
  for (int32_t i = 0; i < draft->count; i++) {
    int32_t depth = qn_draft_depth(draft, i);
    if (depth > most) most = depth;
  }
  return most;
}

bool qn_draft_goes_on(const qn_draft *draft, int32_t node) {
  for (int32_t i = node + 1; i < draft->count; i++)
    if (draft->parents[i] == node) return true;
  return false;
}

void qn_proposer_destroy(qn_proposer *proposer) {
  if (proposer) proposer->type->destroy(proposer);
}

// --- life

static qn_status check(const qn_speculate_options *o, qn_diag *diag) {
  if (o->tokens < 0 || o->most < 0)
    return qn_fail(diag, QN_ERR_ARGUMENT, "speculation", "got %d guesses a step, want 1 or more, or 0 for as many as pay",
                   (int)(o->tokens < 0 ? o->tokens : o->most));
  if (o->text_max < 1)
    return qn_fail(diag, QN_ERR_ARGUMENT, "speculation", "got a text of %lld tokens, want at least 1",
                   (long long)o->text_max);
  return QN_OK;
}

static qn_status take_memory(qn_speculator *s, qn_diag *diag) {
  size_t bytes = 0;
  if (qn_size_mul(s->text_max, sizeof *s->text, &bytes)) s->text = qn_alloc(s->allocator, bytes);
  if (qn_size_mul((size_t)s->most, sizeof *s->draft.tokens, &bytes)) {
    s->draft.tokens = qn_alloc(s->allocator, bytes);
    s->draft.parents = qn_alloc(s->allocator, bytes);
  }
  if (qn_size_mul((size_t)s->most + 1, sizeof *s->chosen, &bytes)) s->chosen = qn_alloc(s->allocator, bytes);
  if (qn_size_mul((size_t)s->most, sizeof *s->draft.odds, &bytes)) s->draft.odds = qn_alloc_zeroed(s->allocator, bytes);
  if (qn_size_mul((size_t)s->most, sizeof *s->draft.odds_counts, &bytes))
    s->draft.odds_counts = qn_alloc_zeroed(s->allocator, bytes);
  s->draft.capacity = s->most;
  bool drafts = s->draft.tokens && s->draft.parents && s->draft.odds && s->draft.odds_counts;
  return s->chosen && s->text && drafts ? QN_OK : qn_fail_nomem(diag, "speculation", "the text");
}

qn_status qn_speculator_create(qn_proposer *proposer, const qn_speculate_options *options,
                               const qn_allocator *allocator, qn_speculator **out, qn_diag *diag) {
  *out = NULL;
  qn_status status = check(options, diag);
  qn_speculator *s = status == QN_OK ? qn_alloc_zeroed(allocator, sizeof *s) : NULL;
  if (!s) {
    qn_proposer_destroy(proposer);
    return status != QN_OK ? status : qn_fail_nomem(diag, "speculation", "its state");
  }
  s->allocator = allocator;
  s->proposer = proposer;
  s->fixed = options->tokens;
  s->most = options->tokens ? options->tokens : options->most ? options->most : QN_SPECULATE_MOST;
  s->text_max = (size_t)options->text_max;
  s->verify_cost = 0.15;
  s->make_cost = options->make_cost;
  s->try_cost = TRY_TOKENS * options->make_cost;
  s->judged = options->judged;
  for (int32_t k = 0; k < QN_DRAFT_KINDS; k++) s->records[k] = (record){.right = 1 + k, .wrong = 1};
  status = take_memory(s, diag);
  if (status != QN_OK) {
    qn_speculator_destroy(s);
    return status;
  }
  *out = s;
  return QN_OK;
}

void qn_speculator_destroy(qn_speculator *s) {
  if (!s) return;
  qn_proposer_destroy(s->proposer);
  qn_free(s->allocator, s->text, s->text_max * sizeof *s->text);
  qn_free(s->allocator, s->draft.tokens, (size_t)s->most * sizeof *s->draft.tokens);
  qn_free(s->allocator, s->draft.parents, (size_t)s->most * sizeof *s->draft.parents);
  qn_free(s->allocator, s->chosen, ((size_t)s->most + 1) * sizeof *s->chosen);
  qn_free(s->allocator, s->draft.odds, (size_t)s->most * sizeof *s->draft.odds);
  qn_free(s->allocator, s->draft.odds_counts, (size_t)s->most * sizeof *s->draft.odds_counts);
  qn_free(s->allocator, s, sizeof *s);
}

const char *qn_speculator_name(const qn_speculator *s) { return s->proposer->type->name; }
int32_t qn_speculator_most(const qn_speculator *s) { return s->most; }
void qn_speculator_get_stats(const qn_speculator *s, qn_speculate_stats *out) { *out = s->stats; }

// --- the text

qn_status qn_speculator_begin(qn_speculator *s, int64_t position, const qn_sampler *sampler, qn_diag *diag) {
  if (position < s->base || position - s->base > (int64_t)s->count) {
    s->base = position;  // what is before is not known
    s->count = 0;
  } else {
    s->count = (size_t)(position - s->base);
  }
  return s->proposer->type->begin ? s->proposer->type->begin(s->proposer, sampler, diag) : QN_OK;
}

static void drop_front(qn_speculator *s, size_t count) {
  memmove(s->text, s->text + count, (s->count - count) * sizeof *s->text);
  s->count -= count;
  s->base += (int64_t)count;
}

void qn_speculator_take(qn_speculator *s, const int32_t *tokens, size_t count) {
  if (count > s->text_max) {
    s->base += (int64_t)(s->count + count - s->text_max);
    s->count = 0;
    tokens += count - s->text_max;
    count = s->text_max;
  }
  size_t room = s->text_max - s->count;
  if (count > room) drop_front(s, count - room > s->count / 2 ? count - room : s->count / 2);
  memcpy(s->text + s->count, tokens, count * sizeof *tokens);
  s->count += count;
}

// --- how many

static double cost_of(const qn_speculator *s) { return s->verify_cost + s->make_cost; }

// How many guesses make a token cheapest, when each comes true as often as that record's did: n of them give
// 1 + p + ... + p^n tokens (Leviathan et al. 2023, section 3.1) and take 1 + n * cost. *out_pace: tokens in the time of a
// plain step then.
static int32_t how_many(const qn_speculator *s, const record *r, double *out_pace) {
  double rate = r->right / (r->right + r->wrong), cost = cost_of(s), tokens = 1, power = 1, best = 1;
  int32_t n = 0;
  for (int32_t i = 1; i <= s->most; i++) {
    tokens += power *= rate;
    if (tokens / (1 + i * cost) <= best) continue;
    best = tokens / (1 + i * cost);
    n = i;
  }
  *out_pace = best;
  return n;
}

// So many as pay; where none do, one now and then, ever more seldom while it fails, and only as far as such tries take little
// of the time. In a tree each guess pays whose chance is worth more than its cost at the pace that a chain would have.
static qn_draft_room choose(qn_speculator *s, record *r, bool branches) {
  const qn_draft_room none = {0}, one = {1, 1, 1, 0};
  if (s->fixed) return (qn_draft_room){s->fixed, s->fixed, branches ? s->fixed : 1, 0};
  if (s->plain_ns <= 0) return none;  // the first step shows what guesses are to be measured against
  double pace = 1;
  int32_t n = how_many(s, r, &pace);
  if (n > 0) {
    r->wait = 0;
    return branches ? (qn_draft_room){s->most, s->most, s->most, cost_of(s) * pace} : (qn_draft_room){n, n, 1, 0};
  }
  if (r->wait == 0) r->wait = FIRST_WAIT;
  if (++r->waited < r->wait || s->lost + s->try_cost + s->verify_cost > TRY_SHARE * s->steps) return none;
  r->waited = 0;
  r->wait = r->wait * 2 < LONGEST_WAIT ? r->wait * 2 : LONGEST_WAIT;
  return one;
}

static int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

// No more than there is room for.
static qn_draft_room within(qn_draft_room wanted, const qn_draft_room *room) {
  wanted.tokens = smaller(wanted.tokens, room->tokens);
  wanted.depth = smaller(smaller(wanted.depth, room->depth), wanted.tokens);
  wanted.paths = smaller(wanted.paths, room->paths);
  return wanted;
}

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double toward(double known, double measured) {
  return known + (measured < known ? SHARE_LESS : SHARE_MORE) * (measured - known);
}

static double clamped(double cost) { return cost < COST_MIN ? COST_MIN : cost > COST_MAX ? COST_MAX : cost; }

// What a guess took to make, in plain steps. A try after a while has more to do, to catch up with the text: it is not
// counted, nor is the first, which has all of the prompt.
static void time_making(qn_speculator *s, double cost) {
  if (s->timed == 1) s->make_cost = clamped(cost);
  if (s->timed > 1) s->make_cost = toward(s->make_cost, clamped(cost));
  if (s->timed < 2) s->timed++;
}

static void note_making(qn_speculator *s, double took) {
  s->lost += took + s->verify_cost * s->draft.count;
  if (s->records[s->draft.kind].wait > 0) {
    s->try_cost = toward(s->try_cost, took);
  } else if (s->draft.count > 0) {
    time_making(s, took / s->draft.count);
  }
}

qn_draft_room qn_speculator_choose(qn_speculator *s, const qn_sampler *sampler, const float *hidden,
                                   const qn_draft_room *room) {
  const qn_draft_room none = {0};
  s->draft.count = 0;
  s->asked = (qn_proposal){s->proposer, {s->text, s->count, sampler, hidden}, none, &s->draft, NULL};
  s->steps++;
  if (s->count == 0 || room->tokens < 1 || room->depth < 1) return none;
  s->draft.kind = s->proposer->type->look ? s->proposer->type->look(s->proposer, &s->asked.text) : 0;
  bool branches = s->proposer->type->branches && room->paths > 1 && !s->judged;
  s->asked.room = within(choose(s, &s->records[s->draft.kind], branches), room);
  if (s->judged) s->asked.room.paths = smaller(s->asked.room.paths, 1);
  return s->asked.room;
}

bool qn_speculator_together(const qn_speculator *a, const qn_speculator *b) {
  const qn_proposer_type *type = a->proposer->type;
  return type == b->proposer->type && type->shared && type->shared(a->proposer) == type->shared(b->proposer);
}

qn_status qn_speculator_make(qn_speculator *const *all, size_t count, qn_diag *diag) {
  const qn_proposal *first = &all[0]->asked;
  const qn_proposer_type *type = first->proposer->type;
  for (size_t i = 0; i < count; i++) all[i]->asked.next = i + 1 < count ? &all[i + 1]->asked : NULL;
  double begin = now_ns();
  qn_status status = type->propose_all ? type->propose_all(first, diag)
                                       : type->propose(first->proposer, &first->text, &first->room, first->out, diag);
  double took = (now_ns() - begin) / (double)count;
  for (size_t i = 0; i < count; i++) {
    qn_speculator *s = all[i];
    if (status != QN_OK) s->draft.count = 0;
    if (s->plain_ns > 0) note_making(s, took / s->plain_ns);
  }
  return status;
}

const qn_draft *qn_speculator_draft(const qn_speculator *s) { return &s->draft; }

qn_status qn_speculator_propose(qn_speculator *s, const qn_sampler *sampler, const float *hidden,
                                const qn_draft_room *room, const qn_draft **out, qn_diag *diag) {
  qn_draft_room wanted = qn_speculator_choose(s, sampler, hidden, room);
  *out = &s->draft;
  return wanted.tokens > 0 ? qn_speculator_make(&s, 1, diag) : QN_OK;
}

bool qn_speculator_judged(const qn_speculator *s) { return s->judged; }

qn_status qn_speculator_judge(const qn_speculator *s, qn_sampler *sampler, const float *logits, int32_t node,
                              int32_t *out_id, qn_diag *diag) {
  int32_t next = node + 1;  // of a chain
  if (!s->judged || next >= s->draft.count) return qn_sampler_sample(sampler, logits, out_id, diag);
  return qn_sampler_judge(sampler, logits, s->draft.tokens[next], s->draft.odds[next], s->draft.odds_counts[next], out_id,
                          diag);
}

// The largest logit, of equals the lowest id.
static int32_t likeliest(const float *logits, int32_t count) {
  int32_t best = 0;
  for (int32_t i = 1; i < count; i++)
    if (logits[i] > logits[best]) best = i;
  return best;
}

void qn_speculator_watch(qn_speculator *s, const qn_decoder *decoder, size_t first, bool program) {
  if (!s->proposer->type->see || s->draft.count == 0) return;
  for (int32_t i = 0; i <= s->draft.count; i++) {
    size_t row = first + (size_t)i;
    s->chosen[i] = program ? qn_decoder_token(decoder, row)
                           : likeliest(qn_decoder_logits(decoder, row), qn_decoder_vocab(decoder));
  }
  s->watched = true;
}

void qn_speculator_note(qn_speculator *s, int32_t node) {
  if (s->draft.count == 0) return;
  int32_t accepted = qn_draft_depth(&s->draft, node);
  record *r = &s->records[s->draft.kind];
  r->right = MEMORY * r->right + accepted;
  r->wrong = MEMORY * r->wrong + qn_draft_goes_on(&s->draft, node);
  s->stats.steps++;
  s->stats.proposed += deepest(&s->draft);
  s->stats.accepted += accepted;
  s->lost = s->lost > accepted ? s->lost - accepted : 0;
  if (s->watched) s->proposer->type->see(s->proposer, &s->draft, node, s->chosen);
  s->watched = false;
  s->draft.count = 0;
}

void qn_speculator_time(qn_speculator *s, int32_t guesses, uint64_t time_ns) {
  double ns = (double)time_ns;
  if (guesses == 0) {
    s->plain_ns = s->plain_ns > 0 ? toward(s->plain_ns, ns) : ns;
  } else if (s->plain_ns > 0) {
    s->verify_cost = toward(s->verify_cost, clamped((ns / s->plain_ns - 1) / guesses));
  }
}
