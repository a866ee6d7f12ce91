// The default allocator and the thin calls through an allocator's one function.
#include "runtime/base/alloc.h"

#include <stdlib.h>
#include <string.h>

static void *default_reallocate(void *context, void *pointer, size_t old_size, size_t new_size) {
  (void)context, (void)old_size;
  if (new_size == 0) {
    free(pointer);
    return NULL;
  }
  return realloc(pointer, new_size);
}

const qn_allocator *qn_allocator_default(void) {
  static const qn_allocator allocator = {NULL, default_reallocate};
  return &allocator;
}

void *qn_alloc(const qn_allocator *allocator, size_t size) {
  return size == 0 ? NULL : allocator->reallocate(allocator->context, NULL, 0, size);
}

void *qn_alloc_zeroed(const qn_allocator *allocator, size_t size) {
  void *pointer = qn_alloc(allocator, size);
  if (pointer) memset(pointer, 0, size);
  return pointer;
}

void *qn_realloc(const qn_allocator *allocator, void *pointer, size_t old_size, size_t new_size) {
  if (!pointer && new_size == 0) return NULL;
  return allocator->reallocate(allocator->context, pointer, old_size, new_size);
}

void qn_free(const qn_allocator *allocator, void *pointer, size_t size) {
  if (pointer) allocator->reallocate(allocator->context, pointer, size, 0);
}
