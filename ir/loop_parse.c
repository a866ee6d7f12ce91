// Loop IR from text (grammar in ir/README.md): a recursive descent with bounded depth that may be fed anything.
// Builds exactly what is written; whether that makes sense is for loop_verify.c.
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/loop.h"
#include "runtime/base/map.h"
#include "runtime/base/vec.h"

typedef enum token_kind { TOK_END, TOK_NAME, TOK_INT, TOK_I32, TOK_FLOAT, TOK_STRING, TOK_RANGE, TOK_CHAR } token_kind;

typedef struct token {
  token_kind kind;
  qn_str text;  // of a string with its quotes
  size_t line, column;
  uint64_t int_value;  // INT, I32: the digits; negative numbers have a '-' before them
  bool too_large;
  float float_value;
} token;

// A variable or buffer by its name.
typedef struct declaration {
  qn_lvar *var;
  qn_lbuf *buf;  // one of the two is NULL
  bool in_scope;
} declaration;

typedef struct parser {
  const char *name;  // for messages
  qn_str text;
  size_t at, line, line_start;
  token token;  // the next one
  int depth;    // open brackets, calls and blocks
  qn_lbuild b;
  qn_map names;                      // of the kernel: name → index in declarations
  QN_VEC(declaration) declarations;  // arena
  qn_diag *diag;
} parser;

// An expression and the height of its tree.
typedef struct parsed {
  const qn_lexpr *e;
  int height;
} parsed;

// --- errors

static qn_status fail_at(parser *p, const token *t, const char *got, const char *want) {
  char where[256];
  snprintf(where, sizeof where, "%s:%zu:%zu", p->name, t->line, t->column);
  return qn_fail(p->diag, QN_ERR_FORMAT, where, "got %s, want %s", got, want);
}

// Fails at the next token.
static qn_status fail_token(parser *p, const char *want) {
  char got[48];
  const token *t = &p->token;
  if (t->kind == TOK_END) return fail_at(p, t, "the end of the text", want);
  int length = t->text.length > 32 ? 32 : (int)t->text.length;
  snprintf(got, sizeof got, "'%.*s%s'", length, t->text.data, t->text.length > 32 ? "..." : "");
  for (char *c = got; *c; c++) {
    if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7F) *c = '?';
  }
  return fail_at(p, t, got, want);
}

static qn_status fail_memory(parser *p) { return qn_fail_nomem(p->diag, p->name, "a kernel"); }

// --- tokens

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// The character `offset` after the current one, NUL beyond the end.
static char peek(const parser *p, size_t offset) {
  return offset < p->text.length - p->at ? p->text.data[p->at + offset] : '\0';
}

static void skip_space(parser *p) {
  while (p->at < p->text.length) {
    char c = p->text.data[p->at];
    if (c == '\n') {
      p->line++;
      p->line_start = p->at + 1;
    } else if (c == '/' && peek(p, 1) == '/') {
      while (p->at < p->text.length && p->text.data[p->at] != '\n') p->at++;
      continue;
    } else if (c != ' ' && c != '\t' && c != '\r') {
      return;
    }
    p->at++;
  }
}

// strtof for digits with a '.', whatever the host's locale writes for it.
static float read_float(const char *digits, size_t length) {
  char text[96];
  const char *point = localeconv()->decimal_point;
  size_t used = 0;
  for (size_t i = 0; i < length; i++) {
    if (digits[i] == '.') {
      for (const char *c = point; *c && used < sizeof text - 1; c++) text[used++] = *c;
    } else if (used < sizeof text - 1) {
      text[used++] = digits[i];
    }
  }
  text[used] = '\0';
  return strtof(text, NULL);
}

