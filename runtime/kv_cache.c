// Pages are handed out from a stack of free numbers; a sequence's pages are a row of the block table. A page is free when
// its last holder lets go of it. Where every layer has a window, a row lets go of the pages before it.
#include "runtime/kv_cache.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "runtime/base/window.h"

#define POOL_ALIGNMENT 4096u
enum { SYMBOL_P = 3, SYMBOL_B = 4, SYMBOL_G = 5 };  // qn_symbol of ir/type.h

#define MAX_PAGES      (INT64_C(1) << 30)  // page numbers are 32-bit

typedef struct row {
  bool used;
  int64_t length;  // tokens
  int64_t source;  // tokens of its source
  int64_t first;   // page of its row that it holds: those before lay outside every window, and their places hold 0
  int64_t pages;   // in its row, those before the first included
  int64_t evicted;  // tokens whose keys were taken out from among the others: they are not in `length`
  int64_t floor;    // the length that was left then
} row;

struct qn_kv_cache {
  const qn_artifact *artifact;    // borrowed
  const qn_allocator *allocator;  // borrowed
  row *rows;                      // owned: one a row
  int32_t *table;                 // owned: (row_count, row_pages)
  int32_t *free;                  // owned: stack of page_count numbers, the next one on top
  int32_t *holders;               // owned: of each page: rows that have it, and one more where it is kept
  bool *kept;                     // owned: of each page
  qn_memory memory;               // where the pools lie
  uint8_t *pools;                 // taken of it; NULL when the program has no cache
  uint64_t pool_bytes;
  int32_t row_count;
  int64_t row_pages, page_count, free_count;
  int64_t idle_count;  // pages that are kept and have no other holder
  int64_t page_keys, context;
  int64_t window;    // keys that a token sees at most; 0 = all before it
  int64_t row_most;  // pages that a row ever holds at most
  int64_t step;      // tokens of a step at most
  bool evicts;
  qn_kv_reclaimer reclaim;  // NULL = none
  void *reclaim_context;    // borrowed
};

// Where the pool of each cache buffer begins, in the artifact's order: calls visit(context, buffer, offset), and gives
// the bytes of all, or that they overflow.
typedef qn_status (*pool_visitor)(void *context, const qn_art_buffer *buffer, uint64_t offset);

static qn_status for_each_pool(const qn_kv_cache *cache, pool_visitor visit, void *context, uint64_t *out_bytes,
                               bool *out_overflow) {
  uint64_t offset = 0;
  *out_overflow = false;
  for (uint32_t i = 0; i < cache->artifact->program->buffer_count; i++) {
    const qn_art_buffer *b = &cache->artifact->buffers[i];
    size_t bytes = 0;
    if (b->kind != QN_ART_CACHE) continue;
    if (visit) QN_TRY(visit(context, b, offset));
    if (!qn_size_mul((size_t)b->bytes, (size_t)cache->page_count, &bytes) || bytes > (UINT64_C(1) << 47) - offset) {
      *out_overflow = true;
      return QN_OK;
    }
    offset = qn_align_up(offset + bytes, POOL_ALIGNMENT);
  }
  *out_bytes = offset;
  return QN_OK;
}

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
  int64_t pages = (int64_t)forks * (cache->row_pages < 2 ? cache->row_pages : 2);
  if (most && pages > most - cache->page_count) pages = most > cache->page_count ? most - cache->page_count : 0;
  cache->row_count += forks;
  cache->page_count += pages;
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
  cache->window = qn_artifact_window(cache->artifact);
  cache->step = options->step > 0 && options->step < options->context ? options->step : options->context;
  cache->row_most = qn_window_pages(cache->window, cache->step, options->context, cache->page_keys);
  cache->page_count = options->pages ? options->pages : cache->row_most * cache->row_count;
  if (cache->page_count > 0) add_forks(cache, options->forks);
  if (cache->page_count < 1 || cache->page_count > MAX_PAGES || cache->row_pages * cache->row_count > MAX_PAGES) {
    return qn_fail(diag, QN_ERR_ARGUMENT, path, "KV cache: got %" PRId64 " pages, want 1 to %" PRId64,
                   cache->page_count, MAX_PAGES);
  }
  QN_TRY(check_symbol(cache, SYMBOL_P, "pages of a sequence", cache->row_pages, diag));
  QN_TRY(check_symbol(cache, SYMBOL_B, "sequences", cache->row_count, diag));
  return check_symbol(cache, SYMBOL_G, "pages of the pool", cache->page_count, diag);
}

