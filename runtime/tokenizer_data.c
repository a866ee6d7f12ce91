// Vocabulary → blob: what each token stands for is worked out, merge rules become triples of symbols, and the hash
// tables are laid out, so that opening the blob has little to build.
#include "runtime/tokenizer_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/hash.h"

static const char where[] = "vocabulary";

qn_status qn_tok_no_memory(qn_diag *diag) { return qn_fail_nomem(diag, where, "the tokenizer section"); }

// Tokens that end a generation by their text, whatever the file says, when they are special ones.
static const char *const eog_texts[] = {
    "<|eot_id|>",    "<|im_end|>",      "<|end|>",       "<|return|>",    "<|call|>",
    "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>",    "<end_of_turn>", "<end_of_utterance>",
    "</s>",          "<eos>",           "<EOT>",         "_<EOT>",        "[EOT]",
    "[EOS]",         "<|fim_pad|>",     "<|repo_name|>", "<|file_sep|>",  "<｜end▁of▁sentence｜>",
};

// ---- checks ------------------------------------------------------------------------------------------------------

static qn_status check_id(const qn_tokenizer_desc *desc, const char *name, int32_t id, int32_t least, qn_diag *diag) {
  if (id >= least && id < (int64_t)desc->token_count) return QN_OK;
  return qn_fail(diag, QN_ERR_FORMAT, where, "%s token id is %d, want %sbelow %zu", name, (int)id,
                 least < 0 ? "-1 (none) or " : "", desc->token_count);
}

static qn_status check_ids(const qn_tokenizer_desc *desc, qn_diag *diag) {
  QN_TRY(check_id(desc, "bos", desc->bos, -1, diag));
  QN_TRY(check_id(desc, "eos", desc->eos, -1, diag));
  QN_TRY(check_id(desc, "unk", desc->unk, -1, diag));
  QN_TRY(check_id(desc, "pad", desc->pad, -1, diag));
  for (size_t i = 0; i < desc->end_count; i++) QN_TRY(check_id(desc, "an end", desc->ends[i], 0, diag));
  for (size_t i = 0; i < desc->before_count; i++) QN_TRY(check_id(desc, "a leading", desc->before[i], 0, diag));
  for (size_t i = 0; i < desc->after_count; i++) QN_TRY(check_id(desc, "a trailing", desc->after[i], 0, diag));
  if (desc->before_count > QN_TOK_MAX_ENDS || desc->after_count > QN_TOK_MAX_ENDS) {
    return qn_fail(diag, QN_ERR_LIMIT, where, "puts %zu and %zu tokens around a text, want at most %u",
                   desc->before_count, desc->after_count, QN_TOK_MAX_ENDS);
  }
  return QN_OK;
}

double qn_tok_desc_score(const qn_tokenizer_desc *desc, size_t id) {
  return desc->scores64 != NULL ? desc->scores64[id] : (double)desc->scores[id];
}

static qn_status check_scores(const qn_tokenizer_desc *desc, qn_diag *diag) {
  bool spm = desc->kind == QN_TOKENIZER_SPM;
  if (!qn_tok_kind_is_scored(desc->kind)) return QN_OK;
  if (spm ? desc->scores == NULL || desc->scores64 != NULL : desc->scores == NULL && desc->scores64 == NULL) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "%s needs scores, there are none", spm ? "SPM" : "unigram");
  }
  for (size_t i = 0; i < desc->token_count; i++) {
    double score = qn_tok_desc_score(desc, i);
    if (!isfinite(score)) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "the score of token %zu is %g, want a finite one", i, score);
    }
  }
  return QN_OK;
}

// The steps are opened to see that they can be: patterns compile, tables are whole.
static qn_status check_steps(const qn_tok_writer *w, qn_diag *diag) {
  const qn_tokenizer_desc *desc = w->desc;
  qn_steps steps;
  qn_status status = qn_steps_open(&steps, desc->steps, desc->step_count, desc->normalizer_count, desc->charsmap,
                                   desc->unicode, true, w->arena.allocator, where, diag);
  qn_steps_close(&steps);
  return status;
}

