// Filters: one entry of the table at the end each.
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "runtime/jinja_impl.h"

#define FILTER(name) \
  static qn_status name(evaluation *e, value self, const value *args, const arguments *all, value *out)
#define UNUSED() (void)e, (void)self, (void)args, (void)all

static bool flag(value v) { return qn_jinja_is_truthy(v); }  // of an argument that may be absent

// ---- texts

static qn_status change_case(evaluation *e, value v, letter_case to, value *out) {
  qn_str text;
  qn_buf buf;
  QN_TRY(qn_jinja_text_of(e, v, &text));
  qn_buf_init(&buf, e->arena->allocator);
  qn_jinja_put_case(text, to, &buf);
  return qn_jinja_take_buffer(e, &buf, out);
}

FILTER(filter_lower) {
  UNUSED();
  return change_case(e, self, CASE_LOWER, out);
}
FILTER(filter_upper) {
  UNUSED();
  return change_case(e, self, CASE_UPPER, out);
}
FILTER(filter_capitalize) {
  UNUSED();
  return change_case(e, self, CASE_CAPITAL, out);
}

// Words end at white space and at - ( { [ <, other than with Python's title().
FILTER(filter_title) {
  UNUSED();
  qn_str text;
  qn_buf buf;
  QN_TRY(qn_jinja_text_of(e, self, &text));
  qn_buf_init(&buf, e->arena->allocator);
  for (size_t at = 0; at < text.length;) {
    size_t begin = at, size;
    while (at < text.length && !qn_jinja_is_space(text, at, &size) && !strchr("-({[<", text.data[at])) at += size;
    qn_jinja_put_case((qn_str){text.data + begin, at - begin}, CASE_CAPITAL, &buf);
    if (at == text.length) break;
    size = qn_jinja_character_at(text, at);
    qn_buf_append(&buf, text.data + at, size);
    at += size;
  }
  return qn_jinja_take_buffer(e, &buf, out);
}

FILTER(filter_string) {
  UNUSED();
  qn_str text;
  QN_TRY(qn_jinja_text_of(e, self, &text));
  *out = qn_jinja_text(text);
  return QN_OK;
}

FILTER(filter_trim) {
  UNUSED();
  qn_str text, set;
  QN_TRY(qn_jinja_text_of(e, self, &text));
  QN_TRY(qn_jinja_charge(e, text.length));
  if (args[0].kind == QN_JINJA_ABSENT || args[0].kind == QN_JINJA_NONE) {
    *out = qn_jinja_text(qn_jinja_strip_text(text, true, true));
    return QN_OK;
  }
  QN_TRY(qn_jinja_text_of(e, args[0], &set));
  *out = qn_jinja_text(qn_jinja_strip_characters(text, set, true, true));
  return QN_OK;
}

FILTER(filter_escape) {
  UNUSED();
  static const char marks[] = "&<>'\"";
  static const char *const names[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
  qn_str text;
  qn_buf buf;
  QN_TRY(qn_jinja_text_of(e, self, &text));
  qn_buf_init(&buf, e->arena->allocator);
  for (size_t i = 0; i < text.length; i++) {
    const char *mark = text.data[i] ? strchr(marks, text.data[i]) : NULL;
    if (mark) qn_buf_puts(&buf, names[mark - marks]);
    if (!mark) qn_buf_putc(&buf, text.data[i]);
  }
  return qn_jinja_take_buffer(e, &buf, out);
}

FILTER(filter_replace) {
  UNUSED();
  qn_str text;
  const qn_jinja_builtin *replace = qn_jinja_find_builtin(qn_jinja_string_methods, QN_STR("replace"));
  QN_TRY(qn_jinja_text_of(e, self, &text));
  return replace->call(e, qn_jinja_text(text), args, all, out);
}

// Lines after the first, or all, begin with `width` spaces or a text; empty ones stay so.
FILTER(filter_indent) {
  UNUSED();
  qn_str text, by = {0};
  qn_buf buf;
  int64_t width = args[0].kind == QN_JINJA_INT ? args[0].integer : 4;
  QN_TRY(qn_jinja_need_defined(e, self));
  if (self.kind != QN_JINJA_STRING)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "filter indent: got %s, want a text", qn_jinja_kind_name(self));
  text = self.text;
  if (args[0].kind == QN_JINJA_STRING) by = args[0].text;
  if (width < 0 || width > 1000)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "filter indent: got the width %lld, want 0 to 1000", (long long)width);
  qn_buf_init(&buf, e->arena->allocator);
  bool first = flag(args[1]), blank = flag(args[2]);
  for (size_t at = 0, line = 0; at <= text.length; line++) {
    size_t end = qn_jinja_find_text(text, QN_STR("\n"), at);
    if (end == SIZE_MAX) end = text.length;
    if (line > 0) qn_buf_putc(&buf, '\n');
    if ((line > 0 || first) && (end > at || blank || (line == 0 && first))) {
      if (by.data) qn_buf_append(&buf, by.data, by.length);
      if (!by.data) qn_buf_printf(&buf, "%*s", (int)width, "");
    }
    qn_buf_append(&buf, text.data + at, end - at);
    if (buf.length > e->bytes_left) break;  // which taking the buffer tells
    at = end + 1;
  }
  return qn_jinja_take_buffer(e, &buf, out);
}

