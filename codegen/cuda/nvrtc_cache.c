// An entry's content is the sizes of its three parts and the parts.
#include "codegen/cuda/nvrtc_cache.h"

#include <inttypes.h>
#include <string.h>

#include "codegen/kept_file.h"

typedef struct content_head {
  uint64_t sizes[3];  // of the PTX (with its NUL), the cubin and the log (with its NUL), which follow
} content_head;

static qn_kept_name name_of(const uint64_t key[2]) {
  qn_kept_name name = {.key = {key[0], key[1]}};
  memcpy(name.magic, "qnvrtc2\n", sizeof name.magic);
  return name;
}

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

static bool parse_content(const char *data, size_t size, const qn_allocator *allocator, qn_nvrtc_code *out) {
  content_head head;
  if (size < sizeof head) return false;
  memcpy(&head, data, sizeof head);
  uint64_t left = size - sizeof head;
  if (head.sizes[0] > left || head.sizes[1] > left - head.sizes[0] ||
      head.sizes[2] != left - head.sizes[0] - head.sizes[1])
    return false;
  const char *parts = data + sizeof head;
  if (!is_text(parts, head.sizes[0]) || !is_text(parts + (left - head.sizes[2]), head.sizes[2])) return false;
  *out = (qn_nvrtc_code){.allocator = allocator};
  out->ptx = copy_part(allocator, parts, out->ptx_size = (size_t)head.sizes[0]);
  out->cubin = (uint8_t *)copy_part(allocator, parts + out->ptx_size, out->cubin_size = (size_t)head.sizes[1]);
  out->log = copy_part(allocator, parts + out->ptx_size + out->cubin_size, out->log_size = (size_t)head.sizes[2]);
  if (out->ptx && out->cubin && out->log) return true;
  qn_nvrtc_code_deinit(out);
  return false;
}

bool qn_nvrtc_entry_parse(const char *data, size_t size, const uint64_t key[2], const qn_allocator *allocator,
                          qn_nvrtc_code *out) {
  qn_kept_name name = name_of(key);
  const char *content = qn_kept_parse(&name, data, size, &size);
  return content && parse_content(content, size, allocator, out);
}

static bool read_entry(const char *path, const uint64_t key[2], const qn_allocator *allocator, qn_nvrtc_code *out) {
  qn_kept_name name = name_of(key);
  qn_kept kept;
  if (!qn_kept_read(path, &name, allocator, &kept)) return false;
  bool taken = parse_content(kept.content, kept.size, allocator, out);
  qn_kept_deinit(&kept, allocator);
  return taken;
}

// ---- writing

void qn_nvrtc_entry_print(const uint64_t key[2], const qn_nvrtc_code *code, qn_buf *out) {
  // Texts up to their first NUL: a log has another behind it.
  content_head head = {.sizes = {strlen(code->ptx) + 1, code->cubin_size, strlen(code->log) + 1}};
  qn_kept_name name = name_of(key);
  size_t begin = out->length;
  qn_kept_begin(&name, out);
  qn_buf_append(out, (const char *)&head, sizeof head);
  qn_buf_append(out, code->ptx, head.sizes[0]);
  qn_buf_append(out, (const char *)code->cubin, code->cubin_size);
  qn_buf_append(out, code->log, head.sizes[2]);
  qn_kept_finish(out, begin);
}

static void keep_entry(const char *folder, const char *path, const uint64_t key[2], const qn_nvrtc_code *code,
                       const qn_allocator *allocator) {
  qn_buf entry;
  qn_buf_init(&entry, allocator);
  qn_nvrtc_entry_print(key, code, &entry);
  qn_kept_write(folder, path, &entry);
  qn_buf_deinit(&entry);
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
