// Sampling: the random numbers and e^x against known values, each option against a sorted reference, draws against
// their probabilities, and every error.
#include "runtime/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/math.h"
#include "runtime/rng.h"
#include "tests/support/test.h"

// ---- random numbers ----------------------------------------------------------------------------------------------

START_TEST(rng_known_values) {
  // SplitMix64 from its authors' splitmix64.c, xoshiro256** from the state 1, 2, 3, 4 as in rand_xoshiro's tests.
  static const uint64_t split[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                   4593380528125082431u, 16408922859458223821u};
  static const uint64_t xoshiro[] = {11520u,
                                     0u,
                                     1509978240u,
                                     1215971899390074240u,
                                     1216172134540287360u,
                                     607988272756665600u,
                                     16172922978634559625u,
                                     8476171486693032832u,
                                     10595114339597558777u,
                                     2904607092377533576u};
  uint64_t state = 1234567;
  for (size_t i = 0; i < QN_COUNT(split); i++) ck_assert(qn_splitmix64(&state) == split[i]);
  qn_rng rng = {{1, 2, 3, 4}};
  for (size_t i = 0; i < QN_COUNT(xoshiro); i++) ck_assert(qn_rng_next(&rng) == xoshiro[i]);
}
END_TEST

START_TEST(rng_unit_is_uniform) {
  qn_rng rng;
  qn_rng_seed(&rng, 7);
  int counts[16] = {0};
  enum { DRAWS = 160000 };
  for (int i = 0; i < DRAWS; i++) {
    double unit = qn_rng_unit(&rng);
    qn_check(unit >= 0 && unit < 1, "%g", unit);
    counts[(int)(unit * 16)]++;
  }
  for (int i = 0; i < 16; i++) ck_assert_msg(abs(counts[i] - DRAWS / 16) < 500, "bin %d: %d", i, counts[i]);
  qn_rng a, b;
  qn_rng_seed(&a, 1);
  qn_rng_seed(&b, 1);
  ck_assert(qn_rng_next(&a) == qn_rng_next(&b));
  qn_rng_seed(&b, 2);
  ck_assert(qn_rng_next(&a) != qn_rng_next(&b));
}
END_TEST

// Operator for operator what programs compute, so that device and host weigh alike.
START_TEST(exp_is_that_of_programs) {
  const qn_math_fn *exp_fn = qn_math_fn_of(QN_LX_EXP);
  qn_test_random random = {3};
  for (int i = 0; i < 300000; i++) {
    float x = (float)(-qn_test_random_unit(&random) * (i % 3 == 0 ? 1e-3 : i % 3 == 1 ? 2 : 110));
    float got = qn_sampler_exp(x), want = qn_math_eval(exp_fn, x);
    qn_check(got == want, "e^%a: %a, want %a", (double)x, (double)got, (double)want);
  }
  ck_assert(qn_sampler_exp(0) == 1 && qn_sampler_exp(-0.0f) == 1);
  ck_assert(qn_sampler_exp(-INFINITY) == 0 && qn_sampler_exp(-88) == 0 && qn_sampler_exp(-87) > 0);
}
END_TEST

// ---- helpers -----------------------------------------------------------------------------------------------------

static qn_sampler_options plain_options(void) {
  return (qn_sampler_options){.temperature = 1, .top_p = 1, .repeat_penalty = 1};
}

static qn_sampler *create(qn_sampler_options options, int32_t n_vocab) {
  qn_sampler *sampler;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_sampler_create(&options, n_vocab, qn_test_allocator(), &sampler, &diag));
  return sampler;
}

static int32_t sample(qn_sampler *sampler, const float *logits) {
  qn_diag diag = {0};
  int32_t id = -1;
  qn_status status = qn_sampler_sample(sampler, logits, &id, &diag);
  qn_check(status == QN_OK, "%s", diag.text);
  return id;
}

typedef struct ranked {
  float logit;
  int32_t id;
} ranked;

static int compare_ranked(const void *a, const void *b) {
  const ranked *x = a, *y = b;
  if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
  return x->id < y->id ? -1 : 1;
}

