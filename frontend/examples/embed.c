// A compiled graph as an object file in a program of its own, which needs nothing of quern when it is built or run:
//   quern compile embed.json --emit=object --name scaled -o scaled.o
//   cc embed.c scaled.o -I. -pthread -o embed && ./embed
// Threads of the program's own do parts of the loops.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "scaled.h"

enum { ROWS = 5, WIDTH = 4, THREADS = 2 };

typedef struct part {
  quern_object_part_fn run;
  void *work;
  int64_t begin, end;
} part;

static void *run_part(void *context) {
  part *p = context;
  p->run(p->work, p->begin, p->end);
  return NULL;
}

// A quern_object_parallel_fn: each thread an equal share of the numbers.
static void parallel(void *context, quern_object_part_fn run, void *work, int64_t count) {
  pthread_t threads[THREADS];
  part parts[THREADS];
  int started[THREADS];
  (void)context;
  for (int i = 0; i < THREADS; i++) {
    parts[i] = (part){run, work, count * i / THREADS, count * (i + 1) / THREADS};
    started[i] = parts[i].begin < parts[i].end && pthread_create(&threads[i], NULL, run_part, &parts[i]) == 0;
    if (!started[i] && parts[i].begin < parts[i].end) run_part(&parts[i]);
  }
  for (int i = 0; i < THREADS; i++)
    if (started[i]) pthread_join(threads[i], NULL);
}

int main(void) {
  float x[ROWS][WIDTH], y[ROWS][2], again[ROWS][2];
  size_t bytes = (SCALED_SCRATCH_BYTES + SCALED_ALIGNMENT) / SCALED_ALIGNMENT * SCALED_ALIGNMENT;
  void *scratch = aligned_alloc(SCALED_ALIGNMENT, bytes);
  for (int row = 0; row < ROWS; row++)
    for (int i = 0; i < WIDTH; i++) x[row][i] = (float)(row + 1) * (float)(i - 1);
  scaled_args args = {.in_x = &x[0][0], .out_y = &y[0][0], .scratch = scratch, .tokens = ROWS};
  int code = scaled_run(&args);
  args.out_y = &again[0][0];
  args.parallel = parallel;
  if (code == 0) code = scaled_run(&args);
  free(scratch);
  if (code != 0) return fprintf(stderr, "embed: code %d on a CPU that must have %s\n", code, SCALED_CPU_FEATURES), code;
  for (int row = 0; row < ROWS; row++) {
    int same = y[row][0] == again[row][0] && y[row][1] == again[row][1];
    printf("%.4f %.4f%s\n", y[row][0], y[row][1], same ? "" : "  OTHER VALUES BY THREADS");
  }
  return 0;
}
