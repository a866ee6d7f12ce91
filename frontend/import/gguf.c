// Parses and checks GGUF files. One pass over header, metadata and tensor list; nothing is allocated before the count
// it depends on has been checked against the bytes that are left. The getters are in gguf_value.c.
#include "frontend/import/gguf.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "frontend/import/gguf_internal.h"
#include "runtime/base/file.h"

// The fewest bytes a metadata pair (length, one key byte, type, one value byte) and a tensor's entry (length, one name
// byte, n_dims, one dimension, type, offset) take: what bounds the counts in the header.
enum { HEADER_BYTES = 24, MIN_KV_BYTES = 8 + 1 + 4 + 1, MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8 };

// ---- the reader --------------------------------------------------------------------------------------------------

// Walks `size` bytes. Errors name the entry being read, once its key or name is known, and the byte.
typedef struct reader {
  const char *file_name;
  const uint8_t *data;
  uint64_t size, at;  // at <= size
  uint64_t base;      // offset of data[0] in the file, for messages
  const char *kind;   // "key", "tensor", or NULL while no entry is known by name
  qn_str name;
  qn_diag *diag;
} reader;

__attribute__((format(printf, 4, 5))) static qn_status fail_at(const reader *r, uint64_t at, qn_status status,
                                                               const char *format, ...) {
  if (r->diag == NULL) return status;
  char where[QN_GGUF_PLACE_BYTES], message[512];
  qn_gguf_place(r->file_name, r->kind, r->name, true, r->base + at, where);
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  return qn_fail(r->diag, status, where, "%s", message);
}

// Takes `count` bytes; `what` completes "the file ends inside ...".
static qn_status take(reader *r, uint64_t count, const char *what, const uint8_t **out) {
  uint64_t left = r->size - r->at;
  *out = r->data + r->at;
  if (count > left) {
    return fail_at(r, r->at, QN_ERR_FORMAT, "the file ends inside %s; got %" PRIu64 " bytes, want %" PRIu64, what, left,
                   count);
  }
  r->at += count;
  return QN_OK;
}

static qn_status take_u32(reader *r, const char *what, uint32_t *out) {
  const uint8_t *bytes;
  QN_TRY(take(r, 4, what, &bytes));
  *out = (uint32_t)qn_gguf_load_le(bytes, 4);
  return QN_OK;
}

static qn_status take_u64(reader *r, const char *what, uint64_t *out) {
  const uint8_t *bytes;
  QN_TRY(take(r, 8, what, &bytes));
  *out = qn_gguf_load_le(bytes, 8);
  return QN_OK;
}

static qn_status take_string(reader *r, const char *what, qn_str *out) {
  uint64_t length;
  const uint8_t *bytes;
  QN_TRY(take_u64(r, what, &length));
  QN_TRY(take(r, length, what, &bytes));
  *out = (qn_str){(const char *)bytes, (size_t)length};
  return QN_OK;
}

static qn_status check_bools(const reader *r, const qn_gguf_value *value) {
  for (uint64_t i = 0; i < value->size_bytes; i++) {
    if (value->data[i] > 1) {
      return fail_at(r, value->offset + i - r->base, QN_ERR_FORMAT, "a bool has the value %u, want 0 or 1",
                     (unsigned)value->data[i]);
    }
  }
  return QN_OK;
}

static qn_status read_value(reader *r, uint32_t type, int depth, qn_gguf_value *out);

