// Crossover points between a kernel's variants: up to which row count the class for fewer rows is the faster one. By
// halving; at each row count the class that the default plan has there stays unless the other is surely faster, by
// pairs of times under a sequential test.
#include <math.h>

#include "autotune/session_impl.h"

#define MOST_S 1.0  // of one question
enum { FEWEST = 5, MOST = 256, CHUNK = 32 };

// A session asks some twenty questions.
static const qn_race_rules rules = {.gain = 0.015, .false_win = 0.001, .false_loss = 0.05, .least = FEWEST};

typedef struct boundary {
  qn_session *session;
  qn_session_item *few, *many;  // the class with fewer rows, and the next
  qn_noise noise;
} boundary;

// Who is to work at a row count.
typedef enum answer { NOT_KNOWN, FEW, MANY } answer;

// How much ratios scatter here: of the usual class against itself.
static qn_status learn_noise(boundary *b) {
  const qn_measurer *m = b->session->measurer;
  double times[2 * CHUNK];
  qn_measured results[2] = {0};
  qn_race race = {.count = 0};
  QN_TRY(m->pair(m->self, 0, 0, CHUNK, times, results, b->session->diag));
  if (!qn_is_right(&results[0])) return QN_OK;
  for (int i = 0; i < CHUNK; i++) qn_race_add(&race, times[2 * i], times[2 * i + 1]);
  qn_noise_learn(&b->noise, &race);
  return QN_OK;
}

// Times the other class against the usual one until the test has an answer.
static qn_status race(boundary *b, answer usual, answer *out) {
  const qn_measurer *m = b->session->measurer;
  double times[2 * CHUNK], begin = m->now(m->self);
  qn_race race = {.count = 0};
  qn_race_state state = QN_RACE_OPEN;
  if (b->noise.count == 0) QN_TRY(learn_noise(b));
  for (int chunk = FEWEST; state == QN_RACE_OPEN && race.count < MOST; chunk = race.count < CHUNK ? race.count : CHUNK) {
    qn_measured results[2] = {0};
    QN_TRY(m->pair(m->self, 0, 1, chunk, times, results, b->session->diag));
    if (!qn_is_right(&results[0]) || !qn_is_right(&results[1])) return QN_OK;
    for (int i = 0; i < chunk; i++) qn_race_add(&race, times[2 * i], times[2 * i + 1]);
    state = qn_race_decide(&race, qn_noise_deviation(&b->noise), &rules);
    if (m->now(m->self) - begin > MOST_S) break;
  }
  qn_noise_learn(&b->noise, &race);
  *out = state != QN_RACE_WON ? usual : usual == FEW ? MANY : FEW;
  return QN_OK;
}

// Which class is to work at `rows`? Both schedules are made for all rows of both classes.
static qn_status ask(boundary *b, int64_t rows, answer *out) {
  qn_session *s = b->session;
  const qn_measurer *m = s->measurer;
  qn_tuning_task task = *qn_search_task(b->few->search);
  task.rows_max = qn_search_task(b->many->search)->rows_max;
  task.rows = rows;
  task.bound_s = 0;
  answer usual = rows <= qn_search_task(b->few->search)->rows_max ? FEW : MANY;
  const qn_schedule *few = qn_search_incumbent(b->few->search), *many = qn_search_incumbent(b->many->search);
  const qn_schedule schedules[2] = {usual == FEW ? *few : *many, usual == FEW ? *many : *few};
  qn_measured results[2] = {0};
  *out = NOT_KNOWN;
  for (int i = 0; i < 2; i++)
    if (!qn_schedule_legal(task.kernel, task.rows_min, task.rows_max, &schedules[i], NULL)) return QN_OK;
  QN_TRY(m->begin(m->self, &task, s->diag));
  qn_status status = m->prepare(m->self, schedules, 2, results, s->diag);
  if (status == QN_OK && qn_is_right(&results[0]) && qn_is_right(&results[1])) status = race(b, usual, out);
  m->end(m->self);
  if (status != QN_ERR_NOMEM) return status;
  *s->diag = (qn_diag){0};  // too large to be timed: the boundary stays
  return QN_OK;
}

