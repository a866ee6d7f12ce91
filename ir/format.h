// Weight formats as data: from one entry of format.def come the reader, the reference, the packing and the kernels.
//
// Values along K are in blocks as the file has them; each group of 16 or 32 values has a scale (and a min). A number
// may be scattered over a block in pieces: qn_piece.
//
// Tile layout (DESIGN §4): `rows` output rows interleaved (16 for matmuls, 1 for row lookups). For a panel of `rows`
// rows and each block along K, in this order:
//   scales, then mins where the format has them: f16[rows], or E8M0 u8[rows];
//   then for each 32 values (qn_tile.part_bytes):
//     where scales are products: the second factors of the scales of its groups i8[rows] each, and those of the mins;
//       where both fit into a byte they share it, the min above: u8[rows] a group;
//     then its codes, unsigned (offset added), in planes of 8, 4, 2 or 1 bits: 4 + 1 bits for codes of 5, and so on.
// A plane is lines of rows × 4 bytes; 4 bytes belong to a row and to 4 consecutive k, a word. In a plane of b bits, the
// words of a unit of u values (a group, or 32 values where those would not fill a line) take b * u / 32 lines L: word w
// of the unit is in line w % L, shifted left by b * (w / L). So a line of 8-bit codes holds k = 4g..4g+3 of every row,
// and a line of 4-bit codes in groups of 32 holds k = 4g..4g+3 in the low nibbles and 16+4g..16+4g+3 in the high ones.
// Codes of formats with `whole_codes` are in no planes: a part has a line for each of their bits, and a byte of a line
// holds as many whole codes as fit. With c of them, word w is in line w / c, shifted left by w % c times the code's
// bits; the words that are left over are made of the bits that lines have left: their bits, the first word's lowest
// first, go to line 0, then to line 1, and so on. So 3 lines hold words 0 to 5 in pairs, and words 6 and 7 are above them.
// Float formats have blocks of one value: element (n, k) is at [n / rows][k][n % rows].
// Rows beyond N have zero scales, and codes that mean zero where the format has such a code.
#ifndef QN_IR_FORMAT_H
#define QN_IR_FORMAT_H

#include "ir/type.h"

// Where a file's block keeps some bits of the numbers [from, to) of a field, little end first. With i = first + n -
// from, of number n: bytes come in chunks, and a chunk's bytes hold `bits` of consecutive numbers in their lowest bits,
// the next ones above them, and so on: i is in byte i % chunk of chunk i / (chunk * 8 / bits).
typedef struct qn_piece {
  uint16_t from, to;
  uint16_t at;    // byte of the first chunk in the block
  uint8_t bits;   // of a number; 0 = no such piece
  uint8_t chunk;  // bytes of a chunk
  uint8_t first;  // place of number `from`
  uint8_t into;   // the bit of the number that the lowest of these is
} qn_piece;

#define QN_FIELD_PIECES 3
// Unsigned numbers in a file's block, each the sum of its pieces.
typedef struct qn_field {
  qn_piece pieces[QN_FIELD_PIECES];
} qn_field;
uint32_t qn_field_get(const qn_field *field, const void *block, uint32_t number);
// Sets the bits of one number and leaves all others.
void qn_field_put(const qn_field *field, void *block, uint32_t number, uint32_t value);

// The second factor of each group's scale or min: the field's number - offset.
typedef struct qn_sub_scale {
  uint8_t bits;  // 0 = none: the block's scale is the group's
  uint8_t offset;
  bool is_signed;  // the field's number is read in two's complement
  qn_field field;  // by group
} qn_sub_scale;

typedef enum qn_scale_kind {
  QN_SCALE_NONE,  // floats
  QN_SCALE_F16,
  QN_SCALE_E8M0,  // u8 e: 2^(e - 128), half of what the type's name says, as numbers are doubled
} qn_scale_kind;

#define QN_NO_GGUF_TYPE UINT32_MAX

typedef struct qn_format {
  qn_dtype dtype;
  const char *name;       // "q4_0"
  uint32_t gguf_type;     // ggml type number in GGUF files; QN_NO_GGUF_TYPE: of checkpoints, which quantisers do not make
  uint32_t block_values;  // values along K in a block
  uint32_t block_bytes;   // bytes of a block in the file
  uint32_t group_values;  // values along K that share a scale: 16 or 32; 1 for floats
  qn_scale_kind scale_kind;
  int32_t scale_at, min_at;  // byte offsets of the scale and the f16 min in the file's block; -1 = none
  uint32_t code_bits;        // bits a value takes; 32/16 for floats
  int32_t offset;            // subtracted from the unsigned code, or from what the table holds for it
  bool codes_signed;         // the file stores code - offset in two's complement
  bool whole_codes;          // the tile's bytes hold whole codes as far as possible, instead of planes; of 3, 5 or 6 bits
  qn_field codes;
  qn_sub_scale sub_scale;  // group's scale = block's scale * this
  qn_sub_scale sub_min;    // group's min = -(block's min * this)
  bool has_table;
  uint8_t table[16];  // what 4-bit codes stand for
} qn_format;

