// Single calls of kernels on a device: of an artifact's variants, to check what they compute, and of other code, to time
// it.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/device_cuda_impl.h"

enum { SYMBOLS = QN_ARTIFACT_SYMBOLS - 1, GUARD_BYTES = 256, GUARD = 0xa5 };

// A call under way.
typedef struct calling {
  qn_cuda *c;  // borrowed
  const qn_cuda_call *call;
  qn_cu_stream stream;
  qn_cu_address *memory;  // owned: one a parameter, with a guard behind it
  void **params;          // owned: addresses of what the kernel gets
  int values[SYMBOLS];
} calling;

static qn_status begin(calling *k, qn_diag *diag) {
  const qn_cuda *c = k->c;
  size_t room = k->call->count + 1;
  k->memory = qn_alloc_zeroed(c->allocator, room * sizeof *k->memory);
  k->params = qn_alloc_zeroed(c->allocator, (room + SYMBOLS) * sizeof *k->params);
  if (!k->memory || !k->params) return qn_fail_nomem(diag, c->where, "a call");
  QN_TRY(qn_cuda_try(c, c->driver.stream_create(&k->stream, QN_CU_STREAM_NON_BLOCKING), "making a stream", diag));
  for (size_t i = 0; i < k->call->count; i++) {
    size_t size = k->call->sizes[i];
    QN_TRY(qn_cuda_take(c, size + GUARD_BYTES, "a kernel's parameter", "close what else uses the device",
                        &k->memory[i], diag));
    qn_cu_result result = c->driver.fill(k->memory[i] + size, GUARD, GUARD_BYTES, k->stream);
    if (result == QN_CU_SUCCESS && size > 0)
      result = c->driver.to_device(k->memory[i], k->call->buffers[i], size, k->stream);
    QN_TRY(qn_cuda_try(c, result, "bringing a kernel's parameter", diag));
    k->params[i] = &k->memory[i];
  }
  for (int s = 0; s < SYMBOLS; s++) {
    k->values[s] = (int)k->call->symbols[s + 1];
    k->params[k->call->count + (size_t)s] = &k->values[s];
  }
  return qn_cuda_try(c, c->driver.stream_wait(k->stream), "bringing a kernel's parameters", diag);
}

static void end(calling *k) {
  const qn_cuda *c = k->c;
  size_t room = k->call->count + 1;
  for (size_t i = 0; k->memory && i < k->call->count; i++)
    if (k->memory[i]) c->driver.give_back(k->memory[i]);
  if (k->stream) c->driver.stream_destroy(k->stream);
  qn_free(c->allocator, k->memory, room * sizeof *k->memory);
  qn_free(c->allocator, k->params, (room + SYMBOLS) * sizeof *k->params);
}

static qn_status explain(const calling *k, const char *name, qn_cu_result result, qn_diag *diag) {
  char text[256];
  if (result == QN_CU_SUCCESS) return QN_OK;
  qn_cuda_describe(&k->c->driver, result, text, sizeof text);
  return qn_fail(diag, QN_ERR_INTERNAL, k->c->where, "kernel '%s' %s: %s", name,
                 qn_cuda_is_fault(result) ? "faulted" : "cannot be run", text);
}

static qn_cu_result start_kernel(calling *k, qn_cu_function function, unsigned blocks, const qn_art_launch *shape) {
  return k->c->driver.launch(function, blocks, 1, 1, shape->lanes * shape->groups, 1, 1, shape->shared_bytes, k->stream,
                             k->params, NULL);
}

static qn_status run_kernel(calling *k, qn_cu_function function, const char *name, unsigned blocks,
                            const qn_art_launch *shape, qn_diag *diag) {
  qn_cu_result result = start_kernel(k, function, blocks, shape);
  if (result == QN_CU_SUCCESS) result = k->c->driver.stream_wait(k->stream);
  return explain(k, name, result, diag);
}

// What it wrote comes back; *out_outside is the number of a parameter behind whose end it wrote, -1 = none.
static qn_status take_results(calling *k, int64_t *out_outside, qn_diag *diag) {
  const qn_cuda_driver *d = &k->c->driver;
  *out_outside = -1;
  for (size_t i = 0; i < k->call->count; i++) {
    uint8_t guard[GUARD_BYTES];
    size_t size = k->call->sizes[i];
    if (!k->call->written[i]) continue;
    qn_cu_result result = QN_CU_SUCCESS;
    if (size > 0) result = d->to_host(k->call->buffers[i], k->memory[i], size, k->stream);
    if (result == QN_CU_SUCCESS) result = d->to_host(guard, k->memory[i] + size, GUARD_BYTES, k->stream);
    if (result == QN_CU_SUCCESS) result = d->stream_wait(k->stream);
    QN_TRY(qn_cuda_try(k->c, result, "bringing a kernel's results", diag));
    for (size_t at = 0; at < GUARD_BYTES; at++)
      if (guard[at] != GUARD) *out_outside = (int64_t)i;
  }
  return QN_OK;
}

