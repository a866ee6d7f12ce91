// The program of an artifact as the compiler had it when it was lowered: what checks and tunes kernels works on.
#ifndef QUERN_FRONTEND_ARTIFACT_PROGRAM_H
#define QUERN_FRONTEND_ARTIFACT_PROGRAM_H

#include "ir/program.h"
#include "runtime/artifact.h"

// The artifact's text of its kernels; UNSUPPORTED where it carries none.
QN_CHECKED qn_status quern_artifact_kernels_text(const qn_artifact *artifact, qn_str *out, qn_diag *diag);

// The names of its targets that are GPUs, with commas between them, cut at `size`; "" = none.
void quern_artifact_gpus(const qn_artifact *artifact, char *out, size_t size);

// A buffer's record as a program's; `layout` is of weights, and not among what the record says. What it points to is
// the artifact's. FORMAT for a type that there is not.
QN_CHECKED qn_status quern_artifact_buffer(const qn_artifact *artifact, uint32_t buffer, qn_layout layout, qn_pbuf *out,
                                           qn_diag *diag);

// Kernels without variants, buffers, steps and the symbols' largest values, in the arena; the artifact must outlive it.
QN_CHECKED qn_status quern_artifact_program(const qn_artifact *artifact, qn_arena *arena, qn_program **out,
                                            qn_diag *diag);

#endif
