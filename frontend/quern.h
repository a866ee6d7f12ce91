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
#pragma GCC visibility push(default)  // what is declared here is what the shared library exports

// Called during long work. `stage` is a short English phrase ("packing weights"); done of total in the stage's own unit
// (total 0 = unknown). Returning false cancels: the call ends with code QN_ERR_CANCELLED (9). On the caller's thread.
typedef bool (*quern_progress_fn)(void *context, const char *stage, uint64_t done, uint64_t total);

// Receives one text of a compilation: `name` is a pass's name (of a GPU's program with gpu_ before it), "mlir", "llvm"
// or "asm" for a module of a CPU's kernels, "cuda", "ptx" or "ptxas" (what NVRTC says of each kernel) for a GPU's.
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

// What a compilation made of the records of tuning (quern_tune), counted by variants of kernels.
typedef struct quern_tuning_use {
  size_t size;             // sizeof(quern_tuning_use), set by the caller
  int accepted;            // schedules that came from records
  int verified;            // of these, found by another build and checked again
  int rejected, missing;   // records that must not be used; variants without one: the analytic model chose
  char first_reason[256];  // why the first one was rejected, with its kernel
  char problem[256];       // why the database was not used; empty = it was
  int threads;             // that schedules were chosen for
  int other_threads;       // where there is no record for these: a number of threads for which there are; 0 = none
} quern_tuning_use;

// How to compile. Zero-initialise, set size to sizeof(quern_compile_options), then what matters.
typedef struct quern_compile_options {
  size_t size;
  // "host" (default), "x86-64-v3", "aarch64", a CPU name, "+feature", "cuda:sm_90"; commas: several targets.
  const char *target;
  uint32_t context_tokens;  // largest context the artifact may be run with; 0 = the model's own
  uint32_t chunk_tokens;    // most tokens a step takes; 0 = 256, of encoders the context
  const char *numeric_mode;   // "int8" (default): quantised weights meet int8 activations; "f32": widened in registers;
                              // "half": as int8, and f16 and bf16 weights meet activations of their type (tensor cores)
  const char *kv_type;        // how keys and values are kept: "f32" (default), "f16", "bf16"; "int8" or "int4": as codes
                              // with scales of a token and head
  const char *template_path;  // architecture template to use instead of the built-in one; NULL = by the model
  const char *schedule;       // text of one schedule for every kernel (tests, experiments; CPUs alone); NULL = defaults
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
  // Sequences that a session may hold (quern_session_options.sequences), and how many tokens of a step may want logits,
  // at most a chunk's: 0 = 1. More of them take room in the arena, but none of it before it is used.
  uint32_t sequences;
  // The database of tuning whose records choose schedules: a path, NULL = the user's own, "none" = none. One that
  // cannot be read is no error: see tuning_use->problem.
  const char *tuning_db;
  quern_tuning_use *tuning_use;  // filled in when not NULL
  const char *nvrtc;  // path of libnvrtc, for GPUs; NULL = $QUERN_NVRTC, or where CUDA 12 or 13 has it
  // Of a compilation, and of the model of quern_jit; copied; NULL = malloc and free. LLVM, MLIR, SQLite, cJSON and NVRTC take
  // theirs by malloc, whatever this is: they ask no allocator, or one of the whole process, which a library must not set. So
  // do texts of some error messages, and what quern_allocator says. Functions without this option use malloc.
  const quern_allocator *allocator;
  // A file with an Ed25519 private key, as openssl writes it (PEM): the artifact is signed with it, for those who demand
  // that (quern_model_options.signed_by). NULL = not. Of quern_compile and quern_load.
  const char *sign_key;
  // Threads that the model will be run with: schedules are chosen for so many, and records are those that were found
  // with so many; 0 = one a core. The artifact runs with any number.
  int run_threads;
  // Make it able to verify guesses that branch (quern_speculator_options), and to give the last hidden state of each token
  // whose logits are wanted, from which Medusa heads guess. A step then does a little more. Language models without an
  // encoder alone.
  bool guesses;
  // So that sessions may evict keys by this policy (quern_session_options.kv_evict), or by any that goes by no more:
  // the program takes keys' places apart from positions, leaves queries for "heavy" and "adaptive", and sums up the
  // attention of keys for "hitters", "adaptive" and "keyformer" (which has sums of its own); for that it has room for the
  // scores of a chunk's tokens by all keys. NULL or "none" = all keys stay. UNSUPPORTED for models with windows or with
  // biases by distance, and for encoders.
  const char *kv_evict;
} quern_compile_options;

// Compiles a model (a folder of the Hugging Face world, with config.json and safetensors files; a GGUF file; a graph in
// JSON) into an artifact at out_path, which appears whole or not at all. A
// file that is there already is replaced only when it is empty or an artifact itself.
// Returns 0, or an error code with the text in *error (may be NULL).
int quern_compile(const char *model_path, const char *out_path, const quern_compile_options *options,
                  quern_error *error);

// Compiles up to one stage and hands its texts to options->dump, and no others; writes no file. `stage` is one of the
// names told at quern_dump_fn. Those of code come for each target that they are for. "cuda" needs no NVRTC.
// Errors: ARGUMENT (no such name, or no target that it is for), and those of quern_compile.
int quern_emit(const char *model_path, const char *stage, const quern_compile_options *options, quern_error *error);

// Compiles in this process and gives a model ready to run, its code linked by the JIT, with no file written.
// Close it with quern_model_close. The target must be one this machine runs.
int quern_jit(const char *model_path, const quern_compile_options *options, quern_model **out, quern_error *error);

