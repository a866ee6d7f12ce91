// Which schedules to try next. Before anything is known: seeds, then what the analytic model ranks first, well apart
// from each other. After that: candidates drawn at random, mutated from the best and crossed among them, by the
// improvement that the surrogate expects.
#include <math.h>
#include <stdlib.h>

#include "autotune/search_impl.h"
#include "runtime/base/hash.h"

enum {
  WHOLE = 6000,  // combinations up to which the whole space is looked at
  RANDOM = 600,  // drawn from larger ones
  MUTANTS = 160,
  CROSSED = 60,
  ELITE = 6,     // parents
  SCORED = 260,  // of which the surrogate's guess is asked
};

typedef struct entry {
  qn_schedule schedule;
  qn_observation seen;
  double score;  // the smaller the better
} entry;

typedef struct pool {
  qn_search *search;
  QN_VEC(entry) entries;  // owned
  bool failed;            // out of memory
} pool;

static bool put(void *context, const qn_schedule *schedule) {
  pool *p = context;
  entry e = {.schedule = *schedule};
  if (qn_search_has(p->search, schedule)) return true;
  qn_search_look(p->search, schedule, &e.seen);
  e.score = e.seen.prediction;
  if (!qn_vec_push(p->search->allocator, &p->entries, e)) p->failed = true;
  return !p->failed;
}

static int by_score(const void *a, const void *b) {
  double x = ((const entry *)a)->score, y = ((const entry *)b)->score;
  return (x > y) - (x < y);
}

static void sort(pool *p) {
  if (p->entries.count > 1) qsort(p->entries.items, p->entries.count, sizeof(entry), by_score);
}

// The same schedule drawn twice stands beside itself, since its score is the same.
static void drop_twins(pool *p) {
  size_t kept = 0;
  for (size_t i = 0; i < p->entries.count; i++) {
    bool twin = false;
    for (size_t j = kept; j-- > 0 && p->entries.items[j].score == p->entries.items[i].score && !twin;)
      twin = qn_schedule_equal(&p->entries.items[j].schedule, &p->entries.items[i].schedule);
    if (!twin) p->entries.items[kept++] = p->entries.items[i];
  }
  p->entries.count = kept;
}

// The timed candidates with the best times, at most ELITE.
static int find_elite(const qn_search *s, const qn_candidate **out) {
  int count = 0;
  for (size_t i = 0; i < s->candidates.count; i++) {
    const qn_candidate *c = &s->candidates.items[i];
    if (c->samples == 0 || c->verdict != QN_VERDICT_OK) continue;
    int at = count < ELITE ? count++ : ELITE;
    while (at > 0 && out[at - 1]->seen.value > c->seen.value) {
      if (at < ELITE) out[at] = out[at - 1];
      at--;
    }
    if (at < ELITE) out[at] = c;
  }
  return count;
}

// The whole space, or many draws of it and the neighbourhood of the incumbent.
static void fill(pool *p) {
  qn_search *s = p->search;
  qn_schedule drawn;
  if (qn_space_combinations(&s->space) <= WHOLE) {
    qn_space_enumerate(&s->space, put, p);
    return;
  }
  for (int i = 0; i < RANDOM && qn_space_random(&s->space, &s->rng, &drawn); i++) put(p, &drawn);
  for (int i = 0; i < MUTANTS; i++)
    if (qn_space_mutate(&s->space, &s->rng, &s->incumbent, &drawn)) put(p, &drawn);
}

// Every schedule that differs from the incumbent in one knob by an octave at most: the last step to a best one is among
// them.
static void put_neighbours(pool *p) {
  qn_search *s = p->search;
  for (int i = 0; i < s->space.knob_count; i++) {
    const qn_space_knob *knob = &s->space.knobs[i];
    for (int choice = 0; choice < knob->count && knob->count > 1; choice++) {
      qn_schedule near = s->incumbent;
      qn_space_set(knob, &near, choice);
      if (qn_schedule_equal(&near, &s->incumbent) || !qn_space_is_legal(&s->space, &near)) continue;
      if (qn_space_distance(&s->space, &near, &s->incumbent) < 1.01) put(p, &near);
    }
  }
}

