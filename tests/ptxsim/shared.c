// Checks and counters of shared memory.
#include "tests/ptxsim/shared.h"

#include <stdio.h>

#include "tests/ptxsim/cuda_abi.h"

// A tag: tick << 12 | who. 0 = never. Threads are 0 to 1023; then one number for "several lanes of warp w", and one for
// "several warps", "atomics of several", "a copy under way".
// Times before the block's last barrier are the usual case and one comparison; a copy under way is at the end of time.
enum { WHO_BITS = 12, WHO_WARP = 1024, WHO_MANY = 2048, WHO_ATOMIC = 2049, WHO_COPY = 2050 };
#define END_OF_TIME (UINT64_MAX >> WHO_BITS)
#define WHO(tag)    ((uint32_t)(tag) & ((1u << WHO_BITS) - 1))
#define TICK(tag)   ((tag) >> WHO_BITS)

static uint64_t tag(uint64_t tick, uint32_t who) { return tick << WHO_BITS | who; }
static uint32_t thread_of(const ps_warp *w, int lane) { return w->index * PS_LANES + (uint32_t)lane; }

void ps_shared_begin(ps_block *b) {
  b->tick = b->barrier_tick = 1;
  size_t granules = b->launch->shared_bytes / b->program->granule + 1;
  memset(b->shadow_writer, 0, granules * sizeof *b->shadow_writer);
  memset(b->shadow_reader, 0, granules * sizeof *b->shadow_reader);
}

void ps_shared_sync_warp(ps_warp *w) { w->last_sync = ++w->block->tick; }

void ps_shared_sync_block(ps_block *b) {
  b->barrier_tick = ++b->tick;
  for (uint32_t i = 0; i < b->warp_count; i++) b->warps[i].last_sync = b->tick;
}

static bool check_place(ps_warp *w, const ps_insn *i, int lane, uint64_t address, unsigned size) {
  uint64_t total = w->block->launch->shared_bytes;
  if (address > total || size > total - address) {
    ps_fault_at(w, i, lane, CUDA_ERROR_ILLEGAL_ADDRESS, "shared memory out of bounds: %u bytes at %llu of %llu", size,
                (unsigned long long)address, (unsigned long long)total);
    return false;
  }
  if (address % size != 0) {
    ps_fault_at(w, i, lane, CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned access to shared memory: %u bytes at %llu", size,
                (unsigned long long)address);
    return false;
  }
  return true;
}

static void race(ps_warp *w, const ps_insn *i, int lane, uint64_t address, const char *mine, const char *theirs,
                 uint32_t who) {
  char other[64];
  uint32_t x = w->block->launch->config->block[0], y = w->block->launch->config->block[1];
  if (who < WHO_WARP) {
    snprintf(other, sizeof other, "thread (%u,%u,%u)", who % x, who / x % y, who / x / y);
  } else if (who < WHO_MANY) {
    snprintf(other, sizeof other, "threads of warp %u", who - WHO_WARP);
  } else {
    snprintf(other, sizeof other, "other threads");
  }
  ps_fault_at(w, i, lane, CUDA_ERROR_LAUNCH_FAILED,
              "race on shared memory at %llu: %s here, and %s %s since the last barrier", (unsigned long long)address,
              mine, other, theirs);
}

// May an access of this lane come after what the tag records, with no order between them?
static bool unordered(const ps_warp *w, int lane, uint64_t t) {
  if (TICK(t) < w->block->barrier_tick) return false;
  uint32_t who = WHO(t), warp = who < WHO_WARP ? who / PS_LANES : who < WHO_MANY ? who - WHO_WARP : UINT32_MAX;
  if (who == thread_of(w, lane)) return false;
  return warp != w->index || TICK(t) >= w->last_sync;
}

// The reader's tag with one reader more.
static uint64_t add_reader(const ps_warp *w, int lane, uint64_t before) {
  uint64_t now = w->block->tick;
  uint32_t me = thread_of(w, lane), who = WHO(before);
  if (before == 0 || who == me || TICK(before) < w->block->barrier_tick) return tag(now, me);
  uint32_t warp = who < WHO_WARP ? who / PS_LANES : who < WHO_MANY ? who - WHO_WARP : UINT32_MAX;
  if (warp != w->index) return tag(now, WHO_MANY);
  return TICK(before) < w->last_sync ? tag(now, me) : tag(now, WHO_WARP + w->index);
}