// True when the file is an artifact rather than a model file (by its first bytes). False also when it cannot be read.
bool quern_is_artifact(const char *path);

// ---- tokenizers -----------------------------------------------------------------------------------------------------
// Texts to tokens and back without a model's weights: what `quern tokenize` shows.

typedef struct quern_tokenizer quern_tokenizer;

// Opens the tokenizer of an artifact, a GGUF file, a folder from Hugging Face, or that of a tokenizer.json or
// tokenizer.model. It never changes: any number of threads may use it. Close *out with quern_tokenizer_close. Errors:
// FORMAT (damaged), UNSUPPORTED (a part that is not known, or there is no tokenizer), IO, NOMEM.
int quern_tokenizer_open(const char *path, quern_tokenizer **out, quern_error *error);
void quern_tokenizer_close(quern_tokenizer *tokenizer);              // NULL is harmless
int32_t quern_tokenizer_count(const quern_tokenizer *tokenizer);     // ids are 0 to this - 1
const char *quern_tokenizer_kind(const quern_tokenizer *tokenizer);  // "bpe", "spm", "unigram", "wordpiece"; static
// As quern_token_piece, quern_tokenize and quern_detokenize (quern_run.h) do.
const char *quern_tokenizer_piece(const quern_tokenizer *tokenizer, int32_t token, size_t *out_length);
int quern_tokenizer_encode(const quern_tokenizer *tokenizer, const char *text, size_t length, unsigned flags,
                           int32_t *tokens, size_t capacity, size_t *out_count, quern_error *error);
int quern_tokenizer_decode(const quern_tokenizer *tokenizer, const int32_t *tokens, size_t count, unsigned flags,
                           char *text, size_t capacity, size_t *out_length, quern_error *error);

// ---- the cache ------------------------------------------------------------------------------------------------------
// Compiled models are kept in a folder that the user alone may enter: $XDG_CACHE_HOME/quern or ~/.cache/quern. It may be
// deleted at any time, and processes may use it at the same time. Those not used for the longest time go when all
// together take more than $QUERN_CACHE_LIMIT ("20G"; "0" = no limit; without it 32 GiB).

// Opens a model's artifact from the cache, compiled into it first where it is not there or no longer right. Names of
// files, and that it compiles, go to the log (quern_log_set). `compile` and `open` may be NULL. Close *out with
// quern_model_close. Errors: those of quern_compile and quern_model_open; UNSUPPORTED for what is not to be cached.
int quern_load(const char *model_path, const quern_compile_options *compile, const quern_model_options *open,
               quern_model **out, quern_error *error);

// The path in the cache for a model compiled with these options: keyed on its files' identities (path, size, time), the
// options, the host and this build of quern; the folder is there then. Caller frees with free(). NULL without an error
// for what is not to be cached: a graph in JSON, which has weights elsewhere, and what is no model. Errors: IO (no such file;
// a folder that belongs to somebody else).
int quern_cache_path(const char *model_path, const quern_compile_options *options, char **out_path, quern_error *error);

// Does the artifact in the cache still say what the records of tuning and the measurements of the machine say? False
// where compiling anew may give other schedules (options->tuning_db): then *out_why (may be NULL) is a clause that tells
// what has changed, static. True when that cannot be told.
bool quern_cache_is_current(const char *artifact_path, const quern_compile_options *options, const char **out_why);

// What run_threads is to be for a run with `threads` threads: the same where tuning has found something for so many,
// else 0, so that all runs share one artifact in the cache. `tuning_db` as in quern_compile_options.
int quern_tuned_threads(const char *tuning_db, int threads);

typedef struct quern_cache_entry {
  const char *path;
  const char *model;  // name of the model file, without its folder; of what NVRTC made the chip ("sm_90")
  uint64_t bytes;
  int64_t used_at;   // seconds since 1970
  const char *kind;  // "artifact", or "nvrtc": what NVRTC made of a GPU's kernels, from which artifacts are compiled
} quern_cache_entry;

// Texts and entries belong to the listing.
typedef struct quern_cache_listing {
  size_t size;  // sizeof(quern_cache_listing), set by the caller
  const char *folder;
  const quern_cache_entry *entries;  // those used last first
  size_t count;
  uint64_t bytes, limit;  // all together take, and may take (UINT64_MAX = any number)
  void *owned;
} quern_cache_listing;
// What is in the cache; to be freed with quern_cache_listing_free. Errors: IO, ARGUMENT (QUERN_CACHE_LIMIT, size), NOMEM.
int quern_cache_list(quern_cache_listing *out, quern_error *error);
void quern_cache_listing_free(quern_cache_listing *listing);  // zeroed is harmless
// Removes the entries not used for the longest time until at most `keep_bytes` are left (0 = all go), and what killed
// compilations have left. *out_removed (may be NULL): bytes that went. Models that are open stay so. Errors: IO.
int quern_cache_clear(uint64_t keep_bytes, uint64_t *out_removed, quern_error *error);


// ---- graphs built in code -------------------------------------------------------------------------------------------
// A graph is built op by op, compiled in this process, into a file, through the cache or into an object file, and
// called with the host's tensors by a runner (quern_runner_create). It goes through what every model goes through.
// Example: frontend/examples/jit.c.
//
// Types are texts, as dumps print them: an element type and a shape, row-major, the last dimension the nearest.
// "f32[T,64]" has T rows of 64 values, where T is known when the program runs (quern_sizes has the letters), "f32[3T,4]"
// three times as many, "f32[]" is a scalar, and "q4_0[128,64]" a matrix of 128 rows of 64 values in blocks, laid out as
// GGUF files have them. Element types are f32 and i32, of weights and caches f16 and bf16, too, and of weights the
// formats that quern_quant_formats lists. Attention is written as in JSON (models/README.md), with the ops "cache" and
// "kv_write"; a runner holds the caches.
//
// Functions that add to a graph return a value, or 0 after an error. An error stays with the graph: all that is called
// on it later fails in the same way, so that a host may look once, at the end. A graph is for one thread at a time while
// it is built; several may compile one that nobody adds to.

