// The process-wide message callback.
#include "runtime/base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

static const char *const level_names[] = {"error", "warning", "info", "debug"};

static void print_to_stderr(void *context, qn_log_level level, const char *text) {
  (void)context;
  if (level <= QN_LOG_WARNING) fprintf(stderr, "quern: %s: %s\n", level_names[level], text);
}

// The callback and its context change together, hence the lock.
static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static qn_log_fn sink = print_to_stderr;
static void *sink_context;  // borrowed

void qn_log_set(qn_log_fn fn, void *context) {
  pthread_mutex_lock(&sink_lock);
  sink = fn ? fn : print_to_stderr;
  sink_context = fn ? context : NULL;
  pthread_mutex_unlock(&sink_lock);
}

void qn_log(qn_log_level level, const char *format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  pthread_mutex_lock(&sink_lock);
  qn_log_fn fn = sink;
  void *context = sink_context;
  pthread_mutex_unlock(&sink_lock);
  fn(context, level, text);
}
