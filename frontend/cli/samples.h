// quern run --samples: several texts from one prompt, which is evaluated once; they share its KV pages and a step
// evaluates a token of each.
#ifndef QUERN_CLI_SAMPLES_H
#define QUERN_CLI_SAMPLES_H

#include "frontend/quern.h"

typedef struct cli_samples {
  const quern_model *model;    // borrowed
  quern_scheduler *scheduler;  // borrowed
  // What all have in common: prompt, limits, stops, what guesses. The i-th text, from 0, is sampled with the sampler's
  // seed and i added to it: it is the one that this seed gives alone.
  quern_request request;
  uint64_t count;
  bool json, quiet;
} cli_samples;

// Generates the texts and prints them in order. An exit code, after a message where it is not 0.
int cli_samples_run(const cli_samples *samples);

#endif
