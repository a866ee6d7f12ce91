// UTF-8 and GPT-2's byte alphabet.
#include "runtime/tokenizer_impl.h"

size_t qn_utf8_sequence(const char *text, size_t length, bool *out_unfinished) {
  const unsigned char *p = (const unsigned char *)text;
  if (out_unfinished != NULL) *out_unfinished = false;
  if (length == 0) return 0;
  if (p[0] < 0x80) return 1;
  // RFC 3629, section 4: how long the sequence is and what its second byte may be.
  size_t need;
  unsigned low = 0x80, high = 0xBF;
  if (p[0] >= 0xC2 && p[0] <= 0xDF) {
    need = 2;
  } else if (p[0] >= 0xE0 && p[0] <= 0xEF) {
    need = 3;
    if (p[0] == 0xE0) low = 0xA0;
    if (p[0] == 0xED) high = 0x9F;
  } else if (p[0] >= 0xF0 && p[0] <= 0xF4) {
    need = 4;
    if (p[0] == 0xF0) low = 0x90;
    if (p[0] == 0xF4) high = 0x8F;
  } else {
    return 0;
  }
  for (size_t i = 1; i < need; i++, low = 0x80, high = 0xBF) {
    if (i >= length) {
      if (out_unfinished != NULL) *out_unfinished = true;
      return 0;
    }
    if (p[i] < low || p[i] > high) return 0;
  }
  return need;
}

uint32_t qn_utf8_code_point(const char *sequence, size_t length) {
  const unsigned char *p = (const unsigned char *)sequence;
  if (length == 1) return p[0];
  uint32_t code_point = p[0] & (0x7Fu >> length);
  for (size_t i = 1; i < length; i++) code_point = code_point << 6 | (p[i] & 0x3Fu);
  return code_point;
}

// The bytes that stand for themselves are the printable ones of Latin-1.
static bool stands_for_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

int qn_byte_of_code_point(uint32_t code_point) {
  if (code_point < 256) return stands_for_itself(code_point) ? (int)code_point : -1;
  // The other 68 bytes take the code points from 256 on, in order: 0x00-0x20, 0x7F-0xA0, 0xAD.
  uint32_t rank = code_point - 256;
  if (rank <= 0x20) return (int)rank;
  if (rank <= 0x20 + 34) return (int)(0x7F + rank - 0x21);
  return rank == 0x20 + 35 ? 0xAD : -1;
}
