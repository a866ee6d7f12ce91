// Token ids back to text, all at once or as a stream of whole characters.
#include <string.h>

#include "runtime/tokenizer_impl.h"

// The bytes a token adds to a text. *at_start: nothing has been rendered yet.
static qn_status render(const qn_tokenizer *tokenizer, int32_t id, unsigned flags, bool *at_start, qn_str *out,
                        qn_diag *diag) {
  if (id < 0 || (uint32_t)id >= tokenizer->n_tokens) {
    return qn_fail(diag, QN_ERR_ARGUMENT, "tokenizer", "token id %d is not in the vocabulary of %u tokens", (int)id,
                   tokenizer->n_tokens);
  }
  *out = qn_tok_text(tokenizer, (uint32_t)id);
  unsigned type = qn_tok_type(tokenizer, (uint32_t)id);
  if (qn_tok_type_is_hidden(type) && !(flags & QN_DECODE_SPECIAL)) out->length = 0;
  if (out->length == 0) return QN_OK;
  bool drop = *at_start && (tokenizer->flags & QN_TOK_DROP_SPACE) && !qn_tok_type_is_special(type);
  *at_start = false;
  if (drop && out->data[0] == ' ') *out = (qn_str){out->data + 1, out->length - 1};
  return QN_OK;
}

qn_status qn_tokenizer_decode(const qn_tokenizer *tokenizer, const int32_t *ids, size_t count, unsigned flags,
                              qn_buf *out, qn_diag *diag) {
  bool at_start = !(flags & QN_DECODE_CONTINUES);
  for (size_t i = 0; i < count; i++) {
    qn_str piece;
    QN_TRY(render(tokenizer, ids[i], flags, &at_start, &piece, diag));
    qn_buf_append(out, piece.data, piece.length);
  }
  return out->failed ? qn_fail_nomem(diag, "tokenizer", "a text") : QN_OK;
}

qn_status qn_detokenizer_init(qn_detokenizer *detokenizer, const qn_tokenizer *tokenizer, unsigned flags,
                              const qn_allocator *allocator, qn_diag *diag) {
  *detokenizer = (qn_detokenizer){.tokenizer = tokenizer, .allocator = allocator, .flags = flags};
  detokenizer->at_start = !(flags & QN_DECODE_CONTINUES);
  detokenizer->capacity = (size_t)tokenizer->max_text + 4;  // at most three bytes are held back
  detokenizer->buffer = qn_alloc(allocator, detokenizer->capacity);
  return detokenizer->buffer != NULL ? QN_OK : qn_fail_nomem(diag, "tokenizer", "a detokeniser");
}

void qn_detokenizer_deinit(qn_detokenizer *detokenizer) {
  qn_free(detokenizer->allocator, detokenizer->buffer, detokenizer->capacity);
  *detokenizer = (qn_detokenizer){0};
}

// How many bytes at the end of a text may still become one character.
static size_t unfinished_tail(const char *text, size_t length) {
  for (size_t tail = 1; tail <= 3 && tail <= length; tail++) {
    bool unfinished;
    qn_utf8_sequence(text + length - tail, tail, &unfinished);
    if (unfinished) return tail;
  }
  return 0;
}

qn_status qn_detokenizer_push(qn_detokenizer *d, int32_t id, qn_str *out_text, qn_diag *diag) {
  qn_str piece;
  *out_text = (qn_str){"", 0};
  QN_TRY(render(d->tokenizer, id, d->flags, &d->at_start, &piece, diag));
  memmove(d->buffer, d->buffer + d->given, d->held);
  memcpy(d->buffer + d->held, piece.data, piece.length);
  size_t length = d->held + piece.length;
  d->held = unfinished_tail(d->buffer, length);
  d->given = length - d->held;
  *out_text = (qn_str){d->buffer, d->given};
  return QN_OK;
}

qn_str qn_detokenizer_flush(qn_detokenizer *d) {
  qn_str rest = {d->buffer + d->given, d->held};
  d->held = d->given = 0;
  d->at_start = !(d->flags & QN_DECODE_CONTINUES);
  return rest;
}
