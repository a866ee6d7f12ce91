// Timing kernels (timing.h).
#include "autotune/timing.h"

#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "runtime/threads.h"
#include "runtime/topology.h"

enum { MAX_CALLS = 256, MAX_COPIES = 4096, CACHES = 8 };
#define UNKNOWN_CACHE_BYTES ((uint64_t)32 << 20)
#define COPY_BYTES_MAX      ((uint64_t)1 << 30)
#define SAMPLE_S            1e-3

struct qn_timing {
  const qn_allocator *allocator;  // borrowed
  qn_inputs *inputs;              // owned
  qn_threads *threads;            // owned
  int copies;
  bool *rotates;    // owned: by parameter: its copies are taken in turn
  uint8_t *memory;  // mapped: all copies, one after another
  size_t memory_size;
  size_t *offsets;  // owned: by parameter, in a copy
  size_t copy_size;
  void **pointers;  // owned: [copies][parameters]
  int next;         // copy of the next call
  qn_work works[MAX_CALLS];
  _Atomic uint64_t *shares;  // owned: [works][threads]
};

static bool is_streamed(const qn_timing *t, size_t i, uint64_t model, int64_t pairs, uint64_t cache) {
  const qn_lbuf *param = t->inputs->subject.plain->params[i];
  qn_pbuf_kind kind = t->inputs->subject.params[i]->kind;
  if (kind == QN_PB_WEIGHT) return param->streamed && model > cache;
  return kind == QN_PB_CACHE && !param->writable && 2 * (uint64_t)pairs * t->inputs->buffers[i].size > cache;
}

// Enough copies that by the turn of the first one again its bytes are out of the last cache, of which not all throw out
// what was not used for longest: of half as much again as it holds, Zen 4's kept so much that 5 copies were read at 110
// GB/s where memory has 60.
static qn_status plan_copies(qn_timing *t, const qn_timing_options *o, qn_diag *diag) {
  const char *name = t->inputs->subject.plain->name;
  size_t count = t->inputs->count;
  uint64_t cache = o->last_cache_bytes ? o->last_cache_bytes : qn_topology_get()->l3_bytes;
  if (cache == 0) cache = UNKNOWN_CACHE_BYTES;
  t->rotates = qn_alloc_zeroed(t->allocator, (count + 1) * sizeof *t->rotates);
  t->offsets = qn_alloc_zeroed(t->allocator, (count + 1) * sizeof *t->offsets);
  if (!t->rotates || !t->offsets) return qn_fail_nomem(diag, name, "timing it");
  for (size_t i = 0; i < count; i++) {
    t->rotates[i] = is_streamed(t, i, o->model_bytes, o->cache_pairs, cache);
    t->offsets[i] = t->copy_size;
    if (t->rotates[i]) t->copy_size += qn_align_up(t->inputs->buffers[i].size, 4096);
  }
  t->copies = 1;
  if (t->copy_size == 0) return QN_OK;
  uint64_t wanted = CACHES * cache / t->copy_size + 2, most = COPY_BYTES_MAX / t->copy_size;
  if (wanted > most) wanted = most;
  if (wanted > MAX_COPIES) wanted = MAX_COPIES;
  t->copies = wanted < 2 ? 1 : (int)wanted;
  return QN_OK;
}

