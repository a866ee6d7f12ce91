// The frame of encoding: special tokens are cut out, the stretches between them go through the steps, and the words
// that come of it to the vocabulary's model.
#include "runtime/tokenizer.h"
#include "runtime/tokenizer_impl.h"

qn_status qn_tok_push(qn_merger *merger, uint32_t id, qn_diag *diag) {
  merger->after_unknown = false;
  return qn_vec_push(merger->allocator, merger->tokens, (int32_t)id) ? QN_OK
                                                                     : qn_fail_nomem(diag, "tokenizer", "tokens");
}

// The byte of the text that a byte of a word came from, or all of its bytes.
static size_t original_bytes(const qn_tokenizer *t, const char *character, size_t length, uint8_t out[4]) {
  for (size_t i = 0; i < length; i++) out[i] = (uint8_t)character[i];
  if (!(t->flags & QN_TOK_BYTE_ALPHABET)) return length;
  int byte = qn_byte_of_code_point(qn_utf8_code_point(character, length));
  if (byte < 0) return length;
  out[0] = (uint8_t)byte;
  return 1;
}

static qn_status push_unknown_character(qn_merger *merger, const char *character, size_t length, qn_diag *diag) {
  const qn_tokenizer *t = merger->tokenizer;
  uint8_t bytes[4];
  size_t count = original_bytes(t, character, length, bytes), known = 0;
  while (known < count && qn_tok_load(t->bytes, bytes[known]) != QN_TOK_FREE) known++;
  if (known == count) {
    for (size_t i = 0; i < count; i++) QN_TRY(qn_tok_push(merger, qn_tok_load(t->bytes, bytes[i]), diag));
    return QN_OK;
  }
  if (t->unk < 0) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, "tokenizer",
                   "the text has byte 0x%02x, for which the vocabulary has no token, and no unknown token",
                   bytes[known]);
  }
  bool fused = merger->after_unknown && (t->flags & QN_TOK_FUSE_UNKNOWN);
  if (!fused) QN_TRY(qn_tok_push(merger, (uint32_t)t->unk, diag));
  merger->after_unknown = true;
  return QN_OK;
}

qn_status qn_tok_push_unknown(qn_merger *merger, qn_str characters, qn_diag *diag) {
  for (size_t at = 0; at < characters.length;) {
    size_t length = qn_utf8_sequence(characters.data + at, characters.length - at, NULL);
    if (length == 0) length = 1;
    QN_TRY(push_unknown_character(merger, characters.data + at, length, diag));
    at += length;
  }
  return QN_OK;
}

qn_status qn_tok_push_characters(qn_merger *merger, qn_str characters, qn_diag *diag) {
  for (size_t at = 0; at < characters.length;) {
    size_t length = qn_utf8_sequence(characters.data + at, characters.length - at, NULL);
    if (length == 0) length = 1;
    uint32_t id = qn_tok_lookup(merger->tokenizer, characters.data + at, length);
    QN_TRY(id < merger->tokenizer->n_tokens ? qn_tok_push(merger, id, diag)
                                            : push_unknown_character(merger, characters.data + at, length, diag));
    at += length;
  }
  return QN_OK;
}

// ---- stretches of text -------------------------------------------------------------------------------------------

typedef struct encoder {
  qn_merger merger;
  qn_stepper stepper;                // owned
  qn_fragment_vec fragments, inner;  // owned
  qn_buf normalized;                 // owned
} encoder;

static qn_status encode_word(qn_merger *merger, qn_str word, bool opaque, qn_diag *diag) {
  merger->after_unknown = false;
  if (opaque) return qn_tok_push_unknown(merger, word, diag);
  switch (merger->tokenizer->kind) {
    case QN_TOKENIZER_SPM: return qn_spm_encode(merger, word, diag);
    case QN_TOKENIZER_BPE: return qn_bpe_encode(merger, word, diag);
    case QN_TOKENIZER_UNIGRAM: return qn_unigram_encode(merger, word, diag);
    case QN_TOKENIZER_WORDPIECE: return qn_wordpiece_encode(merger, word, diag);
  }
  return QN_OK;
}

// What the stepper holds, normalised, to tokens.
static qn_status encode_normalized(encoder *e, qn_diag *diag) {
  const qn_steps *steps = &e->merger.tokenizer->steps;
  QN_TRY(qn_steps_run(steps, steps->normalizer_count, steps->count, &e->stepper, diag));
  for (size_t i = 0; i < e->stepper.words.count; i++) {
    qn_word word = e->stepper.words.items[i];
    QN_TRY(
        encode_word(&e->merger, (qn_str){e->stepper.text.data + word.begin, word.end - word.begin}, word.opaque, diag));
  }
  return QN_OK;
}

