// What session.c and session_db.c share.
#ifndef QN_AUTOTUNE_SESSION_IMPL_H
#define QN_AUTOTUNE_SESSION_IMPL_H

#include "autotune/session.h"
#include "runtime/base/vec.h"

typedef struct qn_session qn_session;

// A search with what the session knows of it.
typedef struct qn_session_item {
  qn_session *session;
  qn_search *search;  // owned
  uint32_t kernel;    // of the program
  int calls;          // steps of the program that call it
  bool selected;      // by the pattern
  bool closed;        // nothing more is tried
  bool begun;         // a step was made in this session
  const char *end;
  double share;
  int known;               // candidates from the database
  qn_schedule marked;      // the incumbent that the database knows of
  const char *marked_end;  // and the reason in its mark: NULL = there is none
  int64_t marked_when;     // seconds since 1970
  double aside;            // the share at which an earlier session set it aside; 0 = it did not
} qn_session_item;

struct qn_session {
  const qn_program *program;
  const qn_measurer *measurer;
  const qn_session_options *options;
  const qn_allocator *allocator;
  qn_diag *diag;
  qn_arena arena;
  qn_machine_model machine;
  QN_VEC(qn_session_item) items;
  qn_session_item *current;
  double begin_s, deadline_s;
  double step_s;  // of a usual step
  double bias;    // measured times over the model's
  bool cancelled;
  qn_status db_status;  // of the first write that failed within a callback
  int crossovers;
};

// Keys in the cache while kernels are timed.
int64_t qn_session_keys(const qn_program *program, const qn_session_options *options);

extern const char *const qn_search_ends[];  // by qn_search_state

// Takes up what the database knows of a task. Sets item->closed where an earlier session came to an end.
QN_CHECKED qn_status qn_session_resume(qn_session_item *item);
// Before its first step: schedules of kernels and machines like this one.
QN_CHECKED qn_status qn_session_seed(qn_session_item *item);
// qn_search_options.found, with the item as context... of the session's current item.
void qn_session_found(void *context, const qn_search *search, const qn_candidate *candidate);
// The winner so far, and how the search stands, where the database does not know it yet.
QN_CHECKED qn_status qn_session_mark(qn_session_item *item);
// An open search that is not worth more time at the share that it has: item->end says so, and the database.
QN_CHECKED qn_status qn_session_set_aside(qn_session_item *item);

#endif