// Runs of letters, digits and underscores; beyond ASCII everything but white space counts as a letter.
FILTER(filter_wordcount) {
  UNUSED();
  qn_str text;
  int64_t count = 0;
  QN_TRY(qn_jinja_text_of(e, self, &text));
  QN_TRY(qn_jinja_charge(e, text.length));
  bool in_word = false;
  for (size_t at = 0, size; at < text.length; at += size) {
    char c = text.data[at];
    bool space = qn_jinja_is_space(text, at, &size);
    bool letter = !space && ((c & 0x80) || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                             c == '_');
    count += letter && !in_word;
    in_word = letter;
  }
  *out = qn_jinja_int(count);
  return QN_OK;
}

// ---- numbers

FILTER(filter_abs) {
  UNUSED();
  QN_TRY(qn_jinja_need_defined(e, self));
  if (!qn_jinja_is_number(self))
    return qn_jinja_raise(e, QN_ERR_FORMAT, "filter abs: got %s, want a number", qn_jinja_kind_name(self));
  if (self.kind == QN_JINJA_FLOAT) {
    *out = (value){.kind = QN_JINJA_FLOAT, .real = fabs(self.real)};
    return QN_OK;
  }
  int64_t v = qn_jinja_integer_of(self);
  return qn_jinja_arithmetic(e, v < 0 ? OP_SUBTRACT : OP_ADD, qn_jinja_int(0), qn_jinja_int(v), out);
}

// A text as a number: Python's int() and float(), as far as it is all of it.
static bool read_number(qn_str text, int base, bool real, value *out) {
  char copy[80], *end;
  text = qn_jinja_strip_text(text, true, true);
  if (text.length == 0 || text.length >= sizeof copy) return false;
  memcpy(copy, text.data, text.length);
  copy[text.length] = '\0';
  errno = 0;
  if (real) {
    if (strpbrk(copy, "xXpP")) return false;
    *out = (value){.kind = QN_JINJA_FLOAT, .real = qn_strtod(copy, &end)};
    return *end == '\0' && end > copy;
  }
  *out = qn_jinja_int(strtoll(copy, &end, base));
  return *end == '\0' && end > copy && errno == 0;
}

FILTER(filter_int) {
  UNUSED();
  value standard = args[0].kind == QN_JINJA_ABSENT ? qn_jinja_int(0) : args[0], real;
  int64_t base = args[1].kind == QN_JINJA_INT ? args[1].integer : 10;
  QN_TRY(qn_jinja_need_defined(e, self));
  if (base < 2 || base > 36)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "filter int: got base %lld, want 2 to 36", (long long)base);
  *out = standard;
  if (self.kind == QN_JINJA_INT || self.kind == QN_JINJA_BOOL) *out = qn_jinja_int(qn_jinja_integer_of(self));
  if (self.kind == QN_JINJA_STRING) {
    if (read_number(self.text, (int)base, false, out)) return QN_OK;
    *out = standard;
    if (!read_number(self.text, 0, true, &real)) return QN_OK;
    self = real;
  }
  if (self.kind == QN_JINJA_FLOAT && fabs(self.real) < 9.2e18) *out = qn_jinja_int((int64_t)self.real);
  return QN_OK;
}

