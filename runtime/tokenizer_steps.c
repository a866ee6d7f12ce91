// The steps from a text to words: a list that came with the vocabulary. A step goes over the words there are: it cuts
// them, or writes them anew into another buffer.
#include <string.h>

#include "runtime/tokenizer_impl.h"

// ---- opening -----------------------------------------------------------------------------------------------------

// What an op may have beside its name.
typedef struct op_line {
  const char *name;
  bool has_pattern, has_content, needs_unicode, needs_charsmap;
  unsigned flags;  // that it knows, beside those of place
} op_line;

static const op_line ops[QN_STEP_OP_COUNT] = {
    // op                   name          pattern content unicode charsmap flags
    [QN_STEP_SPLIT] = {"split", true, false, false, false, QN_STEP_LITERAL | QN_STEP_INVERT},
    [QN_STEP_REPLACE] = {"replace", true, true, false, false, QN_STEP_LITERAL},
    [QN_STEP_SURROUND] = {"surround", true, true, false, false, QN_STEP_LITERAL},
    [QN_STEP_PREPEND] = {"prepend", false, true, false, false, QN_STEP_UNLESS_THERE},
    [QN_STEP_LOWERCASE] = {"lower case", false, false, true, false, 0},
    [QN_STEP_NFC] = {"NFC", false, false, true, false, 0},
    [QN_STEP_NFD] = {"NFD", false, false, true, false, 0},
    [QN_STEP_NFKC] = {"NFKC", false, false, true, false, 0},
    [QN_STEP_NFKD] = {"NFKD", false, false, true, false, 0},
    [QN_STEP_CHARSMAP] = {"charsmap", false, false, false, true, QN_STEP_GRAPHEMES},
    [QN_STEP_BYTE_LEVEL] = {"byte level", false, false, false, false, 0},
};

static qn_status check_step(const qn_token_step *d, size_t index, bool unicode, bool charsmap, const char *where,
                            qn_diag *diag) {
  const op_line *line = d->op < QN_STEP_OP_COUNT ? &ops[d->op] : NULL;
  if (line == NULL || line->name == NULL) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "step %zu has op %u, want 1 to %d", index, d->op, QN_STEP_OP_COUNT - 1);
  }
  unsigned known = line->flags | QN_STEP_AT_START | QN_STEP_AT_END;
  bool behaves = d->op == QN_STEP_SPLIT ? d->behavior < QN_SPLIT_BEHAVIOR_COUNT : d->behavior == 0;
  if ((d->flags & ~known) != 0 || !behaves) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "step %zu (%s) has flags 0x%x and behaviour %u", index, line->name,
                   d->flags, d->behavior);
  }
  if (!qn_utf8_is_valid(d->pattern) || !qn_utf8_is_valid(d->content)) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "step %zu (%s) has a text that is not UTF-8", index, line->name);
  }
  if ((!line->has_pattern && d->pattern.length > 0) || (!line->has_content && d->content.length > 0)) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "step %zu (%s) has a text that it does not take", index, line->name);
  }
  if ((line->has_pattern && d->pattern.length == 0) || (line->needs_unicode && !unicode) ||
      (line->needs_charsmap && !charsmap)) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "step %zu (%s) lacks what it works with", index, line->name);
  }
  return QN_OK;
}

static qn_status add_pattern(qn_steps *steps, qn_str pattern, bool literal, uint32_t *next, uint32_t *out,
                             qn_diag *diag) {
  QN_TRY(qn_patterns_add(steps->patterns, pattern, literal, diag));
  *out = (*next)++;
  return QN_OK;
}

static qn_status open_steps(qn_steps *steps, const qn_token_step *descs, qn_str charsmap, qn_str unicode,
                            bool words_needed, const char *where, qn_diag *diag) {
  QN_TRY(qn_unicode_open(&steps->unicode, unicode, where, diag));
  QN_TRY(qn_charsmap_open(&steps->charsmap, charsmap, where, diag));
  QN_TRY(qn_patterns_create(steps->count + 2, 0, steps->allocator, &steps->patterns, diag));
  uint32_t next = 0;
  bool graphemes = false;
  for (uint32_t i = 0; i < steps->count; i++) {
    const qn_token_step *d = &descs[i];
    QN_TRY(check_step(d, i, unicode.length > 0, charsmap.length > 0, where, diag));
    qn_step *step = &steps->items[i];
    *step = (qn_step){(qn_token_step_op)d->op, (qn_split_behavior)d->behavior, d->flags, QN_TOK_FREE, d->content};
    bool literal = (d->flags & QN_STEP_LITERAL) != 0;
    if (ops[d->op].has_pattern) QN_TRY(add_pattern(steps, d->pattern, literal, &next, &step->pattern, diag));
    graphemes = graphemes || (d->flags & QN_STEP_GRAPHEMES) != 0;
  }
  if (graphemes) QN_TRY(add_pattern(steps, QN_STR("\\X"), false, &next, &steps->graphemes, diag));
  // Of a word: what Unicode's annex on regular expressions (UTS 18, annex C) calls \w.
  const qn_str word = QN_STR("\\A[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]");
  if (words_needed) QN_TRY(add_pattern(steps, word, false, &next, &steps->word_char, diag));
  return QN_OK;
}

