// Methods of texts, dicts, lists and loop, and the global functions: one entry of a table each. What would change a
// list or a dict is not there.
#include <time.h>

#include "runtime/jinja_impl.h"

#define METHOD(name) \
  static qn_status name(evaluation *e, value self, const value *args, const arguments *all, value *out)
#define UNUSED() (void)e, (void)self, (void)args, (void)all

const qn_jinja_builtin *qn_jinja_find_builtin(const qn_jinja_builtin *table, qn_str name) {
  for (; table->name; table++)
    if (qn_str_is(name, table->name)) return table;
  return NULL;
}

// ---- arguments

static qn_status need_text(evaluation *e, const char *method, value v, qn_str *out) {
  *out = (qn_str){"", 0};
  QN_TRY(qn_jinja_need_defined(e, v));
  if (v.kind != QN_JINJA_STRING)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "%s: got %s, want a text", method, qn_jinja_kind_name(v));
  *out = v.text;
  return QN_OK;
}

// An integer, `standard` where it is not given.
static qn_status take_integer(evaluation *e, const char *method, value v, int64_t standard, int64_t *out) {
  *out = standard;
  if (v.kind == QN_JINJA_ABSENT || v.kind == QN_JINJA_NONE) return QN_OK;
  QN_TRY(qn_jinja_need_defined(e, v));
  if (v.kind != QN_JINJA_INT && v.kind != QN_JINJA_BOOL)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "%s: got %s, want an integer", method, qn_jinja_kind_name(v));
  *out = qn_jinja_integer_of(v);
  return QN_OK;
}

// The part of a text from args[1] to args[2] (characters), and the byte it begins at.
static qn_status take_part(evaluation *e, const char *method, qn_str text, const value *args, qn_str *out) {
  value part;
  *out = text;
  if (args[1].kind == QN_JINJA_ABSENT && args[2].kind == QN_JINJA_ABSENT) return QN_OK;
  int64_t unused;
  QN_TRY(take_integer(e, method, args[1], 0, &unused));
  QN_TRY(take_integer(e, method, args[2], 0, &unused));
  QN_TRY(qn_jinja_get_slice(e, qn_jinja_text(text), args[1], args[2], ABSENT_VALUE, &part));
  *out = part.kind == QN_JINJA_STRING ? part.text : (qn_str){text.data + text.length, 0};
  if (out->length == 0) *out = (qn_str){text.data + text.length, 0};
  return QN_OK;
}

// ---- texts

static qn_status change_case(evaluation *e, value self, letter_case to, value *out) {
  qn_buf buf;
  qn_buf_init(&buf, e->arena->allocator);
  qn_jinja_put_case(self.text, to, &buf);
  return qn_jinja_take_buffer(e, &buf, out);
}
METHOD(text_lower) {
  UNUSED();
  return change_case(e, self, CASE_LOWER, out);
}
METHOD(text_upper) {
  UNUSED();
  return change_case(e, self, CASE_UPPER, out);
}
METHOD(text_title) {
  UNUSED();
  return change_case(e, self, CASE_TITLE, out);
}
METHOD(text_capitalize) {
  UNUSED();
  return change_case(e, self, CASE_CAPITAL, out);
}

static qn_status strip(evaluation *e, value self, const value *args, bool left, bool right, value *out) {
  qn_str set;
  QN_TRY(qn_jinja_charge(e, self.text.length));
  if (args[0].kind == QN_JINJA_ABSENT || args[0].kind == QN_JINJA_NONE) {
    *out = qn_jinja_text(qn_jinja_strip_text(self.text, left, right));
    return QN_OK;
  }
  QN_TRY(need_text(e, "strip", args[0], &set));
  *out = qn_jinja_text(qn_jinja_strip_characters(self.text, set, left, right));
  return QN_OK;
}
METHOD(text_strip) {
  UNUSED();
  return strip(e, self, args, true, true, out);
}
METHOD(text_lstrip) {
  UNUSED();
  return strip(e, self, args, true, false, out);
}
METHOD(text_rstrip) {
  UNUSED();
  return strip(e, self, args, false, true, out);
}

