// What the tokenizer's files share: the blob's layout, the open tokenizer, and the steps of encoding. No other file
// includes it (tests of the pre-tokenizer do).
#ifndef QN_TOKENIZER_IMPL_H
#define QN_TOKENIZER_IMPL_H

#include "runtime/tokenizer.h"

// ---- the blob ----------------------------------------------------------------------------------------------------
// Little-endian. A header of QN_TOK_WORDS 32-bit words and the pre-tokenizer's name, then sections at byte offsets that
// the header gives:
//   starts      u32[n_symbols + 1]   where each symbol's bytes begin in `pieces`
//   pieces      u8[pieces_bytes]
//   types       u8[n_tokens]         qn_token_type in the low bits, QN_TOK_EOG, QN_TOK_TAKES_SPACE
//   scores      f32[n_tokens]        SPM only
//   piece_slots u32[piece_slots]     open addressing, linear: token id or QN_TOK_FREE, by qn_hash64(piece, 0)
//   merges      u32[n_merges][3]     left, right, result: symbols; the index is the rank
//   merge_slots u32[merge_slots]     rank or QN_TOK_FREE, by qn_tok_merge_hash(left, right)
//   bytes       u32[256]             the symbol of each single byte, or QN_TOK_FREE
//   specials    u32[n_specials]      control, user-defined and unknown tokens, longest first, then by id
// Symbols are the tokens, then strings that merge rules pass through without their being tokens. A piece is the bytes a
// token stands for, not the file's spelling.

#define QN_TOK_MAGIC      0x4B544E51u  // "QNTK"
#define QN_TOK_VERSION    1u
#define QN_TOK_FREE       0xFFFFFFFFu
#define QN_TOK_PRE_BYTES  32
#define QN_TOK_MAX_COUNT  (1u << 24)   // tokens, merges
#define QN_TOK_MAX_BYTES  0x7FFFFFFFu  // of a blob
#define QN_TOK_MAX_PROBES 128u         // no lookup walks further, whatever a blob says
#define QN_TOK_MAX_TEXT   (1u << 30)   // bytes of a text to encode

enum { QN_TOK_TYPE_MASK = 7, QN_TOK_EOG = 8, QN_TOK_TAKES_SPACE = QN_TOKEN_TAKES_SPACE };  // in `types`

// clang-format off
typedef enum qn_tok_word {
  QN_TOK_W_MAGIC, QN_TOK_W_VERSION, QN_TOK_W_SIZE, QN_TOK_W_KIND, QN_TOK_W_FLAGS,
  QN_TOK_W_N_TOKENS, QN_TOK_W_N_SYMBOLS, QN_TOK_W_N_MERGES, QN_TOK_W_N_SPECIALS,
  QN_TOK_W_PIECES_BYTES, QN_TOK_W_PIECE_SLOTS, QN_TOK_W_MERGE_SLOTS, QN_TOK_W_PROBES,
  QN_TOK_W_BOS, QN_TOK_W_EOS, QN_TOK_W_UNK, QN_TOK_W_PAD,
  QN_TOK_W_STARTS, QN_TOK_W_PIECES, QN_TOK_W_TYPES, QN_TOK_W_SCORES, QN_TOK_W_PIECE_TABLE,
  QN_TOK_W_MERGES, QN_TOK_W_MERGE_TABLE, QN_TOK_W_BYTES, QN_TOK_W_SPECIALS,
  QN_TOK_WORDS
} qn_tok_word;
// clang-format on
#define QN_TOK_HEADER_BYTES (QN_TOK_WORDS * 4 + QN_TOK_PRE_BYTES)

enum {  // QN_TOK_W_FLAGS
  QN_TOK_ADD_BOS = 1,
  QN_TOK_ADD_EOS = 2,
  QN_TOK_ADD_SPACE_PREFIX = 4,
  QN_TOK_REMOVE_SPACES = 8,
  QN_TOK_IGNORE_MERGES = 16,
  QN_TOK_ALL_FLAGS = 31
};

