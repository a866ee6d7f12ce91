// Policies, and the walk over a sequence's pages: layer by layer, head by head, what is dropped is chosen and the rest
// moved up.
#include "runtime/kv_evict.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/sampler.h"

// --- policies

// StreamingLLM (Xiao et al. 2024): the first and the newest.
static void weigh_sinks(const qn_kv_head *h, float *out) {
  for (int64_t i = 0; i < h->count; i++) out[i] = (float)i;
}

static float dot(const float *a, const float *b, int64_t width) {
  float sum = 0;
  for (int64_t c = 0; c < width; c++) sum += a[c] * b[c];
  return sum;
}

// Key norms (Devoto et al. 2024, "A Simple and Effective L2 Norm-Based Strategy"): keys of a small norm get much
// attention.
static void weigh_norm(const qn_kv_head *h, float *out) {
  for (int64_t i = 0; i < h->count; i++) out[i] = -dot(h->keys + i * h->width, h->keys + i * h->width, h->width);
}

// KeyDiff (Park et al. 2025): keys that are unlike the others' mean.
static void weigh_unlike(const qn_kv_head *h, float *out) {
  float *mean = h->room;
  memset(mean, 0, (size_t)h->width * sizeof *mean);
  for (int64_t i = 0; i < h->count; i++) {
    const float *key = h->keys + i * h->width;
    float length = sqrtf(dot(key, key, h->width));
    for (int64_t c = 0; length > 0 && c < h->width; c++) mean[c] += key[c] / length;
  }
  for (int64_t i = 0; i < h->count; i++) {
    const float *key = h->keys + i * h->width;
    float length = sqrtf(dot(key, key, h->width));
    out[i] = length > 0 ? -dot(key, mean, h->width) / length : 0;
  }
}

// By the newest token's attention (TOVA, Oren et al. 2024): the sum over the query heads that share the keys.
static void weigh_heavy(const qn_kv_head *h, float *out) {
  float *score = h->room;
  memset(out, 0, (size_t)h->count * sizeof *out);
  for (int64_t q = 0; q < h->query_count; q++) {
    float most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < h->count; i++) {
      score[i] = dot(h->queries + q * h->width, h->keys + i * h->width, h->width);
      if (score[i] > most) most = score[i];
    }
    for (int64_t i = 0; i < h->count; i++) sum += score[i] = qn_sampler_exp(score[i] - most);
    for (int64_t i = 0; i < h->count; i++) out[i] += score[i] / sum;
  }
}

// Heavy hitters (H2O, Zhang et al. 2023): by the attention of all tokens so far, which the program sums up.
static void weigh_hitters(const qn_kv_head *h, float *out) { memcpy(out, h->sums, (size_t)h->count * sizeof *out); }

// FastGen (Ge et al. 2024) chooses for each head what suits it: where the first and the newest keys have most of the
// newest token's attention, those are kept, else the heavy hitters.
static void weigh_adaptive(const qn_kv_head *h, float *out) {
  const float enough = 0.95f;
  float held = 0, all = 0;
  weigh_heavy(h, out);
  for (int64_t i = 0; i < h->count; i++) {
    all += out[i];
    if (i < QN_KV_SINKS || i >= h->count / 2) held += out[i];
  }
  if (held >= enough * all) {
    weigh_sinks(h, out);
  } else {
    weigh_hitters(h, out);
  }
}

// Keyformer (Adnan et al. 2024): the same by a softmax of half the scores, its temperature 2, so that keys that were given
// up leave less behind to the others. Without the Gumbel noise, whose mean alone would be the same for all keys.
static void weigh_keyformer(const qn_kv_head *h, float *out) { weigh_hitters(h, out); }

#define POLICY(name, by, recent, text) {#name, by, recent, weigh_##name},

static const qn_kv_policy policies[] = {QN_KV_POLICIES(POLICY)};

const qn_kv_policy *qn_kv_policy_at(size_t index) {
  return index < sizeof policies / sizeof *policies ? &policies[index] : NULL;
}

const qn_kv_policy *qn_kv_policy_find(const char *name) {
  for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
    if (strcmp(policies[i].name, name) == 0) return &policies[i];
  return NULL;
}

