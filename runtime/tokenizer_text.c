// Code points and GPT-2's byte alphabet.
#include "runtime/tokenizer_impl.h"

uint32_t qn_utf8_code_point(const char *sequence, size_t length) {
  const unsigned char *p = (const unsigned char *)sequence;
  if (length == 1) return p[0];
  uint32_t code_point = p[0] & (0x7Fu >> length);
  for (size_t i = 1; i < length; i++) code_point = code_point << 6 | (p[i] & 0x3Fu);
  return code_point;
}

void qn_utf8_put(qn_buf *out, uint32_t c) {
  unsigned char bytes[4];
  size_t length = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  for (size_t i = length; i-- > 1; c >>= 6) bytes[i] = (unsigned char)(0x80 | (c & 0x3F));
  static const unsigned char marks[] = {0, 0, 0xC0, 0xE0, 0xF0};
  bytes[0] = (unsigned char)(marks[length] | c);
  qn_buf_append(out, bytes, length);
}

bool qn_utf8_is_valid(qn_str text) {
  for (size_t at = 0, length; at < text.length; at += length) {
    length = qn_utf8_sequence(text.data + at, text.length - at, NULL);
    if (length == 0) return false;
  }
  return true;
}

bool qn_is_white_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// The bytes that stand for themselves are the printable ones of Latin-1.
static bool stands_for_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

// The other 68 bytes take the code points from 256 on, in order: 0x00-0x20, 0x7F-0xA0, 0xAD.
int qn_byte_of_code_point(uint32_t code_point) {
  if (code_point < 256) return stands_for_itself(code_point) ? (int)code_point : -1;
  uint32_t rank = code_point - 256;
  if (rank <= 0x20) return (int)rank;
  if (rank <= 0x20 + 34) return (int)(0x7F + rank - 0x21);
  return rank == 0x20 + 35 ? 0xAD : -1;
}

uint32_t qn_code_point_of_byte(uint8_t byte) {
  if (stands_for_itself(byte)) return byte;
  if (byte <= 0x20) return 256u + byte;
  return byte == 0xAD ? 256u + 0x20 + 35 : 256u + 0x21 + byte - 0x7F;
}
