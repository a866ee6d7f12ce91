// Opening a tokenizer blob in place, looking tokens up, and the frame of encoding: special tokens are cut out, the
// stretches between them go to the vocabulary's own algorithm.
#include "runtime/tokenizer.h"

#include <stdlib.h>
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
  if (kind != QN_TOKENIZER_SPM && kind != QN_TOKENIZER_BPE) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "has kind %u, want 1 or 2", kind);
  }
  t->kind = (qn_tokenizer_kind)kind;
  t->flags = qn_tok_load(blob, QN_TOK_W_FLAGS);
  if (t->flags & ~(uint32_t)QN_TOK_ALL_FLAGS) return qn_fail(diag, QN_ERR_FORMAT, where, "has flags 0x%x", t->flags);
  t->n_tokens = qn_tok_load(blob, QN_TOK_W_N_TOKENS);
  t->n_symbols = qn_tok_load(blob, QN_TOK_W_N_SYMBOLS);
  t->n_merges = qn_tok_load(blob, QN_TOK_W_N_MERGES);
  t->n_specials = qn_tok_load(blob, QN_TOK_W_N_SPECIALS);
  t->piece_slots = qn_tok_load(blob, QN_TOK_W_PIECE_SLOTS);
  t->merge_slots = qn_tok_load(blob, QN_TOK_W_MERGE_SLOTS);
  t->probes = qn_tok_load(blob, QN_TOK_W_PROBES);
  if (t->n_tokens == 0 || t->n_tokens > QN_TOK_MAX_COUNT || t->n_symbols < t->n_tokens || t->n_specials > t->n_tokens ||
      t->n_merges > QN_TOK_MAX_COUNT) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "has %u tokens, %u symbols, %u merges and %u special tokens",
                   t->n_tokens, t->n_symbols, t->n_merges, t->n_specials);
  }
  // Tables: a power of two (so that a mask wraps), or none.
  if (t->piece_slots == 0 || (t->piece_slots & (t->piece_slots - 1)) != 0 ||
      (t->merge_slots & (t->merge_slots - 1)) != 0 || t->probes > QN_TOK_MAX_PROBES) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "has hash tables of %u and %u slots and %u probes", t->piece_slots,
                   t->merge_slots, t->probes);
  }
  return QN_OK;
}

static qn_status read_special_ids(qn_tokenizer *t, const uint8_t *blob, qn_diag *diag) {
  const struct {
    const char *name;
    qn_tok_word word;
    int32_t *id;
    uint32_t needed_by;  // flag
  } ids[] = {{"BOS", QN_TOK_W_BOS, &t->bos, QN_TOK_ADD_BOS},
             {"EOS", QN_TOK_W_EOS, &t->eos, QN_TOK_ADD_EOS},
             {"unknown", QN_TOK_W_UNK, &t->unk, 0},
             {"padding", QN_TOK_W_PAD, &t->pad, 0}};
  for (size_t i = 0; i < QN_COUNT(ids); i++) {
    uint32_t id = qn_tok_load(blob, ids[i].word);
    if (id != QN_TOK_FREE && id >= t->n_tokens) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "the %s token's id is %u, want below %u", ids[i].name, id,
                     t->n_tokens);
    }
    if (id == QN_TOK_FREE && (t->flags & ids[i].needed_by)) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "adds a %s token and has none", ids[i].name);
    }
    *ids[i].id = id == QN_TOK_FREE ? -1 : (int32_t)id;
  }
  return QN_OK;
}

static qn_status check_pieces(qn_tokenizer *t, uint32_t pieces_bytes, qn_diag *diag) {
  uint32_t begin = qn_tok_load(t->starts, 0);
  if (begin != 0) return qn_fail(diag, QN_ERR_FORMAT, where, "the first piece begins at %u, want 0", begin);
  for (uint32_t i = 0; i < t->n_symbols; i++) {
    uint32_t end = qn_tok_load(t->starts, i + 1);
    if (end < begin || end > pieces_bytes) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "piece %u goes from byte %u to %u of %u", i, begin, end, pieces_bytes);
    }
    if (end - begin > t->max_piece) t->max_piece = end - begin;
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

