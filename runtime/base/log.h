// Messages to the person in front of the program, by a callback the host may set; the default writes to stderr.
#ifndef QN_BASE_LOG_H
#define QN_BASE_LOG_H

#include "runtime/base/status.h"

typedef enum qn_log_level { QN_LOG_ERROR, QN_LOG_WARNING, QN_LOG_INFO, QN_LOG_DEBUG } qn_log_level;
typedef void (*qn_log_fn)(void *context, qn_log_level level, const char *text);

// Process-wide; NULL restores the default, which prints warnings and errors.
void qn_log_set(qn_log_fn fn, void *context);
void qn_log(qn_log_level level, const char *format, ...) QN_PRINTF(2, 3);

#endif
