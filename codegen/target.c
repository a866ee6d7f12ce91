// Targets by name. A target is a set of features from the table below; its canonical name is the highest level that
// the set contains and the features beyond it. Code may use those features and no others, so that what the loader
// checks is all there is to check.
#include "codegen/target.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "codegen/cpu/host.h"

typedef uint32_t feature_set;  // bit i = features[i]

enum feature_index {
  SSE42,
  AVX2,
  FMA,
  F16C,
  BMI2,
  AVX512F,
  AVX512BW,
  AVX512DQ,
  AVX512VL,
  AVX512VNNI,
  AVXVNNI,
  NEON,
  DOTPROD,
  I8MM,
  RV_M,
  RV_A,
  RV_F,
  RV_D,
  RV_C,
  RV_V,
  FEATURE_COUNT
};
#define BIT(index) (UINT32_C(1) << (index))

// The names are LLVM's and those in qn_target.required. `needs`: what a CPU with the feature has as well.
static const struct {
  const char *name;
  qn_arch arch;
  feature_set needs;
} features[FEATURE_COUNT] = {
    [SSE42] = {"sse4.2", QN_ARCH_X86_64, 0},
    [AVX2] = {"avx2", QN_ARCH_X86_64, BIT(SSE42)},
    [FMA] = {"fma", QN_ARCH_X86_64, BIT(SSE42)},
    [F16C] = {"f16c", QN_ARCH_X86_64, BIT(SSE42)},
    [BMI2] = {"bmi2", QN_ARCH_X86_64, BIT(SSE42)},
    [AVX512F] = {"avx512f", QN_ARCH_X86_64, BIT(AVX2) | BIT(FMA) | BIT(F16C)},
    [AVX512BW] = {"avx512bw", QN_ARCH_X86_64, BIT(AVX512F)},
    [AVX512DQ] = {"avx512dq", QN_ARCH_X86_64, BIT(AVX512F)},
    [AVX512VL] = {"avx512vl", QN_ARCH_X86_64, BIT(AVX512F)},
    [AVX512VNNI] = {"avx512vnni", QN_ARCH_X86_64, BIT(AVX512F)},
    [AVXVNNI] = {"avxvnni", QN_ARCH_X86_64, BIT(AVX2)},
    [NEON] = {"neon", QN_ARCH_AARCH64, 0},
    [DOTPROD] = {"dotprod", QN_ARCH_AARCH64, BIT(NEON)},
    [I8MM] = {"i8mm", QN_ARCH_AARCH64, BIT(NEON)},
    [RV_M] = {"m", QN_ARCH_RISCV64, 0},
    [RV_A] = {"a", QN_ARCH_RISCV64, 0},
    [RV_F] = {"f", QN_ARCH_RISCV64, 0},
    [RV_D] = {"d", QN_ARCH_RISCV64, BIT(RV_F)},
    [RV_C] = {"c", QN_ARCH_RISCV64, 0},
    [RV_V] = {"v", QN_ARCH_RISCV64, BIT(RV_D)},
};

#define V2     (BIT(SSE42))
#define V3     (V2 | BIT(AVX2) | BIT(FMA) | BIT(F16C) | BIT(BMI2))
#define AVX512 (BIT(AVX512F) | BIT(AVX512BW) | BIT(AVX512DQ) | BIT(AVX512VL))
#define V4     (V3 | AVX512)
#define RV64GC (BIT(RV_M) | BIT(RV_A) | BIT(RV_F) | BIT(RV_D) | BIT(RV_C))

