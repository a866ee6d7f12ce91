// Opening a tokenizer blob in place, and looking tokens up.
#include "runtime/tokenizer.h"

#include <math.h>
#include <string.h>

#include "runtime/base/hash.h"
#include "runtime/tokenizer_impl.h"

static const char where[] = "tokenizer section";

// ---- opening -----------------------------------------------------------------------------------------------------

// Points *out at `count` items of `item_bytes` at the offset in header word `word`.
static qn_status place(const uint8_t *blob, uint32_t size, const char *name, qn_tok_word word, uint64_t count,
                       uint32_t item_bytes, const uint8_t **out, qn_diag *diag) {
  uint32_t offset = qn_tok_load(blob, word);
  uint64_t bytes = count * item_bytes;  // both below 2^32
  if (offset < QN_TOK_HEADER_BYTES || offset > size || bytes > size - offset) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "%s at byte %u with %llu bytes lie outside the section's %u", name,
                   offset, (unsigned long long)bytes, size);
  }
  *out = blob + offset;
  return QN_OK;
}

static qn_status check_counts(qn_tokenizer *t, qn_diag *diag) {
  if (t->n_tokens == 0 || t->n_tokens > QN_TOK_MAX_COUNT || t->n_symbols < t->n_tokens || t->n_specials > t->n_tokens ||
      t->n_merges > QN_TOK_MAX_COUNT) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "has %u tokens, %u symbols, %u merges and %u special tokens",
                   t->n_tokens, t->n_symbols, t->n_merges, t->n_specials);
  }
  if (t->n_before > QN_TOK_MAX_ENDS || t->n_after > QN_TOK_MAX_ENDS) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "puts %u and %u tokens around a text, want at most %u", t->n_before,
                   t->n_after, QN_TOK_MAX_ENDS);
  }
  // Tables: a power of two (so that a mask wraps), or none.
  if (t->piece_slots == 0 || (t->piece_slots & (t->piece_slots - 1)) != 0 ||
      (t->merge_slots & (t->merge_slots - 1)) != 0 || t->probes > QN_TOK_MAX_PROBES) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "has hash tables of %u and %u slots and %u probes", t->piece_slots,
                   t->merge_slots, t->probes);
  }
  return QN_OK;
}

static qn_status read_header(qn_tokenizer *t, const uint8_t *blob, size_t size, qn_diag *diag) {
  if (size < QN_TOK_HEADER_BYTES) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "has %zu bytes, want at least %d", size, (int)QN_TOK_HEADER_BYTES);
  }
  if (qn_tok_load(blob, QN_TOK_W_MAGIC) != QN_TOK_MAGIC) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "starts with 0x%08x, want 0x%08x", qn_tok_load(blob, QN_TOK_W_MAGIC),
                   QN_TOK_MAGIC);
  }
  if (qn_tok_load(blob, QN_TOK_W_VERSION) != QN_TOK_VERSION) {
    return qn_fail(diag, QN_ERR_UNSUPPORTED, where, "has version %u, this program reads %u; compile the model again",
                   qn_tok_load(blob, QN_TOK_W_VERSION), QN_TOK_VERSION);
  }
  if (qn_tok_load(blob, QN_TOK_W_SIZE) != size || size > QN_TOK_MAX_BYTES) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "says it has %u bytes, got %zu", qn_tok_load(blob, QN_TOK_W_SIZE), size);
  }
  uint32_t kind = qn_tok_load(blob, QN_TOK_W_KIND);
  if (kind < QN_TOKENIZER_SPM || kind > QN_TOKENIZER_WORDPIECE) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "has kind %u, want 1 to %d", kind, QN_TOKENIZER_WORDPIECE);
  }
  t->kind = (qn_tokenizer_kind)kind;
  t->flags = qn_tok_load(blob, QN_TOK_W_FLAGS);
  if (t->flags & ~(uint32_t)QN_TOK_ALL_FLAGS) return qn_fail(diag, QN_ERR_FORMAT, where, "has flags 0x%x", t->flags);
  const struct {
    uint32_t *to;
    qn_tok_word word;
  } counts[] = {{&t->n_tokens, QN_TOK_W_N_TOKENS},       {&t->n_symbols, QN_TOK_W_N_SYMBOLS},
                {&t->n_merges, QN_TOK_W_N_MERGES},       {&t->n_specials, QN_TOK_W_N_SPECIALS},
                {&t->n_before, QN_TOK_W_N_BEFORE},       {&t->n_after, QN_TOK_W_N_AFTER},
                {&t->piece_slots, QN_TOK_W_PIECE_SLOTS}, {&t->merge_slots, QN_TOK_W_MERGE_SLOTS},
                {&t->probes, QN_TOK_W_PROBES},           {&t->max_word, QN_TOK_W_MAX_WORD}};
  for (size_t i = 0; i < QN_COUNT(counts); i++) *counts[i].to = qn_tok_load(blob, counts[i].word);
  return check_counts(t, diag);
}

