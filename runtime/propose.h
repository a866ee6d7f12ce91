// What guesses the tokens that come next, behind one interface: a model then verifies several guesses in one step
// (speculate.h). A guess costs no text anything: what is said is what the model itself chooses.
#ifndef QN_RUNTIME_PROPOSE_H
#define QN_RUNTIME_PROPOSE_H

#include "runtime/decode.h"
#include "runtime/sampler.h"

#define QN_DRAFT_KINDS 4    // kinds of guesses that are told apart by how often they come true
#define QN_DRAFT_ROOT  (-1)  // the text's last token, which all guesses come after

// Guessed tokens: a tree, each node after its parent.
typedef struct qn_draft {
  int32_t *tokens, *parents;  // (capacity), owned by whoever made it; parents: an earlier node, or QN_DRAFT_ROOT
  int32_t count, capacity;
  int32_t kind;  // 0 .. QN_DRAFT_KINDS-1: guesses of a larger one are likelier to come true
  // (capacity): what each guess was drawn from, where it was drawn by random numbers of its own, and of how many tokens; borrowed
  // of who guesses until its next call. Count 0: nothing else could have been guessed.
  const qn_odds **odds;
  int32_t *odds_counts;
} qn_draft;

// How much may be guessed: what the step has room for, and what pays.
typedef struct qn_draft_room {
  int32_t tokens;  // guesses of all paths together, at least 1
  int32_t depth;   // guesses of a path, 1 to `tokens`
  int32_t paths;   // ends of the tree; 1 = a chain
  double least;    // what is likelier than this to come true pays for itself; 0 = everything
} qn_draft_room;

// Appends a node; there must be room. Its index.
int32_t qn_draft_add(qn_draft *draft, int32_t parent, int32_t token);
// The node after `node` that has this token; QN_DRAFT_ROOT when there is none.
int32_t qn_draft_child(const qn_draft *draft, int32_t node, int32_t token);
// How many guesses end with `node`: 0 for QN_DRAFT_ROOT.
int32_t qn_draft_depth(const qn_draft *draft, int32_t node);
// Does a guess come after the node?
bool qn_draft_goes_on(const qn_draft *draft, int32_t node);
// Has it more than one path?
bool qn_draft_branches(const qn_draft *draft);

// What a proposer sees: all of the text, its last token not yet evaluated.
typedef struct qn_propose_text {
  const int32_t *tokens;  // borrowed
  size_t count;           // at least 1
  const qn_sampler *sampler;  // that will choose the next token: its options, its history and its random numbers to come
  // What the model's last product made the logits of that the last token was chosen by: (qn_decoder_hidden_width),
  // borrowed. NULL = not known.
  const float *hidden;
} qn_propose_text;

typedef struct qn_proposer qn_proposer;

// One text's share of guesses that several proposers make together.
typedef struct qn_proposal {
  qn_proposer *proposer;  // borrowed
  qn_propose_text text;
  qn_draft_room room;
  qn_draft *out;  // empty; borrowed
  struct qn_proposal *next;
} qn_proposal;

typedef struct qn_proposer_type {
  const char *name;
  bool branches;  // makes trees where there is room for several paths
  // What kind of guess it has, if any; before propose, which then adds to an empty draft what there is room for. NULL: 0.
  int32_t (*look)(qn_proposer *self, const qn_propose_text *text);
  // A text begins whose tokens this sampler will choose; may be NULL. It takes the memory that propose then needs.
  qn_status (*begin)(qn_proposer *self, const qn_sampler *sampler, qn_diag *diag);
  qn_status (*propose)(qn_proposer *self, const qn_propose_text *text, const qn_draft_room *room, qn_draft *out,
                       qn_diag *diag);
  // The same for a list of proposers of this type that share what guesses (`shared`), which then guesses for all of them in as
  // few steps as for one. Both NULL: each guesses by itself. After an error all drafts are empty.
  qn_status (*propose_all)(const qn_proposal *first, qn_diag *diag);
  const void *(*shared)(const qn_proposer *self);
  // What became of the last draft: the guesses of the path to `node` came true; and what the model would have chosen after
  // each guess, most likely: chosen[i + 1] after node i, chosen[0] after the text (-1 = not known). May be NULL.
  void (*see)(qn_proposer *self, const qn_draft *draft, int32_t node, const int32_t *chosen);
  void (*destroy)(qn_proposer *self);
} qn_proposer_type;
// The first field of every proposer. For one sequence and one thread at a time.
struct qn_proposer {
  const qn_proposer_type *type;
};
void qn_proposer_destroy(qn_proposer *proposer);  // NULL is harmless

