// What operators, attributes and indices give.
#include <math.h>

#include "runtime/jinja_impl.h"

static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "**"};

static qn_status no_operation(evaluation *e, qn_jinja_op op, value a, value b) {
  QN_TRY(qn_jinja_need_defined(e, a));
  QN_TRY(qn_jinja_need_defined(e, b));
  return qn_jinja_raise(e, QN_ERR_FORMAT, "%s %s %s means nothing", qn_jinja_kind_name(a), signs[op],
                        qn_jinja_kind_name(b));
}

static qn_status too_large(evaluation *e, qn_jinja_op op) {
  return qn_jinja_raise(e, QN_ERR_FORMAT, "%s gives an integer that 64 bits do not hold", signs[op]);
}

// Python's: rounded down, the rest has the divisor's sign.
static int64_t floor_quotient(int64_t a, int64_t b, int64_t *out_rest) {
  int64_t quotient = a / b, rest = a % b;
  if (rest != 0 && (rest < 0) != (b < 0)) {
    quotient--;
    rest += b;
  }
  *out_rest = rest;
  return quotient;
}

static bool integer_power(int64_t base, int64_t exponent, int64_t *out) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) return false;
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return false;
  }
  *out = result;
  return true;
}

static qn_status integer_arithmetic(evaluation *e, qn_jinja_op op, int64_t a, int64_t b, value *out) {
  int64_t result = 0, rest;
  bool fits = true;
  switch (op) {
    case OP_ADD: fits = !__builtin_add_overflow(a, b, &result); break;
    case OP_SUBTRACT: fits = !__builtin_sub_overflow(a, b, &result); break;
    case OP_MULTIPLY: fits = !__builtin_mul_overflow(a, b, &result); break;
    case OP_POWER: fits = integer_power(a, b, &result); break;
    default:
      fits = a != INT64_MIN || b != -1;
      if (fits) result = floor_quotient(a, b, &rest);
      if (fits && op == OP_MODULO) result = rest;
  }
  if (!fits) return too_large(e, op);
  *out = qn_jinja_int(result);
  return QN_OK;
}

static double real_arithmetic(qn_jinja_op op, double a, double b) {
  switch (op) {
    case OP_ADD: return a + b;
    case OP_SUBTRACT: return a - b;
    case OP_MULTIPLY: return a * b;
    case OP_DIVIDE: return a / b;
    case OP_FLOOR: return floor(a / b);
    case OP_MODULO: return a - floor(a / b) * b;
    default: return pow(a, b);
  }
}

static qn_status number_arithmetic(evaluation *e, qn_jinja_op op, value a, value b, value *out) {
  bool divides = op == OP_DIVIDE || op == OP_FLOOR || op == OP_MODULO;
  bool real = a.kind == QN_JINJA_FLOAT || b.kind == QN_JINJA_FLOAT || op == OP_DIVIDE ||
              (op == OP_POWER && qn_jinja_number_of(b) < 0);
  if (divides && qn_jinja_number_of(b) == 0) return qn_jinja_raise(e, QN_ERR_FORMAT, "got a division by zero");
  if (!real) return integer_arithmetic(e, op, qn_jinja_integer_of(a), qn_jinja_integer_of(b), out);
  *out = (value){.kind = QN_JINJA_FLOAT, .real = real_arithmetic(op, qn_jinja_number_of(a), qn_jinja_number_of(b))};
  return QN_OK;
}

static qn_status join_texts(evaluation *e, qn_str a, qn_str b, value *out) {
  size_t length;
  void *memory;
  if (!qn_size_add(a.length, b.length, &length)) length = SIZE_MAX - 1;
  QN_TRY(qn_jinja_take_memory(e, length + 1, &memory));
  char *text = memory;
  if (a.length > 0) memcpy(text, a.data, a.length);
  if (b.length > 0) memcpy(text + a.length, b.data, b.length);
  *out = qn_jinja_text((qn_str){text, length});
  return QN_OK;
}

static qn_status join_lists(evaluation *e, value a, value b, value *out) {
  value *items;
  QN_TRY(qn_jinja_make_list(e, a.kind, a.list->count + b.list->count, &items, out));
  if (a.list->count > 0) memcpy(items, a.list->items, a.list->count * sizeof *items);
  if (b.list->count > 0) memcpy(items + a.list->count, b.list->items, b.list->count * sizeof *items);
  return QN_OK;
}

