// Writes and reads a sequence's state.
#include "runtime/kv_state.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/hash.h"
#include "runtime/base/window.h"

// --- what the bytes are of

static uint64_t section_hash(const qn_artifact *a, uint32_t kind, uint32_t index) {
  for (uint32_t i = 0; i < a->section_count; i++) {
    if (a->sections[i].kind == kind && a->sections[i].index == index) return a->sections[i].hash;
  }
  return 0;
}

uint64_t qn_kv_state_model(const qn_artifact *a) {
  uint64_t hashes[] = {section_hash(a, QN_SECTION_WEIGHTS, 0),
                       section_hash(a, QN_SECTION_GRAPH, a->program_index)};
  return qn_hash64(hashes, sizeof hashes, QN_KV_STATE_VERSION);
}

static bool count_bytes(const qn_artifact *a, uint64_t tokens, uint64_t source, size_t *out_size) {
  size_t size = sizeof(qn_kv_state_header);
  uint64_t page_keys = a->program->page_keys ? a->program->page_keys : 1;
  int64_t window = qn_artifact_window(a), ring = qn_artifact_ring(a);
  bool sourced = source == 0;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    size_t bytes = 0;
    if (a->buffers[i].kind != QN_ART_CACHE) continue;
    uint64_t keys = a->buffers[i].of_source ? source : tokens;
    int64_t own = ring > 0 && a->buffers[i].window > 0 ? ring : window;
    uint64_t first = (uint64_t)qn_window_first_page(own, (int64_t)tokens, (int64_t)page_keys);
    sourced = sourced || a->buffers[i].of_source;
    uint64_t pages = keys / page_keys + (keys % page_keys != 0) - first;
    if (!qn_size_mul((size_t)pages, (size_t)a->buffers[i].bytes, &bytes) || !qn_size_add(size, bytes, &size))
      return false;
  }
  *out_size = size;
  return sourced;  // or there is nothing that the source would be of
}

bool qn_kv_state_size(const qn_kv_cache *cache, int32_t sequence, size_t *out_size) {
  return count_bytes(qn_kv_cache_artifact(cache), (uint64_t)qn_kv_cache_length(cache, sequence),
                     (uint64_t)qn_kv_cache_source(cache, sequence), out_size);
}

static qn_kv_state_header make_header(const qn_kv_cache *cache, int32_t sequence, size_t size) {
  const qn_artifact *a = qn_kv_cache_artifact(cache);
  qn_kv_state_header header = {.version = QN_KV_STATE_VERSION,
                               .page_keys = a->program->page_keys,
                               .model = qn_kv_state_model(a),
                               .tokens = (uint64_t)qn_kv_cache_length(cache, sequence),
                               .source = (uint64_t)qn_kv_cache_source(cache, sequence),
                               .evicted = (uint64_t)qn_kv_cache_evicted(cache, sequence),
                               .sums = qn_kv_cache_sums(cache),
                               .size = size};
  memcpy(header.magic, QN_KV_STATE_MAGIC, sizeof header.magic);
  return header;
}

static uint64_t header_seed(qn_kv_state_header header) {
  header.hash = 0;
  return qn_hash64(&header, sizeof header, 0);
}

// --- pages

static qn_status get_page(const qn_artifact *a, const qn_art_buffer *b, qn_kv_page *out, qn_diag *diag) {
  if (qn_kv_cache_layout(a, b, out)) return QN_OK;
  const char *kind = a->strings + b->name;
  uint32_t keys = a->program->page_keys;
  return qn_fail(diag, QN_ERR_UNSUPPORTED, a->path,
                 "KV cache '%s' of layer %" PRIu32
                 ": got a layout whose state cannot be saved, want k as [pages, heads, "
                 "head_dim, %" PRIu32 "] and v as [pages, heads, %" PRIu32 ", head_dim]",
                 kind, b->layer, keys, keys);
}

