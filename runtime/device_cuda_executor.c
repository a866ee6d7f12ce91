// A program on a GPU. A step of a loop is one graph: the inputs' copy there, every kernel, the outputs' copy back,
// started by one call and waited for once. A prompt's chunks are plain launches in a stream.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/device_cuda_impl.h"
#include "runtime/executor_impl.h"

enum {
  ALIGNMENT = 256,   // of inputs on the device
  SLACK_BYTES = 64,  // behind each: a vector load at the last element reads on
  SLOTS = 2,         // of inputs on their way
  GRAPHS_MAX = 64,   // kept, for as many combinations of symbol values; the one that rested longest goes first
};
enum { SYMBOLS = QN_ARTIFACT_SYMBOLS - 1 };  // that kernels get: T, R, P, B, G, S

// A step with the last symbol values.
typedef struct launch {
  uint32_t variant;  // of the artifact
  unsigned blocks;   // 0 = nothing to do
} launch;

// Where the values of inputs lie until they are copied: pinned memory of the host, `capacity` bytes.
typedef struct slot {
  uint8_t *pinned;
  qn_cu_event copied;  // recorded behind what reads it
  bool pending;        // that is not waited for yet
} slot;

// A step as one graph, for one choice of symbol values and outputs.
typedef struct graph {
  int64_t symbols[QN_ARTIFACT_SYMBOLS];
  uint64_t outputs;  // hash of those that are wanted
  qn_cu_graph_exec exec;
  uint64_t used;  // when last
} graph;

typedef struct cuda_executor {
  qn_executor base;
  qn_cuda *cuda;  // borrowed
  qn_memory memory;
  qn_cu_stream stream;
  qn_cu_address arena, inputs;  // 0 = none
  uint8_t *outputs;             // pinned: each output at its place
  size_t capacity;              // of `inputs` and of a slot, bytes
  size_t output_bytes;
  slot slots[SLOTS];
  int next_slot;
  size_t *places;           // owned: one a buffer: an input's in a slot and in `inputs`, an output's in `outputs`
  size_t input_bytes;       // of all inputs with the last symbol values
  launch *launches;         // owned: one a step
  qn_cu_address *pointers;  // owned: one an operand
  void **params;            // owned: room for the parameters of one launch
  size_t param_room;
  int values[SYMBOLS];  // the symbols as kernels get them
  int64_t symbols[QN_ARTIFACT_SYMBOLS];
  bool resolved, check_kernels;
  graph graphs[GRAPHS_MAX];
  uint64_t runs;
  qn_cu_event *events;  // owned: steps + 1, with a profile
  bool lost;            // a kernel faulted: nothing works any more
} cuda_executor;

static size_t step_count(const cuda_executor *e) { return e->base.artifact->program->step_count; }
static const char *kernel_name(const cuda_executor *e, uint32_t step) {
  const qn_artifact *a = e->base.artifact;
  return a->strings + a->variants[e->launches[step].variant].name;
}

// --- errors

// The result of a call in words; what a fault of a kernel means for the executor.
static qn_status check(cuda_executor *e, qn_cu_result result, const char *doing, qn_diag *diag) {
  char text[256];
  if (result == QN_CU_SUCCESS) return QN_OK;
  if (!qn_cuda_is_fault(result)) return qn_cuda_try(e->cuda, result, doing, diag);
  e->lost = true;
  qn_cuda_describe(&e->cuda->driver, result, text, sizeof text);
  return qn_fail(diag, QN_ERR_INTERNAL, e->cuda->where,
                 "a kernel faulted, of %zu in a step with T = %" PRId64
                 ": %s; --check-kernels tells which; this process "
                 "cannot use the device any more",
                 step_count(e), e->symbols[1], text);
}

static qn_status check_launch(cuda_executor *e, qn_cu_result result, uint32_t step, qn_diag *diag) {
  const qn_artifact *a = e->base.artifact;
  char text[256];
  if (result == QN_CU_SUCCESS) return QN_OK;
  bool fault = qn_cuda_is_fault(result);
  if (fault && !e->check_kernels) return check(e, result, "starting a kernel", diag);  // it may be of one before
  e->lost = e->lost || fault;
  qn_cuda_describe(&e->cuda->driver, result, text, sizeof text);
  return qn_fail(diag, QN_ERR_INTERNAL, e->cuda->where, "kernel '%s' (step %" PRIu32 ", %s) %s: %s",
                 kernel_name(e, step), step, a->strings + a->steps[step].loc, fault ? "faulted" : "cannot be started",
                 text);
}

