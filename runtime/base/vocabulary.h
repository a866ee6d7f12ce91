// What an importer tells the tokenizer about a vocabulary: a plain description, made once at compile time and turned
// into the artifact's TOKENIZER section by qn_tokenizer_serialize (runtime/tokenizer.h). How a text becomes words is a
// list of steps, so a tokenizer of known parts needs no code of its own.
#ifndef QN_BASE_VOCABULARY_H
#define QN_BASE_VOCABULARY_H

#include <stdint.h>

#include "runtime/base/str.h"

// How the words that the steps give become tokens.
typedef enum qn_tokenizer_kind {
  QN_TOKENIZER_SPM = 1,        // SentencePiece BPE: the neighbours whose concatenation has the best score are merged
  QN_TOKENIZER_BPE = 2,        // BPE with merge rules, the first rule first
  QN_TOKENIZER_UNIGRAM = 3,    // the split into tokens with the best sum of scores
  QN_TOKENIZER_WORDPIECE = 4,  // the longest token at the front of what is left of the word
} qn_tokenizer_kind;

// What a token is. The numbers are GGUF's (tokenizer.ggml.token_type) and SentencePiece's.
typedef enum qn_token_type {
  QN_TOKEN_UNDEFINED = 0,  // treated as normal
  QN_TOKEN_NORMAL = 1,
  QN_TOKEN_UNKNOWN = 2,       // never made from plain text
  QN_TOKEN_CONTROL = 3,       // never made from plain text; renders as nothing
  QN_TOKEN_USER_DEFINED = 4,  // found in text before anything else
  QN_TOKEN_UNUSED = 5,        // treated as normal
  QN_TOKEN_BYTE = 6,          // "<0xNN>": one byte
  QN_TOKEN_TYPE_COUNT
} qn_token_type;
// Beside a special token's type (unknown, control, user-defined) in qn_tokenizer_desc.types.
#define QN_TOKEN_TAKES_SPACE  16   // in a text it swallows the white space after it
#define QN_TOKEN_TAKES_BEFORE 32   // and that before it
#define QN_TOKEN_SINGLE_WORD  64   // it is found only where no letter, digit or underscore is next to it
#define QN_TOKEN_NORMALIZED   128  // it is looked for after the steps that normalise, which its text goes through, too

// A merge rule; its rank is its place in the list.
typedef struct qn_token_merge {
  qn_str left, right;  // borrowed; in the file's spelling
} qn_token_merge;

// ---- steps: from a text to words -----------------------------------------------------------------------------------
// The first `normalizer_count` steps see each stretch between special tokens as one word. Patterns are PCRE2's, with
// Unicode properties; bytes that are not UTF-8 are words of their own, which only BYTE_LEVEL looks at.

typedef enum qn_token_step_op {
  QN_STEP_SPLIT = 1,     // cuts every word at the matches of `pattern`; `behavior` says what becomes of them
  QN_STEP_REPLACE = 2,   // every match becomes `content`
  QN_STEP_SURROUND = 3,  // every match gets `content` before and after it
  QN_STEP_PREPEND = 4,   // `content` goes before the word, if that is not empty
  QN_STEP_LOWERCASE = 5,
  QN_STEP_NFC = 6,  // Unicode's normalisation forms (UAX 15)
  QN_STEP_NFD = 7,
  QN_STEP_NFKC = 8,
  QN_STEP_NFKD = 9,
  QN_STEP_CHARSMAP = 10,    // SentencePiece's precompiled map: the longest key at every place
  QN_STEP_BYTE_LEVEL = 11,  // every byte becomes its character of GPT-2's byte alphabet
  QN_STEP_OP_COUNT
} qn_token_step_op;

// What SPLIT makes of matches and of the pieces between them.
typedef enum qn_split_behavior {
  QN_SPLIT_ISOLATED = 0,       // each is a word
  QN_SPLIT_REMOVED = 1,        // matches go
  QN_SPLIT_WITH_PREVIOUS = 2,  // a match is the end of the piece before it
  QN_SPLIT_WITH_NEXT = 3,      // or the beginning of the piece after it
  QN_SPLIT_CONTIGUOUS = 4,     // matches that touch are one word
  QN_SPLIT_BEHAVIOR_COUNT
} qn_split_behavior;