typedef struct quern_graph quern_graph;
typedef uint32_t quern_value;  // of the graph that it came from; 0 = none

typedef struct quern_graph_options {
  size_t size;  // sizeof(quern_graph_options)
  // The largest sizes of a run, for which memory is planned; 0 = 256 tokens, as many rows as tokens, 64 pages (4096
  // keys), 1 sequence, and pool_pages for all sequences; a graph with a source (S) must say its size.
  quern_sizes most;
  const quern_allocator *allocator;  // of the graph, copied; NULL = malloc and free
} quern_graph_options;

// An empty graph. `name` is for messages, files of the cache and profiles, copied. Errors: ARGUMENT (sizes out of
// range, no name), NOMEM.
int quern_graph_create(const char *name, const quern_graph_options *options, quern_graph **out, quern_error *error);
void quern_graph_destroy(quern_graph *graph);  // NULL is harmless; compiled models need it no longer

// A tensor that the host binds for each run, by its name. Errors: ARGUMENT (a type that inputs cannot have, a name that
// is taken), NOMEM.
quern_value quern_graph_input(quern_graph *graph, const char *name, const char *type, quern_error *error);

typedef enum quern_ownership {
  QUERN_BORROW,  // `data` stays as it is until the last compilation of the graph has returned
  QUERN_COPY     // copied at once
} quern_ownership;
// A parameter whose values are part of what is compiled. `data` has `bytes` bytes at any address: rows of values or
// blocks, one after another. A type of one dimension gives an f32 value, whatever the values are kept in. Errors:
// ARGUMENT (a type that weights cannot have, bytes that are not the type's, a name that is taken), NOMEM.
quern_value quern_graph_weight(quern_graph *graph, const char *name, const char *type, const void *data, size_t bytes,
                               quern_ownership ownership, quern_error *error);

// A number: "f32[]".
quern_value quern_graph_constant(quern_graph *graph, double number, quern_error *error);

// An attribute of an op, by its name.
typedef struct quern_attr {
  const char *name;  // "eps"
  double number;     // of attributes that are numbers; where the op wants an integer it must be one
  const char *text;  // of those that are words ("kind"): "pairs"; else NULL
} quern_attr;

// An op with all that it may be given. Zero-initialise, set size, then what the op has.
typedef struct quern_op {
  size_t size;       // sizeof(quern_op)
  const char *name;  // one of quern_graph_ops: "rmsnorm"
  const quern_value *operands;
  size_t operand_count;
  const quern_attr *attrs;
  size_t attr_count;
  const char *type;   // of "reshape" and "cache"; with other ops NULL, or what must come out
  const char *label;  // what messages and profiles call it; NULL = its name and number. Copied
} quern_op;
// Adds an op. Errors: ARGUMENT (no such op or attribute; operands, shapes, attributes that do not fit: the text says
// where, got and want), LIMIT (more than 262144 values), NOMEM.
quern_value quern_graph_op(quern_graph *graph, const quern_op *op, quern_error *error);
// The same for an op without attributes and of one operand (b is 0) or two: quern_graph_apply(g, "mul", a, b, &error).
quern_value quern_graph_apply(quern_graph *graph, const char *name, quern_value a, quern_value b, quern_error *error);

// Names a result, which runs leave for the host. An output "logits" of [R, vocabulary] makes a language model, which
// sessions run, of a graph with a session's inputs (tokens, pos, last_pos, seq, copies, rows, block_table); one "embedding" of
// [R, width] without logits makes an encoder, with which sessions embed texts. Errors: ARGUMENT.
int quern_graph_output(quern_graph *graph, const char *name, quern_value value, quern_error *error);

// The type of a value into `out`, of `size` bytes with the NUL. Errors: ARGUMENT (no value of this graph), LIMIT (it
// does not fit).
int quern_graph_type(const quern_graph *graph, quern_value value, char *out, size_t size, quern_error *error);
// The graph as text, a line a value, as --dump-ir prints it (caller frees with free()). Errors: NOMEM, those of the
// graph.
int quern_graph_text(const quern_graph *graph, char **out_text, quern_error *error);
// Every op on a line with its operands, attributes and meaning. Static text; do not free.
const char *quern_graph_ops(void);

// Compiles a graph as quern_jit, quern_compile and quern_load do a model file; `options` may be NULL. What the graph says
// itself must not be asked for: context_tokens, chunk_tokens, sequences, all_logits, guesses (see quern_graph_options.most),
// kv_type (types of caches), quant (types of weights), template_path. Errors: theirs, and those of the graph.
int quern_graph_jit(const quern_graph *graph, const quern_compile_options *options, quern_model **out,
                    quern_error *error);
int quern_graph_compile(const quern_graph *graph, const char *out_path, const quern_compile_options *options,
                        quern_error *error);
// From the cache, compiled into it first where it is not there. It is found again by what the graph is, the bytes of its
// weights, the options, the host and this build of quern. `open` may be NULL.
int quern_graph_load(const quern_graph *graph, const quern_compile_options *options, const quern_model_options *open,
                     quern_model **out, quern_error *error);

