// GGUF reading and writing: values of every type round-trip, and every way a file can be wrong has its own message.
#include "frontend/import/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "frontend/import/gguf_write.h"
#include "tests/support/test.h"

enum { F32 = 0, Q8_0 = 8, IQ2_XS = 17 };

// ---- building files ----------------------------------------------------------------------------------------------

// A file in memory, freed by bytes_free.
typedef struct bytes {
  uint8_t *data;
  size_t size;
} bytes;

static bytes finish(qn_gguf_writer *writer) {
  bytes file;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_gguf_writer_save_memory(writer, &file.data, &file.size, &diag));
  qn_gguf_writer_destroy(writer);
  return file;
}

static void bytes_free(bytes file) { qn_free(qn_test_allocator(), file.data, file.size); }

static qn_gguf_writer *new_writer(void) {
  qn_gguf_writer *writer = qn_gguf_writer_create(qn_test_allocator());
  ck_assert_ptr_nonnull(writer);
  return writer;
}

static qn_gguf *open_file(bytes file) {
  qn_gguf *gguf;
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_gguf_open_memory(&gguf, file.data, file.size, "t.gguf", qn_test_allocator(), &diag));
  return gguf;
}

// Opening fails with this status and text, and nothing stays allocated. Takes the file.
static void refuse(bytes file, qn_status status, const char *text) {
  size_t live = qn_test_allocator_memory()->live_blocks;
  qn_gguf *gguf = (qn_gguf *)&live;
  qn_diag diag = {0};
  qn_assert_fails(&diag, status, text,
                  qn_gguf_open_memory(&gguf, file.data, file.size, "t.gguf", qn_test_allocator(), &diag));
  ck_assert_msg(strncmp(diag.text, "t.gguf: ", 8) == 0, "'%s' does not name the file", diag.text);
  ck_assert_ptr_null(gguf);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, live);
  bytes_free(file);
}

static void store_le(uint8_t *at, uint64_t value, size_t count) {
  for (size_t i = 0; i < count; i++) at[i] = (uint8_t)(value >> (8 * i));
}

// A file with one tensor "t" of `type` and no metadata; its fields lie at known bytes.
enum { T_N_DIMS = 33, T_DIM0 = 37, T_TYPE = 45, T_OFFSET = 49, T_DATA = 64 };
static bytes one_tensor_file(uint32_t type, int64_t k, const void *data, size_t size) {
  qn_gguf_writer *writer = new_writer();
  qn_gguf_writer_add_tensor(writer, QN_STR("t"), type, 1, &k, data, size);
  return finish(writer);
}

static const int16_t some_i16[] = {-32768, -1, 0, 32767};
static const float some_floats[8] = {1.0f, -2.5f, 0.0f, 3e38f, 1e-40f, 6.0f, 7.0f, 8.0f};
static const char *const words[] = {"<unk>", "", "\xe2\x96\x81the", "a\nb"};

// [[1, 2], [3]] as an array of arrays of u8.
static const uint8_t nested[] = {9, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,        //
                                 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 2,  //
                                 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3};

static void add_every_type(qn_gguf_writer *writer) {
  qn_str strings[QN_COUNT(words)];
  for (size_t i = 0; i < QN_COUNT(words); i++) strings[i] = qn_str_from(words[i]);
  qn_gguf_writer_add_int(writer, "u8", QN_GGUF_U8, 255);
  qn_gguf_writer_add_int(writer, "i8", QN_GGUF_I8, -128);
  qn_gguf_writer_add_int(writer, "u16", QN_GGUF_U16, 65535);
  qn_gguf_writer_add_int(writer, "i16", QN_GGUF_I16, -32768);
  qn_gguf_writer_add_u32(writer, "u32", 4294967295u);
  qn_gguf_writer_add_int(writer, "i32", QN_GGUF_I32, INT32_MIN);
  qn_gguf_writer_add_int(writer, "u64", QN_GGUF_U64, INT64_MAX);
  qn_gguf_writer_add_int(writer, "u64.max", QN_GGUF_U64, -1);
  qn_gguf_writer_add_int(writer, "i64", QN_GGUF_I64, INT64_MIN);
  qn_gguf_writer_add_f32(writer, "f32", 1e-5f);
  qn_gguf_writer_add_f32(writer, "f32.nan", NAN);
  qn_gguf_writer_add_f64(writer, "f64", 0.1);
  qn_gguf_writer_add_bool(writer, "bool", true);
  qn_gguf_writer_add_text(writer, "string", "quern");
  qn_gguf_writer_add_text(writer, "string.empty", "");
  qn_gguf_writer_add_array(writer, "a.i16", QN_GGUF_I16, some_i16, QN_COUNT(some_i16));
  qn_gguf_writer_add_array(writer, "a.f32", QN_GGUF_F32, some_floats, QN_COUNT(some_floats));
  qn_gguf_writer_add_array(writer, "a.bool", QN_GGUF_BOOL, (bool[]){true, false, true}, 3);
  qn_gguf_writer_add_array(writer, "a.u64", QN_GGUF_U64, (uint64_t[]){1, UINT64_MAX}, 2);
  qn_gguf_writer_add_array(writer, "a.f64", QN_GGUF_F64, (double[]){0.5, -INFINITY}, 2);
  qn_gguf_writer_add_array(writer, "a.empty", QN_GGUF_U32, NULL, 0);
  qn_gguf_writer_add_strings(writer, "a.string", strings, QN_COUNT(words));
  qn_gguf_writer_add_raw(writer, QN_STR("a.nested"), QN_GGUF_ARRAY, nested, sizeof nested);
}

