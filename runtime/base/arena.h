// A bump allocator for things that die together: one arena a lifetime (a compile, a pass, a loaded model).
#ifndef QN_BASE_ARENA_H
#define QN_BASE_ARENA_H

#include "runtime/base/alloc.h"
#include "runtime/base/str.h"

typedef struct qn_arena_chunk qn_arena_chunk;

typedef struct qn_arena {
  const qn_allocator *allocator;  // borrowed
  qn_arena_chunk *chunks;         // owned, newest first
  size_t used_bytes;              // given out in all
} qn_arena;

void qn_arena_init(qn_arena *arena, const qn_allocator *allocator);
void qn_arena_deinit(qn_arena *arena);  // frees all; the arena may be used again
// Zeroed memory aligned to 16 bytes, or NULL when the allocator fails. Size 0 gives a valid pointer.
void *qn_arena_alloc(qn_arena *arena, size_t size);
// count × size with the multiplication checked.
void *qn_arena_array(qn_arena *arena, size_t count, size_t size);
// A NUL-terminated copy; NULL on failure.
char *qn_arena_strdup(qn_arena *arena, const char *text);
char *qn_arena_strndup(qn_arena *arena, const char *text, size_t length);
char *qn_arena_printf(qn_arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define QN_ARENA_NEW(arena, type) ((type *)qn_arena_alloc((arena), sizeof(type)))
#define QN_ARENA_ARRAY(arena, count, type) ((type *)qn_arena_array((arena), (count), sizeof(type)))

#endif
