// The explanation as tables for people, and as JSON for programs.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "frontend/cli/explain.h"
#include "frontend/cli/json.h"

double explain_term(const quern_kernel_report *kernel, const quern_explain_term *term) {
  double value;
  memcpy(&value, (const char *)kernel + term->offset, sizeof value);
  return value;
}

const quern_kernel_report *explain_find(const quern_phase_report *phase, const char *kernel) {
  for (size_t i = 0; i < phase->kernel_count; i++) {
    if (strcmp(phase->kernels[i].kernel, kernel) == 0) return &phase->kernels[i];
  }
  return NULL;
}

double explain_ops(const quern_kernel_report *k) { return k->int8_ops + k->fp32_ops + k->other_ops; }

const char *explain_time(double seconds, char *out) {
  static const struct {
    double from, factor;
    const char *unit;
  } units[] = {{1, 1, "s"}, {1e-3, 1e3, "ms"}, {0, 1e6, "us"}};
  size_t i = 0;
  while (seconds < units[i].from) i++;
  double value = seconds * units[i].factor;
  snprintf(out, 24, "%.*f %s", value < 10 ? 2 : value < 100 ? 1 : 0, value, units[i].unit);
  return out;
}

static double per(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }

void explain_put_threads(const quern_explanation *e, qn_buf *out) {
  if (e->prediction[0]) {
    qn_buf_puts(out, "predicted");
  } else {
    qn_buf_printf(out, "%d thread%s", e->threads, e->threads == 1 ? "" : "s");
  }
}

// ---- the table

static void put_chip(const quern_explanation *e, qn_buf *out) {
  qn_buf_printf(out, "%s, %s: %s\n", e->model, e->target, e->prediction);
  qn_buf_printf(out, "%s: reads %.0f GB/s, %.1f TOP/s int8 by tensor cores, %.1f TFLOP/s fp32\n", e->host,
                1e-9 * e->read_bytes_per_s, 1e-12 * e->int8_ops_per_s, 1e-12 * e->fp32_ops_per_s);
}

static void put_machine(const quern_explanation *e, qn_buf *out) {
  qn_buf_printf(out, "%s, %s, ", e->model, e->target);
  explain_put_threads(e, out);
  qn_buf_putc(out, '\n');
  qn_buf_printf(out, "machine: reads %.2f GB/s, %.1f GOP/s int8 (%.1f by codes of few bits), %.1f GFLOP/s fp32; %.2f us a page "
                "fault\n",
                1e-9 * e->read_bytes_per_s, 1e-9 * e->int8_ops_per_s, 1e-9 * e->narrow_ops_per_s,
                1e-9 * e->fp32_ops_per_s, 1e6 * e->fault_s);
  if (!e->lacking[0]) return;
  qn_buf_printf(out,
                "the code does without %s, which this CPU has (%s): %.1f of %.1f GOP/s int8 (%.1f of %.1f by codes "
                "of few bits), %.1f of %.1f GFLOP/s fp32; compile for it\n",
                e->lacking, e->host, 1e-9 * e->target_int8_ops_per_s, 1e-9 * e->int8_ops_per_s,
                1e-9 * e->target_narrow_ops_per_s, 1e-9 * e->narrow_ops_per_s,
                1e-9 * e->target_fp32_ops_per_s, 1e-9 * e->fp32_ops_per_s);
}

