// Where keys and values lie in a page of a KV cache: what kernels are made by and what moves pages, which know nothing
// of each other, must agree on.
//
// A page holds `keys` tokens of one layer's K or V, head after head. Floats: K of a head is (width, keys), V is (keys,
// width). Codes are in words of four bytes, as dot products of bytes want them along what they sum. Those products are
// of unsigned and signed bytes: codes of 4 bits and of keys are unsigned with half their range added (a nibble 8, a
// byte 128 is 0), those of 8 bits of values signed.
//   K, summed over the width   word (c / 4, key), its bytes c % 4 = 0..3:  (width up to a multiple of 4 or 8) / 4 lines
//   of keys V, summed over keys        word (key / 4, c), its bytes key % 4:       keys / 4 lines of width
// Codes of 4 bits share bytes with others of the same token, which alone then writes them: in K the lines of the second
// half of the width are the upper nibbles of the first half's; in V the values 16 to 31 of each 32 are those of 0 to
// 15, and a line's length is half of the width up to a multiple of 32. Behind a head's codes come its scales, bf16: a
// line of `keys` for each group of the width. A value is its code times the scale, which is a token's own and is never
// written again.
#ifndef QN_BASE_KV_PAGE_H
#define QN_BASE_KV_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct qn_kv_page {
  bool is_k;
  bool coded;
  bool is_f16;  // of floats of 16 bits: which
  bool balanced;  // channels of keys are divided by factors before they are kept; queries know
  int64_t heads, width, keys;
  int bits;       // of an element
  int offset;     // of codes: what is added to a number, 0 = they are signed
  int most;       // of codes: numbers are -most to most
  int64_t lines;  // of codes: of `line_words` words each
  int64_t line_words;
  int64_t groups;       // of codes: scales a token and head has
  int64_t group_width;  // values of a head that share one
  int64_t scales_at;    // byte of a head
  int64_t head_bytes, page_bytes;
} qn_kv_page;

// Caches by their names: "k", "v", and sums of the attention that each key had ("sum", "softsum": softmax of half the
// scores), [heads, 1, keys] of f32. Does it lie as K does? False for V and for what is no cache's name.
bool qn_kv_lies_as_k(const char *kind);
bool qn_kv_is_sum(const char *kind);
bool qn_kv_is_kind(const char *kind);

// The page of `keys` tokens of K ([heads, width, keys]) or V ([heads, keys, width]) with elements of that dtype. false
// when it is none that caches have, or sizes are not positive, overflow, or (of codes) keys are no multiple of 32.
bool qn_kv_page_make(uint32_t dtype, bool is_k, int64_t heads, int64_t width, int64_t keys, qn_kv_page *out);

// Byte of a head that holds element (key, c), and how far left it is there (codes of 4 bits).
int64_t qn_kv_page_place(const qn_kv_page *page, int64_t key, int64_t c, int *out_shift);
// The number that the code of element (key, c) stands for, before scaling; a head's first byte. Sets it.
int qn_kv_page_get_code(const qn_kv_page *page, const uint8_t *head, int64_t key, int64_t c);
void qn_kv_page_set_code(const qn_kv_page *page, uint8_t *head, int64_t key, int64_t c, int number);
// Byte of a head that holds the scale of element (key, c).
int64_t qn_kv_page_scale(const qn_kv_page *page, int64_t key, int64_t c);
// An element as a number; a head's first byte.
float qn_kv_page_value(const qn_kv_page *page, const uint8_t *head, int64_t key, int64_t c);
// Copies a key's elements and scales, in whatever page, to another place of a head; not onto itself.
void qn_kv_page_copy(const qn_kv_page *page, const uint8_t *from, int64_t key, uint8_t *to, int64_t to_key);
// Makes all elements and scales of keys from `first` on zero bytes, of a whole page.
void qn_kv_page_clear(const qn_kv_page *page, int64_t first, void *data);

#endif