static bool begins_with(qn_str text, qn_str part) {
  return text.length >= part.length && (part.length == 0 || memcmp(text.data, part.data, part.length) == 0);
}
static bool ends_with(qn_str text, qn_str part) {
  return text.length >= part.length &&
         (part.length == 0 || memcmp(text.data + text.length - part.length, part.data, part.length) == 0);
}

// args[0]: a text, or a tuple of which one has to fit.
static qn_status fits(evaluation *e, value self, const value *args, const char *method, bool (*test)(qn_str, qn_str),
                      value *out) {
  qn_str text, part;
  bool found = false;
  QN_TRY(take_part(e, method, self.text, args, &text));
  QN_TRY(qn_jinja_charge(e, 0));
  if (args[0].kind != QN_JINJA_TUPLE) {
    QN_TRY(need_text(e, method, args[0], &part));
    found = test(text, part);
  }
  for (size_t i = 0; args[0].kind == QN_JINJA_TUPLE && !found && i < args[0].list->count; i++) {
    QN_TRY(need_text(e, method, args[0].list->items[i], &part));
    QN_TRY(qn_jinja_charge(e, part.length));
    found = test(text, part);
  }
  *out = qn_jinja_bool(found);
  return QN_OK;
}
METHOD(text_startswith) {
  UNUSED();
  return fits(e, self, args, "startswith", begins_with, out);
}
METHOD(text_endswith) {
  UNUSED();
  return fits(e, self, args, "endswith", ends_with, out);
}

METHOD(text_removeprefix) {
  UNUSED();
  qn_str part;
  QN_TRY(need_text(e, "removeprefix", args[0], &part));
  size_t cut = begins_with(self.text, part) ? part.length : 0;
  *out = qn_jinja_text((qn_str){self.text.data + cut, self.text.length - cut});
  return QN_OK;
}
METHOD(text_removesuffix) {
  UNUSED();
  qn_str part;
  QN_TRY(need_text(e, "removesuffix", args[0], &part));
  size_t cut = ends_with(self.text, part) ? part.length : 0;
  *out = qn_jinja_text((qn_str){self.text.data, self.text.length - cut});
  return QN_OK;
}

static size_t find_last(qn_str text, qn_str part) {
  for (size_t at = text.length - (part.length <= text.length ? part.length : text.length) + 1; at-- > 0;)
    if (begins_with((qn_str){text.data + at, text.length - at}, part)) return at;
  return SIZE_MAX;
}

// The place of args[0] in characters, -1 where it is not.
static qn_status find(evaluation *e, value self, const value *args, bool last, int64_t *out) {
  qn_str text, part;
  QN_TRY(need_text(e, "find", args[0], &part));
  QN_TRY(take_part(e, "find", self.text, args, &text));
  QN_TRY(qn_jinja_charge(e, last ? text.length * (1 + part.length / 16) : text.length));
  size_t at = last ? find_last(text, part) : qn_jinja_find_text(text, part, 0);
  *out = -1;
  if (at != SIZE_MAX)
    *out = (int64_t)qn_jinja_count_characters((qn_str){self.text.data, (size_t)(text.data - self.text.data) + at});
  return QN_OK;
}
METHOD(text_find) {
  UNUSED();
  int64_t place;
  QN_TRY(find(e, self, args, false, &place));
  *out = qn_jinja_int(place);
  return QN_OK;
}
METHOD(text_rfind) {
  UNUSED();
  int64_t place;
  QN_TRY(find(e, self, args, true, &place));
  *out = qn_jinja_int(place);
  return QN_OK;
}
METHOD(text_index) {
  UNUSED();
  int64_t place;
  QN_TRY(find(e, self, args, false, &place));
  if (place < 0) return qn_jinja_raise(e, QN_ERR_FORMAT, "index: the text is not there");
  *out = qn_jinja_int(place);
  return QN_OK;
}

METHOD(text_count) {
  UNUSED();
  qn_str text, part;
  int64_t count = 0;
  QN_TRY(need_text(e, "count", args[0], &part));
  QN_TRY(take_part(e, "count", self.text, args, &text));
  QN_TRY(qn_jinja_charge(e, text.length));
  if (part.length == 0) count = (int64_t)qn_jinja_count_characters(text) + 1;
  for (size_t at = 0; part.length > 0 && (at = qn_jinja_find_text(text, part, at)) != SIZE_MAX; at += part.length)
    count++;
  *out = qn_jinja_int(count);
  return QN_OK;
}

