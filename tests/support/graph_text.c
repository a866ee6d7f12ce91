// The reader of tests' short graph texts.
#include "tests/support/graph_text.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_NAMES 256

typedef struct reader {
  qn_graph *graph;
  qn_arena *arena;
  const char *sizes;
  char where[32];  // "graph:3"
  struct {
    qn_str name;
    qn_id id;
  } names[MAX_NAMES];
  int name_count;
  qn_diag *diag;
} reader;

static const struct {
  const char *name, *type;
} standard_inputs[] = {
    {"tokens", "i32[T]"}, {"pos", "i32[T]"},  {"last_pos", "i32[T]"},
    {"seq", "i32[T]"},    {"rows", "i32[R]"}, {"block_table", "i32[B,P]"},
    {"source_pos", "i32[S]"}, {"source_last_pos", "i32[S]"}, {"source_seq", "i32[S]"}, {"cross_last_pos", "i32[T]"},
    {"copies", "i32[T]"}, {"slot", "i32[T]"}};

static qn_status fail(reader *r, const char *what, qn_str word) {
  return qn_fail(r->diag, QN_ERR_FORMAT, r->where, "%s: '%.*s'", what, QN_STR_ARGS(word));
}

// The next word of a statement; false at its end.
static bool next_word(qn_str *statement, qn_str *out) {
  while (statement->length > 0 && isspace((unsigned char)statement->data[0])) {
    statement->data++;
    statement->length--;
  }
  size_t length = 0;
  while (length < statement->length && !isspace((unsigned char)statement->data[length])) length++;
  *out = (qn_str){statement->data, length};
  statement->data += length;
  statement->length -= length;
  return length > 0;
}

static bool has(qn_str word, char c) { return memchr(word.data, c, word.length) != NULL; }

static qn_status declare(reader *r, qn_str name, qn_id id) {
  if (r->name_count == MAX_NAMES) return fail(r, "too many names", name);
  r->names[r->name_count].name = name;
  r->names[r->name_count++].id = id;
  return QN_OK;
}

static qn_status look_up(reader *r, qn_str name, qn_id *out) {
  for (int i = r->name_count - 1; i >= 0; i--) {
    if (!qn_str_equal(r->names[i].name, name)) continue;
    *out = r->names[i].id;
    return QN_OK;
  }
  for (size_t i = 0; i < QN_COUNT(standard_inputs); i++) {
    if (!qn_str_is(name, standard_inputs[i].name)) continue;
    qn_type type;
    qn_str text = qn_str_from(standard_inputs[i].type);
    if (!qn_type_parse(&text, &type)) return fail(r, "not a type", text);
    qn_node_spec spec = {.op = QN_OP_INPUT,
                         .type = &type,
                         .loc = standard_inputs[i].name,
                         .attr_count = 1,
                         .attrs = {{.id = QN_ATTR_NAME, .value.text = standard_inputs[i].name}}};
    QN_TRY(qn_graph_add(r->graph, &spec, out, r->diag));
    return declare(r, name, *out);
  }
  return fail(r, "no such value", name);
}

static qn_status read_attr(reader *r, qn_str word, qn_node_spec *spec) {
  const char *equals = memchr(word.data, '=', word.length);
  qn_str name = {word.data, (size_t)(equals - word.data)};
  const char *value = qn_arena_strndup(r->arena, equals + 1, word.length - name.length - 1);
  qn_attr attr = {0};
  if (!value) return qn_fail_nomem(r->diag, r->where, "an attribute");
  if (!qn_attr_parse(name, &attr.id) || spec->attr_count == QN_MAX_ATTRS) return fail(r, "no such attribute", word);
  switch (qn_attr_get_kind(attr.id)) {
    case QN_AK_INT: attr.value.i = strtoll(value, NULL, 10); break;
    case QN_AK_FLOAT: attr.value.f = strtod(value, NULL); break;
    case QN_AK_TEXT: attr.value.text = value; break;
  }
  spec->attrs[spec->attr_count++] = attr;
  return QN_OK;
}

// One word after the op.
static qn_status read_argument(reader *r, qn_str word, qn_node_spec *spec, qn_type *type) {
  if (spec->op == QN_OP_CONST && !has(word, '=') && !has(word, '[')) {
    char number[40];
    snprintf(number, sizeof number, "value=%.*s", QN_STR_ARGS(word));
    *type = qn_type_make(QN_DTYPE_F32, 0, NULL);
    spec->type = type;
    return read_attr(r, qn_str_from(number), spec);
  }
  if (has(word, '=')) return read_attr(r, word, spec);
  if (has(word, '[')) {
    qn_str rest = word;
    spec->type = type;
    return qn_type_parse(&rest, type) ? QN_OK : fail(r, "not a type", word);
  }
  if (spec->operand_count == QN_MAX_OPERANDS) return fail(r, "too many operands", word);
  return look_up(r, word, &spec->operands[spec->operand_count++]);
}

