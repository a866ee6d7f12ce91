// What the scheduler's files share: requests, their lists, and the state of a step.
#ifndef QN_RUNTIME_SCHEDULER_IMPL_H
#define QN_RUNTIME_SCHEDULER_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "runtime/base/vec.h"
#include "runtime/scheduler.h"
#include "runtime/speculate.h"
#include "runtime/text_out.h"

// Who has had how many tokens evaluated. It is there as long as it has requests.
typedef struct qn_client {
  uint64_t id;
  int64_t requests;  // under the lock
  int64_t served;    // by the stepping thread, as `taken_in`
  bool taken_in;     // has been put level with the others
} qn_client;

typedef struct qn_request qn_request;
struct qn_request {
  qn_request *previous, *next;          // in one of the scheduler's lists
  qn_request *all_previous, *all_next;  // under the lock: in the list of all
  uint64_t id;
  const qn_allocator *allocator;  // borrowed
  qn_client *client;              // borrowed of the scheduler
  // what was asked for
  qn_sampler_options sampling;
  int64_t max_tokens;
  bool ignore_eog;
  qn_priority priority;
  qn_generate_callback callback;
  qn_request_done done;
  void *context;
  void *stops;  // owned: an array of qn_str and their bytes
  size_t stops_bytes;
  // its tokens: the prompt and what was generated. All but the last have been, or are to be, evaluated
  int32_t *tokens;  // owned: (capacity)
  int64_t capacity, count, prompt_count;
  qn_sampler *sampler;  // owned; made with the first row
  qn_text_out text;
  const qn_guesser *guesser;  // borrowed; NULL = nothing is guessed
  int32_t most_guesses;       // 0 = as many as pay
  bool judged;
  qn_speculator *speculator;  // owned, as long as it has a row; NULL = nothing is guessed
  float *hidden;              // owned: (hidden_width), for who guesses from that; NULL = nobody does
  int64_t hidden_width;
  bool has_hidden;            // it is that which the last token was chosen by
  uint64_t fork_of;           // whose prompt begins alike; 0 = nobody's
  // where it is
  int32_t row;         // of the block table; -1 = none
  int64_t evaluated;   // tokens that are in the cache
  int64_t furthest;    // the most that ever were: what is evaluated before that is so again
  uint64_t turn;       // when it was given its row: larger is later
  bool urgent;         // online, or has waited for long
  _Atomic bool cancelled;
  void *kept;          // owned: its cache as bytes, while it waits
  size_t kept_bytes;
  char *kept_path;     // owned: or the file that they are in
  int64_t kept_tokens;  // 0 = nothing is kept
  // in this step
  int64_t step_tokens;  // 0 = it is not in it
  int64_t step_pages;   // that it takes for them
  size_t first_wanted;  // of the step's wanted rows
  bool wanted;          // the logits after its last token are
  bool asked;             // its guesses are chosen, and to be made
  const qn_draft *draft;  // guesses after its last token, whose logits are wanted, too; borrowed of the speculator
  int64_t guesses;        // how many of the step's tokens those are
  // what is told at the end
  uint64_t added_ns;
  qn_request_result result;
};

typedef struct qn_request_list {
  qn_request *first, *last;
  size_t count;
} qn_request_list;

void qn_request_list_append(qn_request_list *list, qn_request *request);
void qn_request_list_remove(qn_request_list *list, qn_request *request);

// How long steps of so many tokens take: a line through the last ones, older ones count less.
typedef struct qn_pace {
  double weight, tokens, time, tokens_squared, tokens_time;
} qn_pace;

// What a token more costs; 0 where it is not known, since all steps had about as many.
double qn_pace_slope(const qn_pace *p);

