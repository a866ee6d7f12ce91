// WordPiece: from the left the longest token each time; a word of which some part is no token is unknown as a whole
// (Devlin et al. 2019). Tokens within a word are spelled with a prefix.
#include "runtime/tokenizer_impl.h"

static qn_status push_unknown_word(qn_merger *merger, size_t before, qn_diag *diag) {
  const qn_tokenizer *t = merger->tokenizer;
  merger->tokens->count = before;
  if (t->unk >= 0) return qn_tok_push(merger, (uint32_t)t->unk, diag);
  return qn_fail(diag, QN_ERR_UNSUPPORTED, "tokenizer",
                 "the text has a word for which the vocabulary has no tokens, and no unknown token");
}

// The longest token at word[at..]: its id, and where it ends.
static uint32_t longest_token(qn_merger *merger, qn_str word, size_t at, size_t *out_end) {
  const qn_tokenizer *t = merger->tokenizer;
  qn_str prefix = at == 0 ? t->first_prefix : t->next_prefix;
  qn_buf *key = &merger->key;
  key->length = 0;
  qn_buf_append(key, prefix.data, prefix.length);
  size_t room = t->max_piece > prefix.length ? t->max_piece - prefix.length : 0;
  size_t end = word.length - at < room ? word.length : at + room;
  qn_buf_append(key, word.data + at, end - at);
  for (; end > at; end--) {
    bool inside = end < word.length && ((unsigned char)word.data[end] & 0xC0) == 0x80;
    if (inside || key->failed) continue;
    uint32_t id = qn_tok_lookup(t, key->data, prefix.length + (end - at));
    if (id >= t->n_tokens) continue;
    *out_end = end;
    return id;
  }
  return QN_TOK_FREE;
}

qn_status qn_wordpiece_encode(qn_merger *merger, qn_str word, qn_diag *diag) {
  size_t characters = 0, before = merger->tokens->count;
  for (size_t i = 0; i < word.length; i++) characters += ((unsigned char)word.data[i] & 0xC0) != 0x80;
  if (characters > merger->tokenizer->max_word) return push_unknown_word(merger, before, diag);
  for (size_t at = 0; at < word.length;) {
    uint32_t id = longest_token(merger, word, at, &at);
    if (merger->key.failed) return qn_fail_nomem(diag, "tokenizer", "a word");
    if (id == QN_TOK_FREE) return push_unknown_word(merger, before, diag);
    QN_TRY(qn_tok_push(merger, id, diag));
  }
  return QN_OK;
}
