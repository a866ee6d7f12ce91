// quern bench --trace: requests that arrive over time, replayed on the scheduler; what each got, and what that is in all.
#ifndef QUERN_CLI_BENCH_TRACE_H
#define QUERN_CLI_BENCH_TRACE_H

#include "frontend/cli/bench.h"

#define TRACE_RATES_MAX 16

// One line of a trace: when it comes, and how long its prompt and its answer are.
typedef struct trace_request {
  double at;                      // seconds from the beginning
  int64_t prompt, output;         // tokens; prompt includes the prefix
  int64_t prefix, prefix_tokens;  // the first so many tokens are those of every request with that prefix
  bool batch;                     // not online
  uint64_t client;
} trace_request;

typedef struct trace {
  double rate;  // requests a second; 0 = as a file has them
  QN_VEC(trace_request) requests;
} trace;

// What a request got.
typedef struct trace_outcome {
  double first, last;  // seconds from the beginning until its first and last token
  int64_t tokens, cached;
  int status;    // a quern_status
  bool ended;
} trace_outcome;

// A trace under one way of making batches.
typedef struct trace_run {
  const trace *trace;    // borrowed
  quern_batching batching;
  QN_VEC(trace_outcome) outcomes;
  double seconds;  // from the first arrival to the last end
  int64_t failed, within, generated, passes;  // within: requests that the objective holds for
  bench_samples ttft, tpot, users;            // seconds; tokens a second of a request
  quern_scheduler_stats stats;
} trace_run;

enum { TRACE_BATCHINGS = QUERN_BATCHING_STATIC + 1 };

typedef struct bench_traces {
  bench *b;              // borrowed
  double slo_ttft, slo_tpot;  // seconds; 0 = none
  quern_batching batchings[TRACE_BATCHINGS];
  size_t batching_count;
  trace traces[TRACE_RATES_MAX];
  size_t count;
  int64_t longest;  // tokens of the longest request
  QN_VEC(trace_run) runs;
  quern_session_info session;
} bench_traces;

// Reads --trace, --slo and what goes with them. An exit code after a message.
int bench_trace_read(bench_traces *t);
// Replays every trace with every way of --batching: t->runs.
int bench_trace_measure(bench_traces *t);
void bench_trace_free(bench_traces *t);

// Did the request get what --slo promises?
bool bench_trace_within(const bench_traces *t, const trace_request *request, const trace_outcome *outcome);
const char *bench_trace_batching(quern_batching batching);  // "continuous"
double bench_trace_tpot(const trace_outcome *outcome);  // 0 for fewer than two tokens
double bench_trace_accepted(const trace_run *run);  // share of the guesses that came true
double bench_trace_per_pass(const trace_run *run);  // tokens that a step gave a request, over all steps that gave it any

void bench_trace_print(const bench_traces *t);
void bench_trace_put_json(const bench_traces *t, qn_buf *out);
// One page with plots that needs nothing else.
void bench_trace_put_html(const bench_traces *t, qn_buf *out);

#endif
