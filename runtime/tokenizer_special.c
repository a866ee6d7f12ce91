// Finding special tokens in a text, as the tokenizers library does: from left to right, of those that begin at one
// place the longest. There are two sets: tokens that are looked for in the text as it is, and in the normalised one.
#include <stdlib.h>
#include <string.h>

#include "runtime/base/hash.h"
#include "runtime/tokenizer_impl.h"

static bool has_bit(const uint64_t set[4], uint8_t byte) { return set[byte >> 6] >> (byte & 63) & 1; }
static void set_bit(uint64_t set[4], uint8_t byte) { set[byte >> 6] |= (uint64_t)1 << (byte & 63); }

// ---- the sets ----------------------------------------------------------------------------------------------------

static int compare_specials(const void *a, const void *b) {
  const qn_special *x = a, *y = b;
  if (x->text.length != y->text.length) return x->text.length > y->text.length ? -1 : 1;
  return x->id < y->id ? -1 : x->id > y->id;
}

static qn_status fill_slots(const qn_tokenizer *t, qn_special_set *set, qn_diag *diag) {
  for (uint32_t i = 0; i < set->n_slots; i++) set->slots[i] = QN_TOK_FREE;
  for (uint32_t i = 0; i < set->count; i++) {
    qn_str text = set->items[i].text;
    uint32_t mask = set->n_slots - 1, slot = (uint32_t)qn_hash64(text.data, text.length, 0) & mask, probes = 1;
    bool there = false;
    for (; set->slots[slot] != QN_TOK_FREE && !there; slot = (slot + 1) & mask, probes++) {
      there = qn_str_equal(set->items[set->slots[slot]].text, text);
    }
    if (there) continue;  // of equal ones the first
    if (probes > QN_TOK_MAX_PROBES) {
      return qn_fail(diag, QN_ERR_FORMAT, "tokenizer section",
                     "special tokens collide more than %u times: made to do so?", QN_TOK_MAX_PROBES);
    }
    set->slots[slot] = i;
  }
  for (uint32_t i = 0; i < set->count; i++) {
    const qn_special *special = &set->items[i];
    if (i == 0 || special->text.length != set->items[i - 1].text.length) {
      set->classes[set->n_classes++].length = (uint32_t)special->text.length;
    }
    qn_special_class *class = &set->classes[set->n_classes - 1];
    set_bit(class->first, (uint8_t)special->text.data[0]);
    if (!qn_tok_type_is_hidden(qn_tok_type(t, special->id))) set_bit(class->first_user, (uint8_t)special->text.data[0]);
  }
  return QN_OK;
}

static qn_status make_set(const qn_tokenizer *t, qn_special_set *set, qn_diag *diag) {
  if (set->count == 0) return QN_OK;
  qsort(set->items, set->count, sizeof *set->items, compare_specials);
  for (set->n_slots = 8; set->n_slots < set->count * 2;) set->n_slots *= 2;
  set->slots = qn_alloc(t->allocator, set->n_slots * sizeof *set->slots);
  set->classes = qn_alloc_zeroed(t->allocator, set->count * sizeof *set->classes);
  if (set->slots == NULL || set->classes == NULL) return qn_fail_nomem(diag, "tokenizer section", "special tokens");
  return fill_slots(t, set, diag);
}

// The text of a token after the normalising steps, at the end of set->texts: *out_begin, and the rest.
static qn_status normalize_text(const qn_tokenizer *t, uint32_t id, qn_stepper *s, qn_special_set *set,
                                size_t *out_begin, qn_diag *diag) {
  *out_begin = set->texts.length;
  QN_TRY(qn_stepper_load(s, qn_tok_symbol(t, id), 0, diag));
  QN_TRY(qn_steps_run(&t->steps, 0, t->steps.normalizer_count, s, diag));
  qn_buf_append(&set->texts, s->text.data, s->text.length);
  return set->texts.failed ? qn_fail_nomem(diag, "tokenizer section", "special tokens") : QN_OK;
}

