// A template's text → tokens: the text between tags with white space trimmed as the tags want it, and what is in them.
#include <errno.h>
#include <stdlib.h>

#include "runtime/jinja_impl.h"

qn_status qn_jinja_vfail(const qn_jinja_source *source, size_t at, qn_diag *diag, qn_status status, const char *format,
                         va_list args) {
  char where[256], text[768];
  size_t line = 1, column = 1;
  for (size_t i = 0; i < at && i < source->text.length; i++) {
    line += source->text.data[i] == '\n';
    column = source->text.data[i] == '\n' ? 1 : column + 1;
  }
  vsnprintf(text, sizeof text, format, args);
  snprintf(where, sizeof where, "%.200s:%zu:%zu", source->name, line, column);
  return qn_fail(diag, status, where, "%s", text);
}

qn_status qn_jinja_fail(const qn_jinja_source *source, size_t at, qn_diag *diag, qn_status status, const char *format,
                        ...) {
  va_list args;
  va_start(args, format);
  qn_status result = qn_jinja_vfail(source, at, diag, status, format, args);
  va_end(args);
  return result;
}

typedef struct lexer {
  const qn_jinja_source *source;
  qn_arena *arena;
  qn_jinja_tokens *tokens;
  qn_diag *diag;
  const char *text;
  size_t length, at;
  bool line_starts;  // what was last consumed ended a line
  char open[QN_JINJA_MAX_NESTING];
  size_t open_count;
} lexer;

static qn_status wrong(lexer *x, size_t at, const char *format, ...) QN_PRINTF(3, 4);
static qn_status wrong(lexer *x, size_t at, const char *format, ...) {
  va_list args;
  va_start(args, format);
  qn_status status = qn_jinja_vfail(x->source, at, x->diag, QN_ERR_FORMAT, format, args);
  va_end(args);
  return status;
}

static qn_status push(lexer *x, qn_jinja_token token) {
  return qn_vec_push_arena(x->arena, x->tokens, token) ? QN_OK : qn_fail_nomem(x->diag, x->source->name, "a template");
}

static qn_status push_text(lexer *x, qn_jinja_token_kind kind, size_t at, size_t length) {
  return push(x, (qn_jinja_token){.kind = kind, .at = (uint32_t)at, .text = {x->text + at, length}});
}

static char peek(const lexer *x, size_t offset) { return x->at + offset < x->length ? x->text[x->at + offset] : '\0'; }

static bool follows(const lexer *x, const char *word) {
  size_t length = strlen(word);
  return x->length - x->at >= length && memcmp(x->text + x->at, word, length) == 0;
}

static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_name(char c) { return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c & 0x80); }

static void skip_blanks(lexer *x) {
  while (x->at < x->length && is_blank(x->text[x->at])) x->at++;
}

// ---- text between tags

// The text from `begin` up to a tag, as the tag's sign and the settings leave it.
static qn_status put_data(lexer *x, size_t begin, size_t end, char sign, bool lstrip) {
  if (sign == '-') {
    while (end > begin && is_blank(x->text[end - 1])) end--;
  } else if (sign != '+' && lstrip) {
    size_t line = end;
    while (line > begin && x->text[line - 1] != '\n' && is_blank(x->text[line - 1])) line--;
    bool starts = line > begin ? x->text[line - 1] == '\n' : x->line_starts;
    if (starts) end = line;
  }
  return end > begin ? push_text(x, TOKEN_DATA, begin, end - begin) : QN_OK;
}

// After the characters that end a tag, whose sign was `sign`: white space or one newline goes with them.
static void end_tag(lexer *x, char sign, bool trim_newline) {
  size_t before = x->at;
  if (sign == '-') {
    skip_blanks(x);
  } else if (sign != '+' && trim_newline && peek(x, 0) == '\n') {
    x->at++;
  }
  x->line_starts = x->at > before && x->text[x->at - 1] == '\n';
}