FILTER(filter_float) {
  UNUSED();
  value standard = args[0].kind == QN_JINJA_ABSENT ? (value){.kind = QN_JINJA_FLOAT} : args[0];
  QN_TRY(qn_jinja_need_defined(e, self));
  *out = standard;
  if (qn_jinja_is_number(self)) *out = (value){.kind = QN_JINJA_FLOAT, .real = qn_jinja_number_of(self)};
  if (self.kind == QN_JINJA_STRING && !read_number(self.text, 0, true, out)) *out = standard;
  return QN_OK;
}

FILTER(filter_round) {
  UNUSED();
  int64_t precision = args[0].kind == QN_JINJA_INT ? args[0].integer : 0;
  QN_TRY(qn_jinja_need_defined(e, self));
  if (!qn_jinja_is_number(self))
    return qn_jinja_raise(e, QN_ERR_FORMAT, "filter round: got %s, want a number", qn_jinja_kind_name(self));
  if (precision < -15 || precision > 15)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "filter round: got the precision %lld, want -15 to 15",
                          (long long)precision);
  if (self.kind != QN_JINJA_FLOAT && precision >= 0 &&
      (args[1].kind == QN_JINJA_ABSENT || qn_jinja_is_text(args[1], "common"))) {
    *out = qn_jinja_int(qn_jinja_integer_of(self));
    return QN_OK;
  }
  double v = qn_jinja_number_of(self), factor = pow(10, (double)precision);
  bool up = qn_jinja_is_text(args[1], "ceil"), down = qn_jinja_is_text(args[1], "floor");
  if (args[1].kind != QN_JINJA_ABSENT && !up && !down && !qn_jinja_is_text(args[1], "common"))
    return qn_jinja_raise(e, QN_ERR_FORMAT, "filter round: got another method, want common, ceil or floor");
  char text[48];
  snprintf(text, sizeof text, "%.*f", precision > 0 ? (int)precision : 0, v);
  double result = up                                 ? ceil(v * factor) / factor
                  : down                             ? floor(v * factor) / factor
                  : precision >= 0 && fabs(v) < 1e15 ? strtod(text, NULL)
                                                     : rint(v * factor) / factor;
  *out = (value){.kind = QN_JINJA_FLOAT, .real = result};
  return QN_OK;
}

// ---- any value

FILTER(filter_default) {
  UNUSED();
  bool missing = self.kind == QN_JINJA_UNDEFINED || (flag(args[1]) && !qn_jinja_is_truthy(self));
  *out = !missing ? self : args[0].kind == QN_JINJA_ABSENT ? qn_jinja_text(QN_STR("")) : args[0];
  return QN_OK;
}

// Nothing is escaped anyway; but it makes a text of any value.
FILTER(filter_safe) {
  UNUSED();
  return filter_string(e, self, args, all, out);
}

FILTER(filter_attr) {
  UNUSED();
  return args[0].kind == QN_JINJA_STRING ? qn_jinja_get_attribute(e, self, args[0].text, out)
                                         : qn_jinja_get_item(e, self, args[0], out);
}

FILTER(filter_length) {
  UNUSED();
  int64_t length;
  QN_TRY(qn_jinja_length_of(e, self, &length));
  *out = qn_jinja_int(length);
  return QN_OK;
}

FILTER(filter_tojson) {
  UNUSED();
  int64_t indent = args[0].kind == QN_JINJA_INT ? args[0].integer : -1;
  qn_str between = indent >= 0 ? QN_STR(",") : QN_STR(", "), key = QN_STR(": ");
  if (indent > 64)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "filter tojson: got the indent %lld, want at most 64", (long long)indent);
  if (args[2].kind == QN_JINJA_LIST || args[2].kind == QN_JINJA_TUPLE) {
    const qn_jinja_list *both = args[2].list;
    if (both->count != 2 || both->items[0].kind != QN_JINJA_STRING || both->items[1].kind != QN_JINJA_STRING)
      return qn_jinja_raise(e, QN_ERR_FORMAT, "filter tojson: got other separators, want two texts");
    between = both->items[0].text;
    key = both->items[1].text;
  }
  qn_buf buf;
  qn_buf_init(&buf, e->arena->allocator);
  const json_style style = {(int)indent, flag(args[1]), flag(args[3]), between, key};
  qn_status status = qn_jinja_put_json(e, self, &style, &buf);
  if (status == QN_OK) return qn_jinja_take_buffer(e, &buf, out);
  qn_buf_deinit(&buf);
  return status;
}