static qn_status read_special_ids(qn_tokenizer *t, const uint8_t *blob, qn_diag *diag) {
  const struct {
    const char *name;
    qn_tok_word word;
    int32_t *id;
  } ids[] = {{"BOS", QN_TOK_W_BOS, &t->bos},
             {"EOS", QN_TOK_W_EOS, &t->eos},
             {"unknown", QN_TOK_W_UNK, &t->unk},
             {"padding", QN_TOK_W_PAD, &t->pad}};
  for (size_t i = 0; i < QN_COUNT(ids); i++) {
    uint32_t id = qn_tok_load(blob, ids[i].word);
    if (id != QN_TOK_FREE && id >= t->n_tokens) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "the %s token's id is %u, want below %u", ids[i].name, id,
                     t->n_tokens);
    }
    *ids[i].id = id == QN_TOK_FREE ? -1 : (int32_t)id;
  }
  return QN_OK;
}

// Are these the places of `count` texts one after the other in `bytes` bytes? *out_max: the longest.
static qn_status check_starts(const uint8_t *starts, uint32_t count, uint32_t bytes, const char *what,
                              uint32_t *out_max, qn_diag *diag) {
  uint32_t begin = qn_tok_load(starts, 0);
  if (begin != 0) return qn_fail(diag, QN_ERR_FORMAT, where, "the first %s begins at %u, want 0", what, begin);
  for (uint32_t i = 0; i < count; i++) {
    uint32_t end = qn_tok_load(starts, (size_t)i + 1);
    if (end < begin || end > bytes) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "%s %u goes from byte %u to %u of %u", what, i, begin, end, bytes);
    }
    if (end - begin > *out_max) *out_max = end - begin;
    begin = end;
  }
  return QN_OK;
}

// Are all `count` words below `bound`, or QN_TOK_FREE where that is allowed?
static qn_status check_words(const uint8_t *words, uint64_t count, uint32_t bound, bool free_allowed, const char *name,
                             qn_diag *diag) {
  for (uint64_t i = 0; i < count; i++) {
    uint32_t word = qn_tok_load(words, i);
    if (word < bound || (free_allowed && word == QN_TOK_FREE)) continue;
    return qn_fail(diag, QN_ERR_FORMAT, where, "%s: item %llu is %u, want below %u", name, (unsigned long long)i, word,
                   bound);
  }
  return QN_OK;
}

double qn_tok_score(const qn_tokenizer *t, uint32_t id) {
  uint64_t bits = qn_tok_load(t->scores, (size_t)id * 2) | (uint64_t)qn_tok_load(t->scores, (size_t)id * 2 + 1) << 32;
  double score;
  memcpy(&score, &bits, sizeof score);
  return score;
}

static qn_status check_tokens(qn_tokenizer *t, qn_diag *diag) {
  double least = 0;
  bool scored = t->kind == QN_TOKENIZER_SPM || t->kind == QN_TOKENIZER_UNIGRAM, any = false;
  for (uint32_t i = 0; i < t->n_tokens; i++) {
    unsigned type = qn_tok_type(t, i);
    if (type >= QN_TOKEN_TYPE_COUNT) return qn_fail(diag, QN_ERR_FORMAT, where, "token %u has type %u", i, type);
    if (!scored) continue;
    double score = qn_tok_score(t, i);
    if (!isfinite(score)) return qn_fail(diag, QN_ERR_FORMAT, where, "the score of token %u is %g", i, score);
    bool counts = !(t->flags & QN_TOK_SINGLE) || type == QN_TOKEN_NORMAL;
    if (counts && (!any || score < least)) least = score, any = true;
  }
  t->unknown_score = least - 10;  // SentencePiece's penalty
  for (uint32_t i = 0; i < t->n_symbols; i++) {
    qn_str piece = qn_tok_symbol(t, i);
    if (piece.length == 0) continue;
    uint32_t *longest = &t->longest[(uint8_t)piece.data[0]];
    if (piece.length > *longest) *longest = (uint32_t)piece.length;
  }
  return QN_OK;
}

