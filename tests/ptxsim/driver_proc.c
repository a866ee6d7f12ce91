// cuGetProcAddress: calls by name, in the newest version that the simulated driver has.
#include <stdio.h>
#include <string.h>

#include "tests/ptxsim/driver.h"
#include "tests/ptxsim/driver_api.h"

typedef void (*call)(void);
static const struct {
  const char *name;
  call function;
} calls[] = {
#define PS_CALL(name) {#name, (call)name},
    PS_CALLS(PS_CALL)
#undef PS_CALL
};

// Names without a version that stand for another one than <name>_v2 or themselves.
static const struct {
  const char *name, *stands_for;
} renamed[] = {{"cuGraphInstantiate", "cuGraphInstantiateWithFlags"}};

static call find(const char *name) {
  for (size_t k = 0; k < QN_COUNT(calls); k++) {
    if (strcmp(calls[k].name, name) == 0) return calls[k].function;
  }
  return NULL;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **out, int version, uint64_t flags, int *status) {
  (void)flags;
  enum { FOUND = 0, NOT_FOUND = 1, TOO_OLD = 2 };
  *out = NULL;
  CUresult r = ps_enter(PS_NEED_NOTHING);
  if (r != CUDA_SUCCESS) return r;
  if (version > ps_the_driver.version) {
    if (status != NULL) *status = TOO_OLD;
    return ps_leave(ps_error(CUDA_ERROR_NOT_FOUND, "'%s' of CUDA %d, and the driver is %d", symbol, version,
                             ps_the_driver.version));
  }
  char versioned[128];
  snprintf(versioned, sizeof versioned, "%s_v2", symbol);
  call found = find(versioned);
  if (found == NULL) found = find(symbol);
  for (size_t k = 0; k < QN_COUNT(renamed) && found == NULL; k++) {
    if (strcmp(renamed[k].name, symbol) == 0) found = find(renamed[k].stands_for);
  }
  if (status != NULL) *status = found != NULL ? FOUND : NOT_FOUND;
  if (found == NULL) return ps_leave(ps_error(CUDA_ERROR_NOT_FOUND, "the driver has no call '%s'", symbol));
  memcpy(out, &found, sizeof found);
  return ps_leave(CUDA_SUCCESS);
}

CUresult cuGetProcAddress(const char *symbol, void **out, int version, uint64_t flags) {
  return cuGetProcAddress_v2(symbol, out, version, flags, NULL);
}

// Tables of calls that are no part of the documented interface begin with their size in bytes; ours hold nothing. NVRTC
// asks for one where the process has loaded a libcuda, and goes by the size.
CUresult cuGetExportTable(const void **out, const CUuuid *id) {
  static const size_t empty[2] = {sizeof empty[0], 0};
  (void)id;
  *out = empty;
  return CUDA_SUCCESS;
}