static qn_status read_array(reader *r, int depth, qn_gguf_value *out) {
  uint64_t start = r->at;
  uint32_t item_type;
  uint64_t count;
  if (depth >= QN_GGUF_MAX_ARRAY_DEPTH) {
    return fail_at(r, start, QN_ERR_FORMAT, "arrays are nested deeper than %d levels", QN_GGUF_MAX_ARRAY_DEPTH);
  }
  QN_TRY(take_u32(r, "an array", &item_type));
  if (item_type >= QN_GGUF_VALUE_TYPE_COUNT) {
    return fail_at(r, start, QN_ERR_FORMAT, "the array's item type is %" PRIu32 ", want 0 to %d", item_type,
                   QN_GGUF_VALUE_TYPE_COUNT - 1);
  }
  QN_TRY(take_u64(r, "an array", &count));
  uint64_t first = r->at, item_bytes = qn_gguf_value_type_size(item_type);
  uint64_t least = item_bytes != 0 ? item_bytes : item_type == QN_GGUF_STRING ? 8 : 12;
  if (count > (r->size - first) / least) {
    return fail_at(r, first - 8, QN_ERR_FORMAT,
                   "an array claims %" PRIu64 " items of type %s, want at most %" PRIu64 " in the %" PRIu64
                   " bytes that are left",
                   count, qn_gguf_value_type_name(item_type), (r->size - first) / least, r->size - first);
  }
  if (item_bytes != 0) {
    r->at += count * item_bytes;
  } else {
    for (uint64_t i = 0; i < count; i++) {
      qn_gguf_value item;
      QN_TRY(read_value(r, item_type, depth + 1, &item));
    }
  }
  *out = (qn_gguf_value){.type = QN_GGUF_ARRAY,
                         .item_type = (qn_gguf_value_type)item_type,
                         .data = r->data + first,
                         .size_bytes = r->at - first,
                         .count = count,
                         .offset = r->base + first};
  return item_type == QN_GGUF_BOOL ? check_bools(r, out) : QN_OK;
}

// Reads and checks one value, whatever it holds. `depth` counts the arrays around it.
static qn_status read_value(reader *r, uint32_t type, int depth, qn_gguf_value *out) {
  if (type == QN_GGUF_ARRAY) return read_array(r, depth, out);
  if (type == QN_GGUF_STRING) {
    qn_str text;
    QN_TRY(take_string(r, "a string", &text));
    *out = (qn_gguf_value){.type = QN_GGUF_STRING,
                           .data = (const uint8_t *)text.data,
                           .size_bytes = text.length,
                           .count = text.length,
                           .offset = r->base + r->at - text.length};
    return QN_OK;
  }
  size_t size = qn_gguf_value_type_size(type);
  if (size == 0) {
    return fail_at(r, r->at, QN_ERR_FORMAT, "the value's type is %" PRIu32 ", want 0 to %d", type,
                   QN_GGUF_VALUE_TYPE_COUNT - 1);
  }
  const uint8_t *bytes;
  QN_TRY(take(r, size, "a value", &bytes));
  *out = (qn_gguf_value){.type = (qn_gguf_value_type)type,
                         .data = bytes,
                         .size_bytes = size,
                         .count = 1,
                         .offset = r->base + r->at - size};
  return type == QN_GGUF_BOOL ? check_bools(r, out) : QN_OK;
}

qn_gguf_cursor qn_gguf_items(const qn_gguf_value *array) {
  qn_gguf_cursor cursor = {.array = *array};
  if (array->type != QN_GGUF_ARRAY) cursor.array.count = 0;
  return cursor;
}

bool qn_gguf_next(qn_gguf_cursor *cursor, qn_gguf_value *out) {
  const qn_gguf_value *array = &cursor->array;
  if (cursor->index >= array->count) return false;
  reader r = {.data = array->data, .size = array->size_bytes, .at = cursor->at, .base = array->offset};
  if (read_value(&r, array->item_type, 0, out) != QN_OK) return false;
  cursor->at = r.at;
  cursor->index++;
  return true;
}

// ---- the sections of the file ------------------------------------------------------------------------------------

