// GPUs: which there are, opening one, its memory, and how fast that is.
#include "runtime/device_cuda.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/device_cuda_impl.h"

// --- which there are

static qn_status describe_device(const qn_cuda_driver *d, int index, qn_cuda_info *out, qn_diag *diag) {
  int major = 0, minor = 0;
  size_t bytes = 0;
  *out = (qn_cuda_info){.index = index, .driver_version = d->version_number};
  qn_cu_result result = d->device_name(out->name, (int)sizeof out->name, index);
  if (result == QN_CU_SUCCESS) result = d->device_memory(&bytes, index);
  if (result == QN_CU_SUCCESS) result = d->device_attribute(&major, QN_CU_CAPABILITY_MAJOR, index);
  if (result == QN_CU_SUCCESS) result = d->device_attribute(&minor, QN_CU_CAPABILITY_MINOR, index);
  out->memory_bytes = bytes;
  out->sm = major * 10 + minor;
  return qn_cuda_check(d, result, "CUDA", "asking what a device is", diag);
}

static qn_status count_devices(const qn_cuda_driver *d, int *out, qn_diag *diag) {
  *out = 0;
  QN_TRY(qn_cuda_check(d, d->device_count(out), "CUDA", "counting devices", diag));
  if (*out > 0) return QN_OK;
  return qn_fail(diag, QN_ERR_TARGET, "CUDA",
                 "no device: the driver finds no GPU; see nvidia-smi and "
                 "CUDA_VISIBLE_DEVICES");
}

qn_status qn_cuda_list(const char *library, qn_cuda_info *out, size_t capacity, size_t *out_count, qn_diag *diag) {
  qn_cuda_driver driver;
  int count = 0;
  *out_count = 0;
  QN_TRY(qn_cuda_driver_open(&driver, library, diag));
  QN_TRY(count_devices(&driver, &count, diag));
  for (int i = 0; i < count && (size_t)i < capacity; i++) QN_TRY(describe_device(&driver, i, &out[i], diag));
  *out_count = (size_t)count;
  return QN_OK;
}

qn_status qn_cuda_parse(const char *device, int *out_index, qn_diag *diag) {
  *out_index = 0;
  if (strcmp(device, "cuda") == 0) return QN_OK;
  if (strncmp(device, "cuda:", 5) == 0 && device[5] >= '0' && device[5] <= '9') {
    char *end;
    long index = strtol(device + 5, &end, 10);
    if (*end == '\0' && index <= 9999) {
      *out_index = (int)index;
      return QN_OK;
    }
  }
  return qn_fail(diag, QN_ERR_ARGUMENT, "device", "got '%s', want cpu, cuda or cuda:N", device);
}

static qn_status no_such_device(const qn_cuda_driver *d, int index, int count, qn_diag *diag) {
  char known[640] = "";
  for (int i = 0; i < count; i++) {
    qn_cuda_info info;
    size_t used = strlen(known);
    QN_TRY(describe_device(d, i, &info, diag));
    snprintf(known + used, sizeof known - used, "%scuda:%d (%s)", i ? ", " : "", i, info.name);
  }
  return qn_fail(diag, QN_ERR_ARGUMENT, "device", "got cuda:%d, want one of: %s", index, known);
}

// --- contexts and memory

qn_status qn_cuda_try(const qn_cuda *c, qn_cu_result result, const char *doing, qn_diag *diag) {
  return qn_cuda_check(&c->driver, result, c->where, doing, diag);
}

qn_status qn_cuda_enter(const qn_cuda *c, qn_diag *diag) {
  return qn_cuda_try(c, c->driver.context_push(c->context), "making its context current", diag);
}

void qn_cuda_leave(const qn_cuda *c) {
  qn_cu_context before;
  c->driver.context_pop(&before);
}

qn_status qn_cuda_take(const qn_cuda *c, size_t bytes, const char *what, const char *advice, qn_cu_address *out,
                       qn_diag *diag) {
  size_t unused = 0, total = 0;
  *out = 0;
  qn_cu_result result = c->driver.take(out, bytes);
  if (result != QN_CU_OUT_OF_MEMORY) return qn_cuda_try(c, result, "taking memory", diag);
  if (c->driver.memory_info(&unused, &total) != QN_CU_SUCCESS) unused = total = 0;
  return qn_fail(diag, QN_ERR_NOMEM, c->where, "out of memory for %s of %zu bytes: %zu of %zu are free; %s", what,
                 bytes, unused, total, advice);
}

qn_status qn_cuda_take_pinned(const qn_cuda *c, size_t bytes, const char *what, void **out, qn_diag *diag) {
  *out = NULL;
  qn_cu_result result = c->driver.take_pinned(out, bytes);
  if (result != QN_CU_OUT_OF_MEMORY) return qn_cuda_try(c, result, "taking pinned memory", diag);
  return qn_fail(diag, QN_ERR_NOMEM, c->where, "out of memory for %s of %zu bytes, pinned in the host's memory", what,
                 bytes);
}

// --- opening

static qn_status open_device(qn_cuda *c, const qn_cuda_open_options *options, qn_diag *diag) {
  int index = 0, count = 0;
  QN_TRY(qn_cuda_parse(options->device, &index, diag));
  QN_TRY(qn_cuda_driver_open(&c->driver, options->library, diag));
  QN_TRY(count_devices(&c->driver, &count, diag));
  if (index >= count) return no_such_device(&c->driver, index, count, diag);
  QN_TRY(describe_device(&c->driver, index, &c->info, diag));
  snprintf(c->where, sizeof c->where, "cuda:%d (%s)", index, c->info.name);
  return qn_cuda_try(c, c->driver.context_retain(&c->context, index), "making a context", diag);
}

