// A GGUF file as a template sees it: metadata keys and tensors.
#ifndef QN_IMPORT_GGUF_SOURCE_H
#define QN_IMPORT_GGUF_SOURCE_H

#include "frontend/import/bind.h"
#include "frontend/import/gguf.h"

// `gguf` and `architecture` are borrowed. gguf NULL: a source with neither keys nor tensors, called `name`. The keys that
// must be read are those that begin with "<architecture>.".
qn_model_source qn_gguf_source(qn_gguf *gguf, const char *name, const char *architecture);

#endif