static size_t table_bytes(const qn_kv_cache *c) {
  return (size_t)c->row_count * (size_t)c->row_pages * sizeof(int32_t);
}
static size_t free_bytes(const qn_kv_cache *c) { return (size_t)c->page_count * sizeof(int32_t); }
static size_t kept_bytes(const qn_kv_cache *c) { return (size_t)c->page_count * sizeof(bool); }
static size_t sequence_bytes(const qn_kv_cache *c) { return (size_t)c->row_count * sizeof(row); }

static qn_status take_memory(qn_kv_cache *cache, qn_diag *diag) {
  const char *path = cache->artifact->path;
  bool overflow;
  cache->rows = qn_alloc_zeroed(cache->allocator, sequence_bytes(cache));
  cache->table = qn_alloc_zeroed(cache->allocator, table_bytes(cache));
  cache->free = qn_alloc_zeroed(cache->allocator, free_bytes(cache));
  cache->holders = qn_alloc_zeroed(cache->allocator, free_bytes(cache));
  cache->kept = qn_alloc_zeroed(cache->allocator, kept_bytes(cache));
  if (!cache->rows || !cache->table || !cache->free || !cache->holders || !cache->kept)
    return qn_fail_nomem(diag, path, "the KV cache's tables");
  QN_TRY(for_each_pool(cache, NULL, NULL, &cache->pool_bytes, &overflow));
  if (overflow) {
    return qn_fail(diag, QN_ERR_LIMIT, path, "KV cache: the size of %" PRId64 " pages overflows", cache->page_count);
  }
  if (cache->pool_bytes > 0) {
    void *pools = NULL;
    QN_TRY(cache->memory.take(cache->memory.context, cache->pool_bytes, path, "a KV cache",
                              "ask for a smaller context", &pools, diag));
    cache->pools = pools;
  }
  for (int64_t i = 0; i < cache->page_count; i++) cache->free[i] = (int32_t)(cache->page_count - 1 - i);
  cache->free_count = cache->page_count;
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
  qn_free(cache->allocator, cache->table, table_bytes(cache));
  qn_free(cache->allocator, cache->free, free_bytes(cache));
  qn_free(cache->allocator, cache->holders, free_bytes(cache));
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
  uint64_t bytes;
  bool overflow;
  return for_each_pool(cache, bind_pool, &b, &bytes, &overflow);
}

const int32_t *qn_kv_cache_block_table(const qn_kv_cache *cache) { return cache->table; }
int32_t qn_kv_cache_sequences(const qn_kv_cache *cache) { return cache->row_count; }
int64_t qn_kv_cache_pages_per_sequence(const qn_kv_cache *cache) { return cache->row_pages; }
int64_t qn_kv_cache_pages(const qn_kv_cache *cache) { return cache->page_count; }
int64_t qn_kv_cache_page_keys(const qn_kv_cache *cache) { return cache->page_keys; }
int64_t qn_kv_cache_free_pages(const qn_kv_cache *cache) { return cache->free_count + cache->idle_count; }
int64_t qn_kv_cache_context(const qn_kv_cache *cache) { return cache->context; }
uint64_t qn_kv_cache_bytes(const qn_kv_cache *cache) { return cache->pool_bytes; }

// --- pages and their holders

static int32_t *pages_of(const qn_kv_cache *cache, int32_t sequence) {
  return cache->table + (size_t)sequence * (size_t)cache->row_pages;
}

static int64_t pages_for(const qn_kv_cache *cache, int64_t tokens) {
  return (tokens + cache->page_keys - 1) / cache->page_keys;
}

// The first page that a sequence of so many tokens keeps: one more than its next token sees.
static int64_t first_kept(const qn_kv_cache *cache, int64_t length) {
  return cache->window == 0 ? 0 : qn_window_first_page(cache->window + cache->page_keys, length, cache->page_keys);
}

bool qn_kv_cache_kept(const qn_kv_cache *cache, int32_t page) { return cache->kept[page]; }
bool qn_kv_cache_idle(const qn_kv_cache *cache, int32_t page) { return cache->kept[page] && cache->holders[page] == 1; }

static void hold(qn_kv_cache *cache, int32_t page) {
  assert(page >= 0 && page < cache->page_count && cache->holders[page] > 0);
  if (qn_kv_cache_idle(cache, page)) cache->idle_count--;
  cache->holders[page]++;
}

static void let_go(qn_kv_cache *cache, int32_t page) {
  assert(cache->holders[page] > 0);
  if (--cache->holders[page] == 0) cache->free[cache->free_count++] = page;
  if (qn_kv_cache_idle(cache, page)) cache->idle_count++;
}

