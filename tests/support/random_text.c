// Random texts for tokenizers.
#include "tests/support/random_text.h"

#include <string.h>

#include "runtime/base/status.h"

// clang-format off
static const char *const words[] = {
    "the", "quick", "Brown", "FOX", "don't", "I'VE", "we'll", "it's", "They'RE", "na\xc3\xafve", "caf\xc3\xa9",
    "x1y2", "3.14", "hello_world", "foo(bar)", "{a: [1, 2]}", "https://example.org/a?b=c", "C++", "#include", "e.g.",
    "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82",
    "\xd0\xbc\xd0\xb8\xd1\x80", "\xce\x95\xce\xbb\xce\xbb\xce\xac\xce\xb4\xce\xb1",
    "\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d", "\xd9\x85\xd8\xb1\xd8\xad\xd8\xa8\xd8\xa7",
    "\xe0\xa4\xa8\xe0\xa4\xae\xe0\xa4\xb8\xe0\xa5\x8d\xe0\xa4\xa4\xe0\xa5\x87",
    "\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4", "\xf0\x9f\xa6\x99", "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x92\xbb",
    "\xef\xac\x81ne", "\xe2\x85\xa7", "\xc2\xbd", "\xc4\xb0stanbul", ("stra\xc3\x9f" "e"), "\xef\xb7\xba",
    "e\xcc\x81tude", "\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "-->", "...", "!?", "==", "\\n", "'s", "''", "\"q\"",
    "\xc5\xbfs",
};
static const char *const specials[] = {
    "<s>", "</s>", "<unk>", "<pad>", "<mask>", "[MASK]", "[CLS]", "[UNK]", "<|endoftext|>", "<|im_end|>", "<|end|>",
    "<extra>", "  ", "    ", "word", "\xe2\x96\x81\xe2\x96\x81",
};
static const char *const spaces[] = {
    " ", "  ", "   ", "\x0a", "\x0a\x0a", "\x09", "\x0d\x0a", " \x0a ", "\xc2\xa0", "\xe3\x80\x80", "\xe2\x80\x83",
    "\xc2\x85", "\xe2\x80\x8b",
};

static const uint32_t blocks[][2] = {
    {0x20, 0x7e}, {0x20, 0x7e}, {0xa1, 0xff}, {0x100, 0x17f}, {0x1e00, 0x1ef9}, {0x391, 0x3a1}, {0x3a3, 0x3c9},
    {0x400, 0x45f}, {0x5d0, 0x5ea}, {0x621, 0x63a}, {0x64b, 0x652}, {0x904, 0x939}, {0x93e, 0x94d}, {0xe01, 0xe3a},
    {0x300, 0x34e}, {0x1100, 0x1112}, {0x1161, 0x1175}, {0x11a8, 0x11c2}, {0x2010, 0x2027}, {0x2074, 0x208e},
    {0x20a0, 0x20b9}, {0x2100, 0x214f}, {0x2150, 0x2188}, {0x2190, 0x22ff}, {0x2460, 0x24ff}, {0x3001, 0x303d},
    {0x3041, 0x3096}, {0x30a1, 0x30fa}, {0x4e00, 0x9fa5}, {0xac00, 0xd7a3}, {0xfb00, 0xfb06}, {0xff01, 0xffbe},
    {0x1d400, 0x1d454}, {0x1f300, 0x1f320}, {0x1f600, 0x1f640}, {0x20000, 0x2a6d6}, {0x1, 0x1f},
};
// clang-format on

// splitmix64 (Steele, Lea and Flood 2014)
static uint64_t next(uint64_t *state) {
  uint64_t z = *state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

static uint64_t below(uint64_t *state, uint64_t count) { return next(state) % count; }

static void put_code_point(qn_buf *out, uint32_t c) {
  static const unsigned char marks[] = {0, 0, 0xC0, 0xE0, 0xF0};
  unsigned char bytes[4];
  size_t length = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  for (size_t i = length; i-- > 1; c >>= 6) bytes[i] = (unsigned char)(0x80 | (c & 0x3F));
  bytes[0] = (unsigned char)(marks[length] | c);
  qn_buf_append(out, bytes, length);
}

static void put_part(uint64_t *state, qn_buf *out) {
  uint64_t kind = below(state, 10);
  if (kind < 4) {
    if (below(state, 4) != 0) qn_buf_putc(out, ' ');
    qn_buf_puts(out, words[below(state, QN_COUNT(words))]);
  } else if (kind < 5) {
    qn_buf_puts(out, spaces[below(state, QN_COUNT(spaces))]);
  } else if (kind < 6) {
    for (uint64_t left = 1 + below(state, 7); left > 0; left--) qn_buf_putc(out, (char)('0' + below(state, 10)));
  } else if (kind < 9) {
    const uint32_t *block = blocks[below(state, QN_COUNT(blocks))];
    for (uint64_t left = 1 + below(state, 6); left > 0; left--) {
      put_code_point(out, block[0] + (uint32_t)below(state, block[1] - block[0] + 1));
    }
  } else {
    qn_buf_puts(out, specials[below(state, QN_COUNT(specials))]);
  }
}

void qn_random_text(uint64_t index, qn_buf *out) {
  uint64_t state = index * 1000003 + 17;
  for (uint64_t parts = below(&state, 12); parts > 0; parts--) put_part(&state, out);
}
