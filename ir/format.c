// Weight formats read from the table: nothing here knows a format by name, so a new entry in format.def is enough.
#include "ir/format.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { BLOCK_VALUES_MAX = 256, CODE_BITS_MAX = 8 };

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

// Pieces of a field: of all numbers, or of [from, to).
#define ALL(at_, bits_, chunk_, into_) \
  { .to = UINT16_MAX, .at = (at_), .bits = (bits_), .chunk = (chunk_), .into = (into_) }
#define PART(from_, to_, at_, bits_, chunk_, first_, into_) \
  { .from = (from_), .to = (to_), .at = (at_), .bits = (bits_), .chunk = (chunk_), .first = (first_), .into = (into_) }

static const qn_format formats[] = {
#define QN_FORMAT(name_, ...) {.dtype = QN_DTYPE_##name_, .name = text_##name_, __VA_ARGS__},
#include "ir/format.def"
#undef QN_FORMAT
};

#undef ALL
#undef PART

const qn_format *qn_format_of(qn_dtype dtype) {
  for (size_t i = 0; i < QN_COUNT(formats); i++) {
    if (formats[i].dtype == dtype) return &formats[i];
  }
  return NULL;
}

const qn_format *qn_format_of_gguf(uint32_t gguf_type) {
  for (size_t i = 0; i < QN_COUNT(formats); i++) {
    if (formats[i].gguf_type == gguf_type && gguf_type != QN_NO_GGUF_TYPE) return &formats[i];
  }
  return NULL;
}

const char *qn_gguf_type_name(uint32_t gguf_type) {
  return gguf_type < QN_COUNT(gguf_names) ? gguf_names[gguf_type] : NULL;
}

// ---------------------------------------------------------------------------------------------------------------
// Fields

// The byte of number `n` in a piece, and how far left its bits are in it.
static uint32_t piece_byte(const qn_piece *p, uint32_t n, uint32_t *out_shift) {
  uint32_t i = p->first + n - p->from, per_chunk = p->chunk * 8u / p->bits;
  *out_shift = p->bits * (i % per_chunk / p->chunk);
  return p->at + i / per_chunk * p->chunk + i % p->chunk;
}

static bool piece_has(const qn_piece *p, uint32_t n) { return p->bits > 0 && n >= p->from && n < p->to; }

uint32_t qn_field_get(const qn_field *field, const void *block, uint32_t number) {
  uint32_t value = 0, shift;
  for (size_t i = 0; i < QN_FIELD_PIECES; i++) {
    const qn_piece *p = &field->pieces[i];
    if (!piece_has(p, number)) continue;
    uint32_t byte = ((const uint8_t *)block)[piece_byte(p, number, &shift)];
    value |= (byte >> shift & ((1u << p->bits) - 1)) << p->into;
  }
  return value;
}

void qn_field_put(const qn_field *field, void *block, uint32_t number, uint32_t value) {
  uint32_t shift;
  for (size_t i = 0; i < QN_FIELD_PIECES; i++) {
    const qn_piece *p = &field->pieces[i];
    if (!piece_has(p, number)) continue;
    uint8_t *byte = (uint8_t *)block + piece_byte(p, number, &shift);
    uint32_t mask = (1u << p->bits) - 1;
    *byte = (uint8_t)((*byte & ~(mask << shift)) | (value >> p->into & mask) << shift);
  }
}

