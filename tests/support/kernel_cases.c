// Graphs of few ops through the oracle and the ways to run kernels.
#include "tests/support/kernel_cases.h"

#include <stdio.h>

#include "tests/support/test.h"

const qn_scenario qn_row_classes = {
    1,
    1,
    {0},
    {{.spans = {{0, 0, 1}}},
     {.spans = {{0, 1, 5}}, .threads = 2},
     {.spans = {{0, 6, 13}}, .rows = 3, .threads = 3},
     {.spans = {{0, 19, 3}}, .threads = 2},
     {.spans = {{0, 22, 2}}}}};

const qn_run_output *qn_kernel_check_step(qn_run *run, const qn_kernel_case *c, const qn_run_step *step,
                                          const char *label) {
  const qn_run_output *scales = c->scale == QN_SCALE_MAGNITUDE ? qn_run_oracle(run, step, true) : NULL;
  const qn_run_output *want = qn_run_oracle(run, step, false);
  const qn_run_output *plain = qn_run_execute(run, QN_RUN_PLAIN, step);
  for (size_t i = 0; i < qn_run_output_count(run); i++) {
    if (c->scale == QN_SCALE_MEAN) {
      double error = qn_run_error(&plain[i], &want[i]);
      qn_check(error <= c->tolerance, "%s: %s: got a mean error of %g, want %g", label, plain[i].name, error,
               c->tolerance);
      continue;
    }
    qn_run_compare(&plain[i], &want[i], c->tolerance, scales ? &scales[i] : NULL, c->scale == QN_SCALE_RMS, label);
  }
  return plain;
}

void qn_kernel_run_steps(qn_run *run, const qn_scenario *s, qn_run_engine engine, const qn_run_output **out) {
  qn_run_begin(run, s->sequences, s->pages, s->past);
  for (int i = 0; s->steps[i].spans[0].count; i++) out[i] = qn_run_execute(run, engine, &s->steps[i]);
}

static size_t programs;  // of the test so far, those that are left out too

void qn_kernel_skip_program(void) { programs++; }

void qn_kernel_check_program(const qn_kernel_case *c, const char *sizes, bool quantize) {
  static const char *const engines[] = {"plain", "scheduled", "jit", "lanes"};
  const qn_scenario *s = c->scenario;
  qn_run *run = qn_run_create(c->text, sizes, &(qn_run_options){.quantize_activations = quantize});
  char label[160];
  const qn_run_output *outputs[QN_COUNT(engines)][QN_COUNT(s->steps)];
  qn_run_begin(run, s->sequences, s->pages, s->past);
  for (int i = 0; s->steps[i].spans[0].count; i++) {
    snprintf(label, sizeof label, "%.60s... %s%s, step %d", c->text, sizes ? sizes : "", quantize ? " int8" : "", i);
    outputs[QN_RUN_PLAIN][i] = qn_kernel_check_step(run, c, &s->steps[i], label);
  }
  // Compiling is slow, and so is interpreting. The sanitizers' build takes some of those of the other, whose code is kept.
  bool compiled = programs % qn_test_stride(4, 12) == 0, lanes = programs % qn_test_stride(4, 16) == 0;
  programs++;
  for (int engine = QN_RUN_PLAIN + 1; engine <= QN_RUN_LANES; engine++) {
    if ((engine == QN_RUN_JIT && !compiled) || (engine == QN_RUN_LANES && !lanes)) continue;
    if (engine == QN_RUN_SCHEDULED && compiled && qn_test_stride(2, 2) > 1) continue;  // it is those that are compiled
    qn_kernel_run_steps(run, s, (qn_run_engine)engine, outputs[engine]);
    for (int i = 0; s->steps[i].spans[0].count; i++) {
      snprintf(label, sizeof label, "%.60s... %s%s, step %d: plain and %s", c->text, sizes ? sizes : "",
               quantize ? " int8" : "", i, engines[engine]);
      for (size_t o = 0; o < qn_run_output_count(run); o++) {
        qn_run_compare_bits(&outputs[engine][i][o], &outputs[0][i][o], label);
      }
    }
  }
  qn_run_destroy(run);
}
