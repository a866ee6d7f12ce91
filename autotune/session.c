// The session: which search gets the next batch, and when it is enough.
//
// What is tuned for is a mix of steps: half of the time decodes a token, two fifths take a chunk of a prompt, the rest
// takes two tokens, four or eight (guesses, short prompts, a chunk's end, small batches). A kernel's share is that of its calls in
// each of them, by measured times where there are some and by the model's otherwise. The next batch goes to the search whose
// share times expected improvement is the largest; the improvement is at most the distance from the roofline.
#include "autotune/session.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "autotune/session_impl.h"

#define WITHIN      0.05
#define LEAST_VALUE 0.0005
#define KEYS        512
#define AGAIN       0.6  // what a promise is worth after each batch that did not keep it: others get their turn
#define SHORT_S     15  // a budget in which a few smaller batches do more than one whole one that may be cut off
#define SMALL_BATCH 3
#define TRUST       0.5  // promises of so much in all are believed before anything was seen
#define LEAST_TRUST 0.02
#define SAME_SHARE  1.5  // what was set aside is taken up again where it takes so many times the share of the run time

const char *qn_session_end_text(qn_session_end end) {
  static const char *const texts[] = {
      [QN_SESSION_DONE] = "every search came to its end",
      [QN_SESSION_SETTLED] = "what is left to gain is not worth the time",
      [QN_SESSION_BUDGET] = "the budget is used up",
      [QN_SESSION_CANCELLED] = "it was interrupted",
  };
  return texts[end];
}

void qn_session_report_deinit(qn_session_report *report) {
  if (report->results) qn_free(report->allocator, report->results, report->count * sizeof *report->results);
  report->results = NULL;
  report->count = 0;
}

// --- kinds of steps

typedef struct phase {
  double weight;
  int64_t tokens;  // INT64_MAX: as many as a step takes
  int64_t rows;    // that want logits
} phase;
static const phase phases[] = {{0.5, 1, 1}, {0.4, INT64_MAX, 1}, {0.03, 2, 2}, {0.04, 4, 4}, {0.03, 8, 8}};

// The row count that chooses a kernel's variant in such a step; false when there is no such step.
static bool rows_in(const qn_program *program, const qn_pkernel *kernel, const phase *p, int64_t *out) {
  int64_t most = program->max_values[QN_SYM_T], tokens = p->tokens < most ? p->tokens : most;
  if (tokens == 1 && p != &phases[0]) return false;
  int64_t logits = program->max_values[QN_SYM_R] < p->rows ? program->max_values[QN_SYM_R] : p->rows;
  *out = kernel->rows == QN_SYM_R ? logits : tokens;
  if (kernel->rows == QN_SYM_S) {  // a source is read once, before the text
    *out = program->max_values[QN_SYM_S] < tokens ? program->max_values[QN_SYM_S] : tokens;
    return p->tokens == INT64_MAX;
  }
  return true;
}

static bool serves(const qn_tuning_task *task, int64_t rows) {
  return task->kernel->rows == QN_SYM_NONE || (task->rows_min <= rows && rows <= task->rows_max);
}

bool qn_session_is_timed(const qn_session_item *item) {
  const qn_candidate *c = qn_search_find(item->search, qn_search_incumbent(item->search));
  return c && c->verdict == QN_VERDICT_OK && c->samples > 0;
}

// How much longer kernels take than the model says, by those that were measured: what is not measured is held to that,
// so that a busy machine, or a model that is off, does not make a kernel look large because it was measured.
static double bias_of_model(const qn_session *s) {
  double sum = 0;
  int count = 0;
  for (size_t i = 0; i < s->items.count; i++) {
    const qn_session_item *item = &s->items.items[i];
    const qn_tuning_task *task = qn_search_task(item->search);
    qn_prediction said;
    if (!qn_session_is_timed(item)) continue;
    qn_schedule_predict(task->kernel, task->rows, qn_search_incumbent(item->search), &s->machine, &said);
    sum += log(qn_search_seconds(item->search) / said.seconds);
    count++;
  }
  return count > 0 ? exp(sum / count) : 1;
}

// Seconds of a call for so many rows: the incumbent's time where it was measured, carried over by the model.
static double seconds_at(const qn_session *s, const qn_session_item *item, int64_t rows) {
  const qn_tuning_task *task = qn_search_task(item->search);
  const qn_schedule *schedule = qn_search_incumbent(item->search);
  double seconds = qn_search_seconds(item->search) * (qn_session_is_timed(item) ? 1 : s->bias);
  if (rows == task->rows) return seconds;
  qn_prediction here, there;
  qn_schedule_predict(task->kernel, rows, schedule, &s->machine, &here);
  qn_schedule_predict(task->kernel, task->rows, schedule, &s->machine, &there);
  return seconds * here.seconds / there.seconds;
}

