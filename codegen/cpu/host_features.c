// The host CPU's features and name, asked of LLVM (host.h). Apart from host.c, which is also there where LLVM is not loaded.
#include "codegen/cpu/host.h"
#include "llvm-c/Core.h"
#include "llvm-c/TargetMachine.h"

char *qn_host_features(void) { return LLVMGetHostCPUFeatures(); }

char *qn_host_cpu(void) { return LLVMGetHostCPUName(); }

void qn_host_features_free(char *features) {
  if (features) LLVMDisposeMessage(features);
}
