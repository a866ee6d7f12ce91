// Kept pages to a file and back (the layout is in kv_prefix.h).
#include <inttypes.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/kv_prefix_impl.h"
#include "runtime/kv_state.h"

static uint64_t header_seed(qn_kv_prefix_header header) {
  header.hash = 0;
  return qn_hash64(&header, sizeof header, 0);
}

static size_t record_bytes(const qn_kv_prefix *p) { return (2 + (size_t)p->page_keys) * sizeof(int32_t); }

// Bytes of a file of so many pages; false when they are too many to count.
static bool file_bytes(const qn_kv_prefix *p, uint64_t pages, size_t *out) {
  const qn_artifact *a = qn_kv_cache_artifact(p->cache);
  size_t each = record_bytes(p);
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    if (a->buffers[i].kind == QN_ART_CACHE && !qn_size_add(each, (size_t)a->buffers[i].bytes, &each)) return false;
  }
  return qn_size_mul(each, (size_t)pages, out) && qn_size_add(*out, sizeof(qn_kv_prefix_header), out);
}

static qn_kv_prefix_header make_header(const qn_kv_prefix *p) {
  qn_kv_prefix_header header = {.version = QN_KV_PREFIX_VERSION,
                                .page_keys = (uint32_t)p->page_keys,
                                .model = qn_kv_state_model(qn_kv_cache_artifact(p->cache)),
                                .pages = (uint64_t)p->stats.pages};
  memcpy(header.magic, QN_KV_PREFIX_MAGIC, sizeof header.magic);
  return header;
}

// --- writing

typedef struct writing {
  const qn_kv_prefix *prefix;
  qn_file_writer file;
  qn_hasher hasher;
  int32_t *places;  // of each page: its index in the file
  qn_diag *diag;
} writing;

static qn_status put(writing *w, const void *data, size_t size) {
  qn_hasher_update(&w->hasher, data, size);
  return qn_file_writer_write(&w->file, data, size);
}

static qn_status put_page(void *context, const qn_art_buffer *buffer, uint8_t *page, int64_t keys) {
  writing *w = context;
  QN_TRY(qn_kv_state_clear_rest(qn_kv_cache_artifact(w->prefix->cache), buffer, page, keys, w->diag));
  return put(w, page, (size_t)buffer->bytes);
}

static qn_status put_records(writing *w) {
  const qn_kv_prefix *p = w->prefix;
  int32_t index = 0;
  for (int32_t page = p->newest; page != QN_KV_NONE; page = p->nodes[page].older) {
    const qn_kv_node *n = &p->nodes[page];
    int32_t *tokens = p->tokens + (size_t)page * (size_t)p->page_keys;
    w->places[page] = index++;
    int32_t head[2] = {n->parent == QN_KV_NONE ? -1 : w->places[n->parent], n->count};
    memset(tokens + n->count, 0, (size_t)(p->page_keys - n->count) * sizeof *tokens);
    QN_TRY(put(w, head, sizeof head));
    QN_TRY(put(w, tokens, (size_t)p->page_keys * sizeof *tokens));
  }
  return QN_OK;
}

static qn_status put_pages(writing *w, uint8_t *room) {
  const qn_kv_prefix *p = w->prefix;
  for (int32_t page = p->newest; page != QN_KV_NONE; page = p->nodes[page].older)
    QN_TRY(qn_kv_cache_visit_page(p->cache, page, p->nodes[page].count, false, room, put_page, w, w->diag));
  return QN_OK;
}

static qn_status save(writing *w, uint8_t *room) {
  size_t size = 0;
  qn_kv_prefix_header header = make_header(w->prefix);
  if (!file_bytes(w->prefix, header.pages, &size))
    return qn_fail(w->diag, QN_ERR_LIMIT, w->file.path, "the size of the kept pages overflows");
  header.size = size;
  qn_hasher_init(&w->hasher, header_seed(header));
  QN_TRY(qn_file_writer_write(&w->file, &header, sizeof header));  // to be written over
  QN_TRY(put_records(w));
  QN_TRY(put_pages(w, room));
  header.hash = qn_hasher_final(&w->hasher);
  QN_TRY(qn_file_writer_write_at(&w->file, 0, &header, sizeof header));
  return qn_file_writer_commit(&w->file);
}

qn_status qn_kv_prefix_save(const qn_kv_prefix *p, const char *path, qn_diag *diag) {
  const qn_allocator *allocator = qn_kv_cache_allocator(p->cache);
  size_t place_bytes = (size_t)qn_kv_cache_pages(p->cache) * sizeof(int32_t);
  size_t room_bytes = qn_kv_cache_largest_page(p->cache);
  writing w = {.prefix = p, .diag = diag};
  QN_TRY(qn_file_writer_open(&w.file, path, diag));
  w.places = qn_alloc(allocator, place_bytes);
  uint8_t *room = qn_alloc(allocator, room_bytes);
  qn_status status = w.places && room ? save(&w, room) : qn_fail_nomem(diag, path, "a page of the KV cache");
  qn_file_writer_abandon(&w.file);
  qn_free(allocator, w.places, place_bytes);
  qn_free(allocator, room, room_bytes);
  return status;
}

// --- reading

static qn_status damaged(const char *path, const char *what, uint64_t index, qn_diag *diag) {
  return qn_fail(diag, QN_ERR_FORMAT, path, "page %" PRIu64 " of the saved prefixes: %s: damaged", index, what);
}

