// NVRTC for tests, by dlopen: CUDA C++ text to PTX. It needs no driver.
#ifndef PTXSIM_SUPPORT_NVRTC_H
#define PTXSIM_SUPPORT_NVRTC_H

#include <stdbool.h>
#include <stddef.h>

// False, with the reason, when NVRTC or its headers are not here. The toolkit is looked for in $CUDA_HOME, $CUDA_PATH
// and /usr/local/cuda.
bool nvrtc_open(const char **out_reason);
// The PTX of a text for a target ("sm_80"), kept until the process ends; NULL with the compiler's log printed. When
// out_cubin is not NULL it gets the machine code too.
const char *nvrtc_ptx(const char *source, const char *target, const void **out_cubin, size_t *out_cubin_bytes);

#endif
