// Unicode's normalisation forms (UAX 15) and lower case, from tables that came with the vocabulary: which version of
// Unicode they are of was settled when the model was compiled.
#include <string.h>

#include "runtime/tokenizer_impl.h"

// ---- the tables --------------------------------------------------------------------------------------------------

static bool is_scalar(uint32_t c) { return c < 0x110000 && (c < 0xD800 || c >= 0xE000); }

static qn_status check_map(const qn_unicode *u, int which, const char *where, qn_diag *diag) {
  for (uint32_t i = 0; i < u->n_maps[which]; i++) {
    uint32_t word = qn_tok_load(u->maps[which], (size_t)i * 2 + 1), place = word >> 8, length = word & 0xFF;
    if (place > u->n_points || length > u->n_points - place) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "Unicode's map %d: entry %u has code points %u to %u of %u", which, i,
                     place, place + length, u->n_points);
    }
  }
  return QN_OK;
}

qn_status qn_unicode_open(qn_unicode *u, qn_str data, const char *where, qn_diag *diag) {
  *u = (qn_unicode){0};
  if (data.length == 0) return QN_OK;
  const uint8_t *words = (const uint8_t *)data.data;
  static const uint32_t item_words[QN_UNICODE_COUNTS] = {1, 2, 2, 2, 3, 1};
  const uint8_t *parts[QN_UNICODE_COUNTS];
  uint32_t counts[QN_UNICODE_COUNTS];
  uint64_t at = QN_UNICODE_COUNTS, total = data.length / 4;
  for (int i = 0; i < QN_UNICODE_COUNTS; i++) {
    counts[i] = total >= QN_UNICODE_COUNTS ? qn_tok_load(words, (size_t)i) : UINT32_MAX;
    uint64_t need = (uint64_t)counts[i] * item_words[i];
    if (at > total || need > total - at) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "Unicode's tables have %zu bytes, part %d ends beyond them",
                     data.length, i);
    }
    parts[i] = words + at * 4;
    at += need;
  }
  u->classes = parts[QN_UNICODE_CLASSES], u->n_classes = counts[QN_UNICODE_CLASSES];
  u->pairs = parts[QN_UNICODE_PAIRS], u->n_pairs = counts[QN_UNICODE_PAIRS];
  u->points = parts[QN_UNICODE_POINTS], u->n_points = counts[QN_UNICODE_POINTS];
  for (int i = 0; i < 3; i++) {
    u->maps[i] = parts[QN_UNICODE_CANONICAL + i], u->n_maps[i] = counts[QN_UNICODE_CANONICAL + i];
    QN_TRY(check_map(u, i, where, diag));
  }
  for (uint32_t i = 0; i < u->n_points; i++) {
    if (!is_scalar(qn_tok_load(u->points, i))) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "Unicode's tables have 0x%x as a code point",
                     qn_tok_load(u->points, i));
    }
  }
  for (uint32_t i = 0; i < u->n_pairs; i++) {
    uint32_t composed = qn_tok_load(u->pairs, (size_t)i * 3 + 2);
    if (!is_scalar(composed)) {
      return qn_fail(diag, QN_ERR_FORMAT, where, "Unicode's tables have 0x%x as a code point", composed);
    }
  }
  return QN_OK;
}