// At a tag: skips "{%" and its sign.
static char begin_tag(lexer *x) {
  x->at += 2;
  char sign = peek(x, 0);
  if (sign != '-' && sign != '+') return '\0';
  x->at++;
  return sign;
}

static qn_status skip_comment(lexer *x, size_t begin) {
  for (size_t first = x->at; x->at < x->length; x->at++) {
    if (!follows(x, "#}")) continue;
    char before = x->at > first ? x->text[x->at - 1] : '\0', sign = before == '-' || before == '+' ? before : '\0';
    x->at += 2;
    end_tag(x, sign, true);
    return QN_OK;
  }
  return wrong(x, begin, "the comment has no end, want #}");
}

// Is there a tag {% word %} here? Then its signs, and where it ends.
static bool is_word_tag(const lexer *x, const char *word, char *out_sign, char *out_end_sign, size_t *out_end) {
  lexer y = *x;
  if (!follows(&y, "{%")) return false;
  *out_sign = begin_tag(&y);
  skip_blanks(&y);
  if (!follows(&y, word)) return false;
  y.at += strlen(word);
  skip_blanks(&y);
  *out_end_sign = peek(&y, 0) == '-' || peek(&y, 0) == '+' ? peek(&y, 0) : '\0';
  if (*out_end_sign) y.at++;
  if (!follows(&y, "%}")) return false;
  *out_end = y.at + 2;
  return true;
}

// {% raw %} text {% endraw %}; x->at is after the first tag.
static qn_status lex_raw(lexer *x, size_t begin) {
  size_t from = x->at;
  for (; x->at < x->length; x->at++) {
    char sign, end_sign;
    size_t end;
    if (!is_word_tag(x, "endraw", &sign, &end_sign, &end)) continue;
    QN_TRY(put_data(x, from, x->at, sign, true));
    x->at = end;
    end_tag(x, end_sign, true);
    return QN_OK;
  }
  return wrong(x, begin, "raw has no end, want {%% endraw %%}");
}

// ---- strings and numbers

static int hex_digits(const lexer *x, size_t at, int count) {
  int result = 0;
  for (int i = 0; i < count; i++) {
    char c = at + (size_t)i < x->length ? x->text[at + (size_t)i] : '\0';
    int digit = is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    if (result > 0x10FFFF / 16 + 1) return -1;
    result = result * 16 + digit;
  }
  return result;
}

// One escape at x->at (a backslash); Python's, of which unknown ones stay as they are.
static qn_status lex_escape(lexer *x, qn_buf *out) {
  static const char plain[] = "\\'\"abfnrtv", meaning[] = "\\'\"\a\b\f\n\r\t\v";
  char c = peek(x, 1);
  const char *found = c ? strchr(plain, c) : NULL;
  int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
  if (found) {
    qn_buf_putc(out, meaning[found - plain]);
  } else if (digits > 0) {
    int code = hex_digits(x, x->at + 2, digits);
    char bytes[4];
    if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      return wrong(x, x->at, "got an escape that is no character, want \\%c and %d hexadecimal digits", c, digits);
    qn_buf_append(out, bytes, qn_jinja_encode((uint32_t)code, bytes));
    x->at += (size_t)digits;
  } else if (c >= '0' && c <= '7') {
    unsigned code = 0;
    size_t count = 0;
    for (; count < 3 && peek(x, 1 + count) >= '0' && peek(x, 1 + count) <= '7'; count++)
      code = code * 8 + (unsigned)(peek(x, 1 + count) - '0');
    char bytes[4];
    qn_buf_append(out, bytes, qn_jinja_encode(code, bytes));
    x->at += count - 1;
  } else if (c != '\n') {
    qn_buf_append(out, x->text + x->at, 2);
  }
  x->at += 2;
  return QN_OK;
}

