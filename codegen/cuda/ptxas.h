// What `ptxas -v` says of a kernel, read from NVRTC's log: the figures that say how near the hardware it can come.
#ifndef QN_CODEGEN_CUDA_PTXAS_H
#define QN_CODEGEN_CUDA_PTXAS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct qn_ptxas_report {
  int64_t registers;     // a thread
  int64_t stack_bytes;   // a thread: arrays that are no registers
  int64_t spill_bytes;   // stored and loaded because registers did not suffice
  int64_t shared_bytes;  // a block, static
} qn_ptxas_report;

// False when the log says nothing of the kernel.
bool qn_ptxas_find(const char *log, const char *kernel, qn_ptxas_report *out);

#endif