// What is not simply older than the last barrier. False after a fault.
static bool read_granule(ps_warp *w, const ps_insn *i, int lane, uint64_t g, bool atomic) {
  ps_block *b = w->block;
  const ps_options *o = b->launch->options;
  uint64_t writer = b->shadow_writer[g], at = g * b->program->granule;
  if (WHO(writer) == WHO_COPY) {
    ps_fault_at(w, i, lane, CUDA_ERROR_LAUNCH_FAILED,
                "shared memory at %llu is read before its cp.async was waited for", (unsigned long long)at);
    return false;
  }
  if (writer == 0 && o->check_initialised) {
    ps_fault_at(w, i, lane, CUDA_ERROR_LAUNCH_FAILED, "uninitialised shared memory at %llu", (unsigned long long)at);
    return false;
  }
  if (!o->check_races) return true;
  bool both_atomic = atomic && WHO(writer) == WHO_ATOMIC;
  if (writer != 0 && !both_atomic && unordered(w, lane, writer)) {
    race(w, i, lane, at, "a read", "wrote", WHO(writer));
    return false;
  }
  if (!atomic) b->shadow_reader[g] = add_reader(w, lane, b->shadow_reader[g]);
  return true;
}

bool ps_shared_read(ps_warp *w, const ps_insn *i, int lane, uint64_t address, unsigned size, bool atomic) {
  if (!check_place(w, i, lane, address, size)) return false;
  ps_block *b = w->block;
  const uint64_t old = tag(b->barrier_tick, 0), mine = tag(b->tick, thread_of(w, lane));
  const unsigned granule = b->program->granule;
  const uint64_t from = address / granule, to = (address + size) / granule;
  uint64_t *writers = b->shadow_writer, *readers = b->shadow_reader;
  for (uint64_t g = from; g < to; g++) {
    uint64_t bytes = ((UINT64_C(1) << granule) - 1) << (g * granule - address);
    if (i->used_bytes != 0 && (i->used_bytes & bytes) == 0) continue;
    if (writers[g] - 1 < old - 1 && readers[g] < old && !atomic) {
      readers[g] = mine;
    } else if (!read_granule(w, i, lane, g, atomic)) {
      return false;
    }
  }
  return true;
}

static bool write_granule(ps_warp *w, const ps_insn *i, int lane, uint64_t g, bool atomic, const uint8_t *data) {
  ps_block *b = w->block;
  const unsigned granule = b->program->granule;
  uint64_t writer = b->shadow_writer[g], reader = b->shadow_reader[g], at = g * granule;
  if (WHO(writer) == WHO_COPY) {
    ps_fault_at(w, i, lane, CUDA_ERROR_LAUNCH_FAILED,
                "shared memory at %llu is written while a cp.async to it is under way", (unsigned long long)at);
    return false;
  }
  bool both_atomic = atomic && WHO(writer) == WHO_ATOMIC;
  bool same = data != NULL && memcmp(b->shared + at, data, granule) == 0;
  if (b->launch->options->check_races && !same) {
    if (writer != 0 && !both_atomic && unordered(w, lane, writer)) {
      race(w, i, lane, at, "a write", "wrote", WHO(writer));
      return false;
    }
    if (reader != 0 && unordered(w, lane, reader)) {
      race(w, i, lane, at, "a write", "read", WHO(reader));
      return false;
    }
  }
  // An atomic after the same thread's plain write does not make that write an atomic one.
  bool plain_before = atomic && writer != 0 && WHO(writer) != WHO_ATOMIC && TICK(writer) >= b->barrier_tick;
  if (!plain_before) b->shadow_writer[g] = tag(b->tick, atomic ? WHO_ATOMIC : thread_of(w, lane));
  return true;
}