// --- memory that executors hand out

static qn_status clear(cuda_executor *e, qn_cu_address memory, size_t bytes, qn_diag *diag) {
  const qn_cuda_driver *d = &e->cuda->driver;
  qn_cu_result result = d->fill(memory, 0, bytes, e->stream);
  if (result == QN_CU_SUCCESS) result = d->stream_wait(e->stream);
  return check(e, result, "clearing memory", diag);
}

static qn_status take_memory(void *context, size_t bytes, const char *where, const char *what, const char *advice,
                             void **out, qn_diag *diag) {
  cuda_executor *e = context;
  qn_cu_address memory = 0;
  (void)where;  // the device is the place
  *out = NULL;
  QN_TRY(qn_cuda_enter(e->cuda, diag));
  qn_status status = qn_cuda_take(e->cuda, bytes, what, advice, &memory, diag);
  if (status == QN_OK) status = clear(e, memory, bytes, diag);
  if (status != QN_OK && memory) e->cuda->driver.give_back(memory);
  qn_cuda_leave(e->cuda);
  if (status == QN_OK) *out = (void *)(uintptr_t)memory;
  return status;
}

static void give_back_memory(void *context, void *memory, size_t bytes) {
  cuda_executor *e = context;
  (void)bytes;
  if (e->cuda->driver.context_push(e->cuda->context) != QN_CU_SUCCESS) return;
  e->cuda->driver.give_back((qn_cu_address)(uintptr_t)memory);
  qn_cuda_leave(e->cuda);
}

static qn_status write_memory(void *context, void *to, const void *from, size_t bytes, qn_diag *diag) {
  cuda_executor *e = context;
  const qn_cuda_driver *d = &e->cuda->driver;
  QN_TRY(qn_cuda_enter(e->cuda, diag));
  qn_cu_result result = d->to_device((qn_cu_address)(uintptr_t)to, from, bytes, e->stream);
  if (result == QN_CU_SUCCESS) result = d->stream_wait(e->stream);
  qn_status status = check(e, result, "writing memory", diag);
  qn_cuda_leave(e->cuda);
  return status;
}

static qn_status read_memory(void *context, void *to, const void *from, size_t bytes, qn_diag *diag) {
  cuda_executor *e = context;
  const qn_cuda_driver *d = &e->cuda->driver;
  QN_TRY(qn_cuda_enter(e->cuda, diag));
  qn_cu_result result = d->to_host(to, (qn_cu_address)(uintptr_t)from, bytes, e->stream);
  if (result == QN_CU_SUCCESS) result = d->stream_wait(e->stream);
  qn_status status = check(e, result, "reading memory", diag);
  qn_cuda_leave(e->cuda);
  return status;
}

static qn_status copy_memory(void *context, void *to, const void *from, size_t bytes, qn_diag *diag) {
  cuda_executor *e = context;
  QN_TRY(qn_cuda_enter(e->cuda, diag));
  qn_cu_result result =
      e->cuda->driver.copy((qn_cu_address)(uintptr_t)to, (qn_cu_address)(uintptr_t)from, bytes, e->stream);
  qn_status status = check(e, result, "copying memory", diag);
  qn_cuda_leave(e->cuda);
  return status;
}

static const qn_memory *memory(qn_executor *base) { return &((cuda_executor *)base)->memory; }

// --- graphs that are kept

static void drop_graphs(cuda_executor *e) {
  bool any = false;
  for (size_t i = 0; i < GRAPHS_MAX; i++) any = any || e->graphs[i].exec;
  if (!any) return;
  bool entered = e->cuda->driver.context_push(e->cuda->context) == QN_CU_SUCCESS;
  for (size_t i = 0; i < GRAPHS_MAX; i++) {
    if (e->graphs[i].exec) e->cuda->driver.graph_exec_destroy(e->graphs[i].exec);
    e->graphs[i] = (graph){0};
  }
  if (entered) qn_cuda_leave(e->cuda);
}

// --- inputs and outputs

