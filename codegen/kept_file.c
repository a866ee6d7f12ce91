// Entries of folders in which compilers' results are kept.
#include "codegen/kept_file.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/file.h"
#include "runtime/base/hash.h"

#define ENTRY_MAX ((size_t)1 << 30)

typedef struct entry_head {
  qn_kept_name name;
  uint64_t size, hash;  // of the content, which follows
} entry_head;

static entry_head head_of(const qn_kept_name *name, const void *content, size_t size) {
  return (entry_head){.name = *name, .size = size, .hash = qn_hash64(content, size, 0)};
}

const char *qn_kept_parse(const qn_kept_name *name, const char *data, size_t size, size_t *out_size) {
  entry_head head;
  if (size < sizeof head) return NULL;
  memcpy(&head, data, sizeof head);
  entry_head want = head_of(name, data + sizeof head, size - sizeof head);
  *out_size = size - sizeof head;
  return memcmp(&head, &want, sizeof head) == 0 ? data + sizeof head : NULL;
}

void qn_kept_begin(const qn_kept_name *name, qn_buf *out) {
  entry_head head = {.name = *name};
  qn_buf_append(out, &head, sizeof head);
}

void qn_kept_finish(qn_buf *out, size_t begin) {
  if (!out->failed) qn_kept_rehash((uint8_t *)out->data + begin, out->length - begin);
}

void qn_kept_rehash(uint8_t *data, size_t size) {
  entry_head head;
  if (size < sizeof head) return;
  memcpy(&head, data, sizeof head);
  head = head_of(&head.name, data + sizeof head, size - sizeof head);
  memcpy(data, &head, sizeof head);
}

bool qn_kept_read(const char *path, const qn_kept_name *name, const qn_allocator *allocator, qn_kept *out) {
  qn_diag unused = {0};
  *out = (qn_kept){0};
  if (qn_file_read(path, ENTRY_MAX, allocator, &out->file, &out->file_size, &unused) != QN_OK) return false;
  out->content = qn_kept_parse(name, out->file, out->file_size, &out->size);
  if (!out->content) {
    qn_kept_deinit(out, allocator);
    return false;
  }
  utimensat(AT_FDCWD, path, NULL, 0);
  return true;
}

void qn_kept_deinit(qn_kept *kept, const qn_allocator *allocator) {
  if (kept->file) qn_free(allocator, kept->file, kept->file_size + 1);
  *kept = (qn_kept){0};
}

static qn_status write_entry(const char *path, const qn_buf *entry, qn_diag *diag) {
  qn_file_writer writer;
  QN_TRY(qn_file_writer_open(&writer, path, diag));
  qn_status status = qn_file_writer_write(&writer, entry->data, entry->length);
  if (status == QN_OK) status = qn_file_writer_commit(&writer);
  qn_file_writer_abandon(&writer);
  return status;
}

void qn_kept_write(const char *folder, const char *path, const qn_buf *entry) {
  qn_diag unused = {0};
  if (entry->failed || qn_make_directories(folder, &unused) != QN_OK) return;
  qn_status kept = write_entry(path, entry, &unused);
  (void)kept;
}
