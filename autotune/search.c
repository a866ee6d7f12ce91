// The search's steps: propose, prepare, race, learn.
#include "autotune/search.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autotune/search_impl.h"

#define WITHIN     0.05
#define LEAST_GAIN 0.003
#define BATCH      8
#define RACE_S     0.25
#define CHEAP_S    2e-3

// --- making one

static void set_defaults(qn_search_options *o) {
  if (o->within <= 0) o->within = WITHIN;
  if (o->least_gain <= 0) o->least_gain = LEAST_GAIN;
  if (o->batch <= 0) o->batch = BATCH;
  if (o->batch > QN_SEARCH_BATCH) o->batch = QN_SEARCH_BATCH;
  if (o->race_s <= 0) o->race_s = RACE_S;
}

qn_status qn_search_create(const qn_tuning_task *task, const qn_schedule *start, const qn_search_options *options,
                           const qn_allocator *allocator, qn_search **out, qn_diag *diag) {
  *out = NULL;
  qn_search *s = qn_alloc_zeroed(allocator, sizeof *s);
  if (!s) return qn_fail_nomem(diag, task->kernel->name, "a search");
  *s = (qn_search){.allocator = allocator,
                   .task = *task,
                   .options = *options,
                   .start = *start,
                   .incumbent = *start,
                   .turn = 1};
  set_defaults(&s->options);
  qn_rng_seed(&s->rng, options->seed);
  qn_status status = qn_space_init(&s->space, task->kernel, task->rows_min, task->rows_max, start, diag);
  if (status == QN_OK) status = qn_surrogate_create(s->space.dims, allocator, &s->surrogate, diag);
  if (status != QN_OK) {
    qn_search_destroy(s);
    return status;
  }
  *out = s;
  return QN_OK;
}

void qn_search_destroy(qn_search *s) {
  if (!s) return;
  qn_vec_free(s->allocator, &s->candidates);
  qn_vec_free(s->allocator, &s->codes);
  qn_surrogate_destroy(s->surrogate);
  qn_free(s->allocator, s, sizeof *s);
}

void qn_search_look(const qn_search *s, const qn_schedule *schedule, qn_observation *out) {
  qn_prediction prediction = {0};
  qn_schedule_predict(s->task.kernel, s->task.rows, schedule, s->options.machine, &prediction);
  *out = (qn_observation){.prediction = log(prediction.seconds)};
  qn_space_point(&s->space, schedule, out->at);
}

static qn_candidate *find(const qn_search *s, const qn_schedule *schedule) {
  for (size_t i = 0; i < s->candidates.count; i++)
    if (qn_schedule_equal(&s->candidates.items[i].schedule, schedule)) return &s->candidates.items[i];
  return NULL;
}

bool qn_search_has(const qn_search *s, const qn_schedule *schedule) { return find(s, schedule) != NULL; }

static bool was_timed(const qn_candidate *c) { return c->verdict == QN_VERDICT_OK && c->samples > 0; }

double qn_search_best_value(const qn_search *s) {
  const qn_candidate *incumbent = find(s, &s->incumbent);
  return incumbent && was_timed(incumbent) ? incumbent->seen.value : HUGE_VAL;
}

// What a call takes when other programs leave it alone: they only ever add. The fastest tenth of its latest times.
static double fast_time(const qn_candidate *c) {
  double times[QN_CANDIDATE_TIMES];
  int count = c->samples < QN_CANDIDATE_TIMES ? c->samples : QN_CANDIDATE_TIMES;
  memcpy(times, c->times, sizeof times);
  double fast = qn_quantile(times, (size_t)count, 0.1);
  return fast > 0 ? fast : c->median_s;
}

qn_status qn_search_add_known(qn_search *s, const qn_candidate *known, qn_diag *diag) {
  qn_candidate *before = find(s, &known->schedule);
  if (before && (before->verdict != QN_VERDICT_OK || known->verdict == QN_VERDICT_OK)) return QN_OK;
  if (before) {  // it was taken for right once
    s->counts.verdicts[before->verdict]--;
    s->counts.verdicts[known->verdict]++;
    const qn_observation seen = before->seen;
    *before = *known;
    before->seen = seen;
    return QN_OK;
  }
  qn_candidate own = *known;
  qn_search_look(s, &own.schedule, &own.seen);
  if (was_timed(&own)) {
    double drift = 0.02, share = own.spread_s / own.median_s / 1.35;  // between sessions; of one measurement
    own.seen.value = log(own.median_s);
    own.seen.variance = drift * drift + share * share / own.samples;
  }
  if (!qn_vec_push(s->allocator, &s->candidates, own)) return qn_fail_nomem(diag, s->task.kernel->name, "a candidate");
  s->counts.tried++;
  s->counts.verdicts[own.verdict]++;
  return QN_OK;
}

