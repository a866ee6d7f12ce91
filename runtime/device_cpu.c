// The CPU: chooses and maps code, lays the step list out flat with every pointer resolved, and walks it: phase by
// phase, which are the steps that these symbol values let run together without a barrier.
#include <errno.h>
#include <fenv.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "runtime/base/str.h"
#include "runtime/cpu_features.h"
#include "runtime/executor_impl.h"
#include "runtime/topology.h"

// A step as the threads see it. entry and extent are those of the last symbol values.
typedef struct call {
  qn_kernel_entry entry;
  int64_t extent;
  uint32_t first_operand;  // of its buffers in a table of pointers
  bool in_parts;           // the variant is; see qn_art_variant
} call;

// Steps that a thread takes through together: those from `first` on are a prologue, which it does once for itself; of
// those from `head` to before `end` it takes pieces, each through all of them.
typedef struct phase {
  uint32_t first, head, end;
  uint32_t units;  // equal parts, of which a piece has some
  bool barrier;    // what was before is done first
} phase;

typedef struct cpu_executor {
  qn_executor base;
  qn_threads *threads;       // borrowed
  int decode_threads;        // of them, for runs of QN_RUN_STEP
  qn_kernel_entry *entries;  // owned: one a variant of the plan
  call *calls;               // owned: one a step
  phase *phases;             // owned: room for one a step
  uint32_t phase_count;      // for the last symbol values
  qn_work *works;            // owned: one a phase
  _Atomic uint64_t *shares;  // owned: of each phase's work, one a thread
  void **pointers;           // owned: one an operand
  void **own_pointers;       // owned: the same for each thread, with its own memory; NULL = nothing is a thread's own
  bool profile_faults;
  uint8_t *arena;  // mapped; the threads' own memory lies behind it
  void *image;     // mapped: a copy of the code where the file's pages cannot be made executable
  size_t arena_size, image_size;
  size_t own_start, own_stride;  // in the mapping: of thread 0's own memory, and from one thread's to the next
  int64_t symbols[QN_ARTIFACT_SYMBOLS];  // of `calls`
  bool resolved;                         // `calls` fits `symbols`
} cpu_executor;

// --- code

static size_t count_features(const char *list) {
  size_t count = *list ? 1 : 0;
  for (; *list; list++) count += *list == ',';
  return count;
}

// The features of `code` that are not here, into a text; false when it runs.
static bool missing_features(const qn_art_code *code, char *out, size_t size) {
  if (code->arch != qn_cpu_arch()) {
    snprintf(out, size, "%s (this is %s)", qn_cpu_arch_name(code->arch), qn_cpu_arch_name(qn_cpu_arch()));
    return true;
  }
  return qn_cpu_missing(code->required, out, size);
}

static const qn_art_code *code_section(const qn_artifact *artifact, uint32_t index) {
  size_t size = 0;
  return qn_artifact_section(artifact, QN_SECTION_CODE, index, &size);
}

static qn_status fail_target(const qn_artifact *artifact, const char *target, qn_diag *diag) {
  char known[512] = "", missing[512];
  size_t used = 0;
  const qn_art_code *code;
  for (uint32_t i = 0; (code = code_section(artifact, i)) != NULL && used < sizeof known; i++) {
    bool lacks = !target && missing_features(code, missing, sizeof missing);
    int length = snprintf(known + used, sizeof known - used, "%s%s%s%s", i ? "; " : "", code->target,
                          lacks ? " needs " : "", lacks ? missing : "");
    used += length > 0 ? (size_t)length : 0;
  }
  if (used == 0) {
    return qn_fail(diag, QN_ERR_TARGET, artifact->path,
                   "there is no machine code in this artifact; compile it with a target");
  }
  if (target) return qn_fail(diag, QN_ERR_ARGUMENT, artifact->path, "got target '%s', want one of: %s", target, known);
  return qn_fail(diag, QN_ERR_TARGET, artifact->path,
                 "this CPU runs none of the targets here: %s; compile for this machine", known);
}

qn_status qn_executor_choose_code(const qn_artifact *artifact, const char *target, const qn_art_code **out_code,
                                  qn_diag *diag) {
  const qn_art_code *code, *best = NULL;
  char missing[512];
  size_t best_count = 0;
  *out_code = NULL;
  for (uint32_t i = 0; (code = code_section(artifact, i)) != NULL; i++) {
    bool lacks = missing_features(code, missing, sizeof missing);
    if (target) {
      if (strcmp(target, code->target) != 0) continue;
      if (lacks)
        return qn_fail(diag, QN_ERR_TARGET, artifact->path, "target '%s' needs %s, which this CPU lacks", target,
                       missing);
      *out_code = code;
      return QN_OK;
    }
    size_t count = count_features(code->required);
    if (lacks || (best && count <= best_count)) continue;
    best = code;
    best_count = count;
  }
  if (!best) return fail_target(artifact, target, diag);
  *out_code = best;
  return QN_OK;
}