// ---- lists

FILTER(filter_list) {
  UNUSED();
  const qn_jinja_list *items;
  QN_TRY(qn_jinja_items_of(e, self, &items));
  value *copy;
  QN_TRY(qn_jinja_make_list(e, QN_JINJA_LIST, items->count, &copy, out));
  if (items->count > 0) memcpy(copy, items->items, items->count * sizeof *copy);
  return QN_OK;
}

FILTER(filter_first) {
  UNUSED();
  const qn_jinja_list *items;
  QN_TRY(qn_jinja_items_of(e, self, &items));
  if (items->count == 0) return qn_jinja_make_undefined(e, out, "there is no first item, the sequence is empty");
  *out = items->items[0];
  return QN_OK;
}

FILTER(filter_last) {
  UNUSED();
  const qn_jinja_list *items;
  QN_TRY(qn_jinja_items_of(e, self, &items));
  if (items->count == 0) return qn_jinja_make_undefined(e, out, "there is no last item, the sequence is empty");
  *out = items->items[items->count - 1];
  return QN_OK;
}

FILTER(filter_reverse) {
  UNUSED();
  const qn_jinja_list *items;
  value *turned;
  QN_TRY(qn_jinja_items_of(e, self, &items));
  QN_TRY(qn_jinja_make_list(e, QN_JINJA_LIST, items->count, &turned, out));
  for (size_t i = 0; i < items->count; i++) turned[i] = items->items[items->count - 1 - i];
  if (self.kind != QN_JINJA_STRING) return QN_OK;
  qn_buf buf;
  qn_buf_init(&buf, e->arena->allocator);
  for (size_t i = 0; i < items->count; i++) qn_buf_append(&buf, turned[i].text.data, turned[i].text.length);
  return qn_jinja_take_buffer(e, &buf, out);
}

FILTER(filter_items) {
  UNUSED();
  static const qn_jinja_map nothing;
  const qn_jinja_map *map = self.kind == QN_JINJA_MAP ? self.map : &nothing;
  if (self.kind != QN_JINJA_MAP && self.kind != QN_JINJA_UNDEFINED)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "filter items: got %s, want a dict", qn_jinja_kind_name(self));
  value *items, *pair;
  QN_TRY(qn_jinja_make_list(e, QN_JINJA_LIST, map->count, &items, out));
  for (size_t i = 0; i < map->count; i++) {
    QN_TRY(qn_jinja_make_list(e, QN_JINJA_TUPLE, 2, &pair, &items[i]));
    pair[0] = map->pairs[i].key;
    pair[1] = map->pairs[i].value;
  }
  return QN_OK;
}

// An item, or the attribute of it that is asked for.
static qn_status pick(evaluation *e, value v, value attribute, value *out) {
  *out = v;
  bool none = attribute.kind == QN_JINJA_ABSENT || attribute.kind == QN_JINJA_NONE;
  return none ? QN_OK : qn_jinja_get_path(e, v, attribute, out);
}

static qn_status put_joined(evaluation *e, const qn_jinja_list *items, qn_str between, value attribute, qn_buf *out) {
  for (size_t i = 0; i < items->count; i++) {
    value v;
    if (i > 0) QN_TRY(qn_jinja_print_value(e, qn_jinja_text(between), out));
    QN_TRY(pick(e, items->items[i], attribute, &v));
    QN_TRY(qn_jinja_print_value(e, v, out));
  }
  return QN_OK;
}

FILTER(filter_join) {
  UNUSED();
  const qn_jinja_list *items;
  qn_str between = QN_STR("");
  qn_buf buf;
  QN_TRY(qn_jinja_items_of(e, self, &items));
  if (args[0].kind != QN_JINJA_ABSENT) QN_TRY(qn_jinja_text_of(e, args[0], &between));
  qn_buf_init(&buf, e->arena->allocator);
  qn_status status = put_joined(e, items, between, args[1], &buf);
  if (status == QN_OK) return qn_jinja_take_buffer(e, &buf, out);
  qn_buf_deinit(&buf);
  return status;
}