struct qn_scheduler {
  qn_decoder *decoder;            // borrowed
  const qn_tokenizer *tokenizer;  // borrowed; NULL = none
  const qn_allocator *allocator;  // borrowed
  qn_scheduler_options options;   // swap_folder owned
  int32_t vocab;                  // tokens that may be sampled
  int64_t page_keys, most_tokens;  // most: that a sequence may hold, by context and by pages
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool has_lock, has_changed;
  // under the lock
  qn_request *all;
  qn_request_list incoming;
  uint64_t next_id;
  bool woken;
  QN_VEC(qn_client *) clients;  // each owned
  // by the stepping thread
  qn_request_list waiting, running;
  qn_request **rows;        // owned: who has which row (sequences)
  qn_request **order;       // owned: the step's (sequences)
  qn_decoder_item *items;   // owned: (step_tokens)
  qn_decoder_tree *trees;   // owned: the step's (sequences)
  qn_speculator **asked;    // owned: who guesses together (sequences)
  size_t item_count, wanted_count, tree_count;
  int64_t planned_pages;    // that the step will take
  bool decodes;             // somebody decodes in this step
  int64_t decoding;         // how many do
  bool forked;              // requests may share pages
  bool batch_closed;        // static, dynamic: nobody is taken in until all have ended
  uint64_t turns;
  qn_pace pace;
  qn_scheduler_stats stats;
};

uint64_t qn_scheduler_now(const qn_scheduler *s);
int64_t qn_scheduler_pages_of(const qn_scheduler *s, int64_t tokens);
// Keys of a request that has a row: of its evaluated tokens, but for those that were given up.
int64_t qn_scheduler_keys(const qn_scheduler *s, const qn_request *r);
// The most that a sequence of so many tokens ever holds; what evaluating more of one takes of the free ones, beside those
// that it gives back.
int64_t qn_scheduler_most_pages(const qn_scheduler *s, int64_t tokens);
int64_t qn_scheduler_more_pages(const qn_scheduler *s, const qn_request *r, int64_t tokens);
// What one that runs will take for tokens that it has already: pages it does not hold, and copies of those that others have,
// too, where it gives keys up by then.
int64_t qn_scheduler_promised_pages(const qn_scheduler *s, const qn_request *r);
int64_t qn_scheduler_free_pages(const qn_scheduler *s);
bool qn_scheduler_runs(const qn_request *r);  // has it a row?
int64_t qn_scheduler_tokens_left(const qn_request *r);  // to be evaluated; 1 = it decodes
size_t qn_scheduler_left(qn_scheduler *s);  // requests that have not ended

// --- scheduler_request.c

QN_CHECKED qn_status qn_request_create(const qn_scheduler *s, const qn_request_params *params, qn_request **out,
                                       qn_diag *diag);
void qn_request_destroy(qn_request *request);  // NULL is harmless
// Samples from the logits, which are those after the text or after a guess (`node`), hands out the text; *out_end when the
// request ends with it. Errors: those of the request.
QN_CHECKED qn_status qn_request_take(qn_scheduler *s, qn_request *r, const float *logits, int32_t node, bool *out_end,
                                     qn_diag *diag);
// The text that was held back; for those that end by themselves.
void qn_request_finish_text(qn_request *r);
// Ends it: whatever it holds is given back, `done` is called, it is gone. `diag` NULL: without an error.
void qn_request_end(qn_scheduler *s, qn_request *r, const qn_diag *diag);

// --- scheduler_guess.c

// Guesses for those of the step (`count` in its order) that decode, as far as tokens and rows (`room`) and pages are left;
// nobody is preempted for them. Gives how many.
int64_t qn_scheduler_plan_guesses(qn_scheduler *s, size_t count, int64_t room);
// Takes the tokens that the step has made certain: the one after its last one, and those after guesses as long as they come
// true. *out_end, and errors, as of qn_request_take.
QN_CHECKED qn_status qn_scheduler_take_tokens(qn_scheduler *s, qn_request *r, bool *out_end, qn_diag *diag);

// --- scheduler_admit.c

// Takes requests into the waiting list, those that were cancelled out of everywhere.
void qn_scheduler_take_in(qn_scheduler *s);
// Gives rows to whoever may have one.
void qn_scheduler_admit(qn_scheduler *s);
// Pages for that many more tokens of a running request, beside those that the step takes already: others lose theirs if
// it must be. False when it is `r` itself that has lost its row, or ended.
bool qn_scheduler_make_room(qn_scheduler *s, qn_request *r, int64_t tokens);
// How long nothing will be admitted unless something is added.
uint64_t qn_scheduler_idle_ns(const qn_scheduler *s);
// Drops what is kept of a request.
void qn_scheduler_drop_kept(qn_request *r);

#endif