// Those that are equal to the last of `count` are kept with it.
static size_t with_equals(const ranked *kept, size_t n, size_t count) {
  while (count > 0 && count < n && kept[count].logit == kept[count - 1].logit) count++;
  return count;
}

// What the options keep, the plain way: sort, cut at k, cut at top_p, cut at min_p.
static size_t reference(const qn_sampler_options *o, const float *logits, size_t n, ranked *kept) {
  for (size_t i = 0; i < n; i++) kept[i] = (ranked){logits[i], (int32_t)i};
  qsort(kept, n, sizeof *kept, compare_ranked);
  size_t count = o->top_k > 0 && (size_t)o->top_k < n ? (size_t)o->top_k : n;
  double sum = 0, reached = 0;
  count = with_equals(kept, n, count);
  for (size_t i = 0; i < count; i++) sum += exp((double)kept[i].logit - (double)kept[0].logit);
  for (size_t i = 0; i < count && o->top_p < 1; i++) {
    reached += exp((double)kept[i].logit - (double)kept[0].logit);
    if (reached < o->top_p * sum) continue;
    count = with_equals(kept, n, i + 1);
    break;
  }
  for (size_t i = 0; i < count; i++) {
    if (exp((double)kept[i].logit - (double)kept[0].logit) < o->min_p) count = i;
  }
  return count;
}

// ---- greedy, penalties -------------------------------------------------------------------------------------------

START_TEST(greedy) {
  qn_sampler_options options = plain_options();
  options.temperature = 0;
  qn_sampler *sampler = create(options, 5);
  ck_assert_int_eq(sample(sampler, (float[]){1, 3, -2, 3, 0}), 1);  // of equals the lowest id
  ck_assert_int_eq(sample(sampler, (float[]){-5, -3, -2, -3, -4}), 2);
  ck_assert_int_eq(sample(sampler, (float[]){-0.0f, 0.0f, -1, -1, -1}), 0);
  ck_assert_int_eq(sample(sampler, (float[]){-INFINITY, -INFINITY, -INFINITY, -1e30f, -INFINITY}), 3);
  int32_t id;
  double probability;
  ck_assert_int_eq(qn_sampler_candidate_count(sampler), 1);
  ck_assert(qn_sampler_get_candidate(sampler, 0, &id, &probability) && id == 3 && probability == 1);
  ck_assert(!qn_sampler_get_candidate(sampler, 1, &id, &probability));
  ck_assert(!qn_sampler_get_candidate(sampler, -1, &id, &probability));
  qn_sampler_destroy(sampler);
}
END_TEST

// The largest logit is found, and a NaN seen, wherever it stands among whole vectors and what is left over.
START_TEST(greedy_in_every_place) {
  enum { MOST = 70 };
  qn_sampler_options options = plain_options();
  options.temperature = 0;
  for (int count = 1; count <= MOST; count++) {
    qn_sampler *sampler = create(options, count);
    for (int place = 0; place < count; place++) {
      float logits[MOST];
      for (int i = 0; i < count; i++) logits[i] = i > place ? -1.0f : -2.0f - (float)i;
      logits[place] = -1;
      ck_assert_int_eq(sample(sampler, logits), place);  // of equals the lowest id
      int32_t id = 77;
      qn_diag diag = {0};
      logits[place] = NAN;
      qn_assert_fails(&diag, QN_ERR_INTERNAL, "is not a number", qn_sampler_sample(sampler, logits, &id, &diag));
      ck_assert_int_eq(id, 77);
    }
    qn_sampler_destroy(sampler);
  }
}
END_TEST

