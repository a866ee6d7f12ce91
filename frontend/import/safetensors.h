// Reads safetensors files: single ones, and the shards that an index lists. The files are hostile until checked: opening
// checks every length, offset, type and shape in them, so that whatever is handed out afterwards lies inside a file.
// Tensors are views into the mappings; nothing of the files' bulk is copied.
#ifndef QN_IMPORT_SAFETENSORS_H
#define QN_IMPORT_SAFETENSORS_H

#include "frontend/import/stored.h"
#include "runtime/base/arena.h"
#include "runtime/base/diag.h"

#define QN_SAFETENSORS_HEADER_MAX ((uint64_t)100 << 20)  // bytes; the format's own limit
#define QN_SAFETENSORS_MAX_DIMS   8

typedef struct qn_safetensors_tensor {
  const char *name;      // arena
  const char *file;      // arena: the file that it is in, for messages
  qn_stored_dtype dtype;
  int rank;              // 0 to QN_SAFETENSORS_MAX_DIMS
  int64_t dims[QN_SAFETENSORS_MAX_DIMS];  // row-major
  uint64_t count;        // elements: the product of the dims
  const uint8_t *data;   // borrowed from the file; of any alignment
  uint64_t size_bytes;
  uint64_t offset;       // of the data in the file
} qn_safetensors_tensor;

// Open files. Fields are for reading only.
typedef struct qn_safetensors {
  const char *name;  // for messages: the path it was opened from
  size_t file_count;
  uint64_t file_bytes;  // of all files
  size_t tensor_count;
  const qn_safetensors_tensor *tensors;  // in the order of the headers
} qn_safetensors;

// Maps and checks a file. On success *out is owned by the caller, to be closed; on failure it is NULL. Errors: IO
// (cannot be mapped), FORMAT (corrupt; the text names the file and the tensor), UNSUPPORTED (an element type or a rank
// that quern does not know), LIMIT, NOMEM.
QN_CHECKED qn_status qn_safetensors_open(qn_safetensors **out, const char *path, const qn_allocator *allocator,
                                         qn_diag *diag);
// The same for all files of a model.safetensors.index.json, which are beside it. FORMAT also when a shard is missing,
// when a tensor is in two shards, and when the index and the shards do not agree.
QN_CHECKED qn_status qn_safetensors_open_index(qn_safetensors **out, const char *path, const qn_allocator *allocator,
                                               qn_diag *diag);
// One file's bytes, which stay the caller's and must outlive *out.
QN_CHECKED qn_status qn_safetensors_open_memory(qn_safetensors **out, const void *data, size_t size, const char *name,
                                                const qn_allocator *allocator, qn_diag *diag);
// IO when a file lost bytes since it was opened: what was read of it meanwhile is worth nothing.
QN_CHECKED qn_status qn_safetensors_check(const qn_safetensors *files, qn_diag *diag);
void qn_safetensors_close(qn_safetensors *files);  // NULL is harmless

const qn_safetensors_tensor *qn_safetensors_find(const qn_safetensors *files, const char *name);  // NULL = none

#endif
