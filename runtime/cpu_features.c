// Feature detection: cpuid and xgetbv on x86-64, the auxiliary vector on aarch64 and riscv64.
#include "runtime/cpu_features.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) || defined(__riscv)
#include <sys/auxv.h>
#endif

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#if defined(__x86_64__)

static const qn_x86_feature features[] = {
#define QN_X86_FEATURE(name, leaf, bit, state) {name, leaf, bit, state},
#include "runtime/base/cpu_features.def"
};

static qn_x86_state saved_state(uint32_t leaf_1_ecx) {
  if (!(leaf_1_ecx & (1u << 27))) return STATE_SSE;  // no OSXSAVE: xgetbv would fault
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0x06) != 0x06) return STATE_SSE;           // XMM, YMM
  return (low & 0xE0) == 0xE0 ? STATE_ZMM : STATE_YMM;  // masks, upper halves of ZMM, ZMM16..31
}

static void detect(bool *present) {
  uint32_t words[LEAF_COUNT] = {0}, a, b, c, d;
  if (__get_cpuid_count(1, 0, &a, &b, &c, &d)) words[LEAF_1_ECX] = c, words[LEAF_1_EDX] = d;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    uint32_t subleaves = a;
    words[LEAF_7_EBX] = b, words[LEAF_7_ECX] = c, words[LEAF_7_EDX] = d;
    if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) words[LEAF_7_1_EAX] = a;
  }
  if (__get_cpuid_count(0x80000001u, 0, &a, &b, &c, &d)) words[LEAF_EXT_ECX] = c;
  qn_x86_state saved = saved_state(words[LEAF_1_ECX]);
  for (size_t i = 0; i < COUNT(features); i++) {
    present[i] = (words[features[i].leaf] >> features[i].bit & 1) && features[i].state <= saved;
  }
}

#elif defined(__aarch64__)

static const struct feature {
  const char *name;
  unsigned word, bit;
} features[] = {
#define QN_A64_FEATURE(name, word, bit) {name, word, bit},
#include "runtime/base/cpu_features.def"
};

static void detect(bool *present) {
  unsigned long words[2] = {getauxval(AT_HWCAP), getauxval(AT_HWCAP2)};
  for (size_t i = 0; i < COUNT(features); i++) present[i] = words[features[i].word] >> features[i].bit & 1;
}

#elif defined(__riscv)

static const struct feature {
  const char *name;
  unsigned bit;
} features[] = {
#define QN_RV_FEATURE(name, bit) {name, bit},
#include "runtime/base/cpu_features.def"
};

static void detect(bool *present) {
  unsigned long word = getauxval(AT_HWCAP);
  for (size_t i = 0; i < COUNT(features); i++) present[i] = word >> features[i].bit & 1;
}

#else

static const struct feature { const char *name; } features[] = {{"none"}};

static void detect(bool *present) { present[0] = false; }

#endif

static bool present[COUNT(features)];

static void detect_once(void) { detect(present); }

static bool has(const char *name, size_t length) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, detect_once);
  for (size_t i = 0; i < COUNT(features); i++) {
    if (strlen(features[i].name) == length && memcmp(features[i].name, name, length) == 0) return present[i];
  }
  return false;
}

bool qn_cpu_has(const char *name) { return has(name, strlen(name)); }

const char *qn_cpu_feature_name(size_t index) { return index < COUNT(features) ? features[index].name : NULL; }

bool qn_cpu_missing(const char *list, char *out, size_t out_size) {
  bool missing = false;
  size_t used = 0;
  if (out_size > 0) out[0] = '\0';
  while (*list) {
    size_t length = strcspn(list, ",");
    if (length > 0 && !has(list, length)) {
      int count =
          used < out_size ? snprintf(out + used, out_size - used, "%s%.*s", missing ? "," : "", (int)length, list) : 0;
      used += count > 0 ? (size_t)count : 0;
      missing = true;
    }
    list += length + (list[length] == ',');
  }
  return missing;
}

unsigned qn_cpu_arch(void) {
#if defined(__x86_64__)
  return 0;
#elif defined(__aarch64__)
  return 1;
#elif defined(__riscv) && __riscv_xlen == 64
  return 3;
#else
  return 255;
#endif
}

const char *qn_cpu_arch_name(unsigned arch) {
  static const char *const names[] = {"x86-64", "aarch64", "a GPU", "riscv64"};  // qn_art_arch
  return arch < COUNT(names) ? names[arch] : "another architecture";
}