// --- the evictor

struct qn_kv_evictor {
  qn_kv_cache *cache;  // borrowed
  const qn_kv_policy *policy;
  int64_t most, row_pages, heads, width;  // heads, width: the largest of all layers
  uint8_t *pages;                         // owned: of one buffer (row_pages × its bytes)
  float *keys;                            // owned: (most, width)
  float *weights, *room;                  // owned: (most), (most + width)
  const char *sum;                        // the kind of caches that the policy goes by; NULL = none
  float *sums;                            // owned, with it: (heads, most)
  int32_t *dropped;                       // owned: (heads, most), rising, `count - keep` of each head
  size_t pages_bytes, keys_bytes, weights_bytes, room_bytes, sums_bytes, dropped_bytes;
};

// The layer's cache of a kind; NULL = it has none of a known layout.
static const qn_art_buffer *find_cache(const qn_artifact *a, uint32_t layer, const char *kind, qn_kv_page *out) {
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    if (b->kind == QN_ART_CACHE && b->layer == layer && strcmp(a->strings + b->name, kind) == 0)
      return qn_kv_cache_layout(a, b, out) ? b : NULL;
  }
  return NULL;
}

// A layer's heads choose by their keys and sums what all of its caches give up: these have as many heads, and hold all keys.
static bool gives_keys_up(const qn_kv_evictor *e, const qn_art_buffer *b, qn_kv_page *out) {
  const qn_artifact *a = qn_kv_cache_artifact(e->cache);
  const char *kind = a->strings + b->name;
  qn_kv_page k, sum;
  return qn_kv_cache_layout(a, b, out) && b->window == 0 && !b->of_source && (!qn_kv_is_sum(kind) || out->width == 1) &&
         find_cache(a, b->layer, "k", &k) && k.heads == out->heads && (!e->sum || find_cache(a, b->layer, e->sum, &sum));
}

static qn_status measure(qn_kv_evictor *e, qn_diag *diag) {
  const qn_artifact *a = qn_kv_cache_artifact(e->cache);
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    qn_kv_page page;
    if (b->kind != QN_ART_CACHE) continue;
    if (!gives_keys_up(e, b, &page))
      return qn_fail(diag, QN_ERR_UNSUPPORTED, a->path,
                     "KV cache '%s' of layer %" PRIu32
                     ": got a layout that keys cannot be evicted from, want K, V and one sum a head of all of a text's keys",
                     a->strings + b->name, b->layer);
    if (page.heads > e->heads) e->heads = page.heads;
    if (page.width > e->width) e->width = page.width;
  }
  return QN_OK;
}

static bool count_bytes(qn_kv_evictor *e) {
  size_t most = (size_t)e->most;
  return qn_size_mul((size_t)e->row_pages, qn_kv_cache_largest_page(e->cache), &e->pages_bytes) &&
         qn_size_mul(most * sizeof(float), (size_t)e->width, &e->keys_bytes) &&
         qn_size_mul(most, sizeof(float), &e->weights_bytes) &&
         qn_size_mul(most + (size_t)e->width, sizeof(float), &e->room_bytes) &&
         qn_size_mul(most * sizeof(float), e->sum ? (size_t)e->heads : 0, &e->sums_bytes) &&
         qn_size_mul(most * sizeof(int32_t), (size_t)e->heads, &e->dropped_bytes);
}

