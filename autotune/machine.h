// The machine's roofline, measured by kernels in loop IR that go through the code generator like any other: how fast
// memory is read, and how fast the instructions at the heart of the kernels (fma, and the forms of dot4) are done.
#ifndef QN_AUTOTUNE_MACHINE_H
#define QN_AUTOTUNE_MACHINE_H

#include "codegen/target.h"
#include "ir/loop.h"
#include "runtime/executor.h"

// Kernels to measure with. The best of those of one kind is the machine's speed: which form suits it is not known
// beforehand.
typedef enum qn_probe {
  QN_PROBE_READ_0,   // a plain read of memory, without prefetch
  QN_PROBE_READ_4K,  // prefetched so many bytes ahead
  QN_PROBE_READ_8K,
  QN_PROBE_STREAM_0,    // a read of memory by blocks of weights, as a product's of one token: without prefetch
  QN_PROBE_STREAM_2K,   // prefetched so many bytes ahead
  QN_PROBE_STREAM_FAR,  // of three tokens, for which that is: 8 KiB ahead, into the second cache
  QN_PROBE_READ_L1,     // of what a cache holds
  QN_PROBE_READ_L2,
  QN_PROBE_READ_L3,
  QN_PROBE_FMA,             // chains of f32 multiply-adds
  QN_PROBE_DOT4,            // chains of dot4 on unsigned bytes
  QN_PROBE_DOT4S,           // chains of dot4s: signed bytes
  QN_PROBE_DOT4_NIBBLE,     // dot4 on codes of 4 bits, where a target may do with less
  QN_PROBE_DOT2_NIBBLE,     // chains of dot2 on codes of 4 bits, folded as often as 16 bits want it
  QN_PROBE_BF16,            // f32 multiply-adds with an operand that is widened from bf16, as in kernels
  QN_PROBE_VECTOR,          // plain integer operations, two a link
  QN_PROBE_FMA_LATENCY,     // one chain: a link takes as long as an operation until its result is there
  QN_PROBE_VECTOR_LATENCY,  // the same of two plain integer operations
  QN_PROBE_COUNT
} qn_probe;

// Makes the kernels for a target, QN_PROBE_COUNT of them, verified, in the arena.
QN_CHECKED qn_status qn_machine_kernels(const qn_target *target, qn_arena *arena, const qn_lkernel **out,
                                        qn_diag *diag);

typedef struct qn_machine qn_machine;

// `entries` are the machine code of the kernels for that target, in their order; borrowed. Takes 256 MiB twice, on huge
// and on small pages.
QN_CHECKED qn_status qn_machine_create(const qn_target *target, const qn_kernel_entry *entries,
                                       const qn_allocator *allocator, qn_machine **out, qn_diag *diag);
void qn_machine_destroy(qn_machine *machine);  // NULL is harmless

typedef enum qn_rate {
  QN_RATE_READ,        // bytes a second, on huge pages as far as the system gives them
  QN_RATE_READ_SMALL,  // bytes a second, on small pages
  QN_RATE_FP32,        // f32 operations a second: a multiply-add is two
  QN_RATE_INT8,        // 8-bit integer operations a second: a multiply-add is two. By whole bytes
  QN_RATE_NARROW,      // the same by codes of 4 bits
  QN_RATE_COUNT
} qn_rate;
// One measurement with all of `threads`: the best of the kernels of that kind, each called once (10 to 100 ms in all).
// By the clock on the wall, or by the process's CPU time over the number of threads. Noise is the caller's to average
// out.
double qn_machine_measure(qn_machine *machine, qn_threads *threads, qn_rate rate, bool cpu_time);
// One short measurement of one probe by the clock on the wall (some milliseconds): bytes a second, operations a second
// (of dot products 8-bit ones), or links a second of the single chain of a latency. 0 for a cache that there is not.
// *out_share (may be NULL) is the part of the time that the threads had their cores, of which other programs take.
double qn_machine_probe(qn_machine *machine, qn_threads *threads, qn_probe probe, bool small_pages, double *out_share);
// Bytes of the memory for QN_RATE_READ that the system put on huge pages.
uint64_t qn_machine_huge_bytes(const qn_machine *machine);

#endif
