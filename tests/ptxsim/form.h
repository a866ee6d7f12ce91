// An instruction while it is decoded: the row of opcode.def that it matched, and what its modifiers say.
#ifndef PTXSIM_FORM_H
#define PTXSIM_FORM_H

#include "tests/ptxsim/program.h"

enum { PS_MAX_TYPES = 4 };

typedef struct ps_form {
  ps_type type[PS_MAX_TYPES];  // in the order of the pattern
  int type_count;
  uint64_t mods[(PS_MOD_COUNT + 63) / 64];
  bool barrier_spelled_out;  // `barrier`, which is aligned only if it says so
  ps_insn *insn;
} ps_form;

static inline bool ps_has(const ps_form *form, ps_mod mod) { return (form->mods[mod / 64] >> (mod % 64) & 1) != 0; }

// Gives the function of an instruction, and sets what else of it depends on the modifiers; NULL when there is none.
typedef ps_fn (*ps_select_fn)(ps_form *form);

typedef struct ps_opcode {
  const char *root;
  const char *modifiers;  // pattern, see opcode.def
  const char *operands;   // pattern
  ps_select_fn select;
  ps_class klass;
  const char *meaning;
} ps_opcode;

extern const ps_opcode ps_opcodes[];
extern const size_t ps_opcode_count;

// Does the text (".rn.f32", without the root) match the pattern? Fills in the form.
bool ps_match_modifiers(const char *pattern, qn_str text, ps_form *out_form);

// Selectors, one for each name in the select column of opcode.def.
#define PS_OP(root, modifiers, operands, select, klass, meaning) ps_fn ps_select_##select(ps_form *form);
#include "tests/ptxsim/opcode.def"
#undef PS_OP

ps_fn ps_select_clock(ps_form *form);  // mov of %clock and the like

// A selector that takes the function by the first type from a table.
#define PS_SELECT_BY_TYPE(name, ...)                         \
  ps_fn ps_select_##name(ps_form *form) {                    \
    static const ps_fn table[PS_TYPE_COUNT] = {__VA_ARGS__}; \
    return table[form->type[0]];                             \
  }

#endif
