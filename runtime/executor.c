// The executor: chooses and maps code, lays the step list out flat with every pointer resolved, and walks it: phase by
// phase, which are the steps that these symbol values let run together without a barrier.
#include "runtime/executor.h"

#include <errno.h>
#include <fenv.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/str.h"
#include "runtime/cpu_features.h"
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

struct qn_executor {
  const qn_artifact *artifact;    // borrowed
  qn_threads *threads;            // borrowed
  const qn_allocator *allocator;  // borrowed
  char target[sizeof((qn_art_code *)0)->target];
  const qn_art_slice *slices;             // borrowed: the plan of the code, one a kernel
  uint32_t first_variant, variant_count;  // of the plan
  qn_kernel_entry *entries;               // owned: one a variant of the plan
  call *calls;               // owned: one a step
  phase *phases;             // owned: room for one a step
  uint32_t phase_count;      // for the last symbol values
  qn_work *works;            // owned: one a phase
  void **pointers;           // owned: one an operand
  void **own_pointers;       // owned: the same for each thread, with its own memory; NULL = nothing is a thread's own
  void **bases;              // owned: one a buffer; NULL = not bound yet
  qn_step_profile *profile;  // owned: (threads, steps), or NULL
  size_t profile_threads;
  bool profile_faults;
  uint8_t *arena;            // mapped; the threads' own memory lies behind it
  void *image;               // mapped: a copy of the code where the file's pages cannot be made executable
  size_t arena_size, image_size;
  size_t own_start, own_stride;  // in the mapping: of thread 0's own memory, and from one thread's to the next
  int64_t symbols[QN_ARTIFACT_SYMBOLS];  // of `calls`
  bool resolved;                         // `calls` fits `symbols`
  uint32_t unbound;                      // inputs and caches
  uint64_t run_ns;
};

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// Zeroed; a count of 0 gives room for one, so that NULL always means out of memory.
static void *array(const qn_executor *e, size_t count, size_t size) {
  size_t bytes = 0;
  return qn_size_mul(count ? count : 1, size, &bytes) ? qn_alloc_zeroed(e->allocator, bytes) : NULL;
}
static void free_array(const qn_executor *e, void *pointer, size_t count, size_t size) {
  qn_free(e->allocator, pointer, (count ? count : 1) * size);
}

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
static qn_status map_image(qn_executor *e, const qn_art_code *code, const uint8_t **out, qn_diag *diag) {
  const uint8_t *image = (const uint8_t *)code + code->image_offset;
  size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (size_t)code->image_size;
  if ((uintptr_t)image % page == 0 && mprotect((void *)(uintptr_t)image, size, PROT_READ | PROT_EXEC) == 0) {
    *out = image;
    return QN_OK;
  }
  void *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED) return qn_fail_nomem(diag, e->artifact->path, "the machine code");
  memcpy(copy, image, size);
  __builtin___clear_cache((char *)copy, (char *)copy + size);
  e->image = copy;
  e->image_size = size;
  if (mprotect(copy, size, PROT_READ | PROT_EXEC) != 0) {
    return qn_fail(diag, QN_ERR_IO, e->artifact->path, "the system refuses to make memory executable: %s",
                   strerror(errno));
  }
  *out = copy;
  return QN_OK;
}

// The plan and room for an entry of each of its variants.
static qn_status take_plan(qn_executor *e, uint32_t plan, qn_diag *diag) {
  e->slices = qn_artifact_plan(e->artifact, plan, &e->first_variant, &e->variant_count);
  e->entries = array(e, e->variant_count, sizeof *e->entries);
  return e->entries ? QN_OK : qn_fail_nomem(diag, e->artifact->path, "the executor");
}

static qn_status load_code(qn_executor *e, const qn_executor_options *options, qn_diag *diag) {
  if (options->jit_entries) {
    QN_TRY(take_plan(e, 0, diag));
    snprintf(e->target, sizeof e->target, "%s", options->target ? options->target : "jit");
    for (uint32_t i = 0; i < e->variant_count; i++) e->entries[i] = options->jit_entries[i];
    return QN_OK;
  }
  const qn_art_code *code = NULL;
  const uint8_t *image = NULL;
  QN_TRY(qn_executor_choose_code(e->artifact, options->target, &code, diag));
  QN_TRY(take_plan(e, code->plan, diag));
  if (e->variant_count > 0) QN_TRY(map_image(e, code, &image, diag));
  memcpy(e->target, code->target, sizeof e->target);
  const uint64_t *offsets = (const uint64_t *)(const void *)(code + 1);
  for (uint32_t i = 0; i < e->variant_count; i++) {
    const void *address = image + offsets[i];
    memcpy(&e->entries[i], &address, sizeof address);  // ISO C has no cast from an object's address to a function's
  }
  return QN_OK;
}

