// The bump allocator: a list of chunks that grow up to 1 MiB; what is larger than a chunk gets one of its own.
// Under AddressSanitizer each object is followed by a poisoned gap, so that overruns inside an arena are seen.
#include "runtime/base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif

#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
#define GAP_BYTES               16
#define POISON(pointer, size)   ASAN_POISON_MEMORY_REGION(pointer, size)
#define UNPOISON(pointer, size) ASAN_UNPOISON_MEMORY_REGION(pointer, size)
#else
#define GAP_BYTES               0
#define POISON(pointer, size)   ((void)(pointer), (void)(size))
#define UNPOISON(pointer, size) ((void)(pointer), (void)(size))
#endif

enum { ALIGNMENT = 16, FIRST_CHUNK_BYTES = 4096, LARGEST_CHUNK_BYTES = 1 << 20 };

struct qn_arena_chunk {
  qn_arena_chunk *next;  // owned: the older chunk
  size_t size, used;     // bytes of `data`: in all, given out
  _Alignas(16) unsigned char data[];
};

void qn_arena_init(qn_arena *arena, const qn_allocator *allocator) { *arena = (qn_arena){.allocator = allocator}; }

void qn_arena_deinit(qn_arena *arena) {
  for (qn_arena_chunk *chunk = arena->chunks; chunk;) {
    qn_arena_chunk *next = chunk->next;
    UNPOISON(chunk->data, chunk->size);
    qn_free(arena->allocator, chunk, sizeof *chunk + chunk->size);
    chunk = next;
  }
  arena->chunks = NULL;
  arena->used_bytes = 0;
}

// A new chunk with room for `need` bytes (a multiple of ALIGNMENT), put where the next allocation looks.
static qn_arena_chunk *add_chunk(qn_arena *arena, size_t need) {
  size_t size = FIRST_CHUNK_BYTES, total;
  if (arena->chunks)
    size = arena->chunks->size < LARGEST_CHUNK_BYTES / 2 ? arena->chunks->size * 2 : LARGEST_CHUNK_BYTES;
  bool own_chunk = need > size / 2 && arena->chunks;
  if (own_chunk || need > size) size = need;
  if (!qn_size_add(sizeof(qn_arena_chunk), size, &total)) return NULL;
  // An allocator gives memory aligned to 16 bytes, as malloc does; the header is a multiple of that.
  qn_arena_chunk *chunk = qn_alloc(arena->allocator, total);
  if (!chunk) return NULL;
  chunk->size = size;
  chunk->used = 0;
  POISON(chunk->data, size);
  if (own_chunk) {  // it is full at once: keep the current chunk in front
    chunk->next = arena->chunks->next;
    arena->chunks->next = chunk;
  } else {
    chunk->next = arena->chunks;
    arena->chunks = chunk;
  }
  return chunk;
}

void *qn_arena_alloc(qn_arena *arena, size_t size) {
  size_t padded;
  if (size == 0) size = 1;
  if (!qn_size_add(size, GAP_BYTES + ALIGNMENT - 1, &padded)) return NULL;
  padded &= ~(size_t)(ALIGNMENT - 1);
  qn_arena_chunk *chunk = arena->chunks;
  if (!chunk || chunk->size - chunk->used < padded) {
    chunk = add_chunk(arena, padded);
    if (!chunk) return NULL;
  }
  unsigned char *pointer = chunk->data + chunk->used;
  chunk->used += padded;
  arena->used_bytes += padded;
  UNPOISON(pointer, size);
  memset(pointer, 0, size);
  return pointer;
}

void *qn_arena_array(qn_arena *arena, size_t count, size_t size) {
  size_t total;
  return qn_size_mul(count, size, &total) ? qn_arena_alloc(arena, total) : NULL;
}

char *qn_arena_strdup(qn_arena *arena, const char *text) { return qn_arena_strndup(arena, text, strlen(text)); }

char *qn_arena_strndup(qn_arena *arena, const char *text, size_t length) {
  size_t total;
  if (!qn_size_add(length, 1, &total)) return NULL;
  char *copy = qn_arena_alloc(arena, total);
  if (copy && length > 0) memcpy(copy, text, length);
  return copy;
}

char *qn_arena_printf(qn_arena *arena, const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  char *text = NULL;
  int length = vsnprintf(NULL, 0, format, args);
  if (length >= 0) text = qn_arena_alloc(arena, (size_t)length + 1);
  if (text) vsnprintf(text, (size_t)length + 1, format, again);
  va_end(again);
  va_end(args);
  return text;
}