static qn_status read_header(reader *r, qn_gguf *gguf) {
  static const uint8_t magic[4] = {'G', 'G', 'U', 'F'};
  const uint8_t *bytes;
  uint32_t version;
  uint64_t tensor_count, kv_count;
  QN_TRY(take(r, 4, "the magic number", &bytes));
  if (memcmp(bytes, magic, 4) != 0) {
    return fail_at(r, 0, QN_ERR_FORMAT, "not a GGUF file; got %02x %02x %02x %02x, want 47 47 55 46 (\"GGUF\")",
                   bytes[0], bytes[1], bytes[2], bytes[3]);
  }
  QN_TRY(take_u32(r, "the version", &version));
  if (version != 0 && (version & 0xffff) == 0) {
    return fail_at(r, 4, QN_ERR_UNSUPPORTED, "a big-endian GGUF file is not supported; want a little-endian one");
  }
  if (version != 2 && version != 3) {
    return fail_at(r, 4, QN_ERR_UNSUPPORTED, "GGUF version %" PRIu32 " is not supported; want version 2 or 3%s",
                   version, version == 1 ? " (convert the model again with a current converter)" : "");
  }
  QN_TRY(take_u64(r, "the header", &tensor_count));
  QN_TRY(take_u64(r, "the header", &kv_count));
  uint64_t left = r->size - r->at;
  if (tensor_count > left / MIN_TENSOR_BYTES) {
    return fail_at(r, 8, QN_ERR_FORMAT,
                   "the header claims %" PRIu64 " tensors, want at most %" PRIu64 " in a file of %" PRIu64 " bytes",
                   tensor_count, left / MIN_TENSOR_BYTES, r->size);
  }
  if (kv_count > left / MIN_KV_BYTES) {
    return fail_at(r, 16, QN_ERR_FORMAT,
                   "the header claims %" PRIu64 " metadata keys, want at most %" PRIu64 " in a file of %" PRIu64
                   " bytes",
                   kv_count, left / MIN_KV_BYTES, r->size);
  }
  gguf->version = version;
  gguf->tensor_count = (size_t)tensor_count;
  gguf->kv_count = (size_t)kv_count;
  return QN_OK;
}

// Reads one key or tensor name, 1 to max_bytes long, and makes it the place that errors name.
static qn_status read_name(reader *r, const char *kind, uint64_t max_bytes, qn_str *out) {
  uint64_t start = r->at, length;
  const uint8_t *bytes;
  bool is_key = kind[0] == 'k';
  const char *what = is_key ? "a metadata key" : "a tensor's name";
  r->kind = NULL;
  QN_TRY(take_u64(r, what, &length));
  if (length == 0 || length > max_bytes) {
    return fail_at(r, start, QN_ERR_FORMAT, "%s is %" PRIu64 " bytes long, want 1 to %" PRIu64, what, length,
                   max_bytes);
  }
  QN_TRY(take(r, length, what, &bytes));
  *out = (qn_str){(const char *)bytes, (size_t)length};
  r->kind = kind;
  r->name = *out;
  return QN_OK;
}

static qn_status read_kvs(reader *r, qn_gguf_file *file) {
  qn_gguf *gguf = &file->base;
  gguf->kvs = QN_ARENA_ARRAY(&file->arena, gguf->kv_count, qn_gguf_kv);
  if (gguf->kvs == NULL) return qn_fail_nomem(r->diag, r->file_name, "the metadata keys");
  for (size_t i = 0; i < gguf->kv_count; i++) {
    qn_gguf_kv *kv = &gguf->kvs[i];
    uint64_t start = r->at, other;
    uint32_t type;
    QN_TRY(read_name(r, "key", QN_GGUF_MAX_KEY_BYTES, &kv->key));
    if (qn_map_get(&file->kv_index, kv->key, &other)) {
      return fail_at(r, start, QN_ERR_FORMAT,
                     "the key occurs twice; it is metadata key %" PRIu64 " and %zu of the file", other + 1, i + 1);
    }
    if (!qn_map_put(&file->kv_index, kv->key, i)) return qn_fail_nomem(r->diag, r->file_name, "the index of keys");
    QN_TRY(take_u32(r, "a value's type", &type));
    if (type >= QN_GGUF_VALUE_TYPE_COUNT) r->at -= 4;  // read_value refuses it: let it name the type's own byte
    QN_TRY(read_value(r, type, 0, &kv->value));
  }
  r->kind = NULL;
  return QN_OK;
}

