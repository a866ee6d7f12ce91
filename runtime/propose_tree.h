// Trees of guesses from chances, for proposers that know how likely what they guess is.
#ifndef QN_RUNTIME_PROPOSE_TREE_H
#define QN_RUNTIME_PROPOSE_TREE_H

#include "runtime/propose.h"

#define QN_CHOICES_MOST 8

// A token that may come next.
typedef struct qn_choice {
  int32_t token;
  float chance;
} qn_choice;

// At most `most` (1 to QN_CHOICES_MOST) tokens that may come next by these logits, the likeliest first. With `drawn` the one
// that `sampler` chooses is before them, by the random number that it draws. Errors: those of qn_sampler_sample.
QN_CHECKED qn_status qn_choices_take(qn_sampler *sampler, const float *logits, int32_t most, bool drawn, qn_choice *out,
                                     int32_t *out_count, qn_diag *diag);

// A guess that may be taken.
typedef struct qn_growth_node {
  int32_t token, parent;    // an earlier node, or QN_DRAFT_ROOT
  int32_t depth, children;  // depth: 1 for the first guesses; children that were taken
  int32_t taken;            // its place among the guesses and one; 0 = it has none yet, -1 = it gets none
  float chance;             // that all up to it come true
} qn_growth_node;

typedef struct qn_growth {
  qn_growth_node *nodes;  // owned by whoever made it: (capacity)
  int32_t count, capacity;
} qn_growth;

// What may come after `parent`: as many as there is room for.
void qn_growth_add(qn_growth *growth, int32_t parent, const qn_choice *choices, int32_t count);
// The nodes of that depth from which to go on, at most `most`, the likeliest first: those that a step would take so far.
int32_t qn_growth_frontier(const qn_growth *growth, int32_t depth, const qn_draft_room *room, int32_t most, int32_t *out);
// Adds the likeliest nodes to an empty draft, as there is room. Once.
void qn_growth_harvest(qn_growth *growth, const qn_draft_room *room, qn_draft *out);

#endif
