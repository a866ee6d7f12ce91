// What the files of frontend/ share beside the public API.
#ifndef QUERN_FRONTEND_COMPILE_H
#define QUERN_FRONTEND_COMPILE_H

// A text that is the same for the same build of the compiler (our code, LLVM's and MLIR's) and another for another one,
// so that artifacts cached by an older build are not taken for this one's. Static; the same for the whole process.
const char *quern_build_id(void);

#endif
