// What tensor cores do, one warp's tile at a time: which lane holds what (as loop.h says), and the arithmetic.
#include <string.h>

#include "ir/loop.h"

const qn_lmma_info *qn_lmma_info_of(qn_lmma kind) {
  static const qn_lmma_info table[QN_MMA_COUNT] = {
#define QN_MMA(name, text, words, sum, instruction, meaning) {text, words, QN_LM_##sum, instruction, meaning},
#include "ir/mma.def"
#undef QN_MMA
  };
  return &table[kind];
}

int qn_lmma_each(qn_lmma kind, qn_lmma_operand operand) {
  int words = qn_lmma_info_of(kind)->words;
  return operand == QN_MMA_OF_C ? QN_MMA_C : operand == QN_MMA_OF_A ? words / 2 : words / 4;
}

bool qn_lbuf_is_own(const qn_lbuf *buf, const qn_lexpr *index, const qn_lvar *var, int *out_element) {
  int64_t element = 0, factor = 1;
  if (index->op == QN_LX_ADD && qn_lexpr_is_int(index->operands[1], &element)) index = index->operands[0];
  if (index->op == QN_LX_MUL && qn_lexpr_is_int(index->operands[1], &factor)) index = index->operands[0];
  if (index->op != QN_LX_VAR || index->u.var != var || factor != buf->each) return false;
  if (element < 0 || element >= buf->each) return false;
  *out_element = (int)element;
  return true;
}

enum { MAX_WORDS = 8 };

// A tile's operands as whole matrices of words.
typedef struct matrices {
  uint32_t a[QN_MMA_ROWS][MAX_WORDS], b[QN_MMA_COLUMNS][MAX_WORDS];
} matrices;

static void gather(qn_lmma kind, const uint32_t *a, const uint32_t *b, matrices *out) {
  int a_each = qn_lmma_each(kind, QN_MMA_OF_A), b_each = qn_lmma_each(kind, QN_MMA_OF_B);
  for (int lane = 0; lane < QN_MMA_WARP; lane++) {
    int r = lane / 4, q = lane % 4;
    for (int i = 0; i < a_each; i++) out->a[r + i % 2 * 8][q + i / 2 * 4] = a[lane * a_each + i];
    for (int i = 0; i < b_each; i++) out->b[r][q + i * 4] = b[lane * b_each + i];
  }
}

static uint32_t add_bytes(uint32_t sum, uint32_t x, uint32_t y) {
  for (int shift = 0; shift < 32; shift += 8)
    sum += (uint32_t)((int32_t)(uint8_t)(x >> shift) * (int8_t)(uint8_t)(y >> shift));
  return sum;
}

static float half_of(uint32_t word, int half, bool bf16) {
  uint16_t bits = (uint16_t)(word >> 16 * half);
  return bf16 ? qn_bf16_to_f32(bits) : qn_f16_to_f32(bits);
}

// Products of 16-bit floats are exact in f32; sums are rounded one by one.
static uint32_t add_halves(uint32_t sum, uint32_t x, uint32_t y, bool bf16) {
  float value;
  memcpy(&value, &sum, sizeof value);
  for (int half = 0; half < 2; half++) {
    float product = half_of(x, half, bf16) * half_of(y, half, bf16);
    value += product;
  }
  memcpy(&sum, &value, sizeof sum);
  return sum;
}

void qn_lmma_multiply(qn_lmma kind, uint32_t *c, const uint32_t *a, const uint32_t *b) {
  const qn_lmma_info *info = qn_lmma_info_of(kind);
  matrices m;
  gather(kind, a, b, &m);
  for (int lane = 0; lane < QN_MMA_WARP; lane++) {
    for (int i = 0; i < QN_MMA_C; i++) {
      const uint32_t *x = m.a[lane / 4 + i / 2 * 8], *y = m.b[lane % 4 * 2 + i % 2];
      uint32_t *sum = &c[lane * QN_MMA_C + i];
      for (int word = 0; word < info->words; word++) {
        *sum = info->sum == QN_LM_I32 ? add_bytes(*sum, x[word], y[word])
                                      : add_halves(*sum, x[word], y[word], kind == QN_MMA_BF16_K16);
      }
    }
  }
}
