// ir/format: for every line of the table, pack and read back element by element against the file's own reading, the
// exact place of every byte of the tile layout, and sizes.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/format.h"
#include "tests/support/test.h"

static const qn_format *each_format(int *index) {
  while (*index < QN_DTYPE_COUNT) {
    const qn_format *format = qn_format_of((qn_dtype)(*index)++);
    if (format) return format;
  }
  return NULL;
}

// Random bytes with scales and float values that are finite.
static uint8_t *random_file(const qn_format *format, int64_t n, int64_t k, qn_test_random *random) {
  size_t size;
  ck_assert(qn_format_file_bytes(format, n, k, &size));
  uint8_t *data = malloc(size);
  for (size_t i = 0; i < size; i++) data[i] = (uint8_t)qn_test_random_u64(random);
  for (size_t at = 0; at < size; at += format->block_bytes) {
    float value = (float)(qn_test_random_unit(random) * 4 - 2);
    uint16_t f16 = qn_f32_to_f16(value), bf16 = qn_f32_to_bf16(value);
    if (format->scale_kind == QN_SCALE_F16) memcpy(data + at + format->scale_at, &f16, 2);
    if (format->scale_kind == QN_SCALE_E8M0) data[at + (size_t)format->scale_at] %= 250;
    f16 = qn_f32_to_f16((float)qn_test_random_unit(random));
    if (format->min_at >= 0) memcpy(data + at + format->min_at, &f16, 2);
    if (format->dtype == QN_DTYPE_F32) memcpy(data + at, &value, 4);
    if (format->dtype == QN_DTYPE_F16) memcpy(data + at, &f16, 2);
    if (format->dtype == QN_DTYPE_BF16) memcpy(data + at, &bf16, 2);
  }
  return data;
}

static void compare_packed(const qn_format *format, uint32_t rows, int64_t n, int64_t k, qn_test_random *random) {
  size_t file_bytes, tile_bytes;
  ck_assert(qn_format_file_bytes(format, n, k, &file_bytes) && qn_format_tile_bytes(format, rows, n, k, &tile_bytes));
  uint8_t *file = random_file(format, n, k, random);
  uint8_t *tile = malloc(tile_bytes), *by_parts = malloc(tile_bytes);
  double *row = malloc((size_t)k * sizeof *row);
  memset(tile, 0xEE, tile_bytes);
  memset(by_parts, 0x11, tile_bytes);
  qn_format_pack(format, rows, n, k, file, 0, n, tile);
  for (int64_t begin = 0; begin < n; begin += rows) {
    qn_format_pack(format, rows, n, k, file, begin, begin + rows < n ? begin + rows : n, by_parts);
  }
  ck_assert_msg(memcmp(tile, by_parts, tile_bytes) == 0, "%s: parts differ from the whole", format->name);
  for (int64_t i = 0; i < n; i++) {
    qn_format_row_to_f64(format, k, file + (size_t)i * (file_bytes / (size_t)n), row);
    for (int64_t j = 0; j < k; j++) {
      double got = qn_format_tile_get(format, rows, k, tile, i, j);
      qn_check(got == row[j], "%s rows %u (%d, %d) of (%d, %d): got %a, want %a", format->name, rows, (int)i, (int)j,
               (int)n, (int)k, got, row[j]);
    }
  }
  int64_t padded = (n + rows - 1) / rows * rows;
  for (int64_t i = n; i < padded; i++) {
    for (int64_t j = 0; j < k; j++) {
      qn_check(qn_format_tile_get(format, rows, k, tile, i, j) == 0.0, "%s: padding (%d, %d) is not zero", format->name,
               (int)i, (int)j);
    }
  }
  free(file), free(tile), free(by_parts), free(row);
}

