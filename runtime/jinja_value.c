// Values of a rendering: Python's ideas of truth, equality, order and printing.
#include <math.h>
#include <stdlib.h>

#include "runtime/jinja_impl.h"

// ---- accounts

qn_status qn_jinja_raise(evaluation *e, qn_status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  qn_status result = qn_jinja_vfail(e->source, e->at, e->diag, status, format, args);
  va_end(args);
  return result;
}

qn_status qn_jinja_nomem(evaluation *e) { return qn_fail_nomem(e->diag, e->source->name, "what a template makes"); }

qn_status qn_jinja_charge(evaluation *e, size_t bytes) {
  uint64_t steps = 1 + bytes / 64;
  if (steps > e->steps_left)
    return qn_jinja_raise(e, QN_ERR_LIMIT, "the template takes more than %llu steps; does it loop?",
                          (unsigned long long)e->steps);
  e->steps_left -= steps;
  return QN_OK;
}

qn_status qn_jinja_deeper(evaluation *e) {
  if (e->depth++ < QN_JINJA_MAX_DEPTH) return QN_OK;
  return qn_jinja_raise(e, QN_ERR_LIMIT,
                        "values, expressions or calls of macros are nested deeper than %d; does a macro call itself?",
                        QN_JINJA_MAX_DEPTH);
}

qn_status qn_jinja_take_memory(evaluation *e, size_t size, void **out) {
  *out = NULL;
  if (size > e->bytes_left)
    return qn_jinja_raise(e, QN_ERR_LIMIT, "the template makes more than %zu bytes of values; does it loop?", e->bytes);
  e->bytes_left -= size;
  QN_TRY(qn_jinja_charge(e, size));
  *out = qn_arena_alloc(e->arena, size);
  return *out ? QN_OK : qn_jinja_nomem(e);
}

qn_status qn_jinja_take_array(evaluation *e, size_t count, size_t size, void **out) {
  size_t bytes;
  if (!qn_size_mul(count, size, &bytes)) bytes = SIZE_MAX;
  return qn_jinja_take_memory(e, bytes, out);
}

// ---- characters

size_t qn_jinja_encode(uint32_t c, char out[4]) {
  if (c < 0x80) {
    out[0] = (char)c;
    return 1;
  }
  size_t count = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
  for (size_t i = count - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3F));
  out[0] = (char)(lead[count] | c);
  return count;
}

uint32_t qn_jinja_decode(const char *bytes, size_t size) {
  static const unsigned char masks[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
  uint32_t c = (unsigned char)bytes[0] & masks[size];
  for (size_t i = 1; i < size; i++) c = c << 6 | ((unsigned char)bytes[i] & 0x3F);
  return c;
}

size_t qn_jinja_character_at(qn_str text, size_t at) {
  size_t size = qn_utf8_sequence(text.data + at, text.length - at, NULL);
  return size ? size : 1;
}

size_t qn_jinja_count_characters(qn_str text) {
  size_t count = 0;
  for (size_t at = 0; at < text.length; at += qn_jinja_character_at(text, at)) count++;
  return count;
}

size_t qn_jinja_byte_of_character(qn_str text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.length; index--) at += qn_jinja_character_at(text, at);
  return at;
}

bool qn_jinja_is_space(qn_str text, size_t at, size_t *out_length) {
  unsigned char c = (unsigned char)text.data[at];
  *out_length = qn_jinja_character_at(text, at);
  if (*out_length == 1) return c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F);
  static const char *const spaces[] = {"\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\xa8",
                                       "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
  qn_str character = {text.data + at, *out_length};
  for (size_t i = 0; i < QN_COUNT(spaces); i++)
    if (qn_str_is(character, spaces[i])) return true;
  unsigned char last = (unsigned char)character.data[2 < *out_length ? 2 : 1];
  return *out_length == 3 && memcmp(character.data, "\xe2\x80", 2) == 0 && last >= 0x80 &&
         last <= 0x8A;  // U+2000 to U+200A
}

// The first byte of the character that ends at `end`, which is not 0.
static size_t character_before(qn_str text, size_t end) {
  for (size_t back = end < 4 ? end : 4; back > 0; back--)  // the longest: a part of one is none, but counts one byte
    if (qn_jinja_character_at(text, end - back) == back) return end - back;
  return end - 1;
}

