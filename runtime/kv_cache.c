// Pages are handed out from a stack of free numbers; a sequence's pages are a row of the block table. A page is free when
// its last holder lets go of it. Where layers have windows, a row lets go of the pages before it: of those of all layers, or
// where others see all, of those in pools of their own, which have numbers and a block table of their own.
#include <assert.h>
#include <inttypes.h>

#include "runtime/kv_cache_impl.h"

const qn_artifact *qn_kv_cache_artifact(const qn_kv_cache *cache) { return cache->artifact; }
const qn_allocator *qn_kv_cache_allocator(const qn_kv_cache *cache) { return cache->allocator; }

// --- pages and their holders

// The first page that a sequence of so many tokens keeps: one more than its next token sees.
static int64_t first_kept(const qn_kv_cache *cache, int g, int64_t length) {
  int64_t window = cache->groups[g].window;
  return window == 0 ? 0 : qn_window_first_page(window + cache->page_keys, length, cache->page_keys);
}

bool qn_kv_cache_kept(const qn_kv_cache *cache, int32_t page) { return cache->kept[page]; }
bool qn_kv_cache_idle(const qn_kv_cache *cache, int32_t page) {
  return cache->kept[page] && cache->groups[ALL].holders[page] == 1;
}

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
    QN_TRY(qn_kv_copy_page(cache, g, pages[i], *--next, diag));
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

// --- restored sequences and sources

void qn_kv_cache_set_evicted(qn_kv_cache *cache, int32_t sequence, int64_t evicted) {
  row *s = &cache->rows[sequence];
  s->evicted = evicted;
  if (evicted > 0) s->floor = s->length;
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
