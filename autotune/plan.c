// Winners as marks of the database, and plans from them.
#include "autotune/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void qn_schedule_put_line(const qn_schedule *schedule, qn_buf *out) {
  qn_buf lines;
  qn_buf_init(&lines, out->allocator);
  qn_schedule_print(schedule, &lines);
  const char *text = qn_buf_text(&lines);
  for (size_t i = 0; i < lines.length; i++) {
    if (text[i] != '\n') {
      qn_buf_putc(out, text[i]);
    } else if (i + 1 < lines.length) {
      qn_buf_puts(out, "; ");
    }
  }
  out->failed |= lines.failed;
  qn_buf_deinit(&lines);
}

qn_status qn_schedule_parse_line(const char *line, qn_schedule *out, qn_diag *diag) {
  char lines[1024];
  size_t length = strlen(line);
  if (length >= sizeof lines) return qn_fail(diag, QN_ERR_FORMAT, "schedule", "got %zu characters on one line", length);
  for (size_t i = 0; i <= length; i++) lines[i] = line[i] == ';' ? '\n' : line[i];
  return qn_schedule_parse("schedule", (qn_str){lines, length}, out, diag);
}

// --- writing

static qn_finished mark_of(const qn_tuning_key *key, const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max) {
  return (qn_finished){.signature = kernel->signature,
                       .target = key->target,
                       .fingerprint = key->fingerprint,
                       .generator = key->generator,
                       .threads = key->threads,
                       .rows_min = rows_min,
                       .rows_max = rows_max};
}

static qn_status put_mark(qn_db *db, qn_finished *mark, const qn_buf *plan, qn_diag *diag) {
  if (plan->failed) return qn_fail_nomem(diag, mark->signature, "a mark");
  mark->plan = qn_buf_text(plan);
  return qn_db_set_finished(db, mark, diag);
}

qn_status qn_plan_put_winner(qn_db *db, const qn_tuning_key *key, const qn_pkernel *kernel, int64_t rows_min,
                             int64_t rows_max, const qn_schedule *winner, const qn_plan_end *end, qn_diag *diag) {
  qn_finished mark = mark_of(key, kernel, rows_min, rows_max);
  mark.reason = end->reason;
  mark.within = end->within;
  mark.gain = end->gain;
  mark.pairs = end->pairs;
  mark.when = end->when;
  qn_buf plan;
  qn_buf_init(&plan, qn_allocator_default());
  qn_schedule_put_line(winner, &plan);
  qn_status status = put_mark(db, &mark, &plan, diag);
  qn_buf_deinit(&plan);
  return status;
}

qn_status qn_plan_put_crossovers(qn_db *db, const qn_tuning_key *key, const qn_pkernel *kernel,
                                 const qn_kernel_plan *plan, qn_diag *diag) {
  qn_finished mark = mark_of(key, kernel, 0, 0);
  mark.reason = "crossover points";
  qn_buf text;
  qn_buf_init(&text, qn_allocator_default());
  for (int i = 0; i + 1 < plan->count; i++) {
    qn_buf_printf(&text, i > 0 ? " %" PRId64 : "%" PRId64, plan->variants[i].rows_max);
  }
  qn_status status = put_mark(db, &mark, &text, diag);
  qn_buf_deinit(&text);
  return status;
}

// --- reading

static qn_status find_mark(qn_db *db, const qn_finished *key, qn_arena *arena, qn_finished *out, bool *out_found,
                           const char **out_reason, qn_diag *diag) {
  int edited = 0;
  *out_reason = NULL;
  QN_TRY(qn_db_finished(db, key, arena, out, out_found, &edited, diag));
  if (!*out_found && edited > 0) *out_reason = "was edited: its checksum does not hold";
  return QN_OK;
}

static bool is_there(void *context, const qn_finished *mark, const char *rejected) {
  (void)mark;
  *(bool *)context = !rejected;
  return rejected != NULL;
}