// Prompt lookup (Saxena 2023; Yang et al. 2023, "Inference with Reference"): what came after the longest earlier
// occurrence of the text's last tokens. NOMEM.
QN_CHECKED qn_status qn_propose_lookup_create(const qn_allocator *allocator, qn_proposer **out, qn_diag *diag);

// A draft model (Leviathan et al. 2023): a smaller one of the same vocabulary goes on with the text, with the sampler's
// own random numbers, so that both models tend to choose alike. Proposers of one decoder guess together. In trees it goes on from
// up to `ends` guesses at a time; 0 = it makes chains alone. `decoder` is borrowed; its sequence and the 2 * ends after that are
// the proposer's own, its logits at least as many as the sampler's vocabulary. Errors: ARGUMENT (it has no such sequences, or fewer rows than ends), NOMEM.
QN_CHECKED qn_status qn_propose_draft_create(qn_decoder *decoder, int32_t sequence, int32_t ends,
                                             const qn_allocator *allocator, qn_proposer **out, qn_diag *diag);
// Its guesses will be judged (qn_sampler_judge): it draws them by random numbers of its own and tells what from. Before a text
// begins.
void qn_propose_draft_judged(qn_proposer *draft);

// Medusa heads (Cai et al. 2024): a program that makes of an input `hidden`, f32 [R, width], what heads say, the outputs
// guess.0, guess.1, ... of f32 [R, vocab]; any number of proposers of one thread may share them, as many of which guess at once
// as it may have rows. Takes over the executor, also after an error; the artifact is borrowed. `width` and `vocab` are those of
// the model that is guessed for. Errors: ARGUMENT (it is no such program, it wants more than hidden states, or it is for
// another width or vocabulary), NOMEM, those of the executor.
typedef struct qn_heads qn_heads;
QN_CHECKED qn_status qn_heads_create(const qn_artifact *artifact, qn_executor *executor, int64_t width, int32_t vocab,
                                     const qn_allocator *allocator, qn_heads **out, qn_diag *diag);
void qn_heads_destroy(qn_heads *heads);  // NULL is harmless
// `heads` are borrowed. NOMEM.
QN_CHECKED qn_status qn_propose_medusa_create(qn_heads *heads, const qn_allocator *allocator, qn_proposer **out,
                                              qn_diag *diag);
// Its guesses will be judged (qn_sampler_judge): they are the likeliest tokens, whatever the sampler's random numbers, by
// which they are judged.
void qn_propose_medusa_judged(qn_proposer *medusa);

// Lookahead decoding (Fu et al. 2024): what the model itself chose after the same tokens before, in this text or another one,
// and in a window of guesses for the positions ahead, which every step evaluates, too. N-grams are borrowed; any number of
// proposers of one thread may share them. NOMEM.
typedef struct qn_ngrams qn_ngrams;
QN_CHECKED qn_status qn_ngrams_create(const qn_allocator *allocator, qn_ngrams **out, qn_diag *diag);
void qn_ngrams_destroy(qn_ngrams *ngrams);  // NULL is harmless
QN_CHECKED qn_status qn_propose_lookahead_create(qn_ngrams *ngrams, const qn_allocator *allocator, qn_proposer **out,
                                                 qn_diag *diag);

#endif
