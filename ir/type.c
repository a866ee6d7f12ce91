// Element types, dimensions and shapes: their text, their arithmetic, and exact float conversions.
#include "ir/type.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

static const struct {
  const char *text;
  int bits;
} dtypes[QN_DTYPE_COUNT] = {
#define QN_DTYPE(name, text, bits) [QN_DTYPE_##name] = {text, bits},
#include "ir/dtype.def"
#undef QN_DTYPE
};

const char *qn_dtype_name(qn_dtype dtype) { return (unsigned)dtype < QN_DTYPE_COUNT ? dtypes[dtype].text : "?"; }

bool qn_dtype_parse(qn_str text, qn_dtype *out) {
  for (int i = 0; i < QN_DTYPE_COUNT; i++) {
    if (qn_str_is(text, dtypes[i].text)) {
      *out = (qn_dtype)i;
      return true;
    }
  }
  return false;
}

size_t qn_dtype_size(qn_dtype dtype) {
  assert((unsigned)dtype < QN_DTYPE_COUNT);
  return (size_t)dtypes[dtype].bits / 8;
}

// ---------------------------------------------------------------------------------------------------------------
// Symbols, dimensions, types

static const char symbol_letters[QN_SYM_COUNT] = {
    [QN_SYM_T] = 'T', [QN_SYM_R] = 'R', [QN_SYM_P] = 'P', [QN_SYM_B] = 'B', [QN_SYM_G] = 'G', [QN_SYM_S] = 'S',
};

char qn_symbol_letter(qn_symbol symbol) { return (unsigned)symbol < QN_SYM_COUNT ? symbol_letters[symbol] : 0; }

bool qn_symbol_parse(qn_str text, qn_symbol *out) {
  if (text.length != 1) return false;
  for (int i = QN_SYM_NONE + 1; i < QN_SYM_COUNT; i++) {
    if (text.data[0] == symbol_letters[i]) {
      *out = (qn_symbol)i;
      return true;
    }
  }
  return false;
}

qn_type qn_type_make(qn_dtype dtype, int rank, const qn_dim *dims) {
  assert(rank >= 0 && rank <= QN_MAX_RANK);
  qn_type type = {.dtype = dtype, .rank = rank};
  for (int i = 0; i < rank; i++) type.dims[i] = dims[i];
  return type;
}

bool qn_type_equal(const qn_type *a, const qn_type *b) {
  if (a->dtype != b->dtype || a->rank != b->rank) return false;
  for (int i = 0; i < a->rank; i++) {
    if (!qn_dim_equal(a->dims[i], b->dims[i])) return false;
  }
  return true;
}

bool qn_type_elements(const qn_type *type, const int64_t *symbol_values, int64_t *out) {
  int64_t total = 1;
  for (int i = 0; i < type->rank; i++) {
    int64_t size = type->dims[i].value;
    if (!qn_dim_is_const(type->dims[i])) {
      if (__builtin_mul_overflow(size, symbol_values[type->dims[i].symbol], &size)) return false;
    }
    if (size < 0 || __builtin_mul_overflow(total, size, &total)) return false;
  }
  *out = total;
  return true;
}

// The runtime, which does not know this room, finds the kinds of caches by number.
#define QN_KV_KIND(name, dtype, bits, group, balanced) _Static_assert(QN_DTYPE_##name == (dtype), "the order of ir/dtype.def");
#include "runtime/base/kv_page.def"
#undef QN_KV_KIND

bool qn_dtype_is_cached(qn_dtype dtype) {
  switch (dtype) {
#define QN_KV_KIND(name, dtype, bits, group, balanced) case QN_DTYPE_##name: return true;
#include "runtime/base/kv_page.def"
#undef QN_KV_KIND
    default: return false;
  }
}

bool qn_type_kv_page(const qn_type *type, bool is_k, qn_kv_page *out) {
  bool shaped = type->rank == 4;
  for (int i = 1; shaped && i < 4; i++) shaped = qn_dim_is_const(type->dims[i]);
  const qn_dim *d = type->dims;
  return shaped &&
         qn_kv_page_make(type->dtype, is_k, d[1].value, d[is_k ? 2 : 3].value, d[is_k ? 3 : 2].value, out);
}

