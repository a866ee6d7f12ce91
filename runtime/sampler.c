// Sampling by partial selection: a bounded heap finds the best candidates, or sums by digits find how many will do, so
// that no step sorts the vocabulary.
#include "runtime/sampler.h"

#include <math.h>
#include <string.h>

#include "runtime/rng.h"

// A candidate as an integer: the smaller, the better. Upper half: the logit, order-reversed; lower half: the id.
typedef uint64_t candidate;

struct qn_sampler {
  const qn_allocator *allocator;  // borrowed
  qn_sampler_options options;
  qn_sampling settings;  // without a random number
  int32_t n_vocab;
  qn_rng rng;
  candidate *all, *best;  // (n_vocab) each, owned: by id; the best of them, then those kept, by id. NULL when greedy
  int32_t *weights;       // (n_vocab), owned: of `best`; before, of `all`. NULL when greedy
  int64_t weight_sum;     // of the candidates
  int32_t n_best;
  int32_t greedy_id;
  float max_logit;
  int32_t *history;  // (repeat_last_n) ring, owned; NULL without penalty
  int32_t *seen;     // (n_vocab): how often an id is in the ring, owned; NULL without penalty
  int32_t n_history, history_at;
};

// ---- options -----------------------------------------------------------------------------------------------------

enum { MAX_LAST_N = 1 << 20 };

qn_sampler_options qn_sampler_options_default(void) {
  return (qn_sampler_options){
      .temperature = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05, .repeat_penalty = 1, .repeat_last_n = 64};
}

qn_status qn_sampler_options_check(const qn_sampler_options *o, qn_diag *diag) {
  const qn_status status = QN_ERR_ARGUMENT;
  if (!isfinite(o->temperature) || o->temperature < 0) {
    return qn_fail(diag, status, "temperature", "is %g, want 0 (always the most likely token) or more", o->temperature);
  }
  if (o->top_k < 0) return qn_fail(diag, status, "top_k", "is %d, want 0 (all tokens) or more", (int)o->top_k);
  if (!(o->top_p > 0 && o->top_p <= 1)) {
    return qn_fail(diag, status, "top_p", "is %g, want more than 0 and at most 1 (all tokens)", o->top_p);
  }
  if (!(o->min_p >= 0 && o->min_p <= 1)) {
    return qn_fail(diag, status, "min_p", "is %g, want 0 (all tokens) to 1", o->min_p);
  }
  if (!isfinite(o->repeat_penalty) || o->repeat_penalty <= 0) {
    return qn_fail(diag, status, "repeat_penalty", "is %g, want more than 0 (1: no penalty)", o->repeat_penalty);
  }
  if (o->repeat_last_n < 0 || o->repeat_last_n > MAX_LAST_N) {
    return qn_fail(diag, status, "repeat_last_n", "is %d, want 0 to %d", (int)o->repeat_last_n, MAX_LAST_N);
  }
  return QN_OK;
}

// ln(x) as the least float whose e^ is at least x, for x in (0, 1]: found by bisection, since libm's differ.
static float log_of(double x) {
  float low = -128, high = 0;
  for (int i = 0; i < 64; i++) {
    float middle = (low + high) / 2;
    *((double)qn_sampler_exp(middle) >= x ? &high : &low) = middle;
  }
  return high;
}

static qn_sampling make_settings(const qn_sampler_options *o) {
  enum { ALL = 1 << 20 };
  if (o->temperature <= 0)
    return (qn_sampling){.inverse_temperature = 1, .top_k = 1, .top_p = ALL, .log_min_p = -INFINITY};
  double inverse = 1 / o->temperature, top_p = o->top_p * ALL + 0.5;
  inverse = inverse < 0x1p-100 ? 0x1p-100 : inverse > 0x1p100 ? 0x1p100 : inverse;
  return (qn_sampling){.inverse_temperature = (float)inverse,
                       .top_k = o->top_k,
                       .top_p = top_p < 1 ? 1 : (int32_t)top_p,
                       .log_min_p = o->min_p > 0 ? log_of(o->min_p) : -INFINITY};
}

