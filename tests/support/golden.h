// Golden files: texts with what becomes of them, compared, or rewritten when QUERN_UPDATE_GOLDEN=1 (read the difference
// before keeping it).
#ifndef QN_TESTS_SUPPORT_GOLDEN_H
#define QN_TESTS_SUPPORT_GOLDEN_H

#include "runtime/base/str.h"

// What becomes of a text: a result, or an error, as text that ends its last line.
typedef void (*qn_golden_fn)(void *context, const char *file_name, qn_str text, qn_buf *out);

// Asserts on every *.txt of a folder of the source tree (at least one). `comment` is what starts a comment in the text
// ("#", "//"). A file is a text that must be answered by itself, or a list of cases:
//   text
//   # ---- want
//   the answer
//   # ====
void qn_golden_check(const char *folder, const char *comment, qn_golden_fn answer, void *context);

#endif