static qn_status read_value(reader *r, qn_str name, qn_str rest) {
  qn_str word;
  qn_type type;
  const char *loc = qn_arena_strndup(r->arena, name.data, name.length);
  if (!loc) return qn_fail_nomem(r->diag, r->where, "a name");
  qn_node_spec spec = {.loc = loc};
  if (!next_word(&rest, &word) || !qn_str_is(word, "=")) return fail(r, "want '=' after a name, got", word);
  if (!next_word(&rest, &word) || !qn_op_parse(word, &spec.op)) return fail(r, "no such op", word);
  while (next_word(&rest, &word)) QN_TRY(read_argument(r, word, &spec, &type));
  bool named = false;
  for (int i = 0; i < spec.attr_count; i++) named = named || spec.attrs[i].id == QN_ATTR_NAME;
  if (!named && (spec.op == QN_OP_INPUT || spec.op == QN_OP_PARAM)) {
    spec.attrs[spec.attr_count++] = (qn_attr){.id = QN_ATTR_NAME, .value.text = loc};
  }
  qn_id id = 0;
  QN_TRY(qn_graph_add(r->graph, &spec, &id, r->diag));
  return declare(r, name, id);
}

static qn_status read_statement(reader *r, qn_str statement) {
  qn_str word, first;
  if (!next_word(&statement, &first) || first.data[0] == '#') return QN_OK;
  if (qn_str_is(first, "max")) {
    while (next_word(&statement, &word)) {
      qn_symbol symbol;
      if (word.length < 3 || !qn_symbol_parse((qn_str){word.data, 1}, &symbol)) return fail(r, "no such symbol", word);
      r->graph->max_values[symbol] = strtoll(word.data + 2, NULL, 10);
    }
    return QN_OK;
  }
  if (!qn_str_is(first, "output")) return read_value(r, first, statement);
  while (next_word(&statement, &word)) {
    qn_id id = 0;
    QN_TRY(look_up(r, word, &id));
    const char *name = qn_arena_strndup(r->arena, word.data, word.length);
    if (!name) return qn_fail_nomem(r->diag, r->where, "a name");
    QN_TRY(qn_graph_add_output(r->graph, name, id, r->diag));
  }
  return QN_OK;
}

// "$N" → its value in r->sizes.
static qn_status substitute(reader *r, const char *text, qn_buf *out) {
  for (; *text; text++) {
    if (*text != '$') {
      qn_buf_putc(out, *text);
      continue;
    }
    size_t length = 0;
    while (isalnum((unsigned char)text[1 + length])) length++;
    qn_str rest = qn_str_from(r->sizes), word;
    bool found = false;
    while (!found && next_word(&rest, &word)) {
      found = word.length > length && word.data[length] == '=' && memcmp(word.data, text + 1, length) == 0;
    }
    if (!found) return fail(r, "no such size", (qn_str){text, length + 1});
    qn_buf_append(out, word.data + length + 1, word.length - length - 1);
    text += length;
  }
  return out->failed ? qn_fail_nomem(r->diag, "graph", "its text") : QN_OK;
}

qn_status qn_graph_from_text(const char *text, const char *sizes, qn_arena *arena, qn_graph **out, qn_diag *diag) {
  static const int64_t max_values[QN_SYM_COUNT] = {
      [QN_SYM_T] = 72, [QN_SYM_R] = 72, [QN_SYM_P] = 4, [QN_SYM_B] = 4, [QN_SYM_G] = 17};
  reader r = {.arena = arena, .sizes = sizes, .diag = diag, .where = "graph"};
  qn_buf expanded;
  qn_buf_init(&expanded, arena->allocator);
  qn_status status = substitute(&r, text, &expanded);
  const char *copy = status == QN_OK ? qn_arena_strndup(arena, qn_buf_text(&expanded), expanded.length) : NULL;
  qn_buf_deinit(&expanded);
  QN_TRY(status);
  r.graph = qn_graph_create(arena, "test");
  if (!copy || !r.graph) return qn_fail_nomem(diag, "graph", "a graph");
  memcpy(r.graph->max_values, max_values, sizeof max_values);
  for (int number = 1; *copy; number++) {
    snprintf(r.where, sizeof r.where, "graph:%d", number);
    size_t length = strcspn(copy, ";\n");
    QN_TRY(read_statement(&r, (qn_str){copy, length}));
    copy += length + (copy[length] != 0);
  }
  *out = r.graph;
  return QN_OK;
}
