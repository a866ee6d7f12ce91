// The space from the table of knobs: nothing here knows a knob by its name.
#include "autotune/space.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES = 400, LINE = 64 };

// --- values of a knob

// Sizes in bytes count in cache lines.
static int unit_of(const qn_knob *knob) {
  size_t length = strlen(knob->name);
  return length > 6 && strcmp(knob->name + length - 6, "_bytes") == 0 ? LINE : 1;
}

static void set_choice(const qn_knob *knob, qn_schedule *schedule, const qn_choice *choice) {
  if (knob->capacity == 0) {
    qn_knob_set(knob, schedule, choice->items[0]);
    return;
  }
  char *bytes = (char *)schedule;
  memcpy(bytes + knob->offset, choice->items, (size_t)choice->count * sizeof(int));
  memcpy(bytes + knob->count_offset, &choice->count, sizeof(int));
}

static qn_choice get_choice(const qn_knob *knob, const qn_schedule *schedule) {
  qn_choice choice = {.items = {qn_knob_get(knob, schedule)}, .count = 1};
  if (knob->capacity == 0) return choice;
  const char *bytes = (const char *)schedule;
  memcpy(&choice.count, bytes + knob->count_offset, sizeof(int));
  memcpy(choice.items, bytes + knob->offset, (size_t)choice.count * sizeof(int));
  return choice;
}

static bool same_choice(const qn_choice *a, const qn_choice *b) {
  return a->count == b->count && memcmp(a->items, b->items, (size_t)a->count * sizeof(int)) == 0;
}

static void add_choice(qn_space_knob *k, const qn_choice *choice) {
  for (int i = 0; i < k->count; i++)
    if (same_choice(&k->choices[i], choice)) return;
  if (k->count < QN_SPACE_CHOICES) k->choices[k->count++] = *choice;
}

// The value after `value` on the ladder of those worth a trial.
static int next_value(int value, int unit) {
  if (unit > 1) return value < unit ? unit : (value & (value - 1)) == 0 ? value + value / 2 : value / 3 * 4;
  int step = 1;
  while (value >= 16 * step) step *= 2;
  return value + (value < 16 ? 1 : 2 * step);
}

// What may follow the first item of a list: nothing but 1; halves down to 1; what the rest of the rows makes, and 1.
static void add_lists(qn_space_knob *k, int head, int64_t rows) {
  qn_choice one = {.items = {head, 1}, .count = head > 1 ? 2 : 1}, halves = {.items = {head}, .count = 1},
            rest = halves;
  add_choice(k, &one);
  for (int item = head / 2; item >= 1 && halves.count < k->knob->capacity; item /= 2)
    halves.items[halves.count++] = item;
  halves.items[halves.count - 1] = 1;
  add_choice(k, &halves);
  for (int64_t left = rows; left > 0 && rest.count + 1 < k->knob->capacity;) {
    left %= rest.items[rest.count - 1];
    if (left > 1) rest.items[rest.count++] = (int)left;
    if (left <= 1) break;
  }
  if (rest.items[rest.count - 1] > 1) rest.items[rest.count++] = 1;
  add_choice(k, &rest);
}

static bool legal_with(const qn_space *space, const qn_schedule *base, const qn_knob *knob, const qn_choice *choice) {
  qn_schedule schedule = *base;
  set_choice(knob, &schedule, choice);
  return qn_space_is_legal(space, &schedule);
}

static int by_value(const void *a, const void *b) {
  const qn_choice *x = a, *y = b;
  for (int i = 0; i < x->count && i < y->count; i++)
    if (x->items[i] != y->items[i]) return x->items[i] < y->items[i] ? -1 : 1;
  return x->count - y->count;
}

// Legal with the schedule, or once one other knob has one of its choices: prefetches go nowhere while there are none.
static bool is_reachable(const qn_space *space, const qn_schedule *base, const qn_space_knob *k,
                         const qn_choice *choice) {
  if (legal_with(space, base, k->knob, choice)) return true;
  for (int i = 0; i < space->knob_count; i++) {
    const qn_space_knob *other = &space->knobs[i];
    for (int j = 0; other != k && j < other->count; j++) {
      qn_schedule schedule = *base;
      set_choice(other->knob, &schedule, &other->choices[j]);
      if (legal_with(space, &schedule, k->knob, choice)) return true;
    }
  }
  return false;
}