// The same in vocabularies that are looked through block by block.
START_TEST(greedy_in_large_vocabularies) {
  enum { MOST = 5000 };
  static const int counts[] = {1023, 1024, 1025, 2048, MOST};
  static float logits[MOST];
  qn_sampler_options options = plain_options();
  options.temperature = 0;
  for (size_t c = 0; c < QN_COUNT(counts); c++) {
    qn_sampler *sampler = create(options, counts[c]);
    for (int place = 0; place < counts[c]; place += place % 1024 >= 1022 || place % 1024 == 0 ? 1 : 1021) {
      for (int i = 0; i < counts[c]; i++) logits[i] = i > place ? -1.0f : -2.0f - (float)i;
      logits[place] = -1;
      ck_assert_int_eq(sample(sampler, logits), place);
      for (int i = 0; i < place; i++) logits[i] = -INFINITY;
      ck_assert_int_eq(sample(sampler, logits), place);
    }
    qn_sampler_destroy(sampler);
  }
}
END_TEST

START_TEST(bad_logits) {
  for (int draws = 0; draws < 2; draws++) {
    qn_sampler_options options = plain_options();
    options.temperature = draws;
    qn_sampler *sampler = create(options, 3);
    int32_t id = 77;
    qn_diag diag = {0};
    qn_assert_fails(&diag, QN_ERR_INTERNAL, "the logit of token 1 is not a number",
                    qn_sampler_sample(sampler, (float[]){1, NAN, 2}, &id, &diag));
    diag = (qn_diag){0};
    qn_assert_fails(&diag, QN_ERR_INTERNAL, "the logit of token 2 is infinite",
                    qn_sampler_sample(sampler, (float[]){1, 2, INFINITY}, &id, &diag));
    diag = (qn_diag){0};
    qn_assert_fails(&diag, QN_ERR_INTERNAL, "all 3 logits are -inf",
                    qn_sampler_sample(sampler, (float[]){-INFINITY, -INFINITY, -INFINITY}, &id, &diag));
    ck_assert_int_eq(id, 77);
    ck_assert_int_eq(qn_sampler_candidate_count(sampler), 0);
    qn_sampler_destroy(sampler);
  }
}
END_TEST

START_TEST(repetition_penalty) {
  qn_sampler_options options = plain_options();
  options.temperature = 0;
  options.repeat_penalty = 2;
  options.repeat_last_n = 2;
  qn_sampler *sampler = create(options, 4);
  const float logits[] = {3, 2, -1, -1.5f};
  ck_assert_int_eq(sample(sampler, logits), 0);
  qn_sampler_accept(sampler, 0);  // 3 / 2 < 2
  ck_assert_int_eq(sample(sampler, logits), 1);
  qn_sampler_accept(sampler, 0);  // seen twice is penalised once
  ck_assert_int_eq(sample(sampler, logits), 1);
  qn_sampler_accept(sampler, 1);  // 1.5 against 1; a 0 is still in the window
  ck_assert_int_eq(sample(sampler, logits), 0);
  qn_sampler_accept(sampler, 3);  // both 0s have left it
  ck_assert_int_eq(sample(sampler, logits), 0);
  qn_sampler_accept(sampler, -1);  // no tokens: ignored
  qn_sampler_accept(sampler, 4);
  qn_sampler_accept(sampler, 2);
  ck_assert_int_eq(sample(sampler, (float[]){-9, -9, -1, -1.5f}), 2);  // both penalised: -2 against -3
  qn_sampler_accept(sampler, 2);
  ck_assert_int_eq(sample(sampler, (float[]){-9, -9, -1, -1.5f}), 3);  // -2 against -1.5: negative ones are multiplied
  qn_sampler_reset(sampler);
  ck_assert_int_eq(sample(sampler, (float[]){-9, -9, -1, -1.5f}), 2);
  qn_sampler_destroy(sampler);

  options.temperature = 1;
  options.top_k = 1;
  sampler = create(options, 4);
  qn_sampler_accept(sampler, 0);
  ck_assert_int_eq(sample(sampler, logits), 1);
  qn_sampler_destroy(sampler);
}
END_TEST

// ---- options against the reference -------------------------------------------------------------------------------