static void update_shares(qn_session *s) {
  double weights = 0;
  s->bias = bias_of_model(s);
  for (size_t i = 0; i < s->items.count; i++) s->items.items[i].share = 0;
  for (size_t p = 0; p < QN_COUNT(phases); p++) {
    double total = 0;
    for (int round = 0; round < 2; round++) {
      for (size_t i = 0; i < s->items.count; i++) {
        qn_session_item *item = &s->items.items[i];
        const qn_tuning_task *task = qn_search_task(item->search);
        int64_t rows = 0;
        if (!rows_in(s->program, task->kernel, &phases[p], &rows) || !serves(task, rows)) continue;
        double seconds = item->calls * seconds_at(s, item, rows);
        if (round == 0) total += seconds;
        if (round == 1) item->share += phases[p].weight * seconds / total;
      }
    }
    if (total > 0) weights += phases[p].weight;
  }
  for (size_t i = 0; i < s->items.count && weights > 0; i++) s->items.items[i].share /= weights;
}

double qn_session_share_of_step(const qn_session *s, const qn_session_item *of, int p, int64_t *out_rows) {
  double total = 0, own = 0;
  for (size_t i = 0; i < s->items.count; i++) {
    const qn_session_item *item = &s->items.items[i];
    const qn_tuning_task *task = qn_search_task(item->search);
    int64_t rows = 0;
    if (!rows_in(s->program, task->kernel, &phases[p], &rows) || !serves(task, rows)) continue;
    double seconds = item->calls * seconds_at(s, item, rows);
    total += seconds;
    if (item != of) continue;
    own = seconds;
    *out_rows = task->kernel->rows == QN_SYM_NONE ? task->rows : rows;
  }
  return total > 0 ? own / total : 0;
}

// Of the kernels that are tuned: what is worth a batch is a part of their time, be it all of a step's or little.
static double selected_share(const qn_session *s) {
  double share = 0;
  for (size_t i = 0; i < s->items.count; i++)
    if (s->items.items[i].selected) share += s->items.items[i].share;
  return share > 0 ? share : 1;
}

// What a class is timed at: the row count of the kind of step that takes longest in it, else its largest.
static int64_t rows_to_time(const qn_program *program, const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max) {
  int64_t most = program->max_values[kernel->rows == QN_SYM_NONE ? QN_SYM_T : kernel->rows];
  int64_t best = 0, rows = 0;
  for (size_t p = 0; p < QN_COUNT(phases); p++) {
    if (!rows_in(program, kernel, &phases[p], &rows)) continue;
    bool here = kernel->rows == QN_SYM_NONE || (rows_min <= rows && rows <= rows_max);
    if (here && rows > best) best = rows;
  }
  if (best > 0) return best;
  return rows_max < most ? rows_max : most > rows_min ? most : rows_min;
}

// --- making it

static bool cancelled(void *context) {
  qn_session *s = context;
  return s->cancelled;
}

bool qn_session_tell(qn_session *s) {
  if (s->db_status != QN_OK) return false;  // what is told has been kept
  double now = s->measurer->now(s->measurer->self);
  const qn_session_item *item = s->current;
  qn_session_progress progress = {
      .tasks = (int)s->items.count, .spent_s = now - s->begin_s, .left_s = fmax(0, s->deadline_s - now)};
  if (item) {
    const qn_tuning_task *task = qn_search_task(item->search);
    progress.kernel = task->kernel->name;
    progress.rows_min = task->rows_min;
    progress.rows_max = task->rows_max;
    progress.task = 1 + (int)(item - s->items.items);
    progress.tried = qn_search_get_counts(item->search).tried;
    progress.best_s = qn_search_seconds(item->search);
    progress.bound_s = task->bound_s;
    progress.gain = qn_search_gain(item->search, NULL);
    progress.share = item->share;
  }
  if (s->options->progress && !s->options->progress(s->options->progress_context, &progress)) s->cancelled = true;
  return !s->cancelled;
}

static void found(void *context, const qn_search *search, const qn_candidate *candidate) {
  qn_session_found(context, search, candidate);
  (void)qn_session_tell(context);
}