static void put_phase_line(const quern_explanation *e, const quern_phase_report *p, qn_buf *out) {
  char time[24], first[24];
  qn_buf_printf(out, "\n%s, %lld token%s after %lld keys: %s, %.1f tokens/s, MBU %.1f %%, MFU %.1f %%; ", p->name,
                (long long)p->tokens, p->tokens == 1 ? "" : "s", (long long)p->depth, explain_time(p->seconds, time),
                per((double)p->tokens, p->seconds), 100 * p->mbu, 100 * p->mfu);
  if (e->prediction[0]) {
    qn_buf_printf(out, "bounds are %.1f %% of it\n", 100 * per(p->bound_s, p->seconds));
    return;
  }
  qn_buf_printf(out, "bounds are %.1f %% of it, %.1f %% is outside kernels\n", 100 * per(p->bound_s, p->seconds),
                100 * per(p->outside_s, p->seconds));
  if (p->threads != e->threads) qn_buf_printf(out, "%d of the threads compute in it\n", p->threads);
  if (p->stream_bytes_per_s > e->read_bytes_per_s) {
    qn_buf_printf(out, "what a step reads stays in the last cache: bounds are for its %.1f GB/s\n",
                  1e-9 * p->stream_bytes_per_s);
  }
  qn_buf_printf(out, "page faults: %.0f the first time, which took %s (%.0f read from a disk), then %.0f (%.0f)\n",
                p->first_minor_faults + p->first_major_faults, explain_time(p->first_s, first), p->first_major_faults,
                p->minor_faults + p->major_faults, p->major_faults);
  if (p->interrupted >= 1)
    qn_buf_printf(out, "other programs took a CPU %.0f times in it: the machine is busy\n", p->interrupted);
}

static void put_kernels(const quern_phase_report *p, qn_buf *out) {
  qn_buf_printf(out, "%7s %10s %6s %9s %8s %8s %9s  %-16s %s\n", "share", "time us", "calls", "MB", "GB/s", "GOP/s",
                "of bound", "limited by", "kernel");
  for (size_t i = 0; i < p->kernel_count; i++) {
    const quern_kernel_report *k = &p->kernels[i];
    qn_buf_printf(out, "%5.1f %% %10.1f %6lld %9.3f %8.2f %8.1f %7.1f %%  %-16s %s\n", 100 * k->share, 1e6 * k->seconds,
                  (long long)k->calls, 1e-6 * (k->memory_bytes + k->value_bytes),
                  1e-9 * per(k->memory_bytes + k->value_bytes, k->seconds), 1e-9 * per(explain_ops(k), k->seconds),
                  100 * k->of_bound, k->limit, k->kernel);
  }
  for (size_t i = 0; i < p->kernel_count; i++) {
    const quern_kernel_report *k = &p->kernels[i];
    if (k->tuning[0]) qn_buf_printf(out, "tuning of %s: %s\n", k->kernel, k->tuning);
  }
}

static void put_terms(const quern_phase_report *p, qn_buf *out) {
  size_t count;
  const quern_explain_term *terms = quern_explain_terms(&count);
  qn_buf_puts(out, "parts of the time, which overlap:\n");
  for (size_t t = 0; t < count; t++) qn_buf_printf(out, "%15s", terms[t].name);
  qn_buf_puts(out, "  kernel\n");
  for (size_t i = 0; i < p->kernel_count; i++) {
    const quern_kernel_report *k = &p->kernels[i];
    for (size_t t = 0; t < count; t++)
      qn_buf_printf(out, "%13.1f %%", 100 * per(explain_term(k, &terms[t]), k->seconds));
    qn_buf_printf(out, "  %s (%s)\n", k->variant, k->schedule);
  }
}

// ---- two runs

static void put_change(qn_buf *out, double now, double before) {
  if (now > 0 && before > 0) {
    qn_buf_printf(out, "%8.3f x", before / now);
  } else {
    qn_buf_printf(out, "%10s", "-");
  }
}

