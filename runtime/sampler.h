// Choosing the next token from logits. The steps, in llama.cpp's order: repetition penalty; then, at temperature 0, the
// most likely token; otherwise top-k, top-p, min-p, temperature, one random draw. The same logits, options, history and
// seed give the same token on every machine, and the one that a program's `sample` op chooses: weights are whole
// numbers made of an exp of f32 multiply-adds. README.md ("A language model's program") says what is chosen.
#ifndef QN_SAMPLER_H
#define QN_SAMPLER_H

#include <stdint.h>

#include "runtime/base/alloc.h"
#include "runtime/base/diag.h"

typedef struct qn_sampler_options {
  double temperature;     // >= 0; 0 is greedy: the largest logit, of equals the lowest id
  int32_t top_k;          // keep the k largest logits, and those equal to the k-th; 0 = all
  double top_p;           // in (0, 1]: keep the most likely tokens until their probabilities reach it, and those equal
                          // to the last; 1 = all
  double min_p;           // in [0, 1]: keep tokens at least this fraction as likely as the most likely one; 0 = all
  double repeat_penalty;  // > 0: logits of tokens seen lately are divided by it (multiplied if negative); 1 = none
  int32_t repeat_last_n;  // how many of the last accepted tokens count as lately, 0 .. 2^20
  uint64_t seed;
} qn_sampler_options;

// temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, repeat_penalty 1, repeat_last_n 64, seed 0.
qn_sampler_options qn_sampler_options_default(void);
// ARGUMENT, naming the option, got and want.
QN_CHECKED qn_status qn_sampler_options_check(const qn_sampler_options *options, qn_diag *diag);

#define QN_SAMPLER_VOCAB_MAX ((1 << 19) - 1)  // sums of weights of at most 2^24 are 43 bits

// What a program's `sample` op takes of the options and a random number: a row of the input `sampling`.
typedef struct qn_sampling {
  float inverse_temperature;  // 2^-100 to 2^100
  int32_t top_k;              // 0 = all
  int32_t top_p;              // in units of 2^-20; 2^20 = all
  float log_min_p;            // a token's logit minus the maximum is at least this, -infinity = all
  int32_t random[3];          // 48 bits in digits of 16, the highest first
  int32_t reserved;           // 0
} qn_sampling;

// The state of one sequence: the history of tokens and the random numbers. For one thread at a time.
typedef struct qn_sampler qn_sampler;

// For logits of `n_vocab` tokens, at most QN_SAMPLER_VOCAB_MAX. All memory is taken here (24 bytes a token at most):
// sampling allocates nothing.
// *out is the caller's. Errors: ARGUMENT, NOMEM.
QN_CHECKED qn_status qn_sampler_create(const qn_sampler_options *options, int32_t n_vocab,
                                       const qn_allocator *allocator, qn_sampler **out, qn_diag *diag);
void qn_sampler_destroy(qn_sampler *sampler);  // NULL is harmless
// Forgets the history and begins the random numbers anew.
void qn_sampler_reset(qn_sampler *sampler);

// Notes that a token was put into the sequence (prompt tokens too, if they are to be penalised). Ids that are no
// token's are ignored.
void qn_sampler_accept(qn_sampler *sampler, int32_t id);

// Chooses a token from logits (n_vocab), which are left as they are; -inf forbids a token. Does not accept it. Draws
// one random number, none when greedy. Errors: INTERNAL (a NaN, a +inf or nothing but -inf among the logits, which
// model code must not give; *out_id is untouched).
QN_CHECKED qn_status qn_sampler_sample(qn_sampler *sampler, const float *logits, int32_t *out_id, qn_diag *diag);

int32_t qn_sampler_vocab(const qn_sampler *sampler);  // n_vocab of its creation
// True when a token depends on more than its logits and qn_sampler_settings: with a repetition penalty.
bool qn_sampler_needs_logits(const qn_sampler *sampler);
// The settings for one token, for whoever chooses it elsewhere; draws the random number that qn_sampler_sample would.
void qn_sampler_settings(qn_sampler *sampler, qn_sampling *out);
// The same for the next `count` tokens, without drawing: whoever takes one of them then draws it.
void qn_sampler_foresee(const qn_sampler *sampler, qn_sampling *out, size_t count);

// One of the same options and vocabulary, which chooses as this one will from now on. The caller's. NOMEM.
QN_CHECKED qn_status qn_sampler_clone(const qn_sampler *sampler, const qn_allocator *allocator, qn_sampler **out,
                                      qn_diag *diag);
// Do they have the same options, but for the seed, and the same vocabulary?
bool qn_sampler_alike(const qn_sampler *a, const qn_sampler *b);
// Makes `sampler` choose as `other` will from now on: its random numbers to come and its history. They must be
// alike.
void qn_sampler_follow(qn_sampler *sampler, const qn_sampler *other);

// What the last sample drew from: the count of candidates (1 when greedy), and each with its probability. False when
// index is not below the count.
int32_t qn_sampler_candidate_count(const qn_sampler *sampler);
bool qn_sampler_get_candidate(const qn_sampler *sampler, int32_t index, int32_t *out_id, double *out_probability);

// --- guesses that are drawn by themselves

// A token, and its share of what is drawn.
typedef struct qn_odds {
  int32_t id;
  double share;
} qn_odds;
// Writes what the last sample drew from, by id, at most `most` of it; gives how many tokens it was.
int32_t qn_sampler_odds(const qn_sampler *sampler, qn_odds *out, int32_t most);
// As qn_sampler_sample, where a token has been guessed: that one is taken as often as it can be so that each token is still
// chosen as often as by qn_sampler_sample (Leviathan et al. 2023, sections 2.3 and 3.3). `odds` (count, by id) are those that the
// guess was drawn from, by other random numbers than this sampler's; none: nothing else could have been guessed. Draws two
// random numbers, none when greedy.
QN_CHECKED qn_status qn_sampler_judge(qn_sampler *sampler, const float *logits, int32_t guess, const qn_odds *odds,
                                      int32_t count, int32_t *out_id, qn_diag *diag);
// The random numbers to come are others from now on, unrelated to those that they would have been.
void qn_sampler_diverge(qn_sampler *sampler);

// e^x for x <= 0, with the bits that programs' exp has (ir/math.c); 0 below -87.33, where floats become subnormal.
float qn_sampler_exp(float x);

#endif
