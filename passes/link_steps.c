// link_steps: which steps need no barrier between them when a step of the model has one row. For CPUs alone.
// Requires: lower. Keeps: every value. Breaks nothing: a link says what may be done, and steps run one by one as well.
//
// A *chain* is steps of which each needs, part by part, no more than what the part at its side of those before it
// made: gate and up and what quantises them; RoPE, cache writes and attention by KV head. A thread takes a part through
// all of them. Whether that is so is read off the kernels: what an iteration of the outermost loop touches
// (qn_lkernel_span), for one row. The schedule may cut loops otherwise; so every variant is asked again
// (qn_link_variants).
//
// A *prologue* is a step that one thread would do while the others wait (a norm and what quantises it) and whose result
// only the next step wants: each thread does it for itself instead, which takes no longer. It must not see its inputs
// overwritten by a faster thread; they live, as all buffers of linked steps do, until the last of these steps is done.
#include <string.h>

#include "passes/loop_util.h"
#include "passes/pass.h"

typedef struct linker {
  qn_pass_context *context;
  qn_program *program;
  int64_t **spans;  // of each kernel's parameters for one row; NULL = not looked at yet
  int64_t *trips;   // of its outermost loop then; 0 = it has none with a constant number
} linker;

static const qn_lkernel *kernel_of(const qn_program *program, const qn_pstep *step) {
  return program->kernels.items[step->kernel].plain;
}

// The spans of the kernel's parameters for one row.
static qn_status look_at_kernel(linker *l, uint32_t index) {
  qn_pass_context *context = l->context;
  const qn_pkernel *kernel = &l->program->kernels.items[index];
  if (l->spans[index]) return QN_OK;
  qn_schedule plain = qn_schedule_plain();
  qn_lbuild build;
  qn_lkernel *copy = qn_lkernel_copy(&build, context->arena, kernel->plain, kernel->name);
  int64_t *spans = QN_ARENA_ARRAY(context->arena, kernel->plain->param_count, int64_t);
  if (!copy || !spans) return qn_fail_nomem(context->diag, kernel->name, "the parts of its buffers");
  qn_loop_pass_context loops = {.build = &build, .schedule = &plain, .diag = context->diag};
  if (kernel->rows != QN_SYM_NONE) QN_TRY(qn_pass_specialise(&loops, kernel->rows, 1));
  for (size_t i = 0; i < copy->param_count; i++) {
    QN_TRY(qn_lkernel_span(copy, i, context->arena, &spans[i], context->diag));
  }
  const qn_lstmt *loop = copy->body.first;
  if (loop && loop->kind == QN_LS_FOR) (void)qn_loop_const_trips(&build, loop, &l->trips[index]);
  l->spans[index] = spans;
  return QN_OK;
}

// What two steps have to do with each other.
typedef enum relation { UNRELATED, IN_PARTS, MIXED } relation;

// Parameters x of `before` and y of `after` name one buffer, which one of them writes.
static bool meet(const qn_program *program, const qn_pstep *before, size_t x, const qn_pstep *after, size_t y) {
  bool writes = kernel_of(program, before)->params[x]->writable || kernel_of(program, after)->params[y]->writable;
  return before->buffers[x] == after->buffers[y] && writes;
}

static qn_status relate(linker *l, const qn_pstep *before, const qn_pstep *after, relation *out) {
  QN_TRY(look_at_kernel(l, before->kernel));
  QN_TRY(look_at_kernel(l, after->kernel));
  const int64_t *first = l->spans[before->kernel], *second = l->spans[after->kernel];
  *out = UNRELATED;
  for (size_t x = 0; x < kernel_of(l->program, before)->param_count; x++) {
    for (size_t y = 0; y < kernel_of(l->program, after)->param_count; y++) {
      if (*out == MIXED || !meet(l->program, before, x, after, y)) continue;
      *out = first[x] && first[x] == second[y] ? IN_PARTS : MIXED;
    }
  }
  return QN_OK;
}

static void note_spans(linker *l, qn_pstep *before, qn_pstep *after) {
  l->program->kernels.items[before->kernel].chained = l->program->kernels.items[after->kernel].chained = true;
  for (size_t x = 0; x < kernel_of(l->program, before)->param_count; x++) {
    for (size_t y = 0; y < kernel_of(l->program, after)->param_count; y++) {
      if (!meet(l->program, before, x, after, y)) continue;
      before->spans[x] = l->spans[before->kernel][x];
      after->spans[y] = l->spans[after->kernel][y];
    }
  }
}

// Has the step to do with the prologue other than by reading what that writes?
static bool disturbs(const linker *l, const qn_pstep *prologue, const qn_pstep *step) {
  const qn_program *program = l->program;
  for (size_t x = 0; x < kernel_of(program, prologue)->param_count; x++) {
    bool own = kernel_of(program, prologue)->params[x]->writable;
    for (size_t y = 0; y < kernel_of(program, step)->param_count; y++) {
      if (!meet(program, prologue, x, step, y)) continue;
      if (!own || kernel_of(program, step)->params[y]->writable) return true;
    }
  }
  return false;
}

