// The artifact, model.qn: one file that holds code for several targets, weights in tile layout, the program that calls
// the code, the tokenizer and a summary. Little-endian. A reader treats it as hostile (artifact.c).
//
//   header | section table | sections, each aligned to 64 bytes (weights and code images to 4096)
//
// The writer is codegen/artifact_write.c. Any change of a record here raises QN_ARTIFACT_VERSION.
#ifndef QN_RUNTIME_ARTIFACT_H
#define QN_RUNTIME_ARTIFACT_H

#include "runtime/base/file.h"

#define QN_ARTIFACT_MAGIC "quern\r\n\032"  // 8 bytes: text transfers that change line ends destroy it visibly
#define QN_ARTIFACT_VERSION 6u
#define QN_ARTIFACT_PAGE 4096u
#define QN_ARTIFACT_SYMBOLS 7  // QN_SYM_COUNT of ir/type.h: none, T, R, P, B, G, S

typedef struct qn_art_header {
  char magic[8];
  uint32_t version;
  uint32_t section_count;
  uint64_t file_size;     // bytes; a shorter file is truncated
  uint64_t table_hash;    // qn_hash64 of the section table, seed QN_ARTIFACT_VERSION
} qn_art_header;

typedef enum qn_art_section_kind {
  QN_SECTION_PROGRAM = 1,    // one a kind of machine: qn_art_program and its arrays
  QN_SECTION_WEIGHTS = 2,    // packed parameters; checked against the hash only when asked
  QN_SECTION_CODE = 3,       // one a target: qn_art_code, its table, then the image at a page boundary
  QN_SECTION_TOKENIZER = 4,  // runtime/tokenizer.h
  QN_SECTION_SUMMARY = 5,    // text, `key = value` lines: where the model came from, numeric mode, sizes
  QN_SECTION_GRAPH = 6,      // text, one a program and of its index: the graph IR after fusion
  QN_SECTION_KERNELS = 7,    // text, one a program and of its index: the program, loop IR and schedules
  QN_SECTION_CHAT = 8,       // the chat templates (runtime/chat.h)
  QN_SECTION_SIGNATURE = 32,  // qn_art_signature
} qn_art_section_kind;

typedef struct qn_art_section {
  uint32_t kind;    // qn_art_section_kind; unknown ones are skipped
  uint32_t index;   // among those of its kind
  uint64_t offset;  // from the file's start
  uint64_t size;    // bytes
  uint64_t hash;    // qn_hash64 of the section's bytes, seed = kind
} qn_art_section;

// PROGRAM section: this record, then the arrays in the order of the counts, each aligned to 8 bytes:
// buffers, kernels, slices, variants, steps, operands (u32), strings (NUL-terminated, offsets into this blob).
//
// CPUs and GPUs want different kernels and have each their own program: buffers, kernels, steps, plans and arena. Both
// are over the same weights. An artifact has at most one for each; where it has both, that for CPUs has index 0.
//
// A plan is what one target, or several, want of every kernel: its variants with their row counts and extents. Kernels,
// steps, buffers and memory are the same in all plans. slices has kernel_count records a plan, one plan after another;
// together they name every variant once and in order, so a plan's variants are neighbours.
typedef enum qn_art_machine { QN_ART_CPU, QN_ART_GPU, QN_ART_MACHINE_COUNT } qn_art_machine;

typedef struct qn_art_program {
  uint32_t buffer_count, kernel_count, plan_count, variant_count, step_count, operand_count, string_bytes;
  uint32_t page_keys;   // keys a KV page holds
  uint32_t context_tokens;  // the most tokens a sequence may have (learned positions end there); 0 = what P allows
  uint32_t machine;     // qn_art_machine
  uint64_t arena_bytes;
  uint64_t own_bytes;   // of the memory that each thread has of its own; GPU: 0
  int64_t symbol_max[QN_ARTIFACT_SYMBOLS];  // the largest values a step may use; 0 = any
  uint32_t name;        // string
  // Token ids are below it: the width of the output "logits", or of an encoder (output "embedding") the rows of its
  // table; 0 when the program takes no tokens.
  uint32_t vocab_size;
  uint32_t start;       // 1 + the token that a decoder's text begins with; 0 = none: a text continues what it is given
  uint32_t reserved;
} qn_art_program;

typedef enum qn_art_buffer_kind { QN_ART_ARENA, QN_ART_WEIGHT, QN_ART_CACHE, QN_ART_INPUT } qn_art_buffer_kind;

