// The paged KV cache: one pool of equal pages for each cache buffer of the program, page numbers shared by all of them,
// and a block table that says which pages hold a sequence's keys. Where some layers have windows and others see all, those
// with windows have numbers and a table of their own (rings): of what is said below of pages, they have no part. Sequences may share pages, and pages may be kept beside
// them (kv_prefix.h): each page counts its holders, and who writes to one that others hold, too, gets a copy first. All
// memory is taken at creation.
#ifndef QN_RUNTIME_KV_CACHE_H
#define QN_RUNTIME_KV_CACHE_H

#include "runtime/base/kv_page.h"
#include "runtime/executor.h"

typedef struct qn_kv_cache qn_kv_cache;

typedef struct qn_kv_options {
  int32_t sequences;  // rows of the block table (B); 0 = 1
  int32_t forks;      // rows beside these, of forks whose last tokens alone are their own: two pages for each
  int64_t context;    // tokens a sequence may hold, at least 1; rounded up to whole pages
  int64_t pages;      // in the pool (G) but for forks; 0 = enough for every sequence at its full context
  int64_t step;       // tokens of a sequence that are evaluated at a time at most; 0 = the context
  bool whole;         // layers with windows beside others keep all keys, too: what is kept beside sequences does
  bool evicts;        // sequences with as many keys as the context evict some (kv_evict.h)
  bool sums;          // by what attention each key has had: sums are of a sequence's own tokens
  const qn_memory *memory;  // where the pools lie; NULL = the host's. Its context must outlive the cache
} qn_kv_options;

// The pools' pages are zero; in the host's memory they take physical memory only once written. `artifact` must outlive
// the cache.
// Errors: ARGUMENT, LIMIT (the program allows fewer pages, or the sizes overflow), NOMEM (says how many bytes).
QN_CHECKED qn_status qn_kv_cache_create(const qn_artifact *artifact, const qn_kv_options *options,
                                        const qn_allocator *allocator, qn_kv_cache **out, qn_diag *diag);
void qn_kv_cache_destroy(qn_kv_cache *cache);  // NULL is harmless
// Binds every pool to the executor of the same artifact.
QN_CHECKED qn_status qn_kv_cache_bind(const qn_kv_cache *cache, qn_executor *executor, qn_diag *diag);

// i32 (sequences, pages_per_sequence), row-major: the pages of each sequence in order, 0 where it has none.
const int32_t *qn_kv_cache_block_table(const qn_kv_cache *cache);
// The same of the layers with windows where others see all (input `window_table`): of their own pages, or, where they are
// kept whole, the block table.
const int32_t *qn_kv_cache_window_table(const qn_kv_cache *cache);
int32_t qn_kv_cache_sequences(const qn_kv_cache *cache);           // B
int64_t qn_kv_cache_pages_per_sequence(const qn_kv_cache *cache);  // P
int64_t qn_kv_cache_pages(const qn_kv_cache *cache);               // G
int64_t qn_kv_cache_page_keys(const qn_kv_cache *cache);
int64_t qn_kv_cache_free_pages(const qn_kv_cache *cache);  // nobody's, and those that are only kept and would be given up
// Free pages for rows beside the sequences: of the kind, rings' or others', of which there are fewer.
int64_t qn_kv_cache_free_forks(const qn_kv_cache *cache);
int64_t qn_kv_cache_context(const qn_kv_cache *cache);  // tokens a sequence may hold, as asked for
uint64_t qn_kv_cache_bytes(const qn_kv_cache *cache);   // of all pools

// A free row of the table for a new, empty sequence. LIMIT when all are taken.
QN_CHECKED qn_status qn_kv_cache_add(qn_kv_cache *cache, int32_t *out_sequence, qn_diag *diag);
// Gives the row and its pages back.
void qn_kv_cache_remove(qn_kv_cache *cache, int32_t sequence);
bool qn_kv_cache_has(const qn_kv_cache *cache, int32_t sequence);