FILTER(filter_sum) {
  UNUSED();
  const qn_jinja_list *items;
  QN_TRY(qn_jinja_items_of(e, self, &items));
  *out = args[1].kind == QN_JINJA_ABSENT ? qn_jinja_int(0) : args[1];
  for (size_t i = 0; i < items->count; i++) {
    value v;
    QN_TRY(pick(e, items->items[i], args[0], &v));
    QN_TRY(qn_jinja_arithmetic(e, OP_ADD, *out, v, out));
  }
  return QN_OK;
}

// ---- order

// What an item is compared by: itself or an attribute, in lower case unless case matters.
static qn_status sort_key(evaluation *e, value v, value attribute, bool with_case, value *out) {
  QN_TRY(pick(e, v, attribute, out));
  return !with_case && out->kind == QN_JINJA_STRING ? change_case(e, *out, CASE_LOWER, out) : QN_OK;
}

static qn_status sort_keys(evaluation *e, const qn_jinja_list *items, value attribute, bool with_case, value **out) {
  void *keys;
  QN_TRY(qn_jinja_take_array(e, items->count, sizeof(value), &keys));
  *out = keys;
  for (size_t i = 0; i < items->count; i++) QN_TRY(sort_key(e, items->items[i], attribute, with_case, &(*out)[i]));
  return QN_OK;
}

// Merges two neighbouring runs of `from` into `to`; places are into keys. Of equal ones the first stays first.
static qn_status merge_runs(evaluation *e, const value *keys, bool reverse, const size_t *from, size_t begin,
                            size_t middle, size_t end, size_t *to) {
  for (size_t a = begin, b = middle, i = begin; i < end; i++) {
    int order = 0;
    bool equal = true;
    if (a < middle && b < end) QN_TRY(qn_jinja_equal_values(e, keys[from[a]], keys[from[b]], &equal));
    if (!equal) {
      QN_TRY(qn_jinja_compare_values(e, keys[from[a]], keys[from[b]], &order));
      if (reverse) order = -order;
    }
    to[i] = a < middle && (b == end || order <= 0) ? from[a++] : from[b++];
  }
  return QN_OK;
}

static qn_status sort_places(evaluation *e, const value *keys, size_t count, bool reverse, const size_t **out) {
  void *memory;
  QN_TRY(qn_jinja_take_array(e, count, 2 * sizeof(size_t), &memory));
  size_t *from = memory, *to = from + count;
  for (size_t i = 0; i < count; i++) from[i] = i;
  for (size_t width = 1; width < count; width *= 2) {
    for (size_t begin = 0; begin < count; begin += 2 * width) {
      size_t middle = begin + width < count ? begin + width : count,
             end = middle + width < count ? middle + width : count;
      QN_TRY(merge_runs(e, keys, reverse, from, begin, middle, end, to));
    }
    size_t *swap = from;
    from = to;
    to = swap;
  }
  *out = from;
  return QN_OK;
}

static qn_status sort_items(evaluation *e, const qn_jinja_list *items, value attribute, bool with_case, bool reverse,
                            value *out) {
  value *keys, *sorted;
  const size_t *places;
  QN_TRY(sort_keys(e, items, attribute, with_case, &keys));
  QN_TRY(sort_places(e, keys, items->count, reverse, &places));
  QN_TRY(qn_jinja_make_list(e, QN_JINJA_LIST, items->count, &sorted, out));
  for (size_t i = 0; i < items->count; i++) sorted[i] = items->items[places[i]];
  return QN_OK;
}

FILTER(filter_sort) {
  UNUSED();
  const qn_jinja_list *items;
  QN_TRY(qn_jinja_items_of(e, self, &items));
  return sort_items(e, items, args[2], flag(args[1]), flag(args[0]), out);
}

FILTER(filter_dictsort) {
  UNUSED();
  value pairs;
  if (self.kind != QN_JINJA_MAP)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "filter dictsort: got %s, want a dict", qn_jinja_kind_name(self));
  bool by_value = qn_jinja_is_text(args[1], "value");
  if (args[1].kind != QN_JINJA_ABSENT && !by_value && !qn_jinja_is_text(args[1], "key"))
    return qn_jinja_raise(e, QN_ERR_FORMAT, "filter dictsort: got another order, want by key or value");
  QN_TRY(filter_items(e, self, args, all, &pairs));
  return sort_items(e, pairs.list, qn_jinja_int(by_value), flag(args[0]), flag(args[2]), out);
}