typedef struct qn_art_buffer {
  uint32_t kind;     // qn_art_buffer_kind
  uint32_t name;     // string: input's, output's, cache kind's or tensor's name; 0 = none
  uint64_t offset;   // ARENA: into the arena; WEIGHT: into the section
  uint64_t bytes;    // ARENA, WEIGHT: size; CACHE: bytes of one page; INPUT: bytes at the largest symbol values
  uint32_t layer;    // CACHE
  uint32_t output;   // ARENA: 1 = an output the host may read by name
  uint32_t of_source;  // CACHE: 1 = keys are those of a source's tokens (S), not of the sequence's own
  uint32_t window;     // CACHE: keys that a token sees of it at most, its own the last; 0 = all before it
  uint32_t dtype;    // qn_dtype of the values, for hosts
  uint32_t rank;
  int64_t dims[4];   // value of each dimension: constant, or factor of its symbol
  uint32_t symbols[4];
  int64_t row_pitch; // ARENA: elements from row to row
  uint64_t own_offset, own_bytes;  // ARENA: where it is, when it has one row, in memory of each thread; 0 bytes = not
} qn_art_buffer;

typedef struct qn_art_kernel {
  uint32_t name;
  uint32_t param_count;
  uint32_t rows_symbol;  // which symbol chooses the variant; 0 = the only one
  uint32_t reserved;
} qn_art_kernel;

// A kernel's variants in a plan.
typedef struct qn_art_slice {
  uint32_t first_variant, variant_count;
} qn_art_slice;

typedef struct qn_art_variant {
  int64_t rows_min, rows_max;  // inclusive
  uint32_t name;               // the symbol's name, for profiles
  uint32_t extent_symbol;      // extent of the parallel loop: value * symbol, or value when 0
  int64_t extent_value;
  uint32_t in_parts;           // 1 = its loop walks what chained steps share in equal parts
  uint32_t extent_rows;        // GPUs: 2 or more = an iteration does so many of the symbol: value * ceil(symbol / rows)
} qn_art_variant;

// How a step may run with its neighbours without a barrier between them. A prologue is never chained, and neither is
// the step after it. GPU: none; steps are done one after another.
typedef enum qn_art_link {
  QN_ART_LINK_NONE,
  QN_ART_LINK_PROLOGUE,  // where the buffers it writes have one row, each thread makes its own before the next step
  QN_ART_LINK_CHAINED,   // part by part after the step before it, where both run variants in parts
} qn_art_link;

typedef struct qn_art_step {
  uint32_t kernel, first_operand, operand_count;
  uint32_t barrier;  // 1 = the work of all steps before this one is waited for first, unless its link spares that
  uint32_t loc;      // string
  uint32_t link;     // qn_art_link
} qn_art_step;

// CODE section: this record, a table with a record for each variant of the plan, then the image at image_offset (a
// multiple of QN_ARTIFACT_PAGE from the section's start). For CPUs the table holds offsets (u64) of the functions in
// the image, which is machine code. For GPUs it holds qn_art_launch, and the image is a cubin (an ELF file of cubin_size
// bytes) and behind it the same code as PTX text (ptx_size bytes with the NUL at its end); one of them may be missing.
// Functions there have the names of the variants.
typedef enum qn_art_arch { QN_ART_X86_64, QN_ART_AARCH64, QN_ART_CUDA, QN_ART_RISCV64, QN_ART_ARCH_COUNT } qn_art_arch;

typedef struct qn_art_code {
  char target[128];
  char required[512];   // comma-separated CPU features (runtime/cpu_features.h); CUDA: "sm_90", the least chip
  uint32_t arch;        // qn_art_arch
  uint32_t plan;        // of the program
  uint32_t variant_count;
  uint32_t program;     // index of its PROGRAM section
  uint64_t image_offset, image_size;
  uint64_t cubin_size, ptx_size;  // CUDA: together image_size; otherwise 0
} qn_art_code;

// How a GPU's kernel is started: blocks of lanes * groups threads, each group for one iteration of the parallel loop,
// so that blocks = ceil(extent / groups), and at least 1. Its parameters are a 64-bit pointer for each of the kernel's,
// then the symbols T, R, P, B, G, S as 32-bit integers.
typedef struct qn_art_launch {
  uint32_t lanes, groups;
  uint32_t shared_bytes;  // of dynamic shared memory that a block needs
  uint32_t reserved;
} qn_art_launch;

