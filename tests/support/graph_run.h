// Runs a graph two ways on the same made-up parameters, inputs and caches: through the oracle (ir/ref), and compiled,
// by the interpreter or the JIT. Everything asserts: a test only looks at outputs.
#ifndef QN_TESTS_SUPPORT_GRAPH_RUN_H
#define QN_TESTS_SUPPORT_GRAPH_RUN_H

#include "codegen/codegen.h"
#include "ir/loop_interp.h"
#include "ir/program.h"
#include "ir/ref/ref.h"
#include "passes/gpu_pass.h"
#include "passes/pass.h"

typedef enum qn_run_engine {
  QN_RUN_PLAIN,      // the kernels as lowered, interpreted
  QN_RUN_SCHEDULED,  // the variants that the schedule pass made, interpreted
  QN_RUN_JIT,        // the variants, compiled
  QN_RUN_LANES,      // the variants that the GPU passes made, interpreted
  QN_RUN_LAUNCH,     // those, by the options' launch
} qn_run_engine;

typedef struct qn_run qn_run;

// Runs a variant of kernel number `kernel` of the program: a buffer a parameter, symbols' values, iterations of the
// parallel loop (1 where it has none).
typedef void (*qn_run_launch_fn)(void *context, qn_run *run, size_t kernel, const qn_gpu_variant *variant,
                                 const qn_linterp_buffer *buffers, const int64_t *symbols, int64_t extent);

typedef struct qn_run_options {
  bool quantize_activations, half_activations;
  bool gpu;                     // a program for GPUs: QN_RUN_PLAIN and from QN_RUN_LANES on
  unsigned evict;               // program and oracle take slots, which are positions here
  const qn_schedule *schedule;  // forced on every variant; NULL = the target's defaults
  const char *target;           // NULL = "host"
  int page_order;               // another order of a sequence's pages in the pool
  qn_run_launch_fn launch;      // QN_RUN_LAUNCH
  void *launch_context;
} qn_run_options;

// Tokens of one sequence in a step: positions first .. first + count - 1.
typedef struct qn_run_span {
  int sequence, first, count;
} qn_run_span;

#define QN_RUN_MAX_SPANS 4
typedef struct qn_run_step {
  qn_run_span spans[QN_RUN_MAX_SPANS];  // ended by count 0; T is the sum of the counts
  int rows;                             // R: the last tokens of the step, backwards; 0 = all tokens, in order
  int threads;                          // ranges that every parallel loop is split into; 0 = 1
} qn_run_step;

typedef struct qn_run_output {
  const char *name;
  qn_type type;  // constant dimensions
  int64_t count;
  double *values;  // row-major without padding; of the run
} qn_run_output;

// Compiles the graph of a short text (tests/support/graph_text.h). What inputs hold is said by the first letter of
// their names: q: multiples of 1/64 that quantise exactly; s: special and extreme values; z: like the others, but
// every second row and the first half of the rest zeros; b: blocks of 32 of very different sizes, some not finite;
// other names: -2 to 2. Values belong to a token's sequence and position, not to the step it comes in. Parameters hold
// -1 to 1, those of rank 1 0.5 to 1.5, those of rank 1 with names in b -1 to 1.
qn_run *qn_run_create(const char *text, const char *sizes, const qn_run_options *options);
void qn_run_destroy(qn_run *run);
const qn_program *qn_run_program(const qn_run *run);
// The GPU passes' variants of kernel number `kernel` of the program.
const qn_gpu_variant *qn_run_gpu_variants(qn_run *run, size_t kernel, int *out_count);

// Starts `sequences` of them with room for `pages` pages of keys each; the first past[i] keys of sequence i (NULL =
// none) are random, all others NaN.
void qn_run_begin(qn_run *run, int sequences, int pages, const int *past);

// The outputs of a step, one an output of the graph. Each way keeps caches of its own from step to step. The arena
// holds NaNs before each step. With more than one thread, each thread's share of the steps up to the next barrier is
// run as a whole, in an order that changes from barrier to barrier.
const qn_run_output *qn_run_execute(qn_run *run, qn_run_engine engine, const qn_run_step *step);
// `magnitude`: every source's values are replaced by their magnitudes (for a matmul this gives the sum of |x w|, the
// scale of its rounding errors); caches stay as they were.
const qn_run_output *qn_run_oracle(qn_run *run, const qn_run_step *step, bool magnitude);
size_t qn_run_output_count(const qn_run *run);
// Sets seen[op] for the ops of the graph as written and as the passes left it.
void qn_run_mark_ops(const qn_run *run, bool *seen);

// Asserts |got - want| <= tolerance * (|want| + scale) everywhere; NaN matches NaN alone, infinities their own sign.
// scale: the values of `scales` where given (one an element), else the root mean square of `want` times `rms`.
void qn_run_compare(const qn_run_output *got, const qn_run_output *want, double tolerance, const qn_run_output *scales,
                    double rms, const char *label);
// The root mean square of the differences, over that of `want`; infinite where one is not finite.
double qn_run_error(const qn_run_output *got, const qn_run_output *want);
// Asserts the same bits (NaNs are equal).
void qn_run_compare_bits(const qn_run_output *got, const qn_run_output *want, const char *label);

#endif