// A number, its sign not among it. False when it is followed by letters or is no number we can hold.
static bool lex_number(parser *p, token *t) {
  size_t n = 0, exponent;
  t->kind = TOK_INT;
  for (; is_digit(peek(p, n)); n++) {
    if (__builtin_mul_overflow(t->int_value, 10, &t->int_value) ||
        __builtin_add_overflow(t->int_value, (uint64_t)(peek(p, n) - '0'), &t->int_value)) {
      t->too_large = true;
    }
  }
  size_t digits = n;
  if (peek(p, n) == '.' && is_digit(peek(p, n + 1))) {
    for (n++; is_digit(peek(p, n)); n++) {
    }
  }
  exponent = n + 1 + (peek(p, n + 1) == '+' || peek(p, n + 1) == '-');
  if ((peek(p, n) == 'e' || peek(p, n) == 'E') && is_digit(peek(p, exponent))) {
    for (n = exponent; is_digit(peek(p, n)); n++) {
    }
  }
  if (n > digits) t->kind = TOK_FLOAT;
  size_t number = n;
  if (t->kind == TOK_INT && peek(p, n) == 'i' && peek(p, n + 1) == '3' && peek(p, n + 2) == '2') {
    t->kind = TOK_I32;
    n += 3;
  }
  while (is_letter(peek(p, n)) || is_digit(peek(p, n))) n++;
  t->text = (qn_str){p->text.data + p->at, n};
  if (t->kind != TOK_FLOAT) return n == number + (t->kind == TOK_I32 ? 3 : 0);
  if (n != number || n > 64) return false;
  t->float_value = read_float(t->text.data, n);
  return isfinite(t->float_value);
}

static qn_status next(parser *p) {
  skip_space(p);
  token t = {.kind = TOK_CHAR, .line = p->line, .column = p->at - p->line_start + 1};
  char c = peek(p, 0);
  size_t n = 1;
  bool valid = true;
  if (p->at == p->text.length) {
    t.kind = TOK_END;
    n = 0;
  } else if (is_letter(c)) {
    t.kind = TOK_NAME;
    while (is_letter(peek(p, n)) || is_digit(peek(p, n)) || peek(p, n) == '$') n++;
  } else if (is_digit(c)) {
    valid = lex_number(p, &t);
    n = t.text.length;
  } else if (c == '"') {
    t.kind = TOK_STRING;
    while (is_letter(peek(p, n)) || is_digit(peek(p, n))) n++;
    valid = peek(p, n) == '"';
    n += valid;
  } else if (c == '.' && peek(p, 1) == '.') {
    t.kind = TOK_RANGE;
    n = 2;
  }
  t.text = (qn_str){p->text.data + p->at, n};
  p->at += n;
  p->token = t;
  if (valid) return QN_OK;
  return fail_token(
      p, t.kind == TOK_STRING ? "a name of letters, digits and '_' in quotes" : "a number such as 7, 7i32 or 0.5");
}

static bool at_char(const parser *p, char c) { return p->token.kind == TOK_CHAR && p->token.text.data[0] == c; }
static bool at_word(const parser *p, const char *word) {
  return p->token.kind == TOK_NAME && qn_str_is(p->token.text, word);
}

static qn_status expect_char(parser *p, char c) {
  char want[] = {'\'', c, '\'', '\0'};
  if (!at_char(p, c)) return fail_token(p, want);
  return next(p);
}

static qn_status expect_word(parser *p, const char *word) {
  char want[16];
  snprintf(want, sizeof want, "'%s'", word);
  if (!at_word(p, word)) return fail_token(p, want);
  return next(p);
}

// Opens a bracket, call or block.
static qn_status enter(parser *p) {
  if (++p->depth <= QN_LTEXT_MAX_DEPTH) return QN_OK;
  return fail_at(p, &p->token, "deeper nesting", "at most 200 blocks and brackets inside one another");
}

// --- names