qn_status qn_steps_open(qn_steps *steps, const qn_token_step *descs, size_t count, size_t normalizer_count,
                        qn_str charsmap, qn_str unicode, bool words_needed, const qn_allocator *allocator,
                        const char *where, qn_diag *diag) {
  *steps = (qn_steps){.allocator = allocator, .graphemes = QN_TOK_FREE, .word_char = QN_TOK_FREE};
  if (count > QN_TOK_MAX_STEPS || normalizer_count > count) {
    return qn_fail(diag, QN_ERR_FORMAT, where, "has %zu steps, %zu of which normalise; want at most %u", count,
                   normalizer_count, QN_TOK_MAX_STEPS);
  }
  steps->items = qn_alloc_zeroed(allocator, (count + 1) * sizeof *steps->items);
  if (steps->items == NULL) return qn_fail_nomem(diag, where, "steps");
  steps->count = (uint32_t)count;
  steps->normalizer_count = (uint32_t)normalizer_count;
  return open_steps(steps, descs, charsmap, unicode, words_needed, where, diag);
}

void qn_steps_close(qn_steps *steps) {
  qn_patterns_destroy(steps->patterns);
  if (steps->items != NULL) qn_free(steps->allocator, steps->items, (steps->count + 1) * sizeof *steps->items);
  *steps = (qn_steps){0};
}

// ---- the text ----------------------------------------------------------------------------------------------------

static qn_status fail_words(qn_diag *diag) { return qn_fail_nomem(diag, "tokenizer", "the words of a text"); }

qn_status qn_stepper_init(qn_stepper *s, const qn_allocator *allocator, qn_diag *diag) {
  *s = (qn_stepper){.allocator = allocator};
  qn_buf_init(&s->text, allocator);
  qn_buf_init(&s->spare, allocator);
  return qn_matcher_init(&s->matcher, allocator, diag);
}

void qn_stepper_deinit(qn_stepper *s) {
  qn_buf_deinit(&s->text);
  qn_buf_deinit(&s->spare);
  qn_vec_free(s->allocator, &s->words);
  qn_vec_free(s->allocator, &s->cuts);
  qn_vec_free(s->allocator, &s->points);
  qn_vec_free(s->allocator, &s->sorted);
  qn_matcher_deinit(&s->matcher);
}

static bool push_run(qn_stepper *s, size_t begin, size_t end, bool opaque) {
  if (begin == end) return true;
  return qn_vec_push(s->allocator, &s->words,
                     ((qn_word){(uint32_t)begin, (uint32_t)end, opaque, opaque, begin > 0 && !opaque}));
}

qn_status qn_stepper_load(qn_stepper *s, qn_str text, unsigned place, qn_diag *diag) {
  s->place = place;
  s->words.count = 0;
  s->text.length = 0;
  qn_buf_append(&s->text, text.data, text.length);
  if (s->text.failed) return qn_fail_nomem(diag, "tokenizer", "a text");
  size_t begin = 0;
  bool opaque = false;
  for (size_t at = 0; at < text.length;) {
    size_t length = qn_utf8_sequence(text.data + at, text.length - at, NULL);
    if (opaque != (length == 0)) {
      if (!push_run(s, begin, at, opaque)) return fail_words(diag);
      begin = at;
    }
    opaque = length == 0;
    at += length == 0 ? 1 : length;
  }
  return push_run(s, begin, text.length, opaque) ? QN_OK : fail_words(diag);
}

// Is the step for this word? Some are for the words at the ends of the text alone.
static bool is_for(const qn_step *step, const qn_stepper *s, const qn_word *word) {
  bool starts = (s->place & QN_STEP_AT_START) != 0 && word->begin == 0;
  bool ends = (s->place & QN_STEP_AT_END) != 0 && word->end == s->text.length;
  return (!(step->flags & QN_STEP_AT_START) || starts) && (!(step->flags & QN_STEP_AT_END) || ends);
}

// ---- cutting -----------------------------------------------------------------------------------------------------

