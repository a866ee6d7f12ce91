// Replays a trace: requests are added when they arrive by the clock, which jumps over the time in which there is nothing
// to do. With --clock cpu it is the threads' time over their number, so that what others do on the machine moves nothing.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frontend/cli/bench_trace.h"

typedef struct replay {
  bench_traces *t;
  const trace *trace;
  trace_run *run;
  quern_scheduler *scheduler;  // owned
  int32_t *prompt;             // owned: room for the longest
  double skipped, begin;       // seconds
  bool cpu_time;
  int threads;
  int32_t vocab;
  quern_error error;
} replay;

typedef struct replay_request {
  replay *r;
  size_t index;
} replay_request;

static double now(const replay *r) {
  struct timespec t;
  clock_gettime(r->cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  double seconds = (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
  return seconds / (r->cpu_time ? r->threads : 1) + r->skipped - r->begin;
}

static bool note_token(void *context, const char *text, size_t length, int32_t token) {
  (void)text, (void)length;
  const replay_request *q = context;
  trace_outcome *o = &q->r->run->outcomes.items[q->index];
  if (token < 0) return true;
  o->last = now(q->r);
  if (o->tokens++ == 0) o->first = o->last;
  return !cli_interrupted();
}

static void note_end(void *context, uint64_t id, const quern_request_result *result) {
  (void)id;
  const replay_request *q = context;
  trace_outcome *o = &q->r->run->outcomes.items[q->index];
  o->status = (int)result->status;
  o->cached = result->cached_tokens;
  o->ended = true;
  q->r->run->passes += result->passes;
}

// Tokens of a prefix are those of all with it, the others the request's own.
static void make_prompt(const replay *r, size_t index) {
  const trace_request *q = &r->trace->requests.items[index];
  for (int64_t i = 0; i < q->prompt; i++) {
    uint64_t of = i < q->prefix_tokens && q->prefix > 0 ? (uint64_t)q->prefix : 1000003u + index * 7919u;
    uint64_t mixed = (of * 0x9E3779B97F4A7C15u + (uint64_t)i) * 0xBF58476D1CE4E5B9u;
    r->prompt[i] = (int32_t)((mixed >> 33) % (uint64_t)r->vocab);
  }
}

static int add(replay *r, replay_request *q) {
  static const quern_sampler_options greedy = {.size = sizeof greedy, .top_p = 1, .repeat_penalty = 1};
  const cli_speculation *speculation = &r->t->b->speculation;
  quern_speculator_options guesses = cli_speculation_options(speculation);
  const trace_request *from = &r->trace->requests.items[q->index];
  make_prompt(r, q->index);
  quern_request request = {.size = sizeof request,
                           .prompt = r->prompt,
                           .prompt_count = (size_t)from->prompt,
                           .max_tokens = from->output,
                           .sampler = &greedy,
                           .ignore_eog = true,
                           .priority = from->batch ? QUERN_PRIORITY_BATCH : QUERN_PRIORITY_ONLINE,
                           .client = from->client,
                           .speculator = speculation->wanted ? &guesses : NULL,
                           .callback = note_token,
                           .done = note_end,
                           .callback_context = q};
  int code = (int)quern_scheduler_add(r->scheduler, &request, NULL, &r->error);
  if (code != QN_ERR_LIMIT) return code;
  trace_outcome *o = &r->run->outcomes.items[q->index];  // longer than all pages: this request's error alone
  o->status = code;
  o->ended = true;
  return 0;
}

// A batch that is not full yet waits by the scheduler's clock, which cannot be skipped: for `most_us`, or until the next
// request comes.
static void wait_for_batch(replay *r, double until_us, int64_t most_us) {
  int64_t us = until_us < (double)most_us ? (int64_t)until_us : most_us;
  if (us <= 0) return;
  quern_scheduler_wait(r->scheduler, us);
  if (r->cpu_time) r->skipped += (double)us * 1e-6;
}

static int replay_all(replay *r, replay_request *requests) {
  size_t added = 0, left = 0, count = r->trace->requests.count;
  int64_t idle = 0;
  r->begin = now(r);
  while (added < count || left > 0) {
    const trace_request *upcoming = &r->trace->requests.items[added];
    if (cli_interrupted()) return QN_ERR_CANCELLED;
    double until = added < count ? upcoming->at - now(r) : 0;
    if (idle == INT64_MAX && until > 0) r->skipped += until;  // nothing happens before the next one comes
    if (idle > 0 && idle < INT64_MAX) wait_for_batch(r, added < count ? until * 1e6 : (double)idle, idle);
    for (; added < count && r->trace->requests.items[added].at <= now(r); added++) {
      requests[added] = (replay_request){r, added};
      int code = add(r, &requests[added]);
      if (code != 0) return code;
    }
    int code = (int)quern_scheduler_step(r->scheduler, &left, &idle, &r->error);
    if (code != 0) return code;
    if (added > 0 && !cli_progress_step(&r->t->b->progress, "replaying", (uint64_t)(added - left), (uint64_t)count))
      return QN_ERR_CANCELLED;
  }
  r->run->seconds = now(r) - r->trace->requests.items[0].at;
  return 0;
}

static int take_samples(replay *r) {
  bench_traces *t = r->t;
  trace_run *run = r->run;
  const qn_allocator *allocator = t->b->allocator;
  bool kept = true;
  for (size_t i = 0; kept && i < run->outcomes.count; i++) {
    const trace_outcome *o = &run->outcomes.items[i];
    const trace_request *q = &r->trace->requests.items[i];
    run->failed += o->status != 0;
    run->within += bench_trace_within(t, q, o);
    run->generated += o->tokens;
    if (o->status != 0 || o->tokens == 0) continue;
    kept = qn_vec_push(allocator, &run->ttft, o->first - q->at);
    if (kept && o->tokens > 1) {
      kept = qn_vec_push(allocator, &run->tpot, bench_trace_tpot(o)) &&
             qn_vec_push(allocator, &run->users, 1 / bench_trace_tpot(o));
    }
  }
  return kept ? 0 : cli_fail(QN_ERR_NOMEM, "bench", "out of memory for measurements");
}

static int open_scheduler(replay *r) {
  bench *b = r->t->b;
  const bench_options *o = b->options;
  quern_session_options session = {.size = sizeof session,
                                   .context = r->t->longest,
                                   .pages = (int64_t)o->pages,
                                   .prefix_cache = o->prefix_cache,
                                   .kv_evict = o->kv_evict,
                                   .kv_keep = (int64_t)o->kv_keep,
                                   .sequences = (int32_t)bench_largest(&b->batches)};
  cli_settings_apply(&b->settings, &session);
  int64_t most = quern_model_context_max(b->model);
  if (most > 0 && session.context > most) session.context = most;
  if (o->threads) session.threads = (int)b->threads.items[b->threads.count - 1];
  quern_scheduler_options options = {.size = sizeof options,
                                     .session = &session,
                                     .batching = r->run->batching,
                                     .preemption = o->preempt && strcmp(o->preempt, "swap") == 0 ? QUERN_PREEMPT_SWAP
                                                                                                 : QUERN_PREEMPT_RECOMPUTE,
                                     .longest_wait_us = (int64_t)(o->longest_wait * 1000),
                                     .batch_wait_us = (int64_t)(o->batch_wait * 1000)};
  cli_speculation_join(&b->speculation, &options);
  int code = (int)quern_scheduler_create(b->model, &options, &r->scheduler, &r->error);
  if (code != 0) return code;
  r->t->session.size = sizeof r->t->session;
  quern_session_get_info(quern_scheduler_session(r->scheduler), &r->t->session, NULL);
  r->threads = r->t->session.threads;
  return 0;
}

static int replay_one(bench_traces *t, const trace *of, quern_batching batching) {
  bench *b = t->b;
  trace_run run = {.trace = of, .batching = batching, .stats.size = sizeof run.stats};
  replay r = {.t = t, .trace = of, .run = &run, .vocab = quern_model_vocab_size(b->model)};
  r.cpu_time = b->options->clock && strcmp(b->options->clock, "cpu") == 0;
  size_t count = of->requests.count;
  replay_request *requests = calloc(count, sizeof *requests);
  r.prompt = calloc((size_t)t->longest, sizeof *r.prompt);
  bool kept = requests && r.prompt;
  for (size_t i = 0; kept && i < count; i++) kept = qn_vec_push(b->allocator, &run.outcomes, ((trace_outcome){0}));
  int code = kept ? open_scheduler(&r) : cli_fail(QN_ERR_NOMEM, "--trace", "out of memory for requests");
  if (code == 0) code = replay_all(&r, requests);
  if (code == 0) code = (int)quern_scheduler_check(r.scheduler, &r.error);
  if (code == 0) quern_scheduler_get_stats(r.scheduler, &run.stats, NULL);
  if (code != 0 && code == r.error.code) code = cli_fail_with(code, &r.error);
  quern_scheduler_destroy(r.scheduler);
  if (code == 0) code = take_samples(&r);
  free(requests);
  free(r.prompt);
  if (!qn_vec_push(b->allocator, &t->runs, run)) {
    qn_vec_free(b->allocator, &run.outcomes);
    code = code ? code : cli_fail(QN_ERR_NOMEM, "bench", "out of memory for measurements");
  }
  return code;
}

int bench_trace_measure(bench_traces *t) {
  int code = 0;
  for (size_t i = 0; i < t->batching_count; i++) {
    for (size_t j = 0; code == 0 && j < t->count; j++) code = replay_one(t, &t->traces[j], t->batchings[i]);
  }
  return code;
}