// A race may take longer where there is more time in all.
static double race_seconds(double budget_s) {
  double seconds = budget_s / 500;
  return seconds < 0.05 ? 0.05 : seconds > 0.25 ? 0.25 : seconds;
}

static qn_status add_item(qn_session *s, uint32_t index, const qn_kernel_plan *plan, int class) {
  const qn_pkernel *kernel = &s->program->kernels.items[index];
  qn_session_item item = {.session = s, .kernel = index, .end = qn_search_ends[QN_SEARCH_OPEN]};
  qn_tuning_task task = {.program = s->program,
                         .kernel = kernel,
                         .rows_min = plan->variants[class].rows_min,
                         .rows_max = plan->variants[class].rows_max,
                         .keys = s->options->keys,
                         .threads = s->options->key.threads,
                         .weight = 1};
  for (size_t i = 0; i < s->program->steps.count; i++) {
    if (s->program->steps.items[i].kernel != index) continue;
    if (!task.step) task.step = &s->program->steps.items[i];
    item.calls++;
  }
  if (!task.step) return QN_OK;  // nobody calls it
  task.rows = rows_to_time(s->program, kernel, task.rows_min, task.rows_max);
  if (s->options->bound) task.bound_s = s->options->bound(s->options->bound_context, &task);
  qn_search_options search = {.machine = &s->machine,
                              .within = s->options->within,
                              .race_s = race_seconds(s->options->budget_s),
                              .batch = s->options->budget_s < SHORT_S ? SMALL_BATCH : 0,
                              .distinct_code = s->options->distinct_code,
                              .seed = s->options->seed + (index * QN_MAX_VARIANTS + (uint64_t) class) * 7919,
                              .found = found,
                              .cancelled = cancelled,
                              .context = s};
  item.selected = !s->options->pattern || fnmatch(s->options->pattern, kernel->name, 0) == 0;
  QN_TRY(qn_search_create(&task, &plan->variants[class].schedule, &search, s->allocator, &item.search, s->diag));
  if (qn_vec_push(s->allocator, &s->items, item)) return QN_OK;
  qn_search_destroy(item.search);
  return qn_fail_nomem(s->diag, kernel->name, "a search");
}

static qn_status add_items(qn_session *s) {
  int selected = 0;
  for (uint32_t i = 0; i < s->program->kernels.count; i++) {
    const qn_pkernel *kernel = &s->program->kernels.items[i];
    int64_t most = kernel->rows == QN_SYM_NONE ? INT64_MAX : s->program->max_values[kernel->rows];
    qn_kernel_plan plan = qn_schedule_default(kernel, most, &s->machine);
    for (int class = 0; class < plan.count; class ++) QN_TRY(add_item(s, i, &plan, class));
  }
  for (size_t i = 0; i < s->items.count; i++) {
    qn_session_item *item = &s->items.items[i];
    selected += item->selected;
    if (item->selected) QN_TRY(qn_session_resume(item));
  }
  if (selected > 0) return QN_OK;
  return qn_fail(s->diag, QN_ERR_ARGUMENT, "kernel", "got the pattern '%s', want one that matches a kernel's name: %s",
                 s->options->pattern ? s->options->pattern : "",
                 s->items.count > 0 ? s->program->kernels.items[s->items.items[0].kernel].name : "there are none");
}

// --- going on

// --- what is expected, and what comes of it

static bool is_first_batch(const qn_session_item *item) { return qn_search_get_counts(item->search).tried <= 1; }

static double trust(const qn_promises *p) {
  double part = (p->kept + TRUST) / (p->promised + TRUST);
  return part > 1 ? 1 : part < LEAST_TRUST ? LEAST_TRUST : part;
}

// The share of its kernel's time that a search's next batch will save, as experience has it.
static double expected_of(const qn_session *s, const qn_session_item *item) {
  double expected = qn_search_expected(item->search) * pow(AGAIN, qn_search_get_counts(item->search).idle);
  return expected * trust(is_first_batch(item) ? &s->first : &s->later);
}

// After a step that was expected to save so much.
static void learn_promise(qn_session *s, const qn_session_item *item, bool first, double promised) {
  qn_search_counts counts = qn_search_get_counts(item->search);
  qn_promises *p = first ? &s->first : &s->later;
  if (counts.step_tried < 2) return;  // it only timed what was there
  p->promised += promised;
  p->kept += 1 - exp(-fmax(0, counts.step_gain));
}

