// Byte-level BPE: the pre-tokenizer cuts the text into words, each byte of a word is a symbol, and neighbouring symbols
// are merged by the rank of their rule (Sennrich et al. 2016, algorithm 1; bytes as in Radford et al. 2019).
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

// The tokens of a symbol that is none itself.
static qn_status push_bytes(const qn_merger *merger, qn_str bytes, qn_token_vec *tokens, qn_diag *diag) {
  for (size_t i = 0; i < bytes.length; i++) {
    QN_TRY(qn_tok_push_byte(merger->tokenizer, (uint8_t)bytes.data[i], merger->allocator, tokens, diag));
  }
  return QN_OK;
}

static qn_status encode_word(qn_merger *merger, qn_str word, qn_token_vec *tokens, qn_diag *diag) {
  const qn_tokenizer *tokenizer = merger->tokenizer;
  if ((tokenizer->flags & QN_TOK_IGNORE_MERGES) && word.length <= tokenizer->max_piece) {
    uint32_t id = qn_tok_lookup(tokenizer, word.data, word.length, QN_TOK_WANT_PLAIN);
    if (id != QN_TOK_FREE) {
      return qn_vec_push(merger->allocator, tokens, (int32_t)id) ? QN_OK : qn_fail_nomem(diag, "tokenizer", "tokens");
    }
  }
  merger->nodes.count = 0;
  for (size_t at = 0; at < word.length; at++) {
    uint32_t symbol = qn_tok_load(tokenizer->bytes, (uint8_t)word.data[at]);
    if (!qn_merger_add(merger, (uint32_t)at, 1, symbol)) return qn_fail_nomem(diag, "tokenizer", "a word");
  }
  if (!qn_merger_run(merger, word.data, find_pair)) return qn_fail_nomem(diag, "tokenizer", "a word's merges");
  for (size_t i = 0; i < merger->nodes.count; i++) {
    const qn_merge_node *node = &merger->nodes.items[i];
    if (node->length == 0) continue;
    if (node->symbol >= tokenizer->n_tokens) {
      QN_TRY(push_bytes(merger, (qn_str){word.data + node->start, node->length}, tokens, diag));
    } else if (!qn_vec_push(merger->allocator, tokens, (int32_t)node->symbol)) {
      return qn_fail_nomem(diag, "tokenizer", "tokens");
    }
  }
  return QN_OK;
}

qn_status qn_bpe_encode(qn_merger *merger, qn_word_vec *words, qn_str text, qn_token_vec *tokens, qn_diag *diag) {
  QN_TRY(qn_pre_tokenizer_split(merger->tokenizer->pre, text, merger->allocator, words, diag));
  size_t begin = 0;
  for (size_t i = 0; i < words->count; begin = words->items[i++].end) {
    QN_TRY(encode_word(merger, (qn_str){text.data + begin, words->items[i].end - begin}, tokens, diag));
  }
  return QN_OK;
}
