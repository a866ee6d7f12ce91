// A fast 64-bit hash for maps, cache keys and section checksums. Not cryptographic. The value is part of the
// artifact format: it never changes for the same bytes and seed, on any machine.
#ifndef QN_BASE_HASH_H
#define QN_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t qn_hash64(const void *data, size_t length, uint64_t seed);

// The same hash over bytes that come in pieces: any split of the same bytes gives the same value.
typedef struct qn_hasher {
  uint64_t lanes[4];
  uint8_t pending[32];
  size_t pending_count;
  uint64_t length, seed;
} qn_hasher;
void qn_hasher_init(qn_hasher *hasher, uint64_t seed);
void qn_hasher_update(qn_hasher *hasher, const void *data, size_t length);
uint64_t qn_hasher_final(const qn_hasher *hasher);

#endif
