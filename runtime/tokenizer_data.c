// Vocabulary → blob: pieces are brought into the bytes they stand for, merge rules become triples of symbols, and the
// hash tables are laid out, so that opening the blob has nothing to build.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/hash.h"
#include "runtime/base/map.h"
#include "runtime/tokenizer_impl.h"

static const char where[] = "vocabulary";

static qn_status no_memory(qn_diag *diag) { return qn_fail_nomem(diag, where, "the tokenizer section"); }

// Tokens that end a generation by their text, whatever the file says, when they are special ones.
static const char *const eog_texts[] = {
    "<|eot_id|>",    "<|im_end|>",      "<|end|>",       "<|return|>",    "<|call|>",
    "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>",    "<end_of_turn>", "<end_of_utterance>",
    "</s>",          "<eos>",           "<EOT>",         "_<EOT>",        "[EOT]",
    "[EOS]",         "<|fim_pad|>",     "<|repo_name|>", "<|file_sep|>",  "<｜end▁of▁sentence｜>",
};

typedef struct writer {
  const qn_tokenizer_desc *desc;
  bool add_bos, ignore_merges;  // resolved
  qn_arena arena;               // owns the pieces of symbols
  QN_VEC(qn_str) symbols;
  QN_VEC(uint32_t) merges;  // triples
  uint8_t *types;           // (token_count), arena
  uint32_t *specials;       // (n_specials), arena
  uint32_t n_specials;
  qn_map plain;  // piece → symbol, of what plain text may become
  uint32_t bytes[256];
  uint32_t *piece_table, *merge_table;  // arena
  uint32_t piece_slots, merge_slots, probes;
} writer;

// ---- checks ------------------------------------------------------------------------------------------------------

static qn_status check_ids(const qn_tokenizer_desc *desc, qn_diag *diag) {
  const struct {
    const char *name;
    int32_t id;
    bool needed;
  } ids[] = {{"bos", desc->bos, desc->add_bos == 1},
             {"eos", desc->eos, desc->add_eos},
             {"eot", desc->eot, false},
             {"eom", desc->eom, false},
             {"unk", desc->unk, false},
             {"pad", desc->pad, false}};
  for (size_t i = 0; i < QN_COUNT(ids); i++) {
    if (ids[i].id < -1 || ids[i].id >= (int64_t)desc->token_count) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "%s token id is %d, want -1 (none) or below %zu", ids[i].name,
                     (int)ids[i].id, desc->token_count);
    }
    if (ids[i].needed && ids[i].id < 0) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "add_%s is set, but there is no %s token", ids[i].name, ids[i].name);
    }
  }
  return QN_OK;
}

// Checks all but the pieces and merges themselves, and settles what is implied.
static qn_status check_desc(writer *w, qn_diag *diag) {
  const qn_tokenizer_desc *desc = w->desc;
  if (desc->kind != QN_TOKENIZER_SPM && desc->kind != QN_TOKENIZER_BPE) {
    return qn_fail(diag, QN_ERR_ARGUMENT, where, "kind is %d, want SPM or BPE", (int)desc->kind);
  }
  if (desc->token_count == 0) return qn_fail(diag, QN_ERR_FORMAT, where, "has no tokens");
  if (desc->token_count > QN_TOK_MAX_COUNT || desc->merge_count > QN_TOK_MAX_COUNT) {
    return qn_fail(diag, QN_ERR_LIMIT, where, "has %zu tokens and %zu merges, want at most %u", desc->token_count,
                   desc->merge_count, QN_TOK_MAX_COUNT);
  }
  QN_TRY(check_ids(desc, diag));
  bool implied_merges = false, implied_bos = true;
  if (desc->kind == QN_TOKENIZER_BPE) {
    if (desc->pre == NULL) return qn_fail(diag, QN_ERR_ARGUMENT, where, "BPE needs a pre-tokenizer's name");
    QN_TRY(qn_pre_tokenizer_check(desc->pre, &implied_merges, &implied_bos, diag));
  }
  w->add_bos = desc->add_bos == QN_TOKENIZER_IMPLIED ? implied_bos && desc->bos >= 0 : desc->add_bos != 0;
  w->ignore_merges = desc->ignore_merges == QN_TOKENIZER_IMPLIED ? implied_merges : desc->ignore_merges != 0;
  if (desc->kind == QN_TOKENIZER_BPE) return QN_OK;
  if (desc->scores == NULL) return qn_fail(diag, QN_ERR_FORMAT, where, "SPM needs scores, there are none");
  for (size_t i = 0; i < desc->token_count; i++) {
    if (!isfinite(desc->scores[i])) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "the score of token %zu is %g, want a finite one", i,
                     (double)desc->scores[i]);
    }
  }
  return QN_OK;
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