static qn_status add_specials(qn_tokenizer *t, qn_stepper *s, qn_diag *diag) {
  uint32_t previous = QN_TOK_FREE;
  for (uint32_t i = 0; i < t->n_specials; i++) {
    uint32_t id = qn_tok_load(t->specials, i);
    qn_str piece = qn_tok_symbol(t, id);
    if (piece.length == 0 || piece.length > previous || !qn_tok_type_is_special(qn_tok_type(t, id))) {
      return qn_fail(diag, QN_ERR_FORMAT, "tokenizer section",
                     "special token %u (id %u) is empty, plain or out of order", i, id);
    }
    previous = (uint32_t)piece.length;
    if (!(t->types[id] & QN_TOKEN_NORMALIZED)) {
      t->raw.items[t->raw.count++] = (qn_special){piece, id};
      continue;
    }
    // The buffer moves as it grows: the place first, the address when all are there.
    size_t begin;
    QN_TRY(normalize_text(t, id, s, &t->normalized, &begin, diag));
    if (t->normalized.texts.length == begin) continue;  // nothing is left to be found
    t->normalized.items[t->normalized.count++] =
        (qn_special){{(const char *)(uintptr_t)begin, t->normalized.texts.length - begin}, id};
  }
  for (uint32_t i = 0; i < t->normalized.count; i++) {
    qn_str *text = &t->normalized.items[i].text;
    text->data = t->normalized.texts.data + (uintptr_t)text->data;
  }
  return QN_OK;
}

qn_status qn_specials_open(qn_tokenizer *t, qn_diag *diag) {
  qn_buf_init(&t->normalized.texts, t->allocator);
  if (t->n_specials == 0) return QN_OK;
  t->raw.items = qn_alloc_zeroed(t->allocator, t->n_specials * sizeof *t->raw.items);
  t->normalized.items = qn_alloc_zeroed(t->allocator, t->n_specials * sizeof *t->normalized.items);
  if (t->raw.items == NULL || t->normalized.items == NULL) {
    return qn_fail_nomem(diag, "tokenizer section", "special tokens");
  }
  qn_stepper s;
  qn_status status = qn_stepper_init(&s, t->allocator, diag);
  if (status == QN_OK) status = add_specials(t, &s, diag);
  qn_stepper_deinit(&s);
  if (status == QN_OK) status = make_set(t, &t->raw, diag);
  return status == QN_OK ? make_set(t, &t->normalized, diag) : status;
}

static void close_set(const qn_tokenizer *t, qn_special_set *set) {
  if (set->items != NULL) qn_free(t->allocator, set->items, t->n_specials * sizeof *set->items);
  if (set->slots != NULL) qn_free(t->allocator, set->slots, set->n_slots * sizeof *set->slots);
  if (set->classes != NULL) qn_free(t->allocator, set->classes, set->count * sizeof *set->classes);
  if (set->texts.allocator != NULL) qn_buf_deinit(&set->texts);
}

void qn_specials_close(qn_tokenizer *t) {
  close_set(t, &t->raw);
  close_set(t, &t->normalized);
}

// ---- finding -----------------------------------------------------------------------------------------------------

static uint32_t lookup(const qn_special_set *set, const char *bytes, uint32_t length) {
  uint32_t mask = set->n_slots - 1, slot = (uint32_t)qn_hash64(bytes, length, 0) & mask;
  for (; set->slots[slot] != QN_TOK_FREE; slot = (slot + 1) & mask) {
    const qn_special *special = &set->items[set->slots[slot]];
    if (special->text.length == length && memcmp(special->text.data, bytes, length) == 0) return special->id;
  }
  return QN_TOK_FREE;
}

// The longest token at the front of `text`, or QN_TOK_FREE; *out_length: its bytes.
static uint32_t match_at(const qn_tokenizer *t, const qn_special_set *set, qn_str text, bool parse_special,
                         uint32_t *out_length) {
  for (uint32_t i = 0; i < set->n_classes; i++) {
    const qn_special_class *class = &set->classes[i];
    const uint64_t *first = parse_special ? class->first : class->first_user;
    if (class->length > text.length || !has_bit(first, (uint8_t)text.data[0])) continue;
    uint32_t id = lookup(set, text.data, class->length);
    if (id == QN_TOK_FREE || (!parse_special && qn_tok_type_is_hidden(qn_tok_type(t, id)))) continue;
    *out_length = class->length;
    return id;
  }
  return QN_TOK_FREE;
}