// The image, readable and executable: the file's own pages where the system allows it, otherwise a copy.
static qn_status map_image(cpu_executor *e, const qn_art_code *code, const uint8_t **out, qn_diag *diag) {
  const char *path = e->base.artifact->path;
  const uint8_t *image = (const uint8_t *)code + code->image_offset;
  size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (size_t)code->image_size;
  if ((uintptr_t)image % page == 0 && mprotect((void *)(uintptr_t)image, size, PROT_READ | PROT_EXEC) == 0) {
    *out = image;
    return QN_OK;
  }
  void *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED) return qn_fail_nomem(diag, path, "the machine code");
  memcpy(copy, image, size);
  __builtin___clear_cache((char *)copy, (char *)copy + size);
  e->image = copy;
  e->image_size = size;
  if (mprotect(copy, size, PROT_READ | PROT_EXEC) != 0) {
    return qn_fail(diag, QN_ERR_IO, path, "the system refuses to make memory executable: %s", strerror(errno));
  }
  *out = copy;
  return QN_OK;
}

// The plan and room for an entry of each of its variants.
static qn_status take_plan(cpu_executor *e, uint32_t plan, qn_diag *diag) {
  qn_executor_take_plan(&e->base, plan);
  e->entries = qn_executor_array(&e->base, e->base.variant_count, sizeof *e->entries);
  return e->entries ? QN_OK : qn_fail_nomem(diag, e->base.artifact->path, "the executor");
}

static qn_status load_code(cpu_executor *e, const qn_executor_options *options, qn_diag *diag) {
  qn_executor *base = &e->base;
  if (options->jit_entries) {
    QN_TRY(take_plan(e, 0, diag));
    snprintf(base->target, sizeof base->target, "%s", options->target ? options->target : "jit");
    for (uint32_t i = 0; i < base->variant_count; i++) e->entries[i] = options->jit_entries[i];
    return QN_OK;
  }
  const qn_art_code *code = NULL;
  const uint8_t *image = NULL;
  QN_TRY(qn_executor_choose_code(base->artifact, options->target, &code, diag));
  QN_TRY(take_plan(e, code->plan, diag));
  if (base->variant_count > 0) QN_TRY(map_image(e, code, &image, diag));
  memcpy(base->target, code->target, sizeof base->target);
  const uint64_t *offsets = (const uint64_t *)(const void *)(code + 1);
  for (uint32_t i = 0; i < base->variant_count; i++) {
    const void *address = image + offsets[i];
    memcpy(&e->entries[i], &address, sizeof address);  // ISO C has no cast from an object's address to a function's
  }
  return QN_OK;
}

// --- memory

static qn_status map_arena(cpu_executor *e, qn_diag *diag) {
  enum { OWN_ALIGNMENT = 256 };  // no two threads write to neighbouring lines
  const qn_art_program *p = e->base.artifact->program;
  const char *path = e->base.artifact->path;
  size_t threads = (size_t)qn_threads_created(e->threads), own = 0;
  e->own_start = qn_align_up((size_t)p->arena_bytes, OWN_ALIGNMENT);
  e->own_stride = qn_align_up((size_t)p->own_bytes, OWN_ALIGNMENT);
  if (!qn_size_mul(e->own_stride, threads, &own) || !qn_size_add(e->own_start, own, &e->arena_size)) {
    return qn_fail(diag, QN_ERR_NOMEM, path, "out of memory for what %zu threads have of their own", threads);
  }
  if (e->arena_size == 0) return QN_OK;
  void *arena = mmap(NULL, e->arena_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (arena == MAP_FAILED) {
    return qn_fail(diag, QN_ERR_NOMEM, path, "out of memory for an arena of %zu bytes", e->arena_size);
  }
  e->arena = arena;
  madvise(arena, e->arena_size, MADV_HUGEPAGE);
  qn_topology_interleave(arena, e->arena_size);
  return QN_OK;
}

static void bound(qn_executor *base, uint32_t buffer) {
  cpu_executor *e = (cpu_executor *)base;
  const qn_artifact *a = base->artifact;
  size_t count = a->program->operand_count, threads = e->own_pointers ? (size_t)qn_threads_created(e->threads) : 0;
  for (size_t i = 0; i < count; i++) {
    if (a->operands[i] != buffer) continue;
    e->pointers[i] = base->bases[buffer];
    for (size_t t = 0; t < threads; t++) e->own_pointers[t * count + i] = base->bases[buffer];
  }
}

// The pointers that never change, and the calls.
static void lay_out(cpu_executor *e) {
  const qn_artifact *a = e->base.artifact;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    if (b->kind == QN_ART_ARENA && e->arena) e->base.bases[i] = e->arena + b->offset;  // none: all are of no bytes
    if (b->kind == QN_ART_WEIGHT) e->base.bases[i] = (void *)(uintptr_t)(a->weights + b->offset);  // only read
  }
  size_t count = a->program->operand_count, threads = e->own_pointers ? (size_t)qn_threads_created(e->threads) : 0;
  for (size_t i = 0; i < count; i++) {
    const qn_art_buffer *b = &a->buffers[a->operands[i]];
    e->pointers[i] = e->base.bases[a->operands[i]];
    for (size_t t = 0; t < threads; t++) {
      uint8_t *own = b->own_bytes ? e->arena + e->own_start + t * e->own_stride + b->own_offset : NULL;
      e->own_pointers[t * count + i] = own ? own : e->pointers[i];
    }
  }
  for (uint32_t i = 0; i < a->program->step_count; i++) e->calls[i].first_operand = a->steps[i].first_operand;
}

