// Tuning sessions on a machine that is none: what gets the time, what is kept, how they end and are taken up again.
#include "autotune/session.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "autotune/race.h"
#include "tests/support/fake_machine.h"
#include "tests/support/test.h"

typedef struct fixture {
  qn_arena arena;
  const qn_program *program;
  qn_machine_model model;
  qn_fake_machine machine;
  qn_db *db;
  qn_session_options options;
  qn_session_report report;
  int calls, stop_after;  // of progress; 0 = never
  double most_left;
  qn_diag diag;
} fixture;

static bool progress(void *context, const qn_session_progress *p) {
  fixture *f = context;
  qn_check(p->kernel && p->task >= 1 && p->task <= p->tasks && p->best_s > 0 && p->gain > 0, "progress tells nothing");
  qn_check(p->left_s <= f->most_left, "time left grows");
  f->most_left = p->left_s;
  return ++f->calls != f->stop_after;
}

static void setup(fixture *f, const char *db_name) {
  *f = (fixture){.most_left = HUGE_VAL};
  setenv("HWLOC_SYNTHETIC", "pack:1 l3:1(size=16777216) l2:4(size=524288) l1d:1(size=32768) core:1 pu:1", 1);
  qn_arena_init(&f->arena, qn_test_allocator());
  f->program = qn_fake_program(&f->arena);
  f->model = qn_fake_machine_model();
  qn_fake_machine_init(&f->machine, &f->model, 7, 0.01);
  if (db_name)
    qn_assert_ok(&f->diag, qn_db_open(qn_test_temp_path(db_name), false, qn_test_allocator(), &f->db, &f->diag));
  f->options = (qn_session_options){.machine = &f->model,
                                    .key = {"fake-target", "fake-machine", "this-build", 2},
                                    .db = f->db,
                                    .budget_s = 600,
                                    .seed = 1,
                                    .progress = progress,
                                    .progress_context = f};
}

static void run(fixture *f) {
  f->most_left = HUGE_VAL;
  qn_session_report_deinit(&f->report);
  qn_assert_ok(&f->diag, qn_session_run(f->program, &f->machine.measurer, &f->options, qn_test_allocator(), &f->report,
                                        &f->diag));
}

static void teardown(fixture *f) {
  qn_session_report_deinit(&f->report);
  qn_db_close(f->db);
  qn_arena_deinit(&f->arena);
}

// The tuned schedule's cost over the planted one's.
static double distance_of(fixture *f, const qn_session_result *r, const qn_schedule *schedule) {
  qn_tuning_task task = qn_fake_task(f->program, r->kernel, r->rows_min, r->rows_max, r->rows);
  qn_fake_machine_face(&f->machine, &task);
  return qn_fake_machine_cost(&f->machine, schedule) / f->machine.best_s;
}

// How far what matters of one planted machine was from the best when nothing was worth more time.
typedef struct distances {
  int count, far;
  double log_sum;
} distances;

static void tune_planted(uint64_t seed, distances *d) {
  fixture f;
  setup(&f, NULL);
  qn_fake_machine_init(&f.machine, &f.model, seed, 0.01);
  run(&f);
  ck_assert_int_eq(f.report.end, QN_SESSION_SETTLED);
  ck_assert_int_gt(f.calls, 10);
  double shares = 0, log_gain = 0;
  for (size_t i = 0; i < f.report.count; i++) {
    const qn_session_result *r = &f.report.results[i];
    double start = distance_of(&f, r, &r->start), tuned = distance_of(&f, r, &r->tuned);
    if (getenv("QUERN_TEST_SHOW"))
      printf("%-32s %3d.. share %.3f: %.3f -> %.3f, gain %.3f of %d pairs, %d tried: %s\n", r->kernel->name,
             (int)r->rows_min, r->share, start, tuned, r->gain, r->pairs, r->tried, r->end);
    shares += r->share;
    qn_check(r->share > 0, "%s from %d rows is of no step", r->kernel->name, (int)r->rows_min);
    log_gain += r->share * log(start / tuned);
    qn_check(tuned <= start, "%s became slower", r->kernel->name);
    if (r->pairs > 0) ck_assert_double_eq_tol(r->gain, start / tuned, 0.03 * start / tuned);
    if (r->share <= 0.03) continue;
    d->count++;
    d->far += tuned > 1.2;
    d->log_sum += log(tuned);
  }
  ck_assert_double_eq_tol(shares, 1, 1e-9);
  ck_assert_double_gt(exp(log_gain), 1.2);
  teardown(&f);
}

// Of any one surface a search may have seen the wrong part when its share promised no more; of few it does.
START_TEST(tunes_what_matters) {
  enum { MACHINES = 6 };
  distances d = {0};
  for (uint64_t seed = 1; seed <= MACHINES; seed++) tune_planted(seed, &d);
  ck_assert_int_gt(d.count, 6 * MACHINES);
  qn_check(exp(d.log_sum / d.count) < 1.06, "%.3f of the best in the mean", exp(d.log_sum / d.count));
  qn_check(d.far * 15 <= d.count, "%d of %d kernels are further than 1.2 from the best", d.far, d.count);
}
END_TEST

