// What a compilation makes of records: those of this build are taken, those of another are checked by their code first,
// and whatever is wrong with a database or a record is told and does no harm.
#include "frontend/tuned.h"

#include <stdio.h>
#include <stdlib.h>

#include "autotune/profile.h"
#include "frontend/compilation.h"
#include "runtime/topology.h"
#include "tests/support/test.h"

// A model on its way, with a database beside it.
typedef struct fixture {
  quern_compile_options options;
  quern_compilation c;
  quern_part *part;  // of it, for CPUs
  qn_buf fingerprint;
  const char *db_path;
  qn_kernel_plan standard;   // of the first matmul
  const qn_pkernel *kernel;  // that
  qn_diag diag;
} fixture;

static void setup(fixture *f, const char *db_name) {
  *f = (fixture){.db_path = qn_test_temp_path(db_name)};
  f->options = (quern_compile_options){.size = sizeof f->options, .tuning_db = f->db_path};
  quern_compilation_init(&f->c, &f->options, &f->diag);
  qn_assert_ok(&f->diag, quern_compilation_open(&f->c, qn_test_source("models/nano/nano.gguf")));
  f->part = &f->c.parts[0];
  qn_assert_ok(&f->diag, qn_run_passes_until(&f->part->pass, "plan_memory"));
  for (size_t i = 0; i < f->part->pass.program->kernels.count && !f->kernel; i++)
    if (f->part->pass.program->kernels.items[i].is_matmul) f->kernel = &f->part->pass.program->kernels.items[i];
  f->standard = qn_schedule_default(f->kernel, 256, &f->part->options.machine);
  qn_buf_init(&f->fingerprint, qn_test_allocator());
  qn_machine_fingerprint(qn_topology_get()->default_threads, &f->fingerprint);
}

static void teardown(fixture *f) {
  quern_compilation_deinit(&f->c);
  qn_buf_deinit(&f->fingerprint);
}

// A mark for one token with another schedule than the default, as a session of that build with so many threads would
// leave it.
static qn_schedule put_mark_of(fixture *f, const char *generator, int threads, const char *plan) {
  qn_db *db = NULL;
  qn_schedule other = f->standard.variants[0].schedule;
  other.prefetch_bytes = other.prefetch_bytes == 1024 ? 2048 : 1024;
  f->fingerprint.length = 0;
  qn_machine_fingerprint(threads, &f->fingerprint);
  qn_tuning_key key = {f->c.targets[0].name, qn_buf_text(&f->fingerprint), generator, threads};
  qn_assert_ok(&f->diag, qn_db_open(f->db_path, false, qn_test_allocator(), &db, &f->diag));
  if (plan) {
    qn_finished mark = {.signature = f->kernel->signature,
                        .target = key.target,
                        .fingerprint = key.fingerprint,
                        .generator = generator,
                        .threads = key.threads,
                        .rows_min = f->standard.variants[0].rows_min,
                        .rows_max = f->standard.variants[0].rows_max,
                        .plan = plan,
                        .reason = "test"};
    qn_assert_ok(&f->diag, qn_db_set_finished(db, &mark, &f->diag));
  } else {
    const qn_plan_end end = {.reason = "test", .within = 0.05};
    qn_assert_ok(&f->diag, qn_plan_put_winner(db, &key, f->kernel, f->standard.variants[0].rows_min,
                                              f->standard.variants[0].rows_max, &other, &end, &f->diag));
  }
  qn_db_close(db);
  return other;
}

static qn_schedule put_mark(fixture *f, const char *generator, const char *plan) {
  return put_mark_of(f, generator, qn_topology_get()->default_threads, plan);
}

static quern_tuning_use compile(const fixture *f) {
  quern_tuning_use use = {.size = sizeof use};
  quern_error error = {0};
  quern_compile_options options = f->options;
  options.tuning_use = &use;
  const char *out = qn_test_temp_path("out.qn");
  int code = quern_compile(qn_test_source("models/nano/nano.gguf"), out, &options, &error);
  ck_assert_msg(code == 0, "%s", error.text);
  return use;
}

