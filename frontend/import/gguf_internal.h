// What gguf.c (parsing) and gguf_value.c (getters) share; no other file includes it.
#ifndef QN_IMPORT_GGUF_INTERNAL_H
#define QN_IMPORT_GGUF_INTERNAL_H

#include "frontend/import/gguf.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/map.h"

// What stands behind a qn_gguf.
typedef struct qn_gguf_file {
  qn_gguf base;                   // first: qn_gguf_file_of casts
  const qn_allocator *allocator;  // borrowed
  qn_mapping mapping;             // owned; data NULL for a file in memory
  const uint8_t *data;            // borrowed: the whole file, base.file_bytes long
  qn_arena arena;                 // owns kvs, tensors, name and what the array getters hand out
  qn_map kv_index, tensor_index;  // name → position in base.kvs / base.tensors
  int64_t part;                   // of a split model: which it is, from 0
  qn_gguf **others;               // owned: its other parts, base.part_count - 1 of them; arena
} qn_gguf_file;

// Opens a file as one part of a model (gguf.c); opens the other parts and adds their tensors (gguf_split.c).
QN_CHECKED qn_status qn_gguf_open_part(qn_gguf **out, const char *path, const qn_allocator *allocator, qn_diag *diag);
QN_CHECKED qn_status qn_gguf_join_parts(qn_gguf_file *first, qn_diag *diag);

static inline qn_gguf_file *qn_gguf_file_of(const qn_gguf *gguf) { return (qn_gguf_file *)(uintptr_t)gguf; }

static inline uint64_t qn_gguf_load_le(const uint8_t *bytes, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; i++) value |= (uint64_t)bytes[i] << (8 * i);
  return value;
}

// Writes the place an error names: "model.gguf: key 'llama.block_count' (byte 123)". kind NULL leaves the name out,
// with_byte false the byte. Bytes of the name that are not printable ASCII are escaped; long ones are cut.
enum { QN_GGUF_PLACE_BYTES = 512 };
void qn_gguf_place(const char *file_name, const char *kind, qn_str name, bool with_byte, uint64_t byte,
                   char out[QN_GGUF_PLACE_BYTES]);

#endif
