// A machine for the tuner's tests that is none: its clock stands still but for what candidates cost by a known surface,
// with one best schedule planted in it. Caches are those of a topology that hwloc makes up.
#ifndef QN_TESTS_SUPPORT_FAKE_MACHINE_H
#define QN_TESTS_SUPPORT_FAKE_MACHINE_H

#include "autotune/measure.h"
#include "autotune/space.h"

typedef struct qn_fake_machine {
  qn_measurer measurer;
  const qn_machine_model *model;  // borrowed
  uint64_t seed;                  // of the surfaces and the noise
  double noise;                   // standard deviation of a time, as a share of it
  double best_s;                  // seconds that a kernel's planted schedule takes
  double compile_s, check_s;      // of one candidate
  double clock;                   // seconds; only ever moved by work
  // What is wrong with a schedule, if anything; NULL = nothing.
  qn_verdict (*judge)(const qn_schedule *schedule);
  // Dies when it is timed, not when it is checked; NULL = none.
  bool (*dies)(const qn_schedule *schedule);
  bool (*hangs)(const qn_schedule *schedule);      // is checked for hang_s, and then found to hang; NULL = none
  bool (*too_large)(const qn_tuning_task *task);   // there is no memory for it; NULL = none is
  double (*cost)(const struct qn_fake_machine *machine, const qn_schedule *schedule);  // instead of the surface
  // What a setting makes of every time, as a factor; NULL = half the threads take twice the time.
  double (*factor)(const struct qn_fake_machine *machine, qn_setting setting);
  qn_setting settings[2];
  double hang_s, deadline;
  qn_rng rng;
  qn_tuning_task task;
  qn_space space;  // of the task
  qn_schedule planted;
  qn_schedule prepared[64];
  int prepared_count;
  int candidates, pairs;  // so far
  bool begun;
} qn_fake_machine;

void qn_fake_machine_init(qn_fake_machine *machine, const qn_machine_model *model, uint64_t seed, double noise);
// Seconds that a schedule takes without noise: at least best_s, which only the planted one does. `machine` has the
// task (between begin and end, or by qn_fake_machine_face).
double qn_fake_machine_cost(const qn_fake_machine *machine, const qn_schedule *schedule);
// Makes the task's surface and plants the optimum; the same for the same kernel, rows and seed.
void qn_fake_machine_face(qn_fake_machine *machine, const qn_tuning_task *task);

// A model of a machine with the caches that hwloc sees; "HWLOC_SYNTHETIC" in the environment makes them up.
qn_machine_model qn_fake_machine_model(void);

// The kernels of a small decoder layer, up to plan_memory, in the arena.
const qn_program *qn_fake_program(qn_arena *arena);
// The first matmul of a program.
const qn_pkernel *qn_fake_matmul(const qn_program *program);
// A task on it.
qn_tuning_task qn_fake_task(const qn_program *program, const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max,
                            int64_t rows);

#endif
