// What the pages of the KV cache hold: copying it, bringing it to or from the host's memory, and filling it for benchmarks.
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "runtime/kv_cache_impl.h"

// --- pages

bool qn_kv_cache_layout(const qn_artifact *artifact, const qn_art_buffer *b, qn_kv_page *out) {
  const char *kind = artifact->strings + b->name;
  bool is_k = qn_kv_lies_as_k(kind);
  if (!qn_kv_is_kind(kind) || b->rank != 4) return false;
  return qn_kv_page_make(b->dtype, is_k, b->dims[1], b->dims[is_k ? 2 : 3], artifact->program->page_keys, out) &&
         b->dims[is_k ? 3 : 2] == out->keys && (uint64_t)out->page_bytes == b->bytes;
}

size_t qn_kv_cache_largest_page(const qn_kv_cache *cache) {
  size_t most = 1;
  for (uint32_t i = 0; i < cache->artifact->program->buffer_count; i++) {
    const qn_art_buffer *b = &cache->artifact->buffers[i];
    if (b->kind == QN_ART_CACHE && b->bytes > most) most = (size_t)b->bytes;
  }
  return most;
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

qn_status qn_kv_copy_page(const qn_kv_cache *cache, int g, int32_t from, int32_t to, qn_diag *diag) {
  copying c = {cache, g, from, to, diag};
  return qn_kv_for_each_pool(cache, copy_pool, &c);
}

// --- bringing them

typedef struct walk {
  const qn_kv_cache *cache;
  const qn_art_buffer *only;            // NULL: all cache buffers
  const int32_t *numbers[MOST_GROUPS];  // of the pages
  int64_t first[MOST_GROUPS];           // of them, that are visited: of the buffers of a group, and of rings
  int64_t keys, source;                 // that they hold in all, and keys of a source
  bool write;
  uint8_t *page;             // room for one; without a visitor for all, one after another
  qn_kv_page_visitor visit;  // NULL = none
  void *context;
  qn_diag *diag;
} walk;

static qn_status walk_pool(void *context, const qn_art_buffer *buffer, uint64_t offset) {
  const walk *w = context;
  const qn_kv_cache *cache = w->cache;
  const qn_memory *memory = &cache->memory;
  if (w->only && w->only != buffer) return QN_OK;
  size_t bytes = (size_t)buffer->bytes;
  uint8_t *page = w->page;
  int64_t i = buffer->of_source ? 0 : w->first[is_ring(cache, buffer) ? RINGS : ALL];
  int64_t left = (buffer->of_source ? w->source : w->keys) - i * cache->page_keys;
  for (; left > 0; i++, left -= cache->page_keys) {
    uint8_t *there = cache->pools + offset + (size_t)w->numbers[group_of(cache, buffer)][i] * bytes;
    if (!w->write) QN_TRY(memory->read(memory->context, page, there, bytes, w->diag));
    if (w->visit) QN_TRY(w->visit(w->context, buffer, page, left < cache->page_keys ? left : cache->page_keys));
    if (w->write) QN_TRY(memory->write(memory->context, there, page, bytes, w->diag));
    if (!w->visit) page += bytes;
  }
  return QN_OK;
}

// The pages of a sequence.
static qn_status walk_row(walk *w, int32_t sequence) {
  for (int g = 0; g < w->cache->group_count; g++) w->numbers[g] = pages_in(w->cache, g, sequence);
  return qn_kv_for_each_pool(w->cache, walk_pool, w);
}

qn_status qn_kv_cache_transfer(const qn_kv_cache *cache, int32_t sequence, const qn_art_buffer *buffer, int64_t keys,
                               bool write, uint8_t *pages, qn_diag *diag) {
  assert(qn_kv_cache_has(cache, sequence) && cache->rows[sequence].spans[ALL].first == 0);
  walk w = {.cache = cache, .only = buffer, .keys = keys, .source = keys, .write = write, .page = pages, .diag = diag};
  return walk_row(&w, sequence);
}

qn_status qn_kv_cache_visit(const qn_kv_cache *cache, int32_t sequence, bool write, uint8_t *page,
                            qn_kv_page_visitor visit, void *context, qn_diag *diag) {
  walk w = {.cache = cache, .keys = qn_kv_cache_length(cache, sequence), .source = qn_kv_cache_source(cache, sequence),
            .write = write, .page = page, .visit = visit, .context = context, .diag = diag};
  w.first[ALL] = first_seen(cache, ALL, w.keys);
  w.first[RINGS] = qn_window_first_page(cache->ring, w.keys, cache->page_keys);
  return walk_row(&w, sequence);
}

qn_status qn_kv_cache_visit_page(const qn_kv_cache *cache, int32_t number, int64_t keys, bool write, uint8_t *page,
                                 qn_kv_page_visitor visit, void *context, qn_diag *diag) {
  assert(number >= 0 && number < cache->groups[ALL].page_count && keys > 0 && keys <= cache->page_keys);
  assert(cache->group_count == RINGS);
  walk w = {.cache = cache, .numbers = {&number}, .keys = keys, .write = write, .page = page, .visit = visit,
            .context = context, .diag = diag};
  return qn_kv_for_each_pool(cache, walk_pool, &w);
}

// --- synthetic contents

typedef struct filling {
  const qn_kv_cache *cache;
  uint32_t pages;  // so far: all have other contents
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

static qn_status fill_page(void *context, const qn_art_buffer *buffer, uint8_t *page, int64_t keys) {
  filling *f = context;
  const qn_artifact *a = f->cache->artifact;
  qn_kv_page layout;
  (void)keys;
  bool known = qn_kv_page_make(buffer->dtype, true, 1, 1, f->cache->page_keys, &layout) && !layout.coded;
  if (!known && !qn_kv_cache_layout(a, buffer, &layout)) {
    return qn_fail(f->diag, QN_ERR_UNSUPPORTED, a->path,
                   "KV cache: got element type %" PRIu32 ", want f32, f16, bf16, or pages of int8 or int4, to fill it",
                   buffer->dtype);
  }
  uint32_t state = 2463534242u + f->pages++;
  for (uint64_t at = 0; at + 2 <= buffer->bytes; at += 2) {
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    uint16_t bits = small_bits(&layout, at, state);
    memcpy(page + at, &bits, sizeof bits);
  }
  return QN_OK;
}

// Lengthens a sequence by what a step may add: what its last page holds already stays, and a source's keys.
static qn_status fill_step(qn_kv_cache *cache, int32_t sequence, int64_t count, uint8_t *page, filling *f) {
  QN_TRY(qn_kv_cache_reserve(cache, sequence, count, f->diag));
  int64_t length = qn_kv_cache_length(cache, sequence), first = pages_for(cache, length);
  walk w = {.cache = cache, .first = {first, first}, .keys = length + count, .write = true, .page = page,
            .visit = fill_page, .context = f, .diag = f->diag};
  QN_TRY(walk_row(&w, sequence));
  qn_kv_cache_advance(cache, sequence, count);
  return QN_OK;
}

qn_status qn_kv_cache_fill(qn_kv_cache *cache, int32_t sequence, int64_t count, qn_diag *diag) {
  const row *s = &cache->rows[sequence];
  filling f = {.cache = cache, .diag = diag};
  size_t page_bytes = qn_kv_cache_largest_page(cache);
  uint8_t *page = qn_alloc(cache->allocator, page_bytes);
  if (!page) return qn_fail_nomem(diag, cache->artifact->path, "a page of keys");
  int64_t before = s->length;
  qn_status status = qn_kv_cache_reserve(cache, sequence, count, diag);
  for (int64_t left = count; status == QN_OK && left > 0;) {
    int64_t now = left < cache->step ? left : cache->step;
    status = fill_step(cache, sequence, now, page, &f);
    left -= now;
  }
  qn_free(cache->allocator, page, page_bytes);
  if (status == QN_OK) before = s->length;  // else all is taken back
  qn_kv_cache_truncate(cache, sequence, before < qn_kv_cache_least(cache, sequence) ? 0 : before);
  return status;
}
