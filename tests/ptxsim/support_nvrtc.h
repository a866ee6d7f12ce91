// CUDA C++ text to PTX for tests, through the compiler's own binding to NVRTC.
#ifndef PTXSIM_SUPPORT_NVRTC_H
#define PTXSIM_SUPPORT_NVRTC_H

#include <stdbool.h>
#include <stddef.h>

// False, with the reason, when NVRTC is not here.
bool nvrtc_open(const char **out_reason);
// The PTX of a text for a target ("sm_80"), kept until the process ends. When out_cubin is not NULL it gets the machine
// code too. Asserts that it compiles.
const char *nvrtc_ptx(const char *source, const char *target, const void **out_cubin, size_t *out_cubin_bytes);

#endif