void qn_search_set_incumbent(qn_search *s, const qn_schedule *schedule, double gain, int pairs) {
  const qn_candidate *known = find(s, schedule);
  if (!known || !was_timed(known)) return;
  s->incumbent = *schedule;
  if (pairs <= 0 || !(gain > 0) || qn_schedule_equal(schedule, &s->start)) return;
  s->gain_log = log(gain);
  s->gain_pairs = pairs;
}

void qn_search_add_seed(qn_search *s, const qn_schedule *seed) {
  if (s->seed_count < QN_SEARCH_SEEDS && qn_space_is_legal(&s->space, seed)) s->seeds[s->seed_count++] = *seed;
}

// --- one step

// What a step works with: slot i is number i of the measurer.
typedef struct step {
  qn_search *search;
  const qn_measurer *measurer;
  double deadline;
  qn_schedule schedules[QN_SEARCH_BATCH + QN_SEARCH_AGAIN + 2];
  qn_measured results[QN_SEARCH_BATCH + QN_SEARCH_AGAIN + 2];
  int count;
  int challengers, fresh;            // slots from these on are challengers, and new candidates
  int incumbent, start;              // slots
  bool skipped;                      // a candidate was not tried: its time was over
  double *times;                     // of a chunk of pairs
  qn_diag *diag;
} step;

enum {
  CHUNK = 64,     // pairs that are timed in one call
  CHEAP = 8,      // pairs at least where one takes less than CHEAP_S
  CHALLENGE = 2,  // a challenger's race may take so many times what others' may, whenever it is taken up again
};

static bool out_of_time(const step *t) {
  const qn_search_options *o = &t->search->options;
  return t->measurer->now(t->measurer->self) >= t->deadline || (o->cancelled && o->cancelled(o->context));
}

static qn_status add_candidate(qn_search *s, const qn_schedule *schedule, const qn_measured *result, qn_candidate **out,
                               qn_diag *diag) {
  qn_candidate *c = find(s, schedule);
  if (!c) {
    qn_candidate fresh = {.schedule = *schedule};
    qn_search_look(s, schedule, &fresh.seen);
    if (!qn_vec_push(s->allocator, &s->candidates, fresh)) {
      return qn_fail_nomem(diag, s->task.kernel->name, "a candidate");
    }
    c = &s->candidates.items[s->candidates.count - 1];
    s->counts.tried++;
    s->counts.verdicts[result->verdict]++;
  } else if (c->verdict != result->verdict) {
    s->counts.verdicts[c->verdict]--;
    s->counts.verdicts[result->verdict]++;
  }
  c->verdict = result->verdict;
  snprintf(c->evidence, sizeof c->evidence, "%s", result->evidence);
  *out = c;
  return QN_OK;
}

static void tell(const qn_search *s, const qn_candidate *c) {
  if (s->options.found) s->options.found(s->options.context, s, c);
}

// Median, spread and the latest of the times.
static void set_times(qn_candidate *c, double *times, int count) {
  c->samples = count;
  for (int i = 0; i < QN_CANDIDATE_TIMES && i < count; i++)
    c->times[i] = times[count > QN_CANDIDATE_TIMES ? count - QN_CANDIDATE_TIMES + i : i];
  c->median_s = qn_quantile(times, (size_t)count, 0.5);
  c->spread_s = qn_quantile(times, (size_t)count, 0.75) - qn_quantile(times, (size_t)count, 0.25);
}