bool qn_lname_is_valid(qn_str name) {
  static const char *const reserved[] = {"for",    "local", "prefetch", "far", "barrier", "copy",
                                         "commit", "wait", "mma", "param", "inf", "nan"};
  size_t at = 0;
  qn_symbol symbol;
  if (name.length == 0 || !is_letter(name.data[0])) return false;
  while (at < name.length && (is_letter(name.data[at]) || is_digit(name.data[at]))) at++;
  qn_str base = {name.data, at};
  for (size_t i = 0; i < QN_COUNT(reserved); i++) {
    if (qn_str_is(base, reserved[i])) return false;
  }
  if (qn_symbol_parse(base, &symbol)) return false;
  if (at == name.length) return true;
  size_t digits = name.length - at - 1;
  if (name.data[at] != '$' || digits < 1 || digits > 18 || name.data[at + 1] == '0') return false;
  for (at++; at < name.length; at++) {
    if (!is_digit(name.data[at])) return false;
  }
  return true;
}

// Declares the name at the next token; *out_name is its copy.
static qn_status declare(parser *p, qn_lvar *var, qn_lbuf *buf, const char **out_name) {
  if (p->b.failed) return fail_memory(p);
  qn_str name = p->token.text;
  if (p->token.kind != TOK_NAME || !qn_lname_is_valid(name)) {
    return fail_token(p, "a name (letters, digits and '_', '$' and a number; not a symbol or reserved word)");
  }
  if (qn_map_get(&p->names, name, NULL)) return fail_token(p, "a name that the kernel does not use yet");
  *out_name = qn_arena_strndup(p->b.arena, name.data, name.length);
  declaration d = {var, buf, true};
  if (!*out_name || !qn_map_put(&p->names, name, p->declarations.count) ||
      !qn_vec_push_arena(p->b.arena, &p->declarations, d)) {
    return fail_memory(p);
  }
  return next(p);
}

static const declaration *find(const parser *p, qn_str name) {
  uint64_t index;
  if (!qn_map_get(&p->names, name, &index)) return NULL;
  const declaration *d = &p->declarations.items[index];
  return d->in_scope ? d : NULL;
}

static qn_status parse_mem(parser *p, qn_lmem *out) {
  for (int mem = 0; mem < QN_LM_COUNT; mem++) {
    if (!at_word(p, qn_lmem_name((qn_lmem)mem))) continue;
    *out = (qn_lmem)mem;
    return next(p);
  }
  return fail_token(p, "one of f32, f16, bf16, i32, i8, u8");
}

// --- expressions

static qn_status parse_expr(parser *p, parsed *out);

// Completes `node`, whose operands have the given height.
static qn_status finish(parser *p, const qn_lexpr *node, int height, parsed *out) {
  out->height = height + 1;
  if (out->height > QN_LTEXT_MAX_DEPTH) {
    return fail_at(p, &p->token, "a deeper expression", "at most 200 operators inside one another");
  }
  out->e = qn_lexpr_make(&p->b, node);
  return out->e ? QN_OK : fail_memory(p);
}

static qn_status parse_lanes(parser *p, int *out) {
  if (p->token.kind != TOK_INT || p->token.too_large || p->token.int_value < 1 || p->token.int_value > QN_LANES_MAX) {
    return fail_token(p, "a number of lanes, 1 to 64");
  }
  *out = (int)p->token.int_value;
  return next(p);
}

// "name" or "name.mem": a buffer and the view of it.
static qn_status parse_view(parser *p, const qn_lbuf **out_buf, qn_lmem *out_mem) {
  const declaration *d = p->token.kind == TOK_NAME ? find(p, p->token.text) : NULL;
  if (!d || !d->buf) return fail_token(p, "the name of a buffer that is declared here");
  *out_buf = d->buf;
  *out_mem = d->buf->mem;
  QN_TRY(next(p));
  if (!at_char(p, '.')) return QN_OK;
  QN_TRY(next(p));
  return parse_mem(p, out_mem);
}

// "[index]", and "[index : lanes]" where out_lanes is not NULL.
static qn_status parse_index(parser *p, parsed *out, int *out_lanes) {
  QN_TRY(enter(p));
  QN_TRY(expect_char(p, '['));
  QN_TRY(parse_expr(p, out));
  if (out_lanes) *out_lanes = out->e->type.lanes;
  if (out_lanes && at_char(p, ':')) {
    if (*out_lanes > 1) return fail_token(p, "']': an index of several lanes says how many there are");
    QN_TRY(next(p));
    QN_TRY(parse_lanes(p, out_lanes));
  }
  p->depth--;
  return expect_char(p, ']');
}

