// Fuzzes the GGUF reader: any bytes give an error or a file whose every view lies inside those bytes.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/import/gguf.h"
#include "frontend/import/gguf_write.h"
#include "tests/support/fuzz.h"

static void read_key(qn_gguf *gguf, const qn_gguf_kv *kv) {
  char key[64];
  int64_t integer;
  double number;
  bool flag;
  qn_str text;
  const qn_str *strings;
  const int64_t *ints;
  const float *floats;
  size_t count;
  if (kv->key.length >= sizeof key || memchr(kv->key.data, 0, kv->key.length) != NULL) return;
  memcpy(key, kv->key.data, kv->key.length);
  key[kv->key.length] = '\0';
  fuzz_require(qn_gguf_find(gguf, key) == kv, "a key is not found");
  int successes = 0;
  successes += qn_gguf_get_int(gguf, key, INT64_MIN, INT64_MAX, &integer, NULL) == QN_OK;
  successes += qn_gguf_get_float(gguf, key, &number, NULL) == QN_OK;
  successes += qn_gguf_get_bool(gguf, key, &flag, NULL) == QN_OK;
  successes += qn_gguf_get_string(gguf, key, &text, NULL) == QN_OK;
  successes += qn_gguf_get_ints(gguf, key, &ints, &count, NULL) == QN_OK;
  successes += qn_gguf_get_floats(gguf, key, &floats, &count, NULL) == QN_OK;
  if (qn_gguf_get_strings(gguf, key, &strings, &count, NULL) == QN_OK) {
    for (size_t i = 0; i < count; i++) {
      fuzz_require(strings[i].data >= (const char *)kv->value.data, "a string begins before its array");
      fuzz_require(strings[i].length <= kv->value.size_bytes, "a string is larger than its array");
    }
    successes++;
  }
  fuzz_require(successes <= 2, "a value reads as too many types");  // an integer is a number too
}

static void read_all(qn_gguf *gguf, const uint8_t *data, size_t size) {
  qn_buf out;
  qn_buf_init(&out, qn_allocator_default());
  for (size_t i = 0; i < gguf->kv_count; i++) {
    const qn_gguf_kv *kv = &gguf->kvs[i];
    fuzz_require_inside(data, size, kv->key.data, kv->key.length, "a view leaves the file");
    fuzz_require_inside(data, size, kv->value.data, kv->value.size_bytes, "a view leaves the file");
    qn_gguf_value_print(&kv->value, 100000, &out);
    read_key(gguf, kv);
  }
  qn_buf_deinit(&out);
  for (size_t i = 0; i < gguf->tensor_count; i++) {
    qn_gguf_view view;
    const qn_gguf_tensor *tensor = &gguf->tensors[i];
    fuzz_require_inside(data, size, tensor->name.data, tensor->name.length, "a view leaves the file");
    if (qn_gguf_tensor_view(gguf, tensor, &view, NULL) != QN_OK) continue;
    fuzz_require_inside(data, size, view.data, view.size_bytes, "a view leaves the file");
    fuzz_require(view.size_bytes / view.row_bytes == (size_t)view.rows, "a view's rows do not fill it");
    double *row = malloc((size_t)view.k * sizeof *row);
    if (row != NULL) qn_format_row_to_f64(view.format, view.k, view.data + view.size_bytes - view.row_bytes, row);
    free(row);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  qn_gguf *gguf;
  qn_diag diag = {0};
  qn_status status = qn_gguf_open_memory(&gguf, data, size, "fuzz.gguf", qn_allocator_default(), &diag);
  if (status == QN_OK) {
    read_all(gguf, data, size);
  } else {
    fuzz_require(gguf == NULL, "a file that was refused is open");
    fuzz_require(status == QN_ERR_FORMAT || status == QN_ERR_UNSUPPORTED || status == QN_ERR_NOMEM, "an odd status");
    fuzz_require(diag.status == status && strncmp(diag.text, "fuzz.gguf: ", 11) == 0, "an error does not name the file");
  }
  qn_gguf_close(gguf);
  return 0;
}

// A file with every value type and a few tensors, so that mutations reach every branch.
static uint8_t *make_seed(size_t *out_size) {
  static const uint8_t nested[] = {9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0,   1,
                                   0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 'a', 'b'};
  static const uint8_t zeros[128];
  qn_gguf_writer *writer = qn_gguf_writer_create(qn_allocator_default());
  fuzz_require(writer != NULL, "out of memory");
  for (int type = 0; type < QN_GGUF_VALUE_TYPE_COUNT; type++) {
    size_t item_bytes = qn_gguf_value_type_size((uint32_t)type);
    char key[32];
    if (item_bytes == 0) continue;
    snprintf(key, sizeof key, "scalar.%s", qn_gguf_value_type_name((uint32_t)type));
    qn_gguf_writer_add_raw(writer, qn_str_from(key), (uint32_t)type, zeros, item_bytes);
    snprintf(key, sizeof key, "array.%s", qn_gguf_value_type_name((uint32_t)type));
    qn_gguf_writer_add_array(writer, key, (qn_gguf_value_type)type, zeros, 3);
  }
  qn_gguf_writer_add_text(writer, "string", "text");
  qn_gguf_writer_add_strings(writer, "tokens", (qn_str[]){QN_STR("<unk>"), QN_STR(""), QN_STR("ab")}, 3);
  qn_gguf_writer_add_raw(writer, QN_STR("nested"), QN_GGUF_ARRAY, nested, sizeof nested);
  qn_gguf_writer_add_u32(writer, "split.count", 1);
  qn_gguf_writer_set_alignment(writer, 32);
  qn_gguf_writer_add_tensor(writer, QN_STR("vector"), 0, 1, (int64_t[]){8}, zeros, 32);
  qn_gguf_writer_add_tensor(writer, QN_STR("q8"), 8, 2, (int64_t[]){32, 2}, zeros, 68);
  qn_gguf_writer_add_tensor(writer, QN_STR("q4"), 3, 4, (int64_t[]){32, 2, 1, 2}, zeros, 80);
  qn_gguf_writer_add_tensor(writer, QN_STR("half"), 30, 3, (int64_t[]){2, 4, 4}, zeros, 64);
  uint8_t *data;
  qn_status status = qn_gguf_writer_save_memory(writer, &data, out_size, NULL);
  fuzz_require(status == QN_OK, "the seed cannot be written");
  qn_gguf_writer_destroy(writer);
  return data;
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  size_t size;
  uint8_t *seed = make_seed(&size);
  take(context, seed, size);
  qn_free(qn_allocator_default(), seed, size);
}

QN_FUZZ_MAIN(NULL, 20000)
