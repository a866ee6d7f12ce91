// What a cubin's machine code says of a kernel: how wide its accesses are, whether it uses tensor cores, what it takes
// of registers and memory. Reads the ELF file itself, since no tool that prints SASS belongs to what users have.
#ifndef QN_CODEGEN_CUDA_SASS_H
#define QN_CODEGEN_CUDA_SASS_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/diag.h"

typedef enum qn_sass_op {
#define QN_SASS(name, opcode, accesses, meaning) QN_SASS_##name,
#include "codegen/cuda/sass.def"
#undef QN_SASS
  QN_SASS_COUNT
} qn_sass_op;
const char *qn_sass_name(qn_sass_op op);  // "LDG"

enum { QN_SASS_WIDTHS = 5 };  // of a lane's access: 1, 2, 4, 8, 16 bytes

typedef struct qn_sass_report {
  int sm;  // the chip that it is for
  int64_t instructions;
  int64_t count[QN_SASS_COUNT];                  // instructions that stand there, not how often they run
  int64_t width[QN_SASS_COUNT][QN_SASS_WIDTHS];  // of those that access memory, by 1 << index bytes a lane
  int64_t registers;                             // a thread
  int64_t stack_bytes;                           // a thread
  int64_t shared_bytes;                          // a block, static
} qn_sass_report;

// Finds the kernel in a cubin, which is treated as hostile. `where` is for messages. Errors: FORMAT for what is no
// cubin, is truncated or lacks the kernel.
QN_CHECKED qn_status qn_sass_scan(const void *cubin, size_t size, const char *kernel, const char *where,
                                  qn_sass_report *out, qn_diag *diag);

#endif