static qn_status parse_load(parser *p, parsed *out) {
  qn_lexpr node = {.op = QN_LX_LOAD};
  parsed index;
  QN_TRY(parse_view(p, &node.u.load.buf, &node.u.load.mem));
  QN_TRY(parse_index(p, &index, &node.type.lanes));
  node.operands[0] = index.e;
  return finish(p, &node, index.height, out);
}

// "(a, b)" after the operator's name.
static qn_status parse_call(parser *p, qn_lop op, parsed *out) {
  qn_lexpr node = {.op = op};
  int height = 0;
  QN_TRY(enter(p));
  QN_TRY(expect_char(p, '('));
  for (int i = 0; i < qn_lop_info_of(op)->operands; i++) {
    parsed operand;
    if (i > 0) QN_TRY(expect_char(p, ','));
    QN_TRY(parse_expr(p, &operand));
    node.operands[i] = operand.e;
    if (operand.height > height) height = operand.height;
  }
  p->depth--;
  QN_TRY(expect_char(p, ')'));
  return finish(p, &node, height, out);
}

static qn_status parse_leaf(parser *p, qn_lexpr node, parsed *out) {
  QN_TRY(next(p));
  return finish(p, &node, 0, out);
}

static int hex_digit(char c) {
  const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;
  return at ? (int)(at - digits) : -1;
}

// "(x, table)" after lut16.
static qn_status parse_lut16(parser *p, parsed *out) {
  qn_lexpr node = {.op = QN_LX_LUT16};
  parsed x;
  QN_TRY(enter(p));
  QN_TRY(expect_char(p, '('));
  QN_TRY(parse_expr(p, &x));
  QN_TRY(expect_char(p, ','));
  node.operands[0] = x.e;
  bool valid = p->token.kind == TOK_STRING && p->token.text.length == 2 * sizeof node.u.table + 2;
  for (size_t i = 0; valid && i < sizeof node.u.table; i++) {
    int high = hex_digit(p->token.text.data[1 + 2 * i]), low = hex_digit(p->token.text.data[2 + 2 * i]);
    valid = high >= 0 && low >= 0;
    if (valid) node.u.table[i] = (uint8_t)(high << 4 | low);
  }
  if (!valid) return fail_token(p, "32 digits of 0-9 and a-f in quotes");
  QN_TRY(next(p));
  p->depth--;
  QN_TRY(expect_char(p, ')'));
  return finish(p, &node, x.height, out);
}

static qn_status parse_operator(parser *p, parsed *out) {
  if (at_word(p, "lut16")) {
    QN_TRY(next(p));
    return parse_lut16(p, out);
  }
  if (at_word(p, "lane")) {
    qn_lexpr node = {.op = QN_LX_LANE, .type = {QN_LK_INDEX, 1}};
    QN_TRY(next(p));
    QN_TRY(expect_char(p, '('));
    QN_TRY(parse_lanes(p, &node.type.lanes));
    if (!at_char(p, ')')) return fail_token(p, "')'");
    return parse_leaf(p, node, out);
  }
  for (int op = 0; op < QN_LX_COUNT; op++) {
    const qn_lop_info *info = qn_lop_info_of((qn_lop)op);
    if (info->syntax != 'C' || !at_word(p, info->text)) continue;
    QN_TRY(next(p));
    return parse_call(p, (qn_lop)op, out);
  }
  return fail_token(p, "the name of an operator before '('");
}

// The first character behind the next token and the space after it.
static char following(const parser *p) {
  parser ahead = *p;
  skip_space(&ahead);
  return peek(&ahead, 0);
}