static qn_status read_sections(qn_tokenizer *t, const uint8_t *blob, uint32_t size, qn_diag *diag) {
  uint32_t pieces_bytes = qn_tok_load(blob, QN_TOK_W_PIECES_BYTES);
  uint64_t scores = t->kind == QN_TOKENIZER_SPM ? t->n_tokens : 0;
  QN_TRY(place(blob, size, "piece starts", QN_TOK_W_STARTS, (uint64_t)t->n_symbols + 1, 4, &t->starts, diag));
  QN_TRY(place(blob, size, "pieces", QN_TOK_W_PIECES, pieces_bytes, 1, &t->pieces, diag));
  QN_TRY(place(blob, size, "token types", QN_TOK_W_TYPES, t->n_tokens, 1, &t->types, diag));
  QN_TRY(place(blob, size, "scores", QN_TOK_W_SCORES, scores, 4, &t->scores, diag));
  QN_TRY(place(blob, size, "piece table", QN_TOK_W_PIECE_TABLE, t->piece_slots, 4, &t->piece_table, diag));
  QN_TRY(place(blob, size, "merges", QN_TOK_W_MERGES, t->n_merges, 12, &t->merges, diag));
  QN_TRY(place(blob, size, "merge table", QN_TOK_W_MERGE_TABLE, t->merge_slots, 4, &t->merge_table, diag));
  QN_TRY(place(blob, size, "byte symbols", QN_TOK_W_BYTES, 256, 4, &t->bytes, diag));
  QN_TRY(place(blob, size, "special tokens", QN_TOK_W_SPECIALS, t->n_specials, 4, &t->specials, diag));
  QN_TRY(check_pieces(t, pieces_bytes, diag));
  for (uint32_t i = 0; i < t->n_tokens; i++) {
    if (qn_tok_type(t, i) >= QN_TOKEN_TYPE_COUNT) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "token %u has type %u", i, qn_tok_type(t, i));
    }
  }
  // BPE needs a symbol for every byte: words start from them.
  bool byte_free = t->kind == QN_TOKENIZER_SPM;
  QN_TRY(check_words(t->piece_table, t->piece_slots, t->n_tokens, true, "piece table", diag));
  QN_TRY(check_words(t->merges, (uint64_t)t->n_merges * 3, t->n_symbols, false, "merges", diag));
  QN_TRY(check_words(t->merge_table, t->merge_slots, t->n_merges, true, "merge table", diag));
  QN_TRY(check_words(t->bytes, 256, byte_free ? t->n_tokens : t->n_symbols, byte_free, "byte symbols", diag));
  return check_words(t->specials, t->n_specials, t->n_tokens, false, "special tokens", diag);
}

// Groups the special tokens by length, longest first.
static qn_status build_classes(qn_tokenizer *t, qn_diag *diag) {
  uint32_t previous = QN_TOK_FREE;
  for (uint32_t i = 0; i < t->n_specials; i++) {
    uint32_t id = qn_tok_load(t->specials, i);
    qn_str piece = qn_tok_symbol(t, id);
    unsigned type = qn_tok_type(t, id);
    if (piece.length == 0 || piece.length > previous || !qn_tok_type_is_special(type)) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "special token %u (id %u) is empty, plain or out of order", i, id);
    }
    if (piece.length < previous) t->n_classes++;
    previous = (uint32_t)piece.length;
  }
  if (t->n_classes == 0) return QN_OK;
  t->classes = qn_alloc_zeroed(t->allocator, t->n_classes * sizeof *t->classes);
  if (t->classes == NULL) return qn_fail_nomem(diag, where, "special tokens");
  qn_special_class *group = t->classes;
  for (uint32_t i = 0; i < t->n_specials; i++) {
    uint32_t id = qn_tok_load(t->specials, i);
    qn_str piece = qn_tok_symbol(t, id);
    if (group->length != 0 && group->length != piece.length) group++;
    group->length = (uint32_t)piece.length;
    uint8_t first = (uint8_t)piece.data[0];
    group->first[first >> 6] |= (uint64_t)1 << (first & 63);
    if (!qn_tok_type_is_hidden(qn_tok_type(t, id))) group->first_user[first >> 6] |= (uint64_t)1 << (first & 63);
  }
  return QN_OK;
}

static qn_status open_parts(qn_tokenizer *t, const uint8_t *blob, size_t size, qn_diag *diag) {
  QN_TRY(read_header(t, blob, size, diag));
  QN_TRY(read_special_ids(t, blob, diag));
  QN_TRY(read_sections(t, blob, (uint32_t)size, diag));
  QN_TRY(build_classes(t, diag));
  if (t->kind != QN_TOKENIZER_BPE) return QN_OK;
  char pre[QN_TOK_PRE_BYTES];
  memcpy(pre, blob + QN_TOK_WORDS * 4, sizeof pre);
  if (memchr(pre, 0, sizeof pre) == NULL) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "the pre-tokenizer's name has no end");
  }
  return qn_pre_tokenizer_create(pre, t->allocator, &t->pre, diag);
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
  qn_pre_tokenizer_destroy(tokenizer->pre);
  if (tokenizer->classes != NULL) {
    qn_free(tokenizer->allocator, tokenizer->classes, tokenizer->n_classes * sizeof *tokenizer->classes);
  }
  qn_free(tokenizer->allocator, tokenizer, sizeof *tokenizer);
}

