// Lays out a small artifact by hand, without the compiler: buffers, kernels, steps and code are added one by one, then
// everything is written in the file's format with its checksums.
#ifndef QN_TESTS_SUPPORT_ARTIFACT_BUILDER_H
#define QN_TESTS_SUPPORT_ARTIFACT_BUILDER_H

#include "runtime/artifact.h"
#include "runtime/base/str.h"
#include "runtime/base/vec.h"

enum { QN_TEST_SYM_NONE, QN_TEST_SYM_T, QN_TEST_SYM_R, QN_TEST_SYM_P, QN_TEST_SYM_B, QN_TEST_SYM_G, QN_TEST_SYM_S };
enum { QN_TEST_F32 = 0, QN_TEST_I32 = 3 };  // qn_dtype
enum { QN_TEST_MAX_CODES = 4 };

typedef struct qn_test_code {
  qn_art_code head;
  const void *image;        // borrowed
  const void *table;  // borrowed: an offset, or a launch, for each variant of the plan (head.plan of head.program)
} qn_test_code;

typedef struct qn_test_artifact {
  qn_art_program head;
  QN_VEC(qn_art_buffer) buffers;
  QN_VEC(qn_art_kernel) kernels;
  QN_VEC(qn_art_slice) slices;  // of all plans, the first begun with the kernels
  QN_VEC(qn_art_variant) variants;
  QN_VEC(qn_art_step) steps;
  QN_VEC(uint32_t) operands;
  qn_buf strings, weights;
  qn_test_code codes[QN_TEST_MAX_CODES];
  size_t code_count;
  qn_str tokenizer, chat, summary;  // borrowed; empty = none
  // Borrowed: what has the artifact's second program, over the same weights; NULL = none. Of it buffers, kernels,
  // slices, variants, steps, operands and strings count.
  const struct qn_test_artifact *second;
  const qn_art_signature *signature;  // borrowed; NULL = none
} qn_test_artifact;

// These helpers are also for programs that are no Check tests: what goes wrong in them prints `what` and aborts.
void qn_test_need(bool condition, const char *what);

// Page size 16 keys, name "test".
void qn_test_artifact_init(qn_test_artifact *a);
void qn_test_artifact_deinit(qn_test_artifact *a);

// Each gives the index of what it added.
uint32_t qn_test_artifact_string(qn_test_artifact *a, const char *text);
// i32 with these symbols as dimensions (rank 1 when the second is NONE).
uint32_t qn_test_artifact_input(qn_test_artifact *a, const char *name, uint32_t symbol, uint32_t second_symbol);
uint32_t qn_test_artifact_cache(qn_test_artifact *a, const char *kind, uint32_t layer, uint64_t page_bytes);
uint32_t qn_test_artifact_weight(qn_test_artifact *a, const char *name, const void *data, size_t size);
// f32 [symbol, columns] with room for `rows` rows; an output when it has a name.
uint32_t qn_test_artifact_arena(qn_test_artifact *a, const char *name, uint32_t symbol, int64_t rows, int64_t columns);
uint32_t qn_test_artifact_kernel(qn_test_artifact *a, const char *name, uint32_t param_count, uint32_t rows_symbol);
// Another plan: from here on qn_test_artifact_variant_of gives each kernel, in order, its variants in it. No kernel may
// be added afterwards.
uint32_t qn_test_artifact_plan(qn_test_artifact *a);
// A variant of a kernel in the plan begun last; of the kernel added last.
uint32_t qn_test_artifact_variant_of(qn_test_artifact *a, uint32_t kernel, int64_t rows_min, int64_t rows_max,
                                     uint32_t extent_symbol, int64_t extent_value);
uint32_t qn_test_artifact_variant(qn_test_artifact *a, int64_t rows_min, int64_t rows_max, uint32_t extent_symbol,
                                  int64_t extent_value);
// As many operands as the kernel has parameters.
void qn_test_artifact_step(qn_test_artifact *a, uint32_t kernel, bool barrier, const uint32_t *operands);
void qn_test_artifact_code(qn_test_artifact *a, const char *target, const char *required, uint32_t arch,
                           const void *image, size_t image_size, const uint64_t *offsets);
// For GPUs: of the program whose head.machine says so, number `program`; *image is to hold the cubin and, behind it,
// the PTX (sizes may be 0).
void qn_test_artifact_cuda(qn_test_artifact *a, const char *target, const char *required, uint32_t program,
                           const void *image, size_t cubin_size, size_t ptx_size, const qn_art_launch *launches);

// The file's bytes, from qn_allocator_default.
void qn_test_artifact_build(const qn_test_artifact *a, qn_buf *out);
// Makes every checksum fit again after bytes were changed. Harmless for bytes that are no artifact.
void qn_test_artifact_rehash(uint8_t *data, size_t size);
// Fresh pages with a copy of the bytes.
qn_mapping qn_test_artifact_map(const void *data, size_t size);

// Code of one kernel for this machine: stores i to buffers[0][i] (i32) for i in [begin, end). NULL where there is none.
const void *qn_test_machine_code(size_t *out_size);

#endif
