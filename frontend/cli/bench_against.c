// quern bench --against: two artifacts in one process that take turns, prompt by prompt and a few steps at a time, so that
// whatever else the machine does falls on both. What counts is the ratio of neighbouring turns, not their times.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/cli/bench.h"
#include "frontend/cli/json.h"
#include "frontend/cli/run_open.h"


typedef struct side {
  quern_model *model;  // owned; of the first side the bench's
  char *artifact;      // owned; likewise
  bench_round round;   // whose session is owned
} side;

// Turns of one kind.
typedef struct contest {
  int64_t prompt, depth, batch;  // tokens of a prompt; or 0, and what decoding begins with
  bench_samples seconds[2];      // a token's, one a turn: FILE's, the other's
  bench_samples ratios;          // the other's time over FILE's
} contest;
typedef QN_VEC(contest) contests;

// The median, and between which values it lies with a confidence of 95 % (order statistics).
typedef struct middle {
  double value, low, high;
} middle;

static middle middle_of(const bench_samples *samples) {
  middle m = {.value = bench_median(samples)};  // sorts them
  double n = (double)samples->count, off = 0.98 * sqrt(n);
  double low = floor(0.5 * n - off), high = ceil(0.5 * n + off);
  m.low = samples->items[low > 0 ? (size_t)low : 0];
  m.high = samples->items[high < n ? (size_t)high : samples->count - 1];
  return m;
}

static int fail_nomem(void) { return cli_fail(QN_ERR_NOMEM, "bench", "out of memory for measurements"); }

// --- turns

// Steps of a turn: few enough that both sides meet the same machine.
static int64_t turn_steps(const bench *b) {
  enum { MOST = 8 };
  return b->options->generate < MOST ? (int64_t)b->options->generate : MOST;
}

static int take_prompt(side *s, const contest *c, double *out_seconds) {
  bench_prefill p = {.tokens = c->prompt};
  int code = bench_prompt(&s->round, &p);
  if (code == 0) *out_seconds = p.ttft.items[0] / (double)c->prompt;
  qn_vec_free(s->round.b->allocator, &p.ttft);
  qn_vec_free(s->round.b->allocator, &p.mfu);
  return code;
}

static int take_steps(side *s, const contest *c, double *out_seconds) {
  bench_decode d = {.depth = c->depth, .batch = c->batch};
  double seconds = 0;
  if (!bench_step(s->round.b, "decoding")) return QN_ERR_CANCELLED;
  int code = bench_plan_batch(s->model, c->batch, &d.one_sequence);
  s->round.threads = s->round.decode_threads;
  if (code == 0) code = bench_decode_together(&s->round, &d, turn_steps(s->round.b), &seconds);
  s->round.threads = s->round.prompt_threads;
  *out_seconds = seconds / (double)(turn_steps(s->round.b) * c->batch);
  qn_vec_free(s->round.b->allocator, &d.step);
  return code;
}

// One turn of each; who begins changes from pair to pair.
static int take_pair(bench *b, side sides[2], contest *c, size_t pair) {
  double seconds[2] = {0};
  for (int i = 0; i < 2; i++) {
    int which = pair % 2 ? 1 - i : i;
    int code = c->prompt ? take_prompt(&sides[which], c, &seconds[which]) : take_steps(&sides[which], c, &seconds[which]);
    if (code != 0) return code;
  }
  bool kept = qn_vec_push(b->allocator, &c->seconds[0], seconds[0]) &&
              qn_vec_push(b->allocator, &c->seconds[1], seconds[1]) &&
              qn_vec_push(b->allocator, &c->ratios, seconds[1] / seconds[0]);
  return kept ? 0 : fail_nomem();
}

// --- the plan

static uint64_t pairs_of(const bench *b, const contest *c) {
  uint64_t steps = (uint64_t)turn_steps(b), turns = (b->options->generate + steps - 1) / steps;
  return c->prompt ? b->options->reps : b->options->reps * turns;
}