static int32_t take_free(qn_kv_cache *cache) {
  assert(cache->free_count > 0);
  int32_t page = cache->free[--cache->free_count];
  cache->holders[page] = 1;
  return page;
}

// Are there `count` free pages, if need be after idle ones have been given up?
static bool have_free(qn_kv_cache *cache, int64_t count) {
  if (count > cache->free_count && count <= cache->free_count + cache->idle_count && cache->reclaim)
    cache->reclaim(cache->reclaim_context, count - cache->free_count);
  return count <= cache->free_count;
}

int32_t qn_kv_cache_page(const qn_kv_cache *cache, int32_t sequence, int64_t index) {
  assert(qn_kv_cache_has(cache, sequence) && index >= cache->rows[sequence].first);
  assert(index < pages_for(cache, cache->rows[sequence].length));
  return pages_of(cache, sequence)[index];
}

void qn_kv_cache_keep(qn_kv_cache *cache, int32_t page) {
  assert(!cache->kept[page]);
  hold(cache, page);
  cache->kept[page] = true;
}

void qn_kv_cache_unkeep(qn_kv_cache *cache, int32_t page) {
  assert(cache->kept[page]);
  if (qn_kv_cache_idle(cache, page)) cache->idle_count--;
  cache->kept[page] = false;
  let_go(cache, page);
}

bool qn_kv_cache_take(qn_kv_cache *cache, int32_t *out_page) {
  if (cache->free_count == 0) return false;
  *out_page = take_free(cache);
  cache->kept[*out_page] = true;
  cache->idle_count++;
  return true;
}

void qn_kv_cache_set_reclaimer(qn_kv_cache *cache, qn_kv_reclaimer reclaim, void *context) {
  cache->reclaim = reclaim;
  cache->reclaim_context = context;
}

// --- sequences

bool qn_kv_cache_has(const qn_kv_cache *cache, int32_t sequence) {
  return sequence >= 0 && sequence < cache->row_count && cache->rows[sequence].used;
}

qn_status qn_kv_cache_add(qn_kv_cache *cache, int32_t *out_sequence, qn_diag *diag) {
  for (int32_t i = 0; i < cache->row_count; i++) {
    if (cache->rows[i].used) continue;
    cache->rows[i] = (row){.used = true};
    *out_sequence = i;
    return QN_OK;
  }
  return qn_fail(diag, QN_ERR_LIMIT, cache->artifact->path,
                 "KV cache: got one sequence more than the %" PRId32 " there is room for", cache->row_count);
}

void qn_kv_cache_remove(qn_kv_cache *cache, int32_t sequence) {
  qn_kv_cache_clear(cache, sequence);
  cache->rows[sequence].used = false;
}

int64_t qn_kv_cache_length(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  return cache->rows[sequence].length;
}

// --- pages before every window

int64_t qn_kv_cache_first(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  return cache->rows[sequence].first;
}

int64_t qn_kv_cache_held(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  return cache->rows[sequence].pages - cache->rows[sequence].first;
}

int64_t qn_kv_cache_most(const qn_kv_cache *cache, int64_t tokens) {
  if (cache->evicts && tokens > cache->context) tokens = cache->context;
  return qn_window_pages(cache->window, cache->step, tokens, cache->page_keys);
}

int64_t qn_kv_cache_least(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  const row *s = &cache->rows[sequence];
  return s->first == 0 ? s->floor : s->first * cache->page_keys + cache->window - 1;
}

int64_t qn_kv_cache_passed(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  const row *s = &cache->rows[sequence];
  int64_t passed = 0;
  for (int64_t i = s->first; i < first_kept(cache, s->length); i++) {
    int32_t page = pages_of(cache, sequence)[i];
    passed += cache->holders[page] - cache->kept[page] == 1;
  }
  return passed;
}

bool qn_kv_cache_slides(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  return first_kept(cache, cache->rows[sequence].length) > cache->rows[sequence].first;
}

void qn_kv_cache_slide(qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  row *s = &cache->rows[sequence];
  int32_t *pages = pages_of(cache, sequence);
  for (int64_t end = first_kept(cache, s->length); s->first < end; s->first++) {
    let_go(cache, pages[s->first]);
    pages[s->first] = 0;
  }
}

typedef struct copying {
  const qn_kv_cache *cache;
  int32_t from, to;
  qn_diag *diag;
} copying;