START_TEST(own_records_are_taken) {
  fixture f;
  setup(&f, "own.db");
  quern_tuning_use use = compile(&f);
  ck_assert_int_eq(use.accepted + use.rejected, 0);
  ck_assert_int_gt(use.missing, 0);
  ck_assert_str_eq(use.problem, "");
  put_mark(&f, qn_generator_id, NULL);
  const char *why = NULL;
  ck_assert(!quern_cache_is_current(qn_test_temp_path("out.qn"), &f.options, &why));
  ck_assert_str_eq(why, "tuning has found other schedules");
  use = compile(&f);
  ck_assert_int_eq(use.accepted, 1);
  ck_assert_int_eq(use.verified + use.rejected, 0);
  ck_assert(quern_cache_is_current(qn_test_temp_path("out.qn"), &f.options, &why));
  ck_assert_ptr_null(why);
  teardown(&f);
}
END_TEST

// What is compiled into an artifact of the cache, and found to be bad since.
START_TEST(winners_found_to_be_bad_make_artifacts_stale) {
  fixture f;
  setup(&f, "bad.db");
  qn_schedule other = put_mark(&f, qn_generator_id, NULL);
  quern_tuning_use use = compile(&f);
  ck_assert_int_eq(use.accepted, 1);
  ck_assert(quern_cache_is_current(qn_test_temp_path("out.qn"), &f.options, NULL));
  qn_db *db = NULL;
  qn_buf line;
  qn_buf_init(&line, qn_test_allocator());
  qn_schedule_put_line(&other, &line);
  qn_record bad = {.signature = f.kernel->signature,
                   .target = f.c.targets[0].name,
                   .fingerprint = qn_buf_text(&f.fingerprint),
                   .generator = qn_generator_id,
                   .threads = qn_topology_get()->default_threads,
                   .rows_min = f.standard.variants[0].rows_min,
                   .rows_max = f.standard.variants[0].rows_max,
                   .schedule = qn_buf_text(&line),
                   .verdict = QN_VERDICT_HUNG};
  qn_assert_ok(&f.diag, qn_db_open(f.db_path, false, qn_test_allocator(), &db, &f.diag));
  qn_assert_ok(&f.diag, qn_db_put(db, &bad, &f.diag));
  const char *why = NULL;
  ck_assert(!quern_cache_is_current(qn_test_temp_path("out.qn"), &f.options, &why));
  ck_assert_str_eq(why, "tuning has found other schedules");
  use = compile(&f);
  ck_assert_int_eq(use.accepted, 0);
  ck_assert_int_eq(use.rejected, 1);
  ck_assert(quern_cache_is_current(qn_test_temp_path("out.qn"), &f.options, NULL));
  bad.schedule = "m_tiles = 1";  // which is nobody's winner
  bad.when = 1;
  qn_assert_ok(&f.diag, qn_db_put(db, &bad, &f.diag));
  ck_assert(quern_cache_is_current(qn_test_temp_path("out.qn"), &f.options, NULL));
  qn_db_close(db);
  qn_buf_deinit(&line);
  teardown(&f);
}
END_TEST

// Settings for the model, as a session with so many threads would leave them.
static void put_settings(fixture *f, int threads, const char *plan, int64_t when) {
  const qn_program *program = f->part->pass.program;
  const char *signatures[256];
  qn_db *db = NULL;
  qn_buf signature;
  ck_assert_uint_le(program->kernels.count, QN_COUNT(signatures));
  for (size_t i = 0; i < program->kernels.count; i++) signatures[i] = program->kernels.items[i].signature;
  qn_buf_init(&signature, qn_test_allocator());
  qn_program_signature("settings", signatures, program->kernels.count, &signature);
  f->fingerprint.length = 0;
  qn_machine_fingerprint(threads, &f->fingerprint);
  qn_finished mark = {.signature = qn_buf_text(&signature),
                      .target = f->c.targets[0].name,
                      .fingerprint = qn_buf_text(&f->fingerprint),
                      .generator = qn_generator_id,
                      .threads = threads,
                      .plan = plan,
                      .reason = "settings",
                      .when = when};
  qn_assert_ok(&f->diag, qn_db_open(f->db_path, false, qn_test_allocator(), &db, &f->diag));
  qn_assert_ok(&f->diag, qn_db_set_finished(db, &mark, &f->diag));
  qn_db_close(db);
  qn_buf_deinit(&signature);
}