// The largest of the row counts worth asking at which the class for fewer rows is the faster one.
static qn_status find(boundary *b, int64_t *out, bool *out_known) {
  static const int64_t ladder[] = {2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128};
  const qn_tuning_task *few = qn_search_task(b->few->search), *many = qn_search_task(b->many->search);
  int low = 0, high;  // ladder[low .. high) may be the last
  while (low < (int)QN_COUNT(ladder) && ladder[low] < few->rows) low++;
  high = low;
  while (high < (int)QN_COUNT(ladder) && ladder[high] < many->rows) high++;
  int64_t last = few->rows;
  bool moved = false;
  *out_known = true;
  while (low < high) {
    int middle = low + (high - low) / 2;
    answer best = NOT_KNOWN;
    QN_TRY(ask(b, ladder[middle], &best));
    if (best == NOT_KNOWN) {
      *out_known = false;
      return QN_OK;
    }
    moved = moved || (best == FEW) != (ladder[middle] <= few->rows_max);
    if (best == FEW) {
      last = ladder[middle];
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  *out = moved ? last : few->rows_max;  // no answer speaks against the default
  return QN_OK;
}

// Worth asking: something of it changed in this session, or nobody has asked so far.
static bool is_open(const boundary *b, bool asked) {
  const qn_session *s = b->session;
  const qn_tuning_task *few = qn_search_task(b->few->search);
  if (few->rows_min == few->rows_max || !qn_session_is_timed(b->few) || !qn_session_is_timed(b->many)) return false;
  if (asked && !b->few->begun && !b->many->begun) return false;
  return s->measurer->now(s->measurer->self) + s->step_s < s->deadline_s;
}

// Of the classes of one kernel, in their order from `first` on.
static qn_status tune_kernel(qn_session *s, size_t first, size_t count) {
  const qn_pkernel *kernel = qn_search_task(s->items.items[first].search)->kernel;
  qn_kernel_plan plan = {.count = (int)count};
  bool asked = false, news = false;
  if (s->options->db) QN_TRY(qn_plan_has_crossovers(s->options->db, &s->options->key, kernel, &asked, s->diag));
  for (size_t i = 0; i < count; i++) {
    const qn_tuning_task *class = qn_search_task(s->items.items[first + i].search);
    plan.variants[i].rows_min = class->rows_min;
    plan.variants[i].rows_max = class->rows_max;
  }
  for (size_t i = 0; i + 1 < count; i++) {
    boundary b = {s, &s->items.items[first + i], &s->items.items[first + i + 1], {.count = 0}};
    int64_t last = 0;
    bool known = false;
    if (!is_open(&b, asked)) continue;
    s->current = b.few;
    if (!qn_session_tell(s)) break;
    QN_TRY(find(&b, &last, &known));
    news = news || known;  // also that the default has it right: an earlier session may have found otherwise
    if (!known || last == plan.variants[i].rows_max) continue;
    plan.variants[i].rows_max = last;
    plan.variants[i + 1].rows_min = last + 1;
    s->crossovers++;
  }
  if (!news || !s->options->db) return QN_OK;
  return qn_plan_put_crossovers(s->options->db, &s->options->key, kernel, &plan, s->diag);
}

qn_status qn_session_crossovers(qn_session *s) {
  for (size_t i = 0, count; i < s->items.count && !s->cancelled; i += count) {
    for (count = 1; i + count < s->items.count; count++)
      if (s->items.items[i + count].kernel != s->items.items[i].kernel) break;
    if (count > 1 && s->items.items[i].selected) QN_TRY(tune_kernel(s, i, count));
  }
  return QN_OK;
}