START_TEST(packing_keeps_every_value) {
  static const int64_t row_counts[] = {1, 2, 15, 16, 17, 33}, block_counts[] = {1, 2, 7};
  static const uint32_t tile_rows[] = {1, 16};
  qn_test_random random = {11};
  int index = 0, formats = 0;
  for (const qn_format *format; (format = each_format(&index)); formats++) {
    for (size_t n = 0; n < QN_COUNT(row_counts); n++) {
      for (size_t b = 0; b < QN_COUNT(block_counts); b++) {
        for (size_t r = 0; r < QN_COUNT(tile_rows); r++) {
          compare_packed(format, tile_rows[r], row_counts[n], block_counts[b] * format->block_values, &random);
        }
      }
    }
  }
  ck_assert_int_ge(formats, 16);
}
END_TEST

// Values that the file formats are known to mean, by hand.
START_TEST(blocks_mean_what_gguf_says) {
  uint8_t block[64] = {0};
  double out[32];
  uint16_t half = qn_f32_to_f16(0.5f), quarter = qn_f32_to_f16(0.25f);
  memcpy(block, &half, 2);
  block[2] = 0x80, block[3] = 0x7F, block[33] = 0xFF;  // Q8_0: -128, 127, ..., -1
  qn_format_row_to_f64(qn_format_of(QN_DTYPE_Q8_0), 32, block, out);
  ck_assert(out[0] == -64.0 && out[1] == 63.5 && out[2] == 0.0 && out[31] == -0.5);
  block[2] = 0xF0, block[17] = 0x19;  // Q4_0: nibbles minus 8; low ones first, high ones 16 later
  qn_format_row_to_f64(qn_format_of(QN_DTYPE_Q4_0), 32, block, out);
  ck_assert(out[0] == -4.0 && out[16] == 3.5 && out[15] == 0.5 && out[31] == -3.5);
  memcpy(block + 2, &quarter, 2);
  block[4] = 0xF0, block[19] = 0x19;  // Q4_1: nibbles times scale plus min
  qn_format_row_to_f64(qn_format_of(QN_DTYPE_Q4_1), 32, block, out);
  ck_assert(out[0] == 0.25 && out[16] == 7.75 && out[15] == 4.75 && out[31] == 0.75);
}
END_TEST

// The places that format.h promises and kernels rely on, of every byte of a panel of 16 rows, where scales are no
// products and codes are of 8 or 4 bits.
START_TEST(tile_bytes_are_where_the_header_says) {
  qn_test_random random = {5};
  enum { N = 16, BLOCKS = 2 };
  int index = 0;
  for (const qn_format *format; (format = each_format(&index));) {
    if (format->scale_kind != QN_SCALE_F16 || format->sub_scale.bits > 0 || format->code_bits % 4 != 0) continue;
    size_t codes_at = format->codes.pieces[0].at;
    int64_t k = BLOCKS * format->block_values;
    size_t size, block_bytes = qn_format_tile_block_bytes(format, QN_TILE_ROWS);
    uint8_t *file = random_file(format, N, k, &random);
    ck_assert(qn_format_tile_bytes(format, QN_TILE_ROWS, N, k, &size));
    ck_assert_uint_eq(size, BLOCKS * block_bytes);
    uint8_t *tile = malloc(size);
    qn_format_pack(format, QN_TILE_ROWS, N, k, file, 0, N, tile);
    for (size_t r = 0; r < N; r++) {
      for (size_t b = 0; b < BLOCKS; b++) {
        const uint8_t *source = file + (r * BLOCKS + b) * format->block_bytes, *at = tile + b * block_bytes;
        ck_assert_mem_eq(at + 2 * r, source + format->scale_at, 2);
        at += 2 * N;
        if (format->min_at >= 0) {
          ck_assert_mem_eq(at + 2 * r, source + format->min_at, 2);
          at += 2 * N;
        }
        for (size_t j = 0; j < format->block_values; j++) {
          int stored, code;
          if (format->code_bits == 8) {
            stored = at[j / 4 * 64 + r * 4 + j % 4];
            code = source[codes_at + j];
            if (format->codes_signed) code = (int8_t)code + format->offset;
          } else {
            size_t half = format->block_values / 2, low = j % half;
            stored = at[low / 4 * 64 + r * 4 + low % 4] >> (j < half ? 0 : 4) & 15;
            code = source[codes_at + low] >> (j < half ? 0 : 4) & 15;
          }
          qn_check(stored == code, "%s: row %zu block %zu value %zu", format->name, r, b, j);
        }
      }
    }
    free(file), free(tile);
  }
}
END_TEST

