// SentencePiece's precompiled normalisation: a double array (Aoe 1989, in the packing of darts-clone) whose keys are
// strings and whose values are places of the strings that they become.
#include <string.h>

#include "runtime/tokenizer_impl.h"

qn_status qn_charsmap_open(qn_charsmap *map, qn_str data, const char *where, qn_diag *diag) {
  *map = (qn_charsmap){0};
  if (data.length == 0) return QN_OK;
  uint32_t trie_bytes = data.length < 4 ? UINT32_MAX : qn_tok_load((const uint8_t *)data.data, 0);
  if (data.length < 8 || trie_bytes % 4 != 0 || trie_bytes < 4 || trie_bytes > data.length - 4) {
    return qn_fail(diag, QN_ERR_FORMAT, where,
                   "the precompiled charsmap has %zu bytes and says that %u of them are its double array", data.length,
                   trie_bytes);
  }
  map->units = (const uint8_t *)data.data + 4;
  map->n_units = trie_bytes / 4;
  map->strings = (qn_str){data.data + 4 + trie_bytes, data.length - 4 - trie_bytes};
  return QN_OK;
}

static uint32_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }
static bool has_leaf(uint32_t unit) { return unit >> 8 & 1; }
static uint32_t label_of(uint32_t unit) { return unit & (1u << 31 | 0xFF); }

// The string at a place, if it is one and UTF-8.
static bool string_at(const qn_charsmap *map, uint32_t place, qn_str *out) {
  if (place >= map->strings.length) return false;
  const char *begin = map->strings.data + place;
  const char *end = memchr(begin, 0, map->strings.length - place);
  if (end == NULL) return false;
  *out = (qn_str){begin, (size_t)(end - begin)};
  return qn_utf8_is_valid(*out);
}

size_t qn_charsmap_find(const qn_charsmap *map, qn_str text, bool shortest, qn_str *out) {
  size_t found = 0;
  if (map->n_units == 0) return 0;
  uint32_t at = offset_of(qn_tok_load(map->units, 0));
  for (size_t i = 0; i < text.length && text.data[i] != 0; i++) {
    uint8_t byte = (uint8_t)text.data[i];
    at ^= byte;
    if (at >= map->n_units) break;
    uint32_t unit = qn_tok_load(map->units, at);
    if (label_of(unit) != byte) break;
    at ^= offset_of(unit);
    if (!has_leaf(unit)) continue;
    qn_str string;
    if (at >= map->n_units) break;
    if (!string_at(map, qn_tok_load(map->units, at) & 0x7FFFFFFFu, &string)) continue;
    *out = string;
    found = i + 1;
    if (shortest) break;
  }
  return found;
}
