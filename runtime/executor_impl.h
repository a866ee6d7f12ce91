// What a device implements, and what all of them share: an executor begins with a qn_executor, which knows the program,
// what is bound and the profile.
#ifndef QN_RUNTIME_EXECUTOR_IMPL_H
#define QN_RUNTIME_EXECUTOR_IMPL_H

#include "runtime/executor.h"

typedef struct qn_executor_class {
  void (*destroy)(qn_executor *executor);  // ends with qn_executor_deinit
  const qn_memory *(*memory)(qn_executor *executor);
  void (*bound)(qn_executor *executor, uint32_t buffer);  // bases[buffer] is new: an input's or a cache's
  const void *(*output)(const qn_executor *executor, uint32_t buffer);
  qn_status (*reserve)(qn_executor *executor, const int64_t *symbols, qn_diag *diag);
  // Everything is bound, and the symbols are within the program's bounds.
  qn_status (*run)(qn_executor *executor, const int64_t *symbols, qn_run_kind kind, qn_diag *diag);
  void (*hold)(qn_executor *executor);
  void (*release)(qn_executor *executor);
} qn_executor_class;

struct qn_executor {
  const qn_executor_class *class;
  const qn_artifact *artifact;    // borrowed
  const qn_allocator *allocator;  // borrowed
  size_t size;                    // bytes of the whole object
  char target[sizeof((qn_art_code *)0)->target];
  const qn_art_slice *slices;             // borrowed: the plan of the code, one a kernel
  uint32_t first_variant, variant_count;  // of the plan
  void **bases;                           // owned: one a buffer; NULL = not bound yet. Inputs: the host's memory
  bool *unwanted;                         // owned: one a buffer: an output that the host does not read
  uint32_t unbound;                       // inputs and caches
  qn_step_profile *profile;               // owned: (profile_threads, steps), or NULL
  size_t profile_threads;
  uint64_t run_ns;
};

// Creates the object of `size` bytes, zeroed, and what is shared in it.
QN_CHECKED qn_status qn_executor_new(const qn_executor_class *class, size_t size, const qn_artifact *artifact,
                                     const qn_allocator *allocator, size_t profile_threads, qn_executor **out,
                                     qn_diag *diag);
// Frees both.
void qn_executor_deinit(qn_executor *executor);
void qn_executor_take_plan(qn_executor *executor, uint32_t plan);

// Zeroed; a count of 0 gives room for one, so that NULL always means out of memory.
void *qn_executor_array(const qn_executor *executor, size_t count, size_t size);
void qn_executor_free_array(const qn_executor *executor, void *pointer, size_t count, size_t size);

// A step with these symbol values: the variant of its kernel (an index into the artifact's variants), and the extent of
// its loop, which is 0 where the kernel goes by rows and there are none. Errors: FORMAT (no variant for so many rows),
// LIMIT (a loop of more than QN_WORK_EXTENT_MAX iterations).
QN_CHECKED qn_status qn_executor_resolve(const qn_executor *executor, uint32_t step, const int64_t *symbols,
                                         uint32_t *out_variant, int64_t *out_extent, qn_diag *diag);
uint64_t qn_executor_now_ns(void);

QN_CHECKED qn_status qn_cpu_executor_create(const qn_artifact *artifact, qn_threads *threads,
                                            const qn_executor_options *options, const qn_allocator *allocator,
                                            qn_executor **out, qn_diag *diag);
QN_CHECKED qn_status qn_cuda_executor_create(const qn_artifact *artifact, const qn_executor_options *options,
                                             const qn_allocator *allocator, qn_executor **out, qn_diag *diag);

#endif
