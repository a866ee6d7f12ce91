// Graphs of few ops at odd sizes, through the oracle and the ways to run kernels (graph_run.h): what test_kernels.c and
// test_kernel_formats.c have in common.
#ifndef QN_TESTS_SUPPORT_KERNEL_CASES_H
#define QN_TESTS_SUPPORT_KERNEL_CASES_H

#include "tests/support/graph_run.h"

// What an element's error is measured against.
typedef enum qn_kernel_scale {
  QN_SCALE_OWN,        // the element itself
  QN_SCALE_MAGNITUDE,  // the same graph on magnitudes: the sum of |x w|
  QN_SCALE_RMS,        // the root mean square of the output
  QN_SCALE_MEAN,       // that too, but it is the root mean square of the errors that is bounded
} qn_kernel_scale;

// What a case is run with, beside tokens.
typedef struct qn_scenario {
  int sequences, pages, past[QN_RUN_MAX_SPANS];
  qn_run_step steps[7];  // ended by one without tokens
} qn_scenario;

typedef struct qn_kernel_case {
  const char *text;
  const char *sizes[10];  // of one program each; ended by NULL
  const qn_scenario *scenario;
  double tolerance;  // an f32 rounding is 6e-8
  qn_kernel_scale scale;
} qn_kernel_case;

// One sequence, in steps of the five classes of row counts that matmul kernels have variants for.
extern const qn_scenario qn_row_classes;

// One step of the kernels as lowered, held to the oracle's; gives their outputs.
const qn_run_output *qn_kernel_check_step(qn_run *run, const qn_kernel_case *c, const qn_run_step *step,
                                          const char *label);
// Runs all steps by one engine; the outputs of all of them, one after another.
void qn_kernel_run_steps(qn_run *run, const qn_scenario *s, qn_run_engine engine, const qn_run_output **out);
// The case's program at these sizes (may be NULL): against the oracle, and every few programs compiled or mapped to lanes
// as well, whose bits are the same.
void qn_kernel_check_program(const qn_kernel_case *c, const char *sizes, bool quantize);
// One is left out: which of those after it are compiled does not depend on that.
void qn_kernel_skip_program(void);

#endif