START_TEST(second_session_has_nothing_to_do) {
  fixture f;
  setup(&f, "second.db");
  run(&f);
  int tried = f.report.tried;
  qn_session_report first = f.report;
  f.report = (qn_session_report){0};
  ck_assert_int_gt(tried, 50);
  ck_assert_int_eq(first.known, 0);
  double clock = f.machine.clock;
  run(&f);
  if (getenv("QUERN_TEST_SHOW"))
    for (size_t i = 0; i < first.count; i++)
      printf("%-32s %3d.. share %.4f -> %.4f, tried %d -> %d: %s -> %s\n", first.results[i].kernel->name,
             (int)first.results[i].rows_min, first.results[i].share, f.report.results[i].share, first.results[i].tried,
             f.report.results[i].tried, first.results[i].end, f.report.results[i].end);
  ck_assert_int_eq(f.report.tried, 0);
  ck_assert_int_eq(f.report.known, tried);
  ck_assert_double_eq(f.machine.clock, clock);
  ck_assert_int_eq(f.report.end, QN_SESSION_SETTLED);
  for (size_t i = 0; i < first.count; i++) {
    const qn_session_result *a = &first.results[i], *b = &f.report.results[i];
    qn_check(qn_schedule_equal(&a->tuned, &b->tuned), "another winner");
    qn_check((a->pairs > 0) == (b->pairs > 0), "what was measured in pairs is forgotten");
    ck_assert_double_eq_tol(b->gain, a->gain, 0.02 * a->gain);
  }
  qn_session_report_deinit(&first);
  teardown(&f);
}
END_TEST

START_TEST(interrupted_session_goes_on) {
  fixture f;
  setup(&f, "interrupted.db");
  f.stop_after = 30;
  run(&f);
  ck_assert_int_eq(f.report.end, QN_SESSION_CANCELLED);
  int tried = f.report.tried;
  ck_assert_int_ge(tried, 20);
  run(&f);  // its count of calls is beyond stop_after by now
  ck_assert_int_eq(f.report.known, tried);
  ck_assert_int_eq(f.report.end, QN_SESSION_SETTLED);
  ck_assert_int_gt(f.report.tried, 0);
  teardown(&f);
}
END_TEST

START_TEST(budgets_hold) {
  fixture f;
  setup(&f, NULL);
  f.options.budget_s = 12;
  run(&f);
  ck_assert_int_eq(f.report.end, QN_SESSION_BUDGET);
  ck_assert_double_le(f.report.seconds, 12);
  f.options.budget_s = 0;
  run(&f);
  ck_assert_int_eq(f.report.end, QN_SESSION_BUDGET);
  ck_assert_int_eq(f.report.tried, 0);
  teardown(&f);
}
END_TEST

static bool long_tile(const qn_schedule *s) { return s->m_tiles[0] > 4; }

// What a session left untouched since nothing speaks for it, the next one leaves alone as well: it knows as much.
START_TEST(what_a_session_learned_the_next_one_knows) {
  fixture f;
  setup(&f, "experience.db");
  f.options.least_value = 0.005;
  run(&f);
  int untouched = 0;
  for (size_t i = 0; i < f.report.count; i++) untouched += f.report.results[i].tried == 0;
  ck_assert_int_eq(f.report.end, QN_SESSION_SETTLED);
  ck_assert_int_gt(untouched, 0);
  for (int again = 0; again < 2; again++) {
    run(&f);
    ck_assert_int_eq(f.report.tried, 0);
    ck_assert_int_eq(f.report.end, QN_SESSION_SETTLED);
  }
  teardown(&f);
}
END_TEST

// Choosing a next batch takes time, too: a search whose time is over leaves it alone, and says nothing of its end.
START_TEST(no_next_batch_is_chosen_when_time_is_over) {
  fixture f;
  setup(&f, NULL);
  const qn_pkernel *kernel = qn_fake_matmul(f.program);
  qn_kernel_plan plan = qn_schedule_default(kernel, f.program->max_values[QN_SYM_T], &f.model);
  qn_tuning_task task = qn_fake_task(f.program, kernel, plan.variants[0].rows_min, plan.variants[0].rows_max, 1);
  qn_search_options options = {.machine = &f.model, .seed = 1};
  qn_search *search = NULL;
  qn_assert_ok(&f.diag, qn_search_create(&task, &plan.variants[0].schedule, &options, qn_test_allocator(), &search,
                                         &f.diag));
  qn_assert_ok(&f.diag, qn_search_step(search, &f.machine.measurer, 1e-9, &f.diag));
  ck_assert_double_eq(qn_search_expected(search), 0.25);  // as of one that has none
  ck_assert_int_eq(qn_search_get_state(search), QN_SEARCH_OPEN);
  qn_assert_ok(&f.diag, qn_search_step(search, &f.machine.measurer, HUGE_VAL, &f.diag));
  ck_assert_int_gt(qn_search_get_counts(search).tried, 2);
  ck_assert_double_ne(qn_search_expected(search), 0.25);
  qn_search_destroy(search);
  teardown(&f);
}
END_TEST