// Checks all but the pieces and merges themselves.
static qn_status check_desc(const qn_tok_writer *w, qn_diag *diag) {
  const qn_tokenizer_desc *desc = w->desc;
  if (desc->kind < QN_TOKENIZER_SPM || desc->kind > QN_TOKENIZER_WORDPIECE) {
    return qn_fail(diag, QN_ERR_ARGUMENT, where, "kind is %d, want 1 to %d", (int)desc->kind, QN_TOKENIZER_WORDPIECE);
  }
  if (desc->token_count == 0) return qn_fail(diag, QN_ERR_FORMAT, where, "has no tokens");
  if (desc->token_count > QN_TOK_MAX_COUNT || desc->merge_count > QN_TOK_MAX_COUNT) {
    return qn_fail(diag, QN_ERR_LIMIT, where, "has %zu tokens and %zu merges, want at most %u", desc->token_count,
                   desc->merge_count, QN_TOK_MAX_COUNT);
  }
  QN_TRY(check_ids(desc, diag));
  QN_TRY(check_scores(desc, diag));
  return check_steps(w, diag);
}

// ---- pieces ------------------------------------------------------------------------------------------------------

// The value of "<0xNN>", or -1.
static int parse_byte_token(qn_str text) {
  if (text.length != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>') return -1;
  int value = 0;
  for (int i = 3; i < 5; i++) {
    static const char hex[] = "0123456789ABCDEFabcdef";
    const char *digit = memchr(hex, text.data[i], sizeof hex - 1);
    if (digit == NULL) return -1;
    value = value * 16 + (int)(digit - hex < 16 ? digit - hex : digit - hex - 6);
  }
  return value;
}

static bool begins_with(qn_str text, qn_str front) {
  return front.length > 0 && text.length >= front.length && memcmp(text.data, front.data, front.length) == 0;
}

// Bytes of a spelling in the byte alphabet; false where a character is none of it: the text stands for itself.
static bool put_alphabet(qn_str text, qn_buf *out) {
  size_t begin = out->length;
  for (size_t at = 0; at < text.length;) {
    size_t length = qn_utf8_sequence(text.data + at, text.length - at, NULL);
    int byte = length == 0 ? -1 : qn_byte_of_code_point(qn_utf8_code_point(text.data + at, length));
    if (byte < 0) {
      out->length = begin;
      return false;
    }
    qn_buf_putc(out, (char)byte);
    at += length;
  }
  return true;
}

// Does a token join the word before it when it is cleaned up?
static bool joins_before(qn_str text) {
  static const char *const fronts[] = {".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"};
  for (size_t i = 0; i < QN_COUNT(fronts); i++) {
    if (begins_with(text, qn_str_from(fronts[i]))) return true;
  }
  return false;
}

// Appends what a token stands for.
static void put_text(const qn_token_decoder *d, qn_str text, unsigned type, qn_buf *out) {
  int byte = d->byte_tokens || type == QN_TOKEN_BYTE ? parse_byte_token(text) : -1;
  bool special = qn_tok_type_is_special(type), user = type == QN_TOKEN_USER_DEFINED;
  if (byte >= 0 && !special) {
    qn_buf_putc(out, (char)byte);
    return;
  }
  if (special && !(user && d->space.length > 0)) {
    qn_buf_append(out, text.data, text.length);
    return;
  }
  if (d->byte_level && put_alphabet(text, out)) return;
  if (begins_with(text, d->word_begin)) {
    text = (qn_str){text.data + d->word_begin.length, text.length - d->word_begin.length};
    if (!(d->clean_up && joins_before(text))) qn_buf_putc(out, ' ');
  } else if (begins_with(text, d->word_goes_on)) {
    text = (qn_str){text.data + d->word_goes_on.length, text.length - d->word_goes_on.length};
  } else if (d->word_goes_on.length > 0 && !(d->clean_up && joins_before(text))) {
    qn_buf_putc(out, ' ');
  }
  qn_str end = d->word_end;
  bool ends = end.length > 0 && text.length >= end.length &&
              memcmp(text.data + text.length - end.length, end.data, end.length) == 0;
  if (ends) text.length -= end.length;
  while (text.length > 0) {
    bool space = begins_with(text, d->space);
    size_t length = space ? d->space.length : 1;
    qn_buf_putc(out, space ? ' ' : text.data[0]);
    text = (qn_str){text.data + length, text.length - length};
  }
  if (ends) qn_buf_putc(out, ' ');
}

static qn_status add_token(qn_tok_writer *w, uint32_t id, qn_diag *diag) {
  qn_str text = w->desc->tokens[id];
  unsigned type = w->types[id] & QN_TOK_TYPE_MASK;
  int byte = type == QN_TOKEN_BYTE ? parse_byte_token(text) : -1;
  if (type == QN_TOKEN_BYTE && byte < 0) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "token %u is of type byte, got '%.*s', want <0x00> to <0xFF>", id,
                   (int)(text.length < 64 ? text.length : 64), text.data);
  }
  if (byte >= 0 && w->bytes[byte] == QN_TOK_FREE) w->bytes[byte] = id;
  size_t begin = w->texts.length;
  put_text(&w->desc->decoder, text, type, &w->texts);
  qn_str rendered = {qn_buf_text(&w->texts) + begin, w->texts.length - begin};
  w->spelled_alike = w->spelled_alike && !w->texts.failed && qn_str_equal(rendered, text);
  if (w->texts.failed || !qn_vec_push(w->arena.allocator, &w->text_ends, w->texts.length) ||
      !qn_vec_push(w->arena.allocator, &w->symbols, text)) {
    return qn_tok_no_memory(diag);
  }
  bool plain = byte < 0 && text.length > 0 && !qn_tok_type_is_hidden(type);
  if (plain && !qn_map_get(&w->plain, text, NULL) && !qn_map_put(&w->plain, text, id)) return qn_tok_no_memory(diag);
  return QN_OK;
}

