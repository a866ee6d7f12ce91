// Draws progress on stderr. Redrawing is limited to ten times a second, so that reporting often costs nothing.
#include "frontend/cli/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "frontend/cli/cli.h"

enum { BAR_WIDTH = 24 };

double cli_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void cli_progress_init(cli_progress *progress, bool quiet) {
  const char *term = getenv("TERM");
  *progress = (cli_progress){.quiet = quiet, .begin = cli_seconds()};
  progress->terminal = isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0;
}

double cli_progress_seconds(const cli_progress *progress) { return cli_seconds() - progress->begin; }

static void draw(cli_progress *progress, uint64_t done, uint64_t total, double now) {
  int seconds = (int)(now - progress->stage_begin);
  fprintf(stderr, "\r\033[K%s", progress->stage);
  if (total > 1) {
    double part = done < total ? (double)done / (double)total : 1;
    int filled = (int)(part * BAR_WIDTH);
    fprintf(stderr, " [%.*s%*s] %3d %%", filled, "========================", BAR_WIDTH - filled, "", (int)(part * 100));
  }
  fprintf(stderr, " %d:%02d", seconds / 60, seconds % 60);
  fflush(stderr);
  progress->drawn = true;
  progress->last_draw = now;
}

bool cli_progress_step(void *context, const char *stage, uint64_t done, uint64_t total) {
  cli_progress *progress = context;
  if (cli_interrupted()) return false;
  if (progress->quiet) return true;
  double now = cli_seconds();
  bool entered = strncmp(stage, progress->stage, sizeof progress->stage - 1) != 0;
  if (entered) {
    snprintf(progress->stage, sizeof progress->stage, "%s", stage);
    progress->stage_begin = now;
    if (!progress->terminal) fprintf(stderr, "quern: %s\n", progress->stage);
  }
  if (progress->terminal && (entered || now - progress->last_draw >= 0.1)) draw(progress, done, total, now);
  return true;
}

void cli_progress_end(cli_progress *progress) {
  if (progress->drawn) fputs("\r\033[K", stderr);
  progress->drawn = false;
}

void cli_tell_tuning(const quern_tuning_use *use) {
  if (*use->problem) {
    fprintf(stderr, "quern: warning: the records of tuning are not used: %s\n", use->problem);
    return;
  }
  if (use->other_threads > 0) {
    fprintf(stderr,
            "quern: note: tuning has found schedules for %d threads, and none for the %d that are compiled for; compile "
            "--run-threads %d and run --threads %d use them\n",
            use->other_threads, use->threads, use->other_threads, use->other_threads);
  }
  if (use->accepted + use->rejected == 0) return;
  fprintf(stderr, "quern: schedules from tuning: %d of %d", use->accepted,
          use->accepted + use->rejected + use->missing);
  if (use->verified > 0) fprintf(stderr, ", %d of them checked again", use->verified);
  if (use->rejected > 0) fprintf(stderr, "; %d records rejected, the first: %s", use->rejected, use->first_reason);
  fputc('\n', stderr);
}
