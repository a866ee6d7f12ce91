// Real models on a GPU: the same ids and the same logits, bit for bit, as on the CPU; a step of decoding is one graph,
// one launch and one wait. Needs NVRTC to compile; runs in the simulator, or on the driver that QUERN_TEST_LIBCUDA
// names.
#ifndef QN_TEST_GPU_SPEECH_H
#define QN_TEST_GPU_SPEECH_H

#include <stdint.h>

// Ends the test program as skipped where NVRTC or a device lacks. In the main process.
void qn_test_gpu_open(void);
// Compiles the model file for both, and has it generate `most` tokens greedily, and about as many drawn ones, whole and in chunks.
void qn_test_gpu_speaks(const char *model, const char *numeric, int64_t most);
// So many tokens, or fewer under sanitizers.
int64_t qn_test_gpu_tokens(int64_t plain);

#endif