// Every value type and four tensors; the last one ends where the file does.
static bytes full_file(void) {
  static const uint8_t q8[4 * 34], q6[210];
  qn_gguf_writer *writer = new_writer();
  add_every_type(writer);
  qn_gguf_writer_add_tensor(writer, QN_STR("scalar"), F32, 1, (int64_t[]){1}, some_floats, 4);
  qn_gguf_writer_add_tensor(writer, QN_STR("q8"), Q8_0, 3, (int64_t[]){32, 2, 2}, q8, sizeof q8);
  qn_gguf_writer_add_tensor(writer, QN_STR("q6"), IQ2_XS, 1, (int64_t[]){256}, q6, sizeof q6);
  qn_gguf_writer_add_tensor(writer, QN_STR("matrix"), F32, 2, (int64_t[]){4, 2}, some_floats, sizeof some_floats);
  return finish(writer);
}

// ---- reading what is right ---------------------------------------------------------------------------------------

START_TEST(test_scalars) {
  static const struct {
    const char *key;
    int64_t value;
  } integers[] = {{"u8", 255},         {"i8", -128},       {"u16", 65535},     {"i16", -32768},
                  {"u32", 4294967295}, {"i32", INT32_MIN}, {"u64", INT64_MAX}, {"i64", INT64_MIN}};
  bytes file = full_file();
  qn_gguf *gguf = open_file(file);
  qn_diag diag = {0};
  int64_t integer;
  double number;
  bool flag = false;
  qn_str text;
  ck_assert_uint_eq(gguf->version, 3);
  ck_assert_uint_eq(gguf->alignment, 32);
  for (size_t i = 0; i < QN_COUNT(integers); i++) {
    qn_assert_ok(&diag, qn_gguf_get_int(gguf, integers[i].key, INT64_MIN, INT64_MAX, &integer, &diag));
    ck_assert_int_eq(integer, integers[i].value);
    qn_assert_ok(&diag, qn_gguf_get_float(gguf, integers[i].key, &number, &diag));
    ck_assert(number == (double)integers[i].value);
  }
  qn_assert_ok(&diag, qn_gguf_get_float(gguf, "u64.max", &number, &diag));
  ck_assert(number == 0x1p64);
  qn_assert_ok(&diag, qn_gguf_get_float(gguf, "f32", &number, &diag));
  ck_assert(number == (double)1e-5f);
  qn_assert_ok(&diag, qn_gguf_get_float(gguf, "f64", &number, &diag));
  ck_assert(number == 0.1);
  qn_assert_ok(&diag, qn_gguf_get_bool(gguf, "bool", &flag, &diag));
  ck_assert(flag);
  qn_assert_ok(&diag, qn_gguf_get_string(gguf, "string", &text, &diag));
  ck_assert(qn_str_is(text, "quern"));
  qn_assert_ok(&diag, qn_gguf_get_string(gguf, "string.empty", &text, &diag));
  ck_assert_uint_eq(text.length, 0);
  ck_assert_ptr_null(qn_gguf_find(gguf, "absent"));
  ck_assert_ptr_null(qn_gguf_find(gguf, ""));
  ck_assert(qn_str_is(qn_gguf_find(gguf, "i8")->key, "i8"));
  qn_gguf_close(gguf);
  bytes_free(file);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

START_TEST(test_arrays) {
  bytes file = full_file();
  qn_gguf *gguf = open_file(file);
  qn_diag diag = {0};
  const qn_str *strings, *again;
  const int64_t *ints;
  const float *floats;
  size_t count;
  qn_assert_ok(&diag, qn_gguf_get_strings(gguf, "a.string", &strings, &count, &diag));
  ck_assert_uint_eq(count, QN_COUNT(words));
  for (size_t i = 0; i < count; i++) ck_assert(qn_str_is(strings[i], words[i]));
  qn_assert_ok(&diag, qn_gguf_get_strings(gguf, "a.string", &again, &count, &diag));
  ck_assert_ptr_eq(again, strings);  // built once
  qn_assert_ok(&diag, qn_gguf_get_ints(gguf, "a.i16", &ints, &count, &diag));
  ck_assert_uint_eq(count, 4);
  for (size_t i = 0; i < count; i++) ck_assert_int_eq(ints[i], some_i16[i]);
  qn_assert_ok(&diag, qn_gguf_get_ints(gguf, "a.bool", &ints, &count, &diag));
  ck_assert(count == 3 && ints[0] == 1 && ints[1] == 0 && ints[2] == 1);
  qn_assert_ok(&diag, qn_gguf_get_ints(gguf, "a.empty", &ints, &count, &diag));
  ck_assert_uint_eq(count, 0);
  qn_assert_ok(&diag, qn_gguf_get_floats(gguf, "a.f32", &floats, &count, &diag));
  ck_assert_uint_eq(count, 8);
  ck_assert_mem_eq(floats, some_floats, sizeof some_floats);
  qn_assert_ok(&diag, qn_gguf_get_floats(gguf, "a.f64", &floats, &count, &diag));
  ck_assert(count == 2 && floats[0] == 0.5f && floats[1] == -INFINITY);
  qn_gguf_close(gguf);
  bytes_free(file);
}
END_TEST

START_TEST(test_cursor) {
  bytes file = full_file();
  qn_gguf *gguf = open_file(file);
  qn_gguf_value row, item;
  int64_t value, next = 1;
  qn_gguf_cursor rows = qn_gguf_items(&qn_gguf_find(gguf, "a.nested")->value);
  while (qn_gguf_next(&rows, &row)) {
    ck_assert_int_eq(row.type, QN_GGUF_ARRAY);
    for (qn_gguf_cursor items = qn_gguf_items(&row); qn_gguf_next(&items, &item);) {
      ck_assert(qn_gguf_value_int(&item, &value));
      ck_assert_int_eq(value, next++);
      ck_assert_uint_eq(file.data[item.offset], (uint8_t)value);
    }
  }
  ck_assert_int_eq(next, 4);
  rows = qn_gguf_items(&qn_gguf_find(gguf, "u8")->value);
  ck_assert(!qn_gguf_next(&rows, &row));
  qn_gguf_close(gguf);
  bytes_free(file);
}
END_TEST

START_TEST(test_print) {
  static const struct {
    const char *key, *text;
  } cases[] = {
      {"u8", "255"},
      {"i64", "-9223372036854775808"},
      {"u64.max", "18446744073709551615"},
      {"bool", "true"},
      {"string", "\"quern\""},
      {"a.i16", "i16[4] [-32768, -1, ...]"},
      {"a.empty", "u32[0] []"},
      {"a.string", "string[4] [\"<unk>\", \"\", ...]"},
      {"a.nested", "array[2] [u8[2] [1, 2], u8[1] [3]]"},
  };
  bytes file = full_file();
  qn_gguf *gguf = open_file(file);
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_buf out;
    qn_buf_init(&out, qn_test_allocator());
    qn_gguf_value_print(&qn_gguf_find(gguf, cases[i].key)->value, 2, &out);
    ck_assert_str_eq(qn_buf_text(&out), cases[i].text);
    qn_buf_deinit(&out);
  }
  qn_gguf_close(gguf);
  bytes_free(file);
}
END_TEST

