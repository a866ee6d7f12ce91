// The hash: four lanes of 64 bits take 8 little-endian bytes each from every 32, by xor, odd multiplication and
// xor-shift (each step a bijection of the lane, so one changed word always changes it). The last, partial 32 bytes
// are padded with zeros; the length, mixed in at the end with the lanes, tells padding from data.
#include "runtime/base/hash.h"

#include <string.h>

#define BLOCK_BYTES 32
// Odd constants: the fractions of the golden ratio and of the square roots of 2, 3, 5 and 7, as 64-bit integers.
#define K_PHI   0x9E3779B97F4A7C15u
#define K_SQRT2 0x6A09E667F3BCC909u
#define K_SQRT3 0xBB67AE8584CAA73Bu
#define K_SQRT5 0x3C6EF372FE94F82Bu
#define K_SQRT7 0xA54FF53A5F1D36F1u

static uint64_t load64(const uint8_t *bytes) {
  uint64_t word;
  memcpy(&word, bytes, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

static uint64_t mix(uint64_t lane, uint64_t word) {
  lane = (lane ^ word) * K_PHI;
  return lane ^ (lane >> 32);
}

// Takes `count` whole blocks.
static void take_blocks(uint64_t lanes[4], const uint8_t *bytes, size_t count) {
  uint64_t a = lanes[0], b = lanes[1], c = lanes[2], d = lanes[3];
  for (; count > 0; count--, bytes += BLOCK_BYTES) {
    a = mix(a, load64(bytes));
    b = mix(b, load64(bytes + 8));
    c = mix(c, load64(bytes + 16));
    d = mix(d, load64(bytes + 24));
  }
  lanes[0] = a, lanes[1] = b, lanes[2] = c, lanes[3] = d;
}

void qn_hasher_init(qn_hasher *hasher, uint64_t seed) {
  *hasher = (qn_hasher){
      .lanes = {seed ^ K_SQRT2, seed ^ K_SQRT3, seed ^ K_SQRT5, seed ^ K_SQRT7},
      .seed = seed,
  };
}

void qn_hasher_update(qn_hasher *hasher, const void *data, size_t length) {
  const uint8_t *bytes = data;
  hasher->length += length;
  if (length == 0) return;
  if (hasher->pending_count > 0) {
    size_t room = BLOCK_BYTES - hasher->pending_count, take = length < room ? length : room;
    memcpy(hasher->pending + hasher->pending_count, bytes, take);
    hasher->pending_count += take;
    bytes += take;
    length -= take;
    if (hasher->pending_count < BLOCK_BYTES) return;
    take_blocks(hasher->lanes, hasher->pending, 1);
    hasher->pending_count = 0;
  }
  take_blocks(hasher->lanes, bytes, length / BLOCK_BYTES);
  hasher->pending_count = length % BLOCK_BYTES;
  if (hasher->pending_count > 0)
    memcpy(hasher->pending, bytes + (length - hasher->pending_count), hasher->pending_count);
}

uint64_t qn_hasher_final(const qn_hasher *hasher) {
  uint64_t lanes[4];
  memcpy(lanes, hasher->lanes, sizeof lanes);
  if (hasher->pending_count > 0) {
    uint8_t block[BLOCK_BYTES] = {0};
    memcpy(block, hasher->pending, hasher->pending_count);
    take_blocks(lanes, block, 1);
  }
  uint64_t hash = hasher->seed ^ (hasher->length * K_SQRT3);
  for (int i = 0; i < 4; i++) {
    hash = (hash ^ lanes[i]) * K_SQRT2;
    hash ^= hash >> 29;
  }
  hash *= K_PHI;
  return hash ^ (hash >> 32);
}

uint64_t qn_hash64(const void *data, size_t length, uint64_t seed) {
  qn_hasher hasher;
  qn_hasher_init(&hasher, seed);
  qn_hasher_update(&hasher, data, length);
  return qn_hasher_final(&hasher);
}
