// Bits that an i32 expression cannot set: masks, shifts, what loads widen, and what is declared of locals. A gap between
// a bound and the next power of two is not seen, except of a table's values.

#include "ir/loop.h"

static bool shift_distance(const qn_lexpr *e, int64_t *out) {
  return qn_lexpr_is_int(e->operands[1], out) && *out >= 0 && *out <= 31;
}

// Of a byte that is stored in a buffer.
static uint32_t stored_byte(const qn_lbuf *buf) {
  uint32_t bits = UINT8_MAX;
  while (buf->byte_max > 0 && bits >> 1 >= (uint32_t)buf->byte_max) bits >>= 1;
  return bits;
}

uint32_t qn_lexpr_bits(const qn_lexpr *e) {
  int64_t distance;
  if (e->type.kind != QN_LK_I32) return UINT32_MAX;
  switch (e->op) {
    case QN_LX_INT: return (uint32_t)e->u.int_value;
    case QN_LX_LOAD:
      if (e->u.load.mem == QN_LM_U8) return stored_byte(e->u.load.buf);
      return e->u.load.mem == QN_LM_I32 ? stored_byte(e->u.load.buf) * UINT32_C(0x01010101) : UINT32_MAX;
    case QN_LX_AND: return qn_lexpr_bits(e->operands[0]) & qn_lexpr_bits(e->operands[1]);
    case QN_LX_OR:
    case QN_LX_XOR: return qn_lexpr_bits(e->operands[0]) | qn_lexpr_bits(e->operands[1]);
    case QN_LX_SHL: return shift_distance(e, &distance) ? qn_lexpr_bits(e->operands[0]) << distance : UINT32_MAX;
    case QN_LX_SHR: return shift_distance(e, &distance) ? qn_lexpr_bits(e->operands[0]) >> distance : UINT32_MAX;
    case QN_LX_LUT16: {
      uint32_t any = 0;
      for (size_t i = 0; i < sizeof e->u.table; i++) any |= e->u.table[i];
      return any * UINT32_C(0x01010101);
    }
    case QN_LX_SELECT: return qn_lexpr_bits(e->operands[1]) | qn_lexpr_bits(e->operands[2]);
    default: return UINT32_MAX;
  }
}

int qn_lexpr_byte_max(const qn_lexpr *e) {
  uint32_t bits = qn_lexpr_bits(e);
  int max = 0;
  if (e->op == QN_LX_LUT16) {  // exactly, where bits would round up
    for (size_t i = 0; i < sizeof e->u.table; i++) max = e->u.table[i] > max ? e->u.table[i] : max;
    return max;
  }
  for (int shift = 0; shift < 32; shift += 8) {
    int byte = (int)(bits >> shift & UINT8_MAX);
    if (byte > max) max = byte;
  }
  return max;
}
