// What the files of the decoder share: decode.c has its steps, decode_texts.c texts that are read
// whole, decode_evict.c keys that are given up.
#ifndef QN_RUNTIME_DECODE_IMPL_H
#define QN_RUNTIME_DECODE_IMPL_H

#include "runtime/decode.h"
#include "runtime/kv_evict.h"

enum { SYM_NONE, SYM_T, SYM_R, SYM_P, SYM_B, SYM_G, SYM_S };  // qn_symbol of ir/type.h

typedef enum input {
  INPUT_TOKENS,
  INPUT_POS,
  INPUT_LAST_POS,
  INPUT_SLOT,
  INPUT_SEQ,
  INPUT_COPIES,
  INPUT_ROWS,
  INPUT_SAMPLING,
  INPUT_SOURCE,
  INPUT_SOURCE_POS,
  INPUT_SOURCE_SEQ,
  INPUT_SOURCE_LAST_POS,
  INPUT_CROSS_LAST_POS,
  INPUT_BLOCK_TABLE,
  INPUT_WINDOW_TABLE,
  INPUT_COUNT
} input;

// Where a token of a tree stands: nodes[0] is what the guesses come after. The paths to the tree's ends are numbered so
// that those of a node are one after another.
typedef struct tree_node {
  int32_t parent;       // of nodes
  int32_t path, paths;  // the first one that it is on, and how many
  int32_t told;         // of them, those of children that have theirs
  int32_t depth;
} tree_node;

// What a step evaluated of a sequence: its next token, and guesses after it.
typedef struct step_tree {
  const tree_node *nodes;  // of the decoder's
  int64_t base;            // the sequence's keys before
  int32_t row;             // of the block table: its first path's, where it has several
  int32_t first;           // the token's place among the step's
} step_tree;

struct qn_decoder {
  const qn_artifact *artifact;    // borrowed
  const qn_allocator *allocator;  // borrowed
  qn_executor *executor;          // owned
  qn_kv_cache *cache;             // owned
  // owned: tokens, pos, last_pos, slot, seq (chunk), rows (max_rows), sampling (max_rows, 8)
  int32_t *arrays[INPUT_BLOCK_TABLE];
  int64_t *pending;        // owned: tokens of each sequence in the step that is being made
  qn_kv_prefix *prefixes;  // owned; NULL = none
  int32_t *log;            // owned, with prefixes: (sequences, context), the tokens that a sequence holds
  int64_t *logged;         // owned, with prefixes: how many of them are known, from the first on
  const float *logits;     // of the last step, in the executor's arena; an encoder's embeddings
  const int32_t *tokens;   // that the program chose; NULL when it chooses none
  const float *hidden;     // of the last step, as the logits; NULL = the program does not give it
  int64_t hidden_pitch, hidden_width;
  int32_t sequences;  // the host's; rows of the block table beyond them are for the paths of a tree
  tree_node *nodes;             // owned (max_rows): of the last step's trees
  step_tree *trees;             // owned (sequences): of the last step
  qn_decoder_item *tree_items;  // owned (max_rows)
  int64_t pitch, vocab;        // of a row of logits, elements; how many token ids there are
  int64_t embedding;           // numbers of an embedding; 0 = it makes logits
  int64_t context;             // tokens that a sequence may hold
  const qn_kv_policy *policy;  // NULL = all keys are kept
  qn_kv_evictor *evictor;      // owned, with a policy
  int64_t most_keys, drop;     // with a policy: a sequence that has so many gives up `drop` of them
  int64_t chunk, max_rows;
  int64_t max_source;   // tokens of a source at most; 0 = the model has no encoder
  int64_t count, rows;  // tokens and wanted rows of this step
};

// A step: begin, push every token, run. A token must be checked, and its place reserved.
void qn_decode_begin(qn_decoder *decoder);
void qn_decode_push(qn_decoder *decoder, int32_t token, int32_t sequence, bool want);
QN_CHECKED qn_status qn_decode_run(qn_decoder *decoder, qn_diag *diag);

// --- keys that are given up (decode_evict.c)

bool qn_decode_has_buffer(const qn_artifact *artifact, uint32_t kind, const char *name);
// The policy of the options, where there is one, and how many keys sequences have. Errors: ARGUMENT, UNSUPPORTED.
QN_CHECKED qn_status qn_decode_choose_policy(qn_decoder *decoder, const qn_decoder_options *options, qn_diag *diag);
// Before a step that was pushed is run, so that an error changes nothing: rows for the queries of who will be full (there are
// *out_rows then), and pages of their own. LIMIT; the memory's errors.
QN_CHECKED qn_status qn_decode_before_evicting(qn_decoder *decoder, int64_t *out_rows, qn_diag *diag);
// After it: who has as many keys as there may be gives some of them up. After an error, of the memory, that one has none.
QN_CHECKED qn_status qn_decode_evict(qn_decoder *decoder, int64_t rows, qn_diag *diag);

// QN_ARTIFACT_SYMBOLS of them, for a run of the program.
void qn_decode_set_symbols(const qn_decoder *decoder, int64_t tokens, int64_t rows, int64_t source, int64_t *out);
QN_CHECKED qn_status qn_decode_check_sequence(const qn_decoder *decoder, int32_t sequence, qn_diag *diag);
QN_CHECKED qn_status qn_decode_check_token(const qn_decoder *decoder, int32_t token, size_t index, qn_diag *diag);

QN_CHECKED qn_status qn_decode_check_logits(const qn_decoder *decoder, qn_diag *diag);
// What a decoder beside an encoder must know before it evaluates a token.
QN_CHECKED qn_status qn_decode_check_source(const qn_decoder *decoder, int32_t sequence, qn_diag *diag);
QN_CHECKED qn_status qn_decode_reserve(qn_decoder *decoder, int32_t sequence, int64_t count, qn_diag *diag);
int32_t *qn_decode_log(const qn_decoder *decoder, int32_t sequence);

// --- decode_tree.c: trees of guesses, as a step evaluates them

// Numbers the paths of all. LIMIT: there are more than rows for them.
QN_CHECKED qn_status qn_decode_place_trees(qn_decoder *decoder, const qn_decoder_item *items, const qn_decoder_tree *trees,
                                           size_t count, qn_diag *diag);
// Has the tree after the sequence's next token several paths?
bool qn_decode_branches(const qn_decoder *decoder, int32_t sequence);
// Makes each path a row of its own and adds the tree's tokens to the step: `items` are that token and `count` guesses.
QN_CHECKED qn_status qn_decode_push_tree(qn_decoder *decoder, const qn_decoder_item *items, size_t count, qn_diag *diag);
// The sequence is as it was before, after a step that failed.
void qn_decode_drop_tree(qn_decoder *decoder, int32_t sequence);

#endif