static int plan(bench *b, contests *out) {
  bool kept = true;
  for (size_t i = 0; kept && i < b->prompts.count; i++) {
    kept = qn_vec_push(b->allocator, out, (contest){.prompt = b->prompts.items[i]});
  }
  for (size_t i = 0; i < b->depths.count; i++) {
    for (size_t j = 0; kept && j < b->batches.count; j++) {
      contest c = {.depth = b->depths.items[i], .batch = b->batches.items[j]};
      kept = qn_vec_push(b->allocator, out, c);
    }
  }
  for (size_t i = 0; kept && i < out->count; i++) b->total += 2 * pairs_of(b, &out->items[i]);
  return kept ? 0 : fail_nomem();
}

static int take_all(bench *b, side sides[2], contests *all) {
  int code = 0;
  uint64_t most = 0;
  for (size_t i = 0; i < all->count; i++) most = pairs_of(b, &all->items[i]) > most ? pairs_of(b, &all->items[i]) : most;
  for (uint64_t pair = 0; code == 0 && pair < most; pair++) {
    for (size_t i = 0; code == 0 && i < all->count; i++) {
      if (pair < pairs_of(b, &all->items[i])) code = take_pair(b, sides, &all->items[i], (size_t)pair);
    }
  }
  return code;
}

// --- the sides

static int open_side(bench *b, side *s) {
  quern_session_options how = {.size = sizeof how, .context = b->context};
  s->round = (bench_round){.b = b, .vocab = quern_model_vocab_size(s->model)};
  s->round.cpu_time = b->options->clock && strcmp(b->options->clock, "cpu") == 0;
  cli_settings_apply(&b->settings, &how);
  int threads = (int)b->threads.items[b->threads.count - 1];
  if (threads > 0) how.threads = threads;
  how.sequences = 1;
  for (size_t i = 0; i < b->batches.count; i++) {
    bool one = false;
    int code = bench_plan_batch(s->model, b->batches.items[i], &one);
    if (code != 0) return code;
    if (!one && b->batches.items[i] > how.sequences) how.sequences = (int32_t)b->batches.items[i];
  }
  int code = (int)quern_session_create(s->model, &how, &s->round.session, &s->round.error);
  if (code != 0) return cli_fail_with(code, &s->round.error);
  quern_session_info info = {.size = sizeof info};
  quern_session_get_info(s->round.session, &info, NULL);
  s->round.threads = s->round.prompt_threads = info.threads;
  s->round.decode_threads = info.decode_threads;
  return bench_warm_up(&s->round);
}

static int open_other(bench *b, side *s) {
  run_source source = {.path = b->options->against,
                       .target = b->options->target,
                       .huge_pages = b->settings.huge_pages,
                       .device = b->device,
                       .signed_by = b->options->signed_by,
                       .quiet = b->options->common.quiet,
                       .out_artifact = &s->artifact};
  if (!quern_is_artifact(source.path)) {
    return cli_fail(QN_ERR_FORMAT, source.path, "is no artifact, which --against wants; compile it (quern compile)");
  }
  int code = run_open(&source, &s->model);
  if (code != 0) return code;
  if (quern_model_vocab_size(s->model) != quern_model_vocab_size(b->model)) {
    return cli_fail(QN_ERR_ARGUMENT, source.path, "has %d tokens in its vocabulary, want %d as %s has; compare one model",
                    quern_model_vocab_size(s->model), quern_model_vocab_size(b->model), b->artifact);
  }
  int64_t most = quern_model_context_max(s->model);
  return most == 0 || b->context <= most
             ? 0
             : cli_fail(QN_ERR_LIMIT, source.path, "got prompts and depths for a context of %lld tokens, want at most %lld",
                        (long long)b->context, (long long)most);
}

// --- what came of it

static double tokens_per_s(const bench_samples *seconds) { return 1 / bench_median(seconds); }

