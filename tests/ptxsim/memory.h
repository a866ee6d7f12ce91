// The memory of a simulated device: allocations in an address space of their own, far from the host's and with unused
// space between them, one bit for each byte that was written, and named ranges that are counted apart.
#ifndef PTXSIM_MEMORY_H
#define PTXSIM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/diag.h"
#include "runtime/base/vec.h"

typedef struct ps_range {
  uint64_t low, high;
  uint32_t id;
} ps_range;

typedef struct ps_allocation {
  uint64_t base, size;
  uint8_t *host;     // the bytes: mapped by us, or the host's own
  uint8_t *written;  // one bit a byte; NULL = all written
  bool mapped;       // host is ours
  bool freed;        // kept for messages
  bool constant;     // kernels may not write
  int device;
  QN_VEC(ps_range) ranges;  // sorted, without overlaps; what they leave out counts for the allocation itself
  uint32_t range;           // of the allocation itself
} ps_allocation;

typedef struct ps_range_info {
  char name[64];
  uint64_t bytes;
} ps_range_info;

typedef struct ps_memory {
  QN_VEC(ps_allocation *) allocations;  // sorted by base
  QN_VEC(ps_range_info) ranges;         // by id
  uint64_t next;                        // address
  uint64_t serial;
} ps_memory;

void ps_memory_deinit(ps_memory *memory);
// Zeroed bytes that count as unwritten. NULL when the host has none.
ps_allocation *ps_memory_allocate(ps_memory *memory, int device, uint64_t size, const char *name);
// Makes bytes of the host known under their own address; all written.
ps_allocation *ps_memory_register(ps_memory *memory, void *host, uint64_t size, const char *name);
void ps_memory_free(ps_memory *memory, ps_allocation *allocation);
// The allocation at or before an address, freed ones included; NULL when there is none.
ps_allocation *ps_memory_at(const ps_memory *memory, uint64_t address);
// The live allocation that holds all of [address, address + size); NULL when none does.
ps_allocation *ps_memory_find(const ps_memory *memory, uint64_t address, uint64_t size);
bool ps_memory_label(ps_memory *memory, uint64_t address, uint64_t size, const char *name);
// The range that an address of the allocation belongs to, and its bounds.
uint32_t ps_memory_range(const ps_allocation *allocation, uint64_t address, uint64_t *out_low, uint64_t *out_high);
// Marks bytes as written or not; safe beside other threads.
void ps_mark_written(ps_allocation *allocation, uint64_t offset, uint64_t size);
void ps_mark_unwritten(ps_allocation *allocation, uint64_t offset, uint64_t size);
// The first byte of [offset, offset + size) that was never written; `size` when all were.
uint64_t ps_first_unwritten(const ps_allocation *allocation, uint64_t offset, uint64_t size);
// Says in words what is at an address that no allocation holds.
void ps_memory_describe(const ps_memory *memory, uint64_t address, uint64_t size, char *out, size_t out_size);

#endif