// Bytes of an element by qn_dtype (ir/dtype.def), for those that inputs have; 0 for others.
static size_t element_bytes(uint32_t dtype) {
  static const size_t bytes[] = {4, 2, 2, 4, 1};  // f32, f16, bf16, i32, i8
  return dtype < QN_COUNT(bytes) ? bytes[dtype] : 0;
}

// Bytes of the value, or of its first rows, with these symbol values; false when that overflows.
static bool value_bytes(const qn_art_buffer *b, const int64_t *symbols, size_t *out) {
  size_t bytes = element_bytes(b->dtype);
  for (uint32_t d = 0; d < b->rank; d++) {
    int64_t size = b->dims[d];
    if (b->symbols[d] && __builtin_mul_overflow(size, symbols[b->symbols[d]], &size)) return false;
    if (b->kind == QN_ART_ARENA && b->rank == 2 && d == 1) size = b->row_pitch;
    if (size < 0 || !qn_size_mul(bytes, (size_t)size, &bytes)) return false;
  }
  *out = bytes;
  return true;
}

// Places the inputs one behind the other; *out_bytes is the end.
static qn_status place_inputs(cuda_executor *e, const int64_t *symbols, size_t *out_bytes, qn_diag *diag) {
  const qn_artifact *a = e->base.artifact;
  size_t end = 0;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    size_t bytes = 0;
    if (b->kind != QN_ART_INPUT) continue;
    if (!value_bytes(b, symbols, &bytes) || !qn_size_add(bytes, end + SLACK_BYTES, &bytes) || bytes > PTRDIFF_MAX / 2) {
      return qn_fail(diag, QN_ERR_LIMIT, a->path, "input '%s': its size overflows", a->strings + b->name);
    }
    e->places[i] = end;
    end = qn_align_up(bytes, ALIGNMENT);
  }
  *out_bytes = end;
  return QN_OK;
}

// Everything that is in flight is done.
static qn_status wait_all(cuda_executor *e, qn_diag *diag) {
  for (int i = 0; i < SLOTS; i++) e->slots[i].pending = false;
  return check(e, e->cuda->driver.stream_wait(e->stream), "waiting for kernels", diag);
}

static void free_inputs(cuda_executor *e) {
  const qn_cuda_driver *d = &e->cuda->driver;
  for (int i = 0; i < SLOTS; i++) {
    if (e->slots[i].pinned) d->give_back_pinned(e->slots[i].pinned);
    e->slots[i].pinned = NULL;
  }
  if (e->inputs) d->give_back(e->inputs);
  e->inputs = 0;
  e->capacity = 0;
}

// Room for inputs of so many bytes; the context is current. What was there before is lost.
static qn_status grow_inputs(cuda_executor *e, size_t bytes, qn_diag *diag) {
  if (bytes <= e->capacity) return QN_OK;
  QN_TRY(wait_all(e, diag));
  drop_graphs(e);
  free_inputs(e);
  e->resolved = false;
  for (int i = 0; i < SLOTS; i++) {
    void *pinned = NULL;
    QN_TRY(qn_cuda_take_pinned(e->cuda, bytes, "a step's inputs", &pinned, diag));
    e->slots[i].pinned = memset(pinned, 0, bytes);
  }
  QN_TRY(qn_cuda_take(e->cuda, bytes, "a step's inputs", "ask for a smaller context", &e->inputs, diag));
  QN_TRY(clear(e, e->inputs, bytes, diag));
  e->capacity = bytes;
  return QN_OK;
}

static qn_status reserve(qn_executor *base, const int64_t *symbols, qn_diag *diag) {
  cuda_executor *e = (cuda_executor *)base;
  size_t bytes = 0;
  e->resolved = false;  // the places are others now
  QN_TRY(place_inputs(e, symbols, &bytes, diag));
  QN_TRY(qn_cuda_enter(e->cuda, diag));
  qn_status status = grow_inputs(e, bytes, diag);
  qn_cuda_leave(e->cuda);
  return status;
}

