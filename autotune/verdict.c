// Names and texts of verdicts.
#include "autotune/verdict.h"

#include "runtime/base/status.h"

static const struct {
  const char *name, *text;
  bool blames;
} verdicts[] = {
#define QN_VERDICT(name, stored, blames, text) {stored, text, blames},
#include "autotune/verdict.def"
#undef QN_VERDICT
};

const char *qn_verdict_name(qn_verdict verdict) { return verdicts[verdict].name; }

const char *qn_verdict_text(qn_verdict verdict) { return verdicts[verdict].text; }

bool qn_verdict_blames(qn_verdict verdict) { return verdicts[verdict].blames; }

bool qn_verdict_parse(qn_str name, qn_verdict *out) {
  for (size_t i = 0; i < QN_COUNT(verdicts); i++) {
    if (qn_str_is(name, verdicts[i].name)) {
      *out = (qn_verdict)i;
      return true;
    }
  }
  return false;
}
