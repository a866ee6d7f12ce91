// Fuzzes the GGUF reader: any bytes give an error or a file whose every view lies inside those bytes. With libFuzzer
// (clang -DQN_LIBFUZZER -fsanitize=fuzzer,address,undefined) the engine drives it; built plainly it mutates a small
// file, and any that are named, by a fixed random sequence: fuzz_gguf [-n RUNS] [-s SEED] [FILE...]
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/import/gguf.h"
#include "frontend/import/gguf_write.h"
#include "tests/support/fuzz.h"

static void require(bool condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "fuzz_gguf: %s\n", what);
  abort();
}

static void require_inside(const uint8_t *data, size_t size, const void *view, uint64_t view_bytes) {
  uint64_t begin = (uint64_t)((uintptr_t)view - (uintptr_t)data);
  require(begin <= size && view_bytes <= size - begin, "a view leaves the file");
}

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
  require(qn_gguf_find(gguf, key) == kv, "a key is not found");
  int successes = 0;
  successes += qn_gguf_get_int(gguf, key, INT64_MIN, INT64_MAX, &integer, NULL) == QN_OK;
  successes += qn_gguf_get_float(gguf, key, &number, NULL) == QN_OK;
  successes += qn_gguf_get_bool(gguf, key, &flag, NULL) == QN_OK;
  successes += qn_gguf_get_string(gguf, key, &text, NULL) == QN_OK;
  successes += qn_gguf_get_ints(gguf, key, &ints, &count, NULL) == QN_OK;
  successes += qn_gguf_get_floats(gguf, key, &floats, &count, NULL) == QN_OK;
  if (qn_gguf_get_strings(gguf, key, &strings, &count, NULL) == QN_OK) {
    for (size_t i = 0; i < count; i++) {
      require(strings[i].data >= (const char *)kv->value.data, "a string begins before its array");
      require(strings[i].length <= kv->value.size_bytes, "a string is larger than its array");
    }
    successes++;
  }
  require(successes <= 2, "a value reads as too many types");  // an integer is a number too
}

static void read_all(qn_gguf *gguf, const uint8_t *data, size_t size) {
  qn_buf out;
  qn_buf_init(&out, qn_allocator_default());
  for (size_t i = 0; i < gguf->kv_count; i++) {
    const qn_gguf_kv *kv = &gguf->kvs[i];
    require_inside(data, size, kv->key.data, kv->key.length);
    require_inside(data, size, kv->value.data, kv->value.size_bytes);
    qn_gguf_value_print(&kv->value, 100000, &out);
    read_key(gguf, kv);
  }
  qn_buf_deinit(&out);
  for (size_t i = 0; i < gguf->tensor_count; i++) {
    qn_gguf_view view;
    const qn_gguf_tensor *tensor = &gguf->tensors[i];
    require_inside(data, size, tensor->name.data, tensor->name.length);
    if (qn_gguf_tensor_view(gguf, tensor, &view, NULL) != QN_OK) continue;
    require_inside(data, size, view.data, view.size_bytes);
    require(view.size_bytes / view.row_bytes == (size_t)view.rows, "a view's rows do not fill it");
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
    require(gguf == NULL, "a file that was refused is open");
    require(status == QN_ERR_FORMAT || status == QN_ERR_UNSUPPORTED || status == QN_ERR_NOMEM, "an odd status");
    require(diag.status == status && strncmp(diag.text, "fuzz.gguf: ", 11) == 0, "an error does not name the file");
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
  require(writer != NULL, "out of memory");
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
  require(status == QN_OK, "the seed cannot be written");
  qn_gguf_writer_destroy(writer);
  return data;
}

void fuzz_seeds(fuzz_take_fn take, void *context) {
  size_t size;
  uint8_t *seed = make_seed(&size);
  take(context, seed, size);
  qn_free(qn_allocator_default(), seed, size);
}

#ifdef QN_LIBFUZZER
QN_FUZZ_MAIN(NULL, 0)
#else

static uint64_t random_state = 1;

static uint64_t random_below(uint64_t limit) {
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return (random_state * 0x2545f4914f6cdd1du >> 16) % limit;
}

// Changes 1 to 4 places of data (size > 0); gives the size that is to be read, at most size.
static size_t mutate(uint8_t *data, size_t size) {
  static const uint64_t edges[] = {0,          1,          3,          32,           255,
                                   65535,      INT32_MAX,  UINT32_MAX, INT64_MAX,    UINT64_MAX,
                                   1ull << 63, 1ull << 32, 1ull << 61, (uint64_t)-32};
  for (uint64_t n = 1 + random_below(4); n > 0; n--) {
    size_t at = random_below(size), span = 1 + random_below(8);
    uint64_t value = random_below(2) != 0 ? edges[random_below(QN_COUNT(edges))] : random_below(16);
    switch (random_below(6)) {
      case 0: data[at] ^= (uint8_t)(1u << random_below(8)); break;
      case 1: data[at] = (uint8_t)random_below(256); break;
      case 2: data[at] = (uint8_t)random_below(16); break;
      case 3:
        for (size_t i = 0; i < span && at + i < size; i++) data[at + i] = (uint8_t)(value >> (8 * i));
        break;
      case 4: {  // a piece of the file over another
        size_t from = random_below(size), length = 1 + random_below(64);
        if (length > size - at) length = size - at;
        if (length > size - from) length = size - from;
        memmove(data + at, data + from, length);
        break;
      }
      default:
        if (random_below(8) == 0) size = at + 1;
        break;
    }
  }
  return size;
}

static void fuzz_seed(const uint8_t *seed, size_t size, uint64_t runs) {
  LLVMFuzzerTestOneInput(seed, size);
  for (uint64_t run = 0; run < runs && size > 0; run++) {
    uint8_t *copy = malloc(size);
    require(copy != NULL, "out of memory");
    memcpy(copy, seed, size);
    size_t cut = mutate(copy, size);
    uint8_t *exact = realloc(copy, cut);  // so that a sanitizer sees a byte too many
    LLVMFuzzerTestOneInput(exact != NULL ? exact : copy, cut);
    free(exact != NULL ? exact : copy);
  }
}

int main(int argc, char **argv) {
  uint64_t runs = 20000;
  int first_file = 1;
  for (; first_file + 1 < argc && argv[first_file][0] == '-'; first_file += 2) {
    uint64_t number = strtoull(argv[first_file + 1], NULL, 10);
    if (strcmp(argv[first_file], "-n") == 0) runs = number;
    if (strcmp(argv[first_file], "-s") == 0) random_state = number | 1;
  }
  size_t size;
  uint8_t *seed = make_seed(&size);
  fuzz_seed(seed, size, runs);
  qn_free(qn_allocator_default(), seed, size);
  for (int i = first_file; i < argc; i++) {
    FILE *file = fopen(argv[i], "rb");
    require(file != NULL, "a file that was named cannot be read");
    uint8_t *data = malloc(1 << 20);
    require(data != NULL, "out of memory");
    size = fread(data, 1, 1 << 20, file);
    fclose(file);
    fuzz_seed(data, size, runs / 100);
    free(data);
  }
  return 0;
}

#endif
