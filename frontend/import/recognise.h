// What kind of a model a path is, by its first bytes.
#ifndef QN_IMPORT_RECOGNISE_H
#define QN_IMPORT_RECOGNISE_H

#include "runtime/base/diag.h"

typedef enum qn_model_kind {
  QN_MODEL_GGUF,
  QN_MODEL_JSON,         // a graph of the user's own
  QN_MODEL_FOLDER,       // of the Hugging Face world
  QN_MODEL_SAFETENSORS,  // one file of it
} qn_model_kind;

// UNSUPPORTED for what is none of them: the text says what it seems to be and what to do. IO when it cannot be read.
QN_CHECKED qn_status qn_recognise(const char *path, qn_model_kind *out, qn_diag *diag);

#endif
