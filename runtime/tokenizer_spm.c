// SentencePiece BPE: neighbours whose concatenation is a token are merged, best score first (Kudo and Richardson 2018,
// section 3.2); characters that end up in no token become byte tokens.
#include <string.h>

#include "runtime/tokenizer_impl.h"

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
  if (length > tokenizer->longest[(uint8_t)text[left->start]]) return false;
  uint32_t id = qn_tok_lookup(tokenizer, text + left->start, length);
  if (id >= tokenizer->n_tokens) return false;
  *out_order = order_of_score((float)qn_tok_score(tokenizer, id));
  *out_symbol = id;
  return true;
}

qn_status qn_spm_encode(qn_merger *merger, qn_str word, qn_diag *diag) {
  merger->nodes.count = 0;
  for (size_t at = 0; at < word.length;) {
    size_t length = qn_utf8_sequence(word.data + at, word.length - at, NULL);
    if (length == 0) length = 1;
    if (!qn_merger_add(merger, (uint32_t)at, (uint32_t)length, QN_TOK_FREE)) goto no_memory;
    at += length;
  }
  if (!qn_merger_run(merger, word.data, find_pair)) goto no_memory;
  for (size_t i = 0; i < merger->nodes.count; i++) {
    const qn_merge_node *node = &merger->nodes.items[i];
    if (node->length == 0) continue;
    qn_str text = {word.data + node->start, node->length};
    QN_TRY(node->symbol != QN_TOK_FREE ? qn_tok_push(merger, node->symbol, diag)
                                       : qn_tok_push_characters(merger, text, diag));
  }
  return QN_OK;
no_memory:
  return qn_fail_nomem(diag, "tokenizer", "the tokens of a text");
}
