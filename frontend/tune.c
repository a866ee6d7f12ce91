// Tuning for the public API: a model up to its lowered program, then a session whose candidates are made by the code
// generator in a child process.
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "autotune/compare.h"
#include "autotune/profile.h"
#include "frontend/artifact_program.h"
#include "frontend/compilation.h"
#include "frontend/compile.h"
#include "frontend/machine.h"
#include "frontend/tune_bound.h"
#include "frontend/tune_code.h"
#include "runtime/base/options.h"
#include "runtime/cpu_features.h"
#include "runtime/signature.h"
#include "runtime/topology.h"

// What a session works on and with.
typedef struct tuning {
  const quern_tune_options *options;
  quern_compile_options compile;
  quern_compilation compilation;
  qn_artifact artifact;
  bool has_artifact;  // rather than a compilation
  qn_target artifact_target;
  char untuned[sizeof((quern_tune_report *)0)->untuned];
  const qn_program *program;  // of the compilation, or read from the artifact
  const qn_target *target;
  qn_machine_model machine;
  quern_machine_profile profile;  // count 0: not measured
  quern_roofline roofline;
  qn_buf fingerprint;
  qn_db *db;              // owned
  quern_tune_code *code;  // owned
  qn_worker *worker;      // owned
  qn_session_progress latest;
  int threads;
  double begin_s;
  qn_diag *diag;
} tuning;

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// --- progress

static bool tell(tuning *t) {
  const qn_session_progress *p = &t->latest;
  quern_tune_progress told = {NULL,       p->kernel,  p->rows_min, p->rows_max, p->task,    p->tasks, p->tried,
                              p->best_s, p->bound_s, p->gain,     p->share,    p->spent_s, p->left_s};
  return !t->options->progress || !p->kernel || t->options->progress(t->options->progress_context, &told);
}

// What comes before the session: a quern_progress_fn.
static bool tell_stage(void *context, const char *stage, uint64_t done, uint64_t total) {
  const tuning *t = context;
  const quern_tune_progress told = {.stage = stage};
  (void)done, (void)total;
  return !t->options->progress || t->options->progress(t->options->progress_context, &told);
}

static qn_status report_stage(tuning *t, const char *stage) {
  if (tell_stage(t, stage, 0, 0)) return QN_OK;
  return qn_fail(t->diag, QN_ERR_CANCELLED, "tune", "cancelled by the caller");
}

static bool progress(void *context, const qn_session_progress *now) {
  tuning *t = context;
  t->latest = *now;
  return tell(t);
}

// Asked by the worker while a child compiles or times.
static bool cancelled(void *context) { return !tell(context); }

// --- opening

static qn_status open_model(tuning *t, const char *path) {
  quern_compilation *c = &t->compilation;
  if (t->options->signed_by)
    return qn_fail(t->diag, QN_ERR_ARGUMENT, "signed_by", "is for artifacts, got the model file %s", path);
  QN_TRY(quern_compilation_open(c, path));
  QN_TRY(quern_compilation_need_cpus(c, "kernels are tuned"));
  QN_TRY(report_stage(t, "lowering kernels"));
  QN_TRY(qn_run_passes_until(&c->parts[0].pass, "plan_memory"));
  t->program = c->parts[0].pass.program;
  t->target = &c->targets[0];
  if (c->target_count == 1) return QN_OK;
  return qn_fail(t->diag, QN_ERR_ARGUMENT, "target", "got %zu of them, want the one to tune for", c->target_count);
}

// The code that would run here of those the artifact has, or of the target asked for.
static qn_status open_artifact(tuning *t, const char *path) {
  const char *asked = t->compile.target && strcmp(t->compile.target, "host") != 0 ? t->compile.target : NULL;
  const qn_art_code *code = NULL;
  qn_program *program = NULL;
  QN_TRY(report_stage(t, "reading the artifact"));
  QN_TRY(qn_artifact_open(&t->artifact, path, t->diag));
  t->has_artifact = true;
  QN_TRY(qn_signature_demand(&t->artifact, t->options->signed_by, t->compilation.allocator, t->diag));
  quern_artifact_gpus(&t->artifact, t->untuned, sizeof t->untuned);
  QN_TRY(qn_executor_choose_code(&t->artifact, asked, &code, t->diag));
  QN_TRY(qn_target_parse(code->target, &t->artifact_target, t->diag));
  QN_TRY(quern_artifact_program(&t->artifact, &t->compilation.arena, &program, t->diag));
  t->program = program;
  t->target = &t->artifact_target;
  return QN_OK;
}

