// NVIDIA's chips as predictions know them, and how many blocks of a kernel a multiprocessor holds.
#ifndef QN_CODEGEN_CUDA_CHIP_H
#define QN_CODEGEN_CUDA_CHIP_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/diag.h"
#include "runtime/base/str.h"

// Rates are of the whole chip, a second.
typedef struct qn_chip {
  const char *name;    // "H100"
  const char *source;  // of the figures
  int sm;              // compute capability, major * 10 + minor
  int multiprocessors;
  double cycles_per_s;
  double memory_bytes_per_s, l2_bytes_per_s;
  int64_t l2_bytes;
  double l2_latency_s, memory_latency_s;               // of a load from there
  double instructions_per_s;                           // of warps, started
  double fp32_ops_per_s, i32_ops_per_s;                // a multiply-add is one
  double tensor_int8_ops_per_s, tensor_f16_ops_per_s;  // by mma.sync; a multiply-add is two
} qn_chip;

// "H100", or "sm_90" for the first chip of that kind. QN_ERR_ARGUMENT lists what there is.
QN_CHECKED qn_status qn_chip_find(const char *name, const char *where, qn_chip *out, qn_diag *diag);
size_t qn_chip_count(void);
qn_chip qn_chip_at(size_t index);

// Blocks that a multiprocessor holds at once of a kernel with so many threads and bytes of shared memory a block and
// registers a thread; 0 when it takes none. sm must be one of the table's. *out_warps: the most warps it holds of any
// kernel, which occupancy is told against; may be NULL.
int qn_chip_occupancy(int sm, int threads, int64_t shared_bytes, int64_t registers, int *out_warps);

#endif
