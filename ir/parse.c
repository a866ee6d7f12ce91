// The graph IR from its text form (grammar in ir/README.md). The text may be anything: every error names line and
// column.
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/graph.h"

#define MAX_GROUP 1000000

typedef struct parser {
  const char *name;
  const char *at, *end, *line_start;
  int line;
  qn_graph *graph;
  qn_arena *arena;
  QN_VEC(qn_id) ids;  // by the text's own value number
  qn_diag *diag;
} parser;

static qn_status fail(parser *p, const char *want) {
  char where[300], got[24] = "the end of the text";
  snprintf(where, sizeof where, "%s:%d:%d", p->name, p->line, (int)(p->at - p->line_start) + 1);
  if (p->at < p->end) {
    int length = 0;
    while (length < 16 && p->at + length < p->end && p->at[length] > ' ' && p->at[length] < 127) length++;
    snprintf(got, sizeof got, "'%.*s'", length ? length : 1, length ? p->at : "?");
  }
  return qn_fail(p->diag, QN_ERR_FORMAT, where, "got %s, want %s", got, want);
}

static void skip_space(parser *p) {
  while (p->at < p->end) {
    if (*p->at == '#') {
      while (p->at < p->end && *p->at != '\n') p->at++;
    } else if (*p->at == '\n') {
      p->line++;
      p->line_start = ++p->at;
    } else if (*p->at == ' ' || *p->at == '\t' || *p->at == '\r') {
      p->at++;
    } else {
      return;
    }
  }
}

static bool take(parser *p, const char *text) {
  skip_space(p);
  size_t length = strlen(text);
  if ((size_t)(p->end - p->at) < length || memcmp(p->at, text, length) != 0) return false;
  p->at += length;
  return true;
}

static qn_status expect(parser *p, const char *text) {
  char want[40];
  if (take(p, text)) return QN_OK;
  snprintf(want, sizeof want, "'%s'", text);
  return fail(p, want);
}

static qn_str word(parser *p) {
  skip_space(p);
  const char *start = p->at;
  while (p->at < p->end && ((*p->at >= 'a' && *p->at <= 'z') || (*p->at >= '0' && *p->at <= '9') || *p->at == '_'))
    p->at++;
  return (qn_str){start, (size_t)(p->at - start)};
}

// A number's characters, copied so that strtod finds an end.
static bool number_text(parser *p, char *out, size_t size) {
  skip_space(p);
  size_t length = 0;
  while (p->at + length < p->end && length + 1 < size && strchr("+-.0123456789abcdefinxp", p->at[length]) &&
         p->at[length])
    length++;
  memcpy(out, p->at, length);
  out[length] = 0;
  return length > 0;
}

static qn_status parse_int(parser *p, int64_t *out) {
  char text[48], *end = NULL;
  if (!number_text(p, text, sizeof text)) return fail(p, "an integer of 64 bits");
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (end == text || errno != 0) return fail(p, "an integer of 64 bits");
  p->at += end - text;
  *out = value;
  return QN_OK;
}

// An integer of min..max; `want` says so.
static qn_status parse_int_in(parser *p, int64_t min, int64_t max, const char *want, int64_t *out) {
  skip_space(p);
  const char *start = p->at;
  QN_TRY(parse_int(p, out));
  if (*out >= min && *out <= max) return QN_OK;
  p->at = start;
  return fail(p, want);
}

