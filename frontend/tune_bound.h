// The roofline of a kernel that is tuned, from the machine's profile.
#ifndef QUERN_FRONTEND_TUNE_BOUND_H
#define QUERN_FRONTEND_TUNE_BOUND_H

#include "autotune/measure.h"
#include "frontend/quern.h"
#include "passes/pass.h"

typedef struct quern_roofline {
  bool known;                                                // the machine was measured
  double memory_bytes_per_s, int8_ops_per_s, narrow_ops_per_s, f32_ops_per_s;  // of all threads; narrow: codes of few bits
  double cache_bytes_per_s;                                  // of the last cache
  const qn_machine_model *model;                             // borrowed
  uint64_t weight_bytes;                                     // of the whole program
} quern_roofline;

// From a profile (NULL = not measured) for so many threads.
quern_roofline quern_roofline_of(const quern_machine_profile *profile, int threads, const qn_machine_model *model,
                                 const qn_program *program);
// qn_session_options.bound, with a quern_roofline as its context: the larger one of what reading the weights takes
// (from memory, or the last cache where all of the program's stay in it), moving values, and the multiply-adds at their
// peak. 0 when the machine was not measured.
double quern_roofline_bound(void *context, const qn_tuning_task *task);

#endif