// A name: an operator that is called, a constant, a symbol, a variable, or a buffer to load from.
static qn_status parse_name(parser *p, parsed *out) {
  if (following(p) == '(') return parse_operator(p, out);
  qn_lexpr node = {.op = QN_LX_SYM, .type = {QN_LK_INDEX, 1}};
  if (qn_symbol_parse(p->token.text, &node.u.symbol)) return parse_leaf(p, node, out);
  if (at_word(p, "inf") || at_word(p, "nan")) {
    node = (qn_lexpr){.op = QN_LX_FLOAT, .type = {QN_LK_F32, 1}};
    node.u.float_value = at_word(p, "inf") ? INFINITY : __builtin_nanf("");
    return parse_leaf(p, node, out);
  }
  const declaration *d = find(p, p->token.text);
  if (!d) return fail_token(p, "the name of a variable or buffer that is declared here");
  if (d->buf) return parse_load(p, out);
  node = (qn_lexpr){.op = QN_LX_VAR, .type = {QN_LK_INDEX, 1}, .u.var = d->var};
  return parse_leaf(p, node, out);
}

// A constant, perhaps with a sign: 7, -7i32, 0.5, -inf.
static qn_status parse_number(parser *p, parsed *out) {
  qn_lexpr node = {.op = QN_LX_INT, .type = {QN_LK_INDEX, 1}};
  bool minus = at_char(p, '-');
  if (minus) QN_TRY(next(p));
  const token *t = &p->token;
  uint64_t limit = t->kind == TOK_I32 ? INT32_MAX : INT64_MAX;
  if (t->kind == TOK_FLOAT || (minus && at_word(p, "inf"))) {
    node = (qn_lexpr){.op = QN_LX_FLOAT, .type = {QN_LK_F32, 1}};
    node.u.float_value = t->kind == TOK_FLOAT ? t->float_value : INFINITY;
    if (minus) node.u.float_value = -node.u.float_value;
    return parse_leaf(p, node, out);
  }
  if (t->kind != TOK_INT && t->kind != TOK_I32) return fail_token(p, minus ? "a number after '-'" : "an expression");
  if (t->too_large || t->int_value > limit + minus) return fail_token(p, "a number that fits its type");
  if (t->kind == TOK_I32) node.type.kind = QN_LK_I32;
  node.u.int_value = (int64_t)(minus ? 0 - t->int_value : t->int_value);
  return parse_leaf(p, node, out);
}

static qn_status parse_primary(parser *p, parsed *out) {
  if (p->token.kind == TOK_NAME) return parse_name(p, out);
  if (!at_char(p, '(')) return parse_number(p, out);
  QN_TRY(enter(p));
  QN_TRY(next(p));
  QN_TRY(parse_expr(p, out));
  p->depth--;
  return expect_char(p, ')');
}

// The infix operator at the next token among `ops`; false when there is none.
static bool at_infix(const parser *p, const qn_lop *ops, size_t count, qn_lop *out) {
  for (size_t i = 0; i < count; i++) {
    if (!at_char(p, qn_lop_info_of(ops[i])->text[0])) continue;
    *out = ops[i];
    return true;
  }
  return false;
}

static qn_status parse_product(parser *p, parsed *out) {
  static const qn_lop ops[] = {QN_LX_MUL, QN_LX_DIV, QN_LX_MOD};
  qn_lop op;
  QN_TRY(parse_primary(p, out));
  while (at_infix(p, ops, QN_COUNT(ops), &op)) {
    parsed right;
    QN_TRY(next(p));
    QN_TRY(parse_primary(p, &right));
    qn_lexpr node = {.op = op, .operands = {out->e, right.e}};
    QN_TRY(finish(p, &node, out->height > right.height ? out->height : right.height, out));
  }
  return QN_OK;
}

