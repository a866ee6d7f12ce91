// The growing behind the QN_VEC macros.
#include "runtime/base/vec.h"

// The next capacity and its bytes; false on overflow.
static bool next_capacity(size_t capacity, size_t item_size, size_t *out_capacity, size_t *out_bytes) {
  *out_capacity = 8;
  if (capacity > 0 && !qn_size_mul(capacity, 2, out_capacity)) return false;
  return qn_size_mul(*out_capacity, item_size, out_bytes);
}

// `items` points at a pointer of another type: it is read and written as bytes.
bool qn_vec_grow_(const qn_allocator *allocator, void **items, size_t count, size_t *capacity, size_t item_size) {
  size_t new_capacity, bytes;
  if (count < *capacity) return true;
  if (!next_capacity(*capacity, item_size, &new_capacity, &bytes)) return false;
  void *pointer;
  memcpy(&pointer, items, sizeof pointer);
  pointer = qn_realloc(allocator, pointer, *capacity * item_size, bytes);
  if (!pointer) return false;
  memcpy(items, &pointer, sizeof pointer);
  *capacity = new_capacity;
  return true;
}

bool qn_vec_grow_arena_(qn_arena *arena, void **items, size_t count, size_t *capacity, size_t item_size) {
  size_t new_capacity, bytes;
  if (count < *capacity) return true;
  if (!next_capacity(*capacity, item_size, &new_capacity, &bytes)) return false;
  void *old, *pointer = qn_arena_alloc(arena, bytes);
  if (!pointer) return false;
  memcpy(&old, items, sizeof old);
  if (count > 0) memcpy(pointer, old, count * item_size);
  memcpy(items, &pointer, sizeof pointer);
  *capacity = new_capacity;
  return true;
}
