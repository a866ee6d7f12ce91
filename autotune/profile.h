// What a machine was measured to do, as one record: speeds by number of threads, the settings that follow from them,
// and the model of the machine that schedules are chosen by. And the fingerprint under which it is kept.
#ifndef QN_AUTOTUNE_PROFILE_H
#define QN_AUTOTUNE_PROFILE_H

#include "autotune/machine.h"
#include "ir/schedule.h"
#include "passes/pass.h"

// What the speed of a schedule depends on, in a line: architecture, instruction sets, cache sizes, threads in use (0 =
// one a core). Machines of one make have the same, so that what was found on one serves the other.
void qn_machine_fingerprint(int threads, qn_buf *out);
// The instruction sets of it: "avx,avx2,f16c,...".
void qn_machine_features(qn_buf *out);

#define QN_PROFILE_COUNTS 16  // numbers of threads
enum { QN_PROFILE_L1, QN_PROFILE_L2, QN_PROFILE_L3, QN_PROFILE_MEMORY, QN_PROFILE_LEVELS };
enum { QN_PROFILE_HUGE, QN_PROFILE_SMALL, QN_PROFILE_PAGES };

// Rates are of all threads together, a second: the best of several measurements, since other programs only take away.
// Times are the shortest.
typedef struct qn_machine_profile {
  char target[128];  // whose code it was measured with
  int count;
  int threads[QN_PROFILE_COUNTS];                                       // rising: 1, 2, 4, ... one a core
  double read[QN_PROFILE_LEVELS][QN_PROFILE_PAGES][QN_PROFILE_COUNTS];  // bytes; 0 = there is no such cache
  double fma[QN_PROFILE_COUNTS], bf16[QN_PROFILE_COUNTS];               // f32 operations, a multiply-add is two
  double int8[QN_PROFILE_COUNTS];       // operations on 8-bit integers, a multiply-add is two: the best form of dot4
  double narrow[QN_PROFILE_COUNTS];     // the same by codes of 4 bits
  double barrier_s[QN_PROFILE_COUNTS];  // until all have met; 0 for one thread
  double piece_s[QN_PROFILE_COUNTS];    // a thread takes its next share of work while the others do too
  // Settings hang on small differences, so these are medians of ratios of measurements that followed each other, of
  // those that no other program disturbed; 0 = there were too few of such.
  double read_part[QN_PROFILE_COUNTS], int8_part[QN_PROFILE_COUNTS];  // of what all threads reach
  double huge_gain;     // reading memory with all threads: huge pages over small ones
  double moving_gain;   // free to move over bound to cores
  double ahead_gain;    // one thread reading weights as a product of a token: prefetched over left to the hardware
  double far_gain;      // as one of three tokens, prefetched into the second cache, over a token's left to the hardware
  double wake_s;        // a barrier where those who wait sleep at once
  double cycles_per_s;  // of one thread: from the latency of plain vector operations
  double fma_latency;   // cycles
  double vector_ops;    // plain vector operations (32-bit lanes) of one thread
  double dots[3];       // int8 by form, of one thread: the values of the knob
  double huge_bytes;    // of 256 MiB, what the system gave on huge pages
  qn_machine_knobs knobs;
} qn_machine_profile;

typedef bool (*qn_profile_step_fn)(void *context, int done, int total);  // false = stop
// Measures for about `budget_s` seconds, and at least once. threads 0 = one a core. Errors: NOMEM, LIMIT (threads
// refused), CANCELLED.
QN_CHECKED qn_status qn_profile_measure(qn_machine *machine, const qn_target *target, int threads, double budget_s,
                                        const qn_allocator *allocator, qn_profile_step_fn step, void *step_context,
                                        qn_machine_profile *out, qn_diag *diag);
// The settings that follow from the speeds (profile.c says how).
qn_machine_knobs qn_profile_knobs(const qn_machine_profile *profile);

// One line: `name = values; name = values`. Reading wants every name, and skips names that it does not know.
void qn_profile_print(const qn_machine_profile *profile, qn_buf *out);
QN_CHECKED qn_status qn_profile_parse(const char *name, qn_str text, qn_machine_profile *out, qn_diag *diag);

// Fills in what is known of this machine for code of `target` run by `threads` (0 = one a core): caches and cores from
// the topology, speeds from `profile` (NULL = not measured, as is one that other programs disturbed: then those of
// `model` stay). Of a target other than the profile's only what does not depend on the instructions.
void qn_profile_fill_model(const qn_machine_profile *profile, const qn_target *target, int threads,
                           qn_machine_model *model);

#endif