START_TEST(test_tensors) {
  bytes file = full_file();
  qn_gguf *gguf = open_file(file);
  qn_diag diag = {0};
  const qn_gguf_tensor *tensor;
  qn_gguf_view view;
  ck_assert_uint_eq(gguf->tensor_count, 4);
  qn_assert_ok(&diag, qn_gguf_get_tensor(gguf, "matrix", &tensor, &diag));
  ck_assert(tensor->n_dims == 2 && tensor->dims[0] == 4 && tensor->dims[1] == 2 && tensor->dims[2] == 1);
  qn_assert_ok(&diag, qn_gguf_tensor_view(gguf, tensor, &view, &diag));
  ck_assert_str_eq(view.format->name, "f32");
  ck_assert(view.k == 4 && view.rows == 2 && view.row_bytes == 16 && view.size_bytes == 32);
  ck_assert_mem_eq(view.data, some_floats, sizeof some_floats);
  ck_assert_ptr_eq(view.data, file.data + tensor->offset);
  qn_assert_ok(&diag, qn_gguf_get_tensor(gguf, "q8", &tensor, &diag));
  qn_assert_ok(&diag, qn_gguf_tensor_view(gguf, tensor, &view, &diag));
  ck_assert(view.k == 32 && view.rows == 4 && view.row_bytes == 34 && view.size_bytes == 136);
  qn_assert_fails(&diag, QN_ERR_FORMAT, "t.gguf: tensor 'absent': the tensor is missing",
                  qn_gguf_get_tensor(gguf, "absent", &tensor, &diag));
  ck_assert_ptr_null(qn_gguf_find_tensor(gguf, "absent"));
  // A type that is not ours is listed; only its data is refused.
  tensor = qn_gguf_find_tensor(gguf, "q6");
  ck_assert(tensor->type == IQ2_XS && tensor->size_bytes == 0 && tensor->offset % 32 == 0);
  diag = (qn_diag){0};
  qn_assert_fails(
      &diag, QN_ERR_UNSUPPORTED,
      "t.gguf: tensor 'q6': the tensor's type is not supported; got IQ2_XS, want one of F32, F16, BF16, Q8_0, "
      "Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4",
      qn_gguf_tensor_view(gguf, tensor, &view, &diag));
  qn_gguf_close(gguf);
  bytes_free(file);

  file = one_tensor_file(4711, 7, some_floats, 4);
  gguf = open_file(file);
  diag = (qn_diag){0};
  qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, "got number 4711, want one of F32",
                  qn_gguf_tensor_view(gguf, &gguf->tensors[0], &view, &diag));
  qn_gguf_close(gguf);
  bytes_free(file);
}
END_TEST

// Tensors of every type number that has a name: viewed where there is a format, refused by the name where not.
START_TEST(test_every_type) {
  static uint8_t data[2 * 1024];
  size_t supported = 0;
  for (uint32_t type = 0; qn_gguf_type_name(type); type++) {
    const qn_format *format = qn_format_of_gguf(type);
    int64_t k = format ? format->block_values : 256;
    bytes file = one_tensor_file(type, k, data, format ? format->block_bytes : 1024);
    qn_gguf *gguf = open_file(file);
    qn_gguf_view view;
    qn_diag diag = {0};
    qn_status status = qn_gguf_tensor_view(gguf, &gguf->tensors[0], &view, &diag);
    if (format) {
      supported++;
      qn_assert_ok(&diag, status);
      ck_assert(view.format == format && view.k == k && view.rows == 1 && view.row_bytes == format->block_bytes);
    } else {
      char want[64];
      snprintf(want, sizeof want, "got %s, want one of", qn_gguf_type_name(type));
      qn_assert_fails(&diag, QN_ERR_UNSUPPORTED, want, status);
    }
    qn_gguf_close(gguf);
    bytes_free(file);
  }
  ck_assert_uint_eq(supported, 16);
}
END_TEST