static qn_status build(qn_cuda *c, const qn_cuda_open_options *options, qn_diag *diag) {
  QN_TRY(open_device(c, options, diag));
  QN_TRY(qn_cuda_enter(c, diag));
  qn_status status = qn_cuda_load_code(c, options->target, diag);
  if (status == QN_OK && !options->code_alone) status = qn_cuda_load_weights(c, diag);
  qn_cuda_leave(c);
  return status;
}

qn_status qn_cuda_open(const qn_artifact *artifact, const qn_cuda_open_options *options, const qn_allocator *allocator,
                       qn_cuda **out, qn_diag *diag) {
  *out = NULL;
  qn_cuda *c = qn_alloc_zeroed(allocator, sizeof *c);
  if (!c) return qn_fail_nomem(diag, artifact->path, "a device");
  c->artifact = artifact;
  c->allocator = allocator;
  qn_status status = build(c, options, diag);
  if (status == QN_OK) {
    *out = c;
  } else {
    qn_cuda_close(c);
  }
  return status;
}

void qn_cuda_close(qn_cuda *c) {
  if (!c) return;
  if (c->context && c->driver.context_push(c->context) == QN_CU_SUCCESS) {
    if (c->weights) c->driver.give_back(c->weights);
    if (c->module) c->driver.module_unload(c->module);
    qn_cuda_leave(c);
  }
  if (c->context) c->driver.context_release(c->info.index);
  qn_free(c->allocator, c->functions, (c->function_count ? c->function_count : 1) * sizeof *c->functions);
  qn_free(c->allocator, c, sizeof *c);
}

const qn_cuda_info *qn_cuda_get_info(const qn_cuda *c) { return &c->info; }
const qn_art_code *qn_cuda_code(const qn_cuda *c) { return c->code; }
bool qn_cuda_from_ptx(const qn_cuda *c) { return c->from_ptx; }

// --- how fast its memory is

// What a measurement holds; zero where nothing was taken.
typedef struct measurement {
  qn_cu_address memory;  // two halves
  size_t half;
  qn_cu_stream stream;
  qn_cu_event before, after;
} measurement;

static qn_status copy_once(const qn_cuda *c, const measurement *m, double *out_seconds, qn_diag *diag) {
  const qn_cuda_driver *d = &c->driver;
  float ms = 0;
  qn_cu_result result = d->event_record(m->before, m->stream);
  if (result == QN_CU_SUCCESS) result = d->copy(m->memory + m->half, m->memory, m->half, m->stream);
  if (result == QN_CU_SUCCESS) result = d->event_record(m->after, m->stream);
  if (result == QN_CU_SUCCESS) result = d->stream_wait(m->stream);
  if (result == QN_CU_SUCCESS) result = d->event_elapsed(&ms, m->before, m->after);
  *out_seconds = (double)ms * 1e-3;
  return qn_cuda_try(c, result, "copying, to measure its memory", diag);
}

static qn_status measure(const qn_cuda *c, measurement *m, double *out, qn_diag *diag) {
  enum { COPIES = 8, SHARE = 4 };
  const size_t most = (size_t)1 << 29, least = (size_t)1 << 20;
  const qn_cuda_driver *d = &c->driver;
  size_t unused = 0, total = 0;
  double best = 0;
  QN_TRY(qn_cuda_try(c, d->memory_info(&unused, &total), "asking for its free memory", diag));
  m->half = unused / SHARE < most ? unused / SHARE / 256 * 256 : most;
  if (m->half < least) m->half = least;
  QN_TRY(qn_cuda_take(c, 2 * m->half, "a measurement", "close other programs that use it", &m->memory, diag));
  qn_cu_result result = d->stream_create(&m->stream, QN_CU_STREAM_NON_BLOCKING);
  if (result == QN_CU_SUCCESS) result = d->event_create(&m->before, 0);
  if (result == QN_CU_SUCCESS) result = d->event_create(&m->after, 0);
  if (result == QN_CU_SUCCESS) result = d->fill(m->memory, 1, 2 * m->half, m->stream);
  QN_TRY(qn_cuda_try(c, result, "preparing a measurement", diag));
  for (int i = 0; i <= COPIES; i++) {  // the first warms up
    double seconds = 0;
    QN_TRY(copy_once(c, m, &seconds, diag));
    if (i > 0 && seconds > 0 && 2 * (double)m->half / seconds > best) best = 2 * (double)m->half / seconds;
  }
  *out = best;
  return QN_OK;
}

qn_status qn_cuda_measure_read(qn_cuda *c, double *out_bytes_per_s, qn_diag *diag) {
  measurement m = {0};
  *out_bytes_per_s = 0;
  QN_TRY(qn_cuda_enter(c, diag));
  qn_status status = measure(c, &m, out_bytes_per_s, diag);
  if (m.before) c->driver.event_destroy(m.before);
  if (m.after) c->driver.event_destroy(m.after);
  if (m.stream) c->driver.stream_destroy(m.stream);
  if (m.memory) c->driver.give_back(m.memory);
  qn_cuda_leave(c);
  return status;
}