// Writes a matrix in one of the formats that quern_quant_formats lists, as weights have it: `values` is f32 (rows,
// columns), row-major. *out_bytes is how many bytes it has, also after LIMIT. Errors: ARGUMENT (no such format; columns
// that are no whole blocks of it), LIMIT (they are more than `capacity`), FORMAT (a value that the format cannot
// hold).
int quern_quantize(const char *format, int64_t rows, int64_t columns, const float *values, void *out, size_t capacity,
                   size_t *out_bytes, quern_error *error);

// ---- object files ---------------------------------------------------------------------------------------------------
// A program as one relocatable object file, for one target, to be linked into a host's program: code, weights, and a
// function in C that runs it, which a header declares. It needs nothing of quern, and of a C library memcpy alone (but
// for x86-64 getauxval, too, where the code needs features that not every CPU has). Example: frontend/examples/embed.c.

typedef struct quern_object_options {
  size_t size;               // sizeof(quern_object_options)
  const char *name;          // a C identifier that all names begin with; NULL = made of the model's or graph's name
  const char *header_path;   // NULL = the object file's path with .h in place of .o
  // A file for the weights, which the host then reads or maps and gives to each call; NULL = they are in the object file.
  // The object knows its weights and takes no others.
  const char *weights_path;
} quern_object_options;

// Compiles a model file, or a graph that was built in code, into an object file and its header, and the file of weights
// where one is asked for. Each appears whole or not at all; files that are there already are replaced only when they
// are of the same kind. `object` and `options` may be NULL. Errors: those of quern_compile; ARGUMENT for a GPU, for
// several targets or a name that is none in C; LIMIT for more weights than an object can have (1920 MiB); UNSUPPORTED
// for tensors whose names are the same in C.
int quern_compile_object(const char *model_path, const char *object_path, const quern_object_options *object,
                         const quern_compile_options *options, quern_error *error);
int quern_graph_object(const quern_graph *graph, const char *object_path, const quern_object_options *object,
                       const quern_compile_options *options, quern_error *error);

// ---- what is in a file -------------------------------------------------------------------------------------------------

// Writes a description of a model file or artifact as text into *out_text (caller frees with free()). `what` is a
// comma-separated choice of: summary, tensors, graph, kernels, loops, memory, targets, sections, metadata, all; check
// compares the weights with their checksum; NULL = summary.
int quern_inspect(const char *path, const char *what, char **out_text, quern_error *error);

typedef struct quern_inspect_kv_options {
  size_t size;          // sizeof(quern_inspect_kv_options)
  int32_t sequences;    // 0 = 1
  int64_t context;      // tokens of each; 0 = what the artifact or the model allows, or 4096 where it sets no bound
  const char *kv_type;  // of a model: as in quern_compile_options; of an artifact its own, or NULL
} quern_inspect_kv_options;
// The same for the KV cache that a session with so many sequences of such a length takes when it is full: bytes and pages,
// computed from the file alone. Errors: ARGUMENT, LIMIT (more than the artifact was compiled for, or the model allows), and
// those of opening the file.
int quern_inspect_kv(const char *path, const quern_inspect_kv_options *options, char **out_text, quern_error *error);

// ---- checking an artifact -------------------------------------------------------------------------------------------
// Runs the machine code of an artifact for CPUs on this machine against what its kernels say in loop IR, on inputs that
// are made to find mistakes. Code runs in child processes alone: one that crashes is a result.

// What became of one kernel's code for a class of row counts (rows: tokens, or tokens whose logits are wanted).
typedef struct quern_verified {
  const char *kernel;                       // the symbol's name
  int64_t rows_min, rows_max;               // inclusive; INT64_MAX = any
  const char *verdict;                      // "ok", "wrong", "crashed", "hung", "failed" (could not be checked)
  const char *evidence;                     // what was compared, or where it is wrong: got, want
} quern_verified;

typedef struct quern_verify_options {
  size_t size;         // sizeof(quern_verify_options)
  const char *target;  // whose code: its full name; NULL = what would run here
  bool check_weights;  // read all weights too, and compare them with their hash
  bool quick;          // as few row counts as run every tile of a kernel, and one seed
  double limit_s;      // CPU time of one piece of work, after which code counts as hanging; 0 = 10
  quern_progress_fn progress;
  void *progress_context;
  void (*verified)(void *context, const quern_verified *result);  // called for each; NULL = nobody asks
  void *verified_context;
  const char *signed_by;  // as in quern_model_options
  bool no_run;            // check records, hashes and signature alone: no code runs, and none of this machine is needed
  // Whose code: NULL = that for CPUs, which runs here; "cuda" or "cuda:N" = that for GPUs, on such a device.
  const char *device;
  const char *libcuda;  // as in quern_model_options
} quern_verify_options;

typedef struct quern_verify_report {
  size_t size;              // sizeof(quern_verify_report), set by the caller
  char target[128];         // whose code it was
  uint32_t checked, wrong;  // variants of kernels; wrong: every verdict but "ok"
  // What is not checked, "" = nothing: without a device, the targets that are GPUs, with commas between them; on one, in
  // words, how many kernels go by what others wrote, or have sums that are the chip's.
  char unchecked[256];
} quern_verify_report;

// `options` may be NULL, and so may report. Returns 0 when all code is right. Errors: FORMAT when some is not, or the
// artifact is damaged; TARGET when none of its code runs here; ARGUMENT; CANCELLED; NOMEM, also when the system kills
// the process that checks, twice at the same kernel; LIMIT when the system gives no process. The process must have no other
// threads.
int quern_verify(const char *path, const quern_verify_options *options, quern_verify_report *report,
                 quern_error *error);