static qn_status read_sections(qn_tokenizer *t, const uint8_t *blob, uint32_t size, qn_diag *diag) {
  uint32_t pieces_bytes = qn_tok_load(blob, QN_TOK_W_PIECES_BYTES),
           texts_bytes = qn_tok_load(blob, QN_TOK_W_TEXTS_BYTES);
  uint64_t scores = t->kind == QN_TOKENIZER_SPM || t->kind == QN_TOKENIZER_UNIGRAM ? t->n_tokens : 0;
  uint32_t n_ends = t->n_before + t->n_after;
  QN_TRY(place(blob, size, "piece starts", QN_TOK_W_STARTS, (uint64_t)t->n_symbols + 1, 4, &t->starts, diag));
  QN_TRY(place(blob, size, "pieces", QN_TOK_W_PIECES, pieces_bytes, 1, &t->pieces, diag));
  QN_TRY(place(blob, size, "text starts", QN_TOK_W_TEXT_STARTS, (uint64_t)t->n_tokens + 1, 4, &t->text_starts, diag));
  QN_TRY(place(blob, size, "texts", QN_TOK_W_TEXTS, texts_bytes, 1, &t->texts, diag));
  QN_TRY(place(blob, size, "token types", QN_TOK_W_TYPES, t->n_tokens, 1, &t->types, diag));
  QN_TRY(place(blob, size, "scores", QN_TOK_W_SCORES, scores, 8, &t->scores, diag));
  QN_TRY(place(blob, size, "piece table", QN_TOK_W_PIECE_TABLE, t->piece_slots, 4, &t->piece_table, diag));
  QN_TRY(place(blob, size, "merges", QN_TOK_W_MERGES, t->n_merges, 12, &t->merges, diag));
  QN_TRY(place(blob, size, "merge table", QN_TOK_W_MERGE_TABLE, t->merge_slots, 4, &t->merge_table, diag));
  QN_TRY(place(blob, size, "byte tokens", QN_TOK_W_BYTES, 256, 4, &t->bytes, diag));
  QN_TRY(place(blob, size, "special tokens", QN_TOK_W_SPECIALS, t->n_specials, 4, &t->specials, diag));
  QN_TRY(place(blob, size, "tokens around a text", QN_TOK_W_ENDS, n_ends, 4, &t->ends, diag));
  QN_TRY(check_starts(t->starts, t->n_symbols, pieces_bytes, "piece", &t->max_piece, diag));
  QN_TRY(check_starts(t->text_starts, t->n_tokens, texts_bytes, "text", &t->max_text, diag));
  QN_TRY(check_tokens(t, diag));
  QN_TRY(check_words(t->piece_table, t->piece_slots, t->n_symbols, true, "piece table", diag));
  QN_TRY(check_words(t->merges, (uint64_t)t->n_merges * 3, t->n_symbols, false, "merges", diag));
  QN_TRY(check_words(t->merge_table, t->merge_slots, t->n_merges, true, "merge table", diag));
  QN_TRY(check_words(t->bytes, 256, t->n_tokens, true, "byte tokens", diag));
  QN_TRY(check_words(t->ends, n_ends, t->n_tokens, false, "tokens around a text", diag));
  return check_words(t->specials, t->n_specials, t->n_tokens, false, "special tokens", diag);
}

// A text of the strings, by its place and length in two words.
static qn_status read_string(qn_str strings, uint32_t begin, uint32_t length, uint32_t step, qn_str *out,
                             qn_diag *diag) {
  if (begin > strings.length || length > strings.length - begin) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "step %u has a text at byte %u with %u bytes of %zu", step, begin,
                   length, strings.length);
  }
  *out = (qn_str){strings.data + begin, length};
  return QN_OK;
}

