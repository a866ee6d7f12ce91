// What `quern bench` measures and prints: the plan, the samples, and the parts that take and tell them.
#ifndef QUERN_CLI_BENCH_H
#define QUERN_CLI_BENCH_H

#include "frontend/cli/cli.h"
#include "frontend/cli/device.h"
#include "frontend/cli/progress.h"
#include "frontend/cli/settings.h"
#include "frontend/cli/speculate.h"
#include "runtime/base/vec.h"

#define BENCH_LIST_MAX 16

typedef struct bench_options {
  cli_common common;
  const char *json_path, *threads, *prompts, *depths, *batches, *target, *numeric, *quant, *kv_type, *kv_evict,
      *template_path, *clock, *huge_pages, *spin, *tuning_db, *against, *device, *libcuda, *signed_by;
  const char *trace, *slo, *batching, *outputs, *preempt, *html_path, *speculate, *draft_tokens;
  uint64_t generate, reps, context, kv_keep, decode_threads, grain, requests, seed, shared_prefix, pages, longest_wait,
      batch_wait;
  bool pin, no_pin, prefix_cache;
} bench_options;

// "1,2,4" of an option.
typedef struct bench_list {
  int64_t items[BENCH_LIST_MAX];
  size_t count;
} bench_list;

// Numbers of which the median or a percentile is told.
typedef QN_VEC(double) bench_samples;
// The value below which `part` (0 to 1) of the samples lie; 0 when there are none. Sorts them.
double bench_percentile(const bench_samples *samples, double part);
double bench_median(const bench_samples *samples);
double bench_mean(const bench_samples *samples);

// The speeds of the machine with some number of threads, or of the GPU: all but small pages.
typedef struct bench_machine {
  int threads;  // 0 on a GPU
  bench_samples rates[QUERN_RATE_NARROW + 1];
  bench_samples f16;  // a GPU's tensor cores on 16-bit floats, operations a second
} bench_machine;

// Evaluating a prompt; of a model with an encoder, what that reads, and the first token. Of an encoder alone (BERT and its
// like) a step: so many texts, of so many tokens each.
typedef struct bench_prefill {
  int threads;
  int64_t tokens, texts;  // texts: 0 = no encoder alone
  bench_samples ttft;  // seconds until the first token is sampled, or all embeddings are there
  bench_samples mfu;   // share of that which the peaks would take
} bench_prefill;

// Decoding: one token of each of `batch` sequences a step, or `batch` tokens of one sequence where the artifact has no
// room for several.
typedef struct bench_decode {
  int threads;
  int64_t depth, batch;
  bool one_sequence;
  bench_samples step;      // seconds from token to token
  bench_samples mbu, mfu;  // one a repetition
  bench_samples joules;    // a token, one a repetition; none where the machine does not tell
  double outside;          // share of the step's time outside kernels on the first thread; negative = not measured
} bench_decode;

// Decoding one sequence with guesses, in turns with decoding it without.
typedef struct bench_guess {
  int threads;
  int64_t depth;
  bench_samples plain, guessed;  // seconds from token to token, one a repetition
  int64_t tokens, passes;        // evaluated, and the steps that took, with guesses
  int64_t proposed, accepted;
} bench_guess;

typedef struct bench {
  const bench_options *options;
  const qn_allocator *allocator;
  const char *artifact;    // borrowed: the file
  quern_model *model;      // owned
  quern_machine *machine;  // owned; NULL on a GPU
  cli_device device;
  quern_error no_peaks;  // why a GPU's peaks are not known; no text = they are
  bool embeds;   // an encoder alone: prompts are texts, and nothing is decoded
  bool sourced;  // with an encoder: a prompt is what that reads, and decoding looks at the last of them
  bool has_cost;
  quern_model_cost cost;
  bench_list threads, prompts, depths, batches;
  int64_t context;  // of the sessions: for the longest of all
  cli_speculation speculation;
  cli_settings settings;
  cli_progress progress;
  QN_VEC(bench_machine) machines;
  QN_VEC(bench_prefill) prefills;
  QN_VEC(bench_decode) decodes;
  QN_VEC(bench_guess) guesses;  // one a depth, with --speculate
  bench_samples load, start;  // seconds, each of a process of its own
  uint64_t rss_bytes, kv_bytes;
  uint64_t done, total;  // measurements
} bench;

// What one round with one number of threads works with.
typedef struct bench_round {
  bench *b;
  quern_session *session;        // borrowed
  quern_speculator *speculator;  // borrowed; NULL without --speculate
  int threads;             // that compute now
  int prompt_threads, decode_threads;
  bool cpu_time;
  double rates[QUERN_RATE_NARROW + 1];  // of the machine, now
  double f16_ops_per_s;                 // of a GPU; 0 = not known
  int32_t vocab;
  quern_error error;
} bench_round;

// Numbers with commas between them into a list; `name` is the option's. An exit code after a message.
int bench_read_list(const char *name, const char *text, uint64_t least, uint64_t most, bench_list *out);
int64_t bench_largest(const bench_list *list);
// One measurement more is done; false when a signal has asked to end.
bool bench_step(bench *b, const char *stage);
// Takes all samples in the lists above. An exit code after a message.
int bench_measure(bench *b);
// All of --against: another artifact in turns with this one, and what came of it printed or written.
int bench_against(bench *b);
// Parts that both have. Memory is touched for the first time, and threads are awake.
int bench_warm_up(bench_round *r);
// Evaluates a prompt up to its first token: a sample of p->ttft, and of p->mfu where costs are known.
int bench_prompt(bench_round *r, bench_prefill *p);
// A step of an encoder alone: the same of p->texts texts.
int bench_texts(bench_round *r, bench_prefill *p);
// `steps` steps of `batch` tokens after one that warms up, without sampling: samples of d->step, and their sum.
int bench_decode_together(bench_round *r, bench_decode *d, int64_t steps, double *out_seconds);
// Whether a step of so many tokens is of one sequence; an error where the artifact has no room for it.
int bench_plan_batch(const quern_model *model, int64_t batch, bool *out_one_sequence);
// Runs `quern run` on the artifact in processes of their own: load, start, rss_bytes.
int bench_measure_start(bench *b);
// Energy counters of the processor packages; false where there are none to read.
bool bench_joules(double *out);

void bench_print(const bench *b);
// The JSON object with a newline after it.
void bench_put_json(const bench *b, qn_buf *out);

#endif
