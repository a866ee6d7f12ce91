// The parent's side of the worker: what candidates there are, which child has them, and what their deaths mean.
#include "autotune/worker.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "autotune/worker_child.h"
#include "runtime/base/vec.h"

#define COMPILE_LIMIT_S 120.0
#define RUN_LIMIT_S     10.0
enum { WALL_FACTOR = 60, DEATHS_MAX = 3, DOUBTS_MAX = 4 };

typedef struct candidate {
  qn_schedule schedule;
  qn_measured measured;
  bool loaded;  // the present child has its code
  int kills;    // children that were killed from outside at it, one after another
} candidate;

struct qn_worker {
  const qn_allocator *allocator;  // borrowed
  qn_worker_options options;
  qn_worker_child *template;  // owned: what a child starts from
  qn_child child;
  const qn_program *program;  // that the present child knows
  qn_tuning_task task;
  qn_setting settings[2];
  bool begun;      // there is a task
  bool child_has;  // and the present child has begun it
  bool doubt;      // a candidate that was found right turned out to be wrong
  bool cut;        // the deadline came before an answer
  double deadline;
  QN_VEC(candidate) candidates;
};

qn_status qn_worker_create(const qn_worker_options *options, const qn_allocator *allocator, qn_worker **out,
                           qn_diag *diag) {
  *out = NULL;
  qn_worker *w = qn_alloc_zeroed(allocator, sizeof *w);
  if (!w) return qn_fail_nomem(diag, "worker", "it");
  w->allocator = allocator;
  w->options = *options;
  w->child.socket = -1;
  w->deadline = HUGE_VAL;
  if (w->options.compile_limit_s <= 0) w->options.compile_limit_s = COMPILE_LIMIT_S;
  if (w->options.run_limit_s <= 0) w->options.run_limit_s = RUN_LIMIT_S;
  qn_status status = qn_worker_child_create(&w->options, allocator, &w->template, diag);
  if (status != QN_OK) {
    qn_worker_destroy(w);
    return status;
  }
  *out = w;
  return QN_OK;
}

void qn_worker_destroy(qn_worker *w) {
  if (!w) return;
  qn_child_stop(&w->child);
  qn_worker_child_destroy(w->template);
  qn_vec_free(w->allocator, &w->candidates);
  qn_free(w->allocator, w, sizeof *w);
}

// --- the child

static void forget_child(qn_worker *w) {
  qn_child_stop(&w->child);
  w->child_has = false;
  for (size_t i = 0; i < w->candidates.count; i++) w->candidates.items[i].loaded = false;
}

// What came of asking the child for what the shared memory says.
typedef struct answer {
  qn_child_end end;
  int stage, item;  // that it was at
  char evidence[192];
} answer;

static answer ask(qn_worker *w, qn_worker_command command) {
  qn_worker_shared *s = w->child.shared;
  bool compiles = command == QN_WORKER_PREPARE;
  double limit = compiles ? w->options.compile_limit_s : w->options.run_limit_s;
  if (command == QN_WORKER_PAIR && w->task.threads > 1) limit *= w->task.threads;  // CPU time is that of all of them
  qn_child_limits limits = {.cpu_s = limit,
                            .wall_s = limit * WALL_FACTOR,
                            .run_stage = compiles ? QN_WORKER_CHECKING : 0,
                            .run_cpu_s = w->options.run_limit_s,
                            .run_wall_s = w->options.run_limit_s * WALL_FACTOR,
                            .until_s = isfinite(w->deadline) ? fmax(w->deadline, 1e-9) : 0,
                            .cancelled = w->options.cancelled,
                            .context = w->options.cancel_context};
  answer a = {.end = QN_CHILD_DIED};
  s->command = command;
  a.end = qn_child_ask(&w->child, &limits, a.evidence, sizeof a.evidence);
  a.stage = atomic_load(&s->flight.stage);
  a.item = atomic_load(&s->flight.item);
  return a;
}

// What the child answered. One without memory is not kept: the next task needs what it took.
static qn_status child_status(qn_worker *w, qn_diag *diag) {
  const qn_worker_shared *s = w->child.shared;
  if (s->status == QN_OK) return QN_OK;
  qn_status status = qn_fail(diag, s->status, w->task.kernel->name, "%s", s->text);
  if (status == QN_ERR_NOMEM) forget_child(w);
  return status;
}

