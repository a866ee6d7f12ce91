// ir/format: what each block format of GGUF means, decoded here by small readers of their own, against the reading that
// is made from the table; and numbers put into blocks.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ir/format.h"
#include "tests/support/test.h"

enum { MAX_BYTES = 256, MAX_VALUES = 256 };

static double half_at(const uint8_t *at) { return (double)qn_f16_to_f32((uint16_t)(at[0] | at[1] << 8)); }

static void read_q8_0(const uint8_t *b, double *y) {
  for (int i = 0; i < 32; i++) y[i] = half_at(b) * (int8_t)b[2 + i];
}

static int nibble(const uint8_t *qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }

static void read_q4_0(const uint8_t *b, double *y) {
  for (int i = 0; i < 32; i++) y[i] = half_at(b) * (nibble(b + 2, i) - 8);
}

static void read_q4_1(const uint8_t *b, double *y) {
  for (int i = 0; i < 32; i++) y[i] = half_at(b) * nibble(b + 4, i) + half_at(b + 2);
}

static int fifth_bit(const uint8_t *qh, int i) { return (qh[i / 8] >> i % 8 & 1) << 4; }

static void read_q5_0(const uint8_t *b, double *y) {
  for (int i = 0; i < 32; i++) y[i] = half_at(b) * ((nibble(b + 6, i) | fifth_bit(b + 2, i)) - 16);
}

static void read_q5_1(const uint8_t *b, double *y) {
  for (int i = 0; i < 32; i++) y[i] = half_at(b) * (nibble(b + 8, i) | fifth_bit(b + 4, i)) + half_at(b + 2);
}

// 16 scales and mins in nibbles, 64 bytes of codes of 2 bits: 128 values share 32 bytes, 32 values a bit pair.
static void read_q2_k(const uint8_t *b, double *y) {
  const uint8_t *scales = b, *qs = b + 16;
  double d = half_at(b + 80), dmin = half_at(b + 82);
  for (int half = 0, group = 0; half < 2; half++, qs += 32) {
    for (int shift = 0; shift < 8; shift += 2) {
      for (int part = 0; part < 2; part++, group++) {
        for (int l = 0; l < 16; l++) {
          *y++ = d * (scales[group] & 15) * (qs[16 * part + l] >> shift & 3) - dmin * (scales[group] >> 4);
        }
      }
    }
  }
}

// The high bit is inverted in meaning: where it is clear, 4 is subtracted. Scales: 4 low bits, then 2 high ones.
static void read_q3_k(const uint8_t *b, double *y) {
  const uint8_t *hmask = b, *qs = b + 32, *packed = b + 96;
  int scales[16], high = 1;
  double d = half_at(b + 108);
  for (int i = 0; i < 4; i++) {
    for (int word = 0; word < 4; word++) {
      int low = word < 2 ? packed[4 * word + i] & 15 : packed[4 * (word - 2) + i] >> 4;
      scales[4 * word + i] = (low | (packed[8 + i] >> 2 * word & 3) << 4) - 32;
    }
  }
  for (int half = 0, group = 0; half < 2; half++, qs += 32) {
    for (int shift = 0; shift < 8; shift += 2, high <<= 1) {
      for (int part = 0; part < 2; part++, group++) {
        for (int l = 16 * part; l < 16 * part + 16; l++) {
          *y++ = d * scales[group] * ((qs[l] >> shift & 3) - (hmask[l] & high ? 0 : 4));
        }
      }
    }
  }
}

static void k_scale_min(const uint8_t *q, int j, int *scale, int *min) {
  if (j < 4) {
    *scale = q[j] & 63;
    *min = q[j + 4] & 63;
  } else {
    *scale = (q[j + 4] & 15) | (q[j - 4] >> 6) << 4;
    *min = q[j + 4] >> 4 | (q[j] >> 6) << 4;
  }
}

// 64 values share 32 bytes of nibbles; the fifth bits (qh NULL: none) take a bit plane for each 32 values.
static void read_k(const uint8_t *b, const uint8_t *qh, const uint8_t *qs, double *y) {
  for (int j = 0; j < 8; j++) {
    int scale, min;
    k_scale_min(b + 4, j, &scale, &min);
    for (int l = 0; l < 32; l++) {
      int low = qs[j / 2 * 32 + l] >> 4 * (j % 2) & 15, high = qh ? (qh[l] >> j & 1) << 4 : 0;
      *y++ = half_at(b) * scale * (low | high) - half_at(b + 2) * min;
    }
  }
}

