// A language model over an executor: tokens in, logits out, with positions, pages and chunks taken care of. What a
// program must look like for this is in runtime/README.md.
#ifndef QN_RUNTIME_DECODE_H
#define QN_RUNTIME_DECODE_H

#include "runtime/kv_prefix.h"
#include "runtime/sampler.h"

typedef struct qn_decoder qn_decoder;

typedef struct qn_decoder_options {
  int64_t context;    // tokens a sequence may hold; 0 = the program's largest, or 4096 where it has none
  int64_t chunk;      // tokens evaluated in one step; 0 = as many as the program allows
  int32_t sequences;  // 0 = 1
  int64_t pages;      // of the KV pool; 0 = enough for every sequence at its full context
  bool prefixes;      // keep what sequences held for others that begin alike
  const char *evict;  // a policy of kv_evict.h by which keys are given up; NULL = all are kept
  int64_t keep;       // with it: keys that a sequence has at most
  qn_executor_options executor;
} qn_decoder_options;

// `artifact` and `threads` (of the CPU; NULL on a GPU) must outlive it. Errors: UNSUPPORTED (the program is no language
// model: names what lacks), LIMIT, ARGUMENT, NOMEM and the executor's.
QN_CHECKED qn_status qn_decoder_create(const qn_artifact *artifact, qn_threads *threads,
                                       const qn_decoder_options *options, const qn_allocator *allocator,
                                       qn_decoder **out, qn_diag *diag);
void qn_decoder_destroy(qn_decoder *decoder);  // NULL is harmless

int32_t qn_decoder_vocab(const qn_decoder *decoder);  // token ids are below it: width of a row of logits
int64_t qn_decoder_embedding(const qn_decoder *decoder);  // numbers of an embedding; 0 = it makes logits
int64_t qn_decoder_context(const qn_decoder *decoder);
int64_t qn_decoder_chunk(const qn_decoder *decoder);
int64_t qn_decoder_rows(const qn_decoder *decoder);  // tokens of a step whose logits may be wanted
int32_t qn_decoder_sequences(const qn_decoder *decoder);
const char *qn_decoder_path(const qn_decoder *decoder);          // borrowed: the artifact's, for messages
qn_executor *qn_decoder_executor(qn_decoder *decoder);           // borrowed: target, times, profile
const qn_kv_cache *qn_decoder_cache(const qn_decoder *decoder);  // borrowed: sizes

// Sequences 0 .. sequences-1 all exist from the start, empty.
int64_t qn_decoder_position(const qn_decoder *decoder, int32_t sequence);  // tokens in its cache
void qn_decoder_reset(qn_decoder *decoder, int32_t sequence);  // its source is forgotten, too
// Forgets all but the first `length` tokens (at most the present position), or all where that is below qn_decoder_least.
void qn_decoder_truncate(qn_decoder *decoder, int32_t sequence, int64_t length);
// Where layers have windows, keys of theirs that no token to come sees are given back: the fewest tokens, beside none, that a
// sequence can be cut to, which is its length less a page's keys or less; where keys were given up, what it had then; where
// tokens cannot be taken back, all; else 0.
int64_t qn_decoder_least(const qn_decoder *decoder, int32_t sequence);
// Makes sequence `to` what the first `length` tokens of `from` are, in place of what it held. They share pages until one
// of them writes to such a page. Errors: ARGUMENT (no such sequence, the same one, a length that `from` has not), LIMIT (a
// length below qn_decoder_least).
QN_CHECKED qn_status qn_decoder_fork(qn_decoder *decoder, int32_t from, int64_t length, int32_t to, qn_diag *diag);
// The same, with a page of its own at once for what comes next, so that the sequence needs no more pages later than others
// do. Gives how many tokens it has then: those of full pages alone where no page is free, 0 where such a fork is an error.
int64_t qn_decoder_branch(qn_decoder *decoder, int32_t from, int64_t length, int32_t to);

// --- prefixes; without options.prefixes nothing is ever found or kept
// What a sequence holds is kept when it is reset, forked into or restored into, as far as it is known: up to what
// qn_decoder_fill made, and nothing of what qn_decoder_restore did, until qn_decoder_know tells it.

