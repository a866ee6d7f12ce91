// The values of safetensors files: every element type, at any alignment, and config.json's keys as params want them.
#include <math.h>
#include <stdlib.h>

#include "frontend/import/hf_config.h"
#include "frontend/import/safetensors.h"
#include "tests/support/test.h"

// ---- element types -----------------------------------------------------------------------------------------------

static double element(qn_stored_dtype dtype, const void *bytes) {
  const qn_format *format = qn_stored_format(dtype);
  uint8_t out[4];
  double value;
  qn_stored_convert(dtype, bytes, 1, out);
  qn_format_row_to_f64(format, 1, out, &value);
  return value;
}

// What a byte means, by the definition: sign, `exponent_bits` bits of exponent, the rest mantissa.
static double small_float(int byte, int exponent_bits, bool has_infinity) {
  int mantissa_bits = 7 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  int exponent = (byte & 127) >> mantissa_bits, mantissa = byte & ((1 << mantissa_bits) - 1);
  double sign = byte & 128 ? -1 : 1, fraction = (double)mantissa / (1 << mantissa_bits);
  int last = (1 << exponent_bits) - 1;
  if (has_infinity && exponent == last) return mantissa ? NAN : sign * INFINITY;
  if (!has_infinity && (byte & 127) == 127) return NAN;
  return sign * (exponent ? ldexp(1 + fraction, exponent - bias) : ldexp(fraction, 1 - bias));
}

static void check_value(const char *name, int byte, double got, double want) {
  bool same = isnan(want) ? isnan(got) : got == want && signbit(got) == signbit(want);
  qn_check(same, "%s 0x%02x: got %g, want %g", name, byte, got, want);
}

START_TEST(small_types_are_exact) {
  for (int i = 0; i < 256; i++) {
    uint8_t byte = (uint8_t)i;
    check_value("E5M2", i, element(QN_STORED_F8_E5M2, &byte), small_float(i, 5, true));
    check_value("E4M3", i, element(QN_STORED_F8_E4M3, &byte), small_float(i, 4, false));
    check_value("E8M0", i, element(QN_STORED_F8_E8M0, &byte), i == 255 ? NAN : ldexp(1, i - 127));
    check_value("I8", i, element(QN_STORED_I8, &byte), (int8_t)byte);
  }
}
END_TEST

START_TEST(f64_is_rounded) {
  const double values[] = {0.0, -0.0, 1.0, 1.0 + 0x1p-24, 1.0 + 0x1.8p-24, 0x1p-149, 0x1p-151, 1e300, -1e300, 3.14159265358979};
  for (size_t i = 0; i < QN_COUNT(values); i++) {
    check_value("F64", (int)i, element(QN_STORED_F64, &values[i]), (double)(float)values[i]);
  }
}
END_TEST

START_TEST(types_by_name) {
  for (int i = 0; i < QN_STORED_COUNT; i++) {
    qn_stored_dtype dtype;
    ck_assert(qn_stored_parse(qn_stored_name((qn_stored_dtype)i), &dtype));
    ck_assert_int_eq((int)dtype, i);
    ck_assert_uint_gt(qn_stored_bits(dtype), 0);
    if (qn_stored_is_format(dtype)) ck_assert_uint_eq(qn_stored_format(dtype)->block_bytes * 8, qn_stored_bits(dtype));
  }
  qn_stored_dtype dtype;
  ck_assert(!qn_stored_parse("f32", &dtype));
  ck_assert(!qn_stored_parse("", &dtype));
}
END_TEST

// ---- files -------------------------------------------------------------------------------------------------------

// A file of a header, padded by `spaces`, and data.
static uint8_t *make_file(const char *header, size_t spaces, const void *data, size_t size, size_t *out_size) {
  size_t length = strlen(header) + spaces;
  *out_size = 8 + length + size;
  uint8_t *file = malloc(*out_size);
  ck_assert_ptr_nonnull(file);
  for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)length >> (8 * i));
  memset(file + 8, ' ', length);
  memcpy(file + 8, header, strlen(header));
  memcpy(file + 8 + length, data, size);
  return file;
}

START_TEST(any_alignment) {
  static const char header[] =
      "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[3,11]},"
      "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
      "\"none\":{\"dtype\":\"F32\",\"shape\":[4,0],\"data_offsets\":[3,3]},"
      "\"one\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[11,13]}}";
  const float values[] = {1.5f, -2.25f};
  uint8_t data[13] = {1, 2, 3};
  memcpy(data + 3, values, sizeof values);
  memcpy(data + 11, "\x00\x3c", 2);
  for (size_t spaces = 0; spaces < 9; spaces++) {
    size_t size;
    qn_safetensors *files;
    qn_diag diag = {0};
    double row[2], one;
    uint8_t *file = make_file(header, spaces, data, sizeof data, &size);
    qn_assert_ok(&diag, qn_safetensors_open_memory(&files, file, size, "memory", qn_test_allocator(), &diag));
    ck_assert_uint_eq(files->tensor_count, 4);
    const qn_safetensors_tensor *b = qn_safetensors_find(files, "b"), *scalar = qn_safetensors_find(files, "one");
    ck_assert_int_eq(b->rank, 2);
    ck_assert_int_eq(b->dims[0], 2);
    ck_assert_ptr_eq(b->data, file + size - 10);
    ck_assert_uint_eq(b->offset, size - 10);
    qn_format_row_to_f64(qn_stored_format(b->dtype), 2, b->data, row);
    ck_assert(row[0] == 1.5 && row[1] == -2.25);
    ck_assert_int_eq(scalar->rank, 0);
    ck_assert_uint_eq(scalar->count, 1);
    qn_format_row_to_f64(qn_stored_format(scalar->dtype), 1, scalar->data, &one);
    ck_assert(one == 1.0);
    ck_assert_uint_eq(qn_safetensors_find(files, "none")->count, 0);
    ck_assert_ptr_null(qn_safetensors_find(files, "format"));
    qn_assert_ok(&diag, qn_safetensors_check(files, &diag));
    qn_safetensors_close(files);
    free(file);
  }
  ck_assert_uint_eq(qn_test_allocator_memory()->live_bytes, 0);
}
END_TEST

