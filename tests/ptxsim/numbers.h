// Conversions between the floating-point types, lane by lane and without branches where they are hot. Half-precision
// results that cannot be exact go through round-to-odd, so that nothing is rounded twice (Boldo and Melquiond, 2008).
#ifndef PTXSIM_NUMBERS_H
#define PTXSIM_NUMBERS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t ps_bits32(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}
static inline float ps_f32(uint32_t bits) {
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}
static inline uint64_t ps_bits64(double v) {
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}
static inline double ps_f64(uint64_t bits) {
  double v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

// The bits as a float 2^112 times too small, subnormals included; the product is exact.
static inline float ps_from_f16(uint16_t h) {
  uint32_t magnitude = (uint32_t)(h & 0x7fffu) << 13;
  uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0;
  return ps_f32(ps_bits32(ps_f32(magnitude) * 0x1p112f) | special | (uint32_t)(h & 0x8000u) << 16);
}

// To the nearest, ties to even; NaN becomes 0x7fff.
static inline uint16_t ps_to_f16(float v) {
  uint32_t bits = ps_bits32(v), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  uint32_t normal = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
  uint32_t tiny = ps_bits32(ps_f32(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t h = magnitude < 0x38800000u ? tiny : normal;
  h = magnitude >= 0x47800000u ? 0x7c00u : h;
  return magnitude > 0x7f800000u ? (uint16_t)0x7fff : (uint16_t)(h | sign);
}

static inline float ps_from_bf16(uint16_t b) { return ps_f32((uint32_t)b << 16); }
static inline uint16_t ps_to_bf16(float v) {
  uint32_t bits = ps_bits32(v);
  uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return (bits & 0x7fffffffu) > 0x7f800000u ? (uint16_t)0x7fff : (uint16_t)rounded;
}

// Rounded to odd: the last bit says that something was cut off.
static inline float ps_odd_f32(double v) {
  float f = (float)v;
  uint32_t bits = ps_bits32(f);
  double error = v - (double)f;
  if (error == 0 || error != error || (bits & 1u) != 0) return f;
  return ps_f32((error > 0) == (f > 0 || (f == 0 && v > 0)) ? bits + 1 : bits - 1);
}
// The sum of two doubles, rounded to odd (Knuth's two-sum gives the error).
static inline double ps_odd_sum(double a, double b) {
  double s = a + b, t = s - a, error = (a - (s - t)) + (b - t);
  uint64_t bits = ps_bits64(s);
  if (error == 0 || error != error || (bits & 1u) != 0) return s;
  return ps_f64((error > 0) == (s > 0) ? bits + 1 : bits - 1);
}

static inline float ps_flush(float v) {  // ftz: what is subnormal becomes 0 of its sign
  uint32_t bits = ps_bits32(v);
  return (bits & 0x7f800000u) == 0 ? ps_f32(bits & 0x80000000u) : v;
}
static inline float ps_saturate(float v) { return v > 0 ? (v < 1 ? v : 1) : 0; }  // NaN becomes 0
// A NaN that an operation makes is always this one.
static inline float ps_canonical(float v) { return v == v ? v : ps_f32(0x7fffffffu); }

// Approximations: off by up to 2 ulp where that is asked for, and always alike for the same input.
static inline float ps_perturb(float v, uint32_t input, uint64_t seed) {
  uint32_t bits = ps_bits32(v), exponent = bits >> 23 & 255;
  if (exponent == 0 || exponent == 255) return v;
  uint64_t h = (seed ^ input) * 0x9e3779b97f4a7c15ull;
  h ^= h >> 29;
  h *= 0xbf58476d1ce4e5b9ull;
  uint32_t moved = bits + (uint32_t)((h >> 33) % 5) - 2;
  uint32_t moved_exponent = moved >> 23 & 255;
  return moved_exponent == 0 || moved_exponent == 255 ? v : ps_f32(moved);
}

#endif