// A piece from the file's spelling: U+2581 → space (SPM), GPT-2's alphabet → bytes (BPE). A text with a character
// that is not of the alphabet stands for itself. False when out of memory.
static bool spell_out(writer *w, qn_str text, qn_str *out) {
  char *bytes = qn_arena_alloc(&w->arena, text.length);
  if (bytes == NULL) return false;
  size_t length = 0;
  for (size_t at = 0; at < text.length;) {
    size_t sequence = qn_utf8_sequence(text.data + at, text.length - at, NULL);
    uint32_t code_point = sequence == 0 ? QN_TOK_FREE : qn_utf8_code_point(text.data + at, sequence);
    size_t step = sequence == 0 ? 1 : sequence;
    if (w->desc->kind == QN_TOKENIZER_BPE) {
      int byte = qn_byte_of_code_point(code_point);
      if (byte < 0) {
        *out = text;
        return true;
      }
      bytes[length++] = (char)byte;
    } else if (code_point == 0x2581) {
      bytes[length++] = ' ';
    } else {
      memcpy(bytes + length, text.data + at, step);
      length += step;
    }
    at += step;
  }
  *out = (qn_str){bytes, length};
  return true;
}

static qn_status add_token(writer *w, uint32_t id, qn_diag *diag) {
  qn_str text = w->desc->tokens[id], piece = text;
  unsigned type = w->types[id] & QN_TOK_TYPE_MASK;
  int byte = type == QN_TOKEN_BYTE ? parse_byte_token(text) : -1;
  if (type == QN_TOKEN_BYTE && byte < 0) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "token %u is of type byte, got '%.*s', want <0x00> to <0xFF>", id,
                   (int)(text.length < 64 ? text.length : 64), text.data);
  }
  if (byte >= 0) {
    char *storage = qn_arena_alloc(&w->arena, 1);
    if (storage == NULL) return no_memory(diag);
    *storage = (char)byte;
    piece = (qn_str){storage, 1};
    if (w->bytes[byte] == QN_TOK_FREE) w->bytes[byte] = id;
  } else if (!qn_tok_type_is_special(type) && !spell_out(w, text, &piece)) {
    return no_memory(diag);
  }
  if (!qn_vec_push(w->arena.allocator, &w->symbols, piece)) return no_memory(diag);
  bool plain = byte < 0 && piece.length > 0 && !qn_tok_type_is_hidden(type);
  if (plain && !qn_map_get(&w->plain, piece, NULL) && !qn_map_put(&w->plain, piece, id)) {
    return no_memory(diag);
  }
  return QN_OK;
}

