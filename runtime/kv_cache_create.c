// Makes the KV cache: how many pages and rows it has, where the pool of each cache buffer lies, and all of its memory.
#include <inttypes.h>

#include "runtime/kv_cache_impl.h"

#define POOL_ALIGNMENT 4096u
enum { SYMBOL_P = 3, SYMBOL_B = 4, SYMBOL_G = 5 };  // qn_symbol of ir/type.h
#define MAX_PAGES (INT64_C(1) << 30)  // page numbers are 32-bit

// --- pools

// Also gives the bytes of all, or that they overflow.
static qn_status walk_pools(const qn_kv_cache *cache, qn_kv_pool_visitor visit, void *context, uint64_t *out_bytes,
                            bool *out_overflow) {
  uint64_t offset = 0;
  *out_overflow = false;
  for (uint32_t i = 0; i < cache->artifact->program->buffer_count; i++) {
    const qn_art_buffer *b = &cache->artifact->buffers[i];
    size_t bytes = 0;
    if (b->kind != QN_ART_CACHE) continue;
    if (visit) QN_TRY(visit(context, b, offset));
    int64_t pages = cache->groups[group_of(cache, b)].page_count;
    if (!qn_size_mul((size_t)b->bytes, (size_t)pages, &bytes) || bytes > (UINT64_C(1) << 47) - offset) {
      *out_overflow = true;
      return QN_OK;
    }
    offset = qn_align_up(offset + bytes, POOL_ALIGNMENT);
  }
  *out_bytes = offset;
  return QN_OK;
}

qn_status qn_kv_for_each_pool(const qn_kv_cache *cache, qn_kv_pool_visitor visit, void *context) {
  uint64_t bytes;
  bool overflow;  // not of one that was created
  return walk_pools(cache, visit, context, &bytes, &overflow);
}

// --- sizes

static qn_status check_symbol(const qn_kv_cache *cache, int symbol, const char *what, int64_t got, qn_diag *diag) {
  int64_t most = cache->artifact->program->symbol_max[symbol];
  if (most == 0 || got <= most) return QN_OK;
  return qn_fail(diag, QN_ERR_LIMIT, cache->artifact->path,
                 "KV cache: %s: got %" PRId64 ", want at most %" PRId64 " as the artifact was compiled", what, got,
                 most);
}

// Pages for forks are no more than the artifact allows in all: what has no room is not forked.
static void add_forks(qn_kv_cache *cache, int32_t forks) {
  int64_t most = cache->artifact->program->symbol_max[SYMBOL_G];
  cache->row_count += forks;
  for (int i = 0; i < cache->group_count; i++) {
    group *g = &cache->groups[i];
    int64_t pages = (int64_t)forks * (cache->row_pages < 2 ? cache->row_pages : 2);
    if (i == ALL && most && pages > most - g->page_count) pages = most > g->page_count ? most - g->page_count : 0;
    g->page_count += pages;
  }
}

// Rings have what all rows ever hold: they are never what a sequence has no room for.
static void set_groups(qn_kv_cache *cache, const qn_kv_options *options) {
  int64_t windows[MOST_GROUPS] = {[ALL] = qn_artifact_window(cache->artifact), [RINGS] = cache->ring};
  cache->group_count = cache->ring > 0 && !options->whole ? MOST_GROUPS : RINGS;
  for (int i = 0; i < cache->group_count; i++) {
    group *g = &cache->groups[i];
    g->window = windows[i];
    g->row_most = qn_window_pages(g->window, cache->step, options->context, cache->page_keys);
    g->page_count = options->pages && i == ALL ? options->pages : g->row_most * cache->row_count;
  }
}

static qn_status set_sizes(qn_kv_cache *cache, const qn_kv_options *options, qn_diag *diag) {
  const char *path = cache->artifact->path;
  int64_t keys = cache->artifact->program->page_keys;
  cache->page_keys = keys ? keys : 1;
  cache->context = options->context;
  cache->row_count = options->sequences ? options->sequences : 1;
  if (options->context < 1 || options->context > MAX_PAGES) {
    return qn_fail(diag, QN_ERR_ARGUMENT, path, "KV cache: context: got %" PRId64 " tokens, want 1 to %" PRId64,
                   options->context, MAX_PAGES);
  }
  if (cache->row_count < 1 || cache->row_count > 65536) {
    return qn_fail(diag, QN_ERR_ARGUMENT, path, "KV cache: sequences: got %" PRId32 ", want 1 to 65536",
                   cache->row_count);
  }
  cache->row_pages = (options->context + cache->page_keys - 1) / cache->page_keys;
  cache->evicts = options->evicts;
  cache->sums = options->sums;
  cache->ring = qn_artifact_ring(cache->artifact);
  cache->step = options->step > 0 && options->step < options->context ? options->step : options->context;
  set_groups(cache, options);
  int64_t pages = cache->groups[ALL].page_count;
  if (pages > 0) add_forks(cache, options->forks);
  pages = cache->groups[ALL].page_count;
  if (pages < 1 || pages > MAX_PAGES || cache->row_pages * cache->row_count > MAX_PAGES) {
    return qn_fail(diag, QN_ERR_ARGUMENT, path, "KV cache: got %" PRId64 " pages, want 1 to %" PRId64, pages,
                   MAX_PAGES);
  }
  QN_TRY(check_symbol(cache, SYMBOL_P, "pages of a sequence", cache->row_pages, diag));
  QN_TRY(check_symbol(cache, SYMBOL_B, "sequences", cache->row_count, diag));
  return check_symbol(cache, SYMBOL_G, "pages of the pool", pages, diag);
}

