// The layout of a tokenizer blob: the header, then section after section.
#include <string.h>

#include "runtime/tokenizer_data.h"

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

static void put_word(qn_buf *out, uint32_t word) { put_words(out, &word, 1); }

// Begins a section: pads to 8 bytes and notes the offset from `base` in the header.
static void begin_section(qn_buf *out, size_t base, uint32_t *header, qn_tok_word word) {
  while ((out->length - base) % 8 != 0 && !out->failed) qn_buf_putc(out, 0);
  header[word] = (uint32_t)(out->length - base);
}

// Are the words in the byte alphabet when the steps are done?
static bool ends_in_alphabet(const qn_tokenizer_desc *desc) {
  for (size_t i = 0; i < desc->step_count; i++) {
    if (desc->steps[i].op == QN_STEP_BYTE_LEVEL) return true;
  }
  return false;
}

static void fill_header(const qn_tok_writer *w, uint32_t *header) {
  const qn_tokenizer_desc *desc = w->desc;
  header[QN_TOK_W_MAGIC] = QN_TOK_MAGIC;
  header[QN_TOK_W_VERSION] = QN_TOK_VERSION;
  header[QN_TOK_W_KIND] = (uint32_t)desc->kind;
  header[QN_TOK_W_FLAGS] =
      (desc->decoder.drop_space ? QN_TOK_DROP_SPACE : 0u) | (desc->ignore_merges ? QN_TOK_IGNORE_MERGES : 0u) |
      (desc->fuse_unknown ? QN_TOK_FUSE_UNKNOWN : 0u) | (desc->single_precision ? QN_TOK_SINGLE : 0u) |
      (ends_in_alphabet(desc) ? QN_TOK_BYTE_ALPHABET : 0u);
  header[QN_TOK_W_N_TOKENS] = (uint32_t)desc->token_count;
  header[QN_TOK_W_N_SYMBOLS] = (uint32_t)w->symbols.count;
  header[QN_TOK_W_N_MERGES] = (uint32_t)(w->merges.count / 3);
  header[QN_TOK_W_N_SPECIALS] = w->n_specials;
  header[QN_TOK_W_N_BEFORE] = (uint32_t)desc->before_count;
  header[QN_TOK_W_N_AFTER] = (uint32_t)desc->after_count;
  header[QN_TOK_W_N_STEPS] = (uint32_t)desc->step_count;
  header[QN_TOK_W_N_NORMALIZERS] = (uint32_t)desc->normalizer_count;
  header[QN_TOK_W_FIRST_PREFIX] = (uint32_t)desc->first_prefix.length;
  header[QN_TOK_W_NEXT_PREFIX] = (uint32_t)desc->next_prefix.length;
  header[QN_TOK_W_MAX_WORD] = desc->max_word;
  header[QN_TOK_W_PIECE_SLOTS] = w->piece_slots;
  header[QN_TOK_W_MERGE_SLOTS] = w->merge_slots;
  header[QN_TOK_W_PROBES] = w->probes;
  header[QN_TOK_W_BOS] = (uint32_t)desc->bos;
  header[QN_TOK_W_EOS] = (uint32_t)desc->eos;
  header[QN_TOK_W_UNK] = (uint32_t)desc->unk;
  header[QN_TOK_W_PAD] = (uint32_t)desc->pad;
}

static void put_pieces(const qn_tok_writer *w, size_t base, uint32_t *header, qn_buf *out) {
  begin_section(out, base, header, QN_TOK_W_STARTS);
  uint32_t start = 0;
  put_word(out, start);
  for (size_t i = 0; i < w->symbols.count; i++) {
    start += (uint32_t)w->symbols.items[i].length;
    put_word(out, start);
  }
  header[QN_TOK_W_PIECES_BYTES] = start;
  begin_section(out, base, header, QN_TOK_W_PIECES);
  for (size_t i = 0; i < w->symbols.count; i++) {
    qn_buf_append(out, w->symbols.items[i].data, w->symbols.items[i].length);
  }
}

static void put_texts(const qn_tok_writer *w, size_t base, uint32_t *header, qn_buf *out) {
  if (w->spelled_alike) {
    header[QN_TOK_W_TEXT_STARTS] = header[QN_TOK_W_STARTS];
    header[QN_TOK_W_TEXTS] = header[QN_TOK_W_PIECES];
    header[QN_TOK_W_TEXTS_BYTES] = header[QN_TOK_W_PIECES_BYTES];
    return;
  }
  begin_section(out, base, header, QN_TOK_W_TEXT_STARTS);
  put_word(out, 0);
  for (size_t i = 0; i < w->text_ends.count; i++) put_word(out, (uint32_t)w->text_ends.items[i]);
  header[QN_TOK_W_TEXTS_BYTES] = (uint32_t)w->texts.length;
  begin_section(out, base, header, QN_TOK_W_TEXTS);
  qn_buf_append(out, w->texts.data, w->texts.length);
}

