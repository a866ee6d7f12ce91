// The stages behind qn_cpu_compile and qn_jit_create: kernels → MLIR → LLVM IR → an ELF object in memory.
#ifndef QN_CODEGEN_CPU_MODULE_H
#define QN_CODEGEN_CPU_MODULE_H

#include "codegen/codegen.h"
#include "codegen/cpu/object_cache.h"
#include "llvm-c/Core.h"
#include "llvm-c/TargetMachine.h"

// Hands a stage's text to options->dump; several compile threads take turns.
void qn_dump_stage(const qn_codegen_options *options, const char *stage, const char *text, size_t length);

// lower.c: kernels → MLIR → the LLVM dialect → an LLVM module in `context`; or, where that was kept earlier, their object
// at once. The caller owns the one that is there, the other is NULL.
typedef struct qn_lowered {
  LLVMModuleRef module;
  LLVMMemoryBufferRef object;
  qn_object_key key;
} qn_lowered;
QN_CHECKED qn_status qn_lower_kernels(const qn_lkernel *const *kernels, const char *const *names, size_t count,
                                      const qn_codegen_options *options, const qn_allocator *allocator,
                                      LLVMContextRef context, qn_lowered *out, qn_diag *diag);

// object.c: LLVM's passes and code generation. The machine is disposed of with LLVMDisposeTargetMachine, the object
// with LLVMDisposeMemoryBuffer.
QN_CHECKED qn_status qn_target_machine_create(const qn_target *target, LLVMTargetMachineRef *out, qn_diag *diag);
QN_CHECKED qn_status qn_object_emit(LLVMModuleRef module, const qn_codegen_options *options, LLVMMemoryBufferRef *out,
                                    qn_diag *diag);

// compile.c: all of it, spread over options->threads modules. names_out[i] is kernel i's symbol.
typedef struct qn_objects {
  const qn_allocator *allocator;  // borrowed
  LLVMMemoryBufferRef *buffers;   // owned; an entry is NULL once somebody took it
  size_t count;
  char **names;  // owned: one a kernel
  size_t kernel_count;
  qn_arena arena;  // holds buffers and names
} qn_objects;
QN_CHECKED qn_status qn_objects_compile(const qn_lkernel *const *kernels, size_t count,
                                        const qn_codegen_options *options, const qn_allocator *allocator,
                                        qn_objects *out, qn_diag *diag);
void qn_objects_deinit(qn_objects *objects);

#endif