// A slot that nothing reads any more, filled with the inputs' values.
static qn_status fill_slot(cuda_executor *e, int index, qn_diag *diag) {
  const qn_artifact *a = e->base.artifact;
  slot *s = &e->slots[index];
  if (s->pending) QN_TRY(check(e, e->cuda->driver.event_wait(s->copied), "waiting for kernels", diag));
  s->pending = false;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    size_t bytes = 0;
    if (b->kind != QN_ART_INPUT || !value_bytes(b, e->symbols, &bytes)) continue;
    if (bytes > 0) memcpy(s->pinned + e->places[i], e->base.bases[i], bytes);
  }
  return QN_OK;
}

// Bytes of an output that the host reads after a run; 0 for what is no output or not wanted.
static size_t wanted_bytes(const cuda_executor *e, uint32_t buffer) {
  const qn_art_buffer *b = &e->base.artifact->buffers[buffer];
  size_t bytes = 0;
  if (!b->output || e->base.unwanted[buffer] || !value_bytes(b, e->symbols, &bytes)) return 0;
  return bytes < b->bytes ? bytes : (size_t)b->bytes;
}

// Which outputs there are, as a number; 0 = none.
static uint64_t wanted_outputs(const cuda_executor *e) {
  uint64_t hash = 0;
  for (uint32_t i = 0; i < e->base.artifact->program->buffer_count; i++) {
    if (wanted_bytes(e, i) > 0) hash = (hash ^ (i + 1)) * UINT64_C(1099511628211);
  }
  return hash;
}

static const void *output(const qn_executor *base, uint32_t buffer) {
  const cuda_executor *e = (const cuda_executor *)base;
  return e->outputs ? e->outputs + e->places[buffer] : NULL;
}

// --- what a run is made of

static void bound(qn_executor *base, uint32_t buffer) {
  cuda_executor *e = (cuda_executor *)base;
  if (base->artifact->buffers[buffer].kind != QN_ART_CACHE) return;  // inputs are copied from wherever they are
  drop_graphs(e);
  e->resolved = false;
}

static qn_cu_address address_of(const cuda_executor *e, uint32_t buffer) {
  const qn_art_buffer *b = &e->base.artifact->buffers[buffer];
  switch (b->kind) {
    case QN_ART_ARENA: return e->arena + b->offset;
    case QN_ART_WEIGHT: return e->cuda->weights + b->offset;
    case QN_ART_CACHE: return (qn_cu_address)(uintptr_t)e->base.bases[buffer];
    default: return e->inputs + e->places[buffer];
  }
}

static qn_status resolve_step(cuda_executor *e, uint32_t step, const int64_t *symbols, qn_diag *diag) {
  launch *l = &e->launches[step];
  int64_t extent = 0;
  QN_TRY(qn_executor_resolve(&e->base, step, symbols, &l->variant, &extent, diag));
  int64_t groups = qn_art_code_launches(e->cuda->code)[l->variant - e->base.first_variant].groups;
  l->blocks = (unsigned)((extent + groups - 1) / groups);
  return QN_OK;
}

// Variants, pointers and places for these symbol values; the context is current.
static qn_status resolve(cuda_executor *e, const int64_t *symbols, qn_diag *diag) {
  const qn_artifact *a = e->base.artifact;
  if (e->resolved && memcmp(symbols, e->symbols, sizeof e->symbols) == 0) return QN_OK;
  e->resolved = false;
  QN_TRY(place_inputs(e, symbols, &e->input_bytes, diag));
  QN_TRY(grow_inputs(e, e->input_bytes, diag));
  for (uint32_t i = 0; i < step_count(e); i++) QN_TRY(resolve_step(e, i, symbols, diag));
  for (uint32_t i = 0; i < a->program->operand_count; i++) e->pointers[i] = address_of(e, a->operands[i]);
  for (int s = 0; s < SYMBOLS; s++) e->values[s] = (int)symbols[s + 1];
  memcpy(e->symbols, symbols, sizeof e->symbols);
  e->resolved = true;
  return QN_OK;
}

