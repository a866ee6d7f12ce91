// Sessions that are killed at any moment: what one has told is in the database, whole, and the next goes on from there.
// On a machine that is none, so that fifty sessions take no time.
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "autotune/session.h"
#include "tests/support/fake_machine.h"
#include "tests/support/test.h"

enum { KILLS = 50 };

// In memory that the session's process shares.
typedef struct told {
  _Atomic bool begun;
  _Atomic int candidates;  // whose fate a session has told
} told;
static told *shared;

typedef struct fixture {
  qn_arena arena;
  const qn_program *program;
  qn_machine_model model;
  const char *path;
  char fingerprint[32];
} fixture;

// Told once a record is in: each candidate raises the count of its kernel's.
static bool count_told(void *context, const qn_session_progress *p) {
  int *last = context;  // the task, and what was tried of it
  if (last[0] == p->task && p->tried > last[1]) atomic_fetch_add(&shared->candidates, p->tried - last[1]);
  last[0] = p->task;
  last[1] = p->tried;
  atomic_store(&shared->begun, true);
  return true;
}

static void run(fixture *f, uint64_t seed, qn_session_report *out) {
  int last[2] = {0};
  qn_diag diag = {0};
  qn_db *db = NULL;
  qn_fake_machine machine;
  qn_fake_machine_init(&machine, &f->model, 3, 0.02);
  qn_assert_ok(&diag, qn_db_open(f->path, false, qn_test_allocator(), &db, &diag));
  qn_session_options options = {.machine = &f->model,
                                .key = {"fake-target", f->fingerprint, "this-build", 2},
                                .db = db,
                                .budget_s = 600,
                                .seed = seed,
                                .progress = count_told,
                                .progress_context = last};
  qn_assert_ok(&diag, qn_session_run(f->program, &machine.measurer, &options, qn_test_allocator(), out, &diag));
  qn_db_close(db);
}

static qn_db_counts count(const fixture *f) {
  qn_diag diag = {0};
  qn_db *db = NULL;
  qn_db_counts counts;
  qn_assert_ok(&diag, qn_db_open(f->path, false, qn_test_allocator(), &db, &diag));
  qn_assert_ok(&diag, qn_db_count(db, &counts, &diag));
  qn_db_close(db);
  return counts;
}

// Starts a session and kills it some time after its first word. False: it had come to its end by then.
static bool kill_one(fixture *f, uint64_t seed, unsigned after_us) {
  int status = 0;
  *shared = (told){0};
  pid_t child = fork();
  ck_assert_int_ge(child, 0);
  if (child == 0) {
    qn_session_report report;
    run(f, seed, &report);
    _exit(0);
  }
  while (!atomic_load(&shared->begun) && waitpid(child, &status, WNOHANG) == 0) usleep(100);
  usleep(after_us);
  kill(child, SIGKILL);
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

START_TEST(killed_at_any_moment) {
  fixture f = {.path = qn_test_temp_path("sessions.db"), .fingerprint = "machine 0"};
  setenv("HWLOC_SYNTHETIC", "pack:1 l3:1(size=16777216) l2:4(size=524288) l1d:1(size=32768) core:1 pu:1", 1);
  qn_arena_init(&f.arena, qn_test_allocator());
  f.program = qn_fake_program(&f.arena);
  f.model = qn_fake_machine_model();
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ck_assert(shared != MAP_FAILED);
  qn_rng rng;
  qn_rng_seed(&rng, 17);
  int kills = 0, all = 0, ended = 0;
  qn_db_counts before = {0};
  const int most = KILLS / (int)qn_test_stride(1, 5);
  for (uint64_t seed = 1; kills < most; seed++) {
    bool killed = kill_one(&f, seed, (unsigned)(qn_rng_unit(&rng) * 30000));
    int candidates = atomic_load(&shared->candidates);
    qn_db_counts now = count(&f);
    qn_check(now.records - before.records >= candidates, "kill %d: %d candidates told, %d records came", kills,
             candidates, (int)(now.records - before.records));
    ck_assert_int_eq(now.rejected, 0);
    before = now;
    all += candidates;
    kills += killed;
    if (killed) continue;
    all = 0;  // nothing is left to do on this machine
    snprintf(f.fingerprint, sizeof f.fingerprint, "machine %d", ++ended);
  }
  qn_session_report report;
  run(&f, 99, &report);
  ck_assert_int_ge(report.known, all);
  ck_assert_int_ne(report.end, QN_SESSION_CANCELLED);
  ck_assert_int_eq(report.rejected, 0);
  if (getenv("QUERN_TEST_SHOW")) printf("%d kills, %d sessions ended, %d candidates known at last\n", kills, ended, report.known);
  qn_session_report_deinit(&report);
  munmap(shared, sizeof *shared);
  qn_arena_deinit(&f.arena);
}
END_TEST

QN_CASE(sessions, killed_at_any_moment)
QN_TEST_MAIN(sessions)
