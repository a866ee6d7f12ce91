// Schedules without tuning: for each class of row counts the one that the cost model finds fastest on the machine at
// hand. A descent by coordinates over the space of legal schedules: some hundreds of predictions a class.
#include <math.h>

#include "passes/cost.h"

enum { MAX_SAMPLES = 4, MAX_RESTS = 4, CODE_LIMIT = 64 };

// Rows that a class's schedule is judged by; those beyond what a step has are left out, unless none is left.
typedef struct row_class {
  int64_t min, max;
  int64_t samples[MAX_SAMPLES];  // ended by 0 where there are fewer
} row_class;
static const row_class product_classes[] = {
    {1, 1, {1}}, {2, 2, {2}}, {3, 4, {3, 4}}, {5, 8, {5, 6, 7, 8}}, {9, INT64_MAX, {16, 32, 128, 256}}};
_Static_assert(QN_COUNT(product_classes) <= QN_MAX_VARIANTS && 1 + MAX_RESTS <= QN_SCHEDULE_MAX_TILES,
               "a plan and a schedule have room");
static const row_class attention_classes[] = {{1, 1, {1}}, {2, INT64_MAX, {4, 256}}};
static const row_class row_classes[] = {{1, 1, {1}}, {2, INT64_MAX, {4, 64, 256}}};
static const row_class any_rows = {0, INT64_MAX, {1, 256}};

typedef struct chooser {
  const qn_pkernel *kernel;
  const qn_machine_model *machine;
  const row_class *class;
  int64_t max_rows;
  qn_schedule best;
  double best_score;
} chooser;

// The mean logarithm of the time, so that all row counts weigh the same. More code is worse where it brings nothing:
// it takes time to compile and room in caches.
static double score(const chooser *c, const qn_schedule *s) {
  const double code_weight = 0.005;
  double sum = 0;
  int count = 0, code = 0;
  for (int i = 0; i < MAX_SAMPLES && c->class->samples[i] > 0; i++) {
    qn_prediction p;
    if (count > 0 && c->class->samples[i] > c->max_rows) break;
    qn_schedule_predict(c->kernel, c->class->samples[i], s, c->machine, &p);
    sum += log(p.seconds);
    count++;
  }
  for (int i = 0; i < s->m_tile_count; i++) code += s->m_tiles[i] * s->n_tile;
  if (s->m_block > 1) code += s->m_tiles[0] * s->n_tile;
  if (code > CODE_LIMIT) return HUGE_VAL;
  return sum / count + code_weight * code;
}

static bool consider(chooser *c, const qn_schedule *s) {
  if (!qn_schedule_legal(c->kernel, c->class->min, c->class->max, s, NULL)) return false;
  double its_score = score(c, s);
  if (its_score >= c->best_score) return false;
  c->best = *s;
  c->best_score = its_score;
  return true;
}

// Tiles after the largest one, for the rest of the rows; below 0 so many rows less than that. Three rows left are much
// dearer as two and one: either unpacks all weights. So where registers hold all rows, each number has its own tile.
static const int rests[][MAX_RESTS] = {{1}, {2, 1}, {3, 1}, {3, 2, 1}, {4, 1}, {4, 2, 1}, {-1, -2, -3, 1}};

static void set_tiles(qn_schedule *s, int largest, size_t form) {
  s->m_tile_count = 0;
  s->m_tiles[s->m_tile_count++] = largest;
  for (int i = 0; i < MAX_RESTS && rests[form][i] != 0; i++) {
    int rest = rests[form][i] > 0 ? rests[form][i] : largest + rests[form][i];
    if (rest > 0 && rest < s->m_tiles[s->m_tile_count - 1]) s->m_tiles[s->m_tile_count++] = rest;
  }
}

static bool try_tiles(chooser *c) {
  static const int largest[] = {1, 2, 3, 4, 5, 6, 8, 10, 12};
  static const int panels[] = {1, 2, 3, 4, 8};
  static const size_t usual[] = {1, 3, 6};  // of rests: without 3 rows at once, with, and with any number
  bool better = false, one_row = c->class->max == 1 && c->kernel->tile_rows == 0;
  for (size_t i = 0; i < QN_COUNT(panels) * QN_COUNT(usual); i++) {
    for (size_t m = 0; m < QN_COUNT(largest) && (m == 0 || !one_row); m++) {
      qn_schedule s = c->best;
      s.n_tile = panels[i / QN_COUNT(usual)];
      set_tiles(&s, largest[m], usual[i % QN_COUNT(usual)]);
      for (s.n_apart = 0; s.n_apart < 2; s.n_apart++) {
        if (consider(c, &s)) better = true;
      }
    }
  }
  for (size_t form = 0; form < QN_COUNT(rests) && !one_row; form++) {
    qn_schedule s = c->best;
    set_tiles(&s, s.m_tiles[0], form);
    if (consider(c, &s)) better = true;
  }
  return better;
}