static qn_status copy_pool(void *context, const qn_art_buffer *buffer, uint64_t offset) {
  const copying *c = context;
  const qn_memory *memory = &c->cache->memory;
  uint8_t *pool = c->cache->pools + offset;
  return memory->copy(memory->context, pool + (size_t)c->to * (size_t)buffer->bytes,
                      pool + (size_t)c->from * (size_t)buffer->bytes, (size_t)buffer->bytes, c->diag);
}

// How many of the pages that the sequence's next `count` tokens go to others hold, too: the one that it ends in, or ones that
// its source is in as well.
static int64_t shared_ahead(const qn_kv_cache *cache, int32_t sequence, int64_t count) {
  const row *s = &cache->rows[sequence];
  int64_t end = pages_for(cache, s->length + count), shared = 0;
  for (int64_t i = s->length / cache->page_keys; count > 0 && i < end && i < s->pages; i++)
    shared += cache->holders[pages_of(cache, sequence)[i]] > 1;
  return shared;
}

// A copy of a page, for the sequence alone, in its place. There must be a free one.
static qn_status copy_page(qn_kv_cache *cache, int32_t *place, qn_diag *diag) {
  copying c = {cache, *place, take_free(cache), diag};
  uint64_t bytes;
  bool overflow;
  qn_status status = for_each_pool(cache, copy_pool, &c, &bytes, &overflow);
  let_go(cache, status == QN_OK ? c.from : c.to);
  if (status == QN_OK) *place = c.to;
  return status;
}

qn_status qn_kv_cache_reserve(qn_kv_cache *cache, int32_t sequence, int64_t count, qn_diag *diag) {
  assert(qn_kv_cache_has(cache, sequence) && count >= 0);
  row *s = &cache->rows[sequence];
  if (count > cache->context - s->length) {
    return qn_fail(diag, QN_ERR_LIMIT, cache->artifact->path,
                   "the context is full: got %" PRId64 " tokens beside %" PRId64
                   " that are there, want at most %" PRId64 " in all; open the model with a larger context",
                   count, s->length, cache->context);
  }
  qn_kv_cache_slide(cache, sequence);
  int64_t copies = shared_ahead(cache, sequence, count);
  int64_t want = pages_for(cache, s->length + count);
  if (want > s->first + cache->row_most) want = s->first + cache->row_most;  // the rest once others are given back
  int64_t more = (want > s->pages ? want - s->pages : 0) + copies;
  if (!have_free(cache, more)) {
    return qn_fail(diag, QN_ERR_LIMIT, cache->artifact->path,
                   "the KV cache is full: got %" PRId64 " more tokens for a sequence, which takes %" PRId64
                   " pages, want at most the %" PRId64 " of %" PRId64 " that are free",
                   count, more, qn_kv_cache_free_pages(cache), cache->page_count);
  }
  int32_t *pages = pages_of(cache, sequence);
  for (int64_t i = s->length / cache->page_keys; copies > 0; i++) {
    if (cache->holders[pages[i]] == 1) continue;
    QN_TRY(copy_page(cache, &pages[i], diag));
    copies--;
  }
  while (s->pages < want) pages[s->pages++] = take_free(cache);
  return QN_OK;
}

void qn_kv_cache_advance(qn_kv_cache *cache, int32_t sequence, int64_t count) {
  row *s = &cache->rows[sequence];
  assert(qn_kv_cache_has(cache, sequence) && s->length + count <= s->pages * cache->page_keys);
  assert(shared_ahead(cache, sequence, count) == 0);
  s->length += count;
}

void qn_kv_cache_fork(qn_kv_cache *cache, int32_t from, int64_t length, int32_t to) {
  assert(qn_kv_cache_has(cache, from) && qn_kv_cache_has(cache, to) && from != to);
  assert(length >= 0 && length <= cache->rows[from].length);
  assert(length == 0 || length >= qn_kv_cache_least(cache, from));
  const int32_t *source = pages_of(cache, from);
  int32_t *pages = pages_of(cache, to);
  qn_kv_cache_clear(cache, to);
  row *s = &cache->rows[to];
  s->length = length;
  s->source = cache->rows[from].source;
  s->evicted = length == 0 ? 0 : cache->rows[from].evicted;
  s->floor = length == 0 ? 0 : cache->rows[from].floor;
  int64_t most = length > s->source ? length : s->source;
  s->first = s->pages = length == 0 ? 0 : cache->rows[from].first;
  for (; s->pages < pages_for(cache, most); s->pages++) {
    pages[s->pages] = source[s->pages];
    hold(cache, pages[s->pages]);
  }
}

