// Weight formats read from the table: nothing here knows a format by name, so a new line in format.def is enough.
#include "ir/format.h"

#include <assert.h>
#include <string.h>

static const char *const gguf_names[] = {
    "F32",        "F16",        "Q4_0",       "Q4_1",  "Q4_2",     "Q4_3",     "Q5_0",     "Q5_1",    "Q8_0",
    "Q8_1",       "Q2_K",       "Q3_K",       "Q4_K",  "Q5_K",     "Q6_K",     "Q8_K",     "IQ2_XXS", "IQ2_XS",
    "IQ3_XXS",    "IQ1_S",      "IQ4_NL",     "IQ3_S", "IQ2_S",    "IQ4_XS",   "I8",       "I16",     "I32",
    "I64",        "F64",        "IQ1_M",      "BF16",  "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",   "TQ2_0",
    "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4", "NVFP4",    "Q1_0",
};

// The dtypes' texts as addresses that an initialiser may use.
#define QN_DTYPE(name, text, bits) static const char text_##name[] __attribute__((unused)) = text;
#include "ir/dtype.def"
#undef QN_DTYPE

static const qn_format formats[] = {
#define QN_FORMAT(name, gguf, values, bytes, bits, offset, codes_at, scale_at, min_at, is_signed) \
  {QN_DTYPE_##name, text_##name, gguf, values, bytes, bits, offset, codes_at, scale_at, min_at, is_signed},
#include "ir/format.def"
#undef QN_FORMAT
};

const qn_format *qn_format_of(qn_dtype dtype) {
  for (size_t i = 0; i < QN_COUNT(formats); i++) {
    if (formats[i].dtype == dtype) return &formats[i];
  }
  return NULL;
}

const qn_format *qn_format_of_gguf(uint32_t gguf_type) {
  for (size_t i = 0; i < QN_COUNT(formats); i++) {
    if (formats[i].gguf_type == gguf_type) return &formats[i];
  }
  return NULL;
}

const char *qn_gguf_type_name(uint32_t gguf_type) {
  return gguf_type < QN_COUNT(gguf_names) ? gguf_names[gguf_type] : NULL;
}

// ---------------------------------------------------------------------------------------------------------------
// Sizes

// Bytes that the codes of one row's block take, in the file and in the tile layout alike.
static size_t code_bytes(const qn_format *format) { return (size_t)format->block_values * format->code_bits / 8; }

// f16 values per row that come before the codes in a tile block.
static size_t header_values(const qn_format *format) {
  return (size_t)(format->scale_at >= 0) + (size_t)(format->min_at >= 0);
}

size_t qn_format_tile_block_bytes(const qn_format *format, uint32_t rows) {
  return rows * (header_values(format) * sizeof(uint16_t) + code_bytes(format));
}

// count × blocks of K × bytes each, checked.
static bool matrix_bytes(const qn_format *format, int64_t count, int64_t k, size_t block_bytes, size_t *out) {
  size_t blocks;
  if (count < 0 || k < 0 || k % format->block_values != 0) return false;
  return qn_size_mul((size_t)count, (size_t)(k / format->block_values), &blocks) &&
         qn_size_mul(blocks, block_bytes, out);
}

bool qn_format_tile_bytes(const qn_format *format, uint32_t rows, int64_t n, int64_t k, size_t *out) {
  if (n < 0) return false;
  int64_t panels = n / rows + (n % rows != 0);
  return matrix_bytes(format, panels, k, qn_format_tile_block_bytes(format, rows), out);
}

bool qn_format_file_bytes(const qn_format *format, int64_t n, int64_t k, size_t *out) {
  return matrix_bytes(format, n, k, format->block_bytes, out);
}

// ---------------------------------------------------------------------------------------------------------------
// Reading values

static double read_f16(const uint8_t *bytes) {
  uint16_t half;
  memcpy(&half, bytes, sizeof half);
  return (double)qn_f16_to_f32(half);
}

static bool is_plain(const qn_format *format) { return qn_dtype_is_float(format->dtype); }

// A float of a plain format.
static double read_float(const qn_format *format, const uint8_t *bytes) {
  uint16_t half;
  float value;
  if (format->dtype == QN_DTYPE_F16) return read_f16(bytes);
  if (format->dtype == QN_DTYPE_BF16) {
    memcpy(&half, bytes, sizeof half);
    return (double)qn_bf16_to_f32(half);
  }
  memcpy(&value, bytes, sizeof value);
  return (double)value;
}

// Bits that turn a stored code into an unsigned one: adding an offset of half the range flips the sign bit.
static uint8_t sign_flip(const qn_format *format) {
  if (!format->codes_signed) return 0;
  assert(format->offset == 1 << (format->code_bits - 1));
  return (uint8_t)(format->code_bits == 4 ? format->offset | format->offset << 4 : format->offset);
}

// Value j's code from the byte that holds it: 4-bit blocks keep j in the low and j + half in the high nibbles.
static int extract(const qn_format *format, uint8_t byte, size_t j) {
  size_t shift = j / code_bytes(format) * format->code_bits;
  return byte >> shift & ((1 << format->code_bits) - 1);
}

void qn_format_row_to_f64(const qn_format *format, int64_t k, const void *file_row, double *out) {
  const uint8_t *block = file_row;
  uint8_t flip = sign_flip(format);
  for (int64_t i = 0; i < k; i += format->block_values, block += format->block_bytes) {
    if (is_plain(format)) {
      out[i] = read_float(format, block);
      continue;
    }
    double scale = read_f16(block + format->scale_at);
    double min = format->min_at >= 0 ? read_f16(block + format->min_at) : 0.0;
    const uint8_t *codes = block + format->codes_at;
    for (size_t j = 0; j < format->block_values; j++) {
      int code = extract(format, codes[j % code_bytes(format)] ^ flip, j);
      out[i + (int64_t)j] = scale * (code - format->offset) + min;
    }
  }
}

double qn_format_tile_get(const qn_format *format, uint32_t rows, int64_t k_size, const void *packed, int64_t n,
                          int64_t k) {
  size_t blocks = (size_t)(k_size / format->block_values);
  size_t panel = (size_t)n / rows, row = (size_t)n % rows;
  size_t block_index = (size_t)k / format->block_values, j = (size_t)k % format->block_values;
  const uint8_t *block =
      (const uint8_t *)packed + (panel * blocks + block_index) * qn_format_tile_block_bytes(format, rows);
  if (is_plain(format)) return read_float(format, block + row * (format->code_bits / 8));
  double scale = read_f16(block + row * 2);
  double min = format->min_at >= 0 ? read_f16(block + (rows + row) * 2) : 0.0;
  const uint8_t *codes = block + header_values(format) * rows * 2;
  size_t byte = j % code_bytes(format);
  int code = extract(format, codes[byte / 4 * rows * 4 + row * 4 + byte % 4], j);
  return scale * (code - format->offset) + min;
}

// ---------------------------------------------------------------------------------------------------------------
// Packing

// One row's block into its places in a tile block. `source` is NULL for the padding beyond N.
static void pack_block(const qn_format *format, uint32_t rows, uint32_t row, const uint8_t *source, uint8_t *block) {
  if (is_plain(format)) {
    static const uint8_t zeros[4];
    if (!source) source = zeros;
    if (format->code_bits == 16) {  // constant sizes: this runs once an element
      memcpy(block + row * 2, source, 2);
    } else {
      memcpy(block + row * 4, source, 4);
    }
    return;
  }
  static const uint8_t zero[2];  // the scale and the min of padding
  memcpy(block + row * 2, source ? source + format->scale_at : zero, 2);
  if (format->min_at >= 0) memcpy(block + (rows + row) * 2, source ? source + format->min_at : zero, 2);
  uint8_t *codes = block + header_values(format) * rows * 2 + row * 4;
  uint32_t flip = sign_flip(format) * UINT32_C(0x01010101);
  uint32_t padding = (uint32_t)(format->code_bits == 4 ? format->offset * 0x11 : format->offset) * UINT32_C(0x01010101);
  for (size_t byte = 0; byte < code_bytes(format); byte += 4, codes += rows * 4) {
    uint32_t four = padding;
    if (source) {
      memcpy(&four, source + format->codes_at + byte, 4);
      four ^= flip;
    }
    memcpy(codes, &four, 4);
  }
}

void qn_format_pack(const qn_format *format, uint32_t rows, int64_t n, int64_t k, const void *file_data,
                    int64_t row_begin, int64_t row_end, void *out) {
  assert(row_begin % rows == 0 && (row_end % rows == 0 || row_end == n) && row_end <= n);
  size_t blocks = (size_t)(k / format->block_values);
  size_t file_row_bytes = blocks * format->block_bytes, tile_block_bytes = qn_format_tile_block_bytes(format, rows);
  for (int64_t first = row_begin; first < row_end; first += rows) {
    uint8_t *panel = (uint8_t *)out + (size_t)(first / rows) * blocks * tile_block_bytes;
    for (size_t b = 0; b < blocks; b++, panel += tile_block_bytes) {
      for (uint32_t row = 0; row < rows; row++) {
        const uint8_t *source = NULL;
        if (first + row < n) {
          source = (const uint8_t *)file_data + (size_t)(first + row) * file_row_bytes + b * format->block_bytes;
        }
        pack_block(format, rows, row, source, panel);
      }
    }
  }
}
