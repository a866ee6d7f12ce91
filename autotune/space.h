// The schedules that a kernel may have for a class of row counts: what ir/knobs.def allows and qn_schedule_legal finds
// to fit the kernel. To be walked, drawn from, and looked at as points that are near or far from each other.
#ifndef QN_AUTOTUNE_SPACE_H
#define QN_AUTOTUNE_SPACE_H

#include "autotune/surrogate.h"
#include "passes/pass.h"
#include "runtime/rng.h"

#define QN_SPACE_KNOBS   20  // of schedules
#define QN_SPACE_CHOICES 96  // values of one knob that are tried

// One value of a knob; of a list all its items.
typedef struct qn_choice {
  int items[QN_SCHEDULE_MAX_TILES];
  int count;
} qn_choice;

typedef struct qn_space_knob {
  const qn_knob *knob;  // of ir/schedule.h's table
  qn_choice choices[QN_SPACE_CHOICES];
  int count;  // 1 where the kernel has no use for the knob
} qn_space_knob;

typedef struct qn_space {
  const qn_pkernel *kernel;  // borrowed
  int64_t rows_min, rows_max;
  qn_space_knob knobs[QN_SPACE_KNOBS];
  int knob_count;
  int dims;  // coordinates of a point
} qn_space;

// Of all the values that a knob has, those worth a trial: small ones singly, larger ones by steps of a quarter of an
// octave, sizes in bytes by half octaves of cache lines; a list's first item so, and what follows it in the ways in
// which a rest can be cut. Those are left out that are illegal with `start` in all other knobs and with the plain
// schedule, also when any one other knob has another of its choices. `start` is legal; its values and those of the plain
// schedule are always among the choices.
QN_CHECKED qn_status qn_space_init(qn_space *space, const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max,
                                   const qn_schedule *start, qn_diag *diag);

// Gives the knob its choice of that number.
void qn_space_set(const qn_space_knob *knob, qn_schedule *schedule, int choice);

// Combinations of choices, the illegal ones among them.
double qn_space_combinations(const qn_space *space);
bool qn_space_is_legal(const qn_space *space, const qn_schedule *schedule);

// Calls `each` for every legal schedule, in a fixed order, until it returns false.
typedef bool (*qn_space_fn)(void *context, const qn_schedule *schedule);
void qn_space_enumerate(const qn_space *space, qn_space_fn each, void *context);

// These draw a legal schedule; false when some hundred tries found none.
bool qn_space_random(const qn_space *space, qn_rng *rng, qn_schedule *out);
// One or two knobs of `from` changed, mostly to a neighbouring value.
bool qn_space_mutate(const qn_space *space, qn_rng *rng, const qn_schedule *from, qn_schedule *out);
// Every knob from one of both.
bool qn_space_cross(const qn_space *space, qn_rng *rng, const qn_schedule *a, const qn_schedule *b, qn_schedule *out);

// Where a schedule lies: space->dims coordinates, in each of which 1 is about an octave of a size, or a switch.
void qn_space_point(const qn_space *space, const qn_schedule *schedule, double out[QN_SURROGATE_DIMS]);
// Of two points, by the straight line.
double qn_space_distance(const qn_space *space, const qn_schedule *a, const qn_schedule *b);

#endif