// Makes an empty sequence one of the first tokens, as many as are known, but not all. Gives how many; 0 also for a
// sequence that is not there or not empty.
int64_t qn_decoder_attach(qn_decoder *decoder, int32_t sequence, const int32_t *tokens, size_t count);
// What it would find for an empty sequence, of which nothing is changed: calls `visit` (NULL = nobody) as
// qn_kv_prefix_look does.
int64_t qn_decoder_look(const qn_decoder *decoder, const int32_t *tokens, size_t count, qn_kv_prefix_visitor visit,
                        void *context);
// A sequence that was restored is of these tokens, as many as its position says: by whoever saved it from a decoder of the same
// artifact, since what is kept is found by others.
void qn_decoder_know(qn_decoder *decoder, int32_t sequence, const int32_t *tokens);
// Keeps the full pages that a sequence has so far, for others that come before it ends.
void qn_decoder_keep(qn_decoder *decoder, int32_t sequence);
qn_kv_prefix *qn_decoder_prefixes(qn_decoder *decoder);  // borrowed; NULL = none

// Does the model have an encoder, which reads a source that the decoder then looks at? The most tokens of one (0: it has
// none), and the token that a text begins with (-1: none of its own).
bool qn_decoder_has_source(const qn_decoder *decoder);
int64_t qn_decoder_source_max(const qn_decoder *decoder);
int32_t qn_decoder_start(const qn_decoder *decoder);
// Empties the sequence and gives it a source: `count` tokens (at least 1), which are read at once. Errors: UNSUPPORTED (the
// model has no encoder), ARGUMENT, LIMIT: the sequence is as it was; those of the executor: it is empty.
QN_CHECKED qn_status qn_decoder_source(qn_decoder *decoder, int32_t sequence, const int32_t *tokens, size_t count,
                                       qn_diag *diag);

// Appends `count` tokens (at least 1) to a sequence, chunk by chunk. *out_last is the logits after the
// last one: (vocab), borrowed until the decoder's next call; NULL = they are not computed. With `all` not NULL every token's logits go there:
// (count, vocab), row-major. After an error the sequence is as it was before, what earlier chunks computed included;
// or empty, where it cannot be cut to that any more (qn_decoder_least).
// Errors: ARGUMENT (a token out of range, no such sequence), LIMIT (context or pool full; nothing is evaluated).
QN_CHECKED qn_status qn_decoder_eval(qn_decoder *decoder, int32_t sequence, const int32_t *tokens, size_t count,
                                     float *all, const float **out_last, qn_diag *diag);

// What qn_decoder_eval does before it evaluates, with its errors: checks the tokens and takes pages for them. For who
// then gives them to it in parts, so that the last part cannot fail for want of room. qn_decoder_truncate frees the
// pages.
QN_CHECKED qn_status qn_decoder_reserve(qn_decoder *decoder, int32_t sequence, const int32_t *tokens, size_t count,
                                        qn_diag *diag);

// Lengthens a sequence by `count` (at least 0) keys and values of synthetic numbers, for benchmarks. Errors as above, and
// UNSUPPORTED for a cache whose element type it does not know; LIMIT also for as many as make a sequence full that gives keys
// up.
QN_CHECKED qn_status qn_decoder_fill(qn_decoder *decoder, int32_t sequence, int64_t count, qn_diag *diag);

// Makes a sequence what saved bytes say (runtime/kv_state.h), in place of what it held. Errors: FORMAT, UNSUPPORTED,
// LIMIT; then it is as it was.
QN_CHECKED qn_status qn_decoder_restore(qn_decoder *decoder, int32_t sequence, const void *data, size_t size,
                                        const char *name, qn_diag *diag);

// Of an encoder: embeddings of whole texts, each of which is one sequence by itself from position 0 on. `tokens` are
// those of all texts, one text after another, `counts` how many each has (at least 1). Evaluates in one step as many of
// the first texts as it can hold, *out_done of them, and writes their embeddings to `out`: (*out_done, embedding),
// row-major. Sequences are empty afterwards. Errors: UNSUPPORTED (it makes logits), ARGUMENT (a token out of range, a text
// without tokens), LIMIT (a text that is longer than the context or a step).
QN_CHECKED qn_status qn_decoder_embed(qn_decoder *decoder, const int32_t *tokens, const size_t *counts, size_t texts,
                                      float *out, size_t *out_done, qn_diag *diag);