// Of an answer that no candidate is to blame for.
static qn_status fail_answer(qn_worker *w, const answer *a, qn_diag *diag) {
  const char *name = w->task.kernel->name;
  forget_child(w);
  w->cut = w->cut || a->end == QN_CHILD_CUT;
  switch (a->end) {
    case QN_CHILD_CUT: return qn_fail(diag, QN_ERR_CANCELLED, name, "its time is over");
    case QN_CHILD_CANCELLED: return qn_fail(diag, QN_ERR_CANCELLED, name, "cancelled by the caller");
    case QN_CHILD_KILLED:  // as a system does that runs out of memory
      return qn_fail(diag, QN_ERR_NOMEM, name, "the process that measures it was killed before it ran: %s", a->evidence);
    default:
      return qn_fail(diag, QN_ERR_INTERNAL, name, "the process that measures it died before it ran: %s", a->evidence);
  }
}

// A call that the deadline has cut is no failure: what it did not come to says so.
static qn_status forgive_cut(const qn_worker *w, qn_status status, qn_diag *diag) {
  if (status != QN_ERR_CANCELLED || !w->cut) return status;
  *diag = (qn_diag){0};
  return QN_OK;
}

// A child that has begun the task.
static qn_status have_child(qn_worker *w, qn_diag *diag) {
  if (qn_child_is_alive(&w->child) && w->program != w->task.program) forget_child(w);
  if (!qn_child_is_alive(&w->child)) {
    forget_child(w);
    QN_TRY(qn_child_start(sizeof(qn_worker_shared), qn_worker_child_serve, qn_worker_child_locate, w->template,
                          &w->child, diag));
    w->program = w->task.program;
  }
  if (w->child_has) return QN_OK;
  qn_worker_shared *s = w->child.shared;
  s->task = w->task;
  answer a = ask(w, QN_WORKER_BEGIN);
  if (a.end != QN_CHILD_ANSWERED) return fail_answer(w, &a, diag);
  QN_TRY(child_status(w, diag));
  w->child_has = true;
  return QN_OK;
}

static void blame(candidate *c, const answer *a) {
  static const char *const at[] = {[QN_WORKER_IDLE] = "",
                                   [QN_WORKER_SETTING_UP] = "",
                                   [QN_WORKER_COMPILING] = "while it was compiled: ",
                                   [QN_WORKER_CHECKING] = "while it was checked: ",
                                   [QN_WORKER_TIMING] = "while it was timed: "};
  c->measured.cut = false;
  c->measured.verdict = a->end == QN_CHILD_HUNG     ? QN_VERDICT_HUNG
                        : a->end == QN_CHILD_KILLED ? QN_VERDICT_KILLED
                                                    : QN_VERDICT_CRASHED;
  snprintf(c->measured.evidence, sizeof c->measured.evidence, "%s%.150s", at[a->stage], a->evidence);
}

// --- candidates

// Gives candidates [from, to) of `list` to the child.
static answer send(qn_worker *w, const int *list, int count, bool check) {
  qn_worker_shared *s = w->child.shared;
  s->count = count;
  s->check = check;
  s->doubt = false;
  for (int i = 0; i < count; i++) {
    s->numbers[i] = list[i];
    s->schedules[i] = w->candidates.items[list[i]].schedule;
    s->done[i] = false;
    s->results[i] = (qn_measured){.verdict = QN_VERDICT_OK};
  }
  return ask(w, QN_WORKER_PREPARE);
}

// Takes over what the child finished, and gives the rest of the list; how many those are.
static int take_results(qn_worker *w, int *list, int count, bool check) {
  const qn_worker_shared *s = w->child.shared;
  int left = 0;
  w->doubt = w->doubt || s->doubt;
  for (int i = 0; i < count; i++) {
    candidate *c = &w->candidates.items[list[i]];
    if (!s->done[i]) {
      list[left++] = list[i];
      continue;
    }
    if (check || s->results[i].verdict != QN_VERDICT_OK) c->measured = s->results[i];
    if (check) c->kills = 0;
    c->loaded = qn_child_is_alive(&w->child) && qn_is_right(&c->measured);
  }
  return left;
}

// Which of those sent a child that is no more was at; -1 when it is not known.
static int culprit_of(const int *sent, int count, const answer *a) {
  bool ran = a->stage == QN_WORKER_COMPILING || a->stage == QN_WORKER_CHECKING;
  int item = count == 1 && ran ? 0 : a->item;
  return ran && item >= 0 && item < count ? sent[item] : -1;
}

