// A pass over the whole compilation, and the pipeline that runs them: run, verify, dump (pipeline.c, passes.def).
#ifndef QN_PASSES_PASS_H
#define QN_PASSES_PASS_H

#include "ir/program.h"

// How a target steers default schedules; quern.c fills it from codegen/target.h.
typedef struct qn_schedule_hints {
  int vector_bytes, vector_registers;
  int dots;             // the schedule's knob of that name
  int64_t cache_bytes;  // of a core's own second cache
} qn_schedule_hints;

typedef struct qn_pass_options {
  qn_schedule_hints hints;
  bool quantize_activations;  // numeric mode int8: quantised weights meet quantised activations
  // One schedule for every kernel's variants of that class instead of the defaults (tests, tuning); NULL = defaults.
  const qn_schedule *forced_schedule;
  // Called after each pass with its name and the text of what it left, when not NULL.
  void (*dump)(void *context, const char *pass, const char *text, size_t length);
  void *dump_context;
} qn_pass_options;

// What a compilation is at any time: the graph, and from `lower` on the program too.
typedef struct qn_pass_context {
  qn_arena *arena;  // borrowed: lives as long as the compilation
  const qn_allocator *allocator;
  const qn_pass_options *options;
  qn_graph *graph;
  qn_program *program;
  qn_diag *diag;
} qn_pass_context;

#define QN_PASS(name, stage, text) QN_CHECKED qn_status qn_pass_##name(qn_pass_context *context);
#include "passes/passes.def"
#undef QN_PASS

// Runs every pass of passes.def in order on context->graph.
QN_CHECKED qn_status qn_run_passes(qn_pass_context *context);
// Runs the passes up to and including the named one (golden tests).
QN_CHECKED qn_status qn_run_passes_until(qn_pass_context *context, const char *last);
// Runs one pass by name, verified after (golden tests). Unknown names are QN_ERR_ARGUMENT.
QN_CHECKED qn_status qn_run_pass(qn_pass_context *context, const char *name);

#endif
