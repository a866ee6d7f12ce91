// Many requests on one decoder: who is evaluated in which step, who gets pages, who waits. A request's tokens are those
// that qn_generate gives for it alone, whatever else is there; the scheduler decides only when they come.
#ifndef QN_RUNTIME_SCHEDULER_H
#define QN_RUNTIME_SCHEDULER_H

#include "runtime/generate.h"

typedef struct qn_scheduler qn_scheduler;

typedef enum qn_batching {
  QN_BATCHING_CONTINUOUS,  // who waits gets the row of whoever has ended
  QN_BATCHING_DYNAMIC,     // a batch begins when it is full or has waited long enough, and takes nobody in until it ends
  QN_BATCHING_STATIC,      // a batch begins with whoever waits then, and takes nobody in until it ends
  QN_BATCHING_COUNT
} qn_batching;

typedef enum qn_preemption {
  QN_PREEMPT_RECOMPUTE,  // what a request had in the cache is evaluated again
  QN_PREEMPT_SWAP,       // it is kept as bytes, in memory or in a file, and put back
  QN_PREEMPT_COUNT
} qn_preemption;

typedef enum qn_priority { QN_PRIORITY_ONLINE, QN_PRIORITY_BATCH, QN_PRIORITY_COUNT } qn_priority;

// Nanoseconds from some beginning, never backwards. Called by any thread that adds and by the one that steps.
typedef uint64_t (*qn_scheduler_clock)(void *context);

typedef struct qn_scheduler_options {
  qn_batching batching;
  qn_preemption preemption;
  const char *swap_folder;   // files go there, copied; NULL = memory
  int64_t step_tokens;       // of a step at most; 0 = the decoder's chunk
  uint64_t longest_wait_ns;  // a step in which somebody decodes takes in prompts' tokens only as far as it is expected to end
                             // within this time, but QN_SCHEDULER_LEAST_PROMPT of them; 0 = as many as there is room for
  uint64_t batch_wait_ns;    // dynamic: how long the oldest request waits for others
  uint64_t patience_ns;      // a batch request that has waited so long counts as online; 0 = never
  qn_scheduler_clock clock;  // NULL = the monotonic clock
  void *clock_context;
} qn_scheduler_options;

#define QN_SCHEDULER_LEAST_PROMPT 16  // tokens of prompts that every step takes in if there are any

// What became of a request.
typedef struct qn_request_result {
  qn_status status;
  const char *error;       // its text; "" when there was none
  qn_stop_reason reason;   // of QN_OK
  size_t stop_index;       // of QN_STOP_STRING
  const int32_t *tokens;   // generated ones, the one that ended the text included; borrowed for the time of the call
  int64_t prompt_tokens, cached_tokens, generated_tokens;  // cached: of the prompt, found in the cache
  int64_t preemptions, passes;                             // passes: steps that gave it tokens
  int64_t proposed, accepted;                              // guesses that were verified, and those that came true
  uint64_t queued_ns, first_ns, total_ns;  // since it was added: until it first had a row, until its first token, until the end
} qn_request_result;

// Makes what guesses for a request (propose.h): called by the stepping thread whenever the request is given that row of the
// block table; what it made is gone before another request has the row.
typedef struct qn_guesser {
  qn_status (*create)(void *context, int32_t row, bool judged, qn_proposer **out, qn_diag *diag);
  void *context;
  double make_cost;  // as of qn_speculate_options
  bool hidden;       // it guesses from the hidden state that a text's last token was chosen by, which the decoder must give
} qn_guesser;

// The end of a request, on the stepping thread; `id` is free again.
typedef void (*qn_request_done)(void *context, uint64_t id, const qn_request_result *result);

