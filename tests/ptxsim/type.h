// Types and modifiers of PTX as numbers, from their tables.
#ifndef PTXSIM_TYPE_H
#define PTXSIM_TYPE_H

#include <stdint.h>

#include "runtime/base/str.h"

typedef enum ps_type {
  PS_VOID,
#define PS_TYPE(name, bytes, kind) PS_##name,
#include "tests/ptxsim/type.def"
#undef PS_TYPE
  PS_TYPE_COUNT
} ps_type;

typedef enum ps_mod {
#define PS_MOD(name, spelling) PS_MOD_##name,
#include "tests/ptxsim/modifier.def"
#undef PS_MOD
  PS_MOD_COUNT
} ps_mod;

// PS_VOID where the text (without its dot) is no type.
ps_type ps_type_from(qn_str text);
const char *ps_type_name(ps_type type);
unsigned ps_type_bytes(ps_type type);
char ps_type_kind(ps_type type);  // 'U', 'S', 'B', 'F', 'P', 'V'
// PS_MOD_COUNT where the text is no modifier.
ps_mod ps_mod_from(qn_str text);

#endif
