// Finding libcuda, checking that it is new enough, and saying what went wrong (device_cuda_driver.h).
#include "runtime/device_cuda_driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *symbol;
  size_t offset;
} SYMBOLS[] = {
#define QN_CUDA_SYMBOL(name, symbol, parameters) {#symbol, offsetof(qn_cuda_driver, name)},
    QN_CUDA_CALLS(QN_CUDA_SYMBOL)
#undef QN_CUDA_SYMBOL
};

static qn_status load(qn_cuda_driver *d, const char *path, qn_diag *diag) {
  d->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  const char *why = d->library ? NULL : dlerror();
  if (!d->library) {
    return qn_fail(diag, QN_ERR_TARGET, "CUDA",
                   "no driver: %s cannot be loaded (%s); a GPU needs NVIDIA's driver: install it, or name its library "
                   "with --libcuda or " QN_CUDA_LIBRARY_VARIABLE,
                   path, why ? why : "for no reason told");
  }
  for (size_t i = 0; i < QN_COUNT(SYMBOLS); i++) {
    void *address = dlsym(d->library, SYMBOLS[i].symbol);
    if (!address) {
      return qn_fail(diag, QN_ERR_TARGET, "CUDA",
                     "the driver is too old, or none: %s has no function %s, want the driver of CUDA %d.%d or later; "
                     "update it",
                     path, SYMBOLS[i].symbol, QN_CUDA_DRIVER_LEAST / 1000, QN_CUDA_DRIVER_LEAST % 1000 / 10);
    }
    memcpy((char *)d + SYMBOLS[i].offset, &address, sizeof address);
  }
  return QN_OK;
}

static qn_status start(qn_cuda_driver *d, const char *path, qn_diag *diag) {
  char text[256];
  QN_TRY(qn_cuda_check(d, d->version(&d->version_number), "CUDA", "asking the driver for its version", diag));
  if (d->version_number < QN_CUDA_DRIVER_LEAST) {
    return qn_fail(diag, QN_ERR_TARGET, "CUDA",
                   "the driver is too old: got one for CUDA %d.%d (%s), want CUDA %d.%d or later; update it",
                   d->version_number / 1000, d->version_number % 1000 / 10, path, QN_CUDA_DRIVER_LEAST / 1000,
                   QN_CUDA_DRIVER_LEAST % 1000 / 10);
  }
  qn_cu_result result = d->init(0);
  if (result == QN_CU_SUCCESS) return QN_OK;
  if (result == QN_CU_NO_DEVICE) {
    return qn_fail(diag, QN_ERR_TARGET, "CUDA",
                   "no device: the driver (CUDA %d.%d) finds no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES",
                   d->version_number / 1000, d->version_number % 1000 / 10);
  }
  qn_cuda_describe(d, result, text, sizeof text);
  return qn_fail(diag, QN_ERR_TARGET, "CUDA", "the driver (%s) does not start: %s; see nvidia-smi", path, text);
}

qn_status qn_cuda_driver_open(qn_cuda_driver *out, const char *path, qn_diag *diag) {
  *out = (qn_cuda_driver){0};
  if (!path || !*path) path = getenv(QN_CUDA_LIBRARY_VARIABLE);
  if (!path || !*path) path = QN_CUDA_LIBRARY;
  QN_TRY(load(out, path, diag));
  return start(out, path, diag);
}

void qn_cuda_describe(const qn_cuda_driver *d, qn_cu_result result, char *out, size_t size) {
  const char *name = NULL, *text = NULL;
  if (d->error_name(result, &name) != QN_CU_SUCCESS) name = NULL;
  if (d->error_text(result, &text) != QN_CU_SUCCESS) text = NULL;
  snprintf(out, size, "%s %d (%s)", name ? name : "CUDA error", result, text ? text : "not known to this driver");
}

bool qn_cuda_is_fault(qn_cu_result result) {
  static const qn_cu_result faults[] = {700, 702, 710, 714, 715,
                                        716, 717, 718, 719};  // ILLEGAL_ADDRESS to LAUNCH_FAILED
  for (size_t i = 0; i < QN_COUNT(faults); i++)
    if (faults[i] == result) return true;
  return false;
}

qn_status qn_cuda_check(const qn_cuda_driver *d, qn_cu_result result, const char *where, const char *doing,
                        qn_diag *diag) {
  char text[256];
  if (result == QN_CU_SUCCESS) return QN_OK;
  qn_cuda_describe(d, result, text, sizeof text);
  return qn_fail(diag, result == QN_CU_OUT_OF_MEMORY ? QN_ERR_NOMEM : QN_ERR_INTERNAL, where, "%s: %s", doing, text);
}
