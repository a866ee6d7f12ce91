// What sequences have held, kept for others that begin with the same tokens: a radix tree over token ids whose edges are
// pages of the KV cache. Pages that no sequence has stay until others want them; the least recently used go first.
// Saved to a file, another process goes on from there. All memory is taken at creation.
#ifndef QN_RUNTIME_KV_PREFIX_H
#define QN_RUNTIME_KV_PREFIX_H

#include "runtime/kv_cache.h"

#define QN_KV_PREFIX_MAGIC   "quernpf\n"
#define QN_KV_PREFIX_VERSION 1u

// A file: this, then a record a page (i32 index of the page before it in this file or -1, i32 tokens, i32 the tokens,
// page_keys of them), a page after the one before it, the most recently used first; then the pages' contents, of every
// cache buffer in the artifact's order. Little-endian. A reader treats it as hostile.
typedef struct qn_kv_prefix_header {
  char magic[8];
  uint32_t version;
  uint32_t page_keys;
  uint64_t model;  // as of a sequence's state (kv_state.h)
  uint64_t pages;
  uint64_t size;  // bytes in all, header included
  uint64_t hash;  // qn_hash64 of this header with hash 0, then of the rest with that as the seed
} qn_kv_prefix_header;

typedef struct qn_kv_prefix qn_kv_prefix;

typedef struct qn_kv_prefix_stats {
  int64_t lookups, asked_tokens, found_tokens;  // of all lookups: tokens that there were, and that pages were found for
  int64_t pages, tokens;                        // kept now
  int64_t given_up;                             // pages, so far
} qn_kv_prefix_stats;

// `cache` must outlive it, and have no other reclaimer. NOMEM.
QN_CHECKED qn_status qn_kv_prefix_create(qn_kv_cache *cache, qn_kv_prefix **out, qn_diag *diag);
void qn_kv_prefix_destroy(qn_kv_prefix *prefix);  // NULL is harmless

// Makes an empty sequence one of the first tokens, as many as are known, but not of the last one: somebody must evaluate
// it. Gives how many.
int64_t qn_kv_prefix_attach(qn_kv_prefix *prefix, int32_t sequence, const int32_t *tokens, int64_t count);
// What qn_kv_prefix_attach would find, without changing anything: calls `visit` (NULL = nobody) with each page, its place in
// the sequence and how many of its keys count. Gives how many tokens.
typedef void (*qn_kv_prefix_visitor)(void *context, int64_t index, int32_t page, int64_t keys);
int64_t qn_kv_prefix_look(const qn_kv_prefix *prefix, const int32_t *tokens, int64_t count, qn_kv_prefix_visitor visit,
                          void *context);
// Keeps the pages of a sequence's first `count` tokens; with `part` the last one, too, if they do not fill it. Of pages
// that are there twice the sequence takes those that are kept.
void qn_kv_prefix_keep(qn_kv_prefix *prefix, int32_t sequence, const int32_t *tokens, int64_t count, bool part);
// The sequence's pages, and what follows them, are no longer kept.
void qn_kv_prefix_forget(qn_kv_prefix *prefix, int32_t sequence);
// Gives up all that no sequence has.
void qn_kv_prefix_clear(qn_kv_prefix *prefix);
void qn_kv_prefix_get_stats(const qn_kv_prefix *prefix, qn_kv_prefix_stats *out);

// The file appears whole or not at all. Errors: IO, NOMEM, LIMIT, UNSUPPORTED (a cache of an unknown layout).
QN_CHECKED qn_status qn_kv_prefix_save(const qn_kv_prefix *prefix, const char *path, qn_diag *diag);
// Adds what the file holds and free pages there are for, the most recently used first; *out_pages of it are there then.
// Errors: IO, NOMEM, FORMAT, UNSUPPORTED (another version or model): nothing is added.
QN_CHECKED qn_status qn_kv_prefix_load(qn_kv_prefix *prefix, const char *path, int64_t *out_pages, qn_diag *diag);

// Compares the tree with itself and with the cache, and checks the cache. INTERNAL: a bug.
QN_CHECKED qn_status qn_kv_prefix_check(const qn_kv_prefix *prefix, qn_diag *diag);

#endif