// A block of 5-bit codes and one in two groups of 16: values 4w..4w+3 of a row, word w, and where their bits are.
START_TEST(planes_are_where_the_header_says) {
  enum { ROW = 3 };
  uint8_t tile[3360];
  const qn_format *q5 = qn_format_of(QN_DTYPE_Q5_0), *q6 = qn_format_of(QN_DTYPE_Q6_K);
  uint8_t *q5_rows = calloc(16, 22), *q6_rows = calloc(16, 210);
  for (uint32_t j = 0; j < 32; j++) qn_field_put(&q5->codes, q5_rows + ROW * 22, j, (j * 7 + 3) % 32);
  qn_format_pack(q5, 16, 16, 32, q5_rows, 0, 16, tile);
  for (uint32_t j = 0; j < 32; j++) {
    uint32_t w = j / 4, low = tile[32 + w % 4 * 64 + ROW * 4 + j % 4] >> w / 4 * 4 & 15;
    uint32_t high = tile[32 + 256 + ROW * 4 + j % 4] >> w & 1;
    ck_assert_uint_eq(low | high << 4, (j * 7 + 3) % 32);
  }
  for (uint32_t j = 0; j < 256; j++) qn_field_put(&q6->codes, q6_rows + ROW * 210, j, (j * 11 + 5) % 64);
  for (uint32_t g = 0; g < 16; g++) qn_field_put(&q6->sub_scale.field, q6_rows + ROW * 210, g, 250 - g);
  qn_format_pack(q6, 16, 16, 256, q6_rows, 0, 16, tile);
  for (uint32_t j = 0; j < 256; j++) {
    const uint8_t *part = tile + 32 + j / 32 * 416, *codes = part + 32;
    uint32_t group = j / 16 % 2, w = j / 4 % 4;
    ck_assert_uint_eq(part[group * 16 + ROW], 250 - j / 16);
    uint32_t low = codes[(group * 2 + w % 2) * 64 + ROW * 4 + j % 4] >> w / 2 * 4 & 15;
    uint32_t high = codes[256 + group * 64 + ROW * 4 + j % 4] >> w * 2 & 3;
    ck_assert_uint_eq(low | high << 4, (j * 11 + 5) % 64);
  }
  free(q5_rows), free(q6_rows);
}
END_TEST

// Codes of 3 bits, two whole ones in a byte of each of three lines, and words 6 and 7 in what is left: their bits are
// those that stand beside them in the table, the line and the bit of the byte.
START_TEST(whole_codes_are_where_the_header_says) {
  enum { ROW = 5 };
  static const uint8_t left_over[2][3][2] = {{{0, 6}, {0, 7}, {1, 6}}, {{1, 7}, {2, 6}, {2, 7}}};
  const qn_format *q3 = qn_format_of(QN_DTYPE_Q3_K);
  uint8_t *tile = calloc(1, 1824), *rows = calloc(16, 110);
  for (uint32_t j = 0; j < 256; j++) qn_field_put(&q3->codes, rows + ROW * 110, j, (j * 5 + j / 8) % 8);
  qn_format_pack(q3, 16, 16, 256, rows, 0, 16, tile);
  for (uint32_t j = 0; j < 256; j++) {
    const uint8_t *codes = tile + 32 + j / 32 * 224 + 32 + ROW * 4 + j % 4;
    uint32_t w = j / 4 % 8, code = 0;
    for (uint32_t i = 0; w >= 6 && i < 3; i++)
      code |= (codes[left_over[w - 6][i][0] * 64] >> left_over[w - 6][i][1] & 1u) << i;
    if (w < 6) code = codes[w / 2 * 64] >> (w % 2 * 3) & 7;
    ck_assert_uint_eq(code, (j * 5 + j / 8) % 8);
  }
  free(tile), free(rows);
}
END_TEST