START_TEST(settings_are_for_threads) {
  static const char *const impossible[] = {
      "threads_prefill = 4096; threads_decode = 1; spin_us = 10",
      "threads_prefill = 1; threads_decode = 2; spin_us = 10",
      "threads_prefill = 1; threads_decode = 0; spin_us = 10",
      "threads_prefill = 1; threads_decode = 1; spin_us = soon",
      "threads_prefill = 1; threads_decode = 1; spin_us = 10; grain = 0",
  };
  fixture f;
  quern_model *model = NULL;
  quern_machine_settings settings = {.spin_us = 7};
  bool found = true;
  const int usual = qn_topology_get()->default_threads, other = usual + 1;
  setup(&f, "settings.db");
  (void)compile(&f);
  ck_assert_int_eq(quern_model_open(qn_test_temp_path("out.qn"), NULL, &model, NULL), 0);
  put_settings(&f, other, "threads_prefill = 1; threads_decode = 1; spin_us = 200; grain = 8", 1);
  ck_assert_int_eq(quern_model_get_settings(model, f.db_path, 0, &settings, &found, NULL), 0);
  ck_assert(!found);
  ck_assert_int_eq(settings.spin_us, 7);
  ck_assert_int_eq(quern_model_get_settings(model, f.db_path, other, &settings, &found, NULL), 0);
  ck_assert(found);
  ck_assert_int_eq(settings.spin_us, 200);
  ck_assert_int_eq(settings.grain, 8);
  ck_assert_int_eq(settings.threads_decode, 1);
  for (size_t i = 0; i < QN_COUNT(impossible); i++) {
    put_settings(&f, other, impossible[i], 2 + (int64_t)i);
    ck_assert_int_eq(quern_model_get_settings(model, f.db_path, other, &settings, &found, NULL), 0);
    ck_assert(!found);
  }
  quern_model_close(model);
  teardown(&f);
}
END_TEST

START_TEST(records_of_another_build_are_checked_once) {
  fixture f;
  setup(&f, "another.db");
  put_mark(&f, "another build", NULL);
  quern_tuning_use use = compile(&f);
  ck_assert_int_eq(use.accepted, 1);
  ck_assert_int_eq(use.verified, 1);
  use = compile(&f);  // by now it is this build's
  ck_assert_int_eq(use.accepted, 1);
  ck_assert_int_eq(use.verified, 0);
  teardown(&f);
}
END_TEST

// Records are for a number of threads: those that a model is compiled for, else it is told for which there are.
START_TEST(records_are_for_threads) {
  fixture f;
  const int usual = qn_topology_get()->default_threads, other = usual + 1;
  setup(&f, "threads.db");
  ck_assert_int_eq(quern_tuned_threads(f.db_path, other), 0);
  put_mark_of(&f, qn_generator_id, other, NULL);
  quern_tuning_use use = compile(&f);
  ck_assert_int_eq(use.accepted + use.rejected, 0);
  ck_assert_int_eq(use.threads, usual);
  ck_assert_int_eq(use.other_threads, other);
  f.options.run_threads = other;
  use = compile(&f);
  ck_assert_int_eq(use.accepted, 1);
  ck_assert_int_eq(use.threads, other);
  ck_assert_int_eq(use.other_threads, 0);
  ck_assert(quern_cache_is_current(qn_test_temp_path("out.qn"), &f.options, NULL));
  // Runs with so many have an artifact of their own in the cache, others share theirs.
  ck_assert_int_eq(quern_tuned_threads(f.db_path, other), other);
  ck_assert_int_eq(quern_tuned_threads(f.db_path, other + 1), 0);
  ck_assert_int_eq(quern_tuned_threads(f.db_path, usual), 0);
  ck_assert_int_eq(quern_tuned_threads("none", other), 0);
  quern_error error = {0};
  f.options.run_threads = -1;
  ck_assert_int_eq(quern_compile(qn_test_source("models/nano/nano.gguf"), qn_test_temp_path("x.qn"), &f.options, &error),
                   QN_ERR_ARGUMENT);
  ck_assert_ptr_nonnull(strstr(error.text, "run-threads: got -1, want 0 or more"));
  teardown(&f);
}
END_TEST

static void does_nothing(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  (void)buffers, (void)symbols, (void)begin, (void)end;
}

// Chooses schedules by what the database says now.
static const qn_plan_counts *choose(fixture *f) {
  quern_tuned_deinit(&f->c.tuned);  // which has read the database before the mark was there
  quern_tuned_init(&f->c.tuned, &f->c.arena);
  quern_tuned_open(&f->c.tuned, f->db_path, 0);
  quern_compilation_take_target(&f->c, 0);
  qn_assert_ok(&f->diag, qn_run_pass(&f->part->pass, "schedule"));
  return &f->c.tuned.chooser.counts;
}

