// What the files of frontend/ share beside the public API.
#ifndef QUERN_FRONTEND_COMPILE_H
#define QUERN_FRONTEND_COMPILE_H

#include <stddef.h>

#include "runtime/base/diag.h"
#include "runtime/base/str.h"
#include "runtime/quern_run.h"

struct qn_graph;    // ir/graph.h
struct qn_program;  // ir/program.h

// A text that is the same for the same build of the compiler (our code, LLVM's and MLIR's) and another for another one,
// so that artifacts cached by an older build are not taken for this one's. Static; the same for the whole process.
const char *quern_build_id(void);

// The first bytes of a regular file, at most `size` of them; how many there are. 0 for anything else: a pipe is not
// waited for.
size_t quern_file_head(const char *path, char *out, size_t size);

// Ends a public function: copies the diagnosis into *error (may be NULL) and returns the status as its code.
int quern_give_error(quern_error *error, const qn_diag *diag, qn_status status);

// Appends the lines `cost.<field> = number` of quern_model_cost, for a graph after all passes and its program.
void quern_put_cost(const struct qn_graph *graph, const struct qn_program *program, qn_buf *out);

#endif
