// Quantising rows: known blocks byte for byte, the distance to what was asked, and values that no format holds.
#include "frontend/import/quantize.h"

#include <math.h>

#include "tests/support/test.h"

static const qn_dtype block_dtypes[] = {QN_DTYPE_Q8_0, QN_DTYPE_Q4_0, QN_DTYPE_Q4_1};

// Values whose blocks were computed by hand from ggml's definitions: -8 .. 7.5 in halves.
static void ramp(float row[32]) {
  for (int i = 0; i < 32; i++) row[i] = -8.0f + 0.5f * (float)i;
}

START_TEST(test_known_blocks) {
  float row[32];
  uint8_t block[64];
  qn_diag diag = {0};
  ramp(row);
  // q4_0: scale = -8 / -8 = 1 (0x3c00); code = trunc(x + 8.5), the last (16.0 + 0.0) clipped to 15.
  qn_assert_ok(&diag, qn_quantize_row(qn_format_of(QN_DTYPE_Q4_0), 32, row, block, "t", &diag));
  ck_assert(block[0] == 0x00 && block[1] == 0x3c);
  for (int i = 0; i < 16; i++) {
    int low = (i + 1) / 2, high = (i + 17) / 2 > 15 ? 15 : (i + 17) / 2;
    ck_assert_int_eq(block[2 + i], low | high << 4);
  }
  // q4_1: scale = 15.5 / 15, min = -8.
  qn_assert_ok(&diag, qn_quantize_row(qn_format_of(QN_DTYPE_Q4_1), 32, row, block, "t", &diag));
  ck_assert_int_eq(block[0] | block[1] << 8, qn_f32_to_f16(15.5f / 15.0f));
  ck_assert(block[2] == 0x00 && block[3] == 0xc8);
  ck_assert_int_eq(block[4] & 15, 0);
  ck_assert_int_eq(block[4 + 15] >> 4, 15);
  // q8_0: scale = 8 / 127; codes in two's complement, -127 at most.
  qn_assert_ok(&diag, qn_quantize_row(qn_format_of(QN_DTYPE_Q8_0), 32, row, block, "t", &diag));
  ck_assert_int_eq(block[0] | block[1] << 8, qn_f32_to_f16(8.0f / 127.0f));
  for (int i = 0; i < 32; i++) ck_assert_int_eq((int8_t)block[2 + i], (int)roundf(row[i] * (1.0f / (8.0f / 127.0f))));
  ck_assert_int_eq((int8_t)block[2], -127);
}
END_TEST

// Half a step, and what rounding the scale (by 2^-11 of itself, or 2^-25 where it is subnormal) and the min to f16
// moves a code that is far from zero.
static double allowed_error(const qn_format *format, double scale, double magnitude) {
  double codes = (double)(1 << format->code_bits);
  // The top code of an unsigned format without min is one short of the mirror image: a whole step off.
  double steps = format->min_at < 0 && !format->codes_signed ? 1.0 : 0.5;
  return scale * steps * (1 + 1e-3) + codes * fmax(scale * 0x1p-11, 0x1p-25) + magnitude * 0x1p-11;
}

START_TEST(test_round_trip) {
  qn_test_random random = {7};
  float row[256];
  double back[256];
  uint8_t blocks[1024];
  qn_diag diag = {0};
  for (size_t d = 0; d < QN_COUNT(block_dtypes); d++) {
    const qn_format *format = qn_format_of(block_dtypes[d]);
    for (int trial = 0; trial < 200; trial++) {
      double size = pow(10.0, -4.0 + 7.0 * qn_test_random_unit(&random)), shift = qn_test_random_unit(&random) - 0.5;
      for (int i = 0; i < 256; i++) row[i] = (float)(size * (qn_test_random_unit(&random) - 0.5 + shift));
      qn_assert_ok(&diag, qn_quantize_row(format, 256, row, blocks, "t", &diag));
      qn_format_row_to_f64(format, 256, blocks, back);
      for (int i = 0; i < 256; i++) {
        uint16_t half;
        memcpy(&half, blocks + i / 32 * (int)format->block_bytes + format->scale_at, sizeof half);
        double error = fabs(back[i] - (double)row[i]);
        double allowed = allowed_error(format, fabs((double)qn_f16_to_f32(half)), size);
        ck_assert_msg(error <= allowed, "%s: value %d is %g, came back as %g, allowed %g", format->name, i,
                      (double)row[i], back[i], allowed);
      }
    }
  }
}
END_TEST