// ---- questions ---------------------------------------------------------------------------------------------------

qn_tokenizer_kind qn_tokenizer_get_kind(const qn_tokenizer *tokenizer) { return tokenizer->kind; }
int32_t qn_tokenizer_count(const qn_tokenizer *tokenizer) { return (int32_t)tokenizer->n_tokens; }
int32_t qn_tokenizer_bos(const qn_tokenizer *tokenizer) { return tokenizer->bos; }
int32_t qn_tokenizer_eos(const qn_tokenizer *tokenizer) { return tokenizer->eos; }
int32_t qn_tokenizer_unk(const qn_tokenizer *tokenizer) { return tokenizer->unk; }
int32_t qn_tokenizer_pad(const qn_tokenizer *tokenizer) { return tokenizer->pad; }
bool qn_tokenizer_adds_bos(const qn_tokenizer *tokenizer) { return (tokenizer->flags & QN_TOK_ADD_BOS) != 0; }
bool qn_tokenizer_adds_eos(const qn_tokenizer *tokenizer) { return (tokenizer->flags & QN_TOK_ADD_EOS) != 0; }

static bool is_id(const qn_tokenizer *tokenizer, int32_t id) { return id >= 0 && (uint32_t)id < tokenizer->n_tokens; }

bool qn_tokenizer_is_eog(const qn_tokenizer *tokenizer, int32_t id) {
  return is_id(tokenizer, id) && (tokenizer->types[id] & QN_TOK_EOG) != 0;
}

qn_token_type qn_tokenizer_type(const qn_tokenizer *tokenizer, int32_t id) {
  return is_id(tokenizer, id) ? (qn_token_type)qn_tok_type(tokenizer, (uint32_t)id) : QN_TOKEN_UNDEFINED;
}

qn_str qn_tokenizer_piece(const qn_tokenizer *tokenizer, int32_t id) {
  return is_id(tokenizer, id) ? qn_tok_symbol(tokenizer, (uint32_t)id) : (qn_str){"", 0};
}

uint32_t qn_tok_lookup(const qn_tokenizer *tokenizer, const char *bytes, size_t length, qn_tok_want want) {
  uint32_t mask = tokenizer->piece_slots - 1, slot = (uint32_t)qn_hash64(bytes, length, 0) & mask;
  for (uint32_t probe = 0; probe < tokenizer->probes; probe++, slot = (slot + 1) & mask) {
    uint32_t id = qn_tok_load(tokenizer->piece_table, slot);
    if (id == QN_TOK_FREE) return QN_TOK_FREE;
    qn_str piece = qn_tok_symbol(tokenizer, id);
    if (piece.length != length || memcmp(piece.data, bytes, length) != 0) continue;
    unsigned type = qn_tok_type(tokenizer, id);
    if (want == QN_TOK_WANT_PLAIN ? !qn_tok_type_is_hidden(type) : qn_tok_type_is_special(type)) return id;
  }
  return QN_TOK_FREE;
}

int32_t qn_tokenizer_find(const qn_tokenizer *tokenizer, qn_str bytes) {
  if (bytes.length == 0 || bytes.length > tokenizer->max_piece) return -1;
  uint32_t id = qn_tok_lookup(tokenizer, bytes.data, bytes.length, QN_TOK_WANT_PLAIN);
  if (id == QN_TOK_FREE) id = qn_tok_lookup(tokenizer, bytes.data, bytes.length, QN_TOK_WANT_SPECIAL);
  return id == QN_TOK_FREE ? -1 : (int32_t)id;
}

// ---- encoding ----------------------------------------------------------------------------------------------------

static qn_status push_token(qn_token_vec *tokens, uint32_t id, const qn_allocator *allocator, qn_diag *diag) {
  return qn_vec_push(allocator, tokens, (int32_t)id) ? QN_OK : qn_fail_nomem(diag, "tokenizer", "tokens");
}

