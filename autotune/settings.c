// The machine-wide knobs of a session: with how many threads this model's steps are best done, how long a thread that
// waits spins, and in how large pieces threads take their work. Its heaviest kernels are timed, with the schedules that were found, under other settings in turns
// with the usual ones; what they say together, by their shares of a step, decides.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "autotune/session_impl.h"

#define ENOUGH_LOSS 0.02  // fewer threads that lose no more leave cores, and power, to others
#define LEAST_GAIN  0.01  // of another time to spin or grain
#define SURE        2.5   // standard errors
#define MOST_S      0.2   // of one kernel under one setting
enum { MOST_KERNELS = 5, MOST_SETTINGS = 12, ROUNDS = 24, CHUNK = 4 };

// One kind of step, and what is tried for it. The logarithms of ratios are of the usual setting's time over another's.
typedef struct trial {
  qn_session *session;
  int phase;
  qn_session_item *items[MOST_KERNELS];  // the heaviest first
  double shares[MOST_KERNELS];
  int64_t rows[MOST_KERNELS];
  int item_count;
  qn_setting settings[MOST_SETTINGS];
  double mean[MOST_SETTINGS], variance[MOST_SETTINGS];
  int count;
  double covered;  // the share of those that were timed
} trial;

static void add_setting(trial *t, qn_setting setting) {
  if (t->count < MOST_SETTINGS) t->settings[t->count++] = setting;
}

static void choose_items(trial *t) {
  qn_session *s = t->session;
  for (size_t i = 0; i < s->items.count; i++) {
    int64_t rows = 0;
    double share = qn_session_share_of_step(s, &s->items.items[i], t->phase, &rows);
    int at = t->item_count < MOST_KERNELS ? t->item_count++ : MOST_KERNELS;
    for (; at > 0 && t->shares[at - 1] < share; at--) {
      if (at == MOST_KERNELS) continue;  // the lightest of those there are falls out
      t->items[at] = t->items[at - 1];
      t->shares[at] = t->shares[at - 1];
      t->rows[at] = t->rows[at - 1];
    }
    if (at == MOST_KERNELS) continue;
    t->items[at] = &s->items.items[i];
    t->shares[at] = share;
    t->rows[at] = rows;
  }
}

// One kernel under one setting, in turns with the usual one.
static qn_status time_setting(trial *t, int setting, qn_race *out, bool *out_right) {
  const qn_measurer *m = t->session->measurer;
  const qn_setting usual = {.spin_us = -1}, pair[2] = {usual, t->settings[setting]};
  double begin = m->now(m->self);
  m->set(m->self, pair);
  *out_right = true;
  for (int done = 0; done < ROUNDS; done += CHUNK) {
    double times[2 * CHUNK];
    qn_measured results[2] = {0};
    QN_TRY(m->pair(m->self, 0, 0, CHUNK, times, results, t->session->diag));
    *out_right = qn_is_right(&results[0]) && qn_is_right(&results[1]);
    if (!*out_right) return QN_OK;
    for (int i = 0; i < CHUNK; i++) qn_race_add(out, times[2 * i], times[2 * i + 1]);
    if (m->now(m->self) - begin > MOST_S) break;
  }
  return QN_OK;
}

static qn_status time_settings(trial *t, int item, bool *out_right) {
  double means[MOST_SETTINGS] = {0}, variances[MOST_SETTINGS] = {0};
  for (int i = 0; i < t->count; i++) {
    qn_race race = {.count = 0};
    qn_noise noise = {.count = 0};
    QN_TRY(time_setting(t, i, &race, out_right));
    if (!*out_right) return QN_OK;
    qn_noise_learn(&noise, &race);
    double deviation = qn_noise_deviation(&noise);
    means[i] = qn_race_mean(&race, deviation);
    variances[i] = deviation * deviation / race.count;
  }
  for (int i = 0; i < t->count; i++) {
    t->mean[i] += t->shares[item] * means[i];
    t->variance[i] += t->shares[item] * t->shares[item] * variances[i];
  }
  t->covered += t->shares[item];
  return QN_OK;
}

