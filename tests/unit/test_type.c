// ir/type: names, parsing and printing, sizes, and the float conversions over all halves.
#include <math.h>
#include <stdio.h>

#include "ir/type.h"
#include "tests/support/test.h"

// ---- names and text -------------------------------------------------------------------------------------------

START_TEST(dtype_names_round_trip) {
  for (int i = 0; i < QN_DTYPE_COUNT; i++) {
    qn_dtype parsed = QN_DTYPE_COUNT;
    ck_assert(qn_dtype_parse(qn_str_from(qn_dtype_name((qn_dtype)i)), &parsed));
    ck_assert_int_eq((int)parsed, i);
  }
  qn_dtype untouched = QN_DTYPE_I8;
  ck_assert(!qn_dtype_parse(QN_STR("f64"), &untouched) && !qn_dtype_parse(QN_STR(""), &untouched));
  ck_assert(!qn_dtype_parse(QN_STR("F32"), &untouched) && untouched == QN_DTYPE_I8);
}
END_TEST

START_TEST(dtype_sizes) {
  ck_assert_uint_eq(qn_dtype_size(QN_DTYPE_F32), 4);
  ck_assert_uint_eq(qn_dtype_size(QN_DTYPE_BF16), 2);
  ck_assert_uint_eq(qn_dtype_size(QN_DTYPE_I8), 1);
  ck_assert(qn_dtype_is_block(QN_DTYPE_Q4_0) && !qn_dtype_is_block(QN_DTYPE_I32));
  ck_assert(qn_dtype_is_float(QN_DTYPE_F16) && !qn_dtype_is_float(QN_DTYPE_I8) && !qn_dtype_is_float(QN_DTYPE_Q8_0));
}
END_TEST

START_TEST(symbols_round_trip) {
  ck_assert_int_eq(qn_symbol_letter(QN_SYM_NONE), 0);
  for (int i = QN_SYM_NONE + 1; i < QN_SYM_COUNT; i++) {
    char letter = qn_symbol_letter((qn_symbol)i);
    qn_symbol parsed = QN_SYM_NONE;
    ck_assert(qn_symbol_parse((qn_str){&letter, 1}, &parsed));
    ck_assert_int_eq((int)parsed, i);
  }
  qn_symbol symbol;
  ck_assert(!qn_symbol_parse(QN_STR("TT"), &symbol) && !qn_symbol_parse(QN_STR(""), &symbol));
  ck_assert(!qn_symbol_parse(QN_STR("X"), &symbol) && !qn_symbol_parse((qn_str){"", 1}, &symbol));
}
END_TEST

START_TEST(types_print_and_parse) {
  static const char *const texts[] = {
      "f32[T,2048]",   "q4_0[32000,2048]", "f32[]",  "i32[B]",
      "bf16[2T,8,64]", "i8[G,2,16,128]",   "f16[0]", "i32[9223372036854775807]",
  };
  for (size_t i = 0; i < QN_COUNT(texts); i++) {
    qn_type type, again;
    qn_buf buf;
    qn_str text = qn_str_from(texts[i]);
    qn_buf_init(&buf, qn_test_allocator());
    ck_assert_msg(qn_type_parse(&text, &type), "%s: not parsed from '%s' on", texts[i], text.data);
    ck_assert_uint_eq(text.length, 0);
    qn_type_print(&type, &buf);
    ck_assert_str_eq(qn_buf_text(&buf), texts[i]);
    text = qn_str_from(qn_buf_text(&buf));
    ck_assert(qn_type_parse(&text, &again) && qn_type_equal(&type, &again));
    qn_buf_deinit(&buf);
  }
}
END_TEST

START_TEST(parsing_stops_behind_the_type) {
  qn_type type;
  qn_str text = QN_STR("f16[R,4096] = rmsnorm");
  ck_assert(qn_type_parse(&text, &type));
  ck_assert(qn_str_is(text, " = rmsnorm"));
  ck_assert_int_eq(type.rank, 2);
  ck_assert(qn_dim_equal(type.dims[0], qn_dim_sym(QN_SYM_R)) && qn_dim_equal(type.dims[1], qn_dim_const(4096)));
}
END_TEST

