// Objects that MLIR and LLVM made of kernels, kept in the folder that an environment variable names: for tests and
// builds that compile the same kernels again and again. Without it nothing is kept and nothing looked for.
#ifndef QN_CODEGEN_CPU_OBJECT_CACHE_H
#define QN_CODEGEN_CPU_OBJECT_CACHE_H

#include "codegen/codegen.h"
#include "llvm-c/Core.h"
#include "mlir-c/IR.h"

#define QN_OBJECT_CACHE_VARIABLE "QUERN_OBJECT_CACHE"

typedef struct qn_object_key {
  const char *folder;  // borrowed from the environment; NULL = nothing is kept
  uint64_t words[2];
} qn_object_key;

// The key of what becomes of a module of kernels as emitted: the hash of all that it depends on. No folder where none
// is named, or where stages are dumped, which takes going through them.
qn_object_key qn_object_key_of(MlirModule module, const qn_codegen_options *options);

// The object, to be freed by LLVMDisposeMemoryBuffer; NULL where there is none, or one that is damaged.
LLVMMemoryBufferRef qn_object_find(const qn_object_key *key, const qn_allocator *allocator);
// What cannot be kept is no error.
void qn_object_keep(const qn_object_key *key, LLVMMemoryBufferRef object, const qn_allocator *allocator);

#endif
