// PTX text as tokens. Names keep their dots where PTX glues them: an instruction with its modifiers
// ("ld.global.f32"), a directive (".reg") and a register's component ("%tid.x") are one token each.
#ifndef PTXSIM_LEX_H
#define PTXSIM_LEX_H

#include <stdint.h>

#include "runtime/base/diag.h"
#include "runtime/base/str.h"

typedef enum ps_token_kind {
  PS_TOKEN_END,
  PS_TOKEN_NAME,       // identifiers, registers, instructions
  PS_TOKEN_DIRECTIVE,  // starts with a dot
  PS_TOKEN_INT,
  PS_TOKEN_FLOAT,    // a decimal constant, or 0d and 16 hex digits: bits of a double
  PS_TOKEN_FLOAT32,  // 0f and 8 hex digits: bits of a float
  PS_TOKEN_STRING,
  PS_TOKEN_PUNCT,  // one character
} ps_token_kind;

typedef struct ps_token {
  ps_token_kind kind;
  qn_str text;     // borrowed from the source
  uint64_t value;  // of numbers: the integer, or the bits
  int line;        // from 1
} ps_token;

typedef struct ps_lexer {
  qn_str source;  // borrowed
  size_t at;
  int line;
  qn_diag *diag;  // borrowed
} ps_lexer;

// Reads one token; QN_ERR_FORMAT with the line for a character that PTX does not have, or a number that is none.
QN_CHECKED qn_status ps_lex(ps_lexer *lexer, ps_token *out_token);
// Fails with "PTX line N".
qn_status ps_fail_line(qn_diag *diag, qn_status status, int line, const char *format, ...) QN_PRINTF(4, 5);

#endif