// Adds a piece of a word, or lengthens the one before. *previous: was that a match? -1: there is none yet.
static bool add_piece(const qn_step *step, qn_stepper *s, const qn_word *word, size_t begin, size_t end, bool match,
                      int *previous) {
  if (begin == end) return true;
  match = match != ((step->flags & QN_STEP_INVERT) != 0);
  bool joins = false;
  if (*previous >= 0) {
    joins = (step->behavior == QN_SPLIT_WITH_PREVIOUS && match && !*previous) ||
            (step->behavior == QN_SPLIT_WITH_NEXT && !match && *previous) ||
            (step->behavior == QN_SPLIT_CONTIGUOUS && match == (*previous != 0));
  }
  if (step->behavior == QN_SPLIT_REMOVED && match) return true;
  if (joins) {
    s->cuts.items[s->cuts.count - 1].end = (uint32_t)(word->begin + end);
  } else {
    qn_word piece = {(uint32_t)(word->begin + begin), (uint32_t)(word->begin + end), false, false,
                     begin == 0 && word->glued};
    if (!qn_vec_push(s->allocator, &s->cuts, piece)) return false;
  }
  *previous = match;
  return true;
}

static size_t next_character(qn_str text, size_t at) {
  size_t length = qn_utf8_sequence(text.data + at, text.length - at, NULL);
  return at + (length == 0 ? 1 : length);
}

// The pattern sees nothing of the text outside the word.
static qn_status split_word(const qn_steps *steps, const qn_step *step, qn_stepper *s, const qn_word *word,
                            qn_diag *diag) {
  qn_str text = {s->text.data + word->begin, word->end - word->begin};
  int previous = -1;
  size_t piece = 0;  // where the piece begins that ends at the next match
  for (size_t at = 0; at <= text.length;) {
    size_t begin, end;
    QN_TRY(qn_pattern_find(steps->patterns, step->pattern, &s->matcher, text, at, word->begin, &begin, &end, diag));
    if (begin > text.length) break;
    if (begin == end && begin == piece) {  // an empty match cuts only where there is something before it
      if (begin >= text.length) break;
      at = next_character(text, begin);
      continue;
    }
    if (!add_piece(step, s, word, piece, begin, false, &previous)) return fail_words(diag);
    if (!add_piece(step, s, word, begin, end, true, &previous)) return fail_words(diag);
    if (begin == end) previous = -1;  // what follows an empty match is a piece of its own
    piece = at = end;
  }
  return add_piece(step, s, word, piece, text.length, false, &previous) ? QN_OK : fail_words(diag);
}

static qn_status split(const qn_steps *steps, const qn_step *step, qn_stepper *s, qn_diag *diag) {
  s->cuts.count = 0;
  for (size_t i = 0; i < s->words.count; i++) {
    qn_word word = s->words.items[i];
    if (!word.whole && is_for(step, s, &word)) {
      QN_TRY(split_word(steps, step, s, &word, diag));
    } else if (!qn_vec_push(s->allocator, &s->cuts, word)) {
      return fail_words(diag);
    }
  }
  qn_word_vec swap = s->words;
  s->words = s->cuts;
  s->cuts = swap;
  return QN_OK;
}

// ---- writing anew ------------------------------------------------------------------------------------------------

static qn_status check_length(const qn_buf *out, qn_diag *diag) {
  if (out->failed) return qn_fail_nomem(diag, "tokenizer", "a text");
  if (out->length <= QN_TOK_MAX_BYTES) return QN_OK;
  return qn_fail(diag, QN_ERR_LIMIT, "tokenizer", "the text grows beyond %u bytes while it is normalised",
                 QN_TOK_MAX_BYTES);
}

static qn_status replace(const qn_steps *steps, const qn_step *step, qn_stepper *s, qn_str text, size_t offset,
                         qn_diag *diag) {
  bool keeps = step->op == QN_STEP_SURROUND;
  size_t done = 0;
  bool matched = false;  // `done` is where a match ended: an empty one there is none of its own
  for (size_t at = 0; at <= text.length;) {
    size_t begin, end;
    QN_TRY(qn_pattern_find(steps->patterns, step->pattern, &s->matcher, text, at, offset, &begin, &end, diag));
    if (begin > text.length) break;
    if (begin == end && matched && begin == done) {
      if (end >= text.length) break;
      at = next_character(text, end);
      continue;
    }
    matched = true;
    qn_buf_append(&s->spare, text.data + done, begin - done);
    qn_buf_append(&s->spare, step->content.data, step->content.length);
    if (keeps) {
      qn_buf_append(&s->spare, text.data + begin, end - begin);
      qn_buf_append(&s->spare, step->content.data, step->content.length);
    }
    QN_TRY(check_length(&s->spare, diag));
    done = end;
    at = end;
    if (begin == end) {
      if (end >= text.length) break;
      at = next_character(text, end);
    }
  }
  qn_buf_append(&s->spare, text.data + done, text.length - done);
  return QN_OK;
}