// Was it killed from outside, and for the first time with this candidate? Perhaps that was not the candidate's doing.
static bool goes_again(qn_worker *w, int culprit, int *deaths, const answer *a) {
  int *kills = culprit < 0 ? deaths : &w->candidates.items[culprit].kills;
  return a->end == QN_CHILD_KILLED && (*kills)++ < 1;
}

// Takes the one at fault out of the list; false when it is not known which.
static bool remove_culprit(qn_worker *w, int *list, int *count, int culprit, const answer *a) {
  for (int i = 0; culprit >= 0 && i < *count; i++) {
    if (list[i] != culprit) continue;
    blame(&w->candidates.items[culprit], a);
    memmove(&list[i], &list[i + 1], (size_t)(*count - i - 1) * sizeof *list);
    --*count;
    return true;
  }
  return false;
}

// Compiles, and with `check` checks, the candidates of the list, which is used up.
static qn_status load(qn_worker *w, int *list, int count, bool check, qn_diag *diag) {
  bool alone = false;  // one by one: a batch died as it was compiled
  for (int deaths = 0; count > 0;) {
    int sent[QN_WORKER_BATCH], size = alone ? 1 : count < QN_WORKER_BATCH ? count : QN_WORKER_BATCH;
    QN_TRY(have_child(w, diag));
    memcpy(sent, list, (size_t)size * sizeof *sent);
    answer a = send(w, sent, size, check);
    int unfinished = take_results(w, list, size, check);
    memmove(&list[unfinished], &list[size], (size_t)(count - size) * sizeof *list);
    count += unfinished - size;
    if (a.end == QN_CHILD_ANSWERED) {
      QN_TRY(child_status(w, diag));
      continue;
    }
    if (a.end == QN_CHILD_CANCELLED || a.end == QN_CHILD_CUT) return fail_answer(w, &a, diag);
    int culprit = culprit_of(sent, size, &a);
    bool again = goes_again(w, culprit, &deaths, &a);
    if (!again && a.stage == QN_WORKER_COMPILING && a.item < 0 && size > 1) {
      alone = true;
    } else if (!again && !remove_culprit(w, list, &count, culprit, &a) && ++deaths >= DEATHS_MAX) {
      return fail_answer(w, &a, diag);
    }
    forget_child(w);
  }
  return QN_OK;
}

// --- the measurer

static qn_status begin(void *self, const qn_tuning_task *task, qn_diag *diag) {
  qn_worker *w = self;
  (void)diag;
  w->task = *task;
  w->settings[0] = w->settings[1] = (qn_setting){.spin_us = -1};
  w->begun = true;
  w->child_has = false;
  w->candidates.count = 0;
  return QN_OK;
}

static void end(void *self) {
  qn_worker *w = self;
  w->candidates.count = 0;
  w->begun = false;
  if (!w->child_has || !qn_child_is_alive(&w->child)) return;
  w->cut = false;
  answer a = ask(w, QN_WORKER_END);
  if (a.end != QN_CHILD_ANSWERED) forget_child(w);
  w->child_has = false;
}

// The interpreter has found fault with a candidate that passed before, and with it with what later ones were held
// against: all that passed are checked again, now that more is known.
static qn_status check_again(qn_worker *w, int *list, qn_diag *diag) {
  for (int turn = 0; w->doubt && turn < DOUBTS_MAX; turn++) {
    int count = 0;
    for (size_t i = 0; i < w->candidates.count; i++) {
      if (!qn_is_right(&w->candidates.items[i].measured)) continue;
      w->candidates.items[i].measured.cut = true;  // what was found does not count any more
      list[count++] = (int)i;
    }
    w->doubt = false;
    QN_TRY(load(w, list, count, true, diag));
  }
  return QN_OK;
}

static qn_status prepare(void *self, const qn_schedule *schedules, int count, qn_measured *out, qn_diag *diag) {
  qn_worker *w = self;
  size_t first = w->candidates.count, room = first + (size_t)count + 1;
  int *list = qn_alloc(w->allocator, room * sizeof *list);
  bool fits = list != NULL;
  w->cut = false;
  for (int i = 0; fits && i < count; i++) {
    candidate c = {.schedule = schedules[i], .measured = {.verdict = QN_VERDICT_FAILED, .cut = true}};
    list[i] = (int)first + i;
    fits = qn_vec_push(w->allocator, &w->candidates, c);
  }
  qn_status status = fits ? load(w, list, count, true, diag) : qn_fail_nomem(diag, w->task.kernel->name, "candidates");
  if (status == QN_OK) status = check_again(w, list, diag);
  status = forgive_cut(w, status, diag);
  if (status != QN_OK) w->candidates.count = first;
  for (int i = 0; status == QN_OK && i < count; i++) out[i] = w->candidates.items[first + (size_t)i].measured;
  qn_free(w->allocator, list, room * sizeof *list);
  return status;
}

