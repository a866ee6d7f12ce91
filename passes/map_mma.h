// Products of many tokens on tensor cores: what the files of the pass map_mma share (its head says what it does).
#ifndef QN_PASSES_MAP_MMA_H
#define QN_PASSES_MAP_MMA_H

#include "passes/gpu_pass.h"
#include "passes/loop_util.h"
#include "runtime/base/vec.h"

// A local of the kernel as lowered and what stands for it. It has a value for each row that it depends on and each token.
typedef struct qn_mma_local {
  const qn_lbuf *from;
  qn_lbuf *to;  // NULL until it is declared
  bool by_row, by_token;
} qn_mma_local;

// What a block does: its warps have `panels` panels each, and all of them the block's `tiles` tiles of 8 tokens.
typedef struct qn_mma_tile {
  int warps, panels, tiles;
} qn_mma_tile;

typedef struct qn_mma_mapper {
  qn_lbuild *b;
  qn_mma_tile tile;
  const qn_lvar *n, *t, *l;  // panel, token and row of the kernel as lowered
  qn_lvar *token, *panel;    // stand for those of the block, from 0 on, where what is read of them is in shared memory
  bool pairs;                // lanes have rows 2 * (lane / 4) and the next, and not lane / 4 and that + 8
  int64_t panels;
  const qn_lexpr *tokens;                     // how many there are
  const qn_lexpr *first_panel, *first_token;  // of the block
  int64_t stage_bytes;                        // of shared memory that a reduction may have
  QN_VEC(qn_mma_local) locals;                // arena
} qn_mma_mapper;

static inline int qn_mma_lanes(const qn_mma_tile *tile) { return tile->warps * QN_MMA_WARP; }
static inline int qn_mma_block_tokens(const qn_mma_tile *tile) { return tile->tiles * QN_MMA_COLUMNS; }
static inline int qn_mma_block_panels(const qn_mma_tile *tile) { return tile->warps * tile->panels; }

qn_mma_local *qn_mma_local_of(const qn_mma_mapper *m, const qn_lbuf *buf);
bool qn_mma_by_row(const qn_mma_mapper *m, const qn_lexpr *e);    // does it depend on the row,
bool qn_mma_by_token(const qn_mma_mapper *m, const qn_lexpr *e);  // on the token?

// A loop that mma does: sums of products along K.
typedef struct qn_mma_words {
  const qn_lstmt *loop;
  const qn_lbuf *sum;
  qn_lmma kind;
  // Of integers, dot4(sum, codes, activations): word w of K is that of statement w / trips in iteration w % trips.
  int64_t trips;
  int count;
  // Of 16-bit floats, fma(activation, weight, sum): word w is what iterations 2w and 2w + 1 multiply.
  const qn_lexpr *weight, *activation;
} qn_mma_words;
// Is the statement a loop that mma does?
bool qn_mma_is_words(const qn_mma_mapper *m, const qn_lstmt *s, qn_mma_words *out);
// Operand 1 or 2 of the dot4 of word `quarter` + 4 * step, where quarter, 0 to 3, differs by lane.
const qn_lexpr *qn_mma_word(qn_mma_mapper *m, const qn_mma_words *words, int operand, int step,
                            const qn_lexpr *quarter);
// Of floats: two rows of a panel lie in each word of memory, row 2 * pair below row 2 * pair + 1. The word of A for one
// of them, `half`.
const qn_lexpr *qn_mma_half_word(qn_mma_mapper *m, const qn_mma_words *words, int half, int step,
                                 const qn_lexpr *quarter, const qn_lexpr *pair);
// Of floats: the activation in the lower or upper half of a word of B, before it is rounded.
const qn_lexpr *qn_mma_half_value(qn_mma_mapper *m, const qn_mma_words *words, int half, int step,
                                  const qn_lexpr *quarter);

// What a reduction of constant extent reads of each token and of each panel comes through shared memory, a piece of the
// reduction after the other (mma_stage.c). Appends the loop over the pieces to `to`; its body then holds the copying, and
// the reduction cut to a piece, reads what was copied and belongs at its end. NULL: nothing is staged, `loop` is as it was.
qn_lblock *qn_mma_stage(qn_mma_mapper *m, qn_lstmt *loop, qn_lblock *to);
// Bytes of shared memory that the reduction's shortest pieces take with m's tile; 0 = nothing is staged.
int64_t qn_mma_stage_least(qn_mma_mapper *m, const qn_lstmt *loop);

#endif