static qn_status parse_expr(parser *p, parsed *out) {
  static const qn_lop ops[] = {QN_LX_ADD, QN_LX_SUB};
  qn_lop op;
  QN_TRY(parse_product(p, out));
  while (at_infix(p, ops, QN_COUNT(ops), &op)) {
    parsed right;
    QN_TRY(next(p));
    QN_TRY(parse_product(p, &right));
    qn_lexpr node = {.op = op, .operands = {out->e, right.e}};
    QN_TRY(finish(p, &node, out->height > right.height ? out->height : right.height, out));
  }
  return QN_OK;
}

// --- statements

static qn_status parse_block(parser *p, qn_lblock *block);

// Order and mark of a loop; *out_mark stays where there is none.
static qn_status parse_loop_words(parser *p, qn_lorder *out_order, qn_lmark *out_mark) {
  static const char *const marks[] = {"parallel", "unroll", "vector", "lane"};
  if (!at_word(p, "data") && !at_word(p, "reduce")) return fail_token(p, "'data' or 'reduce'");
  *out_order = at_word(p, "data") ? QN_LO_DATA : QN_LO_REDUCE;
  QN_TRY(next(p));
  for (int i = 0; i < (int)QN_COUNT(marks); i++) {
    if (!at_word(p, marks[i])) continue;
    *out_mark = (qn_lmark)(QN_LM_PARALLEL + i);
    return next(p);
  }
  if (!at_char(p, '{')) return fail_token(p, "'parallel', 'unroll', 'vector', 'lane' or '{'");
  return QN_OK;
}

static qn_status parse_for(parser *p, qn_lblock *block) {
  parsed lo, hi;
  qn_lorder order = QN_LO_DATA;
  qn_lmark mark = QN_LM_SERIAL;
  QN_TRY(next(p));
  qn_lvar *var = qn_lvar_new(&p->b, "v");
  size_t index = p->declarations.count;
  const char *name;
  QN_TRY(declare(p, var, NULL, &name));
  var->name = name;
  p->declarations.items[index].in_scope = false;  // not in its own bounds
  QN_TRY(expect_word(p, "in"));
  QN_TRY(parse_expr(p, &lo));
  if (p->token.kind != TOK_RANGE) return fail_token(p, "'..'");
  QN_TRY(next(p));
  QN_TRY(parse_expr(p, &hi));
  QN_TRY(parse_loop_words(p, &order, &mark));
  qn_lstmt *loop = qn_lfor(&p->b, block, var, lo.e, hi.e, order);
  if (p->b.failed) return fail_memory(p);
  loop->u.loop.mark = mark;
  p->declarations.items[index].in_scope = true;
  QN_TRY(parse_block(p, &loop->u.loop.body));
  p->declarations.items[index].in_scope = false;
  return QN_OK;
}

// "name : mem[elements]" of a parameter or local.
static qn_status parse_buffer(parser *p, qn_lbuf *buf) {
  parsed elements;
  QN_TRY(next(p));
  if (!buf) return fail_memory(p);
  QN_TRY(declare(p, NULL, buf, &buf->name));
  p->declarations.items[p->declarations.count - 1].in_scope = false;  // not in its own size
  QN_TRY(expect_char(p, ':'));
  QN_TRY(parse_mem(p, &buf->mem));
  QN_TRY(parse_index(p, &elements, NULL));
  p->declarations.items[p->declarations.count - 1].in_scope = true;
  buf->elements = elements.e;
  return QN_OK;
}

static qn_status parse_store(parser *p, qn_lblock *block) {
  const qn_lbuf *buf;
  qn_lmem mem;
  parsed index, value;
  int lanes;
  if (p->token.kind != TOK_NAME) return fail_token(p, "a statement or '}'");
  QN_TRY(parse_view(p, &buf, &mem));
  QN_TRY(parse_index(p, &index, &lanes));
  QN_TRY(expect_char(p, '='));
  QN_TRY(parse_expr(p, &value));
  return qn_lstore_lanes(&p->b, block, buf, mem, index.e, value.e, lanes) ? QN_OK : fail_memory(p);
}