static qn_status extreme(evaluation *e, value self, const value *args, bool largest, value *out) {
  const qn_jinja_list *items;
  value *keys;
  size_t best = 0;
  QN_TRY(qn_jinja_items_of(e, self, &items));
  if (items->count == 0)
    return qn_jinja_make_undefined(e, out, "there is no %s item, the sequence is empty",
                                   largest ? "largest" : "smallest");
  QN_TRY(sort_keys(e, items, args[1], flag(args[0]), &keys));
  for (size_t i = 1; i < items->count; i++) {
    int order;
    QN_TRY(qn_jinja_compare_values(e, keys[i], keys[best], &order));
    if (largest ? order > 0 : order < 0) best = i;
  }
  *out = items->items[best];
  return QN_OK;
}

FILTER(filter_max) {
  UNUSED();
  return extreme(e, self, args, true, out);
}
FILTER(filter_min) {
  UNUSED();
  return extreme(e, self, args, false, out);
}

FILTER(filter_unique) {
  UNUSED();
  const qn_jinja_list *items;
  value *keys, *kept, list;
  size_t count = 0;
  QN_TRY(qn_jinja_items_of(e, self, &items));
  QN_TRY(sort_keys(e, items, args[1], flag(args[0]), &keys));
  QN_TRY(qn_jinja_make_list(e, QN_JINJA_LIST, items->count, &kept, &list));
  for (size_t i = 0; i < items->count; i++) {
    bool seen = false;
    for (size_t j = 0; j < count && !seen; j++) QN_TRY(qn_jinja_equal_values(e, keys[j], keys[i], &seen));
    if (seen) continue;
    keys[count] = keys[i];
    kept[count++] = items->items[i];
  }
  return qn_jinja_get_slice(e, list, ABSENT_VALUE, qn_jinja_int((int64_t)count), ABSENT_VALUE, out);
}

// ---- filters by filters and tests

// Arguments from the `first` on.
static arguments rest_of(const arguments *all, size_t first) {
  arguments rest = *all;
  rest.items += first;
  rest.count -= first;
  return rest;
}

static qn_status find_named(evaluation *e, const qn_jinja_builtin *table, const char *what, value name,
                            const qn_jinja_builtin **out) {
  *out = name.kind == QN_JINJA_STRING ? qn_jinja_find_builtin(table, name.text) : NULL;
  if (*out) return QN_OK;
  if (name.kind != QN_JINJA_STRING)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "got %s, want the name of a %s", qn_jinja_kind_name(name), what);
  return qn_jinja_raise(e, QN_ERR_FORMAT, "there is no %s '%.*s'", what,
                        (int)(name.text.length < 40 ? name.text.length : 40), name.text.data);
}

// As Jinja has it for these filters: None and everything empty have no items.
static qn_status items_if_any(evaluation *e, value v, const qn_jinja_list **out) {
  static const qn_jinja_list nothing;
  *out = &nothing;
  return qn_jinja_is_truthy(v) ? qn_jinja_items_of(e, v, out) : QN_OK;
}

static qn_status map_attribute(evaluation *e, const qn_jinja_list *items, const arguments *all, value *mapped) {
  value attribute = ABSENT_VALUE, standard = ABSENT_VALUE;
  for (size_t i = 0; i < all->named_count; i++) {
    if (qn_str_is(all->names[i], "attribute")) {
      attribute = all->named[i];
    } else if (qn_str_is(all->names[i], "default")) {
      standard = all->named[i];
    } else {
      return qn_jinja_raise(e, QN_ERR_FORMAT, "filter map: there is no argument '%.*s', want attribute and default",
                            QN_STR_ARGS(all->names[i]));
    }
  }
  if (attribute.kind == QN_JINJA_ABSENT)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "filter map: got no filter, want one or an attribute");
  for (size_t i = 0; i < items->count; i++) {
    QN_TRY(qn_jinja_get_path(e, items->items[i], attribute, &mapped[i]));
    if (mapped[i].kind == QN_JINJA_UNDEFINED && standard.kind != QN_JINJA_ABSENT) mapped[i] = standard;
  }
  return QN_OK;
}

