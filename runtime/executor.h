// Runs a program: a flat list of kernel calls that persistent threads walk together. Knows nothing of language models.
#ifndef QN_RUNTIME_EXECUTOR_H
#define QN_RUNTIME_EXECUTOR_H

#include <stdbool.h>

#include "runtime/artifact.h"
#include "runtime/threads.h"

// As codegen/codegen.h has it; repeated since the runtime stands alone.
typedef void (*qn_kernel_entry)(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end);

typedef struct qn_executor qn_executor;

typedef struct qn_executor_options {
  const char *target;                  // force the code of this target; NULL = the best this CPU runs
  const qn_kernel_entry *jit_entries;  // one a variant of plan 0, instead of the artifact's code; NULL = not
  bool profile;                        // time every step (two clock reads each)
  bool profile_faults;                 // with profile: count page faults of every step, too (a system call each)
} qn_executor_options;

// The code section that would run here: of those whose features this CPU has, the one that uses most; or the one of
// `target` (NULL = any). QN_ERR_TARGET names the missing features, QN_ERR_ARGUMENT lists the targets there are.
QN_CHECKED qn_status qn_executor_choose_code(const qn_artifact *artifact, const char *target,
                                             const qn_art_code **out_code, qn_diag *diag);

// Loads code and allocates the arena. `artifact` and `threads` must outlive it.
// QN_ERR_TARGET names the missing features.
QN_CHECKED qn_status qn_executor_create(const qn_artifact *artifact, qn_threads *threads,
                                        const qn_executor_options *options, const qn_allocator *allocator,
                                        qn_executor **out, qn_diag *diag);
void qn_executor_destroy(qn_executor *executor);
const char *qn_executor_target(const qn_executor *executor);

// Binds an input (borrowed until bound anew) by name; QN_ERR_ARGUMENT lists the inputs when there is none so named.
QN_CHECKED qn_status qn_executor_bind_input(qn_executor *executor, const char *name, const void *data, qn_diag *diag);
// Binds a layer's cache pool: kind "k" or "v".
QN_CHECKED qn_status qn_executor_bind_cache(qn_executor *executor, const char *kind, uint32_t layer, void *pool,
                                            qn_diag *diag);
// An output's memory after a run (rows row_pitch elements apart); NULL when there is none of that name.
const void *qn_executor_output(const qn_executor *executor, const char *name, const qn_art_buffer **out_buffer);

// Runs every step with these symbol values. Every input and cache must be bound. Allocates nothing.
QN_CHECKED qn_status qn_executor_run(qn_executor *executor, const int64_t symbols[QN_ARTIFACT_SYMBOLS], qn_diag *diag);

// Nanoseconds of whole runs since creation and, with options->profile, inside kernels by thread 0 (for benchmarks).
void qn_executor_times(const qn_executor *executor, uint64_t *out_kernel_ns, uint64_t *out_run_ns);

// One step's times on one thread since creation.
typedef struct qn_step_profile {
  uint64_t kernel_ns;  // taking pieces of its work and computing them; taking those of a chain is its last step's
  uint64_t wait_ns;    // at the barrier before it: for pieces of earlier steps that other threads have yet to finish
  uint64_t calls;      // runs so far
  uint64_t faults;     // page faults in it, with options->profile_faults
} qn_step_profile;
// One a step of the artifact, of thread 0, borrowed; NULL without options->profile.
const qn_step_profile *qn_executor_profile(const qn_executor *executor);
// Nanoseconds that all threads together were inside the step's kernel; 0 without options->profile.
uint64_t qn_executor_busy_ns(const qn_executor *executor, size_t step);

#endif
