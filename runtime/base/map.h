// A hash map from byte strings to 64-bit values (an index, or a pointer cast through uintptr_t).
#ifndef QN_BASE_MAP_H
#define QN_BASE_MAP_H

#include <stdint.h>

#include "runtime/base/str.h"

typedef struct qn_map_slot {
  qn_str key;  // borrowed: must outlive the map
  uint64_t hash, value;
} qn_map_slot;

typedef struct qn_map {
  const qn_allocator *allocator;  // borrowed
  qn_map_slot *slots;             // owned; a slot with key.data NULL is free
  size_t count, capacity;         // capacity is 0 or a power of two
} qn_map;

void qn_map_init(qn_map *map, const qn_allocator *allocator);
void qn_map_deinit(qn_map *map);
// Inserts or replaces; false when out of memory.
bool qn_map_put(qn_map *map, qn_str key, uint64_t value);
// True and *out when the key is there. `out` may be NULL.
bool qn_map_get(const qn_map *map, qn_str key, uint64_t *out);

#endif
