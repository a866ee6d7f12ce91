// Writes the artifact that runtime/artifact.h describes.
#ifndef QN_CODEGEN_ARTIFACT_WRITE_H
#define QN_CODEGEN_ARTIFACT_WRITE_H

#include "codegen/codegen.h"
#include "ir/program.h"
#include "runtime/artifact.h"

// A plan: every kernel of a program with the variants that the schedule pass gave it for one target, or for several whose
// schedules are the same. All of it in the program's arena.
typedef struct qn_program_plan {
  const qn_pkernel *kernels;     // one a kernel of the program
  const qn_lkernel **functions;  // those of all variants: variants of kernel 0, then of kernel 1, ...
  size_t function_count;
} qn_program_plan;

// The program's variants as they are now, kept: the pass may then run for another target.
QN_CHECKED qn_status qn_program_plan_take(const qn_program *program, qn_program_plan *out, qn_diag *diag);
// Whether two plans of one program have the same variants with the same schedules.
bool qn_program_plan_equal(const qn_program *program, const qn_program_plan *a, const qn_program_plan *b);

// A program for one kind of machine.
typedef struct qn_artifact_program {
  qn_art_machine machine;
  qn_program *program;           // memory planned; the writer sets offsets of weights
  const qn_program_plan *plans;  // at least one
  size_t plan_count;
  const char *graph_text, *kernels_text;  // NULL = none
} qn_artifact_program;

// Machine code for one target: a function for each of its plan.
typedef struct qn_artifact_code {
  const qn_target *target;  // borrowed
  const qn_code *code;      // borrowed
  uint32_t program, plan;   // index into the spec's programs, and into that one's plans
} qn_artifact_code;

typedef struct qn_artifact_spec {
  // At least one, at most one for each kind of machine, in order. A parameter that several pack in one way is written
  // once.
  const qn_artifact_program *programs;
  size_t program_count;
  const qn_weight_source *weights;    // where packed parameters come from
  const qn_artifact_code *codes;      // may be none (code comes from the JIT)
  size_t code_count;
  const void *tokenizer;              // NULL = none
  size_t tokenizer_size;
  const void *chat;                   // runtime/chat.h; NULL = none
  size_t chat_size;
  const char *summary;                // NULL = none
  uint32_t vocab_size;
  uint32_t context_tokens;            // see qn_art_program
  uint32_t start;                     // likewise
  // Leaves room for a signature by this key (QN_ART_KEY_BYTES of it); NULL = none. The caller fills it in, at
  // signature_offset, once the file is written.
  const uint8_t *public_key;
  uint64_t signature_offset;          // out
  // Called as weights are packed, when not NULL; returning false cancels.
  bool (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes);
  void *progress_context;
} qn_artifact_spec;

// The kernels of the program's variants as they are now: variants of kernel 0, then of kernel 1, ... Array from the
// program's arena; NULL when out of memory.
const qn_lkernel **qn_program_variants(const qn_program *program, size_t *out_count);

// Writes the packed weights alone, from the next page of `writer` on, and sets their offsets in the programs from there.
// *out_hash is what an artifact's section of them would have.
QN_CHECKED qn_status qn_artifact_write_weights(qn_file_writer *writer, const qn_artifact_spec *spec,
                                               const qn_allocator *allocator, uint64_t *out_offset, uint64_t *out_size,
                                               uint64_t *out_hash, qn_diag *diag);

// Writes everything through `writer`, which the caller opens, commits or abandons.
QN_CHECKED qn_status qn_artifact_write(qn_file_writer *writer, qn_artifact_spec *spec, const qn_allocator *allocator,
                                       qn_diag *diag);

#endif
