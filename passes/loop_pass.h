// The loop passes: each takes a kernel and a schedule and changes the kernel in place. One file a pass.
// loop_passes.def lists them in the order in which loop_pipeline.c runs them.
//
// Loops are known by the base name of their variable (what stands before a '$'):
//   t  tokens (rows of activations)        n  panels of 16 output rows      l  the 16 lanes of a panel or partial sum
//   i  elements of an elementwise loop     k, kb  the reduction axis and its blocks
//   g  the lines of a block                pair  places of the order of rows by expert
//   m  tiles of tokens that share a block of weights
#ifndef QN_PASSES_LOOP_PASS_H
#define QN_PASSES_LOOP_PASS_H

#include "ir/gpu_schedule.h"
#include "ir/loop.h"
#include "ir/schedule.h"

typedef struct qn_loop_pass_context {
  qn_lbuild *build;             // whose kernel is changed
  const qn_schedule *schedule;  // borrowed
  qn_diag *diag;
  const qn_gpu_schedule *gpu;  // borrowed; of passes for GPUs, some of which need no lanes and groups yet; else NULL
} qn_loop_pass_context;

typedef qn_status (*qn_loop_pass_fn)(qn_loop_pass_context *context);

// Replaces symbol T by the constant it has in a variant made for one token count only. Not in loop_passes.def:
// lowering's caller runs it first (variant m1).
QN_CHECKED qn_status qn_pass_specialise(qn_loop_pass_context *context, qn_symbol symbol, int64_t value);

#define QN_LOOP_PASS(name, text) QN_CHECKED qn_status qn_pass_##name(qn_loop_pass_context *context);
#include "passes/loop_passes.def"
#undef QN_LOOP_PASS

typedef void (*qn_loop_dump_fn)(void *dump_context, const char *pass, const qn_lkernel *kernel);

// Runs the passes of loop_passes.def in order, each followed by qn_lkernel_verify and by `dump` with the pass's name,
// when that is not NULL. After a failure the kernel must not be used.
QN_CHECKED qn_status qn_loop_pipeline(qn_loop_pass_context *context, qn_loop_dump_fn dump, void *dump_context);

#endif
