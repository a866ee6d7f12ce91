// The GGUF writer. Header, metadata and tensor list are laid out first, so that offsets are known before data flows.
#include "frontend/import/gguf_write.h"

#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/vec.h"

enum { CHUNK_BYTES = 4 << 20 };  // rows asked for at a time

typedef struct pending_tensor {
  qn_str name;  // arena
  uint32_t type;
  int n_dims;
  int64_t dims[QN_GGUF_MAX_DIMS];
  size_t size_bytes, row_bytes;
  int64_t rows;
  const void *data;         // borrowed; or
  qn_gguf_rows_fn produce;  // called with
  void *context;            // borrowed
} pending_tensor;

struct qn_gguf_writer {
  const qn_allocator *allocator;  // borrowed
  qn_arena arena;                 // tensor names
  qn_buf metadata;                // the encoded pairs
  uint64_t kv_count;
  QN_VEC(pending_tensor) tensors;
  uint32_t alignment;
  bool failed;           // an allocation failed
  const char *bad_name;  // arena: a tensor whose shape does not fit its format
};

// ---- encoding ----------------------------------------------------------------------------------------------------

static void put_le(qn_buf *buf, uint64_t value, size_t count) {
  uint8_t bytes[8];
  for (size_t i = 0; i < count; i++) bytes[i] = (uint8_t)(value >> (8 * i));
  qn_buf_append(buf, bytes, count);
}

static void put_string(qn_buf *buf, qn_str text) {
  put_le(buf, text.length, 8);
  qn_buf_append(buf, text.data, text.length);
}

static void put_key(qn_gguf_writer *writer, qn_str key, uint32_t type) {
  put_string(&writer->metadata, key);
  put_le(&writer->metadata, type, 4);
  writer->kv_count++;
}

// A scalar in memory, `size` bytes in the machine's order, as little-endian.
static void put_scalar(qn_buf *buf, const void *scalar, size_t size) {
  uint8_t u8;
  uint16_t u16;
  uint32_t u32;
  uint64_t u64;
  switch (size) {
    case 1: memcpy(&u8, scalar, 1), put_le(buf, u8, 1); break;
    case 2: memcpy(&u16, scalar, 2), put_le(buf, u16, 2); break;
    case 4: memcpy(&u32, scalar, 4), put_le(buf, u32, 4); break;
    case 8: memcpy(&u64, scalar, 8), put_le(buf, u64, 8); break;
    default: break;
  }
}

// ---- collecting --------------------------------------------------------------------------------------------------

qn_gguf_writer *qn_gguf_writer_create(const qn_allocator *allocator) {
  qn_gguf_writer *writer = qn_alloc_zeroed(allocator, sizeof *writer);
  if (writer == NULL) return NULL;
  writer->allocator = allocator;
  writer->alignment = QN_GGUF_DEFAULT_ALIGNMENT;
  qn_arena_init(&writer->arena, allocator);
  qn_buf_init(&writer->metadata, allocator);
  return writer;
}

void qn_gguf_writer_destroy(qn_gguf_writer *writer) {
  if (writer == NULL) return;
  qn_vec_free(writer->allocator, &writer->tensors);
  qn_buf_deinit(&writer->metadata);
  qn_arena_deinit(&writer->arena);
  qn_free(writer->allocator, writer, sizeof *writer);
}

void qn_gguf_writer_set_alignment(qn_gguf_writer *writer, uint32_t alignment) {
  writer->alignment = alignment;
  qn_gguf_writer_add_u32(writer, "general.alignment", alignment);
}

void qn_gguf_writer_add_int(qn_gguf_writer *writer, const char *key, qn_gguf_value_type type, int64_t value) {
  put_key(writer, qn_str_from(key), type);
  put_le(&writer->metadata, (uint64_t)value, qn_gguf_value_type_size(type));
}

void qn_gguf_writer_add_u32(qn_gguf_writer *writer, const char *key, uint32_t value) {
  qn_gguf_writer_add_int(writer, key, QN_GGUF_U32, value);
}

void qn_gguf_writer_add_f32(qn_gguf_writer *writer, const char *key, float value) {
  put_key(writer, qn_str_from(key), QN_GGUF_F32);
  put_scalar(&writer->metadata, &value, sizeof value);
}

void qn_gguf_writer_add_f64(qn_gguf_writer *writer, const char *key, double value) {
  put_key(writer, qn_str_from(key), QN_GGUF_F64);
  put_scalar(&writer->metadata, &value, sizeof value);
}

void qn_gguf_writer_add_bool(qn_gguf_writer *writer, const char *key, bool value) {
  put_key(writer, qn_str_from(key), QN_GGUF_BOOL);
  put_le(&writer->metadata, value, 1);
}

