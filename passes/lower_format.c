// Lowering, reading of packed weights: the tile layout of ir/format.h as loop IR, from a format's description alone.
#include <assert.h>

#include "passes/lower.h"

qn_lower_tile qn_lower_tile_at(const qn_format *format, const qn_lbuf *buf, int64_t rows, const qn_lexpr *block,
                               const qn_lexpr *part, const qn_lexpr *lane) {
  return (qn_lower_tile){format, qn_format_tile(format, (uint32_t)rows), rows, buf, block, part, lane};
}

// Index, in elements of `size` bytes, of byte `at` of the block.
static const qn_lexpr *block_index(qn_lbuild *b, const qn_lower_tile *t, size_t at, size_t size) {
  assert(t->tile.block_bytes % size == 0 && at % size == 0);
  return LX_ADD(LX_MUL(t->block, LX_INT((int64_t)(t->tile.block_bytes / size))), LX_INT((int64_t)(at / size)));
}

// The same of byte `at` of the part.
static const qn_lexpr *part_index(qn_lbuild *b, const qn_lower_tile *t, size_t at, size_t size) {
  assert(t->tile.part_bytes % size == 0);
  return LX_ADD(block_index(b, t, t->tile.parts_at + at, size),
                LX_MUL(t->part, LX_INT((int64_t)(t->tile.part_bytes / size))));
}

// 2^(e - 128) of a byte e, from its bits: subnormal for 0 and 1.
static const qn_lexpr *e8m0_half(qn_lbuild *b, const qn_lexpr *e) {
  const qn_lexpr *one = qn_li32(b, 1);
  const qn_lexpr *tiny = qn_lop2(b, QN_LX_SHL, LX_ADD(qn_lop2(b, QN_LX_MIN, e, one), one), qn_li32(b, 21));
  const qn_lexpr *normal = qn_lop2(b, QN_LX_SHL, LX_SUB(e, one), qn_li32(b, 23));
  return qn_lop1(b, QN_LX_AS_F32, qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_LE, e, one), tiny, normal));
}

const qn_lexpr *qn_lower_tile_scale(qn_lower *lower, const qn_lower_tile *t) {
  qn_lbuild *b = &lower->build;
  if (t->format->scale_kind == QN_SCALE_E8M0) {
    return e8m0_half(b, LX_LOAD(t->buf, QN_LM_U8, LX_ADD(block_index(b, t, 0, 1), t->lane)));
  }
  return LX_LOAD(t->buf, QN_LM_F16, LX_ADD(block_index(b, t, 0, 2), t->lane));
}

const qn_lexpr *qn_lower_tile_min(qn_lower *lower, const qn_lower_tile *t) {
  qn_lbuild *b = &lower->build;
  if (t->format->min_at < 0) return NULL;
  return LX_LOAD(t->buf, QN_LM_F16, LX_ADD(block_index(b, t, t->tile.min_at, 2), t->lane));
}

const qn_lexpr *qn_lower_group_factor(qn_lower *lower, const qn_lower_tile *t, bool min, const qn_lexpr *group) {
  qn_lbuild *b = &lower->build;
  size_t at = min ? t->tile.sub_min_at : 0;
  const qn_lexpr *place = LX_ADD(LX_ADD(part_index(b, t, at, 1), LX_MUL(group, LX_INT(t->rows))), t->lane);
  if (!t->tile.subs_share) return LX_LOAD(t->buf, QN_LM_I8, place);
  const qn_lexpr *byte = LX_LOAD(t->buf, QN_LM_U8, place);
  int bits = t->format->sub_scale.bits;
  return min ? qn_lop2(b, QN_LX_SHR, byte, qn_li32(b, bits)) : qn_lop2(b, QN_LX_AND, byte, qn_li32(b, (1 << bits) - 1));
}

static const qn_lexpr *sub_factor(qn_lower *lower, const qn_lower_tile *t, bool min, const qn_lexpr *group) {
  return qn_lop1(&lower->build, QN_LX_TO_F32, qn_lower_group_factor(lower, t, min, group));
}

const qn_lexpr *qn_lower_group_scale(qn_lower *lower, const qn_lower_tile *t, const qn_lexpr *scale,
                                     const qn_lexpr *group) {
  qn_lbuild *b = &lower->build;
  return t->format->sub_scale.bits > 0 ? LX_MUL(scale, sub_factor(lower, t, false, group)) : scale;
}

const qn_lexpr *qn_lower_group_min(qn_lower *lower, const qn_lower_tile *t, const qn_lexpr *min,
                                   const qn_lexpr *group) {
  qn_lbuild *b = &lower->build;
  if (t->format->sub_min.bits == 0) return min;
  return qn_lop1(b, QN_LX_NEG, LX_MUL(min, sub_factor(lower, t, true, group)));
}

