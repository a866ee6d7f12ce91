// JSON → values, and values → JSON as Python's json.dumps writes it.
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "runtime/jinja_impl.h"

// ---- reading

typedef struct reader {
  qn_jinja_source source;
  qn_arena *arena;
  qn_diag *diag;
  size_t at;
  int nesting;
} reader;

static qn_status read_value(reader *r, value *out);

static qn_status wrong(reader *r, const char *want) {
  size_t at = r->at;
  if (at >= r->source.text.length)
    return qn_jinja_fail(&r->source, at, r->diag, QN_ERR_FORMAT, "not JSON: the text ends, want %s", want);
  unsigned char c = (unsigned char)r->source.text.data[at];
  if (c < ' ' || c > '~')
    return qn_jinja_fail(&r->source, at, r->diag, QN_ERR_FORMAT, "not JSON: got byte 0x%02x, want %s", c, want);
  return qn_jinja_fail(&r->source, at, r->diag, QN_ERR_FORMAT, "not JSON: got '%c', want %s", c, want);
}
static qn_status no_memory(reader *r) { return qn_fail_nomem(r->diag, r->source.name, "values of JSON"); }

static char peek(const reader *r) { return r->at < r->source.text.length ? r->source.text.data[r->at] : '\0'; }
static void skip_blanks(reader *r) {
  while (peek(r) == ' ' || peek(r) == '\t' || peek(r) == '\n' || peek(r) == '\r') r->at++;
}
static bool skip(reader *r, char c) {
  skip_blanks(r);
  if (peek(r) != c) return false;
  r->at++;
  return true;
}

// Four hexadecimal digits at r->at; -1 when there are others.
static int read_hex(reader *r) {
  int result = 0;
  for (int i = 0; i < 4; i++, r->at++) {
    char c = peek(r);
    int digit = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
    if (digit < 0) return -1;
    result = result * 16 + digit;
  }
  return result;
}