void qn_gguf_writer_add_text(qn_gguf_writer *writer, const char *key, const char *value) {
  qn_gguf_writer_add_string(writer, key, qn_str_from(value));
}

void qn_gguf_writer_add_string(qn_gguf_writer *writer, const char *key, qn_str value) {
  put_key(writer, qn_str_from(key), QN_GGUF_STRING);
  put_string(&writer->metadata, value);
}

void qn_gguf_writer_add_array(qn_gguf_writer *writer, const char *key, qn_gguf_value_type item_type, const void *items,
                              uint64_t count) {
  size_t item_bytes = qn_gguf_value_type_size(item_type);
  put_key(writer, qn_str_from(key), QN_GGUF_ARRAY);
  put_le(&writer->metadata, item_type, 4);
  put_le(&writer->metadata, count, 8);
  for (uint64_t i = 0; i < count; i++) {
    put_scalar(&writer->metadata, (const uint8_t *)items + i * item_bytes, item_bytes);
  }
}

void qn_gguf_writer_add_strings(qn_gguf_writer *writer, const char *key, const qn_str *items, uint64_t count) {
  put_key(writer, qn_str_from(key), QN_GGUF_ARRAY);
  put_le(&writer->metadata, QN_GGUF_STRING, 4);
  put_le(&writer->metadata, count, 8);
  for (uint64_t i = 0; i < count; i++) put_string(&writer->metadata, items[i]);
}

void qn_gguf_writer_add_raw(qn_gguf_writer *writer, qn_str key, uint32_t type, const void *bytes, size_t size_bytes) {
  put_key(writer, key, type);
  qn_buf_append(&writer->metadata, bytes, size_bytes);
}

static void add_tensor(qn_gguf_writer *writer, pending_tensor tensor, int n_dims, const int64_t *dims) {
  char *name = qn_arena_strndup(&writer->arena, tensor.name.data, tensor.name.length);
  tensor.name.data = name;
  tensor.n_dims = n_dims;
  for (int i = 0; i < n_dims && i < QN_GGUF_MAX_DIMS; i++) tensor.dims[i] = dims[i];
  if (name == NULL || !qn_vec_push(writer->allocator, &writer->tensors, tensor)) writer->failed = true;
}

void qn_gguf_writer_add_tensor(qn_gguf_writer *writer, qn_str name, uint32_t type, int n_dims, const int64_t *dims,
                               const void *data, size_t size_bytes) {
  pending_tensor tensor = {.name = name, .type = type, .size_bytes = size_bytes, .data = data};
  add_tensor(writer, tensor, n_dims, dims);
}

void qn_gguf_writer_add_tensor_rows(qn_gguf_writer *writer, const char *name, const qn_format *format, int n_dims,
                                    const int64_t *dims, qn_gguf_rows_fn rows, void *context) {
  pending_tensor tensor = {
      .name = qn_str_from(name), .type = format->gguf_type, .rows = 1, .produce = rows, .context = context};
  bool fits = true;
  for (int i = 1; i < n_dims; i++) fits = fits && !__builtin_mul_overflow(tensor.rows, dims[i], &tensor.rows);
  fits = fits && qn_format_file_bytes(format, 1, dims[0], &tensor.row_bytes) &&
         qn_format_file_bytes(format, tensor.rows, dims[0], &tensor.size_bytes);
  if (!fits && writer->bad_name == NULL) {
    writer->bad_name = qn_arena_strdup(&writer->arena, name);
    if (writer->bad_name == NULL) writer->failed = true;
  }
  add_tensor(writer, tensor, n_dims, dims);
}

// ---- writing -----------------------------------------------------------------------------------------------------

// Where bytes go: a file, or a buffer.
typedef struct sink {
  qn_file_writer *file;  // borrowed; or
  qn_buf *buf;           // borrowed
  const char *name;      // for messages
  qn_diag *diag;
} sink;

static qn_status sink_write(sink *to, const void *data, size_t size) {
  if (to->file != NULL) return qn_file_writer_write(to->file, data, size);
  qn_buf_append(to->buf, data, size);
  return to->buf->failed ? qn_fail_nomem(to->diag, to->name, "the file's contents") : QN_OK;
}

static qn_status sink_pad(sink *to, uint64_t size, uint32_t alignment) {
  static const uint8_t zeros[256];
  uint64_t left = alignment == 0 ? 0 : (alignment - size % alignment) % alignment;
  while (left > 0) {
    size_t step = left < sizeof zeros ? (size_t)left : sizeof zeros;
    QN_TRY(sink_write(to, zeros, step));
    left -= step;
  }
  return QN_OK;
}

