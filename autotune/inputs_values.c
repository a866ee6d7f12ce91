// The values that kernels are checked with: rows of activations of every kind that breaks code, and weights of every
// format, made as blocks of a file and packed like those.
#include <math.h>
#include <string.h>

#include "autotune/inputs.h"
#include "runtime/base/hash.h"

// What a row holds; QN_INPUTS_KINDS of them.
enum { RANDOM, BLOCKS, SPECIAL, LARGE, TINY, ONE_HOT, ZERO };
_Static_assert(ZERO + 1 == QN_INPUTS_KINDS, "every kind has a seed");

typedef struct stream {
  uint64_t state;
} stream;

static stream stream_of(uint64_t seed, uint64_t number) {
  uint64_t words[] = {seed, number};
  return (stream){qn_hash64(words, sizeof words, 1) | 1};
}

static uint64_t next(stream *s) {  // xorshift64*
  s->state ^= s->state >> 12;
  s->state ^= s->state << 25;
  s->state ^= s->state >> 27;
  return s->state * UINT64_C(2685821657736338717);
}

static float unit(stream *s) { return (float)(next(s) >> 40) * 0x1p-24f; }  // [0, 1)

int qn_inputs_kind(uint64_t seed, int64_t row, qn_inputs_use use) {
  if (use == QN_INPUTS_TIME) return RANDOM;
  if (row == 0) return (int)(seed % QN_INPUTS_KINDS);
  stream s = stream_of(seed, (uint64_t)row);
  uint64_t choice = next(&s) >> 32;
  return choice % 2 ? RANDOM : (int)(choice / 2 % QN_INPUTS_KINDS);
}

static float element(stream *s, int kind, int64_t at, int64_t hot, int exponent) {
  static const float specials[] = {INFINITY, -INFINITY, NAN, -0.0f, 3e38f, -3e38f, 1e-42f, 88.5f};
  float x = unit(s) * 4 - 2;
  switch (kind) {
    case BLOCKS: return ldexpf(x, exponent);
    case SPECIAL: return next(s) >> 58 ? x : specials[next(s) >> 61];
    case LARGE: return x * 1e18f;
    case TINY: return x * 1e-41f;
    case ONE_HOT: return at == hot ? x : 0;
    case ZERO: return next(s) >> 63 ? 0.0f : -0.0f;
    default: return x;
  }
}

void qn_inputs_fill_row(uint64_t seed, int kind, float *out, int64_t count) {
  stream s = stream_of(seed, (uint64_t)kind);
  int64_t hot = count > 0 ? (int64_t)(next(&s) % (uint64_t)count) : 0;
  int exponent = 0;
  for (int64_t i = 0; i < count; i++) {
    if (i % 32 == 0) exponent = (int)(next(&s) % 100) - 60;
    out[i] = element(&s, kind, i, hot, exponent);
  }
}

static float a8_scale(stream *s, int kind) {
  switch (kind) {
    case BLOCKS: return ldexpf(unit(s) + 0.5f, (int)(next(s) % 100) - 60);
    case SPECIAL: return next(s) >> 62 ? unit(s) * 0.02f : NAN;
    case LARGE: return unit(s) * 1e18f;
    case TINY: return unit(s) * 1e-41f;
    default: return unit(s) * 0.02f;
  }
}

// Codes of -127 to 127; rows of extreme ones are what sums of 16 bits overflow with.
static int8_t a8_code(stream *s, int kind, int64_t at, int64_t hot) {
  switch (kind) {
    case LARGE: return next(s) >> 63 ? 127 : -127;
    case BLOCKS: return at / 32 % 2 ? 127 : -127;
    case ONE_HOT: return at == hot ? 127 : 0;
    case ZERO: return 0;
    default: return (int8_t)((int)(next(s) % 255) - 127);
  }
}

void qn_inputs_fill_a8(uint64_t seed, int kind, uint8_t *out, int64_t width) {
  stream s = stream_of(seed, (uint64_t)kind);
  int64_t blocks = width / 32, hot = width > 0 ? (int64_t)(next(&s) % (uint64_t)width) : 0;
  for (int64_t block = 0; block < blocks; block++) {
    int32_t sums[2] = {0, 0};
    for (int64_t i = block * 32; i < block * 32 + 32; i++) {
      int8_t code = a8_code(&s, kind, i, hot);
      out[i] = (uint8_t)code;
      sums[i % 32 / 16] += code;
    }
    float scale = a8_scale(&s, kind);
    int32_t sum = sums[0] + sums[1];
    memcpy(out + width + block * 4, &scale, sizeof scale);
    memcpy(out + width + (blocks + block) * 4, &sum, sizeof sum);
    memcpy(out + width + (2 * blocks + 2 * block) * 4, sums, sizeof sums);
  }
}

// --- weights

enum { UNIQUE_BYTES = 1 << 18, UNIQUE_PANELS = 64 };  // panels that are made and packed; the others are copies of them

static void put_half(uint8_t *at, float value) {
  uint16_t half = qn_f32_to_f16(value);
  memcpy(at, &half, sizeof half);
}

static void float_value(const qn_format *f, stream *s, int kind, bool hot, uint8_t *at) {
  float x = unit(s) * 2 - 1;
  if (kind == LARGE) x = next(s) >> 60 ? x : copysignf(f->dtype == QN_DTYPE_F16 ? 65504.0f : 1e30f, x);
  if (kind == TINY) x *= f->dtype == QN_DTYPE_F16 ? 1e-6f : 1e-40f;
  if (kind == ZERO || (kind == ONE_HOT && !hot)) x = next(s) >> 63 ? 0.0f : -0.0f;
  uint16_t half = f->dtype == QN_DTYPE_F16 ? qn_f32_to_f16(x) : qn_f32_to_bf16(x);
  if (f->dtype == QN_DTYPE_F32)
    memcpy(at, &x, sizeof x);
  else
    memcpy(at, &half, sizeof half);
}