static int64_t common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// Are the parts of a chain small enough for its products? Those read weights, which all threads should share: a part
// may have two of their panels, as what quantises them wants, but not a head's.
static bool parts_are_small(const linker *l, size_t head, size_t last) {
  const qn_program *program = l->program;
  int64_t parts = 0;
  for (size_t i = head; i <= last; i++) parts = common_divisor(l->trips[program->steps.items[i].kernel], parts);
  for (size_t i = head; i <= last; i++) {
    uint32_t kernel = program->steps.items[i].kernel;
    if (program->kernels.items[kernel].is_matmul && l->trips[kernel] > 2 * parts) return false;
  }
  return true;
}

// Chains step `index` to the steps from `head` on, which are chained themselves, where it fits all of them and has to
// do with one. `start` is where their prologue begins, or head.
static qn_status try_chain(linker *l, size_t start, size_t head, size_t index, bool *out) {
  qn_pstep *steps = l->program->steps.items;
  bool related = false;
  *out = false;
  for (size_t i = start; i < head; i++) {
    if (disturbs(l, &steps[i], &steps[index])) return QN_OK;
  }
  for (size_t i = head; i < index; i++) {
    relation r = UNRELATED;
    QN_TRY(relate(l, &steps[i], &steps[index], &r));
    if (r == MIXED) return QN_OK;
    related = related || r == IN_PARTS;
  }
  if (!related || !parts_are_small(l, head, index)) return QN_OK;
  for (size_t i = head; i < index; i++) note_spans(l, &steps[i], &steps[index]);
  steps[index].link = QN_LINK_CHAINED;
  *out = true;
  return QN_OK;
}

// What a prologue writes: rows of a value that only it makes and only the next step reads.
static bool is_own(const qn_pbuf *p, size_t step) {
  bool rows = p->type.rank >= 1 && !qn_dim_is_const(p->type.dims[0]) && p->type.dims[0].value == 1 && p->row_pitch > 0;
  return p->kind == QN_PB_ARENA && !p->name && rows && p->first_step == step && p->last_step == step + 1;
}

static bool is_prologue(const linker *l, size_t index) {
  const qn_program *program = l->program;
  if (index + 1 >= program->steps.count) return false;
  const qn_pstep *step = &program->steps.items[index];
  const qn_pkernel *kernel = &program->kernels.items[step->kernel];
  if (kernel->is_matmul || kernel->rows != QN_SYM_NONE) return false;  // others share its work
  bool writes = false;
  for (size_t i = 0; i < kernel->plain->param_count; i++) {
    if (!kernel->plain->params[i]->writable) continue;
    writes = true;
    if (!is_own(&program->buffers.items[step->buffers[i]], index)) return false;
  }
  return writes && !disturbs(l, step, &program->steps.items[index + 1]);
}

qn_status qn_pass_link_steps(qn_pass_context *context) {
  qn_program *program = context->program;
  linker l = {.context = context, .program = program};
  if (context->options->gpu) return QN_OK;
  l.spans = QN_ARENA_ARRAY(context->arena, program->kernels.count, int64_t *);
  l.trips = QN_ARENA_ARRAY(context->arena, program->kernels.count, int64_t);
  if (!l.spans || !l.trips) return qn_fail_nomem(context->diag, program->name, "links of steps");
  size_t start = 0, head = 0;
  for (size_t i = 0; i < program->steps.count; i++) {
    bool chained = false;
    if (i > head) QN_TRY(try_chain(&l, start, head, i, &chained));
    if (chained || (i > 0 && i == head)) continue;
    start = head = i;
    if (!is_prologue(&l, i)) continue;
    program->steps.items[i].link = QN_LINK_PROLOGUE;
    head = i + 1;
  }
  return QN_OK;
}

// What the steps that call the kernel want of a parameter's span; 0 = nothing, -1 = not the same.
static int64_t wanted_span(const qn_program *program, uint32_t kernel, size_t param) {
  int64_t wanted = 0;
  for (size_t s = 0; s < program->steps.count; s++) {
    const qn_pstep *step = &program->steps.items[s];
    if (step->kernel != kernel || step->spans[param] == 0) continue;
    if (wanted != 0 && wanted != step->spans[param]) return -1;
    wanted = step->spans[param];
  }
  return wanted;
}

// Whether the variant's outermost loop walks every buffer of a chain as the kernel did when its steps were linked.
static qn_status in_parts(qn_pass_context *context, uint32_t kernel, qn_pvariant *v) {
  bool linked = false;
  v->in_parts = false;
  for (size_t i = 0; i < v->kernel->param_count; i++) {
    int64_t span = 0, wanted = wanted_span(context->program, kernel, i);
    if (wanted == 0) continue;
    QN_TRY(qn_lkernel_span(v->kernel, i, context->arena, &span, context->diag));
    if (span != wanted) return QN_OK;
    linked = true;
  }
  v->in_parts = linked && v->kernel->body.first->u.loop.mark == QN_LM_PARALLEL;
  return QN_OK;
}

qn_status qn_link_variants(qn_pass_context *context) {
  for (uint32_t i = 0; i < context->program->kernels.count; i++) {
    qn_pkernel *kernel = &context->program->kernels.items[i];
    for (int v = 0; v < kernel->variant_count; v++) QN_TRY(in_parts(context, i, &kernel->variants[v]));
  }
  return QN_OK;
}