enum {                        // qn_token_step.flags
  QN_STEP_LITERAL = 1,        // `pattern` is a plain text
  QN_STEP_INVERT = 2,         // SPLIT: what lies between matches is the match
  QN_STEP_AT_START = 4,       // only on the word that begins the text
  QN_STEP_AT_END = 8,         // only on the word that ends the text
  QN_STEP_UNLESS_THERE = 16,  // PREPEND: not where the word begins with `content` already
  QN_STEP_GRAPHEMES = 32,     // CHARSMAP: as the tokenizers library does, by grapheme clusters shorter than six bytes
                              // and the shortest key, then by characters
  QN_STEP_ALL_FLAGS = 63
};

typedef struct qn_token_step {
  uint8_t op;        // qn_token_step_op
  uint8_t behavior;  // qn_split_behavior
  uint16_t flags;
  qn_str pattern, content;  // UTF-8
} qn_token_step;

// ---- decoding: from a token's spelling to its text -----------------------------------------------------------------

typedef struct qn_token_decoder {
  bool byte_level;      // spelled in GPT-2's byte alphabet
  bool byte_tokens;     // "<0xNN>" is a byte
  qn_str space;         // stands for a space ("U+2581"); empty = none does
  qn_str word_begin;    // a token that begins with this begins a word: it stands for a space (GGUF's WordPiece)
  qn_str word_goes_on;  // a token that begins with this goes on with a word and loses it; all others begin with a space
  qn_str word_end;      // at the end of a token stands for a space (BPE's "</w>")
  bool clean_up;        // no space before punctuation and English contractions (WordPiece)
  bool drop_space;      // a text's first token loses one space at its front
} qn_token_decoder;

// ---- Unicode's tables ----------------------------------------------------------------------------------------------
// What the steps LOWERCASE and NF* need of Unicode, as little-endian 32-bit words: six counts (QN_UNICODE_*), then
//   classes      u32[n]     code point << 8 | canonical combining class, by code point; those of class 0 are left out
//   canonical    u32[n][2]  code point, place << 8 | length: its full decomposition among the code points; by code
//   point compatible   u32[n][2]  the same of compatibility decompositions (all of them, canonical ones too) lower
//   u32[n][2]  the same of lower-case forms pairs        u32[n][3]  first, second, what they compose to; sorted code
//   points  u32[n]
// Hangul syllables, which are computed, are in none.
enum {
  QN_UNICODE_CLASSES,
  QN_UNICODE_CANONICAL,
  QN_UNICODE_COMPATIBLE,
  QN_UNICODE_LOWER,
  QN_UNICODE_PAIRS,
  QN_UNICODE_POINTS,
  QN_UNICODE_COUNTS
};

// Everything is borrowed for the time of qn_tokenizer_serialize.
typedef struct qn_tokenizer_desc {
  qn_tokenizer_kind kind;
  size_t token_count;
  const qn_str *tokens;    // (token_count): in the file's spelling, which is that of words after the steps
  const uint8_t *types;    // (token_count): qn_token_type with QN_TOKEN_ flags; NULL: all normal
  const float *scores;     // (token_count): SPM, or UNIGRAM without scores64; finite
  const double *scores64;  // (token_count): UNIGRAM; finite
  size_t merge_count;
  const qn_token_merge *merges;  // (merge_count): BPE
  const qn_token_step *steps;    // (step_count)
  size_t step_count, normalizer_count;
  qn_token_decoder decoder;
  qn_str charsmap;                   // of CHARSMAP steps: SentencePiece's precompiled_charsmap
  qn_str unicode;                    // tables as above; empty where no step needs them
  qn_str first_prefix, next_prefix;  // WORDPIECE: before what is looked up at the front of a word, and later in it
  uint32_t max_word;                 // WORDPIECE: longer words, in characters, are unknown
  int32_t bos, eos, unk, pad;        // token ids; -1 = none
  const int32_t *ends;               // (end_count): tokens that end a generation, beside eos and those known by name
  const int32_t *before, *after;     // (before_count), (after_count): what QN_ENCODE_SPECIAL puts around a text
  size_t end_count, before_count, after_count;
  bool ignore_merges;     // BPE: a word that is a token is taken whole
  bool fuse_unknown;      // unknown characters side by side are one unknown token
  bool single_precision;  // UNIGRAM: sums of scores are rounded to float, as SentencePiece's are
} qn_tokenizer_desc;

#endif