START_TEST(test_layouts) {
  // Version 2 reads the same; a file of metadata alone needs no padding after it.
  qn_gguf_writer *writer = new_writer();
  qn_gguf_writer_add_u32(writer, "split.count", 1);
  bytes file = finish(writer);
  store_le(file.data + 4, 2, 4);
  qn_diag diag = {0};
  qn_gguf *gguf;
  size_t metadata_bytes = 24 + 8 + 11 + 4 + 4;
  qn_assert_ok(&diag, qn_gguf_open_memory(&gguf, file.data, metadata_bytes, "t", qn_test_allocator(), &diag));
  ck_assert_uint_eq(gguf->version, 2);
  qn_gguf_close(gguf);
  bytes_free(file);
  for (uint32_t alignment = 8; alignment <= 4096; alignment *= 2) {
    writer = new_writer();
    qn_gguf_writer_set_alignment(writer, alignment);
    qn_gguf_writer_add_tensor(writer, QN_STR("a"), F32, 1, (int64_t[]){1}, some_floats, 4);
    qn_gguf_writer_add_tensor(writer, QN_STR("b"), F32, 1, (int64_t[]){8}, some_floats, 32);
    file = finish(writer);
    gguf = open_file(file);
    ck_assert_uint_eq(gguf->alignment, alignment);
    ck_assert_uint_eq(gguf->tensors[1].offset % alignment, 0);
    ck_assert_mem_eq(file.data + gguf->tensors[1].offset, some_floats, 32);
    qn_gguf_close(gguf);
    bytes_free(file);
  }
}
END_TEST

// ---- getters' errors ---------------------------------------------------------------------------------------------

#define REFUSES(words_wanted, call)                            \
  do {                                                         \
    qn_diag diag = {0};                                        \
    qn_assert_fails(&diag, QN_ERR_FORMAT, words_wanted, call); \
    ck_assert(strncmp(diag.text, "t.gguf: key '", 13) == 0);   \
  } while (0)

START_TEST(test_getter_errors) {
  bytes file = full_file();
  qn_gguf *gguf = open_file(file);
  int64_t integer = 77;
  double number;
  bool flag;
  qn_str text;
  const qn_str *strings;
  const int64_t *ints;
  const float *floats;
  size_t count;
  REFUSES("key 'absent': the key is missing; want an integer", qn_gguf_get_int(gguf, "absent", 0, 1, &integer, &diag));
  REFUSES("key 'f32': got an f32, want an integer", qn_gguf_get_int(gguf, "f32", 0, 1, &integer, &diag));
  REFUSES("key 'a.i16': got an array of i16, want an integer", qn_gguf_get_int(gguf, "a.i16", 0, 1, &integer, &diag));
  REFUSES("key 'u8': got 255, want 0 to 254", qn_gguf_get_int(gguf, "u8", 0, 254, &integer, &diag));
  REFUSES("key 'i8': got -128, want -127 to 9", qn_gguf_get_int(gguf, "i8", -127, 9, &integer, &diag));
  REFUSES("key 'u64.max': got 18446744073709551615, want 0 to 9223372036854775807",
          qn_gguf_get_int(gguf, "u64.max", 0, INT64_MAX, &integer, &diag));
  ck_assert_int_eq(integer, 77);
  REFUSES("key 'absent': the key is missing; want a number", qn_gguf_get_float(gguf, "absent", &number, &diag));
  REFUSES("key 'bool': got a bool, want a number", qn_gguf_get_float(gguf, "bool", &number, &diag));
  REFUSES("key 'f32.nan': got nan, want a finite number", qn_gguf_get_float(gguf, "f32.nan", &number, &diag));
  REFUSES("key 'absent': the key is missing; want a bool", qn_gguf_get_bool(gguf, "absent", &flag, &diag));
  REFUSES("key 'u8': got a u8, want a bool", qn_gguf_get_bool(gguf, "u8", &flag, &diag));
  REFUSES("key 'absent': the key is missing; want a string", qn_gguf_get_string(gguf, "absent", &text, &diag));
  REFUSES("key 'i32': got an i32, want a string", qn_gguf_get_string(gguf, "i32", &text, &diag));
  REFUSES("key 'absent': the key is missing; want an array of strings",
          qn_gguf_get_strings(gguf, "absent", &strings, &count, &diag));
  REFUSES("key 'string': got a string, want an array of strings",
          qn_gguf_get_strings(gguf, "string", &strings, &count, &diag));
  REFUSES("key 'a.f32': got an array of f32, want an array of integers",
          qn_gguf_get_ints(gguf, "a.f32", &ints, &count, &diag));
  REFUSES("key 'u8': got a u8, want an array of integers", qn_gguf_get_ints(gguf, "u8", &ints, &count, &diag));
  REFUSES("key 'a.u64': item 1 is 18446744073709551615, want at most 9223372036854775807",
          qn_gguf_get_ints(gguf, "a.u64", &ints, &count, &diag));
  REFUSES("key 'a.i16': got an array of i16, want an array of floats",
          qn_gguf_get_floats(gguf, "a.i16", &floats, &count, &diag));
  REFUSES("key 'a.nested': got an array of array, want an array of floats",
          qn_gguf_get_floats(gguf, "a.nested", &floats, &count, &diag));
  // A name is shown printable, and cut.
  char name[300];
  memset(name, 'k', sizeof name - 1);
  name[sizeof name - 1] = '\0';
  memcpy(name, "\x1b[2J'\\\xff", 7);
  REFUSES("key '\\x1b[2J'\\x5c\\xffkkk", qn_gguf_get_bool(gguf, name, &flag, &diag));
  REFUSES("kkk...': the key is missing", qn_gguf_get_bool(gguf, name, &flag, &diag));
  qn_gguf_close(gguf);
  bytes_free(file);
}
END_TEST