static void find_choices(const qn_space *space, qn_space_knob *k) {
  enum { HIGHEST = 1 << 16 };  // of a ladder: what is beyond is no size that a loop or a cache line could use
  int unit = unit_of(k->knob);
  for (int value = 0; value <= HIGHEST && k->count < QN_SPACE_CHOICES; value = next_value(value, unit)) {
    qn_choice choice = {.items = {value}, .count = 1};
    if (!qn_knob_is_legal(k->knob, value)) continue;
    if (k->knob->capacity > 0) {
      add_lists(k, value, space->rows_min == space->rows_max ? space->rows_max : 0);
    } else {
      add_choice(k, &choice);
    }
  }
}

static void keep_reachable(const qn_space *space, qn_space_knob *k, const qn_schedule *start) {
  qn_schedule plain = qn_schedule_plain();
  int kept = 0;
  for (int i = 0; i < k->count; i++) {
    bool legal = is_reachable(space, start, k, &k->choices[i]) || is_reachable(space, &plain, k, &k->choices[i]);
    if (legal) k->choices[kept++] = k->choices[i];
  }
  k->count = kept;
  qn_choice own = get_choice(k->knob, start), plainest = get_choice(k->knob, &plain);
  add_choice(k, &own);
  if (legal_with(space, start, k->knob, &plainest)) add_choice(k, &plainest);
  qsort(k->choices, (size_t)k->count, sizeof k->choices[0], by_value);
}

static char letter_of(const qn_pkernel *kernel) { return kernel->tile_rows ? 'A' : kernel->is_matmul ? 'M' : 'R'; }

qn_status qn_space_init(qn_space *space, const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max,
                        const qn_schedule *start, qn_diag *diag) {
  *space = (qn_space){.kernel = kernel, .rows_min = rows_min, .rows_max = rows_max};
  const char *why = NULL;
  if (!qn_schedule_legal(kernel, rows_min, rows_max, start, &why)) {
    return qn_fail(diag, QN_ERR_ARGUMENT, kernel->name, "the schedule to start from is not legal: %s", why);
  }
  size_t count;
  const qn_knob *knobs = qn_knobs(&count);
  for (size_t i = 0; i < count; i++) {
    if (knobs[i].of_machine) continue;
    if (space->knob_count == QN_SPACE_KNOBS)
      return qn_fail(diag, QN_ERR_LIMIT, "knobs", "more than %d", QN_SPACE_KNOBS);
    qn_space_knob *k = &space->knobs[space->knob_count++];
    k->knob = &knobs[i];
    if (strchr(knobs[i].kernels, letter_of(kernel))) {
      find_choices(space, k);
    } else {
      k->choices[k->count++] = get_choice(k->knob, start);
    }
    space->dims += knobs[i].capacity > 0 ? 2 : 1;
  }
  for (int i = 0; i < space->knob_count; i++) {
    if (strchr(space->knobs[i].knob->kernels, letter_of(kernel))) keep_reachable(space, &space->knobs[i], start);
  }
  if (space->dims <= QN_SURROGATE_DIMS) return QN_OK;
  return qn_fail(diag, QN_ERR_LIMIT, "knobs", "got %d coordinates, want at most %d", space->dims, QN_SURROGATE_DIMS);
}

void qn_space_set(const qn_space_knob *k, qn_schedule *schedule, int choice) {
  set_choice(k->knob, schedule, &k->choices[choice]);
}

double qn_space_combinations(const qn_space *space) {
  double combinations = 1;
  for (int i = 0; i < space->knob_count; i++) combinations *= space->knobs[i].count;
  return combinations;
}

bool qn_space_is_legal(const qn_space *space, const qn_schedule *schedule) {
  const char *why = NULL;
  return qn_schedule_legal(space->kernel, space->rows_min, space->rows_max, schedule, &why);
}

