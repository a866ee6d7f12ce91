// Runs a program: a flat list of kernel calls, on the CPU's threads or on a GPU. Knows nothing of language models. What
// is here is the same for every device; executor_impl.h is what a device implements.
#ifndef QN_RUNTIME_EXECUTOR_H
#define QN_RUNTIME_EXECUTOR_H

#include <stdbool.h>

#include "runtime/artifact.h"
#include "runtime/device_cuda.h"
#include "runtime/memory.h"
#include "runtime/threads.h"

// As codegen/codegen.h has it; repeated since the runtime stands alone.
typedef void (*qn_kernel_entry)(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end);

typedef struct qn_executor qn_executor;

typedef struct qn_executor_options {
  qn_cuda *cuda;                       // run there; NULL = on the CPU. Borrowed; `artifact` must be the one it has
  const char *target;                  // CPU: force the code of this target; NULL = the best this CPU runs
  const qn_kernel_entry *jit_entries;  // CPU: one a variant of plan 0, instead of the artifact's code; NULL = not
  int decode_threads;                  // CPU: of the threads, for runs of QN_RUN_STEP; 0 = all
  bool profile;                        // time every step (two clock reads each; on a GPU two events)
  bool profile_faults;                 // CPU, with profile: count page faults of every step, too (a system call each)
  bool check_kernels;                  // GPU: wait for every kernel, so that an error names the one that it is of
} qn_executor_options;

// The code section that would run here: of those whose features this CPU has, the one that uses most; or the one of
// `target` (NULL = any). QN_ERR_TARGET names the missing features, QN_ERR_ARGUMENT lists the targets there are.
QN_CHECKED qn_status qn_executor_choose_code(const qn_artifact *artifact, const char *target,
                                             const qn_art_code **out_code, qn_diag *diag);

// Loads code and takes memory. `artifact`, and `threads` (of the CPU; NULL on a GPU), must outlive it.
// QN_ERR_TARGET names the missing features.
QN_CHECKED qn_status qn_executor_create(const qn_artifact *artifact, qn_threads *threads,
                                        const qn_executor_options *options, const qn_allocator *allocator,
                                        qn_executor **out, qn_diag *diag);
void qn_executor_destroy(qn_executor *executor);
const char *qn_executor_target(const qn_executor *executor);
// Where caches must lie. Borrowed.
const qn_memory *qn_executor_memory(qn_executor *executor);

// Binds an input (the host's memory, borrowed until bound anew) by name; QN_ERR_ARGUMENT lists the inputs when there is
// none so named. What is read of it is as large as the symbols of a run say.
QN_CHECKED qn_status qn_executor_bind_input(qn_executor *executor, const char *name, const void *data, qn_diag *diag);
// Binds a layer's cache pool, memory of qn_executor_memory: kind "k" or "v".
QN_CHECKED qn_status qn_executor_bind_cache(qn_executor *executor, const char *kind, uint32_t layer, void *pool,
                                            qn_diag *diag);
// An output's memory after a run, the host's (rows row_pitch elements apart); NULL when there is none of that name.
const void *qn_executor_output(const qn_executor *executor, const char *name, const qn_art_buffer **out_buffer);
// Whether the host reads this output after runs from now on, which it does at first. What is not wanted is not brought
// from a GPU. False when there is none of that name.
bool qn_executor_want(qn_executor *executor, const char *name, bool wanted);

// Makes room for runs with symbol values up to these, so that they take no memory. Every cache must be bound.
QN_CHECKED qn_status qn_executor_reserve(qn_executor *executor, const int64_t symbols[QN_ARTIFACT_SYMBOLS],
                                         qn_diag *diag);

typedef enum qn_run_kind {
  QN_RUN_PROMPT,  // many rows, and seldom again with the same symbol values
  QN_RUN_STEP,    // a step of a loop: soon again with the same symbol values. CPU: by decode_threads; GPU: one graph
} qn_run_kind;

// Runs every step with these symbol values. Every input and cache must be bound. Outputs are there when it returns;
// where none is wanted or has rows, a GPU may still be at work, and an error of its be told by the next run. Takes no
// memory but for values larger than were reserved, and on a GPU for a step that is new. What is computed does not
// depend on `kind`. Errors of a GPU: INTERNAL for a fault of a kernel, after which every run fails.
QN_CHECKED qn_status qn_executor_run(qn_executor *executor, const int64_t symbols[QN_ARTIFACT_SYMBOLS],
                                     qn_run_kind kind, qn_diag *diag);

// Around many runs, not around each: binds the calling thread to a core (threads.h). May be nested.
void qn_executor_hold(qn_executor *executor);
void qn_executor_release(qn_executor *executor);

// Nanoseconds of whole runs since creation and, with options->profile, inside kernels by thread 0 (for benchmarks).
void qn_executor_times(const qn_executor *executor, uint64_t *out_kernel_ns, uint64_t *out_run_ns);

// One step's times since creation, on one thread or on the GPU.
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
