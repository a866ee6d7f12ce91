// What a session reads from the database and writes into it.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "autotune/session_impl.h"

const char *const qn_search_ends[] = {
    [QN_SEARCH_OPEN] = "under way",
    [QN_SEARCH_WITHIN] = "near enough to the roofline",
    [QN_SEARCH_SETTLED] = "no improvement expected",
    [QN_SEARCH_EXHAUSTED] = "every legal schedule was tried",
    [QN_SEARCH_BROKEN] = "the default schedule fails its check",
};

#define ASIDE "not worth more time at a share of %lf"

static qn_db_filter filter_of(const qn_session_item *item) {
  const qn_tuning_key *key = &item->session->options->key;
  const qn_tuning_task *task = qn_search_task(item->search);
  return (qn_db_filter){.signature = task->kernel->signature,
                        .target = key->target,
                        .fingerprint = key->fingerprint,
                        .generator = key->generator,
                        .threads = key->threads,
                        .rows_min = task->rows_min,
                        .rows_max = task->rows_max};
}

// --- reading

typedef struct reading {
  qn_session_item *item;
  qn_status status;
} reading;

// Of entries that must not be used the session tells how many there are, and what is wrong with the first.
static void reject(const qn_session_item *item, const char *what, const char *reason) {
  qn_session *s = item->session;
  const qn_tuning_task *task = qn_search_task(item->search);
  if (s->rejected++ > 0) return;
  snprintf(s->first_reason, sizeof s->first_reason, "%s from %" PRId64 " rows, %s %s", task->kernel->name,
           task->rows_min, what, reason);
}

// A record becomes a known candidate; one that does not read, or tells nothing of the code, is as if it were not there, and
// is tried again.
static bool add_record(void *context, const qn_record *record, const char *rejected) {
  reading *r = context;
  qn_candidate known = {.verdict = record->verdict,
                        .median_s = record->median_s,
                        .spread_s = record->spread_s,
                        .samples = record->samples,
                        .ratio = 1};
  qn_diag parse = {0};
  const qn_tuning_task *task = qn_search_task(r->item->search);
  bool ok = known.verdict == QN_VERDICT_OK;
  if (!rejected && qn_schedule_parse_line(record->schedule, &known.schedule, &parse) != QN_OK) rejected = parse.text;
  if (rejected) {
    reject(r->item, "a record:", rejected);
    return true;
  }
  // Times of other row counts, or of attention over another cache, are times of something else. Code that is wrong is
  // so whatever it was timed at.
  if (!ok && !qn_verdict_blames(known.verdict)) return true;
  bool same = record->rows == task->rows && (task->kernel->tile_rows == 0 || record->keys == task->keys);
  if (ok && (!same || known.samples < 1 || known.median_s <= 0)) return true;
  for (int i = 0; i < record->time_count && i < QN_CANDIDATE_TIMES; i++) known.times[i] = record->times[i];
  if (record->time_count < QN_CANDIDATE_TIMES && record->time_count < known.samples) known.samples = record->time_count;
  if (ok && known.samples < 1) return true;
  snprintf(known.evidence, sizeof known.evidence, "%s", record->evidence ? record->evidence : "");
  r->status = qn_search_add_known(r->item->search, &known, r->item->session->diag);
  return r->status == QN_OK;
}

static bool is_final(const qn_session_item *item, const qn_finished *mark) {
  const double within = item->session->options->within;
  if (!mark->reason) return false;
  // Near to the roofline as it was known then: a machine that was busy when it was measured seems near to everything.
  if (strcmp(mark->reason, qn_search_ends[QN_SEARCH_WITHIN]) == 0)
    return qn_search_task(item->search)->bound_s > 0 ? qn_search_is_near_bound(item->search) : mark->within <= within;
  return strcmp(mark->reason, qn_search_ends[QN_SEARCH_SETTLED]) == 0 ||
         strcmp(mark->reason, qn_search_ends[QN_SEARCH_EXHAUSTED]) == 0;
}

