// BPE with merge rules: each character of a word is a symbol, and neighbouring symbols are merged by the rank of their
// rule (Sennrich et al. 2016, algorithm 1). Byte-level vocabularies (Radford et al. 2019) get words whose characters
// are bytes.
#include "runtime/tokenizer_impl.h"

static bool find_pair(const qn_tokenizer *tokenizer, const char *text, const qn_merge_node *left,
                      const qn_merge_node *right, uint32_t *out_order, uint32_t *out_symbol) {
  (void)text;
  if (tokenizer->merge_slots == 0) return false;
  uint32_t mask = tokenizer->merge_slots - 1, slot = qn_tok_merge_hash(left->symbol, right->symbol) & mask;
  for (uint32_t probe = 0; probe < tokenizer->probes; probe++, slot = (slot + 1) & mask) {
    uint32_t rank = qn_tok_load(tokenizer->merge_table, slot);
    if (rank == QN_TOK_FREE) return false;
    const uint8_t *rule = tokenizer->merges + (size_t)rank * 12;
    if (qn_tok_load(rule, 0) != left->symbol || qn_tok_load(rule, 1) != right->symbol) continue;
    *out_order = rank;
    *out_symbol = qn_tok_load(rule, 2);
    return true;
  }
  return false;
}

qn_status qn_bpe_encode(qn_merger *merger, qn_str word, qn_diag *diag) {
  const qn_tokenizer *tokenizer = merger->tokenizer;
  if ((tokenizer->flags & QN_TOK_IGNORE_MERGES) && word.length <= tokenizer->max_piece) {
    uint32_t id = qn_tok_lookup(tokenizer, word.data, word.length);
    if (id < tokenizer->n_tokens) return qn_tok_push(merger, id, diag);
  }
  merger->nodes.count = 0;
  for (size_t at = 0; at < word.length;) {
    size_t length = qn_utf8_sequence(word.data + at, word.length - at, NULL);
    if (length == 0) length = 1;
    uint32_t symbol = qn_tok_lookup(tokenizer, word.data + at, length);
    if (!qn_merger_add(merger, (uint32_t)at, (uint32_t)length, symbol))
      return qn_fail_nomem(diag, "tokenizer", "a word");
    at += length;
  }
  if (!qn_merger_run(merger, word.data, find_pair)) return qn_fail_nomem(diag, "tokenizer", "a word's merges");
  for (size_t i = 0; i < merger->nodes.count; i++) {
    const qn_merge_node *node = &merger->nodes.items[i];
    if (node->length == 0) continue;
    qn_str text = {word.data + node->start, node->length};
    // A symbol that is no token comes out character by character.
    QN_TRY(node->symbol < tokenizer->n_tokens ? qn_tok_push(merger, node->symbol, diag)
                                              : qn_tok_push_characters(merger, text, diag));
  }
  return QN_OK;
}