START_TEST(floats_lie_in_panels) {
  const qn_format *format = qn_format_of(QN_DTYPE_F32);
  float file[20][3], tile[2][3][16];
  for (int n = 0; n < 20; n++) {
    for (int k = 0; k < 3; k++) file[n][k] = (float)(n * 10 + k);
  }
  qn_format_pack(format, 16, 20, 3, file, 0, 20, tile);
  for (int n = 0; n < 32; n++) {
    for (int k = 0; k < 3; k++) ck_assert_float_eq(tile[n / 16][k][n % 16], n < 20 ? (float)(n * 10 + k) : 0.0f);
  }
}
END_TEST

// One block: padding rows hold zero scales and the code that means zero.
START_TEST(padding_rows_hold_the_zero_code) {
  uint8_t file[34] = {0}, tile[544];
  qn_format_pack(qn_format_of(QN_DTYPE_Q8_0), 16, 1, 32, file, 0, 1, tile);
  for (size_t i = 0; i < 32; i++) ck_assert_uint_eq(tile[i], 0);
  for (size_t i = 32; i < 544; i++) ck_assert_uint_eq(tile[i], 0x80);
  qn_format_pack(qn_format_of(QN_DTYPE_Q4_0), 16, 1, 32, file, 0, 1, tile);
  for (size_t i = 32; i < 288; i++) ck_assert_uint_eq(tile[i], (i - 32) / 4 % 16 == 0 ? 0 : 0x88);
}
END_TEST

START_TEST(sizes_are_those_of_the_design) {
  size_t size = 7;
  const qn_format *q8 = qn_format_of(QN_DTYPE_Q8_0), *q4 = qn_format_of(QN_DTYPE_Q4_0);
  ck_assert_uint_eq(qn_format_tile_block_bytes(q8, 16), 544);
  ck_assert_uint_eq(qn_format_tile_block_bytes(q4, 16), 288);
  ck_assert_uint_eq(qn_format_tile_block_bytes(qn_format_of(QN_DTYPE_Q4_1), 16), 320);
  static const struct {
    qn_dtype dtype;
    size_t rows1, rows16;
  } blocks[] = {{QN_DTYPE_Q5_0, 22, 352},   {QN_DTYPE_Q5_1, 24, 384},   {QN_DTYPE_Q2_K, 84, 1344},
                {QN_DTYPE_Q3_K, 114, 1824}, {QN_DTYPE_Q4_K, 148, 2368}, {QN_DTYPE_Q5_K, 180, 2880},
                {QN_DTYPE_Q6_K, 210, 3360}, {QN_DTYPE_IQ4_NL, 18, 288}, {QN_DTYPE_IQ4_XS, 138, 2208},
                {QN_DTYPE_MXFP4, 17, 272}};
  for (size_t i = 0; i < QN_COUNT(blocks); i++) {
    const qn_format *format = qn_format_of(blocks[i].dtype);
    ck_assert_uint_eq(qn_format_tile_block_bytes(format, 1), blocks[i].rows1);
    ck_assert_uint_eq(qn_format_tile_block_bytes(format, 16), blocks[i].rows16);
  }
  ck_assert(qn_format_tile_bytes(q4, 16, 17, 64, &size) && size == 2 * 2 * 288);
  ck_assert(qn_format_tile_bytes(q4, 1, 17, 64, &size) && size == 17 * 2 * 18);
  ck_assert(qn_format_file_bytes(q4, 17, 64, &size) && size == 17 * 2 * 18);
  ck_assert(qn_format_tile_bytes(qn_format_of(QN_DTYPE_BF16), 16, 17, 3, &size) && size == 32 * 3 * 2);
  ck_assert(qn_format_tile_bytes(q4, 16, 0, 64, &size) && size == 0);
}
END_TEST