qn_status qn_kv_state_clear_rest(const qn_artifact *a, const qn_art_buffer *buffer, uint8_t *page, int64_t keys,
                                 qn_diag *diag) {
  qn_kv_page layout;
  QN_TRY(get_page(a, buffer, &layout, diag));
  qn_kv_page_clear(&layout, keys, page);
  return QN_OK;
}

// Where the pages go: memory, or a file.
typedef struct writing {
  const qn_artifact *artifact;
  uint8_t *to;
  qn_file_writer *file;
  qn_hasher hasher;
  qn_diag *diag;
} writing;

static qn_status put(writing *w, const uint8_t *data, size_t size) {
  qn_hasher_update(&w->hasher, data, size);
  if (w->file) return qn_file_writer_write(w->file, data, size);
  memcpy(w->to, data, size);
  w->to += size;
  return QN_OK;
}

static qn_status put_page(void *context, const qn_art_buffer *buffer, uint8_t *page, int64_t keys) {
  writing *w = context;
  QN_TRY(qn_kv_state_clear_rest(w->artifact, buffer, page, keys, w->diag));
  return put(w, page, (size_t)buffer->bytes);
}

static qn_status count_or_fail(const qn_kv_cache *cache, int32_t sequence, size_t *out_size, qn_diag *diag) {
  if (qn_kv_state_size(cache, sequence, out_size)) return QN_OK;
  return qn_fail(diag, QN_ERR_LIMIT, qn_kv_cache_artifact(cache)->path, "the size of a sequence's state overflows");
}

// Everything behind the header; its hash then.
static qn_status put_pages(writing *w, const qn_kv_cache *cache, int32_t sequence, qn_kv_state_header *header) {
  size_t size = qn_kv_cache_largest_page(cache);
  uint8_t *page = qn_alloc(qn_kv_cache_allocator(cache), size);
  if (!page) return qn_fail_nomem(w->diag, w->artifact->path, "a page of the KV cache");
  qn_hasher_init(&w->hasher, header_seed(*header));
  qn_status status = qn_kv_cache_visit(cache, sequence, false, page, put_page, w, w->diag);
  header->hash = qn_hasher_final(&w->hasher);
  qn_free(qn_kv_cache_allocator(cache), page, size);
  return status;
}

qn_status qn_kv_state_save(const qn_kv_cache *cache, int32_t sequence, void *data, size_t capacity, size_t *out_size,
                           qn_diag *diag) {
  const qn_artifact *a = qn_kv_cache_artifact(cache);
  QN_TRY(count_or_fail(cache, sequence, out_size, diag));
  if (*out_size > capacity) {
    return qn_fail(diag, QN_ERR_LIMIT, a->path, "got room for %zu bytes, want %zu for the sequence's state", capacity,
                   *out_size);
  }
  qn_kv_state_header header = make_header(cache, sequence, *out_size);
  writing w = {.artifact = a, .to = (uint8_t *)data + sizeof header, .diag = diag};
  QN_TRY(put_pages(&w, cache, sequence, &header));
  memcpy(data, &header, sizeof header);
  return QN_OK;
}

qn_status qn_kv_state_save_file(const qn_kv_cache *cache, int32_t sequence, const char *path, qn_diag *diag) {
  size_t size;
  qn_file_writer file;
  QN_TRY(count_or_fail(cache, sequence, &size, diag));
  QN_TRY(qn_file_writer_open(&file, path, diag));
  qn_kv_state_header header = make_header(cache, sequence, size);
  writing w = {.artifact = qn_kv_cache_artifact(cache), .file = &file, .diag = diag};
  qn_status status = qn_file_writer_write(&file, &header, sizeof header);  // to be written over
  if (status == QN_OK) status = put_pages(&w, cache, sequence, &header);
  if (status == QN_OK) status = qn_file_writer_write_at(&file, 0, &header, sizeof header);
  if (status == QN_OK) status = qn_file_writer_commit(&file);
  qn_file_writer_abandon(&file);
  return status;
}

// --- reading