START_TEST(wrong_code_is_given_up) {
  fixture f;
  setup(&f, "wrong.db");
  qn_schedule other = put_mark(&f, "another build", NULL);
  (void)choose(&f);
  ck_assert(qn_schedule_equal(&f.kernel->variants[0].schedule, &other));
  qn_program_plan plan;
  qn_kernel_entry entries[256];
  bool again = false;
  qn_assert_ok(&f.diag, qn_program_plan_take(f.part->pass.program, &plan, &f.diag));
  ck_assert_uint_le(plan.function_count, QN_COUNT(entries));
  for (size_t i = 0; i < plan.function_count; i++) entries[i] = does_nothing;
  qn_assert_ok(&f.diag,
               quern_tuned_recheck(&f.c.tuned, &f.c.targets[0], f.part->pass.program, &plan, entries, &again, &f.diag));
  ck_assert(again);
  f.c.tuned.chooser.counts = (qn_plan_counts){0};
  quern_compilation_take_target(&f.c, 0);
  qn_assert_ok(&f.diag, qn_run_pass(&f.part->pass, "schedule"));
  ck_assert(!qn_schedule_equal(&f.kernel->variants[0].schedule, &other));
  ck_assert_int_eq(f.c.tuned.chooser.counts.rejected, 1);
  ck_assert_ptr_nonnull(strstr(f.c.tuned.chooser.counts.first_reason,
                               "another build of quern found it; its code now computes other bits"));
  teardown(&f);
}
END_TEST

// Fails for one function, whose name is the context.
static qn_status make_all_but(void *context, const qn_lkernel *const *functions, size_t count, qn_diag *diag) {
  for (size_t i = 0; i < count; i++)
    if (strcmp(functions[i]->name, context) == 0) return qn_fail(diag, QN_ERR_UNSUPPORTED, "planted", "no such code");
  return QN_OK;
}

// Where code cannot be made, the records of another build that are to blame are given up, with the reason; where they
// are not, nothing is.
START_TEST(code_that_cannot_be_made_is_given_up) {
  fixture f;
  setup(&f, "unmade.db");
  qn_schedule other = put_mark(&f, "another build", NULL);
  (void)choose(&f);
  qn_program_plan plan;
  quern_tuned *t = &f.c.tuned;
  char name[128];
  snprintf(name, sizeof name, "%s", f.kernel->variants[0].kernel->name);
  quern_tuned_maker maker = {name, make_all_but}, fine = {"nobody", make_all_but};
  qn_assert_ok(&f.diag, qn_program_plan_take(f.c.parts[0].pass.program, &plan, &f.diag));
  const qn_target *target = &f.c.targets[0];
  ck_assert(!quern_tuned_deny_failing(t, target, f.c.parts[0].pass.program, &plan, QN_ERR_UNSUPPORTED, &fine));
  ck_assert(!quern_tuned_deny_failing(t, target, f.c.parts[0].pass.program, &plan, QN_ERR_NOMEM, &maker));
  ck_assert(quern_tuned_deny_failing(t, target, f.c.parts[0].pass.program, &plan, QN_ERR_UNSUPPORTED, &maker));
  ck_assert(!quern_tuned_deny_failing(t, target, f.c.parts[0].pass.program, &plan, QN_ERR_UNSUPPORTED, &maker));
  t->chooser.counts = (qn_plan_counts){0};
  quern_compilation_take_target(&f.c, 0);
  qn_assert_ok(&f.diag, qn_run_pass(&f.c.parts[0].pass, "schedule"));
  ck_assert(!qn_schedule_equal(&f.kernel->variants[0].schedule, &other));
  ck_assert_int_eq(t->chooser.counts.rejected, 1);
  ck_assert_ptr_nonnull(strstr(t->chooser.counts.first_reason,
                               "another build of quern found it; its code does not compile now: planted: no such code"));
  teardown(&f);
}
END_TEST