// A text or list so many times; `times` may be negative.
static qn_status repeat(evaluation *e, value v, int64_t times, value *out) {
  bool text = v.kind == QN_JINJA_STRING;
  size_t one = text ? v.text.length : v.list->count, count = times > 0 ? (size_t)times : 0, total;
  if (!qn_size_mul(one, count, &total)) total = SIZE_MAX / sizeof(value);
  if (text) {
    void *memory;
    QN_TRY(qn_jinja_take_memory(e, total + 1, &memory));
    for (size_t i = 0; one > 0 && i < count; i++) memcpy((char *)memory + i * one, v.text.data, one);
    *out = qn_jinja_text((qn_str){memory, total});
    return QN_OK;
  }
  value *items;
  QN_TRY(qn_jinja_make_list(e, v.kind, total, &items, out));
  for (size_t i = 0; one > 0 && i < count; i++) memcpy(items + i * one, v.list->items, one * sizeof *items);
  return QN_OK;
}

static bool is_sequence(value v) {
  return v.kind == QN_JINJA_STRING || v.kind == QN_JINJA_LIST || v.kind == QN_JINJA_TUPLE;
}
static bool is_whole(value v) { return v.kind == QN_JINJA_INT || v.kind == QN_JINJA_BOOL; }

qn_status qn_jinja_arithmetic(evaluation *e, qn_jinja_op op, value a, value b, value *out) {
  if (qn_jinja_is_number(a) && qn_jinja_is_number(b)) return number_arithmetic(e, op, a, b, out);
  if (op == OP_ADD && a.kind == b.kind && is_sequence(a))
    return a.kind == QN_JINJA_STRING ? join_texts(e, a.text, b.text, out) : join_lists(e, a, b, out);
  if (op == OP_MULTIPLY && is_sequence(a) && is_whole(b)) return repeat(e, a, qn_jinja_integer_of(b), out);
  if (op == OP_MULTIPLY && is_sequence(b) && is_whole(a)) return repeat(e, b, qn_jinja_integer_of(a), out);
  if (op == OP_MODULO && a.kind == QN_JINJA_STRING)
    return qn_jinja_raise(e, QN_ERR_UNSUPPORTED, "got %% after a text, want its parts joined by ~ instead");
  return no_operation(e, op, a, b);
}

// ---- attributes

static qn_status loop_attribute(evaluation *e, struct qn_jinja_loop *loop, qn_str name, value *out) {
  size_t count = loop->items->count, index = loop->index;
  const struct {
    const char *name;
    value v;
  } numbers[] = {{"index", qn_jinja_int((int64_t)index + 1)},
                 {"index0", qn_jinja_int((int64_t)index)},
                 {"revindex", qn_jinja_int((int64_t)(count - index))},
                 {"revindex0", qn_jinja_int((int64_t)(count - index) - 1)},
                 {"first", qn_jinja_bool(index == 0)},
                 {"last", qn_jinja_bool(index + 1 == count)},
                 {"length", qn_jinja_int((int64_t)count)},
                 {"depth", qn_jinja_int((int64_t)loop->depth + 1)},
                 {"depth0", qn_jinja_int((int64_t)loop->depth)}};
  for (size_t i = 0; i < QN_COUNT(numbers); i++) {
    if (!qn_str_is(name, numbers[i].name)) continue;
    *out = numbers[i].v;
    return QN_OK;
  }
  bool previous = qn_str_is(name, "previtem"), next = qn_str_is(name, "nextitem");
  if (previous && index > 0) *out = loop->items->items[index - 1];
  if (next && index + 1 < count) *out = loop->items->items[index + 1];
  if (out->kind != QN_JINJA_ABSENT) return QN_OK;
  if (previous || next) return qn_jinja_make_undefined(e, out, "there is no %s item", previous ? "previous" : "next");
  return QN_OK;
}