static void print_contests(const bench *b, const side *own, const contests *all) {
  printf("%s, %s, threads: %d for prompts, %d for decoding; turns with %s\n\n", quern_model_name(b->model),
         quern_model_target(b->model), own->round.prompt_threads, own->round.decode_threads, b->options->against);
  printf("%9s %7s %6s %6s %12s %12s %10s %17s\n", "prompt", "depth", "batch", "pairs", "tokens/s", "the other's",
         "ratio", "95 % of medians");
  for (size_t i = 0; i < all->count; i++) {
    const contest *c = &all->items[i];
    char prompt[24] = "-", depth[24] = "-", batch[24] = "-";
    middle m = middle_of(&c->ratios);
    if (c->prompt) snprintf(prompt, sizeof prompt, "%lld", (long long)c->prompt);
    if (!c->prompt) snprintf(depth, sizeof depth, "%lld", (long long)c->depth);
    if (!c->prompt) snprintf(batch, sizeof batch, "%lld", (long long)c->batch);
    printf("%9s %7s %6s %6zu %12.1f %12.1f %10.3f     %.3f to %.3f\n", prompt, depth, batch, c->ratios.count,
           tokens_per_s(&c->seconds[0]), tokens_per_s(&c->seconds[1]), m.value, m.low, m.high);
  }
  printf("ratio: how many times as fast this one is as the other, by neighbouring turns\n");
  fflush(stdout);
}

static void put_json(const bench *b, const contests *all, qn_buf *out) {
  cli_json j = {.out = out};
  cli_json_begin(&j, NULL, '{');
  cli_json_text(&j, "quern", qn_str_from(quern_version()));
  cli_json_text(&j, "artifact", qn_str_from(b->artifact));
  cli_json_text(&j, "against", qn_str_from(b->options->against));
  cli_json_text(&j, "target", qn_str_from(quern_model_target(b->model)));
  cli_json_begin(&j, "turns", '[');
  for (size_t i = 0; i < all->count; i++) {
    const contest *c = &all->items[i];
    middle m = middle_of(&c->ratios);
    cli_json_begin(&j, NULL, '{');
    if (c->prompt) cli_json_int(&j, "prompt", c->prompt);
    if (!c->prompt) cli_json_int(&j, "depth", c->depth);
    if (!c->prompt) cli_json_int(&j, "batch", c->batch);
    cli_json_int(&j, "pairs", (int64_t)c->ratios.count);
    cli_json_real(&j, "tokens_per_s", tokens_per_s(&c->seconds[0]));
    cli_json_real(&j, "against_tokens_per_s", tokens_per_s(&c->seconds[1]));
    cli_json_precise(&j, "ratio", m.value);
    cli_json_precise(&j, "ratio_low", m.low);
    cli_json_precise(&j, "ratio_high", m.high);
    cli_json_end(&j, '}');
  }
  cli_json_end(&j, ']');
  cli_json_end(&j, '}');
  qn_buf_putc(out, '\n');
}

static int tell(const bench *b, const side *own, const contests *all) {
  const char *json = b->options->json_path;
  if (!json || strcmp(json, "-") != 0) print_contests(b, own, all);
  if (!json) return cli_out_end();
  qn_buf text;
  qn_buf_init(&text, b->allocator);
  put_json(b, all, &text);
  int code = cli_json_save(&text, json, "--json");
  qn_buf_deinit(&text);
  return code;
}

int bench_against(bench *b) {
  side sides[2] = {{.model = b->model}, {0}};
  contests all = {0};
  b->has_cost = false;  // shares of the machine's speeds are not asked for
  int code = open_other(b, &sides[1]);
  for (int i = 0; code == 0 && i < 2; i++) code = open_side(b, &sides[i]);
  if (code == 0) code = plan(b, &all);
  if (code == 0) code = take_all(b, sides, &all);
  cli_progress_end(&b->progress);
  if (code == 0 && !cli_interrupted()) code = tell(b, &sides[0], &all);
  for (int i = 0; i < 2; i++) quern_session_destroy(sides[i].round.session);
  quern_model_close(sides[1].model);
  free(sides[1].artifact);
  for (size_t i = 0; i < all.count; i++) {
    qn_vec_free(b->allocator, &all.items[i].seconds[0]);
    qn_vec_free(b->allocator, &all.items[i].seconds[1]);
    qn_vec_free(b->allocator, &all.items[i].ratios);
  }
  qn_vec_free(b->allocator, &all);
  return code;
}