static qn_status encode_plain(encoder *e, qn_str text, unsigned place, bool parse_special, qn_diag *diag) {
  const qn_tokenizer *t = e->merger.tokenizer;
  QN_TRY(qn_stepper_load(&e->stepper, text, place, diag));
  QN_TRY(qn_steps_run(&t->steps, 0, t->steps.normalizer_count, &e->stepper, diag));
  if (t->normalized.count == 0) return encode_normalized(e, diag);
  e->normalized.length = 0;
  qn_buf_append(&e->normalized, e->stepper.text.data, e->stepper.text.length);
  if (e->normalized.failed) return qn_fail_nomem(diag, "tokenizer", "a text");
  qn_str whole = {e->normalized.data, e->normalized.length};
  QN_TRY(qn_specials_find(t, &t->normalized, whole, parse_special, &e->stepper, &e->inner, diag));
  for (size_t i = 0; i < e->inner.count; i++) {
    qn_fragment f = e->inner.items[i];
    if (f.id != QN_TOK_FREE) {
      QN_TRY(qn_tok_push(&e->merger, f.id, diag));
      continue;
    }
    unsigned ends = place & ((f.start == 0 ? QN_STEP_AT_START : 0u) | (f.end == whole.length ? QN_STEP_AT_END : 0u));
    QN_TRY(qn_stepper_load(&e->stepper, (qn_str){whole.data + f.start, f.end - f.start}, ends, diag));
    QN_TRY(encode_normalized(e, diag));
  }
  return QN_OK;
}

static qn_status push_ends(encoder *e, uint32_t from, uint32_t count, qn_diag *diag) {
  for (uint32_t i = 0; i < count; i++) {
    QN_TRY(qn_tok_push(&e->merger, qn_tok_load(e->merger.tokenizer->ends, (size_t)from + i), diag));
  }
  return QN_OK;
}

static qn_status encode_all(encoder *e, qn_str text, unsigned flags, qn_diag *diag) {
  const qn_tokenizer *t = e->merger.tokenizer;
  bool parse_special = (flags & QN_ENCODE_PARSE_SPECIAL) != 0, ends = (flags & QN_ENCODE_SPECIAL) != 0;
  if (ends) QN_TRY(push_ends(e, 0, t->n_before, diag));
  QN_TRY(qn_specials_find(t, &t->raw, text, parse_special, &e->stepper, &e->fragments, diag));
  for (size_t i = 0; i < e->fragments.count; i++) {
    qn_fragment f = e->fragments.items[i];
    if (f.id != QN_TOK_FREE) {
      QN_TRY(qn_tok_push(&e->merger, f.id, diag));
      continue;
    }
    unsigned place = (f.start == 0 ? QN_STEP_AT_START : 0u) | (f.end == text.length ? QN_STEP_AT_END : 0u);
    QN_TRY(encode_plain(e, (qn_str){text.data + f.start, f.end - f.start}, place, parse_special, diag));
  }
  return ends ? push_ends(e, t->n_before, t->n_after, diag) : QN_OK;
}

qn_status qn_tokenizer_encode(const qn_tokenizer *tokenizer, qn_str text, unsigned flags, const qn_allocator *allocator,
                              qn_token_vec *tokens, qn_diag *diag) {
  if (text.length >= QN_TOK_MAX_TEXT) {
    return qn_fail(diag, QN_ERR_LIMIT, "tokenizer", "the text has %zu bytes, want fewer than %u", text.length,
                   QN_TOK_MAX_TEXT);
  }
  encoder e = {.merger = {.tokenizer = tokenizer, .allocator = allocator, .tokens = tokens}};
  qn_buf_init(&e.normalized, allocator);
  qn_buf_init(&e.merger.key, allocator);
  size_t before = tokens->count;
  qn_status status = qn_stepper_init(&e.stepper, allocator, diag);
  if (status == QN_OK) status = encode_all(&e, text, flags, diag);
  if (status != QN_OK) tokens->count = before;
  qn_merger_deinit(&e.merger);
  qn_stepper_deinit(&e.stepper);
  qn_vec_free(allocator, &e.fragments);
  qn_vec_free(allocator, &e.inner);
  qn_buf_deinit(&e.normalized);
  return status;
}