// Candidates that hang take their time, but none that there is not: the session ends with its budget.
START_TEST(hanging_candidates_do_not_overrun) {
  fixture f;
  setup(&f, "hanging.db");
  f.machine.hangs = long_tile;
  f.options.budget_s = 35;
  run(&f);
  ck_assert_int_eq(f.report.end, QN_SESSION_BUDGET);
  ck_assert_double_le(f.report.seconds, 35);
  ck_assert_int_gt(f.report.verdicts[QN_VERDICT_HUNG], 0);
  int hung = f.report.verdicts[QN_VERDICT_HUNG];
  f.options.budget_s = 0;  // what was cut off is not known, what hung is
  run(&f);
  ck_assert_int_eq(f.report.verdicts[QN_VERDICT_HUNG], hung);
  ck_assert_int_eq(f.report.verdicts[QN_VERDICT_FAILED], 0);
  teardown(&f);
}
END_TEST

static bool is_q8(const qn_tuning_task *task) { return strstr(task->kernel->name, "q8_0") != NULL; }

// A kernel for which there is no memory is left alone, and told; the others are tuned.
START_TEST(too_large_a_kernel_is_left_alone) {
  fixture f;
  setup(&f, "large.db");
  f.machine.too_large = is_q8;
  f.options.budget_s = 60;
  run(&f);
  int large = 0;
  for (size_t i = 0; i < f.report.count; i++) {
    const qn_session_result *r = &f.report.results[i];
    if (!strstr(r->kernel->name, "q8_0")) continue;
    large++;
    ck_assert_int_eq(r->tried, 0);
    qn_check(strncmp(r->end, "not tuned: ", 11) == 0 && strstr(r->end, "out of memory"), "got '%s'", r->end);
  }
  ck_assert_int_gt(large, 0);
  ck_assert_int_gt(f.report.tried, 50);
  f.machine.too_large = NULL;  // with more memory it is taken up
  f.options.pattern = "qk_matmul_q8_0*";
  run(&f);
  ck_assert_int_gt(f.report.tried, 0);
  teardown(&f);
}
END_TEST

typedef struct kept_time {
  double seconds;
  bool found;
} kept_time;

static bool look_for_time(void *context, const qn_record *record, const char *rejected) {
  kept_time *k = context;
  double times[QN_RECORD_TIMES];
  qn_check(!rejected, "rejected: %s", rejected);
  memcpy(times, record->times, (size_t)record->time_count * sizeof *times);
  if (record->time_count > 0) k->found |= qn_quantile(times, (size_t)record->time_count, 0.1) == k->seconds;
  return true;
}

// A search may end by its winner's last times, so that a later session must find those.
START_TEST(the_times_that_ended_a_search_are_kept) {
  fixture f;
  setup(&f, "kept.db");
  run(&f);
  int confirmed = 0;
  for (size_t i = 0; i < f.report.count; i++) {
    const qn_session_result *r = &f.report.results[i];
    kept_time kept = {.seconds = r->tuned_s};
    qn_db_filter own = {.signature = r->kernel->signature, .rows_min = r->rows_min, .rows_max = r->rows_max};
    if (!r->measured) continue;
    qn_assert_ok(&f.diag, qn_db_each(f.db, &own, look_for_time, &kept, &f.diag));
    qn_check(kept.found, "%s from %d rows: no record has its time", r->kernel->name, (int)r->rows_min);
    confirmed += r->pairs > 0;
  }
  ck_assert_int_gt(confirmed, 0);
  teardown(&f);
}
END_TEST

static double true_bound(void *context, const qn_tuning_task *task) {
  const fixture *f = context;
  (void)task;
  return f->machine.best_s;
}

START_TEST(near_the_roofline_it_stops) {
  fixture f;
  setup(&f, NULL);
  f.options.bound = true_bound;
  f.options.within = 4;  // as far from it as the defaults are
  f.options.bound_context = &f;
  run(&f);
  ck_assert_int_ne(f.report.end, QN_SESSION_BUDGET);
  ck_assert_int_le(f.report.tried, (int)f.report.count * 9);
  teardown(&f);
}
END_TEST

// The time of the default, which is therefore near to it.
static double loose_bound(void *context, const qn_tuning_task *task) {
  const fixture *f = context;
  qn_fake_machine machine = f->machine;
  qn_kernel_plan plan = qn_schedule_default(task->kernel, task->rows_max, f->machine.model);
  int i = 0;
  qn_fake_machine_face(&machine, task);
  while (i < plan.count - 1 && plan.variants[i].rows_max < task->rows) i++;
  return qn_fake_machine_cost(&machine, &plan.variants[i].schedule);
}