// What is refused, and the rest of the text from the offending byte on.
START_TEST(parsing_stops_at_the_offending_byte) {
  static const struct {
    const char *text, *rest;
  } rejects[] = {
      {"f64[1]", "f64[1]"},
      {"", ""},
      {"f32", ""},
      {"f32(1)", "f32(1)"},
      {"f32[", ""},
      {"f32[1", ""},
      {"f32[x]", "x]"},
      {"f32[1,]", "]"},
      {"f32[1 2]", " 2]"},
      {"f32[-1]", "-1]"},
      {"f32[T2]", "2]"},
      {"f32[1,2,3,4,5]", ",5]"},
      {"f32[99999999999999999999]", "99]"},
      {"f32[1,,2]", ",2]"},
  };
  for (size_t i = 0; i < QN_COUNT(rejects); i++) {
    qn_type type = {.rank = 99};
    qn_str text = qn_str_from(rejects[i].text);
    ck_assert_msg(!qn_type_parse(&text, &type), "'%s' is accepted", rejects[i].text);
    ck_assert_msg(qn_str_is(text, rejects[i].rest), "'%s': stopped at '%.*s'", rejects[i].text, QN_STR_ARGS(text));
    ck_assert_int_eq(type.rank, 99);
  }
}
END_TEST

START_TEST(types_compare) {
  qn_dim dims[] = {qn_dim_sym(QN_SYM_T), qn_dim_const(64)};
  qn_type a = qn_type_make(QN_DTYPE_F32, 2, dims), b = a;
  ck_assert(qn_type_equal(&a, &b));
  b.dims[3] = qn_dim_const(5);  // beyond the rank: no part of the type
  ck_assert(qn_type_equal(&a, &b));
  b.dims[0].value = 2;
  ck_assert(!qn_type_equal(&a, &b));
  b = qn_type_make(QN_DTYPE_F16, 2, dims);
  ck_assert(!qn_type_equal(&a, &b));
  b = qn_type_make(QN_DTYPE_F32, 1, dims);
  ck_assert(!qn_type_equal(&a, &b));
}
END_TEST

START_TEST(elements_are_counted_and_checked) {
  int64_t symbols[QN_SYM_COUNT] = {0}, count = -5;
  symbols[QN_SYM_T] = 7;
  qn_type type = qn_type_make(QN_DTYPE_F32, 3, (qn_dim[]){{QN_SYM_T, 2}, qn_dim_const(3), qn_dim_const(5)});
  ck_assert(qn_type_elements(&type, symbols, &count) && count == 210);
  symbols[QN_SYM_T] = 0;
  ck_assert(qn_type_elements(&type, symbols, &count) && count == 0);
  qn_type scalar = qn_type_make(QN_DTYPE_F32, 0, NULL);
  ck_assert(qn_type_elements(&scalar, NULL, &count) && count == 1);
  symbols[QN_SYM_T] = INT64_MAX / 2;
  ck_assert(!qn_type_elements(&type, symbols, &count));
  symbols[QN_SYM_T] = INT64_MAX;
  ck_assert(!qn_type_elements(&type, symbols, &count));
  symbols[QN_SYM_T] = -1;
  ck_assert(!qn_type_elements(&type, symbols, &count));
  ck_assert_int_eq(count, 1);
}
END_TEST

QN_CASE(text, dtype_names_round_trip, dtype_sizes, symbols_round_trip, types_print_and_parse,
        parsing_stops_behind_the_type, parsing_stops_at_the_offending_byte, types_compare,
        elements_are_counted_and_checked)

// ---- float conversions ----------------------------------------------------------------------------------------

// A half's value by its definition (IEEE 754, 3.4).
static double half_value(uint16_t half) {
  int exponent = half >> 10 & 31, mantissa = half & 0x3FF;
  double sign = half & 0x8000 ? -1 : 1;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * ldexp(mantissa, -24);
  return sign * ldexp(1024 + mantissa, exponent - 25);
}

START_TEST(every_half_converts_exactly) {
  for (uint32_t i = 0; i < 65536; i++) {
    double want = half_value((uint16_t)i);
    float got = qn_f16_to_f32((uint16_t)i);
    uint16_t back = qn_f32_to_f16(got);
    if (isnan(want)) {
      qn_check(isnan(got) && isnan(qn_f16_to_f32(back)), "%04x", i);
      qn_check((back & 0x8000) == (i & 0x8000), "%04x: sign of NaN", i);
    } else {
      qn_check((double)got == want && !signbit(got) == !(i & 0x8000), "%04x: got %a, want %a", i, (double)got, want);
      qn_check(back == i, "%04x: comes back as %04x", i, back);
    }
  }
}
END_TEST

