// NVRTC for the simulator's tests.
#include "tests/ptxsim/support_nvrtc.h"

#include <stdlib.h>

#include "codegen/cuda/nvrtc.h"
#include "tests/support/test.h"

static qn_nvrtc *nvrtc;  // until the process ends
static qn_diag diag;

bool nvrtc_open(const char **out_reason) {
  if (nvrtc == NULL && qn_nvrtc_open(NULL, qn_allocator_default(), &nvrtc, &diag) != QN_OK) *out_reason = diag.text;
  return nvrtc != NULL;
}

const char *nvrtc_ptx(const char *source, const char *target, const void **out_cubin, size_t *out_cubin_bytes) {
  qn_nvrtc_code code;
  qn_assert_ok(&diag, qn_nvrtc_compile(nvrtc, "test.cu", source, atoi(target + 3), &code, &diag));
  if (out_cubin != NULL) {
    *out_cubin = code.cubin;
    *out_cubin_bytes = code.cubin_size;
  }
  return code.ptx;
}
