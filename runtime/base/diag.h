// The text of an error: what failed, where in the input, what was got and what was wanted, and what to do.
#ifndef QN_BASE_DIAG_H
#define QN_BASE_DIAG_H

#include "runtime/base/status.h"

// One error. Zero-initialised it holds none. The first failure is kept; later ones do not overwrite it.
typedef struct qn_diag {
  qn_status status;
  char text[1024];
} qn_diag;

// Records a failure and returns `status`, so that callers write `return qn_fail(diag, ...)`.
// `where` names the place ("model.gguf: tensor 'blk.0.attn_q.weight'", "graph.json:3:7", an option); the
// formatted message says got and want. `diag` may be NULL: then only the status survives.
qn_status qn_fail(qn_diag *diag, qn_status status, const char *where, const char *format, ...) QN_PRINTF(4, 5);

// The one way to report an allocation that failed: `what` says what the memory was for.
qn_status qn_fail_nomem(qn_diag *diag, const char *where, const char *what);

#endif