// How many pointers the threads' own tables have in all; 0 where nothing is of a thread's own.
static size_t own_pointer_count(const cpu_executor *e) {
  const qn_art_program *p = e->base.artifact->program;
  return p->own_bytes ? (size_t)qn_threads_created(e->threads) * p->operand_count : 0;
}

static qn_status build(cpu_executor *e, const qn_executor_options *options, qn_diag *diag) {
  const qn_executor *base = &e->base;
  const qn_art_program *p = base->artifact->program;
  e->calls = qn_executor_array(base, p->step_count, sizeof *e->calls);
  e->phases = qn_executor_array(base, p->step_count, sizeof *e->phases);
  e->works = qn_executor_array(base, p->step_count, sizeof *e->works);
  e->shares = qn_executor_array(base, (size_t)p->step_count * (size_t)qn_threads_created(e->threads), sizeof *e->shares);
  e->pointers = qn_executor_array(base, p->operand_count, sizeof *e->pointers);
  if (own_pointer_count(e)) e->own_pointers = qn_executor_array(base, own_pointer_count(e), sizeof *e->own_pointers);
  if (!e->calls || !e->phases || !e->works || !e->shares || !e->pointers || (own_pointer_count(e) && !e->own_pointers)) {
    return qn_fail_nomem(diag, base->artifact->path, "the executor");
  }
  QN_TRY(load_code(e, options, diag));
  QN_TRY(map_arena(e, diag));
  lay_out(e);
  return QN_OK;
}

static void destroy(qn_executor *base) {
  cpu_executor *e = (cpu_executor *)base;
  const qn_art_program *p = base->artifact->program;
  qn_executor_free_array(base, e->entries, base->variant_count, sizeof *e->entries);
  qn_executor_free_array(base, e->calls, p->step_count, sizeof *e->calls);
  qn_executor_free_array(base, e->phases, p->step_count, sizeof *e->phases);
  qn_executor_free_array(base, e->works, p->step_count, sizeof *e->works);
  qn_executor_free_array(base, e->shares, (size_t)p->step_count * (size_t)qn_threads_created(e->threads), sizeof *e->shares);
  qn_executor_free_array(base, e->own_pointers, own_pointer_count(e), sizeof *e->own_pointers);
  qn_executor_free_array(base, e->pointers, p->operand_count, sizeof *e->pointers);
  if (e->arena) munmap(e->arena, e->arena_size);
  if (e->image) munmap(e->image, e->image_size);
  qn_executor_deinit(base);
}

static const qn_memory *memory(qn_executor *base) {
  (void)base;
  return qn_memory_host();
}

static const void *output(const qn_executor *base, uint32_t buffer) { return base->bases[buffer]; }

static qn_status reserve(qn_executor *base, const int64_t *symbols, qn_diag *diag) {
  (void)base, (void)symbols, (void)diag;
  return QN_OK;  // the arena is for the largest values
}

static void hold(qn_executor *base) { qn_threads_hold(((cpu_executor *)base)->threads); }
static void release(qn_executor *base) { qn_threads_release(((cpu_executor *)base)->threads); }

// --- running

