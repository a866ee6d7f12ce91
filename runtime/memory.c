// The host's memory (memory.h).
#include "runtime/memory.h"

#include <string.h>
#include <sys/mman.h>

#include "runtime/topology.h"

static qn_status take(void *context, size_t bytes, const char *where, const char *what, const char *advice, void **out,
                      qn_diag *diag) {
  (void)context;
  *out = NULL;
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return qn_fail(diag, QN_ERR_NOMEM, where, "out of memory for %s of %zu bytes; %s", what, bytes, advice);
  }
  madvise(memory, bytes, MADV_HUGEPAGE);
  qn_topology_interleave(memory, bytes);
  *out = memory;
  return QN_OK;
}

static void give_back(void *context, void *memory, size_t bytes) {
  (void)context;
  if (memory) munmap(memory, bytes);
}

static qn_status put(void *context, void *to, const void *from, size_t bytes, qn_diag *diag) {
  (void)context, (void)diag;
  memcpy(to, from, bytes);
  return QN_OK;
}

const qn_memory *qn_memory_host(void) {
  static const qn_memory host = {.take = take, .give_back = give_back, .write = put, .read = put, .copy = put};
  return &host;
}
