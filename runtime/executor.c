// What executors of all devices share: the program's buffers by name, what is bound, which variant a step takes.
#include "runtime/executor.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "runtime/executor_impl.h"

uint64_t qn_executor_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void *qn_executor_array(const qn_executor *e, size_t count, size_t size) {
  size_t bytes = 0;
  return qn_size_mul(count ? count : 1, size, &bytes) ? qn_alloc_zeroed(e->allocator, bytes) : NULL;
}
void qn_executor_free_array(const qn_executor *e, void *pointer, size_t count, size_t size) {
  qn_free(e->allocator, pointer, (count ? count : 1) * size);
}

// --- life

qn_status qn_executor_new(const qn_executor_class *class, size_t size, const qn_artifact *artifact,
                          const qn_allocator *allocator, size_t profile_threads, qn_executor **out, qn_diag *diag) {
  const qn_art_program *p = artifact->program;
  *out = NULL;
  qn_executor *e = qn_alloc_zeroed(allocator, size);
  if (!e) return qn_fail_nomem(diag, artifact->path, "the executor");
  *e = (qn_executor){
      .class = class, .artifact = artifact, .allocator = allocator, .size = size, .profile_threads = profile_threads};
  e->bases = qn_executor_array(e, p->buffer_count, sizeof *e->bases);
  e->unwanted = qn_executor_array(e, p->buffer_count, sizeof *e->unwanted);
  if (profile_threads > 0) e->profile = qn_executor_array(e, profile_threads * p->step_count, sizeof *e->profile);
  if (!e->bases || !e->unwanted || (profile_threads > 0 && !e->profile)) {
    qn_executor_deinit(e);
    return qn_fail_nomem(diag, artifact->path, "the executor");
  }
  for (uint32_t i = 0; i < p->buffer_count; i++) {
    uint32_t kind = artifact->buffers[i].kind;
    e->unbound += kind == QN_ART_CACHE || kind == QN_ART_INPUT;
  }
  *out = e;
  return QN_OK;
}

void qn_executor_deinit(qn_executor *e) {
  const qn_art_program *p = e->artifact->program;
  qn_executor_free_array(e, e->bases, p->buffer_count, sizeof *e->bases);
  qn_executor_free_array(e, e->unwanted, p->buffer_count, sizeof *e->unwanted);
  qn_executor_free_array(e, e->profile, e->profile_threads * p->step_count, sizeof *e->profile);
  qn_free(e->allocator, e, e->size);
}

void qn_executor_take_plan(qn_executor *e, uint32_t plan) {
  e->slices = qn_artifact_plan(e->artifact, plan, &e->first_variant, &e->variant_count);
}

qn_status qn_executor_create(const qn_artifact *artifact, qn_threads *threads, const qn_executor_options *options,
                             const qn_allocator *allocator, qn_executor **out, qn_diag *diag) {
  static const qn_executor_options none;
  if (!options) options = &none;
  if (options->cuda) return qn_cuda_executor_create(artifact, options, allocator, out, diag);
  return qn_cpu_executor_create(artifact, threads, options, allocator, out, diag);
}

void qn_executor_destroy(qn_executor *e) {
  if (e) e->class->destroy(e);
}

const char *qn_executor_target(const qn_executor *e) { return e->target; }
const qn_memory *qn_executor_memory(qn_executor *e) { return e->class->memory(e); }
void qn_executor_hold(qn_executor *e) { e->class->hold(e); }
void qn_executor_release(qn_executor *e) { e->class->release(e); }

// --- buffers by name

static const char *buffer_name(const qn_executor *e, const qn_art_buffer *b) { return e->artifact->strings + b->name; }

