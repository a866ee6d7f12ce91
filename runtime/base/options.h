// Option structs of the public interface, whose first field is their size: how an older or newer caller's is read.
#ifndef QN_BASE_OPTIONS_H
#define QN_BASE_OPTIONS_H

#include <stddef.h>

#include "runtime/base/diag.h"

// Copies what both sides know into `own` (own_size bytes, first a size_t that becomes own_size). What lies beyond the
// caller's size is zero, which means the default; what lies beyond ours must be zero, since it asks for something that
// this library does not know. `options` NULL = all zero. `type` is the struct's name, for messages.
// ARGUMENT when the size is less than that of a size_t.
QN_CHECKED qn_status qn_options_take(const void *options, const char *type, void *own, size_t own_size, qn_diag *diag);

#endif
