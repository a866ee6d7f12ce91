// Tells what `quern bench` has measured: a table for people, JSON for programs.
#include <stdio.h>
#include <string.h>

#include "frontend/cli/bench.h"
#include "frontend/cli/json.h"

static double per(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }

// What stands for the whole: of the last number of threads the last prompt, and the first depth and batch.
static const bench_prefill *main_prefill(const bench *b) { return &b->prefills.items[b->prefills.count - 1]; }
static const bench_decode *main_decode(const bench *b) {
  return &b->decodes.items[b->decodes.count - b->depths.count * b->batches.count];
}
static const bench_machine *main_machine(const bench *b) { return &b->machines.items[b->machines.count - 1]; }

static double rate(const bench_machine *m, quern_rate which) { return bench_median(&m->rates[which]); }

// --- the table

static void put_percent(char *out, size_t size, const bench_samples *samples) {
  if (samples->count == 0) {
    snprintf(out, size, "-");
  } else {
    snprintf(out, size, "%.1f %%", 100 * bench_median(samples));
  }
}

// Why no energy is told; NULL when it is.
static const char *no_energy(const bench *b) {
  double joules;
  if (b->device.name) return "not read of GPUs";
  return bench_joules(&joules) ? NULL : "no counter to read under /sys/class/powercap";
}

static void print_texts(const bench *b) {
  printf("\n%9s %6s %8s %11s %11s %11s %9s\n", "text", "batch", "threads", "step ms", "texts/s", "tokens/s", "MFU");
  for (size_t i = 0; i < b->prefills.count; i++) {
    const bench_prefill *p = &b->prefills.items[i];
    double seconds = bench_median(&p->ttft), texts = (double)p->texts;
    char mfu[16];
    put_percent(mfu, sizeof mfu, &p->mfu);
    printf("%9lld %6lld %8d %11.2f %11.1f %11.1f %9s\n", (long long)p->tokens, (long long)p->texts, p->threads,
           1e3 * seconds, per(texts, seconds), per((double)p->tokens * texts, seconds), mfu);
  }
}

static void print_prefills(const bench *b) {
  printf("\n%9s %8s %11s %11s %9s\n", b->sourced ? "source" : "prompt", "threads", "TTFT ms", "tokens/s", "MFU");
  for (size_t i = 0; i < b->prefills.count; i++) {
    const bench_prefill *p = &b->prefills.items[i];
    char mfu[16];
    put_percent(mfu, sizeof mfu, &p->mfu);
    printf("%9lld %8d %11.2f %11.1f %9s\n", (long long)p->tokens, p->threads, 1e3 * bench_median(&p->ttft),
           per((double)p->tokens, bench_median(&p->ttft)), mfu);
  }
}

static void print_decodes(const bench *b) {
  printf("\n%6s %6s %8s %10s %9s %9s %9s %9s %9s %9s %9s %9s\n", "depth", "batch", "threads", "tokens/s", "MBU", "MFU",
         "p50 ms", "p90", "p95", "p99", "outside", "J/token");
  bool one_sequence = false;
  for (size_t i = 0; i < b->decodes.count; i++) {
    const bench_decode *d = &b->decodes.items[i];
    char mbu[16], mfu[16], outside[16] = "-", joules[16] = "-", batch[16];
    put_percent(mbu, sizeof mbu, &d->mbu);
    put_percent(mfu, sizeof mfu, &d->mfu);
    if (d->outside >= 0) snprintf(outside, sizeof outside, "%.1f %%", 100 * d->outside);
    if (d->joules.count > 0) snprintf(joules, sizeof joules, "%.3f", bench_median(&d->joules));
    snprintf(batch, sizeof batch, "%lld%s", (long long)d->batch, d->one_sequence ? "*" : "");
    one_sequence = one_sequence || d->one_sequence;
    printf("%6lld %6s %8d %10.1f %9s %9s %9.3f %9.3f %9.3f %9.3f %9s %9s\n", (long long)d->depth, batch, d->threads,
           per((double)d->batch, bench_median(&d->step)), mbu, mfu, 1e3 * bench_median(&d->step),
           1e3 * bench_percentile(&d->step, 0.9), 1e3 * bench_percentile(&d->step, 0.95),
           1e3 * bench_percentile(&d->step, 0.99), outside, joules);
  }
  if (one_sequence) printf("* tokens of one sequence, as one verifies guesses; the artifact has no room for more\n");
  const char *why = no_energy(b);
  if (why) printf("energy: %s\n", why);
}