// ---- life --------------------------------------------------------------------------------------------------------

qn_status qn_sampler_create(const qn_sampler_options *options, int32_t n_vocab, const qn_allocator *allocator,
                            qn_sampler **out, qn_diag *diag) {
  *out = NULL;
  QN_TRY(qn_sampler_options_check(options, diag));
  if (n_vocab < 1 || n_vocab > QN_SAMPLER_VOCAB_MAX) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "sampler", "the vocabulary has %d tokens, want 1 to %d", (int)n_vocab,
                   QN_SAMPLER_VOCAB_MAX);
  }
  qn_sampler *s = qn_alloc_zeroed(allocator, sizeof *s);
  if (s == NULL) return qn_fail_nomem(diag, "sampler", "the sampler");
  s->allocator = allocator;
  s->options = *options;
  s->settings = make_settings(options);
  s->n_vocab = n_vocab;
  size_t n = (size_t)n_vocab;
  bool draws = options->temperature > 0, penalises = options->repeat_penalty != 1 && options->repeat_last_n > 0;
  if (draws) {
    s->all = qn_alloc(allocator, n * sizeof *s->all);
    s->best = qn_alloc(allocator, n * sizeof *s->best);
    s->weights = qn_alloc(allocator, n * sizeof *s->weights);
  }
  if (penalises) {
    s->history = qn_alloc(allocator, (size_t)options->repeat_last_n * sizeof *s->history);
    s->seen = qn_alloc_zeroed(allocator, n * sizeof *s->seen);
  }
  if ((draws && (!s->all || !s->best || !s->weights)) || (penalises && (!s->history || !s->seen))) {
    qn_sampler_destroy(s);
    return qn_fail_nomem(diag, "sampler", "the candidates");
  }
  qn_rng_seed(&s->rng, options->seed);
  *out = s;
  return QN_OK;
}

void qn_sampler_destroy(qn_sampler *s) {
  if (s == NULL) return;
  size_t n = (size_t)s->n_vocab;
  qn_free(s->allocator, s->all, n * sizeof *s->all);
  qn_free(s->allocator, s->best, n * sizeof *s->best);
  qn_free(s->allocator, s->weights, n * sizeof *s->weights);
  qn_free(s->allocator, s->history, (size_t)s->options.repeat_last_n * sizeof *s->history);
  qn_free(s->allocator, s->seen, n * sizeof *s->seen);
  qn_free(s->allocator, s, sizeof *s);
}

void qn_sampler_reset(qn_sampler *s) {
  s->n_history = s->history_at = s->n_best = 0;
  if (s->seen != NULL) memset(s->seen, 0, (size_t)s->n_vocab * sizeof *s->seen);
  qn_rng_seed(&s->rng, s->options.seed);
}

void qn_sampler_accept(qn_sampler *s, int32_t id) {
  if (s->history == NULL || id < 0 || id >= s->n_vocab) return;
  if (s->n_history == s->options.repeat_last_n) {
    s->seen[s->history[s->history_at]]--;
  } else {
    s->n_history++;
  }
  s->history[s->history_at] = id;
  s->history_at = (s->history_at + 1) % s->options.repeat_last_n;
  s->seen[id]++;
}

// ---- candidates --------------------------------------------------------------------------------------------------

// Keskar et al. 2019, "CTRL", section 4.1, with llama.cpp's care for negative logits.
static float penalised(const qn_sampler *s, const float *logits, int32_t id) {
  float logit = logits[id];
  if (s->seen == NULL || s->seen[id] == 0) return logit;
  float penalty = (float)s->options.repeat_penalty;
  return logit <= 0 ? logit * penalty : logit / penalty;
}

static candidate make_candidate(float logit, int32_t id) {
  uint32_t bits;
  logit += 0.0f;  // both zeros are equal
  memcpy(&bits, &logit, sizeof bits);
  uint32_t order = bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
  return (uint64_t)order << 32 | (uint32_t)id;
}

static int32_t candidate_id(candidate c) { return (int32_t)(uint32_t)c; }