// How far right, in bits, word `word` of a part is in its line of a plane, and which line that is.
static const qn_lexpr *word_shift(qn_lbuild *b, const qn_plane *plane, const qn_lexpr *word,
                                  const qn_lexpr **out_line) {
  const qn_lexpr *units = LX_INT(plane->unit_words), *lines = LX_INT(plane->lines), *in_unit = LX_MOD(word, units);
  *out_line = LX_ADD(LX_MUL(LX_DIV(word, units), lines), LX_MOD(in_unit, lines));
  return LX_MUL(qn_lop1(b, QN_LX_TO_I32, LX_DIV(in_unit, lines)), qn_li32(b, (int32_t)plane->bits));
}

// A plane's bits of a code (of each byte where `bytes` is 0x01010101), where they belong.
static const qn_lexpr *plane_bits(qn_lbuild *b, const qn_plane *plane, const qn_lexpr *stored, const qn_lexpr *shift,
                                  uint32_t bytes) {
  uint32_t mask = ((1u << plane->bits) - 1) * bytes;
  const qn_lexpr *bits = qn_lop2(b, QN_LX_SHR, stored, shift);
  if (mask != UINT32_MAX) bits = qn_lop2(b, QN_LX_AND, bits, qn_li32(b, (int32_t)mask));
  return qn_lop2(b, QN_LX_SHL, bits, qn_li32(b, (int32_t)plane->into));
}

static const qn_lexpr *plane_word(qn_lbuild *b, const qn_lower_tile *t, const qn_plane *plane, const qn_lexpr *line) {
  const qn_lexpr *place = LX_ADD(part_index(b, t, plane->at, 4), LX_MUL(line, LX_INT(t->rows)));
  return LX_LOAD(t->buf, QN_LM_I32, LX_ADD(place, t->lane));
}

// A word whose number is known, piece by piece.
static const qn_lexpr *whole_word(qn_lbuild *b, const qn_lower_tile *t, int64_t word) {
  const qn_plane lines = {.at = t->tile.codes_at};
  const qn_lexpr *codes = qn_li32(b, 0);
  for (const qn_code_piece *p = t->tile.words[word], *end = p + QN_PLANES_MAX; p < end && p->bits > 0; p++) {
    const qn_plane like = {.bits = p->bits, .into = p->into};
    const qn_lexpr *stored = plane_word(b, t, &lines, LX_INT(p->line)), *shift = qn_li32(b, p->shift);
    codes = qn_lop2(b, QN_LX_OR, codes, plane_bits(b, &like, stored, shift, UINT32_C(0x01010101)));
  }
  return codes;
}

const qn_lexpr *qn_lower_tile_word(qn_lower *lower, const qn_lower_tile *t, int64_t first, const qn_lexpr *run) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *codes = qn_li32(b, 0), *line = NULL, *word = LX_ADD(LX_INT(first), run);
  if (t->tile.per_byte > 0) return whole_word(b, t, first);  // runs of one
  for (uint32_t i = 0; i < t->tile.plane_count; i++) {
    const qn_plane *plane = &t->tile.planes[i];
    const qn_lexpr *shift = word_shift(b, plane, word, &line);
    const qn_lexpr *bits = plane_bits(b, plane, plane_word(b, t, plane, line), shift, UINT32_C(0x01010101));
    codes = qn_lop2(b, QN_LX_OR, codes, bits);
  }
  return t->format->has_table ? qn_llut16(b, codes, t->format->table) : codes;
}

// The f32 that an unsigned number stands for before scaling.
static const qn_lexpr *plain_number(qn_lbuild *b, const qn_lower_tile *t, const qn_lexpr *number) {
  return qn_lop1(b, QN_LX_TO_F32, LX_SUB(number, qn_li32(b, t->format->offset)));
}

const qn_lexpr *qn_lower_tile_number(qn_lower *lower, const qn_lower_tile *t, int64_t first, const qn_lexpr *run,
                                     int byte) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *line = NULL, *distance = qn_li32(b, 8 * byte);
  if (t->tile.plane_count == 1 && !t->format->has_table) {  // straight from its line
    const qn_plane *plane = &t->tile.planes[0];
    const qn_lexpr *shift = word_shift(b, plane, LX_ADD(LX_INT(first), run), &line);
    return plain_number(b, t, plane_bits(b, plane, plane_word(b, t, plane, line), LX_ADD(distance, shift), 1));
  }
  const qn_lexpr *codes = qn_lower_tile_word(lower, t, first, run);
  codes = qn_lop2(b, QN_LX_AND, qn_lop2(b, QN_LX_SHR, codes, distance), qn_li32(b, 0xff));
  return plain_number(b, t, codes);
}

// The byte of a line in which value j has its bits; `at` is where line 0 is in the part. Byte by byte, as rows of one
// need not be aligned.
static const qn_lexpr *lone_byte(qn_lbuild *b, const qn_lower_tile *t, size_t at, const qn_lexpr *line,
                                 const qn_lexpr *j) {
  const qn_lexpr *place =
      LX_ADD(LX_MUL(LX_ADD(LX_MUL(line, LX_INT(t->rows)), t->lane), LX_INT(4)), LX_MOD(j, LX_INT(4)));
  return LX_LOAD(t->buf, QN_LM_U8, LX_ADD(part_index(b, t, at, 1), place));
}

