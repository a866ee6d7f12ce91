// A file an entry, whose name is the hash of all that the code depends on. It is put there by a rename, so that
// compilations at the same time do not collide; its sizes and a hash of its bytes are checked before it is believed.
#include "codegen/cuda/nvrtc_cache.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/str.h"

#define MAGIC     "qnvrtc1\n"
#define ENTRY_MAX ((size_t)1 << 30)

typedef struct entry_head {
  char magic[8];
  uint64_t key[2];
  uint64_t sizes[3];  // of the PTX (with its NUL), the cubin and the log (with its NUL), which follow
  uint64_t hash;      // of these
} entry_head;

// ---- reading

static char *copy_part(const qn_allocator *allocator, const char *data, size_t size) {
  char *copy = qn_alloc(allocator, size + 1);
  if (copy) {
    memcpy(copy, data, size);
    copy[size] = '\0';
  }
  return copy;
}

// Does it end with its only NUL?
static bool is_text(const char *text, uint64_t size) {
  return size > 0 && memchr(text, 0, (size_t)size) == text + size - 1;
}

bool qn_nvrtc_entry_parse(const char *data, size_t size, const uint64_t key[2], const qn_allocator *allocator,
                          qn_nvrtc_code *out) {
  entry_head head;
  if (size < sizeof head) return false;
  memcpy(&head, data, sizeof head);
  uint64_t left = size - sizeof head;
  if (memcmp(head.magic, MAGIC, sizeof head.magic) != 0 || memcmp(head.key, key, sizeof head.key) != 0) return false;
  if (head.sizes[0] > left || head.sizes[1] > left - head.sizes[0] ||
      head.sizes[2] != left - head.sizes[0] - head.sizes[1])
    return false;
  const char *parts = data + sizeof head;
  if (head.hash != qn_hash64(parts, (size_t)left, head.sizes[0])) return false;
  if (!is_text(parts, head.sizes[0]) || !is_text(parts + (left - head.sizes[2]), head.sizes[2])) return false;
  *out = (qn_nvrtc_code){.allocator = allocator};
  out->ptx = copy_part(allocator, parts, out->ptx_size = (size_t)head.sizes[0]);
  out->cubin = (uint8_t *)copy_part(allocator, parts + out->ptx_size, out->cubin_size = (size_t)head.sizes[1]);
  out->log = copy_part(allocator, parts + out->ptx_size + out->cubin_size, out->log_size = (size_t)head.sizes[2]);
  if (out->ptx && out->cubin && out->log) return true;
  qn_nvrtc_code_deinit(out);
  return false;
}

static bool read_entry(const char *path, const uint64_t key[2], const qn_allocator *allocator, qn_nvrtc_code *out) {
  char *data = NULL;
  size_t size = 0;
  qn_diag unused = {0};
  if (qn_file_read(path, ENTRY_MAX, allocator, &data, &size, &unused) != QN_OK) return false;
  bool taken = qn_nvrtc_entry_parse(data, size, key, allocator, out);
  qn_free(allocator, data, size + 1);
  if (taken) utimensat(AT_FDCWD, path, NULL, 0);  // it was used just now
  return taken;
}

// ---- writing

void qn_nvrtc_entry_print(const uint64_t key[2], const qn_nvrtc_code *code, qn_buf *out) {
  // Texts up to their first NUL: a log has another behind it.
  size_t ptx_size = strlen(code->ptx) + 1, log_size = strlen(code->log) + 1;
  entry_head head = {.key = {key[0], key[1]}, .sizes = {ptx_size, code->cubin_size, log_size}};
  size_t at = out->length;
  memcpy(head.magic, MAGIC, sizeof head.magic);
  qn_buf_append(out, (const char *)&head, sizeof head);
  qn_buf_append(out, code->ptx, ptx_size);
  qn_buf_append(out, (const char *)code->cubin, code->cubin_size);
  qn_buf_append(out, code->log, log_size);
  if (out->failed) return;
  qn_nvrtc_entry_rehash((uint8_t *)out->data + at, out->length - at);
}

void qn_nvrtc_entry_rehash(uint8_t *data, size_t size) {
  entry_head head;
  if (size < sizeof head) return;
  memcpy(&head, data, sizeof head);
  head.hash = qn_hash64(data + sizeof head, size - sizeof head, head.sizes[0]);
  memcpy(data, &head, sizeof head);
}

static qn_status write_entry(const char *path, const uint64_t key[2], const qn_nvrtc_code *code,
                             const qn_allocator *allocator, qn_diag *diag) {
  qn_buf entry;
  qn_file_writer writer;
  qn_buf_init(&entry, allocator);
  qn_nvrtc_entry_print(key, code, &entry);
  qn_status status = entry.failed ? qn_fail_nomem(diag, path, "an entry") : qn_file_writer_open(&writer, path, diag);
  if (status == QN_OK) {
    status = qn_file_writer_write(&writer, entry.data, entry.length);
    if (status == QN_OK) status = qn_file_writer_commit(&writer);
    qn_file_writer_abandon(&writer);
  }
  qn_buf_deinit(&entry);
  return status;
}

// The code is there whether it can be kept or not.
static void keep_entry(const char *folder, const char *path, const uint64_t key[2], const qn_nvrtc_code *code,
                       const qn_allocator *allocator) {
  qn_diag unused = {0};
  if (qn_make_directories(folder, &unused) != QN_OK) return;
  qn_status kept = write_entry(path, key, code, allocator, &unused);
  (void)kept;
}

qn_status qn_nvrtc_compile_cached(const qn_nvrtc *nvrtc, const char *folder, const char *name, const char *source,
                                  int sm, qn_nvrtc_code *out, qn_diag *diag) {
  if (!folder) return qn_nvrtc_compile(nvrtc, name, source, sm, out, diag);
  const qn_allocator *allocator = qn_nvrtc_allocator(nvrtc);
  uint64_t key[2];
  qn_buf path;
  qn_nvrtc_key(nvrtc, source, sm, key);
  qn_buf_init(&path, allocator);
  qn_buf_printf(&path, "%s/sm_%d-%016" PRIx64 ".nvrtc", folder, sm, key[0]);
  qn_status status = path.failed ? qn_fail_nomem(diag, name, "a path") : QN_OK;
  if (status == QN_OK && !read_entry(qn_buf_text(&path), key, allocator, out)) {
    status = qn_nvrtc_compile(nvrtc, name, source, sm, out, diag);
    if (status == QN_OK) keep_entry(folder, qn_buf_text(&path), key, out, allocator);
  }
  qn_buf_deinit(&path);
  return status;
}