// Both candidates in the child; what is not there any more is compiled again.
static qn_status load_pair(qn_worker *w, const int pair[2], qn_diag *diag) {
  QN_TRY(have_child(w, diag));
  int list[2], count = 0;
  for (int i = 0; i < 2; i++) {
    const candidate *c = &w->candidates.items[pair[i]];
    if (!c->loaded && qn_is_right(&c->measured) && (i == 0 || pair[0] != pair[1])) list[count++] = pair[i];
  }
  return load(w, list, count, false, diag);
}

static bool both_right(const qn_worker *w, const int pair[2]) {
  return qn_is_right(&w->candidates.items[pair[0]].measured) && qn_is_right(&w->candidates.items[pair[1]].measured);
}

static qn_status time_rounds(qn_worker *w, const int pair[2], int rounds, double *out, qn_diag *diag) {
  for (int done = 0, deaths = 0; done < rounds;) {
    QN_TRY(load_pair(w, pair, diag));
    if (!both_right(w, pair)) return QN_OK;
    qn_worker_shared *s = w->child.shared;
    s->rounds = rounds - done < QN_WORKER_ROUNDS ? rounds - done : QN_WORKER_ROUNDS;
    memcpy(s->pair, pair, sizeof s->pair);
    memcpy(s->settings, w->settings, sizeof s->settings);
    answer a = ask(w, QN_WORKER_PAIR);
    if (a.end == QN_CHILD_ANSWERED) {
      QN_TRY(child_status(w, diag));
      for (int i = 0; i < 2; i++) w->candidates.items[pair[i]].kills = 0;
      memcpy(out + 2 * done, s->seconds, 2 * (size_t)s->rounds * sizeof *out);
      done += s->rounds;
      continue;
    }
    if (a.end == QN_CHILD_CANCELLED || a.end == QN_CHILD_CUT) return fail_answer(w, &a, diag);
    int culprit = a.stage == QN_WORKER_TIMING ? pair[a.item ? 1 : 0] : -1;
    if (!goes_again(w, culprit, &deaths, &a)) {
      if (culprit < 0) return fail_answer(w, &a, diag);
      blame(&w->candidates.items[culprit], &a);
    }
    forget_child(w);
  }
  return QN_OK;
}

static qn_status pair(void *self, int a, int b, int rounds, double *out_seconds, qn_measured out[2], qn_diag *diag) {
  qn_worker *w = self;
  const int numbers[2] = {a, b};
  for (int i = 0; i < 2; i++) {
    if (numbers[i] < 0 || (size_t)numbers[i] >= w->candidates.count)
      return qn_fail(diag, QN_ERR_ARGUMENT, w->task.kernel->name, "got candidate %d, want 0 to %zu", numbers[i],
                     w->candidates.count - 1);
  }
  memset(out_seconds, 0, 2 * (size_t)rounds * sizeof *out_seconds);
  w->cut = false;
  QN_TRY(forgive_cut(w, time_rounds(w, numbers, rounds, out_seconds, diag), diag));
  for (int i = 0; i < 2; i++) {
    out[i] = w->candidates.items[numbers[i]].measured;
    out[i].cut = out[i].cut || w->cut;
  }
  if (w->cut || !both_right(w, numbers)) memset(out_seconds, 0, 2 * (size_t)rounds * sizeof *out_seconds);
  return QN_OK;
}

static void set(void *self, const qn_setting settings[2]) {
  qn_worker *w = self;
  memcpy(w->settings, settings, sizeof w->settings);
}

static void limit(void *self, double deadline) { ((qn_worker *)self)->deadline = deadline; }

static double now(void *self) {
  struct timespec time;
  (void)self;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

qn_measurer qn_worker_measurer(qn_worker *worker) {
  return (qn_measurer){
      .self = worker, .begin = begin, .prepare = prepare, .pair = pair, .set = set, .end = end, .now = now, .limit = limit};
}
