// Progress of long work on stderr: a line with a bar that is redrawn on a terminal, a line a stage elsewhere.
#ifndef QUERN_CLI_PROGRESS_H
#define QUERN_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "frontend/quern.h"

typedef struct cli_progress {
  bool quiet;                            // nothing at all
  bool terminal;                         // stderr can redraw a line
  bool drawn;                            // a line stands there now
  char stage[64];                        // the last one reported
  double begin, stage_begin, last_draw;  // seconds
} cli_progress;

void cli_progress_init(cli_progress *progress, bool quiet);
// A quern_progress_fn whose context is a cli_progress. False when a signal has asked to end.
bool cli_progress_step(void *context, const char *stage, uint64_t done, uint64_t total);
// Erases what stands there. Call before anything else is written to stderr.
void cli_progress_end(cli_progress *progress);
// Seconds since init.
double cli_progress_seconds(const cli_progress *progress);

// What a compilation made of the records of tuning, in a line on stderr; nothing where there are none.
void cli_tell_tuning(const quern_tuning_use *use);

double cli_seconds(void);  // of a clock that never goes back

#endif