static qn_status lex_string(lexer *x) {
  size_t begin = x->at;
  char quote = x->text[x->at++];
  qn_buf buf;
  qn_status status = QN_OK;
  qn_buf_init(&buf, x->arena->allocator);
  while (status == QN_OK && x->at < x->length && x->text[x->at] != quote) {
    if (x->text[x->at] == '\\' && x->at + 1 < x->length) {
      status = lex_escape(x, &buf);
    } else {
      qn_buf_putc(&buf, x->text[x->at++]);
    }
  }
  if (status == QN_OK && x->at >= x->length) status = wrong(x, begin, "the text in quotes has no end, want %c", quote);
  if (status == QN_OK) {
    x->at++;
    const char *copy = buf.failed ? NULL : qn_arena_strndup(x->arena, qn_buf_text(&buf), buf.length);
    status = copy ? push(x, (qn_jinja_token){.kind = TOKEN_STRING, .at = (uint32_t)begin, .text = {copy, buf.length}})
                  : qn_fail_nomem(x->diag, x->source->name, "a template");
  }
  qn_buf_deinit(&buf);
  return status;
}

// Digits with underscores between them, without these to `out` from *length on.
static void take_digits(lexer *x, char *out, size_t capacity, size_t *length) {
  while (is_digit(peek(x, 0)) || (peek(x, 0) == '_' && is_digit(peek(x, 1)))) {
    if (peek(x, 0) != '_' && *length < capacity) out[(*length)++] = peek(x, 0);
    x->at++;
  }
}

static qn_status lex_number(lexer *x) {
  char digits[64];
  size_t begin = x->at, length = 0, most = sizeof digits - 1;
  qn_jinja_token token = {.kind = TOKEN_INT, .at = (uint32_t)begin};
  bool after_dot = begin > 0 && x->text[begin - 1] == '.';
  take_digits(x, digits, most, &length);
  if (!after_dot && peek(x, 0) == '.' && is_digit(peek(x, 1))) {
    token.kind = TOKEN_FLOAT;
    if (length < most) digits[length++] = '.';
    x->at++;
    take_digits(x, digits, most, &length);
  }
  size_t sign = peek(x, 1) == '-' || peek(x, 1) == '+';
  if (!after_dot && (peek(x, 0) == 'e' || peek(x, 0) == 'E') && is_digit(peek(x, 1 + sign))) {
    token.kind = TOKEN_FLOAT;
    for (size_t i = 0; i < 1 + sign; i++, x->at++)
      if (length < most) digits[length++] = peek(x, 0);
    take_digits(x, digits, most, &length);
  }
  digits[length] = '\0';
  token.text = (qn_str){x->text + begin, x->at - begin};
  errno = 0;
  if (token.kind == TOKEN_INT) token.integer = strtoll(digits, NULL, 10);
  if (token.kind == TOKEN_FLOAT) token.real = qn_strtod(digits, NULL);
  if (length == most || (token.kind == TOKEN_INT && errno != 0))
    return wrong(x, begin, "got the number %.40s, want one that 64 bits hold", digits);
  return push(x, token);
}

// ---- tags

// Keeps track of brackets: within them "}}" ends no tag.
static qn_status take_bracket(lexer *x, char c) {
  const char *opening = "([{", *closing = ")]}";
  if (strchr(opening, c)) {
    if (x->open_count == sizeof x->open)
      return qn_jinja_fail(x->source, x->at, x->diag, QN_ERR_LIMIT, "brackets are nested too deeply, want at most %d",
                           QN_JINJA_MAX_NESTING);
    x->open[x->open_count++] = closing[strchr(opening, c) - opening];
    return QN_OK;
  }
  if (!strchr(closing, c)) return QN_OK;
  if (x->open_count == 0) return wrong(x, x->at, "got %c, which nothing opened", c);
  if (x->open[x->open_count - 1] != c) return wrong(x, x->at, "got %c, want %c", c, x->open[x->open_count - 1]);
  x->open_count--;
  return QN_OK;
}