// What a machine that was busy when it was measured made look near to its roofline is taken up by what is known now.
START_TEST(marks_hold_for_the_roofline_of_now) {
  fixture f;
  setup(&f, "roofline.db");
  f.options.bound = loose_bound;
  f.options.bound_context = &f;
  run(&f);
  int within = 0;
  for (size_t i = 0; i < f.report.count; i++)
    within += strcmp(f.report.results[i].end, "near enough to the roofline") == 0;
  ck_assert_int_gt(within, 0);
  run(&f);  // nothing has changed
  ck_assert_int_eq(f.report.tried, 0);
  f.options.bound = true_bound;
  run(&f);
  ck_assert_int_gt(f.report.tried, 0);
  teardown(&f);
}
END_TEST

static qn_verdict wrong_unrolled(const qn_schedule *s) {
  return s->prefetch_bytes > 0 && s->k_unroll == 0 ? QN_VERDICT_WRONG : QN_VERDICT_OK;
}

typedef struct counting {
  int by_verdict[QN_VERDICT_COUNT];
} counting;
static bool count_record(void *context, const qn_record *record, const char *rejected) {
  counting *c = context;
  qn_check(!rejected, "rejected: %s", rejected);
  c->by_verdict[record->verdict]++;
  if (record->verdict == QN_VERDICT_WRONG) qn_check(strstr(record->evidence, "other bits"), "no evidence");
  return true;
}

START_TEST(bad_candidates_are_recorded_and_never_win) {
  fixture f;
  setup(&f, "bad.db");
  f.machine.dies = long_tile;
  f.machine.judge = wrong_unrolled;
  f.options.budget_s = 60;
  run(&f);
  ck_assert_int_gt(f.report.verdicts[QN_VERDICT_WRONG], 0);
  ck_assert_int_gt(f.report.verdicts[QN_VERDICT_CRASHED], 0);
  for (size_t i = 0; i < f.report.count; i++) {
    const qn_session_result *r = &f.report.results[i];
    if (!r->measured || long_tile(&r->start)) continue;
    qn_check(!long_tile(&r->tuned) && wrong_unrolled(&r->tuned) == QN_VERDICT_OK, "%s has a bad schedule",
             r->kernel->name);
  }
  counting counts = {{0}};
  qn_db_filter all = {.signature = NULL};
  qn_assert_ok(&f.diag, qn_db_each(f.db, &all, count_record, &counts, &f.diag));
  ck_assert_int_eq(counts.by_verdict[QN_VERDICT_WRONG], f.report.verdicts[QN_VERDICT_WRONG]);
  ck_assert_int_eq(counts.by_verdict[QN_VERDICT_CRASHED], f.report.verdicts[QN_VERDICT_CRASHED]);
  teardown(&f);
}
END_TEST

static qn_verdict all_wrong(const qn_schedule *s) {
  (void)s;
  return QN_VERDICT_WRONG;
}

START_TEST(a_wrong_default_is_told) {
  fixture f;
  setup(&f, NULL);
  f.machine.judge = all_wrong;
  run(&f);
  for (size_t i = 0; i < f.report.count; i++) {
    const qn_session_result *r = &f.report.results[i];
    if (r->tried > 0) ck_assert_str_eq(r->end, "the default schedule fails its check: planted");
    ck_assert(r->broken == (r->tried > 0));
    ck_assert(!r->measured);
  }
  ck_assert_int_gt(f.report.verdicts[QN_VERDICT_WRONG], 0);
  teardown(&f);
}
END_TEST

static qn_schedule found_wrong;

static qn_verdict one_wrong(const qn_schedule *s) {
  return qn_schedule_equal(s, &found_wrong) ? QN_VERDICT_WRONG : QN_VERDICT_OK;
}

// Also one that is found out once another schedule leads, which is none the worse for it.
START_TEST(a_wrong_default_is_told_whoever_leads) {
  fixture f;
  setup(&f, "default.db");
  f.options.budget_s = 20;
  run(&f);
  size_t at = 0;
  while (at < f.report.count && (f.report.results[at].pairs == 0 || strcmp(f.report.results[at].end, "under way") != 0))
    at++;
  ck_assert_uint_lt(at, f.report.count);
  const qn_session_result before = f.report.results[at];
  found_wrong = before.start;
  f.machine.judge = one_wrong;
  f.options.pattern = before.kernel->name;
  f.options.budget_s = 60;  // enough to come back to the default
  run(&f);
  const qn_session_result *r = NULL;
  for (size_t i = 0; i < f.report.count; i++)
    if (f.report.results[i].rows_min == before.rows_min) r = &f.report.results[i];
  ck_assert_ptr_nonnull(r);
  ck_assert(r->broken && r->measured);
  ck_assert_str_eq(r->end, "the default schedule fails its check: planted");
  ck_assert(qn_schedule_equal(&r->tuned, &before.tuned));
  teardown(&f);
}
END_TEST