int64_t qn_kv_cache_length(const qn_kv_cache *cache, int32_t sequence);  // tokens
// Tokens of the source that a model with an encoder reads beside the sequence; 0 = none. What is made of them lies in caches
// of their own (`of_source`), in the sequence's pages: page i has source tokens there as other caches have the sequence's.
int64_t qn_kv_cache_source(const qn_kv_cache *cache, int32_t sequence);
// Makes the sequence an empty one with room for a source of `count` tokens, at least 1. LIMIT when context or pool do not
// suffice: then it is as it was.
QN_CHECKED qn_status qn_kv_cache_take_source(qn_kv_cache *cache, int32_t sequence, int64_t count, qn_diag *diag);
// Empties the sequence, and it has no source any more.
void qn_kv_cache_clear(qn_kv_cache *cache, int32_t sequence);
// Room for `count` more tokens, so that their pages are in the table and nobody else holds those that will be written;
// the length stays. All or nothing. Gives back the pages before the window; where there is one, and `count` is more than a
// step, as many pages are taken as the sequence ever holds, and this is called again before each step. LIMIT with got and
// want when the sequence's context or the pool is full; the memory's errors, of copying.
QN_CHECKED qn_status qn_kv_cache_reserve(qn_kv_cache *cache, int32_t sequence, int64_t count, qn_diag *diag);
// The tokens are in the cache now: `count` of those reserved.
void qn_kv_cache_advance(qn_kv_cache *cache, int32_t sequence, int64_t count);
// Lengthens a sequence by `count` tokens whose pages are written whole with small numbers, for benchmarks. Errors: those
// of reserve, UNSUPPORTED for pools whose pages are laid out in no way that is known, NOMEM and those of the memory: then
// it has its length again, or none where that is below qn_kv_cache_least.
QN_CHECKED qn_status qn_kv_cache_fill(qn_kv_cache *cache, int32_t sequence, int64_t count, qn_diag *diag);
// Makes the sequence one of `length` tokens, with a source of `source`, whose pages are there and hold anything. LIMIT when
// context or pool do not suffice: then it is as it was.
QN_CHECKED qn_status qn_kv_cache_replace(qn_kv_cache *cache, int32_t sequence, int64_t length, int64_t source,
                                         qn_diag *diag);
// Makes `to` what the first `length` tokens of `from` are (another row), in place of what it held, by sharing their pages.
// `length` is 0, or qn_kv_cache_least at least. A source goes with them.
void qn_kv_cache_fork(qn_kv_cache *cache, int32_t from, int64_t length, int32_t to);
// Takes the pages that hold keys of the sequence, from the first on that its next token sees in the layer, through `page`
// (qn_kv_cache_largest_page bytes of the host's memory), of every cache buffer in the artifact's order, first to last;
// `keys` of each are the sequence's, or its source's. What the visitor finds there is the page's contents, or with `write`
// what it puts there becomes them. Ends with the first status that is not OK.
typedef qn_status (*qn_kv_page_visitor)(void *context, const qn_art_buffer *buffer, uint8_t *page, int64_t keys);
QN_CHECKED qn_status qn_kv_cache_visit(const qn_kv_cache *cache, int32_t sequence, bool write, uint8_t *page,
                                       qn_kv_page_visitor visit, void *context, qn_diag *diag);
// The same for one page of the pool, of whose keys the first `keys` count.
QN_CHECKED qn_status qn_kv_cache_visit_page(const qn_kv_cache *cache, int32_t number, int64_t keys, bool write,
                                            uint8_t *page, qn_kv_page_visitor visit, void *context, qn_diag *diag);
// How a page of the cache buffer is laid out; false when it is no way that is known here.
bool qn_kv_cache_layout(const qn_artifact *artifact, const qn_art_buffer *buffer, qn_kv_page *out);
size_t qn_kv_cache_largest_page(const qn_kv_cache *cache);
const qn_artifact *qn_kv_cache_artifact(const qn_kv_cache *cache);    // borrowed
const qn_allocator *qn_kv_cache_allocator(const qn_kv_cache *cache);  // borrowed
// Back to `length` tokens (at most the present length; 0, or qn_kv_cache_least at least); pages that hold none of them are
// free again, reserved ones too. A source stays.
void qn_kv_cache_truncate(qn_kv_cache *cache, int32_t sequence, int64_t length);

// --- windows

