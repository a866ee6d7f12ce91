// The folder of what is kept from one compilation to the next.
#ifndef QUERN_FRONTEND_CACHE_H
#define QUERN_FRONTEND_CACHE_H

#include "runtime/base/str.h"

// Appends the path of the user's cache ($XDG_CACHE_HOME/quern or ~/.cache/quern), and behind it "/INSIDE" where that is
// not empty. False where there is no such place (neither variable is set) or memory runs out. Makes no folder.
bool quern_cache_folder(const char *inside, qn_buf *path);

#endif