// Binds the buffer of this kind, name and layer; false when there is none.
static bool bind(qn_executor *e, qn_art_buffer_kind kind, const char *name, uint32_t layer, void *data) {
  for (uint32_t i = 0; i < e->artifact->program->buffer_count; i++) {
    const qn_art_buffer *b = &e->artifact->buffers[i];
    if (b->kind != (uint32_t)kind || b->layer != layer || strcmp(buffer_name(e, b), name) != 0) continue;
    if (!e->bases[i]) e->unbound--;
    e->bases[i] = data;
    e->class->bound(e, i);
    return true;
  }
  return false;
}

qn_status qn_executor_bind_input(qn_executor *e, const char *name, const void *data, qn_diag *diag) {
  if (!data) return qn_fail(diag, QN_ERR_ARGUMENT, e->artifact->path, "input '%s': got no memory", name);
  if (bind(e, QN_ART_INPUT, name, 0, (void *)(uintptr_t)data)) return QN_OK;
  char known[512] = "none";
  size_t used = 0;
  for (uint32_t i = 0; i < e->artifact->program->buffer_count && used < sizeof known; i++) {
    const qn_art_buffer *b = &e->artifact->buffers[i];
    if (b->kind != QN_ART_INPUT) continue;
    int length = snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", buffer_name(e, b));
    used += length > 0 ? (size_t)length : 0;
  }
  return qn_fail(diag, QN_ERR_ARGUMENT, e->artifact->path, "got input '%s'; the program's inputs are: %s", name, known);
}

qn_status qn_executor_bind_cache(qn_executor *e, const char *kind, uint32_t layer, void *pool, qn_diag *diag) {
  if (!pool)
    return qn_fail(diag, QN_ERR_ARGUMENT, e->artifact->path, "cache '%s' of layer %" PRIu32 ": got no memory", kind,
                   layer);
  if (bind(e, QN_ART_CACHE, kind, layer, pool)) return QN_OK;
  return qn_fail(diag, QN_ERR_ARGUMENT, e->artifact->path, "the program has no cache '%s' of layer %" PRIu32, kind,
                 layer);
}

// The output's index, or buffer_count.
static uint32_t find_output(const qn_executor *e, const char *name) {
  uint32_t i = 0;
  for (; i < e->artifact->program->buffer_count; i++) {
    const qn_art_buffer *b = &e->artifact->buffers[i];
    if (b->output && strcmp(buffer_name(e, b), name) == 0) break;
  }
  return i;
}

const void *qn_executor_output(const qn_executor *e, const char *name, const qn_art_buffer **out_buffer) {
  uint32_t i = find_output(e, name);
  if (i == e->artifact->program->buffer_count) return NULL;
  if (out_buffer) *out_buffer = &e->artifact->buffers[i];
  return e->class->output(e, i);
}

bool qn_executor_want(qn_executor *e, const char *name, bool wanted) {
  uint32_t i = find_output(e, name);
  if (i == e->artifact->program->buffer_count) return false;
  e->unwanted[i] = !wanted;
  return true;
}

// --- running

static qn_status check_bound(const qn_executor *e, qn_diag *diag) {
  for (uint32_t i = 0; e->unbound > 0 && i < e->artifact->program->buffer_count; i++) {
    const qn_art_buffer *b = &e->artifact->buffers[i];
    if (e->bases[i] || (b->kind != QN_ART_INPUT && b->kind != QN_ART_CACHE)) continue;
    if (b->kind == QN_ART_INPUT) {
      return qn_fail(diag, QN_ERR_ARGUMENT, e->artifact->path, "input '%s' is not bound", buffer_name(e, b));
    }
    return qn_fail(diag, QN_ERR_ARGUMENT, e->artifact->path, "cache '%s' of layer %" PRIu32 " is not bound",
                   buffer_name(e, b), b->layer);
  }
  return QN_OK;
}