static qn_status parse_float(parser *p, double *out) {
  char text[48], *end = NULL;
  if (!number_text(p, text, sizeof text)) return fail(p, "a number");
  *out = qn_strtod(text, &end);
  if (end == text) return fail(p, "a number");
  p->at += end - text;
  return QN_OK;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// A quoted text as qn_buf_quote writes it.
static qn_status parse_text(parser *p, const char **out) {
  if (!take(p, "\"")) return fail(p, "a text in quotes");
  const char *close = p->at;
  while (close < p->end && *close != '"' && *close != '\n') close += *close == '\\' && close + 1 < p->end ? 2 : 1;
  if (close >= p->end || *close != '"') return fail(p, "a text that ends with '\"' on its line");
  char *text = qn_arena_alloc(p->arena, (size_t)(close - p->at) + 1);
  if (!text) return qn_fail_nomem(p->diag, p->name, "a text");
  size_t length = 0;
  for (; p->at < close; p->at++) {
    char c = *p->at;
    if (c == '\\') {
      c = *++p->at;
      if (c == 'n') c = '\n';
      if (c == 't') c = '\t';
      if (c == 'x') {
        int high = close - p->at > 2 ? hex_digit(p->at[1]) : -1, low = high >= 0 ? hex_digit(p->at[2]) : -1;
        if (low < 0 || (high == 0 && low == 0)) return fail(p, "two hexadecimal digits, not 00");
        c = (char)(high * 16 + low);
        p->at += 2;
      }
    }
    if (c == 0) return fail(p, "a text without zero bytes");
    text[length++] = c;
  }
  p->at++;
  *out = text;
  return QN_OK;
}

static qn_status parse_type(parser *p, qn_type *out) {
  skip_space(p);
  qn_str rest = {p->at, (size_t)(p->end - p->at)};
  bool parsed = qn_type_parse(&rest, out);
  p->at = rest.data;
  return parsed ? QN_OK : fail(p, "a type such as f32[T,64]");
}

static qn_status parse_value(parser *p, qn_id *out) {
  int64_t number = 0;
  QN_TRY(expect(p, "%"));
  QN_TRY(parse_int_in(p, 1, (int64_t)p->ids.count - 1, "a value defined before", &number));
  *out = p->ids.items[number];
  return QN_OK;
}

static qn_status parse_attrs(parser *p, qn_node_spec *spec) {
  do {
    qn_str name = word(p);
    qn_attr attr = {0};
    if (!qn_attr_parse(name, &attr.id)) {
      p->at = name.data;
      return fail(p, "an attribute of ir/attrs.def");
    }
    if (spec->attr_count == QN_MAX_ATTRS) return fail(p, "fewer attributes");
    QN_TRY(expect(p, "="));
    switch (qn_attr_get_kind(attr.id)) {
      case QN_AK_INT: QN_TRY(parse_int(p, &attr.value.i)); break;
      case QN_AK_FLOAT: QN_TRY(parse_float(p, &attr.value.f)); break;
      case QN_AK_TEXT: QN_TRY(parse_text(p, &attr.value.text)); break;
    }
    spec->attrs[spec->attr_count++] = attr;
  } while (take(p, ","));
  return expect(p, "}");
}

// %3 = matmul %1, %2 {attrs} : type group 4 @"loc"
static qn_status parse_node(parser *p) {
  int64_t number = 0;
  qn_node_spec spec = {0};
  char where[300];
  snprintf(where, sizeof where, "%s:%d", p->name, p->line);
  int64_t next = (int64_t)p->ids.count;
  QN_TRY(parse_int_in(p, next, next, "value numbers that count up from 1", &number));
  QN_TRY(expect(p, "="));
  qn_str op = word(p);
  if (!qn_op_parse(op, &spec.op)) {
    p->at = op.data;
    return fail(p, "an op of ir/ops.def");
  }
  skip_space(p);
  if (p->at < p->end && *p->at == '%') {
    do {
      if (spec.operand_count == QN_MAX_OPERANDS) return fail(p, "fewer operands");
      QN_TRY(parse_value(p, &spec.operands[spec.operand_count++]));
    } while (take(p, ","));
  }
  if (take(p, "{")) QN_TRY(parse_attrs(p, &spec));
  qn_type type;
  QN_TRY(expect(p, ":"));
  QN_TRY(parse_type(p, &type));
  spec.type = &type;
  if (take(p, "group")) {
    int64_t group = 0;
    QN_TRY(parse_int_in(p, 1, MAX_GROUP, "a group from 1 to 1000000", &group));
    spec.group = (uint32_t)group;
    if (p->graph->group_count < spec.group) p->graph->group_count = spec.group;
  }
  if (take(p, "@")) QN_TRY(parse_text(p, &spec.loc));
  if (!spec.loc) spec.loc = where;
  qn_id id = 0;
  QN_TRY(qn_graph_add(p->graph, &spec, &id, p->diag));
  return qn_vec_push_arena(p->arena, &p->ids, id) ? QN_OK : qn_fail_nomem(p->diag, p->name, "a value");
}

static qn_status parse_header(parser *p) {
  const char *name = NULL;
  QN_TRY(expect(p, "graph"));
  QN_TRY(parse_text(p, &name));
  p->graph = qn_graph_create(p->arena, name);
  if (!p->graph || !qn_vec_push_arena(p->arena, &p->ids, (qn_id)0)) return qn_fail_nomem(p->diag, p->name, "a graph");
  while (!take(p, "{")) {
    qn_symbol symbol = QN_SYM_NONE;
    if (p->at >= p->end || !qn_symbol_parse((qn_str){p->at, 1}, &symbol))
      return fail(p, "'{', or a symbol's bound such as T<=8");
    p->at++;
    QN_TRY(expect(p, "<="));
    QN_TRY(parse_int_in(p, 1, INT64_MAX, "a bound of 1 or more", &p->graph->max_values[symbol]));
  }
  return QN_OK;
}

qn_status qn_graph_parse(const char *name, qn_str text, qn_arena *arena, qn_graph **out, qn_diag *diag) {
  parser p = {.name = name,
              .at = text.data,
              .end = text.data + text.length,
              .line_start = text.data,
              .line = 1,
              .arena = arena,
              .diag = diag};
  QN_TRY(parse_header(&p));
  while (!take(&p, "}")) {
    if (take(&p, "%")) {
      QN_TRY(parse_node(&p));
      continue;
    }
    QN_TRY(expect(&p, "output"));
    const char *output = NULL;
    qn_id value = 0;
    QN_TRY(parse_text(&p, &output));
    QN_TRY(parse_value(&p, &value));
    QN_TRY(qn_graph_add_output(p.graph, output, value, diag));
  }
  skip_space(&p);
  if (p.at < p.end) return fail(&p, "the end of the text");
  *out = p.graph;
  return QN_OK;
}