static inline uint32_t qn_tok_load(const uint8_t *words, size_t index) {
  const uint8_t *p = words + index * 4;
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint32_t qn_tok_merge_hash(uint32_t left, uint32_t right) {
  return (uint32_t)((((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u) >> 32);
}

// ---- text --------------------------------------------------------------------------------------------------------

// GPT-2's byte alphabet (openai/gpt-2, encoder.py, bytes_to_unicode): the byte a code point stands for, or -1.
int qn_byte_of_code_point(uint32_t code_point);
// The code point of a valid sequence of `length` bytes.
uint32_t qn_utf8_code_point(const char *sequence, size_t length);

// ---- the pre-tokenizer -------------------------------------------------------------------------------------------

typedef struct qn_word {
  uint32_t end;  // byte after the word; it begins where the one before ends
  bool opaque;   // bytes that are not UTF-8: not to be split further
} qn_word;
typedef QN_VEC(qn_word) qn_word_vec;

typedef struct qn_pre_tokenizer qn_pre_tokenizer;

// Is the name in the table? On failure the error lists the table. The outs: what the name implies for settings that a
// file says nothing of.
QN_CHECKED qn_status qn_pre_tokenizer_check(const char *name, bool *out_ignore_merges, bool *out_add_bos,
                                            qn_diag *diag);
QN_CHECKED qn_status qn_pre_tokenizer_create(const char *name, const qn_allocator *allocator, qn_pre_tokenizer **out,
                                             qn_diag *diag);
// The same from PCRE2 patterns of one's own. match_limit bounds the engine's work on one word (0: no bound of ours).
QN_CHECKED qn_status qn_pre_tokenizer_create_from(const char *const *patterns, size_t count, uint32_t match_limit,
                                                  const qn_allocator *allocator, qn_pre_tokenizer **out, qn_diag *diag);
void qn_pre_tokenizer_destroy(qn_pre_tokenizer *pre);
// Replaces *words by the words of text, which cover it without gaps.
QN_CHECKED qn_status qn_pre_tokenizer_split(const qn_pre_tokenizer *pre, qn_str text, const qn_allocator *allocator,
                                            qn_word_vec *words, qn_diag *diag);

// ---- the open tokenizer ------------------------------------------------------------------------------------------

// Special tokens of one length.
typedef struct qn_special_class {
  uint32_t length;         // bytes
  uint64_t first[4];       // bit set of their first bytes
  uint64_t first_user[4];  // the same of user-defined ones only
} qn_special_class;

struct qn_tokenizer {
  const qn_allocator *allocator;                                                                            // borrowed
  const uint8_t *starts, *pieces, *types, *scores, *piece_table, *merges, *merge_table, *bytes, *specials;  // borrowed
  qn_tokenizer_kind kind;
  uint32_t flags;
  uint32_t n_tokens, n_symbols, n_merges, n_specials, piece_slots, merge_slots, probes;
  uint32_t max_piece;  // bytes of the longest piece
  int32_t bos, eos, unk, pad;
  qn_pre_tokenizer *pre;      // owned; BPE only
  qn_special_class *classes;  // owned; longest first
  size_t n_classes;
};

static inline qn_str qn_tok_symbol(const qn_tokenizer *tokenizer, uint32_t symbol) {
  uint32_t begin = qn_tok_load(tokenizer->starts, symbol), end = qn_tok_load(tokenizer->starts, symbol + 1);
  return (qn_str){(const char *)tokenizer->pieces + begin, end - begin};
}
static inline bool qn_tok_type_is_special(unsigned type) {
  return type == QN_TOKEN_CONTROL || type == QN_TOKEN_UNKNOWN || type == QN_TOKEN_USER_DEFINED;
}
// Never made from plain text.
static inline bool qn_tok_type_is_hidden(unsigned type) { return type == QN_TOKEN_CONTROL || type == QN_TOKEN_UNKNOWN; }
static inline unsigned qn_tok_type(const qn_tokenizer *tokenizer, uint32_t id) {
  return tokenizer->types[id] & QN_TOK_TYPE_MASK;
}

typedef enum qn_tok_want { QN_TOK_WANT_PLAIN, QN_TOK_WANT_SPECIAL } qn_tok_want;
// The token with these bytes that plain text may become, or that is special; QN_TOK_FREE when there is none.
uint32_t qn_tok_lookup(const qn_tokenizer *tokenizer, const char *bytes, size_t length, qn_tok_want want);

// ---- merging -----------------------------------------------------------------------------------------------------

// A piece of the text while it is being merged: a doubly linked list in an array.
typedef struct qn_merge_node {
  uint32_t prev, next;     // QN_TOK_FREE at the ends
  uint32_t start, length;  // bytes of the text; length 0: merged into another node
  uint32_t symbol;         // BPE: the symbol; SPM: the token or QN_TOK_FREE
} qn_merge_node;
// A pair of neighbours that may be merged; a binary heap, smallest key first.
typedef struct qn_merge_pair {
  uint64_t key;  // order of merging in the upper half, position of the left node in the lower
  uint32_t right, length, symbol;
} qn_merge_pair;

// Memory of one encode call.
typedef struct qn_merger {
  const qn_tokenizer *tokenizer;  // borrowed
  const qn_allocator *allocator;  // borrowed
  QN_VEC(qn_merge_node) nodes;    // owned
  QN_VEC(qn_merge_pair) heap;     // owned
} qn_merger;

// May these neighbours be merged? Then also the order (smaller first) and the symbol that comes of it.
typedef bool qn_merge_find(const qn_tokenizer *tokenizer, const char *text, const qn_merge_node *left,
                           const qn_merge_node *right, uint32_t *out_order, uint32_t *out_symbol);

void qn_merger_deinit(qn_merger *merger);
// Appends a node to the list; false when out of memory. nodes.count = 0 starts a new list.
bool qn_merger_add(qn_merger *merger, uint32_t start, uint32_t length, uint32_t symbol);
// Merges until nothing is left to merge: smallest order first, of equals the leftmost. O(n log n). False when out of
// memory.
bool qn_merger_run(qn_merger *merger, const char *text, qn_merge_find *find);
// Appends the tokens of one byte that no other token holds: its byte token, or the unknown token.
QN_CHECKED qn_status qn_tok_push_byte(const qn_tokenizer *tokenizer, uint8_t byte, const qn_allocator *allocator,
                                      qn_token_vec *tokens, qn_diag *diag);

// Plain text to tokens, appended.
QN_CHECKED qn_status qn_spm_encode(qn_merger *merger, qn_str text, qn_token_vec *tokens, qn_diag *diag);
QN_CHECKED qn_status qn_bpe_encode(qn_merger *merger, qn_word_vec *words, qn_str text, qn_token_vec *tokens,
                                   qn_diag *diag);

// ---- special tokens ----------------------------------------------------------------------------------------------

// A stretch of the text: plain (id QN_TOK_FREE) or a special token.
typedef struct qn_fragment {
  uint32_t start, end, id;
} qn_fragment;
typedef QN_VEC(qn_fragment) qn_fragment_vec;

// Fills *fragments, in text order. Stretches that a token swallows (QN_TOK_TAKES_SPACE) are in none.
QN_CHECKED qn_status qn_tok_partition(const qn_tokenizer *tokenizer, qn_str text, bool parse_special,
                                      const qn_allocator *allocator, qn_fragment_vec *fragments, qn_diag *diag);

#endif