// Every `old` becomes `with`, at most `count` of them; an empty one is found before each character and at the end.
static void put_replaced(evaluation *e, qn_str text, qn_str old, qn_str with, int64_t count, qn_buf *out) {
  size_t at = 0;
  while (count != 0 && out->length <= e->bytes_left) {
    size_t found = qn_jinja_find_text(text, old, at);
    if (found == SIZE_MAX) break;
    qn_buf_append(out, text.data + at, found - at);
    qn_buf_append(out, with.data, with.length);
    at = found + old.length;
    if (old.length == 0) {
      if (at >= text.length) return;
      size_t size = qn_jinja_character_at(text, at);
      qn_buf_append(out, text.data + at, size);
      at += size;
    }
    count--;
  }
  qn_buf_append(out, text.data + at, text.length - at);
}

METHOD(text_replace) {
  UNUSED();
  qn_str old, with;
  int64_t count;
  qn_buf buf;
  QN_TRY(need_text(e, "replace", args[0], &old));
  QN_TRY(need_text(e, "replace", args[1], &with));
  QN_TRY(take_integer(e, "replace", args[2], -1, &count));
  QN_TRY(qn_jinja_charge(e, self.text.length));
  qn_buf_init(&buf, e->arena->allocator);
  put_replaced(e, self.text, old, with, count, &buf);
  return qn_jinja_take_buffer(e, &buf, out);
}

METHOD(text_join) {
  UNUSED();
  const qn_jinja_list *items;
  qn_buf buf;
  qn_status status = QN_OK;
  QN_TRY(qn_jinja_items_of(e, args[0], &items));
  qn_buf_init(&buf, e->arena->allocator);
  for (size_t i = 0; status == QN_OK && i < items->count; i++) {
    qn_str text;
    if (i > 0) status = qn_jinja_print_value(e, self, &buf);
    if (status == QN_OK) status = need_text(e, "join", items->items[i], &text);
    if (status == QN_OK) status = qn_jinja_print_value(e, items->items[i], &buf);
  }
  if (status == QN_OK) return qn_jinja_take_buffer(e, &buf, out);
  qn_buf_deinit(&buf);
  return status;
}

// ---- splitting

typedef QN_VEC(value) parts;

static qn_status add_part(evaluation *e, parts *to, const char *data, size_t length) {
  if (2 * sizeof(value) > e->bytes_left)
    return qn_jinja_raise(e, QN_ERR_LIMIT, "the template makes more than %zu bytes of values; does it loop?", e->bytes);
  e->bytes_left -= 2 * sizeof(value);
  QN_TRY(qn_jinja_charge(e, length));
  return qn_vec_push_arena(e->arena, to, qn_jinja_text((qn_str){data, length})) ? QN_OK : qn_jinja_nomem(e);
}

static qn_status list_of(evaluation *e, const parts *from, value *out) {
  void *memory;
  QN_TRY(qn_jinja_take_memory(e, sizeof(qn_jinja_list), &memory));
  *(qn_jinja_list *)memory = (qn_jinja_list){from->items, from->count};
  *out = (value){.kind = QN_JINJA_LIST, .list = memory};
  return QN_OK;
}

// At white space, runs of which are one.
static qn_status split_words(evaluation *e, qn_str text, int64_t most, parts *to) {
  size_t at = 0, size;
  for (;;) {
    while (at < text.length && qn_jinja_is_space(text, at, &size)) at += size;
    if (at == text.length) return QN_OK;
    if (most >= 0 && (int64_t)to->count == most) {
      qn_str rest = qn_jinja_strip_text((qn_str){text.data + at, text.length - at}, false, true);
      return add_part(e, to, rest.data, rest.length);
    }
    size_t begin = at;
    while (at < text.length && !qn_jinja_is_space(text, at, &size)) at += size;
    QN_TRY(add_part(e, to, text.data + begin, at - begin));
  }
}

static qn_status split_at(evaluation *e, qn_str text, qn_str by, int64_t most, parts *to) {
  size_t at = 0, found;
  while ((most < 0 || (int64_t)to->count < most) && (found = qn_jinja_find_text(text, by, at)) != SIZE_MAX) {
    QN_TRY(add_part(e, to, text.data + at, found - at));
    at = found + by.length;
  }
  return add_part(e, to, text.data + at, text.length - at);
}