static size_t table_bytes(const qn_kv_cache *c) {
  return (size_t)c->row_count * (size_t)c->row_pages * sizeof(int32_t);
}
static size_t kept_bytes(const qn_kv_cache *c) { return (size_t)c->groups[ALL].page_count * sizeof(bool); }
static size_t sequence_bytes(const qn_kv_cache *c) { return (size_t)c->row_count * sizeof(row); }

static bool take_tables(qn_kv_cache *cache, group *g) {
  g->table = qn_alloc_zeroed(cache->allocator, table_bytes(cache));
  g->free = qn_alloc_zeroed(cache->allocator, free_bytes(g));
  g->holders = qn_alloc_zeroed(cache->allocator, free_bytes(g));
  for (int64_t i = 0; g->free && i < g->page_count; i++) g->free[i] = (int32_t)(g->page_count - 1 - i);
  g->free_count = g->page_count;
  return g->table && g->free && g->holders;
}

static qn_status take_memory(qn_kv_cache *cache, qn_diag *diag) {
  const char *path = cache->artifact->path;
  bool overflow;
  cache->rows = qn_alloc_zeroed(cache->allocator, sequence_bytes(cache));
  cache->kept = qn_alloc_zeroed(cache->allocator, kept_bytes(cache));
  bool taken = cache->rows && cache->kept;
  for (int i = 0; i < cache->group_count && taken; i++) taken = take_tables(cache, &cache->groups[i]);
  if (!taken) return qn_fail_nomem(diag, path, "the KV cache's tables");
  QN_TRY(walk_pools(cache, NULL, NULL, &cache->pool_bytes, &overflow));
  if (overflow) {
    return qn_fail(diag, QN_ERR_LIMIT, path, "KV cache: the size of %" PRId64 " pages overflows",
                   cache->groups[ALL].page_count);
  }
  if (cache->pool_bytes > 0) {
    void *pools = NULL;
    QN_TRY(cache->memory.take(cache->memory.context, cache->pool_bytes, path, "a KV cache",
                              "ask for a smaller context", &pools, diag));
    cache->pools = pools;
  }
  return QN_OK;
}

qn_status qn_kv_cache_create(const qn_artifact *artifact, const qn_kv_options *options, const qn_allocator *allocator,
                             qn_kv_cache **out, qn_diag *diag) {
  *out = NULL;
  qn_kv_cache *cache = qn_alloc_zeroed(allocator, sizeof *cache);
  if (!cache) return qn_fail_nomem(diag, artifact->path, "the KV cache");
  cache->artifact = artifact;
  cache->allocator = allocator;
  cache->memory = options->memory ? *options->memory : *qn_memory_host();
  qn_status status = set_sizes(cache, options, diag);
  if (status == QN_OK) status = take_memory(cache, diag);
  if (status == QN_OK) {
    *out = cache;
  } else {
    qn_kv_cache_destroy(cache);
  }
  return status;
}

void qn_kv_cache_destroy(qn_kv_cache *cache) {
  if (!cache) return;
  if (cache->pools) cache->memory.give_back(cache->memory.context, cache->pools, cache->pool_bytes);
  qn_free(cache->allocator, cache->rows, sequence_bytes(cache));
  for (int i = 0; i < cache->group_count; i++) {
    group *g = &cache->groups[i];
    qn_free(cache->allocator, g->table, table_bytes(cache));
    qn_free(cache->allocator, g->free, free_bytes(g));
    qn_free(cache->allocator, g->holders, free_bytes(g));
  }
  qn_free(cache->allocator, cache->kept, kept_bytes(cache));
  qn_free(cache->allocator, cache, sizeof *cache);
}

typedef struct binding {
  const qn_kv_cache *cache;
  qn_executor *executor;
  qn_diag *diag;
} binding;

static qn_status bind_pool(void *context, const qn_art_buffer *buffer, uint64_t offset) {
  const binding *b = context;
  return qn_executor_bind_cache(b->executor, b->cache->artifact->strings + buffer->name, buffer->layer,
                                b->cache->pools + offset, b->diag);
}

qn_status qn_kv_cache_bind(const qn_kv_cache *cache, qn_executor *executor, qn_diag *diag) {
  binding b = {cache, executor, diag};
  return qn_kv_for_each_pool(cache, bind_pool, &b);
}

const int32_t *qn_kv_cache_block_table(const qn_kv_cache *cache) { return cache->groups[ALL].table; }
const int32_t *qn_kv_cache_window_table(const qn_kv_cache *cache) { return cache->groups[cache->group_count - 1].table; }
int32_t qn_kv_cache_sequences(const qn_kv_cache *cache) { return cache->row_count; }
int64_t qn_kv_cache_pages_per_sequence(const qn_kv_cache *cache) { return cache->row_pages; }
int64_t qn_kv_cache_pages(const qn_kv_cache *cache) { return cache->groups[ALL].page_count; }
int64_t qn_kv_cache_page_keys(const qn_kv_cache *cache) { return cache->page_keys; }
int64_t qn_kv_cache_free_pages(const qn_kv_cache *cache) {
  return cache->groups[ALL].free_count + cache->idle_count;
}
int64_t qn_kv_cache_free_forks(const qn_kv_cache *cache) {
  int64_t all = qn_kv_cache_free_pages(cache), rings = cache->groups[RINGS].free_count;
  return cache->group_count > RINGS && rings < all ? rings : all;
}
int64_t qn_kv_cache_context(const qn_kv_cache *cache) { return cache->context; }
uint64_t qn_kv_cache_bytes(const qn_kv_cache *cache) { return cache->pool_bytes; }
