// One compilation: everything that the files of frontend/ know of it between a model's path and what is made of it.
#ifndef QUERN_FRONTEND_COMPILATION_H
#define QUERN_FRONTEND_COMPILATION_H

#include "codegen/artifact_write.h"
#include "frontend/builder.h"
#include "frontend/import/import.h"
#include "frontend/quern.h"
#include "frontend/tuned.h"
#include "passes/pass.h"
#include "runtime/kv_evict.h"
#include "runtime/signature.h"

#define QUERN_VERSION         "0.1.0"
#define QUERN_MAX_TARGETS     8
#define QUERN_DEFAULT_CHUNK   256
#define QUERN_DEFAULT_NUMERIC "int8"
#define QUERN_DEFAULT_KV_TYPE "f32"

// What is made for one kind of machine, CPUs or GPUs: a program of its own from a graph of its own, with plans for the
// targets of that kind.
typedef struct quern_part {
  bool gpu;
  qn_pass_options options;
  qn_pass_context pass;
  qn_program_plan plans[QUERN_MAX_TARGETS];
  size_t plan_count;
  qn_buf graph_text, kernels_text;
  const quern_compile_options *dump_to;  // borrowed: whose dump gets the texts of the GPUs' passes
} quern_part;

// Everything one compilation holds. Zero-initialised, then filled from the top down.
typedef struct quern_compilation {
  const qn_allocator *allocator;  // own_allocator: a compilation stays where it is
  qn_allocator own_allocator;
  const quern_compile_options *options;
  qn_diag *diag;
  qn_arena arena;
  qn_import *import;         // owned; NULL where a graph was built in code
  qn_weight_source stored;   // the weights as they are in the model, for passes
  const quern_graph *built;  // borrowed; set before opening, NULL = a model file
  qn_target targets[QUERN_MAX_TARGETS];
  size_t target_count;
  int64_t context_tokens;
  bool quantize_activations, half_activations;
  const qn_kv_policy *evict_policy;  // NULL = all keys stay
  qn_schedule schedule;
  quern_tuned tuned;
  quern_part parts[2];  // for CPUs first
  size_t part_count;
  size_t part_of[QUERN_MAX_TARGETS], plan_of[QUERN_MAX_TARGETS];  // by target
  qn_code codes[QUERN_MAX_TARGETS];                               // by target
  qn_signing_key key;  // where options->sign_key names one: has_key
  bool has_key;
  qn_requantize_options quantize;
  uint64_t packed_bytes, pack_total_bytes;  // of weights: done, and all
  qn_buf tokenizer, chat, summary;
  qn_buf evidence[QUERN_MAX_TARGETS];  // by target: of the records that its schedules came from
} quern_compilation;

// `options` and `diag` are borrowed. To be given to quern_compilation_deinit in every case.
void quern_compilation_init(quern_compilation *c, const quern_compile_options *options, qn_diag *diag);
void quern_compilation_deinit(quern_compilation *c);

// Options of an older or newer caller: what lies beyond its size is zero. options may be NULL.
QN_CHECKED qn_status quern_own_options(const quern_compile_options *options, quern_compile_options *out, qn_diag *diag);
// Tells the caller's progress; CANCELLED when it wants no more.
QN_CHECKED qn_status quern_compilation_report(quern_compilation *c, const char *stage, uint64_t done, uint64_t total);
// The progress of the artifact's writer, whose context is the compilation.
bool quern_compilation_pack_progress(void *context, uint64_t done, uint64_t total);

// What the schedules of a target are chosen for: the target's own values, and of what "host" is the caches and cores here
// and the speeds that `db` (NULL = none) knows of, with `threads` (0 = one a core).
qn_machine_model quern_machine_model(const qn_target *target, qn_db *db, int threads);

// Points the passes at a target, a CPU: its machine, and what records say of it.
void quern_compilation_take_target(quern_compilation *c, size_t index);

// Opens the model, or takes the graph that was built (`model_path` is its name then), and makes a verified graph for each
// part, whose pass.graph it is; targets are there then, and options, those of the first target that is a CPU.
QN_CHECKED qn_status quern_compilation_open(quern_compilation *c, const char *model_path);
// What came from the model file or the graph that was built: its name, its kind ("llama", "graph"), the width of "logits"
// (0 = no language model), and its tensors, those that passes made among them.
const char *quern_compilation_name(const quern_compilation *c);
const char *quern_compilation_architecture(const quern_compilation *c);
int64_t quern_compilation_vocab_size(const quern_compilation *c);
qn_weight_source quern_compilation_weights(quern_compilation *c);
// Refuses targets that are GPUs, for what only CPUs do (`what`: "the JIT makes code").
QN_CHECKED qn_status quern_compilation_need_cpus(const quern_compilation *c, const char *what);

// --- compile_code.c

// Takes an opened compilation through every pass and makes its plans.
QN_CHECKED qn_status quern_make_plans(quern_compilation *c);
// Chooses schedules anew after records were found not to serve: code made so far is dropped.
QN_CHECKED qn_status quern_choose_again(quern_compilation *c);
// Code for all targets, with what became of records of tuning.
QN_CHECKED qn_status quern_compile_code(quern_compilation *c);
// For one target; of a GPU with `source_alone` just the text "cuda", without NVRTC.
QN_CHECKED qn_status quern_compile_target(quern_compilation *c, size_t target, bool source_alone);
void quern_report_tuning(const quern_compilation *c);
// Of code for a CPU that could not be made, with this status: where records of another build are to blame they are
// denied, *out_again is set, and all is forgiven.
QN_CHECKED qn_status quern_blame_records(quern_compilation *c, size_t target, qn_status status, bool *out_again);
qn_codegen_options quern_codegen_options(const quern_compilation *c, const qn_target *target);

// --- compile_write.c

// After weights were packed: IO where the model file lost bytes, since zeros in place of weights must not become a model.
QN_CHECKED qn_status quern_compilation_check_weights(const quern_compilation *c);

// Writes the artifact, with the code that was made.
QN_CHECKED qn_status quern_write_artifact(quern_compilation *c, const char *model_path, qn_file_writer *writer,
                                          bool with_code);

#endif
