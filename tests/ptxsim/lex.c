// PTX text as tokens.
#include "tests/ptxsim/lex.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

qn_status ps_fail_line(qn_diag *diag, qn_status status, int line, const char *format, ...) {
  char where[32], text[800];
  snprintf(where, sizeof where, "PTX line %d", line);
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return qn_fail(diag, status, where, "%s", text);
}

static char peek(const ps_lexer *x, size_t ahead) {
  return x->at + ahead < x->source.length ? x->source.data[x->at + ahead] : '\0';
}

static bool is_name(char c) { return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%'; }

static qn_status skip_blanks(ps_lexer *x) {
  while (x->at < x->source.length) {
    char c = peek(x, 0);
    if (c == '\n') x->line++;
    if (isspace((unsigned char)c) || c == '\0') {
      x->at++;
    } else if (c == '/' && peek(x, 1) == '/') {
      while (x->at < x->source.length && peek(x, 0) != '\n') x->at++;
    } else if (c == '/' && peek(x, 1) == '*') {
      int line = x->line;
      for (x->at += 2; !(peek(x, 0) == '*' && peek(x, 1) == '/'); x->at++) {
        if (x->at >= x->source.length) return ps_fail_line(x->diag, QN_ERR_FORMAT, line, "a comment that has no end");
        if (peek(x, 0) == '\n') x->line++;
      }
      x->at += 2;
    } else {
      break;
    }
  }
  return QN_OK;
}

static qn_status lex_hex_float(ps_lexer *x, ps_token *t, size_t digits) {
  char text[20] = "";
  for (size_t i = 0; i < digits; i++) {
    char c = peek(x, 2 + i);
    if (!isxdigit((unsigned char)c)) {
      return ps_fail_line(x->diag, QN_ERR_FORMAT, x->line, "a constant 0%c wants %zu hexadecimal digits", peek(x, 1),
                          digits);
    }
    text[i] = c;
  }
  t->kind = digits == 8 ? PS_TOKEN_FLOAT32 : PS_TOKEN_FLOAT;
  t->value = strtoull(text, NULL, 16);
  x->at += 2 + digits;
  return QN_OK;
}

static qn_status lex_number(ps_lexer *x, ps_token *t) {
  if (peek(x, 0) == '0' && (peek(x, 1) == 'f' || peek(x, 1) == 'F')) return lex_hex_float(x, t, 8);
  if (peek(x, 0) == '0' && (peek(x, 1) == 'd' || peek(x, 1) == 'D')) return lex_hex_float(x, t, 16);
  char text[80];
  size_t n = 0;
  bool hex = peek(x, 0) == '0' && (peek(x, 1) == 'x' || peek(x, 1) == 'X'), real = false;
  while (n + 1 < sizeof text) {
    char c = peek(x, n);
    bool exponent = !hex && (c == 'e' || c == 'E');
    bool sign = (c == '+' || c == '-') && n > 0 && !hex && (text[n - 1] == 'e' || text[n - 1] == 'E');
    if (!isalnum((unsigned char)c) && c != '.' && !sign) break;
    if (c == '.' || exponent) real = true;
    text[n++] = c;
  }
  text[n] = '\0';
  x->at += n;
  char *end = text;
  if (real) {
    double value = strtod(text, &end);
    t->kind = PS_TOKEN_FLOAT;
    memcpy(&t->value, &value, sizeof value);
  } else {
    bool binary = text[0] == '0' && (text[1] == 'b' || text[1] == 'B');
    t->kind = PS_TOKEN_INT;
    t->value = binary ? strtoull(text + 2, &end, 2) : strtoull(text, &end, 0);
    if (*end == 'U') end++;
  }
  if (*end != '\0') return ps_fail_line(x->diag, QN_ERR_FORMAT, x->line, "'%s' is no number", text);
  return QN_OK;
}

// A name with its dots; a directive ends before the next one (.reg.b32). "::" belongs to modifiers (L2::128B), a single
// colon ends a label.
static void lex_name(ps_lexer *x, ps_token *t) {
  size_t from = x->at;
  t->kind = peek(x, 0) == '.' ? PS_TOKEN_DIRECTIVE : PS_TOKEN_NAME;
  x->at++;
  for (;;) {
    char c = peek(x, 0);
    if (is_name(c)) {
      x->at++;
    } else if (c == '.' && is_name(peek(x, 1)) && t->kind == PS_TOKEN_NAME) {
      x->at += 2;
    } else if (c == ':' && peek(x, 1) == ':' && is_name(peek(x, 2))) {
      x->at += 3;
    } else {
      break;
    }
  }
  t->text = (qn_str){x->source.data + from, x->at - from};
}

static qn_status lex_string(ps_lexer *x, ps_token *t) {
  size_t from = ++x->at;
  while (x->at < x->source.length && peek(x, 0) != '"') {
    if (peek(x, 0) == '\n') x->line++;
    x->at++;
  }
  if (x->at >= x->source.length) return ps_fail_line(x->diag, QN_ERR_FORMAT, t->line, "a string that has no end");
  t->kind = PS_TOKEN_STRING;
  t->text = (qn_str){x->source.data + from, x->at - from};
  x->at++;
  return QN_OK;
}

qn_status ps_lex(ps_lexer *x, ps_token *out_token) {
  QN_TRY(skip_blanks(x));
  size_t from = x->at;
  *out_token = (ps_token){.line = x->line, .text = {x->source.data + from, 0}};
  if (from >= x->source.length) return QN_OK;
  char c = peek(x, 0);
  if (isdigit((unsigned char)c)) {
    QN_TRY(lex_number(x, out_token));
    out_token->text.length = x->at - from;
    return QN_OK;
  }
  if (is_name(c) || (c == '.' && is_name(peek(x, 1)))) {
    lex_name(x, out_token);
    return QN_OK;
  }
  if (c == '"') return lex_string(x, out_token);
  if (c == '\0' || strchr("{}()[]<>,;:=+-!|@~&^*/", c) == NULL) {
    return ps_fail_line(x->diag, QN_ERR_FORMAT, x->line, "the character 0x%02x is not PTX", (unsigned char)c);
  }
  out_token->kind = PS_TOKEN_PUNCT;
  out_token->text.length = 1;
  x->at++;
  return QN_OK;
}
