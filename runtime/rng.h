// The random numbers of sampling: xoshiro256** (Blackman and Vigna, "Scrambled linear pseudorandom number generators",
// 2021), seeded by SplitMix64. Integer arithmetic only: a seed gives the same numbers on every machine.
#ifndef QN_RNG_H
#define QN_RNG_H

#include <stdint.h>

typedef struct qn_rng {
  uint64_t state[4];  // not all zero
} qn_rng;

// The next output of SplitMix64 (Steele, Lea, Flood 2014).
uint64_t qn_splitmix64(uint64_t *state);
// Any seed is good, 0 too; different seeds give unrelated streams.
void qn_rng_seed(qn_rng *rng, uint64_t seed);
uint64_t qn_rng_next(qn_rng *rng);
// Uniform in [0, 1): a multiple of 2^-53, from the upper 53 bits of one qn_rng_next.
double qn_rng_unit(qn_rng *rng);

#endif
