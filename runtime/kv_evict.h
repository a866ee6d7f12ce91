// Which keys a sequence keeps when its share of the cache is full: policies behind one interface, chosen for each head
// of each layer by itself, and the moving of what is kept. All heads keep equally many, so one block table serves them;
// kept keys stay in order and carry the rotation of their true positions. All memory is taken at creation.
#ifndef QN_RUNTIME_KV_EVICT_H
#define QN_RUNTIME_KV_EVICT_H

#include "runtime/base/kv_policy.h"
#include "runtime/kv_cache.h"

#define QN_KV_SINKS \
  4  // first keys of a text, which all policies keep (Xiao et al. 2024: they take the attention that nothing else
     // wants)

// The keys of one head of a layer, in the order of the text.
typedef struct qn_kv_head {
  const float *keys;     // (count, width)
  const float *queries;  // (query_count, width): the newest token's, scaled, of the query heads that share the keys
  const float *sums;  // (count): the attention that they have had, for policies that go by it
  int64_t count, width, query_count;
  float *room;  // (count + width) for the policy's own use
} qn_kv_head;

typedef struct qn_kv_policy {
  const char *name;
  unsigned by;  // bits of base/kv_policy.h: what the program must give
  int recent;   // of 8 parts of what is kept so many are the newest keys, whatever their weight
  // How much each key is worth to be kept: (count). Of equal ones the older goes first.
  void (*weigh)(const qn_kv_head *head, float *out);
} qn_kv_policy;

const qn_kv_policy *qn_kv_policy_at(size_t index);        // in order, NULL beyond the last
const qn_kv_policy *qn_kv_policy_find(const char *name);  // NULL = there is none

typedef struct qn_kv_evictor qn_kv_evictor;

// Of a layer, the newest token's queries, scaled: (query heads, width); *out_count numbers in all.
typedef const float *(*qn_kv_queries)(void *context, uint32_t layer, int64_t *out_count);

// For sequences of `cache` that hold at most `most` keys, its context. `cache` must outlive it. Errors: UNSUPPORTED (a
// cache of an unknown layout), NOMEM.
QN_CHECKED qn_status qn_kv_evictor_create(qn_kv_cache *cache, const qn_kv_policy *policy, qn_kv_evictor **out,
                                          qn_diag *diag);
void qn_kv_evictor_destroy(qn_kv_evictor *evictor);  // NULL is harmless
// Leaves `keep` of a sequence's keys, more than QN_KV_SINKS. Nobody else may hold its pages (qn_kv_cache_own). Errors:
// those of the memory, after which the sequence holds anything.
QN_CHECKED qn_status qn_kv_evictor_run(qn_kv_evictor *evictor, int32_t sequence, int64_t keep, qn_kv_queries queries,
                                       void *context, qn_diag *diag);

#endif