// Of a split model: how many parts there are, and which this is.
static qn_status read_split_keys(qn_gguf_file *file, qn_diag *diag) {
  qn_gguf *gguf = &file->base;
  int64_t parts = 1;
  if (qn_gguf_find(gguf, "split.count")) QN_TRY(qn_gguf_get_int(gguf, "split.count", 0, 65535, &parts, diag));
  gguf->part_count = parts > 1 ? (size_t)parts : 1;
  if (parts <= 1) return QN_OK;
  return qn_gguf_get_int(gguf, "split.no", 0, parts - 1, &file->part, diag);
}

// Keys that say how to read the rest of the file.
static qn_status read_layout_keys(qn_gguf *gguf, qn_diag *diag) {
  int64_t alignment = QN_GGUF_DEFAULT_ALIGNMENT;
  const qn_gguf_kv *kv = qn_gguf_find(gguf, "general.alignment");
  char where[QN_GGUF_PLACE_BYTES];
  if (kv != NULL) {
    QN_TRY(qn_gguf_get_int(gguf, "general.alignment", 0, UINT32_MAX, &alignment, diag));
    if (alignment < 8 || (alignment & (alignment - 1)) != 0) {
      qn_gguf_place(gguf->name, "key", kv->key, true, kv->value.offset, where);
      return qn_fail(diag, QN_ERR_FORMAT, where, "got %" PRId64 ", want a power of two of at least 8", alignment);
    }
  }
  gguf->alignment = (uint32_t)alignment;
  return QN_OK;
}

// Dimensions and type of a tensor whose name was read; fills dims, n_dims, type.
static qn_status read_shape(reader *r, qn_gguf_tensor *tensor) {
  uint64_t start = r->at;
  uint32_t n_dims;
  QN_TRY(take_u32(r, "a tensor's shape", &n_dims));
  if (n_dims < 1 || n_dims > QN_GGUF_MAX_DIMS) {
    return fail_at(r, start, QN_ERR_FORMAT, "the tensor has %" PRIu32 " dimensions, want 1 to %d", n_dims,
                   QN_GGUF_MAX_DIMS);
  }
  int64_t elements = 1;
  tensor->n_dims = (int)n_dims;
  for (int i = 0; i < QN_GGUF_MAX_DIMS; i++) tensor->dims[i] = 1;
  for (int i = 0; i < tensor->n_dims; i++) {
    uint64_t dim;
    start = r->at;
    QN_TRY(take_u64(r, "a tensor's shape", &dim));
    if (dim == 0 || dim > INT64_MAX) {
      return fail_at(r, start, QN_ERR_FORMAT, "dimension %d is %" PRIu64 ", want 1 to %" PRId64, i, dim, INT64_MAX);
    }
    tensor->dims[i] = (int64_t)dim;
    if (__builtin_mul_overflow(elements, tensor->dims[i], &elements)) {
      return fail_at(r, start, QN_ERR_FORMAT, "the tensor has more than %" PRId64 " elements", INT64_MAX);
    }
  }
  return take_u32(r, "a tensor's type", &tensor->type);
}

