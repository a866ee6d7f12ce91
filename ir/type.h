// Element types, symbolic dimensions and shapes: what both IRs say about a tensor.
#ifndef QN_IR_TYPE_H
#define QN_IR_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/diag.h"
#include "runtime/base/kv_page.h"
#include "runtime/base/str.h"

typedef enum qn_dtype {
#define QN_DTYPE(name, text, bits) QN_DTYPE_##name,
#include "ir/dtype.def"
#undef QN_DTYPE
  QN_DTYPE_COUNT
} qn_dtype;

const char *qn_dtype_name(qn_dtype dtype);                   // "f32"
bool qn_dtype_parse(qn_str text, qn_dtype *out);             // false when unknown
size_t qn_dtype_size(qn_dtype dtype);                        // bytes of one element; 0 for a block format
static inline bool qn_dtype_is_block(qn_dtype d) { return qn_dtype_size(d) == 0; }
static inline bool qn_dtype_is_float(qn_dtype d) {
  return d == QN_DTYPE_F32 || d == QN_DTYPE_F16 || d == QN_DTYPE_BF16;
}
bool qn_dtype_is_cached(qn_dtype dtype);  // what a cache of keys or values may hold

// Sizes known only when a step runs. The runtime passes their values to every kernel in this order.
typedef enum qn_symbol {
  QN_SYM_NONE,  // a constant dimension
  QN_SYM_T,     // tokens in this step, over all sequences
  QN_SYM_R,     // rows of the step whose logits are wanted
  QN_SYM_P,     // pages a sequence's row of the block table holds (its pitch)
  QN_SYM_B,     // sequences (rows of the block table)
  QN_SYM_G,     // pages in the KV pool
  QN_SYM_S,     // tokens of the source in this step, over all sequences: what an encoder reads
  QN_SYM_COUNT
} qn_symbol;
char qn_symbol_letter(qn_symbol symbol);  // 'T', 'R', 'P', 'B', 'G', 'S'; 0 for QN_SYM_NONE
bool qn_symbol_parse(qn_str text, qn_symbol *out);

// A dimension: a constant (symbol NONE, value) or `value` times a symbol ("T", "2T").
typedef struct qn_dim {
  qn_symbol symbol;
  int64_t value;
} qn_dim;
static inline qn_dim qn_dim_const(int64_t value) { return (qn_dim){QN_SYM_NONE, value}; }
static inline qn_dim qn_dim_sym(qn_symbol symbol) { return (qn_dim){symbol, 1}; }
static inline bool qn_dim_equal(qn_dim a, qn_dim b) { return a.symbol == b.symbol && a.value == b.value; }
static inline bool qn_dim_is_const(qn_dim d) { return d.symbol == QN_SYM_NONE; }

#define QN_MAX_RANK 4

// A tensor's type. Row-major: the last dimension varies fastest.
typedef struct qn_type {
  qn_dtype dtype;
  int rank;  // 0..QN_MAX_RANK; 0 is a scalar
  qn_dim dims[QN_MAX_RANK];
} qn_type;

qn_type qn_type_make(qn_dtype dtype, int rank, const qn_dim *dims);
bool qn_type_equal(const qn_type *a, const qn_type *b);
// Elements, symbols replaced by symbol_values[QN_SYM_COUNT]; false on overflow.
bool qn_type_elements(const qn_type *type, const int64_t *symbol_values, int64_t *out);
// The page of a cache of this type, [G, heads, head_dim, keys] of K or [G, heads, keys, head_dim] of V; false when it is none.
bool qn_type_kv_page(const qn_type *type, bool is_k, qn_kv_page *out);
// "f32[T,2048]"
void qn_type_print(const qn_type *type, qn_buf *out);
void qn_dim_print(qn_dim dim, qn_buf *out);
// Parses what qn_type_print wrote from the front of *text and advances it; false leaves *text at the offending byte.
bool qn_type_parse(qn_str *text, qn_type *out);

// IEEE and bfloat conversions; to_* round to nearest even, NaN stays NaN.
float qn_f16_to_f32(uint16_t half);
uint16_t qn_f32_to_f16(float value);
static inline float qn_bf16_to_f32(uint16_t bits) {
  union { uint32_t u; float f; } pun = {(uint32_t)bits << 16};
  return pun.f;
}
uint16_t qn_f32_to_bf16(float value);

#endif