qn_status qn_plan_has_crossovers(qn_db *db, const qn_tuning_key *key, const qn_pkernel *kernel, bool *out,
                                 qn_diag *diag) {
  qn_db_filter filter = {.signature = kernel->signature,
                         .target = key->target,
                         .fingerprint = key->fingerprint,
                         .generator = key->generator,
                         .threads = key->threads,
                         .exact_rows = true};
  *out = false;
  return qn_db_each_finished(db, &filter, is_there, out, diag);
}

typedef struct bad_record {
  const qn_schedule *schedule;
  qn_arena *arena;
  const char *reason;
  bool found;
} bad_record;

// Not by the text: an older one lacks the knobs that came later.
static bool is_of(const qn_record *record, const qn_schedule *schedule) {
  qn_schedule its;
  return qn_schedule_parse_line(record->schedule, &its, &(qn_diag){0}) == QN_OK && qn_schedule_equal(&its, schedule);
}

static bool take_bad(void *context, const qn_record *record, const char *rejected) {
  bad_record *b = context;
  if (rejected || !is_of(record, b->schedule)) return true;
  b->found = true;
  b->reason = qn_arena_printf(b->arena, "it was found to be bad: %s",
                              record->evidence && *record->evidence ? record->evidence : qn_verdict_text(record->verdict));
  return false;
}

// Did the build that found a winner also find that its code is not right, at whatever time?
static qn_status find_bad(qn_db *db, const qn_winner *winner, qn_arena *arena, const char **out_reason, qn_diag *diag) {
  const qn_finished *mark = &winner->mark;
  bad_record bad = {.schedule = &winner->schedule, .arena = arena};
  qn_db_filter filter = {.signature = mark->signature,
                         .target = mark->target,
                         .fingerprint = mark->fingerprint,
                         .generator = mark->generator,
                         .threads = mark->threads,
                         .rows_min = mark->rows_min,
                         .rows_max = mark->rows_max,
                         .only_bad = true};
  QN_TRY(qn_db_each(db, &filter, take_bad, &bad, diag));
  *out_reason = bad.reason;
  return bad.found && !bad.reason ? qn_fail_nomem(diag, mark->signature, "a reason") : QN_OK;
}

qn_status qn_plan_winner(qn_db *db, const qn_tuning_key *key, const qn_pkernel *kernel, int64_t rows_min,
                         int64_t rows_max, qn_arena *arena, qn_winner *out, bool *out_found, const char **out_reason,
                         qn_diag *diag) {
  qn_finished wanted = mark_of(key, kernel, rows_min, rows_max);
  qn_diag parse = {0};
  const char *why = NULL;
  QN_TRY(find_mark(db, &wanted, arena, &out->mark, out_found, out_reason, diag));
  if (!*out_found) return QN_OK;
  if (qn_schedule_parse_line(out->mark.plan, &out->schedule, &parse) != QN_OK ||
      qn_schedule_check(&out->schedule, &parse) != QN_OK) {
    why = parse.text;
  } else if (!qn_schedule_legal(kernel, rows_min, rows_max, &out->schedule, &why)) {
    if (!why) why = "is not legal for the kernel";
  } else {
    QN_TRY(find_bad(db, out, arena, &why, diag));
  }
  if (why) {
    *out_found = false;
    *out_reason = qn_arena_strdup(arena, why);
    if (!*out_reason) return qn_fail_nomem(diag, kernel->name, "a reason");
  }
  return QN_OK;
}

