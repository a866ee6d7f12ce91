// LLVM IR → an ELF object in memory: a short pass pipeline and LLVM's code generator.
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "codegen/cpu/module.h"
#include "llvm-c/Analysis.h"
#include "llvm-c/Support.h"
#include "llvm-c/Target.h"
#include "llvm-c/Transforms/PassBuilder.h"

// What a kernel needs after the loop passes did the tiling: locals into registers, common addresses found once, loops
// rotated and what does not change moved out of them. Neither vectorisers nor unrolling, which the schedule decides,
// nor loop-idiom, which would call memset.
static const char *const pipeline =
    "function(sroa,early-cse<memssa>,simplifycfg,instcombine<max-iterations=1;no-verify-fixpoint>,"
    "loop-mssa(loop-rotate,licm),early-cse<memssa>,"
    "instcombine<max-iterations=1;no-verify-fixpoint>,simplifycfg,adce)";

// The order of a kernel's statements is its schedule's business, and its pressure on registers was weighed there.
// LLVM's machine scheduler reorders them towards latency, which spills (1.2 to 1.9 times slower with the tiles of
// x86-64-v3), and out-of-order cores gain nothing by it. LLVM has no other switch for it than this one, for the whole
// process.
static void initialise_llvm(void) {
  static const char *const options[] = {"quern", "-enable-misched=false", "-x86-machine-combiner=false",
                                        "-aarch64-enable-mcr=false"};
  LLVMParseCommandLineOptions((int)QN_COUNT(options), options, NULL);
  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86Target();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86AsmPrinter();
  LLVMInitializeX86AsmParser();  // the driver has instructions that LLVM has no name for
  LLVMInitializeAArch64TargetInfo();
  LLVMInitializeAArch64Target();
  LLVMInitializeAArch64TargetMC();
  LLVMInitializeAArch64AsmPrinter();
  LLVMInitializeRISCVTargetInfo();
  LLVMInitializeRISCVTarget();
  LLVMInitializeRISCVTargetMC();
  LLVMInitializeRISCVAsmPrinter();
}

qn_status qn_target_machine_create(const qn_target *target, LLVMTargetMachineRef *out, qn_diag *diag) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, initialise_llvm);
  LLVMTargetRef llvm_target;
  char *message = NULL;
  if (LLVMGetTargetFromTriple(target->triple, &llvm_target, &message)) {
    qn_status status = qn_fail(diag, QN_ERR_UNSUPPORTED, target->name, "LLVM: %s", message);
    LLVMDisposeMessage(message);
    return status;
  }
  *out = LLVMCreateTargetMachine(llvm_target, target->triple, target->cpu, target->features, LLVMCodeGenLevelDefault,
                                 LLVMRelocPIC, LLVMCodeModelSmall);
  if (!*out) return qn_fail(diag, QN_ERR_UNSUPPORTED, target->name, "LLVM has no code generator for this target");
  return QN_OK;
}

static qn_status run_passes(LLVMModuleRef module, LLVMTargetMachineRef machine, qn_diag *diag) {
  LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
  LLVMErrorRef error = LLVMRunPasses(module, pipeline, machine, options);
  LLVMDisposePassBuilderOptions(options);
  if (!error) return QN_OK;
  char *message = LLVMGetErrorMessage(error);
  qn_status status = qn_fail(diag, QN_ERR_INTERNAL, "LLVM passes", "%s", message);
  LLVMDisposeErrorMessage(message);
  return status;
}

static qn_status emit(LLVMModuleRef module, LLVMTargetMachineRef machine, LLVMCodeGenFileType type,
                      LLVMMemoryBufferRef *out, qn_diag *diag) {
  char *message = NULL;
  if (!LLVMTargetMachineEmitToMemoryBuffer(machine, module, type, &message, out)) return QN_OK;
  qn_status status = qn_fail(diag, QN_ERR_INTERNAL, "LLVM code generation", "%s", message);
  LLVMDisposeMessage(message);
  return status;
}

// Code generation changes the module, so the text is made from a copy.
static qn_status dump_assembly(LLVMModuleRef module, LLVMTargetMachineRef machine, const qn_codegen_options *options,
                               qn_diag *diag) {
  if (!options->dump) return QN_OK;
  LLVMModuleRef copy = LLVMCloneModule(module);
  LLVMMemoryBufferRef text = NULL;
  qn_status status = emit(copy, machine, LLVMAssemblyFile, &text, diag);
  if (status == QN_OK) {
    qn_dump_stage(options, "asm", LLVMGetBufferStart(text), LLVMGetBufferSize(text));
    LLVMDisposeMemoryBuffer(text);
  }
  LLVMDisposeModule(copy);
  return status;
}

static qn_status emit_verified(LLVMModuleRef module, LLVMTargetMachineRef machine, const qn_codegen_options *options,
                               LLVMMemoryBufferRef *out, qn_diag *diag) {
  char *message = NULL;
  if (LLVMVerifyModule(module, LLVMReturnStatusAction, &message)) {
    qn_status status = qn_fail(diag, QN_ERR_INTERNAL, "LLVM verifier", "%s", message);
    LLVMDisposeMessage(message);
    return status;
  }
  LLVMDisposeMessage(message);
  QN_TRY(run_passes(module, machine, diag));
  QN_TRY(dump_assembly(module, machine, options, diag));
  return emit(module, machine, LLVMObjectFile, out, diag);
}

qn_status qn_object_emit(LLVMModuleRef module, const qn_codegen_options *options, LLVMMemoryBufferRef *out,
                         qn_diag *diag) {
  LLVMTargetMachineRef machine;
  QN_TRY(qn_target_machine_create(options->target, &machine, diag));
  LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(machine);
  LLVMSetModuleDataLayout(module, layout);
  LLVMSetTarget(module, options->target->triple);
  qn_status status = emit_verified(module, machine, options, out, diag);
  LLVMDisposeTargetData(layout);
  LLVMDisposeTargetMachine(machine);
  return status;
}
