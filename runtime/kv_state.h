// A sequence's keys and values as bytes, to go on from in another session or process: a header, then the pages that
// hold them (where every layer has a window, those that the next token sees), of every cache buffer in the artifact's order. Little-endian. A reader treats them as hostile.
#ifndef QN_RUNTIME_KV_STATE_H
#define QN_RUNTIME_KV_STATE_H

#include "runtime/kv_cache.h"

#define QN_KV_STATE_MAGIC   "quernkv\n"
#define QN_KV_STATE_VERSION 5u

typedef struct qn_kv_state_header {
  char magic[8];
  uint32_t version;
  uint32_t page_keys;
  uint64_t model;   // of the artifact's weights and graph: what keys and values are a function of, beside the tokens
  uint64_t tokens;  // whose keys the sequence has
  uint64_t source;  // tokens of its source; 0 = none
  uint64_t evicted;  // tokens whose keys were evicted: beside `tokens`
  uint64_t sums;    // 1 = sums of the attention that keys have had are of these tokens; 0 = they say nothing
  uint64_t size;    // bytes in all, header included
  uint64_t hash;    // qn_hash64 of this header with hash 0, then of the pages with that as the seed
} qn_kv_state_header;

// What tells models apart whose keys and values fit each other's: the hash of weights and graph.
uint64_t qn_kv_state_model(const qn_artifact *artifact);
// Zeros in place of all but the first `keys` keys of a page. UNSUPPORTED for a layout that it does not know.
QN_CHECKED qn_status qn_kv_state_clear_rest(const qn_artifact *artifact, const qn_art_buffer *buffer, uint8_t *page,
                                            int64_t keys, qn_diag *diag);
// A visitor (qn_kv_page_visitor) that makes pages of bytes: `context` is the address of a const uint8_t *, which goes on by
// what is taken.
QN_CHECKED qn_status qn_kv_state_take_page(void *context, const qn_art_buffer *buffer, uint8_t *page, int64_t keys);

// Bytes of the sequence's state; false when they are too many to count.
bool qn_kv_state_size(const qn_kv_cache *cache, int32_t sequence, size_t *out_size);
// Keys beyond the sequence's length are written as zeros, since a page may hold what others left there. *out_size is
// how many bytes there are, also after LIMIT. Errors: LIMIT, UNSUPPORTED (a cache of an unknown layout), NOMEM.
QN_CHECKED qn_status qn_kv_state_save(const qn_kv_cache *cache, int32_t sequence, void *data, size_t capacity,
                                      size_t *out_size, qn_diag *diag);
// Errors also: IO.
QN_CHECKED qn_status qn_kv_state_save_file(const qn_kv_cache *cache, int32_t sequence, const char *path, qn_diag *diag);
// In place of what the sequence held, which stays after an error. `name` is for messages. Errors: FORMAT, UNSUPPORTED
// (another version or model; keys were evicted, and this cache keeps all, or goes by sums that are not there), LIMIT (context or pages do not suffice).
QN_CHECKED qn_status qn_kv_state_restore(qn_kv_cache *cache, int32_t sequence, const void *data, size_t size,
                                         const char *name, qn_diag *diag);

#endif