// Moves the ends of the classes to where the latest mark has them; a mark that does not fit the plan is left alone.
static qn_status move_crossovers(qn_plan_chooser *c, const qn_pkernel *kernel, qn_kernel_plan *plan) {
  qn_finished wanted = mark_of(&c->key, kernel, 0, 0), mark;
  qn_kernel_plan moved = *plan;
  const char *reason = NULL;
  bool found = false;
  QN_TRY(find_mark(c->db, &wanted, c->arena, &mark, &found, &reason, c->diag));
  if (!found) return QN_OK;
  const char *at = mark.plan;
  for (int i = 0; i + 1 < plan->count; i++) {
    char *end;
    long long rows = strtoll(at, &end, 10);
    if (end == at || rows < moved.variants[i].rows_min || rows == INT64_MAX) return QN_OK;
    moved.variants[i].rows_max = rows;
    moved.variants[i + 1].rows_min = rows + 1;
    at = end;
  }
  for (int i = 0; i < moved.count; i++) {
    int64_t least = moved.variants[i].rows_min, most = moved.variants[i].rows_max;
    if (least > most || !qn_schedule_legal(kernel, least, most, &moved.variants[i].schedule, NULL)) return QN_OK;
  }
  *plan = moved;
  return QN_OK;
}

static void reject(qn_plan_chooser *c, const qn_pkernel *kernel, int64_t rows_min, const char *reason) {
  if (c->counts.rejected++ == 0) {
    snprintf(c->counts.first_reason, sizeof c->counts.first_reason, "%s from %" PRId64 " rows: %s", kernel->name,
             rows_min, reason);
  }
}

// --- evidence

typedef struct evidence {
  const qn_winner *winner;
  const qn_pkernel *kernel;
  qn_buf *out;
  bool found;
} evidence;

static void put_range(const qn_finished *mark, qn_buf *out) {
  if (mark->rows_max == INT64_MAX) {
    qn_buf_printf(out, "rows from %" PRId64, mark->rows_min);
  } else if (mark->rows_max == mark->rows_min) {
    qn_buf_printf(out, "rows %" PRId64, mark->rows_min);
  } else {
    qn_buf_printf(out, "rows %" PRId64 " to %" PRId64, mark->rows_min, mark->rows_max);
  }
}

static bool put_record(void *context, const qn_record *record, const char *rejected) {
  evidence *e = context;
  if (rejected || !is_of(record, &e->winner->schedule)) return true;
  qn_buf_printf(e->out, "# evidence of %s, ", e->kernel->name);
  put_range(&e->winner->mark, e->out);
  qn_buf_printf(e->out, ": %.3f us at %" PRId64 " rows, spread %.3f us, %d samples, %d threads", record->median_s * 1e6,
                record->rows, record->spread_s * 1e6, record->samples, record->threads);
  if (record->bound_s > 0) qn_buf_printf(e->out, "; bound %.3f us", record->bound_s * 1e6);
  qn_buf_printf(e->out, "; %s; %s; machine %s; build %s\n", record->evidence ? record->evidence : "",
                e->winner->mark.reason ? e->winner->mark.reason : "", record->fingerprint, record->generator);
  e->found = true;
  return false;
}

// The record of the winner, in a line, whichever build timed it.
static qn_status put_evidence(qn_plan_chooser *c, const qn_pkernel *kernel, const qn_winner *winner) {
  evidence e = {.winner = winner, .kernel = kernel, .out = c->evidence};
  qn_db_filter filter = {.signature = kernel->signature,
                         .target = c->key.target,
                         .fingerprint = c->key.fingerprint,
                         .threads = c->key.threads,
                         .rows_min = winner->mark.rows_min,
                         .rows_max = winner->mark.rows_max,
                         .only_ok = true};
  return qn_db_each(c->db, &filter, put_record, &e, c->diag);
}

static qn_plan_foreign *find_foreign(qn_plan_chooser *c, const qn_pkernel *kernel, const qn_winner *winner) {
  for (size_t i = 0; i < c->foreign.count; i++) {
    qn_plan_foreign *f = &c->foreign.items[i];
    if (f->kernel == kernel && f->rows_min == winner->mark.rows_min && f->rows_max == winner->mark.rows_max &&
        strcmp(f->target, c->key.target) == 0 && qn_schedule_equal(&f->schedule, &winner->schedule)) {
      return f;
    }
  }
  return NULL;
}

