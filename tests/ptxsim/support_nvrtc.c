// NVRTC for the simulator's tests.
#include "tests/ptxsim/support_nvrtc.h"

#include <stdlib.h>

#include "codegen/cuda/nvrtc.h"
#include "tests/support/test.h"

static qn_nvrtc *nvrtc;  // until the process ends
static qn_diag diag;

// What was compiled, until the process ends.
typedef struct kept_code {
  qn_nvrtc_code code;
  struct kept_code *next;
} kept_code;
static kept_code *all_code;

bool nvrtc_open(const char **out_reason) {
  if (nvrtc == NULL && qn_nvrtc_open(NULL, qn_allocator_default(), &nvrtc, &diag) != QN_OK) *out_reason = diag.text;
  return nvrtc != NULL;
}

const char *nvrtc_ptx(const char *source, const char *target, const void **out_cubin, size_t *out_cubin_bytes) {
  kept_code *kept = calloc(1, sizeof *kept);
  ck_assert_ptr_nonnull(kept);
  qn_assert_ok(&diag, qn_nvrtc_compile(nvrtc, "test.cu", source, atoi(target + 3), &kept->code, &diag));
  kept->next = all_code;
  all_code = kept;
  if (out_cubin != NULL) {
    *out_cubin = kept->code.cubin;
    *out_cubin_bytes = kept->code.cubin_size;
  }
  return kept->code.ptx;
}