static qn_status time_item(trial *t, int item) {
  qn_session *s = t->session;
  const qn_measurer *m = s->measurer;
  qn_tuning_task task = *qn_search_task(t->items[item]->search);
  qn_schedule schedule = *qn_search_incumbent(t->items[item]->search);
  qn_measured result = {.cut = true};
  bool right = false;
  task.rows = t->rows[item];
  QN_TRY(m->begin(m->self, &task, s->diag));
  qn_status status = m->prepare(m->self, &schedule, 1, &result, s->diag);
  if (status == QN_OK && qn_is_right(&result)) status = time_settings(t, item, &right);
  m->end(m->self);
  if (status != QN_ERR_NOMEM) return status;
  *s->diag = (qn_diag){0};
  return QN_OK;
}

// Times all there is time for; false when too little of the step was.
static qn_status run_trial(trial *t, bool *out_known) {
  qn_session *s = t->session;
  choose_items(t);
  for (int i = 0; i < t->item_count && t->count > 0; i++) {
    if (t->shares[i] < 0.01 || s->measurer->now(s->measurer->self) >= s->deadline_s) break;
    s->current = t->items[i];
    if (!qn_session_tell(s)) break;
    QN_TRY(time_item(t, i));
  }
  *out_known = t->covered > 0.5;
  for (int i = 0; i < t->count && *out_known; i++) {
    t->mean[i] /= t->covered;
    t->variance[i] /= t->covered * t->covered;
  }
  return QN_OK;
}

// Halves of all threads, down to one.
static void add_threads(trial *t) {
  for (int threads = t->session->options->key.threads / 2; threads >= 1; threads /= 2)
    add_setting(t, (qn_setting){.threads = threads, .spin_us = -1});
}

// The fewest threads that surely lose next to nothing; `all` where none do.
static int fewest_threads(const trial *t, int all) {
  int fewest = all;
  for (int i = 0; i < t->count; i++) {
    if (t->settings[i].threads == 0) continue;
    if (t->mean[i] - SURE * sqrt(t->variance[i]) < -ENOUGH_LOSS) break;  // and fewer yet lose more
    fewest = t->settings[i].threads;
  }
  return fewest;
}

// The time to spin that is surely the best; `usual` where none is.
static int best_spin(const trial *t, int usual) {
  double best = LEAST_GAIN;
  int spin = usual;
  for (int i = 0; i < t->count; i++) {
    if (t->settings[i].spin_us < 0 || t->mean[i] - SURE * sqrt(t->variance[i]) < best) continue;
    best = t->mean[i] - SURE * sqrt(t->variance[i]);
    spin = t->settings[i].spin_us;
  }
  return spin;
}

// Where the trial has this grain.
static int find_grain(const trial *t, int grain) {
  int i = 0;
  while (i < t->count && t->settings[i].grain != grain) i++;
  return i;
}

// The grain that is surely the best of decoding and prompts, which count alike; `usual` where none is.
static int best_grain(const trial *decode, const trial *prompt, const int *grains, size_t count, int usual) {
  double best = LEAST_GAIN;
  int grain = usual;
  for (size_t i = 0; i < count; i++) {
    int d = find_grain(decode, grains[i]), p = find_grain(prompt, grains[i]);
    if (d == decode->count || p == prompt->count) continue;
    double mean = 0.5 * (decode->mean[d] + prompt->mean[p]);
    double deviation = 0.5 * sqrt(decode->variance[d] + prompt->variance[p]);
    if (mean - SURE * deviation < best) continue;
    best = mean - SURE * deviation;
    grain = grains[i];
  }
  return grain;
}

// --- keeping

// Fewer threads than steps have by themselves, or all: none of a step would have more.
static bool is_for(const qn_tuning_key *key, const qn_machine_knobs *knobs) {
  return knobs->threads_decode >= 1 && knobs->threads_decode <= knobs->threads_prefill &&
         knobs->threads_prefill <= key->threads;
}

