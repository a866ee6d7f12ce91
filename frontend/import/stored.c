// Element types of checkpoints as a table; what is no format of quern's is converted an element at a time.
#include "frontend/import/stored.h"

#include <math.h>
#include <string.h>

#include "ir/type.h"

// Reads one element: a function of its own for each type that is converted.
typedef float (*read_fn)(const uint8_t *bytes);

static float read_i8(const uint8_t *bytes) { return (float)(int8_t)bytes[0]; }

// The upper byte of an F16.
static float read_e5m2(const uint8_t *bytes) { return qn_f16_to_f32((uint16_t)(bytes[0] << 8)); }

// Sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, and all ones is the only NaN ("e4m3fn").
static float read_e4m3(const uint8_t *bytes) {
  int exponent = bytes[0] >> 3 & 15, mantissa = bytes[0] & 7;
  float magnitude = exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
  if (exponent == 15 && mantissa == 7) magnitude = NAN;
  return bytes[0] & 0x80 ? -magnitude : magnitude;
}

static float read_e8m0(const uint8_t *bytes) { return bytes[0] == 255 ? NAN : ldexpf(1.0f, bytes[0] - 127); }

static float read_f64(const uint8_t *bytes) {
  double value;
  memcpy(&value, bytes, sizeof value);
  return (float)value;
}

static const struct {
  const char *name;
  uint32_t bits;
  bool is_weight;
  qn_dtype becomes;
  read_fn read;  // NULL: the bytes are the format's own
} types[QN_STORED_COUNT] = {
    [QN_STORED_BOOL] = {.name = "BOOL", .bits = 8},
    [QN_STORED_F4] = {.name = "F4", .bits = 4},
    [QN_STORED_F6_E2M3] = {.name = "F6_E2M3", .bits = 6},
    [QN_STORED_F6_E3M2] = {.name = "F6_E3M2", .bits = 6},
    [QN_STORED_U8] = {.name = "U8", .bits = 8},
    [QN_STORED_I8] = {"I8", 8, true, QN_DTYPE_F16, read_i8},
    [QN_STORED_F8_E5M2] = {"F8_E5M2", 8, true, QN_DTYPE_F16, read_e5m2},
    [QN_STORED_F8_E4M3] = {"F8_E4M3", 8, true, QN_DTYPE_F16, read_e4m3},
    [QN_STORED_F8_E8M0] = {"F8_E8M0", 8, true, QN_DTYPE_F32, read_e8m0},
    [QN_STORED_I16] = {.name = "I16", .bits = 16},
    [QN_STORED_U16] = {.name = "U16", .bits = 16},
    [QN_STORED_F16] = {"F16", 16, true, QN_DTYPE_F16, NULL},
    [QN_STORED_BF16] = {"BF16", 16, true, QN_DTYPE_BF16, NULL},
    [QN_STORED_I32] = {.name = "I32", .bits = 32},
    [QN_STORED_U32] = {.name = "U32", .bits = 32},
    [QN_STORED_F32] = {"F32", 32, true, QN_DTYPE_F32, NULL},
    [QN_STORED_C64] = {.name = "C64", .bits = 64},
    [QN_STORED_F64] = {"F64", 64, true, QN_DTYPE_F32, read_f64},
    [QN_STORED_I64] = {.name = "I64", .bits = 64},
    [QN_STORED_U64] = {.name = "U64", .bits = 64},
};

const char *qn_stored_name(qn_stored_dtype dtype) { return types[dtype].name; }

uint32_t qn_stored_bits(qn_stored_dtype dtype) { return types[dtype].bits; }

bool qn_stored_parse(const char *name, qn_stored_dtype *out) {
  for (int i = 0; i < QN_STORED_COUNT; i++) {
    if (strcmp(types[i].name, name) != 0) continue;
    *out = (qn_stored_dtype)i;
    return true;
  }
  return false;
}

const qn_format *qn_stored_format(qn_stored_dtype dtype) {
  return types[dtype].is_weight ? qn_format_of(types[dtype].becomes) : NULL;
}

bool qn_stored_is_format(qn_stored_dtype dtype) { return types[dtype].is_weight && !types[dtype].read; }

void qn_stored_convert(qn_stored_dtype dtype, const void *from, size_t count, void *out) {
  const uint8_t *bytes = from;
  size_t size = types[dtype].bits / 8;
  bool half = types[dtype].becomes == QN_DTYPE_F16;
  if (!types[dtype].read) {
    memcpy(out, from, count * size);
    return;
  }
  for (size_t i = 0; i < count; i++) {
    float value = types[dtype].read(bytes + i * size);
    uint16_t bits = half ? qn_f32_to_f16(value) : 0;
    if (half) {
      memcpy((uint8_t *)out + i * sizeof bits, &bits, sizeof bits);
    } else {
      memcpy((uint8_t *)out + i * sizeof value, &value, sizeof value);
    }
  }
}