static qn_verdict all_fail(const qn_schedule *s) {
  (void)s;
  return QN_VERDICT_FAILED;
}

// A kernel that nobody knows how to feed is no wrong one.
START_TEST(a_kernel_that_cannot_be_tried_is_told) {
  fixture f;
  setup(&f, NULL);
  f.machine.judge = all_fail;
  run(&f);
  for (size_t i = 0; i < f.report.count; i++) {
    const qn_session_result *r = &f.report.results[i];
    if (r->tried > 0) ck_assert_str_eq(r->end, "the default schedule cannot be tried: planted");
    ck_assert(!r->broken);
  }
  teardown(&f);
}
END_TEST

START_TEST(kernels_by_pattern) {
  fixture f;
  setup(&f, NULL);
  f.options.pattern = "qk_matmul_q8_0*";
  run(&f);
  for (size_t i = 0; i < f.report.count; i++)
    qn_check(strncmp(f.report.results[i].kernel->name, "qk_matmul_q8_0", 14) == 0, "another kernel");
  ck_assert_uint_ge(f.report.count, 1);
  f.options.pattern = "nothing*";
  qn_session_report none;
  qn_assert_fails(&f.diag, QN_ERR_ARGUMENT, "got the pattern 'nothing*', want one that matches a kernel's name",
                  qn_session_run(f.program, &f.machine.measurer, &f.options, qn_test_allocator(), &none, &f.diag));
  qn_session_report_deinit(&none);
  teardown(&f);
}
END_TEST

// What another session found is there when a model is compiled.
START_TEST(plans_come_from_records) {
  fixture f;
  setup(&f, "plans.db");
  run(&f);
  qn_buf evidence;
  qn_buf_init(&evidence, qn_test_allocator());
  qn_plan_chooser chooser = {.db = f.db,
                             .key = f.options.key,
                             .machine = &f.model,
                             .max_values = f.program->max_values,
                             .arena = &f.arena,
                             .evidence = &evidence,
                             .diag = &f.diag};
  int matched = 0;
  const qn_kernel_plan none = {.count = 3, .variants = {{.rows_max = 1}, {.rows_max = INT64_MAX}}};
  qn_assert_ok(&f.diag, qn_plan_put_crossovers(f.db, &f.options.key, qn_fake_matmul(f.program), &none, &f.diag));
  for (size_t i = 0; i < f.report.count; i++) {
    const qn_session_result *r = &f.report.results[i];
    qn_kernel_plan plan;
    if (!r->measured || !qn_plan_choose(&chooser, r->kernel, &plan)) continue;
    for (int v = 0; v < plan.count; v++)
      if (plan.variants[v].rows_min == r->rows_min) matched += qn_schedule_equal(&plan.variants[v].schedule, &r->tuned);
  }
  ck_assert_int_ge(matched, 5);
  ck_assert_int_eq(chooser.counts.rejected, 0);
  ck_assert_ptr_nonnull(strstr(qn_buf_text(&evidence), "us at 256 rows"));
  // Of another build: not without a check.
  chooser.key.generator = "another-build";
  chooser.counts = (qn_plan_counts){0};
  qn_kernel_plan plan;
  ck_assert(!qn_plan_choose(&chooser, qn_fake_matmul(f.program), &plan));
  ck_assert_int_gt(chooser.counts.rejected, 0);
  ck_assert_ptr_nonnull(strstr(chooser.counts.first_reason, "another build of quern found it"));
  chooser.take_foreign = true;
  chooser.counts = (qn_plan_counts){0};
  ck_assert(qn_plan_choose(&chooser, qn_fake_matmul(f.program), &plan));
  ck_assert_int_eq(chooser.counts.foreign, chooser.counts.accepted);
  ck_assert_uint_eq(chooser.foreign.count, (size_t)chooser.counts.accepted);
  chooser.foreign.items[0].denied = true;
  chooser.foreign.items[0].reason = "its code is wrong";
  chooser.counts = (qn_plan_counts){0};
  ck_assert(qn_plan_choose(&chooser, qn_fake_matmul(f.program), &plan));
  ck_assert_int_eq(chooser.counts.rejected, 1);
  ck_assert_ptr_nonnull(strstr(chooser.counts.first_reason, "its code is wrong"));
  // Of another machine: never.
  chooser.key.fingerprint = "another machine";
  chooser.counts = (qn_plan_counts){0};
  ck_assert(!qn_plan_choose(&chooser, qn_fake_matmul(f.program), &plan));
  ck_assert_int_eq(chooser.counts.rejected, 0);
  qn_buf_deinit(&evidence);
  teardown(&f);
}
END_TEST

typedef struct copying {
  const qn_session_result *of;
  const char *schedule;
  qn_arena *arena;
  qn_record record;
} copying;