// Header, metadata and the list of tensors.
static void encode_front(const qn_gguf_writer *writer, qn_buf *out) {
  uint64_t offset = 0;
  qn_buf_append(out, "GGUF", 4);
  put_le(out, 3, 4);
  put_le(out, writer->tensors.count, 8);
  put_le(out, writer->kv_count, 8);
  qn_buf_append(out, writer->metadata.data, writer->metadata.length);
  for (size_t i = 0; i < writer->tensors.count; i++) {
    const pending_tensor *tensor = &writer->tensors.items[i];
    put_string(out, tensor->name);
    put_le(out, (uint64_t)(uint32_t)tensor->n_dims, 4);
    for (int d = 0; d < tensor->n_dims && d < QN_GGUF_MAX_DIMS; d++) put_le(out, (uint64_t)tensor->dims[d], 8);
    put_le(out, tensor->type, 4);
    put_le(out, offset, 8);
    offset += tensor->size_bytes;
    if (writer->alignment != 0) offset += (writer->alignment - offset % writer->alignment) % writer->alignment;
  }
}

// `chunk` has room for chunk_rows rows.
static qn_status write_rows(const pending_tensor *tensor, sink *to, void *chunk, int64_t chunk_rows) {
  for (int64_t row = 0; row < tensor->rows; row += chunk_rows) {
    int64_t end = tensor->rows - row < chunk_rows ? tensor->rows : row + chunk_rows;
    QN_TRY(tensor->produce(tensor->context, row, end, chunk));
    QN_TRY(sink_write(to, chunk, (size_t)(end - row) * tensor->row_bytes));
  }
  return QN_OK;
}

static qn_status write_data(const qn_gguf_writer *writer, sink *to) {
  for (size_t i = 0; i < writer->tensors.count; i++) {
    const pending_tensor *tensor = &writer->tensors.items[i];
    if (tensor->produce == NULL) {
      QN_TRY(sink_write(to, tensor->data, tensor->size_bytes));
    } else if (tensor->size_bytes > 0) {
      size_t chunk_rows = tensor->row_bytes >= CHUNK_BYTES ? 1 : CHUNK_BYTES / tensor->row_bytes;
      if (chunk_rows > (size_t)tensor->rows) chunk_rows = (size_t)tensor->rows;
      size_t chunk_bytes = chunk_rows * tensor->row_bytes;
      void *chunk = qn_alloc(writer->allocator, chunk_bytes);
      if (chunk == NULL) return qn_fail_nomem(to->diag, to->name, "rows to be written");
      qn_status status = write_rows(tensor, to, chunk, (int64_t)chunk_rows);
      qn_free(writer->allocator, chunk, chunk_bytes);
      QN_TRY(status);
    }
    QN_TRY(sink_pad(to, tensor->size_bytes, writer->alignment));
  }
  return QN_OK;
}

static qn_status write_all(const qn_gguf_writer *writer, sink *to) {
  if (writer->failed || writer->metadata.failed) return qn_fail_nomem(to->diag, to->name, "the metadata");
  if (writer->bad_name != NULL) {
    return qn_fail(to->diag, QN_ERR_ARGUMENT, to->name,
                   "tensor '%s': its rows are no whole number of blocks, or its "
                   "size overflows",
                   writer->bad_name);
  }
  qn_buf front;
  qn_buf_init(&front, writer->allocator);
  encode_front(writer, &front);
  uint64_t size = front.length;
  qn_status status =
      front.failed ? qn_fail_nomem(to->diag, to->name, "the metadata") : sink_write(to, front.data, front.length);
  qn_buf_deinit(&front);
  QN_TRY(status);
  QN_TRY(sink_pad(to, size, writer->alignment));
  return write_data(writer, to);
}

qn_status qn_gguf_writer_save(const qn_gguf_writer *writer, const char *path, qn_diag *diag) {
  qn_file_writer file;
  QN_TRY(qn_file_writer_open(&file, path, diag));
  sink to = {.file = &file, .name = path, .diag = diag};
  qn_status status = write_all(writer, &to);
  if (status == QN_OK) status = qn_file_writer_commit(&file);
  qn_file_writer_abandon(&file);
  return status;
}

qn_status qn_gguf_writer_save_memory(const qn_gguf_writer *writer, uint8_t **out_data, size_t *out_size,
                                     qn_diag *diag) {
  qn_buf buf;
  qn_buf_init(&buf, writer->allocator);
  sink to = {.buf = &buf, .name = "GGUF in memory", .diag = diag};
  qn_status status = write_all(writer, &to);
  *out_data = NULL;
  *out_size = 0;
  if (status == QN_OK) {
    *out_data = qn_alloc(writer->allocator, buf.length);
    *out_size = buf.length;
    if (*out_data == NULL) {
      status = qn_fail_nomem(diag, to.name, "the file's contents");
    } else {
      memcpy(*out_data, buf.data, buf.length);
    }
  }
  qn_buf_deinit(&buf);
  return status;
}
