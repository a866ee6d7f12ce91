// The worker behind the tuner: right candidates are checked and timed; wrong, crashing and hanging ones, and those that
// are fast only because they leave something out, are caught and cost nobody else. What the system refuses is an error.
#include "autotune/worker.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "frontend/tune_code.h"
#include "passes/pass.h"
#include "tests/support/graph_text.h"
#include "tests/support/only_child.h"
#include "tests/support/test.h"

// What a candidate does, said by its knob prefetch_bytes, which changes no result.
enum plant {
  GOOD,
  WRONG_BIT,   // one bit of one element
  SKIPS_TAIL,  // the last iteration of the parallel loop
  SKIPS_ALL,
  OVERRUN,  // writes behind an output
  WRITES_INPUT,
  CRASHES,
  KILLED,         // as by a system without memory
  KILLED_KINDLY,  // as by somebody's hand
  KILLED_ONCE,
  HANGS,
  FAILS,          // does not compile
  COMPILE_CRASH,  // ends the compiler
  COMPILE_HANG,
  LATE_CRASH,  // only when it is timed
  FIRST,       // right; both note their turns
  SECOND,
  HIDDEN,  // one bit where the interpreter does not look
  BURNS,   // right, but takes much CPU time in its first sample, all threads together
  PLANTS
};

static struct planted {
  quern_tune_code *code;
  qn_kernel_entry real[PLANTS];
} planted;

static int64_t last_of(const int64_t *symbols) { return symbols[QN_SYM_NONE] + 3; }  // 64 rows: 4 panels, n_tile 1

static void wrong_bit(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  planted.real[WRONG_BIT](buffers, symbols, begin, end);
  if (begin <= 2 && end > 2) ((uint32_t *)buffers[2])[(symbols[QN_SYM_T] - 1) * 64 + 37] ^= 1;
}
static void skips_tail(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  if (end > last_of(symbols)) end = last_of(symbols);
  if (begin < end) planted.real[SKIPS_TAIL](buffers, symbols, begin, end);
}
static void skips_all(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  (void)buffers, (void)symbols, (void)begin, (void)end;
}
static void overrun(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  planted.real[OVERRUN](buffers, symbols, begin, end);
  ((float *)buffers[2])[-1] = 0;
}
static void writes_input(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  planted.real[WRITES_INPUT](buffers, symbols, begin, end);
  ((float *)buffers[1])[0] = 1;
}
static void crashes(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  (void)begin, (void)end;
  volatile float *output = buffers[2];
  output[symbols[QN_SYM_T] * 64 + 16] = 1;  // the page behind it
}
static void killed(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  (void)buffers, (void)symbols, (void)begin, (void)end;
  kill(getpid(), SIGKILL);
}
static void killed_kindly(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  (void)buffers, (void)symbols, (void)begin, (void)end;
  kill(getpid(), SIGTERM);
}
static _Atomic int *kills_left;  // in memory that the child shares
static void killed_once(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  if (atomic_fetch_sub(kills_left, 1) > 0) kill(getpid(), SIGKILL);
  planted.real[KILLED_ONCE](buffers, symbols, begin, end);
}
static void hangs(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  (void)buffers, (void)symbols, (void)begin, (void)end;
  for (volatile unsigned i = 0;;) i++;
}
static void late_crash(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  if (symbols[QN_SYM_T] == 31) abort();
  planted.real[LATE_CRASH](buffers, symbols, begin, end);
}
// Whose turn it was, as often as it changed: in memory that the child shares.
typedef struct turns {
  _Atomic int last, count;
  int who[64];
} turns;
static turns *noted;

static void note_turn(int who) {
  if (atomic_exchange(&noted->last, who) == who) return;
  int at = atomic_fetch_add(&noted->count, 1);
  if (at < 64) noted->who[at] = who;
}
static void first(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  note_turn(FIRST);
  planted.real[FIRST](buffers, symbols, begin, end);
}
static void second(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  note_turn(SECOND);
  planted.real[SECOND](buffers, symbols, begin, end);
}