// Levels, lowest first. `untracked` turns off what LLVM's CPU of that name has beyond the table.
static const struct level {
  const char *name;
  qn_arch arch;
  feature_set set;
  const char *cpu, *untracked, *about;
} levels[] = {
    {"x86-64-v2", QN_ARCH_X86_64, V2, "x86-64-v2", "-popcnt", "SSE4.2; 16-bit floats and fma are emulated"},
    {"x86-64-v3", QN_ARCH_X86_64, V3, "x86-64-v3", "-popcnt,-bmi,-lzcnt,-movbe", "AVX2, FMA, F16C"},
    {"x86-64-v4", QN_ARCH_X86_64, V4, "x86-64-v4", "-popcnt,-bmi,-lzcnt,-movbe,-avx512cd", "AVX-512"},
    {"aarch64", QN_ARCH_AARCH64, BIT(NEON), "generic", "", "NEON"},
    {"riscv64", QN_ARCH_RISCV64, RV64GC, "generic-rv64", "", "RV64GC: no vectors without +v; 16-bit floats are emulated"},
};

// CPUs by LLVM's names, as the sets that quern uses of them, and whether they read one stream best by themselves, which
// is known of those where it was measured (passes/README.md).
static const struct cpu {
  const char *name;
  feature_set set;
  bool reads_alone;
} cpus[] = {
    {"nehalem", V2, false},
    {"sandybridge", V2, false},
    {"haswell", V3, false},
    {"broadwell", V3, false},
    {"skylake", V3, false},
    {"alderlake", V3 | BIT(AVXVNNI), false},
    {"skylake-avx512", V4, false},
    {"cascadelake", V4 | BIT(AVX512VNNI), false},
    {"icelake-client", V4 | BIT(AVX512VNNI), false},
    {"icelake-server", V4 | BIT(AVX512VNNI), false},
    {"tigerlake", V4 | BIT(AVX512VNNI), false},
    {"sapphirerapids", V4 | BIT(AVX512VNNI) | BIT(AVXVNNI), false},
    {"emeraldrapids", V4 | BIT(AVX512VNNI) | BIT(AVXVNNI), false},
    {"graniterapids", V4 | BIT(AVX512VNNI) | BIT(AVXVNNI), false},
    {"znver1", V3, false},
    {"znver2", V3, false},
    {"znver3", V3, false},
    {"znver4", V4 | BIT(AVX512VNNI), true},
    {"znver5", V4 | BIT(AVX512VNNI) | BIT(AVXVNNI), false},
    {"cortex-a72", BIT(NEON), false},
    {"cortex-a76", BIT(NEON) | BIT(DOTPROD), false},
    {"neoverse-n1", BIT(NEON) | BIT(DOTPROD), false},
    {"neoverse-v1", BIT(NEON) | BIT(DOTPROD) | BIT(I8MM), false},
    {"neoverse-n2", BIT(NEON) | BIT(DOTPROD) | BIT(I8MM), false},
    {"neoverse-v2", BIT(NEON) | BIT(DOTPROD) | BIT(I8MM), false},
    {"apple-m1", BIT(NEON) | BIT(DOTPROD), false},
    {"apple-m2", BIT(NEON) | BIT(DOTPROD) | BIT(I8MM), false},
    {"sifive-u74", RV64GC, false},
    {"sifive-x280", RV64GC | BIT(RV_V), false},
    {"spacemit-x60", RV64GC | BIT(RV_V), false},
};

// GPUs. A chip runs code for an older one of the same major number, and PTX of any older one. A block's shared memory
// is the least that chips of the major number have from there on (CUDA C++ Programming Guide, "Technical Specifications
// per Compute Capability").
static const struct chip {
  const char *name;
  int sm;
  int64_t shared_bytes;
  const char *about;
} chips[] = {
    {"cuda:sm_80", 80, 99 << 10, "A100, A10, L4, RTX 30 and 40"},
    {"cuda:sm_90", 90, 227 << 10, "H100, H200"},
    {"cuda:sm_100", 100, 227 << 10, "B200"},
    {"cuda:sm_120", 120, 99 << 10, "RTX 50, RTX PRO Blackwell"},
};

bool qn_target_is_gpu(const qn_target *target) { return target->arch == QN_ARCH_CUDA; }

static void append(char *text, size_t size, const char *separator, const char *word) {
  size_t used = strlen(text);
  snprintf(text + used, size - used, "%s%s", used ? separator : "", word);
}

