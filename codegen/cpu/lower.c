// Kernels → MLIR → the LLVM dialect → LLVM IR, each call with an MLIR context of its own: threads share nothing.
#include <string.h>

#include "codegen/cpu/emit.h"
#include "codegen/cpu/module.h"
#include "mlir-c/Conversion.h"
#include "mlir-c/Diagnostics.h"
#include "mlir-c/Dialect/Arith.h"
#include "mlir-c/Dialect/ControlFlow.h"
#include "mlir-c/Dialect/LLVM.h"
#include "mlir-c/Dialect/Math.h"
#include "mlir-c/Dialect/SCF.h"
#include "mlir-c/Dialect/UB.h"
#include "mlir-c/Dialect/Vector.h"
#include "mlir-c/Pass.h"
#include "mlir-c/RegisterEverything.h"
#include "mlir-c/Target/LLVMIR.h"

static MlirContext create_context(void) {
  MlirContext context = mlirContextCreateWithThreading(false);
  mlirDialectHandleLoadDialect(mlirGetDialectHandle__arith__(), context);
  mlirDialectHandleLoadDialect(mlirGetDialectHandle__math__(), context);
  mlirDialectHandleLoadDialect(mlirGetDialectHandle__vector__(), context);
  mlirDialectHandleLoadDialect(mlirGetDialectHandle__scf__(), context);
  mlirDialectHandleLoadDialect(mlirGetDialectHandle__cf__(), context);
  mlirDialectHandleLoadDialect(mlirGetDialectHandle__ub__(), context);
  mlirDialectHandleLoadDialect(mlirGetDialectHandle__llvm__(), context);
  mlirRegisterAllLLVMTranslations(context);
  return context;
}

static void append_text(MlirStringRef text, void *user_data) { qn_buf_append(user_data, text.data, text.length); }

// Collects MLIR's messages, which say why a step failed.
static MlirLogicalResult collect(MlirDiagnostic diagnostic, void *user_data) {
  qn_buf *messages = user_data;
  if (messages->length > 0) qn_buf_puts(messages, "; ");
  mlirDiagnosticPrint(diagnostic, append_text, messages);
  return mlirLogicalResultSuccess();
}

static void dump_mlir(const qn_codegen_options *options, const qn_allocator *allocator, MlirModule module) {
  if (!options->dump) return;
  qn_buf text;
  qn_buf_init(&text, allocator);
  mlirOperationPrint(mlirModuleGetOperation(module), append_text, &text);
  qn_dump_stage(options, "mlir", qn_buf_text(&text), text.length);
  qn_buf_deinit(&text);
}

static void dump_llvm(const qn_codegen_options *options, LLVMModuleRef module) {
  if (!options->dump) return;
  char *text = LLVMPrintModuleToString(module);
  qn_dump_stage(options, "llvm", text, strlen(text));
  LLVMDisposeMessage(text);
}

// scf → cf, then everything → llvm. Constructed, not parsed from text: pass registries are process-wide.
static bool run_passes(MlirContext context, MlirModule module) {
  MlirPassManager manager = mlirPassManagerCreate(context);
  mlirPassManagerEnableVerifier(manager, false);  // the input was verified, and LLVM verifies the result
  mlirPassManagerAddOwnedPass(manager, mlirCreateConversionSCFToControlFlowPass());
  mlirPassManagerAddOwnedPass(manager, mlirCreateConversionConvertVectorToLLVMPass());
  mlirPassManagerAddOwnedPass(manager, mlirCreateConversionConvertMathToLLVMPass());
  mlirPassManagerAddOwnedPass(manager, mlirCreateConversionArithToLLVMConversionPass());
  mlirPassManagerAddOwnedPass(manager, mlirCreateConversionConvertControlFlowToLLVMPass());
  mlirPassManagerAddOwnedPass(manager, mlirCreateConversionUBToLLVMConversionPass());
  mlirPassManagerAddOwnedPass(manager, mlirCreateConversionReconcileUnrealizedCastsPass());
  MlirLogicalResult result = mlirPassManagerRunOnOp(manager, mlirModuleGetOperation(module));
  mlirPassManagerDestroy(manager);
  return mlirLogicalResultIsSuccess(result);
}

// A verified module → what becomes of it. Returns what failed; NULL = nothing did.
static const char *lower_module(MlirContext mlir, MlirModule module, const qn_codegen_options *options,
                                const qn_allocator *allocator, LLVMContextRef context, qn_lowered *out) {
  out->key = qn_object_key_of(module, options);
  out->object = qn_object_find(&out->key, allocator);
  if (out->object) return NULL;
  if (!run_passes(mlir, module)) return "lowering to the LLVM dialect failed";
  out->module = mlirTranslateModuleToLLVMIR(mlirModuleGetOperation(module), context);
  if (!out->module) return "translation to LLVM IR failed";
  dump_llvm(options, out->module);
  return NULL;
}

qn_status qn_lower_kernels(const qn_lkernel *const *kernels, const char *const *names, size_t count,
                           const qn_codegen_options *options, const qn_allocator *allocator, LLVMContextRef context,
                           qn_lowered *out, qn_diag *diag) {
  qn_buf messages;
  qn_buf_init(&messages, allocator);
  MlirContext mlir = create_context();
  MlirDiagnosticHandlerID handler = mlirContextAttachDiagnosticHandler(mlir, collect, &messages, NULL);
  MlirModule module = mlirModuleCreateEmpty(mlirLocationUnknownGet(mlir));
  const char *failed = NULL;
  *out = (qn_lowered){0};
  qn_diag inner = {0};
  qn_status status = qn_emit_kernels(mlir, module, options->target, kernels, names, count, allocator, &inner);
  if (status == QN_OK) dump_mlir(options, allocator, module);
  if (status != QN_OK) {
    failed = inner.text;
  } else if (!mlirOperationVerify(mlirModuleGetOperation(module))) {
    failed = "the MLIR made from the kernels is not valid";
  } else {
    failed = lower_module(mlir, module, options, allocator, context, out);
  }
  if (failed)
    status = qn_fail(diag, status == QN_OK ? QN_ERR_INTERNAL : status, names[0], "%s%s%s", failed,
                     messages.length ? ": " : "", qn_buf_text(&messages));
  mlirModuleDestroy(module);
  mlirContextDetachDiagnosticHandler(mlir, handler);
  mlirContextDestroy(mlir);
  qn_buf_deinit(&messages);
  return status;
}