static void check_candidates(const qn_sampler_options *options, const float *logits, size_t n) {
  ranked *kept = malloc(n * sizeof *kept);
  char *member = calloc(n, 1);
  size_t want = reference(options, logits, n, kept);
  qn_sampler *sampler = create(*options, (int32_t)n);
  int32_t chosen = sample(sampler, logits), count = qn_sampler_candidate_count(sampler);
  qn_check((size_t)count == want, "k %d p %g m %g: %d kept, want %zu", options->top_k, options->top_p, options->min_p,
           count, want);
  double sum = 0, total = 0;
  for (size_t i = 0; i < want; i++) {
    member[kept[i].id] = 1;
    sum += exp(((double)kept[i].logit - (double)kept[0].logit) / options->temperature);
  }
  qn_check(member[chosen], "chose %d", chosen);
  for (int32_t i = 0; i < count; i++) {
    int32_t id;
    double probability;
    qn_check(qn_sampler_get_candidate(sampler, i, &id, &probability), "%d", i);
    qn_check(member[id] == 1, "%d is no member, or twice", id);
    member[id] = 2;
    double expected = exp(((double)logits[id] - (double)kept[0].logit) / options->temperature) / sum;
    qn_check(fabs(probability - expected) <= 1e-6, "token %d: %g, want %g", id, probability, expected);
    total += probability;
  }
  qn_check(fabs(total - 1) < 1e-9, "%g", total);
  qn_sampler_destroy(sampler);
  free(kept);
  free(member);
}

START_TEST(options_keep_what_they_say) {
  static const int32_t ks[] = {0, 1, 2, 40, 999, 5000};
  static const double ps[] = {1, 0.95, 0.5, 0.01}, ms[] = {0, 0.05, 1e-4, 1}, temperatures[] = {1, 0.3, 4};
  static const size_t sizes[] = {1, 2, 100, 3000};
  qn_test_random random = {11};
  float logits[3000];
  for (size_t s = 0; s < QN_COUNT(sizes); s++) {
    for (int spread = 0; spread < 3; spread++) {
      // Wide, narrow (large nuclei), and with many equal values.
      for (size_t i = 0; i < sizes[s]; i++) {
        double u = qn_test_random_unit(&random) * 2 - 1;
        logits[i] = spread == 0 ? (float)(u * 20) : spread == 1 ? (float)u : (float)(int)(u * 4);
      }
      for (size_t j = 0; j < QN_COUNT(ks) * QN_COUNT(ps) * QN_COUNT(ms); j++) {
        qn_sampler_options options = plain_options();
        options.top_k = ks[j % QN_COUNT(ks)];
        options.top_p = ps[j / QN_COUNT(ks) % QN_COUNT(ps)];
        options.min_p = ms[j / (QN_COUNT(ks) * QN_COUNT(ps))];
        options.temperature = temperatures[j % QN_COUNT(temperatures)];
        options.seed = j;
        check_candidates(&options, logits, sizes[s]);
      }
    }
  }
}
END_TEST

START_TEST(known_cuts) {
  // Probabilities 1/2, 1/4, 1/8, 1/16, 1/16.
  const float ln2 = 0.69314718f, logits[] = {-3 * ln2, 0, -ln2, -2 * ln2, -3 * ln2};
  const struct {
    int32_t k;
    double p, m;
    int32_t count;
  } cases[] = {{0, 1, 0, 5},    {3, 1, 0, 3},    {0, 0.49, 0, 1}, {0, 0.51, 0, 2}, {0, 0.74, 0, 2},
               {0, 0.76, 0, 3}, {0, 0.9, 0, 5},  {0, 0.99, 0, 5}, {0, 1, 0.4, 2},  {0, 1, 0.2, 3},
               {0, 1, 0.1, 5},  {0, 1, 0.51, 1}, {3, 0.9, 0, 3},  {3, 0.85, 0, 2}, {2, 0.6, 0, 1}};
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_sampler_options options = plain_options();
    options.top_k = cases[i].k;
    options.top_p = cases[i].p;
    options.min_p = cases[i].m;
    qn_sampler *sampler = create(options, 5);
    sample(sampler, logits);
    ck_assert_msg(qn_sampler_candidate_count(sampler) == cases[i].count, "case %zu: %d", i,
                  qn_sampler_candidate_count(sampler));
    qn_sampler_destroy(sampler);
  }
}
END_TEST