// Architectures of CPUs, by what all our code for them needs.
static const struct arch {
  qn_arch arch;
  const char *name, *triple;
  feature_set base;
  const char *base_name;
  int vector_registers;
} archs[] = {
    {QN_ARCH_X86_64, "x86-64", "x86_64-unknown-linux-gnu", V2, "sse4.2", 16},
    {QN_ARCH_AARCH64, "aarch64", "aarch64-unknown-linux-gnu", BIT(NEON), "neon", 32},
    {QN_ARCH_RISCV64, "riscv64", "riscv64-unknown-linux-gnu", RV64GC, "m, a, f, d and c", 32},
};

// The one that has a feature of the set; of none, the first.
static const struct arch *arch_of(feature_set set) {
  for (int i = 0; i < FEATURE_COUNT; i++)
    for (size_t a = 0; a < QN_COUNT(archs); a++)
      if ((set & BIT(i)) && features[i].arch == archs[a].arch) return &archs[a];
  return &archs[0];
}

static const struct arch *arch_entry(qn_arch arch) {
  size_t a = 0;
  while (a + 1 < QN_COUNT(archs) && archs[a].arch != arch) a++;
  return &archs[a];
}

// Adds what the features of the set need.
static feature_set close_over(feature_set set) {
  for (feature_set before = 0; before != set;) {
    before = set;
    for (int i = 0; i < FEATURE_COUNT; i++)
      if (set & BIT(i)) set |= features[i].needs;
  }
  return set;
}

// Takes out `gone` and what needs it.
static feature_set without(feature_set set, feature_set gone) {
  set &= ~gone;
  for (int i = 0; i < FEATURE_COUNT; i++)
    if ((set & BIT(i)) && (close_over(BIT(i)) & gone)) set &= ~BIT(i);
  return set;
}

static bool find_feature(const char *name, size_t length, qn_arch arch, int *out) {
  if (length == 4 && memcmp(name, "vnni", 4) == 0 && arch == QN_ARCH_X86_64) {
    *out = AVX512VNNI;
    return true;
  }
  for (int i = 0; i < FEATURE_COUNT; i++)
    if (features[i].arch == arch && strlen(features[i].name) == length && memcmp(features[i].name, name, length) == 0) {
      *out = i;
      return true;
    }
  return false;
}

static bool host_set(feature_set *out) {
  qn_arch arch;
  if (!qn_host_arch(&arch)) return false;
  char *list = qn_host_features();
  feature_set have = arch == QN_ARCH_X86_64 ? 0 : arch_entry(arch)->base;  // which others are built for
  for (int i = 0; i < FEATURE_COUNT; i++)
    if (features[i].arch == arch && qn_host_feature_in(list, features[i].name, strlen(features[i].name)))
      have |= BIT(i);
  qn_host_features_free(list);
  for (int i = 0; i < FEATURE_COUNT; i++)  // a feature whose needs are not all there is left alone
    if ((have & BIT(i)) && (close_over(BIT(i)) & ~have)) have &= ~BIT(i);
  *out = have;
  return true;
}

// A level, a CPU or "host" at the start of the text, followed by '+', '-' or nothing.
static bool starts_with(const char *text, const char *name) {
  size_t length = strlen(name);
  return strncmp(text, name, length) == 0 && (text[length] == '\0' || text[length] == '+' || text[length] == '-');
}

// The one of this machine; NULL when it is not in the table.
static const struct cpu *host_cpu(void) {
  char *name = qn_host_cpu();
  const struct cpu *found = NULL;
  for (size_t i = 0; name && i < QN_COUNT(cpus); i++)
    if (strcmp(cpus[i].name, name) == 0) found = &cpus[i];
  qn_host_features_free(name);
  return found;
}

