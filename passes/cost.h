// What the cost model knows of a kernel: its operations, counted once from the loop IR as lowered (cost_count.c), from
// which the time under any schedule follows in closed form (cost.c).
#ifndef QN_PASSES_COST_H
#define QN_PASSES_COST_H

#include "passes/pass.h"

// For whom a value is computed in a tile of tokens × panels: once for a panel and all tokens (weights and what is made
// of them), once for a token and all panels (activations; scalars), or for each pair of them (16 lanes).
typedef enum qn_share { QN_SHARE_PANEL, QN_SHARE_ROW, QN_SHARE_CELL, QN_SHARE_COUNT } qn_share;

// How often each operator is evaluated: of 16 lanes for panels and cells, of one for rows. Index arithmetic is left
// out, equal expressions count once, and what does not change in a loop counts outside of it.
typedef struct qn_op_counts {
  float ops[QN_LX_COUNT];
  float wide_dots;            // those of ops[DOT4] with codes of a whole byte
  float loads[QN_LM_COUNT];   // from memory, by element type
  float stores;
} qn_op_counts;

enum {
  QN_WORK_NESTS = 4,
  QN_DOTS_FORMS = 3,
  QN_ASSUMED_TRIPS = 8,  // of loops whose number the step decides: chunks of 64 keys
};

// A nest of loops over panels, tokens and lanes around chains along K: a product, or one of attention's two.
typedef struct qn_work_nest {
  qn_op_counts counts[QN_SHARE_COUNT];  // for one panel and one token: all of the chain, and what follows it
  double links;                         // of the f32 chain of one accumulator
  double sums;                          // updates of integer sums for one cell; 0 in float products
  double rolled;                        // iterations of loops that the schedule may unroll
  int accumulators;                     // f32 chains of a cell
  int64_t panels;
} qn_work_nest;

typedef struct qn_kernel_work {
  qn_work_nest nests[QN_DOTS_FORMS][QN_WORK_NESTS];  // by the knob `dots`
  int nest_count;
  bool forms;                         // there are integer products, whose form the knob decides
  qn_op_counts flat[QN_SHARE_COUNT];  // outside of nests, in one iteration of the outermost loop: scalars and lanes
  double flat_rolled;
  int64_t streamed_bytes;             // weights: read once in order
  int64_t row_read_bytes, row_write_bytes;  // of other parameters, for each row
  int64_t extent;                     // iterations of the outermost loop, or factor of the symbol in it
  bool extent_rows;                   // it is times the number of rows
} qn_kernel_work;

// Counts the kernel's work into *out_work (arena). `allocator` is for what is needed on the way.
QN_CHECKED qn_status qn_cost_count(const qn_pkernel *kernel, qn_arena *arena, const qn_kernel_work **out_work,
                                   qn_diag *diag);

// Are there products of codes, of which the knob `dots` says how they are made? Matmuls may always have it.
bool qn_kernel_has_dots(const qn_pkernel *kernel);

#endif