static void read_q4_k(const uint8_t *b, double *y) { read_k(b, NULL, b + 16, y); }
static void read_q5_k(const uint8_t *b, double *y) { read_k(b, b + 16, b + 48, y); }

static void read_q6_k(const uint8_t *b, double *y) {
  const uint8_t *ql = b, *qh = b + 128;
  const int8_t *scales = (const int8_t *)(b + 192);
  double d = half_at(b + 208);
  for (int n = 0; n < 256; n += 128, ql += 64, qh += 32, scales += 8) {
    for (int l = 0; l < 32; l++) {
      int q[4] = {(ql[l] & 15) | (qh[l] & 3) << 4, (ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4,
                  ql[l] >> 4 | (qh[l] >> 4 & 3) << 4, ql[l + 32] >> 4 | (qh[l] >> 6) << 4};
      for (int i = 0; i < 4; i++) y[n + l + 32 * i] = d * scales[l / 16 + 2 * i] * (q[i] - 32);
    }
  }
}

static const int iq4_numbers[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void read_iq4_nl(const uint8_t *b, double *y) {
  for (int i = 0; i < 32; i++) y[i] = half_at(b) * iq4_numbers[nibble(b + 2, i)];
}

static void read_iq4_xs(const uint8_t *b, double *y) {
  int high = b[2] | b[3] << 8;
  for (int j = 0; j < 8; j++) {
    int scale = ((b[4 + j / 2] >> 4 * (j % 2) & 15) | (high >> 2 * j & 3) << 4) - 32;
    for (int i = 0; i < 32; i++) *y++ = half_at(b) * scale * iq4_numbers[nibble(b + 8 + 16 * j, i)];
  }
}

static void read_mxfp4(const uint8_t *b, double *y) {
  static const double numbers[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (int i = 0; i < 32; i++) {
    int code = nibble(b + 1, i);
    y[i] = ldexp(numbers[code & 7], b[0] - 127) * (code & 8 ? -1 : 1);
  }
}

// Codes less a zero point, in groups of 32: a bit (4 bits) for each group's scale, a byte for its zero.
static void read_z4_128(const uint8_t *b, double *y) {
  for (int j = 0; j < 4; j++) {
    for (int i = 0; i < 32; i++) *y++ = half_at(b) * ((b[2] >> j & 1) * nibble(b + 7 + 16 * j, i) - (b[3 + j] & 31));
  }
}

static void read_z4_32(const uint8_t *b, double *y) {
  for (int i = 0; i < 32; i++) y[i] = half_at(b) * ((b[2] & 15) * nibble(b + 4, i) - (b[3] & 31));
}

static const struct {
  qn_dtype dtype;
  int values, bytes;
  void (*read)(const uint8_t *block, double *out);
} readers[] = {{QN_DTYPE_Q8_0, 32, 34, read_q8_0},     {QN_DTYPE_Q4_0, 32, 18, read_q4_0},
               {QN_DTYPE_Q4_1, 32, 20, read_q4_1},     {QN_DTYPE_Q5_0, 32, 22, read_q5_0},
               {QN_DTYPE_Q5_1, 32, 24, read_q5_1},     {QN_DTYPE_Q2_K, 256, 84, read_q2_k},
               {QN_DTYPE_Q3_K, 256, 110, read_q3_k},   {QN_DTYPE_Q4_K, 256, 144, read_q4_k},
               {QN_DTYPE_Q5_K, 256, 176, read_q5_k},   {QN_DTYPE_Q6_K, 256, 210, read_q6_k},
               {QN_DTYPE_IQ4_NL, 32, 18, read_iq4_nl}, {QN_DTYPE_IQ4_XS, 256, 136, read_iq4_xs},
               {QN_DTYPE_MXFP4, 32, 17, read_mxfp4},   {QN_DTYPE_Z4_128, 128, 71, read_z4_128},
               {QN_DTYPE_Z4_32, 32, 20, read_z4_32}};

static bool is_finite_block(const double *values, int count) {
  for (int i = 0; i < count; i++) {
    if (!isfinite(values[i])) return false;
  }
  return true;
}

START_TEST(random_blocks_mean_the_same) {
  qn_test_random random = {3};
  uint8_t block[MAX_BYTES];
  double want[MAX_VALUES], got[MAX_VALUES];
  for (size_t r = 0; r < QN_COUNT(readers); r++) {
    const qn_format *format = qn_format_of(readers[r].dtype);
    ck_assert_int_eq((int)format->block_values, readers[r].values);
    ck_assert_int_eq((int)format->block_bytes, readers[r].bytes);
    int finite = 0;
    for (int trial = 0; trial < 300; trial++) {
      for (int i = 0; i < readers[r].bytes; i++) block[i] = (uint8_t)qn_test_random_u64(&random);
      readers[r].read(block, want);
      if (!is_finite_block(want, readers[r].values)) continue;  // a scale that is infinite or NaN
      finite++;
      qn_format_row_to_f64(format, readers[r].values, block, got);
      for (int i = 0; i < readers[r].values; i++) {
        qn_check(got[i] == want[i], "%s, trial %d, value %d: got %a, want %a", format->name, trial, i, got[i], want[i]);
      }
    }
    ck_assert_int_gt(finite, 100);
  }
}
END_TEST

START_TEST(every_block_format_has_a_reader) {
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    bool found = !format || format->block_values == 1;
    for (size_t r = 0; r < QN_COUNT(readers); r++) found = found || readers[r].dtype == (qn_dtype)dtype;
    ck_assert_msg(found, "%s has no reader in this test", format ? format->name : "");
  }
}
END_TEST

// Fields take every number in any order, and numbers written touch no others.
static void check_field(const char *name, const qn_field *field, int count, int bits) {
  qn_test_random random = {17};
  uint8_t block[MAX_BYTES];
  uint32_t numbers[MAX_VALUES];
  for (size_t i = 0; i < sizeof block; i++) block[i] = (uint8_t)qn_test_random_u64(&random);
  for (int i = 0; i < count; i++) {
    int number = count - 1 - i;
    numbers[number] = (uint32_t)qn_test_random_u64(&random) & ((1u << bits) - 1);
    qn_field_put(field, block, (uint32_t)number, numbers[number]);
  }
  for (int i = 0; i < count; i++) {
    uint32_t got = qn_field_get(field, block, (uint32_t)i);
    qn_check(got == numbers[i], "%s, number %d: got %u, want %u", name, i, got, numbers[i]);
  }
}

START_TEST(fields_are_written_as_they_are_read) {
  char name[64];
  for (size_t r = 0; r < QN_COUNT(readers); r++) {
    const qn_format *f = qn_format_of(readers[r].dtype);
    int groups = (int)(f->block_values / f->group_values);
    check_field(f->name, &f->codes, readers[r].values, (int)f->code_bits);
    snprintf(name, sizeof name, "%s's scales", f->name);
    if (f->sub_scale.bits > 0) check_field(name, &f->sub_scale.field, groups, f->sub_scale.bits);
    snprintf(name, sizeof name, "%s's mins", f->name);
    if (f->sub_min.bits > 0) check_field(name, &f->sub_min.field, groups, f->sub_min.bits);
  }
}
END_TEST

// Scales and mins of a K block do not share bits: writing one set leaves the other.
START_TEST(scales_leave_mins_alone) {
  const qn_format *f = qn_format_of(QN_DTYPE_Q4_K);
  uint8_t block[144] = {0};
  for (uint32_t i = 0; i < 8; i++) qn_field_put(&f->sub_min.field, block, i, 63 - i);
  for (uint32_t i = 0; i < 8; i++) qn_field_put(&f->sub_scale.field, block, i, 7 * i);
  for (uint32_t i = 0; i < 8; i++) {
    ck_assert_uint_eq(qn_field_get(&f->sub_min.field, block, i), 63 - i);
    ck_assert_uint_eq(qn_field_get(&f->sub_scale.field, block, i), 7 * i);
  }
  for (int i = 0; i < 144; i++) ck_assert(block[i] == 0 || (i >= 4 && i < 16));
}
END_TEST

QN_CASE(blocks, random_blocks_mean_the_same, every_block_format_has_a_reader)
QN_CASE(fields, fields_are_written_as_they_are_read, scales_leave_mins_alone)
QN_TEST_MAIN(blocks, fields)