// The longest name that fits: "icelake-server" is not "icelake" without "server". *out_cpu is NULL where none is named.
static bool find_base(const char *text, feature_set *out, const struct cpu **out_cpu, size_t *out_length) {
  size_t best = 0;
  *out_cpu = NULL;
  for (size_t i = 0; i < QN_COUNT(levels); i++)
    if (starts_with(text, levels[i].name) && strlen(levels[i].name) > best) {
      best = strlen(levels[i].name);
      *out = levels[i].set;
    }
  for (size_t i = 0; i < QN_COUNT(cpus); i++)
    if (starts_with(text, cpus[i].name) && strlen(cpus[i].name) > best) {
      best = strlen(cpus[i].name);
      *out = cpus[i].set;
      *out_cpu = &cpus[i];
    }
  if (best == 0 && starts_with(text, "host") && host_set(out)) {
    best = strlen("host");
    *out_cpu = host_cpu();
  }
  *out_length = best;
  return best > 0;
}

static const struct level *level_of(feature_set set) {
  const struct level *best = NULL;
  for (size_t i = 0; i < QN_COUNT(levels); i++)
    if (levels[i].arch == arch_of(set)->arch && (levels[i].set & ~set) == 0) best = &levels[i];
  return best;
}

static qn_dot4_kind dot4_of(feature_set set) {
  if (arch_of(set)->arch == QN_ARCH_RISCV64) return QN_DOT4_PLAIN;
  if (arch_of(set)->arch == QN_ARCH_AARCH64) return QN_DOT4_AARCH64;
  bool wide = (set & AVX512) == AVX512;
  if (wide && (set & BIT(AVX512VNNI))) return QN_DOT4_VPDPBUSD512;
  if (set & BIT(AVXVNNI)) return QN_DOT4_VPDPBUSD256;
  return QN_DOT4_MADD16;
}

// Where an instruction multiplies unsigned by signed bytes there is nothing to gain; sdot wants both signed; pairs in 16
// bits are half as many where there are vectors.
static int dots_of(feature_set set, qn_dot4_kind kind) {
  if (kind == QN_DOT4_PLAIN) return set & BIT(RV_V) ? 2 : 0;
  if (kind == QN_DOT4_VPDPBUSD512 || kind == QN_DOT4_VPDPBUSD256 || (set & BIT(I8MM))) return 0;
  return set & BIT(DOTPROD) ? 1 : 2;
}

static void describe(feature_set set, const struct level *level, qn_target *out) {
  bool wide = (set & AVX512) == AVX512;
  *out = (qn_target){.arch = level->arch, .dot4 = dot4_of(set)};
  out->cache_bytes = wide ? 1 << 20 : 1 << 19;
  out->dots = dots_of(set, out->dot4);
  out->triple = arch_entry(level->arch)->triple;
  out->vector_bytes = wide ? 64 : set & BIT(AVX2) ? 32 : 16;
  if (level->arch == QN_ARCH_RISCV64 && !(set & BIT(RV_V))) out->vector_bytes = 4;
  out->vector_registers = wide ? 32 : arch_entry(level->arch)->vector_registers;
  append(out->name, sizeof out->name, "", level->name);
  append(out->cpu, sizeof out->cpu, "", level->cpu);
  append(out->features, sizeof out->features, "", level->untracked);
  if (wide) append(out->features, sizeof out->features, ",", "-prefer-256-bit");
  for (int i = 0; i < FEATURE_COUNT; i++) {
    if (!(set & BIT(i))) continue;
    char on[32];
    snprintf(on, sizeof on, "+%s", features[i].name);
    append(out->features, sizeof out->features, ",", on);
    append(out->required, sizeof out->required, ",", features[i].name);
    if (!(level->set & BIT(i))) append(out->name, sizeof out->name, "", on);
  }
}

static qn_status parse_chip(const char *text, qn_target *out, qn_diag *diag) {
  char known[256] = "";
  for (size_t i = 0; i < QN_COUNT(chips); i++) {
    const struct chip *chip = &chips[i];
    append(known, sizeof known, ", ", chip->name);
    if (strcmp(text, chip->name) != 0) continue;
    *out = (qn_target){.arch = QN_ARCH_CUDA, .sm = chip->sm, .shared_bytes = chip->shared_bytes};
    snprintf(out->name, sizeof out->name, "%s", chip->name);
    snprintf(out->required, sizeof out->required, "sm_%d", chip->sm);
    return QN_OK;
  }
  return qn_fail(diag, QN_ERR_ARGUMENT, "target", 
                 "'%s' is no GPU that quern compiles for; it compiles for %s; a chip runs code for an older one of its "
                 "major number",
                 text, known);
}

