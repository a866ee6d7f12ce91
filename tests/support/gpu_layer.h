// One layer of a decoder at a model's true shapes, as text for qn_run_create: what the figures about GPUs are of.
#ifndef QN_TESTS_SUPPORT_GPU_LAYER_H
#define QN_TESTS_SUPPORT_GPU_LAYER_H

#include <stddef.h>

#include "tests/support/synth.h"

extern const char qn_gpu_layer[];
// Its sizes, for steps of up to `prompt` tokens, or of one after `depth` others. format: of the matrices.
void qn_gpu_layer_sizes(const qn_synth_model *model, const char *format, int prompt, int depth, char *out, size_t size);

#endif