static qn_status start_kernel(cuda_executor *e, uint32_t step, qn_diag *diag) {
  const qn_cuda_driver *d = &e->cuda->driver;
  const qn_art_step *s = &e->base.artifact->steps[step];
  const launch *l = &e->launches[step];
  if (l->blocks == 0) return QN_OK;
  uint32_t index = l->variant - e->base.first_variant;
  const qn_art_launch *shape = &qn_art_code_launches(e->cuda->code)[index];
  for (uint32_t i = 0; i < s->operand_count; i++) e->params[i] = &e->pointers[s->first_operand + i];
  for (uint32_t i = 0; i < SYMBOLS; i++) e->params[s->operand_count + i] = &e->values[i];
  qn_cu_result result = d->launch(e->cuda->functions[index], l->blocks, 1, 1, shape->lanes * shape->groups, 1, 1,
                                  shape->shared_bytes, e->stream, e->params, NULL);
  if (result == QN_CU_SUCCESS && e->check_kernels) result = d->stream_wait(e->stream);
  return check_launch(e, result, step, diag);
}

// Everything of a run into the stream, or into the graph that is made of it.
static qn_status enqueue(cuda_executor *e, const slot *s, qn_diag *diag) {
  const qn_cuda_driver *d = &e->cuda->driver;
  const qn_artifact *a = e->base.artifact;
  qn_cu_result result = QN_CU_SUCCESS;
  if (e->input_bytes > 0) result = d->to_device(e->inputs, s->pinned, e->input_bytes, e->stream);
  if (e->events && result == QN_CU_SUCCESS) result = d->event_record(e->events[0], e->stream);
  QN_TRY(check(e, result, "copying a step's inputs", diag));
  for (uint32_t i = 0; i < step_count(e); i++) {
    QN_TRY(start_kernel(e, i, diag));
    if (e->events) QN_TRY(check(e, d->event_record(e->events[i + 1], e->stream), "noting a kernel's time", diag));
  }
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    size_t bytes = wanted_bytes(e, i);
    if (bytes == 0) continue;
    result = d->to_host(e->outputs + e->places[i], e->arena + a->buffers[i].offset, bytes, e->stream);
    QN_TRY(check(e, result, "copying a step's outputs", diag));
  }
  return QN_OK;
}

// --- graphs

// The one for the present symbol values and outputs, or a place for it.
static graph *find_graph(cuda_executor *e, uint64_t outputs) {
  graph *oldest = &e->graphs[0];
  for (size_t i = 0; i < GRAPHS_MAX; i++) {
    graph *g = &e->graphs[i];
    if (g->exec && g->outputs == outputs && memcmp(g->symbols, e->symbols, sizeof g->symbols) == 0) return g;
    if (g->used < oldest->used) oldest = g;
  }
  if (oldest->exec) e->cuda->driver.graph_exec_destroy(oldest->exec);
  *oldest = (graph){.outputs = outputs};
  memcpy(oldest->symbols, e->symbols, sizeof oldest->symbols);
  return oldest;
}

// What is enqueued is recorded instead of done.
static qn_status make_graph(cuda_executor *e, graph *g, qn_diag *diag) {
  const qn_cuda_driver *d = &e->cuda->driver;
  qn_cu_graph recorded = NULL;
  qn_cu_result result = d->capture_begin(e->stream, QN_CU_CAPTURE_THREAD_LOCAL);
  QN_TRY(check(e, result, "recording a step", diag));
  qn_status status = enqueue(e, &e->slots[0], diag);
  result = d->capture_end(e->stream, &recorded);
  if (status == QN_OK) status = check(e, result, "recording a step", diag);
  if (status == QN_OK) status = check(e, d->graph_instantiate(&g->exec, recorded, 0), "making a graph of a step", diag);
  if (recorded) d->graph_destroy(recorded);
  return status;
}

static qn_status run_graph(cuda_executor *e, uint64_t outputs, qn_diag *diag) {
  const qn_cuda_driver *d = &e->cuda->driver;
  graph *g = find_graph(e, outputs);
  g->used = ++e->runs;
  if (!g->exec) QN_TRY(make_graph(e, g, diag));
  QN_TRY(fill_slot(e, 0, diag));
  return check(e, d->graph_launch(g->exec, e->stream), "starting a step", diag);
}

// --- running

static qn_status note_times(cuda_executor *e, qn_diag *diag) {
  for (uint32_t i = 0; i < step_count(e); i++) {
    float ms = 0;
    qn_cu_result result = e->cuda->driver.event_elapsed(&ms, e->events[i], e->events[i + 1]);
    QN_TRY(check(e, result, "reading a kernel's time", diag));
    e->base.profile[i].kernel_ns += (uint64_t)((double)ms * 1e6);
    e->base.profile[i].calls++;
  }
  return QN_OK;
}