// Small pages, as those of an artifact's weights are.
static qn_status make_copies(qn_timing *t, qn_diag *diag) {
  size_t count = t->inputs->count;
  const char *name = t->inputs->subject.plain->name;
  t->pointers = qn_alloc_zeroed(t->allocator, ((size_t)t->copies * count + 1) * sizeof *t->pointers);
  if (!t->pointers) return qn_fail_nomem(diag, name, "timing it");
  if (t->copies > 1) {
    t->memory_size = t->copy_size * (size_t)t->copies;
    void *memory = mmap(NULL, t->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return qn_fail_nomem(diag, name, "copies of its weights");
    t->memory = memory;
    madvise(memory, t->memory_size, MADV_NOHUGEPAGE);
  }
  for (int copy = 0; copy < t->copies; copy++) {
    for (size_t i = 0; i < count; i++) {
      const qn_guarded *g = &t->inputs->buffers[i];
      uint8_t *data = g->data;
      if (t->copies > 1 && t->rotates[i]) {
        data = t->memory + (size_t)copy * t->copy_size + t->offsets[i];
        memcpy(data, g->data, g->size);
      }
      t->pointers[(size_t)copy * count + i] = data;
    }
  }
  return QN_OK;
}

static size_t share_bytes(const qn_timing *t) {
  return (size_t)MAX_CALLS * (size_t)qn_threads_created(t->threads) * sizeof *t->shares;
}

qn_status qn_timing_create(const qn_subject *subject, const qn_timing_options *o, const qn_allocator *allocator,
                           qn_timing **out, qn_diag *diag) {
  int64_t symbols[QN_SYM_COUNT];
  *out = NULL;
  qn_timing *t = qn_alloc_zeroed(allocator, sizeof *t);
  if (!t) return qn_fail_nomem(diag, subject->plain->name, "timing it");
  t->allocator = allocator;
  qn_subject_symbols(subject, o->rows, o->keys, 1, symbols);
  qn_status status = qn_inputs_create(subject, symbols, 0, QN_INPUTS_TIME, NULL, allocator, &t->inputs, diag);
  if (status == QN_OK) status = qn_threads_create(o->threads, true, allocator, &t->threads, diag);
  if (status == QN_OK) t->shares = qn_alloc_zeroed(allocator, share_bytes(t));
  if (status == QN_OK && !t->shares) status = qn_fail_nomem(diag, subject->plain->name, "timing it");
  if (status == QN_OK) status = plan_copies(t, o, diag);
  if (status == QN_OK) status = make_copies(t, diag);
  if (status == QN_OK) {
    *out = t;
  } else {
    qn_timing_destroy(t);
  }
  return status;
}

void qn_timing_destroy(qn_timing *t) {
  if (!t) return;
  if (t->threads) qn_free(t->allocator, t->shares, share_bytes(t));
  qn_threads_destroy(t->threads);
  if (t->memory) munmap(t->memory, t->memory_size);
  if (t->inputs) {
    size_t count = t->inputs->count;
    qn_free(t->allocator, t->rotates, (count + 1) * sizeof *t->rotates);
    qn_free(t->allocator, t->offsets, (count + 1) * sizeof *t->offsets);
    qn_free(t->allocator, t->pointers, ((size_t)t->copies * count + 1) * sizeof *t->pointers);
  }
  qn_inputs_destroy(t->inputs);
  qn_free(t->allocator, t, sizeof *t);
}

typedef struct calls {
  qn_timing *timing;
  qn_kernel_entry entry;
  int first, count;  // copies: first + 0, first + 1, ...
} calls;

// Calls after one another, each when the one before is done, as steps with barriers are.
static void walk(void *context, int thread, int thread_count) {
  (void)thread_count;
  calls *c = context;
  qn_timing *t = c->timing;
  for (int i = 0; i < c->count; i++) {
    void *const *pointers = t->pointers + (size_t)((c->first + i) % t->copies) * t->inputs->count;
    int64_t begin, end;
    if (i > 0) qn_work_wait(t->threads, &t->works[i - 1]);
    while (qn_work_take(&t->works[i], thread, &begin, &end)) {
      c->entry(pointers, t->inputs->symbols, begin, end);
      qn_work_finish(t->threads, &t->works[i], end - begin);
    }
  }
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static double time_calls(qn_timing *t, qn_kernel_entry entry, int64_t extent, int count) {
  calls c = {t, entry, t->next, count};
  size_t threads = (size_t)qn_threads_created(t->threads);
  for (int i = 0; i < count; i++) {
    qn_work_reset(&t->works[i], (uint32_t)extent, t->shares + (size_t)i * threads, t->threads);
  }
  double begin = now();
  qn_threads_run(t->threads, walk, &c);
  double passed = now() - begin;
  t->next = (t->next + count) % t->copies;
  return passed / count;
}

void qn_timing_set(qn_timing *t, qn_setting setting) {
  int all = qn_threads_created(t->threads);
  qn_threads_use(t->threads, setting.threads > 0 ? setting.threads : all);
  qn_threads_set_spin(t->threads, setting.spin_us < 0 ? QN_THREADS_SPIN_NS : (uint64_t)setting.spin_us * 1000);
  qn_threads_set_grain(t->threads, setting.grain > 0 ? setting.grain : QN_THREADS_GRAIN);
}

double qn_timing_measure(qn_timing *t, qn_kernel_entry entry, qn_dim extent) {
  int64_t trips = qn_dim_at(extent, t->inputs->symbols);
  if (trips > QN_WORK_EXTENT_MAX) trips = QN_WORK_EXTENT_MAX;
  qn_threads_hold(t->threads);
  double once = time_calls(t, entry, trips, 1);
  if (once < SAMPLE_S) {
    double count = SAMPLE_S / (once > 1e-7 ? once : 1e-7) + 1;
    once = time_calls(t, entry, trips, count > MAX_CALLS ? MAX_CALLS : (int)count);
  }
  qn_threads_release(t->threads);
  return once;
}
