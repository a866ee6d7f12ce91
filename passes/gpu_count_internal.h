// What the two files that count share: the values that loop variables, locals and inputs have on the way.
#ifndef QN_PASSES_GPU_COUNT_INTERNAL_H
#define QN_PASSES_GPU_COUNT_INTERNAL_H

#include "passes/gpu_count.h"
#include "runtime/base/map.h"
#include "runtime/base/vec.h"

// An access to memory that a statement makes.
typedef struct qn_count_request {
  const qn_lbuf *buf;  // a parameter
  const qn_lexpr *index;
  int bytes, lanes;  // of an element, and consecutive ones that a thread accesses
  int rounds;        // of loads in a row that it ends: 2 when its place is loaded itself
  int up;            // loops around that it does not change in: see qn_count_work
  bool store;
  bool copy;  // asynchronous: not waited for
  double sectors, looks;  // of a warp's requests that were looked at
} qn_count_request;

// Instructions of a warp.
typedef struct qn_count_work {
  float instructions, fp32, i32, shared;
} qn_count_work;

enum { QN_COUNT_DEPTH = 64, QN_COUNT_UPS = 8 };

// What an execution of a statement does: at [up] what does not change in the `up` innermost loops around it, so that it
// is done before them, when they begin.
typedef struct qn_count_profile {
  qn_count_work work[QN_COUNT_UPS];
  QN_VEC(qn_count_request) requests;
} qn_count_profile;

// A loop around the present statement.
typedef struct qn_count_frame {
  const qn_lvar *var;
  int64_t value;
  bool lane, parallel;  // the warp's lanes and groups differ in it
  // As things were in front of it; and what is done there for what does not change in it.
  bool first;  // its first iteration is being walked
  double times, requests, warps;
  uint32_t mask;
  bool in_lanes;
  qn_gpu_path before, wait;
} qn_count_frame;

// A local on which bounds or places depend.
typedef struct qn_count_local {
  const qn_lbuf *buf;
  int64_t *values;  // arena
  bool *known;
  size_t count;
} qn_count_local;

typedef struct qn_count_state {
  qn_arena *arena;
  const qn_lkernel *kernel;
  const qn_gpu_param *params;
  const int64_t *symbols;
  qn_count_frame frames[QN_COUNT_DEPTH];
  int depth;
  int lanes;   // of a group in one warp
  int thread;  // of the warp, for which expressions are evaluated
  QN_VEC(qn_count_local) locals;
  qn_map exact;     // loop → whether its iterations differ
  qn_map profiles;  // statement → qn_count_profile
  bool failed;      // out of memory
} qn_count_state;

// The value of an index, an i32 or a predicate for the present thread; false when it is not known.
bool qn_count_eval(const qn_count_state *s, const qn_lexpr *e, int64_t *out);
// Finds the locals whose values are kept.
void qn_count_find_locals(qn_count_state *s);
qn_count_local *qn_count_local_of(const qn_count_state *s, const qn_lbuf *buf);  // NULL: its values are not kept
// Whether the iterations of a loop must be walked one by one: bounds within depend on its variable, or they change a
// local on which others depend.
bool qn_count_is_exact(qn_count_state *s, const qn_lstmt *loop);

// Makes the profiles of all statements (gpu_count_plan.c).
void qn_count_plan(qn_count_state *s);
// The statement's; NULL where it has none.
qn_count_profile *qn_count_profile_of(const qn_count_state *s, const qn_lstmt *stmt);

#endif