typedef struct qn_request_params {
  const int32_t *prompt;  // copied
  size_t prompt_count;    // at least 1
  int64_t max_tokens;     // 0 = until the context is full
  qn_sampler_options sampler;
  const qn_str *stops;  // copied
  size_t stop_count;
  bool ignore_eog, show_special;
  qn_priority priority;
  const qn_guesser *guesser;  // borrowed until it ends; NULL = nothing is guessed for it
  int32_t guesses;            // a step at most, 0 = as many as pay
  bool judged;                // qn_speculate_options.judged
  uint64_t fork_of;  // a request whose prompt begins alike, 0 = none: this one waits until that is evaluated and shares
                     // its pages. Where it has ended, or is less urgent, this one goes on by itself
  uint64_t client;  // whose it is: of equal priority, who has had least goes first
  qn_generate_callback callback;  // may be NULL
  qn_request_done done;           // may be NULL. Both may add and cancel, but not step or destroy
  void *context;
} qn_request_params;

// What happened so far. A slot is the room of one key in a page that belongs to a request.
typedef struct qn_scheduler_stats {
  int64_t running, waiting;
  int64_t added, finished, cancelled, failed;  // failed: ended with an error
  int64_t steps, prompt_tokens, decode_tokens, cached_tokens, recomputed_tokens;  // prompt: evaluated; decode: sampled
  int64_t proposed, accepted;                                // guesses
  int64_t preemptions, swapped_out, swapped_in, swaps_lost;  // lost: could not be kept or put back, and was recomputed
  uint64_t swap_bytes;                                       // written
  int64_t pages, free_pages, most_pages;                     // most: in use at a time
  uint64_t slots, slots_unused;  // summed over steps: those of pages in use; of them, those without a key
  uint64_t longest_step_ns;      // of those in which somebody decoded
  int64_t most_running;
} qn_scheduler_stats;

// `decoder` must outlive it and is its own until then: all rows empty. `tokenizer` NULL: no texts and no end of text.
// `sampled_vocab`: how many of the decoder's logits are of tokens. Errors: ARGUMENT, LIMIT, NOMEM.
QN_CHECKED qn_status qn_scheduler_create(qn_decoder *decoder, const qn_tokenizer *tokenizer, int32_t sampled_vocab,
                                         const qn_scheduler_options *options, const qn_allocator *allocator,
                                         qn_scheduler **out, qn_diag *diag);
// Requests that have not ended end with QN_STOP_CANCELLED. NULL is harmless.
void qn_scheduler_destroy(qn_scheduler *scheduler);

// By any thread. The request waits from now on. Errors: ARGUMENT (an option, a token), LIMIT (the prompt is longer than
// the context or than all pages), NOMEM.
QN_CHECKED qn_status qn_scheduler_add(qn_scheduler *scheduler, const qn_request_params *params, uint64_t *out_id,
                                      qn_diag *diag);
// By any thread: the request ends at the next step. False when there is none of that id.
bool qn_scheduler_cancel(qn_scheduler *scheduler, uint64_t id);

// One step: takes in what was added, gives rows and pages, evaluates, hands out tokens. *out_left is how many requests
// have not ended; *out_idle_ns, when nothing was evaluated, how long nothing will be unless something is added: 0 =
// something was. An error that is not of one request (a kernel that faulted, a file that lost bytes) is returned, and all
// requests are as before.
QN_CHECKED qn_status qn_scheduler_step(qn_scheduler *scheduler, size_t *out_left, uint64_t *out_idle_ns, qn_diag *diag);
#define QN_SCHEDULER_IDLE UINT64_MAX  // nothing is there at all
// Waits until a request is added or cancelled, at most so long. True when one was. By the stepping thread.
bool qn_scheduler_wait(qn_scheduler *scheduler, uint64_t most_ns);

// By the stepping thread, as all that follows.
void qn_scheduler_get_stats(const qn_scheduler *scheduler, qn_scheduler_stats *out);
// Is every page either free or held by a request of which it is known? Says what is wrong. For tests.
QN_CHECKED qn_status qn_scheduler_check(const qn_scheduler *scheduler, qn_diag *diag);

#endif
