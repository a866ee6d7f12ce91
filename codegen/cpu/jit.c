// Kernels as functions of this process: the same objects that qn_cpu_compile links, given to LLVM's JIT.
#include <string.h>

#include "codegen/cpu/host.h"
#include "codegen/cpu/link.h"
#include "codegen/cpu/module.h"
#include "llvm-c/LLJIT.h"
#include "llvm-c/Orc.h"

struct qn_jit {
  const qn_allocator *allocator;  // borrowed
  LLVMOrcLLJITRef lljit;          // owned; holds the code
  qn_kernel_fn *functions;        // owned
  size_t count;
};

// Takes the error: its text goes into the diag.
static qn_status fail(qn_diag *diag, LLVMErrorRef error, const char *what) {
  char *message = LLVMGetErrorMessage(error);
  qn_status status = qn_fail(diag, QN_ERR_INTERNAL, "LLJIT", "%s: %s", what, message);
  LLVMDisposeErrorMessage(message);
  return status;
}

static qn_status create_lljit(const qn_target *target, LLVMOrcLLJITRef *out, qn_diag *diag) {
  LLVMTargetMachineRef machine;
  QN_TRY(qn_target_machine_create(target, &machine, diag));
  LLVMOrcLLJITBuilderRef builder = LLVMOrcCreateLLJITBuilder();
  // The builder takes the machine's description, and with it the machine.
  LLVMOrcLLJITBuilderSetJITTargetMachineBuilder(builder,
                                                LLVMOrcJITTargetMachineBuilderCreateFromTargetMachine(machine));
  LLVMErrorRef error = LLVMOrcCreateLLJIT(out, builder);  // takes the builder
  return error ? fail(diag, error, "cannot start") : QN_OK;
}

// The JIT would find a library function in this process; an image could not. Linking says whether there is one.
static qn_status check_self_contained(const qn_objects *objects, qn_diag *diag) {
  for (size_t i = 0; i < objects->count; i++) {
    qn_link_object input = {(const uint8_t *)LLVMGetBufferStart(objects->buffers[i]),
                            LLVMGetBufferSize(objects->buffers[i])};
    qn_code code;
    QN_TRY(qn_link(&input, 1, NULL, 0, objects->allocator, &code, diag));
    qn_code_deinit(&code);
  }
  return QN_OK;
}

static qn_status load(qn_jit *jit, qn_objects *objects, qn_diag *diag) {
  LLVMOrcJITDylibRef library = LLVMOrcLLJITGetMainJITDylib(jit->lljit);
  for (size_t i = 0; i < objects->count; i++) {
    LLVMMemoryBufferRef object = objects->buffers[i];
    objects->buffers[i] = NULL;  // the JIT takes it
    LLVMErrorRef error = LLVMOrcLLJITAddObjectFile(jit->lljit, library, object);
    if (error) return fail(diag, error, "cannot load an object");
  }
  for (size_t i = 0; i < jit->count; i++) {
    LLVMOrcExecutorAddress address = 0;
    LLVMErrorRef error = LLVMOrcLLJITLookup(jit->lljit, &address, objects->names[i]);
    if (error) return fail(diag, error, objects->names[i]);
    void *pointer = (void *)(uintptr_t)address;
    memcpy(&jit->functions[i], &pointer, sizeof pointer);
  }
  return QN_OK;
}

qn_status qn_jit_create(const qn_lkernel *const *kernels, size_t count, const qn_codegen_options *options,
                        const qn_allocator *allocator, qn_jit **out, qn_diag *diag) {
  char missing[512];
  *out = NULL;
  if (!qn_host_runs(options->target, missing, sizeof missing))
    return qn_fail(diag, QN_ERR_TARGET, options->target->name, "this machine lacks %s", missing);
  qn_objects objects;
  QN_TRY(qn_objects_compile(kernels, count, options, allocator, &objects, diag));
  qn_status status = QN_OK;
  qn_jit *jit = qn_alloc_zeroed(allocator, sizeof *jit);
  if (jit) {
    jit->allocator = allocator;
    jit->count = count;
    jit->functions = qn_alloc_zeroed(allocator, (count ? count : 1) * sizeof *jit->functions);
  }
  if (!jit || !jit->functions) status = qn_fail_nomem(diag, "LLJIT", "function table");
  if (status == QN_OK) status = check_self_contained(&objects, diag);
  if (status == QN_OK) status = create_lljit(options->target, &jit->lljit, diag);
  if (status == QN_OK) status = load(jit, &objects, diag);
  qn_objects_deinit(&objects);
  if (status == QN_OK) {
    *out = jit;
  } else {
    qn_jit_destroy(jit);
  }
  return status;
}

qn_kernel_fn qn_jit_kernel(const qn_jit *jit, size_t index) { return jit->functions[index]; }

void qn_jit_destroy(qn_jit *jit) {
  if (!jit) return;
  if (jit->lljit) {
    LLVMErrorRef error = LLVMOrcDisposeLLJIT(jit->lljit);
    if (error) LLVMConsumeError(error);
  }
  qn_free(jit->allocator, jit->functions, (jit->count ? jit->count : 1) * sizeof *jit->functions);
  qn_free(jit->allocator, jit, sizeof *jit);
}
