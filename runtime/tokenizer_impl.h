// What the tokenizer's files share: the blob's layout, the open tokenizer, and the steps of encoding. No other file
// includes it (tests of the parts do).
#ifndef QN_TOKENIZER_IMPL_H
#define QN_TOKENIZER_IMPL_H

#include "runtime/tokenizer.h"

// ---- the blob ----------------------------------------------------------------------------------------------------
// Little-endian. A header of QN_TOK_WORDS 32-bit words, then sections at byte offsets that the header gives:
//   starts      u32[n_symbols + 1]   where each symbol's spelling begins in `pieces`
//   pieces      u8[pieces_bytes]
//   text_starts u32[n_tokens + 1]    where the text that each token stands for begins in `texts`; both may be the
//   texts       u8[texts_bytes]      sections above
//   types       u8[n_tokens]         qn_token_type in the low bits, QN_TOK_EOG, QN_TOKEN_ flags
//   scores      f64[n_tokens]        SPM and UNIGRAM
//   piece_slots u32[piece_slots]     open addressing, linear: symbol or QN_TOK_FREE, by qn_hash64(piece, 0)
//   merges      u32[n_merges][3]     left, right, result: symbols; the index is the rank
//   merge_slots u32[merge_slots]     rank or QN_TOK_FREE, by qn_tok_merge_hash(left, right)
//   bytes       u32[256]             the byte token of each byte, or QN_TOK_FREE
//   specials    u32[n_specials]      control, user-defined and unknown tokens, longest first, then by id
//   ends        u32[n_before + n_after]  token ids around a text
//   steps       u32[n_steps][QN_TOK_STEP_WORDS]  op | behavior << 8 | flags << 16, then place and bytes of the pattern
//                                    and of the content in `strings`
//   strings     u8[strings_bytes]    WORDPIECE's two prefixes are at its front
//   charsmap    u8[charsmap_bytes]   as SentencePiece has it
//   unicode     u8[unicode_bytes]    as vocabulary.h says
// Symbols are the tokens, then strings that merge rules pass through without their being tokens.

#define QN_TOK_MAGIC      0x4B544E51u  // "QNTK"
#define QN_TOK_VERSION    2u
#define QN_TOK_FREE       0xFFFFFFFFu
#define QN_TOK_MAX_COUNT  (1u << 24)   // tokens, merges
#define QN_TOK_MAX_BYTES  0x7FFFFFFFu  // of a blob
#define QN_TOK_MAX_PROBES 128u         // no lookup walks further, whatever a blob says
#define QN_TOK_MAX_TEXT   (1u << 30)   // bytes of a text to encode
#define QN_TOK_MAX_STEPS  64u
#define QN_TOK_MAX_ENDS   64u          // tokens around a text

enum { QN_TOK_TYPE_MASK = 7, QN_TOK_EOG = 8 };  // in `types`
enum { QN_TOK_STEP_WORDS = 5 };

// clang-format off
typedef enum qn_tok_word {
  QN_TOK_W_MAGIC, QN_TOK_W_VERSION, QN_TOK_W_SIZE, QN_TOK_W_KIND, QN_TOK_W_FLAGS,
  QN_TOK_W_N_TOKENS, QN_TOK_W_N_SYMBOLS, QN_TOK_W_N_MERGES, QN_TOK_W_N_SPECIALS,
  QN_TOK_W_N_BEFORE, QN_TOK_W_N_AFTER, QN_TOK_W_N_STEPS, QN_TOK_W_N_NORMALIZERS,
  QN_TOK_W_PIECES_BYTES, QN_TOK_W_TEXTS_BYTES, QN_TOK_W_STRINGS_BYTES, QN_TOK_W_CHARSMAP_BYTES, QN_TOK_W_UNICODE_BYTES,
  QN_TOK_W_FIRST_PREFIX, QN_TOK_W_NEXT_PREFIX, QN_TOK_W_MAX_WORD,
  QN_TOK_W_PIECE_SLOTS, QN_TOK_W_MERGE_SLOTS, QN_TOK_W_PROBES,
  QN_TOK_W_BOS, QN_TOK_W_EOS, QN_TOK_W_UNK, QN_TOK_W_PAD,
  QN_TOK_W_STARTS, QN_TOK_W_PIECES, QN_TOK_W_TEXT_STARTS, QN_TOK_W_TEXTS, QN_TOK_W_TYPES, QN_TOK_W_SCORES,
  QN_TOK_W_PIECE_TABLE, QN_TOK_W_MERGES, QN_TOK_W_MERGE_TABLE, QN_TOK_W_BYTES, QN_TOK_W_SPECIALS, QN_TOK_W_ENDS,
  QN_TOK_W_STEPS, QN_TOK_W_STRINGS, QN_TOK_W_CHARSMAP, QN_TOK_W_UNICODE,
  QN_TOK_WORDS
} qn_tok_word;
// clang-format on
#define QN_TOK_HEADER_BYTES (QN_TOK_WORDS * 4)