// Where the character that ends at `end` begins; bytes that are not UTF-8 are characters of their own.
static size_t character_before(qn_str text, size_t end) {
  for (size_t length = 4; length > 1; length--) {
    if (end >= length && qn_utf8_sequence(text.data + end - length, length, NULL) == length) return end - length;
  }
  return end - 1;
}

static bool is_space_at(qn_str text, size_t at, size_t *out_length) {
  size_t length = qn_utf8_sequence(text.data + at, text.length - at, NULL);
  *out_length = length;
  return length > 0 && qn_is_white_space(qn_utf8_code_point(text.data + at, length));
}

static size_t skip_spaces(qn_str text, size_t at) {
  size_t length;
  while (at < text.length && is_space_at(text, at, &length)) at += length;
  return at;
}

// Goes back over white space, not beyond `least`.
static size_t skip_spaces_back(qn_str text, size_t at, size_t least) {
  size_t length;
  while (at > least) {
    size_t begin = character_before(text, at);
    if (begin < least || !is_space_at(text, begin, &length)) break;
    at = begin;
  }
  return at;
}

static qn_status is_word_at(const qn_tokenizer *t, qn_stepper *s, qn_str text, size_t begin, size_t end, bool *out,
                            qn_diag *diag) {
  qn_str character = {text.data + begin, end - begin};
  size_t at, after;
  *out = false;
  if (!qn_utf8_is_valid(character)) return QN_OK;
  QN_TRY(qn_pattern_find(t->steps.patterns, t->steps.word_char, &s->matcher, character, 0, begin, &at, &after, diag));
  *out = at == 0;
  return QN_OK;
}

// Is no character of a word next to [begin, end)?
static qn_status stands_alone(const qn_tokenizer *t, qn_stepper *s, qn_str text, size_t begin, size_t end, bool *out,
                              qn_diag *diag) {
  bool word = false;
  if (begin > 0) QN_TRY(is_word_at(t, s, text, character_before(text, begin), begin, &word, diag));
  if (!word && end < text.length) {
    size_t length = qn_utf8_sequence(text.data + end, text.length - end, NULL);
    QN_TRY(is_word_at(t, s, text, end, end + (length == 0 ? 1 : length), &word, diag));
  }
  *out = !word;
  return QN_OK;
}

static bool push(qn_fragment_vec *fragments, const qn_allocator *allocator, size_t begin, size_t end, uint32_t id) {
  return begin >= end || qn_vec_push(allocator, fragments, ((qn_fragment){(uint32_t)begin, (uint32_t)end, id}));
}

qn_status qn_specials_find(const qn_tokenizer *t, const qn_special_set *set, qn_str text, bool parse_special,
                           qn_stepper *s, qn_fragment_vec *fragments, qn_diag *diag) {
  size_t plain = 0, at = 0;  // where the stretch of plain text begins
  bool ok = true;
  fragments->count = 0;
  while (set->count > 0 && at < text.length && ok) {
    uint32_t length = 0;
    uint32_t id = match_at(t, set, (qn_str){text.data + at, text.length - at}, parse_special, &length);
    if (id == QN_TOK_FREE) {
      at++;
      continue;
    }
    size_t begin = at, end = at + length;
    unsigned flags = t->types[id];
    at = end;
    if (flags & QN_TOKEN_SINGLE_WORD) {
      bool alone;
      QN_TRY(stands_alone(t, s, text, begin, end, &alone, diag));
      if (!alone) continue;  // and nothing shorter is looked for in it
    }
    if (flags & QN_TOKEN_TAKES_BEFORE) begin = skip_spaces_back(text, begin, plain);
    if (flags & QN_TOKEN_TAKES_SPACE) end = skip_spaces(text, end);
    ok = push(fragments, s->allocator, plain, begin, QN_TOK_FREE) && push(fragments, s->allocator, begin, end, id);
    plain = at = end;
  }
  ok = ok && push(fragments, s->allocator, plain, text.length, QN_TOK_FREE);
  return ok ? QN_OK : qn_fail_nomem(diag, "tokenizer", "the special tokens of a text");
}