void qn_kv_cache_append(qn_kv_cache *cache, int32_t sequence, int32_t page, int64_t keys) {
  assert(qn_kv_cache_has(cache, sequence) && keys > 0 && keys <= cache->page_keys);
  row *s = &cache->rows[sequence];
  assert(s->length == s->pages * cache->page_keys && keys <= cache->context - s->length);
  hold(cache, page);
  pages_of(cache, sequence)[s->pages++] = page;
  s->length += keys;
}

void qn_kv_cache_exchange(qn_kv_cache *cache, int32_t sequence, int64_t index, int32_t page) {
  assert((index + 1) * cache->page_keys <= qn_kv_cache_length(cache, sequence));
  assert(index >= cache->rows[sequence].first);
  int32_t *place = &pages_of(cache, sequence)[index], before = *place;
  hold(cache, page);
  *place = page;
  let_go(cache, before);
}

// --- keys that are evicted

bool qn_kv_cache_evicts(const qn_kv_cache *cache) { return cache->evicts; }

int64_t qn_kv_cache_evicted(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  return cache->rows[sequence].evicted;
}

int64_t qn_kv_cache_shared(const qn_kv_cache *cache, int32_t sequence, bool kept) {
  assert(qn_kv_cache_has(cache, sequence));
  const row *s = &cache->rows[sequence];
  const int32_t *pages = pages_of(cache, sequence);
  int64_t shared = 0;
  for (int64_t i = s->first; i < s->pages; i++)
    shared += cache->holders[pages[i]] - (kept ? 0 : cache->kept[pages[i]]) > 1;
  return shared;
}

qn_status qn_kv_cache_own(qn_kv_cache *cache, int32_t sequence, qn_diag *diag) {
  row *s = &cache->rows[sequence];
  int32_t *pages = pages_of(cache, sequence);
  int64_t copies = qn_kv_cache_shared(cache, sequence, true);
  if (!have_free(cache, copies)) {
    return qn_fail(diag, QN_ERR_LIMIT, cache->artifact->path,
                   "the KV cache is full: got %" PRId64
                   " pages that a sequence shares and of which it evicts keys, want at "
                   "most the %" PRId64 " of %" PRId64 " that are free",
                   copies, qn_kv_cache_free_pages(cache), cache->page_count);
  }
  for (int64_t i = s->first; i < s->pages; i++)
    if (cache->holders[pages[i]] > 1) QN_TRY(copy_page(cache, &pages[i], diag));
  return QN_OK;
}

void qn_kv_cache_evict(qn_kv_cache *cache, int32_t sequence, int64_t keep) {
  row *s = &cache->rows[sequence];
  assert(keep > 0 && keep <= s->length);
  int64_t evicted = s->evicted + s->length - keep;
  s->floor = 0;
  qn_kv_cache_truncate(cache, sequence, keep);
  s->evicted = evicted;
  s->floor = keep;
}

typedef struct transfer {
  const qn_kv_cache *cache;
  const qn_art_buffer *buffer;
  const int32_t *numbers;
  int64_t pages;
  bool write;
  uint8_t *at;
  qn_diag *diag;
} transfer;

static qn_status transfer_pool(void *context, const qn_art_buffer *buffer, uint64_t offset) {
  const transfer *t = context;
  const qn_memory *memory = &t->cache->memory;
  size_t bytes = (size_t)buffer->bytes;
  for (int64_t i = 0; buffer == t->buffer && i < t->pages; i++) {
    uint8_t *page = t->cache->pools + offset + (size_t)t->numbers[i] * bytes, *at = t->at + (size_t)i * bytes;
    if (t->write) QN_TRY(memory->write(memory->context, page, at, bytes, t->diag));
    if (!t->write) QN_TRY(memory->read(memory->context, at, page, bytes, t->diag));
  }
  return QN_OK;
}

qn_status qn_kv_cache_transfer(const qn_kv_cache *cache, int32_t sequence, const qn_art_buffer *buffer, int64_t keys,
                               bool write, uint8_t *pages, qn_diag *diag) {
  assert(qn_kv_cache_has(cache, sequence) && cache->rows[sequence].first == 0);
  transfer t = {cache, buffer, pages_of(cache, sequence), pages_for(cache, keys), write, pages, diag};
  uint64_t bytes;
  bool overflow;
  return for_each_pool(cache, transfer_pool, &t, &bytes, &overflow);
}

// --- all pages of a sequence

const qn_artifact *qn_kv_cache_artifact(const qn_kv_cache *cache) { return cache->artifact; }
const qn_allocator *qn_kv_cache_allocator(const qn_kv_cache *cache) { return cache->allocator; }