FILTER(filter_map) {
  UNUSED();
  const qn_jinja_list *items;
  const qn_jinja_builtin *filter;
  value *mapped;
  QN_TRY(items_if_any(e, self, &items));
  QN_TRY(qn_jinja_make_list(e, QN_JINJA_LIST, items->count, &mapped, out));
  if (all->count == 0) return map_attribute(e, items, all, mapped);
  QN_TRY(find_named(e, qn_jinja_filters, "filter", all->items[0], &filter));
  arguments rest = rest_of(all, 1);
  for (size_t i = 0; i < items->count; i++)
    QN_TRY(qn_jinja_call_builtin(e, filter, "filter", items->items[i], &rest, &mapped[i]));
  return QN_OK;
}

// Keeps the items for which a test, of themselves or of an attribute, gives `want`.
static qn_status keep(evaluation *e, value self, const arguments *all, bool of_attribute, bool want, value *out) {
  const qn_jinja_list *items;
  const qn_jinja_builtin *test = NULL;
  size_t first = of_attribute ? 1 : 0, count = 0;
  value *kept, list;
  QN_TRY(items_if_any(e, self, &items));
  QN_TRY(qn_jinja_make_list(e, QN_JINJA_LIST, items->count, &kept, &list));
  if (all->count > first) QN_TRY(find_named(e, qn_jinja_tests, "test", all->items[first], &test));
  arguments rest = rest_of(all, all->count > first ? first + 1 : first);
  for (size_t i = 0; i < items->count; i++) {
    value v = items->items[i], holds;
    if (of_attribute) QN_TRY(qn_jinja_get_path(e, v, all->items[0], &v));
    holds = v;
    if (test) QN_TRY(qn_jinja_call_builtin(e, test, "test", v, &rest, &holds));
    if (qn_jinja_is_truthy(holds) == want) kept[count++] = items->items[i];
  }
  return qn_jinja_get_slice(e, list, ABSENT_VALUE, qn_jinja_int((int64_t)count), ABSENT_VALUE, out);
}

FILTER(filter_select) {
  UNUSED();
  return keep(e, self, all, false, true, out);
}
FILTER(filter_reject) {
  UNUSED();
  return keep(e, self, all, false, false, out);
}
FILTER(filter_selectattr) {
  UNUSED();
  return keep(e, self, all, true, true, out);
}
FILTER(filter_rejectattr) {
  UNUSED();
  return keep(e, self, all, true, false, out);
}

const qn_jinja_builtin qn_jinja_filters[] = {
    {"abs", filter_abs, "", 0},
    {"attr", filter_attr, "name", 1},
    {"capitalize", filter_capitalize, "", 0},
    {"count", filter_length, "", 0},
    {"d", filter_default, "default_value,boolean", 0},
    {"default", filter_default, "default_value,boolean", 0},
    {"dictsort", filter_dictsort, "case_sensitive,by,reverse", 0},
    {"e", filter_escape, "", 0},
    {"escape", filter_escape, "", 0},
    {"first", filter_first, "", 0},
    {"float", filter_float, "default", 0},
    {"indent", filter_indent, "width,first,blank", 0},
    {"int", filter_int, "default,base", 0},
    {"items", filter_items, "", 0},
    {"join", filter_join, "d,attribute", 0},
    {"last", filter_last, "", 0},
    {"length", filter_length, "", 0},
    {"list", filter_list, "", 0},
    {"lower", filter_lower, "", 0},
    {"map", filter_map, "*", 0},
    {"max", filter_max, "case_sensitive,attribute", 0},
    {"min", filter_min, "case_sensitive,attribute", 0},
    {"reject", filter_reject, "*", 0},
    {"rejectattr", filter_rejectattr, "*", 1},
    {"replace", filter_replace, "old,new,count", 2},
    {"reverse", filter_reverse, "", 0},
    {"round", filter_round, "precision,method", 0},
    {"safe", filter_safe, "", 0},
    {"select", filter_select, "*", 0},
    {"selectattr", filter_selectattr, "*", 1},
    {"sort", filter_sort, "reverse,case_sensitive,attribute", 0},
    {"string", filter_string, "", 0},
    {"sum", filter_sum, "attribute,start", 0},
    {"title", filter_title, "", 0},
    {"tojson", filter_tojson, "indent,ensure_ascii,separators,sort_keys", 0},
    {"trim", filter_trim, "chars", 0},
    {"unique", filter_unique, "case_sensitive,attribute", 0},
    {"upper", filter_upper, "", 0},
    {"wordcount", filter_wordcount, "", 0},
    {NULL, NULL, NULL, 0},
};