qn_status qn_session_resume(qn_session_item *item) {
  qn_session *s = item->session;
  const qn_tuning_task *task = qn_search_task(item->search);
  if (!s->options->db) return QN_OK;
  reading r = {.item = item};
  qn_db_filter filter = filter_of(item);
  QN_TRY(qn_db_each(s->options->db, &filter, add_record, &r, s->diag));
  QN_TRY(r.status);
  item->known = qn_search_get_counts(item->search).tried;
  qn_winner winner;
  bool found = false;
  const char *reason = NULL;
  QN_TRY(qn_plan_winner(s->options->db, &s->options->key, task->kernel, task->rows_min, task->rows_max, &s->arena,
                        &winner, &found, &reason, s->diag));
  if (reason) reject(item, "the winner:", reason);
  if (!found) return QN_OK;
  qn_search_set_incumbent(item->search, &winner.schedule, winner.mark.gain, winner.mark.pairs);
  // A mark whose winner has no record that still reads does not close anything.
  bool known = qn_schedule_equal(qn_search_incumbent(item->search), &winner.schedule);
  if (!known) {
    qn_search_add_seed(item->search, &winner.schedule);
    return QN_OK;
  }
  item->marked = winner.schedule;
  item->marked_end = winner.mark.reason;
  item->marked_when = winner.mark.when;
  item->closed = is_final(item, &winner.mark);
  if (winner.mark.reason && sscanf(winner.mark.reason, ASIDE, &item->aside) != 1) item->aside = 0;
  if (item->closed || item->aside > 0) item->end = winner.mark.reason;
  return QN_OK;
}

// --- seeds

enum { NEAREST = 4 };

typedef struct seeds {
  const qn_session_item *item;
  const qn_tuning_task *task;
  qn_schedule schedules[NEAREST];
  double distances[NEAREST];
  int count;
} seeds;

// Winners of the same class of row counts, the nearest sizes first.
static bool add_seed(void *context, const qn_finished *mark, const char *rejected) {
  seeds *s = context;
  qn_diag parse = {0};
  qn_schedule schedule;
  if (mark->rows_min != s->task->rows_min || mark->rows_max != s->task->rows_max) return true;
  if (!rejected && qn_schedule_parse_line(mark->plan, &schedule, &parse) != QN_OK) rejected = parse.text;
  if (rejected) {
    bool own = strcmp(mark->signature, s->task->kernel->signature) == 0;  // which was told when it was taken up
    if (!own) reject(s->item, "the winner for a kernel like it:", rejected);
    return true;
  }
  schedule = qn_schedule_fit(s->task->kernel, s->task->rows_max, &schedule);
  double distance = qn_db_distance(mark->signature, s->task->kernel->signature);
  for (int i = 0; i < s->count; i++)
    if (qn_schedule_equal(&s->schedules[i], &schedule)) return true;
  int at = s->count < NEAREST ? s->count++ : NEAREST;
  for (; at > 0 && s->distances[at - 1] > distance; at--) {
    if (at == NEAREST) continue;
    s->schedules[at] = s->schedules[at - 1];
    s->distances[at] = s->distances[at - 1];
  }
  if (at < NEAREST) {
    s->schedules[at] = schedule;
    s->distances[at] = distance;
  }
  return true;
}

qn_status qn_session_seed(qn_session_item *item) {
  qn_session *s = item->session;
  if (!s->options->db) return QN_OK;
  seeds found = {.item = item, .task = qn_search_task(item->search)};
  qn_db_filter filter = {.family = found.task->kernel->signature};
  QN_TRY(qn_db_each_finished(s->options->db, &filter, add_seed, &found, s->diag));
  for (int i = 0; i < found.count; i++) qn_search_add_seed(item->search, &found.schedules[i]);
  return QN_OK;
}

// --- writing

