// What quern_verify for CPUs (verify.c) and for GPUs (verify_gpu.c) share.
#ifndef QUERN_FRONTEND_VERIFY_H
#define QUERN_FRONTEND_VERIFY_H

#include "autotune/recheck.h"
#include "frontend/quern.h"
#include "runtime/artifact.h"
#include "runtime/base/vec.h"
#include "runtime/device_cuda.h"

typedef struct verification {
  const char *path;
  const quern_verify_options *options;
  const qn_allocator *allocator;
  qn_diag *diag;
  qn_arena arena;
  qn_artifact artifact;
  qn_artifact view;  // of the program that is checked; not to be closed
  qn_str text;       // of its kernels
  const qn_art_code *code;
  void *image;  // mapped: a copy of its machine code
  size_t image_size;
  QN_VEC(qn_recheck_item) items;
  QN_VEC(const qn_art_variant *) variants;  // one an item
  qn_measured *results;                     // owned: one an item
  quern_verify_report report;
} verification;

// The kernel's first step; NULL = nobody calls it.
const qn_art_step *verify_step_of(const verification *v, uint32_t kernel);
// The kernel as text has it and its parameters as a step has them. out_facts may be NULL.
QN_CHECKED qn_status verify_read_subject(verification *v, uint32_t kernel, const qn_art_step *step, qn_subject *out,
                                         qn_pkernel *out_facts);
// Tells of a checked variant; false when nobody wants to go on.
bool verify_report(verification *v, const qn_art_variant *variant, const qn_measured *measured, uint64_t done,
                   uint64_t total);
// An error when some code was wrong.
QN_CHECKED qn_status verify_conclude(const verification *v);

// All of it on the GPU that the options name.
QN_CHECKED qn_status verify_on_gpu(verification *v);

#endif