void qn_kv_cache_set_evicted(qn_kv_cache *cache, int32_t sequence, int64_t evicted) {
  row *s = &cache->rows[sequence];
  s->evicted = evicted;
  s->floor = evicted > 0 ? s->length : 0;
}

qn_status qn_kv_cache_replace(qn_kv_cache *cache, int32_t sequence, int64_t length, int64_t source, qn_diag *diag) {
  assert(qn_kv_cache_has(cache, sequence) && length >= 0 && source >= 0);
  row *s = &cache->rows[sequence];
  int64_t most = length > source ? length : source;
  int64_t first = qn_window_first_page(cache->window, length, cache->page_keys);
  int64_t want = pages_for(cache, most) - first, alone = 0;  // its pages that nobody else holds may be taken for the new ones
  for (int64_t i = s->first; i < s->pages; i++) alone += cache->holders[pages_of(cache, sequence)[i]] == 1;
  if (most > cache->context) {
    return qn_fail(diag, QN_ERR_LIMIT, cache->artifact->path,
                   "the context is full: got a sequence of %" PRId64 " tokens, want at most %" PRId64
                   "; open the model with a larger context",
                   most, cache->context);
  }
  if (want > alone && !have_free(cache, want - alone)) {
    return qn_fail(diag, QN_ERR_LIMIT, cache->artifact->path,
                   "the KV cache is full: got a sequence of %" PRId64 " pages, want at most the %" PRId64 " of %" PRId64
                   " that are free or its own",
                   want, qn_kv_cache_free_pages(cache) + alone, cache->page_count);
  }
  qn_kv_cache_clear(cache, sequence);
  int32_t *pages = pages_of(cache, sequence);
  s->first = s->pages = first;
  while (s->pages < first + want) pages[s->pages++] = take_free(cache);
  s->length = length;
  s->source = source;
  return QN_OK;
}

bool qn_kv_cache_layout(const qn_artifact *artifact, const qn_art_buffer *b, qn_kv_page *out) {
  const char *kind = artifact->strings + b->name;
  bool is_k = strcmp(kind, "k") == 0;
  if ((!is_k && strcmp(kind, "v") != 0) || b->rank != 4) return false;
  return qn_kv_page_make(b->dtype, is_k, b->dims[1], b->dims[is_k ? 2 : 3], artifact->program->page_keys, out) &&
         b->dims[is_k ? 3 : 2] == out->keys && (uint64_t)out->page_bytes == b->bytes;
}

int64_t qn_kv_cache_source(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  return cache->rows[sequence].source;
}

qn_status qn_kv_cache_take_source(qn_kv_cache *cache, int32_t sequence, int64_t count, qn_diag *diag) {
  return qn_kv_cache_replace(cache, sequence, 0, count, diag);
}

void qn_kv_cache_clear(qn_kv_cache *cache, int32_t sequence) {
  cache->rows[sequence].source = 0;
  qn_kv_cache_truncate(cache, sequence, 0);
}

size_t qn_kv_cache_largest_page(const qn_kv_cache *cache) {
  size_t most = 1;
  for (uint32_t i = 0; i < cache->artifact->program->buffer_count; i++) {
    const qn_art_buffer *b = &cache->artifact->buffers[i];
    if (b->kind == QN_ART_CACHE && b->bytes > most) most = (size_t)b->bytes;
  }
  return most;
}

typedef struct visiting {
  const qn_kv_cache *cache;
  const int32_t *numbers;  // of the pages
  int64_t keys, source;    // that they hold in all, and keys of a source
  bool write;
  uint8_t *page;
  qn_kv_page_visitor visit;
  void *context;
  qn_diag *diag;
} visiting;

static qn_status visit_pool(void *context, const qn_art_buffer *buffer, uint64_t offset) {
  const visiting *v = context;
  const qn_kv_cache *cache = v->cache;
  const qn_memory *memory = &cache->memory;
  int64_t left = buffer->of_source ? v->source : v->keys;
  for (int64_t i = 0; left > 0; i++, left -= cache->page_keys) {
    uint8_t *page = cache->pools + offset + (size_t)v->numbers[i] * (size_t)buffer->bytes;
    if (!v->write) QN_TRY(memory->read(memory->context, v->page, page, (size_t)buffer->bytes, v->diag));
    QN_TRY(v->visit(v->context, buffer, v->page, left < cache->page_keys ? left : cache->page_keys));
    if (v->write) QN_TRY(memory->write(memory->context, page, v->page, (size_t)buffer->bytes, v->diag));
  }
  return QN_OK;
}

static qn_status visit_pools(visiting v) {
  uint64_t bytes;
  bool overflow;
  return for_each_pool(v.cache, visit_pool, &v, &bytes, &overflow);
}

