// Quantising rows: known blocks byte for byte, the distance to what was asked, and values that no format holds.
#include "frontend/import/quantize.h"

#include <math.h>

#include "tests/support/test.h"

// Every block format that a quantiser makes, and the relative RMS error it may have on normally distributed values:
// what was measured and 2 %. Behind each, for the judgement of it: b bits of evenly spaced levels for a whole normal
// distribution give at best 0.344, 0.193, 0.107, 0.0591, 0.0322, 0.00946 for b = 2, 3, 4, 5, 6, 8 (J. Max, "Quantizing
// for minimum distortion", 1960); a scale for every 16 or 32 values makes it less.
static const struct {
  const char *name;
  double error;
} formats[] = {
    {"q8_0", 0.0055},   {"q4_0", 0.0829},   {"q4_1", 0.0729},  {"q5_0", 0.0410}, {"q5_1", 0.0353},
    {"q2_k", 0.2663},   {"q3_k", 0.1475},   {"q4_k", 0.0723},  {"q5_k", 0.0356}, {"q6_k", 0.0171},
    {"iq4_nl", 0.0761}, {"iq4_xs", 0.0767}, {"mxfp4", 0.1142},
};

static const qn_format *format_named(const char *name) {
  qn_dtype dtype;
  ck_assert_msg(qn_dtype_parse(qn_str_from(name), &dtype), "there is no format %s", name);
  return qn_format_of(dtype);
}

// Values whose blocks were computed by hand from ggml's definitions: -8 .. 7.5 in halves.
static void ramp(float row[32]) {
  for (int i = 0; i < 32; i++) row[i] = -8.0f + 0.5f * (float)i;
}

START_TEST(test_known_blocks) {
  float row[32];
  uint8_t block[64];
  qn_diag diag = {0};
  ramp(row);
  // q8_0: scale = 8 / 127; codes in two's complement, -127 at most.
  qn_assert_ok(&diag, qn_quantize_row(qn_format_of(QN_DTYPE_Q8_0), 32, row, block, "t", &diag));
  ck_assert_int_eq(block[0] | block[1] << 8, qn_f32_to_f16(8.0f / 127.0f));
  for (int i = 0; i < 32; i++) ck_assert_int_eq((int8_t)block[2 + i], (int)roundf(row[i] * (1.0f / (8.0f / 127.0f))));
  ck_assert_int_eq((int8_t)block[2], -127);
}
END_TEST

// Blocks that hold every code, with a scale that f16 has: nothing is lost, and each code is where ggml has it.
START_TEST(test_exact_blocks) {
  float row[32];
  uint8_t block[64];
  qn_diag diag = {0};
  for (int i = 0; i < 32; i++) row[i] = 0.5f * (float)(i % 16 - 8);
  qn_assert_ok(&diag, qn_quantize_row(qn_format_of(QN_DTYPE_Q4_0), 32, row, block, "t", &diag));
  ck_assert(block[0] == 0x00 && block[1] == 0x38);
  for (int i = 0; i < 16; i++) ck_assert_int_eq(block[2 + i], i | i << 4);
  qn_assert_ok(&diag, qn_quantize_row(qn_format_of(QN_DTYPE_Q4_1), 32, row, block, "t", &diag));
  ck_assert(block[0] == 0x00 && block[1] == 0x38 && block[2] == 0x00 && block[3] == 0xc4);
  for (int i = 0; i < 16; i++) ck_assert_int_eq(block[4 + i], i | i << 4);
}
END_TEST

// The sum of twelve uniforms.
static float random_normal(qn_test_random *random) {
  double sum = -6.0;
  for (int i = 0; i < 12; i++) sum += qn_test_random_unit(random);
  return (float)sum;
}

// The relative RMS error of quantising a row of k <= 4096 values.
static double relative_error(const qn_format *format, int64_t k, const float *row) {
  static uint8_t blocks[4096 * 2];
  static double back[4096];
  qn_diag diag = {0};
  double squares = 0, errors = 0;
  qn_assert_ok(&diag, qn_quantize_row(format, k, row, blocks, "t", &diag));
  qn_format_row_to_f64(format, k, blocks, back);
  for (int64_t i = 0; i < k; i++) {
    squares += (double)row[i] * (double)row[i];
    errors += (back[i] - (double)row[i]) * (back[i] - (double)row[i]);
  }
  return squares > 0 ? sqrt(errors / squares) : errors;
}

START_TEST(test_normal_values) {
  static float row[4096];
  static const float sizes[] = {1.0f, 0.02f, 300.0f};
  for (size_t f = 0; f < QN_COUNT(formats); f++) {
    const qn_format *format = format_named(formats[f].name);
    qn_test_random random = {7};
    double worst = 0;
    for (size_t s = 0; s < QN_COUNT(sizes); s++) {
      double squares = 0;
      for (int trial = 0; trial < 4; trial++) {
        for (int i = 0; i < 4096; i++) row[i] = sizes[s] * random_normal(&random);
        double error = relative_error(format, 4096, row);
        squares += error * error / 4;
      }
      worst = fmax(worst, sqrt(squares));
    }
    ck_assert_msg(worst <= formats[f].error, "%s: relative RMS error %.5f, want at most %.5f", format->name, worst,
                  formats[f].error);
  }
}
END_TEST