static bool copy_record(void *context, const qn_record *record, const char *rejected) {
  copying *c = context;
  if (rejected || strcmp(record->schedule, c->schedule) != 0) return true;
  c->record = *record;
  c->record.signature = qn_arena_strdup(c->arena, record->signature);
  c->record.schedule = c->schedule;
  return false;
}

// Says of a result's tuned schedule that its code was found to be wrong later.
static void put_wrong(fixture *f, const qn_session_result *r) {
  qn_buf line;
  qn_buf_init(&line, qn_test_allocator());
  qn_schedule_put_line(&r->tuned, &line);
  copying c = {.of = r, .schedule = qn_buf_text(&line), .arena = &f->arena};
  qn_db_filter filter = {.signature = r->kernel->signature, .rows_min = r->rows_min, .rows_max = r->rows_max};
  qn_assert_ok(&f->diag, qn_db_each(f->db, &filter, copy_record, &c, &f->diag));
  ck_assert_ptr_nonnull(c.record.signature);
  qn_record bad = {.signature = c.record.signature,
                   .target = f->options.key.target,
                   .fingerprint = f->options.key.fingerprint,
                   .generator = f->options.key.generator,
                   .threads = f->options.key.threads,
                   .rows_min = r->rows_min,
                   .rows_max = r->rows_max,
                   .rows = r->rows,
                   .schedule = c.schedule,
                   .verdict = QN_VERDICT_WRONG,
                   .evidence = "one bit in a million"};
  qn_assert_ok(&f->diag, qn_db_put(f->db, &bad, &f->diag));
  qn_buf_deinit(&line);
}

// A winner that a later check finds to be wrong is no winner any more: not for a compilation, nor for the next session,
// whatever faster and earlier records of the same schedule say.
START_TEST(bad_verdicts_win) {
  fixture f;
  setup(&f, "later.db");
  run(&f);
  const qn_session_result *r = NULL;
  for (size_t i = 0; i < f.report.count && !r; i++)
    if (f.report.results[i].pairs > 0) r = &f.report.results[i];
  ck_assert_ptr_nonnull(r);
  qn_schedule tuned = r->tuned;
  size_t at = (size_t)(r - f.report.results);
  put_wrong(&f, r);
  qn_plan_chooser chooser = {.db = f.db,
                             .key = f.options.key,
                             .machine = &f.model,
                             .max_values = f.program->max_values,
                             .arena = &f.arena,
                             .diag = &f.diag};
  qn_kernel_plan plan;
  if (qn_plan_choose(&chooser, r->kernel, &plan))
    for (int v = 0; v < plan.count; v++)
      if (plan.variants[v].rows_min == r->rows_min) ck_assert(!qn_schedule_equal(&plan.variants[v].schedule, &tuned));
  ck_assert_int_eq(chooser.counts.rejected, 1);
  ck_assert_ptr_nonnull(strstr(chooser.counts.first_reason, "it was found to be bad: one bit in a million"));
  run(&f);
  r = &f.report.results[at];
  ck_assert(!qn_schedule_equal(&r->tuned, &tuned));
  ck_assert_int_eq(r->verdicts[QN_VERDICT_WRONG], 1);
  ck_assert_int_eq(f.report.rejected, 1);
  ck_assert_ptr_nonnull(strstr(f.report.first_reason, "the winner: it was found to be bad"));
  teardown(&f);
}
END_TEST

// Up to CROSS rows short tiles are the faster ones, beyond it long ones: the default plan has it elsewhere.
enum { CROSS = 12 };

static double crossing(const qn_fake_machine *m, const qn_schedule *s) {
  double rows = (double)m->task.rows;
  return 1e-3 * (s->m_tiles[0] <= 2 ? 0.1 * rows : 0.1 * CROSS + 0.05 + 0.02 * (rows - CROSS));
}

static double even(const qn_fake_machine *m, const qn_schedule *s) {
  (void)s;
  return 1e-4 * (double)m->task.rows;
}

// What an earlier session found for one class: it came to its end with these tiles.
static qn_schedule put_found(fixture *f, const qn_pkernel *kernel, const qn_kernel_plan *plan, int v, int tile) {
  static const double times[] = {1e-3, 1e-3, 1e-3};
  qn_tuning_key *key = &f->options.key;
  int64_t least = plan->variants[v].rows_min, most = plan->variants[v].rows_max;
  qn_schedule schedule = plan->variants[v].schedule;
  schedule.m_tiles[0] = tile;
  schedule.m_tiles[1] = 1;
  schedule.m_tile_count = tile > 1 ? 2 : 1;
  qn_buf line;
  qn_buf_init(&line, qn_test_allocator());
  qn_schedule_put_line(&schedule, &line);
  static const char newer[] = "; prefetch_far = 0";  // a knob that records of before do not have
  char *at = strstr(line.data, newer);
  qn_check(at != NULL, "got '%s'", line.data);
  memset(at, ' ', strlen(newer));
  qn_record record = {.signature = kernel->signature,
                      .target = key->target,
                      .fingerprint = key->fingerprint,
                      .generator = key->generator,
                      .threads = key->threads,
                      .rows_min = least,
                      .rows_max = most,
                      .rows = most == INT64_MAX ? 256 : most,
                      .schedule = qn_buf_text(&line),
                      .median_s = 1e-3,
                      .samples = 3,
                      .times = times,
                      .time_count = 3};
  qn_plan_end end = {.reason = "no improvement expected", .within = 0.05, .gain = 1.1, .pairs = 10};
  qn_assert_ok(&f->diag, qn_db_put(f->db, &record, &f->diag));
  qn_assert_ok(&f->diag, qn_plan_put_winner(f->db, key, kernel, least, most, &schedule, &end, &f->diag));
  qn_buf_deinit(&line);
  return schedule;
}

