// The allocator that every room is handed. One function pointer, so that tests can count and fail allocations.
#ifndef QN_BASE_ALLOC_H
#define QN_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

// `reallocate` follows Lua's convention: pointer NULL allocates, new_size 0 frees (returns NULL), anything else
// resizes. old_size is what was asked for at the last call. Returns NULL on failure, the old block untouched.
typedef struct qn_allocator {
  void *context;  // borrowed; passed to every call
  void *(*reallocate)(void *context, void *pointer, size_t old_size, size_t new_size);
} qn_allocator;

// malloc/realloc/free.
const qn_allocator *qn_allocator_default(void);

void *qn_alloc(const qn_allocator *allocator, size_t size);         // uninitialised; NULL on failure or size 0
void *qn_alloc_zeroed(const qn_allocator *allocator, size_t size);  // zeroed
void *qn_realloc(const qn_allocator *allocator, void *pointer, size_t old_size, size_t new_size);
void qn_free(const qn_allocator *allocator, void *pointer, size_t size);  // pointer may be NULL

// Size arithmetic on untrusted numbers: false when it overflows, *out untouched.
static inline bool qn_size_mul(size_t a, size_t b, size_t *out) {
  size_t product;  // the builtin would store the wrapped result
  if (__builtin_mul_overflow(a, b, &product)) return false;
  *out = product;
  return true;
}
static inline bool qn_size_add(size_t a, size_t b, size_t *out) {
  size_t sum;
  if (__builtin_add_overflow(a, b, &sum)) return false;
  *out = sum;
  return true;
}
// Rounds up to a power of two.
static inline size_t qn_align_up(size_t value, size_t alignment) { return (value + alignment - 1) & ~(alignment - 1); }

#endif