static void print_guesses(const bench *b) {
  if (b->guesses.count == 0) return;
  printf("\n%6s %8s %10s %10s %10s %8s %9s %9s\n", "depth", "threads", "guesses", "tokens/s", "plain", "times", "accepted",
         "a step");
  for (size_t i = 0; i < b->guesses.count; i++) {
    const bench_guess *g = &b->guesses.items[i];
    double plain = bench_median(&g->plain), guessed = bench_median(&g->guessed);
    printf("%6lld %8d %10s %10.1f %10.1f %8.2f %7.1f %% %9.2f\n", (long long)g->depth, g->threads,
           quern_technique_name(b->speculation.technique), per(1, guessed), per(1, plain), per(plain, guessed),
           100 * per((double)g->accepted, (double)g->proposed), per((double)g->tokens, (double)g->passes));
  }
  printf("a step: tokens that one gives, by guesses that came true; times: as fast as without, in turns\n");
}

static void print_device(const bench *b, const char *device) {
  const bench_machine *m = main_machine(b);
  printf("device %s: copies read and write %.2f GB/s", device, 1e-9 * rate(m, QUERN_RATE_READ));
  if (*b->no_peaks.text) {
    printf("\nno MFU: %s\n", b->no_peaks.text);
    return;
  }
  printf("; tensor cores %.2f TOP/s int8, %.2f TFLOP/s f16; %.2f TFLOP/s fp32\n", 1e-12 * rate(m, QUERN_RATE_INT8),
         1e-12 * bench_median(&m->f16), 1e-12 * rate(m, QUERN_RATE_FP32));
}

void bench_print(const bench *b) {
  char device[320];
  printf("%s, %s, %.0f MiB of weights\n", quern_model_name(b->model), quern_model_target(b->model),
         (double)quern_model_weight_bytes(b->model) / (1 << 20));
  cli_device_describe(b->model, device, sizeof device);
  if (*device) print_device(b, device);
  for (size_t i = 0; !*device && i < b->machines.count; i++) {
    const bench_machine *m = &b->machines.items[i];
    printf("machine, %d thread%s: reads %.2f GB/s (%.2f on small pages), %.1f GOP/s int8 (%.1f by codes of few bits), "
           "%.1f GFLOP/s fp32\n",
           m->threads, m->threads > 1 ? "s" : "", 1e-9 * rate(m, QUERN_RATE_READ),
           1e-9 * rate(m, QUERN_RATE_READ_SMALL), 1e-9 * rate(m, QUERN_RATE_INT8), 1e-9 * rate(m, QUERN_RATE_NARROW),
           1e-9 * rate(m, QUERN_RATE_FP32));
  }
  if (b->embeds) {
    print_texts(b);
    fflush(stdout);
    return;
  }
  printf("load %.1f ms; a process from start to end, without its token, %.1f ms; peak memory %.1f MiB\n",
         1e3 * bench_median(&b->load), 1e3 * bench_median(&b->start), (double)b->rss_bytes / (1 << 20));
  if (!b->has_cost) printf("the artifact does not tell what a step costs: no MBU, no MFU; compile it again\n");
  print_prefills(b);
  print_decodes(b);
  print_guesses(b);
  if (b->sourced) printf("decoding looks at a source of %lld tokens; no MBU and no MFU of a model with an encoder\n",
                         (long long)b->prompts.items[b->prompts.count - 1]);
  fflush(stdout);
}

// --- JSON

