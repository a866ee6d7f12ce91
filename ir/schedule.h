// A schedule: what the loop passes do to a kernel, as a short list of values. Two schedules of one kernel compute the
// same bits. Text form: one `knob = value` a line, in the order of knobs.def.
#ifndef QN_IR_SCHEDULE_H
#define QN_IR_SCHEDULE_H

#include "ir/type.h"

#define QN_SCHEDULE_MAX_TILES 6

typedef struct qn_schedule {
  // Rows of tokens a tile holds, largest first: the main loop takes the first, what is left the next, and so on; the
  // last is 1. m_tile_count is at least 1.
  int m_tiles[QN_SCHEDULE_MAX_TILES];
  int m_tile_count;
  int m_block;         // tiles of m_tiles[0] tokens that share each block of weights, unpacked once for all of them
  int n_tile;          // panels of 16 output rows a tile holds; must divide the number of panels
  int n_apart;         // 1 = not neighbours, but one of each part of as many panels as there are tiles
  int n_block;         // tiles of panels walked for one tile of tokens, before the next one
  int k_unroll;        // 1 = unroll the lines of a block (loop g), 0 = keep the loop
  int dots;            // how codes are multiplied: 0 unsigned bytes, 1 signed, 2 sums of pairs (passes/narrow.c)
  int lanes;           // vector width of elementwise loops: 1, 4, 8 or 16
  int prefetch_bytes;  // how far ahead streamed weights are prefetched; 0 = not at all
  int prefetch_far;    // 1 = into the second cache; 0 = into the first
  int parallel;        // 1 = the outermost data loop is shared by threads
} qn_schedule;

// What is the machine's to choose and no kernel's: text form and checks are those of a schedule.
typedef struct qn_machine_knobs {
#define QN_KNOB_INT(...)
#define QN_KNOB_LIST(...)
#define QN_KNOB_MACHINE(name, legal, plain, meaning) int name;
#include "ir/knobs.def"
#undef QN_KNOB_INT
#undef QN_KNOB_LIST
#undef QN_KNOB_MACHINE
} qn_machine_knobs;

// A line of knobs.def. Of a schedule or of qn_machine_knobs, as `of_machine` says.
typedef struct qn_knob {
  const char *name;
  const char *legal;            // "a..b" or "a|b|c": ask qn_knob_is_legal
  const char *kernels;          // letters M, A, R; of the machine: ""
  const char *meaning;
  int plain;
  int capacity;                 // values a list may have; 0 = a single value
  bool of_machine;
  size_t offset, count_offset;  // of the int (or the first of a list), and of the list's count
} qn_knob;
// All of them, those of schedules first.
const qn_knob *qn_knobs(size_t *out_count);
bool qn_knob_is_legal(const qn_knob *knob, int value);
// A single value, of a list the first one.
int qn_knob_get(const qn_knob *knob, const void *schedule);
void qn_knob_set(const qn_knob *knob, void *schedule, int value);

// The plainest schedule: everything 1, nothing ahead, not parallel.
qn_schedule qn_schedule_plain(void);
// Whether all knobs are the same, which makes the same code of a kernel.
bool qn_schedule_equal(const qn_schedule *a, const qn_schedule *b);
void qn_schedule_print(const qn_schedule *schedule, qn_buf *out);
// Knobs not named keep the plain value. Errors name the line, the knob, got and want.
QN_CHECKED qn_status qn_schedule_parse(const char *name, qn_str text, qn_schedule *out, qn_diag *diag);
QN_CHECKED qn_status qn_schedule_check(const qn_schedule *schedule, qn_diag *diag);

qn_machine_knobs qn_machine_knobs_plain(void);
void qn_machine_knobs_print(const qn_machine_knobs *knobs, qn_buf *out);
QN_CHECKED qn_status qn_machine_knobs_parse(const char *name, qn_str text, qn_machine_knobs *out, qn_diag *diag);

#endif
