// The code generator as autotune asks for it: candidates of a task in one module, linked by the JIT.
#ifndef QUERN_FRONTEND_TUNE_CODE_H
#define QUERN_FRONTEND_TUNE_CODE_H

#include "autotune/worker.h"
#include "codegen/target.h"

typedef struct quern_tune_code quern_tune_code;
// `target` is borrowed; it must be one that this machine runs. NULL when out of memory.
quern_tune_code *quern_tune_code_create(const qn_target *target);
void quern_tune_code_destroy(quern_tune_code *code);  // NULL is harmless; frees all code made
// Borrowed from `code`: for qn_worker_options. Nothing of LLVM is loaded before a child calls it.
qn_compiler quern_tune_code_compiler(quern_tune_code *code);

#endif