// The first page that a sequence still holds, and how many it holds; the most that one of so many tokens ever does.
int64_t qn_kv_cache_first(const qn_kv_cache *cache, int32_t sequence);
int64_t qn_kv_cache_held(const qn_kv_cache *cache, int32_t sequence);
int64_t qn_kv_cache_most(const qn_kv_cache *cache, int64_t tokens);
// The fewest tokens, beside none, that a sequence can be cut to: the pages that those see are there.
int64_t qn_kv_cache_least(const qn_kv_cache *cache, int32_t sequence);
// Are there pages to be given back before the sequence goes on? How many of them are free then; gives them back.
bool qn_kv_cache_slides(const qn_kv_cache *cache, int32_t sequence);
int64_t qn_kv_cache_passed(const qn_kv_cache *cache, int32_t sequence);
void qn_kv_cache_slide(qn_kv_cache *cache, int32_t sequence);

// --- keys that are evicted (kv_evict.h)
// A sequence's length counts the keys that it has; a token's position in its text is its slot among them and as many
// more as were evicted before it, which are always all older.

bool qn_kv_cache_evicts(const qn_kv_cache *cache);  // as the options said
bool qn_kv_cache_sums(const qn_kv_cache *cache);
int64_t qn_kv_cache_evicted(const qn_kv_cache *cache, int32_t sequence);
// Of a sequence that was just made by qn_kv_cache_replace.
void qn_kv_cache_set_evicted(qn_kv_cache *cache, int32_t sequence, int64_t evicted);
// How many of the sequence's pages others hold, too; with `kept` also those that are only kept beside it.
int64_t qn_kv_cache_shared(const qn_kv_cache *cache, int32_t sequence, bool kept);
// Nobody else holds the sequence's pages afterwards. LIMIT (there are too few for copies), the memory's: all is as it was.
QN_CHECKED qn_status qn_kv_cache_own(qn_kv_cache *cache, int32_t sequence, qn_diag *diag);
// Brings the pages of one cache buffer that hold the first `keys` keys, one after another, to or from the host's
// memory.
QN_CHECKED qn_status qn_kv_cache_transfer(const qn_kv_cache *cache, int32_t sequence, const qn_art_buffer *buffer,
                                          int64_t keys, bool write, uint8_t *pages, qn_diag *diag);
// Its first `keep` keys are what is left of it now: qn_kv_cache_least from then on.
void qn_kv_cache_evict(qn_kv_cache *cache, int32_t sequence, int64_t keep);

// --- pages that are kept beside the sequences' own

// The index-th page of a sequence, which must hold keys of it and not be given back (qn_kv_cache_first).
int32_t qn_kv_cache_page(const qn_kv_cache *cache, int32_t sequence, int64_t index);
// Keeps a page that a sequence has, or no longer; a page is kept once.
void qn_kv_cache_keep(qn_kv_cache *cache, int32_t page);
void qn_kv_cache_unkeep(qn_kv_cache *cache, int32_t page);
bool qn_kv_cache_kept(const qn_kv_cache *cache, int32_t page);
// Does nobody hold the page but who keeps it?
bool qn_kv_cache_idle(const qn_kv_cache *cache, int32_t page);
// A free page, kept, that no sequence has; its contents are anything. False when there is none (nothing is given up).
bool qn_kv_cache_take(qn_kv_cache *cache, int32_t *out_page);
// Appends a page with `keys` keys to a sequence that ends with a full one and has room in its context; it shares the page.
void qn_kv_cache_append(qn_kv_cache *cache, int32_t sequence, int32_t page, int64_t keys);
// The sequence takes `page`, of the same contents, for its index-th, which must be full.
void qn_kv_cache_exchange(qn_kv_cache *cache, int32_t sequence, int64_t index, int32_t page);
// Who is asked to give up `count` idle pages when the free ones do not suffice: unkeeps them, or fewer where there are
// fewer. NULL = nobody.
typedef void (*qn_kv_reclaimer)(void *context, int64_t count);
void qn_kv_cache_set_reclaimer(qn_kv_cache *cache, qn_kv_reclaimer reclaim, void *context);

// Counts the holders of every page anew. INTERNAL when a count is wrong or a page is lost: a bug, or pages written over.
QN_CHECKED qn_status qn_kv_cache_check(const qn_kv_cache *cache, qn_diag *diag);

#endif
