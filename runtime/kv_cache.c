// Pages are handed out from a stack of free numbers; a sequence's pages are a row of the block table. A page is free when
// its last holder lets go of it. Where layers have windows, a row lets go of the pages before it: of those of all layers, or
// where others see all, of those in pools of their own, which have numbers and a block table of their own.
#include "runtime/kv_cache.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "runtime/base/window.h"

#define POOL_ALIGNMENT 4096u
enum { SYMBOL_P = 3, SYMBOL_B = 4, SYMBOL_G = 5 };  // qn_symbol of ir/type.h

#define MAX_PAGES      (INT64_C(1) << 30)  // page numbers are 32-bit

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
static bool is_ring(const qn_kv_cache *cache, const qn_art_buffer *buffer) {
  return cache->ring > 0 && buffer->window > 0;
}

static int group_of(const qn_kv_cache *cache, const qn_art_buffer *buffer) {
  return cache->group_count > RINGS && is_ring(cache, buffer) ? RINGS : ALL;
}

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
    if (!qn_size_mul((size_t)b->bytes, (size_t)cache->groups[group_of(cache, b)].page_count, &bytes) || bytes > (UINT64_C(1) << 47) - offset) {
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
static size_t free_bytes(const group *g) { return (size_t)g->page_count * sizeof(int32_t); }
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
  QN_TRY(for_each_pool(cache, NULL, NULL, &cache->pool_bytes, &overflow));
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
  uint64_t bytes;
  bool overflow;
  return for_each_pool(cache, bind_pool, &b, &bytes, &overflow);
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

// --- pages and their holders

static int32_t *pages_in(const qn_kv_cache *cache, int g, int32_t sequence) {
  return cache->groups[g].table + (size_t)sequence * (size_t)cache->row_pages;
}

static int32_t *pages_of(const qn_kv_cache *cache, int32_t sequence) { return pages_in(cache, ALL, sequence); }

static int64_t pages_for(const qn_kv_cache *cache, int64_t tokens) {
  return (tokens + cache->page_keys - 1) / cache->page_keys;
}

// The first page that a sequence of so many tokens keeps: one more than its next token sees.
static int64_t first_kept(const qn_kv_cache *cache, int g, int64_t length) {
  int64_t window = cache->groups[g].window;
  return window == 0 ? 0 : qn_window_first_page(window + cache->page_keys, length, cache->page_keys);
}

bool qn_kv_cache_kept(const qn_kv_cache *cache, int32_t page) { return cache->kept[page]; }
bool qn_kv_cache_idle(const qn_kv_cache *cache, int32_t page) { return cache->kept[page] && cache->groups[ALL].holders[page] == 1; }

static void hold_in(qn_kv_cache *cache, int g, int32_t page) {
  assert(page >= 0 && page < cache->groups[g].page_count && cache->groups[g].holders[page] > 0);
  if (g == ALL && qn_kv_cache_idle(cache, page)) cache->idle_count--;
  cache->groups[g].holders[page]++;
}
static void hold(qn_kv_cache *cache, int32_t page) { hold_in(cache, ALL, page); }

static void let_go_in(qn_kv_cache *cache, int g, int32_t page) {
  group *of = &cache->groups[g];
  assert(of->holders[page] > 0);
  if (--of->holders[page] == 0) of->free[of->free_count++] = page;
  if (g == ALL && qn_kv_cache_idle(cache, page)) cache->idle_count++;
}
static void let_go(qn_kv_cache *cache, int32_t page) { let_go_in(cache, ALL, page); }

static int32_t take_free(qn_kv_cache *cache, int g) {
  group *of = &cache->groups[g];
  assert(of->free_count > 0);
  int32_t page = of->free[--of->free_count];
  of->holders[page] = 1;
  return page;
}

// Are there `count` free pages, if need be after idle ones have been given up?
static bool have_free(qn_kv_cache *cache, int g, int64_t count) {
  group *of = &cache->groups[g];
  if (g == ALL && count > of->free_count && count <= of->free_count + cache->idle_count && cache->reclaim)
    cache->reclaim(cache->reclaim_context, count - of->free_count);
  return count <= of->free_count;
}

int32_t qn_kv_cache_page(const qn_kv_cache *cache, int32_t sequence, int64_t index) {
  assert(qn_kv_cache_has(cache, sequence) && index >= cache->rows[sequence].spans[ALL].first);
  assert(index < pages_for(cache, cache->rows[sequence].length));
  return pages_of(cache, sequence)[index];
}

void qn_kv_cache_keep(qn_kv_cache *cache, int32_t page) {
  assert(!cache->kept[page] && cache->group_count == RINGS);
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
  if (cache->groups[ALL].free_count == 0) return false;
  *out_page = take_free(cache, ALL);
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
  return cache->rows[sequence].spans[ALL].first;
}

int64_t qn_kv_cache_held(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  return cache->rows[sequence].spans[ALL].pages - cache->rows[sequence].spans[ALL].first;
}

int64_t qn_kv_cache_most(const qn_kv_cache *cache, int64_t tokens) {
  if (cache->evicts && tokens > cache->context) tokens = cache->context;
  return qn_window_pages(cache->groups[ALL].window, cache->step, tokens, cache->page_keys);
}

int64_t qn_kv_cache_least(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  const row *s = &cache->rows[sequence];
  int64_t least = s->floor;
  for (int g = 0; g < cache->group_count; g++) {
    int64_t seen = s->spans[g].first == 0 ? 0 : s->spans[g].first * cache->page_keys + cache->groups[g].window - 1;
    if (seen > least) least = seen;
  }
  return least;
}

int64_t qn_kv_cache_passed(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  const row *s = &cache->rows[sequence];
  int64_t passed = 0;
  for (int64_t i = s->spans[ALL].first; i < first_kept(cache, ALL, s->length); i++) {
    int32_t page = pages_of(cache, sequence)[i];
    passed += cache->groups[ALL].holders[page] - cache->kept[page] == 1;
  }
  return passed;
}

bool qn_kv_cache_slides(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  const row *s = &cache->rows[sequence];
  bool slides = false;
  for (int g = 0; g < cache->group_count; g++) slides = slides || first_kept(cache, g, s->length) > s->spans[g].first;
  return slides;
}

void qn_kv_cache_slide(qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  row *s = &cache->rows[sequence];
  for (int g = 0; g < cache->group_count; g++) {
    int32_t *pages = pages_in(cache, g, sequence);
    span *of = &s->spans[g];
    for (int64_t end = first_kept(cache, g, s->length); of->first < end; of->first++) {
      let_go_in(cache, g, pages[of->first]);
      pages[of->first] = 0;
    }
  }
}

typedef struct copying {
  const qn_kv_cache *cache;
  int group;
  int32_t from, to;
  qn_diag *diag;
} copying;

static qn_status copy_pool(void *context, const qn_art_buffer *buffer, uint64_t offset) {
  const copying *c = context;
  const qn_memory *memory = &c->cache->memory;
  uint8_t *pool = c->cache->pools + offset;
  if (group_of(c->cache, buffer) != c->group) return QN_OK;
  return memory->copy(memory->context, pool + (size_t)c->to * (size_t)buffer->bytes,
                      pool + (size_t)c->from * (size_t)buffer->bytes, (size_t)buffer->bytes, c->diag);
}

// Of a row's pages those that a sequence's next `count` tokens go to: the one that it ends in, or ones that its source is in
// as well.
static span ahead(const qn_kv_cache *cache, int g, int32_t sequence, int64_t count) {
  const row *s = &cache->rows[sequence];
  int64_t end = count > 0 ? pages_for(cache, s->length + count) : 0;
  return (span){s->length / cache->page_keys, end < s->spans[g].pages ? end : s->spans[g].pages};
}

static int64_t count_shared(const qn_kv_cache *cache, int g, int32_t sequence, span of) {
  const int32_t *pages = pages_in(cache, g, sequence);
  int64_t shared = 0;
  for (int64_t i = of.first; i < of.pages; i++) shared += cache->groups[g].holders[pages[i]] > 1;
  return shared;
}

static int64_t shared_ahead(const qn_kv_cache *cache, int g, int32_t sequence, int64_t count) {
  return count_shared(cache, g, sequence, ahead(cache, g, sequence, count));
}

// Copies those of the pages that others hold, too, to the free pages that take_copies gives the sequence in their place: an
// error before that changes nothing. The free ones must suffice.
static qn_status copy_shared(const qn_kv_cache *cache, int g, int32_t sequence, span of, qn_diag *diag) {
  const int32_t *pages = pages_in(cache, g, sequence), *holders = cache->groups[g].holders;
  const int32_t *next = cache->groups[g].free + cache->groups[g].free_count;
  for (int64_t i = of.first; i < of.pages; i++) {
    if (holders[pages[i]] == 1) continue;
    copying c = {cache, g, pages[i], *--next, diag};
    uint64_t bytes;
    bool overflow;
    QN_TRY(for_each_pool(cache, copy_pool, &c, &bytes, &overflow));
  }
  return QN_OK;
}

static void take_copies(qn_kv_cache *cache, int g, int32_t sequence, span of) {
  int32_t *pages = pages_in(cache, g, sequence);
  for (int64_t i = of.first; i < of.pages; i++) {
    int32_t before = pages[i];
    if (cache->groups[g].holders[before] == 1) continue;
    pages[i] = take_free(cache, g);
    let_go_in(cache, g, before);  // it has others, and is not free for the next one
  }
}

// How many pages a sequence with room for `count` more tokens has in its row; those after that come once others are given
// back.
static int64_t wanted_pages(const qn_kv_cache *cache, int g, const row *s, int64_t count) {
  int64_t want = pages_for(cache, s->length + count), most = s->spans[g].first + cache->groups[g].row_most;
  return want < most ? want : most;
}

static qn_status check_free(qn_kv_cache *cache, int g, int32_t sequence, int64_t count, qn_diag *diag) {
  const row *s = &cache->rows[sequence];
  int64_t want = wanted_pages(cache, g, s, count), copies = shared_ahead(cache, g, sequence, count);
  int64_t more = (want > s->spans[g].pages ? want - s->spans[g].pages : 0) + copies;
  if (have_free(cache, g, more)) return QN_OK;
  int64_t free = g == ALL ? qn_kv_cache_free_pages(cache) : cache->groups[g].free_count;
  return qn_fail(diag, QN_ERR_LIMIT, cache->artifact->path,
                 "the KV cache is full: got %" PRId64 " more tokens for a sequence, which takes %" PRId64
                 " pages, want at most the %" PRId64 " of %" PRId64 " that are free",
                 count, more, free, cache->groups[g].page_count);
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
  for (int g = 0; g < cache->group_count; g++) QN_TRY(check_free(cache, g, sequence, count, diag));
  for (int g = 0; g < cache->group_count; g++)
    QN_TRY(copy_shared(cache, g, sequence, ahead(cache, g, sequence, count), diag));
  for (int g = 0; g < cache->group_count; g++) {
    take_copies(cache, g, sequence, ahead(cache, g, sequence, count));
    span *of = &s->spans[g];
    int64_t want = wanted_pages(cache, g, s, count);
    while (of->pages < want) pages_in(cache, g, sequence)[of->pages++] = take_free(cache, g);
  }
  return QN_OK;
}

void qn_kv_cache_advance(qn_kv_cache *cache, int32_t sequence, int64_t count) {
  row *s = &cache->rows[sequence];
  assert(qn_kv_cache_has(cache, sequence));
  for (int g = 0; g < cache->group_count; g++) {
    assert(s->length + count <= s->spans[g].pages * cache->page_keys);
    assert(shared_ahead(cache, g, sequence, count) == 0);
  }
  s->length += count;
}

void qn_kv_cache_fork(qn_kv_cache *cache, int32_t from, int64_t length, int32_t to) {
  assert(qn_kv_cache_has(cache, from) && qn_kv_cache_has(cache, to) && from != to);
  assert(length >= 0 && length <= cache->rows[from].length);
  assert(length == 0 || length >= qn_kv_cache_least(cache, from));
  qn_kv_cache_clear(cache, to);
  row *s = &cache->rows[to];
  s->length = length;
  s->source = cache->rows[from].source;
  s->evicted = length == 0 ? 0 : cache->rows[from].evicted;
  s->floor = length == 0 ? 0 : cache->rows[from].floor;
  int64_t most = length > s->source ? length : s->source;
  for (int g = 0; g < cache->group_count; g++) {
    const int32_t *source = pages_in(cache, g, from);
    int32_t *pages = pages_in(cache, g, to);
    span *of = &s->spans[g];
    of->first = of->pages = length == 0 ? 0 : cache->rows[from].spans[g].first;
    for (; of->pages < pages_for(cache, most); of->pages++) {
      pages[of->pages] = source[of->pages];
      hold_in(cache, g, pages[of->pages]);
    }
  }
}

void qn_kv_cache_append(qn_kv_cache *cache, int32_t sequence, int32_t page, int64_t keys) {
  assert(qn_kv_cache_has(cache, sequence) && keys > 0 && keys <= cache->page_keys);
  row *s = &cache->rows[sequence];
  assert(s->length == s->spans[ALL].pages * cache->page_keys && keys <= cache->context - s->length);
  assert(cache->group_count == RINGS);
  hold(cache, page);
  pages_of(cache, sequence)[s->spans[ALL].pages++] = page;
  s->length += keys;
}

void qn_kv_cache_exchange(qn_kv_cache *cache, int32_t sequence, int64_t index, int32_t page) {
  assert((index + 1) * cache->page_keys <= qn_kv_cache_length(cache, sequence));
  assert(index >= cache->rows[sequence].spans[ALL].first);
  int32_t *place = &pages_of(cache, sequence)[index], before = *place;
  hold(cache, page);
  *place = page;
  let_go(cache, before);
}

// --- keys that are evicted

bool qn_kv_cache_evicts(const qn_kv_cache *cache) { return cache->evicts; }

bool qn_kv_cache_sums(const qn_kv_cache *cache) { return cache->sums; }

int64_t qn_kv_cache_evicted(const qn_kv_cache *cache, int32_t sequence) {
  assert(qn_kv_cache_has(cache, sequence));
  return cache->rows[sequence].evicted;
}

int64_t qn_kv_cache_shared(const qn_kv_cache *cache, int32_t sequence, bool kept) {
  assert(qn_kv_cache_has(cache, sequence));
  const span *s = &cache->rows[sequence].spans[ALL];
  const int32_t *pages = pages_of(cache, sequence), *holders = cache->groups[ALL].holders;
  int64_t shared = 0;
  for (int64_t i = s->first; i < s->pages; i++)
    shared += holders[pages[i]] - (kept ? 0 : cache->kept[pages[i]]) > 1;
  return shared;
}

qn_status qn_kv_cache_own(qn_kv_cache *cache, int32_t sequence, qn_diag *diag) {
  span all = cache->rows[sequence].spans[ALL];
  int64_t copies = count_shared(cache, ALL, sequence, all);
  if (!have_free(cache, ALL, copies)) {
    return qn_fail(diag, QN_ERR_LIMIT, cache->artifact->path,
                   "the KV cache is full: got %" PRId64
                   " pages that a sequence shares and of which it evicts keys, want at "
                   "most the %" PRId64 " of %" PRId64 " that are free",
                   copies, qn_kv_cache_free_pages(cache), cache->groups[ALL].page_count);
  }
  QN_TRY(copy_shared(cache, ALL, sequence, all, diag));
  take_copies(cache, ALL, sequence, all);
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
  assert(qn_kv_cache_has(cache, sequence) && cache->rows[sequence].spans[ALL].first == 0);
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
  if (evicted > 0) s->floor = s->length;
}

// The first page that the next token of a sequence of so many sees.
static int64_t first_seen(const qn_kv_cache *cache, int g, int64_t length) {
  return qn_window_first_page(cache->groups[g].window, length, cache->page_keys);
}

// Its pages that nobody else holds may be taken for the new ones.
qn_status qn_kv_cache_replace(qn_kv_cache *cache, int32_t sequence, int64_t length, int64_t source, qn_diag *diag) {
  assert(qn_kv_cache_has(cache, sequence) && length >= 0 && source >= 0);
  row *s = &cache->rows[sequence];
  int64_t most = length > source ? length : source;
  if (most > cache->context) {
    return qn_fail(diag, QN_ERR_LIMIT, cache->artifact->path,
                   "the context is full: got a sequence of %" PRId64 " tokens, want at most %" PRId64
                   "; open the model with a larger context",
                   most, cache->context);
  }
  for (int g = 0; g < cache->group_count; g++) {
    const int32_t *pages = pages_in(cache, g, sequence), *holders = cache->groups[g].holders;
    int64_t want = pages_for(cache, most) - first_seen(cache, g, length), alone = 0;
    for (int64_t i = s->spans[g].first; i < s->spans[g].pages; i++) alone += holders[pages[i]] == 1;
    if (want <= alone || have_free(cache, g, want - alone)) continue;
    return qn_fail(diag, QN_ERR_LIMIT, cache->artifact->path,
                   "the KV cache is full: got a sequence of %" PRId64 " pages, want at most the %" PRId64 " of %" PRId64
                   " that are free or its own",
                   want, (g == ALL ? qn_kv_cache_free_pages(cache) : cache->groups[g].free_count) + alone,
                   cache->groups[g].page_count);
  }
  qn_kv_cache_clear(cache, sequence);
  for (int g = 0; g < cache->group_count; g++) {
    int32_t *pages = pages_in(cache, g, sequence);
    span *of = &s->spans[g];
    of->first = of->pages = first_seen(cache, g, length);
    while (of->pages < pages_for(cache, most)) pages[of->pages++] = take_free(cache, g);
  }
  s->length = length;
  s->source = source;
  // Where rings are kept whole, what is restored of them is their windows alone.
  int64_t ring = qn_window_first_page(cache->ring, length, cache->page_keys);
  if (ring > 0) s->floor = ring * cache->page_keys + cache->ring - 1;
  return QN_OK;
}

bool qn_kv_cache_layout(const qn_artifact *artifact, const qn_art_buffer *b, qn_kv_page *out) {
  const char *kind = artifact->strings + b->name;
  bool is_k = qn_kv_lies_as_k(kind);
  if (!qn_kv_is_kind(kind) || b->rank != 4) return false;
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
  const int32_t *numbers[MOST_GROUPS];  // of the pages
  int64_t first[MOST_GROUPS];           // of them, that are visited: of the buffers of a group, and of rings
  int64_t keys, source;                 // that they hold in all, and keys of a source
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
  int64_t i = buffer->of_source ? 0 : v->first[is_ring(cache, buffer) ? RINGS : ALL];
  int64_t left = (buffer->of_source ? v->source : v->keys) - i * cache->page_keys;
  for (; left > 0; i++, left -= cache->page_keys) {
    uint8_t *page = cache->pools + offset + (size_t)v->numbers[group_of(cache, buffer)][i] * (size_t)buffer->bytes;
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
  visiting v = {.cache = cache, .keys = qn_kv_cache_length(cache, sequence), .source = qn_kv_cache_source(cache, sequence),
                .write = write, .page = page, .visit = visit, .context = context, .diag = diag};
  for (int g = 0; g < cache->group_count; g++) v.numbers[g] = pages_in(cache, g, sequence);
  v.first[ALL] = first_seen(cache, ALL, v.keys);
  v.first[RINGS] = qn_window_first_page(cache->ring, v.keys, cache->page_keys);
  return visit_pools(v);
}

qn_status qn_kv_cache_visit_page(const qn_kv_cache *cache, int32_t number, int64_t keys, bool write, uint8_t *page,
                                 qn_kv_page_visitor visit, void *context, qn_diag *diag) {
  assert(number >= 0 && number < cache->groups[ALL].page_count && keys > 0 && keys <= cache->page_keys);
  assert(cache->group_count == RINGS);
  return visit_pools((visiting){.cache = cache, .numbers = {&number}, .keys = keys, .write = write, .page = page,
                                .visit = visit, .context = context, .diag = diag});
}

// --- synthetic contents

typedef struct filling {
  const qn_kv_cache *cache;
  int32_t sequence;
  int64_t first, end;  // of its pages
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
  const int32_t *pages = pages_in(f->cache, group_of(f->cache, buffer), f->sequence);
  for (int64_t i = f->first; i < f->end; i++) {
    uint8_t *to = f->cache->pools + offset + (size_t)pages[i] * (size_t)buffer->bytes;
    uint32_t state = 2463534242u + (uint32_t)pages[i] + buffer->layer;
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
               .sequence = sequence,
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
  assert(length == 0 || length >= qn_kv_cache_least(cache, sequence));
  for (int g = 0; g < cache->group_count; g++) {
    int32_t *pages = pages_in(cache, g, sequence);
    span *of = &s->spans[g];
    while (of->pages > keep && of->pages > of->first) {
      let_go_in(cache, g, pages[--of->pages]);
      pages[of->pages] = 0;
    }
    if (length == 0 && of->first > 0) of->first = of->pages = 0;  // then it has no source
  }
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
static qn_status compare_counts(const qn_kv_cache *cache, int g, int32_t *counts, qn_diag *diag) {
  int64_t unheld = 0, idle = 0;
  const group *of = &cache->groups[g];
  for (int64_t i = 0; i < of->page_count; i++) {
    if (counts[i] != of->holders[i]) return lost(cache, "holders", i, of->holders[i], counts[i], diag);
    unheld += counts[i] == 0;
    idle += g == ALL && counts[i] == 1 && cache->kept[i];
  }
  if (unheld != of->free_count) return lost(cache, "free pages", -1, of->free_count, unheld, diag);
  if (g == ALL && idle != cache->idle_count) return lost(cache, "idle pages", -1, cache->idle_count, idle, diag);
  for (int64_t i = 0; i < of->free_count; i++) {
    int32_t page = of->free[i];
    if (counts[page]++ > 0) return lost(cache, "a free page", page, counts[page], 1, diag);
  }
  return QN_OK;
}

static qn_status check_group(const qn_kv_cache *cache, int g, qn_diag *diag) {
  const group *of = &cache->groups[g];
  int32_t *counts = qn_alloc_zeroed(cache->allocator, free_bytes(of));
  if (!counts) return qn_fail_nomem(diag, cache->artifact->path, "counts of pages");
  qn_status status = QN_OK;
  for (int64_t i = 0; g == ALL && i < of->page_count; i++) counts[i] = cache->kept[i];
  for (int32_t s = 0; s < cache->row_count; s++) {
    const row *r = &cache->rows[s];
    const span *has = &r->spans[g];
    const int32_t *pages = pages_in(cache, g, s);
    int64_t least = pages_for(cache, r->length > r->source ? r->length : r->source);
    bool fits = has->pages >= least && has->pages <= cache->row_pages && has->pages - has->first <= of->row_most;
    if (status == QN_OK && !fits) status = lost(cache, "pages of a sequence", s, has->pages, least, diag);
    for (int64_t i = 0; i < cache->row_pages; i++) {
      bool held = i >= has->first && i < has->pages;
      if (held) counts[pages[i]]++;
      if (!held && status == QN_OK && pages[i] != 0)
        status = lost(cache, "the table beyond a sequence", s, pages[i], 0, diag);
    }
  }
  if (status == QN_OK) status = compare_counts(cache, g, counts, diag);
  qn_free(cache->allocator, counts, free_bytes(of));
  return status;
}

qn_status qn_kv_cache_check(const qn_kv_cache *cache, qn_diag *diag) {
  for (int g = 0; g < cache->group_count; g++) QN_TRY(check_group(cache, g, diag));
  return QN_OK;
}