// The largest sums that there may be, times top_p's units, fit.
START_TEST(the_largest_vocabulary) {
  enum { VOCAB = QN_SAMPLER_VOCAB_MAX };
  float *logits = malloc(VOCAB * sizeof *logits);
  for (int i = 0; i < VOCAB; i++) logits[i] = 7;
  qn_sampler_options options = plain_options();
  options.top_p = 0.999999;
  qn_sampler *sampler = create(options, VOCAB);
  int32_t chosen = sample(sampler, logits), id = -1;
  double probability = 0;
  ck_assert(chosen >= 0 && chosen < VOCAB);
  ck_assert_int_eq(qn_sampler_candidate_count(sampler), VOCAB);  // equals of the last one are kept
  ck_assert(qn_sampler_get_candidate(sampler, VOCAB - 1, &id, &probability) && id == VOCAB - 1);
  ck_assert(probability == 1.0 / VOCAB);
  qn_sampler_destroy(sampler);
  free(logits);
}
END_TEST

// ---- draws -------------------------------------------------------------------------------------------------------

START_TEST(draws_follow_probabilities) {
  enum { N = 6, DRAWS = 200000 };
  const float logits[N] = {2, 0.5f, -1, 1, -INFINITY, 1.5f};
  const double temperatures[] = {1, 0.5, 2};
  for (size_t t = 0; t < QN_COUNT(temperatures); t++) {
    qn_sampler_options options = plain_options();
    options.temperature = temperatures[t];
    options.seed = 42 + t;
    qn_sampler *sampler = create(options, N);
    double expected[N], sum = 0, chi2 = 0;
    int counts[N] = {0};
    for (int i = 0; i < N; i++) sum += expected[i] = exp((double)logits[i] / temperatures[t]);
    for (int i = 0; i < DRAWS; i++) counts[sample(sampler, logits)]++;
    for (int i = 0; i < N; i++) {
      double want = expected[i] / sum * DRAWS;
      if (want > 0) chi2 += (counts[i] - want) * (counts[i] - want) / want;
    }
    ck_assert_int_eq(counts[4], 0);
    ck_assert_msg(chi2 < 18.5, "chi-square %g at temperature %g", chi2, temperatures[t]);  // 4 degrees: 0.1 % above
    qn_sampler_destroy(sampler);
  }
}
END_TEST

// ---- guesses

enum { WORDS = 512 };  // as many as models/nano has

// Two models' logits for the same text, the second one less sure.
static void make_rows(qn_test_random *random, float *target, float *draft) {
  for (int i = 0; i < WORDS; i++) {
    float noise = (float)(qn_test_random_u64(random) % 2000) / 1000 - 1;
    target[i] = (float)(qn_test_random_u64(random) % 4000) / 500 - (float)(i % 7);
    draft[i] = target[i] + noise;
  }
}

static qn_sampler *sampler_of(const qn_sampler_options *options) {
  qn_sampler *s = NULL;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_sampler_create(options, WORDS, qn_test_allocator(), &s, &diag));
  return s;
}

// What is chosen where tokens are guessed and judged follows the target's probabilities alone: chi-square over all
// candidates, those expected less than five times together.
static double chi_square(const qn_sampler *s, const int32_t *counts, int draws, int *out_degrees) {
  double chi = 0, rare = 0, rare_got = 0, total = 0;
  int32_t id;
  *out_degrees = -1;
  for (int32_t i = 0; i < qn_sampler_candidate_count(s); i++) {
    double share;
    qn_sampler_get_candidate(s, i, &id, &share);
    double want = share * draws;
    total += counts[id];
    if (want < 5) {
      rare += want;
      rare_got += counts[id];
      continue;
    }
    chi += (counts[id] - want) * (counts[id] - want) / want;
    ++*out_degrees;
  }
  ck_assert_int_eq((int)total, draws);  // nothing else was chosen
  if (rare > 0) {
    chi += (rare_got - rare) * (rare_got - rare) / rare;
    ++*out_degrees;
  }
  return chi;
}