// --- memory

static qn_status map_arena(qn_executor *e, qn_diag *diag) {
  enum { OWN_ALIGNMENT = 256 };  // no two threads write to neighbouring lines
  const qn_art_program *p = e->artifact->program;
  size_t threads = (size_t)qn_threads_created(e->threads), own = 0;
  e->own_start = qn_align_up((size_t)p->arena_bytes, OWN_ALIGNMENT);
  e->own_stride = qn_align_up((size_t)p->own_bytes, OWN_ALIGNMENT);
  if (!qn_size_mul(e->own_stride, threads, &own) || !qn_size_add(e->own_start, own, &e->arena_size)) {
    return qn_fail(diag, QN_ERR_NOMEM, e->artifact->path, "out of memory for what %zu threads have of their own",
                   threads);
  }
  if (e->arena_size == 0) return QN_OK;
  void *arena = mmap(NULL, e->arena_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (arena == MAP_FAILED) {
    return qn_fail(diag, QN_ERR_NOMEM, e->artifact->path, "out of memory for an arena of %zu bytes", e->arena_size);
  }
  e->arena = arena;
  madvise(arena, e->arena_size, MADV_HUGEPAGE);
  qn_topology_interleave(arena, e->arena_size);
  return QN_OK;
}

static void set_base(qn_executor *e, uint32_t buffer, void *base) {
  if (!e->bases[buffer]) e->unbound--;
  e->bases[buffer] = base;
  const qn_artifact *a = e->artifact;
  size_t count = a->program->operand_count, threads = e->own_pointers ? (size_t)qn_threads_created(e->threads) : 0;
  for (size_t i = 0; i < count; i++) {
    if (a->operands[i] != buffer) continue;
    e->pointers[i] = base;
    for (size_t t = 0; t < threads; t++) e->own_pointers[t * count + i] = base;
  }
}

// The pointers that never change, and the calls.
static void lay_out(qn_executor *e) {
  const qn_artifact *a = e->artifact;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    if (b->kind == QN_ART_ARENA) e->bases[i] = e->arena + b->offset;
    if (b->kind == QN_ART_WEIGHT) e->bases[i] = (void *)(uintptr_t)(a->weights + b->offset);  // kernels only read it
    if (b->kind == QN_ART_CACHE || b->kind == QN_ART_INPUT) e->unbound++;
  }
  size_t count = a->program->operand_count, threads = e->own_pointers ? (size_t)qn_threads_created(e->threads) : 0;
  for (size_t i = 0; i < count; i++) {
    const qn_art_buffer *b = &a->buffers[a->operands[i]];
    e->pointers[i] = e->bases[a->operands[i]];
    for (size_t t = 0; t < threads; t++) {
      uint8_t *own = b->own_bytes ? e->arena + e->own_start + t * e->own_stride + b->own_offset : NULL;
      e->own_pointers[t * count + i] = own ? own : e->pointers[i];
    }
  }
  for (uint32_t i = 0; i < a->program->step_count; i++) e->calls[i].first_operand = a->steps[i].first_operand;
}

// How many pointers the threads' own tables have in all; 0 where nothing is of a thread's own.
static size_t own_pointer_count(const qn_executor *e) {
  const qn_art_program *p = e->artifact->program;
  return p->own_bytes ? (size_t)qn_threads_created(e->threads) * p->operand_count : 0;
}

static qn_status build(qn_executor *e, const qn_executor_options *options, qn_diag *diag) {
  const qn_art_program *p = e->artifact->program;
  e->calls = array(e, p->step_count, sizeof *e->calls);
  e->phases = array(e, p->step_count, sizeof *e->phases);
  e->works = array(e, p->step_count, sizeof *e->works);
  e->pointers = array(e, p->operand_count, sizeof *e->pointers);
  e->bases = array(e, p->buffer_count, sizeof *e->bases);
  if (own_pointer_count(e)) e->own_pointers = array(e, own_pointer_count(e), sizeof *e->own_pointers);
  if (options->profile) e->profile = array(e, e->profile_threads * p->step_count, sizeof *e->profile);
  if (!e->calls || !e->phases || !e->works || !e->pointers || !e->bases || (options->profile && !e->profile) ||
      (own_pointer_count(e) && !e->own_pointers)) {
    return qn_fail_nomem(diag, e->artifact->path, "the executor");
  }
  QN_TRY(load_code(e, options, diag));
  QN_TRY(map_arena(e, diag));
  lay_out(e);
  return QN_OK;
}