// A winner that was checked when another build's record was taken, and never timed against the default: the session does
// so before it goes on.
START_TEST(winners_of_others_are_confirmed) {
  fixture f;
  setup(&f, "unconfirmed.db");
  f.machine.cost = crossing;
  const qn_pkernel *kernel = qn_fake_matmul(f.program);
  qn_kernel_plan standard = qn_schedule_default(kernel, f.program->max_values[QN_SYM_T], &f.model);
  qn_plan_end end = {.reason = "found by another build, and checked"};
  for (int v = 1; v < standard.count; v++) {
    qn_schedule found = put_found(&f, kernel, &standard, v, v == standard.count - 1 ? 8 : 2);
    end.when = time(NULL) + 10;  // later than what put_found says
    qn_assert_ok(&f.diag, qn_plan_put_winner(f.db, &f.options.key, kernel, standard.variants[v].rows_min,
                                             standard.variants[v].rows_max, &found, &end, &f.diag));
  }
  f.options.pattern = kernel->name;
  run(&f);
  for (size_t i = 0; i < f.report.count; i++) {
    const qn_session_result *r = &f.report.results[i];
    qn_check(r->pairs > 0 || qn_schedule_equal(&r->tuned, &r->start), "a winner that nobody timed");
  }
  teardown(&f);
}
END_TEST

// A session over a kernel whose searches have ended, which has only its crossovers to find. The boundary's rows.
static int64_t find_boundary(fixture *f) {
  const qn_pkernel *kernel = qn_fake_matmul(f->program);
  qn_kernel_plan plan, standard = qn_schedule_default(kernel, f->program->max_values[QN_SYM_T], &f->model);
  int last = standard.count - 1;
  ck_assert_int_eq(last, 4);
  for (int v = 0; v <= last; v++) (void)put_found(f, kernel, &standard, v, v == last ? 8 : v > 0 ? 2 : 1);
  f->options.pattern = kernel->name;
  run(f);
  ck_assert_int_eq(f->report.tried, 0);
  qn_buf evidence;
  qn_buf_init(&evidence, qn_test_allocator());
  qn_plan_chooser chooser = {.db = f->db,
                             .key = f->options.key,
                             .machine = &f->model,
                             .max_values = f->program->max_values,
                             .arena = &f->arena,
                             .evidence = &evidence,
                             .diag = &f->diag};
  ck_assert(qn_plan_choose(&chooser, kernel, &plan));
  ck_assert_ptr_nonnull(strstr(qn_buf_text(&evidence), "# evidence of "));
  qn_buf_deinit(&evidence);
  ck_assert_int_eq(plan.count, standard.count);
  // Below the last boundary all of a few rows have the same schedule: nothing speaks for moving anything there.
  for (int v = 0; v < last - 1; v++) ck_assert_int_eq(plan.variants[v].rows_max, standard.variants[v].rows_max);
  ck_assert_int_eq(plan.variants[last].rows_min, plan.variants[last - 1].rows_max + 1);
  double clock = f->machine.clock;
  run(f);  // it is not asked again
  ck_assert_double_eq(f->machine.clock, clock);
  return plan.variants[last - 1].rows_max;
}

START_TEST(crossovers_are_found_through_noise) {
  static const double noises[] = {0, 0.02, 0.05};
  for (int round = 0; round < 12; round++) {
    char name[32];
    fixture f;
    snprintf(name, sizeof name, "crossing%d.db", round);
    setup(&f, name);
    qn_fake_machine_init(&f.machine, &f.model, 11 + (uint64_t)round, noises[round % 3]);
    f.machine.cost = crossing;
    int64_t rows = find_boundary(&f);
    // Beside the crossing itself the two differ too little to be told apart.
    qn_check(rows == CROSS || (round % 3 > 0 && rows >= 10 && rows <= CROSS), "round %d: to %d rows", round, (int)rows);
    ck_assert_int_eq(f.report.crossovers, 0);  // of the second session
    teardown(&f);
  }
}
END_TEST