START_TEST(test_fixed_points) {
  // What came out of a block goes in unchanged: quantising is idempotent where the extreme codes are used.
  static const double extremes[] = {0.0, 1.0, -1.0, 1e-30, 65504.0, -65504.0, 0x1p-24};
  float row[32], again[32];
  double back[32];
  uint8_t block[64], block_again[64];
  qn_diag diag = {0};
  for (size_t d = 0; d < QN_COUNT(block_dtypes); d++) {
    const qn_format *format = qn_format_of(block_dtypes[d]);
    for (size_t e = 0; e < QN_COUNT(extremes); e++) {
      for (int i = 0; i < 32; i++) row[i] = (float)(i % 3 == 0 ? extremes[e] : 0.0);
      qn_assert_ok(&diag, qn_quantize_row(format, 32, row, block, "t", &diag));
      qn_format_row_to_f64(format, 32, block, back);
      for (int i = 0; i < 32; i++) again[i] = (float)back[i];
      if (fabs(extremes[e]) < 1e-20) {  // below f16: all zero
        for (int i = 0; i < 32; i++) ck_assert(again[i] == 0.0f);
        continue;
      }
      qn_assert_ok(&diag, qn_quantize_row(format, 32, again, block_again, "t", &diag));
      if (fabs(extremes[e]) >= 1.0) ck_assert_mem_eq(block, block_again, format->block_bytes);
    }
  }
}
END_TEST

START_TEST(test_float_formats) {
  static const float row[] = {1.0f, -0.0f, 1e-8f, 65504.0f, -65519.0f, INFINITY, NAN, 3.14159f};
  uint8_t out[sizeof row];
  double back[8];
  qn_diag diag = {0};
  qn_assert_ok(&diag, qn_quantize_row(qn_format_of(QN_DTYPE_F32), 8, row, out, "t", &diag));
  ck_assert_mem_eq(out, row, sizeof row);
  qn_assert_ok(&diag, qn_quantize_row(qn_format_of(QN_DTYPE_F16), 8, row, out, "t", &diag));
  qn_format_row_to_f64(qn_format_of(QN_DTYPE_F16), 8, out, back);
  ck_assert(back[0] == 1.0 && back[2] == 0.0 && back[3] == 65504.0 && back[4] == -65504.0);
  ck_assert(isinf(back[5]) && isnan(back[6]) && back[7] == 3.140625);
  qn_assert_ok(&diag, qn_quantize_row(qn_format_of(QN_DTYPE_BF16), 8, row, out, "t", &diag));
  qn_format_row_to_f64(qn_format_of(QN_DTYPE_BF16), 8, out, back);
  ck_assert(back[0] == 1.0 && back[7] == 3.140625 && isinf(back[5]) && isnan(back[6]));
}
END_TEST

START_TEST(test_refusals) {
  static const struct {
    qn_dtype dtype;
    float value;
    const char *text;
  } cases[] = {
      {QN_DTYPE_Q8_0, NAN, "m: tensor 't': value 33 of a row cannot become q8_0; got nan, want a finite number"},
      {QN_DTYPE_Q4_1, INFINITY, "value 33 of a row cannot become q4_1; got inf, want a finite number"},
      {QN_DTYPE_Q8_0, 1e7f, "values 32 to 63 of a row need a scale or minimum of 78740.2 as q8_0, want one within"},
      {QN_DTYPE_Q4_0, 6e5f, "need a scale or minimum of -75000 as q4_0"},
      {QN_DTYPE_Q4_1, -70000.0f, "need a scale or minimum of -70000 as q4_1"},
      {QN_DTYPE_F16, 65520.0f, "value 33 of a row cannot become f16; got 65520, want at most 65504"},
      {QN_DTYPE_BF16, 3.4e38f, "value 33 of a row cannot become bf16; got 3.4e+38, want at most 3.39e38"},
  };
  float row[64] = {0};
  uint8_t out[256];
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    qn_diag diag = {0};
    row[33] = cases[i].value;
    qn_assert_fails(&diag, QN_ERR_FORMAT, cases[i].text,
                    qn_quantize_row(qn_format_of(cases[i].dtype), 64, row, out, "m: tensor 't'", &diag));
  }
  qn_diag diag = {0};
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "a row of 33 values cannot become q4_0; want a multiple of 32",
                  qn_quantize_row(qn_format_of(QN_DTYPE_Q4_0), 33, row, out, "t", &diag));
}
END_TEST

QN_CASE(quantize, test_known_blocks, test_round_trip, test_fixed_points, test_float_formats, test_refusals)
QN_TEST_MAIN(quantize)
