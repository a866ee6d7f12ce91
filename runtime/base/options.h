// Option and result structs of the public interface, whose first field is their size, set by the caller: how an older or
// newer caller's is read, and filled in.
#ifndef QN_BASE_OPTIONS_H
#define QN_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/base/diag.h"

// Copies what both sides know into `own` (own_size bytes, first a size_t that becomes own_size). What lies beyond the
// caller's size is zero, which means the default; what lies beyond ours must be zero, since it asks for something that
// this library does not know. `options` NULL = all zero. `type` is the struct's name, for messages.
// ARGUMENT when the size is less than that of a size_t.
QN_CHECKED qn_status qn_options_take(const void *options, const char *type, void *own, size_t own_size, qn_diag *diag);

// Of a struct that is to be filled in, before anything is done: ARGUMENT when its size is less than that of a size_t. NULL is
// nobody's, and right.
QN_CHECKED qn_status qn_result_check(const void *result, const char *type, qn_diag *diag);
// The same of a struct that owns memory: ARGUMENT also when it is NULL, or ends before the first `least` bytes, which hold what
// is to be freed.
QN_CHECKED qn_status qn_result_check_owner(const void *result, const char *type, size_t least, qn_diag *diag);
// Does it end before them? Then there is nothing in it to be freed.
bool qn_result_is_short(const void *result, size_t least);
// Fills in what it has of `own` (own_size bytes, first a size_t); what it has beyond is zeros, and so is all of it when `own`
// is NULL. Its size stays. A struct that qn_result_check refuses is left alone.
void qn_result_give(void *result, const void *own, size_t own_size);

#endif
