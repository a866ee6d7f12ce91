// What happens when a mapped file shrinks while it is read, or its disk fails: the system answers with SIGBUS, which kills
// a process that has no handler. Pages of a guarded range become zeros instead, and the range remembers it.
#ifndef QN_BASE_GUARD_H
#define QN_BASE_GUARD_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/base/status.h"

typedef struct qn_guard qn_guard;

// Guards [data, data + size), a mapping from its first page on. While there is a guard the process has our handler of
// SIGBUS, which hands signals from anywhere else to the handler that was there before; it is taken away with the last
// guard, unless the host has put another on top of it meanwhile. A host that does so must hand ours what it does not know.
// NULL when out of memory.
QN_CHECKED qn_guard *qn_guard_open(const void *data, size_t size);
// From now on only these bytes of it, which begin at a page; none is allowed. Others are not read from a file any more.
void qn_guard_narrow(qn_guard *guard, const void *data, size_t size);
// Were bytes lost since it was opened? What was read of the range is worth nothing then.
bool qn_guard_lost(const qn_guard *guard);
void qn_guard_close(qn_guard *guard);  // before the mapping is; NULL is harmless

#endif