static qn_status check_header(const qn_kv_prefix *p, const qn_mapping *m, const char *path, qn_kv_prefix_header *h,
                              qn_diag *diag) {
  size_t want = 0;
  uint64_t model = qn_kv_state_model(qn_kv_cache_artifact(p->cache));
  if (m->size < sizeof *h || memcmp(m->data, QN_KV_PREFIX_MAGIC, sizeof h->magic) != 0)
    return qn_fail(diag, QN_ERR_FORMAT, path, "is no file of saved prefixes: it does not begin with 'quernpf'");
  memcpy(h, m->data, sizeof *h);
  if (h->version != QN_KV_PREFIX_VERSION)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, path, "got saved prefixes of version %" PRIu32 ", want %u", h->version,
                   QN_KV_PREFIX_VERSION);
  if (h->model != model || h->page_keys != (uint64_t)p->page_keys)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, path,
                   "was saved with another model (%016" PRIx64 "), want one of the weights and graph of %s (%016" PRIx64
                   ")",
                   h->model, qn_kv_cache_artifact(p->cache)->path, model);
  if (h->pages > INT32_MAX || !file_bytes(p, h->pages, &want) || h->size != want || m->size != want)
    return qn_fail(diag, QN_ERR_FORMAT, path,
                   "got %zu bytes and %" PRIu64 " in the header, want %zu for %" PRIu64 " pages: truncated or damaged",
                   m->size, h->size, want, h->pages);
  if (qn_hash64(m->data + sizeof *h, m->size - sizeof *h, header_seed(*h)) != h->hash)
    return qn_fail(diag, QN_ERR_FORMAT, path, "the hash of the saved prefixes does not fit their bytes: damaged");
  return QN_OK;
}

// A record of the file, within its mapping.
typedef struct record {
  int32_t parent, count;
  const int32_t *tokens;
} record;

static record get_record(const qn_kv_prefix *p, const uint8_t *records, uint64_t index) {
  record r;
  const uint8_t *at = records + index * record_bytes(p);  // a multiple of 4 bytes from the mapping's start
  memcpy(&r.parent, at, sizeof r.parent);
  memcpy(&r.count, at + sizeof r.parent, sizeof r.count);
  r.tokens = (const int32_t *)(const void *)(at + 2 * sizeof(int32_t));
  return r;
}

static qn_status check_records(const qn_kv_prefix *p, const uint8_t *records, uint64_t pages, const char *path,
                               qn_diag *diag) {
  for (uint64_t i = 0; i < pages; i++) {
    record r = get_record(p, records, i);
    if (r.count < 1 || r.count > p->page_keys) return damaged(path, "its tokens are too many or none", i, diag);
    if (r.parent < -1 || r.parent >= (int64_t)i) return damaged(path, "it follows one that is not before it", i, diag);
    if (r.parent >= 0 && get_record(p, records, (uint64_t)r.parent).count != p->page_keys)
      return damaged(path, "it follows one that is not full", i, diag);
  }
  return QN_OK;
}

// Enters the pages there is room for; `places` becomes the number of each page in the pool, or QN_KV_NONE.
static qn_status enter(qn_kv_prefix *p, const uint8_t *records, uint64_t pages, size_t content_bytes, int32_t *places,
                       uint8_t *room, int64_t *out_pages, qn_diag *diag) {
  const uint8_t *contents = records + pages * record_bytes(p);
  for (uint64_t i = 0; i < pages; i++) {
    record r = get_record(p, records, i);
    int64_t same = 0;
    int32_t parent = r.parent < 0 ? QN_KV_NONE : places[r.parent];
    places[i] = QN_KV_NONE;
    if (r.parent >= 0 && parent == QN_KV_NONE) continue;
    int32_t found = qn_kv_prefix_find(p, parent, r.tokens, r.count, &same), page;
    if (found != QN_KV_NONE && same == r.count) {
      places[i] = found;
    } else if (qn_kv_cache_take(p->cache, &page)) {
      const uint8_t *from = contents + i * content_bytes;
      qn_status status =
          qn_kv_cache_visit_page(p->cache, page, r.count, true, room, qn_kv_state_take_page, &from, diag);
      if (status != QN_OK) qn_kv_cache_unkeep(p->cache, page);
      if (status != QN_OK) return status;
      qn_kv_prefix_link(p, parent, page, r.tokens, r.count, false);
      places[i] = page;
    }
    *out_pages += places[i] != QN_KV_NONE;
  }
  return QN_OK;
}

static qn_status load(qn_kv_prefix *p, const qn_mapping *m, const char *path, int64_t *out_pages, qn_diag *diag) {
  const qn_allocator *allocator = qn_kv_cache_allocator(p->cache);
  qn_kv_prefix_header header;
  QN_TRY(check_header(p, m, path, &header, diag));
  const uint8_t *records = m->data + sizeof header;
  QN_TRY(check_records(p, records, header.pages, path, diag));
  if (header.pages == 0) return QN_OK;
  size_t room_bytes = qn_kv_cache_largest_page(p->cache), place_bytes = (size_t)header.pages * sizeof(int32_t);
  size_t each = (m->size - sizeof header) / (size_t)header.pages - record_bytes(p);
  int32_t *places = qn_alloc(allocator, place_bytes);
  uint8_t *room = qn_alloc(allocator, room_bytes);
  qn_status status = places && room ? enter(p, records, header.pages, each, places, room, out_pages, diag)
                                    : qn_fail_nomem(diag, path, "a page of the KV cache");
  qn_free(allocator, places, place_bytes);
  qn_free(allocator, room, room_bytes);
  return status;
}

qn_status qn_kv_prefix_load(qn_kv_prefix *p, const char *path, int64_t *out_pages, qn_diag *diag) {
  qn_mapping mapping = {0};
  *out_pages = 0;
  QN_TRY(qn_mapping_open(&mapping, path, diag));
  qn_status status = qn_mapping_keep_but(&mapping, mapping.size, mapping.size, path, diag);
  if (status == QN_OK) status = load(p, &mapping, path, out_pages, diag);
  qn_mapping_close(&mapping);
  return status;
}