START_TEST(sizes_refuse_overflow_and_broken_blocks) {
  size_t size = 7;
  const qn_format *q4 = qn_format_of(QN_DTYPE_Q4_0), *f32 = qn_format_of(QN_DTYPE_F32);
  ck_assert(!qn_format_tile_bytes(q4, 16, 16, 33, &size) && !qn_format_file_bytes(q4, 16, 33, &size));
  ck_assert(!qn_format_tile_bytes(q4, 16, -1, 32, &size) && !qn_format_file_bytes(q4, 1, -32, &size));
  ck_assert(!qn_format_file_bytes(f32, INT64_MAX, 4, &size) && !qn_format_file_bytes(f32, INT64_MAX, INT64_MAX, &size));
  ck_assert(!qn_format_tile_bytes(f32, 16, INT64_MAX, 8, &size));
  ck_assert_uint_eq(size, 7);
}
END_TEST

// Two products of pairs of codes up to 63 by signed bytes fit 16 bits: 2 * 2 * 63 * 128.
START_TEST(codes_of_few_bits_are_narrow) {
  static const char *const wide[] = {"f32", "f16", "bf16", "q8_0", "iq4_nl", "iq4_xs"};
  ck_assert_int_eq(qn_pairs_that_fit(63), 2);
  ck_assert_int_eq(qn_pairs_that_fit(64), 1);
  ck_assert_int_eq(qn_pairs_that_fit(15), 8);
  ck_assert_int_eq(qn_pairs_that_fit(255), 0);
  ck_assert_int_eq(qn_pairs_that_fit(0), 127);
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    bool want = true;
    for (size_t i = 0; format && i < QN_COUNT(wide); i++) want = want && strcmp(format->name, wide[i]) != 0;
    if (format) qn_check(qn_format_is_narrow(format) == want, "%s", format->name);
  }
}
END_TEST

START_TEST(formats_are_found) {
  ck_assert_ptr_null(qn_format_of(QN_DTYPE_I8));
  ck_assert_ptr_null(qn_format_of(QN_DTYPE_I32));
  ck_assert_ptr_null(qn_format_of_gguf(16));
  int index = 0;
  for (const qn_format *format; (format = each_format(&index));) {
    ck_assert_str_eq(format->name, qn_dtype_name(format->dtype));
    if (format->gguf_type == QN_NO_GGUF_TYPE) {  // a type that says so is not one of them
      ck_assert_ptr_null(qn_format_of_gguf(format->gguf_type));
      continue;
    }
    ck_assert_ptr_eq(qn_format_of_gguf(format->gguf_type), format);
    const char *gguf = qn_gguf_type_name(format->gguf_type);
    ck_assert_uint_eq(strlen(gguf), strlen(format->name));
    for (size_t i = 0; gguf[i]; i++) ck_assert_int_eq(gguf[i] | 0x20, format->name[i] | 0x20);
    if (format->codes_signed) ck_assert_int_eq(format->offset, 1 << (format->code_bits - 1));
  }
  ck_assert_str_eq(qn_gguf_type_name(14), "Q6_K");
  ck_assert_str_eq(qn_gguf_type_name(24), "I8");
  ck_assert_str_eq(qn_gguf_type_name(34), "TQ1_0");
  ck_assert_str_eq(qn_gguf_type_name(39), "MXFP4");
  ck_assert_ptr_null(qn_gguf_type_name(1000));
}
END_TEST

QN_CASE(packing, packing_keeps_every_value, blocks_mean_what_gguf_says, tile_bytes_are_where_the_header_says,
        planes_are_where_the_header_says, whole_codes_are_where_the_header_says, floats_lie_in_panels,
        padding_rows_hold_the_zero_code)
QN_CASE(table, sizes_are_those_of_the_design, sizes_refuse_overflow_and_broken_blocks, codes_of_few_bits_are_narrow,
        formats_are_found)

QN_TEST_MAIN(packing, table)