enum {  // QN_TOK_W_FLAGS
  QN_TOK_DROP_SPACE = 1,
  QN_TOK_IGNORE_MERGES = 2,
  QN_TOK_FUSE_UNKNOWN = 4,
  QN_TOK_SINGLE = 8,
  QN_TOK_BYTE_ALPHABET = 16,  // words are in the byte alphabet when the model sees them
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

// GPT-2's byte alphabet (openai/gpt-2, encoder.py, bytes_to_unicode): the byte a code point stands for, or -1, and back.
int qn_byte_of_code_point(uint32_t code_point);
uint32_t qn_code_point_of_byte(uint8_t byte);
// The code point of a valid sequence of `length` bytes.
uint32_t qn_utf8_code_point(const char *sequence, size_t length);
// Appends the UTF-8 of a code point below 0x110000.
void qn_utf8_put(qn_buf *out, uint32_t code_point);
bool qn_utf8_is_valid(qn_str text);
// Unicode's White_Space.
bool qn_is_white_space(uint32_t code_point);

// ---- patterns ----------------------------------------------------------------------------------------------------

// PCRE2 patterns of one tokenizer. Never changes once they are added.
typedef struct qn_patterns qn_patterns;

// match_limit bounds the engine's work on one match; 0: QN_PATTERN_LIMIT.
#define QN_PATTERN_LIMIT (1u << 28)
QN_CHECKED qn_status qn_patterns_create(size_t capacity, uint32_t match_limit, const qn_allocator *allocator,
                                        qn_patterns **out, qn_diag *diag);
void qn_patterns_destroy(qn_patterns *patterns);  // NULL is harmless
// Adds the next pattern, of index 0 and up. Errors: UNSUPPORTED (PCRE2 cannot compile it; the text says where and why).
QN_CHECKED qn_status qn_patterns_add(qn_patterns *patterns, qn_str pattern, bool literal, qn_diag *diag);

// What matching writes to: for one call at a time. Zero-initialise.
typedef struct qn_matcher {
  void *general, *data;  // owned
  struct qn_pattern_memory {
    const qn_allocator *allocator;  // borrowed
    bool failed;
  } memory;
} qn_matcher;
QN_CHECKED qn_status qn_matcher_init(qn_matcher *matcher, const qn_allocator *allocator, qn_diag *diag);
void qn_matcher_deinit(qn_matcher *matcher);
// The first match at `at` or later, which may be empty; *out_begin is text.length + 1 where there is none. The text must
// be UTF-8. Errors: LIMIT (the engine gave up; `offset` + at is told as the place), NOMEM.
QN_CHECKED qn_status qn_pattern_find(const qn_patterns *patterns, size_t index, qn_matcher *matcher, qn_str text,
                                     size_t at, size_t offset, size_t *out_begin, size_t *out_end, qn_diag *diag);

// ---- steps -------------------------------------------------------------------------------------------------------

typedef struct qn_word {
  uint32_t begin, end;  // bytes of the text
  bool opaque;          // not UTF-8
  bool whole;           // not to be split: was opaque
  bool glued;           // follows bytes that are not UTF-8: gets nothing in front
} qn_word;
typedef QN_VEC(qn_word) qn_word_vec;

typedef struct qn_step {
  qn_token_step_op op;
  qn_split_behavior behavior;
  unsigned flags;
  uint32_t pattern;  // index, or QN_TOK_FREE
  qn_str content;    // borrowed
} qn_step;

typedef struct qn_unicode {
  const uint8_t *classes, *maps[3], *pairs, *points;  // borrowed; maps: canonical, compatible, lower
  uint32_t n_classes, n_maps[3], n_pairs, n_points;
} qn_unicode;

typedef struct qn_charsmap {
  const uint8_t *units;  // borrowed: a double array of u32
  uint32_t n_units;
  qn_str strings;  // borrowed: each ends in NUL
} qn_charsmap;

// All that steps need; part of a tokenizer.
typedef struct qn_steps {
  const qn_allocator *allocator;  // borrowed
  qn_step *items;                 // owned
  uint32_t count, normalizer_count;
  qn_patterns *patterns;  // owned
  uint32_t graphemes;     // pattern index of one grapheme cluster, or QN_TOK_FREE
  uint32_t word_char;     // of one character of a word
  qn_unicode unicode;
  qn_charsmap charsmap;
} qn_steps;

// From a description or a blob. Texts stay borrowed; `words_needed`: word_char will be asked for. Errors: FORMAT (a step of
// no sense, texts that are not UTF-8, damaged tables), UNSUPPORTED (a pattern), NOMEM.
QN_CHECKED qn_status qn_steps_open(qn_steps *steps, const qn_token_step *descs, size_t count, size_t normalizer_count,
                                   qn_str charsmap, qn_str unicode, bool words_needed, const qn_allocator *allocator,
                                   const char *where, qn_diag *diag);
void qn_steps_close(qn_steps *steps);

// Memory of one encode call, and the text as it is after the steps so far.
typedef struct qn_stepper {
  const qn_allocator *allocator;  // borrowed
  qn_buf text, spare;             // owned
  qn_word_vec words, cuts;        // owned
  QN_VEC(uint32_t) points, sorted;  // owned
  qn_matcher matcher;
  unsigned place;  // QN_STEP_AT_START and _AT_END: which ends of the whole text the stretch has
} qn_stepper;

QN_CHECKED qn_status qn_stepper_init(qn_stepper *stepper, const qn_allocator *allocator, qn_diag *diag);
void qn_stepper_deinit(qn_stepper *stepper);
// Takes a stretch of the text: one word, but for runs of bytes that are not UTF-8.
QN_CHECKED qn_status qn_stepper_load(qn_stepper *stepper, qn_str text, unsigned place, qn_diag *diag);
// Does steps [from, to).
QN_CHECKED qn_status qn_steps_run(const qn_steps *steps, size_t from, size_t to, qn_stepper *stepper, qn_diag *diag);

// Tables of tokenizer_unicode.c and tokenizer_charsmap.c.
QN_CHECKED qn_status qn_unicode_open(qn_unicode *unicode, qn_str data, const char *where, qn_diag *diag);
// Appends the text in another form: op is QN_STEP_LOWERCASE or one of the NF*. False when out of memory.
bool qn_unicode_convert(const qn_unicode *unicode, qn_token_step_op op, qn_str text, qn_stepper *stepper, qn_buf *out);
QN_CHECKED qn_status qn_charsmap_open(qn_charsmap *map, qn_str data, const char *where, qn_diag *diag);
// The bytes of the key at the front of `text`, the longest or the shortest, and what it becomes; 0 where there is none.
size_t qn_charsmap_find(const qn_charsmap *map, qn_str text, bool shortest, qn_str *out);

// ---- the open tokenizer ------------------------------------------------------------------------------------------

// Special tokens of one length.
typedef struct qn_special_class {
  uint32_t length;         // bytes
  uint64_t first[4];       // bit set of their first bytes
  uint64_t first_user[4];  // the same of user-defined ones only
} qn_special_class;
typedef struct qn_special {
  qn_str text;  // borrowed from the blob, or of `texts`
  uint32_t id;
} qn_special;
// Special tokens that are looked for in one kind of text: as it is, or normalised.
typedef struct qn_special_set {
  qn_special *items;  // owned; longest first
  uint32_t count;
  uint32_t *slots;  // owned: open addressing by qn_hash64(text, 0): index or QN_TOK_FREE
  uint32_t n_slots;
  qn_special_class *classes;  // owned; longest first
  uint32_t n_classes;
  qn_buf texts;  // owned: texts that were normalised
} qn_special_set;

struct qn_tokenizer {
  const qn_allocator *allocator;  // borrowed
  const uint8_t *starts, *pieces, *text_starts, *texts, *types, *scores, *piece_table, *merges, *merge_table, *bytes,
      *specials, *ends;  // borrowed
  qn_tokenizer_kind kind;
  uint32_t flags;
  uint32_t n_tokens, n_symbols, n_merges, n_specials, n_before, n_after, piece_slots, merge_slots, probes;
  uint32_t max_piece, max_text;  // bytes of the longest spelling, and of the longest text of a token
  uint32_t longest[256];         // bytes of the longest spelling that begins with a byte
  uint32_t max_word;
  qn_str first_prefix, next_prefix;  // borrowed
  double unknown_score;              // UNIGRAM
  int32_t bos, eos, unk, pad;
  qn_steps steps;
  qn_special_set raw, normalized;
};

static inline qn_str qn_tok_symbol(const qn_tokenizer *tokenizer, uint32_t symbol) {
  uint32_t begin = qn_tok_load(tokenizer->starts, symbol), end = qn_tok_load(tokenizer->starts, symbol + 1);
  return (qn_str){(const char *)tokenizer->pieces + begin, end - begin};
}
static inline qn_str qn_tok_text(const qn_tokenizer *tokenizer, uint32_t id) {
  uint32_t begin = qn_tok_load(tokenizer->text_starts, id), end = qn_tok_load(tokenizer->text_starts, id + 1);
  return (qn_str){(const char *)tokenizer->texts + begin, end - begin};
}
static inline bool qn_tok_type_is_special(unsigned type) {
  return type == QN_TOKEN_CONTROL || type == QN_TOKEN_UNKNOWN || type == QN_TOKEN_USER_DEFINED;
}
// Never made from plain text.
static inline bool qn_tok_type_is_hidden(unsigned type) { return type == QN_TOKEN_CONTROL || type == QN_TOKEN_UNKNOWN; }
static inline unsigned qn_tok_type(const qn_tokenizer *tokenizer, uint32_t id) {
  return tokenizer->types[id] & QN_TOK_TYPE_MASK;
}
double qn_tok_score(const qn_tokenizer *tokenizer, uint32_t id);

// The symbol that is spelled like this and that plain text may become; QN_TOK_FREE when there is none.
uint32_t qn_tok_lookup(const qn_tokenizer *tokenizer, const char *bytes, size_t length);

// ---- the models --------------------------------------------------------------------------------------------------

// A piece of the text while it is being merged: a doubly linked list in an array.
typedef struct qn_merge_node {
  uint32_t prev, next;     // QN_TOK_FREE at the ends
  uint32_t start, length;  // bytes of the text; length 0: merged into another node
  uint32_t symbol;         // or QN_TOK_FREE
} qn_merge_node;
// A pair of neighbours that may be merged; a binary heap, smallest key first.
typedef struct qn_merge_pair {
  uint64_t key;  // order of merging in the upper half, position of the left node in the lower
  uint32_t right, length, symbol;
} qn_merge_pair;

// The best way to a place of a word (UNIGRAM).
typedef struct qn_path_node {
  double score;
  uint32_t from, id;  // where its last token begins, QN_TOK_FREE: no way; the token, QN_TOK_FREE: unknown
} qn_path_node;

// Where tokens go, and memory of one encode call.
typedef struct qn_merger {
  const qn_tokenizer *tokenizer;  // borrowed
  const qn_allocator *allocator;  // borrowed
  qn_token_vec *tokens;           // borrowed
  bool after_unknown;             // the token before is an unknown one of the same word
  QN_VEC(qn_merge_node) nodes;    // owned
  QN_VEC(qn_merge_pair) heap;     // owned
  QN_VEC(qn_path_node) paths;     // owned
  QN_VEC(uint32_t) way;           // owned
  qn_buf key;                     // owned
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

QN_CHECKED qn_status qn_tok_push(qn_merger *merger, uint32_t id, qn_diag *diag);
// Appends the tokens of characters that no token holds: byte tokens, or an unknown one for each character.
QN_CHECKED qn_status qn_tok_push_unknown(qn_merger *merger, qn_str characters, qn_diag *diag);
// Appends the tokens of the characters one by one.
QN_CHECKED qn_status qn_tok_push_characters(qn_merger *merger, qn_str characters, qn_diag *diag);

// A word to tokens, appended.
QN_CHECKED qn_status qn_spm_encode(qn_merger *merger, qn_str word, qn_diag *diag);
QN_CHECKED qn_status qn_bpe_encode(qn_merger *merger, qn_str word, qn_diag *diag);
QN_CHECKED qn_status qn_unigram_encode(qn_merger *merger, qn_str word, qn_diag *diag);
QN_CHECKED qn_status qn_wordpiece_encode(qn_merger *merger, qn_str word, qn_diag *diag);

// ---- special tokens ----------------------------------------------------------------------------------------------

// A stretch of the text: plain (id QN_TOK_FREE) or a special token.
typedef struct qn_fragment {
  uint32_t start, end, id;
} qn_fragment;
typedef QN_VEC(qn_fragment) qn_fragment_vec;

// Makes both sets of an open tokenizer, whose steps are open.
QN_CHECKED qn_status qn_specials_open(qn_tokenizer *tokenizer, qn_diag *diag);
void qn_specials_close(qn_tokenizer *tokenizer);
// Fills *fragments, in text order. Stretches that a token swallows (QN_TOKEN_TAKES_SPACE) are in none.
QN_CHECKED qn_status qn_specials_find(const qn_tokenizer *tokenizer, const qn_special_set *set, qn_str text,
                                      bool parse_special, qn_stepper *stepper, qn_fragment_vec *fragments,
                                      qn_diag *diag);

#endif
