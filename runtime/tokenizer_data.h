// A blob in the making: tokenizer_data.c works out its parts, tokenizer_write.c lays them out.
#ifndef QN_TOKENIZER_DATA_H
#define QN_TOKENIZER_DATA_H

#include "runtime/base/arena.h"
#include "runtime/base/map.h"
#include "runtime/tokenizer_impl.h"

typedef struct qn_tok_writer {
  const qn_tokenizer_desc *desc;  // borrowed
  qn_arena arena;
  QN_VEC(qn_str) symbols;    // owned; the texts are the description's, or of the arena
  qn_buf texts;              // owned: what the tokens stand for
  QN_VEC(size_t) text_ends;  // owned: where each ends in `texts`
  bool spelled_alike;        // every token stands for its spelling
  QN_VEC(uint32_t) merges;   // owned: triples
  uint8_t *types;            // (token_count), arena
  uint32_t *specials;        // (n_specials), arena
  uint32_t n_specials;
  qn_map plain;  // piece → symbol, of what plain text may become
  uint32_t bytes[256];
  uint32_t *piece_table, *merge_table;  // arena
  uint32_t piece_slots, merge_slots, probes;
} qn_tok_writer;

static inline bool qn_tok_kind_is_scored(qn_tokenizer_kind kind) {
  return kind == QN_TOKENIZER_SPM || kind == QN_TOKENIZER_UNIGRAM;
}
double qn_tok_desc_score(const qn_tokenizer_desc *desc, size_t id);
qn_status qn_tok_no_memory(qn_diag *diag);
QN_CHECKED qn_status qn_tok_write(const qn_tok_writer *w, qn_buf *out, qn_diag *diag);

#endif