// Pairs of b against a, at most `most` of them and `seconds` long, until the test has an answer, somebody dies or the
// measurer's time is over.
// b's times go to `out_times` (room for `most`).
static qn_status run_race(step *t, int a, int b, int most, double seconds, const qn_race_rules *rules, qn_race *race,
                          double *out_times, qn_race_state *out_state) {
  const qn_measurer *m = t->measurer;
  double begin = m->now(m->self), deviation = qn_noise_deviation(&t->search->noise);
  const int before = race->count;
  *out_state = QN_RACE_OPEN;
  for (int chunk = 1; race->count < most && *out_state == QN_RACE_OPEN;) {
    if (chunk > most - race->count) chunk = most - race->count;
    qn_measured results[2] = {0};
    QN_TRY(m->pair(m->self, a, b, chunk, t->times, results, t->diag));
    if (qn_is_bad(&results[0])) t->results[a] = results[0];
    if (qn_is_bad(&results[1])) t->results[b] = results[1];
    if (!qn_is_right(&results[0]) || !qn_is_right(&results[1])) return QN_OK;
    for (int i = 0; i < chunk; i++) {
      out_times[race->count] = t->times[2 * i + 1];
      qn_race_add(race, t->times[2 * i], t->times[2 * i + 1]);
    }
    double spent = m->now(m->self) - begin, each = spent / (race->count - before), left = seconds - spent;
    // Short calls suffer most from what else the machine does, and cost next to nothing: no hasty answers on them.
    if (race->count >= CHEAP || each > CHEAP_S) *out_state = qn_race_decide(race, deviation, rules);
    if (race->count >= rules->least && (left <= 0 || out_of_time(t))) break;
    int fits = each > 0 ? (int)fmin(left / each, CHUNK) : CHUNK;
    chunk = race->count < fits ? race->count : fits;  // one pair first, then doubling, within the time there is
    if (chunk < 1) chunk = 1;
  }
  return QN_OK;
}

// The test's gain: what is worth having, or what the noise lets one see in some hundred pairs.
static qn_race_rules rules_of(const qn_search *s) {
  double least = 0.015, seen = qn_noise_deviation(&s->noise) / 12;
  return (qn_race_rules){.gain = least > seen ? least : seen, .false_win = 0.01, .false_loss = 0.05, .least = 3};
}

// Times the incumbent against itself: its own time, and how much ratios scatter here.
static qn_status measure_incumbent(step *t, double *times) {
  qn_search *s = t->search;
  qn_race race = {.count = 0};
  qn_race_state state;
  qn_race_rules never = {.gain = 0.01, .false_win = 1e-300, .false_loss = 1e-300, .least = 3};
  qn_candidate *c;
  QN_TRY(run_race(t, t->incumbent, t->incumbent, 24, s->options.race_s, &never, &race, times, &state));
  if (race.count == 0 && qn_is_right(&t->results[t->incumbent])) return QN_OK;  // no time for it
  QN_TRY(add_candidate(s, &t->schedules[t->incumbent], &t->results[t->incumbent], &c, t->diag));
  if (race.count > 0) {
    qn_noise_learn(&s->noise, &race);
    bool first = c->samples == 0;
    set_times(c, times, race.count);
    c->ratio = 1;
    c->pairs = race.count;
    // The anchor of all that is timed against it: known for what it is in a search that was taken up again.
    if (first) c->seen.value = log(c->median_s);
  }
  tell(s, c);
  return QN_OK;
}

// What came of a race becomes the candidate's own. Against the same incumbent as before it was one race in two parts.
static void learn_race(step *t, qn_candidate *c, const qn_race *race, double *times, double anchor) {
  qn_search *s = t->search;
  double deviation = qn_noise_deviation(&s->noise), mean = qn_race_mean(race, deviation);
  bool again = c->samples > 0 && race->count_before == 0;
  qn_noise_learn(&s->noise, race);
  set_times(c, times, race->count);
  c->ratio = exp(mean);
  c->pairs = qn_race_count(race);
  c->against = s->turn;
  double value = anchor - mean, variance = deviation * deviation / c->pairs;
  if (again) {  // both races tell, each by how long it was
    double old = 1 / c->seen.variance, new = 1 / variance;
    value = (c->seen.value * old + value * new) / (old + new);
    variance = 1 / (old + new);
  }
  c->seen.value = value;
  c->seen.variance = variance;
}

