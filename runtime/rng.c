// xoshiro256** and SplitMix64.
#include "runtime/rng.h"

static uint64_t rotate_left(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

uint64_t qn_splitmix64(uint64_t *state) {
  uint64_t z = *state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

void qn_rng_seed(qn_rng *rng, uint64_t seed) {
  for (int i = 0; i < 4; i++) rng->state[i] = qn_splitmix64(&seed);
}

uint64_t qn_rng_next(qn_rng *rng) {
  uint64_t *s = rng->state;
  uint64_t result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotate_left(s[3], 45);
  return result;
}

double qn_rng_unit(qn_rng *rng) { return (double)(qn_rng_next(rng) >> 11) * 0x1p-53; }
