// Tuning sessions on a machine that is none: what gets the time, what is kept, how they end and are taken up again.
#include "autotune/session.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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

START_TEST(tunes_what_matters) {
  fixture f;
  setup(&f, NULL);
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
    log_gain += r->share * log(start / tuned);
    qn_check(tuned <= start, "%s became slower", r->kernel->name);
    if (r->pairs > 0) ck_assert_double_eq_tol(r->gain, start / tuned, 0.03 * start / tuned);
    if (r->share > 0.03) qn_check(tuned < 1.2, "%s: %.3f of the best", r->kernel->name, tuned);
  }
  ck_assert_double_eq_tol(shares, 1, 1e-9);
  ck_assert_double_gt(exp(log_gain), 1.2);
  teardown(&f);
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
  ck_assert_double_le(f.report.seconds, 12.5);
  f.options.budget_s = 0;
  run(&f);
  ck_assert_int_eq(f.report.end, QN_SESSION_BUDGET);
  ck_assert_int_eq(f.report.tried, 0);
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

static bool long_tile(const qn_schedule *s) { return s->m_tiles[0] > 4; }
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
    if (r->tried > 0) ck_assert_str_eq(r->end, "the default schedule fails its check");
  }
  ck_assert_int_gt(f.report.verdicts[QN_VERDICT_WRONG], 0);
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

QN_CASE(sessions, tunes_what_matters, second_session_has_nothing_to_do, interrupted_session_goes_on, budgets_hold,
        near_the_roofline_it_stops, kernels_by_pattern)
QN_CASE(candidates, bad_candidates_are_recorded_and_never_win, a_wrong_default_is_told)
QN_CASE(records, plans_come_from_records, other_machines_are_seeds)
QN_TEST_MAIN(sessions, candidates, records)