// From the end: parts come in the wrong order.
static qn_status split_back(evaluation *e, qn_str text, qn_str by, int64_t most, parts *to) {
  size_t found;
  QN_TRY(qn_jinja_charge(e, text.length * (1 + by.length / 16)));  // all of it is looked at once
  while ((most < 0 || (int64_t)to->count < most) && (found = find_last(text, by)) != SIZE_MAX) {
    QN_TRY(add_part(e, to, text.data + found + by.length, text.length - found - by.length));
    text.length = found;
  }
  QN_TRY(add_part(e, to, text.data, text.length));
  for (size_t i = 0; i < to->count / 2; i++) {
    value other = to->items[i];
    to->items[i] = to->items[to->count - 1 - i];
    to->items[to->count - 1 - i] = other;
  }
  return QN_OK;
}

static qn_status split(evaluation *e, value self, const value *args, bool back, value *out) {
  parts found = {0};
  qn_str by;
  int64_t most;
  QN_TRY(take_integer(e, "split", args[1], -1, &most));
  if (args[0].kind == QN_JINJA_ABSENT || args[0].kind == QN_JINJA_NONE) {
    if (back && most >= 0)
      return qn_jinja_raise(e, QN_ERR_UNSUPPORTED, "rsplit: got a most number of parts and no separator");
    QN_TRY(split_words(e, self.text, most, &found));
    return list_of(e, &found, out);
  }
  QN_TRY(need_text(e, "split", args[0], &by));
  if (by.length == 0) return qn_jinja_raise(e, QN_ERR_FORMAT, "split: got an empty separator");
  QN_TRY(back ? split_back(e, self.text, by, most, &found) : split_at(e, self.text, by, most, &found));
  return list_of(e, &found, out);
}
METHOD(text_split) {
  UNUSED();
  return split(e, self, args, false, out);
}
METHOD(text_rsplit) {
  UNUSED();
  return split(e, self, args, true, out);
}

METHOD(text_splitlines) {
  UNUSED();
  parts found = {0};
  bool ends = qn_jinja_is_truthy(args[0]);
  qn_str text = self.text;
  for (size_t at = 0; at < text.length;) {
    size_t begin = at, end;
    while (at < text.length && text.data[at] != '\n' && text.data[at] != '\r') at++;
    end = at;
    if (at < text.length) at += begins_with((qn_str){text.data + at, text.length - at}, QN_STR("\r\n")) ? 2 : 1;
    QN_TRY(add_part(e, &found, text.data + begin, (ends ? at : end) - begin));
  }
  return list_of(e, &found, out);
}

METHOD(text_isdigit) {
  UNUSED();
  bool all_digits = self.text.length > 0;
  for (size_t i = 0; i < self.text.length; i++)
    all_digits = all_digits && self.text.data[i] >= '0' && self.text.data[i] <= '9';
  *out = qn_jinja_bool(all_digits);
  return qn_jinja_charge(e, self.text.length);
}
METHOD(text_isspace) {
  UNUSED();
  *out = qn_jinja_bool(self.text.length > 0 && qn_jinja_strip_text(self.text, true, false).length == 0);
  return qn_jinja_charge(e, self.text.length);
}

const qn_jinja_builtin qn_jinja_string_methods[] = {
    {"capitalize", text_capitalize, "", 0},
    {"count", text_count, "sub,start,end", 1},
    {"endswith", text_endswith, "suffix,start,end", 1},
    {"find", text_find, "sub,start,end", 1},
    {"index", text_index, "sub,start,end", 1},
    {"isdigit", text_isdigit, "", 0},
    {"isspace", text_isspace, "", 0},
    {"join", text_join, "iterable", 1},
    {"lower", text_lower, "", 0},
    {"lstrip", text_lstrip, "chars", 0},
    {"removeprefix", text_removeprefix, "prefix", 1},
    {"removesuffix", text_removesuffix, "suffix", 1},
    {"replace", text_replace, "old,new,count", 2},
    {"rfind", text_rfind, "sub,start,end", 1},
    {"rsplit", text_rsplit, "sep,maxsplit", 0},
    {"rstrip", text_rstrip, "chars", 0},
    {"split", text_split, "sep,maxsplit", 0},
    {"splitlines", text_splitlines, "keepends", 0},
    {"startswith", text_startswith, "prefix,start,end", 1},
    {"strip", text_strip, "chars", 0},
    {"title", text_title, "", 0},
    {"upper", text_upper, "", 0},
    {NULL, NULL, NULL, 0},
};