// ---- the machine ----------------------------------------------------------------------------------------------------
// How fast this machine is at what kernels do most, measured by kernels that are compiled like any other: what the
// speed of a model is to be held against.

typedef struct quern_machine quern_machine;

typedef enum quern_rate {
  QUERN_RATE_READ,        // reading memory, bytes a second, on huge pages where the system gives them
  QUERN_RATE_READ_SMALL,  // reading memory, bytes a second, on small pages
  QUERN_RATE_FP32,        // f32 multiply-adds, operations a second (two each)
  QUERN_RATE_INT8,        // multiply-adds of 8-bit integers, operations a second (two each): the best form of dot4
  QUERN_RATE_NARROW       // the same by codes of 4 bits, of which several products add up in 16 bits
} quern_rate;

// What counts as a second: one on the wall, or one of CPU time of every thread (the process's over their number), of
// which other programs take nothing. On a machine that does nothing else the two agree, but for threads asleep.
typedef enum quern_clock { QUERN_CLOCK_WALL, QUERN_CLOCK_CPU } quern_clock;

// Compiles the kernels for a target that runs here ("x86-64-v3"; NULL = "host") and takes 512 MiB to read from. On
// success *out is the caller's, to be closed with quern_machine_close; otherwise it is NULL. Errors: ARGUMENT (no such
// target), TARGET (it does not run here), NOMEM.
int quern_machine_open(const char *target, quern_machine **out, quern_error *error);
void quern_machine_close(quern_machine *machine);  // NULL is harmless
// One measurement of 10 to 100 ms with `threads` pinned threads (0 = one a core): take the median of several. Errors:
// ARGUMENT (threads or rate out of range), NOMEM, LIMIT (threads refused).
int quern_machine_measure(quern_machine *machine, quern_rate rate, int threads, quern_clock clock,
                          double *out_per_second, quern_error *error);
// Bytes that QUERN_RATE_READ reads on huge pages, of 256 MiB.
uint64_t quern_machine_huge_bytes(const quern_machine *machine);

// Peaks of a GPU's arithmetic, operations a second: a multiply-add is two.
typedef struct quern_device_peaks {
  size_t size;            // sizeof(quern_device_peaks), set by the caller
  double fp32_ops_per_s;  // f32 multiply-adds
  double int8_ops_per_s;  // tensor cores on 8-bit integers, as kernels use them (mma.sync)
  double f16_ops_per_s;   // tensor cores on 16-bit floats, likewise
} quern_device_peaks;
// Measures them on the model's GPU, by kernels that NVRTC compiles as it does a model's (kept in the user's cache): what
// MFU is a part of. Takes some milliseconds. `nvrtc`: path of the library, NULL as in quern_compile_options. Errors:
// ARGUMENT (the model is on the CPU; size), TARGET (no NVRTC), NOMEM.
int quern_model_measure_peaks(quern_model *model, const char *nvrtc, quern_device_peaks *out_peaks, quern_error *error);

// What this machine can do, as the tuning database keeps it: schedules are chosen by it, and sessions may be set by it.

typedef struct quern_cache {
  int level;       // 1 is nearest
  uint64_t bytes;  // of one
  int line_bytes;  // 0 = not known
  int count;       // in the machine
  int cores;       // that share one
} quern_cache;

// What suits this machine, whatever the model. In a session: threads, decode_threads, no_pin, spin_us, grain.
typedef struct quern_machine_settings {
  int threads_prefill, threads_decode;
  bool pin;
  quern_huge_pages huge_pages;
  int64_t spin_us;  // these two as in quern_session_options
  int grain;
} quern_machine_settings;

#define QUERN_MACHINE_CACHES 5
#define QUERN_MACHINE_COUNTS 16  // numbers of threads
enum { QUERN_LEVEL_L1, QUERN_LEVEL_L2, QUERN_LEVEL_L3, QUERN_LEVEL_MEMORY, QUERN_LEVELS };

// Rates are of all threads together, a second; the best of several measurements (times: the shortest).
typedef struct quern_machine_profile {
  size_t size;  // sizeof(quern_machine_profile), set by the caller
  // Topology, as the system tells it now.
  char cpu[96];       // the processor's name; empty = not known
  char features[512];  // instruction sets: "avx,avx2,..."
  int packages, numa_nodes, machine_cores;
  int cores, cpus, threads;  // that this process may use, and how many threads it takes by itself
  uint64_t memory_bytes;
  quern_cache caches[QUERN_MACHINE_CACHES];
  int cache_count;
  // What was measured, and when.
  char fingerprint[768];  // machines of one make have the same
  char target[128];       // whose code it was measured with
  int64_t measured_at;    // seconds since 1970
  bool stored;            // earlier: taken from the database
  int count;
  int thread_counts[QUERN_MACHINE_COUNTS];                   // rising
  double read[QUERN_LEVELS][2][QUERN_MACHINE_COUNTS];        // bytes, on huge pages and on small ones; 0 = no such cache
  double fma[QUERN_MACHINE_COUNTS];                          // f32 operations; a multiply-add is two
  double bf16[QUERN_MACHINE_COUNTS];                         // the same with an operand widened from bf16
  double int8[QUERN_MACHINE_COUNTS];                         // 8-bit integer operations: the best form of dot4
  double barrier_s[QUERN_MACHINE_COUNTS];                    // until all threads have met; 0 for one
  double piece_s[QUERN_MACHINE_COUNTS];                      // to take the next share of work
  double read_part[QUERN_MACHINE_COUNTS];  // reading memory: of what all threads reach; 0 = the machine was too busy
  double int8_part[QUERN_MACHINE_COUNTS];  // the same of 8-bit integer operations
  double huge_gain, moving_gain;                             // reading memory: ratios; 0 = the machine was too busy
  double wake_s, cycles_per_s, fma_latency, vector_ops, huge_bytes;  // as autotune/profile.h says
  double dots[3];                                            // int8 of one thread: unsigned, signed, in pairs
  quern_machine_settings settings;
  char note[512];  // why what is stored was not taken; empty = nothing to say
  double narrow[QUERN_MACHINE_COUNTS];  // 8-bit integer operations by codes of 4 bits
  double ahead_gain;  // one thread reading weights, prefetched by the kernel over not; 0 = the machine was too busy
  double far_gain;    // the same for three tokens, into the second cache, over one token's without prefetches
} quern_machine_profile;