static float candidate_logit(candidate c) {
  uint32_t order = (uint32_t)(c >> 32), bits = order & 0x80000000u ? order : ~(order | 0x80000000u);
  float logit;
  memcpy(&logit, &bits, sizeof logit);
  return logit;
}

// 2^24 * e^((logit - maximum) * scale) as a whole number. Most tokens are too unlikely to have a weight.
static int32_t weight_of(const qn_sampler *s, candidate c, float scale) {
  float difference = (candidate_logit(c) - s->max_logit) * scale;
  return difference < -17.5f ? 0 : (int32_t)rintf(qn_sampler_exp(difference) * 0x1p24f);  // 2^24 * e^-17.5 = 0.42
}

static void sift_down(candidate *heap, size_t count, size_t at) {
  candidate moved = heap[at];
  for (size_t child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && heap[child + 1] > heap[child]) child++;
    if (heap[child] <= moved) break;
    heap[at] = heap[child];
  }
  heap[at] = moved;
}

// Puts the k best of all candidates into s->best, best first: a heap with the worst of them on top, then sorted.
static void select_best(qn_sampler *s, size_t k) {
  candidate *heap = s->best;
  memcpy(heap, s->all, k * sizeof *heap);
  for (size_t i = k / 2; i-- > 0;) sift_down(heap, k, i);
  for (size_t i = k; i < (size_t)s->n_vocab; i++) {
    if (s->all[i] >= heap[0]) continue;
    heap[0] = s->all[i];
    sift_down(heap, k, 0);
  }
  for (size_t count = k; count > 1;) {
    candidate worst = heap[0];
    heap[0] = heap[--count];
    heap[count] = worst;
    sift_down(heap, count, 0);
  }
}

// Is the candidate's logit at least that of `limit`?
static bool is_at_least(candidate c, candidate limit) { return c >> 32 <= limit >> 32; }

// The sum of weights of candidates down to `limit`'s logit.
static int64_t sum_down_to(const qn_sampler *s, candidate limit) {
  int64_t sum = 0;
  for (int32_t i = 0; i < s->n_vocab; i++) {
    if (is_at_least(s->all[i], limit)) sum += weight_of(s, s->all[i], 1);
  }
  return sum;
}

// The first of the k best, in order, with which the weights reach `need`; `limit` when they do not, since those equal
// to the last are needed too.
static candidate find_reach(const qn_sampler *s, size_t k, int64_t need, candidate limit) {
  int64_t sum = 0;
  for (size_t i = 0; i < k; i++) {
    sum += weight_of(s, s->best[i], 1);
    if (sum << 20 >= need) return s->best[i];
  }
  return limit;
}

// The same of all candidates, whose weights are in s->weights: these are added up by the upper bits of the logits' order,
// then, of those equal in these, by the next ones.
static candidate find_reach_of_all(const qn_sampler *s, int64_t need) {
  enum { DIGIT = 11, DIGITS = 1 << DIGIT };
  int64_t sum = 0, of_digit[DIGITS];
  uint64_t prefix = 0;
  for (int left = 33 - DIGIT; left >= 0; left -= DIGIT) {  // below the digit; the first one is of 33 bits
    size_t digit = 0;
    memset(of_digit, 0, sizeof of_digit);
    for (int32_t i = 0; i < s->n_vocab; i++) {
      uint64_t order = s->all[i] >> 32 >> left;
      if (order >> DIGIT == prefix) of_digit[order % DIGITS] += s->weights[i];
    }
    while (digit < DIGITS - 1 && (sum + of_digit[digit]) << 20 < need) sum += of_digit[digit++];
    prefix = prefix << DIGIT | digit;
  }
  return prefix << 32;
}

// The last candidate, but for equals, that top-k and top-p leave.
static candidate find_limit(qn_sampler *s) {
  size_t n = (size_t)s->n_vocab, k = (size_t)s->settings.top_k;
  candidate limit = UINT64_MAX;
  bool some = s->settings.top_k > 0 && k < n, nucleus = s->settings.top_p < 1 << 20;
  if (some) {
    select_best(s, k);
    limit = s->best[k - 1];
  }
  if (!nucleus) return limit;
  if (some) return find_reach(s, k, sum_down_to(s, limit) * s->settings.top_p, limit);
  int64_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += s->weights[i] = weight_of(s, s->all[i], 1);
  return find_reach_of_all(s, sum * s->settings.top_p);
}