qn_status qn_kv_evictor_create(qn_kv_cache *cache, const qn_kv_policy *policy, qn_kv_evictor **out, qn_diag *diag) {
  const qn_allocator *allocator = qn_kv_cache_allocator(cache);
  const char *path = qn_kv_cache_artifact(cache)->path;
  *out = NULL;
  qn_kv_evictor *e = qn_alloc_zeroed(allocator, sizeof *e);
  if (!e) return qn_fail_nomem(diag, path, "evicting keys");
  e->cache = cache;
  e->policy = policy;
  e->sum = policy->by & QN_KV_SUMS ? "sum" : policy->by & QN_KV_SOFTSUMS ? "softsum" : NULL;
  e->row_pages = qn_kv_cache_pages_per_sequence(cache);
  e->most = e->row_pages * qn_kv_cache_page_keys(cache);
  qn_status status = measure(e, diag);
  if (status == QN_OK && !count_bytes(e))
    status = qn_fail(diag, QN_ERR_LIMIT, path, "the size of evicting keys overflows");
  if (status == QN_OK) {
    e->pages = qn_alloc(allocator, e->pages_bytes);
    e->keys = qn_alloc(allocator, e->keys_bytes);
    e->weights = qn_alloc(allocator, e->weights_bytes);
    e->room = qn_alloc(allocator, e->room_bytes);
    e->dropped = qn_alloc(allocator, e->dropped_bytes);
    if (e->sum) e->sums = qn_alloc(allocator, e->sums_bytes);
    bool taken = e->pages && e->keys && e->weights && e->room && e->dropped && (e->sums || !e->sum);
    if (!taken) status = qn_fail_nomem(diag, path, "evicting keys");
  }
  if (status == QN_OK) {
    *out = e;
  } else {
    qn_kv_evictor_destroy(e);
  }
  return status;
}

void qn_kv_evictor_destroy(qn_kv_evictor *e) {
  if (!e) return;
  const qn_allocator *allocator = qn_kv_cache_allocator(e->cache);
  qn_free(allocator, e->pages, e->pages_bytes);
  qn_free(allocator, e->keys, e->keys_bytes);
  qn_free(allocator, e->weights, e->weights_bytes);
  qn_free(allocator, e->room, e->room_bytes);
  qn_free(allocator, e->sums, e->sums_bytes);
  qn_free(allocator, e->dropped, e->dropped_bytes);
  qn_free(allocator, e, sizeof *e);
}

// --- choosing

// Of keys first .. end - 1 the `count` that are worth least, rising. A short list is kept sorted by worth meanwhile.
static void choose(const float *weights, int64_t first, int64_t end, int64_t count, int32_t *out) {
  int64_t have = 0;
  for (int64_t i = first; i < end; i++) {
    if (have == count && !(weights[i] < weights[out[have - 1]])) continue;
    int64_t at = have < count ? have++ : have - 1;
    for (; at > 0 && weights[i] < weights[out[at - 1]]; at--) out[at] = out[at - 1];
    out[at] = (int32_t)i;
  }
  for (int64_t i = 1; i < count; i++) {  // by place now
    int32_t place = out[i];
    int64_t at = i;
    for (; at > 0 && out[at - 1] > place; at--) out[at] = out[at - 1];
    out[at] = place;
  }
}

// --- one buffer of a sequence, in e->pages

typedef struct one_buffer {
  const qn_art_buffer *buffer;
  qn_kv_page page;
} one_buffer;

static uint8_t *head_of(const qn_kv_evictor *e, const one_buffer *b, int64_t head, int64_t key) {
  return e->pages + key / b->page.keys * b->page.page_bytes + head * b->page.head_bytes;
}

static void read_keys(const qn_kv_evictor *e, const one_buffer *b, int64_t head, int64_t count, float *out) {
  for (int64_t key = 0; key < count; key++) {
    const uint8_t *from = head_of(e, b, head, key);
    for (int64_t c = 0; c < b->page.width; c++)
      out[key * b->page.width + c] = qn_kv_page_value(&b->page, from, key % b->page.keys, c);
  }
}

// Moves up what is not dropped.
static void close_up(const qn_kv_evictor *e, const one_buffer *b, int64_t head, const int32_t *dropped, int64_t drop,
                     int64_t count) {
  int64_t keys = b->page.keys, to = drop > 0 ? dropped[0] : count, next = 0;
  for (int64_t key = to; key < count; key++) {
    if (next < drop && dropped[next] == key) {
      next++;
      continue;
    }
    qn_kv_page_copy(&b->page, head_of(e, b, head, key), key % keys, head_of(e, b, head, to), to % keys);
    to++;
  }
}

typedef struct evicting {
  qn_kv_evictor *e;
  int32_t sequence;
  int64_t count, keep;
  qn_kv_queries queries;
  void *context;
  qn_diag *diag;
} evicting;