// A new candidate gets half of a race's time, and more only if it is rather faster than not by then: many are seen
// once, few for long.
static qn_status race_slot(step *t, int slot, qn_race *race, double *times, qn_race_state *out_state) {
  const qn_search *s = t->search;
  qn_race_rules rules = rules_of(s);
  double part = s->options.race_s / 2, rest = CHALLENGE * s->options.race_s;
  if (slot >= t->fresh) {
    QN_TRY(run_race(t, t->incumbent, slot, QN_RACE_MOST, part, &rules, race, times, out_state));
    bool worth = race->count > 0 && *out_state == QN_RACE_OPEN && qn_is_right(&t->results[slot]) &&
                 qn_race_mean(race, qn_noise_deviation(&s->noise)) > 0;
    if (!worth || out_of_time(t)) return QN_OK;
    rest = part;
  }
  return run_race(t, t->incumbent, slot, QN_RACE_MOST, rest, &rules, race, times, out_state);
}

static qn_status race_candidate(step *t, int slot, double *times) {
  qn_search *s = t->search;
  qn_candidate *c = find(s, &t->schedules[slot]);
  qn_race race = {.count = 0};
  qn_race_state state = QN_RACE_OPEN;
  bool right = qn_is_right(&t->results[slot]);
  double anchor = qn_search_best_value(s);
  if (c && was_timed(c) && c->against == s->turn) {
    race.mean_before = log(c->ratio);
    race.count_before = c->pairs;
  }
  if (right) {
    QN_TRY(race_slot(t, slot, &race, times, &state));
    if (race.count == 0 && qn_is_right(&t->results[slot])) {  // the incumbent died, or there was no time
      t->skipped = true;
      return QN_OK;
    }
  }
  QN_TRY(add_candidate(s, &t->schedules[slot], &t->results[slot], &c, t->diag));
  if (t->results[slot].verdict == QN_VERDICT_OK) {
    learn_race(t, c, &race, times, anchor);
    if (state == QN_RACE_WON) {
      s->incumbent = c->schedule;
      s->turn++;
      s->gain_log = 0;  // until it was timed against the start
      s->gain_pairs = 0;
      t->incumbent = slot;
      s->counts.won++;
      s->counts.step_gain += log(c->ratio);
    }
  }
  tell(s, c);
  return QN_OK;
}

static void back_to_start(step *t) {
  t->incumbent = t->start;
  t->search->counts.step_gain = 0;
  t->search->turn++;
  t->search->incumbent = t->search->start;
  t->search->gain_log = 0;
  t->search->gain_pairs = 0;
}

static qn_status bury(step *t, int slot) {
  qn_candidate *c;
  QN_TRY(add_candidate(t->search, &t->schedules[slot], &t->results[slot], &c, t->diag));
  c->samples = 0;
  tell(t->search, c);
  return QN_OK;
}

// The incumbent does not pass its check any more, or died while it was timed: back to the start. False when that is
// dead, whoever leads.
static qn_status bury_dead(step *t, bool *out_go_on) {
  *out_go_on = !qn_is_bad(&t->results[t->start]);
  if (t->incumbent != t->start && qn_is_bad(&t->results[t->incumbent])) {
    QN_TRY(bury(t, t->incumbent));
    back_to_start(t);
  }
  if (*out_go_on) return QN_OK;
  QN_TRY(bury(t, t->start));
  t->search->state = QN_SEARCH_BROKEN;
  return QN_OK;
}

// Is the new incumbent really faster than the schedule it all began with? A chain of tests may have gone wrong
// somewhere; what is shown to the user is this comparison.
static qn_status confirm(step *t, double *times) {
  qn_search *s = t->search;
  qn_race race = {.count = 0};
  qn_race_state state;
  qn_race_rules clear = {.gain = 0.01, .false_win = 1e-4, .false_loss = 1e-4, .least = 6};
  qn_candidate *c = find(s, &s->incumbent);
  QN_TRY(run_race(t, t->start, t->incumbent, 4 * CHUNK, 2 * s->options.race_s, &clear, &race, times, &state));
  if (race.count == 0) return QN_OK;
  s->gain_log = qn_race_mean(&race, qn_noise_deviation(&s->noise));
  s->gain_pairs = race.count;
  if (state != QN_RACE_LOST && s->gain_log > 0) {
    set_times(c, times, race.count);
    tell(s, c);  // what the search's end is judged by is what a later session finds
    return QN_OK;
  }
  double loss = -s->gain_log;
  back_to_start(t);
  c->seen.value = qn_search_best_value(s) + loss;
  return QN_OK;
}