// Fills s->best with what top-k, top-p and min-p leave, by id, and returns their count.
static size_t keep_candidates(qn_sampler *s) {
  candidate limit = find_limit(s);
  size_t kept = 0;
  for (int32_t i = 0; i < s->n_vocab; i++) {
    candidate c = s->all[i];
    bool likely = candidate_logit(c) - s->max_logit >= s->settings.log_min_p;
    if (likely && is_at_least(c, limit)) s->best[kept++] = c;
  }
  return kept;
}

// ---- sampling ----------------------------------------------------------------------------------------------------

enum { LANES = 4, STREAMS = 4 };
typedef float floats __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t masks __attribute__((vector_size(LANES * sizeof(int32_t))));

static floats load(const float *from) {
  floats values;
  memcpy(&values, from, sizeof values);
  return values;
}

// The largest of `count` logits; false when one of them is NaN. Compilers make vectors of such a loop only where they
// may neglect NaN, and a vocabulary of 128,000 tokens is a fifth of a millisecond otherwise.
static bool find_largest(const float *logits, size_t count, float *out) {
  float largest[STREAMS * LANES];
  for (size_t i = 0; i < STREAMS * LANES; i++) largest[i] = -INFINITY;
  masks best[STREAMS], unordered = {0};
  memcpy(best, largest, sizeof best);
  size_t at = 0;
  for (; at + STREAMS * LANES <= count; at += STREAMS * LANES) {
    for (size_t i = 0; i < STREAMS; i++) {
      floats value = load(logits + at + i * LANES);
      masks larger = value > (floats)best[i];
      best[i] = ((masks)value & larger) | (best[i] & ~larger);
      unordered |= value != value;
    }
  }
  memcpy(largest, best, sizeof best);
  bool numbers = true;
  for (size_t i = 0; i < LANES; i++) numbers = numbers && unordered[i] == 0;
  *out = -INFINITY;
  for (size_t i = 0; i < STREAMS * LANES; i++) *out = largest[i] > *out ? largest[i] : *out;
  for (; at < count; at++) {
    numbers = numbers && !isnan(logits[at]);
    *out = logits[at] > *out ? logits[at] : *out;
  }
  return numbers;
}

static qn_status check_largest(const qn_sampler *s, qn_diag *diag) {
  if (s->greedy_id < 0) return qn_fail(diag, QN_ERR_INTERNAL, "sampler", "all %d logits are -inf", (int)s->n_vocab);
  if (isinf(s->max_logit)) {
    return qn_fail(diag, QN_ERR_INTERNAL, "sampler", "the logit of token %d is infinite", (int)s->greedy_id);
  }
  return QN_OK;
}

// The largest logit and its first id, if no logit is NaN. Of blocks, the first with the largest is looked through
// again.
static bool find_first_largest(qn_sampler *s, const float *logits) {
  enum { BLOCK = 1024 };
  int32_t begin = 0;
  for (int32_t at = 0; at < s->n_vocab; at += BLOCK) {
    float largest = 0;
    int32_t left = s->n_vocab - at;
    if (!find_largest(logits + at, (size_t)(left < BLOCK ? left : BLOCK), &largest)) return false;
    if (!(largest > s->max_logit)) continue;
    s->max_logit = largest;
    begin = at;
  }
  for (int32_t id = begin; s->greedy_id < 0 && id < s->n_vocab && s->max_logit > -INFINITY; id++) {
    if (logits[id] == s->max_logit) s->greedy_id = id;
  }
  return true;
}