// The first `count` numbers of a field, of at most 8 bits; whole runs of a chunk's bytes at a time.
static void unpack(const qn_field *field, const uint8_t *block, uint32_t count, uint8_t *out) {
  memset(out, 0, count);
  for (size_t i = 0; i < QN_FIELD_PIECES; i++) {
    const qn_piece *p = &field->pieces[i];
    uint32_t end = p->to < count ? p->to : count, mask = (1u << p->bits) - 1, shift;
    for (uint32_t n = p->from, run; p->bits > 0 && n < end; n += run) {
      const uint8_t *bytes = block + piece_byte(p, n, &shift);
      run = p->chunk - (p->first + n - p->from) % p->chunk;
      if (run > end - n) run = end - n;
      for (uint32_t j = 0; j < run; j++) out[n + j] |= (uint8_t)((bytes[j] >> shift & mask) << p->into);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Sizes and places

static bool is_plain(const qn_format *format) { return qn_dtype_is_float(format->dtype); }

static size_t scale_bytes(const qn_format *format) { return format->scale_kind == QN_SCALE_F16 ? 2 : 1; }

// Cuts codes into planes of 8, 4, 2 or 1 bits, the widest first. A plane of b bits takes b lines of the part.
static void add_planes(const qn_format *format, uint32_t rows, qn_tile *tile) {
  for (uint32_t done = 0; done < format->code_bits;) {
    assert(tile->plane_count < QN_PLANES_MAX);
    uint32_t bits = 8, unit, index = tile->plane_count++;
    while (bits > format->code_bits - done) bits /= 2;
    unit = (32 / bits > format->group_values ? QN_PART_VALUES : format->group_values) / 4;
    const qn_plane plane = {.bits = bits, .into = done, .unit_words = unit, .lines = bits * unit / QN_PART_WORDS,
                            .at = tile->codes_at + (size_t)done * 4 * rows};
    tile->planes[index] = plane;
    for (uint32_t w = 0; w < QN_PART_WORDS; w++) {
      uint32_t line = done + w / unit * plane.lines + w % unit % plane.lines, shift = bits * (w % unit / plane.lines);
      tile->words[w][index] = (qn_code_piece){(uint8_t)line, (uint8_t)shift, (uint8_t)bits, (uint8_t)done};
    }
    done += bits;
  }
  tile->lines = tile->planes[0].lines;
}

// Whole codes, as many in each byte as fit, and behind those words the others: bit `at` of all their bits is in line
// at / spare.
static void add_whole_codes(const qn_format *format, qn_tile *tile) {
  uint32_t bits = format->code_bits, spare = 8 % bits, lines = bits, at = 0;
  tile->per_byte = 8 / bits;
  tile->lines = 1;
  for (uint32_t w = 0; w < QN_PART_WORDS; w++) {
    qn_code_piece *piece = tile->words[w];
    if (w < lines * tile->per_byte) {
      *piece = (qn_code_piece){(uint8_t)(w / tile->per_byte), (uint8_t)(w % tile->per_byte * bits), (uint8_t)bits, 0};
      continue;
    }
    for (uint32_t into = 0, count; into < bits; into += count, at += count, piece++) {
      assert(piece < tile->words[w] + QN_PLANES_MAX && at / spare < lines);
      uint32_t first = at % spare;
      count = spare - first < bits - into ? spare - first : bits - into;
      *piece = (qn_code_piece){(uint8_t)(at / spare), (uint8_t)(8 - spare + first), (uint8_t)count, (uint8_t)into};
    }
  }
}

qn_tile qn_format_tile(const qn_format *format, uint32_t rows) {
  qn_tile tile = {.groups = QN_PART_VALUES / format->group_values, .parts = format->block_values / QN_PART_VALUES};
  tile.min_at = rows * scale_bytes(format);
  tile.parts_at = tile.min_at + (format->min_at >= 0 ? rows * sizeof(uint16_t) : 0);
  tile.subs_share = format->sub_min.bits > 0 && format->sub_scale.bits + format->sub_min.bits <= 8;
  size_t sub_bytes = format->sub_scale.bits > 0 ? (size_t)tile.groups * rows : 0;
  tile.sub_min_at = tile.subs_share ? 0 : sub_bytes;
  bool minima = format->sub_min.bits > 0 && !tile.subs_share;
  tile.codes_at = minima ? 2 * sub_bytes : sub_bytes;
  if (format->whole_codes) {
    add_whole_codes(format, &tile);
  } else {
    add_planes(format, rows, &tile);
  }
  tile.part_bytes = tile.codes_at + (size_t)format->code_bits * 4 * rows;
  tile.block_bytes = tile.parts_at + tile.parts * tile.part_bytes;
  return tile;
}

// Is every number of the field times `factor` an unsigned byte?
static bool fits_byte(const qn_sub_scale *sub, uint32_t factor) {
  return sub->bits > 0 && !sub->is_signed && sub->offset == 0 && ((1u << sub->bits) - 1) * factor <= UINT8_MAX;
}

int64_t qn_pairs_that_fit(int64_t byte_max) {
  enum { HALF_MAX = INT16_MAX, PAIR_MAX = 2 * 128 };  // of the magnitudes of the two signed bytes of a pair
  return HALF_MAX / (PAIR_MAX * (byte_max > 0 ? byte_max : 1));
}

bool qn_format_is_narrow(const qn_format *format) {
  int64_t most = 0;
  if (format->block_values == 1) return false;  // floats
  for (size_t i = 0; format->has_table && i < sizeof format->table; i++) most = format->table[i] > most ? format->table[i] : most;
  if (!format->has_table) most = ((int64_t)1 << format->code_bits) - 1;
  return qn_pairs_that_fit(most) > 1;
}

bool qn_format_sums_parts(const qn_format *format) {
  bool plain = !format->has_table && format->offset == 0 && format->code_bits < 8;
  bool several = format->group_values > 1 && format->group_values < QN_PART_VALUES;
  bool minima = format->min_at < 0 || (fits_byte(&format->sub_min, QN_SUM_SPLIT) && format->group_values <= QN_SUM_SPLIT);
  return several && plain && minima && fits_byte(&format->sub_scale, (1u << format->code_bits) - 1);
}

size_t qn_format_tile_block_bytes(const qn_format *format, uint32_t rows) {
  return is_plain(format) ? (size_t)rows * format->code_bits / 8 : qn_format_tile(format, rows).block_bytes;
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

static double read_scale(const qn_format *format, const uint8_t *bytes) {
  return format->scale_kind == QN_SCALE_F16 ? read_f16(bytes) : ldexp(1.0, bytes[0] - 128);
}

// Bits that turn a stored code into an unsigned one: adding an offset of half the range flips the sign bit.
static uint8_t sign_flip(const qn_format *format) {
  assert(!format->codes_signed || format->offset == 1 << (format->code_bits - 1));
  return format->codes_signed ? (uint8_t)format->offset : 0;
}

// A group's second factor in the file's block; 1 where there is none.
static int sub_value(const qn_sub_scale *sub, const uint8_t *block, uint32_t group) {
  if (sub->bits == 0) return 1;
  uint32_t number = qn_field_get(&sub->field, block, group);
  return (sub->is_signed ? (int8_t)(uint8_t)number : (int)number) - sub->offset;
}

// The number that a code stands for.
static int number_of(const qn_format *format, uint32_t code) {
  return (format->has_table ? format->table[code & 15] : (int)code) - format->offset;
}

static void block_to_f64(const qn_format *format, const uint8_t *block, double *out) {
  uint8_t codes[BLOCK_VALUES_MAX];
  double scale = read_scale(format, block + format->scale_at);
  double min = format->min_at >= 0 ? read_f16(block + format->min_at) : 0.0;
  unpack(&format->codes, block, format->block_values, codes);
  for (uint32_t j = 0; j < format->block_values; j++) {
    uint32_t group = j / format->group_values;
    double group_min = format->sub_min.bits > 0 ? -(min * sub_value(&format->sub_min, block, group)) : min;
    int number = number_of(format, codes[j] ^ sign_flip(format));
    out[j] = scale * sub_value(&format->sub_scale, block, group) * number + group_min;
  }
}

void qn_format_row_to_f64(const qn_format *format, int64_t k, const void *file_row, double *out) {
  const uint8_t *block = file_row;
  for (int64_t i = 0; i < k; i += format->block_values, block += format->block_bytes) {
    if (is_plain(format)) {
      out[i] = read_float(format, block);
    } else {
      block_to_f64(format, block, out + i);
    }
  }
}

enum { F16_EXPONENT = 0x7C00, F32_UPPER_EXPONENT = 0x7F80 };  // BF16 is the upper half of F32

static uint32_t is_odd_half(const uint8_t *bytes, uint32_t exponent) {
  return (((uint32_t)bytes[0] | (uint32_t)bytes[1] << 8) & exponent) == exponent;
}

// Is there a NaN or an infinity in a block?
static uint32_t is_odd(const qn_format *format, const uint8_t *block) {
  if (format->dtype == QN_DTYPE_F16) return is_odd_half(block, F16_EXPONENT);
  if (is_plain(format)) return is_odd_half(block + format->block_bytes - 2, F32_UPPER_EXPONENT);
  if (format->scale_kind == QN_SCALE_E8M0) return block[format->scale_at] == 255;
  return is_odd_half(block + format->scale_at, F16_EXPONENT) |
         (format->min_at >= 0 ? is_odd_half(block + format->min_at, F16_EXPONENT) : 0);
}

size_t qn_format_count_not_finite(const qn_format *format, const void *blocks, size_t count, size_t *out_first) {
  const uint8_t *bytes = blocks;
  size_t odd = 0, size = format->block_bytes;
  uint32_t exponent = format->dtype == QN_DTYPE_F16 ? F16_EXPONENT : F32_UPPER_EXPONENT;
  if (is_plain(format) && size == 2) {  // constant sizes: this runs once an element
    for (size_t i = 0; i < count; i++) odd += is_odd_half(bytes + 2 * i, exponent);
  } else if (is_plain(format)) {
    for (size_t i = 0; i < count; i++) odd += is_odd_half(bytes + 4 * i + 2, exponent);
  } else {
    for (size_t i = 0; i < count; i++) odd += is_odd(format, bytes + i * size);
  }
  for (*out_first = 0; odd > 0 && !is_odd(format, bytes + *out_first * size);) ++*out_first;
  return odd;
}

// The code of value j of a part.
static uint32_t tile_code(const qn_tile *tile, uint32_t rows, const uint8_t *part, size_t row, size_t j) {
  uint32_t code = 0;
  for (const qn_code_piece *p = tile->words[j / 4], *end = p + QN_PLANES_MAX; p < end && p->bits > 0; p++) {
    uint32_t byte = part[tile->codes_at + (p->line * rows + row) * 4 + j % 4];
    code |= (byte >> p->shift & ((1u << p->bits) - 1)) << p->into;
  }
  return code;
}

// The second factors of a group's scale and min in a part; 1 where there is none.
static void tile_subs(const qn_format *format, const qn_tile *tile, const uint8_t *place, int *out_scale,
                      int *out_min) {
  *out_scale = *out_min = 1;
  if (tile->subs_share) {
    *out_scale = place[0] & ((1 << format->sub_scale.bits) - 1);
    *out_min = place[0] >> format->sub_scale.bits;
    return;
  }
  if (format->sub_scale.bits > 0) *out_scale = (int8_t)place[0];
  if (format->sub_min.bits > 0) *out_min = (int8_t)place[tile->sub_min_at];
}

double qn_format_tile_get(const qn_format *format, uint32_t rows, int64_t k_size, const void *packed, int64_t n,
                          int64_t k) {
  size_t blocks = (size_t)(k_size / format->block_values), row = (size_t)n % rows;
  size_t block_index = (size_t)k / format->block_values, j = (size_t)k % format->block_values;
  const uint8_t *block =
      (const uint8_t *)packed + ((size_t)n / rows * blocks + block_index) * qn_format_tile_block_bytes(format, rows);
  if (is_plain(format)) return read_float(format, block + row * (format->code_bits / 8));
  qn_tile tile = qn_format_tile(format, rows);
  const uint8_t *part = block + tile.parts_at + j / QN_PART_VALUES * tile.part_bytes;
  int sub_scale, sub_min;
  size_t group = j % QN_PART_VALUES / format->group_values;
  tile_subs(format, &tile, part + group * rows + row, &sub_scale, &sub_min);
  double scale = read_scale(format, block + row * scale_bytes(format)) * sub_scale;
  double min = format->min_at >= 0 ? read_f16(block + tile.min_at + row * 2) : 0.0;
  if (format->sub_min.bits > 0) min = -(min * sub_min);
  return scale * number_of(format, tile_code(&tile, rows, part, row, j % QN_PART_VALUES)) + min;
}

// ---------------------------------------------------------------------------------------------------------------
// Packing

// The code of rows beyond N: one that stands for zero where there is one.
static uint8_t padding_code(const qn_format *format) {
  for (int code = 0; format->has_table && code < (int)sizeof format->table; code++) {
    if (format->table[code] == format->offset) return (uint8_t)code;
  }
  return format->has_table ? 0 : (uint8_t)format->offset;
}

// A float of a plain format; `source` is NULL for the padding beyond N.
static void pack_float(const qn_format *format, uint32_t row, const uint8_t *source, uint8_t *block) {
  static const uint8_t zeros[4];
  if (!source) source = zeros;
  if (format->code_bits == 16) {  // constant sizes: this runs once an element
    memcpy(block + row * 2, source, 2);
  } else {
    memcpy(block + row * 4, source, 4);
  }
}

// The codes of one row's part into its lines.
static void pack_codes(const qn_tile *tile, uint32_t rows, const uint8_t *codes, uint8_t *part, uint32_t row) {
  uint32_t lines[CODE_BITS_MAX] = {0}, used = 0, four;
  for (size_t w = 0; w < QN_PART_WORDS; w++) {
    memcpy(&four, codes + 4 * w, 4);
    for (const qn_code_piece *p = tile->words[w], *end = p + QN_PLANES_MAX; p < end && p->bits > 0; p++) {
      lines[p->line] |= (four >> p->into & ((1u << p->bits) - 1) * UINT32_C(0x01010101)) << p->shift;
      if (p->line >= used) used = p->line + 1u;
    }
  }
  for (uint32_t i = 0; i < used; i++) memcpy(part + tile->codes_at + ((size_t)i * rows + row) * 4, &lines[i], 4);
}

// The second factors of one row's groups in part `index`.
static void pack_subs(const qn_format *format, const qn_tile *tile, uint32_t rows, const uint8_t *source,
                      uint32_t index, uint8_t *part) {
  for (uint32_t g = 0; g < tile->groups && format->sub_scale.bits > 0; g++) {
    uint32_t group = index * tile->groups + g;
    int scale = source ? sub_value(&format->sub_scale, source, group) : 0;
    int min = source && format->sub_min.bits > 0 ? sub_value(&format->sub_min, source, group) : 0;
    uint8_t *place = part + (size_t)g * rows;
    place[0] = (uint8_t)(tile->subs_share ? scale | min << format->sub_scale.bits : scale);
    if (format->sub_min.bits > 0 && !tile->subs_share) place[tile->sub_min_at] = (uint8_t)min;
  }
}

// One row's block into its places in a tile block. `source` is NULL for the padding beyond N.
static void pack_block(const qn_format *format, const qn_tile *tile, uint32_t rows, uint32_t row, const uint8_t *source,
                       uint8_t *block) {
  static const uint8_t zero[2];  // the scale and the min of padding
  uint8_t codes[BLOCK_VALUES_MAX], flip = sign_flip(format);
  size_t size = scale_bytes(format);
  memcpy(block + row * size, source ? source + format->scale_at : zero, size);
  if (format->min_at >= 0) memcpy(block + tile->min_at + row * 2, source ? source + format->min_at : zero, 2);
  if (source) {
    unpack(&format->codes, source, format->block_values, codes);
    for (uint32_t j = 0; j < format->block_values; j++) codes[j] ^= flip;
  } else {
    memset(codes, padding_code(format), format->block_values);
  }
  for (uint32_t i = 0; i < tile->parts; i++) {
    uint8_t *part = block + tile->parts_at + i * tile->part_bytes;
    pack_subs(format, tile, rows, source, i, part + row);
    pack_codes(tile, rows, codes + (size_t)i * QN_PART_VALUES, part, row);
  }
}

void qn_format_pack(const qn_format *format, uint32_t rows, int64_t n, int64_t k, const void *file_data,
                    int64_t row_begin, int64_t row_end, void *out) {
  assert(row_begin % rows == 0 && (row_end % rows == 0 || row_end == n) && row_end <= n);
  size_t blocks = (size_t)(k / format->block_values);
  size_t file_row_bytes = blocks * format->block_bytes, tile_block_bytes = qn_format_tile_block_bytes(format, rows);
  qn_tile tile = is_plain(format) ? (qn_tile){0} : qn_format_tile(format, rows);
  for (int64_t first = row_begin; first < row_end; first += rows) {
    uint8_t *panel = (uint8_t *)out + (size_t)(first / rows) * blocks * tile_block_bytes;
    for (size_t b = 0; b < blocks; b++, panel += tile_block_bytes) {
      for (uint32_t row = 0; row < rows; row++) {
        const uint8_t *source = NULL;
        if (first + row < n) {
          source = (const uint8_t *)file_data + (size_t)(first + row) * file_row_bytes + b * format->block_bytes;
        }
        if (is_plain(format)) {
          pack_float(format, row, source, panel);
        } else {
          pack_block(format, &tile, rows, row, source, panel);
        }
      }
    }
  }
}