static void put_against(const explain_view *view, size_t phase, qn_buf *out) {
  const quern_phase_report *now = &view->now->phases[phase], *before = &view->before->phases[phase];
  char a[24], b[24];
  qn_buf_printf(out, "\n%s against %s: %s, was %s, ", now->name, view->before_path, explain_time(now->seconds, a),
                explain_time(before->seconds, b));
  qn_buf_printf(out, "%.3f times as fast; MBU %.1f %%, was %.1f %%; MFU %.1f %%, was %.1f %%\n",
                per(before->seconds, now->seconds), 100 * now->mbu, 100 * before->mbu, 100 * now->mfu,
                100 * before->mfu);
  if (now->tokens != before->tokens || now->depth != before->depth) {
    qn_buf_printf(out, "not the same work: %lld tokens after %lld keys were measured then\n", (long long)before->tokens,
                  (long long)before->depth);
  }
  qn_buf_printf(out, "%10s %10s %10s %9s %9s  %s\n", "time us", "was", "faster", "of bound", "was", "kernel");
  for (size_t i = 0; i < now->kernel_count; i++) {
    const quern_kernel_report *k = &now->kernels[i], *old = explain_find(before, k->kernel);
    qn_buf_printf(out, "%10.1f ", 1e6 * k->seconds);
    if (old) {
      qn_buf_printf(out, "%10.1f ", 1e6 * old->seconds);
      put_change(out, k->seconds, old->seconds);
      qn_buf_printf(out, " %7.1f %% %7.1f %%  %s\n", 100 * k->of_bound, 100 * old->of_bound, k->kernel);
    } else {
      qn_buf_printf(out, "%10s %10s %7.1f %% %9s  %s\n", "-", "new", 100 * k->of_bound, "-", k->kernel);
    }
  }
  for (size_t i = 0; i < before->kernel_count; i++) {
    const quern_kernel_report *k = &before->kernels[i];
    if (explain_find(now, k->kernel)) continue;
    qn_buf_printf(out, "%10s %10.1f %10s %9s %7.1f %%  %s\n", "-", 1e6 * k->seconds, "gone", "-", 100 * k->of_bound,
                  k->kernel);
  }
}

void explain_put_text(const explain_view *view, qn_buf *out) {
  const quern_explanation *e = view->now;
  if (e->prediction[0]) {
    put_chip(e, out);
  } else {
    put_machine(e, out);
  }
  for (size_t i = 0; i < e->phase_count; i++) {
    put_phase_line(e, &e->phases[i], out);
    put_kernels(&e->phases[i], out);
    if (view->terms) put_terms(&e->phases[i], out);
  }
  if (!view->before) return;
  if (strcmp(view->before->target, e->target) != 0 || view->before->threads != e->threads) {
    qn_buf_printf(out, "\n%s is of %s, ", view->before_path, view->before->target);
    explain_put_threads(view->before, out);
    qn_buf_putc(out, '\n');
  }
  for (size_t i = 0; i < e->phase_count; i++) put_against(view, i, out);
}

// ---- JSON

static void put_fields(cli_json *j, quern_explain_level level, const void *from) {
  size_t count;
  const quern_field *fields = quern_explain_fields(level, &count);
  for (size_t i = 0; i < count; i++) {
    const char *at = (const char *)from + fields[i].offset;
    switch (fields[i].kind) {
      case QUERN_FIELD_TEXT:
        cli_json_text(j, fields[i].key, qn_str_from(*(const char *const *)(const void *)at));
        break;
      case QUERN_FIELD_NUMBER: cli_json_precise(j, fields[i].key, *(const double *)(const void *)at); break;
      case QUERN_FIELD_INTEGER: cli_json_int(j, fields[i].key, *(const int64_t *)(const void *)at); break;
      case QUERN_FIELD_INT: cli_json_int(j, fields[i].key, *(const int *)(const void *)at); break;
    }
  }
}

static void put_phase_json(cli_json *j, const quern_phase_report *p) {
  size_t count;
  const quern_explain_term *terms = quern_explain_terms(&count);
  cli_json_begin(j, p->name, '{');
  put_fields(j, QUERN_EXPLAIN_PHASE, p);
  cli_json_begin(j, "kernels", '[');
  for (size_t i = 0; i < p->kernel_count; i++) {
    cli_json_begin(j, NULL, '{');
    put_fields(j, QUERN_EXPLAIN_KERNEL, &p->kernels[i]);
    cli_json_begin(j, "terms", '{');
    for (size_t t = 0; t < count; t++) cli_json_precise(j, terms[t].name, explain_term(&p->kernels[i], &terms[t]));
    cli_json_end(j, '}');
    cli_json_end(j, '}');
  }
  cli_json_end(j, ']');
  cli_json_end(j, '}');
}

void explain_put_json(const quern_explanation *e, qn_buf *out) {
  cli_json j = {.out = out};
  cli_json_begin(&j, NULL, '{');
  put_fields(&j, QUERN_EXPLAIN_WHOLE, e);
  for (size_t i = 0; i < e->phase_count; i++) put_phase_json(&j, &e->phases[i]);
  cli_json_end(&j, '}');
  qn_buf_putc(out, '\n');
}
