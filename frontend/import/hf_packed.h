// Checkpoints whose matrices are packed int4 (AWQ, GPTQ): for a matrix "x.weight" there are "x.qweight", codes in 32-bit
// words, "x.scales", one a group of values along K, and "x.qzeros", whole zero points. They become weights of a format
// that holds scale * (code - zero) without loss.
#ifndef QN_IMPORT_HF_PACKED_H
#define QN_IMPORT_HF_PACKED_H

#include "frontend/import/hf_folder.h"
#include "ir/program.h"

typedef struct qn_hf_packing qn_hf_packing;  // a method: how its words are laid out

typedef struct qn_hf_packed {
  const qn_hf_packing *packing;  // NULL: the checkpoint's weights are plain
  const qn_safetensors *files;   // borrowed
  int64_t group_values;          // along K; 0: all of K
  int zero_plus;                 // added to zero points as they are stored
  qn_map weights;                // "x.weight" → 1, for each x.qweight
  const char **names;            // arena: by place in files->tensors what a template sees there; NULL = part of another
} qn_hf_packed;

// Reads quantization_config. UNSUPPORTED for a method, a number of bits or a variant that quern does not read, by its
// name. qn_hf_packed_deinit releases what the arena does not hold, after failures too.
QN_CHECKED qn_status qn_hf_packed_open(qn_hf_packed *out, const qn_hf_model *model, qn_arena *arena, qn_diag *diag);
void qn_hf_packed_deinit(qn_hf_packed *packed);

// Whether the matrix "x.weight" is packed.
bool qn_hf_packed_has(const qn_hf_packed *packed, const char *name);
// Its format and shape, after the shapes and types of its parts have been held against each other; no data.
QN_CHECKED qn_status qn_hf_packed_find(const qn_hf_packed *packed, const char *name, qn_tensor_data *out, qn_diag *diag);
// Its bytes in that format.
QN_CHECKED qn_status qn_hf_packed_load(const qn_hf_packed *packed, const char *name, void *out, qn_diag *diag);

#endif