// --- walking and drawing

void qn_space_enumerate(const qn_space *space, qn_space_fn each, void *context) {
  int at[QN_SPACE_KNOBS] = {0};
  for (;;) {
    qn_schedule schedule = qn_schedule_plain();
    for (int i = 0; i < space->knob_count; i++)
      set_choice(space->knobs[i].knob, &schedule, &space->knobs[i].choices[at[i]]);
    if (qn_space_is_legal(space, &schedule) && !each(context, &schedule)) return;
    int i = 0;
    while (i < space->knob_count && ++at[i] == space->knobs[i].count) at[i++] = 0;
    if (i == space->knob_count) return;
  }
}

static int draw(qn_rng *rng, int count) { return (int)(qn_rng_unit(rng) * count); }

bool qn_space_random(const qn_space *space, qn_rng *rng, qn_schedule *out) {
  for (int try = 0; try < TRIES; try++) {
    *out = qn_schedule_plain();
    for (int i = 0; i < space->knob_count; i++) {
      const qn_space_knob *k = &space->knobs[i];
      set_choice(k->knob, out, &k->choices[draw(rng, k->count)]);
    }
    if (qn_space_is_legal(space, out)) return true;
  }
  return false;
}

static int index_of(const qn_space_knob *k, const qn_schedule *schedule) {
  qn_choice own = get_choice(k->knob, schedule);
  for (int i = 0; i < k->count; i++)
    if (same_choice(&k->choices[i], &own)) return i;
  return 0;  // a value that is not tried otherwise
}

static void change_knob(const qn_space_knob *k, qn_rng *rng, qn_schedule *schedule) {
  int at = index_of(k, schedule), to;
  if (draw(rng, 3) < 2) {
    int step = 1 + draw(rng, 2);
    to = at + (draw(rng, 2) ? step : -step);
    if (to < 0 || to >= k->count) to = draw(rng, k->count);
  } else {
    to = draw(rng, k->count);
  }
  set_choice(k->knob, schedule, &k->choices[to]);
}

bool qn_space_mutate(const qn_space *space, qn_rng *rng, const qn_schedule *from, qn_schedule *out) {
  for (int try = 0; try < TRIES; try++) {
    *out = *from;
    for (int changes = 1 + draw(rng, 2); changes > 0; changes--) {
      const qn_space_knob *k = &space->knobs[draw(rng, space->knob_count)];
      if (k->count > 1) change_knob(k, rng, out);
    }
    if (!qn_schedule_equal(out, from) && qn_space_is_legal(space, out)) return true;
  }
  return false;
}

bool qn_space_cross(const qn_space *space, qn_rng *rng, const qn_schedule *a, const qn_schedule *b, qn_schedule *out) {
  for (int try = 0; try < TRIES; try++) {
    *out = *a;
    for (int i = 0; i < space->knob_count; i++) {
      qn_choice other = get_choice(space->knobs[i].knob, b);
      if (draw(rng, 2)) set_choice(space->knobs[i].knob, out, &other);
    }
    if (qn_space_is_legal(space, out)) return true;
  }
  return false;
}

// --- points

void qn_space_point(const qn_space *space, const qn_schedule *schedule, double out[QN_SURROGATE_DIMS]) {
  int at = 0;
  for (int i = 0; i < space->knob_count; i++) {
    const qn_knob *knob = space->knobs[i].knob;
    qn_choice own = get_choice(knob, schedule);
    out[at++] = log2(1.0 + (double)own.items[0] / unit_of(knob));
    if (knob->capacity > 0) out[at++] = own.count > 1 ? log2((double)own.items[1]) : 0;
  }
}

double qn_space_distance(const qn_space *space, const qn_schedule *a, const qn_schedule *b) {
  double x[QN_SURROGATE_DIMS], y[QN_SURROGATE_DIMS], sum = 0;
  qn_space_point(space, a, x);
  qn_space_point(space, b, y);
  for (int d = 0; d < space->dims; d++) sum += (x[d] - y[d]) * (x[d] - y[d]);
  return sqrt(sum);
}
