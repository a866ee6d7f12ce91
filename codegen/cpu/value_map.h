// A hash map from addresses (IR nodes, variables, buffers) to MLIR values, emptied in constant time: what the
// emitter remembers within a statement and within a kernel.
#ifndef QN_CODEGEN_CPU_VALUE_MAP_H
#define QN_CODEGEN_CPU_VALUE_MAP_H

#include <stdint.h>

#include "codegen/cpu/mlir_build.h"
#include "runtime/base/alloc.h"

typedef struct qn_value_slot {
  const void *key;
  MlirValue value;
  uint64_t generation;  // the slot is free unless this is the map's
} qn_value_slot;

typedef struct qn_value_map {
  const qn_allocator *allocator;  // borrowed
  qn_value_slot *slots;           // owned
  size_t count, capacity;         // capacity is 0 or a power of two
  uint64_t generation;
} qn_value_map;

void qn_value_map_init(qn_value_map *map, const qn_allocator *allocator);
void qn_value_map_deinit(qn_value_map *map);
void qn_value_map_clear(qn_value_map *map);
bool qn_value_map_put(qn_value_map *map, const void *key, MlirValue value);  // false when out of memory
bool qn_value_map_get(const qn_value_map *map, const void *key, MlirValue *out);

#endif