static void choose_of_head(const evicting *v, const one_buffer *b, int64_t head, const float *queries,
                           int64_t query_count) {
  qn_kv_evictor *e = v->e;
  int64_t group = queries ? query_count / b->page.width / b->page.heads : 0;
  read_keys(e, b, head, v->count, e->keys);
  qn_kv_head view = {.keys = e->keys,
                     .queries = queries ? queries + head * group * b->page.width : NULL,
                     .sums = e->sum ? e->sums + head * e->most : NULL,
                     .count = v->count,
                     .width = b->page.width,
                     .query_count = group,
                     .room = e->room};
  e->policy->weigh(&view, e->weights);
  int64_t recent = (v->keep - QN_KV_SINKS) * e->policy->recent / 8;
  choose(e->weights, QN_KV_SINKS, v->count - recent, v->count - v->keep, e->dropped + head * e->most);
}

static qn_status load(const evicting *v, const one_buffer *b, int64_t keys, bool write) {
  return qn_kv_cache_transfer(v->e->cache, v->sequence, b->buffer, keys, write, v->e->pages, v->diag);
}

// The attention that a layer's keys have had.
static qn_status read_sums(const evicting *v, const one_buffer *b) {
  QN_TRY(load(v, b, v->count, false));
  for (int64_t head = 0; head < b->page.heads; head++) read_keys(v->e, b, head, v->count, v->e->sums + head * v->e->most);
  return QN_OK;
}

// Of a layer's K: chooses, and moves up; of its other caches, which come after: moves up what was chosen.
static qn_status evict_buffer(const evicting *v, const one_buffer *b, bool choose) {
  qn_kv_evictor *e = v->e;
  int64_t query_count = 0;
  const float *queries = NULL;
  QN_TRY(load(v, b, v->count, false));
  if (choose && (e->policy->by & QN_KV_QUERIES)) queries = v->queries(v->context, b->buffer->layer, &query_count);
  for (int64_t head = 0; head < b->page.heads; head++) {
    if (choose) choose_of_head(v, b, head, queries, query_count);
    close_up(e, b, head, e->dropped + head * e->most, v->count - v->keep, v->count);
  }
  return load(v, b, v->keep, true);
}

// Is the artifact's index-th buffer a cache of the layer, of that kind or of any?
static bool is_cache(const qn_kv_evictor *e, uint32_t index, uint32_t layer, const char *kind, one_buffer *out) {
  const qn_artifact *a = qn_kv_cache_artifact(e->cache);
  const qn_art_buffer *b = out->buffer = &a->buffers[index];
  if (b->kind != QN_ART_CACHE || b->layer != layer) return false;
  return (!kind || strcmp(a->strings + b->name, kind) == 0) && qn_kv_cache_layout(a, b, &out->page);
}

// The caches of the layer whose K is the index-th buffer.
static qn_status evict_layer(const evicting *v, uint32_t index) {
  const qn_artifact *a = qn_kv_cache_artifact(v->e->cache);
  uint32_t layer = a->buffers[index].layer, count = a->program->buffer_count;
  one_buffer k, other;
  if (!is_cache(v->e, index, layer, "k", &k)) return QN_OK;
  if (v->e->sum) {
    other.buffer = find_cache(a, layer, v->e->sum, &other.page);
    QN_TRY(read_sums(v, &other));
  }
  QN_TRY(evict_buffer(v, &k, true));
  for (uint32_t i = 0; i < count; i++)
    if (i != index && is_cache(v->e, i, layer, NULL, &other)) QN_TRY(evict_buffer(v, &other, false));
  return QN_OK;
}

qn_status qn_kv_evictor_run(qn_kv_evictor *e, int32_t sequence, int64_t keep, qn_kv_queries queries, void *context,
                            qn_diag *diag) {
  const qn_artifact *a = qn_kv_cache_artifact(e->cache);
  evicting v = {e, sequence, qn_kv_cache_length(e->cache, sequence), keep, queries, context, diag};
  assert(keep > QN_KV_SINKS && keep <= v.count);
  for (uint32_t i = 0; i < a->program->buffer_count; i++) QN_TRY(evict_layer(&v, i));
  qn_kv_cache_evict(e->cache, sequence, keep);
  return QN_OK;
}