void qn_dim_print(qn_dim dim, qn_buf *out) {
  if (qn_dim_is_const(dim) || dim.value != 1) qn_buf_printf(out, "%" PRId64, dim.value);
  if (!qn_dim_is_const(dim)) qn_buf_putc(out, qn_symbol_letter(dim.symbol));
}

void qn_type_print(const qn_type *type, qn_buf *out) {
  qn_buf_puts(out, qn_dtype_name(type->dtype));
  qn_buf_putc(out, '[');
  for (int i = 0; i < type->rank; i++) {
    if (i > 0) qn_buf_putc(out, ',');
    qn_dim_print(type->dims[i], out);
  }
  qn_buf_putc(out, ']');
}

static void skip(qn_str *text, size_t count) {
  text->data += count;
  text->length -= count;
}

static bool take(qn_str *text, char c) {
  if (text->length == 0 || text->data[0] != c) return false;
  skip(text, 1);
  return true;
}

// "128", "T" or "2T".
static bool parse_dim(qn_str *text, qn_dim *out) {
  int64_t value = 0;
  bool digits = false;
  while (text->length > 0 && text->data[0] >= '0' && text->data[0] <= '9') {
    if (__builtin_mul_overflow(value, 10, &value)) return false;
    if (__builtin_add_overflow(value, text->data[0] - '0', &value)) return false;
    digits = true;
    skip(text, 1);
  }
  qn_symbol symbol = QN_SYM_NONE;
  if (text->length > 0 && qn_symbol_parse((qn_str){text->data, 1}, &symbol)) skip(text, 1);
  if (!digits && symbol == QN_SYM_NONE) return false;
  *out = (qn_dim){symbol, digits ? value : 1};
  return true;
}

bool qn_type_parse(qn_str *text, qn_type *out) {
  qn_type type = {0};
  size_t name_length = 0;
  while (name_length < text->length && text->data[name_length] != '[') name_length++;
  if (!qn_dtype_parse((qn_str){text->data, name_length}, &type.dtype)) return false;
  skip(text, name_length);
  if (!take(text, '[')) return false;
  while (!take(text, ']')) {
    if (type.rank == QN_MAX_RANK || (type.rank > 0 && !take(text, ','))) return false;
    if (!parse_dim(text, &type.dims[type.rank])) return false;
    type.rank++;
  }
  *out = type;
  return true;
}

// ---------------------------------------------------------------------------------------------------------------
// Float conversions

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Shifts right by 1..31 and rounds to nearest, ties to even.
static uint32_t shift_round(uint32_t value, int shift) {
  uint32_t half = UINT32_C(1) << (shift - 1), rest = value & (2 * half - 1);
  uint32_t kept = value >> shift;
  return kept + (rest > half || (rest == half && (kept & 1)));
}

float qn_f16_to_f32(uint16_t half) {
  uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 31, mantissa = half & 0x3FF;
  if (exponent == 31) return float_of(sign | 0x7F800000 | mantissa << 13);
  if (exponent != 0) return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
  float magnitude = (float)mantissa * 0x1p-24f;  // zero and subnormals, exact
  return float_of(sign | bits_of(magnitude));
}

uint16_t qn_f32_to_f16(float value) {
  uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return (uint16_t)(sign | 0x7E00 | ((magnitude >> 13) & 0x3FF));  // NaN, made quiet
  if (magnitude >= 0x477FF000) return (uint16_t)(sign | 0x7C00);  // 65520 and up round to infinity
  if (magnitude >= 0x38800000) return (uint16_t)(sign | shift_round(magnitude - (112u << 23), 13));
  if (magnitude < 0x33000000) return (uint16_t)sign;  // below half of the least subnormal
  // Subnormal: the mantissa with its leading one, in units of 2^-24; rounding up to the least normal just works.
  int shift = 126 - (int)(magnitude >> 23);
  return (uint16_t)(sign | shift_round((magnitude & 0x7FFFFF) | 0x800000, shift));
}

uint16_t qn_f32_to_bf16(float value) {
  uint32_t bits = bits_of(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(bits >> 16 | 0x40);  // NaN, made quiet
  return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