// Rows that are no bell: evenly spread, all on one side, one large value, all equal, tiny, nothing. Errors stay within
// what the width of the range explains.
START_TEST(test_other_values) {
  float row[512];
  for (size_t f = 0; f < QN_COUNT(formats); f++) {
    const qn_format *format = format_named(formats[f].name);
    qn_test_random random = {11};
    double least = formats[f].error;
    for (int i = 0; i < 512; i++) row[i] = (float)(qn_test_random_unit(&random) - 0.5);
    double spread = relative_error(format, 512, row);
    ck_assert_msg(spread <= 1.25 * least, "%s: evenly spread: %g", format->name, spread);
    for (int i = 0; i < 512; i++) row[i] += 3.5f;
    double above = relative_error(format, 512, row);
    ck_assert_msg(above <= least, "%s: on one side: %g", format->name, above);
    for (int i = 0; i < 512; i++) row[i] = -row[i];
    ck_assert(relative_error(format, 512, row) <= least);
    for (int i = 0; i < 512; i++) row[i] = i == 77 ? -100.0f : 1e-3f * (float)(i % 5);
    double spike = relative_error(format, 512, row);
    ck_assert_msg(spike <= 0.05, "%s: one large value: %g", format->name, spike);
    for (int i = 0; i < 512; i++) row[i] = 0.7f;
    double equal = relative_error(format, 512, row);
    ck_assert_msg(equal <= 0.08, "%s: all equal: %g", format->name, equal);  // mxfp4 has two numbers an octave
    for (int i = 0; i < 512; i++) row[i] = (float)(i % 3) * 1e-30f;
    ck_assert(relative_error(format, 512, row) <= 1.0 + 1e-6);
    for (int i = 0; i < 512; i++) row[i] = 0.0f;
    ck_assert(relative_error(format, 512, row) == 0.0);
  }
}
END_TEST

START_TEST(test_blocks_are_on_their_own) {
  // A block's bytes are a function of its values: rows may be cut anywhere between blocks.
  float row[1024];
  uint8_t whole[2048], parts[2048];
  qn_test_random random = {5};
  qn_diag diag = {0};
  for (int i = 0; i < 1024; i++) row[i] = random_normal(&random);
  for (size_t f = 0; f < QN_COUNT(formats); f++) {
    const qn_format *format = format_named(formats[f].name);
    size_t quarter = 256 / format->block_values * format->block_bytes;
    qn_assert_ok(&diag, qn_quantize_row(format, 1024, row, whole, "t", &diag));
    for (int i = 3; i >= 0; i--) {
      qn_assert_ok(&diag, qn_quantize_row(format, 256, row + 256 * i, parts + quarter * (size_t)i, "t", &diag));
    }
    ck_assert_mem_eq(whole, parts, 4 * quarter);
  }
}
END_TEST

// A format without a line above would go untested.
START_TEST(test_every_format_is_listed) {
  size_t blocks = 0;
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    if (format && !qn_dtype_is_float(format->dtype) && format->gguf_type != QN_NO_GGUF_TYPE) blocks++;
  }
  ck_assert_uint_eq(blocks, QN_COUNT(formats));
}
END_TEST

START_TEST(test_what_rows_become) {
  static const struct {
    const char *asked;
    int64_t k;
    const char *got;
  } cases[] = {
      {"q4_0", 64, "q4_0"},     {"q4_0", 172, "f16"},  {"q8_0", 33, "f16"},    {"f32", 7, "f32"},
      {"bf16", 7, "bf16"},      {"q4_k", 512, "q4_k"}, {"q4_k", 576, "q5_0"},  {"q4_k", 100, "f16"},
      {"q6_k", 64, "q8_0"},     {"q5_k", 32, "q5_1"},  {"q2_k", 96, "iq4_nl"}, {"q3_k", 96, "iq4_nl"},
      {"iq4_xs", 32, "iq4_nl"}, {"mxfp4", 48, "f16"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    const char *got = qn_quantize_format_for(format_named(cases[i].asked), cases[i].k)->name;
    ck_assert_msg(strcmp(got, cases[i].got) == 0, "%s for rows of %d: got %s, want %s", cases[i].asked, (int)cases[i].k,
                  got, cases[i].got);
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
      {QN_DTYPE_Q4_0, 6e5f, "values 32 to 63 of a row need a scale or minimum of -75000 as q4_0"},
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

QN_CASE(quantize, test_known_blocks, test_exact_blocks, test_normal_values, test_other_values,
        test_blocks_are_on_their_own, test_every_format_is_listed, test_what_rows_become, test_float_formats,
        test_refusals)
QN_TEST_MAIN(quantize)
