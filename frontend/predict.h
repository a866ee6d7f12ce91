// What the files of quern_predict share: a program's kernels as a GPU gets them, and the time that one launch takes.
#ifndef QUERN_FRONTEND_PREDICT_H
#define QUERN_FRONTEND_PREDICT_H

#include "codegen/cuda/chip.h"
#include "frontend/explain.h"
#include "passes/gpu_count.h"

// Code of a kernel for some row counts.
typedef struct predict_variant {
  const char *name;  // arena
  int64_t rows_min, rows_max;
  const qn_lkernel *kernel;  // mapped; arena
  qn_gpu_schedule schedule;
  int64_t shared_bytes;  // of a block
  int64_t registers;     // of a thread; 0 = not known
} predict_variant;

typedef struct predict_param {
  bool far;           // weights, keys, values
  const char *input;  // arena: the name of an input, else ""
} predict_param;

typedef struct predict_kernel {
  explain_kernel told;
  predict_variant variants[QN_MAX_VARIANTS];
  int variant_count;
  predict_param *params;  // arena
} predict_kernel;

typedef struct predicting {
  const quern_predict_options *options;  // borrowed; whole
  explanation *e;
  qn_arena *arena;  // &e->arena
  qn_diag *diag;
  const char *path;  // for messages
  explain_kind kind;
  qn_chip chip;
  predict_kernel *kernels;  // arena
  size_t kernel_count;
  int64_t symbol_max[QN_SYM_COUNT];
  int64_t context;                        // the most tokens that a sequence may have; 0 = any number
  explain_chunk *chunks[EXPLAIN_PHASES];  // arena
  size_t chunk_count[EXPLAIN_PHASES];
  int64_t prompt, depth;
} predicting;

// Fills in the kernels and limits: of a model file, whose compilation stops at the program; or of an artifact with code
// for GPUs (predict_source.c).
QN_CHECKED qn_status predict_open_model(predicting *p);
QN_CHECKED qn_status predict_open_artifact(predicting *p);

// The seconds of one launch, and what they are made of (predict_time.c).
typedef struct predict_time {
  double seconds;  // the slowest of the next four, and the start
  double bandwidth_s, cache_s, issue_s, latency_s;
  double start_s;  // from the end of the kernel before until it runs
} predict_time;
// memory_bytes: that must come from memory. Errors: TARGET when the chip has no room for a block.
QN_CHECKED qn_status predict_launch(const qn_chip *chip, const predict_variant *variant, const qn_gpu_counts *counts,
                                    size_t param_count, double memory_bytes, predict_time *out, qn_diag *diag);
// How a launch spreads over the chip, in words, in the arena; NULL when out of memory.
const char *predict_words(const qn_chip *chip, const predict_variant *variant, const qn_gpu_counts *counts,
                          qn_arena *arena);

#endif
