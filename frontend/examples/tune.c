// Tunes from code: tries schedules for a model's kernels on this machine for a given time, then compiles the model with
// what was found.
//   cc tune.c $(pkg-config --cflags --libs quern) -o tune && ./tune model.gguf model.qn 60
#include <quern.h>
#include <stdio.h>
#include <stdlib.h>

static bool show_tuning(void *context, const quern_tune_progress *p) {
  (void)context;
  fprintf(stderr, "\r%d/%d %-40.40s %d tried, %.0f s left ", p->task, p->tasks, p->kernel, p->tried, p->left_s);
  return true;  // false ends the session, which keeps what it found
}

static bool show_compiling(void *context, const char *stage, uint64_t done, uint64_t total) {
  (void)context;
  fprintf(stderr, "\r%-32s %3d %%", stage, total ? (int)(100 * done / total) : 0);
  return true;
}

int main(int argc, char **argv) {
  quern_error error;
  quern_tune_report report = {.size = sizeof report};
  quern_tuning_use use = {.size = sizeof use};
  if (argc != 4) return fprintf(stderr, "usage: tune MODEL OUT.qn SECONDS\n"), QUERN_ERR_ARGUMENT;
  quern_tune_options tune = {.size = sizeof tune, .budget_s = atof(argv[3]), .progress = show_tuning};
  int status = quern_tune(argv[1], &tune, &report, &error);
  if (status == 0) {
    printf("%d candidates in %.1f s; ended: %s\n", report.tried, report.seconds, report.end);
    for (size_t i = 0; i < report.count; i++)
      printf("%-48s %5.1f %% of the time, %.2f times as fast\n", report.results[i].kernel,
             100 * report.results[i].share, report.results[i].gain);
    quern_tune_report_free(&report);
    quern_compile_options compile = {.size = sizeof compile, .progress = show_compiling, .tuning_use = &use};
    status = quern_compile(argv[1], argv[2], &compile, &error);
  }
  fprintf(stderr, "\n");
  if (status == 0) printf("schedules from tuning: %d of %d\n", use.accepted, use.accepted + use.rejected + use.missing);
  if (status != 0) fprintf(stderr, "tune: %s\n", error.text);
  return status;
}