static void add_slot(step *t, const qn_schedule *schedule) { t->schedules[t->count++] = *schedule; }

// The slots of one step: the incumbent, the start where it is another, a challenger, and new candidates.
static qn_status fill_slots(step *t) {
  qn_search *s = t->search;
  add_slot(t, &s->incumbent);
  if (!qn_schedule_equal(&s->incumbent, &s->start)) {
    t->start = t->count;
    add_slot(t, &s->start);
  }
  t->challengers = t->fresh = t->count;
  const qn_candidate *incumbent = find(s, &s->incumbent);
  if (s->task.bound_s > 0 && (!incumbent || !was_timed(incumbent))) {
    t->skipped = true;  // no batch: it costs a tenth of one to see whether there is anything to gain
    return QN_OK;
  }
  const qn_candidate *challengers[QN_SEARCH_AGAIN];
  int count = qn_search_challengers(s, QN_SEARCH_AGAIN, challengers);
  for (int i = 0; i < count; i++) add_slot(t, &challengers[i]->schedule);
  t->fresh = t->count;
  QN_TRY(qn_search_look_ahead(s, t->diag));
  for (int i = 0; i < s->next_count; i++) add_slot(t, &s->next[i]);
  s->ahead = false;
  return QN_OK;
}

// Is there an incumbent to race against, its own time known?
static bool has_incumbent(const step *t) {
  const qn_candidate *incumbent = find(t->search, &t->search->incumbent);
  return qn_is_right(&t->results[t->incumbent]) && incumbent && was_timed(incumbent);
}

static qn_status race_all(step *t, double *times) {
  qn_search *s = t->search;
  bool go_on = false;
  int won = s->counts.won;
  QN_TRY(bury_dead(t, &go_on));
  if (!go_on) return QN_OK;
  if (qn_is_right(&t->results[t->incumbent]) && (s->noise.count == 0 || !has_incumbent(t))) {
    QN_TRY(measure_incumbent(t, times));
    QN_TRY(bury_dead(t, &go_on));
    if (!go_on) return QN_OK;
  }
  for (int i = t->challengers; i < t->count; i++) {
    if (!qn_is_bad(&t->results[i]) && (t->results[i].cut || out_of_time(t) || !has_incumbent(t))) {
      t->skipped = true;
      continue;
    }
    QN_TRY(race_candidate(t, i, times));
    QN_TRY(bury_dead(t, &go_on));
    if (!go_on) return QN_OK;
  }
  // Also one that another build has found: its code was checked then, and nothing timed.
  bool unconfirmed = s->counts.won > won || (s->gain_pairs == 0 && has_incumbent(t));
  if (t->incumbent != t->start && unconfirmed) QN_TRY(confirm(t, times));
  QN_TRY(bury_dead(t, &go_on));
  if (t->skipped) s->codes.count = s->codes_before;  // what was not raced may be proposed again
  s->idle_steps = s->counts.won > won ? 0 : t->skipped ? s->idle_steps : s->idle_steps + 1;
  s->counts.idle = s->idle_steps;
  return QN_OK;
}

qn_status qn_search_learn(qn_search *s, qn_diag *diag) {
  qn_observation *observations = qn_alloc(s->allocator, (s->candidates.count + 1) * sizeof *observations);
  size_t count = 0;
  if (!observations) return qn_fail_nomem(diag, s->task.kernel->name, "observations");
  for (size_t i = 0; i < s->candidates.count; i++)
    if (was_timed(&s->candidates.items[i])) observations[count++] = s->candidates.items[i].seen;
  if (count > 0) qn_surrogate_fit(s->surrogate, observations, count, s->idle_steps > 0);
  s->learnt = count > 0;
  qn_free(s->allocator, observations, (s->candidates.count + 1) * sizeof *observations);
  return QN_OK;
}

qn_status qn_search_look_ahead(qn_search *s, qn_diag *diag) {
  if (s->ahead || s->state != QN_SEARCH_OPEN) return QN_OK;
  if (!s->learnt && s->candidates.count > 0) QN_TRY(qn_search_learn(s, diag));
  s->codes_before = s->codes.count;
  QN_TRY(qn_search_propose(s, s->options.batch, s->next, &s->next_count, diag));
  s->ahead = true;
  return QN_OK;
}