qn_status qn_executor_create(const qn_artifact *artifact, qn_threads *threads, const qn_executor_options *options,
                             const qn_allocator *allocator, qn_executor **out, qn_diag *diag) {
  static const qn_executor_options none;
  *out = NULL;
  qn_executor *e = qn_alloc_zeroed(allocator, sizeof *e);
  if (!e) return qn_fail_nomem(diag, artifact->path, "the executor");
  e->artifact = artifact;
  e->threads = threads;
  e->allocator = allocator;
  e->profile_faults = options && options->profile_faults;
  e->profile_threads = (size_t)qn_threads_created(threads);
  qn_status status = build(e, options ? options : &none, diag);
  if (status == QN_OK) {
    *out = e;
  } else {
    qn_executor_destroy(e);
  }
  return status;
}

void qn_executor_destroy(qn_executor *e) {
  if (!e) return;
  const qn_art_program *p = e->artifact->program;
  free_array(e, e->entries, e->variant_count, sizeof *e->entries);
  free_array(e, e->calls, p->step_count, sizeof *e->calls);
  free_array(e, e->phases, p->step_count, sizeof *e->phases);
  free_array(e, e->works, p->step_count, sizeof *e->works);
  free_array(e, e->own_pointers, own_pointer_count(e), sizeof *e->own_pointers);
  free_array(e, e->pointers, p->operand_count, sizeof *e->pointers);
  free_array(e, e->bases, p->buffer_count, sizeof *e->bases);
  free_array(e, e->profile, e->profile_threads * p->step_count, sizeof *e->profile);
  if (e->arena) munmap(e->arena, e->arena_size);
  if (e->image) munmap(e->image, e->image_size);
  qn_free(e->allocator, e, sizeof *e);
}

const char *qn_executor_target(const qn_executor *e) { return e->target; }

// --- binding

static const char *buffer_name(const qn_executor *e, const qn_art_buffer *b) { return e->artifact->strings + b->name; }