typedef struct quern_machine_options {
  size_t size;            // sizeof(quern_machine_options)
  const char *tuning_db;  // path of the database; NULL = the user's own; "none" = keep nothing
  bool fresh;             // measure, whatever is stored
  double budget_s;        // seconds for measuring, once everything is compiled; 0 = 4
  quern_progress_fn progress;
  void *progress_context;
} quern_machine_options;

// The stored profile of this machine, or else a measured one, which is stored. When storing it fails *out is filled in
// all the same (count > 0). Errors: those of quern_machine_open, ARGUMENT (size), CANCELLED, IO and FORMAT (the database).
int quern_machine_get_profile(const quern_machine_options *options, quern_machine_profile *out, quern_error *error);

// The settings stored for this machine; *out_found is false when it was not measured (then *out holds the defaults: zeros
// and true). `tuning_db` as above. Errors: IO and FORMAT (the database).
int quern_machine_get_settings(const char *tuning_db, quern_machine_settings *out, bool *out_found, quern_error *error);

// What a session of quern tune found best for the kernels of this model on this machine, instead of what suits it in
// general: sets threads_prefill, threads_decode, spin_us and grain of *out, and *out_found, or leaves *out as it is. It is what
// was found for a session of `threads` threads (0 = one a core) and for no other number. `tuning_db` as above. Errors: IO
// and FORMAT (the database), NOMEM.
int quern_model_get_settings(const quern_model *model, const char *tuning_db, int threads, quern_machine_settings *out,
                             bool *out_found, quern_error *error);

// ---- explaining speed ------------------------------------------------------------------------------------------------
// How far a model is from what this machine could do, and why: every kernel measured in prefill and in decoding, beside
// its roofline and beside what the compiler's model of the machine says that its time is made of.

typedef struct quern_explain_options {
  size_t size;            // sizeof(quern_explain_options)
  int threads;            // these four as in quern_session_options
  int decode_threads;
  bool no_pin;
  int64_t spin_us;
  int64_t prompt_tokens;  // of the prompt that is measured, or of what an encoder reads; 0 = 256, or half of a shorter context
  int64_t depth;          // keys before a token that is decoded; 0 = as many as the prompt has; ARGUMENT of an encoder alone
  int repetitions;        // of everything, in turn; 0 = 5
  // Where to look up this machine's profile and what tuning tried: NULL = the user's own database, "none" = nowhere. It is
  // only read; without a profile in it, or when it cannot be read, the machine is measured for a second.
  const char *tuning_db;
  quern_progress_fn progress;
  void *progress_context;
  int grain;  // as in quern_session_options
} quern_explain_options;

// A kernel in one phase: sums over all its calls there. Seconds are medians, of what runs on the wall.
typedef struct quern_kernel_report {
  const char *kernel;    // its name
  const char *variant;   // the code that ran, by its symbol; where several did, that of the most tokens
  const char *place;     // the op of the model that its first call came from
  const char *schedule;  // of the variant: "m_tiles = 1; n_tile = 1; ..."
  const char *limit;     // the name of the largest term below: what limits it
  int64_t calls;
  double memory_bytes;  // weights, rows of tables, keys and values: at least once from memory
  double value_bytes;   // read and written between kernels
  double int8_ops, fp32_ops, other_ops;  // multiply-adds count two; other: what is no multiply-add
  double seconds;                        // measured: until all threads were done with it
  double kernel_s;                       // that a thread was inside, a mean of those that had work
  double wait_s;                         // the rest: threads wait for others
  double share;                          // of the phase's time
  double bound_s;                        // the roofline: no less than this
  double of_bound;                       // bound_s / seconds
  double predicted_s;                    // by the model of the machine, all terms together
  // The terms, which overlap (quern_explain_terms).
  double bandwidth_s, cache_s, issue_s, fallback_s, latency_s, sync_s, fault_s, unexplained_s;
  // What tuning tried for this kernel, here and for this target, says the database; `tuning` tells what the artifact
  // carries of that, too.
  int64_t tried, failed;  // candidates; of them those that were wrong, crashed, hung or were not legal
  double tuned_s;         // the fastest, of one call; 0 = none was timed
  const char *tuning;     // a sentence about it; "" = nothing
} quern_kernel_report;

// What a kernel's time is made of. `offset` is that of a double in quern_kernel_report.
typedef struct quern_explain_term {
  const char *name;  // "bandwidth"
  size_t offset;
  const char *meaning;
} quern_explain_term;
// The terms, in the order in which they are told. Static.
const quern_explain_term *quern_explain_terms(size_t *out_count);