// Starts everything; *out_slot is the slot that it reads.
static qn_status start(cuda_executor *e, uint64_t outputs, qn_run_kind kind, int *out_slot, qn_diag *diag) {
  *out_slot = 0;
  if (kind == QN_RUN_STEP && !e->events && !e->check_kernels) return run_graph(e, outputs, diag);
  *out_slot = e->next_slot;
  e->next_slot = (e->next_slot + 1) % SLOTS;
  QN_TRY(fill_slot(e, *out_slot, diag));
  return enqueue(e, &e->slots[*out_slot], diag);
}

static qn_status run_here(cuda_executor *e, const int64_t *symbols, qn_run_kind kind, qn_diag *diag) {
  int used = 0;
  QN_TRY(resolve(e, symbols, diag));
  uint64_t outputs = wanted_outputs(e);
  QN_TRY(start(e, outputs, kind, &used, diag));
  if (outputs != 0 || e->events) {
    QN_TRY(wait_all(e, diag));
    return e->events ? note_times(e, diag) : QN_OK;
  }
  slot *s = &e->slots[used];  // nobody waits: who needs the slot again does
  s->pending = true;
  return check(e, e->cuda->driver.event_record(s->copied, e->stream), "noting a step's end", diag);
}

static qn_status run(qn_executor *base, const int64_t *symbols, qn_run_kind kind, qn_diag *diag) {
  cuda_executor *e = (cuda_executor *)base;
  if (e->lost) {
    return qn_fail(diag, QN_ERR_INTERNAL, e->cuda->where,
                   "a kernel faulted before, and this process cannot use the device any more; start it again");
  }
  QN_TRY(qn_cuda_enter(e->cuda, diag));
  qn_status status = run_here(e, symbols, kind, diag);
  qn_cuda_leave(e->cuda);
  return status;
}

static void nothing(qn_executor *base) { (void)base; }

// --- life

static size_t param_room(const qn_artifact *a) {
  size_t most = 0;
  for (uint32_t i = 0; i < a->program->kernel_count; i++)
    if (a->kernels[i].param_count > most) most = a->kernels[i].param_count;
  return most + SYMBOLS;
}

static qn_status take_outputs(cuda_executor *e, qn_diag *diag) {
  const qn_artifact *a = e->base.artifact;
  void *pinned = NULL;
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    if (!a->buffers[i].output) continue;
    e->places[i] = e->output_bytes;
    e->output_bytes += qn_align_up((size_t)a->buffers[i].bytes, ALIGNMENT);  // each within the arena, which is bounded
  }
  if (e->output_bytes == 0) return QN_OK;
  QN_TRY(qn_cuda_take_pinned(e->cuda, e->output_bytes, "a step's outputs", &pinned, diag));
  e->outputs = pinned;
  return QN_OK;
}

static qn_status make_events(cuda_executor *e, bool profile, qn_diag *diag) {
  const qn_cuda_driver *d = &e->cuda->driver;
  for (int i = 0; i < SLOTS; i++)
    QN_TRY(check(e, d->event_create(&e->slots[i].copied, QN_CU_EVENT_DISABLE_TIMING), "making an event", diag));
  if (!profile) return QN_OK;
  e->events = qn_executor_array(&e->base, step_count(e) + 1, sizeof *e->events);
  if (!e->events) return qn_fail_nomem(diag, e->base.artifact->path, "events");
  for (size_t i = 0; i <= step_count(e); i++)
    QN_TRY(check(e, d->event_create(&e->events[i], 0), "making an event", diag));
  return QN_OK;
}

static qn_status build_there(cuda_executor *e, const qn_executor_options *options, qn_diag *diag) {
  const qn_artifact *a = e->base.artifact;
  size_t bytes = (size_t)a->program->arena_bytes;
  QN_TRY(check(e, e->cuda->driver.stream_create(&e->stream, QN_CU_STREAM_NON_BLOCKING), "making a stream", diag));
  QN_TRY(make_events(e, options->profile, diag));
  QN_TRY(take_outputs(e, diag));
  if (bytes == 0) return QN_OK;
  QN_TRY(qn_cuda_take(e->cuda, bytes, "intermediate values", "compile it with a smaller --chunk", &e->arena, diag));
  return clear(e, e->arena, bytes, diag);
}

