// Reads GGUF files (versions 2 and 3, little-endian). The file is hostile until checked: qn_gguf_open checks every
// count, length, offset and type in it, so that whatever the getters hand out afterwards lies inside the file.
// Metadata and tensors are views into the mapping; nothing of the file's bulk is copied.
#ifndef QN_IMPORT_GGUF_H
#define QN_IMPORT_GGUF_H

#include "ir/format.h"
#include "runtime/base/diag.h"
#include "runtime/base/str.h"

// The numbers are the file format's.
typedef enum qn_gguf_value_type {
  QN_GGUF_U8 = 0,
  QN_GGUF_I8 = 1,
  QN_GGUF_U16 = 2,
  QN_GGUF_I16 = 3,
  QN_GGUF_U32 = 4,
  QN_GGUF_I32 = 5,
  QN_GGUF_F32 = 6,
  QN_GGUF_BOOL = 7,
  QN_GGUF_STRING = 8,
  QN_GGUF_ARRAY = 9,
  QN_GGUF_U64 = 10,
  QN_GGUF_I64 = 11,
  QN_GGUF_F64 = 12,
  QN_GGUF_VALUE_TYPE_COUNT
} qn_gguf_value_type;

#define QN_GGUF_MAX_DIMS              4
#define QN_GGUF_MAX_KEY_BYTES         65535
#define QN_GGUF_MAX_TENSOR_NAME_BYTES 64
#define QN_GGUF_MAX_ARRAY_DEPTH       8  // arrays of arrays of ... deeper than this are refused
#define QN_GGUF_DEFAULT_ALIGNMENT     32

// "u32", "string"; "?" for numbers that are none.
const char *qn_gguf_value_type_name(uint32_t type);
// Bytes of one value of a scalar type; 0 for strings, arrays and numbers that are no type.
size_t qn_gguf_value_type_size(uint32_t type);

// One metadata value, a view into the file.
typedef struct qn_gguf_value {
  qn_gguf_value_type type;
  qn_gguf_value_type item_type;  // of an array's items; meaningless otherwise
  const uint8_t *data;           // borrowed, unaligned: the little-endian scalar, the string's bytes, the first item
  uint64_t size_bytes;           // extent of `data`; for an array that of all items
  uint64_t count;                // items of an array, bytes of a string, otherwise 1
  uint64_t offset;               // of `data` in the file
} qn_gguf_value;

typedef struct qn_gguf_kv {
  qn_str key;  // borrowed from the file; may hold any byte
  qn_gguf_value value;
  const qn_str *strings;  // private: the index qn_gguf_get_strings built
} qn_gguf_kv;

typedef struct qn_gguf_tensor {
  qn_str name;                     // borrowed from the file; may hold any byte
  uint32_t type;                   // ggml type number, known to quern or not
  int n_dims;                      // 1..4
  int64_t dims[QN_GGUF_MAX_DIMS];  // each > 0; dims[0] varies fastest (K of a matmul); unused ones are 1
  uint64_t offset;                 // of the data in its file, a multiple of the alignment
  const uint8_t *data;             // borrowed: the same as an address
  uint64_t size_bytes;             // 0 when the type is not supported; use qn_gguf_tensor_view
} qn_gguf_tensor;

// A tensor's data, for the types in ir/format.def.
typedef struct qn_gguf_view {
  const qn_format *format;
  const uint8_t *data;  // borrowed from the file: `rows` rows of `k` values each, row-major, in the file's layout
  size_t size_bytes;
  size_t row_bytes;
  int64_t rows, k;  // k = dims[0]; rows = the product of the other dims
} qn_gguf_view;

// An open file, or all parts of a split model. Fields are for reading only; instances come from qn_gguf_open alone (there is more behind them).
typedef struct qn_gguf {
  const char *name;      // for messages: the path it was opened from
  uint32_t version;      // 2 or 3
  uint32_t alignment;    // of tensor data, bytes
  uint64_t file_bytes;   // size of the file; of all parts
  uint64_t data_offset;  // where tensor data begins (in the first part)
  size_t part_count;     // files that the model is split into; 1 = it is not
  size_t kv_count, tensor_count;
  qn_gguf_kv *kvs;          // in file order
  qn_gguf_tensor *tensors;  // in file order
} qn_gguf;

