// Code points and GPT-2's byte alphabet.
#include "runtime/tokenizer_impl.h"

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