static void hidden(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  planted.real[HIDDEN](buffers, symbols, begin, end);
  if (symbols[QN_SYM_T] == 9 && begin <= 1 && end > 1) ((uint32_t *)buffers[2])[5 * 64 + 21] ^= 1;
}

#define LIMIT_S 0.4  // CPU time of a sample, of each thread
static double thread_seconds(void) {
  struct timespec t = {0};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
// One and a half times the limit, shared out among those who are there.
static void burns(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
  static _Atomic int left = 12;
  while (symbols[QN_SYM_T] == 31 && atomic_fetch_sub(&left, 1) > 0)
    for (double until = thread_seconds() + LIMIT_S / 8; thread_seconds() < until;) continue;
  planted.real[BURNS](buffers, symbols, begin, end);
}

static const qn_kernel_entry wrappers[PLANTS] = {
    [WRONG_BIT] = wrong_bit, [SKIPS_TAIL] = skips_tail, [SKIPS_ALL] = skips_all,   [OVERRUN] = overrun,
    [KILLED] = killed,       [KILLED_KINDLY] = killed_kindly, [KILLED_ONCE] = killed_once,
    [CRASHES] = crashes,     [HANGS] = hangs,           [LATE_CRASH] = late_crash, [WRITES_INPUT] = writes_input,
    [FIRST] = first,         [SECOND] = second,         [HIDDEN] = hidden,
    [BURNS] = burns};

static qn_status compile(void *context, const qn_tuning_task *task, const qn_schedule *schedules, int count,
                         qn_compiled *out, qn_diag *diag) {
  qn_compiler real = quern_tune_code_compiler(context);
  for (int i = 0; i < count; i++) {
    switch (schedules[i].prefetch_bytes) {
      case FAILS: return qn_fail(diag, QN_ERR_UNSUPPORTED, "planted", "does not compile");
      case COMPILE_CRASH: abort();
      case COMPILE_HANG:
        for (volatile int j = 0;;) j++;
    }
  }
  QN_TRY(real.compile(real.context, task, schedules, count, out, diag));
  for (int i = 0; i < count; i++) {
    int plant = schedules[i].prefetch_bytes;
    if (plant <= GOOD || plant >= PLANTS || !wrappers[plant]) continue;
    planted.real[plant] = out[i].entry;
    out[i].entry = wrappers[plant];
  }
  return QN_OK;
}

typedef struct bench {
  qn_arena arena;
  qn_target target;
  qn_tuning_task task;
  qn_worker *worker;
  qn_measurer measurer;
} bench;

static bool always(void *context) { return *(bool *)context; }
static bool cancel;

static void open_bench_for(bench *b, double compile_limit_s, double limit_s) {
  qn_diag diag = {0};
  qn_arena_init(&b->arena, qn_test_allocator());
  qn_assert_ok(&diag, qn_target_parse("host", &b->target, &diag));
  qn_pass_options options = {.machine = qn_machine_model_plain(32, 16, b->target.dots, 0)};
  qn_pass_context context = {.arena = &b->arena, .allocator = qn_test_allocator(), .options = &options, .diag = &diag};
  static const char text[] =
      "max T=64 R=1 P=4 B=1; x = input f32[T,96]; w = param f32[64,96]; y = matmul x w; output y";
  qn_assert_ok(&diag, qn_graph_from_text(text, NULL, &b->arena, &context.graph, &diag));
  qn_assert_ok(&diag, qn_run_passes(&context));
  qn_program *program = context.program;
  ck_assert_uint_eq(program->kernels.count, 1);
  ck_assert_str_eq(program->kernels.items[0].plain->params[2]->name, "a2");
  b->task = (qn_tuning_task){.program = program,
                             .kernel = &program->kernels.items[0],
                             .step = &program->steps.items[0],
                             .rows_min = 2,
                             .rows_max = 64,
                             .rows = 31,
                             .threads = 2};
  planted.code = quern_tune_code_create(&b->target);
  cancel = false;
  qn_worker_options worker = {.compiler = {.context = planted.code, .compile = compile},
                              .compile_limit_s = compile_limit_s,
                              .run_limit_s = limit_s,
                              .cancelled = always,
                              .cancel_context = &cancel};
  qn_assert_ok(&diag, qn_worker_create(&worker, qn_test_allocator(), &b->worker, &diag));
  b->measurer = qn_worker_measurer(b->worker);
  qn_assert_ok(&diag, b->measurer.begin(b->measurer.self, &b->task, &diag));
}

static void open_bench(bench *b, double limit_s) { open_bench_for(b, 60, limit_s); }

static void close_bench(bench *b) {
  b->measurer.end(b->measurer.self);
  qn_worker_destroy(b->worker);
  quern_tune_code_destroy(planted.code);
  qn_arena_deinit(&b->arena);
  ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);  // no child is left, dead or alive
}