// The search whose next batch is worth most, and what it is expected to save of the run time; NULL = all are closed.
static qn_status choose(qn_session *s, double least, qn_session_item **out, double *out_value) {
  qn_session_item *best = NULL;
  *out_value = 0;
  update_shares(s);
  double whole = selected_share(s);
  for (size_t i = 0; i < s->items.count; i++) {
    qn_session_item *item = &s->items.items[i];
    if (!item->selected || item->closed || item->share < SAME_SHARE * item->aside) continue;
    double value = item->share / whole * expected_of(s, item);
    // From records more can be told than that it is not known; it takes some milliseconds.
    if (value >= least && item->known > 0 && s->measurer->now(s->measurer->self) < s->deadline_s) {
      QN_TRY(qn_search_look_ahead(item->search, s->diag));
      value = item->share / whole * expected_of(s, item);
    }
    if (best && value <= *out_value) continue;
    best = item;
    *out_value = value;
  }
  *out = best;
  return QN_OK;
}

// There is no memory for this kernel: the others may do with less.
static qn_status give_up(qn_session *s, qn_session_item *item) {
  item->end = qn_arena_printf(&s->arena, "not tuned: %s", s->diag->text);
  if (!item->end) return QN_ERR_NOMEM;
  *s->diag = (qn_diag){0};
  item->closed = true;
  return QN_OK;
}

// Why the search has ended, or that it goes on.
static qn_status take_end(qn_session *s, qn_session_item *item) {
  qn_search_state state = qn_search_get_state(item->search);
  const qn_candidate *start = qn_search_find(item->search, qn_search_start(item->search));
  item->closed = state != QN_SEARCH_OPEN;
  item->end = qn_search_ends[state];
  if (state != QN_SEARCH_BROKEN || !start) return QN_OK;
  // One that nobody knows how to feed, that does not compile, or whose process was killed was not found to be wrong.
  item->broken = start->verdict != QN_VERDICT_FAILED && qn_verdict_blames(start->verdict);
  item->end = qn_arena_printf(&s->arena, "%s: %s", item->broken ? item->end : "the default schedule cannot be tried",
                              start->evidence);
  return item->end ? QN_OK : qn_fail_nomem(s->diag, qn_search_task(item->search)->kernel->name, "what is wrong with it");
}

static qn_status step(qn_session *s, qn_session_item *item) {
  if (!item->begun) QN_TRY(qn_session_seed(item));
  item->begun = true;
  s->current = item;
  if (!qn_session_tell(s)) return QN_OK;
  bool first = is_first_batch(item);
  double promised = qn_search_expected(item->search) * pow(AGAIN, qn_search_get_counts(item->search).idle);
  qn_status status = qn_search_step(item->search, s->measurer, s->deadline_s, s->diag);
  learn_promise(s, item, first, promised);
  if (s->db_status != QN_OK) return s->db_status;
  QN_TRY(qn_session_mark(item));  // also of what was found before something failed
  if (status == QN_ERR_NOMEM) return give_up(s, item);
  QN_TRY(status);
  qn_search_counts counts = qn_search_get_counts(item->search);
  if (counts.step_tried > 1) s->step_s = s->step_s > 0 ? 0.5 * (s->step_s + counts.step_s) : counts.step_s;
  return take_end(s, item);
}

static bool any_aside(const qn_session *s) {
  for (size_t i = 0; i < s->items.count; i++)
    if (s->items.items[i].selected && !s->items.items[i].closed && s->items.items[i].aside > 0) return true;
  return false;
}

static qn_status go_on(qn_session *s, qn_session_report *out) {
  const double least = s->options->least_value > 0 ? s->options->least_value : LEAST_VALUE;
  for (;;) {
    double now = s->measurer->now(s->measurer->self);
    qn_session_item *item = NULL;
    QN_TRY(choose(s, least, &item, &out->expected));
    bool over = now + 1.5 * s->step_s + qn_session_settings_reserve(s) >= s->deadline_s;
    out->end = !item                   ? (any_aside(s) ? QN_SESSION_SETTLED : QN_SESSION_DONE)
               : out->expected < least ? QN_SESSION_SETTLED
               : over                  ? QN_SESSION_BUDGET
                                       : QN_SESSION_CANCELLED;
    for (size_t i = 0; i < s->items.count && out->end == QN_SESSION_SETTLED; i++)
      if (s->items.items[i].selected) QN_TRY(qn_session_set_aside(&s->items.items[i]));
    if (out->end != QN_SESSION_CANCELLED) return QN_OK;
    QN_TRY(step(s, item));
    if (s->cancelled) return QN_OK;
  }
}

