// The folder of compiled models: what cache.c asks of cache_folder.c.
#ifndef QUERN_FRONTEND_CACHE_H
#define QUERN_FRONTEND_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/diag.h"
#include "runtime/base/str.h"

// Appends the path of the user's cache, and behind it "/INSIDE" where that is not empty, for what else is kept from one
// compilation to the next. False where there is none (neither variable is set; it is somebody else's) or memory runs out.
// The cache's own folder is there then, INSIDE perhaps not.
bool quern_cache_folder(const char *inside, qn_buf *path);
// The folder where NVRTC's results are kept, $QUERN_NVRTC_CACHE or "nvrtc" of the cache; NULL = there is none. The text is
// in `path`, which is initialised.
const char *quern_nvrtc_folder(qn_buf *path);

// The folder's path ($XDG_CACHE_HOME/quern or ~/.cache/quern) into `out`, not yet there. IO when neither is set.
QN_CHECKED qn_status quern_cache_folder_name(qn_buf *out, qn_diag *diag);
// The same, made if it is not there: the user's own, and nobody else may enter it (0700). Code from it is run, so one
// that somebody else owns is refused (IO).
QN_CHECKED qn_status quern_cache_folder_make(qn_buf *out, qn_diag *diag);

// Is there a file that may be used: a regular one that the user owns? What is there otherwise is removed.
bool quern_cache_has(const char *path);
// It was used just now.
void quern_cache_touch(const char *path);

// Bytes that the cache may take ($QUERN_CACHE_LIMIT, or 32 GiB); UINT64_MAX = any. ARGUMENT when the variable says
// none.
QN_CHECKED qn_status quern_cache_limit(uint64_t *out_bytes, qn_diag *diag);
// Removes those entries (artifacts and what NVRTC made) that were not used for the longest time until at most `most` bytes are left, but never `keep` (a path;
// NULL = none), and what compilations that were killed have left. *out_removed (may be NULL): bytes.
QN_CHECKED qn_status quern_cache_evict(uint64_t most, const char *keep, uint64_t *out_removed, qn_diag *diag);
// The same down to the limit, for who has just added something; what goes wrong is told in the log.
void quern_cache_hold_limit(const char *keep);

#endif