bool ps_shared_write(ps_warp *w, const ps_insn *i, int lane, uint64_t address, unsigned size, bool atomic,
                     const void *data) {
  if (!check_place(w, i, lane, address, size)) return false;
  ps_block *b = w->block;
  const uint64_t old = tag(b->barrier_tick, 0), mine = tag(b->tick, thread_of(w, lane));
  const unsigned granule = b->program->granule;
  const uint64_t from = address / granule, to = (address + size) / granule;
  uint64_t *writers = b->shadow_writer, *readers = b->shadow_reader;
  for (uint64_t g = from; g < to; g++) {
    if (writers[g] < old && readers[g] < old && !atomic) {
      writers[g] = mine;
      continue;
    }
    const uint8_t *bytes = data != NULL ? (const uint8_t *)data + (g - from) * granule : NULL;
    if (!write_granule(w, i, lane, g, atomic, bytes)) return false;
  }
  return true;
}

bool ps_shared_poison(ps_warp *w, const ps_insn *i, int lane, uint64_t address, unsigned size) {
  if (!ps_shared_write(w, i, lane, address, size, false, NULL)) return false;
  unsigned granule = w->block->program->granule;
  for (uint64_t g = address / granule; g < (address + size) / granule; g++) {
    w->block->shadow_writer[g] = tag(END_OF_TIME, WHO_COPY);
  }
  return true;
}

void ps_shared_land(ps_warp *w, int lane, uint64_t address, unsigned size, const void *data) {
  unsigned granule = w->block->program->granule;
  for (uint64_t g = address / granule; g < (address + size) / granule; g++) {
    w->block->shadow_writer[g] = tag(w->block->tick, thread_of(w, lane));
  }
  memcpy(w->block->shared + address, data, size);
}

// Wavefronts of lanes [from, to): each of the 32 banks gives one word of 4 bytes at a time, to any number of lanes.
static unsigned wavefronts(uint32_t mask, const uint64_t address[PS_LANES], unsigned size, int from, int to) {
  uint64_t words[PS_LANES][PS_LANES];
  uint8_t counts[PS_LANES] = {0};
  unsigned most = 0, words_each = size < 4 ? 1 : size / 4;
  for (int l = from; l < to; l++) {
    if (!PS_ACTIVE(mask, l)) continue;
    for (unsigned k = 0; k < words_each; k++) {
      uint64_t word = address[l] / 4 + k;
      unsigned bank = (unsigned)(word % 32), n = 0;
      while (n < counts[bank] && words[bank][n] != word) n++;
      if (n < counts[bank]) continue;
      words[bank][counts[bank]++] = word;
      if (counts[bank] > most) most = counts[bank];
    }
  }
  return most;
}

// Do the lanes [from, to) touch different banks, so that one wavefront does? Most do.
static bool apart(uint32_t mask, const uint64_t address[PS_LANES], unsigned size, int from, int to) {
  uint32_t used = 0;
  unsigned shift = size >= 16 ? 4 : size >= 8 ? 3 : 2, slots = 128u >> shift;
  for (int l = from; l < to; l++) {
    if (!PS_ACTIVE(mask, l)) continue;
    uint32_t bit = 1u << (address[l] >> shift & (slots - 1));
    if ((used & bit) != 0) return false;
    used |= bit;
  }
  return used != 0;
}

// Accesses of 8 bytes go by half warps and those of 16 by quarters.
void ps_shared_count(ps_warp *w, uint32_t mask, const uint64_t address[PS_LANES], unsigned size) {
  if (mask == 0) return;
  ps_counters *c = &w->block->counters;
  int lanes = size <= 4 ? 32 : size <= 8 ? 16 : 8;
  unsigned total = 0, least = 0;
  bool linear = mask == PS_FULL && size >= 4;
  for (int l = 1; l < PS_LANES && linear; l++) linear = address[l] == address[0] + (uint64_t)l * size;
  if (linear) {
    total = least = 32 / (unsigned)lanes;
  } else {
    for (int from = 0; from < PS_LANES; from += lanes) {
      unsigned n =
          apart(mask, address, size, from, from + lanes) ? 1 : wavefronts(mask, address, size, from, from + lanes);
      total += n;
      least += n > 0;
    }
  }
  c->shared_requests++;
  c->shared_wavefronts += total;
  c->shared_wavefronts_least += least;
  c->shared_bytes += (uint64_t)__builtin_popcount(mask) * size;
}