static qn_status read_steps(qn_tokenizer *t, const uint8_t *blob, uint32_t size, qn_diag *diag) {
  uint32_t count = qn_tok_load(blob, QN_TOK_W_N_STEPS);
  if (count > QN_TOK_MAX_STEPS) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "has %u steps, want at most %u", count, QN_TOK_MAX_STEPS);
  }
  const uint8_t *steps;
  const struct {
    const char *name;
    qn_tok_word at, bytes;
  } parts[] = {{"strings", QN_TOK_W_STRINGS, QN_TOK_W_STRINGS_BYTES},
               {"charsmap", QN_TOK_W_CHARSMAP, QN_TOK_W_CHARSMAP_BYTES},
               {"Unicode's tables", QN_TOK_W_UNICODE, QN_TOK_W_UNICODE_BYTES}};
  qn_str texts[QN_COUNT(parts)];
  QN_TRY(place(blob, size, "steps", QN_TOK_W_STEPS, count, QN_TOK_STEP_WORDS * 4, &steps, diag));
  for (size_t i = 0; i < QN_COUNT(parts); i++) {
    const uint8_t *data;
    uint32_t bytes = qn_tok_load(blob, parts[i].bytes);
    QN_TRY(place(blob, size, parts[i].name, parts[i].at, bytes, 1, &data, diag));
    texts[i] = (qn_str){(const char *)data, bytes};
  }
  uint32_t first = qn_tok_load(blob, QN_TOK_W_FIRST_PREFIX);
  QN_TRY(read_string(texts[0], 0, first, count, &t->first_prefix, diag));
  QN_TRY(read_string(texts[0], first, qn_tok_load(blob, QN_TOK_W_NEXT_PREFIX), count, &t->next_prefix, diag));
  qn_token_step descs[QN_TOK_MAX_STEPS];
  for (uint32_t i = 0; i < count; i++) {
    const uint8_t *words = steps + (size_t)i * QN_TOK_STEP_WORDS * 4;
    uint32_t head = qn_tok_load(words, 0);
    descs[i] = (qn_token_step){.op = head & 0xFF, .behavior = head >> 8 & 0xFF, .flags = (uint16_t)(head >> 16)};
    QN_TRY(read_string(texts[0], qn_tok_load(words, 1), qn_tok_load(words, 2), i, &descs[i].pattern, diag));
    QN_TRY(read_string(texts[0], qn_tok_load(words, 3), qn_tok_load(words, 4), i, &descs[i].content, diag));
  }
  bool words_needed = false;
  for (uint32_t i = 0; i < t->n_specials; i++) {
    words_needed = words_needed || (t->types[qn_tok_load(t->specials, i)] & QN_TOKEN_SINGLE_WORD) != 0;
  }
  return qn_steps_open(&t->steps, descs, count, qn_tok_load(blob, QN_TOK_W_N_NORMALIZERS), texts[1], texts[2],
                       words_needed, t->allocator, where, diag);
}

static qn_status open_parts(qn_tokenizer *t, const uint8_t *blob, size_t size, qn_diag *diag) {
  QN_TRY(read_header(t, blob, size, diag));
  QN_TRY(read_special_ids(t, blob, diag));
  QN_TRY(read_sections(t, blob, (uint32_t)size, diag));
  QN_TRY(read_steps(t, blob, (uint32_t)size, diag));
  return qn_specials_open(t, diag);
}

qn_status qn_tokenizer_open(const void *blob, size_t size, const qn_allocator *allocator, qn_tokenizer **out,
                            qn_diag *diag) {
  *out = NULL;
  qn_tokenizer *tokenizer = qn_alloc_zeroed(allocator, sizeof *tokenizer);
  if (tokenizer == NULL) return qn_fail_nomem(diag, where, "the tokenizer");
  tokenizer->allocator = allocator;
  qn_status status = open_parts(tokenizer, blob, size, diag);
  if (status == QN_OK) {
    *out = tokenizer;
  } else {
    qn_tokenizer_close(tokenizer);
  }
  return status;
}