static qn_status add_pieces(writer *w, qn_diag *diag) {
  const qn_tokenizer_desc *desc = w->desc;
  for (int i = 0; i < 256; i++) w->bytes[i] = QN_TOK_FREE;
  w->types = qn_arena_alloc(&w->arena, desc->token_count);
  if (w->types == NULL) return no_memory(diag);
  for (uint32_t i = 0; i < desc->token_count; i++) {
    uint8_t type = desc->types == NULL ? QN_TOKEN_NORMAL : desc->types[i];
    unsigned plain_type = type & ~(unsigned)QN_TOK_TAKES_SPACE;
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
static void mark_eog(writer *w) {
  const qn_tokenizer_desc *desc = w->desc;
  const int32_t by_id[] = {desc->eos, desc->eot, desc->eom};
  bool has_return = false, has_call = false;
  int64_t end = -1;
  for (uint32_t i = 0; i < desc->token_count; i++) {
    unsigned type = w->types[i] & QN_TOK_TYPE_MASK;
    bool eog = false;
    for (size_t j = 0; j < QN_COUNT(by_id); j++) eog = eog || by_id[j] == (int32_t)i;
    for (size_t j = 0; j < QN_COUNT(eog_texts) && !eog && qn_tok_type_is_special(type); j++) {
      eog = qn_str_is(desc->tokens[i], eog_texts[j]);
    }
    if (!eog) continue;
    has_return = has_return || qn_str_is(desc->tokens[i], "<|return|>");
    has_call = has_call || qn_str_is(desc->tokens[i], "<|call|>");
    if (qn_str_is(desc->tokens[i], "<|end|>")) end = i;
    w->types[i] = (uint8_t)((w->types[i] & QN_TOK_TAKES_SPACE) | QN_TOKEN_CONTROL | QN_TOK_EOG);
  }
  // In the harmony format "<|end|>" ends a message, not the generation.
  if (has_return && has_call && end >= 0) w->types[end] &= (uint8_t)~QN_TOK_EOG;
}

// ---- merges ------------------------------------------------------------------------------------------------------

// The symbol of these bytes, made if need be.
static qn_status symbol_of(writer *w, qn_str piece, uint32_t *out, qn_diag *diag) {
  uint64_t found;
  if (qn_map_get(&w->plain, piece, &found)) {
    *out = (uint32_t)found;
    return QN_OK;
  }
  *out = (uint32_t)w->symbols.count;
  if (!qn_vec_push(w->arena.allocator, &w->symbols, piece) || !qn_map_put(&w->plain, piece, *out)) {
    return no_memory(diag);
  }
  return QN_OK;
}

// Every byte is a symbol: a token of that one byte, else its byte token, else one that is no token.
static qn_status add_byte_symbols(writer *w, qn_diag *diag) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    char *storage = qn_arena_alloc(&w->arena, 1);
    if (storage == NULL) return no_memory(diag);
    *storage = (char)byte;
    qn_str piece = {storage, 1};
    uint64_t found;
    if (qn_map_get(&w->plain, piece, &found)) {
      w->bytes[byte] = (uint32_t)found;
    } else if (w->bytes[byte] != QN_TOK_FREE) {
      if (!qn_map_put(&w->plain, piece, w->bytes[byte])) return no_memory(diag);
    } else {
      QN_TRY(symbol_of(w, piece, &w->bytes[byte], diag));
    }
  }
  return QN_OK;
}

// A table of `slots` slots for at least twice as many items, all free; NULL when out of memory.
static uint32_t *new_table(writer *w, size_t items, unsigned doublings, uint32_t *out_slots) {
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

// Spells out the rules and drops those that repeat an earlier one. *out_full: some chain is too long.
static qn_status fill_merge_table(writer *w, bool *out_full, qn_diag *diag) {
  *out_full = false;
  w->merges.count = 0;
  for (size_t i = 0; i < w->desc->merge_count; i++) {
    const qn_token_merge *merge = &w->desc->merges[i];
    qn_str left, right;
    uint32_t rule[3];
    if (merge->left.length == 0 || merge->right.length == 0) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "merge %zu has an empty side", i);
    }
    if (!spell_out(w, merge->left, &left) || !spell_out(w, merge->right, &right)) return no_memory(diag);
    char *joined = qn_arena_alloc(&w->arena, left.length + right.length);
    if (joined == NULL) return no_memory(diag);
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
      if (!qn_vec_push(w->arena.allocator, &w->merges, rule[j])) return no_memory(diag);
    }
  }
  return QN_OK;
}

static qn_status add_merges(writer *w, qn_diag *diag) {
  QN_TRY(add_byte_symbols(w, diag));
  if (w->desc->merge_count == 0) return QN_OK;
  bool full = true;
  for (unsigned doublings = 0; full; doublings++) {
    if (doublings > MAX_DOUBLINGS) return fail_chains(diag, "merges");
    w->merge_table = new_table(w, w->desc->merge_count, doublings, &w->merge_slots);
    if (w->merge_table == NULL) return no_memory(diag);
    QN_TRY(fill_merge_table(w, &full, diag));
  }
  return QN_OK;
}

// ---- the table of pieces, the special tokens ---------------------------------------------------------------------

// Puts a token in unless one before it already answers for its bytes. False when its chain is too long.
static bool put_piece(writer *w, uint32_t id) {
  qn_str piece = w->symbols.items[id];
  unsigned type = w->types[id] & QN_TOK_TYPE_MASK;
  if (type == QN_TOKEN_BYTE || piece.length == 0) return true;
  uint32_t mask = w->piece_slots - 1, slot = (uint32_t)qn_hash64(piece.data, piece.length, 0) & mask, probes = 1;
  for (; w->piece_table[slot] != QN_TOK_FREE; slot = (slot + 1) & mask, probes++) {
    uint32_t other = w->piece_table[slot];
    bool same_class = qn_tok_type_is_hidden(w->types[other] & QN_TOK_TYPE_MASK) == qn_tok_type_is_hidden(type);
    if (same_class && qn_str_equal(w->symbols.items[other], piece)) return true;
  }
  if (probes > QN_TOK_MAX_PROBES) return false;
  if (probes > w->probes) w->probes = probes;
  w->piece_table[slot] = id;
  return true;
}