static const qn_lexpr *lone_plane_code(qn_lbuild *b, const qn_lower_tile *t, const qn_lexpr *j, const qn_lexpr *word) {
  const qn_lexpr *code = qn_li32(b, 0), *line = NULL;
  for (uint32_t i = 0; i < t->tile.plane_count; i++) {
    const qn_plane *plane = &t->tile.planes[i];
    const qn_lexpr *shift = word_shift(b, plane, word, &line), *stored = lone_byte(b, t, plane->at, line, j);
    code = qn_lop2(b, QN_LX_OR, code, plane->bits < 8 ? plane_bits(b, plane, stored, shift, 1) : stored);
  }
  return code;
}

// Where the word is one of those left over, its codes are put together bit by bit: each line has the same bits to spare.
static const qn_lexpr *lone_whole_code(qn_lbuild *b, const qn_lower_tile *t, const qn_lexpr *j, const qn_lexpr *word) {
  int64_t bits = t->format->code_bits, whole = bits * t->tile.per_byte, spare = 8 - bits * t->tile.per_byte;
  const qn_lexpr *per_byte = LX_INT(t->tile.per_byte), *in_byte = LX_MUL(LX_MOD(word, per_byte), LX_INT(bits));
  const qn_plane of_bits = {.bits = (uint32_t)bits};
  const qn_lexpr *line = qn_lop2(b, QN_LX_MIN, LX_DIV(word, per_byte), LX_INT(bits - 1));
  const qn_lexpr *stored = lone_byte(b, t, t->tile.codes_at, line, j);
  const qn_lexpr *code = plane_bits(b, &of_bits, stored, qn_lop1(b, QN_LX_TO_I32, in_byte), 1), *rest = qn_li32(b, 0);
  const qn_lexpr *after = qn_lop2(b, QN_LX_MAX, LX_SUB(word, LX_INT(whole)), LX_INT(0));
  for (int64_t into = 0; into < bits; into++) {
    const qn_plane of_bit = {.bits = 1, .into = (uint32_t)into};
    const qn_lexpr *at = LX_ADD(LX_MUL(after, LX_INT(bits)), LX_INT(into));
    const qn_lexpr *shift = LX_ADD(LX_MOD(at, LX_INT(spare)), LX_INT(8 - spare));
    stored = lone_byte(b, t, t->tile.codes_at, LX_DIV(at, LX_INT(spare)), j);
    rest = qn_lop2(b, QN_LX_OR, rest, plane_bits(b, &of_bit, stored, qn_lop1(b, QN_LX_TO_I32, shift), 1));
  }
  return qn_lop3(b, QN_LX_SELECT, qn_lop2(b, QN_LX_LT, word, LX_INT(whole)), code, rest);
}

static const qn_lexpr *lone_number(qn_lbuild *b, const qn_lower_tile *t, const qn_lexpr *j) {
  const qn_lexpr *word = LX_DIV(j, LX_INT(4));
  const qn_lexpr *code = t->tile.per_byte > 0 ? lone_whole_code(b, t, j, word) : lone_plane_code(b, t, j, word);
  if (t->format->has_table) {
    code = qn_lop2(b, QN_LX_AND, qn_llut16(b, code, t->format->table), qn_li32(b, 0xff));
  }
  return plain_number(b, t, code);
}

const qn_lexpr *qn_lower_scaled(qn_lower *lower, const qn_lexpr *number, const qn_lexpr *scale, const qn_lexpr *min) {
  qn_lbuild *b = &lower->build;
  return min ? LX_FMA(number, scale, min) : LX_MUL(number, scale);
}

const qn_lexpr *qn_lower_tile_value(qn_lower *lower, const qn_format *format, const qn_lbuf *buf, int64_t rows,
                                    int64_t k_size, const qn_lexpr *n, const qn_lexpr *k) {
  qn_lbuild *b = &lower->build;
  const qn_lexpr *panel = LX_DIV(n, LX_INT(rows)), *lane = LX_MOD(n, LX_INT(rows));
  if (format->block_values == 1) {
    const qn_lexpr *index = LX_ADD(LX_MUL(LX_ADD(LX_MUL(panel, LX_INT(k_size)), k), LX_INT(rows)), lane);
    return LX_LOAD(buf, buf->mem, index);
  }
  int64_t values = format->block_values;
  const qn_lexpr *block = LX_ADD(LX_MUL(panel, LX_INT(k_size / values)), LX_DIV(k, LX_INT(values)));
  const qn_lexpr *part = LX_DIV(LX_MOD(k, LX_INT(values)), LX_INT(QN_PART_VALUES));
  const qn_lexpr *j = LX_MOD(k, LX_INT(QN_PART_VALUES)), *group = LX_DIV(j, LX_INT(format->group_values));
  qn_lower_tile t = qn_lower_tile_at(format, buf, rows, block, part, lane);
  const qn_lexpr *scale = qn_lower_group_scale(lower, &t, qn_lower_tile_scale(lower, &t), group);
  const qn_lexpr *min = format->min_at < 0 ? NULL : qn_lower_group_min(lower, &t, qn_lower_tile_min(lower, &t), group);
  return qn_lower_scaled(lower, lone_number(b, &t, j), scale, min);
}
