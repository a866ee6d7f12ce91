// Weight formats as data: from one line of format.def come the reader, the reference, the packing and the kernels.
//
// Tile layout (DESIGN §4): `rows` output rows interleaved (16 for matmuls, 1 for row lookups). For a panel of
// `rows` rows and each block along K, in this order:
//   scales f16[rows], then mins f16[rows] where the format has them, then the codes in lines of rows × 4 bytes:
//   8-bit codes: line g holds k = 4g..4g+3 of every row; 4-bit codes: line g holds k = 4g..4g+3 in the low nibbles
//   and k = 16+4g..16+4g+3 in the high ones. Codes are unsigned (offset added).
// Float formats have blocks of one value: element (n, k) is at [n / rows][k][n % rows].
// Rows beyond N are zero codes (= offset for symmetric formats) with zero scales.
#ifndef QN_IR_FORMAT_H
#define QN_IR_FORMAT_H

#include "ir/type.h"

typedef struct qn_format {
  qn_dtype dtype;
  const char *name;           // "q4_0"
  uint32_t gguf_type;         // ggml type number in GGUF files
  uint32_t block_values;      // values along K that share a scale
  uint32_t block_bytes;       // bytes of a block in the file
  uint32_t code_bits;         // bits a value takes; 32/16 for floats
  int32_t offset;             // subtracted from the unsigned code
  int32_t codes_at;           // byte offset of the codes in the file's block
  int32_t scale_at, min_at;   // byte offsets of the f16 scale and min in the file's block; -1 = none
  bool codes_signed;          // the file stores code - offset in two's complement
} qn_format;

// The weight format of a dtype, or NULL for those that are not weights (i32, i8).
const qn_format *qn_format_of(qn_dtype dtype);
// The format with this GGUF type number, or NULL.
const qn_format *qn_format_of_gguf(uint32_t gguf_type);
// The name GGUF gives a type number, known to us or not ("Q6_K"); NULL when it is none.
const char *qn_gguf_type_name(uint32_t gguf_type);

#define QN_TILE_ROWS 16

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
// One element of a packed matrix, exact: the plain reading of the tile layout that tests compare with.
double qn_format_tile_get(const qn_format *format, uint32_t rows, int64_t k_size, const void *packed, int64_t n,
                          int64_t k);

#endif