static qn_status fail_unknown_base(const char *text, qn_diag *diag) {
  char known[768] = "host";
  for (size_t i = 0; i < QN_COUNT(levels); i++) append(known, sizeof known, ", ", levels[i].name);
  for (size_t i = 0; i < QN_COUNT(cpus); i++) append(known, sizeof known, ", ", cpus[i].name);
  for (size_t i = 0; i < QN_COUNT(chips); i++) append(known, sizeof known, ", ", chips[i].name);
  return qn_fail(diag, QN_ERR_ARGUMENT, "target", "'%s' does not start with a known name; known are %s", text, known);
}

static qn_status fail_unknown_feature(const char *name, size_t length, qn_arch arch, qn_diag *diag) {
  char known[256] = "";
  for (int i = 0; i < FEATURE_COUNT; i++)
    if (features[i].arch == arch) append(known, sizeof known, ", ", features[i].name);
  return qn_fail(diag, QN_ERR_ARGUMENT, "target", "unknown feature '%.*s'; known for this architecture are %s",
                 (int)length, name, known);
}

qn_status qn_target_parse(const char *text, qn_target *out, qn_diag *diag) {
  const struct cpu *cpu;
  feature_set set;
  size_t at;
  if (strncmp(text, "cuda", strlen("cuda")) == 0) return parse_chip(text, out, diag);
  if (starts_with(text, "host")) QN_TRY(qn_host_check(diag));
  if (!find_base(text, &set, &cpu, &at)) return fail_unknown_base(text, diag);
  qn_arch arch = arch_of(set)->arch;
  while (text[at] != '\0') {
    bool add = text[at++] == '+';
    size_t length = strcspn(text + at, "+-");
    int index;
    if (!find_feature(text + at, length, arch, &index)) return fail_unknown_feature(text + at, length, arch, diag);
    set = add ? close_over(set | BIT(index)) : without(set, BIT(index));
    at += length;
  }
  const struct level *level = level_of(set);
  if (!level)
    return qn_fail(diag, QN_ERR_UNSUPPORTED, "target", "'%s' lacks %s, which all our code for it needs", text,
                   arch_entry(arch)->base_name);
  describe(set, level, out);
  out->reads_alone = cpu && cpu->reads_alone;
  return QN_OK;
}

void qn_target_list(qn_buf *out) {
  qn_buf_printf(out, "%-16s %s\n", "host", "this machine");
  for (size_t i = 0; i < QN_COUNT(levels); i++) qn_buf_printf(out, "%-16s %s\n", levels[i].name, levels[i].about);
  for (size_t i = 0; i < QN_COUNT(cpus); i++) {
    const struct level *level = level_of(cpus[i].set);
    qn_buf_printf(out, "%-16s %s", cpus[i].name, level->name);
    for (int f = 0; f < FEATURE_COUNT; f++)
      if (cpus[i].set & ~level->set & BIT(f)) qn_buf_printf(out, "+%s", features[f].name);
    qn_buf_putc(out, '\n');
  }
  for (size_t i = 0; i < QN_COUNT(chips); i++) qn_buf_printf(out, "%-16s %s\n", chips[i].name, chips[i].about);
  for (size_t a = 0; a < QN_COUNT(archs); a++) {
    qn_buf_printf(out, "with +feature or -feature after it (%s):", archs[a].name);
    for (int f = 0; f < FEATURE_COUNT; f++)
      if (features[f].arch == archs[a].arch) qn_buf_printf(out, " %s", features[f].name);
    qn_buf_putc(out, '\n');
  }
}
