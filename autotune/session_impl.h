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
  bool broken;        // its default schedule is wrong
  const char *end;
  double share;
  int known;               // candidates from the database
  qn_schedule marked;      // the incumbent that the database knows of
  const char *marked_end;  // and the reason in its mark: NULL = there is none
  int64_t marked_when;     // seconds since 1970
  double aside;            // the share at which an earlier session set it aside; 0 = it did not
} qn_session_item;

// What batches were expected to save in all, and what they did: searches promise too much where little is known, and how
// much too much is seen as the session goes on.
typedef struct qn_promises {
  double promised, kept;
} qn_promises;

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
  qn_promises first, later;  // of searches' first batches, and of all after them
  bool cancelled;
  qn_status db_status;  // of the first write that failed within a callback
  int crossovers, rejected;
  char first_reason[256];  // of the first entry that was rejected
};

// Tells the caller where the session is; false when it is to end.
bool qn_session_tell(qn_session *session);
// Where each kernel's variants take over from each other (crossover.c), once the searches have ended.
QN_CHECKED qn_status qn_session_crossovers(qn_session *session);

// Was the incumbent timed, now or by an earlier session, and is it right?
bool qn_session_is_timed(const qn_session_item *item);
// A search's part of the time of a step that decodes a token, or takes a chunk of a prompt, and the row count that it
// has there; 0 when its class has none of such steps.
enum { QN_SESSION_DECODE, QN_SESSION_PROMPT };
double qn_session_share_of_step(const qn_session *session, const qn_session_item *item, int phase, int64_t *out_rows);
// The settings for this program's steps (settings.c): those that the database knows, or else the best ones tried.
QN_CHECKED qn_status qn_session_settings(qn_session *session, qn_machine_knobs *out, bool *out_found);
// Seconds of the budget that are kept for that; 0 = it is not done.
double qn_session_settings_reserve(const qn_session *session);

// What sessions keep of a whole program (experience.c): the signature of `what` ("settings") for this session's program,
// appended; the key of a mark with it.
QN_CHECKED qn_status qn_session_signature(const qn_session *session, const char *what, qn_buf *out);
qn_finished qn_program_mark(const qn_tuning_key *key, const char *signature);
// How searches' promises were kept in earlier sessions over these kernels, into session->first and later; and writes it.
QN_CHECKED qn_status qn_session_recall(qn_session *session);
QN_CHECKED qn_status qn_session_remember(qn_session *session);

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
