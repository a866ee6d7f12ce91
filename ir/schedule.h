// A schedule: what the loop passes do to a kernel, as a short list of values. Two schedules of one kernel compute the
// same bits. Text form: one `knob = value` a line, in the order of schedule.def.
#ifndef QN_IR_SCHEDULE_H
#define QN_IR_SCHEDULE_H

#include "ir/type.h"

#define QN_SCHEDULE_MAX_TILES 6

typedef struct qn_schedule {
  // Rows of tokens a tile holds, largest first: the main loop takes the first, what is left the next, and so on; the
  // last is 1. m_tile_count is at least 1.
  int m_tiles[QN_SCHEDULE_MAX_TILES];
  int m_tile_count;
  int n_tile;          // panels of 16 output rows a tile holds; must divide the number of panels
  int n_block;         // tiles of panels walked for one tile of tokens, before the next one
  int k_unroll;        // 1 = unroll the lines of a block (loop g), 0 = keep the loop
  int dots;            // how codes are multiplied: 0 unsigned bytes, 1 signed, 2 sums of pairs (passes/narrow.c)
  int lanes;           // vector width of elementwise loops: 1, 4, 8 or 16
  int prefetch_bytes;  // how far ahead streamed weights are prefetched; 0 = not at all
  int parallel;        // 1 = the outermost data loop is shared by threads
} qn_schedule;

// The plainest schedule: everything 1, nothing ahead, not parallel.
qn_schedule qn_schedule_plain(void);
// Whether all knobs are the same, which makes the same code of a kernel.
bool qn_schedule_equal(const qn_schedule *a, const qn_schedule *b);
void qn_schedule_print(const qn_schedule *schedule, qn_buf *out);
// Knobs not named keep the plain value. Errors name the line, the knob, got and want.
QN_CHECKED qn_status qn_schedule_parse(const char *name, qn_str text, qn_schedule *out, qn_diag *diag);
QN_CHECKED qn_status qn_schedule_check(const qn_schedule *schedule, qn_diag *diag);

#endif
