// How far a matrix product is from its exact value (ir/ref, in double) in both numeric modes, for every weight format:
// weights of -1 to 1 rounded to the format, activations of -2 to 2, K = 2048. The exact value is that of the rounded
// weights and of activations as they are, so that the error is what kernels add to quantising the weights.
// QUERN_TEST_SHOW=1 prints the table that the README has.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/format.h"
#include "tests/support/graph_run.h"
#include "tests/support/test.h"

typedef struct product_error {
  double rms, max;  // of the errors: against the root mean square, and against the largest value
} product_error;

static product_error compare(const qn_run_output *got, const qn_run_output *want) {
  double max = 0, max_error = 0, squares = 0, errors = 0;
  for (int64_t i = 0; i < want->count; i++) {
    double error = got->values[i] - want->values[i];
    max = fmax(max, fabs(want->values[i]));
    max_error = fmax(max_error, fabs(error));
    squares += want->values[i] * want->values[i];
    errors += error * error;
  }
  return (product_error){sqrt(errors / squares), max_error / max};
}

// Both modes are interpreted: compiled kernels have the same bits (test_kernels).
static void measure(const char *format, product_error *out_int8, product_error *out_f32) {
  static const char *const text = "x = input f32[T,2048]; w = param $F[64,2048]; y = matmul x w; output y; max T=3";
  char sizes[32];
  snprintf(sizes, sizeof sizes, "F=%s", format);
  const qn_run_step step = {.spans = {{0, 0, 3}}};
  qn_run *exact = qn_run_create(text, sizes, NULL);
  qn_run *rounded = qn_run_create(text, sizes, &(qn_run_options){.quantize_activations = true});
  qn_run_begin(exact, 1, 1, NULL);
  qn_run_begin(rounded, 1, 1, NULL);
  const qn_run_output *want = qn_run_oracle(exact, &step, false);
  *out_int8 = compare(qn_run_execute(rounded, QN_RUN_PLAIN, &step), want);
  *out_f32 = compare(qn_run_execute(exact, QN_RUN_PLAIN, &step), want);
  qn_run_destroy(exact);
  qn_run_destroy(rounded);
}

START_TEST(test_both_modes) {
  bool show = getenv("QUERN_TEST_SHOW") != NULL;
  if (show) printf("| weights | int8: RMS | int8: largest | f32: RMS | f32: largest |\n|---|---|---|---|---|\n");
  for (int dtype = 0; dtype < QN_DTYPE_COUNT; dtype++) {
    const qn_format *format = qn_format_of((qn_dtype)dtype);
    product_error int8, f32;
    if (!format) continue;
    measure(format->name, &int8, &f32);
    if (show) printf("| %s | %.1e | %.1e | %.1e | %.1e |\n", format->name, int8.rms, int8.max, f32.rms, f32.max);
    // Blocks of 32 even values of -2 to 2 in steps of 1/127 of their largest: 0.0045 of their root mean square.
    double allowed = qn_dtype_is_float(format->dtype) ? 2e-6 : 0.006;
    qn_check(int8.rms <= allowed, "%s, int8: a relative RMS error of %g, want at most %g", format->name, int8.rms,
             allowed);
    qn_check(f32.rms <= 2e-6, "%s, f32: a relative RMS error of %g, want at most 2e-6", format->name, f32.rms);
  }
}
END_TEST

QN_CASE(numeric_error, test_both_modes)
QN_TEST_MAIN(numeric_error)
