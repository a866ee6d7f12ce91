// What the CPU of this machine can do, in the names that target.c uses.
#ifndef QN_CODEGEN_CPU_HOST_H
#define QN_CODEGEN_CPU_HOST_H

#include "codegen/target.h"

// The host's features as LLVM lists them ("+avx2,-avx512f,..."), to be given back with qn_host_features_free.
// NULL when they cannot be found out.
char *qn_host_features(void);
void qn_host_features_free(char *features);
// The CPU's name as LLVM knows it ("znver4"), to be given back likewise; NULL as above.
char *qn_host_cpu(void);
// Can they be found out? IO when the code generator, which is asked, cannot be loaded.
QN_CHECKED qn_status qn_host_check(qn_diag *diag);
// Is the feature of that name (`length` bytes) on in such a list? false for NULL.
bool qn_host_feature_in(const char *features, const char *name, size_t length);
// The architecture this program was compiled for; false when it is none that quern knows.
bool qn_host_arch(qn_arch *out);
// Does this machine have every feature that code for `target` may use? When not and out_missing is not NULL, writes
// the names of those that are missing to it, comma-separated.
bool qn_host_runs(const qn_target *target, char *out_missing, size_t missing_size);

#endif