// Penalises, finds the largest logit and its first id, and fills s->all when that is wanted.
static qn_status scan(qn_sampler *s, const float *logits, qn_diag *diag) {
  s->max_logit = -INFINITY;
  s->greedy_id = -1;
  if (s->all == NULL && s->seen == NULL && find_first_largest(s, logits)) return check_largest(s, diag);
  s->max_logit = -INFINITY;
  for (int32_t id = 0; id < s->n_vocab; id++) {
    float logit = penalised(s, logits, id);
    if (isnan(logit)) {
      return qn_fail(diag, QN_ERR_INTERNAL, "sampler", "the logit of token %d is not a number", (int)id);
    }
    if (logit > s->max_logit) {
      s->max_logit = logit;
      s->greedy_id = id;
    }
    if (s->all != NULL) s->all[id] = make_candidate(logit, id);
  }
  return check_largest(s, diag);
}

// The candidates and their weights.
static qn_status weigh(qn_sampler *s, const float *logits, qn_diag *diag) {
  s->n_best = 0;
  QN_TRY(scan(s, logits, diag));
  s->n_best = 1;
  if (s->all == NULL) return QN_OK;
  s->n_best = (int32_t)keep_candidates(s);
  s->weight_sum = 0;
  for (int32_t i = 0; i < s->n_best; i++)
    s->weight_sum += s->weights[i] = weight_of(s, s->best[i], s->settings.inverse_temperature);
  return QN_OK;
}

qn_status qn_sampler_sample(qn_sampler *s, const float *logits, int32_t *out_id, qn_diag *diag) {
  QN_TRY(weigh(s, logits, diag));
  if (s->all == NULL) {
    *out_id = s->greedy_id;
    return QN_OK;
  }
  size_t chosen = 0;
  int64_t sum = s->weight_sum, passed = 0;
  qn_sampling settings;
  qn_sampler_settings(s, &settings);
  int64_t draw = 0;  // floor(random * sum / 2^48), digit by digit from the lowest
  for (int digit = 2; digit >= 0; digit--) draw = (settings.random[digit] * sum + draw) >> 16;
  while ((passed += s->weights[chosen]) <= draw) chosen++;
  *out_id = candidate_id(s->best[chosen]);
  return QN_OK;
}

// ---- guesses -----------------------------------------------------------------------------------------------------

int32_t qn_sampler_odds(const qn_sampler *s, qn_odds *out, int32_t most) {
  for (int32_t i = 0; i < s->n_best && i < most; i++) qn_sampler_get_candidate(s, i, &out[i].id, &out[i].share);
  return s->n_best;
}

void qn_sampler_diverge(qn_sampler *s) { qn_rng_seed(&s->rng, ~qn_rng_next(&s->rng)); }

// How much likelier the i-th candidate is than by the odds, of which *at is the first that may be its own.
static double excess(const qn_sampler *s, int32_t i, const qn_odds *odds, int32_t count, int32_t *at) {
  int32_t id = candidate_id(s->best[i]);
  while (*at < count && odds[*at].id < id) ++*at;
  double more = (double)s->weights[i] / (double)s->weight_sum - (*at < count && odds[*at].id == id ? odds[*at].share : 0);
  return more > 0 ? more : 0;
}

// Draws from what the odds leave to be chosen: max(0, p - q), by the random number.
static int32_t draw_rest(const qn_sampler *s, const qn_odds *odds, int32_t count, double random) {
  double sum = 0, passed = 0;
  int32_t chosen = 0;
  for (int32_t i = 0, at = 0; i < s->n_best; i++) sum += excess(s, i, odds, count, &at);
  for (int32_t i = 0, at = 0; i < s->n_best; i++) {
    double more = excess(s, i, odds, count, &at);
    if (more > 0) chosen = i;
    if ((passed += more) > random * sum) break;
  }
  return candidate_id(s->best[chosen]);
}

qn_status qn_sampler_judge(qn_sampler *s, const float *logits, int32_t guess, const qn_odds *odds, int32_t count,
                           int32_t *out_id, qn_diag *diag) {
  const qn_odds certain = {guess, 1};
  if (count == 0) odds = &certain, count = 1;
  QN_TRY(weigh(s, logits, diag));
  if (s->all == NULL) {
    *out_id = s->greedy_id;
    return QN_OK;
  }
  double first = qn_rng_unit(&s->rng), second = qn_rng_unit(&s->rng), p = 0, q = 0;
  for (int32_t i = 0; i < count; i++) q += odds[i].id == guess ? odds[i].share : 0;
  for (int32_t i = 0; i < s->n_best; i++) {
    if (candidate_id(s->best[i]) == guess) p = (double)s->weights[i] / (double)s->weight_sum;
  }
  *out_id = first * q < p ? guess : draw_rest(s, odds, count, second);
  return QN_OK;
}

