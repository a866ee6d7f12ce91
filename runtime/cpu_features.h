// What the CPU we run on can do, by the names that artifacts ask for (qn_target.required in codegen/target.h).
#ifndef QN_RUNTIME_CPU_FEATURES_H
#define QN_RUNTIME_CPU_FEATURES_H

#include <stdbool.h>
#include <stddef.h>

// "avx2", "avx512vnni", "dotprod", ...: the CPU has it and the operating system saves its registers. An unknown name is
// a feature that is not here.
bool qn_cpu_has(const char *name);

// The index-th feature name that this module knows on this architecture, NULL after the last.
const char *qn_cpu_feature_name(size_t index);

// Writes those of a comma-separated list that are not here into `out`, comma-separated, cut at its size. True when some
// are missing.
bool qn_cpu_missing(const char *list, char *out, size_t out_size);

// The architecture's number in an artifact (qn_art_arch); 255 for one that it has none for.
unsigned qn_cpu_arch(void);
const char *qn_cpu_arch_name(unsigned arch);

#endif
