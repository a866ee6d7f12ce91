// The public API for compiling models: a model file in, an artifact (model.qn) or a model ready to run out.
// To run artifacts only, without LLVM behind it, include runtime/quern_run.h alone.
#ifndef QUERN_H
#define QUERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/quern_run.h"

#ifdef __cplusplus
extern "C" {
#endif

// Called during long work. `stage` is a short English phrase ("packing weights"); done of total in the stage's own unit
// (total 0 = unknown). Returning false cancels: the call ends with code QN_ERR_CANCELLED (9). On the caller's thread.
typedef bool (*quern_progress_fn)(void *context, const char *stage, uint64_t done, uint64_t total);

// Receives one text of a compilation: `name` is a pass's name, or "mlir", "llvm", "asm" for a module of kernels.
typedef void (*quern_dump_fn)(void *context, const char *name, const char *text, size_t length);

// What became of one matrix of a model that is quantised while it is compiled.
typedef struct quern_quantized {
  const char *tensor;             // its name in the model file
  const char *from, *asked, *to;  // formats: the file's, the one asked for, the one it got
  const char *kept;               // why it was left as it is ("quantised already"); NULL = it was not
  int64_t rows, columns;
  double relative_rms;  // root of the sum of squared errors over that of squared values; 0 when all values are
  double max_error;     // the largest magnitude of an error
  uint64_t bytes_before, bytes_after;  // in the layouts of files
} quern_quantized;
typedef void (*quern_quantized_fn)(void *context, const quern_quantized *tensor);

// How to compile. Zero-initialise, set size to sizeof(quern_compile_options), then what matters.
typedef struct quern_compile_options {
  size_t size;
  const char *target;       // "host" (default), "x86-64-v3", "aarch64", a CPU name, "+feature"; commas: several targets
  uint32_t context_tokens;  // largest context the artifact may be run with; 0 = the model's own
  uint32_t chunk_tokens;    // most tokens a step takes; 0 = 256
  const char *numeric_mode;   // "int8" (default): quantised weights meet int8 activations; "f32": widened in registers
  const char *kv_type;        // "f32" (default), "f16" or "bf16": how keys and values are kept
  const char *template_path;  // architecture template to use instead of the built-in one; NULL = by the model
  const char *schedule;       // text of one schedule for every kernel (tests, experiments); NULL = defaults
  int threads;                // to compile with; 0 = one a core
  bool all_logits;            // compute logits of every token (R = T) where asked: allowed rows up to chunk_tokens
  quern_progress_fn progress;
  void *progress_context;
  quern_dump_fn dump;
  void *dump_context;
  // Quantise the model's F32, F16 and BF16 matrices to this format ("q4_k"; quern_quant_formats lists them); NULL =
  // take the model as it is. Vectors stay, and what is quantised already. Rows whose length the format does not divide
  // get one that fits them: see quern_quantized.to.
  const char *quant;
  quern_quantized_fn quantized;  // called for every matrix as it is packed; NULL = nobody asks
  void *quantized_context;
} quern_compile_options;

// Compiles a model file (GGUF, or a graph in JSON) into an artifact at out_path, which appears whole or not at all. A
// file that is there already is replaced only when it is empty or an artifact itself.
// Returns 0, or an error code with the text in *error (may be NULL).
int quern_compile(const char *model_path, const char *out_path, const quern_compile_options *options,
                  quern_error *error);

// Compiles in this process and gives a model ready to run, its code linked by the JIT, with no file written.
// Close it with quern_model_close. The target must be one this machine runs.
int quern_jit(const char *model_path, const quern_compile_options *options, quern_model **out, quern_error *error);

// True when the file is an artifact rather than a model file (by its first bytes). False also when it cannot be read.
bool quern_is_artifact(const char *path);

// The path in the user's cache ($XDG_CACHE_HOME/quern or ~/.cache/quern) for a model compiled with these options: keyed
// on the file's identity (path, size, time), the options, the host and this build of quern. Caller frees with free().
// NULL without an error for what is not to be cached: anything but GGUF, since a graph in JSON has weights elsewhere.
int quern_cache_path(const char *model_path, const quern_compile_options *options, char **out_path, quern_error *error);

// Writes a description of a model file or artifact as text into *out_text (caller frees with free()). `what` is a
// comma-separated choice of: summary, tensors, graph, kernels, loops, memory, targets, sections, metadata, all; check
// compares the weights with their checksum; NULL = summary.
int quern_inspect(const char *path, const char *what, char **out_text, quern_error *error);

// The targets known, one a line with its description. Static text; do not free.
const char *quern_targets(void);

// The formats that quern_compile_options.quant may name, with ", " between them. Static text; do not free.
const char *quern_quant_formats(void);

const char *quern_version(void);  // "0.1.0"

#ifdef __cplusplus
}
#endif

#endif