// An escape behind its backslash; two of them may make one character. A half of such a pair alone becomes U+FFFD.
static qn_status read_escape(reader *r, char *out, size_t *length) {
  static const char names[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
  char c = peek(r);
  const char *found = c ? strchr(names, c) : NULL;
  r->at += found || c == 'u';
  if (found) {
    out[(*length)++] = meaning[found - names];
    return QN_OK;
  }
  if (c != 'u') return wrong(r, "an escape");
  int code = read_hex(r), low;
  if (code < 0) return wrong(r, "four hexadecimal digits");
  size_t before = r->at;
  if (code >= 0xD800 && code < 0xDC00 && peek(r) == '\\') {
    r->at++;
    if (peek(r) == 'u' && r->at++ && (low = read_hex(r)) >= 0xDC00 && low < 0xE000) {
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else {
      r->at = before;
    }
  }
  if (code >= 0xD800 && code < 0xE000) code = 0xFFFD;
  *length += qn_jinja_encode((uint32_t)code, out + *length);
  return QN_OK;
}

// At a quote. A text without escapes stays where it is.
static qn_status read_text(reader *r, qn_str *out) {
  if (!skip(r, '"')) return wrong(r, "a text in double quotes");
  size_t begin = r->at, escapes = 0, length = 0;
  for (; r->at < r->source.text.length && peek(r) != '"'; r->at++) {
    if ((unsigned char)peek(r) < 0x20) return wrong(r, "an escape for a control character");
    if (peek(r) != '\\') continue;
    escapes++;
    if (++r->at >= r->source.text.length) break;
  }
  if (r->at >= r->source.text.length) return wrong(r, "a quote");
  size_t end = r->at;
  r->at++;
  *out = (qn_str){r->source.text.data + begin, end - begin};
  if (escapes == 0) return QN_OK;
  char *copy = qn_arena_alloc(r->arena, end - begin + 1);
  if (!copy) return no_memory(r);
  for (r->at = begin; r->at < end;) {
    char c = r->source.text.data[r->at++];
    if (c == '\\') {
      QN_TRY(read_escape(r, copy, &length));
    } else {
      copy[length++] = c;
    }
  }
  r->at = end + 1;
  *out = (qn_str){copy, length};
  return QN_OK;
}

static qn_status read_number(reader *r, value *out) {
  char digits[64], *end;
  size_t length = 0;
  bool real = false;
  size_t begin = r->at;
  while (length < sizeof digits - 1 && peek(r) && strchr("+-.0123456789eE", peek(r))) {
    real = real || strchr(".eE", peek(r));
    digits[length++] = peek(r);
    r->at++;
  }
  digits[length] = '\0';
  errno = 0;
  *out = qn_jinja_int(real ? 0 : strtoll(digits, &end, 10));
  if (real || errno != 0) *out = (value){.kind = QN_JINJA_FLOAT, .real = qn_strtod(digits, &end)};
  if (length > 0 && *end == '\0' && length < sizeof digits - 1) return QN_OK;
  r->at = begin;
  return wrong(r, "a value");
}

static qn_status read_array(reader *r, value *out) {
  QN_VEC(value) items = {0};
  qn_jinja_list *list = QN_ARENA_NEW(r->arena, qn_jinja_list);
  if (!list) return no_memory(r);
  r->at++;
  while (!skip(r, ']')) {
    value v;
    if (items.count > 0 && !skip(r, ',')) return wrong(r, "a comma or ]");
    QN_TRY(read_value(r, &v));
    if (!qn_vec_push_arena(r->arena, &items, v)) return no_memory(r);
  }
  *list = (qn_jinja_list){items.items, items.count};
  *out = (value){.kind = QN_JINJA_LIST, .list = list};
  return QN_OK;
}

static qn_status read_object(reader *r, value *out) {
  qn_jinja_map *map = QN_ARENA_NEW(r->arena, qn_jinja_map);
  if (!map) return no_memory(r);
  r->at++;
  while (!skip(r, '}')) {
    qn_str key;
    value v;
    if (map->count > 0 && !skip(r, ',')) return wrong(r, "a comma or }");
    skip_blanks(r);
    QN_TRY(read_text(r, &key));
    if (!skip(r, ':')) return wrong(r, "a colon");
    QN_TRY(read_value(r, &v));
    if (!qn_jinja_map_set(r->arena, map, key, v)) return no_memory(r);
  }
  *out = (value){.kind = QN_JINJA_MAP, .map = map};
  return QN_OK;
}

static bool skip_word(reader *r, const char *word) {
  size_t length = strlen(word);
  if (r->source.text.length - r->at < length || memcmp(r->source.text.data + r->at, word, length) != 0) return false;
  r->at += length;
  return true;
}

static qn_status read_kind(reader *r, value *out) {
  skip_blanks(r);
  if (peek(r) == '{') return read_object(r, out);
  if (peek(r) == '[') return read_array(r, out);
  if (peek(r) == '"') {
    out->kind = QN_JINJA_STRING;
    return read_text(r, &out->text);
  }
  bool yes = skip_word(r, "true");
  if (yes || skip_word(r, "false")) {
    *out = qn_jinja_bool(yes);
    return QN_OK;
  }
  *out = NONE_VALUE;
  return skip_word(r, "null") ? QN_OK : read_number(r, out);
}

static qn_status read_value(reader *r, value *out) {
  if (r->nesting++ == QN_JINJA_MAX_NESTING)
    return qn_jinja_fail(&r->source, r->at, r->diag, QN_ERR_LIMIT, "values are nested too deeply, want at most %d",
                         QN_JINJA_MAX_NESTING);
  QN_TRY(read_kind(r, out));
  r->nesting--;
  return QN_OK;
}

qn_status qn_jinja_from_json(const char *name, qn_str text, qn_arena *arena, qn_jinja_value *out, qn_diag *diag) {
  reader r = {.source = {name, text}, .arena = arena, .diag = diag};
  QN_TRY(read_value(&r, out));
  skip_blanks(&r);
  return r.at == text.length ? QN_OK : wrong(&r, "nothing more");
}

// ---- writing

typedef struct writer {
  evaluation *e;
  qn_buf *out;
  const json_style *style;
} writer;

static qn_status write_value(writer *w, value v, int level);

// A character beyond ASCII as one escape or two; bytes that are none as they are.
static size_t escape_character(qn_buf *out, qn_str text, size_t at) {
  size_t size = qn_utf8_sequence(text.data + at, text.length - at, NULL);
  if (size == 0) qn_buf_putc(out, text.data[at]);
  if (size == 0) return 1;
  uint32_t c = qn_jinja_decode(text.data + at, size);
  if (c >= 0x10000) qn_buf_printf(out, "\\u%04x", (unsigned)(0xD800 + ((c - 0x10000) >> 10)));
  qn_buf_printf(out, "\\u%04x", (unsigned)(c >= 0x10000 ? 0xDC00 + ((c - 0x10000) & 0x3FF) : c));
  return size;
}

static qn_status write_text(writer *w, qn_str text) {
  qn_buf *out = w->out;
  qn_buf_putc(out, '"');
  for (size_t i = 0; i < text.length; i++) {
    unsigned char c = (unsigned char)text.data[i];
    static const char marks[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
    const char *mark = c ? strchr(marks, c) : NULL;
    if (mark) {
      qn_buf_putc(out, '\\');
      qn_buf_putc(out, names[mark - marks]);
    } else if (c < 0x20) {
      qn_buf_printf(out, "\\u%04x", c);
    } else if (c >= 0x80 && w->style->ascii) {
      i += escape_character(out, text, i) - 1;
    } else {
      qn_buf_putc(out, (char)c);
    }
  }
  qn_buf_putc(out, '"');
  return qn_jinja_charge(w->e, text.length);
}

static void new_line(writer *w, int level) {
  if (w->style->indent < 0) return;
  qn_buf_putc(w->out, '\n');
  qn_buf_printf(w->out, "%*s", w->style->indent * level, "");
}

static qn_status write_list(writer *w, value v, int level) {
  qn_buf_putc(w->out, '[');
  for (size_t i = 0; i < v.list->count; i++) {
    if (i > 0) qn_buf_append(w->out, w->style->item.data, w->style->item.length);
    new_line(w, level + 1);
    QN_TRY(write_value(w, v.list->items[i], level + 1));
  }
  if (v.list->count > 0) new_line(w, level);
  qn_buf_putc(w->out, ']');
  return QN_OK;
}

static qn_status write_key(writer *w, value key, int level) {
  if (key.kind == QN_JINJA_STRING) return write_text(w, key.text);
  if (!qn_jinja_is_number(key) && key.kind != QN_JINJA_NONE)
    return qn_jinja_raise(w->e, QN_ERR_FORMAT, "got %s as a key, which JSON does not have", qn_jinja_kind_name(key));
  qn_buf_putc(w->out, '"');
  QN_TRY(write_value(w, key, level));
  qn_buf_putc(w->out, '"');
  return QN_OK;
}

static qn_status write_map(writer *w, value v, int level) {
  if (w->style->sorted) {
    value pairs;
    const qn_jinja_builtin *sort = qn_jinja_find_builtin(qn_jinja_filters, QN_STR("dictsort"));
    value args[MAX_PARAMETERS] = {qn_jinja_bool(true)};
    arguments none = {0};
    QN_TRY(sort->call(w->e, v, args, &none, &pairs));
    QN_TRY(qn_jinja_new_map(w->e, &v));
    for (size_t i = 0; i < pairs.list->count; i++) {
      const value *items = pairs.list->items[i].list->items;
      QN_TRY(qn_jinja_put_pair(w->e, v.map, items[0], items[1]));
    }
  }
  qn_buf_putc(w->out, '{');
  for (size_t i = 0; i < v.map->count; i++) {
    if (i > 0) qn_buf_append(w->out, w->style->item.data, w->style->item.length);
    new_line(w, level + 1);
    QN_TRY(write_key(w, v.map->pairs[i].key, level));
    qn_buf_append(w->out, w->style->key.data, w->style->key.length);
    QN_TRY(write_value(w, v.map->pairs[i].value, level + 1));
  }
  if (v.map->count > 0) new_line(w, level);
  qn_buf_putc(w->out, '}');
  return QN_OK;
}

static qn_status write_kind(writer *w, value v, int level) {
  switch (v.kind) {
    case QN_JINJA_NONE: qn_buf_puts(w->out, "null"); return QN_OK;
    case QN_JINJA_BOOL: qn_buf_puts(w->out, v.boolean ? "true" : "false"); return QN_OK;
    case QN_JINJA_INT: qn_buf_printf(w->out, "%lld", (long long)v.integer); return QN_OK;
    case QN_JINJA_FLOAT:
      if (isfinite(v.real)) {
        qn_jinja_put_float(w->out, v.real);
      } else {
        qn_buf_puts(w->out, isnan(v.real) ? "NaN" : v.real < 0 ? "-Infinity" : "Infinity");
      }
      return QN_OK;
    case QN_JINJA_STRING: return write_text(w, v.text);
    case QN_JINJA_LIST:
    case QN_JINJA_TUPLE: return write_list(w, v, level);
    case QN_JINJA_MAP: return write_map(w, v, level);
    default: return qn_jinja_raise(w->e, QN_ERR_FORMAT, "got %s, which JSON does not have", qn_jinja_kind_name(v));
  }
}

static qn_status write_value(writer *w, value v, int level) {
  QN_TRY(qn_jinja_need_defined(w->e, v));
  QN_TRY(qn_jinja_charge(w->e, 0));
  if (w->out->length > w->e->bytes_left)
    return qn_jinja_raise(w->e, QN_ERR_LIMIT, "the template makes more than %zu bytes of text; does it loop?",
                          w->e->bytes);
  QN_TRY(qn_jinja_deeper(w->e));
  QN_TRY(write_kind(w, v, level));
  w->e->depth--;
  return QN_OK;
}

qn_status qn_jinja_put_json(evaluation *e, value v, const json_style *style, qn_buf *out) {
  writer w = {e, out, style};
  return write_value(&w, v, 0);
}
