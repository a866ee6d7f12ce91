// The tables of types and modifiers.
#include "tests/ptxsim/type.h"

static const struct {
  const char *name;
  unsigned bytes;
  char kind;
} types[PS_TYPE_COUNT] = {
    [PS_VOID] = {"void", 0, 'V'},
#define PS_TYPE(name, bytes, kind) [PS_##name] = {#name, bytes, #kind[0]},
#include "tests/ptxsim/type.def"
#undef PS_TYPE
};

static const char *const mods[PS_MOD_COUNT] = {
#define PS_MOD(name, spelling) [PS_MOD_##name] = spelling,
#include "tests/ptxsim/modifier.def"
#undef PS_MOD
};

ps_type ps_type_from(qn_str text) {
  for (int t = PS_VOID + 1; t < PS_TYPE_COUNT; t++) {
    if (qn_str_is(text, types[t].name)) return (ps_type)t;
  }
  return PS_VOID;
}

const char *ps_type_name(ps_type type) { return types[type].name; }
unsigned ps_type_bytes(ps_type type) { return types[type].bytes; }
char ps_type_kind(ps_type type) { return types[type].kind; }

ps_mod ps_mod_from(qn_str text) {
  for (int m = 0; m < PS_MOD_COUNT; m++) {
    if (qn_str_is(text, mods[m])) return (ps_mod)m;
  }
  return PS_MOD_COUNT;
}