// The weight format of a dtype, or NULL for those that are not weights (i32, i8).
const qn_format *qn_format_of(qn_dtype dtype);
// The format with this GGUF type number, or NULL.
const qn_format *qn_format_of_gguf(uint32_t gguf_type);
// The name GGUF gives a type number, known to us or not ("Q6_K"); NULL when it is none.
const char *qn_gguf_type_name(uint32_t gguf_type);

#define QN_TILE_ROWS   16
#define QN_PART_VALUES 32  // values of a part: what a block's codes are laid out by
#define QN_PART_WORDS  (QN_PART_VALUES / 4)
#define QN_PLANES_MAX  3

// A plane of codes in a part.
typedef struct qn_plane {
  uint32_t bits, into;  // of a code: how many, and the lowest
  uint32_t unit_words;  // words of 4 values that share lines
  uint32_t lines;       // of a unit
  size_t at;            // byte in the part
} qn_plane;

// Some bits of a word's codes: those from `into` on are in line `line` of the part, from bit `shift` of each byte on.
typedef struct qn_code_piece {
  uint8_t line, shift, bits, into;  // bits: 0 = no such piece
} qn_code_piece;

// Where things are in a block of the tile layout. Places are bytes, of row 0; scales of other rows follow it, words of
// other rows follow each other by 4 bytes.
typedef struct qn_tile {
  size_t block_bytes;
  size_t min_at;    // the mins; the scales are at 0
  size_t parts_at;  // the first part
  size_t part_bytes;
  uint32_t parts;     // of a block
  uint32_t groups;    // of a part
  bool subs_share;    // sub_scale and sub_min are nibbles of one byte
  size_t sub_min_at;  // in the part; the sub-scales are at 0; both by group, `rows` bytes each
  size_t codes_at;    // in the part: lines of rows * 4 bytes, as many as a code has bits
  uint32_t per_byte;  // whole codes in each byte; 0: they are in planes
  uint32_t lines;     // of a run of words that are alike but for the line: words w, w + 1, ... w + lines - 1
  uint32_t plane_count;
  qn_plane planes[QN_PLANES_MAX];
  qn_code_piece words[QN_PART_WORDS][QN_PLANES_MAX];  // the same, word by word
} qn_tile;
// Of block formats.
qn_tile qn_format_tile(const qn_format *format, uint32_t rows);

// How many sums of two products, of bytes up to `byte_max` and signed ones, add up within 16 bits (dot2 of ir/loop.def).
int64_t qn_pairs_that_fit(int64_t byte_max);
// Are the codes of so few bits, or the table's numbers so small, that several do? Targets without an instruction for
// dot products multiply them faster than whole bytes.
bool qn_format_is_narrow(const qn_format *format);

#define QN_SUM_SPLIT 16
// Are the groups of a part added up before they are scaled, in the numeric mode int8? They are where every number times
// its group's second factor is a byte, and where the minima's sums can be made of bytes, too: sums of activation codes
// (at most 127 * QN_SUM_SPLIT) as QN_SUM_SPLIT times a byte and a remainder.
bool qn_format_sums_parts(const qn_format *format);

// Bytes in the tile layout of one block of `rows` rows.
size_t qn_format_tile_block_bytes(const qn_format *format, uint32_t rows);
// Bytes of an (N, K) matrix; N is padded to a multiple of rows. false on overflow or when K is no multiple of
// block_values.
bool qn_format_tile_bytes(const qn_format *format, uint32_t rows, int64_t n, int64_t k, size_t *out);
// Bytes of an (N, K) matrix in the file.
bool qn_format_file_bytes(const qn_format *format, int64_t n, int64_t k, size_t *out);

// Repacks rows [row_begin, row_end) of an (n, k) matrix from the file's layout into the tile layout without loss.
// row_begin is a multiple of `rows`; row_end is one too, or n. `out` is the whole packed matrix.
void qn_format_pack(const qn_format *format, uint32_t rows, int64_t n, int64_t k, const void *file_data,
                    int64_t row_begin, int64_t row_end, void *out);
// The k values of one row in the file's layout, exact.
void qn_format_row_to_f64(const qn_format *format, int64_t k, const void *file_row, double *out);
// How many of `count` blocks in the file's layout (values, of float formats) hold a NaN or an infinity; *out_first is the
// first of them.
size_t qn_format_count_not_finite(const qn_format *format, const void *blocks, size_t count, size_t *out_first);
// One element of a packed matrix, exact: the plain reading of the tile layout that tests compare with.
double qn_format_tile_get(const qn_format *format, uint32_t rows, int64_t k_size, const void *packed, int64_t n,
                          int64_t k);

#endif