static qn_status check_target(const tuning *t) {
  char missing[256];
  if (!qn_cpu_missing(t->target->required, missing, sizeof missing)) return QN_OK;
  return qn_fail(t->diag, QN_ERR_TARGET, t->target->name,
                 "this machine lacks %s, so its code cannot be timed here; tune on a machine that runs it", missing);
}

// The stored profile of the machine, or a new one where there is time for it. Without one no kernel has a bound, and
// all else goes on.
static qn_status know_machine(tuning *t) {
  const double worth_s = 20;  // a budget that has seconds for it
  quern_machine_options options = {.size = sizeof options,
                                   .tuning_db = t->options->tuning_db,
                                   .budget_s = 3,
                                   .progress = tell_stage,
                                   .progress_context = t};
  qn_machine_profile stored;
  int64_t when;
  bool found = false;
  qn_diag unused = {0};
  quern_error error;
  if (t->db && quern_machine_stored(t->db, &stored, &when, &found, NULL, 0, &unused) != QN_OK) found = false;
  if (!found && t->options->budget_s < worth_s) return QN_OK;
  t->profile.size = sizeof t->profile;
  int code = quern_machine_get_profile(&options, &t->profile, &error);
  if (code != 0) t->profile.count = 0;
  return code == QN_ERR_CANCELLED ? qn_fail(t->diag, QN_ERR_CANCELLED, "tune", "cancelled by the caller") : QN_OK;
}

static qn_status open_tools(tuning *t) {
  // A candidate that hangs must not take a budget with it; one that is slow on a busy machine is no hanging one, since
  // this is CPU time.
  const double part = t->options->budget_s / 12;
  qn_worker_options worker = {
      .cancelled = cancelled, .cancel_context = t, .run_limit_s = part < 2 ? 2 : part > 10 ? 10 : part};
  if (!quern_keeps_nothing(t->options->tuning_db))
    QN_TRY(qn_db_open(t->options->tuning_db, false, qn_allocator_default(), &t->db, t->diag));
  QN_TRY(know_machine(t));
  t->machine = quern_machine_model(t->target, t->db, t->options->threads);
  t->code = quern_tune_code_create(t->target);
  if (!t->code) return qn_fail_nomem(t->diag, "tune", "a code generator");
  worker.compiler = quern_tune_code_compiler(t->code);
  return qn_worker_create(&worker, qn_allocator_default(), &t->worker, t->diag);
}

// --- the report

typedef struct report_memory {
  qn_arena arena;
} report_memory;

// A report that ends before this has no place for what it owns.
#define REPORT_LEAST (offsetof(quern_tune_report, owned) + sizeof(void *))

void quern_tune_report_free(quern_tune_report *report) {
  if (qn_result_is_short(report, REPORT_LEAST)) return;
  report_memory *memory = report->owned;
  if (memory) qn_arena_deinit(&memory->arena);
  free(memory);
  qn_result_give(report, NULL, sizeof *report);
}

static void put_rows(const quern_tune_result *k, char out[64]) {
  if (k->rows_max == INT64_MAX) {
    snprintf(out, 64, "from %" PRId64 " rows", k->rows_min);
  } else {
    snprintf(out, 64, "for %" PRId64 " to %" PRId64 " rows", k->rows_min, k->rows_max);
  }
}

int quern_tune_verdict(const quern_tune_report *report, quern_error *error) {
  qn_diag diag = {0};
  char rows[64];
  for (size_t i = 0; i < report->count; i++) {
    const quern_tune_result *k = &report->results[i];
    if (!k->broken) continue;
    put_rows(k, rows);
    return quern_give_error(
        error, &diag,
        qn_fail(&diag, QN_ERR_INTERNAL, k->kernel,
                "%s: %s (%d of the kernels %s so); this is a bug of quern, or this machine computes wrongly: use no "
                "artifact with this code, and report it with what quern verify says",
                rows, k->end, report->broken, report->broken > 1 ? "are" : "is"));
  }
  return quern_give_error(error, &diag, QN_OK);
}

static const char *schedule_line(const qn_schedule *schedule, qn_arena *arena) {
  qn_buf line;
  qn_buf_init(&line, arena->allocator);
  qn_schedule_put_line(schedule, &line);
  const char *text = line.failed ? NULL : qn_arena_strdup(arena, qn_buf_text(&line));
  qn_buf_deinit(&line);
  return text;
}