int32_t qn_sampler_vocab(const qn_sampler *s) { return s->n_vocab; }

bool qn_sampler_needs_logits(const qn_sampler *s) { return s->history != NULL; }

static void draw_settings(const qn_sampler *s, qn_rng *rng, qn_sampling *out) {
  *out = s->settings;
  if (s->all == NULL) return;  // greedy
  uint64_t random = qn_rng_next(rng) >> 16;
  for (int digit = 0; digit < 3; digit++) out->random[digit] = (int32_t)(random >> (32 - 16 * digit) & 0xffff);
}

void qn_sampler_settings(qn_sampler *s, qn_sampling *out) { draw_settings(s, &s->rng, out); }

void qn_sampler_foresee(const qn_sampler *s, qn_sampling *out, size_t count) {
  qn_rng rng = s->rng;
  for (size_t i = 0; i < count; i++) draw_settings(s, &rng, &out[i]);
}

qn_status qn_sampler_clone(const qn_sampler *s, const qn_allocator *allocator, qn_sampler **out, qn_diag *diag) {
  QN_TRY(qn_sampler_create(&s->options, s->n_vocab, allocator, out, diag));
  qn_sampler_follow(*out, s);
  return QN_OK;
}

bool qn_sampler_alike(const qn_sampler *a, const qn_sampler *b) {
  const qn_sampler_options *x = &a->options, *y = &b->options;
  return a->n_vocab == b->n_vocab && x->temperature == y->temperature && x->top_k == y->top_k && x->top_p == y->top_p &&
         x->min_p == y->min_p && x->repeat_penalty == y->repeat_penalty && x->repeat_last_n == y->repeat_last_n;
}

void qn_sampler_follow(qn_sampler *s, const qn_sampler *other) {
  s->rng = other->rng;
  if (s->history == NULL) return;
  s->n_history = other->n_history;
  s->history_at = other->history_at;
  memcpy(s->history, other->history, (size_t)s->options.repeat_last_n * sizeof *s->history);
  memcpy(s->seen, other->seen, (size_t)s->n_vocab * sizeof *s->seen);
}

int32_t qn_sampler_candidate_count(const qn_sampler *s) { return s->n_best; }

bool qn_sampler_get_candidate(const qn_sampler *s, int32_t index, int32_t *out_id, double *out_probability) {
  if (index < 0 || index >= s->n_best) return false;
  *out_id = s->all == NULL ? s->greedy_id : candidate_id(s->best[index]);
  *out_probability = s->all == NULL ? 1 : (double)s->weights[index] / (double)s->weight_sum;
  return true;
}

// ---- e^x ---------------------------------------------------------------------------------------------------------

// As ir/math.c has it, operator for operator.
float qn_sampler_exp(float x) {
  float shifted = fmaf(x, 0x1.715476p+0f, 0x1.8p+23f), n = shifted - 0x1.8p+23f;
  float r = fmaf(n, -0x1.7f7d1cp-20f, fmaf(n, -0x1.62e4p-1f, x));
  float slope = fmaf(0x1.6a7baep-10f, r, 0x1.12386ep-7f);
  slope = fmaf(slope, r, 0x1.555886p-5f);
  slope = fmaf(slope, r, 0x1.555494p-3f);
  slope = fmaf(slope, r, 0x1.fffffcp-2f);
  slope = fmaf(slope, r, 1);
  float power = fmaf(slope, r, 1);
  if (!(x >= -0x1.5d589ep+6f)) return 0;
  uint32_t bits, exponent;
  memcpy(&bits, &power, sizeof bits);
  memcpy(&exponent, &shifted, sizeof exponent);
  bits += exponent << 23;
  memcpy(&power, &bits, sizeof power);
  return power;
}
