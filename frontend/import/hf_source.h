// A model of the Hugging Face world as a template sees it: keys of config.json, tensors of safetensors files.
#ifndef QN_IMPORT_HF_SOURCE_H
#define QN_IMPORT_HF_SOURCE_H

#include "frontend/import/bind.h"
#include "frontend/import/hf_folder.h"

// Checks what concerns all architectures: UNSUPPORTED for a quantisation that quern does not read. `model` is borrowed.
// The architecture is config.json's model_type.
QN_CHECKED qn_status qn_hf_source_open(qn_hf_model *model, qn_model_source *out, qn_diag *diag);

#endif