qn_status qn_kv_cache_visit(const qn_kv_cache *cache, int32_t sequence, bool write, uint8_t *page,
                            qn_kv_page_visitor visit, void *context, qn_diag *diag) {
  int64_t length = qn_kv_cache_length(cache, sequence);
  int64_t first = qn_window_first_page(cache->window, length, cache->page_keys);  // what its next token sees begins there
  return visit_pools((visiting){cache, pages_of(cache, sequence) + first, length - first * cache->page_keys,
                                qn_kv_cache_source(cache, sequence), write, page, visit, context, diag});
}

qn_status qn_kv_cache_visit_page(const qn_kv_cache *cache, int32_t number, int64_t keys, bool write, uint8_t *page,
                                 qn_kv_page_visitor visit, void *context, qn_diag *diag) {
  assert(number >= 0 && number < cache->page_count && keys > 0 && keys <= cache->page_keys);
  return visit_pools((visiting){cache, &number, keys, 0, write, page, visit, context, diag});
}

// --- synthetic contents

typedef struct filling {
  const qn_kv_cache *cache;
  const int32_t *pages;
  int64_t first, end;  // of `pages`
  uint8_t *page;       // room for the largest
  qn_diag *diag;
} filling;

// Any bits between these two exponents are numbers of magnitude 2^-3 to 2^-1, half of them negative. The upper half of an
// f32 is a bf16, and any lower half will do.
static uint16_t small_number(bool is_f16, uint32_t random) {
  return is_f16 ? (uint16_t)((random & 0x83FF) | 0x3000) : (uint16_t)((random & 0x807F) | 0x3E00);
}

// Any bytes are codes; scales are positive, and such that values are about as large as those of floats.
static uint16_t small_scale(const qn_kv_page *page, uint32_t random) {
  return (uint16_t)((random & 0x007F) | (page->bits == 8 ? 0x3B00 : 0x3D00));
}

static uint16_t small_bits(const qn_kv_page *page, uint64_t at, uint32_t random) {
  if (!page->coded) return small_number(page->is_f16, random);
  // A signed byte -128 is no code.
  return at % (uint64_t)page->head_bytes >= (uint64_t)page->scales_at ? small_scale(page, random) : (uint16_t)(random | 0x0101);
}

static qn_status fill_pool(void *context, const qn_art_buffer *buffer, uint64_t offset) {
  const filling *f = context;
  if (buffer->of_source) return QN_OK;  // a source's keys stay
  const qn_artifact *a = f->cache->artifact;
  qn_kv_page layout;
  bool known = qn_kv_page_make(buffer->dtype, true, 1, 1, f->cache->page_keys, &layout) && !layout.coded;
  if (!known && !qn_kv_cache_layout(a, buffer, &layout)) {
    return qn_fail(f->diag, QN_ERR_UNSUPPORTED, a->path,
                   "KV cache: got element type %" PRIu32 ", want f32, f16, bf16, or pages of int8 or int4, to fill it",
                   buffer->dtype);
  }
  const qn_memory *memory = &f->cache->memory;
  for (int64_t i = f->first; i < f->end; i++) {
    uint8_t *to = f->cache->pools + offset + (size_t)f->pages[i] * (size_t)buffer->bytes;
    uint32_t state = 2463534242u + (uint32_t)f->pages[i] + buffer->layer;
    for (uint64_t at = 0; at + 2 <= buffer->bytes; at += 2) {
      state ^= state << 13, state ^= state >> 17, state ^= state << 5;
      uint16_t bits = small_bits(&layout, at, state);
      memcpy(f->page + at, &bits, sizeof bits);
    }
    QN_TRY(memory->write(memory->context, to, f->page, buffer->bytes, f->diag));
  }
  return QN_OK;
}

// Lengthens a sequence by what a step may add.
static qn_status fill_step(qn_kv_cache *cache, int32_t sequence, int64_t count, uint8_t *page, qn_diag *diag) {
  uint64_t bytes;
  bool overflow;
  row *s = &cache->rows[sequence];
  int64_t first = pages_for(cache, s->length);  // what the last page holds already stays
  QN_TRY(qn_kv_cache_reserve(cache, sequence, count, diag));
  filling f = {.cache = cache,
               .pages = pages_of(cache, sequence),
               .first = first,
               .end = pages_for(cache, s->length + count),
               .page = page,
               .diag = diag};
  QN_TRY(for_each_pool(cache, fill_pool, &f, &bytes, &overflow));
  qn_kv_cache_advance(cache, sequence, count);
  return QN_OK;
}