static void put_rates(cli_json *j, const bench *b, const bench_machine *m) {
  cli_json_int(j, "threads", m->threads);
  cli_json_real(j, "read_bytes_per_s", rate(m, QUERN_RATE_READ));
  if (!*b->no_peaks.text) {
    cli_json_real(j, "int8_ops_per_s", rate(m, QUERN_RATE_INT8));
    cli_json_real(j, "fp32_flops_per_s", rate(m, QUERN_RATE_FP32));
  }
  if (b->device.name && !*b->no_peaks.text) cli_json_real(j, "f16_flops_per_s", bench_median(&m->f16));
  if (b->device.name) return;
  cli_json_real(j, "int8_narrow_ops_per_s", rate(m, QUERN_RATE_NARROW));
  cli_json_real(j, "read_small_pages_bytes_per_s", rate(m, QUERN_RATE_READ_SMALL));
  cli_json_int(j, "huge_page_bytes", (int64_t)quern_machine_huge_bytes(b->machine));
}

// Shares and joules have digits that cli_json_real would cut.
static void put_share(cli_json *j, const char *key, const bench_samples *samples) {
  if (samples->count > 0) cli_json_precise(j, key, bench_median(samples));
}

static void put_prefill(cli_json *j, const bench_prefill *p) {
  double texts = (double)p->texts;
  cli_json_int(j, "tokens", p->tokens);
  if (p->texts) cli_json_int(j, "batch", p->texts);
  cli_json_int(j, "threads", p->threads);
  if (p->texts) {
    cli_json_real(j, "step_ms", 1e3 * bench_median(&p->ttft));
    cli_json_real(j, "texts_per_s", per(texts, bench_median(&p->ttft)));
    cli_json_real(j, "tokens_per_s", per((double)p->tokens * texts, bench_median(&p->ttft)));
    put_share(j, "mfu", &p->mfu);
    return;
  }
  cli_json_real(j, "ttft_ms", 1e3 * bench_median(&p->ttft));
  cli_json_real(j, "tokens_per_s", per((double)p->tokens, bench_median(&p->ttft)));
  put_share(j, "mfu", &p->mfu);
}

static void put_decode(cli_json *j, const bench_decode *d) {
  static const struct {
    const char *key;
    double part;
  } percentiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p95", 0.95}, {"p99", 0.99}};
  cli_json_int(j, "depth", d->depth);
  cli_json_int(j, "batch", d->batch);
  cli_json_int(j, "sequences", d->one_sequence ? 1 : d->batch);
  cli_json_int(j, "threads", d->threads);
  cli_json_real(j, "tokens_per_s", per((double)d->batch, bench_median(&d->step)));
  put_share(j, "mbu", &d->mbu);
  put_share(j, "mfu", &d->mfu);
  cli_json_begin(j, "tpot_ms", '{');
  for (size_t i = 0; i < QN_COUNT(percentiles); i++) {
    cli_json_real(j, percentiles[i].key, 1e3 * bench_percentile(&d->step, percentiles[i].part));
  }
  cli_json_real(j, "mean", 1e3 * bench_mean(&d->step));
  cli_json_end(j, '}');
  if (d->outside >= 0) cli_json_precise(j, "outside_kernels", d->outside);
  put_share(j, "joules_per_token", &d->joules);
}

static void put_guess(cli_json *j, const bench *b, const bench_guess *g) {
  double plain = bench_median(&g->plain), guessed = bench_median(&g->guessed);
  cli_json_text(j, "technique", qn_str_from(quern_technique_name(b->speculation.technique)));
  cli_json_int(j, "depth", g->depth);
  cli_json_int(j, "threads", g->threads);
  cli_json_int(j, "draft_tokens", b->speculation.tokens);
  cli_json_real(j, "tokens_per_s", per(1, guessed));
  cli_json_real(j, "plain_tokens_per_s", per(1, plain));
  cli_json_precise(j, "times_as_fast", per(plain, guessed));
  cli_json_int(j, "proposed", g->proposed);
  cli_json_int(j, "accepted", g->accepted);
  cli_json_precise(j, "acceptance_rate", per((double)g->accepted, (double)g->proposed));
  cli_json_precise(j, "tokens_per_pass", per((double)g->tokens, (double)g->passes));
}