static qn_schedule candidate(int plant) {
  qn_schedule s = qn_schedule_plain();
  s.m_tiles[0] = 4;
  s.m_tiles[1] = 1;
  s.m_tile_count = 2;
  s.lanes = 16;
  s.parallel = 1;
  s.prefetch_bytes = plant;
  return s;
}

static int open_files(void) {
  int count = 0;
  for (int fd = 0; fd < 256; fd++) count += fcntl(fd, F_GETFD) >= 0;
  return count;
}

// Prepares these candidates after and before a good one and looks at the verdicts.
static void expect(int plant, qn_verdict verdict, const char *evidence) {
  bench b;
  qn_diag diag = {0};
  qn_measured out[3];
  int files = open_files();
  open_bench(&b, 0.3);
  qn_schedule schedules[] = {candidate(GOOD), candidate(plant), candidate(GOOD)};
  qn_assert_ok(&diag, b.measurer.prepare(b.measurer.self, schedules, 3, out, &diag));
  qn_check(out[0].verdict == QN_VERDICT_OK && out[2].verdict == QN_VERDICT_OK, "good ones: %s, %s", out[0].evidence,
           out[2].evidence);
  qn_check(out[1].verdict == verdict, "got %s: %s", qn_verdict_name(out[1].verdict), out[1].evidence);
  qn_check(strstr(out[1].evidence, evidence) != NULL, "evidence: got '%s', want '%s' in it", out[1].evidence, evidence);
  double seconds[4];
  qn_measured pair[2];
  qn_assert_ok(&diag, b.measurer.pair(b.measurer.self, 0, 2, 2, seconds, pair, &diag));
  for (int i = 0; i < 4; i++) qn_check(seconds[i] > 0 && isfinite(seconds[i]), "time %d: %g", i, seconds[i]);
  close_bench(&b);
  ck_assert_int_eq(open_files(), files);
}