// ---- files that are wrong ----------------------------------------------------------------------------------------

START_TEST(test_bad_header) {
  bytes file = full_file();
  file.data[0] = 'X';
  refuse(file, QN_ERR_FORMAT, "byte 0: not a GGUF file; got 58 47 55 46, want 47 47 55 46 (\"GGUF\")");
  static const struct {
    uint32_t version;
    const char *text;
  } versions[] = {
      {1, "byte 4: GGUF version 1 is not supported; want version 2 or 3 (convert the model again"},
      {0, "byte 4: GGUF version 0 is not supported; want version 2 or 3"},
      {4, "byte 4: GGUF version 4 is not supported; want version 2 or 3"},
      {3u << 24, "byte 4: a big-endian GGUF file is not supported; want a little-endian one"},
  };
  for (size_t i = 0; i < QN_COUNT(versions); i++) {
    file = full_file();
    store_le(file.data + 4, versions[i].version, 4);
    refuse(file, QN_ERR_UNSUPPORTED, versions[i].text);
  }
  file = one_tensor_file(F32, 8, some_floats, 32);  // 96 bytes, 72 of them after the header
  store_le(file.data + 8, 3, 8);
  refuse(file, QN_ERR_FORMAT, "byte 8: the header claims 3 tensors, want at most 2 in a file of 96 bytes");
  file = one_tensor_file(F32, 8, some_floats, 32);
  store_le(file.data + 8, UINT64_MAX, 8);
  refuse(file, QN_ERR_FORMAT, "claims 18446744073709551615 tensors");
  file = one_tensor_file(F32, 8, some_floats, 32);
  store_le(file.data + 16, 6, 8);
  refuse(file, QN_ERR_FORMAT, "byte 16: the header claims 6 metadata keys, want at most 5 in a file of 96 bytes");
}
END_TEST

// A file whose only key is this, encoded as given.
static bytes raw_value_file(qn_str key, uint32_t type, const void *value, size_t size) {
  qn_gguf_writer *writer = new_writer();
  qn_gguf_writer_add_raw(writer, key, type, value, size);
  return finish(writer);
}

START_TEST(test_bad_keys) {
  static char long_key[65536];
  memset(long_key, 'k', sizeof long_key);
  refuse(raw_value_file(QN_STR(""), QN_GGUF_U32, "1234", 4), QN_ERR_FORMAT,
         "byte 24: a metadata key is 0 bytes long, want 1 to 65535");
  refuse(raw_value_file((qn_str){long_key, 65536}, QN_GGUF_U32, "1234", 4), QN_ERR_FORMAT,
         "byte 24: a metadata key is 65536 bytes long, want 1 to 65535");
  bytes file = raw_value_file((qn_str){long_key, 65535}, QN_GGUF_U32, "1234", 4);
  qn_gguf_close(open_file(file));
  bytes_free(file);
  file = raw_value_file(QN_STR("k"), QN_GGUF_U32, "1234", 4);
  store_le(file.data + 24, 1000, 8);
  refuse(file, QN_ERR_FORMAT, "byte 32: the file ends inside a metadata key; got 32 bytes, want 1000");

  qn_gguf_writer *writer = new_writer();
  qn_gguf_writer_add_u32(writer, "a", 1);
  qn_gguf_writer_add_u32(writer, "b", 1);
  qn_gguf_writer_add_u32(writer, "a", 2);
  refuse(finish(writer), QN_ERR_FORMAT, "key 'a' (byte 58): the key occurs twice; it is metadata key 1 and 3");
}
END_TEST