typedef struct quern_phase_report {
  const char *name;        // "prefill" and "decode"; of a model with an encoder "source" and "decode"; of one alone "embed"
  int threads;             // that computed
  int64_t tokens, depth;   // evaluated in it, and keys before them
  double seconds;          // of all of it
  double outside_s;        // of that outside kernels
  double bound_s;          // of all kernels
  double mbu, mfu;         // bytes of memory, and multiply-adds, as parts of what the machine gives in that time
  double stream_bytes_per_s;  // that bounds hold memory_bytes against: of memory, or of the last cache where a step's
                              // bytes stay in it
  double first_s;          // the first time, with pages and caches cold
  double first_minor_faults, first_major_faults;
  double minor_faults, major_faults;  // from then on
  double interrupted;                 // how often other programs took a thread's CPU
  const quern_kernel_report *kernels;  // those that take longest first
  size_t kernel_count;
} quern_phase_report;

typedef struct quern_explanation {
  const char *quern;   // the version that made it
  const char *model, *target;
  const char *host;    // the target that suits this machine
  const char *lacking; // features of it that the code does not use, comma-separated; "" = none
  const char *prediction;  // what it was predicted from (quern_predict); "" = it was measured
  int threads;
  double read_bytes_per_s;                    // measured, as the others
  double int8_ops_per_s, fp32_ops_per_s;      // the host's: what bounds are held against
  double target_int8_ops_per_s, target_fp32_ops_per_s;  // what the code's own instructions reach
  double fault_s;                             // of one page fault, without reading from a disk
  const char *problem;  // why the tuning database was not used; "" = it was. Of this run: no JSON has it
  const quern_phase_report *phases;
  size_t phase_count;
  double narrow_ops_per_s, target_narrow_ops_per_s;  // as int8_ops_per_s, by codes of few bits
} quern_explanation;

// The fields of the three structs above as data: what JSON is written from and read into, by these keys.
typedef enum quern_field_kind {
  QUERN_FIELD_TEXT,     // const char *
  QUERN_FIELD_NUMBER,   // double, at least 0
  QUERN_FIELD_INTEGER,  // int64_t, at least 0
  QUERN_FIELD_INT,      // int, at least 0
} quern_field_kind;
typedef struct quern_field {
  const char *key;
  quern_field_kind kind;
  size_t offset;
} quern_field;
typedef enum quern_explain_level { QUERN_EXPLAIN_WHOLE, QUERN_EXPLAIN_PHASE, QUERN_EXPLAIN_KERNEL } quern_explain_level;
const quern_field *quern_explain_fields(quern_explain_level level, size_t *out_count);

// Runs the model and explains it. *out is the caller's, to be freed with quern_explanation_free. Errors: UNSUPPORTED (no
// language model; an artifact that does not tell what its kernels cost), LIMIT (prompt or depth beyond the context),
// ARGUMENT, CANCELLED, NOMEM. A database that cannot be used is none: see `problem`.
int quern_explain(quern_model *model, const quern_explain_options *options, const quern_explanation **out,
                  quern_error *error);

// The same for a GPU that need not be here, as a prediction: bytes, instructions and waiting are counted from the loops of
// the kernels, and held against figures of the chip that its maker and others tell (codegen/cuda/chip.def). Seconds are
// what the slowest of these takes, with what it takes to start a kernel; `host` is the chip's name, and nothing is told of
// threads, page faults or tuning.
typedef struct quern_predict_options {
  size_t size;         // sizeof(quern_predict_options)
  const char *device;  // "cuda:sm_90", for the first chip of that kind that is known, or by name: "cuda:H200"
  int64_t prompt_tokens, depth;          // as in quern_explain_options
  const quern_compile_options *compile;  // how a model file is compiled, target apart; NULL = defaults
  quern_progress_fn progress;
  void *progress_context;
  const char *signed_by;  // as in quern_model_options; ARGUMENT with a model file
} quern_predict_options;
// `path` is a model file or an artifact with code for GPUs. *out is to be freed with quern_explanation_free. Errors:
// ARGUMENT (no such chip), TARGET (an artifact without code that it runs; a kernel that it has no room for), UNSUPPORTED
// (no language model; an artifact of another build), LIMIT (prompt or depth beyond the context), those of compiling.
int quern_predict(const char *path, const quern_predict_options *options, const quern_explanation **out,
                  quern_error *error);
// Reads what `quern explain --json` wrote. Errors: IO, FORMAT (names the place), NOMEM.
int quern_explanation_read(const char *path, const quern_explanation **out, quern_error *error);
void quern_explanation_free(const quern_explanation *explanation);  // NULL is harmless

// ---- tuning ---------------------------------------------------------------------------------------------------------
// Schedules found by trying them on this machine, kept in a database that quern_compile uses by itself. A schedule
// changes speed alone, never a bit of a result.

// Where a session is.
typedef struct quern_tune_progress {
  const char *stage;           // what is done before kernels are tuned ("reading the model"); then all else is 0
  const char *kernel;          // its name; NULL with a stage
  int64_t rows_min, rows_max;  // the class of token counts that it is tuned for (INT64_MAX: no end)
  int task, tasks;             // which of how many, from 1
  int tried;                   // candidates so far
  double best_s, bound_s;      // seconds of a call: the best found, and the roofline's (0 = not known)
  double gain;                 // default's time over the best's
  double share;                // of the run time
  double spent_s, left_s;      // of the budget
} quern_tune_progress;
// Called several times a second; false ends the session, which keeps what it found. On the caller's thread.
typedef bool (*quern_tune_progress_fn)(void *context, const quern_tune_progress *progress);