static void put_evidence(const qn_candidate *c, qn_buf *out) {
  if (c->verdict != QN_VERDICT_OK) {
    qn_buf_printf(out, "%s%s%s", qn_verdict_text(c->verdict), *c->evidence ? ": " : "", c->evidence);
  } else {
    if (*c->evidence) qn_buf_printf(out, "%s; ", c->evidence);
    if (c->pairs > 0) qn_buf_printf(out, "%.3f x the incumbent's speed in %d pairs", c->ratio, c->pairs);
  }
  for (size_t i = 0; i < out->length; i++)
    if (out->data[i] == '\n' || out->data[i] == '\r') out->data[i] = ' ';
}

static qn_status put_record(qn_session *s, const qn_search *search, const qn_candidate *c) {
  const qn_tuning_key *key = &s->options->key;
  const qn_tuning_task *task = qn_search_task(search);
  qn_buf schedule, evidence;
  qn_buf_init(&schedule, s->allocator);
  qn_buf_init(&evidence, s->allocator);
  qn_schedule_put_line(&c->schedule, &schedule);
  put_evidence(c, &evidence);
  qn_record record = {.signature = task->kernel->signature,
                      .target = key->target,
                      .fingerprint = key->fingerprint,
                      .generator = key->generator,
                      .threads = key->threads,
                      .rows_min = task->rows_min,
                      .rows_max = task->rows_max,
                      .rows = task->rows,
                      .keys = task->keys,
                      .schedule = qn_buf_text(&schedule),
                      .verdict = c->verdict,
                      .median_s = c->median_s,
                      .spread_s = c->spread_s,
                      .bound_s = task->bound_s,
                      .samples = c->samples,
                      .times = c->times,
                      .time_count = c->samples < QN_RECORD_TIMES ? c->samples : QN_RECORD_TIMES,
                      .evidence = qn_buf_text(&evidence)};
  bool failed = schedule.failed || evidence.failed;
  qn_status status =
      failed ? qn_fail_nomem(s->diag, task->kernel->name, "a record") : qn_db_put(s->options->db, &record, s->diag);
  qn_buf_deinit(&schedule);
  qn_buf_deinit(&evidence);
  return status;
}

void qn_session_found(void *context, const qn_search *search, const qn_candidate *candidate) {
  qn_session *s = context;
  if (s->options->db && s->db_status == QN_OK) s->db_status = put_record(s, search, candidate);
  if (s->db_status != QN_OK) s->cancelled = true;
}

// Writes the winner under `end` (of the arena, or static), if that is news.
static qn_status put_mark(qn_session_item *item, const char *end) {
  qn_session *s = item->session;
  const qn_tuning_task *task = qn_search_task(item->search);
  const qn_schedule *winner = qn_search_incumbent(item->search);
  const qn_candidate *candidate = qn_search_find(item->search, winner);
  if (!s->options->db || !candidate || candidate->verdict != QN_VERDICT_OK) return QN_OK;
  // A winner that the session's end kept from being timed against the default is not one yet.
  int pairs = 0;
  (void)qn_search_gain(item->search, &pairs);
  if (pairs == 0 && !qn_schedule_equal(winner, qn_search_start(item->search))) return QN_OK;
  if (item->marked_end && strcmp(item->marked_end, end) == 0 && qn_schedule_equal(&item->marked, winner)) return QN_OK;
  int64_t now = time(NULL);
  item->marked = *winner;
  item->marked_end = end;
  item->marked_when = now > item->marked_when ? now : item->marked_when + 1;  // each later than the one before
  qn_plan_end how = {.reason = end, .within = s->options->within, .when = item->marked_when};
  how.gain = qn_search_gain(item->search, &how.pairs);
  return qn_plan_put_winner(s->options->db, &s->options->key, task->kernel, task->rows_min, task->rows_max, winner,
                            &how, s->diag);
}

qn_status qn_session_mark(qn_session_item *item) {
  return put_mark(item, qn_search_ends[qn_search_get_state(item->search)]);
}

qn_status qn_session_set_aside(qn_session_item *item) {
  if (item->closed || item->aside > 0) return QN_OK;
  item->end = qn_arena_printf(&item->session->arena, "not worth more time at a share of %.4f", item->share);
  return item->end ? put_mark(item, item->end) : qn_fail_nomem(item->session->diag, "tune", "a mark");
}
