// Which of an artifact's code a GPU runs, and loading it: the machine code where it is for this chip, else the PTX
// beside it, which the driver compiles.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/device_cuda_impl.h"

// --- choosing

// The targets for GPUs in the artifact, into a text; "" when there are none.
static void list_targets(const qn_artifact *a, char *out, size_t size) {
  const qn_art_code *code;
  out[0] = '\0';
  for (uint32_t i = 0; (code = qn_artifact_code_at(a, i)) != NULL; i++) {
    size_t used = strlen(out);
    if (code->arch == QN_ART_CUDA) snprintf(out + used, size - used, "%s%s", used ? ", " : "", code->target);
  }
}

// The code for the newest chip that is not newer than this one: it knows most of what the chip can do.
static qn_status choose(qn_cuda *c, const char *target, qn_diag *diag) {
  const qn_artifact *a = c->artifact;
  const qn_art_code *code, *named = NULL;
  char known[512];
  int best = 0;
  for (uint32_t i = 0; (code = qn_artifact_code_at(a, i)) != NULL; i++) {
    if (code->arch != QN_ART_CUDA) continue;
    if (target && strcmp(target, code->target) != 0) continue;
    named = code;
    int sm = qn_art_code_sm(code);
    if (sm > c->info.sm || sm <= best) continue;
    best = sm;
    c->code = code;
  }
  if (c->code) return QN_OK;
  list_targets(a, known, sizeof known);
  if (!known[0]) {
    return qn_fail(diag, QN_ERR_TARGET, a->path,
                   "there is no code for GPUs in this artifact; compile it with --target "
                   "cuda:sm_%d",
                   c->info.sm);
  }
  if (target && !named)
    return qn_fail(diag, QN_ERR_ARGUMENT, a->path, "got target '%s', want one of: %s", target, known);
  return qn_fail(diag, QN_ERR_TARGET, c->where,
                 "too old a chip: it is sm_%d, and %s has code for: %s; compile for it with --target cuda:sm_%d",
                 c->info.sm, a->path, known, c->info.sm);
}

// --- loading

static qn_cu_result load_image(qn_cuda *c, const void *image, char *log, size_t log_bytes) {
  int options[] = {QN_CU_JIT_ERROR_LOG, QN_CU_JIT_ERROR_LOG_BYTES};
  void *values[] = {log, (void *)(uintptr_t)log_bytes};
  log[0] = '\0';
  return c->driver.module_load(&c->module, image, (unsigned)QN_COUNT(options), options, values);
}

static qn_status load_failed(const qn_cuda *c, qn_cu_result result, const char *form, const char *log, qn_diag *diag) {
  const char *path = c->artifact->path;
  char text[256];
  qn_cuda_describe(&c->driver, result, text, sizeof text);
  switch (result) {
    case QN_CU_INVALID_IMAGE:
      return qn_fail(diag, QN_ERR_FORMAT, path, "target '%s': the %s is corrupt, %s refuses it: %s; compile it again",
                     c->code->target, form, c->where, text);
    case QN_CU_INVALID_PTX:
      return qn_fail(diag, QN_ERR_FORMAT, path, "target '%s': the driver of %s cannot compile the PTX: %s%s%.500s",
                     c->code->target, c->where, text, *log ? ": " : "", log);
    case QN_CU_UNSUPPORTED_PTX_VERSION:
    case QN_CU_JIT_COMPILER_NOT_FOUND:
      return qn_fail(diag, QN_ERR_TARGET, c->where,
                     "the driver (CUDA %d.%d) is older than the compiler that made the PTX of target '%s': %s; update "
                     "the driver, or compile with an older NVRTC",
                     c->info.driver_version / 1000, c->info.driver_version % 1000 / 10, c->code->target, text);
    case QN_CU_NO_BINARY_FOR_GPU:
      return qn_fail(diag, QN_ERR_TARGET, c->where,
                     "runs neither the machine code nor the PTX of target '%s' in %s: %s; compile for it with --target "
                     "cuda:sm_%d",
                     c->code->target, path, text, c->info.sm);
    case QN_CU_OUT_OF_MEMORY:
      return qn_fail(diag, QN_ERR_NOMEM, c->where, "out of memory for the code of target '%s': %s", c->code->target,
                     text);
    default: return qn_cuda_try(c, result, "loading the code", diag);
  }
}