// A bound that a kernel stays below was measured while the machine had other things to do: it says nothing.
static bool holds(double bound, double seconds) { return bound > 0 && seconds > 0.97 * bound; }

bool qn_search_is_near_bound(const qn_search *s) {
  double bound = s->task.bound_s;
  const qn_candidate *incumbent = find(s, &s->incumbent);
  if (!incumbent || !was_timed(incumbent)) return false;
  return holds(bound, fast_time(incumbent)) && fast_time(incumbent) <= bound * (1 + s->options.within);
}

static void set_state(qn_search *s) {
  const qn_candidate *incumbent = find(s, &s->incumbent), *challenger;
  if (s->state == QN_SEARCH_BROKEN || !incumbent || !was_timed(incumbent)) return;
  if (qn_search_is_near_bound(s)) {
    s->state = QN_SEARCH_WITHIN;
  } else if (!s->ahead) {
    return;  // nobody knows of a next batch
  } else if (s->next_count == 0) {
    s->state = QN_SEARCH_EXHAUSTED;
  } else if (s->idle_steps >= 3 && s->expected < s->options.least_gain && !qn_search_challengers(s, 1, &challenger)) {
    s->state = QN_SEARCH_SETTLED;
  }
}

qn_status qn_search_step(qn_search *s, const qn_measurer *measurer, double deadline, qn_diag *diag) {
  step t = {.search = s, .measurer = measurer, .deadline = deadline, .diag = diag};
  double begin = measurer->now(measurer->self);
  size_t bytes = (QN_RACE_MOST + 2 * CHUNK) * sizeof(double);
  int tried = s->counts.tried;
  s->counts.step_gain = 0;
  QN_TRY(fill_slots(&t));
  double *times = qn_alloc(s->allocator, bytes);
  if (!times) return qn_fail_nomem(diag, s->task.kernel->name, "times");
  t.times = times + QN_RACE_MOST;
  qn_status status = measurer->begin(measurer->self, &s->task, diag);
  if (status == QN_OK) {
    status = measurer->prepare(measurer->self, t.schedules, t.count, t.results, diag);
    if (status == QN_OK) status = race_all(&t, times);
    measurer->end(measurer->self);
  }
  qn_free(s->allocator, times, bytes);
  if (status == QN_OK) status = qn_search_learn(s, diag);
  // Which takes part of a second on a busy machine; the next session does it, if there is to be one.
  if (status == QN_OK && !out_of_time(&t)) status = qn_search_look_ahead(s, diag);
  s->counts.steps++;
  s->counts.step_tried = s->counts.tried - tried;
  s->counts.step_s = measurer->now(measurer->self) - begin;
  s->counts.seconds += s->counts.step_s;
  if (status == QN_OK) set_state(s);
  return status;
}

// --- asking

qn_search_state qn_search_get_state(const qn_search *s) { return s->state; }
const qn_tuning_task *qn_search_task(const qn_search *s) { return &s->task; }
const qn_schedule *qn_search_start(const qn_search *s) { return &s->start; }
const qn_schedule *qn_search_incumbent(const qn_search *s) { return &s->incumbent; }
const qn_candidate *qn_search_find(const qn_search *s, const qn_schedule *schedule) { return find(s, schedule); }
qn_search_counts qn_search_get_counts(const qn_search *s) { return s->counts; }

double qn_search_seconds(const qn_search *s) {
  const qn_candidate *incumbent = find(s, &s->incumbent);
  if (incumbent && was_timed(incumbent)) return fast_time(incumbent);
  qn_observation seen;
  qn_search_look(s, &s->incumbent, &seen);
  return exp(seen.prediction);
}

double qn_search_expected(const qn_search *s) {
  const qn_candidate *incumbent = find(s, &s->incumbent);
  double expected = s->ahead ? s->expected : QN_SEARCH_UNKNOWN;
  if (!incumbent || !was_timed(incumbent)) return expected;
  double seconds = fast_time(incumbent), room = holds(s->task.bound_s, seconds) ? 1 - s->task.bound_s / seconds : 1;
  if (room < 0) room = 0;
  return expected < room ? expected : room;
}

double qn_search_gain(const qn_search *s, int *out_pairs) {
  if (out_pairs) *out_pairs = s->gain_pairs;
  return exp(s->gain_log);
}