static qn_status add_piece_table(writer *w, qn_diag *diag) {
  for (unsigned doublings = 0; doublings <= MAX_DOUBLINGS; doublings++) {
    w->piece_table = new_table(w, w->desc->token_count, doublings, &w->piece_slots);
    if (w->piece_table == NULL) return no_memory(diag);
    uint32_t id = 0;
    while (id < w->desc->token_count && put_piece(w, id)) id++;
    if (id == w->desc->token_count) return QN_OK;
  }
  return fail_chains(diag, "tokens");
}

// Longest first, then by id: a special token's length and id in one integer of the opposite order.
static int compare_specials(const void *a, const void *b) {
  const uint64_t *x = a, *y = b;
  return *x < *y ? -1 : *x > *y;
}

static qn_status add_specials(writer *w, qn_diag *diag) {
  uint64_t *keys = QN_ARENA_ARRAY(&w->arena, w->desc->token_count, uint64_t);
  w->specials = QN_ARENA_ARRAY(&w->arena, w->desc->token_count, uint32_t);
  if (keys == NULL || w->specials == NULL) return no_memory(diag);
  for (uint32_t i = 0; i < w->desc->token_count; i++) {
    size_t length = w->symbols.items[i].length;
    if (!qn_tok_type_is_special(w->types[i] & QN_TOK_TYPE_MASK) || length == 0) continue;
    keys[w->n_specials++] = (uint64_t)(QN_TOK_MAX_BYTES - length) << 32 | i;
  }
  qsort(keys, w->n_specials, sizeof *keys, compare_specials);
  for (uint32_t i = 0; i < w->n_specials; i++) w->specials[i] = (uint32_t)keys[i];
  return QN_OK;
}

// ---- writing -----------------------------------------------------------------------------------------------------

static void store_word(uint8_t *at, uint32_t word) {
  for (int i = 0; i < 4; i++) at[i] = (uint8_t)(word >> (8 * i));
}

static void put_words(qn_buf *out, const uint32_t *words, size_t count) {
  for (size_t i = 0; i < count; i++) {
    uint8_t bytes[4];
    store_word(bytes, words[i]);
    qn_buf_append(out, bytes, sizeof bytes);
  }
}

// Begins a section: pads to 8 bytes and notes the offset from `base` in the header.
static void begin_section(qn_buf *out, size_t base, uint32_t *header, qn_tok_word word) {
  while ((out->length - base) % 8 != 0 && !out->failed) qn_buf_putc(out, 0);
  header[word] = (uint32_t)(out->length - base);
}

static void fill_header(const writer *w, uint32_t *header) {
  const qn_tokenizer_desc *desc = w->desc;
  header[QN_TOK_W_MAGIC] = QN_TOK_MAGIC;
  header[QN_TOK_W_VERSION] = QN_TOK_VERSION;
  header[QN_TOK_W_KIND] = (uint32_t)desc->kind;
  header[QN_TOK_W_FLAGS] = (w->add_bos ? QN_TOK_ADD_BOS : 0u) | (desc->add_eos ? QN_TOK_ADD_EOS : 0u) |
                           (desc->add_space_prefix ? QN_TOK_ADD_SPACE_PREFIX : 0u) |
                           (desc->remove_extra_whitespaces ? QN_TOK_REMOVE_SPACES : 0u) |
                           (w->ignore_merges ? QN_TOK_IGNORE_MERGES : 0u);
  header[QN_TOK_W_N_TOKENS] = (uint32_t)desc->token_count;
  header[QN_TOK_W_N_SYMBOLS] = (uint32_t)w->symbols.count;
  header[QN_TOK_W_N_MERGES] = (uint32_t)(w->merges.count / 3);
  header[QN_TOK_W_N_SPECIALS] = w->n_specials;
  header[QN_TOK_W_PIECE_SLOTS] = w->piece_slots;
  header[QN_TOK_W_MERGE_SLOTS] = w->merge_slots;
  header[QN_TOK_W_PROBES] = w->probes;
  header[QN_TOK_W_BOS] = (uint32_t)desc->bos;
  header[QN_TOK_W_EOS] = (uint32_t)desc->eos;
  header[QN_TOK_W_UNK] = (uint32_t)desc->unk;
  header[QN_TOK_W_PAD] = (uint32_t)desc->pad;
}