static qn_status take_types(qn_tok_writer *w, qn_diag *diag) {
  const qn_tokenizer_desc *desc = w->desc;
  for (int i = 0; i < 256; i++) w->bytes[i] = QN_TOK_FREE;
  w->types = qn_arena_alloc(&w->arena, desc->token_count);
  if (w->types == NULL) return qn_tok_no_memory(diag);
  for (uint32_t i = 0; i < desc->token_count; i++) {
    uint8_t type = desc->types == NULL ? QN_TOKEN_NORMAL : desc->types[i];
    unsigned plain_type = type & 15u;
    if (plain_type >= QN_TOKEN_TYPE_COUNT) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "token %u has type %u, want 0 to %d", i, plain_type,
                     QN_TOKEN_TYPE_COUNT - 1);
    }
    // Without types, SPM's byte tokens are known by their spelling.
    bool spelled = desc->types == NULL && desc->kind == QN_TOKENIZER_SPM && parse_byte_token(desc->tokens[i]) >= 0;
    w->types[i] = spelled ? QN_TOKEN_BYTE : type;
  }
  return QN_OK;
}

// Marks what ends a generation. Such a token is never plain text, so it is made a control token.
static void mark_eog(qn_tok_writer *w) {
  const qn_tokenizer_desc *desc = w->desc;
  bool has_return = false, has_call = false;
  int64_t end = -1;
  for (uint32_t i = 0; i < desc->token_count; i++) {
    bool eog = desc->eos == (int32_t)i;
    for (size_t j = 0; j < desc->end_count; j++) eog = eog || desc->ends[j] == (int32_t)i;
    for (size_t j = 0; j < QN_COUNT(eog_texts) && !eog && qn_tok_type_is_special(w->types[i] & QN_TOK_TYPE_MASK); j++) {
      eog = qn_str_is(desc->tokens[i], eog_texts[j]);
    }
    if (!eog) continue;
    has_return = has_return || qn_str_is(desc->tokens[i], "<|return|>");
    has_call = has_call || qn_str_is(desc->tokens[i], "<|call|>");
    if (qn_str_is(desc->tokens[i], "<|end|>")) end = i;
    w->types[i] = (uint8_t)((w->types[i] & ~QN_TOK_TYPE_MASK) | QN_TOKEN_CONTROL | QN_TOK_EOG);
  }
  // In the harmony format "<|end|>" ends a message, not the generation.
  if (has_return && has_call && end >= 0) w->types[end] &= (uint8_t)~QN_TOK_EOG;
}

