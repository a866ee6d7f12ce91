// The matching of an instruction's modifiers against the patterns of opcode.def.
#include "tests/ptxsim/form.h"

// Is `text` one of the alternatives between '|'?
static bool in_alternatives(qn_str alternatives, qn_str text) {
  size_t from = 0;
  for (size_t i = 0; i <= alternatives.length; i++) {
    if (i < alternatives.length && alternatives.data[i] != '|') continue;
    if (qn_str_equal((qn_str){alternatives.data + from, i - from}, text)) return true;
    from = i + 1;
  }
  return false;
}

// The next modifier at the front of `text` (".rn.f32"); empty when there is none left.
static qn_str next_modifier(qn_str text) {
  if (text.length == 0) return (qn_str){0};
  size_t n = 1;
  while (n < text.length && text.data[n] != '.') n++;
  return (qn_str){text.data + 1, n - 1};
}

bool ps_match_modifiers(const char *pattern, qn_str text, ps_form *out_form) {
  ps_insn *insn = out_form->insn;
  *out_form = (ps_form){.insn = insn};
  const char *p = pattern;
  while (*p != '\0') {
    while (*p == ' ') p++;
    size_t n = strcspn(p, " ");
    if (n == 0) break;
    bool type = *p == ':', optional = p[n - 1] == '?';
    qn_str slot = {p + type, n - type - optional};
    p += n;
    qn_str modifier = next_modifier(text);
    if (modifier.length == 0 || !in_alternatives(slot, modifier)) {
      if (!optional) return false;
      continue;
    }
    text.data += modifier.length + 1;
    text.length -= modifier.length + 1;
    if (type) {
      out_form->type[out_form->type_count++] = ps_type_from(modifier);
      continue;
    }
    ps_mod mod = ps_mod_from(modifier);
    if (mod == PS_MOD_COUNT) return false;  // named in opcode.def, missing in modifier.def: a test looks for that
    out_form->mods[mod / 64] |= 1ull << (mod % 64);
  }
  return text.length == 0;
}