static qn_status lex_operator(lexer *x) {
  static const char *const operators[] = {"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "[",
                                          "]",  "(",  ")",  "{",  "}",  "<",  ">", "=", ".", ":", "|", ",", ";"};
  for (size_t i = 0; i < QN_COUNT(operators); i++) {
    if (!follows(x, operators[i])) continue;
    QN_TRY(take_bracket(x, *operators[i]));
    size_t length = strlen(operators[i]);
    QN_TRY(push_text(x, TOKEN_OPERATOR, x->at, length));
    x->at += length;
    return QN_OK;
  }
  return wrong(x, x->at, "got the character '%.*s', which means nothing in a tag",
               (int)qn_jinja_character_at((qn_str){x->text, x->length}, x->at), x->text + x->at);
}

// Does the tag end here? `end` is "%}" or "}}".
static bool ends_tag(lexer *x, const char *end, char *out_sign) {
  if (x->open_count > 0) return false;
  char c = peek(x, 0);
  bool block = end[0] == '%', sign = (c == '-' || (block && c == '+')) && peek(x, 1) == end[0] && peek(x, 2) == end[1];
  if (!sign && !follows(x, end)) return false;
  *out_sign = sign ? c : '\0';
  return true;
}

static qn_status lex_tag(lexer *x, bool block, size_t begin) {
  const char *end = block ? "%}" : "}}";
  QN_TRY(push_text(x, block ? TOKEN_BLOCK_BEGIN : TOKEN_PRINT_BEGIN, begin, 2));
  for (;;) {
    char sign;
    skip_blanks(x);
    if (x->at >= x->length) break;
    if (ends_tag(x, end, &sign)) {
      QN_TRY(push_text(x, block ? TOKEN_BLOCK_END : TOKEN_PRINT_END, x->at, 2));
      x->at += sign ? 3 : 2;
      end_tag(x, sign, block);
      return QN_OK;
    }
    char c = peek(x, 0);
    if (c == '"' || c == '\'') {
      QN_TRY(lex_string(x));
    } else if (is_digit(c)) {
      QN_TRY(lex_number(x));
    } else if (is_name(c)) {
      size_t from = x->at;
      while (is_name(peek(x, 0)) || is_digit(peek(x, 0))) x->at++;
      QN_TRY(push_text(x, TOKEN_NAME, from, x->at - from));
    } else {
      QN_TRY(lex_operator(x));
    }
  }
  if (x->open_count > 0) return wrong(x, begin, "the tag has no end, want %c and %s", x->open[x->open_count - 1], end);
  return wrong(x, begin, "the tag has no end, want %s", end);
}

// One tag with the text before it.
static qn_status lex_piece(lexer *x) {
  size_t begin = x->at;
  while (x->at < x->length && !follows(x, "{%") && !follows(x, "{{") && !follows(x, "{#")) x->at++;
  if (x->at == x->length) return put_data(x, begin, x->at, '\0', false);
  size_t tag = x->at, end;
  char kind = x->text[tag + 1], sign, end_sign;
  if (is_word_tag(x, "raw", &sign, &end_sign, &end) && end_sign != '+') {
    QN_TRY(put_data(x, begin, tag, sign, true));
    x->at = end;
    end_tag(x, end_sign, false);
    return lex_raw(x, tag);
  }
  sign = begin_tag(x);
  QN_TRY(put_data(x, begin, tag, sign, kind != '{'));
  x->line_starts = false;
  return kind == '#' ? skip_comment(x, tag) : lex_tag(x, kind == '%', tag);
}

qn_status qn_jinja_lex(const qn_jinja_source *source, qn_arena *arena, qn_jinja_tokens *out, qn_diag *diag) {
  lexer x = {.source = source,
             .arena = arena,
             .tokens = out,
             .diag = diag,
             .text = source->text.data,
             .length = source->text.length,
             .line_starts = true};
  while (x.at < x.length) QN_TRY(lex_piece(&x));
  return push_text(&x, TOKEN_END, x.length, 0);
}