// How to tune. Zero-initialise, set size to sizeof(quern_tune_options), then what matters.
typedef struct quern_tune_options {
  size_t size;
  // How the model will be compiled (its target among it: one that this machine runs); NULL = the defaults. Of a model
  // file; an artifact says it itself.
  const quern_compile_options *compile;
  double budget_s;      // seconds that trials may take; 0 = no trial: what is known is told
  double within;        // a share: a kernel so near to the roofline is left alone; 0 = 0.05
  const char *pattern;  // tune kernels whose names match (* and ? as in a shell); NULL = all
  const char *tuning_db;  // path of the database; NULL = the user's own; "none" = keep nothing
  int threads;            // that steps will run with, see quern_compile_options.run_threads; 0 = one a core
  int compare_pairs;      // time tuned schedules against others, so many pairs each: see quern_tune_result; 0 = not
  quern_tune_progress_fn progress;
  void *progress_context;
  const char *signed_by;  // as in quern_model_options; ARGUMENT with a model file
} quern_tune_options;

// One kernel in one class of token counts. Texts belong to the report.
typedef struct quern_tune_result {
  const char *kernel;
  int64_t rows_min, rows_max, rows;    // the class, and what it was timed at
  double share;                        // of the run time: half decoding, two fifths a prompt, a tenth a few tokens
  double default_s, tuned_s, bound_s;  // seconds of a call; bound 0 = not known
  double gain;                         // default's time over tuned's, as it was measured in pairs of them
  int pairs;  // that the gain was measured with; 0 = the two are the same, or were never timed in pairs (gain 1)
  int tried, wrong, crashed, hung, failed;  // candidates: all, and those that were not right
  bool measured;                       // false: times are the model's, since nothing was tried yet
  bool broken;                         // its default schedule is wrong, crashes or hangs: a bug, told in `end`
  const char *end;                     // why its search ended, or that it goes on
  const char *tuned, *standard;        // schedules on one line: the best found, and the default
  // With compare_pairs, measured after tuning in one run: time of the default, and of one middle value for every knob,
  // over the tuned one's, and standard errors; 0 = could not be measured.
  double over_default, over_default_error, over_middle, over_middle_error;
} quern_tune_result;

typedef struct quern_tune_report {
  size_t size;                 // sizeof(quern_tune_report), set by the caller
  quern_tune_result *results;  // owned
  size_t count;
  const char *end;       // why the session ended; static
  bool cancelled;        // by the caller
  double expected;       // share of the run time that the best next batch is expected to save
  double seconds;        // that it took
  int tried, known;      // candidates in this session, and known from earlier ones
  int crossovers;        // token counts at which one variant takes over from another, moved
  bool has_settings;     // of the machine, for this model's steps: see quern_model_get_settings
  int threads_prefill, threads_decode;
  int64_t spin_us;       // these two as in quern_session_options
  int grain;
  int rejected;          // entries of the database that must not be used: edited, not legal, found to be bad later
  const char *first_reason;  // why the first one was, with its kernel; NULL = there is none
  int broken;            // kernels whose default schedule is wrong, crashes or hangs
  int threads;           // that schedules were found for
  bool usual_threads;    // those are what compile and run take by themselves
  char database[256];    // its path; empty = none
  char untuned[256];     // targets of the artifact that are GPUs, which are not tuned, with commas between them
  void *owned;
  int killed;            // candidates whose process was killed from outside twice: nothing is known of their code
} quern_tune_report;
void quern_tune_report_free(quern_tune_report *report);  // zeroed is harmless
// 0, or the code of a bug of quern (10), with what to do in *error, where a session has found the default schedule of a
// kernel to be wrong: an artifact compiled with it would be, too.
int quern_tune_verdict(const quern_tune_report *report, quern_error *error);

// Tunes a model file's or an artifact's kernels for CPUs on this machine. Errors: those of compiling, ARGUMENT (no kernel
// of that name; size), TARGET (the code does not run here), IO and FORMAT (the database). What was found before an error is kept.
int quern_tune(const char *path, const quern_tune_options *options, quern_tune_report *out, quern_error *error);

typedef struct quern_tuning_counts {
  size_t size;                       // sizeof(quern_tuning_counts), set by the caller
  int64_t records, marks, machines;  // candidates, how far kernels were tuned, measured machines
  int64_t rejected, known;           // edited entries left out; of an import: what was there already
} quern_tuning_counts;
// The database (NULL = the user's own) as a text file, one entry a line, and back: entries of both are there once. An
// import that `progress` (may be NULL) cancels adds nothing. Errors: IO, FORMAT, ARGUMENT (size), CANCELLED, NOMEM.
int quern_tuning_export(const char *tuning_db, const char *path, quern_tuning_counts *out, quern_error *error);
int quern_tuning_import(const char *tuning_db, const char *path, quern_progress_fn progress, void *progress_context,
                        quern_tuning_counts *out, quern_error *error);

// The targets known, one a line with its description. Static text; do not free.
const char *quern_targets(void);

// The target to compile for so that a GPU of this chip (quern_device_info.chip: "sm_89") runs the code: that of the newest
// chip that is not newer, with a NUL in `size` bytes at `out`. UNSUPPORTED where the chip is older than all of them.
int quern_gpu_target(const char *chip, char *out, size_t size, quern_error *error);

// The formats that quern_compile_options.quant may name, with ", " between them. Static text; do not free.
const char *quern_quant_formats(void);

const char *quern_version(void);  // "0.1.0"

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
