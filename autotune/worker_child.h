// The child's side of the worker, and what both sides share.
#ifndef QN_AUTOTUNE_WORKER_CHILD_H
#define QN_AUTOTUNE_WORKER_CHILD_H

#include "autotune/worker.h"

enum { QN_WORKER_BATCH = 32, QN_WORKER_ROUNDS = 256 };

typedef enum qn_worker_command { QN_WORKER_BEGIN, QN_WORKER_PREPARE, QN_WORKER_PAIR, QN_WORKER_END } qn_worker_command;
// Stages of a flight; the item is the candidate's place in the batch, or 0 and 1 of a pair; -1 = the batch as a whole.
typedef enum qn_worker_stage {
  QN_WORKER_IDLE,
  QN_WORKER_SETTING_UP,
  QN_WORKER_COMPILING,
  QN_WORKER_CHECKING,
  QN_WORKER_TIMING
} qn_worker_stage;

typedef struct qn_worker_shared {
  qn_flight flight;
  qn_worker_command command;
  qn_tuning_task task;  // its pointers are the same in the child
  // PREPARE
  int count;
  bool check;                    // else the candidates are known to be right
  int numbers[QN_WORKER_BATCH];  // of the task's candidates
  qn_schedule schedules[QN_WORKER_BATCH];
  bool done[QN_WORKER_BATCH];
  qn_measured results[QN_WORKER_BATCH];
  bool doubt;  // candidates that were right may not be: see qn_check_set_run
  // PAIR
  int pair[2], rounds;
  qn_setting settings[2];
  double seconds[2 * QN_WORKER_ROUNDS];
  // answer
  qn_status status;
  char text[512];
} qn_worker_shared;

typedef struct qn_worker_child qn_worker_child;
// What the child starts from; made in the parent, used in the child.
QN_CHECKED qn_status qn_worker_child_create(const qn_worker_options *options, const qn_allocator *allocator,
                                            qn_worker_child **out, qn_diag *diag);
void qn_worker_child_destroy(qn_worker_child *child);
void qn_worker_child_serve(void *child, void *shared);
bool qn_worker_child_locate(void *child, const void *address, char *out, size_t size);

#endif