// Where both are as fast as each other there is no reason to move anything, noise or not.
START_TEST(crossovers_stay_where_nothing_speaks_against_them) {
  for (int round = 0; round < 12; round++) {
    char name[32];
    fixture f;
    snprintf(name, sizeof name, "even%d.db", round);
    setup(&f, name);
    qn_fake_machine_init(&f.machine, &f.model, 11 + (uint64_t)round, round % 2 ? 0.05 : 0.2);
    f.machine.cost = even;
    int64_t rows = find_boundary(&f);
    qn_check(rows == 8, "round %d: to %d rows", round, (int)rows);
    teardown(&f);
  }
}
END_TEST

// Decoding is best done by two of eight threads, prompts by four or more, waiting threads had better spin longer, and
// smaller pieces are better for both.
static double two_for_decoding(const qn_fake_machine *m, qn_setting setting) {
  int threads = setting.threads > 0 ? setting.threads : m->task.threads, enough = m->task.rows == 1 ? 2 : 4;
  double slow = threads < enough ? (double)enough / threads : 1;
  return slow * (setting.spin_us == 200 ? 0.95 : 1) * (setting.grain == 8 ? 0.95 : 1);
}

START_TEST(settings_are_found_through_noise) {
  static const double noises[] = {0, 0.05, 0.1};
  for (size_t round = 0; round < QN_COUNT(noises); round++) {
    char name[32];
    fixture f;
    snprintf(name, sizeof name, "settings%d.db", (int)round);
    setup(&f, name);
    f.machine.noise = noises[round];
    f.machine.factor = two_for_decoding;
    f.options.key.threads = 8;
    f.options.budget_s = 60;
    run(&f);
    ck_assert(f.report.has_settings);
    qn_machine_knobs knobs = f.report.settings;
    if (getenv("QUERN_TEST_SHOW"))
      printf("noise %.2f: %d and %d threads, %d us, grain %d\n", noises[round], knobs.threads_decode,
             knobs.threads_prefill, knobs.spin_us, knobs.grain);
    ck_assert_double_le(f.report.seconds, 60);
    // With noise it may keep more threads than it must, never fewer.
    qn_check(knobs.threads_decode == 2 || (round > 0 && knobs.threads_decode > 2), "%d threads", knobs.threads_decode);
    qn_check(knobs.threads_prefill == 4 || (round > 0 && knobs.threads_prefill > 4), "%d", knobs.threads_prefill);
    qn_check(knobs.spin_us == 200 || (round > 1 && knobs.spin_us == 40), "%d us", knobs.spin_us);
    qn_check(knobs.grain == 8 || (round > 1 && knobs.grain == 2), "grain %d", knobs.grain);
    f.options.budget_s = 0;  // kept for the next
    run(&f);
    ck_assert(f.report.has_settings);
    ck_assert_int_eq(f.report.settings.threads_decode, knobs.threads_decode);
    ck_assert_int_eq(f.report.settings.spin_us, knobs.spin_us);
    ck_assert_int_eq(f.report.settings.grain, knobs.grain);
    f.options.key.threads = 4;  // but not for another number of threads
    run(&f);
    ck_assert(!f.report.has_settings);
    teardown(&f);
  }
}
END_TEST

// A record of another machine is tried early and timed here like any other.
START_TEST(other_machines_are_seeds) {
  fixture f;
  setup(&f, "seeds.db");
  run(&f);
  f.options.key.fingerprint = "another machine";
  f.options.budget_s = 8;
  run(&f);
  ck_assert_int_eq(f.report.known, 0);
  ck_assert_int_gt(f.report.tried, 0);
  int near = 0;
  for (size_t i = 0; i < f.report.count; i++) {
    const qn_session_result *r = &f.report.results[i];
    if (r->pairs > 0) near += distance_of(&f, r, &r->tuned) < 1.1;
  }
  ck_assert_int_ge(near, 3);  // in a hundredth of the time
  teardown(&f);
}
END_TEST

QN_CASE(sessions, tunes_what_matters, second_session_has_nothing_to_do, what_a_session_learned_the_next_one_knows,
        interrupted_session_goes_on, budgets_hold, no_next_batch_is_chosen_when_time_is_over, near_the_roofline_it_stops,
        the_times_that_ended_a_search_are_kept, marks_hold_for_the_roofline_of_now, kernels_by_pattern)
QN_CASE(candidates, bad_candidates_are_recorded_and_never_win, a_wrong_default_is_told, a_wrong_default_is_told_whoever_leads,
        a_kernel_that_cannot_be_tried_is_told, hanging_candidates_do_not_overrun, too_large_a_kernel_is_left_alone)
QN_CASE(records, plans_come_from_records, other_machines_are_seeds, bad_verdicts_win,
        winners_of_others_are_confirmed)
QN_CASE(crossovers, crossovers_are_found_through_noise, crossovers_stay_where_nothing_speaks_against_them,
        settings_are_found_through_noise)
QN_TEST_MAIN(sessions, candidates, records, crossovers)
