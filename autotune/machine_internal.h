// What the two halves of the machine's measurement share: machine_kernels.c writes the probes, machine.c runs them.
#ifndef QN_AUTOTUNE_MACHINE_INTERNAL_H
#define QN_AUTOTUNE_MACHINE_INTERNAL_H

#include "autotune/machine.h"

enum {
  READ_BYTES = 256 << 20,  // well beyond any cache that decoding could live in
  CHUNK_BYTES = 64 << 10,  // of an iteration of a read's parallel loop, at most
  SUMS = 4,                // of a read, each of a line
  LINE = 64,
  ROUNDS = 2000,  // iterations of a peak's parallel loop
  TURNS = 4096,   // links of each chain in one
  MAX_CHAINS = 12,
  W_LINES = 8,        // of the peaks' first operand
  PAIR_LINKS = 8,     // of a chain of dot2: 8 pairs of 15 * 128 + 15 * 128 are the most that 16 bits hold
  RESULT_LINES = 64,  // that a thread's reads of a cache write in turn
  OPERAND_BYTES = W_LINES * LINE + MAX_CHAINS * 4,
};

// Chains of a probe that computes, and the bytes that one reads again and again: 0 when there is no such cache.
int qn_probe_chains(const qn_target *target, qn_probe probe);
int64_t qn_probe_set_bytes(qn_probe probe);
int64_t qn_probe_extent(qn_probe probe);  // of its kernel's parallel loop
int qn_probe_lanes(qn_probe probe);       // of a chain

#endif