// A knob of one value, over some of its values.
static bool try_knob(chooser *c, size_t offset, const int *values, size_t count) {
  bool better = false;
  for (size_t i = 0; i < count; i++) {
    qn_schedule s = c->best;
    *(int *)(void *)((char *)&s + offset) = values[i];
    if (consider(c, &s)) better = true;
  }
  return better;
}

// How far ahead, and into which cache: the first has room for less.
static bool try_ahead(chooser *c) {
  static const int ahead[] = {0, 64, 512, 1024, 2048, 4096, 8192};
  bool better = false;
  for (size_t i = 0; i < QN_COUNT(ahead) * 2; i++) {
    qn_schedule s = c->best;
    s.prefetch_bytes = ahead[i / 2];
    s.prefetch_far = i % 2;
    if (s.prefetch_far && c->machine->stream_far <= 0) continue;
    if (consider(c, &s)) better = true;
  }
  return better;
}

static qn_schedule choose(const qn_pkernel *kernel, const qn_machine_model *machine, const row_class *class,
                          int64_t max_rows) {
  static const int flags[] = {0, 1}, forms[] = {0, 1, 2}, lanes[] = {1, 4, 8, 16};
  static const int turns[] = {1, 2, 3, 4, 6, 8};
  static const int blocks[] = {1, 2, 4, 8, 16, 32, 64};
  static const struct {
    size_t offset, count;
    const int *values;
  } knobs[] = {
#define VALUES(knob, list) {offsetof(qn_schedule, knob), QN_COUNT(list), list}
      VALUES(lanes, lanes),    VALUES(k_unroll, flags), VALUES(dots, forms),
      VALUES(n_block, blocks), VALUES(m_block, turns),
#undef VALUES
  };
  chooser c = {.kernel = kernel, .machine = machine, .class = class, .max_rows = max_rows, .best_score = HUGE_VAL};
  c.best = qn_schedule_plain();
  c.best.lanes = QN_TILE_ROWS;
  c.best.k_unroll = c.best.parallel = 1;  // always: what the barriers before and after cost, the kernel does not tell
  if (qn_kernel_has_dots(kernel)) c.best.dots = machine->dots;
  consider(&c, &c.best);
  for (bool better = true; better;) {
    better = (kernel->is_matmul || kernel->tile_rows > 0) && try_tiles(&c);
    for (size_t i = 0; i < QN_COUNT(knobs); i++) {
      if (try_knob(&c, knobs[i].offset, knobs[i].values, knobs[i].count)) better = true;
    }
    if (try_ahead(&c)) better = true;
  }
  return c.best;
}

static void add_variant(qn_kernel_plan *plan, int64_t rows_min, int64_t rows_max, qn_schedule schedule) {
  plan->variants[plan->count].rows_min = rows_min;
  plan->variants[plan->count].rows_max = rows_max;
  plan->variants[plan->count++].schedule = schedule;
}

qn_kernel_plan qn_schedule_default(const qn_pkernel *kernel, int64_t max_rows, const qn_machine_model *machine) {
  qn_kernel_plan plan = {0};
  const row_class *classes = kernel->is_matmul ? product_classes : attention_classes;
  size_t count = kernel->is_matmul ? QN_COUNT(product_classes) : QN_COUNT(attention_classes);
  bool tiled = kernel->is_matmul || kernel->tile_rows > 0;
  if (kernel->rows == QN_SYM_NONE) {
    add_variant(&plan, 0, INT64_MAX, choose(kernel, machine, tiled ? &classes[count - 1] : &any_rows, max_rows));
    return plan;
  }
  if (!tiled) {  // one row can be shared out where the kernel has the loops for it (lower_rows.c)
    classes = row_classes;
    count = QN_COUNT(row_classes);
  }
  for (size_t i = 0; i < count && (i == 0 || classes[i].min <= max_rows); i++) {
    add_variant(&plan, classes[i].min, classes[i].max, choose(kernel, machine, &classes[i], max_rows));
  }
  return plan;
}
