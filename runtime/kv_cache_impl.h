// What the files of the KV cache share: its tables, and the walk over its pools. kv_cache.c says who holds which page,
// kv_cache_create.c makes the cache, kv_cache_contents.c copies, brings and fills what pages hold.
#ifndef QN_RUNTIME_KV_CACHE_IMPL_H
#define QN_RUNTIME_KV_CACHE_IMPL_H

#include "runtime/base/window.h"
#include "runtime/kv_cache.h"

// Pools whose pages go together: `all` of every layer, but for those of layers with windows where there are such `rings`.
enum { ALL, RINGS, MOST_GROUPS };

typedef struct span {
  int64_t first;  // page of its row that it holds: those before lay outside every window, and their places hold 0
  int64_t pages;  // in its row, those before the first included
} span;

typedef struct row {
  bool used;
  int64_t length;  // tokens
  int64_t source;  // tokens of its source
  span spans[MOST_GROUPS];
  int64_t evicted;  // tokens whose keys were taken out from among the others: they are not in `length`
  int64_t floor;    // the length that was left then, or the least that was restored of it
} row;

typedef struct group {
  int32_t *table;    // owned: (row_count, row_pages)
  int32_t *free;     // owned: stack of page_count numbers, the next one on top
  int32_t *holders;  // owned: of each page: rows that have it, and one more where it is kept
  int64_t page_count, free_count;
  int64_t window;    // keys that a token sees at most; 0 = all before it
  int64_t row_most;  // pages that a row ever holds at most
} group;

struct qn_kv_cache {
  const qn_artifact *artifact;    // borrowed
  const qn_allocator *allocator;  // borrowed
  row *rows;                      // owned: one a row
  group groups[MOST_GROUPS];
  int group_count;
  bool *kept;                     // owned: of each page of the first group, which has others then
  qn_memory memory;               // where the pools lie
  uint8_t *pools;                 // taken of it; NULL when the program has no cache
  uint64_t pool_bytes;
  int32_t row_count;
  int64_t row_pages;
  int64_t idle_count;  // pages that are kept and have no other holder
  int64_t page_keys, context;
  int64_t ring;        // the window of the buffers that have one beside others without; 0 = there are none
  int64_t step;        // tokens of a step at most
  bool evicts, sums;
  qn_kv_reclaimer reclaim;  // NULL = none
  void *reclaim_context;    // borrowed
};

// Has the buffer a window beside others without?
static inline bool is_ring(const qn_kv_cache *cache, const qn_art_buffer *buffer) {
  return cache->ring > 0 && buffer->window > 0;
}

static inline int group_of(const qn_kv_cache *cache, const qn_art_buffer *buffer) {
  return cache->group_count > RINGS && is_ring(cache, buffer) ? RINGS : ALL;
}

static inline int32_t *pages_in(const qn_kv_cache *cache, int g, int32_t sequence) {
  return cache->groups[g].table + (size_t)sequence * (size_t)cache->row_pages;
}

static inline int32_t *pages_of(const qn_kv_cache *cache, int32_t sequence) { return pages_in(cache, ALL, sequence); }

static inline int64_t pages_for(const qn_kv_cache *cache, int64_t tokens) {
  return (tokens + cache->page_keys - 1) / cache->page_keys;
}

// The first page that the next token of a sequence of so many sees.
static inline int64_t first_seen(const qn_kv_cache *cache, int g, int64_t length) {
  return qn_window_first_page(cache->groups[g].window, length, cache->page_keys);
}

static inline size_t free_bytes(const group *g) { return (size_t)g->page_count * sizeof(int32_t); }

// Calls visit(context, buffer, offset) for each cache buffer in the artifact's order, whose pool begins at the offset. Ends
// with the first status that is not OK.
typedef qn_status (*qn_kv_pool_visitor)(void *context, const qn_art_buffer *buffer, uint64_t offset);
QN_CHECKED qn_status qn_kv_for_each_pool(const qn_kv_cache *cache, qn_kv_pool_visitor visit, void *context);
// Copies a page of the group in all pools. Errors: the memory's.
QN_CHECKED qn_status qn_kv_copy_page(const qn_kv_cache *cache, int g, int32_t from, int32_t to, qn_diag *diag);

#endif
