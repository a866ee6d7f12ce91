// Reads the option structs of older and newer callers, and fills in their result structs.
#include "runtime/base/options.h"

#include <string.h>

qn_status qn_options_take(const void *options, const char *type, void *own, size_t own_size, qn_diag *diag) {
  size_t size = own_size;
  memset(own, 0, own_size);
  if (options) memcpy(&size, options, sizeof size);
  if (size < sizeof size)
    return qn_fail(diag, QN_ERR_ARGUMENT, "options", "got size %zu, want sizeof(%s) in it", size, type);
  const char *bytes = options;
  for (size_t i = own_size; options && i < size; i++) {
    if (bytes[i] != 0)
      return qn_fail(diag, QN_ERR_ARGUMENT, "options",
                     "got something in byte %zu of a %s of %zu bytes, want only the %zu that this library knows", i,
                     type, size, own_size);
  }
  if (options) memcpy(own, options, size < own_size ? size : own_size);
  memcpy(own, &own_size, sizeof own_size);
  return QN_OK;
}

static qn_status fail_size(size_t size, const char *type, qn_diag *diag) {
  return qn_fail(diag, QN_ERR_ARGUMENT, type, "got size %zu, want sizeof(%s) in it", size, type);
}

qn_status qn_result_check(const void *result, const char *type, qn_diag *diag) {
  size_t size = sizeof size;
  if (result) memcpy(&size, result, sizeof size);
  return size >= sizeof size ? QN_OK : fail_size(size, type, diag);
}

bool qn_result_is_short(const void *result, size_t least) {
  size_t size = 0;
  if (result) memcpy(&size, result, sizeof size);
  return size < least;
}

qn_status qn_result_check_owner(const void *result, const char *type, size_t least, qn_diag *diag) {
  size_t size = 0;
  if (!result) return qn_fail(diag, QN_ERR_ARGUMENT, type, "got NULL, want a struct to fill in");
  memcpy(&size, result, sizeof size);
  return size >= least ? QN_OK : fail_size(size, type, diag);
}

void qn_result_give(void *result, const void *own, size_t own_size) {
  size_t size = 0;
  if (result) memcpy(&size, result, sizeof size);
  if (size < sizeof size) return;
  memset((char *)result + sizeof size, 0, size - sizeof size);
  size_t known = (size < own_size ? size : own_size) - sizeof size;
  if (own) memcpy((char *)result + sizeof size, (const char *)own + sizeof size, known);
}