static qn_status parse_prefetch(parser *p, qn_lblock *block) {
  const qn_lbuf *buf;
  qn_lmem mem;
  parsed index;
  QN_TRY(next(p));
  bool far = at_word(p, "far");
  if (far) QN_TRY(next(p));
  QN_TRY(parse_view(p, &buf, &mem));
  QN_TRY(parse_index(p, &index, NULL));
  return qn_lprefetch(&p->b, block, buf, mem, index.e, far) ? QN_OK : fail_memory(p);
}

// A number of elements.
static qn_status parse_count(parser *p, const char *want, int *out) {
  if (p->token.kind != TOK_INT || p->token.too_large || p->token.int_value > INT32_MAX) return fail_token(p, want);
  *out = (int)p->token.int_value;
  return next(p);
}

static qn_status parse_local(parser *p, qn_lblock *block) {
  qn_lbuf *local = qn_llocal(&p->b, block, "v", QN_LM_F32, 1);
  QN_TRY(parse_buffer(p, local));
  char after = following(p);
  if (after == '[' || after == '.') return QN_OK;  // a store to a buffer of that name
  if (at_word(p, "each")) {
    QN_TRY(next(p));
    QN_TRY(parse_count(p, "the number of elements that a lane has", &local->each));
  } else if (at_word(p, "shared") || at_word(p, "spread")) {
    *(at_word(p, "shared") ? &local->shared : &local->spread) = true;
    QN_TRY(next(p));
  }
  after = following(p);
  if (!at_word(p, "bytes") || after == '[' || after == '.') return QN_OK;
  QN_TRY(next(p));
  return parse_count(p, "what no byte of the local is above", &local->byte_max);
}

static qn_status parse_copy(parser *p, qn_lblock *block) {
  const qn_lbuf *to, *from;
  qn_lmem mem, from_mem;
  parsed to_index, from_index;
  int lanes;
  QN_TRY(next(p));
  QN_TRY(parse_view(p, &to, &mem));
  QN_TRY(parse_index(p, &to_index, &lanes));
  QN_TRY(expect_char(p, '='));
  QN_TRY(parse_view(p, &from, &from_mem));
  if (mem != from_mem) return fail_token(p, "the same type of elements in both places of a copy");
  QN_TRY(parse_index(p, &from_index, NULL));
  return qn_lcopy(&p->b, block, to, to_index.e, from, from_index.e, mem, lanes) ? QN_OK : fail_memory(p);
}

static qn_status parse_wait(parser *p, qn_lblock *block) {
  QN_TRY(next(p));
  if (p->token.kind != TOK_INT || p->token.too_large || p->token.int_value > QN_LWAIT_MAX) {
    return fail_token(p, "a number of groups, 0 to 31");
  }
  if (!qn_lwait(&p->b, block, (int)p->token.int_value)) return fail_memory(p);
  return next(p);
}

static qn_status parse_plain(parser *p, qn_lstmt *stmt) { return stmt ? next(p) : fail_memory(p); }

// "mma kind c[number] a[number] b[number]"
static qn_status parse_mma(parser *p, qn_lblock *block) {
  const qn_lbuf *bufs[QN_MMA_OPERANDS];
  int at[QN_MMA_OPERANDS], kind = 0;
  QN_TRY(next(p));
  while (kind < QN_MMA_COUNT && !at_word(p, qn_lmma_info_of((qn_lmma)kind)->text)) kind++;
  if (kind == QN_MMA_COUNT) return fail_token(p, "what kind of mma: see ir/mma.def");
  QN_TRY(next(p));
  for (int i = 0; i < QN_MMA_OPERANDS; i++) {
    const declaration *d = p->token.kind == TOK_NAME ? find(p, p->token.text) : NULL;
    if (!d || !d->buf) return fail_token(p, "the name of a buffer that is declared here");
    bufs[i] = d->buf;
    QN_TRY(next(p));
    QN_TRY(expect_char(p, '['));
    QN_TRY(parse_count(p, "the number of an element", &at[i]));
    QN_TRY(expect_char(p, ']'));
  }
  return qn_lmma_append(&p->b, block, (qn_lmma)kind, bufs, at) ? QN_OK : fail_memory(p);
}