// Can this build's loop passes make a kernel of the schedule? *out_reason (arena) says why not.
static qn_status try_foreign(qn_plan_chooser *c, const qn_pkernel *kernel, const qn_winner *winner,
                             const char **out_reason) {
  qn_arena arena;
  qn_diag own = {0};
  const qn_lkernel *tried = NULL;
  qn_dim extent;
  qn_arena_init(&arena, c->arena->allocator);
  qn_status status = qn_schedule_apply(kernel, winner->mark.rows_min, winner->mark.rows_max, &winner->schedule, "tried",
                                       &arena, &tried, &extent, &own);
  if (status == QN_OK) status = qn_lkernel_verify(tried, &own);
  qn_arena_deinit(&arena);
  if (status == QN_ERR_NOMEM) return qn_fail_nomem(c->diag, kernel->name, "a record");
  if (status == QN_OK) return QN_OK;
  *out_reason = qn_arena_printf(c->arena, "another build of quern found it; no kernel can be made of it now: %s", own.text);
  return *out_reason ? QN_OK : qn_fail_nomem(c->diag, kernel->name, "a reason");
}

// Another build's winner: *out_reason says why it must not be used.
static qn_status take_foreign(qn_plan_chooser *c, const qn_pkernel *kernel, const qn_winner *winner,
                              const char **out_reason) {
  const qn_plan_foreign *known = find_foreign(c, kernel, winner);
  *out_reason = !c->take_foreign         ? "another build of quern found it, and it cannot be checked here"
                : known && known->denied ? known->reason
                                         : NULL;
  if (!*out_reason && !known) QN_TRY(try_foreign(c, kernel, winner, out_reason));
  if (*out_reason) return QN_OK;
  c->counts.foreign++;
  qn_plan_foreign f = {.kernel = kernel,
                       .target = c->key.target,
                       .rows_min = winner->mark.rows_min,
                       .rows_max = winner->mark.rows_max,
                       .schedule = winner->schedule};
  if (known || qn_vec_push_arena(c->arena, &c->foreign, f)) return QN_OK;
  return qn_fail_nomem(c->diag, kernel->name, "a record");
}

// One class's schedule from its record, if there is one that serves.
static qn_status choose_class(qn_plan_chooser *c, const qn_pkernel *kernel, qn_kernel_plan *plan, int i) {
  int64_t least = plan->variants[i].rows_min, most = plan->variants[i].rows_max;
  qn_tuning_key any = c->key;
  qn_winner winner;
  bool found = false;
  const char *reason = NULL;
  QN_TRY(qn_plan_winner(c->db, &any, kernel, least, most, c->arena, &winner, &found, &reason, c->diag));
  if (!found && !reason) {
    any.generator = NULL;
    QN_TRY(qn_plan_winner(c->db, &any, kernel, least, most, c->arena, &winner, &found, &reason, c->diag));
    if (found) QN_TRY(take_foreign(c, kernel, &winner, &reason));
  }
  if (reason) {
    reject(c, kernel, least, reason);
  } else if (!found) {
    c->counts.missing++;
  } else {
    c->counts.accepted++;
    plan->variants[i].schedule = winner.schedule;
    if (c->evidence) QN_TRY(put_evidence(c, kernel, &winner));
  }
  return QN_OK;
}

bool qn_plan_choose(void *chooser, const qn_pkernel *kernel, qn_kernel_plan *out) {
  qn_plan_chooser *c = chooser;
  if (!c->db || c->status != QN_OK) return false;
  int64_t max_rows = kernel->rows == QN_SYM_NONE ? INT64_MAX : c->max_values[kernel->rows];
  int before = c->counts.accepted;
  *out = qn_schedule_default(kernel, max_rows, c->machine);
  for (int i = 0; i < out->count && c->status == QN_OK; i++) c->status = choose_class(c, kernel, out, i);
  if (c->status == QN_OK && c->counts.accepted > before) c->status = move_crossovers(c, kernel, out);
  return c->status == QN_OK && c->counts.accepted > before;
}
