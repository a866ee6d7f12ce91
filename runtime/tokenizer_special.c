// Finding special tokens in a text: the longest ones first wherever they stand, of equally long ones the leftmost, each
// cutting the text into stretches that the shorter ones are then looked for in.
#include <string.h>

#include "runtime/tokenizer_impl.h"

static bool has_bit(const uint64_t set[4], uint8_t byte) { return set[byte >> 6] >> (byte & 63) & 1; }

// As isspace in the "C" locale.
static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// The special token of length `group->length` at `bytes`, or QN_TOK_FREE.
static uint32_t match_at(const qn_tokenizer *tokenizer, const qn_special_class *group, const uint64_t first[4],
                         const char *bytes, bool parse_special) {
  if (!has_bit(first, (uint8_t)bytes[0])) return QN_TOK_FREE;
  uint32_t id = qn_tok_lookup(tokenizer, bytes, group->length, QN_TOK_WANT_SPECIAL);
  if (id != QN_TOK_FREE && !parse_special && qn_tok_type_is_hidden(qn_tok_type(tokenizer, id))) return QN_TOK_FREE;
  return id;
}

// Cuts one plain stretch at the tokens of a group; false when out of memory.
static bool cut(const qn_tokenizer *tokenizer, const qn_special_class *group, const uint64_t first[4], qn_str text,
                qn_fragment plain, bool parse_special, const qn_allocator *allocator, qn_fragment_vec *out) {
  uint32_t begin = plain.start, at = plain.start;
  while (plain.end - at >= group->length) {
    uint32_t id = match_at(tokenizer, group, first, text.data + at, parse_special);
    if (id == QN_TOK_FREE) {
      at++;
      continue;
    }
    uint32_t end = at + group->length;
    if (at > begin && !qn_vec_push(allocator, out, ((qn_fragment){begin, at, QN_TOK_FREE}))) return false;
    if (!qn_vec_push(allocator, out, ((qn_fragment){at, end, id}))) return false;
    if (tokenizer->types[id] & QN_TOK_TAKES_SPACE) {
      while (end < plain.end && is_space(text.data[end])) end++;
    }
    begin = at = end;
  }
  return begin == plain.end || qn_vec_push(allocator, out, ((qn_fragment){begin, plain.end, QN_TOK_FREE}));
}

qn_status qn_tok_partition(const qn_tokenizer *tokenizer, qn_str text, bool parse_special,
                           const qn_allocator *allocator, qn_fragment_vec *fragments, qn_diag *diag) {
  fragments->count = 0;
  if (text.length == 0) return QN_OK;
  uint64_t present[4] = {0};
  for (size_t i = 0; i < text.length; i++) {
    uint8_t byte = (uint8_t)text.data[i];
    present[byte >> 6] |= (uint64_t)1 << (byte & 63);
  }
  qn_fragment_vec cuts = {0};
  if (!qn_vec_push(allocator, fragments, ((qn_fragment){0, (uint32_t)text.length, QN_TOK_FREE}))) goto no_memory;
  for (size_t c = 0; c < tokenizer->n_classes; c++) {
    const qn_special_class *group = &tokenizer->classes[c];
    const uint64_t *first = parse_special ? group->first : group->first_user;
    uint64_t common = 0;
    for (int i = 0; i < 4; i++) common |= first[i] & present[i];
    if (common == 0) continue;
    cuts.count = 0;
    for (size_t i = 0; i < fragments->count; i++) {
      qn_fragment fragment = fragments->items[i];
      bool plain = fragment.id == QN_TOK_FREE;
      if (plain && !cut(tokenizer, group, first, text, fragment, parse_special, allocator, &cuts)) goto no_memory;
      if (!plain && !qn_vec_push(allocator, &cuts, fragment)) goto no_memory;
    }
    qn_fragment_vec swap = *fragments;
    *fragments = cuts;
    cuts = swap;
  }
  qn_vec_free(allocator, &cuts);
  return QN_OK;
no_memory:
  qn_vec_free(allocator, &cuts);
  return qn_fail_nomem(diag, "tokenizer", "the special tokens of a text");
}