static qn_status check_header(const qn_artifact *a, const qn_kv_state_header *h, size_t size, const char *name,
                              qn_diag *diag) {
  size_t want = 0;
  if (memcmp(h->magic, QN_KV_STATE_MAGIC, sizeof h->magic) != 0)
    return qn_fail(diag, QN_ERR_FORMAT, name, "is no saved state of a sequence: it does not begin with 'quernkv'");
  if (h->version != QN_KV_STATE_VERSION)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, name, "got a saved state of version %" PRIu32 ", want %u", h->version,
                   QN_KV_STATE_VERSION);
  if (h->model != qn_kv_state_model(a) || h->page_keys != a->program->page_keys)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, name,
                   "was saved with another model (%016" PRIx64 "), want one of the weights and graph of %s (%016" PRIx64
                   ")",
                   h->model, a->path, qn_kv_state_model(a));
  bool counted = h->tokens <= INT32_MAX && h->source <= INT32_MAX && h->evicted <= INT32_MAX &&
                 count_bytes(a, h->tokens, h->source, &want);
  if (!counted || h->size != want || size != want)
    return qn_fail(diag, QN_ERR_FORMAT, name,
                   "got %zu bytes and %" PRIu64 " in the header, want %zu for %" PRIu64 " tokens: truncated or damaged",
                   size, h->size, want, h->tokens);
  return QN_OK;
}

qn_status qn_kv_state_take_page(void *context, const qn_art_buffer *buffer, uint8_t *page, int64_t keys) {
  const uint8_t **from = context;
  (void)keys;
  memcpy(page, *from, (size_t)buffer->bytes);
  *from += buffer->bytes;
  return QN_OK;
}

qn_status qn_kv_state_restore(qn_kv_cache *cache, int32_t sequence, const void *data, size_t size, const char *name,
                              qn_diag *diag) {
  const qn_artifact *a = qn_kv_cache_artifact(cache);
  qn_kv_state_header header;
  if (size < sizeof header)
    return qn_fail(diag, QN_ERR_FORMAT, name, "got %zu bytes, want at least the %zu of a saved state's header", size,
                   sizeof header);
  memcpy(&header, data, sizeof header);
  QN_TRY(check_header(a, &header, size, name, diag));
  const uint8_t *pages = (const uint8_t *)data + sizeof header;
  if (qn_hash64(pages, size - sizeof header, header_seed(header)) != header.hash)
    return qn_fail(diag, QN_ERR_FORMAT, name, "the saved state's hash does not fit its bytes: damaged");
  if (header.evicted > 0 && !qn_kv_cache_evicts(cache))
    return qn_fail(diag, QN_ERR_UNSUPPORTED, name,
                   "got a state of which %" PRIu64 " tokens' keys were evicted, want a session with kv_evict for it",
                   header.evicted);
  if (qn_kv_cache_sums(cache) && header.tokens > 0 && header.sums != 1)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, name,
                   "got a state without sums of the attention that its %" PRIu64
                   " keys have had, want one of a session that evicts by them (kv_evict), too",
                   header.tokens);
  if (qn_kv_cache_evicts(cache) && (int64_t)header.tokens >= qn_kv_cache_context(cache))
    return qn_fail(diag, QN_ERR_LIMIT, name,
                   "got a state of %" PRIu64 " keys, want fewer than the %" PRId64
                   " that a sequence may have (kv_keep)",
                   header.tokens, qn_kv_cache_context(cache));
  size_t page_size = qn_kv_cache_largest_page(cache);
  uint8_t *page = qn_alloc(qn_kv_cache_allocator(cache), page_size);
  if (!page) return qn_fail_nomem(diag, name, "a page of the KV cache");
  qn_status status = qn_kv_cache_replace(cache, sequence, (int64_t)header.tokens, (int64_t)header.source, diag);
  if (status == QN_OK) status = qn_kv_cache_visit(cache, sequence, true, page, qn_kv_state_take_page, &pages, diag);
  if (status == QN_OK) qn_kv_cache_set_evicted(cache, sequence, (int64_t)header.evicted);
  qn_free(qn_kv_cache_allocator(cache), page, page_size);
  return status;
}
