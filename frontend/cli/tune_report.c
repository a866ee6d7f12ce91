// The table and the JSON of a tuning session.
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "frontend/cli/json.h"
#include "frontend/cli/tune.h"

const char *tune_rows(int64_t rows_min, int64_t rows_max) {
  static char texts[4][32];
  static int at;
  char *text = texts[at = (at + 1) % 4];
  if (rows_min == 0) return "any";
  if (rows_min == rows_max) {
    snprintf(text, sizeof texts[0], "%" PRId64, rows_min);
  } else if (rows_max == INT64_MAX) {
    snprintf(text, sizeof texts[0], "from %" PRId64, rows_min);
  } else {
    snprintf(text, sizeof texts[0], "%" PRId64 " to %" PRId64, rows_min, rows_max);
  }
  return text;
}

const char *tune_time(double seconds) {
  static char texts[4][32];
  static int at;
  char *text = texts[at = (at + 1) % 4];
  if (seconds >= 1) {
    snprintf(text, sizeof texts[0], "%.3f s", seconds);
  } else if (seconds >= 1e-3) {
    snprintf(text, sizeof texts[0], "%.3f ms", 1e3 * seconds);
  } else {
    snprintf(text, sizeof texts[0], "%.2f us", 1e6 * seconds);
  }
  return text;
}

// --- the table

static int name_width(const quern_tune_report *r) {
  size_t width = strlen("kernel");
  for (size_t i = 0; i < r->count; i++)
    if (strlen(r->results[i].kernel) > width) width = strlen(r->results[i].kernel);
  return (int)width;
}

static void print_row(const quern_tune_result *k, int width, bool compared) {
  char bound[16] = "-", gain[16] = "-", standard[16] = "-", middle[16] = "-";
  if (k->bound_s > 0) snprintf(bound, sizeof bound, "%.0f %%", 100 * k->bound_s / k->tuned_s);
  bool known = k->measured && (k->pairs > 0 || strcmp(k->tuned, k->standard) == 0);
  if (known) snprintf(gain, sizeof gain, "%.2f x", k->gain);
  if (k->over_default > 0) snprintf(standard, sizeof standard, "%.2f x", k->over_default);
  if (k->over_middle > 0) snprintf(middle, sizeof middle, "%.2f x", k->over_middle);
  printf("%-*s %8s %5.1f %% %11s %11s %8s %8s", width, k->kernel, tune_rows(k->rows_min, k->rows_max), 100 * k->share,
         known ? tune_time(k->default_s) : "-", k->measured ? tune_time(k->tuned_s) : "-", gain, bound);
  if (compared) printf(" %10s %10s", standard, middle);
  bool told = k->tried > 0 || strncmp(k->end, "not tuned: ", 11) == 0;  // there was no memory for it
  printf(" %6d  %s\n", k->tried, told ? k->end : "untouched");
}

// The geometric mean of a ratio over the kernels that have one; 0 = none has.
static double mean_ratio(const quern_tune_report *r, size_t offset) {
  double sum = 0;
  int count = 0;
  for (size_t i = 0; i < r->count; i++) {
    double ratio;
    memcpy(&ratio, (const char *)&r->results[i] + offset, sizeof ratio);
    if (ratio <= 0) continue;
    sum += log(ratio);
    count++;
  }
  return count ? exp(sum / count) : 0;
}

// How much less of the run time the tuned kernels take: the mean of gains by share.
static double whole_gain(const quern_tune_report *r) {
  double before = 0, after = 0;
  for (size_t i = 0; i < r->count; i++) {
    before += r->results[i].share * (r->results[i].measured ? r->results[i].gain : 1);
    after += r->results[i].share;
  }
  return after > 0 ? before / after : 1;
}

static void print_bad(const quern_tune_report *r) {
  int wrong = 0, crashed = 0, hung = 0, failed = 0;
  for (size_t i = 0; i < r->count; i++) {
    wrong += r->results[i].wrong;
    crashed += r->results[i].crashed;
    hung += r->results[i].hung;
    failed += r->results[i].failed;
  }
  if (r->killed > 0)
    printf("not known: %d whose process was killed from outside twice, which the system does when memory runs out; the next "
           "session tries them again\n",
           r->killed);
  if (wrong + crashed + hung + failed == 0) return;
  printf("caught and never used: %d that computed other bits, %d that crashed, %d that hung, %d that did not compile\n",
         wrong, crashed, hung, failed);
}

