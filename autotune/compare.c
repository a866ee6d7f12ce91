// Interleaved pairs of the tuned schedule with plainer ones.
#include "autotune/compare.h"

#include <math.h>
#include <string.h>

#include "autotune/session_impl.h"

qn_schedule qn_space_middle(const qn_space *space) {
  qn_schedule schedule = qn_schedule_plain();
  for (int i = 0; i < space->knob_count; i++) {
    const qn_space_knob *k = &space->knobs[i];
    qn_space_set(k, &schedule, k->count / 2);
  }
  return qn_schedule_fit(space->kernel, space->rows_max, &schedule);
}

enum { TUNED, DEFAULT, MIDDLE, KINDS, MOST = 256 };

typedef struct comparing {
  const qn_measurer *measurer;
  int pairs;
  qn_diag *diag;
} comparing;

// The other's time over the tuned one's, and its standard error.
static qn_status compare(const comparing *c, int other, double *out_ratio, double *out_error) {
  double times[2 * MOST], deviation = 0, begin = c->measurer->now(c->measurer->self);
  qn_race race = {.count = 0};
  const double most_s = 2;
  for (int done = 0, chunk = 4; done < c->pairs; done += chunk) {
    if (chunk > c->pairs - done) chunk = c->pairs - done;
    qn_measured results[2] = {0};
    QN_TRY(c->measurer->pair(c->measurer->self, TUNED, other, chunk, times, results, c->diag));
    if (results[0].verdict != QN_VERDICT_OK || results[1].verdict != QN_VERDICT_OK) return QN_OK;
    for (int i = 0; i < chunk; i++) qn_race_add(&race, times[2 * i + 1], times[2 * i]);
    if (c->measurer->now(c->measurer->self) - begin > most_s) break;
  }
  qn_noise noise = {.count = 0};
  qn_noise_learn(&noise, &race);
  deviation = qn_noise_deviation(&noise);
  *out_ratio = exp(qn_race_mean(&race, deviation));
  *out_error = *out_ratio * deviation / sqrt(race.count);
  return QN_OK;
}

qn_status qn_compare_result(const qn_program *program, const qn_measurer *m, const qn_session_options *options,
                            const qn_session_result *result, int pairs, qn_comparison *out, qn_diag *diag) {
  comparing c = {.measurer = m, .pairs = pairs < MOST ? pairs : MOST, .diag = diag};
  qn_schedule schedules[KINDS] = {[TUNED] = result->tuned, [DEFAULT] = result->start};
  qn_measured results[KINDS] = {0};
  qn_space space;
  qn_tuning_task task = {.program = program,
                         .kernel = result->kernel,
                         .rows_min = result->rows_min,
                         .rows_max = result->rows_max,
                         .rows = result->rows,
                         .keys = qn_session_keys(program, options),
                         .threads = options->key.threads,
                         .weight = 1};
  *out = (qn_comparison){.pairs = c.pairs};
  for (size_t i = 0; i < program->steps.count && !task.step; i++)
    if (&program->kernels.items[program->steps.items[i].kernel] == result->kernel) task.step = &program->steps.items[i];
  QN_TRY(qn_space_init(&space, result->kernel, result->rows_min, result->rows_max, &result->start, diag));
  schedules[MIDDLE] = qn_space_middle(&space);
  if (!qn_space_is_legal(&space, &schedules[MIDDLE])) schedules[MIDDLE] = result->start;
  QN_TRY(m->begin(m->self, &task, diag));
  qn_status status = m->prepare(m->self, schedules, KINDS, results, diag);
  if (status == QN_OK && results[TUNED].verdict == QN_VERDICT_OK) {
    if (qn_schedule_equal(&schedules[TUNED], &schedules[DEFAULT])) {  // the same code: nothing to measure
      out->over_default = 1;
    } else if (results[DEFAULT].verdict == QN_VERDICT_OK) {
      status = compare(&c, DEFAULT, &out->over_default, &out->error_default);
    }
    if (status == QN_OK && results[MIDDLE].verdict == QN_VERDICT_OK)
      status = compare(&c, MIDDLE, &out->over_middle, &out->error_middle);
  }
  m->end(m->self);
  return status;
}
