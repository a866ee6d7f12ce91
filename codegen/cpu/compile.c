// qn_cpu_compile: kernels spread over threads, a module each, and their objects linked into one image.
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "codegen/cpu/link.h"
#include "codegen/cpu/module.h"
#include "runtime/base/map.h"

enum { MAX_THREADS = 64 };

void qn_dump_stage(const qn_codegen_options *options, const char *stage, const char *text, size_t length) {
  static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&turn);
  options->dump(options->dump_context, stage, text, length);
  pthread_mutex_unlock(&turn);
}

// One module's worth of work.
typedef struct part {
  const qn_lkernel **kernels;  // arena
  const char **names;          // arena
  size_t count;
  uint64_t weight;  // of its kernels, for an even spread
  const qn_codegen_options *options;
  const qn_allocator *allocator;
  LLVMMemoryBufferRef object;  // the result
  qn_status status;
  qn_diag diag;
  pthread_t thread;
  bool started;
} part;

static void *compile_part(void *argument) {
  part *p = argument;
  LLVMContextRef context = LLVMContextCreate();
  qn_lowered lowered = {0};
  p->status = qn_lower_kernels(p->kernels, p->names, p->count, p->options, p->allocator, context, &lowered, &p->diag);
  p->object = lowered.object;
  if (p->status == QN_OK && !p->object) {
    p->status = qn_object_emit(lowered.module, p->options, &p->object, &p->diag);
    if (p->status == QN_OK) qn_object_keep(&lowered.key, p->object, p->allocator);
  }
  if (lowered.module) LLVMDisposeModule(lowered.module);
  LLVMContextDispose(context);
  return NULL;
}

static uint64_t block_weight(const qn_lblock *block) {
  uint64_t weight = 0;
  for (const qn_lstmt *s = block->first; s; s = s->next)
    weight += 1 + (s->kind == QN_LS_FOR ? block_weight(&s->u.loop.body) : 0);
  return weight;
}

// Symbols are the kernels' names, with a number where two kernels share one (candidates of a tuning session do).
static qn_status name_kernels(const qn_lkernel *const *kernels, qn_objects *out, qn_diag *diag) {
  qn_map seen;
  qn_map_init(&seen, out->allocator);
  qn_status status = QN_OK;
  for (size_t i = 0; i < out->kernel_count && status == QN_OK; i++) {
    bool again = qn_map_get(&seen, qn_str_from(kernels[i]->name), NULL);
    out->names[i] = again ? qn_arena_printf(&out->arena, "%s.%zu", kernels[i]->name, i)
                          : qn_arena_strdup(&out->arena, kernels[i]->name);
    if (!out->names[i] || !qn_map_put(&seen, qn_str_from(kernels[i]->name), i))
      status = qn_fail_nomem(diag, "code generation", "kernel names");
  }
  qn_map_deinit(&seen);
  return status;
}

static size_t part_count(size_t kernel_count, int threads) {
  long wanted = threads > 0 ? threads : sysconf(_SC_NPROCESSORS_ONLN);
  if (wanted > MAX_THREADS) wanted = MAX_THREADS;
  if (wanted < 1) wanted = 1;
  return (size_t)wanted < kernel_count ? (size_t)wanted : kernel_count;
}

// Each kernel goes to the part that has least so far.
static qn_status spread(const qn_lkernel *const *kernels, const qn_codegen_options *options, qn_objects *out,
                        part *parts, size_t count, qn_diag *diag) {
  for (size_t i = 0; i < count; i++) {
    parts[i] = (part){.options = options, .allocator = out->allocator};
    parts[i].kernels = QN_ARENA_ARRAY(&out->arena, out->kernel_count, const qn_lkernel *);
    parts[i].names = QN_ARENA_ARRAY(&out->arena, out->kernel_count, const char *);
    if (!parts[i].kernels || !parts[i].names) return qn_fail_nomem(diag, "code generation", "work list");
  }
  for (size_t k = 0; k < out->kernel_count; k++) {
    part *least = &parts[0];
    for (size_t i = 1; i < count; i++)
      if (parts[i].weight < least->weight) least = &parts[i];
    least->kernels[least->count] = kernels[k];
    least->names[least->count++] = out->names[k];
    least->weight += 1 + block_weight(&kernels[k]->body);
  }
  return QN_OK;
}

// Runs all parts, the first in this thread, as well as those whose thread could not be started.
static qn_status run_parts(part *parts, size_t count, qn_objects *out, qn_diag *diag) {
  for (size_t i = 1; i < count; i++)
    parts[i].started = !pthread_create(&parts[i].thread, NULL, compile_part, &parts[i]);
  for (size_t i = 0; i < count; i++)
    if (!parts[i].started) compile_part(&parts[i]);
  qn_status status = QN_OK;
  for (size_t i = 0; i < count; i++) {
    if (parts[i].started) pthread_join(parts[i].thread, NULL);
    out->buffers[out->count++] = parts[i].object;
    if (status == QN_OK && parts[i].status != QN_OK) {
      status = parts[i].status;
      if (diag && diag->status == QN_OK) *diag = parts[i].diag;
    }
  }
  return status;
}

qn_status qn_objects_compile(const qn_lkernel *const *kernels, size_t count, const qn_codegen_options *options,
                             const qn_allocator *allocator, qn_objects *out, qn_diag *diag) {
  *out = (qn_objects){.allocator = allocator, .kernel_count = count};
  qn_arena_init(&out->arena, allocator);
  size_t parts_count = part_count(count, options->threads);
  part *parts = QN_ARENA_ARRAY(&out->arena, parts_count, part);
  out->names = QN_ARENA_ARRAY(&out->arena, count, char *);
  out->buffers = QN_ARENA_ARRAY(&out->arena, parts_count, LLVMMemoryBufferRef);
  qn_status status = QN_OK;
  if (!parts || !out->names || !out->buffers) status = qn_fail_nomem(diag, "code generation", "work list");
  if (status == QN_OK) status = name_kernels(kernels, out, diag);
  if (status == QN_OK) status = spread(kernels, options, out, parts, parts_count, diag);
  if (status == QN_OK) status = run_parts(parts, parts_count, out, diag);
  if (status != QN_OK) qn_objects_deinit(out);
  return status;
}

void qn_objects_deinit(qn_objects *objects) {
  for (size_t i = 0; i < objects->count; i++)
    if (objects->buffers[i]) LLVMDisposeMemoryBuffer(objects->buffers[i]);
  if (objects->allocator) qn_arena_deinit(&objects->arena);
  *objects = (qn_objects){0};
}

qn_status qn_cpu_compile(const qn_lkernel *const *kernels, size_t count, const qn_codegen_options *options,
                         const qn_allocator *allocator, qn_code *out, qn_diag *diag) {
  qn_objects objects;
  *out = (qn_code){0};
  QN_TRY(qn_objects_compile(kernels, count, options, allocator, &objects, diag));
  qn_link_object inputs[MAX_THREADS];
  for (size_t i = 0; i < objects.count; i++)
    inputs[i] = (qn_link_object){(const uint8_t *)LLVMGetBufferStart(objects.buffers[i]),
                                 LLVMGetBufferSize(objects.buffers[i])};
  qn_status status = qn_link(inputs, objects.count, (const char *const *)objects.names, count, allocator, out, diag);
  qn_objects_deinit(&objects);
  return status;
}
