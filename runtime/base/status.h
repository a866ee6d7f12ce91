// What a fallible function returns. The words belonging to it go into the caller's qn_diag (diag.h).
#ifndef QN_BASE_STATUS_H
#define QN_BASE_STATUS_H

// Every function that returns qn_status is declared with QN_CHECKED: ignoring it is a compile error.
#define QN_CHECKED __attribute__((warn_unused_result))
#define QN_PRINTF(fmt_index, args_index) __attribute__((format(printf, fmt_index, args_index)))
#define QN_COUNT(array) (sizeof(array) / sizeof((array)[0]))

// The CLI's exit codes are these values (README.md, "Exit codes"); append, never renumber.
typedef enum qn_status {
  QN_OK = 0,
  QN_ERR_ARGUMENT = 2,     // the caller (or the command line) asked for something that makes no sense
  QN_ERR_FORMAT = 3,       // an input file is truncated, corrupt or hostile
  QN_ERR_UNSUPPORTED = 4,  // well formed, but not something quern does
  QN_ERR_IO = 5,           // the operating system refused to read, write or map
  QN_ERR_NOMEM = 6,        // an allocation failed
  QN_ERR_TARGET = 7,       // the code needs a CPU feature or device that is not here
  QN_ERR_LIMIT = 8,        // a size given at compile or load time does not suffice (context, pages, tokens)
  QN_ERR_CANCELLED = 9,    // a callback asked to stop
  QN_ERR_INTERNAL = 10,    // a bug of ours: a verifier or a code generator found something impossible
} qn_status;

// A stable lower-case word for a status, for messages and JSON.
const char *qn_status_name(qn_status status);

// Returns from the enclosing function when `expression` is not QN_OK.
#define QN_TRY(expression)                              \
  do {                                                  \
    qn_status qn_try_status_ = (expression);            \
    if (qn_try_status_ != QN_OK) return qn_try_status_; \
  } while (0)

#endif