qn_status qn_tok_push_byte(const qn_tokenizer *tokenizer, uint8_t byte, const qn_allocator *allocator,
                           qn_token_vec *tokens, qn_diag *diag) {
  uint32_t id = qn_tok_load(tokenizer->bytes, byte);
  if (id >= tokenizer->n_tokens) {
    if (tokenizer->unk < 0) {
      return qn_fail(diag, QN_ERR_UNSUPPORTED, "tokenizer",
                     "the text has byte 0x%02x, for which the vocabulary has no token, and no unknown token", byte);
    }
    id = (uint32_t)tokenizer->unk;
  }
  return push_token(tokens, id, allocator, diag);
}

// SentencePiece's view of a text: a space in front, U+2581 is a space, maybe no runs of spaces.
static void normalize_spm(const qn_tokenizer *tokenizer, qn_str text, bool prefix, qn_buf *out) {
  bool squeeze = (tokenizer->flags & QN_TOK_REMOVE_SPACES) != 0, pending = false, any = false;
  out->length = 0;
  for (size_t i = 0; i < text.length; i++) {
    char c = text.data[i];
    if (c == '\xE2' && text.length - i >= 3 && memcmp(text.data + i, "\xE2\x96\x81", 3) == 0) {
      c = ' ';
      i += 2;
    }
    if (squeeze && c == ' ') {
      pending = any;
      continue;
    }
    if (pending || (prefix && !any)) qn_buf_putc(out, ' ');
    pending = false;
    any = true;
    qn_buf_putc(out, c);
  }
}

typedef struct encoder {
  qn_merger merger;
  qn_fragment_vec fragments;  // owned
  qn_word_vec words;          // owned
  qn_buf text;                // owned: normalised
} encoder;

static qn_status encode_fragments(encoder *e, qn_str text, qn_token_vec *tokens, qn_diag *diag) {
  const qn_tokenizer *tokenizer = e->merger.tokenizer;
  bool after_special = true;  // so is the beginning
  for (size_t i = 0; i < e->fragments.count; i++) {
    qn_fragment fragment = e->fragments.items[i];
    if (fragment.id != QN_TOK_FREE) {
      QN_TRY(push_token(tokens, fragment.id, e->merger.allocator, diag));
      after_special = true;
      continue;
    }
    qn_str plain = {text.data + fragment.start, fragment.end - fragment.start};
    if (tokenizer->kind == QN_TOKENIZER_BPE) {
      QN_TRY(qn_bpe_encode(&e->merger, &e->words, plain, tokens, diag));
    } else {
      normalize_spm(tokenizer, plain, after_special && (tokenizer->flags & QN_TOK_ADD_SPACE_PREFIX), &e->text);
      if (e->text.failed) return qn_fail_nomem(diag, "tokenizer", "a text");
      QN_TRY(qn_spm_encode(&e->merger, (qn_str){e->text.data, e->text.length}, tokens, diag));
    }
    after_special = false;
  }
  return QN_OK;
}

static qn_status encode_all(encoder *e, qn_str text, unsigned flags, qn_token_vec *tokens, qn_diag *diag) {
  const qn_tokenizer *tokenizer = e->merger.tokenizer;
  const qn_allocator *allocator = e->merger.allocator;
  bool parse_special = (flags & QN_ENCODE_PARSE_SPECIAL) != 0, ends = (flags & QN_ENCODE_SPECIAL) != 0;
  if (ends && qn_tokenizer_adds_bos(tokenizer)) {
    QN_TRY(push_token(tokens, (uint32_t)tokenizer->bos, allocator, diag));
  }
  QN_TRY(qn_tok_partition(tokenizer, text, parse_special, allocator, &e->fragments, diag));
  QN_TRY(encode_fragments(e, text, tokens, diag));
  if (!ends || !qn_tokenizer_adds_eos(tokenizer)) return QN_OK;
  return push_token(tokens, (uint32_t)tokenizer->eos, allocator, diag);
}

qn_status qn_tokenizer_encode(const qn_tokenizer *tokenizer, qn_str text, unsigned flags, const qn_allocator *allocator,
                              qn_token_vec *tokens, qn_diag *diag) {
  if (text.length >= QN_TOK_MAX_TEXT) {
    return qn_fail(diag, QN_ERR_LIMIT, "tokenizer", "the text has %zu bytes, want fewer than %u", text.length,
                   QN_TOK_MAX_TEXT);
  }
  encoder e = {.merger = {.tokenizer = tokenizer, .allocator = allocator}};
  qn_buf_init(&e.text, allocator);
  size_t before = tokens->count;
  qn_status status = encode_all(&e, text, flags, tokens, diag);
  if (status != QN_OK) tokens->count = before;
  qn_merger_deinit(&e.merger);
  qn_vec_free(allocator, &e.fragments);
  qn_vec_free(allocator, &e.words);
  qn_buf_deinit(&e.text);
  return status;
}
