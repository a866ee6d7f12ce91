// A model of the Hugging Face world as a template sees it: keys of config.json, tensors of safetensors files.
#ifndef QN_IMPORT_HF_SOURCE_H
#define QN_IMPORT_HF_SOURCE_H

#include "frontend/import/bind.h"
#include "frontend/import/hf_packed.h"

typedef struct qn_hf_source {
  const qn_hf_model *model;  // borrowed
  qn_hf_packed packed;
} qn_hf_source;

// Looks at how the weights are stored: UNSUPPORTED for a quantisation that quern does not read. qn_hf_source_close
// releases what the arena does not hold, after failures too.
QN_CHECKED qn_status qn_hf_source_open(qn_hf_source *out, const qn_hf_model *model, qn_arena *arena, qn_diag *diag);
void qn_hf_source_close(qn_hf_source *source);

// The source, which points at `hf`. Its architecture is config.json's model_type, or that of the
// part of a model that a key tells; FORMAT where there is none.
QN_CHECKED qn_status qn_hf_source_get(qn_hf_source *hf, qn_model_source *out, qn_diag *diag);

#endif
