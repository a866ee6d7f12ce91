// Several tokens from one step: a proposer guesses what comes next, the model evaluates the guesses together with the
// text's last token, and as many are kept as the sampler chooses from the model's own logits. So the text is that of plain
// decoding, bit for bit, at any temperature; only the number of steps is another one.
#ifndef QN_RUNTIME_SPECULATE_H
#define QN_RUNTIME_SPECULATE_H

#include "runtime/propose.h"

// One sequence's guesses, and how well they did. For one thread at a time.
typedef struct qn_speculator qn_speculator;

typedef struct qn_speculate_options {
  int32_t tokens;    // guesses a step: always as many as there can be up to this. 0 = as many as pay, by what came true
  int32_t most;      // with tokens 0: at most; 0 = QN_SPECULATE_MOST
  int64_t text_max;  // tokens of a text; what is longer is guessed from its end
  double make_cost;  // what it takes to make a guess, in steps of the model, as far as that is known; 0 = not known
  bool judged;       // guesses are taken by the rejection scheme (qn_sampler_judge): chains alone, other texts
} qn_speculate_options;

#define QN_SPECULATE_MOST 7  // with the text's last token a step of 8

typedef struct qn_speculate_stats {
  int64_t steps;     // that verified at least one guess
  int64_t proposed;  // guesses of the deepest paths
  int64_t accepted;  // of them
} qn_speculate_stats;

// Takes over `proposer`, also after an error. Errors: ARGUMENT, NOMEM.
QN_CHECKED qn_status qn_speculator_create(qn_proposer *proposer, const qn_speculate_options *options,
                                          const qn_allocator *allocator, qn_speculator **out, qn_diag *diag);
void qn_speculator_destroy(qn_speculator *speculator);  // NULL is harmless
const char *qn_speculator_name(const qn_speculator *speculator);  // of its technique
// The most guesses that it ever makes.
int32_t qn_speculator_most(const qn_speculator *speculator);
void qn_speculator_get_stats(const qn_speculator *speculator, qn_speculate_stats *out);

// A sequence of `position` tokens is gone on with, by what this sampler chooses. What is known of the first so many stays
// known. Takes the memory that guessing needs. NOMEM; ARGUMENT (the sampler is for more tokens than are guessed from).
QN_CHECKED qn_status qn_speculator_begin(qn_speculator *speculator, int64_t position, const qn_sampler *sampler,
                                         qn_diag *diag);
// The text goes on with these tokens, of the prompt or chosen.
void qn_speculator_take(qn_speculator *speculator, const int32_t *tokens, size_t count);
// Guesses what comes after the text, as there is room for (room->least is chosen here; tokens below 1: nothing); `hidden`
// as in qn_propose_text. *out is borrowed until the next call and may be empty. Errors: those of the proposer; then nothing
// is guessed.
QN_CHECKED qn_status qn_speculator_propose(qn_speculator *speculator, const qn_sampler *sampler, const float *hidden,
                                           const qn_draft_room *room, const qn_draft **out, qn_diag *diag);
// The same in two parts, for many texts at once. How much it would guess, room included; tokens 0: nothing. Then it waits
// for qn_speculator_make.
qn_draft_room qn_speculator_choose(qn_speculator *speculator, const qn_sampler *sampler, const float *hidden,
                                   const qn_draft_room *room);
// Do both guess by the same draft model or heads? Only such may be asked together.
bool qn_speculator_together(const qn_speculator *a, const qn_speculator *b);
// Guesses as chosen, for all of them (at least one) in as few steps as for one. After an error nothing is guessed for any.
QN_CHECKED qn_status qn_speculator_make(qn_speculator *const *all, size_t count, qn_diag *diag);
const qn_draft *qn_speculator_draft(const qn_speculator *speculator);  // borrowed until the next
// The token after the text or after a guess (`node`), from its logits: what the sampler chooses, or, where guesses are judged and
// one comes next, what comes of that. For a text whose guesses have not been noted yet. Errors: those of qn_sampler_sample.
bool qn_speculator_judged(const qn_speculator *speculator);
QN_CHECKED qn_status qn_speculator_judge(const qn_speculator *speculator, qn_sampler *sampler, const float *logits,
                                         int32_t node, int32_t *out_id, qn_diag *diag);
// After a step, before its rows are gone: some proposers learn from what the model would have chosen after every guess. The
// step's rows from `first` on are those of the text's last token and the guesses; `program`: it chose the tokens itself.
void qn_speculator_watch(qn_speculator *speculator, const qn_decoder *decoder, size_t first, bool program);
// What became of the last guesses: those of the path to `node` came true, which may be QN_DRAFT_ROOT, and no more.
void qn_speculator_note(qn_speculator *speculator, int32_t node);
// What a step took that verified so many guesses, 0 for a plain one: by this it is known how many pay.
void qn_speculator_time(qn_speculator *speculator, int32_t guesses, uint64_t time_ns);

#endif
