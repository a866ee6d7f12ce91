// Opens NVRTC, and closes it again.
#include "tests/support/need_nvrtc.h"

#include "codegen/cuda/nvrtc.h"
#include "tests/support/test.h"

void qn_test_need_nvrtc(void) {
  qn_diag diag = {0};
  qn_nvrtc *nvrtc = NULL;
  if (qn_nvrtc_open(NULL, qn_allocator_default(), &nvrtc, &diag) != QN_OK) qn_test_skip("%s", diag.text);
  qn_nvrtc_close(nvrtc);
}