qn_status qn_kv_cache_fill(qn_kv_cache *cache, int32_t sequence, int64_t count, qn_diag *diag) {
  row *s = &cache->rows[sequence];
  size_t page_bytes = qn_kv_cache_largest_page(cache);
  uint8_t *page = qn_alloc(cache->allocator, page_bytes);
  if (!page) return qn_fail_nomem(diag, cache->artifact->path, "a page of keys");
  int64_t before = s->length;
  qn_status status = qn_kv_cache_reserve(cache, sequence, count, diag);
  for (int64_t left = count; status == QN_OK && left > 0;) {
    int64_t now = left < cache->step ? left : cache->step;
    status = fill_step(cache, sequence, now, page, diag);
    left -= now;
  }
  qn_free(cache->allocator, page, page_bytes);
  if (status == QN_OK) before = s->length;  // else all is taken back
  qn_kv_cache_truncate(cache, sequence, before < qn_kv_cache_least(cache, sequence) ? 0 : before);
  return status;
}

void qn_kv_cache_truncate(qn_kv_cache *cache, int32_t sequence, int64_t length) {
  assert(qn_kv_cache_has(cache, sequence));
  row *s = &cache->rows[sequence];
  assert(length >= 0 && length <= s->length);
  int64_t keep = pages_for(cache, length > s->source ? length : s->source);
  int32_t *pages = pages_of(cache, sequence);
  assert(length == 0 || length >= qn_kv_cache_least(cache, sequence));
  while (s->pages > keep && s->pages > s->first) {
    let_go(cache, pages[--s->pages]);
    pages[s->pages] = 0;
  }
  if (length == 0 && s->first > 0) s->first = s->pages = 0;  // then it has no source
  if (length == 0) s->evicted = s->floor = 0;
  s->length = length;
}

// --- do the pages balance?

static qn_status lost(const qn_kv_cache *cache, const char *what, int64_t page, int64_t got, int64_t want,
                      qn_diag *diag) {
  return qn_fail(diag, QN_ERR_INTERNAL, cache->artifact->path,
                 "KV cache: %s (page %" PRId64 "): got %" PRId64 ", want %" PRId64 "; this is a bug", what, page, got,
                 want);
}

// `counts` are of holders; those of free pages are written over.
static qn_status compare_counts(const qn_kv_cache *cache, int32_t *counts, qn_diag *diag) {
  int64_t unheld = 0, idle = 0;
  for (int64_t i = 0; i < cache->page_count; i++) {
    if (counts[i] != cache->holders[i]) return lost(cache, "holders", i, cache->holders[i], counts[i], diag);
    unheld += counts[i] == 0;
    idle += counts[i] == 1 && cache->kept[i];
  }
  if (unheld != cache->free_count) return lost(cache, "free pages", -1, cache->free_count, unheld, diag);
  if (idle != cache->idle_count) return lost(cache, "idle pages", -1, cache->idle_count, idle, diag);
  for (int64_t i = 0; i < cache->free_count; i++) {
    int32_t page = cache->free[i];
    if (counts[page]++ > 0) return lost(cache, "a free page", page, counts[page], 1, diag);
  }
  return QN_OK;
}

qn_status qn_kv_cache_check(const qn_kv_cache *cache, qn_diag *diag) {
  int32_t *counts = qn_alloc_zeroed(cache->allocator, free_bytes(cache));
  if (!counts) return qn_fail_nomem(diag, cache->artifact->path, "counts of pages");
  qn_status status = QN_OK;
  for (int64_t i = 0; i < cache->page_count; i++) counts[i] = cache->kept[i];
  for (int32_t s = 0; s < cache->row_count; s++) {
    const row *r = &cache->rows[s];
    int64_t least = pages_for(cache, r->length > r->source ? r->length : r->source);
    bool fits = r->pages >= least && r->pages <= cache->row_pages && r->pages - r->first <= cache->row_most;
    if (status == QN_OK && !fits)
      status = lost(cache, "pages of a sequence", s, r->pages, least, diag);
    for (int64_t i = 0; i < cache->row_pages; i++) {
      bool held = i >= r->first && i < r->pages;
      if (held) counts[pages_of(cache, s)[i]]++;
      if (!held && status == QN_OK && pages_of(cache, s)[i] != 0)
        status = lost(cache, "the table beyond a sequence", s, pages_of(cache, s)[i], 0, diag);
    }
  }
  if (status == QN_OK) status = compare_counts(cache, counts, diag);
  qn_free(cache->allocator, counts, free_bytes(cache));
  return status;
}