// Between each pair of neighbouring halves: the middle goes to the even one, a float beside it to its own side.
START_TEST(halves_round_to_nearest_even) {
  for (uint32_t i = 0; i < 0x7C00; i++) {
    double low = half_value((uint16_t)i), high = i == 0x7BFF ? 65536.0 : half_value((uint16_t)(i + 1));
    float middle = (float)((low + high) / 2);
    qn_check((double)middle == (low + high) / 2, "%04x: the middle is a float", i);
    uint16_t even = (uint16_t)(i + (i & 1));
    qn_check(qn_f32_to_f16(middle) == even, "%04x: middle", i);
    qn_check(qn_f32_to_f16(nextafterf(middle, 0)) == i, "%04x: below the middle", i);
    qn_check(qn_f32_to_f16(nextafterf(middle, INFINITY)) == i + 1, "%04x: above the middle", i);
    qn_check(qn_f32_to_f16(-middle) == (even | 0x8000), "%04x: negative", i);
  }
  ck_assert_int_eq(qn_f32_to_f16(65519.996f), 0x7BFF);
  ck_assert_int_eq(qn_f32_to_f16(65520.0f), 0x7C00);
  ck_assert_int_eq(qn_f32_to_f16(1e30f), 0x7C00);
  ck_assert_int_eq(qn_f32_to_f16(-INFINITY), 0xFC00);
  ck_assert_int_eq(qn_f32_to_f16(0x1p-149f), 0);
  ck_assert_int_eq(qn_f32_to_f16(-0.0f), 0x8000);
}
END_TEST

#ifdef __FLT16_MANT_DIG__
START_TEST(halves_agree_with_the_compiler) {
  qn_test_random random = {7};
  for (int i = 0; i < 1000000; i++) {
    // Any float, and floats of the halves' range.
    uint32_t bits = (uint32_t)qn_test_random_u64(&random);
    if (i % 2) bits = (bits & 0x807FFFFF) | (uint32_t)(96 + (bits >> 23) % 50) << 23;
    float value;
    uint16_t want;
    memcpy(&value, &bits, sizeof value);
    _Float16 half = (_Float16)value;
    memcpy(&want, &half, sizeof want);
    qn_check(isnan(value) || qn_f32_to_f16(value) == want, "%a: got %04x, want %04x", (double)value,
             qn_f32_to_f16(value), want);
  }
}
END_TEST
#else
START_TEST(halves_agree_with_the_compiler) {}
END_TEST
#endif

START_TEST(bfloat_rounds_to_nearest_even) {
  for (uint32_t i = 0; i < 65536; i++) {
    float value = qn_bf16_to_f32((uint16_t)i), middle;
    if (isnan(value)) {
      uint16_t back = qn_f32_to_bf16(value);
      qn_check(isnan(qn_bf16_to_f32(back)) && (back & 0x8000) == (i & 0x8000), "%04x", i);
      continue;
    }
    qn_check(qn_f32_to_bf16(value) == i, "%04x", i);
    if (isinf(value)) continue;
    uint32_t bits = i << 16 | 0x8000;
    memcpy(&middle, &bits, sizeof middle);
    qn_check(qn_f32_to_bf16(middle) == i + (i & 1), "%04x: middle", i);
    qn_check(qn_f32_to_bf16(nextafterf(middle, 0)) == i, "%04x: below the middle", i);
    qn_check(qn_f32_to_bf16(nextafterf(middle, signbit(middle) ? -INFINITY : INFINITY)) == i + 1,
             "%04x: beyond the middle", i);
  }
  uint32_t low_payload = 0x7F800001;  // a NaN whose payload is cut off must not become infinity
  float nan;
  memcpy(&nan, &low_payload, sizeof nan);
  ck_assert(isnan(qn_bf16_to_f32(qn_f32_to_bf16(nan))));
  ck_assert(isnan(qn_f16_to_f32(qn_f32_to_f16(nan))));
}
END_TEST

QN_CASE(floats, every_half_converts_exactly, halves_round_to_nearest_even, halves_agree_with_the_compiler,
        bfloat_rounds_to_nearest_even)

QN_TEST_MAIN(text, floats)