// ---- merges ------------------------------------------------------------------------------------------------------

// The symbol that is spelled like this, made if need be.
static qn_status symbol_of(qn_tok_writer *w, qn_str piece, uint32_t *out, qn_diag *diag) {
  uint64_t found;
  if (qn_map_get(&w->plain, piece, &found)) {
    *out = (uint32_t)found;
    return QN_OK;
  }
  *out = (uint32_t)w->symbols.count;
  if (!qn_vec_push(w->arena.allocator, &w->symbols, piece) || !qn_map_put(&w->plain, piece, *out)) {
    return qn_tok_no_memory(diag);
  }
  return QN_OK;
}

// A table of `slots` slots for at least twice as many items, all free; NULL when out of memory.
static uint32_t *new_table(qn_tok_writer *w, size_t items, unsigned doublings, uint32_t *out_slots) {
  uint32_t slots = 8;
  while (slots < items * 2) slots *= 2;
  slots <<= doublings;
  uint32_t *table = QN_ARENA_ARRAY(&w->arena, slots, uint32_t);
  for (uint32_t i = 0; table != NULL && i < slots; i++) table[i] = QN_TOK_FREE;
  *out_slots = slots;
  return table;
}

enum { MAX_DOUBLINGS = 4 };  // of a hash table whose chains came out too long

static qn_status fail_chains(qn_diag *diag, const char *what) {
  return qn_fail(diag, QN_ERR_FORMAT, where, "%s collide in the hash table more than %u times: made to do so?", what,
                 QN_TOK_MAX_PROBES);
}

// Drops rules that repeat an earlier one. *out_full: some chain is too long.
static qn_status fill_merge_table(qn_tok_writer *w, bool *out_full, qn_diag *diag) {
  *out_full = false;
  w->merges.count = 0;
  for (size_t i = 0; i < w->desc->merge_count; i++) {
    qn_str left = w->desc->merges[i].left, right = w->desc->merges[i].right;
    uint32_t rule[3];
    if (left.length == 0 || right.length == 0) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "merge %zu has an empty side", i);
    }
    char *joined = qn_arena_alloc(&w->arena, left.length + right.length);
    if (joined == NULL) return qn_tok_no_memory(diag);
    memcpy(joined, left.data, left.length);
    memcpy(joined + left.length, right.data, right.length);
    QN_TRY(symbol_of(w, left, &rule[0], diag));
    QN_TRY(symbol_of(w, right, &rule[1], diag));
    QN_TRY(symbol_of(w, (qn_str){joined, left.length + right.length}, &rule[2], diag));
    uint32_t mask = w->merge_slots - 1, slot = qn_tok_merge_hash(rule[0], rule[1]) & mask, probes = 1;
    bool repeated = false;
    for (; w->merge_table[slot] != QN_TOK_FREE && !repeated; slot = (slot + 1) & mask, probes++) {
      const uint32_t *other = w->merges.items + (size_t)w->merge_table[slot] * 3;
      repeated = other[0] == rule[0] && other[1] == rule[1];
    }
    if (repeated) continue;
    if (probes > QN_TOK_MAX_PROBES) {
      *out_full = true;
      return QN_OK;
    }
    if (probes > w->probes) w->probes = probes;
    w->merge_table[slot] = (uint32_t)(w->merges.count / 3);
    for (int j = 0; j < 3; j++) {
      if (!qn_vec_push(w->arena.allocator, &w->merges, rule[j])) return qn_tok_no_memory(diag);
    }
  }
  return QN_OK;
}

static qn_status add_merges(qn_tok_writer *w, qn_diag *diag) {
  if (w->desc->merge_count == 0) return QN_OK;
  bool full = true;
  for (unsigned doublings = 0; full; doublings++) {
    if (doublings > MAX_DOUBLINGS) return fail_chains(diag, "merges");
    w->merge_table = new_table(w, w->desc->merge_count, doublings, &w->merge_slots);
    if (w->merge_table == NULL) return qn_tok_no_memory(diag);
    QN_TRY(fill_merge_table(w, &full, diag));
  }
  return QN_OK;
}

// ---- the table of pieces, the special tokens ---------------------------------------------------------------------

