// Writes GGUF files (version 3, little-endian): what tools and tests build models with. Metadata is collected in
// memory; tensor data is borrowed or asked for row by row, so that a model of any size passes through a small buffer.
#ifndef QN_IMPORT_GGUF_WRITE_H
#define QN_IMPORT_GGUF_WRITE_H

#include "frontend/import/gguf.h"

typedef struct qn_gguf_writer qn_gguf_writer;

// Writes rows [row_begin, row_end) of a tensor, in the file's layout, to `out` (row_end - row_begin rows of row_bytes).
// Called in order of rows. An error other than QN_OK ends the writing.
typedef qn_status (*qn_gguf_rows_fn)(void *context, int64_t row_begin, int64_t row_end, void *out);

// NULL when out of memory. The allocator is borrowed.
qn_gguf_writer *qn_gguf_writer_create(const qn_allocator *allocator);
void qn_gguf_writer_destroy(qn_gguf_writer *writer);  // NULL is harmless

// Alignment of tensor data; adds general.alignment. A power of two of at least 8 (not checked: tests write others).
void qn_gguf_writer_set_alignment(qn_gguf_writer *writer, uint32_t alignment);

// Metadata, in the order of the calls. A failed allocation is remembered and reported when the file is written.
void qn_gguf_writer_add_u32(qn_gguf_writer *writer, const char *key, uint32_t value);
void qn_gguf_writer_add_f32(qn_gguf_writer *writer, const char *key, float value);
void qn_gguf_writer_add_f64(qn_gguf_writer *writer, const char *key, double value);
void qn_gguf_writer_add_bool(qn_gguf_writer *writer, const char *key, bool value);
void qn_gguf_writer_add_text(qn_gguf_writer *writer, const char *key, const char *value);
void qn_gguf_writer_add_string(qn_gguf_writer *writer, const char *key, qn_str value);
// Any of the eight integer types; the value's low bytes are written.
void qn_gguf_writer_add_int(qn_gguf_writer *writer, const char *key, qn_gguf_value_type type, int64_t value);
// `count` scalars of type `item_type`, as C holds them in an array.
void qn_gguf_writer_add_array(qn_gguf_writer *writer, const char *key, qn_gguf_value_type item_type, const void *items,
                              uint64_t count);
void qn_gguf_writer_add_strings(qn_gguf_writer *writer, const char *key, const qn_str *items, uint64_t count);
// A value of any type whose bytes the caller has encoded: nested arrays, and what tests want wrong.
void qn_gguf_writer_add_raw(qn_gguf_writer *writer, qn_str key, uint32_t type, const void *bytes, size_t size_bytes);

// A tensor: dims[0] varies fastest (row-major rows of dims[0] values). `data` is borrowed until the file is written:
// size_bytes in the file's layout. The name is copied. Nothing is checked against the type: tests write wrong ones.
void qn_gguf_writer_add_tensor(qn_gguf_writer *writer, qn_str name, uint32_t type, int n_dims, const int64_t *dims,
                               const void *data, size_t size_bytes);
// The same with data from a callback: product(dims) / dims[0] rows. `context` is borrowed until the file is written.
// A dims[0] that is no multiple of the format's block is reported when the file is written.
void qn_gguf_writer_add_tensor_rows(qn_gguf_writer *writer, const char *name, const qn_format *format, int n_dims,
                                    const int64_t *dims, qn_gguf_rows_fn rows, void *context);

// Writes the file, which appears whole or not at all. The writer stays usable.
QN_CHECKED qn_status qn_gguf_writer_save(const qn_gguf_writer *writer, const char *path, qn_diag *diag);
// The same into memory from the writer's allocator: *out_data is the caller's, to be freed with size *out_size.
QN_CHECKED qn_status qn_gguf_writer_save_memory(const qn_gguf_writer *writer, uint8_t **out_data, size_t *out_size,
                                                qn_diag *diag);

#endif
