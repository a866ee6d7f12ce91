// What the files of explain share: the explanation as it is built, and its parts.
#ifndef QUERN_FRONTEND_EXPLAIN_H
#define QUERN_FRONTEND_EXPLAIN_H

#include "autotune/profile.h"
#include "frontend/kernel_facts.h"
#include "frontend/quern.h"
#include "passes/pass.h"
#include "runtime/base/arena.h"
#include "runtime/model.h"

enum { EXPLAIN_PREFILL, EXPLAIN_DECODE, EXPLAIN_PHASES };

// An explanation and the memory it lives in: what it points to lies in the arena.
typedef struct explanation {
  quern_explanation told;  // first: the public pointer is the whole's
  qn_arena arena;
  quern_phase_report phases[EXPLAIN_PHASES];
} explanation;
// NULL when out of memory.
explanation *explanation_create(void);
// Fills it from what quern explain --json writes, which may come from anybody; text[size] is NUL, `name` for messages.
// Errors: FORMAT, LIMIT, NOMEM.
QN_CHECKED qn_status explanation_parse(const char *name, const char *text, size_t size, explanation *e, qn_diag *diag);

// A step of the program as a phase does it: some tokens of one sequence, of which `rows` want logits.
typedef struct explain_chunk {
  int64_t tokens, rows, depth;  // depth: keys before the first token
} explain_chunk;

// A kernel of the artifact.
typedef struct explain_kernel {
  const char *name, *place;  // arena
  qn_pkernel facts;          // arena
  quern_kernel_cost cost;
  bool of_rows;    // works on the tokens whose logits are wanted, and not at all where there are none
  int64_t steps;   // of the program that call it; 0 = none
  uint32_t slice;  // its variants, in the plan of the target
} explain_kernel;

// Samples of one phase: of every run the whole time, and by kernel the time from its begin on until all threads are
// done with it, and the time that threads were inside.
typedef struct explain_samples {
  double *total, *wall, *busy;  // (most_runs), (kernels, most_runs) twice; seconds, arena
  double *outside;              // (most_runs): of the whole time, that outside kernels
  double *minor, *major;        // (most_runs): page faults
  double *interrupted;          // (most_runs): how often another program took a thread's CPU
  double *faults;               // (kernels): of the first thread in a run that counts them
  size_t runs, most_runs;
  double first_s, first_minor, first_major;
} explain_samples;

typedef struct explain_rates {
  double read, int8, narrow, fp32;                 // the host's; narrow: int8 by codes of few bits
  double target_int8, target_narrow, target_fp32;  // of the target's instructions
} explain_rates;

// Everything an explanation is made from.
typedef struct explaining {
  quern_model *model;                    // borrowed
  const quern_explain_options *options;  // borrowed; whole
  explanation *e;
  qn_arena *arena;  // &e->arena
  qn_diag *diag;
  const qn_art_code *code;  // of the target; NULL = the JIT's
  const qn_art_slice *slices;
  uint32_t plan;
  qn_str text;  // of the kernels
  explain_kernel *kernels;
  size_t kernel_count;
  explain_chunk *chunks[EXPLAIN_PHASES];  // arena
  size_t chunk_count[EXPLAIN_PHASES];
  int64_t prompt, depth;
  int repetitions;
  explain_samples samples[EXPLAIN_PHASES];
  explain_rates rates;
  double fault_s;
  int threads;  // of the session, and in each phase
  int phase_threads[EXPLAIN_PHASES];
  qn_machine_profile profile;
  bool profile_found;
  bool same_isa;                    // the target uses all that the host's would
  qn_machine_model memory_machine;  // what is known of this machine
  qn_machine_model machine;         // the same for a phase, whose bytes may come from a cache
} explaining;

// Of a call on the database that failed: what is told without it is still true, so the problem is kept to be told, and
// all goes on. Only NOMEM stays a failure.
QN_CHECKED qn_status explain_without_database(explaining *x, qn_status status, const qn_diag *problem);
qn_status explain_report(explaining *x, const char *stage, uint64_t done, uint64_t total);
// Takes all samples and rates (explain_measure.c).
QN_CHECKED qn_status explain_measure(explaining *x);
// Looks up the machine's profile in the database, and fills in memory_machine from it or from a measurement, after
// explain_measure (explain_machine.c).
QN_CHECKED qn_status explain_find_profile(explaining *x);
QN_CHECKED qn_status explain_machine(explaining *x);
// Costs, bounds and terms of every kernel, and the phases (explain_terms.c).
QN_CHECKED qn_status explain_terms(explaining *x);
// The name of the term that limits the kernel, all of whose terms are filled in.
const char *explain_limit(const quern_kernel_report *kernel);
// What the database tells of the kernels of a phase (explain_tuning.c).
QN_CHECKED qn_status explain_tuning(explaining *x);

// A copy of a text of the artifact's, in the arena, without bytes that would drive a terminal; NULL when out of memory.
const char *explain_text(qn_arena *arena, qn_str text);
// Adds what the kernel's calls in a step move and compute.
void explain_add_cost(const explain_kernel *kernel, const explain_chunk *chunk, quern_kernel_report *out);
// The steps of both phases: a prompt in chunks of at most `most` tokens (0 = any number), of which the last computes
// logits, and a token after `depth` others. In the arena.
QN_CHECKED qn_status explain_plan_chunks(int64_t prompt, int64_t depth, int64_t most, qn_arena *arena,
                                         explain_chunk *chunks[EXPLAIN_PHASES], size_t counts[EXPLAIN_PHASES],
                                         qn_diag *diag);
// The value below which a quarter of them lie, 0 of none; sorts them. Other programs only add to a time, and those that
// run a while add to most: the first quarter tells what a kernel takes when it is left alone.
double explain_undisturbed(double *values, size_t count);

#endif