// A scale (or minimum) of a block: in an ordinary row one that makes values of about 1 at most.
static float block_scale(stream *s, int kind, float ordinary) {
  switch (kind) {
    case LARGE: return next(s) >> 63 ? 65504.0f : ordinary;
    case TINY: return unit(s) * 6e-5f;  // denormal as f16
    case ZERO: return 0;
    case BLOCKS: return ldexpf(ordinary, (int)(next(s) % 16) - 12);
    default: return ordinary;
  }
}

static void fill_block(const qn_format *f, stream *s, int kind, bool hot, uint8_t *at) {
  if (f->block_values == 1) {
    float_value(f, s, kind, hot, at);
    return;
  }
  bool extreme = kind == SPECIAL, least = extreme && next(s) >> 63;  // all bits of the codes the same
  for (uint32_t i = 0; i < f->block_bytes; i++) at[i] = extreme ? (least ? 0 : 0xFF) : (uint8_t)(next(s) >> 56);
  float range = f->has_table ? (float)f->offset : (float)(1 << (f->code_bits - 1));
  float min_range = (float)(1 << f->sub_min.bits);
  if (f->sub_scale.bits > 0)
    range *= (float)(1 << (f->sub_scale.bits - (f->sub_scale.is_signed || f->sub_scale.offset > 0)));
  float scale = block_scale(s, kind, (unit(s) + 0.5f) / range / 1.5f);
  if (kind == ONE_HOT && !hot) scale = 0;
  if (f->scale_kind == QN_SCALE_E8M0) {
    at[f->scale_at] = scale <= 0                   ? 0
                      : kind == LARGE && scale > 1 ? 254
                      : kind == TINY               ? 1
                                                   : (uint8_t)(128 + ilogbf(scale));
  } else {
    put_half(at + f->scale_at, scale);
  }
  if (f->min_at >= 0) put_half(at + f->min_at, -block_scale(s, kind, unit(s) / min_range));
}

// Packs `panels` panels of `rows` rows into `out`.
static bool make_panels(const qn_format *f, uint32_t rows, int64_t panels, int64_t k, uint64_t seed, qn_inputs_use use,
                        uint8_t *out, const qn_allocator *allocator) {
  int64_t blocks = k / f->block_values, n = panels * rows;
  size_t size = 0;
  if (!qn_format_file_bytes(f, n, k, &size)) return false;
  uint8_t *file = qn_alloc(allocator, size);
  if (!file) return false;
  for (int64_t row = 0; row < n; row++) {
    // The first of each panel is ordinary, so that one panel has more than one kind.
    int kind = row % rows == 0 ? RANDOM : qn_inputs_kind(seed, row + 1, use);
    stream s = stream_of(seed, (uint64_t)(n + row));
    int64_t hot = (int64_t)(next(&s) % (uint64_t)blocks);
    for (int64_t block = 0; block < blocks; block++)
      fill_block(f, &s, kind, block == hot, file + (size_t)(row * blocks + block) * f->block_bytes);
  }
  qn_format_pack(f, rows, n, k, file, 0, n, out);
  qn_free(allocator, file, size);
  return true;
}

static void fill_plain(uint64_t seed, uint8_t *data, size_t size) {
  stream s = stream_of(seed, 0);
  for (size_t at = 0; at + sizeof(float) <= size; at += sizeof(float)) {
    float value = unit(&s) + 0.5f;  // never near 0: it may be divided by
    if (next(&s) >> 62 == 0) value = -value;
    memcpy(data + at, &value, sizeof value);
  }
}

qn_status qn_inputs_fill_weight(const qn_pbuf *w, uint64_t seed, qn_inputs_use use, uint8_t *data, size_t size,
                                const qn_allocator *allocator, qn_diag *diag) {
  const char *name = w->name ? w->name : "weight";
  if (w->layout == QN_LAYOUT_PLAIN) {
    fill_plain(seed, data, size);
    return QN_OK;
  }
  const qn_format *f = qn_format_of(w->type.dtype);
  uint32_t rows = w->layout == QN_LAYOUT_ROWS16 ? QN_TILE_ROWS : 1;
  size_t panel = 0, all = 0;
  int64_t k = w->type.rank >= 2 ? w->type.dims[w->type.rank - 1].value : 0;
  bool sized =
      f && k > 0 && qn_format_tile_bytes(f, rows, rows, k, &panel) && qn_weight_bytes(&w->type, w->layout, &all);
  if (!sized || all != size || all == 0) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, name, "got %zu bytes for a weight whose layout takes %zu", size, all);
  }
  int64_t panels = (int64_t)(size / panel), unique = (int64_t)(UNIQUE_BYTES / panel);
  if (unique < 4) unique = 4;
  if (unique > UNIQUE_PANELS) unique = UNIQUE_PANELS;
  if (unique > panels) unique = panels;
  uint8_t *made = qn_alloc(allocator, panel * (size_t)unique);
  bool filled = made && make_panels(f, rows, unique, k, seed, use, made, allocator);
  stream s = stream_of(seed, 77);
  int64_t last = -1;
  for (int64_t p = 0; filled && p < panels; p++) {  // neighbours differ, and what follows whom does too
    int64_t from = (int64_t)(next(&s) % (uint64_t)unique);
    if (from == last) from = (from + 1) % unique;
    last = from;
    memcpy(data + (size_t)p * panel, made + (size_t)from * panel, panel);
  }
  qn_free(allocator, made, panel * (size_t)unique);
  return filled ? QN_OK : qn_fail_nomem(diag, name, "made-up weights");
}