START_TEST(judged_guesses_change_no_odds) {
  static const qn_sampler_options kinds[] = {
      {.temperature = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05, .repeat_penalty = 1, .seed = 1},
      {.temperature = 1, .top_p = 1, .repeat_penalty = 1, .seed = 2},
      {.temperature = 1.5, .top_k = 100, .top_p = 0.9, .repeat_penalty = 1, .seed = 3}};
  float target[WORDS], draft[WORDS];
  qn_test_random random = {17};
  qn_diag diag = {0};
  for (size_t k = 0; k < QN_COUNT(kinds); k++) {
    static int32_t counts[WORDS];
    static qn_odds odds[WORDS];
    int draws = (int)(100000 / qn_test_stride(1, 10)) / (k == 0 ? 1 : 10), taken = 0, same = 0, degrees;
    double overlap = 0;
    qn_sampler *s = sampler_of(&kinds[k]), *guesser = sampler_of(&kinds[k]), *plain = sampler_of(&kinds[k]);
    make_rows(&random, target, draft);
    memset(counts, 0, sizeof counts);
    qn_sampler_diverge(guesser);
    for (int i = 0; i < draws; i++) {
      int32_t guess, id, other;
      qn_assert_ok(&diag, qn_sampler_sample(guesser, draft, &guess, &diag));
      int32_t count = qn_sampler_odds(guesser, odds, WORDS);
      qn_assert_ok(&diag, qn_sampler_judge(s, target, guess, odds, count, &id, &diag));
      counts[id]++;
      taken += id == guess;
      if (i % 5) continue;  // and with the same random number for both
      qn_sampler_follow(guesser, plain);
      qn_assert_ok(&diag, qn_sampler_sample(guesser, draft, &guess, &diag));
      qn_assert_ok(&diag, qn_sampler_sample(plain, target, &other, &diag));
      same += guess == other;
      qn_sampler_diverge(guesser);
    }
    double chi = chi_square(s, counts, draws, &degrees);
    ck_assert_msg(degrees > 3 && chi < degrees + 4 * sqrt(2.0 * degrees), "chi-square %g of %d degrees", chi, degrees);
    // As often as the two agree, which is the most that can be; not less often than with the same random numbers.
    for (int32_t i = 0, at = 0, count = qn_sampler_odds(guesser, odds, WORDS); i < qn_sampler_candidate_count(s); i++) {
      int32_t id;
      double share;
      qn_sampler_get_candidate(s, i, &id, &share);
      while (at < count && odds[at].id < id) at++;
      if (at < count && odds[at].id == id) overlap += fmin(share, odds[at].share);
    }
    ck_assert_msg(fabs((double)taken / draws - overlap) < 5 * sqrt(0.25 / draws), "taken %d of %d, want %g", taken, draws,
                  overlap);
    ck_assert_msg(taken > 5 * same - 10 * (int)sqrt(draws), "taken %d, alike by the same numbers %d", taken, 5 * same);
    if (getenv("QUERN_TEST_SHOW")) printf("%d draws: %.3f taken, %.3f alike by the same numbers\n", draws, (double)taken / draws, 5.0 * same / draws);
    qn_sampler_destroy(s);
    qn_sampler_destroy(guesser);
    qn_sampler_destroy(plain);
  }
}
END_TEST

// A guess that nothing else could have been is taken as often as its token is chosen; greedy ones when they are right.
START_TEST(certain_guesses) {
  const float logits[WORDS] = {[3] = 30, [4] = 30.5f};
  qn_sampler_options options = {.temperature = 1, .top_p = 1, .repeat_penalty = 1};
  qn_sampler *s = sampler_of(&options);
  qn_diag diag = {0};
  int taken = 0;
  int32_t id;
  for (int i = 0; i < 10000; i++) {
    qn_assert_ok(&diag, qn_sampler_judge(s, logits, 3, NULL, 0, &id, &diag));
    ck_assert(id == 3 || id == 4);
    taken += id == 3;
  }
  ck_assert_msg(abs(taken - 3775) < 200, "%d", taken);
  qn_assert_ok(&diag, qn_sampler_judge(s, logits, 9, NULL, 0, &id, &diag));
  ck_assert(id == 3 || id == 4);
  qn_sampler_destroy(s);
  options.temperature = 0;
  s = sampler_of(&options);
  qn_assert_ok(&diag, qn_sampler_judge(s, logits, 3, NULL, 0, &id, &diag));
  ck_assert_int_eq(id, 4);
  qn_sampler_destroy(s);
}
END_TEST