static void put_sections(const writer *w, size_t base, uint32_t *header, qn_buf *out) {
  const qn_tokenizer_desc *desc = w->desc;
  begin_section(out, base, header, QN_TOK_W_STARTS);
  uint32_t start = 0;
  put_words(out, &start, 1);
  for (size_t i = 0; i < w->symbols.count; i++) {
    start += (uint32_t)w->symbols.items[i].length;
    put_words(out, &start, 1);
  }
  header[QN_TOK_W_PIECES_BYTES] = start;
  begin_section(out, base, header, QN_TOK_W_PIECES);
  for (size_t i = 0; i < w->symbols.count; i++) {
    qn_buf_append(out, w->symbols.items[i].data, w->symbols.items[i].length);
  }
  begin_section(out, base, header, QN_TOK_W_TYPES);
  qn_buf_append(out, w->types, desc->token_count);
  begin_section(out, base, header, QN_TOK_W_SCORES);
  for (size_t i = 0; desc->kind == QN_TOKENIZER_SPM && i < desc->token_count; i++) {
    uint32_t bits;
    memcpy(&bits, &desc->scores[i], sizeof bits);
    put_words(out, &bits, 1);
  }
  begin_section(out, base, header, QN_TOK_W_PIECE_TABLE);
  put_words(out, w->piece_table, w->piece_slots);
  begin_section(out, base, header, QN_TOK_W_MERGES);
  put_words(out, w->merges.items, w->merges.count);
  begin_section(out, base, header, QN_TOK_W_MERGE_TABLE);
  put_words(out, w->merge_table, w->merge_slots);
  begin_section(out, base, header, QN_TOK_W_BYTES);
  put_words(out, w->bytes, 256);
  begin_section(out, base, header, QN_TOK_W_SPECIALS);
  put_words(out, w->specials, w->n_specials);
}

static qn_status write_blob(const writer *w, qn_buf *out, qn_diag *diag) {
  uint64_t pieces = 0;
  for (size_t i = 0; i < w->symbols.count; i++) pieces += w->symbols.items[i].length;
  uint64_t words = w->symbols.count + w->desc->token_count * 3 + w->merges.count + w->piece_slots + w->merge_slots;
  if (pieces + words * 4 + 4096 > QN_TOK_MAX_BYTES) {
    return qn_fail(diag, QN_ERR_LIMIT, where, "takes %llu bytes, want at most %u",
                   (unsigned long long)(pieces + words * 4 + 4096), QN_TOK_MAX_BYTES);
  }
  uint32_t header[QN_TOK_WORDS] = {0};
  char pre[QN_TOK_PRE_BYTES] = {0};
  if (w->desc->kind == QN_TOKENIZER_BPE) memcpy(pre, w->desc->pre, strlen(w->desc->pre));  // in the table: short enough
  fill_header(w, header);
  size_t base = out->length;
  put_words(out, header, QN_TOK_WORDS);
  qn_buf_append(out, pre, sizeof pre);
  put_sections(w, base, header, out);
  header[QN_TOK_W_SIZE] = (uint32_t)(out->length - base);
  if (out->failed) return no_memory(diag);
  for (size_t i = 0; i < QN_TOK_WORDS; i++) store_word((uint8_t *)out->data + base + i * 4, header[i]);  // complete now
  return QN_OK;
}

static qn_status build(writer *w, qn_buf *out, qn_diag *diag) {
  QN_TRY(check_desc(w, diag));
  QN_TRY(add_pieces(w, diag));
  mark_eog(w);
  for (uint32_t i = 0; i < w->desc->token_count; i++) QN_TRY(add_token(w, i, diag));
  if (w->desc->kind == QN_TOKENIZER_BPE) QN_TRY(add_merges(w, diag));
  QN_TRY(add_piece_table(w, diag));
  QN_TRY(add_specials(w, diag));
  return write_blob(w, out, diag);
}

qn_status qn_tokenizer_serialize(const qn_tokenizer_desc *desc, const qn_allocator *allocator, qn_buf *out,
                                 qn_diag *diag) {
  writer w = {.desc = desc};
  qn_arena_init(&w.arena, allocator);
  qn_map_init(&w.plain, allocator);
  qn_status status = build(&w, out, diag);
  qn_vec_free(allocator, &w.symbols);
  qn_vec_free(allocator, &w.merges);
  qn_map_deinit(&w.plain);
  qn_arena_deinit(&w.arena);
  return status;
}
