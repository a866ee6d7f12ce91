// The hash map: open addressing with linear probing, at most three quarters full. Nothing is ever removed.
#include "runtime/base/map.h"

#include "runtime/base/hash.h"

void qn_map_init(qn_map *map, const qn_allocator *allocator) { *map = (qn_map){.allocator = allocator}; }

void qn_map_deinit(qn_map *map) {
  qn_free(map->allocator, map->slots, map->capacity * sizeof *map->slots);
  *map = (qn_map){.allocator = map->allocator};
}

// The slot that holds the key, or the free one where it belongs. The map has a free slot.
static qn_map_slot *find(qn_map_slot *slots, size_t capacity, qn_str key, uint64_t hash) {
  for (size_t i = (size_t)hash & (capacity - 1);; i = (i + 1) & (capacity - 1)) {
    qn_map_slot *slot = &slots[i];
    if (!slot->key.data || (slot->hash == hash && qn_str_equal(slot->key, key))) return slot;
  }
}

static bool grow(qn_map *map) {
  size_t capacity = 16, bytes;
  if (map->capacity > 0 && !qn_size_mul(map->capacity, 2, &capacity)) return false;
  if (!qn_size_mul(capacity, sizeof *map->slots, &bytes)) return false;
  qn_map_slot *slots = qn_alloc_zeroed(map->allocator, bytes);
  if (!slots) return false;
  for (size_t i = 0; i < map->capacity; i++) {
    const qn_map_slot *old = &map->slots[i];
    if (old->key.data) *find(slots, capacity, old->key, old->hash) = *old;
  }
  qn_free(map->allocator, map->slots, map->capacity * sizeof *map->slots);
  map->slots = slots;
  map->capacity = capacity;
  return true;
}

bool qn_map_put(qn_map *map, qn_str key, uint64_t value) {
  uint64_t hash = qn_hash64(key.data, key.length, 0);
  if (!key.data) key = QN_STR("");
  if (map->capacity > 0) {  // a replacement needs no room
    qn_map_slot *slot = find(map->slots, map->capacity, key, hash);
    if (slot->key.data) {
      slot->value = value;
      return true;
    }
  }
  if (map->count >= map->capacity - map->capacity / 4 && !grow(map)) return false;
  *find(map->slots, map->capacity, key, hash) = (qn_map_slot){key, hash, value};
  map->count++;
  return true;
}

bool qn_map_get(const qn_map *map, qn_str key, uint64_t *out) {
  if (map->count == 0) return false;
  const qn_map_slot *slot = find(map->slots, map->capacity, key, qn_hash64(key.data, key.length, 0));
  if (!slot->key.data) return false;
  if (out) *out = slot->value;
  return true;
}
