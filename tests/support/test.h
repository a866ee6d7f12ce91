// Helpers that unit tests share: a main, an allocator that counts and fails, temporary folders, shared models, skips.
#ifndef QN_TESTS_SUPPORT_TEST_H
#define QN_TESTS_SUPPORT_TEST_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/diag.h"

// ---- main -----------------------------------------------------------------------------------------------------
// A test file defines functions `static TCase *name(void)` that create a case and add tests, and ends with
//   QN_TEST_MAIN(name_a, name_b)
// QN_CASE writes such a function for the common case: QN_CASE(strings, test_quote, test_numbers).

typedef TCase *(*qn_test_case_fn)(void);
int qn_test_main(const char *file, const qn_test_case_fn *cases, size_t count, int argc, char **argv);

// Runs the cases, within 4 GiB of memory, and returns the process's status. `program <case>` runs one case only;
// CK_FORK=no (Check's own switch) keeps everything in one process, for a debugger.
#define QN_TEST_MAIN(...)                                                                      \
  int main(int argc, char **argv) {                                                            \
    static const qn_test_case_fn qn_cases[] = {__VA_ARGS__};                                   \
    return qn_test_main(__FILE__, qn_cases, sizeof qn_cases / sizeof qn_cases[0], argc, argv); \
  }

TCase *qn_test_case(const char *name, const TTest *const *tests, size_t count);
#define QN_CASE(name, ...)                                                      \
  static TCase *name(void) {                                                    \
    const TTest *const qn_tests[] = {__VA_ARGS__};                              \
    return qn_test_case(#name, qn_tests, sizeof qn_tests / sizeof qn_tests[0]); \
  }

// How far to step through a long list of cases: `plain` usually, `sanitized` under ASan, where each case costs several
// times as much and the plain build has done the others; 1 (every case) with QUERN_TEST_ALL=1 in the environment.
size_t qn_test_stride(size_t plain, size_t sanitized);

// ---- asserts --------------------------------------------------------------------------------------------------

// ck_assert reports each check that passes to the parent process, which costs microseconds: in loops over many
// values use this one, which is silent until it fails.
#define qn_check(condition, ...)                                                  \
  do {                                                                            \
    if (!(condition)) qn_test_abort(__FILE__, __LINE__, #condition, __VA_ARGS__); \
  } while (0)
_Noreturn void qn_test_abort(const char *file, int line, const char *condition, const char *format, ...)
    QN_PRINTF(4, 5);

// The call succeeds; prints the diag's text when it does not.
#define qn_assert_ok(diag, call)                                                                           \
  do {                                                                                                     \
    qn_status qn_status_ = (call);                                                                         \
    ck_assert_msg(qn_status_ == QN_OK, "%s: got %s: %s", #call, qn_status_name(qn_status_), (diag)->text); \
  } while (0)
// The call fails with this status, and the diag's text contains `needle`.
#define qn_assert_fails(diag, want_status, needle, call)                                                      \
  do {                                                                                                        \
    qn_status qn_status_ = (call);                                                                            \
    ck_assert_msg(qn_status_ == (want_status), "%s: got %s (%s), want %s", #call, qn_status_name(qn_status_), \
                  (diag)->text, qn_status_name(want_status));                                                 \
    ck_assert_msg(strstr((diag)->text, (needle)) != NULL, "%s: message '%s' lacks '%s'", #call, (diag)->text, \
                  (needle));                                                                                  \
  } while (0)

// ---- memory ---------------------------------------------------------------------------------------------------

// Counts live bytes and blocks, checks the size given back with each, and can fail one allocation.
typedef struct qn_test_memory {
  qn_allocator allocator;  // hand out &memory.allocator
  size_t live_bytes, live_blocks, peak_bytes;
  size_t allocations;  // calls that asked for new or more memory so far
  size_t fail_at;      // the allocation with this number (from 1) and all later ones fail; 0 = never
} qn_test_memory;

// The memory must not move afterwards (its allocator points at it).
void qn_test_memory_init(qn_test_memory *memory);
// A process-wide one, for tests that need no numbers of their own.
const qn_allocator *qn_test_allocator(void);
qn_test_memory *qn_test_allocator_memory(void);

// Runs `body` with the first, second, ... allocation failing until it gets through; `body` returns its status and
// must return QN_ERR_NOMEM when an allocation fails. Asserts that nothing stays allocated after each run.
void qn_test_failing_allocations(qn_status (*body)(const qn_allocator *allocator, void *context), void *context);

// ---- files ----------------------------------------------------------------------------------------------------

// A fresh folder, removed with all it contains at the end of the process that created it.
const char *qn_test_temp_dir(void);
// "<temp dir>/<name>"; static storage for 16 names at a time.
const char *qn_test_temp_path(const char *name);
// A path below the folder of shared models, or NULL when it is not there: $QUERN_SHARED/<relative>, or
// <source>/../shared/<relative>. Static storage for 16 paths at a time.
const char *qn_test_shared(const char *relative);
// A path in the source tree: qn_test_source("models/nano/nano.gguf"). Same storage as above.
const char *qn_test_source(const char *relative);
// Writes a small file; asserts that it works.
void qn_test_write_file(const char *path, const void *data, size_t size);

// Ends the whole test program as skipped, with the reason. Call it in the main process (in a case function that is
// written out, not inside a test, which Check runs in a child): a test that may be skipped has a program of its own.
_Noreturn void qn_test_skip(const char *format, ...) QN_PRINTF(1, 2);

// ---- numbers --------------------------------------------------------------------------------------------------

// A small generator with a seed (xorshift64*), the same on every machine.
typedef struct qn_test_random {
  uint64_t state;
} qn_test_random;
uint64_t qn_test_random_u64(qn_test_random *random);
double qn_test_random_unit(qn_test_random *random);  // [0, 1)

#endif