#define QN_ART_BLOCK_THREADS_MAX 1024u
#define QN_ART_SHARED_BYTES_MAX  (228u << 10)  // no chip has more
// SIGNATURE section (runtime/signature.h): Ed25519ph of the whole file, the 64 bytes of the signature taken as zeros. The
// section's hash in the table is 0, since the bytes are known only when all others are.
#define QN_ART_KEY_BYTES       32
#define QN_ART_SIGNATURE_BYTES 64
typedef struct qn_art_signature {
  uint8_t public_key[QN_ART_KEY_BYTES];
  uint8_t signature[QN_ART_SIGNATURE_BYTES];
} qn_art_signature;

// --- reading

// A file and one of its programs.
typedef struct qn_artifact {
  qn_mapping mapping;  // owned; of a view borrowed
  const char *path;    // borrowed: for messages
  const qn_art_section *sections;
  uint32_t section_count;
  uint32_t program_index;  // of the program that the following are of
  const qn_art_program *program;
  const qn_art_buffer *buffers;
  const qn_art_kernel *kernels;
  const qn_art_slice *slices;  // of all plans
  const qn_art_variant *variants;
  const qn_art_step *steps;
  const uint32_t *operands;
  const char *strings;
  const uint8_t *weights;  // in the mapping, or in the copy
  uint64_t weights_size;
  void *copy;        // mapped, owned, of a view borrowed: NULL = none (runtime/weights.h)
  size_t copy_size;
} qn_artifact;

// Checks everything but the weights' hash and the signature, in all programs, and takes the first program, which is that
// for CPUs where there is one. `path` must outlive the artifact.
QN_CHECKED qn_status qn_artifact_open(qn_artifact *artifact, const char *path, qn_diag *diag);
// Takes over the mapping in every case.
QN_CHECKED qn_status qn_artifact_open_mapping(qn_artifact *artifact, qn_mapping mapping, const char *name,
                                              qn_diag *diag);
void qn_artifact_close(qn_artifact *artifact);
// The same file with its program for CPUs or for GPUs, borrowed from an open artifact and not to be closed; false where
// it has none. Weights are where they are in `artifact` now.
bool qn_artifact_view(const qn_artifact *artifact, qn_art_machine machine, qn_artifact *out);
// The index-th section of a kind, or NULL; *out_size in bytes.
const void *qn_artifact_section(const qn_artifact *artifact, qn_art_section_kind kind, uint32_t index,
                                size_t *out_size);
// A plan's slices, one a kernel; its variants are *out_count from *out_first on. `plan` must be one of plan_count.
const qn_art_slice *qn_artifact_plan(const qn_artifact *artifact, uint32_t plan, uint32_t *out_first,
                                     uint32_t *out_count);
// Iterations of a variant's parallel loop for the symbols' values; INT64_MAX where they are too many to count.
int64_t qn_artifact_extent(const qn_art_variant *variant, const int64_t *symbols);
// The index-th code section, or NULL.
const qn_art_code *qn_artifact_code_at(const qn_artifact *artifact, uint32_t index);
// Of code for CUDA: how each variant of its plan is launched; and the compute capability that it needs (90).
const qn_art_launch *qn_art_code_launches(const qn_art_code *code);
int qn_art_code_sm(const qn_art_code *code);
// Numbers of an embedding that an encoder makes of a text: the width of its output "embedding", f32 [R, width]. 0 = the
// program is no encoder: it has no such output, or logits.
int64_t qn_artifact_embedding_size(const qn_artifact *artifact);
// The most tokens a sequence may hold in this program; 0 = any number.
int64_t qn_artifact_context_max(const qn_artifact *artifact);
// The keys that a token sees at most in any layer, its own the last; 0 = one of them sees all.
int64_t qn_artifact_window(const qn_artifact *artifact);
// Where some layers have windows and others see all, and the program has a block table of their own for those that do (input
// `window_table`): the keys that a token sees at most in one of them. 0 = there is none, or no such table; nor beside an
// encoder.
int64_t qn_artifact_ring(const qn_artifact *artifact);
// Paths that a tree of guesses may have in a step of up to `rows` wanted tokens beside so many sequences: each takes a row
// of the block table. 0 where the program does not take `copies`, which such trees need.
int64_t qn_artifact_paths(const qn_artifact *artifact, int64_t rows, int64_t sequences);
// Reads all weights and compares with the section's hash.
QN_CHECKED qn_status qn_artifact_check_weights(const qn_artifact *artifact, qn_diag *diag);

#endif
