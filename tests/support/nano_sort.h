// gpt-nano-sort (shared/models): a trained minGPT that sorts six letters, kept as JSON with base64 values. Reads such
// files, and writes the model as GGUF in the names of the gpt2 template. A test that uses it is skipped without it.
#ifndef QN_TESTS_SUPPORT_NANO_SORT_H
#define QN_TESTS_SUPPORT_NANO_SORT_H

#include <stdint.h>

#include "runtime/base/arena.h"
#include "runtime/base/diag.h"

#define QN_NANO_SORT_MODEL    "models/gpt-nano-sort/gpt-nano-sort-model.json"  // for qn_test_shared
#define QN_NANO_SORT_PARTIALS "models/gpt-nano-sort/gpt-nano-sort-t0-partials.json"

// An f32 tensor, row-major.
typedef struct qn_nano_tensor {
  int rank;
  int64_t dims[4];
  size_t count;
  float *values;  // arena
} qn_nano_tensor;

typedef struct qn_nano_file qn_nano_file;
// Reads and parses either file. Close it with qn_nano_close (NULL is harmless).
QN_CHECKED qn_status qn_nano_open(const char *path, qn_nano_file **out, qn_diag *diag);
void qn_nano_close(qn_nano_file *file);
// A tensor by its name: "transformer.wte.weight" of the model, "lm_head" or "block0" of the partials. The partials'
// "idx" holds the token ids, (3, 11), as floats.
QN_CHECKED qn_status qn_nano_get(qn_nano_file *file, const char *name, qn_nano_tensor *out, qn_diag *diag);

// Converts the model file into a GGUF file: architecture gpt2, 3 layers, 3 heads, width 48, vocabulary 3, context 11,
// f32, no tokenizer.
QN_CHECKED qn_status qn_nano_sort_convert(const char *json_path, const char *gguf_path, qn_diag *diag);

#endif