START_TEST(test_bad_values) {
  refuse(raw_value_file(QN_STR("k"), 13, "1234", 4), QN_ERR_FORMAT,
         "key 'k' (byte 33): the value's type is 13, want 0 to 12");
  refuse(raw_value_file(QN_STR("k"), QN_GGUF_BOOL, "\2", 1), QN_ERR_FORMAT,
         "key 'k' (byte 37): a bool has the value 2, want 0 or 1");
  refuse(raw_value_file(QN_STR("k"), QN_GGUF_STRING, "\xff\0\0\0\0\0\0\0abc", 11), QN_ERR_FORMAT,
         "key 'k' (byte 45): the file ends inside a string; got 19 bytes, want 255");
  refuse(raw_value_file(QN_STR("k"), QN_GGUF_STRING, "\xff\xff\xff\xff\xff\xff\xff\xff", 8), QN_ERR_FORMAT,
         "ends inside a string; got 19 bytes, want 18446744073709551615");
  refuse(raw_value_file(QN_STR("k"), QN_GGUF_ARRAY, "\x0d\0\0\0\0\0\0\0\0\0\0\0", 12), QN_ERR_FORMAT,
         "key 'k' (byte 37): the array's item type is 13, want 0 to 12");
  refuse(raw_value_file(QN_STR("k"), QN_GGUF_ARRAY, "\4\0\0\0\4\0\0\0\0\0\0\0", 12), QN_ERR_FORMAT,
         "key 'k' (byte 41): an array claims 4 items of type u32, want at most 3 in the 15 bytes that are left");
  refuse(raw_value_file(QN_STR("k"), QN_GGUF_ARRAY, "\x0a\0\0\0\0\0\0\0\0\0\0\x20", 12), QN_ERR_FORMAT,
         "claims 2305843009213693952 items of type u64, want at most 1");
  refuse(raw_value_file(QN_STR("k"), QN_GGUF_ARRAY, "\x08\0\0\0\3\0\0\0\0\0\0\0", 12), QN_ERR_FORMAT,
         "claims 3 items of type string, want at most 1");
  refuse(raw_value_file(QN_STR("k"), QN_GGUF_ARRAY, "\x09\0\0\0\2\0\0\0\0\0\0\0", 12), QN_ERR_FORMAT,
         "claims 2 items of type array, want at most 1");
  refuse(raw_value_file(QN_STR("k"), QN_GGUF_ARRAY, "\7\0\0\0\3\0\0\0\0\0\0\0\1\0\3", 15), QN_ERR_FORMAT,
         "key 'k' (byte 51): a bool has the value 3, want 0 or 1");
}
END_TEST

// `depth` arrays, one in the other, the innermost of no u8.
static bytes nested_file(int depth) {
  uint8_t value[64 * 12] = {0};
  for (int i = 0; i + 1 < depth; i++) value[12 * i] = QN_GGUF_ARRAY, value[12 * i + 4] = 1;
  return raw_value_file(QN_STR("deep"), QN_GGUF_ARRAY, value, (size_t)depth * 12);
}

START_TEST(test_nesting) {
  bytes file = nested_file(QN_GGUF_MAX_ARRAY_DEPTH);
  qn_gguf *gguf = open_file(file);
  qn_gguf_value value = gguf->kvs[0].value, item;
  int depth = 0;
  for (; value.type == QN_GGUF_ARRAY; value = item, depth++) {
    qn_gguf_cursor cursor = qn_gguf_items(&value);
    if (!qn_gguf_next(&cursor, &item)) break;
  }
  ck_assert_int_eq(depth, QN_GGUF_MAX_ARRAY_DEPTH - 1);
  qn_gguf_close(gguf);
  bytes_free(file);
  refuse(nested_file(QN_GGUF_MAX_ARRAY_DEPTH + 1), QN_ERR_FORMAT,
         "key 'deep' (byte 136): arrays are nested deeper than 8 levels");
  refuse(nested_file(64), QN_ERR_FORMAT, "arrays are nested deeper than 8 levels");
}
END_TEST

START_TEST(test_layout_keys) {
  static const uint32_t bad[] = {0, 1, 4, 7, 24, 48, 33};
  for (size_t i = 0; i < QN_COUNT(bad); i++) {
    char text[128];
    qn_gguf_writer *writer = new_writer();
    qn_gguf_writer_add_u32(writer, "general.alignment", bad[i]);
    snprintf(text, sizeof text, "key 'general.alignment' (byte 53): got %u, want a power of two of at least 8", bad[i]);
    refuse(finish(writer), QN_ERR_FORMAT, text);
  }
  qn_gguf_writer *writer = new_writer();
  qn_gguf_writer_add_text(writer, "general.alignment", "32");
  refuse(finish(writer), QN_ERR_FORMAT, "key 'general.alignment': got a string, want an integer");
  writer = new_writer();
  qn_gguf_writer_add_int(writer, "split.count", QN_GGUF_U16, 3);
  refuse(finish(writer), QN_ERR_FORMAT, "key 'split.no': the key is missing");
  writer = new_writer();
  qn_gguf_writer_add_int(writer, "split.count", QN_GGUF_U16, 3);
  qn_gguf_writer_add_int(writer, "split.no", QN_GGUF_U16, 3);
  refuse(finish(writer), QN_ERR_FORMAT, "key 'split.no'");
  writer = new_writer();
  qn_gguf_writer_add_int(writer, "split.count", QN_GGUF_U16, 3);
  qn_gguf_writer_add_int(writer, "split.no", QN_GGUF_U16, 0);
  refuse(finish(writer), QN_ERR_UNSUPPORTED, "is one of 3 parts of a split model, which only files can be");
}
END_TEST

static bytes one_shape_file(qn_str name, uint32_t type, int n_dims, const int64_t *dims) {
  qn_gguf_writer *writer = new_writer();
  qn_gguf_writer_add_tensor(writer, name, type, n_dims, dims, some_floats, sizeof some_floats);
  return finish(writer);
}

