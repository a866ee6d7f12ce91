// What the worker's child does: compiles, checks, times.
#include "autotune/worker_child.h"

#include <stdio.h>
#include <string.h>

#include "autotune/check_set.h"
#include "autotune/timing.h"
#include "runtime/base/vec.h"

struct qn_worker_child {
  const qn_worker_options *options;  // borrowed
  const qn_allocator *allocator;     // borrowed
  // of the task
  qn_arena arena;
  qn_tuning_task task;
  qn_subject subject;
  QN_VEC(qn_compiled) code;  // by candidate; entry NULL = not here
  qn_check_set *checks;
  qn_timing *timing;  // NULL before the first pair
};

qn_status qn_worker_child_create(const qn_worker_options *options, const qn_allocator *allocator, qn_worker_child **out,
                                 qn_diag *diag) {
  qn_worker_child *c = *out = qn_alloc_zeroed(allocator, sizeof *c);
  if (!c) return qn_fail_nomem(diag, "worker", "its child");
  c->options = options;
  c->allocator = allocator;
  qn_arena_init(&c->arena, allocator);
  return QN_OK;
}

static void end_task(qn_worker_child *c) {
  qn_check_set_destroy(c->checks);
  qn_timing_destroy(c->timing);
  c->checks = NULL;
  c->timing = NULL;
  c->code.count = 0;
  qn_arena_deinit(&c->arena);
  qn_arena_init(&c->arena, c->allocator);
  if (c->options->compiler.release) c->options->compiler.release(c->options->compiler.context);
}

void qn_worker_child_destroy(qn_worker_child *c) {
  if (!c) return;
  qn_vec_free(c->allocator, &c->code);
  qn_arena_deinit(&c->arena);
  qn_free(c->allocator, c, sizeof *c);
}

bool qn_worker_child_locate(void *context, const void *address, char *out, size_t size) {
  const qn_worker_child *c = context;
  return c->checks && qn_check_set_locate(c->checks, address, out, size);
}

static qn_status begin_task(qn_worker_child *c, const qn_tuning_task *task, qn_diag *diag) {
  end_task(c);
  c->task = *task;
  QN_TRY(qn_subject_of_step(task->program, task->step, &c->arena, &c->subject, diag));
  return qn_check_set_create(&c->subject, false, c->allocator, &c->checks, diag);
}

// --- compiling

static bool is_of_candidate(qn_status status) {
  return status != QN_OK && status != QN_ERR_NOMEM && status != QN_ERR_IO && status != QN_ERR_TARGET;
}

static qn_status take_code(qn_worker_child *c, int number, const qn_compiled *code, qn_diag *diag) {
  static const qn_compiled none;
  while (c->code.count <= (size_t)number)
    if (!qn_vec_push(c->allocator, &c->code, none)) return qn_fail_nomem(diag, "worker", "candidates");
  c->code.items[number] = *code;
  return QN_OK;
}

static qn_status compile_one(qn_worker_child *c, qn_worker_shared *s, int i, qn_diag *diag) {
  const qn_compiler *compiler = &c->options->compiler;
  qn_compiled code = {0};
  qn_diag own = {0};
  qn_flight_note(&s->flight, QN_WORKER_COMPILING, i);
  qn_status status = compiler->compile(compiler->context, &c->task, &s->schedules[i], 1, &code, &own);
  if (is_of_candidate(status)) {
    s->results[i].verdict = QN_VERDICT_FAILED;
    snprintf(s->results[i].evidence, sizeof s->results[i].evidence, "%.180s", own.text);
    s->done[i] = true;
    return QN_OK;
  }
  if (status != QN_OK) return qn_fail(diag, status, "worker", "%s", own.text);
  return take_code(c, s->numbers[i], &code, diag);
}

static qn_status compile_all(qn_worker_child *c, qn_worker_shared *s, qn_diag *diag) {
  const qn_compiler *compiler = &c->options->compiler;
  qn_compiled code[QN_WORKER_BATCH] = {{0}};
  qn_diag own = {0};
  if (s->count == 1) return compile_one(c, s, 0, diag);
  qn_flight_note(&s->flight, QN_WORKER_COMPILING, -1);
  qn_status status = compiler->compile(compiler->context, &c->task, s->schedules, s->count, code, &own);
  for (int i = 0; i < s->count; i++) {
    if (status == QN_OK) {
      QN_TRY(take_code(c, s->numbers[i], &code[i], diag));
    } else if (is_of_candidate(status)) {
      QN_TRY(compile_one(c, s, i, diag));
    } else {
      return qn_fail(diag, status, "worker", "%s", own.text);
    }
  }
  return QN_OK;
}