qn_str qn_jinja_strip_text(qn_str text, bool left, bool right) {
  size_t begin = 0, end = text.length, size;
  while (left && begin < end && qn_jinja_is_space(text, begin, &size)) begin += size;
  while (right && end > begin && qn_jinja_is_space(text, character_before(text, end), &size)) end -= size;
  return (qn_str){text.data + begin, end - begin};
}

qn_str qn_jinja_strip_characters(qn_str text, qn_str set, bool left, bool right) {
  size_t begin = 0, end = text.length;
  while (left && begin < end) {
    size_t size = qn_jinja_character_at(text, begin);
    if (qn_jinja_find_text(set, (qn_str){text.data + begin, size}, 0) == SIZE_MAX) break;
    begin += size;
  }
  while (right && end > begin) {
    size_t from = character_before(text, end);
    if (qn_jinja_find_text(set, (qn_str){text.data + from, end - from}, 0) == SIZE_MAX) break;
    end = from;
  }
  return (qn_str){text.data + begin, end - begin};
}

size_t qn_jinja_find_text(qn_str text, qn_str part, size_t from) {
  if (from > text.length) return SIZE_MAX;
  if (part.length == 0) return from;
  const char *found = memmem(text.data + from, text.length - from, part.data, part.length);
  return found ? (size_t)(found - text.data) : SIZE_MAX;
}

// ---- kinds

const char *qn_jinja_kind_name(value v) {
  static const char *const names[QN_JINJA_KIND_COUNT] = {"nothing",     "an undefined value",
                                                         "None",        "a boolean",
                                                         "an integer",  "a float",
                                                         "a text",      "a list",
                                                         "a tuple",     "a dict",
                                                         "a namespace", "the variable loop",
                                                         "a function",  "a macro"};
  return names[v.kind];
}

bool qn_jinja_is_text(value v, const char *text) { return v.kind == QN_JINJA_STRING && qn_str_is(v.text, text); }
bool qn_jinja_is_number(value v) {
  return v.kind == QN_JINJA_BOOL || v.kind == QN_JINJA_INT || v.kind == QN_JINJA_FLOAT;
}
int64_t qn_jinja_integer_of(value v) { return v.kind == QN_JINJA_BOOL ? v.boolean : v.integer; }
double qn_jinja_number_of(value v) { return v.kind == QN_JINJA_FLOAT ? v.real : (double)qn_jinja_integer_of(v); }

bool qn_jinja_is_truthy(value v) {
  switch (v.kind) {
    case QN_JINJA_ABSENT:
    case QN_JINJA_UNDEFINED:
    case QN_JINJA_NONE: return false;
    case QN_JINJA_BOOL: return v.boolean;
    case QN_JINJA_INT: return v.integer != 0;
    case QN_JINJA_FLOAT: return v.real != 0;
    case QN_JINJA_STRING: return v.text.length > 0;
    case QN_JINJA_LIST:
    case QN_JINJA_TUPLE: return v.list->count > 0;
    case QN_JINJA_MAP: return v.map->count > 0;
    default: return true;
  }
}

qn_status qn_jinja_make_undefined(evaluation *e, value *out, const char *format, ...) {
  char text[160];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  QN_TRY(qn_jinja_copy_text(e, text, strlen(text), out));
  out->kind = QN_JINJA_UNDEFINED;
  return QN_OK;
}

qn_status qn_jinja_need_defined(evaluation *e, value v) {
  if (v.kind != QN_JINJA_UNDEFINED) return QN_OK;
  return qn_jinja_raise(e, QN_ERR_FORMAT, "%.*s", QN_STR_ARGS(v.text));
}

// ---- equality and order

static qn_status equal_lists(evaluation *e, const qn_jinja_list *a, const qn_jinja_list *b, bool *out) {
  *out = a->count == b->count;
  for (size_t i = 0; *out && i < a->count; i++) QN_TRY(qn_jinja_equal_values(e, a->items[i], b->items[i], out));
  return QN_OK;
}

static qn_status equal_maps(evaluation *e, const qn_jinja_map *a, const qn_jinja_map *b, bool *out) {
  *out = a->count == b->count;
  for (size_t i = 0; *out && i < a->count; i++) {
    qn_jinja_pair *found;
    QN_TRY(qn_jinja_find_pair(e, b, a->pairs[i].key, &found));
    *out = found != NULL;
    if (found) QN_TRY(qn_jinja_equal_values(e, a->pairs[i].value, found->value, out));
  }
  return QN_OK;
}