// Reads where a tensor's data lies, relative to the data section, into tensor->offset, and computes its size.
static qn_status read_extent(reader *r, const qn_gguf *gguf, qn_gguf_tensor *tensor) {
  uint64_t start = r->at;
  QN_TRY(take_u64(r, "a tensor's offset", &tensor->offset));
  if (tensor->offset % gguf->alignment != 0) {
    return fail_at(r, start, QN_ERR_FORMAT, "the data offset is %" PRIu64 ", want a multiple of the alignment %" PRIu32,
                   tensor->offset, gguf->alignment);
  }
  const qn_format *format = qn_format_of_gguf(tensor->type);
  if (format == NULL) return QN_OK;  // refused by qn_gguf_tensor_view, when somebody wants it
  if (tensor->dims[0] % format->block_values != 0) {
    return fail_at(r, start, QN_ERR_FORMAT,
                   "dimension 0 is %" PRId64 ", want a multiple of %" PRIu32 ", the block of type %s", tensor->dims[0],
                   format->block_values, format->name);
  }
  size_t size;
  int64_t rows = tensor->dims[1] * tensor->dims[2] * tensor->dims[3];  // read_shape saw that it does not overflow
  if (!qn_format_file_bytes(format, rows, tensor->dims[0], &size)) {
    return fail_at(r, start, QN_ERR_FORMAT, "the tensor's size in bytes overflows");
  }
  tensor->size_bytes = size;
  return QN_OK;
}

static qn_status read_tensors(reader *r, qn_gguf_file *file) {
  qn_gguf *gguf = &file->base;
  gguf->tensors = QN_ARENA_ARRAY(&file->arena, gguf->tensor_count, qn_gguf_tensor);
  if (gguf->tensors == NULL) return qn_fail_nomem(r->diag, r->file_name, "the tensor list");
  for (size_t i = 0; i < gguf->tensor_count; i++) {
    qn_gguf_tensor *tensor = &gguf->tensors[i];
    uint64_t start = r->at, other;
    QN_TRY(read_name(r, "tensor", QN_GGUF_MAX_TENSOR_NAME_BYTES, &tensor->name));
    if (qn_map_get(&file->tensor_index, tensor->name, &other)) {
      return fail_at(r, start, QN_ERR_FORMAT, "the name occurs twice; it is tensor %" PRIu64 " and %zu of the file",
                     other + 1, i + 1);
    }
    if (!qn_map_put(&file->tensor_index, tensor->name, i)) {
      return qn_fail_nomem(r->diag, r->file_name, "the index of tensors");
    }
    QN_TRY(read_shape(r, tensor));
    QN_TRY(read_extent(r, gguf, tensor));
  }
  r->kind = NULL;
  return QN_OK;
}

// The data section begins where the tensor list ends: makes offsets absolute and holds them against the file's end.
static qn_status place_tensors(reader *r, qn_gguf *gguf) {
  gguf->data_offset = qn_align_up(r->at, gguf->alignment);
  for (size_t i = 0; i < gguf->tensor_count; i++) {
    qn_gguf_tensor *tensor = &gguf->tensors[i];
    uint64_t begin, end;
    r->kind = "tensor";
    r->name = tensor->name;
    if (__builtin_add_overflow(gguf->data_offset, tensor->offset, &begin) ||
        __builtin_add_overflow(begin, tensor->size_bytes, &end)) {
      return fail_at(r, r->at, QN_ERR_FORMAT, "the data offset %" PRIu64 " overflows", tensor->offset);
    }
    if (end > r->size) {
      return fail_at(r, begin, QN_ERR_FORMAT,
                     "the tensor's %" PRIu64 " bytes end at byte %" PRIu64 ", want at most %" PRIu64
                     ", the size of the file%s",
                     tensor->size_bytes, end, r->size, begin <= r->size ? " (is it truncated?)" : "");
    }
    tensor->offset = begin;
    tensor->data = r->data + begin;
  }
  r->kind = NULL;
  return QN_OK;
}

// ---- opening and closing -----------------------------------------------------------------------------------------

static qn_status parse(qn_gguf_file *file, qn_diag *diag) {
  reader r = {.file_name = file->base.name, .data = file->data, .size = file->base.file_bytes, .diag = diag};
  QN_TRY(read_header(&r, &file->base));
  QN_TRY(read_kvs(&r, file));
  QN_TRY(read_split_keys(file, diag));
  QN_TRY(read_layout_keys(&file->base, diag));
  QN_TRY(read_tensors(&r, file));
  return place_tensors(&r, &file->base);
}

