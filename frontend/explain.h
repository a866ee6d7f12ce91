// What the files of explain share: the explanation as it is built, and its parts.
#ifndef QUERN_FRONTEND_EXPLAIN_H
#define QUERN_FRONTEND_EXPLAIN_H

#include "autotune/profile.h"
#include "frontend/kernel_facts.h"
#include "frontend/quern.h"
#include "passes/pass.h"
#include "runtime/base/arena.h"
#include "runtime/model.h"

// The phases of a model that writes texts. What an encoder beside a decoder does with a source takes the place of the
// prefill; an encoder alone has that phase and no other.
enum { EXPLAIN_PREFILL, EXPLAIN_DECODE, EXPLAIN_PHASES };

// What a model does, by which its phases are named.
typedef enum explain_kind { EXPLAIN_TEXTS, EXPLAIN_SOURCES, EXPLAIN_EMBEDDINGS, EXPLAIN_KINDS } explain_kind;
// "prefill"; NULL where the kind has no such phase.
const char *explain_phase_name(explain_kind kind, int phase);
size_t explain_phase_count(explain_kind kind);

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
  int64_t source;               // tokens of the source that the tokens look at
  bool of_source;               // the tokens are a source's
} explain_chunk;

// A kernel of the artifact.
typedef struct explain_kernel {
  const char *name, *place;  // arena
  qn_pkernel facts;          // arena
  quern_kernel_cost cost;
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
  explain_kind kind;
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
// The rows of a kernel in a step; 0 = it has nothing to do in it.
int64_t explain_rows(const explain_kernel *kernel, const explain_chunk *chunk);
// Pairs of a token and a key that it sees, in one call of attention of such a cost.
double explain_pairs(const quern_kernel_cost *cost, const explain_chunk *chunk);
// Adds what the kernel's calls in a step move and compute.
void explain_add_cost(const explain_kernel *kernel, const explain_chunk *chunk, quern_kernel_report *out);
// What is asked for, in tokens; 0 = the usual.
typedef struct explain_sizes {
  int64_t prompt, depth;
} explain_sizes;
// Fills in the usual where nothing is said, and holds it against the model's context of `context` tokens (0 = any number)
// and the most that its symbols allow. `path` and `what` ("explain") are for messages. Errors: ARGUMENT, LIMIT.
QN_CHECKED qn_status explain_plan_sizes(explain_kind kind, int64_t context, const int64_t symbol_max[QN_SYM_COUNT],
                                        const char *path, const char *what, explain_sizes *sizes, qn_diag *diag);
// The steps of the phases: a prompt in chunks of at most as many tokens as T allows, of which the last computes logits, or
// what is read whole; and a token after `depth` others. In the arena.
QN_CHECKED qn_status explain_plan_chunks(explain_kind kind, const explain_sizes *sizes,
                                         const int64_t symbol_max[QN_SYM_COUNT], qn_arena *arena,
                                         explain_chunk *chunks[EXPLAIN_PHASES], size_t counts[EXPLAIN_PHASES],
                                         qn_diag *diag);
// The value below which a quarter of them lie, 0 of none; sorts them. Other programs only add to a time, and those that
// run a while add to most: the first quarter tells what a kernel takes when it is left alone.
double explain_undisturbed(double *values, size_t count);

#endif
