// What `quern tune` tells: progress while it works, the table and the JSON at the end.
#ifndef QUERN_CLI_TUNE_H
#define QUERN_CLI_TUNE_H

#include "frontend/cli/cli.h"

// Live progress on stderr: one line that is redrawn on a terminal, a line for each kernel that gets time elsewhere.
typedef struct tune_progress {
  bool quiet, terminal, drawn;
  char kernel[96];  // of the last line, or a stage
  int64_t rows_min;
  double last_draw;  // seconds
} tune_progress;

void tune_progress_init(tune_progress *progress, bool quiet);
// A quern_tune_progress_fn whose context is a tune_progress. False when a signal has asked to end.
bool tune_progress_step(void *context, const quern_tune_progress *now);
void tune_progress_end(tune_progress *progress);

// "12", "from 9", "2 to 8": a class of token counts. Static storage for four at a time.
const char *tune_rows(int64_t rows_min, int64_t rows_max);
// "1.234 ms": static storage for four at a time.
const char *tune_time(double seconds);

// Why the session ended, the table, and what came of candidates.
void tune_print(const quern_tune_report *report, double within);
// What the user must know, on stderr: records that were rejected, and default schedules that are wrong. The exit code:
// 10, a bug of quern, where there are such.
int tune_warn(const quern_tune_report *report);
// The report as one JSON object with a newline after it.
void tune_put_json(const quern_tune_report *report, qn_buf *out);

#endif