static void prepend(const qn_step *step, qn_stepper *s, qn_str text, bool glued) {
  qn_str content = step->content;
  bool there = (step->flags & QN_STEP_UNLESS_THERE) && text.length >= content.length &&
               memcmp(text.data, content.data, content.length) == 0;
  if (text.length > 0 && !there && !glued) qn_buf_append(&s->spare, content.data, content.length);
  qn_buf_append(&s->spare, text.data, text.length);
}

// One character, or the longest key of the map.
static size_t map_front(const qn_charsmap *map, qn_str text, bool shortest, qn_buf *out) {
  qn_str string;
  size_t length = qn_charsmap_find(map, text, shortest, &string);
  if (length == 0) {
    length = next_character(text, 0);
    string = (qn_str){text.data, length};
  }
  qn_buf_append(out, string.data, string.length);
  return length;
}

// As the tokenizers library does: a grapheme cluster of fewer than six bytes whose front is a key becomes what that key
// becomes, all of it; the characters of others are looked up alone.
static void map_cluster(const qn_charsmap *map, qn_str cluster, qn_buf *out) {
  qn_str string;
  if (cluster.length < 6 && qn_charsmap_find(map, cluster, true, &string) > 0) {
    qn_buf_append(out, string.data, string.length);
    return;
  }
  for (size_t at = 0, end; at < cluster.length; at = end) {
    end = next_character(cluster, at);
    map_front(map, (qn_str){cluster.data + at, end - at}, true, out);
  }
}

static qn_status map_chars(const qn_steps *steps, const qn_step *step, qn_stepper *s, qn_str text, size_t offset,
                           qn_diag *diag) {
  bool clusters = (step->flags & QN_STEP_GRAPHEMES) != 0;
  for (size_t at = 0; at < text.length;) {
    if (!clusters) {
      at += map_front(&steps->charsmap, (qn_str){text.data + at, text.length - at}, false, &s->spare);
    } else {
      size_t begin, end;
      QN_TRY(qn_pattern_find(steps->patterns, steps->graphemes, &s->matcher, text, at, offset, &begin, &end, diag));
      if (begin != at || end <= begin) begin = at, end = next_character(text, at);
      map_cluster(&steps->charsmap, (qn_str){text.data + begin, end - begin}, &s->spare);
      at = end;
    }
    QN_TRY(check_length(&s->spare, diag));
  }
  return QN_OK;
}

static qn_status rewrite(const qn_steps *steps, const qn_step *step, qn_stepper *s, const qn_word *word,
                         qn_diag *diag) {
  qn_str text = {s->text.data + word->begin, word->end - word->begin};
  switch (step->op) {
    case QN_STEP_REPLACE:
    case QN_STEP_SURROUND: return replace(steps, step, s, text, word->begin, diag);
    case QN_STEP_PREPEND: prepend(step, s, text, word->glued); return QN_OK;
    case QN_STEP_CHARSMAP: return map_chars(steps, step, s, text, word->begin, diag);
    case QN_STEP_BYTE_LEVEL:
      for (size_t i = 0; i < text.length; i++) qn_utf8_put(&s->spare, qn_code_point_of_byte((uint8_t)text.data[i]));
      return QN_OK;
    default:
      return qn_unicode_convert(&steps->unicode, step->op, text, s, &s->spare)
                 ? QN_OK
                 : qn_fail_nomem(diag, "tokenizer", "a text's other form");
  }
}

static qn_status rewrite_all(const qn_steps *steps, const qn_step *step, qn_stepper *s, qn_diag *diag) {
  size_t kept = 0;
  s->spare.length = 0;
  for (size_t i = 0; i < s->words.count; i++) {
    qn_word word = s->words.items[i];
    size_t begin = s->spare.length;
    bool byte_level = step->op == QN_STEP_BYTE_LEVEL;
    if ((word.opaque && !byte_level) || !is_for(step, s, &word)) {
      qn_buf_append(&s->spare, s->text.data + word.begin, word.end - word.begin);
    } else {
      QN_TRY(rewrite(steps, step, s, &word, diag));
    }
    QN_TRY(check_length(&s->spare, diag));
    if (s->spare.length == begin) continue;  // nothing is left of it
    word.begin = (uint32_t)begin;
    word.end = (uint32_t)s->spare.length;
    if (byte_level) word.opaque = false;
    s->words.items[kept++] = word;
  }
  s->words.count = kept;
  qn_buf swap = s->text;
  s->text = s->spare;
  s->spare = swap;
  return QN_OK;
}

qn_status qn_steps_run(const qn_steps *steps, size_t from, size_t to, qn_stepper *s, qn_diag *diag) {
  for (size_t i = from; i < to; i++) {
    const qn_step *step = &steps->items[i];
    QN_TRY(step->op == QN_STEP_SPLIT ? split(steps, step, s, diag) : rewrite_all(steps, step, s, diag));
  }
  return QN_OK;
}