START_TEST(test_bad_tensors) {
  static char name[66] = "................................................................";
  int64_t dims[4] = {8, 1, 1, 1};
  refuse(one_shape_file(QN_STR(""), F32, 1, dims), QN_ERR_FORMAT,
         "byte 24: a tensor's name is 0 bytes long, want 1 to 64");
  name[64] = '.';
  refuse(one_shape_file((qn_str){name, 65}, F32, 1, dims), QN_ERR_FORMAT,
         "byte 24: a tensor's name is 65 bytes long, want 1 to 64");
  refuse(one_shape_file(QN_STR("t"), F32, 0, dims), QN_ERR_FORMAT,
         "tensor 't' (byte 33): the tensor has 0 dimensions, want 1 to 4");
  refuse(one_shape_file(QN_STR("t"), F32, 5, dims), QN_ERR_FORMAT,
         "tensor 't' (byte 33): the tensor has 5 dimensions, want 1 to 4");
  refuse(one_shape_file(QN_STR("t"), F32, 2, (int64_t[]){8, 0}), QN_ERR_FORMAT,
         "tensor 't' (byte 45): dimension 1 is 0, want 1 to 9223372036854775807");
  refuse(one_shape_file(QN_STR("t"), F32, 1, (int64_t[]){INT64_MIN}), QN_ERR_FORMAT,
         "tensor 't' (byte 37): dimension 0 is 9223372036854775808, want 1 to 9223372036854775807");
  refuse(one_shape_file(QN_STR("t"), F32, 3, (int64_t[]){1 << 30, 1 << 30, 8}), QN_ERR_FORMAT,
         "tensor 't' (byte 53): the tensor has more than 9223372036854775807 elements");
  refuse(one_shape_file(QN_STR("t"), F32, 2, (int64_t[]){INT64_MAX, 1}), QN_ERR_FORMAT,
         "tensor 't' (byte 57): the tensor's size in bytes overflows");
  refuse(one_shape_file(QN_STR("t"), Q8_0, 1, (int64_t[]){33}), QN_ERR_FORMAT,
         "tensor 't' (byte 49): dimension 0 is 33, want a multiple of 32, the block of type q8_0");
  refuse(one_shape_file(QN_STR("t"), F32, 1, (int64_t[]){9}), QN_ERR_FORMAT,
         "tensor 't' (byte 64): the tensor's 36 bytes end at byte 100, want at most 96, the size of the file (is it "
         "truncated?)");
  qn_gguf_writer *writer = new_writer();
  for (int i = 0; i < 2; i++) qn_gguf_writer_add_tensor(writer, QN_STR("t"), F32, 1, dims, some_floats, 32);
  refuse(finish(writer), QN_ERR_FORMAT, "tensor 't' (byte 57): the name occurs twice; it is tensor 1 and 2");
}
END_TEST