static qn_status resolve_call(cpu_executor *e, uint32_t index, const int64_t *symbols, qn_diag *diag) {
  uint32_t v;
  QN_TRY(qn_executor_resolve(&e->base, index, symbols, &v, &e->calls[index].extent, diag));
  e->calls[index].entry = e->entries[v - e->base.first_variant];
  e->calls[index].in_parts = e->base.artifact->variants[v].in_parts != 0;
  return QN_OK;
}

// Has everything that the step makes one row, so that each thread may make its own?
static bool is_prologue(const cpu_executor *e, uint32_t index, const int64_t *symbols) {
  const qn_artifact *a = e->base.artifact;
  const qn_art_step *step = &a->steps[index];
  if (step->link != QN_ART_LINK_PROLOGUE) return false;
  bool owned = false;
  for (uint32_t i = 0; i < step->operand_count; i++) {
    const qn_art_buffer *b = &a->buffers[a->operands[step->first_operand + i]];
    if (!b->own_bytes) continue;
    if (b->rank == 0) return false;
    int64_t rows = b->symbols[0] ? symbols[b->symbols[0]] : 1;
    if (__builtin_mul_overflow(rows, b->dims[0], &rows) || rows != 1) return false;
    owned = true;
  }
  return owned;  // or all threads would write to one place
}

static int64_t common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// Makes the chain from p->head on as long as it may be. Parts are cut where the iterations of all its steps begin anew;
// where that leaves fewer than the step with the fewest iterations has, there must be enough for all threads.
static void take_chain(const cpu_executor *e, phase *p) {
  enum { PARTS_A_THREAD = 4 };
  int64_t units = e->calls[p->head].extent, fewest = units;
  p->end = p->head + 1;
  for (; p->end < e->base.artifact->program->step_count; p->end++) {
    const call *next = &e->calls[p->end];
    bool chained = e->base.artifact->steps[p->end].link == QN_ART_LINK_CHAINED && next->in_parts;
    if (!chained || !e->calls[p->head].in_parts || units == 0 || next->extent == 0) break;
    int64_t parts = common_divisor(units, next->extent);
    fewest = next->extent < fewest ? next->extent : fewest;
    if (parts < fewest && parts < (int64_t)PARTS_A_THREAD * qn_threads_count(e->threads)) break;
    units = parts;
  }
  p->units = (uint32_t)units;
}

// Steps without work make no phase: those of an encoder while a decoder goes on, or of logits that nobody wants. What a
// barrier before them is for, the next phase waits for.
static void make_phases(cpu_executor *e, const int64_t *symbols) {
  bool barrier = false;
  e->phase_count = 0;
  for (uint32_t i = 0; i < e->base.artifact->program->step_count;) {
    phase *p = &e->phases[e->phase_count];
    *p = (phase){.first = i, .head = i, .barrier = barrier || e->base.artifact->steps[i].barrier != 0};
    if (is_prologue(e, i, symbols)) p->head++;
    take_chain(e, p);
    barrier = p->units == 0 && p->barrier;
    if (p->units > 0) e->phase_count++;
    i = p->end;
  }
}

static qn_status resolve(cpu_executor *e, const int64_t *symbols, qn_diag *diag) {
  if (e->resolved && memcmp(symbols, e->symbols, sizeof e->symbols) == 0) return QN_OK;
  e->resolved = false;
  for (uint32_t i = 0; i < e->base.artifact->program->step_count; i++) QN_TRY(resolve_call(e, i, symbols, diag));
  make_phases(e, symbols);
  memcpy(e->symbols, symbols, sizeof e->symbols);
  e->resolved = true;
  return QN_OK;
}

// What a thread notes as it walks, in its own row of the profile.
typedef struct stopwatch {
  qn_step_profile *steps;  // NULL = note nothing
  uint64_t before;
  bool count_faults;
  uint64_t faults;  // of the thread, before
} stopwatch;

static uint64_t thread_faults(void) {
  struct rusage usage;
  return getrusage(RUSAGE_THREAD, &usage) == 0 ? (uint64_t)usage.ru_minflt + (uint64_t)usage.ru_majflt : 0;
}

static stopwatch start_watch(const cpu_executor *e, int thread) {
  if (!e->base.profile) return (stopwatch){.steps = NULL};
  stopwatch watch = {.steps = e->base.profile + (size_t)thread * e->base.artifact->program->step_count,
                     .count_faults = e->profile_faults};
  if (watch.count_faults) watch.faults = thread_faults();
  watch.before = qn_executor_now_ns();
  return watch;
}

