// What a folder of the Hugging Face world holds for us: config.json, and the weights in safetensors files. What it has
// instead is refused by name, with what to do.
#ifndef QN_IMPORT_HF_FOLDER_H
#define QN_IMPORT_HF_FOLDER_H

#include "frontend/import/hf_config.h"
#include "frontend/import/safetensors.h"

typedef struct qn_hf_model {
  const char *name;       // arena: the path it was opened from, for messages
  const char *folder;     // arena: where its other files are
  qn_hf_config config;    // config.json
  qn_safetensors *files;  // owned
} qn_hf_model;

// Opens a folder, or a safetensors file with config.json beside it. qn_hf_model_close releases what the arena does not
// hold, after failures too. Errors: FORMAT (a file that is missing or damaged), UNSUPPORTED (weights in pickles, ONNX,
// HDF5, ...), and those of the readers.
QN_CHECKED qn_status qn_hf_model_open(qn_hf_model *out, const char *path, qn_arena *arena, qn_diag *diag);
void qn_hf_model_close(qn_hf_model *model);

#endif