// Machine code is for one major version of chips, from its minor one on; PTX is for later chips. Damaged machine code
// is an error and no reason to take the PTX: who made the artifact should know.
static qn_status load_module(qn_cuda *c, qn_diag *diag) {
  const uint8_t *image = (const uint8_t *)c->code + c->code->image_offset;
  const uint8_t *ptx = image + c->code->cubin_size;
  int sm = qn_art_code_sm(c->code);
  char log[1024];
  qn_cu_result result = QN_CU_NO_BINARY_FOR_GPU;
  if (c->code->cubin_size > 0 && sm / 10 == c->info.sm / 10) result = load_image(c, image, log, sizeof log);
  if (result == QN_CU_SUCCESS) return QN_OK;
  if (result != QN_CU_NO_BINARY_FOR_GPU || c->code->ptx_size == 0)
    return load_failed(c, result, "machine code", "", diag);
  c->from_ptx = true;
  result = load_image(c, ptx, log, sizeof log);
  return result == QN_CU_SUCCESS ? QN_OK : load_failed(c, result, "PTX", log, diag);
}

static qn_status find_function(qn_cuda *c, uint32_t index, uint32_t variant, int shared_max, qn_diag *diag) {
  enum { SHARED_WITHOUT_ASKING = 48 << 10 };
  const qn_cuda_driver *d = &c->driver;
  const qn_art_launch *launch = &qn_art_code_launches(c->code)[index];
  const char *name = c->artifact->strings + c->artifact->variants[variant].name;
  qn_cu_result result = d->module_function(&c->functions[index], c->module, name);
  if (result == QN_CU_NOT_FOUND) {
    return qn_fail(diag, QN_ERR_FORMAT, c->artifact->path, "target '%s': got no function '%s' in its code",
                   c->code->target, name);
  }
  QN_TRY(qn_cuda_try(c, result, "finding a function", diag));
  if (launch->shared_bytes <= SHARED_WITHOUT_ASKING) return QN_OK;
  if (launch->shared_bytes > (uint32_t)shared_max) {
    return qn_fail(diag, QN_ERR_TARGET, c->where,
                   "kernel '%s' wants %" PRIu32
                   " bytes of shared memory a block, and there are %d; compile for this chip "
                   "with --target cuda:sm_%d",
                   name, launch->shared_bytes, shared_max, c->info.sm);
  }
  result = d->function_set(c->functions[index], QN_CU_FUNC_DYNAMIC_SHARED_MAX, (int)launch->shared_bytes);
  return qn_cuda_try(c, result, "allowing a kernel its shared memory", diag);
}

qn_status qn_cuda_load_code(qn_cuda *c, const char *target, qn_diag *diag) {
  uint32_t first = 0;
  int shared_max = 0;
  QN_TRY(choose(c, target, diag));
  QN_TRY(load_module(c, diag));
  qn_artifact_plan(c->artifact, c->code->plan, &first, &c->function_count);
  size_t room = c->function_count ? c->function_count : 1;
  c->functions = qn_alloc_zeroed(c->allocator, room * sizeof *c->functions);
  if (!c->functions) return qn_fail_nomem(diag, c->artifact->path, "the kernels' functions");
  qn_cu_result result = c->driver.device_attribute(&shared_max, QN_CU_SHARED_BYTES_MAX, c->info.index);
  QN_TRY(qn_cuda_try(c, result, "asking for its shared memory", diag));
  for (uint32_t i = 0; i < c->function_count; i++) QN_TRY(find_function(c, i, first + i, shared_max, diag));
  return QN_OK;
}