static bool take_result(const qn_session_result *from, qn_arena *arena, quern_tune_result *to) {
  *to = (quern_tune_result){.kernel = qn_arena_strdup(arena, from->kernel->name),
                            .rows_min = from->rows_min,
                            .rows_max = from->rows_max,
                            .rows = from->rows,
                            .share = from->share,
                            .default_s = from->default_s,
                            .tuned_s = from->tuned_s,
                            .bound_s = from->bound_s,
                            .gain = from->gain,
                            .pairs = from->pairs,
                            .tried = from->tried,
                            .wrong = from->verdicts[QN_VERDICT_WRONG],
                            .crashed = from->verdicts[QN_VERDICT_CRASHED],
                            .hung = from->verdicts[QN_VERDICT_HUNG],
                            .failed = from->verdicts[QN_VERDICT_FAILED],
                            .measured = from->measured,
                            .broken = from->broken,
                            .end = qn_arena_strdup(arena, from->end),
                            .tuned = schedule_line(&from->tuned, arena),
                            .standard = schedule_line(&from->start, arena)};
  return to->kernel && to->end && to->tuned && to->standard;
}

static qn_status compare(tuning *t, const qn_session_options *options, const qn_session_report *report,
                         quern_tune_report *out) {
  qn_measurer measurer = qn_worker_measurer(t->worker);
  for (size_t i = 0; i < report->count && t->options->compare_pairs > 0; i++) {
    qn_comparison c;
    t->latest.kernel = report->results[i].kernel->name;
    qn_status status =
        qn_compare_result(t->program, &measurer, options, &report->results[i], t->options->compare_pairs, &c, t->diag);
    if (status == QN_ERR_NOMEM) {  // this one does not fit, which its search found, too
      *t->diag = (qn_diag){0};
      continue;
    }
    QN_TRY(status);
    out->results[i].over_default = c.over_default;
    out->results[i].over_default_error = c.error_default;
    out->results[i].over_middle = c.over_middle;
    out->results[i].over_middle_error = c.error_middle;
  }
  return QN_OK;
}

static qn_status take_report(tuning *t, const qn_session_report *from, quern_tune_report *out) {
  report_memory *memory = calloc(1, sizeof *memory);
  if (!memory) return qn_fail_nomem(t->diag, "tune", "a report");
  qn_arena_init(&memory->arena, qn_allocator_default());
  *out = (quern_tune_report){.size = sizeof *out,
                             .count = from->count,
                             .end = qn_session_end_text(from->end),
                             .cancelled = from->end == QN_SESSION_CANCELLED,
                             .expected = from->expected,
                             .seconds = from->seconds,
                             .tried = from->tried,
                             .known = from->known,
                             .crossovers = from->crossovers,
                             .has_settings = from->has_settings,
                             .threads_prefill = from->settings.threads_prefill,
                             .threads_decode = from->settings.threads_decode,
                             .spin_us = from->settings.spin_us > 0 ? from->settings.spin_us : -1,
                             .grain = from->settings.grain,
                             .rejected = from->rejected,
                             .killed = from->verdicts[QN_VERDICT_KILLED],
                             .threads = t->threads,
                             .usual_threads = t->threads == qn_topology_get()->default_threads,
                             .owned = memory};
  if (from->rejected > 0) {
    out->first_reason = qn_arena_strdup(&memory->arena, from->first_reason);
    if (!out->first_reason) return qn_fail_nomem(t->diag, "tune", "a report");
  }
  if (t->db) snprintf(out->database, sizeof out->database, "%s", qn_db_path(t->db));
  out->results = QN_ARENA_ARRAY(&memory->arena, from->count, quern_tune_result);
  for (size_t i = 0; i < from->count; i++) {
    if (!out->results || !take_result(&from->results[i], &memory->arena, &out->results[i]))
      return qn_fail_nomem(t->diag, "tune", "a report");
    out->broken += out->results[i].broken;
  }
  return QN_OK;
}

// --- the whole

// Of a budget, what is left for the end: the report, and taking the worker and the model down (a large model's pages are
// given back one by one).
static double closing_seconds(double budget_s) {
  const double most_s = 0.4;
  return fmin(most_s, budget_s / 100);
}