// ---- dicts

METHOD(map_items) {
  UNUSED();
  return qn_jinja_find_builtin(qn_jinja_filters, QN_STR("items"))->call(e, self, args, all, out);
}
METHOD(map_keys) {
  UNUSED();
  const qn_jinja_list *keys;
  QN_TRY(qn_jinja_items_of(e, self, &keys));
  *out = (value){.kind = QN_JINJA_LIST, .list = keys};
  return QN_OK;
}
METHOD(map_values) {
  UNUSED();
  value *items;
  QN_TRY(qn_jinja_make_list(e, QN_JINJA_LIST, self.map->count, &items, out));
  for (size_t i = 0; i < self.map->count; i++) items[i] = self.map->pairs[i].value;
  return QN_OK;
}
METHOD(map_get) {
  UNUSED();
  qn_jinja_pair *found;
  QN_TRY(qn_jinja_find_pair(e, self.map, args[0], &found));
  *out = found ? found->value : args[1].kind == QN_JINJA_ABSENT ? NONE_VALUE : args[1];
  return QN_OK;
}

const qn_jinja_builtin qn_jinja_map_methods[] = {
    {"get", map_get, "key,default", 1}, {"items", map_items, "", 0}, {"keys", map_keys, "", 0},
    {"values", map_values, "", 0},      {NULL, NULL, NULL, 0},
};

// ---- lists

METHOD(list_index) {
  UNUSED();
  for (size_t i = 0; i < self.list->count; i++) {
    bool equal;
    QN_TRY(qn_jinja_equal_values(e, self.list->items[i], args[0], &equal));
    if (!equal) continue;
    *out = qn_jinja_int((int64_t)i);
    return QN_OK;
  }
  return qn_jinja_raise(e, QN_ERR_FORMAT, "index: the value is not in the list");
}
METHOD(list_count) {
  UNUSED();
  int64_t count = 0;
  for (size_t i = 0; i < self.list->count; i++) {
    bool equal;
    QN_TRY(qn_jinja_equal_values(e, self.list->items[i], args[0], &equal));
    count += equal;
  }
  *out = qn_jinja_int(count);
  return QN_OK;
}

// The template's values are the caller's: none of them changes.
METHOD(list_change) {
  UNUSED();
  *out = ABSENT_VALUE;
  return qn_jinja_raise(e, QN_ERR_FORMAT, "a template must not change a list; make a new one with +");
}

const qn_jinja_builtin qn_jinja_list_methods[] = {
    {"append", list_change, "*", 0}, {"count", list_count, "value", 1},
    {"extend", list_change, "*", 0}, {"index", list_index, "value", 1},
    {"insert", list_change, "*", 0}, {"pop", list_change, "*", 0},
    {NULL, NULL, NULL, 0},
};

// ---- loop

METHOD(loop_cycle) {
  UNUSED();
  *out = all->items[self.loop->index % all->count];
  return QN_OK;
}
METHOD(loop_changed) {
  UNUSED();
  value now, *items;
  bool equal = false;
  QN_TRY(qn_jinja_make_list(e, QN_JINJA_TUPLE, all->count, &items, &now));
  for (size_t i = 0; i < all->count; i++) items[i] = all->items[i];
  if (self.loop->changed.kind != QN_JINJA_ABSENT) QN_TRY(qn_jinja_equal_values(e, self.loop->changed, now, &equal));
  self.loop->changed = now;
  *out = qn_jinja_bool(!equal);
  return QN_OK;
}

const qn_jinja_builtin qn_jinja_loop_methods[] = {
    {"changed", loop_changed, "*", 0},
    {"cycle", loop_cycle, "*", 1},
    {NULL, NULL, NULL, 0},
};

// ---- global functions