static void put_tables(const qn_tok_writer *w, size_t base, uint32_t *header, qn_buf *out) {
  const qn_tokenizer_desc *desc = w->desc;
  begin_section(out, base, header, QN_TOK_W_TYPES);
  qn_buf_append(out, w->types, desc->token_count);
  begin_section(out, base, header, QN_TOK_W_SCORES);
  for (size_t i = 0; qn_tok_kind_is_scored(desc->kind) && i < desc->token_count; i++) {
    double score = qn_tok_desc_score(desc, i);
    uint64_t bits;
    memcpy(&bits, &score, sizeof bits);
    put_word(out, (uint32_t)bits);
    put_word(out, (uint32_t)(bits >> 32));
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
  begin_section(out, base, header, QN_TOK_W_ENDS);
  for (size_t i = 0; i < desc->before_count; i++) put_word(out, (uint32_t)desc->before[i]);
  for (size_t i = 0; i < desc->after_count; i++) put_word(out, (uint32_t)desc->after[i]);
}

static void put_steps(const qn_tok_writer *w, size_t base, uint32_t *header, qn_buf *out) {
  const qn_tokenizer_desc *desc = w->desc;
  uint32_t at = (uint32_t)(desc->first_prefix.length + desc->next_prefix.length);
  begin_section(out, base, header, QN_TOK_W_STEPS);
  for (size_t i = 0; i < desc->step_count; i++) {
    const qn_token_step *step = &desc->steps[i];
    put_word(out, step->op | (uint32_t)step->behavior << 8 | (uint32_t)step->flags << 16);
    const qn_str texts[] = {step->pattern, step->content};
    for (size_t j = 0; j < QN_COUNT(texts); j++) {
      put_word(out, at);
      put_word(out, (uint32_t)texts[j].length);
      at += (uint32_t)texts[j].length;
    }
  }
  begin_section(out, base, header, QN_TOK_W_STRINGS);
  qn_buf_append(out, desc->first_prefix.data, desc->first_prefix.length);
  qn_buf_append(out, desc->next_prefix.data, desc->next_prefix.length);
  for (size_t i = 0; i < desc->step_count; i++) {
    qn_buf_append(out, desc->steps[i].pattern.data, desc->steps[i].pattern.length);
    qn_buf_append(out, desc->steps[i].content.data, desc->steps[i].content.length);
  }
  header[QN_TOK_W_STRINGS_BYTES] = at;
  begin_section(out, base, header, QN_TOK_W_CHARSMAP);
  qn_buf_append(out, desc->charsmap.data, desc->charsmap.length);
  header[QN_TOK_W_CHARSMAP_BYTES] = (uint32_t)desc->charsmap.length;
  begin_section(out, base, header, QN_TOK_W_UNICODE);
  qn_buf_append(out, desc->unicode.data, desc->unicode.length);
  header[QN_TOK_W_UNICODE_BYTES] = (uint32_t)desc->unicode.length;
}

static uint64_t blob_bytes(const qn_tok_writer *w) {
  const qn_tokenizer_desc *desc = w->desc;
  uint64_t bytes = w->texts.length + desc->charsmap.length + desc->unicode.length + desc->first_prefix.length +
                   desc->next_prefix.length;
  for (size_t i = 0; i < w->symbols.count; i++) bytes += w->symbols.items[i].length;
  for (size_t i = 0; i < desc->step_count; i++) bytes += desc->steps[i].pattern.length + desc->steps[i].content.length;
  uint64_t words = w->symbols.count + desc->token_count * 5 + w->merges.count + w->piece_slots + w->merge_slots;
  return bytes + words * 4 + 8192;
}

qn_status qn_tok_write(const qn_tok_writer *w, qn_buf *out, qn_diag *diag) {
  uint64_t bytes = blob_bytes(w);
  if (bytes > QN_TOK_MAX_BYTES) {
    return qn_fail(diag, QN_ERR_LIMIT, "vocabulary", "takes %llu bytes, want at most %u", (unsigned long long)bytes,
                   QN_TOK_MAX_BYTES);
  }
  uint32_t header[QN_TOK_WORDS] = {0};
  fill_header(w, header);
  size_t base = out->length;
  put_words(out, header, QN_TOK_WORDS);
  put_pieces(w, base, header, out);
  put_texts(w, base, header, out);
  put_tables(w, base, header, out);
  put_steps(w, base, header, out);
  header[QN_TOK_W_SIZE] = (uint32_t)(out->length - base);
  if (out->failed) return qn_tok_no_memory(diag);
  for (size_t i = 0; i < QN_TOK_WORDS; i++) store_word((uint8_t *)out->data + base + i * 4, header[i]);  // complete now
  return QN_OK;
}