// Maps and checks `path`. On success *out is owned by the caller, to be closed; on failure it is NULL. The file must
// not be changed or truncated while it is open (the mapping would see it). Of a split model it is the first part,
// "NAME-00001-of-00003.gguf", and the others are beside it: keys are the first part's, tensors those of all.
// Errors: IO (cannot be mapped), FORMAT (corrupt; the text names byte, key or tensor; parts that are missing or do not
// belong together), UNSUPPORTED (version 1, big-endian), ARGUMENT (a part that is not the first), NOMEM.
QN_CHECKED qn_status qn_gguf_open(qn_gguf **out, const char *path, const qn_allocator *allocator, qn_diag *diag);
// The same over `size` bytes at `data` (may be NULL when size is 0), which stay the caller's and must outlive *out.
// UNSUPPORTED for a part of a split model.
QN_CHECKED qn_status qn_gguf_open_memory(qn_gguf **out, const void *data, size_t size, const char *name,
                                         const qn_allocator *allocator, qn_diag *diag);
// IO when the file lost bytes since it was opened: what was read of it meanwhile is worth nothing.
QN_CHECKED qn_status qn_gguf_check(const qn_gguf *gguf, qn_diag *diag);
void qn_gguf_close(qn_gguf *gguf);  // NULL is harmless

// NULL when there is no such key / tensor.
const qn_gguf_kv *qn_gguf_find(const qn_gguf *gguf, const char *key);
const qn_gguf_tensor *qn_gguf_find_tensor(const qn_gguf *gguf, const char *name);

// Typed getters. A key that is missing, of another type or out of range is a FORMAT error naming file, key, got and
// want; *out is then untouched. For an optional key ask qn_gguf_find first.

// Any integer type, the value within [min, max].
QN_CHECKED qn_status qn_gguf_get_int(const qn_gguf *gguf, const char *key, int64_t min, int64_t max, int64_t *out,
                                     qn_diag *diag);
// f32, f64 or any integer type; finite.
QN_CHECKED qn_status qn_gguf_get_float(const qn_gguf *gguf, const char *key, double *out, qn_diag *diag);
QN_CHECKED qn_status qn_gguf_get_bool(const qn_gguf *gguf, const char *key, bool *out, qn_diag *diag);
// *out is borrowed from the file; not NUL-terminated, any bytes.
QN_CHECKED qn_status qn_gguf_get_string(const qn_gguf *gguf, const char *key, qn_str *out, qn_diag *diag);

// Whole arrays, *out_count items, in memory of `gguf` (it lives until qn_gguf_close). Not safe to call on one gguf
// from two threads at once.

// An index over an array of strings, built once a key in O(n): the strings themselves stay in the file.
QN_CHECKED qn_status qn_gguf_get_strings(qn_gguf *gguf, const char *key, const qn_str **out, size_t *out_count,
                                         qn_diag *diag);
// An array of any integer type or bool (0/1); values beyond int64 are errors.
QN_CHECKED qn_status qn_gguf_get_ints(qn_gguf *gguf, const char *key, const int64_t **out, size_t *out_count,
                                      qn_diag *diag);
// An array of f32 or f64 (rounded to f32); NaN and infinities are let through.
QN_CHECKED qn_status qn_gguf_get_floats(qn_gguf *gguf, const char *key, const float **out, size_t *out_count,
                                        qn_diag *diag);

// A walk over an array's items, whatever their type (arrays included), O(bytes) in all and without allocation:
//   for (qn_gguf_cursor c = qn_gguf_items(&value); qn_gguf_next(&c, &item);) ...
typedef struct qn_gguf_cursor {
  qn_gguf_value array;
  uint64_t index, at;  // next item and its byte within array.data
} qn_gguf_cursor;
qn_gguf_cursor qn_gguf_items(const qn_gguf_value *array);  // a value that is no array has no items
bool qn_gguf_next(qn_gguf_cursor *cursor, qn_gguf_value *out);

// Readings of a single value; false when its type does not allow it (see the getters above).
bool qn_gguf_value_int(const qn_gguf_value *value, int64_t *out);   // also false when it does not fit int64
bool qn_gguf_value_float(const qn_gguf_value *value, double *out);  // f32, f64 and integers
bool qn_gguf_value_bool(const qn_gguf_value *value, bool *out);
bool qn_gguf_value_string(const qn_gguf_value *value, qn_str *out);
// For people: 4096, 1e-05, true, "llama", string[32000] ["<unk>", "<s>", ...] with at most max_items items shown and
// strings cut after 256 bytes.
void qn_gguf_value_print(const qn_gguf_value *value, size_t max_items, qn_buf *out);

// Finds a tensor or fails with FORMAT, "tensor 'x' is missing".
QN_CHECKED qn_status qn_gguf_get_tensor(const qn_gguf *gguf, const char *name, const qn_gguf_tensor **out,
                                        qn_diag *diag);
// The tensor's format and data; UNSUPPORTED, naming the tensor and its type, when the type is not in format.def.
QN_CHECKED qn_status qn_gguf_tensor_view(const qn_gguf *gguf, const qn_gguf_tensor *tensor, qn_gguf_view *out,
                                         qn_diag *diag);

#endif