METHOD(global_range) {
  UNUSED();
  enum { MOST = 100000 };  // Jinja's
  int64_t start = 0, stop, step;
  bool one = args[1].kind == QN_JINJA_ABSENT;
  QN_TRY(qn_jinja_need_defined(e, args[0]));
  QN_TRY(take_integer(e, "range", args[0], 0, one ? &stop : &start));
  if (!one) QN_TRY(take_integer(e, "range", args[1], 0, &stop));
  QN_TRY(take_integer(e, "range", args[2], 1, &step));
  if (step == 0) return qn_jinja_raise(e, QN_ERR_FORMAT, "range: got steps of 0");
  value *items;
  uint64_t distance = 0, stride = step > 0 ? (uint64_t)step : -(uint64_t)step;
  if (step > 0 ? start < stop : start > stop)
    distance = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
  uint64_t count = distance / stride + (distance % stride != 0);
  if (count > MOST) return qn_jinja_raise(e, QN_ERR_LIMIT, "range: got more than %d numbers", MOST);
  QN_TRY(qn_jinja_make_list(e, QN_JINJA_LIST, (size_t)count, &items, out));
  for (size_t i = 0; i < (size_t)count; i++) items[i] = qn_jinja_int((int64_t)((uint64_t)start + i * (uint64_t)step));
  return QN_OK;
}

// Named arguments as pairs, after those of maps given without names.
static qn_status make_map(evaluation *e, const char *what, const arguments *all, value *out) {
  QN_TRY(qn_jinja_new_map(e, out));
  for (size_t i = 0; i < all->count; i++) {
    value from = all->items[i];
    if (from.kind != QN_JINJA_MAP)
      return qn_jinja_raise(e, QN_ERR_FORMAT, "%s: got %s, want a dict", what, qn_jinja_kind_name(from));
    for (size_t j = 0; j < from.map->count; j++)
      QN_TRY(qn_jinja_put_pair(e, out->map, from.map->pairs[j].key, from.map->pairs[j].value));
  }
  for (size_t i = 0; i < all->named_count; i++)
    QN_TRY(qn_jinja_put_pair(e, out->map, qn_jinja_text(all->names[i]), all->named[i]));
  return QN_OK;
}
METHOD(global_dict) {
  UNUSED();
  return make_map(e, "dict", all, out);
}
METHOD(global_namespace) {
  UNUSED();
  QN_TRY(make_map(e, "namespace", all, out));
  out->kind = QN_JINJA_NAMESPACE;
  return QN_OK;
}

METHOD(global_raise) {
  UNUSED();
  qn_str text;
  QN_TRY(qn_jinja_text_of(e, args[0], &text));
  *out = ABSENT_VALUE;
  return qn_jinja_raise(e, QN_ERR_ARGUMENT, "the template refuses these messages: %.*s",
                        (int)(text.length < 500 ? text.length : 500), text.data);
}

METHOD(global_now) {
  UNUSED();
  qn_str format;
  char pattern[128], text[512];
  struct tm local;
  QN_TRY(need_text(e, "strftime_now", args[0], &format));
  if (format.length >= sizeof pattern)
    return qn_jinja_raise(e, QN_ERR_LIMIT, "strftime_now: got a format of %zu bytes, want less than %zu", format.length,
                          sizeof pattern);
  if (format.length > 0) memcpy(pattern, format.data, format.length);
  pattern[format.length] = '\0';
  time_t now = e->now ? (time_t)e->now : time(NULL);
  if (!localtime_r(&now, &local))
    return qn_jinja_raise(e, QN_ERR_FORMAT, "strftime_now: there is no time %lld", (long long)now);
  size_t length = strftime(text, sizeof text, pattern, &local);
  if (length == 0 && format.length > 0 && pattern[0] != '\0')
    return qn_jinja_raise(e, QN_ERR_LIMIT, "strftime_now: got a format that makes no text, or more than %zu bytes",
                          sizeof text);
  return qn_jinja_copy_text(e, text, length, out);
}

const qn_jinja_builtin qn_jinja_globals[] = {
    {"dict", global_dict, "*", 0},
    {"namespace", global_namespace, "*", 0},
    {"raise_exception", global_raise, "message", 1},
    {"range", global_range, "start,stop,step", 1},
    {"strftime_now", global_now, "format", 1},
    {NULL, NULL, NULL, 0},
};
