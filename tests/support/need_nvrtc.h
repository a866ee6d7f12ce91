// Tests that compile for GPUs are skipped where there is nothing to compile with.
#ifndef QN_TESTS_SUPPORT_NEED_NVRTC_H
#define QN_TESTS_SUPPORT_NEED_NVRTC_H

// Ends the test program as skipped where NVRTC lacks, with the reason. In the main process.
void qn_test_need_nvrtc(void);

#endif