// ---- config.json -------------------------------------------------------------------------------------------------

typedef struct config_case {
  qn_arena arena;
  qn_hf_config config;
  qn_diag diag;
} config_case;

static void parse(config_case *c, const char *text) {
  *c = (config_case){0};
  qn_arena_init(&c->arena, qn_test_allocator());
  qn_assert_ok(&c->diag, qn_hf_config_parse(&c->config, "config.json", text, strlen(text), &c->arena, &c->diag));
}

static void end(config_case *c) {
  qn_hf_config_deinit(&c->config);
  qn_arena_deinit(&c->arena);
}

START_TEST(keys_of_a_config) {
  config_case c;
  bool found;
  qn_value value;
  parse(&c, "{\"n\": 12, \"f\": 1e-5, \"whole\": 2.0, \"yes\": true, \"t\": \"a\\u00e9\", \"gone\": null,"
            " \"deep\": {\"er\": {\"n\": 3}, \"none\": {}}, \"same\": [4, 4], \"large\": 9007199254740992,"
            " \"items\": [1, \"x\", [true, {\"k\": 1}]]}");
  qn_assert_ok(&c.diag, qn_hf_config_get(&c.config, "n", QN_PARAM_INT, &found, &value, &c.diag));
  ck_assert(found && value.kind == QN_VALUE_INT && value.i == 12);
  qn_assert_ok(&c.diag, qn_hf_config_get(&c.config, "n", QN_PARAM_FLOAT, &found, &value, &c.diag));
  ck_assert(found && value.kind == QN_VALUE_FLOAT && value.f == 12);
  qn_assert_ok(&c.diag, qn_hf_config_get(&c.config, "whole", QN_PARAM_INT, &found, &value, &c.diag));
  ck_assert(found && value.i == 2);
  qn_assert_ok(&c.diag, qn_hf_config_get(&c.config, "large", QN_PARAM_INT, &found, &value, &c.diag));
  ck_assert(found && value.i == (int64_t)1 << 53);
  qn_assert_ok(&c.diag, qn_hf_config_get(&c.config, "yes", QN_PARAM_BOOL, &found, &value, &c.diag));
  ck_assert(found && value.i == 1);
  qn_assert_ok(&c.diag, qn_hf_config_get(&c.config, "t", QN_PARAM_TEXT, &found, &value, &c.diag));
  ck_assert(found && qn_str_is(value.text, "a\xc3\xa9"));
  qn_assert_ok(&c.diag, qn_hf_config_get(&c.config, "gone", QN_PARAM_INT, &found, &value, &c.diag));
  ck_assert(!found);
  qn_assert_ok(&c.diag, qn_hf_config_get(&c.config, "deep.er.n", QN_PARAM_INT, &found, &value, &c.diag));
  ck_assert(found && value.i == 3);
  qn_assert_ok(&c.diag, qn_hf_config_get(&c.config, "same", QN_PARAM_INT, &found, &value, &c.diag));
  ck_assert(found && value.i == 4);
  ck_assert_int_eq(qn_hf_config_find(&c.config, "deep.none")->kind, QN_HF_OBJECT);
  qn_buf text;
  qn_buf_init(&text, qn_test_allocator());
  qn_hf_value_print(qn_hf_config_find(&c.config, "items"), 8, &text);
  ck_assert_str_eq(qn_buf_text(&text), "[1, \"x\", [true, {}]]");
  qn_buf_deinit(&text);
  end(&c);
}
END_TEST

START_TEST(configs_that_are_refused) {
  static const struct {
    const char *text, *want;
  } cases[] = {
      {"{\"a\": {\"b\": 1}, \"a.b\": 2}", "config.json: a.b: the key is there twice"},
      {"{\"a\": {\"b\": 1, \"b\": 2}}", "config.json: a.b: the key is there twice"},
      {"{\"a\": 1e999}", "got a number too large to hold"},
      {"{\"a\": [[[[[[[[[[[1]]]]]]]]]]]}", "is nested more than 8 deep"},
      {"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}}}", "is nested more than 8 deep"},
      {"{\"a\": NaN}", "not JSON"},
      {"5", "want an object"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    config_case c = {0};
    qn_arena_init(&c.arena, qn_test_allocator());
    qn_status status = qn_hf_config_parse(&c.config, "config.json", cases[i].text, strlen(cases[i].text), &c.arena, &c.diag);
    ck_assert_msg(status == QN_ERR_FORMAT || status == QN_ERR_LIMIT, "%s: %s", cases[i].text, c.diag.text);
    ck_assert_msg(strstr(c.diag.text, cases[i].want) != NULL, "%s: got '%s'", cases[i].text, c.diag.text);
    end(&c);
  }
}
END_TEST

QN_CASE(types, small_types_are_exact, f64_is_rounded, types_by_name)
QN_CASE(files, any_alignment)
QN_CASE(configs, keys_of_a_config, configs_that_are_refused)

QN_TEST_MAIN(types, files, configs)
