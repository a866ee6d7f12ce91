// A PTX module as a tree: variables, functions, and their statements with every name resolved. Nested { } scopes may
// shadow names, as what inline assembly declares does.
#ifndef PTXSIM_PARSE_H
#define PTXSIM_PARSE_H

#include "runtime/base/map.h"
#include "runtime/base/vec.h"
#include "tests/ptxsim/lex.h"
#include "tests/ptxsim/type.h"

typedef enum ps_symbol_kind {
  PS_SYMBOL_REGISTER,
  PS_SYMBOL_GLOBAL,
  PS_SYMBOL_CONST,
  PS_SYMBOL_SHARED,
  PS_SYMBOL_LOCAL,  // also a function's parameters and the .param variables of a call: bytes of each thread
  PS_SYMBOL_PARAM,  // a kernel's parameter
  PS_SYMBOL_LABEL,
  PS_SYMBOL_TARGETS,  // .branchtargets
  PS_SYMBOL_FUNCTION,
} ps_symbol_kind;

typedef struct ps_symbol {
  qn_str name;  // borrowed from the source, or arena
  ps_symbol_kind kind;
  ps_type type;  // of a register or a variable's element
  int line;
  uint64_t size_bytes, align_bytes;  // of a variable
  uint64_t offset;                   // in its space; labels: index of the statement; given by the decoder for registers
  bool external;                     // .extern .shared name[]: the dynamic shared memory
  const void *placed_in;             // the program for which the decoder has given the offset
  const uint8_t *initial;            // arena, size_bytes; NULL = zeros
  struct ps_function *function;      // of PS_SYMBOL_FUNCTION
  struct ps_arg *targets;            // of PS_SYMBOL_TARGETS: arena
  size_t target_count;
} ps_symbol;

typedef enum ps_arg_kind {
  PS_ARG_REGISTER,  // symbol
  PS_ARG_SPECIAL,   // name: %tid.x
  PS_ARG_INT,       // value
  PS_ARG_FLOAT,     // value: bits of a double
  PS_ARG_FLOAT32,   // value: bits of a float
  PS_ARG_SYMBOL,    // symbol, and value: bytes added
  PS_ARG_ADDRESS,   // items[0] the base, and value: bytes added
  PS_ARG_VECTOR,    // items in braces
  PS_ARG_LIST,      // items in parentheses
  PS_ARG_PAIR,      // items[0] | items[1]
  PS_ARG_SINK,      // _
} ps_arg_kind;

typedef struct ps_arg {
  ps_arg_kind kind;
  bool negated;  // !p
  qn_str name;
  ps_symbol *symbol;
  uint64_t value;
  struct ps_arg *items;  // arena
  size_t count;
} ps_arg;

typedef struct ps_statement {
  int line;
  qn_str op;         // "ld.global.f32"
  ps_symbol *guard;  // NULL = none
  bool guard_negated;
  ps_arg *args;  // arena
  size_t count;
  uint32_t used_bytes;  // of a load: bit i = byte i matters; 0 = all do
} ps_statement;

typedef struct ps_function {
  qn_str name;
  int line;
  bool entry, defined;
  QN_VEC(ps_symbol *) params;
  QN_VEC(ps_symbol *) returns;
  QN_VEC(ps_symbol *) variables;  // shared and local ones of the body, the .param variables of calls included
  QN_VEC(ps_statement) statements;
  uint32_t max_threads[3];       // .maxntid; 0 = not given
  uint32_t required_threads[3];  // .reqntid
  uint32_t max_registers;
} ps_function;

typedef struct ps_module {
  int version;                    // 10 × major + minor
  int sm;                         // 80 of sm_80
  char suffix;                    // 'a' of sm_90a, 'f' of sm_100f, 0
  QN_VEC(ps_symbol *) variables;  // .global, .const and .shared ones of the module
  QN_VEC(ps_function *) functions;
} ps_module;

// Parses a whole module into the arena. QN_ERR_FORMAT or QN_ERR_UNSUPPORTED with the line.
QN_CHECKED qn_status ps_parse(qn_str source, qn_arena *arena, ps_module *out_module, qn_diag *diag);

#endif
