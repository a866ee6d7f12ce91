// A pass over the whole compilation, and the pipeline that runs them: run, verify, dump (pipeline.c, passes.def).
#ifndef QN_PASSES_PASS_H
#define QN_PASSES_PASS_H

#include "ir/program.h"

// What the speed of a schedule depends on: of a target, or of the machine at hand where it is known (quern.c fills it
// from codegen/target.h, the topology and measured speeds).
typedef struct qn_machine_model {
  int vector_bytes, vector_registers;
  int dots;                               // the form of integer dot products that suits it: the knob of that name
  int cores;                              // threads that share the work
  int64_t l1_bytes, l2_bytes, l3_bytes;   // first and second cache of a core; the last, shared one (0 = none)
  double cycles_per_s;                    // of a core
  double fma_per_cycle, loads_per_cycle, stores_per_cycle;  // vector instructions of a core
  double vector_ops_per_cycle;            // of other kinds: integer arithmetic, shuffles, conversions
  double issue_per_cycle;                 // instructions of any kind
  double fma_latency;                     // cycles
  double l2_bytes_per_cycle, l3_bytes_per_cycle;  // of a core
  double memory_bytes_per_s;                      // of all cores together
  double core_bytes_per_s;                        // memory's, of one core alone that reads one stream
  // What share of a core's best one stream of weights reaches: left to the hardware's own prefetching, and prefetched
  // by the kernel, into its first cache and into its second (0 = not known: default schedules do without). And what is
  // left of the former two where a tile's panels are neighbours, so that each stream jumps again and again. The third is
  // of tiles of some tokens: one token reads ahead of such prefetches.
  double stream_alone, stream_ahead, stream_far, neighbours;
  double memory_latency_s;
  double barrier_s;                               // threads meet
  double piece_s;                                 // a thread takes its next share of the work
} qn_machine_model;
// Plain values for a target of which only these are known; l2_bytes 0 = not even that. Four cores of 3 GHz.
qn_machine_model qn_machine_model_plain(int vector_bytes, int vector_registers, int dots, int64_t l2_bytes);
// What else is plain of a CPU that reads one stream of weights best where nothing is prefetched (Zen 4).
void qn_machine_model_read_alone(qn_machine_model *model);

// Are keys to be evicted from caches, and by what? Bits; any of them gives keys places apart from positions.
typedef enum qn_evict {
  QN_EVICT_NONE = 0,
  QN_EVICT_PLACES = 1,    // by what the cache holds (place_keys)
  QN_EVICT_QUERIES = 2,   // by the newest tokens' queries, too (place_keys)
  QN_EVICT_SUMS = 4,      // by the attention that they have had (sum_attention)
  QN_EVICT_SOFTSUMS = 8,  // by that of half the scores (sum_attention)
} qn_evict;

typedef struct qn_pass_options {
  // For GPUs: tokens are chosen by the program, attention is split by chunks of keys, schedules are theirs, kernels go
  // through the loop passes of gpu_passes.def, and no steps are linked. What is said of machine, schedules and `choose`
  // below does not matter then.
  bool gpu;
  qn_machine_model machine;
  bool quantize_activations;  // numeric mode int8: quantised weights meet quantised activations
  // Where the parameters' values come from, for passes that go by them (balance_keys); NULL = they are not known. What it
  // points at is borrowed.
  const qn_weight_source *weights;
  bool half_activations;      // numeric mode half: 16-bit weights meet activations rounded to their type
  unsigned evict;             // qn_evict
  bool rings;  // a language model's layers with windows beside others have pages of their own (ring_tables)
  // One schedule for every kernel's variants of that class instead of the defaults (tests, tuning); NULL = defaults.
  const qn_schedule *forced_schedule;
  // Asked for the variants of every kernel before the model is: true when it filled *out (from records, say). A plan
  // that does not fit the kernel is an error (qn_schedule_legal).
  bool (*choose)(void *context, const qn_pkernel *kernel, qn_kernel_plan *out);
  void *choose_context;
  // Called after each pass with its name and the text of what it left, when not NULL.
  void (*dump)(void *context, const char *pass, const char *text, size_t length);
  void *dump_context;
} qn_pass_options;

// A vector that a pass made beside the model's weights, by the name of its parameter. In the compilation's arena.
typedef struct qn_made_weight {
  const char *name;
  int64_t count;
  const float *values;
} qn_made_weight;

// What a compilation is at any time: the graph, and from `lower` on the program too.
typedef struct qn_pass_context {
  qn_arena *arena;  // borrowed: lives as long as the compilation
  const qn_allocator *allocator;
  const qn_pass_options *options;
  qn_graph *graph;
  qn_program *program;
  QN_VEC(qn_made_weight) made;  // arena
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

// ---- schedules of a kernel as lowered (schedule.c), for tuners. Rows are tokens of the step (of the symbol
// kernel->rows); a kernel without it has one variant, for rows 0 to INT64_MAX.

// Variants and schedules without tuning. max_rows: the most rows a step has.
qn_kernel_plan qn_schedule_default(const qn_pkernel *kernel, int64_t max_rows, const qn_machine_model *machine);
// What the model says of one call of the kernel for that many rows: closed form, about a microsecond.
typedef struct qn_prediction {
  double seconds;
  double memory_s, cache_s;    // memory for the first time; a core's own caches again
  double issue_s, latency_s;   // instructions; waiting for chains, beyond that
  double sync_s;               // threads wait for the last one, and meet
  int registers;               // that the largest tile would like to have
  double bytes, macs;          // moved at least once; multiply-adds. Attention: with 512 keys in the cache
} qn_prediction;
void qn_schedule_predict(const qn_pkernel *kernel, int64_t rows, const qn_schedule *schedule,
                         const qn_machine_model *machine, qn_prediction *out);
// Whether the schedule can be applied to the kernel for these row counts. *why (may be NULL) is set when not: a text of
// static storage.
bool qn_schedule_legal(const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max, const qn_schedule *schedule,
                       const char **why);
// A schedule near to this one that is legal for the kernel, when this one's knobs are.
qn_schedule qn_schedule_fit(const qn_pkernel *kernel, int64_t rows_max, const qn_schedule *schedule);
// The kernel under the schedule, named `name`, in the arena; *out_extent is that of its parallel loop, constant 1 when
// it has none. Illegal schedules are QN_ERR_ARGUMENT.
QN_CHECKED qn_status qn_schedule_apply(const qn_pkernel *kernel, int64_t rows_min, int64_t rows_max,
                                       const qn_schedule *schedule, const char *name, qn_arena *arena,
                                       const qn_lkernel **out, qn_dim *out_extent, qn_diag *diag);

// Notes which variants keep to the parts by which link_steps chained their steps: the end of `schedule` (link_steps.c).
QN_CHECKED qn_status qn_link_variants(qn_pass_context *context);

#endif