static qn_status check_symbols(const qn_executor *e, const int64_t *symbols, qn_diag *diag) {
  static const char letters[QN_ARTIFACT_SYMBOLS] = {'-', 'T', 'R', 'P', 'B', 'G', 'S'};
  for (int s = 1; s < QN_ARTIFACT_SYMBOLS; s++) {
    int64_t most = e->artifact->program->symbol_max[s];
    if (symbols[s] >= 0 && symbols[s] <= (most ? most : INT32_MAX)) continue;
    return qn_fail(diag, QN_ERR_LIMIT, e->artifact->path, "symbol %c: got %" PRId64 ", want 0 to %" PRId64 "%s",
                   letters[s], symbols[s], most ? most : INT32_MAX, most ? " as the artifact was compiled" : "");
  }
  return QN_OK;
}

qn_status qn_executor_resolve(const qn_executor *e, uint32_t step, const int64_t *symbols, uint32_t *out_variant,
                              int64_t *out_extent, qn_diag *diag) {
  const qn_artifact *a = e->artifact;
  const qn_art_kernel *kernel = &a->kernels[a->steps[step].kernel];
  int64_t rows = kernel->rows_symbol ? symbols[kernel->rows_symbol] : 0;
  const qn_art_slice *slice = &e->slices[a->steps[step].kernel];
  uint32_t v = slice->first_variant, end = v + slice->variant_count;
  if (kernel->rows_symbol && rows > 0) {
    while (v < end && (rows < a->variants[v].rows_min || rows > a->variants[v].rows_max)) v++;
    if (v == end) {
      return qn_fail(diag, QN_ERR_FORMAT, a->path,
                     "kernel '%s': got %" PRId64 " rows, which none of its %" PRIu32 " variants is for",
                     a->strings + kernel->name, rows, slice->variant_count);
    }
  }
  const qn_art_variant *variant = &a->variants[v];
  int64_t extent = qn_artifact_extent(variant, symbols);
  if (extent > QN_WORK_EXTENT_MAX) {
    return qn_fail(diag, QN_ERR_LIMIT, a->path,
                   "kernel '%s': got a parallel loop of %" PRId64
                   " iterations, want at most %d; take fewer tokens a step",
                   a->strings + kernel->name, extent, QN_WORK_EXTENT_MAX);
  }
  *out_variant = v;
  *out_extent = kernel->rows_symbol && rows == 0 ? 0 : extent;  // a variant may be for one row exactly
  return QN_OK;
}

qn_status qn_executor_reserve(qn_executor *e, const int64_t symbols[QN_ARTIFACT_SYMBOLS], qn_diag *diag) {
  QN_TRY(check_symbols(e, symbols, diag));
  return e->class->reserve(e, symbols, diag);
}

qn_status qn_executor_run(qn_executor *e, const int64_t symbols[QN_ARTIFACT_SYMBOLS], qn_run_kind kind, qn_diag *diag) {
  if (e->unbound > 0) QN_TRY(check_bound(e, diag));
  QN_TRY(check_symbols(e, symbols, diag));
  uint64_t start = qn_executor_now_ns();
  QN_TRY(e->class->run(e, symbols, kind, diag));
  e->run_ns += qn_executor_now_ns() - start;
  return qn_mapping_check(&e->artifact->mapping, e->artifact->path, diag);  // weights that were lost read as zeros
}

void qn_executor_times(const qn_executor *e, uint64_t *out_kernel_ns, uint64_t *out_run_ns) {
  *out_kernel_ns = 0;
  for (size_t i = 0; e->profile && i < e->artifact->program->step_count; i++) *out_kernel_ns += e->profile[i].kernel_ns;
  *out_run_ns = e->run_ns;
}

const qn_step_profile *qn_executor_profile(const qn_executor *e) { return e->profile; }

uint64_t qn_executor_busy_ns(const qn_executor *e, size_t step) {
  uint64_t sum = 0;
  size_t steps = e->artifact->program->step_count;
  for (size_t t = 0; e->profile && t < e->profile_threads; t++) sum += e->profile[t * steps + step].kernel_ns;
  return sum;
}