START_TEST(draws_repeat) {
  // The same on every machine, and after a reset: these ids are part of what quern promises.
  static const int32_t want[] = {5, 50, 8, 12, 50, 19, 24, 19, 36, 5, 43, 57, 57, 19, 50, 15};
  float logits[64];
  for (int i = 0; i < 64; i++) logits[i] = (float)((i * 37) % 64) / 8;
  qn_sampler_options options = qn_sampler_options_default();
  options.seed = 2024;
  qn_sampler *sampler = create(options, 64);
  for (int round = 0; round < 2; round++) {
    for (size_t i = 0; i < QN_COUNT(want); i++) {
      int32_t id = sample(sampler, logits);
      ck_assert_msg(id == want[i], "draw %zu: %d, want %d", i, id, want[i]);
    }
    qn_sampler_reset(sampler);
  }
  qn_sampler_destroy(sampler);
}
END_TEST

START_TEST(sampling_allocates_nothing) {
  enum { N = 50000 };
  float *logits = malloc(N * sizeof *logits);
  qn_test_random random = {5};
  for (int i = 0; i < N; i++) logits[i] = (float)qn_test_random_unit(&random);
  qn_sampler_options options = qn_sampler_options_default();
  options.top_k = 0;
  options.repeat_penalty = 1.1;
  qn_sampler *sampler = create(options, N);
  size_t before = qn_test_allocator_memory()->allocations;
  for (int i = 0; i < 100; i++) qn_sampler_accept(sampler, sample(sampler, logits));
  ck_assert_uint_eq(qn_test_allocator_memory()->allocations, before);
  qn_sampler_destroy(sampler);
  free(logits);
}
END_TEST

// What another place is given draws as the sampler itself would have.
START_TEST(settings_for_elsewhere) {
  qn_sampler_options options = qn_sampler_options_default();
  qn_sampling first, second;
  options.seed = 5;
  qn_sampler *a = create(options, 1000), *b = create(options, 1000);
  qn_sampler_settings(a, &first);
  ck_assert(first.inverse_temperature == 1.25f && first.top_k == 40 && first.top_p == 996147 && first.reserved == 0);
  ck_assert(fabs((double)first.log_min_p - log(0.05)) < 1e-6);
  ck_assert(!qn_sampler_needs_logits(a));
  float logits[1000];
  for (int i = 0; i < 1000; i++) logits[i] = (float)(i * 7 % 1000) / 50;
  sample(b, logits);
  qn_sampler_settings(a, &first);
  qn_sampler_settings(b, &second);
  ck_assert_int_eq(memcmp(&first, &second, sizeof first), 0);
  for (int digit = 0; digit < 3; digit++) ck_assert(first.random[digit] >= 0 && first.random[digit] < 65536);
  qn_sampler_destroy(a);
  qn_sampler_destroy(b);

  options = plain_options();
  options.temperature = 0;
  options.top_k = 9;
  options.min_p = 1;
  a = create(options, 10);
  qn_sampler_settings(a, &first);
  ck_assert(first.inverse_temperature == 1 && first.top_k == 1 && first.top_p == 1 << 20 && isinf(first.log_min_p));
  ck_assert(first.random[0] == 0 && first.random[1] == 0 && first.random[2] == 0);
  qn_sampler_destroy(a);

  options.temperature = 1e-300;
  options.repeat_penalty = 1.5;
  options.repeat_last_n = 4;
  options.top_p = 1e-9;
  a = create(options, 10);
  qn_sampler_settings(a, &first);
  ck_assert(first.inverse_temperature == 0x1p100f && first.top_p == 1 && fabsf(first.log_min_p) < 1e-7f);
  ck_assert(qn_sampler_needs_logits(a));
  qn_sampler_destroy(a);
}
END_TEST

