// What the CPU of this machine can do (host.h).
#include "codegen/cpu/host.h"

#include <stdio.h>
#include <string.h>

bool qn_host_feature_in(const char *features, const char *name, size_t length) {
  for (const char *at = features; at && *at;) {
    size_t word = strcspn(at, ",");
    if (at[0] == '+' && word == length + 1 && memcmp(at + 1, name, length) == 0) return true;
    at += word + (at[word] == ',');
  }
  return false;
}

bool qn_host_arch(qn_arch *out) {
#if defined(__x86_64__)
  *out = QN_ARCH_X86_64;
  return true;
#elif defined(__aarch64__)
  *out = QN_ARCH_AARCH64;
  return true;
#elif defined(__riscv) && __riscv_xlen == 64
  *out = QN_ARCH_RISCV64;
  return true;
#else
  (void)out;
  return false;
#endif
}

static const char *const ARCH_NAMES[QN_ARCH_COUNT] = {"x86-64", "aarch64", "a GPU", "riscv64"};

bool qn_host_runs(const qn_target *target, char *out_missing, size_t missing_size) {
  qn_arch arch;
  if (out_missing && missing_size > 0) out_missing[0] = '\0';
  if (!qn_host_arch(&arch) || arch != target->arch) {
    if (out_missing) snprintf(out_missing, missing_size, "%s", ARCH_NAMES[target->arch]);
    return false;
  }
  char *features = qn_host_features();
  bool runs = true;
  const char *name = target->required;
  while (*name) {
    size_t length = strcspn(name, ",");
    if (!qn_host_feature_in(features, name, length)) {
      runs = false;
      size_t used = out_missing ? strlen(out_missing) : 0;
      if (out_missing) snprintf(out_missing + used, missing_size - used, "%s%.*s", used ? "," : "", (int)length, name);
    }
    name += length + (name[length] == ',');
  }
  qn_host_features_free(features);
  return runs;
}
