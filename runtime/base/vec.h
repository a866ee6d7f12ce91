// A growable array of any type: declare `QN_VEC(type) name;`, zero-initialise, push, index `name.items[i]`.
#ifndef QN_BASE_VEC_H
#define QN_BASE_VEC_H

#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/arena.h"

#define QN_VEC(type) \
  struct {           \
    type *items;     \
    size_t count, capacity; \
  }

// Makes room for one more item from the allocator; false when out of memory (the vector unchanged).
#define qn_vec_push(allocator, vec, value)                                                                      \
  (qn_vec_grow_((allocator), (void **)&(vec)->items, (vec)->count, &(vec)->capacity, sizeof(*(vec)->items))     \
       ? ((vec)->items[(vec)->count++] = (value), true)                                                         \
       : false)
// The same with memory from an arena (old storage is left to it).
#define qn_vec_push_arena(arena, vec, value)                                                                         \
  (qn_vec_grow_arena_((arena), (void **)&(vec)->items, (vec)->count, &(vec)->capacity, sizeof(*(vec)->items))        \
       ? ((vec)->items[(vec)->count++] = (value), true)                                                              \
       : false)
#define qn_vec_free(allocator, vec)                                                          \
  (qn_free((allocator), (vec)->items, (vec)->capacity * sizeof(*(vec)->items)),              \
   (vec)->items = NULL, (vec)->count = (vec)->capacity = 0)

bool qn_vec_grow_(const qn_allocator *allocator, void **items, size_t count, size_t *capacity, size_t item_size);
bool qn_vec_grow_arena_(qn_arena *arena, void **items, size_t count, size_t *capacity, size_t item_size);

#endif