// One token of a step over several sequences.
typedef struct qn_decoder_item {
  int32_t token, sequence;
  bool want;  // its logits
} qn_decoder_item;
// Appends tokens to sequences in one step: `count` at most the chunk, those wanted at most the program's rows. Tokens
// of one sequence take consecutive positions in the order given. Errors as above.
QN_CHECKED qn_status qn_decoder_step(qn_decoder *decoder, const qn_decoder_item *items, size_t count, qn_diag *diag);
// Logits of the index-th wanted item of the last step: (vocab), borrowed until the decoder's next call.
const float *qn_decoder_logits(const qn_decoder *decoder, size_t index);

// Guesses of what comes after one of a step's tokens: the `count` items after it, of the same sequence, of which the step has
// no other. The logits of all are wanted. They are a tree: parents[i] (borrowed) is an earlier guess, or -1 for the token.
typedef struct qn_decoder_tree {
  size_t item, count;
  const int32_t *parents;
} qn_decoder_tree;
// The same with trees, in the order of their items. What of one the sequence then has says qn_decoder_take_path, which must
// be called for each of them before anything else is evaluated. Errors: LIMIT (more paths than there are rows for, or
// one that makes a sequence full that gives keys up), too.
QN_CHECKED qn_status qn_decoder_step_trees(qn_decoder *decoder, const qn_decoder_item *items, size_t count,
                                           const qn_decoder_tree *trees, size_t tree_count, qn_diag *diag);
// One token of one sequence with guesses; the logits at index 0 are the token's, those at index i + 1 guess i's. A token
// without guesses needs no qn_decoder_take_path.
QN_CHECKED qn_status qn_decoder_step_tree(qn_decoder *decoder, int32_t sequence, int32_t token, const int32_t *tokens,
                                          const int32_t *parents, size_t count, qn_diag *diag);
// The sequence goes on with the token and the guesses up to `guess`; -1: with the token alone.
void qn_decoder_take_path(qn_decoder *decoder, int32_t sequence, int32_t guess);
// Paths of trees that branch which a step may have in all; 0 where the program does not take `copies`.
int32_t qn_decoder_path_rows(const qn_decoder *decoder);
// The most paths that one tree of such a depth may have now, by those and by the free pages; at least 1.
int32_t qn_decoder_paths(const qn_decoder *decoder, int64_t depth);

// What the index-th wanted item's logits were made of, as qn_decoder_logits: (qn_decoder_hidden_width). NULL, and a width of
// 0, where the program has no output `hidden`. From a GPU it is brought as long as it is wanted, which it is not at first.
const float *qn_decoder_hidden(const qn_decoder *decoder, size_t index);
int64_t qn_decoder_hidden_width(const qn_decoder *decoder);
bool qn_decoder_want_hidden(qn_decoder *decoder, bool wanted);  // false: there is none

// Does the program choose tokens (README.md)?
bool qn_decoder_chooses(const qn_decoder *decoder);
// From now on, with settings (copied) of the first `count` wanted rows: steps leave the tokens that they choose for these,
// and no logits. Count 0: logits again. Nothing happens where the program chooses no tokens.
void qn_decoder_choose(qn_decoder *decoder, const qn_sampling *settings, size_t count);
// The token that the last step chose for the index-th wanted row; -1 where its logits are no numbers. The program must
// choose tokens.
int32_t qn_decoder_token(const qn_decoder *decoder, size_t index);
// How many tokens more a sequence can take now for certain, by its context and the free pages, and give back again.
int64_t qn_decoder_room(const qn_decoder *decoder, int32_t sequence);

// --- keys that are given up (options.evict)

// How many tokens a sequence takes in one step at most: with the last of them it is full, and gives keys up. Tokens before
// it can be taken back, it and those before it cannot (qn_decoder_least). INT64_MAX where all keys are kept.
int64_t qn_decoder_keys_left(const qn_decoder *decoder, int32_t sequence);
// Does that last token need one of the step's rows, whether its logits are wanted or not?
bool qn_decoder_fills_with_row(const qn_decoder *decoder);
// How many free pages so many tokens need beside their own: for copies of what other sequences share.
int64_t qn_decoder_copies(const qn_decoder *decoder, int32_t sequence, int64_t tokens);
// Can tokens be taken back? Not where keys have sums of the attention of all that followed.
bool qn_decoder_takes_back(const qn_decoder *decoder);
#define QN_GUESSES_BESIDE_SUMS                                                                                        \
  "got guesses beside keys that are evicted by sums of attention (kv_evict), want another policy or no guesses: what a " \
  "token looked at cannot be taken back"

#endif
