// The steps of a tokenizer while an importer lists them, and those that several kinds of files name in one word.
#ifndef QN_IMPORT_VOCAB_STEPS_H
#define QN_IMPORT_VOCAB_STEPS_H

#include "runtime/base/arena.h"
#include "runtime/base/diag.h"
#include "runtime/base/vec.h"
#include "runtime/base/vocabulary.h"

// Of character classes: Unicode's White_Space (not \s: PCRE2's has U+180E, too), what BERT takes for punctuation, and
// what other engines take for the characters of words.
#define QN_CLASS_SPACE       "\\t-\\r\\x{85}\\p{Z}"
#define QN_CLASS_PUNCTUATION "!-/:-@\\[-`{-~\\p{P}"
#define QN_CLASS_WORD        "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define QN_SPACE_MARK        "\xe2\x96\x81"  // U+2581, which SentencePiece takes for a space

// GPT-2's words.
extern const char qn_gpt2_pattern[];

// Zero-initialise but for the arena, which owns all.
typedef struct qn_step_list {
  qn_arena *arena;  // borrowed
  QN_VEC(qn_token_step) steps;
  size_t normalizer_count;  // of the first steps, set when all of these are there
  bool no_memory;           // some step found no room: qn_step_list_finish says so
} qn_step_list;

// Adds a step. Texts stay borrowed.
void qn_step_list_add(qn_step_list *list, qn_token_step step);
void qn_step_list_split(qn_step_list *list, const char *pattern, qn_split_behavior behavior, unsigned flags);
void qn_step_list_replace(qn_step_list *list, const char *pattern, const char *content, unsigned flags);
void qn_step_list_op(qn_step_list *list, qn_token_step_op op);

typedef struct qn_bert_normalizer {
  bool clean_text, chinese_chars, strip_accents, lowercase;
} qn_bert_normalizer;
void qn_step_list_bert_normalizer(qn_step_list *list, const qn_bert_normalizer *options);
void qn_step_list_bert_words(qn_step_list *list);

typedef struct qn_sentencepiece_normalizer {
  bool charsmap;          // desc.charsmap is there
  bool squeeze;           // runs of spaces shrink to one, those at the ends of the text vanish
  bool prefix;            // a space goes before the text
  bool prefix_after_all;  // and before what follows a special token
} qn_sentencepiece_normalizer;
void qn_step_list_sentencepiece(qn_step_list *list, const qn_sentencepiece_normalizer *options);

// Ends the list: steps and the tables of Unicode that they need into the description. Errors: NOMEM.
QN_CHECKED qn_status qn_step_list_finish(qn_step_list *list, qn_tokenizer_desc *desc, qn_diag *diag);

// The tables of vocabulary.h for these ops (bits 1 << qn_token_step_op), in the arena. Errors: NOMEM.
QN_CHECKED qn_status qn_unicode_tables(unsigned ops, qn_arena *arena, qn_str *out, qn_diag *diag);

#endif