static qn_status equal_alike(evaluation *e, value a, value b, bool *out) {
  switch (a.kind) {
    case QN_JINJA_STRING: *out = qn_str_equal(a.text, b.text); return qn_jinja_charge(e, a.text.length);
    case QN_JINJA_LIST:
    case QN_JINJA_TUPLE: return equal_lists(e, a.list, b.list, out);
    case QN_JINJA_MAP: return equal_maps(e, a.map, b.map, out);
    case QN_JINJA_NAMESPACE: *out = a.map == b.map; return QN_OK;
    case QN_JINJA_LOOP: *out = a.loop == b.loop; return QN_OK;
    case QN_JINJA_FUNCTION: *out = a.function == b.function; return QN_OK;
    case QN_JINJA_MACRO: *out = a.macro == b.macro; return QN_OK;
    default: *out = true; return QN_OK;  // None, undefined
  }
}

qn_status qn_jinja_equal_values(evaluation *e, value a, value b, bool *out) {
  QN_TRY(qn_jinja_charge(e, 0));
  if (qn_jinja_is_number(a) && qn_jinja_is_number(b)) {
    bool real = a.kind == QN_JINJA_FLOAT || b.kind == QN_JINJA_FLOAT;
    *out = real ? qn_jinja_number_of(a) == qn_jinja_number_of(b) : qn_jinja_integer_of(a) == qn_jinja_integer_of(b);
    return QN_OK;
  }
  *out = false;
  if (a.kind != b.kind) return QN_OK;
  QN_TRY(qn_jinja_deeper(e));
  QN_TRY(equal_alike(e, a, b, out));
  e->depth--;
  return QN_OK;
}

static qn_status compare_lists(evaluation *e, const qn_jinja_list *a, const qn_jinja_list *b, int *out) {
  for (size_t i = 0; i < a->count && i < b->count; i++) {
    bool equal;
    QN_TRY(qn_jinja_equal_values(e, a->items[i], b->items[i], &equal));
    if (!equal) return qn_jinja_compare_values(e, a->items[i], b->items[i], out);
  }
  *out = (a->count > b->count) - (a->count < b->count);
  return QN_OK;
}

qn_status qn_jinja_compare_values(evaluation *e, value a, value b, int *out) {
  QN_TRY(qn_jinja_need_defined(e, a));
  QN_TRY(qn_jinja_need_defined(e, b));
  if (qn_jinja_is_number(a) && qn_jinja_is_number(b)) {
    double x = qn_jinja_number_of(a), y = qn_jinja_number_of(b);
    *out = (x > y) - (x < y);
    return qn_jinja_charge(e, 0);
  }
  if (a.kind == QN_JINJA_STRING && b.kind == QN_JINJA_STRING) {
    size_t least = a.text.length < b.text.length ? a.text.length : b.text.length;
    int order = least ? memcmp(a.text.data, b.text.data, least) : 0;  // of UTF-8 that of code points
    *out = order ? order : (a.text.length > b.text.length) - (a.text.length < b.text.length);
    return qn_jinja_charge(e, least);
  }
  if (a.kind == b.kind && (a.kind == QN_JINJA_LIST || a.kind == QN_JINJA_TUPLE)) {
    QN_TRY(qn_jinja_deeper(e));
    QN_TRY(compare_lists(e, a.list, b.list, out));
    e->depth--;
    return QN_OK;
  }
  return qn_jinja_raise(e, QN_ERR_FORMAT, "%s and %s have no order", qn_jinja_kind_name(a), qn_jinja_kind_name(b));
}

qn_status qn_jinja_contains_value(evaluation *e, value whole, value part, bool *out) {
  *out = false;
  if (whole.kind == QN_JINJA_STRING) {
    QN_TRY(qn_jinja_need_defined(e, part));
    if (part.kind != QN_JINJA_STRING)
      return qn_jinja_raise(e, QN_ERR_FORMAT, "got %s to look for in a text, want a text", qn_jinja_kind_name(part));
    *out = qn_jinja_find_text(whole.text, part.text, 0) != SIZE_MAX;
    return qn_jinja_charge(e, whole.text.length);
  }
  if (whole.kind == QN_JINJA_MAP) {
    qn_jinja_pair *found;
    QN_TRY(qn_jinja_find_pair(e, whole.map, part, &found));
    *out = found != NULL;
    return QN_OK;
  }
  const qn_jinja_list *items;
  QN_TRY(qn_jinja_items_of(e, whole, &items));
  for (size_t i = 0; !*out && i < items->count; i++) QN_TRY(qn_jinja_equal_values(e, items->items[i], part, out));
  return QN_OK;
}