// Statements up to a '}', which is read too; what they declare goes out of scope.
static qn_status parse_statements(parser *p, qn_lblock *block) {
  size_t outer = p->declarations.count;
  while (!at_char(p, '}')) {
    if (at_word(p, "for")) {
      QN_TRY(parse_for(p, block));
    } else if (at_word(p, "local")) {
      QN_TRY(parse_local(p, block));
    } else if (at_word(p, "prefetch")) {
      QN_TRY(parse_prefetch(p, block));
    } else if (at_word(p, "barrier")) {
      QN_TRY(parse_plain(p, qn_lbarrier(&p->b, block)));
    } else if (at_word(p, "copy")) {
      QN_TRY(parse_copy(p, block));
    } else if (at_word(p, "commit")) {
      QN_TRY(parse_plain(p, qn_lcommit(&p->b, block)));
    } else if (at_word(p, "wait")) {
      QN_TRY(parse_wait(p, block));
    } else if (at_word(p, "mma")) {
      QN_TRY(parse_mma(p, block));
    } else {
      QN_TRY(parse_store(p, block));
    }
  }
  for (size_t i = outer; i < p->declarations.count; i++) p->declarations.items[i].in_scope = false;
  p->depth--;
  return next(p);
}

static qn_status parse_block(parser *p, qn_lblock *block) {
  QN_TRY(enter(p));
  QN_TRY(expect_char(p, '{'));
  return parse_statements(p, block);
}

// --- kernels

static qn_status parse_param(parser *p) {
  qn_lbuf *param = qn_lparam(&p->b, "v", QN_LM_F32, qn_lint(&p->b, 0), false, false);
  QN_TRY(parse_buffer(p, param));
  for (;;) {
    bool *flag = at_word(p, "out") ? &param->writable : at_word(p, "streamed") ? &param->streamed : NULL;
    char after = following(p);
    if (!flag || *flag || after == '[' || after == '.') return QN_OK;  // no flag, or a store to a buffer of that name
    *flag = true;
    QN_TRY(next(p));
  }
}

static qn_status parse_kernel(parser *p, qn_arena *arena) {
  QN_TRY(expect_word(p, "kernel"));
  if (p->token.kind != TOK_STRING) return fail_token(p, "the kernel's name in quotes");
  qn_str quoted = p->token.text;
  if (quoted.length < 3) return fail_token(p, "a name of at least one letter");
  const char *name = qn_arena_strndup(arena, quoted.data + 1, quoted.length - 2);
  if (!name) return fail_memory(p);
  qn_lbuild_init(&p->b, arena, name);
  p->declarations.count = 0;
  QN_TRY(next(p));
  QN_TRY(enter(p));
  QN_TRY(expect_char(p, '{'));
  while (at_word(p, "param")) QN_TRY(parse_param(p));
  QN_TRY(parse_statements(p, &p->b.kernel->body));
  return p->b.failed ? fail_memory(p) : QN_OK;
}

qn_status qn_lkernels_parse(const char *name, qn_str text, qn_arena *arena, qn_lkernel ***out_kernels,
                            size_t *out_count, qn_diag *diag) {
  parser p = {.name = name, .text = text.length > 0 ? text : QN_STR(""), .line = 1, .diag = diag};
  QN_VEC(qn_lkernel *) kernels = {NULL, 0, 0};
  qn_status status = next(&p);
  while (status == QN_OK && p.token.kind != TOK_END) {
    qn_map_init(&p.names, arena->allocator);
    status = parse_kernel(&p, arena);
    qn_map_deinit(&p.names);
    if (status == QN_OK && !qn_vec_push_arena(arena, &kernels, p.b.kernel)) status = fail_memory(&p);
  }
  if (status != QN_OK) return status;
  *out_kernels = kernels.items;
  *out_count = kernels.count;
  return QN_OK;
}