void qn_tokenizer_close(qn_tokenizer *tokenizer) {
  if (tokenizer == NULL) return;
  qn_steps_close(&tokenizer->steps);
  qn_specials_close(tokenizer);
  qn_free(tokenizer->allocator, tokenizer, sizeof *tokenizer);
}

// ---- questions ---------------------------------------------------------------------------------------------------

qn_tokenizer_kind qn_tokenizer_get_kind(const qn_tokenizer *tokenizer) { return tokenizer->kind; }

const char *qn_tokenizer_kind_name(qn_tokenizer_kind kind) {
  static const char *const names[] = {"?", "spm", "bpe", "unigram", "wordpiece"};
  return (unsigned)kind < QN_COUNT(names) ? names[kind] : names[0];
}

int32_t qn_tokenizer_count(const qn_tokenizer *tokenizer) { return (int32_t)tokenizer->n_tokens; }
int32_t qn_tokenizer_bos(const qn_tokenizer *tokenizer) { return tokenizer->bos; }
int32_t qn_tokenizer_eos(const qn_tokenizer *tokenizer) { return tokenizer->eos; }
int32_t qn_tokenizer_unk(const qn_tokenizer *tokenizer) { return tokenizer->unk; }
int32_t qn_tokenizer_pad(const qn_tokenizer *tokenizer) { return tokenizer->pad; }

// Is the token among those that go before a text, or after it?
static bool is_end(const qn_tokenizer *t, uint32_t from, uint32_t count, int32_t id) {
  for (uint32_t i = 0; i < count; i++) {
    if (id >= 0 && qn_tok_load(t->ends, (size_t)from + i) == (uint32_t)id) return true;
  }
  return false;
}
bool qn_tokenizer_adds_bos(const qn_tokenizer *t) { return is_end(t, 0, t->n_before, t->bos); }
bool qn_tokenizer_adds_eos(const qn_tokenizer *t) { return is_end(t, t->n_before, t->n_after, t->eos); }

static bool is_id(const qn_tokenizer *tokenizer, int32_t id) { return id >= 0 && (uint32_t)id < tokenizer->n_tokens; }

bool qn_tokenizer_is_eog(const qn_tokenizer *tokenizer, int32_t id) {
  return is_id(tokenizer, id) && (tokenizer->types[id] & QN_TOK_EOG) != 0;
}

qn_token_type qn_tokenizer_type(const qn_tokenizer *tokenizer, int32_t id) {
  return is_id(tokenizer, id) ? (qn_token_type)qn_tok_type(tokenizer, (uint32_t)id) : QN_TOKEN_UNDEFINED;
}

qn_str qn_tokenizer_piece(const qn_tokenizer *tokenizer, int32_t id) {
  return is_id(tokenizer, id) ? qn_tok_text(tokenizer, (uint32_t)id) : (qn_str){"", 0};
}

uint32_t qn_tok_lookup(const qn_tokenizer *tokenizer, const char *bytes, size_t length) {
  uint32_t mask = tokenizer->piece_slots - 1, slot = (uint32_t)qn_hash64(bytes, length, 0) & mask;
  for (uint32_t probe = 0; probe < tokenizer->probes; probe++, slot = (slot + 1) & mask) {
    uint32_t symbol = qn_tok_load(tokenizer->piece_table, slot);
    if (symbol == QN_TOK_FREE) return QN_TOK_FREE;
    qn_str piece = qn_tok_symbol(tokenizer, symbol);
    if (piece.length == length && memcmp(piece.data, bytes, length) == 0) return symbol;
  }
  return QN_TOK_FREE;
}

int32_t qn_tokenizer_find(const qn_tokenizer *t, qn_str bytes) {
  int32_t hidden = -1;
  if (bytes.length == 0) return -1;
  for (uint32_t id = 0; id < t->n_tokens; id++) {
    unsigned type = qn_tok_type(t, id);
    if (type == QN_TOKEN_BYTE || !qn_str_equal(qn_tok_text(t, id), bytes)) continue;
    if (!qn_tok_type_is_hidden(type)) return (int32_t)id;
    if (hidden < 0) hidden = (int32_t)id;
  }
  return hidden;
}