static qn_status build(cuda_executor *e, const qn_executor_options *options, qn_diag *diag) {
  const qn_artifact *a = e->base.artifact;
  e->check_kernels = options->check_kernels;
  e->memory = (qn_memory){.context = e, .take = take_memory, .give_back = give_back_memory, .write = write_memory,
                          .read = read_memory, .copy = copy_memory};
  for (uint32_t i = 0; i < a->program->buffer_count; i++) {
    const qn_art_buffer *b = &a->buffers[i];
    if (b->kind != QN_ART_INPUT || element_bytes(b->dtype) > 0) continue;
    return qn_fail(diag, QN_ERR_UNSUPPORTED, a->path,
                   "input '%s': got element type %" PRIu32 ", want f32, f16, bf16, i32 or i8 on a GPU",
                   a->strings + b->name, b->dtype);
  }
  memcpy(e->base.target, e->cuda->code->target, sizeof e->base.target);
  qn_executor_take_plan(&e->base, e->cuda->code->plan);
  e->param_room = param_room(a);
  e->places = qn_executor_array(&e->base, a->program->buffer_count, sizeof *e->places);
  e->launches = qn_executor_array(&e->base, step_count(e), sizeof *e->launches);
  e->pointers = qn_executor_array(&e->base, a->program->operand_count, sizeof *e->pointers);
  e->params = qn_executor_array(&e->base, e->param_room, sizeof *e->params);
  if (!e->places || !e->launches || !e->pointers || !e->params) return qn_fail_nomem(diag, a->path, "the executor");
  QN_TRY(qn_cuda_enter(e->cuda, diag));
  qn_status status = build_there(e, options, diag);
  qn_cuda_leave(e->cuda);
  return status;
}

// After a fault the driver may refuse all of it; then the context takes it along.
static void destroy_there(cuda_executor *e) {
  const qn_cuda_driver *d = &e->cuda->driver;
  if (e->stream) d->stream_wait(e->stream);
  drop_graphs(e);
  free_inputs(e);
  for (size_t i = 0; e->events && i <= step_count(e); i++)
    if (e->events[i]) d->event_destroy(e->events[i]);
  for (int i = 0; i < SLOTS; i++)
    if (e->slots[i].copied) d->event_destroy(e->slots[i].copied);
  if (e->outputs) d->give_back_pinned(e->outputs);
  if (e->arena) d->give_back(e->arena);
  if (e->stream) d->stream_destroy(e->stream);
}

static void destroy(qn_executor *base) {
  cuda_executor *e = (cuda_executor *)base;
  const qn_art_program *p = base->artifact->program;
  bool entered = e->cuda->driver.context_push(e->cuda->context) == QN_CU_SUCCESS;
  destroy_there(e);
  if (entered) qn_cuda_leave(e->cuda);
  qn_executor_free_array(base, e->places, p->buffer_count, sizeof *e->places);
  qn_executor_free_array(base, e->launches, p->step_count, sizeof *e->launches);
  qn_executor_free_array(base, e->pointers, p->operand_count, sizeof *e->pointers);
  qn_executor_free_array(base, e->params, e->param_room, sizeof *e->params);
  qn_executor_free_array(base, e->events, (size_t)p->step_count + 1, sizeof *e->events);
  qn_executor_deinit(base);
}

qn_status qn_cuda_executor_create(const qn_artifact *artifact, const qn_executor_options *options,
                                  const qn_allocator *allocator, qn_executor **out, qn_diag *diag) {
  static const qn_executor_class class = {.destroy = destroy,
                                          .memory = memory,
                                          .bound = bound,
                                          .output = output,
                                          .reserve = reserve,
                                          .run = run,
                                          .hold = nothing,
                                          .release = nothing};
  qn_executor *base = NULL;
  *out = NULL;
  QN_TRY(qn_executor_new(&class, sizeof(cuda_executor), artifact, allocator, options->profile ? 1 : 0, &base, diag));
  cuda_executor *e = (cuda_executor *)base;
  e->cuda = options->cuda;
  qn_status status = build(e, options, diag);
  if (status == QN_OK) {
    *out = base;
  } else {
    destroy(base);
  }
  return status;
}