// ---- maps

const qn_jinja_value *qn_jinja_map_get(const qn_jinja_map *map, qn_str key) {
  for (size_t i = 0; i < map->count; i++)
    if (map->pairs[i].key.kind == QN_JINJA_STRING && qn_str_equal(map->pairs[i].key.text, key))
      return &map->pairs[i].value;
  return NULL;
}

static bool add_pair(qn_arena *arena, qn_jinja_map *map, value key, value v) {
  struct {
    qn_jinja_pair *items;
    size_t count, capacity;
  } list = {map->pairs, map->count, map->capacity};
  if (!qn_vec_push_arena(arena, &list, ((qn_jinja_pair){key, v}))) return false;
  *map = (qn_jinja_map){list.items, list.count, list.capacity};
  return true;
}

bool qn_jinja_map_set(qn_arena *arena, qn_jinja_map *map, qn_str key, qn_jinja_value v) {
  for (size_t i = 0; i < map->count; i++) {
    if (map->pairs[i].key.kind != QN_JINJA_STRING || !qn_str_equal(map->pairs[i].key.text, key)) continue;
    map->pairs[i].value = v;
    return true;
  }
  return add_pair(arena, map, qn_jinja_text(key), v);
}

qn_status qn_jinja_find_pair(evaluation *e, const qn_jinja_map *map, value key, qn_jinja_pair **out) {
  *out = NULL;
  for (size_t i = 0; i < map->count; i++) {
    bool equal;
    QN_TRY(qn_jinja_equal_values(e, map->pairs[i].key, key, &equal));
    if (!equal) continue;
    *out = &map->pairs[i];
    break;
  }
  return QN_OK;
}

qn_status qn_jinja_put_pair(evaluation *e, qn_jinja_map *map, value key, value v) {
  qn_jinja_pair *found;
  bool simple =
      qn_jinja_is_number(key) || key.kind == QN_JINJA_STRING || key.kind == QN_JINJA_NONE || key.kind == QN_JINJA_TUPLE;
  QN_TRY(qn_jinja_need_defined(e, key));
  if (!simple)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "got %s as a key, want a text or a number", qn_jinja_kind_name(key));
  QN_TRY(qn_jinja_find_pair(e, map, key, &found));
  if (found) {
    found->value = v;
    return QN_OK;
  }
  if (sizeof *found * 2 > e->bytes_left)
    return qn_jinja_raise(e, QN_ERR_LIMIT, "the template makes more than %zu bytes of values; does it loop?", e->bytes);
  e->bytes_left -= sizeof *found * 2;
  return add_pair(e->arena, map, key, v) ? QN_OK : qn_jinja_nomem(e);
}

qn_status qn_jinja_new_map(evaluation *e, value *out) {
  void *memory;
  QN_TRY(qn_jinja_take_memory(e, sizeof *out->map, &memory));
  *out = (value){.kind = QN_JINJA_MAP, .map = memory};
  return QN_OK;
}

// ---- lists

qn_status qn_jinja_make_list(evaluation *e, qn_jinja_kind kind, size_t count, value **out_items, value *out) {
  void *list, *items;
  QN_TRY(qn_jinja_take_memory(e, sizeof *out->list, &list));
  QN_TRY(qn_jinja_take_array(e, count, sizeof **out_items, &items));
  *out_items = items;
  *(qn_jinja_list *)list = (qn_jinja_list){items, count};
  *out = (value){.kind = kind, .list = list};
  return QN_OK;
}

static qn_status characters_of(evaluation *e, qn_str text, value *out) {
  value *items;
  QN_TRY(qn_jinja_make_list(e, QN_JINJA_LIST, qn_jinja_count_characters(text), &items, out));
  for (size_t at = 0; at < text.length; items++) {
    size_t size = qn_jinja_character_at(text, at);
    *items = qn_jinja_text((qn_str){text.data + at, size});
    at += size;
  }
  return QN_OK;
}

