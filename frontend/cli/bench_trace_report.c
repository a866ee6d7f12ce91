// Tells what replaying a trace gave: a table for people, JSON for programs.
#include <stdio.h>

#include "frontend/cli/bench_trace.h"
#include "frontend/cli/json.h"

static double per(double count, double of) { return of > 0 ? count / of : 0; }

static double unused_slots(const trace_run *r) { return per((double)r->stats.slots_unused, (double)r->stats.slots); }

double bench_trace_accepted(const trace_run *r) { return per((double)r->stats.accepted, (double)r->stats.proposed); }
double bench_trace_per_pass(const trace_run *r) { return per((double)r->generated, (double)r->passes); }

static double hit_rate(const trace_run *r) {
  double prompts = 0;
  for (size_t i = 0; i < r->trace->requests.count; i++) prompts += (double)r->trace->requests.items[i].prompt;
  return per((double)r->stats.cached_tokens, prompts);
}

static const double parts[] = {0.5, 0.9, 0.95, 0.99};
static const char *const part_names[] = {"p50", "p90", "p95", "p99"};

// --- the table

static void put_rate(const trace_run *r, char *out, size_t size) {
  if (r->trace->rate > 0) {
    snprintf(out, size, "%g/s", r->trace->rate);
  } else {
    snprintf(out, size, "file");
  }
}

static void print_objective(const bench_traces *t) {
  if (t->slo_ttft > 0) printf("; TTFT within %g ms", 1e3 * t->slo_ttft);
  if (t->slo_tpot > 0) printf("; TPOT within %g ms", 1e3 * t->slo_tpot);
}

void bench_trace_print(const bench_traces *t) {
  printf("%s, %s: %zu requests, %d at a time, %lld pages", quern_model_name(t->b->model), quern_model_target(t->b->model),
         t->traces[0].requests.count, (int)t->session.sequences,
         (long long)(t->runs.count > 0 ? t->runs.items[0].stats.pages : 0));
  print_objective(t);
  printf("\n\n%-10s %8s %9s %9s %8s %8s %8s %8s %8s %9s %8s %7s %8s %6s %7s %8s\n", "batching", "arrivals", "tokens/s", "goodput/s",
         "within", "TTFT p50", "p99 ms", "TPOT p50", "p99 ms", "user t/s", "unused", "hits", "accepted", "a pass", "failed", "preempt.");
  for (size_t i = 0; i < t->runs.count; i++) {
    const trace_run *r = &t->runs.items[i];
    char rate[24];
    put_rate(r, rate, sizeof rate);
    printf("%-10s %8s %9.1f %9.2f %6.1f %% %8.1f %8.1f %8.2f %8.2f %9.1f %6.1f %% %5.1f %% %6.1f %% %6.2f %7lld %8lld\n",
           bench_trace_batching(r->batching), rate, per((double)r->generated, r->seconds),
           per((double)r->within, r->seconds), 100 * per((double)r->within, (double)r->outcomes.count),
           1e3 * bench_median(&r->ttft), 1e3 * bench_percentile(&r->ttft, 0.99), 1e3 * bench_median(&r->tpot),
           1e3 * bench_percentile(&r->tpot, 0.99), bench_median(&r->users), 100 * unused_slots(r), 100 * hit_rate(r),
           100 * bench_trace_accepted(r), bench_trace_per_pass(r), (long long)r->failed, (long long)r->stats.preemptions);
  }
  fflush(stdout);
}

// --- JSON

static void put_times(cli_json *j, const char *key, const bench_samples *samples) {
  cli_json_begin(j, key, '{');
  for (size_t i = 0; i < QN_COUNT(parts); i++) cli_json_precise(j, part_names[i], 1e3 * bench_percentile(samples, parts[i]));
  cli_json_precise(j, "mean", 1e3 * bench_mean(samples));
  cli_json_end(j, '}');
}

static void put_run(cli_json *j, const trace_run *r) {
  const quern_scheduler_stats *s = &r->stats;
  cli_json_text(j, "batching", qn_str_from(bench_trace_batching(r->batching)));
  if (r->trace->rate > 0) cli_json_precise(j, "rate_per_s", r->trace->rate);
  cli_json_int(j, "requests", (int64_t)r->outcomes.count);
  cli_json_int(j, "failed", r->failed);
  cli_json_precise(j, "seconds", r->seconds);
  cli_json_precise(j, "tokens_per_s", per((double)r->generated, r->seconds));
  cli_json_precise(j, "user_tokens_per_s", bench_median(&r->users));
  put_times(j, "ttft_ms", &r->ttft);
  put_times(j, "tpot_ms", &r->tpot);
  cli_json_precise(j, "goodput_per_s", per((double)r->within, r->seconds));
  cli_json_precise(j, "within_objective", per((double)r->within, (double)r->outcomes.count));
  cli_json_precise(j, "cache_hit_rate", hit_rate(r));
  cli_json_precise(j, "slots_unused", unused_slots(r));
  cli_json_precise(j, "acceptance_rate", bench_trace_accepted(r));
  cli_json_precise(j, "tokens_per_pass", bench_trace_per_pass(r));
  cli_json_int(j, "steps", s->steps);
  cli_json_int(j, "prompt_tokens", s->prompt_tokens);
  cli_json_int(j, "generated_tokens", s->generated_tokens);
  cli_json_int(j, "recomputed_tokens", s->recomputed_tokens);
  cli_json_int(j, "preemptions", s->preemptions);
  cli_json_int(j, "swap_bytes", (int64_t)s->swap_bytes);
  cli_json_int(j, "pages", s->pages);
  cli_json_int(j, "most_pages", s->most_pages);
  cli_json_int(j, "most_running", s->most_running);
  cli_json_precise(j, "longest_step_ms", 1e-6 * (double)s->longest_step_ns);
}

void bench_trace_put_json(const bench_traces *t, qn_buf *out) {
  const bench_options *o = t->b->options;
  cli_json j = {.out = out};
  cli_json_begin(&j, NULL, '{');
  cli_json_text(&j, "quern", qn_str_from(quern_version()));
  cli_json_text(&j, "model", qn_str_from(quern_model_name(t->b->model)));
  cli_json_text(&j, "target", qn_str_from(quern_model_target(t->b->model)));
  cli_json_text(&j, "clock", qn_str_from(o->clock ? o->clock : "wall"));
  cli_json_text(&j, "trace", qn_str_from(o->trace));
  if (o->speculate) cli_json_text(&j, "speculate", qn_str_from(o->speculate));
  cli_json_count(&j, "seed", o->seed);
  cli_json_int(&j, "sequences", t->session.sequences);
  cli_json_int(&j, "threads", t->session.threads);
  cli_json_begin(&j, "objective", '{');
  if (t->slo_ttft > 0) cli_json_precise(&j, "ttft_ms", 1e3 * t->slo_ttft);
  if (t->slo_tpot > 0) cli_json_precise(&j, "tpot_ms", 1e3 * t->slo_tpot);
  cli_json_end(&j, '}');
  cli_json_begin(&j, "runs", '[');
  for (size_t i = 0; i < t->runs.count; i++) {
    cli_json_begin(&j, NULL, '{');
    put_run(&j, &t->runs.items[i]);
    cli_json_end(&j, '}');
  }
  cli_json_end(&j, ']');
  cli_json_end(&j, '}');
  qn_buf_putc(out, '\n');
}