START_TEST(records_that_do_not_fit_are_rejected) {
  static const struct {
    const char *plan, *reason;
  } cases[] = {
      {"n_tile = 7", "n_tile: it does not divide the number of panels"},
      {"n_tile = x", "n_tile: got 'x', want 1..64"},
      {"no_such_knob = 1", "got the knob 'no_such_knob'"},
  };
  for (size_t i = 0; i < QN_COUNT(cases); i++) {
    fixture f;
    char name[32];
    snprintf(name, sizeof name, "unfit%zu.db", i);
    setup(&f, name);
    put_mark(&f, qn_generator_id, cases[i].plan);
    const qn_plan_counts *counts = choose(&f);
    ck_assert_int_eq(counts->accepted, 0);
    ck_assert_int_eq(counts->rejected, 1);
    ck_assert_msg(strstr(counts->first_reason, cases[i].reason), "got '%s', want '%s'", counts->first_reason,
                  cases[i].reason);
    teardown(&f);
  }
}
END_TEST

START_TEST(a_bad_database_does_no_harm) {
  fixture f;
  setup(&f, "missing.db");
  const char *path = qn_test_temp_path("text.db");
  qn_test_write_file(path, "no database, but a text that is longer than a header of one", 59);
  f.options.tuning_db = path;
  quern_tuning_use use = compile(&f);
  ck_assert_int_eq(use.accepted + use.rejected, 0);
  ck_assert_ptr_nonnull(strstr(use.problem, "text.db"));
  f.options.tuning_db = "none";
  use = compile(&f);
  ck_assert_str_eq(use.problem, "");
  ck_assert_int_eq(use.missing, 0);
  teardown(&f);
}
END_TEST

// A default schedule that is wrong is a bug of ours, and told as one.
START_TEST(wrong_defaults_are_told) {
  quern_tune_result results[] = {{.kernel = "qk_fine", .end = "near enough"},
                                 {.kernel = "qk_bad",
                                  .rows_min = 9,
                                  .rows_max = INT64_MAX,
                                  .broken = true,
                                  .end = "the default schedule fails its check: output 0"}};
  quern_tune_report report = {.results = results, .count = 1};
  quern_error error = {0};
  ck_assert_int_eq(quern_tune_verdict(&report, &error), 0);
  report.count = 2;
  report.broken = 1;
  ck_assert_int_eq(quern_tune_verdict(&report, &error), QN_ERR_INTERNAL);
  ck_assert_msg(strstr(error.text,
                       "qk_bad: from 9 rows: the default schedule fails its check: output 0 (1 of the kernels is so); "
                       "this is a bug of quern, or this machine computes wrongly"),
                "%s", error.text);
  results[1].rows_max = 12;
  report.broken = 2;
  ck_assert_int_eq(quern_tune_verdict(&report, NULL), QN_ERR_INTERNAL);
  ck_assert_int_eq(quern_tune_verdict(&report, &error), QN_ERR_INTERNAL);
  ck_assert_msg(strstr(error.text, "for 9 to 12 rows: ") && strstr(error.text, "(2 of the kernels are so)"), "%s",
                error.text);
}
END_TEST

static bool refuse(void *context, const quern_tune_progress *progress) {
  const char **stage = context;
  if (!progress->stage || strcmp(progress->stage, *stage) != 0) return true;
  *stage = "refused";
  return false;
}

// A session can be ended before it begins: while the model is read, and while its kernels are made.
START_TEST(tuning_is_cancelled_while_it_opens) {
  static const char *const stages[] = {"reading the model", "optimising the graph", "lowering kernels"};
  for (size_t i = 0; i < QN_COUNT(stages); i++) {
    const char *stage = stages[i];
    quern_error error = {0};
    quern_tune_report report = {.size = sizeof report};
    quern_tune_options options = {
        .size = sizeof options, .tuning_db = "none", .budget_s = 5, .progress = refuse, .progress_context = &stage};
    ck_assert_int_eq(quern_tune(qn_test_source("models/nano/nano.gguf"), &options, &report, &error), QN_ERR_CANCELLED);
    ck_assert_str_eq(stage, "refused");
    ck_assert_ptr_null(report.results);
  }
}
END_TEST

QN_CASE(records, own_records_are_taken, records_of_another_build_are_checked_once, records_are_for_threads,
        winners_found_to_be_bad_make_artifacts_stale, settings_are_for_threads,
        wrong_code_is_given_up, code_that_cannot_be_made_is_given_up, records_that_do_not_fit_are_rejected,
        a_bad_database_does_no_harm, tuning_is_cancelled_while_it_opens, wrong_defaults_are_told)
QN_TEST_MAIN(records)