qn_status qn_jinja_items_of(evaluation *e, value v, const qn_jinja_list **out) {
  static const qn_jinja_list nothing;
  value list, *items;
  switch (v.kind) {
    case QN_JINJA_UNDEFINED: *out = &nothing; return QN_OK;
    case QN_JINJA_LIST:
    case QN_JINJA_TUPLE: *out = v.list; return QN_OK;
    case QN_JINJA_STRING: QN_TRY(characters_of(e, v.text, &list)); break;
    case QN_JINJA_MAP:
      QN_TRY(qn_jinja_make_list(e, QN_JINJA_LIST, v.map->count, &items, &list));
      for (size_t i = 0; i < v.map->count; i++) items[i] = v.map->pairs[i].key;
      break;
    default:
      return qn_jinja_raise(e, QN_ERR_FORMAT, "got %s, want a list, a dict or a text to go over",
                            qn_jinja_kind_name(v));
  }
  *out = list.list;
  return QN_OK;
}

qn_status qn_jinja_length_of(evaluation *e, value v, int64_t *out) {
  *out = 0;
  switch (v.kind) {
    case QN_JINJA_UNDEFINED: return QN_OK;
    case QN_JINJA_LIST:
    case QN_JINJA_TUPLE: *out = (int64_t)v.list->count; return QN_OK;
    case QN_JINJA_MAP: *out = (int64_t)v.map->count; return QN_OK;
    case QN_JINJA_STRING: *out = (int64_t)qn_jinja_count_characters(v.text); return qn_jinja_charge(e, v.text.length);
    default: return qn_jinja_raise(e, QN_ERR_FORMAT, "%s has no length", qn_jinja_kind_name(v));
  }
}

// ---- texts

qn_status qn_jinja_copy_text(evaluation *e, const char *data, size_t length, value *out) {
  void *copy;
  QN_TRY(qn_jinja_take_memory(e, length + 1, &copy));
  if (length > 0) memcpy(copy, data, length);
  *out = qn_jinja_text((qn_str){copy, length});
  return QN_OK;
}

qn_status qn_jinja_take_buffer(evaluation *e, qn_buf *buf, value *out) {
  qn_status status = buf->failed ? qn_jinja_nomem(e) : qn_jinja_copy_text(e, qn_buf_text(buf), buf->length, out);
  qn_buf_deinit(buf);
  return status;
}