static void put_summary(cli_json *j, const bench *b, const char *key) {
  size_t length = 0;
  const char *value = quern_model_summary_value(b->model, key, &length);
  if (value) cli_json_text(j, key, (qn_str){value, length});
}

// Of a model that writes texts: what stands for the whole.
static void put_main(cli_json *j, const bench *b) {
  cli_json_real(j, "load_ms", 1e3 * bench_median(&b->load));
  cli_json_real(j, "start_ms", 1e3 * bench_median(&b->start));
  cli_json_int(j, "rss_bytes", (int64_t)b->rss_bytes);
  cli_json_real(j, "ttft_ms", 1e3 * bench_median(&main_prefill(b)->ttft));
  cli_json_begin(j, "prefill", '{');
  put_prefill(j, main_prefill(b));
  cli_json_end(j, '}');
  cli_json_begin(j, "decode", '{');
  put_decode(j, main_decode(b));
  cli_json_end(j, '}');
  if (no_energy(b)) cli_json_text(j, "energy", qn_str_from(no_energy(b)));
}

static void put_prefills(cli_json *j, const bench *b) {
  cli_json_begin(j, b->embeds ? "texts" : "prefills", '[');
  for (size_t i = 0; i < b->prefills.count; i++) {
    cli_json_begin(j, NULL, '{');
    put_prefill(j, &b->prefills.items[i]);
    cli_json_end(j, '}');
  }
  cli_json_end(j, ']');
}

void bench_put_json(const bench *b, qn_buf *out) {
  cli_json j = {.out = out};
  cli_json_begin(&j, NULL, '{');
  cli_json_text(&j, "quern", qn_str_from(quern_version()));
  cli_json_text(&j, "model", qn_str_from(quern_model_name(b->model)));
  cli_json_text(&j, "target", qn_str_from(quern_model_target(b->model)));
  cli_device_put(&j, b->model);
  cli_json_text(&j, "clock", qn_str_from(b->options->clock ? b->options->clock : "wall"));
  put_summary(&j, b, "numeric_mode");
  put_summary(&j, b, "kv_type");
  cli_json_int(&j, "weight_bytes", (int64_t)quern_model_weight_bytes(b->model));
  cli_json_int(&j, "kv_bytes", (int64_t)b->kv_bytes);
  cli_json_begin(&j, "machine", '{');
  put_rates(&j, b, main_machine(b));
  cli_json_end(&j, '}');
  if (b->embeds) {
    cli_json_begin(&j, "text", '{');
    put_prefill(&j, main_prefill(b));
    cli_json_end(&j, '}');
  } else {
    put_main(&j, b);
  }
  cli_json_begin(&j, "machines", '[');
  for (size_t i = 0; i < b->machines.count; i++) {
    cli_json_begin(&j, NULL, '{');
    put_rates(&j, b, &b->machines.items[i]);
    cli_json_end(&j, '}');
  }
  cli_json_end(&j, ']');
  put_prefills(&j, b);
  if (!b->embeds) cli_json_begin(&j, "decodes", '[');
  for (size_t i = 0; i < b->decodes.count; i++) {
    cli_json_begin(&j, NULL, '{');
    put_decode(&j, &b->decodes.items[i]);
    cli_json_end(&j, '}');
  }
  if (!b->embeds) cli_json_end(&j, ']');
  if (b->speculation.wanted) cli_json_begin(&j, "guesses", '[');
  for (size_t i = 0; i < b->guesses.count; i++) {
    cli_json_begin(&j, NULL, '{');
    put_guess(&j, b, &b->guesses.items[i]);
    cli_json_end(&j, '}');
  }
  if (b->speculation.wanted) cli_json_end(&j, ']');
  cli_json_end(&j, '}');
  qn_buf_putc(out, '\n');
}
