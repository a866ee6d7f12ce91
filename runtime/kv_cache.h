// The paged KV cache: one pool of equal pages for each cache buffer of the program, page numbers shared by all of them,
// and a block table that says which pages hold a sequence's keys. All memory is taken at creation.
#ifndef QN_RUNTIME_KV_CACHE_H
#define QN_RUNTIME_KV_CACHE_H

#include "runtime/executor.h"

typedef struct qn_kv_cache qn_kv_cache;

typedef struct qn_kv_options {
  int32_t sequences;  // rows of the block table (B); 0 = 1
  int64_t context;    // tokens a sequence may hold, at least 1; rounded up to whole pages
  int64_t pages;      // in the pool (G); 0 = enough for every sequence at its full context
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
int32_t qn_kv_cache_sequences(const qn_kv_cache *cache);           // B
int64_t qn_kv_cache_pages_per_sequence(const qn_kv_cache *cache);  // P
int64_t qn_kv_cache_pages(const qn_kv_cache *cache);               // G
int64_t qn_kv_cache_free_pages(const qn_kv_cache *cache);
int64_t qn_kv_cache_context(const qn_kv_cache *cache);  // tokens a sequence may hold, as asked for
uint64_t qn_kv_cache_bytes(const qn_kv_cache *cache);   // of all pools

// A free row of the table for a new, empty sequence. LIMIT when all are taken.
QN_CHECKED qn_status qn_kv_cache_add(qn_kv_cache *cache, int32_t *out_sequence, qn_diag *diag);
// Gives the row and its pages back.
void qn_kv_cache_remove(qn_kv_cache *cache, int32_t sequence);
bool qn_kv_cache_has(const qn_kv_cache *cache, int32_t sequence);

int64_t qn_kv_cache_length(const qn_kv_cache *cache, int32_t sequence);  // tokens
// Room for `count` more tokens, so that their pages are in the table; the length stays. All or nothing.
// LIMIT with got and want when the sequence's context or the pool is full.
QN_CHECKED qn_status qn_kv_cache_reserve(qn_kv_cache *cache, int32_t sequence, int64_t count, qn_diag *diag);
// The tokens are in the cache now: `count` of those reserved.
void qn_kv_cache_advance(qn_kv_cache *cache, int32_t sequence, int64_t count);
// Lengthens a sequence by `count` tokens whose pages are written whole with small numbers, for benchmarks. Errors: those
// of reserve, UNSUPPORTED for pools of a type that is none of f32, f16 and bf16, NOMEM and those of the memory (nothing is
// lengthened).
QN_CHECKED qn_status qn_kv_cache_fill(qn_kv_cache *cache, int32_t sequence, int64_t count, qn_diag *diag);
// Makes the sequence one of `length` tokens whose pages are there and hold anything. LIMIT when context or pool do not
// suffice: then it is as it was.
QN_CHECKED qn_status qn_kv_cache_replace(qn_kv_cache *cache, int32_t sequence, int64_t length, qn_diag *diag);
// Takes the pages that hold keys of the sequence through `page` (qn_kv_cache_largest_page bytes of the host's memory), of
// every cache buffer in the artifact's order, first to last; `keys` of each are the sequence's. What the visitor finds
// there is the page's contents, or with `write` what it puts there becomes them. Ends with the first status that is not
// OK.
typedef qn_status (*qn_kv_page_visitor)(void *context, const qn_art_buffer *buffer, uint8_t *page, int64_t keys);
QN_CHECKED qn_status qn_kv_cache_visit(const qn_kv_cache *cache, int32_t sequence, bool write, uint8_t *page,
                                       qn_kv_page_visitor visit, void *context, qn_diag *diag);
size_t qn_kv_cache_largest_page(const qn_kv_cache *cache);
const qn_artifact *qn_kv_cache_artifact(const qn_kv_cache *cache);    // borrowed
const qn_allocator *qn_kv_cache_allocator(const qn_kv_cache *cache);  // borrowed
// Back to `length` tokens (at most the present length); pages that hold none of them are free again, reserved ones too.
void qn_kv_cache_truncate(qn_kv_cache *cache, int32_t sequence, int64_t length);

#endif
