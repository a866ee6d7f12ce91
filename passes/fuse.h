// What the fuse passes share: which nodes may become one kernel.
#ifndef QN_PASSES_FUSE_H
#define QN_PASSES_FUSE_H

#include "passes/pass.h"

typedef struct qn_fuse {
  qn_graph *graph;     // groups are written into its nodes
  uint32_t *uses;      // of each value, outputs counted
  uint32_t **users;    // computing users of each value, through views; ended by 0
} qn_fuse;

QN_CHECKED qn_status qn_fuse_init(qn_fuse *fuse, qn_pass_context *context);
// Does the node do work (not a source, not a view that only renames)?
bool qn_fuse_computes(const qn_fuse *fuse, qn_id id);
// May the members (by flag, indexed by id) be one kernel, run at one moment? What they read from outside is computed
// before the first of them, and what reads them comes after the last: so no path leaves the group and returns.
bool qn_fuse_is_convex(const qn_fuse *fuse, const bool *member);

#endif
