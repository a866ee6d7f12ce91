// What became of a candidate that was tried: said by the measurer, kept by the database, counted by the session.
#ifndef QN_AUTOTUNE_VERDICT_H
#define QN_AUTOTUNE_VERDICT_H

#include "runtime/base/str.h"

typedef enum qn_verdict {
#define QN_VERDICT(name, stored, blames, text) QN_VERDICT_##name,
#include "autotune/verdict.def"
#undef QN_VERDICT
  QN_VERDICT_COUNT
} qn_verdict;

const char *qn_verdict_name(qn_verdict verdict);  // "ok", "wrong": what is stored
const char *qn_verdict_text(qn_verdict verdict);  // in words
bool qn_verdict_blames(qn_verdict verdict);       // not OK, and that is the code's doing
bool qn_verdict_parse(qn_str name, qn_verdict *out);

#endif
