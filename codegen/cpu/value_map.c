// The emitter's map from addresses to MLIR values (value_map.h): open addressing, linear probing.
#include "codegen/cpu/value_map.h"

#include <string.h>

void qn_value_map_init(qn_value_map *map, const qn_allocator *allocator) {
  memset(map, 0, sizeof *map);
  map->allocator = allocator;
  map->generation = 1;
}

void qn_value_map_deinit(qn_value_map *map) {
  qn_free(map->allocator, map->slots, map->capacity * sizeof *map->slots);
  map->slots = NULL;
  map->count = map->capacity = 0;
}

void qn_value_map_clear(qn_value_map *map) {
  map->generation++;
  map->count = 0;
}

// The slot that holds key, or the free one where it would go.
static qn_value_slot *find(const qn_value_map *map, const void *key) {
  uint64_t hash = (uint64_t)(uintptr_t)key * UINT64_C(0x9E3779B97F4A7C15);
  size_t mask = map->capacity - 1;
  for (size_t i = (size_t)(hash >> 32) & mask;; i = (i + 1) & mask) {
    qn_value_slot *slot = &map->slots[i];
    if (slot->generation != map->generation || slot->key == key) return slot;
  }
}

static bool grow(qn_value_map *map) {
  qn_value_map bigger = *map;
  bigger.capacity = map->capacity ? map->capacity * 2 : 64;
  bigger.slots = qn_alloc_zeroed(map->allocator, bigger.capacity * sizeof *bigger.slots);
  if (!bigger.slots) return false;
  for (size_t i = 0; i < map->capacity; i++)
    if (map->slots[i].generation == map->generation) *find(&bigger, map->slots[i].key) = map->slots[i];
  qn_value_map_deinit(map);
  *map = bigger;
  return true;
}

bool qn_value_map_put(qn_value_map *map, const void *key, MlirValue value) {
  if (map->count * 2 >= map->capacity && !grow(map)) return false;
  qn_value_slot *slot = find(map, key);
  if (slot->generation != map->generation) map->count++;
  *slot = (qn_value_slot){key, value, map->generation};
  return true;
}

bool qn_value_map_get(const qn_value_map *map, const void *key, MlirValue *out) {
  if (map->capacity == 0) return false;
  const qn_value_slot *slot = find(map, key);
  if (slot->generation != map->generation) return false;
  *out = slot->value;
  return true;
}