// What evolution makes of the best: guessed whatever the model says of them.
static void put_children(pool *p) {
  qn_search *s = p->search;
  const qn_candidate *elite[ELITE];
  int count = find_elite(s, elite);
  qn_schedule drawn;
  for (int i = 0; i < MUTANTS && count > 0; i++)
    if (qn_space_mutate(&s->space, &s->rng, &elite[i % count]->schedule, &drawn)) put(p, &drawn);
  for (int i = 0; i < CROSSED && count > 1; i++) {
    const qn_schedule *a = &elite[i % count]->schedule, *b = &elite[(i + 1 + i / count) % count]->schedule;
    if (a != b && qn_space_cross(&s->space, &s->rng, a, b, &drawn)) put(p, &drawn);
  }
}

// What the analytic model finds several times slower than the best is hopeless, unless hardly anything is left.
static void drop_hopeless(pool *p) {
  const double several = log(4.0);
  const size_t few = 24;
  while (p->entries.count > few &&
         p->entries.items[p->entries.count - 1].seen.prediction > p->entries.items[0].seen.prediction + several) {
    p->entries.count--;
  }
}

// --- taking

// Another schedule that makes the same code tells nothing new; one that cannot be applied is no candidate.
static bool has_new_code(qn_search *s, const qn_schedule *schedule) {
  if (!s->options.distinct_code) return true;
  qn_arena arena;
  qn_buf text;
  qn_diag diag = {0};
  const qn_lkernel *kernel = NULL;
  qn_dim extent;
  bool fresh = false;
  qn_arena_init(&arena, s->allocator);
  qn_buf_init(&text, s->allocator);
  if (qn_schedule_apply(s->task.kernel, s->task.rows_min, s->task.rows_max, schedule, "k", &arena, &kernel, &extent,
                        &diag) == QN_OK) {
    qn_lkernel_print(kernel, &text);
    uint64_t hash = qn_hash64(qn_buf_text(&text), text.length, 0);
    fresh = !text.failed;
    for (size_t i = 0; i < s->codes.count && fresh; i++) fresh = s->codes.items[i] != hash;
    if (fresh) fresh = qn_vec_push(s->allocator, &s->codes, hash);
  }
  qn_buf_deinit(&text);
  qn_arena_deinit(&arena);
  return fresh;
}

static void remove_entry(pool *p, size_t at) { p->entries.items[at] = p->entries.items[--p->entries.count]; }

// The first batch: by the model, but an octave away from those taken weighs as much as a seventh of the time.
static void take_by_model(pool *p, int most, qn_schedule *out, int *count) {
  qn_search *s = p->search;
  s->expected = QN_SEARCH_UNKNOWN;
  while (*count < most && p->entries.count > 0) {
    size_t best = 0;
    double best_score = HUGE_VAL;
    for (size_t i = 0; i < p->entries.count; i++) {
      double near = qn_space_distance(&s->space, &p->entries.items[i].schedule, &s->incumbent);
      for (int j = 0; j < *count; j++) {
        double distance = qn_space_distance(&s->space, &p->entries.items[i].schedule, &out[j]);
        if (distance < near) near = distance;
      }
      double score = p->entries.items[i].seen.prediction - 0.15 * (near < 2 ? near : 2);
      if (score < best_score) {
        best_score = score;
        best = i;
      }
    }
    if (has_new_code(s, &p->entries.items[best].schedule)) out[(*count)++] = p->entries.items[best].schedule;
    remove_entry(p, best);
  }
}