START_TEST(good) { expect(GOOD, QN_VERDICT_OK, "against the interpreter"); }
END_TEST
START_TEST(wrong) { expect(WRONG_BIT, QN_VERDICT_WRONG, "'a2', row"); }
END_TEST
START_TEST(skipping_the_tail) { expect(SKIPS_TAIL, QN_VERDICT_WRONG, "it was not written"); }
END_TEST
START_TEST(doing_nothing) { expect(SKIPS_ALL, QN_VERDICT_WRONG, "it was not written"); }
END_TEST
START_TEST(writing_outside) { expect(OVERRUN, QN_VERDICT_WRONG, "writes outside of 'a2', at byte -"); }
END_TEST
START_TEST(writing_an_input) { expect(WRITES_INPUT, QN_VERDICT_CRASHED, "writes to 'i1', which it may only read"); }
END_TEST
START_TEST(crashing) { expect(CRASHES, QN_VERDICT_CRASHED, "past the end of 'a2'"); }
END_TEST
// Nothing is known of such code: it is told apart from what crashes, and one that is killed once is tried again.
START_TEST(killed_from_outside) {
  kills_left = mmap(NULL, sizeof *kills_left, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ck_assert(kills_left != MAP_FAILED);
  expect(KILLED, QN_VERDICT_KILLED, "while it was checked: signal 9");
  expect(KILLED_KINDLY, QN_VERDICT_KILLED, "while it was checked: signal 15");
  *kills_left = 1;
  expect(KILLED_ONCE, QN_VERDICT_OK, "against the interpreter");
  munmap(kills_left, sizeof *kills_left);
}
END_TEST
// Twice is said of each for itself, and not of all that are tried together.
START_TEST(killed_beside_another) {
  bench b;
  qn_diag diag = {0};
  qn_measured out[2];
  qn_schedule schedules[] = {candidate(KILLED), candidate(KILLED_ONCE)};
  kills_left = mmap(NULL, sizeof *kills_left, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ck_assert(kills_left != MAP_FAILED);
  *kills_left = 1;
  open_bench(&b, 0.3);
  qn_assert_ok(&diag, b.measurer.prepare(b.measurer.self, schedules, 2, out, &diag));
  ck_assert_int_eq(out[0].verdict, QN_VERDICT_KILLED);
  ck_assert_int_eq(out[1].verdict, QN_VERDICT_OK);
  ck_assert_int_lt(*kills_left, 1);
  close_bench(&b);
  munmap(kills_left, sizeof *kills_left);
}
END_TEST
START_TEST(hanging) { expect(HANGS, QN_VERDICT_HUNG, "no end after"); }
END_TEST
START_TEST(not_compiling) { expect(FAILS, QN_VERDICT_FAILED, "does not compile"); }
END_TEST
START_TEST(crashing_the_compiler) { expect(COMPILE_CRASH, QN_VERDICT_CRASHED, "while it was compiled: signal 6"); }
END_TEST

START_TEST(hanging_the_compiler) {
  bench b;
  qn_diag diag = {0};
  qn_measured out[1];
  open_bench_for(&b, 0.2, 0.3);
  qn_schedule hang = candidate(COMPILE_HANG);
  qn_assert_ok(&diag, b.measurer.prepare(b.measurer.self, &hang, 1, out, &diag));
  ck_assert_int_eq(out[0].verdict, QN_VERDICT_HUNG);
  ck_assert_ptr_nonnull(strstr(out[0].evidence, "while it was compiled: no end after"));
  close_bench(&b);
}
END_TEST

// The first candidate is wrong where nobody looks; the ones after it, which differ from it, are right and found to be.
START_TEST(wrong_at_first) {
  bench b;
  qn_diag diag = {0};
  qn_measured out[3], pair[2];
  double seconds[2];
  open_bench(&b, 10);
  qn_schedule schedules[] = {candidate(HIDDEN), candidate(GOOD), candidate(GOOD)};
  qn_assert_ok(&diag, b.measurer.prepare(b.measurer.self, schedules, 1, out, &diag));
  bool hid = out[0].verdict == QN_VERDICT_OK;
  qn_assert_ok(&diag, b.measurer.prepare(b.measurer.self, schedules + 1, 2, out + 1, &diag));
  qn_check(hid, "it does not hide: %s", out[0].evidence);
  qn_check(out[1].verdict == QN_VERDICT_OK && out[2].verdict == QN_VERDICT_OK, "%s, %s", out[1].evidence,
           out[2].evidence);
  qn_assert_ok(&diag, b.measurer.pair(b.measurer.self, 0, 1, 1, seconds, pair, &diag));
  ck_assert_int_eq(pair[0].verdict, QN_VERDICT_WRONG);
  ck_assert_int_eq(pair[1].verdict, QN_VERDICT_OK);
  ck_assert(seconds[0] <= 0 && seconds[1] <= 0);
  close_bench(&b);
}
END_TEST

START_TEST(crashing_when_timed) {
  bench b;
  qn_diag diag = {0};
  qn_measured out[2], pair[2];
  double seconds[6];
  open_bench(&b, 0.3);
  qn_schedule schedules[] = {candidate(GOOD), candidate(LATE_CRASH)};
  b.task.rows_max = 16;
  b.measurer.end(b.measurer.self);
  qn_assert_ok(&diag, b.measurer.begin(b.measurer.self, &b.task, &diag));
  qn_assert_ok(&diag, b.measurer.prepare(b.measurer.self, schedules, 2, out, &diag));
  qn_check(out[1].verdict == QN_VERDICT_OK, "%s", out[1].evidence);
  qn_assert_ok(&diag, b.measurer.pair(b.measurer.self, 0, 1, 3, seconds, pair, &diag));
  ck_assert_int_eq(pair[0].verdict, QN_VERDICT_OK);
  ck_assert_int_eq(pair[1].verdict, QN_VERDICT_CRASHED);
  ck_assert(seconds[0] <= 0 && seconds[5] <= 0);
  qn_assert_ok(&diag, b.measurer.pair(b.measurer.self, 0, 0, 3, seconds, pair, &diag));
  ck_assert(pair[0].verdict == QN_VERDICT_OK && seconds[0] > 0 && seconds[5] > 0);
  qn_assert_fails(&diag, QN_ERR_ARGUMENT, "got candidate 7, want 0 to 1",
                  b.measurer.pair(b.measurer.self, 0, 7, 1, seconds, pair, &diag));
  close_bench(&b);
}
END_TEST

// CPU time is that of all threads: a sample has the limit for each of them.
START_TEST(limits_by_threads) {
  for (int threads = 1; threads <= 2; threads++) {
    bench b;
    qn_diag diag = {0};
    qn_measured out[2], pair[2];
    double seconds[2];
    open_bench(&b, LIMIT_S);
    qn_schedule schedules[] = {candidate(GOOD), candidate(BURNS)};
    b.task.rows_max = 16;
    b.task.threads = threads;
    b.measurer.end(b.measurer.self);
    qn_assert_ok(&diag, b.measurer.begin(b.measurer.self, &b.task, &diag));
    qn_assert_ok(&diag, b.measurer.prepare(b.measurer.self, schedules, 2, out, &diag));
    qn_check(out[1].verdict == QN_VERDICT_OK, "%s", out[1].evidence);
    qn_assert_ok(&diag, b.measurer.pair(b.measurer.self, 0, 1, 1, seconds, pair, &diag));
    qn_check(pair[1].verdict == (threads == 1 ? QN_VERDICT_HUNG : QN_VERDICT_OK), "%d threads: got %s: %s", threads,
             qn_verdict_name(pair[1].verdict), pair[1].evidence);
    ck_assert((seconds[1] > 0) == (threads == 2));
    close_bench(&b);
  }
}
END_TEST

// Candidates are timed in turns: a b, b a, a b, b a.
START_TEST(turns_of_a_pair) {
  static const int want[] = {FIRST, SECOND, FIRST, SECOND, FIRST};
  bench b;
  qn_diag diag = {0};
  qn_measured out[2], pair[2];
  double seconds[8];
  noted = mmap(NULL, sizeof *noted, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ck_assert(noted != MAP_FAILED);
  open_bench(&b, 10);
  qn_schedule schedules[] = {candidate(FIRST), candidate(SECOND)};
  qn_assert_ok(&diag, b.measurer.prepare(b.measurer.self, schedules, 2, out, &diag));
  *noted = (turns){0};
  qn_assert_ok(&diag, b.measurer.pair(b.measurer.self, 0, 1, 4, seconds, pair, &diag));
  ck_assert_int_eq(noted->count, (int)QN_COUNT(want));
  for (size_t i = 0; i < QN_COUNT(want); i++) ck_assert_int_eq(noted->who[i], want[i]);
  for (int i = 0; i < 8; i++) qn_check(seconds[i] > 0 && isfinite(seconds[i]), "time %d: %g", i, seconds[i]);
  ck_assert(b.measurer.now(b.measurer.self) > 0);
  close_bench(&b);
  munmap(noted, sizeof *noted);
}
END_TEST

START_TEST(cancelling) {
  bench b;
  qn_diag diag = {0};
  qn_measured out[1];
  open_bench(&b, 100);
  qn_schedule hang = candidate(HANGS), fine = candidate(GOOD);
  cancel = true;
  qn_assert_fails(&diag, QN_ERR_CANCELLED, "cancelled", b.measurer.prepare(b.measurer.self, &hang, 1, out, &diag));
  cancel = false;
  qn_assert_ok(&diag, b.measurer.prepare(b.measurer.self, &fine, 1, out, &diag));
  ck_assert_int_eq(out[0].verdict, QN_VERDICT_OK);
  close_bench(&b);
}
END_TEST

// Where the time of all is over, what is going on is cut, and nobody is to blame; what was known before stays known.
START_TEST(out_of_time) {
  bench b;
  qn_diag diag = {0};
  qn_measured out[3], pair[2];
  double seconds[4];
  open_bench(&b, 100);
  const qn_measurer *m = &b.measurer;
  qn_schedule schedules[] = {candidate(GOOD), candidate(HANGS), candidate(GOOD)};
  qn_assert_ok(&diag, m->prepare(m->self, schedules, 1, out, &diag));
  m->limit(m->self, m->now(m->self) + 2);
  qn_assert_ok(&diag, m->prepare(m->self, schedules + 1, 2, out + 1, &diag));
  ck_assert(qn_is_right(&out[0]) && out[1].cut && out[2].cut);
  m->limit(m->self, m->now(m->self) - 1);
  qn_assert_ok(&diag, m->pair(m->self, 0, 0, 2, seconds, pair, &diag));
  ck_assert(pair[0].cut && pair[1].cut && seconds[0] <= 0);
  qn_assert_ok(&diag, m->prepare(m->self, schedules, 1, out, &diag));
  ck_assert(out[0].cut);
  m->limit(m->self, HUGE_VAL);
  qn_assert_ok(&diag, m->pair(m->self, 0, 0, 2, seconds, pair, &diag));
  ck_assert(qn_is_right(&pair[0]) && seconds[0] > 0);
  ck_assert_str_eq(diag.text, "");
  close_bench(&b);
}
END_TEST

// Runs the function in a process of its own; true when it returned 0.
static bool in_process(int (*function)(void)) {
  pid_t pid = fork();
  if (pid == 0) _exit(function());
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int no_processes(void) {
  bench b;
  qn_diag diag = {0};
  qn_measured out[1];
  qn_schedule fine = candidate(GOOD);
  open_bench(&b, 1);
  if (setresuid(65534, 65534, 65534) != 0 && geteuid() == 0) return 1;
  setrlimit(RLIMIT_NPROC, &(struct rlimit){0, 0});
  qn_status status = b.measurer.prepare(b.measurer.self, &fine, 1, out, &diag);
  return status == QN_ERR_LIMIT && strstr(diag.text, "the system has none to give") ? 0 : 2;
}

static int no_files(void) {
  bench b;
  qn_diag diag = {0};
  qn_measured out[1];
  qn_schedule fine = candidate(GOOD);
  open_bench(&b, 1);
  setrlimit(RLIMIT_NOFILE, &(struct rlimit){3, 3});
  qn_status status = b.measurer.prepare(b.measurer.self, &fine, 1, out, &diag);
  return status == QN_ERR_LIMIT && strstr(diag.text, "cannot be talked to") ? 0 : 2;
}

START_TEST(refused) {
  ck_assert(in_process(no_processes));
  ck_assert(in_process(no_files));
}
END_TEST

// A child that somebody kills between two questions is made anew; Ctrl-C is its parent's business.
START_TEST(signals) {
  bench b;
  qn_diag diag = {0};
  qn_measured out[1];
  qn_schedule fine = candidate(GOOD);
  open_bench(&b, 10);
  qn_assert_ok(&diag, b.measurer.prepare(b.measurer.self, &fine, 1, out, &diag));
  pid_t child = qn_test_only_child();
  ck_assert_int_eq(kill(child, SIGINT), 0);
  qn_assert_ok(&diag, b.measurer.prepare(b.measurer.self, &fine, 1, out, &diag));
  ck_assert_int_eq(qn_test_only_child(), child);
  ck_assert_int_eq(kill(child, SIGKILL), 0);
  qn_assert_ok(&diag, b.measurer.prepare(b.measurer.self, &fine, 1, out, &diag));
  ck_assert_int_eq(out[0].verdict, QN_VERDICT_OK);
  ck_assert_int_ne(qn_test_only_child(), child);
  close_bench(&b);
}
END_TEST

// A session that is killed leaves no child behind.
START_TEST(killed_parent) {
  int ends[2];
  pid_t child = 0;
  ck_assert_int_eq(pipe(ends), 0);
  pid_t parent = fork();
  if (parent == 0) {
    bench b;
    qn_diag diag = {0};
    qn_measured out[1];
    qn_schedule fine = candidate(GOOD);
    open_bench(&b, 10);
    if (b.measurer.prepare(b.measurer.self, &fine, 1, out, &diag) != QN_OK) _exit(1);
    child = qn_test_only_child();
    if (write(ends[1], &child, sizeof child) != sizeof child) _exit(1);
    raise(SIGKILL);
  }
  close(ends[1]);
  ck_assert_int_eq(read(ends[0], &child, sizeof child), sizeof child);
  close(ends[0]);
  waitpid(parent, NULL, 0);
  for (int i = 0; i < 1000 && kill(child, 0) == 0; i++) {
    char path[32], state[128] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)child);
    FILE *file = fopen(path, "re");
    if (!file || !fgets(state, sizeof state, file) || strstr(state, ") Z")) child = -1;  // gone, but for its new parent
    if (file) fclose(file);
    if (child < 0) break;
    usleep(10000);
  }
  ck_assert(child < 0 || kill(child, 0) != 0);
}
END_TEST

static qn_status compile_nothing(void *context, const qn_tuning_task *task, const qn_schedule *schedules, int count,
                                 qn_compiled *out, qn_diag *diag) {
  (void)context, (void)task, (void)schedules, (void)diag;
  for (int i = 0; i < count; i++) out[i] = (qn_compiled){skips_all, {QN_SYM_NONE, 1}};
  return QN_OK;
}

// The first kernel of a graph whose name begins so, as a task of one row; false when something fails.
static bool make_task(const char *text, const char *name, qn_arena *arena, qn_tuning_task *out) {
  qn_diag diag = {0};
  qn_pass_options options = {.machine = qn_machine_model_plain(32, 16, 0, 0)};
  qn_pass_context context = {.arena = arena, .allocator = qn_allocator_default(), .options = &options, .diag = &diag};
  if (qn_graph_from_text(text, NULL, arena, &context.graph, &diag) || qn_run_passes(&context)) return false;
  for (size_t i = 0; i < context.program->steps.count; i++) {
    const qn_pstep *step = &context.program->steps.items[i];
    const qn_pkernel *kernel = &context.program->kernels.items[step->kernel];
    *out = (qn_tuning_task){
        .program = context.program, .kernel = kernel, .step = step, .rows_min = 1, .rows_max = 1, .rows = 1};
    if (strncmp(kernel->name, name, strlen(name)) == 0) return true;
  }
  return false;
}

// Positions have another name: nobody knows which keys there are. The session goes on with other kernels.
START_TEST(unknown_inputs) {
  static const char text[] =
      "max T=8; q = input f32[T,4,16]; k = cache kind=k index=0 f32[G,2,16,64]; v = cache kind=v index=0 "
      "f32[G,2,64,16]\n"
      "s = attn_scores q k pos seq block_table scale=1; p = softmax s; o = attn_mix p v pos seq block_table; output o";
  qn_arena arena;
  qn_tuning_task task;
  qn_diag diag = {0};
  qn_measured out[1];
  qn_schedule fine = qn_schedule_plain();
  qn_worker *worker;
  qn_worker_options how = {.compiler = {.compile = compile_nothing}};
  qn_arena_init(&arena, qn_allocator_default());
  ck_assert(make_task(text, "qk_attention", &arena, &task));
  for (size_t i = 0; i < task.program->buffers.count; i++) {
    qn_pbuf *p = (qn_pbuf *)&task.program->buffers.items[i];
    if (p->name && strcmp(p->name, "pos") == 0) p->name = "places";
  }
  qn_assert_ok(&diag, qn_worker_create(&how, qn_allocator_default(), &worker, &diag));
  qn_measurer m = qn_worker_measurer(worker);
  qn_assert_ok(&diag, m.begin(m.self, &task, &diag));
  qn_assert_ok(&diag, m.prepare(m.self, &fine, 1, out, &diag));
  ck_assert_int_eq(out[0].verdict, QN_VERDICT_FAILED);
  ck_assert_msg(strstr(out[0].evidence, "cannot be checked: "), "%s", out[0].evidence);
  m.end(m.self);
  qn_worker_destroy(worker);
  qn_arena_deinit(&arena);
}
END_TEST

static void crash_at_once(void *context) {
  (void)context;
  abort();
}

// A child that dies again and again before a candidate is tried is nobody's fault but ours.
START_TEST(dying_before) {
  qn_arena arena;
  qn_tuning_task task;
  qn_diag diag = {0};
  qn_measured out[1];
  qn_schedule fine = qn_schedule_plain();
  qn_worker *worker;
  qn_worker_options how = {.compiler = {.compile = compile_nothing, .release = crash_at_once}};
  qn_arena_init(&arena, qn_allocator_default());
  ck_assert(make_task("max T=8; x = input f32[T,32]; w = param f32[16,32]; y = matmul x w; output y", "qk_matmul",
                      &arena, &task));
  qn_assert_ok(&diag, qn_worker_create(&how, qn_allocator_default(), &worker, &diag));
  qn_measurer m = qn_worker_measurer(worker);
  qn_assert_ok(&diag, m.begin(m.self, &task, &diag));
  qn_assert_fails(&diag, QN_ERR_INTERNAL, "the process that measures it died before it ran: signal 6",
                  m.prepare(m.self, &fine, 1, out, &diag));
  m.end(m.self);
  qn_worker_destroy(worker);
  qn_arena_deinit(&arena);
}
END_TEST

// Weights of 256 MiB where there is room for 64.
static int no_memory(void) {
  qn_arena arena;
  qn_diag diag = {0};
  qn_measured out[1];
  qn_schedule fine = candidate(GOOD);
  qn_tuning_task task;
  qn_worker *worker;
  long pages = 0;
  qn_arena_init(&arena, qn_allocator_default());
  static const char text[] = "max T=64; x = input f32[T,4096]; w = param f32[16384,4096]; y = matmul x w; output y";
  if (!make_task(text, "qk_matmul", &arena, &task)) return 1;
  qn_worker_options how = {.compiler = {.compile = compile_nothing}};
  if (qn_worker_create(&how, qn_allocator_default(), &worker, &diag) != QN_OK) return 1;
  qn_measurer m = qn_worker_measurer(worker);
  FILE *statm = fopen("/proc/self/statm", "re");
  if (!statm || fscanf(statm, "%ld", &pages) != 1) return 1;
  fclose(statm);
  rlim_t most = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + (64 << 20);
  setrlimit(RLIMIT_AS, &(struct rlimit){most, most});
  if (m.begin(m.self, &task, &diag) != QN_OK) return 1;
  qn_status status = m.prepare(m.self, &fine, 1, out, &diag);
  m.end(m.self);
  qn_worker_destroy(worker);
  return status == QN_ERR_NOMEM && strstr(diag.text, "out of memory") ? 0 : 2;
}

#if defined(__has_feature)
#define ADDRESS_SANITIZER __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define ADDRESS_SANITIZER 1
#else
#define ADDRESS_SANITIZER 0
#endif

START_TEST(out_of_memory) {
  // AddressSanitizer takes more address space than any limit.
  if (!ADDRESS_SANITIZER) ck_assert(in_process(no_memory));
}
END_TEST

QN_CASE(plants, good, wrong, skipping_the_tail, doing_nothing, writing_outside, writing_an_input, crashing,
        killed_from_outside, killed_beside_another, hanging, not_compiling, crashing_the_compiler,
        hanging_the_compiler, crashing_when_timed, wrong_at_first)
QN_CASE(working, limits_by_threads, turns_of_a_pair, cancelling, out_of_time, refused, signals, killed_parent, unknown_inputs, dying_before,
        out_of_memory)
QN_TEST_MAIN(plants, working)
