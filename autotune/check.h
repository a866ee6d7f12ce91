// Checks machine code of a kernel: what it computes against the loop interpreter's reading of the plain kernel, bit for
// bit, on iterations chosen by their cost; that it writes all that the plain kernel writes, and nothing else; and the
// rest of its results against other code that was found right. Code that is wrong may do anything: run this in a
// process that nobody misses (child.h).
#ifndef QN_AUTOTUNE_CHECK_H
#define QN_AUTOTUNE_CHECK_H

#include "autotune/inputs.h"
#include "runtime/executor.h"

// One row count and one seed: inputs, and what must come out.
typedef struct qn_check qn_check;

enum { QN_CHECK_WORK = 400000 };  // operations interpreted, unless a single iteration takes more: milliseconds

// `work`: about how many operations may be interpreted. `weights_of` as in qn_inputs_create (NULL =
// none). Errors: NOMEM, UNSUPPORTED (inputs.h), and INTERNAL where the interpreter finds the plain kernel itself wrong.
QN_CHECKED qn_status qn_check_create(const qn_subject *subject, int64_t rows, uint64_t seed, int64_t work,
                                     const qn_check *weights_of, const qn_allocator *allocator, qn_check **out,
                                     qn_diag *diag);
void qn_check_destroy(qn_check *check);  // NULL is harmless

// Code that no address calls, a GPU's: does the whole kernel. False where it does not run or writes where it should not;
// the reason goes to `why`.
typedef struct qn_check_remote {
  bool (*run)(void *context, void *const *buffers, const size_t *sizes, const bool *written, size_t count,
              const int64_t symbols[QN_SYM_COUNT], char *why, size_t size);
  void *context;
} qn_check_remote;

typedef struct qn_check_result {
  bool right;
  bool kept_wrong;      // the interpreter says so of the outputs that were kept: they count no more
  char text[160];       // wrong: where, got, want
  int64_t interpreted;  // elements compared with the interpreter
  int64_t compared;     // elements compared with other code
  int64_t written;      // elements that the kernel writes
} qn_check_result;

// Runs the code over its parallel loop in pieces, out of order, or has `remote` run it (NULL = nobody), and compares. A fault is the caller's to survive. Where
// it differs from what was kept, the interpreter decides which of the two is wrong.
void qn_check_run(qn_check *check, qn_kernel_entry entry, qn_dim extent, const qn_check_remote *remote,
                  qn_check_result *out);
// The outputs of the run before, which was right, are what later code must compute too.
QN_CHECKED qn_status qn_check_keep(qn_check *check, qn_diag *diag);

// "writes 4 bytes past the end of 'a3'" or the like, for an address that a fault named; false when it is far from every
// buffer. Safe in a signal handler but for the formatting, which allocates nothing.
bool qn_check_locate(const qn_check *check, const void *address, char *out, size_t size);

enum { QN_CHECK_ROWS_MAX = 3 + QN_SCHEDULE_MAX_TILES };
// Row counts that between them run every tile of a schedule, the largest twice, within rows_min .. rows_max: at most
// QN_CHECK_ROWS_MAX, rising.
int qn_check_row_counts(const qn_schedule *schedule, int64_t rows_min, int64_t rows_max,
                        int64_t out[QN_CHECK_ROWS_MAX]);
// Few that do, of most schedules two: rows_min, and those that give every tile something to do. Rising.
int qn_check_quick_counts(const qn_schedule *schedule, int64_t rows_min, int64_t rows_max,
                          int64_t out[QN_CHECK_ROWS_MAX]);

#endif