static qn_status run(tuning *t, quern_tune_report *out) {
  int threads = t->threads = t->options->threads ? t->options->threads : qn_topology_get()->default_threads;
  qn_machine_fingerprint(threads, &t->fingerprint);
  if (t->fingerprint.failed) return qn_fail_nomem(t->diag, "tune", "the machine's fingerprint");
  t->roofline = quern_roofline_of(&t->profile, threads, &t->machine, t->program);
  qn_session_options options = {
      .bound = quern_roofline_bound,
      .bound_context = &t->roofline,
      .machine = &t->machine,
      .key = {t->target->name, qn_buf_text(&t->fingerprint), qn_generator_id, threads},
      .db = t->db,
      .budget_s = fmax(0, t->options->budget_s - closing_seconds(t->options->budget_s) - (seconds_now() - t->begin_s)),
      .within = t->options->within,
      .pattern = t->options->pattern,
      .distinct_code = true,
      .seed = 1,
      .progress = progress,
      .progress_context = t,
  };
  qn_measurer measurer = qn_worker_measurer(t->worker);
  qn_session_report report;
  qn_status status = qn_session_run(t->program, &measurer, &options, qn_allocator_default(), &report, t->diag);
  if (status == QN_OK) status = take_report(t, &report, out);
  if (status == QN_OK && !out->cancelled) status = compare(t, &options, &report, out);
  qn_session_report_deinit(&report);
  memcpy(out->untuned, t->untuned, sizeof out->untuned);
  return status;
}

static qn_status own_options(const quern_tune_options *options, quern_tune_options *out, qn_diag *diag) {
  return qn_options_take(options, "quern_tune_options", out, sizeof *out, diag);
}

static qn_status tune(tuning *t, const char *path, quern_tune_report *out) {
  QN_TRY(quern_is_artifact(path) ? open_artifact(t, path) : open_model(t, path));
  QN_TRY(check_target(t));
  QN_TRY(open_tools(t));
  return run(t, out);
}

int quern_tune(const char *path, const quern_tune_options *options, quern_tune_report *out, quern_error *error) {
  quern_tune_options own;
  qn_diag diag = {0};
  tuning t = {.options = &own, .diag = &diag, .begin_s = seconds_now()};
  quern_tune_report made = {.size = sizeof made};
  qn_status status = own_options(options, &own, &diag);
  if (status == QN_OK) status = qn_result_check_owner(out, "quern_tune_report", REPORT_LEAST, &diag);
  if (status == QN_OK) status = quern_own_options(own.compile, &t.compile, &diag);
  t.compile.tuning_db = "none";  // the defaults are what tuning starts from
  t.compile.run_threads = own.threads;
  t.compile.progress = tell_stage;
  t.compile.progress_context = &t;
  quern_compilation_init(&t.compilation, &t.compile, &diag);
  qn_buf_init(&t.fingerprint, qn_allocator_default());
  if (status == QN_OK) status = tune(&t, path, &made);
  qn_worker_destroy(t.worker);
  quern_tune_code_destroy(t.code);
  qn_db_close(t.db);
  qn_buf_deinit(&t.fingerprint);
  if (t.has_artifact) qn_artifact_close(&t.artifact);
  quern_compilation_deinit(&t.compilation);
  if (status != QN_OK) quern_tune_report_free(&made);
  qn_result_give(out, &made, sizeof made);
  return quern_give_error(error, &diag, status);
}

// --- exchange

// The caller's progress, for the database's lines.
typedef struct import_watch {
  quern_progress_fn progress;
  void *context;
} import_watch;

static bool tell_lines(void *context, int64_t done, int64_t lines) {
  const import_watch *w = context;
  return !w->progress || w->progress(w->context, "reading records", (uint64_t)done, (uint64_t)lines);
}

static int exchange(const char *tuning_db, const char *path, bool export, import_watch *watch,
                    quern_tuning_counts *out, quern_error *error) {
  qn_diag diag = {0};
  qn_db *db = NULL;
  qn_db_counts counts = {0};
  qn_status status = qn_result_check(out, "quern_tuning_counts", &diag);
  if (status == QN_OK) status = qn_db_open(tuning_db, export, qn_allocator_default(), &db, &diag);
  if (status == QN_OK)
    status = export ? qn_db_export(db, path, &counts, &diag)
                    : qn_db_import(db, path, tell_lines, watch, &counts, &diag);
  qn_db_close(db);
  quern_tuning_counts own = {sizeof own,      counts.records, counts.marks, counts.machines, counts.rejected,
                             counts.known};
  qn_result_give(out, &own, sizeof own);
  return quern_give_error(error, &diag, status);
}

int quern_tuning_export(const char *tuning_db, const char *path, quern_tuning_counts *out, quern_error *error) {
  return exchange(tuning_db, path, true, NULL, out, error);
}

int quern_tuning_import(const char *tuning_db, const char *path, quern_progress_fn watch, void *watch_context,
                        quern_tuning_counts *out, quern_error *error) {
  import_watch both = {watch, watch_context};
  return exchange(tuning_db, path, false, &both, out, error);
}
