// Times machine code of a kernel as the model meets it: with as many threads, their work shared out as the executor
// does it, weights and keys from memory where all the model's do not stay in the last cache.
#ifndef QN_AUTOTUNE_TIMING_H
#define QN_AUTOTUNE_TIMING_H

#include "autotune/inputs.h"
#include "autotune/measure.h"
#include "runtime/executor.h"

typedef struct qn_timing qn_timing;

typedef struct qn_timing_options {
  int64_t rows, keys;         // tokens of the step; keys in the cache before it
  int threads;                // 0 = one a core
  uint64_t model_bytes;       // of all weights that a step of the model reads
  int64_t cache_pairs;        // layers whose keys and values a step reads
  uint64_t last_cache_bytes;  // of the machine; 0 = as it says
} qn_timing_options;

// Errors: NOMEM, LIMIT (threads), UNSUPPORTED (inputs.h).
QN_CHECKED qn_status qn_timing_create(const qn_subject *subject, const qn_timing_options *options,
                                      const qn_allocator *allocator, qn_timing **out, qn_diag *diag);
void qn_timing_destroy(qn_timing *timing);  // NULL is harmless
// How the next measurements' threads work; the task's threads are those it was made with.
void qn_timing_set(qn_timing *timing, qn_setting setting);
// Seconds of one call, from a millisecond of them or one that takes longer.
double qn_timing_measure(qn_timing *timing, qn_kernel_entry entry, qn_dim extent);

#endif