static uint64_t lap(stopwatch *watch) {
  uint64_t now = qn_executor_now_ns(), passed = now - watch->before;
  watch->before = now;
  return passed;
}

static void note_wait(stopwatch *watch, size_t step) {
  if (watch->steps) watch->steps[step].wait_ns += lap(watch);
}

static void note_kernel(stopwatch *watch, size_t step) {
  if (!watch->steps) return;
  watch->steps[step].kernel_ns += lap(watch);
  if (!watch->count_faults) return;
  uint64_t faults = thread_faults();
  watch->steps[step].faults += faults - watch->faults;
  watch->faults = faults;
  watch->before = qn_executor_now_ns();  // counting them is no part of a step
}

// What the thread can get of a phase's work.
static void take_part(cpu_executor *e, uint32_t index, int thread, stopwatch *watch) {
  const phase *p = &e->phases[index];
  qn_work *work = &e->works[index];
  void *const *pointers = e->pointers;
  int64_t first, last;
  if (!qn_work_take(work, thread, &first, &last)) return;
  if (p->first < p->head) {
    pointers = e->own_pointers + (size_t)thread * e->base.artifact->program->operand_count;
    for (uint32_t i = p->first; i < p->head; i++) {
      const call *c = &e->calls[i];
      c->entry(pointers + c->first_operand, e->symbols, 0, c->extent);
      note_kernel(watch, i);
    }
  }
  do {
    for (uint32_t i = p->head; i < p->end; i++) {
      const call *c = &e->calls[i];
      int64_t part = c->extent / p->units;
      c->entry(pointers + c->first_operand, e->symbols, first * part, last * part);
      if (p->end - p->head > 1) note_kernel(watch, i);
    }
    qn_work_finish(e->threads, work, last - first);
  } while (qn_work_take(work, thread, &first, &last));
  note_kernel(watch, p->end - 1);
}

// Every thread: takes what work it can get of each phase, and goes past a barrier when all work before it is done.
static void walk(void *context, int thread, int thread_count) {
  (void)thread_count;
  cpu_executor *e = context;
  fenv_t environment;  // the host's rounding mode and flushing of denormals must not reach the kernels
  fegetenv(&environment);
  fesetenv(FE_DFL_ENV);
  stopwatch watch = start_watch(e, thread);
  uint32_t waited = 0;  // phases before this one are known to be done
  for (uint32_t i = 0; watch.steps && i < e->base.artifact->program->step_count; i++) watch.steps[i].calls++;
  for (uint32_t i = 0; i < e->phase_count; i++) {
    const phase *p = &e->phases[i];
    if (p->barrier) {
      for (; waited < i; waited++) qn_work_wait(e->threads, &e->works[waited]);
      note_wait(&watch, p->first);
    }
    take_part(e, i, thread, &watch);
  }
  fesetenv(&environment);
}

static qn_status run(qn_executor *base, const int64_t *symbols, qn_run_kind kind, qn_diag *diag) {
  cpu_executor *e = (cpu_executor *)base;
  qn_threads_use(e->threads, kind == QN_RUN_STEP ? e->decode_threads : qn_threads_created(e->threads));
  QN_TRY(resolve(e, symbols, diag));
  size_t threads = (size_t)qn_threads_created(e->threads);
  for (uint32_t i = 0; i < e->phase_count; i++) {
    qn_work_reset(&e->works[i], e->phases[i].units, e->shares + i * threads, e->threads);
  }
  qn_threads_run(e->threads, walk, e);
  return QN_OK;
}

qn_status qn_cpu_executor_create(const qn_artifact *artifact, qn_threads *threads, const qn_executor_options *options,
                                 const qn_allocator *allocator, qn_executor **out, qn_diag *diag) {
  static const qn_executor_class class = {.destroy = destroy,
                                          .memory = memory,
                                          .bound = bound,
                                          .output = output,
                                          .reserve = reserve,
                                          .run = run,
                                          .hold = hold,
                                          .release = release};
  size_t created = (size_t)qn_threads_created(threads);
  *out = NULL;
  qn_executor *base = NULL;
  QN_TRY(qn_executor_new(&class, sizeof(cpu_executor), artifact, allocator, options->profile ? created : 0, &base, diag));
  cpu_executor *e = (cpu_executor *)base;
  e->threads = threads;
  e->decode_threads = options->decode_threads > 0 ? options->decode_threads : (int)created;
  e->profile_faults = options->profile_faults;
  qn_status status = build(e, options, diag);
  if (status == QN_OK) {
    *out = base;
  } else {
    destroy(base);
  }
  return status;
}
