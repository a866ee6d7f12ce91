// What a target is: a name, what LLVM or NVRTC needs to know, what a machine must have to run its code, and what the
// default schedules need. One entry a target in target.c.
#ifndef QN_CODEGEN_TARGET_H
#define QN_CODEGEN_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/diag.h"
#include "runtime/base/str.h"

typedef enum qn_arch { QN_ARCH_X86_64, QN_ARCH_AARCH64, QN_ARCH_CUDA, QN_ARCH_RISCV64, QN_ARCH_COUNT } qn_arch;  // qn_art_arch

// How dot4 is done.
typedef enum qn_dot4_kind {
  QN_DOT4_AARCH64,      // usdot (i8mm), sdot (dotprod) or smull and smlal, by `required`
  QN_DOT4_MADD16,       // two vpmaddwd on even and odd bytes (AVX2, AVX-512BW)
  QN_DOT4_VPDPBUSD256,  // AVX-VNNI, or AVX-512VNNI with VL
  QN_DOT4_VPDPBUSD512,  // AVX-512VNNI
  QN_DOT4_PLAIN,        // four multiplications
} qn_dot4_kind;

typedef struct qn_target {
  char name[128];  // canonical: what the artifact stores ("x86-64-v4+avx512vnni", "host" never)
  qn_arch arch;
  const char *triple;   // static; this and what follows are of CPUs but where it is said
  char cpu[64];         // LLVM's name ("x86-64-v4", "generic")
  char features[1024];  // LLVM's "+a,-b" string
  // The CPU features the code may use, comma-separated, by the names the loader checks. GPU: the least chip, "sm_90".
  char required[512];
  int vector_bytes;     // 16, 32 or 64; 4: no vectors
  int vector_registers;
  qn_dot4_kind dot4;
  int64_t cache_bytes;  // of a core's second cache: what the smallest CPUs of the level have
  bool reads_alone;     // of a CPU known by name: one stream of weights is read best where nothing is prefetched
  int dots;             // the form of integer dot products that suits it: the schedule's knob (ir/knobs.def)
  int sm;               // GPU: compute capability, 10 * major + minor
  int64_t shared_bytes;  // GPU: shared memory that a block may have
} qn_target;

// "host", "x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64", "riscv64", a CPU name LLVM knows ("znver4", "icelake-server"), each
// with "+feature" or "-feature" after it; or a GPU, "cuda:sm_90". Errors list what is known.
QN_CHECKED qn_status qn_target_parse(const char *text, qn_target *out, qn_diag *diag);
bool qn_target_is_gpu(const qn_target *target);
// Every named target with one line about it, for --help and messages.
void qn_target_list(qn_buf *out);

// Which compiler of kernels this program was built with: a hash of the loop passes and of the code generator.
extern const char qn_generator_id[];

#endif
