// Checking code item by item in a child that is made anew when one ends it (recheck.h).
#include "autotune/recheck.h"

#include <stdio.h>
#include <string.h>

#include "autotune/child.h"

#define LIMIT_S 10.0
enum {
  WALL_FACTOR = 60,  // code that runs takes CPU time; on a busy machine little of it comes in a second
  DEATHS_MAX = 2,    // of one item's child, from outside
};

enum { SETTING_UP = 1, RUNNING };  // stages of the flight

typedef struct shared {
  qn_flight flight;
  size_t item;
  qn_measured result;
  qn_status status;
  char text[sizeof((qn_diag *)0)->text];
} shared;

// In the child.
typedef struct checker {
  const qn_recheck_item *items;  // borrowed
  const qn_allocator *allocator;
  bool quick;
  const qn_subject *subject;  // of `set`
  qn_check_set *set;
} checker;

static void note(void *context, bool running) { qn_flight_note(context, running ? RUNNING : SETTING_UP, 0); }

static qn_status check_item(checker *c, shared *s, qn_diag *diag) {
  const qn_recheck_item *item = &c->items[s->item];
  if (c->subject != item->subject) {
    qn_check_set_destroy(c->set);
    c->set = NULL;
    c->subject = item->subject;
  }
  if (!c->set) QN_TRY(qn_check_set_create(item->subject, c->quick, c->allocator, &c->set, diag));
  return qn_check_set_run(c->set, &item->code, note, &s->flight, &s->result.verdict, s->result.evidence,
                          sizeof s->result.evidence, NULL, diag);
}

static void serve(void *context, void *memory) {
  shared *s = memory;
  qn_diag diag = {0};
  s->status = check_item(context, s, &diag);
  memcpy(s->text, diag.text, sizeof s->text);
}

static bool locate(void *context, const void *address, char *out, size_t size) {
  const checker *c = context;
  return c->set && qn_check_set_locate(c->set, address, out, size);
}

// Of an answer.
static qn_status take_result(const shared *s, qn_measured *out, qn_diag *diag) {
  if (s->status == QN_ERR_NOMEM || s->status == QN_ERR_LIMIT) return qn_fail(diag, s->status, "check", "%s", s->text);
  *out = s->result;
  if (s->status == QN_OK) return QN_OK;
  out->verdict = QN_VERDICT_FAILED;
  snprintf(out->evidence, sizeof out->evidence, "%.190s", s->text);
  return QN_OK;
}

// Of code whose child was killed again and again by nobody here: that tells nothing of the code.
static qn_status fail_killed(const checker *c, size_t i, const char *evidence, qn_diag *diag) {
  return qn_fail(diag, QN_ERR_NOMEM, "check",
                 "the process that checks kernel '%s' was killed twice from outside (%s), which the system does when memory runs "
                 "out; nothing is known of the code then: end other programs or allow more memory, and check again",
                 c->items[i].subject->plain->name, evidence);
}

static qn_status ask(qn_child *child, checker *c, size_t i, const qn_child_limits *limits, qn_measured *out,
                     qn_diag *diag) {
  for (int deaths = 0;;) {
    char evidence[sizeof out->evidence];
    if (!qn_child_is_alive(child)) {
      qn_child_stop(child);
      QN_TRY(qn_child_start(sizeof(shared), serve, locate, c, child, diag));
    }
    shared *s = child->shared;
    s->item = i;
    qn_child_end end = qn_child_ask(child, limits, evidence, sizeof evidence);
    if (end == QN_CHILD_CANCELLED) return qn_fail(diag, QN_ERR_CANCELLED, "check", "cancelled by the caller");
    if (end == QN_CHILD_ANSWERED) return take_result(s, out, diag);
    if (end == QN_CHILD_KILLED) {
      if (++deaths == DEATHS_MAX) return fail_killed(c, i, evidence, diag);
      continue;
    }
    out->verdict = end == QN_CHILD_HUNG ? QN_VERDICT_HUNG : QN_VERDICT_CRASHED;
    memcpy(out->evidence, evidence, sizeof evidence);
    return QN_OK;
  }
}

static qn_status check_all(qn_child *child, checker *c, size_t count, const qn_recheck_options *o, qn_measured *out,
                           qn_diag *diag) {
  double limit = o->limit_s > 0 ? o->limit_s : LIMIT_S;
  qn_child_limits limits = {
      .cpu_s = limit, .wall_s = limit * WALL_FACTOR, .cancelled = o->cancelled, .context = o->context};
  for (size_t i = 0; i < count; i++) {
    QN_TRY(ask(child, c, i, &limits, &out[i], diag));
    if (o->report && !o->report(o->context, i, &out[i]))
      return qn_fail(diag, QN_ERR_CANCELLED, "check", "cancelled by the caller");
  }
  return QN_OK;
}

qn_status qn_recheck(const qn_recheck_item *items, size_t count, const qn_recheck_options *options,
                     const qn_allocator *allocator, qn_measured *out, qn_diag *diag) {
  checker c = {.items = items, .allocator = allocator, .quick = options->quick};
  qn_child child = {.socket = -1};
  qn_status status = check_all(&child, &c, count, options, out, diag);
  qn_child_stop(&child);
  return status;
}
