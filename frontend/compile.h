// What the files of frontend/ share beside the public API.
#ifndef QUERN_FRONTEND_COMPILE_H
#define QUERN_FRONTEND_COMPILE_H

#include <stddef.h>

// A text that is the same for the same build of the compiler (our code, LLVM's and MLIR's) and another for another one,
// so that artifacts cached by an older build are not taken for this one's. Static; the same for the whole process.
const char *quern_build_id(void);

// The first bytes of a regular file, at most `size` of them; how many there are. 0 for anything else: a pipe is not
// waited for.
size_t quern_file_head(const char *path, char *out, size_t size);

#endif