// By expected improvement, with what is taken assumed to turn out as it is guessed.
static void take_by_guess(pool *p, int most, qn_schedule *out, int *count) {
  qn_search *s = p->search;
  const qn_candidate *incumbent = qn_search_find(s, &s->incumbent);
  bool timed = incumbent && incumbent->samples > 0;
  double bar = timed ? qn_surrogate_guess(s->surrogate, &incumbent->seen).mean : HUGE_VAL, first = 0;
  while (*count < most && p->entries.count > 0) {
    size_t best = 0;
    double best_gain = -1;
    for (size_t i = 0; i < p->entries.count; i++) {
      double gain = qn_expected_improvement(qn_surrogate_guess(s->surrogate, &p->entries.items[i].seen), bar);
      if (gain > best_gain) {
        best_gain = gain;
        best = i;
      }
    }
    entry taken = p->entries.items[best];
    remove_entry(p, best);
    if (!has_new_code(s, &taken.schedule)) continue;
    out[(*count)++] = taken.schedule;
    if (best_gain > first) first = best_gain;
    qn_surrogate_assume(s->surrogate, &taken.seen);
  }
  s->expected = first;
}

// Of the whole pool those by the model's rank that are to be guessed, and some of the rest.
static void thin(pool *p) {
  if (p->entries.count <= SCORED) return;
  size_t kept = SCORED / 2;
  for (size_t left = SCORED - kept; left > 0; left--, kept++) {
    size_t from = kept + (size_t)(qn_rng_unit(&p->search->rng) * (double)(p->entries.count - kept));
    entry swapped = p->entries.items[kept];
    p->entries.items[kept] = p->entries.items[from];
    p->entries.items[from] = swapped;
  }
  p->entries.count = SCORED;
}

int qn_search_challengers(qn_search *s, int most, const qn_candidate **out) {
  const qn_candidate *incumbent = qn_search_find(s, &s->incumbent);
  double gains[QN_SEARCH_AGAIN];
  int count = 0;
  if (!s->learnt || !incumbent || incumbent->samples == 0) return 0;
  double bar = qn_surrogate_guess(s->surrogate, &incumbent->seen).mean;
  for (size_t i = 0; i < s->candidates.count; i++) {
    const qn_candidate *c = &s->candidates.items[i];
    if (c == incumbent || c->samples == 0 || c->verdict != QN_VERDICT_OK) continue;
    double gain = qn_expected_improvement(qn_surrogate_guess(s->surrogate, &c->seen), bar);
    if (gain <= s->options.least_gain) continue;
    int at = count < most ? count++ : most;
    for (; at > 0 && gains[at - 1] < gain; at--) {
      if (at == most) continue;
      gains[at] = gains[at - 1];
      out[at] = out[at - 1];
    }
    if (at == most) continue;
    gains[at] = gain;
    out[at] = c;
  }
  return count;
}

// Timed schedules besides the one it begins with tell something of the others.
static bool knows_others(const qn_search *s) {
  for (size_t i = 0; i < s->candidates.count && s->learnt; i++)
    if (s->candidates.items[i].samples > 0 && !qn_schedule_equal(&s->candidates.items[i].schedule, &s->start))
      return true;
  return false;
}

qn_status qn_search_propose(qn_search *s, int most, qn_schedule *out, int *out_count, qn_diag *diag) {
  pool p = {.search = s};
  *out_count = 0;
  for (int i = 0; i < s->seed_count && *out_count < most; i++) {
    if (!qn_search_has(s, &s->seeds[i]) && has_new_code(s, &s->seeds[i])) out[(*out_count)++] = s->seeds[i];
  }
  s->seed_count = 0;
  fill(&p);
  sort(&p);
  drop_twins(&p);
  drop_hopeless(&p);
  if (knows_others(s)) {
    thin(&p);
    put_neighbours(&p);
    put_children(&p);
    sort(&p);
    drop_twins(&p);
    take_by_guess(&p, most, out, out_count);
  } else {
    if (p.entries.count > SCORED) p.entries.count = SCORED;
    take_by_model(&p, most, out, out_count);
  }
  qn_vec_free(s->allocator, &p.entries);
  return p.failed ? qn_fail_nomem(diag, s->task.kernel->name, "candidates") : QN_OK;
}