static uint32_t combining_class(const qn_unicode *u, uint32_t c) {
  if (c < 0x300) return 0;
  for (uint32_t low = 0, high = u->n_classes; low < high;) {
    uint32_t middle = low + (high - low) / 2, word = qn_tok_load(u->classes, middle);
    if (word >> 8 == c) return word & 0xFF;
    if (word >> 8 < c) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return 0;
}

// *out_length code points at the result; NULL when the map has nothing for this one.
static const uint8_t *find_mapping(const qn_unicode *u, int which, uint32_t c, uint32_t *out_length) {
  for (uint32_t low = 0, high = u->n_maps[which]; low < high;) {
    uint32_t middle = low + (high - low) / 2, key = qn_tok_load(u->maps[which], (size_t)middle * 2);
    if (key == c) {
      uint32_t word = qn_tok_load(u->maps[which], (size_t)middle * 2 + 1);
      *out_length = word & 0xFF;
      return u->points + (size_t)(word >> 8) * 4;
    }
    if (key < c) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return NULL;
}

// ---- Hangul syllables (Unicode, section 3.12) ----------------------------------------------------------------------

enum { S_BASE = 0xAC00, L_BASE = 0x1100, V_BASE = 0x1161, T_BASE = 0x11A7, L_COUNT = 19, V_COUNT = 21, T_COUNT = 28 };
enum { S_COUNT = L_COUNT * V_COUNT * T_COUNT };

static uint32_t compose_hangul(uint32_t first, uint32_t second) {
  if (first - L_BASE < L_COUNT && second - V_BASE < V_COUNT) {
    return S_BASE + ((first - L_BASE) * V_COUNT + second - V_BASE) * T_COUNT;
  }
  bool open = first - S_BASE < S_COUNT && (first - S_BASE) % T_COUNT == 0;
  return open && second - T_BASE - 1 < T_COUNT - 1 ? first + second - T_BASE : 0;
}

// ---- forms -------------------------------------------------------------------------------------------------------

// Code points with their classes in the upper byte: those are at most 254.
static bool push_point(const qn_unicode *u, qn_stepper *s, uint32_t c, bool classify) {
  uint32_t class = classify ? combining_class(u, c) : 0;
  return qn_vec_push(s->allocator, &s->points, class << 24 | c);
}

static bool push_mapped(const qn_unicode *u, qn_stepper *s, int which, uint32_t c, bool classify) {
  if (which != 2 && c - S_BASE < S_COUNT) {
    uint32_t i = c - S_BASE, t = i % T_COUNT;
    return push_point(u, s, L_BASE + i / (V_COUNT * T_COUNT), false) &&
           push_point(u, s, V_BASE + i / T_COUNT % V_COUNT, false) && (t == 0 || push_point(u, s, T_BASE + t, false));
  }
  uint32_t length;
  const uint8_t *mapped = find_mapping(u, which, c, &length);
  if (mapped == NULL) return push_point(u, s, c, classify);
  for (uint32_t i = 0; i < length; i++) {
    if (!push_point(u, s, qn_tok_load(mapped, i), classify)) return false;
  }
  return true;
}

// Sorts a run of marks by class, those of one class in their order; in linear time, for texts made of marks.
static bool sort_run(qn_stepper *s, uint32_t *run, size_t count) {
  uint32_t starts[257] = {0};
  s->sorted.count = 0;
  for (size_t i = 0; i < count; i++) {
    starts[(run[i] >> 24) + 1]++;
    if (!qn_vec_push(s->allocator, &s->sorted, 0)) return false;
  }
  for (size_t i = 1; i < QN_COUNT(starts); i++) starts[i] += starts[i - 1];
  for (size_t i = 0; i < count; i++) s->sorted.items[starts[run[i] >> 24]++] = run[i];
  memcpy(run, s->sorted.items, count * sizeof *run);
  return true;
}

static bool sort_marks(qn_stepper *s) {
  uint32_t *points = s->points.items;
  for (size_t begin = 0, end; begin < s->points.count; begin = end) {
    end = begin + 1;
    if (points[begin] >> 24 == 0) continue;
    bool ordered = true;
    for (; end < s->points.count && points[end] >> 24 != 0; end++) {
      ordered = ordered && points[end - 1] >> 24 <= points[end] >> 24;
    }
    if (!ordered && !sort_run(s, points + begin, end - begin)) return false;
  }
  return true;
}

static uint32_t compose_pair(const qn_unicode *u, uint32_t first, uint32_t second) {
  uint32_t hangul = compose_hangul(first, second);
  if (hangul != 0) return hangul;
  for (uint32_t low = 0, high = u->n_pairs; low < high;) {
    uint32_t middle = low + (high - low) / 2;
    uint32_t a = qn_tok_load(u->pairs, (size_t)middle * 3), b = qn_tok_load(u->pairs, (size_t)middle * 3 + 1);
    if (a == first && b == second) return qn_tok_load(u->pairs, (size_t)middle * 3 + 2);
    if (a < first || (a == first && b < second)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return 0;
}

static void compose(const qn_unicode *u, qn_stepper *s) {
  uint32_t *points = s->points.items;
  size_t out = 0, starter = SIZE_MAX;
  for (size_t i = 0; i < s->points.count; i++) {
    uint32_t class = points[i] >> 24, c = points[i] & 0xFFFFFF;
    if (starter != SIZE_MAX && (out - 1 == starter || points[out - 1] >> 24 < class)) {
      uint32_t composed = compose_pair(u, points[starter] & 0xFFFFFF, c);
      if (composed != 0) {
        points[starter] = composed;
        continue;
      }
    }
    if (class == 0) starter = out;
    points[out++] = points[i];
  }
  s->points.count = out;
}

bool qn_unicode_convert(const qn_unicode *u, qn_token_step_op op, qn_str text, qn_stepper *s, qn_buf *out) {
  bool lower = op == QN_STEP_LOWERCASE;
  int which = lower ? 2 : op == QN_STEP_NFKC || op == QN_STEP_NFKD;
  for (size_t at = 0; at < text.length;) {
    // ASCII is in no form's way: it is copied, but for what a mark after it may compose with.
    size_t end = at;
    while (end < text.length && (unsigned char)text.data[end] < 0x80) end++;
    if (end < text.length && end > at) end--;
    for (; lower && at < end; at++) {
      char c = text.data[at];
      qn_buf_putc(out, c >= 'A' && c <= 'Z' ? (char)(c + 32) : c);
    }
    qn_buf_append(out, text.data + at, end - at);
    s->points.count = 0;
    for (at = end; at < text.length;) {
      size_t length = qn_utf8_sequence(text.data + at, text.length - at, NULL);
      uint32_t c = qn_utf8_code_point(text.data + at, length);
      if (!push_mapped(u, s, which, c, !lower)) return false;
      at += length;
      bool ascii = at < text.length && (unsigned char)text.data[at] < 0x80;
      if (c >= 0x80 && ascii) break;
    }
    if (!lower && !sort_marks(s)) return false;
    if (op == QN_STEP_NFC || op == QN_STEP_NFKC) compose(u, s);
    for (size_t i = 0; i < s->points.count; i++) qn_utf8_put(out, s->points.items[i] & 0xFFFFFF);
  }
  return !out->failed;
}