// Takes over `mapping` (which holds nothing for files in memory) in success and failure alike.
static qn_status open_bytes(qn_gguf **out, const uint8_t *data, size_t size, qn_mapping mapping, const char *name,
                            const qn_allocator *allocator, qn_diag *diag) {
  qn_gguf_file *file = qn_alloc_zeroed(allocator, sizeof *file);
  if (file == NULL) {
    if (mapping.data != NULL) qn_mapping_close(&mapping);
    return qn_fail_nomem(diag, name, "the file's description");
  }
  file->allocator = allocator;
  file->mapping = mapping;
  file->data = data;
  file->base.file_bytes = size;
  qn_arena_init(&file->arena, allocator);
  qn_map_init(&file->kv_index, allocator);
  qn_map_init(&file->tensor_index, allocator);
  file->base.name = qn_arena_strdup(&file->arena, name);
  qn_status status = file->base.name == NULL ? qn_fail_nomem(diag, name, "the file's name") : parse(file, diag);
  qn_status lost = qn_gguf_check(&file->base, diag);  // says more than what the zeros led to
  if (lost != QN_OK) status = lost;
  if (status != QN_OK) {
    qn_gguf_close(&file->base);
    return status;
  }
  *out = &file->base;
  return QN_OK;
}

qn_status qn_gguf_open_part(qn_gguf **out, const char *path, const qn_allocator *allocator, qn_diag *diag) {
  qn_mapping mapping = {0};
  *out = NULL;
  QN_TRY(qn_mapping_open(&mapping, path, diag));
  return open_bytes(out, mapping.data, mapping.size, mapping, path, allocator, diag);
}

qn_status qn_gguf_open(qn_gguf **out, const char *path, const qn_allocator *allocator, qn_diag *diag) {
  QN_TRY(qn_gguf_open_part(out, path, allocator, diag));
  qn_status status = (*out)->part_count > 1 ? qn_gguf_join_parts(qn_gguf_file_of(*out), diag) : QN_OK;
  if (status == QN_OK) return QN_OK;
  qn_gguf_close(*out);
  *out = NULL;
  return status;
}

qn_status qn_gguf_open_memory(qn_gguf **out, const void *data, size_t size, const char *name,
                              const qn_allocator *allocator, qn_diag *diag) {
  *out = NULL;
  QN_TRY(open_bytes(out, data, size, (qn_mapping){0}, name, allocator, diag));
  if ((*out)->part_count == 1) return QN_OK;
  qn_status status = qn_fail(diag, QN_ERR_UNSUPPORTED, name,
                             "is one of %zu parts of a split model, which only files can be", (*out)->part_count);
  qn_gguf_close(*out);
  *out = NULL;
  return status;
}

qn_status qn_gguf_check(const qn_gguf *gguf, qn_diag *diag) {
  const qn_gguf_file *file = qn_gguf_file_of(gguf);
  QN_TRY(qn_mapping_check(&file->mapping, gguf->name, diag));
  for (size_t i = 0; file->others && i + 1 < gguf->part_count; i++) {
    if (file->others[i]) QN_TRY(qn_gguf_check(file->others[i], diag));
  }
  return QN_OK;
}

void qn_gguf_close(qn_gguf *gguf) {
  if (gguf == NULL) return;
  qn_gguf_file *file = qn_gguf_file_of(gguf);
  for (size_t i = 0; file->others && i + 1 < gguf->part_count; i++) qn_gguf_close(file->others[i]);
  qn_map_deinit(&file->tensor_index);
  qn_map_deinit(&file->kv_index);
  qn_arena_deinit(&file->arena);
  if (file->mapping.data != NULL) qn_mapping_close(&file->mapping);
  qn_free(file->allocator, file, sizeof *file);
}