// ---- errors ------------------------------------------------------------------------------------------------------

START_TEST(options_are_checked) {
#define BAD(field, value, text)                                                             \
  do {                                                                                      \
    qn_sampler_options options = qn_sampler_options_default();                              \
    options.field = (value);                                                                \
    qn_diag diag = {0};                                                                     \
    qn_sampler *sampler;                                                                    \
    qn_assert_fails(&diag, QN_ERR_ARGUMENT, #field ": " text,                               \
                    qn_sampler_create(&options, 10, qn_test_allocator(), &sampler, &diag)); \
    ck_assert_ptr_null(sampler);                                                            \
  } while (0)
  BAD(temperature, NAN, "is nan, want 0");
  BAD(temperature, INFINITY, "is inf, want 0");
  BAD(temperature, -0.5, "is -0.5, want 0 (always the most likely token) or more");
  BAD(top_k, -1, "is -1, want 0 (all tokens) or more");
  BAD(top_p, 0, "is 0, want more than 0 and at most 1 (all tokens)");
  BAD(top_p, 1.5, "is 1.5, want more than 0");
  BAD(top_p, NAN, "is nan, want");
  BAD(min_p, -0.1, "is -0.1, want 0 (all tokens) to 1");
  BAD(min_p, 1.1, "is 1.1, want 0");
  BAD(min_p, NAN, "is nan, want 0");
  BAD(repeat_penalty, 0, "is 0, want more than 0 (1: no penalty)");
  BAD(repeat_penalty, -1, "is -1, want more than 0");
  BAD(repeat_penalty, NAN, "is nan, want more than 0");
  BAD(repeat_last_n, -1, "is -1, want 0 to 1048576");
  BAD(repeat_last_n, 1 << 21, "is 2097152, want 0 to 1048576");
#undef BAD
  qn_sampler_options options = qn_sampler_options_default();
  qn_diag diag = {0};
  qn_sampler *sampler;
  qn_assert_ok(&diag, qn_sampler_options_check(&options, &diag));
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "sampler: the vocabulary has 0 tokens, want 1 to 524287",
                  qn_sampler_create(&options, 0, qn_test_allocator(), &sampler, &diag));
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "sampler: the vocabulary has 524288 tokens, want 1 to 524287",
                  qn_sampler_create(&options, 1 << 19, qn_test_allocator(), &sampler, &diag));
}
END_TEST

static qn_status create_and_sample(const qn_allocator *allocator, void *context) {
  (void)context;
  qn_sampler_options options = qn_sampler_options_default();
  options.repeat_penalty = 1.5;
  qn_sampler *sampler;
  qn_diag diag = {0};
  qn_status status = qn_sampler_create(&options, 4, allocator, &sampler, &diag);
  if (status != QN_OK) return status;
  qn_sampler_accept(sampler, 1);
  sample(sampler, (float[]){1, 2, 3, 4});
  qn_sampler_destroy(sampler);
  return QN_OK;
}

START_TEST(allocations_may_fail) { qn_test_failing_allocations(create_and_sample, NULL); }
END_TEST

QN_CASE(numbers, rng_known_values, rng_unit_is_uniform, exp_is_that_of_programs)
QN_CASE(choosing, greedy, greedy_in_every_place, greedy_in_large_vocabularies, bad_logits, repetition_penalty,
        options_keep_what_they_say, known_cuts, the_largest_vocabulary)
QN_CASE(drawing, draws_follow_probabilities, judged_guesses_change_no_odds, certain_guesses, draws_repeat, settings_for_elsewhere, sampling_allocates_nothing)
QN_CASE(errors, options_are_checked, allocations_may_fail)
QN_TEST_MAIN(numbers, choosing, drawing, errors)