static const qn_jinja_builtin *methods_of(value v) {
  switch (v.kind) {
    case QN_JINJA_STRING: return qn_jinja_string_methods;
    case QN_JINJA_MAP: return qn_jinja_map_methods;
    case QN_JINJA_LIST:
    case QN_JINJA_TUPLE: return qn_jinja_list_methods;
    case QN_JINJA_LOOP: return qn_jinja_loop_methods;
    default: return NULL;
  }
}

static qn_status find_method(evaluation *e, value v, qn_str name, value *out) {
  const qn_jinja_builtin *table = methods_of(v), *found = table ? qn_jinja_find_builtin(table, name) : NULL;
  void *memory;
  if (!found) return QN_OK;
  QN_TRY(qn_jinja_take_memory(e, sizeof(qn_jinja_function), &memory));
  *(qn_jinja_function *)memory = (qn_jinja_function){found, v};
  *out = (value){.kind = QN_JINJA_FUNCTION, .function = memory};
  return QN_OK;
}

static qn_status no_attribute(evaluation *e, value v, qn_str name, value *out) {
  return qn_jinja_make_undefined(e, out, "%s has no attribute '%.*s'", qn_jinja_kind_name(v),
                                 (int)(name.length < 60 ? name.length : 60), name.data);
}

// Of a dict Jinja takes a method before a key of the same name.
qn_status qn_jinja_get_attribute(evaluation *e, value v, qn_str name, value *out) {
  *out = ABSENT_VALUE;
  QN_TRY(qn_jinja_need_defined(e, v));
  if (v.kind == QN_JINJA_LOOP) QN_TRY(loop_attribute(e, v.loop, name, out));
  if (out->kind == QN_JINJA_ABSENT) QN_TRY(find_method(e, v, name, out));
  if (out->kind == QN_JINJA_ABSENT && (v.kind == QN_JINJA_MAP || v.kind == QN_JINJA_NAMESPACE)) {
    qn_jinja_pair *found;
    QN_TRY(qn_jinja_find_pair(e, v.map, qn_jinja_text(name), &found));
    if (found) *out = found->value;
  }
  return out->kind == QN_JINJA_ABSENT ? no_attribute(e, v, name, out) : QN_OK;
}

// An index of Python, negative ones from the end; false when it is outside.
static bool find_index(int64_t index, size_t count, size_t *out) {
  if (index < 0) index += (int64_t)count;
  if (index < 0 || index >= (int64_t)count) return false;
  *out = (size_t)index;
  return true;
}

static qn_status item_of_sequence(evaluation *e, value v, int64_t index, value *out) {
  size_t at, count = v.kind == QN_JINJA_STRING ? qn_jinja_count_characters(v.text) : v.list->count;
  if (v.kind == QN_JINJA_STRING) QN_TRY(qn_jinja_charge(e, v.text.length));
  if (!find_index(index, count, &at))
    return qn_jinja_make_undefined(e, out, "%s of %zu has no item %lld", qn_jinja_kind_name(v), count,
                                   (long long)index);
  if (v.kind != QN_JINJA_STRING) {
    *out = v.list->items[at];
    return QN_OK;
  }
  at = qn_jinja_byte_of_character(v.text, at);
  *out = qn_jinja_text((qn_str){v.text.data + at, qn_jinja_character_at(v.text, at)});
  return QN_OK;
}

qn_status qn_jinja_get_item(evaluation *e, value v, value key, value *out) {
  QN_TRY(qn_jinja_need_defined(e, v));
  if (is_sequence(v) && is_whole(key)) return item_of_sequence(e, v, qn_jinja_integer_of(key), out);
  if (v.kind == QN_JINJA_MAP) {
    qn_jinja_pair *found;
    QN_TRY(qn_jinja_find_pair(e, v.map, key, &found));
    if (found) {
      *out = found->value;
      return QN_OK;
    }
  }
  if (key.kind == QN_JINJA_STRING) return qn_jinja_get_attribute(e, v, key.text, out);
  QN_TRY(qn_jinja_need_defined(e, key));
  return qn_jinja_make_undefined(e, out, "%s has no item that is %s", qn_jinja_kind_name(v), qn_jinja_kind_name(key));
}