// --- checking

// A candidate in flight.
typedef struct flying {
  qn_flight *flight;
  int item;
} flying;

static void note(void *context, bool running) {
  const flying *f = context;
  qn_flight_note(f->flight, running ? QN_WORKER_CHECKING : QN_WORKER_SETTING_UP, f->item);
}

static qn_status check_candidate(qn_worker_child *c, qn_worker_shared *s, int i, qn_diag *diag) {
  const qn_compiled *code = &c->code.items[s->numbers[i]];
  qn_measured *measured = &s->results[i];
  qn_check_code checked = {.schedule = s->schedules[i],
                           .rows_min = c->task.rows_min,
                           .rows_max = c->task.rows_max,
                           .entry = code->entry,
                           .extent = code->extent};
  flying f = {&s->flight, i};
  qn_diag own = {0};
  qn_status status = qn_check_set_run(c->checks, &checked, note, &f, &measured->verdict, measured->evidence,
                                      sizeof measured->evidence, &s->doubt, &own);
  if (is_of_candidate(status)) {  // a kernel that nobody knows how to feed must not end the session
    measured->verdict = QN_VERDICT_FAILED;
    snprintf(measured->evidence, sizeof measured->evidence, "cannot be checked: %.160s", own.text);
    return QN_OK;
  }
  return status == QN_OK ? QN_OK : qn_fail(diag, status, "worker", "%s", own.text);
}

static qn_status prepare(qn_worker_child *c, qn_worker_shared *s, qn_diag *diag) {
  QN_TRY(compile_all(c, s, diag));
  for (int i = 0; i < s->count; i++) {
    if (s->done[i]) continue;
    if (s->check) QN_TRY(check_candidate(c, s, i, diag));
    s->done[i] = true;
  }
  return QN_OK;
}

// --- timing

static qn_status have_timing(qn_worker_child *c, qn_diag *diag) {
  if (c->timing) return QN_OK;
  const qn_program *program = c->task.program;
  qn_timing_options options = {.rows = c->task.rows,
                               .keys = c->task.keys,
                               .threads = c->task.threads,
                               .last_cache_bytes = c->options->last_cache_bytes};
  for (size_t i = 0; i < program->buffers.count; i++) {
    const qn_pbuf *p = &program->buffers.items[i];
    if (p->kind == QN_PB_WEIGHT) options.model_bytes += p->bytes;
    options.cache_pairs += p->kind == QN_PB_CACHE;
  }
  options.cache_pairs = (options.cache_pairs + 1) / 2;
  return qn_timing_create(&c->subject, &options, c->allocator, &c->timing, diag);
}

static qn_status time_pair(qn_worker_child *c, qn_worker_shared *s, qn_diag *diag) {
  qn_flight_note(&s->flight, QN_WORKER_SETTING_UP, 0);
  QN_TRY(have_timing(c, diag));
  for (int round = 0; round < s->rounds; round++) {
    for (int turn = 0; turn < 2; turn++) {
      int which = (round + turn) % 2;
      const qn_compiled *code = &c->code.items[s->pair[which]];
      qn_flight_note(&s->flight, QN_WORKER_TIMING, which);
      qn_timing_set(c->timing, s->settings[which]);
      s->seconds[2 * round + which] = qn_timing_measure(c->timing, code->entry, code->extent);
    }
  }
  return QN_OK;
}

void qn_worker_child_serve(void *context, void *shared) {
  qn_worker_child *c = context;
  qn_worker_shared *s = shared;
  qn_diag diag = {0};
  s->status = QN_OK;
  switch (s->command) {
    case QN_WORKER_BEGIN: s->status = begin_task(c, &s->task, &diag); break;
    case QN_WORKER_PREPARE: s->status = prepare(c, s, &diag); break;
    case QN_WORKER_PAIR: s->status = time_pair(c, s, &diag); break;
    case QN_WORKER_END: end_task(c); break;
  }
  snprintf(s->text, sizeof s->text, "%.500s", diag.text);
}
