// What took a compiler long to make (NVRTC, LLVM), kept in a folder: a file an entry, whose name its maker chooses and
// whose key is the hash of all that the content depends on. It is put there by a rename, so that compilations at the
// same time do not collide; size, key and a hash of the bytes are checked before it is believed.
#ifndef QN_CODEGEN_KEPT_FILE_H
#define QN_CODEGEN_KEPT_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/alloc.h"
#include "runtime/base/str.h"

// What an entry is: 8 characters, which also say in which version of its form, and the key.
typedef struct qn_kept_name {
  char magic[8];
  uint64_t key[2];
} qn_kept_name;

typedef struct qn_kept {
  const char *content;  // in `file`
  size_t size;
  char *file;  // owned, with a NUL after it
  size_t file_size;
} qn_kept;

// False where there is no whole entry of this name, or memory runs out. Marks it as used just now.
bool qn_kept_read(const char *path, const qn_kept_name *name, const qn_allocator *allocator, qn_kept *out);
void qn_kept_deinit(qn_kept *kept, const qn_allocator *allocator);

// Writes an entry as printed. Makes the folder where it is not there. What was made is there whether it can be kept or
// not, so that no error is told.
void qn_kept_write(const char *folder, const char *path, const qn_buf *entry);

// An entry is a file that somebody else may have written. Appends its head; after its content, qn_kept_finish with
// where that began.
void qn_kept_begin(const qn_kept_name *name, qn_buf *out);
void qn_kept_finish(qn_buf *out, size_t begin);
// The content, in `data`; NULL where the bytes are no whole entry of this name.
const char *qn_kept_parse(const qn_kept_name *name, const char *data, size_t size, size_t *out_size);
// Has size and hash fit the bytes again. Harmless for bytes that are no entry.
void qn_kept_rehash(uint8_t *data, size_t size);

#endif