void tune_print(const quern_tune_report *r, double within) {
  int width = name_width(r);
  bool compared = mean_ratio(r, offsetof(quern_tune_result, over_middle)) > 0 ||
                  mean_ratio(r, offsetof(quern_tune_result, over_default)) > 0;
  printf("%-*s %8s %7s %11s %11s %8s %8s", width, "kernel", "rows", "share", "default", "tuned", "gain", "of bound");
  if (compared) printf(" %10s %10s", "default", "middle");
  printf(" %6s  %s\n", "tried", "why it ended");
  for (size_t i = 0; i < r->count; i++) print_row(&r->results[i], width, compared);
  printf("the tuned kernels of a step take 1/%.2f of the time that the defaults take\n", whole_gain(r));
  if (compared) {
    printf(
        "in pairs, geometric mean over the kernels: default %.3f x, one middle value for every knob %.3f x the time\n",
        mean_ratio(r, offsetof(quern_tune_result, over_default)),
        mean_ratio(r, offsetof(quern_tune_result, over_middle)));
  }
  print_bad(r);
  if (r->crossovers > 0) printf("%d token counts at which variants change were moved\n", r->crossovers);
  if (r->has_settings) {
    const char *how = *r->database && r->usual_threads
                          ? "run and bench do so"
                          : "--threads, --decode-threads, --spin and --grain of run and bench say so";
    printf("best run with %d threads for prompts, %d for decoding, waits that spin %lld us, and a grain of %d: %s\n",
           r->threads_prefill, r->threads_decode, r->spin_us < 0 ? 0LL : (long long)r->spin_us, r->grain, how);
  }
  printf("%d candidates tried in %.1f s, %d known from before; it ended because %s", r->tried, r->seconds, r->known,
         r->end);
  if (r->expected > 0 && !r->cancelled) printf(" (the best next batch is expected to save %.2f %%)", 100 * r->expected);
  printf("; kernels within %g %% of the roofline are left alone\n", 100 * within);
  if (*r->database) printf("records: %s\n", r->database);
  if (*r->database && !r->usual_threads)
    printf("they are for %d threads: quern run --threads %d and quern compile --run-threads %d use them\n", r->threads,
           r->threads, r->threads);
}

int tune_warn(const quern_tune_report *r) {
  if (r->rejected > 0) {
    fprintf(stderr, "quern: warning: %d entries of the database are not used, the first: %s\n", r->rejected,
            r->first_reason);
  }
  quern_error error = {0};
  int code = quern_tune_verdict(r, &error);
  return code == 0 ? 0 : cli_fail_with(code, &error);
}

// --- JSON

static void put_result(cli_json *j, const quern_tune_result *k) {
  cli_json_text(j, "kernel", qn_str_from(k->kernel));
  cli_json_int(j, "rows_min", k->rows_min);
  if (k->rows_max != INT64_MAX) cli_json_int(j, "rows_max", k->rows_max);
  cli_json_int(j, "rows", k->rows);
  cli_json_precise(j, "share", k->share);
  cli_json_text(j, "times_are", qn_str_from(k->measured ? "measured" : "predicted"));
  cli_json_precise(j, "default_s", k->default_s);
  cli_json_precise(j, "tuned_s", k->tuned_s);
  if (k->bound_s > 0) cli_json_precise(j, "bound_s", k->bound_s);
  cli_json_precise(j, "gain", k->gain);
  cli_json_int(j, "pairs", k->pairs);
  cli_json_int(j, "tried", k->tried);
  cli_json_int(j, "wrong", k->wrong);
  cli_json_int(j, "crashed", k->crashed);
  cli_json_int(j, "hung", k->hung);
  cli_json_int(j, "failed", k->failed);
  cli_json_text(j, "end", qn_str_from(k->end));
  if (k->broken) cli_json_text(j, "broken", qn_str_from("the default schedule is wrong, crashes or hangs"));
  cli_json_text(j, "schedule", qn_str_from(k->tuned));
  cli_json_text(j, "default_schedule", qn_str_from(k->standard));
  if (k->over_default > 0) cli_json_precise(j, "over_default", k->over_default);
  if (k->over_default > 0) cli_json_precise(j, "over_default_error", k->over_default_error);
  if (k->over_middle > 0) cli_json_precise(j, "over_middle", k->over_middle);
  if (k->over_middle > 0) cli_json_precise(j, "over_middle_error", k->over_middle_error);
}

void tune_put_json(const quern_tune_report *r, qn_buf *out) {
  cli_json j = {.out = out};
  cli_json_begin(&j, NULL, '{');
  cli_json_text(&j, "end", qn_str_from(r->end));
  cli_json_precise(&j, "expected", r->expected);
  cli_json_precise(&j, "seconds", r->seconds);
  cli_json_int(&j, "tried", r->tried);
  cli_json_int(&j, "known", r->known);
  cli_json_int(&j, "crossovers", r->crossovers);
  if (r->has_settings) {
    cli_json_int(&j, "threads_prefill", r->threads_prefill);
    cli_json_int(&j, "threads_decode", r->threads_decode);
    cli_json_int(&j, "spin_us", r->spin_us < 0 ? 0 : r->spin_us);
    cli_json_int(&j, "grain", r->grain);
  }
  cli_json_int(&j, "rejected", r->rejected);
  cli_json_int(&j, "killed", r->killed);
  cli_json_int(&j, "threads", r->threads);
  cli_json_text(&j, "database", qn_str_from(r->database));
  cli_json_precise(&j, "whole_gain", whole_gain(r));
  double standard = mean_ratio(r, offsetof(quern_tune_result, over_default));
  double middle = mean_ratio(r, offsetof(quern_tune_result, over_middle));
  if (standard > 0) cli_json_precise(&j, "mean_over_default", standard);
  if (middle > 0) cli_json_precise(&j, "mean_over_middle", middle);
  cli_json_begin(&j, "kernels", '[');
  for (size_t i = 0; i < r->count; i++) {
    cli_json_begin(&j, NULL, '{');
    put_result(&j, &r->results[i]);
    cli_json_end(&j, '}');
  }
  cli_json_end(&j, ']');
  cli_json_end(&j, '}');
  qn_buf_putc(out, '\n');
}
