// What an importer tells the tokenizer about a vocabulary: a plain description, made once at compile time and turned
// into the artifact's TOKENIZER section by qn_tokenizer_serialize (runtime/tokenizer.h).
#ifndef QN_BASE_VOCABULARY_H
#define QN_BASE_VOCABULARY_H

#include <stdint.h>

#include "runtime/base/str.h"

typedef enum qn_tokenizer_kind {
  QN_TOKENIZER_SPM = 1,  // SentencePiece BPE with scores; GGUF calls it "llama"
  QN_TOKENIZER_BPE = 2,  // byte-level BPE with merges; GGUF calls it "gpt2"
} qn_tokenizer_kind;

// What a token is. The numbers are GGUF's (tokenizer.ggml.token_type).
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
// Beside a special token's type in qn_tokenizer_desc.types: in a text it swallows the white space after it (Phi-3).
#define QN_TOKEN_TAKES_SPACE 16

// A merge rule; its rank is its place in the list.
typedef struct qn_token_merge {
  qn_str left, right;  // borrowed; in the file's spelling
} qn_token_merge;

#define QN_TOKENIZER_IMPLIED (-1)

// Everything is borrowed for the time of qn_tokenizer_serialize.
typedef struct qn_tokenizer_desc {
  qn_tokenizer_kind kind;
  const char *pre;  // BPE: the pre-tokenizer's GGUF name ("gpt-2", "llama-bpe", "qwen2", ...); SPM: NULL
  size_t token_count;
  const qn_str *tokens;  // (token_count): the file's spelling: U+2581 for spaces (SPM), GPT-2's byte alphabet (BPE)
  const float *scores;   // (token_count): SPM only, finite; NULL for BPE
  const uint8_t *types;  // (token_count): qn_token_type, maybe with QN_TOKEN_TAKES_SPACE; NULL: all normal
  size_t merge_count;
  const qn_token_merge *merges;          // (merge_count): BPE only
  int32_t bos, eos, eot, eom, unk, pad;  // token ids; -1 = none
  // Settings that are 1, 0 or QN_TOKENIZER_IMPLIED: what SPM or the pre-tokenizer's name implies.
  int8_t add_bos;         // encode with QN_ENCODE_SPECIAL puts BOS in front; implied: SPM 1, BPE by name; 0 without BOS
  int8_t ignore_merges;   // BPE: a word that is a token is taken whole; implied: by name
  bool add_eos;           // encode with QN_ENCODE_SPECIAL puts EOS at the end
  bool add_space_prefix;  // SPM: a space goes before the text (and before text after a special token)
  bool remove_extra_whitespaces;  // SPM: runs of spaces shrink to one, those at the ends vanish
} qn_tokenizer_desc;

#endif