// Binds the buffer of this kind, name and layer; false when there is none.
static bool bind(qn_executor *e, qn_art_buffer_kind kind, const char *name, uint32_t layer, void *data) {
  for (uint32_t i = 0; i < e->artifact->program->buffer_count; i++) {
    const qn_art_buffer *b = &e->artifact->buffers[i];
    if (b->kind != (uint32_t)kind || b->layer != layer || strcmp(buffer_name(e, b), name) != 0) continue;
    set_base(e, i, data);
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

const void *qn_executor_output(const qn_executor *e, const char *name, const qn_art_buffer **out_buffer) {
  for (uint32_t i = 0; i < e->artifact->program->buffer_count; i++) {
    const qn_art_buffer *b = &e->artifact->buffers[i];
    if (!b->output || strcmp(buffer_name(e, b), name) != 0) continue;
    if (out_buffer) *out_buffer = b;
    return e->bases[i];
  }
  return NULL;
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
  static const char letters[QN_ARTIFACT_SYMBOLS] = {'-', 'T', 'R', 'P', 'B', 'G'};
  for (int s = 1; s < QN_ARTIFACT_SYMBOLS; s++) {
    int64_t most = e->artifact->program->symbol_max[s];
    if (symbols[s] >= 0 && symbols[s] <= (most ? most : INT32_MAX)) continue;
    return qn_fail(diag, QN_ERR_LIMIT, e->artifact->path, "symbol %c: got %" PRId64 ", want 0 to %" PRId64 "%s",
                   letters[s], symbols[s], most ? most : INT32_MAX, most ? " as the artifact was compiled" : "");
  }
  return QN_OK;
}

static qn_status resolve_call(qn_executor *e, uint32_t index, const int64_t *symbols, qn_diag *diag) {
  const qn_artifact *a = e->artifact;
  const qn_art_kernel *kernel = &a->kernels[a->steps[index].kernel];
  int64_t rows = kernel->rows_symbol ? symbols[kernel->rows_symbol] : 0;
  const qn_art_slice *slice = &e->slices[a->steps[index].kernel];
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
  int64_t extent = variant->extent_value;
  if (variant->extent_symbol && __builtin_mul_overflow(extent, symbols[variant->extent_symbol], &extent))
    extent = INT64_MAX;
  if (extent > QN_WORK_EXTENT_MAX) {
    return qn_fail(diag, QN_ERR_LIMIT, a->path,
                   "kernel '%s': got a parallel loop of %" PRId64 " iterations, want at most %d; take fewer tokens a step",
                   a->strings + kernel->name, extent, QN_WORK_EXTENT_MAX);
  }
  e->calls[index].entry = e->entries[v - e->first_variant];
  e->calls[index].in_parts = variant->in_parts != 0;
  e->calls[index].extent = kernel->rows_symbol && rows == 0 ? 0 : extent;  // a variant may be for one row exactly
  return QN_OK;
}

// Has everything that the step makes one row, so that each thread may make its own?
static bool is_prologue(const qn_executor *e, uint32_t index, const int64_t *symbols) {
  const qn_artifact *a = e->artifact;
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
static void take_chain(const qn_executor *e, phase *p) {
  enum { PARTS_A_THREAD = 4 };
  int64_t units = e->calls[p->head].extent, fewest = units;
  p->end = p->head + 1;
  for (; p->end < e->artifact->program->step_count; p->end++) {
    const call *next = &e->calls[p->end];
    bool chained = e->artifact->steps[p->end].link == QN_ART_LINK_CHAINED && next->in_parts;
    if (!chained || !e->calls[p->head].in_parts || units == 0 || next->extent == 0) break;
    int64_t parts = common_divisor(units, next->extent);
    fewest = next->extent < fewest ? next->extent : fewest;
    if (parts < fewest && parts < (int64_t)PARTS_A_THREAD * qn_threads_count(e->threads)) break;
    units = parts;
  }
  p->units = (uint32_t)units;
}

static void make_phases(qn_executor *e, const int64_t *symbols) {
  e->phase_count = 0;
  for (uint32_t i = 0; i < e->artifact->program->step_count;) {
    phase *p = &e->phases[e->phase_count++];
    *p = (phase){.first = i, .head = i, .barrier = e->artifact->steps[i].barrier != 0};
    if (is_prologue(e, i, symbols)) p->head++;
    take_chain(e, p);
    i = p->end;
  }
}

static qn_status resolve(qn_executor *e, const int64_t *symbols, qn_diag *diag) {
  if (e->resolved && memcmp(symbols, e->symbols, sizeof e->symbols) == 0) return QN_OK;
  e->resolved = false;
  QN_TRY(check_symbols(e, symbols, diag));
  for (uint32_t i = 0; i < e->artifact->program->step_count; i++) QN_TRY(resolve_call(e, i, symbols, diag));
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

static stopwatch start_watch(const qn_executor *e, int thread) {
  if (!e->profile) return (stopwatch){.steps = NULL};
  stopwatch watch = {.steps = e->profile + (size_t)thread * e->artifact->program->step_count,
                     .count_faults = e->profile_faults};
  if (watch.count_faults) watch.faults = thread_faults();
  watch.before = now_ns();
  return watch;
}

static uint64_t lap(stopwatch *watch) {
  uint64_t now = now_ns(), passed = now - watch->before;
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
  watch->before = now_ns();  // counting them is no part of a step
}

// What the thread can get of a phase's work.
static void take_part(qn_executor *e, uint32_t index, int thread, stopwatch *watch) {
  const phase *p = &e->phases[index];
  qn_work *work = &e->works[index];
  void *const *pointers = e->pointers;
  int64_t first, last;
  if (!qn_work_take(work, &first, &last)) return;
  if (p->first < p->head) {
    pointers = e->own_pointers + (size_t)thread * e->artifact->program->operand_count;
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
  } while (qn_work_take(work, &first, &last));
  note_kernel(watch, p->end - 1);
}

// Every thread: takes what work it can get of each phase, and goes past a barrier when all work before it is done.
static void walk(void *context, int thread, int thread_count) {
  (void)thread_count;
  qn_executor *e = context;
  fenv_t environment;  // the host's rounding mode and flushing of denormals must not reach the kernels
  fegetenv(&environment);
  fesetenv(FE_DFL_ENV);
  stopwatch watch = start_watch(e, thread);
  uint32_t waited = 0;  // phases before this one are known to be done
  for (uint32_t i = 0; i < e->phase_count; i++) {
    const phase *p = &e->phases[i];
    for (uint32_t step = p->first; watch.steps && step < p->end; step++) watch.steps[step].calls++;
    if (p->barrier) {
      for (; waited < i; waited++) qn_work_wait(e->threads, &e->works[waited]);
      note_wait(&watch, p->first);
    }
    take_part(e, i, thread, &watch);
  }
  fesetenv(&environment);
}

qn_status qn_executor_run(qn_executor *e, const int64_t symbols[QN_ARTIFACT_SYMBOLS], qn_diag *diag) {
  if (e->unbound > 0) QN_TRY(check_bound(e, diag));
  QN_TRY(resolve(e, symbols, diag));
  uint64_t start = now_ns();
  int thread_count = qn_threads_count(e->threads);
  for (uint32_t i = 0; i < e->phase_count; i++) qn_work_reset(&e->works[i], e->phases[i].units, thread_count);
  qn_threads_run(e->threads, walk, e);
  e->run_ns += now_ns() - start;
  return QN_OK;
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
