// Sampling by partial selection: a bounded heap finds the best candidates, so that no step sorts the vocabulary.
#include "runtime/sampler.h"

#include <math.h>
#include <string.h>

#include "runtime/rng.h"

// A candidate as an integer: the smaller, the better. Upper half: the logit, order-reversed; lower half: the id.
typedef uint64_t candidate;

struct qn_sampler {
  const qn_allocator *allocator;  // borrowed
  qn_sampler_options options;
  int32_t n_vocab;
  qn_rng rng;
  candidate *all, *best;  // (n_vocab) each, owned: by id; what was kept of them. NULL when greedy
  double *weights;        // (n_vocab), owned: of `best`, not normalised. NULL when greedy
  double weight_sum;      // of the candidates
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

// ---- life --------------------------------------------------------------------------------------------------------

qn_status qn_sampler_create(const qn_sampler_options *options, int32_t n_vocab, const qn_allocator *allocator,
                            qn_sampler **out, qn_diag *diag) {
  *out = NULL;
  QN_TRY(qn_sampler_options_check(options, diag));
  if (n_vocab < 1) return qn_fail(diag, QN_ERR_ARGUMENT, "sampler", "the vocabulary has %d tokens", (int)n_vocab);
  qn_sampler *s = qn_alloc_zeroed(allocator, sizeof *s);
  if (s == NULL) return qn_fail_nomem(diag, "sampler", "the sampler");
  s->allocator = allocator;
  s->options = *options;
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

// Probability relative to the most likely token's.
static double relative(const qn_sampler *s, candidate c) {
  return qn_sampler_exp((double)candidate_logit(c) - (double)s->max_logit);
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

// How many of the k best top-p and min-p keep; k + 1 when that cannot be told from k. `reach` is top_p times the sum of
// relative probabilities, or infinity.
static size_t cut(const qn_sampler *s, size_t k, double reach) {
  double sum = 0;
  for (size_t i = 0; i < k; i++) {
    double probability = relative(s, s->best[i]);
    if (probability < s->options.min_p) return i;
    sum += probability;
    if (sum >= reach) return i + 1;
  }
  return k + 1;
}

// Fills s->best and returns the count of what top-k, top-p and min-p leave.
static size_t keep_candidates(qn_sampler *s) {
  const qn_sampler_options *o = &s->options;
  size_t n = (size_t)s->n_vocab, limit = o->top_k > 0 && (size_t)o->top_k < n ? (size_t)o->top_k : n;
  if (limit == n && o->top_p >= 1 && o->min_p <= 0) {
    memcpy(s->best, s->all, n * sizeof *s->best);
    return n;
  }
  double reach = INFINITY;
  size_t k = limit;
  if (limit < n) {
    select_best(s, limit);
    double sum = 0;
    for (size_t i = 0; i < limit; i++) sum += relative(s, s->best[i]);
    if (o->top_p < 1) reach = o->top_p * sum;
  } else {
    double sum = 0;
    for (size_t i = 0; i < n && o->top_p < 1; i++) sum += relative(s, s->all[i]);
    if (o->top_p < 1) reach = o->top_p * sum;
    // Without top-k it is not known how many will do: few, mostly.
    k = n < 128 ? n : 128;
    select_best(s, k);
  }
  size_t kept;
  while ((kept = cut(s, k, reach)) > k && k < limit) {
    k = limit / 8 < k ? limit : k * 8;
    select_best(s, k);
  }
  return kept < k ? kept : k;
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

// The largest logit and its first id, if no logit is NaN. Of blocks, the first with the largest is looked through again.
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

qn_status qn_sampler_sample(qn_sampler *s, const float *logits, int32_t *out_id, qn_diag *diag) {
  s->n_best = 0;
  QN_TRY(scan(s, logits, diag));
  if (s->all == NULL) {
    s->n_best = 1;
    *out_id = s->greedy_id;
    return QN_OK;
  }
  size_t count = keep_candidates(s), chosen = 0;
  double sum = 0;
  for (size_t i = 0; i < count; i++) {
    double scaled = ((double)candidate_logit(s->best[i]) - (double)s->max_logit) / s->options.temperature;
    s->weights[i] = qn_sampler_exp(scaled);
    sum += s->weights[i];
  }
  s->n_best = (int32_t)count;
  s->weight_sum = sum;
  // The first candidate whose cumulated weight passes the draw; rounding must not lead past the last that has any.
  double draw = qn_rng_unit(&s->rng) * sum, passed = 0;
  for (size_t i = 0; i < count; i++) {
    if (s->weights[i] <= 0) continue;
    chosen = i;
    passed += s->weights[i];
    if (passed > draw) break;
  }
  *out_id = candidate_id(s->best[chosen]);
  return QN_OK;
}

int32_t qn_sampler_candidate_count(const qn_sampler *s) { return s->n_best; }

bool qn_sampler_get_candidate(const qn_sampler *s, int32_t index, int32_t *out_id, double *out_probability) {
  if (index < 0 || index >= s->n_best) return false;
  *out_id = s->all == NULL ? s->greedy_id : candidate_id(s->best[index]);
  *out_probability = s->all == NULL ? 1 : s->weights[index] / s->weight_sum;
  return true;
}

// ---- e^x ---------------------------------------------------------------------------------------------------------

// x = k ln 2 + r with |r| <= ln 2 / 2 (Cody and Waite's two-part ln 2, as in fdlibm), e^r by its Taylor series to r^13,
// whose first term left out is below 5e-18; even and odd terms apart, for two short chains instead of a long one. No
// fused multiply-adds (the build forbids them), hence the same everywhere.
double qn_sampler_exp(double x) {
  static const double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  if (isnan(x)) return x;
  if (x < -708) return 0;
  if (x > 709) return INFINITY;
  double scaled = x * 1.44269504088896338700e+00;
  int k = (int)(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
  double r = (x - k * ln2_high) - k * ln2_low, r2 = r * r;
  double even = 1.0 / 479001600 * r2 + 1.0 / 3628800;
  double odd = 1.0 / 6227020800 * r2 + 1.0 / 39916800;
  even = ((even * r2 + 1.0 / 40320) * r2 + 1.0 / 720) * r2 + 1.0 / 24;
  odd = ((odd * r2 + 1.0 / 362880) * r2 + 1.0 / 5040) * r2 + 1.0 / 120;
  even = even * r2 + 0.5;
  odd = odd * r2 + 1.0 / 6;
  double value = 1 + (r + r2 * (even + r * odd));
  uint64_t bits = (uint64_t)(k + 1023) << 52;
  double power;
  memcpy(&power, &bits, sizeof power);
  return value * power;
}
