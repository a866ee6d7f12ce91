// Memory that kernels work in: the host's own, or a device's, which the host does not read or write by itself.
#ifndef QN_RUNTIME_MEMORY_H
#define QN_RUNTIME_MEMORY_H

#include <stddef.h>

#include "runtime/base/diag.h"

// `context` goes to every call. Addresses are the device's: of a GPU's memory they must not be dereferenced.
typedef struct qn_memory {
  void *context;
  // Zeroed bytes (at least 1) at a multiple of 256. NOMEM says how many bytes `what` wants and, where that is known,
  // how many are free, and ends in `advice`.
  qn_status (*take)(void *context, size_t bytes, const char *where, const char *what, const char *advice, void **out,
                    qn_diag *diag);
  void (*give_back)(void *context, void *memory, size_t bytes);  // with the bytes that were taken
  // Returns when the bytes are there, and `from` may be changed.
  qn_status (*write)(void *context, void *to, const void *from, size_t bytes, qn_diag *diag);
  // The other way: returns when all that runs is done and the bytes are in `to`.
  qn_status (*read)(void *context, void *to, const void *from, size_t bytes, qn_diag *diag);
  // Within the memory, after all that was asked for before and before all that is asked for later. No overlaps.
  qn_status (*copy)(void *context, void *to, const void *from, size_t bytes, qn_diag *diag);
} qn_memory;

// The host's: pages that take physical memory once they are written, huge ones where the system has some, spread over
// the NUMA nodes. Without context.
const qn_memory *qn_memory_host(void);

#endif