// Python's repr: the fewest digits that read back as the same number, with a point or an exponent.
void qn_jinja_put_float(qn_buf *out, double v) {
  char text[40], digits[24];
  int precision = 0;
  if (isnan(v) || isinf(v)) {
    qn_buf_puts(out, isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
    return;
  }
  do {
    snprintf(text, sizeof text, "%.*e", precision, fabs(v));
  } while (strtod(text, NULL) != fabs(v) && ++precision < 17);
  int exponent = atoi(strchr(text, 'e') + 1), count = 0;
  for (const char *at = text; *at != 'e'; at++)
    if (*at >= '0' && *at <= '9') digits[count++] = *at;
  if (signbit(v)) qn_buf_putc(out, '-');
  if (exponent < -4 || exponent >= 16) {
    qn_buf_putc(out, digits[0]);
    if (count > 1) qn_buf_putc(out, '.');
    qn_buf_append(out, digits + 1, (size_t)count - 1);
    qn_buf_printf(out, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    return;
  }
  if (exponent < 0) qn_buf_puts(out, "0.");
  for (int i = exponent + 1; i < 0; i++) qn_buf_putc(out, '0');
  for (int i = 0; i < count || i <= exponent; i++) {
    qn_buf_putc(out, i < count ? digits[i] : '0');
    if (i == exponent) qn_buf_putc(out, '.');
  }
  if (count <= exponent + 1) qn_buf_putc(out, '0');
}

// Python's repr of a text.
static void put_quoted(qn_buf *out, qn_str text) {
  bool single = text.length && memchr(text.data, '\'', text.length),
       twofold = text.length && memchr(text.data, '"', text.length);
  char quote = single && !twofold ? '"' : '\'';
  qn_buf_putc(out, quote);
  for (size_t i = 0; i < text.length; i++) {
    unsigned char c = (unsigned char)text.data[i];
    const char *named = c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : c == '\\' ? "\\\\" : NULL;
    if (named) {
      qn_buf_puts(out, named);
    } else if (c < 0x20 || c == 0x7F) {
      qn_buf_printf(out, "\\x%02x", c);
    } else {
      if (c == (unsigned char)quote) qn_buf_putc(out, '\\');
      qn_buf_putc(out, (char)c);
    }
  }
  qn_buf_putc(out, quote);
}

static qn_status put_repr(evaluation *e, value v, qn_buf *out);

static qn_status put_items(evaluation *e, value v, qn_buf *out) {
  bool tuple = v.kind == QN_JINJA_TUPLE;
  qn_buf_putc(out, tuple ? '(' : '[');
  for (size_t i = 0; i < v.list->count; i++) {
    if (i > 0) qn_buf_puts(out, ", ");
    QN_TRY(put_repr(e, v.list->items[i], out));
  }
  qn_buf_puts(out, tuple && v.list->count == 1 ? ",)" : tuple ? ")" : "]");
  return QN_OK;
}

static qn_status put_pairs(evaluation *e, value v, qn_buf *out) {
  qn_buf_puts(out, v.kind == QN_JINJA_NAMESPACE ? "<Namespace {" : "{");
  for (size_t i = 0; i < v.map->count; i++) {
    if (i > 0) qn_buf_puts(out, ", ");
    QN_TRY(put_repr(e, v.map->pairs[i].key, out));
    qn_buf_puts(out, ": ");
    QN_TRY(put_repr(e, v.map->pairs[i].value, out));
  }
  qn_buf_puts(out, v.kind == QN_JINJA_NAMESPACE ? "}>" : "}");
  return QN_OK;
}

static qn_status put_repr(evaluation *e, value v, qn_buf *out) {
  if (v.kind == QN_JINJA_STRING) {
    put_quoted(out, v.text);
    return qn_jinja_charge(e, v.text.length);
  }
  if (v.kind == QN_JINJA_UNDEFINED) {
    qn_buf_puts(out, "Undefined");
    return QN_OK;
  }
  return qn_jinja_print_value(e, v, out);
}

static qn_status print_whole(evaluation *e, value v, qn_buf *out) {
  switch (v.kind) {
    case QN_JINJA_ABSENT:
    case QN_JINJA_UNDEFINED: break;
    case QN_JINJA_NONE: qn_buf_puts(out, "None"); break;
    case QN_JINJA_BOOL: qn_buf_puts(out, v.boolean ? "True" : "False"); break;
    case QN_JINJA_INT: qn_buf_printf(out, "%lld", (long long)v.integer); break;
    case QN_JINJA_FLOAT: qn_jinja_put_float(out, v.real); break;
    case QN_JINJA_STRING: qn_buf_append(out, v.text.data, v.text.length); break;
    case QN_JINJA_LIST:
    case QN_JINJA_TUPLE: return put_items(e, v, out);
    case QN_JINJA_MAP:
    case QN_JINJA_NAMESPACE: return put_pairs(e, v, out);
    default:
      return qn_jinja_raise(e, QN_ERR_FORMAT, "got %s to print; was it meant to be called?", qn_jinja_kind_name(v));
  }
  return QN_OK;
}

qn_status qn_jinja_print_value(evaluation *e, value v, qn_buf *out) {
  size_t before = out->length;
  QN_TRY(qn_jinja_deeper(e));
  QN_TRY(print_whole(e, v, out));
  e->depth--;
  if (out->failed) return qn_jinja_nomem(e);
  if (out->length - before > e->bytes_left)
    return qn_jinja_raise(e, QN_ERR_LIMIT, "the template makes more than %zu bytes of text; does it loop?", e->bytes);
  e->bytes_left -= out->length - before;
  return qn_jinja_charge(e, out->length - before);
}

qn_status qn_jinja_text_of(evaluation *e, value v, qn_str *out) {
  qn_buf buf;
  value text;
  if (v.kind == QN_JINJA_STRING) {
    *out = v.text;
    return QN_OK;
  }
  qn_buf_init(&buf, e->arena->allocator);
  qn_status status = qn_jinja_print_value(e, v, &buf);
  if (status != QN_OK) {
    qn_buf_deinit(&buf);
    return status;
  }
  QN_TRY(qn_jinja_take_buffer(e, &buf, &text));
  *out = text.text;
  return QN_OK;
}
