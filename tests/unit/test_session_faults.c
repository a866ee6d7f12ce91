// Tuning sessions in which an allocation fails: they end well or with NOMEM, nothing stays allocated, the database is whole
// and the next session goes on from what was told. On a machine that is none, so that a session takes no time.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "autotune/session.h"
#include "tests/support/fake_machine.h"
#include "tests/support/sweep.h"
#include "tests/support/test.h"

typedef struct fixture {
  qn_arena arena;
  const qn_program *program;
  qn_machine_model model;
  char folder[256], path[512];
  int told;  // candidates whose fate the session has told
  int task, tried;
} fixture;

static bool count_told(void *context, const qn_session_progress *p) {
  fixture *f = context;
  if (f->task == p->task && p->tried > f->tried) f->told += p->tried - f->tried;
  f->task = p->task;
  f->tried = p->tried;
  return true;
}

static qn_status run_session(fixture *f, qn_db *db, qn_diag *diag) {
  qn_fake_machine machine;
  qn_session_report report;
  qn_fake_machine_init(&machine, &f->model, 3, 0.02);
  qn_session_options options = {.machine = &f->model,
                                .key = {"fake-target", "a machine", "this-build", 2},
                                .db = db,
                                .budget_s = 20,
                                .pattern = "*matmul*",
                                .seed = 5,
                                .progress = count_told,
                                .progress_context = f};
  qn_status status = qn_session_run(f->program, &machine.measurer, &options, qn_sweep_allocator(), &report, diag);
  qn_session_report_deinit(&report);
  return status;
}

// What a session that ended anyhow has left: all that it told, and nothing that is not whole.
static qn_status look_after(const fixture *f, qn_diag *diag) {
  qn_db *db = NULL;
  qn_db_counts counts = {0};
  QN_TRY(qn_db_open(f->path, false, qn_sweep_allocator(), &db, diag));
  qn_status status = qn_db_count(db, &counts, diag);
  qn_db_close(db);
  if (status == QN_OK && (counts.rejected > 0 || counts.records < f->told))
    status = qn_fail(diag, QN_ERR_INTERNAL, f->path, "%d records were told, %d are there, and %d are not whole", f->told,
                     (int)counts.records, (int)counts.rejected);
  return status;
}

// In a database of its own.
static int session(void *context, char *text, size_t size) {
  fixture *f = context;
  qn_db *db = NULL;
  qn_diag diag = {0}, after = {0};
  qn_sweep_shares(true);
  snprintf(f->path, sizeof f->path, "%s.%ld", f->folder, (long)getpid());
  unlink(f->path);
  f->told = f->tried = f->task = 0;
  qn_status status = qn_db_open(f->path, false, qn_sweep_allocator(), &db, &diag);
  if (status == QN_OK) status = run_session(f, db, &diag);
  qn_db_close(db);
  qn_sweep_heal();
  if (look_after(f, &after) != QN_OK) {
    status = QN_ERR_INTERNAL;
    diag = after;
  }
  snprintf(text, size, "%s", diag.text);
  return (int)status;
}

START_TEST(an_allocation_fails) {
  fixture f = {0};
  setenv("HWLOC_SYNTHETIC", "pack:1 l3:1(size=16777216) l2:4(size=524288) l1d:1(size=32768) core:1 pu:1", 1);
  qn_arena_init(&f.arena, qn_test_allocator());
  f.program = qn_fake_program(&f.arena);
  f.model = qn_fake_machine_model();
  snprintf(f.folder, sizeof f.folder, "%s", qn_test_temp_path("faults.db"));
  qn_sweep("sessions", session, &f, &(qn_sweep_options){.again = (int)qn_test_stride(40, 15)});
  qn_arena_deinit(&f.arena);
}
END_TEST

static TCase *sessions(void) {
  const TTest *const tests[] = {an_allocation_fails};
  TCase *tcase = qn_test_case("sessions", tests, QN_COUNT(tests));
  if (qn_test_stride(2, 2) == 1) tcase_set_timeout(tcase, 24 * 3600);
  return tcase;
}

QN_TEST_MAIN(sessions)
