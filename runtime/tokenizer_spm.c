// SentencePiece BPE: neighbours whose concatenation is a token are merged, best score first (Kudo and Richardson 2018,
// section 3.2); characters that end up in no token become byte tokens.
#include <string.h>

#include "runtime/tokenizer_impl.h"

#define SPACE_MARK "\xE2\x96\x81"  // U+2581, which SentencePiece takes for a space

// Higher scores first. Maps floats to integers of the opposite order; both zeros are the same.
static uint32_t order_of_score(float score) {
  uint32_t bits;
  score += 0.0f;
  memcpy(&bits, &score, sizeof bits);
  return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

static bool find_pair(const qn_tokenizer *tokenizer, const char *text, const qn_merge_node *left,
                      const qn_merge_node *right, uint32_t *out_order, uint32_t *out_symbol) {
  uint32_t length = left->length + right->length;
  if (length > tokenizer->max_piece) return false;
  uint32_t id = qn_tok_lookup(tokenizer, text + left->start, length, QN_TOK_WANT_PLAIN);
  if (id == QN_TOK_FREE) return false;
  uint32_t bits = qn_tok_load(tokenizer->scores, id);
  float score;
  memcpy(&score, &bits, sizeof score);
  *out_order = order_of_score(score);
  *out_symbol = id;
  return true;
}

qn_status qn_spm_encode(qn_merger *merger, qn_str text, qn_token_vec *tokens, qn_diag *diag) {
  const qn_tokenizer *tokenizer = merger->tokenizer;
  merger->nodes.count = 0;
  for (size_t at = 0; at < text.length;) {
    size_t length = qn_utf8_sequence(text.data + at, text.length - at, NULL);
    if (length == 0) length = 1;
    if (!qn_merger_add(merger, (uint32_t)at, (uint32_t)length, QN_TOK_FREE)) goto no_memory;
    at += length;
  }
  if (!qn_merger_run(merger, text.data, find_pair)) goto no_memory;
  for (size_t i = 0; i < merger->nodes.count; i++) {
    const qn_merge_node *node = &merger->nodes.items[i];
    if (node->length == 0) continue;
    const char *bytes = text.data + node->start;
    uint32_t id = node->symbol;
    if (id == QN_TOK_FREE) id = qn_tok_lookup(tokenizer, bytes, node->length, QN_TOK_WANT_PLAIN);
    if (id != QN_TOK_FREE) {
      if (!qn_vec_push(merger->allocator, tokens, (int32_t)id)) goto no_memory;
      continue;
    }
    for (uint32_t j = 0; j < node->length; j++) {
      QN_TRY(qn_tok_push_byte(tokenizer, (uint8_t)bytes[j], merger->allocator, tokens, diag));
    }
  }
  return QN_OK;
no_memory:
  return qn_fail_nomem(diag, "tokenizer", "the tokens of a text");
}