// --- the whole

int64_t qn_session_keys(const qn_program *program, const qn_session_options *options) {
  int64_t context = program->max_values[QN_SYM_P] * QN_PAGE_KEYS - program->max_values[QN_SYM_T];
  if (options->keys > 0) return options->keys;
  return context < 0 ? 0 : context < KEYS ? context : KEYS;
}

static void put_result(const qn_session_item *item, qn_session_report *out) {
  const qn_tuning_task *task = qn_search_task(item->search);
  qn_search_counts counts = qn_search_get_counts(item->search);
  qn_session_result *r = &out->results[out->count++];
  *r = (qn_session_result){.kernel = task->kernel,
                           .rows_min = task->rows_min,
                           .rows_max = task->rows_max,
                           .rows = task->rows,
                           .share = item->share,
                           .tuned_s = qn_search_seconds(item->search),
                           .bound_s = task->bound_s,
                           .tried = counts.tried,
                           .start = *qn_search_start(item->search),
                           .tuned = *qn_search_incumbent(item->search)};
  snprintf(r->end, sizeof r->end, "%s", item->end);
  r->broken = item->broken;
  r->gain = qn_search_gain(item->search, &r->pairs);
  r->default_s = r->tuned_s * r->gain;
  r->measured = qn_session_is_timed(item);
  memcpy(r->verdicts, counts.verdicts, sizeof r->verdicts);
  out->tried += counts.tried - item->known;
  out->known += item->known;
  for (int v = 0; v < QN_VERDICT_COUNT; v++) out->verdicts[v] += counts.verdicts[v];
}

static qn_status make_report(qn_session *s, qn_session_report *out) {
  size_t count = 0;
  for (size_t i = 0; i < s->items.count; i++) count += s->items.items[i].selected;
  out->results = qn_alloc_zeroed(s->allocator, count * sizeof *out->results);
  if (!out->results && count > 0) return qn_fail_nomem(s->diag, "tune", "a report");
  update_shares(s);
  for (size_t i = 0; i < s->items.count; i++)
    if (s->items.items[i].selected) put_result(&s->items.items[i], out);
  out->seconds = s->measurer->now(s->measurer->self) - s->begin_s;
  out->crossovers = s->crossovers;
  out->rejected = s->rejected;
  memcpy(out->first_reason, s->first_reason, sizeof out->first_reason);
  if (s->cancelled) out->end = QN_SESSION_CANCELLED;
  return QN_OK;
}

qn_status qn_session_run(const qn_program *program, const qn_measurer *measurer, const qn_session_options *options,
                         const qn_allocator *allocator, qn_session_report *out, qn_diag *diag) {
  qn_session_options own = *options;
  if (own.within <= 0) own.within = WITHIN;
  own.keys = qn_session_keys(program, options);
  qn_session s = {.program = program,
                  .measurer = measurer,
                  .options = &own,
                  .allocator = allocator,
                  .diag = diag,
                  .machine = *options->machine};
  *out = (qn_session_report){.allocator = allocator};
  qn_arena_init(&s.arena, allocator);
  s.begin_s = measurer->now(measurer->self);
  s.deadline_s = s.begin_s + own.budget_s;
  measurer->limit(measurer->self, s.deadline_s);
  qn_status status = add_items(&s);
  if (status == QN_OK) status = qn_session_recall(&s);
  const qn_promises known = s.first, known_later = s.later;
  if (status == QN_OK) status = go_on(&s, out);
  bool learned = s.first.promised != known.promised || s.later.promised != known_later.promised;
  if (status == QN_OK && learned) status = qn_session_remember(&s);
  if (status == QN_OK && !s.cancelled) status = qn_session_settings(&s, &out->settings, &out->has_settings);
  if (status == QN_OK && !s.cancelled) status = qn_session_crossovers(&s);
  if (status == QN_ERR_CANCELLED) {  // by the measurer, in the middle of something
    *diag = (qn_diag){0};
    s.cancelled = true;
    status = QN_OK;
  }
  measurer->limit(measurer->self, HUGE_VAL);
  if (status == QN_OK) status = make_report(&s, out);
  for (size_t i = 0; i < s.items.count; i++) qn_search_destroy(s.items.items[i].search);
  qn_vec_free(allocator, &s.items);
  qn_arena_deinit(&s.arena);
  return status;
}