qn_status qn_cuda_call_variant(qn_cuda *c, uint32_t index, const qn_cuda_call *call, int64_t *out_outside,
                               qn_diag *diag) {
  uint32_t first = 0, count = 0;
  *out_outside = -1;
  qn_artifact_plan(c->artifact, c->code->plan, &first, &count);
  const qn_art_variant *variant = &c->artifact->variants[first + index];
  const qn_art_launch *shape = &qn_art_code_launches(c->code)[index];
  int64_t blocks = (qn_artifact_extent(variant, call->symbols) + shape->groups - 1) / shape->groups;
  const char *name = c->artifact->strings + variant->name;
  calling k = {.c = c, .call = call};
  QN_TRY(qn_cuda_enter(c, diag));
  qn_status status = begin(&k, diag);
  if (status == QN_OK && blocks > 0) status = run_kernel(&k, c->functions[index], name, (unsigned)blocks, shape, diag);
  if (status == QN_OK) status = take_results(&k, out_outside, diag);
  end(&k);
  qn_cuda_leave(c);
  return status;
}

// ---- other code

// The best of a few: the first warms up.
static qn_status time_function(calling *k, qn_cu_function function, const char *name, const qn_art_launch *shape,
                               unsigned blocks, double *out_seconds, qn_diag *diag) {
  enum { RUNS = 5 };
  const qn_cuda_driver *d = &k->c->driver;
  qn_cu_event before = NULL, after = NULL;
  qn_cu_result result = d->event_create(&before, 0);
  if (result == QN_CU_SUCCESS) result = d->event_create(&after, 0);
  qn_status status = qn_cuda_try(k->c, result, "making events", diag);
  for (int i = 0; status == QN_OK && i <= RUNS; i++) {
    float ms = 0;
    result = d->event_record(before, k->stream);
    if (result == QN_CU_SUCCESS) result = start_kernel(k, function, blocks, shape);
    if (result == QN_CU_SUCCESS) result = d->event_record(after, k->stream);
    if (result == QN_CU_SUCCESS) result = d->event_wait(after);
    if (result == QN_CU_SUCCESS) result = d->event_elapsed(&ms, before, after);
    status = explain(k, name, result, diag);
    double seconds = (double)ms * 1e-3;
    if (i > 0 && seconds > 0 && (*out_seconds == 0 || seconds < *out_seconds)) *out_seconds = seconds;
  }
  if (before) d->event_destroy(before);
  if (after) d->event_destroy(after);
  return status;
}

static qn_status load_image(qn_cuda *c, const qn_cuda_image *image, qn_cu_module *out, qn_diag *diag) {
  qn_cu_result result = QN_CU_NO_BINARY_FOR_GPU;
  if (image->cubin) result = c->driver.module_load(out, image->cubin, 0, NULL, NULL);
  if (result == QN_CU_NO_BINARY_FOR_GPU && image->ptx) result = c->driver.module_load(out, image->ptx, 0, NULL, NULL);
  return qn_cuda_try(c, result, "loading code", diag);
}

qn_status qn_cuda_time_code(qn_cuda *c, const qn_cuda_image *image, const char *name, const qn_art_launch *shape,
                            unsigned blocks, const qn_cuda_call *call, double *out_seconds, qn_diag *diag) {
  calling k = {.c = c, .call = call};
  qn_cu_module module = NULL;
  qn_cu_function function = NULL;
  *out_seconds = 0;
  QN_TRY(qn_cuda_enter(c, diag));
  qn_status status = load_image(c, image, &module, diag);
  if (status == QN_OK)
    status = qn_cuda_try(c, c->driver.module_function(&function, module, name), "finding a function", diag);
  if (status == QN_OK) status = begin(&k, diag);
  if (status == QN_OK) status = time_function(&k, function, name, shape, blocks, out_seconds, diag);
  end(&k);
  if (module) c->driver.module_unload(module);
  qn_cuda_leave(c);
  return status;
}

qn_status qn_cuda_multiprocessors(qn_cuda *c, int *out, qn_diag *diag) {
  *out = 0;
  qn_cu_result result = c->driver.device_attribute(out, QN_CU_MULTIPROCESSORS, c->info.index);
  return qn_cuda_try(c, result, "asking for its multiprocessors", diag);
}