qn_status qn_jinja_get_path(evaluation *e, value v, value path, value *out) {
  if (path.kind != QN_JINJA_STRING) return qn_jinja_get_item(e, v, path, out);
  qn_str rest = path.text;
  *out = v;
  for (;;) {
    size_t dot = qn_jinja_find_text(rest, QN_STR("."), 0);
    qn_str part = {rest.data, dot == SIZE_MAX ? rest.length : dot};
    bool number = part.length > 0 && part.length < 10;
    int64_t index = 0;
    for (size_t i = 0; number && i < part.length; i++) {
      number = part.data[i] >= '0' && part.data[i] <= '9';
      index = index * 10 + (part.data[i] - '0');
    }
    QN_TRY(qn_jinja_get_item(e, *out, number ? qn_jinja_int(index) : qn_jinja_text(part), out));
    if (dot == SIZE_MAX) return QN_OK;
    rest = (qn_str){rest.data + dot + 1, rest.length - dot - 1};
  }
}

// ---- slices

static bool is_left_out(value v) { return v.kind == QN_JINJA_ABSENT || v.kind == QN_JINJA_NONE; }

static qn_status take_bound(evaluation *e, value v, int64_t standard, int64_t *out) {
  *out = standard;
  if (is_left_out(v)) return QN_OK;
  QN_TRY(qn_jinja_need_defined(e, v));
  if (!is_whole(v))
    return qn_jinja_raise(e, QN_ERR_FORMAT, "got %s as a bound of a slice, want an integer", qn_jinja_kind_name(v));
  *out = qn_jinja_integer_of(v);
  return QN_OK;
}

// The bound of a slice over `count` items, counted from the end where it is negative, within [lowest, highest].
static qn_status place_bound(evaluation *e, value v, int64_t standard, int64_t lowest, int64_t highest, int64_t count,
                             int64_t *out) {
  QN_TRY(take_bound(e, v, standard, out));
  if (is_left_out(v)) return QN_OK;
  if (*out < 0) *out = *out < -count ? lowest : *out + count;
  *out = *out < lowest ? lowest : *out > highest ? highest : *out;
  return QN_OK;
}

qn_status qn_jinja_get_slice(evaluation *e, value v, value start, value stop, value step, value *out) {
  int64_t stride, begin, end, count;
  value *items;
  QN_TRY(qn_jinja_need_defined(e, v));
  if (!is_sequence(v))
    return qn_jinja_raise(e, QN_ERR_FORMAT, "got %s to take a slice of, want a list or a text", qn_jinja_kind_name(v));
  QN_TRY(take_bound(e, step, 1, &stride));
  if (stride == 0 || stride == INT64_MIN)
    return qn_jinja_raise(e, QN_ERR_FORMAT, "got a slice in steps of %lld", (long long)stride);
  const qn_jinja_list *list;
  QN_TRY(qn_jinja_items_of(e, v, &list));
  count = (int64_t)list->count;
  bool back = stride < 0;
  QN_TRY(place_bound(e, start, back ? count - 1 : 0, back ? -1 : 0, back ? count - 1 : count, count, &begin));
  QN_TRY(place_bound(e, stop, back ? -1 : count, back ? -1 : 0, back ? count - 1 : count, count, &end));
  int64_t distance = back ? begin - end : end - begin;
  size_t wanted = distance > 0 ? (size_t)((distance - 1) / (back ? -stride : stride)) + 1 : 0;
  if (v.kind == QN_JINJA_STRING && stride == 1 && wanted > 0) {  // in one piece
    const char *from = list->items[begin].text.data, *last = list->items[end - 1].text.data;
    *out = qn_jinja_text((qn_str){from, (size_t)(last - from) + list->items[end - 1].text.length});
    return QN_OK;
  }
  QN_TRY(qn_jinja_make_list(e, v.kind == QN_JINJA_TUPLE ? QN_JINJA_TUPLE : QN_JINJA_LIST, wanted, &items, out));
  for (size_t i = 0; i < wanted; i++) items[i] = list->items[begin + (int64_t)i * stride];
  if (v.kind != QN_JINJA_STRING) return QN_OK;
  qn_buf buf;
  qn_buf_init(&buf, e->arena->allocator);
  for (size_t i = 0; i < wanted; i++) qn_buf_append(&buf, items[i].text.data, items[i].text.length);
  return qn_jinja_take_buffer(e, &buf, out);
}