START_TEST(test_bad_offsets) {
  static const struct {
    uint64_t offset;
    const char *text;
  } cases[] = {
      {8, "tensor 't' (byte 49): the data offset is 8, want a multiple of the alignment 32"},
      {32, "tensor 't' (byte 96): the tensor's 32 bytes end at byte 128, want at most 96, the size of the file"},
      {1u << 20, "tensor 't' (byte 1048640): the tensor's 32 bytes end at byte 1048672, want at most 96"},
      {UINT64_MAX - 31, "tensor 't' (byte 57): the data offset 18446744073709551584 overflows"},
      {UINT64_MAX - 95, "tensor 't' (byte 57): the data offset 18446744073709551520 overflows"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    bytes file = one_tensor_file(F32, 8, some_floats, 32);
    store_le(file.data + T_OFFSET, cases[i].offset, 8);
    refuse(file, QN_ERR_FORMAT, cases[i].text);
  }
  // The place of a tensor of a type that is not ours is checked too.
  bytes file = one_tensor_file(IQ2_XS, 8, some_floats, 32);
  store_le(file.data + T_OFFSET, 64, 8);
  refuse(file, QN_ERR_FORMAT, "want at most 96, the size of the file");
}
END_TEST

// ---- hostile bytes at large --------------------------------------------------------------------------------------

// Reads all that a file offers.
static void walk(qn_gguf *gguf) {
  qn_buf out;
  qn_gguf_view view;
  qn_buf_init(&out, qn_test_allocator());
  for (size_t i = 0; i < gguf->kv_count; i++) qn_gguf_value_print(&gguf->kvs[i].value, SIZE_MAX, &out);
  volatile uint8_t sum = 0;
  for (size_t i = 0; i < gguf->tensor_count; i++) {
    if (qn_gguf_tensor_view(gguf, &gguf->tensors[i], &view, NULL) != QN_OK) continue;
    sum = (uint8_t)(sum + view.data[0] + view.data[view.size_bytes - 1]);
    ck_assert_uint_eq(view.row_bytes * (size_t)view.rows, view.size_bytes);
  }
  qn_buf_deinit(&out);
}

START_TEST(test_truncation) {
  bytes file = full_file();
  for (size_t size = 0; size < file.size; size++) {
    uint8_t *copy = malloc(size);  // of exactly this size, so that a sanitizer sees a byte too many
    if (size > 0) memcpy(copy, file.data, size);
    qn_gguf *gguf;
    qn_diag diag = {0};
    qn_status status = qn_gguf_open_memory(&gguf, size > 0 ? copy : NULL, size, "t.gguf", qn_test_allocator(), &diag);
    ck_assert_msg(status == QN_ERR_FORMAT, "%zu of %zu bytes: got %s", size, file.size, qn_status_name(status));
    ck_assert_msg(strstr(diag.text, "want") != NULL, "%zu of %zu bytes: '%s'", size, file.size, diag.text);
    free(copy);
  }
  bytes_free(file);
}
END_TEST

START_TEST(test_mutation) {
  static const uint8_t masks[] = {0x01, 0x02, 0x08, 0x40, 0x80, 0xff};
  bytes file = full_file();
  for (size_t at = 0; at < file.size; at++) {
    for (size_t m = 0; m < QN_COUNT(masks); m++) {
      qn_gguf *gguf;
      file.data[at] ^= masks[m];
      if (qn_gguf_open_memory(&gguf, file.data, file.size, "t.gguf", qn_test_allocator(), NULL) == QN_OK) walk(gguf);
      qn_gguf_close(gguf);
      file.data[at] ^= masks[m];
    }
  }
  bytes_free(file);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

static qn_status open_and_index(const qn_allocator *allocator, void *context) {
  const bytes *file = context;
  qn_gguf *gguf = NULL;
  const qn_str *strings;
  const int64_t *ints;
  const float *floats;
  size_t count;
  qn_diag diag = {0};
  qn_status status = qn_gguf_open_memory(&gguf, file->data, file->size, "t.gguf", allocator, &diag);
  if (status == QN_OK) status = qn_gguf_get_strings(gguf, "a.string", &strings, &count, &diag);
  if (status == QN_OK) status = qn_gguf_get_ints(gguf, "a.i16", &ints, &count, &diag);
  if (status == QN_OK) status = qn_gguf_get_floats(gguf, "a.f32", &floats, &count, &diag);
  ck_assert(status == diag.status);
  qn_gguf_close(gguf);
  return status;
}

static qn_status write_in_memory(const qn_allocator *allocator, void *context) {
  (void)context;
  qn_diag diag = {0};
  qn_gguf_writer *writer = qn_gguf_writer_create(allocator);
  if (writer == NULL) return QN_ERR_NOMEM;
  add_every_type(writer);
  qn_gguf_writer_add_tensor(writer, QN_STR("t"), F32, 1, (int64_t[]){8}, some_floats, sizeof some_floats);
  uint8_t *data;
  size_t size;
  qn_status status = qn_gguf_writer_save_memory(writer, &data, &size, &diag);
  ck_assert(status == diag.status);
  if (status == QN_OK) qn_free(allocator, data, size);
  qn_gguf_writer_destroy(writer);
  return status;
}

START_TEST(test_out_of_memory) {
  bytes file = full_file();
  qn_test_failing_allocations(open_and_index, &file);
  bytes_free(file);
  qn_test_failing_allocations(write_in_memory, NULL);
}
END_TEST

// ---- files on disk -----------------------------------------------------------------------------------------------

// Row r of a tensor holds the value r everywhere; fails at the row that *context names.
static qn_status numbered_rows(void *context, int64_t row_begin, int64_t row_end, void *out) {
  const int64_t *failing = context;
  float *to = out;
  for (int64_t row = row_begin; row < row_end; row++) {
    if (row == *failing) return QN_ERR_CANCELLED;
    for (int i = 0; i < 1000; i++) *to++ = (float)row;
  }
  return QN_OK;
}

START_TEST(test_disk) {
  const char *path = qn_test_temp_path("rows.gguf");
  const qn_format *f32 = qn_format_of(QN_DTYPE_F32);
  int64_t dims[2] = {1000, 3000}, failing = -1;  // 12 MB: more than one chunk
  qn_diag diag = {0};
  qn_gguf *gguf;
  qn_gguf_view view;
  qn_gguf_writer *writer = new_writer();
  qn_gguf_writer_add_tensor_rows(writer, "t", f32, 2, dims, numbered_rows, &failing);
  qn_assert_ok(&diag, qn_gguf_writer_save(writer, path, &diag));
  qn_assert_ok(&diag, qn_gguf_open(&gguf, path, qn_test_allocator(), &diag));
  qn_assert_ok(&diag, qn_gguf_tensor_view(gguf, &gguf->tensors[0], &view, &diag));
  for (int64_t row = 0; row < dims[1]; row++) {
    const float *values = (const float *)(const void *)(view.data + (size_t)row * view.row_bytes);
    ck_assert(values[0] == (float)row && values[999] == (float)row);
  }
  qn_gguf_close(gguf);
  // A callback that fails leaves no file.
  const char *other = qn_test_temp_path("none.gguf");
  failing = 2999;
  ck_assert_int_eq(qn_gguf_writer_save(writer, other, &diag), QN_ERR_CANCELLED);
  qn_assert_fails(&diag, QN_ERR_IO, other, qn_gguf_open(&gguf, other, qn_test_allocator(), &diag));
  ck_assert_ptr_null(gguf);
  qn_gguf_writer_destroy(writer);
  // Rows that are no whole number of blocks are the caller's mistake.
  writer = new_writer();
  diag = (qn_diag){0};
  qn_gguf_writer_add_tensor_rows(writer, "odd", qn_format_of(QN_DTYPE_Q4_0), 2, dims, numbered_rows, &failing);
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "tensor 'odd'", qn_gguf_writer_save(writer, other, &diag));
  qn_gguf_writer_destroy(writer);
  ck_assert_uint_eq(qn_test_allocator_memory()->live_blocks, 0);
}
END_TEST

QN_CASE(reading, test_scalars, test_arrays, test_cursor, test_print, test_tensors, test_every_type, test_layouts)
QN_CASE(refusing, test_getter_errors, test_bad_header, test_bad_keys, test_bad_values, test_nesting, test_layout_keys,
        test_bad_tensors, test_bad_offsets)
QN_CASE(hostile, test_truncation, test_mutation, test_out_of_memory)
QN_CASE(disk, test_disk)
QN_TEST_MAIN(reading, refusing, hostile, disk)