// Puts a symbol in unless one before it is spelled alike, or it is never looked up. False when its chain is too long.
static bool put_piece(qn_tok_writer *w, uint32_t symbol) {
  qn_str piece = w->symbols.items[symbol];
  unsigned type = symbol < w->desc->token_count ? w->types[symbol] & QN_TOK_TYPE_MASK : QN_TOKEN_NORMAL;
  if (type == QN_TOKEN_BYTE || qn_tok_type_is_hidden(type) || piece.length == 0) return true;
  uint32_t mask = w->piece_slots - 1, slot = (uint32_t)qn_hash64(piece.data, piece.length, 0) & mask, probes = 1;
  for (; w->piece_table[slot] != QN_TOK_FREE; slot = (slot + 1) & mask, probes++) {
    if (qn_str_equal(w->symbols.items[w->piece_table[slot]], piece)) return true;
  }
  if (probes > QN_TOK_MAX_PROBES) return false;
  if (probes > w->probes) w->probes = probes;
  w->piece_table[slot] = symbol;
  return true;
}

static qn_status add_piece_table(qn_tok_writer *w, qn_diag *diag) {
  for (unsigned doublings = 0; doublings <= MAX_DOUBLINGS; doublings++) {
    w->piece_table = new_table(w, w->symbols.count, doublings, &w->piece_slots);
    if (w->piece_table == NULL) return qn_tok_no_memory(diag);
    uint32_t symbol = 0;
    while (symbol < w->symbols.count && put_piece(w, symbol)) symbol++;
    if (symbol == w->symbols.count) return QN_OK;
  }
  return fail_chains(diag, "tokens");
}

// Longest first, then by id: a special token's length and id in one integer of the opposite order.
static int compare_specials(const void *a, const void *b) {
  const uint64_t *x = a, *y = b;
  return *x < *y ? -1 : *x > *y;
}

static qn_status add_specials(qn_tok_writer *w, qn_diag *diag) {
  uint64_t *keys = QN_ARENA_ARRAY(&w->arena, w->desc->token_count, uint64_t);
  w->specials = QN_ARENA_ARRAY(&w->arena, w->desc->token_count, uint32_t);
  if (keys == NULL || w->specials == NULL) return qn_tok_no_memory(diag);
  for (uint32_t i = 0; i < w->desc->token_count; i++) {
    size_t length = w->symbols.items[i].length;
    if (!qn_tok_type_is_special(w->types[i] & QN_TOK_TYPE_MASK) || length == 0) continue;
    keys[w->n_specials++] = (uint64_t)(QN_TOK_MAX_BYTES - length) << 32 | i;
  }
  qsort(keys, w->n_specials, sizeof *keys, compare_specials);
  for (uint32_t i = 0; i < w->n_specials; i++) w->specials[i] = (uint32_t)keys[i];
  return QN_OK;
}

static qn_status build(qn_tok_writer *w, qn_buf *out, qn_diag *diag) {
  QN_TRY(check_desc(w, diag));
  QN_TRY(take_types(w, diag));
  mark_eog(w);
  w->spelled_alike = true;
  for (uint32_t i = 0; i < w->desc->token_count; i++) QN_TRY(add_token(w, i, diag));
  if (w->desc->kind == QN_TOKENIZER_BPE) QN_TRY(add_merges(w, diag));
  QN_TRY(add_piece_table(w, diag));
  QN_TRY(add_specials(w, diag));
  return qn_tok_write(w, out, diag);
}

qn_status qn_tokenizer_serialize(const qn_tokenizer_desc *desc, const qn_allocator *allocator, qn_buf *out,
                                 qn_diag *diag) {
  qn_tok_writer w = {.desc = desc};
  qn_arena_init(&w.arena, allocator);
  qn_map_init(&w.plain, allocator);
  qn_buf_init(&w.texts, allocator);
  qn_status status = build(&w, out, diag);
  qn_vec_free(allocator, &w.symbols);
  qn_vec_free(allocator, &w.text_ends);
  qn_vec_free(allocator, &w.merges);
  qn_map_deinit(&w.plain);
  qn_buf_deinit(&w.texts);
  qn_arena_deinit(&w.arena);
  return status;
}