qn_status qn_settings_find(qn_db *db, const qn_tuning_key *key, const char *signature, qn_machine_knobs *out,
                           bool *out_found, qn_diag *diag) {
  qn_finished wanted = qn_program_mark(key, signature), mark;
  qn_arena arena;
  qn_diag parsing = {0};
  char lines[512];
  *out_found = false;
  qn_arena_init(&arena, qn_allocator_default());
  qn_status status = qn_db_finished(db, &wanted, &arena, &mark, out_found, NULL, diag);
  if (status == QN_OK && *out_found) {
    int length = snprintf(lines, sizeof lines, "%s", mark.plan);
    for (char *c = lines; *c; c++) *c = *c == ';' ? '\n' : *c;
    *out_found = length < (int)sizeof lines &&
                 qn_machine_knobs_parse("settings", qn_str_from(lines), out, &parsing) == QN_OK && is_for(key, out);
  }
  qn_arena_deinit(&arena);
  return status;
}

static qn_status keep(qn_session *s, const char *signature, const qn_machine_knobs *knobs) {
  qn_finished mark = qn_program_mark(&s->options->key, signature);
  qn_buf plan;
  qn_buf_init(&plan, s->allocator);
  qn_buf_printf(&plan, "threads_prefill = %d; threads_decode = %d; spin_us = %d; grain = %d",
                knobs->threads_prefill, knobs->threads_decode, knobs->spin_us, knobs->grain);
  mark.plan = qn_buf_text(&plan);
  mark.reason = "settings";
  qn_status status = plan.failed ? qn_fail_nomem(s->diag, "tune", "settings")
                                 : qn_db_set_finished(s->options->db, &mark, s->diag);
  qn_buf_deinit(&plan);
  return status;
}

// --- the whole

static qn_status try_settings(qn_session *s, qn_machine_knobs *out, bool *out_known) {
  static const int spins[] = {0, 10, 200, 1000}, grains[] = {1, 8};
  const qn_machine_knobs usual = qn_machine_knobs_plain();
  int all = s->options->key.threads;
  trial decode = {.session = s, .phase = QN_SESSION_DECODE}, prompt = {.session = s, .phase = QN_SESSION_PROMPT};
  *out_known = false;
  *out = qn_machine_knobs_plain();
  if (all < 2) return QN_OK;  // nobody waits for anybody
  add_threads(&decode);
  add_threads(&prompt);
  for (size_t i = 0; i < QN_COUNT(spins); i++) add_setting(&decode, (qn_setting){.spin_us = spins[i]});
  for (size_t i = 0; i < QN_COUNT(grains); i++) {
    add_setting(&decode, (qn_setting){.spin_us = -1, .grain = grains[i]});
    add_setting(&prompt, (qn_setting){.spin_us = -1, .grain = grains[i]});
  }
  bool known[2] = {false, false};
  QN_TRY(run_trial(&decode, &known[0]));
  QN_TRY(run_trial(&prompt, &known[1]));
  *out_known = known[0] && known[1];
  out->threads_decode = fewest_threads(&decode, all);
  out->threads_prefill = fewest_threads(&prompt, all);
  if (out->threads_prefill < out->threads_decode) out->threads_prefill = out->threads_decode;
  out->spin_us = best_spin(&decode, usual.spin_us);
  out->grain = best_grain(&decode, &prompt, grains, QN_COUNT(grains), usual.grain);
  return QN_OK;
}

double qn_session_settings_reserve(const qn_session *s) {
  const double least_s = 10, most_s = 5;  // too short a session has better things to do
  if (s->options->budget_s < least_s || s->options->pattern || s->options->key.threads < 2) return 0;
  double reserve = s->options->budget_s / 15;
  return reserve < most_s ? reserve : most_s;
}

qn_status qn_session_settings(qn_session *s, qn_machine_knobs *out, bool *out_found) {
  qn_buf signature;
  bool known = false;
  qn_buf_init(&signature, s->allocator);
  qn_status status = qn_session_signature(s, "settings", &signature);
  *out_found = false;
  if (status == QN_OK && s->options->db)
    status = qn_settings_find(s->options->db, &s->options->key, qn_buf_text(&signature), out, out_found, s->diag);
  if (status == QN_OK && !*out_found && qn_session_settings_reserve(s) > 0) {
    status = try_settings(s, out, &known);
    *out_found = status == QN_OK && known;
    if (*out_found && s->options->db) status = keep(s, qn_buf_text(&signature), out);
  }
  qn_buf_deinit(&signature);
  return status;
}
